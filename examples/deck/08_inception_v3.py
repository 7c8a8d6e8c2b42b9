"""Inception-v3: Rethinking the Inception Architecture.

Table 1 row by row, the modules of figures 5, 6, 7 and 10 drawn with their shapes, what halving a grid costs, and the
training recipe: label smoothing, RMSProp, clipping.
"""

import marimo

app = marimo.App(width="medium", app_title="Inception-v3")


@app.cell(hide_code=True)
def _():
    from functools import partial

    import marimo as mo
    import numpy as np

    from inception_np import (
        Concat,
        Conv2D,
        ConvBNReLU,
        Linear,
        MaxPool2D,
        RMSProp,
        Sequential,
        cast,
        create_model,
        softmax_cross_entropy,
        summary,
    )
    from inception_np.kernels.clip import clip_norm
    from inception_np.layer import walk
    from inception_np.layers import loss as losses
    from inception_np.learn.count import depth
    from inception_np.learn.diagram import diagram
    from inception_np.learn.slide import claim, code, figure, table
    from inception_np.models.inception_v3 import (
        FIGURE_5,
        FIGURE_7,
        REDUCTION_1,
        figure_5,
        figure_6,
        figure_7,
        figure_8,
        figure_10,
        inception_v2,
        inception_v3,
    )
    from inception_np.training.schedules import exponential

    rng = np.random.default_rng(0)
    conv = partial(ConvBNReLU, rng=rng)
    return (
        Concat,
        Conv2D,
        ConvBNReLU,
        FIGURE_5,
        FIGURE_7,
        Linear,
        MaxPool2D,
        REDUCTION_1,
        RMSProp,
        Sequential,
        cast,
        claim,
        clip_norm,
        code,
        conv,
        create_model,
        depth,
        diagram,
        exponential,
        figure,
        figure_10,
        figure_5,
        figure_6,
        figure_7,
        figure_8,
        inception_v2,
        inception_v3,
        losses,
        mo,
        np,
        partial,
        softmax_cross_entropy,
        summary,
        table,
        walk,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    # Inception-v3

    *Rethinking the Inception Architecture for Computer Vision* has one name for several networks.

    - **Table 1** is an outline: sizes, and which figure a module follows. The widths inside the modules are not
      printed. `inception_v2` is this table to the letter.
    - **Inception-v3** is the last line of Table 3: the same modules, a batch-normalised auxiliary head and a training
      recipe. Its widths are known from the released network. `inception_v3` is that one.
    """)
    return


@app.cell(hide_code=True)
def _(create_model, mo, summary):
    v2, v3 = create_model("inception_v2"), create_model("inception_v3")
    letter, released = summary(v2), summary(v3)
    mo.show_code()
    return letter, released, v2, v3


@app.cell(hide_code=True)
def _(letter, mo, released, table):
    def _sizes(shown):
        rows = [
            (r.name, "x".join(map(str, r.output)), r.printed, r.params, r.macs) for r in shown.rows
        ]
        return table(("stage", "gives", "Table 1 prints", "parameters", "multiply-adds"), rows)

    mo.vstack(
        [
            mo.md("""
            ## Table 1, row by row

            The table prints what goes *into* a row. Here stands what comes *out*, which is the next row's input.
            """),
            mo.accordion(
                {
                    "Table 1 to the letter (inception_v2)": _sizes(letter),
                    "As released (inception_v3)": _sizes(released),
                }
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(figure, letter, mo, released):
    _drawn, (_left, _right) = figure(9.5, 4.2, 2)
    for _ax, _shown, _name in (
        (_left, letter, "Table 1 to the letter"),
        (_right, released, "as released"),
    ):
        _rows = _shown.rows[:-1]
        _ax.barh([r.name for r in _rows], [r.output[0] for r in _rows], color="#6fa8dc")
        _ax.invert_yaxis()
        _ax.tick_params(axis="y", labelsize=7.5)
        _ax.set(title=_name, xlabel="height of the grid", xlim=(0, 205))
        for _i, _r in enumerate(_rows):
            _ax.text(
                _r.output[0] + 3, _i, f"{_r.output[0]} x {_r.output[2]}", va="center", size=7.5
            )
    mo.vstack([_drawn, mo.md("Each bar: the height of a grid, with its channels beside it.")])
    return


@app.cell(hide_code=True)
def _(claim, code, inception_v3, released):
    _stages = ("Conv2d", "MaxPool", "Mixed_6a", "Mixed_7a", "AvgPool")
    _grids = [
        released.input[0],
        *(r.output[0] for r in released.rows if r.name.startswith(_stages)),
    ]
    claim("re.6", _grids, code(inception_v3, "Conv2d_1a"))
    return


@app.cell(hide_code=True)
def _(Conv2D, claim, code, inception_v2, inception_v3, mo, released, v2, v3):
    _before = (1, 35, 35, 192)
    _bare = Conv2D(192, 288, 3, pad="valid").out_shape(_before)
    _padded = v2.trunk.layers["conv_6"].out_shape(_before)
    _layers = v3.trunk.layers
    _stem = [_layers[name].conv for name in ("Conv2d_3b_1x1", "Conv2d_4a_3x3")]
    mo.vstack(
        [
            mo.md("### Where the table contradicts itself, or the released network"),
            claim("deck.34", (_bare[1], _padded[1]), code(inception_v2, "padded, whatever")),
            claim(
                "deck.37",
                [n for c in _stem for n in (c.kernel[0], c.stride[0])],
                code(inception_v3, "Conv2d_3b"),
            ),
            claim(
                "deck.35",
                [r.output[2] for r in released.rows if r.output[0] == 35 and "Mixed" in r.name],
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(claim, code, create_model, inception_v2, letter, mo, released, summary, v3):
    _rows = list(zip(released.rows, released.rows[1:], strict=False))
    _keep = sum(a.output[0] == b.output[0] == 17 for a, b in _rows)
    _halve = sum(a.output[0] == 35 and b.output[0] == 17 for a, b in _rows)
    _five = create_model("inception_v2", fifth_figure_6=True)
    mo.vstack(
        [
            claim("deck.36", (_keep, _halve), code(inception_v2, "fifth_figure_6")),
            mo.md(f"""
            `fifth_figure_6=True` is the other reading: five modules *and* the reductions. It has
            {summary(_five).params:,} parameters in place of {letter.params:,}.
            """),
            claim("deck.32", (create_model("inception_v1").image[0], v3.image[0])),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, FIGURE_5, claim, code, conv, counted, diagram, figure_5, mo, v2, v3, walk):
    _five = [
        sum(
            isinstance(layer, Conv2D) and layer.kernel == (5, 5) for _, layer in walk(network.trunk)
        )
        for network in (v2, v3)
    ]
    mo.vstack(
        [
            mo.md("""
            ## Figure 5: the 35x35 modules

            GoogLeNet's module with its 5x5 replaced by two 3x3. (A blue box is a convolution with batch norm and ReLU;
            below its name stands what comes out. A V is a window without padding.)
            """),
            mo.hstack(
                [
                    diagram(figure_5(conv, 288, FIGURE_5, 3), (35, 35, 288), "figure 5"),
                    diagram(v3.trunk.layers["Mixed_5d"], (35, 35, 288), "as released"),
                ],
                justify="start",
                wrap=True,
            ),
            counted(
                ("figure 5", figure_5(conv, 288, FIGURE_5, 3), (35, 35, 288)),
                ("as released", v3.trunk.layers["Mixed_5d"], (35, 35, 288)),
            ),
            claim("deck.33", _five, code(figure_5, "five")),
        ]
    )
    return


@app.cell(hide_code=True)
def _(summary, table):
    def counted(*modules):
        """The counts of modules as a table. modules: (name, module, (H, W, C) of its input)."""
        tables = [(name, summary(module, shape)) for name, module, shape in modules]
        rows = [(n, "x".join(map(str, t.rows[-1].output)), t.params, t.macs) for n, t in tables]
        return table(("module", "gives", "parameters", "multiply-adds"), rows)

    return (counted,)


@app.cell(hide_code=True)
def _(code, counted, diagram, figure_6, mo, v3):
    mo.vstack(
        [
            mo.md("""
            ## Figure 6: the 17x17 modules

            Every 7x7 is a 1x7 and a 7x1. The page before has what that saves, and the same module with full 7x7.
            """),
            diagram(v3.trunk.layers["Mixed_6e"], (17, 17, 768), "figure 6, the last one"),
            counted(
                *((f"Mixed_6{n}", v3.trunk.layers[f"Mixed_6{n}"], (17, 17, 768)) for n in "bcde")
            ),
            code(figure_6),
        ]
    )
    return


@app.cell(hide_code=True)
def _(FIGURE_7, claim, code, conv, counted, depth, diagram, figure_7, mo, v3):
    _module = figure_7(conv, 1280, FIGURE_7)
    _fork = _module.branches["b1"].layers["fork"]
    mo.vstack(
        [
            mo.md("""
            ## Figure 7: the 8x8 modules

            The last grid is small, so the modules become wide. Two towers end in a *fork*: a 1x3 and a 3x1 read the
            same input, and both outputs are kept.
            """),
            diagram(_module, (8, 8, 1280), "figure 7"),
            counted(
                ("Mixed_7b", v3.trunk.layers["Mixed_7b"], (8, 8, 1280)),
                ("Mixed_7c", v3.trunk.layers["Mixed_7c"], (8, 8, 2048)),
            ),
            claim("re.17", _module.out_shape((1, 8, 8, 1280))[3], code(figure_7, "EITHER_WAY")),
            claim("deck.31", (depth(_fork), len(_fork.branches))),
        ]
    )
    return


@app.cell(hide_code=True)
def _(REDUCTION_1, conv, counted, diagram, figure_10, mo, v3):
    _printed = figure_10(conv, 288, REDUCTION_1, ((1, 3), (1, 3, 3)), "valid")
    mo.vstack(
        [
            mo.md(r"""
            ## Figures 9 and 10: halving a grid

            A grid $d \times d \times k$ shall become $\frac d2 \times \frac d2 \times 2k$.

            | way | multiply-adds, 1x1 kernels | between |
            | --- | --- | --- |
            | convolve, then pool | $2 d^2 k^2$ | all is kept, and expensive |
            | pool, then convolve | $2 (\frac d2)^2 k^2$ | a bottleneck: a quarter of the numbers is left |
            | convolve with stride 2 beside a pool | $(\frac d2)^2 k^2$ | cheap, and no bottleneck |

            Figure 10 is the third way with two towers. (Its widths are not printed: these are the
            release's where it has the branch.)
            """),
            mo.hstack(
                [
                    diagram(_printed, (35, 35, 288), "figure 10"),
                    diagram(v3.trunk.layers["Mixed_6a"], (35, 35, 288), "Mixed_6a as released"),
                ],
                justify="start",
                align="end",
                wrap=True,
            ),
            counted(
                ("figure 10", _printed, (35, 35, 288)),
                ("Mixed_6a as released", v3.trunk.layers["Mixed_6a"], (35, 35, 288)),
            ),
            diagram(v3.trunk.layers["Mixed_7a"], (17, 17, 768), "Mixed_7a as released"),
            counted(("Mixed_7a as released", v3.trunk.layers["Mixed_7a"], (17, 17, 768))),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Concat, Conv2D, MaxPool2D, Sequential, mo):
    def ways(d, k, kernel=1):
        """Multiply-adds of the three ways from d x d x k to d/2 x d/2 x 2k."""
        pool = MaxPool2D(2)
        return {
            "convolve, then pool": Sequential(Conv2D(k, 2 * k, kernel), pool).macs((1, d, d, k)),
            "pool, then convolve": Sequential(pool, Conv2D(k, 2 * k, kernel)).macs((1, d, d, k)),
            "stride 2 beside a pool": Concat(conv=Conv2D(k, k, kernel, stride=2), pool=pool).macs(
                (1, d, d, k)
            ),
        }

    mo.show_code()
    return (ways,)


@app.cell(hide_code=True)
def _(claim, code, figure_10, ways):
    _costs = ways(34, 320)
    claim("re.19", _costs["convolve, then pool"] / _costs["pool, then convolve"], code(figure_10))
    return


@app.cell(hide_code=True)
def _(mo):
    grid = mo.ui.slider(4, 64, step=2, value=34, label="d", show_value=True)
    width = mo.ui.slider(16, 640, step=16, value=320, label="k", show_value=True)
    kernel = mo.ui.dropdown({"1x1": 1, "3x3": 3}, value="1x1", label="kernel")
    mo.hstack([grid, width, kernel], justify="start")
    return grid, kernel, width


@app.cell(hide_code=True)
def _(grid, kernel, table, ways, width):
    _costs = ways(grid.value, width.value, kernel.value)
    _least = min(_costs.values())
    table(
        ("way", "multiply-adds", "times the cheapest"),
        [(n, c, c / _least) for n, c in _costs.items()],
    )
    return


@app.cell(hide_code=True)
def _(claim, code, diagram, figure_8, mo, released, v3):
    _head = v3.heads["Mixed_6e"]
    mo.vstack(
        [
            mo.md("""
            ## The auxiliary head

            It reads the last 17x17 grid, in training only. Its 5x5 convolution on a 5x5 map is GoogLeNet's fully
            connected layer in another form, so that batch norm applies to it. The paper says that heads do not help
            early in training, and that they regularise.
            """),
            diagram(_head, (17, 17, 768), "figure 8"),
            claim("re.9", (_head.macs((1, 17, 17, 768)), released.params_aux), code(figure_8)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, claim, code, depth, figure, mo, released, summary, v2, v3):
    _rows = [r for r in released.rows if r.macs]
    _drawn, (_left, _right) = figure(9.5, 3.8, 2)
    for _ax, _values, _name in (
        (_left, [r.macs / 1e6 for r in _rows], "multiply-adds, millions"),
        (_right, [r.params / 1e6 for r in _rows], "parameters, millions"),
    ):
        _ax.barh([r.name for r in _rows], _values, color="#6fa8dc")
        _ax.invert_yaxis()
        _ax.tick_params(axis="y", labelsize=7.5)
        _ax.set(xlabel=_name)
    mo.vstack(
        [
            mo.md("## The whole network"),
            _drawn,
            claim("re.2", (released.params, released.params + released.params_aux)),
            claim("re.3", released.macs, code(Conv2D.macs, "return")),
            claim("re.4", released.macs / summary("inception_v1").macs),
            claim("re.5", (depth(v3), depth(v2)), code(depth)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(create_model, mo, released, summary):
    near = create_model("inception_v3", first_stride=1)
    nearer = create_model("inception_v3", first_stride=1, first_pool=False)
    costs = {
        299: released.macs,
        151: summary(near, (151, 151)).macs,
        79: summary(nearer, (79, 79)).macs,
    }
    mo.show_code()
    return (costs,)


@app.cell(hide_code=True)
def _(claim, code, costs, inception_v3, mo, table):
    _rows = [
        (f"{n}x{n}", how, costs[n], costs[n] / costs[299])
        for n, how in zip(
            (299, 151, 79), ("stride 2, pool", "stride 1, pool", "stride 1, no pool"), strict=True
        )
    ]
    mo.vstack(
        [
            mo.md("""
            ## Section 9: small images at the same cost

            A smaller image need not be a cheaper one. Lower strides keep the grids, and so the cost. The paper
            compares three networks *of constant cost* that see 299, 151 and 79 pixels.
            """),
            table(("images", "stem", "multiply-adds", "of the first"), _rows),
            claim("re.7", (costs[299], costs[151]), code(inception_v3, "first_stride")),
            claim("re.8", costs[79] / costs[299] - 1),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## Label smoothing

    With the label alone as target, the loss falls as long as the right logit grows: it is never content. Section 7
    mixes the target with the uniform distribution $u$ over $K$ classes,

    $$q'_k = (1 - \varepsilon)\,[k = y] + \frac{\varepsilon}{K}, \qquad
      L = -\sum_k q'_k \log p_k, \qquad \frac{\partial L}{\partial z_k} = p_k - q'_k .$$

    $L$ is least where $p = q'$: where the right logit is $\log \frac{q'_y}{q'_{other}}$ above the others.
    """)
    return


@app.cell(hide_code=True)
def _(mo, np, softmax_cross_entropy):
    def targets(eps, classes):
        """q' of the right class and of another, from the gradient at p = 1 / K: q' = p - dL/dz."""
        _, dz = softmax_cross_entropy(np.zeros((1, classes)), [0], smoothing=eps)
        return 1 / classes - dz[0, 0], 1 / classes - dz[0, 1]

    def loss_at(gap, eps, classes):
        """Loss and its derivative by the right logit, where that is `gap` above the others."""
        z = np.zeros((1, classes))
        z[0, 0] = gap
        loss, dz = softmax_cross_entropy(z, [0], smoothing=eps)
        return float(loss), dz[0, 0]

    def best_gap(eps, classes):
        """Where the gradient vanishes, by halving an interval."""
        low, high = 0.0, 40.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if loss_at(middle, eps, classes)[1] < 0 else (low, middle)
        return low

    mo.show_code()
    return best_gap, loss_at, targets


@app.cell(hide_code=True)
def _(best_gap, claim, code, loss_at, losses, targets):
    _gap = best_gap(0.1, 1000)
    claim(
        "re.10",
        (*targets(0.1, 1000), loss_at(_gap, 0.1, 1000)[0], _gap),
        code(losses.softmax_cross_entropy, "q[k]"),
    )
    return


@app.cell(hide_code=True)
def _(mo):
    eps = mo.ui.slider(0.0, 0.9, step=0.05, value=0.1, label="epsilon", show_value=True)
    classes = mo.ui.dropdown({"2": 2, "10": 10, "1000": 1000}, value="10", label="classes")
    mo.hstack([eps, classes], justify="start")
    return classes, eps


@app.cell(hide_code=True)
def _(best_gap, classes, eps, figure, loss_at, mo, np, targets):
    _k, _e = classes.value, eps.value
    _gaps = np.linspace(-2, 16, 91)
    _drawn, _ax = figure(8, 3)
    _ax.plot(_gaps, [loss_at(g, 0.0, _k)[0] for g in _gaps], color="#999", label="epsilon 0")
    _right, _other = targets(_e, _k)
    _words = "With epsilon 0 the loss falls for ever, and no gap is the best."
    if _e:
        _best = best_gap(_e, _k)
        _least = loss_at(_best, _e, _k)[0]
        _ax.plot(
            _gaps, [loss_at(g, _e, _k)[0] for g in _gaps], color="#1f5fa8", label=f"epsilon {_e:g}"
        )
        _ax.plot(_best, _least, "o", color="#b35900")
        _words = f"Least loss **{_least:.4f}** at a gap of **{_best:.4f}**."
    _ax.set(xlabel="right logit minus the others", ylabel="loss", ylim=(-0.2, 9))
    _ax.legend(loc="upper center")
    mo.vstack([_drawn, mo.md(f"Targets {_right:.4f} and {_other:.4f}. {_words}")])
    return


@app.cell(hide_code=True)
def _(mo, np, partial, softmax_cross_entropy):
    def smoothing_checked(eps=0.1, k=7, step=1e-6):
        """The identity and the gradient, on random logits."""
        z = np.random.default_rng(2).normal(0, 3, (1, k))
        loss, dz = softmax_cross_entropy(z, [3], smoothing=eps)
        hard = softmax_cross_entropy(z, [3])[0]
        uniform = np.mean([softmax_cross_entropy(z, [label])[0] for label in range(k)])  # H(u, p)
        identity = np.isclose(loss, (1 - eps) * hard + eps * uniform, rtol=1e-13)
        smooth = partial(softmax_cross_entropy, labels=np.array([3]), smoothing=eps)
        slopes = [(smooth(z + d)[0] - smooth(z - d)[0]) / (2 * step) for d in step * np.eye(k)]
        differences = np.allclose(dz[0], slopes, atol=1e-8)
        return bool(identity), (differences, np.abs(dz).max() < 1, abs(dz.sum()) < 1e-15)

    identity, gradient = smoothing_checked()
    mo.show_code()
    return gradient, identity


@app.cell(hide_code=True)
def _(claim, gradient, identity, mo):
    mo.vstack([claim("re.11", identity), claim("re.12", [bool(v) for v in gradient])])
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## The recipe: RMSProp, clipping, the learning rate

    $$s \leftarrow 0.9\, s + 0.1\, g^2, \qquad w \leftarrow w - \frac{\eta\, g}{\sqrt{s + \epsilon}}$$

    The paper's $\epsilon$ is 1.0, under the root, where TensorFlow has it; $s$ begins at 1. As long as gradients are
    far below 1, the root hardly depends on them: the method is SGD with another rate, which dampens large gradients
    only.
    """)
    return


@app.cell(hide_code=True)
def _(Linear, RMSProp, cast, mo, np):
    def first_step(g, eps=1.0, lr=0.045):
        """How far RMSProp's first step goes, over lr * g."""
        layer = cast(Linear(1, 1, bias=False), np.float64)
        optimiser = RMSProp(layer, lr, decay=0.9, eps=eps)
        before = layer.weight.data.item()
        optimiser.grad[:] = g
        optimiser.step()
        return (before - layer.weight.data.item()) / (lr * g)

    mo.show_code()
    return (first_step,)


@app.cell(hide_code=True)
def _(RMSProp, claim, code, first_step, mo, table):
    _rows = [
        (g, first_step(g), first_step(g, eps=1e-8)) for g in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
    ]
    mo.vstack(
        [
            table(
                ("gradient", "step / (lr g), epsilon 1.0", "epsilon 1e-8"),
                _rows,
                "RMSProp's first step",
            ),
            claim("re.21", first_step(0.01), code(RMSProp.step, "rmsprop_step")),
        ]
    )
    return


@app.cell(hide_code=True)
def _(clip_norm, exponential, mo, np):
    def clipped(norm, threshold=2.0):
        """The norm of a gradient of this norm after clipping."""
        g = np.random.default_rng(1).standard_normal(1000)
        g *= norm / np.linalg.norm(g)
        clip_norm(g, threshold)
        return float(np.linalg.norm(g))

    rate = exponential(0.045, 0.94, 2)
    mo.show_code()
    return clipped, rate


@app.cell(hide_code=True)
def _(claim, clip_norm, clipped, code, exponential, figure, mo, np, rate):
    _drawn, (_left, _right) = figure(9, 2.8, 2)
    _norms = np.linspace(0.05, 8, 60)
    _left.plot(_norms, [clipped(n) for n in _norms], color="#1f5fa8")
    _left.set(xlabel="norm of the gradient", ylabel="after clipping", ylim=(0, 3))
    _epochs = np.arange(0, 101, 0.25)
    _right.plot(_epochs, [rate(t) for t in _epochs], color="#1f5fa8")
    _right.set(xlabel="epoch", ylabel="learning rate", ylim=(0, 0.05))
    mo.vstack(
        [
            _drawn,
            claim("re.14", (clipped(50.0), clipped(1.0)), code(clip_norm, "grad *=")),
            claim("re.13", rate(100), code(exponential, "return")),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

"""Inception-ResNet: residual connections, and why they are scaled.

What a sum of residuals does to the variance and to the gradient, live; the blocks drawn and counted; figures that do
not type-check; what the three networks cost.
"""

import marimo

app = marimo.App(width="medium", app_title="Inception-ResNet")


@app.cell(hide_code=True)
def _():
    from functools import partial

    import marimo as mo
    import numpy as np

    from inception_np import (
        BatchNorm,
        Conv2D,
        ConvBNReLU,
        Mode,
        Residual,
        Sequential,
        cast,
        create_model,
        named_buffers,
        named_params,
        summary,
    )
    from inception_np.learn.diagram import diagram
    from inception_np.learn.slide import claim, code, figure, numbers, table
    from inception_np.models.inception_resnet import (
        block_a,
        block_b,
        block_c,
        inception_resnet_v1,
        inception_resnet_v2,
        reduction_b,
        residual,
    )

    return (
        BatchNorm,
        Conv2D,
        ConvBNReLU,
        Mode,
        Residual,
        Sequential,
        block_a,
        block_b,
        block_c,
        cast,
        claim,
        code,
        create_model,
        diagram,
        figure,
        inception_resnet_v1,
        inception_resnet_v2,
        mo,
        named_buffers,
        named_params,
        np,
        numbers,
        partial,
        reduction_b,
        residual,
        summary,
        table,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Inception-ResNet

    The second half of the paper: Inception modules with a residual connection around them. Each block adds a correction
    to what it was given,

    $$y = \operatorname{relu}(x + s\, f(x)),$$

    where $f$ is a few towers, joined, and a 1x1 convolution, the *filter expansion*, that brings them back to the width
    of $x$. It has no activation, so a correction may be negative. $s$ is a constant between 0.1 and 0.3.
    """)
    return


@app.cell(hide_code=True)
def _(create_model, mo, summary):
    literal = create_model(
        "inception_resnet_v2"
    )  # preset "paper": its figures to the letter, repaired
    released = create_model("inception_resnet_v2", preset="timm")
    v1 = create_model("inception_resnet_v1")
    shown, shown_v1, shown_literal = summary(released), summary(v1), summary(literal)
    stages = released.trunk.layers
    mo.show_code()
    return literal, released, shown, shown_literal, shown_v1, stages


@app.cell(hide_code=True)
def _(block_a, block_b, block_c, claim, code, diagram, mo, residual, shown, stages):
    _blocks = [r.params for r in shown.rows if r.name in ("block35_1", "block17_1", "block8_1")]
    mo.vstack(
        [
            mo.md("""
            ## The three blocks

            As released, on the grids of 35, 17 and 8. (A blue box is a convolution with batch norm and ReLU, but for
            the last one of each block, the expansion, which has a bias and neither.)
            """),
            mo.hstack(
                [
                    diagram(stages["block35_1"], (35, 35, 320), "A, figure 16"),
                    diagram(stages["block17_1"], (17, 17, 1088), "B, figure 17"),
                    diagram(stages["block8_1"], (8, 8, 2080), "C, figure 19"),
                ],
                justify="start",
                align="end",
                wrap=True,
            ),
            code(residual),
            claim("ir.7", _blocks, code(block_a), code(block_b), code(block_c)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## What scaling is for: the variance

    Let $N$ blocks each add a residual of variance 1, independent of what came before. Variances add:

    $$\operatorname{Var}(x_N) = 1 + N s^2 .$$

    With $s = 1$, twenty blocks make it 21, with $s = 0.1$ only 1.2. Here are twenty blocks of the library. Each body is
    a 1x1 convolution with random weights and a batch norm, so that its output has variance 1. (No ReLU here. It would
    let the mean grow too.)
    """)
    return


@app.cell(hide_code=True)
def _(BatchNorm, Conv2D, Mode, Residual, Sequential, cast, mo, np):
    def variances(blocks, s, channels=256, seed=0):
        """The variance of the sum after each block, over a random batch of variance 1."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((4, 6, 5, channels))
        found = [float(x.var())]
        for _ in range(blocks):
            body = Sequential(conv=Conv2D(channels, channels, 1, rng=rng), bn=BatchNorm(channels))
            x, _ = cast(Residual(body, scale=s), np.float64).forward(x, Mode(train=True))
            found.append(float(x.var()))
        return found

    mo.show_code()
    return (variances,)


@app.cell(hide_code=True)
def _(Residual, claim, code, variances):
    claim("ir.9", [variances(20, s)[-1] for s in (1.0, 0.1)], code(Residual.forward, "scaled_add"))
    return


@app.cell(hide_code=True)
def _(mo):
    s = mo.ui.slider(0.0, 1.0, step=0.05, value=0.3, label="s", show_value=True)
    blocks = mo.ui.slider(1, 40, value=20, label="blocks N", show_value=True)
    mo.hstack([s, blocks], justify="start")
    return blocks, s


@app.cell(hide_code=True)
def _(blocks, figure, mo, np, s, variances):
    _drawn, _ax = figure(8, 3.2)
    _found = variances(blocks.value, s.value)
    _n = np.arange(blocks.value + 1)
    for _scale, _colour in ((1.0, "#b35900"), (0.3, "#888"), (0.1, "#1a7f37")):
        _ax.plot(_n, 1 + _n * _scale**2, color=_colour, lw=1, ls="--")
        _ax.text(_n[-1], 1 + _n[-1] * _scale**2, f" s = {_scale:g}", color=_colour, va="center")
    _ax.plot(_n, _found, ".-", color="#1f5fa8", label=f"measured, s = {s.value:g}")
    _ax.set(
        xlabel="blocks", ylabel="variance", yscale="log", xlim=(0, _n[-1] * 1.12), ylim=(0.8, 60)
    )
    _ax.xaxis.get_major_locator().set_params(integer=True)
    _ax.legend(loc="upper left")
    mo.vstack(
        [
            _drawn,
            mo.md(
                rf"Measured after {blocks.value} blocks: **{_found[-1]:.3f}**. "
                rf"$1 + N s^2$ = {1 + blocks.value * s.value**2:.3f}. Dashed lines: $1 + n s^2$."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## What scaling does to the gradient

    With $g = \partial L / \partial y$ and $f(x) = W h(x) + b$,

    $$\frac{\partial L}{\partial W} = s\; h^\top g, \qquad
      \frac{\partial L}{\partial x} = g + s\, f'(x)^\top g .$$

    The residual branch learns $s$ times more slowly. The shortcut passes $g$ on as it is, whatever $s$ is.
    """)
    return


@app.cell(hide_code=True)
def _(Conv2D, ConvBNReLU, Mode, block_b, cast, mo, named_params, np, partial):
    def block_b_at(s, channels=24, seed=0):
        """A small block B (figure 17) in double precision, always with the same weights."""
        rng = np.random.default_rng(seed)
        conv, up = partial(ConvBNReLU, rng=rng), partial(Conv2D, rng=rng)
        return cast(block_b(conv, up, channels, (6, (4, 5, 6)), s), np.float64)

    def gradients(s):
        """Of the expansion's weights and of x, for one fixed dy of the sum."""
        rng = np.random.default_rng(1)
        block = block_b_at(s).layers[
            "sum"
        ]  # without the ReLU: which pixels it lets through depends on s
        x, dy = np.abs(rng.standard_normal((2, 9, 8, 24))), rng.standard_normal((2, 9, 8, 24))
        _, kept = block.forward(x, Mode(train=True, keep=True))
        dx = block.backward(dy, x, kept)
        return named_params(block)["body.up.weight"].grad, dx, dy

    mo.show_code()
    return block_b_at, gradients


@app.cell(hide_code=True)
def _(Residual, claim, code, gradients, np):
    _one = gradients(1.0)[0]
    _ratios = [
        float(np.linalg.norm(gradients(scale)[0]) / np.linalg.norm(_one))
        for scale in (0.1, 0.17, 0.2)
    ]
    claim("ir.10", _ratios, code(Residual.backward, "scaled(dy, self.scale)"))
    return


@app.cell(hide_code=True)
def _(figure, gradients, mo, np):
    _scales = np.linspace(0, 1, 11)
    _found = [gradients(scale) for scale in _scales]
    _one = np.linalg.norm(_found[-1][0])
    _drawn, (_left, _right) = figure(9, 3, 2)
    _left.plot(_scales, [np.linalg.norm(dw) / _one for dw, _, _ in _found], "o-", color="#1f5fa8")
    _left.set(xlabel="s", ylabel="gradient of W, over s = 1")
    _right.plot(
        _scales,
        [np.linalg.norm(dx) / np.linalg.norm(dy) for _, dx, dy in _found],
        "o-",
        color="#1f5fa8",
    )
    _right.set(xlabel="s", ylabel="norm of dx, over that of dy")
    for _ax in (_left, _right):
        _ax.grid(alpha=0.3)
    mo.vstack([_drawn])
    return


@app.cell(hide_code=True)
def _(Mode, block_b_at, mo, np):
    def identity(s=0.0):
        x = np.abs(np.random.default_rng(2).standard_normal((2, 9, 8, 24)))  # as behind a ReLU
        return x, block_b_at(s).forward(x, Mode(train=True))[0]

    mo.show_code()
    return (identity,)


@app.cell(hide_code=True)
def _(Residual, claim, code, identity, mo):
    _x, _y = identity()
    mo.vstack(
        [
            mo.md(r"""
            ## With $s = 0$

            A block with $s = 0$ is the identity: $\operatorname{relu}(x) = x$ where $x \ge 0$, and every $x$ comes
            from a ReLU. A small $s$ is a block near the identity, and training starts from there.
            """),
            claim("ir.8", bool((_x == _y).all()), code(Residual.forward, "scaled_add")),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    small = mo.ui.slider(0.0, 1.0, step=0.01, value=0.17, label="s", show_value=True)
    mo.vstack([small])
    return (small,)


@app.cell(hide_code=True)
def _(identity, mo, np, numbers, small):
    _x, _y = identity(small.value)
    mo.vstack(
        [
            mo.hstack(
                [
                    numbers(_x[0, :4, :5, 0], "x"),
                    numbers(_y[0, :4, :5, 0], f"block(x), s = {small.value:g}"),
                ],
                justify="start",
                gap=3,
            ),
            mo.md(
                f"The block moves its input by {np.linalg.norm(_y - _x) / np.linalg.norm(_x):.1%}."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Mode, block_c, claim, code, create_model, mo, named_params, np):
    _rng = np.random.default_rng(3)
    _last = list(
        create_model("inception_resnet_v2_cifar", seed=1, dtype="float64").trunk.layers.items()
    )
    _name, _block = next((n, b) for n, b in reversed(_last) if n.startswith("block8"))
    _before = dict(_last)["block8_1"]
    _x = np.abs(_rng.standard_normal((2, 4, 4, named_params(_block)["sum.body.up.bias"].data.size)))
    _least = [float(b.forward(_x, Mode(train=True))[0].min()) for b in (_before, _block)]
    mo.vstack(
        [
            mo.md(f"""
            ## The last block

            The released network ends in one more block C with $s = 1$ and *no ReLU*, before a 1x1 convolution to 1536.
            The smallest number that leaves a block C of the small network is {_least[0]:g}, and with the last one
            {_least[1]:.2f}.
            """),
            claim("ir.11", _least[0] >= 0 > _least[1], code(block_c, "relu")),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, claim, code, diagram, literal, mo, reduction_b, residual):
    _shapes = literal.stage_shapes((1, 299, 299, 3))
    _gives = [_shapes[name] for name in ("Mixed_6a", "Mixed_7a")]
    _errors = []
    for _name, _printed, _shape in (("block17_1", 1154, _gives[0]), ("block8_1", 2048, _gives[1])):
        _towers = literal.trunk.layers[_name].layers["sum"].body.layers["towers"]
        _block = residual(Conv2D, _printed, _towers, _towers.out_shape(_shape)[3], 0.1, relu=True)
        try:
            _block.out_shape(_shape)
        except ValueError as error:
            _errors.append(str(error))
    mo.vstack(
        [
            mo.md("""
            ## Figures that do not type-check

            A sum wants equal shapes. Figure 17 prints 1154 filters for the expansion on the 17x17 grid, figure 19
            prints 2048 on the 8x8 grid.
            """),
            mo.hstack(
                [
                    diagram(literal.trunk.layers["Mixed_6a"], (35, 35, 384), "what B is added to"),
                    diagram(literal.trunk.layers["Mixed_7a"], (17, 17, 1152), "what C is added to"),
                ],
                justify="start",
                align="end",
                wrap=True,
            ),
            claim("ir.12", [shape[3] for shape in _gives], code(reduction_b)),
            mo.md(
                "The library on the two figures to the letter:\n\n"
                + "\n".join(f"- `{e}`" for e in _errors)
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(
    claim,
    code,
    create_model,
    inception_resnet_v2,
    mo,
    named_buffers,
    shown,
    shown_literal,
    shown_v1,
    summary,
    table,
):
    _keras = create_model("inception_resnet_v2", preset="keras")
    _buffers = sum(b.data.size for b in named_buffers(_keras).values())
    _three = (shown, shown_v1, shown_literal)
    _rows = [
        (name, t.params, t.macs)
        for name, t in zip(
            ("v2 as released", "v1", "v2, the figures to the letter"), _three, strict=True
        )
    ]
    mo.vstack(
        [
            mo.md("""
            ## What the networks cost

            Figure 15 prints 5, 10 and 5 blocks for both networks. The released v2 has 10, 20 and 9 + 1.
            """),
            table(("network", "parameters", "multiply-adds"), _rows),
            claim("ir.1", [t.params for t in _three], code(inception_resnet_v2, "counts = ")),
            claim("ir.2", (summary(_keras).params, _buffers)),
            claim("ir.3", [t.macs for t in _three]),
        ]
    )
    return


@app.cell(hide_code=True)
def _(claim, code, inception_resnet_v1, mo, shown, shown_literal, shown_v1, summary):
    cost_v4 = summary("inception_v4").macs
    mo.vstack(
        [
            mo.md(
                "The paper compares v1 with Inception-v3, and v2 with Inception-v4, *at equal cost*."
            ),
            claim(
                "ir.13",
                shown_v1.macs / summary("inception_v3").macs,
                code(inception_resnet_v1, "blocks_a"),
            ),
            claim("ir.14", (shown.macs / cost_v4, shown_literal.macs / cost_v4)),
        ]
    )
    return (cost_v4,)


@app.cell(hide_code=True)
def _(mo):
    counts = [
        mo.ui.slider(0, 20, value=5, label="A", show_value=True),
        mo.ui.slider(0, 30, value=10, label="B", show_value=True),
        mo.ui.slider(0, 20, value=5, label="C", show_value=True),
    ]
    count_a, count_b, count_c = counts
    mo.vstack([mo.md("Blocks of v2 with the figures' widths:"), mo.hstack(counts, justify="start")])
    return count_a, count_b, count_c


@app.cell(hide_code=True)
def _(cost_v4, count_a, count_b, count_c, mo, shown_literal):
    _at = {"A": "block35_1", "B": "block17_1", "C": "block8_1"}
    _costs = {
        letter: next(r for r in shown_literal.rows if r.name == name)
        for letter, name in _at.items()
    }
    _extra = {"A": count_a.value - 5, "B": count_b.value - 10, "C": count_c.value - 5}
    _macs = shown_literal.macs + sum(_extra[n] * _costs[n].macs for n in _at)
    _params = shown_literal.params + sum(_extra[n] * _costs[n].params for n in _at)
    mo.md(f"{_params:,} parameters, {_macs:,} multiply-adds: **{_macs / cost_v4:.3f}** of v4's.")
    return


@app.cell(hide_code=True)
def _(claim, create_model, mo, named_params, released, shown, table):
    _last = {
        r.name.split("_")[0] if r.name.startswith("block") else r.name: r for r in shown.rows[:-1]
    }
    _sizes = [r.output[0] for r in _last.values()] + [r.output[2] for r in _last.values()]
    _maps = [
        released.stage_shapes((1, h, w, 3))["Conv2d_7b"][1:] for h, w in ((150, 150), (400, 600))
    ]
    _head = create_model("inception_resnet_v2", preset="timm", aux=True).heads["block17_20"]
    mo.vstack(
        [
            mo.md("## Shapes, and the released auxiliary head"),
            mo.accordion(
                {
                    "All stages as released": table(
                        ("stage", "gives", "parameters", "multiply-adds"),
                        [
                            (r.name, "x".join(map(str, r.output)), r.params, r.macs)
                            for r in shown.rows
                        ],
                    )
                }
            ),
            claim("ir.4", _sizes),
            claim("ir.5", _maps[0]),
            claim("ir.6", _maps[1]),
            claim("ir.15", sum(p.data.size for p in named_params(_head).values())),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

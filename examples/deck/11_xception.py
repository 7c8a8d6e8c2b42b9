"""Xception: from an Inception module to depthwise separable convolutions.

The spectrum from a regular convolution over groups to one per channel; a separable convolution as a full one; towers as
groups; the blocks drawn and counted, their shortcuts, and the pool that two libraries pad differently.
"""

import marimo

app = marimo.App(width="medium", app_title="Xception")


@app.cell(hide_code=True)
def _():
    from functools import partial

    import marimo as mo
    import numpy as np

    from inception_np import (
        BatchNorm,
        Concat,
        Conv2D,
        DepthwiseConv2D,
        MaxPool2D,
        Mode,
        ReLU,
        Residual,
        SeparableConv2D,
        Sequential,
        cast,
        create_model,
        named_buffers,
        named_params,
        summary,
    )
    from inception_np.kernels.window import pads_for
    from inception_np.layer import walk
    from inception_np.learn.diagram import diagram
    from inception_np.learn.slide import claim, code, figure, numbers, table
    from inception_np.models.xception import main_path, segmented, separable, xception
    from inception_np.training.schedules import exponential

    return (
        BatchNorm,
        Concat,
        Conv2D,
        DepthwiseConv2D,
        MaxPool2D,
        Mode,
        ReLU,
        Residual,
        SeparableConv2D,
        Sequential,
        cast,
        claim,
        code,
        create_model,
        diagram,
        exponential,
        figure,
        main_path,
        mo,
        named_buffers,
        named_params,
        np,
        numbers,
        pads_for,
        partial,
        segmented,
        separable,
        summary,
        table,
        walk,
        xception,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Xception

    An Inception module assumes that two things can be looked at apart: how channels go together, which its 1x1
    convolutions learn, and how neighbouring pixels go together, which its larger windows learn. Xception takes this to
    the end.

    Start from a module with 3x3 towers only. All its 1x1 convolutions together are one large 1x1 convolution, and each
    tower's 3x3 sees its own *segment* of the channels. With $C$ channels in $g$ segments that costs

    $$\underbrace{C^2}_{1\times1} + \underbrace{\frac{9\, C^2}{g}}_{3\times3 \text{ on segments}}$$

    weights. $g = 1$ is a regular convolution, $g = 3$ or 4 an Inception module. $g = C$, a filter for each channel, is
    "extreme Inception": all but the order of the two steps, and a ReLU between them, a separable convolution.
    """)
    return


@app.cell(hide_code=True)
def _(Conv2D, Sequential, mo, named_params, np):
    def module(channels, groups, seed=0):
        """A 1x1 convolution, and a 3x3 one on `groups` segments of its channels."""
        rng = np.random.default_rng(seed)
        return Sequential(
            pointwise=Conv2D(channels, channels, 1, bias=False, rng=rng),
            spatial=Conv2D(channels, channels, 3, bias=False, groups=groups, rng=rng),
        )

    def weights(layer):
        return sum(p.data.size for p in named_params(layer).values())

    spectrum = {g: weights(module(728, g)) for g in (1, 2, 4, 8, 28, 91, 364, 728)}
    mo.show_code()
    return module, spectrum, weights


@app.cell(hide_code=True)
def _(claim, code, figure, mo, segmented, spectrum):
    _drawn, _ax = figure(8, 3.2)
    _millions = {g: n / 1e6 for g, n in spectrum.items()}
    _ax.plot(list(_millions), list(_millions.values()), "o-", color="#1f5fa8")
    _ax.axhline(728**2 / 1e6, color="#888", ls="--", lw=1)
    _ax.text(1, 728**2 / 1e6 + 0.1, "the 1x1 alone", color="#666", va="bottom")
    for _g, _name in ((1, "regular"), (4, "Inception"), (728, "extreme Inception")):
        _side = "right" if _g > 500 else "left"
        _ax.annotate(
            _name, (_g, _millions[_g]), xytext=(4, 9), textcoords="offset points", ha=_side
        )
    _ax.set(
        xscale="log", xlabel="segments g", ylabel="weights, millions (728 channels)", ylim=(0, 6.2)
    )
    _ax.set(xticks=list(spectrum), xticklabels=list(map(str, spectrum)))
    _ax.minorticks_off()
    mo.vstack([_drawn, claim("x.9", list(spectrum.values()), code(segmented))])
    return


@app.cell(hide_code=True)
def _(mo):
    channels = mo.ui.dropdown({str(n): n for n in (12, 24, 48, 96)}, value="24", label="channels")
    mo.vstack([channels])
    return (channels,)


@app.cell(hide_code=True)
def _(channels, mo):
    _divisors = [g for g in range(1, channels.value + 1) if channels.value % g == 0]
    groups = mo.ui.slider(steps=_divisors, value=4, label="segments g", show_value=True)
    mo.vstack([groups])
    return (groups,)


@app.cell(hide_code=True)
def _(Conv2D, Mode, cast, channels, figure, groups, mo, module, np, table, weights):
    def who_sees_whom(layer, channels):
        """[input channel, output channel]: what a pixel of one adds to the other, in the middle of a 3x3 image."""
        x = np.zeros((channels, 3, 3, channels))
        x[np.arange(channels), 1, 1, np.arange(channels)] = 1
        return layer.forward(x, Mode())[0][:, 1, 1]

    _c, _g = channels.value, groups.value
    _made = cast(module(_c, _g), np.float64)
    _drawn, _axes = figure(9, 3.4, 3)
    _parts = (_made.layers["pointwise"], _made.layers["spatial"], _made)
    for _ax, _part, _name in zip(_axes, _parts, ("1x1", f"3x3, g = {_g}", "both"), strict=True):
        _ax.imshow(np.abs(who_sees_whom(_part, _c)), cmap="Blues")
        _ax.set(title=_name, xlabel="channel out", ylabel="channel in", xticks=[], yticks=[])
    _full = weights(Conv2D(_c, _c, 3, bias=False))
    mo.vstack(
        [
            mo.md(
                "Which channel out sees which channel in. Each block of the middle picture is a tower."
            ),
            _drawn,
            table(
                ("", "weights", "of a regular 3x3"),
                [
                    ("1x1", weights(_parts[0]), weights(_parts[0]) / _full),
                    (f"3x3 on {_g} segments", weights(_parts[1]), weights(_parts[1]) / _full),
                    ("both", weights(_made), weights(_made) / _full),
                ],
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, DepthwiseConv2D, Mode, mo, np, partial):
    def ends_agree(c=12):
        """Whether g = 1 equals Conv2D without groups, and g = C DepthwiseConv2D."""
        rng = np.random.default_rng(1)
        x = rng.standard_normal((2, 7, 9, c))

        def run(layer, weight):
            layer.weight.data = weight
            return layer.forward(x, Mode())[0]

        full, deep = rng.standard_normal((3, 3, c, c)), rng.standard_normal((3, 3, c, 1))
        conv = partial(Conv2D, c, c, 3, bias=False)
        one = np.allclose(run(conv(groups=1), full), direct(x, full), atol=1e-12)
        each = run(conv(groups=c), deep.reshape(3, 3, 1, c))
        return one, np.allclose(each, run(DepthwiseConv2D(c, 3), deep), atol=1e-12)

    def direct(x, w):
        """The sum that defines a regular 3x3 convolution, padded by one pixel."""
        h, k = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(padded[:, i : i + h, j : j + k] @ w[i, j] for i in range(3) for j in range(3))

    mo.show_code()
    return (ends_agree,)


@app.cell(hide_code=True)
def _(Conv2D, DepthwiseConv2D, claim, code, ends_agree):
    claim(
        "x.10",
        ends_agree(),
        code(Conv2D, "With `groups` g"),
        code(DepthwiseConv2D, "y[n,p,q, c m + k]"),
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Towers are groups

    Three towers, each a 1x1, a ReLU and a 3x3, against one 1x1, a ReLU and one 3x3 in three groups. The weights are the
    same numbers: the towers' 1x1 are the columns of the large one.
    """)
    return


@app.cell(hide_code=True)
def _(Concat, Conv2D, ReLU, Sequential, cast, mo, np):
    def tower_and_group(c=12, k=3):
        """The two, with the same weights."""
        each = c // k
        rng = np.random.default_rng(3)
        one = Sequential(
            pointwise=Conv2D(c, c, 1, bias=False, rng=rng),
            relu=ReLU(),
            spatial=Conv2D(c, c, 3, bias=False, groups=k, rng=rng),
        )
        towers = {}
        for i in range(k):
            mine = slice(i * each, (i + 1) * each)
            small, wide = Conv2D(c, each, 1, bias=False), Conv2D(each, each, 3, bias=False)
            small.weight.data = one.layers["pointwise"].weight.data[..., mine]
            wide.weight.data = one.layers["spatial"].weight.data[..., mine]
            towers[f"tower{i}"] = Sequential(pointwise=small, relu=ReLU(), spatial=wide)
        return cast(Concat(**towers), np.float64), cast(one, np.float64)

    mo.show_code()
    return (tower_and_group,)


@app.cell(hide_code=True)
def _(Mode, claim, code, diagram, mo, np, segmented, tower_and_group):
    _towers, _one = tower_and_group()
    _x = np.random.default_rng(4).standard_normal((2, 7, 9, 12))
    _a, _b = (layer.forward(_x, Mode())[0] for layer in (_towers, _one))
    mo.vstack(
        [
            mo.hstack(
                [diagram(_towers, (7, 9, 12), "towers"), diagram(_one, (7, 9, 12), "groups")],
                justify="start",
                align="end",
                wrap=True,
            ),
            claim("x.8", bool(np.abs(_a - _b).max() < 1e-13), code(segmented)),
            mo.md(f"Largest difference: {np.abs(_a - _b).max():.1e}."),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## A separable convolution is a full one of low rank

    $$z_{hwc} = \sum_{ij} x_{h+i,\, w+j,\, c}\, D_{ijc}, \qquad y_{hwo} = \sum_c z_{hwc}\, P_{co}
      \qquad\Rightarrow\qquad W_{ijco} = D_{ijc}\, P_{co} .$$

    Nothing stands between the two, so together they are linear: a full convolution whose kernel is, for each channel
    that goes in, an outer product of a 3x3 picture and a row of weights. A separable 3x3 has
    $9 C_{in} + C_{in} C_{out}$ weights where the full one has $9\, C_{in} C_{out}$. That is
    $\frac1{C_{out}} + \frac19$ of them.
    """)
    return


@app.cell(hide_code=True)
def _(Conv2D, mo):
    def as_full(separable_conv):
        """The full convolution with W = D P."""
        d, p = (
            separable_conv.layers["depthwise"].weight.data,
            separable_conv.layers["pointwise"].weight.data,
        )
        full = Conv2D(p.shape[2], p.shape[3], 3, bias=False)
        full.weight.data = d * p[0, 0]  # (3, 3, C_in, 1) times (C_in, C_out)
        return full

    mo.show_code()
    return (as_full,)


@app.cell(hide_code=True)
def _(
    Conv2D, Mode, SeparableConv2D, as_full, cast, claim, code, mo, np, numbers, separable, weights
):
    _sep = cast(SeparableConv2D(6, 5, 3, rng=np.random.default_rng(5)), np.float64)
    _full = as_full(_sep)
    _x = np.random.default_rng(6).standard_normal((2, 7, 9, 6))
    _difference = np.abs(_sep.forward(_x, Mode())[0] - _full.forward(_x, Mode())[0]).max()
    _d, _p = (
        _sep.layers["depthwise"].weight.data[:, :, 0, 0],
        _sep.layers["pointwise"].weight.data[0, 0, 0],
    )
    _big = weights(SeparableConv2D(728, 728, 3))
    mo.vstack(
        [
            mo.hstack(
                [
                    numbers(_d, "D of channel 0"),
                    numbers(_p[None, :3], "P of channel 0, to 3 outputs"),
                    *(numbers(_full.weight.data[:, :, 0, o], f"W from 0 to {o}") for o in range(3)),
                ],
                justify="start",
                gap=2,
                wrap=True,
            ),
            claim("x.7", bool(_difference < 1e-13), code(SeparableConv2D)),
            mo.md(f"Largest difference of the two outputs: {_difference:.1e}."),
            claim("x.5", (_big, _big / weights(Conv2D(728, 728, 3, bias=False))), code(separable)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    ins = mo.ui.slider(1, 256, value=64, label="channels in", show_value=True)
    outs = mo.ui.slider(1, 256, value=128, label="channels out", show_value=True)
    window = mo.ui.slider(1, 11, step=2, value=3, label="kernel", show_value=True)
    mo.hstack([ins, outs, window], justify="start")
    return ins, outs, window


@app.cell(hide_code=True)
def _(Conv2D, SeparableConv2D, ins, mo, outs, table, weights, window):
    _shape = (1, 19, 19, ins.value)
    _layers = (
        ("regular", Conv2D(ins.value, outs.value, window.value, bias=False)),
        ("separable", SeparableConv2D(ins.value, outs.value, window.value)),
    )
    _rows = [(name, weights(layer), layer.macs(_shape)) for name, layer in _layers]
    mo.vstack(
        [
            table(("convolution", "weights", "multiply-adds on 19x19"), _rows),
            mo.md(
                f"The separable one has **{_rows[1][1] / _rows[0][1]:.4f}** of the regular one's weights."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## A ReLU in between?

    Inception has a ReLU between its two steps, Xception has none. With one, the pair is no convolution any more: a
    linear $f$ has $f(x) + f(-x) = 0$. The paper trained both (figure 10) and found the ReLU harmful. Its guess: a ReLU
    on a single channel loses information that other channels cannot make good.
    """)
    return


@app.cell(hide_code=True)
def _(Mode, ReLU, SeparableConv2D, cast, mo, np):
    def odd_part(between):
        """The largest entry of f(x) + f(-x) of a separable convolution with this layer between."""
        pair = cast(
            SeparableConv2D(6, 5, 3, between=between, rng=np.random.default_rng(7)), np.float64
        )
        x = np.random.default_rng(8).standard_normal((2, 7, 9, 6))
        return np.abs(pair.forward(x, Mode())[0] + pair.forward(-x, Mode())[0]).max()

    without, with_relu = odd_part(None), odd_part(ReLU())
    mo.show_code()
    return with_relu, without


@app.cell(hide_code=True)
def _(SeparableConv2D, claim, code, mo, with_relu, without):
    mo.vstack(
        [
            claim(
                "x.11", (bool(without == 0), bool(with_relu > 0.1)), code(SeparableConv2D, "middle")
            ),
            mo.md(f"Without: {without:g}. With: {with_relu:.3f}."),
        ]
    )
    return


@app.cell(hide_code=True)
def _(create_model, mo, summary):
    net = create_model("xception")
    shown = summary(net)
    blocks = net.trunk.layers
    mo.show_code()
    return blocks, net, shown


@app.cell(hide_code=True)
def _(blocks, code, diagram, main_path, mo, shown, table):
    mo.vstack(
        [
            mo.md("""
            ## The network

            An entry flow of four blocks, a middle flow of eight equal ones, an exit flow of two. Every convolution has
            a batch norm behind it, none has a bias. In the pictures a 1x1 without "batch norm" above it has both batch
            norm and ReLU in its box.
            """),
            mo.hstack(
                [
                    diagram(blocks["block4"], (37, 37, 256), "block4, entry flow"),
                    diagram(blocks["block5"], (19, 19, 728), "block5 to 12, middle flow"),
                    diagram(blocks["block14"], (10, 10, 1024), "block14, exit flow"),
                ],
                justify="start",
                align="end",
                wrap=True,
            ),
            code(main_path),
            mo.accordion(
                {
                    "All stages": table(
                        ("stage", "gives", "parameters", "multiply-adds", "sees"),
                        [
                            (r.name, "x".join(map(str, r.output)), r.params, r.macs, r.field)
                            for r in shown.rows
                        ],
                    )
                }
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(
    BatchNorm,
    Conv2D,
    DepthwiseConv2D,
    Residual,
    claim,
    code,
    mo,
    named_buffers,
    net,
    shown,
    summary,
    walk,
    xception,
):
    _found = [layer for _, layer in walk(net)]
    _kinds = (
        sum(isinstance(layer, DepthwiseConv2D) for layer in _found),
        sum(isinstance(layer, Conv2D) and layer.kernel == (3, 3) for layer in _found),
        sum(isinstance(layer, Residual) and layer.shortcut is not None for layer in _found),
        sum(isinstance(layer, BatchNorm) for layer in _found),
    )
    _averages = sum(b.data.size for b in named_buffers(net).values())
    _rows = {r.name: r for r in shown.rows}
    _after = [
        _rows[n].output
        for n in ("block1_conv2", "block2", "block3", "block4", "block12", "block13", "block14")
    ]
    mo.vstack(
        [
            claim("x.1", (shown.params, shown.params + _averages)),
            claim("x.2", shown.macs, code(DepthwiseConv2D.macs, "return")),
            claim(
                "x.3",
                [size[0] for size in _after] + [size[2] for size in _after],
                code(xception, "ENTRY"),
            ),
            claim("x.4", _kinds),
            claim("x.6", (_rows["block5"].params, _rows["block5"].macs)),
            claim(
                "x.14",
                (1 - shown.params / 23_626_728, 1 - shown.params / summary("inception_v3").params),
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(figure, mo, named_params, net, shown):
    _parts = {"depthwise": 0, "pointwise": 0, "the rest": 0}
    for _path, _p in named_params(net).items():
        _kind = next(
            (k for k in _parts if f".{k}." in _path and _path.endswith("weight")), "the rest"
        )
        _parts[_kind] += _p.data.size
    _drawn, (_left, _right) = figure(9, 2.6, 2)
    _left.barh(list(_parts), [v / 1e6 for v in _parts.values()], color="#6fa8dc")
    _left.set(xlabel="parameters, millions")
    _left.invert_yaxis()
    _rows = [r for r in shown.rows if r.macs]
    _right.bar(
        [r.name.removeprefix("block") for r in _rows],
        [r.macs / 1e6 for r in _rows],
        color="#6fa8dc",
    )
    _right.set(ylabel="multiply-adds, millions", xlabel="block")
    _right.tick_params(axis="x", labelsize=6.5, rotation=60)
    mo.vstack(
        [_drawn, mo.md("Nearly all weights are in 1x1 convolutions: space costs next to nothing.")]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## The shortcuts

    The twelve blocks from block2 to block13 have a shortcut. It is the identity in the middle flow, and a 1x1
    convolution of stride 2 where the grid is halved. *No ReLU follows a sum.* The first ReLU of a block stands on its
    main path, and the next shortcut reads the sum as it is. So negative numbers pass through.
    """)
    return


@app.cell(hide_code=True)
def _(Mode, create_model, mo, named_params, np):
    def passes():
        """What goes into a middle block whose last batch norm has gamma 0, and what comes out."""
        block = create_model("xception_cifar", dtype="float64").trunk.layers["block5"]
        named_params(block)["body.sepconv3.pointwise.bn.gamma"].data[:] = 0
        x = np.random.default_rng(9).standard_normal((2, 8, 7, 182))
        return x, block.forward(x, Mode(train=True))[0]

    mo.show_code()
    return (passes,)


@app.cell(hide_code=True)
def _(Residual, claim, code, mo, passes):
    _x, _y = passes()
    mo.vstack(
        [
            claim("x.12", bool((_x == _y).all()), code(Residual)),
            claim("x.13", bool((_x < 0).any() and (_y[_x < 0] == _x[_x < 0]).all())),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## One pool that two libraries pad differently

    TensorFlow pads a 3x3 pool of stride 2 as much as it needs: one pixel on both sides of an odd plane, and *one pixel
    behind* an even one. PyTorch's ports pad both sides always. Of the four planes that are pooled only the one of 74 is
    even, so this one pool looks one pixel further up and left there.
    """)
    return


@app.cell(hide_code=True)
def _(blocks, claim, code, mo, net, pads_for):
    _shapes = net.stage_shapes((1, 299, 299, 3))
    _planes = [_shapes[name][1] for name in ("block1_conv2", "block2", "block3", "block12")]
    _pools = [
        blocks[name].body.layers["pool"] for name in ("block2", "block3", "block4", "block13")
    ]
    _pads = [
        pads_for(p.pad, (n, n), p.size, p.stride)[0] for p, n in zip(_pools, _planes, strict=True)
    ]
    mo.vstack(
        [claim("x.15", _pads, code(pads_for, "total // 2")), mo.md(f"The planes: {_planes}.")]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    plane = mo.ui.slider(4, 12, value=8, label="plane", show_value=True)
    mo.vstack([plane])
    return (plane,)


@app.cell(hide_code=True)
def _(MaxPool2D, Mode, mo, np, plane, table):
    _n = plane.value
    _row = np.broadcast_to(np.arange(_n, dtype=float)[:, None, None], (1, _n, _n, 1))
    _seen = {
        name: MaxPool2D(3, stride=2, pad=pad)
        .forward(_row.copy(), Mode())[0][0, :, 0, 0]
        .astype(int)
        .tolist()
        for name, pad in (("TensorFlow", "same"), ("PyTorch's ports", 1))
    }
    _rows = [(name, ", ".join(map(str, last)), len(last)) for name, last in _seen.items()]
    mo.vstack(
        [
            table(
                (
                    "padding of",
                    "the last row that each window sees, of rows 0, 1, 2, ...",
                    "windows",
                ),
                _rows,
            ),
            mo.md("The same windows." if len({r[1] for r in _rows}) == 1 else "**Other windows.**"),
        ]
    )
    return


@app.cell(hide_code=True)
def _(claim, code, exponential, mo):
    _rate = exponential(0.045, 0.94, 2)
    mo.vstack(
        [
            mo.md("## The learning rate"),
            claim("x.16", _rate(100), code(exponential, "return")),
            mo.md("""
            On ImageNet the paper used SGD with momentum 0.9, a weight decay of 1e-5 (Inception-v3's 4e-5 was too much)
            and dropout of a half before the last layer. The rate and its decay had been chosen for Inception-v3.
            """),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

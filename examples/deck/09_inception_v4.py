"""Inception-v4: uniform modules behind a stem of modules.

The stem, the modules A, B and C and the two reductions, drawn and counted; sizes for other images; what the figures
misprint; and where the released code differs.
"""

import marimo

app = marimo.App(width="medium", app_title="Inception-v4")


@app.cell(hide_code=True)
def _():
    from functools import partial

    import marimo as mo
    import numpy as np

    from inception_np import (
        AvgPool2D,
        BatchNorm,
        Concat,
        Conv2D,
        ConvBNReLU,
        Dropout,
        MaxPool2D,
        Mode,
        Sequential,
        create_model,
        named_params,
        summary,
    )
    from inception_np.layer import walk
    from inception_np.learn.diagram import diagram
    from inception_np.learn.slide import claim, code, figure, numbers, table
    from inception_np.models.blocks import bn_auxiliary
    from inception_np.models.inception_v4 import (
        ORDERS,
        inception_a,
        inception_b,
        inception_c,
        inception_v4,
        reduction_a,
        reduction_b,
        stem,
    )
    from inception_np.models.summary import receptive_field
    from inception_np.training.schedules import exponential

    return (
        AvgPool2D,
        BatchNorm,
        Concat,
        Conv2D,
        ConvBNReLU,
        Dropout,
        MaxPool2D,
        Mode,
        ORDERS,
        Sequential,
        bn_auxiliary,
        claim,
        code,
        create_model,
        diagram,
        exponential,
        figure,
        inception_a,
        inception_b,
        inception_c,
        inception_v4,
        mo,
        named_params,
        np,
        numbers,
        partial,
        receptive_field,
        reduction_a,
        reduction_b,
        stem,
        summary,
        table,
        walk,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    # Inception-v4

    *Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning* asks whether residual
    connections are needed. Inception-v4 is the answer without them: as many uniform modules as will fit, of three
    kinds, behind a stem that is made of modules itself. The deck shows only its title.

    | part | repeated | gives |
    | --- | ---: | --- |
    | stem (figure 3) | 1 | 35x35x384 |
    | Inception-A (figure 4) | 4 | 35x35x384 |
    | Reduction-A (figure 7) | 1 | 17x17x1024 |
    | Inception-B (figure 5) | 7 | 17x17x1024 |
    | Reduction-B (figure 8) | 1 | 8x8x1536 |
    | Inception-C (figure 6) | 3 | 8x8x1536 |
    """)
    return


@app.cell(hide_code=True)
def _(create_model, mo, summary):
    v4 = create_model("inception_v4")
    shown = summary(v4)
    stages = v4.trunk.layers
    mo.show_code()
    return shown, stages, v4


@app.cell(hide_code=True)
def _(Conv2D, claim, code, inception_v4, mo, shown, summary, table, v4):
    _rows = [(r.name, "x".join(map(str, r.output)), r.params, r.macs, r.field) for r in shown.rows]
    _heights = [r.output[0] for r in shown.rows if r.name in v4.printed]
    _channels = [r.output[2] for r in shown.rows if r.name in v4.printed]
    mo.vstack(
        [
            mo.md("## Stage by stage"),
            mo.accordion(
                {
                    "All stages": table(
                        ("stage", "gives", "parameters", "multiply-adds", "sees"), _rows
                    )
                }
            ),
            claim(
                "v4.1", (shown.params, summary("inception_v4", preset="tf_slim", aux=False).params)
            ),
            claim("v4.3", shown.macs, code(Conv2D.macs, "return")),
            claim("v4.4", _heights + _channels, code(inception_v4, "Stages(")),
        ]
    )
    return


@app.cell(hide_code=True)
def _(BatchNorm, ConvBNReLU, claim, code, v4, walk):
    _norms = [layer for _, layer in walk(v4) if isinstance(layer, BatchNorm)]
    claim("v4.2", (len(_norms), sum(norm.beta.data.size for norm in _norms)), code(ConvBNReLU))
    return


@app.cell(hide_code=True)
def _(figure, mo, np, shown):
    _grids = {}
    for _row in shown.rows:
        _macs, _params = _grids.get(_row.output[0], (0, 0))
        _grids[_row.output[0]] = _macs + _row.macs, _params + _row.params
    _drawn, _ax = figure(8, 2.8)
    _names = [f"{n}x{n}" for n in _grids]
    _where = np.arange(len(_grids))
    for _i, (_label, _total, _colour) in enumerate(
        (("multiply-adds", shown.macs, "#1f5fa8"), ("parameters", shown.params, "#e0913f"))
    ):
        _shares = [100 * v[_i] / _total for v in _grids.values()]
        _ax.bar(_where + 0.4 * _i - 0.2, _shares, 0.38, label=_label, color=_colour)
    _ax.set(
        xticks=_where, xticklabels=_names, ylabel="share, %", xlabel="grid that the stage gives"
    )
    _ax.legend(loc="upper left")
    mo.vstack([_drawn, mo.md("The middle grid of 17x17 has more than half of both.")])
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## The stem

    Three convolutions, and then three small modules. Twice a pool and a convolution of stride 2 halve the grid side by
    side. (A blue box is a convolution with batch norm and ReLU. V: a window without padding, as the paper marks it.)
    """)
    return


@app.cell(hide_code=True)
def _(Sequential, code, diagram, mo, stages, stem):
    _first = Sequential(
        **{name: stages[name] for name in ("Conv2d_1a", "Conv2d_2a", "Conv2d_2b", "Mixed_3a")}
    )
    _last = Sequential(**{name: stages[name] for name in ("Mixed_4a", "Mixed_5a")})
    mo.vstack(
        [
            mo.hstack(
                [
                    diagram(_first, (299, 299, 3), "figure 3, lower half"),
                    diagram(_last, (73, 73, 160), "figure 3, upper half"),
                ],
                justify="start",
                align="end",
                wrap=True,
            ),
            code(stem),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Concat, Conv2D, MaxPool2D, claim, code, mo, partial, stem):
    _conv = partial(Conv2D, 192, 192, 3, pad="valid", bias=False)
    _shape = (1, 71, 71, 192)
    _printed, _pool = _conv().out_shape(_shape)[1], MaxPool2D(3, stride=2).out_shape(_shape)[1]
    try:
        Concat(b0=_conv(), b1=MaxPool2D(3, stride=2)).out_shape(_shape)
        _refused = "nothing"
    except ValueError as error:
        _refused = str(error)
    mo.vstack(
        [
            mo.md("### A stride that figure 3 leaves out"),
            claim("v4.16", (_printed, _pool), code(stem, "mixed_5a = ")),
            mo.md(f"The library on figure 3 to the letter: `{_refused}`"),
        ]
    )
    return


@app.cell(hide_code=True)
def _(claim, code, diagram, inception_a, inception_b, inception_c, mo, shown, stages):
    mo.vstack(
        [
            mo.md("""
            ## Inception-A, B and C

            Every module gives as many channels as it takes, so that it can be repeated.
            """),
            diagram(stages["Mixed_5b"], (35, 35, 384), "Inception-A, figure 4"),
            diagram(stages["Mixed_6b"], (17, 17, 1024), "Inception-B, figure 5"),
            diagram(stages["Mixed_7b"], (8, 8, 1536), "Inception-C, figure 6"),
            code(inception_a),
            code(inception_b),
            code(inception_c),
            claim(
                "v4.10",
                [r.params for r in shown.rows if r.name in ("Mixed_5b", "Mixed_6b", "Mixed_7b")],
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ### What the factors are worth

    Figure 5 has a 1x7 and a 7x1 for a 7x7, figure 6 a *fork* of a 1x3 and a 3x1 for a 3x3. The fork's two outputs are
    joined, so each side needs to make only half the channels.
    """)
    return


@app.cell(hide_code=True)
def _(Concat, Conv2D, Sequential, mo, partial):
    plain = partial(Conv2D, bias=False)
    fork = Concat(row=plain(384, 256, (1, 3)), column=plain(384, 256, (3, 1)))
    pair = Sequential(row=plain(192, 192, (1, 7)), column=plain(192, 192, (7, 1)))
    pair_share = pair.macs((1, 17, 17, 192)) / plain(192, 192, 7).macs((1, 17, 17, 192))
    fork_share = fork.macs((1, 8, 8, 384)) / plain(384, 512, 3).macs((1, 8, 8, 384))
    mo.show_code()
    return fork, fork_share, pair_share, plain


@app.cell(hide_code=True)
def _(claim, code, fork, fork_share, inception_b, inception_c, mo, named_params, pair_share, plain):
    _weights = [
        sum(p.data.size for p in named_params(layer).values())
        for layer in (fork, plain(384, 512, 3))
    ]
    mo.vstack(
        [
            claim("v4.8", pair_share, code(inception_b, "b1=")),
            claim("v4.9", fork_share, code(inception_c, "EITHER_WAY")),
            mo.md(f"The fork has {_weights[0]:,} weights, the 3x3 {_weights[1]:,}."),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, Sequential, claim, code, inception_b, mo, receptive_field):
    _twice = Sequential(a=Conv2D(4, 4, (1, 7)), b=Conv2D(4, 4, (1, 7)))
    _turned = Sequential(
        a=Conv2D(4, 4, (7, 1)), b=Conv2D(4, 4, (7, 1))
    )  # receptive_field looks along the height
    _high, _wide = (receptive_field(chain, (1, 17, 17, 4), 1, 1)[0] for chain in (_twice, _turned))
    mo.vstack(
        [
            mo.md("### A kernel that figure 5 prints twice"),
            claim("v4.17", (_high, _wide), code(inception_b, "b1=")),
        ]
    )
    return


@app.cell(hide_code=True)
def _(claim, code, diagram, mo, reduction_a, reduction_b, stages):
    mo.vstack(
        [
            mo.md("""
            ## Reduction-A and B

            Table 1 has Reduction-A's filters as k, l, m and n. Its output has in + m + n channels, as the pool passes
            all of its input.
            """),
            mo.hstack(
                [
                    diagram(stages["Mixed_6a"], (35, 35, 384), "Reduction-A, figure 7"),
                    diagram(stages["Mixed_7a"], (17, 17, 1024), "Reduction-B, figure 8"),
                ],
                justify="start",
                align="end",
                wrap=True,
            ),
            claim("v4.7", stages["Mixed_6a"].out_shape((1, 35, 35, 384))[3], code(reduction_a)),
            code(reduction_b),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Images of other sizes

    No layer knows the size of the images. Larger ones make larger maps, and the global average pool takes what it gets.
    """)
    return


@app.cell(hide_code=True)
def _(mo, v4):
    def last_map(height, width):
        return v4.stage_shapes((1, height, width, 3))["Mixed_7d"][1:]

    mo.show_code()
    return (last_map,)


@app.cell(hide_code=True)
def _(claim, code, last_map, mo, v4):
    mo.vstack(
        [
            claim("v4.5", last_map(150, 150)),
            claim("v4.6", last_map(350, 400), code(type(v4).stage_shapes)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    height = mo.ui.slider(75, 600, step=1, value=299, label="height", show_value=True)
    width = mo.ui.slider(75, 600, step=1, value=299, label="width", show_value=True)
    mo.hstack([height, width], justify="start")
    return height, width


@app.cell(hide_code=True)
def _(height, mo, table, v4, width):
    _shapes = v4.stage_shapes((1, height.value, width.value, 3))
    _sizes = [
        (name, "x".join(map(str, _shapes[name][1:])))
        for name in ("Conv2d_1a", "Mixed_3a", "Mixed_5a", "Mixed_6a", "Mixed_7a", "Mixed_7d")
    ]
    mo.vstack(
        [
            table(("stage", "gives"), _sizes),
            mo.md(f"{v4.macs((1, height.value, width.value, 3)):,} multiply-adds"),
        ]
    )
    return


@app.cell(hide_code=True)
def _(
    ORDERS,
    bn_auxiliary,
    claim,
    code,
    create_model,
    inception_v4,
    mo,
    named_params,
    shown,
    summary,
    table,
    v4,
):
    _code = create_model("inception_v4", asymmetric_order="code")
    _other = summary(_code)
    _towers = [list(net.trunk.layers["Mixed_6b"].branches["b2"].layers) for net in (v4, _code)]
    _head = create_model("inception_v4", aux=True).heads["Mixed_6h"]
    mo.vstack(
        [
            mo.md(f"""
            ## The paper's figures and the released code

            The code turns the long towers round. Figure 5's is `{"`, `".join(_towers[0])}`, the code's
            `{"`, `".join(_towers[1])}`. It also has an auxiliary head that the paper does not mention.
            """),
            table(
                ("option asymmetric_order", "figure 3", "figure 5", "figure 6"),
                [
                    (order, *(", ".join(f"{h}x{w}" for h, w in pair) for pair in pairs))
                    for order, pairs in ORDERS.items()
                ],
            ),
            claim(
                "v4.15",
                (_other.params == shown.params, _other.macs == shown.macs),
                code(inception_v4, "ORDERS[order]"),
            ),
            claim(
                "v4.11", sum(p.data.size for p in named_params(_head).values()), code(bn_auxiliary)
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(AvgPool2D, Mode, claim, code, mo, np, numbers):
    _ones = np.ones((1, 5, 7, 1))
    _pool, _counts = (
        AvgPool2D(3, stride=1, pad="same"),
        AvgPool2D(3, stride=1, pad="same", count_include_pad=True),
    )
    _y, _z = _pool.forward(_ones, Mode())[0], _counts.forward(_ones, Mode())[0]
    mo.vstack(
        [
            mo.md("""
            ## Average pools at the border

            The pool branch averages 3x3 windows that hang over the border. TensorFlow divides by the pixels that are
            there, PyTorch by 9. A plane of ones shows it.
            """),
            mo.hstack(
                [numbers(_y[0], "Divided by what is there"), numbers(_z[0], "Divided by 9")],
                justify="start",
                gap=3,
            ),
            claim("v4.12", bool(_y.min() == _y.max() == 1), code(AvgPool2D)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Dropout, Mode, claim, code, exponential, mo, np):
    _ones = np.ones((100, 2000))
    _dropped, _ = Dropout(0.2).forward(_ones, Mode(train=True, rng=np.random.default_rng(0)))
    _rate = exponential(0.045, 0.94, 2)
    mo.vstack(
        [
            mo.md("## Dropout, and the learning rate"),
            claim("v4.14", float(_dropped.mean() / _ones.mean()), code(Dropout)),
            claim("v4.13", [_rate(epoch) for epoch in (10, 20, 50, 100, 160)], code(exponential)),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

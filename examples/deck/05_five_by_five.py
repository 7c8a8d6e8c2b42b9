"""A 5x5 becomes two 3x3: BN-Inception, the deck's V2.

What two small windows see and cost, why two linear ones are one large one, and the table of the batch norm paper, which
contradicts itself.
"""

import marimo

app = marimo.App(width="medium", app_title="A 5x5 becomes two 3x3")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import (
        Concat,
        Conv2D,
        Mode,
        ReLU,
        Sequential,
        cast,
        create_model,
        named_params,
        summary,
    )
    from inception_np.layer import walk
    from inception_np.layers.conv import ConvReLU
    from inception_np.layers.depthwise import DepthwiseConv2D
    from inception_np.learn.count import depth
    from inception_np.learn.slide import Html, claim, code, figure, numbers, table
    from inception_np.models import bn_inception
    from inception_np.models.bn_inception import PRINTED, inception, reduction
    from inception_np.models.inception_v1 import ROWS
    from inception_np.models.summary import receptive_field

    return (
        Concat,
        Conv2D,
        ConvReLU,
        DepthwiseConv2D,
        Html,
        Mode,
        PRINTED,
        ROWS,
        ReLU,
        Sequential,
        bn_inception,
        cast,
        claim,
        code,
        create_model,
        depth,
        figure,
        inception,
        mo,
        named_params,
        np,
        numbers,
        receptive_field,
        reduction,
        summary,
        table,
        walk,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # A 5x5 becomes two 3x3

    The deck's slide "V2: 5x5 to 3x3" is one picture. Two 3x3 windows, one after the other, see what a 5x5 sees:

    $$ \text{sees}' = \text{sees} + (k - 1), \qquad 1 \to 3 \to 5. $$

    With $C$ channels everywhere they cost $2 \cdot 9\,C^2$ in place of $25\,C^2$ products at each position.
    """)
    return


@app.cell(hide_code=True)
def _(Conv2D, Sequential, mo, summary):
    def five(channels):
        return summary(Conv2D(channels, channels, 5, bias=False), (28, 28, channels))

    def double(channels, layers=2):
        convs = [Conv2D(channels, channels, 3, bias=False) for _ in range(layers)]
        return summary(Sequential(chain=Sequential(*convs)), (28, 28, channels))

    mo.show_code()
    return double, five


@app.cell(hide_code=True)
def _(claim, code, double, five, receptive_field):
    claim(
        "deck.20",
        (double(64).rows[0].field, double(64).macs / five(64).macs),
        code(receptive_field, "- 1) * jump, jump *"),
    )
    return


@app.cell(hide_code=True)
def _(mo):
    channels = mo.ui.slider(8, 256, step=8, value=64, label="channels", show_value=True)
    layers = mo.ui.slider(1, 5, value=2, label="3x3 layers", show_value=True)
    mo.hstack([channels, layers], justify="start")
    return channels, layers


@app.cell(hide_code=True)
def _(Conv2D, Mode, Sequential, cast, channels, double, figure, five, layers, mo, np, table):
    _net = cast(Sequential(*(Conv2D(1, 1, 3, bias=False) for _ in range(layers.value))), np.float64)
    for _conv in _net.layers.values():
        _conv.weight.data[...] = 1
    _x = np.zeros((1, 13, 13, 1))
    _y, _cache = _net.forward(_x, Mode(keep=True))
    _dy = np.zeros(_y.shape)
    _dy[0, 6, 6, 0] = 1  # one output pixel: which inputs does it depend on?
    _dx = _net.backward(_dy, _x, _cache)[0, :, :, 0]
    _drawn, _ax = figure(3.6, 3.0)
    _image = _ax.imshow(
        np.where(_dx > 0, _dx, np.nan), cmap="viridis", extent=(-6.5, 6.5, -6.5, 6.5)
    )
    _ax.set(
        title=f"sees {np.count_nonzero(_dx.any(0))} x {np.count_nonzero(_dx.any(1))}",
        xlabel="pixels",
        ylabel="pixels",
    )
    _drawn.colorbar(_image, label="ways to get there")
    _one, _several = five(channels.value), double(channels.value, layers.value)
    mo.vstack(
        [
            table(
                (f"28x28x{channels.value}", "sees", "parameters", "multiply-adds"),
                [
                    ("one 5x5", _one.rows[0].field, _one.params, _one.macs),
                    (
                        f"{layers.value} of 3x3",
                        _several.rows[0].field,
                        _several.params,
                        _several.macs,
                    ),
                ],
            ),
            mo.md(
                "Which pixels one output depends on is what backward says: of a $dy$ that is 1 at the middle and 0 "
                "elsewhere, $dx$ is not 0 there."
            ),
            _drawn,
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## Two linear windows are one

    Without a ReLU in between, two 3x3 convolutions are linear in $x$, so they are one convolution. Its kernel is the
    gradient of one output by the 5x5 pixels that it sees: for $y = \langle w, x \rangle$, $dx = w$. Backward finds it.
    """)
    return


@app.cell(hide_code=True)
def _(Conv2D, Mode, ReLU, Sequential, cast, mo, np):
    rng = np.random.default_rng(4)

    def pair(between):
        net = Sequential(
            a=Conv2D(1, 1, 3, pad="valid", bias=False),
            **between,
            b=Conv2D(1, 1, 3, pad="valid", bias=False),
        )
        for name, seed in (("a", 1), ("b", 2)):
            net.layers[name].weight.data[...] = np.random.default_rng(seed).integers(
                -2, 3, (3, 3, 1, 1)
            )
        return cast(net, np.float64)

    def gradient_of_one_output(net, x):
        """dx (5, 5) of a net that sees 5x5 pixels, at an x (1, 5, 5, 1)."""
        y, cache = net.forward(x, Mode(keep=True))
        return net.backward(np.ones_like(y), x, cache)[0, :, :, 0]

    linear = pair({})
    one = cast(Conv2D(1, 1, 5, pad="valid", bias=False), np.float64)
    one.weight.data[:, :, 0, 0] = gradient_of_one_output(linear, np.zeros((1, 5, 5, 1)))
    image = rng.standard_normal((2, 11, 9, 1))
    by_two, by_one = linear.forward(image, Mode())[0], one.forward(image, Mode())[0]

    curved = pair({"relu": ReLU()})  # with ReLU in between, the gradient depends on x
    kernels = [gradient_of_one_output(curved, rng.standard_normal((1, 5, 5, 1))) for _ in range(2)]
    mo.show_code()
    return by_one, by_two, kernels, linear, one


@app.cell(hide_code=True)
def _(by_one, by_two, claim, kernels, linear, mo, np, numbers, one):
    _a, _b = (linear.layers[name].weight.data[:, :, 0, 0] for name in "ab")
    mo.vstack(
        [
            mo.hstack(
                [
                    numbers(_a, "first 3x3"),
                    numbers(_b, "second 3x3"),
                    numbers(one.weight.data[:, :, 0, 0], "together: one 5x5"),
                ],
                justify="start",
                gap=3,
            ),
            claim("deck.21", np.allclose(by_two, by_one, rtol=0, atol=1e-12)),
            mo.md(
                "With a ReLU between the two there is no such kernel. At two random inputs the gradients of the same "
                "output differ: the pair computes more than a 5x5 can."
            ),
            mo.hstack(
                [numbers(k, f"gradient at x {i}") for i, k in enumerate(kernels)],
                justify="start",
                gap=3,
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## BN-Inception's table

    The batch norm paper's network has ten modules, their 5x5 as two 3x3. The deck copies its table cell by cell.
    Filters and output sizes contradict each other: orange is what the filters give where another size is printed.
    Public networks either keep the filters (Caffe's, Chainer's) or the sizes, with projections of 96 (TF-slim).
    """)
    return


@app.cell(hide_code=True)
def _(create_model, mo, summary):
    v1 = create_model("inception_v1", aux=False)
    networks = {proj: create_model("bn_inception", pool_proj_4cd=proj) for proj in (96, 128)}
    tables = {proj: summary(net) for proj, net in networks.items()}
    v1_table = summary(v1)
    mo.show_code()
    return networks, tables, v1, v1_table


@app.cell(hide_code=True)
def _(Concat, networks, tables):
    modules = [
        name for name, stage in networks[96].trunk.layers.items() if isinstance(stage, Concat)
    ]  # 3a ... 5b
    sizes = {proj: {row.name: row.output for row in t.rows} for proj, t in tables.items()}
    return modules, sizes


@app.cell(hide_code=True)
def _(Html, PRINTED, mo, sizes, table):
    def _cell(size, printed):
        shown = "x".join(map(str, size))
        return shown if shown == printed else Html(f'<b style="color:#b35900">{shown}</b>')

    _rows = []
    for _name, _says in PRINTED.items():
        _printed = _says.partition(":")[0]
        _rows.append(
            (_name, _printed, *(_cell(sizes[proj][_name], _printed) for proj in (128, 96)))
        )
    mo.vstack([table(("row", "printed", "projections of 128, as printed", "of 96"), _rows)])
    return


@app.cell(hide_code=True)
def _(bn_inception, claim, code, depth, inception, mo, modules, networks, reduction, sizes):
    _depths = {depth(networks[96].trunk.layers[name]) for name in modules}
    assert len(_depths) == 1
    mo.vstack(
        [
            claim(
                "bn.1",
                [sizes[128][name][2] for name in modules],
                code(bn_inception, "proj_4cd) if"),
            ),
            claim(
                "bn.2", [sizes[96][name][0] for name in ("3c", "4e")], code(reduction, "stride=2")
            ),
            claim("deck.22", depth(networks[96].trunk.layers["conv2"]), code(depth)),
            claim("deck.23", _depths.pop(), code(inception, "conv2=")),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, DepthwiseConv2D, claim, depth, mo, modules, networks, tables, v1_table, walk):
    def _reading(t, size):
        """The modules of a table whose input is size x size."""
        return [
            row.name
            for before, row in zip(t.rows, t.rows[1:], strict=False)
            if row.name[0].isdigit() and before.output[0] == size
        ]

    _kinds = [type(layer) for _, layer in walk(networks[96])]
    _convs, _depthwise = _kinds.count(Conv2D), _kinds.count(DepthwiseConv2D)
    mo.vstack(
        [
            mo.md("## What changed since GoogLeNet"),
            claim("bn.8", (len(_reading(v1_table, 28)), len(_reading(tables[96], 28)))),
            claim("bn.17", (_convs, _convs + _depthwise)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(
        "To see what two 3x3 alone do, here they replace the nine 5x5 of GoogLeNet, and nothing else changes:"
    )
    return


@app.cell(hide_code=True)
def _(ConvReLU, ROWS, Sequential, create_model, mo, summary):
    replaced = create_model("inception_v1", aux=False)
    for name, row in ROWS.items():
        if not isinstance(row, str):
            reduced, out = row[2]
            replaced.trunk.layers[name].branches["b5"] = Sequential(
                reduce=replaced.trunk.layers[name].branches["b5"].layers["reduce"],
                conv1=ConvReLU(reduced, out, 3),
                conv2=ConvReLU(out, out, 3),
            )
    replaced_table = summary(replaced)
    mo.show_code()
    return replaced, replaced_table


@app.cell(hide_code=True)
def _(claim, create_model, depth, mo, named_params, replaced, replaced_table, v1, v1_table):
    def _weights(net):
        return sum(p.data.size for path, p in named_params(net).items() if path.endswith("weight"))

    _more = _weights(replaced) - _weights(v1), replaced_table.macs - v1_table.macs
    _dense = create_model("bn_inception", preset="caffe", pool_proj_4cd=96)  # a dense 7x7, as in v1
    mo.vstack([claim("bn.5", _more), claim("bn.7", (depth(replaced), depth(_dense)))])
    return


@app.cell(hide_code=True)
def _(claim, create_model, mo, named_params, networks, summary, tables, v1, v1_table):
    def _weights_and_classifier(net):
        found = named_params(net).items()
        return sum(
            p.data.size for path, p in found if path.endswith("weight") or path.startswith("fc.")
        )

    _separable = summary("inception_v1", separable_stem=True, aux=False)
    _dense = summary("bn_inception", preset="caffe", pool_proj_4cd=96)
    _chainer = summary("bn_inception", preset="chainer")
    _first = sum(
        p.data.size
        for path, p in named_params(networks[96]).items()
        if path.startswith("conv1") and path.endswith("weight")
    )
    mo.vstack(
        [
            mo.md("## Its cost"),
            claim("bn.3", (tables[96].macs / _separable.macs, _dense.macs / v1_table.macs)),
            claim("bn.4", _weights_and_classifier(networks[96]) / _weights_and_classifier(v1)),
            claim(
                "bn.6",
                (tables[96].params, tables[128].params, _chainer.params + _chainer.params_aux),
            ),
            claim(
                "bn.13",
                (
                    1 - _first / v1.trunk.layers["conv1"].weight.data.size,
                    v1_table.rows[0].macs,
                    tables[96].rows[0].macs,
                ),
            ),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

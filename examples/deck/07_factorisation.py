"""Factorisation: an n x n window from a 1 x n and an n x 1.

What small windows in a row save, which kernels a pair can make, why the deck's "7x7" are two different ones, and what
the 17x17 modules would cost without it.
"""

import marimo

app = marimo.App(width="medium", app_title="Factorisation")


@app.cell(hide_code=True)
def _():
    from functools import partial

    import marimo as mo
    import numpy as np

    from inception_np import (
        Concat,
        Conv2D,
        ConvBNReLU,
        Mode,
        ReLU,
        Sequential,
        create_model,
        named_params,
        summary,
    )
    from inception_np.learn.diagram import diagram
    from inception_np.learn.slide import claim, code, figure, numbers, table
    from inception_np.models.blocks import pooled, tower
    from inception_np.models.inception_v3 import FIGURE_6, SIDE, figure_6, inception_v3
    from inception_np.models.summary import receptive_field

    rng = np.random.default_rng(0)
    return (
        Concat,
        Conv2D,
        ConvBNReLU,
        FIGURE_6,
        Mode,
        ReLU,
        SIDE,
        Sequential,
        claim,
        code,
        create_model,
        diagram,
        figure,
        figure_6,
        inception_v3,
        mo,
        named_params,
        np,
        numbers,
        partial,
        pooled,
        receptive_field,
        rng,
        summary,
        table,
        tower,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Factorisation: an $n \times n$ window from a $1 \times n$ and an $n \times 1$

    A convolution makes $H W \cdot k_h k_w \cdot C_{in} C_{out}$ multiply-adds. A large window can be had from small
    ones, one behind the other. With $C$ channels everywhere:

    $$\frac{\text{two } 3\times3}{5\times5} = \frac{18}{25} \qquad
      \frac{3\times1,\ 1\times3}{3\times3} = \frac{6}{9} \qquad
      \frac{\text{two } 2\times2}{3\times3} = \frac{8}{9} \qquad
      \frac{1\times n,\ n\times1}{n\times n} = \frac{2}{n}$$
    """)
    return


@app.cell(hide_code=True)
def _(Conv2D, Sequential, mo):
    def cost(*kernels, channels=64, grid=(17, 17)):
        """Multiply-adds of convolutions one behind the other."""
        chain = Sequential(*(Conv2D(channels, channels, kernel, bias=False) for kernel in kernels))
        return chain.macs((1, *grid, channels))

    savings = {
        "5x5: two 3x3": 1 - cost(3, 3) / cost(5),
        "3x3: 3x1, 1x3": 1 - cost((3, 1), (1, 3)) / cost(3),
        "3x3: two 2x2": 1 - cost(2, 2) / cost(3),
        "7x7: 1x7, 7x1": 1 - cost((1, 7), (7, 1)) / cost(7),
    }
    mo.show_code()
    return cost, savings


@app.cell(hide_code=True)
def _(Conv2D, claim, code, cost, figure, mo, savings):
    _drawn, (_left, _right) = figure(9, 3, 2)
    _left.barh(list(savings), [100 * s for s in savings.values()], color="#6fa8dc")
    _left.invert_yaxis()
    _left.set(xlabel="saved, %", xlim=(0, 85))
    for _i, _s in enumerate(savings.values()):
        _left.text(100 * _s + 1, _i, f"{100 * _s:.1f}", va="center")
    _sizes = range(2, 12)
    _right.plot(
        _sizes, [100 * (1 - cost((1, n), (n, 1)) / cost(n)) for n in _sizes], "o-", color="#6fa8dc"
    )
    _right.set(xlabel="n", ylabel="1 x n and n x 1 save, %", xticks=list(_sizes), ylim=(-5, 90))
    _right.grid(alpha=0.3)
    mo.vstack(
        [
            mo.md("## What is saved"),
            _drawn,
            claim("re.1", list(savings.values()), code(Conv2D.macs, "return")),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    window = mo.ui.slider(2, 11, value=7, label="n", show_value=True)
    channels = mo.ui.slider(16, 384, step=16, value=192, label="channels", show_value=True)
    mo.vstack(
        [mo.md("Turn the window and the channels:"), mo.hstack([window, channels], justify="start")]
    )
    return channels, window


@app.cell(hide_code=True)
def _(channels, cost, mo, table, window):
    _n, _c = window.value, channels.value
    _full, _pair = cost(_n, channels=_c), cost((1, _n), (_n, 1), channels=_c)
    _rows = [
        (f"{_n}x{_n}", _full // 17**2, _full, 1.0),
        (f"1x{_n}, {_n}x1", _pair // 17**2, _pair, _pair / _full),
    ]
    _head = ("window", "weights", "multiply-adds on 17x17", "of the full one")
    mo.vstack(
        [
            table(_head, _rows),
            mo.md("At n = 2 the pair saves nothing. The share does not depend on channels."),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## Which kernels a pair can make

    One behind the other, without a ReLU between them, a $1 \times n$ row $r$ and an $n \times 1$ column $c$ are one
    $n \times n$ convolution with the kernel

    $$K_{ij} = c_i \, r_j ,$$

    an outer product: for each pair of channels a matrix of rank 1. A full kernel has $n^2$ free numbers, this one
    $2n - 1$. Sobel's edge filter is such a product. Laplace's is not: it has rank 2.
    """)
    return


@app.cell(hide_code=True)
def _(Conv2D, Mode, Sequential, mo, np):
    def kernel_of(layer, shape=(1, 11, 9, 1)):
        """What the middle output pixel reads: its gradient. shape: of an image."""
        _, kept = layer.forward(np.zeros(shape), Mode(keep=True))
        dy = np.zeros(shape)
        dy[0, shape[1] // 2, shape[2] // 2, 0] = 1
        return layer.backward(dy, np.zeros(shape), kept)[0, :, :, 0]

    def pair(row, column):
        """1 x n with these weights, then n x 1 with those."""
        first, second = (
            Conv2D(1, 1, (1, len(row)), bias=False),
            Conv2D(1, 1, (len(column), 1), bias=False),
        )
        first.weight.data = np.reshape(row, (1, -1, 1, 1)).astype(float)
        second.weight.data = np.reshape(column, (-1, 1, 1, 1)).astype(float)
        first.weight.grad, second.weight.grad = (
            np.zeros((1, len(row), 1, 1)),
            np.zeros((len(column), 1, 1, 1)),
        )
        return Sequential(row=first, column=second)

    mo.show_code()
    return kernel_of, pair


@app.cell(hide_code=True)
def _(claim, kernel_of, mo, np, numbers, pair, rng):
    _sees = kernel_of(pair(rng.standard_normal(7), rng.standard_normal(7)))
    _rows, _columns = (int((np.abs(_sees).sum(axis) > 0).sum()) for axis in (1, 0))
    _sobel = kernel_of(pair([1, 0, -1], [1, 2, 1]), (1, 5, 5, 1))[1:4, 1:4]
    _laplace = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    mo.vstack(
        [
            mo.hstack(
                [
                    numbers(_sobel.astype(int), "Row 1 0 -1, column 1 2 1: Sobel's, rank 1"),
                    numbers(
                        _laplace,
                        f"Laplace's, rank {np.linalg.matrix_rank(_laplace)}: no pair makes it",
                    ),
                ],
                justify="start",
                gap=3,
            ),
            numbers(_sees, "What the middle output of a random 1x7 and 7x1 reads, of 11x9 pixels"),
            claim("re.15", (_rows, _columns, int(np.linalg.matrix_rank(_sees)))),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    rank = mo.ui.slider(1, 7, value=1, label="pairs side by side, summed", show_value=True)
    mo.vstack(
        [
            mo.md(
                "Between many channels there are many pairs. The sum of $r$ pairs has rank $r$; seven make any 7x7 "
                "kernel (its singular value decomposition), at twice the price of the full one."
            ),
            rank,
        ]
    )
    return (rank,)


@app.cell(hide_code=True)
def _(figure, kernel_of, mo, np, pair, rank):
    _wanted = np.random.default_rng(3).standard_normal((7, 7))
    _u, _s, _v = np.linalg.svd(_wanted)
    _made = sum(kernel_of(pair(_s[i] * _v[i], _u[:, i]), (1, 7, 7, 1)) for i in range(rank.value))
    _error = np.linalg.norm(_made - _wanted) / np.linalg.norm(_wanted)
    _drawn, _axes = figure(7, 2.6, 2)
    for _ax, _image, _name in zip(
        _axes, (_wanted, _made), ("a 7x7 kernel", f"{rank.value} summed"), strict=True
    ):
        _ax.imshow(_image, cmap="RdBu_r", vmin=-3, vmax=3)
        _ax.set(title=_name, xticks=[], yticks=[])
    mo.vstack(
        [
            _drawn,
            mo.md(f"{14 * rank.value} weights; the full kernel has 49. Error **{_error:.1%}**"),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, Sequential, claim, code, mo, receptive_field, summary):
    _sees = [
        summary(Sequential(*(Conv2D(4, 4, 3) for _ in range(n))), (15, 13, 4)).rows[-1].field
        for n in (2, 3)
    ]
    mo.vstack(
        [
            mo.md(r"""
            ## Two 3x3 see 5x5, three see 7x7

            Each 3x3 adds one pixel on either side: $1 + 2 \cdot 2 = 5$ and $1 + 3 \cdot 2 = 7$. The paper keeps a ReLU
            behind every one. A linear first layer did worse in its experiments.
            """),
            claim("re.16", _sees, code(receptive_field, "sees + dilation")),
        ]
    )
    return


@app.cell(hide_code=True)
def _(
    Conv2D,
    ConvBNReLU,
    claim,
    code,
    create_model,
    figure_6,
    inception_v3,
    mo,
    named_params,
    partial,
    rng,
):
    _module = figure_6(partial(ConvBNReLU, rng=rng), 768, 192, 192)
    _pair = [unit for name, unit in _module.branches["b1"].layers.items() if name != "1x1"]
    _shape = (1, 17, 17, 192)
    _macs = sum(unit.macs(_shape) for unit in _pair)
    _relus = sum(isinstance(unit, ConvBNReLU) for unit in _pair)
    _stem = list(create_model("inception_v3").trunk.layers.values())[:3]
    _small = sum(
        p.data.size
        for layer in _stem
        for name, p in named_params(layer).items()
        if name == "conv.weight"
    )
    mo.vstack(
        [
            mo.md("""
            ## Two different "7x7"

            The deck says: *7x7 becomes two one-dimensional convolutions (1x7, 7x1), and 3x3 likewise*. There are two
            7x7 in the paper, and they end differently.

            - **In the modules** of the 17x17 grid. A 7x7 becomes a 1x7 and a 7x1, each with batch norm and ReLU.
            - **In the stem.** GoogLeNet begins with a 7x7 of stride 2 on three channels. It becomes *three 3x3*.
            """),
            claim(
                "deck.30",
                (_macs / Conv2D(192, 192, 7).macs(_shape), len(_pair), _relus),
                code(figure_6, "(1, 7), (7, 1))"),
            ),
            claim(
                "re.20",
                (Conv2D(3, 64, 7, stride=2, bias=False).weight.data.size, _small),
                code(inception_v3, "Conv2d_2"),
            ),
            mo.md(
                "The deck's last point is for the next page: in the 8x8 modules 1x3 and 3x1 stand side by side."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## The 17x17 modules, factorised and full

    Four modules of figure 6 work on the 17x17 grid, with $c$ = 128, 160, 160 and 192 channels inside. Here is one of
    them, and the same one with full 7x7 convolutions. (A blue box is a convolution with batch norm and ReLU. Below its
    name stands what comes out.)
    """)
    return


@app.cell(hide_code=True)
def _(Concat, Conv2D, FIGURE_6, SIDE, figure_6, mo, named_params, partial, pooled, rng, tower):
    conv = partial(Conv2D, bias=False, rng=rng)  # weights alone, no batch norm

    def full_figure_6(inside, side=SIDE, channels=768):
        """figure_6 with a 7x7 wherever it has a 1x7 and a 7x1."""
        return Concat(
            b0=conv(channels, side, 1),
            b1=tower(conv, channels, (inside, side), (1, 7)),
            b2=tower(conv, channels, (inside, inside, side), (1, 7, 7)),
            b3=pooled(conv, channels, side),
        )

    def weights(layer):
        return sum(p.data.size for p in named_params(layer).values())

    modules = {
        c: (weights(figure_6(conv, 768, c, SIDE)), weights(full_figure_6(c)))
        for c in sorted(set(FIGURE_6))
    }
    mo.show_code()
    return conv, full_figure_6, modules


@app.cell(hide_code=True)
def _(SIDE, claim, code, conv, diagram, figure_6, full_figure_6, mo, modules, table):
    _rows = [(c, pair, full, pair / full) for c, (pair, full) in modules.items()]
    mo.vstack(
        [
            mo.hstack(
                [
                    diagram(figure_6(conv, 768, 128, SIDE), (17, 17, 768), "factorised"),
                    diagram(full_figure_6(128), (17, 17, 768), "full"),
                ],
                justify="start",
                align="end",
                wrap=True,
            ),
            table(("channels inside", "weights with 1x7 and 7x1", "with 7x7", "share"), _rows),
            claim("re.18", [pair / full for pair, full in modules.values()], code(figure_6)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Mode, ReLU, Sequential, kernel_of, mo, np, pair):
    _row, _column = [1.0, -2.0, 1.0], [1.0, 1.0, -1.0]
    _linear = pair(_row, _column)
    _bent = Sequential(row=_linear.layers["row"], relu=ReLU(), column=_linear.layers["column"])
    _x = np.random.default_rng(1).standard_normal((1, 7, 9, 1))
    _odd = [
        float(np.abs(f.forward(_x, Mode())[0] + f.forward(-_x, Mode())[0]).max())
        for f in (_linear, _bent)
    ]
    _rank = np.linalg.matrix_rank(kernel_of(_linear))
    mo.md(f"""
    ## With the ReLU

    As the networks have it, with a ReLU in between, the pair is no convolution any more. A linear $f$ has
    $f(x) + f(-x) = 0$: here the largest entry is **{_odd[0]:.1e}** without the ReLU (one kernel, rank {_rank}) and
    **{_odd[1]:.2f}** with it. So the pair is not "a cheaper 7x7", but another function that sees as much.
    """)
    return


if __name__ == "__main__":
    app.run()

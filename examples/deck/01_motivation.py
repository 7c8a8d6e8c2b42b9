"""Why not simply a bigger network.

What width costs, what parameters learn by heart, why sparse connections are slow on real machines, and how
correlations between units say which of them belong together.
"""

import marimo

app = marimo.App(width="medium", app_title="Why not simply a bigger network")


@app.cell(hide_code=True)
def _():
    from timeit import repeat

    import marimo as mo
    import numpy as np

    from inception_np import (
        SGD,
        Conv2D,
        Linear,
        Mode,
        ReLU,
        Sequential,
        cast,
        named_params,
        softmax_cross_entropy,
        summary,
    )
    from inception_np.data.shapes10 import shapes10
    from inception_np.learn.slide import claim, code, figure, said, table

    return (
        Conv2D,
        Linear,
        Mode,
        ReLU,
        SGD,
        Sequential,
        cast,
        claim,
        code,
        figure,
        mo,
        named_params,
        np,
        repeat,
        said,
        shapes10,
        softmax_cross_entropy,
        summary,
        table,
    )


@app.cell(hide_code=True)
def _(mo, said):
    mo.vstack(
        [
            mo.md(r"""
    # Why not simply a bigger network

    The deck begins with a question: how does one improve a deep network? Its answer is a bigger one, deeper and wider.
    It names two problems, more computation and overfitting, and one solution: connect sparsely. Each is tried here.
    """),
            said("deck.29"),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, Sequential, summary):
    def chain(width):
        """Two 3x3 convolutions, one after the other, with as many channels in between as before and after."""
        return Sequential(Conv2D(width, width, 3), Conv2D(width, width, 3))

    def cost(width, size=28):
        return summary(chain(width), (size, size, width)).macs

    return chain, cost


@app.cell(hide_code=True)
def _(Conv2D, claim, code, cost, mo):
    position = Conv2D(64, 64, 3).macs((1, 1, 1, 64))  # multiply-adds of one output pixel
    mo.vstack(
        [
            mo.md(r"""
    ## Computation grows with the square of the width

    At each position a $k \times k$ convolution takes, for each of its $C_{out}$ outputs, one inner product over
    $k^2 C_{in}$ numbers. With $C$ channels before and after, $k = 3$:

    $$ 3 \cdot 3 \cdot C \cdot C = 9\,C^2 \quad\text{multiply-adds per position.} $$
    """),
            claim("deck.1", position // 64**2, code(Conv2D.macs, "weight.data.size")),
            claim("v1.16", tuple(cost(64 * n) / cost(64) for n in (2, 3, 4))),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    channels = mo.ui.slider(16, 512, step=16, value=128, label="channels C", show_value=True)
    mo.hstack([channels], justify="start")
    return (channels,)


@app.cell(hide_code=True)
def _(chain, channels, cost, figure, mo, summary):
    _drawn, _ax = figure(7, 2.8)
    _widths = list(range(16, 513, 16))
    _ax.plot(_widths, [cost(c) / 1e9 for c in _widths])
    _ax.plot(channels.value, cost(channels.value) / 1e9, "o", color="C3")
    _ax.set(
        xlabel="channels C", ylabel="billion multiply-adds", title="two 3x3 convolutions at 28x28"
    )
    _table = summary(chain(channels.value), (28, 28, channels.value))
    mo.vstack(
        [
            mo.md(
                f"C = {channels.value}: **{_table.macs:,}** multiply-adds and **{_table.params:,}** parameters."
            ),
            _drawn,
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## Parameters learn by heart

    Labels drawn at random hold nothing to learn, only something to remember. A narrow network cannot remember 64 of
    them. A wide one can, and is right about half of all other inputs: as good as a coin.
    """)
    return


@app.cell(hide_code=True)
def _(Linear, Mode, ReLU, SGD, Sequential, cast, mo, named_params, np, softmax_cross_entropy):
    def learn_by_heart(width, steps=400):
        """(parameters, training accuracy, test accuracy) of a layer trained on 64 random labels."""
        rng = np.random.default_rng(1)
        x, labels = rng.standard_normal((64, 16)), rng.integers(0, 2, 64)
        other_x, other_labels = rng.standard_normal((2000, 16)), rng.integers(0, 2, 2000)
        net = cast(
            Sequential(Linear(16, width, rng=rng), ReLU(), Linear(width, 2, rng=rng)), np.float64
        )
        optimiser = SGD(net, 0.3, momentum=0.9)
        for _ in range(steps):
            y, cache = net.forward(x, Mode(train=True, keep=True))
            _, dy = softmax_cross_entropy(y, labels)
            net.backward(dy, x, cache)
            optimiser.step()

        def right(x, labels):
            return float((net.forward(x, Mode())[0].argmax(1) == labels).mean())

        return (
            sum(p.data.size for p in named_params(net).values()),
            right(x, labels),
            right(other_x, other_labels),
        )

    hearts = {width: learn_by_heart(width) for width in (1, 2, 4, 8, 16, 32, 64)}
    mo.show_code()
    return (hearts,)


@app.cell(hide_code=True)
def _(claim, figure, hearts, mo):
    _drawn, _ax = figure(7, 2.8)
    _params, _train, _test = zip(*hearts.values(), strict=True)
    _ax.semilogx(_params, _train, "o-", label="the 64 it was trained on")
    _ax.semilogx(_params, _test, "s--", label="2000 others")
    _ax.set(xlabel="parameters", ylabel="right", ylim=(0.4, 1.05), title="labels drawn at random")
    _ax.legend(loc="center right")
    _by_heart = hearts[64][1] == 1 and hearts[1][1] < 0.9 and max(_test) < 0.6
    mo.vstack([_drawn, claim("deck.2", _by_heart)])
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("## A product saved is not time saved")
    return


@app.cell(hide_code=True)
def _(mo, np, repeat):
    def dense_and_sparse(density, units=512, batch=128):
        """Seconds of a product w x, dense and by gathers, and the multiply-adds of each."""
        rng = np.random.default_rng(0)
        w = rng.standard_normal((units, units), np.float32) * (rng.random((units, units)) < density)
        x = rng.standard_normal((units, batch), np.float32)
        places = [np.flatnonzero(row) for row in w]  # of each row of w, where it is not zero
        values = [row[place] for row, place in zip(w, places, strict=True)]

        def dense():
            return w @ x

        def sparse():
            return np.stack([value @ x[place] for value, place in zip(values, places, strict=True)])

        assert np.allclose(dense(), sparse(), atol=1e-3)
        seconds = (
            min(repeat(dense, number=3, repeat=7)) / 3,
            min(repeat(sparse, number=1, repeat=5)),
        )
        return *seconds, w.size * batch, np.count_nonzero(w) * batch

    mo.show_code()
    return (dense_and_sparse,)


@app.cell(hide_code=True)
def _(claim, dense_and_sparse, mo):
    _dense, _sparse, _all, _some = dense_and_sparse(0.1)
    slower = (_sparse / _some) / (_dense / _all)
    mo.vstack(
        [
            mo.md(f"""
    Nine of ten weights are zero here, so a sparse product makes a tenth of the multiply-adds. It has to look up which
    ones, and to gather their inputs; a dense product streams through memory and keeps every multiplier of the
    processor busy. On this machine, a moment ago: dense {_dense * 1e3:.2f} ms, sparse {_sparse * 1e3:.2f} ms. One
    multiply-add of the sparse product took **{slower:.0f} times** as long.
    """),
            claim("deck.3", slower > 1),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    density = mo.ui.slider(1, 50, value=10, label="weights that are not zero, %", show_value=True)
    mo.hstack([density], justify="start")
    return (density,)


@app.cell(hide_code=True)
def _(dense_and_sparse, density, mo, table):
    _dense, _sparse, _all, _some = dense_and_sparse(density.value / 100)
    mo.vstack(
        [
            table(
                ("product", "multiply-adds", "ms", "billion a second"),
                [
                    ("dense", _all, f"{_dense * 1e3:.2f}", f"{_all / _dense / 1e9:.1f}"),
                    ("sparse", _some, f"{_sparse * 1e3:.2f}", f"{_some / _sparse / 1e9:.1f}"),
                ],
                "512 x 512 weights by 128 inputs, measured when the slider moved",
            ),
            mo.md(
                "So the paper asks for something else: a sparse structure *between* blocks that are dense inside. A "
                "module of parallel dense convolutions is one."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, mo, said, table):
    _full = Conv2D(6, 16, 5).macs((1, 10, 10, 6))
    # LeNet-5, table I: C3's maps read 3 (six of them), 4 (nine) or all 6 (one) of the six maps before
    _reads = [3] * 6 + [4] * 9 + [6]
    _sparse = sum(Conv2D(n, 1, 5).macs((1, 10, 10, n)) for n in _reads)
    mo.vstack(
        [
            said("deck.7"),
            table(
                ("LeNet-5's C3, at 10x10", "multiply-adds"),
                [("sparse, as in 1998", _sparse), ("all maps read by all", _full)],
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## Which units belong together

    Arora et al. build a network from the data upwards: units whose activations are correlated get a common unit in the
    next layer. Here, 6 hidden causes drive 24 units through sparse weights. The causes are found from correlations
    alone.
    """)
    return


@app.cell(hide_code=True)
def _(Linear, Mode, ReLU, cast, mo, np):
    causes, each = 6, 4  # hidden causes, and the units that each of them drives

    def hidden_causes(noise, samples=2000):
        """Activations (samples, 24) of units in shuffled order, and the cause (24,) of each."""
        rng = np.random.default_rng(3)
        cause = rng.permutation(np.repeat(np.arange(causes), each))
        layer = cast(Linear(causes, causes * each, rng=rng), np.float64)
        layer.weight.data[...] = np.where(
            cause == np.arange(causes)[:, None], 1.0, 0.0
        )  # sparse: one cause a unit
        active = (rng.random((samples, causes)) < 0.3).astype(np.float64)
        y, _ = layer.forward(active, Mode())
        return ReLU().forward(y + noise * rng.standard_normal(y.shape), Mode())[0], cause

    def clusters(correlation, least=0.3):
        """Each unit's group: units that are correlated, directly or through others."""
        group = np.arange(len(correlation))
        for i, j in zip(*np.nonzero(correlation > least), strict=True):
            group[group == group[j]] = group[i]
        return group

    mo.show_code()
    return causes, clusters, hidden_causes


@app.cell(hide_code=True)
def _(mo):
    noise = mo.ui.slider(0.0, 2.0, step=0.1, value=0.3, label="noise", show_value=True)
    mo.hstack([noise], justify="start")
    return (noise,)


@app.cell(hide_code=True)
def _(clusters, figure, hidden_causes, mo, noise, np):
    _y, _cause = hidden_causes(noise.value)
    _correlation = np.corrcoef(_y.T)
    _order = np.argsort(clusters(_correlation), kind="stable")
    _drawn, _axes = figure(7.4, 3.3, 2)
    for _ax, _shown, _title in (
        (_axes[0], _correlation, "units as they come"),
        (_axes[1], _correlation[np.ix_(_order, _order)], "put together by correlation"),
    ):
        _image = _ax.imshow(_shown, vmin=-1, vmax=1, cmap="RdBu_r")
        _ax.set(title=_title, xlabel="unit", ylabel="unit")
    _drawn.colorbar(_image, ax=_axes, label="correlation", shrink=0.9)
    mo.vstack(
        [mo.md(f"{len(set(clusters(_correlation)))} groups are found at this noise."), _drawn]
    )
    return


@app.cell(hide_code=True)
def _(claim, clusters, hidden_causes, mo, np, said):
    _y, _cause = hidden_causes(0.3)
    _group = clusters(np.corrcoef(_y.T))
    # a unit is placed right where its group is exactly the units of its cause
    _right = sum(
        set(np.flatnonzero(_group == _group[i])) == set(np.flatnonzero(_cause == _cause[i]))
        for i in range(24)
    )
    mo.vstack([claim("deck.5", int(_right)), said("deck.4"), said("deck.6")])
    return


@app.cell(hide_code=True)
def _(np, shapes10):
    images = shapes10("train", 1000)[0].mean(3)  # grey, (N, 32, 32)

    def correlation_at(distance):
        """The mean correlation of a pixel with the one so many pixels to its right, and below it."""
        if distance == 0:
            return 1.0
        right = np.corrcoef(images[:, :, :-distance].ravel(), images[:, :, distance:].ravel())[0, 1]
        below = np.corrcoef(images[:, :-distance].ravel(), images[:, distance:].ravel())[0, 1]
        return float(right + below) / 2

    return (correlation_at,)


@app.cell(hide_code=True)
def _(correlation_at, figure, mo):
    _drawn, _ax = figure(7, 2.8)
    _far = range(12)
    _ax.plot(_far, [correlation_at(d) for d in _far], "o-", color="k")
    for _reach, _colour in ((2, "C0"), (1, "C1"), (0, "C2")):
        _kernel = 2 * _reach + 1
        _ax.axvspan(
            -0.2, _reach + 0.2, color=_colour, alpha=0.25, label=f"within {_kernel}x{_kernel}", lw=0
        )
    _ax.set(
        xlabel="pixels apart",
        ylabel="correlation",
        xlim=(-0.2, 11.2),
        title="1000 drawn images (shapes10)",
    )
    _ax.legend(loc="upper right")
    mo.vstack(
        [
            mo.md(r"""
    ## From clusters to windows

    In an image, correlated units are near each other. Most clusters lie at one position: a 1x1 convolution over the
    channels covers them. Fewer and wider ones need 3x3, and fewer still 5x5. So the module of the next page has
    all three sizes side by side.
    """),
            _drawn,
        ]
    )
    return


if __name__ == "__main__":
    app.run()

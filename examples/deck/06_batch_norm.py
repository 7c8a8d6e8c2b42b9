"""Batch norm, and the five accelerations that the deck lists.

What it does to a batch and to gradients, activations by depth with it and without it, and which of the five a program
can check.
"""

import marimo

app = marimo.App(width="medium", app_title="Batch norm")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import (
        LRN,
        SGD,
        BatchNorm,
        Conv2D,
        Dropout,
        GlobalAvgPool2D,
        Linear,
        Mode,
        ReLU,
        Sequential,
        cast,
        create_model,
        named_params,
        softmax_cross_entropy,
        zero_grad,
    )
    from inception_np.data.shapes10 import shapes10
    from inception_np.kernels.batchnorm import batch_norm, batch_norm_grad, moments
    from inception_np.layer import walk
    from inception_np.learn.slide import claim, code, figure, numbers, said, table

    return (
        BatchNorm,
        Conv2D,
        Dropout,
        GlobalAvgPool2D,
        LRN,
        Linear,
        Mode,
        ReLU,
        SGD,
        Sequential,
        batch_norm,
        batch_norm_grad,
        cast,
        claim,
        code,
        create_model,
        figure,
        mo,
        moments,
        named_params,
        np,
        numbers,
        said,
        shapes10,
        softmax_cross_entropy,
        table,
        walk,
        zero_grad,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Batch norm

    In a deep network the scale of a layer's input depends on the weights of all layers below, and moves when they
    learn. Batch norm takes it out. For each channel, over the $m = N H W$ values of a batch:

    $$ \mu = \langle x \rangle, \quad \sigma^2 = \langle (x - \mu)^2 \rangle, \quad
       \hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}}, \quad y = \gamma \hat x + \beta. $$

    $\gamma$ and $\beta$ are learned. Here are four images of 1x2 pixels and two channels, of very different scales.
    """)
    return


@app.cell(hide_code=True)
def _(BatchNorm, Mode, cast, code, batch_norm, mo, moments, np, numbers):
    _x = (
        np.stack([[1, 3, 2, 8, 4, 6, 5, 3], [100, -50, 0, 20, 80, -30, 10, 30]], -1)
        .reshape(4, 1, 2, 2)
        .astype(float)
    )
    _y, _ = cast(BatchNorm(2), np.float64).forward(_x, Mode(train=True))
    mo.vstack(
        [
            mo.hstack(
                [
                    numbers(_x.reshape(8, 2), "x: a channel in each column"),
                    numbers(_y.reshape(8, 2), "y, with gamma = 1 and beta = 0"),
                ],
                justify="start",
                gap=3,
            ),
            code(moments, "centred"),
            code(batch_norm, "xhat"),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("## What it does to a batch")
    return


@app.cell(hide_code=True)
def _(BatchNorm, Mode, cast, mo, np):
    def normalised(eps):
        """A batch through batch norm and back: x, y, dx, all (4, 5, 3, 6), xhat, and the layer."""
        rng = np.random.default_rng(0)
        layer = cast(BatchNorm(6, eps=eps), np.float64)
        layer.gamma.data[...], layer.beta.data[...] = rng.standard_normal((2, 6))
        x = 3 * rng.standard_normal((4, 5, 3, 6)) + rng.standard_normal(6)
        y, cache = layer.forward(x, Mode(train=True, keep=True))
        dx = layer.backward(rng.standard_normal(y.shape), x, cache)
        mean, _, rstd, _ = cache
        return x, y, dx, (x - mean) * rstd, layer

    x, y, _, _, norm = normalised(1e-3)
    planes = (0, 1, 2)  # the batch, the rows and the columns: all but the channels
    var = x.var(planes)
    right_mean = np.allclose(y.mean(planes), norm.beta.data, rtol=0, atol=1e-12)
    right_var = np.allclose(y.var(planes), norm.gamma.data**2 * var / (var + norm.eps), rtol=1e-12)
    mo.show_code()
    return normalised, planes, right_mean, right_var


@app.cell(hide_code=True)
def _(batch_norm_grad, claim, code, mo, normalised, np, planes, right_mean, right_var):
    _, _, _dx, _xhat, _ = normalised(1e-12)
    _size = np.abs(_dx).sum(planes)
    _shift = np.abs(_dx.sum(planes)) / _size
    _stretch = np.abs((_dx * _xhat).sum(planes)) / _size
    mo.vstack(
        [
            claim("bn.15", right_mean and right_var),
            mo.md(r"""
    ## What the gradient loses

    $y$ does not change when the batch is shifted or stretched. So no gradient can ask for that: with $g = \gamma\,dy$,

    $$ dx = \frac{1}{\sqrt{\sigma^2 + \varepsilon}}
       \big( g - \langle g \rangle - \hat x \langle g \hat x \rangle \big), \qquad
       \sum dx = 0, \quad \sum dx\,\hat x = 0. $$
    """),
            claim(
                "bn.16",
                _shift.max() < 1e-12 and _stretch.max() < 1e-10,
                code(batch_norm_grad, "g.mean(NHW)"),
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    exponent = mo.ui.slider(-12, 2, value=-3, label="eps = 10 to the", show_value=True)
    mo.hstack([exponent], justify="start")
    return (exponent,)


@app.cell(hide_code=True)
def _(exponent, mo, normalised, np, planes, table):
    _x, _y, _dx, _xhat, _norm = normalised(10.0**exponent.value)
    _gamma = _norm.gamma.data
    mo.vstack(
        [
            table(
                ("channel", *range(6)),
                [
                    ("variance of x", *_x.var(planes)),
                    ("variance of y / gamma²", *(_y.var(planes) / _gamma**2)),
                    ("sum of dx", *(f"{v:.1e}" for v in _dx.sum(planes))),
                    ("sum of dx xhat", *(f"{v:.1e}" for v in (_dx * _xhat).sum(planes))),
                ],
            ),
            mo.md(
                r"$\varepsilon$ keeps the root from 0. The larger it is, the less exact are variance and second sum."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## The scale of weights plays no part

    Weights seven times as large give the same output, the same gradient below, and a seventh of their own gradient.
    So large weights grow more slowly: a step that was too long makes the next ones shorter.
    """)
    return


@app.cell(hide_code=True)
def _(BatchNorm, Conv2D, Mode, Sequential, cast, mo, np, zero_grad):
    net = Sequential(
        conv=Conv2D(3, 4, 3, bias=False, rng=np.random.default_rng(1)), bn=BatchNorm(4, eps=1e-12)
    )
    cast(net, np.float64)
    draw = np.random.default_rng(2).standard_normal
    u, dy = draw((4, 6, 5, 3)), draw((4, 6, 5, 4))
    w = net.layers["conv"].weight

    def passes(a):
        """y, du and dW with the weights times a."""
        w.data *= a
        zero_grad(net)
        y, cache = net.forward(u, Mode(train=True, keep=True))
        du, dw = net.backward(dy, u, cache), w.grad.copy()
        w.data /= a
        return y, du, dw

    once, seven = passes(1.0), passes(7.0)
    mo.show_code()
    return once, seven


@app.cell(hide_code=True)
def _(claim, mo, np, once, seven):
    def _same(a, b):
        return np.allclose(a, b, rtol=0, atol=1e-9 * np.abs(a).max())

    (_y, _du, _dw), (_y7, _du7, _dw7) = once, seven
    mo.vstack([claim("bn.14", _same(_y, _y7) and _same(_du, _du7) and _same(_dw, 7 * _dw7))])
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## Activations by depth

    What each ReLU of twenty layers reads, before any training. Without batch norm every layer multiplies the scale, and
    a little too much or too little is raised to the twentieth power.
    """)
    return


@app.cell(hide_code=True)
def _(BatchNorm, Conv2D, GlobalAvgPool2D, Linear, ReLU, Sequential, cast, mo, np, shapes10):
    images, labels = shapes10("train", 256)
    pixels = (
        images.reshape(-1, 8, 4, 8, 4, 3).mean((2, 4)).reshape(256, 1, 1, 192) / 64 - 2
    )  # 8x8, laid flat

    def chain(batch_norm, layers, gain=1.0, width=32):
        """A deep network of 1x1 convolutions, He's weights times `gain`."""
        rng = np.random.default_rng(0)
        stack = []
        for channels in [192, *[width] * (layers - 1)]:
            conv = Conv2D(channels, width, 1, bias=not batch_norm, rng=rng)
            conv.weight.data *= gain
            stack += [conv, BatchNorm(width), ReLU()] if batch_norm else [conv, ReLU()]
        return cast(Sequential(*stack, GlobalAvgPool2D(), Linear(width, 10, rng=rng)), np.float64)

    mo.show_code()
    return chain, labels, pixels


@app.cell(hide_code=True)
def _(mo):
    gain = mo.ui.slider(0.5, 2.0, step=0.1, value=0.7, label="weights times", show_value=True)
    mo.hstack([gain], justify="start")
    return (gain,)


@app.cell(hide_code=True)
def _(Mode, ReLU, chain, np, pixels):
    def read_by_relus(batch_norm, gain, layers=20):
        """What each ReLU of an untrained chain reads, as flat arrays."""
        x, found = pixels, []
        for layer in chain(batch_norm, layers, gain).layers.values():
            if isinstance(layer, ReLU):
                found.append(np.ravel(x))
            x, _ = layer.forward(x, Mode(train=True))
        return found

    return (read_by_relus,)


@app.cell(hide_code=True)
def _(figure, gain, mo, np, read_by_relus):
    _drawn, _axes = figure(9, 3.4, 3)
    _spread = {}
    for _label, _norm, _colour in (("without", False, "C1"), ("with batch norm", True, "C0")):
        _reads = read_by_relus(_norm, gain.value)
        _spread[_label] = [float(v.std()) for v in _reads]
        _axes[0].semilogy(range(1, 21), _spread[_label], "o-", ms=3, color=_colour, label=_label)
        _ax = _axes[1 + _norm]
        _edge = max(np.percentile(np.abs(v), 99) for v in _reads)
        _middle = [np.percentile(v, (1, 25, 75, 99)) for v in _reads]
        for _low, _high, _alpha in ((0, 3, 0.3), (1, 2, 0.6)):
            _ax.fill_between(
                range(1, 21),
                [m[_low] for m in _middle],
                [m[_high] for m in _middle],
                color=_colour,
                alpha=_alpha,
                lw=0,
            )
        _ax.set(title=_label, xlabel="layer", ylim=(-1.1 * _edge, 1.1 * _edge))
    _axes[0].set(title="standard deviation", xlabel="layer")
    _axes[0].set_ylim(min(1e-1, *_spread["without"]) / 3, 30 * max(1.0, *_spread["without"]))
    _axes[0].legend(loc="upper left", fontsize=8)
    _ratio = {k: max(v) / min(v) for k, v in _spread.items()}
    mo.vstack(
        [
            mo.md(
                f"Between the layer of the largest and that of the smallest scale lies a factor of "
                f"**{_ratio['without']:.3g}** without, **{_ratio['with batch norm']:.3g}** with batch norm. The bands "
                "hold 98 and 50 of 100 values."
            ),
            _drawn,
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## The deck's five accelerations

    **(1) Higher learning rates.** The deck: layers of different scales need different rates, and the smallest has to
    serve all of them; batch norm gives them one scale. Below, eight layers learn at several rates.
    """)
    return


@app.cell(hide_code=True)
def _(Mode, SGD, chain, labels, mo, np, pixels, softmax_cross_entropy):
    def train(batch_norm, rate, steps=60):
        """The loss of each step of a chain of eight layers, at one learning rate."""
        net, losses = chain(batch_norm, 8), []
        optimiser = SGD(net, rate, momentum=0.9)
        for step in range(steps):
            part = slice(64 * (step % 4), 64 * (step % 4) + 64)
            y, cache = net.forward(pixels[part], Mode(train=True, keep=True))
            loss, dy = softmax_cross_entropy(y, labels[part])
            net.backward(dy, pixels[part], cache)
            optimiser.step()
            losses.append(float(loss))
        return np.array(losses)

    mo.show_code()
    return (train,)


@app.cell(hide_code=True)
def _(mo):
    times = mo.ui.slider(1, 30, value=30, label="learning rate: 0.01 times", show_value=True)
    mo.hstack([times], justify="start")
    return (times,)


@app.cell(hide_code=True)
def _(figure, mo, np, times, train):
    _drawn, _ax = figure(7, 2.8)
    with np.errstate(all="ignore"):  # without batch norm it may run off to infinity
        for _label, _norm, _colour in (("without", False, "C1"), ("with batch norm", True, "C0")):
            _ax.plot(train(_norm, 0.01), ":", color=_colour, label=f"{_label}, rate 0.01")
            _ax.plot(
                train(_norm, 0.01 * times.value),
                color=_colour,
                label=f"{_label}, {0.01 * times.value:.2f}",
            )
    _ax.axhline(np.log(10), color="0.6", lw=1)
    _ax.set(
        xlabel="step",
        ylabel="loss",
        ylim=(0, 4),
        title="256 drawn images in ten classes (grey: ln 10)",
    )
    _drawn.legend(loc="outside right center", fontsize=8)
    mo.vstack([_drawn])
    return


@app.cell(hide_code=True)
def _(claim, mo, np, table, train):
    with np.errstate(all="ignore"):
        _ends = {
            (norm, n): train(norm, 0.01 * n)[-10:].mean()
            for norm in (False, True)
            for n in (1, 5, 30)
        }
    # ln 10 = 2.30 is the loss of a network that knows nothing
    _fails = not _ends[False, 30] < 2.0
    mo.vstack(
        [
            table(
                ("loss of the last ten steps", "rate 0.01", "times 5", "times 30"),
                [
                    (name, *(f"{_ends[norm, n]:.2f}" for n in (1, 5, 30)))
                    for name, norm in (("without", False), ("with batch norm", True))
                ],
            ),
            claim("deck.24", _fails and _ends[True, 30] < 1.7),
        ]
    )
    return


@app.cell(hide_code=True)
def _(claim, figure, mo, table):
    # Ioffe & Szegedy 2015, section 4.2.2: steps in millions to 72.2%, the best that Inception reaches; rates
    steps = {"Inception": 31.0, "BN-Baseline": 13.3, "BN-x5": 2.1, "BN-x30": 2.7}
    base, to_748 = 0.0015, 6.0  # Inception's rate; BN-x30's steps to 74.8%
    rates = {"BN-x5": 5 * base, "BN-x30": 30 * base}
    _drawn, _ax = figure(7, 2.2)
    _bars = _ax.barh(list(steps), list(steps.values()), color=["C1", "C0", "C0", "C0"])
    _ax.bar_label(_bars, fmt="%.1fM", padding=3)
    _ax.invert_yaxis()
    _ax.set(xlabel="million steps to 72.2%, as the paper prints them", xlim=(0, 35))
    mo.vstack(
        [
            mo.md("""
    The paper's own runs take millions of steps on ImageNet and are not repeated here. What a program can do with their
    figures is to divide them. `examples/accelerations.py` trains small networks to compare the five.
    """),
            _drawn,
            claim("bn.9", steps["Inception"] / steps["BN-x5"]),
            claim("bn.10", steps["Inception"] / to_748),
            claim("bn.11", steps["BN-Baseline"] / steps["Inception"]),
            claim("bn.12", list(rates.values())),
            table(
                ("network", "best accuracy"),
                [
                    ("Inception", "72.2%"),
                    ("BN-Baseline", "72.7%"),
                    ("BN-x5", "73.0%"),
                    ("BN-x30", "74.8%"),
                ],
                "one crop, as the paper prints it",
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Dropout, LRN, claim, code, create_model, mo, said, walk):
    _v1, _bn = create_model("inception_v1", aux=False), create_model("bn_inception")

    def _layers(network, kind):
        return [layer for _, layer in walk(network) if isinstance(layer, kind)]

    _rates = [_layers(network, Dropout)[-1].rate for network in (_v1, _bn)]
    mo.vstack(
        [
            mo.md("""
    **(2) Less dropout.** A batch is a random company for each image, so batch norm adds noise of its own. The rates of
    GoogLeNet and BN-Inception, as built here:
    """),
            claim("deck.25", _rates),
            mo.md(r"""
    **(3) Less weight decay.** The deck says that steep weights belong to optima at the edge of the data. The algebra
    says something else: after batch norm the length of $W$ changes no output, only the size of the steps. Decay keeps
    $\lVert W \rVert$ small, and $dW \sim 1/\lVert W \rVert$, so decay raises the rate.
    """),
            said("deck.26"),
            mo.md("**(4) No local response normalisation.** One normalisation is enough."),
            claim("deck.27", [len(_layers(network, LRN)) for network in (_v1, _bn)], code(LRN)),
            mo.md("""
    **(5) Less distortion.** The network sees each image fewer times, so it should see real ones. The deck leaves out
    two changes of the paper: the learning rate falls 6 times faster, and images are shuffled more thoroughly, which was
    worth about 1%.
    """),
            said("deck.28"),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

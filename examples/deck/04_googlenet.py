"""GoogLeNet: Table 1 row by row, and what the paper says about it.

The printed figures beside the computed ones, the unit that the table counts in, depth, auxiliary heads, the first
loss, the learning rate and the 144 crops.
"""

import marimo

app = marimo.App(width="medium", app_title="GoogLeNet")


@app.cell(hide_code=True)
def _():
    import math

    import marimo as mo
    import numpy as np

    from inception_np import (
        AvgPool2D,
        Conv2D,
        ConvReLU,
        Flatten,
        GlobalAvgPool2D,
        Linear,
        MaxPool2D,
        Mode,
        ReLU,
        Sequential,
        cast,
        create_model,
        named_params,
        summary,
    )
    from inception_np.data.preprocess import Preprocess, prepare
    from inception_np.data.shapes10 import shapes10
    from inception_np.layer import walk
    from inception_np.layers.loss import total_loss
    from inception_np.learn.count import depth
    from inception_np.learn.slide import Html, claim, code, figure, table
    from inception_np.models.inception_v1 import PRINTED, ROWS, auxiliary, inception_v1
    from inception_np.training.predict import over_crops
    from inception_np.training.schedules import exponential

    return (
        AvgPool2D,
        Conv2D,
        ConvReLU,
        Flatten,
        GlobalAvgPool2D,
        Html,
        Linear,
        MaxPool2D,
        Mode,
        PRINTED,
        Preprocess,
        ROWS,
        ReLU,
        Sequential,
        auxiliary,
        cast,
        claim,
        code,
        create_model,
        depth,
        exponential,
        figure,
        inception_v1,
        math,
        mo,
        named_params,
        np,
        over_crops,
        prepare,
        shapes10,
        summary,
        table,
        total_loss,
        walk,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    # GoogLeNet

    Nine modules between a stem and a classifier. The deck copies the paper's Table 1. Here the network is built from
    the table's filter columns, and every other column is counted again.
    """)
    return


@app.cell(hide_code=True)
def _(create_model, mo, summary):
    network = create_model("inception_v1")
    separable = create_model(
        "inception_v1", separable_stem=True, aux=False
    )  # another reading of the first row
    dense_table, separable_table = summary(network), summary(separable)
    mo.show_code()
    return dense_table, network, separable, separable_table


@app.cell(hide_code=True)
def _(PRINTED, dense_table, named_params, network, separable, separable_table):
    def sizes(net, stage, kind):
        """How many numbers a stage's weights or biases have."""
        found = named_params(net).items()
        return sum(
            p.data.size for path, p in found if path.startswith(f"{stage}.") and path.endswith(kind)
        )

    stages = list(PRINTED)  # the rows that have parameters
    printed = {
        name: PRINTED[name].partition(":")[0].split(", ") for name in stages
    }  # "159K", "128M"
    weights = {name: sizes(separable, name, "weight") for name in stages}
    biases = {name: sizes(network, name, "bias") for name in stages}  # one for each filter
    macs = {row.name: row.macs for row in separable_table.rows}
    outputs = {row.name: row.output for row in dense_table.rows}
    return biases, macs, outputs, printed, sizes, stages, weights


@app.cell(hide_code=True)
def _(math, stages, biases, printed, weights):
    def as_printed(count, text, unit, cut):
        """Whether a count reads as `text` ("2.7K", "34M") in this unit, its further digits cut or rounded."""
        scale = 10.0 if "." in text else 1.0
        digits = count / unit * scale
        return (math.floor(digits) if cut else round(digits)) == round(float(text[:-1]) * scale)

    rules = [
        (unit, counted, cut)
        for unit in (1024, 1000)
        for counted in (True, False)
        for cut in (True, False)
    ]
    fitting = {
        (unit, counted, cut): [
            name
            for name in stages
            if as_printed(weights[name] + counted * biases[name], printed[name][0], unit, cut)
        ]
        for unit, counted, cut in rules
    }
    return as_printed, fitting


@app.cell(hide_code=True)
def _(Html, as_printed, dense_table, fitting, macs, mo, outputs, printed, stages, table, weights):
    def _size(output):
        return "x".join(map(str, output))

    def _mark(text, right):
        return Html(f'<span style="color:{"#1a7f37" if right else "#b35900"}">{text}</span>')

    _explained = {name for names in fitting.values() for name in names}
    _rows = []
    for _row in dense_table.rows:
        if _row.name not in stages:
            _rows.append((_row.name, _size(outputs[_row.name]), "", "", "", ""))
            continue
        _params, _ops = printed[_row.name]
        _rows.append(
            (
                _row.name,
                _size(outputs[_row.name]),
                f"{weights[_row.name] / 1024:,.2f}",
                _mark(_params, _row.name in _explained),
                f"{macs[_row.name] / 1e6:,.2f}",
                _mark(_ops, as_printed(macs[_row.name], _ops, 1e6, False)),
            )
        )
    mo.vstack(
        [
            mo.md("""
    ## Table 1

    Weights in units of 1024, and millions of multiply-adds, of a network whose first convolution is separable. Green:
    some rule of counting gives the printed figure. Orange: none does.
    """),
            table(
                ("row", "output", "weights / 1024", "printed", "multiply-adds, M", "printed"), _rows
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(claim, code, inception_v1, outputs):
    # fmt: off
    _deck = [
        (112, 112, 64), (56, 56, 64), (56, 56, 192), (28, 28, 192), (28, 28, 256), (28, 28, 480), (14, 14, 480),
        (14, 14, 512), (14, 14, 512), (14, 14, 512), (14, 14, 528), (14, 14, 832), (7, 7, 832), (7, 7, 832),
        (7, 7, 1024), (1, 1, 1024), (1, 1, 1024), (1, 1, 1000),
    ]
    # fmt: on
    _agree = sum(ours == theirs for ours, theirs in zip(outputs.values(), _deck, strict=True))
    claim("deck.14", _agree, code(inception_v1, "ceil=True"))
    return


@app.cell(hide_code=True)
def _(claim, fitting, mo, stages, table):
    _rows = [
        (
            unit,
            "counted" if counted else "left out",
            "cut" if cut else "rounded",
            len(names),
            ", ".join(names),
        )
        for (unit, counted, cut), names in fitting.items()
    ]
    _best = max(fitting.values(), key=len)
    _explained = {name for names in fitting.values() for name in names}
    mo.vstack(
        [
            mo.md("""
    ## What is K

    Is K 1000 or 1024? Are biases counted? Are digits cut or rounded? The table does not say, so all eight rules are
    tried on its twelve rows.
    """),
            table(("K", "biases", "digits", "rows it explains", "which"), _rows),
            claim("deck.15", _best),
            claim("deck.16", [name for name in stages if name not in _explained]),
            mo.md(
                "Operations agree with the filters where parameters do not. So the filters are right, and the params "
                "column is not."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(
    as_printed,
    claim,
    code,
    dense_table,
    inception_v1,
    macs,
    mo,
    network,
    printed,
    separable_table,
    sizes,
    stages,
    weights,
):
    _off = [name for name in stages if not as_printed(macs[name], printed[name][1], 1e6, False)]
    _ops = sum(int(printed[name][1][:-1]) for name in stages)
    _dense = sizes(network, "conv1", "weight"), dense_table.rows[0].macs
    mo.vstack(
        [
            mo.md(f"""
    ## Operations, and the first convolution

    The printed operations sum to {_ops:,}M. The first row's 34M belong to a separable convolution: 7x7 on each of three
    channels, eight filters each, then 1x1 from 24 channels to 64. The later batch norm paper says that its first
    convolution was made so. Public GoogLeNets have a dense one.
    """),
            claim("deck.17", _off),
            claim(
                "deck.18",
                (*_dense, weights["conv1"], macs["conv1"]),
                code(inception_v1, "separable_stem else conv"),
            ),
            claim("v1.8", (separable_table.macs, dense_table.macs)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, ROWS, claim, code, dense_table, depth, mo, network, outputs, walk):
    _pools = [row.name for row in dense_table.rows if row.name.startswith("pool")]
    _convs = sum(isinstance(layer, Conv2D) for _, layer in walk(network.trunk))
    _modules = [name for name, row in ROWS.items() if not isinstance(row, str)]
    _dropout, _fc = (network.trunk.layers[name] for name in ("dropout", "fc"))
    mo.vstack(
        [
            mo.md(r"""
    ## Depth

    Depth is the number of layers with weights on the longest way from image to classifier. A module counts two, a
    reduction and a window; six convolutions stand side by side in it.

    $$ 1 + 2 + 9 \cdot 2 + 1 = 22 $$
    """),
            claim("v1.6", depth(network), code(depth)),
            claim("v1.7", depth(network) + len(_pools)),
            claim("v1.9", _convs),
            claim("v1.10", [outputs[name][2] for name in _modules]),
            claim("deck.19", (_dropout.rate, *_fc.weight.data.shape)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(ROWS, mo, table):
    _shares, _windows = [], []
    for _name, _row in ROWS.items():
        if not isinstance(_row, str):
            _c1, (_, _c3), (_, _c5), _proj = _row
            _shares.append(
                (
                    _name,
                    *(
                        f"{100 * c / (_c1 + _c3 + _c5 + _proj):.0f} %"
                        for c in (_c1, _c3, _c5, _proj)
                    ),
                )
            )
            _windows.append((_c3 + _c5) / (_c1 + _c3 + _c5 + _proj))
    mo.vstack(
        [
            mo.md(f"""
    ## Which windows

    The paper expects features of higher layers to be less concentrated, and so the share of 3x3 and 5x5 to increase
    towards the top (section 4). Its own table does not do that: their share falls from {_windows[0]:.1%} in 3a to
    {_windows[-1]:.1%} in 5b.
    """),
            table(("module", "1x1", "3x3", "5x5", "pool"), _shares),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("## Beside AlexNet")
    return


@app.cell(hide_code=True)
def _(ConvReLU, Flatten, Linear, MaxPool2D, ReLU, Sequential, mo, np, summary):
    def unset(rng, shape, fan_in, fan_out):
        return np.zeros(shape, np.float32)  # only sizes matter here

    # Krizhevsky et al. 2012, section 3.5: two groups in the second, fourth and fifth convolution
    alexnet = Sequential(
        conv1=ConvReLU(3, 96, 11, stride=4, pad=0, init=unset),
        pool1=MaxPool2D(3, stride=2),
        conv2=ConvReLU(96, 256, 5, groups=2, init=unset),
        pool2=MaxPool2D(3, stride=2),
        conv3=ConvReLU(256, 384, 3, init=unset),
        conv4=ConvReLU(384, 384, 3, groups=2, init=unset),
        conv5=ConvReLU(384, 256, 3, groups=2, init=unset),
        pool5=MaxPool2D(3, stride=2),
        flat=Flatten(),
        fc6=Linear(6 * 6 * 256, 4096, init=unset),
        relu6=ReLU(),
        fc7=Linear(4096, 4096, init=unset),
        relu7=ReLU(),
        fc8=Linear(4096, 1000, init=unset),
    )
    alexnet_table = summary(alexnet, (227, 227, 3))
    mo.show_code()
    return (alexnet_table,)


@app.cell(hide_code=True)
def _(alexnet_table, claim, dense_table, mo, table):
    _classifier = dense_table.rows[-1].params
    _ours = dense_table.params, dense_table.params - _classifier
    mo.vstack(
        [
            table(
                ("network", "parameters", "multiply-adds"),
                [
                    ("AlexNet", alexnet_table.params, alexnet_table.macs),
                    ("GoogLeNet", dense_table.params, dense_table.macs),
                ],
            ),
            claim("v1.17", [alexnet_table.params / ours for ours in _ours]),
            mo.md(
                "Most of AlexNet's parameters are in its first linear layer. GoogLeNet has an average pool there."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(AvgPool2D, auxiliary, claim, code, dense_table, mo, named_params, network):
    _heads = [
        sum(
            p.data.size
            for path, p in named_params(network).items()
            if path.startswith(f"aux_{stage}.")
        )
        for stage in ("4a", "4d")
    ]
    _share = dense_table.params_aux / (dense_table.params + dense_table.params_aux)
    mo.vstack(
        [
            mo.md(rf"""
    ## Auxiliary heads

    Two small classifiers read 4a and 4d while the network trains. They send gradients into the middle of it, and are
    dropped afterwards. The deck leaves them out, though they hold {_share:.0%} of what is trained. The pool's output is

    $$ \lfloor (14 - 5) / 3 \rfloor + 1 = 4. $$

    `examples/vanishing_gradients.py` measures what they do for the gradients below.
    """),
            claim(
                "v1.13", AvgPool2D(5, stride=3).out_shape((1, 14, 14, 512))[1:3], code(auxiliary)
            ),
            claim("v1.14", _heads),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## The first loss

    A network that knows nothing gives every one of $K$ classes the probability $1/K$, at a loss of $\ln K$. With two
    heads at 0.3,

    $$ L_0 = (1 + 0.3 + 0.3) \ln K. $$

    A first loss far from it means that something is wrong.
    """)
    return


@app.cell(hide_code=True)
def _(Mode, create_model, mo, np, total_loss):
    def first_loss(classes, shrink):
        """The loss of a fresh network with two heads, its classifiers' weights times `shrink`."""
        net = create_model("inception_v1_cifar", num_classes=classes, width=1 / 8, dtype="float64")
        for classifier in (
            net.trunk.layers["fc"],
            *(head.layers["fc2"] for head in net.heads.values()),
        ):
            classifier.weight.data *= shrink
        x = np.random.default_rng(0).standard_normal((4, 32, 32, 3))
        y, _ = net.forward(x, Mode(train=True, rng=np.random.default_rng(1)))
        return total_loss(y, np.arange(4), net.aux_weight, 0.0)[0]

    mo.show_code()
    return (first_loss,)


@app.cell(hide_code=True)
def _(claim, code, first_loss, mo, total_loss):
    mo.vstack(
        [
            mo.md(f"""
    Logits are near 0 here: the classifiers' weights are divided by ten. As the network is drawn, the loss for ten
    classes is {first_loss(10, 1.0):.3f}.
    """),
            claim(
                "v1.15",
                (first_loss(1000, 0.1), first_loss(10, 0.1)),
                code(total_loss, "aux_weight * loss"),
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    every = mo.ui.slider(1, 20, value=8, label="epochs between two falls", show_value=True)
    factor = mo.ui.slider(0.80, 0.99, step=0.01, value=0.96, label="factor", show_value=True)
    mo.vstack(
        [
            mo.md(r"""
    ## The learning rate

    "Decreasing the learning rate by 4% every 8 epochs": $\;\eta(t) = \eta_0 \cdot 0.96^{\lfloor t/8 \rfloor}$. The
    paper gives no $\eta_0$.
    """),
            mo.hstack([every, factor], justify="start"),
        ]
    )
    return every, factor


@app.cell(hide_code=True)
def _(every, exponential, factor, figure, mo):
    _drawn, _ax = figure(7, 2.6)
    _epochs = range(251)
    _paper, _yours = exponential(1.0, 0.96, 8), exponential(1.0, factor.value, every.value)
    _ax.step(_epochs, [_paper(t) for t in _epochs], where="post", label="the paper's")
    _ax.step(_epochs, [_yours(t) for t in _epochs], where="post", ls="--", label="the sliders'")
    _ax.set(xlabel="epoch", ylabel="rate / first rate", ylim=(0, 1.05))
    _ax.legend(loc="upper right")
    mo.vstack([mo.md(f"After 250 epochs **{_yours(250):.4g}** of it is left."), _drawn])
    return


@app.cell(hide_code=True)
def _(claim, code, exponential):
    _schedule = exponential(0.01, 0.96, 8)
    claim("v1.12", _schedule(250) / _schedule(0), code(exponential, "math.floor"))
    return


@app.cell(hide_code=True)
def _(Preprocess, np, prepare, shapes10):
    from PIL import Image

    _drawn = shapes10("train", 12)[0]
    picture = Image.fromarray(np.hstack([_drawn[3], _drawn[5]])).resize(
        (384, 192), Image.Resampling.BICUBIC
    )
    how = Preprocess((56, 56))  # as 224, but small
    crops = list(prepare(picture, how, 144))
    return Image, crops, how, picture


@app.cell(hide_code=True)
def _(claim, code, crops, figure, mo, np, picture, prepare):
    _grid = np.stack(crops).reshape(12, 12, 56, 56, 3) / 2 + 0.5
    _wall = np.pad(_grid, ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), constant_values=1)
    _wall = _wall.transpose(0, 2, 1, 3, 4).reshape(12 * 60, 12 * 60, 3).clip(0, 1)
    _figure, (_left, _right) = figure(9, 5.6, 2)
    _left.imshow(picture)
    _left.set(title="the picture", xticks=[], yticks=[])
    _right.imshow(_wall)
    _right.set(
        title="its 144 crops",
        xticks=[],
        yticks=[],
        ylabel="4 scales x 3 squares",
        xlabel="6 crops, and mirrored",
    )
    mo.vstack(
        [
            mo.md("""
    ## 144 crops

    To test, the paper looks at each image 144 times: its shorter side at four sizes (256, 288, 320, 352); the left,
    centre and right square; in each the four corners, the centre and the whole square shrunk; all of it mirrored too.
    """),
            _figure,
            claim("v1.11", len(crops), code(prepare, "144  four scales")),
        ]
    )
    return


@app.cell(hide_code=True)
def _(
    ConvReLU,
    GlobalAvgPool2D,
    Linear,
    Mode,
    Sequential,
    cast,
    crops,
    how,
    mo,
    np,
    over_crops,
    picture,
):
    rng = np.random.default_rng(0)
    small = Sequential(
        conv=ConvReLU(3, 8, 5, stride=4, rng=rng), pool=GlobalAvgPool2D(), fc=Linear(8, 5, rng=rng)
    )
    cast(small, np.float64)
    averaged = over_crops(small, how, 144)(picture)  # as `inception-np predict --crops 144` does
    logits = small.forward(np.stack(crops).astype(np.float64), Mode())[0]

    def softmax(z):
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    mo.show_code()
    return averaged, logits, softmax


@app.cell(hide_code=True)
def _(averaged, claim, code, logits, mo, np, over_crops, softmax, table):
    assert np.allclose(averaged, softmax(logits).mean(0), atol=1e-12)
    _rows = [
        ("mean of softmax", *averaged),
        ("softmax of the mean logits", *softmax(logits.mean(0))),
    ]
    mo.vstack(
        [
            mo.md("The two ways to average, of a small network with random weights:"),
            table(
                ("", *(f"class {i}" for i in range(5)), "sum"),
                [(*row, sum(row[1:])) for row in _rows],
            ),
            claim("v1.18", averaged.sum(), code(over_crops, "e / e.sum")),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

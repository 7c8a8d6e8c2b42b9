"""The Inception module: naive, and with reductions.

What the parallel convolutions of a module cost, what 1x1 convolutions before them save, the sum that the deck got
wrong, and a GoogLeNet of naive modules.
"""

import marimo

app = marimo.App(width="medium", app_title="The Inception module")


@app.cell(hide_code=True)
def _():
    import marimo as mo

    from inception_np import Concat, ConvReLU, Sequential, summary
    from inception_np.learn.slide import claim, code, figure, table
    from inception_np.models.inception_v1 import ROWS, inception, naive_inception

    return (
        Concat,
        ConvReLU,
        ROWS,
        Sequential,
        claim,
        code,
        figure,
        inception,
        mo,
        naive_inception,
        summary,
        table,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # The Inception module

    A module looks at its input through windows of 1x1, 3x3 and 5x5 at once, pools it too, and joins what they see along
    the channels. The deck's example reads 28x28x256. A convolution makes

    $$ H W \cdot k^2 \cdot C_{in} C_{out} \quad\text{multiply-adds, which the deck calls ops.} $$
    """)
    return


@app.cell(hide_code=True)
def _(ConvReLU, inception, mo, naive_inception, summary):
    row = (
        128,
        (64, 192),
        (64, 96),
        64,
    )  # 1x1, 3x3 (reduce, out), 5x5 (reduce, out), pool projection
    naive_module = naive_inception(ConvReLU, 256, row)
    reduced_module = inception(ConvReLU, 256, row)
    naive = summary(naive_module, (28, 28, 256))
    reduced = summary(reduced_module, (28, 28, 256))
    mo.show_code()
    return naive, naive_module, reduced, reduced_module, row


@app.cell(hide_code=True)
def _(Concat, Sequential):
    def convolutions(layer, shape, path=""):
        """Of each convolution in a module: its path, its kernel, its shapes, its multiply-adds."""
        if isinstance(layer, Concat):
            return [
                c
                for name, child in layer.children().items()
                for c in convolutions(child, shape, path + name)
            ]
        if isinstance(layer, Sequential):
            found = []
            for name, child in layer.layers.items():
                found += convolutions(child, shape, f"{path}.{name}")
                shape = child.out_shape(shape)
            return found
        if not layer.macs(shape):
            return []
        sizes = ["x".join(map(str, s[1:])) for s in (shape, layer.out_shape(shape))]
        return [(path, f"{layer.kernel[0]}x{layer.kernel[1]}", *sizes, layer.macs(shape))]

    head = ("convolution", "kernel", "reads", "gives", "multiply-adds")
    return convolutions, head


@app.cell(hide_code=True)
def _(claim, code, convolutions, head, mo, naive, naive_inception, naive_module, table):
    each_naive = convolutions(naive_module, (1, 28, 28, 256))
    mo.vstack(
        [
            mo.md("""
    ## The naive module

    Three convolutions and a pool read all 256 channels. The 5x5, with the fewest filters, costs most.
    """),
            table(head, [*each_naive, ("sum", "", "", "", naive.macs)]),
            claim("deck.8", [c[-1] for c in each_naive], code(naive_inception)),
            claim("v1.1", naive.macs),
        ]
    )
    return


@app.cell(hide_code=True)
def _(claim, code, convolutions, head, inception, mo, naive, reduced, reduced_module, table):
    each = convolutions(reduced_module, (1, 28, 28, 256))
    by_name = {c[0]: c[-1] for c in each}
    _reductions = [by_name["b3.reduce"], by_name["b5.reduce"], by_name["pool.proj"]]
    twice = reduced.macs + by_name["b3.conv"]
    mo.vstack(
        [
            mo.md("""
    ## With reductions

    A 1x1 convolution first brings 256 channels down to 64, and the expensive windows read those. A third one, after
    the pool, keeps the depth from growing.
    """),
            table(head, [*each, ("sum", "", "", "", reduced.macs)]),
            claim("deck.9", (*_reductions, by_name["b1"], by_name["b3.conv"], by_name["b5.conv"])),
            claim("v1.2", reduced.macs, code(inception, "reduce=")),
            mo.md(f"With the 3x3 counted twice the sum is {twice:,}, which is the deck's 358M."),
            claim("v1.3", naive.macs / reduced.macs),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    reads = mo.ui.slider(32, 1024, step=32, value=256, label="input channels", show_value=True)
    reduce3 = mo.ui.slider(8, 256, step=8, value=64, label="3x3 reduce", show_value=True)
    reduce5 = mo.ui.slider(8, 256, step=8, value=64, label="5x5 reduce", show_value=True)
    mo.vstack(
        [
            mo.md("## Turn the widths"),
            mo.hstack([reads, reduce3, reduce5], justify="start", wrap=True),
        ]
    )
    return reads, reduce3, reduce5


@app.cell(hide_code=True)
def _(ConvReLU, convolutions, figure, inception, mo, naive_inception, reads, reduce3, reduce5):
    _row = (128, (reduce3.value, 192), (reduce5.value, 96), 64)
    _shape = (1, 28, 28, reads.value)
    _drawn, _ax = figure(8, 2.4)
    _totals = {}
    for _label, _figure in (("naive", naive_inception), ("with reductions", inception)):
        _left, _each = 0, convolutions(_figure(ConvReLU, reads.value, _row), _shape)
        for _path, _, _, _, _macs in _each:
            _colour = {"b1": "C0", "b3": "C1", "b5": "C2", "pool": "C3"}[_path.partition(".")[0]]
            _pale = 0.5 if _path.endswith("reduce") else 1.0
            _ax.barh(_label, _macs / 1e6, left=_left, color=_colour, alpha=_pale, edgecolor="white")
            _left += _macs / 1e6
        _totals[_label] = sum(c[-1] for c in _each)
    for _place, (_label, _colour) in enumerate(
        (("1x1", "C0"), ("3x3", "C1"), ("5x5", "C2"), ("pool", "C3"))
    ):
        _ax.bar(0, 0, color=_colour, label=_label)
    _ax.invert_yaxis()
    _ax.set(xlabel="million multiply-adds (pale: the 1x1 before)")
    _drawn.legend(loc="outside right center")
    _ratio = _totals["naive"] / _totals["with reductions"]
    mo.vstack(
        [
            mo.md(
                f"naive **{_totals['naive']:,}**, with reductions **{_totals['with reductions']:,}**: {_ratio:.2f} x"
            ),
            _drawn,
        ]
    )
    return


@app.cell(hide_code=True)
def _(claim, code, mo, naive, naive_inception, reduced):
    mo.vstack(
        [
            mo.md(r"""
    ## Depth can only grow

    The pool of the naive module passes its whole input through. So a module that reads $C$ channels gives
    $n_1 + n_3 + n_5 + C$: always more than it got. The projection replaces $C$ by a number of one's choice.
    """),
            claim(
                "v1.4",
                (naive.rows[0].output[2], reduced.rows[0].output[2]),
                code(naive_inception, "pool=MaxPool2D"),
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md("""
    ## A GoogLeNet of naive modules

    The same filters in all nine modules, without the reductions. Each module reads what the one before has piled up.
    """)
    return


@app.cell(hide_code=True)
def _(ROWS, mo, summary):
    modules = [name for name, row in ROWS.items() if not isinstance(row, str)]  # 3a ... 5b
    naive_net = summary("inception_v1", naive=True, aux=False)
    net = summary("inception_v1", aux=False)
    mo.show_code()
    return modules, naive_net, net


@app.cell(hide_code=True)
def _(claim, figure, mo, modules, naive_net, net, table):
    _depths = {row.name: row.output[2] for row in naive_net.rows}
    _kept = {row.name: row.output[2] for row in net.rows}
    _drawn, _ax = figure(7, 2.8)
    _ax.plot(modules, [_depths[m] for m in modules], "o-", label="naive")
    _ax.plot(modules, [_kept[m] for m in modules], "s-", label="with reductions")
    _ax.set(xlabel="module", ylabel="output channels", title="GoogLeNet's filters")
    _ax.legend(loc="upper left")
    mo.vstack(
        [
            _drawn,
            table(
                ("GoogLeNet", "multiply-adds", "parameters"),
                [
                    ("naive modules", naive_net.macs, naive_net.params),
                    ("with reductions", net.macs, net.params),
                    ("ratio", naive_net.macs / net.macs, naive_net.params / net.params),
                ],
            ),
            claim("v1.5", (*(_depths[m] for m in modules), naive_net.macs, naive_net.params)),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

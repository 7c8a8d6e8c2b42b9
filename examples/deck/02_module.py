"""The Inception module: naive, and with reductions.

What the parallel convolutions of a module cost, what 1x1 convolutions before them save, and the sum that the deck got
wrong.
"""

import marimo

app = marimo.App(width="medium", app_title="The Inception module")


@app.cell(hide_code=True)
def _():
    import marimo as mo

    from inception_np import ConvReLU, summary
    from inception_np.learn.slide import claim, code
    from inception_np.models.inception_v1 import inception, naive_inception

    return ConvReLU, claim, code, inception, mo, naive_inception, summary


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # The Inception module

    A module looks at its 28x28x256 input through windows of 1x1, 3x3 and 5x5 at once, pools it too, and joins what
    they see along the channels. A convolution makes $H W \cdot k^2 \cdot C_{in} C_{out}$ multiply-adds.
    """)
    return


@app.cell(hide_code=True)
def _(ConvReLU, inception, mo, naive_inception, summary):
    row = (128, (64, 192), (64, 96), 64)  # 1x1, 3x3 (reduce, out), 5x5 (reduce, out), pool projection
    naive = summary(naive_inception(ConvReLU, 256, row), (28, 28, 256))
    reduced = summary(inception(ConvReLU, 256, row), (28, 28, 256))
    mo.show_code()
    return naive, reduced


@app.cell(hide_code=True)
def _(claim, code, mo, naive, naive_inception):
    mo.vstack([mo.md("## The naive module"), claim("v1.1", naive.macs, code(naive_inception))])
    return


@app.cell(hide_code=True)
def _(claim, code, inception, mo, naive, reduced):
    mo.vstack(
        [
            mo.md("## With reductions"),
            claim("v1.2", reduced.macs, code(inception, "reduce=")),
            claim("v1.3", naive.macs / reduced.macs),
            claim("v1.4", (naive.rows[0].output[2], reduced.rows[0].output[2])),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

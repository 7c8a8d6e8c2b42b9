"""The 1x1 convolution is a matrix product.

Forward and backward, step by step, on numbers that fit a screen; what it does to depth; and why a convolution is a
generalised linear model, and several 1x1 ones a small network at every pixel.
"""

import marimo

app = marimo.App(width="medium", app_title="The 1x1 convolution")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import (
        Conv2D,
        ConvReLU,
        Linear,
        Mode,
        ReLU,
        Sequential,
        cast,
        check_gradients,
        summary,
    )
    from inception_np.kernels.conv import conv2d, conv2d_dw, conv2d_dx
    from inception_np.kernels.im2col import im2col
    from inception_np.learn.slide import Html, claim, code, numbers, table

    return (
        Conv2D,
        ConvReLU,
        Html,
        Linear,
        Mode,
        ReLU,
        Sequential,
        cast,
        check_gradients,
        claim,
        code,
        conv2d,
        conv2d_dw,
        conv2d_dx,
        im2col,
        mo,
        np,
        numbers,
        summary,
        table,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # The 1x1 convolution is a matrix product

    A 1x1 window sees one pixel: a vector of $C_{in}$ numbers. Each filter makes an inner product with it. So every
    pixel is multiplied by the same matrix $W$, and where it lies plays no part. With the $N H W$ pixels as the rows of
    a matrix $X$,

    $$ Y = X W, \qquad X: N H W \times C_{in}, \quad W: C_{in} \times C_{out}. $$

    Here is a 2x3 image of three channels, and a convolution from three channels to two.
    """)
    return


@app.cell(hide_code=True)
def _(Conv2D, Mode, cast, mo, np):
    x = np.array(
        [[[1, 0, 2], [-1, 3, 1], [2, 1, 0]], [[0, -2, 1], [1, 1, 1], [3, 0, -1]]], np.float64
    )[None]
    conv = cast(Conv2D(3, 2, 1, bias=False), np.float64)
    conv.weight.data[...] = np.array([[1, -1], [2, 0], [0, 3]])  # (1, 1, C_in, C_out)
    y, _ = conv.forward(x, Mode())
    mo.show_code()
    return conv, x, y


@app.cell(hide_code=True)
def _(code, conv, conv2d, mo, np, numbers, x, y):
    matrix_x, matrix_w = x.reshape(-1, 3), conv.weight.data.reshape(3, 2)
    matrix_y = matrix_x @ matrix_w
    assert np.array_equal(matrix_y, y.reshape(-1, 2))
    first = " + ".join(f"({a:g})({b:g})" for a, b in zip(matrix_x[1], matrix_w[:, 0], strict=True))
    mo.vstack(
        [
            mo.md("## Forward"),
            numbers(x, "x: one image, 2x3, three channels"),
            mo.md("The same numbers, a pixel in each row, times the weights:"),
            mo.hstack(
                [
                    numbers(matrix_x, "X, 6x3", np.arange(6)[:, None] + np.zeros(3) == 1),
                    numbers(matrix_w, "W, 3x2", np.zeros((3, 1)) + np.arange(2) == 0),
                    numbers(
                        matrix_y, "Y = X W, 6x2", (np.arange(6)[:, None] == 1) & (np.arange(2) == 0)
                    ),
                ],
                justify="start",
                gap=3,
            ),
            mo.md(f"The framed row by the framed column: {first} = **{matrix_y[1, 0]:g}**."),
            numbers(y, "y: two channels, the layer's output, equal to Y"),
            code(conv2d, "columns @ matrix"),
        ]
    )
    return matrix_w, matrix_x


@app.cell(hide_code=True)
def _(mo):
    row = mo.ui.slider(0, 1, value=0, label="row", show_value=True)
    column = mo.ui.slider(0, 2, value=1, label="column", show_value=True)
    channel = mo.ui.slider(0, 1, value=0, label="channel", show_value=True)
    mo.vstack(
        [
            mo.md(r"""
    ## Backward

    A loss $L$ above sends $dY$, the derivative of $L$ by each number of $Y$. $Y = XW$ is linear in both factors, so
    the chain rule gives two more matrix products:

    $$ dX = dY\,W^{\mathsf T}, \qquad dW = X^{\mathsf T}\,dY. $$

    Choose a $dY$ that is 1 at one place and 0 elsewhere: then $L$ is that one output, and $dX$, $dW$ say what it hangs
    on.
    """),
            mo.hstack([row, column, channel], justify="start"),
        ]
    )
    return channel, column, row


@app.cell(hide_code=True)
def _(
    channel,
    code,
    column,
    conv,
    conv2d_dw,
    conv2d_dx,
    matrix_w,
    matrix_x,
    mo,
    np,
    numbers,
    row,
    x,
    y,
):
    dy = np.zeros(y.shape)
    dy[0, row.value, column.value, channel.value] = 1
    conv.weight.grad[...] = 0
    dx = conv.backward(dy, x, None)
    matrix_dy = dy.reshape(-1, 2)
    matrix_dx, matrix_dw = matrix_dy @ matrix_w.T, matrix_x.T @ matrix_dy
    assert np.array_equal(matrix_dx, dx.reshape(-1, 3))
    assert np.array_equal(matrix_dw, conv.weight.grad.reshape(3, 2))
    _pixel = 3 * row.value + column.value
    mo.vstack(
        [
            mo.hstack(
                [
                    numbers(matrix_dy, "dY, 6x2", matrix_dy != 0),
                    numbers(
                        matrix_w.T,
                        "W transposed, 2x3",
                        np.arange(2)[:, None] + np.zeros(3) == channel.value,
                    ),
                    numbers(matrix_dx, "dX, 6x3", np.arange(6)[:, None] + np.zeros(3) == _pixel),
                ],
                justify="start",
                gap=3,
            ),
            mo.hstack(
                [
                    numbers(
                        matrix_x.T, "X transposed, 3x6", np.zeros((3, 1)) + np.arange(6) == _pixel
                    ),
                    numbers(matrix_dy, "dY, 6x2", matrix_dy != 0),
                    numbers(matrix_dw, "dW, 3x2", np.zeros((3, 1)) + np.arange(2) == channel.value),
                ],
                justify="start",
                gap=3,
            ),
            mo.md(
                "The pixel's gradient is the filter, and the filter's gradient is the pixel. For a whole $dY$ both are "
                "sums of such: over filters for $dX$, over all pixels of all images for $dW$. The layer's own backward "
                "has just given the same numbers."
            ),
            code(conv2d_dx, "@ matrix.T"),
            code(conv2d_dw, "columns.T @ rows"),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, Html, check_gradients, mo, np):
    _report = check_gradients(
        Conv2D(3, 2, 1), np.random.default_rng(0).standard_normal((2, 2, 3, 3))
    )
    mo.vstack(
        [
            mo.md(
                "Are they right? The complex step differentiates the forward pass without using backward:"
            ),
            Html(f"<pre style='white-space:pre-wrap;font-size:85%'>{_report}</pre>"),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Conv2D, claim, code, mo):
    filters = Conv2D(64, 32, 1, bias=False)
    mo.vstack(
        [
            mo.md("""
    ## 64 channels in, 32 out

    The deck's example: 32 filters read 56x56x64. Each is a 64-dimensional inner product at each of 56x56 pixels.
    """),
            claim("deck.10", (filters.weight.data[..., 0].size, filters.weight.data.size)),
            claim("deck.11", filters.out_shape((1, 56, 56, 64))[1:], code(Conv2D.out_shape)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    outputs = mo.ui.slider(4, 256, step=4, value=32, label="1x1 filters", show_value=True)
    mo.hstack([outputs], justify="start")
    return (outputs,)


@app.cell(hide_code=True)
def _(ConvReLU, Sequential, mo, outputs, summary, table):
    _direct = summary(ConvReLU(64, 64, 3), (56, 56, 64))
    _through = summary(
        Sequential(reduce=ConvReLU(64, outputs.value, 1), conv=ConvReLU(outputs.value, 64, 3)),
        (56, 56, 64),
    )
    mo.vstack(
        [
            table(
                ("from 56x56x64 to 56x56x64", "multiply-adds", "parameters"),
                [
                    ("3x3", _direct.macs, _direct.params),
                    (f"1x1 to {outputs.value}, then 3x3", _through.macs, _through.params),
                ],
            ),
            mo.md(
                f"That is **{_through.macs / _direct.macs:.2f}** of the 3x3 alone. A reduction pays while it leaves "
                "fewer than nine tenths of the channels: $64 n + 9 \\cdot 64 n < 9 \\cdot 64 \\cdot 64$."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## Conv = GLM, MLPConv = 1x1 conv

    The deck borrows both words from Lin et al., *Network in Network*. A convolution followed by ReLU is a generalised
    linear model of each window, $y = f(w^{\mathsf T} x + b)$. Their MLPConv puts a small network in its place. Its
    further layers read one pixel each: they are 1x1 convolutions.
    """)
    return


@app.cell(hide_code=True)
def _(ConvReLU, Linear, Mode, ReLU, Sequential, cast, im2col, mo, np):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 6, 5, 3))
    wide = cast(ConvReLU(3, 4, 3, rng=rng), np.float64)
    seen, _ = wide.forward(image, Mode())

    # A generalised linear model of a window laid flat: a function, here ReLU, of a product
    glm = cast(Sequential(linear=Linear(27, 4), link=ReLU()), np.float64)
    glm.layers["linear"].weight.data[...] = wide.weight.data.reshape(27, 4)
    windows = im2col(image, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (6, 5))
    fitted, _ = glm.forward(windows, Mode())

    # Two 1x1 convolutions with ReLU, and the same weights as a network of two linear layers
    convs = cast(Sequential(a=ConvReLU(3, 8, 1, rng=rng), b=ConvReLU(8, 4, 1, rng=rng)), np.float64)
    mlp = cast(Sequential(a=Linear(3, 8), ra=ReLU(), b=Linear(8, 4), rb=ReLU()), np.float64)
    for layer in "ab":
        mlp.layers[layer].weight.data[...] = convs.layers[layer].weight.data[0, 0]
    by_convs, _ = convs.forward(image, Mode())
    by_mlp, _ = mlp.forward(image.reshape(-1, 3), Mode())
    mo.show_code()
    return by_convs, by_mlp, fitted, seen


@app.cell(hide_code=True)
def _(by_convs, by_mlp, claim, fitted, mo, np, seen):
    mo.vstack(
        [
            claim("deck.12", np.allclose(seen.reshape(-1, 4), fitted, rtol=0, atol=1e-12)),
            claim("deck.13", np.allclose(by_convs.reshape(-1, 4), by_mlp, rtol=0, atol=1e-12)),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

"""Convolution, backward.

Linear in the image and in the filter: each gradient is the same sum, with the roles exchanged.
"""

import marimo

app = marimo.App(width="medium", app_title="Convolution, backward")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import Conv2D, Mode, cast
    from inception_np.kernels.conv import conv2d, conv2d_dw, conv2d_dx
    from inception_np.kernels.elementwise import sum_rows
    from inception_np.kernels.im2col import col2im, im2col
    from inception_np.kernels.window import pad_images, taps
    from inception_np.learn import lessons
    from inception_np.learn.exercise import Exercise, prove, prove_lesson
    from inception_np.learn.slide import code, numbers

    return (
        Conv2D,
        Exercise,
        Mode,
        cast,
        code,
        col2im,
        conv2d,
        conv2d_dw,
        conv2d_dx,
        im2col,
        lessons,
        mo,
        np,
        numbers,
        pad_images,
        prove,
        prove_lesson,
        sum_rows,
        taps,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Convolution, backward

    Forward, with filter taps $(i, j)$, stride $s$, dilation $d$ and $t$ rows and $l$ columns of zeros above and
    left of the image:

    $$y_{npqo} = b_o + \sum_{i,j,c} x_{n,\;ps+id-t,\;qs+jd-l,\;c}\; w_{ijco}$$

    Given is $dy = \partial L/\partial y$ for a loss $L$. Wanted are $db$, $dw$ and $dx$.

    1. $y$ is linear in $x$, in $w$ and in $b$: each derivative is the factor beside it in the sum.
    2. $\partial y_{npqo}/\partial b_{o'} = [o = o']$: the bias of a channel is added to its every pixel.
    3. $db_o = \sum_{n,p,q} dy_{npqo}$: the chain rule sums over all $y$ that a $b_o$ is part of.
    4. $\partial y_{npqo}/\partial w_{ijco'} = [o = o']\; x_{n,ps+id-t,qs+jd-l,c}$: tap $(i,j)$ multiplies this
       pixel.
    5. $dw_{ijco} = \sum_{n,p,q} dy_{npqo}\; x_{n,ps+id-t,qs+jd-l,c}$: the chain rule again; a pixel of the padding
       is 0.
    6. $\partial y_{npqo}/\partial x_{nhkc} = \sum_{i,j} [ps+id-t = h]\,[qs+jd-l = k]\; w_{ijco}$: window $(p,q)$
       sees pixel $(h,k)$ with the tap that lies on it, or not at all.
    7. $dx_{nhkc} = \sum_{(p,i):\,ps+id-t=h}\;\sum_{(q,j):\,qs+jd-l=k}\;\sum_o\; dy_{npqo}\, w_{ijco}$: the sum over
       all windows that see the pixel. The filter is not turned; the places are.
    8. $Y = XW$ with a row of $X$ for every window: then $dW = X^T dY$ and $dX = dY\,W^T$ are steps 5 and 7 as
       matrix products.
    9. Forward copied a pixel into many rows of $X$ (`im2col`), so backward adds those entries of $dX$ up
       (`col2im`): the adjoint of a copy is a sum.
    """)
    return


@app.cell(hide_code=True)
def _(Conv2D, code, col2im, conv2d, conv2d_dw, conv2d_dx, im2col, mo, sum_rows):
    mo.vstack(
        [
            mo.md("## The code"),
            code(im2col, "columns[:, :, :, i, j] ="),
            code(conv2d, "columns @ matrix"),
            code(conv2d_dx, "matrix.T"),
            code(col2im, "padded[at] +="),
            code(conv2d_dw, "columns.T @ rows"),
            code(sum_rows, ".sum(0)"),
            code(Conv2D.backward),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    one = mo.ui.slider(0, 19, value=6, label="the entry of dy that is 1", show_value=True)
    every = mo.ui.checkbox(label="all of dy is 1")
    stride = mo.ui.slider(1, 3, value=1, label="stride, down", show_value=True)
    pad = mo.ui.slider(0, 2, value=1, label="rows of padding above", show_value=True)
    dilation = mo.ui.slider(1, 2, value=1, label="dilation, across", show_value=True)
    mo.vstack(
        [
            mo.md("## Where dy flows"),
            mo.hstack([one, every], justify="start"),
            mo.hstack([stride, pad, dilation], justify="start"),
        ]
    )
    return dilation, every, one, pad, stride


@app.cell(hide_code=True)
def _(Conv2D, Mode, cast, dilation, every, mo, np, numbers, one, pad, stride):
    _layer = Conv2D(1, 1, (3, 2), stride=(stride.value, 1), pad=((pad.value, 0), (0, 0)), dilation=(1, dilation.value))
    cast(_layer, np.float64).weight.data[...] = np.array([[1, 2], [3, 4], [5, 6]])[:, :, None, None]
    _x = np.random.default_rng(3).integers(-9, 10, (1, 4, 5, 1)).astype(float)
    _y, _cache = _layer.forward(_x, Mode(keep=True))
    _dy = np.full_like(_y, every.value)
    _dy.reshape(-1)[one.value % _dy.size] = 1
    _dx = _layer.backward(_dy, _x, _cache)
    _w, _dw = _layer.weight.data[:, :, 0, 0], _layer.weight.grad[:, :, 0, 0]
    mo.vstack(
        [
            mo.hstack(
                [numbers(_x, "x", _dx != 0), numbers(_w, "w"), numbers(_y, "y", _dy != 0)], justify="start", gap=3
            ),
            mo.hstack(
                [numbers(_dy, "dy", _dy != 0), numbers(_dx, "dx", _dx != 0), numbers(_dw, "dw")], justify="start", gap=3
            ),
            mo.md(
                "Every pixel gets, from every window that sees it, dy times the tap that lies on it. Every tap gets dy "
                "times what it saw, summed over the windows."
                if every.value
                else "dx is the filter, laid down where the window lies; dw is what the window saw of x, cut out. "
                "What falls on padding is lost to dx, and 0 in dw. For all of dy these pictures are added up."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(lessons, mo):
    lesson = lessons.convolution()
    lesson_edit = mo.ui.dropdown(["as it is", *lesson.edits], value="as it is", label="Edit")
    mo.vstack([mo.md(f"## Break it\n\nThis is the library's backward. {lesson.invitation}"), lesson_edit])
    return lesson, lesson_edit


@app.cell(hide_code=True)
def _(lesson, lesson_edit, mo):
    lesson_editor = mo.ui.code_editor(lesson.edited(lesson_edit.value), language="python", debounce=300)
    mo.vstack([lesson_editor])
    return (lesson_editor,)


@app.cell(hide_code=True)
def _(lesson, lesson_editor):
    lesson.check(lesson_editor.value)
    return


@app.cell(hide_code=True)
def _(lesson, mo):
    verdicts = lesson.verdicts()
    mo.accordion({f"What shows for {edit}": verdict for edit, verdict in verdicts.items()})
    return (verdicts,)


@app.cell(hide_code=True)
def _(Exercise, conv2d_dw, lesson, mo, pad_images, taps):
    dw = Exercise(lesson.layer, lesson.x, (conv2d_dw,), names={"taps": taps, "pad_images": pad_images})
    dw_stub = """def conv2d_dw(x, dy, dw, stride, pads, dilation, groups):
        padded = pad_images(x, pads)
        for i, j, at in taps(dw.shape[:2], stride, dilation, dy.shape[1:3]):
            dw[i, j] += ...
    """
    dw_solution = """def conv2d_dw(x, dy, dw, stride, pads, dilation, groups):
        padded = pad_images(x, pads)
        for i, j, at in taps(dw.shape[:2], stride, dilation, dy.shape[1:3]):
            dw[i, j] += np.einsum("npqc,npqo->co", padded[at], dy)
    """
    dw_answer = mo.ui.code_editor(dw_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write dw

    Step 5 without columns: a sum over the pixels for each tap. `taps(dw.shape[:2], stride, dilation,
    dy.shape[1:3])` gives every tap as `i, j, at`, where `padded[at]` is what this tap sees in all windows, $(N, H',
    W', C_{in})$, and `pad_images(x, pads)` is the padded image. Add into `dw`. There is one group."""),
            dw_answer,
        ]
    )
    return dw, dw_answer, dw_solution, dw_stub


@app.cell(hide_code=True)
def _(dw, dw_answer, dw_solution, dw_stub, mo):
    mo.vstack(
        [
            mo.md("*Your turn.*") if dw_answer.value == dw_stub else dw.check(dw_answer.value),
            mo.accordion({"A solution": mo.md(f"```python\n{dw_solution}```")}),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Exercise, conv2d_dx, lesson, mo, taps):
    dx = Exercise(lesson.layer, lesson.x, (conv2d_dx,), names={"taps": taps})
    dx_stub = """def conv2d_dx(dy, w, x_shape, stride, pads, dilation, groups, *, into=None):
        n, h, width, c = x_shape
        (top, bottom), (left, right) = pads
        padded = np.zeros((n, h + top + bottom, width + left + right, c))
        for i, j, at in taps(w.shape[:2], stride, dilation, dy.shape[1:3]):
            ...
        return padded
    """
    dx_solution = """def conv2d_dx(dy, w, x_shape, stride, pads, dilation, groups, *, into=None):
        n, h, width, c = x_shape
        (top, bottom), (left, right) = pads
        padded = np.zeros((n, h + top + bottom, width + left + right, c))
        for i, j, at in taps(w.shape[:2], stride, dilation, dy.shape[1:3]):
            padded[at] += dy @ w[i, j].T
        return padded[:, top : top + h, left : left + width]
    """
    dx_answer = mo.ui.code_editor(dx_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write dx

    Step 7, tap by tap: what goes to the pixels under tap $(i,j)$ is `dy` times the matrix `w[i, j]` $(C_{in},
    C_{out})$, turned the right way. Add into a padded image, and cut the padding off. `into` is None here."""),
            dx_answer,
        ]
    )
    return dx, dx_answer, dx_solution, dx_stub


@app.cell(hide_code=True)
def _(dx, dx_answer, dx_solution, dx_stub, mo):
    mo.vstack(
        [
            mo.md("*Your turn.*") if dx_answer.value == dx_stub else dx.check(dx_answer.value),
            mo.accordion({"A solution": mo.md(f"```python\n{dx_solution}```")}),
        ]
    )
    return


@app.cell(hide_code=True)
def _(dw, dw_solution, dx, dx_solution, lesson, prove, prove_lesson, verdicts):
    prove_lesson("convolution", lesson, verdicts)
    prove("dw of the convolution, a solution", dw.check(dw_solution))
    prove("dx of the convolution, a solution", dx.check(dx_solution))
    return


if __name__ == "__main__":
    app.run()

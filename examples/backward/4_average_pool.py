"""Average pooling, backward.

Each dy is divided by what its window counted, then spread over it.
"""

import marimo

app = marimo.App(width="medium", app_title="Average pooling, backward")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import AvgPool2D, GlobalAvgPool2D, Mode
    from inception_np.kernels.pool import avg_pool, avg_pool_dx, global_avg_pool_dx
    from inception_np.kernels.window import window_counts
    from inception_np.learn import lessons
    from inception_np.learn.exercise import Exercise, prove, prove_lesson
    from inception_np.learn.slide import code, numbers

    return (
        AvgPool2D,
        Exercise,
        GlobalAvgPool2D,
        Mode,
        avg_pool,
        avg_pool_dx,
        code,
        global_avg_pool_dx,
        lessons,
        mo,
        np,
        numbers,
        prove,
        prove_lesson,
        window_counts,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Average pooling, backward

    Forward, in each channel $c$ and window $(p,q)$:

    $$y_{npqc} = \frac{1}{D_{pq}} \sum_{i,j} x_{n,\;ps+i-t,\;qs+j-l,\;c}$$

    $D_{pq}$ is the number of real pixels in the window (TensorFlow), or of all its taps, on padding too
    (`count_include_pad`: Caffe's and PyTorch's default). Given is $dy = \partial L/\partial y$ for a loss $L$.
    Wanted is $dx$.

    1. $y$ is linear in $x$, and a pixel under the window has the factor $1/D_{pq}$.
    2. $\partial y_{npqc}/\partial x_{nhkc} = \frac{1}{D_{pq}} \sum_{i,j} [ps+i-t=h]\,[qs+j-l=k]$: at most one tap
       of a window lies on the pixel.
    3. $dx_{nhkc} = \sum_{(p,i):\,ps+i-t=h}\;\sum_{(q,j):\,qs+j-l=k} dy_{npqc}/D_{pq}$: the chain rule sums over all
       windows that see the pixel.
    4. The division stands inside the sum, since $D$ is the window's and not the pixel's: divide $dy$ first, then
       spread it.
    5. A window is a convolution's with all weights $1/D$: this is its $dx$, for each channel on its own.
    6. Global average pooling is one window, the whole plane: $dx_{nhwc} = dy_{nc}/(HW)$.
    """)
    return


@app.cell(hide_code=True)
def _(AvgPool2D, avg_pool, avg_pool_dx, code, mo, window_counts):
    mo.vstack(
        [
            mo.md("## The code"),
            code(avg_pool, "y *= "),
            code(window_counts),
            code(avg_pool_dx, "dy = dy * _weights"),
            code(AvgPool2D.backward, "avg_pool_dx("),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    one = mo.ui.slider(0, 19, value=1, label="the entry of dy that is 1", show_value=True)
    every = mo.ui.checkbox(label="all of dy is 1")
    include = mo.ui.checkbox(label="count_include_pad")
    stride = mo.ui.slider(1, 3, value=1, label="stride, down", show_value=True)
    pad = mo.ui.slider(0, 2, value=1, label="rows of padding above", show_value=True)
    mo.vstack(
        [
            mo.md("## Where dy flows"),
            mo.hstack([one, every, include], justify="start"),
            mo.hstack([stride, pad], justify="start"),
        ]
    )
    return every, include, one, pad, stride


@app.cell(hide_code=True)
def _(AvgPool2D, Mode, every, include, mo, np, numbers, one, pad, stride):
    _layer = AvgPool2D((3, 2), stride=(stride.value, 1), pad=((pad.value, 0), (0, 0)), count_include_pad=include.value)
    _x = np.random.default_rng(3).integers(-9, 10, (1, 4, 5, 1)).astype(float)
    _y, _cache = _layer.forward(_x, Mode(keep=True))
    _dy = np.full_like(_y, every.value)
    _dy.reshape(-1)[one.value % _dy.size] = 1
    _dx = _layer.backward(_dy, _x, _cache)
    mo.vstack(
        [
            mo.hstack([numbers(_x, "x", _dx != 0), numbers(_y, "y", _dy != 0)], justify="start", gap=3),
            mo.hstack([numbers(_dy, "dy", _dy != 0), numbers(_dx, "dx", _dx != 0)], justify="start", gap=3),
            mo.md(
                f"dy sums to {_dy.sum():.3g}, and dx to {_dx.sum():.3g}. "
                + (
                    "The share of dy that fell on padding is lost."
                    if include.value
                    else "They are equal: only real pixels count, and all of dy reaches one."
                )
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(lessons, mo):
    lesson = lessons.average_pool()
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
def _(Exercise, avg_pool_dx, lesson, mo):
    windows = Exercise(lesson.layer, lesson.x, (avg_pool_dx,))
    windows_stub = """def avg_pool_dx(dy, x_shape, size, stride, pads, count_include_pad, *, into=None):
        dx = np.zeros(x_shape)
        for p, q in np.ndindex(dy.shape[1:3]):
            top, left = p * stride[0] - pads[0][0], q * stride[1] - pads[1][0]
            ...
        return dx
    """
    windows_solution = """def avg_pool_dx(dy, x_shape, size, stride, pads, count_include_pad, *, into=None):
        dx = np.zeros(x_shape)
        for p, q in np.ndindex(dy.shape[1:3]):
            top, left = p * stride[0] - pads[0][0], q * stride[1] - pads[1][0]
            window = dx[:, max(0, top) : top + size[0], max(0, left) : left + size[1]]
            window += dy[:, p, q][:, None, None] / (window.shape[1] * window.shape[2])
        return dx
    """
    windows_answer = mo.ui.code_editor(windows_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write it

    Window by window: cut out of `dx` what window $(p,q)$ sees (a slice that ends at the image's edge, and begins
    there: mind that a negative start means something else to NumPy), and add $dy/D$ to it. $D$ is the slice's
    number of pixels, as `count_include_pad` is False. `into` is None here."""),
            windows_answer,
        ]
    )
    return windows, windows_answer, windows_solution, windows_stub


@app.cell(hide_code=True)
def _(mo, windows, windows_answer, windows_solution, windows_stub):
    mo.vstack(
        [
            mo.md("*Your turn.*") if windows_answer.value == windows_stub else windows.check(windows_answer.value),
            mo.accordion({"A solution": mo.md(f"```python\n{windows_solution}```")}),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Exercise, GlobalAvgPool2D, global_avg_pool_dx, lesson, mo):
    whole = Exercise(GlobalAvgPool2D(), lesson.x, (global_avg_pool_dx,))
    whole_stub = """def global_avg_pool_dx(dy, x_shape, *, into=None):
        n, h, w, c = x_shape
        ...
    """
    whole_solution = """def global_avg_pool_dx(dy, x_shape, *, into=None):
        n, h, w, c = x_shape
        return np.broadcast_to(dy[:, None, None, :] / (h * w), x_shape)
    """
    whole_answer = mo.ui.code_editor(whole_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Global average pooling

    Step 6: `dy` is $(N, C)$, and `dx` $(N, H, W, C)$."""),
            whole_answer,
        ]
    )
    return whole, whole_answer, whole_solution, whole_stub


@app.cell(hide_code=True)
def _(mo, whole, whole_answer, whole_solution, whole_stub):
    mo.vstack(
        [
            mo.md("*Your turn.*") if whole_answer.value == whole_stub else whole.check(whole_answer.value),
            mo.accordion({"A solution": mo.md(f"```python\n{whole_solution}```")}),
        ]
    )
    return


@app.cell(hide_code=True)
def _(lesson, prove, prove_lesson, verdicts, whole, whole_solution, windows, windows_solution):
    prove_lesson("average pooling", lesson, verdicts)
    prove("dx of average pooling, a solution", windows.check(windows_solution))
    prove("dx of global average pooling, a solution", whole.check(whole_solution))
    return


if __name__ == "__main__":
    app.run()

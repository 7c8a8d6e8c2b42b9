"""Local response normalisation, backward.

Every channel is in the window of its neighbours, so every neighbour's dy reaches it.
"""

import marimo

app = marimo.App(width="medium", app_title="Local response normalisation, backward")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import LRN, Mode
    from inception_np.kernels.lrn import channel_window_sum, lrn, lrn_dx
    from inception_np.learn import lessons
    from inception_np.learn.exercise import Exercise, prove, prove_lesson
    from inception_np.learn.slide import code, figure, numbers

    return (
        Exercise,
        LRN,
        Mode,
        channel_window_sum,
        code,
        figure,
        lessons,
        lrn,
        lrn_dx,
        mo,
        np,
        numbers,
        prove,
        prove_lesson,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Local response normalisation, backward

    Forward, at each pixel on its own, with $W_c = \{j : |j-c| \le \lfloor size/2 \rfloor\}$ the channels near $c$
    (Krizhevsky et al. 2012, section 3.3):

    $$s_c = k + \alpha \sum_{j\in W_c} x_j^2 \qquad\qquad y_c = x_c\, s_c^{-\beta}$$

    Given is $dy = \partial L/\partial y$ for a loss $L$. Wanted is $dx$. There are no parameters that learn.

    1. $\partial s_j/\partial x_c = 2\alpha\, x_c\,[c\in W_j]$: $x_c$ is in the sum of every channel whose window it
       lies in.
    2. $\partial y_j/\partial x_c = s_c^{-\beta}\,[j=c] \;-\; \beta\, x_j\, s_j^{-\beta-1}\;\partial s_j/\partial
       x_c$: the product rule; the first term is $x$'s own place in $y$.
    3. $dx_c = \sum_j dy_j\,\partial y_j/\partial x_c = dy_c\, s_c^{-\beta} - 2\alpha\beta\, x_c \sum_{j:\,c\in W_j}
       dy_j\, x_j\, s_j^{-\beta-1}$: the chain rule over all channels; $x_c$ does not depend on $j$ and leaves the
       sum.
    4. $c \in W_j$ means $|j-c| \le \lfloor size/2\rfloor$, and so does $j\in W_c$: the window is symmetric. So the
       sum of step 3 is the same window sum as that of forward.
    5. With $r = s^{-\beta}$, the power of step 3 is $s^{-\beta-1} = r/s$: one power, used twice.
    """)
    return


@app.cell(hide_code=True)
def _(LRN, channel_window_sum, code, lrn, lrn_dx, mo):
    mo.vstack(
        [
            mo.md("## The code"),
            code(channel_window_sum),
            code(lrn),
            code(lrn_dx, "channel_window_sum(dy"),
            code(LRN.backward, "lrn_dx("),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    one = mo.ui.slider(0, 6, value=3, label="the channel of dy that is 1", show_value=True)
    size = mo.ui.dropdown({"1": 1, "3": 3, "5": 5}, value="3", label="size")
    alpha = mo.ui.slider(0, 1, 0.1, value=0.5, label="alpha", show_value=True)
    beta = mo.ui.slider(0.25, 1.5, 0.25, value=0.75, label="beta", show_value=True)
    mo.vstack(
        [mo.md("## Where dy flows"), mo.hstack([one, size], justify="start"), mo.hstack([alpha, beta], justify="start")]
    )
    return alpha, beta, one, size


@app.cell(hide_code=True)
def _(LRN, Mode, alpha, beta, figure, mo, np, numbers, one, size):
    _layer = LRN(size.value, alpha=alpha.value, beta=beta.value, k=1.0, divide_by_size=False)
    _x = np.array([[1, 2, -1, 3, 1, -2, 1], [1, 1, 1, 1, 1, 1, 1]], float)
    _image = _x.reshape(1, 1, 2, 7)
    _y, _cache = _layer.forward(_image, Mode(keep=True))
    _dy = np.zeros_like(_image)
    _dy[..., one.value] = 1
    _dx = _layer.backward(_dy, _image, _cache)
    _figure, _ax = figure(7, 2.6)
    _ax.axhline(0, color="grey", lw=0.8)
    for _pixel in range(2):
        _ax.plot(_dx[0, 0, _pixel], "os"[_pixel] + "-", label=f"pixel {_pixel}")
    _ax.set(xlabel="channel", ylabel="dx", title="What one dy gives to the channels")
    _ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    mo.vstack(
        [
            mo.hstack(
                [numbers(_x, "x: a row for each of two pixels, a column for each channel"), numbers(_y[0, 0], "y")],
                justify="start",
                gap=3,
            ),
            mo.hstack(
                [numbers(_dy[0, 0], "dy", _dy[0, 0] != 0), numbers(_dx[0, 0], "dx", _dx[0, 0] != 0)],
                justify="start",
                gap=3,
            ),
            _figure,
            mo.md(
                r"dy reaches the channels of the window. Its own gets $s^{-\beta}$ less a share of the second term. A "
                "neighbour of the same sign gets a negative dx, one of the other sign a positive one: the larger its "
                "square, the smaller is y."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(lessons, mo):
    lesson = lessons.lrn()
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
def _(Exercise, lesson, lrn_dx, mo):
    dx = Exercise(lesson.layer, lesson.x, (lrn_dx,))
    dx_stub = """def lrn_dx(dy, x, size, alpha, beta, k, *, into=None):
        c = np.arange(x.shape[-1])
        near = (abs(c[:, None] - c) <= size // 2).astype(float)
        s = k + alpha * (x * x) @ near
        ...
    """
    dx_solution = """def lrn_dx(dy, x, size, alpha, beta, k, *, into=None):
        c = np.arange(x.shape[-1])
        near = (abs(c[:, None] - c) <= size // 2).astype(float)
        s = k + alpha * (x * x) @ near
        return dy * s**-beta - 2 * alpha * beta * x * ((dy * x * s ** (-beta - 1)) @ near)
    """
    dx_answer = mo.ui.code_editor(dx_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write it

    Steps 1 to 3 with a matrix in place of the window sum: `near[j, c]` is 1 where $c\in W_j$, else 0, so that `a @
    near` sums `a` over the window. `into` is None here."""),
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
def _(dx, dx_solution, lesson, prove, prove_lesson, verdicts):
    prove_lesson("LRN", lesson, verdicts)
    prove("dx of LRN, a solution", dx.check(dx_solution))
    return


if __name__ == "__main__":
    app.run()

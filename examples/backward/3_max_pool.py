"""Max pooling, backward.

The maximum is a copy of the winner: dy goes to it, and to nobody else.
"""

import marimo

app = marimo.App(width="medium", app_title="Max pooling, backward")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import MaxPool2D, Mode
    from inception_np.kernels.pool import max_pool, max_pool_dx
    from inception_np.learn import lessons
    from inception_np.learn.exercise import Exercise, prove, prove_lesson
    from inception_np.learn.slide import code, numbers

    return (Exercise, MaxPool2D, Mode, code, lessons, max_pool, max_pool_dx, mo, np, numbers, prove, prove_lesson)


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Max pooling, backward

    Forward, in each channel $c$ and window $(p,q)$ of $k_h \times k_w$ taps:

    $$y_{npqc} = \max_{i,j}\; x_{n,\;ps+i-t,\;qs+j-l,\;c} \qquad\qquad \text{the winner is tap } (i^*, j^*)_{npqc}$$

    Given is $dy = \partial L/\partial y$ for a loss $L$. Wanted is $dx$.

    1. Near $x$ the winner stays the same, so there $y_{npqc} = x_{n,\;ps+i^*-t,\;qs+j^*-l,\;c}$: the maximum is a
       copy of one entry.
    2. $\partial y_{npqc}/\partial x_{nhkc} = [ps+i^*-t = h]\,[qs+j^*-l = k]$: 1 for the winner and 0 for all
       others.
    3. $dx_{nhkc} = \sum_{p,q} dy_{npqc}\,[ps+i^*-t = h]\,[qs+j^*-l = k]$: the chain rule. A pixel gets the $dy$ of
       every window that it won, and windows overlap: a sum.
    4. Tap by tap: for tap $(i,j)$, the windows where it won give their $dy$ to the pixel that lies under it, and
       the others 0.
    5. At a tie $y$ has a kink, and no derivative. The library lets the first of equals win, in row-major order, so
       that $dy$ arrives once. Padding never wins: it is $-\infty$ in forward.
    6. The cache is the number $i^* k_w + j^*$ of each winner, a byte; $x$ is not needed.
    """)
    return


@app.cell(hide_code=True)
def _(MaxPool2D, code, max_pool, max_pool_dx, mo):
    mo.vstack(
        [
            mo.md("## The code"),
            code(max_pool, "winners[better] ="),
            code(max_pool_dx, "winners =="),
            code(MaxPool2D.backward, "max_pool_dx("),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    one = mo.ui.slider(0, 11, value=3, label="the entry of dy that is 1", show_value=True)
    every = mo.ui.checkbox(label="all of dy is 1")
    tie = mo.ui.checkbox(label="ties: x rounded to 0, 4 and 8")
    stride = mo.ui.slider(1, 3, value=1, label="stride, down", show_value=True)
    pad = mo.ui.slider(0, 2, value=0, label="rows of padding above", show_value=True)
    mo.vstack(
        [
            mo.md("## Where dy flows"),
            mo.hstack([one, every, tie], justify="start"),
            mo.hstack([stride, pad], justify="start"),
        ]
    )
    return every, one, pad, stride, tie


@app.cell(hide_code=True)
def _(MaxPool2D, Mode, every, mo, np, numbers, one, pad, stride, tie):
    _layer = MaxPool2D((3, 2), stride=(stride.value, 1), pad=((pad.value, 0), (0, 0)))
    _x = np.random.default_rng(5).permutation(20).reshape(1, 4, 5, 1) * 0.5
    _x = np.round(_x / 4) * 4 if tie.value else _x
    _y, _cache = _layer.forward(_x, Mode(keep=True))
    _dy = np.full_like(_y, every.value)
    _dy.reshape(-1)[one.value % _dy.size] = 1
    _dx = _layer.backward(_dy, _x, _cache)
    mo.vstack(
        [
            mo.hstack([numbers(_x, "x", _dx != 0), numbers(_y, "y", _dy != 0)], justify="start", gap=3),
            mo.hstack(
                [
                    numbers(_cache[0].astype(int), "the winner's tap: 2 i + j", _dy != 0),
                    numbers(_dy, "dy", _dy != 0),
                    numbers(_dx, "dx", _dx != 0),
                ],
                justify="start",
                gap=3,
            ),
            mo.md(f"dy sums to {_dy.sum():g}, and dx to {_dx.sum():g}: nothing is lost, nothing is made."),
        ]
    )
    return


@app.cell(hide_code=True)
def _(lessons, mo):
    lesson = lessons.max_pool()
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
def _(Exercise, lesson, max_pool_dx, mo):
    dx = Exercise(lesson.layer, lesson.x, (max_pool_dx,))
    dx_stub = """def max_pool_dx(dy, winners, x_shape, size, stride, pads, *, into=None):
        dx = np.zeros(x_shape)
        for n, p, q, c in np.ndindex(dy.shape):
            ...
        return dx
    """
    dx_solution = """def max_pool_dx(dy, winners, x_shape, size, stride, pads, *, into=None):
        dx = np.zeros(x_shape)
        for n, p, q, c in np.ndindex(dy.shape):
            i, j = divmod(int(winners[n, p, q, c]), size[1])
            dx[n, p * stride[0] + i - pads[0][0], q * stride[1] + j - pads[1][0], c] += dy[n, p, q, c]
        return dx
    """
    dx_answer = mo.ui.code_editor(dx_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write it

    Step 3 from its definition: for every entry of `dy`, find the pixel that won, and add. `winners` has the shape
    of `dy`, and $i^* k_w + j^*$ in it, as unsigned bytes: make an `int` of one before you compute with it. `into`
    is None here."""),
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
    prove_lesson("max pooling", lesson, verdicts)
    prove("dx of max pooling, a solution", dx.check(dx_solution))
    return


if __name__ == "__main__":
    app.run()

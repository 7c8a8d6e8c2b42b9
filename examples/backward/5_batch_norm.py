"""Batch norm, backward.

Both statistics depend on every x, so dx has three terms. Two of them are means, and are easily forgotten.
"""

import marimo

app = marimo.App(width="medium", app_title="Batch norm, backward")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import BatchNorm, Mode, cast
    from inception_np.kernels.batchnorm import batch_norm, batch_norm_grad, moments
    from inception_np.learn import lessons
    from inception_np.learn.exercise import Exercise, prove, prove_lesson
    from inception_np.learn.slide import code, numbers

    return (
        BatchNorm,
        Exercise,
        Mode,
        batch_norm,
        batch_norm_grad,
        cast,
        code,
        lessons,
        mo,
        moments,
        np,
        numbers,
        prove,
        prove_lesson,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Batch norm, backward

    Forward, for each channel, with $\langle\cdot\rangle$ the mean over the $m = N H W$ values of the batch (Ioffe &
    Szegedy 2015, Algorithm 1):

    $$\mu = \langle x \rangle \qquad \sigma^2 = \langle (x-\mu)^2 \rangle \qquad r = (\sigma^2+\varepsilon)^{-1/2}
    \qquad \hat x = (x-\mu)\,r \qquad y = \gamma \hat x + \beta$$

    Given is $dy = \partial L/\partial y$ for a loss $L$. Wanted are $d\gamma$, $d\beta$ and $dx$.

    1. $d\beta = \sum_i dy_i$: every $y_i$ has the same $\beta$, with slope 1.
    2. $d\gamma = \sum_i dy_i\,\hat x_i$: every $y_i$ has the same $\gamma$, with slope $\hat x_i$.
    3. $g_i = \gamma\, dy_i$: this is $\partial L/\partial \hat x_i$, the chain rule through $y = \gamma\hat
       x+\beta$.
    4. $\partial \mu/\partial x_j = 1/m$: a mean.
    5. $\partial \sigma^2/\partial x_j = \frac{2}{m}(x_j-\mu)$: the path through $\mu$ adds $-2\langle
       x-\mu\rangle\frac1m=0$.
    6. $\partial r/\partial x_j = -\tfrac12 r^3\cdot\frac{2}{m}(x_j-\mu) = -\frac{1}{m}\,r^2\,\hat x_j$: the chain
       rule, and $(x_j-\mu)\,r=\hat x_j$.
    7. $\partial \hat x_i/\partial x_j = r\,(\delta_{ij} - \tfrac1m) + (x_i-\mu)\,\partial r/\partial x_j =
       r\,(\delta_{ij} - \tfrac1m - \tfrac1m \hat x_i \hat x_j)$: the product rule on $(x_i-\mu)\,r$.
    8. $dx_j = \sum_i g_i\,\partial\hat x_i/\partial x_j = r\,\bigl(g_j - \langle g\rangle - \hat x_j \langle g\hat
       x\rangle\bigr)$: a sum over $i$ divided by $m$ is a mean.

    The second term is the path through $\mu$, the third the path through $\sigma^2$. In evaluation both are running
    averages, constants, and $dx = r\,g$.
    """)
    return


@app.cell(hide_code=True)
def _(BatchNorm, batch_norm, batch_norm_grad, code, mo, moments):
    mo.vstack(
        [
            mo.md("## The code"),
            code(moments),
            code(batch_norm, "xhat = "),
            code(batch_norm_grad, "dx = rstd"),
            code(BatchNorm.backward, "batch_norm_backward("),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    one = mo.ui.slider(0, 11, value=4, label="the entry of dy that is 1", show_value=True)
    shift = mo.ui.slider(-3, 3, value=0, label="added to channel 0 of x", show_value=True)
    stretch = mo.ui.slider(1, 5, value=1, label="factor of channel 1 of x", show_value=True)
    train = mo.ui.checkbox(value=True, label="training: statistics of this batch")
    mo.vstack(
        [
            mo.md("## Where dy flows"),
            mo.hstack([one, train], justify="start"),
            mo.hstack([shift, stretch], justify="start"),
        ]
    )
    return one, shift, stretch, train


@app.cell(hide_code=True)
def _(BatchNorm, Mode, cast, mo, np, numbers, one, shift, stretch, train):
    _layer = cast(BatchNorm(2, eps=1e-3), np.float64)
    _layer.gamma.data[...] = [1, 2]
    _x = np.array([[3, 1, 4], [1, 5, 9]])[None, :, :, None] + np.array([0.0, 2.0])
    _x[0, 0, 1, 1] = -4
    _x = _x * [1, stretch.value] + [shift.value, 0]
    _y, _cache = _layer.forward(_x, Mode(train=train.value, keep=True))
    _dy = np.zeros_like(_y)
    _dy.reshape(-1)[one.value] = 1
    _dx = _layer.backward(_dy, _x, _cache)
    _c = one.value % 2
    mo.vstack(
        [
            mo.hstack([numbers(_x, "x"), numbers(_y, "y")], justify="start", gap=3),
            mo.hstack([numbers(_dy, "dy", _dy != 0), numbers(_dx, "dx", _dy != 0)], justify="start", gap=3),
            mo.md(
                f"In channel {_c} the entries of dx sum to {_dx[..., _c].sum():.1e}, and those of dx times x to "
                f"{(_dx * _x)[..., _c].sum():.1e}. "
                + (
                    r"The first is 0, and the second is but for $\varepsilon$: y does not change when all x of a "
                    "channel are shifted or stretched. Try it: y stays, and dx shrinks as x is stretched."
                    if train.value
                    else "In evaluation the statistics are constants, and nothing flows to the other entries."
                )
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(lessons, mo):
    lesson = lessons.batch_norm()
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
def _(Exercise, batch_norm_grad, lesson, mo):
    by_sums = Exercise(lesson.layer, lesson.x, (batch_norm_grad,))
    by_sums_stub = """def batch_norm_grad(dy, x, mean, rstd, gamma, beta, *, relu, train, out=None):
        m = x.size // x.shape[-1]
        xhat = (x - mean) * rstd
        dgamma = ...
        dbeta = ...
        dx = ...
        return dx, dgamma, dbeta
    """
    by_sums_solution = """def batch_norm_grad(dy, x, mean, rstd, gamma, beta, *, relu, train, out=None):
        m = x.size // x.shape[-1]
        xhat = (x - mean) * rstd
        dgamma = (dy * xhat).sum((0, 1, 2))
        dbeta = dy.sum((0, 1, 2))
        if not train:
            return gamma * rstd * dy, dgamma, dbeta
        dx = gamma * rstd / m * (m * dy - dbeta - xhat * dgamma)
        return dx, dgamma, dbeta
    """
    by_sums_answer = mo.ui.code_editor(by_sums_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write it

    The two means in $dx$ are sums that you have already: $\langle g\rangle = \gamma\, d\beta/m$ and $\langle g\hat
    x\rangle = \gamma\, d\gamma/m$. Write $dx$ with them, so that no sum is made twice. Do not forget evaluation
    (`train` is False) and its shorter $dx$. `relu` is False here, and `out` None."""),
            by_sums_answer,
        ]
    )
    return by_sums, by_sums_answer, by_sums_solution, by_sums_stub


@app.cell(hide_code=True)
def _(by_sums, by_sums_answer, by_sums_solution, by_sums_stub, mo):
    mo.vstack(
        [
            mo.md("*Your turn.*") if by_sums_answer.value == by_sums_stub else by_sums.check(by_sums_answer.value),
            mo.accordion({"A solution": mo.md(f"```python\n{by_sums_solution}```")}),
        ]
    )
    return


@app.cell(hide_code=True)
def _(by_sums, by_sums_solution, lesson, prove, prove_lesson, verdicts):
    prove_lesson("batch norm", lesson, verdicts)
    prove("batch norm by dgamma and dbeta, a solution", by_sums.check(by_sums_solution))
    return


if __name__ == "__main__":
    app.run()

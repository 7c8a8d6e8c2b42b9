"""Softmax cross-entropy, backward.

Softmax, logarithm and mean together have a derivative of three letters: p - q, divided by N.
"""

import marimo

app = marimo.App(width="medium", app_title="Softmax cross-entropy, backward")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import softmax_cross_entropy
    from inception_np.kernels import loss
    from inception_np.learn import lessons
    from inception_np.learn.exercise import Exercise, prove, prove_lesson
    from inception_np.learn.slide import code, numbers, table

    return (Exercise, code, lessons, loss, mo, np, numbers, prove, prove_lesson, softmax_cross_entropy, table)


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Softmax cross-entropy, backward

    Forward, for $N$ rows of logits $z$ over $K$ classes, with a label $l_n$ for each and label smoothing
    $\varepsilon$ (Szegedy et al. 2016, Rethinking, section 7):

    $$p_{nk} = \frac{e^{z_{nk}}}{\sum_j e^{z_{nj}}} \qquad q_{nk} = (1-\varepsilon)\,[k = l_n] + \frac{\varepsilon}{K}
    \qquad L = -\frac1N \sum_n \sum_k q_{nk} \log p_{nk}$$

    Here the loss itself is differentiated: $dL = 1$. Wanted is $dz = \partial L/\partial z$. Rows do not mix, so
    take one, without $n$, and divide by $N$ at the end.

    1. $\log p_k = z_k - \log \sum_j e^{z_j}$: the logarithm of the quotient.
    2. $\partial \log\sum_j e^{z_j}/\partial z_i = e^{z_i}/\sum_j e^{z_j} = p_i$: the chain rule on the logarithm.
    3. $\partial \log p_k/\partial z_i = [k=i] - p_i$: steps 1 and 2.
    4. $-\sum_k q_k\,([k=i] - p_i) = p_i \sum_k q_k - q_i$: sum over $k$ with the factor $-q_k$.
    5. $\sum_k q_k = (1-\varepsilon) + K\cdot\varepsilon/K = 1$: the target is a distribution.
    6. $dz_{ni} = (p_{ni} - q_{ni})/N$: steps 4 and 5, and the mean over the batch.

    Each row of $dz$ sums to 0, since $p$ and $q$ both sum to 1: adding a number to all logits of a row changes
    nothing. That is why the largest may be subtracted first, so that no $e^z$ overflows. The Jacobian of the
    softmax never appears.
    """)
    return


@app.cell(hide_code=True)
def _(code, loss, mo, softmax_cross_entropy):
    mo.vstack(
        [
            mo.md("## The code"),
            code(loss.softmax_cross_entropy, "(e / total - target) / n"),
            code(softmax_cross_entropy, "_kernel("),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    logit = mo.ui.slider(-6, 12, value=2, label="logit of class 1 in row 0", show_value=True)
    label = mo.ui.slider(0, 3, value=1, label="label of row 0", show_value=True)
    smoothing = mo.ui.slider(0, 0.8, 0.1, value=0.1, label="smoothing", show_value=True)
    mo.vstack([mo.md("## Where the loss pulls"), mo.hstack([logit, label, smoothing], justify="start")])
    return label, logit, smoothing


@app.cell(hide_code=True)
def _(label, logit, mo, np, numbers, smoothing, softmax_cross_entropy, table):
    _z = np.array([[1, logit.value, 0, -1], [0, 0, 3, 0], [2, 1, 0, 0]], float)
    _labels = np.array([label.value, 2, 3])
    _loss, _dz = softmax_cross_entropy(_z, _labels, smoothing=smoothing.value)
    _q = np.full(_z.shape, smoothing.value / 4)
    _q[np.arange(3), _labels] += 1 - smoothing.value
    _p = 3 * _dz + _q
    _target = np.arange(4) == _labels[:, None]
    mo.vstack(
        [
            mo.hstack([numbers(_z, "z, the label framed", _target), numbers(_p, "p", _target)], justify="start", gap=3),
            mo.hstack([numbers(_q, "q", _target), numbers(_dz, "dz = (p - q) / 3", _target)], justify="start", gap=3),
            table(
                ("row", "sum of p", "sum of q", "sum of dz"),
                [(n, *(round(float(a[n].sum()), 6) + 0.0 for a in (_p, _q, _dz))) for n in range(3)],
            ),
            mo.md(
                f"The loss is {_loss:.4f}. A step against dz raises the framed logit and lowers the others. Without "
                "smoothing that never ends, as p < 1. With smoothing there is a best logit, and beyond it the framed "
                "entry of dz is positive."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(lessons, mo):
    lesson = lessons.cross_entropy()
    lesson_edit = mo.ui.dropdown(["as it is", *lesson.edits], value="as it is", label="Edit")
    mo.vstack(
        [
            mo.md(f"## Break it\n\nOf the loss and dlogits the second is checked, as dx. {lesson.invitation}"),
            lesson_edit,
        ]
    )
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
def _(Exercise, lesson, loss, mo):
    gradient = Exercise(lesson.layer, lesson.x, (loss.softmax_cross_entropy,))
    gradient_stub = """def softmax_cross_entropy(logits, labels, smoothing):
        n, k = logits.shape
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        q = (1 - smoothing) * np.eye(k)[labels] + smoothing / k
        dp = -q / p / n
        dz = ...
        return None, dz
    """
    gradient_solution = """def softmax_cross_entropy(logits, labels, smoothing):
        n, k = logits.shape
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        q = (1 - smoothing) * np.eye(k)[labels] + smoothing / k
        dp = -q / p / n
        dz = p * (dp - (dp * p).sum(1, keepdims=True))
        return None, dz
    """
    gradient_answer = mo.ui.code_editor(gradient_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write it

    The long way, which a softmax layer and a separate loss would take: $dp_k = -q_k/p_k$ (per row), and then the
    softmax's Jacobian, $\partial p_k/\partial z_i = p_k\,([k=i] - p_i)$. Write $dz_i = \sum_k dp_k\,\partial
    p_k/\partial z_i$ without a loop; the check says whether it is the same. Give the loss as None."""),
            gradient_answer,
        ]
    )
    return gradient, gradient_answer, gradient_solution, gradient_stub


@app.cell(hide_code=True)
def _(gradient, gradient_answer, gradient_solution, gradient_stub, mo):
    mo.vstack(
        [
            mo.md("*Your turn.*") if gradient_answer.value == gradient_stub else gradient.check(gradient_answer.value),
            mo.accordion({"A solution": mo.md(f"```python\n{gradient_solution}```")}),
        ]
    )
    return


@app.cell(hide_code=True)
def _(gradient, gradient_solution, lesson, prove, prove_lesson, verdicts):
    prove_lesson("cross-entropy", lesson, verdicts)
    prove("dlogits by the softmax's Jacobian, a solution", gradient.check(gradient_solution))
    return


if __name__ == "__main__":
    app.run()

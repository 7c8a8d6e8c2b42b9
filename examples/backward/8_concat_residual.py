"""Branches and shortcuts, backward.

What goes to several branches forward is summed backward: an Inception module and a residual one.
"""

import marimo

app = marimo.App(width="medium", app_title="Branches and shortcuts, backward")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import AvgPool2D, Concat, Conv2D, Mode, Residual, Sequential, cast
    from inception_np.compose import call_backward
    from inception_np.learn import lessons
    from inception_np.learn.exercise import Exercise, prove, prove_lesson
    from inception_np.learn.slide import code, numbers

    return (
        AvgPool2D,
        Concat,
        Conv2D,
        Exercise,
        Mode,
        Residual,
        Sequential,
        call_backward,
        cast,
        code,
        lessons,
        mo,
        np,
        numbers,
        prove,
        prove_lesson,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Branches and shortcuts, backward

    How layers are put together has a backward pass too. Write $f'(dy)$ for the backward of a layer $f$ at its $x$:
    what it makes of $dy$, $\;f'(dy)_k = \sum_i dy_i\, \partial f_i/\partial x_k$. It is linear in $dy$.

    **Concat**, the Inception module: branches side by side, their channels joined.

    $$y = [\,f_1(x),\; f_2(x),\; \dots]$$

    1. $y$'s channels $[a_i, a_{i+1})$ are branch $i$'s and no other's: so its $dy_i$ is that slice of $dy$.
    2. $L$ depends on $x$ through every branch: $\partial L/\partial x_k = \sum_i \sum_j (dy_i)_j\,\partial
       (f_i)_j/\partial x_k$, the chain rule for several paths.
    3. $dx = \sum_i f_i'(dy_i)$: fan-out forward is a sum backward.
    4. A branch adds to the gradients of its own parameters as it goes; the other branches do not touch them.

    **Residual**, the Inception-ResNet module, with a scale $\lambda$ of 0.1 to 0.3 (Szegedy et al. 2017, section
    3.3):

    $$y = x + \lambda f(x)$$

    5. $y$ depends on $x$ by two paths; the first one's derivative is 1, so $dy$ itself arrives by the shortcut.
    6. By the second path comes $f'(\lambda\, dy)$: the body's $y$ is multiplied by $\lambda$ on its way, so its
       $dy$ is too.
    7. $dx = dy + f'(\lambda\, dy)$: the sum of both. Whatever the body does, $dy$ gets through: that is what
       residual networks are for.
    """)
    return


@app.cell(hide_code=True)
def _(Concat, Residual, Sequential, call_backward, code, mo):
    mo.vstack(
        [
            mo.md("## The code"),
            code(Concat.forward, "start, stop ="),
            code(Concat.backward, "part ="),
            mo.md("`kept` is what forward kept: for each branch its cache and its number of channels; and shapes."),
            code(Residual.forward, "scaled_add("),
            code(Residual.backward, "df = "),
            code(Sequential.backward, "dy = call_backward("),
            code(call_backward, "add_to("),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    one = mo.ui.slider(0, 35, value=16, label="the entry of dy that is 1", show_value=True)
    every = mo.ui.checkbox(label="all of dy is 1")
    scale = mo.ui.slider(0, 1, 0.1, value=0.3, label="the residual's scale", show_value=True)
    mo.vstack([mo.md("## Where dy flows"), mo.hstack([one, every, scale], justify="start")])
    return every, one, scale


@app.cell(hide_code=True)
def _(AvgPool2D, Concat, Conv2D, Mode, Residual, cast, every, mo, np, numbers, one, scale):
    _x = np.random.default_rng(3).integers(-9, 10, (1, 3, 4, 1)).astype(float)

    def _passes(layer, filters):
        """y, dy and dx of a layer, its weights set."""
        cast(layer, np.float64)
        for conv, filter in filters:
            conv.weight.data[...] = np.reshape(filter, conv.weight.data.shape)
        y, cache = layer.forward(_x, Mode(keep=True))
        dy = np.full_like(y, every.value)
        dy.reshape(-1)[one.value % dy.size] = 1
        return y, dy, layer.backward(dy, _x, cache)

    _double, _column = Conv2D(1, 1, 1, bias=False), Conv2D(1, 1, (3, 1), bias=False)
    _filters = (_double, 2), (_column, [1, 2, 3])
    _joined = Concat(double=_double, column=_column, mean=AvgPool2D(3, stride=1, pad=1))
    _y, _dy, _dx = _passes(_joined, _filters)
    _body = Conv2D(1, 1, (3, 1), bias=False)
    _yr, _dyr, _dxr = _passes(Residual(_body, scale=scale.value), [(_body, [1, 2, 3])])
    _channel = one.value % 3
    _branch = ["double, a 1x1 convolution", "column, a 3x1 convolution", "mean, an average of 3x3"][_channel]
    mo.vstack(
        [
            mo.md("### Concat of a 1x1 convolution (times 2), a 3x1 one (1, 2, 3), and an average over 3x3"),
            mo.hstack(
                [numbers(_x[0], "x"), numbers(_y, "y, a channel for each branch", _dy != 0)], justify="start", gap=3
            ),
            mo.hstack([numbers(_dy, "dy", _dy != 0), numbers(_dx, "dx", _dx != 0)], justify="start", gap=3),
            mo.md(
                "dx is the sum of what the three branches give."
                if every.value
                else f"Channel {_channel} is the branch {_branch}: it alone gets this dy, and dx is what it gives."
            ),
            mo.md("### Residual with that 3x1 convolution as its body"),
            mo.hstack([numbers(_dyr, "dy", _dyr != 0), numbers(_dxr, "dx", _dxr != 0)], justify="start", gap=3),
            mo.md("With a scale of 0 the body is gone, and dx is dy."),
        ]
    )
    return


@app.cell(hide_code=True)
def _(lessons, mo):
    concat = lessons.concat()
    concat_edit = mo.ui.dropdown(["as it is", *concat.edits], value="as it is", label="Edit")
    mo.vstack([mo.md(f"## Break it\n\nThis is `Concat.backward`. {concat.invitation}"), concat_edit])
    return concat, concat_edit


@app.cell(hide_code=True)
def _(concat, concat_edit, mo):
    concat_editor = mo.ui.code_editor(concat.edited(concat_edit.value), language="python", debounce=300)
    mo.vstack([concat_editor])
    return (concat_editor,)


@app.cell(hide_code=True)
def _(concat, concat_editor):
    concat.check(concat_editor.value)
    return


@app.cell(hide_code=True)
def _(concat, mo):
    concat_verdicts = concat.verdicts()
    mo.accordion({f"What shows for {edit}": verdict for edit, verdict in concat_verdicts.items()})
    return (concat_verdicts,)


@app.cell(hide_code=True)
def _(lessons, mo):
    residual = lessons.residual()
    residual_edit = mo.ui.dropdown(["as it is", *residual.edits], value="as it is", label="Edit")
    mo.vstack([mo.md("And this is `Residual.backward`."), residual_edit])
    return residual, residual_edit


@app.cell(hide_code=True)
def _(mo, residual, residual_edit):
    residual_editor = mo.ui.code_editor(residual.edited(residual_edit.value), language="python", debounce=300)
    mo.vstack([residual_editor])
    return (residual_editor,)


@app.cell(hide_code=True)
def _(residual, residual_editor):
    residual.check(residual_editor.value)
    return


@app.cell(hide_code=True)
def _(mo, residual):
    residual_verdicts = residual.verdicts()
    mo.accordion({f"What shows for {edit}": verdict for edit, verdict in residual_verdicts.items()})
    return (residual_verdicts,)


@app.cell(hide_code=True)
def _(Concat, Exercise, concat, mo):
    branches = Exercise(concat.layer, concat.x, (Concat.backward,))
    branches_stub = """def backward(self, dy, x, kept, into=None, need_dx=True):
        caches = kept.pop()[0]
        dx, start = np.zeros(x.shape), 0
        for branch, (cache, channels) in zip(self.branches.values(), caches):
            ...
        return dx
    """
    branches_solution = """def backward(self, dy, x, kept, into=None, need_dx=True):
        caches = kept.pop()[0]
        dx, start = np.zeros(x.shape), 0
        for branch, (cache, channels) in zip(self.branches.values(), caches):
            dx += branch.backward(dy[..., start : start + channels], x, cache)
            start += channels
        return dx
    """
    branches_answer = mo.ui.code_editor(branches_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write Concat.backward

    From the first branch to the last, in plain steps. `self.branches` are the branches by name; `kept.pop()[0]` is
    a list of a pair `(cache, channels)` for each. A branch's backward is `branch.backward(dy, x, cache)`. `into` is
    None here, and `need_dx` True."""),
            branches_answer,
        ]
    )
    return branches, branches_answer, branches_solution, branches_stub


@app.cell(hide_code=True)
def _(branches, branches_answer, branches_solution, branches_stub, mo):
    mo.vstack(
        [
            mo.md("*Your turn.*") if branches_answer.value == branches_stub else branches.check(branches_answer.value),
            mo.accordion({"A solution": mo.md(f"```python\n{branches_solution}```")}),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Exercise, Residual, mo, residual):
    shortcut = Exercise(residual.layer, residual.x, (Residual.backward,))
    shortcut_stub = """def backward(self, dy, x, kept, into=None, need_dx=True):
        cache = kept.pop()[0]
        return ...
    """
    shortcut_solution = """def backward(self, dy, x, kept, into=None, need_dx=True):
        cache = kept.pop()[0]
        return dy + self.body.backward(self.scale * dy, x, cache)
    """
    shortcut_answer = mo.ui.code_editor(shortcut_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write Residual.backward

    Step 7. `kept.pop()[0]` is the body's cache, `self.scale` is $\lambda$. The shortcut is the identity."""),
            shortcut_answer,
        ]
    )
    return shortcut, shortcut_answer, shortcut_solution, shortcut_stub


@app.cell(hide_code=True)
def _(mo, shortcut, shortcut_answer, shortcut_solution, shortcut_stub):
    mo.vstack(
        [
            mo.md("*Your turn.*") if shortcut_answer.value == shortcut_stub else shortcut.check(shortcut_answer.value),
            mo.accordion({"A solution": mo.md(f"```python\n{shortcut_solution}```")}),
        ]
    )
    return


@app.cell(hide_code=True)
def _(
    branches,
    branches_solution,
    concat,
    concat_verdicts,
    prove,
    prove_lesson,
    residual,
    residual_verdicts,
    shortcut,
    shortcut_solution,
):
    prove_lesson("concat", concat, concat_verdicts)
    prove_lesson("residual", residual, residual_verdicts)
    prove("Concat.backward, a solution", branches.check(branches_solution))
    prove("Residual.backward, a solution", shortcut.check(shortcut_solution))
    return


if __name__ == "__main__":
    app.run()

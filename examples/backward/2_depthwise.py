"""Depthwise convolution, backward.

A convolution without the sum over channels: no channel hears of another, forward or backward.
"""

import marimo

app = marimo.App(width="medium", app_title="Depthwise convolution, backward")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import DepthwiseConv2D, Mode, cast
    from inception_np.kernels.depthwise import depthwise2d, depthwise2d_dw, depthwise2d_dx
    from inception_np.kernels.window import taps
    from inception_np.learn import lessons
    from inception_np.learn.exercise import Exercise, prove, prove_lesson
    from inception_np.learn.slide import code, numbers

    return (
        DepthwiseConv2D,
        Exercise,
        Mode,
        cast,
        code,
        depthwise2d,
        depthwise2d_dw,
        depthwise2d_dx,
        lessons,
        mo,
        np,
        numbers,
        prove,
        prove_lesson,
        taps,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Depthwise convolution, backward

    Forward, every channel $c$ on its own, with $M$ filters of its own; filter $m$ of channel $c$ gives channel
    $cM+m$ of $y$ (Sifre 2014, section 6.2; Chollet 2017):

    $$y_{n,p,q,\,cM+m} = \sum_{i,j} x_{n,\;ps+id-t,\;qs+jd-l,\;c}\; w_{ijcm}$$

    Given is $dy = \partial L/\partial y$ for a loss $L$. Wanted are $dw$ and $dx$. A convolution is this with a sum
    over $c$ in it; without that sum, no channel hears of another, forward or backward.

    1. $y$ is linear in $x$ and in $w$: each derivative is the factor beside it in the sum.
    2. $\partial y_{n,p,q,c'M+m'}/\partial w_{ijcm} = [c=c']\,[m=m']\; x_{n,ps+id-t,qs+jd-l,c}$: a filter is in one
       channel of $y$ only.
    3. $dw_{ijcm} = \sum_{n,p,q} dy_{n,p,q,cM+m}\; x_{n,ps+id-t,qs+jd-l,c}$: the chain rule sums over all places of
       the window, and over the images.
    4. $\partial y_{n,p,q,c'M+m}/\partial x_{nhkc} = [c=c'] \sum_{i,j} [ps+id-t=h]\,[qs+jd-l=k]\; w_{ijcm}$: window
       $(p,q)$ sees pixel $(h,k)$ with the tap that lies on it.
    5. $dx_{nhkc} = \sum_m \sum_{(p,i):\,ps+id-t=h}\;\sum_{(q,j):\,qs+jd-l=k} dy_{n,p,q,cM+m}\; w_{ijcm}$: a pixel
       is in all windows that see it, and in all $M$ filters of its channel. Both are sums.
    6. Tap by tap: `padded[at]` are the pixels under tap $(i,j)$, one for each window; windows overlap from tap to
       tap, so what comes is added, never stored over what was there.
    """)
    return


@app.cell(hide_code=True)
def _(DepthwiseConv2D, code, depthwise2d, depthwise2d_dw, depthwise2d_dx, mo, taps):
    mo.vstack(
        [
            mo.md("## The code"),
            code(taps, "rows = "),
            code(depthwise2d, "y += padded[at]"),
            code(depthwise2d_dx, "padded[at] +="),
            code(depthwise2d_dw, "dw[i, j] +="),
            code(DepthwiseConv2D.backward),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    one = mo.ui.slider(0, 23, value=5, label="the entry of dy that is 1", show_value=True)
    filters = mo.ui.slider(1, 2, value=1, label="filters per channel", show_value=True)
    stride = mo.ui.slider(1, 2, value=1, label="stride, across", show_value=True)
    pad = mo.ui.slider(0, 2, value=1, label="rows of padding above", show_value=True)
    mo.vstack(
        [
            mo.md("## Where dy flows"),
            mo.hstack([one, filters], justify="start"),
            mo.hstack([stride, pad], justify="start"),
        ]
    )
    return filters, one, pad, stride


@app.cell(hide_code=True)
def _(DepthwiseConv2D, Mode, cast, filters, mo, np, numbers, one, pad, stride):
    _layer = DepthwiseConv2D(
        2, (3, 2), multiplier=filters.value, stride=(1, stride.value), pad=((pad.value, 0), (0, 0))
    )
    _w = cast(_layer, np.float64).weight.data
    _w[...] = np.arange(1, 1 + _w.size).reshape(2, -1, 3, 2).transpose(2, 3, 0, 1)
    _x = np.random.default_rng(3).integers(-9, 10, (1, 3, 4, 2)).astype(float)
    _y, _cache = _layer.forward(_x, Mode(keep=True))
    _dy = np.zeros_like(_y)
    _dy.reshape(-1)[one.value % _dy.size] = 1
    _dx = _layer.backward(_dy, _x, _cache)

    def _flat(weights):
        """(kh, kw, C, M) as an image of C M channels, in the order of y's."""
        return weights.reshape(*weights.shape[:2], -1)

    mo.vstack(
        [
            mo.hstack(
                [numbers(_x, "x", _dx != 0), numbers(_flat(_w), "w, a filter per channel of y")], justify="start", gap=3
            ),
            mo.hstack([numbers(_y, "y", _dy != 0), numbers(_dy, "dy", _dy != 0)], justify="start", gap=3),
            mo.hstack([numbers(_dx, "dx", _dx != 0), numbers(_flat(_layer.weight.grad), "dw")], justify="start", gap=3),
            mo.md(
                f"dy is in channel {one.value % _dy.size % _dy.shape[3]} of y. Only the filter that made it gets a "
                "gradient, and only the channel of x that it looked at. dx is the filter, laid down where the window "
                "lies; dw is what it saw."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(lessons, mo):
    lesson = lessons.depthwise()
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
def _(Exercise, depthwise2d_dx, lesson, mo):
    dx = Exercise(lesson.layer, lesson.x, (depthwise2d_dx,))
    dx_stub = """def depthwise2d_dx(dy, w, x_shape, stride, pads, dilation, *, into=None):
        n, height, width, c = x_shape
        d = dy.reshape(*dy.shape[:3], c, -1)
        dx = np.zeros(x_shape)
        for p, q in np.ndindex(dy.shape[1:3]):
            for i, j in np.ndindex(w.shape[:2]):
                h = p * stride[0] + i * dilation[0] - pads[0][0]
                k = q * stride[1] + j * dilation[1] - pads[1][0]
                ...
        return dx
    """
    dx_solution = """def depthwise2d_dx(dy, w, x_shape, stride, pads, dilation, *, into=None):
        n, height, width, c = x_shape
        d = dy.reshape(*dy.shape[:3], c, -1)
        dx = np.zeros(x_shape)
        for p, q in np.ndindex(dy.shape[1:3]):
            for i, j in np.ndindex(w.shape[:2]):
                h = p * stride[0] + i * dilation[0] - pads[0][0]
                k = q * stride[1] + j * dilation[1] - pads[1][0]
                if 0 <= h < height and 0 <= k < width:
                    dx[:, h, k] += (d[:, p, q] * w[i, j]).sum(-1)
        return dx
    """
    dx_answer = mo.ui.code_editor(dx_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write dx

    Step 5 from its definition, with the window's place worked out by hand: window $(p,q)$ and tap $(i,j)$ meet at
    row $h = ps+id-t$ and column $k = qs+jd-l$; where that is inside the image, add what step 5 says, for all images
    and channels at once. `dy` is $(N, H', W', CM)$; as `d` it has an axis for the filters. `into` is None here."""),
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
def _(Exercise, depthwise2d_dw, lesson, mo):
    dw = Exercise(lesson.layer, lesson.x, (depthwise2d_dw,))
    dw_stub = """def depthwise2d_dw(x, dy, dw, stride, pads, dilation):
        d = dy.reshape(*dy.shape[:3], x.shape[3], -1)
        padded = pad_images(x, pads)
        for i, j, at in taps(dw.shape[:2], stride, dilation, dy.shape[1:3]):
            dw[i, j] += ...
    """
    dw_solution = """def depthwise2d_dw(x, dy, dw, stride, pads, dilation):
        d = dy.reshape(*dy.shape[:3], x.shape[3], -1)
        padded = pad_images(x, pads)
        for i, j, at in taps(dw.shape[:2], stride, dilation, dy.shape[1:3]):
            dw[i, j] += np.einsum("npqc,npqcm->cm", padded[at], d)
    """
    dw_answer = mo.ui.code_editor(dw_stub, language="python", debounce=300)
    mo.vstack(
        [
            mo.md(r"""## Write dw

    Step 3 as one `np.einsum` for each tap. Add into `dw`; `padded[at]` is $(N, H', W', C)$."""),
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
def _(dw, dw_solution, dx, dx_solution, lesson, prove, prove_lesson, verdicts):
    prove_lesson("depthwise convolution", lesson, verdicts)
    prove("dx of the depthwise convolution, a solution", dx.check(dx_solution))
    prove("dw of the depthwise convolution, a solution", dw.check(dw_solution))
    return


if __name__ == "__main__":
    app.run()

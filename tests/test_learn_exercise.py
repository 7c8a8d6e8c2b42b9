"""What a reader types into a page is judged right where it is right, wrong where it is wrong, and never a traceback."""

import ast
import sys
import time

import numpy as np
import pytest

from inception_np.learn import exercise, lessons
from inception_np.learn.exercise import plain_source, replaced

LESSONS = ("convolution", "depthwise", "max_pool", "average_pool", "batch_norm", "lrn", "cross_entropy", "concat")
LESSONS = (*LESSONS, "residual")

# lesson, what is replaced, by what, the tensor that is then wrong: five a page (concat and residual share one)
# fmt: off
PLANTED = [
    # a sign; the filter turned; the padding of height and width swapped; dilation forgotten; db not summed
    ("convolution", "dw[..., o] +=", "dw[..., o] -=", "weight"),
    ("convolution", "matrix = w[..., o].reshape", "matrix = w[::-1, ::-1, :, o].reshape", "x"),
    ("convolution", ", dx[block, :, :, c], kernel, stride, pads,",
     ", dx[block, :, :, c], kernel, stride, pads[::-1],", "x"),
    ("convolution", "= im2col(x[block, :, :, c], kernel, stride, pads, dilation,",
     "= im2col(x[block, :, :, c], kernel, stride, pads, (1, 1),", "weight"),
    ("convolution", ".sum(0)", "[0]", "bias"),
    # the sum over the wrong axis; overlaps lost; the pad of the other side; filters and channels transposed; a mean
    ("depthwise", ".sum(-1)", ".sum(-2)", "x"),
    ("depthwise", "padded[at] += (dy", "padded[at] = (dy", "x"),
    ("depthwise", "left : left + width", "right : right + width", "x"),
    ("depthwise", "dy.reshape(n, *out_hw, c, m)", "dy.reshape(n, *out_hw, m, c).swapaxes(-1, -2)", "x"),
    ("depthwise", ".sum((0, 1, 2))", ".mean((0, 1, 2))", "weight"),
    # a sign; taps counted by columns; one tap off; overlaps lost; all of a window get dy, as if all were ties
    ("max_pool", "size[1] + j, dy, 0)", "size[1] + j, -dy, 0)", "x"),
    ("max_pool", "i * size[1] + j", "j * size[0] + i", "x"),
    ("max_pool", "i * size[1] + j", "i * size[1] + j + 1", "x"),
    ("max_pool", "padded[at] += ", "padded[at] = ", "x"),
    ("max_pool", "winners == i * size[1] + j", "winners >= i * size[1] + j", "x"),
    # no division; padding counted; overlaps lost; the axes of the padding swapped; the last row of taps left out
    ("average_pool", "dy * _weights(dy, x_shape, size, stride, pads, out_hw, count_include_pad)", "dy * 1.0", "x"),
    ("average_pool", "out_hw, count_include_pad)", "out_hw, not count_include_pad)", "x"),
    ("average_pool", "padded[at] += dy", "padded[at] = dy", "x"),
    ("average_pool", "_inside(padded, reach, x_shape, into)", "_inside(padded, reach[::-1], x_shape, into)", "x"),
    ("average_pool", "in taps(size, ", "in taps((size[0] - 1, size[1]), ", "x"),
    # a term missing; a sign; x for xhat; a mean for a sum; rstd forgotten in evaluation
    ("batch_norm", " - xhat * (g * xhat).mean(NHW)", "", "x"),
    ("batch_norm", "(g - g.mean(NHW)", "(g + g.mean(NHW)", "x"),
    ("batch_norm", "(dy * xhat).sum(NHW)", "(dy * x).sum(NHW)", "gamma"),
    ("batch_norm", "dy.sum(NHW)", "dy.mean(NHW)", "beta"),
    ("batch_norm", "else rstd * g", "else g", "x (evaluation)"),
    # a factor; the neighbours forgotten; x forgotten; the power of s one too high; a window that is too small
    ("lrn", "- 2 * alpha", "- alpha", "x"),
    ("lrn", "channel_window_sum(dy * x * r / s, size)", "(dy * x * r / s)", "x"),
    ("lrn", "beta * x * channel", "beta * channel", "x"),
    ("lrn", "r / s, size", "r, size", "x"),
    ("lrn", "channel_window_sum(x * x, size)", "channel_window_sum(x * x, size - 2)", "x"),
    # no division by the batch; the softmax of a column; a sign; smoothing left out of the label; smoothing by n
    ("cross_entropy", "(e / total - target) / n)", "(e / total - target))", "x"),
    ("cross_entropy", "e.sum(1, keepdims=True)", "e.sum(0, keepdims=True)", "x"),
    ("cross_entropy", "e / total - target", "e / total + target", "x"),
    ("cross_entropy", "+= 1 - smoothing", "+= 1", "x"),
    ("cross_entropy", "smoothing / k", "smoothing / n", "x"),
    # one branch's dx instead of the sum; a slice one channel off; the scale forgotten; the shortcut scaled; not summed
    ("concat", "cache, dx, need_dx, x_shape)", "cache, None, need_dx, x_shape)", "x"),
    ("concat", "        stop = start\n", "        stop = start + 1\n", "a.weight"),
    ("residual", "else scaled(dy, self.scale)", "else dy", "x"),
    ("residual", "scaled(dy, 1.0)", "scaled(dy, self.scale)", "x"),
    ("residual", "body_cache, dx, need_dx)", "body_cache, None, need_dx)", "x"),
]
# fmt: on


def lesson(name):
    return getattr(lessons, name)()


@pytest.mark.parametrize("name, old, new, tensor", PLANTED)
def test_a_planted_edit_is_found_where_it_is(name, old, new, tensor):
    one = lesson(name)
    right = {c.tensor: c for c in one.check(one.source).report.checks}
    verdict = one.check(replaced(one.source, old, new))
    assert not verdict.ok and verdict.report is not None, verdict.sentence
    worst = verdict.report.worst
    assert worst.tensor in (tensor, f"{tensor} (evaluation)")  # of batch norm, the worse of the two modes
    for c in verdict.report.checks:
        moved = np.abs(c.maps[0] - right[c.tensor].maps[0]) > 1e-9  # against the library's own gradient
        assert np.array_equal(moved, (c.ratios > 1).reshape(moved.shape)), c.tensor
    assert abs(worst.maps[0][worst.index] - right[worst.tensor].maps[0][worst.index]) > 1e-4
    name, mode, _ = worst.tensor.partition(" (evaluation)")
    name = {"weight": "dw", "bias": "db"}.get(name, f"d({name})" if "." in name else f"d{name}")
    assert f"Wrong: {name}{list(worst.index)}{mode} is {worst.analytic:.9g}, and by" in verdict.sentence
    assert f"{name}{mode}: yours - complex step" in verdict._repr_html_()


def test_each_page_has_five_planted_edits():
    assert len(PLANTED) == len(set(PLANTED)) == 40
    names = [name.replace("residual", "concat") for name, *_ in PLANTED]
    assert {names.count(name) for name in names} == {5} and len(set(names)) == 8


@pytest.mark.parametrize("name", LESSONS)
def test_the_library_is_right_and_every_edit_worth_trying_is_wrong(name):
    one = lesson(name)
    assert one.check(one.source).ok
    assert len(one.edits) == 3
    for edit in one.edits:
        verdict = one.check(one.edited(edit))
        assert not verdict.ok and verdict.report is not None, verdict.sentence


@pytest.mark.parametrize("name", LESSONS)
def test_the_text_in_the_editor_is_the_librarys(name):
    class Bare(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            node.decorator_list, node.returns = [], None
            return self.generic_visit(node)

        def visit_arg(self, node):
            node.annotation = None
            return node

    for function in lesson(name).functions:
        function = exercise.inspect.unwrap(function)
        theirs = Bare().visit(ast.parse(exercise.textwrap.dedent(exercise.inspect.getsource(function))))
        assert ast.dump(ast.parse(plain_source(function))) == ast.dump(theirs)


# Right answers, written otherwise than the library's
OTHERWISE = {
    ("convolution", "taps and einsum, dw first"): """
def conv2d_dw(x, dy, dw, stride, pads, dilation, groups):
    (t, b), (l, r) = pads
    padded = np.pad(x, ((0, 0), (t, b), (l, r), (0, 0)))
    for i, j in np.ndindex(dw.shape[:2]):
        seen = padded[:, i * dilation[0] :: stride[0], j * dilation[1] :: stride[1]]
        dw[i, j] += np.einsum("npqc,npqo->co", seen[:, : dy.shape[1], : dy.shape[2]], dy)

def conv2d_dx(dy: Array, w, x_shape, stride, pads, dilation, groups, *, into=None) -> Array:
    n, h, width, c = x_shape
    (t, b), (l, r) = pads
    padded = np.zeros((n, h + t + b, width + l + r, c))
    for j in reversed(range(w.shape[1])):
        for i in range(w.shape[0]):
            rows = i * dilation[0] + stride[0] * np.arange(dy.shape[1])
            columns = j * dilation[1] + stride[1] * np.arange(dy.shape[2])
            padded[:, rows[:, None], columns] += np.tensordot(dy, w[i, j], (3, 1))
    return padded[:, t : t + h, l : l + width]

def sum_rows(dy, into):
    into += np.einsum("npqo->o", dy)
""",
    ("convolution", "a loop over the numbers of y"): """
def places(dy, w, h, width, stride, pads, dilation):
    for n, p, q, o in np.ndindex(dy.shape):
        for i, j in np.ndindex(w.shape[:2]):
            y, x = p * stride[0] + i * dilation[0] - pads[0][0], q * stride[1] + j * dilation[1] - pads[1][0]
            if 0 <= y < h and 0 <= x < width:
                yield n, p, q, o, i, j, y, x

def conv2d_dx(dy, w, x_shape, stride, pads, dilation, groups, *, into=None):
    dx = np.zeros(x_shape)
    for n, p, q, o, i, j, h, k in places(dy, w, *x_shape[1:3], stride, pads, dilation):
        dx[n, h, k] += dy[n, p, q, o] * w[i, j, :, o]
    return dx

def conv2d_dw(x, dy, dw, stride, pads, dilation, groups):
    for n, p, q, o, i, j, h, k in places(dy, dw, *x.shape[1:3], stride, pads, dilation):
        dw[i, j, :, o] += dy[n, p, q, o] * x[n, h, k]

def sum_rows(dy, into):
    for image in dy:
        into += image.sum((0, 1))
""",
    ("depthwise", "einsum"): """
def depthwise2d_dx(dy, w, x_shape, stride, pads, dilation, *, into=None):
    n, h, width, c = x_shape
    d = dy.reshape(*dy.shape[:3], c, -1)
    padded = np.zeros((n, h + sum(pads[0]), width + sum(pads[1]), c))
    for i, j, at in taps(w.shape[:2], stride, dilation, dy.shape[1:3]):
        padded[at] += np.einsum("npqcm,cm->npqc", d, w[i, j])
    return padded[:, pads[0][0] :, pads[1][0] :][:, :h, :width]

def depthwise2d_dw(x, dy, dw, stride, pads, dilation):
    padded = pad_images(x, pads)
    d = dy.reshape(*dy.shape[:3], x.shape[3], -1)
    for i, j, at in taps(dw.shape[:2], stride, dilation, dy.shape[1:3]):
        dw[i, j] += np.einsum("npqc,npqcm->cm", padded[at], d)
""",
    ("depthwise", "one filter after the other"): """
def depthwise2d_dx(dy, w, x_shape, stride, pads, dilation, *, into=None):
    dx = np.zeros(x_shape)
    for c in range(w.shape[2]):
        for m in range(w.shape[3]):
            for p, q in np.ndindex(dy.shape[1:3]):
                for i, j in np.ndindex(w.shape[:2]):
                    h, k = p * stride[0] + i * dilation[0] - pads[0][0], q * stride[1] + j * dilation[1] - pads[1][0]
                    if 0 <= h < x_shape[1] and 0 <= k < x_shape[2]:
                        dx[:, h, k, c] += dy[:, p, q, c * w.shape[3] + m] * w[i, j, c, m]
    return dx

def depthwise2d_dw(x, dy, dw, stride, pads, dilation):
    xp = np.pad(x, ((0, 0), *pads, (0, 0)))
    for i, j, c, m in np.ndindex(dw.shape):
        for p, q in np.ndindex(dy.shape[1:3]):
            h, k = p * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1]
            dw[i, j, c, m] += dy[:, p, q, c * dw.shape[3] + m] @ xp[:, h, k, c]
""",
    ("max_pool", "a loop over the windows"): """
def max_pool_dx(dy, winners, x_shape, size, stride, pads, *, into=None):
    dx = np.zeros(x_shape)
    for n, p, q, c in np.ndindex(dy.shape):
        i, j = divmod(int(winners[n, p, q, c]), size[1])
        dx[n, p * stride[0] + i - pads[0][0], q * stride[1] + j - pads[1][0], c] += dy[n, p, q, c]
    return dx
""",
    ("max_pool", "np.add.at"): """
def max_pool_dx(dy, winners, x_shape, size, stride, pads, *, into=None):
    n, p, q, c = np.indices(dy.shape)
    i, j = np.divmod(winners.astype(int), size[1])
    dx = np.zeros(x_shape)
    np.add.at(dx, (n, p * stride[0] + i - pads[0][0], q * stride[1] + j - pads[1][0], c), dy)
    return dx
""",
    ("average_pool", "a loop over the windows"): """
def avg_pool_dx(dy, x_shape, size, stride, pads, count_include_pad, *, into=None):
    dx = np.zeros(x_shape)
    for p in range(dy.shape[1]):
        for q in range(dy.shape[2]):
            h, k = p * stride[0] - pads[0][0], q * stride[1] - pads[1][0]
            window = dx[:, max(h, 0) : h + size[0], max(k, 0) : k + size[1]]
            window += dy[:, p : p + 1, q : q + 1] / (window.shape[1] * window.shape[2])
    return dx
""",
    ("average_pool", "a matrix for each axis"): """
def avg_pool_dx(dy, x_shape, size, stride, pads, count_include_pad, *, into=None):
    axes = []
    for out, n, k, s, (lo, _) in zip(dy.shape[1:3], x_shape[1:3], size, stride, pads):
        start = np.arange(out)[:, None] * s - lo
        inside = (np.arange(n) >= start) & (np.arange(n) < start + k)
        axes.append(inside / inside.sum(1, keepdims=True))
    return np.einsum("npqc,ph,qw->nhwc", dy, *axes)
""",
    ("batch_norm", "by dgamma and dbeta"): """
def batch_norm_grad(dy, x, mean, rstd, gamma, beta, *, relu, train, out=None):
    m = x.size // x.shape[-1]
    xhat = rstd * x - rstd * mean
    dgamma, dbeta = np.einsum("nhwc,nhwc->c", dy, xhat), np.einsum("nhwc->c", dy)
    if not train:
        return dy * (gamma * rstd), dgamma, dbeta
    return gamma * rstd / m * (m * dy - dbeta - dgamma * xhat), dgamma, dbeta
""",
    ("batch_norm", "in the paper's steps"): """
def batch_norm_grad(dy, x, mean, rstd, gamma, beta, *, relu, train, out=None):
    m = x.size / x.shape[-1]
    dxhat = dy * gamma
    dx = dxhat * rstd
    if train:
        dvar = (dxhat * (x - mean)).sum(NHW) * -0.5 * rstd**3
        dmean = -(dxhat.sum(NHW) * rstd) - 2 * dvar * (x - mean).mean(NHW)
        dx = dx + dvar * 2 * (x - mean) / m + dmean / m
    return dx, (dy * (x - mean) * rstd).sum(NHW), dy.sum(NHW)
""",
    ("lrn", "a matrix of neighbours"): """
def lrn_dx(dy, x, size, alpha, beta, k, *, into=None):
    c = np.arange(x.shape[-1])
    near = (abs(c[:, None] - c) <= size // 2).astype(float)
    s = k + alpha * (x**2 @ near)
    return dy / s**beta - 2 * alpha * beta * x * ((dy * x * s ** (-beta - 1)) @ near)
""",
    ("lrn", "one channel after the other"): """
def lrn_dx(dy, x, size, alpha, beta, k, *, into=None):
    channels, half = x.shape[-1], size // 2
    dx = np.zeros_like(x)
    for c in range(channels):
        window = slice(max(0, c - half), c + half + 1)
        s = k + alpha * (x[..., window] * x[..., window]).sum(-1)
        dx[..., c] += dy[..., c] * s**-beta
        dx[..., window] -= (2 * alpha * beta * dy[..., c] * x[..., c] * s ** (-1 - beta))[..., None] * x[..., window]
    return dx
""",
    ("cross_entropy", "log-softmax and an identity matrix"): """
def softmax_cross_entropy(logits, labels, smoothing):
    n, k = logits.shape
    z = logits - logits.max(1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(1, keepdims=True))
    q = (1 - smoothing) * np.eye(k)[labels] + smoothing / k
    return -(q * logp).sum() / n, (np.exp(logp) - q) / n
""",
    ("cross_entropy", "the Jacobian of the softmax, row by row"): """
def softmax_cross_entropy(logits, labels, smoothing):
    n, k = logits.shape
    grad = np.empty((n, k))
    for row, (z, label) in enumerate(zip(logits, labels)):
        p = np.exp(z) / np.exp(z).sum()
        q = np.full(k, smoothing / k)
        q[label] += 1 - smoothing
        grad[row] = (np.diag(p) - np.outer(p, p)) @ (-q / p) / n
    return None, grad
""",
    ("concat", "from the first branch on"): """
def backward(self, dy, x, kept, into=None, need_dx=True):
    caches = kept.pop()[0]
    cuts = np.cumsum([width for _, width in caches])[:-1]
    parts = np.split(dy, cuts, axis=-1)
    return sum(b.backward(d, x, c) for b, d, (c, _) in zip(self.branches.values(), parts, caches))
""",
    ("residual", "a sum of two"): """
def backward(self, dy, x, kept, into=None, need_dx=True):
    return dy + self.body.backward(self.scale * dy, x, kept.pop()[0])
""",
}


@pytest.mark.parametrize("name, how", OTHERWISE)
def test_a_right_answer_written_otherwise_is_right(name, how):
    verdict = lesson(name).check(OTHERWISE[name, how])
    assert verdict.ok, verdict.sentence


def test_each_page_has_two_right_answers_written_otherwise():
    names = [name.replace("residual", "concat") for name, _ in OTHERWISE]
    assert all(names.count(name) >= 2 for name in LESSONS[:-1])


HEAD = "def lrn_dx(dy, x, size, alpha, beta, k, *, into=None):\n"
BATCH = "def batch_norm_grad(dy, x, mean, rstd, gamma, beta, *, relu, train, out=None):\n"
DW = "def conv2d_dw(x, dy, dw, stride, pads, dilation, groups):\n"


@pytest.mark.parametrize(
    "name, text, line, said",
    [
        ("lrn", HEAD + "    return dy *", 2, "invalid syntax: return dy *"),
        ("lrn", HEAD + "    return (dy", 2, "'(' was never closed"),
        ("lrn", HEAD + "  s = 1\n    return dy", 3, "unexpected indent"),
        ("lrn", HEAD + "    s = 1\n    return dy * t", 3, "name 't' is not defined; there are add_to, channel_window"),
        ("lrn", HEAD + "    return dy * s\n    s = 1", 2, "UnboundLocalError"),
        ("lrn", HEAD + "    return np.summ(dy)", 2, "AttributeError"),
        ("lrn", HEAD + "    s = dy\n    return s.sum((0, 1, 7))", 3, "axis 7 is out of bounds"),
        ("lrn", HEAD + "    return dy[..., :-1]", 2, "LRN: got dx of shape (2, 3, 2, 4), wanted (2, 3, 2, 5)"),
        ("lrn", HEAD + "    s = dy[..., 1:] * x\n    return s", 2, "could not be broadcast"),
        ("lrn", HEAD + "    return dy.astype(np.float32)", 2, "gave dx of float32, wanted x's float64"),
        ("lrn", HEAD + "    return dy > 0", 2, "gave dx of bool"),
        ("lrn", HEAD + "    s = dy\n    return np.sqrt(-abs(x))", 3, "NaN or infinity for dx, first at [0, 0, 0, 0]"),
        ("lrn", HEAD + "    s = 2\n    dy *= s\n    return dy", 3, "would change dy, x or a weight in place"),
        ("lrn", HEAD + "    x[0] = 0\n    return dy", 2, "would change dy, x or a weight in place"),
        ("lrn", HEAD + "    dx = dy\n", 2, "gave NoneType for dx, wanted an array of shape (2, 3, 2, 5)"),
        ("lrn", HEAD + "    raise RuntimeError", 2, "RuntimeError"),
        ("lrn", HEAD + "    exit('bye')", 2, "bye"),
        ("lrn", "1 / 0", 1, "ZeroDivisionError"),
        ("lrn", "def lrn_dx(dy, x):\n    return dy", 1, "TypeError: lrn_dx() got an unexpected keyword argument"),
        ("lrn", "def lrn(dy, x):\n    return dy", None, "Define lrn_dx"),
        ("lrn", "lrn_dx = np.sum", None, "Define lrn_dx"),
        ("lrn", "", None, "Define lrn_dx"),
        ("lrn", "\0", None, "null bytes"),
        ("batch_norm", BATCH + "    return dy, x", 2, "not enough values to unpack"),
        ("batch_norm", BATCH + "    d = 0\n    return dy, dy.sum((0, 1)), dy.sum((0, 1, 2))", 3, "operand"),
        ("batch_norm", BATCH + "    gamma += 1\n    return dy, dy.sum(NHW), dy.sum(NHW)", 2, "in place"),
    ],
)
def test_what_cannot_be_judged_is_a_sentence_with_its_line(name, text, line, said):
    verdict = lesson(name).check(text)
    assert not verdict.ok and verdict.report is None
    assert said in verdict.sentence and verdict.line == line, verdict.sentence
    assert verdict.sentence.startswith(f"line {line}: ") == (line is not None)
    assert "\n" not in verdict.sentence and verdict.sentence.replace("'", "&#x27;")[:20] in verdict._repr_html_()


def test_a_gradient_that_is_set_and_not_added_breaks_a_rule():
    one = lesson("convolution")
    verdict = one.check(replaced(one.source, "dw[..., o] +=", "dw[..., o] ="))
    assert not verdict.ok and "a rule is broken" in verdict.sentence
    assert "backward sets the gradient of weight" in verdict._repr_html_()


def test_code_that_does_not_end_is_stopped(monkeypatch):
    monkeypatch.setattr(exercise, "SECONDS", 0.2)
    before, start = sys.gettrace(), time.monotonic()
    for text in (
        "    while True:\n        s = 1\n",
        "    try:\n        while True: pass\n    except Exception: pass\n",
    ):
        verdict = lesson("lrn").check(HEAD + text)
        assert not verdict.ok and "stopped after 0.2 s" in verdict.sentence and verdict.line in (2, 3)
    assert time.monotonic() - start < 30 and sys.gettrace() is before


def test_a_function_that_calls_itself_for_ever_is_stopped():
    verdict = lesson("lrn").check(HEAD + "    return lrn_dx(dy, x, size, alpha, beta, k)")
    assert "RecursionError" in verdict.sentence and verdict.line in (1, 2)


def test_a_check_leaves_the_layer_as_it_was():
    one = lesson("batch_norm")
    before = [p.data.copy() for p in one.layer.children().values()]
    one.check(one.edited("a missing term: no path through the mean"))
    after = [p.data for p in one.layer.children().values()]
    assert all(np.array_equal(a, b) and b.flags.writeable for a, b in zip(before, after, strict=True))


def test_a_script_says_what_it_tried_and_stops_at_another_verdict(capsys):
    one = lesson("lrn")
    exercise.prove("lrn", one.check(one.source))
    assert capsys.readouterr().out.startswith("lrn: Right: 60 comparisons")
    with pytest.raises(AssertionError, match="lrn: Wrong: dx"):
        exercise.prove("lrn", one.check(one.edited("a missing factor: 2")))


def test_an_edit_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match="occurs 0 times"):
        replaced("a b", "c", "d")
    with pytest.raises(ValueError, match="occurs 2 times"):
        replaced("a a", "a", "d")

"""What other checkers would say: their steps, directions, cotangents and tolerances, on our layers.

Each policy is re-implemented from its source with its default figures; none of the packages is called. They serve
for comparison only: examples/README.md shows what each of them misses.
"""

from collections.abc import Callable

import numpy as np

from ..backend.arrays import leaves, map_tree
from .complex_step import dense_direction, nonempty, projected
from .differences import central_quotient, difference
from .report import Check
from .subject import STEP, Array, Point, Subject, dot


def torch_slow(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """torch.autograd.gradcheck: every entry of the Jacobian, central difference, step 1e-6, atol 1e-5, rtol 1e-3."""
    return _jacobian(subject, np.float64, 1e-6, 1e-5, 1e-3)


def tinygrad(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """tinygrad's gradcheck: the whole Jacobian in float32, step 1e-3, atol 1e-3, rtol 1e-3."""
    return _jacobian(subject, np.float32, 1e-3, 1e-3, 1e-3)


def torch_fast(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """gradcheck(fast_mode=True): one number v^T J u per tensor, u and v non-negative unit vectors, step 1e-6, atol
    1e-5, rtol 1e-3."""
    v = map_tree(lambda a: draw.random(a.shape), subject.y)
    length = np.sqrt(dot(v, v))
    v = map_tree(lambda a: a / length, v)
    g = subject.gradients(subject.point, v)
    checks = []
    for name, a in nonempty(subject.point).items():
        u = draw.random(a.shape)
        u /= np.sqrt((u * u).sum())
        numeric = central_quotient(subject, {name: u}, 1e-6, v)
        checks.append(_row(name, "one number", float((g[name] * u).sum()), numeric, 1e-5, 1e-3))
    return checks


def jax(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """jax.test_util.check_grads with x64: one normal direction through everything, step 1e-4, atol = rtol = 1e-5."""
    return _one_direction(subject, draw, 1e-4, 1e-5, 1e-5, unit=False)


def jax_float32(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """jax.test_util.check_grads as it comes, in float32: step 1e-4, atol = rtol = 2e-3."""
    return _one_direction(subject, draw, 1e-4, 2e-3, 2e-3, unit=False, dtype=np.float32)


def chainer(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """chainer.gradient_check.check_backward with dtype=float64: a unit direction, step 1e-3, atol 1e-5, rtol 1e-4."""
    return _one_direction(subject, draw, 1e-3, 1e-5, 1e-4, unit=True)


def autograd(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """HIPS autograd's check_grads: a normal direction, step 5e-7, |a - b| or |a - b| / |a + b| under 1e-6."""
    u = dense_direction(subject, draw)
    numeric = central_quotient(subject, u, 5e-7, subject.dy)
    analytic = projected(subject.gradient, u)[0]
    return [_row("all", "one direction", analytic, numeric, 1e-6, 1e-6 * abs(analytic + numeric) / (abs(numeric) or 1))]


def minitorch(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """minitorch's grad_check: one random entry per tensor, dy of ones, step 1e-6, atol = rtol = 1e-2."""
    ones = map_tree(np.ones_like, subject.y)
    g = subject.gradients(subject.point, ones)
    checks = []
    for name, a in nonempty(subject.point).items():
        u = np.zeros(a.shape)
        i = tuple(int(draw.integers(n)) for n in a.shape)
        u[i] = 1
        checks.append(
            _row(
                name,
                f"entry {list(i)}",
                float(g[name][i]),
                central_quotient(subject, {name: u}, 1e-6, ones),
                1e-2,
                1e-2,
            )
        )
    return checks


def ones(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """Every entry, but dy of ones and three decimals, as numpy-ml's tests have it; step 1e-6, atol 1.5e-3."""
    dy = map_tree(np.ones_like, subject.y)
    return _elements(subject, dy, 1e-6, lambda a, n: 1.5e-3 + 0 * n)


def cs231n(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """cs231n's notes: every entry, random dy, step 1e-5, |a - b| / max(|a| + |b|, 1e-8) under 1e-5."""
    return _elements(subject, subject.dy, 1e-5, lambda a, n: 1e-5 * np.maximum(1e-8, np.abs(a) + np.abs(n)))


def mygrad(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """MyGrad's tests: every entry by complex step, atol = rtol = 1e-7."""
    numeric = {}
    point = subject.complex_point({})
    for name, a in nonempty(subject.point).items():
        moved, numeric[name] = point[name], np.empty(a.shape)
        for i in np.ndindex(a.shape):
            moved[i] += 1j * STEP
            numeric[name][i] = subject.project(subject.forward(point)) / STEP
            moved[i] = moved[i].real
    return [_worst(k, subject.gradient[k], n, 1e-7 + 1e-7 * np.abs(n)) for k, n in numeric.items()]


POLICIES: dict[str, Callable[[Subject, np.random.Generator], list[Check]]] = {
    "torch-slow": torch_slow,
    "torch-fast": torch_fast,
    "jax": jax,
    "jax-float32": jax_float32,
    "chainer": chainer,
    "autograd": autograd,
    "minitorch": minitorch,
    "tinygrad": tinygrad,
    "cs231n": cs231n,
    "mygrad": mygrad,
    "ones": ones,
}


def _jacobian(subject: Subject, dtype: type, h: float, atol: float, rtol: float) -> list[Check]:
    size = sum(a.size for a in leaves(subject.y))
    point: Point = {k: a.astype(dtype) for k, a in subject.point.items()}
    checks = []
    numeric: dict[str, Array] = {}
    for name, a in nonempty(point).items():
        rows = np.empty((a.size, size))
        for i in range(a.size):
            up, down = ({**point, name: _bumped(a, i, s * h)} for s in (1, -1))
            rows[i] = (_flat(subject.forward(up)) - _flat(subject.forward(down))) / (2 * h)
        numeric[name] = rows
    analytic = {name: np.empty((a.size, size)) for name, a in point.items()}
    for j in range(size):
        for name, g in subject.gradients(point, _one_hot(subject.y, j)).items():
            analytic[name][:, j] = g.ravel()
    for name, n in numeric.items():
        a = analytic[name]
        checks.append(_worst(name, a, n, atol + rtol * np.abs(n)))
    return checks


def _elements(subject: Subject, dy: object, h: float, tolerance: Callable[[Array, Array], Array]) -> list[Check]:
    g = subject.gradients(subject.point, dy)
    checks = []
    for name, a in nonempty(subject.point).items():
        numeric = np.empty(a.size)
        for i in range(a.size):
            up, down = ({**subject.point, name: _bumped(a, i, s * h)} for s in (1, -1))
            numeric[i] = dot(dy, difference(subject.forward(up), subject.forward(down))) / (2 * h)
        n = numeric.reshape(a.shape)
        checks.append(_worst(name, g[name], n, tolerance(g[name], n)))
    return checks


def _one_direction(
    subject: Subject,
    draw: np.random.Generator,
    h: float,
    atol: float,
    rtol: float,
    *,
    unit: bool,
    dtype: type = np.float64,
) -> list[Check]:
    u = dense_direction(subject, draw)
    if unit:
        length = np.sqrt(sum((v**2).sum() for v in u.values()))
        u = {k: v / length for k, v in u.items()}
    point: Point = {k: a.astype(dtype) for k, a in subject.point.items()}
    g = subject.gradients(point)
    up: Point = {k: np.asarray(a + h * u[k], dtype) for k, a in point.items()}
    down: Point = {k: np.asarray(a - h * u[k], dtype) for k, a in point.items()}
    numeric = dot(subject.dy, difference(subject.forward(up), subject.forward(down))) / (2 * h)
    analytic = sum(float((g[k].astype(np.float64) * v).sum()) for k, v in u.items())
    return [_row("all", "one direction", analytic, numeric, atol, rtol)]


def _bumped(a: Array, i: int, h: float) -> Array:
    b = a.copy()
    b.reshape(-1)[i] += h
    return b


def _flat(y: object) -> Array:
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in leaves(y)])


def _one_hot(y: object, j: int) -> object:
    arrays, at = [], j
    for a in leaves(y):
        hot = np.zeros(a.size)
        if 0 <= at < a.size:
            hot[at] = 1
        at -= a.size
        arrays.append(hot.reshape(a.shape))
    parts = iter(arrays)
    return map_tree(lambda _: next(parts), y)


def _row(name: str, how: str, analytic: float, numeric: float, atol: float, rtol: float) -> Check:
    """A check in absolute terms, as these policies have it."""
    return Check(name, how, abs(analytic - numeric), atol + rtol * abs(numeric), analytic, numeric, 1.0)


def _worst(name: str, a: Array, n: Array, tolerance: Array) -> Check:
    i = np.unravel_index(int(np.argmax(np.abs(a - n) / tolerance)), a.shape)
    error = float(np.abs(a[i] - n[i]))
    return Check(name, "every entry", error, float(tolerance[i]), float(a[i]), float(n[i]), 1.0)

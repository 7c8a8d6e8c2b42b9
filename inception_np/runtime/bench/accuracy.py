"""How far float32 convolutions lie from float64: the kernels as they run, beside the direct sum, on random numbers.

    certificate(...)     one geometry: the three passes as the CPU kernels do them, over the direct kernel's errors
    points_table()       Winograd's forms by their points, in NumPy: the table in kernels/cpu/winograd.py

Inputs are normal with ReLU's zeros, filters have variance 2 / fan-in, gradients are normal.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from ...backend.arrays import Array, Shape
from ...kernels import conv
from ...kernels.cpu.winograd import Axis, Matrix, apply, matrices, plus_minus, sandwich, transposed
from ...kernels.window import Pads, Pair, out_size

Errors = dict[str, tuple[float, float]]


@cache
def certificate(x_shape: Shape, w_shape: Shape, stride: Pair, pads: Pads, dilation: Pair) -> Errors:
    """{"y", "dx", "dw": (rms error, worst error)}, each over that of the direct sum, against float64.

    1.0 exactly where the pass is the direct sum.
    """
    from ...kernels.cpu.conv import directly

    rng, where = np.random.default_rng(0), (stride, pads, dilation, 1)

    def draw(shape: Shape) -> Array:
        return rng.standard_normal(shape, dtype=np.float32)

    x = np.maximum(draw(x_shape), 0)
    w = draw(w_shape) * np.float32(np.sqrt(2 / np.prod(w_shape[:3])))
    dy = draw((x_shape[0], *out_size(x_shape[1:3], w_shape[:2], stride, pads, dilation), w_shape[3]))

    def dw_of(x: Array, dy: Array) -> Array:
        dw = np.zeros(w_shape, x.dtype)
        conv.conv2d_dw(x, dy, dw, *where)
        return dw

    passes: dict[str, tuple[Callable[..., Array], Array, Array]] = {
        "y": (lambda x, w: conv.conv2d(x, w, None, *where), x, w),
        "dx": (lambda dy, w: conv.conv2d_dx(dy, w, x_shape, *where), dy, w),
        "dw": (dw_of, x, dy),
    }
    found = {}
    for name, (run, a, b) in passes.items():
        ours = run(a, b)
        with directly():
            direct = run(a, b)
        found[name] = (1.0, 1.0)
        if not np.array_equal(ours, direct):
            found[name] = error_over(ours, direct, run(a.astype(np.float64), b.astype(np.float64)))
    return found


def error_over(ours: Array, direct: Array, exact: Array) -> tuple[float, float]:
    """(rms error of ours over that of the direct sum, worst over worst)."""
    mine, theirs = np.abs(ours - exact), np.abs(direct - exact)
    return float(np.sqrt(np.mean(mine**2) / np.mean(theirs**2))), float(mine.max() / theirs.max())


TRIED = [  # along a side, how many sides, the points beside infinity
    (Axis(2, 3), 2, ("1",)),
    (Axis(3, 3), 2, ("1/2", "5/4")),
    (Axis(4, 3), 2, ("1", "2")),
    (Axis(4, 3), 2, ("2/3", "3/2")),
    (Axis(6, 3), 2, ("3/5", "1", "2")),
    (Axis(2, 5), 2, ("2/3", "3/2")),
    (Axis(4, 3), 1, ("2/3", "3/2")),
    (Axis(2, 7), 1, ("1/2", "1", "2")),
    (Axis(3, 7), 1, ("1/3", "2/3", "1", "5/2")),
    (Axis(3, 4), 1, ("2/3", "3/2")),
]
CHANNELS, BLOCK, PATCHES, FILTERS = 192, 48, 60, 4


def points_table() -> tuple[list[str], list[list[str]]]:
    """(head, lines): a form's name, products an output, points, error in one chain and in chains of BLOCK channels."""
    lines = []
    for axis, sides, halves in TRIED:
        points = (Fraction(0),) * ((axis.places - 1) % 2) + plus_minus(*halves)
        m, r = (f"{n}x{n}" if sides == 2 else f"{n}" for n in axis)
        products = f"{(axis.places / axis.outputs) ** sides:.3g} of {axis.taps**sides}"
        errors = [f"{error_of_form(axis, sides, points, block)[0]:.2f}" for block in (CHANNELS, BLOCK)]
        lines.append([f"F({m}, {r})", products, " ".join(map(str, points)), *errors])
    return ["form", "products an output", "points, and infinity", "one chain", f"chains of {BLOCK}"], lines


def error_of_form(axis: Axis, sides: int, points: tuple[Fraction, ...], block: int) -> tuple[float, float]:
    """`error_over` for a form's outputs, whose products are added over `block` channels at a time."""
    rng = np.random.default_rng(2)
    A, G, B = matrices(axis.outputs, axis.taps, points)
    d = np.maximum(rng.standard_normal((*(axis.places,) * sides, PATCHES, CHANNELS)), 0).astype(np.float32)
    g = rng.standard_normal((*(axis.taps,) * sides, CHANNELS, FILTERS)) * (2 / (axis.taps**sides * CHANNELS)) ** 0.5
    g = g.astype(np.float32)
    exact: Any = 0
    direct = np.zeros((*(axis.outputs,) * sides, PATCHES, FILTERS), np.float32)
    for tap in np.ndindex(*(axis.taps,) * sides):
        seen = d[tuple(slice(t, t + axis.outputs) for t in tap)]
        exact = exact + seen.astype(np.float64) @ g[tap].astype(np.float64)
    for c in range(CHANNELS):  # one chain: channel by channel, tap by tap
        for tap in np.ndindex(*(axis.taps,) * sides):
            direct += d[tuple(slice(t, t + axis.outputs) for t in tap)][..., c, None] * g[tap][c]
    U = along_sides(G, g.astype(np.float64), sides).astype(np.float32)
    V = along_sides(transposed(B), d, sides)
    products = np.zeros((*V.shape[:-1], FILTERS), np.float32)
    for first in range(0, CHANNELS, block):
        part = np.zeros_like(products)
        for c in range(first, min(first + block, CHANNELS)):
            part += V[..., c, None] * U[..., None, c, :]
        products += part
    return error_over(along_sides(transposed(A), products, sides), direct, exact)


def along_sides(matrix: Matrix, a: Array, sides: int) -> Array:
    """The matrix applied along the first axis, or the first two, in a's dtype."""
    factors: Any = [[a.dtype.type(float(f)) for f in row] for row in matrix]
    if sides == 1:
        return np.stack(apply(factors, list(a)))
    return np.stack([np.stack(row) for row in sandwich(factors, list(a), factors)])

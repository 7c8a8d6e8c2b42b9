"""Local response normalisation for float32, a pixel at a time.

Its squares are laid in a row with zeros on both sides; a window's sum is a few loads from there, each one channel on.

s^-beta for beta = 3/4, 1/2 and 1 is made of square roots and a division, with no logarithm.
"""

import numpy as np

from ...backend.arrays import Array
from ...backend.program import address, empty, traced
from .machine import helper, kernel, row_step, rows, unpack
from .rows import few_parts, in_rows
from .simd import LANES, calloc, fma, free, load, splat, sqrt, store


@helper
def _window(squares, size):
    """The sum over `size` channels, for a vector of channels; `squares` points to the first window's first."""
    s = load(squares, 16)
    for j in range(1, size):
        s = s + load(squares + 4 * j, 16)
    return s


@helper
def _power(s, quarters):
    """s^(-quarters / 4)."""
    r = s
    if quarters == 3:
        r = sqrt(s)
        r = r * sqrt(r)
    if quarters == 2:
        r = sqrt(s)
    return splat(np.float32(1)) / r


@kernel
def lrn_rows(part, parts, arguments):
    """y = x * (k + alpha * window sum of x^2)^-beta."""
    x, x_step, y, y_step, count, C, size, quarters, alpha, k = unpack(arguments, "qqqqqqqqff")
    half, room = size // 2, (C + LANES - 1) // LANES * LANES
    squares = calloc(4 * (room + 2 * half + LANES))
    a, b = splat(alpha), splat(k)
    for r in range(count * part // parts, count * (part + 1) // parts):
        source, target = x + r * x_step, y + r * y_step
        for c in range(0, C, LANES):
            n = min(C - c, LANES)
            v = load(source + 4 * c, n)
            store(squares + 4 * (half + c), v * v, n)
        for c in range(0, C, LANES):
            n = min(C - c, LANES)
            s = fma(_window(squares + 4 * c, size), a, b)
            store(target + 4 * c, load(source + 4 * c, n) * _power(s, quarters), n)
    free(squares)


@kernel
def lrn_dx_rows(part, parts, arguments):
    """dx = dy * s^-beta - 2 alpha beta x * window sum of (dy * x * s^-beta / s), s as above."""
    dy, dy_step, x, x_step, dx, dx_step, count, C, size, quarters, add, alpha, k = unpack(arguments, "qqqqqqqqqqqff")
    half, room = size // 2, (C + LANES - 1) // LANES * LANES
    width = room + 2 * half + LANES
    squares = calloc(4 * (2 * width + room))
    ratios = squares + 4 * width
    direct = ratios + 4 * width
    a, b = splat(alpha), splat(k)
    factor = splat(np.float32(-0.5) * alpha * np.float32(quarters))
    for r in range(count * part // parts, count * (part + 1) // parts):
        d_at, source, target = dy + r * dy_step, x + r * x_step, dx + r * dx_step
        for c in range(0, C, LANES):
            n = min(C - c, LANES)
            v = load(source + 4 * c, n)
            store(squares + 4 * (half + c), v * v, n)
        for c in range(0, C, LANES):
            n = min(C - c, LANES)
            s = fma(_window(squares + 4 * c, size), a, b)
            g = load(d_at + 4 * c, n) * _power(s, quarters)
            store(direct + 4 * c, g, 16)
            store(ratios + 4 * (half + c), g * load(source + 4 * c, n) / s, n)
        for c in range(0, C, LANES):
            n = min(C - c, LANES)
            v = load(source + 4 * c, n) * factor
            v = fma(v, _window(ratios + 4 * c, size), load(direct + 4 * c, 16))
            if add:
                v = v + load(target + 4 * c, n)
            store(target + 4 * c, v, n)
    free(squares)


# ---- shapes, in Python


@traced
@in_rows("out")
def lrn(x: Array, size: int, alpha: float, beta: float, k: float, out: Array | None) -> Array:
    """A pixel at a time, so that neither squares nor sums are stored, and square roots for the power."""
    y = empty(x.shape, np.float32) if out is None else out
    x, at, step = rows(x)
    C = x.shape[-1]
    lrn_rows(
        at, step, address(y), row_step(y), x.size // C, C, size, int(4 * beta), float(alpha),
        float(k), parts=few_parts(x.nbytes),
    )  # fmt: skip
    return y


@traced
@in_rows("into")
def lrn_dx(dy: Array, x: Array, size: int, alpha: float, beta: float, k: float, into: Array | None) -> Array:
    """As `lrn`."""
    dx = empty(x.shape, np.float32) if into is None else into
    x, at, step = rows(x)
    dy, d_at, d_step = rows(dy)
    C = x.shape[-1]
    lrn_dx_rows(
        d_at, d_step, at, step, address(dx), row_step(dx), x.size // C, C, size, int(4 * beta),
        int(into is not None), float(alpha), float(k), parts=few_parts(x.nbytes),
    )  # fmt: skip
    return dx

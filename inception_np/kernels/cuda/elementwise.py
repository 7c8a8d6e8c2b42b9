"""Launches of elementwise.cu; the functions are those of kernels/elementwise.py."""

from typing import Any

import numpy as np

from ...backend.arrays import Array
from ...backend.program import empty
from .launch import (
    BLOCK,
    address,
    by_channels,
    joining,
    launch,
    pitch,
    result,
    rows,
    struct,
    summing,
    tickets,
    variant,
    width,
)


def relu(x: Array, out: Array | None) -> Array:
    """One pass, up to four channels to an access."""
    x, ldx = rows(x)
    y, ldy = result(out, x.shape, x)
    _launch("relu", (x, y), (ldx, ldy))
    return y


def relu_dx(dy: Array, y: Array, into: Array | None) -> Array:
    """Mask and sum in one pass."""
    (dy, lddy), (y, ldy) = rows(dy), rows(y)
    dx, lddx = result(into, y.shape, y)
    _launch("relu_dx", (dy, y, dx), (lddy, ldy, lddx), into is not None)
    return dx


def scaled_add(a: Array, b: Array, scale: float, out: Array | None) -> Array:
    """Product and sum in one pass."""
    (a, lda), (b, ldb) = rows(a), rows(b)
    y, ldy = result(out, a.shape, a)
    _launch("scaled_add", (a, b, y), (lda, ldb, ldy), scale)
    return y


def scaled(x: Array, scale: float, out: Array | None) -> Array:
    """Follows the pitch of a slice of channels."""
    x, ldx = rows(x)
    y, ldy = result(out, x.shape, x)
    _launch("scaled_add", (None, x, y), (ldx, ldx, ldy), scale)
    return y


def copy(x: Array, out: Array) -> Array:
    """Follows the pitch of a slice of channels, which CuPy copies by a general and slower kernel."""
    if _fits(out, x):
        return scaled(x, 1.0, out)
    out[...] = x
    return out


def add(into: Array, dx: Array) -> Array:
    """As `copy`."""
    if _fits(into, dx):
        return scaled_add(into, dx, 1.0, into)
    into += dx
    return into


def _fits(y: Array, x: Array) -> bool:
    """True where these kernels can write x to y, or add it there."""
    return y.dtype == x.dtype and y.shape == x.shape and y.ndim > 0 and pitch(y) is not None


def _launch(kernel: str, arrays: tuple[Array | None, ...], pitches: tuple[int, ...], *numbers: Any) -> None:
    """Over arrays of one shape, the result last: by rows of channels, or as one long row where all are contiguous."""
    y: Any = arrays[-1]
    size, c = y.size, y.shape[-1]
    count = size // max(c, 1)
    if all(ld == c for ld in pitches):
        count, c, pitches = 1, size, (size,) * len(pitches)
    vec = width(arrays, (c, *pitches))
    args = (*arrays, count, c, *pitches, *numbers)
    launch("elementwise.cu", kernel, by_channels(c, count, vec), *args, options=variant(vec))


def sum_rows(dy: Array, into: Array) -> None:
    """Parts of the rows side by side, added in a fixed order by the block that ends last."""
    dy, lddy = rows(dy)
    c = dy.shape[-1]
    count = dy.size // c
    vec = width((dy,), (c, lddy))
    grid, parts = summing(c, count, vec)
    part = empty((parts, c), np.float32, dy)
    args = (dy, part, into, tickets(grid[0][0], dy), count, c, lddy)
    launch("elementwise.cu", "sum_rows", grid, *args, options=variant(vec))


JOBS = 100  # of one launch, as in elementwise.cu: they are passed by value, for a graph may not copy from the host


def sum_parts(*jobs: tuple[Array, Array]) -> None:
    """into += the sum of part (parts, ...) over its first axis, for each job (part, into), in one launch.

    All are contiguous, and no two may have the same `into`. Raises TypeError for another dtype than float32, ValueError
    for more than JOBS jobs.
    """
    if len(jobs) > JOBS:
        raise ValueError(f"sum_parts: got {len(jobs)} jobs, wanted at most {JOBS}")
    table, blocks = np.zeros(1, struct("elementwise.cu", "Jobs")), 0
    for i, (part, into) in enumerate(jobs):
        if not part.dtype == into.dtype == np.float32:
            raise TypeError(f"sum_parts: got arrays of {part.dtype} and {into.dtype}, wanted float32")
        slots = joining(into.size, len(part))
        table["at"][0, i] = address(part), address(into), len(part), into.size, blocks, slots
        blocks += -(-into.size * slots // BLOCK)
    launch("elementwise.cu", "sum_parts", ((blocks,), (BLOCK,)), table, len(jobs))

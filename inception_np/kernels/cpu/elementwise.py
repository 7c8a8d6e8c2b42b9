"""ReLU, sums of arrays and the bias gradient for float32, on arrays that stand in rows (is_rows in machine.py)."""

import numpy as np

from ...backend.arrays import Array, Shape
from ...backend.program import address, empty, traced
from .llvm import NUMBER, SIZE
from .machine import helper, kernel, row_step, rows, unpack
from .rows import few_parts, in_rows
from .simd import (
    LANES,
    add_doubles,
    fma,
    load,
    load_double,
    load_float,
    positive_part,
    splat,
    store,
    store_double,
    store_float,
    where_positive,
)

CHUNKS = 32  # ranges of rows whose sums are made apart and added in order
BLOCK = 256  # rows summed in float32


@helper
def _relu(x, y, n):
    store(y, positive_part(load(x, n)), n)


@helper
def _gate(y, dy, dx, add, n):
    g = where_positive(load(y, n), load(dy, n))
    if add:
        g = g + load(dx, n)
    store(dx, g, n)


@helper
def _scaled_add(a, b, scale, y, n):
    store(y, fma(load(b, n), scale, load(a, n)), n)


# Each kernel divides the vectors of all rows among the parts. A row of width C holds V, the last maybe not full.


@kernel
def relu_rows(part, parts, arguments):
    """y = max(0, x)."""
    x, x_step, y, y_step, R, C = unpack(arguments, "qqqqqq")
    V = (C + LANES - 1) // LANES
    first, end = R * V * part // parts, R * V * (part + 1) // parts
    for r in range(first // V, (end + V - 1) // V):
        a, b = x + r * x_step, y + r * y_step
        start, stop = max(first - r * V, 0), min(end - r * V, V)
        for v in range(start, min(stop, C // LANES)):
            _relu(a + 64 * v, b + 64 * v, LANES)
        if stop * LANES > C:
            _relu(a + 64 * (V - 1), b + 64 * (V - 1), C % LANES)


@kernel
def clear(part, parts, arguments):
    """Zeros where the rows of y (N, H, W) of C numbers stand."""
    y, yn, yh, yw, N, H, W, C = unpack(arguments, "qqqqqqqq")
    zero = splat(NUMBER(0))
    for piece in range(N * H * part // parts, N * H * (part + 1) // parts):
        row = y + piece // H * yn + piece % H * yh
        for w in range(W):
            for c in range(0, C, LANES):
                store(row + w * yw + SIZE * c, zero, min(C - c, LANES))


@helper
def _scale(x, scale, y, n):
    store(y, load(x, n) * scale, n)


@kernel
def scale_rows(part, parts, arguments):
    """y = scale * x."""
    x, x_step, y, y_step, R, C, factor = unpack(arguments, "qqqqqqf")
    scale = splat(factor)
    V = (C + LANES - 1) // LANES
    first, end = R * V * part // parts, R * V * (part + 1) // parts
    for r in range(first // V, (end + V - 1) // V):
        a, b = x + r * x_step, y + r * y_step
        start, stop = max(first - r * V, 0), min(end - r * V, V)
        for v in range(start, min(stop, C // LANES)):
            _scale(a + 64 * v, scale, b + 64 * v, LANES)
        if stop * LANES > C:
            _scale(a + 64 * (V - 1), scale, b + 64 * (V - 1), C % LANES)


@kernel
def gate_rows(part, parts, arguments):
    """dx = dy where y > 0, else 0; or that added to dx."""
    y, y_step, dy, dy_step, dx, dx_step, R, C, add = unpack(arguments, "qqqqqqqqq")
    V = (C + LANES - 1) // LANES
    first, end = R * V * part // parts, R * V * (part + 1) // parts
    for r in range(first // V, (end + V - 1) // V):
        a, b, c = y + r * y_step, dy + r * dy_step, dx + r * dx_step
        start, stop = max(first - r * V, 0), min(end - r * V, V)
        for v in range(start, min(stop, C // LANES)):
            _gate(a + 64 * v, b + 64 * v, c + 64 * v, add, LANES)
        if stop * LANES > C:
            v = V - 1
            _gate(a + 64 * v, b + 64 * v, c + 64 * v, add, C % LANES)


@kernel
def scaled_add_rows(part, parts, arguments):
    """y = a + scale * b."""
    a, a_step, b, b_step, y, y_step, R, C, factor = unpack(arguments, "qqqqqqqqf")
    scale = splat(factor)
    V = (C + LANES - 1) // LANES
    first, end = R * V * part // parts, R * V * (part + 1) // parts
    for r in range(first // V, (end + V - 1) // V):
        p, q, s = a + r * a_step, b + r * b_step, y + r * y_step
        start, stop = max(first - r * V, 0), min(end - r * V, V)
        for v in range(start, min(stop, C // LANES)):
            _scaled_add(p + 64 * v, q + 64 * v, scale, s + 64 * v, LANES)
        if stop * LANES > C:
            v = V - 1
            _scaled_add(p + 64 * v, q + 64 * v, scale, s + 64 * v, C % LANES)


@kernel
def chunk_sums(part, parts, arguments):
    """For each chunk of rows, the sum of each channel as doubles (room)."""
    x, x_step, R, C, chunks, sums, room = unpack(arguments, "qqqqqqq")
    for chunk in range(chunks * part // parts, chunks * (part + 1) // parts):
        first, end = R * chunk // chunks, R * (chunk + 1) // chunks
        target = sums + 8 * chunk * room
        for i in range(room):
            store_double(target + 8 * i, 0.0)
        for start in range(first, end, BLOCK):
            stop = min(start + BLOCK, end)
            for c in range(0, C, LANES):
                n = min(C - c, LANES)
                s = splat(NUMBER(0))
                for r in range(start, stop):
                    s = s + load(x + r * x_step + SIZE * c, n)
                add_doubles(target + 8 * c, s)


@kernel
def add_chunks(part, parts, arguments):
    """into += the sums of all chunks, first to last."""
    sums, chunks, room, into, C = unpack(arguments, "qqqqq")
    for c in range(C):
        s = 0.0
        for chunk in range(chunks):
            s += load_double(sums + 8 * (chunk * room + c))
        store_float(into + SIZE * c, NUMBER(load_float(into + SIZE * c) + s))


# ---- shapes, in Python


def _layout(*arrays: Array) -> tuple[int, int]:
    """(rows, numbers in each): one long row where every array is contiguous."""
    size = arrays[0].size
    if all(a.flags.c_contiguous for a in arrays):
        return 1, size
    width = arrays[0].shape[-1]
    return size // width, width


def cleared(shape: Shape) -> Array:
    """A new array of zeros, in the order of its numbers."""
    a = empty(shape, NUMBER)
    clear(address(a), 0, 0, 0, 1, 1, 1, a.size, parts=1)
    return a


@traced
@in_rows("out")
def relu(x: Array, out: Array | None) -> Array:
    """One pass on all threads, sixteen numbers at a time, with no array for a mask."""
    y = empty(x.shape, NUMBER) if out is None else out
    x, at, step = rows(x)
    relu_rows(at, step, address(y), row_step(y), *_layout(x, y), parts=few_parts(y.nbytes))
    return y


@traced
@in_rows("out")
def copy(x: Array, out: Array) -> Array:
    """All threads copy."""
    if x.ndim != 2 or x.strides[1] != x.itemsize:  # (those of a matrix are rows at one distance, even in reverse)
        x, _, _ = rows(x)
    layout, parts = _layout(x, out), few_parts(out.nbytes)
    scale_rows(address(x), row_step(x), address(out), row_step(out), *layout, 1.0, parts=parts)
    return out


@traced
@in_rows("into")
def relu_dx(dy: Array, y: Array, into: Array | None) -> Array:
    """Mask and sum in one pass, on all threads."""
    dx = empty(dy.shape, NUMBER) if into is None else into
    dy, d_at, d_step = rows(dy)
    y, at, step = rows(y)
    layout = _layout(dy, y, dx)
    adds = int(into is not None)
    gate_rows(at, step, d_at, d_step, address(dx), row_step(dx), *layout, adds, parts=few_parts(dx.nbytes))
    return dx


@traced
def add(into: Array, dx: Array) -> Array:
    """All threads add."""
    return scaled_add(into, dx, 1.0, into)


@traced
@in_rows("out")
def scaled_add(a: Array, b: Array, scale: float, out: Array | None) -> Array:
    """Product and sum in one pass, on all threads, with no array for scale * b."""
    y = empty(a.shape, NUMBER) if out is None else out
    a, a_at, a_step = rows(a)
    b, b_at, b_step = rows(b)
    layout = _layout(a, b, y)
    parts = few_parts(y.nbytes)
    scaled_add_rows(a_at, a_step, b_at, b_step, address(y), row_step(y), *layout, float(scale), parts=parts)
    return y


@traced
@in_rows("out")
def scaled(x: Array, scale: float, out: Array | None) -> Array:
    """All threads multiply."""
    y = empty(x.shape, NUMBER) if out is None else out
    x, at, step = rows(x)
    scale_rows(at, step, address(y), row_step(y), *_layout(x, y), float(scale), parts=few_parts(y.nbytes))
    return y


@traced
@in_rows("into")
def sum_rows(dy: Array, into: Array) -> None:
    """Sums of 256 rows in float32, and of these in double, on all threads: the same bits for any number of them."""
    dy, at, step = rows(dy)
    C = dy.shape[-1]
    R = dy.size // C
    room, chunks = -(-C // LANES) * LANES, min(CHUNKS, -(-R // BLOCK))
    sums = empty((chunks, room), np.float64)
    chunk_sums(at, step, R, C, chunks, address(sums), room, parts=few_parts(dy.nbytes))
    add_chunks(address(sums), chunks, room, address(into), C, parts=1)

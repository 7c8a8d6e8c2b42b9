"""Launches of pool.cu; the functions are those of kernels/pool.py."""

from typing import Any

from ...backend.arrays import Array, Shape
from ...backend.program import empty
from ..window import Pads, Pair
from .launch import elements, known, launch, result, rows, variant, width, window

PLANE = (0, 0)  # where the window is the whole plane: a size and a stride that no kernel knows


def max_pool(x: Array, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, out: Array | None) -> tuple[Array, Array]:
    """One kernel for all taps, and a byte for each winner."""
    shape = (len(x), *out_hw, x.shape[3])
    x, ldx = rows(x)
    y, ldy = result(out, shape, x)
    winners = empty(shape, "uint8", x)
    d = window(x.shape, out_hw, size, stride, pads)
    _launch(
        "max_pool", _outputs(y.shape, size, stride), size, stride, (x, y, winners), (shape[3], ldx, ldy), d, ldx, ldy
    )
    return y, winners


def max_pool_dx(
    dy: Array, winners: Array, x_shape: Shape, size: Pair, stride: Pair, pads: Pads, into: Array | None
) -> Array:
    """One kernel for all taps: every pixel looks up the windows it was in, and is written once."""
    d = window(x_shape, dy.shape[1:3], size, stride, pads)
    dy, lddy = rows(dy)
    dx, lddx = result(into, x_shape, dy)
    arrays, counts = (dy, winners, dx), (x_shape[3], lddy, lddx)
    _launch(
        "max_pool_dx",
        _patches(dx.shape, size, stride, pads),
        size,
        stride,
        arrays,
        counts,
        d,
        lddy,
        lddx,
        into is not None,
    )
    return dx


def avg_pool(
    x: Array, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, count_include_pad: bool, out: Array | None
) -> Array:
    """One kernel for all taps and the division."""
    x, ldx = rows(x)
    y, ldy = result(out, (len(x), *out_hw, x.shape[3]), x)
    d = window(x.shape, out_hw, size, stride, pads)
    counts = (x.shape[3], ldx, ldy)
    _launch("avg_pool", _outputs(y.shape, size, stride), size, stride, (x, y), counts, d, ldx, ldy, count_include_pad)
    return y


def avg_pool_dx(
    dy: Array, x_shape: Shape, size: Pair, stride: Pair, pads: Pads, count_include_pad: bool, into: Array | None
) -> Array:
    """As max_pool_dx."""
    d = window(x_shape, dy.shape[1:3], size, stride, pads)
    dy, lddy = rows(dy)
    dx, lddx = result(into, x_shape, dy)
    counts, last = (x_shape[3], lddy, lddx), (count_include_pad, into is not None)
    _launch("avg_pool_dx", _patches(dx.shape, size, stride, pads), size, stride, (dy, dx), counts, d, lddy, lddx, *last)
    return dx


def global_avg_pool(x: Array, out: Array | None) -> Array:
    """One kernel, neighbouring threads on neighbouring channels."""
    n, h, w, c = x.shape
    x, ldx = rows(x)
    y, ldy = result(out, (n, c), x)
    _launch("global_avg_pool", y.size, PLANE, PLANE, (x, y), (c, ldx, ldy), n, h * w, c, ldx, ldy)
    return y


def global_avg_pool_dx(dy: Array, x_shape: Shape, into: Array | None) -> Array:
    """Product, copy and sum in one kernel."""
    n, h, w, c = x_shape
    dy, lddy = rows(dy)
    dx, lddx = result(into, x_shape, dy)
    args = (n, h * w, c, lddy, lddx, into is not None)
    _launch("global_avg_pool_dx", dx.size, PLANE, PLANE, (dy, dx), (c, lddy, lddx), *args)
    return dx


def _outputs(shape: Shape, size: Pair, stride: Pair) -> int:
    """In how many places an array (N, OH, OW, C) is made: each is several columns of known windows, as in pool.cu."""
    n, h, w, c = shape
    columns = (4 if stride[1] == 1 else 2) if known(size, stride) else 1
    return n * h * -(-w // columns) * c


def _patches(shape: Shape, size: Pair, stride: Pair, pads: Pads) -> int:
    """In how many places dx is made: each is a patch of pixels, which begins where a known window does."""
    n, h, w, c = shape
    if not known(size, stride):
        return n * h * w * c
    (sh, sw), across = stride, 4 if stride[1] == 1 else stride[1]
    return n * -(-(h + pads[0][0] % sh) // sh) * -(-(w + pads[1][0] % sw) // across) * c


def _launch(
    kernel: str, count: int, size: Pair, stride: Pair, arrays: tuple[Array, ...], counts: tuple[int, ...], *args: Any
) -> None:
    """Launch a thread for each of `count` places, or fewer for several channels at once, as arrays and counts allow."""
    vec = width(arrays, counts)
    options = variant(vec, size, stride)
    launch("pool.cu", kernel, elements(count, vec), *arrays, *args, options=options)

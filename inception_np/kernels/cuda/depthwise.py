"""Launches of depthwise.cu; the functions are those of kernels/depthwise.py."""

import numpy as np

from ...backend.arrays import Array, Shape
from ...backend.program import empty
from ..window import Pads, Pair, out_size
from .launch import LANES, elements, known, launch, reduction, result, rows, variant, width, window
from .side_stream import add_parts, on_side_stream


def depthwise2d(
    x: Array, w: Array, bias: Array | None, stride: Pair, pads: Pads, dilation: Pair, out: Array | None
) -> Array:
    """One kernel for all taps and the bias."""
    kernel, m = w.shape[:2], w.shape[3]
    out_hw = out_size(x.shape[1:3], kernel, stride, pads, dilation)
    x, ldx = rows(x)
    y, ldy = result(out, (len(x), *out_hw, x.shape[3] * m), x)
    d = window(x.shape, out_hw, kernel, stride, pads, dilation)
    arrays = (x, w, y) if bias is None else (x, w, bias, y)
    vec, columns, options = _variant(arrays, w, stride, dilation, (ldx, ldy))
    grid = elements(_threads(y.shape, columns), vec)
    launch("depthwise.cu", "depthwise2d", grid, x, w, bias, y, d, m, ldx, ldy, options=options)
    return y


def depthwise2d_dx(
    dy: Array, w: Array, x_shape: Shape, stride: Pair, pads: Pads, dilation: Pair, into: Array | None
) -> Array:
    """One kernel for all taps: every pixel gathers from the windows it was in, and is written once."""
    d = window(x_shape, dy.shape[1:3], w.shape[:2], stride, pads, dilation)
    dy, lddy = rows(dy)
    dx, lddx = result(into, x_shape, dy)
    vec, columns, options = _variant((dy, w, dx), w, stride, dilation, (lddy, lddx))
    args = (dy, w, dx, d, w.shape[3], lddy, lddx, into is not None)
    grid = elements(_threads(x_shape, columns), vec)
    launch("depthwise.cu", "depthwise2d_dx", grid, *args, options=options)
    return dx


def depthwise2d_dw(x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair) -> None:
    """Sums over parts of the pixels, for all taps; these are added in order, by another launch."""
    kh, kw, c, m = dw.shape
    d = window(x.shape, dy.shape[1:3], (kh, kw), stride, pads, dilation)
    pixels = dy.shape[0] * dy.shape[1] * dy.shape[2]
    (x, ldx), (dy, lddy) = rows(x), rows(dy)
    most = 4 if c >= 4 * LANES else 2 if c >= 2 * LANES else 1  # so that every lane of a block has channels
    vec, columns, options = _variant((x, dy), dw, stride, dilation, (ldx, lddy), most)
    elements(dy.size)  # raises where ints could not count them
    grid, parts = reduction(c * m // vec, pixels, 1 if columns > 1 else kh * kw)
    with on_side_stream(x, dy):
        part = empty((parts, dw.size), np.float32, dw)
        launch("depthwise.cu", "depthwise2d_dw", grid, x, dy, part, d, m, ldx, lddy, options=options)
        add_parts(part, dw)


def _variant(
    arrays: tuple[Array, ...], w: Array, stride: Pair, dilation: Pair, pitches: Pair, most: int = 4
) -> tuple[int, int, tuple[str, ...]]:
    """How many channels and columns one thread takes, as in depthwise.cu, and the options for it."""
    kh, kw, c, m = w.shape
    if m > 1:
        return 1, 1, ("-DVEC=1",)
    vec = width(arrays, (most, c, *pitches))
    columns = (4 if stride[1] == 1 else 2) if known((kh, kw), stride, dilation) else 1
    return vec, columns, variant(vec, (kh, kw), stride, dilation)


def _threads(shape: Shape, columns: int) -> int:
    n, h, w, c = shape
    return n * h * -(-w // columns) * c

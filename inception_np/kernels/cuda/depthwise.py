"""Launches of depthwise.cu; the functions are those of kernels/depthwise.py."""

from ...backend import Array, Shape, empty
from ..window import Pads, Pair, out_size
from .elementwise import sum_parts
from .launch import elements, launch, reduction, result, rows, window


def depthwise2d(x: Array, w: Array, bias: Array | None, stride: Pair, pads: Pads, dilation: Pair, out: Array | None):
    kernel, m = w.shape[:2], w.shape[3]
    out_hw = out_size(x.shape[1:3], kernel, stride, pads, dilation)
    x, ldx = rows(x)
    y, ldy = result(out, (len(x), *out_hw, x.shape[3] * m), x)
    d = window(x.shape, out_hw, kernel, stride, pads, dilation)
    launch("depthwise.cu", "depthwise2d", elements(y.size), x, w, bias, y, d, m, ldx, ldy)
    return y


def depthwise2d_dx(dy: Array, w: Array, x_shape: Shape, stride: Pair, pads: Pads, dilation: Pair, add: Array | None):
    d = window(x_shape, dy.shape[1:3], w.shape[:2], stride, pads, dilation)
    dy, lddy = rows(dy)
    dx, lddx = result(add, x_shape, dy)
    args = (dy, w, dx, d, w.shape[3], lddy, lddx, add is not None)
    launch("depthwise.cu", "depthwise2d_dx", elements(dx.size), *args)
    return dx


def depthwise2d_dw(x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair):
    kh, kw, c, m = dw.shape
    d = window(x.shape, dy.shape[1:3], (kh, kw), stride, pads, dilation)
    pixels = dy.shape[0] * dy.shape[1] * dy.shape[2]
    (x, ldx), (dy, lddy) = rows(x), rows(dy)
    grid, parts = reduction(c * m, pixels, kh * kw)
    part = empty((parts, dw.size), dw.dtype, dw)
    launch("depthwise.cu", "depthwise2d_dw", grid, x, dy, part, d, m, ldx, lddy)
    sum_parts(part, dw)

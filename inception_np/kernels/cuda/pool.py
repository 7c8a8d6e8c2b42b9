"""Launches of pool.cu; the functions are those of kernels/pool.py."""

from ...backend import Array, Shape, empty
from ..window import Pads, Pair
from .launch import elements, launch, result, rows, window


def max_pool(x: Array, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, out: Array | None):
    shape = (len(x), *out_hw, x.shape[3])
    x, ldx = rows(x)
    y, ldy = result(out, shape, x)
    winners = empty(shape, "uint8", x)
    d = window(x.shape, out_hw, size, stride, pads)
    launch("pool.cu", "max_pool", elements(y.size), x, y, winners, d, ldx, ldy)
    return y, winners


def max_pool_dx(dy: Array, winners: Array, x_shape: Shape, size: Pair, stride: Pair, pads: Pads, add: Array | None):
    d = window(x_shape, dy.shape[1:3], size, stride, pads)
    dy, lddy = rows(dy)
    dx, lddx = result(add, x_shape, dy)
    launch("pool.cu", "max_pool_dx", elements(dx.size), dy, winners, dx, d, lddy, lddx, add is not None)
    return dx


def avg_pool(x: Array, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, count_include_pad: bool, out: Array | None):
    x, ldx = rows(x)
    y, ldy = result(out, (len(x), *out_hw, x.shape[3]), x)
    d = window(x.shape, out_hw, size, stride, pads)
    launch("pool.cu", "avg_pool", elements(y.size), x, y, d, ldx, ldy, count_include_pad)
    return y


def avg_pool_dx(
    dy: Array, x_shape: Shape, size: Pair, stride: Pair, pads: Pads, count_include_pad: bool, add: Array | None
):
    d = window(x_shape, dy.shape[1:3], size, stride, pads)
    dy, lddy = rows(dy)
    dx, lddx = result(add, x_shape, dy)
    launch("pool.cu", "avg_pool_dx", elements(dx.size), dy, dx, d, lddy, lddx, count_include_pad, add is not None)
    return dx


def global_avg_pool(x: Array, out: Array | None):
    n, h, w, c = x.shape
    x, ldx = rows(x)
    y, ldy = result(out, (n, c), x)
    launch("pool.cu", "global_avg_pool", elements(n * c), x, y, n, h * w, c, ldx, ldy)
    return y


def global_avg_pool_dx(dy: Array, x_shape: Shape, add: Array | None):
    n, h, w, c = x_shape
    dy, lddy = rows(dy)
    dx, lddx = result(add, x_shape, dy)
    launch("pool.cu", "global_avg_pool_dx", elements(dx.size), dy, dx, n, h * w, c, lddy, lddx, add is not None)
    return dx

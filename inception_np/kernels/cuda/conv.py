"""Launches of conv.cu, convolution on tensor cores; the functions are those of kernels/conv.py and kernels/linear.py.

They round both factors to TF32, 10 bits of mantissa, as cuDNN does for PyTorch unless told otherwise. They need a GPU
of compute capability 8.0 or later.
"""

from math import gcd

from ...backend import Array, Shape, empty
from ..window import Pads, Pair, out_size
from .aside import beside
from .batchnorm import join_moments
from .elementwise import sum_parts
from .launch import address, launch, result, rows, window

BM = 128  # rows of a tile, as in conv.cu
BUSY = 264  # blocks that keep the GPU busy: two for each of an H200's 132 multiprocessors


def conv2d(
    x: Array,
    w: Array,
    bias: Array | None,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    groups: int,
    relu: bool,
    out: Array | None,
):
    return _conv2d(x, w, bias, stride, pads, dilation, groups, relu, out, False)[0]


def conv2d_moments(x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int, eps: float):
    y, part = _conv2d(x, w, None, stride, pads, dilation, groups, False, None, True)
    return y, *join_moments(part, y.size // y.shape[3], BM, eps)


def _conv2d(x, w, bias, stride, pads, dilation, groups, relu, out, moments):
    kernel, o = w.shape[:2], w.shape[3]
    out_hw = out_size(x.shape[1:3], kernel, stride, pads, dilation)
    x, ldx = rows(x)
    y, ldy = result(out, (len(x), *out_hw, o), x)
    d = window(x.shape, out_hw, kernel, stride, pads, dilation)
    across = _tiles(y.size // o, BM)
    part = empty((across, 2, o), x.dtype, x) if moments else None
    args = (x, w, bias, y, part, d, o, groups, ldx, ldy, relu)
    vec = _vec((x, w), (ldx, x.shape[3] // groups, o, o // groups))
    _launch("conv2d", across, o // groups, groups, vec, args)
    return y, part


def conv2d_dx(
    dy: Array,
    w: Array,
    x_shape: Shape,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    groups: int,
    add: Array | None,
):
    n, h, width, c = x_shape
    d = window(x_shape, dy.shape[1:3], w.shape[:2], stride, pads, dilation)
    dy, lddy = rows(dy)
    dx, lddx = result(add, x_shape, dy)
    pixels = n * _tiles(h, stride[0]) * _tiles(width, stride[1])  # of one remainder by the stride
    remainders = stride[0] * stride[1]
    args = (dy, w, dx, d, w.shape[3], groups, lddy, lddx, add is not None)
    vec = _vec((dy, w), (lddy, w.shape[3], w.shape[3] // groups))
    _launch("conv2d_dx", _tiles(pixels, BM), c // groups, groups * remainders, vec, args)
    return dx


def conv2d_dw(x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int):
    kh, kw, per_group, o = dw.shape
    d = window(x.shape, dy.shape[1:3], (kh, kw), stride, pads, dilation)
    pixels = dy.size // o
    if pixels == 0:
        return
    (x, ldx), (dy, lddy) = rows(x), rows(dy)
    tiles = _tiles(kh * kw * per_group, BM)
    parts = max(1, min(BUSY // (tiles * _tiles(o // groups, 64) * groups), pixels // 256))
    share = _tiles(pixels, parts)
    parts = _tiles(pixels, share)
    vec = _vec((x, dy), (ldx, per_group, lddy, o // groups))
    with beside(x, dy):
        part = empty((parts, dw.size), dw.dtype, dw)
        args = (x, dy, part, d, o, groups, ldx, lddy, share)
        _launch("conv2d_dw", tiles, o // groups, groups * parts, vec, args)
        sum_parts(part, dw)


def linear(x: Array, w: Array, bias: Array | None, out: Array | None):
    y = None if out is None else out[:, None, None]
    return conv2d(x[:, None, None], w[None, None], bias, *ONE_PIXEL, False, y)[:, 0, 0]


def linear_dx(dy: Array, w: Array, add: Array | None):
    dx = None if add is None else add[:, None, None]
    shape = (len(dy), 1, 1, len(w))
    return conv2d_dx(dy[:, None, None], w[None, None], shape, *ONE_PIXEL, dx)[:, 0, 0]


def linear_dw(x: Array, dy: Array, dw: Array):
    conv2d_dw(x[:, None, None], dy[:, None, None], dw[None, None], *ONE_PIXEL)


ONE_PIXEL = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)  # stride, pads, dilation, groups


def _tiles(count: int, size: int) -> int:
    return -(-count // size)


def _launch(kernel: str, tiles: int, columns: int, others: int, vec: int, args: tuple) -> None:
    """Launch over tiles of 64 columns, or of 32 where there are no more and half a tile would be for nothing."""
    bn = 32 if columns <= 32 else 64
    grid = (tiles, _tiles(columns, bn), others), (4 * bn,)
    launch("conv.cu", kernel, grid, *args, options=(f"-DVEC={vec}", f"-DBN={bn}"))


def _vec(arrays: tuple[Array, ...], counts: tuple[int, ...]) -> int:
    """How many floats one copy may take, 4, 2 or 1: what all addresses, pitches and channel counts are multiples of."""
    return gcd(4, *(address(a) // 4 for a in arrays), *counts)

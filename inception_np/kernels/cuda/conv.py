"""Launches of conv.cu, convolution on tensor cores; the functions are those of kernels/conv.py.

They round both factors to TF32, 10 bits of mantissa, as cuDNN does for PyTorch by default, or take activations in
bfloat16 and round weights to it. They need a GPU of compute capability 8.0 or later.
"""

from math import isqrt
from typing import Any

import numpy as np

from ...backend.arrays import Array, Shape
from ...backend.program import empty
from ..window import Pads, Pair, out_size
from .launch import launch, result, rows, tickets, width, window
from .side_stream import add_parts, on_side_stream

Tile = tuple[int, int, int]  # rows, columns, shares of the terms
Geometry = tuple[Pair, Pads, Pair, int]  # stride, pads, dilation, groups
TEAM = 16  # blocks whose moments are joined by one of them, at least
WARPS = 132 * 12  # that keep a GPU busy: a multiprocessor's registers hold 12 to 16 of them, and an H200 has 132


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
) -> Array:
    """One kernel that copies no columns, with products on tensor cores, and bias and ReLU as it stores."""
    return _conv2d(x, w, bias, (stride, pads, dilation, groups), relu, out, None)[0]


def conv2d_moments(
    x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int, eps: float
) -> tuple[Array, Array, Array, Array]:
    """Each block sums what it stores of y, which is not read again for its moments.

    Raises ValueError where y is empty.
    """
    y, moments = _conv2d(x, w, None, (stride, pads, dilation, groups), False, None, eps)
    assert moments is not None
    return y, moments[0], moments[1], moments[2]


def _conv2d(
    x: Array, w: Array, bias: Array | None, geometry: Geometry, relu: bool, out: Array | None, eps: float | None
) -> tuple[Array, Array | None]:
    """y, and with `eps` its mean, var and rstd, (3, O)."""
    kernel, o, (stride, pads, dilation, groups) = w.shape[:2], w.shape[3], geometry
    out_hw = out_size(x.shape[1:3], kernel, stride, pads, dilation)
    x, ldx = rows(x)
    y, ldy = result(out, (len(x), *out_hw, o), x)
    d = window(x.shape, out_hw, kernel, stride, pads, dilation)
    _countable(d, ldx, ldy)
    pixels, columns = y.size // o, o // groups
    tile = _tile(pixels, columns, groups, kernel[0] * kernel[1] * x.shape[3] // groups)
    moments, joined = None, (None, None, None, 0.0, 0)
    if eps is not None:
        if pixels == 0:
            raise ValueError(f"conv2d_moments: got a result of shape {y.shape}, which has no moments")
        blocks = _tiles(pixels, tile[0])
        team = max(TEAM, isqrt(blocks))
        teams = _tiles(blocks, team)
        part, moments = empty((blocks + teams, 2, o), np.float32, x), empty((3, o), np.float32, x)
        counters = tickets(_tiles(columns, tile[1]) * groups * (teams + 1), x)
        joined = (part, moments, counters, eps, team)
    args = (x, w, bias, y, *joined, d, o, groups, ldx, ldy, relu)
    vec = width((x, w), (ldx, x.shape[3] // groups, o, columns))
    _launch("conv2d", tile, pixels, columns, groups, vec, args)
    return y, moments


def conv2d_dx(
    dy: Array, w: Array, x_shape: Shape, stride: Pair, pads: Pads, dilation: Pair, groups: int, into: Array | None
) -> Array:
    """One kernel for all remainders by the stride, with no columns to be added up; on tensor cores."""
    n, h, columns, c = x_shape
    d = window(x_shape, dy.shape[1:3], w.shape[:2], stride, pads, dilation)
    dy, lddy = rows(dy)
    dx, lddx = result(into, x_shape, dy)
    _countable(d, lddx, lddy)
    pixels = n * _tiles(h, stride[0]) * _tiles(columns, stride[1])  # of one remainder by the stride
    remainders = stride[0] * stride[1]
    args = (dy, w, dx, d, w.shape[3], groups, lddy, lddx, into is not None)
    vec = width((dy, w), (lddy, w.shape[3], w.shape[3] // groups))
    depth = w.shape[0] * w.shape[1] * w.shape[3] // groups
    tile = _tile(pixels, c // groups, groups * remainders, depth // remainders)
    _launch("conv2d_dx", tile, pixels, c // groups, groups * remainders, vec, args)
    return dx


def conv2d_dw(x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int) -> None:
    """Parts of the pixels side by side, added in order, with no columns; on tensor cores."""
    kh, kw, per_group, o = dw.shape
    d = window(x.shape, dy.shape[1:3], (kh, kw), stride, pads, dilation)
    pixels = dy.size // o
    if pixels == 0:
        return
    (x, ldx), (dy, lddy) = rows(x), rows(dy)
    _countable(d, ldx, lddy)
    weights = kh * kw * per_group
    tile = _dw_tile(weights, o // groups)
    parts = max(1, min(WARPS // (_warps(tile, weights, o // groups) * groups), pixels // (128 * tile[2])))
    share = _tiles(pixels, parts)
    parts = _tiles(pixels, share)
    vec = width((x, dy), (ldx, per_group, lddy, o // groups))
    with on_side_stream(x, dy):
        part = empty((parts, dw.size), np.float32, dw)
        args = (x, dy, part, d, o, groups, ldx, lddy, share)
        _launch("conv2d_dw", tile, weights, o // groups, groups * parts, vec, args)
        add_parts(part, dw)


def _tiles(count: int, size: int) -> int:
    return -(-count // size)


def _tile(rows: int, columns: int, others: int, terms: int) -> Tile:
    """Rows and columns of a tile, and among how many groups of warps its terms are shared.

    Columns: those that pad the result least, at the price of the work that any number costs. Terms are shared where
    there are enough of them, and whole tiles would be too few for the GPU. others: how many such products the launch
    makes.
    """
    whole = 128, _across(columns, 96), 1
    few = _warps(whole, rows, columns) * others < WARPS
    return (64, _across(columns, 64), 2) if few and terms >= 128 else whole


def _dw_tile(rows: int, columns: int) -> Tile:
    """The same for dw, which has pixels for as many parts as are wanted: 128 rows unless they would be padding."""
    padded = _tiles(rows, 128) * 128 > 1.2 * _tiles(rows, 64) * 64
    return (64, _across(columns, 64), 2) if padded else (128, _across(columns, 96), 1)


def _across(columns: int, most: int) -> int:
    return min((bn for bn in (16, 32, 48, 64, 96) if bn <= most), key=lambda bn: _tiles(columns, bn) * (bn + 64))


def _warps(tile: Tile, rows: int, columns: int) -> int:
    """All warps of the blocks that make a result: each makes 32 rows of it, and up to 48 columns."""
    return _tiles(rows, tile[0]) * _tiles(columns, tile[1]) * _threads(tile) // 32


def _threads(tile: Tile) -> int:
    bm, bn, shares = tile
    return bm * (2 if bn > 48 else 1) * shares


def _launch(kernel: str, tile: Tile, rows: int, columns: int, others: int, vec: int, args: tuple[Any, ...]) -> None:
    bm, bn, shares = tile
    grid = (_tiles(rows, bm), _tiles(columns, bn), others), (_threads(tile),)
    options = (f"-DVEC={vec}", f"-DBM={bm}", f"-DBN={bn}", f"-DSHARES={shares}")
    launch("conv.cu", kernel, grid, *args, options=options)


def _countable(d: tuple[int, ...], ldx: int, ldy: int) -> None:
    """Raises ValueError for arrays whose offsets, padding included, the kernels' ints could not hold."""
    n, h, w, _, oh, ow = d[:6]
    top, bottom, left, right = d[12:]
    most = max(n * h * w * ldx, n * oh * ow * ldy, (h + top + bottom) * (w + left + right) * max(ldx, ldy))
    if most >= 2**31 - 4096:
        raise ValueError(f"CUDA kernels: got {most} elements, wanted fewer than 2^31; use a smaller batch")

"""Launches of im2col.cu; the functions are those of kernels/im2col.py."""

from ...backend.arrays import Array
from ...backend.program import empty
from ..window import Pads, Pair
from .launch import elements, launch, result, rows, window


def im2col(x: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, out_hw: Pair) -> Array:
    """One kernel for all taps, which reads the padding's zeros from nowhere."""
    n, c = len(x), x.shape[3]
    x, ldx = rows(x)
    columns = empty((n * out_hw[0] * out_hw[1], kernel[0] * kernel[1] * c), x.dtype, x)
    d = window(x.shape, out_hw, kernel, stride, pads, dilation)
    launch("im2col.cu", "im2col", elements(columns.size), x, columns, d, ldx)
    return columns


def col2im(dcolumns: Array, dx: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, out_hw: Pair) -> None:
    """One kernel for all taps: every pixel gathers what its windows have for it, and is written once."""
    dcolumns = dcolumns if dcolumns.flags.c_contiguous else dcolumns.copy(order="C")
    dx, lddx = result(dx, dx.shape, dx)
    d = window(dx.shape, out_hw, kernel, stride, pads, dilation)
    launch("im2col.cu", "col2im", elements(dx.size), dcolumns, dx, d, lddx)

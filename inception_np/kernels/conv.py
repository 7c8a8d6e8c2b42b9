"""Convolution: y[n,p,q,o] = b[o] + sum_{i,j,c} x[n, p s + i d - t, q s + j d - l, c] w[i,j,c,o], and its two adjoints.

The plain version is one matrix product: row (n, p, q) of `columns` (im2col.py) is the window that output pixel (p, q)
of image n looks at, laid flat, so that

    y = columns @ w          dw = columns^T @ dy          dcolumns = dy @ w^T

with w as a (kh kw C_in, C_out) matrix; dx is dcolumns put back where the windows came from, overlaps added (col2im).
The columns are kh kw times as large as x, so they are made for a few images at a time, at most COLUMN_BYTES of them.

On a GPU this is what runs, with the array module's matrix products, where `precision` is float32 (backend/device.py).
"""

from collections.abc import Iterator

from ..backend import device
from ..backend.arrays import Array, Shape
from ..backend.device import zeros
from ..backend.program import empty
from .batchnorm import statistics
from .dispatch import dispatch
from .im2col import col2im, im2col
from .window import Pads, Pair, out_size

COLUMN_BYTES = 32 << 20  # per block: large enough for one good matrix product, small beside the activations


def one_group(groups: int) -> bool:
    """True for an ordinary convolution: every output channel reads all input channels."""
    return groups == 1


def fits_tensor_cores(w: Array) -> bool:
    """True where products run on tensor cores and windows.cuh has a bit for each tap along a side."""
    return device.precision != "float32" and max(w.shape[:2]) <= 15


@dispatch(cpu=one_group, gpu=fits_tensor_cores, double=True)
def conv2d(
    x: Array,
    w: Array,
    bias: Array | None,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    groups: int,
    *,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """x (N, H, W, C_in), w (kh, kw, C_in // groups, C_out), bias (C_out,) or None -> y (N, H', W', C_out).

    relu: y = max(0, .) in the same pass.
    """
    kernel = w.shape[:2]
    out_hw = out_size(x.shape[1:3], kernel, stride, pads, dilation)
    y = empty((len(x), *out_hw, w.shape[3]), x.dtype, x) if out is None else out
    for c, o in groups_of(groups, w):
        matrix = w[..., o].reshape(-1, o.stop - o.start)
        for block in blocks(x.shape, kernel, out_hw, x.dtype.itemsize, groups):
            columns = im2col(x[block, :, :, c], kernel, stride, pads, dilation, out_hw)
            y[block, :, :, o] = (columns @ matrix).reshape(-1, *out_hw, matrix.shape[1])
    if bias is not None:
        y += bias
    if relu:
        y[y.real <= 0] = 0
    return y


@dispatch(cpu=one_group, gpu=fits_tensor_cores)
def conv2d_moments(
    x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int, *, eps: float
) -> tuple[Array, Array, Array, Array]:
    """conv2d without bias, and the statistics (batchnorm.py) of each channel of y: mean, variance, rstd, (C_out,).

    On tensor cores one kernel makes y and its moments.
    """
    y = conv2d(x, w, None, stride, pads, dilation, groups)
    return y, *statistics(y, eps)


@dispatch(cpu=one_group, gpu=fits_tensor_cores, double=True)
def conv2d_dx(
    dy: Array,
    w: Array,
    x_shape: Shape,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    groups: int,
    *,
    into: Array | None = None,
) -> Array:
    """The adjoint of x -> y: dy (N, H', W', C_out) -> dx (N, H, W, C_in), or added to `into`."""
    kernel, out_hw = w.shape[:2], dy.shape[1:3]
    dx = zeros(x_shape, dy.dtype, dy) if into is None else into
    for c, o in groups_of(groups, w):
        matrix = w[..., o].reshape(-1, o.stop - o.start)
        for block in blocks(x_shape, kernel, out_hw, dy.dtype.itemsize, groups):
            dcolumns = dy[block, :, :, o].reshape(-1, matrix.shape[1]) @ matrix.T
            col2im(dcolumns, dx[block, :, :, c], kernel, stride, pads, dilation, out_hw)
    return dx


@dispatch(cpu=one_group, gpu=lambda dw: fits_tensor_cores(dw), double=True)
def conv2d_dw(x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int) -> None:
    """The adjoint of w -> y, added into dw (kh, kw, C_in // groups, C_out)."""
    kernel, out_hw = dw.shape[:2], dy.shape[1:3]
    for c, o in groups_of(groups, dw):
        for block in blocks(x.shape, kernel, out_hw, x.dtype.itemsize, groups):
            columns = im2col(x[block, :, :, c], kernel, stride, pads, dilation, out_hw)
            rows = dy[block, :, :, o].reshape(-1, o.stop - o.start)
            dw[..., o] += (columns.T @ rows).reshape(*dw.shape[:3], -1)


def groups_of(groups: int, w: Array) -> Iterator[tuple[slice, slice]]:
    """One group after the other: the input channels it reads, the output channels it writes."""
    c, o = w.shape[2], w.shape[3] // groups
    for g in range(groups):
        yield slice(g * c, (g + 1) * c), slice(g * o, (g + 1) * o)


def blocks(x_shape: Shape, kernel: Pair, out_hw: Pair, itemsize: int, groups: int) -> Iterator[slice]:
    """Slices of the batch whose columns stay under COLUMN_BYTES (one image at least)."""
    image = out_hw[0] * out_hw[1] * kernel[0] * kernel[1] * (x_shape[3] // groups) * itemsize
    step = max(1, COLUMN_BYTES // max(1, image))
    for start in range(0, x_shape[0], step):
        yield slice(start, start + step)

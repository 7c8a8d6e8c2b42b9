"""Convolution: y[n,p,q,o] = b[o] + sum_{i,j,c} x[n, p s + i d - t, q s + j d - l, c] w[i,j,c,o], and its two adjoints.

The plain version is im2col and one matrix product. Row (n, p, q) of `columns` is the window that output pixel (p, q)
of image n looks at, laid flat, so that

    y = columns @ w          dw = columns^T @ dy          dcolumns = dy @ w^T

with w as a (kh kw C_in, C_out) matrix; dx is dcolumns put back where the windows came from, overlaps added (col2im).
The columns are kh kw times as large as x, so they are made for a few images at a time, at most COLUMN_BYTES of them.
A 1x1 convolution needs none: its windows are the pixels.
"""

from collections.abc import Iterator

from ..backend import Array, Shape, array_module, compiled, empty, on_gpu, on_tensor_cores, zeros
from .batchnorm import reciprocal_deviation, statistics
from .window import Pads, Pair, out_size, pad_images, taps

COLUMN_BYTES = 32 << 20  # per block: large enough for one good matrix product, small beside the activations


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
    if _on_tensor_cores(x, w.shape):
        from .cuda import conv as cuda

        return cuda.conv2d(x, w, bias, stride, pads, dilation, groups, relu, out)
    if compiled(x, w, bias, out, fits=groups == 1):
        from .cpu import implicit_gemm as cpu

        return cpu.conv2d(x, w, bias, stride, pads, dilation, relu, out)
    return _plain(x, w, bias, stride, pads, dilation, groups, relu, out)


def conv2d_moments(
    x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int, *, eps: float
) -> tuple[Array, Array, Array, Array]:
    """conv2d without bias, and the statistics (batchnorm.py) of each channel of y: mean, variance, rstd, (C_out,).

    Tensor cores find the moments on the way, while they have y in hand.
    """
    if _on_tensor_cores(x, w.shape):
        from .cuda import conv as cuda

        return cuda.conv2d_moments(x, w, stride, pads, dilation, groups, eps)
    if compiled(x, w, fits=groups == 1):
        from .cpu import implicit_gemm as cpu

        y, mean, var = cpu.conv2d_moments(x, w, stride, pads, dilation)
        return y, mean, var, reciprocal_deviation(var, eps)
    y = conv2d(x, w, None, stride, pads, dilation, groups)
    return y, *statistics(y, eps)


def conv2d_dx(
    dy: Array,
    w: Array,
    x_shape: Shape,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    groups: int,
    *,
    add: Array | None = None,
) -> Array:
    """The adjoint of x -> y: dy (N, H', W', C_out) -> dx (N, H, W, C_in), or added to `add`."""
    if _on_tensor_cores(dy, w.shape):
        from .cuda import conv as cuda

        return cuda.conv2d_dx(dy, w, x_shape, stride, pads, dilation, groups, add)
    if compiled(dy, w, add, fits=groups == 1):
        from .cpu import implicit_gemm as cpu

        return cpu.conv2d_dx(dy, w, x_shape, stride, pads, dilation, add)
    return _plain_dx(dy, w, x_shape, stride, pads, dilation, groups, add)


def conv2d_dw(x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int) -> None:
    """The adjoint of w -> y, added into dw (kh, kw, C_in // groups, C_out)."""
    if _on_tensor_cores(x, dw.shape):
        from .cuda import conv as cuda

        return cuda.conv2d_dw(x, dy, dw, stride, pads, dilation, groups)
    if compiled(x, dy, dw, fits=groups == 1):
        from .cpu import implicit_gemm as cpu

        return cpu.conv2d_dw(x, dy, dw, stride, pads, dilation)
    _plain_dw(x, dy, dw, stride, pads, dilation, groups)


def _on_tensor_cores(x: Array, w_shape: Shape) -> bool:
    return on_tensor_cores(x) and max(w_shape[:2]) <= 15  # taps along one side that windows.cuh has bits for


def _plain(x, w, bias, stride, pads, dilation, groups, relu, out):
    kernel = w.shape[:2]
    out_hw = out_size(x.shape[1:3], kernel, stride, pads, dilation)
    y = empty((len(x), *out_hw, w.shape[3]), x.dtype, x) if out is None else out
    for c, o in _groups(groups, w):
        matrix = w[..., o].reshape(-1, o.stop - o.start)
        for block in _blocks(x.shape, kernel, out_hw, x.dtype.itemsize, groups):
            columns = im2col(x[block, :, :, c], kernel, stride, pads, dilation, out_hw)
            y[block, :, :, o] = (columns @ matrix).reshape(-1, *out_hw, matrix.shape[1])
    if bias is not None:
        y += bias
    if relu:
        y[y.real <= 0] = 0
    return y


def _plain_dx(dy, w, x_shape, stride, pads, dilation, groups, add):
    kernel, out_hw = w.shape[:2], dy.shape[1:3]
    dx = zeros(x_shape, dy.dtype, dy) if add is None else add
    for c, o in _groups(groups, w):
        matrix = w[..., o].reshape(-1, o.stop - o.start)
        for block in _blocks(x_shape, kernel, out_hw, dy.dtype.itemsize, groups):
            dcolumns = dy[block, :, :, o].reshape(-1, matrix.shape[1]) @ matrix.T
            col2im(dcolumns, dx[block, :, :, c], kernel, stride, pads, dilation, out_hw)
    return dx


def _plain_dw(x, dy, dw, stride, pads, dilation, groups):
    kernel, out_hw = dw.shape[:2], dy.shape[1:3]
    for c, o in _groups(groups, dw):
        for block in _blocks(x.shape, kernel, out_hw, x.dtype.itemsize, groups):
            columns = im2col(x[block, :, :, c], kernel, stride, pads, dilation, out_hw)
            rows = dy[block, :, :, o].reshape(-1, o.stop - o.start)
            dw[..., o] += (columns.T @ rows).reshape(*dw.shape[:3], -1)


def im2col(x: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, out_hw: Pair) -> Array:
    """x (N, H, W, C) -> columns (N H' W', kh kw C): every window as one row."""
    n, c = len(x), x.shape[3]
    if kernel == (1, 1) and pads == ((0, 0), (0, 0)):
        return x[:, :: stride[0], :: stride[1]].reshape(-1, c)
    if on_gpu(x):
        from .cuda import im2col as cuda

        return cuda.im2col(x, kernel, stride, pads, dilation, out_hw)
    padded = pad_images(x, pads)
    columns = array_module(x).empty((n, *out_hw, kernel[0], kernel[1], c), x.dtype)
    for i, j, at in taps(kernel, stride, dilation, out_hw):
        columns[:, :, :, i, j] = padded[at]
    return columns.reshape(n * out_hw[0] * out_hw[1], -1)


def col2im(dcolumns: Array, dx: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, out_hw: Pair) -> None:
    """The adjoint of im2col: every row of dcolumns (N H' W', kh kw C) is added to the window of dx it came from."""
    n, h, w, c = dx.shape
    if kernel == (1, 1) and pads == ((0, 0), (0, 0)):
        dx[:, :: stride[0], :: stride[1]] += dcolumns.reshape(n, *out_hw, c)
        return
    if on_gpu(dx):
        from .cuda import im2col as cuda

        return cuda.col2im(dcolumns, dx, kernel, stride, pads, dilation, out_hw)
    (top, bottom), (left, right) = pads
    padded = zeros((n, h + top + bottom, w + left + right, c), dx.dtype, dx)
    dcolumns = dcolumns.reshape(n, *out_hw, *kernel, c)
    for i, j, at in taps(kernel, stride, dilation, out_hw):
        padded[at] += dcolumns[:, :, :, i, j]
    dx += padded[:, top : top + h, left : left + w]


def _groups(groups: int, w: Array) -> Iterator[tuple[slice, slice]]:
    """One group after the other: the input channels it reads, the output channels it writes."""
    c, o = w.shape[2], w.shape[3] // groups
    for g in range(groups):
        yield slice(g * c, (g + 1) * c), slice(g * o, (g + 1) * o)


def _blocks(x_shape: Shape, kernel: Pair, out_hw: Pair, itemsize: int, groups: int) -> Iterator[slice]:
    """Slices of the batch whose columns stay under COLUMN_BYTES (one image at least)."""
    image = out_hw[0] * out_hw[1] * kernel[0] * kernel[1] * (x_shape[3] // groups) * itemsize
    step = max(1, COLUMN_BYTES // max(1, image))
    for start in range(0, x_shape[0], step):
        yield slice(start, start + step)

"""The windows of an image as the rows of a matrix, and back: how a convolution becomes a matrix product.

    columns[(n,p,q), (i,j,c)] = x[n, p s + i d - t, q s + j d - l, c]           (zero where that is padding)

A 1x1 convolution needs no columns: its windows are the pixels.
"""

from ..backend.arrays import Array, array_module
from ..backend.device import zeros
from .dispatch import dispatch
from .window import Pads, Pair, pad_images, taps

NO_PADS = ((0, 0), (0, 0))


def is_window(kernel: Pair, pads: Pads) -> bool:
    """True where a row of columns has more than one pixel."""
    return kernel != (1, 1) or pads != NO_PADS


@dispatch(cpu=False, gpu=is_window)
def im2col(x: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, out_hw: Pair) -> Array:
    """x (N, H, W, C) -> columns (N H' W', kh kw C): every window as one row."""
    n, c = len(x), x.shape[3]
    if not is_window(kernel, pads):
        return x[:, :: stride[0], :: stride[1]].reshape(-1, c)
    padded = pad_images(x, pads)
    columns = array_module(x).empty((n, *out_hw, kernel[0], kernel[1], c), x.dtype)
    for i, j, at in taps(kernel, stride, dilation, out_hw):
        columns[:, :, :, i, j] = padded[at]
    return columns.reshape(n * out_hw[0] * out_hw[1], -1)


@dispatch(cpu=False, gpu=is_window)
def col2im(dcolumns: Array, dx: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, out_hw: Pair) -> None:
    """The adjoint of im2col: every row of dcolumns (N H' W', kh kw C) is added to the window of dx it came from."""
    n, h, w, c = dx.shape
    if not is_window(kernel, pads):
        dx[:, :: stride[0], :: stride[1]] += dcolumns.reshape(n, *out_hw, c)
        return
    (top, bottom), (left, right) = pads
    padded = zeros((n, h + top + bottom, w + left + right, c), dx.dtype, dx)
    dcolumns = dcolumns.reshape(n, *out_hw, *kernel, c)
    for i, j, at in taps(kernel, stride, dilation, out_hw):
        padded[at] += dcolumns[:, :, :, i, j]
    dx += padded[:, top : top + h, left : left + w]

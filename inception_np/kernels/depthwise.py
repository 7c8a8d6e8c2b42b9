"""Depthwise convolution: every channel is convolved on its own, with `multiplier` filters.

    y[n,p,q, c m + k] = b[c m + k] + sum_{i,j} x[n, p s + i d - t, q s + j d - l, c] w[i,j,c,k]        m = multiplier

The plain version adds one shifted image per tap; no columns are needed since no channels are mixed.
"""

from ..backend.arrays import Array, Shape
from ..backend.device import zeros
from .dispatch import dispatch
from .elementwise import copy_to
from .window import Pads, Pair, out_size, pad_images, taps

FEW_CHANNELS = 8  # at most, for several filters each to be compiled: an image's, as BN-Inception begins


def has_kernel(w: Array) -> bool:
    """True where the compiled kernels take these weights (kh, kw, C, multiplier)."""
    return bool(w.shape[3] == 1 or w.shape[2] <= FEW_CHANNELS)


@dispatch(cpu=has_kernel)
def depthwise2d(
    x: Array, w: Array, bias: Array | None, stride: Pair, pads: Pads, dilation: Pair, *, out: Array | None = None
) -> Array:
    """x (N, H, W, C), w (kh, kw, C, multiplier), bias (C multiplier,) or None -> y (N, H', W', C multiplier)."""
    kh, kw, c, m = w.shape
    out_hw = out_size(x.shape[1:3], (kh, kw), stride, pads, dilation)
    y = zeros((len(x), *out_hw, c, m), x.dtype, x)
    padded = pad_images(x, pads)
    for i, j, at in taps((kh, kw), stride, dilation, out_hw):
        y += padded[at][..., None] * w[i, j]
    y = y.reshape(len(x), *out_hw, c * m)
    if bias is not None:
        y += bias
    return copy_to(out, y)


@dispatch(cpu=has_kernel)
def depthwise2d_dx(
    dy: Array, w: Array, x_shape: Shape, stride: Pair, pads: Pads, dilation: Pair, *, into: Array | None = None
) -> Array:
    """The adjoint of x -> y: dx (N, H, W, C), or added to `into`."""
    n, h, width, c = x_shape
    kh, kw, _, m = w.shape
    out_hw = dy.shape[1:3]
    (top, bottom), (left, right) = pads
    dy = dy.reshape(n, *out_hw, c, m)
    padded = zeros((n, h + top + bottom, width + left + right, c), dy.dtype, dy)
    for i, j, at in taps((kh, kw), stride, dilation, out_hw):
        padded[at] += (dy * w[i, j]).sum(-1)
    dx = padded[:, top : top + h, left : left + width]
    if into is None:
        return dx
    into += dx
    return into


@dispatch(cpu=lambda dw: has_kernel(dw))
def depthwise2d_dw(x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair) -> None:
    """The adjoint of w -> y, added into dw (kh, kw, C, multiplier)."""
    kh, kw, c, m = dw.shape
    out_hw = dy.shape[1:3]
    dy = dy.reshape(len(x), *out_hw, c, m)
    padded = pad_images(x, pads)
    for i, j, at in taps((kh, kw), stride, dilation, out_hw):
        dw[i, j] += (padded[at][..., None] * dy).sum((0, 1, 2))

"""A linear layer on tensor cores: a 1x1 convolution over N images of one pixel."""

from ...backend.arrays import Array
from .conv import conv2d, conv2d_dw, conv2d_dx

ONE_PIXEL = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)  # stride, pads, dilation, groups


def linear(x: Array, w: Array, bias: Array | None, out: Array | None) -> Array:
    """The bias is added as the product is stored."""
    y = None if out is None else out[:, None, None]
    return conv2d(x[:, None, None], w[None, None], bias, *ONE_PIXEL, False, y)[:, 0, 0]


def linear_dx(dy: Array, w: Array, into: Array | None) -> Array:
    """Added to `into` as the product is stored."""
    dx = None if into is None else into[:, None, None]
    shape = (len(dy), 1, 1, len(w))
    return conv2d_dx(dy[:, None, None], w[None, None], shape, *ONE_PIXEL, dx)[:, 0, 0]


def linear_dw(x: Array, dy: Array, dw: Array) -> None:
    """In a `side_stream` block it runs at the same time as the rest of the backward pass."""
    conv2d_dw(x[:, None, None], dy[:, None, None], dw[None, None], *ONE_PIXEL)

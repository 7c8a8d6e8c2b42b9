"""Rows times a matrix for float32: a 1x1 convolution over N images of one pixel, on the same tiles."""

from ...backend.arrays import Array
from .conv import conv2d, conv2d_dw, conv2d_dx

ONE, NO_PADS = (1, 1), ((0, 0), (0, 0))


def _image(x: Array) -> Array:
    """(N, channels) as (N, 1, 1, channels)."""
    return x[:, None, None, :]


def linear(x: Array, w: Array, bias: Array | None, out: Array | None) -> Array:
    """Without the bias's own pass; the same bits for any number of threads."""
    y = None if out is None else _image(out)
    y = conv2d(_image(x), w[None, None], bias, ONE, NO_PADS, ONE, 1, False, y)
    return y[:, 0, 0] if out is None else out


def linear_dx(dy: Array, w: Array, into: Array | None) -> Array:
    """Added to `into` as the product is stored."""
    shape = (len(dy), 1, 1, w.shape[0])
    dx = conv2d_dx(_image(dy), w[None, None], shape, ONE, NO_PADS, ONE, 1, None if into is None else _image(into))
    return dx[:, 0, 0] if into is None else into


def linear_dw(x: Array, dy: Array, dw: Array) -> None:
    """Added to dw as the sums are joined."""
    conv2d_dw(_image(x), _image(dy), dw[None, None], ONE, NO_PADS, ONE, 1)

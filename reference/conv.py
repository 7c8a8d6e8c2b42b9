"""Convolution, in full and depthwise: six loops each, straight from the definition.

    y[n, i, j, f] = bias[f] + sum over a, b, c of x[n, i sh + a dh - top, j sw + b dw - left, c] w[a, b, c', f]

with x zero outside its plane. (It is a cross-correlation: the kernel is not flipped, in any of the papers.) With
groups, output channel f belongs to group f // (F / groups) and sees only that group's input channels, of which c
is c' + group * (C / groups). The derivatives are the same loops with the roles changed: each product
y += x w gives dx += dy w and dw += dy x.

x: (N, H, W, C). w: (kh, kw, C // groups, F). y: (N, OH, OW, F). pads: ((top, bottom), (left, right)).
"""

from collections.abc import Iterator

import numpy as np

from .windows import out_length, taps


def _zeros(shape, *like):
    return np.zeros(shape, np.result_type(np.float64, *like))


def out_plane(plane, kernel, stride, pads, dilation=(1, 1), ceil=False) -> tuple[int, int]:
    """(OH, OW) of windows over a plane (H, W)."""
    return tuple(out_length(*axis, ceil=ceil) for axis in zip(plane, kernel, stride, pads, dilation, strict=True))


def _products(x_shape, w_shape, stride, pads, dilation, groups) -> Iterator[tuple]:
    """Every (index of y, index of x, index of w) whose product the definition sums."""
    N, H, W, _ = x_shape
    kh, kw, per_group, F = w_shape
    OH, OW = out_plane((H, W), (kh, kw), stride, pads, dilation)
    for i, a, r in taps(H, OH, kh, stride[0], pads[0][0], dilation[0]):
        for j, b, s in taps(W, OW, kw, stride[1], pads[1][0], dilation[1]):
            for f in range(F):
                group = f // (F // groups)
                for c in range(per_group):
                    for n in range(N):
                        yield (n, i, j, f), (n, r, s, c + group * per_group), (a, b, c, f)


def conv2d(x, w, bias, stride, pads, dilation, groups) -> np.ndarray:
    OH, OW = out_plane(x.shape[1:3], w.shape[:2], stride, pads, dilation)
    y = _zeros((x.shape[0], OH, OW, w.shape[3]), x, w)
    for at_y, at_x, at_w in _products(x.shape, w.shape, stride, pads, dilation, groups):
        y[at_y] += x[at_x] * w[at_w]
    return y if bias is None else y + bias


def conv2d_dx(dy, w, x_shape, stride, pads, dilation, groups) -> np.ndarray:
    dx = _zeros(x_shape, dy, w)
    for at_y, at_x, at_w in _products(x_shape, w.shape, stride, pads, dilation, groups):
        dx[at_x] += dy[at_y] * w[at_w]
    return dx


def conv2d_dw(x, dy, w_shape, stride, pads, dilation, groups) -> np.ndarray:
    dw = _zeros(w_shape, x, dy)
    for at_y, at_x, at_w in _products(x.shape, w_shape, stride, pads, dilation, groups):
        dw[at_w] += dy[at_y] * x[at_x]
    return dw


def conv2d_dbias(dy) -> np.ndarray:
    dbias = _zeros(dy.shape[-1], dy)
    for at in np.ndindex(dy.shape):
        dbias[at[-1]] += dy[at]
    return dbias


# Depthwise: every input channel c has its own `multiplier` kernels and gives output channels c m .. c m + m - 1.
# It is a convolution in C groups, written down again without groups.   w: (kh, kw, C, multiplier)


def _depthwise_products(x_shape, w_shape, stride, pads, dilation) -> Iterator[tuple]:
    N, H, W, C = x_shape
    kh, kw, _, multiplier = w_shape
    OH, OW = out_plane((H, W), (kh, kw), stride, pads, dilation)
    for i, a, r in taps(H, OH, kh, stride[0], pads[0][0], dilation[0]):
        for j, b, s in taps(W, OW, kw, stride[1], pads[1][0], dilation[1]):
            for c in range(C):
                for m in range(multiplier):
                    for n in range(N):
                        yield (n, i, j, c * multiplier + m), (n, r, s, c), (a, b, c, m)


def depthwise2d(x, w, bias, stride, pads, dilation) -> np.ndarray:
    OH, OW = out_plane(x.shape[1:3], w.shape[:2], stride, pads, dilation)
    y = _zeros((x.shape[0], OH, OW, w.shape[2] * w.shape[3]), x, w)
    for at_y, at_x, at_w in _depthwise_products(x.shape, w.shape, stride, pads, dilation):
        y[at_y] += x[at_x] * w[at_w]
    return y if bias is None else y + bias


def depthwise2d_dx(dy, w, x_shape, stride, pads, dilation) -> np.ndarray:
    dx = _zeros(x_shape, dy, w)
    for at_y, at_x, at_w in _depthwise_products(x_shape, w.shape, stride, pads, dilation):
        dx[at_x] += dy[at_y] * w[at_w]
    return dx


def depthwise2d_dw(x, dy, w_shape, stride, pads, dilation) -> np.ndarray:
    dw = _zeros(w_shape, x, dy)
    for at_y, at_x, at_w in _depthwise_products(x.shape, w_shape, stride, pads, dilation):
        dw[at_w] += dy[at_y] * x[at_x]
    return dw

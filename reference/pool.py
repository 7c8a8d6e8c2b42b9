"""Pooling: one number out of every window of every channel.

x: (N, H, W, C). y: (N, OH, OW, C). size and stride: (h, w). pads: ((top, bottom), (left, right)). The number of
windows, out_hw, is handed in: with ceil=True a last window may hang over the end (windows.out_length).

Maximum: padding never wins; of equal values the first in row-major order wins, and it alone gets the gradient. A NaN
wins over every number.
Average: the padding is zeros; the sum is divided either by the number of input cells in the window, or
(count_include_pad) by the number of cells of the padded input in it. What hangs over even the padding is counted
by neither, as in PyTorch.
"""

import math
from collections.abc import Iterator

import numpy as np


def _windows(x_shape, size, stride, pads, out_hw) -> Iterator[tuple]:
    """For every output (n, i, j, c): its input cells [(tap, index in x), ...] and its count with padding."""
    N, H, W, C = x_shape
    (top, bottom), (left, right) = pads
    for n, i, j, c in np.ndindex(N, *out_hw, C):
        cells, padded = [], 0
        for a in range(size[0]):
            for b in range(size[1]):
                r, s = i * stride[0] + a - top, j * stride[1] + b - left
                if 0 <= r < H and 0 <= s < W:
                    cells.append((a * size[1] + b, (n, r, s, c)))
                if r < H + bottom and s < W + right:
                    padded += 1
        yield (n, i, j, c), cells, padded


def max_pool(x, size, stride, pads, out_hw) -> tuple[np.ndarray, np.ndarray]:
    """y, and for every y the number of the winning tap, kh * size_w + kw."""
    shape = (x.shape[0], *out_hw, x.shape[3])
    y = np.zeros(shape, np.result_type(np.float64, x))
    winners = np.zeros(shape, np.uint8)
    for at, cells, _ in _windows(x.shape, size, stride, pads, out_hw):
        tap, best = cells[0]
        for other, cell in cells[1:]:
            if x[cell].real > x[best].real or (np.isnan(x[cell]) and not np.isnan(x[best])):
                tap, best = other, cell
        y[at], winners[at] = x[best], tap
    return y, winners


def max_pool_dx(dy, x, size, stride, pads) -> np.ndarray:
    """The definition needs x, not the winners: whoever won the window gets its dy."""
    _, winners = max_pool(x, size, stride, pads, dy.shape[1:3])
    dx = np.zeros(x.shape, np.result_type(np.float64, dy))
    for at, cells, _ in _windows(x.shape, size, stride, pads, dy.shape[1:3]):
        dx[dict(cells)[winners[at]]] += dy[at]
    return dx


def avg_pool(x, size, stride, pads, out_hw, count_include_pad) -> np.ndarray:
    y = np.zeros((x.shape[0], *out_hw, x.shape[3]), np.result_type(np.float64, x))
    for at, cells, padded in _windows(x.shape, size, stride, pads, out_hw):
        for _, cell in cells:
            y[at] += x[cell]
        y[at] /= padded if count_include_pad else len(cells)
    return y


def avg_pool_dx(dy, x_shape, size, stride, pads, count_include_pad) -> np.ndarray:
    dx = np.zeros(x_shape, np.result_type(np.float64, dy))
    for at, cells, padded in _windows(x_shape, size, stride, pads, dy.shape[1:3]):
        for _, cell in cells:
            dx[cell] += dy[at] / (padded if count_include_pad else len(cells))
    return dx


def global_avg_pool(x) -> np.ndarray:
    """y: (N, C), the mean over the plane."""
    N, H, W, C = x.shape
    y = np.zeros((N, C), np.result_type(np.float64, x))
    for n, r, s, c in np.ndindex(x.shape):
        y[n, c] += x[n, r, s, c] / (H * W)
    return y


def global_avg_pool_dx(dy, x_shape) -> np.ndarray:
    _, H, W, _ = x_shape
    dx = np.zeros(x_shape, np.result_type(np.float64, dy))
    for n, r, s, c in np.ndindex(x_shape):
        dx[n, r, s, c] = dy[n, c] / (H * W)
    return dx


def _adaptive_windows(plane, size):
    """Output (p, q) of a size (h, w) grid sees rows floor(p H / h) to ceil((p + 1) H / h), columns likewise."""
    (H, W), (h, w) = plane, size
    for p, q in np.ndindex(h, w):
        rows = range(math.floor(p * H / h), math.ceil((p + 1) * H / h))
        columns = range(math.floor(q * W / w), math.ceil((q + 1) * W / w))
        yield (p, q), [(r, s) for r in rows for s in columns]


def adaptive_avg_pool(x, size) -> np.ndarray:
    """The mean over a grid of windows that cover the plane and overlap where they do not divide it."""
    N, H, W, C = x.shape
    y = np.zeros((N, *size, C), np.result_type(np.float64, x))
    for (p, q), cells in _adaptive_windows((H, W), size):
        for r, s in cells:
            y[:, p, q] += x[:, r, s] / len(cells)
    return y


def adaptive_avg_pool_dx(dy, x_shape) -> np.ndarray:
    dx = np.zeros(x_shape, np.result_type(np.float64, dy))
    for (p, q), cells in _adaptive_windows(x_shape[1:3], dy.shape[1:3]):
        for r, s in cells:
            dx[:, r, s] += dy[:, p, q] / len(cells)
    return dx

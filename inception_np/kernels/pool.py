"""Maximum and average over a window, per channel, and over the whole plane.

    max      y[p] = max_{i in window} x[p s + i - t]           dx: each dy goes to the pixel that won
    average  y[p] = 1/D_p sum_{i in window} x[p s + i - t]     dx: each dy is spread over its window, divided by D_p

Padding never wins a maximum. Of equal values the first in row-major order wins, and a NaN wins over every number, as
in NumPy's maximum: it is not hidden. D_p is the number of real pixels in
the window, or, with count_include_pad, of real and padding pixels; what hangs over the end in ceil mode never counts.
"""

from ..backend import Array, Shape, array_module, compiled, copy_to, empty, on_gpu, zeros
from .window import Pads, Pair, pad_images, taps


def fits_a_byte(size: Pair) -> bool:
    """Can a byte name the tap that won, as the compiled kernels keep it?"""
    return size[0] * size[1] <= 256


def max_pool(
    x: Array, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, *, out: Array | None = None
) -> tuple[Array, Array]:
    """x (N, H, W, C) -> y (N, H', W', C) and winners: the tap i * size_w + j that won, uint8 (uint16 over 256 taps)."""
    if on_gpu(x) and fits_a_byte(size):
        from .cuda import pool as cuda

        return cuda.max_pool(x, size, stride, pads, out_hw, out)
    if compiled(x, out, fits=fits_a_byte(size)):
        from .cpu import pool as cpu

        return cpu.max_pool(x, size, stride, pads, out_hw, out)
    return _plain_max(x, size, stride, pads, out_hw, out)


def max_pool_dx(
    dy: Array,
    winners: Array,
    x_shape: Shape,
    size: Pair,
    stride: Pair,
    pads: Pads,
    *,
    add: Array | None = None,
) -> Array:
    """dx (N, H, W, C), or added to `add`."""
    if on_gpu(dy) and fits_a_byte(size):
        from .cuda import pool as cuda

        return cuda.max_pool_dx(dy, winners, x_shape, size, stride, pads, add)
    if compiled(dy, add, fits=fits_a_byte(size)):
        from .cpu import pool as cpu

        return cpu.max_pool_dx(dy, winners, x_shape, size, stride, pads, add)
    return _plain_max_dx(dy, winners, x_shape, size, stride, pads, add)


def avg_pool(
    x: Array,
    size: Pair,
    stride: Pair,
    pads: Pads,
    out_hw: Pair,
    count_include_pad: bool,
    *,
    out: Array | None = None,
) -> Array:
    """x (N, H, W, C) -> y (N, H', W', C)."""
    if on_gpu(x):
        from .cuda import pool as cuda

        return cuda.avg_pool(x, size, stride, pads, out_hw, count_include_pad, out)
    if compiled(x, out):
        from .cpu import pool as cpu

        return cpu.avg_pool(x, size, stride, pads, out_hw, count_include_pad, out)
    return _plain_avg(x, size, stride, pads, out_hw, count_include_pad, out)


def avg_pool_dx(
    dy: Array,
    x_shape: Shape,
    size: Pair,
    stride: Pair,
    pads: Pads,
    count_include_pad: bool,
    *,
    add: Array | None = None,
) -> Array:
    """dx (N, H, W, C), or added to `add`."""
    if on_gpu(dy):
        from .cuda import pool as cuda

        return cuda.avg_pool_dx(dy, x_shape, size, stride, pads, count_include_pad, add)
    if compiled(dy, add):
        from .cpu import pool as cpu

        return cpu.avg_pool_dx(dy, x_shape, size, stride, pads, count_include_pad, add)
    return _plain_avg_dx(dy, x_shape, size, stride, pads, count_include_pad, add)


def global_avg_pool(x: Array, *, out: Array | None = None) -> Array:
    """x (N, H, W, C) -> y (N, C), the mean over the plane."""
    if on_gpu(x):
        from .cuda import pool as cuda

        return cuda.global_avg_pool(x, out)
    if compiled(x, out):
        from .cpu import pool as cpu

        return cpu.global_avg_pool(x, out)
    return copy_to(out, x.mean((1, 2)))


def global_avg_pool_dx(dy: Array, x_shape: Shape, *, add: Array | None = None) -> Array:
    """dy (N, C) -> dx (N, H, W, C), or added to `add`: every pixel gets dy / (H W)."""
    if on_gpu(dy):
        from .cuda import pool as cuda

        return cuda.global_avg_pool_dx(dy, x_shape, add)
    if compiled(dy, add):
        from .cpu import pool as cpu

        return cpu.global_avg_pool_dx(dy, x_shape, add)
    share = dy[:, None, None, :] * (1 / (x_shape[1] * x_shape[2]))
    if add is None:
        add = empty(x_shape, dy.dtype, dy)
        add[...] = share
    else:
        add += share
    return add


def _plain_max(x, size, stride, pads, out_hw, out):
    xp = array_module(x)
    padded = pad_images(x, _reach(x.shape, size, stride, pads, out_hw), -float("inf"))
    y = empty((len(x), *out_hw, x.shape[3]), x.dtype, x) if out is None else out
    winners = zeros(y.shape, "uint8" if size[0] * size[1] <= 256 else "uint16", x)
    rows, columns = (xp.asarray(f) for f in first_taps(stride, pads, out_hw))
    winners += (rows[:, None, None] * size[1] + columns[:, None]).astype(winners.dtype)
    y[...] = -float("inf")  # which no pixel of a window of minus infinities beats: its first real pixel has won
    for i, j, at in taps(size, stride, (1, 1), out_hw):
        candidate = padded[at]
        better = (candidate.real > y.real) | (xp.isnan(candidate.real) & ~xp.isnan(y.real))
        y[...] = xp.where(better, candidate, y)
        winners[better] = i * size[1] + j
    return y, winners


def _plain_max_dx(dy, winners, x_shape, size, stride, pads, add):
    reach = _reach(x_shape, size, stride, pads, dy.shape[1:3])
    padded = zeros(_padded(x_shape, reach), dy.dtype, dy)
    for i, j, at in taps(size, stride, (1, 1), dy.shape[1:3]):
        padded[at] += array_module(dy).where(winners == i * size[1] + j, dy, 0)
    return _inside(padded, reach, x_shape, add)


def _plain_avg(x, size, stride, pads, out_hw, count_include_pad, out):
    padded = pad_images(x, _reach(x.shape, size, stride, pads, out_hw))
    y = zeros((len(x), *out_hw, x.shape[3]), x.dtype, x)
    for _, _, at in taps(size, stride, (1, 1), out_hw):
        y += padded[at]
    y *= _weights(x, x.shape, size, stride, pads, out_hw, count_include_pad)
    return copy_to(out, y)


def _plain_avg_dx(dy, x_shape, size, stride, pads, count_include_pad, add):
    out_hw = dy.shape[1:3]
    reach = _reach(x_shape, size, stride, pads, out_hw)
    padded = zeros(_padded(x_shape, reach), dy.dtype, dy)
    dy = dy * _weights(dy, x_shape, size, stride, pads, out_hw, count_include_pad)
    for _, _, at in taps(size, stride, (1, 1), out_hw):
        padded[at] += dy
    return _inside(padded, reach, x_shape, add)


def _weights(like, x_shape, size, stride, pads, out_hw, count_include_pad):
    """1 / D_p as an array (H', W', 1) beside `like`: the windows' pixel counts are a product of two axes."""
    counts = window_counts(x_shape[1:3], size, stride, pads, out_hw, count_include_pad)
    rows, columns = (array_module(like).asarray(c, dtype=like.real.dtype) for c in counts)
    return 1 / (rows[:, None, None] * columns[None, :, None])


def window_counts(plane, size, stride, pads, out_hw, count_include_pad) -> list[list[int]]:
    """How many pixels count in each row of windows, and in each column."""
    counts = []
    for n, k, s, (lo, hi), positions in zip(plane, size, stride, pads, out_hw, strict=True):
        first, last = (-lo, n + hi) if count_include_pad else (0, n)
        starts = [p * s - lo for p in range(positions)]
        counts.append([min(start + k, last) - max(start, first) for start in starts])
    return counts


def first_taps(stride, pads, out_hw) -> list[list[int]]:
    """For each row of windows, and each column, the first tap that lies on a real pixel."""
    return [[max(0, lo - p * s) for p in range(n)] for s, (lo, _), n in zip(stride, pads, out_hw, strict=True)]


def _reach(x_shape, size, stride, pads, out_hw) -> Pads:
    """Pads up to the end of the last window: beyond `pads` in ceil mode, negative where rows are left over."""
    ends = [
        (out - 1) * s + k - n - lo
        for out, s, k, n, (lo, _) in zip(out_hw, stride, size, x_shape[1:3], pads, strict=True)
    ]
    return (pads[0][0], ends[0]), (pads[1][0], ends[1])


def _padded(x_shape, reach) -> Shape:
    (top, bottom), (left, right) = reach
    n, h, w, c = x_shape
    return n, h + top + max(0, bottom), w + left + max(0, right), c


def _inside(padded, reach, x_shape, add):
    """The part of a padded gradient that lies on real pixels, as dx or added to `add`."""
    (top, _), (left, _) = reach
    dx = padded[:, top : top + x_shape[1], left : left + x_shape[2]]
    if add is None:
        return dx
    add += dx
    return add

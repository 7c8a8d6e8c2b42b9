"""Maximum and average over a window, per channel, and over the whole plane.

    max      y[p] = max_{i in window} x[p s + i - t]           dx: each dy goes to the pixel that won
    average  y[p] = 1/D_p sum_{i in window} x[p s + i - t]     dx: each dy is spread over its window, divided by D_p

Padding never wins a maximum. Of equal values the first in row-major order wins, and a NaN wins over every number, as
in NumPy's maximum: it is not hidden. D_p is the number of real pixels in the window, or, with count_include_pad, of
real and padding pixels; what hangs over the end in ceil mode never counts.
"""

from ..backend.arrays import Array, Shape, array_module
from ..backend.device import zeros
from ..backend.program import empty
from .dispatch import dispatch
from .elementwise import copy_to
from .window import Pads, Pair, first_taps, pad_images, taps, window_counts


def fits_a_byte(size: Pair) -> bool:
    """True where a byte can hold the number of the tap that won, as in the compiled kernels."""
    return size[0] * size[1] <= 256


@dispatch(cpu=fits_a_byte, gpu=fits_a_byte, double=True)
def max_pool(
    x: Array, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, *, out: Array | None = None
) -> tuple[Array, Array]:
    """x (N, H, W, C) -> y (N, H', W', C) and winners: the tap i * size_w + j that won, uint8 (uint16 over 256 taps)."""
    xp = array_module(x)
    padded = pad_images(x, _reach(x.shape, size, stride, pads, out_hw), -float("inf"))
    y = empty((len(x), *out_hw, x.shape[3]), x.dtype, x) if out is None else out
    winners = zeros(y.shape, "uint8" if fits_a_byte(size) else "uint16", x)
    rows, columns = (xp.asarray(f) for f in first_taps(stride, pads, out_hw))
    winners += (rows[:, None, None] * size[1] + columns[:, None]).astype(winners.dtype)
    y[...] = -float("inf")  # which no pixel of a window of minus infinities beats: its first real pixel has won
    for i, j, at in taps(size, stride, (1, 1), out_hw):
        candidate = padded[at]
        better = (candidate.real > y.real) | (xp.isnan(candidate.real) & ~xp.isnan(y.real))
        y[...] = xp.where(better, candidate, y)
        winners[better] = i * size[1] + j
    return y, winners


@dispatch(cpu=fits_a_byte, gpu=fits_a_byte, double=True)
def max_pool_dx(
    dy: Array, winners: Array, x_shape: Shape, size: Pair, stride: Pair, pads: Pads, *, into: Array | None = None
) -> Array:
    """dx (N, H, W, C), or added to `into`."""
    reach = _reach(x_shape, size, stride, pads, dy.shape[1:3])
    padded = zeros(_padded(x_shape, reach), dy.dtype, dy)
    for i, j, at in taps(size, stride, (1, 1), dy.shape[1:3]):
        padded[at] += array_module(dy).where(winners == i * size[1] + j, dy, 0)
    return _inside(padded, reach, x_shape, into)


@dispatch(double=True)
def avg_pool(
    x: Array, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, count_include_pad: bool, *, out: Array | None = None
) -> Array:
    """x (N, H, W, C) -> y (N, H', W', C)."""
    padded = pad_images(x, _reach(x.shape, size, stride, pads, out_hw))
    y = zeros((len(x), *out_hw, x.shape[3]), x.dtype, x)
    for _, _, at in taps(size, stride, (1, 1), out_hw):
        y += padded[at]
    y *= _weights(x, x.shape, size, stride, pads, out_hw, count_include_pad)
    return copy_to(out, y)


@dispatch(double=True)
def avg_pool_dx(
    dy: Array,
    x_shape: Shape,
    size: Pair,
    stride: Pair,
    pads: Pads,
    count_include_pad: bool,
    *,
    into: Array | None = None,
) -> Array:
    """dx (N, H, W, C), or added to `into`."""
    out_hw = dy.shape[1:3]
    reach = _reach(x_shape, size, stride, pads, out_hw)
    padded = zeros(_padded(x_shape, reach), dy.dtype, dy)
    dy = dy * _weights(dy, x_shape, size, stride, pads, out_hw, count_include_pad)
    for _, _, at in taps(size, stride, (1, 1), out_hw):
        padded[at] += dy
    return _inside(padded, reach, x_shape, into)


@dispatch
def global_avg_pool(x: Array, *, out: Array | None = None) -> Array:
    """x (N, H, W, C) -> y (N, C), the mean over the plane."""
    return copy_to(out, x.mean((1, 2)))


@dispatch
def global_avg_pool_dx(dy: Array, x_shape: Shape, *, into: Array | None = None) -> Array:
    """dy (N, C) -> dx (N, H, W, C), or added to `into`: every pixel gets dy / (H W)."""
    share = dy[:, None, None, :] * (1 / (x_shape[1] * x_shape[2]))
    if into is None:
        into = empty(x_shape, dy.dtype, dy)
        into[...] = share
    else:
        into += share
    return into


def _weights(
    like: Array, x_shape: Shape, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, count_include_pad: bool
) -> Array:
    """1 / D_p as an array (H', W', 1) on the device of `like`: the windows' pixel counts are a product of two axes."""
    counts = window_counts(x_shape[1:3], size, stride, pads, out_hw, count_include_pad)
    rows, columns = (array_module(like).asarray(c, dtype=like.real.dtype) for c in counts)
    return 1 / (rows[:, None, None] * columns[None, :, None])


def _reach(x_shape: Shape, size: Pair, stride: Pair, pads: Pads, out_hw: Pair) -> Pads:
    """Pads up to the end of the last window: beyond `pads` in ceil mode, negative where rows are left over."""
    ends = [
        (out - 1) * s + k - n - lo
        for out, s, k, n, (lo, _) in zip(out_hw, stride, size, x_shape[1:3], pads, strict=True)
    ]
    return (pads[0][0], ends[0]), (pads[1][0], ends[1])


def _padded(x_shape: Shape, reach: Pads) -> Shape:
    (top, bottom), (left, right) = reach
    n, h, w, c = x_shape
    return n, h + top + max(0, bottom), w + left + max(0, right), c


def _inside(padded: Array, reach: Pads, x_shape: Shape, into: Array | None) -> Array:
    """The part of a padded gradient that lies on real pixels, as dx or added to `into`."""
    (top, _), (left, _) = reach
    dx = padded[:, top : top + x_shape[1], left : left + x_shape[2]]
    if into is None:
        return dx
    into += dx
    return into

"""How many positions a sliding window has, and how much padding it needs.

Along one axis of n pixels, padded by `lo` before and `hi` after, a window of k taps that are `d` apart covers
e = d (k - 1) + 1 pixels, and with stride s it has

    floor((n + lo + hi - e) / s) + 1        positions (ceil: the last window may hang over the end).

"same" is TensorFlow's: ceil(n / s) positions, the odd pixel of padding at the bottom and right. "valid": no padding.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from ..backend.arrays import Array, Shape, array_module

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Pad = Literal["same", "valid"] | Pads


class ImageTooSmall(ValueError):
    """A window is larger than the padded image that it should slide over."""


def pair(value: Any, name: str, least: int = 1) -> Pair:
    """(h, w) from an int or a pair of ints, each at least `least`. Raises TypeError and ValueError, naming `name`."""
    both = (value, value) if isinstance(value, (int, np.integer)) else value
    if (
        isinstance(both, str)
        or not hasattr(both, "__len__")
        or len(both) != 2
        or not all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in both)
    ):
        raise TypeError(f"{name}: got {value!r}, wanted an int or a pair (h, w) of ints")
    if min(both) < least:
        raise ValueError(f"{name}: got {value!r}, wanted at least {least}")
    return int(both[0]), int(both[1])


def check_pad(pad: Any, name: str) -> Any:
    """An int, (h, w), ((top, bottom), (left, right)), "same" or "valid", checked; strings stay, the rest as Pads."""
    if isinstance(pad, str):
        if pad not in ("same", "valid"):
            raise ValueError(f'{name}: got pad={pad!r}, wanted "same", "valid", an int, a pair or a pair of pairs')
        return pad
    if hasattr(pad, "__len__") and len(pad) == 2 and all(hasattr(p, "__len__") for p in pad):
        return pair(pad[0], f"{name}: pad", 0), pair(pad[1], f"{name}: pad", 0)
    h, w = pair(pad, f"{name}: pad", 0)
    return (h, h), (w, w)


def shortest(value: Any) -> Any:
    """What `pair` or `check_pad` gave, as short as they take it: 3 for (3, 3), (1, 2) for ((1, 1), (2, 2))."""
    if isinstance(value, str):
        return value
    h, w = (end[0] if isinstance(end, tuple) and end[0] == end[1] else end for end in value)
    if isinstance(h, tuple) or isinstance(w, tuple):
        return value
    return h if h == w else (h, w)


@lru_cache(1 << 12)  # asked several times a step, for few shapes
def pads_for(pad: Pad, hw: Shape, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Pads:
    """The pads ((top, bottom), (left, right)) that `pad`, as check_pad gives it, means for an image of size hw."""
    if pad == "valid":
        return (0, 0), (0, 0)
    if pad != "same":
        return pad
    both = []
    for n, k, s, d in zip(hw, kernel, stride, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        both.append((total // 2, total - total // 2))
    return both[0], both[1]


@lru_cache(1 << 12)
def out_size(hw: Shape, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1), ceil: bool = False) -> Pair:
    """The number of window positions (H', W'). Raises ImageTooSmall where there is none.

    With ceil, a window that would begin beyond the last pixel and its left padding is left out, as in PyTorch.
    """
    sizes = []
    for n, k, s, (lo, hi), d in zip(hw, kernel, stride, pads, dilation, strict=True):
        room = n + lo + hi - (d * (k - 1) + 1)
        if room < 0 or n < 1:
            window = "x".join(str(d * (k - 1) + 1) for k, d in zip(kernel, dilation, strict=True))
            raise ImageTooSmall(
                f"got an image of {hw[0]}x{hw[1]}, wanted one that a {window} window fits into with pads {pads}"
            )
        count = (-(-room // s) if ceil else room // s) + 1
        if ceil and (count - 1) * s >= n + lo:
            count -= 1
        sizes.append(count)
    return sizes[0], sizes[1]


def pad_images(x: Array, pads: Pads, value: float = 0.0) -> Array:
    """x with `pads` pixels of `value` around each image; x itself where there is nothing to add.

    Negative ends crop: the rows of x that no window reaches.
    """
    (top, bottom), (left, right) = pads
    if not (top or bottom or left or right):
        return x
    n, h, w, c = x.shape
    padded = array_module(x).full((n, h + top + bottom, w + left + right, c), value, x.dtype)
    rows, columns = min(h, h + bottom), min(w, w + right)
    padded[:, top : top + rows, left : left + columns] = x[:, :rows, :columns]
    return padded


def taps(kernel: Pair, stride: Pair, dilation: Pair, out_hw: Pair) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """For each tap (i, j) of a window, the index of the pixels of a padded image that it meets, one per position.

    for i, j, at in taps(...):    y += padded[at] * w[i, j]
    """
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            rows = slice(top, top + (out_hw[0] - 1) * stride[0] + 1, stride[0])
            columns = slice(left, left + (out_hw[1] - 1) * stride[1] + 1, stride[1])
            yield i, j, (slice(None), rows, columns)


def window_counts(
    plane: Shape, size: Pair, stride: Pair, pads: Pads, out_hw: Shape, count_include_pad: bool
) -> list[list[int]]:
    """How many pixels count in each row of windows, and in each column."""
    counts = []
    for n, k, s, (lo, hi), positions in zip(plane, size, stride, pads, out_hw, strict=True):
        first, last = (-lo, n + hi) if count_include_pad else (0, n)
        starts = [p * s - lo for p in range(positions)]
        counts.append([min(start + k, last) - max(start, first) for start in starts])
    return counts


def first_taps(stride: Pair, pads: Pads, out_hw: Pair) -> list[list[int]]:
    """For each row of windows, and each column, the first tap that lies on a real pixel."""
    return [[max(0, lo - p * s) for p in range(n)] for s, (lo, _), n in zip(stride, pads, out_hw, strict=True)]

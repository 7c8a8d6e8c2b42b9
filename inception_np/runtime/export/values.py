"""Which value of a graph an array stands for.

The arrays are those that the layers hand from one kernel to the next, and their memory is never touched. Their places
in it tell which value a kernel reads: the one that a kernel before it wrote at that place, or into slices of its
channels (the branches of Concat), or in another shape (Flatten). So a sum into a gradient, a branch that writes its
slice and a batch norm that writes over its input need no word from any layer.

Arrays are (N, H, W, C), and the values that stand for them (N, C, H, W), ONNX's layout. Weights keep ours.
"""

from bisect import bisect_right, insort
from typing import Any

import numpy as np

from ...backend.arrays import Array, Shape
from .graph import Graph

ZERO = "zero"  # the value of a gradient that nothing was added to


class Known:
    """An array, and the values of its slices of channels: (first, last + 1, value), in order."""

    def __init__(self, array: Array):
        self.array, self.start = array, _address(array)
        self.values: list[tuple[int, int, str]] = []

    def channels(self, a: Array) -> tuple[int, int] | None:
        """The channels that `a`, a view of this array, has; None where it has another shape."""
        own = self.array
        if a.ndim != own.ndim or a.shape[:-1] != own.shape[:-1]:
            return None
        if any(n > 1 and s != t for n, s, t in zip(a.shape, a.strides, own.strides, strict=True)):
            return None
        first = (_address(a) - self.start) // own.itemsize
        return first, first + _channels(a)


class Values:
    """Arrays and their values in `graph`. layer: the path of the one that runs. deviations: (var, eps) by rstd."""

    def __init__(self, graph: Graph):
        self.graph, self.node = graph, graph.node
        self.layer = ""
        self.deviations: dict[str, tuple[str, float]] = {}
        self._known: dict[int, Known] = {}
        self._starts: list[int] = []

    def empty(self, shape: Shape, dtype: Any) -> Array:
        a = np.empty(shape, dtype)
        self.know(a)
        return a

    def know(self, a: Array, value: str | None = None) -> None:
        """From now on this array has this value; None for one that kernels are still to write."""
        if a.size:
            known = self._known[_address(a)] = Known(a)
            insort(self._starts, known.start)
            if value is not None:
                known.values = [(0, _channels(a), value)]

    def has(self, a: Array) -> bool:
        """True where a kernel wrote this array, or the one that it is a view of."""
        known = self.find(a)
        return known is not None and len(known.values) > 0

    def find(self, a: Array) -> Known | None:
        """The array that this is a view of."""
        place = bisect_right(self._starts, _address(a)) - 1
        known = self._known[self._starts[place]] if place >= 0 else None
        inside = known is not None and _address(a) < known.start + _reach(known.array)
        return known if inside else None

    def read(self, a: Array) -> str:
        """The value of an array. Raises ValueError where no kernel wrote it."""
        known = self.find(a)
        if known is None:
            raise ValueError(f"export: {self.layer}: got an array {a.shape} that was not made by kernels")
        channels = known.channels(a)
        if channels is None:
            return self._folded(self._slice(known, 0, _channels(known.array)), known.array, a)
        return self._slice(known, *channels)

    def _slice(self, known: Known, first: int, last: int) -> str:
        parts, end, axis = [], first, 1 if known.array.ndim == 4 else -1
        for start, stop, value in known.values:
            if stop <= first or start >= last:
                continue
            if start > end:
                break
            cut = (max(start, first) - start, min(stop, last) - start)
            if cut != (0, stop - start):
                value = self.cut(value, axis, *cut)
            parts.append(value)
            end = min(stop, last)
        if end != last:
            raise ValueError(f"export: {self.layer}: got an array {known.array.shape} that kernels wrote in part")
        return parts[0] if len(parts) == 1 else self.node("Concat", *parts, axis=axis)

    def cut(self, value: str, axis: int, first: int, last: int) -> str:
        ends = [self.graph.constant([number], np.int64) for number in (first, last, axis)]
        return self.node("Slice", value, *ends)

    def _folded(self, value: str, own: Array, a: Array) -> str:
        """The value of `own` in the shape of `a`, which has the same numbers in the same order."""
        if not (
            own.flags.c_contiguous and a.flags.c_contiguous and _address(a) == _address(own) and a.size == own.size
        ):
            raise ValueError(f"export: {self.layer}: got a view {a.shape} of {own.shape}, wanted slices of channels")
        if own.ndim == 4:
            value = self.node("Transpose", value, perm=[0, 2, 3, 1])
        if a.ndim == 2:
            return self.node("Flatten", value)
        value = self.node("Reshape", value, self.graph.constant(a.shape, np.int64))
        return self.node("Transpose", value, perm=[0, 3, 1, 2]) if a.ndim == 4 else value

    def write(self, a: Array, value: str) -> Array:
        """From now on this array, or this slice of the channels of one, has this value."""
        known = self.find(a)
        if known is None:
            self.know(a, value)
            return a
        channels = known.channels(a)
        if channels is None:
            known.values = [(0, _channels(known.array), self._folded(value, a, known.array))]
            return a
        first, last = channels
        known.values = [v for v in known.values if v[1] <= first or v[0] >= last]
        insort(known.values, (first, last, value))
        return a

    def result(self, shape: Shape, value: str, out: Array | None = None, dtype: Any = None) -> Array:
        """A new array, or `out`, with this value."""
        return self.write(
            self.empty(shape, self.graph.dtype if dtype is None else dtype) if out is None else out, value
        )

    def added(self, into: Array | None, shape: Shape, value: str) -> Array:
        """A new array with this value, or `into`, after it was added to it."""
        if into is None:
            return self.result(shape, value)
        before = self.read(into)
        return self.write(into, value if before == ZERO else self.node("Add", before, value))

    def within(self, vector: Array) -> list[Array]:
        """The known arrays that stand in this vector, in order."""
        start = _address(vector)
        return [self._known[s].array for s in self._starts if start <= s < start + vector.nbytes]


def planes(v: "Values", value: str, first: int = 1) -> str:
    """A value (C,) as (C, 1, 1), or (N, C) as (N, C, 1, 1), to be combined with (N, C, H, W)."""
    return v.node("Unsqueeze", value, v.graph.constant([first, first + 1], np.int64))


def _address(a: Array) -> int:
    return int(a.__array_interface__["data"][0])


def _channels(a: Array) -> int:
    return int(a.shape[-1]) if a.ndim else 1


def _reach(a: Array) -> int:
    """How many bytes lie between the beginning of the first number and the end of the last."""
    steps: int = sum((n - 1) * s for n, s in zip(a.shape, a.strides, strict=True))
    return steps + int(a.itemsize)

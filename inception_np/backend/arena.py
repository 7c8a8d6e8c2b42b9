"""Memory for activations and gradients: one range of addresses, cut up and joined again, the same way in every step.

A training step makes and drops the same few hundred arrays again and again, most of them megabytes. The system's
allocator asks the kernel for each such array and gives it back when it dies; the next one is then new pages, and each
page is cleared at its first touch: for a large network a hundred thousand page faults a step, up to half of its time.

Here the range is reserved once (untouched pages cost nothing), and an array is a cut of it, found by first fit from
the low end. Arrays are made and dropped in the same order in every step, so each gets the address it had in the step
before: its pages are there, some still in the cache, and nothing is asked of the kernel. The range asks for huge pages
(2 MiB), without which a walk along pixels that are kilobytes apart misses the translation buffer at every one.

There is no call to free memory. The array that `empty` returns keeps a `Cut` alive, as does every view of it; when the
last of them dies, so does the cut, and its bytes return to the range. So layers do not manage memory.
"""

import mmap
import os
import sys
import threading
from bisect import bisect_left
from collections import deque
from typing import Any

import numpy as np

SMALL = 1 << 14  # bytes: smaller arrays are NumPy's own: many, short-lived, and without page faults
GRAIN = 256  # bytes: every cut begins and ends at a multiple
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux: addresses without memory behind them


class Cut:
    """A part of the range, held by the arrays on it."""

    arena: "Arena"
    start: int
    size: int
    __array_interface__: dict[str, Any]

    def __del__(self) -> None:
        # May run anywhere, even inside Arena.cut when the garbage collector strikes: only note it down.
        self.arena.returned.append((self.start, self.size))


class Arena:
    """First fit over a reserved range. used: bytes that are cut out now; high: how far up cuts have ever reached."""

    def __init__(self, capacity: int):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
        self.range = mmap.mmap(-1, capacity, flags=flags)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self.range.madvise(mmap.MADV_HUGEPAGE)
        self.base = np.frombuffer(self.range, np.uint8).ctypes.data
        self.capacity = capacity
        self.free: list[tuple[int, int]] = [(0, capacity)]  # (start, size), in order, none adjacent
        self.returned: deque[tuple[int, int]] = deque()
        self.lock = threading.Lock()
        self.used = self.high = 0

    def cut(self, size: int) -> Cut | None:
        """At least `size` bytes, or None where no free part is large enough."""
        size = -(-size // GRAIN) * GRAIN
        with self.lock:
            if self.returned:
                self._take_back()
            for i, (start, room) in enumerate(self.free):
                if room >= size:
                    if room == size:
                        del self.free[i]
                    else:
                        self.free[i] = (start + size, room - size)
                    self.used += size
                    self.high = max(self.high, start + size)
                    break
            else:
                return None
        cut = Cut()
        cut.arena, cut.start, cut.size = self, start, size
        place = (self.base + start, False)
        cut.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": place, "version": 3}
        return cut

    def _take_back(self) -> None:
        """Return what died, each part joined with its free neighbours."""
        while self.returned:
            start, size = self.returned.popleft()
            self.used -= size
            i = bisect_left(self.free, (start, size))
            if i < len(self.free) and start + size == self.free[i][0]:
                size += self.free.pop(i)[1]
            if i > 0 and sum(self.free[i - 1]) == start:
                self.free[i - 1] = (self.free[i - 1][0], self.free[i - 1][1] + size)
            else:
                self.free.insert(i, (start, size))

    def addresses(self) -> range:
        """Where the range is."""
        return range(self.base, self.base + self.capacity)

    def trim(self) -> None:
        """Give the pages of everything that is free back to the system."""
        with self.lock:
            self._take_back()
            for start, size in self.free:
                first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
                end = min(start + size, self.high) // mmap.PAGESIZE * mmap.PAGESIZE
                if end > first:
                    self.range.madvise(mmap.MADV_DONTNEED, first, end - first)
            last, room = self.free[-1]
            self.high = last if last + room == self.capacity else self.capacity


_shared: Arena | None = None
_tried = False
_making = threading.Lock()


def shared() -> Arena | None:
    """The process's arena, or None on a system that cannot reserve addresses without memory behind them."""
    global _shared, _tried
    if not _tried:
        with _making:
            if not _tried:
                _shared = private()
            _tried = True
    return _shared


def private() -> Arena | None:
    """A new arena, as large as the machine's memory, or None as above."""
    if sys.platform != "linux":
        return None
    try:
        return Arena(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError, OverflowError):
        return None  # a limit on addresses (ulimit -v): NumPy's own allocator is used


def empty(shape: tuple[int, ...], dtype: Any, source: Arena | None = None) -> np.ndarray[Any, Any]:
    """An array with undefined contents; its memory is reused when the last view of it is gone.

    It is cut from `source`, or from the process's arena unless it is small. NumPy allocates small arrays, and those
    that no longer fit.
    """
    dtype = np.dtype(dtype)
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size < (SMALL if source is None else 1) or dtype.hasobject:
        return np.empty(shape, dtype)
    source = source or _shared or shared()
    cut = source.cut(size) if source else None
    if cut is None:
        return np.empty(shape, dtype)
    a: np.ndarray[Any, Any] = np.asarray(cut)[:size].view(dtype).reshape(shape)
    return a


def trim() -> None:
    """Give the pages that no array uses back to the system."""
    if _shared is not None:
        _shared.trim()

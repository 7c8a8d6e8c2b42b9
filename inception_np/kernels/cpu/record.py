"""Kernel calls that repeat: written down once, as a program with holes, then only filled with addresses.

A training step calls the same functions on arrays of the same shapes again and again. What such a function works out in
Python (checks, padding, phases, how the work is shared, the arguments of several kernels) depends on the shapes alone,
and takes longer than the kernels of a small layer. So

    @recorded
    def add_twice(x, y, factor):
        t = empty(x.shape, np.float32)
        scale(address(x), address(t), x.size, factor)
        add(address(t), address(y), y.size)

runs once with stand-ins for its arrays, that have their shapes and strides but stand at addresses which no process has,
while the calls are recorded. The addresses among the recorded words are the holes: each is a stand-in's plus an offset.
From then on, a call with the same shapes, strides and other arguments copies the program, adds the arrays' addresses
to the holes and runs it.

A recorded function may do nothing but such arithmetic and kernel calls: the numbers in its arrays are not there to be
read (and stand-ins refuse to be written). Its new arrays come from `empty` here; those that it returns are new at every
call. Where an array has to be copied first (`contiguous`, `by_hand`), the function runs as it is written.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from ... import heap
from ...threads import num_threads
from .machine import Recording, Unrecordable, in_recording, on_tape, run

STAND_INS, ROOM = 1 << 60, 1 << 44  # the first stand-in's address, and from each to the next
MOST = 1 << 12  # programs kept for a function
ALIGN = 64


class _Nowhere:
    def __init__(self, shape: tuple, strides: tuple | None, kind: str, number: int):
        place = (STAND_INS + number * ROOM, True)
        self.__array_interface__ = {"shape": shape, "strides": strides, "typestr": kind, "data": place, "version": 3}


def stand_in(shape: tuple, strides: tuple | None = None, kind: str = "<f4", number: int = 0) -> np.ndarray:
    """An array that can be asked for its shape, strides and address, not for its numbers."""
    return np.asarray(_Nowhere(tuple(shape), strides, kind, number))


def holes(program: np.ndarray, number: int) -> np.ndarray:
    """Which words of a program are addresses in that stand-in."""
    first = STAND_INS + number * ROOM
    return np.flatnonzero((program >= first) & (program < first + ROOM))


class _Sketch(Recording):
    """A recording with stand-ins: those of the function's arrays, and those it made."""

    def __init__(self, arrays: int):
        super().__init__()
        self.arrays = arrays
        self.made: list[np.ndarray] = []

    def empty(self, shape: tuple, dtype: Any) -> np.ndarray:
        a = stand_in(shape, None, np.dtype(dtype).str, self.arrays + len(self.made))
        self.made.append(a)
        return a


def empty(shape: tuple, dtype: Any) -> np.ndarray:
    """A new array from the heap, or its stand-in while a recorded function is written down."""
    recording = in_recording()
    return recording.empty(shape, dtype) if isinstance(recording, _Sketch) else heap.empty(shape, dtype)


class _Program:
    """A function's calls for one set of shapes."""

    def __init__(self, function: Callable, arguments: tuple):
        places = [i for i, a in enumerate(arguments) if isinstance(a, np.ndarray)]
        filled = list(arguments)
        for number, i in enumerate(places):
            filled[i] = stand_in(arguments[i].shape, arguments[i].strides, arguments[i].dtype.str, number)
        sketch = _Sketch(len(places))
        with sketch:
            result = function(*filled)
        self.words = np.frombuffer(b"".join(sketch.calls), np.int64).copy()
        self.constants = sketch.kept  # arrays whose addresses are in the words, for good

        # Where each stand-in's array is to be found: an argument, a returned array, or a part of the scratch memory.
        returned = result if isinstance(result, tuple) else (result,)
        known = {id(filled[i]): number for number, i in enumerate(places)}
        self.returned: list[tuple[tuple, np.dtype]] = []
        owner, offset, self.scratch = list(range(len(places))), [0] * len(places), 0
        for a in sketch.made:
            if any(a is r for r in returned):
                known[id(a)] = len(places) + len(self.returned)
                owner.append(known[id(a)])
                offset.append(0)
                self.returned.append((a.shape, a.dtype))
            else:
                owner.append(-1)  # the scratch comes last
                offset.append(self.scratch)
                self.scratch += -(-a.nbytes // ALIGN) * ALIGN
        self.result = [None if r is None else known[id(r)] for r in returned]
        self.several = isinstance(result, tuple)

        found = [holes(self.words, number) for number in range(len(owner))]
        for number, where in enumerate(found):
            self.words[where] += offset[number] - STAND_INS - number * ROOM
        self.holes = np.concatenate([*found, np.zeros(0, np.int64)]).astype(np.int64)
        self.owner = np.repeat(np.array(owner, np.int64), [len(where) for where in found])

    def __call__(self, arrays: list[np.ndarray]) -> Any:
        for shape, dtype in self.returned:
            arrays.append(heap.empty(shape, dtype))
        if self.scratch:
            arrays.append(heap.empty((self.scratch,), np.uint8))
        words = self.words.copy()
        addresses = [a.__array_interface__["data"][0] for a in arrays]
        words[self.holes] += np.array(addresses, np.int64)[self.owner]
        tape = on_tape()
        if tape is not None:
            tape.kept.append(self.constants)
            for a, where in zip(arrays, addresses, strict=True):
                tape.keep(a, where)
        run(words)
        if self.several:
            return tuple([None if i is None else arrays[i] for i in self.result])
        return None if self.result[0] is None else arrays[self.result[0]]


_all_programs: list[dict[tuple, _Program | None]] = []


def forget() -> None:
    """Write everything down anew: for whoever changes a constant that decides how something is computed."""
    for programs in _all_programs:
        programs.clear()


def recorded(function: Callable) -> Callable:
    """Mark a function of arrays, and of numbers and tuples of them, that does all its work in kernel calls."""
    programs: dict[tuple, _Program | None] = {}
    _all_programs.append(programs)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        if in_recording() is not None:
            return function(*arguments)
        key: list[Any] = [num_threads()]
        arrays: list[np.ndarray] = []
        for a in arguments:
            if isinstance(a, np.ndarray):
                key.append((a.shape, a.strides))
                arrays.append(a)
            else:
                key.append(a)
        name = tuple(key)
        program = programs.get(name)
        if program is None:
            if name not in programs:
                if len(programs) >= MOST:
                    programs.clear()
                try:
                    program = programs[name] = _Program(function, arguments)
                except Unrecordable:
                    programs[name] = None
            if program is None:
                return function(*arguments)
        return program(arrays)

    return call

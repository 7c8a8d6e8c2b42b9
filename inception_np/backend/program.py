"""Kernel calls as programs: how they are run, and how they are written down to be run again without Python.

A call of a kernel is a few int64 in a row (kernels/cpu/machine.py), and calls one after the other are a program. What
Python works out on the way to a kernel (checks, padding, phases, how the work is shared) depends on the shapes alone,
and takes longer than the kernels of a small layer. So it is done once. Every thread has an executor. Code that calls a
kernel has the executor run words, make arrays and give their addresses, and tells it where NumPy computes. There are
three kinds:

    Executor    runs each call at once                                      the default: how layers run
    Trace       writes the calls down and runs none                         a traced function, an inference plan
    Capture     runs the calls and writes them down                         Replay (runtime/replay.py)

`with Trace(...) as trace:` makes it the thread's executor for that block, and `trace.program()` is what was written
down. A program may be run on other arrays than those it was traced with: these are placeholders, which have shapes and
strides but stand at addresses that no process has. Where the words hold such an address there is a slot, which each run
fills with the address of an array. A function of the host (a layer that no kernel knows) can stand between calls.

An executor may also take whole kernels, by their names, before they become words (`instead`): the export to ONNX does.

    @traced
    def add_twice(x, y, factor):
        t = empty(x.shape, np.float32)
        scale(address(x), address(t), x.size, factor)
        add(address(t), address(y), y.size)

A traced function runs once for each set of shapes, strides and other arguments, on placeholders; from then on a call of
it fills the slots of that program and runs it. It may do nothing but such arithmetic and kernel calls, for the numbers
in its arrays are not there to be read; and its arrays come from `empty`, since one that it made otherwise would be the
same one in every call. Where an array has to be copied first (`falls_back_to_numpy`), it runs as it is written.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, wraps
from itertools import groupby
from operator import itemgetter
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from . import arena, threads
from .arrays import Array, array_module

PLACEHOLDERS, ROOM = 1 << 60, 1 << 44  # the first placeholder's address, and from each to the next
MOST = 1 << 12  # programs kept for a traced function
ALIGN = 64  # bytes: every array in a program's scratch memory begins at a multiple

Words = np.ndarray[Any, np.dtype[np.int64]]
HostFunction = Callable[[], None]
P = ParamSpec("P")
R = TypeVar("R")


class Untraceable(RuntimeError):
    """A trace came to NumPy code, which needs the numbers that a trace does not have."""


# ---- the three executors


class Executor:
    """Runs kernel calls at once."""

    def run(self, words: Words) -> None:
        """Do the calls that these words are, each on the threads that it asks for."""
        workers = _workers()
        if workers.started < threads.used - 1:
            workers.start(threads.used - 1)
        start = words.__array_interface__["data"][0]
        workers.run(start, start + words.nbytes, workers.state)

    empty: Callable[..., Array] = staticmethod(arena.empty)  # (shape, dtype) -> a new array with undefined contents
    instead: Callable[..., Any] | None = None  # (plain, args, keywords): does what a call of that kernel would do

    def addresses(self, arrays: Sequence[Array], held: Sequence[Any] = ()) -> list[int]:
        """Where the first elements of these arrays stand. The caller keeps the arrays alive while a kernel runs.

        held: other objects whose addresses are in the same words.
        """
        found = []
        for a in arrays:
            found.append(a.__array_interface__["data"][0])  # noqa: PERF401
        return found

    def falls_back(self, what: str) -> None:
        """Note that NumPy computes now. Raises Untraceable in a trace."""


class _Writer(Executor):
    """Writes calls down. Arrays come from an arena of its own, so that their addresses stay theirs; others are held."""

    def __init__(self, source: arena.Arena | None = None):
        self.source, self.owned = source, source.addresses() if source else range(0)
        self.calls: list[Words | HostFunction] = []  # in the order in which they came
        self.held: list[Any] = []
        self._before: list[Executor] = []

    def __enter__(self) -> Any:
        self._before.append(_local.executor)
        _local.executor = self
        return self

    def __exit__(self, *error: object) -> None:
        _local.executor = self._before.pop()

    def run(self, words: Words) -> None:
        self.calls.append(words)

    def host_call(self, function: HostFunction) -> None:
        """Write down a function of the host, to be called at this place whenever the program is run."""
        self.calls.append(function)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return arena.empty(shape, dtype, self.source)

    def addresses(self, arrays: Sequence[Array], held: Sequence[Any] = ()) -> list[int]:
        found = super().addresses(arrays)
        self.held += held
        self.held += [
            a for a, where in zip(arrays, found, strict=True) if where < PLACEHOLDERS and where not in self.owned
        ]
        return found

    def program(self, placeholders: int = 0) -> "Program":
        """What was written down, as a program of that many arrays: its placeholders, by their numbers."""
        return Program(self.pieces(), [(number, 0) for number in range(placeholders)], self.held)

    def pieces(self) -> list[Words | HostFunction]:
        """The calls that were written down, as one piece from each function of the host to the next."""
        runs: list[tuple[bool, list[Any]]] = [
            (functions, list(run)) for functions, run in groupby(self.calls, callable)
        ]
        return [piece for functions, run in runs for piece in (run if functions else [np.concatenate(run)])]


class Trace(_Writer):
    """Writes calls down and runs none."""

    def falls_back(self, what: str) -> None:
        raise Untraceable(f"a trace: got {what}, wanted calls of kernels alone")


class Capture(_Writer):
    """Runs calls and writes them down. complete: False once NumPy did part of the work, which is not written down."""

    complete = True

    def run(self, words: Words) -> None:
        EAGER.run(words)
        super().run(words)

    def host_call(self, function: HostFunction) -> None:
        with eager():  # what it does is not written down: it is called again
            function()
        super().host_call(function)

    def falls_back(self, what: str) -> None:
        self.complete = False


EAGER = Executor()


class _Local(threading.local):
    executor: Executor = EAGER


_local = _Local()


def executor() -> Executor:
    """The executor of this thread."""
    return _local.executor


def capturing() -> Capture:
    """The capture that this thread is in. Raises RuntimeError where it is in none."""
    current = _local.executor
    if not isinstance(current, Capture):
        raise RuntimeError(
            f"a capture: got {type(current).__name__}, wanted the executor that `with Capture(...)` sets"
        )
    return current


@contextmanager
def executed_by(one: Executor) -> Iterator[None]:
    """Within this block that one is the executor of this thread."""
    before, _local.executor = _local.executor, one
    try:
        yield
    finally:
        _local.executor = before


def eager() -> AbstractContextManager[None]:
    """Within this block calls run at once, even where those around it are written down."""
    return executed_by(EAGER)


_start: list[Callable[[], Any]] = []


def run_programs_with(start: Callable[[], Any]) -> None:
    """Have programs run by the workers that `start` makes: kernels/cpu/machine.py says so as it is loaded."""
    _start.append(start)


@cache
def _workers() -> Any:
    return _start[-1]()


# ---- for the functions that call kernels


def empty(shape: tuple[int, ...], dtype: Any, like: Any = None) -> Any:
    """A new array with undefined contents on the device of `like` (None: CPU); in a traced function, a placeholder."""
    if like is None or isinstance(like, np.ndarray):
        return _local.executor.empty(shape, dtype)
    return array_module(like).empty(shape, dtype)


def address(a: Array) -> int:
    """Where an array's first element stands. The caller keeps the array alive while a kernel runs."""
    return _local.executor.addresses([a])[0]


def constant(a: Array) -> Array:
    """An array that programs may hold the address of, for good: read-only from now on."""
    a.flags.writeable = False
    return a


def falls_back_to_numpy(a: Array) -> None:
    """Tell the executor that NumPy is about to read or write this array. Raises Untraceable in a trace."""
    _local.executor.falls_back(f"an array of shape {a.shape} and strides {a.strides} that NumPy has to compute with")


# ---- programs


class _Nowhere:
    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...] | None, kind: str, number: int):
        place = (PLACEHOLDERS + number * ROOM, True)
        self.__array_interface__ = {"shape": shape, "strides": strides, "typestr": kind, "data": place, "version": 3}


def placeholder(
    shape: tuple[int, ...], strides: tuple[int, ...] | None = None, kind: str = "<f4", number: int = 0
) -> Array:
    """An array that can be asked for its shape, strides and address, but neither read nor written."""
    return np.asarray(_Nowhere(tuple(shape), strides, kind, number))


def is_placeholder(a: Array) -> bool:
    return bool(a.__array_interface__["data"][0] >= PLACEHOLDERS)


def slots(words: Words, number: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Which of these words are addresses in that placeholder."""
    first = PLACEHOLDERS + number * ROOM
    return np.flatnonzero((words >= first) & (words < first + ROOM))


class Program:
    """Kernel calls, and functions of the host between them, on arrays that are given at each run.

    places: for each placeholder, which of the given arrays it is in and how many bytes from that one's start.
    """

    def __init__(self, pieces: list[Words | HostFunction], places: list[tuple[int, int]], held: list[Any]):
        self.held = held  # what the words have addresses of, for good
        self.pieces: list[Any] = []  # (words, slots, the array of each slot) and functions
        for piece in pieces:
            if callable(piece):
                self.pieces.append(piece)
                continue
            words, found = piece.copy(), [slots(piece, number) for number in range(len(places))]
            for number, where in enumerate(found):
                words[where] += places[number][1] - PLACEHOLDERS - number * ROOM
            owners = np.repeat(np.array([owner for owner, _ in places], np.int64), [len(where) for where in found])
            self.pieces.append((words, np.concatenate([*found, np.zeros(0, np.intp)]).astype(np.intp), owners))

    def run(self, *arrays: Array) -> None:
        """All of it, by the executor of this thread."""
        current = _local.executor
        addresses = np.array(current.addresses(arrays, self.held), np.int64)
        for piece in self.pieces:
            if isinstance(piece, tuple):
                words, where, owners = piece
                if len(where):
                    words = words.copy()
                    words[where] += addresses[owners]
                current.run(words)
            else:
                piece()

    def words(self) -> list[Words]:
        """The stretches of kernel calls between functions of the host."""
        return [piece[0] for piece in self.pieces if isinstance(piece, tuple)]


class _TraceOfFunction(Trace):
    """A trace whose new arrays are placeholders too, numbered after those of the arguments."""

    def __init__(self, arguments: int):
        super().__init__()
        self.arguments = arguments
        self.made: list[Array] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        a = placeholder(shape, None, np.dtype(dtype).str, self.arguments + len(self.made))
        self.made.append(a)
        return a

    def addresses(self, arrays: Sequence[Array], held: Sequence[Any] = ()) -> list[int]:
        for a in arrays:
            if a.flags.writeable:  # every later call, in any thread, would write to this one
                raise TypeError(
                    "a traced function: got an array that it made itself, wanted one of `empty` or a `constant`"
                )
        return super().addresses(arrays, held)


class _Traced(Program):
    """A function's program for one set of shapes: it makes what it returns, and scratch memory, anew at every run."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]):
        places = [i for i, a in enumerate(arguments) if isinstance(a, np.ndarray)]
        filled = list(arguments)
        for number, i in enumerate(places):
            filled[i] = placeholder(arguments[i].shape, arguments[i].strides, arguments[i].dtype.str, number)
        with _TraceOfFunction(len(places)) as trace:
            result = function(*filled)

        # Where each placeholder's array is to be found: an argument, a returned array, or a part of the scratch memory.
        returned = result if isinstance(result, tuple) else (result,)
        known = {id(filled[i]): number for number, i in enumerate(places)}
        self.returned: list[tuple[tuple[int, ...], Any]] = []
        owners, self.scratch = [(number, 0) for number in range(len(places))], 0
        for a in trace.made:
            if any(a is r for r in returned):
                known[id(a)] = len(places) + len(self.returned)
                owners.append((known[id(a)], 0))
                self.returned.append((a.shape, a.dtype))
            else:
                owners.append((-1, self.scratch))  # the scratch comes last
                self.scratch += -(-a.nbytes // ALIGN) * ALIGN
        # what the function returned, of all these arrays and a None at their end
        self.result = itemgetter(*[-1 if r is None else known[id(r)] for r in returned])
        super().__init__(trace.pieces(), owners, trace.held)


_caches: list[dict[tuple[Any, ...], _Traced | None]] = []


def clear_cache() -> None:
    """Trace every function anew. Call it after changing a constant that decides how something is computed."""
    for programs in _caches:
        programs.clear()


def traced(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function of arrays, and of numbers and tuples of them, that does all its work in kernel calls."""
    programs: dict[tuple[Any, ...], _Traced | None] = {}
    _caches.append(programs)

    @wraps(function)
    def call(*arguments: P.args, **no: P.kwargs) -> R:
        key: list[Any] = [threads.used or threads.num_threads()]
        arrays: list[Array] = []
        for a in arguments:
            if isinstance(a, np.ndarray):
                key.append((a.shape, a.strides))
                arrays.append(a)
            else:
                key.append(a)
        name = tuple(key)
        program = programs.get(name) or trace(name, arguments)
        if program is None:
            return function(*arguments, **no)
        new = _local.executor.empty
        for shape, dtype in program.returned:
            arrays.append(new(shape, dtype))
        if program.scratch:
            arrays.append(new((program.scratch,), np.uint8))
        program.run(*arrays)
        return cast(R, program.result([*arrays, None]))

    def trace(name: tuple[Any, ...], arguments: tuple[Any, ...]) -> _Traced | None:
        """None where the function has to run as it is written. (Another thread may clear the programs at any time.)"""
        program = None
        if name not in programs:
            if len(programs) >= MOST:
                programs.clear()
            with suppress(Untraceable):
                program = _Traced(function, arguments)
            programs[name] = program
        return program

    return call

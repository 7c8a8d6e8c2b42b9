"""How a fast kernel is compiled and cached, gets its arguments, and runs on several threads.

A kernel is a function of three numbers: which part of the work to do, of how many parts, and where its arguments stand:

    @kernel
    def scale(part, parts, arguments):
        x, n, factor = unpack(arguments, "qqf")          # two integers (an address is one), a float
        for i in range(n * part // parts, n * (part + 1) // parts):
            ...

    scale(address(x), x.size, 0.5)                       # runs it, a part on each thread

A call is a few int64 in a row: the kernel's address, the number of parts, of threads, of arguments, the arguments. A
program is calls one after the other; workers.py steps through it and hands the parts of each call to the threads. So an
inference plan is one vector and one call from Python, a kernel is compiled without any threading in it (which takes a
third of the time), and gives the same bits for any number of threads: a kernel that sums divides its work by the size
of the array, never by `parts`.

Kernels are compiled when first called, and kept on disk: beside this file, or in the user's cache folder where the
package is installed read-only, or where NUMBA_CACHE_DIR says. code_cache.py has how.
"""

import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...backend.program import address, constant, executor, falls_back_to_numpy, run_programs_with
from ...backend.threads import num_threads
from . import workers
from .code_cache import cache_folder, keeps, kept
from .compiler import compile_kernel, compile_written
from .compiler import helper as helper
from .llvm import DOUBLE, NUMBER, SIZE
from .workers import Workers, decorate

PARTS_PER_THREAD = 4


# ---- the arguments of a kernel


LETTERS = {"q": types.int64, "f": numba.from_dtype(np.dtype(NUMBER))}


@intrinsic(prefer_literal=True)
def unpack(context, arguments, letters):
    """The arguments of a kernel as a tuple: "q" an int64, "f" a float32."""
    if not isinstance(letters, types.StringLiteral):
        return None
    returned = types.Tuple([LETTERS[letter] for letter in letters.literal_value])

    def generate(context, builder, signature, values):
        integer, double = ir.IntType(64), ir.DoubleType()
        base = builder.inttoptr(values[0], integer.as_pointer())
        loaded = []
        for i, letter in enumerate(letters.literal_value):
            place = builder.gep(base, [ir.Constant(integer, i)])
            if letter == "q":
                loaded.append(builder.load(place))
            else:
                wide = builder.load(builder.bitcast(place, double.as_pointer()))
                loaded.append(wide if SIZE == 8 else builder.fptrunc(wide, ir.FloatType()))
        return context.make_tuple(builder, returned, loaded)

    return returned(arguments, letters), generate


class Kernel:
    """A function (part, parts, arguments) that is compiled when it is first needed."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.__doc__ = function.__doc__
        self._compiled: Any = None
        self._layout: struct.Struct | None = None

    @property
    def address(self) -> int:
        if self._compiled is None:
            with _compiling:
                self._compiled = kept(self.function, lambda keep: compile_kernel(self.function, keep))
        return int(self._compiled.address)

    def call(self, *arguments: float, parts: int | None = None) -> bytes:
        """The call as bytes of a program. parts=None: a few for each thread, so that a slow thread delays little."""
        threads = num_threads()
        if parts is None:
            parts = PARTS_PER_THREAD * threads if threads > 1 else 1
        if self._layout is None:  # which arguments are floats is the same in every call
            letters = "".join(["d" if isinstance(a, float) else "q" for a in arguments])
            self._layout = struct.Struct("=qqqq" + letters)
        return self._layout.pack(self.address, parts, threads, len(arguments), *arguments)

    def __call__(self, *arguments: float, parts: int | None = None) -> None:
        executor().run(np.frombuffer(self.call(*arguments, parts=parts), np.int64))


def kernel(function: Callable[..., Any]) -> Kernel:
    """Mark a kernel: see the top of this file."""
    return Kernel(function)


_libraries: list[Any] = []  # a function lives as long as the library that holds it


def written(function: Callable[..., Any], variant: str, write: Callable[..., None]) -> int:
    """The address of a function of three int64 whose LLVM code `write(builder, *arguments)` makes; kept as kernels are.

    function, variant: what makes the code, and a name for which of those that it can make.
    """
    name = f"{function.__name__}.{variant}"
    with _compiling:
        _libraries.append(kept(function, lambda keep: compile_written(name, write, keep), variant))
        return int(_libraries[-1].get_pointer_to_function(name))


def start_workers() -> Workers:
    """The workers of this process, compiled; their threads start when a program asks for them."""
    with _compiling:
        runner = kept(workers.run, lambda keep: decorate(workers.run, workers.RUN_TYPE, keep))
        worker = kept(workers.work, lambda keep: decorate(workers.work, workers.WORK_TYPE, keep))
        _compiling.note(runner.stats.cache_misses)
        _compiling.note(worker.stats.cache_misses)
    return Workers(runner, worker)


if not DOUBLE:  # (the same workers run both)
    run_programs_with(start_workers)


# ---- what the user is told of it


class _Compiling:
    """One kernel is compiled at a time; the first that was not found on disk makes a note on standard error."""

    def __init__(self) -> None:
        self.lock, self.said = threading.RLock(), False

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def note(self, compiled: Any) -> None:
        """Called after each kernel. compiled: true where it was not found on disk."""
        if compiled and keeps() and not self.said:
            self.said = True
            where = cache_folder()
            kept = f"kept in {where}" if where else "not kept: no folder is writable"
            print(f"inception-np: compiling the fast kernels, once, about 10 s for a network ({kept})", file=sys.stderr)


_compiling = _Compiling()


# ---- arrays as kernels see them


def is_rows(a: np.ndarray) -> bool:
    """True where rows, one per pixel, stand at equal distances: in a contiguous array or a slice of its channels."""
    if a.ndim == 0 or a.size == 0:
        return a.flags.c_contiguous
    strides, shape = a.strides, a.shape
    if shape[-1] != 1 and strides[-1] != a.itemsize:
        return False
    expected = None
    for n, stride in zip(reversed(shape[:-1]), reversed(strides[:-1]), strict=True):
        if n == 1:
            continue
        if expected is None:
            if stride < shape[-1] * a.itemsize or stride % a.itemsize:
                return False
        elif stride != expected:
            return False
        expected = stride * n
    return True


def contiguous(a: np.ndarray) -> np.ndarray:
    """a, or a copy of it. Raises Untraceable for a copy in a trace."""
    if a.flags.c_contiguous:
        return a
    falls_back_to_numpy(a)
    return np.ascontiguousarray(a)


def rows(a: np.ndarray) -> tuple[np.ndarray, int, int]:
    """(a, the address of its first row, the bytes from one row to the next); a is copied where it is not in rows."""
    if not is_rows(a):
        a = contiguous(a)
    return a, address(a), row_step(a)


def row_step(a: np.ndarray) -> int:
    """The bytes from one row to the next of an array in rows."""
    for n, stride in zip(reversed(a.shape[:-1]), reversed(a.strides[:-1]), strict=True):
        if n > 1:
            return stride
    return int(a.shape[-1] * a.itemsize)


_constants: dict[float, list[np.ndarray]] = {
    value: [constant(np.full(1 << 12, value, NUMBER))] for value in (0.0, -np.inf)
}


def constant_row(value: float, size: int) -> int:
    """The address of at least `size` float32 zeros, or minus infinities, that stay where they are."""
    kept = _constants[value]
    if kept[-1].size < size:
        kept.append(constant(np.full(2 * size, value, NUMBER)))
    return address(kept[-1])


def zero_row(size: int) -> int:
    """The address of at least `size` float32 zeros: padding, no bias, ReLU's floor."""
    return constant_row(0.0, size)

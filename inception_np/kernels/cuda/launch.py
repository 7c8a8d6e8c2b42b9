"""Compile the CUDA sources of this folder and launch their kernels.

    launch("pool.cu", "global_avg_pool", elements(n * c), x, y, n, h * w, c, ldx)

The kernel's declaration in the source says what its arguments are. Here arrays are checked against it and numbers are
converted to it: CUDA itself would take a double for a float, or a float64 array's address for a float32 array's, and
read nonsense. Arrays of Real are of float32 or of bfloat16, all of one launch alike; the source is compiled for each.
NVRTC compiles a source when one of its kernels is first launched, in CuPy's cache directory.
"""

import functools
import re
import threading
from collections.abc import Callable
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from ...backend.arrays import Array, Shape, array_module
from ...backend.program import empty
from ..window import Pads, Pair

FOLDER = Path(__file__).parent
BLOCK = 256  # threads of a block, for most kernels
LANES, ROWS = 32, 8  # as in reduce.cuh: a block of 32 channels by 8 rows
BLOCKS = 2048  # that keep a GPU busy: 132 multiprocessors hold 8 blocks each
SUMMING, PARTS = 512, 256  # threads of a block that sums rows, and how many such blocks
RESIDENT = 2**18  # threads that a GPU holds: 2048 on each of 132 multiprocessors
TICKETS = 2**16  # of a stream
FLOAT32 = np.dtype(np.float32)  # (np.float32 itself has another hash)
SCALARS = {"int": np.int32, "long long": np.int64, "float": np.float32}
ELEMENTS = {
    "Real": ("float32", "bfloat16"),
    "float": ("float32",),
    "double": ("float64",),
    "int": ("int32",),
    "long long": ("int64",),
    "unsigned": ("uint32",),
    "unsigned char": ("uint8",),
    "unsigned long long": ("uint64",),
}

Grid = tuple[tuple[int, ...], tuple[int, ...]]


def launch(source: str, kernel: str, grid: Grid, *args: Any, options: tuple[str, ...] = ()) -> None:
    """Run one kernel of a source over a grid (blocks, threads per block).

    args: arrays (None is a null pointer), numbers, and structs (tuples of ints, such as Window's, or an array of one
    `struct`), in the order of the declaration.
    Raises TypeError for an array of another dtype or a wrong number of arguments.
    """
    wanted = _converters(source, kernel)
    if len(args) != len(wanted):
        raise TypeError(f"{kernel}: got {len(args)} arguments, wanted {len(wanted)}")
    given = tuple([convert(value) for convert, value in zip(wanted, args, strict=True)])
    stored = {args[i].dtype for i in _activations(source, kernel) if args[i] is not None}
    if len(stored) > 1:
        raise TypeError(f"{kernel}: got arrays of {' and '.join(sorted(map(str, stored)))}, wanted one dtype")
    if stored and FLOAT32 not in stored:
        options += ("-DBF16",)
    blocks, threads = grid
    if min(blocks) > 0:
        function(source, kernel, options)(blocks, threads, given)


@functools.cache
def _converters(source: str, kernel: str) -> tuple[Callable[[Any], Any], ...]:
    """What converts each argument; kept, since a launch should not cost more than its kernel."""
    return tuple(
        _array_of(kernel, ELEMENTS[t.removesuffix("*")]) if t.endswith("*") else SCALARS.get(t) or _struct(source, t)
        for t in declarations(source)[kernel]
    )


@functools.cache
def _activations(source: str, kernel: str) -> tuple[int, ...]:
    """Which arguments are arrays of Real."""
    return tuple(i for i, t in enumerate(declarations(source)[kernel]) if t == "Real*")


def _array_of(kernel: str, dtypes: tuple[str, ...]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        # None stays: CuPy passes it as a null pointer since 14.0.0, and refuses it before (cupy#9046)
        if value is not None and value.dtype.name not in dtypes:
            raise TypeError(f"{kernel}: got an array of {value.dtype}, wanted {' or '.join(dtypes)}")
        return value

    return check


def _struct(source: str, name: str) -> Callable[[Any], Any]:
    fields = struct(source, name)

    @functools.lru_cache(1 << 12)  # to make it anew costs more than the rest of a launch; a network has few windows
    def made(value: tuple[int, ...]) -> np.ndarray:
        return np.array([value], fields)

    def convert(value: Any) -> np.ndarray:
        given = value if isinstance(value, np.ndarray) else made(value)
        if given.dtype != fields or given.shape != (1,):
            raise TypeError(f"{source}: got {given.shape} of {given.dtype}, wanted one struct {name}")
        return given  # CuPy passes it by value

    return convert


@functools.cache
def text(source: str) -> str:
    """A source with its headers in place: one string, so that CuPy's cache sees a header change."""
    seen = set()

    def header(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return ""
        seen.add(name)
        return (FOLDER / name).read_text()

    return re.sub(r'#include "(.+?)"', header, (FOLDER / source).read_text()).replace("#pragma once", "")


@functools.cache
def declarations(source: str) -> dict[str, list[str]]:
    """The types of each kernel's arguments: {"relu": ["float*", "float*", "int", ...]}."""
    found = {}
    pattern = r"__global__\s+void\s+(?:__launch_bounds__\(.*?\)\s+)?(\w+)\((.*?)\)\s*{"
    for name, arguments in re.findall(pattern, text(source), re.S):
        types = (re.sub(r"\bconst\b|__restrict__|\w+$", "", a.strip()).strip() for a in arguments.split(","))
        found[name] = [re.sub(r"\s*\*$", "*", t) for t in types]
    return found


@functools.cache
def struct(source: str, name: str) -> np.dtype:
    """A struct of a source, whose fields are ints, addresses (as numbers), or arrays of another struct."""
    (body,) = re.findall(rf"struct {name} {{(.*?)}};", text(source), re.S)
    fields: list[Any] = []
    for kind, star, names in re.findall(r"(\w+)(\*?) ([^;*]+);", body):
        dtype = np.uint64 if star else np.int32 if kind == "int" else struct(source, kind)
        for field, length in re.findall(r"(\w+)(?:\[(\d+)\])?", names):
            fields.append((field, dtype, int(length)) if length else (field, dtype))
    return np.dtype(fields)


@functools.cache
def function(source: str, kernel: str, options: tuple[str, ...]) -> Any:
    """A kernel, compiled: it can be called with (blocks, threads, arguments)."""
    return _module(source, options).get_function(kernel)


@functools.cache
def _module(source: str, options: tuple[str, ...]) -> Any:
    import cupy

    return cupy.RawModule(code=text(source), options=("--std=c++17", *options))


def elements(count: int, vec: int = 1) -> Grid:
    """One thread per `vec` elements. Raises ValueError where ints could not count them and a stride more."""
    if count >= 2**31 - 2**20:
        raise ValueError(f"CUDA kernels: got {count} elements, wanted fewer than 2^31; use a smaller batch")
    return (-(-count // (vec * BLOCK)),), (BLOCK,)


def width(arrays: tuple[Array | None, ...], counts: tuple[int, ...]) -> int:
    """How many elements one access may take, 4, 2 or 1: what all addresses, pitches and channel counts allow."""
    return gcd(4, *(address(a) // a.itemsize for a in arrays if a is not None), *counts)


# (size, stride) of the windows that networks are full of: a source is compiled once more for each, and each width
KNOWN = (((3, 3), (1, 1)), ((3, 3), (2, 2)), ((2, 2), (2, 2)))


def known(size: Pair, stride: Pair, dilation: Pair = (1, 1)) -> bool:
    """True where kernels are compiled with this window as a constant."""
    return dilation == (1, 1) and (size, stride) in KNOWN


@functools.cache
def variant(vec: int, size: Pair = (0, 0), stride: Pair = (0, 0), dilation: Pair = (1, 1)) -> tuple[str, ...]:
    """The options for kernels that take `vec` channels at once, with a window that is known as a constant."""
    (kh, kw), (sh, sw) = size, stride
    constants = f"-DKH={kh}", f"-DKW={kw}", f"-DSH={sh}", f"-DSW={sw}"
    return (f"-DVEC={vec}", *(constants if known(size, stride, dilation) else ()))


def by_channels(channels: int, rows: int, vec: int) -> Grid:
    """The grid of a kernel of vector.cuh: blocks side by side over the channels, blocks below each other over the rows.

    There are no more blocks than twice what fits on a GPU at once; their threads take several rows then.
    """
    elements(channels * rows)
    tiles, across, down = _block(channels // vec, BLOCK)
    return (tiles, min(-(-rows // down), max(1, BLOCKS // tiles))), (across, down)


def summing(channels: int, rows: int, vec: int) -> tuple[Grid, int]:
    """The grid of a sum over rows, by_channels too, and its number of parts (blocks below each other).

    As many parts as keep a GPU busy, but at least 4 rows to a thread, which it reads at once: more parts are more to
    join. A function of the shape and of vec, for the same bits everywhere.
    """
    elements(channels * rows)
    tiles, across, _ = _block(channels // vec, LANES)
    whole = 1 << (across - 1).bit_length()  # lanes of a warp that are whole rows add theirs without shared memory
    if 4 * across >= 3 * whole:
        across = whole
    down = SUMMING // across
    parts = max(1, min(-(-rows // (4 * down)), PARTS // tiles))
    return ((tiles, parts), (across, down)), parts


def _block(vectors: int, widest: int) -> tuple[int, int, int]:
    """How many blocks lie side by side over a row, and the threads of one: at most `widest` of them side by side."""
    tiles = max(1, -(-vectors // widest))
    across = max(1, -(-vectors // tiles))
    return tiles, across, BLOCK // across


def reduction(channels: int, rows: int, taps: int = 1) -> tuple[Grid, int]:
    """The grid (channels / 32, taps, parts) of a sum over rows, and its number of parts.

    As many parts as keep a GPU busy, but at least 64 rows each; a function of the shape alone, for the same bits
    everywhere.
    """
    across = -(-channels // LANES)
    parts = max(1, min(-(-rows // 64), -(-1024 // (across * taps))))
    return ((across, taps, parts), (LANES, ROWS)), parts


def joining(results: int, parts: int) -> int:
    """How many threads of a block, 1, 2, 4, ... 32, share the parts of one result.

    Enough of them to read all its parts at once, 4 each; but no more threads in all than a GPU holds, which are busy
    with many results as they are (a convolution's weights).
    """
    slots = 1
    while slots < 32 and 4 * slots < parts and 2 * slots * results <= RESIDENT:
        slots *= 2
    return slots


# Never freed, since a captured graph holds the address; with its stream, so that no other one has that number.
_tickets: dict[tuple[int, int, int], tuple[Any, Array]] = {}


def tickets(count: int, like: Array) -> Array:
    """Where the blocks of a launch count themselves (join.cuh), `count` uint32: zeros, as the launch leaves them.

    Launches that may run at the same time must not share them: each stream of each thread has its own. Raises
    ValueError where they are fewer than `count`, RuntimeError where a stream's first ones are asked for in a capture,
    which would clear them at each launch of the graph but not now.
    """
    if count > TICKETS:
        raise ValueError(f"CUDA kernels: got a launch of {count} tiles to be counted, wanted at most {TICKETS}")
    module = array_module(like)
    stream = module.cuda.get_current_stream()
    key = threading.get_ident(), module.cuda.runtime.getDevice(), stream.ptr
    if key not in _tickets:
        if stream.is_capturing():
            raise RuntimeError("CUDA kernels: got a stream's first launch in a capture, wanted one before the capture")
        _tickets[key] = stream, module.zeros((TICKETS,), np.uint32)
    return _tickets[key][1]


def pitch(x: Array) -> int | None:
    """How many elements lie between one pixel of x (..., C) and the next; None where that is no one number.

    C for an array of its own; more for a slice of the channels of a larger array.
    """
    return _pitch(x.shape, x.strides, x.itemsize)


@functools.lru_cache(1 << 12)
def _pitch(shape: Shape, strides: tuple[int, ...], size: int) -> int | None:
    ld = None
    if 0 in shape:
        return shape[-1]
    if shape[-1] > 1 and strides[-1] != size:
        return None
    pixels = 1
    for length, stride in zip(reversed(shape[:-1]), reversed(strides[:-1]), strict=True):
        if length == 1:
            continue
        if ld is None:
            ld = stride // (pixels * size)
        if stride != pixels * ld * size or ld < shape[-1]:
            return None
        pixels *= length
    return shape[-1] if ld is None else ld


def address(x: Array) -> int:
    """Where x begins on the device."""
    return int(x.data.ptr)


def rows(x: Array) -> tuple[Array, int]:
    """x, or a contiguous copy where the kernels could not follow its strides, and its pitch."""
    ld = pitch(x)
    return (x, ld) if ld is not None else (x.copy(order="C"), x.shape[-1])


def result(out: Array | None, shape: tuple[int, ...], like: Array) -> tuple[Array, int]:
    """Where a kernel writes, `out` or a new array, and its pitch. Raises ValueError where `out` has none."""
    y = empty(shape, like.dtype, like) if out is None else out
    ld = pitch(y)
    if ld is None:
        raise ValueError(f"CUDA kernels: got out= or into= with strides {y.strides}, wanted a slice of channels")
    return y, ld


def one_number(value: float | Array, like: Array) -> Array:
    """A number as an array of one there. Such an array stays itself; a captured step reads it at each launch."""
    return array_module(like).full((1,), value, like.dtype) if isinstance(value, (int, float)) else value


def window(
    x_shape: Shape, out_hw: Pair, size: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1)
) -> tuple[int, ...]:
    """The fields of the sources' struct Window."""
    return (*x_shape, *out_hw, *size, *stride, *dilation, *pads[0], *pads[1])

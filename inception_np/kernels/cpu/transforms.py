"""The code of Winograd's transforms: winograd.py's matrices, applied to vectors of channels while the code is written.

`apply` and `sandwich` add, subtract and multiply whatever they are given. Here they are given `Lanes`, for which each
of these is an instruction; so the code of a transform is a few lines of winograd.py unrolled, with their numbers in it,
where zeros and ones cost nothing. Its one loop is over channels, and none of it is Python: it compiles in some
hundredths of a second for each form.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ..window import Pair
from .llvm import HAS_MASKS, I64, emit_load, emit_store, pointer_to
from .machine import written
from .simd import LANES, VECTOR
from .winograd import Form, Matrix, sandwich, transposed

Grid = list[list[Any]]


class Lanes:
    """16 numbers side by side, while code is written: what is added or multiplied becomes an instruction."""

    def __init__(self, builder: Any, value: Any):
        self.b, self.value = builder, value

    def __add__(self, other: "Lanes") -> "Lanes":
        return Lanes(self.b, self.b.fadd(self.value, other.value, flags=("contract",)))

    def __sub__(self, other: "Lanes") -> "Lanes":
        return Lanes(self.b, self.b.fsub(self.value, other.value, flags=("contract",)))

    def __mul__(self, factor: Fraction) -> "Lanes":
        constant = ir.Constant(VECTOR, [float(factor)] * LANES)
        return Lanes(self.b, self.b.fmul(self.value, constant, flags=("contract",)))


class At:
    """Some channels of every pixel, tap or place, while code is written: `offset` bytes on, `count` or 16 of them."""

    def __init__(self, builder: Any, offset: Any, count: Any):
        self.b, self.offset, self.count = builder, offset, count

    def address(self, place: Any, step: Any = None, k: int = 0) -> Any:
        there = self.b.add(place, self.offset)
        return there if step is None else self.b.add(there, self.b.mul(step, ir.Constant(I64, k)))

    def load(self, shape: Pair, place: Any, step: Any) -> Grid:
        """A grid whose numbers stand `step` bytes apart."""
        rows, columns = shape
        return [[self.get(self.address(place, step, i * columns + j)) for j in range(columns)] for i in range(rows)]

    def gather(self, shape: Pair, table: Any, exist: Sequence[Any] | None = None) -> Grid:
        """A grid whose addresses stand in a table; zeros where `exist` has 0."""
        rows, columns = shape

        def number(k: int) -> Lanes:
            return self.get(self.address(entry(self.b, table, k)), None if exist is None else exist[k])

        return [[number(i * columns + j) for j in range(columns)] for i in range(rows)]

    def get(self, there: Any, where: Any = None) -> Lanes:
        """The numbers at an address, or zeros unless the int64 `where` is one."""
        count = self.count if where is None else self.b.mul(self.count, where)
        return Lanes(self.b, emit_load(self.b, there, count, VECTOR))

    def put(self, there: Any, lanes: Lanes) -> None:
        emit_store(self.b, lanes.value, there, self.count)

    def store(self, numbers: Sequence[Lanes], place: Any, step: Any) -> None:
        for k, lanes in enumerate(numbers):
            self.put(self.address(place, step, k), lanes)


def entry(b: Any, table: Any, k: int) -> Any:
    """Number k of int64 in a row."""
    return b.load(pointer_to(b, b.add(table, ir.Constant(I64, 8 * k)), I64))


def for_each_vector(b: Any, count: Any, write: Callable[[At], None]) -> None:
    """The code that `write` makes, for 16 of `count` numbers after the other."""
    lanes = ir.Constant(I64, LANES)
    whole = b.sdiv(count, lanes)
    if HAS_MASKS:
        whole = b.sdiv(b.add(count, ir.Constant(I64, LANES - 1)), lanes)
    with cgutils.for_range(b, whole) as loop:
        done = b.mul(loop.index, lanes)
        write(At(b, b.mul(done, ir.Constant(I64, 4)), b.sub(count, done) if HAS_MASKS else lanes))
    if not HAS_MASKS:
        done = b.mul(whole, lanes)
        with b.if_then(b.icmp_signed("<", done, count)):
            write(At(b, b.mul(done, ir.Constant(I64, 4)), b.sub(count, done)))


def flat(grid: Grid) -> list[Any]:
    return [number for row in grid for number in row]


# ---- the transforms
#
# Each takes where it reads, where it writes, and where its sizes stand, as int64. Pixels and taps are reached by way of
# a table of addresses, row by row; the numbers of one place stand `step` bytes after those of the place before.


def transform_patch(form: Form, b: Any, pixels: Any, places: Any, sizes: Any) -> None:
    """B' d B. Sizes: channels, step."""
    channels, step = entry(b, sizes, 0), entry(b, sizes, 1)
    B = [transposed(axis.matrices[2]) for axis in form[:2]]

    def write(at: At) -> None:
        at.store(flat(sandwich(B[0], at.gather(form.places, pixels), B[1])), places, step)

    for_each_vector(b, channels, write)


def transform_filter(form: Form, b: Any, taps: Any, places: Any, sizes: Any) -> None:
    """G g G'. taps: a table of addresses, 0 for a tap beyond the window. Sizes: numbers side by side, step."""
    count, step = entry(b, sizes, 0), entry(b, sizes, 1)
    G = [axis.matrices[1] for axis in form[:2]]

    def write(at: At) -> None:
        grid = at.gather(form.taps, taps, exists(b, form, taps))
        at.store(flat(sandwich(G[0], grid, G[1])), places, step)

    for_each_vector(b, count, write)


def exists(b: Any, form: Form, taps: Any) -> list[Any]:
    """For each tap an int64: 1, or 0 where it is beyond the window."""
    places = [entry(b, taps, k) for k in range(form.taps[0] * form.taps[1])]
    return [b.zext(b.icmp_signed("!=", place, ir.Constant(I64, 0)), I64) for place in places]


def transform_products(form: Form, b: Any, places: Any, pixels: Any, sizes: Any) -> None:
    """y = max(floor, bias + A' m A), or that added to y. Sizes: channels, step, bias, floor, 1 to add or 0."""
    channels, step, bias, floor, adds = (entry(b, sizes, k) for k in range(5))
    A = [transposed(axis.matrices[0]) for axis in form[:2]]

    def write(at: At) -> None:
        lowest = at.get(at.address(floor)).value
        offset = at.get(at.address(bias))
        grid = flat(sandwich(A[0], at.load(form.places, places, step), A[1]))
        for k, y in enumerate(grid):
            there = at.address(entry(b, pixels, k))
            total = (y + offset + at.get(there, adds)).value
            at.put(there, Lanes(b, b.select(b.fcmp_ordered("<", total, lowest), lowest, total)))  # a NaN stays

    for_each_vector(b, channels, write)


def transform_row(down: Matrix, shape: Pair, across: Matrix, b: Any, pixels: Any, places: Any, sizes: Any) -> None:
    """One row of down @ grid @ across', known when the code runs. Sizes: channels, step, which row."""
    channels, step, row = (entry(b, sizes, k) for k in range(3))
    end = b.append_basic_block("end")
    cases = b.switch(row, end)
    for k, factors in enumerate(down):

        def write(at: At, factors: list[Fraction] = factors) -> None:
            at.store(flat(sandwich([factors], at.gather(shape, pixels), across)), places, step)

        block = b.append_basic_block("row")
        cases.add_case(ir.Constant(I64, k), block)
        b.position_at_end(block)
        for_each_vector(b, channels, write)
        b.branch(end)
    b.position_at_end(end)


def transform_patch_row(form: Form, b: Any, pixels: Any, places: Any, sizes: Any) -> None:
    """One row of B' d B, as in transform_row."""
    down, across = (transposed(axis.matrices[2]) for axis in form[:2])
    transform_row(down, form.places, across, b, pixels, places, sizes)


def transform_gradient_row(form: Form, b: Any, pixels: Any, places: Any, sizes: Any) -> None:
    """One row of A dy A', as in transform_row."""
    down, across = (axis.matrices[0] for axis in form[:2])
    transform_row(down, form.outputs, across, b, pixels, places, sizes)


def transform_sums(form: Form, b: Any, places: Any, taps: Any, sizes: Any) -> None:
    """dw += G' m G. taps: as in transform_filter. Sizes: numbers side by side, step."""
    count, step = entry(b, sizes, 0), entry(b, sizes, 1)
    G = [transposed(axis.matrices[1]) for axis in form[:2]]

    def write(at: At) -> None:
        exist = exists(b, form, taps)
        for k, dg in enumerate(flat(sandwich(G[0], at.load(form.places, places, step), G[1]))):
            there = at.address(entry(b, taps, k))
            total = at.get(there, exist[k]) + dg
            emit_store(b, total.value, there, b.mul(at.count, exist[k]))

    for_each_vector(b, count, write)


@cache
def code(transform: Callable[..., None], form: Form) -> int:
    """The address of a transform's code for a form, compiled when first asked for."""
    (m, m2), (r, r2) = form.outputs, form.taps
    return written(transform, f"-F{m}x{m2}-{r}x{r2}", lambda b, *arguments: transform(form, b, *arguments))

"""A convolution of stride 1 with fewer products than its definition has: Winograd's F(m x m, r x r), and its error.

Take one dimension, m neighbouring outputs of a filter of r taps. They see n = m + r - 1 inputs, and the definition asks
for m r products. But read the numbers as coefficients: the filter is a polynomial g(t) of degree r - 1, the outputs y
another one of degree m - 1, and g(t) y(t) has degree n - 1: it is known when its values at n points are, and a value
costs one product, g(p) y(p). So a product of polynomials is

    evaluate both factors at n points,      multiply value by value: n products,       interpolate.

Convolution is this map transposed (the filter slides over n inputs and leaves m outputs; a product spreads m numbers
over n), and so is the recipe, read from right to left:

    y = A' [ (G g) * (B' d) ]           n products in place of m r; * element by element, ' transposed

    A (n x m)   evaluates a polynomial of degree m - 1: row p is (1, p, p^2, ...)
    G (n x r)   evaluates one of degree r - 1, and divides by f(p), the product of (p - q) over the other points q
    B (n x n)   has in column p the coefficients of the product of (t - q) over the other points q: Lagrange's

One of the points is infinity, where the value of a polynomial is its highest coefficient: its rows of A and G are
(0, ..., 0, 1), its column of B is the product over all other points. With the points 0, 1, -1 and infinity, and m = 2,
r = 3, this is the form that Winograd published, 4 products in place of 6:

          |  1   0   0  |            | 1  0 -1  0 |            | 1  1  1  0 |
      G = | 1/2 1/2 1/2 |       B' = | 0  1  1  0 |       A' = | 0  1 -1 -1 |         (some signs moved between them)
          | 1/2-1/2 1/2 |            | 0 -1  1  0 |
          |  0   0   1  |            | 0  1  0 -1 |

In two dimensions the same is done to columns and then to rows. A patch d of x, n x n pixels, gives m x m outputs:

    y = A' [ (G g G') * (B' d B) ] A                n^2 products in place of m^2 r^2: F(4x4, 3x3) 36 in place of 144

The sums over input channels stay outside the transforms, since those are linear: so for each of the n^2 places there is
one matrix product, patches x channels in times channels in x channels out (patches.py). The other two gradients need
nothing new: dx is a convolution of dy with the filter turned by 180 degrees, and dw is the same form transposed,

    dg = G' [ sum over patches of (B' d B) * (A dy A') ] G

Where the error comes from. In exact arithmetic any points serve. In float32 the transforms make numbers larger than
those that come out: the outputs are differences of products that grew with the powers of the points, and what was
rounded off the large ones stays. The points that textbooks take, 0, 1, -1, 2, -2, put 16 beside 1/24 into the matrices.
Their size is no law: what matters is that no p^k is far from 1, that no two points are near each other, and that both
p and 1/p are there, which makes the product of (t^2 - p^2) even-handed. With 0, 2/3, -2/3, 3/2, -3/2 it is t^4 - 97/36
t^2 + 1, and the error of F(4x4, 3x3) falls from 4.5 times that of the direct sum to 1.8 times: a bit less than one of
24 bits for four times fewer products. `python -m inception_np bench --winograd` makes this table anew; rms error over
the direct float32 sum's, against float64, of 192 channels whose sum is one chain of additions, and (as tiles make it)
in blocks of 48 channels:

    form            products an output      points, and infinity                       one chain    blocks of 48
    F(2x2, 3x3)      4    of  9             0  1 -1                                       0.7           0.4
    F(4x4, 3x3)      2.25 of  9             0  1 -1  2 -2                                 4.5           2.4
    F(4x4, 3x3)      2.25 of  9             0  2/3 -2/3  3/2 -3/2                         1.75          0.99
    F(2x2, 5x5)      9    of 25             0  2/3 -2/3  3/2 -3/2                         1.12          0.66
    F(4, 3)          1.5  of  3             0  2/3 -2/3  3/2 -3/2                         1.78          0.91
    F(2, 7)          4    of  7             0  1/2 -1/2  1 -1  2 -2                       2.23          1.27
    F(3, 7)          3    of  7             1/3 -1/3  2/3 -2/3  1 -1  5/2 -5/2            4.1           2.4

Three forms have n = 6 and share their points, and so B. What is not in POINTS below is not done: its error is above
twice the direct sum's.

Winograd 1980, "Arithmetic Complexity of Computations"; Toom 1963 and Cook 1966 for the product of polynomials; Lavin &
Gray 2016, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308; on points: Barabasz, Anderson, Soodhalter
& Gregg 2020, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks",
arXiv:1803.10986.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils

from .llvm import HAS_MASKS, I64, emit_load, emit_store, pointer_to
from .machine import written
from .simd import LANES, VECTOR

Matrix = list[list[Fraction]]

# ---- the matrices


def plus_minus(*points: str) -> tuple[Fraction, ...]:
    """Every point and its negative, side by side."""
    return tuple(s * Fraction(p) for p in points for s in (1, -1))


ZERO = (Fraction(0),)
POINTS = {  # by the number of places; infinity is one more
    1: (),
    4: ZERO + plus_minus("1"),
    5: plus_minus("1/2", "5/4"),
    6: ZERO + plus_minus("2/3", "3/2"),
}


def matrices(outputs: int, taps: int, points: Sequence[Fraction]) -> tuple[Matrix, Matrix, Matrix]:
    """A (n, outputs), G (n, taps) and B (n, n) for these points and infinity, exactly."""
    n = outputs + taps - 1
    if len(points) != n - 1:
        raise ValueError(f"F({outputs}, {taps}): got {len(points)} points, wanted {n - 1}")
    others = [[q for q in points if q != p] for p in points]

    def values(coefficients: int) -> Matrix:  # at every point, of the polynomials 1, t, t^2, ...
        highest = [Fraction(int(k == coefficients - 1)) for k in range(coefficients)]
        return [[p**k for k in range(coefficients)] for p in points] + [highest]

    A, G = values(outputs), values(taps)
    for i, p in enumerate(points):
        f = Fraction(1)
        for q in others[i]:
            f *= p - q
        G[i] = [g / f for g in G[i]]
    B_transposed = [[*from_roots(rest), Fraction(0)] for rest in others] + [from_roots(points)]
    return A, G, transposed(B_transposed)


def from_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of the product of (t - q) over the roots q, lowest first."""
    product = [Fraction(1)]
    for q in roots:
        product = [a - q * b for a, b in zip([Fraction(0), *product], [*product, Fraction(0)], strict=True)]
    return product


def transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


# ---- a matrix applied: to fractions, to arrays, or to registers while code is written


def apply(matrix: Matrix, values: Sequence[Any]) -> list[Any]:
    """matrix @ values. What a point p and its negative share, even powers and odd ones, is worked out once."""
    columns, terms = transposed(matrix), []
    k = 0
    while k < len(columns):
        if k + 1 < len(columns) and opposite(columns[k], columns[k + 1]):
            for value, sign in ((values[k] + values[k + 1], 1), (values[k] - values[k + 1], -1)):
                shared = [a if a == sign * b else 0 * a for a, b in zip(columns[k], columns[k + 1], strict=True)]
                terms.append((shared, value))
            k += 2
        else:
            terms.append((columns[k], values[k]))
            k += 1
    found, i = [], 0
    while i < len(matrix):
        here = [(column[i], value) for column, value in terms]
        if i + 1 < len(matrix) and opposite(matrix[i], matrix[i + 1]) and len(terms) == len(columns):
            even = combination([t for t, b in zip(here, matrix[i + 1], strict=True) if t[0] == b])
            odd = combination([t for t, b in zip(here, matrix[i + 1], strict=True) if t[0] != b])
            found += [even + odd, even - odd]
            i += 2
        else:
            found.append(combination(here))
            i += 1
    return found


def opposite(a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
    """True where two rows are the same numbers, some with the other sign and some not: those of p and -p."""
    signs = {x == y for x, y in zip(a, b, strict=True) if x}
    return [abs(x) for x in a] == [abs(y) for y in b] and signs == {True, False}


def combination(terms: Sequence[tuple[Fraction, Any]]) -> Any:
    """The sum of factor * value; a factor of one costs nothing, and another, after the first, one multiply-add."""
    terms = sorted([t for t in terms if t[0]], key=lambda t: t[0] != 1)
    (factor, value), *rest = terms
    total = value if factor == 1 else value * factor
    for factor, value in rest:
        total = total + value if factor == 1 else total - value if factor == -1 else total + value * factor
    return total


def sandwich(down: Matrix, grid: Sequence[Sequence[Any]], across: Matrix) -> list[list[Any]]:
    """down @ grid @ across': the columns first, then the rows."""
    return [apply(across, row) for row in transposed([apply(down, column) for column in transposed(list(grid))])]


# ---- the forms, and the code of their transforms


class Axis(NamedTuple):
    """F(outputs, taps) along one side of the window."""

    outputs: int
    taps: int

    @property
    def places(self) -> int:
        return self.outputs + self.taps - 1

    @property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix]:
        """A, G and B."""
        return matrices(self.outputs, self.taps, POINTS[self.places])


ONE = Axis(1, 1)


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


class Form(NamedTuple):
    """F(m, r) down the window, and another across it; `parts` of them one below the other where the window is longer."""

    down: Axis
    across: Axis
    parts: int = 1

    @property
    def places(self) -> tuple[int, int]:
        return self.down.places, self.across.places

    @property
    def outputs(self) -> tuple[int, int]:
        return self.down.outputs, self.across.outputs

    @property
    def taps(self) -> tuple[int, int]:
        return self.down.taps, self.across.taps


def square(outputs: int, taps: int) -> Form:
    return Form(Axis(outputs, taps), Axis(outputs, taps))


# The forms for a window, and from how many channels on: with fewer, the direct sum is so short that its error is less
# than half of the form's. A line of taps stands; for one that lies, height and width change places.
FORMS = {
    (3, 3): ((square(4, 3), 64), (square(3, 3), 16), (square(2, 3), 16)),
    (5, 5): ((square(2, 5), 16),),
    (3, 1): ((Form(Axis(4, 3), ONE), 16),),
    (7, 1): ((Form(Axis(3, 4), ONE, parts=2), 16),),
}
# Those for dw, from how many patches on. F(2x2, 5x5) transposed has three times the direct sum's error.
GRADIENT_FORMS = {
    (3, 3): ((square(4, 3), 64),),
    (3, 1): ((Form(Axis(4, 3), ONE), 64),),
    (7, 1): ((Form(Axis(3, 4), ONE, parts=2), 64),),
}

Grid = list[list[Any]]


class At:
    """Some channels of every pixel, tap or place, while code is written: `offset` bytes on, `count` or 16 of them."""

    def __init__(self, builder: Any, offset: Any, count: Any):
        self.b, self.offset, self.count = builder, offset, count

    def address(self, place: Any, step: Any = None, k: int = 0) -> Any:
        there = self.b.add(place, self.offset)
        return there if step is None else self.b.add(there, self.b.mul(step, ir.Constant(I64, k)))

    def load(self, shape: tuple[int, int], place: Any, step: Any) -> Grid:
        """A grid whose numbers stand `step` bytes apart."""
        rows, columns = shape
        return [[self.get(self.address(place, step, i * columns + j)) for j in range(columns)] for i in range(rows)]

    def gather(self, shape: tuple[int, int], table: Any) -> Grid:
        """A grid whose addresses stand in a table."""
        rows, columns = shape
        places = [[entry(self.b, table, i * columns + j) for j in range(columns)] for i in range(rows)]
        return [[self.get(self.address(place)) for place in row] for row in places]

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


# Each takes where it reads, where it writes, and where its sizes stand, as int64. Pixels and taps are reached by way of a
# table of addresses, row by row; the numbers of one place stand `step` bytes after those of the place before.


def transform_patch(form: Form, b: Any, pixels: Any, places: Any, sizes: Any) -> None:
    """B' d B. Sizes: channels, step."""
    channels, step = entry(b, sizes, 0), entry(b, sizes, 1)
    B = [transposed(axis.matrices[2]) for axis in form[:2]]

    def write(at: At) -> None:
        at.store(flat(sandwich(B[0], at.gather(form.places, pixels), B[1])), places, step)

    for_each_vector(b, channels, write)


def transform_filter(form: Form, b: Any, taps: Any, places: Any, sizes: Any) -> None:
    """G g G'. taps: a table of addresses, 0 for a tap beyond the window. Sizes: numbers side by side, the step of places."""
    count, step = entry(b, sizes, 0), entry(b, sizes, 1)
    G = [axis.matrices[1] for axis in form[:2]]

    def write(at: At) -> None:
        exist, grid = exists(b, form, taps), []
        for i in range(form.taps[0]):
            row = range(i * form.taps[1], (i + 1) * form.taps[1])
            grid.append([at.get(at.address(entry(b, taps, k)), exist[k]) for k in row])
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


def _one_row(axis: Axis, matrix: int, b: Any, row: Any, write: Callable[[list[Fraction]], None]) -> None:
    """The code that `write` makes of one row of B' or A: of number `row`, which is known when the code runs."""
    rows = axis.matrices[matrix]
    rows = transposed(rows) if matrix == 2 else rows
    end = b.append_basic_block("end")
    cases = b.switch(row, end)
    for k, factors in enumerate(rows):
        block = b.append_basic_block("row")
        cases.add_case(ir.Constant(I64, k), block)
        b.position_at_end(block)
        write(factors)
        b.branch(end)
    b.position_at_end(end)


def transform_patch_row(form: Form, b: Any, pixels: Any, places: Any, sizes: Any) -> None:
    """One row of B' d B. Sizes: channels, step, which row."""
    channels, step, row = (entry(b, sizes, k) for k in range(3))
    across = transposed(form.across.matrices[2])

    def case(factors: list[Fraction]) -> None:
        def write(at: At) -> None:
            at.store(flat(sandwich([factors], at.gather(form.places, pixels), across)), places, step)

        for_each_vector(b, channels, write)

    _one_row(form.down, 2, b, row, case)


def transform_gradient_row(form: Form, b: Any, pixels: Any, places: Any, sizes: Any) -> None:
    """One row of A dy A'. Sizes: channels, step, which row."""
    channels, step, row = (entry(b, sizes, k) for k in range(3))
    across = form.across.matrices[0]

    def case(factors: list[Fraction]) -> None:
        def write(at: At) -> None:
            at.store(flat(sandwich([factors], at.gather(form.outputs, pixels), across)), places, step)

        for_each_vector(b, channels, write)

    _one_row(form.down, 0, b, row, case)


def transform_sums(form: Form, b: Any, places: Any, taps: Any, sizes: Any) -> None:
    """dw += G' m G. taps: as in transform_filter. Sizes: numbers side by side, the step of places."""
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

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
rounded off the large ones stays. The points that textbooks take, 0, 1, -1, 2, -2, put 8 beside 1/24 into the matrices.
They are no law: what matters is that no power of a point is far from 1 and no two points are near each other. With
0, 2/3, -2/3, 3/2, -3/2, where each point has its inverse, the product over the points but zero is t^4 - 97/36 t^2 + 1,
and the error of F(4x4, 3x3) falls to less than half, below twice that of the direct sum: less than one of 24 bits for
four times fewer products. The rest is a matter of the sum over channels, which is of products as large as those: where
it is made in chains of 48 channels whose sums are added (patches.py), it loses less than the direct sum in one chain.
`python -m inception_np bench --winograd` makes this table: the rms error over that of the direct sum in one chain, all
float32 against float64, for 192 channels of random numbers with ReLU's zeros.

    form            products an output     points, and infinity             in one chain   in chains of 48
    F(2x2, 3x3)      4    of  9            0  1 -1                              0.74            0.43
    F(3x3, 3x3)      2.78 of  9            1/2 -1/2  5/4 -5/4                   1.31            0.75
    F(4x4, 3x3)      2.25 of  9            0  1 -1  2 -2                        3.98            2.15
    F(4x4, 3x3)      2.25 of  9            0  2/3 -2/3  3/2 -3/2                1.68            1.01
    F(6x6, 3x3)      1.78 of  9            0  3/5 -3/5  1 -1  2 -2              8.42            4.79
    F(2x2, 5x5)      9    of 25            0  2/3 -2/3  3/2 -3/2                1.31            0.72
    F(4, 3)          1.5  of  3            0  2/3 -2/3  3/2 -3/2                1.45            0.82
    F(3, 4)          2    of  4            0  2/3 -2/3  3/2 -3/2                1.16            0.78
    F(2, 7)          4    of  7            0  1/2 -1/2  1 -1  2 -2              2.09            1.19
    F(3, 7)          3    of  7            1/3 -1/3  2/3 -2/3  1 -1  5/2 -5/2   4.48            2.50

The forms that are taken have 4, 5 or 6 places; those of 6 share their points, and so B. Seven taps are done as two
parts of four, the last of them zero: F(3, 4) twice costs as many products as F(2, 7) and has half of its error. With
few channels the direct sum is so short that only the transforms' error counts, and that of F(4x4, 3x3) is above twice
the direct sum's: FORMS has from how many channels on a form is taken, so that it never is. `bench --layers` prints the
error of every layer and pass beside the direct sum's. One thing is no matter of size: a NaN or an infinity in a patch
leaves NaN in all outputs of the patch, also in those whose window it is not in.

Winograd 1980, "Arithmetic Complexity of Computations"; Toom 1963 and Cook 1966 for the product of polynomials; Lavin &
Gray 2016, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308; on points: Barabasz, Anderson,
Soodhalter & Gregg 2020, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks",
arXiv:1803.10986.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

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


def transposed(matrix: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Of a matrix, or of any grid."""
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
    return [apply(across, row) for row in transposed([apply(down, column) for column in transposed(grid)])]


# ---- the forms


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


class Form(NamedTuple):
    """F(m, r) down the window and another across it; a longer window has several `parts`, one below the other."""

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

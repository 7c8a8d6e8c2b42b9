"""Winograd's forms in exact fractions: the matrices against the definition of a convolution, and what applies them."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inception_np.kernels.cpu import winograd
from inception_np.kernels.cpu.winograd import (
    FORMS,
    GRADIENT_FORMS,
    ONE,
    POINTS,
    Axis,
    apply,
    matrices,
    sandwich,
    transposed,
)

fractions = st.fractions(min_value=-9, max_value=9, max_denominator=9)
ALL = {form for forms in (*FORMS.values(), *GRADIENT_FORMS.values()) for form, _ in forms}


def draw(rng, rows, columns):
    return [[Fraction(int(n), int(d)) for n, d in rng.integers(1, 99, (columns, 2))] for _ in range(rows)]


def plain(matrix, values):
    return [sum(a * v for a, v in zip(row, values, strict=True)) for row in matrix]


def times(a, b):
    return [[x * y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]


@pytest.mark.parametrize("form", sorted(ALL))
def test_a_form_is_a_convolution_and_its_transpose_the_gradient(form):
    """Exactly: y = sum over taps of d g, and dg = sum over outputs of d dy."""
    rng = np.random.default_rng(4)
    (A, G, B), (A2, G2, B2) = form.down.matrices, form.across.matrices
    d, g, dy = draw(rng, *form.places), draw(rng, *form.taps), draw(rng, *form.outputs)
    V = sandwich(transposed(B), d, transposed(B2))
    y = sandwich(transposed(A), times(sandwich(G, g, G2), V), transposed(A2))
    dg = sandwich(transposed(G), times(sandwich(A, dy, A2), V), transposed(G2))
    taps, outputs = (list(product(*map(range, n))) for n in (form.taps, form.outputs))
    for p, q in outputs:
        assert y[p][q] == sum(d[p + i][q + j] * g[i][j] for i, j in taps)
    for i, j in taps:
        assert dg[i][j] == sum(d[p + i][q + j] * dy[p][q] for p, q in outputs)


def test_one_wrong_point_is_seen(monkeypatch):
    """The test above can fail: with the points of one matrix in another order it does."""
    A, G, B = Axis(4, 3).matrices
    right = winograd.matrices

    def wrong(outputs, taps, points):
        return (A, G[1:2] + G[:1] + G[2:], B) if (outputs, taps) == (4, 3) else right(outputs, taps, points)

    monkeypatch.setattr(winograd, "matrices", wrong)
    with pytest.raises(AssertionError):
        test_a_form_is_a_convolution_and_its_transpose_the_gradient(winograd.square(4, 3))


@given(
    st.sampled_from([(Axis(m, r), k) for m, r in ((4, 3), (2, 5), (3, 4), (3, 3), (2, 3)) for k in range(3)]), st.data()
)
def test_apply_is_a_matrix_product(case, data):
    """Whichever rows and columns share their sums."""
    axis, k = case
    for matrix in (axis.matrices[k], transposed(axis.matrices[k])):
        n = len(matrix[0])
        values = data.draw(st.lists(fractions, min_size=n, max_size=n))
        assert apply(matrix, values) == plain(matrix, values)


@given(
    st.lists(st.lists(st.sampled_from([-2, -1, 0, 1, 2]), min_size=4, max_size=4), min_size=1, max_size=4), st.data()
)
def test_apply_is_a_matrix_product_for_any_small_matrix(rows, data):
    matrix = [[*map(Fraction, row[:-1]), Fraction(1)] for row in rows]  # (a row of zeros has no sum)
    values = data.draw(st.lists(fractions, min_size=4, max_size=4))
    assert apply(matrix, values) == plain(matrix, values)


def test_the_forms_of_six_places_share_their_points():
    """And so the matrix B: t^4 - 97/36 t^2 + 1 is the product over the points but zero."""
    shared = Axis(4, 3).matrices[2]
    assert Axis(2, 5).matrices[2] == shared == Axis(3, 4).matrices[2]
    assert [row[5] for row in shared] == [0, 1, 0, Fraction(-97, 36), 0, 1]


def test_points_are_counted():
    with pytest.raises(ValueError, match=r"F\(4, 3\): got 3 points, wanted 5"):
        matrices(4, 3, POINTS[4])
    assert ONE.matrices == ([[1]], [[1]], [[1]])

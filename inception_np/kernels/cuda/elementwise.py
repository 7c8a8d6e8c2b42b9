"""Launches of elementwise.cu; the functions are those of kernels/elementwise.py."""

from ...backend import Array, empty
from .launch import elements, joining, launch, reduction, result, rows


def relu(x: Array, out: Array | None):
    x, ldx = rows(x)
    y, ldy = result(out, x.shape, x)
    launch("elementwise.cu", "relu", elements(x.size), x, y, x.size, x.shape[-1], ldx, ldy)
    return y


def relu_dx(dy: Array, y: Array, add: Array | None):
    (dy, lddy), (y, ldy) = rows(dy), rows(y)
    dx, lddx = result(add, y.shape, y)
    args = (dy, y, dx, y.size, y.shape[-1], lddy, ldy, lddx, add is not None)
    launch("elementwise.cu", "relu_dx", elements(y.size), *args)
    return dx


def scaled_add(a: Array, b: Array, scale: float, out: Array | None):
    (a, lda), (b, ldb) = rows(a), rows(b)
    y, ldy = result(out, a.shape, a)
    launch("elementwise.cu", "scaled_add", elements(a.size), a, b, y, scale, a.size, a.shape[-1], lda, ldb, ldy)
    return y


def sum_rows(dy: Array, into: Array):
    dy, lddy = rows(dy)
    c = dy.shape[-1]
    count = dy.size // c
    ((across, _, parts), threads), _ = reduction(c, count)
    part = empty((parts, c), dy.dtype, dy)
    launch("elementwise.cu", "sum_rows", ((across, parts), threads), dy, part, count, c, lddy)
    sum_parts(part, into)


def sum_parts(part: Array, into: Array, add: bool = True):
    """into += the sum of part (parts, ...) over its first axis, or into = that sum."""
    launch("elementwise.cu", "sum_parts", joining(into.size, len(part)), part, into, len(part), into.size, add)

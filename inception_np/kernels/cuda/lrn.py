"""Launches of lrn.cu; the functions are those of kernels/lrn.py."""

from ...backend.arrays import Array
from .launch import elements, launch, result, rows


def lrn(x: Array, size: int, alpha: float, beta: float, k: float, out: Array | None) -> Array:
    """One pass, with no array of squares."""
    x, ldx = rows(x)
    y, ldy = result(out, x.shape, x)
    args = (x, y, x.size, x.shape[-1], ldx, ldy, size // 2, alpha, beta, k)
    launch("lrn.cu", "lrn", elements(x.size), *args)
    return y


def lrn_dx(dy: Array, x: Array, size: int, alpha: float, beta: float, k: float, into: Array | None) -> Array:
    """One pass, with no arrays of squares and sums."""
    (dy, lddy), (x, ldx) = rows(dy), rows(x)
    dx, lddx = result(into, x.shape, x)
    args = (dy, x, dx, x.size, x.shape[-1], lddy, ldx, lddx, size // 2, alpha, beta, k, into is not None)
    launch("lrn.cu", "lrn_dx", elements(x.size), *args)
    return dx

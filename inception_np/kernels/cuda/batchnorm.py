"""Launches of batchnorm.cu; the functions are those of kernels/batchnorm.py."""

import numpy as np

from ...backend.arrays import Array
from ...backend.program import empty
from ..batchnorm import Averages
from .launch import by_channels, elements, launch, result, rows, summing, tickets, variant, width


def statistics(x: Array, eps: float) -> tuple[Array, Array, Array]:
    """One launch. Squares are about the mean of a part of the rows, so that nothing cancels.

    Raises ValueError where x is empty.
    """
    if x.size == 0:
        raise ValueError(f"statistics: got an array of shape {x.shape}, which has no moments")
    c = x.shape[-1]
    count = x.size // c
    x, ldx = rows(x)
    vec = width((x,), (c, ldx))
    ((across, _), threads), parts = summing(c, count, vec)
    share = -(-count // parts)  # rows of each part but the last
    parts = -(-count // share)
    part, moments = empty((parts, 2, c), np.float32, x), empty((3, c), np.float32, x)
    args = (x, part, moments, tickets(across, x), eps, count, c, ldx, share)
    launch("batchnorm.cu", "moments", ((across, parts), threads), *args, options=variant(vec))
    return moments[0], moments[1], moments[2]


def reciprocal_deviation(var: Array, eps: float) -> Array:
    """One launch, where the array module makes two."""
    rstd = empty(var.shape, var.dtype, var)
    launch("batchnorm.cu", "reciprocal_deviation", elements(var.size), var, rstd, eps, var.size)
    return rstd


def batch_norm(
    x: Array, mean: Array, rstd: Array, gamma: Array | None, beta: Array, relu: bool, out: Array | None
) -> Array:
    """One pass from x to y, ReLU in it."""
    x, ldx = rows(x)
    y, ldy = result(out, x.shape, x)
    c = x.shape[-1]
    count = x.size // c
    values = (x, mean, rstd, gamma, beta, y)
    vec = width(values, (c, ldx, ldy))
    grid = by_channels(c, count, vec)
    launch("batchnorm.cu", "batch_norm", grid, *values, count, c, ldx, ldy, relu, options=variant(vec))
    return y


def batch_norm_backward(
    dy: Array,
    x: Array,
    mean: Array,
    var: Array,
    rstd: Array,
    gamma: Array | None,
    beta: Array,
    dgamma: Array | None,
    dbeta: Array,
    averages: Averages | None,
    relu: bool,
    out: Array | None,
) -> Array:
    """Two launches: the sums with all that follows from them for (C,) arrays, and dx."""
    c = x.shape[-1]
    count = x.size // c
    (dy, lddy), (x, ldx) = rows(dy), rows(x)
    dx, lddx = result(out, x.shape, x)
    values = (dy, x, mean, rstd, gamma, beta)
    sizes = (count, c, lddy, ldx)
    vec = width((*values, dx), (c, lddy, ldx, lddx))
    grid, parts = summing(c, count, vec)
    part = empty((parts, 2, c), np.float32, x)
    terms = None if averages is None else empty((2, c), np.float32, x)
    joined = (var, dgamma, dbeta, terms, *(averages or (None,) * 3))
    args = (*values, part, tickets(grid[0][0], x), *joined, *sizes, relu)
    launch("batchnorm.cu", "batch_norm_sums", grid, *args, options=variant(vec))
    grid = by_channels(c, count, vec)
    launch("batchnorm.cu", "batch_norm_dx", grid, *values, terms, dx, *sizes, lddx, relu, options=variant(vec))
    return dx

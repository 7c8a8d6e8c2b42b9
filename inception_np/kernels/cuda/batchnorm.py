"""Launches of batchnorm.cu; the functions are those of kernels/batchnorm.py."""

import numpy as np

from ...backend.arrays import Array
from ...backend.program import empty
from ..batchnorm import Averages
from .launch import by_channels, elements, joining, launch, result, rows, summing, variant, width


def statistics(x: Array, eps: float) -> tuple[Array, Array, Array]:
    """Two launches. Squares are about the mean of a part of the rows, so that nothing cancels."""
    c = x.shape[-1]
    count = x.size // c
    x, ldx = rows(x)
    vec = width((x,), (c, ldx))
    ((across, _), threads), parts = summing(c, count, vec)
    share = -(-count // parts)  # rows of each part but the last
    parts = -(-count // share)
    part = empty((parts, 2, c), np.float32, x)
    grid = (across, parts), threads
    launch("batchnorm.cu", "moments_parts", grid, x, part, count, c, ldx, share, options=variant(vec))
    return join_moments(part, count, share, eps)


def join_moments(part: Array, count: int, share: int, eps: float) -> tuple[Array, Array, Array]:
    """Mean, var and rstd of `count` rows from part (parts, 2, C): means, and squares about them, of `share` rows."""
    parts, _, c = part.shape
    mean, var, rstd = (empty((c,), np.float32, part) for _ in range(3))
    launch(
        "batchnorm.cu", "moments_join", joining(c, parts), part, mean, var, rstd, eps, count, 1 / count, c, share, parts
    )
    return mean, var, rstd


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
    """Three launches: the sums, all that follows from them for (C,) arrays, and dx."""
    c = x.shape[-1]
    count = x.size // c
    (dy, lddy), (x, ldx) = rows(dy), rows(x)
    dx, lddx = result(out, x.shape, x)
    values = (dy, x, mean, rstd, gamma, beta)
    sizes = (count, c, lddy, ldx)
    vec = width((*values, dx), (c, lddy, ldx, lddx))
    grid, parts = summing(c, count, vec)
    part = empty((parts, 2, c), np.float32, x)
    launch("batchnorm.cu", "batch_norm_sums", grid, *values, part, *sizes, relu, options=variant(vec))
    terms = None if averages is None else empty((2, c), np.float32, x)
    args = (part, mean, var, rstd, gamma, dgamma, dbeta, terms, *(averages or (None,) * 3), 1 / count, c, parts)
    launch("batchnorm.cu", "batch_norm_join", joining(c, parts), *args)
    grid = by_channels(c, count, vec)
    launch("batchnorm.cu", "batch_norm_dx", grid, *values, terms, dx, *sizes, lddx, relu, options=variant(vec))
    return dx

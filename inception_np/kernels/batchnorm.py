"""Batch normalisation of (N, H, W, C) arrays, forward and backward; the derivation is in layers/batchnorm.py.

With `relu`, ReLU is part of both: forward stores max(0, y), and backward lets dy through only where y > 0. It works
that out from x again, so that neither y nor a mask has to be kept.
"""

from ..backend.arrays import Array, array_module
from .dispatch import dispatch
from .elementwise import add_to, copy_to

NHW = (0, 1, 2)
# The running mean and variance, (C,) each, and their decay, (1,) of float64: kernels read it when they run.
Averages = tuple[Array, Array, Array]


@dispatch(gpu=False)
def moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, (C,) each, in two passes: mean first, then the mean square about it."""
    mean = x.mean(NHW)
    centred = x - mean
    return mean, (centred * centred).mean(NHW)


@dispatch
def reciprocal_deviation(var: Array, eps: float) -> Array:
    """1 / sqrt(var + eps), (C,)."""
    return (var + eps) ** -0.5


@dispatch(cpu=False)
def statistics(x: Array, eps: float) -> tuple[Array, Array, Array]:
    """mean, var = moments(x) and rstd = reciprocal_deviation(var, eps): on a GPU from one kernel."""
    mean, var = moments(x)
    return mean, var, reciprocal_deviation(var, eps)


@dispatch(double=True)
def batch_norm(
    x: Array,
    mean: Array,
    rstd: Array,
    gamma: Array | None,
    beta: Array,
    *,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """gamma * (x - mean) * rstd + beta, then ReLU if asked. gamma=None means 1."""
    xhat = (x - mean) * rstd
    y = xhat + beta if gamma is None else gamma * xhat + beta
    return copy_to(out, array_module(y).where(y.real <= 0, 0, y) if relu else y)


@dispatch(gpu=False, double=True)
def batch_norm_grad(
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    gamma: Array | None,
    beta: Array,
    *,
    relu: bool,
    train: bool,
    out: Array | None = None,
) -> tuple[Array, Array | None, Array]:
    """dx (N, H, W, C), dgamma (C,) or None, dbeta (C,). `out`, where dx goes, may be x itself.

    train: mean and rstd came from this x, so that dx has their terms too; otherwise they were constants.
    """
    xhat = (x - mean) * rstd
    if relu:
        y = xhat + beta if gamma is None else gamma * xhat + beta
        dy = array_module(dy).where(y.real > 0, dy, 0)
    dbeta = dy.sum(NHW)
    dgamma = None if gamma is None else (dy * xhat).sum(NHW)
    g = dy if gamma is None else gamma * dy
    dx = rstd * (g - g.mean(NHW) - xhat * (g * xhat).mean(NHW)) if train else rstd * g
    return copy_to(out, dx), dgamma, dbeta


@dispatch(gpu=False)
def move_running_averages(mean: Array, var: Array, averages: Averages) -> None:
    """average = decay * average + (1 - decay) * batch in place, for both statistics."""
    mean_average, var_average, decay = averages
    rate = (1 - decay).astype(mean.dtype)
    mean_average += rate * (mean - mean_average)
    var_average += rate * (var - var_average)


@dispatch(cpu=False)
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
    *,
    relu: bool,
    out: Array | None = None,
) -> Array:
    """All that a layer's backward does: dx of batch_norm_grad, after its dgamma and dbeta were added to these.

    averages: in training those that move; None where mean and rstd were constants. `out` may be x.
    On a GPU the sums of the gradients, the step of the averages and the coefficients of dx come from one kernel.
    """
    train = averages is not None
    dx, more_gamma, more_beta = batch_norm_grad(dy, x, mean, rstd, gamma, beta, relu=relu, train=train, out=out)
    add_to(dbeta, more_beta)
    add_to(dgamma, more_gamma)  # both None where there is no gamma
    if averages is not None:
        move_running_averages(mean, var, averages)
    return dx

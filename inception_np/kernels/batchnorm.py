"""The passes of batch normalisation over (N, H, W, C) arrays; the mathematics is in layers/batchnorm.py.

With `relu` the passes of ReLU ride along: forward stores max(0, y), and backward lets dy through only where y > 0,
which it finds again from x, so that neither y nor a mask need be kept.
"""

from ..backend import Array, array_module, compiled, copy_to, on_gpu
from .elementwise import add_to

NHW = (0, 1, 2)


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, (C,) each, in two passes: mean first, then the mean square about it."""
    if compiled(x):
        from .cpu import batchnorm as cpu

        return cpu.moments(x)
    mean = x.mean(NHW)
    centred = x - mean
    return mean, (centred * centred).mean(NHW)


def reciprocal_deviation(var: Array, eps: float) -> Array:
    """1 / sqrt(var + eps), (C,)."""
    if on_gpu(var):
        from .cuda import batchnorm as cuda

        return cuda.reciprocal_deviation(var, eps)
    if compiled(var):
        from .cpu import batchnorm as cpu

        return cpu.reciprocal_deviation(var, eps)
    return (var + eps) ** -0.5


def move_averages(mean_average: Array, var_average: Array, mean: Array, var: Array, decay: float | Array) -> None:
    """average = decay * average + (1 - decay) * batch in place, for both statistics, all (C,).

    decay: a number, or an array of one, which is read when the kernel runs.
    """
    if compiled(mean_average, var_average, mean, var):
        from .cpu import batchnorm as cpu

        return cpu.move_averages(mean_average, var_average, mean, var, decay)
    mean_average += (1 - decay) * (mean - mean_average)
    var_average += (1 - decay) * (var - var_average)


def statistics(x: Array, eps: float) -> tuple[Array, Array, Array]:
    """mean, var = moments(x) and rstd = reciprocal_deviation(var, eps): on a GPU from one kernel."""
    if on_gpu(x):
        from .cuda import batchnorm as cuda

        return cuda.statistics(x, eps)
    mean, var = moments(x)
    return mean, var, reciprocal_deviation(var, eps)


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
    if on_gpu(x):
        from .cuda import batchnorm as cuda

        return cuda.batch_norm(x, mean, rstd, gamma, beta, relu, out)
    if compiled(x, mean, rstd, gamma, beta, out):
        from .cpu import batchnorm as cpu

        return cpu.batch_norm(x, mean, rstd, gamma, beta, relu, out)
    return copy_to(out, _plain(x, mean, rstd, gamma, beta, relu))


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
    if compiled(x, dy, mean, rstd, gamma, beta, out):
        from .cpu import batchnorm as cpu

        return cpu.batch_norm_grad(dy, x, mean, rstd, gamma, beta, relu, train, out)
    dx, dgamma, dbeta = _plain_grad(dy, x, mean, rstd, gamma, beta, relu, train)
    return copy_to(out, dx), dgamma, dbeta


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
    averages: tuple[Array, Array, float | Array] | None,
    *,
    relu: bool,
    out: Array | None = None,
) -> Array:
    """All that a layer's backward does: dx of batch_norm_grad, after its dgamma and dbeta were added to these.

    averages: in training (mean, var, decay), which move; None where mean and rstd were constants. `out` may be x.
    On a GPU the sums of the gradients, the step of the averages and the coefficients of dx come from one kernel.
    """
    if on_gpu(x):
        from .cuda import batchnorm as cuda

        return cuda.batch_norm_backward(dy, x, mean, var, rstd, gamma, beta, dgamma, dbeta, averages, relu, out)
    train = averages is not None
    dx, more_gamma, more_beta = batch_norm_grad(dy, x, mean, rstd, gamma, beta, relu=relu, train=train, out=out)
    add_to(dbeta, more_beta)
    add_to(dgamma, more_gamma)  # both None where there is no gamma
    if averages is not None:
        mean_average, var_average, decay = averages
        move_averages(mean_average, var_average, mean, var, decay)
    return dx


def _plain(x, mean, rstd, gamma, beta, relu):
    xhat = (x - mean) * rstd
    y = xhat + beta if gamma is None else gamma * xhat + beta
    return array_module(y).where(y.real <= 0, 0, y) if relu else y


def _plain_grad(dy, x, mean, rstd, gamma, beta, relu, train):
    xhat = (x - mean) * rstd
    if relu:
        y = xhat + beta if gamma is None else gamma * xhat + beta
        dy = array_module(dy).where(y.real > 0, dy, 0)
    dbeta = dy.sum(NHW)
    dgamma = None if gamma is None else (dy * xhat).sum(NHW)
    g = dy if gamma is None else gamma * dy
    if not train:
        return rstd * g, dgamma, dbeta
    dx = rstd * (g - g.mean(NHW) - xhat * (g * xhat).mean(NHW))
    return dx, dgamma, dbeta

"""Batch normalisation."""

from typing import Any

import numpy as np

from ..backend import Array, Shape
from ..kernels.batchnorm import batch_norm, batch_norm_backward, reciprocal_deviation, statistics
from ..kernels.elementwise import add_to
from ..layer import Buffer, Layer, Mode, Param
from .check import check_between, check_count, check_dy, check_shape, check_weights, check_x


class BatchNorm(Layer):
    """Normalise each channel over the batch and the plane. Ioffe & Szegedy 2015, Algorithm 1.

        rstd = 1 / sqrt(var + eps)    xhat = (x - mean) * rstd    y = gamma * xhat + beta

    In training, mean and var are those of this batch, var = <(x - mean)^2> with <.> the mean over N, H and W, and both
    depend on every x. With g = gamma * dy,

        dbeta = sum dy    dgamma = sum dy * xhat    dx = rstd * (g - <g> - xhat * <g * xhat>)

    The two subtracted terms are the paths through mean and var: dx has no component along 1 and (up to eps) none along
    xhat, since y does not change when x is shifted or scaled. In inference, mean and var are the running averages,
    constants, and dx = rstd * g.

        running = decay * running + (1 - decay) * batch         (moved in backward, with the biased var)

    They move in backward so that a forward pass leaves no trace: finite differences and recomputation see an unchanged
    layer, and nothing is learned without a backward.

    x, y: (N, H, W, channels). gamma, beta and both running averages: (channels,). scale=False leaves gamma out, which
    loses nothing where a ReLU and another convolution follow (TF-slim's Inceptions). Other libraries' "momentum" is
    1 - decay. Raises ValueError for shapes, and in training for a single value per channel, whose y would be beta.
    """

    takes_out = True

    def __init__(self, channels: int, *, eps: float = 1e-3, decay: float = 0.99, scale: bool = True):
        channels = check_count("BatchNorm", "channels", channels)
        self.gamma = Param(np.ones(channels, np.float32)) if scale else None
        self.beta = Param(np.zeros(channels, np.float32))
        self.mean = Buffer(np.zeros(channels, np.float32))
        self.var = Buffer(np.ones(channels, np.float32))
        self.eps = check_between("BatchNorm", "eps", eps, 0, float("inf"))
        self.decay = check_between("BatchNorm", "decay", decay, 0, 1)

    def statistics(self, x: Array, mode: Mode, found: list[Array] | None = None) -> tuple[Array, Array, Array]:
        """The mean, var and rstd that y is made with. found: those of the batch, where they are known already."""
        if not mode.train:
            mean, var = self.mean.data, self.var.data
            return mean, var, reciprocal_deviation(var, self.eps)
        if x.shape[0] * x.shape[1] * x.shape[2] < 2:
            raise ValueError(f"BatchNorm: got x of shape {x.shape}, wanted more than one value per channel in training")
        mean, var, rstd = found or statistics(x, self.eps)
        return mean, var, rstd

    def apply(self, x: Array, mean: Array, rstd: Array, relu: bool, out: Array | None) -> Array:
        gamma = None if self.gamma is None else self.gamma.data
        return batch_norm(x, mean, rstd, gamma, self.beta.data, relu=relu, out=out)

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_x("BatchNorm", x, len(self.beta.data))
        check_weights("BatchNorm", x, self.beta.data)
        mean, var, rstd = self.statistics(x, mode)
        return self.apply(x, mean, rstd, False, out), (mean, var, rstd, mode.train)

    def backward(self, dy: Array, x: Array, cache: Any, into: Any = None) -> Any:
        dy = check_dy("BatchNorm", dy, x.shape, x.dtype)
        dx = self.gradient(dy, x, cache, relu=False)
        return add_to(into, dx)

    def gradient(self, dy: Array, x: Array, cache: Any, relu: bool, out: Array | None = None) -> Array:
        """dx, after the parameters' gradients were added to and the running averages moved."""
        mean, var, rstd, train = cache
        gamma, dgamma = (None, None) if self.gamma is None else (self.gamma.data, self.gamma.grad)
        beta, dbeta = self.beta.data, self.beta.grad
        averages = (self.mean.data, self.var.data, self.decay) if train else None
        args = (mean, var, rstd, gamma, beta, dgamma, dbeta, averages)
        return batch_norm_backward(dy, x, *args, relu=relu, out=out)

    def out_shape(self, shape: Shape) -> Shape:
        check_shape("BatchNorm", shape, len(self.beta.data))
        return shape

"""Batch normalisation."""

from typing import Any

import numpy as np

from ..backend.arrays import Array, Shape, array_module
from ..kernels.batchnorm import Averages, batch_norm, batch_norm_backward, reciprocal_deviation, statistics
from ..kernels.elementwise import add_to
from ..layer import Buffer, Layer, Mode, Param
from .check import check_between, check_count, check_dy, check_number, check_several, check_shape, check_weights


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
        self._decay = check_between("BatchNorm", "decay", decay, 0, 1)
        self.decay_array = np.array([self._decay])  # what kernels read when they run; CapturedStep has its own

    @property
    def decay(self) -> float:
        """May be assigned between steps; Replay and CapturedStep read the new value."""
        return self._decay

    @decay.setter
    def decay(self, value: float) -> None:
        if value != self._decay:
            self._decay = check_number("BatchNorm", "decay", value)
            self.decay_array[...] = self._decay

    def _arguments(self) -> dict[str, Any]:
        return {"channels": len(self.beta.data), "decay": self.decay, "scale": self.gamma is not None}

    def averages(self) -> Averages:
        """What moves in training: the running mean and variance, and their decay as an array on the same device."""
        mean, decay = self.mean.data, self.decay_array
        if array_module(decay) is not array_module(mean):  # on a GPU, one operation at a time
            decay = array_module(mean).full((1,), self._decay, np.float64)
        return mean, self.var.data, decay

    def learned(self) -> tuple[Array | None, Array, Array | None, Array]:
        """gamma, beta, dgamma, dbeta; without gamma, None in its place and its gradient's."""
        if self.gamma is None:
            return None, self.beta.data, None, self.beta.grad
        return self.gamma.data, self.beta.data, self.gamma.grad, self.beta.grad

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_weights("BatchNorm", x, self.beta.data)
        check_shape("BatchNorm", x.shape, len(self.beta.data))
        if mode.train:
            check_several("BatchNorm", x.shape)
            mean, var, rstd = statistics(x, self.eps)
        else:
            mean, var = self.mean.data, self.var.data
            rstd = reciprocal_deviation(var, self.eps)
        gamma, beta, _, _ = self.learned()
        return batch_norm(x, mean, rstd, gamma, beta, out=out), (mean, var, rstd, mode.train)

    def backward(self, dy: Array, x: Array, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        mean, var, rstd, train = cache
        dy = check_dy("BatchNorm", dy, x.shape, x.dtype)
        averages = self.averages() if train else None
        dx = batch_norm_backward(dy, x, mean, var, rstd, *self.learned(), averages, relu=False)
        return add_to(into, dx) if need_dx else None

    def out_shape(self, shape: Shape) -> Shape:
        check_shape("BatchNorm", shape, len(self.beta.data))
        return shape

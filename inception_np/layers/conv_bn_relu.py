"""Convolution, batch normalisation and ReLU as one unit: the brick that all Inceptions after the first are made of."""

from typing import Any

import numpy as np

from ..backend.arrays import Array, Shape
from ..compose import check_unused
from ..kernels.batchnorm import batch_norm, batch_norm_backward, reciprocal_deviation
from ..layer import Layer, Mode
from .batchnorm import BatchNorm
from .check import check_dy, check_kind, check_several
from .conv import Conv2D
from .init import Init, he_normal

INSTEAD = "Sequential(conv=..., bn=..., relu=ReLU()), which fuses nothing"
CONV, BN = ("in_channels", "out_channels", "kernel", "stride", "pad", "groups"), ("eps", "decay", "scale")


class ConvBNReLU(Layer):
    """y = relu(bn(z)), z = conv(x): the three layers composed, their mathematics in their own files.

    What is fused is the memory and the passes, not the definition. Only z is kept; y is made again from z when the next
    layer's backward asks for it (`recompute_output`). ReLU's mask, y > 0, is made again in batch norm's backward, which
    writes dz over z. Hence the cache is used once.

    Arguments are Conv2D's (without bias: beta takes its place) and BatchNorm's. x: (N, H, W, in_channels),
    y: (N, H', W', out_channels). Raises as they do. Children: conv, bn.
    """

    takes_out = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Any,
        *,
        stride: Any = 1,
        pad: Any = "same",
        groups: int = 1,
        eps: float = 1e-3,
        decay: float = 0.99,
        scale: bool = True,
        init: Init = he_normal,
        rng: np.random.Generator | None = None,
    ):
        self.conv = Conv2D(
            in_channels, out_channels, kernel, stride=stride, pad=pad, groups=groups, bias=False, init=init, rng=rng
        )
        self.bn = BatchNorm(out_channels, eps=eps, decay=decay, scale=scale)

    _parts = ("conv", "bn")

    def _arguments(self) -> dict[str, Any]:
        check_kind("ConvBNReLU", self.conv, Conv2D, INSTEAD)
        check_kind("ConvBNReLU", self.bn, BatchNorm, INSTEAD)
        told = {**vars(self.conv), **vars(self.bn), **self.conv._arguments(), **self.bn._arguments()}
        return {name: told[name] for name in (*CONV, *BN)}

    def recompute_output(self, kept: list[Any], out: Array | None = None) -> Array:
        z, (mean, _, rstd, _) = kept[0]
        gamma, beta, _, _ = self.bn.learned()
        return batch_norm(z, mean, rstd, gamma, beta, relu=True, out=out)

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, list[Any]]:
        conv, bn = self.conv, self.bn
        check_kind("ConvBNReLU", conv, Conv2D, INSTEAD)
        check_kind("ConvBNReLU", bn, BatchNorm, INSTEAD)
        if mode.train:
            z, mean, var, rstd = conv.forward_moments(x, bn.eps)
            check_several("BatchNorm", z.shape)
        else:
            z, _ = conv.forward(x, mode)
            mean, var = bn.mean.data, bn.var.data
            rstd = reciprocal_deviation(var, bn.eps)
        if out is None and not mode.keep:
            out = z
        gamma, beta, _, _ = bn.learned()
        y = batch_norm(z, mean, rstd, gamma, beta, relu=True, out=out)
        return y, [(z, (mean, var, rstd, mode.train))] if mode.keep else []

    def backward(self, dy: Array, x: Array, kept: list[Any], into: Array | None = None, need_dx: bool = True) -> Any:
        check_unused(kept, "ConvBNReLU")
        dy = check_dy("ConvBNReLU", dy, kept[0][0].shape, kept[0][0].dtype)
        z, (mean, var, rstd, train) = kept.pop()
        averages = self.bn.averages() if train else None
        dz = batch_norm_backward(dy, z, mean, var, rstd, *self.bn.learned(), averages, relu=True, out=z)
        return self.conv.backward(dz, x, None, into, need_dx)

    def out_shape(self, shape: Shape) -> Shape:
        return self.conv.out_shape(shape)

    def macs(self, shape: Shape) -> int:
        return self.conv.macs(shape)

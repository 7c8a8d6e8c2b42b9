"""Convolution, batch normalisation and ReLU as one unit: the brick that all Inceptions after the first are made of."""

from typing import Any

import numpy as np

from ..backend import Array, Shape
from ..compose import once
from ..init import Init, he_normal
from ..layer import Layer, Mode
from .batchnorm import BatchNorm
from .check import check_dy, check_kind
from .conv import Conv2D

INSTEAD = "Sequential(conv=..., bn=..., relu=ReLU()), which fuses nothing"


class ConvBNReLU(Layer):
    """y = relu(bn(z)), z = conv(x): the three layers composed, their mathematics in their own files.

    What is fused is the memory and the passes, not the definition. Only z is kept; y is made again from z when the next
    layer's backward asks for it (`output`), and ReLU's mask, y > 0, is made again in batch norm's backward, which
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
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            pad=pad,
            groups=groups,
            bias=False,
            init=init,
            rng=rng,
        )
        self.bn = BatchNorm(out_channels, eps=eps, decay=decay, scale=scale)

    def output(self, kept: list, out: Array | None = None) -> Array:  # type: ignore[override]
        z, (mean, _, rstd, _) = kept[0]
        return self.bn.apply(z, mean, rstd, True, out)

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, list]:
        check_kind("ConvBNReLU", self.conv, Conv2D, INSTEAD)
        check_kind("ConvBNReLU", self.bn, BatchNorm, INSTEAD)
        found = None
        if mode.train:
            z, *found = self.conv.forward_moments(x, self.bn.eps)
        else:
            z, _ = self.conv.forward(x, mode)
        mean, var, rstd = self.bn.statistics(z, mode, found)
        if not mode.keep:
            return self.bn.apply(z, mean, rstd, True, z if out is None else out), []
        return self.bn.apply(z, mean, rstd, True, out), [(z, (mean, var, rstd, mode.train))]

    def backward(self, dy: Array, x: Array, kept: list, into: Any = None) -> Any:
        once(kept, "ConvBNReLU")
        dy = check_dy("ConvBNReLU", dy, kept[0][0].shape, kept[0][0].dtype)
        z, statistics = kept.pop()
        dz = self.bn.gradient(dy, z, statistics, relu=True, out=z)
        return self.conv.backward(dz, x, None, into)

    def out_shape(self, shape: Shape) -> Shape:
        return self.conv.out_shape(shape)

    def macs(self, shape: Shape) -> int:
        return self.conv.macs(shape)

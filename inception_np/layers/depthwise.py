"""Depthwise convolution, and the separable convolution made of it."""

from typing import Any

import numpy as np

from ..backend.arrays import Array, Shape
from ..compose import Sequential
from ..kernels.depthwise import depthwise2d, depthwise2d_dw, depthwise2d_dx
from ..kernels.elementwise import sum_rows
from ..kernels.window import Pads, Pair, check_pad, out_size, pair, shortest
from ..layer import Layer, Mode, Param
from .check import check_count, check_dy, check_weights, sliding
from .conv import Conv2D
from .init import Init, generator, he_normal


class DepthwiseConv2D(Layer):
    """Every channel convolved on its own, with `multiplier` filters of its own (m below).

        y[n,p,q, c m + k] = b[c m + k] + sum_{i,j} x[n, p s + i d - t, q s + j d - l, c] w[i,j,c,k]

    The backward passes are those of Conv2D without the sum over channels:

        dx[n,h,k,c]  = sum over (p,i), (q,j) that meet pixel (h,k), and over the filters k of channel c, of dy w
        dw[i,j,c,k]  = sum_{n,p,q} dy[n,p,q, c m + k] x[n, p s + i d - t, q s + j d - l, c]

    x: (N, H, W, channels), y: (N, H', W', channels * multiplier), weight: (kh, kw, channels, multiplier), bias:
    (channels * multiplier,). kernel, stride, dilation, pad, init: as in Conv2D. Raises as Conv2D does.
    Sifre 2014, section 6.2; Chollet 2017, section 1.2.
    """

    takes_out = True
    cheap_to_recompute = True

    def __init__(
        self,
        channels: int,
        kernel: Any,
        *,
        multiplier: int = 1,
        stride: Any = 1,
        pad: Any = "same",
        dilation: Any = 1,
        bias: bool = False,
        init: Init = he_normal,
        rng: np.random.Generator | None = None,
    ):
        who = "DepthwiseConv2D"
        self.channels = check_count(who, "channels", channels)
        self.multiplier = check_count(who, "multiplier", multiplier)
        self.kernel = pair(kernel, f"{who}: kernel")
        self.stride = pair(stride, f"{who}: stride")
        self.dilation = pair(dilation, f"{who}: dilation")
        self.pad = check_pad(pad, who)
        taps = self.kernel[0] * self.kernel[1]
        shape = (*self.kernel, self.channels, self.multiplier)
        self.weight = Param(init(generator(rng), shape, taps, taps * self.multiplier))
        self.bias = Param(np.zeros(channels * multiplier, np.float32)) if bias else None

    def _arguments(self) -> dict[str, Any]:
        return {name: shortest(vars(self)[name]) for name in ("kernel", "stride", "pad", "dilation")}

    def _geometry(self, shape: Shape) -> tuple[Pair, Pads, Pair]:
        """What every kernel takes after its arrays, for an x of this shape. Raises ValueError for another shape."""
        window = self.kernel, self.stride, self.pad, self.dilation
        pads, _ = sliding("DepthwiseConv2D", shape, self.channels, *window)
        return self.stride, pads, self.dilation

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_weights("DepthwiseConv2D", x, self.weight.data)
        bias = None if self.bias is None else self.bias.data
        return depthwise2d(x, self.weight.data, bias, *self._geometry(x.shape), out=out), None

    def backward(self, dy: Array, x: Array, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        dy = check_dy("DepthwiseConv2D", dy, self.out_shape(x.shape), x.dtype)
        geometry = self._geometry(x.shape)
        if self.bias is not None:
            sum_rows(dy, self.bias.grad)
        depthwise2d_dw(x, dy, self.weight.grad, *geometry)
        if not need_dx:
            return None
        return depthwise2d_dx(dy, self.weight.data, x.shape, *geometry, into=into)

    def out_shape(self, shape: Shape) -> Shape:
        hw = out_size(shape[1:3], self.kernel, *self._geometry(shape))
        return (shape[0], *hw, self.channels * self.multiplier)

    def macs(self, shape: Shape) -> int:
        _, h, w, _ = self.out_shape(shape)
        return h * w * int(self.weight.data.size)


class SeparableConv2D(Sequential):
    """A depthwise convolution in space, then a pointwise (1x1) one across channels. Chollet 2017, section 1.2.

    `between` is a layer between the two, none in the paper (its figure 10 shows what ReLU and ELU there cost).
    x: (N, H, W, in_channels), y: (N, H', W', out_channels). No biases. Children: depthwise, between, pointwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Any,
        *,
        stride: Any = 1,
        pad: Any = "same",
        between: Layer | None = None,
        init: Init = he_normal,
        rng: np.random.Generator | None = None,
    ):
        rng = generator(rng)
        depthwise = DepthwiseConv2D(in_channels, kernel, stride=stride, pad=pad, init=init, rng=rng)
        pointwise = Conv2D(in_channels, out_channels, 1, bias=False, init=init, rng=rng)
        middle = {} if between is None else {"between": between}
        super().__init__(depthwise=depthwise, **middle, pointwise=pointwise)

    _parts = ("depthwise", "between", "pointwise")

    def _arguments(self) -> dict[str, Any]:
        depthwise, pointwise = self.layers["depthwise"], self.layers["pointwise"]
        window = {name: shortest(vars(depthwise)[name]) for name in ("kernel", "stride", "pad")}
        channels = {name: vars(pointwise)[name] for name in ("in_channels", "out_channels")}
        return {**channels, **window, "between": self.layers.get("between")}

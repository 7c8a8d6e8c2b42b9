"""Convolution over two dimensions."""

from typing import Any

import numpy as np

from ..backend.arrays import Array, Shape
from ..kernels.conv import conv2d, conv2d_dw, conv2d_dx, conv2d_moments
from ..kernels.elementwise import copy_to, relu_dx, sum_rows
from ..kernels.window import Pads, Pair, check_pad, out_size, pair, shortest
from ..layer import Buffer, Layer, Mode, Param
from .check import check_count, check_dy, check_weights, sliding
from .init import Init, generator, he_normal


class Conv2D(Layer):
    """A filter slides over the image; each output pixel is one inner product per output channel.

    With stride s, dilation d and t rows and l columns of zeros above and left of the image,

        y[n,p,q,o] = b[o] + sum_{i,j,c} x[n, p s + i d - t, q s + j d - l, c] w[i,j,c,o]

    (a cross-correlation: the filter is not flipped, as in all of these papers). It is linear in x and in w, so both
    gradients are the same sum with the roles exchanged:

        dx[n,h,k,c] = sum over the (p,i), (q,j) with  p s + i d - t = h,  q s + j d - l = k,  and o  of
                      dy[n,p,q,o] w[i,j,c,o]
        dw[i,j,c,o] = sum_{n,p,q} dy[n,p,q,o] x[n, p s + i d - t, q s + j d - l, c]
        db[o]       = sum_{n,p,q} dy[n,p,q,o]

    With `groups` g, the channels are cut into g parts, and each part of the output sees only its part of the input.

    x: (N, H, W, in_channels), y: (N, H', W', out_channels), weight: (kh, kw, in_channels // groups, out_channels),
    bias: (out_channels,). kernel, stride, dilation: an int or (h, w). pad: an int, (h, w), ((top, bottom),
    (left, right)), "same" or "valid" (kernels/window.py). init: how the weights are drawn (init.py).
    Raises ValueError for shapes and values, TypeError for types, ImageTooSmall where the filter does not fit.
    LeCun et al. 1998, section 2; dilation: Yu & Koltun 2016, equation 2; groups: Krizhevsky et al. 2012, section 3.5.
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
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        init: Init = he_normal,
        rng: np.random.Generator | None = None,
    ):
        who = type(self).__name__
        cin = check_count(who, "in_channels", in_channels)
        cout = check_count(who, "out_channels", out_channels)
        self.kernel = pair(kernel, f"{who}: kernel")
        self.stride = pair(stride, f"{who}: stride")
        self.dilation = pair(dilation, f"{who}: dilation")
        self.pad = check_pad(pad, who)
        self.groups = check_count(who, "groups", groups)
        if cin % groups or cout % groups:
            raise ValueError(f"{who}: got groups={groups}, wanted a divisor of {cin} and of {cout} channels")
        self.in_channels, self.out_channels = cin, cout
        taps = self.kernel[0] * self.kernel[1]
        shape = (*self.kernel, cin // groups, cout)
        draw = init(generator(rng), shape, taps * cin // groups, taps * cout // groups)
        self.weight: Param | Buffer = Param(draw)  # a Buffer is not learned (whitening.py)
        self.bias = Param(np.zeros(cout, np.float32)) if bias else None

    def _arguments(self) -> dict[str, Any]:
        return {name: shortest(vars(self)[name]) for name in ("kernel", "stride", "pad", "dilation")}

    def _geometry(self, shape: Shape) -> tuple[Pair, Pads, Pair, int]:
        """What every kernel takes after its arrays, for an x of this shape. Raises ValueError for another shape."""
        window = self.kernel, self.stride, self.pad, self.dilation
        pads, _ = sliding(type(self).__name__, shape, self.in_channels, *window)
        return self.stride, pads, self.dilation, self.groups

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_weights(type(self).__name__, x, self.weight.data)
        bias = None if self.bias is None else self.bias.data
        return conv2d(x, self.weight.data, bias, *self._geometry(x.shape), out=out), None

    def forward_moments(self, x: Array, eps: float) -> tuple[Array, Array, Array, Array]:
        """y without bias, and its mean, var and rstd per channel: what a batch norm that follows asks for."""
        check_weights(type(self).__name__, x, self.weight.data)
        return conv2d_moments(x, self.weight.data, *self._geometry(x.shape), eps=eps)

    def backward(self, dy: Array, x: Array, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        dy = check_dy(type(self).__name__, dy, self.out_shape(x.shape), x.dtype)
        geometry = self._geometry(x.shape)
        if self.bias is not None:
            sum_rows(dy, self.bias.grad)
        if isinstance(self.weight, Param):
            conv2d_dw(x, dy, self.weight.grad, *geometry)
        if not need_dx:
            return None
        return conv2d_dx(dy, self.weight.data, x.shape, *geometry, into=into)

    def out_shape(self, shape: Shape) -> Shape:
        stride, pads, dilation, _ = self._geometry(shape)
        return (shape[0], *out_size(shape[1:3], self.kernel, stride, pads, dilation), self.out_channels)

    def macs(self, shape: Shape) -> int:
        _, h, w, _ = self.out_shape(shape)
        return h * w * int(self.weight.data.size)


class ConvReLU(Conv2D):
    """y = max(0, conv(x)), the unit of GoogLeNet: bias and ReLU are done as the convolution stores its result.

    Arguments and shapes are Conv2D's. The cache is y, which is the next layer's x and costs nothing to keep.
    """

    takes_out = True

    def recompute_output(self, y: Array, out: Array | None = None) -> Array:
        return copy_to(out, y)

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_weights(type(self).__name__, x, self.weight.data)
        bias = None if self.bias is None else self.bias.data
        y = conv2d(x, self.weight.data, bias, *self._geometry(x.shape), relu=True, out=out)
        return y, y

    def backward(self, dy: Array, x: Array, y: Array, into: Array | None = None, need_dx: bool = True) -> Any:
        dy = check_dy("ConvReLU", dy, y.shape, y.dtype)
        return super().backward(relu_dx(dy, y), x, None, into, need_dx)

"""The fully connected layer, and multiplication by a constant."""

from typing import Any

import numpy as np

from ..backend.arrays import Array, Shape
from ..kernels.elementwise import add_to, scaled, sum_rows
from ..kernels.linear import linear, linear_dw, linear_dx
from ..layer import Layer, Mode, Param
from .check import check_count, check_dy, check_floating, check_number, check_weights
from .init import Init, generator, glorot_uniform


class Linear(Layer):
    """y = x w + b.

        dx = dy w^T        dw = x^T dy        db = sum_n dy[n]

    x: (N, in_features), y: (N, out_features), weight: (in_features, out_features), bias: (out_features,).
    Raises ValueError for other shapes, TypeError for other types.
    """

    takes_out = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        init: Init = glorot_uniform,
        rng: np.random.Generator | None = None,
    ):
        n_in = check_count("Linear", "in_features", in_features)
        n_out = check_count("Linear", "out_features", out_features)
        self.weight = Param(init(generator(rng), (n_in, n_out), n_in, n_out))
        self.bias = Param(np.zeros(n_out, np.float32)) if bias else None

    def _arguments(self) -> dict[str, Any]:
        return dict(zip(("in_features", "out_features"), self.weight.data.shape, strict=True))

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_weights("Linear", x, self.weight.data)
        self.out_shape(x.shape)
        return linear(x, self.weight.data, None if self.bias is None else self.bias.data, out=out), None

    def backward(self, dy: Array, x: Array, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        dy = check_dy("Linear", dy, self.out_shape(x.shape), x.dtype)
        if self.bias is not None:
            sum_rows(dy, self.bias.grad)
        linear_dw(x, dy, self.weight.grad)
        return linear_dx(dy, self.weight.data, into=into) if need_dx else None

    def out_shape(self, shape: Shape) -> Shape:
        n_in, n_out = self.weight.data.shape
        if len(shape) != 2 or shape[1] != n_in:
            raise ValueError(f"Linear: got x of shape {tuple(shape)}, wanted (N, {n_in})")
        return shape[0], n_out

    def macs(self, shape: Shape) -> int:
        return int(self.weight.data.size)


class Scale(Layer):
    """y = s x, with a number s that is not learned.        dx = s dy

    After a linear layer, whose weights then have to be 1 / s times as large for the same y, a small s makes gradient
    descent slower by s^2. x, y: any shape. The cache is x's shape and dtype.
    """

    reads_x = False
    takes_out = True

    def __init__(self, scale: float):
        self.scale = float(check_number("Scale", "scale", scale))

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_floating("Scale", x)
        return scaled(x, self.scale, out=out), (x.shape, x.dtype)

    def backward(self, dy: Array, x: Any, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        dy = check_dy("Scale", dy, *cache)
        return add_to(into, scaled(dy, self.scale)) if need_dx else None

    def out_shape(self, shape: Shape) -> Shape:
        return shape

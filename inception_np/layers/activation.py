"""ReLU, ELU and dropout: layers that let part of their input through."""

from typing import Any

import numpy as np

from ..backend.arrays import Array, Shape, array_module
from ..kernels.elementwise import add_to, copy_to, relu, relu_dx
from ..kernels.philox import dropout, dropout_dx
from ..layer import Layer, Mode
from .check import check_between, check_dy, check_floating


class ReLU(Layer):
    """y = max(0, x). Nair & Hinton 2010.

        dx = dy where x > 0, else 0         (the slope at 0 is 0)

    x > 0 where y > 0, so y serves as the cache: it is the next layer's x anyway. x, y: any shape.
    """

    reads_x = False
    takes_out = True

    def recompute_output(self, y: Array, out: Array | None = None) -> Array:
        return copy_to(out, y)

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_floating("ReLU", x)
        y = relu(x, out=out)
        return y, y

    def backward(self, dy: Array, x: Any, y: Array, into: Array | None = None, need_dx: bool = True) -> Any:
        dy = check_dy("ReLU", dy, y.shape, y.dtype)
        return relu_dx(dy, y, into=into) if need_dx else None

    def out_shape(self, shape: Shape) -> Shape:
        return shape


class ELU(Layer):
    """y = x where x > 0, else exp(x) - 1. Clevert et al. 2016, equation 15 with alpha = 1.

        dx = dy where x > 0, else dy * exp(x) = dy * (y + 1)

    x > 0 where y > 0, so y serves as the cache. x, y: any shape.
    """

    reads_x = False
    takes_out = True

    def recompute_output(self, y: Array, out: Array | None = None) -> Array:
        return copy_to(out, y)

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_floating("ELU", x)
        xp, above = array_module(x), x.real > 0
        y = xp.where(above, x, xp.exp(xp.where(above, xp.zeros_like(x), x)) - 1)
        y = copy_to(out, y.astype(x.dtype, copy=False))  # CuPy's where makes float32 of bfloat16
        return y, y

    def backward(self, dy: Array, x: Any, y: Array, into: Array | None = None, need_dx: bool = True) -> Any:
        dy = check_dy("ELU", dy, y.shape, y.dtype)
        if not need_dx:
            return None
        return add_to(into, array_module(y).where(y.real > 0, dy, dy * (y + 1)).astype(dy.dtype, copy=False))

    def out_shape(self, shape: Shape) -> Shape:
        return shape


class Dropout(Layer):
    """In training, set each entry to 0 with probability `rate` and divide the rest by 1 - rate. Srivastava et al. 2014.

        y = m * x,    m = 0 with probability rate, else 1 / (1 - rate)         dx = m * dy

    so that the mean of y is x and inference (y = x) needs no correction. The mask m is drawn from mode.rng, one float32
    per entry: the same generator state gives the same mask on every device. The cache is the mask as bytes, and x's
    shape and dtype. x, y: any shape. rate: the fraction dropped, 0 <= rate < 1. Raises ValueError for another rate,
    and in training where mode.rng is None.
    """

    reads_x = False
    takes_out = True

    def __init__(self, rate: float):
        self.rate = check_between("Dropout", "rate", rate, 0, 1)

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_floating("Dropout", x)
        if not mode.train or self.rate == 0:
            return copy_to(out, x), (None, x.shape, x.dtype)
        if mode.rng is None:
            raise ValueError("Dropout: got mode.rng=None, wanted a numpy Generator, as in Mode(train=True, rng=...)")
        if not isinstance(mode.rng, np.random.Generator):
            raise TypeError(f"Dropout: got mode.rng={mode.rng!r}, wanted a numpy Generator")
        y, kept = dropout(x, mode.rng, self.rate, out=out)
        return y, (kept, x.shape, x.dtype)

    def backward(self, dy: Array, x: Any, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        kept, shape, dtype = cache
        dy = check_dy("Dropout", dy, shape, dtype)
        if not need_dx:
            return None
        return add_to(into, dy) if kept is None else dropout_dx(dy, kept, self.rate, into=into)

    def out_shape(self, shape: Shape) -> Shape:
        return shape

"""The vector-Jacobian product: what a backward pass computes, of a network that nobody is training.

    y = f(x)        dx = J(x)^T dy,    J_ij = d y_i / d x_j

With dy = 1 at one output and 0 elsewhere, dx is that output's gradient: one row of J for the price of two passes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..backend.arrays import Array, array_module
from ..layer import Buffer, Layer, Mode, named_params, of_kind, walk
from ..layers.conv import Conv2D, ConvReLU


def vjp(net: Layer, x: Array, dy_of: Callable[[Array], Array]) -> Array:
    """dx for dy = dy_of(y), in inference: running averages normalise, and dropout is off. The network stays as it is.

    x, dx: (N, H, W, C).
    """
    with constant_weights(net):
        y, cache = net.forward(x, Mode(keep=True))
        dx: Array = net.backward(dy_of(y), x, cache)
        return dx


@contextmanager
def constant_weights(net: Layer) -> Iterator[None]:
    """Within the `with`, backward makes no gradients of convolutions' weights, a third of all its work.

    What it adds to other parameters' gradients is thrown away: every Param.grad is what it was.
    """
    params = list(named_params(net).values())
    gradients = [p.grad for p in params]
    layers = {id(layer): layer for _, layer in [("", net), *walk(net)]}.values()
    convolutions = [layer for layer in layers if of_kind(layer, Conv2D, ConvReLU)]
    weights = [conv.weight for conv in convolutions]
    try:
        for conv in convolutions:
            conv.weight = Buffer(conv.weight.data)
        for p in named_params(net).values():
            p.grad = array_module(p.data).zeros_like(p.data)
        yield
    finally:
        for conv, weight in zip(convolutions, weights, strict=True):
            conv.weight = weight
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient

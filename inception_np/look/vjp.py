"""The vector-Jacobian product: what a backward pass computes, of a network that nobody is training.

    y = f(x)        dx = J(x)^T dy,    J_ij = d y_i / d x_j

With dy = 1 at one output and 0 elsewhere, dx is that output's gradient: one row of J for the price of two passes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..backend.arrays import Array, array_module
from ..layer import Layer, Mode, named_params


def vjp(net: Layer, x: Array, dy_of: Callable[[Array], Array]) -> Array:
    """dx for dy = dy_of(y), in inference: running averages normalise, and dropout is off. The network stays as it is.

    x, dx: (N, H, W, C).
    """
    with spare_gradients(net):
        y, cache = net.forward(x, Mode(keep=True))
        dx: Array = net.backward(dy_of(y), x, cache)
        return dx


@contextmanager
def spare_gradients(net: Layer) -> Iterator[None]:
    """Within the `with`, backward adds to arrays that are then thrown away, and every Param.grad is what it was."""
    params = list(named_params(net).values())
    own = [p.grad for p in params]
    try:
        for p in params:
            p.grad = array_module(p.data).zeros_like(p.data)
        yield
    finally:
        for p, grad in zip(params, own, strict=True):
            p.grad = grad

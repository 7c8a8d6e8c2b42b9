"""ReLU, sums and copies of whole arrays, and the sum that a bias gradient is."""

from ..backend.arrays import Array, array_module
from .dispatch import dispatch


def add_to(into: Array | None, dx: Array) -> Array:
    """dx as it is, or `into` after dx was added to it."""
    return dx if into is None else add(into, dx)


def copy_to(out: Array | None, y: Array) -> Array:
    """y itself, or `out` after y was written there."""
    return y if out is None else copy(y, out)


@dispatch(cpu=lambda into, dx: into.shape == dx.shape)
def add(into: Array, dx: Array) -> Array:
    """into, after dx was added to it."""
    into += dx
    return into


@dispatch(cpu=lambda x, out: x.shape == out.shape)
def copy(x: Array, out: Array) -> Array:
    """out, after x was written there."""
    out[...] = x
    return out


@dispatch
def scaled(x: Array, scale: float, *, out: Array | None = None) -> Array:
    """scale * x, in x's shape."""
    return copy_to(out, scale * x)


@dispatch
def relu(x: Array, *, out: Array | None = None) -> Array:
    """y = 0 where x <= 0, else x, in x's shape. So a NaN stays NaN, and minus infinity becomes 0."""
    return copy_to(out, array_module(x).where(x.real <= 0, 0, x))


@dispatch
def relu_dx(dy: Array, y: Array, *, into: Array | None = None) -> Array:
    """dy where y > 0, else 0; the slope at 0 is 0."""
    dx: Array = add_to(into, array_module(dy).where(y.real > 0, dy, 0))
    return dx


@dispatch
def scaled_add(a: Array, b: Array, scale: float, *, out: Array | None = None) -> Array:
    """a + scale * b, of equal shapes."""
    return copy_to(out, a + b if scale == 1 else a + scale * b)


@dispatch
def sum_rows(dy: Array, into: Array) -> None:
    """The sum of dy (..., C) over all axes but the last, added into `into` (C,)."""
    into += dy.reshape(-1, dy.shape[-1]).sum(0)

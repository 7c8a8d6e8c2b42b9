"""Rows times a matrix: y = x w + b with x (N, in), w (in, out), b (out,) or None, and its two adjoints.

On a GPU these are the array module's matrix products where `precision` is float32 (backend/device.py).
"""

from ..backend import device
from ..backend.arrays import Array
from .dispatch import dispatch
from .elementwise import add_to, copy_to


def tensor_cores() -> bool:
    """True where products run on tensor cores."""
    return device.precision != "float32"


@dispatch(gpu=tensor_cores)
def linear(x: Array, w: Array, bias: Array | None, *, out: Array | None = None) -> Array:
    """y (N, out)."""
    y = x @ w
    if bias is not None:
        y += bias
    return copy_to(out, y)


@dispatch(gpu=tensor_cores)
def linear_dx(dy: Array, w: Array, *, into: Array | None = None) -> Array:
    """dx = dy w^T (N, in), or added to `into`."""
    return add_to(into, dy @ w.T)


@dispatch(gpu=tensor_cores)
def linear_dw(x: Array, dy: Array, dw: Array) -> None:
    """x^T dy, added into dw (in, out)."""
    dw += x.T @ dy

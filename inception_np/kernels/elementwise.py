"""ReLU, sums and copies of whole arrays, and the sum that a bias gradient is."""

from .. import backend
from ..backend import Array, array_module, compiled, on_gpu


def add_to(into: Array | bool | None, dx: Array) -> Array | None:
    """Hand dx to whoever asked: as it is (None), added to their array, or not at all (False)."""
    if into is None or into is False or not _has_kernel(into, dx):
        return backend.add_to(into, dx)
    return scaled_add(into, dx, 1.0, out=into)


def copy_to(out: Array | None, y: Array) -> Array:
    """y itself, or `out` after y was written there."""
    if out is None or not _has_kernel(out, y):
        return backend.copy_to(out, y)
    return scaled(y, 1.0, out=out)


def _has_kernel(out: Array, y: Array) -> bool:
    """Is there a kernel that writes y to `out`, or adds it there?"""
    if on_gpu(out):
        from .cuda import elementwise as cuda

        return cuda.may_write(out, y)
    return compiled(out, y, fits=out.shape == y.shape)


def scaled(x: Array, scale: float, *, out: Array | None = None) -> Array:
    """scale * x, in x's shape."""
    if on_gpu(x):
        from .cuda import elementwise as cuda

        return cuda.scaled(x, scale, out)
    if compiled(x, out):
        from .cpu import elementwise as cpu

        return cpu.scaled(x, scale, out)
    return backend.copy_to(out, scale * x)


def relu(x: Array, *, out: Array | None = None) -> Array:
    """y = 0 where x <= 0, else x, in x's shape. So a NaN stays NaN, and minus infinity becomes 0."""
    if on_gpu(x):
        from .cuda import elementwise as cuda

        return cuda.relu(x, out)
    if compiled(x, out):
        from .cpu import elementwise as cpu

        return cpu.relu(x, out)
    return backend.copy_to(out, array_module(x).where(x.real <= 0, 0, x))


def relu_dx(dy: Array, y: Array, *, add: Array | None = None) -> Array:
    """dy where y > 0, else 0; the slope at 0 is 0."""
    if on_gpu(dy):
        from .cuda import elementwise as cuda

        return cuda.relu_dx(dy, y, add)
    if compiled(dy, y, add):
        from .cpu import elementwise as cpu

        return cpu.relu_dx(dy, y, add)
    return backend.add_to(add, array_module(dy).where(y.real > 0, dy, 0))  # type: ignore[return-value]


def scaled_add(a: Array, b: Array, scale: float, *, out: Array | None = None) -> Array:
    """a + scale * b, of equal shapes."""
    if on_gpu(a):
        from .cuda import elementwise as cuda

        return cuda.scaled_add(a, b, scale, out)
    if compiled(a, b, out):
        from .cpu import elementwise as cpu

        return cpu.scaled_add(a, b, scale, out)
    return backend.copy_to(out, a + b if scale == 1 else a + scale * b)


def sum_rows(dy: Array, into: Array) -> None:
    """The sum of dy (..., C) over all axes but the last, added into `into` (C,)."""
    if on_gpu(dy):
        from .cuda import elementwise as cuda

        return cuda.sum_rows(dy, into)
    if compiled(dy, into):
        from .cpu import elementwise as cpu

        return cpu.sum_rows(dy, into)
    into += dy.reshape(-1, dy.shape[-1]).sum(0)

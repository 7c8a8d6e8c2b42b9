"""Rows times a matrix: y = x w + b with x (N, in), w (in, out), b (out,) or None, and its two adjoints."""

from ..backend import Array, add_to, compiled, copy_to, on_tensor_cores


def linear(x: Array, w: Array, bias: Array | None, *, out: Array | None = None) -> Array:
    """y (N, out)."""
    if on_tensor_cores(x):
        from .cuda import conv as cuda

        return cuda.linear(x, w, bias, out)
    if compiled(x, w, bias, out):
        from .cpu import linear as cpu

        return cpu.linear(x, w, bias, out)
    y = x @ w
    if bias is not None:
        y += bias
    return copy_to(out, y)


def linear_dx(dy: Array, w: Array, *, add: Array | None = None) -> Array:
    """dx = dy w^T (N, in), or added to `add`."""
    if on_tensor_cores(dy):
        from .cuda import conv as cuda

        return cuda.linear_dx(dy, w, add)
    if compiled(dy, w, add):
        from .cpu import linear as cpu

        return cpu.linear_dx(dy, w, add)
    return add_to(add, dy @ w.T)  # type: ignore[return-value]


def linear_dw(x: Array, dy: Array, dw: Array) -> None:
    """x^T dy, added into dw (in, out)."""
    if on_tensor_cores(x):
        from .cuda import conv as cuda

        return cuda.linear_dw(x, dy, dw)
    if compiled(x, dy, dw):
        from .cpu import linear as cpu

        return cpu.linear_dw(x, dy, dw)
    dw += x.T @ dy

"""Sums over a window of neighbouring channels, and local response normalisation made of them (layers/lrn.py)."""

from ..backend import Array, compiled, copy_to, on_gpu

POWERS = (0.5, 0.75, 1.0)  # the exponents that the compiled kernels make of square roots


def channel_window_sum(x: Array, size: int) -> Array:
    """s[..., c] = sum of x[..., j] over |j - c| <= size // 2, size odd. x, s: (N, H, W, C)."""
    s = x.copy()
    for d in range(1, size // 2 + 1):
        s[..., d:] += x[..., :-d]
        s[..., :-d] += x[..., d:]
    return s


def lrn(x: Array, size: int, alpha: float, beta: float, k: float, *, out: Array | None = None) -> Array:
    """y = x * s^-beta with s = k + alpha * (sum of x^2 over the channel window). x, y: (N, H, W, C)."""
    if on_gpu(x):
        from .cuda import lrn as cuda

        return cuda.lrn(x, size, alpha, beta, k, out)
    if compiled(x, out, fits=beta in POWERS):
        from .cpu import lrn as cpu

        return cpu.lrn(x, size, alpha, beta, k, out)
    return copy_to(out, _plain(x, size, alpha, beta, k))


def lrn_dx(
    dy: Array,
    x: Array,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    *,
    add: Array | None = None,
) -> Array:
    """dx (N, H, W, C), or added to `add`."""
    if on_gpu(x):
        from .cuda import lrn as cuda

        return cuda.lrn_dx(dy, x, size, alpha, beta, k, add)
    if compiled(x, dy, add, fits=beta in POWERS):
        from .cpu import lrn as cpu

        return cpu.lrn_dx(dy, x, size, alpha, beta, k, add)
    dx = _plain_dx(dy, x, size, alpha, beta, k)
    if add is None:
        return dx
    add += dx
    return add


def _plain(x, size, alpha, beta, k):
    return x * (k + alpha * channel_window_sum(x * x, size)) ** -beta


def _plain_dx(dy, x, size, alpha, beta, k):
    s = k + alpha * channel_window_sum(x * x, size)
    r = s**-beta
    return dy * r - 2 * alpha * beta * x * channel_window_sum(dy * x * r / s, size)

"""Sums over a window of neighbouring channels, and local response normalisation by them (layers/lrn.py)."""

from ..backend.arrays import Array
from .dispatch import dispatch
from .elementwise import add_to, copy_to

POWERS = (0.5, 0.75, 1.0)  # the exponents that the compiled kernels make of square roots


def channel_window_sum(x: Array, size: int) -> Array:
    """s[..., c] = sum of x[..., j] over |j - c| <= size // 2, size odd. x, s: (N, H, W, C)."""
    s = x.copy()
    for d in range(1, size // 2 + 1):
        s[..., d:] += x[..., :-d]
        s[..., :-d] += x[..., d:]
    return s


def _has_power(beta: float) -> bool:
    return beta in POWERS


@dispatch(cpu=_has_power)
def lrn(x: Array, size: int, alpha: float, beta: float, k: float, *, out: Array | None = None) -> Array:
    """y = x * s^-beta with s = k + alpha * (sum of x^2 over the channel window). x, y: (N, H, W, C)."""
    return copy_to(out, x * (k + alpha * channel_window_sum(x * x, size)) ** -beta)


@dispatch(cpu=_has_power)
def lrn_dx(dy: Array, x: Array, size: int, alpha: float, beta: float, k: float, *, into: Array | None = None) -> Array:
    """dx (N, H, W, C), or added to `into`."""
    s = k + alpha * channel_window_sum(x * x, size)
    r = s**-beta
    return add_to(into, dy * r - 2 * alpha * beta * x * channel_window_sum(dy * x * r / s, size))

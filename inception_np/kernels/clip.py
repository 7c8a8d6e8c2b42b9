"""Clipping a gradient by its norm, in place."""

import numpy as np

from ..backend.arrays import Array, array_module
from .dispatch import dispatch

CHUNK = 1 << 16


@dispatch(cpu=False)
def clip_norm(grad: Array, clip: float) -> float | Array:
    """Scale grad (P,) down to the Euclidean norm `clip` where its own is larger. Returns its own, in float64.

    On a GPU it is an array of one number, and nothing waits for it. A gradient that is not finite stays so.
    """
    norm = _sum_of_squares(grad) ** 0.5
    if norm > clip:
        grad *= clip / norm
    return norm


def _sum_of_squares(grad: Array) -> float:
    """In float64. float32 goes chunk by chunk, without memory for all squares, to the bits of the sum over all.

    NumPy adds what it has to convert in blocks of 8192, one after the other.
    """
    if not isinstance(grad, np.ndarray) or grad.dtype == np.float64:
        return float(array_module(grad).sum(grad * grad, dtype=np.float64))
    room, total = np.empty(CHUNK, grad.dtype), 0.0
    for start in range(0, grad.size, CHUNK):
        part = grad[start : start + CHUNK]
        total = np.add.reduce(np.multiply(part, part, out=room[: part.size]), dtype=np.float64, initial=total)
    return float(total)

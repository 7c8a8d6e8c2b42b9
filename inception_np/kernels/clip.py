"""Clipping a gradient by its norm, in place."""

import numpy as np

from ..backend.arrays import Array, array_module
from .dispatch import dispatch


@dispatch(cpu=False)
def clip_norm(grad: Array, clip: float) -> float | Array:
    """Scale grad (P,) down to the Euclidean norm `clip` where its own is larger. Returns its own, in float64.

    On a GPU it is an array of one number, and nothing waits for it. A gradient that is not finite stays so.
    """
    norm = float(array_module(grad).sum(grad * grad, dtype=np.float64)) ** 0.5
    if norm > clip:
        grad *= clip / norm
    return norm

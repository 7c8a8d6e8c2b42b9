"""Launches of clip.cu; the function is that of kernels/clip.py."""

import numpy as np

from ...backend.arrays import Array
from ...backend.program import empty
from .launch import BLOCK, elements, launch

PARTS = 512  # blocks at most: each of them adds the parts of all


def clip_norm(grad: Array, clip: float) -> Array:
    """Two launches, in double inside, and nothing waits for the norm."""
    elements(grad.size)
    parts = min(-(-grad.size // (4 * BLOCK)), PARTS)
    part, norm = empty((parts,), np.float64, grad), empty((), np.float64, grad)
    grid = (parts,), (1, BLOCK)
    launch("clip.cu", "sum_squares", grid, grad, part, grad.size)
    launch("clip.cu", "clip_norm", grid, grad, part, norm, clip, parts, grad.size)
    return norm

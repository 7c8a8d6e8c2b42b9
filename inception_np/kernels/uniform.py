"""Uniform random numbers beside an array: the masks of dropout."""

import numpy as np

from ..backend import Array, Shape, beside, on_gpu


def uniform(rng: np.random.Generator, shape: Shape, like: Array) -> Array:
    """What rng.random(shape, float32) gives, in [0, 1), brought to where `like` lives; rng moves on as after that call.

    A generator over Philox (data/random.py) is followed on the GPU itself, bit for bit. Others are drawn on the CPU.
    """
    if on_gpu(like):
        from .cuda import philox as cuda

        if cuda.can_follow(rng):
            return cuda.uniform(rng, shape, like)
    return beside(rng.random(shape, np.float32), like)

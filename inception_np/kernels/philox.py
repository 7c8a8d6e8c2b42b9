"""Uniform random numbers on an array's device: the masks of dropout."""

import numpy as np

from ..backend.arrays import Array, Shape
from ..backend.device import to_device_of
from .dispatch import dispatch


def follows_philox(rng: np.random.Generator) -> bool:
    """True where this generator's floats can be made on a GPU."""
    return isinstance(rng.bit_generator, np.random.Philox)


@dispatch(cpu=False, gpu=follows_philox)
def uniform(like: Array, rng: np.random.Generator, shape: Shape) -> Array:
    """What rng.random(shape, float32) gives, in [0, 1), brought to where `like` lives; rng moves on as after that call.

    The GPU makes the numbers of a generator over Philox (data/random.py) itself, bit for bit; the CPU those of others.
    """
    return to_device_of(rng.random(shape, np.float32), like)

"""Dropout, whose masks are uniform random numbers that CPU and GPU make alike."""

import numpy as np

from ..backend.arrays import Array, Shape
from ..backend.device import to_device_of
from .dispatch import dispatch
from .elementwise import add_to, copy_to


def follows_philox(x: Array, rng: np.random.Generator) -> bool:
    """True where a GPU can make this generator's numbers itself, for each entry of x."""
    return isinstance(rng.bit_generator, np.random.Philox) and x.ndim > 0


@dispatch(cpu=False, gpu=follows_philox)
def dropout(x: Array, rng: np.random.Generator, rate: float, *, out: Array | None = None) -> tuple[Array, Array]:
    """y = x / (1 - rate) where a number drawn from rng is at least `rate`, else 0, and where that was: bool, x's shape.

    The GPU makes the numbers of a generator over Philox (data/random.py) itself, bit for bit; rng moves on as it does
    on the CPU.
    """
    kept = uniform(x, rng, x.shape) >= rate
    return copy_to(out, x * kept * (1 / (1 - rate))), kept


@dispatch(cpu=False, gpu=lambda dy: dy.ndim > 0)
def dropout_dx(dy: Array, kept: Array, rate: float, *, into: Array | None = None) -> Array:
    """dy / (1 - rate) where x was kept, else 0."""
    return add_to(into, dy * kept * (1 / (1 - rate)))


def uniform(like: Array, rng: np.random.Generator, shape: Shape) -> Array:
    """What rng.random(shape, float32) gives, in [0, 1), brought to where `like` lives."""
    return to_device_of(rng.random(shape, np.float32), like)

"""Launches of update.cu; the functions are those of kernels/update.py.

lr and rate may be numbers or arrays of one number, which a captured step reads again at every launch.
"""

import numpy as np

from ...backend.arrays import Array, array_module
from .launch import BLOCK, address, elements, launch, one_number

PIECE = 4 * BLOCK  # numbers that a block averages, at most


def sgd_step(
    data: Array,
    grad: Array,
    velocity: Array | None,
    lr: float | Array,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """One pass over all vectors."""
    args = (data, grad, velocity, one_number(lr, data), momentum, weight_decay, nesterov, data.size)
    launch("update.cu", "sgd_step", elements(data.size), *args)


def rmsprop_step(
    data: Array,
    grad: Array,
    square: Array,
    velocity: Array,
    lr: float | Array,
    decay: float,
    momentum: float,
    eps: float,
    weight_decay: float,
) -> None:
    """One pass over all vectors."""
    args = (data, grad, square, velocity, one_number(lr, data), decay, momentum, eps, weight_decay, data.size)
    launch("update.cu", "rmsprop_step", elements(data.size), *args)


def pieces(means: list[Array], arrays: list[Array]) -> Array:
    """For each block, (pieces, 3): where its part of a mean and of the array begins, and how many numbers it is."""
    table = [
        (address(mean) + first * mean.itemsize, address(array) + first * array.itemsize, min(PIECE, mean.size - first))
        for mean, array in zip(means, arrays, strict=True)
        for first in range(0, mean.size, PIECE)
    ]
    return array_module(means[0]).asarray(np.array(table, np.uint64))


def move_averages(means: list[Array], arrays: list[Array], rate: float | Array, pieces: Array, back: bool) -> None:
    """One launch for all of them."""
    launch("update.cu", "move_averages", ((len(pieces),), (BLOCK,)), pieces, one_number(rate, means[0]), back)

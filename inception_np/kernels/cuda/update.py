"""Launches of update.cu; the functions are those of kernels/update.py.

lr may be a number or an array of one number, which a captured step reads again at every launch.
"""

from ...backend import Array
from .launch import elements, launch, one_number


def sgd_step(
    data: Array,
    grad: Array,
    velocity: Array | None,
    lr: float | Array,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
):
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
):
    args = (data, grad, square, velocity, one_number(lr, data), decay, momentum, eps, weight_decay, data.size)
    launch("update.cu", "rmsprop_step", elements(data.size), *args)

"""One step of an optimiser over flat float32 vectors: each is read once and written once."""

import numpy as np

from ...backend.arrays import Array
from ...backend.program import address
from .machine import helper, kernel, unpack
from .simd import LANES, fma, load, splat, sqrt, store


@helper
def _sgd(data, grad, velocity, rate, momentum, decay, nesterov, n):
    p = load(data, n)
    g = fma(p, decay, load(grad, n))
    if velocity:
        v = fma(load(velocity, n), momentum, g)
        store(velocity, v, n)
        g = fma(v, momentum, g) if nesterov else v
    store(data, fma(g, rate, p), n)
    store(grad, splat(np.float32(0)), n)


@kernel
def sgd(part, parts, arguments):
    """The velocity's address may be 0: no momentum. rate is minus the learning rate."""
    data, grad, velocity, size, nesterov, rate, momentum, decay = unpack(arguments, "qqqqqfff")
    r, m, d = splat(rate), splat(momentum), splat(decay)
    V = (size + LANES - 1) // LANES
    first, end = V * part // parts, V * (part + 1) // parts
    for i in range(64 * first, 64 * min(end, size // LANES), 64):
        _sgd(data + i, grad + i, velocity + i if velocity else 0, r, m, d, nesterov, 16)
    if end * LANES > size:
        i = 64 * (V - 1)
        _sgd(data + i, grad + i, velocity + i if velocity else 0, r, m, d, nesterov, size % LANES)


@helper
def _rmsprop(data, grad, square, velocity, rate, keep, rest, momentum, eps, decay, n):
    p = load(data, n)
    g = fma(p, decay, load(grad, n))
    s = fma(g * g, rest, load(square, n) * keep)
    v = fma(load(velocity, n), momentum, rate * g / sqrt(s + eps))
    store(square, s, n)
    store(velocity, v, n)
    store(data, p - v, n)
    store(grad, splat(np.float32(0)), n)


@kernel
def rmsprop(part, parts, arguments):
    """rest is 1 - keep, as the caller's double arithmetic has it."""
    data, grad, square, velocity, size, rate, keep, rest, momentum, eps, decay = unpack(arguments, "qqqqqffffff")
    r, k, o, m, e, d = (splat(rate), splat(keep), splat(rest), splat(momentum), splat(eps), splat(decay))
    V = (size + LANES - 1) // LANES
    first, end = V * part // parts, V * (part + 1) // parts
    for i in range(64 * first, 64 * min(end, size // LANES), 64):
        _rmsprop(data + i, grad + i, square + i, velocity + i, r, k, o, m, e, d, 16)
    if end * LANES > size:
        i = 64 * (V - 1)
        _rmsprop(data + i, grad + i, square + i, velocity + i, r, k, o, m, e, d, size % LANES)


# ---- in Python


def sgd_step(
    data: Array, grad: Array, velocity: Array | None, lr: float, momentum: float, weight_decay: float, nesterov: bool
) -> None:
    """Each vector is read once and written once."""
    at = 0 if velocity is None else address(velocity)
    sgd(address(data), address(grad), at, data.size, int(nesterov), -float(lr), float(momentum), float(weight_decay))


def rmsprop_step(
    data: Array,
    grad: Array,
    square: Array,
    velocity: Array,
    lr: float,
    decay: float,
    momentum: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Each vector is read once and written once."""
    rmsprop(
        address(data), address(grad), address(square), address(velocity), data.size, float(lr),
        float(decay), 1 - float(decay), float(momentum), float(eps), float(weight_decay),
    )  # fmt: skip

"""Launches of philox.cu: dropout by numpy.random.Philox's numbers, made on the GPU."""

from typing import Any

import numpy as np

from ...backend.arrays import Array, array_module
from ...backend.program import empty
from .launch import elements, launch, result, rows


class DeviceStream(np.random.Generator):
    """A generator over Philox whose key and counter lie in device memory, which a captured step reads at each launch.

    words: key and counter as `position` gives them, (6,) uint64 on the device. used: floats drawn so far in this step,
    as many in every step. It can only be used through kernels.philox.
    """

    def __init__(self, words: Array):
        super().__init__(np.random.Philox(0))  # never drawn from
        self.words, self.used = words, 0

    def random(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("DeviceStream: got a draw on the CPU, wanted float32 arrays on the GPU only")


def dropout(x: Array, rng: np.random.Generator, rate: float, out: Array | None) -> tuple[Array, Array]:
    """One launch. Nothing is copied to the device but six words, or nothing at all from a DeviceStream."""
    if isinstance(rng, DeviceStream):
        words, skip = rng.words, rng.used
        rng.used += x.size
    else:
        host, skip = position(rng)
        words = array_module(x).asarray(host)
        advance(rng, x.size)
    (x, ldx), (y, ldy) = rows(x), result(out, x.shape, x)
    kept = empty(x.shape, np.bool_, x)
    args = (words, skip, rate, 1 / (1 - rate), x.size, x.shape[-1], ldx, ldy)
    launch("philox.cu", "dropout", elements(-(-x.size // 8) + 1), x, y, kept.view(np.uint8), *args)
    return y, kept


def dropout_dx(dy: Array, kept: Array, rate: float, into: Array | None) -> Array:
    """Mask and sum in one launch."""
    (dy, lddy), (dx, lddx) = rows(dy), result(into, dy.shape, dy)
    args = (1 / (1 - rate), dy.size, dy.shape[-1], lddy, lddx, into is not None)
    launch("philox.cu", "dropout_dx", elements(dy.size), dy, kept.view(np.uint8), dx, *args)
    return dx


def position(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Where a generator over Philox stands: (key, counter) as six words, and how many floats beyond.

    A counter gives four words and a word gives two floats. NumPy counts up, makes four words and hands them out.
    """
    state = rng.bit_generator.state
    counter, key = state["state"]["counter"], state["state"]["key"]
    begin = counter.copy()
    left = 4 - state["buffer_pos"]  # words of the present counter that are still to be handed out
    if left:
        begin = _plus(begin, -1)
    skip = (8 - 2 * left if left else 0) - state["has_uint32"]
    if skip < 0:  # the last half word of the counter before
        begin, skip = _plus(begin, -1), 7
    return np.concatenate([key, begin]), skip


def advance(rng: np.random.Generator, count: int) -> None:
    """Bring a generator to where it stands after `count` floats."""
    stream, skip = position(rng)
    blocks, floats = divmod(skip + count, 8)
    state: Any = rng.bit_generator.state
    state["state"]["counter"] = _plus(stream[2:], blocks)
    state["buffer_pos"], state["has_uint32"] = 4, 0
    rng.bit_generator.state = state
    rng.random(floats, np.float32)


def _plus(counter: np.ndarray, blocks: int) -> np.ndarray:
    """A counter of four words, the lowest first, moved by a number of blocks."""
    number = sum(int(word) << 64 * i for i, word in enumerate(counter)) + blocks
    return np.array([number >> 64 * i & (1 << 64) - 1 for i in range(4)], np.uint64)

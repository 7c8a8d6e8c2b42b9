"""Five hundred steps: memory and open files stay as they are."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inception_np import SGD, Replay, create_model
from inception_np.layer import Mode
from inception_np.layers.loss import total_loss

from .faults import PLANTED

STEPS, SETTLED = 500, 50
LIMIT = 100_000  # bytes that a step may add
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@cache
def small_network() -> tuple[Any, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        create_model("inception_v1_cifar", width=1 / 16, batch_norm=True),
        rng.standard_normal((8, 32, 32, 3)).astype(np.float32),
        rng.integers(0, 10, 8),
    )


def by_layers(net: Any, x: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    y, cache = net.forward(x, Mode(train=True, keep=True, rng=rng))
    net.backward(total_loss(y, labels, net.aux_weight, 0.1)[1], x, cache, need_dx=False)


def by_replay(net: Any, x: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    passes = replay(net)
    passes.backward(total_loss(passes.forward(x, rng), labels, net.aux_weight, 0.1)[1])


def by_new_replay(net: Any, x: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Written down anew every 20 steps, as in a program that makes one object after the other."""
    if by_new_replay.__dict__.setdefault("steps", 0) % 20 == 0:
        replay.cache_clear()
    by_new_replay.__dict__["steps"] += 1
    by_replay(net, x, labels, rng)


replay = cache(Replay)
WAYS = {f.__name__: f for f in (by_replay, by_layers, by_new_replay)}


def leaked(way: str, steps: int = STEPS, fault: str = "") -> str | None:
    """The slope of memory over the steps, by least squares, and how many more files are open."""
    net, x, labels = small_network()
    optimiser, rng = SGD(net, 0.01, momentum=0.9), np.random.default_rng(0)
    memory, files = [], []
    with PLANTED[fault]():
        for _ in range(steps):
            WAYS[way](net, x, labels, rng)
            optimiser.step()
            memory.append(resident())
            files.append(open_files())
    slope = np.polyfit(np.arange(steps - SETTLED), memory[SETTLED:], 1)[0]
    if slope > LIMIT:
        return f"{slope / 1e6:.2f} MB a step"
    return f"{files[-1] - files[SETTLED]} more files open" if files[-1] > files[SETTLED] else None


@pytest.mark.promise("leaks")
def test_five_hundred_steps_leak_nothing(tally):
    tally.each(leaked, [(way,) for way in list(WAYS)[: tally.count]])


@pytest.mark.parametrize("fault", ["a megabyte a step", "a file a step"])
def test_a_leak_is_seen(broken, fault):
    assert broken(leaked, "by_replay", 100, fault)

"""Runs that are short: of tiny networks in this process, and of a small real one in a process of its own.

A test module that imports the fixture `tiny_networks` trains the networks "tiny" and "tiny but wide" by `loop.train`.
"""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from inception_np import Concat, ConvBNReLU, ConvReLU, Dropout, GlobalAvgPool2D, Linear, Sequential
from inception_np.models import create_model
from inception_np.models.network import Network
from inception_np.training import fits, loop
from inception_np.training.options import Options
from inception_np.weights.tensorfile import read_tensors


def tiny(name, *, num_classes, seed, **options):
    """A network with all that a run has to keep: batch norm, dropout, a module of branches and an auxiliary head."""
    if not name.startswith("tiny"):
        return create_model(name, num_classes=num_classes, seed=seed, **options)
    rng, k, drop = np.random.default_rng(seed), *((6, 0.0) if name == "tiny but wide" else (1, 0.5))
    module = Concat(
        b1=ConvBNReLU(4 * k, 3 * k, 1, rng=rng),
        b3=Sequential(reduce=ConvReLU(4 * k, 2 * k, 1, rng=rng), conv=ConvBNReLU(2 * k, 5 * k, 3, rng=rng)),
    )
    head = Sequential(pool=GlobalAvgPool2D(), drop=Dropout(drop), fc=Linear(8 * k, num_classes, rng=rng))
    trunk = Sequential(
        **{"conv1": ConvReLU(3, 4 * k, 3, stride=4, rng=rng), "3a": module, "pool": GlobalAvgPool2D()},
        drop=Dropout(drop),
        fc=Linear(8 * k, num_classes, rng=rng),
    )
    network = Network(trunk, {"3a": head})
    network.name, network.preset, network.num_classes = name, "paper", num_classes
    network.options, network.image = {}, (32, 32, 3)
    return network


@pytest.fixture(autouse=True, scope="module")
def tiny_networks():
    """Runs of this module may be of tiny networks; each draws the data set once, and no pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fits, "create_model", tiny)
        patch.setattr(fits, "check_width", lambda name, width, vectors: None)
        patch.setattr(loop, "load", cache(loop.load))
        patch.setattr(loop.Run, "draw", lambda self: None)
        yield


# Dropout, an auxiliary head, augmentation, a schedule with warm-up, clipping and averages of the weights, batch norm.
SMALL = Options(
    model="tiny",
    train_images=48,
    test_images=20,
    batch_size=16,
    epochs=3,
    lr=0.05,
    weight_decay=1e-4,
    warm_up=1,
    clip=2.0,
    ema=0.99,
    smoothing=0.1,
    seed=5,
)
REAL = replace(SMALL, model="bn_inception_cifar", width=1 / 16, optimizer="rmsprop", schedule="exponential", epochs=2)


def weights_of(folder):
    """All that a run ends with: the state's arrays, and those of the checkpoint."""
    state = read_tensors(folder / "state.safetensors")[0]
    return {**state, **{f"checkpoint/{k}": v for k, v in read_tensors(folder / "checkpoint.safetensors")[0].items()}}


def same_bits(a, b):
    return list(a) == list(b) and all(a[k].tobytes() == b[k].tobytes() for k in a)


DRAW = loop.Run.draw


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny_networks):
    folders = {}
    for options in (SMALL, REAL):
        folders[options.model] = tmp_path_factory.mktemp("whole")
        loop.train(folders[options.model], options)
    return folders


def stop_after(monkeypatch, steps):
    """Pretend that Ctrl-C comes during the step of that number, counted from the start of the process."""
    count = 0
    original = loop.Run.train_step

    def counted(self, index):
        nonlocal count
        original(self, index)
        count += 1
        if count == steps:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop.Run, "train_step", counted)


def timeless(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def command(folder, *more):
    return [sys.executable, "-m", "inception_np", "train", "--output", str(folder), *more]


ARGUMENTS = (
    "--model bn_inception_cifar --width 0.0625 --train-images 32 --test-images 10 --batch-size 16 --epochs 6 --lr 0.1"
)


def wait_for(path, process, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < end, f"no {path} after {seconds} s"
        time.sleep(0.02)

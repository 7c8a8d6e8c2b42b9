"""A NaN in the middle of a run: it stops there, and no file holds it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from inception_np import create_model
from inception_np.layer import named_buffers, named_params
from inception_np.training import loop
from inception_np.training.step import EagerStep
from inception_np.weights.tensorfile import read_tensors

from . import small
from .faults import PLANTED

STEPS = small.STEPS * small.EPOCHS


def weight(run: Any, path: str) -> None:
    named_params(run.net)[path].data.flat[0] = np.nan


def gradient(run: Any, path: str) -> None:
    named_params(run.net)[path].grad.flat[0] = np.nan


def velocity(run: Any, path: str) -> None:
    """Where this weight's is: the last element of the vector that is the weight's own."""
    start = named_params(run.net)[path].data.ctypes.data - run.weights.ctypes.data
    run.optimiser.state["velocity"][start // run.weights.itemsize] = np.nan


def running_average(run: Any, path: str) -> None:
    named_buffers(run.net)[path].data.flat[0] = np.nan


def cases() -> list[tuple[str, str, int]]:
    """(kind, path, step): of each kind fifteen, over all parameters and running averages, at every step of the run."""
    with small.small():
        net = create_model("tiny_cifar")
        parameters, buffers = list(named_params(net)), list(named_buffers(net))
    kinds = [("weight", parameters), ("gradient", parameters), ("velocity", parameters), ("running_average", buffers)]
    turns = [
        [(kind, paths[i % len(paths)], (i + j) % STEPS) for i in range(15)] for j, (kind, paths) in enumerate(kinds)
    ]
    return [case for turn in zip(*turns, strict=True) for case in turn]


def poisoned(kind: str, path: str, step: int, fault: str = "") -> str | None:
    """NaN from that step of the run on; gradients once backward has run, the rest before the step."""
    put: Callable[[Any, str], None] = {f.__name__: f for f in (weight, gradient, velocity, running_average)}[kind]
    train_step, gradients = loop.Run.train_step, EagerStep.gradients

    running: list[Any] = []

    def here(run: Any) -> bool:
        return run.epoch * small.STEPS + run.step == step

    def stepped(run: Any, index: Any) -> None:
        running[:] = [run]
        if kind != "gradient" and here(run):
            put(run, path)
        train_step(run, index)

    def differentiated(its_step: Any, *arguments: Any) -> Any:
        result = gradients(its_step, *arguments)
        if kind == "gradient" and here(running[0]):
            put(running[0], path)
        return result

    with small.small(), small.folder() as folder, PLANTED[fault]():
        with (
            mock.patch.object(loop.Run, "train_step", stepped),
            mock.patch.object(EagerStep, "gradients", differentiated),
        ):
            code, said = small.said(small.command(folder))
        if wrong := held(folder):
            return wrong
        where = re.search(r"epoch (\d+), step (\d+)", said)
        if code != 1 or not where or "Traceback" in said:
            return f"ended with {code}: {said[-300:]}"
        found = (int(where[1]) - 1) * small.STEPS + int(where[2]) - 1
        late = 0 if kind in ("weight", "gradient") else 1
        return None if step <= found <= step + late else f"found in step {found} instead of {step}"


def held(folder: Path) -> str | None:
    """Which file holds what is not finite, or None."""
    for path in folder.glob("*.safetensors"):
        arrays, metadata = read_tensors(path)
        bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if bad or "NaN" in "".join(metadata.values()):
            return f"{path.name} holds NaN: {bad}"
    log = folder / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    bad = [line for line in lines if not all(np.isfinite(v) for v in json.loads(line).values())]
    return f"log.jsonl holds {bad}" if bad else None


@pytest.mark.promise("not finite")
def test_a_nan_stops_the_run_before_it_is_saved(tally):
    found = cases()
    tally.each(poisoned, found[: tally.count])


def test_a_run_that_does_not_look_is_seen(broken):
    assert broken(poisoned, "weight", "conv1.weight", 1, "blind") and not broken(poisoned, "weight", "conv1.weight", 1)

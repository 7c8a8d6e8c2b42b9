"""Thousands of damaged and changed training states: refused in one line, or resumed as exactly what they say."""

import contextlib
import io
import json
import math
import os
import random
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from test_checkpoint import mutant

from inception_np import __main__ as cli
from inception_np.backend.errors import UsageError
from inception_np.layer import named_buffers, named_params
from inception_np.training import loop, state
from inception_np.training.state import ADDED

from . import crash, mutate, small
from .faults import PLANTED


@cache
def states() -> tuple[bytes, bytes]:
    """(the newest state, the one before) of a run that was stopped in the middle of its second epoch."""
    with small.small(), small.folder() as folder:
        for batch in (small.STEPS, 1):
            original, done = loop.Run.train_step, [0]

            def stopped(run: Any, index: Any, original: Any = original, done: list = done, batch: int = batch) -> None:
                original(run, index)
                done[0] += 1
                if done[0] == batch:
                    os.kill(os.getpid(), crash.signal.SIGINT)

            with mock.patch.object(loop.Run, "train_step", stopped):
                assert small.said(small.command(folder))[0] == 130
        return tuple((folder / f"{name}.safetensors").read_bytes() for name in ("state", "state.previous"))


def few(name: str, *_: Any, train: Any = None, test: Any = None, **__: Any) -> Any:
    """The data set, but never more images than a test has time to draw."""
    if not all(number is None or (type(number) is int and number >= 1) for number in (train, test)):
        raise UsageError(f"--train-images: got {train}, {test}; give at least one image")
    return small.few_images("shapes10", train=min(train or 64, 64), test=min(test or 20, 20))


def resumed(folder: Path) -> tuple[loop.Run, str]:
    """(the run as it was taken up, before it goes on, what was said). Raises what train raises."""
    kept: list[loop.Run] = []
    said = io.StringIO()

    def go(run: loop.Run) -> dict[str, Any]:
        kept.append(run)
        return {}

    with (
        mock.patch.object(loop.Run, "go", go),
        mock.patch.object(loop, "load", few),
        mock.patch.object(os, "fsync", lambda _: None),
        contextlib.redirect_stderr(said),
    ):
        loop.train(folder, state.stored_options(folder), resume=True)
    return kept[0], said.getvalue()


def refused_in_a_line(folder: Path, error: Exception, said: str = "") -> str | None:
    text = str(error)
    if cli.exit_code(error) not in (1, 2, 3) or not mutate.LINE.fullmatch(text) or len(text) > 1000:
        return f"refused with {type(error).__name__}: {text!r}"
    named = str(folder) in text or text.startswith("--") or cli.exit_code(error) == 3  # the machine lacks something
    return None if named else f"refused without the file's name: {text!r}"


def damaged_state(seed: int, fault: str = "") -> str | None:
    """A damaged state; every other time, the one before is there."""
    newest, before = states()
    new = mutant(newest, np.random.default_rng(seed)) if seed % 3 else mutate.scrambled(newest, random.Random(seed))
    with small.small(), small.folder() as folder, PLANTED[fault]():
        (folder / "state.safetensors").write_bytes(new)
        if seed % 2:
            (folder / "state.previous.safetensors").write_bytes(before)
        try:
            run, said = resumed(folder)
        except Exception as error:
            return "refused, though the one before is whole" if seed % 2 else refused_in_a_line(folder, error)
        if new == newest:
            return misread(run, newest)
        if not seed % 2:
            return "a damaged state was resumed"
        return misread(run, before) or (None if "going back to" in said else f"went back and said {said!r}")


def flipped(seed: int, fault: str = "") -> str | None:
    newest, before = states()
    rng = random.Random(seed)
    at, bit = rng.randrange(len(newest)), rng.randrange(8)
    with small.small(), small.folder() as folder, PLANTED[fault]():
        (folder / "state.previous.safetensors").write_bytes(before)
        (folder / "state.safetensors").write_bytes(newest[:at] + bytes([newest[at] ^ (1 << bit)]) + newest[at + 1 :])
        run, said = resumed(folder)
        return misread(run, before) or (None if "going back to" in said else f"went back and said {said!r}")


def changed_state(seed: int, fault: str = "") -> str | None:
    with small.small(), small.folder() as folder, PLANTED[fault]():
        content = mutate.signed(states()[0], random.Random(seed))
        (folder / "state.safetensors").write_bytes(content)
        try:
            run, _ = resumed(folder)
        except Exception as error:
            return refused_in_a_line(folder, error)
        return misread(run, content)


def misread(run: loop.Run, content: bytes) -> str | None:
    """What a run took up that the state does not say, or did not take up that it says; or None."""
    arrays, metadata = mutate.unpacked(content)
    _, usual = mutate.unpacked(states()[0])
    if set(metadata) != set(usual):
        return f"the metadata has {sorted(metadata)}"
    options, progress = json.loads(metadata["options"]), json.loads(metadata["progress"])
    if isinstance(progress.get("sums"), dict) and "loss" in progress["sums"]:
        progress["sums"].setdefault("main", progress["sums"]["loss"])  # as in a state of an earlier version
        progress["sums"].setdefault("plain", progress["sums"]["main"])
    if not equal({**ADDED, **options}, asdict(run.options)):
        return f"the state has the options {options}, the run {asdict(run.options)}"
    taken_up = {"epoch": run.epoch, "step": run.step, "sums": run.sums, "history": run.history}
    taken_up["updates"] = run.average.updates if run.average else 0
    if not equal(progress, taken_up):
        return f"the state says {progress}, the run {taken_up}"
    if wrong := nonsense(run, progress, json.loads(usual["progress"])):
        return f"{wrong}: {progress}"
    slots = {**named_params(run.net), **named_buffers(run.net)}
    found = {f"net/{path}": slot.data for path, slot in slots.items()}
    found |= {f"optimizer/{name}": vector for name, vector in run.optimiser.state.items()}
    found |= {f"average/{i}": mean for i, mean in enumerate(run.average.means)} if run.average else {}
    if set(found) != set(arrays):
        return f"these arrays are not the state's: {set(found) ^ set(arrays)}"
    for name, array in arrays.items():
        same = array.dtype == found[name].dtype and array.shape == found[name].shape
        if not same or array.tobytes() != found[name].tobytes():
            return (
                f"{name} is {array.dtype} {array.shape} in the state, {found[name].shape} in the run, or other numbers"
            )
    return None


def equal(a: Any, b: Any) -> bool:
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def nonsense(run: loop.Run, progress: dict[str, Any], usual: dict[str, Any]) -> str | None:
    """Counters that no run has, or None."""
    counts = [progress["epoch"], progress["step"], progress["updates"], progress["sums"]["images"]]
    counts += [progress["sums"]["right"]]
    if not all(type(n) is int and n >= 0 for n in counts):
        return "a count that is no whole number from 0"
    if progress["epoch"] > run.options.epochs or progress["step"] > run.steps:
        return "more epochs or steps than the run has"
    if len(progress["history"]) != progress["epoch"] or set(progress["sums"]) != set(usual["sums"]):
        return "not a line for each epoch, or other sums"
    lines = [*progress["history"], progress["sums"]]
    added = {"train_total_loss", "train_cross_entropy"}  # since an earlier version, whose lines are without it
    if any(set(line) | added != set(usual["history"][0]) | added for line in lines[:-1]):
        return "a line without its entries"
    numbers = [number for line in lines for number in line.values()]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        return "an entry that is no finite number"
    return None


@pytest.mark.promise("state")
def test_damaged_states_are_refused(tally):
    tally.each(damaged_state)


@pytest.mark.promise("newest")
def test_a_bit_of_the_newest_state_changes(tally):
    tally.each(flipped)


@pytest.mark.promise("state signed")
def test_changed_states_resume_as_what_they_say_or_not_at_all(tally):
    tally.each(changed_state)


@pytest.mark.parametrize("case", [damaged_state, flipped])
def test_a_digest_that_is_not_looked_at_is_seen(broken, case):
    assert any(broken(case, seed, "unverified") for seed in range(40))


@pytest.mark.parametrize("fault", ["velocity forgotten", "step forgotten"])
def test_what_a_restore_forgets_is_seen(broken, fault):
    assert broken(flipped, 1, fault) or broken(changed_state, 1, fault)

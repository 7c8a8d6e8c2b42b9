"""Runs that are asked to stop: what is saved, what is said, and what they end with once they are resumed."""

import json
import os
import random
import re
import signal
from pathlib import Path
from unittest import mock

import pytest

from inception_np.training import loop
from inception_np.weights.tensorfile import read_tensors

from . import crash, small
from .faults import PLANTED

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
TWELVE = ("--train-images", str(16 * 12), "--epochs", "1")  # a longer epoch; of an option given twice the last counts


def longer(folder: Path) -> list[str]:
    """What is saved is saved because of the signal: a minute does not pass."""
    there = (folder / "state.safetensors").exists()
    return small.command(folder, *(() if there else TWELVE), save="60")


def stopped_after(batch: int, fault: str = "") -> str | None:
    """Ctrl-C comes while a batch is computed; then the run is resumed."""
    original, done = loop.Run.train_step, 0

    def stopped(run: loop.Run, index: object) -> None:
        nonlocal done
        original(run, index)
        done += 1
        if done == batch:
            os.kill(os.getpid(), signal.SIGINT)

    wanted = small.reference(*TWELVE)
    with small.folder() as folder, small.small(), PLANTED[fault]():
        with mock.patch.object(loop.Run, "train_step", stopped):
            code, said = crash.Child(longer(folder)).end()
        if wrong := badly_ended(folder, 130, code, said):
            return wrong
        epoch, step = saved_at(folder)
        if 12 * epoch + step != batch:
            return f"saved after {12 * epoch + step} steps: {said}"
        code, said = crash.Child(longer(folder)).end()
        found = small.contents(folder)
    if code:
        return f"could not be resumed: {code}: {said}"
    differ = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    return f"other files than without: {differ}" if differ else None


def saved_at(folder: Path) -> tuple[int, int]:
    """(whole epochs, steps of the next) of the state."""
    progress = json.loads(read_tensors(folder / "state.safetensors")[1]["progress"])
    return progress["epoch"], progress["step"]


def badly_ended(folder: Path, wanted: int, code: int, said: str, twice: bool = False) -> str | None:
    """What is wrong with the end of a run that got a signal, or None. After a second one it need not say a word."""
    last = (said.splitlines() or [""])[-1]
    if code != wanted or not (twice or last.startswith("inception-np: ")) or "Traceback" in said:
        return f"ended with {code}, wanted {wanted}: {said}"
    where = re.search(r"in epoch (\d+) after (\d+) of \d+ steps, all is saved", last)
    if where and saved_at(folder) != (int(where[1]) - 1, int(where[2])):
        return f"saved at {saved_at(folder)}, but {last}"
    if "nothing was saved" in last and (folder / "state.safetensors").exists():
        return f"something was saved, but {last}"
    return small.damage(folder)


def signalled(seed: int, fault: str = "") -> str | None:
    """A signal at some time or inside some write, a quarter of them twice; then the run is resumed."""
    rng, whole = random.Random(seed), crash.whole_run()
    number, twice, save = rng.choice(list(CODES)), seed % 4 < 1, rng.choice(["0", "60"])
    with small.folder() as folder, small.small(), PLANTED[fault]():
        if seed % 2:
            point = rng.randint(1, whole.points)
            child = crash.Child(small.command(folder, save=save), crash.signal_at(number, point))
        else:
            child = crash.Child(small.command(folder, save=save))
            child.signal(number, rng.uniform(0.1, 0.9) * whole.seconds)
        if twice:
            child.signal(number, rng.uniform(0.1, 0.9) * whole.seconds)
        code, said = child.end()
        if code == 0 and "Traceback" not in said:  # the run was over before anybody looked
            return small.difference(folder)
        if wrong := badly_ended(folder, CODES[number], code, said, twice):
            return f"{signal.Signals(number).name}{', twice' * twice}: {wrong}"
        if child.seconds > 2 + 2 * whole.seconds:
            return f"took {child.seconds:.1f} s to end"
        if not twice and crash.leftovers(folder):
            return f"left {crash.leftovers(folder)}"
        code, said = crash.Child(small.command(folder)).end()
        return f"could not be resumed: {code}: {said}" if code else small.difference(folder)


@pytest.mark.promise("stop")
def test_a_run_stopped_after_any_batch_ends_with_the_same_files(tally):
    tally.each(stopped_after, [(batch,) for batch in range(1, 13)][:: 12 // tally.count])


@pytest.mark.promise("signals")
def test_a_signal_ends_the_run_with_its_code_and_nothing_lost(tally):
    tally.each(signalled)


@pytest.mark.parametrize("fault", ["step forgotten", "velocity forgotten", "other streams", "not saved", "deaf"])
def test_a_fault_is_seen_in_a_stop(broken, fault):
    assert broken(stopped_after, 5, fault) and not broken(stopped_after, 5)


def test_a_run_that_hears_no_signal_is_seen_in_a_few_of_them(broken):
    assert any(broken(signalled, seed, "deaf") and not broken(signalled, seed) for seed in range(20))

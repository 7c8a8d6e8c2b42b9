"""Two runs in one folder."""

import os
import random
import re

import pytest

from . import crash, small
from .faults import PLANTED


def raced(seed: int, fault: str = "") -> str | None:
    """Two runs start in one folder at once, or one a little after the other."""
    rng, whole = random.Random(seed), crash.whole_run()
    with small.folder() as folder, small.small(), PLANTED[fault]():
        gate, opened = os.pipe()
        argv = small.command(folder)
        runs = [crash.Child(argv, late(0 if seed % 2 else rng.uniform(0, whole.seconds)), gate) for _ in range(2)]
        os.write(opened, b"!!")
        ends = [run.end() for run in runs]
        os.close(gate)
        os.close(opened)
        won = [code == 0 for code, _ in ends]
        if sum(won) != 1:
            return f"{sum(won)} of the two won: {ends}"
        code, said = ends[1 - won.index(True)]
        holder = runs[won.index(True)].process
        in_use = re.fullmatch(rf"inception-np: error: {folder}: in use by process {holder}; [^\n]+\n", said)
        came_late = re.fullmatch(rf"inception-np: error: --output: {folder} already holds a run; [^\n]+\n", said)
        if not ((code == 1 and in_use) or (code == 2 and came_late)):
            return f"the other ended with {code}: {said}"
        return small.difference(folder)


def late(seconds: float) -> crash.Happening:
    """Before its first byte is written, a run waits: another may then be where it believes to be alone."""
    waited = False

    def happening(_name: str, _size: int) -> None:
        nonlocal waited
        if not waited:
            waited = True
            crash.time.sleep(seconds)

    return happening


@pytest.mark.promise("race")
def test_of_two_runs_in_one_folder_one_wins(tally):
    tally.each(raced)


def test_a_folder_that_nobody_holds_is_seen_in_a_few_races(broken):
    assert any(broken(raced, seed, "unlocked") and not broken(raced, seed) for seed in range(10))

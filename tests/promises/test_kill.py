"""Runs that are killed: what they end with once they are resumed."""

import random
import signal

import pytest

from . import crash, small
from .faults import PLANTED


def killed(seed: int, fault: str = "") -> str | None:
    """Start a run, kill it once or twice, and resume it to its end."""
    rng, whole = random.Random(seed), crash.whole_run()
    with small.folder() as folder, small.small(), PLANTED[fault]():
        for _ in range(1 + rng.randrange(2)):
            if seed % 2:  # inside a write, or between two
                happening = crash.signal_at(signal.SIGKILL, rng.randint(1, whole.points))
                child = crash.Child(small.command(folder), happening)
            else:
                child = crash.Child(small.command(folder))
                child.signal(signal.SIGKILL, rng.uniform(0, whole.seconds))
            code, said = child.end()
            if code not in (0, -signal.SIGKILL):
                return f"ended with {code}: {said}"
            if wrong := small.damage(folder):
                return f"after the kill: {wrong}"
        code, said = crash.Child(small.command(folder)).end()
        return f"could not be resumed: {code}: {said}" if code else small.difference(folder)


@pytest.mark.promise("kill")
def test_a_killed_run_is_resumed_and_ends_with_the_same_files(tally):
    tally.each(killed)


@pytest.mark.parametrize("fault", ["written in place", "other streams", "velocity forgotten", "step forgotten"])
def test_a_fault_is_seen_in_a_few_kills(broken, fault):
    assert any(broken(killed, seed, fault) and not broken(killed, seed) for seed in range(20))


def killed_while_drawing(before_the_end: int) -> str | None:
    """The real pictures, drawn in the end by a process that did not train. A picture has eight points."""
    with small.folder() as first, small.folder() as whole, small.folder() as folder, small.small(pictures=True):
        crash.Child(small.command(first)).end()  # what a first run compiles and caches is written down too
        points, _ = crash.count_points(small.command(whole))
        code, said = crash.Child(small.command(folder), crash.signal_at(signal.SIGKILL, points - before_the_end)).end()
        if code != -signal.SIGKILL:
            return f"ended with {code}: {said}"
        code, said = crash.Child(small.command(folder)).end()
        same = small.contents(folder) == small.contents(whole)
        return None if code == 0 and same else f"ended with {code}, other files {not same}: {said}"


@pytest.mark.long
def test_a_run_killed_while_it_draws_ends_with_the_same_pictures(broken):
    assert [broken(killed_while_drawing, points) for points in (20, 8)] == [None, None]

"""A disk that fills up while a run writes."""

import re

import pytest

from . import crash, small
from .faults import PLANTED

LINE = re.compile(
    r"inception-np: error: \S+: cannot be written \(No space left on device\), [\d,]+ bytes are needed and "
    r"[\d,]+ are free; [^\n]+"
)


def filled(seed: int, count: int, fault: str = "") -> str | None:
    """No byte more can be written from the one that is seed / count of all that a run writes; later there is room."""
    whole = crash.whole_run()
    with small.folder() as folder, small.small(), PLANTED[fault]():
        code, said = crash.Child(small.command(folder), crash.full_from(whole.bytes * seed // count)).end()
        last = (said.splitlines() or [""])[-1]
        if code != 1 or not LINE.fullmatch(last) or "Traceback" in said:
            return f"ended with {code}: {said}"
        if crash.leftovers(folder):
            return f"left {crash.leftovers(folder)}"
        if wrong := small.damage(folder):
            return wrong
        code, said = crash.Child(small.command(folder)).end()
        return f"could not be resumed: {code}: {said}" if code else small.difference(folder)


@pytest.mark.promise("disk")
def test_a_full_disk_leaves_the_old_files_whole(tally):
    tally.each(filled, [(seed, tally.count) for seed in range(tally.count)])


@pytest.mark.parametrize("fault", ["written in place", "litter"])
def test_a_fault_is_seen_on_a_full_disk(broken, fault):
    assert any(broken(filled, seed, 6, fault) and not broken(filled, seed, 6) for seed in range(6))

"""The fixtures `tally`, which counts the cases of a promise, and `workers`, in which they run."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from . import workers as processes
from .table import PROMISES


def pytest_configure(config):
    config.addinivalue_line("markers", "promise(name): a test of a promise of table.py, which has its counts")


def pytest_generate_tests(metafunc):
    """A promise's test runs with the plain count and, marked `long`, with the full one."""
    if "tally" not in metafunc.fixturenames:
        return
    promise = PROMISES[metafunc.definition.get_closest_marker("promise").args[0]]
    sizes = [pytest.param(promise.plain, id="plain")] if promise.plain < promise.full else []
    marks = [pytest.mark.long] if sizes else []
    metafunc.parametrize("tally", [*sizes, pytest.param(promise.full, id="full", marks=marks)], indirect=True)


class Tally:
    """`count` cases are wanted. `each` runs them, notes how many held, and fails if one did not."""

    def __init__(self, count: int, note: Callable[[str, object], None], workers: ProcessPoolExecutor) -> None:
        self.count, self.note, self.workers = count, note, workers

    def each(self, case: Callable[..., str | None], items: Iterable[tuple] | None = None) -> None:
        """case(*item) gives None where the promise holds, else what is wrong. Without items: the seeds from 0."""
        items = [(seed,) for seed in range(self.count)] if items is None else list(items)
        assert len(items) == self.count
        found = list(processes.results(self.workers, case, items))
        wrong = [f"{item}: {what}" for item, what in zip(items, found, strict=True) if what is not None]
        self.note("passed", self.count - len(wrong))
        self.note("failed", len(wrong))
        assert not wrong, "\n".join([f"{len(wrong)} of {self.count}", *wrong[:12]])


@pytest.fixture
def tally(request, record_property, workers) -> Tally:
    return Tally(request.param, record_property, workers)


@pytest.fixture(scope="session")
def workers() -> Iterator[ProcessPoolExecutor]:
    with processes.pool() as executor:
        yield executor


@pytest.fixture
def broken(workers):
    """broken(case, *item) runs one case with a planted fault, and gives what was found wrong with it, or None."""
    return lambda case, *item: next(processes.results(workers, case, [item]))

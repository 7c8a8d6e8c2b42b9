"""Two processes in which the cases run: nothing but this package in them, one thread, so that they may fork."""

import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

SECONDS = 60  # that a case may take; a case that hangs is a case that fails


def prepare() -> None:
    """In a new process: warnings are errors, and one thread computes, so that nothing is lost by a fork."""
    warnings.simplefilter("error")
    os.environ.pop("INCEPTION_NP_TRACEBACK", None)
    from inception_np.backend.threads import set_num_threads

    set_num_threads(1)


def pool(**options: Any) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(2, mp_context=spawn, initializer=prepare, **options)


def guarded(case: Callable[..., str | None], arguments: tuple) -> str | None:
    """What is wrong with a case, or None: its answer, or the error that it ended in, or that it did not end."""

    def too_long(_number: int, _frame: object) -> None:
        raise TimeoutError(f"not finished after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        return case(*arguments)
    except Exception as error:
        where = traceback.extract_tb(sys.exc_info()[2])[-1]
        return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def results(workers: ProcessPoolExecutor, case: Callable[..., str | None], items: Iterable[tuple]) -> Iterator:
    """What is wrong with each case, in order. A process that dies ends the test with BrokenProcessPool."""
    items = list(items)
    chunk = max(1, min(100, len(items) // 8))
    return workers.map(guarded, [case] * len(items), items, chunksize=chunk)

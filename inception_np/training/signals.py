"""Signals that end a run: Ctrl-C (SIGINT), SIGTERM, and SIGHUP, which a terminal sends when it is closed.

    with Signals() as signals:
        read()                          a signal raises Interrupted here
        with signals.deferred():
            for batch in batches:
                signals.check()         and only here: what is between two checks is always finished
                step(batch)

A second signal ends the process at once with exit code 128 + its number. That damages no file: each is replaced as a
whole (data/files.py).
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Interrupted(KeyboardInterrupt):
    """A signal arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal_name(number)}")
        self.number = number


class Signals:
    """Handles the three signals within a `with` block, and restores the handlers from before after it.

    A SIGHUP that the process was started to ignore (nohup) stays ignored. Outside the main thread, where Python handles
    no signals, it does nothing. of_process: the process ends after this block. Until then signals are ignored, and its
    exit code stays what it is.
    """

    def __init__(self, of_process: bool = False) -> None:
        self.of_process = of_process
        self.caught = 0  # the number of the first signal
        self.last = False  # set: the next signal ends the process, even if it is the first
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        with contextlib.suppress(ValueError):  # not in the main thread
            for number in (getattr(signal, each) for each in NAMES if hasattr(signal, each)):
                before = signal.getsignal(number)
                if before is None or (number == getattr(signal, "SIGHUP", None) and before == signal.SIG_IGN):
                    continue
                signal.signal(number, self._handle)
                self._before[number] = before
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            outer = getattr(before, "__self__", None)
            if isinstance(outer, Signals):  # which then knows that the next signal is the second
                outer.caught = outer.caught or self.caught
            signal.signal(number, signal.SIG_IGN if self.of_process else before)

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived."""
        if self.caught:
            raise Interrupted(self.caught)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block a signal is noted, and raises at the next `check` or at the block's end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.caught or self.last:
            _leave(number)
        self.caught = number
        if not self._deferred and not _in_destructor(frame):
            raise Interrupted(number)


def _in_destructor(frame: FrameType | None) -> bool:
    """Whether a __del__ is running. Python prints and drops what that raises: the next `check` raises instead."""
    while frame and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def signal_name(number: int) -> str:
    return signal.Signals(number).name


def _leave(number: int) -> NoReturn:
    """End the process at once. A progress bar has hidden the terminal's cursor, which is shown again."""
    with contextlib.suppress(Exception):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\x1b[?25h\n")
    os._exit(128 + number)

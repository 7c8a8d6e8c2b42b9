"""The standard streams of a process, whoever listens at their other ends.

Standard error carries progress, and drops what cannot be written. Standard output carries results, and an error of
writing them is one of the command.
"""

import contextlib
import errno
import os
import stat
import sys
from typing import Any


class _Wrapped:
    """A text stream around another one. None, as `sys.stderr` is in a process started without one, takes nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None  # the first of writing

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def isatty(self) -> bool:
        try:
            return self._stream is not None and bool(self._stream.isatty())
        except (OSError, ValueError):
            return False

    def _try(self, method: str, *arguments: Any) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, method)(*arguments)
        except (OSError, ValueError) as error:  # ValueError: a closed file
            self.error = self.error or error
            self._failed()

    def _failed(self) -> None:
        """Called where an error is handled."""

    def __getattr__(self, name: str) -> Any:  # fileno, encoding
        return getattr(self._stream, name)


class Quiet(_Wrapped):
    """A stream whose writes never fail: what the one below does not take is dropped."""


class Results(_Wrapped):
    """A stream that remembers the first error of writing, and raises all of them."""

    def _failed(self) -> None:
        raise

    def reader_is_gone(self) -> bool:
        """Is the error that a pipe has no reader any more, or that a terminal was closed?"""
        if isinstance(self.error, OSError) and self.error.errno == errno.EIO:
            with contextlib.suppress(OSError, ValueError):
                return stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        return isinstance(self.error, BrokenPipeError)


def say(text: str) -> None:
    """Write a line on standard error, if that can be written to."""
    print(text, file=Quiet(sys.stderr), flush=True)


def open_standard_streams() -> None:
    """Give the process the standard streams that it was started without, so that no file gets their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)


def drop(stream: Any) -> None:
    """Let what a stream holds back go nowhere: else Python tries again when it ends, and makes the exit code 120."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

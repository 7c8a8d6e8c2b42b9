"""Standard output and standard error, where their reader may go away and their disk may be full.

Progress goes to standard error; what of it cannot be written is dropped. Results go to standard output; if they cannot
be written, the command fails.
"""

import contextlib
import errno
import os
import stat
import sys
from typing import Any


class _Wrapped:
    """A text stream around another one, or around None, which `sys.stderr` is in a process started without one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None  # the first that a write ended in

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
        """Called while such an error is handled."""

    def __getattr__(self, name: str) -> Any:  # fileno, encoding
        return getattr(self._stream, name)


class Quiet(_Wrapped):
    """A stream whose writes never fail: what cannot be written is dropped."""


class Results(_Wrapped):
    """A stream that raises every error of writing, and remembers the first."""

    def _failed(self) -> None:
        raise

    def reader_is_gone(self) -> bool:
        """Whether the error is that a pipe has lost its reader, or that a terminal was closed."""
        if isinstance(self.error, OSError) and self.error.errno == errno.EIO:
            with contextlib.suppress(OSError, ValueError):
                return stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        return isinstance(self.error, BrokenPipeError)


def say(text: str) -> None:
    """Write a line on standard error, if that can be written to."""
    print(text, file=Quiet(sys.stderr), flush=True)


def open_standard_streams() -> None:
    """Open the standard streams that the process was started without, so that no other file gets their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)


def drop(stream: Any) -> None:
    """Discard what a stream has buffered: else Python writes it as it ends, and changes the exit code to 120."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

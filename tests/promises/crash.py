"""What goes wrong in a run: its process is killed or gets a signal, at some time or inside some write; the disk fills.

A run is forked off a process that has everything loaded, so that it takes a twentieth of a second. Every `open` for
writing, write, fsync, link and replace of the package is a point at which something can be made to happen.
"""

import builtins
import contextlib
import errno
import io
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from inception_np import __main__ as cli
from inception_np.data import files

from . import small

Happening = Callable[[str, int], None]  # what happens at a point: (its name, how many bytes are about to be written)


class Watched:
    """An open file that asks before it writes: half of the bytes, then the other half."""

    def __init__(self, file: Any, happening: Happening) -> None:
        self.file, self.happening = file, happening

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B") if len(content) else memoryview(b"")
        for part in (view[: len(view) // 2], view[len(view) // 2 :]):
            self.happening("write", len(part))
            self.file.write(part)
            self.file.flush()
        return len(view)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Watched":
        self.file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.__exit__(*error)


@contextlib.contextmanager
def points(happening: Happening) -> Iterator[None]:
    """Within this block `happening` is asked at every point."""

    def opened(path: Any, mode: str = "r", *rest: Any, **keywords: Any) -> Any:
        if "w" not in mode:
            return builtins.open(path, mode, *rest, **keywords)
        happening("open", 0)
        return Watched(builtins.open(path, mode, *rest, **keywords), happening)

    def around(name: str, call: Callable) -> Callable:
        def asked(*arguments: Any, **keywords: Any) -> Any:
            happening(name, 0)
            result = call(*arguments, **keywords)
            happening(f"after {name}", 0)
            return result

        return asked

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(files, "open", opened, create=True))
        for name in ("fsync", "link", "replace"):
            stack.enter_context(mock.patch.object(os, name, around(name, getattr(os, name))))
        stack.enter_context(mock.patch.object(shutil, "copyfile", around("copy", shutil.copyfile)))
        yield


def nothing(_name: str, _size: int) -> None:
    pass


def signal_at(number: int, point: int) -> Happening:
    """This signal at the point of that number."""
    passed = 0

    def happening(_name: str, _size: int) -> None:
        nonlocal passed
        passed += 1
        if passed == point:
            os.kill(os.getpid(), number)

    return happening


def full_from(byte: int) -> Happening:
    """A disk that takes so many bytes and no more."""
    written = 0

    def happening(name: str, size: int) -> None:
        nonlocal written
        written += size
        if name == "write" and written > byte:
            raise OSError(errno.ENOSPC, "No space left on device")

    return happening


class Child:
    """A process that runs one command, forked from this one."""

    def __init__(self, argv: list[str], happening: Happening = nothing, gate: int | None = None) -> None:
        """gate: a pipe's end to read from before the command begins, so that several begin at once."""
        self.errors = tempfile.NamedTemporaryFile(mode="w+", prefix="promise")  # noqa: SIM115 (read after its end)
        begun, begins = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                signal.alarm(0)
                os.dup2(self.errors.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
                if gate is not None:
                    os.read(gate, 1)
                with points(happening):
                    os.write(begins, b"!")
                    os._exit(cli.main(argv))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(99)
        os.close(begins)
        if gate is None:
            os.read(begun, 1)
        os.close(begun)
        self.started = time.monotonic()

    def signal(self, number: int, after: float) -> None:
        """Send a signal so many seconds after the command began, if it has not ended."""
        time.sleep(max(0.0, self.started + after - time.monotonic()))
        os.kill(self.process, number)  # not yet waited for, so that its number is its own

    def end(self) -> tuple[int, str]:
        """(exit code, negative for a signal, standard error) when it has ended."""
        status = os.waitpid(self.process, 0)[1]
        self.seconds = time.monotonic() - self.started
        self.errors.seek(0)
        said = self.errors.read()
        self.errors.close()
        return os.waitstatus_to_exitcode(status), said


def count_points(argv: list[str]) -> tuple[int, int]:
    """(points, bytes written) of a command that nothing happens to, in this process."""
    found, written = 0, 0

    def happening(_name: str, size: int) -> None:
        nonlocal found, written
        found, written = found + 1, written + size

    with points(happening), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(argv) == 0
    return found, written


@dataclass(frozen=True)
class Whole:
    """What there is to choose from in a run that nothing happens to."""

    points: int
    bytes: int
    seconds: float


@cache
def whole_run() -> Whole:
    small.reference()  # once, so that all is loaded
    with small.small(), small.folder() as first, small.folder() as second:
        child = Child(small.command(first))
        assert child.end()[0] == 0
        return Whole(*count_points(small.command(second)), child.seconds)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".tmp" in path.name]

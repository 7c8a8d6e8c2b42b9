"""A second process that compiles kernels beside this one, on a first run: those that a training step needs last.

Most of Numba's compiling is Python, so threads would not help. The first kernel that is not found on disk starts a
process on another core (second_process.py), which compiles kernels into the same folder. This one takes them from there
as it takes everything from there, by its digest (code_cache.py), and goes on as if it were alone: what it does not find
it compiles. It waits only for a kernel that the second process is at work on, and only while that lives. So where the
second process does not start, or dies, time is lost and nothing else. It has no input and no output of the user's.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from ...backend.threads import num_threads
from .llvm import DOUBLE


class Second:
    """The process that the process `parent`, this one, has started, if it has."""

    started = False
    process: subprocess.Popen[bytes] | None = None
    parent = 0


def start() -> None:
    """Start the second process, once, where there is a core for it and a Python to run it; it compiles for float32."""
    python = os.path.basename(sys.executable or "").startswith("python")  # another name: a program that embeds Python
    if DOUBLE or Second.started or os.name != "posix" or not python or num_threads() == 1:
        return
    Second.started = True
    module = f"{__package__}.second_process"
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import compile_kernels as c; c({os.getpid()})"
    nowhere = subprocess.DEVNULL
    with contextlib.suppress(OSError):
        process = subprocess.Popen([sys.executable, "-c", code], stdin=nowhere, stdout=nowhere, stderr=nowhere)
        threading.Thread(target=process.wait, daemon=True).start()  # so that it does not stay a zombie
        Second.process, Second.parent = process, os.getpid()


def wait_for(folder: Path, name: str) -> None:
    """Until the second process, if it is at work on the kernel of this name, has finished it or ended."""
    process = Second.process
    if process is None or Second.parent != os.getpid():  # after a fork it is the parent's
        return
    while process.poll() is None and any(folder.glob(f".{name}.{process.pid}.*")):
        time.sleep(0.01)

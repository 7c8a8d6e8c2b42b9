"""Programs that several processes run under mpiexec."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from importlib.util import find_spec
from pathlib import Path

import pytest

MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or find_spec("mpi4py") is None, reason="needs mpi4py and mpiexec: pip install mpi4py mpich"
)
ROOT = Path(__file__).parents[1]


class Run:
    """A program in several processes: `with Run(2, "-c", TEXT) as run`. What is left at the end is killed.

    All its processes have a mark in their environment, also those that they start.
    """

    def __init__(self, size, *arguments, **environment):
        command = [MPIEXEC, "-n", str(size), sys.executable, *map(str, arguments)]
        paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.started, self.mark = time.monotonic(), f"TESTED_RUN={uuid.uuid4()}"
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, **environment, **dict([self.mark.split("=")])},
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in [self.process.pid, *self.processes()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.communicate()

    def processes(self):
        """{process: its environment} of all that this run has started."""
        found = {}
        for file in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                words = file.read_bytes().decode(errors="replace").split("\0")
                if self.mark in words:
                    found[int(file.parent.name)] = words
        return found

    def workers(self):
        """The processes of the workers by their ranks."""
        found = {}
        for process, words in sorted(self.processes().items()):  # a worker before what it has started
            for rank in (word.partition("=")[2] for word in words if word.startswith("PMI_RANK=")):
                found.setdefault(int(rank), process)
        return found

    def wait(self, seconds=60):
        """(exit code, standard output, the lines of standard error) without what the launcher says.

        No process may be left soon after.
        """
        out, err = self.process.communicate(timeout=seconds)
        self.seconds = time.monotonic() - self.started
        until(lambda: not self.processes(), 5)
        return self.process.returncode, _without_launcher(out), _without_launcher(err).splitlines()


def run(size, *arguments, **environment):
    with Run(size, *arguments, **environment) as started:
        return started.wait()


def until(condition, seconds=30):
    """Wait until `condition()` is something, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)
    return found


def _without_launcher(text):
    """MPICH's launcher speaks of Ctrl-C, and puts a banner around the exit code of a worker that was killed."""
    before, rule, rest = text.partition("=" * 83)
    text = before.rstrip("\n") + ("" if not rule else rest.rpartition("debugging suggestions")[2])
    return "\n".join(line for line in text.splitlines() if not line.startswith("[mpiexec@")).rstrip("\n")

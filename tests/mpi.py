"""Programs that several processes run under mpiexec."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or find_spec("mpi4py") is None, reason="needs mpi4py and mpiexec: pip install mpi4py mpich"
)
ROOT = Path(__file__).parents[1]


class Run:
    """A program in several processes: `with Run(2, "-c", TEXT) as run`. What is left at the end is killed."""

    def __init__(self, size, *arguments, **environment):
        command = [MPIEXEC, "-n", str(size), sys.executable, *map(str, arguments)]
        paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, **environment},
        )
        self.size = size

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.workers().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
        if self.process.poll() is None:
            self.process.kill()  # the launcher's other half then kills the workers
        self.process.communicate()

    def workers(self):
        """The processes of the workers by their ranks."""
        found = {}
        for process in _descendants(self.process.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
                name = Path(f"/proc/{process}/cmdline").read_bytes()
                ranks = [int(word.partition(b"=")[2]) for word in words if word.startswith(b"PMI_RANK=")]
                if ranks and b"watcher.py" not in name:
                    found[ranks[0]] = process
        return found

    def wait(self, seconds=60):
        """(exit code, standard output, the lines of standard error) without what the launcher says."""
        out, err = self.process.communicate(timeout=seconds)
        self.seconds = time.monotonic() - self.started
        lines = [line for line in err.splitlines() if not line.startswith("[mpiexec@")]
        return self.process.returncode, _without_banner(out), lines


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


def _descendants(process):
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                yield child
                yield from _descendants(child)


def _without_banner(text):
    """MPICH's launcher puts one around the exit code of a worker that was killed."""
    before, rule, rest = text.partition("=" * 83)
    return before.rstrip("\n") + ("" if not rule else rest.rpartition("debugging suggestions")[2].rstrip("\n"))

"""Compiling in less time: a second process on a first run, and helpers that are compiled into kernels alone."""

import itertools
import os
import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest

from inception_np.backend import threads
from inception_np.backend.program import address
from inception_np.kernels.cpu import ahead, code_cache, compiler, elementwise, second_process, update
from inception_np.kernels.cpu.machine import Kernel, helper, kernel, unpack
from inception_np.kernels.cpu.simd import load, store


def entries(folder):
    """The names of the kernels in a folder."""
    return {p.name.split("-")[0] for p in folder.glob("compiled-*/*") if not p.name.startswith(".")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty one, for kernels; this process has started no second one."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ahead, "Second", type("Second", (), dict(vars(ahead.Second), process=None, started=False)))
    code_cache.cache_folder.cache_clear()
    yield tmp_path
    code_cache.cache_folder.cache_clear()


# What is started

FIRST_RUN = """
import sys, time
import numpy as np
from inception_np.backend.program import address
from inception_np.kernels.cpu import ahead, code_cache, elementwise, implicit_gemm

elementwise.scale_rows.address
second, kernel = ahead.Second.process, implicit_gemm.multiply_transposed
folder, name = code_cache.cache_folder(), code_cache._name(kernel.function)
while not list(folder.glob(f".{name}.{second.pid}.*")):
    assert second.poll() is None, "the second process has ended"
    time.sleep(0.01)
if sys.argv[1] == "kill it":
    second.kill()
if sys.argv[1] == "do not wait":
    ahead.wait_for = lambda folder, name: None
kernel.address
print("found" if kernel._compiled.cache_hits else "compiled", kernel.address > 0)
"""


@pytest.mark.skipif(os.name != "posix", reason="no second process elsewhere")
@pytest.mark.parametrize("what, said", [("wait", "found"), ("do not wait", "compiled"), ("kill it", "compiled")])
def test_a_first_run_takes_what_a_second_process_compiled_or_compiles_it(tmp_path, what, said):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "INCEPTION_NP_THREADS": "2"}
    command = [sys.executable, "-c", FIRST_RUN, what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{said} True\n", done.stderr
    assert done.stderr == "" or done.stderr.count("\n") == 1  # the note


class Fake:
    """In place of a process: what it was started with, and whether it lives."""

    made: list[tuple] = []  # noqa: RUF012
    pid = 123

    def __init__(self, command, **streams):
        self.made.append((command, streams))

    def wait(self):
        return 0

    def poll(self):
        return None


@pytest.fixture
def started(monkeypatch, folder):
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setattr(ahead.subprocess, "Popen", Fake)
    monkeypatch.setattr(threads, "used", 2)
    return Fake.made


def test_one_second_process_is_started_which_can_reach_no_stream_of_the_user(started):
    ahead.start()
    ahead.start()
    ((command, streams),) = started
    assert command[0] == sys.executable and repr(sys.path) in command[2]
    assert streams == dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)


@pytest.mark.parametrize("executable", ["", None, "/opt/blender/blender", "/usr/bin/uwsgi", "/home/me/frozen_python"])
def test_no_program_but_python_is_started(started, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    ahead.start()
    assert not started


def test_no_second_process_is_started_for_one_thread_or_where_kernels_are_not_kept(started, monkeypatch):
    monkeypatch.setattr(threads, "used", 1)
    ahead.start()
    monkeypatch.setattr(threads, "used", 2)
    monkeypatch.setattr(code_cache, "NUMBERED_APART", False)
    assert Kernel(elementwise.add_chunks.function).address and not started


def test_a_second_process_that_cannot_be_started_is_done_without(monkeypatch, started):
    def refuse(*_, **__):
        raise OSError("no more processes")

    monkeypatch.setattr(ahead.subprocess, "Popen", refuse)
    ahead.start()
    assert ahead.Second.process is None


# What is waited for


@pytest.mark.parametrize("ours", [True, False])
def test_a_kernel_in_the_making_is_waited_for_but_not_after_a_fork(started, tmp_path, monkeypatch, ours):
    ahead.start()
    making = tmp_path / ".name.123.x"
    making.mkdir()
    if not ours:
        monkeypatch.setattr(ahead.Second, "parent", os.getpid() + 1)
    threading.Timer(0.3, making.rmdir).start()
    begun = time.monotonic()
    ahead.wait_for(tmp_path, "another")
    assert time.monotonic() - begun < 0.2
    ahead.wait_for(tmp_path, "name")
    assert (time.monotonic() - begun > 0.2) == ours
    while making.exists():
        time.sleep(0.01)


# What the second process does


def test_the_second_process_compiles_what_nobody_has_begun(folder, monkeypatch):
    kernels = [Kernel(k.function) for k in (elementwise.add_chunks, elementwise.clear, update.sgd)]
    monkeypatch.setattr(second_process, "KERNELS", kernels)
    name = code_cache._name(elementwise.clear.function)
    (code_cache.cache_folder() / f".{name}.1.x").mkdir()
    parents = itertools.chain([7, 7], itertools.repeat(1))  # it ends before the third kernel
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    second_process.compile_kernels(7)
    assert entries(folder) == {"elementwise.add_chunks"}
    assert code_cache.begun(elementwise.add_chunks.function)


# Helpers


def one(x, n):
    return load(x, n) + load(x, n)


twice = helper(one)


def doubled(part, parts, arguments):
    x, y, n = unpack(arguments, "qqq")
    store(y, twice(x, 16), 16)
    store(y + 64, twice(x + 64, n), n)


@pytest.mark.parametrize("mark, variants", [(helper, 1), (numba.njit, 2)])
def test_a_helper_is_compiled_once_whether_it_is_given_a_number_or_a_variable(folder, monkeypatch, mark, variants):
    monkeypatch.setitem(globals(), "twice", mark(one))
    monkeypatch.setattr(ahead.Second, "started", True)
    x, y = np.arange(1, 33, dtype=np.float32), np.zeros(32, np.float32)
    kernel(doubled)(address(x), address(y), 5, parts=1)
    assert np.array_equal(y, np.where(np.arange(32) < 21, 2 * x, 0))
    overloads = globals()["twice"].overloads.values()
    assert len(overloads) == variants
    linked = {f.linkage.name for c in overloads for f in c.library._final_module.functions if not f.is_declaration}
    assert (linked == {"available_externally"}) == (mark is helper)


def test_a_numba_with_other_passes_optimises_kernels_in_its_own_way(folder, monkeypatch):
    called = []
    monkeypatch.setattr(compiler.JITCodeLibrary, "_optimize_final_module", lambda self: called.append(self))
    codegen = compiler.Helper(one).targetctx.codegen()
    monkeypatch.setattr(type(codegen), "_module_pass_manager", lambda self, **_: object())
    monkeypatch.setattr(ahead.Second, "started", True)
    assert Kernel(elementwise.add_chunks.function).address and len(called) == 1

"""The CUDA sources of inception_np/kernels/cuda compiled by g++ for the CPU, and launched as CuPy would launch them.

    with on_host(monkeypatch): ...        # every launch() inside runs on the CPU, on strict_cupy's arrays

`build(text, options)` compiles a source's text, so that a test can plant a fault in it first. Libraries are kept in a
folder of the system's temporary folder, under a digest of all that went into them. With HOST_CUDA_DEBUG=1 they are
built for a debugger, as README.md beside this file shows.
"""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import strict_cupy

from inception_np.kernels.cuda import launch

SHIM = Path(__file__).with_name("cuda_on_host.h")
COMMAND = "g++ -x c++ -std=c++17 -O1 -fPIC -shared -w -ffp-contract=off -U_FORTIFY_SOURCE -fsanitize=alignment"
KEPT = Path(tempfile.gettempdir()) / f"inception_np_host_cuda_{os.getuid() if hasattr(os, 'getuid') else 0}"
DEBUG = ("-g", "-O0") if os.environ.get("HOST_CUDA_DEBUG") else ()
BARRIERS = re.compile(r"__sync|__shfl|mma_16x8\(")

missing = "needs g++ on x86-64 Linux" if shutil.which("g++") is None or os.uname().machine != "x86_64" else ""


@functools.cache
def build(text: str, options: tuple[str, ...] = ()) -> ctypes.CDLL:
    """A source's text as a library: kernel `name` becomes `host_name`; `set_greedy` says how threads take turns."""
    names = re.findall(r'extern "C" __global__ void\s+(?:__launch_bounds__\(.*?\)\s+)?(\w+)\(', text)
    barriers = "true" if BARRIERS.search(text) else "false"
    entries = "".join(
        f'extern "C" void host_{name}(const unsigned* grid, const unsigned* block, void** arguments) '
        f"{{ launch({name}, grid, block, arguments, {barriers}); }}\n"
        for name in names
    )
    turn = 'extern "C" void set_greedy(int yes) { greedy = yes; }\n'
    turn += 'extern "C" int misaligned() { return std::exchange(misaligned_accesses, 0); }\n'
    turn += 'extern "C" int threads_stuck() { return std::exchange(stuck, 0); }\n'
    turn += 'extern "C" int astray() { return std::exchange(took_unwritten, false); }\n'
    turn += 'extern "C" int told_early() { return std::exchange(told_too_early, false); }\n'
    code = f'#include "{SHIM}"\n{text}\n{turn}{entries}'
    digest = hashlib.sha256((code + SHIM.read_text() + repr((COMMAND, options))).encode()).hexdigest()[:24]
    library = KEPT / f"{digest}.so"
    if not library.exists():
        KEPT.mkdir(exist_ok=True, mode=0o700)
        part, source = library.with_suffix(f".{os.getpid()}"), library.with_suffix(".cpp")  # what a debugger lists
        source.write_text(code)
        done = subprocess.run([*COMMAND.split(), *options, source, "-o", part], text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"g++ refused the source:\n{done.stderr[:2000]}")
        part.rename(library)
    return ctypes.CDLL(str(library))


def function(library: ctypes.CDLL, name: str, greedy: bool) -> Any:
    """What launch.function gives, for a library: it can be called with (blocks, threads, arguments)."""
    kernel = getattr(library, f"host_{name}")

    def run(blocks: tuple, threads: tuple, arguments: tuple) -> None:
        kept = [_value(a) for a in arguments]
        memory = [a._a for a in arguments if isinstance(a, strict_cupy.ndarray)]
        pointers = (ctypes.c_void_p * len(kept))(*(k.ctypes.data for k in kept))
        three = [(ctypes.c_uint * 3)(*t, *[1] * (3 - len(t))) for t in (blocks, threads)]

        def act() -> None:
            assert kept and memory is not None  # alive as long as a graph may launch this again
            library.set_greedy(int(greedy))
            kernel(*three, pointers)
            assert not library.misaligned(), f"{name}: an address is not a multiple of what is read or written there"
            assert not library.threads_stuck(), f"{name}: threads wait at a barrier that others never reach"
            assert not library.told_early(), f"{name}: a block was counted before all it wrote was there for others"
            assert not library.astray(), f"{name} took an offset from shared memory that nobody had written"

        strict_cupy.change(act)

    return run


def _value(argument: Any) -> np.ndarray:
    """An argument's own bytes: a pointer for a device array, the value for the rest, as CuPy passes them."""
    if argument is None:
        return np.zeros(1, np.uint64)
    if isinstance(argument, strict_cupy.ndarray):
        return np.array([argument.data.ptr], np.uint64)
    if isinstance(argument, np.generic) or (isinstance(argument, np.ndarray) and argument.size == 1):
        return np.atleast_1d(argument)
    raise TypeError(f"CuPy cannot pass {type(argument).__name__} to a kernel")


def on_host(monkeypatch: Any, *, greedy: bool = False, fault: tuple[str, str, str] | None = None) -> None:
    """Send every launch() to the CPU for one test. fault: (source, its text, the text planted instead)."""
    if fault is not None and fault[1] not in (launch.FOLDER / fault[0]).read_text():
        raise LookupError(f"{fault[0]} has no {fault[1]!r} to spoil")

    def on_cpu(source: str, kernel: str, options: tuple[str, ...]) -> Any:
        text = launch.text(source)
        if fault is not None and (fault[0] == source or fault[0].endswith(".cuh")):
            text = text.replace(fault[1], fault[2])
        return function(build(text, (*options, *DEBUG)), kernel, greedy)

    monkeypatch.setattr(launch, "function", on_cpu)
    monkeypatch.setattr(launch, "_tickets", {})  # a spoiled kernel may leave others than zeros

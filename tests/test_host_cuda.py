"""The CPU build of the CUDA sources in a debugger, and what the comments of windows.cuh say of one pixel."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import host_cuda
import numpy as np
import pytest
import strict_cupy

from inception_np.kernels.cuda import launch

TESTS = Path(__file__).parent
on_host = pytest.mark.skipif(bool(host_cuda.missing), reason=host_cuda.missing or "g++ is here")
README = (TESTS / "host_cuda" / "README.md").read_text()


def small_convolution(folder, *before, debug):
    """What `python -m host_cuda` prints, with its libraries in that folder."""
    env = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    env.pop("HOST_CUDA_DEBUG", None)
    env |= {"HOST_CUDA_DEBUG": "1"} if debug else {}
    command = [*before, sys.executable, "-m", "host_cuda"]
    return subprocess.run(command, env=env, cwd=TESTS, text=True, capture_output=True, check=True).stdout


def has_debug_info(folder):
    libraries = list(folder.glob("*/*.so"))
    assert libraries
    return all(b".debug_info" in library.read_bytes() for library in libraries)


@on_host
@pytest.mark.slow
def test_the_build_for_a_debugger_has_symbols_and_the_same_numbers(tmp_path):
    found = {}
    for debug in (False, True):
        folder = tmp_path / str(debug)
        folder.mkdir()
        found[debug] = small_convolution(folder, debug=debug)
        assert has_debug_info(folder) == debug
    assert found[False] == found[True] and len(found[True].splitlines()) == 3


@on_host
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_gdb_steps_through_one_thread_of_a_kernel(tmp_path):
    commands = [
        "set pagination off",
        "set breakpoint pending on",
        "break multiply if threadIdx.x == 37 && blockIdx.z == 1",
        "run",
        *["next"] * 8,  # over the first barrier
        "print threadIdx.x",
        "delete",
        "break WindowRows::line if m == 8 && blockIdx.z == 1",
        "run",
        "set $dy = data",
        "finish",
        "print $.from - $dy",
    ]
    before = ["gdb", "-q", "-nx", "-batch", *(word for c in commands for word in ("-ex", c)), "--args"]
    shown = small_convolution(tmp_path, *before, debug=True)
    if "The program is not being run" in shown:
        pytest.skip("gdb may not trace a process here")
    assert re.search(r"^\$\d+ = 37$", shown, re.M), shown
    assert "const A rows(shared.lines.a);" in shown.split("__syncthreads();")[1], shown
    assert re.search(r"^\$\d+ = 224$", shown, re.M), shown
    assert "hidden = 32768}" in shown and "hidden = 32768}" in README and "$6 = 224\n" in README


WORKED = """
extern "C" __global__ void worked(int* axes) {
  const int size[2] = {8, 12}, positions[2] = {4, 6}, pixel[2] = {3, 4};
  for (int i = 0; i < 2; i++) {
    const int first = pixel[i] % 2, number = pixel[i] / 2;
    const Taps t((first + 1) % 2, 3, 2, 1);
    const Axis a = viewers(t, first + 1, size[i] / 2, positions[i], 2, 1);
    const int found[] = {t.first, t.step, t.count, t.shift, a.origin, a.step, number, a.origin + number * a.stride};
    for (int j = 0; j < 8; j++) axes[i * 8 + j] = found[j];
  }
}
"""


HEADER = (launch.FOLDER / "windows.cuh").read_text().replace("#pragma once", "")


def worked_example(header):
    """What WORKED finds for pixel (3, 4), and the (p, q, r, s) with dy[p, q] * w[r, s] in its dx."""
    common = (launch.FOLDER / "common.cuh").read_text().replace("#pragma once", "")
    axes = np.zeros((2, 8), np.int32)
    kernel = host_cuda.function(host_cuda.build(common + header + WORKED), "worked", False)
    kernel((1,), (1,), (strict_cupy.ndarray(axes),))
    rows, columns = (
        [(position + k * apart, first + k * step) for k in range(count)]
        for first, step, count, _, _, apart, _, position in axes.tolist()
    )
    return axes.tolist(), sorted((p, q, r, s) for p, r in rows for q, s in columns)


# the formula of layers/conv.py: every position and tap with p * stride + r - pad = pixel
SUMMED = [
    (p, q, r, s) for p, q, r, s in np.ndindex(4, 6, 3, 3) if (p * 2 + r - 1, q * 2 + s - 1) == (3, 4)
]  # fmt: skip


@on_host
def test_the_worked_example_at_taps_is_what_taps_and_viewers_give():
    axes, terms = worked_example(HEADER)
    assert terms == SUMMED
    said = re.sub(r"\s+", " ", HEADER.replace("//", ""))
    assert " + ".join(f"dy[{p}, {q}] * w[{r}, {s}]" for p, q, r, s in SUMMED) in said
    for (first, step, count, shift, origin, _, number, _), side in zip(axes, ("rows", "columns"), strict=True):
        assert f"number {number} of {side}" in said
        assert f"from the edge Taps: first {first}, step {step}, count {count}, shift {shift}" in said
        assert f"along {side}, origin {origin}" in said


@on_host
@pytest.mark.parametrize(
    "sound, fault",
    [
        ("-taps.shift}", "taps.shift}"),
        ("(at - taps.first * dilation) / stride", "at / stride + 1"),
        ("(remainder - first * dilation) % stride != 0", "(remainder + 1 - first * dilation) % stride != 0"),
        ("count = (kernel - 1 - first) / step + 1", "count = (kernel - 1 - first) / step"),
    ],
)
def test_a_spoiled_taps_or_viewers_gathers_something_else(sound, fault):
    assert sound in HEADER
    assert worked_example(HEADER.replace(sound, fault))[1] != SUMMED

"""The device, or in a dry run (INCEPTION_NP_DRY=1) what stands in for it.

So no line of a visit runs on the device for the first time. In a dry run CuPy is tests/strict_cupy.py with the kernels
on the CPU, PyTorch is on the CPU, and sizes are tiny.
"""

import os
import time
import types

import torch

DRY = os.environ.get("INCEPTION_NP_DRY") == "1"
TORCH = "cpu" if DRY else "cuda"


def cupy() -> types.ModuleType:
    """CuPy; in a dry run its stand-in, put where `import cupy` finds it."""
    if DRY:
        import host_cuda
        import pytest
        import strict_cupy

        patch = pytest.MonkeyPatch()
        host_cuda.on_host(patch)
        return strict_cupy.pretend(patch)
    import cupy

    return cupy


def wait() -> None:
    """For all that the device was asked to do."""
    if not DRY:
        torch.cuda.synchronize()


def seconds(step, times: int) -> float:
    """Of one step. `step(i)` runs on all streams that it likes: the device is waited for on both sides."""
    wait()
    begin = time.perf_counter()
    for i in range(times):
        step(i)
    wait()
    return (time.perf_counter() - begin) / times


def small(real, tiny):
    """A size for the device, or for a dry run."""
    return tiny if DRY else real

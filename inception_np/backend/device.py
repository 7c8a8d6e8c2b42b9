"""On which device an array lives, which kernels apply to it, and moves between CPU and GPU.

This file and kernels/cuda/launch.py are the only ones that import CuPy, besides runtime/graph.py.

    INCEPTION_NP_PLAIN=1    only the plain kernels, on every device

`precision` is that of a GPU; a CPU computes in float32 whatever it says:

    "float32"    the array module's products (cuBLAS), one operation at a time: to debug, and to compare with
    "tf32"       convolutions and linear layers round both factors to TF32, for tensor cores, as cuDNN does for PyTorch
    "bf16"       training keeps activations in bfloat16 as well, which products then take; weights, their gradients,
                 sums and statistics stay float32
"""

import os
import warnings
from typing import Any

import numpy as np

from .arrays import Array, Shape, array_module

PLAIN = os.environ.get("INCEPTION_NP_PLAIN", "0") not in ("", "0")
precision = "tf32"  # assigned by set_precision


class DeviceError(RuntimeError):
    """A device that was asked for cannot be used."""


def compiled(*arrays: Array) -> bool:
    """True where the Numba kernels apply: float32 NumPy arrays, none empty, and INCEPTION_NP_PLAIN is not set."""
    return not PLAIN and all(isinstance(a, np.ndarray) and a.dtype == np.float32 and a.size > 0 for a in arrays)


def on_gpu(x: Array) -> bool:
    """True where the CUDA kernels apply: a CuPy array of float32 or bfloat16, and INCEPTION_NP_PLAIN is not set."""
    if PLAIN or isinstance(x, np.ndarray) or array_module(x).__name__ != "cupy":
        return False
    return bool(x.dtype == np.float32 or x.dtype.name == "bfloat16")


def on_tensor_cores(x: Array) -> bool:
    """True where products run on tensor cores: on_gpu(x), and `precision` is not "float32"."""
    return precision != "float32" and on_gpu(x)


def set_precision(name: str) -> None:
    """Compute in "float32", "tf32" or "bf16" on a GPU from now on; the top of this file says what each is.

    Raises ValueError for another name and DeviceError for "bf16" without the package that it needs.
    """
    global precision
    if name not in ("float32", "tf32", "bf16"):
        raise ValueError(f'precision: got {name!r}, wanted "float32", "tf32" or "bf16"')
    if name == "bf16":
        try:
            import ml_dtypes  # noqa: F401
        except ImportError:
            raise DeviceError(
                "bf16: ml_dtypes is not installed; pip install ml_dtypes, or use --precision tf32"
            ) from None
    precision = name


def storage() -> Any:
    """The dtype of a training step's activations on a GPU: float32, or bfloat16 with precision "bf16"."""
    if precision != "bf16":
        return np.dtype(np.float32)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def zeros(shape: Shape, dtype: Any, like: Array) -> Array:
    """A new array of zeros, on the device of `like`."""
    return array_module(like).zeros(shape, dtype)


def resolve_device(name: str) -> str:
    """The device that a name means: "cpu", "cuda", or "auto" (a GPU if one answers).

    Raises ValueError for another name and DeviceError where "cuda" was asked for and cannot be had.
    """
    if name not in ("cpu", "cuda", "auto"):
        raise ValueError(f'device: got {name!r}, wanted "cpu", "cuda" or "auto"')
    if name == "cpu":
        return "cpu"
    why = _no_cuda()
    if why is None:
        return "cuda"
    if name == "cuda":
        raise DeviceError(f"cuda: {why}; use --device cpu")
    return "cpu"


def check_tensor_cores() -> None:
    """Raise DeviceError where the GPU is too old for `precision`."""
    import cupy

    capability = int(cupy.cuda.Device().compute_capability)  # 75 is 7.5
    if precision != "float32" and capability < 80:
        raise DeviceError(
            f"cuda: got a GPU of compute capability {capability / 10}, {precision} needs 8.0; use --precision float32"
        )


def use_gpu(number: int) -> str:
    """Compute on this one of the GPUs from now on, or where they are fewer, on number modulo their count.

    Returns its address on the machine's bus. For the thread that calls it, before its first array.
    """
    import cupy

    gpu = cupy.cuda.Device(number % cupy.cuda.runtime.getDeviceCount())
    gpu.use()
    return str(gpu.pci_bus_id)


def nccl() -> Any:
    """CuPy's module of NCCL. Raises DeviceError where NVIDIA's library is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy says in five lines what is said in one below
        from cupy.cuda import nccl
    if not nccl.available:
        raise DeviceError("cuda: several GPUs need NCCL, which is missing; pip install nvidia-nccl-cu13 (or -cu12)")
    return nccl


def _no_cuda() -> str | None:
    """Why no GPU can be used, or None where one can."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed (it is the extra gpu12 or gpu13)"
    try:
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return None
        return "no CUDA device was found"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return str(error)


def asarray(x: Array, device: str) -> Array:
    """x as an array on "cpu" or "cuda"; the same array where it already lives there."""
    on_cpu = isinstance(x, (np.ndarray, np.generic))
    if device == "cpu":
        return x if on_cpu else array_module(x).asnumpy(x)
    import cupy

    return cupy.asarray(x)


def to_device_of(x: np.ndarray, like: Array) -> Array:
    """A NumPy array brought to where `like` lives."""
    xp = array_module(like)
    return x if xp is np else xp.asarray(x)

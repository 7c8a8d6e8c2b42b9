"""On which device an array lives, which kernels apply to it, and moves between CPU and GPU.

This file and kernels/cuda/launch.py are the only ones that import CuPy, besides runtime/graph.py.

    INCEPTION_NP_PLAIN=1    only the plain kernels, on every device
    INCEPTION_NP_TF32=1     on a GPU, convolutions round their factors to TF32, for tensor cores
"""

import os
from typing import Any

import numpy as np

from .arrays import Array, Shape, array_module

PLAIN = os.environ.get("INCEPTION_NP_PLAIN", "0") not in ("", "0")
TF32 = os.environ.get("INCEPTION_NP_TF32", "0") not in ("", "0")


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
    """True where convolutions round their factors to TF32: on_gpu(x), and INCEPTION_NP_TF32=1."""
    return TF32 and on_gpu(x)


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

"""Which array module owns an array."""

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # a numpy.ndarray or a cupy.ndarray
Shape = tuple[int, ...]


def array_module(x: Array) -> ModuleType:
    """The module whose functions work on x: `numpy`, or `cupy` for an array on a GPU."""
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    return sys.modules[type(x).__module__.partition(".")[0]]

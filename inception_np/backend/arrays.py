"""Which array module owns an array, and functions of the arrays in a nesting such as (logits, {"4a": logits})."""

import sys
from collections.abc import Callable
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


def is_real(dtype: Any) -> bool:
    """True for a dtype of floating real numbers: NumPy's own, or bfloat16, which ml_dtypes adds to them."""
    return bool(dtype.kind == "f" or dtype.name == "bfloat16")


def map_tree(f: Callable[..., Any], *trees: Any) -> Any:
    """f of every array of a nested tuple or dict, or of those in equal places of several, in the same nesting."""
    if isinstance(trees[0], dict):
        return {k: map_tree(f, *[tree[k] for tree in trees]) for k in trees[0]}
    if isinstance(trees[0], (tuple, list)):
        return tuple(map_tree(f, *branches) for branches in zip(*trees, strict=True))
    return f(*trees)


def leaves(tree: Any) -> list[Any]:
    """The arrays of a nested tuple or dict, in order."""
    if isinstance(tree, dict):
        return [a for v in tree.values() for a in leaves(v)]
    if isinstance(tree, (tuple, list)):
        return [a for v in tree for a in leaves(v)]
    return [tree]

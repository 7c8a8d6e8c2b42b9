"""What the functions that call compiled kernels have in common: where they write, and how many parts they make."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from ...backend.program import falls_back_to_numpy
from .llvm import NUMBER, SIZE
from .machine import contiguous, is_rows

F = TypeVar("F", bound=Callable[..., Any])
SMALL = 1 << 16  # bytes that one thread does faster than two


def few_parts(nbytes: int) -> int | None:
    """The parts of a kernel over an array of so many bytes: one where it is small, else as many as usual (None)."""
    return 1 if nbytes < SMALL else None


def in_rows(name: str, stands: Callable[[np.ndarray], bool] = is_rows) -> Callable[[F], F]:
    """The function writes to the argument of this name (`out`), or adds to it (`into`, `dw`), in rows.

    Where that array does not stand in rows, the function writes to a new one that does, and NumPy copies or adds it.
    stands: True for an array that the function can write to, for a function that can follow other strides.
    """

    def decorate(function: F) -> F:
        at = list(inspect.signature(function).parameters).index(name)

        @wraps(function)
        def call(*arguments: Any) -> Any:
            target = arguments[at]
            if target is None or stands(target):
                return function(*arguments)
            falls_back_to_numpy(target)
            in_order = np.zeros(target.shape, NUMBER)
            result = function(*arguments[:at], in_order, *arguments[at + 1 :])
            if name == "out":
                target[...] = in_order
            else:
                target += in_order
            return (target, *result[1:]) if isinstance(result, tuple) else None if result is None else target

        return call  # type: ignore[return-value]

    return decorate


def is_channels_last(a: np.ndarray) -> bool:
    """True where channels are neighbours and no stride runs backwards: windows can slide over such an array."""
    strides = a.strides
    return min(strides) >= 0 and (a.shape[-1] == 1 or strides[-1] == SIZE) and not any([s % SIZE for s in strides])


def channels_last(a: np.ndarray) -> np.ndarray:
    """a, or a copy of it whose channels are neighbours."""
    return a if is_channels_last(a) else contiguous(a)

"""How a kernel is chosen: by its first argument, an array or a list of arrays.

    @dispatch(cpu=lambda beta: beta in POWERS)
    def lrn(x, size, alpha, beta, k, *, out=None):
        return copy_to(out, x * (k + alpha * channel_window_sum(x * x, size)) ** -beta)

The body is the plain version: it runs on any array module and dtype, and is the formula that the fast ones are compared
with. The fast ones are its twins, of the same file name, function name and order of arguments (all by position):

    lrn(x, ...)    runs kernels/cuda/lrn.py's lrn    where x is a float32 CuPy array
                        kernels/cpu/lrn.py's lrn     where all its floating arrays are of NumPy, float32 and not empty
                        the body                     otherwise, and with INCEPTION_NP_PLAIN=1

cpu, gpu: what that twin asks of its arguments besides, a function of some of them by name; False where there is none.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar, overload

import numpy as np

from .. import backend

P = ParamSpec("P")
R = TypeVar("R")
Condition = Callable[..., bool] | bool


@overload
def dispatch(plain: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def dispatch(*, cpu: Condition = True, gpu: Condition = True) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def dispatch(plain: Callable[..., Any] | None = None, /, *, cpu: Condition = True, gpu: Condition = True) -> Any:
    """Give a kernel its twins; see the top of this file."""
    if plain is None:
        return lambda plain: _dispatched(plain, cpu, gpu)
    return _dispatched(plain, cpu, gpu)


def _dispatched(plain: Callable[P, R], cpu: Condition, gpu: Condition) -> Callable[P, R]:
    signature = inspect.signature(plain)
    parameters = signature.parameters.values()
    count = sum(p.kind is not p.KEYWORD_ONLY for p in parameters)
    optional = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    needed = {name for name, default in optional.items() if default is inspect.Parameter.empty}
    names, defaults = tuple(optional), tuple(optional.values())
    conditions = {"cpu": cpu, "cuda": gpu}
    asked = {folder: _places(condition, list(signature.parameters)) for folder, condition in conditions.items()}
    twins: dict[str, Callable[..., R]] = {}

    def fits(folder: str, values: tuple[Any, ...]) -> bool:
        condition = conditions[folder]
        return condition(*map(values.__getitem__, asked[folder])) if callable(condition) else condition

    def twin(folder: str) -> Callable[..., R]:
        if folder not in twins:
            file = plain.__module__.rpartition(".")[2]
            twins[folder] = getattr(import_module(f"{__package__}.{folder}.{file}"), plain.__name__)
        return twins[folder]

    @wraps(plain)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        if len(args) != count or not needed <= keywords.keys() <= optional.keys():
            bound = signature.bind(*args, **keywords)  # raises TypeError for what the kernel does not take
            bound.apply_defaults()
            args, keywords = bound.args, bound.kwargs  # type: ignore[assignment]
        values = args + tuple(map(keywords.get, names, defaults))
        first = values[0][0] if isinstance(values[0], list) else values[0]
        if not isinstance(first, np.ndarray):
            if gpu and backend.on_gpu(first) and fits("cuda", values):
                return twin("cuda")(*values)
        elif cpu:
            floating = []
            for a in values:  # (a loop is no Python call: this is asked some thousand times a second)
                if isinstance(a, np.ndarray) and a.dtype.kind in "fc":
                    floating.append(a)  # noqa: PERF401
            if backend.compiled(*floating, fits=cpu is True or cpu(*map(values.__getitem__, asked["cpu"]))):
                return (twins.get("cpu") or twin("cpu"))(*values)
        return plain(*args, **keywords)

    call.conditions = conditions  # type: ignore[attr-defined]
    return call


def _places(condition: Condition, names: list[str]) -> list[int]:
    """Where the arguments that a condition asks for stand among those of the kernel."""
    return [names.index(name) for name in inspect.signature(condition).parameters] if callable(condition) else []

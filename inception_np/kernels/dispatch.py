"""How a kernel is chosen: by its first argument, an array or a list of arrays.

    @dispatch(cpu=lambda beta: beta in POWERS)
    def lrn(x, size, alpha, beta, k, *, out=None):
        return copy_to(out, x * (k + alpha * channel_window_sum(x * x, size)) ** -beta)

The body is the plain version: it runs on any array module and dtype, and is the formula that the fast ones are compared
with. The fast ones are its twins, of the same file name, function name and order of arguments (all by position):

    lrn(x, ...)    runs kernels/cuda/lrn.py's lrn    where x is a CuPy array of float32 or bfloat16
                        kernels/cpu/lrn.py's lrn     where all its floating arrays are of NumPy, float32 and not empty
                        kernels/cpu64/lrn.py's lrn   with double=True: where they are float64, and x has MANY numbers
                        the body                     otherwise, and with INCEPTION_NP_PLAIN=1; not for bfloat16

cpu, gpu: a further condition of that twin, a function of some arguments by name; False where there is no twin.
double: the CPU's twin is used for float64 too.
"""

import inspect
from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar, cast, overload

import numpy as np

from ..backend import device
from ..backend.program import executor

P = ParamSpec("P")
R = TypeVar("R")
Condition = Callable[..., bool] | bool

MANY = 1 << 17  # float64 numbers: more than a gradient check of any _cifar network has in one array


@overload
def dispatch(plain: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def dispatch(
    *, cpu: Condition = True, gpu: Condition = True, double: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def dispatch(
    plain: Callable[..., Any] | None = None, /, *, cpu: Condition = True, gpu: Condition = True, double: bool = False
) -> Any:
    """Give a kernel its twins; see the top of this file."""
    if plain is None:
        return lambda plain: _dispatched(plain, cpu, gpu, double)
    return _dispatched(plain, cpu, gpu, double)


def _dispatched(plain: Callable[P, R], cpu: Condition, gpu: Condition, double: bool) -> Callable[P, R]:
    signature = inspect.signature(plain)
    parameters = signature.parameters.values()
    count = sum(p.kind is not p.KEYWORD_ONLY for p in parameters)
    optional = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    needed = {name for name, default in optional.items() if default is inspect.Parameter.empty}
    names, defaults = tuple(optional), tuple(optional.values())
    conditions = {"cpu": cpu, "cuda": gpu}
    (fits_cpu, cpu_places), (fits_gpu, gpu_places) = (_condition(c, signature) for c in (cpu, gpu))
    twins: dict[str, Callable[..., R]] = {}

    def twin(folder: str) -> Callable[..., R]:
        file = plain.__module__.rpartition(".")[2]
        twins[folder] = getattr(import_module(f"{__package__}.{folder}.{file}"), plain.__name__)
        return twins[folder]

    @wraps(plain)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        if len(args) != count or not needed <= keywords.keys() <= optional.keys():
            bound = signature.bind(*args, **keywords)  # raises TypeError for what the kernel does not take
            bound.apply_defaults()
            args, keywords = bound.args, bound.kwargs  # type: ignore[assignment]
        instead = executor().instead
        if instead is not None:
            return cast(R, instead(plain, args, keywords))
        values = args + tuple(map(keywords.get, names, defaults))
        first = values[0][0] if isinstance(values[0], list) else values[0]
        if not isinstance(first, np.ndarray):
            if gpu and device.on_gpu(first) and fits_gpu(*map(values.__getitem__, gpu_places)):
                return (twins.get("cuda") or twin("cuda"))(*values)
        elif cpu:
            compiled = not device.PLAIN
            wide = double and first.size >= MANY and first.dtype == np.float64
            folder, kind = ("cpu64", np.float64) if wide else ("cpu", np.float32)
            for a in values:  # (a loop is no Python call: this is asked some thousand times a second)
                if isinstance(a, np.ndarray) and a.dtype.kind in "fcV" and (a.dtype != kind or a.size == 0):
                    compiled = False
            if compiled and fits_cpu(*map(values.__getitem__, cpu_places)):
                return (twins.get(folder) or twin(folder))(*values)
            executor().falls_back(f"what {plain.__name__} has no compiled kernel for")
        for a in values:
            dtype = getattr(a, "dtype", None)
            if dtype is not None and dtype.kind == "V":  # its sums would be rounded at every step
                raise TypeError(f"{plain.__name__}: got an array of {dtype}, for which it has no kernel; use float32")
        return plain(*args, **keywords)

    call.conditions = conditions  # type: ignore[attr-defined]
    return call


def _condition(condition: Condition, signature: inspect.Signature) -> tuple[Callable[..., bool], list[int]]:
    """A condition, and the places of its arguments. Unless one of these is an array, the answers are kept."""
    if not callable(condition):
        return cache(lambda: condition), []
    names, asked = list(signature.parameters), list(inspect.signature(condition).parameters)
    places = [names.index(name) for name in asked]
    arrays = any("Any" in str(signature.parameters[name].annotation) for name in asked)  # (an Array is Any)
    return condition if arrays or not asked else cache(condition), places

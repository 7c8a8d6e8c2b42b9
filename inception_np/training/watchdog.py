"""Watch for numbers that are not finite (NaN, or beyond what their type can hold), and name the first of them."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..backend.arrays import Array, leaves
from ..backend.device import asarray
from ..layer import Buffer, Layer, Param, named_params, walk, watch, zero_grad
from ..layers.batchnorm import BatchNorm


def is_finite(array: Array) -> bool:
    """Whether all numbers of an array are finite, on any device."""
    return bool(np.isfinite(asarray(array, "cpu")).all())


def all_finite(arrays: Iterable[np.ndarray]) -> bool:
    """Whether all numbers are finite. A sum, which is faster than a look at each, is finite only if they are."""
    with np.errstate(all="ignore"):
        return all(math.isfinite(np.add.reduce(a, axis=None)) or is_finite(a) for a in arrays)


def first_not_finite(net: Layer, kind: Any = (Param, Buffer)) -> str | None:
    """The first parameter or running average that is not finite, such as "the weight of layer fc (Linear)".

    kind: Param or Buffer, for those alone. None if all numbers are finite.
    """
    layers = [("", net), *((path, layer) for path, layer in walk(net) if isinstance(layer, Layer))]
    for path, layer in layers:
        for name, child in layer.children().items():
            if isinstance(child, kind) and not is_finite(child.data):
                return f"the {_called(layer, name)} of {_layer(path, layer)}"
    return None


def _called(layer: Layer, name: str) -> str:
    if isinstance(layer, BatchNorm):
        name = {"mean": "running mean", "var": "running variance"}.get(name, name)
    return name


def _layer(path: str, layer: Layer) -> str:
    return f"layer {path} ({type(layer).__name__})" if path else type(layer).__name__


NOWHERE = "the loss"  # where a search finds no layer


class _FoundError(Exception):
    """Carries a layer's name out of the network."""


def first_bad_layer(net: Layer, passes: Callable[[], Any]) -> str:
    """What is not finite first while `passes()` runs the network: a parameter, or else a layer's result or gradient.

    All parameters are looked at before anything runs, also those of layers that only their parent calls. Running
    averages come last: training moves them, but does not compute with them.
    """
    culprit = first_not_finite(net, Param)
    if culprit:
        return culprit

    def forward(path: str, layer: Layer, call: Callable[[], Any], *_: Any) -> Any:
        y, cache = call()
        if not _all_finite(y):
            raise _FoundError(_layer(path, layer))
        return y, cache

    def backward(path: str, layer: Layer, call: Callable[[], Any], *_: Any) -> Any:
        dx = call()
        # the parameters are also those of layers whose own backward nobody calls
        if not _all_finite(dx) or not all(is_finite(p.grad) for p in named_params(layer).values()):
            raise _FoundError(f"the gradient in {_layer(path, layer)}")
        return dx

    zero_grad(net)
    try:
        with watch(net, forward=forward, backward=backward):
            passes()
    except _FoundError as found:
        return str(found)
    return first_not_finite(net, Buffer) or NOWHERE


def _all_finite(result: Any) -> bool:
    """Whether all arrays of a layer's result are finite: an array, None, or (logits, {head: logits})."""
    return all(is_finite(a) for a in leaves(result) if hasattr(a, "dtype"))

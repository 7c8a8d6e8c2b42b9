"""A few lines that repeat a failure, complete where the layer and its input are small enough to be written out."""

import inspect
from typing import Any

import numpy as np

from ..layer import Layer, Mode, named_params
from .report import Check

MOST = 60  # numbers


def snippet(layer: Layer, x: np.ndarray, mode: Mode, method: str, seed: int, worst: Check) -> str:
    """Python that builds the layer, its parameters and x, and prints the report; names what it cannot build."""
    cls = type(layer)
    params = named_params(layer)
    lines = ["import numpy as np", "from inception_np import Mode, check_gradients"]
    call = constructor(layer)
    lines.append(
        f"from {cls.__module__} import {cls.__name__}"
        if call
        else f"# layer, x: the {cls.__name__} and its input, x {x.shape}"
    )
    if call:
        lines.append(f"layer = {call}")
    written = x.size + sum(p.data.size for p in params.values()) <= MOST
    if written and call:
        lines += [f"layer.{name}.data = np.array({p.data.tolist()}, np.{p.data.dtype})" for name, p in params.items()]
        lines.append(f"x = np.array({x.tolist()}, np.{x.dtype})")
    elif call:
        lines.append(f"# x, {x.shape}, and the parameters as they were")
    lines.append(
        f"print(check_gradients(layer, x, mode=Mode(train={mode.train}, keep=True), method={method!r}, seed={seed}))"
    )
    where = worst.tensor + (str(list(worst.index)) if worst.index else "")
    lines.append(f"# {where}: backward {worst.analytic!r}, numeric {worst.numeric!r}")
    return "\n".join(lines)


def constructor(layer: Layer) -> str:
    """`Conv2D(in_channels=1, ...)`, read back from attributes of the same names; "" where one is missing."""
    arguments = []
    for name, p in inspect.signature(type(layer).__init__).parameters.items():
        if name in ("self", "rng", "init"):
            continue
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            return "" if layer.children() else f"{type(layer).__name__}()"
        value: Any = getattr(layer, name, p.default)
        if name in ("bias", "scale") and not isinstance(value, (int, float)):
            value = value is not None
        if value is p.empty or not isinstance(value, (int, float, str, bool, tuple, type(None))):
            return ""
        arguments.append(f"{name}={value!r}")
    return f"{type(layer).__name__}({', '.join(arguments)})"

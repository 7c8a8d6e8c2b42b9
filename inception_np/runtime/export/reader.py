"""Reads a network's passes off the kernel calls that they are made of, and writes each call down as ONNX nodes.

The layers run as always, forward and backward, but no kernel does (`instead` in backend/program.py): in its place the
function of the same name in nodes.py adds nodes to a graph. values.py follows the arrays.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...backend.arrays import Array, Shape, leaves
from ...backend.program import Executor, executed_by
from ...layer import Layer, kind_of_class, of_kind, walk, watch
from . import nodes
from .graph import Graph
from .values import Values

COMPOSED = ("statistics", "conv2d_moments", "batch_norm_backward")  # kernels whose bodies are calls of kernels


class Reader(Executor):
    """The executor that adds to a graph what kernels would have done."""

    def __init__(self, graph: Graph):
        self.graph, self.values = graph, Values(graph)

    def instead(self, plain: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        name, layer = plain.__name__, self.values.layer
        if name in COMPOSED:
            return plain(*args, **keywords)
        if name not in vars(nodes):
            raise ValueError(f"export: {layer}: got a call of the kernel {name}, which has no ONNX form")
        self.graph.where = f"{layer}/{name}".removeprefix("/")
        return vars(nodes)[name](self.values, *args, **keywords)

    def run(self, words: Any) -> None:
        raise ValueError(f"export: {self.values.layer}: got calls of compiled code, wanted kernels by their names")

    def empty(self, shape: Shape, dtype: Any) -> Array:
        return self.values.empty(shape, dtype)

    @contextmanager
    def reading(self, net: Layer) -> Iterator[None]:
        """Within this block the passes of `net` become nodes, named by its layers' paths.

        Raises ValueError, naming the layer, for one that computes anything outside kernels, as one of your own does.
        """
        for path, layer in [("", net), *walk(net)]:
            if isinstance(layer, Layer) and not _is_ours(layer):
                raise _no_form(path, layer)

        def forward(path: str, layer: Layer, call: Callable[[], Any], x: Array, mode: Any) -> Any:
            y, cache = self._at(path, call)
            self._check(path, layer, y)
            return y, cache

        def backward(path: str, layer: Layer, call: Callable[[], Any], dy: Any, x: Array, cache: Any) -> Any:
            dx = self._at(path, call)
            self._check(path, layer, dx)
            return dx

        with watch(net, forward=forward, backward=backward), executed_by(self), np.errstate(all="ignore"):
            yield

    def _at(self, path: str, call: Callable[[], Any]) -> Any:
        before, self.values.layer = self.values.layer, path
        try:
            return call()
        finally:
            self.values.layer = before

    def _check(self, path: str, layer: Layer, results: Any) -> None:
        """Raise ValueError where a pass gave an array that no kernel wrote."""
        for a in leaves(results):
            if a is not None and not self.values.has(a):
                raise _no_form(path, layer)


def _is_ours(layer: Layer) -> bool:
    kind = kind_of_class(type(layer))
    return of_kind(layer, kind) and kind.__module__.startswith("inception_np.")


def _no_form(path: str, layer: Layer) -> ValueError:
    where = f"{path}: " if path else ""
    return ValueError(f"export: {where}got a {type(layer).__name__}, wanted a layer that does all its work in kernels")

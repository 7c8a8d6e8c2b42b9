"""An ONNX graph as it is written: nodes, inputs and constants. Values go by name."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

OPSET, IR_VERSION = 17, 8  # what runtimes of 2022 and later read
LARGEST = 2**31  # bytes: no file of one piece may be longer


@dataclass
class Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: list[str]
    attributes: dict[str, Any]


class Graph:
    """dtype: of its numbers. where: what stands before the names of the nodes to come."""

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)
        self.where = ""
        self.nodes: list[Node] = []
        self.inputs: dict[str, tuple[Any, tuple[int | str, ...], str]] = {}  # dtype, shape and what it is
        self.outputs: dict[str, tuple[str, Any, tuple[int | str, ...], str]] = {}  # the same, after its value
        self.constants: dict[str, np.ndarray] = {}
        self._same: dict[Any, list[str]] = {}  # the outputs of the nodes so far, by kind, inputs and attributes
        self._count: dict[str, int] = {}

    def input(self, name: str, shape: tuple[int | str, ...], about: str = "", dtype: Any = None) -> str:
        self.inputs[name] = (self.dtype if dtype is None else np.dtype(dtype), shape, about)
        return name

    def output(self, name: str, value: str, shape: tuple[int | str, ...], about: str = "", dtype: Any = None) -> None:
        self.outputs[name] = (value, self.dtype if dtype is None else np.dtype(dtype), shape, about)

    def constant(self, a: Any, dtype: Any = None) -> str:
        """An array of numbers of this dtype, the graph's own by default. Equal ones are one."""
        a = np.asarray(a, self.dtype if dtype is None else dtype)
        key = (a.dtype.str, a.shape, a.tobytes())
        if key not in self._same:
            self._same[key] = [f"constant_{len(self._same)}"]
            self.constants[self._same[key][0]] = a
        return self._same[key][0]

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; the name of its result. A second one like it is the first one."""
        return self.nodes_outputs(kind, inputs, 1, attributes)[0]

    def nodes_outputs(self, kind: str, inputs: tuple[str, ...], outputs: int, attributes: dict[str, Any]) -> list[str]:
        """As `node`, for an operator with several results."""
        key = (kind, inputs, outputs, repr(sorted(attributes.items())))
        if key not in self._same:
            name = f"{self.where}/{kind}".removeprefix("/")
            self._count[name] = self._count.get(name, 0) + 1
            if self._count[name] > 1:
                name += f"_{self._count[name]}"
            self._same[key] = [name, *(f"{name}:{i}" for i in range(1, outputs))]
            self.nodes.append(Node(kind, inputs, list(self._same[key]), attributes))
        return self._same[key]

    def _prune(self) -> None:
        """Leave out what no output needs."""
        needed = {value for value, *_ in self.outputs.values()}
        kept = []
        for node in reversed(self.nodes):
            if needed.isdisjoint(node.outputs):
                continue
            while node.outputs[-1] not in needed:
                node.outputs.pop()
            needed |= set(node.inputs)
            kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: a for name, a in self.constants.items() if name in needed}

    def model(self, name: str, about: str, metadata: Iterable[tuple[str, str]]) -> Any:
        """The graph as an onnx.ModelProto. Raises ValueError for one that no file can hold."""
        from onnx import helper, numpy_helper

        from ... import __version__

        self._prune()
        size = sum(a.nbytes for a in self.constants.values())
        if size >= LARGEST:
            raise ValueError(
                f"export: got {size:,} bytes of weights, wanted less than {LARGEST:,}, which ONNX can hold"
            )
        nodes = [
            helper.make_node(node.kind, list(node.inputs), node.outputs, name=node.outputs[0], **node.attributes)
            for node in self.nodes
        ]
        for result, (value, *_) in self.outputs.items():
            nodes.append(helper.make_node("Identity", [value], [result], name=result))
        inputs = [_described(name, *what) for name, what in self.inputs.items()]
        outputs = [_described(name, *what) for name, (_, *what) in self.outputs.items()]
        constants = [numpy_helper.from_array(a.copy(order="C"), name) for name, a in self.constants.items()]
        graph = helper.make_graph(nodes, name, inputs, outputs, constants, doc_string=about)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="inception_np",
            producer_version=__version__,
            doc_string=about,
        )
        helper.set_model_props(model, dict(metadata))
        return model


def _described(name: str, dtype: Any, shape: tuple[int | str, ...], about: str) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape, doc_string=about)

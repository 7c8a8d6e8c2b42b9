"""What Keras's description of a model says: its layers, and which of them each one reads.

Files of whole models (.keras, .h5, TensorFlow.js's model.json) have it beside the weights, as JSON:

    {"class_name": "Functional", "config": {"layers": [
        {"class_name": "Conv2D", "config": {"name": "conv2d_3", "strides": [1, 1], ...}, "inbound_nodes": ...}, ...]}}

A model may be a layer of another one, which is how a person puts a classifier of their own on a network.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .names import with_number

LACKS = "got {}, wanted layers as Keras writes them"
MODELS = ("Functional", "Model", "Sequential")
IN_TRAINING = ("Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "ActivityRegularization")
# What each layer's variables are called, in the order in which Keras 3 numbers them
VARIABLES = {
    "Conv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "SeparableConv2D": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


class Node(NamedTuple):
    """One layer. inputs: the layers that it reads. numbers: the constants that it is called with.

    place: its group in a file of Keras 3, such as "layers/functional/layers/conv2d_5".
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    inputs: list[str]
    numbers: list[float]
    place: str


class Graph(NamedTuple):
    """nodes: every layer, those of models within the model too. output: the name of the last one."""

    nodes: list[Node]
    output: str

    def dense(self) -> list[Node]:
        """The fully connected layers, first to last."""
        return [node for node in self.nodes if node.kind == "Dense"]

    def in_training(self) -> list[Node]:
        """The layers that do nothing unless the model is being trained: dropout, noise, augmentation."""
        return [node for node in self.nodes if acts_in_training(node.kind)]

    def image(self) -> tuple[int, int] | None:
        """The height and width of the images, where the model fixes them."""
        for node in self.nodes:
            shape = node.config.get("batch_input_shape") or node.config.get("batch_shape") or []
            if node.kind == "InputLayer" and len(shape) == 4 and all(type(n) is int and n > 0 for n in shape[1:3]):
                return shape[1], shape[2]
        return None

    def names(self, given: Iterable[str]) -> dict[str, str]:
        """Each tensor's name in the file -> "layer/variable", the layer by its name in this description.

        The classifier's layers are renamed: the last is "predictions", those before it "fc1", "fc2", ...
        """
        given = list(given)
        heads = [node.name for node in self.dense()]
        renamed = {name: f"fc{i + 1}" for i, name in enumerate(heads)} | {name: "predictions" for name in heads[-1:]}
        places, known = {node.place: node for node in self.nodes}, {node.name for node in self.nodes}
        found = {}
        for name in given:
            place, _, number = name.partition("/vars/")
            if number and place in places:
                node = places[place]
                layer, variable = node.name, _variable(node, int(number), f"{place}/vars/3" in given)
            else:
                *scopes, variable = name.removesuffix(":0").split("/")
                layer = next((scope for scope in reversed(scopes) if scope in known), "/".join(scopes))
            found[name] = f"{renamed.get(layer, layer)}/{variable}"
        return found


def _variable(node: Node, number: int, four: bool) -> str:
    names: tuple[str, ...] = VARIABLES.get(node.kind, ())
    if node.kind == "BatchNormalization" and not four:  # three variables: there is no gamma
        names = names[1:]
    return names[number] if number < len(names) else f"variable {number}"


def acts_in_training(kind: str) -> bool:
    """Whether a kind of layer does nothing otherwise. (Keras's names of augmentations begin with "Random".)"""
    return kind.startswith("Random") or kind in IN_TRAINING


def parse_graph(description: Any) -> Graph:
    """The layers of a model's description. Raises ValueError of one line for what is no description of layers."""
    try:
        nodes, output = _flatten(description, "", [])
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"the model's description: {LACKS.format(str(error)[:80])}") from None
    twice = [name for name, count in Counter(node.name for node in nodes).items() if count > 1]
    if twice:
        raise ValueError(f"two layers are called {twice[0][:40]!r}, so that their weights cannot be told apart")
    return Graph(nodes, output)


def _flatten(model: Mapping[str, Any], place: str, feeds: list[str]) -> tuple[list[Node], str]:
    """(the layers, the last one's name) of a model at `place` in a file that reads the layers `feeds`."""
    config = model["config"]
    entries = config if isinstance(config, list) else config["layers"]  # a list: a Sequential of early versions
    chain = model["class_name"] == "Sequential"
    nodes: list[Node] = []
    ends: dict[str, str] = {}  # of the models within: their last layers
    counts: Counter[str] = Counter()
    before = feeds
    for entry in entries:
        kind, inner = entry["class_name"], entry["config"]
        name = entry.get("name") or inner["name"]
        inputs = before if chain else _called_with(entry)
        inputs = [ends.get(i, i) for i in inputs]
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", kind)).lower()
        here = f"{place}layers/{with_number(snake, counts[snake])}"
        counts[snake] += 1
        if kind in MODELS:
            within, ends[name] = _flatten(entry, f"{here}/", inputs)
            nodes += within
        else:
            reads, numbers = (feeds, []) if kind == "InputLayer" else (inputs, _numbers(entry.get("inbound_nodes")))
            nodes.append(Node(name, kind, inner, reads, numbers, here))
            ends[name] = name
        before = [ends[name]]
    if chain:
        return nodes, before[0]
    outputs = config["output_layers"]
    names = layers_named(outputs if isinstance(outputs[0], list) else [outputs])
    if len(names) != 1:
        raise ValueError(f"the model {str(config.get('name'))[:40]!r} has {len(names)} outputs, wanted one")
    return nodes, ends[names[0]]


def _called_with(entry: Mapping[str, Any]) -> list[str]:
    calls = entry["inbound_nodes"]
    if len(calls) > 1:
        raise ValueError(f"the layer {str(entry['config'].get('name'))[:40]!r} is used {len(calls)} times, wanted once")
    return layers_named(calls)


def layers_named(value: Any) -> list[str]:
    """The layers whose outputs are named anywhere in `value`, in order.

    Keras 3 writes {"keras_history": [layer, 0, 0]}, earlier versions [layer, 0, 0, {...}].
    """
    if isinstance(value, dict):
        if "keras_history" in value:
            return [value["keras_history"][0]]
        return [name for part in value.values() for name in layers_named(part)]
    if not isinstance(value, list):
        return []
    if len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is type(value[2]) is int:
        return [value[0], *layers_named(value[3:])]
    return [name for part in value for name in layers_named(part)]


def _numbers(value: Any) -> list[float]:
    """The numbers that a layer is called with beside tensors."""
    if isinstance(value, dict):
        return [] if "keras_history" in value else [n for part in value.values() for n in _numbers(part)]
    if isinstance(value, list):
        tensor = len(value) >= 3 and isinstance(value[0], str)
        return [n for part in value[3 if tensor else 0 :] for n in _numbers(part)]
    return [float(value)] if type(value) in (int, float) else []

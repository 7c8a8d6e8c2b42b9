"""A network of ours as an ONNX graph with the same weights, for ONNX Runtime: inference only."""

from typing import Any

import numpy as np

from ...backend.arrays import Shape
from ...compose import Concat, Residual, Sequential
from ...kernels.window import Pads
from ...layer import Layer, of_kind
from ...layers.activation import Dropout, ReLU
from ...layers.batchnorm import BatchNorm
from ...layers.conv import Conv2D, ConvReLU
from ...layers.conv_bn_relu import ConvBNReLU
from ...layers.depthwise import DepthwiseConv2D
from ...layers.linear import Linear, Scale
from ...layers.lrn import LRN
from ...layers.pool import AvgPool2D, Flatten, GlobalAvgPool2D, MaxPool2D
from ...layers.whitening import PatchWhitening
from ...models.network import Network
from .layout import conv_weight, gamma_of, pads_of, unsupported


def to_onnx(layer: Layer, shape: Shape) -> bytes:
    """An ONNX model that computes what `layer` does in inference, on x (N, C, H, W) for our shape (N, H, W, C).

    Raises ValueError for a layer that has no counterpart.
    """
    from onnx import TensorProto, helper

    graph = Graph()
    y = graph.add(layer, "x", shape)
    n, h, w, c = shape
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [n, c, h, w])]
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)]
    made = helper.make_graph(graph.nodes, "network", inputs, outputs, graph.weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


class Graph:
    """The nodes and weights of a graph so far. Values go by name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, a: np.ndarray) -> str:
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(a), f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def number(self, value: float) -> str:
        return self.weight(np.array([value], np.float32))

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; the name of its result."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [f"y{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])

    def add(self, layer: Layer, x: str, shape: Shape) -> str:
        """Add what a layer computes from the value x, of our shape (N, H, W, C); the name of its y."""
        for kind, nodes in NODES.items():
            if of_kind(layer, kind):
                return nodes(self, layer, x, shape)
        raise unsupported(layer)


def _sequential(graph: Graph, layer: Sequential, x: str, shape: Shape) -> str:
    for child in layer.layers.values():
        x, shape = graph.add(child, x, shape), child.out_shape(shape)
    return x


def _concat(graph: Graph, layer: Concat, x: str, shape: Shape) -> str:
    return graph.node("Concat", *[graph.add(branch, x, shape) for branch in layer.branches.values()], axis=1)


def _residual(graph: Graph, layer: Residual, x: str, shape: Shape) -> str:
    shortcut = x if layer.shortcut is None else graph.add(layer.shortcut, x, shape)
    f = graph.add(layer.body, x, shape)
    return graph.node("Add", shortcut, f if layer.scale == 1 else graph.node("Mul", f, graph.number(layer.scale)))


def _conv(graph: Graph, layer: Any, x: str, shape: Shape) -> str:
    w, groups = conv_weight(layer)
    arrays = [w] if layer.bias is None else [w, layer.bias.data]
    sizes = {"kernel_shape": layer.kernel, "strides": layer.stride, "dilations": layer.dilation, "group": groups}
    return graph.node("Conv", x, *map(graph.weight, arrays), pads=_ends(pads_of(layer, shape)), **sizes)


def _conv_relu(graph: Graph, layer: ConvReLU, x: str, shape: Shape) -> str:
    return graph.node("Relu", _conv(graph, layer, x, shape))


def _conv_bn_relu(graph: Graph, layer: ConvBNReLU, x: str, shape: Shape) -> str:
    return graph.node("Relu", graph.add(layer.bn, graph.add(layer.conv, x, shape), shape))


def _batch_norm(graph: Graph, layer: BatchNorm, x: str, shape: Shape) -> str:
    arrays = (gamma_of(layer), layer.beta.data, layer.mean.data, layer.var.data)
    return graph.node("BatchNormalization", x, *map(graph.weight, arrays), epsilon=layer.eps)


def _linear(graph: Graph, layer: Linear, x: str, shape: Shape) -> str:
    arrays = [layer.weight.data] if layer.bias is None else [layer.weight.data, layer.bias.data]
    return graph.node("Gemm", x, *map(graph.weight, arrays))


def _max_pool(graph: Graph, layer: MaxPool2D, x: str, shape: Shape) -> str:
    return graph.node("MaxPool", x, ceil_mode=int(layer.ceil), **_window(layer, shape))


def _avg_pool(graph: Graph, layer: AvgPool2D, x: str, shape: Shape) -> str:
    how = {"ceil_mode": int(layer.ceil), "count_include_pad": int(layer.count_include_pad)}
    return graph.node("AveragePool", x, **how, **_window(layer, shape))


def _window(layer: Any, shape: Shape) -> dict[str, Any]:
    return {"kernel_shape": layer.size, "strides": layer.stride, "pads": _ends(pads_of(layer, shape))}


def _ends(pads: Pads) -> list[int]:
    (top, bottom), (left, right) = pads
    return [top, left, bottom, right]


def _lrn(graph: Graph, layer: LRN, x: str, shape: Shape) -> str:
    size, a, beta, k = layer._constants()
    return graph.node("LRN", x, size=size, alpha=a * size, beta=beta, bias=k)


def _flatten(graph: Graph, layer: Flatten, x: str, shape: Shape) -> str:
    if len(shape) != 4:
        raise unsupported(layer)
    return graph.node("Flatten", graph.node("Transpose", x, perm=[0, 2, 3, 1]))  # in our order of the numbers


NODES: dict[type, Any] = {
    Network: lambda graph, layer, x, shape: graph.add(layer.trunk, x, shape),
    Sequential: _sequential,
    Concat: _concat,
    Residual: _residual,
    Conv2D: _conv,
    PatchWhitening: _conv,
    DepthwiseConv2D: _conv,
    ConvReLU: _conv_relu,
    ConvBNReLU: _conv_bn_relu,
    BatchNorm: _batch_norm,
    Linear: _linear,
    MaxPool2D: _max_pool,
    AvgPool2D: _avg_pool,
    GlobalAvgPool2D: lambda graph, layer, x, shape: graph.node("Flatten", graph.node("GlobalAveragePool", x)),
    LRN: _lrn,
    ReLU: lambda graph, layer, x, shape: graph.node("Relu", x),
    Scale: lambda graph, layer, x, shape: graph.node("Mul", x, graph.number(layer.scale)),
    Dropout: lambda graph, layer, x, shape: x,
    Flatten: _flatten,
}

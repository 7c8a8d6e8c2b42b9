"""Networks as ONNX files: what one computes in inference, and a whole step of its training.

    export_onnx(net, "net.onnx")                            images in, logits out
    export_training_step(net, "step.onnx", batch=32)        images, labels and weights in, loss and new weights out

Both are read off the kernel calls that the passes are made of (reader.py), so that there is no second description of
any network or layer. A training step is forward, backward and update in the operators that inference has: no runtime
needs to know of training.

    inputs      images (N, H, W, C), labels (N,), lr, and for each weight its name: its value; NAME.velocity: its momentum
                each running average by its name; for each dropout layer NAME.kept, a mask, True with probability 1 - rate
    outputs     loss, logits, and for each of these arrays that a step changes NAME.next

    state |= {name.removesuffix(".next"): value for name, value in outputs.items() if name.endswith(".next")}
"""

import copy
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...backend.arrays import Array, Shape
from ...data.files import atomic_write
from ...kernels.elementwise import scaled
from ...kernels.loss import softmax_cross_entropy
from ...layer import Layer, Mode, move, named_buffers, named_params
from ...training.optim import SGD
from .graph import Graph
from .reader import Reader
from .values import ZERO

LAYOUTS = {"NHWC": (0, 1, 2, 3), "NCHW": (0, 3, 1, 2)}


def export_onnx(
    net: Layer,
    path: str | os.PathLike[str],
    input_shape: Shape | None = None,
    *,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write what `net` computes in inference to the file `path`, replacing it.

    input_shape: (H, W, C) of the images, by default the network's own; the batch is open. about: what the model's
    metadata says besides the network's name and options; anything that JSON can hold. Raises ValueError, naming the
    layer, for one that has no ONNX form, ImportError without the package onnx, OSError if the disk refuses.
    """
    _write(path, to_onnx(net, (1, *_image(net, input_shape)), about=about))


def export_training_step(
    net: Layer,
    path: str | os.PathLike[str],
    input_shape: Shape | None = None,
    *,
    batch: int,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = True,
    smoothing: float = 0.0,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write one step of SGD on the softmax cross-entropy of `net` to the file `path`, replacing it.

    batch: how many images. The file has no weights: they are inputs, as state_dict(net) names them. The rest is as for `export_onnx`, `SGD` and `softmax_cross_entropy`;
    auxiliary heads count as in training.
    """
    shape = (batch, *_image(net, input_shape))
    optimiser = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    _write(path, training_step(net, shape, optimiser, smoothing=smoothing, about=about))


def to_onnx(net: Layer, shape: Shape, *, layout: str = "NHWC", about: Mapping[str, Any] | None = None) -> Any:
    """The onnx.ModelProto that `export_onnx` writes, for images of this shape (N, H, W, C) in another layout."""
    net, graph, reader = _begin(net)
    for name, array in {**named_params(net), **named_buffers(net)}.items():
        graph.constants[name] = array.data
        reader.values.know(array.data, name)
    with reader.reading(net):
        y, _ = net.forward(_images(reader, ("N", *shape[1:]), layout, np.empty(shape, graph.dtype)), Mode())
    graph.output("logits", reader.values.read(y), ("N", *y.shape[1:]))
    return _finished(graph, net, {"layout": layout, **(about or {})})


def training_step(
    net: Layer,
    shape: Shape,
    optimiser: Mapping[str, Any],
    *,
    smoothing: float = 0.0,
    about: Mapping[str, Any] | None = None,
) -> Any:
    """The onnx.ModelProto that `export_training_step` writes. optimiser: what SGD takes but lr."""
    net, graph, reader = _begin(net)
    values, sgd = reader.values, SGD(net, 0.0, **optimiser)
    state = _state_inputs(reader, net, sgd)
    labels = np.empty(shape[:1], np.int64)
    x = _images(reader, shape, "NHWC", np.empty(shape, graph.dtype))
    values.know(labels, graph.input("labels", labels.shape, "integers from 0", np.int64))
    with reader.reading(net):
        y, cache = net.forward(x, Mode(train=True, keep=True, rng=np.random.default_rng(0)))
        loss, dy = _loss(reader, y, labels, getattr(net, "aux_weight", 0.0), smoothing)
        net.backward(dy, x, cache, **({"need_dx": False} if net.takes_out else {}))
        for name, p in named_params(net).items():
            if values.read(p.grad) == ZERO:
                raise ValueError(f"export: {name}: got no gradient, wanted one that kernels make")
        sgd.step()
    graph.output("loss", loss, ())
    logits = y[0] if isinstance(y, tuple) else y
    graph.output("logits", values.read(logits), logits.shape)
    for name, a in state.items():
        if values.read(a) != name:
            graph.output(f"{name}.next", values.read(a), a.shape)
    return _finished(graph, net, {"layout": "NHWC", "optimiser": {"name": "SGD", **optimiser}, **(about or {})})


def _begin(net: Layer) -> tuple[Any, Graph, Reader]:
    """A copy of the network on the CPU, and an empty graph of its dtype."""
    net = move(copy.deepcopy(net), "cpu")
    graph = Graph(next((p.data.dtype for p in named_params(net).values()), np.float32))
    return net, graph, Reader(graph)


def _image(net: Any, given: Shape | None) -> Shape:
    image = getattr(net, "image", None) if given is None else tuple(given)
    if image is None or len(image) != 3 or min(image) < 1:
        raise ValueError(
            f"export: got input_shape={given}, wanted (H, W, C) of the images that {type(net).__name__} takes"
        )
    return image


def _images(reader: Reader, shape: tuple[int | str, ...], layout: str, x: Array) -> Array:
    """The input of the graph; its value is x, (N, H, W, C)."""
    outer = tuple(shape[i] for i in LAYOUTS[layout])
    value = reader.graph.input("images", outer, f"{layout}, normalised as the metadata says")
    if layout == "NHWC":
        reader.graph.where = "images"
        value = reader.graph.node("Transpose", value, perm=[0, 3, 1, 2])
    reader.values.know(x, value)
    return x


def _state_inputs(reader: Reader, net: Layer, sgd: SGD) -> dict[str, Array]:
    """Everything that a step may change as inputs of the graph, and the learning rate; the arrays by their names."""
    graph, values, state = reader.graph, reader.values, {}
    for name, array in {**named_params(net), **named_buffers(net)}.items():
        state[name] = array.data
    for name, p in named_params(net).items():
        values.know(p.grad, ZERO)
        if "velocity" in sgd.state:
            first = (p.data.ctypes.data - sgd.data.ctypes.data) // p.data.itemsize
            state[f"{name}.velocity"] = sgd.state["velocity"][first : first + p.data.size].reshape(p.data.shape)
    for name, a in state.items():
        values.know(a, graph.input(name, a.shape))
    lr: Any = np.empty((), graph.dtype)
    values.know(lr, graph.input("lr", (), "the learning rate"))
    sgd.lr = lr
    return state


def _loss(reader: Reader, y: Any, labels: Array, aux_weight: float, smoothing: float) -> tuple[str, Any]:
    """The value of the loss, and dy, as layers/loss.py's total_loss has them."""
    graph, read = reader.graph, reader.values.read
    logits, heads = y if isinstance(y, tuple) else (y, {})
    loss, dlogits = softmax_cross_entropy(logits, labels, smoothing)
    total, daux = read(loss), {}
    for stage, head in heads.items():
        loss, dhead = softmax_cross_entropy(head, labels, smoothing)
        total = graph.node("Add", total, graph.node("Mul", read(loss), graph.constant(aux_weight)))
        daux[stage] = scaled(dhead, aux_weight)
    return total, (dlogits, daux) if isinstance(y, tuple) else dlogits


def _finished(graph: Graph, net: Any, about: Mapping[str, Any]) -> Any:
    name = getattr(net, "name", "") or type(net).__name__
    words = {"model": name, "preset": getattr(net, "preset", ""), "options": getattr(net, "options", {}), **about}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in words.items()}
    return graph.model(name, f"{name} of inception_np", metadata.items())


def _write(path: str | os.PathLike[str], model: Any) -> None:
    atomic_write(path, model.SerializeToString())

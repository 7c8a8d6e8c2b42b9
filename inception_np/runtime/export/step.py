"""A step of training as an ONNX file: forward, backward and update."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...backend.arrays import Array, Shape
from ...kernels.elementwise import scaled
from ...kernels.loss import softmax_cross_entropy
from ...layer import Layer, Mode, named_params, places_in_vectors
from ...layers.check import check_between
from ...training.optim import SGD
from ...weights.convert import named_arrays
from .network import begin, finished, image_of, images_input, write
from .reader import Reader
from .values import ZERO


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

    batch: how many images. The file has no weights: they are inputs, as state_dict(net) names them, and so is the
    learning rate. The rest is as for `export_onnx`, `SGD` and `softmax_cross_entropy`; auxiliary heads count as in
    training.
    """
    shape = (batch, *image_of(net, input_shape))
    optimiser = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    write(path, training_step(net, shape, optimiser, smoothing=smoothing, about=about))


def training_step(
    net: Layer,
    shape: Shape,
    optimiser: Mapping[str, Any],
    *,
    smoothing: float = 0.0,
    about: Mapping[str, Any] | None = None,
) -> Any:
    """The onnx.ModelProto that `export_training_step` writes. optimiser: what SGD takes but lr."""
    check_between("export", "smoothing", smoothing, 0, 1)
    net, graph, reader = begin(net)
    values, sgd = reader.values, SGD(net, 0.0, **optimiser)
    state = _state_inputs(reader, net, sgd)
    labels = np.empty(shape[:1], np.int64)
    x = images_input(reader, shape, "NHWC", np.empty(shape, graph.dtype))
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
    return finished(graph, net, {"layout": "NHWC", "optimiser": {"name": "SGD", **optimiser}, **(about or {})})


def _state_inputs(reader: Reader, net: Layer, sgd: SGD) -> dict[str, Array]:
    """Everything that a step may change as inputs of the graph, and the learning rate; the arrays by their names."""
    graph, values, state = reader.graph, reader.values, {}
    for name, array in named_arrays(net).items():
        state[name] = array.data
    places = places_in_vectors(net)
    for name, p in named_params(net).items():
        values.know(p.grad, ZERO)
        if "velocity" in sgd.state:
            state[f"{name}.velocity"] = sgd.state["velocity"][places[name]][: p.data.size].reshape(p.data.shape)
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

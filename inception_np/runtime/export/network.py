"""What a network computes in inference as an ONNX file: images in, logits out."""

import copy
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...backend.arrays import Array, Shape
from ...data.files import atomic_write
from ...layer import Layer, Mode, move, named_params
from ...weights.convert import named_arrays
from .graph import Graph
from .reader import Reader

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
    layer, for one that has no ONNX form, and without the package onnx; OSError if the disk refuses.
    """
    write(path, to_onnx(net, ("N", *image_of(net, input_shape)), about=about))


def to_onnx(net: Layer, shape: tuple[Any, ...], *, layout: str = "NHWC", about: Mapping[str, Any] | None = None) -> Any:
    """The onnx.ModelProto that `export_onnx` writes, for images (N, H, W, C) of this shape. N may be a word."""
    net, graph, reader = begin(net)
    for name, array in named_arrays(net).items():
        graph.constants[name] = array.data
        reader.values.know(array.data, name)
    batch, *image = shape
    x = np.empty((1 if isinstance(batch, str) else batch, *image), graph.dtype)
    with reader.reading(net):
        y, _ = net.forward(images_input(reader, shape, layout, x), Mode())
    value, order = reader.values.read(y), LAYOUTS[layout] if y.ndim == 4 else range(y.ndim)
    if y.ndim == 4 and layout == "NHWC":
        value = graph.node("Transpose", value, perm=[0, 2, 3, 1])
    graph.output("logits", value, tuple((batch, *y.shape[1:])[i] for i in order))
    return finished(graph, net, {"layout": layout, **(about or {})})


def begin(net: Layer) -> tuple[Any, Graph, Reader]:
    """A copy of the network on the CPU, and an empty graph of its dtype."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ValueError("export: onnx is not installed; pip install 'inception-np[onnx]'") from None
    net = move(copy.deepcopy(net), "cpu")
    graph = Graph(next((p.data.dtype for p in named_params(net).values()), np.float32))
    return net, graph, Reader(graph)


def image_of(net: Any, given: Shape | None) -> Shape:
    image = getattr(net, "image", None) if given is None else tuple(given)
    if image is None or len(image) != 3 or min(image) < 1:
        raise ValueError(
            f"export: got input_shape={given}, wanted (H, W, C) of the images that {type(net).__name__} takes"
        )
    return image


def images_input(reader: Reader, shape: tuple[int | str, ...], layout: str, x: Array) -> Array:
    """The input of the graph; its value is x, (N, H, W, C)."""
    outer = tuple(shape[i] for i in LAYOUTS[layout])
    value = reader.graph.input("images", outer, f"{layout}, normalised as the metadata says")
    if layout == "NHWC":
        reader.graph.where = "images"
        value = reader.graph.node("Transpose", value, perm=[0, 3, 1, 2])
    reader.values.know(x, value)
    return x


def finished(graph: Graph, net: Any, about: Mapping[str, Any]) -> Any:
    name = getattr(net, "name", "") or type(net).__name__
    words = {"model": name, "preset": getattr(net, "preset", ""), "options": getattr(net, "options", {}), **about}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in words.items()}
    return graph.model(name, f"{name} of inception_np", metadata.items())


def write(path: str | os.PathLike[str], model: Any) -> None:
    atomic_write(path, model.SerializeToString())

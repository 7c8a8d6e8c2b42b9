"""Whether the model that Keras describes is our network, layer by layer.

Layers of equal shape are told apart by their names alone, and nothing in the weights says with which epsilon, padding
or activation they were trained. So both networks, theirs and ours, are written down in the same words,

    conv2d_3    conv 1x1/1    max 3x3/2 valid(relu(batch_normalization_2))

by layer with weights: what it does, and what it reads. Then they are compared.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from ..compose import Concat, Residual, Sequential
from ..layer import Layer
from ..layers.activation import Dropout, ReLU
from ..layers.batchnorm import BatchNorm
from ..layers.conv import Conv2D
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.depthwise import DepthwiseConv2D
from ..layers.linear import Linear
from ..layers.pool import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from ..models.network import Network
from .convert import named_rows
from .keras_config import LACKS, VARIABLES, Graph, Node, acts_in_training
from .keras_names import resolve_keras_names

Reads = dict[str, tuple[str, str]]  # layer with weights -> (what it does, what it reads)
Affine = tuple[float, float]  # a and b of a x + b


def check_graph(network: Network, graph: Graph, *, partial: bool = False) -> Affine:
    """(a, b): the model computes a x + b of an image x before the network reads it, pixel by pixel.

    Raises ValueError of one line where a layer of the model does something else than ours of the same name, or reads
    something else. Layers that only one of them has are load_foreign's to report. partial: the classifier may differ.
    """
    names = {row.ours: row.keras for row in named_rows(network, network.name, "keras")}
    height, width = graph.image() or network.image[:2]
    shapes = network.stage_shapes((1, height, width, network.image[2])).values()
    grid = [shape[1:3] for shape in shapes if len(shape) == 4][-1]
    ours: Reads = {}
    y = our_reads(network, "", "image", names, ours)
    try:
        theirs, their_y, affine = their_reads(graph, _own_names(graph, network.name), grid)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"the model's description: {LACKS.format(str(error)[:80])}") from None
    paths = {keras: path for path, keras in names.items()}
    for name, (does, reads) in ours.items():
        if name in theirs and theirs[name] != (does, reads) and not (partial and does == "dense"):
            they_do, they_read = theirs[name]
            got, wanted = (they_do, does) if they_do != does else (f"it reads {they_read}", reads)
            raise ValueError(f"{name} ({paths[name]}): got {_cut(got)}, wanted {_cut(wanted)}, as in {network.name}")
    if not partial and their_y not in (y, f"softmax({y})"):
        raise ValueError(
            f"the model's output: got {_cut(their_y)}, wanted {y} or softmax({y}); --partial loads the layers that fit"
        )
    return affine


def _own_names(graph: Graph, network: str) -> dict[str, str]:
    """Each layer's name in the file -> the name that Keras's code gives it, such as "conv2d_3"."""
    kernels = {f"{node.name}/kernel": node.name for node in graph.nodes if node.kind in VARIABLES}
    renamed = graph.names(kernels)
    resolved = resolve_keras_names(renamed.values(), network)
    return {kernels[given]: resolved[name].rpartition("/")[0] for given, name in renamed.items()}


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


# ------------------------------------------------------------------------------------- ours


def our_reads(layer: Layer, path: str, x: str, names: Mapping[str, str], reads: Reads) -> str:
    """What comes out of a layer of ours that reads x. Adds to `reads` every layer with weights, by Keras's name."""

    def inside(part: str, child: Layer, x: str) -> str:
        return our_reads(child, f"{path}.{part}" if path else part, x, names, reads)

    name = names.get(path, path)
    if isinstance(layer, Network | Sequential | ConvBNReLU):
        for part, child in (layer.trunk.layers if isinstance(layer, Network) else layer.children()).items():
            x = inside(part, child, x)
        return f"relu({x})" if isinstance(layer, ConvBNReLU) else x
    if isinstance(layer, Concat):
        return _joined([inside(part, branch, x) for part, branch in layer.branches.items()])
    if isinstance(layer, Residual):
        body = inside("body", layer.body, x)
        return _sum(x if layer.shortcut is None else inside("shortcut", layer.shortcut, x), body, layer.scale)
    if isinstance(layer, Dropout):
        return x
    if isinstance(layer, ReLU):
        return f"relu({x})"
    if isinstance(layer, GlobalAvgPool2D):
        return f"mean({x})"
    if isinstance(layer, MaxPool2D | AvgPool2D):
        counted = isinstance(layer, AvgPool2D) and layer.count_include_pad
        kind = "max" if isinstance(layer, MaxPool2D) else "average with padding" if counted else "average"
        return f"{kind} {_window(layer.size, layer.stride, layer.pad)}({x})"
    if isinstance(layer, Conv2D) and "/" in name:  # the pointwise part of what is one layer in Keras
        return name.partition("/")[0]
    reads[name] = (_ours_does(layer), x)
    return name


def _ours_does(layer: Layer) -> str:
    """What a layer with weights does."""
    if isinstance(layer, Conv2D):
        return f"conv {_window(layer.kernel, layer.stride, layer.pad)}"
    if isinstance(layer, DepthwiseConv2D):
        return f"separable conv {_window(layer.kernel, layer.stride, layer.pad)}"
    if isinstance(layer, BatchNorm):
        return f"batch norm {layer.eps:g}"
    return "dense" if isinstance(layer, Linear) else type(layer).__name__


# ------------------------------------------------------------------------------------- theirs


def their_reads(graph: Graph, names: Mapping[str, str], grid: tuple[int, ...]) -> tuple[Reads, str, Affine]:
    """(what every layer with weights does and reads, what comes out, what is done to the image before).

    names: the names of layers in the file -> Keras's own. grid: the height and width of the last map, over which an
    average pool is the mean.
    """
    seen: dict[str, str] = {}
    reads: Reads = {}
    pixels: dict[str, Affine] = {}  # of the layers that give the image times a number plus a number
    read_as: set[Affine] = set()
    for node in graph.nodes:
        late = [name for name in node.inputs if name not in seen]
        if late:
            raise ValueError(f"the layer {node.name[:40]!r} reads {late[0][:40]!r}, which does not come before it")
        x = [seen[name] for name in node.inputs] or ["image"]
        before = pixels.get(node.inputs[0], (1.0, 0.0)) if node.inputs else (1.0, 0.0)
        step = _affine(node) if x == ["image"] else None
        if node.kind in VARIABLES:
            if x == ["image"]:
                read_as.add(before)
            name = names[node.name]
            reads[name], seen[node.name] = (_does(node), x[0]), _activated(node, name)
        elif step is not None:
            seen[node.name], pixels[node.name] = "image", (step[0] * before[0], step[0] * before[1] + step[1])
        else:
            seen[node.name] = _without_weights(node, x, grid)
    if len(read_as) > 1:
        raise ValueError(f"got {len(read_as)} ways in which layers read the image, wanted one")
    return reads, seen[graph.output], read_as.pop() if read_as else (1.0, 0.0)


def _affine(node: Node) -> Affine | None:
    """(a, b) of a layer that computes a x + b of the image; None for any other layer."""
    kind, c = node.kind, node.config
    if kind == "InputLayer" or acts_in_training(kind):
        return 1.0, 0.0
    if kind == "Rescaling" and all(type(c.get(key)) in (int, float) for key in ("scale", "offset")):
        return float(c["scale"]), float(c["offset"])
    if len(node.numbers) != 1:
        return None
    what, number = c.get("function", kind), node.numbers[0]  # TFOpLambda names a function
    if what in ("math.truediv", "TrueDivide", "Divide") and number:
        return 1 / number, 0.0
    return {"math.multiply": (number, 0.0), "Multiply": (number, 0.0), "math.subtract": (1.0, -number),
            "Subtract": (1.0, -number), "math.add": (1.0, number), "Add": (1.0, number)}.get(what)  # fmt: skip


def _does(node: Node) -> str:
    """What a layer with weights does."""
    c = node.config
    if node.kind == "Dense":
        return "dense"
    if node.kind == "BatchNormalization":
        axis = c["axis"] if isinstance(c["axis"], int) else c["axis"][0]
        return f"batch norm {c['epsilon']:g}" + ("" if axis in (3, -1) else f" over axis {axis}")
    usual = {"data_format": "channels_last", "dilation_rate": [1, 1], "groups": 1, "depth_multiplier": 1}
    changed = [f", {key} {c[key]}" for key, value in usual.items() if c.get(key, value) != value]
    kind = "conv" if node.kind == "Conv2D" else "separable conv"
    return f"{kind} {_window(c['kernel_size'], c['strides'], c['padding'])}" + "".join(changed)


def _activated(node: Node, x: str) -> str:
    kind = node.config.get("activation")
    return x if kind in ("linear", None) else f"{kind}({x})"


def _without_weights(node: Node, x: list[str], grid: tuple[int, ...]) -> str:
    """What comes out of a layer without weights; one that is not known is written with its own name."""
    kind, c = node.kind, node.config
    last = c.get("data_format", "channels_last") in ("channels_last", None)
    scale = c.get("scale") if kind == "CustomScaleLayer" else (c.get("arguments") or {}).get("scale")
    if kind == "InputLayer" or acts_in_training(kind):
        return x[0]
    if kind == "Activation":
        return _activated(node, x[0])
    if kind == "ReLU" and c.get("max_value") is None and not c.get("negative_slope") and not c.get("threshold"):
        return f"relu({x[0]})"
    if kind == "Softmax" and c.get("axis") == -1:
        return f"softmax({x[0]})"
    if kind == "GlobalAveragePooling2D" and last:
        return f"mean({x[0]})"
    if kind in ("MaxPooling2D", "AveragePooling2D") and last:
        if kind == "AveragePooling2D" and c["padding"] == "valid" and tuple(c["pool_size"]) == grid:
            return f"mean({x[0]})"
        window = _window(c["pool_size"], c["strides"], c["padding"])
        return f"{'max' if kind == 'MaxPooling2D' else 'average'} {window}({x[0]})"
    if kind == "Flatten" and x[0].startswith("mean("):
        return x[0]
    if kind == "Concatenate" and c.get("axis") in (3, -1):
        return _joined(x)
    if kind == "Add" and len(x) == 2:
        return _sum(x[0], x[1], 1)
    if kind in ("CustomScaleLayer", "Lambda") and len(x) == 2 and isinstance(scale, float | int):
        return _sum(x[0], x[1], scale)
    return _short(f"{kind} {node.name}({'; '.join(x)})")


# ------------------------------------------------------------------------------------- in the same words


def _window(kernel: Any, stride: Any, pad: Any) -> str:
    """ "3x3/2 valid", whichever way the pad is given. A window of one pixel has none."""
    (kh, kw), (sh, sw) = kernel, stride
    if pad == ((kh // 2, kh // 2), (kw // 2, kw // 2)) and kh % 2 == kw % 2 == sh == sw == 1:
        pad = "same"
    elif pad == ((0, 0), (0, 0)):
        pad = "valid"
    return f"{kh}x{kw}/{sh}" + (f"x{sw}" if sh != sw else "") + ("" if kh == kw == 1 else f" {pad}")


def _joined(parts: list[str]) -> str:
    """Channels one after the other; parts that are joined themselves make no difference."""
    return _short("join[" + "; ".join(p[5:-1] if p.startswith("join[") else p for p in parts) + "]")


def _sum(x: str, body: str, scale: float) -> str:
    return _short(f"sum[{'; '.join(sorted([x, body if scale == 1 else f'{scale:g} of {body}']))}]")


def _short(text: str) -> str:
    """A long text by its digest: in a residual network they would grow from block to block."""
    return text if len(text) < 1000 else f"<{hashlib.sha256(text.encode()).hexdigest()[:16]}>"

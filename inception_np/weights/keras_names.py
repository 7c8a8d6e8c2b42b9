"""The names in a Keras file as "layer/variable", the layer as names.py has it: "conv2d_7/kernel", "predictions/bias".

Files of Keras 1 and 2 have the layers' names. Keras 3's .weights.h5 has numbers instead: "layers/conv2d_7/vars/0" is
the first variable of the eighth Conv2D, in an order that only these files have.
"""

import re
from collections.abc import Iterable

from .names import with_number

AUTOMATIC = re.compile(r"^(conv(?:olution)?2d|batch_?normalization)(?:_(\d+))?$")
KERAS_1 = {"_depthwise_kernel": "depthwise_kernel", "_pointwise_kernel": "pointwise_kernel",
           "_W": "kernel", "_b": "bias", "_gamma": "gamma", "_beta": "beta",
           "_running_mean": "moving_mean", "_running_std": "moving_variance"}  # fmt: skip


def resolve_keras_names(names: Iterable[str], network: str) -> dict[str, str]:
    """Each tensor's name in a file -> "layer/variable".

    Automatic names ("conv2d_17") follow the order in which the code creates the layers. Their numbers go on over all
    models of a process, so they are counted from the lowest in the file.
    """
    names = list(names)
    if any(name.startswith("layers/") for name in names):
        return _resolve_positions(names, network)
    layers: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        parts = name.removesuffix(":0").split("/")
        layers.setdefault(parts[0], []).append((parts[-1], name))
    numbered: dict[str, list[tuple[int, str]]] = {"conv2d": [], "batch_normalization": []}
    for layer in layers:
        if match := AUTOMATIC.match(layer):
            kind = "conv2d" if match[1].startswith("conv") else "batch_normalization"
            numbered[kind].append((int(match[2] or 0), layer))
    renamed = {layer: layer for layer in layers}
    for kind, found in numbered.items():
        first = min((number for number, _ in found), default=0)
        for number, layer in found:
            renamed[layer] = with_number(kind, number - first)
    return {
        name: f"{renamed[layer]}/{_variable(variable)}"
        for layer, variables in layers.items()
        for variable, name in variables
    }


def _variable(name: str) -> str:
    """Keras 1 has "block1_conv1_W" for the kernel, and "..._running_std" for the variance."""
    return next((new for end, new in KERAS_1.items() if name.endswith(end)), name)


def _resolve_positions(names: list[str], network: str) -> dict[str, str]:
    """The same for "layers/conv2d_7/vars/0". A name of another form stays as it is."""
    positions = keras_positions(network)
    resolved = {}
    for name in names:
        inner = re.sub(r"^(layers/(functional|sequential)(_\d+)?/)*", "", name)  # of a model within a model
        match = re.fullmatch(r"layers/([a-z0-9_]+?)(?:_(\d+))?/vars/(\d+)", inner)
        layer = positions.get((match[1], int(match[2] or 0))) if match else None
        resolved[name] = name
        if match is None or layer is None:
            continue
        variables: tuple[str, ...] = ("kernel", "bias")
        if match[1] == "batch_normalization":
            variables = ("gamma", "beta", "moving_mean", "moving_variance")
            if name.rpartition("/")[0] + "/3" not in names:  # three variables: there is no gamma
                variables = variables[1:]
        elif match[1] == "separable_conv2d":
            variables = ("depthwise_kernel", "pointwise_kernel")
        if int(match[3]) < len(variables):
            resolved[name] = f"{layer}/{variables[int(match[3])]}"
    return resolved


# A .weights.h5 file numbers the layers by `model.layers`, which is sorted by depth in the graph, so that the layers of
# parallel branches alternate. Per block: for each layer in the file's order, its place in the order of creation.
A, RA = (3, 1, 4, 0, 2, 5, 6), (1, 2, 0, 3)
B, RB = (4, 5, 1, 6, 2, 7, 0, 3, 8, 9), (2, 3, 0, 4, 1, 5)
C = (4, 1, 5, 2, 3, 6, 7, 0, 8)
STEM = (0, 1, 2, 3, 4)
ORDERS: dict[str, list[tuple[int, ...] | str]] = {
    "inception_v3": [STEM, A, A, A, RA, B, B, B, B, RB, C, C],
    "inception_resnet_v2": [
        STEM, A,
        *[part for i in range(1, 11) for part in (A[:6], f"block35_{i}_conv")], RA,
        *[part for i in range(1, 21) for part in (RA, f"block17_{i}_conv")], (4, 0, 2, 5, 1, 3, 6),
        *[part for i in range(1, 11) for part in (RA, f"block8_{i}_conv")],
        "conv_7b",
    ],
}  # fmt: skip


def keras_positions(network: str) -> dict[tuple[str, int], str]:
    """(class of layer, its number in a .weights.h5 file) -> the layer's name in names.py."""
    found: dict[tuple[str, int], str] = {("dense", 0): "predictions"}
    if network == "xception":
        return found | _xception_positions()
    convs = norms = created = 0
    for part in ORDERS[network]:
        if isinstance(part, str):  # a convolution with a name
            found["conv2d", convs] = part
            convs += 1
            if part == "conv_7b":
                found["batch_normalization", norms] = "conv_7b_bn"
            continue
        for place in part:
            found["conv2d", convs] = with_number("conv2d", created + place)
            found["batch_normalization", norms] = with_number("batch_normalization", created + place)
            convs, norms = convs + 1, norms + 1
        created += len(part)
    return found


def _xception_positions() -> dict[tuple[str, int], str]:
    """Every block's separable convolutions, then its shortcut: one of four convolutions without a name."""
    kinds: dict[str, list[str]] = {
        "conv2d": ["block1_conv1", "block1_conv2"],
        "separable_conv2d": [],
        "batch_normalization": ["block1_conv1_bn", "block1_conv2_bn"],
    }
    shortcuts = 0
    for block in range(2, 15):
        names = [f"block{block}_sepconv{j}" for j in (1, 2, 3) if j < 3 or 5 <= block <= 12]
        kinds["separable_conv2d"] += names
        kinds["batch_normalization"] += [f"{n}_bn" for n in names]
        if block in (2, 3, 4, 13):
            for kind in ("conv2d", "batch_normalization"):
                kinds[kind].append(with_number(kind, shortcuts))
            shortcuts += 1
    return {(kind, k): name for kind, names in kinds.items() for k, name in enumerate(names)}

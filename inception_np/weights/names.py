"""What other libraries call the layers of our networks: one table per network.

A row names one layer that owns arrays: our path, PyTorch's (torchvision and timm agree wherever both have the network)
and Keras's. The rows follow the order in which PyTorch defines the layers, which is also the order in which Keras
creates them. Keras gives most layers no name of their own, so that only this order identifies them: `conv2d_k` is the
k-th convolution without a name, `batch_normalization_k` the k-th batch norm (keras_names.py has more about its files).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

SOURCES = ("torchvision", "timm", "keras")


class LayerNames(NamedTuple):
    """The paths of one layer: ours, PyTorch's, Keras's.

    keras: `layer_names` adds the number to "conv2d" and "batch_normalization"; with a slash it is a tensor's path, not
    a layer's. aux: the layer belongs to an auxiliary head. classifier: its outputs are the classes. flat: the height
    and width of the map that the layer reads flattened (PyTorch flattens channels first, we flatten them last).
    """

    ours: str
    torch: str
    keras: str = ""
    aux: bool = False
    classifier: bool = False
    flat: tuple[int, int] | None = None


Rows = Iterator[LayerNames]


def unit(ours: str, torch: str, keras: str = "", *, aux: bool = False) -> Rows:
    """A convolution and its batch norm: conv and bn here and in PyTorch, K and K_bn in Keras."""
    conv, bn = (keras, f"{keras}_bn") if keras else ("conv2d", "batch_normalization")
    yield LayerNames(f"{ours}.conv", f"{torch}.conv", conv, aux)
    yield LayerNames(f"{ours}.bn", f"{torch}.bn", bn, aux)


def units(ours: str, torch: str, pairs: dict[str, str], *, aux: bool = False) -> Rows:
    """The units of one block. pairs: our names within the block, and PyTorch's."""
    for our_name, torch_name in pairs.items():
        yield from unit(f"{ours}.{our_name}", f"{torch}.{torch_name}", aux=aux)


# Blocks: our names (the branches, and the kernels within them) and PyTorch's.
# fmt: off
GOOGLENET = {
    "b1": "branch1",
    "b3.reduce": "branch2.0", "b3.conv": "branch2.1",
    "b5.reduce": "branch3.0", "b5.conv": "branch3.1",
    "pool.proj": "branch4.1",
}
V3_5 = {
    "b0": "branch1x1",
    "b1.1x1": "branch5x5_1", "b1.5x5": "branch5x5_2",
    "b2.1x1": "branch3x3dbl_1", "b2.3x3a": "branch3x3dbl_2", "b2.3x3b": "branch3x3dbl_3",
    "b3.proj": "branch_pool",
}
V3_6A = {
    "b0.3x3": "branch3x3",
    "b1.1x1": "branch3x3dbl_1", "b1.3x3a": "branch3x3dbl_2", "b1.3x3b": "branch3x3dbl_3",
}
V3_6 = {
    "b0": "branch1x1",
    "b1.1x1": "branch7x7_1", "b1.1x7": "branch7x7_2", "b1.7x1": "branch7x7_3",
    "b2.1x1": "branch7x7dbl_1", "b2.7x1a": "branch7x7dbl_2", "b2.1x7a": "branch7x7dbl_3",
    "b2.7x1b": "branch7x7dbl_4", "b2.1x7b": "branch7x7dbl_5",
    "b3.proj": "branch_pool",
}
V3_7A = {
    "b0.1x1": "branch3x3_1", "b0.3x3": "branch3x3_2",
    "b1.1x1": "branch7x7x3_1", "b1.1x7": "branch7x7x3_2", "b1.7x1": "branch7x7x3_3", "b1.3x3": "branch7x7x3_4",
}
V3_7 = {
    "b0": "branch1x1",
    "b1.1x1": "branch3x3_1", "b1.fork.1x3": "branch3x3_2a", "b1.fork.3x1": "branch3x3_2b",
    "b2.1x1": "branch3x3dbl_1", "b2.3x3": "branch3x3dbl_2",
    "b2.fork.1x3": "branch3x3dbl_3a", "b2.fork.3x1": "branch3x3dbl_3b",
    "b3.proj": "branch_pool",
}
V4_4A_7A = {
    "b0.1x1": "branch0.0", "b0.3x3": "branch0.1",
    "b1.1x1": "branch1.0", "b1.1x7": "branch1.1", "b1.7x1": "branch1.2", "b1.3x3": "branch1.3",
}
V4_5 = {
    "b0": "branch0",
    "b1.1x1": "branch1.0", "b1.3x3": "branch1.1",
    "b2.1x1": "branch2.0", "b2.3x3a": "branch2.1", "b2.3x3b": "branch2.2",
    "b3.proj": "branch3.1",
}
FIGURE_7 = {
    "b0": "branch0",
    "b1.1x1": "branch1.0", "b1.3x3a": "branch1.1", "b1.3x3b": "branch1.2",
}
V4_6 = {
    "b0": "branch0",
    "b1.1x1": "branch1.0", "b1.1x7": "branch1.1", "b1.7x1": "branch1.2",
    "b2.1x1": "branch2.0", "b2.7x1a": "branch2.1", "b2.1x7a": "branch2.2",
    "b2.7x1b": "branch2.3", "b2.1x7b": "branch2.4",
    "b3.proj": "branch3.1",
}
V4_7 = {
    "b0": "branch0",
    "b1.1x1": "branch1_0", "b1.fork.1x3": "branch1_1a", "b1.fork.3x1": "branch1_1b",
    "b2.1x1": "branch2_0", "b2.3x1": "branch2_1", "b2.1x3": "branch2_2",
    "b2.fork.1x3": "branch2_3a", "b2.fork.3x1": "branch2_3b",
    "b3.proj": "branch3.1",
}
RESNET_5B = {
    "b0": "branch0",
    "b1.1x1": "branch1.0", "b1.5x5": "branch1.1",
    "b2.1x1": "branch2.0", "b2.3x3a": "branch2.1", "b2.3x3b": "branch2.2",
    "b3.proj": "branch3.1",
}
BLOCK_35 = {
    "b0": "branch0",
    "b1.1x1": "branch1.0", "b1.3x3": "branch1.1",
    "b2.1x1": "branch2.0", "b2.3x3a": "branch2.1", "b2.3x3b": "branch2.2",
}
BLOCK_17 = {"b0": "branch0", "b1.1x1": "branch1.0", "b1.1x7": "branch1.1", "b1.7x1": "branch1.2"}
BLOCK_8 = {"b0": "branch0", "b1.1x1": "branch1.0", "b1.1x3": "branch1.1", "b1.3x1": "branch1.2"}
RESNET_7A = {
    "b0.1x1": "branch0.0", "b0.3x3": "branch0.1",
    "b1.1x1": "branch1.0", "b1.3x3": "branch1.1",
    "b2.1x1": "branch2.0", "b2.3x3a": "branch2.1", "b2.3x3b": "branch2.2",
}
# fmt: on


def inception_v1() -> Rows:
    """torchvision's googlenet."""
    yield from unit("conv1", "conv1")
    yield from unit("conv2.reduce", "conv2")
    yield from unit("conv2.conv", "conv3")
    for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        yield from units(block, f"inception{block}", GOOGLENET)
    for ours, theirs in (("aux_4a", "aux1"), ("aux_4d", "aux2")):
        yield from unit(f"{ours}.conv", f"{theirs}.conv", aux=True)
        yield LayerNames(f"{ours}.fc1", f"{theirs}.fc1", aux=True, flat=(4, 4))
        yield LayerNames(f"{ours}.fc2", f"{theirs}.fc2", aux=True, classifier=True)
    yield LayerNames("fc", "fc", classifier=True)


def inception_v3() -> Rows:
    """torchvision's and timm's inception_v3 (timm's has the head only where asked), Keras's InceptionV3."""
    for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"):
        yield from unit(f"Conv2d_{name}", f"Conv2d_{name}")
    blocks = {"5b": V3_5, "5c": V3_5, "5d": V3_5, "6a": V3_6A, "6b": V3_6, "6c": V3_6, "6d": V3_6, "6e": V3_6}
    for name, pairs in blocks.items():
        yield from units(f"Mixed_{name}", f"Mixed_{name}", pairs)
    yield from unit("aux_Mixed_6e.conv", "AuxLogits.conv0", aux=True)
    yield from unit("aux_Mixed_6e.full", "AuxLogits.conv1", aux=True)
    yield LayerNames("aux_Mixed_6e.fc", "AuxLogits.fc", aux=True, classifier=True)
    for name, pairs in {"7a": V3_7A, "7b": V3_7, "7c": V3_7}.items():
        yield from units(f"Mixed_{name}", f"Mixed_{name}", pairs)
    yield LayerNames("fc", "fc", "predictions", classifier=True)


def inception_v4() -> Rows:
    """timm's inception_v4, which numbers its stages."""
    for i, name in enumerate(("1a", "2a", "2b")):
        yield from unit(f"Conv2d_{name}", f"features.{i}")
    yield from unit("Mixed_3a.b1", "features.3.conv")
    yield from units("Mixed_4a", "features.4", V4_4A_7A)
    yield from unit("Mixed_5a.b0", "features.5.conv")
    blocks = {f"5{c}": V4_5 for c in "bcde"} | {"6a": FIGURE_7} | {f"6{c}": V4_6 for c in "bcdefgh"}
    blocks |= {"7a": V4_4A_7A} | {f"7{c}": V4_7 for c in "bcd"}
    for i, (name, pairs) in enumerate(blocks.items()):
        yield from units(f"Mixed_{name}", f"features.{6 + i}", pairs)
    yield LayerNames("Logits.fc", "last_linear", classifier=True)


def inception_resnet_v2() -> Rows:
    """timm's inception_resnet_v2, Keras's InceptionResNetV2."""
    for name in ("1a", "2a", "2b", "3b", "4a"):
        yield from unit(f"Conv2d_{name}", f"conv2d_{name}")
    yield from units("Mixed_5b", "mixed_5b", RESNET_5B)
    for i in range(1, 11):
        yield from residual(f"block35_{i}", f"repeat.{i - 1}", BLOCK_35)
    yield from units("Mixed_6a", "mixed_6a", FIGURE_7)
    for i in range(1, 21):
        yield from residual(f"block17_{i}", f"repeat_1.{i - 1}", BLOCK_17)
    yield from units("Mixed_7a", "mixed_7a", RESNET_7A)
    for i in range(1, 10):
        yield from residual(f"block8_{i}", f"repeat_2.{i - 1}", BLOCK_8)
    yield from residual("block8_10", "block8", BLOCK_8)
    yield from unit("Conv2d_7b", "conv2d_7b", "conv_7b")
    yield LayerNames("Logits.fc", "classif", "predictions", classifier=True)


def residual(ours: str, torch: str, pairs: dict[str, str]) -> Rows:
    """The towers, and the 1x1 convolution behind them, which has a name in Keras."""
    yield from units(f"{ours}.sum.body.towers", torch, pairs)
    yield LayerNames(f"{ours}.sum.body.up", f"{torch}.conv2d", f"{ours}_conv")


def xception() -> Rows:
    """timm's legacy_xception, whose blocks are numbered one lower, and Keras's Xception."""
    for i in (1, 2):
        yield LayerNames(f"block1_conv{i}.conv", f"conv{i}", f"block1_conv{i}")
        yield LayerNames(f"block1_conv{i}.bn", f"bn{i}", f"block1_conv{i}_bn")
    for block in range(2, 14):
        theirs = f"block{block - 1}"
        if block in (2, 3, 4, 13):
            yield LayerNames(f"block{block}.shortcut.conv", f"{theirs}.skip", "conv2d")
            yield LayerNames(f"block{block}.shortcut.bn", f"{theirs}.skipbn", "batch_normalization")
        for j in range(1, 4 if 5 <= block <= 12 else 3):
            # timm's list repeats [ReLU, separable, norm]; block2's has no first ReLU
            k = 3 * j - (3 if block == 2 else 2)
            keras = f"block{block}_sepconv{j}"
            yield from separable(f"block{block}.body.sepconv{j}", f"{theirs}.rep.{k}", f"{theirs}.rep.{k + 1}", keras)
    for j in (1, 2):
        yield from separable(f"block14.sepconv{j}", f"conv{j + 2}", f"bn{j + 2}", f"block14_sepconv{j}")
    yield LayerNames("Logits.fc", "fc", "predictions", classifier=True)


def separable(ours: str, torch: str, torch_bn: str, keras: str) -> Rows:
    """A separable convolution and its batch norm. In Keras both kernels belong to one layer."""
    yield LayerNames(f"{ours}.depthwise", f"{torch}.conv1", keras)
    yield LayerNames(f"{ours}.pointwise.conv", f"{torch}.pointwise", f"{keras}/pointwise_kernel")
    yield LayerNames(f"{ours}.pointwise.bn", torch_bn, f"{keras}_bn")


TABLES = {
    "inception_v1": (inception_v1, ("torchvision",)),
    "inception_v3": (inception_v3, SOURCES),
    "inception_v4": (inception_v4, ("timm",)),
    "inception_resnet_v2": (inception_resnet_v2, ("timm", "keras")),
    "xception": (xception, ("timm", "keras")),
}


def layer_names(name: str, source: str) -> list[LayerNames]:
    """The rows of one network in one library, Keras's automatic names numbered.

    Raises ValueError where the library does not have the network.
    """
    rows, sources = TABLES.get(name, (None, ()))
    if rows is None or source not in sources:
        have = [n for n, (_, s) in TABLES.items() if source in s]
        raise ValueError(f"{source}: got the network {name!r}, wanted one of {', '.join(have)}")
    if source != "keras":
        return list(rows())
    counts = {"conv2d": 0, "batch_normalization": 0}
    numbered = []
    for row in rows():
        if row.aux:  # Keras has no auxiliary heads
            continue
        if row.keras in counts:
            k = counts[row.keras]
            counts[row.keras] += 1
            row = row._replace(keras=with_number(row.keras, k))
        numbered.append(row)
    return numbered


def with_number(kind: str, k: int) -> str:
    """Keras's automatic name of its k-th layer of a kind: conv2d, conv2d_1, conv2d_2, ..."""
    return f"{kind}_{k}" if k else kind


def resolve_torch_names(names: Iterable[str], network: str) -> dict[str, str]:
    """Each tensor's name in a file -> its name in the table: without a data-parallel prefix, with the head's name."""
    names = list(names)
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    heads = {"inception_resnet_v2": "classif", "xception": "fc"}
    resolved = {name: name.removeprefix(prefix) for name in names}
    if network in heads:
        for name, key in resolved.items():
            if key.startswith("last_linear."):
                resolved[name] = key.replace("last_linear", heads[network])
    return resolved

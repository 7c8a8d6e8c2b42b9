"""What other libraries call the layers of our networks: one table per network.

A row names one layer that owns arrays: our path, PyTorch's (torchvision and timm agree wherever
both have the network) and Keras's. Rows stand in the order in which PyTorch defines the layers,
and Keras creates its layers in the same order. Keras leaves most layers without a name of their
own, and then this order is the only key that there is: `conv2d_k` is the k-th convolution without
a name, `batch_normalization_k` the k-th normalisation.
"""

from collections.abc import Iterator
from typing import NamedTuple

SOURCES = ("torchvision", "timm", "keras")


class Row(NamedTuple):
    """One layer's paths. keras: "conv2d" and "batch_normalization" get their number from `table`; with a slash it names
    the tensor, not the layer.

    aux: belongs to an auxiliary head. classifier: its outputs are the classes. flat: the height and
    width of the map that the layer reads flattened (PyTorch flattens channels first, we last).
    """

    ours: str
    torch: str
    keras: str = ""
    aux: bool = False
    classifier: bool = False
    flat: tuple[int, int] | None = None


Rows = Iterator[Row]


def unit(ours: str, torch: str, keras: str = "", *, aux: bool = False) -> Rows:
    """Convolution and batch norm: both sides call them conv and bn, Keras K and K_bn."""
    conv, bn = (keras, f"{keras}_bn") if keras else ("conv2d", "batch_normalization")
    yield Row(f"{ours}.conv", f"{torch}.conv", conv, aux)
    yield Row(f"{ours}.bn", f"{torch}.bn", bn, aux)


def units(ours: str, torch: str, pairs: dict[str, str], *, aux: bool = False) -> Rows:
    """The units of one block: pairs has our names in the block and PyTorch's."""
    for mine, theirs in pairs.items():
        yield from unit(f"{ours}.{mine}", f"{torch}.{theirs}", aux=aux)


# Blocks: our names, as compose's branches and their kernels have them, and PyTorch's.
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
V4_4A = {
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
V4_7A = {
    "b0.1x1": "branch0.0", "b0.3x3": "branch0.1",
    "b1.1x1": "branch1.0", "b1.1x7": "branch1.1", "b1.7x1": "branch1.2", "b1.3x3": "branch1.3",
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
        yield Row(f"{ours}.fc1", f"{theirs}.fc1", aux=True, flat=(4, 4))
        yield Row(f"{ours}.fc2", f"{theirs}.fc2", aux=True, classifier=True)
    yield Row("fc", "fc", classifier=True)


def inception_v3() -> Rows:
    """torchvision's and timm's inception_v3 (timm's has the head only where asked), Keras's InceptionV3."""
    for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"):
        yield from unit(f"Conv2d_{name}", f"Conv2d_{name}")
    blocks = {"5b": V3_5, "5c": V3_5, "5d": V3_5, "6a": V3_6A, "6b": V3_6, "6c": V3_6, "6d": V3_6, "6e": V3_6}
    for name, pairs in blocks.items():
        yield from units(f"Mixed_{name}", f"Mixed_{name}", pairs)
    yield from unit("aux_Mixed_6e.conv", "AuxLogits.conv0", aux=True)
    yield from unit("aux_Mixed_6e.full", "AuxLogits.conv1", aux=True)
    yield Row("aux_Mixed_6e.fc", "AuxLogits.fc", aux=True, classifier=True)
    for name, pairs in {"7a": V3_7A, "7b": V3_7, "7c": V3_7}.items():
        yield from units(f"Mixed_{name}", f"Mixed_{name}", pairs)
    yield Row("fc", "fc", "predictions", classifier=True)


def inception_v4() -> Rows:
    """timm's inception_v4, which numbers its stages."""
    for i, name in enumerate(("1a", "2a", "2b")):
        yield from unit(f"Conv2d_{name}", f"features.{i}")
    yield from unit("Mixed_3a.b1", "features.3.conv")
    yield from units("Mixed_4a", "features.4", V4_4A)
    yield from unit("Mixed_5a.b0", "features.5.conv")
    blocks = {f"5{c}": V4_5 for c in "bcde"} | {"6a": FIGURE_7} | {f"6{c}": V4_6 for c in "bcdefgh"}
    blocks |= {"7a": V4_7A} | {f"7{c}": V4_7 for c in "bcd"}
    for i, (name, pairs) in enumerate(blocks.items()):
        yield from units(f"Mixed_{name}", f"features.{6 + i}", pairs)
    yield Row("Logits.fc", "last_linear", classifier=True)


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
    yield Row("Logits.fc", "classif", "predictions", classifier=True)


def residual(ours: str, torch: str, pairs: dict[str, str]) -> Rows:
    """The towers, and the 1x1 convolution behind them, which Keras names."""
    yield from units(f"{ours}.sum.body.towers", torch, pairs)
    yield Row(f"{ours}.sum.body.up", f"{torch}.conv2d", f"{ours}_conv")


def xception() -> Rows:
    """timm's legacy_xception, whose blocks are numbered one lower, and Keras's Xception."""
    for i in (1, 2):
        yield Row(f"block1_conv{i}.conv", f"conv{i}", f"block1_conv{i}")
        yield Row(f"block1_conv{i}.bn", f"bn{i}", f"block1_conv{i}_bn")
    for block in range(2, 14):
        theirs = f"block{block - 1}"
        if block in (2, 3, 4, 13):
            yield Row(f"block{block}.shortcut.conv", f"{theirs}.skip", "conv2d")
            yield Row(f"block{block}.shortcut.bn", f"{theirs}.skipbn", "batch_normalization")
        for j in range(1, 4 if 5 <= block <= 12 else 3):
            # their list is [ReLU, separable, norm] over and over; the first ReLU is not in block2's
            k = 3 * j - (3 if block == 2 else 2)
            keras = f"block{block}_sepconv{j}"
            yield from separable(f"block{block}.body.sepconv{j}", f"{theirs}.rep.{k}", f"{theirs}.rep.{k + 1}", keras)
    for j in (1, 2):
        yield from separable(f"block14.sepconv{j}", f"conv{j + 2}", f"bn{j + 2}", f"block14_sepconv{j}")
    yield Row("Logits.fc", "fc", "predictions", classifier=True)


def separable(ours: str, torch: str, torch_bn: str, keras: str) -> Rows:
    """A separable convolution and its norm: Keras keeps both kernels in one layer."""
    yield Row(f"{ours}.depthwise", f"{torch}.conv1", keras)
    yield Row(f"{ours}.pointwise.conv", f"{torch}.pointwise", f"{keras}/pointwise_kernel")
    yield Row(f"{ours}.pointwise.bn", torch_bn, f"{keras}_bn")


TABLES = {
    "inception_v1": (inception_v1, ("torchvision",)),
    "inception_v3": (inception_v3, SOURCES),
    "inception_v4": (inception_v4, ("timm",)),
    "inception_resnet_v2": (inception_resnet_v2, ("timm", "keras")),
    "xception": (xception, ("timm", "keras")),
}


def table(name: str, source: str) -> list[Row]:
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
            row = row._replace(keras=f"{row.keras}_{k}" if k else row.keras)
        numbered.append(row)
    return numbered


# A Keras 3 .weights.h5 file numbers its layers anew, by `model.layers`, which is sorted by depth in
# the graph: there the layers of parallel branches alternate. Per block: for each layer in the
# file's order, its place in the order of creation.
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


def keras_positions(name: str) -> dict[tuple[str, int], str]:
    """(class of layer, number in a .weights.h5 file) -> the layer's name in `table`."""
    found: dict[tuple[str, int], str] = {("dense", 0): "predictions"}
    if name == "xception":
        return found | _xception_positions()
    convs = norms = created = 0
    for part in ORDERS[name]:
        places = [] if isinstance(part, str) else [created + k for k in part]
        for k in places:
            found["conv2d", convs] = f"conv2d_{k}" if k else "conv2d"
            found["batch_normalization", norms] = f"batch_normalization_{k}" if k else "batch_normalization"
            convs, norms = convs + 1, norms + 1
        created += len(places)
        if isinstance(part, str):
            found["conv2d", convs] = part
            convs += 1
            if part == "conv_7b":
                found["batch_normalization", norms] = "conv_7b_bn"
    return found


def _xception_positions() -> dict[tuple[str, int], str]:
    """Every block's separable convolutions, then its shortcut, which is one of four without names."""
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
            suffix = f"_{shortcuts}" if shortcuts else ""
            shortcuts += 1
            for kind in ("conv2d", "batch_normalization"):
                kinds[kind].append(kind + suffix)
    return {(kind, k): name for kind, names in kinds.items() for k, name in enumerate(names)}

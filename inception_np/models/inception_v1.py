"""GoogLeNet. Szegedy et al. 2015, "Going Deeper with Convolutions": Table 1, Figures 2 and 3.

Every module looks at its input through windows of several sizes at once and joins what they see. Before the expensive
3x3 and 5x5 windows a 1x1 convolution reduces the channels: at 28x28x256 that is 271 instead of 854 million
multiply-adds (Figure 2b against 2a).
"""

from functools import partial
from typing import Any

import numpy as np

from ..compose import Concat, Sequential
from ..layer import Layer, walk
from ..layers.activation import Dropout, ReLU
from ..layers.conv import Conv2D, ConvReLU
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.depthwise import DepthwiseConv2D
from ..layers.init import glorot_uniform, he_normal, lecun_uniform, truncated_normal
from ..layers.linear import Linear
from ..layers.lrn import LRN
from ..layers.pool import AdaptiveAvgPool2D, AvgPool2D, Flatten, GlobalAvgPool2D, MaxPool2D
from .blocks import scaled
from .network import Network

# Table 1:  1x1    3x3 (reduce, out)  5x5 (reduce, out)  pool proj
# fmt: off
ROWS = {
    "3a": ( 64,    ( 96, 128),        (16,  32),          32),
    "3b": (128,    (128, 192),        (32,  96),          64),
    "4a": (192,    ( 96, 208),        (16,  48),          64),
    "4b": (160,    (112, 224),        (24,  64),          64),
    "4c": (128,    (128, 256),        (24,  64),          64),
    "4d": (112,    (144, 288),        (32,  64),          64),
    "4e": (256,    (160, 320),        (32, 128),         128),
    "5a": (256,    (160, 320),        (32, 128),         128),
    "5b": (384,    (192, 384),        (48, 128),         128),
}
# fmt: on
# Table 1 as printed: parameters and operations, with K = 1024 weights, and why ours differ.
PRINTED = {
    "conv1": "2.7K, 34M: a separable first convolution (2,712 weights); a dense 7x7 has 9,408 and 118M",
    "conv2": "112K, 360M",
    "3a": "159K, 128M",
    "3b": "380K, 304M: 379K by its own filter columns",
    "4a": "364K, 73M: 366.75K by its own filter columns",
    "4b": "437K, 88M: 438K by its own filter columns",
    "4c": "463K, 100M: 497.5K by its own filter columns",
    "4d": "580K, 119M: 590.5K by its own filter columns",
    "4e": "840K, 170M: 847K by its own filter columns",
    "5a": "1072K, 54M: 1018K and 51M by its own filter columns",
    "5b": "1388K, 71M: 1409K by its own filter columns",
    "fc": "1000K, 1M",
}
NOTE = (
    "The paper's parameter column counts weights in units of 1024, and no rounding reproduces its rows 3b to 5b from\n"
    "the filters printed beside them; its operations agree with those filters to 1 % except in conv1 and 5a."
)
HEADS = ("4a", "4d")  # the stages that the auxiliary classifiers read


def inception(channels: int, row: tuple, conv: Any, fives: int = 5) -> tuple[Layer, int]:
    """Figure 2(b): the module with dimension reductions, and its output channels. fives: what the 5x5 is made of."""
    c1, c3, c5, proj = row
    return Concat(
        b1=conv(channels, c1, 1),
        b3=Sequential(reduce=conv(channels, c3[0], 1), conv=conv(c3[0], c3[1], 3)),
        b5=Sequential(reduce=conv(channels, c5[0], 1), conv=conv(c5[0], c5[1], fives)),
        pool=Sequential(pool=MaxPool2D(3, stride=1, pad=1), proj=conv(channels, proj, 1)),
    ), c1 + c3[1] + c5[1] + proj


def naive_inception(channels: int, row: tuple, conv: Any, fives: int = 5) -> tuple[Layer, int]:
    """Figure 2(a): without reductions. The pooled input joins whole, so the channels can only grow."""
    c1, c3, c5, _ = row
    return Concat(
        b1=conv(channels, c1, 1),
        b3=conv(channels, c3[1], 3),
        b5=conv(channels, c5[1], fives),
        pool=MaxPool2D(3, stride=1, pad=1),
    ), c1 + c3[1] + c5[1] + channels


def auxiliary(channels: int, pool: Layer, pixels: int, width: float, classes: int, conv: Any, linear: Any) -> Layer:
    """Section 5: average pooling, 128 1x1 filters, 1024 hidden units, 70 % dropout and a classifier."""
    reduced, hidden = scaled(128, width), scaled(1024, width)
    return Sequential(
        pool=pool,
        conv=conv(channels, reduced, 1),
        flat=Flatten(),
        fc1=linear(pixels * reduced, hidden),
        relu=ReLU(),
        dropout=Dropout(0.7),
        fc2=linear(hidden, classes),
    )


def inception_v1(
    *,
    num_classes: int,
    in_channels: int,
    width: float,
    aux: bool | None,
    preset: str,
    rng: np.random.Generator,
    naive: bool = False,
    lrn: bool = True,
    batch_norm: bool = False,
    separable_stem: bool = False,
) -> Network:
    """GoogLeNet for images of 224x224.

    preset: "paper", and "caffe" (BVLC), are Table 1 with biases, LRN and true 5x5 convolutions; they differ in the
    initial weights, which the paper does not give. "torchvision" and "tf_slim" have batch norm instead of LRN and
    biases, 3x3 where the paper has 5x5, a 2x2 pool before 5a and 20 % dropout; tf_slim has no heads and no gamma.
    naive: the module of Figure 2(a). lrn: with LRN or without. batch_norm: batch norm instead of LRN and biases.
    separable_stem: the first convolution depthwise separable with multiplier 8, the reading that explains Table 1's
    2.7K parameters and 34M operations (the BN paper says that its first convolution was made so).
    """
    released = preset in ("torchvision", "tf_slim")
    batch_norm, lrn = batch_norm or released, lrn and not (batch_norm or released)
    init = {"torchvision": truncated_normal(0.01), "tf_slim": truncated_normal(0.01), "caffe": lecun_uniform}.get(
        preset, he_normal
    )
    conv: Any
    if batch_norm:
        slim = preset == "tf_slim"
        conv = partial(ConvBNReLU, decay=0.9997 if slim else 0.9, scale=not slim, init=init, rng=rng)
    else:
        conv = partial(ConvReLU, init=init, rng=rng)
    linear = partial(Linear, init=glorot_uniform if preset == "paper" else init, rng=rng)
    w = partial(scaled, width=width)

    norm = _norm(lrn)
    pad3 = "same" if preset == "tf_slim" else 3  # TensorFlow's "same" pads 2 and 3: the same size, one pixel's shift
    if separable_stem:
        stem = Sequential(
            depthwise=DepthwiseConv2D(in_channels, 7, multiplier=8, stride=2, pad=pad3, init=init, rng=rng),
            pointwise=Conv2D(8 * in_channels, w(64), 1, bias=False, init=init, rng=rng),
            relu=ReLU(),
        )
    else:
        stem = conv(in_channels, w(64), 7, stride=2, pad=pad3)
    stages: dict[str, Layer] = {
        "conv1": stem,
        "pool1": Sequential(pool=MaxPool2D(3, stride=2, ceil=True), **norm),  # ceil: 112 -> 56, as Table 1 has it
        "conv2": Sequential(reduce=conv(w(64), w(64), 1), conv=conv(w(64), w(192), 3), **norm),
        "pool2": MaxPool2D(3, stride=2, ceil=True),
    }
    heads = HEADS if aux is not False and preset != "tf_slim" else ()
    pools = {"3b": ("pool3", 3), "4e": ("pool4", 2 if released else 3)}
    channels = _modules(stages, w(192), pools, width, naive, conv, 3 if released else 5)

    def head(inputs: int) -> Layer:
        pool = AdaptiveAvgPool2D(4) if preset == "torchvision" else AvgPool2D(5, stride=3)
        return auxiliary(inputs, pool, 4 * 4, width, num_classes, conv, linear)

    classifiers = {stage: head(channels[stage]) for stage in heads}
    stages["pool5"] = GlobalAvgPool2D()  # 7x7 in Table 1, which at 224x224 is the whole plane
    stages["dropout"] = Dropout(0.2 if released else 0.4)
    stages["fc"] = linear(channels["5b"], num_classes)
    if preset == "caffe":
        _caffe_biases(stages, classifiers)
    network = Network(Sequential(**stages), classifiers, aux_weight=0.3)
    if preset in ("paper", "caffe") and width == 1 and not naive:
        network.printed, network.notes = PRINTED, [NOTE]
    return network


def inception_v1_cifar(
    *,
    num_classes: int,
    in_channels: int,
    width: float,
    aux: bool | None,
    preset: str,
    rng: np.random.Generator,
    naive: bool = False,
    lrn: bool = True,
    batch_norm: bool = False,
) -> Network:
    """GoogLeNet for images of 32x32 (not the paper's): all nine modules and both heads, but conv1 is 3x3 with stride 1
    and the first pool is left out, so that the modules see 16x16, 8x8 and 4x4. The options are inception_v1's."""
    lrn = lrn and not batch_norm
    conv: Any = partial(ConvBNReLU, decay=0.9, rng=rng) if batch_norm else partial(ConvReLU, rng=rng)
    linear = partial(Linear, rng=rng)
    w = partial(scaled, width=width)
    norm = _norm(lrn)
    stages: dict[str, Layer] = {
        "conv1": Sequential(conv=conv(in_channels, w(64), 3), **norm),
        "conv2": Sequential(reduce=conv(w(64), w(64), 1), conv=conv(w(64), w(192), 3), **norm),
        "pool2": MaxPool2D(3, stride=2, ceil=True),
    }
    channels = _modules(stages, w(192), {"3b": ("pool3", 3), "4e": ("pool4", 3)}, width, naive, conv, 5)

    def head(inputs: int) -> Layer:
        return auxiliary(inputs, AvgPool2D(5, stride=3), 2 * 2, width, num_classes, conv, linear)

    classifiers = {stage: head(channels[stage]) for stage in (HEADS if aux is not False else ())}
    stages["pool5"] = GlobalAvgPool2D()
    stages["dropout"] = Dropout(0.4)
    stages["fc"] = linear(channels["5b"], num_classes)
    return Network(Sequential(**stages), classifiers, aux_weight=0.3)


def _norm(lrn: bool) -> dict[str, Layer]:
    """Local response normalisation with Caffe's constants, since the paper gives none, or nothing."""
    return {"norm": LRN(5, alpha=1e-4, beta=0.75, k=1.0)} if lrn else {}


def _modules(stages: dict, channels: int, pools: dict, width: float, naive: bool, conv: Any, fives: int) -> dict:
    """Add the nine modules of Table 1 and the pools between them to `stages`; gives each module's output channels."""
    figure = naive_inception if naive else inception
    outputs = {}
    for name, row in scaled(ROWS, width).items():
        stages[name], channels = figure(channels, row, conv, fives)
        outputs[name] = channels
        if name in pools:
            pool, size = pools[name]
            stages[pool] = MaxPool2D(size, stride=2, ceil=True)
    return outputs


def _caffe_biases(stages: dict[str, Layer], heads: dict[str, Layer]) -> None:
    """BVLC's biases: 0.2 everywhere but in the classifiers."""
    for layer in [*stages.values(), *heads.values()]:
        for _, child in [("", layer), *walk(layer)]:
            if isinstance(child, Conv2D) and child.bias is not None:
                child.bias.data[...] = 0.2
    for head in heads.values():
        head.layers["fc1"].bias.data[...] = 0.2  # type: ignore[attr-defined]

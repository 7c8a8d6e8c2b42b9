"""GoogLeNet. Szegedy et al. 2015, "Going Deeper with Convolutions": Table 1, Figures 2 and 3.

Every module looks at its input through windows of several sizes at once and joins what they see. Before the expensive
3x3 and 5x5 windows a 1x1 convolution reduces the channels: at 28x28x256 that is 271 instead of 854 million
multiply-adds (Figure 2b against 2a).
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..backend.arrays import Shape
from ..compose import Concat, Sequential
from ..layer import Layer, named_params
from ..layers.activation import Dropout, ReLU
from ..layers.conv import Conv2D, ConvReLU
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.depthwise import DepthwiseConv2D
from ..layers.init import Init, glorot_uniform, he_normal, lecun_uniform, normal, truncated_normal
from ..layers.linear import Linear
from ..layers.lrn import LRN
from ..layers.pool import AdaptiveAvgPool2D, AvgPool2D, Flatten, GlobalAvgPool2D, MaxPool2D
from .blocks import Conv, Request, Stages, Widths, at_width
from .network import Network

# fmt: off
STEM      = (64, 64, 192)                # conv1, and conv2's reduction and 3x3
# Table 1:  1x1    3x3 (reduce, out)  5x5 (reduce, out)  pool proj
ROWS: dict[str, Any] = {
    "pool2": "max 3x3/2",
    "3a": ( 64,    ( 96, 128),        (16,  32),          32),
    "3b": (128,    (128, 192),        (32,  96),          64),
    "pool3": "max 3x3/2",
    "4a": (192,    ( 96, 208),        (16,  48),          64),
    "4b": (160,    (112, 224),        (24,  64),          64),
    "4c": (128,    (128, 256),        (24,  64),          64),
    "4d": (112,    (144, 288),        (32,  64),          64),
    "4e": (256,    (160, 320),        (32, 128),         128),
    "pool4": "max 3x3/2",                # 2x2/2 in torchvision and tf_slim
    "5a": (256,    (160, 320),        (32, 128),         128),
    "5b": (384,    (192, 384),        (48, 128),         128),
}
HEADS     = ("4a", "4d")                 # the stages that the auxiliary classifiers read
AUXILIARY = (128, 1024)                  # section 5: 1x1 filters, hidden units
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


class Source(NamedTuple):
    """What the sources do not share: constants, and no layer."""

    init: Init
    linear: Init  # of the heads' hidden layers
    classifier: Init
    bias: float = 0.0  # the first value of every bias but the classifiers'
    heads: bool = True
    batch_norm: bool = False
    decay: float = 0.9
    gamma: bool = True
    five: int = 5  # the kernel of a module's third branch
    pool4: int = 3  # the kernel of the pool before 5a
    dropout: float = 0.4
    adaptive: bool = False  # the heads pool to 4x4, whatever the grid
    stem_pad: Any = 3  # TensorFlow's "same" pads 2 and 3: the same size, one pixel's shift


RELEASED = Source(*3 * (truncated_normal(0.01),), batch_norm=True, five=3, pool4=2, dropout=0.2)
SOURCES = {
    # The paper does not give the initial weights. Without batch norm the last features are not centred: what all
    # images share is four times what tells them apart. A classifier of large weights would learn nothing else at first
    "paper": Source(he_normal, glorot_uniform, normal(0.01)),
    "caffe": Source(*3 * (lecun_uniform,), bias=0.2),
    "torchvision": RELEASED._replace(adaptive=True),
    "tf_slim": RELEASED._replace(heads=False, decay=0.9997, gamma=False, stem_pad="same"),
}


def inception(conv: Conv, channels: int, row: Widths, five: int = 5) -> Concat:
    """Figure 2(b): the module with dimension reductions. five: the kernel of its third branch."""
    c1, c3, c5, proj = row
    return Concat(
        b1=conv(channels, c1, 1),
        b3=Sequential(reduce=conv(channels, c3[0], 1), conv=conv(c3[0], c3[1], 3)),
        b5=Sequential(reduce=conv(channels, c5[0], 1), conv=conv(c5[0], c5[1], five)),
        pool=Sequential(pool=MaxPool2D(3, stride=1, pad=1), proj=conv(channels, proj, 1)),
    )


def naive_inception(conv: Conv, channels: int, row: Widths, five: int = 5) -> Concat:
    """Figure 2(a): without reductions. The pooled input joins whole, so the channels can only grow."""
    c1, c3, c5, _ = row
    return Concat(
        b1=conv(channels, c1, 1),
        b3=conv(channels, c3[1], 3),
        b5=conv(channels, c5[1], five),
        pool=MaxPool2D(3, stride=1, pad=1),
    )


def auxiliary(
    conv: Conv, linear: Conv, classifier: Conv, grid: Shape, row: Widths, classes: int, adaptive: bool
) -> Sequential:
    """Section 5: average pooling, a 1x1 convolution, a hidden layer, 70 % dropout and a classifier.

    grid: the (N, H, W, C) that it reads. adaptive: torchvision's pool, which makes 4x4 of any grid.
    """
    pool = AdaptiveAvgPool2D(4) if adaptive else AvgPool2D(5, stride=3)
    _, h, w, channels = pool.out_shape(grid)
    reduced, hidden = row
    return Sequential(
        pool=pool,
        conv=conv(channels, reduced, 1),
        flat=Flatten(),
        fc1=linear(h * w * reduced, hidden),
        relu=ReLU(),
        dropout=Dropout(0.7),
        fc2=classifier(hidden, classes),
    )


def inception_v1(
    request: Request,
    *,
    naive: bool = False,
    lrn: bool | None = None,
    batch_norm: bool = False,
    separable_stem: bool = False,
    dropout: float | None = None,
) -> Network:
    """GoogLeNet for images of 224x224. For 32x32 (not the paper's) conv1 is 3x3 with stride 1 and the first pool is
    left out, so that the nine modules see grids of 16, 8 and 4.

    preset: "paper", and "caffe" (BVLC), are Table 1 with biases, LRN and true 5x5 convolutions; they differ in the
    initial weights, which the paper does not give. "torchvision" and "tf_slim" have batch norm instead of LRN and
    biases, 3x3 where the paper has 5x5, a 2x2 pool before 5a and 20 % dropout; tf_slim has no heads and no gamma.
    naive: the module of Figure 2(a). lrn: with LRN or without; None is with, unless there is batch norm. batch_norm:
    batch norm instead of biases. separable_stem: the first convolution depthwise separable with multiplier 8, the
    reading that explains Table 1's 2.7K parameters and 34M operations (the BN paper says that its first convolution was
    made so). dropout: the fraction dropped before the last layer, None is the preset's; the heads' is 70 %.
    """
    source, classes, rng = SOURCES[request.preset], request.num_classes, request.rng
    w = partial(at_width, width=request.width)
    batch_norm = batch_norm or source.batch_norm
    conv: Conv
    if batch_norm:
        conv = partial(ConvBNReLU, decay=source.decay, scale=source.gamma, init=source.init, rng=rng)
    else:
        conv = partial(ConvReLU, init=source.init, rng=rng)
    # The paper does not give LRN's constants: Caffe's
    norm = {"norm": LRN(5, alpha=1e-4, beta=0.75, k=1.0)} if (not batch_norm if lrn is None else lrn) else {}
    linear, classifier = (partial(Linear, init=init, rng=rng) for init in (source.linear, source.classifier))
    stages = Stages(request.image)

    c1, c2_reduce, c2 = w(STEM)
    if request.small:
        stages.add("conv1", Sequential(conv=conv(stages.channels, c1, 3), **norm))
    else:
        first = partial(_separable, init=source.init, rng=rng) if separable_stem else conv
        stages.add("conv1", first(stages.channels, c1, 7, stride=2, pad=source.stem_pad))
        pool = MaxPool2D(3, stride=2, ceil=True)  # ceil: 112 -> 56, as Table 1 has it
        stages.add("pool1", Sequential(pool=pool, **norm))
    stages.add("conv2", Sequential(reduce=conv(c1, c2_reduce, 1), conv=conv(c2_reduce, c2, 3), **norm))
    grids = {}
    module = naive_inception if naive else inception
    for name, row in ROWS.items():
        if isinstance(row, str):
            stages.add(name, MaxPool2D(source.pool4 if name == "pool4" else 3, stride=2, ceil=True))
        else:
            stages.add(name, module(conv, stages.channels, w(row), source.five))
        grids[name] = stages.shape
    heads: dict[str, Layer] = {}
    for name in HEADS if source.heads and request.heads(True) else ():
        heads[name] = auxiliary(conv, linear, classifier, grids[name], w(AUXILIARY), classes, source.adaptive)
    stages.add("pool5", GlobalAvgPool2D())  # 7x7 in Table 1, which at 224x224 is the whole plane
    stages.add("dropout", Dropout(source.dropout if dropout is None else dropout))
    stages.add("fc", classifier(stages.channels, classes))
    network = Network(Sequential(**stages.layers), heads, aux_weight=0.3)
    if source.bias:
        _fill_biases(network, source.bias)
    if request.as_printed and not source.batch_norm and not naive:
        network.printed, network.notes = PRINTED, [NOTE]
    return network


def _separable(
    channels: int, out: int, kernel: int, *, init: Init, rng: np.random.Generator, **window: Any
) -> Sequential:
    """The first convolution in two: depthwise with multiplier 8, then pointwise. window: stride and pad."""
    return Sequential(
        depthwise=DepthwiseConv2D(channels, kernel, multiplier=8, init=init, rng=rng, **window),
        pointwise=Conv2D(8 * channels, out, 1, bias=False, init=init, rng=rng),
        relu=ReLU(),
    )


def _fill_biases(network: Network, value: float) -> None:
    """Set every bias but the classifiers' to one value."""
    for path, p in named_params(network).items():
        if path.endswith("bias") and not path.endswith(("fc.bias", "fc2.bias")):
            p.data[...] = value

"""Inception-ResNet-v1 and v2. Szegedy, Ioffe, Vanhoucke and Alemi 2016, "Inception-v4, Inception-ResNet and the Impact
of Residual Connections on Learning", figures 3, 7 and 10 to 19.

    block(x) = relu(x + s * up(towers(x)))

`up`, the filter expansion, is a 1x1 convolution with a bias, without batch norm and without activation, which brings
the joined towers back to the width of x. s is between 0.1 and 0.3 (section 3.3): with 1, networks of more than about a
thousand filters die. The figures draw a ReLU before the towers as well; it is the last one of the block before.

Three networks:

    inception_resnet_v1             the paper's: figures 14, 10, 7, 11, 12, 13
    inception_resnet_v2, "paper"    the paper's to the letter: figures 3, 16, 7, 17, 18, 19
    inception_resnet_v2, others     as released, the network of every public checkpoint; so is the one for 32x32

The letter of v2 needs two repairs: figure 17 prints 1154 filters where Reduction-A gives 1152, and figure 19 prints
2048 where Reduction-B gives 2144; x + up(...) has no meaning there. From it the released network differs in

    stem             figure 14's with a pool for its last convolution, and then the 35x35 module of Inception-v3
    widths           320, 1088 and 2080 on the three grids, not 384, 1152 and 2144
    blocks           10, 20 and 10; figure 15 prints 5, 10 and 5, with which v2 would cost a quarter less than
                     Inception-v4 instead of as much, as section 3.2 says
    the last block   has s = 1 and no ReLU
    Conv2d_7b        a 1x1 of 1536 before the average pool
    auxiliary head   behind the last block of the 17x17 grid
    batch norm       has no gamma in tf_slim and keras
"""

from functools import partial
from typing import NamedTuple

from ..compose import Concat, Residual, Sequential
from ..layer import Layer
from ..layers.activation import Dropout, ReLU
from ..layers.check import check_count
from ..layers.conv import Conv2D
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.init import Init, glorot_uniform, torch_uniform
from ..layers.linear import Linear
from ..layers.pool import GlobalAvgPool2D, MaxPool2D
from .blocks import Conv, Request, Stages, Widths, at_width, bn_auxiliary, hidden_layers, hidden_widths, tower
from .inception_v3 import figure_5
from .inception_v4 import ORDERS, reduction_a
from .inception_v4 import STEM as FIGURE_3
from .inception_v4 import stem as figure_3
from .network import Network

AUXILIARY = (128, 768)  # the released code's


class Filters(NamedTuple):
    """A network's channels, in the order of the concatenation; a tuple in a row is a tower."""

    block_a: Widths
    reduction_a: Widths  # figure 7: Table 1's n and (k, l, m)
    block_b: Widths
    reduction_b: Widths
    block_c: Widths


# fmt: off
V1 = Filters(
    block_a=(32, (32, 32), (32, 32, 32)),                  # figure 10
    reduction_a=(384, (192, 192, 256)),
    block_b=(128, (128, 128, 128)),                        # figure 11
    reduction_b=((256, 384), (256, 256), (256, 256, 256)), # figure 12
    block_c=(192, (192, 192, 192)),                        # figure 13
)
V2 = Filters(
    block_a=(32, (32, 32), (32, 48, 64)),                  # figure 16
    reduction_a=(384, (256, 256, 384)),
    block_b=(192, (128, 160, 192)),                        # figure 17
    reduction_b=((256, 384), (256, 288), (256, 288, 320)), # figure 18
    block_c=(192, (192, 224, 256)),                        # figure 19
)
# fmt: on
FIGURE_14 = (32, 32, 64, 80, 192, 256)  # the released v2 stops at 192
MIXED_5B = (96, (48, 64), (64, 96, 96), 64)  # released v2
CONV_7B = 1536  # released v2

# Sizes in figures 14, 15, 17 and 19, and why ours differ
PRINTED = {
    "v1": {
        "Conv2d_1a": "149x149x32",
        "Conv2d_2a": "147x147x32",
        "Conv2d_2b": "147x147x64",
        "MaxPool_3a": "73x73x64",
        "Conv2d_3b": "73x73x80",
        "Conv2d_4a": "71x71x192",
        "Conv2d_4b": "35x35x256",
        "block35_5": "35x35x256",
        "Mixed_6a": "17x17x896",
        "block17_10": "17x17x896",
        "Mixed_7a": "8x8x1792",
        "block8_5": "8x8x1792",
    },
    "v2": {
        "Mixed_5a": "35x35x384",
        "block17_1": "17x17x1154: what is added to has 384 + 384 + 384 channels",
        "block8_1": "8x8x2048: what is added to has 384 + 288 + 320 + 1152 channels",
    },
    "released": {
        "block35_1": "35x35x384: narrower as released",
        "block17_1": "17x17x1154: 320 + 384 + 384 as released",
        "block8_1": "8x8x2048: 384 + 288 + 320 + 1088 as released",
    },
}
NOTES = {
    "v1": "The text says that it costs about as much as Inception-v3, which has 5.71 billion multiply-adds.",
    "v2": "The text says that it matches Inception-v4's cost, which is 12.25 billion multiply-adds. The released one\n"
    "does, with 13.16; figure 15's 5, 10 and 5 blocks do not.",
    "released": "The text says that it matches Inception-v4's cost, which is 12.25 billion multiply-adds. Figure 15\n"
    "prints 5, 10 and 5 blocks, with which it would have 9.26 with the figures' widths.",
}


class Source(NamedTuple):
    """What the sources do not share: constants, and no layer."""

    init: Init
    eps: float = 1e-3
    decay: float = 0.99
    gamma: bool = True
    heads: bool = False
    dropout: float = 0.2


SOURCES = {
    # The paper states neither batch norm's constants nor the initial weights: the code's, with gamma
    "paper": Source(glorot_uniform),
    "tf_slim": Source(glorot_uniform, decay=0.9997, gamma=False, heads=True),
    "keras": Source(glorot_uniform, gamma=False, dropout=0.0),
    "timm": Source(torch_uniform, decay=0.9, dropout=0.0),
}


def residual(up: Conv, channels: int, towers: Concat, joined: int, scale: float, relu: bool) -> Layer:
    """x + scale * up(towers(x)), and a ReLU behind it. joined: the channels of the towers together."""
    block = Residual(Sequential(towers=towers, up=up(joined, channels, 1)), scale=scale)
    return Sequential(sum=block, relu=ReLU()) if relu else Sequential(sum=block)


def block_a(conv: Conv, up: Conv, channels: int, row: Widths, scale: float) -> Layer:
    """Figures 10 and 16, on the 35x35 grid."""
    b0, b1, b2 = row
    towers = Concat(
        b0=conv(channels, b0, 1), b1=tower(conv, channels, b1, (1, 3)), b2=tower(conv, channels, b2, (1, 3, 3))
    )
    return residual(up, channels, towers, b0 + b1[-1] + b2[-1], scale, True)


def block_b(conv: Conv, up: Conv, channels: int, row: Widths, scale: float) -> Layer:
    """Figures 11 and 17, on the 17x17 grid."""
    b0, b1 = row
    towers = Concat(b0=conv(channels, b0, 1), b1=tower(conv, channels, b1, (1, (1, 7), (7, 1))))
    return residual(up, channels, towers, b0 + b1[-1], scale, True)


def reduction_b(conv: Conv, channels: int, row: Widths, edge: str) -> Concat:
    """Figures 12 and 18, 17x17 -> 8x8."""
    b0, b1, b2 = row
    return Concat(
        b0=tower(conv, channels, b0, (1, 3), stride=2, pad=edge),
        b1=tower(conv, channels, b1, (1, 3), stride=2, pad=edge),
        b2=tower(conv, channels, b2, (1, 3, 3), stride=2, pad=edge),
        b3=MaxPool2D(3, stride=2, pad=edge),
    )


def block_c(conv: Conv, up: Conv, channels: int, row: Widths, scale: float, relu: bool = True) -> Layer:
    """Figures 13 and 19, on the 8x8 grid."""
    b0, b1 = row
    towers = Concat(b0=conv(channels, b0, 1), b1=tower(conv, channels, b1, (1, (1, 3), (3, 1))))
    return residual(up, channels, towers, b0 + b1[-1], scale, relu)


def figure_14(conv: Conv, stages: Stages, row: Widths, ends: int, edge: str) -> None:
    """Figure 14, 299x299 -> 35x35, added to `stages`. A row of five (as released) ends in a pool."""
    c1, c2, c3, c4, c5 = row[:5]
    stages.add("Conv2d_1a", conv(stages.channels, c1, 3, stride=ends, pad=edge))
    stages.add("Conv2d_2a", conv(c1, c2, 3, pad=edge))
    stages.add("Conv2d_2b", conv(c2, c3, 3))
    stages.add("MaxPool_3a", MaxPool2D(3, stride=2, pad=edge))
    stages.add("Conv2d_3b", conv(c3, c4, 1))
    stages.add("Conv2d_4a", conv(c4, c5, 3, pad=edge))
    if len(row) == 6:
        stages.add("Conv2d_4b", conv(c5, row[5], 3, stride=ends, pad=edge))
    else:
        stages.add("MaxPool_5a", MaxPool2D(3, stride=ends, pad=edge))


def inception_resnet_v1(
    request: Request,
    *,
    scale_a: float = 0.17,
    scale_b: float = 0.10,
    scale_c: float = 0.20,
    blocks_a: int = 5,
    blocks_b: int = 10,
    blocks_c: int = 5,
    linear_c: bool = False,
    dropout: float = 0.2,
) -> Network:
    """Figure 15 with v1's figures, for images of 299x299. For 32x32 (not the paper's) every block is as it is, but both
    ends of the stem keep the resolution and every window is padded, so that 2, 3 and 2 blocks see grids of 16, 8 and 4.

    scale_a, scale_b, scale_c: s on the three grids. The paper says 0.1 to 0.3; these three are the released v2's.
    blocks_a, blocks_b, blocks_c: how many blocks. linear_c: one C block more, with s = 1 and without ReLU, as FaceNet
    has it. dropout: the fraction dropped before the last layer. There are no auxiliary heads, unless aux=True.
    """
    source = SOURCES[request.preset]._replace(dropout=dropout)
    scales, blocks = (scale_a, scale_b, scale_c), (blocks_a, blocks_b, blocks_c)
    return _build(request, "v1", V1, source, scales, blocks, linear_c)


def inception_resnet_v2(
    request: Request,
    *,
    scale_a: float = 0.17,
    scale_b: float = 0.10,
    scale_c: float = 0.20,
    blocks_a: int | None = None,
    blocks_b: int | None = None,
    blocks_c: int | None = None,
    linear_c: bool | None = None,
    dropout: float | None = None,
    hidden: str = "",
) -> Network:
    """For images of 299x299: "paper" is figure 15 with v2's figures, repaired; the other presets are as released. For
    32x32 (not the paper's) it is the released network, whatever the preset, changed as v1 is, with 2, 3 and 1 + 1
    blocks.

    blocks_a, blocks_b, blocks_c: how many blocks; None is 5, 10, 5 in the paper and 10, 20, 9 as released, with
    linear_c one C block more, without ReLU and with s = 1. The other options are inception_resnet_v1's, None is the
    preset's. hidden: the widths of fully connected layers before the last, "256-128". The released code has an
    auxiliary head; timm's and Keras's ports, and the network for 32x32, do not.
    """
    released = request.preset != "paper" or request.small
    source = SOURCES[request.preset]
    source = source._replace(dropout=source.dropout if dropout is None else dropout)
    counts = (10, 20, 9) if released else (5, 10, 5)
    blocks = tuple(n if b is None else b for b, n in zip((blocks_a, blocks_b, blocks_c), counts, strict=True))
    scales = (scale_a, scale_b, scale_c)
    last = released if linear_c is None else linear_c
    return _build(request, "released" if released else "v2", V2, source, scales, blocks, last, hidden)


def _build(
    request: Request,
    graph: str,
    filters: Filters,
    source: Source,
    scales: tuple[float, float, float],
    blocks: tuple[int, ...],
    linear_c: bool,
    hidden: str = "",
) -> Network:
    classes, rng, small = request.num_classes, request.rng, request.small
    ends, edge = (1, "same") if small else (2, "valid")
    conv = partial(ConvBNReLU, eps=source.eps, decay=source.decay, scale=source.gamma, init=source.init, rng=rng)
    up = partial(Conv2D, init=source.init, rng=rng)
    linear = partial(Linear, init=source.init, rng=rng)
    w = partial(at_width, width=request.width)
    f = Filters(*w(tuple(filters)))
    stages = Stages(request.image)

    if graph == "v2":
        figure_3(conv, stages, w(FIGURE_3), ORDERS["paper"][0], ends, edge)
    else:
        figure_14(conv, stages, w(FIGURE_14 if graph == "v1" else FIGURE_14[:5]), ends, edge)
    if graph == "released":
        stages.add("Mixed_5b", figure_5(conv, stages.channels, w(MIXED_5B), 5))
    for i in range(check_count("inception_resnet", "blocks_a", blocks[0], 0)):
        stages.add(f"block35_{i + 1}", block_a(conv, up, stages.channels, f.block_a, scales[0]))
    stages.add("Mixed_6a", reduction_a(conv, stages.channels, f.reduction_a, edge))
    for i in range(check_count("inception_resnet", "blocks_b", blocks[1], 0)):
        stages.add(f"block17_{i + 1}", block_b(conv, up, stages.channels, f.block_b, scales[1]))
    heads: dict[str, Layer] = {}
    if request.heads(source.heads and not small):
        heads[stages.last] = bn_auxiliary(conv, linear, stages.shape, w(AUXILIARY), classes)
    stages.add("Mixed_7a", reduction_b(conv, stages.channels, f.reduction_b, edge))
    for i in range(check_count("inception_resnet", "blocks_c", blocks[2], 0)):
        stages.add(f"block8_{i + 1}", block_c(conv, up, stages.channels, f.block_c, scales[2]))
    if linear_c:
        last = block_c(conv, up, stages.channels, f.block_c, 1.0, relu=False)
        stages.add(f"block8_{blocks[2] + 1}", last)
    if graph == "released":
        stages.add("Conv2d_7b", conv(stages.channels, w(CONV_7B), 1))
    before, channels = hidden_layers(linear, stages.channels, hidden_widths(hidden))
    fc = linear(channels, classes)
    head = Sequential(pool=GlobalAvgPool2D(), **before, dropout=Dropout(source.dropout), fc=fc)
    stages.add("Logits", head)
    network = Network(Sequential(**stages.layers), heads, aux_weight=0.4)  # TensorFlow's trainers' weight
    if request.as_printed:
        network.printed, network.notes = PRINTED[graph], [NOTES[graph]]
    return network

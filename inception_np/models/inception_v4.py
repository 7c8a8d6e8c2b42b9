"""Inception-v4. Szegedy, Ioffe, Vanhoucke and Alemi 2016, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", figures 3 to 9.

No residual connection anywhere: 149 convolutions, in uniform modules of three kinds behind a stem that is itself made
of modules. The stages carry the released code's names.

Where the figures and the released code (tf_slim, which timm ported) differ:

    figures 3, 5, 6   the order of 1xn and nx1 in the long towers: option asymmetric_order
    figure 3          prints the last 3x3 of 192 without a stride; it has to be 2, as the pool beside it halves the grid
    figure 5          prints 1x7 twice in the short tower; a 1x7 and a 7x1 are meant
    auxiliary head    none in the paper; in the code behind the last Inception-B
    batch norm        the code has no gamma
"""

from functools import partial
from typing import Any, NamedTuple

from ..compose import Concat, Sequential
from ..layer import Layer
from ..layers.activation import Dropout
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.init import Init, he_truncated, torch_uniform
from ..layers.linear import Linear
from ..layers.pool import GlobalAvgPool2D, MaxPool2D
from .blocks import EITHER_WAY, Conv, Request, Stages, Widths, at_width, bn_auxiliary, pooled, tower
from .network import Network

# Channels in the order of the concatenation; a tuple in a row is a tower, a tuple in a tower a fork.
# fmt: off
STEM        = ((32, 32, 64), 96, ((64, 96), (64, 64, 64, 96)), 192)        # figure 3
INCEPTION_A = (96, (64, 96), (64, 96, 96), 96)                             # figure 4
REDUCTION_A = (384, (192, 224, 256))                                       # figure 7: Table 1's n and (k, l, m)
INCEPTION_B = (384, (192, 224, 256), (192, 192, 224, 224, 256), 128)       # figure 5
REDUCTION_B = ((192, 192), (256, 256, 320, 320))                           # figure 8
INCEPTION_C = (256, (384, (256, 256)), (384, 448, 512, (256, 256)), 256)   # figure 6
AUXILIARY   = (128, 768)                                                   # the released code's
BLOCKS      = (4, 7, 3)                                                    # figure 9: A, B and C
BLOCKS_32   = (1, 2, 1)                                                    # for images of 32x32, not the paper's

# Sizes in figures 3 and 9
PRINTED = {
    "Conv2d_1a": "149x149x32",
    "Conv2d_2a": "147x147x32",
    "Conv2d_2b": "147x147x64",
    "Mixed_3a": "73x73x160",
    "Mixed_4a": "71x71x192",
    "Mixed_5a": "35x35x384",
    "Mixed_5e": "35x35x384",
    "Mixed_6a": "17x17x1024",
    "Mixed_6h": "17x17x1024",
    "Mixed_7a": "8x8x1536",
    "Mixed_7d": "8x8x1536",
}

# The pair of asymmetric kernels in figure 3, in figure 5's long tower (twice) and in figure 6's
ORDERS = {
    "paper": (((7, 1), (1, 7)), ((1, 7), (7, 1)), ((1, 3), (3, 1))),
    "code":  (((1, 7), (7, 1)), ((7, 1), (1, 7)), ((3, 1), (1, 3))),
}
# fmt: on


class Source(NamedTuple):
    """What the sources do not share: constants, and no layer."""

    order: str
    init: Init
    eps: float = 1e-3
    decay: float = 0.99
    gamma: bool = True
    heads: bool = False
    dropout: float = 0.2


SOURCES = {
    # The paper states neither batch norm's constants nor the initial weights: the code's, with gamma
    "paper": Source("paper", he_truncated),
    "tf_slim": Source("code", he_truncated, decay=0.9997, gamma=False, heads=True),
    "timm": Source("code", torch_uniform, decay=0.9, dropout=0.0),
}


def stem(conv: Conv, stages: Stages, row: Widths, pair: tuple[Any, ...], ends: int, edge: str) -> None:
    """Figure 3, 299x299 -> 35x35, added to `stages` piece by piece. ends: the stride of its first and last window."""
    (c1, c2, c3), c4, (short, long), c5 = row
    stages.add("Conv2d_1a", conv(stages.channels, c1, 3, stride=ends, pad=edge))
    stages.add("Conv2d_2a", conv(c1, c2, 3, pad=edge))
    stages.add("Conv2d_2b", conv(c2, c3, 3))
    mixed_3a = Concat(b0=MaxPool2D(3, stride=2, pad=edge), b1=conv(stages.channels, c4, 3, stride=2, pad=edge))
    stages.add("Mixed_3a", mixed_3a)
    mixed_4a = Concat(
        b0=tower(conv, stages.channels, short, (1, 3), pad=edge),
        b1=tower(conv, stages.channels, long, (1, *pair, 3), pad=edge),
    )
    stages.add("Mixed_4a", mixed_4a)
    mixed_5a = Concat(b0=conv(stages.channels, c5, 3, stride=ends, pad=edge), b1=MaxPool2D(3, stride=ends, pad=edge))
    stages.add("Mixed_5a", mixed_5a)


def inception_a(conv: Conv, channels: int, row: Widths) -> Concat:
    """Figure 4, on the 35x35 grid."""
    b0, b1, b2, b3 = row
    return Concat(
        b0=conv(channels, b0, 1),
        b1=tower(conv, channels, b1, (1, 3)),
        b2=tower(conv, channels, b2, (1, 3, 3)),
        b3=pooled(conv, channels, b3),
    )


def reduction_a(conv: Conv, channels: int, row: Widths, edge: str) -> Concat:
    """Figure 7, 35x35 -> 17x17. Inception-ResNet has it too, with other k, l, m and n."""
    n, klm = row
    return Concat(
        b0=conv(channels, n, 3, stride=2, pad=edge),
        b1=tower(conv, channels, klm, (1, 3, 3), stride=2, pad=edge),
        b2=MaxPool2D(3, stride=2, pad=edge),
    )


def inception_b(conv: Conv, channels: int, row: Widths, pair: tuple[Any, ...]) -> Concat:
    """Figure 5, on the 17x17 grid."""
    b0, b1, b2, b3 = row
    return Concat(
        b0=conv(channels, b0, 1),
        b1=tower(conv, channels, b1, (1, (1, 7), (7, 1))),
        b2=tower(conv, channels, b2, (1, *pair, *pair)),
        b3=pooled(conv, channels, b3),
    )


def reduction_b(conv: Conv, channels: int, row: Widths, edge: str) -> Concat:
    """Figure 8, 17x17 -> 8x8."""
    b0, b1 = row
    return Concat(
        b0=tower(conv, channels, b0, (1, 3), stride=2, pad=edge),
        b1=tower(conv, channels, b1, (1, (1, 7), (7, 1), 3), stride=2, pad=edge),
        b2=MaxPool2D(3, stride=2, pad=edge),
    )


def inception_c(conv: Conv, channels: int, row: Widths, pair: tuple[Any, ...]) -> Concat:
    """Figure 6, on the 8x8 grid: two towers end in a fork, whose ends are concatenated and not chained."""
    b0, b1, b2, b3 = row
    return Concat(
        b0=conv(channels, b0, 1),
        b1=tower(conv, channels, b1, (1, EITHER_WAY)),
        b2=tower(conv, channels, b2, (1, *pair, EITHER_WAY)),
        b3=pooled(conv, channels, b3),
    )


def inception_v4(request: Request, *, asymmetric_order: str | None = None, dropout: float | None = None) -> Network:
    """Figure 9, for images of 299x299. For 32x32 (not the paper's) every module is as it is, but both ends of the stem
    keep the resolution, every window is padded, and 1, 2 and 1 blocks see grids of 16, 8 and 4.

    asymmetric_order: "paper" or "code", which of 1xn and nx1 comes first in the long towers; None is the preset's. It
    changes no size and no count, but weights do not carry over. dropout: the fraction dropped before the last layer;
    None is the preset's. aux=True builds the code's auxiliary head, which for 32x32 no preset has of itself.
    """
    source, classes, rng, small = SOURCES[request.preset], request.num_classes, request.rng, request.small
    order = source.order if asymmetric_order is None else asymmetric_order
    if order not in ORDERS:
        raise ValueError(f'inception_v4: got asymmetric_order={order!r}, wanted "paper" or "code"')
    pair_3, pair_5, pair_6 = ORDERS[order]
    ends, edge = (1, "same") if small else (2, "valid")
    blocks_a, blocks_b, blocks_c = BLOCKS_32 if small else BLOCKS
    conv = partial(ConvBNReLU, eps=source.eps, decay=source.decay, scale=source.gamma, init=source.init, rng=rng)
    linear = partial(Linear, rng=rng)
    w = partial(at_width, width=request.width)
    stages = Stages(request.image)

    stem(conv, stages, w(STEM), pair_3, ends, edge)
    for letter in "bcde"[:blocks_a]:
        stages.add(f"Mixed_5{letter}", inception_a(conv, stages.channels, w(INCEPTION_A)))
    stages.add("Mixed_6a", reduction_a(conv, stages.channels, w(REDUCTION_A), edge))
    for letter in "bcdefgh"[:blocks_b]:
        stages.add(f"Mixed_6{letter}", inception_b(conv, stages.channels, w(INCEPTION_B), pair_5))
    heads: dict[str, Layer] = {}
    if request.heads(source.heads and not small):
        heads[stages.last] = bn_auxiliary(conv, linear, stages.shape, w(AUXILIARY), classes)
    stages.add("Mixed_7a", reduction_b(conv, stages.channels, w(REDUCTION_B), edge))
    for letter in "bcd"[:blocks_c]:
        stages.add(f"Mixed_7{letter}", inception_c(conv, stages.channels, w(INCEPTION_C), pair_6))
    rate = source.dropout if dropout is None else dropout
    head = Sequential(pool=GlobalAvgPool2D(), dropout=Dropout(rate), fc=linear(stages.channels, classes))
    stages.add("Logits", head)
    network = Network(Sequential(**stages.layers), heads, aux_weight=0.4)  # TensorFlow's trainers' weight
    if request.as_printed:
        network.printed = PRINTED
    return network

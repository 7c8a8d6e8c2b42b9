"""Inception-v2 and Inception-v3. Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision".

Section 3 makes large windows of small ones: a 5x5 of two 3x3, an n x n of a 1 x n and an n x 1, and on the last grid a
1x3 and a 3x1 side by side. Section 5 halves a grid by a strided convolution and a strided pool in parallel. Table 1
with figures 5, 6, 7 and 10 is the outline; the widths inside the modules were in a file beside the paper.

`inception_v2` is Table 1 to the letter. Its 288, 768, 1280 and 2048 are the paper's; inside the modules stand the
widths of the released network wherever it has the branch. The last 3x3 of the stem has to be padded, although the
caption pads another one only: without it the grid of 35 becomes 33.

`inception_v3` is the last line of Table 3: the same modules with the 7x7 factorised, a batch-normalised auxiliary head,
and a training recipe. Its widths are known from the released network alone, so that is what preset="paper" means. Every
preset is this one graph with its source's constants. From Table 1 it differs in five places:

    stem       a 1x1 of 80 and a pool, where Table 1 has a 3x3 and a stride; no seventh convolution
    Mixed_5b   gives 256 channels, not 288
    figure 5   keeps a true 5x5 beside the two 3x3
    Mixed_6a   the first tower is a bare 3x3/2; figure 10 has a 1x1 before it
    Mixed_7a   the second tower has a 1x7 and a 7x1 where figure 10 has a 3x3
"""

from functools import partial
from typing import Any, NamedTuple

from ..backend.arrays import Shape
from ..compose import Concat, Sequential
from ..layer import Layer
from ..layers.activation import Dropout
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.init import Init, glorot_uniform, he_truncated, normal, truncated_normal
from ..layers.linear import Linear
from ..layers.pool import GlobalAvgPool2D, MaxPool2D
from .blocks import (
    EITHER_WAY,
    Conv,
    Request,
    Stages,
    Widths,
    at_width,
    bn_auxiliary,
    hidden_layers,
    hidden_widths,
    pooled,
    tower,
)
from .network import Network

# Channels in the order of the concatenation; a tuple in a row is a tower, a tuple in a tower a fork.
# fmt: off
STEM_V2     = (32, 32, 64, 80, 192, 288)                                                # Table 1
FIGURE_5    = (64, (48, 64), (64, 96, 96), 64)
REDUCTION_1 = ((128, 384), (64, 96, 96))                                                # figure 10
FIGURE_6    = (128, 160, 160, 192)                                                      # inside the towers
REDUCTION_2 = ((192, 320), (192, 192, 192))                                             # figure 10
FIGURE_7    = (320, (384, (384, 384)), (448, 384, (384, 384)), 192)

STEM_V3     = (32, 32, 64, 80, 192)                                                     # as released
MIXED_5     = {"Mixed_5b": (64, (48, 64), (64, 96, 96), 32),
               "Mixed_5c": (64, (48, 64), (64, 96, 96), 64),
               "Mixed_5d": (64, (48, 64), (64, 96, 96), 64)}
MIXED_6A    = ((384,), (64, 96, 96))
MIXED_6     = {"Mixed_6b": 128, "Mixed_6c": 160, "Mixed_6d": 160, "Mixed_6e": 192}      # inside the towers
MIXED_7A    = ((192, 320), (192, 192, 192, 192))
SIDE        = 192                                                                       # each tower of a figure 6
AUXILIARY   = (128, 768)                                                                # figure 8
# fmt: on
# Table 1's sizes (it prints what goes into a row), and why the network to its letter, and the released one, differ
PRINTED_V2 = {
    "conv_1": "149x149x32",
    "conv_2": "147x147x32",
    "conv_3": "147x147x64",
    "pool": "73x73x64",
    "conv_4": "71x71x80",
    "conv_5": "35x35x192",
    "conv_6": "35x35x288: padded, for without it 35 becomes 33",
    "reduction_1": "17x17x768",
    "reduction_2": "8x8x1280",
    "fig7_2": "8x8x2048",
    "pool_8x8": "1x1x2048",
    "fc": "1x1x1000",
}
PRINTED_V3 = {
    "Conv2d_1a_3x3": "149x149x32",
    "Conv2d_2a_3x3": "147x147x32",
    "Conv2d_2b_3x3": "147x147x64",
    "MaxPool_3a_3x3": "73x73x64",
    "Conv2d_3b_1x1": "71x71x80: a 3x3 there",
    "Conv2d_4a_3x3": "35x35x192: has the stride there that the next pool has here",
    "MaxPool_5a_3x3": "35x35x288: a convolution there",
    "Mixed_6a": "17x17x768",
    "Mixed_7a": "8x8x1280",
    "Mixed_7c": "8x8x2048",
    "AvgPool": "1x1x2048",
    "fc": "1x1x1000",
}
NOTE = (
    "The abstract says 5 billion multiply-adds (Table 3: 4.8) and fewer than 25 million parameters, true without the\n"
    "auxiliary head; section 6 says 42 layers, where both its table and the release have 48."
)
AUX_WEIGHT = 0.4  # the paper gives none; the public trainers' one


class Source(NamedTuple):
    """What the sources of inception_v3 do not share: constants, and no layer."""

    init: Init
    eps: float = 1e-3
    decay: float = 0.99
    gamma: bool = True
    heads: bool = True
    dropout: float = 0.2
    count_include_pad: bool = False  # padding counts in the 3x3 average pools


SOURCES = {
    # The paper states neither batch norm's constants nor dropout nor the initial weights: these are the release's, with
    # gamma as in Ioffe & Szegedy 2015, and averages that move fast enough for short runs.
    "paper": Source(he_truncated),
    "tf_slim": Source(he_truncated, decay=0.9997, gamma=False),
    "keras": Source(glorot_uniform, gamma=False, heads=False, dropout=0.0),
    # PyTorch's truncated normal cuts at the absolute values +-2: at 0.1, not at all
    "torchvision": Source(normal(0.1), decay=0.9, dropout=0.5, count_include_pad=True),
    "timm": Source(normal(0.1), decay=0.9, heads=False, dropout=0.0, count_include_pad=True),
}


def figure_5(conv: Conv, channels: int, row: Widths, five: int, count_include_pad: bool = False) -> Concat:
    """Figure 5, the 35x35 grid. five: its second tower's kernel, 3 in the figure and 5 in the release."""
    b0, b1, b2, b3 = row
    return Concat(
        b0=conv(channels, b0, 1),
        b1=tower(conv, channels, b1, (1, five)),
        b2=tower(conv, channels, b2, (1, 3, 3)),
        b3=pooled(conv, channels, b3, count_include_pad),
    )


def figure_6(conv: Conv, channels: int, inside: int, side: int, count_include_pad: bool = False) -> Concat:
    """Figure 6 with n = 7, the 17x17 grid. (The figure has 1x7 first in the long tower, the release 7x1.)"""
    return Concat(
        b0=conv(channels, side, 1),
        b1=tower(conv, channels, (inside, inside, side), (1, (1, 7), (7, 1))),
        b2=tower(conv, channels, (*4 * (inside,), side), (1, (7, 1), (1, 7), (7, 1), (1, 7))),
        b3=pooled(conv, channels, side, count_include_pad),
    )


def figure_7(conv: Conv, channels: int, row: Widths, count_include_pad: bool = False) -> Concat:
    """Figure 7, the 8x8 grid: "expanded filter bank outputs"."""
    b0, b1, b2, b3 = row
    return Concat(
        b0=conv(channels, b0, 1),
        b1=tower(conv, channels, b1, (1, EITHER_WAY)),
        b2=tower(conv, channels, b2, (1, 3, EITHER_WAY)),
        b3=pooled(conv, channels, b3, count_include_pad),
    )


def figure_10(conv: Conv, channels: int, row: Widths, kernels: tuple[Any, ...], edge: str) -> Concat:
    """Figure 10: halves the grid and widens it in one step, with two towers and a pool that passes all channels."""
    return Concat(
        b0=tower(conv, channels, row[0], kernels[0], stride=2, pad=edge),
        b1=tower(conv, channels, row[1], kernels[1], stride=2, pad=edge),
        pool=MaxPool2D(3, stride=2, pad=edge),
    )


def figure_8(conv: Conv, linear: Conv, grid: Shape, row: tuple[int, int], classes: int) -> Sequential:
    """Figure 8: the auxiliary classifier on the last 17x17 grid, with the small initial weights of the release."""
    small, smaller = truncated_normal(0.01), truncated_normal(0.001)
    return bn_auxiliary(conv, partial(linear, init=smaller), grid, row, classes, init=small)


def inception_v2(request: Request, *, fifth_figure_6: bool = False, dropout: float = 0.2) -> Network:
    """Table 1 for images of 299x299. For 32x32 (not the paper's, but by its section 9 on low resolution) the first
    convolution keeps the resolution, the first pool is left out and every window is padded, so that the modules see
    grids of 16, 8 and 4.

    fifth_figure_6: Table 1 says "5 x Inception" for the 17x17 grid. Four modules and the reduction before them make
    five (the default, and the release's reading); True builds five modules besides the reductions.
    dropout: the fraction dropped before the last layer. The only preset is "paper".
    """
    classes, small = request.num_classes, request.small
    edge = "same" if small else "valid"
    conv = partial(ConvBNReLU, init=he_truncated, rng=request.rng)
    linear = partial(Linear, init=he_truncated, rng=request.rng)
    w = partial(at_width, width=request.width)
    stages = Stages(request.image)

    c1, c2, c3, c4, c5, c6 = w(STEM_V2)
    stages.add("conv_1", conv(stages.channels, c1, 3, stride=1 if small else 2, pad=edge))
    stages.add("conv_2", conv(c1, c2, 3, pad=edge))
    stages.add("conv_3", conv(c2, c3, 3))  # "conv padded"
    if not small:
        stages.add("pool", MaxPool2D(3, stride=2))
    stages.add("conv_4", conv(c3, c4, 3, pad=edge))
    stages.add("conv_5", conv(c4, c5, 3, stride=2, pad=edge))
    stages.add("conv_6", conv(c5, c6, 3))  # padded, whatever the caption says
    for i in range(3):
        stages.add(f"fig5_{i + 1}", figure_5(conv, stages.channels, w(FIGURE_5), 3))
    kernels = (1, 3), (1, 3, 3)
    stages.add("reduction_1", figure_10(conv, stages.channels, w(REDUCTION_1), kernels, edge))
    for i, inside in enumerate([*FIGURE_6[:1], *FIGURE_6] if fifth_figure_6 else FIGURE_6):
        stages.add(f"fig6_{i + 1}", figure_6(conv, stages.channels, w(inside), w(SIDE)))
    heads: dict[str, Layer] = {}
    if request.heads(True):
        heads[stages.last] = figure_8(conv, linear, stages.shape, w(AUXILIARY), classes)
    stages.add("reduction_2", figure_10(conv, stages.channels, w(REDUCTION_2), kernels, edge))
    for i in range(2):
        stages.add(f"fig7_{i + 1}", figure_7(conv, stages.channels, w(FIGURE_7)))
    stages.add("pool_8x8", Sequential(pool=GlobalAvgPool2D(), dropout=Dropout(dropout)))
    stages.add("fc", linear(stages.channels, classes))
    network = Network(Sequential(**stages.layers), heads, aux_weight=AUX_WEIGHT)
    if request.as_printed:
        network.printed, network.notes = PRINTED_V2, [NOTE]
    return network


def inception_v3(
    request: Request, *, dropout: float | None = None, first_stride: int = 2, first_pool: bool = True, hidden: str = ""
) -> Network:
    """The released network for images of 299x299. For 32x32 (not the paper's, but by its section 9) every window is
    padded, the first convolution has stride 1 and the first pool is left out, so that the modules see grids of 16, 8
    and 4.

    dropout: the fraction dropped before the last layer; None is the preset's. first_stride, first_pool: section 9
    compares receptive fields of equal cost, 299x299 with stride 2 and the first pool, 151x151 with stride 1 and the
    pool, and 79x79 with stride 1 and without it. hidden: the widths of fully connected layers before the last,
    "256-128".
    """
    source, classes, rng = SOURCES[request.preset], request.num_classes, request.rng
    edge = "same" if request.small else "valid"
    conv = partial(ConvBNReLU, eps=source.eps, decay=source.decay, scale=source.gamma, init=source.init, rng=rng)
    linear = partial(Linear, init=source.init, rng=rng)
    w = partial(at_width, width=request.width)
    counts = source.count_include_pad
    stages = Stages(request.image)

    c1, c2, c3, c4, c5 = w(STEM_V3)
    stages.add("Conv2d_1a_3x3", conv(stages.channels, c1, 3, stride=first_stride, pad=edge))
    stages.add("Conv2d_2a_3x3", conv(c1, c2, 3, pad=edge))
    stages.add("Conv2d_2b_3x3", conv(c2, c3, 3))
    if first_pool:
        stages.add("MaxPool_3a_3x3", MaxPool2D(3, stride=2, pad=edge))
    stages.add("Conv2d_3b_1x1", conv(c3, c4, 1))
    stages.add("Conv2d_4a_3x3", conv(c4, c5, 3, pad=edge))
    stages.add("MaxPool_5a_3x3", MaxPool2D(3, stride=2, pad=edge))
    for name, row in w(MIXED_5).items():
        stages.add(name, figure_5(conv, stages.channels, row, 5, counts))
    stages.add("Mixed_6a", figure_10(conv, stages.channels, w(MIXED_6A), ((3,), (1, 3, 3)), edge))
    for name, inside in w(MIXED_6).items():
        stages.add(name, figure_6(conv, stages.channels, inside, w(SIDE), counts))
    heads: dict[str, Layer] = {}
    if request.heads(source.heads):
        heads["Mixed_6e"] = figure_8(conv, linear, stages.shape, w(AUXILIARY), classes)
    kernels = (1, 3), (1, (1, 7), (7, 1), 3)
    stages.add("Mixed_7a", figure_10(conv, stages.channels, w(MIXED_7A), kernels, edge))
    for name in ("Mixed_7b", "Mixed_7c"):
        stages.add(name, figure_7(conv, stages.channels, w(FIGURE_7), counts))
    rate = source.dropout if dropout is None else dropout
    stages.add("AvgPool", Sequential(pool=GlobalAvgPool2D(), dropout=Dropout(rate)))
    before, channels = hidden_layers(linear, stages.channels, hidden_widths(hidden))
    for name, layer in before.items():
        stages.add(name, layer)
    stages.add("fc", linear(channels, classes))
    network = Network(Sequential(**stages.layers), heads, aux_weight=AUX_WEIGHT)
    if request.as_printed:
        network.printed, network.notes = PRINTED_V3, [NOTE]
    return network

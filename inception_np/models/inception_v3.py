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
from typing import NamedTuple

import numpy as np

from ..compose import Concat, Sequential
from ..layer import Layer
from ..layers.activation import Dropout
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.init import Init, glorot_uniform, he_truncated, normal, truncated_normal
from ..layers.linear import Linear
from ..layers.pool import GlobalAvgPool2D, MaxPool2D
from .blocks import EITHER_WAY, Conv, Stages, bn_auxiliary, pooled, scaled, tower
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
    counted: bool = False  # padding counts in the 3x3 average pools


SOURCES = {
    # The paper states neither batch norm's constants nor dropout nor the initial weights: these are the release's, with
    # gamma as in Ioffe & Szegedy 2015, and averages that move fast enough for short runs.
    "paper": Source(he_truncated),
    "tf_slim": Source(he_truncated, decay=0.9997, gamma=False),
    "keras": Source(glorot_uniform, gamma=False, heads=False, dropout=0.0),
    # PyTorch's truncated normal cuts at the absolute values +-2: at 0.1, not at all
    "torchvision": Source(normal(0.1), decay=0.9, dropout=0.5, counted=True),
    "timm": Source(normal(0.1), decay=0.9, heads=False, dropout=0.0, counted=True),
}


def figure_5(conv: Conv, channels: int, row: tuple, five: int, counted: bool = False) -> Concat:
    """Figure 5, the 35x35 grid. five: its second tower's kernel, 3 in the figure and 5 in the release."""
    b0, b1, b2, b3 = row
    return Concat(
        b0=conv(channels, b0, 1),
        b1=tower(conv, channels, b1, (1, five)),
        b2=tower(conv, channels, b2, (1, 3, 3)),
        b3=pooled(conv, channels, b3, counted),
    )


def figure_6(conv: Conv, channels: int, inside: int, side: int, counted: bool = False) -> Concat:
    """Figure 6 with n = 7, the 17x17 grid. (The figure has 1x7 first in the long tower, the release 7x1.)"""
    return Concat(
        b0=conv(channels, side, 1),
        b1=tower(conv, channels, (inside, inside, side), (1, (1, 7), (7, 1))),
        b2=tower(conv, channels, (*4 * (inside,), side), (1, (7, 1), (1, 7), (7, 1), (1, 7))),
        b3=pooled(conv, channels, side, counted),
    )


def figure_7(conv: Conv, channels: int, row: tuple, counted: bool = False) -> Concat:
    """Figure 7, the 8x8 grid: "expanded filter bank outputs"."""
    b0, b1, b2, b3 = row
    return Concat(
        b0=conv(channels, b0, 1),
        b1=tower(conv, channels, b1, (1, EITHER_WAY)),
        b2=tower(conv, channels, b2, (1, 3, EITHER_WAY)),
        b3=pooled(conv, channels, b3, counted),
    )


def figure_10(conv: Conv, channels: int, row: tuple, kernels: tuple, edge: str) -> Concat:
    """Figure 10: halves the grid and widens it in one step, with two towers and a pool that passes all channels."""
    return Concat(
        b0=tower(conv, channels, row[0], kernels[0], stride=2, pad=edge),
        b1=tower(conv, channels, row[1], kernels[1], stride=2, pad=edge),
        pool=MaxPool2D(3, stride=2, pad=edge),
    )


def figure_8(conv: Conv, linear: Conv, grid: tuple, row: tuple, classes: int) -> Sequential:
    """Figure 8: the auxiliary classifier on the last 17x17 grid, with the small initial weights of the release."""
    small, smaller = truncated_normal(0.01), truncated_normal(0.001)
    return bn_auxiliary(conv, partial(linear, init=smaller), grid, row, classes, init=small)


def inception_v2(
    *,
    num_classes: int,
    in_channels: int,
    width: float,
    aux: bool | None,
    preset: str,
    rng: np.random.Generator,
    fifth_figure_6: bool = False,
    dropout: float = 0.2,
) -> Network:
    """Table 1 for images of 299x299.

    fifth_figure_6: Table 1 says "5 x Inception" for the 17x17 grid. Four modules and the reduction before them make
    five (the default, and the release's reading); True builds five modules besides the reductions.
    dropout: the fraction dropped before the last layer. The only preset is "paper".
    """
    return _table_1(299, num_classes, in_channels, width, aux, rng, fifth_figure_6, dropout)


def inception_v2_cifar(
    *,
    num_classes: int,
    in_channels: int,
    width: float,
    aux: bool | None,
    preset: str,
    rng: np.random.Generator,
    fifth_figure_6: bool = False,
    dropout: float = 0.2,
) -> Network:
    """Table 1 for images of 32x32 (not the paper's, but by its section 9 on low resolution): the first convolution
    keeps the resolution, the first pool is left out and every window is padded, so that the modules see grids of 16, 8
    and 4. The options are inception_v2's."""
    return _table_1(32, num_classes, in_channels, width, aux, rng, fifth_figure_6, dropout)


def _table_1(
    size: int,
    num_classes: int,
    in_channels: int,
    width: float,
    aux: bool | None,
    rng: np.random.Generator,
    fifth_figure_6: bool,
    dropout: float,
) -> Network:
    small = size == 32
    edge = "same" if small else "valid"
    conv = partial(ConvBNReLU, init=he_truncated, rng=rng)
    linear = partial(Linear, init=he_truncated, rng=rng)
    w = partial(scaled, width=width)
    stages = Stages(size, size, in_channels)

    c1, c2, c3, c4, c5, c6 = w(STEM_V2)
    stages.add("conv_1", conv(in_channels, c1, 3, stride=1 if small else 2, pad=edge))
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
    if aux is not False:
        heads[list(stages.layers)[-1]] = figure_8(conv, linear, stages.shape, w(AUXILIARY), num_classes)
    stages.add("reduction_2", figure_10(conv, stages.channels, w(REDUCTION_2), kernels, edge))
    for i in range(2):
        stages.add(f"fig7_{i + 1}", figure_7(conv, stages.channels, w(FIGURE_7)))
    stages.add("pool_8x8", Sequential(pool=GlobalAvgPool2D(), dropout=Dropout(dropout)))
    stages.add("fc", linear(stages.channels, num_classes))
    network = Network(Sequential(**stages.layers), heads, aux_weight=AUX_WEIGHT)
    if not small and width == 1:
        network.printed, network.notes = PRINTED_V2, [NOTE]
    return network


def inception_v3(
    *,
    num_classes: int,
    in_channels: int,
    width: float,
    aux: bool | None,
    preset: str,
    rng: np.random.Generator,
    dropout: float | None = None,
    first_stride: int = 2,
    first_pool: bool = True,
) -> Network:
    """The released network for images of 299x299.

    dropout: the fraction dropped before the last layer; None is the preset's. first_stride, first_pool: section 9
    compares receptive fields of equal cost, 299x299 with stride 2 and the first pool, 151x151 with stride 1 and the
    pool, and 79x79 with stride 1 and without it.
    """
    source = SOURCES[preset]
    return _released(299, num_classes, in_channels, width, aux, source, rng, dropout, first_stride, first_pool)


def inception_v3_cifar(
    *,
    num_classes: int,
    in_channels: int,
    width: float,
    aux: bool | None,
    preset: str,
    rng: np.random.Generator,
    dropout: float | None = None,
) -> Network:
    """The released network for images of 32x32 (not the paper's, but by its section 9): the first convolution keeps the
    resolution, the first pool is left out and every window is padded, so that the modules see grids of 16, 8 and 4."""
    return _released(32, num_classes, in_channels, width, aux, SOURCES[preset], rng, dropout, 1, False)


def _released(
    size: int,
    num_classes: int,
    in_channels: int,
    width: float,
    aux: bool | None,
    source: Source,
    rng: np.random.Generator,
    dropout: float | None,
    first_stride: int,
    first_pool: bool,
) -> Network:
    edge = "same" if size == 32 else "valid"
    conv = partial(ConvBNReLU, eps=source.eps, decay=source.decay, scale=source.gamma, init=source.init, rng=rng)
    linear = partial(Linear, init=source.init, rng=rng)
    w = partial(scaled, width=width)
    counted = source.counted
    stages = Stages(size, size, in_channels)

    c1, c2, c3, c4, c5 = w(STEM_V3)
    stages.add("Conv2d_1a_3x3", conv(in_channels, c1, 3, stride=first_stride, pad=edge))
    stages.add("Conv2d_2a_3x3", conv(c1, c2, 3, pad=edge))
    stages.add("Conv2d_2b_3x3", conv(c2, c3, 3))
    if first_pool:
        stages.add("MaxPool_3a_3x3", MaxPool2D(3, stride=2, pad=edge))
    stages.add("Conv2d_3b_1x1", conv(c3, c4, 1))
    stages.add("Conv2d_4a_3x3", conv(c4, c5, 3, pad=edge))
    stages.add("MaxPool_5a_3x3", MaxPool2D(3, stride=2, pad=edge))
    for name, row in w(MIXED_5).items():
        stages.add(name, figure_5(conv, stages.channels, row, 5, counted))
    stages.add("Mixed_6a", figure_10(conv, stages.channels, w(MIXED_6A), ((3,), (1, 3, 3)), edge))
    for name, inside in w(MIXED_6).items():
        stages.add(name, figure_6(conv, stages.channels, inside, w(SIDE), counted))
    heads: dict[str, Layer] = {}
    if source.heads if aux is None else aux:
        heads["Mixed_6e"] = figure_8(conv, linear, stages.shape, w(AUXILIARY), num_classes)
    kernels = (1, 3), (1, (1, 7), (7, 1), 3)
    stages.add("Mixed_7a", figure_10(conv, stages.channels, w(MIXED_7A), kernels, edge))
    for name in ("Mixed_7b", "Mixed_7c"):
        stages.add(name, figure_7(conv, stages.channels, w(FIGURE_7), counted))
    rate = source.dropout if dropout is None else dropout
    stages.add("AvgPool", Sequential(pool=GlobalAvgPool2D(), dropout=Dropout(rate)))
    stages.add("fc", linear(stages.channels, num_classes))
    network = Network(Sequential(**stages.layers), heads, aux_weight=AUX_WEIGHT)
    if size != 32 and width == 1:
        network.printed, network.notes = PRINTED_V3, [NOTE]
    return network

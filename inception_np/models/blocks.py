"""What two or more of the papers share."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..backend.arrays import Shape
from ..compose import Concat, Sequential
from ..kernels.window import pair
from ..layer import Layer, prefix_path
from ..layers.activation import ReLU
from ..layers.pool import AvgPool2D, GlobalAvgPool2D

Conv = Callable[..., Layer]  # conv(in_channels, out_channels, kernel, stride=, pad=): a paper's unit
Widths = tuple[Any, ...]  # a row of a paper's table: numbers of channels, and tuples of them
EITHER_WAY = ((1, 3), (3, 1))  # a 1x3 and a 3x1 side by side: Rethinking, figure 7
CIFAR = 32  # the height and width of CIFAR's images


class Request(NamedTuple):
    """What every network's function is asked for, beside its own options. create_model fills it in.

    size: the height and width of the images; at CIFAR's, a network keeps its modules and changes its stem. width: a
    factor on the paper's channel counts. aux: with auxiliary heads or without, None as the source has it. rng: draws
    the initial weights.
    """

    size: int
    num_classes: int
    in_channels: int
    width: float
    aux: bool | None
    preset: str
    rng: np.random.Generator

    @property
    def image(self) -> tuple[int, int, int]:
        return self.size, self.size, self.in_channels

    @property
    def small(self) -> bool:
        return self.size == CIFAR

    @property
    def as_printed(self) -> bool:
        """True for the size and the width whose figures the paper prints."""
        return not self.small and self.width == 1

    def heads(self, usual: bool) -> bool:
        """Whether to build auxiliary heads. usual: whether the source has them."""
        return usual if self.aux is None else self.aux

    def refuse_heads(self, who: str) -> None:
        """Raise ValueError where heads are asked for."""
        if self.aux:
            raise ValueError(f"{who}: got aux=True, wanted None or False: it has no auxiliary head")


def at_width(channels: Any, width: float) -> Any:
    """Channel counts times the width factor, whole numbers of 1 at least; a table of them in its own form.

    >>> at_width({"3a": (64, (96, 128))}, 1 / 4)
    {'3a': (16, (24, 32))}
    """
    if isinstance(channels, dict):
        return {name: at_width(row, width) for name, row in channels.items()}
    if isinstance(channels, tuple):
        return tuple(at_width(row, width) for row in channels)
    return max(1, round(channels * width))


class Stages:
    """The stages of a network as they are put together, and the shape that comes out of the last one.

    image: the (H, W, C) that the network is meant for. add: a stage by its name in the paper's table. channels: what
    the next stage takes. Raises ValueError where a stage does not fit, naming it.
    """

    def __init__(self, image: tuple[int, int, int]):
        self.layers: dict[str, Layer] = {}
        self.shape: Shape = (1, *image)

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def last(self) -> str:
        return list(self.layers)[-1]

    def add(self, name: str, stage: Layer) -> None:
        try:
            self.shape = stage.out_shape(self.shape)
        except ValueError as error:
            raise prefix_path(error, name) from None
        self.layers[name] = stage


def tower(conv: Conv, channels: int, outs: Widths, kernels: tuple[Any, ...], **last: Any) -> Sequential:
    """A chain of convolutions with `outs` channels. last: the stride and pad of the last one.

    They are named by their kernels, as the figures are drawn: "1x1", "3x3", and "3x3a", "3x3b" where one comes twice.
    A kernel that is a pair of kernels stands for a fork: both read the same input and their outputs are joined.
    """
    names = [_label(kernel) for kernel in kernels]
    layers: dict[str, Layer] = {}
    for i, (name, out, kernel) in enumerate(zip(names, outs, kernels, strict=True)):
        if names.count(name) > 1:
            name += "abcd"[names[:i].count(name)]
        if isinstance(out, tuple):
            sides = zip(out, kernel, strict=True)
            layers[name] = Concat(**{_label(side): conv(channels, c, side) for c, side in sides})
            channels = sum(out)
        else:
            layers[name] = conv(channels, out, kernel, **(last if i == len(names) - 1 else {}))
            channels = out
    return Sequential(**layers)


def _label(kernel: Any) -> str:
    if kernel == EITHER_WAY:
        return "fork"
    kh, kw = pair(kernel, "tower: kernel")
    return f"{kh}x{kw}"


def pooled(conv: Conv, channels: int, out: int, count_include_pad: bool = False) -> Sequential:
    """3x3 average pooling and a 1x1 projection. count_include_pad: padding counts in the average (PyTorch, Caffe)."""
    pool = AvgPool2D(3, stride=1, pad="same", count_include_pad=count_include_pad)
    return Sequential(pool=pool, proj=conv(channels, out, 1))


def hidden_widths(hidden: str) -> list[int]:
    """The widths in a text such as "256-128"; none in "". Raises ValueError for any other text."""
    widths = hidden.split("-") if hidden else []
    if len(widths) > 4 or not all(re.fullmatch("[1-9][0-9]{,3}", width) for width in widths):
        raise ValueError(f'hidden: got {hidden[:40]!r}, wanted at most 4 widths from 1 to 9999, such as "256-128"')
    return [int(width) for width in widths]


def hidden_layers(linear: Conv, channels: int, widths: list[int]) -> tuple[dict[str, Layer], int]:
    """Fully connected layers with ReLU before the last one (fc1, relu1, fc2, ...), and the channels that come out."""
    layers: dict[str, Layer] = {}
    for i, width in enumerate(widths):
        layers |= {f"fc{i + 1}": linear(channels, width), f"relu{i + 1}": ReLU()}
        channels = width
    return layers, channels


def bn_auxiliary(conv: Conv, linear: Conv, grid: Shape, row: tuple[int, int], classes: int, **full: Any) -> Sequential:
    """The auxiliary classifier with batch norm: Rethinking, figure 8 and section 6.

    Average pooling 5x5/3, a 1x1 convolution, and what GoogLeNet has as a fully connected layer as a convolution as
    large as the pooled map, so that it is normalised like the others. grid: the (N, H, W, C) that it reads. row: the
    channels of the two convolutions. full: further arguments of the second one.
    """
    pool = AvgPool2D(5, stride=3)
    _, h, w, channels = pool.out_shape(grid)
    reduced, hidden = row
    return Sequential(
        pool=pool,
        conv=conv(channels, reduced, 1),
        full=conv(reduced, hidden, (h, w), pad="valid", **full),
        average=GlobalAvgPool2D(),  # over one position, unless the images are larger than the network is meant for
        fc=linear(hidden, classes),
    )

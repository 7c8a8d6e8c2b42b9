"""The network as steps: the rewrites of compile_inference (see this folder's __init__.py)."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...backend.arrays import Shape
from ...backend.program import eager
from ...compose import Concat, Residual, Sequential
from ...kernels.window import Pad, Pair, out_size, pads_for
from ...layer import Layer, of_kind
from ...layers.activation import Dropout, ReLU
from ...layers.batchnorm import BatchNorm
from ...layers.conv import Conv2D, ConvReLU
from ...layers.conv_bn_relu import ConvBNReLU
from ...layers.linear import Linear, Scale
from ...layers.pool import AvgPool2D
from ...layers.whitening import PatchWhitening
from ...models.network import Network

ONE, NO_PADS = (1, 1), ((0, 0), (0, 0))


@dataclass
class Product:
    """A convolution with bias; floor: the least that each output channel may be, 0 for ReLU, else minus infinity."""

    weight: np.ndarray  # (kh, kw, in, out), float32
    bias: np.ndarray  # (out,)
    floor: np.ndarray  # (out,)
    stride: Pair = ONE
    pad: Pad = NO_PADS
    dilation: Pair = ONE

    def mixes_channels_only(self) -> bool:
        """True for a 1x1 convolution of every pixel, which commutes with linear maps in space."""
        flat = self.weight.shape[:2] == (1, 1) and self.stride == ONE
        return flat and self.pad in ("same", "valid", NO_PADS)

    def is_linear(self) -> bool:
        return bool(np.isneginf(self.floor).all())

    def out_shape(self, shape: Shape) -> Shape:
        kernel, outputs = self.weight.shape[:2], self.weight.shape[3]
        if len(shape) == 2:
            return shape[0], outputs
        pads = pads_for(self.pad, shape[1:3], kernel, self.stride, self.dilation)
        return (shape[0], *out_size(shape[1:3], kernel, self.stride, pads, self.dilation), outputs)

    def affine(self, scale: Any, shift: Any) -> "Product":
        """scale * this + shift, by output channel, in double precision."""
        weight, bias = self.weight.astype(np.float64) * scale, self.bias * scale + shift
        return replace(self, weight=weight.astype(np.float32), bias=bias.astype(np.float32))

    def clipped(self) -> "Product":
        return replace(self, floor=np.zeros_like(self.floor))


@dataclass
class Average:
    """Average pooling, and then a bias and a floor by channel."""

    layer: AvgPool2D
    bias: np.ndarray | None = None
    floor: np.ndarray | None = None

    def out_shape(self, shape: Shape) -> Shape:
        return self.layer.out_shape(shape)


@dataclass
class Fork:
    """Branches on one input, joined along the channels."""

    branches: list[list[Any]]

    def out_shapes(self, shape: Shape) -> list[Shape]:
        return [shape_after(branch, shape) for branch in self.branches]

    def out_shape(self, shape: Shape) -> Shape:
        shapes = self.out_shapes(shape)
        return (*shapes[0][:-1], sum(s[-1] for s in shapes))


@dataclass
class Sum:
    """shortcut(x) + scale * body(x); shortcut None is x."""

    body: list[Any]
    shortcut: list[Any] | None
    scale: float
    relu: bool = False

    def out_shape(self, shape: Shape) -> Shape:
        return shape_after(self.body, shape)


def shape_after(steps: list[Any], shape: Shape) -> Shape:
    """The shape of y for an x of this shape."""
    for step in steps:
        shape = out_shape(step, shape)
    return shape


def out_shape(step: Product | Average | Fork | Sum | Layer, shape: Shape) -> Shape:
    """What a step makes of a shape. A user's layer finds it by trying, which is no part of the plan."""
    with eager():
        return step.out_shape(shape)


def steps_of(layer: Layer) -> list[Any]:
    """A layer as steps that come one after the other; a Layer among them is one that stays as it is."""
    if of_kind(layer, Network):
        return steps_of(layer.trunk)
    if of_kind(layer, Sequential):
        steps: list[Any] = []
        for child in layer.layers.values():
            for step in steps_of(child):
                _append(steps, step)
        return steps
    if of_kind(layer, Concat):
        return [Fork([steps_of(branch) for branch in layer.branches.values()])]
    if of_kind(layer, Residual):
        cut = None if layer.shortcut is None else steps_of(layer.shortcut)
        return [Sum(steps_of(layer.body), cut, layer.scale)]
    if of_kind(layer, ConvBNReLU):
        return steps_of(Sequential(layer.conv, layer.bn, ReLU()))
    if of_kind(layer, Conv2D, ConvReLU, PatchWhitening) and layer.groups == 1:
        w = layer.weight.data
        bias = np.zeros(w.shape[3], np.float32) if layer.bias is None else layer.bias.data.copy()
        least = 0 if of_kind(layer, ConvReLU) else -np.inf
        floor = np.full(w.shape[3], least, np.float32)
        return [Product(w.copy(), bias, floor, layer.stride, layer.pad, layer.dilation)]
    if of_kind(layer, Linear):
        w = layer.weight.data
        bias = np.zeros(w.shape[1], np.float32) if layer.bias is None else layer.bias.data.copy()
        return [Product(w[None, None].copy(), bias, np.full(w.shape[1], -np.inf, np.float32))]
    if of_kind(layer, AvgPool2D):
        return [Average(layer)]
    if of_kind(layer, Dropout):
        return []
    return [copy.deepcopy(layer)]


def _append(steps: list[Any], step: Any) -> None:
    """Append a step to others, or make it part of the last one where that is possible."""
    last = steps[-1] if steps else None
    if of_kind(step, BatchNorm) and isinstance(last, Product) and last.is_linear():
        steps[-1] = last.affine(*_line(step))
    elif of_kind(step, Scale) and isinstance(last, Product) and last.is_linear():
        steps[-1] = last.affine(step.scale, 0.0)
    elif of_kind(step, ReLU) and isinstance(last, Product):
        steps[-1] = last.clipped()
    elif of_kind(step, ReLU) and isinstance(last, Sum):
        steps[-1] = replace(last, relu=True)
    elif of_kind(step, ReLU) and isinstance(last, Average) and last.bias is not None:
        steps[-1] = replace(last, floor=np.zeros_like(last.bias))
    elif (
        isinstance(step, Product)
        and step.mixes_channels_only()
        and isinstance(last, Average)
        and last.bias is None
        and last.layer.stride == ONE
        and step.weight.shape[3] < step.weight.shape[2]
    ):
        free = np.full_like(step.floor, -np.inf)
        steps[-1] = replace(step, bias=np.zeros_like(step.bias), floor=free)
        steps.append(Average(last.layer, step.bias, step.floor))
    elif (
        of_kind(step, BatchNorm)
        and isinstance(last, Average)
        and last.floor is not None
        and np.isneginf(last.floor).all()
    ):
        scale, shift = _line(step)  # the product before the average has no bias of its own
        steps[-2] = steps[-2].affine(scale, np.zeros_like(scale))
        steps[-1] = replace(last, bias=(last.bias * scale + shift).astype(np.float32))
    else:
        steps.append(step)


def _line(bn: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Batch norm with its running averages: y = scale * x + shift by channel, in double precision."""
    mean, var = bn.mean.data.astype(np.float64), bn.var.data.astype(np.float64)
    scale = (var + bn.eps) ** -0.5
    if bn.gamma is not None:
        scale *= bn.gamma.data
    return scale, bn.beta.data - mean * scale

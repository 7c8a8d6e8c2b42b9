"""A network of ours as a PyTorch module with the same weights: the rival of `bench`, and of the benchmark on a GPU.

Each layer becomes the module that one would write in PyTorch for it, so that what is compared is the same arithmetic.
Images are (N, C, H, W). Padding of "same" is resolved for the shape at hand; where it is not the same on both sides,
which no convolution of PyTorch's takes, the image is padded first (the networks' `torchvision` and `timm` presets have
none). This file needs PyTorch: only the process that measures it imports it, and tests.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...backend.arrays import Shape
from ...compose import Concat, Residual, Sequential
from ...kernels.window import Pads
from ...layer import Layer, of_kind
from ...layers.activation import Dropout, ReLU
from ...layers.batchnorm import BatchNorm
from ...layers.conv import Conv2D, ConvReLU
from ...layers.conv_bn_relu import ConvBNReLU
from ...layers.depthwise import DepthwiseConv2D
from ...layers.linear import Linear, Scale
from ...layers.lrn import LRN
from ...layers.pool import AdaptiveAvgPool2D, AvgPool2D, Flatten, GlobalAvgPool2D, MaxPool2D
from ...layers.whitening import PatchWhitening
from ...models.network import Network
from .layout import conv_weight, gamma_of, pads_of, unsupported

M = TypeVar("M", bound=nn.Module)


def to_torch(layer: Layer, shape: Shape) -> nn.Module:
    """The module that computes what `layer` does, on x (N, C, H, W) for our shape (N, H, W, C).

    What is not learned here is not learned there. Raises ValueError for a layer that has no counterpart.
    """
    for kind, make in MODULES.items():
        if of_kind(layer, kind):
            return make(layer, shape)
    raise unsupported(layer)


class WithHeads(nn.Module):
    """A network with auxiliary heads: (logits, {stage: logits}) in training, logits in evaluation."""

    def __init__(self, layer: Network, shape: Shape):
        super().__init__()
        self.stages, stages, heads = list(layer.trunk.layers), [], {}
        for name, stage in layer.trunk.layers.items():
            stages.append(to_torch(stage, shape))
            shape = stage.out_shape(shape)
            if name in layer.heads:
                heads[name] = to_torch(layer.heads[name], shape)
        self.trunk, self.heads = nn.ModuleList(stages), nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> Any:
        aux = {}
        for name, stage in zip(self.stages, self.trunk, strict=True):
            x = stage(x)
            if self.training and name in self.heads:
                aux[name] = self.heads[name](x)
        return (x, aux) if aux else x


class Branches(nn.Module):
    def __init__(self, layer: Concat, shape: Shape):
        super().__init__()
        self.branches = nn.ModuleList(to_torch(branch, shape) for branch in layer.branches.values())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Shortcut(nn.Module):
    def __init__(self, layer: Residual, shape: Shape):
        super().__init__()
        self.body, self.scale = to_torch(layer.body, shape), layer.scale
        self.shortcut = None if layer.shortcut is None else to_torch(layer.shortcut, shape)

    def forward(self, x: Tensor) -> Tensor:
        f = self.body(x)
        y: Tensor = (x if self.shortcut is None else self.shortcut(x)) + (f if self.scale == 1 else self.scale * f)
        return y


class Scaled(nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scale * x
        return y


class Rows(nn.Module):
    """Every image as one row, in our order of the numbers: channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def _filled(module: M, **arrays: np.ndarray) -> M:
    """The module with these numbers as its parameters and buffers."""
    with torch.no_grad():
        for name, a in arrays.items():
            getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(a)))
    return module


def _bias(layer: Any) -> dict[str, np.ndarray]:
    return {} if layer.bias is None else {"bias": layer.bias.data}


def _padded(pads: Pads, make: Callable[[tuple[int, int]], nn.Module], value: float = 0.0) -> nn.Module:
    """make(padding), or with other pads on one side than on the other make((0, 0)) behind them."""
    (top, bottom), (left, right) = pads
    if top == bottom and left == right:
        return make((top, left))
    return nn.Sequential(nn.ConstantPad2d((left, right, top, bottom), value), make((0, 0)))


def _sequential(layer: Sequential, shape: Shape) -> nn.Module:
    modules = []
    for child in layer.layers.values():
        modules.append(to_torch(child, shape))
        shape = child.out_shape(shape)
    return nn.Sequential(*modules)


def _conv(layer: Any, shape: Shape) -> nn.Module:
    w, groups = conv_weight(layer)

    def make(padding: tuple[int, int]) -> nn.Module:
        module = nn.Conv2d(
            shape[3], len(w), layer.kernel, layer.stride, padding, layer.dilation, groups, layer.bias is not None
        )
        module.weight.requires_grad_(not isinstance(layer, PatchWhitening))
        return _filled(module, weight=w, **_bias(layer))

    return _padded(pads_of(layer, shape), make)


def _conv_relu(layer: ConvReLU, shape: Shape) -> nn.Module:
    return nn.Sequential(_conv(layer, shape), nn.ReLU(inplace=True))


def _conv_bn_relu(layer: ConvBNReLU, shape: Shape) -> nn.Module:
    return nn.Sequential(to_torch(layer.conv, shape), _batch_norm(layer.bn, shape), nn.ReLU(inplace=True))


def _batch_norm(layer: BatchNorm, shape: Shape) -> nn.Module:
    module = nn.BatchNorm2d(len(layer.beta.data), eps=layer.eps, momentum=1 - layer.decay)
    module.weight.requires_grad_(layer.gamma is not None)
    averages = {"running_mean": layer.mean.data, "running_var": layer.var.data}
    return _filled(module, weight=gamma_of(layer), bias=layer.beta.data, **averages)


def _linear(layer: Linear, shape: Shape) -> nn.Module:
    inputs, outputs = layer.weight.data.shape
    module = nn.Linear(inputs, outputs, bias=layer.bias is not None)
    return _filled(module, weight=layer.weight.data.T, **_bias(layer))


def _max_pool(layer: MaxPool2D, shape: Shape) -> nn.Module:
    def make(padding: tuple[int, int]) -> nn.Module:
        return nn.MaxPool2d(layer.size, layer.stride, padding, ceil_mode=layer.ceil)

    return _padded(pads_of(layer, shape), make, -np.inf)


def _avg_pool(layer: AvgPool2D, shape: Shape) -> nn.Module:
    def make(padding: tuple[int, int]) -> nn.Module:
        return nn.AvgPool2d(layer.size, layer.stride, padding, layer.ceil, layer.count_include_pad)

    return _padded(pads_of(layer, shape), make)


def _lrn(layer: LRN, shape: Shape) -> nn.Module:
    size, a, beta, k = layer._constants()
    return nn.LocalResponseNorm(size, a * size, beta, k)


def _flatten(layer: Flatten, shape: Shape) -> nn.Module:
    if len(shape) != 4:
        raise unsupported(layer)
    return Rows()


MODULES: dict[type, Callable[[Any, Shape], nn.Module]] = {
    Network: lambda layer, shape: WithHeads(layer, shape) if layer.heads else _sequential(layer.trunk, shape),
    Sequential: _sequential,
    Concat: Branches,
    Residual: Shortcut,
    Conv2D: _conv,
    PatchWhitening: _conv,
    DepthwiseConv2D: _conv,
    ConvReLU: _conv_relu,
    ConvBNReLU: _conv_bn_relu,
    BatchNorm: _batch_norm,
    Linear: _linear,
    MaxPool2D: _max_pool,
    AvgPool2D: _avg_pool,
    GlobalAvgPool2D: lambda layer, shape: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    AdaptiveAvgPool2D: lambda layer, shape: nn.AdaptiveAvgPool2d(layer.size),
    LRN: _lrn,
    ReLU: lambda layer, shape: nn.ReLU(),
    Scale: lambda layer, shape: Scaled(layer.scale),
    Dropout: lambda layer, shape: nn.Dropout(layer.rate),
    Flatten: _flatten,
}

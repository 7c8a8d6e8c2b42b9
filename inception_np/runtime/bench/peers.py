"""The same network in PyTorch and as an ONNX graph, layer by layer and with the same weights: the rivals of `bench`.

Each of our layers becomes the module that one would write in PyTorch for it, so that what is compared is the same
arithmetic. Padding of "same" is resolved for the shape at hand; where it is not the same on both sides, which no
convolution of PyTorch's takes, the image is padded first (the networks' `torchvision` and `timm` presets have none).
"""

from typing import Any

import numpy as np

from ...backend import Shape
from ...compose import Concat, Residual, Sequential
from ...kernels.window import Pads, pads_for
from ...layer import Layer
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


def _unknown(layer: Layer) -> ValueError:
    return ValueError(f"bench: got a {type(layer).__name__}, wanted a layer that the rivals have too")


# ---- PyTorch


def to_torch(layer: Layer, shape: Shape) -> Any:
    """A torch.nn.Module that computes what `layer` does, on (N, C, H, W), for an x of our shape (N, H, W, C)."""
    import torch
    from torch import nn

    class Rows(nn.Module):
        """Every image as one row in our order: channels last."""

        def forward(self, x: Any) -> Any:
            return x.permute(0, 2, 3, 1).flatten(1)

    class Branches(nn.Module):
        def __init__(self, branches: list):
            super().__init__()
            self.branches = nn.ModuleList(branches)

        def forward(self, x: Any) -> Any:
            return torch.cat([branch(x) for branch in self.branches], 1)

    class Shortcut(nn.Module):
        def __init__(self, body: Any, cut: Any, scale: float):
            super().__init__()
            self.body, self.cut, self.scale = body, cut, scale

        def forward(self, x: Any) -> Any:
            f = self.body(x)
            return (x if self.cut is None else self.cut(x)) + (f if self.scale == 1 else self.scale * f)

    class Scaled(nn.Module):
        def __init__(self, scale: float):
            super().__init__()
            self.scale = scale

        def forward(self, x: Any) -> Any:
            return self.scale * x

    class WithHeads(nn.Module):
        def __init__(self, parts: list, heads: dict):
            super().__init__()
            self.stages = [stage for stage, _ in parts]
            self.parts, self.heads = nn.ModuleList([part for _, part in parts]), nn.ModuleDict(heads)

        def forward(self, x: Any) -> Any:
            aux = {}
            for stage, part in zip(self.stages, self.parts, strict=True):
                x = part(x)
                if stage is not None and self.training:
                    aux[stage] = self.heads[stage](x)
            return (x, aux) if aux else x

    def filled(module: Any, **arrays: np.ndarray) -> Any:
        with torch.no_grad():
            for name, a in arrays.items():
                getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(a)))
        return module

    def with_pads(pads: Pads, make: Any, value: float = 0.0) -> Any:
        (top, bottom), (left, right) = pads
        if top == bottom and left == right:
            return make((top, left))
        return nn.Sequential(nn.ConstantPad2d((left, right, top, bottom), value), make((0, 0)))

    def conv(layer: Any, shape: Shape, groups: int, channels: int, w: np.ndarray) -> Any:
        pads = pads_for(layer.pad, shape[1:3], layer.kernel, layer.stride, layer.dilation)
        bias = {} if layer.bias is None else {"bias": layer.bias.data}

        def make(padding: tuple[int, int]) -> Any:
            module = nn.Conv2d(
                shape[3], channels, layer.kernel, layer.stride, padding, layer.dilation, groups, bias=bool(bias)
            )
            return filled(module, weight=w.transpose(3, 2, 0, 1), **bias)

        return with_pads(pads, make)

    def norm(layer: BatchNorm) -> Any:
        module = nn.BatchNorm2d(len(layer.beta.data), eps=layer.eps, momentum=1 - layer.decay)
        gamma = np.ones_like(layer.beta.data) if layer.gamma is None else layer.gamma.data
        arrays = {"running_mean": layer.mean.data, "running_var": layer.var.data}
        return filled(module, weight=gamma, bias=layer.beta.data, **arrays)

    def convert(layer: Layer, shape: Shape) -> Any:
        if isinstance(layer, Network):
            parts, heads = [], {}
            for stage, part in layer.parts(True):
                parts.append((stage, convert(part, shape)))
                shape = part.out_shape(shape)
                if stage is not None:
                    heads[stage] = convert(layer.heads[stage], shape)
            return WithHeads(parts, heads)
        if isinstance(layer, Sequential):
            modules = []
            for child in layer.layers.values():
                modules.append(convert(child, shape))
                shape = child.out_shape(shape)
            return nn.Sequential(*modules)
        if isinstance(layer, Concat):
            return Branches([convert(branch, shape) for branch in layer.branches.values()])
        if isinstance(layer, Residual):
            cut = None if layer.shortcut is None else convert(layer.shortcut, shape)
            return Shortcut(convert(layer.body, shape), cut, layer.scale)
        if isinstance(layer, ConvBNReLU):
            return nn.Sequential(convert(layer.conv, shape), norm(layer.bn), nn.ReLU(inplace=True))
        if isinstance(layer, ConvReLU):
            return nn.Sequential(
                conv(layer, shape, layer.groups, layer.out_channels, layer.weight.data), nn.ReLU(inplace=True)
            )
        if isinstance(layer, Conv2D):
            module = conv(layer, shape, layer.groups, layer.out_channels, layer.weight.data)
            if isinstance(layer, PatchWhitening):
                module.weight.requires_grad_(False)
            return module
        if isinstance(layer, DepthwiseConv2D):
            kh, kw, channels, multiplier = layer.weight.data.shape
            w = layer.weight.data.reshape(kh, kw, 1, channels * multiplier)
            return conv(layer, shape, channels, channels * multiplier, w)
        if isinstance(layer, BatchNorm):
            return norm(layer)
        if isinstance(layer, Linear):
            inputs, outputs = layer.weight.data.shape
            module = nn.Linear(inputs, outputs, bias=layer.bias is not None)
            bias = {} if layer.bias is None else {"bias": layer.bias.data}
            return filled(module, weight=layer.weight.data.T, **bias)
        if isinstance(layer, Scale):
            return Scaled(layer.scale)
        if isinstance(layer, MaxPool2D):
            pads, _ = layer._geometry(shape)
            return with_pads(pads, lambda p: nn.MaxPool2d(layer.size, layer.stride, p, ceil_mode=layer.ceil), -np.inf)
        if isinstance(layer, AvgPool2D):
            pads, _ = layer._geometry(shape)
            counted = layer.count_include_pad
            return with_pads(pads, lambda p: nn.AvgPool2d(layer.size, layer.stride, p, layer.ceil, counted))
        if isinstance(layer, AdaptiveAvgPool2D):
            return nn.AdaptiveAvgPool2d(layer.size)
        if isinstance(layer, GlobalAvgPool2D):
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        if isinstance(layer, LRN):
            size, a, beta, k = layer._constants()
            return nn.LocalResponseNorm(size, a * size, beta, k)
        if isinstance(layer, ReLU):
            return nn.ReLU()
        if isinstance(layer, Dropout):
            return nn.Dropout(layer.rate)
        if isinstance(layer, Flatten) and len(shape) == 4:
            return Rows()
        raise _unknown(layer)

    return convert(layer, shape)


# ---- ONNX


def to_onnx(layer: Layer, shape: Shape) -> bytes:
    """An ONNX model that computes what `layer` does in inference, on x (N, C, H, W) for our shape (N, H, W, C)."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    weights: list[Any] = []

    def weight(a: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(a), f"w{len(weights)}"))
        return weights[-1].name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"y{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def ends(pads: Pads) -> list[int]:
        (top, bottom), (left, right) = pads
        return [top, left, bottom, right]

    def conv(layer: Any, x: str, shape: Shape, groups: int, w: np.ndarray) -> str:
        pads = pads_for(layer.pad, shape[1:3], layer.kernel, layer.stride, layer.dilation)
        inputs = [x, weight(w.transpose(3, 2, 0, 1))]
        if layer.bias is not None:
            inputs.append(weight(layer.bias.data))
        return node(
            "Conv", *inputs, pads=ends(pads), strides=layer.stride, dilations=layer.dilation, group=groups,
            kernel_shape=layer.kernel,
        )  # fmt: skip

    def norm(layer: BatchNorm, x: str) -> str:
        gamma = np.ones_like(layer.beta.data) if layer.gamma is None else layer.gamma.data
        arrays = (gamma, layer.beta.data, layer.mean.data, layer.var.data)
        return node("BatchNormalization", x, *map(weight, arrays), epsilon=layer.eps)

    def convert(layer: Layer, x: str, shape: Shape) -> str:
        if isinstance(layer, Network):
            return convert(layer.trunk, x, shape)
        if isinstance(layer, Sequential):
            for child in layer.layers.values():
                x, shape = convert(child, x, shape), child.out_shape(shape)
            return x
        if isinstance(layer, Concat):
            return node("Concat", *[convert(branch, x, shape) for branch in layer.branches.values()], axis=1)
        if isinstance(layer, Residual):
            cut = x if layer.shortcut is None else convert(layer.shortcut, x, shape)
            f = convert(layer.body, x, shape)
            return node(
                "Add", cut, f if layer.scale == 1 else node("Mul", f, weight(np.array([layer.scale], np.float32)))
            )
        if isinstance(layer, ConvBNReLU):
            return node("Relu", norm(layer.bn, convert(layer.conv, x, shape)))
        if isinstance(layer, Conv2D):
            y = conv(layer, x, shape, layer.groups, layer.weight.data)
            return node("Relu", y) if isinstance(layer, ConvReLU) else y
        if isinstance(layer, DepthwiseConv2D):
            kh, kw, channels, multiplier = layer.weight.data.shape
            w = layer.weight.data.reshape(kh, kw, 1, channels * multiplier)
            return conv(layer, x, shape, channels, w)
        if isinstance(layer, BatchNorm):
            return norm(layer, x)
        if isinstance(layer, Linear):
            bias = [] if layer.bias is None else [weight(layer.bias.data)]
            return node("Gemm", x, weight(layer.weight.data), *bias)
        if isinstance(layer, Scale):
            return node("Mul", x, weight(np.array([layer.scale], np.float32)))
        if isinstance(layer, (MaxPool2D, AvgPool2D)):
            pads, _ = layer._geometry(shape)
            window = {"kernel_shape": layer.size, "strides": layer.stride, "pads": ends(pads)}
            if isinstance(layer, MaxPool2D):
                return node("MaxPool", x, ceil_mode=int(layer.ceil), **window)
            counted = int(layer.count_include_pad)
            return node("AveragePool", x, ceil_mode=int(layer.ceil), count_include_pad=counted, **window)
        if isinstance(layer, GlobalAvgPool2D):
            return node("Flatten", node("GlobalAveragePool", x))
        if isinstance(layer, LRN):
            size, a, beta, k = layer._constants()
            return node("LRN", x, size=size, alpha=a * size, beta=beta, bias=k)
        if isinstance(layer, ReLU):
            return node("Relu", x)
        if isinstance(layer, Dropout):
            return x
        if isinstance(layer, Flatten) and len(shape) == 4:
            return node("Flatten", node("Transpose", x, perm=[0, 2, 3, 1]))
        raise _unknown(layer)

    n, h, w, c = shape
    y = convert(layer, "x", shape)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [n, c, h, w])]
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()

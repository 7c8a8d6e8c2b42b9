"""A network of ours once more in PyTorch, for the GPU's benchmark: the same layers in channels_last memory."""

import torch
import torch.nn.functional as F
from torch import nn

import inception_np as ip
from inception_np.kernels.window import pads_for
from inception_np.models.network import Network


def twin(layer) -> nn.Module:
    """The module that does what a layer does, with its weights. Images are (N, C, H, W), in channels_last memory."""
    for kind in type(layer).__mro__:
        if kind in HOW:
            return HOW[kind](layer)
    raise TypeError(f"no twin for {type(layer).__name__}")


def padding(ours):
    """The pads as PyTorch's own layers take them, (h, w); None where they depend on the image or are uneven."""
    kernel = ours.size if hasattr(ours, "size") else ours.kernel
    found = {
        pads_for(ours.pad, hw, kernel, ours.stride, getattr(ours, "dilation", (1, 1))) for hw in [(64, 64), (63, 63)]
    }
    (top, bottom), (left, right) = found.pop()
    return None if found or top != bottom or left != right else (top, left)


class Window(nn.Module):
    """Pads that PyTorch's own layers have no words for, then the layer."""

    def __init__(self, ours, body, value=0.0):
        super().__init__()
        kernel = ours.size if hasattr(ours, "size") else ours.kernel
        self.ours, self.body, self.value = ours, body, value
        self.window = (ours.pad, kernel, ours.stride, getattr(ours, "dilation", (1, 1)))

    def forward(self, x):
        pad, *window = self.window
        (top, bottom), (left, right) = pads_for(pad, tuple(x.shape[2:]), *window)
        if top == bottom and left == right:
            return self.body(x, (top, left))
        return self.body(F.pad(x, (left, right, top, bottom), value=self.value), (0, 0))


def conv(layer):
    kh, kw, c, o = layer.weight.data.shape
    pads = padding(layer)
    own = nn.Conv2d(
        c * layer.groups, o, (kh, kw), layer.stride, pads or 0, layer.dilation, layer.groups, layer.bias is not None
    )
    own.weight.data.copy_(torch.tensor(layer.weight.data).permute(3, 2, 0, 1))
    return with_bias(own if pads else Conv(layer, own), own, layer)


def whitening(layer):
    module = conv(layer)
    module.weight.requires_grad_(False)
    return module


def depthwise(layer):
    kh, kw, c, m = layer.weight.data.shape
    pads = padding(layer)
    own = nn.Conv2d(c, c * m, (kh, kw), layer.stride, pads or 0, layer.dilation, c, layer.bias is not None)
    own.weight.data.copy_(torch.tensor(layer.weight.data).permute(2, 3, 0, 1).reshape(c * m, 1, kh, kw))
    return with_bias(own if pads else Conv(layer, own), own, layer)


def with_bias(module, own, layer):
    if layer.bias is not None:
        own.bias.data.copy_(torch.tensor(layer.bias.data))
    return module


class Conv(nn.Module):
    def __init__(self, layer, own):
        super().__init__()
        self.own = own
        self.window = Window(layer, self.run)

    def run(self, x, padding):
        own = self.own
        return F.conv2d(x, own.weight, own.bias, own.stride, padding, own.dilation, own.groups)

    def forward(self, x):
        return self.window(x)


def batch_norm(layer):
    own = nn.BatchNorm2d(len(layer.beta.data), layer.eps, 1 - layer.decay)
    own.bias.data.copy_(torch.tensor(layer.beta.data))
    if layer.gamma is None:
        own.weight.requires_grad_(False)
    else:
        own.weight.data.copy_(torch.tensor(layer.gamma.data))
    own.running_mean.copy_(torch.tensor(layer.mean.data))
    own.running_var.copy_(torch.tensor(layer.var.data))
    return own


def max_pool(layer):
    if pads := padding(layer):
        return nn.MaxPool2d(layer.size, layer.stride, pads, ceil_mode=layer.ceil)

    def run(x, padding):
        return F.max_pool2d(x, layer.size, layer.stride, padding, ceil_mode=layer.ceil)

    return Window(layer, run, -float("inf"))


def avg_pool(layer):
    if pads := padding(layer):
        return nn.AvgPool2d(layer.size, layer.stride, pads, layer.ceil, layer.count_include_pad)

    def run(x, padding):
        return F.avg_pool2d(x, layer.size, layer.stride, padding, layer.ceil, layer.count_include_pad)

    return Window(layer, run)


def linear(layer):
    own = nn.Linear(*layer.weight.data.shape, bias=layer.bias is not None)
    own.weight.data.copy_(torch.tensor(layer.weight.data).T)
    return with_bias(own, own, layer)


def lrn(layer):
    return nn.LocalResponseNorm(
        layer.size, layer.alpha * (1 if layer.divide_by_size else layer.size), layer.beta, layer.k
    )


class Concat(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.branches = nn.ModuleList(twin(b) for b in layer.branches.values())

    def forward(self, x):
        return torch.cat([b(x) for b in self.branches], 1)


class Residual(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.body, self.scale = twin(layer.body), layer.scale
        self.shortcut = nn.Identity() if layer.shortcut is None else twin(layer.shortcut)

    def forward(self, x):
        return self.shortcut(x) + self.scale * self.body(x)


class GlobalAvgPool(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class Scale(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.scale = layer.scale

    def forward(self, x):
        return self.scale * x


class Flatten(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)  # our order of the numbers


HOW = {
    ip.ConvReLU: lambda layer: nn.Sequential(conv(layer), nn.ReLU()),
    ip.Conv2D: conv,
    ip.PatchWhitening: whitening,
    ip.DepthwiseConv2D: depthwise,
    ip.ConvBNReLU: lambda layer: nn.Sequential(twin(layer.conv), twin(layer.bn), nn.ReLU()),
    ip.BatchNorm: batch_norm,
    ip.LRN: lrn,
    ip.MaxPool2D: max_pool,
    ip.AvgPool2D: avg_pool,
    ip.GlobalAvgPool2D: lambda layer: GlobalAvgPool(),
    ip.Flatten: lambda layer: Flatten(),
    ip.ReLU: lambda layer: nn.ReLU(),
    ip.Dropout: lambda layer: nn.Dropout(layer.rate),
    ip.Linear: linear,
    ip.Scale: Scale,
    ip.Sequential: lambda layer: nn.Sequential(*(twin(child) for child in layer.layers.values())),
    ip.Concat: Concat,
    ip.Residual: Residual,
    Network: lambda layer: twin(layer.trunk),  # without the heads
}

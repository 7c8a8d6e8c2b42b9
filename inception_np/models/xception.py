"""Xception. Chollet 2017, "Xception: Deep Learning with Depthwise Separable Convolutions", figure 5.

An Inception module maps across channels with 1x1 convolutions, and in space with 3x3 ones that each see a segment of
the channels. With one segment per channel (section 1.1, "extreme" Inception) it is a separable convolution but for two
things: the order of the two steps, and a ReLU between them, which figure 10 finds harmful.

36 convolutions in 14 blocks, the middle twelve with a residual connection around them. No ReLU follows a sum: the first
ReLU of the next block is on its main path only, and its shortcut reads the sum as it is.

Keras has the author's own code; it pads the pools as TensorFlow does. PyTorch's ports (timm) pad them by one pixel on
both sides, which shifts the windows of block3's, the only one of an even size, and have batch norm's eps at 1e-5.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..backend.arrays import Shape
from ..compose import Residual, Sequential
from ..layer import Layer
from ..layers.activation import ELU, Dropout, ReLU
from ..layers.batchnorm import BatchNorm
from ..layers.check import check_count
from ..layers.conv import Conv2D
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.depthwise import DepthwiseConv2D
from ..layers.init import Init, glorot_uniform, he_normal_out
from ..layers.linear import Linear
from ..layers.pool import GlobalAvgPool2D, MaxPool2D
from .blocks import Conv, Request, Stages, Widths, at_width, hidden_layers, hidden_widths
from .network import Network

# Figure 5: the channels of each separable convolution
# fmt: off
STEM   = (32, 64)
ENTRY  = {"block2": (128, 128), "block3": (256, 256), "block4": (728, 728)}
MIDDLE = (728, 728, 728)
EXIT   = ((728, 1024), (1536, 2048))
FC     = 4096
# fmt: on
# Figure 5's sizes
PRINTED = {"block4": "19x19x728", "block12": "19x19x728"}
NOTE = "Table 3 prints 22,855,952 parameters, and 23,626,728 for an Inception-v3 that no public one is (23,834,568)."
BETWEEN = {"relu": ReLU, "elu": ELU}
Parts = dict[str, Layer]  # by name: what stands between the two convolutions, or nothing
PADS = {"tf_same": "same", "symmetric": 1}


def keras_depthwise(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    """Glorot's, with the fans as Keras counts them: all channels go in."""
    return glorot_uniform(rng, shape, fan_in * shape[2], fan_out)


def torch_depthwise(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    """He's, with the fans as PyTorch counts them: all channels go out."""
    return he_normal_out(rng, shape, fan_in, fan_out * shape[2])


class Source(NamedTuple):
    """What the sources do not share: constants, and no layer."""

    init: Init
    depthwise: Init
    eps: float = 1e-3
    decay: float = 0.99
    dropout: float = 0.5
    pool_padding: str = "tf_same"


SOURCES = {
    # The paper states neither batch norm's constants nor the initial weights: Keras's, and fans counted per channel
    "paper": Source(glorot_uniform, glorot_uniform),
    "keras": Source(glorot_uniform, keras_depthwise, dropout=0.0),
    "timm": Source(he_normal_out, torch_depthwise, eps=1e-5, decay=0.9, dropout=0.0, pool_padding="symmetric"),
}


def normalised(
    channels: int, out: int, kernel: int, relu: bool = False, *, eps: float, decay: float, **conv: Any
) -> Layer:
    """A convolution and batch norm, with or without a ReLU; the parts are called conv and bn either way."""
    if relu:
        return ConvBNReLU(channels, out, kernel, eps=eps, decay=decay, **conv)
    bn = BatchNorm(out, eps=eps, decay=decay)
    return Sequential(conv=Conv2D(channels, out, kernel, bias=False, **conv), bn=bn)


def separable(conv: Conv, depthwise: Conv, between: Parts, channels: int, out: int, relu: bool) -> Sequential:
    """SeparableConv and batch norm; with `relu`, also the ReLU that comes next on this path."""
    return Sequential(depthwise=depthwise(channels, 3), **between, pointwise=conv(channels, out, 1, relu))


def segmented(
    conv: Conv, plain: Conv, between: Parts, segments: int, channels: int, out: int, relu: bool
) -> Sequential:
    """Section 1.1, figure 4: a 1x1 convolution, then a 3x3 one on that many segments of its channels."""
    parts = min(segments, out)
    return Sequential(pointwise=plain(channels, out, 1), **between, spatial=conv(out, out, 3, relu, groups=parts))


def main_path(unit: Conv, channels: int, outs: tuple[int, ...], relu: bool = True, **pool: Layer) -> Sequential:
    """(ReLU, SeparableConv, BN), once for each of `outs`, and a pool. relu: whether the first ReLU is there."""
    steps: dict[str, Layer] = {"relu": ReLU()} if relu else {}
    for i, out in enumerate(outs):
        steps[f"sepconv{i + 1}"] = unit(channels, out, i + 1 < len(outs))
        channels = out
    return Sequential(**steps, **pool)


def xception(
    request: Request,
    *,
    middle: int = 8,
    intermediate_activation: str = "none",
    residual: bool = True,
    segments: int = 0,
    fc_layers: int = 0,
    hidden: str = "",
    dropout: float | None = None,
    bn_eps: float | None = None,
    pool_padding: str | None = None,
) -> Network:
    """Figure 5, for images of 299x299. For 32x32 (not the paper's) block1 keeps the resolution, block4 has stride 1,
    and three middle blocks see a grid of 8.

    middle: how many blocks of the middle flow. The paper's experiments: intermediate_activation, "none", "relu" or
    "elu" between depthwise and pointwise (figure 10); residual=False, no residual connections (figure 9);
    segments, a 1x1 convolution and a 3x3 one on so many segments in place of every separable convolution, from 1,
    regular, to one per channel, extreme Inception (section 1.1), where 0 keeps the separable ones; fc_layers, fully
    connected layers of 4096 before the last, two on JFT. hidden: the widths of such layers in their place, "256-128".
    dropout: the fraction dropped before the last layer; bn_eps; pool_padding: "tf_same" or "symmetric"; None is the
    preset's. There is no auxiliary head.
    """
    source = _source(request.preset, dropout, bn_eps, pool_padding)
    request.refuse_heads("xception")
    small, rng = request.small, request.rng
    edge = "same" if small else "valid"
    conv = partial(normalised, eps=source.eps, decay=source.decay, init=source.init, rng=rng)
    unit = _unit(conv, source, rng, intermediate_activation, segments)
    w = partial(at_width, width=request.width)
    stages = Stages(request.image)

    def reduction(row: Widths, stride: int = 2, relu: bool = True) -> Layer:
        pool = MaxPool2D(3, stride=stride, pad=PADS[source.pool_padding])
        body = main_path(unit, stages.channels, row, relu, pool=pool)
        return Residual(body, conv(stages.channels, row[-1], 1, stride=stride)) if residual else body

    c1, c2 = w(STEM)
    stages.add("block1_conv1", conv(stages.channels, c1, 3, True, stride=1 if small else 2, pad=edge))
    stages.add("block1_conv2", conv(c1, c2, 3, True, pad=edge))
    for name, row in w(ENTRY).items():
        stride = 1 if small and name == "block4" else 2
        stages.add(name, reduction(row, stride, relu=name != "block2"))  # block1 ends in a ReLU
    for i in range(check_count("xception", "middle", middle, 0)):
        body = main_path(unit, stages.channels, w(MIDDLE))
        stages.add(f"block{5 + i}", Residual(body) if residual else body)
    row13, (c1, c2) = w(EXIT)
    stages.add(f"block{5 + middle}", reduction(row13))
    block14 = Sequential(sepconv1=unit(stages.channels, c1, True), sepconv2=unit(c1, c2, True))
    stages.add(f"block{6 + middle}", block14)
    if fc_layers and hidden:
        raise ValueError(f"xception: got fc_layers={fc_layers} and hidden={hidden!r}, wanted one of them")
    widths = hidden_widths(hidden) or [w(FC)] * check_count("xception", "fc_layers", fc_layers, 0)
    stages.add("Logits", _classifier(stages.channels, request.num_classes, widths, source, rng))
    network = Network(Sequential(**stages.layers))
    if request.as_printed:
        network.printed, network.notes = PRINTED, [NOTE]
    return network


def _source(preset: str, dropout: float | None, bn_eps: float | None, pool_padding: str | None) -> Source:
    given: dict[str, Any] = {"dropout": dropout, "eps": bn_eps, "pool_padding": pool_padding}
    source = SOURCES[preset]._replace(**{name: value for name, value in given.items() if value is not None})
    if source.pool_padding not in PADS:
        raise ValueError(f'xception: got pool_padding={pool_padding!r}, wanted "tf_same" or "symmetric"')
    return source


def _unit(conv: Conv, source: Source, rng: np.random.Generator, activation: str, segments: int) -> Conv:
    """What stands for a separable convolution: (channels, out, relu) -> layer."""
    if activation not in ("none", *BETWEEN):
        raise ValueError(f'xception: got intermediate_activation={activation!r}, wanted "none", "relu" or "elu"')
    check_count("xception", "segments", segments, 0)

    def unit(channels: int, out: int, relu: bool) -> Layer:
        between = {} if activation == "none" else {"between": BETWEEN[activation]()}
        if segments:
            plain = partial(Conv2D, bias=False, init=source.init, rng=rng)
            return segmented(conv, plain, between, segments, channels, out, relu)
        depthwise = partial(DepthwiseConv2D, init=source.depthwise, rng=rng)
        return separable(conv, depthwise, between, channels, out, relu)

    return unit


def _classifier(channels: int, classes: int, widths: list[int], source: Source, rng: np.random.Generator) -> Sequential:
    linear = partial(Linear, init=source.init, rng=rng)
    before, channels = hidden_layers(linear, channels, widths)
    fc = linear(channels, classes)
    return Sequential(pool=GlobalAvgPool2D(), **before, dropout=Dropout(source.dropout), fc=fc)

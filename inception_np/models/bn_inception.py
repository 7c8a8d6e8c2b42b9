"""BN-Inception. Ioffe & Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift", section 4.2 and the table of the appendix. Later papers of the authors call it Inception-v2.

GoogLeNet with batch norm in place of LRN and biases, two 3x3 in place of each 5x5, average pooling in most modules, and
two of ten modules with stride 2, whose pools pass their input through.

The table contradicts itself in two modules. With the projections of 128 that it prints, 4c and 4d give 608 channels and
4e gives 1056, where it prints 576, 576 and 1024. Public code goes two ways and the paper does not decide it:

    pool_proj_4cd=96    keeps the sizes: tf_slim; and the default here, for it agrees with every printed size
    pool_proj_4cd=128   keeps the filter columns: the Caffe lineage ("caffe") and Chainer ("chainer")

The sizes printed for 3c and 4e are those of their inputs, and conv2's depth is printed as 1 although it is made of two
convolutions. The first convolution is separable with depth multiplier 8 (the text's footnote); ports make it dense.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..compose import Concat, Sequential
from ..layer import Layer
from ..layers.activation import Dropout, ReLU
from ..layers.batchnorm import BatchNorm
from ..layers.conv import Conv2D, ConvReLU
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.depthwise import DepthwiseConv2D
from ..layers.init import Init, he_normal, he_truncated, lecun_normal, lecun_uniform, truncated_normal
from ..layers.linear import Linear
from ..layers.pool import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from .blocks import Conv, Request, Stages, Widths, at_width, bn_auxiliary
from .network import Network

# The appendix's table:  1x1   3x3 (reduce, out)  double 3x3 (reduce, out twice)  pool projection
# fmt: off
ROWS = {
    "3a": ( 64, ( 64,  64), ( 64,  96),  32),
    "3b": ( 64, ( 64,  96), ( 64,  96),  64),
    "3c": (     (128, 160), ( 64,  96)     ),      # stride 2: no 1x1, and the pool passes through
    "4a": (224, ( 64,  96), ( 96, 128), 128),
    "4b": (192, ( 96, 128), ( 96, 128), 128),
    "4c": (160, (128, 160), (128, 160), 128),
    "4d": ( 96, (128, 192), (160, 192), 128),
    "4e": (     (128, 192), (192, 256)     ),      # stride 2
    "5a": (352, (192, 320), (160, 224), 128),
    "5b": (352, (192, 320), (192, 224), 128),      # its pool is a max pool, all others average
}
STEM      = (64, 64, 192)                          # conv1, and conv2's reduction and 3x3
HEADS     = ("4a", "4d")                           # Chainer's
AUXILIARY = (128, 1024)
# fmt: on
# The table's output sizes, and why ours differ
PRINTED = {
    "conv1": "112x112x64",
    "pool1": "56x56x64",
    "conv2": "56x56x192",
    "pool2": "28x28x192",
    "3a": "28x28x256",
    "3b": "28x28x320",
    "3c": "28x28x576: the height and width of its input, before the stride of 2",
    "4a": "14x14x576",
    "4b": "14x14x576",
    "4c": "14x14x576: 608 with the projection of 128 printed beside it",
    "4d": "14x14x576: 608 with the projection of 128 printed beside it",
    "4e": "14x14x1024: the height and width of its input; 1056 channels where 4d has 608",
    "5a": "7x7x1024",
    "5b": "7x7x1024",
    "pool5": "1x1x1024",
}
NOTE = (
    "Section 4.2 counts 13.6 million parameters, the appendix 25 % more than GoogLeNet's and 30 % more computation.\n"
    "The table has 11.2 million, 60 % more; the computation holds, at 29 %, with separable first convolutions in both."
)


class Source(NamedTuple):
    """What the sources do not share: constants, and no layer."""

    init: Init
    reduce: Init | None = None  # of the reductions and
    project: Init | None = None  # of the projections, where they start smaller
    eps: float = 1e-3
    decay: float = 0.99
    gamma: bool = True
    bias: bool = False  # a bias in every convolution, although batch norm takes it out again
    pool_proj: int = 128
    dense: bool = True  # the first convolution
    depthwise: Init | None = None  # of a first convolution outside the scope of batch norm, with biases in its place
    conv2_reduce: bool = True  # the 1x1 of conv2
    heads: bool = False
    dropout: float = 0.0
    same: bool = False  # windows with stride are padded as TensorFlow does, not evenly
    ceil: bool = False  # pools with stride are not padded but may hang over the end
    count_include_pad: bool = False  # padding counts in the average pools


SOURCES = {
    # The paper states neither eps nor the averages' decay nor the initial weights
    "paper": Source(he_normal, pool_proj=96, dense=False),
    "tf_slim": Source(
        he_truncated,
        truncated_normal(0.09),
        truncated_normal(0.1),
        decay=0.9997,
        gamma=False,
        pool_proj=96,
        dense=False,
        depthwise=truncated_normal(1.0),
        dropout=0.2,
        same=True,
    ),
    "caffe": Source(lecun_uniform, eps=1e-5, decay=0.9, bias=True, ceil=True, count_include_pad=True),
    "chainer": Source(lecun_normal, eps=2e-5, decay=0.9, conv2_reduce=False, heads=True),
}


def conv_bn_relu(channels: int, out: int, kernel: int, *, bias: bool, norm: dict[str, Any], **conv: Any) -> Layer:
    """The unit: convolution, batch norm, ReLU. With `bias` the three are separate layers under the same names."""
    if not bias:
        return ConvBNReLU(channels, out, kernel, **norm, **conv)
    return Sequential(conv=Conv2D(channels, out, kernel, **conv), bn=BatchNorm(out, **norm), relu=ReLU())


def inception(conv: Conv, reduce: Conv, project: Conv, channels: int, row: Widths, pool: Layer) -> Concat:
    """GoogLeNet's figure 2(b) with the 5x5 as two 3x3."""
    c1, c3, double, proj = row
    return Concat(
        b1=conv(channels, c1, 1),
        b3=Sequential(reduce=reduce(channels, c3[0], 1), conv=conv(c3[0], c3[1], 3)),
        double=Sequential(
            reduce=reduce(channels, double[0], 1),
            conv1=conv(double[0], double[1], 3),
            conv2=conv(double[1], double[1], 3),
        ),
        pool=Sequential(pool=pool, proj=project(channels, proj, 1)),
    )


def reduction(conv: Conv, reduce: Conv, channels: int, row: Widths, pad: Any, pool: Layer) -> Concat:
    """The modules with stride 2, 3c and 4e."""
    c3, double = row
    return Concat(
        b3=Sequential(reduce=reduce(channels, c3[0], 1), conv=conv(c3[0], c3[1], 3, stride=2, pad=pad)),
        double=Sequential(
            reduce=reduce(channels, double[0], 1),
            conv1=conv(double[0], double[1], 3),
            conv2=conv(double[1], double[1], 3, stride=2, pad=pad),
        ),
        pool=pool,
    )


def bn_inception(
    request: Request, *, pool_proj_4cd: int | None = None, batch_norm: bool = True, dropout: float | None = None
) -> Network:
    """For images of 224x224. For 32x32 (not the paper's) conv1 is 3x3 with stride 1 and the first pool is left out, so
    that the modules see grids of 16, 8 and 4.

    The paper describes no auxiliary head; Chainer's network has two, and so does aux=True. pool_proj_4cd: 96 or 128
    (above); None is the preset's. batch_norm=False: the paper's control, biases in its place. dropout: the fraction
    dropped before the last layer, none in the paper's BN networks; None is the preset's.
    """
    source, classes, rng = SOURCES[request.preset], request.num_classes, request.rng
    proj_4cd = source.pool_proj if pool_proj_4cd is None else pool_proj_4cd
    if proj_4cd not in (96, 128):
        raise ValueError(f"bn_inception: got pool_proj_4cd={pool_proj_4cd!r}, wanted 96 or 128")
    conv: Conv
    if batch_norm:
        norm = {"eps": source.eps, "decay": source.decay, "scale": source.gamma}
        conv = partial(conv_bn_relu, bias=source.bias, norm=norm, init=source.init, rng=rng)
    else:
        conv = partial(ConvReLU, init=source.init, rng=rng)
    reduce = partial(conv, init=source.reduce or source.init)
    project = partial(conv, init=source.project or source.init)
    linear = partial(Linear, init=source.init, rng=rng)
    pool = partial(MaxPool2D, 3, stride=2, **({"ceil": True} if source.ceil else {"pad": "same"}))
    w = partial(at_width, width=request.width)
    stages = Stages(request.image)

    c1, c2_reduce, c2 = w(STEM)
    kernel, stride = (3, 1) if request.small else (7, 2)
    first = conv if source.dense else partial(_separable, conv, source, rng)
    stages.add("conv1", first(stages.channels, c1, kernel, stride=stride, pad="same" if source.same else kernel // 2))
    if not request.small:
        stages.add("pool1", pool())
    before = {"reduce": project(c1, c2_reduce, 1)} if source.conv2_reduce else {}
    stages.add("conv2", Sequential(**before, conv=conv(c2_reduce, c2, 3)))
    stages.add("pool2", pool())
    heads: dict[str, Layer] = {}
    for name, printed in ROWS.items():
        row = w((*printed[:-1], proj_4cd) if name in ("4c", "4d") else printed)
        if len(row) == 2:
            stages.add(name, reduction(conv, reduce, stages.channels, row, "same" if source.same else 1, pool()))
        else:
            average = AvgPool2D(3, stride=1, pad="same", count_include_pad=source.count_include_pad)
            beside = MaxPool2D(3, stride=1, pad="same") if name == "5b" else average
            stages.add(name, inception(conv, reduce, project, stages.channels, row, beside))
        if name in HEADS and request.heads(source.heads):
            heads[name] = bn_auxiliary(conv, linear, stages.shape, w(AUXILIARY), classes)
    rate = source.dropout if dropout is None else dropout
    stages.add("pool5", Sequential(pool=GlobalAvgPool2D(), dropout=Dropout(rate)))
    stages.add("fc", linear(stages.channels, classes))
    network = Network(Sequential(**stages.layers), heads, aux_weight=0.3)  # GoogLeNet's
    if request.as_printed:
        network.printed, network.notes = PRINTED, [NOTE]
    return network


def _separable(
    conv: Conv, source: Source, rng: np.random.Generator, channels: int, out: int, kernel: int, **window: Any
) -> Sequential:
    """The first convolution: depthwise with multiplier 8, then pointwise. window: stride and pad.

    A narrow network has a smaller multiplier, so that the depthwise part never has more channels than the pointwise
    one makes of them.
    """
    multiplier = max(1, min(8, out // channels))
    init = source.depthwise or source.init
    depthwise = DepthwiseConv2D(channels, kernel, multiplier=multiplier, init=init, rng=rng, **window)
    if source.depthwise:
        return Sequential(depthwise=depthwise, pointwise=ConvReLU(channels * multiplier, out, 1, init=init, rng=rng))
    return Sequential(depthwise=depthwise, pointwise=conv(channels * multiplier, out, 1))

"""The layers whose backward passes the pages take apart: each with a small input, and edits that are worth trying.

Every size, stride and pad differs from its neighbour, constants are large enough to matter, and all weights are random:
so that no mistake hides. Each call draws the same numbers.
"""

from typing import Any

import numpy as np

from ..backend.arrays import Array
from ..compose import Concat, Residual, Sequential
from ..kernels.batchnorm import batch_norm_grad
from ..kernels.conv import conv2d_dw, conv2d_dx
from ..kernels.depthwise import depthwise2d_dw, depthwise2d_dx
from ..kernels.elementwise import sum_rows
from ..kernels.loss import softmax_cross_entropy
from ..kernels.lrn import lrn_dx
from ..kernels.pool import avg_pool_dx, max_pool_dx
from ..layer import Layer, Mode, named_params
from ..layers.activation import ReLU
from ..layers.batchnorm import BatchNorm
from ..layers.conv import Conv2D
from ..layers.depthwise import DepthwiseConv2D
from ..layers.lrn import LRN
from ..layers.pool import AvgPool2D, MaxPool2D
from .exercise import Exercise


def _random(layer: Layer) -> Layer:
    """The layer with parameters that are all random: zeros and ones hide mistakes."""
    draw = np.random.default_rng(1)
    for p in named_params(layer).values():
        p.data[...] = draw.standard_normal(p.data.shape)
    return layer


def _x(*shape: int) -> Array:
    return np.random.default_rng(2).standard_normal(shape)


def convolution() -> Exercise:
    """Conv2D: dx, dw and db."""
    return Exercise(
        _random(Conv2D(2, 3, (3, 2), stride=(2, 1), pad=((1, 0), (0, 1)), dilation=(1, 2))),
        _x(2, 5, 4, 2),
        (conv2d_dx, conv2d_dw, sum_rows),
        {
            "a sign: dw is subtracted": ("dw[..., o] +=", "dw[..., o] -="),
            "an axis: the filter is turned by 180 degrees": (
                "matrix = w[..., o].reshape",
                "matrix = w[::-1, ::-1, :, o].reshape",
            ),
            "a missing term: db is that of the first pixel": (".sum(0)", "[0]"),
        },
    )


def depthwise() -> Exercise:
    """DepthwiseConv2D: dx and dw."""
    return Exercise(
        _random(DepthwiseConv2D(2, (3, 2), multiplier=2, stride=(1, 2), pad=((1, 1), (0, 1)))),
        _x(2, 4, 5, 2),
        (depthwise2d_dx, depthwise2d_dw),
        {
            "a sign: dw is subtracted": ("dw[i, j] +=", "dw[i, j] -="),
            "an axis: the sum runs over channels, not over filters": (".sum(-1)", ".sum(-2)"),
            "a missing term: of windows that overlap, the last one counts": ("padded[at] += (dy", "padded[at] = (dy"),
        },
    )


def max_pool() -> Exercise:
    """MaxPool2D: dx."""
    return Exercise(
        MaxPool2D((3, 2), stride=(2, 1), pad=((1, 0), (0, 1))),
        _x(2, 5, 4, 2),
        (max_pool_dx,),
        {
            "a sign: the winner gets -dy": ("size[1] + j, dy, 0)", "size[1] + j, -dy, 0)"),
            "an axis: taps are numbered by columns": ("i * size[1] + j", "j * size[0] + i"),
            "a missing term: a pixel that wins twice gets one dy": ("padded[at] += ", "padded[at] = "),
        },
    )


def average_pool() -> Exercise:
    """AvgPool2D: dx."""
    return Exercise(
        AvgPool2D((3, 2), stride=(2, 1), pad=((1, 0), (0, 1))),
        _x(2, 5, 4, 2),
        (avg_pool_dx,),
        {
            "a sign: dy is subtracted": ("padded[at] += dy", "padded[at] -= dy"),
            "an axis: height and width of the padding swapped": (
                "_inside(padded, reach, x_shape, into)",
                "_inside(padded, reach[::-1], x_shape, into)",
            ),
            "a missing term: nothing is divided": (
                "dy * _weights(dy, x_shape, size, stride, pads, out_hw, count_include_pad)",
                "dy * 1.0",
            ),
        },
    )


def batch_norm() -> Exercise:
    """BatchNorm: dx, dgamma and dbeta."""
    layer = BatchNorm(3)
    layer.mean.data[...], layer.var.data[...] = [1.0, 0.0, -2.0], [0.2, 3.0, 5.0]
    return Exercise(
        _random(layer),
        _x(2, 3, 4, 3) * [1.0, 2.0, 0.5] + [0.5, -1.0, 2.0],
        (batch_norm_grad,),
        {
            "a sign: the path through the variance is added": ("- xhat * (g * xhat)", "+ xhat * (g * xhat)"),
            "an axis: the mean of g leaves out the width": ("g - g.mean(NHW)", "g - g.mean((0, 1))"),
            "a missing term: no path through the mean": ("(g - g.mean(NHW) - xhat", "(g - xhat"),
        },
    )


def lrn() -> Exercise:
    """LRN: dx."""
    return Exercise(
        LRN(3, alpha=0.5, beta=0.75, k=2.0, divide_by_size=False),
        _x(2, 3, 2, 5),
        (lrn_dx,),
        {
            "a sign: the neighbours add": ("- 2 * alpha", "+ 2 * alpha"),
            "an axis: every channel sees itself only": ("channel_window_sum(dy * x * r / s, size)", "(dy * x * r / s)"),
            "a missing factor: 2": ("- 2 * alpha", "- alpha"),
        },
    )


class CrossEntropy(Layer):
    """The loss as a layer, x the logits (N, K): forward gives the number, backward dy times the kernel's dlogits."""

    def __init__(self, labels: Array, smoothing: float):
        self.labels, self.smoothing = labels, smoothing

    def forward(self, x: Array, mode: Mode) -> tuple[Any, Any]:
        return softmax_cross_entropy(x, self.labels, self.smoothing)[0], None

    def backward(self, dy: Any, x: Array, cache: Any) -> Any:
        return dy * softmax_cross_entropy(x, self.labels, self.smoothing)[1]


def cross_entropy() -> Exercise:
    """Softmax cross-entropy: dlogits. (What the kernel gives as the loss is not looked at.)"""
    return Exercise(
        CrossEntropy(np.array([2, 0, 4, 2]), 0.2),
        _x(4, 5),
        (softmax_cross_entropy,),
        {
            "a sign: q - p": ("e / total - target", "target - e / total"),
            "an axis: the softmax of a column": ("e.sum(1, keepdims=True)", "e.sum(0, keepdims=True)"),
            "a missing division: by the batch": ("(e / total - target) / n)", "(e / total - target))"),
        },
    )


def concat() -> Exercise:
    """Concat.backward: dx and the gradients of its branches."""
    conv = Sequential(ReLU(), Conv2D(2, 2, (1, 3), bias=False))
    return Exercise(
        _random(Concat(a=Conv2D(2, 3, 1, bias=False), b=conv, pool=AvgPool2D(3, stride=1, pad=1))),
        _x(2, 3, 4, 2),
        (Concat.backward,),
        {
            "a sign: every branch gets -dy": (
                "self.branches[name], dy[..., start:stop]",
                "self.branches[name], -dy[..., start:stop]",
            ),
            "an axis: the slices are one channel off": ("        stop = start\n", "        stop = start + 1\n"),
            "a missing term: only one branch's dx": ("cache, dx, need_dx, x_shape)", "cache, None, need_dx, x_shape)"),
        },
    )


def residual() -> Exercise:
    """Residual.backward: dx and the gradients of its body."""
    return Exercise(
        _random(Residual(Conv2D(2, 2, (3, 1), bias=False), scale=0.3)),
        _x(2, 3, 4, 2),
        (Residual.backward,),
        {
            "a sign: the body gets -dy": ("scaled(dy, self.scale)", "scaled(dy, -self.scale)"),
            "the wrong path: the shortcut is scaled too": ("scaled(dy, 1.0)", "scaled(dy, self.scale)"),
            "a missing term: nothing by the shortcut": ("scaled(dy, 1.0)", "scaled(dy, 0.0)"),
        },
    )

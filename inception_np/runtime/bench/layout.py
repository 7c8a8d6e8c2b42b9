"""What PyTorch asks of a layer: its pads for the image at hand, and its weights in their layout."""

from typing import Any

import numpy as np

from ...backend.arrays import Shape
from ...kernels.window import Pads, pads_for
from ...layer import Layer
from ...layers.batchnorm import BatchNorm


def pads_of(layer: Any, shape: Shape) -> Pads:
    """((top, bottom), (left, right)) of a convolution or a pool for an x of this shape, (N, H, W, C)."""
    if hasattr(layer, "kernel"):
        return pads_for(layer.pad, shape[1:3], layer.kernel, layer.stride, layer.dilation)
    return pads_for(layer.pad, shape[1:3], layer.size, layer.stride)


def conv_weight(layer: Any) -> tuple[np.ndarray, int]:
    """(weight, groups): the weight of a convolution as (C_out, C_in / groups, kh, kw)."""
    w = layer.weight.data
    if not hasattr(layer, "groups"):  # depthwise: (kh, kw, C, multiplier), a group for each channel
        kh, kw, channels, multiplier = w.shape
        return w.reshape(kh, kw, 1, channels * multiplier).transpose(3, 2, 0, 1), channels
    return w.transpose(3, 2, 0, 1), layer.groups


def gamma_of(layer: BatchNorm) -> np.ndarray:
    """The scale of a batch norm: ones where it has none."""
    return np.ones_like(layer.beta.data) if layer.gamma is None else layer.gamma.data


def unsupported(layer: Layer) -> ValueError:
    return ValueError(f"bench: got a {type(layer).__name__}, wanted a layer that the rivals have too")

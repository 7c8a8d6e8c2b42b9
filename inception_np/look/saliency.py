"""Which pixels a class hangs on: the gradient of its logit, and the same with rectified gradients.

Near an image x the logit z_c is linear, and its gradient says how much each pixel counts (Simonyan et al. 2014,
"Deep Inside Convolutional Networks", section 3, equations 3 and 4):

    z_c(x + v) = z_c(x) + <g, v> + ...        g = d z_c / d x        saliency[h, w] = max over colours of |g[h, w]|

Guided backpropagation (Springenberg et al. 2015, "Striving for Simplicity", figure 1) lets a gradient
through a ReLU only where it is positive: what would lower the logit by raising a unit is cut off on the way.

    ReLU, y = max(0, x):      backward  dx = dy [x > 0]          guided  dx = dy [x > 0] [dy > 0]

It is the gradient of nothing, but sharp. For a unit that ends in a ReLU, such as ConvBNReLU, the mask [x > 0] is part
of its backward pass, so guiding it is max(dy, 0) before that.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend.arrays import Array, array_module
from ..layer import Layer, of_kind, walk, watch
from ..layers.activation import ReLU
from ..layers.conv import ConvReLU
from ..layers.conv_bn_relu import ConvBNReLU
from .vjp import vjp

RECTIFIED = ReLU, ConvReLU, ConvBNReLU  # the layers whose last operation is a ReLU


def logit_gradient(net: Layer, x: Array, classes: np.ndarray) -> Array:
    """g = d z_c / d x, for each image its own class. x, g: (N, H, W, C). classes: (N,) whole numbers."""
    return vjp(net, x, one_logit(classes))


def guided_backprop(net: Layer, x: Array, classes: np.ndarray) -> Array:
    """`logit_gradient`, guided at every ReLU of ours; a ReLU within a layer of your own stays as it is."""
    rectified = {path for path, layer in [("", net), *walk(net)] if of_kind(layer, *RECTIFIED)}

    def backward(path: str, layer: Layer, call: Callable[..., Any], dy: Array, x: Array, cache: Any) -> Any:
        return call(array_module(dy).maximum(dy, 0))

    with watch(net, backward=backward, only=rectified):
        return logit_gradient(net, x, classes)


def saliency_map(gradient: Array) -> Array:
    """max over the colours of |g|: (N, H, W) of (N, H, W, C)."""
    return abs(gradient).max(-1)


def one_logit(classes: np.ndarray) -> Callable[[Array], Array]:
    """dy for logits (N, classes): 1 at each image's class, and 0 elsewhere."""

    def dy_of(logits: Array) -> Array:
        dy = array_module(logits).zeros_like(logits)
        dy[range(len(dy)), classes] = 1
        return dy

    return dy_of

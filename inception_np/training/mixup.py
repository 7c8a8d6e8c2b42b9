"""Mixup: images are mixed in pairs, and so are their labels. Zhang et al. 2017, arXiv:1710.09412, equation 2.

    x = l x_i + (1 - l) x_j        loss = l loss_i + (1 - l) loss_j        l from Beta(alpha, alpha), one for a batch

The cross-entropy is linear in the labels' probabilities, so that the loss of mixed labels is the mixture of the losses,
and its gradient that of the gradients. j is a random order of the batch.
"""

import operator
from functools import partial
from typing import Any

import numpy as np

from ..backend.arrays import Array, map_tree
from ..backend.device import to_device_of
from ..layers.loss import softmax_cross_entropy, total_loss

Targets = list[tuple[float, Array]]  # (share, labels (N,)); the shares sum to 1, the largest comes first


def mix(x: Array, labels: Array, alpha: float, rng: np.random.Generator) -> tuple[Array, Targets]:
    """A batch (N, H, W, C) and its labels (N,), mixed. x is not changed."""
    share = float(rng.beta(alpha, alpha))
    share = max(share, 1 - share)  # the same mixtures, with the names i and j the other way round
    order = to_device_of(rng.permutation(len(labels)), x)
    return share * x + (1 - share) * x[order], [(share, labels), (1 - share, labels[order])]


def plain_loss(y: Any, targets: Targets) -> Any:
    """The loss of the main logits without label smoothing: what the test loss is, of these images."""
    logits = y[0] if isinstance(y, tuple) else y
    return sum(share * softmax_cross_entropy(logits, labels)[0] for share, labels in targets)


def mixed_loss(y: Any, targets: Targets, aux_weight: float, smoothing: float) -> tuple[Any, Any, Any]:
    """(total loss, that of the main logits alone, gradient): the mixture of what `total_loss` gives for y."""
    total: Any = 0.0
    main: Any = 0.0
    gradient: Any = None
    for share, labels in targets:
        loss, dy = total_loss(y, labels, aux_weight, smoothing)
        own = softmax_cross_entropy(y[0], labels, smoothing=smoothing)[0] if isinstance(y, tuple) else loss
        total, main = total + share * loss, main + share * own
        part = map_tree(partial(operator.mul, share), dy)
        gradient = part if gradient is None else map_tree(operator.add, gradient, part)
    return total, main, gradient

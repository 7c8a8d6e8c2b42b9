"""Softmax cross-entropy."""

from typing import Any

import numpy as np

from ..backend.arrays import Array, array_module
from ..kernels.loss import softmax_cross_entropy as _kernel
from .check import check_between, check_floating


def softmax_cross_entropy(logits: Array, labels: Array, *, smoothing: float = 0.0) -> tuple[Any, Array]:
    """The mean over the batch of the cross-entropy between softmax(logits) and smoothed labels, and its gradient.

        p = exp(z) / sum exp(z)        q[k] = (1 - smoothing) [k = label] + smoothing / K
        loss = -1/N sum_n sum_k q log p        dlogits = (p - q) / N

    The largest logit of each row is subtracted first, which changes nothing but keeps exp within range. Smoothing:
    Szegedy et al. 2016 (Rethinking), section 7.

    logits: (N, K), labels: (N,) integers in [0, K). Returns loss, a number of the logits' dtype (on a GPU an array of
    no axes, of float64), and dlogits (N, K). Raises TypeError for labels that are not integers, ValueError for shapes,
    an empty batch, labels out of range and a smoothing outside [0, 1).
    """
    who = "softmax_cross_entropy"
    check_floating(who, logits)
    if logits.ndim != 2:
        raise ValueError(f"{who}: got logits of shape {logits.shape}, wanted (N, classes)")
    n, k = logits.shape
    if n == 0:
        raise ValueError(f"{who}: got an empty batch {logits.shape}, wanted at least one row of logits")
    xp = array_module(logits)
    labels = np.asarray(labels) if isinstance(labels, (list, tuple)) else labels
    if getattr(getattr(labels, "dtype", None), "kind", None) not in ("i", "u"):
        raise TypeError(f"{who}: got labels of {getattr(labels, 'dtype', type(labels).__name__)}, wanted integers")
    if labels.shape != (n,):
        raise ValueError(f"{who}: got labels of shape {labels.shape}, wanted ({n},)")
    if xp is np and (labels.min() < 0 or labels.max() >= k):  # on a GPU this look would wait for it
        bad = int(np.flatnonzero((labels < 0) | (labels >= k))[0])
        raise ValueError(f"{who}: got label {labels[bad]} at position {bad}, wanted 0 <= label < {k}")
    check_between(who, "smoothing", smoothing, 0, 1)
    return _kernel(logits, labels, float(smoothing))


def total_loss(y: Any, labels: Array, aux_weight: float, smoothing: float) -> tuple[Any, Any]:
    """Loss of the logits plus aux_weight times that of each auxiliary head, in float64, and its gradient.

    y: logits (N, K), or (logits, {"4a": logits, ...}); the gradient has the same structure. On a GPU the loss is an
    array of no axes, and nothing waits for it. GoogLeNet, section 5: "their losses were weighted by 0.3".
    """
    logits, heads = y if isinstance(y, tuple) else (y, {})
    loss, dlogits = softmax_cross_entropy(logits, labels, smoothing=smoothing)
    total, daux = loss.astype(np.float64, copy=False), {}
    for stage, head in heads.items():
        loss, dhead = softmax_cross_entropy(head, labels, smoothing=smoothing)
        total = total + aux_weight * loss.astype(np.float64, copy=False)
        daux[stage] = dhead * aux_weight
    return total, (dlogits, daux) if isinstance(y, tuple) else dlogits

"""Launches of loss.cu; the functions are those of kernels/loss.py."""

import numpy as np

from ...backend.arrays import Array
from ...backend.program import empty
from .launch import BLOCK, launch, tickets


def softmax_cross_entropy(logits: Array, labels: Array, smoothing: float) -> tuple[Array, Array]:
    """One launch, a warp to a row; the loss is an array of no axes, of float64."""
    n, k = logits.shape
    logits = logits if logits.flags.c_contiguous else logits.copy(order="C")
    dlogits, part = empty((n, k), logits.dtype, logits), empty((n,), np.float32, logits)
    loss = empty((), np.float64, logits)
    args = (logits, labels.astype("int32", copy=False), dlogits, part, loss, tickets(1, logits), n, k, smoothing)
    launch("loss.cu", "softmax_cross_entropy", ((n,), (32,)), *args)
    return loss, dlogits


def add_totals(logits: Array, labels: Array, loss: Array, losses: Array, right: Array) -> None:
    """One block, which loops over rows."""
    n, k = logits.shape
    logits = logits if logits.flags.c_contiguous else logits.copy(order="C")
    args = (logits, labels.astype("int32", copy=False), loss, losses, right, n, k)
    launch("loss.cu", "add_totals", ((1,), (1, BLOCK)), *args)

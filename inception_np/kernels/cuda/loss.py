"""Launches of loss.cu; the functions are those of kernels/loss.py."""

import numpy as np

from ...backend.arrays import Array
from ...backend.program import empty
from .launch import BLOCK, launch


def softmax_cross_entropy(logits: Array, labels: Array, smoothing: float) -> tuple[Array, Array]:
    """Two launches, in double inside: a warp to a row."""
    n, k = logits.shape
    logits = logits if logits.flags.c_contiguous else logits.copy(order="C")
    dlogits, losses = empty((n, k), logits.dtype, logits), empty((n,), np.float32, logits)
    loss = empty((), np.float32, logits)
    args = (logits, labels.astype("int32", copy=False), dlogits, losses, n, k, smoothing)
    launch("loss.cu", "softmax_cross_entropy", ((n,), (32,)), *args)
    launch("loss.cu", "mean_loss", ((1,), (32,)), losses, loss, n)
    return loss, dlogits


def add_totals(logits: Array, labels: Array, loss: Array, losses: Array, right: Array) -> None:
    """One block, which loops over rows."""
    n, k = logits.shape
    logits = logits if logits.flags.c_contiguous else logits.copy(order="C")
    args = (logits, labels.astype("int32", copy=False), loss, losses, right, n, k)
    launch("loss.cu", "add_totals", ((1,), (1, BLOCK)), *args)

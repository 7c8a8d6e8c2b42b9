"""Softmax and cross-entropy in one pass, and what a run adds up; the mathematics is in layers/loss.py."""

import numpy as np

from ..backend.arrays import Array, array_module, is_real
from .dispatch import dispatch


@dispatch
def softmax_cross_entropy(logits: Array, labels: Array, smoothing: float) -> tuple[Array, Array]:
    """logits (N, K), labels (N,) integers -> loss, a number, and dlogits (N, K), both for the mean over the batch."""
    xp = array_module(logits)
    n, k = logits.shape
    z = logits.astype(xp.float64) if is_real(logits.dtype) else logits  # two logits may be too far apart for float32
    target = xp.full((n, k), smoothing / k, z.real.dtype)
    target[xp.arange(n), labels] += 1 - smoothing
    shifted = z - z.real.max(1, keepdims=True)  # the largest is 0: exp cannot overflow
    e = xp.exp(shifted)
    total = e.sum(1, keepdims=True)
    loss = -(target * (shifted - xp.log(total))).sum() / n
    return loss.astype(logits.dtype), ((e / total - target) / n).astype(logits.dtype)


@dispatch(cpu=False)
def add_totals(logits: Array, labels: Array, loss: Array, losses: Array, right: Array) -> None:
    """losses += N loss, and right += how many rows of logits (N, K) are largest at their label, in place.

    loss, losses: float64 and right: int64, arrays of no axes. Of equals the first is the largest; so is the first NaN.
    The loss is rounded to float32: then such sums are exact, and a run that was stopped in between has the same.
    """
    losses += loss.astype(np.float32).astype(np.float64) * len(logits)
    right += (logits.argmax(1) == labels).sum()

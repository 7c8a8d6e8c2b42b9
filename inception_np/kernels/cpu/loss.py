"""Softmax and cross-entropy for float32 logits, a row at a time, in double precision inside."""

import math

import numpy as np

from ...backend import Array
from .machine import address, contiguous, kernel, unpack
from .simd import load_float, load_int, store_double, store_float


@kernel
def softmax_rows(part, parts, arguments):
    """dlogits, and each row's loss as a double."""
    logits, labels, losses, dlogits, N, K, smoothing = unpack(arguments, "qqqqqqf")
    rest = 1 - np.float64(smoothing)
    even = np.float64(smoothing) / K
    for n in range(N * part // parts, N * (part + 1) // parts):
        row, to = logits + 4 * n * K, dlogits + 4 * n * K
        label = load_int(labels + 8 * n)
        top = np.float64(load_float(row))  # (Numba's float() of a float32 is one)
        for k in range(1, K):
            v = np.float64(load_float(row + 4 * k))
            if v > top or v != v:
                top = v
        total, plain = 0.0, 0.0
        for k in range(K):
            shifted = np.float64(load_float(row + 4 * k)) - top
            total += math.exp(shifted)
            plain += shifted
        chosen = np.float64(load_float(row + 4 * label)) - top
        log_total = math.log(total)
        loss = log_total - rest * chosen - even * plain
        store_double(losses + 8 * n, loss)
        for k in range(K):
            shifted = np.float64(load_float(row + 4 * k)) - top
            target = even + (rest if k == label else 0.0)
            store_float(to + 4 * k, np.float32((math.exp(shifted) / total - target) / N))


def softmax_cross_entropy(logits: Array, labels: Array, smoothing: float) -> tuple[Array, Array]:
    """One pass over each row, with no array of doubles."""
    logits = contiguous(logits)
    N, K = logits.shape
    labels = np.ascontiguousarray(labels, np.int64)
    if labels.shape != (N,) or labels.min() < 0 or labels.max() >= K:
        raise IndexError(f"softmax_cross_entropy: wanted {N} labels in [0, {K})")
    losses, dlogits = np.empty(N), np.empty((N, K), np.float32)
    softmax_rows(
        address(logits), address(labels), address(losses), address(dlogits), N, K,
        float(smoothing), parts=1 if N * K < 1 << 12 else None,
    )  # fmt: skip
    return np.float32(losses.sum() / N), dlogits

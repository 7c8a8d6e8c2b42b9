"""Softmax cross-entropy with label smoothing, averaged over the batch.

    p = exp(z) / sum exp(z)        q[c] = (1 - smoothing) [c = label] + smoothing / K
    loss = -1/N sum over n and c of q[n, c] log p[n, c]        dloss/dz = (p - q) / N

Label smoothing: Szegedy et al. 2015, "Rethinking", section 7. z: (N, K), labels: (N,) integers.
"""

import math

import numpy as np


def softmax_cross_entropy(z, labels, smoothing=0.0) -> tuple[float, np.ndarray]:
    N, K = z.shape
    loss, dz = 0.0, np.zeros(z.shape)
    for n in range(N):
        largest = max(z[n])  # taken off, so that exp cannot overflow; the quotient does not change
        total = sum(math.exp(v - largest) for v in z[n])
        for c in range(K):
            log_p = z[n, c] - largest - math.log(total)
            q = (1 - smoothing) * (c == labels[n]) + smoothing / K
            loss -= q * log_p / N
            dz[n, c] = (math.exp(log_p) - q) / N
    return loss, dz

"""Batch normalisation, and local response normalisation across channels.

Batch normalisation (Ioffe & Szegedy 2015, Algorithm 1). For every channel, over the M = N H W values of it:

    mean = sum x / M    var = sum (x - mean)^2 / M    xhat = (x - mean) / sqrt(var + eps)    y = gamma xhat + beta

Its backward is written as in the paper's section 3, one line per line of the forward, last line first; the closed
form that a library uses comes out of these by substitution, and is checked against them.

Local response normalisation (Krizhevsky et al. 2012, section 3.3), alpha multiplying the plain sum of squares:

    s[c] = k + alpha * sum of x[j]^2 over |j - c| <= size // 2        y[c] = x[c] * s[c]^-beta
"""

import numpy as np


def _zeros(shape, *like):
    return np.zeros(shape, np.result_type(np.float64, *like))


def moments(x) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of every channel. x: (N, H, W, C) or (N, C); both results: (C,)."""
    mean, var = _zeros(x.shape[-1], x), _zeros(x.shape[-1], x)
    for c in range(x.shape[-1]):
        values = x[..., c].ravel()
        mean[c] = sum(values) / len(values)
        var[c] = sum((v - mean[c]) ** 2 for v in values) / len(values)
    return mean, var


def batch_norm(x, mean, var, gamma, beta, eps) -> np.ndarray:
    """With the mean and variance that are handed in: the batch's own, or the running ones."""
    y = _zeros(x.shape, x)
    for at in np.ndindex(x.shape):
        c = at[-1]
        xhat = (x[at] - mean[c]) / np.sqrt(var[c] + eps)
        y[at] = (1 if gamma is None else gamma[c]) * xhat + beta[c]
    return y


def batch_norm_backward(dy, x, mean, var, gamma, eps, train):
    """(dx, dgamma, dbeta). train: mean and var are functions of x; otherwise they are constants."""
    dx = _zeros(x.shape, x, dy)
    dgamma, dbeta = _zeros(x.shape[-1], x, dy), _zeros(x.shape[-1], x, dy)
    for c in range(x.shape[-1]):
        values, dys = x[..., c].ravel(), dy[..., c].ravel()
        M, sd = len(values), np.sqrt(var[c] + eps)
        dvar = dmean = 0.0
        dxhats = []
        for v, d in zip(values, dys, strict=True):
            dgamma[c] += d * (v - mean[c]) / sd
            dbeta[c] += d
            dxhats.append(d if gamma is None else d * gamma[c])
        for v, d in zip(values, dxhats, strict=True):
            dvar += d * (v - mean[c]) * -0.5 * (var[c] + eps) ** -1.5
        for v, d in zip(values, dxhats, strict=True):
            dmean += -d / sd + dvar * -2 * (v - mean[c]) / M
        if not train:
            dvar = dmean = 0.0
        dxs = [d / sd + dvar * 2 * (v - mean[c]) / M + dmean / M for v, d in zip(values, dxhats, strict=True)]
        dx[..., c] = np.reshape(dxs, dx[..., c].shape)
    return dx, dgamma, dbeta


def running(average, batch, decay) -> np.ndarray:
    """The running average after one batch."""
    return np.array([decay * a + (1 - decay) * b for a, b in zip(average, batch, strict=True)])


def _neighbours(c, channels, size):
    return range(max(0, c - size // 2), min(channels, c + size // 2 + 1))


def lrn(x, size, alpha, beta, k) -> np.ndarray:
    y = _zeros(x.shape, x)
    for *nhw, c in np.ndindex(x.shape):
        a = x[tuple(nhw)]
        s = k + alpha * sum(a[j] * a[j] for j in _neighbours(c, len(a), size))
        y[(*nhw, c)] = a[c] * s**-beta
    return y


def lrn_dx(dy, x, size, alpha, beta, k) -> np.ndarray:
    """From y[c] = x[c] s[c]^-beta and ds[c] / dx[j] = 2 alpha x[j] for every neighbour j of c."""
    dx = _zeros(x.shape, x, dy)
    for *nhw, c in np.ndindex(x.shape):
        a, at = x[tuple(nhw)], (*nhw, c)
        s = k + alpha * sum(a[j] * a[j] for j in _neighbours(c, len(a), size))
        dx[at] += dy[at] * s**-beta
        for j in _neighbours(c, len(a), size):
            dx[(*nhw, j)] += dy[at] * a[c] * -beta * s ** (-beta - 1) * 2 * alpha * a[j]
    return dx

"""Operations without windows: ReLU, ELU, dropout, linear, flatten, concatenation, residual sum."""

import numpy as np


def relu(x) -> np.ndarray:
    """y = 0 where x <= 0, else x, so that NaN stays NaN. Of a complex number the real part decides."""
    y = np.zeros(x.shape, np.result_type(np.float64, x))
    for at in np.ndindex(x.shape):
        if not x[at].real <= 0:
            y[at] = x[at]
    return y


def relu_dx(dy, x) -> np.ndarray:
    """dx = dy where x > 0, else 0: the slope at 0 is taken to be 0."""
    dx = np.zeros(dy.shape, np.result_type(np.float64, dy))
    for at in np.ndindex(dy.shape):
        if x[at].real > 0:
            dx[at] = dy[at]
    return dx


def elu(x) -> np.ndarray:
    """y = x where x > 0, else exp(x) - 1."""
    y = np.zeros(x.shape, np.result_type(np.float64, x))
    for at in np.ndindex(x.shape):
        y[at] = x[at] if x[at].real > 0 else np.exp(x[at]) - 1
    return y


def elu_dx(dy, x) -> np.ndarray:
    """dx = dy where x > 0, else dy exp(x)."""
    dx = np.zeros(dy.shape, np.result_type(np.float64, dy))
    for at in np.ndindex(dy.shape):
        dx[at] = dy[at] if x[at].real > 0 else dy[at] * np.exp(x[at])
    return dx


def dropout(x, mask, rate) -> np.ndarray:
    """y = x / (1 - rate) where the mask keeps it, else 0 (Srivastava et al. 2014, scaled in training).

    It is linear, and symmetric: dx is the same function of dy.
    """
    y = np.zeros(x.shape, np.result_type(np.float64, x))
    for at in np.ndindex(x.shape):
        if mask[at]:
            y[at] = x[at] / (1 - rate)
    return y


def linear(x, w, bias) -> np.ndarray:
    """y[n, o] = bias[o] + sum over i of x[n, i] w[i, o].    x: (N, in). w: (in, out)."""
    y = np.zeros((x.shape[0], w.shape[1]), np.result_type(np.float64, x, w))
    for n, o in np.ndindex(y.shape):
        y[n, o] = sum(x[n, i] * w[i, o] for i in range(w.shape[0]))
        if bias is not None:
            y[n, o] += bias[o]
    return y


def linear_dx(dy, w) -> np.ndarray:
    dx = np.zeros((dy.shape[0], w.shape[0]), np.result_type(np.float64, dy, w))
    for n, i in np.ndindex(dx.shape):
        dx[n, i] = sum(dy[n, o] * w[i, o] for o in range(w.shape[1]))
    return dx


def linear_dw(x, dy) -> np.ndarray:
    dw = np.zeros((x.shape[1], dy.shape[1]), np.result_type(np.float64, x, dy))
    for i, o in np.ndindex(dw.shape):
        dw[i, o] = sum(x[n, i] * dy[n, o] for n in range(x.shape[0]))
    return dw


def linear_dbias(dy) -> np.ndarray:
    return np.array([sum(dy[n, o] for n in range(dy.shape[0])) for o in range(dy.shape[1])])


def flatten(x) -> np.ndarray:
    """(N, H, W, C) to (N, H W C): channels fastest, then columns, then rows."""
    N, H, W, C = x.shape
    y = np.zeros((N, H * W * C), np.result_type(np.float64, x))
    for n, h, w, c in np.ndindex(x.shape):
        y[n, (h * W + w) * C + c] = x[n, h, w, c]
    return y


def flatten_dx(dy, x_shape) -> np.ndarray:
    _, _, W, C = x_shape
    dx = np.zeros(x_shape, np.result_type(np.float64, dy))
    for n, h, w, c in np.ndindex(x_shape):
        dx[n, h, w, c] = dy[n, (h * W + w) * C + c]
    return dx


def concat(*xs) -> np.ndarray:
    """The channels of the first, then of the second, and so on."""
    N, H, W, _ = xs[0].shape
    y = np.zeros((N, H, W, sum(x.shape[3] for x in xs)), np.result_type(np.float64, *xs))
    for n, h, w in np.ndindex(N, H, W):
        c = 0
        for x in xs:
            for value in x[n, h, w]:
                y[n, h, w, c] = value
                c += 1
    return y


def concat_dx(dy, widths) -> list[np.ndarray]:
    """dy's channels dealt out again: one array for every branch."""
    dxs, start = [], 0
    for width in widths:
        dxs.append(np.array(dy[..., start : start + width]))
        start += width
    return dxs


def residual(x, body, scale) -> np.ndarray:
    """y = x + scale * body. Backward: dy goes to x as it is, and to the body times scale."""
    y = np.zeros(x.shape, np.result_type(np.float64, x, body))
    for at in np.ndindex(x.shape):
        y[at] = x[at] + scale * body[at]
    return y

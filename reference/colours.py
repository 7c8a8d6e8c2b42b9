"""Photometric distortions of one picture, one step after another and pixel by pixel."""

from itertools import permutations
from math import cos, pi, sin

import numpy as np

YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])  # NTSC


def distorted(picture, strength, v) -> np.ndarray:
    """A picture (H, W, C) in other light: rounded and clipped to 0..255 after each step. v: five of [0, 1)."""
    x = np.array(picture, np.float64)
    order = list(permutations(range(4)))[int(24 * v[4])]
    for kind in order:
        u = 2 * v[kind] - 1
        if kind < 2 or x.shape[2] == 3:
            x = np.clip(np.round((brightness, contrast, saturation, hue)[kind](x, u, strength)), 0, 255)
    return x


def brightness(x, u, strength) -> np.ndarray:
    """Up to 32 of 255 more or less."""
    return x + 32 * strength * u


def contrast(x, u, strength) -> np.ndarray:
    """Each channel's distance from its mean, times a half to three halves."""
    y = np.zeros_like(x)
    for c in range(x.shape[2]):
        mean = x[:, :, c].mean()
        y[:, :, c] = mean + (1 + strength * u / 2) * (x[:, :, c] - mean)
    return y


def saturation(x, u, strength) -> np.ndarray:
    """Each pixel's distance from the grey of its luminance, times as much."""
    y = np.zeros_like(x)
    for at in np.ndindex(x.shape[:2]):
        grey = YIQ[0] @ x[at]
        y[at] = grey + (1 + strength * u / 2) * (x[at] - grey)
    return y


def hue(x, u, strength) -> np.ndarray:
    """I and Q turned by up to a fifth of a turn."""
    angle = 2 * pi * strength * u / 5
    y = np.zeros_like(x)
    for at in np.ndindex(x.shape[:2]):
        luminance, i, q = YIQ @ x[at]
        turned = (luminance, cos(angle) * i - sin(angle) * q, sin(angle) * i + cos(angle) * q)
        y[at] = np.linalg.solve(YIQ, turned)
    return y

"""Photometric distortions: the same picture in another light. GoogLeNet's (section 6) are Howard's (2013,
arXiv:1312.5402): contrast, brightness and colour change by random amounts, in random order. The amounts here, and the
hue as a fourth, are those that Google published later with its networks (TF-slim, inception_preprocessing.py).

Each of the four is an affine map of the colours c = (R, G, B) in 0..255. With u uniform in [-1, 1) and s the strength:

    brightness    c + 32 s u
    contrast      m + (1 + s u / 2) (c - m)         m: the mean colour of the picture, as it is by then
    saturation    y + (1 + s u / 2) (c - y)         y: the luminance of each pixel, the Y of YIQ
    hue           Y stays, (I, Q) is turned by s u / 5 of a full turn

A chain of them is one affine map, c -> A c + b, and each picture goes through its own once; what comes out is rounded
and clipped at the end. TF-slim changes saturation and hue in HSV, which is not linear: here the saturation is Pillow's,
as Howard used it, and the hue is turned as on a television set. One channel has brightness and contrast alone.
"""

from itertools import permutations

import numpy as np

# NTSC's YIQ. The first row is the luminance and sums to 1, the others sum to 0: greys have no I and no Q.
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
RGB = np.linalg.inv(YIQ)
ORDERS = np.array(list(permutations(range(4))))
Maps = tuple[np.ndarray, np.ndarray]  # A (N, C, C) and b (N, C)


def distort(images: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Each image with other brightness, contrast, saturation and hue. images: (N, H, W, C) uint8; so is the result.

    strength: 1 is TF-slim's, 0 changes nothing. Image n uses the numbers v[n] of v = rng.random((N, 5)): the first four
    are the (1 + u) / 2 of the module's equations, and the last chooses one of the 24 orders.
    """
    count, height, width, channels = images.shape
    matrix, offset = (part.astype(np.float32) for part in colour_maps(means(images), strength, rng))
    planes = np.moveaxis(images, 3, 0).astype(np.float32)
    y = np.empty_like(images)
    for c in range(channels):  # sums of planes, and no matrix product: the same bits with any number of threads
        plane = np.broadcast_to(offset[:, c, None, None], (count, height, width)).copy()
        for d in range(channels):
            plane += matrix[:, c, d, None, None] * planes[d]
        y[..., c] = np.clip(np.rint(plane), 0, 255)
    return y


def means(images: np.ndarray) -> np.ndarray:
    """The mean colour of each image: (N, C) float64."""
    _, height, width, _ = images.shape
    found: np.ndarray = images.sum((1, 2), dtype=np.int64) / (height * width)
    return found


def colour_maps(mean: np.ndarray, strength: float, rng: np.random.Generator) -> Maps:
    """The map of each image, from the mean colours (N, C)."""
    count, channels = mean.shape
    v = rng.random((count, 5))
    u, order = 2 * v[:, :4] - 1, ORDERS[(v[:, 4] * len(ORDERS)).astype(np.intp)]
    matrix, offset = np.tile(np.eye(channels), (count, 1, 1)), np.zeros((count, channels))
    for place in range(4):
        by_then = _transformed(matrix, mean) + offset
        for kind, step in enumerate((brightness, contrast, saturation, hue)):
            n = order[:, place] == kind
            a, b = step(u[n, kind], by_then[n], strength)
            matrix[n], offset[n] = a @ matrix[n], _transformed(a, offset[n]) + b
    return matrix, offset


def brightness(u: np.ndarray, mean: np.ndarray, strength: float) -> Maps:
    """u: (N,), mean: (N, C), as of the three others."""
    return _times(np.ones_like(u), mean), np.zeros_like(mean) + 32 * strength * u[:, None]


def contrast(u: np.ndarray, mean: np.ndarray, strength: float) -> Maps:
    factor = 1 + strength / 2 * u
    return _times(factor, mean), (1 - factor)[:, None] * mean


def saturation(u: np.ndarray, mean: np.ndarray, strength: float) -> Maps:
    if mean.shape[1] == 1:
        return _times(np.ones_like(u), mean), np.zeros_like(mean)
    factor = 1 + strength / 2 * u
    return _times(factor, mean) + (1 - factor)[:, None, None] * YIQ[0], np.zeros_like(mean)


def hue(u: np.ndarray, mean: np.ndarray, strength: float) -> Maps:
    if mean.shape[1] == 1:
        return _times(np.ones_like(u), mean), np.zeros_like(mean)
    angle = 2 * np.pi * strength / 5 * u
    turn = _times(np.ones_like(u), mean)
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    return RGB @ turn @ YIQ, np.zeros_like(mean)


def _times(factor: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """factor (N,) times the identity of as many channels as the means have: (N, C, C)."""
    identity: np.ndarray = factor[:, None, None] * np.eye(mean.shape[1])
    return identity


def _transformed(matrix: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(N, C, C) times (N, C)."""
    found: np.ndarray = (matrix @ colours[:, :, None])[:, :, 0]
    return found

"""Photometric distortions: the same picture in another light. GoogLeNet's (section 6) are Howard's (2013,
arXiv:1312.5402): contrast, brightness and colour change by random amounts, in random order. The amounts here, and the
hue as a fourth, are those that Google published later with its networks (TF-slim, inception_preprocessing.py).

Each of the four is an affine map of the colours c = (R, G, B) in 0..255, c -> A c + b. With u uniform in [-1, 1) and s
the strength:

    brightness    c + 32 s u
    contrast      m + (1 + s u / 2) (c - m)         m: the mean colour of the picture, as it is by then
    saturation    y + (1 + s u / 2) (c - y)         y: the luminance of each pixel, the Y of YIQ
    hue           Y stays, (I, Q) is turned by s u / 5 of a full turn

After each the colours are rounded and clipped, as Pillow's are, which Howard used. Without that the order would not
matter: these four commute. TF-slim changes saturation and hue in HSV, which is no affine map; here the saturation is
Pillow's, and the hue is turned as on a television set. Pictures of one channel have brightness and contrast alone.
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
    v = rng.random((len(images), 5))
    u, order = 2 * v[:, :4] - 1, ORDERS[(v[:, 4] * len(ORDERS)).astype(np.intp)]
    y = images.copy()
    for place in range(4):
        for kind, step in enumerate((brightness, contrast, saturation, hue)):
            n = np.flatnonzero(order[:, place] == kind)
            y[n] = transformed(y[n], *step(u[n, kind], y[n], strength))
    return y


def transformed(images: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Each image's colours by its own map, rounded and clipped. uint8 in and out.

    In sums of planes, and no matrix product: the same bits with any number of threads.
    """
    matrix, offset = matrix.astype(np.float32), offset.astype(np.float32)
    channels = np.moveaxis(images, 3, 0).astype(np.float32)
    y = np.empty_like(images)
    for c in range(len(channels)):
        plane = sum(matrix[:, c, d, None, None] * channels[d] for d in range(len(channels)))
        y[..., c] = np.clip(np.rint(plane + offset[:, c, None, None]), 0, 255)
    return y


def brightness(u: np.ndarray, images: np.ndarray, strength: float) -> Maps:
    """The maps of these images, as of the three others. u: (N,)."""
    matrix, offset = unchanged(images)
    return matrix, offset + 32 * strength * u[:, None]


def contrast(u: np.ndarray, images: np.ndarray, strength: float) -> Maps:
    factor = 1 + strength / 2 * u
    _, height, width, _ = images.shape
    mean = images.sum((1, 2), dtype=np.int64) / (height * width)
    return factor[:, None, None] * unchanged(images)[0], (1 - factor)[:, None] * mean


def saturation(u: np.ndarray, images: np.ndarray, strength: float) -> Maps:
    matrix, offset = unchanged(images)
    if len(offset.T) == 3:
        factor = (1 + strength / 2 * u)[:, None, None]
        matrix = factor * matrix + (1 - factor) * YIQ[0]
    return matrix, offset


def hue(u: np.ndarray, images: np.ndarray, strength: float) -> Maps:
    matrix, offset = unchanged(images)
    if len(offset.T) == 3:
        angle = 2 * np.pi * strength / 5 * u
        matrix[:, 1, 1] = matrix[:, 2, 2] = np.cos(angle)
        matrix[:, 1, 2], matrix[:, 2, 1] = -np.sin(angle), np.sin(angle)
        matrix = RGB @ matrix @ YIQ
    return matrix, offset


def unchanged(images: np.ndarray) -> Maps:
    """The maps that change nothing."""
    count, _, _, channels = images.shape
    return np.tile(np.eye(channels), (count, 1, 1)), np.zeros((count, channels))

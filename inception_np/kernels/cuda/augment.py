"""Launches of augment.cu: batches made on the GPU, with the bits of `augment` and `normalise` in data/batches.py."""

import numpy as np

from ...backend.arrays import Array
from .launch import elements, launch


def choices(
    index: np.ndarray,
    plane: tuple[int, int],
    pad: int,
    cutout: int,
    rng: np.random.Generator | None,
    mirrored: np.ndarray | None = None,
) -> np.ndarray:
    """(N, 6) int32: the image, the crop's row and column, whether it is mirrored, and the row and column where the
    square is cut out, drawn as data.batches.augment does for images of H, W = plane.

    rng=None takes the images as they are. mirrored: as data.batches.augment takes it.
    """
    choice = np.empty((len(index), 6), np.int32)
    choice[:, 0], choice[:, 1:3], choice[:, 3], choice[:, 4:] = index, pad, 0, plane
    if rng is not None:
        u = rng.random((len(index), 3))
        choice[:, 1:3] = u[:, :2] * (2 * pad + 1)
        choice[:, 3] = u[:, 2] < 0.5 if mirrored is None else mirrored
    if rng is not None and cutout:
        choice[:, 4:] = (rng.random((len(index), 2)) * plane).astype(np.int32) - cutout // 2
    return choice


def augment(
    images: Array,
    labels: Array,
    choice: Array,
    colours: tuple[Array, Array, Array],
    pad: int,
    cutout: int,
    x: Array,
    chosen: Array,
) -> None:
    """Write a batch into x (N, H, W, C) and its labels into chosen (N,) int32.

    images: (.., H, W, C) uint8, labels: (..,) int32, choice: (N, 6) int32. colours: mean, 1 / std, and the border's
    colour as uint8, each (C,).
    """
    args = (images, labels, choice, *colours, x, chosen, *x.shape, pad, cutout)
    launch("augment.cu", "augment", elements(x.size), *args)

"""From images to the batches that a network is trained on: their order, crops, mirror images and normalisation.

Images are uint8, (N, H, W, C), and become float32 a batch at a time. What is random is drawn from streams (random.py).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from ..backend.arrays import Array, array_module
from ..backend.device import to_device_of
from .random import stream


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, H, W, C) uint8 images, by counting."""
    values = np.arange(256)
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        means.append(mean)
        stds.append(max(variance**0.5, 1.0))
    return tuple(means), tuple(stds)


def normalise(images: Array, mean: Sequence[float], std: Sequence[float], dtype: type = np.float32) -> Array:
    """(image - mean) / std per channel. uint8 (N, H, W, C) in, `dtype` of the same shape out, on their device."""
    x = images.astype(dtype)
    x -= to_device_of(np.asarray(mean, dtype), x)
    x *= to_device_of(1 / np.asarray(std, dtype), x)
    return x


def augment(
    images: np.ndarray,
    pad: int,
    fill: Sequence[float],
    rng: np.random.Generator,
    *,
    cutout: int = 0,
    mirrored: np.ndarray | None = None,
) -> np.ndarray:
    """A random crop of each image with a border of `pad` pixels, mirrored half of the time, a square cut out of it.

    images: (N, H, W, C) uint8; so is the result. The border has the colour `fill`, (C,). Image n uses the numbers u[n]
    of u = rng.random((N, 3)): it is taken from row floor(u0 (2 pad + 1)) and column floor(u1 (2 pad + 1)) of the
    bordered image, and mirrored where u2 < 1/2. mirrored: (N,) bool, the images to mirror instead; the same numbers are
    drawn. Cutout (DeVries & Taylor 2017, section 3.2): then v = rng.random((N, 2)), and the square of `cutout` pixels
    around row floor(v0 H) and column floor(v1 W) gets the colour `fill`. It may hang over the edge.
    """
    count, height, width, channels = images.shape
    u = rng.random((count, 3))
    top, left = (u[:, :2] * (2 * pad + 1)).astype(np.intp).T
    bordered = np.empty((count, height + 2 * pad, width + 2 * pad, channels), np.uint8)
    bordered[...] = colour = np.rint(fill).astype(np.uint8)
    bordered[:, pad : pad + height, pad : pad + width] = images
    columns = np.arange(width)
    mirrored = u[:, 2] < 0.5 if mirrored is None else mirrored
    columns = np.where(mirrored[:, None], columns[::-1], columns) + left[:, None]
    rows = np.arange(height) + top[:, None]
    crops: np.ndarray = bordered[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    if cutout:
        top, left = (rng.random((count, 2)) * (height, width)).astype(np.intp).T - cutout // 2
        for crop, h, w in zip(crops, top, left, strict=True):
            crop[max(h, 0) : max(h + cutout, 0), max(w, 0) : max(w + cutout, 0)] = colour
    return crops


@lru_cache(maxsize=1)
def alternating(count: int, seed: int, epoch: int) -> np.ndarray:
    """Which of `count` images are mirrored in an epoch, counted from 0: (count,) bool, read-only.

    Alternating flip (Jordan 2024, arXiv:2404.00498): the first epoch mirrors each image with probability 1/2, drawn
    from the seed; every later epoch mirrors those images that the epoch before it did not.
    """
    mirrored = (stream(seed, "mirror").random(count) < 0.5) ^ (epoch % 2 == 1)
    mirrored.flags.writeable = False  # the cache hands the same array out again
    return mirrored


def views(images: Array) -> Iterator[tuple[float, Array]]:
    """Six (weight, views of the images) for test-time augmentation; the weights sum to 1.

    images: (N, H, W, C), H and W at least 2; each view has their shape and dtype. The images and their mirror images
    weigh 1/4 each. With a border of one pixel, filled by reflection, the crops at (0, 0) and (2, 2) and their mirror
    images weigh 1/8 each. Jordan 2024 (arXiv:2404.00498), multi-crop evaluation. Raises ValueError for images of one
    pixel along an axis, which cannot be reflected.
    """
    _, height, width, _ = images.shape
    if min(height, width) < 2:
        raise ValueError(f"views: got images of {height}x{width}, wanted 2x2 or more; evaluate them without tta")
    bordered = array_module(images).pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    crops = (bordered[:, at : at + height, at : at + width] for at in (0, 2))
    for weight, view in ((1 / 4, images), *((1 / 8, crop) for crop in crops)):
        yield weight, view
        yield weight, view[:, :, ::-1]


def batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """The order of one epoch: indices of `count` images in random batches of `batch_size`.

    The images left over at the end make no batch (a single image would have no batch statistics); the order differs
    from epoch to epoch, so that none is left out for long. It follows from the seed and the epoch alone.
    """
    order = stream(seed, "shuffle", epoch).permutation(count)
    size = min(batch_size, count)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def held_out(labels: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(indices for training, indices for testing) of a set that has no test images of its own: always the same ones.

    Of each class one tenth, at least one image, is for testing; both parts are in random order. where: the set, as
    errors call it. Raises ValueError for a class with a single image, which cannot be on both sides.
    """
    order = stream(0, "heldout").permutation(len(labels))
    for_testing = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        if len(of_class) < 2:
            raise ValueError(
                f"{where}: class {label} has one image, wanted 2 or more: one of ten is held out for testing"
            )
        for_testing[of_class[: max(1, len(of_class) // 10)]] = True
    return order[~for_testing[order]], order[for_testing[order]]

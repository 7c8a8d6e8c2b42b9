"""shapes10: ten shapes as inequalities, drawn here, so that there is something to train on without a download."""

from collections.abc import Callable

import numpy as np

from ..backend.arrays import Array
from .random import stream

# Each function gives the signed distance (negative inside) of the points x, y from a shape that fills a circle of
# radius 1. Intersections of shapes are maxima, unions are minima.


def _disc(x: Array, y: Array, radius: float = 0.85) -> Array:
    return np.hypot(x, y) - radius


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    return np.maximum(abs(x) - half_width, abs(y) - half_height)


def _star(x: Array, y: Array) -> Array:
    """Folded onto a tenth of the star, where its edge is one line from the tip to a notch."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    angle = abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    notch_x, notch_y = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
    length = np.hypot(1 - notch_x, notch_y)
    along, across = radius * np.cos(angle) - 1, radius * np.sin(angle)
    return (along * notch_y + across * (1 - notch_x)) / length


def _heart(x: Array, y: Array) -> Array:
    """A square with a disc on each of two sides that meet."""
    x, y = x + 0.2, y + 0.2
    return np.minimum(_box(x, y, 0.52, 0.52), np.minimum(_disc(x - 0.52, y, 0.52), _disc(x, y - 0.52, 0.52)))


def _arrow(x: Array, y: Array) -> Array:
    shaft = _box(x + 0.45, y, 0.55, 0.17)
    head = np.maximum(-x, (x + abs(y) - 1) * np.sqrt(0.5))
    return np.minimum(shaft, head)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.72) - 0.2,
    "half disc": lambda x, y: np.maximum(_disc(x, y + 0.4, 0.95), -(y + 0.4)),
    "triangle": lambda x, y: np.maximum(abs(x) * np.sqrt(0.75) - 0.5 * y, y) - 0.5,
    "square": lambda x, y: _box(x, y, 0.74, 0.74),
    "bar": lambda x, y: _box(x, y, 1.0, 0.28),
    "cross": lambda x, y: np.minimum(_box(x, y, 1.0, 0.26), _box(x, y, 0.26, 1.0)),
    "star": _star,
    "heart": _heart,
    "arrow": _arrow,
}

SHAPES10_CHUNK = 1000
SHAPES10_MOST = 1_000_000  # images of which it has no end: 3 GB


def shapes10(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images of an endless data set: (count, 32, 32, 3) uint8, labels int64.

    Each image shows one of the ten SHAPES in a random colour, size, place and rotation before a background that runs
    from one random colour to another, under random noise. Shape and background have the same distribution of colours,
    so that the mean image of every class is the same grey and a linear model has nothing to go by. split: "train" or
    "test"; their images differ, and do not depend on the seed of a training run.
    """
    chunks = [
        _draw_shapes(stream(("train", "test").index(split), "shapes10", number))
        for number in range(-(-count // SHAPES10_CHUNK))
    ]
    images = np.concatenate([chunk[0] for chunk in chunks])[:count]
    return images, np.concatenate([chunk[1] for chunk in chunks])[:count]


def _draw_shapes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One chunk: as many images of each shape, in random order."""
    n, size = SHAPES10_CHUNK, 32
    labels = rng.permutation(np.arange(n) % len(SHAPES))

    def draw(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (n, *shape, 1, 1)).astype(np.float32)

    radius = draw(10.0, 15.0)
    reach = size / 2 - radius  # the centre stays so near to the middle that no shape is cut off
    centre_x, centre_y = reach * draw(-1, 1), reach * draw(-1, 1)
    angle = draw(0, 2 * np.pi)
    pixels = np.arange(size, dtype=np.float32) - (size - 1) / 2
    across, down = (pixels - centre_x) / radius, (pixels[:, None] - centre_y) / radius
    x = np.cos(angle) * across + np.sin(angle) * down
    y = np.cos(angle) * down - np.sin(angle) * across

    covered = np.empty((n, size, size), np.float32)  # the part of each pixel inside the shape
    for label, distance in enumerate(SHAPES.values()):
        mine = labels == label
        covered[mine] = np.clip(0.5 - distance(x[mine], y[mine]) * radius[mine], 0, 1)

    # Background: one colour to another along a random direction. Shape: of eight colours the one
    # that stands out most against both.
    first, second = draw(0, 1, 3), draw(0, 1, 3)
    candidates = rng.uniform(0, 1, (n, 8, 3)).astype(np.float32)
    contrast = np.minimum(
        np.linalg.norm(candidates - first[:, None, :, 0, 0], axis=2),
        np.linalg.norm(candidates - second[:, None, :, 0, 0], axis=2),
    )
    colour = candidates[np.arange(n), contrast.argmax(1)][:, :, None, None]
    direction = draw(0, 2 * np.pi)
    slope = (np.cos(direction) * pixels + np.sin(direction) * pixels[:, None]) / size
    mix = np.clip(0.5 + 0.7 * slope, 0, 1)[:, None]
    covered = covered[:, None]
    image = first + mix * (second - first)  # (n, 3, 32, 32)
    image += covered * (colour - image)
    image += draw(0, 0.06)[:, None] * rng.standard_normal(image.shape, np.float32)
    image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1)), labels

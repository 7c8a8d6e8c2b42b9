"""The images that are looked at: the user's own, those that tested the checkpoint's run, or drawn shapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend.errors import RefusedError, UsageError, explained
from ..data.batches import normalise
from ..data.preprocess import Preprocess, open_image, prepare
from ..data.shapes10 import shapes10
from ..data.streams import say
from ..models.network import Network
from ..training.checkpoint_commands import test_images
from ..training.predict import preprocess_for

FEW = 4  # images of a data set that are shown
SAMPLE = 64  # images of it that are counted over
MOST = 8  # images that are shown


@dataclass(frozen=True)
class Images:
    """x: (N, H, W, C) float32, as the network takes them; of those the first `shown` are drawn. names: of the shown.
    labels: their classes' numbers, -1 where nobody knows. how: what was done to their pixels. source: in words."""

    x: np.ndarray
    shown: int
    names: list[str]
    labels: list[int]
    how: Preprocess
    source: str

    def pixels(self, x: np.ndarray) -> np.ndarray:
        """What the network takes as pixels in 0..1, (..., C) with red first."""
        mean, std = (np.asarray(values, np.float32) for values in (self.how.mean, self.how.std))
        pixels: np.ndarray = np.clip((x * std + mean) / 255, 0, 1)
        return pixels[..., ::-1] if self.how.bgr else pixels

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Black and white as the network takes them, per channel."""
        mean, std = (np.asarray(values, np.float32) for values in (self.how.mean, self.how.std))
        return -mean / std, (255 - mean) / std


def images_for(net: Network, about: dict[str, Any], checkpoint: str, paths: Sequence[str]) -> Images:
    """The images in the files `paths`; without any, a few of the checkpoint's test images, or drawn shapes.

    Raises UsageError for more than MOST, ValueError for a file that is no picture, naming it.
    """
    if len(paths) > MOST:
        raise UsageError(f"IMAGE: got {len(paths)}, wanted at most {MOST}; leave some out")
    how = preprocess_for(net, about)
    if paths:
        x = np.stack([next(prepare(open_image(path, len(how.mean)), how)) for path in paths])
        return Images(x, len(x), list(paths), [-1] * len(x), how, "your images")
    try:
        data, mean, std = test_images(checkpoint, net, about)
    except (UsageError, RefusedError, ValueError, OSError) as error:
        if "data" in about:
            say(f"{explained(error)} (drawn shapes are shown instead)")
        return _shapes(how)
    images, labels = data.test_images[:SAMPLE], data.test_labels[:SAMPLE]
    order = _one_of_each(labels)
    x, labels = normalise(images[order], mean, std), labels[order]
    few = min(FEW, len(x))
    how = Preprocess(x.shape[1:3], mean=mean, std=std)
    names = [data.classes[label] for label in labels[:few]]
    return Images(x, few, names, [int(label) for label in labels[:few]], how, f"test images of {data.name}")


def _shapes(how: Preprocess) -> Images:
    """Shapes that are drawn here, brought to the network's size."""
    from PIL import Image

    pixels, labels = shapes10("test", SAMPLE)
    chosen = _one_of_each(labels)[:FEW]
    pictures = [Image.fromarray(pixels[i]) for i in chosen]
    x = np.stack([next(prepare(p if len(how.mean) == 3 else p.convert("L"), how)) for p in pictures])
    return Images(x, len(x), [f"shape {i + 1}" for i in range(len(x))], [-1] * len(x), how, "drawn shapes")


def _one_of_each(labels: np.ndarray) -> np.ndarray:
    """The order of the images in which the first one of every class comes first."""
    first = np.sort(np.unique(labels, return_index=True)[1])
    return np.concatenate([first, np.setdiff1d(np.arange(len(labels)), first)])

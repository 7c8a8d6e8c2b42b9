"""The data sets by their names: `shapes10`, which is drawn here, and `cifar10`, read from its official binary files.

Images are kept as uint8, (N, H, W, 3); labels are int64, (N,).
"""

import os
from dataclasses import dataclass

import numpy as np

from ..backend.errors import UsageError, nearest
from .batches import channel_statistics
from .cifar10 import CIFAR10_CLASSES, cifar10
from .shapes10 import SHAPES, SHAPES10_MOST, shapes10

NAMES = ["shapes10", "cifar10"]
IMAGE = (32, 32, 3)  # of both
# How many images there are, unless fewer are asked for, or more of shapes10, which has no end.
TRAIN_IMAGES = {"shapes10": 5_000, "cifar10": 50_000}
TEST_IMAGES = {"shapes10": 2_000, "cifar10": 10_000}


@dataclass(frozen=True)
class Dataset:
    """Training and test images, and what making batches of them takes."""

    name: str
    classes: tuple[str, ...]
    train_images: np.ndarray  # (N, H, W, 3) uint8
    train_labels: np.ndarray  # (N,) int64
    test_images: np.ndarray
    test_labels: np.ndarray
    pad: int  # training crops are taken from images with a border of so many pixels
    mean: tuple[float, ...]  # per channel of the training images, in units of 0 .. 255
    std: tuple[float, ...]


def load(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    train: int | None = None,
    test: int | None = None,
    subset: bool = False,
) -> Dataset:
    """The data set of that name; of its images only the first `train` and `test` if given.

    folder: where the files are (cifar10; without it they are looked for, and put, in the user's cache folder). subset:
    accept copies with fewer images than the official files. Raises UsageError for an unknown name and for more images
    than there are, ValueError for a broken file, OSError for a missing one.
    """
    check_request(name, train, test)
    if name == "shapes10":
        classes, pad = tuple(SHAPES), 2
        train_set = shapes10("train", TRAIN_IMAGES[name] if train is None else train)
        test_set = shapes10("test", TEST_IMAGES[name] if test is None else test)
    else:
        classes, pad = CIFAR10_CLASSES, 4
        train_set, test_set = cifar10(folder, subset=subset)
        for option, count, (_, labels) in (("--train-images", train, train_set), ("--test-images", test, test_set)):
            if count is not None and count > len(labels):
                raise UsageError(f"{option}: got {count}; {name} has {len(labels)}")
        train_set = (train_set[0][:train], train_set[1][:train])
        test_set = (test_set[0][:test], test_set[1][:test])
    mean, std = channel_statistics(train_set[0])
    return Dataset(name, classes, *train_set, *test_set, pad, mean, std)


def check_request(name: str, train: int | None, test: int | None) -> None:
    """Raise UsageError for an unknown data set, and for a number of images that no data set has."""
    if name not in NAMES:
        raise UsageError(f"--data: there is no data set {name!r}; {nearest(name, NAMES)}")
    for option, count in (("--train-images", train), ("--test-images", test)):
        if count is not None and count < 1:
            raise UsageError(f"{option}: got {count}; give at least one image")
        if count is not None and count > SHAPES10_MOST and name == "shapes10":
            raise UsageError(f"{option}: got {count}; {name} gives at most {SHAPES10_MOST:,}")

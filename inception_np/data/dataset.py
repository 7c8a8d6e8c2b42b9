"""The data sets by their names, and how one of your own joins them.

    shapes10                drawn here (shapes10.py)
    cifar10 cifar100        read from their official files (cifar10.py)
    mnist fashion_mnist     the same (idx.py)
    digits                  the one that comes with scikit-learn (digits.py)
    folder                  photographs, in a folder for each class (photographs.py)
    npz                     arrays in a file (npz.py)
    FILE.py:FUNCTION        what your function returns, a Dataset

Images are kept as uint8, (N, H, W, C); labels are int64, (N,).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..backend.errors import RefusedError, UsageError, explained, nearest
from ..backend.user_file import module_of
from .batches import channel_statistics
from .cifar10 import CIFAR10_CLASSES, CIFAR100_CLASSES, cifar10, cifar100
from .digits import digits
from .idx import CLOTHES, DIGITS, mnist
from .npz import npz
from .photographs import Photographs, folder
from .shapes10 import SHAPES, SHAPES10_MOST, shapes10

IN_MEMORY = 2 << 30  # bytes of photographs that are read into memory at once; more are read in the first epoch
SAMPLE = 10_000  # of those, so many give the mean and the standard deviation


@dataclass(frozen=True)
class Dataset:
    """Training and test images, and what making batches of them takes.

    Your own function needs the first six; `load` fills in the mean and the standard deviation.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Any  # (N, H, W, C) uint8, C 1 or 3: an array, or Photographs
    train_labels: np.ndarray  # (N,) int64
    test_images: Any
    test_labels: np.ndarray
    pad: int = 4  # training crops are taken from images with a border of so many pixels
    mean: tuple[float, ...] = ()  # per channel of the training images, in units of 0 .. 255
    std: tuple[float, ...] = ()
    mirrored: bool = True  # whether an image may be mirrored and still be of its class

    @property
    def size(self) -> "Size":
        return Size(self.train_images.shape[1:], len(self.classes), len(self.train_labels), len(self.test_labels))


class Size(NamedTuple):
    """What a network has to fit: the shape of an image, the number of classes, and how many images there are."""

    image: tuple[int, int, int]
    classes: int
    train: int
    test: int


# Those that are known before anything is read; more of shapes10 can be drawn, which has no end.
KNOWN = {
    "shapes10": Size((32, 32, 3), 10, 5_000, 2_000),
    "cifar10": Size((32, 32, 3), 10, 50_000, 10_000),
    "cifar100": Size((32, 32, 3), 100, 50_000, 10_000),
}
Source = Callable[[str | None, int], Dataset]


def _idx(name: str, classes: tuple[str, ...], mirrored: bool, where: str | None, _: int) -> Dataset:
    train, test = mnist(where, name)
    return Dataset(name, classes, *train, *test, mirrored=mirrored)


def _digits(*_: Any) -> Dataset:
    train, test = digits()
    return Dataset("digits", DIGITS, *train, *test, mirrored=False)


def _folder(where: str | None, size: int) -> Dataset:
    classes, train, test = folder(where, size)
    return Dataset("folder", classes, *train, *test, pad=size // 8)


def _npz(where: str | None, _: int) -> Dataset:
    if where is None:
        raise UsageError("--data-dir: none given, wanted a file such as mine.npz; add it")
    names, train, test = npz(where)
    most = min(int(train[1].max(initial=0)), len(train[1]))  # a label beyond the number of images is refused
    numbers = tuple(str(n) for n in range(most + 1))
    return Dataset("npz", numbers if names is None else names, *train, *test, pad=train[0].shape[1] // 8)


# Sources take what --data-dir says, or None, and the height and width of the images that the network was made for,
# which those with images of one size pass over.
SOURCES: dict[str, Source] = {
    "mnist": partial(_idx, "mnist", DIGITS, False),
    "fashion_mnist": partial(_idx, "fashion_mnist", CLOTHES, True),
    "digits": _digits,
    "folder": _folder,
    "npz": _npz,
}


def known_names() -> list[str]:
    """The data sets that `load` knows."""
    return [*KNOWN, *SOURCES]


def register(name: str, function: Source) -> None:
    """Let `name` be a data set: the Dataset that function(folder, size) returns.

    folder: what --data-dir says, or None. size: height and width of the images that the network was made for, which a
    set with images of another size passes over. Raises ValueError for a name that is taken, or that is no name.
    """
    if name in known_names():
        raise ValueError(f"register: {name!r} is taken; choose another name")
    if not name.isidentifier():
        raise ValueError(f"register: got {name!r}, wanted letters, digits and underscores")
    SOURCES[name] = function


def load(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    train: int | None = None,
    test: int | None = None,
    subset: bool = False,
    size: int = 32,
) -> Dataset:
    """The data set of that name; of its images only the first `train` and `test` if given.

    folder: where the files are (npz: the file; cifar10, cifar100, mnist and fashion_mnist: without it they are looked
    for, and put, in the user's cache folder). subset: accept copies of CIFAR with fewer images than the official files.
    size: height and width that photographs are brought to. Raises UsageError for an unknown name and for more images
    than there are, ValueError for a broken file and for what is no data set, OSError for a missing file.
    """
    check_request(name, train, test)
    where = None if folder is None else os.fspath(folder)
    if name == "shapes10":
        counts = (KNOWN[name].train if train is None else train, KNOWN[name].test if test is None else test)
        data = Dataset(name, tuple(SHAPES), *shapes10("train", counts[0]), *shapes10("test", counts[1]), pad=2)
    elif name in KNOWN:
        read, classes = (cifar10, CIFAR10_CLASSES) if name == "cifar10" else (cifar100, CIFAR100_CLASSES)
        training, testing = read(where, subset=subset)
        data = Dataset(name, classes, *training, *testing)
    else:
        data = checked(_own(name, where, size), where or name)
    for option, count, labels in (
        ("--train-images", train, data.train_labels),
        ("--test-images", test, data.test_labels),
    ):
        if count is not None and count > len(labels):
            raise UsageError(f"{option}: got {count}; {name} has {len(labels)}")
    train_images, test_images = _first(data.train_images, train), _first(data.test_images, test)
    if isinstance(train_images, Photographs) and isinstance(test_images, Photographs):
        fits = train_images.nbytes + test_images.nbytes <= IN_MEMORY
        train_images, test_images = (part[:] if fits else part.keep() for part in (train_images, test_images))
    mean, std = data.mean, data.std
    if not mean:
        every = -(-len(train_images) // SAMPLE) if isinstance(train_images, Photographs) else 1
        mean, std = channel_statistics(train_images[::every])
    kept = train_images, data.train_labels[:train], test_images, data.test_labels[:test]
    return Dataset(name, data.classes, *kept, data.pad, mean, std, data.mirrored)


def check_request(name: str, train: int | None, test: int | None) -> None:
    """Raise UsageError for an unknown data set, and for a number of images that no data set has."""
    if name not in known_names() and not runs_code(name):
        raise UsageError(f"--data: there is no data set {name!r}; {nearest(name, known_names())}")
    for option, count in (("--train-images", train), ("--test-images", test)):
        if count is not None and count < 1:
            raise UsageError(f"{option}: got {count}; give at least one image")
        if count is not None and count > SHAPES10_MOST and name == "shapes10":
            raise UsageError(f"{option}: got {count}; {name} gives at most {SHAPES10_MOST:,}")


def runs_code(name: str) -> bool:
    """Whether the name is FILE.py:FUNCTION, whose code runs: to be believed from a user only, never from a file."""
    file, _, function = str(name).rpartition(":")
    return file.endswith(".py") and function.isidentifier()


def _own(name: str, where: str | None, size: int) -> Dataset:
    """What a source returns."""
    if name in SOURCES:
        return SOURCES[name](where, size)
    file, _, function = name.rpartition(":")
    found = getattr(module_of(file, "--data"), function, None)
    if not callable(found):
        raise UsageError(f"--data: {file} has no function {function!r}; write def {function}(folder, size)")
    try:
        data = found(where, size)
    except (UsageError, RefusedError, OSError, MemoryError):
        raise
    except Exception as error:  # the user's own code
        raise ValueError(f"--data: {name}: {type(error).__name__}: {explained(error)}") from error
    if not isinstance(data, Dataset):
        raise ValueError(f"--data: {name}: got a {type(data).__name__}, wanted an inception_np.data.dataset.Dataset")
    return data


def checked(data: Dataset, where: str) -> Dataset:
    """The data set, if it is one: images and labels that fit each other, and two classes or more, none without images.

    where: how errors call it. Raises ValueError of one line otherwise.
    """
    classes = [str(name) for name in data.classes]
    if len(classes) < 2:
        raise ValueError(f"{where}: {len(classes)} class, wanted 2 or more to tell apart")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise ValueError(f"{where}: two classes are called {twice!r}; name each once")
    shape = data.train_images.shape[1:]
    for part, images, labels in (
        ("training", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
            raise ValueError(
                f"{where}: {part} images: {images.dtype} of shape {tuple(images.shape)}, wanted uint8 of shape "
                "(N, H, W, 1) or (N, H, W, 3), one image or more"
            )
        if images.shape[1:] != shape:
            raise ValueError(f"{where}: test images of shape {images.shape[1:]}, wanted {shape} as those for training")
        if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
            raise ValueError(
                f"{where}: {part} labels: {labels.dtype} of shape {labels.shape}, wanted whole numbers of shape "
                f"({len(images)},), one for each image"
            )
        bad = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if len(bad):
            raise ValueError(
                f"{where}: {part} label {bad[0]} is {labels[bad[0]]}, wanted a number from 0 to {len(classes) - 1}, "
                "one for each class"
            )
    missing = np.setdiff1d(np.arange(len(classes)), data.train_labels)
    if len(missing):
        raise ValueError(
            f"{where}: no training image of class {missing[0]} ({classes[missing[0]]}); number the classes without gaps"
        )
    train_labels, test_labels = (labels.astype(np.int64) for labels in (data.train_labels, data.test_labels))
    return replace(data, classes=tuple(classes), train_labels=train_labels, test_labels=test_labels)


def _first(images: Any, count: int | None) -> Any:
    return images.first(count) if isinstance(images, Photographs) else images[:count]

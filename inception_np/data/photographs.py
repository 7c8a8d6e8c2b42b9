"""Photographs in folders, one for each class, read by threads ahead of the training step.

    DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg (or DIR/test/CLASS/*.jpg)
    DIR/CLASS/*.jpg                                 of each class one tenth is held out for testing

`Photographs` is indexed like an array of images and reads the files that are asked for. `ahead` goes through the
batches of an epoch and has the next ones read meanwhile. Which pixels come does not depend on it, nor on the number of
threads: that is only a matter of when.

Reading takes the cores that the network wants too: 0.6 ms for a JPEG file of 500x400, where a step of a `_cifar`
network takes some 6 ms of a core for an image. So `load` keeps what is read, in memory if it fits, or in a file.
"""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .batches import held_out
from .files import scratch
from .preprocess import Preprocess, centre_crop, open_image
from .random import stream
from .streams import say

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CLUTTER = ("thumbs.db", "desktop.ini")  # beside names that begin with a dot
FINER = 2  # a JPEG file is read at no less than so many times the size it is brought to
LONGEST = 100  # one side over the other: beyond that no picture is meant
TOGETHER = 8  # files that a thread reads in one go
AHEAD = 2  # batches that are read while the network is busy with another
Part = tuple["Photographs", np.ndarray]  # images and labels
Index = Any  # what an array of images is indexed by: an int, a slice, (n,) ints
Reading = tuple[Index, np.ndarray, list[Future[None]]]  # the images of an index, and what fills them


class Photographs:
    """Pictures in files, as an array of images (N, size, size, 3) uint8 that are read when they are asked for.

    The shorter side is brought to `size`, and the centre of the longer one is taken. After `keep` each is read once.
    waited: seconds that callers spent until their images were there. Indexing raises ValueError, which names the file,
    for what is no whole picture.
    """

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.how = paths, Preprocess((size, size), resize=size)
        self.shape, self.dtype, self.ndim = (len(paths), size, size, 3), np.dtype(np.uint8), 4
        self.nbytes = len(paths) * size * size * 3
        self.waited = 0.0
        self.coming: deque[Reading] = deque()  # what `ahead` has begun
        self.kept: np.ndarray | None = None
        self.there = np.zeros(len(paths), bool)  # whose pixels are in `kept`

    def __len__(self) -> int:
        return len(self.paths)

    def first(self, count: int | None) -> "Photographs":
        """The first `count` of them, unread."""
        return Photographs(self.paths[:count], self.how.size[0])

    def keep(self) -> "Photographs":
        """Keep the pixels of what is read in a file of this process, if there is room. Returns itself."""
        self.kept = scratch(self.shape)
        if self.kept is None:
            say(f"photographs: no room for {self.nbytes:,} bytes in /var/tmp (or TMPDIR); they are read in each epoch")
        return self

    def __getitem__(self, index: Index) -> np.ndarray:
        began = self.coming.popleft() if self.coming and self.coming[0][0] is index else self.begin(index)
        _, images, jobs = began
        started = time.perf_counter()
        for job in jobs:
            job.result()
        self.waited += time.perf_counter() - started
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def waited_for(self, seconds: float) -> str:
        """How long callers waited in an epoch of so many seconds, as text. The next epoch counts anew."""
        text = (
            f"photographs: the epoch waited {self.waited:.2f} s for them, {self.waited / max(seconds, 1e-9):.1%} of it"
        )
        self.waited = 0.0
        return text

    def begin(self, index: Index) -> Reading:
        """Have the images of an index read."""
        chosen = np.arange(len(self.paths))[index]
        images = np.empty((*chosen.shape, *self.shape[1:]), np.uint8)
        flat = images.reshape(-1, *self.shape[1:])

        def read(start: int) -> None:
            for place in range(start, min(start + TOGETHER, chosen.size)):
                flat[place] = self.pixels(int(chosen.flat[place]))

        jobs = [readers().submit(read, start) for start in range(0, chosen.size, TOGETHER)]
        return index, images, jobs

    def pixels(self, number: int) -> np.ndarray:
        """One picture, (size, size, 3) uint8, from its file or kept from an earlier reading."""
        if self.kept is None:
            return self.read(self.paths[number])
        if not self.there[number]:
            self.kept[number] = self.read(self.paths[number])
            self.there[number] = True
        found: np.ndarray = self.kept[number]
        return found

    def read(self, path: Path) -> np.ndarray:
        """The picture in a file, (size, size, 3) uint8."""
        image = open_image(path, least=FINER * self.how.side)
        if max(image.size) > LONGEST * min(image.size):
            width, height = image.size
            raise ValueError(f"{path}: {width}x{height} pixels, wanted no side {LONGEST} times the other; take it out")
        return np.asarray(centre_crop(image, self.how))


@cache
def readers() -> ThreadPoolExecutor:
    """The threads that read: one for each core. Pillow lets others run while it decodes."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def ahead(images: Any, order: Iterable[Index]) -> Iterator[Index]:
    """The indices in `order`; of photographs, those of the next are being read while the caller has one."""
    if not isinstance(images, Photographs):
        yield from order
        return
    images.coming.clear()
    waiting: deque[Index] = deque()
    for index in order:
        images.coming.append(images.begin(index))
        waiting.append(index)
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def folder(root: str | os.PathLike[str] | None, size: int) -> tuple[tuple[str, ...], Part, Part]:
    """(names of the classes, (images, labels) for training, (images, labels) for testing) of a folder of photographs.

    size: height and width that they are brought to. Classes are in the order of their names. Raises ValueError of one
    line that names the folder or the file: for a class without pictures, a single class, classes that differ between
    the parts, and a file that is no picture by its name. Names that begin with a dot are passed over.
    """
    if root is None:
        raise ValueError("--data-dir: none given, wanted the folder that holds one folder for each class; add it")
    top = Path(root)
    if not top.is_dir():
        raise FileNotFoundError(f"{top}: no such folder; give --data-dir the folder that holds one for each class")
    tests = [top / name for name in ("val", "test") if (top / name).is_dir()]
    if not ((top / "train").is_dir() and tests):
        found = _classes(top)
        paths, labels = _listed(found)
        train, test = held_out(labels, str(top))
        parts = [([paths[i] for i in chosen], labels[chosen]) for chosen in (train, test)]
    else:
        found, other = _classes(top / "train"), _classes(tests[0])
        for name in [*found, *other]:
            if name not in found or name not in other:
                lacking = "train" if name not in found else tests[0].name
                raise ValueError(f"{top / lacking}: no class {name!r}, which the other part has; add it or take it out")
        parts = [_shuffled(*_listed(found)), _shuffled(*_listed(other))]
    (train_paths, train_labels), (test_paths, test_labels) = parts
    return tuple(found), (Photographs(train_paths, size), train_labels), (Photographs(test_paths, size), test_labels)


def _classes(top: Path) -> dict[str, list[Path]]:
    """The pictures of each class, sorted by name."""
    found: dict[str, list[Path]] = {}
    for entry in _entries(top):
        if entry.is_dir():
            found[entry.name] = _pictures(entry)
        elif entry.suffix.lower() in PICTURES:
            raise ValueError(f"{entry}: a picture beside the folders of the classes; move it into one of them")
    if len(found) < 2:
        one = "one class, " + repr(next(iter(found))) if found else "no class"
        raise ValueError(f"{top}: {one}, wanted 2 or more: one folder of pictures for each class")
    return found


def _pictures(top: Path) -> list[Path]:
    paths = _entries(top)
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path}: a folder inside of a class, wanted pictures; move what it holds up")
        if path.suffix.lower() not in PICTURES:
            raise ValueError(f"{path}: no picture by its name, wanted {', '.join(PICTURES)}; take it out")
    if not paths:
        raise ValueError(f"{top}: a class without pictures; add some, or take the folder out")
    return paths


def _entries(top: Path) -> list[Path]:
    entries = sorted(e for e in top.iterdir() if not e.name.startswith(".") and e.name.lower() not in CLUTTER)
    for entry in entries:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{top}: a name that is not UTF-8, {os.fsencode(entry.name)!r}; rename it") from None
    return entries


def _listed(classes: dict[str, list[Path]]) -> tuple[list[Path], np.ndarray]:
    """All paths, and the label of each."""
    counts = [len(paths) for paths in classes.values()]
    return [path for paths in classes.values() for path in paths], np.repeat(np.arange(len(counts)), counts)


def _shuffled(paths: list[Path], labels: np.ndarray) -> tuple[list[Path], np.ndarray]:
    """In an order that is always the same, so that the first few are of all classes."""
    order = stream(0, "order").permutation(len(paths))
    return [paths[i] for i in order], labels[order]

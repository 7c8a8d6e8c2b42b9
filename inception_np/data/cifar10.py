"""Images to train on: `shapes10`, drawn here, and `cifar10`, read from its official binary files.

Images are kept as uint8, (N, H, W, 3), and become float32 a batch at a time: cropped and mirrored
for training, then normalised per channel. Labels are int64, (N,).
"""

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..backend import Array, array_module, beside
from ..errors import UsageError, nearest
from .random import stream
from .streams import say

NAMES = ["shapes10", "cifar10"]


IMAGE = (32, 32, 3)  # of both
TRAIN_IMAGES = {"shapes10": 5_000, "cifar10": 50_000}  # where nobody asks for fewer, or for more of shapes10
TEST_IMAGES = {"shapes10": 2_000, "cifar10": 10_000}


@dataclass(frozen=True)
class Dataset:
    """Training and test images with what a batch needs to know about them."""

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
    folder: str | os.PathLike | None = None,
    *,
    train: int | None = None,
    test: int | None = None,
    subset: bool = False,
) -> Dataset:
    """The data set of that name; of its images only the first `train` and `test` if given.

    folder: where the files are (cifar10; without it they are looked for, and put, in the user's
    cache folder). subset: accept copies with fewer images than the official files.
    Raises UsageError for an unknown name, ValueError for a broken file, OSError for a missing one.
    """
    check_request(name, train, test)
    if name == "shapes10":
        classes, pad = tuple(SHAPES), 2
        train_set = shapes10("train", TRAIN_IMAGES[name] if train is None else train)
        test_set = shapes10("test", TEST_IMAGES[name] if test is None else test)
    else:
        classes, pad = CIFAR10_CLASSES, 4
        train_set, test_set = cifar10(folder, subset=subset)
        for option, count, (_, labels) in (
            ("--train-images", train, train_set),
            ("--test-images", test, test_set),
        ):
            if count is not None and count > len(labels):
                raise UsageError(f"{option}: got {count}; {name} has {len(labels)}")
        train_set = (train_set[0][:train], train_set[1][:train])
        test_set = (test_set[0][:test], test_set[1][:test])
    mean, std = channel_statistics(train_set[0])
    return Dataset(name, classes, *train_set, *test_set, pad, mean, std)


def check_request(name: str, train: int | None, test: int | None) -> None:
    """Raise UsageError for an unknown data set, and for a number of images that none has."""
    if name not in NAMES:
        raise UsageError(f"--data: there is no data set {name!r}; {nearest(name, NAMES)}")
    for option, count in (("--train-images", train), ("--test-images", test)):
        if count is not None and count < 1:
            raise UsageError(f"{option}: got {count}; give at least one image")
        if count is not None and count > SHAPES10_MOST and name == "shapes10":
            raise UsageError(f"{option}: got {count}; {name} gives at most {SHAPES10_MOST:,}")


# From images to batches


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
    x -= beside(np.asarray(mean, dtype), x)
    x *= beside(1 / np.asarray(std, dtype), x)
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

    images: (N, H, W, C) uint8; so is the result. The border has the colour `fill`, (C,). Image n
    uses the numbers u[n] of u = rng.random((N, 3)): it is taken from row floor(u0 (2 pad + 1)) and
    column floor(u1 (2 pad + 1)) of the bordered image, and mirrored where u2 < 1/2.
    mirrored: (N,) bool, the images to mirror instead; the same numbers are drawn.
    Cutout (DeVries & Taylor 2017, section 3.2): then v = rng.random((N, 2)), and the square of
    `cutout` pixels around row floor(v0 H) and column floor(v1 W) gets the colour `fill`. It may
    hang over the edge.
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
    crops = bordered[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
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

    What is left over at the end does not make a batch (a single image would have no batch
    statistics); the order is another in each epoch, so that none is left out for long. The order
    follows from the seed and the epoch alone.
    """
    order = stream(seed, "shuffle", epoch).permutation(count)
    size = min(batch_size, count)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


# shapes10: ten shapes as inequalities

# Each function gives the signed distance (negative inside) of the points x, y from a shape that
# fills a circle of radius 1. Intersections of shapes are maxima, unions are minima.


def _disc(x: np.ndarray, y: np.ndarray, radius: float = 0.85) -> np.ndarray:
    return np.hypot(x, y) - radius


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(abs(x) - half_width, abs(y) - half_height)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return abs(np.hypot(x, y) - 0.72) - 0.2


def _half_disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(_disc(x, y + 0.4, 0.95), -(y + 0.4))


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x) * np.sqrt(0.75) - 0.5 * y, y) - 0.5


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _box(x, y, 0.74, 0.74)


def _bar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _box(x, y, 1.0, 0.28)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(_box(x, y, 1.0, 0.26), _box(x, y, 0.26, 1.0))


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Folded onto a tenth of the star, where its edge is one line from the tip to a notch."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    angle = abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    notch_x, notch_y = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
    length = np.hypot(1 - notch_x, notch_y)
    along, across = radius * np.cos(angle) - 1, radius * np.sin(angle)
    return (along * notch_y + across * (1 - notch_x)) / length


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square with a disc on each of two sides that meet."""
    x, y = x + 0.2, y + 0.2
    return np.minimum(
        _box(x, y, 0.52, 0.52),
        np.minimum(_disc(x - 0.52, y, 0.52), _disc(x, y - 0.52, 0.52)),
    )


def _arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    shaft = _box(x + 0.45, y, 0.55, 0.17)
    head = np.maximum(-x, (x + abs(y) - 1) * np.sqrt(0.5))
    return np.minimum(shaft, head)


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "ring": _ring,
    "half disc": _half_disc,
    "triangle": _triangle,
    "square": _square,
    "bar": _bar,
    "cross": _cross,
    "star": _star,
    "heart": _heart,
    "arrow": _arrow,
}

SHAPES10_CHUNK = 1000
SHAPES10_MOST = 1_000_000  # images of which it has no end: 3 GB


def shapes10(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images of an endless data set: (count, 32, 32, 3) uint8, labels int64.

    Each image shows one of the ten SHAPES in a random colour, size, place and rotation before a
    background that runs from one random colour to another, under random noise. Shape and
    background have the same distribution of colours, so that the mean image of every class is the
    same grey and a linear model has nothing to go by. split: "train" or "test"; their images
    differ, and do not depend on the seed of a training run.
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


# cifar10

# fmt: off
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
# fmt: on
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_BYTES = 170_052_171
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_FILES = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, the green and the blue plane
RECORDS = 10_000


def cifar10(
    folder: str | os.PathLike | None = None, *, subset: bool = False
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """((images, labels) for training, (images, labels) for testing). Krizhevsky 2009.

    folder: holds the six `.bin` files, or `cifar-10-batches-bin/`, or the official archive, which
    is read in place: nothing is unpacked. None: the user's cache folder, into which the archive is
    downloaded once, its size and SHA-256 checked.
    subset: the last training file and the test file may be shorter, and later ones missing.
    Raises ValueError naming the file, the byte and what was expected there; OSError if a file is
    missing or the download fails.
    """
    if folder is None:
        files = _archive_files(_downloaded())
    else:
        files = _found_files(Path(folder))
    parts = {name: _records(content, where, subset) for name, (content, where) in files.items()}
    train = [parts[name] for name in CIFAR10_FILES[:-1] if name in parts]
    names = [name for name in CIFAR10_FILES if name not in parts]
    if names and not (subset and train and names == _tail(names) and "test_batch.bin" in parts):
        where = folder if folder is not None else CIFAR10_ARCHIVE
        raise FileNotFoundError(
            f"{where}: {', '.join(names)} missing, wanted {', '.join(CIFAR10_FILES)}; "
            "copy the whole set" + ("" if subset else ", or say --subset for a reduced one")
        )
    for part, name in zip(train[:-1], CIFAR10_FILES, strict=False):
        if len(part[1]) != RECORDS:
            raise ValueError(
                f"{files[name][1]}: ends at byte {len(part[1]) * RECORD:,}, wanted "
                f"{RECORDS * RECORD:,} because another file follows it; copy it again"
            )
    images = np.concatenate([part[0] for part in train])
    labels = np.concatenate([part[1] for part in train])
    return (images, labels), parts["test_batch.bin"]


def _tail(names: list[str]) -> list[str]:
    """The last training files, as many as there are names."""
    return CIFAR10_FILES[5 - len(names) : 5]


def _found_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """{name: (content, where it was found)} of the files that are in the folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give --data-dir the folder that holds {CIFAR10_FOLDER}")
    for place in (folder / CIFAR10_FOLDER, folder):
        paths = [place / name for name in CIFAR10_FILES if (place / name).exists()]
        if paths:
            return {path.name: (_file_content(path), str(path)) for path in paths}
    if (folder / CIFAR10_ARCHIVE).exists():
        return _archive_files(folder / CIFAR10_ARCHIVE)
    python_copy = folder / "cifar-10-batches-py"
    if python_copy.exists() or (folder / "data_batch_1").exists():
        raise ValueError(
            f"{folder}: holds the Python version of CIFAR-10, which runs code when it is read; "
            f"fetch {CIFAR10_URL} and put it there"
        )
    raise FileNotFoundError(
        f"{folder}: no {CIFAR10_FOLDER}/ and no {CIFAR10_ARCHIVE} there; fetch {CIFAR10_URL} and put it there"
    )


def _file_content(path: Path) -> bytes:
    size = path.stat().st_size
    if not path.is_file() or size > RECORDS * RECORD:
        raise ValueError(
            f"{path}: {size:,} bytes, wanted a file of {RECORDS * RECORD:,} "
            f"({RECORDS:,} records of {RECORD}); copy it again"
        )
    return path.read_bytes()


def _archive_files(path: Path) -> dict[str, tuple[bytes, str]]:
    """The six files of the archive by their names, whatever else may be in it."""
    files: dict[str, tuple[bytes, str]] = {}
    passed = 0
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                passed += member.size
                if passed > 2 * CIFAR10_BYTES or member.offset > 2 * CIFAR10_BYTES:
                    raise ValueError(
                        f"{path}: {member.name!r} at byte {member.offset:,} makes it larger than "
                        f"CIFAR-10 is; fetch {CIFAR10_URL} again"
                    )
                folder, _, name = member.name.rpartition("/")
                if folder.removeprefix("./") != CIFAR10_FOLDER or name not in CIFAR10_FILES:
                    continue
                where = f"{path}: {name}"
                if not member.isreg() or member.issparse() or name in files:
                    raise ValueError(
                        f"{where}: at byte {member.offset:,} a link, a hole or a second copy, "
                        f"wanted one plain file; fetch {CIFAR10_URL} again"
                    )
                if member.size > RECORDS * RECORD:
                    raise ValueError(
                        f"{where}: {member.size:,} bytes at byte {member.offset_data:,}, wanted "
                        f"{RECORDS * RECORD:,}; fetch {CIFAR10_URL} again"
                    )
                content = archive.extractfile(member)
                assert content is not None  # it is a plain file
                files[name] = content.read(), where
            rest = len(stream.read(CIFAR10_BYTES))  # up to the end, where gzip's checksum is
            if rest == CIFAR10_BYTES:
                raise ValueError(f"{path}: larger than CIFAR-10 is; fetch {CIFAR10_URL} again")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path}: not a whole gzipped archive of {CIFAR10_BYTES:,} bytes "
            f"({path.stat().st_size:,} bytes; {error}); fetch {CIFAR10_URL} again"
        ) from error
    return files


def _records(content: bytes, where: str, subset: bool) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of one file. Raises ValueError naming byte and expectation."""
    count, rest = divmod(len(content), RECORD)
    if rest or count == 0:
        raise ValueError(
            f"{where}: ends at byte {len(content):,} inside record {count:,}, wanted "
            f"{RECORDS * RECORD:,} bytes ({RECORDS:,} records of {RECORD}); copy it again"
        )
    if count != RECORDS and not subset:
        raise ValueError(
            f"{where}: ends at byte {len(content):,} after {count:,} records, wanted "
            f"{RECORDS * RECORD:,} bytes ({RECORDS:,} records of {RECORD}); "
            "copy it again, or say --subset if it is a reduced copy on purpose"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, RECORD)
    labels = records[:, 0].astype(np.int64)
    bad = np.flatnonzero(labels >= len(CIFAR10_CLASSES))
    if len(bad):
        raise ValueError(
            f"{where}: byte {bad[0] * RECORD:,} is {labels[bad[0]]}, wanted a label from 0 to 9; "
            "this is not a CIFAR-10 file, or a damaged one: copy it again"
        )
    planes = records[:, 1:].reshape(count, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _downloaded(url: str = CIFAR10_URL, folder: Path | None = None) -> Path:
    """The archive in the user's cache folder, fetched if it is not there."""
    import pooch

    folder = Path(pooch.os_cache("inception_np")) if folder is None else folder
    if not (folder / CIFAR10_ARCHIVE).exists():
        say(f"fetching {url} ({CIFAR10_BYTES:,} bytes) into {folder}")
    try:
        found = pooch.retrieve(
            url,
            known_hash=f"sha256:{CIFAR10_SHA256}",
            fname=CIFAR10_ARCHIVE,
            path=folder,
            downloader=_fetch,
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"cifar10: {url} could not be fetched ({reason}); fetch it with another machine, "
            f"put it into a folder, and give that as --data-dir (or put it into {folder})"
        ) from error
    return Path(found)


def _fetch(url: str, output_file: str | os.PathLike, _pooch: object) -> None:
    """Download at most as many bytes as the archive has. pooch checks the SHA-256 after this."""
    import urllib.request

    with urllib.request.urlopen(url, timeout=30) as answer, open(output_file, "wb") as file:
        size = 0
        while piece := answer.read(1 << 20):
            size += len(piece)
            if size > CIFAR10_BYTES:
                break
            file.write(piece)
    if size != CIFAR10_BYTES:
        more = "more than " if size > CIFAR10_BYTES else ""
        raise OSError(f"got {more}{min(size, CIFAR10_BYTES):,} bytes, wanted {CIFAR10_BYTES:,}")

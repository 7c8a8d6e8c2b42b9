"""MNIST and Fashion-MNIST from their idx files. LeCun et al. 1998; Xiao et al. 2017.

byte 0      two zeros, 8 for unsigned bytes, and the number of dimensions
byte 4      each dimension, four bytes, the highest first
then        the bytes themselves: images of 28 rows of 28, or labels
"""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from .download import fetched

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SIDE, BORDER, CLASSES, MOST = 28, 2, 10, 1_000_000
DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
# Where each set is fetched from, and the size and SHA-256 of its four gzipped files.
MIRRORS = {"mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
           "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"}  # fmt: skip
PUBLISHED = {
    "mnist": (
        (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
    "fashion_mnist": (
        (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
}
Part = tuple[np.ndarray, np.ndarray]  # images and labels


def mnist(folder: str | os.PathLike[str] | None = None, name: str = "mnist") -> tuple[Part, Part]:
    """((images, labels) for training, (images, labels) for testing), images (N, 32, 32, 1) uint8.

    An image has 28x28 pixels; a border of two black ones makes it 32x32, which the `_cifar` networks take. folder:
    holds the four idx files, as they are or with `.gz`. None: the user's cache folder, into which they are downloaded
    once, their size and SHA-256 checked. name: "mnist" or "fashion_mnist". Raises ValueError naming the file, the byte
    and what was expected there; OSError if a file is missing or the download fails.
    """
    train_images, train_labels, test_images, test_labels = _paths(folder, name)
    return _part(train_images, train_labels), _part(test_images, test_labels)


def _paths(folder: str | os.PathLike[str] | None, name: str) -> list[Path]:
    if folder is None:
        packed = [f"{file}.gz" for file in FILES]
        return [
            fetched(name, MIRRORS[name] + file, f"{name}-{file}", *published)
            for file, published in zip(packed, PUBLISHED[name], strict=True)
        ]
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give --data-dir the folder that holds {FILES[0]}.gz")
    paths = []
    for file in FILES:
        found = [path for end in ("", ".gz") if (path := Path(folder, file + end)).exists()]
        if not found:
            raise FileNotFoundError(f"{folder}: no {file} and no {file}.gz there; fetch it from {MIRRORS[name]}")
        paths.append(found[0])
    return paths


def _part(images_path: Path, labels_path: Path) -> Part:
    images, labels = _array(images_path, (SIDE, SIDE)), _array(labels_path, ())
    if len(images) != len(labels):
        raise ValueError(
            f"{labels_path}: byte 4: {len(labels):,} labels, wanted {len(images):,}, one for each image of "
            f"{images_path.name}; the two files belong to different sets, copy both again"
        )
    bad = np.flatnonzero(labels >= CLASSES)
    if len(bad):
        raise ValueError(
            f"{labels_path}: byte {8 + bad[0]:,} is {labels[bad[0]]}, wanted a label from 0 to 9; copy it again"
        )
    bordered = np.pad(images, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
    return bordered[..., None], labels.astype(np.int64)


def _array(path: Path, each: tuple[int, ...]) -> np.ndarray:
    """The array in an idx file, (N, *each) uint8; gzipped where its name ends with .gz."""
    dimensions = 1 + len(each)
    head = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(head)
            if len(start) < head:
                raise ValueError(f"{path}: ends at byte {len(start)}, wanted a head of {head} bytes; copy it again")
            if start[:4] != bytes((0, 0, 8, dimensions)):
                raise ValueError(
                    f"{path}: byte 0: 0x{start[:4].hex()}, wanted 0x{bytes((0, 0, 8, dimensions)).hex()} "
                    f"(unsigned bytes, {dimensions} dimensions); this is not the idx file of its name"
                )
            count, *found = (int(n) for n in np.frombuffer(start, ">u4", offset=4))
            if not 1 <= count <= MOST or tuple(found) != each:
                size = "x".join(map(str, each))
                wanted = f"up to {MOST:,} images of {size}" if each else f"up to {MOST:,} labels"
                raise ValueError(f"{path}: byte 4: dimensions {(count, *found)}, wanted {wanted}; copy it again")
            wanted_bytes = count * math.prod(each)
            content = file.read(wanted_bytes + 1)
            file.read(1)  # the end of a gzipped file, where its checksum is
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a whole file ({error}); copy it again") from error
    if len(content) != wanted_bytes:
        more = "goes on after" if len(content) > wanted_bytes else "ends at"
        end = head + min(len(content), wanted_bytes)
        raise ValueError(f"{path}: {more} byte {end:,}, wanted {head + wanted_bytes:,} bytes; copy it again")
    return np.frombuffer(content, np.uint8).reshape(count, *each)

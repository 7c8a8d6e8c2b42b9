"""CIFAR-10 and CIFAR-100 from their official binary files, in a folder or in the archive. Krizhevsky 2009."""

import os
from pathlib import Path

import numpy as np

from .cifar10_archive import CIFAR10, CIFAR100, Layout, archive_files, downloaded

# fmt: off
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
# fmt: on
Part = tuple[np.ndarray, np.ndarray]  # images and labels


def cifar10(folder: str | os.PathLike[str] | None = None, *, subset: bool = False) -> tuple[Part, Part]:
    """((images, labels) for training, (images, labels) for testing). Krizhevsky 2009.

    folder: holds the six `.bin` files, or `cifar-10-batches-bin/`, or the official archive, which is read in place:
    nothing is unpacked. None: the user's cache folder, into which the archive is downloaded once, its size and SHA-256
    checked. subset: the last training file and the test file may be shorter, and later ones missing. Raises ValueError
    naming the file, the byte and what was expected there; OSError if a file is missing or the download fails.
    """
    return _read(CIFAR10, folder, subset)


def cifar100(folder: str | os.PathLike[str] | None = None, *, subset: bool = False) -> tuple[Part, Part]:
    """The same of CIFAR-100: `train.bin` and `test.bin`, or `cifar-100-binary/` that holds them, or the archive.

    A record's labels are a coarse one, of 20 classes, and a fine one, of 100, which is the class here.
    """
    return _read(CIFAR100, folder, subset)


def _read(layout: Layout, folder: str | os.PathLike[str] | None, subset: bool) -> tuple[Part, Part]:
    if folder is None:
        files = archive_files(downloaded(layout), layout)
    else:
        files = _found_files(Path(folder), layout)
    parts = {name: _records(content, where, subset, layout, name) for name, (content, where) in files.items()}
    *training, test = layout.files
    train = [parts[name] for name in training if name in parts]
    names = [name for name in layout.files if name not in parts]
    last = training[len(training) - len(names) :]  # as many training files as there are names
    if names and not (subset and train and names == last and test in parts):
        where = folder if folder is not None else layout.archive
        raise FileNotFoundError(
            f"{where}: {', '.join(names)} missing, wanted {', '.join(layout.files)}; "
            "copy the whole set" + ("" if subset else ", or say --subset for a reduced one")
        )
    for part, name in zip(train[:-1], training, strict=False):
        if len(part[1]) != layout.files[name]:
            raise ValueError(
                f"{files[name][1]}: ends at byte {len(part[1]) * layout.record:,}, wanted "
                f"{layout.files[name] * layout.record:,} because another file follows it; copy it again"
            )
    images = np.concatenate([part[0] for part in train])
    labels = np.concatenate([part[1] for part in train])
    return (images, labels), parts[test]


def _found_files(folder: Path, layout: Layout) -> dict[str, tuple[bytes, str]]:
    """{name: (content, where it was found)} of the files that are in the folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give --data-dir the folder that holds {layout.folder}")
    for place in (folder / layout.folder, folder):
        paths = [place / name for name in layout.files if (place / name).exists()]
        if paths:
            return {path.name: (_file_content(path, layout), str(path)) for path in paths}
    if (folder / layout.archive).exists():
        return archive_files(folder / layout.archive, layout)
    if any((folder / name).exists() for name in layout.python):
        raise ValueError(
            f"{folder}: holds the Python version of {layout.name}, which runs code when it is read; "
            f"fetch {layout.url} and put it there"
        )
    raise FileNotFoundError(
        f"{folder}: no {layout.folder}/ and no {layout.archive} there; fetch {layout.url} and put it there"
    )


def _file_content(path: Path, layout: Layout) -> bytes:
    size, most = path.stat().st_size, layout.files[path.name]
    if not path.is_file() or size > most * layout.record:
        raise ValueError(
            f"{path}: {size:,} bytes, wanted a file of {most * layout.record:,} "
            f"({most:,} records of {layout.record}); copy it again"
        )
    return path.read_bytes()


def _records(content: bytes, where: str, subset: bool, layout: Layout, name: str) -> Part:
    """(images, labels) of one file. Raises ValueError naming byte and expectation."""
    most = layout.files[name]
    count, rest = divmod(len(content), layout.record)
    if rest or count == 0:
        raise ValueError(
            f"{where}: ends at byte {len(content):,} inside record {count:,}, wanted "
            f"{most * layout.record:,} bytes ({most:,} records of {layout.record}); copy it again"
        )
    if count != most and not subset:
        raise ValueError(
            f"{where}: ends at byte {len(content):,} after {count:,} records, wanted "
            f"{most * layout.record:,} bytes ({most:,} records of {layout.record}); "
            "copy it again, or say --subset if it is a reduced copy on purpose"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, layout.record)
    for at, (label, classes) in enumerate(layout.labels.items()):
        labels = records[:, at].astype(np.int64)
        bad = np.flatnonzero(labels >= classes)
        if len(bad):
            raise ValueError(
                f"{where}: byte {bad[0] * layout.record + at:,} is {labels[bad[0]]}, wanted a {label} from 0 to "
                f"{classes - 1}; this is not a {layout.name} file, or a damaged one: copy it again"
            )
    planes = records[:, len(layout.labels) :].reshape(count, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels

"""CIFAR-10 from its official binary files, in a folder or in the archive. Krizhevsky 2009."""

import os
from pathlib import Path

import numpy as np

from .cifar10_archive import (
    CIFAR10_ARCHIVE,
    CIFAR10_FILES,
    CIFAR10_FOLDER,
    CIFAR10_URL,
    RECORD,
    RECORDS,
    archive_files,
    downloaded,
)

# fmt: off
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
# fmt: on


def cifar10(
    folder: str | os.PathLike[str] | None = None, *, subset: bool = False
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """((images, labels) for training, (images, labels) for testing). Krizhevsky 2009.

    folder: holds the six `.bin` files, or `cifar-10-batches-bin/`, or the official archive, which is read in place:
    nothing is unpacked. None: the user's cache folder, into which the archive is downloaded once, its size and SHA-256
    checked. subset: the last training file and the test file may be shorter, and later ones missing. Raises ValueError
    naming the file, the byte and what was expected there; OSError if a file is missing or the download fails.
    """
    if folder is None:
        files = archive_files(downloaded())
    else:
        files = _found_files(Path(folder))
    parts = {name: _records(content, where, subset) for name, (content, where) in files.items()}
    train = [parts[name] for name in CIFAR10_FILES[:-1] if name in parts]
    names = [name for name in CIFAR10_FILES if name not in parts]
    last = CIFAR10_FILES[5 - len(names) : 5]  # as many training files as there are names
    if names and not (subset and train and names == last and "test_batch.bin" in parts):
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


def _found_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """{name: (content, where it was found)} of the files that are in the folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give --data-dir the folder that holds {CIFAR10_FOLDER}")
    for place in (folder / CIFAR10_FOLDER, folder):
        paths = [place / name for name in CIFAR10_FILES if (place / name).exists()]
        if paths:
            return {path.name: (_file_content(path), str(path)) for path in paths}
    if (folder / CIFAR10_ARCHIVE).exists():
        return archive_files(folder / CIFAR10_ARCHIVE)
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

"""Thousands of damaged data files and pictures: refused in one line, or read as what they say."""

import gzip
import io
import random
import tarfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inception_np.data import cifar10, cifar10_archive
from inception_np.data.preprocess import open_image

from . import mutate, small
from .faults import PLANTED

RECORD = cifar10_archive.RECORD
FILES = ("data_batch_1.bin", "test_batch.bin")


@cache
def records(seed: int, count: int = 3) -> bytes:
    rows = np.random.default_rng(seed).integers(0, 256, (count, RECORD)).astype(np.uint8)
    rows[:, 0] %= 10
    return rows.tobytes()


def refused_in_a_line(folder: Path, error: Exception) -> str | None:
    text = str(error)
    if not isinstance(error, (ValueError, OSError)) or not mutate.LINE.fullmatch(text) or len(text) > 1000:
        return f"refused with {type(error).__name__}: {text!r}"
    return None if str(folder) in text else f"refused without its name: {text!r}"


def by_hand(content: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """(images, labels) of one file, or None where it holds no whole records with labels from 0 to 9."""
    rows = np.frombuffer(content[: len(content) // RECORD * RECORD], np.uint8).reshape(-1, RECORD)
    if not len(rows) or len(content) % RECORD or rows[:, 0].max() > 9:
        return None
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]


def compared(found, contents: list[bytes]) -> str | None:
    for (images, labels), content in zip(found, contents, strict=True):
        wanted = by_hand(content)
        if wanted is None or not (np.array_equal(images, wanted[0]) and np.array_equal(labels, wanted[1])):
            return "other images than the file's"
    return None


def labelled(content: bytes, rng: random.Random) -> bytes:
    """Another label, or a record more or less: what a scramble seldom does."""
    at = rng.randrange(len(content) // RECORD) * RECORD
    return rng.choice(
        [
            content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
            content[:at] + content[at + RECORD :],
            content + content[at : at + RECORD],
        ]
    )


def damaged_cifar10(seed: int, fault: str = "") -> str | None:
    rng = random.Random(seed)
    contents = [records(1), records(2)]
    which = rng.randrange(2)
    contents[which] = (labelled if seed % 4 == 0 else mutate.scrambled)(contents[which], rng)
    with small.folder() as folder, PLANTED[fault]():
        for name, content in zip(FILES, contents, strict=True):
            (folder / name).write_bytes(content)
        try:
            found = cifar10.cifar10(folder, subset=True)
        except Exception as error:
            whole = all(by_hand(content) for content in contents)
            return "whole records were refused" if whole else refused_in_a_line(folder, error)
    return compared(found, contents)


@cache
def archive() -> bytes:
    """The archive before it is compressed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, name in enumerate(FILES, 1):
            member = tarfile.TarInfo(f"{cifar10_archive.CIFAR10_FOLDER}/{name}")
            member.size = len(records(number))
            tar.addfile(member, io.BytesIO(records(number)))
    return file.getvalue()


def damaged_archive(seed: int, fault: str = "") -> str | None:
    """Bytes of the compressed file, which has a checksum, or of what is compressed, which then has a right one."""
    rng = random.Random(seed)
    if seed % 2:
        content, inside = mutate.scrambled(gzip.compress(archive(), 1, mtime=0), rng), False
    else:
        content, inside = gzip.compress(mutate.scrambled(archive(), rng), 1, mtime=0), True
    with small.folder() as folder, PLANTED[fault]():
        (folder / cifar10_archive.CIFAR10_ARCHIVE).write_bytes(content)
        try:
            found = cifar10.cifar10(folder, subset=True)
        except Exception as error:
            return refused_in_a_line(folder, error)
        if [path.name for path in folder.iterdir()] != [cifar10_archive.CIFAR10_ARCHIVE]:
            return "something was written"
    if not inside:
        return compared(found, [records(1), records(2)])
    for images, labels in found:
        if images.shape != (len(labels), 32, 32, 3) or labels.min() < 0 or labels.max() > 9:
            return f"images of {images.shape}, labels {labels}"
    return None


@cache
def pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (19, 24, 3)).astype(np.uint8))
    found = []
    for kind, mode in (("PNG", "RGB"), ("JPEG", "RGB"), ("PNG", "P"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"),
                       ("WEBP", "RGB"), ("PPM", "RGB"), ("PNG", "LA"), ("JPEG", "CMYK")):  # fmt: skip
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
        image.convert(mode).save(file, kind, **options)
        found.append(file.getvalue())
    return found


def damaged_picture(seed: int, fault: str = "") -> str | None:
    rng = random.Random(seed)
    content = mutate.scrambled(rng.choice(pictures()), rng)
    with small.folder() as folder, PLANTED[fault]():
        (folder / "a picture").write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about metadata
                image = open_image(folder / "a picture")
        except Exception as error:
            return refused_in_a_line(folder, error)
    pixels = np.asarray(image)
    wanted = (image.size[1], image.size[0], 3)
    return None if pixels.shape == wanted and min(wanted) > 0 else f"a picture of {pixels.shape}"


@pytest.mark.promise("cifar10")
def test_damaged_cifar10_files_are_refused_or_hold_records(tally):
    tally.each(damaged_cifar10)


@pytest.mark.promise("archive")
def test_damaged_archives_are_refused_or_whole(tally):
    tally.each(damaged_archive)


@pytest.mark.promise("pictures")
def test_damaged_pictures_are_refused_or_pictures(tally):
    tally.each(damaged_picture)


@pytest.mark.parametrize(
    ("case", "fault"), [(damaged_cifar10, "any label"), (damaged_archive, "extracted"), (damaged_picture, "unguarded")]
)
def test_a_fault_is_seen_in_a_few_mutants(broken, case, fault):
    found = (seed for seed in range(60) if broken(case, seed, fault))
    assert any(not broken(case, seed) for seed in found)

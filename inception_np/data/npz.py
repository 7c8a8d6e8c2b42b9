"""Images of one's own as NumPy arrays in a .npz file.

    np.savez("mine.npz", x_train=x, y_train=y, x_test=x2, y_test=y2, classes=["cat", "dog"])
    np.savez("mine.npz", images=x, labels=y)        of each class every tenth becomes a test image

Images are uint8, (N, H, W, C) or (N, H, W), labels whole numbers from 0, and `classes` their names, if there are any.
Nothing that is pickled is ever read.
"""

import io
import math
import os
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from .batches import held_out

SPLIT, WHOLE, NAMES = ("x_train", "y_train", "x_test", "y_test"), ("images", "labels"), "classes"
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
Part = tuple[np.ndarray, np.ndarray]  # images and labels


def npz(path: str | os.PathLike[str]) -> tuple[tuple[str, ...] | None, Part, Part]:
    """(names of the classes or None, (images, labels) for training, (images, labels) for testing) of a file.

    Images are (N, H, W, C). Raises ValueError of one line that names the file, the array and what was wanted.
    """
    found = _arrays(path)
    names = None
    if NAMES in found:
        names = tuple(str(name) for name in np.ravel(_checked(path, found, NAMES, "U", 1)))
    parts = [
        _images(path, found, n) if n[0] in "xi" else _checked(path, found, n, "iu", 1) for n in _present(path, found)
    ]
    if len(parts) == len(SPLIT):
        return names, (parts[0], parts[1].astype(np.int64)), (parts[2], parts[3].astype(np.int64))
    images, labels = parts[0], parts[1].astype(np.int64)
    if len(images) != len(labels):
        raise ValueError(f"{path}: labels: {len(labels)} of them, wanted {len(images)}, one for each image")
    train, test = held_out(labels, str(path))
    return names, (images[train], labels[train]), (images[test], labels[test])


def _present(path: str | os.PathLike[str], found: dict[str, np.ndarray]) -> tuple[str, ...]:
    for names in (SPLIT, WHOLE):
        if names[0] in found:
            missing = [name for name in names if name not in found]
            if missing:
                raise ValueError(
                    f"{path}: {missing[0]} missing, wanted {', '.join(names)}; save them all with np.savez"
                )
            return names
    raise ValueError(
        f"{path}: holds {', '.join(found) or 'nothing'}, wanted {', '.join(SPLIT)}, or {', '.join(WHOLE)}; "
        "give the arrays these names in np.savez"
    )


def _images(path: str | os.PathLike[str], found: dict[str, np.ndarray], name: str) -> np.ndarray:
    images = found[name]
    if images.dtype != np.uint8:
        advice = "save (255 * x).round().astype(np.uint8) of an x in 0..1" if images.dtype.kind == "f" else "save uint8"
        raise ValueError(f"{path}: {name}: {images.dtype}, wanted uint8 from 0 to 255; {advice}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        order = images.ndim == 4 and images.shape[1] in (1, 3)
        advice = "save x.transpose(0, 2, 3, 1)" if order else "save grey or RGB images"
        raise ValueError(
            f"{path}: {name}: shape {images.shape}, wanted (N, H, W, 3), (N, H, W, 1) or (N, H, W); {advice}"
        )
    return np.ascontiguousarray(images)


def _checked(
    path: str | os.PathLike[str], found: dict[str, np.ndarray], name: str, kinds: str, ndim: int
) -> np.ndarray:
    array, what = found[name], "names" if kinds == "U" else "whole numbers"
    if array.dtype.kind not in kinds or array.ndim != ndim:
        raise ValueError(f"{path}: {name}: {array.dtype} of shape {array.shape}, wanted (N,) {what}; save it as these")
    return array


def _arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays that are wanted, by name. Each has its checksum in the file, which is looked at."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            wanted = [name for name in (*SPLIT, *WHOLE, NAMES) if name in names]
            return {name: _array(path, archive, names[name], name) for name in wanted}
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, struct.error, RuntimeError, OSError) as error:
        if isinstance(error, FileNotFoundError):  # RuntimeError: encrypted, or compressed in a way nobody knows
            raise
        raise ValueError(f"{path}: not a whole .npz file ({error}); save it again with np.savez") from error


def _array(path: Any, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> np.ndarray:
    content = archive.read(member)  # all of it: its checksum is looked at before its head is believed
    file = io.BytesIO(content)
    try:
        shape, fortran, dtype = READERS[np.lib.format.read_magic(file)](file)
        if any(n < 0 for n in shape):
            raise ValueError(f"shape {shape}")
    except Exception as error:  # NumPy hands on what its parsers raise
        reason = " ".join(str(error).split())[:80]
        raise ValueError(f"{path}: {name}: byte 0: no array's head ({reason}); save it with np.savez") from error
    if dtype.hasobject:
        raise ValueError(
            f"{path}: {name}: Python objects, which are never read; save numbers, and names as np.array(list)"
        )
    at, wanted = file.tell(), math.prod(shape) * dtype.itemsize
    if len(content) - at != wanted:
        raise ValueError(
            f"{path}: {name}: byte {at}: {len(content) - at:,} bytes follow, wanted {wanted:,} for {dtype} of shape "
            f"{shape}; save it again"
        )
    return np.frombuffer(content, dtype, offset=at).reshape(shape, order="F" if fortran else "C")

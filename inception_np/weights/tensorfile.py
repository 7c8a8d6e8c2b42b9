"""Named arrays in a safetensors file, written and read so that no damage goes unnoticed.

    8 bytes     n, the length of the header, little-endian
    n bytes     JSON: {"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets"}, ...}
    the rest    the arrays' elements, little-endian, rows first, one array after the other

Any safetensors reader reads these files. Ours asks for more than the format does: only one way to write a header, no
name twice, arrays that follow each other without a gap, and in the metadata the SHA-256 of everything else in the file.
It runs no code from a file and looks up no class: a file gives numbers and text. (A digest is no signature: whoever can
write the file can make a new digest.)
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..backend.errors import explained
from ..data.files import atomic_write

Tensors = dict[str, np.ndarray]  # by name
Refuse = Callable[[str, str], NoReturn]  # raises the ValueError of one line about a field of a file

# fmt: off
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}
# fmt: on
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000
NO_DIGEST = "0" * 64


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays of any layout and byte order, and text, to the file `path`, replacing it.

    Raises TypeError for a dtype that the format lacks and OSError if the disk refuses; the file is then as it was.
    """
    arrays = {}
    for name, array in tensors.items():
        array = np.asarray(array)
        dtype = array.dtype.newbyteorder("<")
        if dtype not in CODES:
            raise TypeError(f"{path}: {name}: got {array.dtype}, wanted one of {', '.join(map(str, CODES))}")
        # astype keeps the shape of 0-d arrays, which np.ascontiguousarray does not
        arrays[name] = array.astype(dtype, order="C", copy=False)
    # wide elements first: each array then begins at a multiple of its element's size
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))

    entries: dict[str, Any] = {"__metadata__": {**metadata, "sha256": NO_DIGEST}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        entries[name] = _entry(CODES[array.dtype], array.shape, begin, end)
    pieces = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
    digest = hashlib.sha256(_header(entries))
    for piece in pieces:
        digest.update(piece)
    entries["__metadata__"]["sha256"] = digest.hexdigest()
    header = _header(entries)
    atomic_write(path, [len(header).to_bytes(8, "little"), header, *pieces])


def read_tensors(path: str | os.PathLike[str], *, verified: bool = True) -> tuple[Tensors, dict[str, str]]:
    """(arrays by name, metadata) of a file. The arrays may share memory and cannot be written to.

    verified=False also takes files of other programs, which carry no digest and may order their header as they like;
    BF16 arrays are then given as float32. Raises ValueError of one line, `file: field: what`, for anything that is not
    exactly right, and OSError for a file that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise type(error)(explained(error)) from error

    def refuse(field: str, what: str) -> NoReturn:
        raise ValueError(f"{path}: {field}: {what}; take another copy of the file")

    if len(content) < 8:
        refuse("header length", f"the file ends at byte {len(content)}, wanted at least 8")
    length = int.from_bytes(content[:8].tobytes(), "little")
    if not 2 <= length <= min(LONGEST_HEADER, len(content) - 8):
        refuse("header length", f"got {length}, wanted 2 to {len(content) - 8} (not safetensors?)")
    header, data = content[8 : 8 + length].tobytes(), content[8 + length :]
    try:
        entries = strict_json(header)
    except ValueError as error:
        refuse("header", str(error))

    metadata = entries.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        refuse("__metadata__", "wanted text under each name")
    spans = {}
    for name, entry in entries.items():
        if name != "__metadata__":
            spans[name] = _parse_entry(name, entry, refuse)
    end = 0
    for name, (_, _, begin, stop) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if begin != end:
            refuse(name, f"begins at byte {begin} of the data, wanted {end}, where the last ended")
        end = stop
    if end != len(data):
        refuse("data", f"{len(data)} bytes, wanted {end} for the arrays in the header")
    if verified:
        _verify(entries, header, data, refuse)
    return {name: _array(data, *span) for name, span in spans.items()}, metadata


def _entry(code: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": code, "shape": list(shape), "data_offsets": [begin, end]}


def _header(entries: dict[str, Any]) -> bytes:
    """The one way to write a header: no spaces, except at its end up to a multiple of 8."""
    text = json.dumps(entries, separators=(",", ":"))
    return text.encode() + b" " * (-len(text) % 8)


def strict_json(content: bytes) -> dict[str, Any]:
    """The object that JSON text holds. Raises ValueError of one line for anything else, also for a name twice."""
    try:
        if content[:1] != b"{":
            raise ValueError("does not begin with '{'")
        found: dict[str, Any] = json.loads(
            content.decode(), object_pairs_hook=_no_name_twice, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    return found


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"names {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"holds {text}, which is not JSON")


def _parse_entry(name: str, entry: Any, refuse: Refuse) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, begin, end) of one array's entry in the header."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        refuse(name, "wanted dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if code not in [*DTYPES, "BF16"]:
        refuse(name, f"dtype {str(code)[:40]!r}, wanted one of {', '.join(DTYPES)}")
    for field, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            refuse(name, f"{field} {str(numbers)[:40]}, wanted a list of integers from 0")
    if len(shape) > 32 or len(offsets) != 2:
        refuse(name, f"{len(shape)} dimensions and {len(offsets)} offsets, wanted at most 32 and 2")
    begin, end = offsets
    itemsize = 2 if code == "BF16" else np.dtype(DTYPES[code]).itemsize
    size = math.prod(shape) * itemsize
    if end - begin != size:
        refuse(name, f"bytes {begin} to {end}, wanted {size} bytes for {code} of shape {shape}")
    return code, tuple(shape), begin, end


def _verify(entries: dict[str, Any], header: bytes, data: np.ndarray, refuse: Refuse) -> None:
    metadata = entries.get("__metadata__", {})
    stored = metadata.get("sha256")
    if stored is None:
        refuse("sha256", "missing, so this file was not written by inception_np")
    if _header(entries) != header:
        refuse("header", "not written the way inception_np writes it")
    blank = {**entries, "__metadata__": {**metadata, "sha256": NO_DIGEST}}
    digest = hashlib.sha256(_header(blank))
    digest.update(data.data)
    if digest.hexdigest() != stored:
        refuse("sha256", f"the content has {digest.hexdigest()[:12]}..., wanted {stored[:12]}...")


def _array(data: np.ndarray, code: str, shape: tuple[int, ...], begin: int, end: int) -> np.ndarray:
    raw = data[begin:end]
    if code == "BF16":  # the upper half of a float32
        wide = raw.copy().view("<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    dtype = np.dtype(DTYPES[code])
    if begin % dtype.itemsize or raw.ctypes.data % dtype.alignment:
        raw = raw.copy()
    array = raw.view(dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)
    if code == "BOOL" and (raw > 1).any():
        array = raw.reshape(shape) != 0
    array.flags.writeable = False
    return array

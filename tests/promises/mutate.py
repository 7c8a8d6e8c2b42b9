"""Damaged and changed files, drawn from a seed: of bytes, of JSON, and of named arrays with their metadata."""

import contextlib
import hashlib
import json
import random
import re
import tempfile
from functools import cache
from typing import Any
from unittest import mock

import numpy as np

from inception_np.weights import tensorfile

Arrays = dict[str, np.ndarray]
LINE = re.compile(r"[^\n]+: [^\n]+")  # WHERE: WHAT


def scrambled(content: bytes, rng: random.Random) -> bytes:
    """The content with one change of a random kind."""
    at, other = rng.randrange(len(content)), rng.randrange(len(content))
    length = rng.randint(1, 64)
    low, high = sorted((at, other))
    kinds = [
        lambda: content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :],  # a bit
        lambda: content[:at] + rng.randbytes(1) + content[at + 1 :],  # a byte
        lambda: content[:at],  # cut
        lambda: content + rng.randbytes(length),  # longer
        lambda: content[:at] + rng.choice((bytes(length), rng.randbytes(length))) + content[at + length :],  # a hole
        lambda: content[:at] + content[at + length :],  # some bytes are gone
        lambda: content[:low] + content[high:] + content[low:high],  # two parts change places
        lambda: content[:at] + content[low:high] + content[at:],  # a part twice
        lambda: b"",
    ]
    return rng.choices(kinds, [8, 8, 4, 2, 4, 4, 2, 2, 0.1])[0]()


# JSON

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**63, 10**30, 0.5, -0.5, 1e-9, 1e308, float("nan"), float("inf"),
    "", "x", "tiny_cifar", "sgd", "cuda", "../x", [], [1], [[]], {}, {"a": 1},
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything within a value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def changed_json(text: str, rng: random.Random) -> str:
    """The text of a JSON value in which one thing was changed; now and then it is no JSON any more."""
    if rng.random() < 0.1:
        return rng.choice(["", "[", "null", "{}", "[]", "3", text[: len(text) // 2], text + text, "[" * 20_000])
    value = json.loads(text)
    found = places(value)
    if not found:
        return json.dumps(rng.choice(VALUES))
    container, key = rng.choice(found)
    kind = rng.randrange(6)
    old = container[key]
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):  # another name
        container[rng.choice([f"{key}s", key.upper(), "extra", ""])] = container.pop(key)
    elif kind == 2:  # one more
        if isinstance(container, dict):
            container["extra"] = rng.choice(VALUES)
        else:
            container.insert(0, rng.choice([*VALUES, old]))
    elif kind == 3 and isinstance(old, (int, float)):
        container[key] = rng.choice(
            [old + 1, old - 1, -old, old * 1000, old / 2, str(old), [old], float(old), int(old)]
        )
    else:
        container[key] = rng.choice(VALUES)
    return json.dumps(value)


# Named arrays


def changed_arrays(arrays: Arrays, rng: random.Random) -> Arrays:
    """The arrays, one of them gone, renamed, of another shape or dtype, or with other numbers; or one more."""
    arrays = dict(arrays)
    name = rng.choice(list(arrays))
    a = arrays[name]
    kinds = [
        lambda: None,  # gone
        lambda: a.reshape(-1),
        lambda: a[None],
        lambda: a[..., None],
        lambda: a.T,
        lambda: a.reshape(-1)[:1],
        lambda: a.reshape(-1)[0],
        lambda: a[..., :1],
        lambda: a[:0],
        lambda: np.concatenate([a, a]),
        lambda: a.astype(rng.choice(["f8", "f2", "i4", "u1", "i8", "?"])),
        lambda: a.reshape(-1)[rng.sample(range(a.size), a.size)].reshape(a.shape),  # other numbers
        lambda: np.full_like(a, rng.choice([0, 1, -1, 1e30, np.nan, np.inf])),
    ]
    kind = rng.randrange(len(kinds) + 3)
    if kind < len(kinds):
        new = kinds[kind]()
        del arrays[name]
        if new is not None:
            arrays[name] = np.asarray(new)
    elif kind == len(kinds):
        arrays[name + rng.choice(["s", ".weight", "", " "])] = arrays.pop(name)
    elif kind == len(kinds) + 1:
        arrays[rng.choice(["extra", "net/extra", "optimizer/extra", "average/99", ""])] = a
    else:  # two change their names
        other = rng.choice(list(arrays))
        arrays[name], arrays[other] = arrays[other], arrays[name]
    return arrays


def changed_metadata(metadata: dict[str, str], rng: random.Random) -> dict[str, str]:
    """The metadata, one entry of it changed; the JSON in it mostly from within."""
    metadata = {key: value for key, value in metadata.items() if key != "sha256"}
    key = rng.choice(list(metadata))
    kind = rng.randrange(12)
    if kind == 0:
        del metadata[key]
    elif kind == 1:
        metadata[f"{key}s"] = metadata.pop(key)
    elif metadata[key][:1] in "{[":
        metadata[key] = changed_json(metadata[key], rng)
    else:
        metadata[key] = rng.choice(["", metadata[key] + "0", metadata[key].upper(), "inception_np 99"])
    return metadata


def packed(arrays: Arrays, metadata: dict[str, str]) -> bytes:
    """The file that the package writes for them, with its digest."""
    written: list[bytes] = []
    with mock.patch.object(tensorfile, "atomic_write", lambda _path, pieces: written.append(b"".join(pieces))):
        tensorfile.write_tensors("nowhere", arrays, {k: v for k, v in metadata.items() if k != "sha256"})
    return written[0]


def signed(content: bytes, rng: random.Random) -> bytes:
    """A file with one change and a right digest: of the arrays, of the metadata, or of the bytes of the header."""
    arrays, metadata = unpacked(content)
    kind = rng.random()
    if kind < 0.4:
        return packed(changed_arrays(arrays, rng), metadata)
    if kind < 0.9:
        return packed(arrays, changed_metadata(metadata, rng))
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    with contextlib.suppress(ValueError, RecursionError):
        return with_digest(changed_json(header.decode(), rng), data)
    return content


@cache
def unpacked(content: bytes) -> tuple[Arrays, dict[str, str]]:
    """(arrays, metadata) of a whole file."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return tensorfile.read_tensors(file.name)


def with_digest(header: str, data: bytes) -> bytes:
    """A file of this header, in which the digest is put right where there is a place for it."""
    entries = json.loads(header)
    if isinstance(entries, dict) and isinstance(entries.get("__metadata__"), dict):
        entries["__metadata__"]["sha256"] = tensorfile.NO_DIGEST
        digest = hashlib.sha256(tensorfile._header(entries) + data).hexdigest()
        entries["__metadata__"]["sha256"] = digest
    text = tensorfile._header(entries)
    return len(text).to_bytes(8, "little") + text + data

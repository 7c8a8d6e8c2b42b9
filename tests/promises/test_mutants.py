"""Thousands of damaged and changed checkpoints and foreign files: refused in one line, or read as what they say."""

import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors
from test_checkpoint import mutant

from inception_np import create_model, state_dict
from inception_np.layer import named_buffers
from inception_np.weights import checkpoint
from inception_np.weights.tensorfile import read_tensors

from . import mutate, small
from .faults import PLANTED

NETWORKS = {"tiny_cifar": {}, "inception_v1_cifar": {"width": 1 / 64, "batch_norm": True, "num_classes": 7}}
ABOUT = {"data": "shapes10", "classes": list("abcdefg"), "preprocess": {"size": [32, 32]}, "epochs": 3}


@cache
def saved(name: str) -> bytes:
    """The checkpoint of a network whose running averages are no round numbers."""
    net = create_model(name, **NETWORKS[name])
    for buffer in named_buffers(net).values():
        buffer.data[...] = np.random.default_rng(0).random(buffer.data.shape)
    with small.folder() as folder:
        checkpoint.save(net, folder / "m", about=ABOUT)
        return (folder / "m").read_bytes()


def refused_in_a_line(path: Path, error: Exception) -> str | None:
    """What is wrong with how a file was refused, or None."""
    text = str(error)
    if not isinstance(error, (ValueError, OSError)) or not mutate.LINE.fullmatch(text):
        return f"refused with {type(error).__name__}: {text!r}"
    return None if str(path) in text and len(text) < 1000 else f"refused without its name, or at length: {text!r}"


def damaged_checkpoint(seed: int, fault: str = "") -> str | None:
    with small.folder() as folder, small.small(), PLANTED[fault]():
        content = saved("tiny_cifar" if seed % 2 else "inception_v1_cifar")
        new = mutant(content, np.random.default_rng(seed))
        (folder / "m").write_bytes(new)
        try:
            checkpoint.read(folder / "m")
        except Exception as error:
            return refused_in_a_line(folder / "m", error)
        return None if new == content else "a damaged file was read"


def changed_checkpoint(seed: int, fault: str = "") -> str | None:
    with small.folder() as folder, small.small(), PLANTED[fault]():
        path = folder / "m"
        path.write_bytes(mutate.signed(saved("tiny_cifar" if seed % 4 else "inception_v1_cifar"), random.Random(seed)))
        try:
            net, about = checkpoint.read(path)
        except Exception as error:
            return refused_in_a_line(path, error)
        arrays, metadata = read_tensors(path)
        return misread(net, about, arrays, metadata)


def misread(net: checkpoint.Layer, about: dict, arrays: mutate.Arrays, metadata: dict[str, str]) -> str | None:
    """What a network was given that its file does not say, or was not given that it says; or None."""
    found = state_dict(net)
    if set(found) != set(arrays):
        return f"these arrays are not the file's: {set(found) ^ set(arrays)}"
    for name, array in arrays.items():
        as_read = array.astype(found[name].dtype)
        if array.dtype.kind != "f" or not same(found[name], as_read):
            return f"{name} is {array.dtype} {array.shape} in the file and {found[name].shape} in the network"
    if set(metadata) != {"format", "model", "about", "sha256"}:
        return f"the metadata has {sorted(metadata)}"
    model = json.loads(metadata["model"])
    if set(model) != {"name", "preset", "options"}:
        return f"the model has {sorted(model)}"
    told = {option: None if value is None else net.options.get(option) for option, value in model["options"].items()}
    if [model["name"], model["preset"], model["options"]] != [net.name, net.preset, told]:
        return f"the file says {model}, the network {net.name}, {net.preset}, {told}"
    return None if json.dumps(json.loads(metadata["about"])) == json.dumps(about) else f"about is {about}"


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@cache
def foreign() -> bytes:
    """A file that the safetensors library wrote."""
    from safetensors.numpy import save

    rng = np.random.default_rng(0)
    arrays = {
        "conv.weight": rng.standard_normal((4, 3, 3, 2)).astype(np.float32),
        "bn.running_var": rng.random(5),
        "half": rng.random((2, 3)).astype(np.float16),
        "num_batches_tracked": np.array(7, np.int64),
        "mask": np.array([True, False, True]),
        "none": np.zeros((0, 3), np.uint8),
    }
    return save(arrays, {"format": "pt"})


def damaged_foreign(seed: int) -> str | None:
    content = foreign()
    rng = random.Random(seed)
    if seed % 3:
        new = mutant(content, np.random.default_rng(seed))
    else:
        length = int.from_bytes(content[:8], "little")
        try:
            header = mutate.changed_json(content[8 : 8 + length].decode(), rng).encode()
        except ValueError:  # a number that JSON has no digits for
            return None
        new = len(header).to_bytes(8, "little") + header + content[8 + length :]
    with small.folder() as folder:
        (folder / "m").write_bytes(new)
        try:
            arrays, _ = read_tensors(folder / "m", verified=False)
        except Exception as error:
            return refused_in_a_line(folder / "m", error)
    try:
        wanted = dict(safetensors.deserialize(new))
    except safetensors.SafetensorError as error:
        return f"read, but refused by safetensors: {error}"
    for name in {**wanted, **arrays}:
        theirs, ours = wanted.get(name), arrays.get(name)
        if theirs is None or ours is None or list(ours.shape) != theirs["shape"]:
            return f"{name}: {theirs} by safetensors, {ours!r} by us"
        if ours.dtype != bool and theirs["dtype"] != "BF16" and ours.tobytes() != bytes(theirs["data"]):
            return f"{name}: other bytes than safetensors reads"
    return None


@pytest.mark.promise("checkpoint")
def test_damaged_checkpoints_are_refused(tally):
    tally.each(damaged_checkpoint)


@pytest.mark.promise("checkpoint signed")
def test_changed_checkpoints_load_as_what_they_say_or_not_at_all(tally):
    tally.each(changed_checkpoint)


@pytest.mark.promise("foreign")
def test_foreign_files_are_read_as_safetensors_reads_them_or_not_at_all(tally):
    tally.each(damaged_foreign)


def test_a_digest_that_is_not_looked_at_is_seen(broken):
    assert any(broken(damaged_checkpoint, seed, "unverified") for seed in range(40))


def test_an_array_that_is_broadcast_is_seen(broken):
    assert any(
        broken(changed_checkpoint, seed, "broadcast") and not broken(changed_checkpoint, seed) for seed in range(99)
    )


def test_there_are_mutants_that_are_read_and_mutants_that_are_refused(tmp_path):
    """Else the tests above would not say much."""
    read = {False: 0, True: 0}
    for seed in range(200):
        with small.small():
            (tmp_path / "m").write_bytes(mutate.signed(saved("tiny_cifar"), random.Random(seed)))
            try:
                checkpoint.read(tmp_path / "m")
                read[True] += 1
            except ValueError:
                read[False] += 1
    assert min(read.values()) > 20, read

"""The tensors of a TensorFlow.js layers model: `model.json`, and files of bytes beside it.

    {"format": "layers-model", "modelTopology": {"model_config": ...},
     "weightsManifest": [{"paths": ["group1-shard1of2.bin", ...],
                          "weights": [{"name": "conv2d_1/kernel", "shape": [3, 3, 3, 32], "dtype": "float32",
                                       "quantization": {"dtype": "uint8", "scale": 0.02, "min": -1.3}}, ...]}, ...]}

The files of a group, one after the other, are its tensors, one after the other, little-endian and rows first. Quantised
ones are, as in TensorFlow.js (decodeWeight of io_utils.ts),

    value = q * scale + min        in float64, rounded to float32 once
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .tensorfile import Tensors, strict_json

LONGEST_JSON = 64 << 20  # bytes; that of the largest network of the family has 1 MiB
LARGEST_TENSORS = 4 << 30
STORED = {"uint8": "|u1", "uint16": "<u2", "float16": "<f2"}  # what float32 may be quantised to
Where = Callable[[str, str], NoReturn]  # raises the ValueError of one line about a field


def read_tfjs(path: str | Path) -> tuple[Tensors, Any]:
    """(tensors by name, float32; the model's configuration as Keras writes it) of `model.json` and its files.

    Files are read from the folder of model.json alone. Raises ValueError of one line, `file: field: what`, for a model
    of another format and for anything that is not exactly right.
    """
    path = Path(path)

    def refuse(field: str, what: str) -> NoReturn:
        raise ValueError(f"{path}: {field}: {what}; take another copy of the model")

    if path.stat().st_size > LONGEST_JSON:
        refuse("model.json", f"got {path.stat().st_size} bytes, wanted {LONGEST_JSON} at most")
    try:
        model = strict_json(path.read_bytes())
    except ValueError as error:
        refuse("model.json", str(error))
    manifest = model.get("weightsManifest")
    if model.get("format", "layers-model") != "layers-model" or "model_config" not in _object(model, "modelTopology"):
        raise ValueError(
            f"{path}: format: got {str(model.get('format', 'no Keras topology'))[:40]!r}, wanted 'layers-model', which "
            "keeps the layers; convert the model with --output_format=tfjs_layers_model"
        )
    if not isinstance(manifest, list) or not all(isinstance(group, dict) for group in manifest):
        refuse("weightsManifest", "wanted a list of groups")
    state: Tensors = {}
    total = 0
    for i, group in enumerate(manifest):
        field = f"weightsManifest[{i}]"
        weights = group.get("weights")
        if not isinstance(weights, list):
            refuse(f"{field}.weights", "wanted a list of tensors")
        plan = [_parse_entry(entry, f"{field}.weights[{j}]", refuse) for j, entry in enumerate(weights)]
        total += sum(4 * math.prod(shape) for _, shape, _, _, _ in plan)
        if total > LARGEST_TENSORS:
            refuse(field, f"brings the tensors to {total} bytes, wanted {LARGEST_TENSORS} at most")
        data, end = _joined(path.parent, group.get("paths"), f"{field}.paths", refuse), 0
        for name, shape, stored, scale, least in plan:
            begin, end = end, end + math.prod(shape) * np.dtype(stored).itemsize
            if name in state:
                refuse(field, f"names {name[:80]!r} twice")
            if end > len(data):
                refuse(name[:80], f"bytes {begin} to {end} of the group's files, which have {len(data)}")
            state[name] = _values(data[begin:end].view(stored), scale, least).reshape(shape)
        if end != len(data):
            refuse(field, f"its files have {len(data)} bytes, wanted {end} for its tensors")
    return state, model["modelTopology"]["model_config"]


def _object(model: dict[str, Any], name: str) -> dict[str, Any]:
    value = model.get(name)
    return value if isinstance(value, dict) else {}


def _parse_entry(entry: Any, field: str, refuse: Where) -> tuple[str, tuple[int, ...], str, float, float]:
    """(name, shape, how it is stored, scale, min) of one tensor of the manifest."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        refuse(field, "wanted a name, a shape and a dtype")
    name, shape, quantization = entry["name"], entry.get("shape"), entry.get("quantization")
    if not isinstance(shape, list) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        refuse(name[:80], f"shape {str(shape)[:40]}, wanted a list of at most 32 integers from 0")
    if entry.get("dtype") != "float32":
        refuse(name[:80], f"dtype {str(entry.get('dtype'))[:40]!r}, wanted 'float32'")
    if quantization is None:
        return name, tuple(shape), "<f4", 1.0, 0.0
    stored = quantization.get("dtype") if isinstance(quantization, dict) else None
    if not isinstance(stored, str) or stored not in STORED:
        refuse(name[:80], f"quantised to {str(stored)[:40]!r}, wanted one of {', '.join(STORED)}")
    if stored == "float16":
        return name, tuple(shape), STORED[stored], 1.0, 0.0
    scale, least = quantization.get("scale"), quantization.get("min")
    if not all(type(v) in (int, float) and abs(v) < 1e30 for v in (scale, least)):
        refuse(name[:80], f"scale {str(scale)[:40]} and min {str(least)[:40]}, wanted numbers below 1e30")
    return name, tuple(shape), STORED[stored], float(scale), float(least)


def _joined(folder: Path, paths: Any, field: str, refuse: Where) -> np.ndarray:
    """The bytes of a group's files, one after the other."""
    if not isinstance(paths, list) or not all(isinstance(p, str) and p for p in paths):
        refuse(field, "wanted a list of names of files")
    pieces = []
    for name in paths:
        parts = name.split("/")
        if set(parts) & {"", ".", ".."} or any(c in name for c in "\\:\0"):
            refuse(field, f"got {name[:80]!r}, wanted a file in the folder of model.json")
        file = folder.joinpath(*parts)
        if not file.is_file():
            refuse(field, f"names {name[:80]!r}, and there is no such file beside model.json")
        pieces.append(np.fromfile(file, np.uint8))
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint8)


def _values(stored: np.ndarray, scale: float, least: float) -> np.ndarray:
    """Numbers as they are stored -> float32."""
    if stored.dtype.kind == "f":
        return stored.astype(np.float32)
    return (stored.astype(np.float64) * scale + least).astype(np.float32)

"""Models in TensorFlow.js's format, written for the tests."""

import json
import math

import numpy as np

STORED = {"uint8": "<u1", "uint16": "<u2", "float16": "<f2"}


def write(folder, state, description, kinds=("",), shard=1 << 20):
    """model.json and its files. kinds: what the tensors are quantised to, in turn; "" is not at all."""
    weights, data = [], b""
    for i, (name, value) in enumerate(state.items()):
        kind = kinds[i % len(kinds)]
        entry = {"name": name, "shape": list(value.shape), "dtype": "float32"}
        if kind == "float16":
            entry["quantization"] = {"dtype": kind}
            data += value.astype("<f2").tobytes()
        elif kind:
            least, most = (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
            levels = 2 ** (8 * np.dtype(STORED[kind]).itemsize) - 1
            scale = (most - least) / levels or 1.0
            entry["quantization"] = {"dtype": kind, "scale": scale, "min": least}
            data += np.round((value.astype(np.float64) - least) / scale).astype(STORED[kind]).tobytes()
        else:
            data += value.astype("<f4").tobytes()
        weights.append(entry)
    count = max(1, math.ceil(len(data) / shard))
    paths = [f"group1-shard{i + 1}of{count}.bin" for i in range(count)]
    for i, path in enumerate(paths):
        (folder / path).write_bytes(data[i * shard : (i + 1) * shard])
    model = {"format": "layers-model", "modelTopology": {"keras_version": "2.2.4", "model_config": description},
             "weightsManifest": [{"paths": paths, "weights": weights}]}  # fmt: skip
    (folder / "model.json").write_text(json.dumps(model))
    return folder / "model.json"


def plainly(path):
    """The tensors of such a model, number by number: the slow twin of read_tfjs."""
    model = json.loads(path.read_bytes())
    found = {}
    for group in model["weightsManifest"]:
        data, at = b"".join((path.parent / p).read_bytes() for p in group["paths"]), 0
        for entry in group["weights"]:
            how = entry.get("quantization") or {}
            kind = np.dtype(STORED.get(how.get("dtype"), "<f4"))
            values = []
            for _ in range(math.prod(entry["shape"])):
                number = np.frombuffer(data[at : at + kind.itemsize], kind)[0]
                at += kind.itemsize
                values.append(int(number) * how["scale"] + how["min"] if kind.kind == "u" else float(number))
            with np.errstate(all="ignore"):
                found[entry["name"]] = np.array(values, np.float64).astype(np.float32).reshape(entry["shape"])
    return found

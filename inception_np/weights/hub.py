"""A network in a folder, laid out as on the Hugging Face hub; nothing is fetched or sent.

    save_pretrained(model, "folder", about=about)
    model = from_pretrained("folder")

    model.safetensors   what `save` writes
    config.json         the same metadata in the open: the network's name and options, about, and the digest
    README.md           the model card, written where there is none; the licence is yours to fill in

`from_pretrained` also reads timm's folders, whose config.json names one of timm's architectures. The folder that
huggingface_hub's snapshot_download gives is such a folder.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import models
from ..data.files import atomic_write, make_folder
from ..data.preprocess import Preprocess
from ..layer import Layer, named_params
from ..models import Network
from .checkpoint import parse_metadata, read, save
from .convert import load_foreign, resolve_names
from .names import layer_names
from .tensorfile import read_tensors, strict_json

LONGEST_CONFIG = 16 << 20  # bytes
TIMM = {
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "inception_resnet_v2": "inception_resnet_v2",
    "legacy_xception": "xception",
    "xception": "xception",
}
V2_AND_V3 = "Rethinking the Inception Architecture for Computer Vision"
V4 = "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning"
PAPERS = {
    "inception_v1": ("Going Deeper with Convolutions", "1409.4842"),
    "bn_inception": ("Batch Normalization: Accelerating Deep Network Training", "1502.03167"),
    "inception_v2": (V2_AND_V3, "1512.00567"),
    "inception_v3": (V2_AND_V3, "1512.00567"),
    "inception_v4": (V4, "1602.07261"),
    "inception_resnet_v1": (V4, "1602.07261"),
    "inception_resnet_v2": (V4, "1602.07261"),
    "xception": ("Xception: Deep Learning with Depthwise Separable Convolutions", "1610.02357"),
}
CARD = """---
library_name: inception_np
pipeline_tag: image-classification
tags: [inception_np, {name}]
license: # yours to fill in
---

# {name}

{what}

| | |
| --- | --- |
| parameters | {parameters:,} |
| classes | {classes} |
| images | {images} |
| made by | `create_model({call})` |

```python
from inception_np import from_pretrained

model = from_pretrained("path/to/this/folder")
```

    inception-np predict path/to/this/folder/model.safetensors photo.jpg
"""


def save_pretrained(layer: Layer, folder: str | os.PathLike[str], *, about: Mapping[str, Any] | None = None) -> None:
    """Write a network from create_model into the folder: model.safetensors, config.json, and README.md if it has none.

    about: as `save` takes it. config.json is written last, and has the digest of the weights: a folder in which another
    save was cut off is refused by `from_pretrained`. Raises TypeError for a layer that create_model did not make,
    ValueError for one that was changed since, OSError of one line if the disk refuses.
    """
    if not isinstance(layer, Network) or layer.name not in models.MODELS:
        raise TypeError(f"save_pretrained: got a {type(layer).__name__}, wanted a network from create_model")
    about = json.loads(json.dumps(dict(about or {}), allow_nan=False))
    folder = make_folder(folder)
    save(layer, folder / "model.safetensors", about=about)
    metadata = read_tensors(folder / "model.safetensors")[1]
    if not (folder / "README.md").exists():
        atomic_write(folder / "README.md", _card(layer, about))
    atomic_write(folder / "config.json", json.dumps(_mirror(folder, metadata), indent=2) + "\n")


def from_pretrained(folder: str | os.PathLike[str]) -> Layer:
    """The network in a folder that `save_pretrained` wrote, in the dtype it had, or in one of timm's.

    Raises ValueError of one line for files that are damaged or do not belong together, OSError for ones that cannot be
    read.
    """
    return read_pretrained(folder)[0]


def read_pretrained(folder: str | os.PathLike[str]) -> tuple[Layer, dict[str, Any]]:
    """(the network, `about`) of such a folder; raises as `from_pretrained` does."""
    folder = Path(folder)
    path = folder / "config.json"
    for file in (path, folder / "model.safetensors"):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; wanted a folder with config.json and model.safetensors")
    if path.stat().st_size > LONGEST_CONFIG:
        raise ValueError(f"{path}: got {path.stat().st_size} bytes, wanted {LONGEST_CONFIG} at most")
    try:
        config = strict_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}; take another copy of the file") from None
    if "architecture" in config:
        return _read_timm(folder, config)
    layer, about = read(folder / "model.safetensors")
    wanted = _mirror(folder, read_tensors(folder / "model.safetensors")[1])
    wrong = [key for key in {**wanted, **config} if config.get(key) != wanted.get(key)]
    if wrong:
        raise ValueError(
            f"{path}: {wrong[0][:40]}: got {str(config.get(wrong[0]))[:60]}, wanted what model.safetensors says, "
            f"{str(wanted.get(wrong[0]))[:60]}; take both files from one save"
        )
    return layer, about


def _mirror(folder: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What config.json says beside a file with this metadata."""
    model, about = parse_metadata(folder / "model.safetensors", metadata)
    return {"format": metadata["format"], "model": model, "about": about, "sha256": metadata["sha256"]}


def _card(layer: Network, about: Mapping[str, Any]) -> str:
    what = "A small network made for speed."
    if paper := PAPERS.get(layer.name.removesuffix("_cifar")):
        what = f"The network of [{paper[0]}](https://arxiv.org/abs/{paper[1]})"
        what += ", for images of 32x32." if layer.name.endswith("_cifar") else "."
    names = about.get("classes")
    classes = str(layer.num_classes) + (f": {', '.join(map(str, names[:10]))}" if isinstance(names, list) else "")
    how = about.get("preprocess")
    images = "{}x{}x{}".format(*layer.image)
    if isinstance(how, dict):
        images += ", " + ", ".join(f"{key} {value}" for key, value in how.items() if value is not None)
    options = ", ".join(f"{key}={value!r}" for key, value in layer.options.items() if value is not None)
    return CARD.format(
        name=layer.name,
        what=what,
        parameters=sum(p.data.size for p in named_params(layer).values()),
        classes=classes + (", ..." if isinstance(names, list) and len(names) > 10 else ""),
        images=images,
        call=f"{layer.name!r}, preset={layer.preset!r}, {options}",
    )


# ------------------------------------------------------------------------------------- timm's folders


def _read_timm(folder: Path, config: Mapping[str, Any]) -> tuple[Layer, dict[str, Any]]:
    """The network of a folder that timm's push_to_hf_hub wrote, and how timm prepares its images."""
    path = folder / "config.json"
    architecture, classes = config["architecture"], config.get("num_classes")
    name = TIMM.get(architecture) if isinstance(architecture, str) else None
    if name is None:
        raise ValueError(f"{path}: architecture: got {str(architecture)[:40]!r}, wanted one of {', '.join(TIMM)}")
    if type(classes) is not int or not 0 < classes <= 1_000_000:
        raise ValueError(f"{path}: num_classes: got {str(classes)[:40]}, wanted an integer from 1")
    usual = {"num_classes": classes, "in_chans": 3, "global_pool": "avg"}  # what else a person may choose, we have not
    chosen = config.get("model_args") or {}
    if not isinstance(chosen, dict):
        raise ValueError(f"{path}: model_args: got {str(chosen)[:40]}, wanted an object")
    for key, value in [("global_pool", config.get("global_pool", "avg")), *chosen.items()]:
        if value != usual.get(key, value) or key not in (*usual, "aux_logits", "drop_rate"):
            raise ValueError(f"{path}: {key[:40]}: got {str(value)[:40]}, wanted {usual.get(key, 'none')}")
    file = folder / "model.safetensors"
    state = read_tensors(file, verified=False)[0]
    last = layer_names(name, "timm")[-1].torch
    bias = resolve_names(state, name, "timm").get(f"{last}.bias")
    if bias is None or bias[1].shape != (classes,):
        got = "none" if bias is None else f"one of shape {bias[1].shape}"
        raise ValueError(f"{file}: {last}.bias: got {got}, wanted config.json's {classes} classes")
    aux = any(key.startswith("AuxLogits.") for key in state)
    layer = models.create_model(name, preset="timm", num_classes=classes, aux=aux)
    try:
        load_foreign(layer, state, "timm")
    except (ValueError, TypeError) as error:
        raise type(error)(f"{file}: {error}") from None
    about: dict[str, Any] = {"source": "timm", "file": file.name}
    labels = config.get("label_names")
    if isinstance(labels, list) and len(labels) == classes:
        about["classes"] = [str(label) for label in labels]
    try:
        about["preprocess"] = _timm_preprocess(config["pretrained_cfg"]).to_dict()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: pretrained_cfg: got {str(error)[:80]}, wanted timm's fields") from None
    return layer, about


def _timm_preprocess(how: Mapping[str, Any]) -> Preprocess:
    """timm's crop_pct is the crop's side as a fraction of the shorter side; its mean and std are of pixels 0..1."""
    channels, height, width = how["input_size"]
    mean, std = ([255 * value for value in how[key]] for key in ("mean", "std"))
    if len(mean) != channels or how.get("crop_mode", "center") != "center":
        raise ValueError(f"{len(mean)} means and the crop {how.get('crop_mode')!r}")
    resize = math.floor(max(height, width) / how["crop_pct"])
    return Preprocess((height, width), resize, how["interpolation"], mean=tuple(mean), std=tuple(std))

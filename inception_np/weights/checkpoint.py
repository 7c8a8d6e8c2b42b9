"""A network's numbers as a dictionary and as a file.

    save(model, "model.safetensors")          weights, running averages, the name and its options
    model = load("model.safetensors")         the same network again

    state = state_dict(model)                 {"3a.b3.conv.weight": array, ...}
    load_state_dict(model, state)             all of them or none; classifier=False: all but the classifier's

tensorfile.py describes the file's format. convert.py has the names and layouts of other libraries' weights
(`source="torchvision"`, `"timm"`, `"keras"`).
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import models
from ..backend.device import asarray, to_device_of
from ..layer import Layer, cast, walk
from ..layers.conv import Conv2D
from ..layers.linear import Linear
from ..models.network import signature
from ..models.size import readable, weights_of
from .convert import from_native, listed, load_foreign, named_arrays
from .tensorfile import Tensors, read_tensors, write_tensors

FORMAT = "inception_np 1"
# A file may ask for any network that exists, but not for one that no machine could hold.
LARGEST_OPTIONS = {"width": 16, "num_classes": 1_000_000, "in_channels": 10_000}


def state_dict(layer: Layer, *, source: str = "native") -> Tensors:
    """Copies of every parameter and running average by their paths, on the CPU.

    source: the library whose names and layouts the arrays get ("torchvision", "timm", "keras"); "native" is ours.
    Raises ValueError or TypeError for a network that the library does not have.
    """
    state = {path: np.array(asarray(array.data, "cpu")) for path, array in named_arrays(layer).items()}
    return state if source == "native" else from_native(layer, state, source)


def load_state_dict(
    layer: Layer, state: Mapping[str, np.ndarray], *, source: str = "native", classifier: bool = True
) -> Any:
    """Copy the arrays into the layer's parameters and running averages.

    Every one must be there, in its shape, and no other; floating point of another width is rounded to the layer's.
    classifier: False leaves the arrays of the last layer, and of each auxiliary head's last layer, as they are, for
    weights that were trained on other classes. Returns the paths of those, [] where everything was loaded.
    Raises ValueError or TypeError that lists what does not fit, and then nothing has changed.
    source: another library's arrays are loaded by `load_foreign` in convert.py, whose report is returned.
    """
    if source != "native":
        return load_foreign(layer, state, source, classifier=classifier)
    kept = [] if classifier else classifier_paths(layer)
    targets = {path: array for path, array in named_arrays(layer).items() if path not in kept}
    missing = [path for path in targets if path not in state]
    unexpected = [path for path in state if path not in targets and path not in kept]
    if missing or unexpected:
        raise ValueError(
            f"state: {listed('missing', missing)}, {listed('unexpected', unexpected)}; "
            "it belongs to another network, or to other options of this one"
        )
    values = {path: np.asarray(state[path]) for path in targets}
    wrong = [
        f"{path} {values[path].shape} instead of {tuple(target.data.shape)}"
        for path, target in targets.items()
        if values[path].shape != tuple(target.data.shape)
    ]
    if wrong:
        raise ValueError(
            f"state: {listed('wrong shapes', wrong)}; "
            "it belongs to other options of this network (width, classes, channels); "
            "classifier=False loads the rest if only the classes are others"
        )
    kinds = [
        f"{path} {values[path].dtype} instead of {target.data.dtype}"
        for path, target in targets.items()
        if values[path].dtype.kind not in ("f", target.data.dtype.kind)
    ]
    if kinds:
        raise TypeError(f"state: {listed('wrong types', kinds)}; give floating point arrays")
    for path, target in targets.items():
        target.data[...] = to_device_of(values[path].astype(target.data.dtype, copy=False), target.data)
    return kept


def classifier_paths(layer: Layer) -> list[str]:
    """The arrays of the last convolution or linear layer, and of each auxiliary head's: those that give the classes."""
    heads = [f"aux_{stage}" for stage in getattr(layer, "heads", {})]
    layers = [path for path, child in walk(layer) if isinstance(child, (Conv2D, Linear))]
    last = {path.partition(".")[0] if path.partition(".")[0] in heads else "": path for path in layers}
    return [path for path in named_arrays(layer) if path.rpartition(".")[0] in last.values()]


def save(layer: Layer, path: str | os.PathLike[str], *, about: Mapping[str, Any] | None = None) -> None:
    """Write the layer's state, with the network's name and options, to the file `path`, replacing it.

    about: what else belongs to the weights, such as the class names and the normalisation of the images they were
    trained on: anything that JSON can hold. `read` returns it. Raises ValueError for a network from create_model that
    was changed since, which `load` would make unchanged, and OSError of one line if the disk refuses; the file is then
    as it was.
    """
    model = None
    if hasattr(layer, "options") and getattr(layer, "name", "") in models.MODELS:
        named: Any = layer
        check_as_made(named)
        model = {"name": named.name, "preset": named.preset, "options": named.options}
    metadata = {"format": FORMAT, "model": json.dumps(model), "about": json.dumps(dict(about or {}))}
    write_tensors(path, state_dict(layer), metadata)


def check_as_made(layer: Any) -> None:
    """Raise ValueError that lists the differences unless create_model makes this network of its name and options."""
    if getattr(layer, "made", None) is None:
        layer.made = signature(models.create_model(layer.name, preset=layer.preset, **layer.options))
    made, now = layer.made, signature(layer)
    lost = [path for path in made if path not in now]
    new = [path for path in now if path not in made]
    changed = [path for path in made if path in now and made[path] != now[path]]
    if lost or new or changed:
        raise ValueError(
            f"save: got a {layer.name} that was changed after create_model made it: {listed('lost', lost)}, "
            f"{listed('new', new)}, {listed('changed', changed)}; load would make it as it was. To save the numbers "
            'alone, set its name to ""'
        )


def load(path: str | os.PathLike[str]) -> Layer:
    """The network that `save` wrote to `path`, in the dtype it had.

    Raises ValueError of one line for a file that is damaged or of another kind, OSError for one that cannot be read.
    """
    return read(path)[0]


def read(path: str | os.PathLike[str]) -> tuple[Layer, dict[str, Any]]:
    """(the network, `about`) of a file that `save` wrote; raises as `load` does."""
    state, metadata = read_tensors(path)
    model, about = parse_metadata(path, metadata)
    if model is None:
        raise ValueError(
            f"{path}: model: the file has no network's name; build the layer yourself, then "
            "load_state_dict(layer, read_tensors(path)[0])"
        )
    _check_size(path, model, sum(array.nbytes for array in state.values()))
    try:
        layer: Layer = models.create_model(model["name"], preset=model["preset"], **model["options"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: model: {error}; it needs another version of this package") from error
    if all(array.dtype == np.float64 for array in state.values()):
        cast(layer, np.float64)
    try:
        load_state_dict(layer, state)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return layer, about


def _check_size(path: str | os.PathLike[str], model: Mapping[str, Any], held: int) -> None:
    """Refuse a file that asks for a network much larger than itself: making it would take minutes, or all memory."""
    width, entry = model["options"].get("width"), models.MODELS.get(model["name"])
    if entry is None or not isinstance(width, (int, float)) or width <= 2 * entry.width:
        return
    wanted = weights_of(model["name"], width)
    if wanted > 4 * held:
        raise ValueError(
            f"{path}: model: width {width:g} makes about {readable(wanted)} of weights, the file has {readable(held)}; "
            "take another copy of the file"
        )


def parse_metadata(
    path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """(model, about) in a file's metadata, checked to be what `save` writes: names and scalars."""
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format: got {metadata.get('format')!r}, wanted {FORMAT!r}; "
            "read it with the version of this package that wrote it"
        )
    extra = sorted(set(metadata) - {"format", "model", "about", "sha256"})
    if extra:
        raise ValueError(
            f"{path}: metadata: got the field {extra[0][:40]!r}, which no checkpoint has; take another copy"
        )
    try:
        model, about = json.loads(metadata["model"]), json.loads(metadata["about"])
        if not isinstance(about, dict):
            raise ValueError("about is not an object")
        if model is not None:
            options = model["options"]
            if set(model) != {"name", "preset", "options"}:
                raise ValueError(f"got {', '.join(sorted(model))[:80]}, wanted a name, a preset, options and no more")
            if not all(isinstance(model[key], str) for key in ("name", "preset")):
                raise ValueError("wanted a name and a preset")
            if not isinstance(options, dict):
                raise ValueError("wanted options")
            for option, value in options.items():
                if not isinstance(value, bool | int | float | str | None):
                    raise ValueError(f"option {option} is not a number, a word or null")
                if isinstance(value, int | float) and not abs(value) <= LARGEST_OPTIONS.get(option, 2**63):
                    raise ValueError(f"option {option} is {value}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: model: {error}; take another copy of the file") from error
    return model, about

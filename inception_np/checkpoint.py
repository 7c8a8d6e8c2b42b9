"""A network's numbers as a dictionary and as a file.

    save(model, "model.safetensors")          weights, running averages, the name and its options
    model = load("model.safetensors")         the same network again

    state = state_dict(model)                 {"3a.b3.conv.weight": array, ...}
    load_state_dict(model, state)             all of them or none

The file's format is described in tensorfile.py. What other programs' weights are called and how
they are laid out is in weights.py (`source="torchvision"`, `"timm"`, `"keras"`).
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .backend import asarray, beside
from .layer import Layer, cast, named_buffers, named_params
from .tensorfile import read_tensors, write_tensors

FORMAT = "inception_np 1"


def state_dict(layer: Layer, *, source: str = "native") -> dict[str, np.ndarray]:
    """Copies of every parameter and running average by their paths, on the CPU.

    source: whose names and layouts the arrays get; ours unless told otherwise.
    """
    state = {path: np.array(asarray(slot.data, "cpu")) for path, slot in _slots(layer).items()}
    if source == "native":
        return state
    from .weights import from_native

    return from_native(layer, state, source)


def load_state_dict(layer: Layer, state: Mapping[str, np.ndarray], *, source: str = "native") -> Any:
    """Copy the arrays into the layer's parameters and running averages.

    Every one must be there, in its shape, and no other; floating point of another width is
    rounded to the layer's. Raises ValueError or TypeError that lists what does not fit, and then
    nothing has changed. For another source than ours, see weights.py.
    """
    if source != "native":
        from .weights import load_foreign

        return load_foreign(layer, state, source)
    slots = _slots(layer)
    missing = [path for path in slots if path not in state]
    unexpected = [path for path in state if path not in slots]
    if missing or unexpected:
        raise ValueError(
            f"state: {_listed('missing', missing)}, {_listed('unexpected', unexpected)}; "
            "it belongs to another network, or to other options of this one"
        )
    values = {path: np.asarray(state[path]) for path in slots}
    wrong = [
        f"{path} {values[path].shape} instead of {tuple(slot.data.shape)}"
        for path, slot in slots.items()
        if values[path].shape != tuple(slot.data.shape)
    ]
    if wrong:
        raise ValueError(
            f"state: {_listed('wrong shapes', wrong)}; "
            "it belongs to other options of this network (width, classes, channels)"
        )
    kinds = [
        f"{path} {values[path].dtype} instead of {slot.data.dtype}"
        for path, slot in slots.items()
        if values[path].dtype.kind not in ("f", slot.data.dtype.kind)
    ]
    if kinds:
        raise TypeError(f"state: {_listed('wrong types', kinds)}; give floating point arrays")
    for path, slot in slots.items():
        slot.data[...] = beside(values[path].astype(slot.data.dtype, copy=False), slot.data)
    return None


def save(layer: Layer, path: str | os.PathLike, *, about: Mapping[str, Any] | None = None) -> None:
    """Write the layer's state, with the network's name and options, in place of the file `path`.

    about: what else belongs to the weights, such as the class names and the normalisation of the
    images they were trained on: anything that JSON can hold. `read` gives it back.
    Raises ValueError for a network from create_model that was changed since, which `load` would make
    as it was, and OSError of one line if the disk refuses; the file is then as it was.
    """
    from .models import MODELS  # here, so that importing this file stays cheap

    model = None
    if hasattr(layer, "options") and getattr(layer, "name", "") in MODELS:
        named: Any = layer
        check_as_made(named)
        model = {"name": named.name, "preset": named.preset, "options": named.options}
    metadata = {
        "format": FORMAT,
        "model": json.dumps(model),
        "about": json.dumps(dict(about or {})),
    }
    write_tensors(path, state_dict(layer), metadata)


def check_as_made(layer: Any) -> None:
    """Is a network what create_model makes of its name and options? Raises ValueError that lists what is not."""
    from .models.network import signature

    if getattr(layer, "made", None) is None:  # its name was given by hand
        from .models import create_model

        made = signature(create_model(layer.name, preset=layer.preset, **layer.options))
    else:
        made = layer.made
    now = signature(layer)
    lost = [path for path in made if path not in now]
    new = [path for path in now if path not in made]
    changed = [path for path in made if path in now and made[path] != now[path]]
    if lost or new or changed:
        raise ValueError(
            f"save: got a {layer.name} that was changed after create_model made it: {_listed('lost', lost)}, "
            f"{_listed('new', new)}, {_listed('changed', changed)}; load would make it as it was. To save the numbers "
            'alone, set its name to ""'
        )


def load(path: str | os.PathLike) -> Layer:
    """The network that `save` wrote to `path`, in the dtype it had.

    Raises ValueError of one line for a file that is damaged or of another kind, OSError for one
    that cannot be read.
    """
    return read(path)[0]


def read(path: str | os.PathLike) -> tuple[Layer, dict[str, Any]]:
    """(the network, what was said about it) of a file that `save` wrote; raises as `load` does."""
    state, metadata = read_tensors(path)
    model, about = described(path, metadata)
    if model is None:
        raise ValueError(
            f"{path}: model: the file has no network's name; build the layer yourself, then "
            "load_state_dict(layer, read_tensors(path)[0])"
        )
    from .models import create_model  # here, so that importing this file stays cheap

    _check_weights_are_there(path, model, sum(array.nbytes for array in state.values()))
    try:
        layer = create_model(model["name"], preset=model["preset"], **model["options"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: model: {error}; it needs another version of this package") from error
    if all(array.dtype == np.float64 for array in state.values()):
        cast(layer, np.float64)
    try:
        load_state_dict(layer, state)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return layer, about


def _check_weights_are_there(path: str | os.PathLike, model: Mapping[str, Any], held: int) -> None:
    """Refuse a file that asks for a network much larger than itself: making it would take minutes, or all memory."""
    from .models import MODELS
    from .models.size import readable, weights_of

    width, entry = model["options"].get("width"), MODELS.get(model["name"])
    if entry is None or not isinstance(width, (int, float)) or width <= 2 * entry.width:
        return
    wanted = weights_of(model["name"], width)
    if wanted > 4 * held:
        raise ValueError(
            f"{path}: model: width {width:g} makes about {readable(wanted)} of weights, the file has {readable(held)}; "
            "take another copy of the file"
        )


def described(path: str | os.PathLike, metadata: Mapping[str, str]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
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
                if isinstance(value, int | float) and not abs(value) <= LARGEST.get(option, 2**63):
                    raise ValueError(f"option {option} is {value}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: model: {error}; take another copy of the file") from error
    return model, about


# A file may ask for any network that exists, but not for one that no machine could hold.
LARGEST = {"width": 16, "num_classes": 1_000_000, "in_channels": 10_000}


def _slots(layer: Layer) -> dict[str, Any]:
    return {**named_params(layer), **named_buffers(layer)}


def _listed(what: str, found: list[str]) -> str:
    """ "2 missing (a, b)", the first five of them."""
    more = ", ..." if len(found) > 5 else ""
    return f"{len(found)} {what}" + (f" ({', '.join(found[:5])}{more})" if found else "")

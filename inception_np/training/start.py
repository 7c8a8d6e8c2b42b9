"""Starting from a checkpoint (`--from`): what a run takes from the file, and what it does not.

    given = options_from("inception_v3-timm.safetensors", given)     the network and its normalisation, unless given
    take_weights(net, data, path)                                    all but a classifier of other classes

Images are normalised as those were that the weights were trained on: frozen stages expect it, and so do averages. What
is taken is in the options and the state of the run, so that resuming it does not read the file again.
"""

from collections.abc import Mapping
from typing import Any

from ..backend.errors import UsageError
from ..data.dataset import Dataset
from ..data.preprocess import Preprocess
from ..data.streams import say
from ..models.network import Network
from ..weights.checkpoint import load_state_dict, parse_metadata
from ..weights.tensorfile import Tensors, read_tensors
from .own_options import as_texts
from .watchdog import is_finite


def options_from(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` and, where it says nothing, the checkpoint's network, its options, and its mean and std.

    Raises UsageError for a file without a network's name and for one whose images are not RGB, and what `read_tensors`
    raises.
    """
    _, model, about = _read(path)
    stored, how = model["options"], _normalisation(path, about)
    found = {"model": model["name"], "preset": model["preset"], "width": stored.get("width")}
    found["aux"] = stored.get("aux") is not False
    own = {name: value for name, value in stored.items() if name not in ("num_classes", "in_channels", "width", "aux")}
    found |= {"option": as_texts(own)} if own else {}
    if how and not {"mean", "std"} & set(given):
        found |= {"mean": how.mean, "std": how.std}
    return {**found, **given}


def take_weights(net: Network, data: Dataset, path: str) -> None:
    """Put the checkpoint's weights and averages into the network, and say in one line what was not taken.

    The last layers of the network and of its heads are left as they are if the checkpoint has another number of
    classes, or names classes that are not the data set's, in its order. Raises UsageError for another network, and
    ValueError for numbers that are not finite.
    """
    state, model, about = _read(path)
    _check_network(net, model, path)
    for name, array in state.items():
        if not is_finite(array):
            raise ValueError(f"{path}: {name} holds NaN or infinity; take a checkpoint from before that")
    count = model["options"].get("num_classes")
    known = about.get("classes", list(data.classes)) == list(data.classes)
    same = count == net.num_classes and known
    dropped = [name for name in state if name.startswith("aux_") and name.partition(".")[0] not in net.children()]
    try:
        kept = load_state_dict(net, {k: v for k, v in state.items() if k not in dropped}, classifier=same)
    except (ValueError, TypeError) as error:
        raise UsageError(f"--from: {path}: {error}") from error
    taken, parts = len(state) - len(dropped) - len(kept), []
    if kept:
        why = "others" if count == net.num_classes else f"{count}, those of {data.name} {net.num_classes}"
        parts.append(f"{', '.join(kept)} are new: its classes are {why}")
    if dropped:
        parts.append(f"{', '.join(dropped)} are left out, for want of the head")
    how = _normalisation(path, about)
    if how and (how.mean, how.std) != (data.mean, data.std):
        parts.append("images are normalised otherwise than there")
    say(f"inception-np: {taken} tensors are from {path}; {'; '.join(parts) or 'none is new'}")


def _normalisation(path: str, about: Mapping[str, Any]) -> Preprocess | None:
    """How the checkpoint's images were prepared, if it says so."""
    if "preprocess" not in about:
        return None
    how = Preprocess.from_dict(about["preprocess"])
    if how.bgr:
        raise UsageError(f"--from: {path} wants blue before green and red, training has red first; take another")
    return how


def _read(path: str) -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    """(arrays, network, what is said about it) of a checkpoint."""
    state, metadata = read_tensors(path)
    model, about = parse_metadata(path, metadata)
    if model is None:
        raise UsageError(f"--from: {path} does not name its network; give a file that train, save or import wrote")
    return state, model, about


def _check_network(net: Network, model: Mapping[str, Any], path: str) -> None:
    """Raise UsageError unless the checkpoint is of this network, but for its classes and auxiliary heads."""
    free = ("num_classes", "aux")
    ours = {"model": net.name, "preset": net.preset, **{k: v for k, v in net.options.items() if k not in free}}
    theirs = {"model": model["name"], "preset": model["preset"]}
    theirs |= {k: v for k, v in model["options"].items() if k not in free}
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            if name in ("model", "preset", "width"):
                raise UsageError(f"--{name}: got {ours[name]}, but {path} has {theirs.get(name)}; leave it out")
            raise UsageError(
                f"{'--from' if name == 'in_channels' else '--option'}: {path} has {name}={theirs.get(name)}, "
                f"a new network {ours.get(name)}; take another checkpoint, or leave --option out"
            )

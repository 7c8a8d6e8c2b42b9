"""Public weights: other libraries' tensors in our networks, and ours in theirs.

    report = load_state_dict(model, state, source="torchvision")     # or timm, keras
    state = state_dict(model, source="torchvision")                  # for torch's load_state_dict

Three things differ between the libraries. Names: names.py has one table per network. Layout: a convolution is
(kh, kw, C_in, C_out) here and in Keras, (C_out, C_in, kh, kw) in PyTorch. Classes: files converted from TensorFlow may
have 1001, the first of them "background".

Loading checks everything before it changes anything: after an error the model is as it was.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..backend.device import to_device_of
from ..layer import Buffer, Layer, Param, named_buffers, named_params, walk
from ..layers.batchnorm import BatchNorm
from ..layers.conv import Conv2D
from ..layers.depthwise import DepthwiseConv2D
from ..layers.linear import Linear
from .keras_names import resolve_keras_names
from .names import SOURCES, LayerNames, layer_names, resolve_torch_names
from .tensorfile import Tensors

# ------------------------------------------------------------------------------------- layouts


class Layout(NamedTuple):
    """How a tensor is transposed, from theirs to ours and back. The shapes given to both are ours."""

    text: str
    to_ours: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    to_theirs: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


def _conv_to_ours(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if w.ndim == 2:  # older files store a 1x1 kernel as (O, I)
        w = w[:, :, None, None]
    return w.transpose(2, 3, 1, 0)


def _depthwise_to_ours(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    kh, kw, channels, multiplier = shape
    return w.reshape(channels, multiplier, kh, kw).transpose(2, 3, 0, 1)


def _flat_to_ours(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    height, width, channels = shape
    w = w.reshape(len(w), channels, height, width)
    return w.transpose(2, 3, 1, 0).reshape(-1, len(w))


SAME = Layout("", lambda w, shape: w, lambda w, shape: w)
CONV = Layout("(O, I, h, w) to (h, w, I, O)", _conv_to_ours, lambda w, shape: w.transpose(3, 2, 0, 1))
DEPTHWISE = Layout(
    "(C m, 1, h, w) to (h, w, C, m)",
    _depthwise_to_ours,
    lambda w, shape: w.transpose(2, 3, 0, 1).reshape(-1, 1, *w.shape[:2]),
)
LINEAR = Layout("(O, I) to (I, O)", lambda w, shape: w.T, lambda w, shape: w.T)
FLAT = Layout(  # the shape is that of the map: (h, w, C)
    "(O, C h w) to (h w C, O)",
    _flat_to_ours,
    lambda w, shape: w.reshape(*shape, -1).transpose(3, 2, 0, 1).reshape(w.shape[1], -1),
)


# ------------------------------------------------------------------------------- pairs of tensors


class TensorPair(NamedTuple):
    """One tensor of ours and the one of theirs that belongs to it."""

    ours: str
    theirs: str
    layout: Layout
    target: Param | Buffer | None  # None: a gamma that our layer does not have
    shape: tuple[int, ...]  # what the layout needs to know
    classifier: bool  # its outputs are the classes

    def convert(self, given_name: str, value: np.ndarray) -> tuple[np.ndarray, str]:
        """(their tensor in our layout, how it was converted), without the background class where ours has none."""
        assert self.target is not None
        how, shape = self.layout.text, self.target.data.shape
        if self.classifier and shape[-1] == 1000:
            axis = 0 if self.layout is not SAME else value.ndim - 1
            if value.ndim and value.shape[axis] == 1001:
                value = value[1:] if axis == 0 else value[..., 1:]
                how = f"{how}; class 0 (background) dropped".removeprefix("; ")
        try:
            converted = self.layout.to_ours(value, self.shape)
        except (ValueError, IndexError):
            converted = value
        if converted.shape != shape:
            raise ValueError(
                f"{given_name}: got shape {value.shape}, wanted {self.ours}'s {shape}"
                + (f", turned from {self.layout.text}" if self.layout.text else "")
                + ("; without the classifier (import --num-classes) it fits" if self.classifier else "")
            )
        return converted, how


# Our name, PyTorch's, Keras's
NORM = (("gamma", "weight", "gamma"), ("beta", "bias", "beta"),
        ("mean", "running_mean", "moving_mean"), ("var", "running_var", "moving_variance"))  # fmt: skip


def _layer_pairs(layer: Layer, row: LayerNames, source: str) -> list[TensorPair]:
    """The tensors of one layer."""

    def pair(ours: str, torch: str, keras: str, layout: Layout, target: Param | Buffer | None) -> TensorPair:
        shape: tuple[int, ...] = target.data.shape if target is not None else ()
        if source == "keras":  # the row may name the tensor itself, and the layout is ours
            theirs, layout = row.keras if "/" in row.keras else f"{row.keras}/{keras}", SAME
        else:
            theirs = f"{row.torch}.{torch}"
        if layout is FLAT and row.flat:
            shape = (*row.flat, shape[0] // (row.flat[0] * row.flat[1]))
        return TensorPair(f"{row.ours}.{ours}", theirs, layout, target, shape, row.classifier)

    if isinstance(layer, BatchNorm):
        return [pair(ours, torch, keras, SAME, getattr(layer, ours)) for ours, torch, keras in NORM]
    if isinstance(layer, DepthwiseConv2D):
        return [pair("weight", "weight", "depthwise_kernel", DEPTHWISE, layer.weight)]
    if not isinstance(layer, (Conv2D, Linear)):
        raise TypeError(f"{row.ours}: got {type(layer).__name__}, wanted a layer with weights")
    layout = CONV if isinstance(layer, Conv2D) else FLAT if row.flat else LINEAR
    pairs = [pair("weight", "weight", "kernel", layout, layer.weight)]
    if layer.bias is not None:
        pairs.append(pair("bias", "bias", "bias", SAME, layer.bias))
    return pairs


def _tensor_pairs(layer: Layer, name: str, source: str) -> tuple[list[TensorPair], list[str]]:
    """All tensors of a network, and the prefixes of the auxiliary heads that theirs has and ours has not."""
    found = dict(walk(layer))
    pairs, absent = [], []
    for row in named_rows(layer, name, source):
        if row.ours in found:
            pairs += _layer_pairs(found[row.ours], row, source)
        elif row.aux:
            absent.append(row.torch + ".")
        else:
            raise ValueError(
                f"{name}: got a model without {row.ours}, wanted the network that {source} has; "
                f"create_model({name!r}, preset={source!r}) makes it"
            )
    extra = sorted(set(named_arrays(layer)) - {pair.ours for pair in pairs})
    if extra:
        raise ValueError(
            f"{name}: {listed('arrays', extra)} of the model have no place in {source}'s files; "
            f"create_model({name!r}, preset={source!r}) makes the network that {source} has"
        )
    return pairs, absent


def named_rows(layer: Layer, name: str, source: str) -> list[LayerNames]:
    """The rows of the network's table, and those of the fully connected layers that a network for Keras may have more.

    Keras's files call them as a person did; keras_config.py gives them the names "fc1", "fc2", ...
    """
    rows = layer_names(name, source)
    if source == "keras":
        paths = {path for path, _ in walk(layer)}
        before, last = rows[-1].ours.rpartition("fc")[0], rows.pop()
        hidden = (LayerNames(f"{before}fc{i}", "", f"fc{i}") for i in range(1, 10))
        rows += [*(row for row in hidden if row.ours in paths), last]
    return rows


def named_arrays(layer: Layer) -> dict[str, Param | Buffer]:
    """What a checkpoint holds: every Param and Buffer by its path."""
    return {**named_params(layer), **named_buffers(layer)}


def listed(what: str, names: list[str]) -> str:
    """ "2 missing (a, b)", the first five of them."""
    more = ", ..." if len(names) > 5 else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:5])}{more})" if names else "")


# -------------------------------------------------------------------------------------- report


@dataclass
class Report:
    """What loading did with every tensor. `print(report)` is the whole list, one line each.

    loaded: (their name, our name, how it was converted or ""). filled: our names that the file has nothing for and
    that were set to a neutral value, with the reason. skipped: their names that were not needed, with the reason.
    missing: our names that the file lacks. unexpected: their names that no tensor of ours has.
    """

    source: str
    model: str
    loaded: list[tuple[str, str, str]] = field(default_factory=list)
    filled: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def renamed(self) -> list[tuple[str, str]]:
        return [(theirs, ours) for theirs, ours, _ in self.loaded if theirs != ours]

    @property
    def transposed(self) -> list[tuple[str, str]]:
        return [(ours, how) for _, ours, how in self.loaded if how]

    @property
    def summary(self) -> str:
        """One line of counts."""
        kinds = ("loaded", "renamed", "transposed", "filled", "skipped", "missing", "unexpected")
        return f"{self.model} from {self.source}: " + ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in kinds)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{theirs} -> {ours}{how and f'  {how}'}" for theirs, ours, how in self.loaded]
        lines += [f"filled: {ours}  {why}" for ours, why in self.filled]
        lines += [f"skipped: {theirs}  {why}" for theirs, why in self.skipped]
        lines += [f"missing: {ours}" for ours in self.missing]
        lines += [f"unexpected: {theirs}" for theirs in self.unexpected]
        return "\n".join([self.summary, *lines])


# ------------------------------------------------------------------------------- their tensors to ours


def load_foreign(
    layer: Layer, state: Mapping[str, Any], source: str, *, strict: bool = True, classifier: bool = True
) -> Report:
    """What load_state_dict does for another library's arrays: put them into the layer, in place, and report on each.

    source: "torchvision", "timm" or "keras", whose names and layouts `state` has; the model must be the network with
    that library's details, create_model(name, preset=source). Floating point of another width is rounded to the
    layer's, torch tensors are taken as they are. Keras's names are those of `model.layers` ("conv2d_3/kernel",
    whatever number they begin with), of a legacy .h5 file, or of a Keras 3 .weights.h5 file ("layers/conv2d_3/vars/0").
    A classifier of 1001 classes loses its first, the background, where the model has 1000.
    strict: every array of ours must be there and every one of theirs used, except counters of batches and the
    auxiliary heads of a model without them. classifier: False leaves ours and skips theirs, whose classes are others.

    Raises ValueError where arrays are missing, left over or of another shape, and TypeError for a layer that is no
    network or values that are not floating-point arrays; nothing is changed then. Warns where the model has the right
    layers but another source's constants.
    """
    name = check_source(layer, source)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise TypeError(f"{name}: got {type(state).__name__}, wanted a dictionary of arrays by name")
    report = Report(source, name)
    pairs, absent = _tensor_pairs(layer, name, source)
    given = resolve_names(state, name, source)
    if not classifier:
        skipped = [given.pop(pair.theirs)[0] for pair in pairs if pair.classifier and pair.theirs in given]
        report.skipped += [(given_name, "the classifier, of other classes") for given_name in skipped]
        pairs = [pair for pair in pairs if not pair.classifier]
    values, wrong = _match(pairs, given, report)
    _report_left_over(given, absent, report)
    if strict and (report.missing or report.unexpected):
        kinds = (("missing", report.missing), ("unexpected", report.unexpected))
        got = ", ".join(listed(what, names) for what, names in kinds if names)
        raise ValueError(f"{name} from {source}: got {got}, wanted every tensor exactly once")
    if wrong:  # after the names: a file of another network has wrong shapes too
        raise wrong[0]
    ready = [(t, to_device_of(v.astype(t.data.dtype, copy=False), t.data)) for t, v in values]
    for target, value in ready:
        target.data[...] = value
    preset = getattr(layer, "preset", source)
    if preset != source and {preset, source} != {"torchvision", "timm"}:  # these two agree
        warnings.warn(
            f"{name}: got {source}'s weights for the preset {preset!r}, whose constants (batch norm's epsilon, padding "
            f"and its share in averages) are others; create_model({name!r}, preset={source!r}) has theirs",
            stacklevel=3,
        )
    return report


def check_source(layer: Layer, source: str) -> str:
    """The network's name, if that library has it. Raises ValueError or TypeError otherwise."""
    name: str | None = getattr(layer, "name", None)
    if source not in SOURCES:
        raise ValueError(f"source: got {source!r}, wanted native, {', '.join(SOURCES)}")
    if name is None:
        raise TypeError(f"source {source!r}: got {type(layer).__name__}, wanted a network")
    layer_names(name, source)
    return name


Given = dict[str, tuple[str, Any]]  # by the name in the table: the name that a tensor came with, and the tensor


def resolve_names(state: Mapping[str, Any], name: str, source: str) -> Given:
    """The tensors by their names in the network's table.

    Of two tensors with one meaning the second keeps its own name, and is then found unexpected.
    """
    resolve = resolve_keras_names if source == "keras" else resolve_torch_names
    resolved: Given = {}
    for given_name, key in resolve(state, name).items():
        resolved[f"{given_name} (a second {key})" if key in resolved else key] = (given_name, state[given_name])
    dense = [key for key, (_, value) in resolved.items() if key.endswith("/kernel") and np.ndim(value) == 2]
    if source == "keras" and len(dense) == 1:  # the only one is the classifier, whatever a person has called it
        layer = dense[0].rpartition("/")[0]
        resolved = {key.replace(f"{layer}/", "predictions/", 1) if key.startswith(f"{layer}/") else key: value
                    for key, value in resolved.items()}  # fmt: skip
    return resolved


def _match(
    pairs: list[TensorPair], given: Given, report: Report
) -> tuple[list[tuple[Param | Buffer, np.ndarray]], list[ValueError]]:
    """(what belongs into every array of ours, errors of shape). Removes from `given` what has a place."""
    gammaless = not any(pair.theirs in given for pair in pairs if pair.ours.endswith(".gamma"))
    values: list[tuple[Param | Buffer, np.ndarray]] = []
    wrong: list[ValueError] = []
    for pair in pairs:
        given_name, value = given.pop(pair.theirs, ("", None))
        if value is None and pair.target is not None:
            if gammaless and pair.ours.endswith(".gamma"):
                report.filled.append((pair.ours, "ones: the file has no gamma"))
                values.append((pair.target, np.ones(pair.shape)))
            else:
                report.missing.append(f"{pair.ours} ({pair.theirs})")
        elif value is not None and pair.target is None:
            if (_as_floats(given_name, value) == 1).all():
                report.skipped.append((given_name, "a gamma of ones, and the model has none"))
            else:
                report.unexpected.append(given_name)
        elif value is not None and pair.target is not None:
            try:
                converted, how = pair.convert(given_name, _as_floats(given_name, value))
            except ValueError as error:
                wrong.append(error)
                continue
            report.loaded.append((given_name, pair.ours, how))
            values.append((pair.target, converted))
    return values, wrong


def _report_left_over(given: Given, absent: list[str], report: Report) -> None:
    for key, (given_name, _) in given.items():
        if key.endswith("num_batches_tracked"):
            report.skipped.append((given_name, "a counter that we do not keep"))
        elif key.startswith(tuple(absent)):
            report.skipped.append((given_name, "an auxiliary head, and the model has none"))
        else:
            report.unexpected.append(given_name)


def _as_floats(given_name: str, value: Any) -> np.ndarray:
    """A NumPy array of floating-point numbers. Raises TypeError for anything else."""
    if hasattr(value, "detach"):
        value = as_numpy(value)
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind != "f":
        got = f"{value.dtype}" if hasattr(value, "dtype") else type(value).__name__
        raise TypeError(f"{given_name}: got {got}, wanted an array of floating-point numbers")
    return np.asarray(value)


def as_numpy(tensor: Any) -> np.ndarray:
    """A torch tensor as an array. Both kinds of half precision become float32: NumPy has no bfloat16."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()
    array: np.ndarray = tensor.numpy()
    return array


# ------------------------------------------------------------------------------- our tensors to theirs


def from_native(layer: Layer, state: Mapping[str, np.ndarray], source: str) -> Tensors:
    """Arrays by our paths (a layer's state, or its gradients) in another library's names, layouts and order.

    `load_foreign` is the inverse. For torchvision and timm, torch.from_numpy of each value makes what PyTorch's
    load_state_dict takes: a gamma that our network does not have is given as ones, PyTorch's counters of batches as 0.
    Raises as `load_foreign` does.
    """
    name = check_source(layer, source)
    theirs: Tensors = {}
    for pair in _tensor_pairs(layer, name, source)[0]:
        if pair.ours in state:
            theirs[pair.theirs] = np.array(pair.layout.to_theirs(state[pair.ours], pair.shape), order="C")
        elif pair.target is None and source != "keras":
            theirs[pair.theirs] = np.ones_like(state[pair.ours.removesuffix("gamma") + "beta"])
        if pair.theirs.endswith(".running_var") and pair.theirs in theirs:
            counter = pair.theirs.removesuffix("running_var") + "num_batches_tracked"
            theirs[counter] = np.zeros((), np.int64)
    return theirs

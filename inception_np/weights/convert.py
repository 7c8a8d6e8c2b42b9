"""Public weights: other libraries' tensors in our networks, and ours in theirs.

    report = load_state_dict(model, state, source="torchvision")     # or timm, keras
    state = state_dict(model, source="torchvision")                  # for torch's load_state_dict

Three things differ between the libraries. Names: `names.py` has one table per network.
Layout: a convolution is (kh, kw, C_in, C_out) here and in Keras, (C_out, C_in, kh, kw) in PyTorch.
Classes: files converted from TensorFlow may have 1001, the first of them "background".

Loading checks everything before it changes anything: after an error the model is as it was.
"""

import argparse
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import arguments
from ..backend import beside
from ..layer import Buffer, Layer, Param, named_buffers, named_params, walk
from .names import SOURCES, Row, keras_positions, table

State = dict[str, np.ndarray]


# ------------------------------------------------------------------------------------- layouts


class Layout(NamedTuple):
    """How one tensor is turned: theirs to ours, and back. `shape` is that of the tensor wanted."""

    text: str
    ours: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    theirs: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


def _same(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return w


def _flat_ours(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    height, width, channels = shape
    w = w.reshape(len(w), channels, height, width)
    return w.transpose(2, 3, 1, 0).reshape(-1, len(w))


def _flat_theirs(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return w.reshape(*shape, -1).transpose(3, 2, 0, 1).reshape(w.shape[1], -1)


def _depthwise_ours(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    kh, kw, channels, multiplier = shape
    return w.reshape(channels, multiplier, kh, kw).transpose(2, 3, 0, 1)


def _depthwise_theirs(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return w.transpose(2, 3, 0, 1).reshape(-1, 1, *w.shape[:2])


def _conv_ours(w: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if w.ndim == 2:  # older files store a 1x1 kernel as (O, I)
        w = w[:, :, None, None]
    return w.transpose(2, 3, 1, 0)


SAME = Layout("", _same, _same)
CONV = Layout("(O, I, h, w) to (h, w, I, O)", _conv_ours, lambda w, _: w.transpose(3, 2, 0, 1))
DEPTHWISE = Layout("(C m, 1, h, w) to (h, w, C, m)", _depthwise_ours, _depthwise_theirs)
LINEAR = Layout("(O, I) to (I, O)", lambda w, _: w.T, lambda w, _: w.T)
FLAT = Layout("(O, C h w) to (h w C, O)", _flat_ours, _flat_theirs)


class Tensor(NamedTuple):
    """One tensor of ours and its twin."""

    ours: str
    theirs: str
    layout: Layout
    target: Param | Buffer | None  # None: a gamma that our layer does not have
    shape: tuple[int, ...] = ()  # what the layout needs to know
    row: Row | None = None


BN = {"gamma": ("weight", "gamma"), "beta": ("bias", "beta"),
      "mean": ("running_mean", "moving_mean"), "var": ("running_var", "moving_variance")}  # fmt: skip


def _tensors(layer: Layer, row: Row, source: str) -> list[Tensor]:
    """The tensors of one row: a layer of ours that owns arrays, and its twin's names."""
    from ..layers.batchnorm import BatchNorm
    from ..layers.conv import Conv2D
    from ..layers.depthwise import DepthwiseConv2D
    from ..layers.linear import Linear

    keras = source == "keras"
    ours, theirs, dot = row.ours, row.keras if keras else row.torch, "/" if keras else "."

    def tensor(name: str, twin: str, layout: Layout, target: Any, shape: tuple[int, ...] = ()) -> Tensor:
        shape = shape or (target.data.shape if target is not None else ())
        layout = SAME if keras else layout
        path = theirs if keras and "/" in theirs else f"{theirs}{dot}{twin}"
        return Tensor(f"{ours}.{name}", path, layout, target, shape, row)

    if isinstance(layer, BatchNorm):
        return [tensor(k, BN[k][keras], SAME, getattr(layer, k)) for k in BN]
    if isinstance(layer, DepthwiseConv2D):
        return [tensor("weight", "depthwise_kernel" if keras else "weight", DEPTHWISE, layer.weight)]
    if not isinstance(layer, (Conv2D, Linear)):
        raise TypeError(f"{ours}: got {type(layer).__name__}, wanted a layer with weights")
    shape: tuple[int, ...] = ()
    if row.flat:
        shape = (*row.flat, layer.weight.data.shape[0] // (row.flat[0] * row.flat[1]))
    kind = CONV if isinstance(layer, Conv2D) else FLAT if row.flat else LINEAR
    kernel = tensor("weight", "kernel" if keras else "weight", kind, layer.weight, shape)
    bias = [tensor("bias", "bias", SAME, layer.bias)] if layer.bias is not None else []
    return [kernel, *bias]


def _twins(layer: Layer, source: str) -> tuple[list[Tensor], list[str]]:
    """All tensors of a network, and the prefixes of their auxiliary heads where ours has none."""
    name = getattr(layer, "name", type(layer).__name__)
    found = dict(walk(layer))
    tensors, absent = [], []
    for row in table(name, source):
        if row.ours in found:
            tensors += _tensors(found[row.ours], row, source)
        elif row.aux:
            absent.append(row.torch + ".")
        else:
            raise ValueError(
                f"{name}: got a model without {row.ours}, wanted the network that {source} has; "
                f"create_model({name!r}, preset={source!r}) makes it"
            )
    extra = set(_slots(layer)) - {t.ours for t in tensors}
    if extra:
        raise ValueError(
            f"{name}: {_some(sorted(extra))} of the model has no place in {source}'s files; "
            f"create_model({name!r}, preset={source!r}) makes the network that {source} has"
        )
    return tensors, absent


# -------------------------------------------------------------------------------------- report


@dataclass
class Report:
    """What loading did with every tensor. `print(report)` is the whole list, one line each.

    loaded: (their name, our name, how it was turned or ""). filled: our names that the file has
    nothing for and that were set to a neutral value, with the reason. skipped: their names that
    were not needed, with the reason. missing, unexpected: ours without, theirs left over.
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
        counts: dict[str, list] = {
            "loaded": self.loaded,
            "renamed": self.renamed,
            "transposed": self.transposed,
            "filled": self.filled,
            "skipped": self.skipped,
            "missing": self.missing,
            "unexpected": self.unexpected,
        }
        return f"{self.model} from {self.source}: " + ", ".join(f"{len(v)} {k}" for k, v in counts.items())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": self.source,
            "model": self.model,
            "loaded": [list(row) for row in self.loaded],
            "filled": [list(row) for row in self.filled],
            "skipped": [list(row) for row in self.skipped],
            "missing": self.missing,
            "unexpected": self.unexpected,
        }

    def __str__(self) -> str:
        lines = [f"{theirs} -> {ours}{how and f'  {how}'}" for theirs, ours, how in self.loaded]
        lines += [f"filled: {ours}  {why}" for ours, why in self.filled]
        lines += [f"skipped: {theirs}  {why}" for theirs, why in self.skipped]
        lines += [f"missing: {ours}" for ours in self.missing]
        lines += [f"unexpected: {theirs}" for theirs in self.unexpected]
        return "\n".join([self.summary, *lines])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ---------------------------------------------------------------------------- their names, settled


def _settled(state: Mapping[str, Any], name: str, source: str) -> dict[str, tuple[str, Any]]:
    """The tensors by the names of our table, each with the name that it came with."""
    return _keras_names(state, name) if source == "keras" else _torch_names(state, name)


def _torch_names(state: Mapping[str, Any], name: str) -> dict[str, tuple[str, Any]]:
    """Settle what differs between files of one network: data-parallel prefixes, the head's name."""
    prefix = "module." if state and all(k.startswith("module.") for k in state) else ""
    heads = {"inception_resnet_v2": "classif", "xception": "fc"}
    settled: dict[str, tuple[str, Any]] = {}
    for raw, value in state.items():
        key = raw.removeprefix(prefix)
        if name in heads and key.startswith("last_linear."):
            key = key.replace("last_linear", heads[name])
        _settle(settled, key, raw, value)
    return settled


def _settle(settled: dict[str, tuple[str, Any]], key: str, raw: str, value: Any) -> None:
    """Two tensors with one meaning: the second keeps its own name, and is then found unexpected."""
    settled[f"{raw} (a second {key})" if key in settled else key] = (raw, value)


AUTO = re.compile(r"^(conv(?:olution)?2d|batch_?normalization)(?:_(\d+))?$")


def _keras_names(state: Mapping[str, Any], name: str) -> dict[str, tuple[str, Any]]:
    """Settle the names of a Keras file as "layer/variable".

    Automatic names ("conv2d_17") are in the order in which the code creates the layers, but go on counting over all
    models of a process, so they are counted from the lowest in the file. Keras 3's .weights.h5 has neither names nor
    that order, see `keras_positions`.
    """
    if any(k.startswith("layers/") for k in state):
        return _keras_by_position(state, name)
    layers: dict[str, list[tuple[str, str]]] = {}
    for raw in state:
        parts = raw.removesuffix(":0").split("/")
        layers.setdefault(parts[0], []).append((parts[-1], raw))
    numbered: dict[str, list[tuple[int, str]]] = {"conv2d": [], "batch_normalization": []}
    for layer in layers:
        if match := AUTO.match(layer):
            kind = "conv2d" if match[1].startswith("conv") else "batch_normalization"
            numbered[kind].append((int(match[2] or 0), layer))
    called = {layer: layer for layer in layers}
    for kind, found in numbered.items():
        first = min((number for number, _ in found), default=0)
        for number, layer in found:
            called[layer] = kind if number == first else f"{kind}_{number - first}"
    settled: dict[str, tuple[str, Any]] = {}
    for layer, variables in layers.items():
        for variable, raw in variables:
            variable = _keras_variable(variable)
            _settle(settled, f"{called[layer]}/{variable}", raw, state[raw])
    return settled


FIRST_KERAS = {"_depthwise_kernel": "depthwise_kernel", "_pointwise_kernel": "pointwise_kernel",
               "_W": "kernel", "_b": "bias", "_gamma": "gamma", "_beta": "beta",
               "_running_mean": "moving_mean", "_running_std": "moving_variance"}  # fmt: skip


def _keras_variable(name: str) -> str:
    """Keras 1 called it "block1_conv1_W", and the variance "..._running_std"."""
    return next((new for end, new in FIRST_KERAS.items() if name.endswith(end)), name)


def _keras_by_position(state: Mapping[str, Any], name: str) -> dict[str, tuple[str, Any]]:
    """Settle "layers/conv2d_7/vars/0": the seventh Conv2D in Keras's order, its first variable."""
    called = keras_positions(name)
    settled: dict[str, tuple[str, Any]] = {}
    for raw, value in state.items():
        match = re.fullmatch(r"layers/([a-z0-9_]+?)(?:_(\d+))?/vars/(\d+)", raw)
        layer = called.get((match[1], int(match[2] or 0))) if match else None
        if match is None or layer is None:
            _settle(settled, raw, raw, value)
            continue
        names: tuple[str, ...]
        if match[1] == "batch_normalization":  # three variables where there is no gamma
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            names = names if raw.rpartition("/")[0] + "/3" in state else names[1:]
        elif match[1] == "separable_conv2d":
            names = ("depthwise_kernel", "pointwise_kernel")
        else:
            names = ("kernel", "bias")
        j = int(match[3])
        _settle(settled, f"{layer}/{names[j]}" if j < len(names) else raw, raw, value)
    return settled


# -------------------------------------------------------------------------------- loading, giving


def load_foreign(layer: Layer, state: Mapping[str, Any], source: str, *, strict: bool = True) -> Report:
    """What load_state_dict does for another library's arrays: put them into the layer, in place, and report on each.

    source: "torchvision", "timm" or "keras", whose names and layouts `state` has; the model must be the network with
    that library's details, create_model(name, preset=source). Floating point of another width is rounded to the
    layer's, torch tensors are taken as they are. Keras's names are those of `model.layers` ("conv2d_3/kernel",
    whatever number they begin with), of a legacy .h5 file, or of a Keras 3 .weights.h5 file ("layers/conv2d_3/vars/0").
    A classifier of 1001 classes loses its first, the background, where the model has 1000.
    strict: every array of ours must be there and every one of theirs used, but for counters of batches and for the
    auxiliary heads of a model without them.

    Raises ValueError where arrays are missing, left over or of another shape, and TypeError for a layer that is no
    network or values that are no floating-point arrays; nothing is changed then. Warns where the model has the right
    layers but another source's constants.
    """
    name = check_source(layer, source)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise TypeError(f"{name}: got {type(state).__name__}, wanted a dictionary of arrays by name")
    report = Report(source, name)
    tensors, absent = _twins(layer, source)
    given = _settled(state, name, source)
    gammaless = not any(t.theirs in given for t in tensors if t.ours.endswith(".gamma"))
    values: list[tuple[Any, np.ndarray]] = []
    wrong: list[ValueError] = []
    for tensor in tensors:
        raw, value = given.pop(tensor.theirs, ("", None))
        if value is None and tensor.target is not None:
            if gammaless and tensor.ours.endswith(".gamma"):
                report.filled.append((tensor.ours, "ones: the file has no gamma"))
                values.append((tensor.target, np.ones(tensor.shape)))
            else:
                report.missing.append(f"{tensor.ours} ({tensor.theirs})")
        elif value is not None and tensor.target is None:
            if (_checked(raw, value) == 1).all():
                report.skipped.append((raw, "a gamma of ones, and the model has none"))
            else:
                report.unexpected.append(raw)
        elif value is not None:
            try:
                turned, how = _turned(raw, _checked(raw, value), tensor)
            except ValueError as error:
                wrong.append(error)
                continue
            report.loaded.append((raw, tensor.ours, how))
            values.append((tensor.target, turned))
    for key, (raw, _) in given.items():
        if key.endswith("num_batches_tracked"):
            report.skipped.append((raw, "a counter that we do not keep"))
        elif key.startswith(tuple(absent)):
            report.skipped.append((raw, "an auxiliary head, and the model has none"))
        else:
            report.unexpected.append(raw)
    if strict and (report.missing or report.unexpected):
        raise ValueError(_complaint(report))
    if wrong:  # said last: in a file of another network this is the lesser news
        raise wrong[0]
    ready = [(t, beside(v.astype(t.data.dtype, copy=False), t.data)) for t, v in values]
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


def from_native(layer: Layer, state: Mapping[str, np.ndarray], source: str) -> State:
    """Arrays by our paths (a layer's state, or its gradients) in another library's names, layouts and order.

    `load_foreign` takes a state back. For torchvision and timm, torch.from_numpy of each value makes what PyTorch's
    load_state_dict takes: a gamma that our network does not have is given as ones, PyTorch's counters of batches as 0.
    Raises as `load_foreign` does.
    """
    check_source(layer, source)
    theirs: State = {}
    for tensor in _twins(layer, source)[0]:
        if tensor.ours in state:
            turned = tensor.layout.theirs(state[tensor.ours], tensor.shape)
            theirs[tensor.theirs] = np.array(turned, order="C")
        elif tensor.target is None and source != "keras":
            theirs[tensor.theirs] = np.ones_like(state[tensor.ours.removesuffix("gamma") + "beta"])
        if tensor.theirs.endswith(".running_var") and tensor.theirs in theirs:
            counter = tensor.theirs.removesuffix("running_var") + "num_batches_tracked"
            theirs[counter] = np.zeros((), np.int64)
    return theirs


def _slots(layer: Layer) -> dict[str, Param | Buffer]:
    return {**named_params(layer), **named_buffers(layer)}


def check_source(layer: Layer, source: str) -> str:
    """The network's name, if that library has it. Raises ValueError or TypeError otherwise."""
    name = getattr(layer, "name", None)
    if source not in SOURCES:
        raise ValueError(f"source: got {source!r}, wanted native, {', '.join(SOURCES)}")
    if name is None:
        raise TypeError(f"source {source!r}: got {type(layer).__name__}, wanted a network")
    table(name, source)
    return name


def _checked(raw: str, value: Any) -> np.ndarray:
    """A NumPy array of floating-point numbers."""
    if hasattr(value, "detach"):
        value = as_numpy(value)
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind != "f":
        got = f"{value.dtype}" if hasattr(value, "dtype") else type(value).__name__
        raise TypeError(f"{raw}: got {got}, wanted an array of floating-point numbers")
    return np.asarray(value)


def _turned(raw: str, value: np.ndarray, tensor: Tensor) -> tuple[np.ndarray, str]:
    """Their tensor in our layout, without the background class where ours has none."""
    how, shape = tensor.layout.text, tensor.target.data.shape  # type: ignore[union-attr]
    if tensor.row is not None and tensor.row.classifier and shape[-1] == 1000:
        axis = 0 if tensor.layout is not SAME else value.ndim - 1
        if value.ndim and value.shape[axis] == 1001:
            value = value[1:] if axis == 0 else value[..., 1:]
            how = f"{how}; class 0 (background) dropped".removeprefix("; ")
    try:
        turned = tensor.layout.ours(value, tensor.shape)
    except (ValueError, IndexError):
        turned = value
    if turned.shape != shape:
        raise ValueError(
            f"{raw}: got shape {value.shape}, wanted {tensor.ours}'s {shape}"
            + (f", turned from {tensor.layout.text}" if tensor.layout.text else "")
        )
    return turned, how


def _complaint(report: Report) -> str:
    parts = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (("missing", report.missing), ("unexpected", report.unexpected))
        if names
    ]
    return f"{report.model} from {report.source}: got {', '.join(parts)}, wanted every tensor exactly once"


def as_numpy(tensor: Any) -> np.ndarray:
    """A torch tensor as an array; half precision, of which NumPy has one kind only, as float32."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()
    return tensor.numpy()


# -------------------------------------------------------------------------------- inception-np import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `inception-np import`."""
    parser.add_argument("file", metavar="FILE", help=".safetensors, .h5, .weights.h5, .keras, .pt or .pth")
    parser.add_argument("--source", required=True, choices=SOURCES, help="whose names and layouts the file has")
    parser.add_argument("--model", required=True, metavar="NAME", help="the network, see `inception-np models`")
    parser.add_argument("--output", metavar="FILE", help="the checkpoint; NAME-SOURCE.safetensors by default")
    parser.add_argument(
        "--mean", type=arguments.number, nargs=3, metavar="X", help="of the pixels 0..255; 127.5 by default"
    )
    parser.add_argument(
        "--std", type=arguments.number, nargs=3, metavar="X", help="of the pixels 0..255; 127.5 by default"
    )
    parser.add_argument("--keep-background", action="store_true", help="keep all of 1001 classes")
    parser.add_argument("--partial", action="store_true", help="load what fits; the rest keeps its initial values")
    parser.add_argument("--report", action="store_true", help="print what was done with every tensor")
    parser.add_argument("--json", action="store_true", help="print that as JSON")


def run(args: argparse.Namespace) -> int:
    """`inception-np import`: a public file becomes a checkpoint, with the preprocessing that it expects."""
    import json
    from dataclasses import replace

    from ..models import create_model, find
    from .checkpoint import save
    from .readers import PREPROCESS, imagenet_classes, read_weights

    name = find(args.model)[1]
    rows = table(name, args.source)
    try:
        state = read_weights(args.file)
    except ImportError as error:
        raise ValueError(str(error)) from None
    names = _settled(state, name, args.source)
    classes = _count_classes(names, rows, args.source)
    if classes == 1001 and not args.keep_background:
        classes = 1000
    aux = any(key.startswith(f"{row.torch}.") for row in rows if row.aux for key in names)
    model = create_model(name, preset=args.source, num_classes=classes, aux=aux)
    try:
        report = load_foreign(model, state, args.source, strict=not args.partial)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{args.file}: {error}") from None
    how = PREPROCESS[name, args.source]
    how = replace(how, mean=args.mean or how.mean, std=args.std or how.std)
    about: dict[str, Any] = {"preprocess": how.to_dict(), "source": args.source, "file": Path(args.file).name}
    if classes == 1000:
        about["classes"] = imagenet_classes()
    output = args.output or f"{name}-{args.source}.safetensors"
    save(model, output, about=about)
    if args.json:
        print(json.dumps({"checkpoint": str(output), **report.to_dict()}))
    else:
        print(report if args.report else report.summary)
        print(f"written to {output}")
    return 0


def _count_classes(names: Mapping[str, tuple[str, Any]], rows: list[Row], source: str) -> int | None:
    """How many classes a file's classifier has; None where there is no classifier to ask."""
    row = next(row for row in rows if row.classifier and not row.aux)
    path = f"{row.keras}/bias" if source == "keras" else f"{row.torch}.bias"
    bias = names.get(path, ("", np.zeros(())))[1]
    return len(bias) if getattr(bias, "ndim", 0) == 1 else None

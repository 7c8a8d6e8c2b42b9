"""`inception-np import`: another library's file becomes a checkpoint, with the preprocessing its network expects."""

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.preprocess import Preprocess
from ..models import Network, create_model, find
from ..training.arguments import number, positive
from .checkpoint import save
from .convert import Given, Report, load_foreign, resolve_names
from .keras_config import parse_graph
from .keras_graph import check_graph
from .names import SOURCES, LayerNames, layer_names
from .readers import read_model
from .tensorfile import Tensors

# How each library prepares images for these weights. torchvision's were trained on pixels in -1 .. 1, which its models
# compute from images normalised by ImageNet's mean and deviation (transform_input). Keras does not specify a crop.
PREPROCESS = {
    ("inception_v1", "torchvision"): Preprocess((224, 224), resize=256),
    ("inception_v3", "torchvision"): Preprocess((299, 299), resize=342),
    ("inception_v3", "timm"): Preprocess((299, 299), resize=341, interpolation="bicubic"),
    ("inception_v4", "timm"): Preprocess((299, 299), resize=341, interpolation="bicubic"),
    ("inception_resnet_v2", "timm"): Preprocess((299, 299), resize=333, interpolation="bicubic"),
    ("xception", "timm"): Preprocess((299, 299), resize=333, interpolation="bicubic"),
    ("inception_v3", "keras"): Preprocess((299, 299)),
    ("inception_resnet_v2", "keras"): Preprocess((299, 299)),
    ("xception", "keras"): Preprocess((299, 299)),
}


UNSEEN = (
    "the file has weights alone: it is taken for granted that its classifier reads the mean of the last map and ends "
    "in a softmax, and that its images are x / 127.5 - 1; a file of the whole model says so"
)


def imagenet_classes() -> list[str]:
    """The 1000 classes of ILSVRC 2012, in the order that all these files share, by torchvision's names."""
    return Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines()


def add_parser(commands: Any) -> None:
    """Add `inception-np import` to a parser's commands."""
    parser = commands.add_parser("import")
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help=".safetensors, .h5, .keras, model.json, .pt or .pth")
    parser.add_argument("--source", required=True, choices=SOURCES, help="whose names and layouts the file has")
    parser.add_argument("--model", required=True, metavar="NAME", help="the network, see `inception-np models`")
    parser.add_argument("--output", metavar="FILE", help="the checkpoint; NAME-SOURCE.safetensors by default")
    parser.add_argument("--mean", type=number, nargs=3, metavar="X", help="of the pixels 0..255; 127.5 by default")
    parser.add_argument("--std", type=number, nargs=3, metavar="X", help="of the pixels 0..255; 127.5 by default")
    parser.add_argument("--num-classes", type=positive, metavar="N", help="of a new classifier, in place of the file's")
    parser.add_argument("--keep-background", action="store_true", help="keep all of 1001 classes")
    parser.add_argument("--partial", action="store_true", help="load what fits; the rest keeps its initial values")
    parser.add_argument("--report", action="store_true", help="print what was done with every tensor")
    parser.add_argument("--json", action="store_true", help="print that as JSON")


def run(args: argparse.Namespace) -> int:
    """Run `inception-np import` and print what became of the tensors. Returns the exit code 0.

    Raises ValueError, TypeError or OSError of one line for a file that cannot be read or does not fit the network.
    """
    name = find(args.model)[1]
    try:
        state, description = read_model(args.file)
    except ImportError as error:
        raise ValueError(str(error)) from None
    try:
        model, report, preprocess, own = _load(name, state, description, args)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{args.file}: {error}") from None
    preprocess = replace(preprocess, mean=args.mean or preprocess.mean, std=args.std or preprocess.std)
    about: dict[str, Any] = {"preprocess": preprocess.to_dict(), "source": args.source, "file": Path(args.file).name}
    if model.num_classes == 1000 and own:
        about["classes"] = imagenet_classes()
    output = args.output or f"{name}-{args.source}.safetensors"
    save(model, output, about=about)
    if args.json:
        print(json.dumps({"checkpoint": str(output), **report.to_dict()}))
    else:
        print(report if args.report else report.summary)
        if not own:
            print(f"the classifier, of {args.num_classes} classes, is new")
        if args.source == "keras" and description is None:
            print(UNSEEN)
        print(f"written to {output}")
    return 0


def _load(
    name: str, state: Tensors, description: Any, args: argparse.Namespace
) -> tuple[Network, Report, Preprocess, bool]:
    """The network that a file's tensors fit, with them in it, what became of each, how its images are prepared, and
    whether the classifier is the file's own.

    description: what the file says of the model, where it is Keras's. The network then has the fully connected layers
    that the model has before its last, and is compared with it layer by layer.
    """
    rows = layer_names(name, args.source)
    graph, hidden = None, []
    if args.source == "keras" and description is not None:
        graph = parse_graph(description)
        names = graph.names(state)
        if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
            raise ValueError(f"got {twice[0][:80]} twice, wanted every tensor once")
        state = {names[given]: value for given, value in state.items()}
        hidden = [str(node.config.get("units")) for node in graph.dense()[:-1]]
    given = resolve_names(state, name, args.source)
    classes = _count_classes(given, rows, args.source)
    if classes == 1001 and not args.keep_background:
        classes = 1000
    aux = any(key.startswith(f"{row.torch}.") for row in rows if row.aux for key in given)
    options: dict[str, Any] = {"hidden": "-".join(hidden)} if hidden else {}
    own = args.num_classes in (None, classes)
    model = create_model(name, preset=args.source, num_classes=args.num_classes or classes, aux=aux, **options)
    report = load_foreign(model, state, args.source, strict=not args.partial, classifier=own)
    preprocess = PREPROCESS[name, args.source]
    if graph is not None:
        a, b = check_graph(model, graph, partial=args.partial or not own)
        given_as = {theirs: given for given, theirs in names.items()}
        report.loaded = [(given_as[theirs], ours, how) for theirs, ours, how in report.loaded]
        report.skipped += [(node.name, f"{node.kind}, which acts in training only") for node in graph.in_training()]
        preprocess = replace(preprocess, size=graph.image() or preprocess.size)
        if (a, b) != (1, 0):  # (x - mean) / std is a x + b
            preprocess = replace(preprocess, mean=3 * (-b / a,), std=3 * (1 / a,))
    return model, report, preprocess, own


def _count_classes(given: Given, rows: list[LayerNames], source: str) -> int | None:
    """How many classes a file's classifier has; None where the file has no classifier."""
    row = next(row for row in rows if row.classifier and not row.aux)
    bias = given.get(f"{row.keras}/bias" if source == "keras" else f"{row.torch}.bias")
    return len(bias[1]) if bias is not None and getattr(bias[1], "ndim", 0) == 1 else None

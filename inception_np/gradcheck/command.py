"""inception-np gradcheck: a layer, a part of a network, a network, or all of them.

inception-np gradcheck Conv2D                                   a layer at a ready-made configuration
inception-np gradcheck "Conv2D(2, 3, (3, 2), stride=(2, 1))" --input 2x7x5x2
inception-np gradcheck my_layers.py:Swish --input 2x4x3x2       a layer of your own
inception-np gradcheck inception_v3_cifar                       a network
inception-np gradcheck inception_v1_cifar:3a                    a part of it, at the x that it gets there
inception-np gradcheck all                                      every layer and every _cifar network, one table

x is standard normal, times --scale. Training is checked, and evaluation where it differs; --train and --eval check one
of them.
"""

import argparse
import ast
import json
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..backend.errors import UsageError, nearest
from ..training.arguments import natural, number, positive

if TYPE_CHECKING:
    from ..layer import Layer
    from .report import GradReport

# An example of every layer in which mistakes show: (expression, shape of x). H differs from W, strides and pads are
# uneven, and constants are large enough to matter.
# fmt: off
LAYERS = {
    "Conv2D":          ("Conv2D(4, 6, (3, 2), stride=(2, 1), pad=((0, 1), (2, 1)), groups=2)", "2x6x5x4"),
    "DepthwiseConv2D": ("DepthwiseConv2D(3, (2, 3), multiplier=2, stride=(1, 2), pad=((1, 0), (2, 1)))", "2x5x6x3"),
    "SeparableConv2D": ("SeparableConv2D(3, 4, (3, 2), stride=(2, 1))", "2x6x5x3"),
    "Linear":          ("Linear(7, 5)", "4x7"),
    "AvgPool2D":       ("AvgPool2D((3, 2), stride=(2, 1), pad=((1, 0), (0, 1)), ceil=True)", "2x6x5x3"),
    "GlobalAvgPool2D": ("GlobalAvgPool2D()", "2x5x4x3"),
    "Flatten":         ("Flatten()", "2x3x4x2"),
    "Dropout":         ("Dropout(0.4)", "2x5x4x3"),
    "MaxPool2D":       ("MaxPool2D((3, 2), stride=(2, 1), pad=((1, 0), (0, 1)), ceil=True)", "2x6x5x3"),
    "ReLU":            ("ReLU()", "2x5x4x3"),
    "ConvReLU":        ("ConvReLU(3, 4, (3, 2), stride=(2, 1))", "2x6x5x3"),
    "LRN":             ("LRN(5, alpha=0.5, k=2.0)", "2x3x4x7"),
    "BatchNorm":       ("BatchNorm(3)", "3x5x4x3"),
    "ConvBNReLU":      ("ConvBNReLU(3, 4, (3, 2), stride=(2, 1))", "3x6x5x3"),
}
LINEAR = (
    "Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Linear", "AvgPool2D", "GlobalAvgPool2D", "Flatten", "Dropout",
)
# fmt: on

# The targets of `gradcheck all`. NORM: the largest error of any entry over the largest entry; ELEMENT: the largest
# error of any entry over that entry; the others as NORM, for a network's directions and for the other two methods.
ADJOINT, NORM, ELEMENT, NETWORK, HESSIAN = 1e-14, 1e-13, 1e-11, 1e-12, 1e-11


def add_parser(commands: Any) -> None:
    """Add `inception-np gradcheck` to a parser's commands."""
    parser = commands.add_parser("gradcheck")
    parser.set_defaults(run=run)
    parser.add_argument("what", metavar="NAME|LAYER", help="a network, NETWORK:PART, a layer, FILE.py:CLASS, or all")
    parser.add_argument("--input", metavar="NxHxWxC", help="the shape of x; needed for a layer of your own")
    parser.add_argument(
        "--method", default="complex", help="complex, central, richardson, adjoint, or another's policy"
    )
    parser.add_argument("--preset", default="paper", help="of a network")
    parser.add_argument("--batch", type=positive, default=2, help="images for a network (default: 2)")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--train", action="store_true", help="check training only")
    modes.add_argument("--eval", action="store_true", help="check evaluation only (default: both, where they differ)")
    parser.add_argument(
        "--scale", type=number, default=1.0, metavar="X", help="x is standard normal times X (default: 1)"
    )
    parser.add_argument("--seed", type=natural, default=0, help="of the weights, x and dy (default: 0)")
    parser.add_argument("--plot", metavar="FILE.png", help="draw where it is wrong, and the V of step against error")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(args: argparse.Namespace) -> int:
    """Check and print. Returns 0 for right gradients and 1 for wrong ones; raises UsageError for wrong words."""
    if args.scale == 0:
        raise UsageError("gradcheck: --scale: got 0, wanted another number: every ReLU would be at its kink")
    if args.what == "all":
        return _all(args)
    from ..layer import Mode
    from .check import METHODS, check_gradients
    from .policies import POLICIES

    if args.method not in (*METHODS, *POLICIES):
        raise UsageError(f"gradcheck: --method: got {args.method!r}; {nearest(args.method, [*METHODS, *POLICIES])}")
    mode = Mode(train=args.train, keep=True) if args.train or args.eval else None

    def check() -> "GradReport":
        return check_gradients(*_subject(args), mode=mode, method=args.method, seed=args.seed)

    report = check()
    if not report.ok:
        _add_command(report, check, args)
    if args.plot:
        report.plot(args.plot)
    if args.json:
        print(json.dumps(report.as_json() | {"name": args.what}))
    else:
        print(report)
    return 0 if report.ok else 1


def _add_command(report: "GradReport", check: "Callable[[], GradReport]", args: argparse.Namespace) -> None:
    """Put the command that was given into the report, if it gives the same numbers twice.

    It does where all that is random comes from the seed: a layer of the user's own may draw from elsewhere.
    """

    def rows(report: "GradReport") -> list[tuple[str, float, float]]:
        return [(c.where, c.analytic, c.numeric) for c in report.checks]

    try:
        repeated = rows(check()) == rows(report)
    except Exception:  # from the user's file, which is run again
        repeated = False
    if not repeated:
        report.snippet, report.unwritten = "", "the same command does not give the same numbers again"
        return
    words = ["inception-np", "gradcheck", args.what]
    for name, default in (
        ("input", None),
        ("method", "complex"),
        ("preset", "paper"),
        ("batch", 2),
        ("scale", 1.0),
        ("seed", 0),
    ):
        value = getattr(args, name)
        if value != default:
            words += [f"--{name}", str(value)]
    report.snippet = shlex.join(words + ["--train"] * args.train + ["--eval"] * args.eval)


def _subject(args: argparse.Namespace) -> "tuple[Layer, Any]":
    """(layer, x) that the words on the command line name."""
    import numpy as np

    from ..models import create_model, list_models

    draw = np.random.default_rng((args.seed, 8))
    name, _, part = args.what.partition(":")
    if name.endswith(".py"):
        layer, shape = _build(part, _classes(name), args.seed), ""
        if not args.input:
            raise UsageError("gradcheck: --input is needed for a layer of your own; e.g. --input 2x5x4x3")
    elif name in list_models() or name == "googlenet":
        layer = create_model(name, preset=args.preset, seed=args.seed)
        x = args.scale * draw.standard_normal(_shape(args.input) if args.input else (args.batch, *layer.image))
        return _part(layer, part, x, args) if part else (layer, x)
    else:
        text, shape = LAYERS.get(name, (args.what, ""))
        layer = _build(text, _classes(None), args.seed)
        shape = shape or LAYERS.get(type(layer).__name__, ("", ""))[1]
    return randomise_vectors(layer, args.seed), args.scale * draw.standard_normal(_shape(args.input or shape))


def randomise_vectors(layer: "Layer", seed: int) -> "Layer":
    """Give a layer random biases, gammas, betas and running averages, in place: at 0 and 1, where they start, mistakes
    hide. Returns the layer."""
    import numpy as np

    from ..layer import named_buffers, named_params

    draw = np.random.default_rng((seed, 9))
    for p in named_params(layer).values():
        if p.data.ndim == 1:
            p.data = (p.data + 0.5 * draw.standard_normal(p.data.shape)).astype(p.data.dtype)
    for b in named_buffers(layer).values():
        b.data = (b.data + draw.random(b.data.shape)).astype(b.data.dtype)
    return layer


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(n) for n in text.split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"gradcheck: --input: got {text!r}, wanted sizes such as 2x7x5x3")
    return shape


def _part(network: "Layer", path: str, x: Any, args: argparse.Namespace) -> "tuple[Layer, Any]":
    """The layer at a dotted path of a network, and the x that it gets when the network is given x."""
    import numpy as np

    from ..layer import Layer, Mode, walk, watch
    from .subject import private_copy

    copied = private_copy(network)
    parts = {p: layer for p, layer in walk(copied) if isinstance(layer, Layer)}
    if path not in parts:
        raise UsageError(f"gradcheck: {args.what}: no part {path!r}; {nearest(path, list(parts))}")
    met = []

    def forward(path: str, layer: Layer, call: Callable[[], Any], x: Any, mode: Mode) -> Any:
        met.append(x.copy())
        return call()

    with watch(copied, forward=forward, only=[path]):
        copied.forward(x, Mode(train=not args.eval, rng=np.random.default_rng(args.seed)))
    if not met:
        raise UsageError(f"gradcheck: {args.what}: {path!r} is not run as a layer of its own; name what it belongs to")
    return parts[path], met[0]


def _classes(file: str | None) -> dict[str, Any]:
    """The layer classes that an expression may name: ours, and those of a user's file."""
    import inception_np

    from ..layer import Layer

    named = [*LAYERS, "Sequential", "Concat", "Residual", "AdaptiveAvgPool2D"]
    classes = {name: getattr(inception_np, name) for name in named}
    if file:
        from ..backend.user_file import module_of

        own = {
            k: v for k, v in vars(module_of(file, "gradcheck")).items() if isinstance(v, type) and issubclass(v, Layer)
        }
        classes |= own
    return classes


def _build(text: str, classes: dict[str, Any], seed: int) -> "Layer":
    """The layer that an expression makes: names of layers, called with literals and other layers."""
    import inspect

    import numpy as np

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Name) and node.id in classes:
            node = ast.Call(node, [], [])
        if not isinstance(node, ast.Call):
            return ast.literal_eval(node)
        name = ast.unparse(node.func)
        if name not in classes:
            from ..models import list_models

            known = {k.lower(): k for k in [*classes, *list_models()]}
            close = nearest(name, list(known)).split()
            text = " ".join(known.get(word.strip(","), word) + "," * word.endswith(",") for word in close)
            raise UsageError(f"gradcheck: no layer or network {name!r}; {text}")
        keywords = {k.arg: value(k.value) for k in node.keywords if k.arg}
        if "rng" in inspect.signature(classes[name].__init__).parameters:
            keywords.setdefault("rng", np.random.default_rng(seed))
        return classes[name](*(value(a) for a in node.args), **keywords)

    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        tree = None
    if not isinstance(tree, (ast.Call, ast.Name)):
        raise UsageError(f"gradcheck: got {text!r}, wanted a network's name or a layer such as Conv2D(3, 8, 3)")
    if isinstance(tree, ast.Name) and tree.id not in classes:
        tree = ast.Call(tree, [], [])
    try:
        layer: Layer = value(tree)
        return layer
    except ValueError as error:
        if "malformed node" in str(error):
            raise UsageError(f"gradcheck: got {text!r}, wanted numbers, strings and layers as arguments") from None
        raise


def _all(args: argparse.Namespace) -> int:
    """Check every layer and every _cifar network, and print a line for each with its target."""
    import time

    import numpy as np

    from ..models import create_model, list_models
    from .check import check_gradients
    from .second_order import hessian_symmetry

    start = time.perf_counter()
    rows: list[dict[str, Any]] = []

    def row(name: str, how: str, report: "GradReport | None", norm: float, target: float, element: float = 0.0) -> None:
        right = (report is None or report.ok) and norm <= target and element <= ELEMENT
        r: dict[str, Any] = {"tensor": name, "how": how, "error": norm, "tolerance": target, "ok": bool(right)}
        if report is not None:
            r |= {"element_error": element, "worst": report.worst.tensor, "never_taken": report.never_taken}
        rows.append(r)
        if not args.json:
            each = f"{element:8.0e}" if element else " " * 8
            print(f"{name:<26} {how:<24} {norm:8.0e} {target:8.0e} {each}  {'ok' if right else 'WRONG'}", flush=True)
            for text in r.get("never_taken", []):
                print(f"  NEVER TAKEN: {text}")

    if not args.json:
        print(f"{'':<26} {'':<24} {'error':>8} {'target':>8} {'entry':>8}")
    for name, (text, shape) in LAYERS.items():
        layer = randomise_vectors(_build(text, _classes(None), args.seed), args.seed)
        x = args.scale * np.random.default_rng((args.seed, 8)).standard_normal(_shape(shape))
        report = check_gradients(layer, x, seed=args.seed)
        row(name, "complex step", report, *_errors(report, NORM, name))
        if name in LINEAR:
            report = check_gradients(layer, x, method="adjoint", seed=args.seed)
            row(name, "adjoint", report, max(c.norm_error for c in report.checks), ADJOINT)
        else:
            row(name, "Hessian symmetry", None, hessian_symmetry(layer, x, seed=args.seed), HESSIAN)
    x = args.scale * np.random.default_rng((args.seed, 8)).standard_normal((5, 7))
    report = check_gradients(_cross_entropy(args.seed), x)
    row("softmax_cross_entropy", "complex step", report, *_errors(report, NORM, ""))
    for name in list_models("*_cifar"):
        x = args.scale * np.random.default_rng((args.seed, 8)).standard_normal((args.batch, 32, 32, 3))
        network = create_model(name, seed=args.seed)
        report = check_gradients(network, x, seed=args.seed)
        row(name, f"{len(report.checks)} directions", report, max(c.norm_error for c in report.checks), NETWORK)
        row(name, "Hessian symmetry", None, hessian_symmetry(network, x, seed=args.seed), HESSIAN)
    ok = all(r["ok"] for r in rows)
    if args.json:
        print(json.dumps({"ok": ok, "name": "all", "seconds": time.perf_counter() - start, "checks": rows}))
    else:
        print(f"{sum(r['ok'] for r in rows)} of {len(rows)} within their targets, {time.perf_counter() - start:.0f} s")
    return 0 if ok else 1


def _errors(report: "GradReport", target: float, name: str) -> tuple[float, float, float]:
    """The largest error, its target (for batch norm times the condition), and the largest error of a single entry."""
    if name in ("BatchNorm", "ConvBNReLU"):
        target *= max(1.0, report.condition)
    norm, element = (max(getattr(c, key) for c in report.checks) for key in ("norm_error", "element_error"))
    return norm, target, element


def _cross_entropy(seed: int) -> "Layer":
    """The loss as a layer: y is the loss, dx = dlogits."""
    import numpy as np

    from ..layer import Layer
    from ..layers.loss import softmax_cross_entropy

    class CrossEntropy(Layer):
        def forward(self, x: Any, mode: Any) -> Any:
            labels = np.random.default_rng(seed).integers(0, x.shape[1], len(x))
            loss, dlogits = softmax_cross_entropy(x, labels, smoothing=0.1)
            return loss, dlogits

        def backward(self, dy: Any, x: Any, dlogits: Any) -> Any:
            return dy * dlogits

    return CrossEntropy()

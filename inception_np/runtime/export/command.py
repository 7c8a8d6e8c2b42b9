"""`inception-np export`: a checkpoint's network, or a step of its training, as an ONNX file."""

import argparse
from typing import Any

from ...backend.errors import UsageError
from ...training.arguments import number, positive


def add_parser(commands: Any) -> None:
    """Add `inception-np export` to a parser's commands."""
    parser = commands.add_parser("export")
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file that train, save or import wrote")
    parser.add_argument("--onnx", required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--training", action="store_true", help="a step of SGD; weights and lr are inputs")
    parser.add_argument("--batch", type=positive, metavar="N", help="images of a step; 32 by default")
    parser.add_argument("--momentum", type=number, metavar="X", help="of a step; 0.9 by default, in Nesterov's form")
    parser.add_argument("--weight-decay", type=number, metavar="X", help="of a step; 0 by default")
    parser.add_argument("--smoothing", type=number, metavar="X", help="of a step's labels; 0 by default")


def run(args: argparse.Namespace) -> int:
    """Run `inception-np export`. Returns the exit code 0.

    Raises UsageError for options of a step without --training, ValueError or OSError of one line for a file that
    cannot be read or written.
    """
    numbers = {name: getattr(args, name) for name in ("batch", "momentum", "weight_decay", "smoothing")}
    given = {name: value for name, value in numbers.items() if value is not None}
    if given and not args.training:
        raise UsageError(f"--{next(iter(given)).replace('_', '-')}: got it without --training, whose option it is")
    from ...layer import cast
    from ...training.checkpoint_commands import network_of
    from .network import export_onnx
    from .step import export_training_step

    net, about = network_of(args.checkpoint)
    cast(net, "float32")  # what runtimes compute in
    if args.training:
        momentum = given.get("momentum", 0.9)
        export_training_step(net, args.onnx, about=about, **{"batch": 32, "nesterov": momentum > 0, **given})
    else:
        export_onnx(net, args.onnx, about=about)
    print(f"written to {args.onnx}")
    return 0

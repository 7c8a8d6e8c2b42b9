"""`inception-np models` and `inception-np summary`."""

import argparse
import json

from ..backend.errors import UsageError, nearest
from ..training.arguments import add_json, known_model, natural, number, positive, size


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("models")
    parser.set_defaults(run=print_models)
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="such as '*_cifar'")
    add_json(parser)

    parser = commands.add_parser("summary")
    parser.set_defaults(run=print_summary)
    parser.add_argument("name", metavar="NAME", help="a network, see `inception-np models`")
    parser.add_argument("--preset", default="paper", metavar="P", help="paper, or whose released network")
    parser.add_argument("--input", type=size, metavar="HxW", help="image size; the network's own by default")
    parser.add_argument("--classes", type=positive, metavar="N", help="classes; the network's own by default")
    parser.add_argument("--width", type=number, metavar="X", help="factor on the channel counts")
    depth = "2: rows for what is within the stages, and so on; 1 by default"
    parser.add_argument("--depth", type=natural, default=1, metavar="N", help=depth)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="the network's own options")
    add_json(parser)


def print_models(args: argparse.Namespace) -> int:
    from . import list_models
    from .summary import summary

    names = list_models(args.pattern)
    if not names:
        raise UsageError(f"PATTERN: no network matches {args.pattern!r}; {nearest(args.pattern, list_models())}")
    tables = [summary(name) for name in names]
    if args.json:
        fields = ("name", "preset", "input", "params", "macs")
        print(json.dumps([{field: table.to_json()[field] for field in fields} for table in tables]))
        return 0
    print(f"{'network':24} {'input':>12} {'parameters':>12} {'multiply-adds':>15}")
    for table in tables:
        image = "x".join(map(str, table.input))
        print(f"{table.name:24} {image:>12} {table.params:12,} {table.macs:15,}")
    return 0


def print_summary(args: argparse.Namespace) -> int:
    name = known_model(args.name, "NAME")
    from ..training.own_options import own_options
    from . import create_model
    from .size import check_width
    from .summary import summary

    options = own_options(name, args.option)
    check_width(name, args.width, 0, args.classes)
    try:
        net = create_model(name, preset=args.preset, num_classes=args.classes, width=args.width, **options)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{error}; see inception-np summary --help") from error
    table = summary(net, args.input, depth=args.depth)
    print(json.dumps(table.to_json()) if args.json else table)
    return 0

"""`inception-np look`: pictures of what a trained network has learned."""

import argparse
import json
from pathlib import Path

from ..backend.errors import UsageError, nearest
from ..training.arguments import add_json, add_threads, use_threads

MANY = 100  # of a thousand classes an error names only those near to what was typed


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("look")
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file that train, save or import wrote")
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="JPEG, PNG, ...; some test images by default")
    parser.add_argument("--output", metavar="DIR", help="where the pictures go; CHECKPOINT-look by default")
    parser.add_argument("--classes", metavar="CLASS", nargs="+", help="names or numbers of classes to maximise")
    parser.add_argument("--stages", metavar="PATH", nargs="+", help="whose activations are drawn, such as 4a 4a.b3")
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run `inception-np look`. Returns the exit code 0.

    Raises UsageError for unknown classes and stages and for an --output with other files of these names, ValueError
    and OSError of one line for files that cannot be read or written.
    """
    import numpy as np

    from ..layer import cast
    from ..training.checkpoint_commands import network_of
    from .images import images_for
    from .pictures import output_folder, write
    from .report import check_stages, look

    use_threads(args)
    net, about = network_of(args.checkpoint)
    cast(net, "float32")
    names = [str(name) for name in about.get("classes") or []]
    if len(names) != net.num_classes:
        names = [f"class {i}" for i in range(net.num_classes)]
    chosen = [class_number(text, names) for text in args.classes or []]
    images = images_for(net, about, args.checkpoint, args.images)
    check_stages(net, args.stages or [], images.x[:1])
    folder = output_folder(args.output or default_folder(args.checkpoint), images.shown)
    with np.errstate(all="ignore"):
        report = look(net, images, args.checkpoint, names, chosen, args.stages or [])
    files = write(net, report, folder)
    if args.json:
        print(json.dumps({**report.to_json(), "files": [str(file) for file in files]}))
        return 0
    print(report)
    print("\n".join(f"  {file}" for file in files))
    return 0


def default_folder(checkpoint: str) -> Path:
    """Beside the checkpoint: runs/a/best-look for runs/a/best.safetensors."""
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}-look")


def class_number(text: str, names: list[str]) -> int:
    """The class that is called so, or has that number. Raises UsageError with the nearest names."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise UsageError(f"--classes: there is no class {text!r}; {nearest(text, names[:MANY])}")

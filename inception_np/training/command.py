"""`inception-np train`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backend.errors import UsageError
from ..data.streams import say
from .arguments import add_precision, add_threads, known_model, natural, number, positive, use_threads, whole


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Options of the run have no default here, so that --resume can tell which were given. See options.resolve."""
    parser = commands.add_parser("train")
    parser.set_defaults(run=run)
    add = parser.add_argument_group("what").add_argument
    add("--from", dest="from_", metavar="CHECKPOINT", help="start from its weights; the network is the file's")
    add("--freeze", nargs="+", metavar="NAME", help="stages or parameters to leave as they are, or patterns: 'conv*'")
    add("--model", metavar="NAME", help="a network, see `inception-np models`")
    add("--preset", metavar="P", help="paper (default), or whose released network")
    add("--width", type=number, metavar="X", help="factor on the paper's channel counts")
    add("--option", action="append", metavar="NAME=VALUE", help="an option of the network's own, such as lrn=false; "
        "may be given again for others")  # fmt: skip
    add("--no-aux", dest="aux", action="store_false", default=None, help="leave auxiliary heads out")
    add("--data", metavar="NAME", help="shapes10 (default, generated), cifar10, cifar100, mnist, fashion_mnist, "
        "digits, folder, npz, or FILE.py:FUNCTION")  # fmt: skip
    add("--data-dir", metavar="DIR", help="where the files are: a folder; for npz the file")
    add("--train-images", type=positive, metavar="N", help="only the first N training images")
    add("--test-images", type=positive, metavar="N", help="only the first N test images")
    add("--subset", action="store_true", default=None, help="accept a reduced copy of the data set")
    add("--mean", type=number, nargs="+", metavar="X", help="of the pixels 0..255; the data set's, or --from's")
    add("--std", type=number, nargs="+", metavar="X", help="their deviation")
    add("--augment", action=argparse.BooleanOptionalAction, help="random crops and flips; usual for cifar10")
    add("--pad", type=whole, metavar="N", help="border that crops are taken from, in pixels; cifar10: 4")
    add("--cutout", type=whole, metavar="N", help="cut a square of N pixels out of every training image")
    add("--flip", metavar="NAME", help="mirror images at random (default), or alternating from epoch to epoch")
    add("--distort", type=number, metavar="X", help="other brightness, contrast, saturation and hue; 1: as TF-slim")
    add("--mixup", type=number, metavar="A", help="mix images and labels in pairs, by shares from Beta(A, A)")
    add = parser.add_argument_group("how").add_argument
    add(
        "--epochs",
        type=positive,
        metavar="N",
        help="with --resume, more than before: the schedule goes on over so many",
    )
    add("--patience", type=natural, metavar="N", help="end after N epochs without a better test accuracy")
    add("--batch-size", type=positive, metavar="N")
    add("--optimizer", metavar="NAME", help="sgd, rmsprop or muon")
    add("--lr", type=number, metavar="X", help="learning rate at its highest")
    add("--sgd-lr", type=number, metavar="X", help="with muon: of all parameters but the filters")
    add("--bias-scale", type=number, metavar="X", help="with muon: times the rate of biases")
    add("--momentum", type=number, metavar="X")
    add("--no-nesterov", dest="nesterov", action="store_false", default=None)
    add("--weight-decay", type=number, metavar="X")
    add("--rms-decay", type=number, metavar="X", help="with rmsprop: decay of the mean square; 0.9 by default")
    add("--rms-eps", type=number, metavar="X", help="with rmsprop: what is added to it; 1 by default")
    add("--schedule", metavar="NAME", help="cosine (default), linear, triangular, step, exponential or constant")
    add("--lr-factor", type=number, metavar="X", help="with exponential: times the rate; 0.94 by default")
    add("--lr-every", type=number, metavar="EPOCHS", help="with exponential: how often; every 2 epochs by default")
    add("--warm-up", type=number, metavar="EPOCHS", help="epochs over which the learning rate rises")
    add("--smoothing", type=number, metavar="X", help="label smoothing")
    add("--clip", type=number, metavar="X", help="largest norm of the gradient")
    add("--ema", type=number, metavar="X", help="decay of a running average of the weights")
    add("--lookahead", action=argparse.BooleanOptionalAction, help="pull the weights back to slow ones every 5 steps")
    add("--tta", action=argparse.BooleanOptionalAction, help="after the last epoch, test by six views of each image")
    add("--seed", type=whole, metavar="N")
    add("--low-memory", action="store_true", default=None, help="make what is cheap again in backward; the same bits")
    add("--shards", type=natural, metavar="N", help="cut each batch into N parts, which the workers of mpiexec share: "
        "the weights have the same bits for 1, 2, ... N workers")  # fmt: skip
    add("--device", choices=("cpu", "cuda", "auto"), help="cpu (default), cuda, or auto")
    add_precision(add)
    add_threads(parser)
    add = parser.add_argument_group("where").add_argument
    add("--output", metavar="DIR", help="folder for results; a new one in runs/ by default")
    add("--resume", action="store_true", help="take up the run in --output where it stopped")
    add("--force", action="store_true", help="start even if it may not fit into memory")
    add("--log", metavar="NAME", help="csv (default), or tensorboard for TensorBoard too")
    add("--save-every", type=number, default=60.0, metavar="SECONDS", help="save within an epoch; 60 by default")


def run(args: argparse.Namespace) -> int:
    """Train, or take a run up, and print what it leaves. Raises what train raises."""
    use_threads(args)
    from dataclasses import fields, replace

    from ..data.dataset import runs_code
    from .loop import train
    from .options import Options, check_unchanged, resolve
    from .results import FILES
    from .start import options_from
    from .state import stored_options

    names = [field.name for field in fields(Options)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    if args.model:
        given["model"] = known_model(args.model, "--model")
    if args.device == "auto":
        from ..backend.device import resolve_device

        given["device"] = resolve_device("auto")
        say(f"inception-np: running on {given['device']}")
    if args.resume:
        if args.output is None:
            raise UsageError("--resume: which run? add --output DIR")
        options = stored_options(Path(args.output))
        given |= _rewritten(options.model, given)
        check_unchanged(given, options, Path(args.output))
        if runs_code(options.data) and not args.data:
            raise UsageError(f"--data: the run has {options.data}, whose code would run; say --data {options.data}")
        options = replace(options, epochs=given.get("epochs", options.epochs))
    else:
        given = options_from(args.from_, given) if args.from_ else given
        options = resolve(**{**given, **_rewritten(given.get("model", Options.model), given)})
    folder = Path(args.output) if args.output else _new_folder(f"{options.model}-{options.data.rpartition(':')[2]}")
    last = train(folder, options, resume=args.resume, force=args.force, save_every=args.save_every)
    print(
        f"test accuracy {last['test_accuracy']:.2%}, test loss {last['test_loss']:.4f} "
        f"after {last['epoch']} epochs; in {folder}:"
    )
    for name, what in FILES.items():
        if (folder / name).exists():
            print(f"  {name:24} {what}")
    return 0


def _rewritten(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The network's own options as a run writes them down: dropout=0 and dropout=0.0 are the same."""
    from .own_options import as_texts, own_options

    return {"option": as_texts(own_options(model, given["option"]))} if "option" in given else {}


def _new_folder(name: str) -> Path:
    """The first of runs/NAME, runs/NAME-2, ... that does not exist."""
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            return folder
        number += 1

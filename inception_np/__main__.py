"""The command line: `inception-np COMMAND ...`.

Nothing heavy is imported before a command is known, so that help comes at once. Results go to
standard output and progress to standard error. Exit codes: 0 good, 1 the run failed, 2 wrong
usage, 3 refused for want of memory or a device, 129, 130 and 143 stopped by a signal (128 + its
number). Progress that nobody can read is dropped, and changes neither a result nor an exit code; so
is the rest of the results when their reader goes away. Results that a full disk does not take are
an error.
"""

import argparse
import contextlib
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from .arguments import number, positive, size, whole
from .data.streams import Quiet, Results, drop, open_standard_streams, say
from .errors import RefusedError, StoppedError, UsageError, explained, nearest
from .training.signals import Signals

PROGRAM = "inception-np"


class Parser(argparse.ArgumentParser):
    """Argparse, but a mistake is an exception with one line of text."""

    def error(self, message: str) -> NoReturn:
        found = re.fullmatch(r"argument (?:-\w/)?(\S+): (.*)", message, re.DOTALL)
        if found:
            raise UsageError(f"{found[1]}: {found[2]}; see {self.prog} --help")
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            raise UsageError(f"{missing}: missing; see {self.prog} --help")
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; what went wrong is one line on standard error."""
    open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    results, progress, signals = Results(sys.stdout), Quiet(sys.stderr), Signals(of_process=argv is None)
    with contextlib.redirect_stdout(results), contextlib.redirect_stderr(progress), signals:
        code, error = 0, None
        try:
            code = run(arguments)
        except SystemExit as done:  # argparse has printed help or the version
            code = int(done.code or 0)
        except (Exception, KeyboardInterrupt) as caught:
            error = caught
        signals.last = True  # what is left to do is short: a signal ends the process
        with contextlib.suppress(OSError):
            results.flush()
        lost = results.error
        if isinstance(lost, OSError):
            gone = results.reader_is_gone()
            drop(results)
            if error in (None, lost) and gone:
                error = None  # the reader went away, as in `inception-np models | head`
            elif error in (None, lost):
                reason = lost.strerror or str(lost)
                error = OSError(f"standard output: cannot be written ({reason}); name a file with room for it")
        if error:
            code = report(error)
        if progress.error:
            drop(progress)
        return code


def report(error: BaseException) -> int:
    """Write down in one line what ended the command. Returns its exit code; raises what is a mistake of ours."""
    failed = exit_code(error)
    if failed is None or os.environ.get("INCEPTION_NP_TRACEBACK"):
        raise error
    text = explained(error) or "out of memory; choose a smaller batch or network"
    if isinstance(error, KeyboardInterrupt):
        text = "stopped"
    kind = "" if failed > 128 else "error: "
    say(f"{PROGRAM}: {kind}{text}")
    return failed


def exit_code(error: BaseException) -> int | None:
    """What a mistake of the user or the machine ends with; None for a mistake of ours."""
    if isinstance(error, UsageError):
        return 2
    if isinstance(error, (RefusedError, MemoryError)) or type(error).__name__ == "DeviceError":
        return 3
    if isinstance(error, StoppedError):
        return 128 + error.signal
    if isinstance(error, KeyboardInterrupt):
        return 128 + getattr(error, "number", signal.SIGINT)
    return 1 if isinstance(error, (ValueError, TypeError, OSError)) else None


def run(argv: list[str]) -> int:
    """Parse the arguments and run the command in them."""
    parser = Parser(prog=PROGRAM, description=TITLE, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    named = next((word for word in argv if not word.startswith("-")), None)
    if named is not None and named not in COMMANDS:
        raise UsageError(f"{named}: no such command; {nearest(named, list(COMMANDS))}")
    chosen = parser
    for name, (title, add_arguments, _) in COMMANDS.items():
        sub = commands.add_parser(name, help=title, description=title, allow_abbrev=False)
        if name == named:
            add_arguments(sub)
            chosen = sub
    args, left_over = parser.parse_known_args(argv)
    if left_over:
        raise UsageError(_left_over(left_over[0], chosen))
    if args.command is None:
        raise UsageError(f"command: none given; choose from {', '.join(COMMANDS)}")
    return COMMANDS[args.command][2](args)


def _version() -> str:
    from . import __version__

    return f"{PROGRAM} {__version__}"


def _left_over(word: str, parser: argparse.ArgumentParser) -> str:
    word = word.partition("=")[0]
    if not word.startswith("-"):
        return f"{word}: one argument too many; see {parser.prog} --help"
    options = [name for action in parser._actions for name in action.option_strings]
    return f"{word}: no such option; {nearest(word, [o for o in options if o.startswith('--')])}"


def _known_model(name: str, option: str) -> str:
    """The name that a network goes by. Raises UsageError with the nearest names."""
    from .models import ALIASES, find, list_models

    if name not in ALIASES and name not in list_models():
        raise UsageError(f"{option}: there is no network {name!r}; {nearest(name, [*list_models(), *ALIASES])}")
    return find(name)[1]


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, metavar="N", help="one for each core by default")


def _use_threads(args: argparse.Namespace) -> None:
    """The results are the same bits with any number of threads, so it is no option of a run."""
    from .threads import num_threads, set_num_threads

    if args.threads is not None:
        set_num_threads(args.threads)
    try:
        num_threads()
    except ValueError as error:
        raise UsageError(str(error)) from error


# models


def models_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="such as '*_cifar'")
    parser.add_argument("--json", action="store_true", help="print JSON")


def models(args: argparse.Namespace) -> int:
    from .models import list_models
    from .table import summary

    names = list_models(args.pattern)
    if not names:
        raise UsageError(f"PATTERN: no network matches {args.pattern!r}; {nearest(args.pattern, list_models())}")
    rows: list[dict[str, Any]] = []
    for name in names:
        table = summary(name)
        rows.append(
            {
                "name": name,
                "preset": table.preset,
                "input": list(table.input),
                "params": table.params,
                "macs": table.macs,
            }
        )
    if args.json:
        print(json.dumps(rows))
        return 0
    print(f"{'network':24} {'input':>12} {'parameters':>12} {'multiply-adds':>15}")
    for row in rows:
        size = "x".join(map(str, row["input"]))
        print(f"{row['name']:24} {size:>12} {row['params']:12,} {row['macs']:15,}")
    return 0


# summary


def summary_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a network, see `inception-np models`")
    parser.add_argument("--preset", default="paper", metavar="P", help="paper, or whose released network")
    parser.add_argument("--input", type=size, metavar="HxW", help="image size; the network's own by default")
    parser.add_argument("--classes", type=positive, metavar="N", help="classes; the network's own by default")
    parser.add_argument("--width", type=number, metavar="X", help="factor on the channel counts")
    parser.add_argument("--json", action="store_true", help="print JSON")


def summary(args: argparse.Namespace) -> int:
    name = _known_model(args.name, "NAME")
    from .models import create_model
    from .table import summary as table_of
    from .training.memory import check_width

    check_width(name, args.width, 0, args.classes)
    try:
        net = create_model(name, preset=args.preset, num_classes=args.classes, width=args.width)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{error}; see {PROGRAM} summary --help") from error
    table = table_of(net, args.input)
    print(json.dumps(table.to_json()) if args.json else table)
    return 0


# train


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing has a default here, so that --resume can tell what was asked for. See train.resolve."""
    add = parser.add_argument_group("what").add_argument
    add("--model", metavar="NAME", help="a network, see `inception-np models`")
    add("--preset", metavar="P", help="paper (default), or whose released network")
    add("--width", type=number, metavar="X", help="factor on the paper's channel counts")
    add("--no-aux", dest="aux", action="store_false", default=None, help="leave auxiliary heads out")
    add("--data", metavar="NAME", help="shapes10 (default, generated) or cifar10")
    add("--data-dir", metavar="DIR", help="where the files of cifar10 are")
    add("--train-images", type=positive, metavar="N", help="only the first N training images")
    add("--test-images", type=positive, metavar="N", help="only the first N test images")
    add("--subset", action="store_true", default=None, help="accept a reduced copy of the data set")
    add("--augment", action=argparse.BooleanOptionalAction, help="random crops and flips; usual for cifar10")
    add("--pad", type=whole, metavar="N", help="border that crops are taken from, in pixels; cifar10: 4")
    add("--cutout", type=whole, metavar="N", help="cut a square of N pixels out of every training image")
    add("--flip", metavar="NAME", help="mirror images at random (default), or alternating from epoch to epoch")
    add = parser.add_argument_group("how").add_argument
    add("--epochs", type=positive, metavar="N")
    add("--batch-size", type=positive, metavar="N")
    add("--optimizer", metavar="NAME", help="sgd (default) or rmsprop")
    add("--lr", type=number, metavar="X", help="learning rate at its highest")
    add("--momentum", type=number, metavar="X")
    add("--no-nesterov", dest="nesterov", action="store_false", default=None)
    add("--weight-decay", type=number, metavar="X")
    add("--schedule", metavar="NAME", help="cosine (default), triangular, step, exponential (the papers') or constant")
    add("--warm-up", type=number, metavar="EPOCHS", help="epochs over which the learning rate rises")
    add("--smoothing", type=number, metavar="X", help="label smoothing")
    add("--clip", type=number, metavar="X", help="largest norm of the gradient")
    add("--ema", type=number, metavar="X", help="decay of a running average of the weights")
    add("--lookahead", action=argparse.BooleanOptionalAction, help="pull the weights back to slow ones every 5 steps")
    add("--tta", action=argparse.BooleanOptionalAction, help="test-time augmentation: mean logits of six views")
    add("--seed", type=whole, metavar="N")
    add("--low-memory", action="store_true", default=None, help="make what is cheap again in backward; the same bits")
    add("--device", choices=("cpu", "cuda", "auto"), help="cpu (default), cuda, or auto")
    _add_threads(parser)
    add = parser.add_argument_group("where").add_argument
    add("--output", metavar="DIR", help="folder for results; a new one in runs/ by default")
    add("--resume", action="store_true", help="take up the run in --output where it stopped")
    add("--force", action="store_true", help="start even if it may not fit into memory")
    add("--save-every", type=number, default=60.0, metavar="SECONDS", help="save within an epoch; 60 by default")


def train(args: argparse.Namespace) -> int:
    given = {k: v for k, v in vars(args).items() if v is not None}
    for key in ("command", "output", "resume", "force", "threads", "save_every"):
        given.pop(key, None)
    _use_threads(args)
    if "model" in given:
        given["model"] = _known_model(given["model"], "--model")
    if given.get("device") == "auto":
        from .backend import device

        given["device"] = device("auto")
        say(f"{PROGRAM}: running on {given['device']}")
    from .training import loop as training

    if args.resume:
        if args.output is None:
            raise UsageError("--resume: which run? add --output DIR")
        options = training.stored_options(Path(args.output))
        for key, value in given.items():
            if value != getattr(options, key):
                raise UsageError(
                    f"--{key.replace('_', '-')}: got {value}, the run in {args.output} has "
                    f"{getattr(options, key)}; leave it out with --resume"
                )
    else:
        options = training.resolve(**given)
    folder = Path(args.output) if args.output else _new_folder(f"{options.model}-{options.data}")
    last = training.train(folder, options, resume=args.resume, force=args.force, save_every=args.save_every)
    print(
        f"test accuracy {last['test_accuracy']:.2%}, test loss {last['test_loss']:.4f} "
        f"after {last['epoch']} epochs; in {folder}:"
    )
    for name, what in training.FILES.items():
        if (folder / name).exists():
            print(f"  {name:24} {what}")
    return 0


def _new_folder(name: str) -> Path:
    """The first of runs/NAME, runs/NAME-2, ... that does not exist."""
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            return folder
        number += 1


# eval


def eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file that train or save wrote")
    parser.add_argument("--data", metavar="NAME", help="shapes10 or cifar10; what it was trained on by default")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of cifar10 are")
    parser.add_argument("--test-images", type=positive, metavar="N", help="only the first N test images")
    parser.add_argument("--subset", action="store_true", help="accept a reduced copy of the data set")
    parser.add_argument("--batch-size", type=positive, default=250, metavar="N")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation: mean logits of six views")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu")
    _add_threads(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _network(path: str) -> tuple[Any, dict[str, Any]]:
    """(network, what is said about it) of a checkpoint. Raises ValueError for one with numbers that are not finite."""
    from .checkpoint import read
    from .data.files import sweep
    from .training.watchdog import first_not_finite

    folder = Path(path).parent
    if (folder / "lock").exists():  # a run's, which may have been killed and never taken up
        sweep(folder)
    net, about = read(path)
    culprit = first_not_finite(net)
    if culprit:
        raise ValueError(f"{path}: {culprit} holds NaN or infinity; take a checkpoint from before that")
    return net, about


def evaluate(args: argparse.Namespace) -> int:
    from .backend import device
    from .data.cifar10 import load
    from .layer import move
    from .training.loop import evaluate as measure

    where = device(args.device)
    _use_threads(args)
    net, about = _network(args.checkpoint)
    name = args.data or about.get("data")
    if name is None:
        raise UsageError(f"--data: {args.checkpoint} does not say what it was trained on; add --data")
    if "preprocess" in about:  # then the training images are not needed for their mean
        data = load(name, args.data_dir, train=1, test=args.test_images, subset=args.subset)
        mean, std = tuple(about["preprocess"]["mean"]), tuple(about["preprocess"]["std"])
    else:
        data = load(name, args.data_dir, test=args.test_images, subset=args.subset)
        mean, std = data.mean, data.std
    classes = getattr(net, "num_classes", len(data.classes))
    if classes != len(data.classes):
        raise UsageError(f"--data: {name} has {len(data.classes)} classes, {args.checkpoint} has {classes}")
    images, labels = data.test_images, data.test_labels
    accuracy, loss, _ = measure(move(net, where), images, labels, mean, std, args.batch_size, tta=args.tta)
    if not math.isfinite(loss):
        raise ValueError(
            f"{args.checkpoint}: the loss is {loss} although all its numbers are finite; its logits are too large, "
            "train with a smaller --lr"
        )
    if args.json:
        print(json.dumps({"accuracy": accuracy, "loss": loss, "images": len(labels)}))
    else:
        print(f"accuracy {accuracy:.2%} of {len(labels):,} test images of {name}, loss {loss:.4f}")
    return 0


# predict


def predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file that train, save or import wrote")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="JPEG, PNG, ...")
    parser.add_argument("--crops", type=whole, choices=(1, 10, 144), default=1, help="crops averaged (GoogLeNet)")
    _add_threads(parser)
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="how many classes to print")
    parser.add_argument("--json", action="store_true", help="print JSON")


def predict(args: argparse.Namespace) -> int:
    import numpy as np

    from .training.predict import predict_images, preprocess_for, top

    _use_threads(args)
    net, about = _network(args.checkpoint)
    how = preprocess_for(net, about)
    found: list[dict[str, Any]] = []
    with np.errstate(all="ignore"):  # what is not finite is an error below
        predictions = predict_images(net, args.images, preprocess=how, crops=args.crops)
    for prediction in predictions:
        if not np.isfinite(prediction.probabilities).all():
            raise ValueError(
                f"{prediction.path}: its probabilities are not finite although all numbers of {args.checkpoint} are; "
                "its logits are too large, train with a smaller --lr"
            )
        best = top(prediction.probabilities, about.get("classes"), args.top)
        found.append(
            {
                "image": prediction.path,
                "predictions": [{"class": name, "probability": p} for name, p in best],
            }
        )
    if args.json:
        print(json.dumps(found))
        return 0
    for one in found:
        print(one["image"])
        for line in one["predictions"]:
            print(f"  {line['probability']:7.2%}  {line['class']}")
    return 0


# Commands that live in files of their own


def elsewhere(module: str) -> tuple[Callable[..., None], Callable[..., int]]:
    """(add_arguments, run) of a module that is imported when its command is used."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        import_module(f"{__package__}.{module}").add_arguments(parser)

    def run_it(args: argparse.Namespace) -> int:
        return import_module(f"{__package__}.{module}").run(args)

    return add_arguments, run_it


TITLE = "The Inception family written from scratch on NumPy, with every backward pass by hand."
COMMANDS: dict[str, tuple[str, Callable[..., None], Callable[..., int]]] = {
    "models": ("list the networks", models_arguments, models),
    "summary": ("print a network's table beside the paper's", summary_arguments, summary),
    "train": ("train a network; without options, a small one in a minute", train_arguments, train),
    "eval": ("measure a checkpoint's accuracy", eval_arguments, evaluate),
    "predict": ("say what is in pictures", predict_arguments, predict),
    "gradcheck": ("check the gradients of a layer or a network", *elsewhere("gradcheck_cli")),
    "bench": ("measure speed, alone or against PyTorch", *elsewhere("bench")),
    "import": ("turn another library's weights into a checkpoint", *elsewhere("weights")),
}


if __name__ == "__main__":
    sys.exit(main())

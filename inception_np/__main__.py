"""The command line: `inception-np COMMAND ...`, or `python -m inception_np COMMAND ...`.

A command's module is imported when its name is read, so that help comes at once. Results go to standard output and
progress to standard error. Exit codes: 0 good, 1 the run failed, 2 wrong usage, 3 refused for want of memory or a
device, 129, 130 and 143 stopped by a signal (128 + its number). Progress that nobody can read is dropped, and changes
neither a result nor an exit code; so is the rest of the results when their reader goes away. Results that a full disk
does not take are an error.

Of several workers that mpiexec has started rank 0 alone speaks, and a watch ends them all where one dies or fails
(parallel/watch.py).
"""

import argparse
import contextlib
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from .backend.errors import RefusedError, StoppedError, UsageError, explained, nearest
from .data.streams import Quiet, Results, drop, open_standard_streams, say
from .parallel.launcher import abort, launched, launched_rank
from .training.signals import Signals

if TYPE_CHECKING:
    from .parallel.watch import Watch

PROGRAM = "inception-np"
TITLE = "The Inception family written from scratch on NumPy, with every backward pass by hand."
# What each command does, and the module with its `add_parser` (arguments.py).
COMMANDS = {
    "models": ("list the networks", "models.command"),
    "summary": ("print a network's table beside the paper's", "models.command"),
    "train": ("train a network; without options, a small one in a minute", "training.command"),
    "eval": ("measure a checkpoint's accuracy", "training.checkpoint_commands"),
    "predict": ("say what is in pictures", "training.checkpoint_commands"),
    "look": ("draw what a trained network has learned: filters, activations, saliency, ...", "look.command"),
    "gradcheck": ("check the gradients of a layer or a network", "gradcheck.command"),
    "bench": ("measure speed, alone or against PyTorch", "runtime.bench.command"),
    "import": ("turn another library's weights into a checkpoint", "weights.command"),
    "learn": ("the deck, backward passes and several workers as notebooks, in a browser", "learn.command"),
    "export": ("write a network, or a step of its training, as an ONNX file", "runtime.export.command"),
}

TOGETHER = ("train", "eval")  # what the workers of mpiexec do together


class Parser(argparse.ArgumentParser):
    """Argparse, but a mistake is an exception with one line of text, and no option may be abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

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
    results, progress = (Results(None), Quiet(None)) if launched_rank() else (Results(sys.stdout), Quiet(sys.stderr))
    signals, watch = Signals(of_process=argv is None), None
    with contextlib.redirect_stdout(results), contextlib.redirect_stderr(progress), signals:
        code, error = 0, None
        try:
            with signals.deferred():
                watch = watched(arguments)
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
            code = report(error, watch)
        if progress.error:
            drop(progress)
    if watch:
        watch.done(code)
    return code


def watched(arguments: Sequence[str]) -> "Watch | None":
    """The watch over this command's workers, where it has several.

    Raises UsageError for a command that one process does alone, and RefusedError where MPI or the watch does not start.
    """
    if not launched() or not arguments or arguments[0] not in COMMANDS:
        return None
    if arguments[0] not in TOGETHER:
        raise UsageError(
            f"{arguments[0]}: started as several workers, which only {' and '.join(TOGETHER)} can be; "
            "run it without mpiexec"
        )
    from .parallel.watch import Watch
    from .parallel.workers import of_process

    return Watch(of_process())


def report(error: BaseException, watch: "Watch | None" = None) -> int:
    """Write down in one line what ended the command. Returns its exit code; raises what is a mistake of ours.

    A process that is one of several workers ends here, and the others with it.
    """
    failed = exit_code(error)
    ours = failed is None or bool(os.environ.get("INCEPTION_NP_TRACEBACK"))
    if ours and not launched():
        raise error
    failed = failed or 1
    head = f"{PROGRAM}: {'' if failed > 128 else 'error: '}"
    text = explained(error) or "out of memory; choose a smaller batch or network"
    if isinstance(error, KeyboardInterrupt):
        text = "stopped"
    if ours:
        head, text = "", "".join(traceback.format_exception(error))
    if watch:
        watch.failed(head, text, failed)
    rank = launched_rank()
    if rank:
        time.sleep(1)  # rank 0 says the same now and ends us all, or this worker has failed alone
        with contextlib.redirect_stderr(sys.__stderr__):
            say(f"{head}rank {rank}: {text}")
    else:
        say(f"{head}{text}")
    if launched():
        abort(failed)
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
    from . import __version__

    parser = Parser(prog=PROGRAM, description=TITLE)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen: argparse.ArgumentParser = parser
    if argv and not argv[0].startswith("-"):
        chosen = command_parser(argv[0], commands)
    else:
        for name, (title, _) in COMMANDS.items():
            commands.add_parser(name, help=title)
    args, left_over = parser.parse_known_args(argv)
    if left_over:
        raise UsageError(_left_over(left_over[0], chosen))
    if args.command is None:
        raise UsageError(f"command: none given; choose from {', '.join(COMMANDS)}")
    code: int = args.run(args)
    return code


def command_parser(name: str, commands: Any) -> argparse.ArgumentParser:
    """The parser of one command, added to `commands` by its module."""
    if name not in COMMANDS:
        raise UsageError(f"{name}: no such command; {nearest(name, list(COMMANDS))}")
    title, home = COMMANDS[name]
    import_module(f"{__package__}.{home}").add_parser(commands)
    parser: argparse.ArgumentParser = commands.choices[name]
    parser.description = title
    return parser


def _left_over(word: str, parser: argparse.ArgumentParser) -> str:
    word = word.partition("=")[0]
    if not word.startswith("-"):
        return f"{word}: one argument too many; see {parser.prog} --help"
    options = [name for action in parser._actions for name in action.option_strings]
    return f"{word}: no such option; {nearest(word, [o for o in options if o.startswith('--')])}"


if __name__ == "__main__":
    sys.exit(main())

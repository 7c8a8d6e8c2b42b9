"""Arguments that several commands take: numbers, as types for argparse; a network's name; --threads, --precision
and --json.

A command stands in a module whose `add_parser(commands)` names it, adds its arguments and sets `run`, the function that
takes the parsed arguments and returns the exit code. Numbers are written in digits, finite, and no longer than a number
is. Nothing heavy is imported before a command runs.
"""

import argparse
import os
import re
from collections.abc import Callable
from typing import Any

from ..backend.errors import UsageError, nearest


def whole(text: str) -> int:
    """A whole number."""
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        raise argparse.ArgumentTypeError(f"got {_short(text)}, wanted a whole number")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    return _from(1, text)


def natural(text: str) -> int:
    """A whole number from 0."""
    return _from(0, text)


def _from(least: int, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"got {_short(text)}, wanted a whole number from {least}")
    return int(text)


def number(text: str) -> float:
    """A finite number."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", text) or abs(float(text)) > 1e308:
        raise argparse.ArgumentTypeError(f"got {_short(text)}, wanted a number such as 0.1")
    return float(text)


def size(text: str) -> tuple[int, int]:
    """Height and width in pixels."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"got {_short(text)}, wanted a size such as 299x299")
    return int(found[1]), int(found[2] or found[1])


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def known_model(name: str, option: str) -> str:
    """The name that a network is listed by; `name` may be an alias. Raises UsageError with the nearest names."""
    from ..models import ALIASES, find, list_models

    if name not in ALIASES and name not in list_models():
        raise UsageError(f"{option}: there is no network {name!r}; {nearest(name, [*list_models(), *ALIASES])}")
    return find(name)[1]


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, metavar="N", help="one for each core by default")


def use_threads(args: argparse.Namespace) -> int:
    """Set the number of threads that --threads or the environment asks for, and return it.

    Raises UsageError for a variable of the environment that is no number. Results have the same bits with any number of
    threads, so that it is no option of a run. Several workers on one machine share its cores.
    """
    from ..backend.threads import num_threads, set_num_threads
    from ..parallel.workers import of_process

    if args.threads is not None:
        set_num_threads(args.threads)
    try:
        count = num_threads()
    except ValueError as error:
        raise UsageError(str(error)) from error
    if args.threads is None and "INCEPTION_NP_THREADS" not in os.environ:
        set_num_threads(max(1, count // of_process().on_this_machine()))
    return num_threads()


def add_precision(add: Callable[..., Any]) -> None:
    """add: a parser's add_argument, or a group's."""
    add("--precision", choices=("float32", "tf32", "bf16"), help="on a GPU: tf32 (default), float32 by cuBLAS, or bf16")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")

"""A network's own options as texts NAME=VALUE: how --option takes them, and how a run writes them down.

    own_options("inception_v1_cifar", ["lrn=false", "dropout=0"])      {"lrn": False, "dropout": 0.0}
    as_texts({"lrn": False, "dropout": 0.0})                           ("dropout=0.0", "lrn=false")

Names, types and defaults are those of the network's function, such as models.inception_v1.inception_v1.
"""

import argparse
import inspect
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, get_args

from ..backend.errors import UsageError
from ..models import find
from .arguments import number, whole

MOST = 2000  # blocks, segments or layers: more would be made for minutes


def own_options(model: str, texts: Sequence[str]) -> dict[str, Any]:
    """The keywords of create_model that the texts say.

    Raises UsageError for a text of another form, a name that this network does not have or that comes twice, and a
    value that is not of the option's type; ValueError for options of a network that does not exist.
    """
    known = find(model)[0].options() if texts else {}
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option: got {text[:40]!r}; give NAME=VALUE, such as dropout=0")
        if name not in known:
            raise UsageError(f"--option: {model} has no option {name[:40]!r}; it has {', '.join(known) or 'none'}")
        if name in found:
            raise UsageError(f"--option: got {name} twice; give it once")
        found[name] = _value(known[name], value)
    return found


def as_texts(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of these keywords, in the order of their names; those that are None have none."""
    words = {True: "true", False: "false"}
    return tuple(
        f"{name}={words[value] if isinstance(value, bool) else value}"
        for name, value in sorted(options.items())
        if value is not None
    )


def _value(option: inspect.Parameter, text: str) -> Any:
    """The value in a text, of the option's type: a truth value, a whole number, a number or a word."""
    kinds = set(get_args(option.annotation) or [option.annotation]) - {NoneType}
    try:
        if bool in kinds:
            return {"true": True, "false": False}[text.lower()]
        if int in kinds:
            value = whole(text)
            if not 0 <= value <= MOST:
                raise argparse.ArgumentTypeError(f"got {value}")
            return value
        return number(text) if float in kinds else text
    except (KeyError, argparse.ArgumentTypeError) as error:
        wanted = {bool: "true or false", int: f"a whole number from 0 to {MOST}", float: "a number"}
        kind = next(wanted[kind] for kind in wanted if kind in kinds)
        raise UsageError(f"--option: got {option.name}={text[:40]}; give {kind}") from error

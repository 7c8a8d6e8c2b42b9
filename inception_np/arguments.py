"""Numbers on the command line, as types for argparse: written in digits, finite, and of a length that a number has."""

import argparse
import re


def whole(text: str) -> int:
    """A whole number."""
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        raise argparse.ArgumentTypeError(f"got {_short(text)}, wanted a whole number")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"got {_short(text)}, wanted a whole number from 1")
    return int(text)


def natural(text: str) -> int:
    """A whole number from 0."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"got {_short(text)}, wanted a whole number from 0")
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

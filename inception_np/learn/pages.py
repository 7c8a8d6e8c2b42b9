"""The notebooks: where they are, what they are called, in which order they are read."""

import ast
from pathlib import Path
from typing import NamedTuple

PARTS = {
    "deck": "The deck, slide by slide",
    "backward": "Backward passes, to read and to break",
    "parallel": "Several workers, and the bits of their sums",
}


class Page(NamedTuple):
    """One notebook. part: of PARTS. name: of its file, without .py. title, about: its docstring."""

    part: str
    name: str
    title: str
    about: str
    file: Path


def folder() -> Path:
    """Where the notebooks' folders are: examples/ of a checkout, or their copy in an installed package.

    Raises ValueError where there is neither.
    """
    here = Path(__file__).parent
    for place in (here.parents[1] / "examples", here / "notebooks"):
        if all((place / part).is_dir() for part in PARTS):
            return place
    raise ValueError(f"learn: the notebooks are missing from {here}; install inception-np again")


def pages() -> list[Page]:
    """All notebooks, in the order they are read: the numbers their names begin with."""
    found = []
    for part in PARTS:
        for file in sorted((folder() / part).glob("[0-9]*.py")):
            title, _, about = (ast.get_docstring(ast.parse(file.read_text())) or file.stem).partition("\n")
            found.append(Page(part, file.stem, title.rstrip("."), " ".join(about.split()), file))
    return found


def claims_in(source: str) -> list[str]:
    """The keys that a notebook's source hands to `claim`, in order. They are literal: nothing is run."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.literal_eval(c.args[0]) for c in calls if isinstance(c.func, ast.Name) and c.func.id == "claim"]

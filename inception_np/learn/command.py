"""`inception-np learn`: the notebooks in a browser, or written down as HTML pages."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import Any

from ..backend.errors import UsageError, nearest
from ..data.files import atomic_write, make_folder
from ..data.streams import say
from .pages import PARTS, Page, pages


def add_parser(commands: Any) -> None:
    """Add `inception-np learn` to a parser's commands."""
    parser = commands.add_parser("learn")
    parser.set_defaults(run=run)
    parser.add_argument("page", nargs="?", metavar="PAGE", help="a notebook's name; all of them by default")
    parser.add_argument("--html", metavar="DIR", help="write HTML pages into this folder instead")
    parser.add_argument("--headless", action="store_true", help="serve the notebooks, but open no browser")


def run(args: argparse.Namespace) -> int:
    """Run `inception-np learn`. Returns the exit code 0, or 1 where a notebook failed.

    Raises UsageError for an unknown page, ValueError where marimo is not installed.
    """
    chosen = pages()
    if args.page:
        names = [page.name for page in chosen]
        chosen = [page for page in chosen if args.page in (page.name, page.name.partition("_")[2])]
        if not chosen:
            raise UsageError(f"PAGE: got {args.page!r}; {nearest(args.page, names)}")
    try:
        import marimo  # noqa: F401
    except ImportError:
        raise ValueError("learn: marimo is not installed; pip install 'inception-np[learn]'") from None
    if args.html:
        return write_pages(chosen, Path(args.html))
    with tempfile.TemporaryDirectory() as scratch:
        copies = [copied(page, Path(scratch)) for page in chosen]
        server = [sys.executable, "-m", "marimo", "run", *map(str, copies)]
        return subprocess.run([*server, *(["--headless"] if args.headless else [])], check=False).returncode


def copied(page: Page, folder: Path) -> Path:
    """A copy of the notebook to run: marimo writes beside what it runs. Listed by name, the deck comes first."""
    prefix = "" if page.part == next(iter(PARTS)) else f"{page.part}_"
    return Path(shutil.copy(page.file, folder / f"{prefix}{page.file.name}"))


def write_pages(chosen: list[Page], folder: Path) -> int:
    """Run every notebook and write it, with what it computed, as a page; and index.html, which lists them.

    A page's frame (fonts, scripts) comes from marimo's public files when it is read. Raises ValueError for a notebook
    that fails.
    """
    make_folder(folder)
    for page in chosen:
        say(f"{page.part}/{page.name}")
        atomic_write(folder / f"{page.name}.html", exported(page))
    atomic_write(folder / "index.html", index(chosen))
    print(f"written to {folder / 'index.html'}")
    return 0


def exported(page: Page) -> bytes:
    """A notebook's page, as marimo writes it. Raises ValueError for one that fails, with the last line of why."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "page.html"
        notebook = copied(page, Path(scratch))
        command = ["marimo", "-q", "export", "html", "--no-include-code", str(notebook), "-o", str(made)]
        run = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        if run.returncode:
            raise ValueError(f"learn: {page.file} failed: {(run.stderr.strip() or '?').splitlines()[-1]}")
        return made.read_bytes()


def index(chosen: list[Page]) -> str:
    """The page that lists the pages, as HTML."""
    parts = ""
    for part, title in PARTS.items():
        items = "".join(
            f'<li><a href="{page.name}.html">{escape(page.title)}</a><br>{escape(page.about)}</li>'
            for page in chosen
            if page.part == part
        )
        parts += f"<h2>{title}</h2><ol>{items}</ol>" if items else ""
    style = "body{font:16px/1.5 sans-serif;max-width:46em;margin:2em auto;padding:0 1em}li{margin:.6em 0}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>inception_np</title>'
        f"<style>{style}</style><h1>The Inception family, by hand</h1>{parts}</html>"
    )

"""What a slide shows: a claim with its live number, the code that the number comes from, arrays as coloured tables.

Each gives an object with `_repr_html_`, which marimo and Jupyter show. The HTML needs no style sheet and no script.
"""

import inspect
import math
import sys
from collections.abc import Iterable
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..gradcheck.report import picture
from .claims import CLAIMS, Claim

PACKAGE = Path(__file__).parents[1]
GOOD, BAD, GREY = "#1a7f37", "#b35900", "#666"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


def claim(key: str, computed: Any, *shown: Html) -> Html:
    """A claim of CLAIMS as a card: who says what, the number computed just now, the mistake, and `shown` below it.

    Run as a script, a notebook prints the card as a line. Raises AssertionError where `computed` is not the number
    that stands in CLAIMS, KeyError for an unknown claim.
    """
    row = CLAIMS[key]
    computed = plain(computed)
    if not agrees(computed, row.found, row.close):
        raise AssertionError(f"claim {key}: computed {computed!r}, wanted {row.found!r} ({row.says})")
    if not in_notebook():
        print(f"{'holds' if row.holds else 'WRONG':6} {key:8} {text(computed)}   ({row.source}: {row.says})")
    return Html(_card(key, row, computed) + "".join(shown))


def said(key: str) -> Html:
    """A claim of CLAIMS that no program can compute, as a card that says why. Raises ValueError for one that can be."""
    row = CLAIMS[key]
    if row.found is not None:
        raise ValueError(f"claim {key}: found is {row.found!r}; compute it, with claim({key!r}, ...)")
    colour = GREY if row.holds else BAD
    return Html(_frame(key, row, f'<div style="color:{colour}">not computed</div>', colour))


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays, and lists, as Python's numbers and tuples."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    return tuple(plain(v) for v in value) if isinstance(value, (list, tuple)) else value


def agrees(computed: Any, found: Any, close: float) -> bool:
    """Equal, or within the relative error `close`, number by number."""
    if isinstance(found, tuple):
        same = isinstance(computed, tuple) and len(computed) == len(found)
        return same and all(agrees(a, b, close) for a, b in zip(computed, found, strict=True))
    if isinstance(found, float) or close:
        numbers = isinstance(computed, (int, float)) and not isinstance(computed, bool)
        return numbers and math.isclose(computed, found, rel_tol=close, abs_tol=0.0)
    return type(computed) is type(found) and bool(computed == found)


def text(value: Any) -> str:
    """A number for people: 271,351,808, 3.148, yes or no; a tuple in a tuple stands in brackets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(f"({text(v)})" if isinstance(v, tuple) else text(v) for v in value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _card(key: str, row: Claim, computed: Any) -> str:
    colour = GOOD if row.holds else BAD
    verdict = "holds" if row.holds else "does not hold"
    number = (
        f'<div style="font-size:130%"><b>{escape(text(computed))}</b> '
        f'<span style="color:{colour};font-size:75%">computed here: {verdict}</span></div>'
    )
    return _frame(key, row, number, colour)


def _frame(key: str, row: Claim, number: str, colour: str) -> str:
    note = f'<div style="margin-top:4px">{escape(row.note)}</div>' if row.note else ""
    return (
        f'<div style="border-left:5px solid {colour};padding:6px 14px;margin:10px 0;overflow-wrap:anywhere">'
        f'<div style="color:{GREY};font-size:85%">{escape(row.source)} ({key})</div>'
        f"<div>“{escape(row.says)}”</div>{number}{note}</div>"
    )


def code(source: Any, mark: str = "", title: str = "") -> Html:
    """The source of a function, a class or a module's lines around `mark`, folded below its file and line.

    mark: lines that contain it are highlighted. Raises ValueError where no line does.
    """
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    source = source if isinstance(source, ModuleType) else inspect.unwrap(source)
    lines, first = inspect.getsourcelines(source)
    first = max(first, 1)
    marked = [i for i, line in enumerate(lines) if mark and mark in line]
    if mark and not marked:
        raise ValueError(f"code: {source!r} has no line with {mark!r}")
    if isinstance(source, ModuleType):
        start = max(0, marked[0] - 6) if marked else 0
        lines, first, marked = lines[start : start + 22], first + start, [i - start for i in marked if i - start < 22]
    where = f"{_short(inspect.getsourcefile(source))}:{first + (marked[0] if marked else 0)}"
    style = HtmlFormatter(
        noclasses=True, linenos="inline", linenostart=first, hl_lines=[i + 1 for i in marked], nobackground=True
    )
    body = highlight("".join(lines), PythonLexer(stripnl=False), style)
    name = title or getattr(source, "__qualname__", "")
    head = f'{escape(name)} <span style="color:{GREY}">{escape(where)}</span>'
    return Html(
        f'<details style="margin:4px 0 4px 20px"><summary style="cursor:pointer">{head}</summary>'
        f'<div style="overflow-x:auto;font-size:85%">{body}</div></details>'
    )


def _short(file: str | None) -> str:
    path = Path(file or "?").resolve()
    home = PACKAGE.parent
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]], caption: str = "") -> Html:
    """A table. A cell that is Html stays as it is; numbers stand to the right."""

    def cell(value: Any, tag: str) -> str:
        value = plain(value)
        side = "right" if isinstance(value, (int, float)) and not isinstance(value, bool) else "left"
        inside = value if isinstance(value, Html) else escape(text(value))
        return f'<{tag} style="text-align:{side};padding:2px 10px;border-bottom:1px solid #ddd">{inside}</{tag}>'

    body = "".join(f"<tr>{''.join(cell(v, 'td') for v in row)}</tr>" for row in rows)
    title = f'<caption style="text-align:left;color:{GREY}">{escape(caption)}</caption>' if caption else ""
    top = f"<tr>{''.join(cell(v, 'th') for v in head)}</tr>"
    return Html(
        f'<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:8px 0">{title}'
        f"<thead>{top}</thead><tbody>{body}</tbody></table></div>"
    )


def numbers(array: Any, title: str = "", mark: Any = None) -> Html:
    """A small array as tables of numbers, blue below zero and red above: an H x W table for each image and channel.

    array: (N, H, W, C), (H, W, C), (rows, columns) or (columns,). mark: True where a number gets a frame, of the same
    shape.
    """
    a = np.asarray(array)
    frames = np.zeros(a.shape, bool) if mark is None else np.asarray(mark, bool)
    if a.ndim < 3:
        a, frames = (v.reshape(1, -1, v.shape[-1] if v.ndim else 1, 1) for v in (a, frames))
    elif a.ndim == 3:
        a, frames = a[None], frames[None]
    largest = float(np.abs(a).max()) if a.size else 0.0
    tables = "".join(
        _plane(a[n, :, :, c], frames[n, :, :, c], largest, _label(n, c, a.shape))
        for n in range(a.shape[0])
        for c in range(a.shape[3])
    )
    name = f"<div><b>{escape(title)}</b></div>" if title else ""
    row = f'<div style="display:flex;flex-wrap:wrap;gap:14px">{tables}</div>'
    return Html(f'<div style="margin:6px 0">{name}{row}</div>')


def _label(n: int, c: int, shape: tuple[int, ...]) -> str:
    return ", ".join([f"image {n}"] * (shape[0] > 1) + [f"channel {c}"] * (shape[3] > 1))


def _plane(a: np.ndarray, frames: np.ndarray, largest: float, label: str) -> str:
    rows = (
        "".join(_number(v, largest, bool(f)) for v, f in zip(*pair, strict=True))
        for pair in zip(a, frames, strict=True)
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    head = f'<div style="color:{GREY};font-size:80%">{label}</div>' if label else ""
    return f'<div>{head}<table style="border-collapse:collapse">{body}</table></div>'


def _number(value: Any, largest: float, framed: bool) -> str:
    share = min(1.0, abs(float(value)) / largest) if largest else 0.0
    colour = "220,60,50" if value > 0 else "50,90,220"
    frame = "outline:2px solid #b3261e;outline-offset:-2px;" if framed else ""
    shown = f"{value:d}" if isinstance(value, (int, np.integer)) else f"{value:.3g}"
    return (
        f'<td style="padding:2px 6px;text-align:right;font-family:monospace;font-size:85%;{frame}'
        f'background:rgba({colour},{0.45 * share:.2f})">{shown}</td>'
    )


def figure(width: float = 8, height: float = 3.2, columns: int = 1) -> Any:
    """A Matplotlib Figure with its axes, one or a row of them, of this size in inches."""
    return picture(columns=columns, size=(width, height))


def in_notebook() -> bool:
    """False where a notebook runs as a script."""
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())

"""What a notebook shows in place of an object's repr: plain HTML without scripts, in the notebook's own colours.

Whatever comes in is text, and is escaped here; what these functions return is HTML. `page` puts pieces together.
"""

from collections.abc import Sequence
from html import escape

from .describe import LINES, Part, layer_text, part_of

STYLE = """
.inception-np {font-size: 13px; line-height: 1.5; overflow-x: auto}
.inception-np code, .inception-np pre {font-family: ui-monospace, monospace; font-size: 12px; background: none}
.inception-np code {padding: 0; color: inherit; white-space: pre-wrap}
.inception-np details {margin: 0; padding: 0; border: 0}
.inception-np details > summary {cursor: pointer}
.inception-np details > div {margin-left: 0.4em; padding-left: 1em; border-left: 1px solid #8886}
.inception-np .layer {padding-left: 1.1em}
.inception-np .name {font-weight: 600; margin-right: 0.6em}
.inception-np .about {opacity: 0.65; margin-left: 0.8em}
.inception-np table {border-collapse: collapse; margin: 0.3em 0; font-variant-numeric: tabular-nums;
  font-size: inherit; color: inherit}
.inception-np caption {caption-side: top; text-align: left; font-weight: 600; padding: 0.2em 0; color: inherit}
.inception-np th, .inception-np td {padding: 0.1em 0.7em; border: 0; text-align: right; white-space: nowrap;
  vertical-align: top; background: none}
.inception-np thead th {border-bottom: 1px solid #888a}
.inception-np tfoot td {border-top: 1px solid #888a; font-weight: 600}
.inception-np tbody tr:hover {background: #8882}
.inception-np .text {text-align: left}
.inception-np .long {text-align: left; white-space: normal; max-width: 40em}
.inception-np .good {color: #1a9850; font-weight: 600}
.inception-np .bad {color: #e0402f; font-weight: 600}
.inception-np p {margin: 0.2em 0}
.inception-np .bars {display: flex; align-items: flex-end; gap: 2px; margin: 0.3em 0}
.inception-np .bars > div {width: 3.4em; text-align: center; font-size: 11px}
.inception-np .bars i {display: block; background: #4575b4; margin: 0 0.3em}
.inception-np .bars i.over {background: #e0402f}
"""


def page(*pieces: str) -> str:
    """Pieces of HTML with their style, which touches nothing else in a notebook."""
    return f'<div class="inception-np"><style>{STYLE}</style>{"".join(pieces)}</div>'


def span(text: str, kind: str) -> str:
    return f'<span class="{kind}">{escape(text)}</span>'


def marked(name: str, verdict: str, good: bool, text: str) -> str:
    """A paragraph that begins with a name and a verdict in its colour."""
    return f"<p>{span(name, 'name')}{span(verdict, 'good' if good else 'bad')} {escape(text)}</p>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def folded(title: str, text: str) -> str:
    """Lines as they are, behind a title that opens them."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def table(
    caption: str, heading: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]], total: Sequence[str] = ()
) -> str:
    """A table. rows: (how far the first cell is indented, cells). The first column and the last are text, the last one
    wraps, and those between are numbers. A last column that is empty is left out."""
    if not any(cells[-1] for _, cells in rows):
        heading, rows, total = heading[:-1], [(level, cells[:-1]) for level, cells in rows], total[:-1]
        kinds = ["text"] + [""] * (len(heading) - 1)
    else:
        kinds = ["text"] + [""] * (len(heading) - 2) + ["long"]

    def line(tag: str, cells: Sequence[str], level: int = 0) -> str:
        made = []
        for i, (cell, kind) in enumerate(zip(cells, kinds, strict=True)):
            indent = f' style="padding-left: {0.7 + 1.4 * level:.1f}em"' if level and i == 0 else ""
            made.append(f'<{tag} class="{kind}"{indent}>{escape(cell)}</{tag}>')
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line("td", cells, level) for level, cells in rows)
    foot = f"<tfoot>{line('td', total)}</tfoot>" if total else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead>{line('th', heading)}</thead><tbody>{body}</tbody>{foot}</table>"


def histogram(names: Sequence[str], counts: Sequence[int], over: Sequence[bool]) -> str:
    """Bars with their counts above and names below; those where `over` holds are red."""
    most = max([1, *counts])
    bars = []
    for name, count, red in zip(names, counts, over, strict=True):
        bar = f'<i class="{"over" if red else ""}" style="height: {40 * count / most:.0f}px"></i>'
        bars.append(f"<div>{count or ''}{bar}{escape(name)}</div>")
    return f'<div class="bars">{"".join(bars)}</div>'


def layer_html(layer: object) -> str:
    """A layer as a tree that opens where it is clicked; of a small one, all is open."""
    try:
        part = part_of(layer)
        return page(_part_html(part, open_below=_lines(part) <= LINES))
    except Exception:  # as in layer_text
        return page(f"<code>{escape(layer_text(layer, LINES))}</code>")


def _lines(part: Part) -> int:
    return 1 + sum(_lines(below) for below in part.parts)


def _part_html(part: Part, open_below: bool, top: bool = True) -> str:
    name = span(part.name, "name") if part.name else ""
    about = span(part.about(), "about") if part.about() else ""
    line = f"{name}<code>{escape(part.text)}</code>{about}"
    if not part.parts:
        return f'<div class="layer">{line}</div>'
    below = "".join(_part_html(p, open_below, top=False) for p in part.parts)
    return f"<details{' open' * (top or open_below)}><summary>{line}</summary><div>{below}</div></details>"

"""Pictures of several workers: the fixed tree with who holds what of it, and the sums on their way."""

from typing import Any

from ..parallel.tree import Range, blocks, middle, subtrees

COLOURS = ("#8fbfe8", "#f3b98c", "#9fd69a", "#e3a3c8", "#c9b6e8", "#e6dd8a", "#a8dcd9", "#d9b9a0")
GREY, EMPTY = "#e4e4e4", "#f7f7f7"
Cell = tuple[int, int]  # a worker and a piece


def colour(worker: int) -> str:
    """The worker's colour in all pictures."""
    return COLOURS[worker % len(COLOURS)]


def name(node: Range) -> str:
    """A range of shards as people write it: 3, or 0..3."""
    first, end = node
    return str(first) if end - first == 1 else f"{first}..{end - 1}"


def drawn_tree(count: int, workers: int) -> Any:
    """The tree over `count` shards as a Matplotlib Figure, what a worker adds itself in its colour.

    Framed: the subtrees that it sends. Grey: what is added from these. Raises ValueError where the shards cannot be
    shared evenly.
    """
    from matplotlib.figure import Figure

    whole = (0, count)
    held = {node: w for w, block in enumerate(blocks(count, workers)) for node in subtrees(block, whole)}
    levels = (count - 1).bit_length()
    figure = Figure(figsize=(max(4.0, 0.62 * count + 0.8), 0.72 * levels + 1.3), dpi=110, layout="constrained")
    axes = figure.subplots()

    def draw(node: Range, worker: int | None) -> tuple[float, float]:
        """Draw what hangs from a node, and the node: where it is."""
        framed = node in held
        worker = held.get(node, worker)
        x, y = float(node[0]), 0.0
        if node[1] - node[0] > 1:
            cut = middle(node)
            left, right = draw((node[0], cut), worker), draw((cut, node[1]), worker)
            x, y = (left[0] + right[0]) / 2, max(left[1], right[1]) + 1
            for at in (left, right):
                axes.plot([x, at[0]], [y, at[1]], color="#777", lw=1, zorder=1)
        inside = GREY if worker is None else colour(worker)
        look = {"boxstyle": "round,pad=0.35", "fc": inside, "ec": "#222" if framed else "none", "lw": 1.8}
        axes.text(x, y, name(node), ha="center", va="center", size=8.5, bbox=look, zorder=2)
        return x, y

    draw(whole, None)
    for w, (first, end) in enumerate(blocks(count, workers)):
        text = f"worker {w}" if end - first > 1 else f"w. {w}"
        axes.plot([first - 0.36, end - 0.64], [-0.62, -0.62], color=colour(w), lw=6, solid_capstyle="butt")
        axes.text((first + end - 1) / 2, -0.82, text, ha="center", va="top", size=8.5)
    axes.set(xlim=(-0.6, count - 0.4), ylim=(-1.2, levels + 0.5))
    axes.axis("off")
    return figure


def drawn_exchange(workers: int, piece: int) -> Any:
    """A vector of `workers` pieces on each of the workers, before, between and after the two halves of the exchange.

    The arrows are those of one piece, of which the worker of the same number is the owner.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 0.5 * workers + 0.8), dpi=110, layout="constrained")
    own, sums, everywhere = figure.subplots(1, 3)
    squares = [(w, p) for w in range(workers) for p in range(workers)]
    _vectors(own, "each has its own sums", workers, {(w, p): (colour(w), f"{w}") for w, p in squares})
    sending: dict[Cell, tuple[str, str]] = {(w, piece): (colour(w), f"{w}") for w in range(workers)}
    _vectors(sums, "reduce-scatter", workers, sending | {(w, w): (GREY, "sum") for w in range(workers)})
    _vectors(everywhere, "all-gather", workers, {(w, p): (GREY, "sum") for w, p in squares})
    for w in range(workers):
        if w != piece:
            _arrow(sums, (w, piece), (piece, piece))
            _arrow(everywhere, (piece, piece), (w, piece))
    return figure


def _vectors(axes: Any, title: str, workers: int, full: dict[Cell, tuple[str, str]]) -> None:
    """A column for each worker, a square for each piece; those of `full` with a colour and a text."""
    from matplotlib.patches import Rectangle

    for w in range(workers):
        for p in range(workers):
            inside, text = full.get((w, p), (EMPTY, ""))
            axes.add_patch(Rectangle((w - 0.36, p - 0.36), 0.72, 0.72, fc=inside, ec="#888", lw=0.8))
            axes.text(w, p, text, ha="center", va="center", size=8.5)
    axes.set(xlim=(-0.6, workers - 0.4), ylim=(workers - 0.4, -0.6), aspect="equal")
    axes.set_title(title, size=10)
    axes.set_xticks(range(workers), [f"w. {w}" for w in range(workers)], size=8)
    axes.set_yticks(range(workers), [f"piece {p}" for p in range(workers)], size=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _arrow(axes: Any, start: Cell, end: Cell) -> None:
    bend = -0.3 if start[0] < end[0] else 0.3
    look = {"arrowstyle": "-|>", "color": "#b3261e", "lw": 1.2, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", end, start, arrowprops={**look, "shrinkA": 9, "shrinkB": 9})

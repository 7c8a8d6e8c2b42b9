"""A module drawn as the papers draw theirs: boxes from the input at the bottom to the joined output at the top."""

from typing import Any

from ..backend.arrays import Shape
from ..compose import Concat, Residual, Sequential
from ..layer import Layer
from ..layers.activation import ELU, Dropout, ReLU
from ..layers.batchnorm import BatchNorm
from ..layers.conv import Conv2D
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.depthwise import DepthwiseConv2D
from ..layers.pool import AvgPool2D, MaxPool2D

WIDTH, HEIGHT, GAP = 1.45, 0.44, 0.26  # of a box, and between two, in inches
COLOURS = {"conv": "#d6e6f7", "pool": "#f9ddd6", "join": "#d9f0d3", "end": "#eeeeee", "other": "#f6efd0"}
POINTWISE = (ReLU, ELU, BatchNorm, Dropout)  # what changes no shape: a flat box without one

Point = tuple[float, float]


def diagram(layer: Layer, input: tuple[int, int, int], title: str = "") -> Any:
    """A layer's branches as a Matplotlib Figure, each box with the shape that comes out of it.

    layer: Sequential, Concat and Residual are drawn as what they are made of, any other layer as one box. input:
    (H, W, C). Raises ValueError where the layer does not take such an input.
    """
    from matplotlib.figure import Figure

    shape: Shape = (1, *input)
    out = layer.out_shape(shape)
    across, up = _size(layer)
    width, height = across * WIDTH + 0.2, up + HEIGHT + 0.1 + (0.3 if title else 0)
    figure = Figure(figsize=(max(width, 2.6), height), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    middle = width / 2
    start = _box(axes, (middle, 0.05), f"input\n{_size_text(shape)}", "end")
    _draw(axes, layer, shape, 0.1, 0.05 + HEIGHT, start)
    if title:
        axes.text(middle, height - 0.05, f"{title}: {_size_text(out)}", ha="center", va="top", weight="bold", size=9)
    return figure


def _size(layer: Layer) -> Point:
    """How many columns a layer's drawing takes, and how many inches up, the gap below it included."""
    if isinstance(layer, Residual):
        (across, up), (cut, cut_up) = _size(layer.body), _shortcut_size(layer)
        return across + cut, max(up, cut_up) + HEIGHT + GAP
    if isinstance(layer, Concat):
        sizes = [_size(branch) for branch in layer.branches.values()]
        return sum(s[0] for s in sizes), max(s[1] for s in sizes) + HEIGHT + 2 * GAP
    if isinstance(layer, Sequential):
        sizes = [_size(child) for child in layer.layers.values()]
        return max([1.0, *(s[0] for s in sizes)]), sum(s[1] for s in sizes)
    return 1, GAP + (HEIGHT * 0.55 if isinstance(layer, POINTWISE) else HEIGHT)


def _shortcut_size(layer: Residual) -> Point:
    return (0.35, 0.0) if layer.shortcut is None else _size(layer.shortcut)


def _draw(axes: Any, layer: Layer, shape: Shape, left: float, y: float, start: Point) -> Point:
    """Draw a layer above y, from `start`, in the columns from `left` on; where its output is, as a point."""
    if isinstance(layer, Sequential):
        columns = _size(layer)[0]
        for child in layer.layers.values():
            across, up = _size(child)
            start = _draw(axes, child, shape, left + (columns - across) * WIDTH / 2, y, start)
            shape, y = child.out_shape(shape), y + up
        return start
    if isinstance(layer, (Concat, Residual)):
        return _draw_branches(axes, layer, shape, left, y, start)
    flat = isinstance(layer, POINTWISE)
    out = layer.out_shape(shape)
    label = describe(layer) if flat else f"{describe(layer)}\n{_size_text(out)}"
    kind = next((k for k in ("conv", "pool") if k in label), "other")
    at = left + WIDTH / 2, y + GAP
    top = _box(axes, at, label, kind, HEIGHT * 0.55 if flat else HEIGHT)
    _arrow(axes, start, at)
    return top


def _draw_branches(axes: Any, layer: Concat | Residual, shape: Shape, left: float, y: float, start: Point) -> Point:
    """Branches side by side from one point, and the box that joins them."""
    across, up = _size(layer)
    branches: list[tuple[Layer | None, float]]
    if isinstance(layer, Concat):
        branches, label, y_branches = [(b, _size(b)[0]) for b in layer.branches.values()], "concat", y + GAP
    else:
        label, y_branches = f"x + {layer.scale:g} f(x)" if layer.scale != 1 else "x + f(x)", y
        branches = [(layer.body, _size(layer.body)[0]), (layer.shortcut, _shortcut_size(layer)[0])]
    join = y + up - HEIGHT
    out = layer.out_shape(shape)
    width = across * WIDTH - 0.12
    x = left
    for branch, columns in branches:
        middle = x + columns * WIDTH / 2
        foot = middle, y_branches
        if abs(middle - start[0]) > 1e-6:  # along, and then up
            axes.plot([start[0], start[0], middle], [start[1], y + GAP / 2, y + GAP / 2], color="#555", lw=0.9)
            begin = middle, y + GAP / 2
        else:
            begin = start
        end = begin if branch is None else _draw(axes, branch, shape, x, foot[1], begin)
        _arrow(axes, end, (end[0], join))
        x += columns * WIDTH
    return _box(axes, (left + across * WIDTH / 2, join), f"{label}\n{_size_text(out)}", "join", HEIGHT, width)


def _box(axes: Any, at: Point, label: str, kind: str, height: float = HEIGHT, width: float = WIDTH - 0.12) -> Point:
    """A box whose lower edge has its middle at `at`; the middle of its upper edge."""
    from matplotlib.patches import FancyBboxPatch

    x, y = at
    style = "round,pad=0,rounding_size=0.05"
    axes.add_patch(
        FancyBboxPatch((x - width / 2, y), width, height, boxstyle=style, fc=COLOURS[kind], ec="#555", lw=0.8)
    )
    axes.text(x, y + height / 2, label, ha="center", va="center", size=7.5, linespacing=1.25)
    return x, y + height


def _arrow(axes: Any, start: Point, end: Point) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": "#555", "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
    )


def _size_text(shape: Shape) -> str:
    return "x".join(str(n) for n in shape[1:])


def describe(layer: Layer) -> str:
    """What a box says: "3x3 conv /2", "1x7 conv", "3x3 max pool /2". A V stands for a window without padding."""
    unit = layer.conv if isinstance(layer, ConvBNReLU) else layer
    if isinstance(unit, (Conv2D, DepthwiseConv2D)):
        name = "depthwise conv" if isinstance(unit, DepthwiseConv2D) else "conv"
        groups = getattr(unit, "groups", 1)
        return _window(unit.kernel, unit) + name + _stride(unit) + (f", {groups} groups" if groups > 1 else "")
    if isinstance(unit, (MaxPool2D, AvgPool2D)):
        name = "max pool" if isinstance(unit, MaxPool2D) else "avg pool"
        return _window(unit.size, unit) + name + _stride(unit)
    return {"GlobalAvgPool2D": "global avg pool", "BatchNorm": "batch norm"}.get(
        type(unit).__name__, type(unit).__name__
    )


def _window(size: tuple[int, int], layer: Any) -> str:
    bare = layer.pad in ("valid", ((0, 0), (0, 0))) and max(size) > 1
    return f"{size[0]}x{size[1]} {'V ' if bare else ''}"


def _stride(layer: Any) -> str:
    return f" /{layer.stride[0]}" if max(layer.stride) > 1 else ""

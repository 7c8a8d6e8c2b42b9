"""A network's table, one row per stage of the paper: sizes, parameters, multiply-adds, receptive field, memory.

With a depth, what is within the stages has rows as well:

    3a           the stage itself
      b1         a branch
      b3.reduce  a layer of a branch that is a chain: a Sequential is no level of its own, its layers are
      b3.conv

A layer of your own has one row: how its parts are joined is known to its forward only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..backend import html
from ..backend.arrays import Shape
from ..compose import Concat, Residual, Sequential
from ..layer import Layer, named_params, of_kind
from ..layers.check import check_count
from ..layers.conv_bn_relu import ConvBNReLU
from . import create_model
from .network import Network


@dataclass(frozen=True)
class Stage:
    """One stage, or a layer within one.

    output: (H, W, C), 1x1xC for vectors. params: what an optimiser trains. macs: multiply-adds of convolutions and
    linear layers, one image. field: pixels of the image that one output pixel can see, along one axis. bytes: the
    output in float32, one image. printed: the paper's own figures, and why ours differ. kind: its class. parts: the
    rows within it, whose names are paths below its own, and whose params and macs add up to its own (but parameters
    that occur twice count once).
    """

    name: str
    output: tuple[int, int, int]
    params: int
    macs: int
    field: int
    bytes: int
    printed: str = ""
    kind: str = ""
    parts: "tuple[Stage, ...]" = ()

    @property
    def label(self) -> str:
        """The name, and where that is but a number, the class: "3a", "0 Conv2D"."""
        return f"{self.name} {self.kind}" if self.name.rpartition(".")[2].isdecimal() else self.name

    def cells(self) -> tuple[str, ...]:
        """Its row as text, under `HEADING`."""
        output, kib = "x".join(map(str, self.output)), f"{self.bytes / 1024:,.1f}"
        return self.label, output, f"{self.params:,}", f"{self.macs:,}", str(self.field), kib, self.printed

    def to_json(self, within: bool) -> dict[str, Any]:
        """Its fields by name. within: also "kind", and "parts", the rows within it in the same form."""
        fields = {**vars(self), "output": list(self.output), "parts": [part.to_json(within) for part in self.parts]}
        return {name: value for name, value in fields.items() if within or name not in ("kind", "parts")}


HEADING = ("stage", "output", "parameters", "multiply-adds", "sees", "KiB", "the paper prints")


@dataclass(repr=False)
class Table:
    """What `summary` gives: print it, or read `rows`, `params` (without heads), `params_aux` and `macs`.

    depth: how deep the rows go, as in "summary"; whatever it is, `rows` has the stages, and they have their `parts`.
    """

    name: str
    preset: str
    input: tuple[int, int, int]
    rows: list[Stage]
    params: int
    params_aux: int
    macs: int
    notes: list[str] = field(default_factory=list)
    depth: int = 1

    @property
    def title(self) -> str:
        head = (self.name or "layer") + (f" ({self.preset})" if self.preset else "")
        return f"{head}, input {'x'.join(map(str, self.input))}"

    def total(self) -> tuple[str, ...]:
        """The last row as text."""
        kib = sum(r.bytes for r in self.rows) / 1024
        return "total", "", f"{self.params:,}", f"{self.macs:,}", "", f"{kib:,.1f}", ""

    def remarks(self) -> list[str]:
        """The lines below the rows."""
        both = self.params + self.params_aux
        aux = f"auxiliary heads: {self.params_aux:,} parameters more, {both:,} in training"
        return [aux] * bool(self.params_aux) + self.notes

    def __repr__(self) -> str:
        stages = "1 stage" if len(self.rows) == 1 else f"{len(self.rows)} stages"
        return f"<Table {self.title}: {stages}, {self.params:,} parameters, {self.macs:,} multiply-adds>"

    def __str__(self) -> str:
        cells: list[tuple[str, ...]] = [HEADING]
        for level, row in walk_rows(self.rows):
            name, *figures = row.cells()
            cells.append(("  " * level + name, *figures))
        cells.append(self.total())
        lines = [self.title]
        widths = [max(len(row[i]) for row in cells) for i in range(7)]
        for line in cells:
            left, right = line[:1], line[1:6]
            text = [left[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(right, widths[1:6], strict=True)]
            lines.append("  ".join([*text, line[6]]).rstrip())
        return "\n".join([*lines, *self.remarks()])

    def _repr_html_(self) -> str:
        rows = [(level, row.cells()) for level, row in walk_rows(self.rows)]
        return html.page(html.table(self.title, HEADING, rows, self.total()), *map(html.paragraph, self.remarks()))

    def to_json(self) -> dict[str, Any]:
        """The document that `inception-np summary --json` prints."""
        return {
            "name": self.name,
            "preset": self.preset,
            "input": list(self.input),
            "stages": [r.to_json(within=self.depth > 1) for r in self.rows],
            "params": self.params,
            "params_aux": self.params_aux,
            "macs": self.macs,
        }


def walk_rows(rows: Iterable[Stage], level: int = 0) -> Iterator[tuple[int, Stage]]:
    """Every row with how deep it is, a stage before the rows within it."""
    for row in rows:
        yield level, row
        yield from walk_rows(row.parts, level + 1)


def summary(layer_or_name: Layer | str, input: Any = None, *, depth: int = 1, **options: Any) -> Table:
    """The table of a layer, a network, or a network's name (options: create_model's).

    input: (H, W) or (H, W, C); None is the size that the network was designed for. depth: 1 has a row for each stage,
    2 also for what is within them, and so on. Nothing is computed but shapes. Raises ValueError for a layer of your own
    without an input size, for images that are too small and for a depth below 0, TypeError for one that is no int.
    """
    depth = max(1, check_count("summary", "depth", depth, 0))
    layer = create_model(layer_or_name, **options) if isinstance(layer_or_name, str) else layer_or_name
    if input is None:
        if not isinstance(layer, Network):
            raise ValueError(f"summary: got no input size for {type(layer).__name__}, wanted input=(H, W, C)")
        input = layer.image
    elif len(input) == 2 and isinstance(layer, Network):
        input = (*input, layer.image[2])
    if len(input) != 3 or min(input) < 1:
        raise ValueError(f"summary: got input={input!r}, wanted (H, W, C)")
    size: tuple[int, int, int] = tuple(int(n) for n in input)  # type: ignore[assignment]
    trunk, stages = layer.trunk if isinstance(layer, Network) else layer, stages_of(layer)
    printed = getattr(layer, "printed", {})
    layer.out_shape((1, *size))  # names the layer that is too small for it
    shape: Shape = (1, *size)
    rows, sees, jump = [], 1, 1
    for name, stage in stages.items():
        rows.append(row_of(name, stage, shape, sees, jump, depth, printed.get(name, "")))
        sees, jump = receptive_field(stage, shape, sees, jump)
        shape = stage.out_shape(shape)
    total = sum(p.data.size for p in named_params(trunk).values())
    aux = sum(p.data.size for p in named_params(layer).values()) - total
    name, preset = getattr(layer, "name", ""), getattr(layer, "preset", "")
    notes = list(getattr(layer, "notes", []))
    return Table(name, preset, size, rows, total, aux, sum(r.macs for r in rows), notes, depth)


def row_of(name: str, layer: Layer, shape: Shape, sees: int, jump: int, depth: int, printed: str = "") -> Stage:
    """The row of a layer for an x of this shape, whose pixels see `sees` of the image and lie `jump` apart."""
    after = layer.out_shape(shape)
    output = after[1:] if len(after) == 4 else (1, 1, after[1])
    params = sum(p.data.size for p in named_params(layer).values())
    field = receptive_field(layer, shape, sees, jump)[0]
    count = output[0] * output[1] * output[2]
    parts = tuple(rows_within("", layer, shape, sees, jump, depth - 1)) if depth > 1 else ()
    kind = type(layer).__name__
    return Stage(name, output, params, layer.macs(shape), field, 4 * count, printed, kind, parts)


def rows_within(path: str, layer: Layer, shape: Shape, sees: int, jump: int, depth: int) -> Iterator[Stage]:
    """The rows of the layers that a Sequential, a Concat or a Residual is made of; none for another layer."""
    if not of_kind(layer, Sequential, Concat, Residual):
        return
    for name, child in layer.children().items():
        if type(child) is Sequential and of_kind(child, Sequential):
            yield from rows_within(f"{path}{name}.", child, shape, sees, jump, depth)
        else:
            yield row_of(path + name, child, shape, sees, jump, depth)
        if of_kind(layer, Sequential):
            sees, jump = receptive_field(child, shape, sees, jump)
            shape = child.out_shape(shape)


def stages_of(net: Layer) -> dict[str, Layer]:
    """A network's stages by their names in the paper, a chain's layers, or a single layer under its class's name."""
    trunk = net.trunk if isinstance(net, Network) else net
    return trunk.layers if isinstance(trunk, Sequential) else {type(net).__name__: net}


def receptive_field(layer: Layer, shape: Shape, sees: int, jump: int, axis: int = 0) -> tuple[int, int]:
    """How many pixels of the image one output pixel of `layer` sees, and how far apart two of them look.

    Through a window of k taps d apart with stride s:  sees' = sees + d (k - 1) jump,  jump' = s jump.
    Of several branches, the one that sees most. axis: along the height (0) or the width (1).
    """
    if isinstance(layer, Sequential):
        for child in layer.layers.values():
            sees, jump = receptive_field(child, shape, sees, jump, axis)
            shape = child.out_shape(shape)
        return sees, jump
    if isinstance(layer, (Concat, Residual)):
        both = [receptive_field(c, shape, sees, jump, axis) for c in layer.children().values() if isinstance(c, Layer)]
        return max([sees, *(b[0] for b in both)]), both[0][1]
    if isinstance(layer, ConvBNReLU):
        layer = layer.conv
    if len(shape) == 4 and len(layer.out_shape(shape)) == 2:  # a global pool or a flattening sees the whole plane
        return sees + (shape[1 + axis] - 1) * jump, jump * shape[1 + axis]
    kernel = getattr(layer, "kernel", getattr(layer, "size", None))
    if not isinstance(kernel, tuple):
        return sees, jump
    stride, dilation = getattr(layer, "stride", (1, 1)), getattr(layer, "dilation", (1, 1))
    return sees + dilation[axis] * (kernel[axis] - 1) * jump, jump * stride[axis]

"""A network's table, one row per stage of the paper: sizes, parameters, multiply-adds, receptive field, memory."""

from dataclasses import dataclass, field
from typing import Any

from ..backend.arrays import Shape
from ..compose import Concat, Residual, Sequential
from ..layer import Layer, named_params
from ..layers.conv_bn_relu import ConvBNReLU
from . import create_model
from .network import Network


@dataclass(frozen=True)
class Stage:
    """One stage. output: (H, W, C), 1x1xC for vectors. params: what an optimiser trains. macs: multiply-adds of
    convolutions and linear layers, one image. field: pixels of the image that one output pixel can see, along one axis.
    bytes: the stage's output in float32, one image. printed: the paper's own figures, and why ours differ."""

    name: str
    output: tuple[int, int, int]
    params: int
    macs: int
    field: int
    bytes: int
    printed: str = ""


@dataclass
class Table:
    """What `summary` gives: print it, or read `rows`, `params` (without heads), `params_aux` and `macs`."""

    name: str
    preset: str
    input: tuple[int, int, int]
    rows: list[Stage]
    params: int
    params_aux: int
    macs: int
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        head = f"{self.name or 'layer'}" + (f" ({self.preset})" if self.preset else "")
        lines = [f"{head}, input {'x'.join(map(str, self.input))}"]
        heading = ("stage", "output", "parameters", "multiply-adds", "sees", "KiB", "the paper prints")
        cells = [heading] + [
            (
                r.name,
                "x".join(map(str, r.output)),
                f"{r.params:,}",
                f"{r.macs:,}",
                str(r.field),
                f"{r.bytes / 1024:,.1f}",
                r.printed,
            )
            for r in self.rows
        ]
        total = sum(r.bytes for r in self.rows) / 1024
        cells.append(("total", "", f"{self.params:,}", f"{self.macs:,}", "", f"{total:,.1f}", ""))
        widths = [max(len(row[i]) for row in cells) for i in range(7)]
        for row in cells:
            left, right = row[:1], row[1:6]
            text = [left[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(right, widths[1:6], strict=True)]
            lines.append("  ".join([*text, row[6]]).rstrip())
        if self.params_aux:
            both = self.params + self.params_aux
            lines.append(f"auxiliary heads: {self.params_aux:,} parameters more, {both:,} in training")
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """The document that `inception-np summary --json` prints."""
        return {
            "name": self.name,
            "preset": self.preset,
            "input": list(self.input),
            "stages": [{**vars(r), "output": list(r.output)} for r in self.rows],
            "params": self.params,
            "params_aux": self.params_aux,
            "macs": self.macs,
        }


def summary(layer_or_name: Layer | str, input: Any = None, **options: Any) -> Table:
    """The table of a layer, a network, or a network's name (options: create_model's).

    input: (H, W) or (H, W, C); None is the size that the network was designed for. Nothing is computed but shapes.
    Raises ValueError for a layer of your own without an input size, and for images that are too small.
    """
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
        params = sum(p.data.size for p in named_params(stage).values())
        macs = stage.macs(shape)
        sees, jump = receptive_field(stage, shape, sees, jump)
        shape = stage.out_shape(shape)
        output = shape[1:] if len(shape) == 4 else (1, 1, shape[1])
        count = output[0] * output[1] * output[2]
        rows.append(Stage(name, output, params, macs, sees, 4 * count, printed.get(name, "")))
    total = sum(p.data.size for p in named_params(trunk).values())
    aux = sum(p.data.size for p in named_params(layer).values()) - total
    name, preset = getattr(layer, "name", ""), getattr(layer, "preset", "")
    notes = list(getattr(layer, "notes", []))
    return Table(name, preset, size, rows, total, aux, sum(r.macs for r in rows), notes)


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

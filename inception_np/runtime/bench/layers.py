"""`inception-np bench --layers` and `--ceilings`: the time of each layer, beside what the machine can do at most.

Beside a convolution's times stand the errors of its passes, rms and worst, over the direct sum's (accuracy.py),
on random numbers of the same shapes.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...backend.arrays import Shape
from ...layer import Layer, Mode, watch
from ...layers.conv import Conv2D
from ...layers.conv_bn_relu import ConvBNReLU
from .accuracy import Errors, certificate
from .side import LayerByLayer, batch_of, training

Row = dict[str, Any]
STEPS = 5  # the first compiles and allocates; a layer's time is its shortest


def ceilings(threads: int) -> dict[str, float]:
    """What the machine can do: {"gflops": of the register tile on numbers in the first cache, "gbytes": of a copy}.

    Both are per second, in billions.
    """
    from ...backend.arena import empty
    from ...backend.threads import set_num_threads
    from ...kernels.cpu.elementwise import copy
    from ...kernels.cpu.implicit_gemm import tile_alone

    set_num_threads(threads)
    steps, rounds = 128, 8000
    flops = tile_alone(steps, rounds)
    seconds = min(_seconds(lambda: tile_alone(steps, rounds)) for _ in range(7))
    a, b = empty((1 << 25,), np.float32), empty((1 << 25,), np.float32)
    a[...] = b[...] = 0
    copied = min(_seconds(lambda: copy(a, b)) for _ in range(7))
    return {"gflops": flops / seconds / 1e9, "gbytes": 2.0 * a.nbytes / copied / 1e9}


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Clock:
    """The seconds of every call of some layers, by their paths, and what one forward computes and moves.

    flops: multiplications and additions of a forward pass. moved: bytes of x and y. shapes: of x.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, list[float]]] = {"forward": {}, "backward": {}}
        self.flops: dict[str, float] = {}
        self.moved: dict[str, int] = {}
        self.shapes: dict[str, Shape] = {}

    def forward(self, path: str, layer: Layer, call: Callable[[], Any], x: Any, mode: Mode) -> Any:
        y, cache = self._timed("forward", path, call)
        self.flops[path] = 2.0 * layer.macs(x.shape) * len(x)
        self.moved[path] = x.nbytes + y.nbytes
        self.shapes[path] = x.shape
        return y, cache

    def backward(self, path: str, layer: Layer, call: Callable[[], Any], dy: Any, x: Any, cache: Any) -> Any:
        return self._timed("backward", path, call)

    def _timed(self, which: str, path: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        self.seconds[which].setdefault(path, []).append(time.perf_counter() - start)
        return result


def by_layer(task: dict[str, Any]) -> list[Row]:
    """A row for every layer that runs: the seconds of its fastest calls, and its rates beside the ceilings.

    task: as in side.py. The layers run one by one, in Python: nothing is replayed.
    """
    from ...models import create_model

    net = create_model(task["name"], preset=task["preset"])
    top = ceilings(task["threads"])
    units, clock = dict(_units(net)), Clock()
    if task["task"] == "train":
        _, step = training(net, task, LayerByLayer)
    else:
        x, _ = batch_of(net, task["batch"])

        def step() -> Any:
            return net.forward(x, Mode())

    with watch(net, forward=clock.forward, backward=clock.backward, only=units):
        for _ in range(STEPS):
            step()
    return [_row(task, path, layer, clock, top) for path, layer in units.items() if path in clock.flops]


def _row(task: dict[str, Any], path: str, layer: Layer, clock: Clock, top: dict[str, float]) -> Row:
    forward = min(clock.seconds["forward"][path])
    backward = min(clock.seconds["backward"].get(path, []), default=None)
    flops = clock.flops[path]
    return {
        "name": task["name"],
        "task": task["task"],
        "batch": task["batch"],
        "layer": path,
        "kind": type(layer).__name__,
        "samples": len(clock.seconds["forward"][path]),
        "forward_seconds": forward,
        "backward_seconds": backward,
        "forward_gflops": flops / forward / 1e9,
        "backward_gflops": 2 * flops / backward / 1e9 if backward else None,
        "forward_gbytes": clock.moved[path] / forward / 1e9,
        "errors": errors_of(layer, clock.shapes[path]),
        "ceiling_gflops": top["gflops"],
        "ceiling_gbytes": top["gbytes"],
    }


def errors_of(layer: Layer, shape: Shape) -> Errors:
    """A convolution's `certificate` (accuracy.py) for an x of this shape; {} for other layers."""
    conv = layer.conv if isinstance(layer, ConvBNReLU) else layer
    if not isinstance(conv, Conv2D) or conv.groups > 1:
        return {}
    stride, pads, dilation, _ = conv._geometry(shape)
    return certificate(shape, conv.weight.data.shape, stride, pads, dilation)


def _units(layer: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """(path, layer) of every layer that computes: leaves, and a convolution with its batch norm and ReLU as one."""
    below = {k: v for k, v in layer.children().items() if isinstance(v, Layer)}
    if not below or isinstance(layer, ConvBNReLU):
        yield path, layer
        return
    for name, child in below.items():
        yield from _units(child, f"{path}.{name}" if path else name)


def layer_table(rows: list[Row], threads: int) -> tuple[str, list[str], list[list[str]]]:
    """(a line above the table, its head, its lines), the slowest layer first."""

    def seconds(row: Row) -> float:
        return float(row["forward_seconds"] + (row["backward_seconds"] or 0))

    title = (
        f"{threads} threads; ceilings {rows[0]['ceiling_gflops']:.0f} GFLOP/s, {rows[0]['ceiling_gbytes']:.0f} GB/s; "
        f"all layers {1e3 * sum(map(seconds, rows)):.1f} ms"
    )
    lines = []
    for r in sorted(rows, key=seconds, reverse=True):
        line = [f"{r['layer']} {r['kind']}", f"{1e3 * r['forward_seconds']:.2f}"]
        line += [f"{r['forward_gflops']:.0f}", f"{r['forward_gbytes']:.0f}"]
        back = r["backward_seconds"]
        line += [f"{1e3 * back:.2f}", f"{r['backward_gflops']:.0f}"] if back else ["", ""]
        line += ["/".join(f"{e:.1f}" for e in errors) for errors in r["errors"].values()] or [""] * 3
        lines.append(line)
    errors = [f"error of {name}" for name in ("y", "dx", "dw")]
    return title, ["layer", "forward ms", "GFLOP/s", "GB/s", "backward ms", "GFLOP/s", *errors], lines

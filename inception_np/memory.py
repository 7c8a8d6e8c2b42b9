"""How much memory a training step needs, and how much there is, before anything is allocated."""

from pathlib import Path
from typing import Any

from .errors import RefusedError
from .layer import Layer, named_params, walk
from .models import WIDEST, create_model, find
from .models.network import Network

MANY_CLASSES = 50_000  # of classifiers that fit anywhere


def needed(net: Network, image: tuple[int, ...], vectors: int) -> tuple[int, int]:
    """(bytes whatever the batch, bytes for each image of the batch) of a training step.

    vectors: how many arrays as large as the weights there are beside them (gradient, velocity ...).
    """
    weights = sum(p.data.nbytes for p in named_params(net).values())
    itemsize = next(iter(named_params(net).values())).data.itemsize
    elements = activations(net, image)
    # Every layer's output is kept or made again; at the widest place there are two gradients too.
    return weights * (1 + vectors), (sum(elements) + 3 * max(elements)) * itemsize


def check_width(name: str, width: float | None, vectors: int, classes: int | None = None) -> None:
    """Raise RefusedError for a network whose weights alone will not fit, before it is made.

    Weights grow with the square of the width, and the classifiers' with the classes, so that they can be told from a
    narrower network. vectors: as in `needed`.
    """
    entry = find(name)[0]
    wide = width is not None and 2 * entry.width < width <= WIDEST  # create_model refuses what is no width
    if not wide and (classes or 0) <= MANY_CLASSES:
        return
    params = named_params(create_model(name)).values()
    factor = width / entry.width if wide else 1.0  # type: ignore[operator]
    body = sum(p.data.nbytes for p in params) * factor**2
    heads = sum(p.data.nbytes for p in params if p.data.shape[-1] == entry.classes) * factor
    wanted = (body + heads * (classes or 0) / entry.classes) * (1 + vectors)
    if wanted > 0.9 * available():
        what = f"--width: {width:g}" if wide else f"--classes: {classes}"
        less = f"a width nearer to {entry.width:g}" if wide else "fewer classes"
        raise RefusedError(
            f"{what} makes about {readable(wanted)} of weights, {readable(available())} are free; choose {less}"
        )


def activations(net: Network, image: tuple[int, ...]) -> list[int]:
    """The elements of the output of every layer that computes something, for one image (H, W, C)."""
    sizes = []

    def noted(layer: Any) -> None:
        out_shape = layer.out_shape

        def note(shape: tuple[int, ...]) -> tuple[int, ...]:
            after = out_shape(shape)
            size = 1
            for n in after:
                size *= n
            sizes.append(size)
            return after

        layer.out_shape = note

    leaves = {id(x): x for _, x in walk(net) if isinstance(x, Layer) and not _inner(x)}
    for leaf in leaves.values():
        noted(leaf)
    try:
        shape = (1, *image)
        for name, stage in net.trunk.layers.items():
            shape = stage.out_shape(shape)
            if name in net.heads:
                net.heads[name].out_shape(shape)
    finally:
        for leaf in leaves.values():
            del leaf.out_shape
    return sizes


def _inner(layer: Layer) -> bool:
    return any(isinstance(child, Layer) for child in layer.children().values())


def available() -> int:
    """Bytes that this process may still take: the machine's or its control group's, the smaller."""
    limits: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        most, used = (group / name for name in ("memory.max", "memory.current"))
        if most.exists() and most.read_text().strip() != "max":
            limits.append(int(most.read_text()) - int(used.read_text()))
    except (OSError, ValueError):
        pass
    return min(limits, default=2**63)


def readable(count: float) -> str:
    """'1.5 GiB'"""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"

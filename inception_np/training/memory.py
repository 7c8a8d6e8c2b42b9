"""How much memory a training step needs, and how much there is, before anything is allocated."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import arena
from ..backend.arrays import Shape, map_tree
from ..backend.device import compiled
from ..backend.errors import RefusedError
from ..backend.program import Trace, Untraceable, empty
from ..layer import Layer, Mode, named_buffers, named_params, walk, watch, zero_grad
from ..models.network import Network
from ..models.size import available, readable

# What a run takes beside what depends on its network: compiler, kernels and libraries; what evaluating adds; pictures.
# Fitted, like the shares below, to the peaks that tests/test_memory.py measures.
PROCESS, EVALUATING, DRAWING = 131 << 20, 20 << 20, 75 << 20
LOOSE, PLANNED, PLAN_MAPS = 0.65, 2.4, 0.9  # of the weights, left over and in a plan; of the maps that a plan keeps
EVALUATED = 250  # images at once
MANY = 512


def needed(
    net: Network, shape: tuple[int, ...], copies: int, *, ema: bool = False, low_memory: bool = False, test: int = 2000
) -> int:
    """The bytes that training takes at its highest: shape (N, H, W, C) is a batch, test the number of test images.

    copies: how many arrays as large as the weights there are beside them (gradient, velocity, averages ...).
    """
    weights = int(sum(p.data.nbytes for p in named_params(net).values()))
    step = arrays_of_a_pass(net, shape, train=True, low_memory=low_memory)
    maps = arrays_of_a_pass(net, (min(EVALUATED, test), *shape[1:]), train=False)
    always = PROCESS + round((1 + copies + LOOSE) * weights) + step
    norm = (2 if ema else 1) * weights  # the gradient's squares, and the averages' difference
    plan = EVALUATING + round((PLANNED + ema) * weights + PLAN_MAPS * maps)
    return always + max(norm, plan, DRAWING)


def arrays_of_a_pass(net: Network, shape: tuple[int, ...], *, train: bool, low_memory: bool = False) -> int:
    """How far up an arena the arrays of a forward pass reach, with `train` of a backward pass too.

    The passes are traced and not run, on an arena of addresses alone: no page is touched and no number of the network
    changes, so that a batch that would not fit can be asked for. Where that cannot be (a layer of one's own that
    computes with NumPy, a system without such an arena), the layers' outputs are added up. Dropout does draw its
    numbers: what more than MANY images take follows from fewer.
    """
    if shape[0] > MANY:
        how: dict[str, Any] = {"train": train, "low_memory": low_memory}
        half, whole = (arrays_of_a_pass(net, (n, *shape[1:]), **how) for n in (MANY // 2, MANY))
        return whole + (whole - half) * (shape[0] - MANY) // (MANY // 2)
    weights = [p.data for p in named_params(net).values()] + [b.data for b in named_buffers(net).values()]
    source = None
    for bits in (44, 38):  # of addresses: some processors have fewer
        with contextlib.suppress(OSError, ValueError, OverflowError):
            source = source or arena.Arena(1 << bits)
    if source is None or not compiled(*weights):
        return _added_up(net, shape, train)
    averages = [b.data.copy() for b in named_buffers(net).values()]
    try:
        with Trace(source), np.errstate(all="ignore"):
            x = empty(shape, np.float32)
            mode = Mode(train=train, keep=train, rng=np.random.default_rng(0), low_memory=low_memory)
            y, cache = net.forward(x, mode)
            if train:
                net.backward(map_tree(lambda a: empty(a.shape, a.dtype), y), x, cache, need_dx=False)
    except Untraceable:
        zero_grad(net)
        for b, average in zip(named_buffers(net).values(), averages, strict=True):
            b.data[...] = average
        return _added_up(net, shape, train)
    return source.high


def _added_up(net: Network, shape: tuple[int, ...], train: bool) -> int:
    """Every layer's output is kept or made again; at the widest place there are two gradients too."""
    elements = activations(net, shape[1:])
    kept = sum(elements) if train else max(elements)
    size = int(next(iter(named_params(net).values())).data.itemsize)
    return (kept + 3 * max(elements)) * shape[0] * size


def check_memory(net: Network, shape: tuple[int, ...], copies: int, images: int = 0, **options: Any) -> None:
    """Raise RefusedError if training will not fit: what it takes, and a batch size that fits.

    images: the bytes of the data set. The rest as in `needed`.
    """
    room = 0.9 * available() - images
    wanted = needed(net, shape, copies, **options)
    if wanted <= room:
        return
    fits = largest_batch(net, shape, copies, room, **options)
    least = needed(net, (2, *shape[1:]), copies, **options)
    each = (wanted - least) / max(1, shape[0] - 2)
    other = "fewer --train-images" if images > wanted else "a smaller network"
    advice = f"--batch-size {fits} fits" if fits else f"no batch size fits: choose {other}"
    raise RefusedError(
        f"--batch-size: {shape[0]} images need about {readable(wanted)} ({readable(each)} for each), "
        f"{readable(available())} are free; {advice} (--force tries anyway)"
    )


def largest_batch(net: Network, shape: tuple[int, ...], copies: int, room: float, **options: Any) -> int:
    """A batch size near the largest that `needed` finds room for, or 0 where 2 images are too many."""
    low, high = 2, shape[0]
    below = needed(net, (low, *shape[1:]), copies, **options)
    if below > room:
        return 0
    for _ in range(8):  # nearly a straight line, so that two or three do
        above = needed(net, (high, *shape[1:]), copies, **options)
        if above <= room:
            return high
        guess = low + int((high - low) * (room - below) / (above - below))
        high = min(guess, high - 1)
        if high <= low:
            return low
    return low


def activations(net: Network, image: tuple[int, ...]) -> list[int]:
    """The elements of the output of every layer that computes something, for one image (H, W, C)."""
    sizes: list[int] = []

    def out_shape(path: str, layer: Layer, call: Callable[[], Shape], _: Shape) -> Shape:
        after = call()
        sizes.append(math.prod(after))
        return after

    leaves = {path for path, layer in walk(net) if isinstance(layer, Layer) and not _inner(layer)}
    with watch(net, out_shape=out_shape, only=leaves):
        net.stage_shapes((1, *image), heads=True)
    return sizes


def _inner(layer: Layer) -> bool:
    return any(isinstance(child, Layer) for child in layer.children().values())

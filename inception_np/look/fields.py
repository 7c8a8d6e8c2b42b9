"""How far an output sees: the receptive field, worked out, measured, and as far as it matters.

    computed    from the windows:     sees' = sees + d (k - 1) jump        (models/summary.py)
    measured    from the gradient:    the rows and columns of the image where d y[centre] / d x is not 0
    effective   from its size:        r[h, w] = rms over colours and draws of d <v, y[centre]> / d x[h, w]

v is a random vector over the channels, so that the mean of r^2 is the sum over channels of squared gradients. Measured
is what computed bounds, and with random weights both are equal. The effective field is much smaller: many more paths
lead to the centre of the field than to its edge, and with n layers r is about a Gaussian whose width grows as sqrt(n)
where the field grows as n (Luo et al. 2016, "Understanding the Effective Receptive Field", section 2). Their measure
is the number of pixels where r is above 1 - 0.9545 of its peak, the part of a Gaussian beyond two deviations, and the
side of a square with so many pixels.

All of it is in float64. The float32 convolutions of stride 1 multiply tiles of several pixels at once
(kernels/cpu/winograd.py), where a pixel beyond the field comes out as rounding noise, not as 0.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend.arrays import Shape
from ..compose import Concat, Sequential
from ..layer import Layer, cast, of_kind
from ..models.summary import receptive_field, stages_of
from .vjp import vjp

EDGE = 1 - 0.9545


@dataclass(frozen=True)
class Field:
    """path: a stage or a branch of one. computed, measured: (height, width) in pixels. cut: the field reaches an
    edge of the image, and may go on behind it. effective: a side in pixels. map: r over its peak, (H, W)."""

    path: str
    computed: tuple[int, int]
    measured: tuple[int, int]
    cut: bool
    effective: float
    map: np.ndarray


def receptive_fields(
    net: Layer, image: tuple[int, int, int], rng: np.random.Generator, draws: int = 1, branches: bool = True
) -> Iterator[Field]:
    """Of every stage whose output is a plane of 2x2 or more, and of its branches.

    image: (H, W, C) of random images that are looked at. draws: how many, for smoother maps. Those of a network may be
    larger than its own images: only the last stages mind. A branch gets one.
    """
    net = cast(copy.deepcopy(net), np.float64)
    before: dict[str, Layer] = {}
    shape: Shape = (draws, *image)
    for name, stage in stages_of(net).items():
        shape = stage.out_shape(shape)
        if len(shape) != 4 or min(shape[1:3]) < 2:
            return
        yield field(name, Sequential(**before, **{name: stage}), image, rng, draws)
        if branches and of_kind(stage, Concat):
            for branch, layer in stage.children().items():
                yield field(f"{name}.{branch}", Sequential(**before, **{name: layer}), image, rng, 1)
        before[name] = stage


def field(path: str, part: Layer, image: tuple[int, int, int], rng: np.random.Generator, draws: int) -> Field:
    """The field of the centre of what `part` gives, a network's first layers in float64."""
    shape = (draws, *image)
    height, width = (receptive_field(part, shape, 1, 1, axis)[0] for axis in (0, 1))

    def centre(y: Any) -> Any:
        dy = np.zeros_like(y)
        at = dy[:, y.shape[1] // 2, y.shape[2] // 2]
        at[...] = rng.standard_normal(at.shape)
        return dy

    dx = vjp(part, rng.standard_normal(shape), centre)
    r = np.sqrt(np.mean(dx * dx, (0, 3)))
    r /= max(r.max(), np.finfo(float).tiny)
    seen = (dx != 0).any((0, 3))
    rows, columns = seen.any(1), seen.any(0)
    cut = bool(rows[0] or rows[-1] or columns[0] or columns[-1])
    return Field(path, (height, width), (extent(rows), extent(columns)), cut, float(np.sqrt((r > EDGE).sum())), r)


def extent(line: np.ndarray) -> int:
    """From the first True to the last."""
    places = np.flatnonzero(line)
    return int(places[-1] - places[0] + 1) if len(places) else 0

"""The gradient by complex step, the tolerance that goes with it, and the two ways to compare: entry by entry, and
along random directions.

For an analytic f, f(t + ih v) = f(t) + ih f'(t) v - ..., so Im f / h is the derivative along v. Nothing is subtracted,
hence nothing cancels, and h may be 1e-30: the result is as exact as the forward pass itself. A ReLU or a maximum takes
the branch of the real part, so no step crosses a kink. Squire & Trapp 1998, "Using complex variables to estimate
derivatives of real functions".
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..backend.arrays import map_tree
from .report import Check, ratio
from .subject import STEP, ULP, Array, Point, Subject, complex_forward

JITTERS = 3


@dataclass
class Noise:
    """How far rounding moves the gradient at this point, measured by backwards with the last digits of x, of the
    parameters and of dy changed.

    The measurement includes batch norm's condition |mean| / std, cancellation in a nearly flat direction or in a sum of
    dy, and the length of a sum, so that no tolerance is guessed:

        tolerance = 32 * (what the jitter moves) + 128 ulp * |g| + 16 ulp * (largest entry of any gradient)

    The last term is for gradients that ought to be zero, such as a bias's before batch norm: their rounding errors
    come from terms as large as the other gradients.
    """

    shifts: list[Point]  # gradient at a jittered point minus gradient at the point
    floor: float  # 16 ulp * largest entry of any gradient

    def of_elements(self, name: str, analytic: Array) -> Array:
        moved: Array = np.max([np.abs(s[name]) for s in self.shifts], axis=0)
        typical = np.sqrt((moved**2).mean())
        tolerance: Array = 32 * (moved + typical) + 128 * ULP * np.abs(analytic) + self.floor
        return tolerance

    def of_direction(self, direction: Point, scale: float) -> float:
        moved = max((abs(sum(float((s[k] * v).sum()) for k, v in direction.items())) for s in self.shifts), default=0)
        length = float(np.sqrt(sum(float((v**2).sum()) for v in direction.values())))
        return 32 * moved + 512 * ULP * scale + self.floor * length


def measure_noise(subject: Subject) -> tuple[Noise, float]:
    """The noise at the subject's point, and its condition (see GradReport)."""
    shifts = []
    for k in range(JITTERS):
        point = {name: _jitter(a, k) for name, a in subject.point.items()}
        moved = subject.gradients(point, map_tree(partial(_jitter, k=k), subject.dy))
        shifts.append({name: moved[name] - g for name, g in subject.gradient.items()})
    largest = largest_entry(subject.gradient)
    shift = max(float(np.abs(d).max(initial=0)) for s in shifts for d in s.values())
    condition = shift / (4 * ULP * largest) if largest else 1.0
    return Noise(shifts, 16 * ULP * largest), max(1.0, condition)


def unmeasured(subject: Subject) -> Noise:
    """The noise without the jitter's part. Its tolerances are at most those of measure_noise."""
    return Noise([], 16 * ULP * largest_entry(subject.gradient))


def _jitter(a: Array, k: int) -> Array:
    """Every number times 1 + r, |r| <= 4 ulp, with r a hash of the number: equal numbers stay equal, so ties and
    zeros stay what they are."""
    bits = np.ascontiguousarray(a).view(np.uint64)
    mixed = (bits ^ np.uint64(0x9E3779B97F4A7C15 * (k + 1) % 2**64)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0x94D049BB133111EB)
    r = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1  # in [-1, 1)
    return (a * (1 + 8 * ULP * r)).reshape(a.shape)


def every_element(subject: Subject, noise: Noise) -> list[Check]:
    """Every entry of x and of every parameter that has any: one complex forward each."""
    point = subject.complex_point({})
    checks = []
    largest = largest_entry(subject.gradient)
    for name, analytic in nonempty(subject.gradient).items():
        numeric = np.empty(analytic.shape)
        moved = point[name]
        for i in np.ndindex(analytic.shape):
            moved[i] += 1j * STEP
            numeric[i] = subject.project(complex_forward(subject, point)) / STEP
            moved[i] = moved[i].real
        tolerance = noise.of_elements(name, analytic)
        checks.append(compare_elements(name, "every element", analytic, numeric, tolerance, largest))
    return checks


def nonempty(point: Point) -> Point:
    """The tensors of a point that have entries: an empty one has nothing to compare."""
    return {k: a for k, a in point.items() if a.size}


def largest_entry(gradient: Point) -> float:
    """The largest entry of any tensor, in absolute value."""
    return max(float(np.abs(g).max(initial=0)) for g in gradient.values())


def compare_elements(name: str, how: str, analytic: Array, numeric: Array, tolerance: Array, largest: float) -> Check:
    """One row of a report from two gradients of one tensor. largest: the largest entry of all tensors' gradients."""
    error = np.asarray(np.abs(numeric - analytic))
    ratios = np.asarray(ratio(error, tolerance))
    scale = float(np.abs(numeric).max())
    if not scale > 1e-10 * largest:  # a gradient that ought to be zero
        scale = largest
    i = np.unravel_index(int(ratios.argmax()), ratios.shape)
    biggest = np.maximum(np.abs(numeric), np.abs(analytic))
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(biggest > 1e-10 * largest, error / biggest, 0.0)
    return Check(
        tensor=name,
        how=how,
        error=float(error[i]) / (scale or 1),
        tolerance=float(np.broadcast_to(tolerance, error.shape)[i]) / (scale or 1),
        analytic=float(analytic[i]),
        numeric=float(numeric[i]),
        scale=scale,
        index=tuple(int(v) for v in i),
        ratios=ratios.ravel(),
        norm_error=float(error.max()) / (scale or 1),
        element_error=float(each.max()),
        maps=(analytic, numeric),
    )


def along(subject: Subject, noise: Noise, label: str, how: str, direction: Point) -> Check:
    """One direction: <g, v> against the complex step's derivative along v."""
    return compare_direction(subject, noise, label, how, direction, subject.slope(direction))


def along_each(subject: Subject, rows: list[tuple[str, str, Point]]) -> list[Check]:
    """A check for every row (label, how the direction was chosen, direction).

    The noise is measured only where a row fails without it: it can only turn a failure into a pass, and costs as much
    as three rows.
    """
    slopes = [subject.slope(direction) for _, _, direction in rows]

    def compared(noise: Noise) -> list[Check]:
        return [compare_direction(subject, noise, *row, slope) for row, slope in zip(rows, slopes, strict=True)]

    checks = compared(unmeasured(subject))
    return checks if all(c.ok for c in checks) else compared(measure_noise(subject)[0])


def compare_direction(subject: Subject, noise: Noise, label: str, how: str, direction: Point, numeric: float) -> Check:
    analytic, scale = projected(subject.gradient, direction)
    error, tolerance = abs(numeric - analytic), noise.of_direction(direction, scale)
    unit = scale if scale > 1e-10 * noise.floor / (16 * ULP) else 1.0
    return Check(
        tensor=label,
        how=how,
        error=error / unit,
        tolerance=tolerance / unit,
        analytic=analytic,
        numeric=numeric,
        scale=scale,
        norm_error=error / unit,
        element_error=error / unit,
    )


def projected(gradient: Point, direction: Point) -> tuple[float, float]:
    """<g, v> and sum |g_i v_i|, over the tensors of the direction v."""
    terms = [gradient[k] * v for k, v in direction.items()]
    return float(sum(t.sum() for t in terms)), float(sum(np.abs(t).sum() for t in terms))


def dense_direction(subject: Subject, draw: np.random.Generator) -> Point:
    """A normal number for every entry of x and of every parameter."""
    return {k: draw.standard_normal(a.shape) for k, a in subject.point.items()}


def sparse_directions(subject: Subject, draw: np.random.Generator) -> list[tuple[str, Point]]:
    """Directions that touch little of x, for errors that drown in a dense sum: one image, one channel, the border
    rows and columns, one corner pixel."""
    x = subject.point["x"]
    if x.ndim != 4:
        return []
    n, h, w, c = x.shape
    touched = {
        "one image": (slice(n - 1, n), slice(None), slice(None), slice(None)),
        "one channel": (slice(None), slice(None), slice(None), slice(c - 1, c)),
        "the last row": (slice(None), slice(h - 1, h), slice(None), slice(None)),
        "the first column": (slice(None), slice(None), slice(0, 1), slice(None)),
        "the last corner": (slice(None), slice(h - 1, h), slice(w - 1, w), slice(None)),
    }
    directions = []
    for how, at in touched.items():
        v = np.zeros(x.shape)
        v[at] = draw.standard_normal(x[at].shape)
        directions.append((how, {"x": v}))
    return directions

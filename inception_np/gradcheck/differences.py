"""Central differences and Richardson's extrapolation, with an estimate of their own error without steps across kinks.

    D(h) = (f(t + h v) - f(t - h v)) / 2h = f' + c2 h^2 + c4 h^4 + ...        rounding adds about ulp |f| / h

A large step is spoilt by c2 h^2, a small one by rounding. `central` takes the step of a falling row of steps where
two neighbours agree best. Richardson cancels the c2 and c4 terms from three steps: (4 D(h/2) - D(h)) / 3 and again
with 16 and 15; the difference of the last two columns estimates what is left. Both bound the rounding by what one ulp
of y, in each of its entries, can do. A step that changes a decision (kinks.py) tells nothing: it is made 16 times
smaller, up to four times; where that does not help, the direction is left out, and the report lists it.
"""

from dataclasses import dataclass

import numpy as np

from ..backend.arrays import leaves, map_tree
from .complex_step import compare_elements, largest_entry, nonempty, projected
from .kinks import decisions, nearest_kink
from .report import Check
from .subject import ULP, Array, Point, Subject, dot, not_complex_safe

FIRST = {"central": 2.0**-10, "richardson": 2.0**-6}  # relative to the size of the tensor's entries
SHRINKINGS = 4  # of a step that crosses a kink, each to a 16th


@dataclass
class Estimate:
    value: float
    bound: float  # of its error, as the method estimates it
    excluded: str = ""  # why there is no estimate


class Differences:
    """Difference quotients of a subject: `method` is "central" or "richardson"."""

    def __init__(self, subject: Subject, method: str):
        self.subject, self.method = subject, method
        self.pattern, _, self.decisions, self.margins = decisions(subject, subject.point)
        self.rounding = rounding_of(subject)

    def estimate(self, direction: Point, size: float) -> Estimate:
        """The derivative along a direction whose largest entry moves by `size` per unit of step."""
        h = FIRST[self.method] * size
        for _ in range(SHRINKINGS + 1):
            where = self._crossing(direction, h)
            if not where:
                return self._richardson(direction, h) if self.method == "richardson" else self._central(direction, h)
            h /= 16
        return Estimate(0.0, 0.0, where)

    def _quotient(self, direction: Point, h: float) -> float:
        return central_quotient(self.subject, direction, h, self.subject.dy)

    def _central(self, direction: Point, h: float) -> Estimate:
        best = Estimate(0.0, float("inf"))
        before = self._quotient(direction, h)
        for _ in range(5):
            h /= 4
            now = self._quotient(direction, h)
            bound = abs(now - before) + 8 * self.rounding / h
            if bound < best.bound:
                best = Estimate(now, bound)
            before = now
        return best

    def _richardson(self, direction: Point, h: float) -> Estimate:
        best = Estimate(0.0, float("inf"))
        for _ in range(3):
            d = [self._quotient(direction, h / 2**k) for k in range(3)]
            first = [(4 * d[1] - d[0]) / 3, (4 * d[2] - d[1]) / 3]
            value = (16 * first[1] - first[0]) / 15
            bound = abs(value - first[1]) + 32 * self.rounding / h
            if bound < best.bound:
                best = Estimate(value, bound)
            h /= 8
        return best

    def _crossing(self, direction: Point, h: float) -> str:
        """Where a step of +h or -h changes a decision; "" where it does not."""
        if not self.decisions:
            return ""
        for sign in (1, -1):
            pattern = decisions(self.subject, self.subject.moved(direction, sign * h))[0]
            changed = np.flatnonzero(pattern != self.pattern)
            if changed.size:
                return f"{changed.size} decisions change within h = {h:.0e}; {nearest_kink(self.margins, changed)}"
        return ""

    def elements(self) -> list[Check]:
        """Every entry of x and of every parameter that has any."""
        checks = []
        gradient = self.subject.gradient
        largest = largest_entry(gradient)
        for name, analytic in nonempty(gradient).items():
            numeric, bound = analytic.copy(), np.zeros(analytic.shape)
            excluded = []
            size = max(float(np.abs(self.subject.point[name]).max()), 1e-3)
            v = np.zeros(analytic.shape)
            for i in np.ndindex(analytic.shape):
                v[i] = 1
                e = self.estimate({name: v}, size)
                v[i] = 0
                if e.excluded:
                    excluded.append(f"{name}{list(i)} left out: {e.excluded}")
                else:
                    numeric[i], bound[i] = e.value, e.bound
            tolerance = 10 * bound + 1e-12 * np.abs(analytic).max()
            check = compare_elements(name, f"every element by {self.method}", analytic, numeric, tolerance, largest)
            check.excluded = excluded
            checks.append(check)
        return checks

    def along(self, label: str, how: str, direction: Point) -> Check:
        """One direction."""
        size = max(largest_entry({k: self.subject.point[k] for k in direction}), 1e-3) / largest_entry(direction)
        e = self.estimate(direction, size)
        analytic, scale = projected(self.subject.gradient, direction)
        if e.excluded:
            return Check(label, how, 0.0, 1.0, analytic, analytic, scale, excluded=[f"{label} left out: {e.excluded}"])
        unit = scale or 1.0
        error, tolerance = abs(e.value - analytic) / unit, (10 * e.bound + 1e-12 * scale) / unit
        return Check(label, how, error, tolerance, analytic, e.value, scale, norm_error=error, element_error=error)


def difference(a: object, b: object) -> object:
    """a - b, array by array: subtracted before the projection, so that large equal parts cancel exactly."""
    parts = iter([p - q for p, q in zip(leaves(a), leaves(b), strict=True)])
    return map_tree(lambda _: next(parts), a)


def central_quotient(subject: Subject, direction: Point, h: float, dy: object) -> float:
    """<dy, f(t + h v) - f(t - h v)> / 2h."""
    up, down = (subject.forward(subject.moved(direction, s * h)) for s in (1, -1))
    return dot(dy, difference(up, down)) / (2 * h)


def confirm(subject: Subject, direction: Point, slope: float) -> None:
    """Compare the complex step's slope with difference quotients. Raises ValueError where none agrees with it.

    In a forward that is not analytic, one with np.abs or np.var say, the complex step finds a slope that no difference
    has, however small the step. A kink at x itself leaves the question open, and nothing is raised.
    """
    scale = projected(subject.gradient, direction)[1] + abs(slope)
    rounding = rounding_of(subject)
    for h in (1e-5, 1e-6, 1e-8, 1e-7, 1e-9):  # the more ReLUs, the smaller the step that crosses none of them
        up, down = subject.forward(subject.moved(direction, h)), subject.forward(subject.moved(direction, -h))
        right, left = dot(subject.dy, difference(up, subject.y)) / h, dot(subject.dy, difference(subject.y, down)) / h
        middle = (left + right) / 2
        if abs(middle - slope) <= 1e-4 * scale + 100 * rounding / h:
            return
        if h < 1e-6 and abs(right - left) > 1e-5 * scale + 100 * rounding / h:
            return  # two sides, two slopes, however small the step: a kink at x itself
    raise ValueError(not_complex_safe(subject.name, f"its slope {slope:.6g} is not the {middle:.6g} of differences"))


def rounding_of(subject: Subject) -> float:
    """What one rounding of every entry of y can do to <dy, y>."""
    pairs = zip(leaves(subject.dy), leaves(subject.y), strict=True)
    return ULP * sum(float(np.abs(d * y).sum()) for d, y in pairs)


def v_curve(subject: Subject, direction: Point, analytic: float) -> tuple[Array, Array, Array]:
    """Steps from 1 to 1e-16, and the relative error of the central difference and of the complex step at each."""
    steps = 10.0 ** -np.arange(0, 16.5, 0.5)
    unit = abs(analytic) or 1.0
    central, complex_step = [], []
    for h in steps:
        central.append(abs(central_quotient(subject, direction, h, subject.dy) - analytic) / unit)
        slope = subject.project(subject.forward(subject.complex_point(direction, h))) / h
        complex_step.append(abs(slope - analytic) / unit)
    return steps, np.array(central), np.array(complex_step)

"""check_gradients: what is compared with what, for a small layer, a large one and a network."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..layer import Layer, Mode
from .adjoint import adjoint
from .complex_step import (
    along,
    along_each,
    dense_direction,
    every_element,
    measure_noise,
    nonempty,
    projected,
    sparse_directions,
)
from .context import check_briefly, check_unit, units_in_context
from .differences import Differences, confirm, v_curve
from .kinks import decided, nearest, never_taken, unit_calls
from .laws import broken_laws
from .policies import POLICIES
from .report import Check, GradReport, Sweep
from .scales import at_other_scales
from .snippet import snippet
from .subject import Array, Subject

METHODS = ("complex", "central", "richardson", "adjoint")
EVALUATION = Mode(train=False, keep=True)
SMALL = 1500  # entries of x and of all parameters: up to here every one is checked, beyond it random directions
EXCLUDED = 0.05  # of all comparisons may be lost to kinks


def check_gradients(
    layer: Layer, x: Array, *, mode: Mode | None = None, method: str = "complex", seed: int = 0
) -> GradReport:
    """Compare the gradients of <dy, y> that `backward` gives, for x and every Param, with those that `forward` has.

    dy is random. Up to 1500 numbers in x and the parameters, every entry is compared; beyond that two dense random
    directions through everything, one per tensor, a few sparse ones, and in a network every unit at the x it meets.
    The work is done on a private copy in float64 and complex128: nothing in the layer changes.

    mode: unless given, Mode(train=True, keep=True), and where y or a gradient is another in evaluation, to the bit,
    Mode(train=False, keep=True) too: the rows of the second mode end in "(evaluation)". A network is then looked at
    along one direction per unit. A mode that is given is checked alone. Where dropout has no generator, one is made
    from `seed`; its mask is the same in every run.
    A side of a ReLU or a maximum that x never takes is told in `never_taken`. The branches of a layer of the user's own
    are not known: by complex step, it is compared along one direction at x times 10, 100 and 0.1 too (scales.py).

    method: "complex"      complex step, to rounding; the default
            "central"      central differences at their best step, about 1e-9
            "richardson"   extrapolated differences with an error estimate, about 1e-11; for forwards that are not
                           complex-safe
            "adjoint"      <A u, v> = <u, A^T v>, for linear layers, 1e-14
            or another checker's policy, to see what it misses: see `POLICIES`

    Raises TypeError and ValueError, saying what to do, for an x that is not floating point, a forward that changes its
    input or is not complex-safe, gradients of wrong shapes, and the like. A wrong gradient is not raised but reported.
    """
    if method not in METHODS and method not in POLICIES:
        raise ValueError(f"check_gradients: got method={method!r}, wanted one of {', '.join([*METHODS, *POLICIES])}")
    start = time.perf_counter()
    given = replace(mode, keep=True) if isinstance(mode, Mode) else mode
    subject = Subject(layer, x, Mode(train=True, keep=True) if given is None else given, seed)
    report = _check(subject, method, seed)
    subjects = [subject]
    if given is None and not subject.same_in(EVALUATION):
        try:
            subjects.append(subject.in_mode(EVALUATION, seed))
            report.add_evaluation(_check(subjects[1], method, seed, brief=True))
        except (TypeError, ValueError) as error:
            error.args = (f"in evaluation: {error}; mode=Mode(train=True) checks training alone",)
            raise
    if not report.ok:
        report.snippet, report.unwritten = snippet(layer, x, given, method, seed, report.worst, subjects)
    report.seconds = time.perf_counter() - start
    return report


def _check(subject: Subject, method: str, seed: int, brief: bool = False) -> GradReport:
    """One mode. brief: a whole network is looked at along one direction, and each of its units along one."""
    draw = np.random.default_rng((seed, 4))
    report = GradReport(subject.name, method, seed, [], [])
    if method in POLICIES:
        report.checks = POLICIES[method](subject, draw)
    elif method == "adjoint":
        report.checks = adjoint(subject, draw)
    elif method == "complex":
        _by_complex_step(subject, draw, seed, report, brief)
    else:
        _by_differences(subject, draw, method, report)
    if method in METHODS:
        report.problems += broken_laws(subject)
        report.problems += _lost_to_kinks(report)
    report.sweep = _sweep(subject, report.worst)
    if method in ("complex", "central", "richardson") and not brief:
        _look_for_branches(subject, seed, report)
    return report


def _look_for_branches(subject: Subject, seed: int, report: GradReport) -> None:
    """Say which sides of decisions x never takes, and compare at other sizes of x where the layer may have others."""
    calls, units = decided(subject, subject.point)
    report.margin, report.decisions = nearest(units), sum(u.pattern.size for u in units)
    elsewhere: dict[str, list[Array]] = {}
    if report.method == "complex" and report.ok:
        report.scales, checks, failures, elsewhere = at_other_scales(subject, calls, seed)
        report.checks += checks
        for s in report.scales:
            if s.result == "wrong":
                name = f"{s.path}: " if s.path else ""
                report.problems.append(
                    f"{name}right at x, wrong at x times {s.factor:g}: a branch that x itself does not reach"
                )
        if failures:
            report.sweep = _sweep(*max(failures, key=lambda f: f.check.ratio))
    report.never_taken = never_taken(units, elsewhere)


def _by_complex_step(subject: Subject, draw: np.random.Generator, seed: int, report: GradReport, brief: bool) -> None:
    with unit_calls(subject) as calls:
        subject.forward(subject.point)
    small, network = sum(a.size for a in subject.point.values()) <= SMALL, len(calls) > 1
    if brief and network and not small:
        report.checks = along_each(subject, [("all", "one direction", dense_direction(subject, draw))])
        _add_units(report, units_in_context(calls, seed, check_briefly))
        return
    noise, report.condition = measure_noise(subject)
    dense = dense_direction(subject, draw)
    first = along(subject, noise, "all", "dense direction 1", dense)
    if small or not network:  # in a network, its units are confirmed one by one
        confirm(subject, dense, first.numeric)
    if small:
        report.checks = every_element(subject, noise)
        return
    report.checks = [first, along(subject, noise, "all", "dense direction 2", dense_direction(subject, draw))]
    for how, direction in sparse_directions(subject, draw):
        report.checks.append(along(subject, noise, "x", how, direction))
    if network:
        _add_units(report, units_in_context(calls, seed, check_unit))
    else:
        for name, a in nonempty(subject.point).items():
            v = {name: draw.standard_normal(a.shape)}
            report.checks.append(along(subject, noise, name, "one direction", v))
    for c in report.checks:
        if c.tolerance > 1e-6 and c.scale * c.tolerance > 1e-3 * noise.floor:
            report.problems.append(
                f"{c.tensor}: rounding hides the gradient here (tolerance {c.tolerance:.0e}); try another x"
            )


def _add_units(report: GradReport, parts: list[Check]) -> None:
    if all(c.ok for c in parts) and not all(c.ok for c in report.checks):
        report.problems.append("every unit is right by itself: look at how backward joins what they give")
    report.checks += parts


def _by_differences(subject: Subject, draw: np.random.Generator, method: str, report: GradReport) -> None:
    quotients = Differences(subject, method)
    if sum(a.size for a in subject.point.values()) <= SMALL // 3:
        report.checks = quotients.elements()
        return
    for k in range(8):
        report.checks.append(quotients.along("all", f"dense direction {k + 1}", dense_direction(subject, draw)))
    for name, a in nonempty(subject.point).items():
        report.checks.append(quotients.along(name, "one direction", {name: draw.standard_normal(a.shape)}))


def _lost_to_kinks(report: GradReport) -> list[str]:
    lost, tried = len(report.excluded), report.compared
    if lost <= EXCLUDED * tried:
        return []
    return [f'{lost} of {tried} comparisons were lost to kinks; use method="complex", or an x farther from them']


def _sweep(subject: Subject, worst: Check) -> Callable[[], Sweep]:
    """Gives the V-curve of the worst entry, or of a direction through everything, when it is drawn."""

    def sweep() -> Sweep:
        if worst.index is not None and worst.tensor in subject.point:
            v = np.zeros(subject.point[worst.tensor].shape)
            v[worst.index] = 1
            direction, label = {worst.tensor: v}, f"{worst.tensor}{list(worst.index)}"
        else:
            direction, label = dense_direction(subject, np.random.default_rng(5)), "a direction through everything"
        return label, *v_curve(subject, direction, projected(subject.gradient, direction)[0])

    return sweep

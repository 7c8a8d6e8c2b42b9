"""Branches that x does not reach: a layer of the user's own, compared again at x times 10, 100 and 0.1.

A slope that is wrong above 6 only, as ReLU6's may be, is not met by a standard normal x: its check is right, and says
nothing about it. A forward does not tell its branches, but the larger ones lie farther out, so a layer is compared once
more along one direction at other sizes of x, and of the other sign where all of x has one. Layers of this package need
none of it: never_taken in kinks.py knows their branches.

A factor at which nothing can be compared is noted and no more: one at which y overflows, or forward takes the logarithm
of a negative number, raises an error, or is not complex-safe. An error does not count where numbers overflow or
underflow on their way to y or to the gradient, nor where it is less than 1e-8 of the gradient there or at x: a layer
that saturates has a gradient there that is the rounding of a zero.
"""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..layer import Layer, is_ours
from .complex_step import along_each, dense_direction, every_element, measure_noise, nonempty, projected
from .context import in_unit
from .differences import confirm
from .kinks import Call
from .report import Check, Scaled
from .subject import Array, Point, Subject, as_array

FACTORS = (10.0, 100.0, 0.1)
SEEN = 1e-8  # of the gradient: smaller errors are not counted
SMALL = 1500  # entries of x and of all parameters: up to here an error is looked for in every one


class Failure(NamedTuple):
    """An error at x times a factor: where, and the worst check there."""

    subject: Subject
    check: Check


def at_other_scales(
    subject: Subject, calls: list[Call], seed: int
) -> tuple[list[Scaled], list[Check], list[Failure], dict[str, list[Array]]]:
    """Compare the layer, if it is the user's own, and one unit of each of the user's classes in it at other sizes of x.

    calls: those of the subject's units at its point. Returns what was compared, the checks that failed, where they
    failed, and by unit the decisions that it made where it was right (of layers with a method `kinks`).
    """
    results: list[Scaled] = []
    checks: list[Check] = []
    failures: list[Failure] = []
    decided: dict[str, list[Array]] = {}
    for path, part in _parts(subject, calls, seed):
        direction = dense_direction(part, np.random.default_rng((seed, 6)))
        for factor in _factors(part.point["x"]):
            there, wrong, why = _compared(part, factor, direction, seed)
            result = "wrong" if wrong else f"not compared: {why}" if why else "ok"
            results.append(Scaled(path, factor, result))
            if wrong:
                failures.append(Failure(there, max(wrong, key=lambda c: c.ratio)))
                where = f" (at x times {factor:g})"
                checks += [replace(c, tensor=(in_unit(path, c.tensor) if path else c.tensor) + where) for c in wrong]
                break
            if not why and hasattr(part.layer, "kinks"):
                x = there.point["x"]
                decided.setdefault(path, []).append(part.layer.kinks(x, there._run(there.point, keep=True)[1])[0])
    return results, checks, failures, decided


def _parts(subject: Subject, calls: list[Call], seed: int) -> Iterator[tuple[str, Subject]]:
    """What is compared, and its path. A network as a whole only where it is small: its units cost less."""
    small = sum(a.size for a in subject.point.values()) <= SMALL
    if not is_ours(subject.layer) and (small or len(calls) <= 1):
        yield "", subject
    seen: set[type[Layer]] = {type(subject.layer)}
    for call in calls:
        if type(call.layer) not in seen and not is_ours(call.layer):
            seen.add(type(call.layer))
            try:
                part = Subject(call.layer, as_array(call.x), replace(call.mode, keep=True), seed, repeat=False)
            except (TypeError, ValueError):  # it cannot be checked alone: its x is a pair, say
                continue
            yield call.path, part


def _factors(x: Array) -> tuple[float, ...]:
    one_sign = (x >= 0).all() or (x <= 0).all()
    return (*FACTORS, -1.0, *(-f for f in FACTORS)) if one_sign and x.any() else FACTORS


def _compared(subject: Subject, factor: float, direction: Point, seed: int) -> tuple[Subject, list[Check], str]:
    """(the subject at x times a factor, the checks that show an error, why there was nothing to compare)."""
    there = subject
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        try:
            there = subject.at(factor * subject.point["x"], seed)
            found = along_each(there, [("all", "dense direction", direction)])[0]
            if not np.isfinite(found.numeric):
                return there, [], "the slope of the complex step is not finite"
            gradient = max(projected(s.gradient, direction)[1] for s in (there, subject))
            if found.ok or abs(found.analytic - found.numeric) <= SEEN * gradient:
                return there, [], ""
            confirm(there, direction, found.numeric)
            with np.errstate(all="raise"):  # what overflows or underflows on its way is not the layer's mathematics
                along_each(subject.at(there.point["x"], seed), [("all", "dense direction", direction)])
            return there, _closer(there, seed) or [found], ""
        except Exception as error:  # of any kind, from forward or backward beyond what they are made for
            text = str(error).removeprefix(f"{subject.name}: ").partition(";")[0]
            return there, [], text or type(error).__name__


def _closer(subject: Subject, seed: int) -> list[Check]:
    """The checks that fail, of every element or, in a larger layer, of one direction for each tensor."""
    if sum(a.size for a in subject.point.values()) <= SMALL:
        checks = every_element(subject, measure_noise(subject)[0])
    else:
        draw = np.random.default_rng((seed, 7))
        points = nonempty(subject.point).items()
        checks = along_each(
            subject, [(name, "one direction", {name: draw.standard_normal(a.shape)}) for name, a in points]
        )
    return [c for c in checks if not c.ok]

"""The adjoint test, for layers that are linear: <A u, v> = <u, A^T v>, forward on one side and backward on the other.

y is linear in a tensor t where f(u + w) - f(0) = (f(u) - f(0)) + (f(w) - f(0)), all other tensors held. Then A u =
f(u) - f(0) needs no derivative and no small step, and the two sides agree to the rounding of one sum. Claerbout,
"Earth Soundings Analysis", chapter 5 ("a relative error of 1e-5 or more has always been a bug").
"""

import numpy as np

from ..backend.arrays import leaves
from .complex_step import nonempty
from .differences import difference
from .report import Check
from .subject import ULP, Point, Subject, dot


def adjoint(subject: Subject, draw: np.random.Generator) -> list[Check]:
    """One row per tensor that has entries and that y is linear in. Raises ValueError where y is not linear in x."""
    checks = []
    for name, g in nonempty(subject.gradient).items():
        u, w = (draw.standard_normal(g.shape) for _ in range(2))
        zero = subject.forward(_with(subject, name, np.zeros(g.shape)))
        fu, fw, both = (subject.forward(_with(subject, name, t)) for t in (u, w, np.asarray(u + w)))
        size = max(float(np.abs(a).max(initial=0)) for f in (fu, fw, both) for a in leaves(f))
        bent = max(
            float(np.abs(b - p - q + z).max(initial=0))
            for b, p, q, z in zip(*map(leaves, (both, fu, fw, zero)), strict=True)
        )
        if bent > 1e-10 * size:
            if name == "x":
                raise ValueError(f'{subject.name}: y is not linear in x; use method="complex"')
            continue
        au = difference(fu, zero)
        numeric = dot(subject.dy, au)
        scale = sum(float(np.abs(d * a).sum()) for d, a in zip(*map(leaves, (subject.dy, au)), strict=True))
        offset = sum(float(np.abs(d * z).sum()) for d, z in zip(*map(leaves, (subject.dy, zero)), strict=True))
        analytic = float((g * u).sum())
        unit = scale or 1.0
        error = abs(numeric - analytic) / unit
        # 1e-14 of the sum, and what subtracting f(0), a bias say, costs in rounding
        tolerance = 1e-14 + 8 * ULP * offset / unit
        checks.append(
            Check(name, "adjoint", error, tolerance, analytic, numeric, scale, norm_error=error, element_error=error)
        )
    return checks


def _with(subject: Subject, name: str, value: np.ndarray) -> Point:
    return subject.point | {name: value}

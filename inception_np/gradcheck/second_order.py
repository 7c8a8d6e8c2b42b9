"""Second derivatives without writing any: the complex step goes through the hand-written backward.

For a loss L(t) = <dy, f(t)> or loss(f(t)), backward gives g(t), and Im g(t + ih v) / h = H v, the Hessian
times v, as exact as backward itself. The Jacobian of a gradient is symmetric, u.Hv = v.Hu; a backward that is no
gradient of any function fails this.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..layer import Layer, Mode
from .complex_step import dense_direction
from .subject import STEP, Array, Point, Subject


def hessian_vector_product(
    layer: Layer, x: Array, direction: Point, *, dy: Any = None, mode: Mode | None = None, seed: int = 0
) -> Point:
    """H v of L(x, parameters): {"x": array, "conv.weight": array, ...}.

    direction: v in the same form; a tensor that is left out does not move. dy: the cotangent of L = <dy, y>, drawn
    from seed where None, or a function y -> dL/dy for a loss that is not linear in y, such as
    `lambda y: softmax_cross_entropy(y, labels)[1]`. Raises ValueError for names or shapes that the layer does not have.
    """
    linear = None if callable(dy) else dy
    subject = Subject(layer, x, mode or Mode(train=True, keep=True), seed, linear)
    for k, v in direction.items():
        wanted = subject.point[k].shape if k in subject.point else None
        if np.shape(v) != wanted:
            raise ValueError(
                f"hessian_vector_product: got {k!r} of shape {np.shape(v)}, wanted {wanted or list(subject.point)}"
            )
    return _hessian_product(subject, direction, dy if callable(dy) else None)


def _hessian_product(subject: Subject, direction: Point, dy: Callable[[Any], Any] | None = None) -> Point:
    gradient = subject.gradients(subject.complex_point(direction), dy)
    return {k: np.asarray(g.imag / STEP) for k, g in gradient.items()}


def hessian_symmetry(layer: Layer, x: Array, *, dy: Any = None, mode: Mode | None = None, seed: int = 0) -> float:
    """|u.Hv - v.Hu| / (sum |u_i (Hv)_i| + sum |v_i (Hu)_i|) for two random directions: rounding for a true gradient."""
    linear = None if callable(dy) else dy
    subject = Subject(layer, x, mode or Mode(train=True, keep=True), seed, linear)
    draw = np.random.default_rng((seed, 2))
    u, v = (dense_direction(subject, draw) for _ in range(2))
    hu, hv = (_hessian_product(subject, d, dy if callable(dy) else None) for d in (u, v))
    left, right = (sum(float((a[k] * b[k]).sum()) for k in a) for a, b in ((u, hv), (v, hu)))
    size = sum(float(np.abs(a[k] * b[k]).sum()) for a, b in ((u, hv), (v, hu)) for k in a)
    return abs(left - right) / (size or 1.0)

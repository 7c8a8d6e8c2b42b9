"""What a backward must do besides giving the right numbers: add to gradients, and give the same ones every time."""

import numpy as np

from .subject import Subject, same


def broken_laws(subject: Subject) -> list[str]:
    """The laws that the subject's backward breaks, in words; none for a good layer."""
    problems = []
    second = subject.gradients(subject.point)
    if not all(same(second[k], g) for k, g in subject.gradient.items()):
        problems.append("backward gave other gradients the second time; keep no state on the layer")
    problems += _accumulates(subject)
    return problems


def _accumulates(subject: Subject) -> list[str]:
    if not subject.params:
        return []
    _, cache = subject._run(subject.point, keep=True)
    before = {name: np.ones_like(p.data) for name, p in subject.params.items()}
    for name, p in subject.params.items():
        p.grad = before[name].copy()
    subject.layer.backward(subject.dy, subject.point["x"], cache)
    problems = []
    for name, p in subject.params.items():
        g = subject.gradient[name]
        if g.any() and np.array_equal(p.grad, g):
            problems.append(f"backward sets the gradient of {name}, wanted `param.grad += ...`")
        elif np.abs(p.grad - 1 - g).max(initial=0) > 1e-12 * (1 + np.abs(g).max(initial=0)):
            problems.append(f"backward does not add to the gradient of {name}, wanted `param.grad += ...`")
    return problems

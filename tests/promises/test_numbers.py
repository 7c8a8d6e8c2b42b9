"""The loss of logits as large as floating point has them."""

import numpy as np
import pytest

from inception_np import softmax_cross_entropy

from .faults import PLANTED

LARGEST = 3e38


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(logits, labels): of every size, some rows all alike, some with one entry far from the others."""
    rng = np.random.default_rng(seed)
    dtype = np.float32 if seed % 3 else np.float64
    shape = (rng.integers(1, 9), rng.choice([1, 2, 3, 10, 1000]))
    largest = LARGEST if seed % 4 == 0 else 10.0 ** rng.integers(-3, 38)
    logits = rng.uniform(-1, 1, shape) * largest
    if seed % 5 == 0:
        logits[0] = rng.choice([-largest, largest, 0, -65504, 65504, 1e-45])
    if seed % 7 == 0:
        logits[:, 0] = largest
    return logits.astype(dtype), rng.integers(0, shape[1], shape[0])


def by_definition(logits: np.ndarray, labels: np.ndarray) -> tuple[np.longdouble, np.ndarray]:
    """(loss, gradient) in long double, which has 15 bits of exponent."""
    rows = np.arange(len(labels))
    z = logits.astype(np.longdouble)
    z -= z.max(1, keepdims=True)
    with np.errstate(under="ignore"):
        e = np.exp(z)
    loss = (np.log(e.sum(1)) - z[rows, labels]).mean()
    dlogits = e / e.sum(1, keepdims=True)
    dlogits[rows, labels] -= 1
    return loss, dlogits / len(labels)


def judged(seed: int, fault: str = "") -> str | None:
    logits, labels = drawn(seed)
    wanted, dwanted = by_definition(logits, labels)
    beyond = wanted > np.finfo(logits.dtype).max  # the loss itself is larger than the numbers are: infinite
    with PLANTED[fault](), np.errstate(over="ignore" if beyond else "warn"):
        loss, dlogits = softmax_cross_entropy(logits, labels)
    if beyond:
        return None if np.isfinite(dlogits).all() else "the gradient is not finite"
    if not np.isfinite(loss) or not np.isfinite(dlogits).all():
        return f"loss {loss}, gradient {dlogits.min()} to {dlogits.max()}, wanted {wanted}"
    if abs(loss - wanted) > 1e-6 * max(1, abs(wanted)) or abs(dlogits - dwanted).max() > 1e-6:
        return f"loss {loss}, wanted {wanted}; gradient wrong by {abs(dlogits - dwanted).max()}"
    return None


@pytest.mark.promise("softmax")
def test_the_loss_of_any_finite_logits_is_finite_and_right(tally):
    tally.each(judged)


def test_a_softmax_without_its_maximum_is_seen(broken):
    found = (seed for seed in range(60) if broken(judged, seed, "softmax of large numbers"))
    assert any(not broken(judged, seed) for seed in found)

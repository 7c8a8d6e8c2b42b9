"""Muon: what it does to filters, to everything else, and to what is not its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference.update
from inception_np import SGD, BatchNorm, Conv2D, DepthwiseConv2D, Linear, Muon, Sequential, flatten, named_params
from inception_np.layer import cast
from inception_np.testing import seeds
from inception_np.training import muon
from inception_np.training.muon import orthogonalised

TOLERANCE = 1e-12


def check_orthogonalised(rows, columns, seed, scale=1.0):
    g = scale * np.random.default_rng(seed).standard_normal((rows, columns))
    found, wanted = orthogonalised(g), reference.update.orthogonalised(g)
    assert found.shape == g.shape
    assert np.abs(found - wanted).max() < TOLERANCE


@given(st.integers(1, 40), st.integers(1, 40), seeds, st.sampled_from([1e-6, 1.0, 1e6]))
def test_powers_of_a_matrix_do_to_it_what_the_polynomial_does_to_its_singular_values(rows, columns, seed, scale):
    check_orthogonalised(rows, columns, seed, scale)


@pytest.mark.parametrize("name, value", [("A", 3.44), ("B", -4.77), ("C", 2.03), ("ROUNDS", 2)])
def test_another_polynomial_would_be_noticed(monkeypatch, name, value):
    monkeypatch.setattr(muon, name, value)
    with pytest.raises(AssertionError):
        check_orthogonalised(17, 5, 0)


def test_the_result_is_near_the_nearest_matrix_with_orthogonal_columns():
    g = np.random.default_rng(0).standard_normal((72, 17)) * np.geomspace(0.3, 1, 17)
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    nearest = u @ vt / np.sqrt(17)
    assert (orthogonalised(g) * nearest).sum() > 0.97  # the cosine of the angle between them
    assert (g / np.linalg.norm(g) * nearest).sum() < 0.93


def test_float32_and_a_gradient_of_zeros():
    g = np.random.default_rng(0).standard_normal((288, 48)).astype(np.float32)
    assert orthogonalised(g).dtype == np.float32
    assert np.abs(orthogonalised(g) - orthogonalised(g.astype(float))).max() < 1e-5
    assert not orthogonalised(np.zeros((9, 4))).any()


def network(seed=0):
    rng = np.random.default_rng(seed)
    net = Sequential(
        conv=Conv2D(3, 5, (1, 3), rng=rng),
        bn=BatchNorm(5),
        depthwise=DepthwiseConv2D(5, 3, bias=True, rng=rng),
        grouped=Conv2D(5, 10, 3, groups=5, rng=rng),
        one=Conv2D(10, 17, 1, bias=False, rng=rng),
        fc=Linear(17, 4, rng=rng),
    )
    return flatten(cast(net, np.float64))


FILTERS = ("conv.weight", "one.weight")


def steps(net, optimiser, count=3):
    rng = np.random.default_rng(5)
    for _ in range(count):
        for p in named_params(net).values():
            p.grad[...] = rng.standard_normal(p.grad.shape)
        optimiser.step()
    return {path: p.data.copy() for path, p in named_params(net).items()}


def check_steps(lr=0.2, sgd_lr=0.05, momentum=0.6, decay=0.01):
    """Filters as the definition has them, and the others as SGD with the same gradients moves them."""
    net, other = network(), network()
    wanted = {path: p.data.copy() for path, p in named_params(net).items()}
    velocity = {path: np.zeros_like(w) for path, w in wanted.items()}
    optimiser = Muon(net, lr, sgd_lr=sgd_lr, momentum=momentum, weight_decay=decay)
    rng = np.random.default_rng(5)
    for _ in range(3):
        for path, w in wanted.items():
            g = rng.standard_normal(w.shape)
            if path in FILTERS:
                wanted[path], velocity[path] = reference.update.muon(w, g, velocity[path], lr, momentum)
    found = steps(net, optimiser)
    plain = steps(other, SGD(other, sgd_lr, momentum=momentum, weight_decay=decay, nesterov=True))
    for path, w in found.items():
        assert np.abs(w - (wanted if path in FILTERS else plain)[path]).max() < TOLERANCE, path


def test_filters_turn_and_everything_else_is_sgds():
    check_steps()


@pytest.mark.parametrize("fault", ["length", "momentum", "decay", "grouped"])
def test_a_step_that_is_another_would_be_noticed(monkeypatch, fault):
    right = Muon._turn

    def wrong(self, p, velocity):
        before = np.linalg.norm(p.data)
        if fault == "momentum":
            velocity[...] = 0
        if fault == "decay":
            p.data *= 1.001
        right(self, p, velocity)
        if fault == "length":
            p.data *= 1 + 1e-6 * before

    monkeypatch.setattr(Muon, "_turn", wrong)
    if fault == "grouped":
        monkeypatch.setattr(muon, "is_one_matrix", lambda part: isinstance(part, Conv2D))
    with pytest.raises(AssertionError):
        check_steps()


def test_filters_keep_their_length_and_turn_by_the_rate():
    net = network()
    before = {path: p.data.copy() for path, p in named_params(net).items()}
    after = steps(net, Muon(net, 0.1), 1)
    for path in FILTERS:
        lengths = np.linalg.norm(before[path]), np.linalg.norm(after[path])
        assert lengths[1] == pytest.approx(lengths[0], rel=1e-12)
        cosine = (before[path] * after[path]).sum() / np.prod(lengths)
        assert 0.05 < np.arccos(cosine) < 0.15


def test_the_rates_change_together():
    net, other = network(), network()
    optimiser, half = Muon(net, 0.2, sgd_lr=0.1), Muon(other, 0.1, sgd_lr=0.05)
    optimiser.lr = 0.1
    found, wanted = steps(net, optimiser), steps(other, half)
    for path in found:
        np.testing.assert_allclose(found[path], wanted[path], rtol=1e-12, atol=1e-12)


def test_biases_learn_at_their_own_rate():
    net, other, plain = network(), network(), network()
    found = steps(net, Muon(net, 0.2, sgd_lr=0.01, bias_scale=8.0), 1)
    wanted, slow = steps(other, Muon(other, 0.2, sgd_lr=0.08), 1), steps(plain, Muon(plain, 0.2, sgd_lr=0.01), 1)
    for path, w in found.items():
        kind = wanted if path.endswith(("bias", "beta", "gamma")) else slow
        np.testing.assert_allclose(w, kind[path], rtol=1e-12, atol=1e-12, err_msg=path)
    assert np.abs(wanted["fc.bias"] - slow["fc.bias"]).max() > 0.01


def test_what_it_refuses():
    with pytest.raises(ValueError, match="Muon: got sgd_lr=-1, wanted at least 0"):
        Muon(network(), 0.1, sgd_lr=-1)
    with pytest.raises(ValueError, match="Muon: got momentum=1, wanted less than 1"):
        Muon(network(), 0.1, momentum=1)
    with pytest.raises(ValueError, match=r"Muon: got lr=0 with sgd_lr=0\.1, wanted an lr above 0"):
        Muon(network(), 0)

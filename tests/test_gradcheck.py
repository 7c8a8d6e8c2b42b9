"""The checker is checked: right layers pass at every configuration, wrong ones are found, named and shrunk."""

import copy
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import commands
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import find as hypothesis_find
from hypothesis import strategies as st

from inception_np import (
    LRN,
    BatchNorm,
    Conv2D,
    ConvBNReLU,
    ConvReLU,
    Dropout,
    Layer,
    Linear,
    MaxPool2D,
    Mode,
    Param,
    ReLU,
    Residual,
    Sequential,
    check_gradients,
    create_model,
    named_buffers,
    named_params,
    softmax_cross_entropy,
)
from inception_np.gradcheck.check import METHODS
from inception_np.gradcheck.command import LAYERS as READY
from inception_np.gradcheck.command import LINEAR
from inception_np.gradcheck.complex_step import _jitter
from inception_np.gradcheck.kinks import margin
from inception_np.gradcheck.policies import POLICIES
from inception_np.gradcheck.report import ratio
from inception_np.gradcheck.second_order import hessian_symmetry, hessian_vector_product
from inception_np.testing import LAYERS, networks, randomise


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# -- a user's own layer --------------------------------------------------------------------------------------------

OWN = '''
import numpy as np
from inception_np import Layer, Param


class Swish(Layer):
    """y = x s(b x) with s the logistic function and a learned b per channel."""

    def __init__(self, channels):
        self.b = Param(np.linspace(0.5, 1.5, channels).astype(np.float32))

    def forward(self, x, mode):
        s = 1 / (1 + np.exp(-self.b.data * x))
        return x * s, s

    def backward(self, dy, x, s):
        slope = x * s * (1 - s)
        self.b.grad += (dy * x * slope).sum((0, 1, 2))
        return dy * (s + self.b.data * slope)
'''


@pytest.fixture
def own(tmp_path):
    """Writes a layer file of the user's, some text in it replaced, and gives its path and its class."""

    def write(old="", new=""):
        assert old in OWN
        path = tmp_path / "my_layers.py"
        path.write_text(OWN.replace(old, new) if old else OWN)
        space = {"__name__": "my_layers"}
        exec(compile(path.read_text(), str(path), "exec"), space)
        return path, space["Swish"]

    return write


@pytest.mark.parametrize("method", ["complex", "central", "richardson"])
def test_a_users_layer_passes_when_right(own, method):
    _, Swish = own()
    report = check_gradients(Swish(3), draw(2, 4, 3, 3), method=method)
    assert report.ok, report
    assert {c.tensor for c in report.checks} == {"x", "b"}


WRONG = [
    ("return dy * (s + self.b.data * slope)", "return dy * (s + slope)", "x"),
    ("return dy * (s + self.b.data * slope)", "return dy * s", "x"),
    ("(dy * x * slope).sum((0, 1, 2))", "(dy * slope).sum((0, 1, 2))", "b"),
    ("(dy * x * slope).sum((0, 1, 2))", "1.000001 * (dy * x * slope).sum((0, 1, 2))", "b"),
    ("return dy * (s", "dy = dy * (1 + 1e-9 * (x == x.max()))\n        return dy * (s", "x"),
]


@pytest.mark.parametrize(("old", "new", "where"), WRONG)
def test_a_users_wrong_backward_is_caught_and_located(own, old, new, where):
    _, Swish = own(old, new)
    x = draw(2, 4, 3, 3)
    report = check_gradients(Swish(3), x)
    assert not report.ok
    assert {c.tensor for c in report.failures()} == {where}
    assert report.worst.tensor == where
    assert "WRONG" in str(report) and f"worst: {where}[" in str(report)
    if "x.max()" in new:  # one entry alone is wrong
        assert report.worst.index == np.unravel_index(x.argmax(), x.shape)
        assert (report.worst.ratio > 1) and sum((c.ratios > 1).sum() for c in report.checks) == 1


@pytest.mark.parametrize("method", ["central", "richardson"])
def test_differences_catch_a_wrong_backward_too(own, method):
    _, Swish = own("(s + self.b.data * slope)", "(s + 1.0001 * self.b.data * slope)")
    assert not check_gradients(Swish(3), draw(2, 4, 3, 3), method=method).ok


def test_a_backward_that_assigns_instead_of_adding_is_a_problem(own):
    for new in ("self.b.grad = (dy", "self.b.grad[...] = (dy", "self.b.grad *= 2; self.b.grad += (dy"):
        _, Swish = own("self.b.grad += (dy", new)
        report = check_gradients(Swish(3), draw(2, 4, 3, 3))
        assert not report.ok and "+=" in " ".join(report.problems), new


# -- nothing in the caller's layer changes -------------------------------------------------------------------------


def everything(layer, rng):
    arrays = [a for p in named_params(layer).values() for a in (p.data, p.grad)]
    arrays += [b.data for b in named_buffers(layer).values()]
    return [(a.dtype, a.tobytes(), id(a)) for a in arrays] + [repr(rng.bit_generator.state)]


@pytest.mark.parametrize("method", [*METHODS, "torch-fast", "jax", "tinygrad"])
def test_nothing_in_a_float32_layer_changes(method):
    rng = np.random.default_rng(1)
    net = Sequential(ConvBNReLU(2, 3, 3, rng=rng), Dropout(0.5), MaxPool2D(2), Conv2D(3, 2, 1, rng=rng))
    if method == "adjoint":
        net = Sequential(Conv2D(2, 3, 3, rng=rng), Dropout(0.5))
    for p in named_params(net).values():
        p.grad[...] = 7
    x = draw(2, 4, 6, 2).astype(np.float32)
    before, x_before = everything(net, rng), x.tobytes()
    check_gradients(net, x, mode=Mode(train=True, keep=True, rng=rng), method=method)
    assert everything(net, rng) == before
    assert x.tobytes() == x_before
    hessian_symmetry(net, x, mode=Mode(train=True, keep=True, rng=rng))
    margin(net, x, mode=Mode(train=True, keep=True, rng=rng))
    assert everything(net, rng) == before


def test_dropout_without_a_generator_gets_one_and_replays_it():
    layer = Dropout(0.5)
    report = check_gradients(layer, draw(2, 5, 4, 3))
    assert report.ok, report
    zeros = (report.checks[0].maps[0] == 0).mean()
    assert 0.3 < zeros < 0.7
    assert check_gradients(layer, draw(2, 5, 4, 3), mode=Mode(train=False)).ok


# -- no false alarms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LAYERS, "networks"])
@given(data=st.data())
def test_right_layers_pass(name, data):
    case = data.draw(LAYERS[name] if name in LAYERS else networks())
    mode = Mode(train=case.train, keep=True, rng=np.random.default_rng(case.seed))
    report = check_gradients(case.layer(), case.x(), mode=mode, seed=case.seed)
    assert report.ok, report


@pytest.mark.parametrize("name", READY)
def test_every_layer_passes_by_every_method_that_fits(name):
    for method in METHODS:
        if method == "adjoint" and name not in LINEAR:
            continue
        _, report = command(name, "--method", method, "--json")
        assert report["ok"], (method, report)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_passes_what_is_right(policy):
    """Where its tolerance allows: float32 policies have false alarms, which is why they are left out here."""
    if policy in ("jax-float32", "tinygrad"):
        pytest.skip("float32: false alarms belong to it")
    for layer, x in [(Conv2D(2, 3, (3, 2)), draw(1, 4, 3, 2)), (LRN(3, alpha=0.5), draw(1, 2, 3, 4))]:
        assert check_gradients(layer, x, method=policy).ok


def test_batch_norm_far_from_zero_passes_with_its_condition_measured():
    near, far = (check_gradients(BatchNorm(3), draw(2, 7, 6, 3) + shift) for shift in (0, 1e4))
    assert near.ok and far.ok, far
    assert near.condition < 20 and 1e3 < far.condition < 1e6
    assert far.worst.tolerance < 1e-8


# -- planted faults ------------------------------------------------------------------------------------------------


class NoLastTerm(BatchNorm):
    def backward(self, dy, x, cache):
        super().backward(dy, x, cache)
        _, _, rstd, train = cache
        g = dy if self.gamma is None else self.gamma.data * dy
        return rstd * (g - g.mean((0, 1, 2)) if train else g)


class ShortWindow(LRN):
    def backward(self, dy, x, cache):
        narrow = LRN(max(1, self.size - 2), alpha=self.alpha, beta=self.beta, k=self.k, divide_by_size=False)
        if self.divide_by_size:
            narrow.alpha /= self.size
        return narrow.backward(dy, x, cache)


class LastTieWins(MaxPool2D):
    def backward(self, dy, x, cache):
        # give each dy to the last of equal entries: pool the plane turned by half a turn, where the last is first
        (top, bottom), (left, right) = self._geometry(cache[1])[0]
        turned = MaxPool2D(self.size, stride=self.stride, pad=((bottom, top), (right, left)))
        assert not self.ceil
        h, w = (s * (o - 1) + k for s, o, k in zip(self.stride, dy.shape[1:3], self.size, strict=True))
        seen = x[:, : h - top, : w - left]
        turned.pad = ((h - top - seen.shape[1], top), (w - left - seen.shape[2], left))
        _, kept = turned.forward(seen[:, ::-1, ::-1], Mode(keep=True))
        dx = np.zeros(x.shape, dy.dtype)
        dx[:, : h - top, : w - left] = turned.backward(dy[:, ::-1, ::-1], None, kept)[:, ::-1, ::-1]
        return dx


class SwappedPads(Conv2D):
    def backward(self, dy, x, cache):
        twin = copy.copy(self)
        (top, bottom), (left, right) = self._geometry(x.shape)[1]
        twin.pad = ((bottom, top), (right, left))
        return super(SwappedPads, twin).backward(dy, x, cache)


class Scaled(Conv2D):
    takes_out = False

    def backward(self, dy, x, cache):
        return 1.0001 * super().backward(dy, x, cache)


class BiasOfNoUse(Sequential):
    """Convolution with a bias, then batch norm, which takes it away again: its gradient is 0, and is given as 1e-6."""

    def backward(self, dy, x, cache):
        dx = super().backward(dy, x, cache)
        self.layers["conv"].bias.grad += 1e-6
        return dx


def spoil(layer, cls):
    layer.__class__ = cls
    return layer


FAULTS = {
    "batch norm without its last term": ("BatchNorm", NoLastTerm, "x"),
    "LRN with a short window": ("LRN", ShortWindow, "x"),
    "max pooling that gives ties to the last": ("MaxPool2D", LastTieWins, "x"),
    "im2col with swapped pads": ("Conv2D", SwappedPads, None),
    "dx scaled by 1.0001": ("Conv2D", Scaled, "x"),
}


def caught(case, cls):
    layer = spoil(case.layer(), cls)
    if cls is LastTieWins:
        layer.ceil = False
    x = np.ones(case.shape) if cls is LastTieWins else case.x()  # every window a tie
    try:
        return check_gradients(layer, x, mode=Mode(case.train, True), seed=case.seed)
    except ValueError as error:
        pytest.fail(f"{case}: {error}")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_named_and_shrunk_to_three_pixels(fault):
    name, cls, tensor = FAULTS[fault]
    case = hypothesis_find(
        LAYERS[name],
        lambda case: not caught(case, cls).ok,
        settings=settings(
            max_examples=400, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        ),
    )
    n, h, w, _ = case.shape
    assert n * h * w <= 3, case
    report = caught(case, cls)
    if tensor:
        assert {c.tensor for c in report.failures()} == {tensor}
    right = check_gradients(case.layer(), case.x(), mode=Mode(case.train, True), seed=case.seed)
    assert right.ok, right


@pytest.mark.parametrize("size", [(1, 1, 2), (3, 4, 2), (8, 12, 16)])
def test_a_bias_gradient_that_ought_to_be_zero_is_found_at_a_millionth(size):
    rng = np.random.default_rng(0)
    h, w, channels = size
    good = Sequential(conv=Conv2D(channels, channels, (1, 2), rng=rng), bn=BatchNorm(channels))
    bad = BiasOfNoUse(**good.layers)
    x = draw(2, h, w, channels)
    assert check_gradients(good, x).ok
    report = check_gradients(bad, x)
    assert not report.ok
    assert x.size > 1500 or {c.tensor for c in report.failures()} == {"conv.bias", "conv.bias (evaluation)"}


def test_a_wrong_unit_deep_in_a_network_is_named():
    net = create_model("inception_v1_cifar", width=1 / 16)
    parts = net.trunk.layers["4c"].branches["b3"].layers
    assert isinstance(parts["conv"], ConvReLU)

    class Wrong(ConvReLU):
        def backward(self, dy, x, y, into=None, need_dx=True):
            self.weight.grad[0, 0, 0, 0] += 1e-7 * np.abs(dy).max()
            return super().backward(dy, x, y, into, need_dx)

    spoil(parts["conv"], Wrong)
    report = check_gradients(net, draw(2, 32, 32, 3))
    assert not report.ok
    units = {c.tensor for c in report.failures()} - {"all", "all (evaluation)"}
    assert units == {"4c.b3.conv.weight", "4c.b3.conv.weight (evaluation)"}


def test_wrong_wiring_is_told_from_a_wrong_unit():
    class Leaky(Residual):
        def backward(self, dy, x, kept, into=None, need_dx=True):
            return super().backward(dy, x, kept, into, need_dx) + 1e-9 * dy

    rng = np.random.default_rng(0)
    net = Sequential(
        a=ConvReLU(4, 16, 3, rng=rng),
        b=Leaky(Sequential(ConvBNReLU(16, 16, 3, rng=rng), Conv2D(16, 16, 1, rng=rng))),
        c=Conv2D(16, 4, 1, rng=rng),
    )
    report = check_gradients(net, draw(2, 6, 5, 4))
    assert not report.ok
    assert {c.tensor for c in report.failures()} <= {"all", "x", "all (evaluation)"}
    assert len(report.problems) == 2 and all("joins" in text for text in report.problems)


def test_a_network_of_ones_own_and_a_layer_used_twice_are_checked_unit_by_unit():
    class Own(Layer):
        """body, then the same body again, by hand; no out_shape, no out=."""

        def __init__(self, body):
            self.body = body

        def forward(self, x, mode):
            h, first = self.body.forward(x, mode)
            y, second = self.body.forward(h, mode)
            return y, [first, h, second]

        def backward(self, dy, x, kept):
            first, h, second = kept
            return self.body.backward(self.body.backward(dy, h, second), x, first)

    class Wrapped(Own):
        def forward(self, x, mode):
            return self.body.forward(x, mode)

        def backward(self, dy, x, cache):
            return self.body.backward(dy, x, cache)

    rng = np.random.default_rng(0)
    body = Sequential(a=ConvBNReLU(12, 16, 3, rng=rng), b=Conv2D(16, 12, (1, 3), rng=rng))
    for net in (Own(body), Wrapped(body), Wrapped(Own(body))):
        report = check_gradients(net, draw(2, 6, 5, 12))
        assert report.ok, report
        assert sum(c.tensor.endswith("a dx") for c in report.checks) >= (2 if type(net) is Own else 1)
        assert report.decisions > 0
    spoil(body.layers["b"], Scaled)
    report = check_gradients(Wrapped(Own(body)), draw(2, 6, 5, 12))
    assert {c.tensor for c in report.failures()} >= {"body.body.b dx"}
    assert not any(".a" in c.tensor for c in report.failures())


@pytest.mark.parametrize("train", [True, False])
def test_a_network_with_heads_passes(train):
    net = create_model("inception_v1_cifar", width=1 / 16)
    y, _ = net.forward(draw(2, 32, 32, 3).astype(np.float32), Mode(train=train, rng=np.random.default_rng(0)))
    assert isinstance(y, tuple) == train
    report = check_gradients(net, draw(2, 32, 32, 3), mode=Mode(train=train, keep=True))
    assert report.ok, report
    assert report.name == "inception_v1_cifar" and report.decisions > 100_000
    tensors = {c.tensor for c in report.checks}
    assert train == any(t.startswith("aux_4a.") for t in tensors)
    assert train or {f"{name}" for name in named_params(net) if not name.startswith("aux")} <= tensors


# -- what others miss ----------------------------------------------------------------------------------------------


def test_ones_as_cotangent_hide_batch_norm():
    bad = spoil(BatchNorm(3), NoLastTerm)
    x = draw(2, 5, 4, 3)
    assert check_gradients(bad, x, method="ones").ok
    assert check_gradients(bad, x, method="minitorch").ok
    assert not check_gradients(bad, x).ok


@pytest.mark.parametrize("policy", ["torch-slow", "torch-fast", "minitorch", "ones"])
def test_loose_tolerances_hide_a_factor_of_1_0001(policy):
    bad = spoil(Conv2D(2, 3, (3, 2), rng=np.random.default_rng(0)), Scaled)
    x = draw(2, 4, 3, 2)
    assert check_gradients(bad, x, method=policy).ok
    assert not check_gradients(bad, x).ok


# -- kinks ---------------------------------------------------------------------------------------------------------


def test_margin_is_the_distance_to_the_nearest_kink():
    x = draw(2, 4, 3, 2)
    assert margin(ReLU(), x) == np.abs(x).min()
    assert margin(LRN(3), x) == float("inf")
    windows = x.reshape(2, 2, 2, 3, 1, 2).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 2)
    lead = np.sort(windows, 1)[:, -1] - np.sort(windows, 1)[:, -2]
    assert margin(MaxPool2D((2, 1)), x) == pytest.approx(lead.min(), rel=1e-12)
    rng = np.random.default_rng(0)
    unit = ConvBNReLU(2, 3, 3, rng=rng)
    y, _ = Sequential(unit.conv, unit.bn).forward(x.astype(np.float32), Mode(train=True))
    assert margin(unit, x) == pytest.approx(np.abs(y).min(), rel=0.05)
    conv = ConvReLU(2, 3, 3, rng=rng)
    z, _ = Conv2D.forward(conv, x.astype(np.float32), Mode())
    assert margin(conv, x) <= np.abs(z).min() * 1.01


def test_a_layer_of_ones_own_tells_its_kinks():
    class Hinge(Layer):
        def forward(self, x, mode):
            return (1 - x) * (x.real < 1), None

        def backward(self, dy, x, cache):
            return -dy * (x.real < 1)

        def kinks(self, x, cache):
            return x.real < 1, np.abs(1 - x.real)

    x = draw(3, 4)
    assert margin(Hinge(), x) == np.abs(1 - x).min()
    assert check_gradients(Hinge(), x, method="richardson").decisions == 12


def test_complex_step_takes_the_branch_of_the_real_part_on_the_kink_itself():
    x = np.array([[-1.0, 0.0, 0.0, 2.0]])
    assert check_gradients(ReLU(), x).ok
    assert margin(ReLU(), x) == 0
    assert check_gradients(MaxPool2D(2), np.zeros((1, 4, 4, 1))).ok


@pytest.mark.parametrize("method", ["central", "richardson"])
def test_differences_halve_the_step_at_a_kink_then_leave_the_entry_out_and_say_so(method):
    x = np.linspace(-3, 3, 60).reshape(1, 60)
    x[0, 20] = 1e-5  # near enough for the first step, not for the last
    report = check_gradients(ReLU(), x, method=method)
    assert report.ok and not report.excluded
    x[0, 20] = 1e-12
    report = check_gradients(ReLU(), x, method=method)
    assert report.ok and len(report.excluded) == 1
    assert "x[0, 20] left out" in report.excluded[0] and "margin 1.0e-12" in report.excluded[0]
    x[0, :10] = 1e-12
    report = check_gradients(ReLU(), x, method=method)
    assert not report.ok and "lost to kinks" in str(report)


def test_jitter_keeps_ties_and_zeros():
    a = np.array([0.0, -0.0, 1.5, 1.5, -1.5, 3e-300, 1e300])
    b = _jitter(a, 1)
    assert b[0] == b[1] == 0 and b[2] == b[3] and b[2] != a[2]
    assert np.abs(b - a).max() <= 8 * 2.0**-53 * np.abs(a).max()
    assert not np.array_equal(b, _jitter(a, 2))


# -- second order --------------------------------------------------------------------------------------------------


def test_hessian_vector_product_of_a_cubic():
    class Cubic(Layer):
        def __init__(self):
            self.w = Param(np.array([2.0, 3.0]))

        def forward(self, x, mode):
            return self.w.data * x**3, None

        def backward(self, dy, x, cache):
            self.w.grad += (dy * x**3).sum(0)
            return 3 * dy * self.w.data * x**2

    layer, x, dy = Cubic(), draw(4, 2), draw(4, 2, seed=1)
    v, u = draw(4, 2, seed=2), draw(2, seed=3)
    got = hessian_vector_product(layer, x, {"x": v, "w": u}, dy=dy)
    np.testing.assert_allclose(got["x"], dy * (6 * layer.w.data * x * v + 3 * x**2 * u), rtol=1e-14)
    np.testing.assert_allclose(got["w"], (dy * 3 * x**2 * v).sum(0), rtol=1e-14)
    half = hessian_vector_product(layer, x, {"x": v}, dy=dy)
    np.testing.assert_allclose(half["x"], dy * 6 * layer.w.data * x * v, rtol=1e-14)
    with pytest.raises(ValueError, match=r"got 'w' of shape \(3,\), wanted \(2,\)"):
        hessian_vector_product(layer, x, {"w": np.zeros(3)}, dy=dy)
    with pytest.raises(ValueError, match="got 'z'"):
        hessian_vector_product(layer, x, {"z": v}, dy=dy)


def test_hessian_of_a_loss_is_symmetric_and_matches_differences_of_gradients():
    rng = np.random.default_rng(0)
    net = Sequential(ConvBNReLU(2, 4, 3, rng=rng), Conv2D(4, 3, (4, 3), pad="valid", rng=rng), reshape=_Rows())
    x, labels = draw(5, 4, 3, 2), np.arange(5) % 3

    def loss(y):
        return softmax_cross_entropy(y, labels)[1]

    assert hessian_symmetry(net, x, dy=loss) < 1e-14
    from inception_np.gradcheck.subject import Subject

    subject = Subject(net, x, Mode(train=True, keep=True))
    v = {k: draw(*a.shape, seed=3) for k, a in subject.point.items()}
    hv = hessian_vector_product(net, x, v, dy=loss)
    up, down = (subject.gradients(subject.moved(v, h), loss) for h in (1e-6, -1e-6))
    size = max(np.abs(a).max() for a in hv.values())
    for k in hv:
        np.testing.assert_allclose((up[k] - down[k]) / 2e-6, hv[k], atol=1e-6 * size)


class _Rows(Layer):
    def forward(self, x, mode):
        return x.reshape(len(x), -1), x.shape

    def backward(self, dy, x, shape):
        return dy.reshape(shape)


def test_a_backward_that_is_the_gradient_of_nothing_has_no_symmetric_hessian():
    rng = np.random.default_rng(0)
    good = Sequential(Conv2D(2, 3, 3, rng=rng), BatchNorm(3))
    bad = Sequential(Conv2D(2, 3, 3, rng=rng), spoil(BatchNorm(3), NoLastTerm))
    x = draw(2, 4, 5, 2)
    assert hessian_symmetry(good, x) < 1e-14
    assert hessian_symmetry(bad, x) > 1e-3


# -- wrong use -----------------------------------------------------------------------------------------------------


class Broken(Layer):
    """y = x, dx = dy, one thing at a time done wrong."""

    def __init__(self, how=""):
        self.how = how
        self.w = Param(np.ones(2, np.float32))
        self.state = 0.0
        self.rng = np.random.default_rng(0)
        self.extra = [Param(np.ones(1))] if how == "hidden" else None

    def forward(self, x, mode):
        how = self.how
        if how == "writes to x":
            x *= 2
        if how == "writes to w":
            self.w.data *= 2
        if how == "new w":
            self.w.data = self.w.data.copy()
        if how == "counts":
            self.state += 1
        if how == "keep":
            x = x + mode.keep
        if how == "no pair":
            return x
        if how == "nan":
            return x * np.nan, None
        if how == "int":
            return x.real.astype(int), None
        if how == "abs":
            return np.abs(x), None
        if how == "real":
            return x.real * x.real, None
        if how == "var":
            return x * np.var(x), None
        if how == "float":
            return np.array([[float(v) for v in row] for row in x]), None
        if how == "own rng":
            return x * self.rng.random(x.shape), None
        return x + self.state, None

    def backward(self, dy, x, cache):
        how = self.how
        if how == "writes to dy":
            dy *= 2
        if how == "writes to x in backward":
            x += 1
        if how == "shape":
            return dy[:1]
        if how == "grad shape":
            self.w.grad = np.zeros(3)
        if how == "none":
            return None
        if how == "abs":
            return dy * np.sign(x)
        if how == "real":
            return 2 * dy * x
        if how == "var":
            centred = x - x.mean()
            return dy * np.var(x) + 2 * centred * (dy * x).sum() / x.size
        return dy


USES = {
    "an integer x": (lambda: (Broken(), np.ones((2, 2), int)), TypeError, "pass x.astype"),
    "a complex x": (lambda: (Broken(), draw(2, 2) + 0j), TypeError, "wanted floating point"),
    "a list": (lambda: (Broken(), [[1.0, 2.0]]), TypeError, "wanted a NumPy array"),
    "NaN": (lambda: (Broken(), np.full((2, 2), np.nan)), ValueError, "NaN"),
    "nothing": (lambda: (Broken(), np.zeros((0, 2))), ValueError, "at least one"),
    "a class": (lambda: (Broken, draw(2, 2)), TypeError, "class Broken(Layer)"),
    "a function": (lambda: (np.tanh, draw(2, 2)), TypeError, "wanted a Layer"),
    "writes to x": (lambda: (Broken("writes to x"), draw(2, 2)), ValueError, "forward changed x; write to a copy"),
    "writes to w": (lambda: (Broken("writes to w"), draw(2, 2)), ValueError, "forward changed w"),
    "new w": (lambda: (Broken("new w"), draw(2, 2)), ValueError, "new array into the Param w"),
    "counts": (lambda: (Broken("counts"), draw(2, 2)), ValueError, "keep no state"),
    "keep": (lambda: (Broken("keep"), draw(2, 2)), ValueError, "for keep=False"),
    "own rng": (lambda: (Broken("own rng"), draw(2, 2)), ValueError, "draw random numbers from mode.rng"),
    "no pair": (lambda: (Broken("no pair"), draw(2, 2)), TypeError, "wanted the pair (y, cache)"),
    "nan": (lambda: (Broken("nan"), draw(2, 2)), ValueError, "NaN or infinity"),
    "int": (lambda: (Broken("int"), draw(2, 2)), TypeError, "y of int64"),
    "abs": (lambda: (Broken("abs"), draw(2, 2)), ValueError, "not complex-safe (its y is real)"),
    "real": (lambda: (Broken("real"), draw(2, 2)), ValueError, "not complex-safe (its y is real)"),
    "var": (lambda: (Broken("var"), draw(2, 2)), ValueError, "not complex-safe (its slope"),
    "float": (lambda: (Broken("float"), draw(2, 2)), ValueError, "not complex-safe"),
    "writes to dy": (lambda: (Broken("writes to dy"), draw(2, 2)), ValueError, "backward changed dy"),
    "writes to x in backward": (
        lambda: (Broken("writes to x in backward"), draw(2, 2)),
        ValueError,
        "backward changed x",
    ),
    "shape": (lambda: (Broken("shape"), draw(2, 2)), ValueError, "got dx of shape (1, 2), wanted (2, 2)"),
    "grad shape": (lambda: (Broken("grad shape"), draw(2, 2)), ValueError, "gradient of w of shape (3,), wanted (2,)"),
    "none": (lambda: (Broken("none"), draw(2, 2)), TypeError, "return dx"),
    "hidden": (lambda: (Broken("hidden"), draw(2, 2)), ValueError, "let children() return it"),
    "wrong channels": (lambda: (Conv2D(3, 2, 1), draw(2, 4, 3, 2)), ValueError, "wanted 3 channels"),
}


@pytest.mark.parametrize("use", USES)
def test_wrong_use_gets_an_error_that_says_what_to_do(use):
    make, kind, text = USES[use]
    layer, x = make()
    with pytest.raises(kind) as error:
        check_gradients(layer, x)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_method_mode_and_cotangent_are_refused():
    with pytest.raises(ValueError, match="wanted one of complex, central"):
        check_gradients(ReLU(), draw(2, 3), method="magic")
    with pytest.raises(TypeError, match="wanted a Mode"):
        check_gradients(ReLU(), draw(2, 3), mode="train")
    with pytest.raises(ValueError, match="not linear in x"):
        check_gradients(ReLU(), draw(2, 3), method="adjoint")
    with pytest.raises(ValueError, match=r"got dy of shape \(3, 2\), wanted y's \(2, 3\)"):
        hessian_vector_product(ReLU(), draw(2, 3), {"x": draw(2, 3)}, dy=draw(3, 2))


@pytest.mark.parametrize("how", ["abs", "real", "var"])
def test_a_forward_that_is_not_complex_safe_is_checked_by_richardson(how):
    assert check_gradients(Broken(how), 3 + draw(2, 2), method="richardson").problems == []
    good = check_gradients(Broken(how), 3 + draw(2, 2), method="richardson").checks[0]
    assert good.ok, good


# -- the report ----------------------------------------------------------------------------------------------------


def test_the_report_fits_a_screen_and_its_snippet_repeats_the_failure():
    bad = spoil(LRN(5, alpha=0.5), ShortWindow)
    report = check_gradients(bad, draw(2, 2, 1, 5).astype(np.float32), seed=3)
    text = str(report).splitlines()
    assert len(text) <= 24
    assert "worst: x[" in str(report)
    assert str(float(f"{report.worst.numeric:.15g}")) in str(report)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(report.snippet, {})
    again = printed.getvalue().splitlines()
    assert again[0].split(" by ")[0] == "ShortWindow: WRONG"
    worst = next(line for line in text if "worst" in line)
    assert worst in again


@pytest.mark.parametrize("name", ["elements", "network", "one row"])
def test_the_report_draws_itself(name, tmp_path):
    layer, x = {
        "elements": (spoil(BatchNorm(3), NoLastTerm), draw(2, 4, 3, 3)),
        "network": (Sequential(ConvBNReLU(8, 16, 3), Conv2D(16, 8, 3)), draw(2, 8, 7, 8)),
        "one row": (Linear(3, 2), draw(1, 3)),
    }[name]
    figure = check_gradients(layer, x).plot(tmp_path / "check.png")
    assert len(figure.axes) >= 3
    assert (tmp_path / "check.png").stat().st_size > 10_000
    verdict = "some beyond tolerance" if name == "elements" else "all within tolerance"
    assert figure.axes[0].get_title().endswith(verdict)
    labels = {text.get_text() for text in figure.axes[1].get_legend().get_texts()}
    assert any("beyond" in label for label in labels) == (name == "elements")
    for axes in figure.axes[:3]:  # decades enough that no tick is labelled 6 x 10^-1
        minor = [t.get_text() for t in axes.get_xticklabels(minor=True) + axes.get_yticklabels(minor=True)]
        assert not any(minor), minor


def test_ratio_of_nothing_is_nothing_and_of_nan_is_infinite():
    assert ratio(0, 0) == 0
    assert ratio(1e-20, 0) == np.inf
    assert ratio(np.nan, 1) == np.inf
    assert ratio(1, 2) == 0.5


def test_a_gradient_of_nan_is_wrong(own):
    _, Swish = own("return dy * (s", "return dy * np.nan * (s")
    with pytest.raises(ValueError, match=r"backward gave NaN or infinity for dx, first at \[0, 0, 0, 0\]"):
        check_gradients(Swish(3), draw(2, 4, 3, 3))


# -- the command ---------------------------------------------------------------------------------------------------


def command(*words):
    code, text = commands.command("gradcheck", *words)
    return code, json.loads(text) if "--json" in words else text


def test_the_command_checks_layers_parts_and_files(own, tmp_path):
    code, result = command("Conv2D(2, 3, (3, 2), stride=(2, 1))", "--input", "2x7x5x2", "--json")
    assert code == 0 and result["ok"] and {c["tensor"] for c in result["checks"]} == {"x", "weight", "bias"}
    assert all(c["error"] <= c["tolerance"] for c in result["checks"])
    assert command("inception_v1_cifar:3a.b3")[0] == 0
    path, _ = own()
    assert command(f"{path}:Swish(3)", "--input", "2x4x3x3")[0] == 0
    path, _ = own("return dy * (s + self.b.data * slope)", "return dy * s")
    code, text = command(f"{path}:Swish(3)", "--input", "2x4x3x3", "--plot", str(tmp_path / "wrong.png"))
    assert code == 1 and "worst: x[" in text and (tmp_path / "wrong.png").is_file()


WRONG_WORDS = [
    (("Conv3D",), "the nearest.*Conv2D"),
    (("LRN", "--method", "complexx"), "nearest is complex"),
    (("inception_v9",), "the nearest"),
    (("Conv2D(2, 3",), "wanted a network's name or a layer"),
    (("Conv2D(2, open('x'), 3)",), "no layer"),
    (("Conv2D(2, 3, 3)", "--input", "7by5"), "wanted sizes such as"),
    (("nowhere.py:Swish",), "no such file"),
    (("inception_v1_cifar:9z",), "no part"),
]


@pytest.mark.parametrize(("words", "text"), WRONG_WORDS)
def test_wrong_words_are_usage_errors(words, text):
    from inception_np.backend.errors import UsageError

    with pytest.raises(UsageError, match=text):
        command(*words)


def test_the_commands_arguments_are_cheap_to_make():
    code = "import sys; import inception_np.gradcheck.command; print('numpy' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "False"


def test_every_ready_made_layer_is_random_where_it_starts_at_zero():
    from inception_np.gradcheck.command import randomise_vectors

    layer = randomise_vectors(BatchNorm(3), 0)
    assert all(np.ptp(a.data) > 0.01 for a in [*named_params(layer).values(), *named_buffers(layer).values()])
    assert randomise is not randomise_vectors

"""Parameters, buffers, x and y of every small shape, () and nothing at all among them: right ones pass, wrong ones are
found, by every method."""

import numpy as np
import pytest

from inception_np import Buffer, Conv2D, Layer, Linear, Mode, Param, ReLU, Sequential, check_gradients
from inception_np.gradcheck.check import METHODS
from inception_np.gradcheck.kinks import margin
from inception_np.gradcheck.policies import POLICIES
from inception_np.gradcheck.second_order import hessian_symmetry, hessian_vector_product

SHAPES = [(), (1,), (1, 1)]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


class Gain(Layer):
    """y = (w + b) x with one number w, a Buffer b of the same shape, and a Param that is empty; wrong by a factor."""

    def __init__(self, shape=(), adds="in place", wrong_w=1.0, wrong_x=1.0, scalar=False):
        start = np.float32(2.5) if scalar else np.full(shape, 2.5, np.float32)
        self.w = Param(start)
        self.b = Buffer(np.full(shape, 0.5, np.float32))
        self.none = Param(np.zeros((0, 3), np.float32))
        self.adds, self.wrong_w, self.wrong_x = adds, wrong_w, wrong_x

    def forward(self, x, mode):
        return (self.w.data + self.b.data) * x, None

    def backward(self, dy, x, cache):
        dw = self.wrong_w * (dy * x).sum()
        if self.adds == "in place":
            self.w.grad += dw
        else:
            self.w.grad = self.w.grad + dw
        return self.wrong_x * dy * (self.w.data + self.b.data)


class SquaredLoss(Layer):
    """y = sum (x - w)^2 / 2, an array of shape () or the scalar that NumPy makes of it."""

    def __init__(self, scalar=True, wrong=1.0):
        self.w, self.scalar, self.wrong = Param(np.array(0.25)), scalar, wrong

    def forward(self, x, mode):
        y = ((x - self.w.data) * (x - self.w.data)).sum() / 2
        return y if self.scalar else np.asarray(y), None

    def backward(self, dy, x, cache):
        self.w.grad -= self.wrong * (dy * (x - self.w.data)).sum()
        return dy * (x - self.w.data)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("adds", ["in place", "anew"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_parameter_of_one_number_is_right_or_wrong_as_it_is(shape, adds, method):
    for x in [draw(2, 3)] + [np.array(1.5)] * (shape == ()):  # elsewhere y would have more axes than x
        report = check_gradients(Gain(shape, adds), x, method=method)
        assert report.ok, report
        assert {c.tensor for c in report.checks} == {"x", "w"}
        for wrong, tensor in (({"wrong_w": 1.0001}, "w"), ({"wrong_x": 1.0001}, "x")):
            report = check_gradients(Gain(shape, adds, **wrong), x, method=method)
            assert {c.tensor for c in report.failures()} == {tensor}, report


@pytest.mark.parametrize("method", METHODS)
def test_a_parameter_that_holds_a_numpy_scalar_is_checked_as_an_array(method):
    assert check_gradients(Gain(scalar=True), draw(2, 3), method=method).ok
    assert not check_gradients(Gain(scalar=True, wrong_w=1.0001), draw(2, 3), method=method).ok


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("adds", ["in place", "anew"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_policies_of_other_checkers_see_one_number_too(shape, adds, policy):
    x = np.linspace(0.5, 1.5, 6).reshape(2, 3)
    assert check_gradients(Gain(shape, adds), x, method=policy).ok
    for wrong in ({"wrong_w": 3.0}, {"wrong_x": 3.0}):
        assert not check_gradients(Gain(shape, adds, **wrong), x, method=policy).ok


@pytest.mark.parametrize("method", ["complex", "central", "richardson"])
@pytest.mark.parametrize("scalar", [True, False])
def test_a_loss_of_shape_nothing_is_checked(scalar, method):
    for x in (draw(3, 4), np.array(1.5)):
        assert check_gradients(SquaredLoss(scalar), x, method=method).ok
        wrong = check_gradients(SquaredLoss(scalar, wrong=1.0001), x, method=method)
        assert {c.tensor for c in wrong.failures()} == {"w"}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policies_take_a_loss_of_shape_nothing(policy):
    x = np.linspace(1, 2, 6)
    assert check_gradients(SquaredLoss(), x, method=policy).ok
    assert not check_gradients(SquaredLoss(wrong=3.0), x, method=policy).ok


@pytest.mark.parametrize("adds", ["in place", "anew"])
def test_one_number_among_many_is_found_along_directions_and_named_in_a_network(adds):
    x = draw(4, 20, 20)  # more numbers than are checked one by one
    assert check_gradients(Gain((), adds), x).ok
    report = check_gradients(Gain((), adds, wrong_w=1.0001), x)
    assert "w" in {c.tensor for c in report.failures()}
    images = draw(2, 12, 11, 8)
    for factor in (1.0, 1.0001):
        rng = np.random.default_rng(0)
        gain = Gain((), adds, wrong_w=factor)
        net = Sequential(
            a=Conv2D(8, 8, 3, rng=rng), gain=gain, relu=ReLU(), b=Conv2D(8, 4, 1, rng=rng), loss=SquaredLoss()
        )
        report = check_gradients(net, images)
        assert {c.tensor for c in report.failures()} - {"all"} == ({"gain.w"} if factor != 1 else set()), report


def test_a_layer_whose_x_is_the_scalar_that_a_loss_before_it_gave():
    net = Sequential(fc=Linear(40, 40, rng=np.random.default_rng(0)), loss=SquaredLoss(), gain=Gain(()))
    assert check_gradients(net, draw(40, 40)).ok
    net.layers["gain"].wrong_x = 1.0001
    assert "gain dx" in {c.tensor for c in check_gradients(net, draw(40, 40)).failures()}


def test_laws_second_order_margin_and_plot_take_one_number(tmp_path):
    class Assigns(Gain):
        def backward(self, dy, x, cache):
            self.w.grad = np.asarray((dy * x).sum())
            return dy * (self.w.data + self.b.data)

    assert "wanted `param.grad += ...`" in " ".join(check_gradients(Assigns(()), draw(2, 3)).problems)
    assert margin(Gain(()), draw(2, 3)) == np.inf
    assert margin(ReLU(), np.array(-0.75)) == 0.75
    for adds in ("in place", "anew"):
        assert hessian_symmetry(Gain((), adds), draw(2, 3)) < 1e-14
        assert hessian_symmetry(Gain((), adds, wrong_x=1.5), draw(2, 3)) > 1e-3
        x, dy, v = draw(2, 3), draw(2, 3, seed=1), np.array(0.5)
        product = hessian_vector_product(Gain((), adds), x, {"w": v}, dy=dy)
        np.testing.assert_allclose(product["x"], 0.5 * dy, rtol=1e-14)
        assert product["w"] == 0 and product["w"].shape == ()
    for layer in (Gain(()), Gain((), wrong_w=1.5), SquaredLoss(wrong=2.0)):
        report = check_gradients(layer, draw(2, 3))
        assert len(report.plot(tmp_path / "check.png").axes) >= 3
        assert "[]" not in str(report)


def test_a_scalar_that_moves_in_backward_is_a_buffer_like_others():
    class Moving(Gain):
        def backward(self, dy, x, cache):
            dx = super().backward(dy, x, cache)
            self.b.data = 0.9 * self.b.data + 0.1 * x.mean()
            return dx

    layer = Moving(())
    assert check_gradients(layer, draw(2, 3)).ok
    assert layer.b.data == 0.5 and isinstance(layer.b.data, np.ndarray)


def test_a_gradient_of_another_small_shape_is_refused():
    class Flat(Gain):
        def backward(self, dy, x, cache):
            self.w.grad = self.w.grad.reshape(1) + (dy * x).sum()
            return dy * (self.w.data + self.b.data)

    with pytest.raises(ValueError, match=r"gradient of w of shape \(1,\), wanted \(\)"):
        check_gradients(Flat(()), draw(2, 3), mode=Mode(train=True))

"""Branches that x does not reach: sides of decisions that are never taken, and other sizes of x."""

import json

import numpy as np
import pytest
from commands import command

from inception_np import Conv2D, ConvBNReLU, Layer, MaxPool2D, Mode, ReLU, Sequential, check_gradients
from inception_np.gradcheck import scales
from inception_np.gradcheck.kinks import decided, never_taken
from inception_np.gradcheck.subject import Subject


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


class ReLU6(Layer):
    """y = x between 0 and `limit`, 0 below and `limit` above."""

    def __init__(self, limit=6.0):
        self.limit = limit

    def forward(self, x, mode):
        return np.where(x.real > self.limit, self.limit, np.where(x.real > 0, x, 0 * x)), None

    def backward(self, dy, x, cache):
        return dy * ((x > 0) & (x < self.limit))


class NoUpperEnd(ReLU6):
    def backward(self, dy, x, cache):
        return dy * (x > 0)


class Told(ReLU6):
    """It tells its upper decision."""

    def kinks(self, x, cache):
        return x.real > self.limit, np.abs(x.real - self.limit)


class SlopeBelow(Layer):
    """Right for positive x only."""

    def forward(self, x, mode):
        return np.where(x.real > 0, x, 0.1 * x), None

    def backward(self, dy, x, cache):
        return dy


def compared(report):
    return {s.factor: s.result for s in report.scales}


def test_a_wrong_branch_beyond_x_is_found_at_a_larger_x():
    report = check_gradients(NoUpperEnd(), draw(2, 3, 4, 5))
    assert not report.ok and compared(report) == {10: "wrong"}
    assert report.worst.where.startswith("x[") and report.worst.where.endswith(" (at x times 10)")
    assert "right at x, wrong at x times 10" in str(report) and report.as_json()["scales"][0]["result"] == "wrong"
    right = check_gradients(ReLU6(), draw(2, 3, 4, 5))
    assert right.ok and compared(right) == {10: "ok", 100: "ok", 0.1: "ok"}
    assert "right at x times 10, 100, 0.1 too" in str(right)


def test_without_other_scales_it_would_be_called_right(monkeypatch):
    monkeypatch.setattr(scales, "FACTORS", (1.5,))
    assert check_gradients(NoUpperEnd(), draw(2, 3, 4, 5)).ok


def test_the_plot_shows_the_point_where_it_is_wrong():
    label, steps, central, _ = check_gradients(NoUpperEnd(), draw(2, 3, 4, 5)).sweep()
    assert label.startswith("x[") and 0.9 < central[np.argmin(abs(steps - 1e-6))] < 1.1


def test_the_other_sign_is_tried_where_x_has_one():
    x = np.abs(draw(2, 3, 4, 5))
    report = check_gradients(SlopeBelow(), x)
    assert not report.ok and compared(report)[-1] == "wrong"
    assert set(compared(check_gradients(ReLU6(), x))) == {10, 100, 0.1, -1, -10, -100, -0.1}


@pytest.mark.parametrize("channels", [4, 40])
def test_a_users_unit_in_a_network_is_compared_at_the_x_that_it_meets(channels):
    def network(unit):
        rng = np.random.default_rng(1)
        return Sequential(a=Conv2D(5, channels, 3, rng=rng), b=unit, c=Conv2D(channels, channels, 3, rng=rng))

    report = check_gradients(network(NoUpperEnd()), draw(2, 3, 4, 5))
    assert (
        not report.ok and report.worst.where.startswith("b dx") and any("b: right at x" in p for p in report.problems)
    )
    right = check_gradients(network(ReLU6()), draw(2, 3, 4, 5))
    assert right.ok and {s.path for s in right.scales} == {"b"}


def test_a_users_unit_whose_x_is_a_pair_is_left_to_the_check_of_the_whole():
    class Split(Layer):
        def forward(self, x, mode):
            return (x, 2 * x), None

        def backward(self, dy, x, cache):
            return dy[0] + 2 * dy[1]

    class Join(Layer):
        def forward(self, x, mode):
            return x[0] * x[1], None

        def backward(self, dy, x, cache):
            return dy * x[1], dy * x[0]

    class Square(Layer):
        def __init__(self):
            self.split, self.join = Split(), Join()

        def forward(self, x, mode):
            pair, _ = self.split.forward(x, mode)
            return self.join.forward(pair, mode)[0], pair

        def backward(self, dy, x, pair):
            return self.split.backward(self.join.backward(dy, pair, None), x, None)

    report = check_gradients(Square(), draw(2, 3, 4))
    assert report.ok and {s.path for s in report.scales} == {"", "split"}


def test_layers_of_this_package_are_not_compared_again():
    report = check_gradients(Sequential(ConvBNReLU(3, 4, 3), MaxPool2D(2)), draw(2, 6, 5, 3))
    assert report.ok and report.scales == [] == report.never_taken


def function(f, df):
    class Function(Layer):
        def forward(self, x, mode):
            return f(x), None

        def backward(self, dy, x, cache):
            return df(dy, x)

    return Function()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x)  # without its largest entry subtracted
    return e / e.sum(-1, keepdims=True)


def softmax_dx(dy, x):
    y = softmax(x)
    return y * (dy - (dy * y).sum(-1, keepdims=True))


RIGHT = {
    "exp of exp": (lambda x: np.exp(np.exp(x)), lambda dy, x: dy * np.exp(np.exp(x) + x), draw(2, 3, 4)),
    "sigmoid": (sigmoid, lambda dy, x: dy * sigmoid(x) * (1 - sigmoid(x)), draw(2, 3, 4)),
    "saturated": (np.tanh, lambda dy, x: dy * (1 - np.tanh(x) ** 2), draw(2, 3, 4) + 3),
    "softmax": (softmax, softmax_dx, draw(1, 3, seed=8) * 5),
    "underflow": (lambda x: np.log(sigmoid(x)), lambda dy, x: dy * (1 - sigmoid(x)), draw(1, 2, seed=5) * 5),
    "bell": (lambda x: np.exp(-x * x), lambda dy, x: -2 * x * dy * np.exp(-x * x), draw(2, 3, 4)),
    "log": (np.log, lambda dy, x: dy / x, np.abs(draw(2, 3, 4)) + 0.1),
    "arc sine": (np.arcsin, lambda dy, x: dy / np.sqrt(1 - x * x), draw(2, 3, 4).clip(-0.9, 0.9)),
    "clip": (lambda x: np.clip(x, -1, 1), lambda dy, x: dy * (abs(x) < 1), draw(2, 3, 4)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_layer_is_right_however_large_x_is(name):
    f, df, x = RIGHT[name]
    assert check_gradients(function(f, df), x).ok


@pytest.mark.parametrize(("name", "guard"), [("saturated", "SEEN"), ("underflow", "errstate")])
def test_the_guards_against_false_alarms_are_needed(name, guard, monkeypatch):
    if guard == "SEEN":
        monkeypatch.setattr(scales, "SEEN", 0.0)
    else:
        errstate = np.errstate
        monkeypatch.setattr(scales.np, "errstate", lambda **_: errstate(all="ignore"))
    f, df, x = RIGHT[name]
    assert not check_gradients(function(f, df), x).ok


def test_what_cannot_be_compared_is_noted():
    report = check_gradients(function(*RIGHT["exp of exp"][:2]), draw(2, 3, 4))
    assert report.ok and compared(report)[100] == "not compared: forward gave y with NaN or infinity"
    assert "at x times 100 not compared" in str(report)

    def small_only(x):
        if abs(x).max() > 20:
            raise IndexError("beyond the table")
        return x

    report = check_gradients(function(small_only, lambda dy, x: dy), draw(2, 3, 4))
    assert report.ok and compared(report)[10] == "not compared: beyond the table" and compared(report)[0.1] == "ok"


# -- sides that are never taken ------------------------------------------------------------------------------------


def test_a_relu_that_is_always_on_or_off_is_told():
    x = np.abs(draw(2, 3, 4, 5))
    report = check_gradients(ReLU(), x)
    assert report.ok and report.never_taken == ["the ReLU is on in all of its 120 places"]
    assert "NEVER TAKEN: the ReLU is on" in str(report) and report.as_json()["never_taken"] == report.never_taken
    unit = ConvBNReLU(5, 4, 3)
    unit.bn.beta.data[...] = -100
    report = check_gradients(Sequential(a=Conv2D(5, 5, 3), b=unit), draw(2, 3, 4, 5))
    assert report.never_taken == ["b: the ReLU is off in all of its 96 places"]
    x[0, 0, 0, 0] = -1
    assert check_gradients(ReLU(), x).never_taken == []
    assert check_gradients(ReLU(), x[1:, :1, :1]).never_taken == []  # of five, all may be alike by chance


def test_a_tap_that_wins_no_window_is_told():
    ramp = np.arange(14 * 16.0).reshape(1, 14, 16, 1) + np.zeros((2, 1, 1, 4))  # the last tap wins everywhere
    for method in ("complex", "central"):
        (text,) = check_gradients(MaxPool2D(2), ramp, method=method).never_taken
        assert text == "no window's maximum is at (0, 0), (0, 1), (1, 0) of the window"
    assert check_gradients(MaxPool2D(2), ramp[:1, :8, :8, :1]).never_taken == []  # too few windows to tell
    assert check_gradients(MaxPool2D(2), draw(2, 14, 16, 4)).never_taken == []


def test_a_tap_that_lies_beside_the_image_is_not_missed():
    layer, x = MaxPool2D(3, stride=1, pad=1), draw(30, 1, 30, 2)  # the upper and lower taps see padding alone
    subject = Subject(layer, x, Mode(train=True, keep=True))
    units = decided(subject, subject.point)[1]
    assert never_taken(units, {}) == []
    x[:] = np.arange(30.0)[:, None]  # the right one wins, but in the last window
    subject = Subject(layer, x, Mode(train=True, keep=True))
    assert never_taken(decided(subject, subject.point)[1], {}) == ["no window's maximum is at (1, 0) of the window"]


def test_a_users_decision_is_told_unless_another_scale_takes_it():
    x = draw(2, 3, 4, 5)
    assert check_gradients(Told(6.0), x).never_taken == []
    assert check_gradients(Told(6e4), x).never_taken == ["each of its 120 decisions is False"]
    assert check_gradients(Told(6.0), x, method="central").never_taken == ["each of its 120 decisions is False"]


def test_the_ready_made_layers_take_all_sides():
    from inception_np.gradcheck.command import LAYERS

    for name in LAYERS:
        found = json.loads(command("gradcheck", name, "--json")[1])
        assert found["ok"] and found["never_taken"] == found["scales"] == [], name


def test_the_scale_of_x_is_an_option(tmp_path):
    from inception_np.backend.errors import UsageError

    file = tmp_path / "own.py"
    file.write_text(
        "import numpy as np\nfrom inception_np import Layer\n\n\nclass Far(Layer):\n"
        "    def forward(self, x, mode):\n        return np.where(x.real > 6000, 6000, x), None\n\n"
        "    def backward(self, dy, x, cache):\n        return dy\n"
    )
    words = (f"{file}:Far", "--input", "2x4x3x2")
    assert command("gradcheck", *words)[0] == 0
    code, text = command("gradcheck", *words, "--scale", "5000")
    assert code == 1 and text.rstrip().endswith("Far --input 2x4x3x2 --scale 5000.0")
    norms = [json.loads(command("gradcheck", "LRN", "--scale", s, "--json")[1])["checks"][0]["numeric"] for s in "12"]
    assert norms[0] != norms[1]
    with pytest.raises(UsageError, match="--scale: got 0"):
        command("gradcheck", "LRN", "--scale", "0")

"""Both modes are checked where they differ: a fault in evaluation alone is found by default, and named."""

import json

import commands
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inception_np import (
    BatchNorm,
    Conv2D,
    ConvBNReLU,
    Dropout,
    Layer,
    Linear,
    Mode,
    Param,
    ReLU,
    Residual,
    Sequential,
    check_gradients,
    create_model,
)
from inception_np.gradcheck.check import METHODS
from inception_np.gradcheck.command import randomise_vectors
from inception_np.gradcheck.policies import POLICIES
from inception_np.models.network import Network
from inception_np.testing import LAYERS, networks

TRAINING, EVALUATION = Mode(train=True), Mode(train=False)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def spoil(layer, cls):
    layer.__class__ = cls
    return layer


class TrainingFormula(BatchNorm):
    """pytorch#3361: in evaluation too, backward takes mean and var for functions of x."""

    takes_out = False

    def backward(self, dy, x, cache):
        mean, var, rstd, _ = cache
        kept = self.mean.data.copy(), self.var.data.copy()
        dx = super().backward(dy, x, (mean, var, rstd, True))
        self.mean.data, self.var.data = kept
        return dx


class EvaluationOnly(Layer):
    """y = w x, and in evaluation alone one thing is wrong."""

    def __init__(self, how):
        self.how, self.w = how, Param(np.array([1.5, -0.5]))

    def forward(self, x, mode):
        how = "" if mode.train else self.how
        if how == "y is three times as large":
            return 3 * self.w.data * x, how
        if how == "forward raises":
            raise ValueError("EvaluationOnly: got no statistics, wanted some")
        if how == "integers":
            return (x.real > 0).astype(int), how
        if how == "no pair":
            return self.w.data * x
        if how == "another shape":
            return (self.w.data * x)[..., :1], how
        if how == "writes to x":
            x *= 1.5
        return self.w.data * x, how

    def backward(self, dy, x, how):
        if how == "dx of None":
            return None
        if how == "backward raises":
            raise ValueError("EvaluationOnly: got no cache, wanted one")
        if how == "writes to dy":
            dx = self.w.data * dy
            self.w.grad += (dy * x).reshape(-1, 2).sum(0)
            dy *= 2
            return dx
        gradient = (dy * x).reshape(-1, 2).sum(0)
        if how == "another shape":
            self.w.grad += (dy * x[..., :1]).sum() * np.array([1, 0])
            return np.concatenate([self.w.data[:1] * dy, 1e-3 * dy], -1)
        if how == "sets":
            self.w.grad = 3 * gradient
            return self.w.data * dy
        factor = 1.0001 if how == "dx" else 3.0 if how == "y is three times as large" else 1.0
        self.w.grad += (1.0001 if how == "dw" else 1.0) * gradient
        return factor * self.w.data * dy


# -- a single layer ------------------------------------------------------------------------------------------------


def test_batch_norm_that_differentiates_its_constants_is_found_by_default():
    x = draw(2, 4, 3, 3)
    right, wrong = (randomise_vectors(cls(3), 0) for cls in (BatchNorm, TrainingFormula))
    report = check_gradients(right, x)
    assert report.ok, report
    names = ["x", "gamma", "beta"]
    assert [c.tensor for c in report.checks] == [*names, *(f"{name} (evaluation)" for name in names)]
    report = check_gradients(wrong, x)
    assert {c.tensor for c in report.failures()} == {"x (evaluation)"}
    assert "in training and evaluation" in str(report) and report.as_json()["modes"] == ["training", "evaluation"]
    assert f"worst: x{list(report.worst.index)} (evaluation)  backward" in str(report)
    label, _, central, _ = report.sweep()  # the V of the entry that is wrong, in the mode in which it is
    assert label == f"x{list(report.worst.index)}" and central.min() > 1e-4


@pytest.mark.parametrize("name", ["BatchNorm", "ConvBNReLU", "SeparableConv2D", "Dropout", "networks"])
@given(data=st.data())
@settings(max_examples=8)
def test_what_is_right_in_both_modes_passes(name, data):
    case = data.draw(LAYERS[name] if name in LAYERS else networks())
    report = check_gradients(case.layer(), case.x(), seed=case.seed)
    assert report.ok, report


def test_a_mode_that_is_given_is_checked_alone():
    x, wrong = draw(2, 4, 3, 3), randomise_vectors(TrainingFormula(3), 0)
    report = check_gradients(wrong, x, mode=TRAINING)
    assert report.ok and report.modes == () and {c.tensor for c in report.checks} == {"x", "gamma", "beta"}
    report = check_gradients(wrong, x, mode=EVALUATION)
    assert {c.tensor for c in report.failures()} == {"x"} and len(report.checks) == 3


@pytest.mark.parametrize("how", ["dx", "dw", "sets"])
def test_a_backward_that_alone_depends_on_the_mode_is_found(how):
    """y is the same in both modes to the bit."""
    x = draw(2, 3, 2)
    report = check_gradients(EvaluationOnly(how), x)
    assert not report.ok
    assert {c.tensor for c in report.failures()} == {
        "x (evaluation)" if how == "dx" else "w (evaluation)"
    } or how == "sets"
    assert check_gradients(EvaluationOnly(how), x, mode=TRAINING).ok
    if how == "sets":
        assert "in evaluation: backward" in " ".join(report.problems)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_checks_both_modes(method):
    x = draw(2, 3, 2)
    assert check_gradients(EvaluationOnly("dx"), x, mode=TRAINING, method=method).ok
    report = check_gradients(EvaluationOnly("dx"), x, method=method)
    assert {c.tensor for c in report.failures()} == {"x (evaluation)"}
    assert report.worst.tensor == "x (evaluation)"
    big = draw(40, 40, 2)
    assert {c.tensor for c in check_gradients(EvaluationOnly("dw"), big, method=method).failures()} >= {
        "w (evaluation)"
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_sees_both_modes(policy):
    x = np.linspace(0.5, 1.5, 6).reshape(1, 3, 2)
    report = check_gradients(EvaluationOnly("y is three times as large"), x, method=policy)
    assert report.modes and all(c.ok for c in report.checks if "evaluation" not in c.tensor)
    assert any("evaluation" in c.tensor for c in report.failures())


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (Linear(4, 3), draw(2, 4)),
        (Conv2D(2, 3, 3), draw(2, 4, 3, 2)),
        (ReLU(), draw(3, 4)),
        (Dropout(0.0), draw(3, 4)),
        (EvaluationOnly("nothing"), draw(3, 2)),
        (Sequential(Conv2D(8, 16, 3), ReLU(), Conv2D(16, 8, 3)), draw(2, 8, 7, 8)),
    ],
)
def test_a_layer_that_is_the_same_in_both_modes_is_checked_once(layer, x):
    report = check_gradients(layer, x)
    assert report.ok and report.modes == () and not any("evaluation" in c.tensor for c in report.checks)
    assert [c.numeric for c in report.checks] == [c.numeric for c in check_gradients(layer, x, mode=TRAINING).checks]


def test_dropout_is_checked_with_its_mask_and_without():
    class Masks(Dropout):
        def backward(self, dy, x, cache, into=None, need_dx=True):
            return super().backward(dy, x, cache) * (1.0001 if cache[0] is None else 1)

    report = check_gradients(Dropout(0.5), draw(2, 5, 4))
    assert report.ok and len(report.checks) == 2
    assert 0.3 < (report.checks[0].maps[0] == 0).mean() < 0.7 and (report.checks[1].maps[0] != 0).all()
    assert {c.tensor for c in check_gradients(Masks(0.5), draw(2, 5, 4)).failures()} == {"x (evaluation)"}


def test_a_dropout_that_stays_on_in_evaluation_draws_the_same_mask_and_is_no_second_mode():
    class AlwaysOn(Dropout):
        def forward(self, x, mode, out=None):
            return super().forward(x, Mode(train=True, keep=mode.keep, rng=mode.rng), out)

    report = check_gradients(AlwaysOn(0.5), draw(2, 5, 4))
    assert report.ok and report.modes == ()


REFUSED = {
    "forward raises": "got no statistics, wanted some",
    "backward raises": "got no cache, wanted one",
    "integers": "y of int64",
    "no pair": "wanted the pair",
    "writes to x": "forward changed x",
    "writes to dy": "backward changed dy",
    "dx of None": "return dx",
}


@pytest.mark.parametrize("how", REFUSED)
def test_an_evaluation_that_cannot_be_checked_says_so_and_how_to_check_training_alone(how):
    x = draw(3, 2)
    before = x.copy()
    with pytest.raises((ValueError, TypeError)) as error:
        check_gradients(EvaluationOnly(how), x)
    text = str(error.value)
    assert text.startswith("in evaluation: EvaluationOnly: ") and REFUSED[how] in text and "\n" not in text
    assert text.endswith("; mode=Mode(train=True) checks training alone")
    assert np.array_equal(x, before)
    assert check_gradients(EvaluationOnly(how), x, mode=TRAINING).ok


def test_a_y_of_another_shape_in_evaluation_is_checked_there():
    report = check_gradients(EvaluationOnly("another shape"), draw(3, 2))
    assert {c.tensor for c in report.failures()} == {"x (evaluation)"}
    assert report.worst.index[1] == 1  # dx beside the one column that y reads


# -- networks ------------------------------------------------------------------------------------------------------


def network(width=16):
    """More numbers than are compared one by one."""
    rng = np.random.default_rng(0)
    return randomise_vectors(
        Sequential(
            stem=ConvBNReLU(3, width, 3, rng=rng),
            block=Residual(Sequential(a=ConvBNReLU(width, width, (1, 3), rng=rng), b=Conv2D(width, width, 1, rng=rng))),
            norm=BatchNorm(width),
            drop=Dropout(0.3),
            last=Conv2D(width, 4, 3, rng=rng),
        ),
        0,
    )


class WrongIn(ConvBNReLU):
    """In evaluation alone, one gradient is wrong by 1.0001, or one entry of it by as much."""

    takes_out = False
    where = "dx"

    def backward(self, dy, x, kept, into=None, need_dx=True):
        train, before = kept[0][1][3], {}
        tensors = {"weight": self.conv.weight, "gamma": self.bn.gamma, "beta": self.bn.beta}
        before = {name: p.grad.copy() for name, p in tensors.items()}
        dx = super().backward(dy, x, kept)
        if train:
            return dx
        if self.where == "dx":
            return dx * 1.0001
        grad = tensors[self.where.removesuffix("[0]")].grad
        change = 1e-4 * (grad - before[self.where.removesuffix("[0]")])
        if self.where.endswith("[0]"):
            change.ravel()[1:] = 0
        grad += change
        return dx


PATHS = {"dx": "{} dx", "weight": "{}.conv.weight", "gamma": "{}.bn.gamma", "beta": "{}.bn.beta"}


@pytest.mark.parametrize("where", [*PATHS, "weight[0]", "gamma[0]"])
def test_a_unit_that_is_wrong_in_evaluation_alone_is_named(where):
    for unit in ("stem", "block.body.a"):
        net = network()
        layer = net.layers["stem"] if unit == "stem" else net.layers["block"].body.layers["a"]
        spoil(layer, WrongIn).where = where
        x = draw(2, 9, 8, 3)
        assert check_gradients(net, x, mode=TRAINING).ok
        report = check_gradients(net, x)
        named = PATHS[where.removesuffix("[0]")].format(unit) + " (evaluation)"
        assert {c.tensor for c in report.failures()} - {"all (evaluation)"} == {named}, report


def test_a_unit_of_a_whole_network_that_is_wrong_in_evaluation_alone_is_named():
    net, x = create_model("bn_inception_cifar", width=1 / 16), draw(2, 32, 32, 3)
    unit = net.trunk.layers["3b"].branches["b3"].layers["conv"]
    assert type(unit) is ConvBNReLU
    spoil(unit, WrongIn).where = "gamma"
    report = check_gradients(net, x)
    assert {c.tensor for c in report.failures()} - {"all (evaluation)"} == {"3b.b3.conv.bn.gamma (evaluation)"}


def test_wiring_that_is_wrong_in_evaluation_alone_is_found():
    class Leaks(Residual):
        def forward(self, x, mode, out=None):
            y, kept = super().forward(x, mode, out)
            return y, [*kept, mode.train] if mode.keep else []

        def backward(self, dy, x, kept, into=None, need_dx=True):
            leak = 0 if kept.pop() else 1e-8
            return super().backward(dy, x, kept, into, need_dx) + leak * dy

    net = network()
    spoil(net.layers["block"], Leaks)
    x = draw(2, 9, 8, 3)
    assert check_gradients(net, x, mode=TRAINING).ok
    report = check_gradients(net, x)
    assert {c.tensor for c in report.failures()} == {"all (evaluation)"}
    assert report.problems == [
        "in evaluation: every unit is right by itself: look at how backward joins what they give"
    ]


class VarianceInEvaluation(Layer):
    """y = x var(x) in evaluation, 2 x in training. np.var of complex numbers is real: the complex step does not see
    that it depends on x, nor does this backward."""

    def forward(self, x, mode):
        factor = 2.0 if mode.train else np.var(x)
        return factor * x, factor

    def backward(self, dy, x, factor):
        return factor * dy


def test_an_evaluation_that_is_not_complex_safe_is_refused_in_a_network_too():
    rng = np.random.default_rng(0)
    net = Sequential(a=Linear(40, 40, rng=rng), b=VarianceInEvaluation(), c=Linear(40, 4, rng=rng))
    for layer in (net, VarianceInEvaluation()):
        assert check_gradients(layer, draw(5, 40), mode=TRAINING).ok
        with pytest.raises(ValueError, match=r"^in evaluation: .*not complex-safe \(its slope"):
            check_gradients(layer, draw(5, 40))


def test_a_layer_that_runs_in_evaluation_alone_is_checked():
    class Wrong(Linear):
        takes_out = False

        def backward(self, dy, x, cache):
            return 1.0001 * super().backward(dy, x, cache)

    class Either(Layer):
        def __init__(self, cls):
            rng = np.random.default_rng(0)
            self.first, self.second = Linear(40, 40, rng=rng), cls(40, 40, rng=rng)
            self.before = Linear(40, 40, rng=rng)

        def forward(self, x, mode):
            h, first = self.before.forward(x, mode)
            branch = self.first if mode.train else self.second
            y, second = branch.forward(h, mode)
            return y, (first, h, second, branch)

        def backward(self, dy, x, cache):
            first, h, second, branch = cache
            return self.before.backward(branch.backward(dy, h, second), x, first)

    assert check_gradients(Either(Linear), draw(30, 40)).ok
    report = check_gradients(Either(Wrong), draw(30, 40))
    assert "second dx (evaluation)" in {c.tensor for c in report.failures()}
    assert all("(evaluation)" in c.tensor for c in report.failures())


def test_heads_that_evaluation_drops_are_checked_where_they_are():
    def heads(cls=Linear):
        rng = np.random.default_rng(0)
        trunk = Sequential(
            a=ConvBNReLU(3, 8, 3, rng=rng), b=ConvBNReLU(8, 8, 3, rng=rng), pool=_Mean(), fc=cls(8, 5, rng=rng)
        )
        return randomise_vectors(Network(trunk, {"a": Sequential(pool=_Mean(), fc=Linear(8, 5, rng=rng))}), 0)

    x = draw(3, 14, 13, 3)
    report = check_gradients(heads(), x)
    assert report.ok, report
    tensors = {c.tensor for c in report.checks}
    assert "aux_a.fc.weight" in tensors and "fc (evaluation)" in tensors
    assert not any(t.startswith("aux_a") and "evaluation" in t for t in tensors)

    class ForgetsTheBatch(Network):
        def backward(self, dy, x, kept, into=None, need_dx=True):
            dx = super().backward(dy, x, kept, into, need_dx)
            return dx if isinstance(dy, tuple) else 1.0001 * dx

    report = check_gradients(spoil(heads(), ForgetsTheBatch), x)
    assert {c.tensor for c in report.failures()} == {"all (evaluation)"}


class _Mean(Layer):
    def forward(self, x, mode):
        return x.mean((1, 2)), x.shape

    def backward(self, dy, x, shape):
        return np.broadcast_to(dy[:, None, None] / (shape[1] * shape[2]), shape).copy()


def test_the_second_mode_of_a_network_costs_less_than_half_of_the_first():
    class Counts(ConvBNReLU):
        calls = 0

        def forward(self, x, mode, out=None):
            Counts.calls += 1 + 3 * (x.dtype.kind == "c")  # a complex product is about four real ones
            return super().forward(x, mode, out)

    net, x = network(), draw(2, 9, 8, 3)
    for layer in (net.layers["stem"], net.layers["block"].body.layers["a"]):
        spoil(layer, Counts)
    assert check_gradients(net, x, mode=TRAINING).ok
    first, Counts.calls = Counts.calls, 0
    assert check_gradients(net, x).ok
    assert first < Counts.calls < 1.5 * first


# -- the command ---------------------------------------------------------------------------------------------------

OWN = """
import numpy as np
from inception_np import Layer


class Twice(Layer):
    def forward(self, x, mode):
        return 2 * x, mode.train

    def backward(self, dy, x, train):
        return 2 * dy * (1 if train else 1.0001)
"""


def command(*words):
    code, text = commands.command("gradcheck", *words)
    return code, json.loads(text)


def test_the_command_checks_both_modes_unless_one_is_asked_for(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    words = (f"{tmp_path / 'own.py'}:Twice", "--input", "2x3", "--json")
    code, report = command(*words)
    assert code == 1 and [c["tensor"] for c in report["checks"]] == ["x", "x (evaluation)"]
    assert [c["ok"] for c in report["checks"]] == [True, False]
    assert command(*words, "--train")[0] == 0
    code, report = command(*words, "--eval")
    assert code == 1 and [c["tensor"] for c in report["checks"]] == ["x"]
    for name, modes in (("BatchNorm", ["training", "evaluation"]), ("LRN", [])):
        code, report = command(name, "--json")
        assert code == 0 and report["modes"] == modes

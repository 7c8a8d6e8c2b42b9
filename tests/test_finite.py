"""Numbers that are not finite stop a run before anything of them is saved, and no command gives them as results."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_runs import SMALL, same_bits, tiny_networks, uninterrupted, weights_of

from inception_np import ConvBNReLU, ConvReLU, Dropout, GlobalAvgPool2D, Linear, Sequential
from inception_np import __main__ as cli
from inception_np.kernels.batchnorm import batch_norm_backward
from inception_np.layer import Layer, Mode, Param, named_buffers, named_params
from inception_np.models import create_model
from inception_np.training import loop, watchdog
from inception_np.training.average import MovingAverage
from inception_np.weights.checkpoint import load, save
from inception_np.weights.tensorfile import read_tensors

__all__ = ["tiny_networks", "uninterrupted"]  # fixtures

VALUES = [math.nan, math.inf, -math.inf]


def network():
    rng = np.random.default_rng(0)
    return Sequential(
        a=ConvBNReLU(3, 4, 3, rng=rng), b=ConvReLU(4, 4, 1, rng=rng), pool=GlobalAvgPool2D(), fc=Linear(4, 5, rng=rng)
    )


PATHS = {
    "a.conv.weight": "the weight of layer a.conv (Conv2D)",
    "a.bn.gamma": "the gamma of layer a.bn (BatchNorm)",
    "a.bn.mean": "the running mean of layer a.bn (BatchNorm)",
    "a.bn.var": "the running variance of layer a.bn (BatchNorm)",
    "b.bias": "the bias of layer b (ConvReLU)",
    "fc.bias": "the bias of layer fc (Linear)",
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("path", PATHS)
def test_the_first_number_that_is_not_finite_is_named_by_its_layer(path, value):
    net = network()
    assert watchdog.first_not_finite(net) is None
    named_params(net)["fc.weight"].data[2, 3] = value if path != "fc.bias" else 0
    slots = named_params(net) | named_buffers(net)
    slots[path].data.flat[1] = value
    assert watchdog.first_not_finite(net) == PATHS[path]
    assert (watchdog.first_not_finite(net, Param) == PATHS[path]) == (path in named_params(net))


def test_a_sum_tells_of_every_value_that_is_not_finite_and_of_no_other():
    good = [np.zeros(0, np.float32), np.full((3, 4), 3e38, np.float32), np.ones(5), np.float32([-3e38, 3e38])]
    assert watchdog.all_finite(good)
    for value in VALUES:
        for array in good[1:]:
            bad = array.copy()
            bad.flat[1] = value
            assert not watchdog.all_finite([*good, bad])
    assert not watchdog.all_finite([np.float32([math.inf, -math.inf])])


def passes(net):
    """A forward and a backward pass in training."""
    x, rng = np.random.default_rng(1).standard_normal((4, 6, 6, 3), np.float32), np.random.default_rng(2)

    def again():
        with np.errstate(all="ignore"):
            y, cache = net.forward(x, Mode(train=True, keep=True, rng=rng))
            net.backward(y - 1, x, cache)

    return again


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("path", PATHS)
def test_the_search_finds_every_parameter_and_running_average(path, value):
    """Also of a layer that only its parent calls, and before a ReLU that makes 0 of it."""
    net = network()
    slots = named_params(net) | named_buffers(net)
    if value == -math.inf and path == "b.bias":
        net.layers["b"].forward, b = (
            (lambda *args, **keywords: silenced(*b(*args, **keywords))),
            net.layers["b"].forward,
        )
    slots[path].data.flat[1] = value
    if path in named_buffers(net):  # training moves them away from here, but not NaN and infinity
        assert watchdog.first_bad_layer(net, lambda: None) == PATHS[path]
    assert watchdog.first_bad_layer(net, passes(net)) == PATHS[path]


def silenced(y, cache):
    """What a ReLU makes of -infinity."""
    return np.nan_to_num(y, nan=0.0, neginf=0.0), cache


class Overflow(Layer):
    """Its result, or its gradient, is beyond float32."""

    reads_x = False

    def __init__(self, where):
        self.where = where

    def forward(self, x, mode):
        return (x * np.float32(3e38) * 10 if self.where == "forward" else x), None

    def backward(self, dy, x, cache):
        return dy * np.float32(3e38) * np.float32(1e30) if self.where == "backward" else dy


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_with_finite_parameters_the_search_finds_the_layer_or_its_gradient(where):
    net = network()
    net.layers = {"a": net.layers["a"], "wild": Overflow(where), **{k: net.layers[k] for k in ("b", "pool", "fc")}}
    before = {name: array.data.copy() for name, array in named_params(net).items()}
    found = watchdog.first_bad_layer(net, passes(net))
    assert found == ("layer wild (Overflow)" if where == "forward" else "the gradient in layer wild (Overflow)")
    assert not any("forward" in vars(layer) for layer in net.layers.values())
    assert all(np.array_equal(p.data, before[name]) for name, p in named_params(net).items())


def test_a_gradient_that_only_a_parent_computes_is_found_in_the_parent(monkeypatch):
    net = network()

    def broken(*args, **keywords):
        dx = batch_norm_backward(*args, **keywords)
        net.layers["a"].bn.gamma.grad[0] = math.nan
        return dx

    monkeypatch.setattr("inception_np.layers.conv_bn_relu.batch_norm_backward", broken)
    assert watchdog.first_bad_layer(net, passes(net)) == "the gradient in layer a (ConvBNReLU)"


# In a run


def array_of(run, name):
    return run.arrays()[name]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("net/3a.b3.conv.bn.var", r"the running variance of layer 3a.b3.conv.bn \(BatchNorm\) is not finite"),
        ("net/3a.b1.bn.mean", r"the running mean of layer .*3a.b1.bn \(BatchNorm\) is not finite"),
        ("optimizer/velocity", "the optimiser's velocity is not finite"),
        ("average/0", r"a running average of the weights \(--ema\) is not finite"),
        ("average/2", r"a running average of the weights \(--ema\) is not finite"),
        ("net/fc.bias", r"the bias of layer .*fc \(Linear\) is not finite"),
    ],
)
def test_a_run_stops_in_the_step_that_made_a_number_not_finite(tmp_path, monkeypatch, name, text, value):
    """After the optimiser's step, so that no loss has seen it yet."""
    poison(monkeypatch, name, value, epoch=1, step=1)
    with pytest.raises(
        ValueError, match=rf"^train: {text} in epoch 2, step 2 \(lr .*\); the state before it is in"
    ) as e:
        loop.train(tmp_path, SMALL)
    assert str(e.value).count(str(tmp_path / "state.safetensors")) == 1 and "--lr" in str(e.value)
    for file in ("state", "state.previous", "checkpoint"):
        path = tmp_path / f"{file}.safetensors"
        assert not path.exists() or all(np.isfinite(a).all() for a in read_tensors(path)[0].values())
    monkeypatch.undo()


def poison(monkeypatch, name, value, epoch, step):
    """Put the value into the array of that name at the end of that step's update."""
    update = MovingAverage.update

    def poisoned(average):
        update(average)
        run = average.run
        if (run.epoch, run.step) == (epoch, step):
            array_of(run, name).flat[1] = value

    make = loop.Run.__init__

    def made(run, *args, **keywords):
        make(run, *args, **keywords)
        run.average.run = run

    monkeypatch.setattr(MovingAverage, "update", poisoned)
    monkeypatch.setattr(loop.Run, "__init__", made)


@pytest.mark.parametrize("name", ["net/3a.b3.conv.bn.var", "optimizer/velocity", "average/1"])
def test_nothing_that_is_not_finite_is_saved_even_if_no_step_has_seen_it(tmp_path, monkeypatch, name):
    """Where a step is not looked at, as on a GPU: every save looks, and so does the end of an epoch."""
    poison(monkeypatch, name, math.nan, epoch=0, step=2)
    monkeypatch.setattr(loop, "all_finite", lambda arrays: True)
    with pytest.raises(
        ValueError, match=r"is not finite in epoch 1, step 3 .*; nothing was saved before it: lower --lr"
    ):
        loop.train(tmp_path, SMALL)
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(ValueError, match=r"is not finite in epoch 1, step 3 .*; the state before it is in "):
        loop.train(tmp_path, SMALL, save_every=0)
    assert all(np.isfinite(a).all() for a in read_tensors(tmp_path / "state.safetensors")[0].values())


def test_a_run_that_saves_without_looking_is_noticed(tmp_path, monkeypatch):
    """The planted fault of the tests above."""
    monkeypatch.setattr(loop.Run, "check_finite", lambda *_: None)
    for name in ("net/3a.b3.conv.bn.var", "optimizer/velocity"):
        with monkeypatch.context() as planted, pytest.raises((AssertionError, pytest.fail.Exception)):
            test_a_run_stops_in_the_step_that_made_a_number_not_finite(
                tmp_path / name.replace("/", "-"), planted, name, ".*", math.nan
            )


def test_a_variance_that_overflows_while_the_loss_stays_finite_is_noticed(tmp_path):
    """Batch norm divides by it: the loss of such a step is as good as any."""
    with pytest.raises(
        ValueError, match=r"the running variance of layer .* is not finite in epoch 1, step \d"
    ) as found:
        loop.train(tmp_path, replace(SMALL, lr=1e5, clip=0.0, warm_up=0))
    assert "nothing was saved before it" in str(found.value)


def test_a_test_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    evaluate, calls = loop.evaluate, []

    def overflowing(*args, **keywords):
        calls.append(1)
        accuracy, loss, predicted = evaluate(*args, **keywords)
        return accuracy, math.nan if len(calls) == 2 else loss, predicted

    monkeypatch.setattr(loop, "evaluate", overflowing)
    with pytest.raises(
        ValueError, match="the test loss is nan although every number of the network is finite in epoch 2"
    ):
        loop.train(tmp_path, SMALL)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 1 and math.isfinite(json.loads(lines[0])["test_loss"])
    monkeypatch.undo()


def test_a_run_stopped_by_a_number_goes_on_from_its_last_good_state(tmp_path, monkeypatch, uninterrupted):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "load", loop.load)
        poison(patch, "average/0", math.inf, epoch=2, step=0)
        with pytest.raises(ValueError, match=r"is not finite in epoch 3, step 1"):
            loop.train(tmp_path, SMALL)
    loop.train(tmp_path, SMALL, resume=True)
    assert same_bits(weights_of(tmp_path), weights_of(uninterrupted[SMALL.model]))


# On the command line


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "c.safetensors"
    net = create_model("bn_inception_cifar", width=1 / 16)
    save(net, path, about={"data": "shapes10", "preprocess": PREPROCESS})
    return path


PREPROCESS = {"size": [32, 32], "resize": 32, "mean": [127.0] * 3, "std": [64.0] * 3}


def spoiled(good, path, part, value):
    """A copy of the checkpoint with a value in the first array whose path ends so. Returns that path."""
    net = load(good)
    slots = named_params(net) | named_buffers(net)
    name = next(name for name in slots if name.endswith(part))
    slots[name].data.flat[0] = value
    save(net, path, about={"data": "shapes10", "preprocess": PREPROCESS})
    return name


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("part", "called"), [("bn.var", "the running variance"), ("weight", "the weight"), ("fc.bias", "the bias")]
)
def test_eval_and_predict_name_the_checkpoint_and_its_first_number_that_is_not_finite(
    tmp_path, capsys, good, picture, part, called, value
):
    path = tmp_path / "bad.safetensors"
    name = spoiled(good, path, part, value)
    for arguments in (["eval", path, "--test-images", "20"], ["eval", path, "--json"], ["predict", path, picture]):
        assert cli.main([str(a) for a in arguments]) == 1
        output, errors = capsys.readouterr()
        layer = name.rpartition(".")[0]
        assert output == "" and errors.startswith(f"inception-np: error: {path}: {called} of layer ")
        assert f"{layer} (" in errors and errors.count("\n") == 1 and "holds NaN or infinity; " in errors


def test_eval_and_predict_say_so_where_only_the_result_is_not_finite(tmp_path, capsys, good, picture):
    """Weights of 1e38: finite, and their products are not."""
    net = load(good)
    for parameter in named_params(net).values():
        parameter.data[...] = 1e38
    path = tmp_path / "huge.safetensors"
    save(net, path, about={"data": "shapes10", "preprocess": PREPROCESS})
    for arguments, text in (
        (["eval", path, "--test-images", "20"], f"{path}: the loss is nan although all its numbers are finite"),
        (["eval", path, "--test-images", "20", "--json"], f"{path}: the loss is nan although"),
        (["predict", path, picture], f"{picture}: its probabilities are not finite although all numbers of {path} are"),
    ):
        assert cli.main([str(a) for a in arguments]) == 1
        output, errors = capsys.readouterr()
        assert output == "" and errors.startswith(f"inception-np: error: {text}") and errors.count("\n") == 1


def test_a_command_that_does_not_look_is_noticed(tmp_path, capsys, good, picture, monkeypatch):
    """The planted fault: an infinite variance gives finite logits, and a wrong number without a word."""
    monkeypatch.setattr(watchdog, "first_not_finite", lambda *_: None)
    with pytest.raises(AssertionError):
        test_eval_and_predict_name_the_checkpoint_and_its_first_number_that_is_not_finite(
            tmp_path, capsys, good, picture, "bn.var", "the running variance", math.inf
        )


def test_what_is_finite_is_measured_and_predicted(capsys, good, picture):
    assert cli.main(["eval", str(good), "--test-images", "20", "--json"]) == 0
    assert math.isfinite(json.loads(capsys.readouterr().out)["loss"])
    assert cli.main(["predict", str(good), str(picture)]) == 0


def test_dropout_has_no_numbers_to_look_at():
    assert watchdog.first_not_finite(Sequential(drop=Dropout(0.5))) is None

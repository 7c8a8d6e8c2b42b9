"""The rivals of `bench` compute the same thing, and the command says what it should."""

import json
import shutil

import commands
import numpy as np
import pytest

from inception_np import (
    LRN,
    AvgPool2D,
    Concat,
    ConvBNReLU,
    Dropout,
    Flatten,
    Linear,
    MaxPool2D,
    Mode,
    Residual,
    SeparableConv2D,
    Sequential,
    cast,
    create_model,
    named_params,
)
from inception_np.backend.errors import RefusedError, UsageError
from inception_np.layer import walk
from inception_np.runtime.bench import command as bench
from inception_np.runtime.bench import side
from inception_np.runtime.export.network import to_onnx


def zoo():
    """Every kind of layer and padding in one network, for an x of (2, 13, 12, 5)."""
    return Sequential(
        ConvBNReLU(5, 8, (3, 2), stride=2),
        Concat(a=MaxPool2D(3, stride=1, pad="same"), b=AvgPool2D(3, stride=1, pad=1, count_include_pad=True)),
        Residual(Sequential(SeparableConv2D(16, 16, 3), LRN(5, alpha=0.5)), scale=0.5),
        MaxPool2D(3, stride=2, ceil=True),
        Flatten(),
        Linear(3 * 3 * 16, 7),
    )


X = np.random.default_rng(0).standard_normal((2, 13, 12, 5)).astype(np.float32)


def pytorch():
    """(torch, to_torch), or the test is skipped."""
    torch = pytest.importorskip("torch")
    from inception_np.runtime.bench.peers import to_torch

    return torch, to_torch


def test_the_torch_twin_computes_the_same():
    torch, to_torch = pytorch()
    net = zoo()
    for train in (False, True):
        twin = to_torch(net, X.shape).train(train)
        with torch.no_grad():
            got = twin(torch.from_numpy(X).permute(0, 3, 1, 2)).numpy()
        wanted = net.forward(X, Mode(train=train))[0]
        assert np.allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["inception_v1_cifar", "inception_v3_cifar", "xception_cifar", "speednet_cifar"])
def test_the_torch_twin_of_a_network_has_its_heads(name):
    torch, to_torch = pytorch()
    net = create_model(name, width=1 / 8)
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
    twin = to_torch(net, x.shape)
    for module in twin.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        got = twin.eval()(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    assert np.allclose(got, net.forward(x, Mode())[0], rtol=1e-3, atol=1e-4)
    y = twin.train()(torch.from_numpy(x).permute(0, 3, 1, 2))
    assert (set(y[1]) if isinstance(y, tuple) else set()) == set(net.heads)


@pytest.mark.parametrize("name", ["zoo", "speednet_cifar"])
def test_the_onnx_twin_computes_the_same(name):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    net = zoo() if name == "zoo" else create_model(name, width=1 / 8)
    x = X if name == "zoo" else np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    graph = to_onnx(net, x.shape, layout="NCHW").SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"images": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    assert np.allclose(got, net.forward(x, Mode())[0], rtol=1e-4, atol=1e-5)


def calls(name, of_side, task, batch=3):
    """What a process of this side calls: (warm, call), on the same weights and images as every other side."""
    about = {"name": name, "preset": "paper", "task": task, "batch": batch, "threads": 2}
    return side.SIDES[of_side]({**about, "side": of_side})


def test_openvino_computes_the_same_in_float32():
    pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    _, ours = calls("inception_v1_cifar", "ours", "infer")
    _, theirs = calls("inception_v1_cifar", "openvino", "infer")
    wanted, got = ours(), theirs()[0]
    assert got.shape == wanted.shape and np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "task", [pytest.param("infer", marks=pytest.mark.slow), pytest.param("train", marks=pytest.mark.long)]
)
def test_the_compiled_model_computes_what_the_eager_one_does(task):
    """The logits; in training the losses of a second and a third step, which the backward pass and SGD led to."""
    pytest.importorskip("torch")
    if not shutil.which("g++"):
        pytest.skip("inductor compiles C++")
    from torch._inductor import config

    with config.patch(freezing=False):  # the side sets it: here it is put back
        (_, eager), (warm, compiled) = (calls("speednet_cifar", of_side, task) for of_side in ("torch", "inductor"))
        eager()  # a first step on either side
        warm()
        for _ in range(2):
            wanted, got = np.asarray(eager()), np.asarray(compiled())
            assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


def gradient_errors(name, seed):
    """How far float32 gradients are from float64 ones, over all parameters together: (ours, PyTorch's)."""
    torch, to_torch = pytorch()
    net = create_model(name, width=1 / 4, aux=False, seed=seed)
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((8, 32, 32, 3)), rng.standard_normal((8, 10))
    x, dy = x.astype(np.float32), dy.astype(np.float32)
    for layer in [layer for _, layer in walk(net) if isinstance(layer, Dropout)]:
        layer.rate = 0.0
    twin = to_torch(net, x.shape).train()
    ours, theirs = [], []
    for dtype, kind in ((np.float32, torch.float32), (np.float64, torch.float64)):
        cast(net, dtype)
        _, cache = net.forward(x.astype(dtype), Mode(train=True, keep=True))
        net.backward(dy.astype(dtype), x.astype(dtype), cache)
        params = named_params(net).values()
        ours.append(np.concatenate([p.grad.ravel().astype(np.float64) for p in params]))
        for p in params:
            p.grad[...] = 0
        twin.to(kind).zero_grad()
        twin(torch.from_numpy(x).permute(0, 3, 1, 2).to(kind)).backward(torch.from_numpy(dy).to(kind))
        theirs.append(
            np.concatenate([p.grad.numpy().ravel().astype(np.float64) for p in twin.parameters() if p.requires_grad])
        )
    return [np.linalg.norm(g - wide) / np.linalg.norm(wide) for g, wide in (ours, theirs)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3_cifar", "inception_resnet_v2_cifar", "xception_cifar"])
def test_float32_gradients_are_no_further_from_the_true_ones_than_pytorchs(name):
    """One rounding that flips a ReLU outweighs all others, on either side: hence the geometric mean over ten draws."""
    ours, theirs = np.log([gradient_errors(name, seed) for seed in range(10)]).mean(0)
    assert ours <= theirs


def arguments(*words):
    return commands.arguments("bench", *words)


QUICK = ("--rounds", "1", "--repeats", "3", "--seconds", "0.1", "--batch", "2")


def test_json_has_the_seconds_of_both_sides(capsys):
    pytest.importorskip("torch")
    assert bench.run(arguments("inception_v1_cifar", *QUICK, "--against", "torch", "--json")) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["against"] for row in rows] == ["torch", "torch tuned"]
    for row in rows:
        assert row["name"] == "inception_v1_cifar"
        assert (row["task"], row["batch"]) == ("train", 2)
        assert row["seconds"] > 0
        assert row["ratio"] == pytest.approx(row["seconds"] / row["against_seconds"])
        assert row["memory"] >= 0
    assert [row["best"] for row in rows] == [
        row["against_seconds"] == min(r["against_seconds"] for r in rows) for row in rows
    ]


def test_alone_it_has_no_ratio(capsys):
    assert bench.run(arguments("inception_v1_cifar", *QUICK, "--task", "infer", "--json")) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["ratio"] is None
    assert row["against"] is None
    assert bench.run(arguments("inception_v1_cifar", *QUICK, "--task", "infer")) == 0
    assert "inception_v1_cifar" in capsys.readouterr().out


def test_every_layer_has_its_row(capsys):
    assert bench.run(arguments("inception_v1_cifar", *QUICK, "--layers", "--json")) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"3a.b1", "3a.b3.conv", "3a.pool.pool"} <= {row["layer"] for row in rows}
    assert all(row["forward_seconds"] > 0 and row["ceiling_gflops"] > 0 for row in rows)
    assert all(row["samples"] >= 5 for row in rows)  # the layers run in every step: nothing is replayed
    assert any(row["backward_gflops"] for row in rows)


@pytest.mark.parametrize(
    "words",
    [
        ("no_such_network",),
        ("inception_v1_cifar", "--against", "onnxruntime"),
        ("inception_v1_cifar", "--against", "openvino"),
        ("inception_v1_cifar", "--batch", "0"),
        ("inception_v1_cifar", "--rounds", "0"),
    ],
)
def test_wrong_usage_is_refused(words):
    with pytest.raises(UsageError):
        bench.run(arguments(*words))


def test_without_a_compiler_inductor_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RefusedError, match="no-such-compiler is missing"):
        bench.run(arguments("inception_v1_cifar", *QUICK, "--against", "inductor"))

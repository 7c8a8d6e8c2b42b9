"""compile_inference against the forward pass it stands for."""

import copy
import threading

import numpy as np
import pytest
from hypothesis import given, settings

import inception_np
from inception_np import (
    LRN,
    AvgPool2D,
    BatchNorm,
    Concat,
    Conv2D,
    ConvBNReLU,
    ConvReLU,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    Linear,
    MaxPool2D,
    Mode,
    ReLU,
    Residual,
    SeparableConv2D,
    Sequential,
    cast,
    compile_inference,
    create_model,
    named_buffers,
    named_params,
)
from inception_np.backend import device as backend
from inception_np.testing import networks

fast = pytest.mark.skipif(backend.PLAIN, reason="INCEPTION_NP_PLAIN is set")


def randomised(layer, seed=0):
    rng = np.random.default_rng(seed)
    for name, b in named_buffers(layer).items():
        away = name.rpartition(".")[2] == "var"
        b.data[...] = rng.uniform(0.5, 2, b.data.shape) if away else rng.standard_normal(b.data.shape) / 4
    for p in named_params(layer).values():
        if p.data.ndim == 1:
            p.data[...] = rng.uniform(0.5, 1.5, p.data.shape) * rng.choice([-1, 1], p.data.shape)
    return layer


def assert_same(layer, shape, seed=0):
    layer = randomised(layer, seed)
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    before = x.copy()
    wanted = cast(copy.deepcopy(layer), np.float64).forward(x.astype(np.float64), Mode())[0]
    plan = compile_inference(layer, shape)
    for _ in range(2):
        y = plan(x)
        assert y.dtype == np.float32
        assert y.shape == wanted.shape
        assert np.abs(y - wanted).max() <= 2e-5 * max(np.abs(wanted).max(), 1e-3)
    assert np.array_equal(x, before)
    return plan


def block(C):
    """Everything the rewriting looks for in one block: siblings, an average before its 1x1, a lone pool, a slice."""
    return Concat(
        one=ConvBNReLU(C, 20, 1),
        three=Sequential(ConvBNReLU(C, 7, 1), ConvBNReLU(7, 24, 3)),
        five=Sequential(ConvReLU(C, 5, 1), ConvReLU(5, 9, (1, 5)), Concat(a=ReLU(), b=Conv2D(9, 3, 3))),
        average=Sequential(AvgPool2D(3, stride=1, pad="same"), ConvBNReLU(C, 6, 1)),
        counted=Sequential(AvgPool2D((3, 5), stride=1, pad="same", count_include_pad=True), Conv2D(C, 4, 1)),
        pool=MaxPool2D(3, stride=1, pad=1),
    )


LAYERS = {
    "conv": lambda: Conv2D(17, 33, (3, 2), stride=(2, 1), dilation=(1, 2)),
    "few channels": lambda: Sequential(Conv2D(17, 3, 1), ConvReLU(3, 5, 7, stride=2)),
    "conv bn": lambda: Sequential(Conv2D(17, 8, 3, bias=True), BatchNorm(8), BatchNorm(8, scale=False)),
    "bn after relu": lambda: Sequential(ConvReLU(17, 8, 3), BatchNorm(8), ReLU()),
    "block": lambda: Sequential(block(17), block(20 + 24 + 12 + 6 + 4 + 17)),
    "average, bn, relu": lambda: Sequential(AvgPool2D(3, stride=1, pad=1), Conv2D(17, 5, 1), BatchNorm(5), ReLU()),
    "average with stride": lambda: Sequential(AvgPool2D(3, stride=2), Conv2D(17, 5, 1)),
    "residual": lambda: Sequential(Residual(Sequential(ConvReLU(17, 5, 1), Conv2D(5, 17, 3)), scale=0.25), ReLU()),
    "residual in place": lambda: Sequential(
        ConvReLU(17, 12, 1),
        Residual(Sequential(ConvReLU(12, 5, 1), Conv2D(5, 12, 3)), scale=0.25),
        ReLU(),
        Residual(Conv2D(12, 12, 1)),
        Residual(Sequential(Conv2D(12, 12, 1), MaxPool2D(3, stride=2, pad=1)), ConvBNReLU(12, 12, 1, stride=2)),
    ),
    "residual of a residual": lambda: Sequential(Residual(Residual(Conv2D(17, 17, 3), scale=0.5)), Residual(ReLU())),
    "separable": lambda: Sequential(ReLU(), SeparableConv2D(17, 9, 3), BatchNorm(9), DepthwiseConv2D(9, 3, stride=2)),
    "unusual": lambda: Sequential(
        Conv2D(17, 8, 3, groups=1), DepthwiseConv2D(8, 3, multiplier=2), Conv2D(16, 8, 3, groups=4), LRN(3, beta=0.6)
    ),
    "lrn": lambda: Sequential(LRN(5, alpha=0.5), MaxPool2D(3, stride=2, ceil=True), LRN(3, alpha=0.5)),
    "head": lambda: Sequential(GlobalAvgPool2D(), Dropout(0.5), Linear(17, 11), ReLU(), Linear(11, 3)),
    "flat head": lambda: Sequential(ConvReLU(17, 2, 3), Flatten(), Linear(2 * 9 * 8, 11)),
    "nothing": lambda: Sequential(Dropout(0.5)),
    "one relu": ReLU,
    "flatten alone": Flatten,
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_plan_computes_what_forward_computes(name, batch):
    assert_same(LAYERS[name](), (batch, 9, 8, 17))


@settings(max_examples=30)
@given(networks())
def test_a_plan_of_any_tree_computes_what_forward_computes(case):
    layer = cast(case.layer(), np.float32)
    x = case.x(np.float32)
    wanted = cast(copy.deepcopy(layer), np.float64).forward(x.astype(np.float64), Mode())[0]
    y = compile_inference(layer, x.shape)(x)
    assert np.abs(y - wanted).max(initial=0) <= 1e-4 * max(np.abs(wanted).max(initial=0), 1e-2)


@pytest.mark.parametrize("name", [n for n in inception_np.list_models("*_cifar") if not n.startswith("googlenet")])
def test_a_plan_of_every_network_computes_what_forward_computes(name):
    assert_same(create_model(name, width=1 / 8), (2, 32, 32, 3))


def test_a_plan_is_a_snapshot():
    layer = randomised(Sequential(block(17), Layer_that_doubles()))
    x = np.random.default_rng(1).standard_normal((1, 9, 8, 17)).astype(np.float32)
    plan = compile_inference(layer, x.shape)
    before = plan(x)
    for p in named_params(layer).values():
        p.data += 1
    for b in named_buffers(layer).values():
        b.data += 1
    assert np.array_equal(plan(x), before)
    assert not np.array_equal(compile_inference(layer, x.shape)(x), before)


class Layer_that_doubles(Layer):
    """A user's layer, of which no kernel knows."""

    def forward(self, x, mode):
        return 2 * x, None


def test_layers_of_ones_own_run_between_the_kernels():
    assert_same(
        Sequential(Layer_that_doubles(), ConvReLU(17, 5, 3), Layer_that_doubles(), Layer_that_doubles()), (2, 9, 8, 17)
    )
    assert_same(Concat(a=Layer_that_doubles(), b=ConvReLU(17, 5, 3)), (2, 9, 8, 17))


@fast
def test_a_plan_reads_x_of_any_layout_and_keeps_no_hold_on_it():
    plan = assert_same(block(17), (2, 9, 8, 17))
    x = np.random.default_rng(1).standard_normal((2, 9, 8, 17)).astype(np.float32)
    y = plan(x)
    assert np.array_equal(plan(np.asfortranarray(x)), y)
    assert np.array_equal(plan(np.concatenate([x, x], 3)[..., 17:]), y)
    kept = y.copy()
    plan(2 * x)
    assert np.array_equal(y, kept)


@fast
def test_a_plan_may_be_called_from_several_threads():
    plan = compile_inference(randomised(block(17)), (2, 9, 8, 17))
    xs = np.random.default_rng(1).standard_normal((8, 2, 9, 8, 17)).astype(np.float32)
    wanted = [plan(x) for x in xs]
    got = [None] * len(xs)

    def work(i):
        for _ in range(20):
            got[i] = plan(xs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


@fast
def test_what_does_not_fit_is_refused():
    plan = compile_inference(Conv2D(3, 4, 3), (1, 8, 9, 3))
    with pytest.raises(ValueError, match=r"\(1, 8, 8, 3\)"):
        plan(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(TypeError, match="float64"):
        plan(np.zeros((1, 8, 9, 3)))
    with pytest.raises(ValueError, match="Conv2D"):
        compile_inference(Conv2D(3, 4, 3), (1, 8, 9, 5))


def test_float64_runs_as_it_is():
    layer = cast(randomised(block(17)), np.float64)
    x = np.random.default_rng(1).standard_normal((1, 9, 8, 17))
    y = compile_inference(layer, x.shape)(x)
    assert y.dtype == np.float64
    assert np.array_equal(y, layer.forward(x, Mode())[0])

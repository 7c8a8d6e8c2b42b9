"""Replay does to the bit what the layers do: in every network, whatever changes from step to step."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from inception_np import SGD, Layer, Mode, Param, create_model, kernels
from inception_np.backend import device as backend
from inception_np.backend import threads
from inception_np.compose import Concat, Residual, Sequential
from inception_np.kernels import batchnorm
from inception_np.layer import cast, named_buffers, places_in_vectors, vectors, walk
from inception_np.layers.activation import ELU, Dropout, ReLU
from inception_np.layers.batchnorm import BatchNorm
from inception_np.layers.conv import Conv2D, ConvReLU
from inception_np.layers.conv_bn_relu import ConvBNReLU
from inception_np.layers.depthwise import DepthwiseConv2D, SeparableConv2D
from inception_np.layers.linear import Linear
from inception_np.layers.loss import total_loss
from inception_np.layers.lrn import LRN
from inception_np.layers.pool import AdaptiveAvgPool2D, AvgPool2D, Flatten, GlobalAvgPool2D, MaxPool2D
from inception_np.runtime.bench.side import LayerByLayer
from inception_np.runtime.replay import Replay

if backend.PLAIN:
    pytest.skip("INCEPTION_NP_PLAIN is set", allow_module_level=True)

rng_of = np.random.default_rng


def steps(net, passes, shape, count=4):
    """Train for a few steps in which everything changes that may; what is left: losses, weights, averages."""
    optimiser = SGD(net, 0.05, momentum=0.9)
    norms = [layer for _, layer in walk(net) if isinstance(layer, BatchNorm)]
    losses = []
    for i in range(count):
        for k, layer in enumerate(norms):
            layer.decay = 0.5 + 0.1 * i + 0.001 * k
        x = rng_of(i).standard_normal(shape).astype(np.float32)
        y = passes.forward(x, rng_of(100 + i))
        if isinstance(passes, Replay) and passes.programs:
            x[...] = np.nan  # it was copied: the caller may reuse it
        logits = y[0] if isinstance(y, tuple) else y
        labels = rng_of(200 + i).integers(0, logits.shape[1], len(logits))
        loss, dy = total_loss(y, labels, 0.3, 0.0)
        passes.backward(dy)
        losses.append(float(loss))
        optimiser.step()
        optimiser.lr *= 0.7
    return [np.array(losses), optimiser.data.copy(), *[b.data.copy() for b in named_buffers(net).values()]]


def assert_replayed(make, shape, *, low_memory=False):
    """Replay and the layers end with the same bits, and Replay did replay."""
    plain, replayed = make(), make()
    passes = Replay(replayed, low_memory=low_memory)
    wanted, got = steps(plain, LayerByLayer(plain, low_memory=low_memory), shape), steps(replayed, passes, shape)
    for a, b in zip(got, wanted, strict=True):
        assert np.array_equal(a, b)
    assert len(passes.programs) == 2
    return passes


@pytest.mark.parametrize(
    ("name", "preset", "side"),
    [
        ("inception_v1_cifar", "paper", 32),
        ("bn_inception_cifar", "paper", 32),
        ("inception_v3_cifar", "paper", 32),
        ("inception_resnet_v2_cifar", "paper", 32),
        ("xception_cifar", "paper", 33),
        ("inception_v1", "paper", 224),
        ("inception_v1", "torchvision", 224),
        ("inception_v3", "torchvision", 299),
    ],
)
@pytest.mark.parametrize("low_memory", [False, True])
def test_a_network_replayed_ends_with_the_same_bits(name, preset, side, low_memory):
    def make():
        return create_model(name, preset=preset, width=1 / 8, num_classes=7, seed=5)

    assert_replayed(make, (2, side, side, 3), low_memory=low_memory)


class Swish(Layer):
    """A layer of one's own, with a parameter and a generator's noise."""

    def __init__(self):
        self.slope = Param(np.full(6, 1.5, np.float32))

    def forward(self, x, mode):
        gate = 1 / (1 + np.exp(-self.slope.data * x))
        noise = mode.rng.standard_normal(x.shape).astype(np.float32) if mode.rng else 0
        return (x * gate + np.float32(0.1) * noise).astype(np.float32), gate

    def backward(self, dy, x, gate):
        inner = dy * x * gate * (1 - gate)
        self.slope.grad += (inner * x).sum((0, 1, 2))
        return (dy * gate + inner * self.slope.data).astype(np.float32)


class Pair(Layer):
    """A composite of one's own, around layers that are kernels."""

    def __init__(self, rng):
        self.first, self.second = ConvBNReLU(6, 6, 3, rng=rng), Conv2D(6, 6, 1, rng=rng)

    def forward(self, x, mode):
        y, a = self.first.forward(x, mode)
        z, b = self.second.forward(y, mode)
        return z + x, (y, a, b)

    def backward(self, dy, x, cache):
        y, a, b = cache
        return self.first.backward(self.second.backward(dy, y, b), x, a) + dy


def everything():
    """A layer of every kind, kernels or not, in every combination of layers."""
    rng = rng_of(8)
    return Sequential(
        images=DepthwiseConv2D(3, 3, multiplier=2, rng=rng),
        join=Concat(
            a=Sequential(conv=Conv2D(6, 2, 3, rng=rng), elu=ELU()),
            b=Conv2D(6, 4, (1, 3), groups=2, rng=rng),
            c=Sequential(pool=AvgPool2D(3, stride=1, pad="same"), own=Swish()),
            d=Dropout(0.3),
        ),
        norm=BatchNorm(18),
        lrn=LRN(3, alpha=0.5),
        odd=LRN(3, alpha=0.5, beta=0.6),
        mix=ConvBNReLU(18, 6, 1, rng=rng),
        sum=Residual(SeparableConv2D(6, 6, 3, rng=rng), Swish(), scale=0.5),
        own=Pair(rng),
        relu=ReLU(),
        wide=DepthwiseConv2D(6, 3, stride=2, bias=True, rng=rng),
        few=Conv2D(6, 9, 1, rng=rng),
        several=DepthwiseConv2D(9, 3, multiplier=2, rng=rng),
        less=ConvReLU(18, 6, 1, rng=rng),
        pool=MaxPool2D(3, stride=2, pad=1),
        side=Concat(x=GlobalAvgPool2D(), y=Sequential(grid=AdaptiveAvgPool2D(2), flat=Flatten())),
        drop=Dropout(0.2),
        classes=Linear(30, 5, rng=rng),
    )


@pytest.mark.parametrize("low_memory", [False, True])
def test_layers_that_are_no_kernels_run_in_their_places(low_memory):
    assert_replayed(everything, (3, 9, 11, 3), low_memory=low_memory)


def small(rng=None):
    rng = rng or rng_of(3)
    return Sequential(
        conv=ConvBNReLU(3, 8, 3, rng=rng),
        turn=DepthwiseConv2D(8, 3, rng=rng),
        relu=ConvReLU(8, 6, 1, rng=rng),
        norm=BatchNorm(6),
        drop=Dropout(0.4),
        pool=GlobalAvgPool2D(),
        classes=Linear(6, 4, rng=rng),
    )


class OwnDropout(Dropout):
    """A layer of one's own, whose backward might write anywhere."""

    def forward(self, x, mode):
        return super().forward(x, mode)

    def backward(self, dy, x, cache):
        return super().backward(dy, x, cache)


@pytest.mark.parametrize("dropout, early", [(Dropout, True), (OwnDropout, False)])
def test_a_part_of_the_gradient_is_final_before_backward_ends_and_dropout_holds_none_up(dropout, early):
    net = Sequential(a=Linear(6, 5), drop=dropout(0.5), b=Linear(5, 4), c=Linear(4, 3))
    gradient, places = vectors(net)[1], places_in_vectors(net)
    b, c = slice(places["b.weight"].start, places["b.bias"].stop), slice(places["c.weight"].start, None)
    seen = []
    passes = Replay(net, parts=[gradient[c], gradient[: b.stop]], final=lambda k: seen.append((k, gradient.copy())))
    x, dy = (np.random.default_rng(0).standard_normal((3, 3, size), dtype=np.float32) for size in (6, 3))
    for step in range(3):
        seen.clear()
        gradient[...] = 0
        passes.forward(x[step], np.random.default_rng(step))
        passes.backward(dy[step])
        (first, then), (second, last) = seen
        assert (first, second) == (0, 1) and np.array_equal(last, gradient)
        assert np.array_equal(then[c], gradient[c]) and gradient[c].any() and gradient[b].any()
        if step:  # the first step is written down
            assert (not then[b].any()) == early


def test_another_shape_number_of_threads_or_array_is_written_down_anew():
    nets = small(), small()
    both = LayerByLayer(nets[0]), Replay(nets[1])
    before = threads.num_threads()

    def agree(shape):
        for a, b in zip(*[steps(net, passes, shape, 3) for net, passes in zip(nets, both, strict=True)], strict=True):
            assert np.array_equal(a, b)
        return both[1].programs[0]

    try:
        first = agree((2, 8, 9, 3))
        assert agree((2, 8, 9, 3)) is first
        second = agree((3, 9, 8, 3))
        assert second is not first
        threads.set_num_threads(before + 1)
        third = agree((3, 9, 8, 3))
        assert third is not second
        for net in nets:
            net.layers["relu"].weight.data = net.layers["relu"].weight.data * 2
        assert agree((3, 9, 8, 3)) is not third
    finally:
        threads.set_num_threads(before)


def test_a_forward_without_backward_is_forgotten_and_a_backward_without_forward_refused():
    nets = small(), small()
    both = LayerByLayer(nets[0]), Replay(nets[1])
    dy = rng_of(1).standard_normal((2, 4)).astype(np.float32)
    for i in range(6):
        for passes in both:
            for k in range(1 + i % 3):
                passes.forward(rng_of(10 * i + k).standard_normal((2, 8, 9, 3)).astype(np.float32), rng_of(k))
            passes.backward(dy)
        for a, b in zip(*[[p.grad for _, p in walk(net) if isinstance(p, Param)] for net in nets], strict=True):
            assert np.array_equal(a, b)
        with pytest.raises(ValueError, match="Replay: got an empty cache"):
            both[1].backward(dy)


def test_a_gradient_unlike_y_is_refused_and_changes_nothing():
    net = small()
    passes = Replay(net)
    x = rng_of(0).standard_normal((2, 8, 9, 3)).astype(np.float32)
    grads = [p.grad for _, p in walk(net) if isinstance(p, Param)]
    for _ in range(3):
        y = passes.forward(x, rng_of(0))
        before = [g.copy() for g in grads]
        for wrong, error in (
            (y[:1], ValueError),
            (y[0], ValueError),
            (y.astype(np.complex128), TypeError),
            (np.ones(y.shape, int), TypeError),
            (y.tolist(), TypeError),
            ((y, {}), TypeError),
            (None, TypeError),
        ):
            with pytest.raises(error, match="Replay: got"):
                passes.backward(wrong)
        assert all(np.array_equal(a, b) for a, b in zip(grads, before, strict=True))
        passes.backward(y)
        assert any(not np.array_equal(a, b) for a, b in zip(grads, before, strict=True))


class Moody(Layer):
    fails = False

    def forward(self, x, mode):
        if self.fails:
            raise ValueError("not today")
        return x * 2, None

    def backward(self, dy, x, cache):
        return dy * 2


@pytest.mark.parametrize("written", [0, 2])
def test_an_error_on_the_way_is_raised_and_the_next_step_is_whole(written):
    def make():
        return Sequential(conv=Conv2D(3, 4, 3, rng=rng_of(0)), mood=Moody(), pool=GlobalAvgPool2D())

    net, other = make(), make()
    passes = Replay(net)
    x, dy = rng_of(0).standard_normal((2, 6, 5, 3)).astype(np.float32), np.ones((2, 4), np.float32)
    for _ in range(written):
        passes.forward(x)
        passes.backward(dy)
    net.layers["mood"].fails = True
    with pytest.raises(ValueError, match="not today"):
        passes.forward(x)
    with pytest.raises(ValueError, match="empty cache"):
        passes.backward(dy)
    net.layers["mood"].fails = False
    passes.forward(x)
    passes.backward(dy)
    y, cache = other.forward(x, Mode(train=True, keep=True))
    for _ in range(written + 1):
        y, cache = other.forward(x, Mode(train=True, keep=True))
        other.backward(dy, x, cache)
    assert np.array_equal(net.layers["conv"].weight.grad, other.layers["conv"].weight.grad)
    assert np.array_equal(passes.forward(x), y)


def test_what_no_kernel_takes_goes_through_the_layers():
    for net, x in (
        (cast(small(), "float64"), np.ones((2, 8, 9, 3))),
        (Pair(rng_of(0)), np.ones((2, 8, 9, 6), np.float32)),
    ):
        passes = Replay(net)
        for _ in range(2):
            y = passes.forward(x, rng_of(0))
            assert np.array_equal(y, net.forward(x, Mode(train=True, keep=True, rng=rng_of(0)))[0])
            passes.backward(y)
            assert passes.programs == []


def test_replays_take_no_memory_and_give_all_back_at_the_end():
    net = small()
    passes = Replay(net)
    x, dy = np.ones((64, 40, 40, 3), np.float32), np.ones((64, 4), np.float32)
    for _ in range(2):
        passes.forward(x, rng_of(0))
        passes.backward(dy)
    source = passes.capture.source
    held = source.used, source.high
    for _ in range(3):
        passes.forward(x, rng_of(0))
        passes.backward(dy)
    assert (source.used, source.high) == held
    alive = weakref.ref(source)
    gc.disable()  # at once, not when somebody looks for cycles
    try:
        del passes, source
        assert alive() is None
    finally:
        gc.enable()


def chooses_a_kernel(source):
    """Does a file ask whether compiled kernels apply, or call them? Then Replay would not hear of the answer."""
    return any(word in source for word in ("compiled(", "PLAIN", "from .cpu", "from .cuda"))


def test_only_dispatch_chooses_a_kernel():
    files = sorted(Path(kernels.__file__).parent.glob("*.py"))
    assert [f.name for f in files if chooses_a_kernel(f.read_text())] == ["dispatch.py"]
    assert chooses_a_kernel("def f(x):\n    from .cpu import conv\n")


def numpy_roots(var, eps):
    return ((var + np.float32(eps)) ** -0.5).astype(np.float32)


def decay_of_the_moment(mean, var, averages, move=batchnorm.move_running_averages):
    move(mean, var, (*averages[:2], averages[2].copy()))


def masked_by_numpy(dy, y):
    return np.where(y > 0, dy, np.float32(0))


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (batchnorm, "reciprocal_deviation", numpy_roots),
        (batchnorm, "move_running_averages", decay_of_the_moment),
        ("inception_np.layers.conv", "relu_dx", masked_by_numpy),
        ("inception_np.runtime.replay", "all_kernels", lambda layer: not isinstance(layer, (Sequential, Swish))),
    ],
    ids=["a root by NumPy", "a decay that stays", "a mask by NumPy", "a mask that stays"],
)
def test_a_planted_fault_is_caught(monkeypatch, where, name, fault):
    """What NumPy does while a step is written down is not done again."""
    if isinstance(where, str):
        monkeypatch.setattr(f"{where}.{name}", fault)
    else:
        monkeypatch.setattr(where, name, fault)
    with pytest.raises(AssertionError):
        assert_replayed(small, (2, 8, 9, 3))

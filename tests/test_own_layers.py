"""Layers of a user's own between ours: every way to run a network gives what the layers give, or says what is wrong.

The ways are the layers' own passes, Replay, compile_inference, and a training run's evaluation. A user's layer may
return float64, inherit from one of ours with another forward, or break a promise that it has inherited.
"""

import copy

import numpy as np
import pytest

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
    Param,
    ReLU,
    Replay,
    Residual,
    Sequential,
    check_gradients,
    compile_inference,
    create_model,
    named_params,
)
from inception_np.backend import device as backend
from inception_np.layer import cast, named_buffers, of_kind
from inception_np.layers.pool import AdaptiveAvgPool2D
from inception_np.models.network import Network
from inception_np.training.loop import evaluate

fast = pytest.mark.skipif(backend.PLAIN, reason="INCEPTION_NP_PLAIN is set")
SHAPE = (3, 7, 6, 3)
rng_of = np.random.default_rng


class Leaky(Layer):
    """y = x where x > 0, else x / 10. NumPy makes the slopes float64, and with them y, dx or both."""

    forward_wide, backward_wide = True, True

    def forward(self, x, mode):
        slope = np.where(x > 0, 1.0, 0.1)
        return (x * slope).astype(np.float64 if self.forward_wide else x.dtype), slope

    def backward(self, dy, x, slope):
        return (dy * slope).astype(np.float64 if self.backward_wide else dy.dtype)


class LeakyForward(Leaky):
    backward_wide = False


class LeakyBackward(Leaky):
    forward_wide = False


def around(own, channels):
    """Places for a layer of one's own: before and after every kind of layer of ours, in every combination."""
    C = channels
    return {
        "between convolutions": Sequential(Conv2D(C, 5, 3), own, Conv2D(5, 4, 1), GlobalAvgPool2D()),
        "before ConvBNReLU": Sequential(ConvBNReLU(C, 5, 3), own, ConvBNReLU(5, 4, 3), own, GlobalAvgPool2D()),
        "before max pooling": Sequential(ConvReLU(C, 4, 3), own, MaxPool2D(2), own, Flatten()),
        "before average pooling": Sequential(Conv2D(C, 4, 3), own, AvgPool2D(3, stride=1, pad=1), own, Flatten()),
        "before LRN": Sequential(Conv2D(C, 4, 3), own, LRN(3, alpha=0.5), own, GlobalAvgPool2D()),
        "before batch norm": Sequential(Conv2D(C, 4, 3), own, BatchNorm(4), own, ReLU(), GlobalAvgPool2D()),
        "before depthwise": Sequential(Conv2D(C, 4, 3), own, DepthwiseConv2D(4, 3), own, GlobalAvgPool2D()),
        "before several filters": Sequential(Conv2D(C, 9, 3), own, DepthwiseConv2D(9, 3, multiplier=2), Flatten()),
        "before groups": Sequential(Conv2D(C, 4, 3), own, Conv2D(4, 6, 3, groups=2), own, GlobalAvgPool2D()),
        "before dropout": Sequential(Conv2D(C, 4, 3), own, Dropout(0.3), own, GlobalAvgPool2D(), own, Linear(4, 4)),
        "first": Sequential(own, Conv2D(C, 4, 3), GlobalAvgPool2D()),
        "last": Sequential(Conv2D(C, 4, 3), GlobalAvgPool2D(), own),
        "in a body": Sequential(Conv2D(C, 4, 3), Residual(Sequential(Conv2D(4, 4, 3), own), scale=0.5), Flatten()),
        "as a shortcut": Sequential(Conv2D(C, 4, 3), Residual(Conv2D(4, 4, 3), own), GlobalAvgPool2D()),
        "first branch": Sequential(Conv2D(C, 4, 3), Concat(a=own, b=Conv2D(4, 3, 3)), GlobalAvgPool2D()),
        "last branch": Sequential(Conv2D(C, 4, 3), Concat(a=Conv2D(4, 3, 3), b=own), MaxPool2D(3), Flatten()),
        "all branches": Sequential(Conv2D(C, 4, 3), Concat(a=own, b=Sequential(own, own)), GlobalAvgPool2D()),
        "a network": Network(
            Sequential(stem=Conv2D(C, 4, 3), own=own, more=ConvReLU(4, 5, 3), pool=GlobalAvgPool2D()),
            {"own": Sequential(own, GlobalAvgPool2D())},
        ),
    }


PLACES = list(around(ReLU(), 3))


def randomised(net, seed=0):
    for i, p in enumerate(named_params(net).values()):
        p.data[...] = rng_of([seed, i]).standard_normal(p.data.shape) / np.sqrt(p.data[..., 0].size + 1)
    for i, b in enumerate(named_buffers(net).values()):
        b.data[...] = rng_of([seed, i, 1]).uniform(0.5, 2, b.data.shape)
    return net


def random_like(y, seed):
    if isinstance(y, tuple):
        return random_like(y[0], seed), {k: random_like(v, seed + 1) for k, v in y[1].items()}
    return rng_of([seed, 7]).standard_normal(y.shape).astype(np.float32)


def three_steps(net, forward, backward, dy_dtype=np.float32):
    """Outputs and gradients of three steps on three batches, as the layers or another way gives them."""
    found = []
    for i in range(3):
        x = rng_of([i, 3]).standard_normal(SHAPE).astype(np.float32)
        y = forward(x, rng_of(i))
        dy = random_like(y, i)
        dy = tuple(dy) if isinstance(dy, tuple) else dy.astype(dy_dtype)
        for p in named_params(net).values():
            p.grad[...] = 0
        backward(dy)
        found += [y[0] if isinstance(y, tuple) else y, *[p.grad.copy() for p in named_params(net).values()]]
    return found


def by_layers(net, **options):
    kept = []

    def forward(x, rng):
        y, cache = net.forward(x, Mode(train=True, keep=True, rng=rng))
        kept[:] = x, cache
        return y

    return three_steps(net, forward, lambda dy: net.backward(dy, *kept), **options)


def by_replay(net, **options):
    passes = Replay(net)
    return three_steps(net, passes.forward, passes.backward, **options)


def assert_every_way_agrees(make):
    """Replay to the bit; compile_inference, whose sums run in another order, to float32's rounding."""
    wanted, got = by_layers(make()), by_replay(make())
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype == np.float32
        assert np.array_equal(a, b)
    assert all(np.any(g) for g in wanted)
    net = make()
    x = rng_of(5).standard_normal(SHAPE).astype(np.float32)
    y = net.forward(x, Mode())[0]
    planned = compile_inference(net, SHAPE)(x)
    assert planned.dtype == np.float32
    np.testing.assert_allclose(planned, y, rtol=0, atol=2e-5 * np.abs(y).max())
    exact = cast(copy.deepcopy(net), np.float64).forward(x.astype(np.float64), Mode())[0]
    np.testing.assert_allclose(y, exact, rtol=0, atol=2e-5 * np.abs(y).max())


# ---- float64 from a layer of one's own


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("own", [Leaky, LeakyForward, LeakyBackward])
def test_a_layer_that_gives_float64_trains_as_its_float32_twin(own, place):
    class Narrow(Leaky):
        forward_wide, backward_wide = False, False

    assert_every_way_agrees(lambda: randomised(around(own(), 3)[place]))
    wide, narrow = (by_layers(randomised(around(kind(), 3)[place])) for kind in (own, Narrow))
    for a, b in zip(wide, narrow, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))


@fast
def test_numpy_inside_a_layer_that_is_taken_for_kernels_is_noticed(monkeypatch):
    """Whatever falls back to NumPy while a step is written down: the step is not replayed, and stays right."""

    class Secret(Layer):
        takes_out = True

        def forward(self, x, mode, out=None):
            y = ReLU().forward(x.astype(np.float64), mode)[0].astype(np.float32)  # one kernel that has to fall back
            return (y if out is None else np.copyto(out, y) or out), y

        def backward(self, dy, x, y, into=None, need_dx=True):
            dx = ReLU().backward(dy.astype(np.float64), x, y.astype(np.float64)).astype(np.float32)
            if into is None:
                return dx if need_dx else None
            into += dx
            return into

    monkeypatch.setattr("inception_np.runtime.replay.all_kernels", lambda layer: not of_kind(layer, Sequential))
    for place in ("between convolutions", "before max pooling", "last"):
        wanted, got = (way(randomised(around(Secret(), 3)[place])) for way in (by_layers, by_replay))
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
    monkeypatch.setattr(
        "inception_np.backend.program.Capture.falls_back", lambda self, what: None
    )  # planted: nobody is told
    wanted, got = (way(randomised(around(Secret(), 3)["last"])) for way in (by_layers, by_replay))
    assert not all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


@fast
def test_two_forwards_before_a_backward_are_right_where_numpy_has_a_part(monkeypatch):
    net = randomised(Sequential(Conv2D(3, 4, 3), Conv2D(4, 6, 3, groups=2)))
    monkeypatch.setattr("inception_np.runtime.replay.all_kernels", lambda layer: not of_kind(layer, Sequential))
    passes = Replay(net)
    for i in range(3):
        x = rng_of(i).standard_normal(SHAPE).astype(np.float32)
        assert np.array_equal(passes.forward(x), net.forward(x, Mode(train=True))[0])


# ---- dy and x of other dtypes

OURS = {
    "Conv2D": lambda: Conv2D(3, 4, 3),
    "groups": lambda: Conv2D(3, 6, 3, groups=3),
    "ConvReLU": lambda: ConvReLU(3, 4, 3),
    "ConvBNReLU": lambda: ConvBNReLU(3, 4, 3),
    "DepthwiseConv2D": lambda: DepthwiseConv2D(3, 3),
    "BatchNorm": lambda: BatchNorm(3),
    "LRN": lambda: LRN(3, alpha=0.5),
    "ReLU": ReLU,
    "Dropout": lambda: Dropout(0.4),
    "MaxPool2D": lambda: MaxPool2D(2),
    "AvgPool2D": lambda: AvgPool2D(2),
    "AdaptiveAvgPool2D": lambda: AdaptiveAvgPool2D(2),
    "GlobalAvgPool2D": GlobalAvgPool2D,
    "Flatten": Flatten,
    "Linear": lambda: Sequential(Flatten(), Linear(126, 5)),
    "Sequential": lambda: Sequential(ReLU(), Conv2D(3, 4, 3)),
    "Concat": lambda: Concat(a=ReLU(), b=MaxPool2D(3, stride=1, pad=1)),
    "Residual": lambda: Residual(Conv2D(3, 3, 3), scale=0.3),
    "Residual of nothing else": lambda: Residual(ReLU(), scale=0.3),
    "Network": lambda: Network(Sequential(a=Conv2D(3, 4, 3), b=GlobalAvgPool2D()), {"a": GlobalAvgPool2D()}),
}
OTHERS = ["float16", "float64", "longdouble", ">f4", ">f8"]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("name", OURS)
def test_a_dy_of_another_float_gives_the_gradients_of_its_float32(name, dtype, train):
    net = randomised(OURS[name]())
    x = rng_of(1).standard_normal(SHAPE).astype(np.float32)
    found = []
    for wide in (False, True):
        y, cache = net.forward(x, Mode(train=train, keep=True, rng=rng_of(3)))
        for p in named_params(net).values():
            p.grad[...] = 0

        def turned(a, wide=wide):
            half = rng_of(4).standard_normal(a.shape).astype(np.float16)  # which every one of them can hold
            return half.astype(dtype if wide else np.float32)

        dy = (turned(y[0]), {k: turned(v) for k, v in y[1].items()}) if isinstance(y, tuple) else turned(y)
        dx = net.backward(dy, x, cache)
        assert dx.dtype == np.float32
        found.append([dx, *[p.grad.copy() for p in named_params(net).values()]])
    for a, b in zip(*found, strict=True):
        assert np.array_equal(a, b)


@fast
@pytest.mark.parametrize("dtype", OTHERS)
def test_replay_takes_such_a_dy_as_the_layers_do(dtype):
    def make():
        return randomised(around(Leaky(), 3)["before ConvBNReLU"])

    for a, b in zip(by_replay(make(), dy_dtype=dtype), by_layers(make(), dy_dtype=dtype), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("dy", [np.ones((3, 7, 6, 3), int), np.ones((3, 7, 6, 3), complex), [[1.0]], None])
@pytest.mark.parametrize("name", ["ReLU", "BatchNorm", "Sequential", "Concat", "Residual"])
def test_a_dy_of_no_real_numbers_is_refused_and_changes_nothing(name, dy):
    net = randomised(OURS[name]())
    x = rng_of(1).standard_normal(SHAPE).astype(np.float32)
    y, cache = net.forward(x, Mode(train=True, keep=True))
    if isinstance(dy, np.ndarray):
        dy = np.resize(dy, y.shape)
    with pytest.raises(TypeError, match=r"got (dy|list)"):
        net.backward(dy, x, cache)
    assert not any(p.grad.any() for p in named_params(net).values())
    assert net.backward(random_like(y, 0), x, cache).any()


@pytest.mark.parametrize("dtype", ["float16", "longdouble", ">f4", ">f8", "complex64", "int32", "bool"])
@pytest.mark.parametrize("name", OURS)
def test_an_x_of_a_dtype_that_no_layer_computes_in_is_refused(name, dtype):
    with pytest.raises(TypeError, match=r"wanted (an array of float32 or float64|the weights')"):
        OURS[name]().forward(np.ones(SHAPE, dtype), Mode(train=True, keep=True, rng=rng_of(0)))


@pytest.mark.parametrize("name", ["ReLU", "Dropout", "MaxPool2D", "AvgPool2D", "GlobalAvgPool2D", "Flatten", "LRN"])
def test_layers_without_weights_follow_x(name):
    x = rng_of(1).standard_normal(SHAPE)
    y, cache = OURS[name]().forward(x, Mode(train=True, keep=True, rng=rng_of(3)))
    assert y.dtype == np.float64
    assert OURS[name]().backward(np.ones(y.shape, np.float32), x, cache).dtype == np.float64


# ---- subclasses of ours with passes of their own


def doubled(base):
    """A subclass whose y is twice its base's."""

    class Doubled(base):
        def forward(self, x, mode):
            y, cache = super().forward(x, mode)
            return (2 * y[0], y[1]) if isinstance(y, tuple) else 2 * y, cache

        def backward(self, dy, x, cache):
            return super().backward((2 * dy[0], dy[1]) if isinstance(dy, tuple) else 2 * dy, x, cache)

    return Doubled


SUBCLASSES = {
    "Sequential": lambda of: of(Sequential)(Conv2D(3, 4, 3), ReLU()),
    "Concat": lambda of: of(Concat)(a=Conv2D(3, 2, 3), b=ReLU()),
    "Residual": lambda of: of(Residual)(Conv2D(3, 3, 3), scale=0.5),
    "Conv2D": lambda of: of(Conv2D)(3, 4, 3),
    "ConvReLU": lambda of: of(ConvReLU)(3, 4, 3),
    "ConvBNReLU": lambda of: of(ConvBNReLU)(3, 4, 3),
    "BatchNorm": lambda of: of(BatchNorm)(3),
    "DepthwiseConv2D": lambda of: of(DepthwiseConv2D)(3, 3),
    "LRN": lambda of: of(LRN)(3, alpha=0.5),
    "ReLU": lambda of: of(ReLU)(),
    "Dropout": lambda of: of(Dropout)(0.4),
    "MaxPool2D": lambda of: of(MaxPool2D)(3, stride=1, pad=1),
    "AvgPool2D": lambda of: of(AvgPool2D)(3, stride=1, pad=1),
    "Flatten": lambda of: Sequential(of(Flatten)(), Linear(126, 5, bias=False)),
    "GlobalAvgPool2D": lambda of: Sequential(of(GlobalAvgPool2D)(), Linear(3, 5, bias=False)),
    "Linear": lambda of: Sequential(GlobalAvgPool2D(), of(Linear)(3, 5)),
    "Network": lambda of: of(Network)(Sequential(a=Conv2D(3, 4, 3), b=GlobalAvgPool2D()), {"a": GlobalAvgPool2D()}),
}


def embedded(part, name):
    """The part alone, or among layers that would look at what it promises: an x to give back, an array to write to."""
    if name in ("Network", "Flatten", "GlobalAvgPool2D", "Linear"):
        return part
    rest = part.out_shape(SHAPE)[3]
    return Sequential(
        join=Concat(a=part, b=Conv2D(3, 2, 1)), mix=Conv2D(rest + 2, 3, 1), relu=ReLU(), pool=GlobalAvgPool2D()
    )


@pytest.mark.parametrize("name", SUBCLASSES)
def test_a_subclass_with_its_own_passes_is_used_by_every_way(name):
    own, base = (SUBCLASSES[name](of) for of in (doubled, lambda cls: cls))
    assert_every_way_agrees(lambda: randomised(embedded(copy.deepcopy(own), name)))
    assert_every_way_agrees(lambda: randomised(Sequential(copy.deepcopy(own), ReLU()))) if name != "Network" else None
    x = rng_of(5).standard_normal(SHAPE).astype(np.float32)
    plain = compile_inference(randomised(base), SHAPE)(x)
    np.testing.assert_allclose(compile_inference(randomised(own), SHAPE)(x), 2 * plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SUBCLASSES)
def test_a_layer_with_a_forward_put_on_the_object_is_used_by_every_way(name):
    def make():
        part = randomised(SUBCLASSES[name](lambda cls: cls))
        changed = part.layers["0"] if name in ("Flatten", "GlobalAvgPool2D") else part
        changed = part.layers["1"] if name == "Linear" else changed
        forward, backward = changed.forward, changed.backward

        def twice(x, mode, **options):
            y, cache = forward(x, mode, **options)
            if "out" in options:
                y *= 2
                return y, cache
            return (2 * y[0], y[1]) if isinstance(y, tuple) else 2 * y, cache

        changed.forward = twice
        changed.backward = lambda dy, *a, **k: backward(
            (2 * dy[0], dy[1]) if isinstance(dy, tuple) else 2 * dy, *a, **k
        )
        return part

    wanted, got = by_layers(make()), by_replay(make())
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
    x = rng_of(5).standard_normal(SHAPE).astype(np.float32)
    y = make().forward(x, Mode())[0]
    np.testing.assert_allclose(compile_inference(make(), SHAPE)(x), y, rtol=1e-5, atol=1e-5)


def test_a_subclass_that_changes_only_its_constructor_is_as_fast_as_its_base():
    class Block(Sequential):
        """A convolution and a ReLU."""

        def __init__(self, channels):
            super().__init__(conv=Conv2D(channels, 4, 3), relu=ReLU())

        def describe(self):
            return "a block"

    class Mixed(ReLU, Flatten):
        pass

    assert of_kind(Block(3), Sequential)
    assert not of_kind(Block(3), Conv2D, Concat)
    assert not of_kind(Mixed(), ReLU, Flatten)  # of two kinds, so of neither
    assert not of_kind(doubled(Sequential)(), Sequential)
    assert not of_kind(None, Sequential)
    assert_every_way_agrees(lambda: randomised(Sequential(Block(3), GlobalAvgPool2D())))


class Gated(ReLU):
    """Inherits from ReLU, whose cache is y and can be given back. Its own cache is another array of y's shape."""

    def forward(self, x, mode):
        gate = np.where(x.real > 0, 1, 0.25).astype(x.dtype)
        return x * gate, gate

    def backward(self, dy, x, gate):
        return dy * gate


class Squared(MaxPool2D):
    """Inherits from a layer that never reads x, and reads it."""

    def forward(self, x, mode):
        return x * x, None

    def backward(self, dy, x, cache):
        return 2 * x * dy


class Cheap(DepthwiseConv2D):
    """Inherits from a layer that is cheap to run again, and draws."""

    def forward(self, x, mode):
        mask = (mode.rng.random(x.shape) < 0.5).astype(x.dtype) if mode.train else np.float32(0.5)
        return x * mask, mask

    def backward(self, dy, x, mask):
        return dy * mask


@pytest.mark.parametrize("own", [Gated, lambda: Squared(1), lambda: Cheap(5, 3)])
def test_promises_are_not_inherited_by_a_class_with_other_passes(own):
    def make(part=own):
        own = part() if part is not None else None
        return randomised(Sequential(Conv2D(3, 5, 3), own, Conv2D(5, 4, 3), GlobalAvgPool2D()))

    class Twin(Layer):  # the same passes, without a base
        forward, backward = type(own()).forward, type(own()).backward

    for low_memory in (False, True):
        found = []
        for part in (own, Twin):
            net = make(part)
            passes = Replay(net, low_memory=low_memory)
            for replayed in (False, True):
                if replayed:
                    found.append(three_steps(net, passes.forward, passes.backward)[-2:])
                else:
                    kept = []

                    def forward(x, rng, net=net, kept=kept, low_memory=low_memory):
                        y, cache = net.forward(x, Mode(train=True, keep=True, rng=rng, low_memory=low_memory))
                        kept[:] = x, cache
                        return y

                    found.append(three_steps(net, forward, lambda dy, net=net, kept=kept: net.backward(dy, *kept))[-2:])
        first = found[0]
        for other in found[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(other, first, strict=True))


@pytest.mark.parametrize("own", [Gated, lambda: Squared(1)])
def test_gradients_of_a_subclass_with_other_passes_are_checked(own):
    x = rng_of(0).standard_normal((2, 4, 3, 5))

    class Wrong(type(own())):
        def backward(self, dy, x, cache):
            return 1.001 * super().backward(dy, x, cache)

    wrong = Wrong() if isinstance(own(), Gated) else Wrong(1)
    for method in ("complex", "richardson"):
        assert check_gradients(own(), x, method=method).ok
        assert not check_gradients(wrong, x, method=method).ok


def test_a_unit_that_fuses_its_passes_says_so():
    """... where a part has passes of its own, which the unit would not run."""
    for name, part in (("conv", doubled(Conv2D)(3, 4, 3, bias=False)), ("bn", doubled(BatchNorm)(4)), ("bn", LRN())):
        unit = ConvBNReLU(3, 4, 3)
        setattr(unit, name, part)
        for way in (
            lambda unit=unit: unit.forward(np.ones(SHAPE, np.float32), Mode(train=True)),
            lambda unit=unit: Replay(Sequential(unit)).forward(np.ones(SHAPE, np.float32)),
        ):
            with pytest.raises(TypeError, match=r"ConvBNReLU: got .*, wanted a .*Sequential\(conv="):
                way()


def test_evaluation_uses_the_passes_of_a_subclass():
    class Upside(Network):
        def forward(self, x, mode):
            y, cache = super().forward(x, mode)
            return -y, cache

    net = create_model("inception_v1_cifar", width=1 / 16, aux=False, seed=1)
    images, labels = rng_of(0).integers(0, 256, (40, 32, 32, 3), np.uint8), rng_of(1).integers(0, 10, 40)
    how = (images, labels, (127.0,) * 3, (60.0,) * 3, 16)
    predicted = evaluate(net, *how)[2]
    net.__class__ = Upside
    x = (images.astype(np.float32) - np.float32(127)) / np.float32(60)
    wanted = net.forward(x, Mode())[0].argmax(1)
    assert (evaluate(net, *how)[2] == wanted).mean() > 0.9
    assert (predicted != wanted).mean() > 0.9


def test_a_composite_of_ones_own_leaves_no_calls_in_a_plan():
    class Pair(Layer):
        def __init__(self):
            self.first, self.second = ConvReLU(3, 4, 3), Conv2D(4, 4, 1)

        def forward(self, x, mode):
            return self.second.forward(self.first.forward(x, mode)[0], mode)[0], None

        def backward(self, dy, x, cache):
            raise NotImplementedError

    def net(part):
        return randomised(Sequential(Concat(a=part, b=Conv2D(3, 2, 3)), GlobalAvgPool2D()))

    own, ours = net(Pair()), net(Sequential(first=ConvReLU(3, 4, 3), second=Conv2D(4, 4, 1)))
    x = rng_of(5).standard_normal(SHAPE).astype(np.float32)
    plan = compile_inference(own, SHAPE)
    np.testing.assert_allclose(plan(x), compile_inference(ours, SHAPE)(x), rtol=1e-5, atol=1e-6)
    if not backend.PLAIN:
        lengths = [sum(map(len, compile_inference(net, SHAPE).program.words())) for net in (own, ours)]
        assert lengths[0] < lengths[1]


# ---- what a layer of one's own may get wrong


class OnlyY(Layer):
    def forward(self, x, mode):
        return x

    def backward(self, dy, x, cache):
        return dy


class NoDx(Layer):
    def forward(self, x, mode):
        return 2 * x, None

    def backward(self, dy, x, cache):
        dy * 2


class Narrower(Layer):
    """dx lacks an axis, which NumPy would fill up by itself."""

    def forward(self, x, mode):
        return 2 * x, None

    def backward(self, dy, x, cache):
        return (2 * dy).sum(0, keepdims=True)


class Number(Layer):
    def forward(self, x, mode):
        return 1.0, None

    def backward(self, dy, x, cache):
        return dy


@pytest.mark.parametrize("way", [by_layers, by_replay])
@pytest.mark.parametrize(
    ("own", "message"),
    [
        (OnlyY, "own: OnlyY: forward gave ndarray, wanted the pair"),
        (Number, "own: Number: forward gave y of float, wanted an array"),
        (NoDx, "own: NoDx: backward gave NoneType, wanted dx, an array; end it with"),
        (Narrower, r"own: Narrower: backward gave dx of shape \(1, 7, 6, 4\), wanted x's \(3, 7, 6, 4\)"),
    ],
)
def test_a_layer_that_returns_something_else_is_named(way, own, message):
    def branch():
        first, second = Sequential(conv=Conv2D(4, 2, 3)), Sequential(own=own())
        return Concat(b=second, a=first) if own is not Narrower else Concat(own=own(), a=first)

    net = Sequential(conv=Conv2D(3, 4, 3), join=branch(), pool=GlobalAvgPool2D())
    with pytest.raises((TypeError, ValueError), match=message):
        way(randomised(net))


class NarrowerUnseen(Narrower):
    reads_x = False  # then nobody keeps x, whose shape it could be compared with


@pytest.mark.parametrize("own", [Narrower, NarrowerUnseen])
@pytest.mark.parametrize("way", [by_layers, by_replay])
@pytest.mark.parametrize("place", ["last branch", "a branch's first", "shortcut", "shortcut's first", "body", "head"])
def test_a_dx_of_another_shape_is_never_added_to(way, place, own):
    conv, chain = Conv2D(4, 4, 3), Sequential(own=own(), relu=ReLU())
    body = {
        "last branch": lambda: Concat(a=conv, b=own()),
        "a branch's first": lambda: Concat(a=conv, b=chain),
        "shortcut": lambda: Residual(conv, own()),
        "shortcut's first": lambda: Residual(conv, chain),
        "body": lambda: Residual(Sequential(own=own(), conv=conv)),
        "head": ReLU,
    }[place]()
    pool = GlobalAvgPool2D()
    heads = {"join": Sequential(own=own(), pool=pool)} if place == "head" else {}
    net = randomised(Network(Sequential(conv=Conv2D(3, 4, 3), join=body, pool=pool), heads))
    with pytest.raises(ValueError, match=r"backward gave dx of shape \(1, 7, 6, 4\), wanted x's \(3, 7, 6, 4\)"):
        way(net)


def test_a_batch_of_two_is_not_taken_for_a_pair():
    net = Sequential(own=OnlyY(), pool=GlobalAvgPool2D())
    with pytest.raises(TypeError, match="own: OnlyY: forward gave ndarray"):
        net.forward(np.ones((2, 5, 4, 3), np.float32), Mode())


class Moody(Layer):
    """y has another shape from the second call on."""

    calls = 0

    def forward(self, x, mode):
        self.calls += 1
        return (x if self.calls == 1 else x[:1]), None

    def backward(self, dy, x, cache):
        return dy


@fast
def test_a_shape_that_changes_between_steps_is_refused_and_not_filled_up():
    passes = Replay(Sequential(conv=Conv2D(3, 4, 3), own=Moody()))
    x = rng_of(0).standard_normal(SHAPE).astype(np.float32)
    passes.forward(x)
    passes.backward(np.ones((3, 7, 6, 4), np.float32))
    with pytest.raises(ValueError, match=r"Moody: gave \(1, 7, 6, 4\), wanted \(3, 7, 6, 4\)"):
        passes.forward(x)


@pytest.mark.parametrize("nothing", [None, 3, Conv2D, np.ones(3), [ReLU()]])
def test_what_is_no_layer_is_refused(nothing):
    with pytest.raises(TypeError, match=r"Replay: got \w+, wanted a Layer"):
        Replay(nothing)
    with pytest.raises(TypeError, match=r"compile_inference: got \w+, wanted a Layer"):
        compile_inference(nothing, SHAPE)


def test_a_scale_of_ones_own_trains_by_every_way():
    """A parameter without axes, beside one with: both learn."""

    class Scale(Layer):
        def __init__(self):
            self.scale, self.shift = Param(np.array(1.5, np.float32)), Param(np.full(4, 0.5, np.float32))

        def forward(self, x, mode):
            return self.scale.data * x + self.shift.data, None

        def backward(self, dy, x, cache):
            self.scale.grad += (dy * x).sum()
            self.shift.grad += dy.sum((0, 1, 2))
            return self.scale.data * dy

    def make():
        net = Sequential(Conv2D(3, 4, 3), Scale(), ReLU(), Conv2D(4, 4, 3), GlobalAvgPool2D())
        return net

    for a, b in zip(by_replay(copy.deepcopy(make())), by_layers(make()), strict=True):
        assert a.shape == b.shape

"""watch: every call of every layer goes through a function, the numbers stay the same, and nothing is left behind."""

from contextlib import contextmanager

import numpy as np
import pytest

import inception_np.layer
from inception_np import Concat, Conv2D, ConvBNReLU, GlobalAvgPool2D, Linear, Mode, ReLU, Residual, Sequential
from inception_np.layer import named_params, of_kind, walk, watch, zero_grad
from inception_np.models.network import Network

X = np.random.default_rng(1).standard_normal((2, 6, 5, 3)).astype(np.float32)


def network():
    rng = np.random.default_rng(0)
    relu = ReLU()  # used twice
    block = Concat(a=Sequential(conv=Conv2D(4, 3, 1, rng=rng), relu=relu), b=relu)
    return Network(
        Sequential(
            stem=ConvBNReLU(3, 4, 3, rng=rng),
            block=block,
            rest=Residual(Conv2D(7, 7, 3, rng=rng)),
            head=Sequential(GlobalAvgPool2D(), Linear(7, 5, rng=rng)),
        ),
        heads={"block": Sequential(GlobalAvgPool2D(), Linear(7, 5, rng=rng))},
    )


def passes(net):
    """y, dx and the gradients of a forward and a backward pass."""
    zero_grad(net)
    (y, heads), cache = net.forward(X, Mode(train=True, keep=True))
    dx = net.backward((y + 1, {name: a - 1 for name, a in heads.items()}), X, cache)
    return [y, *heads.values(), dx, *(p.grad.copy() for p in named_params(net).values())]


FORWARD = [
    *("", "stem", "block", "block.a", "block.a.conv", "block.a.relu", "block.a.relu"),
    *("aux_block", "aux_block.0", "aux_block.1", "rest", "rest.body", "head", "head.0", "head.1"),
]


def property_calls_pass_through(watch):
    net, plain, seen = network(), passes(network()), []

    def forward(path, layer, call, x, mode):
        y, cache = call()
        seen.append((path, layer, x, y))
        return y, cache

    def backward(path, layer, call, dy, x, cache):
        dx = call()
        seen.append((path, layer, dy, dx))
        return dx

    with watch(net, forward=forward, backward=backward):
        watched = passes(net)
    for a, b in zip(plain, watched, strict=True):
        np.testing.assert_array_equal(a, b)
    layers = dict([("", net), *walk(net)])
    assert all(layers[path] is layer for path, layer, _, _ in seen)
    assert sorted(path for path, *_ in seen) == sorted([*FORWARD, *FORWARD, "stem.conv"])
    ((_, _, x, y), (_, _, dy, dx)) = (call for call in seen if call[0] == "stem")
    assert x is X and y.shape == dy.shape == (2, 6, 5, 4) and dx is watched[2]


def property_nothing_is_left_behind(watch):
    net = network()
    own = net.trunk.layers["rest"].forward = net.trunk.layers["rest"].forward
    before = {path: dict(vars(layer)) for path, layer in walk(net) if isinstance(layer, inception_np.layer.Layer)}

    def forward(path, layer, call, *arguments):
        assert not of_kind(layer, type(layer)), "code that computes for a layer must call it now"
        raise KeyError(path)

    with pytest.raises(KeyError, match="''"), watch(net, forward=forward, out_shape=forward):
        net.forward(X, Mode())
    assert net.trunk.layers["rest"].forward is own
    for path, layer in walk(net):
        assert not isinstance(layer, inception_np.layer.Layer) or dict(vars(layer)) == before[path]


def property_only_some_are_watched_and_may_be_changed(watch):
    net, shapes = network(), []
    plain = net.forward(X, Mode())[0]

    def doubled(path, layer, call, *arguments):
        y, cache = call()
        return 2 * y, cache

    def out_shape(path, layer, call, shape):
        shapes.append((path, call()))
        return shapes[-1][1]

    with watch(net, forward=doubled, only=["head.1"]), watch(net, out_shape=out_shape, only={"stem", "block.b"}):
        np.testing.assert_allclose(net.forward(X, Mode())[0], 2 * plain, rtol=1e-6)
        net.out_shape(X.shape)
    relu = [("block.b", (2, 6, 5, 3)), ("block.b", (2, 6, 5, 4))]  # also where it goes by another path
    assert set(shapes) == {("stem", (2, 6, 5, 4)), *relu}


def property_another_argument_may_be_put_in(watch):
    """relu(2 x) in place of relu(x), half the dy in place of dy, and the shape of twice as many images."""
    net, dy = Sequential(conv=Conv2D(3, 4, 1, rng=np.random.default_rng(0)), relu=ReLU()), X[..., [0, 1, 2, 0]]
    y, cache = net.forward(X, Mode(keep=True))
    dx, zero = net.backward(dy, X, cache), np.zeros_like(X)

    def forward(path, layer, call, x, mode):
        return call(2 * x)

    def backward(path, layer, call, dy, x, cache):
        return call(dy / 2)

    def out_shape(path, layer, call, shape):
        return call((2 * shape[0], *shape[1:]))

    with watch(net, forward=forward, backward=backward, out_shape=out_shape, only=["relu"]):
        twice, cache = net.forward(X, Mode(keep=True))
        np.testing.assert_array_equal(twice, 2 * y)
        np.testing.assert_array_equal(net.backward(dy, X, cache, into=zero), dx / 2)
        assert net.out_shape(X.shape) == (4, 6, 5, 4)


PROPERTIES = [
    property_calls_pass_through,
    property_nothing_is_left_behind,
    property_only_some_are_watched_and_may_be_changed,
    property_another_argument_may_be_put_in,
]


@pytest.mark.parametrize("law", PROPERTIES)
def test_watch(law):
    law(watch)


@contextmanager
def forgets_what_stood_there(net, **functions):
    try:
        with watch(net, **functions):
            yield
    finally:
        for _, layer in walk(net):
            vars(layer).pop("forward", None)


STARTED = []


@contextmanager
def leaves_its_own(net, **functions):
    STARTED.append(watch(net, **functions))
    STARTED[-1].__enter__()
    yield


def misses_the_network(net, **functions):
    return watch(net.trunk, **functions)


def watches_all(net, only=None, **functions):
    return watch(net, **functions)


def passes_on_what_came(net, **functions):
    def deaf(function):
        return lambda path, layer, call, *arguments: function(path, layer, lambda *_: call(), *arguments)

    only = functions.pop("only", None)
    return watch(net, only=only, **{name: deaf(function) for name, function in functions.items()})


@pytest.mark.parametrize(
    "law, fault",
    [
        (property_calls_pass_through, misses_the_network),
        (property_nothing_is_left_behind, forgets_what_stood_there),
        (property_nothing_is_left_behind, leaves_its_own),
        (property_only_some_are_watched_and_may_be_changed, watches_all),
        (property_another_argument_may_be_put_in, passes_on_what_came),
    ],
)
def test_a_fault_of_watch_is_caught(law, fault):
    with pytest.raises(AssertionError):
        law(fault)

"""Looking into a network: features, gradients of its outputs, receptive fields, and the pictures of them."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inception_np import (
    Concat,
    Conv2D,
    ConvBNReLU,
    ConvReLU,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    Linear,
    MaxPool2D,
    Mode,
    ReLU,
    Residual,
    Sequential,
    cast,
    create_model,
    features,
    list_models,
    named_buffers,
    named_params,
    save,
    state_dict,
)
from inception_np.__main__ import main
from inception_np.data.preprocess import Preprocess
from inception_np.layer import walk
from inception_np.look import drawing, fields, images, pictures, report, saliency
from inception_np.look.features import stage_outputs
from inception_np.look.fields import receptive_fields
from inception_np.look.flow import gradient_flow
from inception_np.look.kernels import spatial_kernels, strongest, taps
from inception_np.look.maximise import blur, maximise
from inception_np.look.saliency import guided_backprop, logit_gradient, saliency_map
from inception_np.models.network import Network

RNG = np.random.default_rng(0)


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def lively(net, seed=3):
    """The network with other numbers in place of its zeros and ones: betas, biases, running averages."""
    rng = np.random.default_rng(seed)
    for path, slot in [*named_params(net).items(), *named_buffers(net).items()]:
        if slot.data.ndim == 1:
            slot.data += (0.5 * rng.random(slot.data.shape)).astype(slot.data.dtype) * (1 if "var" in path else 0.5)
    return net


# ---------------------------------------------------------------------------------------------- features


def by_hand(net, x):
    """The output of every stage, and of every branch of a stage that has branches, one layer after the other."""
    found, h = {}, x
    for name, stage in net.trunk.layers.items():
        if isinstance(stage, Concat):
            found |= {f"{name}.{branch}": layer.forward(h, Mode())[0] for branch, layer in stage.children().items()}
        h = found[name] = stage.forward(h, Mode())[0]
    return found


@pytest.mark.parametrize("name", list_models("*_cifar"))
def test_features_are_what_the_network_computes_there(name):
    net, x = lively(create_model(name, width=1 / 16, num_classes=7)), normal(2, 32, 32, 3, seed=1)
    wanted = by_hand(net, x)
    together = stage_outputs(net, x, wanted)
    assert list(together) == list(wanted)
    for path, y in wanted.items():
        np.testing.assert_allclose(together[path], y, rtol=1e-5, atol=1e-6 * np.abs(y).max(), err_msg=path)
    for path in report.evenly(list(wanted), 5):
        np.testing.assert_array_equal(features(net, x, path), together[path])
    np.testing.assert_array_equal(features(net, x, list(net.trunk.layers)[-1]), net.forward(x, Mode())[0])


class Doubled(Layer):
    """A user's layer with a child that it calls twice, and a y of another dtype."""

    def __init__(self, inner):
        self.inner = inner

    def forward(self, x, mode):
        y, first = self.inner.forward(x, mode)
        y, second = self.inner.forward(y, mode)
        return 2 * y.astype(np.float64), (first, second)


def chain(seed=0):
    rng = np.random.default_rng(seed)
    return lively(
        Sequential(
            ConvBNReLU(3, 4, 3, rng=rng),
            Doubled(Conv2D(4, 4, 3, rng=rng)),
            module=Concat(a=ConvReLU(4, 3, 1, rng=rng), b=Residual(Conv2D(4, 4, 3, rng=rng), scale=0.5)),
            head=Sequential(pool=GlobalAvgPool2D(), fc=Linear(7, 5, rng=rng)),
        )
    )


def test_features_of_a_chain_with_a_layer_of_ones_own():
    net, x = chain(), normal(2, 6, 5, 3)
    first = net.layers["0"].forward(x, Mode())[0]
    second = net.layers["1"].forward(first, Mode())[0].astype(np.float32)
    np.testing.assert_array_equal(features(net, x, "0"), first)
    np.testing.assert_array_equal(features(net, x, "0.conv"), net.layers["0"].conv.forward(x, Mode())[0])
    np.testing.assert_array_equal(features(net, x, "1"), second)
    assert features(net, x, "1").dtype == np.float32
    np.testing.assert_array_equal(features(net, x, "1.inner"), net.layers["1"].inner.forward(first, Mode())[0])
    inside = net.layers["module"].branches["b"].body.forward(second, Mode())[0]
    np.testing.assert_array_equal(features(net, x, "module.b.body"), inside)
    np.testing.assert_array_equal(features(net, x, "head.fc"), net.forward(x, Mode())[0])


def property_nothing_behind_the_stage_is_computed(features):
    net, x = create_model("inception_v1_cifar", width=1 / 16), normal(1, 32, 32, 3)
    calls, behind = [], False
    for path, layer in walk(net):
        behind = behind or path == "4a.b5"
        if isinstance(layer, Layer) and behind and path.count(".") < 2:
            layer.forward = lambda *_, path=path, **__: calls.append(path)
    features(net, x, "4a.b3")
    assert not calls


def everything(net, x, stage):
    y = features(net, x, stage)
    net.forward(x, Mode())
    return y


def test_nothing_behind_the_stage_is_computed():
    property_nothing_behind_the_stage_is_computed(features)
    with pytest.raises((AssertionError, TypeError)):
        property_nothing_behind_the_stage_is_computed(everything)


def test_features_of_a_head_and_of_an_image_that_is_too_small_for_the_rest():
    net, x = lively(create_model("inception_v1_cifar", width=1 / 16)), normal(2, 32, 32, 3)
    h = features(net, x, "4a")
    np.testing.assert_array_equal(features(net, x, "aux_4a"), net.heads["4a"].forward(h, Mode())[0])
    inner = next(iter(net.heads["4a"].layers))
    wanted = net.heads["4a"].layers[inner].forward(h, Mode())[0]
    np.testing.assert_array_equal(features(net, x, f"aux_4a.{inner}"), wanted)
    net = create_model("inception_v3", width=1 / 16)
    with pytest.raises(ValueError, match="smallest image"):
        net.forward(normal(1, 20, 20, 3), Mode())
    assert features(net, normal(1, 20, 20, 3), "Conv2d_2b_3x3").shape == (1, 7, 7, 4)


def test_features_are_the_callers_own_and_leave_the_network_as_it_was():
    net, x = chain(), normal(2, 6, 5, 3)
    before = copy.deepcopy(state_dict(net))
    y = features(net, x, "module.a")
    assert y.base is None and y.flags.c_contiguous
    y[...] = 0
    assert features(net, x, "module.a").any()
    assert all(np.array_equal(value, before[path]) for path, value in state_dict(net).items())
    assert not any("forward" in vars(layer) for _, layer in walk(net) if isinstance(layer, Layer))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("3aa", "there is no stage '3aa'; the nearest is 3a"),
        ("", "there is no stage ''; choose from conv1, conv2"),
        ("4a.b9", "there is no stage '4a.b9'; the nearest are 4a.b5, 4a.b3, 4a.b1"),
        ("4a.b1.weight", "there is no stage '4a.b1.weight'; choose from 4a.b1"),
        ("aux_4a.nothing", "there is no stage 'nothing'"),
        (3, "there is no stage 3; "),
    ],
)
def test_a_stage_that_is_not_there_is_refused_with_those_that_are(stage, message):
    with pytest.raises(ValueError) as error:
        features(create_model("inception_v1_cifar", width=1 / 16), normal(1, 32, 32, 3), stage)
    assert message in str(error.value)


def test_layers_that_have_no_output_of_their_own_are_refused():
    relu = ReLU()
    net = Sequential(unit=ConvBNReLU(3, 4, 3), relu=relu, conv=Conv2D(4, 4, 3), again=relu)
    with pytest.raises(ValueError, match=r"'unit.bn' is computed within unit, without a call; ask for unit"):
        features(net, normal(1, 6, 5, 3), "unit.bn")
    with pytest.raises(ValueError, match="'again' is the layer 'relu'"):
        features(net, normal(1, 6, 5, 3), "again")


# ---------------------------------------------------------------------------------------------- gradients


def rectified_net(seed=0):
    """All three units that end in a ReLU, in a chain, a module and a residual sum."""
    rng = np.random.default_rng(seed)
    return lively(
        Sequential(
            unit=ConvBNReLU(3, 6, 3, stride=2, rng=rng),
            module=Concat(a=ConvReLU(6, 4, 3, rng=rng), b=Sequential(conv=Conv2D(6, 3, 1, rng=rng), relu=ReLU())),
            pool=MaxPool2D(3, stride=1, pad=1),
            block=Residual(Conv2D(7, 7, 3, rng=rng), scale=0.3),
            average=GlobalAvgPool2D(),
            fc=Linear(7, 5, rng=rng),
        )
    )


def property_the_gradient_is_the_complex_steps(gradient):
    net, x, classes = rectified_net(), normal(3, 9, 8, 3, dtype=np.float64), np.array([4, 0, 2])
    g = gradient(cast(net, np.float64), x, classes)
    cast(net, np.complex128)
    for seed in range(5):
        v = normal(*x.shape, seed=seed, dtype=np.float64)
        logits = net.forward(x + 1e-30j * v, Mode())[0]
        numeric = logits[range(3), classes].imag / 1e-30
        np.testing.assert_allclose((g * v).sum((1, 2, 3)), numeric, rtol=1e-12)


def test_the_gradient_of_a_logit_is_the_complex_steps():
    property_the_gradient_is_the_complex_steps(logit_gradient)
    for wrong in (guided_backprop, lambda net, x, c: logit_gradient(net, x, c[::-1]), lambda *a: -logit_gradient(*a)):
        with pytest.raises(AssertionError):
            property_the_gradient_is_the_complex_steps(wrong)


def test_looking_at_gradients_leaves_the_network_as_it_was():
    net, x = rectified_net(), normal(2, 9, 8, 3)
    for p in named_params(net).values():
        p.grad += 1
    slots, before = dict(walk(net)), copy.deepcopy(state_dict(net))
    gradients = {path: p.grad for path, p in named_params(net).items()}
    guided_backprop(net, x, np.array([1, 2]))
    assert all(after is slots[path] for path, after in walk(net))
    assert all(p.grad is gradients[path] and (p.grad == 1).all() for path, p in named_params(net).items())
    assert all(np.array_equal(value, before[path]) for path, value in state_dict(net).items())
    assert not any("backward" in vars(layer) for _, layer in walk(net) if isinstance(layer, Layer))


class Mine(Conv2D):
    """A convolution of somebody's own, which adds to its weight's gradient itself."""

    def backward(self, dy, x, cache):
        self.weight.grad += 1
        return super().backward(dy, x, cache)


def test_a_convolution_of_ones_own_may_keep_its_gradient():
    mine, x = Sequential(conv=Mine(3, 4, 3), pool=GlobalAvgPool2D()), normal(2, 5, 6, 3)
    plain = Sequential(conv=Conv2D(3, 4, 3), pool=GlobalAvgPool2D())
    plain.layers["conv"].weight.data[...] = mine.layers["conv"].weight.data
    g, wanted = (logit_gradient(net, x, np.array([1, 3])) for net in (mine, plain))
    np.testing.assert_array_equal(g, wanted)
    assert not mine.layers["conv"].weight.grad.any()


def guided_by_hand(net, x, classes):
    """Every ReLU's backward as two masks: the plain one of its input and the one of the gradient."""
    unit, (a, b) = net.layers["unit"], net.layers["module"].branches.values()
    z1, _ = unit.conv.forward(x, Mode())
    u1, c1 = unit.bn.forward(z1, Mode(keep=True))
    y1 = np.maximum(u1, 0)
    plain = Conv2D(6, 4, 3)
    plain.weight, plain.bias = a.weight, a.bias
    ua, ub = plain.forward(y1, Mode())[0], b.layers["conv"].forward(y1, Mode())[0]
    y2 = np.concatenate([np.maximum(ua, 0), np.maximum(ub, 0)], -1)
    rest = Sequential(*list(net.layers.values())[2:])
    logits, cache = rest.forward(y2, Mode(keep=True))
    dy = np.zeros_like(logits)
    dy[range(len(x)), classes] = 1
    d2 = rest.backward(dy, y2, cache)
    da, db = d2[..., :4] * (ua > 0) * (d2[..., :4] > 0), d2[..., 4:] * (ub > 0) * (d2[..., 4:] > 0)
    d1 = plain.backward(da, y1, None) + b.layers["conv"].backward(db, y1, None)
    return unit.conv.backward(unit.bn.backward(d1 * (u1 > 0) * (d1 > 0), z1, c1), x, None)


def test_guided_backprop_is_two_masks_at_every_relu(monkeypatch):
    net, x, classes = cast(rectified_net(), np.float64), normal(3, 9, 8, 3, dtype=np.float64), np.array([4, 0, 2])
    wanted = guided_by_hand(net, x, classes)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(guided_backprop(net, x, classes), wanted, atol=1e-12 * scale)
    assert np.abs(logit_gradient(net, x, classes) - wanted).max() > 1e-3 * scale
    for missing in saliency.RECTIFIED:  # each kind of unit counts
        kinds = tuple(kind for kind in saliency.RECTIFIED if kind is not missing)
        monkeypatch.setattr(saliency, "RECTIFIED", kinds)
        assert np.abs(guided_backprop(net, x, classes) - wanted).max() > 1e-3 * scale
        monkeypatch.undo()


def test_a_saliency_map_is_the_largest_of_the_colours():
    g = normal(2, 4, 3, 3)
    wanted = [[[max(abs(c) for c in pixel) for pixel in row] for row in image] for image in g.tolist()]
    np.testing.assert_allclose(saliency_map(g), wanted, rtol=1e-6)


def test_ascent_raises_the_logit_within_black_and_white():
    net, classes, bounds = rectified_net(), np.array([3, 1, 0]), (np.full(3, -1.5), np.full(3, 1.2))
    x = maximise(net, classes, bounds, (9, 8, 3), 20, np.random.default_rng(1))
    assert x.shape == (3, 9, 8, 3) and x.dtype == np.float32 and x.min() >= -1.5 and x.max() <= 1.2
    start = maximise(net, classes, bounds, (9, 8, 3), 0, np.random.default_rng(1))
    ends, starts = (net.forward(a, Mode())[0][range(3), classes] for a in (x, start))
    assert (ends > starts + 0.1 * np.abs(starts)).all()
    again = maximise(net, classes, bounds, (9, 8, 3), 20, np.random.default_rng(1))
    np.testing.assert_array_equal(x, again)
    upside_down = maximise(net, classes, bounds[::-1], (9, 8, 3), 20, np.random.default_rng(1))
    assert upside_down.min() >= -1.5 and upside_down.max() <= 1.2  # a negative std: white is the smaller number


def test_a_gradient_that_was_seen_shifted_is_shifted_back():
    """One pixel's colour is all that counts: it alone may move, by whatever the image was shifted."""
    spot = Sequential(flat=Flatten(), fc=Linear(8 * 6, 2))
    spot.layers["fc"].weight.data[...] = 0
    spot.layers["fc"].weight.data[0] = 1  # the corner of what the network sees
    x = maximise(spot, np.array([0]), (np.array([-1.0]), np.array([1.0])), (8, 6, 1), 3, np.random.default_rng(5))
    start = maximise(spot, np.array([0]), (np.array([-1.0]), np.array([1.0])), (8, 6, 1), 0, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    rng.standard_normal((1, 8, 6, 1))
    moved = {tuple(-rng.integers(-1, 2, 2) % (8, 6)) for _ in range(3)}
    assert {tuple(place) for place in np.argwhere((x != start)[0, ..., 0])} == moved


def test_a_blur_is_a_binomial_window_and_keeps_what_is_flat():
    np.testing.assert_allclose(blur(np.full((1, 3, 4, 2), 7.0)), 7)
    spike = np.zeros((1, 5, 6, 1))
    spike[0, 2, 3] = 16
    wanted = np.zeros((5, 6))
    wanted[1:4, 2:5] = np.outer((1, 2, 1), (1, 2, 1))
    np.testing.assert_allclose(blur(spike)[0, ..., 0], wanted)


# ---------------------------------------------------------------------------------------------- receptive fields


def winding(seed=0):
    """Windows of all kinds: strides, dilation, 1x7, pools, branches, a sum."""
    rng = np.random.default_rng(seed)
    return Sequential(
        stem=ConvBNReLU(3, 8, 3, stride=2, rng=rng),
        wide=ConvReLU(8, 8, (1, 7), rng=rng),
        dilated=Conv2D(8, 8, (3, 1), dilation=2, pad=2, rng=rng),
        module=Concat(
            b1=ConvReLU(8, 6, 1, rng=rng),
            b3=Sequential(reduce=ConvReLU(8, 6, 1, rng=rng), conv=ConvBNReLU(6, 6, 3, rng=rng)),
            pool=MaxPool2D(3, stride=1, pad=1),
        ),
        block=Residual(Sequential(ConvReLU(20, 8, (7, 1), rng=rng), Conv2D(8, 20, 1, rng=rng))),
        last=ConvReLU(20, 16, 3, stride=2, rng=rng),
        pool=GlobalAvgPool2D(),
        fc=Linear(16, 3, rng=rng),
    )


def property_measured_is_computed(**planted):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in planted.items():
            patch.setattr(fields, name, value)
        found = {f.path: f for f in receptive_fields(winding(), (70, 66, 3), np.random.default_rng(1), 3)}
    stages = ["stem", "wide", "dilated", "module", "block", "last"]
    assert list(found) == [*stages[:4], "module.b1", "module.b3", "module.pool", *stages[4:]]
    for f in found.values():
        assert all(m <= c for m, c in zip(f.measured, f.computed, strict=True)), f.path
        assert f.measured == f.computed and not f.cut, f.path
        assert 1 <= f.effective <= np.sqrt(np.prod(f.computed)) and f.map.max() == 1, f.path
    assert found["dilated"].computed == (11, 15) and found["module.b1"].computed == (11, 15)
    assert found["module"].computed == found["module.b3"].computed == (15, 19)


def test_measured_fields_are_the_computed_ones():
    property_measured_is_computed()


PLANTED_FIELDS = {
    "always the height": {"receptive_field": lambda *a: fields_of(*a[:-1], 0)},
    "one pixel less": {"receptive_field": lambda *a: (fields_of(*a)[0] - 1, 1)},
    "a bound that is too wide": {"receptive_field": lambda *a: (fields_of(*a)[0] + 1, 1)},
    "the first row alone": {"extent": lambda line: int(line.any())},
    "all pixels count": {"EDGE": -1},
}
fields_of = fields.receptive_field


@pytest.mark.parametrize("fault", PLANTED_FIELDS)
def test_a_fault_in_a_field_is_found(fault):
    with pytest.raises(AssertionError):
        property_measured_is_computed(**PLANTED_FIELDS[fault])


@pytest.mark.parametrize("name", list_models("*_cifar"))
def test_no_network_sees_farther_than_its_windows_reach(name):
    net = create_model(name, width=1 / 16)
    found = list(receptive_fields(net, (32, 28, 3), np.random.default_rng(0), draws=3, branches=False))
    for f in found:
        assert all(m <= c for m, c in zip(f.measured, f.computed, strict=True)), f.path
        assert f.cut or (f.measured[0] < 32 and f.measured[1] < 28)
    assert len(found) >= 4 and any(f.measured == f.computed for f in found)


def test_a_field_at_an_edge_is_said_to_be_cut():
    for size, cut in (((13, 13, 3), False), ((5, 13, 3), True), ((13, 5, 3), True)):
        (f,) = receptive_fields(Sequential(conv=ConvReLU(3, 8, 5)), size, np.random.default_rng(0))
        assert f.cut == cut and f.measured == (5, 5)


def test_a_network_whose_outputs_are_all_dead_sees_nothing():
    net = Sequential(conv=ConvReLU(3, 2, 3))
    net.layers["conv"].bias.data -= 1000
    (f,) = receptive_fields(net, (9, 9, 3), np.random.default_rng(0))
    assert f.measured == (0, 0) and f.effective == 0 and not f.map.any()


# ---------------------------------------------------------------------------------------------- gradient flow


def test_heads_add_to_the_gradient_below_them_and_to_nothing_above():
    net, x, labels = create_model("inception_v1_cifar", width=1 / 8), normal(4, 32, 32, 3), np.array([1, 9, 0, 4])
    before = copy.deepcopy(state_dict(net))
    alone, helped = (gradient_flow(net, x, labels, heads) for heads in (False, True))
    assert all(np.array_equal(value, before[path]) for path, value in state_dict(net).items())
    assert not any(p.grad.any() for p in named_params(net).values())
    stages = list(alone)
    assert stages == list(helped) and stages[0] == "conv1" and "pool2" not in stages
    last = max(stages.index(stage) for stage in net.heads)
    for i, stage in enumerate(stages):
        assert (alone[stage] == helped[stage]) == (i > last), stage
    for _, layer in walk(net):
        if isinstance(layer, Dropout):
            layer.rate = 0.0
    alone = gradient_flow(net, x, labels, heads=False)
    for stage, g in gradient_flow(Network(net.trunk), x, labels).items():
        np.testing.assert_allclose(g, alone[stage], rtol=1e-5)


# ---------------------------------------------------------------------------------------------- filters


def test_kernels_are_those_with_taps_and_the_strongest_come_first():
    net = winding()
    shared = net.layers["wide"]
    net = Sequential(**net.layers, again=shared)
    found = spatial_kernels(net)
    paths = ["stem.conv", "wide", "dilated", "module.b3.conv.conv", "block.body.0", "last"]
    assert list(found) == paths and found["wide"].shape == (1, 7, 8, 8)
    weight = normal(3, 2, 4, 5)
    weight[:, :, 2, 3] *= 10
    np.testing.assert_array_equal(strongest(weight, 2)[0], weight[:, :, 2, 3])
    assert strongest(weight, 50).shape == (20, 3, 2)
    np.testing.assert_allclose(taps(weight)[2, 1], np.sqrt(np.mean(weight[2, 1] ** 2)), rtol=1e-6)


# ---------------------------------------------------------------------------------------------- the command


def picture(path, height=50, width=70, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return str(path)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Small images for the fields, two steps of ascent, two images."""
    monkeypatch.setattr(report, "FIELD", 8)
    monkeypatch.setattr(report, "STEPS", (2, 2))
    monkeypatch.setattr(images, "FEW", 2)


NAMES = [f"thing {i} with quite a long name, of which there is no end" for i in range(10)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An inception_v1_cifar with heads that was tested on shapes10, and classes with names that are too long."""
    net = lively(create_model("inception_v1_cifar", width=1 / 16))
    about = {"data": "shapes10", "classes": NAMES, "preprocess": Preprocess((32, 32), resize=32).to_dict()}
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save(net, path, about=about)
    return path


def test_look_writes_pictures_and_says_what_is_in_them(checkpoint, capsys, texts):
    assert main(["look", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    folder = checkpoint.with_name("best-look")
    files = sorted(folder.iterdir())
    kinds = ["look", "filters", "kernels", "saliency", "classes", "fields", "flow"]
    assert {f.stem for f in files} == {*kinds, *(f"activations_{i}" for i in (1, 2))}
    assert all(str(f) in out and f.read_bytes()[:4] == b"\x89PNG" for f in files)
    assert "inception_v1_cifar, 2 images (test images of shapes10)" in out and "+" in out and "with heads" in out
    assert texts  # none is cut off or written over another, see below


@pytest.fixture
def texts(monkeypatch):
    """Looks at all text in every figure that is written: it is within the figure, and over no other text."""
    seen = []

    def look(figure, path, **metadata):
        from matplotlib.text import Text

        write(figure, path, **metadata)
        drawn, (wide, high) = figure.get_tightbbox(), figure.get_size_inches()
        assert drawn.x0 >= -0.01 and drawn.y0 >= -0.01 and drawn.x1 <= wide + 0.01 and drawn.y1 <= high + 0.01, path
        boxes = [
            (text.get_text(), text.get_window_extent())
            for text in figure.findobj(Text)
            if text.get_visible() and text.get_text().strip() and text.get_rotation() in (0, 90)
            if not text.get_text().startswith("$")  # a tick, perhaps beyond its axis' ends
        ]
        for i, (text, box) in enumerate(boxes):
            for other, b in boxes[:i]:
                across = min(box.x1, b.x1) - max(box.x0, b.x0)
                along = min(box.y1, b.y1) - max(box.y0, b.y0)
                assert across <= 1 or along <= 1, (path.name, text, other)
        seen.extend(text for text, _ in boxes)

    write = pictures.write_png
    monkeypatch.setattr(pictures, "write_png", look)
    return seen


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A network of few stages; its classes have numbers only, and nothing says what it was trained on."""
    path = tmp_path_factory.mktemp("quick") / "m.safetensors"
    how = Preprocess((32, 32), mean=(104, 117, 123), std=(60, 61, 62), bgr=True).to_dict()
    save(create_model("speednet_cifar", width=1 / 16, num_classes=300), path, about={"preprocess": how})
    return path


def test_look_at_pictures_of_ones_own(tmp_path, quick, capsys, texts):
    given = [picture(tmp_path / "wide.png"), picture(tmp_path / "grey.png", 20, 31, "L"),
             picture(tmp_path / "clear.png", 90, 33, "RGBA")]  # fmt: skip
    argv = ["look", str(quick), *given, "--output", str(tmp_path / "a" / "b")]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in given) and (tmp_path / "a" / "b" / "activations_3.png").exists()
    assert "3 images (your images)" in printed and "in all of 3 images" in printed and "with heads" not in printed

    assert main([*argv, "--json", "--stages", "block1.mixed.b3", "--classes", "class 3", "299"]) == 0  # over its own
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"checkpoint", "model", "images", "stages", "classes", "fields", "gradient", "files"}
    assert [c["class"] for c in found["classes"]] == ["class 3", "class 299"]
    assert found["fields"][0] == {"path": "whiten", "computed": [2, 2], "measured": [2, 2], "effective": 2.0}
    assert [s["stage"] for s in found["stages"]] == ["whiten", "block1", "block2", "block3"]
    assert found["stages"][0]["output"] == [31, 31, 24] and [i["image"] for i in found["images"]] == given
    assert found["gradient"]["with_heads"] is None and list(found["gradient"]["alone"]) == [
        "block1",
        "block2",
        "block3",
    ]
    assert any("block1.mixed.b3" in text for text in texts)


def test_look_at_a_grey_network(tmp_path, capsys, texts):
    save(create_model("speednet_cifar", width=1 / 16, in_channels=1), tmp_path / "grey.safetensors")
    assert main(["look", str(tmp_path / "grey.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["classes"]) == 10 and found["images"][0]["image"] == "shape 1"


def refused(capsys, *words):
    code = main(["look", *map(str, words)])
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    return code, captured.err


def test_mistakes_are_one_line_and_write_nothing(tmp_path, checkpoint, capsys):
    out, a = tmp_path / "out", picture(tmp_path / "a.png")
    tail = ("--output", out)
    assert refused(capsys, checkpoint, *[a] * 9, *tail) == (
        2, "inception-np: error: IMAGE: got 9, wanted at most 8; leave some out\n")  # fmt: skip
    code, error = refused(capsys, checkpoint, a, "--classes", "thing", *tail)
    assert code == 2 and "--classes: there is no class 'thing'; choose from thing 0" in error
    assert refused(capsys, checkpoint, "--classes", "10", *tail)[0] == 2
    code, error = refused(capsys, checkpoint, a, "--stages", "4aa", *tail)
    assert code == 2 and "--stages: there is no stage '4aa'; the nearest is 4a" in error
    assert "training only" in refused(capsys, checkpoint, a, "--stages", "aux_4a", *tail)[1]
    assert "gives 10 numbers, wanted a stage" in refused(capsys, checkpoint, a, "--stages", "fc", *tail)[1]
    assert "a.png: " in refused(capsys, a, *tail)[1]
    assert refused(capsys, checkpoint, checkpoint, *tail)[0] == 1
    assert refused(capsys, checkpoint, tmp_path / "none.png", *tail)[1].count("none.png: no such file")
    assert not out.exists()


def test_files_of_others_are_not_written_over(tmp_path, checkpoint, capsys):
    a = picture(tmp_path / "a.png")
    other = Path(picture(tmp_path / "saliency.png"))
    before = other.read_bytes()
    code, error = refused(capsys, checkpoint, a, "--output", tmp_path)
    assert code == 2 and "saliency.png was not written by this command" in error
    assert other.read_bytes() == before and not (tmp_path / "look.png").exists()


def test_images_that_cannot_be_had_are_replaced_by_shapes(tmp_path, checkpoint, capsys):
    net = create_model("speednet_cifar", width=1 / 16)
    for about in ({"data": "folder", "test": {"data_dir": "/nowhere"}}, {"data": "mine.py:load"}):
        save(net, tmp_path / "m.safetensors", about={**about, "classes": NAMES})
        found = images.images_for(net, about, "m.safetensors", [])
        assert found.source == "drawn shapes" and found.labels == [-1] * 2
        assert "drawn shapes are shown instead" in capsys.readouterr().err
    assert images.images_for(net, {}, "m.safetensors", []).source == "drawn shapes"
    assert not capsys.readouterr().err


def test_pixels_are_what_the_network_was_given_red_first():
    how = Preprocess((5, 4), mean=(10, 20, 30), std=(2, 3, 4), bgr=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3))
    x = ((pixels[..., ::-1] - np.array(how.mean)) / how.std).astype(np.float32)
    found = images.Images(x, 2, [], [], how, "")
    np.testing.assert_allclose(255 * found.pixels(x), pixels, atol=1e-3)
    np.testing.assert_allclose(found.bounds, [(-5, -20 / 3, -7.5), (122.5, 235 / 3, 56.25)], rtol=1e-6)


def test_one_of_each_class_comes_first():
    np.testing.assert_array_equal(images._one_of_each(np.array([3, 3, 0, 3, 1, 0])), [0, 2, 4, 1, 3, 5])


def test_what_is_drawn():
    assert report.evenly("abcdefgh", 3) == ["a", "e", "h"] and report.evenly("ab", 3) == ["a", "b"]
    assert drawing.folded("half disc") == "half disc"
    assert (
        all(len(line) <= 16 for line in drawing.folded(NAMES[0]).split("\n")) and drawing.folded(NAMES[0])[-3:] == "..."
    )
    y = np.stack([np.full((4, 3), v) for v in (0.1, -9, 3)], -1) * normal(4, 3, 1, seed=2)
    np.testing.assert_array_equal(report.strongest_channels(y), np.moveaxis(y[..., [1, 2, 0]], -1, 0))
    sheet = drawing.strip(np.stack([np.arange(12.0).reshape(4, 3) / 11, np.zeros((4, 3))]))
    assert (
        sheet.shape[0] == 64
        and sheet[0, 0] == 0
        and sheet[-1, 47] == 1
        and np.isnan(sheet[0, 48])
        and np.isnan(sheet[0, -1])
    )

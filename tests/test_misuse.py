"""Mistakes that once went through, or came with words that helped nobody: what is said, and that nothing changed."""

import errno
import os

import numpy as np
import pytest
from numerics import snapshot
from PIL import Image

import inception_np
from inception_np import create_model, list_models, load, save
from inception_np.__main__ import main
from inception_np.backend.errors import explained
from inception_np.compose import Sequential
from inception_np.data.preprocess import Preprocess
from inception_np.layer import Buffer, Layer, Param, cast, check_children, flatten, move
from inception_np.layers.activation import ReLU
from inception_np.layers.batchnorm import BatchNorm
from inception_np.layers.conv import Conv2D, ConvReLU
from inception_np.layers.linear import Linear
from inception_np.layers.pool import GlobalAvgPool2D
from inception_np.models import Network
from inception_np.training.optim import SGD, RMSProp
from inception_np.training.predict import predict_images
from inception_np.weights.tensorfile import read_tensors

# What save writes, load reads


def small(name="inception_v1_cifar", **options):
    return create_model(name, width=1 / 16, **options)


class LeakyReLU(ReLU):
    """No numbers of its own: nothing in the file would tell it from ReLU."""


def wider(net):
    net.trunk.layers["3a"].branches["b1"] = ConvReLU(12, 7, 1)


def other_classes(net):
    net.trunk.layers["fc"] = Linear(64, 5)


def one_more(net):
    net.trunk.layers["extra"] = Linear(10, 10)


def one_less(net):
    del net.trunk.layers["fc"]


def another_stride(net):
    net.trunk.layers["3a"].branches["b3"].layers["conv"].stride = (2, 2)


def another_eps(net):
    next(layer for _, layer in inception_np.layer.walk(net) if isinstance(layer, BatchNorm)).eps = 0.5


def another_kind(net):
    net.trunk.layers["fc"] = Sequential(fc=net.trunk.layers["fc"])


def a_head_more(net):
    net.heads["5b"] = net.heads.pop("4a")


@pytest.mark.parametrize(
    "change",
    [wider, other_classes, one_more, one_less, another_stride, another_kind, a_head_more],
    ids=lambda f: f.__name__,
)
def test_a_network_that_load_would_make_otherwise_is_not_saved(tmp_path, change):
    net, path = small(), tmp_path / "model"
    save(net, path)
    before = path.read_bytes()
    change(net)
    with pytest.raises(ValueError, match=r"^save: got a inception_v1_cifar that was changed after") as caught:
        save(net, path)
    assert "\n" not in str(caught.value) and path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    net.name = ""  # as the line says
    save(net, path)
    with pytest.raises(ValueError, match="the file has no network's name; build the layer yourself"):
        load(path)
    assert set(read_tensors(path)[0]) == set(inception_np.state_dict(net))


def test_a_number_that_the_file_does_not_hold_is_no_secret_either(tmp_path):
    net = small("inception_v3_cifar")
    another_eps(net)
    with pytest.raises(ValueError, match=r"0 lost, 0 new, 1 changed \(\S+\.bn\)"):
        save(net, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in list_models() if name.endswith("_cifar")])
def test_whatever_create_model_makes_is_saved_and_loaded(tmp_path, name):
    for number, net in enumerate(
        [
            small(name),
            small(name, aux=False, num_classes=3, seed=1),
            flatten(small(name)),
            move(cast(small(name), "float64"), "cpu"),
        ]
    ):
        for _, layer in inception_np.layer.walk(net):
            if isinstance(layer, BatchNorm):
                layer.decay = 0.5  # as training changes it
        save(net, tmp_path / f"{number}")
        other = load(tmp_path / f"{number}")
        state, again = inception_np.state_dict(net), inception_np.state_dict(other)
        assert all(np.array_equal(state[key], again[key]) for key in {**state, **again})


def test_a_network_that_was_named_by_hand_is_compared_with_one_made_now(tmp_path):
    net, made = small(), small()
    twin = Network(net.trunk, net.heads)
    twin.name, twin.preset, twin.options = made.name, made.preset, made.options
    save(twin, tmp_path / "model")
    one_more(twin)
    with pytest.raises(ValueError, match=r"1 new|2 new|3 new"):
        save(twin, tmp_path / "model")


def test_a_network_of_ones_own_is_saved_without_a_name(tmp_path):
    save(Network(Sequential(pool=GlobalAvgPool2D(), fc=Linear(3, 2))), tmp_path / "model")
    with pytest.raises(ValueError, match="the file has no network's name"):
        load(tmp_path / "model")


# Optimisers


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda n: SGD(n, 0.1, momentum=1.5), "SGD: got momentum=1.5, wanted less than 1: "),
        (lambda n: SGD(n, 0.1, momentum=1), "SGD: got momentum=1, wanted less than 1: "),
        (lambda n: RMSProp(n, 0.1, decay=2), "RMSProp: got decay=2, wanted less than 1: "),
        (lambda n: RMSProp(n, 0.1, decay=1.0), "RMSProp: got decay=1.0, wanted less than 1: "),
        (lambda n: RMSProp(n, 0.1, momentum=1), "RMSProp: got momentum=1, wanted less than 1: "),
        (lambda n: SGD(n, float("inf")), "SGD: got lr=inf, wanted a finite number"),
        (lambda n: SGD(n, 0.1, weight_decay=float("inf")), "SGD: got weight_decay=inf, wanted a finite number"),
        (lambda n: SGD(n, 0.1, weight_decay=float("nan")), "SGD: got weight_decay=nan, wanted at least 0"),
        (lambda n: RMSProp(n, 0.1, eps=float("inf")), "RMSProp: got eps=inf, wanted a finite number"),
        (lambda n: RMSProp(n, float("nan")), "RMSProp: got lr=nan, wanted at least 0"),
    ],
)
def test_numbers_that_no_optimiser_could_have_are_refused(make, text):
    net = Linear(3, 4)
    before = snapshot(net)
    with pytest.raises(ValueError) as caught:
        make(net)
    assert str(caught.value).startswith(text) and snapshot(net) == before
    assert not hasattr(net, "_vectors")


def test_numbers_at_the_edge_are_taken():
    SGD(Linear(3, 4), 0.0, momentum=0.999999, weight_decay=0.0)
    RMSProp(Linear(3, 4), 0.0, decay=0.0, momentum=0.0, eps=0.0)


class Holder(Layer):
    """Keeps something where children() does not look."""

    def __init__(self, held):
        self.held = held


def param():
    return Param(np.ones(3, np.float32))


HIDDEN = {
    "a list": lambda: [param()],
    "a dict": lambda: {"a": param()},
    "a tuple": lambda: (1, param()),
    "a list in a list": lambda: [[param()]],
    "a dict of lists": lambda: {"a": [1, param()]},
    "a list of layers": lambda: [ReLU(), Linear(3, 4)],
    "a dict of networks": lambda: {"a": Sequential(fc=Linear(3, 4))},
    "a buffer": lambda: [Buffer(np.ones(3, np.float32))],
}


@pytest.mark.parametrize("what", HIDDEN)
@pytest.mark.parametrize("make", [SGD, RMSProp])
def test_what_would_never_be_trained_is_named_where_the_optimiser_is_made(what, make):
    net = Sequential(fc=Linear(3, 4), mine=Sequential(inner=Holder(HIDDEN[what]())))
    with pytest.raises(
        ValueError, match=r"^mine\.inner: self\.held holds a \w+ that children\(\) does not name, so that"
    ):
        make(net, 0.1)
    assert not hasattr(net, "_vectors")
    net.layers["mine"].layers["inner"].children = lambda: {"held": param()}
    with pytest.raises(ValueError, match=r"self\.held holds"):  # naming something else does not help
        make(net, 0.1)


def test_what_children_names_or_what_is_no_parameter_may_stand_in_a_list():
    class Several(Layer):
        def __init__(self):
            self.parts = [Linear(3, 4), Linear(4, 5)]
            self.notes, self.shapes = ["a", 1, None], {"a": np.ones(3)}
            self.activation = [ReLU()]

        def children(self):
            return {str(i): part for i, part in enumerate(self.parts)}

    SGD(Several(), 0.1)
    for name in list_models("*_cifar"):
        check_children(small(name))


# Pictures for a model of one's own


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def own():
    return Sequential(conv=Conv2D(3, 4, 3), pool=GlobalAvgPool2D(), fc=Linear(4, 2))


@pytest.mark.parametrize("model", [own, lambda: Network(own())], ids=["Sequential", "Network"])
def test_a_model_of_ones_own_is_told_what_to_pass(picture, model):
    with pytest.raises(TypeError, match=r"^predict_images: got a \w+ that does not say .* preprocess=Preprocess\("):
        predict_images(model(), [picture])
    how = Preprocess((32, 32), mean=(1, 2, 3), std=(4, 5, 6))
    (found,) = predict_images(model(), [picture], preprocess=how)
    assert found.probabilities.shape == (2,) and abs(found.probabilities.sum() - 1) < 1e-12


def test_a_model_that_gives_no_classes_is_refused_and_one_without_weights_taken(picture):
    how = Preprocess((32, 32), mean=(1, 2, 3), std=(4, 5, 6))
    with pytest.raises(ValueError, match=r"whose y has shape \(1, 32, 32, 4\), wanted \(N, classes\); end it with"):
        predict_images(Sequential(Conv2D(3, 4, 3)), [picture], preprocess=how)
    assert len(predict_images(GlobalAvgPool2D(), [picture], preprocess=how)[0].probabilities) == 3


# What the system says


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENOSPC, 999])
def test_the_systems_errors_name_the_path_first_and_say_what_to_do(number):
    line = explained(OSError(number, os.strerror(number), "some/where"))
    assert line.startswith(f"some/where: {os.strerror(number)}; ") and "[Errno" not in line
    assert explained(ValueError("a\n b")) == "a b" and explained(OSError("a: b; c")) == "a: b; c"


def refuse(path, *_arguments, **_keywords):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.parametrize(
    "command", ["eval {m}", "predict {m} {p}", "predict {c} {p}", "train --data cifar10 --data-dir {d}"]
)
def test_a_file_that_may_not_be_read_is_named_with_what_to_do(capsys, monkeypatch, tmp_path, picture, command):
    save(small(), tmp_path / "model")
    line = command.format(m=tmp_path / "model", c=tmp_path / "model", p=picture, d=tmp_path).split()
    if "{c}" in command:
        monkeypatch.setattr("PIL.Image.open", refuse)
    elif "cifar10" in command:
        monkeypatch.setattr("inception_np.data.cifar10._found_files", refuse)
    else:
        monkeypatch.setattr("numpy.fromfile", refuse)
    assert main(line) == 1
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "[Errno" not in errors and str(tmp_path) in errors, errors
    assert "Permission denied; check who may read" in errors, errors

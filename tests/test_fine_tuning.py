"""Fine-tuning: what a run takes from a checkpoint, and what it leaves as it is."""

from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from small_runs import SMALL, same_bits, stop_after, timeless, tiny_networks, weights_of

from inception_np import __main__ as cli
from inception_np.backend.errors import StoppedError, UsageError
from inception_np.data import dataset
from inception_np.layer import Mode, cast, named_buffers, named_params, vectors
from inception_np.layers.conv_bn_relu import ConvBNReLU
from inception_np.models import create_model
from inception_np.training import freeze, loop, start, state, step
from inception_np.training.freeze import frozen_params, parts_without, split
from inception_np.training.mixup import mixed_loss
from inception_np.training.optim import SGD, RMSProp
from inception_np.weights.checkpoint import classifier_paths, load, load_state_dict, read, save, state_dict
from inception_np.weights.tensorfile import read_tensors, write_tensors

__all__ = ["tiny_networks"]  # a fixture
LOAD = dataset.load


@cache
def three_classes(name, folder=None, *, train=None, test=None, subset=False, size=32):
    """The data set with its first three classes alone."""
    data = LOAD(name, folder, train=10 * (train or 0) or None, test=10 * (test or 0) or None, subset=subset)
    parts = {}
    for part, count in (("train", train), ("test", test)):
        chosen = np.flatnonzero(getattr(data, f"{part}_labels") < 3)[:count]
        parts |= {f"{part}_{what}": getattr(data, f"{part}_{what}")[chosen] for what in ("images", "labels")}
    return replace(data, classes=data.classes[:3], **parts)


@contextmanager
def three():
    """Within this block the data sets have three classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dataset.KNOWN, "shapes10", dataset.KNOWN["shapes10"]._replace(classes=3))
        patch.setattr(loop, "load", three_classes)
        patch.setattr(dataset, "load", three_classes)
        yield


BASE = replace(
    SMALL, model="bn_inception_cifar", width=1 / 16, epochs=1, ema=0.0, clip=0.0, weight_decay=0.01, warm_up=0.0
)  # weight decay and momentum move every weight that a step may move


@pytest.fixture(scope="module")
def ten(tmp_path_factory, tiny_networks):
    """The checkpoint of a run of ten classes."""
    folder = tmp_path_factory.mktemp("ten")
    loop.train(folder, BASE)
    return folder / "checkpoint.safetensors"


@pytest.fixture
def tuned(ten):
    """The options of a run of three classes that starts from it, its first stages frozen."""
    return replace(BASE, **start.options_from(str(ten), {"from_": str(ten), "freeze": ("conv*", "3*"), "epochs": 2}))


# From a checkpoint


def test_a_run_of_ten_classes_is_tuned_to_three(tmp_path, ten, capsys):
    arguments = "--train-images 32 --test-images 10 --batch-size 16 --epochs 2 --lr 0.01 --weight-decay 0.01"
    with three():
        frozen = ("--freeze", "conv*", "3*")
        words = ["train", "--from", str(ten), *frozen, *arguments.split(), "--output", str(tmp_path / "tuned")]
        assert cli.main(words) == 0
        said = capsys.readouterr()
        assert cli.main(["eval", str(tmp_path / "tuned" / "best.safetensors")]) == 0
        assert "of 10 test images" in capsys.readouterr().out
    (line,) = [line for line in said.err.splitlines() if str(ten) in line]
    assert line.endswith("fc.weight, fc.bias are new: its classes are 10, those of shapes10 3")
    assert "of them frozen, on shapes10: 32 training and 10 test images" in said.err
    before, (net, about) = read_tensors(ten)[0], read(tmp_path / "tuned" / "checkpoint.safetensors")
    assert net.name == "bn_inception_cifar" and net.options["width"] == 1 / 16 and net.num_classes == 3
    assert about["classes"] == read(ten)[1]["classes"][:3]
    assert about["preprocess"]["mean"] == read(ten)[1]["preprocess"]["mean"]
    for path, array in state_dict(net).items():
        if path not in classifier_paths(net):
            assert array.tobytes() == before[path].tobytes() or not path.startswith(("conv", "3"))
            assert array.tobytes() != before[path].tobytes() or path.startswith(("conv", "3")), path


def test_what_is_taken_is_taken_to_the_bit(ten, tmp_path):
    options = replace(BASE, from_=str(ten))
    net = loop.Run(tmp_path, options, False).net
    assert same_bits(state_dict(net), dict(read_tensors(ten)[0]))
    with three():
        fresh, net = (loop.Run(tmp_path, replace(options, from_=path), False).net for path in (None, str(ten)))
    new = classifier_paths(net)
    assert new == ["fc.weight", "fc.bias"]
    assert all(np.array_equal(state_dict(fresh)[path], state_dict(net)[path]) for path in new)


def test_classes_of_another_order_get_a_new_classifier(ten, tmp_path, capsys):
    """As many classes, but permuted: the old classifier would call each by another's name."""
    net, about = read(ten)
    save(net, tmp_path / "c", about={**about, "classes": about["classes"][::-1]})
    options = replace(BASE, from_=str(tmp_path / "c"))
    run = loop.Run(tmp_path / "a", options, False)
    assert "fc.weight, fc.bias are new: its classes are others" in capsys.readouterr().err
    assert not np.array_equal(state_dict(run.net)["fc.weight"], state_dict(net)["fc.weight"])
    loop.Run(tmp_path / "a", replace(options, from_=str(ten)), False)
    assert "; none is new" in capsys.readouterr().err


def test_a_classifier_that_is_kept_whatever_its_classes_would_be_noticed(ten, tmp_path, capsys, monkeypatch):
    """The planted fault of the test above."""
    plain = start.load_state_dict
    monkeypatch.setattr(start, "load_state_dict", lambda net, state, classifier: plain(net, state))
    with pytest.raises(AssertionError):
        test_classes_of_another_order_get_a_new_classifier(ten, tmp_path, capsys)


def test_heads_that_are_left_out_are_named(tmp_path, capsys):
    net = create_model("inception_v3_cifar", width=1 / 16, num_classes=10, aux=True)
    save(net, tmp_path / "c")
    given = start.options_from(str(tmp_path / "c"), {"aux": False, "from_": str(tmp_path / "c")})
    assert (given["model"], given["preset"], given["width"]) == ("inception_v3_cifar", "paper", 1 / 16)
    run = loop.Run(tmp_path / "a", replace(BASE, **given), False)
    said = capsys.readouterr().err
    (head,) = net.heads
    assert said.count("\n") == 1 and f"aux_{head}.fc.weight" in said and "are left out, for want of the head" in said
    assert not run.net.heads


def test_a_network_with_heads_gets_new_last_layers_there_too(tmp_path):
    ten, three = (create_model("inception_v3_cifar", width=1 / 16, num_classes=n, seed=n, aux=True) for n in (10, 3))
    (head,) = ten.heads
    before = state_dict(three)
    kept = load_state_dict(three, state_dict(ten), classifier=False)
    assert (
        set(kept)
        == {f"{layer}.{array}" for layer in ("fc", f"aux_{head}.fc") for array in ("weight", "bias")} & set(before)
        and len(kept) >= 2
    )
    for path, array in state_dict(three).items():
        assert np.array_equal(array, before[path] if path in kept else state_dict(ten)[path])


@pytest.mark.parametrize("name", ["inception_v1_cifar", "xception_cifar", "speednet_cifar", "inception_v4_cifar"])
def test_the_classifier_is_what_has_an_output_for_each_class(name):
    a, b = (create_model(name, width=1 / 16, num_classes=n) for n in (10, 11))
    shapes = ({path: array.shape for path, array in state_dict(net).items()} for net in (a, b))
    one, other = shapes
    assert classifier_paths(a) == [path for path in one if one[path] != other[path]]


def test_a_state_of_other_classes_is_refused_with_the_argument_that_takes_the_rest():
    ten, three = (create_model("bn_inception_cifar", width=1 / 16, num_classes=n) for n in (10, 3))
    before = state_dict(three)
    with pytest.raises(ValueError, match=r"2 wrong shapes \(fc.weight .*classifier=False"):
        load_state_dict(three, state_dict(ten))
    assert same_bits(before, state_dict(three))
    with pytest.raises(ValueError, match=r"1 missing \("):  # it excuses nothing else
        load_state_dict(
            three, {k: v for k, v in state_dict(ten).items() if k != next(iter(state_dict(ten)))}, classifier=False
        )


def test_another_librarys_weights_come_without_their_classifier(tmp_path, capsys):
    ours = create_model("inception_v3", preset="torchvision", width=1 / 16, num_classes=5, aux=False)
    theirs = state_dict(ours, source="torchvision")
    net = create_model("inception_v3", preset="torchvision", width=1 / 16, num_classes=3, seed=1, aux=False)
    before = state_dict(net)
    with pytest.raises(ValueError, match=r"fc.weight: got shape \(5, 128\).*without the classifier .*--num-classes"):
        load_state_dict(net, theirs, source="torchvision")
    report = load_state_dict(net, theirs, source="torchvision", classifier=False)
    assert [name for name, _ in report.skipped if name.startswith("fc")] == ["fc.weight", "fc.bias"]
    assert not report.missing and not report.unexpected
    for path, array in state_dict(net).items():
        assert np.array_equal(array, (before if path.startswith("fc") else state_dict(ours))[path]), path


# What is frozen


PATTERNS = {
    "the first stages": ("conv*", "3*"),
    "a stage in the middle": ("4a",),
    "weights, but no biases and norms": ("*.weight",),
    "batch norms of every unit": ("*.bn.*",),
    "all but the classifier": ("conv*", "3*", "4*", "5*"),
    "one parameter": ("3a.b3.conv.bn.beta",),
}


def trained(folder, options, **how):
    """(weights and averages before, those after, the frozen parameters' paths, the run)."""
    run = loop.Run(folder, options, False)
    before = state_dict(run.net)
    result = loop.train(folder, options, **how)
    return before, dict(read_tensors(folder / "checkpoint.safetensors")[0]), run.frozen, result


def check_frozen(folder, options):
    before, after, frozen, _ = trained(folder, options)
    params = list(frozen)
    assert params
    norms = [path.removesuffix("beta") for path in params if path.endswith(".beta")]
    net = create_model(options.model, width=options.width)
    for path, value in after.items():
        still = before[path].tobytes() == value.tobytes()
        if path in named_params(net):
            assert still == (path in params), path
        elif path.endswith((".mean", ".var")):
            gamma = path.rpartition(".")[0] + ".gamma"
            whole = path.rpartition(".")[0] + "." in norms and (gamma in params or gamma not in named_params(net))
            assert still == whole, path


@pytest.mark.parametrize("patterns", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize(
    "more", [{}, {"optimizer": "rmsprop", "ema": 0.9}, {"lookahead": True, "clip": 0.1}], ids=["sgd", "rmsprop", "clip"]
)
def test_frozen_parameters_and_averages_do_not_change_by_a_bit_and_all_others_do(tmp_path, ten, patterns, more):
    check_frozen(tmp_path, replace(BASE, from_=str(ten), freeze=patterns, epochs=2, lr=1e-3, **more))


def test_so_do_those_of_a_network_with_heads_and_dropout(tmp_path):
    options = replace(SMALL, weight_decay=0.01, freeze=("3a", "aux_3a.fc.weight"))
    run = loop.Run(tmp_path, options, False)
    before = state_dict(run.net)
    loop.train(tmp_path, options)
    after = read_tensors(tmp_path / "checkpoint.safetensors")[0]
    same = {path for path, value in after.items() if before[path].tobytes() == value.tobytes()}
    assert same == {path for path in before if path.startswith("3a.")} | {"aux_3a.fc.weight"}


def decays(monkeypatch):
    """Weight decay on the whole vector."""
    monkeypatch.setattr(step, "parts_without", lambda net, frozen: [slice(None)])


def averages_move(monkeypatch):
    """Frozen layers run as in training."""
    monkeypatch.setattr(freeze.Frozen, "forward", lambda self, x, mode: self.layer.forward(x, mode))


def gaps(monkeypatch):
    """The last parameter of each part is forgotten."""
    monkeypatch.setattr(
        step,
        "parts_without",
        lambda *a: [slice(p.start, p.stop - 16) for p in parts_without(*a) if p.stop - p.start > 16],
    )


@pytest.mark.parametrize("fault", [decays, averages_move, gaps])
def test_what_would_move_frozen_numbers_is_noticed(tmp_path, ten, monkeypatch, fault):
    """The planted faults of the tests above."""
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        check_frozen(tmp_path, replace(BASE, from_=str(ten), freeze=("4a",), lr=1e-3))


class NoReplay:
    """The network's own passes, in the place of Replay."""

    def __init__(self, net, low_memory=False):
        self.net = net

    def forward(self, x, rng=None):
        y, self.cache = self.net.forward(x, Mode(train=True, keep=True, rng=rng))
        self.x = x
        return y

    def backward(self, dy):
        self.net.backward(dy, self.x, self.cache, need_dx=False)


@pytest.mark.parametrize("options", [{"freeze": PATTERNS[k]} for k in PATTERNS] + [{"mixup": 0.5}])
def test_replay_gives_the_same_bits_as_the_layers(tmp_path, ten, monkeypatch, options):
    chosen = replace(BASE, from_=str(ten), lr=1e-3, **options)
    loop.train(tmp_path / "replay", chosen)
    monkeypatch.setattr(step, "Replay", NoReplay)
    loop.train(tmp_path / "layers", chosen)
    assert same_bits(weights_of(tmp_path / "replay"), weights_of(tmp_path / "layers"))


def test_the_first_stages_run_without_a_backward_pass_and_a_head_ends_them():
    net = create_model("bn_inception_cifar", width=1 / 16)
    names = list(net.trunk.layers)
    fixed, rest = split(net, frozen_params(net, ["conv*", "3*"]))
    assert [*fixed.layers, *rest.trunk.layers] == names
    frozen = max(i for i, name in enumerate(names) if name.startswith(("conv", "3")))
    assert list(fixed.layers) == names[: frozen + 1] and list(split(net, frozen_params(net, ["4a"]))[0].layers) == []
    assert {**named_params(fixed), **named_params(rest)} == named_params(net)
    headed = create_model("inception_v3_cifar", width=1 / 16, aux=True)
    (head,) = headed.heads
    fixed, rest = split(headed, frozen_params(headed, [name for name in headed.trunk.layers if name != "fc"]))
    assert next(iter(rest.trunk.layers)) == head and fixed.layers
    assert isinstance(rest.trunk.layers[head], freeze.Frozen)


def test_the_gradient_behind_frozen_layers_is_that_of_constants():
    """Against central differences: the first stage and the classifier learn, all that is between is frozen."""
    net = cast(create_model("inception_resnet_v2_cifar", width=1 / 16, num_classes=3, blocks_a=1), np.float64)
    rng = np.random.default_rng(0)
    for buffer in named_buffers(net).values():
        buffer.data[...] += rng.uniform(-0.3, 0.3, buffer.data.shape)
    stages = list(net.trunk.layers)
    _, rest = split(net, frozen_params(net, stages[1:-1]))
    x, labels = rng.normal(size=(2, 32, 32, 3)), np.array([0, 2])
    y, cache = rest.forward(x, Mode(train=True, keep=True, rng=np.random.default_rng(1)))
    dy = mixed_loss(y, [(1.0, labels)], 0.3, 0.1)[2]
    rest.backward(dy, x, cache, need_dx=False)
    first = named_params(net)
    path = next(iter(first))
    got = (first[path].grad * (v := rng.normal(size=first[path].grad.shape))).sum()
    losses = []
    for h in (1e-7, -1e-7):  # (a larger step meets the kinks of ReLU)
        first[path].data += h * v
        again = rest.forward(x, Mode(train=True, rng=np.random.default_rng(1)))[0]
        losses.append(mixed_loss(again, [(1.0, labels)], 0.3, 0.1)[0])
        first[path].data -= h * v
    assert got == pytest.approx((losses[0] - losses[1]) / 2e-7, rel=1e-5) and abs(got) > 1e-6


def test_the_parts_are_the_parameters_that_are_not_frozen():
    net = create_model("xception_cifar", width=1 / 16)
    vector = vectors(net)[0]
    for patterns in (["*.bn.*"], ["*.weight"], [next(iter(named_params(net)))], list(net.trunk.layers)[3:5]):
        frozen = frozen_params(net, patterns)
        vector[...] = 0
        for part in parts_without(net, frozen):
            vector[part] += 1
        for path, param in named_params(net).items():
            assert (param.data == (path not in frozen)).all(), path


@pytest.mark.parametrize("patterns, text", [
    (("conf1",), "got 'conf1', which no parameter of bn_inception_cifar matches; the nearest "),
    (("conv*", "3a.b3.conv.bn.bata"), "the nearest are 3a.b3.conv.bn.beta"),
    (("*",), "got *, which leaves nothing to train in bn_inception_cifar; "),
    (("pool*",), "which has no parameters in bn_inception_cifar; "),
])  # fmt: skip
def test_patterns_that_freeze_nothing_or_everything_are_refused(tmp_path, patterns, text):
    with pytest.raises(UsageError, match=r"^--freeze: .+; .+") as caught:
        loop.train(tmp_path / "new", replace(BASE, freeze=patterns))
    assert text in str(caught.value) and not (tmp_path / "new").exists()


def test_a_batch_norm_frozen_alone_in_a_layer_of_ones_own_is_refused():
    class Unit(ConvBNReLU):
        def forward(self, x, mode, out=None):
            return super().forward(x, mode, out)

    net = create_model("bn_inception_cifar", width=1 / 16)
    name = next(iter(net.trunk.layers))
    net.trunk.layers[name] = Unit(3, 4, 3)
    with pytest.raises(UsageError, match=rf"got the batch norm {name}.bn alone, but Unit cannot keep"):
        split(net, frozen_params(net, [f"{name}.bn.*"]))


@pytest.mark.parametrize("kind", [SGD, RMSProp])
def test_an_optimiser_moves_its_parts_alone(kind):
    net = create_model("bn_inception_cifar", width=1 / 16)
    other = create_model("bn_inception_cifar", width=1 / 16)
    optimisers = [kind(n, 0.1, momentum=0.9, weight_decay=0.1) for n in (net, other)]
    optimisers[0].parts = [slice(64, 128), slice(1024, None)]
    for _ in range(3):
        for o in optimisers:
            o.grad[...] = np.random.default_rng(0).normal(size=o.grad.shape)
            o.step()
    moved = np.zeros(len(optimisers[0].data), bool)
    for part in optimisers[0].parts:
        moved[part] = True
    fresh = vectors(create_model("bn_inception_cifar", width=1 / 16))[0]
    assert np.array_equal(optimisers[0].data, np.where(moved, optimisers[1].data, fresh))


# Resuming, and errors


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_tuned_run_is_resumed_with_the_same_bits_without_the_file_that_it_began_with(
    tmp_path, ten, tuned, monkeypatch, steps
):
    (tmp_path / "c").write_bytes(ten.read_bytes())
    options = replace(tuned, from_=str(tmp_path / "c"), ema=0.9, mixup=0.2)
    loop.train(tmp_path / "whole", options)
    with monkeypatch.context() as stopping, pytest.raises(StoppedError):
        stop_after(stopping, steps)
        loop.train(tmp_path / "stopped", options)
    (tmp_path / "c").unlink()
    assert state.stored_options(tmp_path / "stopped") == options
    loop.train(tmp_path / "stopped", options, resume=True)
    assert same_bits(weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"))
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "stopped")


def test_images_are_normalised_as_those_of_the_checkpoint(tmp_path, ten, tuned):
    about = read(ten)[1]
    net = load(ten)
    how = {**about["preprocess"], "mean": [10, 20, 30], "std": [40, 50, 60]}
    save(net, tmp_path / "c", about={**about, "preprocess": how})
    given = start.options_from(str(tmp_path / "c"), {"from_": str(tmp_path / "c")})
    assert (given["mean"], given["std"]) == ((10, 20, 30), (40, 50, 60))
    run = loop.Run(tmp_path / "run", replace(BASE, **given), False)
    assert (run.data.mean, run.data.std) == ((10, 20, 30), (40, 50, 60))
    loop.train(tmp_path / "run", replace(BASE, **given))
    assert read(tmp_path / "run" / "checkpoint.safetensors")[1]["preprocess"]["mean"] == [10, 20, 30]
    assert start.options_from(str(tmp_path / "c"), {"mean": (1.0,), "std": (1.0,)})["mean"] == (1.0,)


def test_a_checkpoint_with_a_number_that_is_not_finite_is_refused(tmp_path, ten):
    arrays, metadata = read_tensors(ten)
    del metadata["sha256"]
    write_tensors(
        tmp_path / "c", {k: v * np.float32(np.nan) if k == "fc.bias" else v for k, v in arrays.items()}, metadata
    )
    with pytest.raises(ValueError, match=r"fc.bias holds NaN or infinity; "):
        loop.train(tmp_path / "new", replace(BASE, from_=str(tmp_path / "c")))
    assert not (tmp_path / "new").exists()


CONFLICTS = {
    "another network": (
        {"model": "xception_cifar", "freeze": ()},
        r"--model: got xception_cifar, but .* has bn_inception_cifar; ",
    ),
    "another width": ({"width": 1 / 8}, r"--width: got 0.125, but .* has 0.0625; leave it out"),
    "another preset": ({"preset": "caffe"}, r"--preset: got caffe, but .* has paper; leave it out"),
    "no checkpoint": ({"from_": "none.safetensors"}, r"none.safetensors: no such file"),
    "a mean alone": ({"mean": (1.0,), "std": None}, r"--mean: got \(1.0,\) with --std None; give both"),
    "grey images": ({"mean": (1.0,), "std": (1.0,)}, r"--mean: got 1 numbers; shapes10 has 3 channels, give as many"),
    "no deviation": ({"std": (1.0, 0.0, 1.0)}, r"--std: got .*; give numbers above 0"),
    "a list": ({"freeze": ["conv*"]}, r"--freeze: got \['conv\*'\]; give a value of type tuple"),
    "frozen in a graph": (
        {"device": "cuda", "precision": "tf32"},
        r"--freeze: got it with --precision tf32, whose capt",
    ),
    "mixed in a graph": (
        {"device": "cuda", "precision": "bf16", "freeze": (), "mixup": 0.1},
        r"--mixup: got it with --precision bf16, whose captured step cannot do it; ",
    ),
    "distorted in a graph": (
        {"device": "cuda", "precision": "tf32", "freeze": (), "distort": 0.5},
        r"--distort: got it with --precision tf32, whose captured step cannot do it; ",
    ),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_what_does_not_fit_the_checkpoint_is_refused(tmp_path, tuned, case):
    wrong, text = CONFLICTS[case]
    with pytest.raises((UsageError, OSError), match=f"{text}"):
        loop.train(tmp_path / "new", replace(tuned, **wrong))
    assert not (tmp_path / "new").exists()


def test_a_network_that_train_does_not_make_and_images_of_another_order_are_refused(tmp_path):
    how = {"size": [32, 32], "bgr": True}
    other = {"option": ("naive=false",)}
    for net, about, given, text in (
        (
            create_model("inception_v1_cifar", width=1 / 16, naive=True),
            {},
            other,
            "--option: .* has naive=True, a new network False",
        ),
        (
            create_model("bn_inception_cifar", width=1 / 16),
            {"preprocess": how},
            {},
            "--from: .* wants blue before green",
        ),
        (
            create_model("bn_inception_cifar", width=1 / 16, in_channels=1),
            {},
            {},
            "--from: .* has in_channels=1, a new",
        ),
    ):
        save(net, tmp_path / "c", about=about)
        with pytest.raises(UsageError, match=text):
            given = start.options_from(str(tmp_path / "c"), given)
            loop.train(tmp_path / "new", replace(BASE, **given, from_=str(tmp_path / "c")))
    net = create_model("bn_inception_cifar", width=1 / 16)
    net.name = ""
    save(net, tmp_path / "c")
    with pytest.raises(UsageError, match=r"--from: .* does not name its network; give a file"):
        start.options_from(str(tmp_path / "c"), {})


def test_import_makes_a_new_classifier_on_request(tmp_path, capsys):
    ours = create_model("inception_v3", preset="torchvision", num_classes=4, aux=False)
    write_tensors(tmp_path / "theirs.safetensors", state_dict(ours, source="torchvision"), {})
    words = ["import", str(tmp_path / "theirs.safetensors"), "--source", "torchvision", "--model", "inception_v3"]
    assert cli.main([*words, "--num-classes", "3", "--output", str(tmp_path / "c")]) == 0
    assert "96 skipped" in (said := capsys.readouterr().out) and "the classifier, of 3 classes, is new" in said
    net, about = read(tmp_path / "c")
    assert net.num_classes == 3 and "classes" not in about  # skipped are 94 counters of batches too
    theirs, state = state_dict(ours), state_dict(net)
    kept = [path for path, a in state.items() if path[:3] != "fc." and np.array_equal(a, theirs[path])]
    assert len(kept) == len(state) - 2

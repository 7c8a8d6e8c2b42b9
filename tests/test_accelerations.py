"""The accelerations of the BN paper (section 4.2) as switches: the distortions, a network's own options, the numbers of
the optimiser and of the schedule; and the experiment that compares them.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from small_runs import SMALL, same_bits, stop_after, tiny_networks, weights_of

from inception_np import __main__ as cli
from inception_np import create_model, named_params
from inception_np.backend.errors import StoppedError, UsageError
from inception_np.data import distort as module
from inception_np.data.distort import ORDERS, distort
from inception_np.data.random import stream
from inception_np.layer import walk
from inception_np.layers.activation import Dropout
from inception_np.layers.batchnorm import BatchNorm
from inception_np.layers.lrn import LRN
from inception_np.training import fits, loop, schedules, state
from inception_np.training import step as step_module
from inception_np.training.optim import RMSProp
from inception_np.training.options import Options, resolve
from inception_np.training.own_options import as_texts, own_options
from inception_np.weights.checkpoint import read
from reference.colours import distorted

__all__ = ["tiny_networks"]  # a fixture


def pictures(count, channels=3, height=5, width=7, low=0, high=256):
    return np.random.default_rng(3).integers(low, high, (count, height, width, channels)).astype(np.uint8)


# The distortions


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("strength", [0.3, 1.0, 2.0])
def test_a_distorted_picture_is_that_of_the_steps_one_after_another(strength, channels):
    images = pictures(60, channels)
    before, found = images.copy(), distort(images, strength, stream(4, "distort", 2, 9))
    v = stream(4, "distort", 2, 9).random((60, 5))
    assert found.dtype == np.uint8 and found.shape == images.shape and np.array_equal(images, before)
    exact = np.stack([distorted(images[n], strength, v[n]) for n in range(60)])
    far = np.abs(found - exact)
    assert (far > 0).mean() < 2e-3 and far.max() <= 3  # where float32 rounds a half to the other side


BRIGHTNESS, CONTRAST, SATURATION, HUE = module.brightness, module.contrast, module.saturation, module.hue
FAULTS = {
    "one order for all": ("ORDERS", ORDERS[:1].repeat(24, 0)),
    "no brightness": ("brightness", lambda u, x, s: BRIGHTNESS(0 * u, x, s)),
    "contrast about the first image's mean": ("contrast", lambda u, x, s: CONTRAST(u, x[:1].repeat(len(x), 0), s)),
    "half the saturation": ("saturation", lambda u, x, s: SATURATION(u / 2, x, s)),
    "the hue turned the other way": ("hue", lambda u, x, s: HUE(-u, x, s)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_another_distortion_would_be_noticed(monkeypatch, fault):
    monkeypatch.setattr(module, *FAULTS[fault])
    with pytest.raises(AssertionError):
        test_a_distorted_picture_is_that_of_the_steps_one_after_another(1.0, 3)


def test_the_order_matters_for_colours_that_are_clipped_alone():
    """The four maps commute: in a picture of middling colours only rounding tells their order."""
    for images, least, most in ((pictures(60, low=110, high=140), 0, 6), (pictures(60), 100, 255)):
        fixed = np.abs(distort(images, 0.9, Fixed(0.0)).astype(int) - distort(images, 0.9, Fixed(0.99)))
        assert least <= fixed.max() <= most


class Fixed:
    """Draws of extreme amounts, and one order for all: the first or the last."""

    def __init__(self, last):
        self.last = last

    def random(self, shape):
        v = np.random.default_rng(0).choice([0.05, 0.95], shape)
        v[:, 4] = self.last
        return v


def test_the_draws_of_an_image_are_those_of_its_place_and_of_no_other():
    images = pictures(12)
    whole = distort(images, 1.0, stream(0, "distort", 1, 2))
    assert np.array_equal(whole, distort(images, 1.0, stream(0, "distort", 1, 2)))
    assert np.array_equal(whole[:5], distort(images[:5], 1.0, stream(0, "distort", 1, 2)))
    for other in ((1, "distort", 1, 2), (0, "distort", 2, 2), (0, "distort", 1, 3)):
        changed = distort(images, 1.0, stream(*other))
        assert all((changed[n] != whole[n]).any() for n in range(12))
    same = distort(images[:1].repeat(50, 0), 1.0, stream(0, "distort"))
    assert len({image.tobytes() for image in same}) == 50


def test_no_strength_changes_nothing_and_every_order_comes():
    images = pictures(40)
    assert np.array_equal(distort(images, 0.0, stream(7, "distort")), images)
    chosen = ORDERS[(stream(7, "distort").random((2000, 5))[:, 4] * 24).astype(int)]
    counts = np.unique(chosen, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 50 and sorted(map(tuple, ORDERS))[0] == (0, 1, 2, 3)


def test_greys_stay_grey_and_nothing_wraps_around():
    grey = pictures(30, 1, low=0, high=256).repeat(3, 3)
    found = distort(grey, 2.0, stream(1, "distort")).astype(int)
    assert np.ptp(found, axis=3).max() <= 1
    white = np.full((200, 4, 4, 3), 250, np.uint8)
    found = distort(white, 2.0, stream(1, "distort"))
    assert found.min() >= 250 - 64 and (found == 255).any()


def test_a_run_with_distortions_trains_on_them_and_resumes_with_the_same_bits(tmp_path, monkeypatch):
    options = replace(SMALL, distort=1.0)
    loop.train(tmp_path / "whole", options)
    loop.train(tmp_path / "plain", SMALL)
    stop_after(monkeypatch, 4)
    with pytest.raises(StoppedError):
        loop.train(tmp_path / "stopped", options)
    monkeypatch.undo()
    loop.train(tmp_path / "stopped", options, resume=True)
    assert same_bits(weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"))
    assert not same_bits(weights_of(tmp_path / "whole"), weights_of(tmp_path / "plain"))


@pytest.mark.parametrize("augment", [True, False])
def test_a_batch_is_distorted_before_it_is_cropped_and_normalised(tmp_path, augment):
    """The border keeps the mean colour, which is 0 to the network."""
    run = loop.Run(tmp_path, replace(SMALL, distort=0.7, augment=augment), False)
    index, data = np.arange(16), run.data
    x, _ = run.training_step.batch(data.train_images[index], data.train_labels[index], partial(stream, 5), None)
    images = distort(data.train_images[index], 0.7, stream(5, "distort"))
    if augment:
        images = step_module.augment(images, data.pad, data.mean, stream(5, "augment"))
    assert np.array_equal(x, step_module.normalise(images, data.mean, data.std))


def test_the_captured_step_takes_no_distortions():
    with pytest.raises(ValueError, match=r"^--distort: the captured step has no such thing"):
        step_module.GraphStep(None, None, None, replace(SMALL, distort=0.5), None)


# A network's own options


@pytest.mark.parametrize(
    "model, texts, found",
    [
        ("inception_v1_cifar", ["lrn=false", "batch_norm=TRUE"], {"lrn": False, "batch_norm": True}),
        ("googlenet", ["separable_stem=true", "dropout=0"], {"separable_stem": True, "dropout": 0.0}),
        ("inception_resnet_v2", ["scale_a=.1", "blocks_b=3", "linear_c=true"],
         {"scale_a": 0.1, "blocks_b": 3, "linear_c": True}),
        ("inception_v3_cifar", ["hidden=256-128"], {"hidden": "256-128"}),
        ("inception_v3_cifar", ["hidden=256"], {"hidden": "256"}),
        ("inception_v3_cifar", ["hidden="], {"hidden": ""}),
        ("xception", ["pool_padding=symmetric", "bn_eps=1e-5"], {"pool_padding": "symmetric", "bn_eps": 1e-5}),
        ("bn_inception", ["pool_proj_4cd=128"], {"pool_proj_4cd": 128}),
        ("speednet_cifar", [], {}),
    ],
)  # fmt: skip
def test_texts_become_values_of_the_types_that_the_network_has(model, texts, found):
    values = own_options(model, texts)
    assert values == found and [type(v) for v in values.values()] == [type(v) for v in found.values()]
    assert own_options(model, as_texts(values)) == found
    create_model("inception_v1_cifar", **found) if model == "inception_v1_cifar" else None


@pytest.mark.parametrize("text, said", [
    ("lrn", "got 'lrn'; give NAME=VALUE"),
    ("=1", "has no option ''; it has naive, lrn, batch_norm, dropout"),
    ("seed=1", "has no option 'seed'"),
    ("separable_stem=true", "has no option 'separable_stem'"),
    ("lrn=0", "got lrn=0; give true or false"),
    ("lrn=none", "got lrn=none; give true or false"),
    ("dropout=nan", "got dropout=nan; give a number"),
    ("dropout=", "got dropout=; give a number"),
    ("dropout=[0]", "got dropout=[0]; give a number"),
])  # fmt: skip
def test_what_is_no_option_of_the_network_is_refused_with_those_it_has(text, said):
    with pytest.raises(UsageError) as caught:
        own_options("inception_v1_cifar", [text])
    assert said in str(caught.value) and str(caught.value).startswith("--option: ") and "\n" not in str(caught.value)


def kinds(net, kind):
    return [child for _, child in walk(net) if isinstance(child, kind)]


def test_googlenet_has_lrn_and_dropout_as_asked():
    for options, lrn, batch_norm, rate in (
        ({}, 2, False, 0.4),
        ({"batch_norm": True}, 0, True, 0.4),
        ({"batch_norm": True, "lrn": True}, 2, True, 0.4),
        ({"lrn": False, "dropout": 0}, 0, False, 0.0),
        ({"dropout": 0.1}, 2, False, 0.1),
    ):
        net = create_model("inception_v1_cifar", width=1 / 16, **options)
        norms = {id(norm) for norm in kinds(net, LRN)}
        places = [stage for stage in ("conv1", "conv2") if kinds(net.trunk.layers[stage], LRN)]
        assert (len(places), bool(norms)) == (lrn, lrn > 0) and bool(kinds(net, BatchNorm)) == batch_norm
        assert [d.rate for d in kinds(net.trunk, Dropout)] == [rate]
        assert [d.rate for d in kinds(net.heads["4a"], Dropout)] == [0.7]
    caffe = create_model("inception_v1", preset="torchvision", width=1 / 16, aux=False)
    assert [d.rate for d in kinds(caffe, Dropout)] == [0.2] and not kinds(caffe, LRN)


SHORT = ["--train-images", "32", "--test-images", "10", "--batch-size", "16", "--width", "0.0625", "--no-aux"]
PLAIN = ["train", "--model", "inception_v1_cifar", "--optimizer", "sgd", *SHORT]


def test_a_run_makes_the_network_it_was_asked_for_and_its_checkpoint_says_so(tmp_path, capsys):
    words = [*PLAIN, "--epochs", "1", "--output", str(tmp_path / "a")]
    assert cli.main([*words, "--option", "lrn=false", "--option", "dropout=0"]) == 0
    net, _ = read(tmp_path / "a" / "checkpoint.safetensors")
    assert not kinds(net, LRN) and [d.rate for d in kinds(net, Dropout)] == [0.0]
    assert json.loads((tmp_path / "a" / "options.json").read_text())["option"] == ["dropout=0.0", "lrn=false"]
    again = ["train", "--resume", "--output", str(tmp_path / "a"), "--epochs", "2"]
    assert cli.main([*again, "--option", "dropout=0.1", "--option", "lrn=false"]) == 2
    assert "--option: got ('dropout=0.1', 'lrn=false'), the run in " in capsys.readouterr().err
    assert cli.main([*again, "--option", "lrn=false", "--option", "dropout=.0"]) == 0  # the same, in other words
    best = str(tmp_path / "a" / "best.safetensors")
    assert cli.main(["eval", best]) == 0
    tuned = ["train", "--from", best, *SHORT, "--epochs", "1", "--optimizer", "sgd", "--output", str(tmp_path / "b")]
    assert cli.main(tuned) == 0
    assert read(tmp_path / "b" / "checkpoint.safetensors")[0].options == net.options
    assert cli.main([*tuned[:-1], str(tmp_path / "c"), "--option", "lrn=true"]) == 2
    assert "--option: " in (said := capsys.readouterr().err) and "has lrn=False, a new network True; " in said


def test_summary_shows_the_network_with_its_options(capsys):
    def parameters(*more):
        assert cli.main(["summary", "inception_v1_cifar", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)["params"]

    net = create_model("inception_v1_cifar", naive=True, aux=False)
    naive = sum(p.data.size for p in named_params(net).values())
    assert parameters("--option", "naive=true") == naive != parameters()


def test_the_recipe_of_a_network_without_batch_norm_goes_by_what_it_has():
    def rate(**given):
        return resolve(optimizer="sgd", **given).lr

    with_norm, without = rate(model="bn_inception_cifar"), rate(model="inception_v1_cifar")
    assert with_norm != without
    assert rate(model="inception_v1_cifar", option=("batch_norm=true",)) == with_norm
    assert rate(model="bn_inception_cifar", option=("batch_norm=false",)) == without
    assert rate(model="inception_v1_cifar", option=("lrn=false",)) == without
    assert rate(model="inception_v1_cifar", preset="torchvision") == with_norm


# Each switch arrives


RMSPROP = replace(SMALL, optimizer="rmsprop", ema=0.0)
SWITCHES = {
    "option": (replace(SMALL, model="inception_v1_cifar", width=1 / 16, ema=0.0), ("lrn=false",)),
    "distort": (SMALL, 1.0),
    "rms_decay": (RMSPROP, 0.5),
    "rms_eps": (RMSPROP, 0.01),
    "lr_factor": (replace(SMALL, schedule="exponential", lr_every=0.5), 0.5),
    "lr_every": (replace(SMALL, schedule="exponential"), 0.5),
    "weight_decay": (SMALL, 0.1),
}


def steps_of(folder, options):
    """The weights after the first epoch's steps."""
    run = loop.Run(folder, options, False)
    for run.step, index in enumerate(np.arange(48).reshape(3, 16)):
        run.train_step(index)
    return run.weights.copy()


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_changes_the_weights(tmp_path, name):
    options, value = SWITCHES[name]
    assert not np.array_equal(steps_of(tmp_path, options), steps_of(tmp_path, replace(options, **{name: value})))


def forgetful(function, *names):
    return lambda *args, **given: function(*args, **{k: v for k, v in given.items() if k not in names})


STAIRS = schedules.exponential
DROPPED = {
    "option": (fits, "own_options", lambda model, texts: {}),
    "distort": (step_module, "distort", lambda images, strength, rng: images),
    "rms_decay": (step_module, "RMSProp", forgetful(RMSProp, "decay")),
    "rms_eps": (step_module, "RMSProp", forgetful(RMSProp, "eps")),
    "lr_factor": (schedules, "exponential", lambda lr, factor, every: STAIRS(lr, 0.94, every)),
    "lr_every": (schedules, "exponential", lambda lr, factor, every: STAIRS(lr, factor, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", DROPPED)
def test_a_switch_that_is_dropped_would_be_noticed(tmp_path, monkeypatch, name):
    monkeypatch.setattr(*DROPPED[name])
    with pytest.raises(AssertionError):
        test_every_switch_changes_the_weights(tmp_path, name)


def test_the_numbers_arrive_as_they_are(tmp_path):
    run = loop.Run(tmp_path, replace(RMSPROP, rms_decay=0.7, rms_eps=0.02, warm_up=0, schedule="exponential",
                                     lr_factor=0.8, lr_every=0.25), False)  # fmt: skip
    assert (run.optimiser.decay, run.optimiser.eps) == (0.7, 0.02)
    assert run.schedule(0.6) == pytest.approx(0.05 * 0.8**2) and run.schedule(0.2) == 0.05
    usual = loop.Run(tmp_path, replace(RMSPROP, warm_up=0, schedule="exponential"), False)
    assert (usual.optimiser.decay, usual.optimiser.eps) == (0.9, 1.0)
    assert usual.schedule(1.9) == 0.05 and usual.schedule(2.1) == pytest.approx(0.05 * 0.94)


def test_the_command_line_hands_every_switch_on(tmp_path, monkeypatch):
    taken = {}

    def train(folder, options, **how):
        taken["options"] = options
        return {"test_accuracy": 0.0, "test_loss": 0.0, "epoch": 1}

    monkeypatch.setattr(loop, "train", train)
    words = "--distort 0.5 --rms-decay 0.8 --rms-eps 0.1 --optimizer rmsprop --lr-factor 0.96 --lr-every 8"
    more = "--schedule exponential --option scale_b=0.2 --option blocks_a=1"
    assert cli.main(["train", *words.split(), *more.split()]) == 0
    o = taken["options"]
    assert (o.distort, o.rms_decay, o.rms_eps, o.lr_factor, o.lr_every) == (0.5, 0.8, 0.1, 0.96, 8.0)
    assert o.option == ("blocks_a=1", "scale_b=0.2") and set(state.ADDED) >= {"option", "distort", "rms_eps"}
    assert all(state.ADDED[name] == getattr(Options, name) for name in state.ADDED if name not in ("option", "freeze"))


# The experiment

EXAMPLE = Path(__file__).parents[1] / "examples" / "accelerations.py"


@pytest.fixture
def example():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("accelerations", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["accelerations"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["accelerations"]


def test_the_experiment_changes_one_thing_at_a_time_and_all_together(example):
    baseline = example.BASELINE
    changes = {name: {k for k in run if run[k] != baseline[k]} for name, run in example.RUNS.items()}
    assert changes["BN-Baseline"] == set() and changes["Inception"] == {"option"}
    assert all(len(changes[name]) == 1 for name in example.ALONE) and len(example.ALONE) == 7
    assert changes["BN-x5"] == changes["BN-x30"] == {"lr", *changes["no dropout"], *changes["L2 / 5"],
        *changes["decay x6"], *changes["reshuffled"], *changes["distortion / 2"]}  # fmt: skip
    for run, other in (("BN-x5", "rate x5"), ("BN-x5", "L2 / 5"), ("BN-x5", "decay x6"), ("BN-x5", "reshuffled")):
        (what,) = changes[other]
        assert example.RUNS[run][what] == example.RUNS[other][what]
    assert example.RUNS["BN-x30"]["lr"] == pytest.approx(30 * baseline["lr"])
    both = example.RUNS["BN-x5"]["option"]
    assert "dropout=0" in both and "lrn=false" in both and "batch_norm=true" in both
    for run in example.RUNS.values():
        own_options("inception_v1_cifar", run["option"])


def test_its_table_counts_the_steps_to_what_the_first_run_reaches(example):
    curves = {
        "Inception": [(10, 0.2), (20, 0.6), (30, 0.5)],
        "BN-Baseline": [(10, 0.3), (20, 0.35), (30, 0.4)],
        "BN-x5": [(10, 0.6), (20, 0.9), (30, 0.7)],
        "broken": [],
    }
    head, *lines = example.table(curves)
    assert [line.split() for line in lines] == [
        ["Inception", "60.0%", "20", "1.0", "20"],
        ["BN-Baseline", "40.0%", "-", "-", "30"],
        ["BN-x5", "90.0%", "10", "2.0", "10"],
        ["broken", "0.0%", "-", "-", "-"],
    ]
    assert "steps to Inception" in head


def test_a_run_of_it_ends_where_its_loss_does(example, monkeypatch):
    """With a rate that no network stands, and as many steps and tests as asked for without."""
    data = {"data": "shapes10", "train_images": 64, "test_images": 20}
    found = example.curve(example.RUNS["BN-x5"], data, 2, 2)
    assert [steps for steps, _ in found] == [2, 4] and all(0 <= accuracy <= 1 for _, accuracy in found)
    assert example.curve(example.INCEPTION | {"lr": 1e6}, data, 2, 4) == []


@pytest.mark.long
def test_the_experiment_in_small_draws_its_picture_and_batch_norm_learns_sooner(tmp_path):
    words = ["--images", "640", "--test-images", "300", "--epochs", "8", "--every", "20"]
    environment = {k: v for k, v in os.environ.items() if k != "INCEPTION_NP_DATA"}
    done = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path / "curves.png", *words],
        capture_output=True, text=True, check=True, env=environment, timeout=1200,
    )  # fmt: skip
    lines = done.stdout.splitlines()[-11:]
    rows = {line[:16].strip(): line[16:].split() for line in lines}
    assert list(rows) == ["Inception", "BN-Baseline", "BN-x5", "BN-x30", "rate x5", "no dropout", "L2 / 5", "decay x6",
        "no LRN", "reshuffled", "distortion / 2"]  # fmt: skip
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    best = {name: float(row[0].rstrip("%")) for name, row in rows.items()}
    assert best["BN-x30"] > best["Inception"] + 5, lines  # after 160 steps the others have hardly begun

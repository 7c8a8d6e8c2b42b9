"""Training: that it learns, ends with the same bits however often it is stopped, and says what went wrong."""

import json
import math
import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import (
    ARGUMENTS,
    DRAW,
    REAL,
    SMALL,
    command,
    same_bits,
    stop_after,
    timeless,
    tiny_networks,
    uninterrupted,
    wait_for,
    weights_of,
)

from inception_np import SGD, BatchNorm, ConvBNReLU, GlobalAvgPool2D, Linear, Sequential
from inception_np.backend.errors import StoppedError, UsageError
from inception_np.data.batches import alternating
from inception_np.kernels.clip import CHUNK, clip_norm
from inception_np.layer import Mode, cast, named_buffers, named_params, vectors
from inception_np.layers.loss import softmax_cross_entropy, total_loss
from inception_np.models import create_model
from inception_np.training import evaluate, loop, plots, schedules, state
from inception_np.training import step as step_module
from inception_np.training.average import Lookahead, MovingAverage, warm_statistics
from inception_np.training.options import Options, resolve
from inception_np.weights.checkpoint import load, read
from inception_np.weights.tensorfile import read_tensors
from reference.views import six_views

KILLS = 4
__all__ = ["tiny_networks", "uninterrupted"]  # fixtures


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8])
def test_a_run_stopped_at_any_step_and_resumed_ends_with_the_same_bits(tmp_path, monkeypatch, uninterrupted, steps):
    stop_after(monkeypatch, steps)
    with pytest.raises(StoppedError, match="--resume --output"):
        loop.train(tmp_path, SMALL)
    monkeypatch.undo()
    loop.train(tmp_path, SMALL, resume=True)
    whole = uninterrupted[SMALL.model]
    assert same_bits(weights_of(tmp_path), weights_of(whole))
    assert timeless(tmp_path) == timeless(whole)


def test_a_real_network_with_rmsprop_resumes_with_the_same_bits(tmp_path, monkeypatch, uninterrupted):
    for steps in (2, 3):
        stop_after(monkeypatch, steps)
        with pytest.raises(StoppedError):
            loop.train(tmp_path, REAL, resume=(tmp_path / "state.safetensors").exists())
        monkeypatch.undo()
    loop.train(tmp_path, REAL, resume=True)
    assert same_bits(weights_of(tmp_path), weights_of(uninterrupted[REAL.model]))


FAULTS = {
    "the optimiser's vectors are forgotten": lambda run: [v.fill(0) for v in run.optimiser.state.values()],
    "the averages are forgotten": lambda run: [m.fill(0) for m in run.average.means],
    "the averages' count is forgotten": lambda run: setattr(run.average, "updates", 0),
    "the step is forgotten": lambda run: setattr(run, "step", 0),
    "a weight is rounded": lambda run: run.weights.__setitem__(0, np.float16(run.weights[0])),
    "the seed of the streams is another": lambda run: setattr(run, "options", replace(run.options, seed=6)),
    "the schedule begins again": lambda run: setattr(run, "schedule", schedules.constant(0.05)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_resume_would_forget_is_noticed(tmp_path, monkeypatch, uninterrupted, fault):
    """The planted faults of the two tests above."""
    stop_after(monkeypatch, 5)
    with pytest.raises(StoppedError):
        loop.train(tmp_path, SMALL)
    monkeypatch.undo()
    restore = loop.Run.restore

    def faulty(self):
        restore(self)
        FAULTS[fault](self)

    monkeypatch.setattr(loop.Run, "restore", faulty)
    loop.train(tmp_path, SMALL, resume=True)
    assert not same_bits(weights_of(tmp_path), weights_of(uninterrupted[SMALL.model]))


LOOKING = replace(SMALL, ema=0.0, lookahead=True)  # 9 steps: slow weights move after the 5th


@pytest.fixture(scope="module")
def looking(tmp_path_factory, tiny_networks):
    folder = tmp_path_factory.mktemp("looking")
    loop.train(folder, LOOKING)
    return folder


def look_again(folder, monkeypatch, steps, fault=lambda run: None):
    """What a run with --lookahead ends with that was stopped after so many steps. fault: changes what is restored."""
    with monkeypatch.context() as stopping:
        stop_after(stopping, steps)
        with pytest.raises(StoppedError):
            loop.train(folder, LOOKING)
    restore = loop.Run.restore
    monkeypatch.setattr(loop.Run, "restore", lambda run: (restore(run), fault(run)))
    loop.train(folder, LOOKING, resume=True)
    return weights_of(folder)


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_run_with_lookahead_stopped_at_any_step_and_resumed_ends_with_the_same_bits(
    tmp_path, monkeypatch, looking, steps
):
    assert same_bits(look_again(tmp_path, monkeypatch, steps), weights_of(looking))


@pytest.mark.parametrize("steps", [2, 4, 6, 8])
def test_slow_weights_that_resume_would_forget_are_noticed(tmp_path, monkeypatch, looking, steps):
    """The planted fault of the test above: they begin again from the fast ones."""

    def forget(run):
        for slow, fast in zip(run.average.means, run.average.arrays, strict=True):
            slow[...] = fast

    assert not same_bits(look_again(tmp_path, monkeypatch, steps, forget), weights_of(looking))


def test_two_runs_with_one_seed_end_with_the_same_bits_and_another_seed_does_not(tmp_path, uninterrupted):
    loop.train(tmp_path / "again", SMALL)
    loop.train(tmp_path / "other", replace(SMALL, seed=6))
    whole = weights_of(uninterrupted[SMALL.model])
    assert same_bits(weights_of(tmp_path / "again"), whole)
    assert not same_bits(weights_of(tmp_path / "other"), whole)


ALTERNATING = replace(SMALL, flip="alternating")


def mirrored_in(folder, monkeypatch):
    """Of a run that is stopped in its second epoch and taken up: {(epoch, image): is it mirrored?}, as augment is told.

    Raises AssertionError for an image that was seen twice in an epoch.
    """
    seen, here = {}, []
    step, augment = loop.Run.train_step, step_module.augment

    def train_step(self, index):
        here[:] = self.epoch, index
        step(self, index)

    def told(images, *args, mirrored=None, **more):
        for image, flag in zip(here[1], mirrored, strict=True):
            assert (here[0], int(image)) not in seen
            seen[here[0], int(image)] = bool(flag)
        return augment(images, *args, mirrored=mirrored, **more)

    monkeypatch.setattr(step_module, "augment", told)
    with monkeypatch.context() as stopping:
        stopping.setattr(loop.Run, "train_step", train_step)
        stop_after(stopping, 5)
        with pytest.raises(StoppedError):
            loop.train(folder, ALTERNATING)
    monkeypatch.setattr(loop.Run, "train_step", train_step)
    loop.train(folder, ALTERNATING, resume=True)
    return seen


def check_alternating_run(folder, monkeypatch):
    with monkeypatch.context() as patched:
        seen = mirrored_in(folder, patched)
    assert len(seen) == 3 * 48 and 12 < sum(seen[0, image] for image in range(48)) < 36
    for image in range(48):
        assert seen[0, image] == seen[2, image] != seen[1, image]


def test_a_run_that_alternates_mirrors_each_image_in_every_other_epoch_and_resumes_with_the_same_bits(
    tmp_path, monkeypatch, uninterrupted
):
    loop.train(tmp_path / "whole", ALTERNATING)
    check_alternating_run(tmp_path / "stopped", monkeypatch)
    whole = weights_of(tmp_path / "whole")
    assert same_bits(weights_of(tmp_path / "stopped"), whole)
    assert not same_bits(weights_of(uninterrupted[SMALL.model]), whole), "random flip gives the same"


def began_with(run):
    """The epoch that this process began with is taken for the first one."""
    run.began = getattr(run, "began", run.epoch)
    return run.epoch - run.began


ALTERNATING_FAULTS = {
    "a resumed run begins again": lambda run, index: alternating(48, 5, began_with(run))[index],
    "the same in every epoch": lambda run, index: alternating(48, 5, 0)[index],
    "other images of the batch": lambda run, index: alternating(48, 5, run.epoch)[index[::-1]],
    "drawn in each epoch": lambda run, index: alternating(48, run.epoch, 0)[index],
}


@pytest.mark.parametrize("fault", ALTERNATING_FAULTS)
def test_a_run_that_does_not_alternate_would_be_noticed(tmp_path, monkeypatch, fault):
    """The planted faults of the test above."""
    monkeypatch.setattr(loop.Run, "mirrored", ALTERNATING_FAULTS[fault])
    with pytest.raises(AssertionError):
        check_alternating_run(tmp_path, monkeypatch)


# What a run leaves behind


def test_a_run_leaves_its_options_log_checkpoint_and_pictures(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(loop.Run, "draw", DRAW)
    folder = tmp_path
    loop.train(folder, SMALL)
    options = json.loads((folder / "options.json").read_text())
    assert options["lr"] == SMALL.lr and options["versions"]["numpy"] == np.__version__
    log = timeless(folder)
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert all(math.isfinite(line[k]) for line in log for k in line)
    for name in ("curves.png", "filters.png", "confusion.png", "predictions.png"):
        pixels = np.asarray(Image.open(folder / name).convert("L"))
        assert min(pixels.shape) > 200 and pixels.std() > 5, name
    assert not [p.name for p in folder.iterdir() if ".tmp" in p.name]


def test_the_checkpoint_holds_the_averaged_weights_and_what_its_pictures_looked_like(uninterrupted):
    folder = uninterrupted[REAL.model]
    net, about = read(folder / "checkpoint.safetensors")
    state = read_tensors(folder / "state.safetensors")[0]
    assert np.array_equal(vectors(net)[0], state["average/0"])
    assert about["data"] == "shapes10" and about["classes"][0] == "disc" and about["preprocess"]["size"] == [32, 32]
    last = timeless(folder)[-1]
    images, labels = loop.load("shapes10", train=1, test=20).test_images, loop.load("shapes10", test=20).test_labels
    accuracy, loss, _ = loop.evaluate(net, images, labels, about["preprocess"]["mean"], about["preprocess"]["std"])
    assert (accuracy, loss) == (last["test_accuracy"], last["test_loss"])


def test_a_small_network_learns_to_tell_shapes_apart(tmp_path):
    """Of few images, but by heart: the loss falls by far more than half."""
    options = Options(
        model="tiny but wide", train_images=64, test_images=20, batch_size=16, epochs=100, lr=0.3,
        augment=False,
    )  # fmt: skip
    loop.train(tmp_path, options)
    log = timeless(tmp_path)
    assert log[-1]["train_loss"] < 0.5 * log[0]["train_loss"]


def test_a_finished_run_resumed_changes_nothing_and_draws_its_pictures(tmp_path, monkeypatch):
    loop.train(tmp_path, SMALL)
    before = weights_of(tmp_path)
    monkeypatch.setattr(loop.Run, "draw", DRAW)
    loop.train(tmp_path, SMALL, resume=True)
    assert same_bits(before, weights_of(tmp_path)) and (tmp_path / "confusion.png").exists()


def test_a_folder_with_a_run_is_not_overwritten_and_one_without_not_resumed(tmp_path, uninterrupted):
    with pytest.raises(UsageError, match="already holds a run"):
        loop.train(uninterrupted[SMALL.model], SMALL)
    with pytest.raises(UsageError, match="no run"):
        loop.train(tmp_path, SMALL, resume=True)


def test_a_damaged_newest_state_is_noticed_and_the_one_before_is_used(tmp_path, uninterrupted, capsys):
    options = replace(SMALL, epochs=2, schedule="constant")
    loop.train(tmp_path / "whole", options)
    loop.train(tmp_path / "damaged", options)
    path = tmp_path / "damaged" / "state.safetensors"
    good, rng = path.read_bytes(), random.Random(0)
    for _ in range(20):
        at, bit = rng.randrange(len(good)), rng.randrange(8)
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :])
        found = state.newest_state(tmp_path / "damaged")
        assert json.loads(found.metadata["progress"])["epoch"] == 1 and "state.safetensors: " in found.skipped
    loop.train(tmp_path / "damaged", options, resume=True)
    assert "\ngoing back to state.previous.safetensors\n" in capsys.readouterr().err
    assert same_bits(weights_of(tmp_path / "whole"), weights_of(tmp_path / "damaged"))


def test_a_write_that_fails_stops_the_run_with_the_old_state_in_place(tmp_path, monkeypatch):
    stop_after(monkeypatch, 4)
    with pytest.raises(StoppedError):
        loop.train(tmp_path, SMALL)
    monkeypatch.undo()
    before = (tmp_path / "state.safetensors").read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        loop.train(tmp_path, SMALL, resume=True)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_a_folder_in_use_is_refused_with_the_process_that_uses_it(tmp_path):
    with loop.locked(tmp_path), pytest.raises(OSError, match=f"in use by process {os.getpid()}"):
        loop.train(tmp_path, SMALL)
    (tmp_path / "lock").write_text("999999")  # left behind by a process that was killed
    with loop.locked(tmp_path):
        pass


# Processes that are killed


def test_a_run_killed_at_random_times_ends_with_the_same_bits(tmp_path):
    subprocess.run(command(tmp_path / "whole", *ARGUMENTS.split()), check=True, capture_output=True)
    folder, rng, kills = tmp_path / "killed", random.Random(1), 0
    for _ in range(30):
        resume = (folder / "state.safetensors").exists()
        process = subprocess.Popen(
            command(folder, *(["--resume"] if resume else ARGUMENTS.split())),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if kills < KILLS:
            wait_for(folder / "lock", process)
            time.sleep(rng.uniform(0, 0.8))
            process.kill()
            kills += 1
        _, errors = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors.decode()
    assert same_bits(weights_of(tmp_path / "whole"), weights_of(folder))
    assert timeless(tmp_path / "whole") == timeless(folder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(tmp_path, number, code):
    process = subprocess.Popen(
        command(tmp_path, *ARGUMENTS.split(), "--epochs", "1000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "state.safetensors", process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code and output == ""
    last = errors.splitlines()[-1]
    assert last.startswith("inception-np: ") and f"--resume --output {tmp_path}" in last and "Traceback" not in errors
    progress = json.loads(read_tensors(tmp_path / "state.safetensors")[1]["progress"])
    assert progress["epoch"] >= 1 and load(tmp_path / "checkpoint.safetensors").name == "bn_inception_cifar"


# What is not finite


def poisoned(monkeypatch, path, step, value=math.inf):
    """Put a value into the weight of that path before that step."""
    original = loop.Run.train_step

    def poison(self, index):
        if self.step == step:
            named_params(self.net)[path].data.flat[0] = value
        original(self, index)

    monkeypatch.setattr(loop.Run, "train_step", poison)


@pytest.mark.parametrize("path", ["conv1.weight", "3a.b3.conv.bn.gamma", "3a.b3.reduce.bias", "fc.weight"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_value_that_is_not_finite_stops_the_run_and_names_the_layer(tmp_path, monkeypatch, path, value):
    poisoned(monkeypatch, path, 1, value)
    with pytest.raises(ValueError, match="in epoch 1, step 2") as caught:
        loop.train(tmp_path, SMALL)
    layer = path.split(".")[0]
    assert f"layer {layer}" in str(caught.value) and "--lr" in str(caught.value) and "\n" not in str(caught.value)


def test_the_state_before_a_value_that_is_not_finite_is_kept(tmp_path, monkeypatch):
    original = loop.Run.train_step

    def poison(self, index):
        if self.epoch == 1:
            self.weights[0] = math.nan
        original(self, index)

    monkeypatch.setattr(loop.Run, "train_step", poison)
    with pytest.raises(ValueError, match=r"epoch 2, step 1.*state.safetensors"):
        loop.train(tmp_path, SMALL)
    assert all(np.isfinite(a).all() for a in weights_of(tmp_path).values())


def test_a_gradient_that_is_not_finite_is_named_while_the_loss_still_is(tmp_path, monkeypatch):
    run = loop.Run(tmp_path, SMALL, False)
    pool = run.net.trunk.layers["pool"]
    backward = type(pool).backward

    def broken(self, dy, *rest):
        return backward(self, dy * math.nan, *rest)

    monkeypatch.setattr(type(pool), "backward", broken)
    with pytest.raises(ValueError, match=r"the gradient is not finite .*found in the gradient in layer pool "):
        run.train_step(np.arange(16))
    assert "forward" not in vars(pool)  # nothing of the search is left behind


def test_a_rate_that_is_too_large_ends_in_that_error_and_no_warning(tmp_path):
    with pytest.raises(ValueError, match="not finite in epoch 1, step"):
        loop.train(tmp_path, replace(SMALL, lr=1e5, clip=0.0, warm_up=0))


# The pieces of a step


def test_total_loss_adds_the_heads_with_their_weight_and_its_gradient_follows():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 6)
    logits, a, b = rng.standard_normal((3, 6, 4))
    loss, (dlogits, daux) = total_loss((logits, {"4a": a, "4d": b}), labels, 0.3, 0.1)
    alone = [softmax_cross_entropy(z, labels, smoothing=0.1) for z in (logits, a, b)]
    np.testing.assert_allclose(loss, alone[0][0] + 0.3 * alone[1][0] + 0.3 * alone[2][0], rtol=1e-14)
    np.testing.assert_array_equal(dlogits, alone[0][1])
    for name, (_, gradient) in zip(("4a", "4d"), alone[1:], strict=True):
        np.testing.assert_allclose(daux[name], 0.3 * gradient, rtol=1e-14)
    assert total_loss(logits, labels, 0.3, 0.1)[0] == float(alone[0][0])


def test_gradients_reach_every_parameter_and_are_those_of_the_loss(tmp_path):
    """Along a random direction, in float64, with the same dropout each time."""
    net = cast(create_model("inception_v1_cifar", width=1 / 16, seed=1), np.float64)
    rng = np.random.default_rng(0)
    for path, p in named_params(net).items():
        if path.endswith("bias"):  # of zeros: units whose inputs are all dead would sit at ReLU's kink
            p.data[...] = 0.1 * rng.standard_normal(p.data.shape)
    x, labels = rng.standard_normal((3, 32, 32, 3)), np.array([1, 5, 7])

    def loss_of():
        y, cache = net.forward(x, Mode(train=True, keep=True, rng=np.random.default_rng(2)))
        return (*total_loss(y, labels, net.aux_weight, 0.1), cache)

    _, dy, cache = loss_of()
    net.backward(dy, x, cache)
    data, gradient = vectors(net)
    direction = rng.standard_normal(data.shape)
    slope, h = float(gradient @ direction), 1e-8
    for p in named_params(net).values():
        assert p.grad.any()
    data += h * direction
    above = loss_of()[0]
    data -= 2 * h * direction
    below = loss_of()[0]
    np.testing.assert_allclose((above - below) / (2 * h), slope, rtol=1e-5)


def test_clipping_bounds_the_norm_of_the_whole_gradient(tmp_path):
    moved = []
    for clip in (0.0, 1e-3):
        run = loop.Run(tmp_path, replace(SMALL, clip=clip, momentum=0.0, weight_decay=0.0, ema=0.0), False)
        run.schedule = schedules.constant(1.0)
        before = run.weights.copy()
        run.train_step(np.arange(16))
        moved.append(run.weights - before)
    norms = [float(np.linalg.norm(m.astype(np.float64))) for m in moved]
    assert norms[0] > 0.1
    np.testing.assert_allclose(norms[1], 1e-3, rtol=1e-3)
    np.testing.assert_allclose(moved[1] / norms[1], moved[0] / norms[0], atol=1e-3)


def test_the_norm_to_clip_is_summed_in_float64():
    gradient = np.full(1_000_000, 1e-3, np.float32)
    np.testing.assert_allclose(clip_norm(gradient, np.inf), 1.0, rtol=1e-6)


@pytest.mark.parametrize("size", [0, 1, 8193, CHUNK, CHUNK + 1, 3 * CHUNK + 8191, 1_000_003])
def test_the_norm_to_clip_has_the_bits_of_the_sum_over_all_squares(size):
    gradient = np.random.default_rng(size).standard_normal(size, dtype=np.float32)
    assert clip_norm(gradient, np.inf) == float(np.sum(gradient * gradient, dtype=np.float64)) ** 0.5


def test_averages_follow_their_equation_and_leave_the_weights_alone():
    net = create_model("bn_inception_cifar", width=1 / 16)
    average = MovingAverage(net, 0.9)
    rng, expected = np.random.default_rng(0), [a.astype(np.float64) for a in average.arrays]
    for updates in range(100):
        for array in average.arrays:
            array[...] = rng.standard_normal(array.shape)
        average.update()
        keep = min(0.9, (1 + updates) / (10 + updates))
        expected = [keep * m + (1 - keep) * a for m, a in zip(expected, average.arrays, strict=True)]
    for mean, right in zip(average.means, expected, strict=True):
        np.testing.assert_allclose(mean, right, atol=1e-5)
    before = [a.copy() for a in average.arrays]
    with average.in_place():
        assert all(np.array_equal(a, m) for a, m in zip(average.arrays, average.means, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(average.arrays, before, strict=True))


def steps_by_lookahead(steps):
    """A network with batch norm after so many steps by the class and, in NumPy, by its equations."""
    found = []
    for ours in (True, False):
        rng = np.random.default_rng(0)
        layers = {"conv": ConvBNReLU(3, 4, 3, rng=rng), "gap": GlobalAvgPool2D(), "fc": Linear(4, 5, rng=rng)}
        net = cast(Sequential(**layers), np.float64)
        optimiser = SGD(net, 0.5, momentum=0.9, nesterov=True)
        lookahead = Lookahead(net, steps)
        fast = {path: slot.data for path, slot in (named_params(net) | named_buffers(net)).items()}
        slow = {path: array.copy() for path, array in fast.items()}
        for t in range(1, steps + 1):
            x, labels = rng.standard_normal((4, 5, 8, 3)), rng.integers(0, 5, 4)
            y, cache = net.forward(x, Mode(train=True, keep=True))
            net.backward(softmax_cross_entropy(y, labels)[1], x, cache)
            optimiser.step()
            if ours:
                lookahead.update()
                continue
            if t % 5 == 0:
                d = 0.95**5 * (t / steps) ** 3
                for path, array in slow.items():
                    array[...] = d * array + (1 - d) * fast[path]
                    fast[path][...] = array
            if t == steps >= 5:
                for path, array in slow.items():
                    fast[path][...] = array
        found.append({**fast, "velocity": optimiser.state["velocity"]})
        if ours and steps >= 5:
            for a, b in zip(lookahead.arrays, lookahead.means, strict=True):
                np.testing.assert_array_equal(a, b)
    return found


def check_lookahead(steps):
    ours, wanted = steps_by_lookahead(steps)
    assert len(wanted) == 8
    for name, array in wanted.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("steps", [23, 20, 5, 4, 1])
def test_lookahead_is_the_loop_of_its_equations(steps):
    check_lookahead(steps)


def without(part):
    """Lookahead that lacks a part."""

    class Faulty(Lookahead):
        def __init__(self, net, steps):
            super().__init__(net, steps)
            if part == "statistics":
                self.arrays, self.means = self.arrays[:1], self.means[:1]

        def move(self, rate, *, back=False):
            super().move(rate, back=back and part != "way back")

        def update(self):
            if part == "last step" and (self.updates + 1) % 5:
                self.updates += 1
                return
            self.updates -= part == "count"
            super().update()
            self.updates += part == "count"

    return Faulty


@pytest.mark.parametrize("part", ["way back", "statistics", "last step", "count"])
def test_lookahead_without_a_part_would_be_noticed(monkeypatch, part):
    """The planted faults of the test above."""
    monkeypatch.setitem(globals(), "Lookahead", without(part))
    with pytest.raises(AssertionError):
        check_lookahead(23)


@pytest.mark.parametrize(("done", "steps", "kept"), [(5, 1000, 0), (500, 1000, 0.0967), (995, 1000, 0.7623), (7, 9, 1)])
def test_lookahead_does_nothing_at_the_beginning_and_pulls_back_at_the_end(done, steps, kept):
    """kept: of the way from slow to fast weights, what is taken back; between two fifth steps nothing moves."""
    lookahead = Lookahead(create_model("bn_inception_cifar", width=1 / 16), steps)
    slow = [mean.copy() for mean in lookahead.means]
    for array in lookahead.arrays:
        array += 1
    lookahead.updates = done - 1
    lookahead.update()
    for array, mean, before in zip(lookahead.arrays, lookahead.means, slow, strict=True):
        np.testing.assert_allclose(array, before + (1 if kept == 1 else 1 - kept), atol=1e-4)
        np.testing.assert_array_equal(mean, before if kept == 1 else array)


def test_a_run_with_lookahead_ends_with_its_slow_weights(looking):
    run = loop.Run(looking, LOOKING, False)
    run.restore()
    for fast, slow in zip(run.average.arrays, run.average.means, strict=True):
        np.testing.assert_array_equal(fast, slow)
    found = weights_of(looking)
    for path in {**named_params(run.net), **named_buffers(run.net)}:
        np.testing.assert_array_equal(found[f"checkpoint/{path}"], found[f"net/{path}"])


@pytest.mark.parametrize("array", [0, -1])
def test_a_slow_weight_that_is_not_finite_stops_the_run(tmp_path, array):
    run = loop.Run(tmp_path, LOOKING, False)
    run.average.means[array][0] = math.inf
    with pytest.raises(ValueError, match=r"a slow weight \(--lookahead\) is not finite in epoch 1, step 1"):
        run.train_step(np.arange(16))


def test_evaluate_counts_the_last_images_too(monkeypatch):
    net = create_model("inception_v1_cifar", width=1 / 16)
    data = loop.load("shapes10", train=10, test=23)
    whole = loop.evaluate(net, data.test_images, data.test_labels, data.mean, data.std, 23)
    parts = loop.evaluate(net, data.test_images, data.test_labels, data.mean, data.std, 10)
    assert whole[0] == parts[0] and np.array_equal(whole[2], parts[2])
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-5)


def check_tta(net, images, labels, mean, std, batch_size):
    """Evaluation by six views is that of the mean logits, each from the layers' own passes in float64."""
    found = loop.evaluate(net, images, labels, mean, std, batch_size, tta=True)
    exact = cast(net, np.float64)
    logits = np.zeros((len(images), 10))
    for weight, view in six_views(images):
        logits += weight * exact.forward((view - np.array(mean)) / np.array(std), Mode())[0]
    loss = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels])
    np.testing.assert_array_equal(found[2], logits.argmax(1))
    assert found[0] == (logits.argmax(1) == labels).mean()
    np.testing.assert_allclose(found[1], loss, rtol=1e-5)


def few_images(height=32, width=33):
    """A network and (images, labels, mean, std): 23 images that are not square, on which its views differ."""
    net = create_model("inception_v1_cifar", width=1 / 16)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (23, height, width, 3), np.uint8)
    return net, (images, rng.integers(0, 10, 23), (120.0, 121.0, 122.0), (60.0, 61.0, 62.0))


@pytest.mark.parametrize("batch_size", [23, 10, 250])
def test_evaluation_by_six_views_is_that_of_their_mean_logits(batch_size):
    net, given = few_images()
    check_tta(net, *given, batch_size)


def test_batches_do_not_change_an_evaluation_by_six_views():
    net, given = few_images()
    whole, parts = (loop.evaluate(net, *given, size, tta=True) for size in (23, 10))
    assert whole[0] == parts[0] and np.array_equal(whole[2], parts[2])
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-5)
    assert abs(loop.evaluate(net, *given, 23)[1] - whole[1]) > 1e-4 * whole[1]


TTA_FAULTS = {
    "the mirror images are upside down": lambda views: (
        lambda images: [(weight, images[:, ::-1] if n == 1 else view) for n, (weight, view) in enumerate(views(images))]
    ),
    "all weights alike": lambda views: lambda images: [(1 / 6, view) for _, view in views(images)],
    "twice the logits": lambda views: lambda images: [(2 * weight, view) for weight, view in views(images)],
    "only the mirror images": lambda views: lambda images: [(1 / 2, view) for _, view in list(views(images))[:2]],
}


@pytest.mark.parametrize("fault", TTA_FAULTS)
def test_an_evaluation_by_other_views_would_be_noticed(monkeypatch, fault):
    """The planted faults of the two tests above."""
    net, given = few_images()
    monkeypatch.setattr(evaluate, "views", TTA_FAULTS[fault](evaluate.views))
    with pytest.raises(AssertionError):
        check_tta(net, *given, 10)


def test_a_network_that_sees_no_mirroring_and_no_move_is_evaluated_as_without():
    """It looks at mean colours, and its images have but one."""
    rng = np.random.default_rng(4)
    net = Sequential(pool=GlobalAvgPool2D(), fc=Linear(3, 10, rng=rng))
    colours, labels = rng.integers(0, 256, (23, 1, 1, 3), np.uint8), rng.integers(0, 10, 23)
    given = np.repeat(np.repeat(colours, 5, 1), 4, 2), labels, (120.0,) * 3, (60.0,) * 3, 10
    plain, six = loop.evaluate(net, *given), loop.evaluate(net, *given, tta=True)
    assert plain[0] == six[0] and np.array_equal(plain[2], six[2])
    np.testing.assert_allclose(six[1], plain[1], rtol=1e-6)


def test_evaluation_may_be_stopped_before_every_view():
    net, given = few_images()
    for tta, count in ((False, 3), (True, 18)):
        calls = []
        loop.evaluate(net, *given, 10, tta=tta, pause=lambda calls=calls: calls.append(1))
        assert len(calls) == count


def test_a_run_with_tta_tests_and_draws_by_six_views(tmp_path, monkeypatch):
    drawn = []
    for name in ("first_filters", "learning_curves", "predictions"):
        monkeypatch.setattr(plots, name, lambda *_: None)
    monkeypatch.setattr(plots, "confusion", lambda labels, predicted, *_: drawn.append(predicted))
    monkeypatch.setattr(loop.Run, "draw", DRAW)
    options = replace(REAL, tta=True)
    loop.train(tmp_path, options)
    loop.train(tmp_path, options, resume=True)
    data, last = loop.load("shapes10", train=48, test=20), timeless(tmp_path)[-1]
    net = read(tmp_path / "checkpoint.safetensors")[0]
    given = data.test_images, data.test_labels, data.mean, data.std
    accuracy, loss, predicted = loop.evaluate(net, *given, tta=True)
    assert (last["test_accuracy"], last["test_loss"]) == (accuracy, loss) and loss != loop.evaluate(net, *given)[1]
    assert len(drawn) == 2 and all(np.array_equal(classes, predicted) for classes in drawn)
    assert json.loads((tmp_path / "options.json").read_text())["tta"] is True
    with pytest.raises(UsageError, match=r"--tta: got False, the run in .* has True; leave it out to resume"):
        loop.train(tmp_path, replace(options, tta=False), resume=True)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.constant(0.5), {0: 0.5, 7: 0.5}),
        (schedules.step(1.0, [2, 4], 0.1), {0: 1, 1.99: 1, 2: 0.1, 3.5: 0.1, 4: 0.01, 9: 0.01}),
        (schedules.exponential(0.045, 0.94, 2), {0: 0.045, 1.9: 0.045, 2: 0.0423, 4.5: 0.045 * 0.94**2}),
        (schedules.exponential(0.01, 0.96, 8), {7.9: 0.01, 8: 0.0096}),
        (schedules.cosine(2.0, 10), {0: 2, 5: 1, 10: 0, 11: 0, 2.5: 1 + math.cos(math.pi / 4)}),
        (schedules.triangular(2.0, 10), {0: 0.4, 2.3: 2, 1.15: 1.2, 10: 0.14, 11: 0.14, 6.15: 1.07}),
        (schedules.linear(0.8, 4), {0: 0.8, 1: 0.6, 4: 0, 9: 0}),
        (schedules.warm_up(schedules.constant(2.0), 4), {0: 0, 1: 0.5, 4: 2, 9: 2}),
        (schedules.warm_up(schedules.constant(2.0), 0), {0: 2}),
    ],
)
def test_schedules_give_the_rates_of_their_equations(schedule, expected):
    for t, rate in expected.items():
        np.testing.assert_allclose(schedule(t), rate, atol=1e-12)


@pytest.mark.parametrize(
    "own, wanted", [(0.9997, [0.1, 0.5, 0.9, 0.9]), (0.99, [0.1, 0.5, 0.9, 0.9]), (0.6, [0.1, 0.5, 0.6, 0.6])]
)
def test_batch_norms_averages_forget_their_beginning_and_follow_the_weights(own, wanted):
    norm = BatchNorm(3, decay=own)
    for updates, decay in zip([0, 8, 200, 100_000], wanted, strict=True):
        warm_statistics([(norm, own)], updates)
        assert float(norm.decay) == pytest.approx(decay)


def test_the_rate_of_each_step_is_the_schedule_in_its_middle(tmp_path, monkeypatch):
    run = loop.Run(tmp_path, replace(SMALL, warm_up=0), False)
    run.epoch, run.step = 1, 2
    run.train_step(np.arange(16))
    assert run.optimiser.lr == schedules.cosine(SMALL.lr, 3)(1 + 2.5 / 3)


def test_options_not_given_suit_the_data_set_and_the_network():
    usual = resolve()
    assert (usual.model, usual.data, usual.width) == ("inception_resnet_v2_cifar", "shapes10", 1 / 8)
    assert resolve(model="xception_cifar").width is None
    assert resolve(data="cifar10").weight_decay > 0 and resolve(data="cifar10").width is None
    for optimizer in ("muon", "sgd"):
        slow, fast = (resolve(model=f"inception_{v}_cifar", optimizer=optimizer) for v in ("v1", "v3"))
        assert slow.lr < fast.lr and slow.epochs > fast.epochs
        assert resolve(model="inception_v1", preset="torchvision", optimizer=optimizer).lr == fast.lr
    assert (usual.optimizer, resolve(device="cuda").optimizer) == ("muon", "sgd")
    assert resolve(optimizer="rmsprop").lr == 0.045
    assert resolve(optimizer="rmsprop", lr=0.5, epochs=7) == Options(
        optimizer="rmsprop", lr=0.5, epochs=7, width=1 / 8, augment=False
    )
    many, few = (resolve(data="cifar10", model=f"inception_v3{size}") for size in ("_cifar", ""))
    assert many.batch_size > few.batch_size and many.lr > few.lr
    assert resolve(data="cifar10").augment and not usual.augment
    assert (usual.precision, resolve(device="cuda").precision) == ("float32", "tf32")
    assert resolve(device="cuda", precision="bf16").precision == "bf16"


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": 1}, {"lr": 0.0}, {"lr": math.nan}, {"momentum": 2}, {"weight_decay": -1},
        {"warm_up": 9}, {"smoothing": 1}, {"clip": -1}, {"ema": 1}, {"seed": -1}, {"optimizer": "sdg"},
        {"schedule": "cosin"}, {"model": "inception"}, {"data": "shape"}, {"train_images": 0},
        {"flip": "none"}, {"flip": None}, {"flip": "alternating", "augment": False},
        {"cutout": -1}, {"cutout": 3, "augment": False}, {"pad": -1}, {"pad": 1.5},
        {"tta": 1}, {"model": REAL.model, "preset": "x"}, {"model": REAL.model, "width": -1},
        {"lookahead": 1}, {"lookahead": True}, {"precision": "fp16"}, {"precision": "tf32"}, {"precision": None},
    ],
)  # fmt: skip
def test_options_that_no_run_could_have_are_refused_by_name(tmp_path, wrong):
    with pytest.raises(UsageError, match=r"^--[a-z-]+: .+; .+"):
        loop.train(tmp_path / "new", replace(SMALL, **wrong))
    assert not (tmp_path / "new").exists()


def test_the_folder_of_a_run_need_not_exist(tmp_path):
    assert not Path(tmp_path / "a").exists()
    with pytest.raises(OSError, match="cannot be made"):
        (tmp_path / "file").write_text("")
        loop.train(tmp_path / "file" / "below", SMALL)


@pytest.mark.slow
def test_training_without_any_options_passes_90_per_cent(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Run, "draw", DRAW)
    assert loop.train(tmp_path, resolve())["test_accuracy"] > 0.9
    assert (tmp_path / "predictions.png").exists()

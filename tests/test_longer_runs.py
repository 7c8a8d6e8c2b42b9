"""How runs are mixed, logged and ended: mixup, the logs, the best checkpoint, patience, more epochs, and eval."""

import csv
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from small_runs import SMALL, same_bits, stop_after, timeless, tiny, tiny_networks, weights_of

from inception_np import __main__ as cli
from inception_np.backend.errors import StoppedError, UsageError
from inception_np.data import dataset
from inception_np.data.preprocess import Preprocess, prepare
from inception_np.data.random import stream
from inception_np.layer import Mode
from inception_np.layers.loss import softmax_cross_entropy, total_loss
from inception_np.training import evaluate, loop, plots, results, schedules, state
from inception_np.training import step as step_module
from inception_np.training.mixup import mix, mixed_loss, plain_loss
from inception_np.weights.checkpoint import read
from inception_np.weights.tensorfile import read_tensors

__all__ = ["tiny_networks"]  # a fixture
PLAIN = replace(SMALL, model="bn_inception_cifar", width=1 / 16, epochs=4, ema=0.0)


def rows(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def about(path):
    """What a checkpoint says: read alone knows no tiny network."""
    return json.loads(read_tensors(path)[1]["about"])


def options_in(folder):
    return state.options_of(state.newest_state(folder))


def history(*accuracies):
    return [{"epoch": i + 1, "test_accuracy": a} for i, a in enumerate(accuracies)]


def let_tests_find(monkeypatch, accuracies):
    """Let the test after each epoch find these accuracies."""
    test = loop.Run.test

    def given(run, **how):
        _, loss, predicted = test(run, **how)
        return accuracies[run.epoch], loss, predicted

    monkeypatch.setattr(loop.Run, "test", given)


# Mixup


def test_a_mixed_batch_is_that_of_its_equation():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(17, 5, 3, 3)).astype(np.float32), rng.integers(0, 10, 17)
    shares = []
    for i in range(50):
        before = x.copy()
        mixed, targets = mix(x, labels, 0.4, stream(5, "mixup", 0, i))
        draw = stream(5, "mixup", 0, i)
        share = draw.beta(0.4, 0.4)
        share, order = max(share, 1 - share), draw.permutation(17)
        for n in range(17):
            np.testing.assert_allclose(mixed[n], share * x[n] + (1 - share) * x[order[n]], rtol=1e-5, atol=1e-6)
        assert np.array_equal(x, before) and mixed.dtype == np.float32
        (one, first), (other, second) = targets
        assert one + other == 1 and one >= other and np.array_equal(first, labels) and (second == labels[order]).all()
        shares.append(one)
    assert min(shares) < 0.7 and max(shares) > 0.95


def loss_of_mixed_labels(y, q, aux_weight, smoothing):
    """The cross-entropy of probabilities q (N, K), by its definition."""

    def one(logits):
        k = logits.shape[1]
        p = np.exp(logits - logits.real.max(1, keepdims=True))
        return -((1 - smoothing) * q + smoothing / k) @ np.log(p / p.sum(1, keepdims=True)).T

    logits, heads = y if isinstance(y, tuple) else (y, {})
    return np.trace(one(logits)) / len(q) + sum(aux_weight * np.trace(one(h)) / len(q) for h in heads.values())


@pytest.mark.parametrize("heads", [False, True])
def test_the_gradient_of_mixed_labels_is_that_of_their_cross_entropy(heads, mixed=mixed_loss):
    """By complex steps through the definition."""
    rng = np.random.default_rng(1)
    labels, others, k, share = rng.integers(0, 7, 5), rng.integers(0, 7, 5), 7, 0.83
    q = share * np.eye(k)[labels] + (1 - share) * np.eye(k)[others]
    logits, head = rng.normal(size=(2, 5, k))

    def nest(a, b):
        return (a, {"4a": b}) if heads else a

    total, main, dy = mixed(nest(logits, head), [(share, labels), (1 - share, others)], 0.3, 0.1)
    assert total == pytest.approx(loss_of_mixed_labels(nest(logits, head), q, 0.3, 0.1), rel=1e-12)
    assert main == pytest.approx(loss_of_mixed_labels(logits, q, 0.3, 0.1), rel=1e-12)
    for at in np.ndindex(5, k):
        for which, grad in enumerate([dy[0], dy[1]["4a"]] if heads else [dy]):
            moved = [logits.astype(complex), head.astype(complex)]
            moved[which][at] += 1e-30j
            assert grad[at] == pytest.approx(loss_of_mixed_labels(nest(*moved), q, 0.3, 0.1).imag / 1e-30, abs=1e-12)


@pytest.mark.parametrize("fault", [
    lambda y, targets, *more: mixed_loss(y, targets[:1], *more),
    lambda y, targets, *more: mixed_loss(y, [(0.5, labels) for _, labels in targets], *more),
    lambda y, targets, *more: (*mixed_loss(y, targets, *more)[:2], total_loss(y, targets[0][1], *more)[1]),
])  # fmt: skip
def test_another_mixture_would_be_noticed(fault):
    with pytest.raises(AssertionError):
        test_the_gradient_of_mixed_labels_is_that_of_their_cross_entropy(True, fault)


def test_a_run_with_mixup_trains_on_mixed_images_and_resumes_with_the_same_bits(tmp_path, monkeypatch):
    options = replace(SMALL, mixup=0.3)
    loop.train(tmp_path / "whole", options)
    loop.train(tmp_path / "plain", SMALL)
    stop_after(monkeypatch, 4)
    with pytest.raises(StoppedError):
        loop.train(tmp_path / "stopped", options)
    monkeypatch.undo()
    loop.train(tmp_path / "stopped", options, resume=True)
    assert same_bits(weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"))
    assert not same_bits(weights_of(tmp_path / "whole"), weights_of(tmp_path / "plain"))


# The logs


def test_the_main_loss_is_logged_apart_from_the_total(tmp_path, monkeypatch):
    """Of a network with a head: by the losses that its steps had."""
    found = []
    gradients = step_module.EagerStep.gradients

    def told(self, x, targets, dropout):
        result = gradients(self, x, targets, dropout)
        found.append(result)
        return result

    monkeypatch.setattr(step_module.EagerStep, "gradients", told)
    loop.train(tmp_path, SMALL)
    log = timeless(tmp_path)
    for epoch, line in enumerate(log):
        of_epoch = found[3 * epoch : 3 * epoch + 3]
        assert line["train_total_loss"] == pytest.approx(np.mean([losses.total for losses, _ in of_epoch]))
        assert line["train_loss"] == pytest.approx(np.mean([losses.main for losses, _ in of_epoch]))
        assert line["train_cross_entropy"] == pytest.approx(np.mean([losses.plain for losses, _ in of_epoch]))
        assert line["train_total_loss"] > 1.2 * line["train_loss"]
        assert abs(line["train_cross_entropy"] - line["train_loss"]) > 1e-4
    loop.train(tmp_path / "no", replace(PLAIN, smoothing=0.0, epochs=1))  # no heads either
    assert not {"train_total_loss", "train_cross_entropy"} & set(timeless(tmp_path / "no")[0])


def test_the_main_loss_is_that_of_the_main_logits():
    rng = np.random.default_rng(2)
    logits, head, labels = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.integers(0, 3, 5)
    total, main, _ = mixed_loss((logits, {"a": head}), [(1.0, labels)], 0.3, 0.1)
    own = [softmax_cross_entropy(a, labels, smoothing=0.1)[0] for a in (logits, head)]
    assert main == own[0] and total == pytest.approx(own[0] + 0.3 * own[1])


def test_the_plain_loss_is_that_of_the_test_images():
    """The same images with the same labels have the same loss in training and in the test."""
    rng = np.random.default_rng(2)
    logits, head, labels = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.integers(0, 3, 5)
    wanted = softmax_cross_entropy(logits, labels)[0]
    assert plain_loss((logits, {"a": head}), [(1.0, labels)]) == plain_loss(logits, [(1.0, labels)]) == wanted
    others = rng.integers(0, 3, 5)
    mixed = plain_loss(logits, [(0.7, labels), (0.3, others)])
    assert mixed == pytest.approx(0.7 * wanted + 0.3 * softmax_cross_entropy(logits, others)[0])


@pytest.mark.parametrize("steps", [3, 4])
def test_log_csv_is_the_log_and_has_each_epoch_once_after_a_resume(tmp_path, monkeypatch, steps):
    stop_after(monkeypatch, steps)
    with pytest.raises(StoppedError):
        loop.train(tmp_path, SMALL)
    monkeypatch.undo()
    loop.train(tmp_path, SMALL, resume=True)
    table, log = rows(tmp_path), [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [int(row["epoch"]) for row in table] == [1, 2, 3]
    assert [{k: float(v) for k, v in row.items()} for row in table] == log


def scalars(folder):
    """What TensorBoard would read: {tag: [(step, value), ...]}."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            content = content[16 + size :]
    return found


def test_tensorboard_has_each_epoch_once_after_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    options = replace(SMALL, log="tensorboard")
    with monkeypatch.context() as stopping, pytest.raises(StoppedError):
        stop_after(stopping, 7)
        loop.train(tmp_path, options)
    before = scalars(tmp_path)
    assert [step for step, _ in before["test/accuracy"]] == [1, 2]
    loop.train(tmp_path, options, resume=True)
    found, log = scalars(tmp_path), timeless(tmp_path)
    assert set(found) == {"train/loss", "train/total_loss", "train/cross_entropy", "train/accuracy", "test/loss",
                          "test/accuracy", "lr", "images", "seconds"}  # fmt: skip
    for tag in set(found) - {"seconds"}:
        assert found[tag] == [(line["epoch"], np.float32(line[tag.replace("/", "_")])) for line in log]


def test_events_that_are_not_written_anew_would_be_noticed(tmp_path, monkeypatch):
    """The planted fault of the test above: what is there stays."""
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(results.Path, "unlink", lambda path: path.rename(path.with_name(f"{path.name}.old")))
    with pytest.raises(AssertionError):
        test_tensorboard_has_each_epoch_once_after_a_resume(tmp_path, monkeypatch)


def test_tensorboard_that_is_not_installed_is_said_before_anything_begins(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UsageError, match=r"--log: got tensorboard, .*pip install 'inception-np\[tensorboard\]'"):
        loop.train(tmp_path / "new", replace(SMALL, log="tensorboard"))
    assert not (tmp_path / "new").exists()


# The best, and patience


def test_the_best_epoch_is_the_first_of_the_best_accuracy():
    assert results.best_epoch([]) == 0
    assert results.best_epoch(history(0.1, 0.3, 0.3, 0.2)) == 2


FOUND = [0.2, 0.5, 0.5, 0.4]


def check_best(folder, options):
    """best.safetensors is the checkpoint of a run of the best epoch's number of epochs, whose schedule is constant."""
    assert about(folder / "best.safetensors")["epochs"] == 2
    loop.train(folder / "short", replace(options, epochs=2))
    wanted = read_tensors(folder / "short" / "checkpoint.safetensors")[0]
    assert same_bits(dict(read_tensors(folder / "best.safetensors")[0]), dict(wanted))


BEST = replace(SMALL, schedule="constant", epochs=4)


@pytest.mark.parametrize("steps", [3, 5, 6, 7, 9, None])
def test_the_best_checkpoint_is_kept_over_a_resume(tmp_path, monkeypatch, steps):
    let_tests_find(monkeypatch, FOUND)
    if steps:
        with monkeypatch.context() as stopping, pytest.raises(StoppedError):
            stop_after(stopping, steps)
            loop.train(tmp_path, BEST)
    loop.train(tmp_path, BEST, resume=bool(steps))
    assert about(tmp_path / "checkpoint.safetensors")["epochs"] == 4
    check_best(tmp_path, BEST)


def test_a_best_checkpoint_that_a_kill_came_before_is_written_by_the_resume(tmp_path, monkeypatch):
    let_tests_find(monkeypatch, FOUND)

    class Killed(BaseException):
        pass

    save_results = loop.Run.save_results

    def killed(run):
        if run.epoch == 2:
            raise Killed
        save_results(run)

    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(loop.Run, "save_results", killed)
        loop.train(tmp_path, BEST)
    assert about(tmp_path / "best.safetensors")["epochs"] == 1
    loop.train(tmp_path, BEST, resume=True)
    check_best(tmp_path, BEST)


def last_is_best(history):
    return history[-1]["epoch"] if history else 0


@pytest.mark.parametrize("fault", [last_is_best, lambda history: 1])
def test_another_best_checkpoint_would_be_noticed(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(results, "best_epoch", fault)
    with pytest.raises(AssertionError):
        test_the_best_checkpoint_is_kept_over_a_resume(tmp_path, monkeypatch, 7)


def test_patience_ends_a_run_and_a_resume_ends_it_again(tmp_path, monkeypatch, capsys):
    let_tests_find(monkeypatch, [0.2, 0.5, 0.5, 0.4, 0.9, 0.9])
    options = replace(SMALL, epochs=6, patience=2)
    assert loop.train(tmp_path, options)["epoch"] == 4
    assert "no better test accuracy in 2 epochs: ended after 4" in capsys.readouterr().err
    before = weights_of(tmp_path)
    assert loop.train(tmp_path, options, resume=True)["epoch"] == 4 and same_bits(before, weights_of(tmp_path))
    with pytest.raises(
        UsageError, match=r"--epochs: .*has ended by --patience 2; begin another with --from .*best.safe"
    ):
        loop.train(tmp_path, replace(options, epochs=9), resume=True)
    assert loop.train(tmp_path / "patient", replace(options, patience=3))["epoch"] == 6
    assert loop.train(tmp_path / "endless", replace(options, patience=0))["epoch"] == 6


def test_patience_counts_over_a_resume(tmp_path, monkeypatch):
    let_tests_find(monkeypatch, [0.2, 0.5, 0.5, 0.4, 0.9, 0.9])
    options = replace(SMALL, epochs=6, patience=2)
    with monkeypatch.context() as stopping, pytest.raises(StoppedError):
        stop_after(stopping, 10)
        loop.train(tmp_path, options)
    assert loop.train(tmp_path, options, resume=True)["epoch"] == 4


# More epochs


def test_a_finished_run_goes_on_by_the_schedule_of_all_epochs(tmp_path, monkeypatch):
    """By hand: the first two epochs by the schedule of two, the others by that of four."""
    rates = []
    train_step = loop.Run.train_step

    def told(run, index):
        train_step(run, index)
        rates.append(run.optimiser.lr)

    monkeypatch.setattr(loop.Run, "train_step", told)
    loop.train(tmp_path, replace(SMALL, epochs=2))
    last = loop.train(tmp_path, replace(SMALL, epochs=4), resume=True)
    assert last["epoch"] == 4 and len(rates) == 12 and len(timeless(tmp_path)) == len(rows(tmp_path)) == 4
    for i, rate in enumerate(rates):
        t = (i + 0.5) / 3
        assert rate == pytest.approx(schedules.warm_up(schedules.cosine(SMALL.lr, 2 if i < 6 else 4), 1)(t))
    assert json.loads((tmp_path / "options.json").read_text())["epochs"] == 4
    assert options_in(tmp_path).epochs == 4


def test_with_a_constant_rate_a_run_that_goes_on_is_the_longer_run(tmp_path):
    options = replace(SMALL, schedule="constant", lookahead=False)
    loop.train(tmp_path / "long", replace(options, epochs=3))
    for epochs in (1, 2, 3):
        loop.train(tmp_path / "grown", replace(options, epochs=epochs), resume=epochs > 1)
    assert same_bits(weights_of(tmp_path / "long"), weights_of(tmp_path / "grown"))
    assert timeless(tmp_path / "long") == timeless(tmp_path / "grown")


@pytest.mark.parametrize("steps", [7, 8])
def test_a_run_that_goes_on_is_resumed_with_the_same_bits(tmp_path, monkeypatch, steps):
    """Also where it is stopped before its first new step has been saved."""
    for folder in ("whole", "stopped"):
        loop.train(tmp_path / folder, replace(SMALL, epochs=2))
    longer = replace(SMALL, epochs=4)
    loop.train(tmp_path / "whole", longer, resume=True)
    with monkeypatch.context() as stopping, pytest.raises(StoppedError):
        stop_after(stopping, steps - 6)
        loop.train(tmp_path / "stopped", longer, resume=True)
    loop.train(tmp_path / "stopped", options_in(tmp_path / "stopped"), resume=True)
    assert same_bits(weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"))


def test_more_epochs_are_in_the_state_before_anything_else_happens(tmp_path, monkeypatch):
    loop.train(tmp_path, replace(SMALL, epochs=1))

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(loop.Run, "save_results", killed)
        loop.train(tmp_path, replace(SMALL, epochs=2), resume=True)
    assert options_in(tmp_path).epochs == 2


def test_fewer_epochs_and_other_options_are_refused(tmp_path):
    loop.train(tmp_path, replace(SMALL, epochs=2))
    with pytest.raises(UsageError, match=r"--epochs: got 1, the run in .* has 2; leave it out to resume, or give more"):
        loop.train(tmp_path, replace(SMALL, epochs=1), resume=True)
    with pytest.raises(UsageError, match=r"--lr: got 1.0, the run in .* has 0.05; leave it out"):
        loop.train(tmp_path, replace(SMALL, epochs=3, lr=1.0), resume=True)
    newest = tmp_path / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"--epochs: the newest state in .* is damaged; resume without --epochs"):
        loop.train(tmp_path, replace(SMALL, epochs=3), resume=True)


def test_the_command_line_gives_more_epochs(tmp_path, capsys):
    words = "--model bn_inception_cifar --width 0.0625 --train-images 32 --test-images 10 --batch-size 16 --lr 0.01"
    assert cli.main(["train", *words.split(), "--epochs", "1", "--output", str(tmp_path)]) == 0
    assert cli.main(["train", "--resume", "--output", str(tmp_path), "--epochs", "2"]) == 0
    assert "after 2 epochs" in capsys.readouterr().out and len(rows(tmp_path)) == 2
    assert cli.main(["train", "--resume", "--output", str(tmp_path), "--epochs", "1"]) == 2
    assert cli.main(["train", "--resume", "--output", str(tmp_path), "--patience", "3"]) == 2
    assert "--patience: got 3, the run in" in capsys.readouterr().err


def test_a_state_of_an_earlier_version_says_which_loss_its_log_has(tmp_path, monkeypatch, capsys):
    """Stopped in its second epoch: neither its sums nor its lines tell the losses apart."""
    stop_after(monkeypatch, 4)
    with pytest.raises(StoppedError):
        loop.train(tmp_path, SMALL)
    monkeypatch.undo()
    tensors, metadata = read_tensors(tmp_path / "state.safetensors")
    progress = json.loads(metadata["progress"])
    del progress["sums"]["main"], progress["sums"]["plain"], metadata["sha256"]
    del progress["history"][0]["train_total_loss"], progress["history"][0]["train_cross_entropy"]
    state.write_tensors(tmp_path / "state.safetensors", tensors, {**metadata, "progress": json.dumps(progress)})
    loop.train(tmp_path, SMALL, resume=True)
    assert "train_loss is the total loss up to its epoch" in capsys.readouterr().err
    first, second, _ = rows(tmp_path)
    assert first["train_total_loss"] == "" and float(second["train_total_loss"]) > 0
    assert first["train_cross_entropy"] == "" and float(second["train_cross_entropy"]) > 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("heads", [False, True])
def test_the_curves_compare_like_with_like(heads, smoothing, tmp_path, monkeypatch):
    """The third line is as an earlier version wrote it, or a step that is a CUDA graph: its one loss is the total."""
    drawn = []
    monkeypatch.setattr(plots, "write_png", lambda figure, path: drawn.append(figure))
    beside = {"train_accuracy": 0.25, "test_accuracy": 0.5, "test_loss": 2.0}
    history = [{"epoch": k, "train_loss": 3.0 + k, **beside} for k in (1, 2, 3)]
    for line in history[:2]:
        line |= {"train_total_loss": 6.0 + line["epoch"]} if heads else {}
        line |= {"train_cross_entropy": 1.0 + line["epoch"]} if smoothing else {}
    net, options = tiny("tiny", num_classes=10, seed=0), replace(SMALL, smoothing=smoothing, augment=True)
    net.heads = net.heads if heads else {}
    plots.learning_curves(history, *results.losses(history, net, options), results.seen(options), tmp_path / "a.png")
    panels = {axes.get_title().split(":")[0]: axes for axes in drawn[0].axes}
    training, test = (line.get_ydata() for line in panels["loss"].lines[:2])
    np.testing.assert_array_equal(test, [2, 2, 2])
    third = np.nan if heads or smoothing else 6
    np.testing.assert_array_equal(training, [2, 3, third] if smoothing else [4, 5, third])
    assert ("what is minimised" in panels) == bool(heads or smoothing)
    if heads or smoothing:
        axes = panels["what is minimised"]
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), [7, 8, 6] if heads else [4, 5, 6])
        assert ("heads (times 0.3)" in axes.get_title(), "smoothing 0.1" in axes.get_title()) == (
            heads,
            bool(smoothing),
        )
    assert drawn[0].legends[0].get_texts()[0].get_text().startswith("training (augmented images")


def test_curves_of_which_no_training_loss_is_comparable_say_so(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "write_png", lambda figure, path: drawn.append(figure))
    line = {"epoch": 1, "train_loss": 3.0, "train_accuracy": 0.25, "test_accuracy": 0.5, "test_loss": 2.0}
    net = tiny("tiny", num_classes=10, seed=0)
    plots.learning_curves([line], *results.losses([line], net, SMALL), results.seen(SMALL), tmp_path / "a.png")
    assert drawn[0].axes[0].get_title() == "loss, of the test alone" and len(drawn[0].axes) == 3


# eval


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_networks):
    folder = tmp_path_factory.mktemp("finished")
    loop.train(folder, replace(PLAIN, epochs=1))
    return folder


def test_eval_without_data_takes_the_test_images_of_the_run(finished, capsys):
    (last,) = timeless(finished)
    assert cli.main(["eval", str(finished / "checkpoint.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 20 and found["accuracy"] == last["test_accuracy"]
    assert found["loss"] == pytest.approx(last["test_loss"], rel=1e-5)
    assert cli.main(["eval", str(finished / "checkpoint.safetensors"), "--json", "--test-images", "30"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 30


def larger(data):
    """The data set with test images of 48x40."""
    images = np.pad(data.test_images, ((0, 0), (8, 8), (4, 4), (0, 0)), mode="wrap")
    return replace(data, test_images=images)


@pytest.mark.parametrize("crops", [1, 10, 144])
def test_eval_by_crops_is_the_mean_softmax_of_the_crops(finished, crops):
    from PIL import Image

    net, about = read(finished / "checkpoint.safetensors")
    how = Preprocess.from_dict({**about["preprocess"], "resize": 38})
    data = larger(dataset.load("shapes10", train=1, test=5))
    images, labels = data.test_images, data.test_labels
    accuracy, loss, predicted = evaluate.evaluate_crops(net, images, labels, how, crops)
    p = []
    for image in images:
        x = np.stack(list(prepare(Image.fromarray(image), how, crops)))
        logits = net.forward(x, Mode())[0].astype(np.float64)
        e = np.exp(logits - logits.max(1, keepdims=True))
        p.append((e / e.sum(1, keepdims=True)).mean(0))
    p = np.array(p)
    assert np.array_equal(predicted, p.argmax(1)) and accuracy == (p.argmax(1) == labels).mean()
    assert loss == pytest.approx(-np.log(p[np.arange(5), labels]).mean(), rel=1e-4)


def test_eval_takes_crops_of_larger_images_and_refuses_them_of_others(finished, capsys, monkeypatch):
    words = ["eval", str(finished / "checkpoint.safetensors"), "--test-images", "5", "--crops", "10"]
    assert cli.main(words) == 2
    text = "--crops: got images of 32x32, of which the network reads 32x32; crops need larger ones, --tta takes six"
    assert text in capsys.readouterr().err
    assert cli.main([*words, "--tta"]) == 2 and "--crops: got 10 with --tta" in capsys.readouterr().err
    load = dataset.load
    monkeypatch.setattr(dataset, "load", lambda *names, **more: larger(load(*names, **more)))
    assert cli.main(words) == 0 and re.search(r"accuracy .* of 5 test images", capsys.readouterr().out)

"""Training: the loop, what it keeps, and what it leaves in the output folder.

    options.json             every option of the run, and the versions it ran with
    log.jsonl                one line per epoch
    checkpoint.safetensors   the weights, for eval, predict and load
    state.safetensors        all that --resume needs: weights, the optimiser's vectors, averages
    state.previous...        the same of the epoch before, should the newer one be damaged
    curves.png filters.png confusion.png predictions.png

A run can be stopped anywhere and taken up again, and ends with the same bits: what is random is
drawn by seed, epoch and step (random.py), and everything else is in the state.
"""

import contextlib
import json
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from . import pictures, schedules
from .backend import Array, array_module, asarray, beside, on_tensor_cores
from .checkpoint import save
from .data import augment, batches, load, normalise
from .errors import RefusedError, StoppedError, UsageError, nearest
from .files import atomic_write, keep_as, locked, make_folder, sweep
from .fits import check_batch, network_for
from .inference import compile_inference
from .layer import Layer, Mode, named_buffers, named_params, vectors, walk
from .layers.batchnorm import BatchNorm
from .loss import softmax_cross_entropy, total_loss
from .optim import SGD, RMSProp
from .preprocess import Preprocess
from .progress import Progress
from .random import stream
from .replay import Replay
from .tensorfile import read_tensors, write_tensors

STATE_FORMAT = "inception_np training 1"


@dataclass(frozen=True)
class Options:
    """What a run is made of. Two runs with equal options and seed end with equal weights."""

    model: str = "inception_resnet_v2_cifar"
    preset: str = "paper"
    width: float | None = None  # None: the network's own
    aux: bool = True  # auxiliary heads, where the network has them
    data: str = "shapes10"
    data_dir: str | None = None
    train_images: int | None = None  # None: all
    test_images: int | None = None
    subset: bool = False
    augment: bool = True
    epochs: int = 3
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warm_up: float = 0.5  # epochs
    smoothing: float = 0.0
    clip: float = 0.0  # largest norm of the gradient; 0: no limit
    ema: float = 0.0  # decay of the running average of the weights; 0: none
    seed: int = 0
    low_memory: bool = False
    device: str = "cpu"


FILES = {
    "checkpoint.safetensors": "the weights, for eval and predict",
    "curves.png": "loss and accuracy over the epochs",
    "predictions.png": "test images with their predicted and true classes",
    "confusion.png": "which class is taken for which",
    "filters.png": "what the first convolution looks for",
    "log.jsonl": "one line per epoch",
}


def resolve(**given: Any) -> Options:
    """The options of a run: those given, and for the others what suits its data set and network.

    Without any: a narrow Inception-ResNet on shapes10. GoogLeNet has no batch norm, and RMSProp as
    the papers use it has an epsilon of 1 under its root: both want a smaller learning rate.
    """
    chosen: dict[str, Any] = {}
    cifar10 = given.get("data", "shapes10") == "cifar10"
    if cifar10:
        chosen |= {"epochs": 16, "batch_size": 128, "lr": 0.2, "weight_decay": 5e-4, "warm_up": 1.0}
    else:
        chosen["augment"] = False  # its images were drawn in every place and direction already
        if "model" not in given:
            chosen["width"] = 1 / 8
    googlenet = given.get("model", "").startswith("inception_v1")
    if googlenet and given.get("preset", "paper") in ("paper", "caffe"):
        chosen |= (
            {"batch_size": 64, "lr": 0.05, "weight_decay": 1e-4}
            if cifar10
            else {"batch_size": 64, "lr": 0.03, "clip": 2.0}
        )
    if given.get("optimizer") == "rmsprop":
        chosen["lr"] = 0.045
    if given.get("train_images"):
        usual = chosen.get("batch_size", Options.batch_size)
        chosen["batch_size"] = max(2, min(usual, given["train_images"]))
    return Options(**{**chosen, **given})


def train(output: str | os.PathLike, options: Options, *, resume: bool = False, force: bool = False) -> dict[str, Any]:
    """Train a network and leave what is listed above in the folder `output`.

    resume: take up the run in `output`, with the same options. force: start although the memory
    estimate says that it will not fit. Returns the last line of the log.

    Raises UsageError for options that do not fit together, RefusedError for want of memory,
    StoppedError after a signal, ValueError for broken data and for a loss that is not finite.
    """
    check(options)
    folder = Path(output)
    if not resume and (folder / "state.safetensors").exists():
        raise UsageError(f"--output: {folder} already holds a run; add --resume, or name another folder")
    if resume and not (folder / "state.safetensors").exists():
        raise UsageError(f"--output: {folder} holds no run to resume; leave --resume out")
    run = Run(folder, options, force)
    with locked(make_folder(folder)):
        sweep(folder)
        if resume:
            run.restore()
        try:
            return run.go()
        except MemoryError as error:
            raise RefusedError(run.out_of_memory()) from error


def check(options: Options) -> None:
    """Raise UsageError for a value that no run could have."""
    o = options
    for option, chosen, known in (
        ("--optimizer", o.optimizer, ["sgd", "rmsprop"]),
        ("--schedule", o.schedule, ["cosine", "step", "exponential", "constant"]),
    ):
        if chosen not in known:
            raise UsageError(f"{option}: got {chosen!r}; {nearest(chosen, known)}")
    for option, value, low, high in (
        ("--epochs", o.epochs, 1, 100_000),
        ("--batch-size", o.batch_size, 2, 10**9),
        ("--lr", o.lr, 1e-12, 1e6),
        ("--momentum", o.momentum, 0, 0.999999),
        ("--weight-decay", o.weight_decay, 0, 1),
        ("--warm-up", o.warm_up, 0, o.epochs),
        ("--smoothing", o.smoothing, 0, 0.999),
        ("--clip", o.clip, 0, 1e30),
        ("--ema", o.ema, 0, 0.999999999),
        ("--seed", o.seed, 0, 2**64 - 1),
    ):
        if not low <= value <= high:
            raise UsageError(f"{option}: got {value}; give a number from {low} to {high}")


class Run:
    """One run: the network, the optimiser, the averages, and how far it has come."""

    def __init__(self, folder: Path, options: Options, force: bool) -> None:
        o = self.options = options
        self.folder = folder
        self.net = network_for(o, force)  # first, so that a refusal comes before the images are drawn
        self.data = load(o.data, o.data_dir, train=o.train_images, test=o.test_images, subset=o.subset)
        check_batch(o.batch_size, len(self.data.train_labels))
        self.weights, self.gradient = vectors(self.net)
        self.optimiser = make_optimiser(self.net, o)
        self.passes = Replay(self.net, low_memory=o.low_memory)
        self.norms = [(layer, layer.decay) for _, layer in walk(self.net) if isinstance(layer, BatchNorm)]
        self.average = Average(self.net, o.ema) if o.ema else None
        self.schedule = make_schedule(o)
        self.steps = len(self.data.train_labels) // o.batch_size  # in an epoch
        self.captured = self.captured_step(o.batch_size)
        self.epoch, self.step = 0, 0
        self.sums = new_sums()
        self.history: list[dict[str, Any]] = []
        self.predicted: np.ndarray | None = None

    def go(self) -> dict[str, Any]:
        """From where the run is to its end."""
        o, folder = self.options, self.folder
        atomic_write(folder / "options.json", json.dumps({**asdict(o), **surroundings()}, indent=2) + "\n")
        with Progress(o.epochs, self.steps) as progress, Signals() as signals:
            if self.epoch == 0 and self.step == 0:
                progress.say(self.header())
            for line in self.history:
                progress.epoch(line)
            while self.epoch < o.epochs:
                started = time.perf_counter() - self.sums["seconds"]
                for step, index in enumerate(batches(len(self.data.train_labels), o.batch_size, o.seed, self.epoch)):
                    if step < self.step:
                        continue  # done before the run was stopped
                    if signals.caught:
                        self.stop(signals.caught)
                    self.train_step(index)
                    self.step = step + 1
                    self.sums["seconds"] = time.perf_counter() - started
                    progress.step(self.epoch, self.step, self.sums)
                if signals.caught:
                    self.stop(signals.caught)
                self.finish_epoch(progress)
        self.draw()
        return self.history[-1]

    def captured_step(self, batch_size: int) -> Any:
        """The training step as a CUDA graph, or None where it is taken one operation at a time.

        A graph wants tensor cores (INCEPTION_NP_TF32=1), and looks neither at the gradient's norm nor at averages.
        """
        o, data = self.options, self.data
        if o.clip or o.ema or not on_tensor_cores(self.weights):
            return None
        from .cuda_graph import CapturedStep

        return CapturedStep(
            self.net,
            self.optimiser,
            data.train_images,
            data.train_labels,
            batch_size,
            mean=data.mean,
            std=data.std,
            pad=data.pad if o.augment else 0,
            smoothing=o.smoothing,
        )

    def launch_step(self, index: np.ndarray) -> None:
        """One batch by the captured step; every 16 steps, and at the end of an epoch, the losses are looked at."""
        o, where = self.options, (self.epoch, self.step)
        warm_statistics(self.norms, self.epoch * self.steps + self.step)
        self.optimiser.lr = self.schedule(self.epoch + (self.step + 0.5) / self.steps)
        crops = stream(o.seed, "augment", *where) if o.augment else None
        self.captured(index, crops=crops, dropout=stream(o.seed, "dropout", *where))
        self.sums["images"] += len(index)
        if (self.step + 1) % 16 == 0 or self.step + 1 == self.steps:
            self.look()

    def look(self) -> None:
        """Wait for the steps that were launched, and add their losses up."""
        loss, right = self.captured.totals()
        if not math.isfinite(loss):
            raise ValueError(
                f"train: the loss is not finite in epoch {self.epoch + 1}, step {self.step + 1} or the 15 before; "
                "a smaller --lr may help; without INCEPTION_NP_TF32=1 every step is looked at"
            )
        self.sums["loss"] += loss
        self.sums["right"] += right

    def train_step(self, index: np.ndarray) -> None:
        """One batch forward, backward and into the weights."""
        if self.captured:
            self.launch_step(index)
            return
        o, data, where = self.options, self.data, (self.epoch, self.step)
        images, labels = data.train_images[index], data.train_labels[index]
        if o.augment:
            images = augment(images, data.pad, data.mean, stream(o.seed, "augment", *where))
        x = beside(normalise(images, data.mean, data.std), self.weights)
        labels = beside(labels, self.weights)

        with np.errstate(all="ignore"):  # what is not finite is found below, and named
            loss, right = self.gradients(x, labels)
            norm = global_norm(self.gradient)
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise self.not_finite(x, labels, loss)
            if o.clip and norm > o.clip:
                self.gradient *= o.clip / norm
            self.optimiser.lr = self.schedule(self.epoch + (self.step + 0.5) / self.steps)
            self.optimiser.step()
            if self.average:
                self.average.update()
        self.sums["loss"] += loss * len(index)
        self.sums["right"] += right
        self.sums["images"] += len(index)

    def gradients(self, x: Array, labels: Array) -> tuple[float, int]:
        """Fill the gradient vector. Returns the loss and how many of the batch were right."""
        warm_statistics(self.norms, self.epoch * self.steps + self.step)
        rng = stream(self.options.seed, "dropout", self.epoch, self.step)
        y = self.passes.forward(x, rng)
        loss, dy = total_loss(y, labels, self.net.aux_weight, self.options.smoothing)
        self.passes.backward(dy)
        logits = y[0] if isinstance(y, tuple) else y
        return loss, int((logits.argmax(1) == labels).sum())

    def finish_epoch(self, progress: Progress) -> None:
        """Test, write down the epoch, and save."""
        sums, data = self.sums, self.data
        with self.average.in_place() if self.average else contextlib.nullcontext():
            accuracy, loss, self.predicted = evaluate(self.net, data.test_images, data.test_labels, data.mean, data.std)
        line = {
            "epoch": self.epoch + 1,
            "train_loss": sums["loss"] / sums["images"],
            "train_accuracy": sums["right"] / sums["images"],
            "test_loss": loss,
            "test_accuracy": accuracy,
            "lr": self.schedule(self.epoch + 1 - 0.5 / self.steps),
            "images": sums["images"],
            "seconds": round(sums["seconds"], 3),
        }
        self.history.append(line)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, new_sums()
        self.save()
        progress.epoch(line)

    def stop(self, number: int) -> None:
        """Save and leave, because of a signal."""
        if self.captured:
            self.look()
        self.save()
        name = signal.Signals(number).name
        raise StoppedError(
            f"train: stopped by {name} in epoch {self.epoch + 1} after {self.step} of {self.steps} steps, all "
            f"is saved; continue with: inception-np train --resume --output {self.folder}",
            number,
        )

    def draw(self) -> None:
        """The pictures of the run as it is."""
        data, folder = self.data, self.folder
        with self.average.in_place() if self.average else contextlib.nullcontext():
            if self.predicted is None:  # resumed after its last epoch
                *_, self.predicted = evaluate(self.net, data.test_images, data.test_labels, data.mean, data.std)
            pictures.first_filters(self.net, folder / "filters.png")
        pictures.learning_curves(self.history, folder / "curves.png")
        pictures.confusion(data.test_labels, self.predicted, data.classes, folder / "confusion.png")
        pictures.predictions(
            data.test_images, data.test_labels, self.predicted, data.classes, folder / "predictions.png"
        )

    # What is kept

    def save(self) -> None:
        """The state first: the other files follow from it."""
        tensors = {f"net/{path}": asarray(slot.data, "cpu") for path, slot in slots(self.net).items()}
        tensors |= {f"optimizer/{name}": asarray(v, "cpu") for name, v in self.optimiser.state.items()}
        if self.average:
            tensors |= {f"average/{i}": asarray(mean, "cpu") for i, mean in enumerate(self.average.means)}
        progress = {"epoch": self.epoch, "step": self.step, "sums": self.sums, "history": self.history}
        progress["updates"] = self.average.updates if self.average else 0
        state, previous = self.folder / "state.safetensors", self.folder / "state.previous.safetensors"
        if state.exists():
            keep_as(state, previous)
        write_tensors(
            state,
            tensors,
            {
                "format": STATE_FORMAT,
                "options": json.dumps(asdict(self.options)),
                "progress": json.dumps(progress),
            },
        )
        about = {
            "data": self.data.name,
            "classes": list(self.data.classes),
            "preprocess": Preprocess(
                self.data.train_images.shape[1:3],
                resize=max(self.data.train_images.shape[1:3]),
                mean=self.data.mean,
                std=self.data.std,
            ).to_dict(),
            "epochs": self.epoch,
        }
        with self.average.in_place() if self.average else contextlib.nullcontext():
            save(self.net, self.folder / "checkpoint.safetensors", about=about)
        atomic_write(self.folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in self.history))

    def restore(self) -> None:
        """The opposite of save, from the newer of the two states that is whole."""
        tensors, metadata = newest_state(self.folder)
        progress = json.loads(metadata["progress"])
        for path, slot in slots(self.net).items():
            slot.data[...] = beside(tensors[f"net/{path}"], slot.data)
        for name, vector in self.optimiser.state.items():
            vector[...] = beside(tensors[f"optimizer/{name}"], vector)
        if self.average:
            for i, mean in enumerate(self.average.means):
                mean[...] = beside(tensors[f"average/{i}"], mean)
            self.average.updates = progress["updates"]
        self.epoch, self.step = progress["epoch"], progress["step"]
        self.sums, self.history = progress["sums"], progress["history"]

    # What is said

    def header(self) -> str:
        o, data = self.options, self.data
        count = sum(p.data.size for p in named_params(self.net).values())
        return (
            f"{o.model}, {count:,} parameters, on {data.name}: {len(data.train_labels):,} training and "
            f"{len(data.test_labels):,} test images, {o.epochs} epochs of {self.steps} batches of "
            f"{min(o.batch_size, len(data.train_labels))}; {self.folder}"
        )

    def out_of_memory(self) -> str:
        """What is said where memory ended although it was thought to be enough."""
        o, kept = self.options, (self.folder / "state.safetensors").exists()
        less = f"--batch-size {o.batch_size // 2}" if o.batch_size >= 4 else "a smaller network"
        before = (
            f"; the run up to its last save is in {self.folder}, --resume takes it up once there is more"
            if kept
            else ""
        )
        return (
            f"--batch-size: out of memory with {o.batch_size} images in epoch {self.epoch + 1}, step {self.step + 1}; "
            f"{less} in another folder takes about half{before}"
        )

    def not_finite(self, x: Array, labels: Array, loss: float) -> ValueError:
        """The error for a loss or gradient that is not finite: which layer was the first?"""
        where = f"epoch {self.epoch + 1}, step {self.step + 1} (lr {self.optimiser.lr:.3g})"
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
        self.passes = Replay(self.net)  # nothing is written down yet: the layers run
        with np.errstate(all="ignore"):
            culprit = first_bad_layer(self.net, lambda: self.gradients(x, labels))
        kept = "state.safetensors" if (self.folder / "state.safetensors").exists() else "nothing yet"
        return ValueError(
            f"train: {what} in {where}, first made by {culprit}; the run before it is in "
            f"{self.folder / kept}: lower --lr, add --warm-up 1 or --clip 2"
        )


def new_sums() -> dict[str, Any]:
    """What is added up over an epoch."""
    return {"loss": 0.0, "right": 0, "images": 0, "seconds": 0.0}


def slots(net: Layer) -> dict[str, Any]:
    return {**named_params(net), **named_buffers(net)}


def newest_state(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, metadata) of state.safetensors or, if that is damaged, of the one before."""
    state, previous = folder / "state.safetensors", folder / "state.previous.safetensors"
    try:
        tensors, metadata = read_tensors(state)
    except ValueError as error:
        if not previous.exists():
            raise
        print(f"{error}\ngoing back to {previous.name}", file=sys.stderr)
        tensors, metadata = read_tensors(previous)
    if metadata.get("format") != STATE_FORMAT:
        raise ValueError(
            f"{folder}: format: got {metadata.get('format')!r}, wanted {STATE_FORMAT!r}; "
            "resume it with the version of this package that wrote it"
        )
    return tensors, metadata


def stored_options(folder: Path) -> Options:
    """The options of the run in a folder. Raises UsageError if there is none."""
    if not (folder / "state.safetensors").exists():
        raise UsageError(f"--resume: {folder} holds no run; check --output")
    stored = json.loads(newest_state(folder)[1]["options"])
    return Options(**{field.name: stored[field.name] for field in fields(Options)})


# The pieces of a step


def make_optimiser(net: Layer, o: Options) -> SGD | RMSProp:
    if o.optimizer == "sgd":
        nesterov = o.nesterov and o.momentum > 0
        return SGD(net, o.lr, momentum=o.momentum, weight_decay=o.weight_decay, nesterov=nesterov)
    return RMSProp(net, o.lr, momentum=o.momentum, weight_decay=o.weight_decay)


def make_schedule(o: Options) -> schedules.Schedule:
    if o.schedule == "cosine":
        schedule = schedules.cosine(o.lr, o.epochs)
    elif o.schedule == "step":  # a tenth after half, and again after three quarters of the run
        schedule = schedules.step(o.lr, [0.5 * o.epochs, 0.75 * o.epochs])
    elif o.schedule == "exponential":  # Rethinking, section 8
        schedule = schedules.exponential(o.lr, 0.94, 2)
    else:
        schedule = schedules.constant(o.lr)
    return schedules.warm_up(schedule, o.warm_up)


def warm_statistics(norms: list[tuple[BatchNorm, float]], updates: int) -> None:
    """Let batch norm's running averages forget their beginning, 0 and 1, as `Average` does.

    A decay of 0.99 would take hundreds of steps to forget it, TF-slim's 0.9997 ten thousands, and
    until then a network that trains well tests badly. norms: the layers with their own decay.
    """
    for layer, decay in norms:
        layer.decay = min(decay, (1 + updates) / (10 + updates))


def global_norm(gradient: Array) -> float:
    """The Euclidean norm of all gradients as one vector, summed in float64."""
    squares = gradient * gradient
    return float(array_module(gradient).sum(squares, dtype=np.float64)) ** 0.5


class Average:
    """Running averages of the weights and of batch norm's statistics.

        mean = d mean + (1 - d) weight        d = min(decay, (1 + updates) / (10 + updates))

    The second term lets it forget the random beginning, as in TensorFlow's
    ExponentialMovingAverage, which the Rethinking paper (section 8) evaluates with.
    """

    def __init__(self, net: Layer, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.arrays = [vectors(net)[0], *(b.data for b in named_buffers(net).values())]
        self.means = [array.copy() for array in self.arrays]

    def update(self) -> None:
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for mean, array in zip(self.means, self.arrays, strict=True):
            mean += (1 - keep) * (array - mean)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this block the network has the averages for weights."""
        weights = [array.copy() for array in self.arrays]
        for array, mean in zip(self.arrays, self.means, strict=True):
            array[...] = mean
        try:
            yield
        finally:
            for array, weight in zip(self.arrays, weights, strict=True):
                array[...] = weight


def evaluate(
    net: Layer,
    images: np.ndarray,
    labels: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = 250,
) -> tuple[float, float, np.ndarray]:
    """(accuracy, mean loss, predicted classes (N,)) of uint8 images (N, H, W, C)."""
    like = next(iter(named_params(net).values())).data
    batch_size = min(batch_size, len(labels))
    infer = compile_inference(net, (batch_size, *images.shape[1:]))
    predicted, loss = np.empty(len(labels), np.int64), 0.0
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        x = beside(normalise(images[part], mean, std, like.dtype), like)
        logits = asarray(infer(x) if len(x) == batch_size else net.forward(x, Mode())[0], "cpu")
        predicted[part] = logits.argmax(1)
        loss += float(softmax_cross_entropy(logits, labels[part])[0]) * len(labels[part])
    return float((predicted == labels).mean()), loss / len(labels), predicted


class _FoundError(Exception):
    """Carries a layer's name out of the network."""


def first_bad_layer(net: Layer, again: Callable[[], Any]) -> str:
    """The path of the first layer whose result is not finite while `again()` runs."""

    def finite(result: Any) -> bool:
        if isinstance(result, tuple):
            return all(map(finite, result))
        if isinstance(result, dict):
            return all(map(finite, result.values()))
        return not hasattr(result, "dtype") or bool(array_module(result).isfinite(result).all())

    def watched(layer: Layer, path: str) -> None:
        forward, backward = layer.forward, layer.backward
        name = f"layer {path} ({type(layer).__name__})"
        mine = [p for p in layer.children().values() if hasattr(p, "grad")]

        def checked_forward(*args: Any, **keywords: Any) -> Any:
            if not all(finite(p.data) for p in mine):
                raise _FoundError(f"the weights of {name}")
            y, cache = forward(*args, **keywords)
            if not finite(y):
                raise _FoundError(name)
            return y, cache

        def checked_backward(*args: Any, **keywords: Any) -> Any:
            dx = backward(*args, **keywords)
            if not finite(dx) or not all(finite(p.grad) for p in mine):
                raise _FoundError(f"the gradient in {name}")
            return dx

        layer.forward, layer.backward = checked_forward, checked_backward  # type: ignore[method-assign]

    layers = {id(layer): (path, layer) for path, layer in walk(net) if isinstance(layer, Layer)}
    for path, layer in layers.values():
        watched(layer, path)
    for parameter in named_params(net).values():
        parameter.grad[...] = 0
    try:
        again()
    except _FoundError as found:
        return str(found)
    finally:
        for _, layer in layers.values():
            del layer.forward, layer.backward
    return "the loss"


# The world around a run


class Signals:
    """Notes Ctrl-C and SIGTERM, so that a step can end before the run does. A second one kills."""

    def __init__(self) -> None:
        self.caught = 0

    def __enter__(self) -> "Signals":
        self.before = {}
        with contextlib.suppress(ValueError):  # not in the main thread: the caller has the signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: Any) -> None:
        self.caught = number
        for each in self.before:
            signal.signal(each, signal.SIG_DFL)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def surroundings() -> dict[str, Any]:
    """What else a result may depend on."""
    from . import __version__

    return {
        "versions": {"inception_np": __version__, "numpy": np.__version__, "python": platform.python_version()},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "command": sys.argv,
    }

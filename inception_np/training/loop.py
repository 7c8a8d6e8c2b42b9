"""Training: the loop, and what it leaves in the output folder.

    options.json             every option of the run, and the versions it ran with
    log.jsonl                one line per epoch
    checkpoint.safetensors   the weights, for eval, predict and load
    state.safetensors        all that --resume needs (state.py), and state.previous.safetensors
    curves.png filters.png confusion.png predictions.png

A run can be stopped anywhere and taken up again, and ends with the same bits: what is random is
drawn by seed, epoch and step (random.py), and everything else is in the state. The state is written
at the end of each epoch and once a minute within it; log, checkpoint and pictures follow from it,
and are written again when a run is taken up.
"""

import contextlib
import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, beside, on_tensor_cores
from ..checkpoint import save
from ..data.cifar10 import alternating, augment, batches, load, normalise
from ..data.files import atomic_write, keep_as, locked, make_folder, sweep
from ..data.preprocess import Preprocess
from ..data.random import stream
from ..data.streams import say
from ..errors import RefusedError, StoppedError, UsageError
from ..kernels.clip import clip_norm
from ..layer import Layer, named_buffers, named_params, vectors, walk
from ..layers.batchnorm import BatchNorm
from ..layers.whitening import whiten
from ..loss import total_loss
from ..replay import Replay
from . import plots, schedules
from .average import Average, Lookahead, warm_statistics
from .evaluate import evaluate
from .fits import check_batch, network_for
from .optim import SGD, RMSProp
from .options import Options, check, check_save_every, described, flag, resolve
from .progress import Progress
from .signals import Interrupted, Signals, signal_name
from .state import (
    NEWEST,
    PREVIOUS,
    Pace,
    check_folder,
    check_tensors,
    holds_run,
    newest_state,
    options_of,
    progress_of,
    stored_options,
    write_state,
)
from .watchdog import all_finite, first_bad_layer, first_not_finite, is_finite

__all__ = ["FILES", "Options", "evaluate", "newest_state", "resolve", "stored_options", "train"]

FILES = {
    "checkpoint.safetensors": "the weights, for eval and predict",
    "curves.png": "loss and accuracy over the epochs",
    "predictions.png": "test images with their predicted and true classes",
    "confusion.png": "which class is taken for which",
    "filters.png": "what the first convolution looks for",
    "log.jsonl": "one line per epoch",
}
OURS = (NEWEST, PREVIOUS, "options.json", *FILES)  # the files that only the holder of the folder's lock writes


def train(
    output: str | os.PathLike,
    options: Options,
    *,
    resume: bool = False,
    force: bool = False,
    save_every: float = 60.0,
) -> dict[str, Any]:
    """Train a network and leave what is listed above in the folder `output`.

    resume: take up the run in `output`, with the same options. force: start although the memory
    estimate says that it will not fit. save_every: seconds between two saves within an epoch; 0 is
    after every step. Such a save writes the state alone, and saves are at least 100 times as far
    apart as one takes, which keeps them below 1 % of the time. Returns the last line of the log.

    Raises UsageError for options that do not fit together, RefusedError for want of memory,
    StoppedError after a signal, ValueError for broken data and for numbers that are not finite.
    """
    check(options)
    check_save_every(save_every)
    folder = Path(output)
    check_folder(folder, resume)
    run: Run | None = None
    with Signals() as signals:
        try:
            run = Run(folder, options, force, signals, save_every)
            with locked(make_folder(folder)):
                check_folder(folder, resume)  # another process may have been here meanwhile
                sweep(folder, OURS)
                if resume:
                    run.restore()
                return run.go()
        except Interrupted as stopped:
            raise stopped_outside(stopped.number, folder, run) from None
        except MemoryError as error:
            raise RefusedError(run.out_of_memory() if run else "") from error


def stopped_outside(number: int, folder: Path, run: "Run | None") -> StoppedError:
    """The error for a signal before the first step of this process or after its last."""
    again = f"inception-np train --resume --output {folder}"
    if run and run.epoch == run.options.epochs:
        what = f"after the last epoch; all is saved, but pictures may be missing: draw them with: {again}"
    elif holds_run(folder):
        what = f"before the next step; the run in {folder} is as it was, continue with: {again}"
    else:
        what = "before the first step; nothing was to be saved"
    return StoppedError(f"train: stopped by {signal_name(number)} {what}", number)


class Run:
    """One run: the network, the optimiser, the averages, and how far it has come."""

    def __init__(
        self,
        folder: Path,
        options: Options,
        force: bool,
        signals: Signals | None = None,
        save_every: float = 60.0,
    ) -> None:
        o = self.options = options
        self.folder = folder
        self.signals = signals or Signals()
        self.pace = Pace(save_every)
        self.net = network_for(o, force)  # first, so that a refusal comes before the images are drawn
        self.data = load(o.data, o.data_dir, train=o.train_images, test=o.test_images, subset=o.subset)
        check_batch(o.batch_size, len(self.data.train_labels))
        self.pad = self.data.pad if o.pad is None else o.pad
        whiten(self.net, self.data.train_images, self.data.mean, self.data.std)
        self.weights, self.gradient = vectors(self.net)
        self.optimiser = make_optimiser(self.net, o)
        self.passes = Replay(self.net, low_memory=o.low_memory)
        self.norms = [(layer, layer.decay) for _, layer in walk(self.net) if isinstance(layer, BatchNorm)]
        self.average = Average(self.net, o.ema) if o.ema else None
        self.steps = len(self.data.train_labels) // o.batch_size  # in an epoch
        self.lookahead = Lookahead(self.net, o.epochs * self.steps) if o.lookahead else None
        self.watched = [
            self.weights,
            *self.optimiser.state.values(),
            *(b.data for b in named_buffers(self.net).values()),
        ]
        self.watched += self.average.means if self.average else []
        self.watched += self.lookahead.means if self.lookahead else []
        self.schedule = schedules.named(o.schedule, o.lr, o.epochs, o.warm_up)
        self.captured = self.captured_step(o.batch_size)
        self.epoch, self.step = 0, 0
        self.sums = new_sums()
        self.history: list[dict[str, Any]] = []
        self.saved: tuple[int, int] | None = None  # the epoch and step that all files are of
        self.predicted: np.ndarray | None = None

    def go(self) -> dict[str, Any]:
        """From where the run is to its end."""
        o = self.options
        atomic_write(self.folder / "options.json", described(o))
        with self.signals.deferred(), Progress(o.epochs, self.steps) as progress:
            if self.epoch == 0 and self.step == 0:
                progress.say(self.header())
            for line in self.history:
                progress.epoch(line)
            try:
                while self.epoch < o.epochs:
                    self.train_epoch(progress)
                    self.finish_epoch(progress)
            except Interrupted as stopped:
                self.stop(stopped.number)
        self.draw()
        return self.history[-1]

    def train_epoch(self, progress: Progress) -> None:
        """The steps of the epoch that are still to be taken."""
        o = self.options
        started = time.perf_counter() - self.sums["seconds"]
        for step, index in enumerate(batches(len(self.data.train_labels), o.batch_size, o.seed, self.epoch)):
            if step < self.step:
                continue  # done before the run was stopped
            self.signals.check()
            self.train_step(index)
            self.step = step + 1
            self.sums["seconds"] = time.perf_counter() - started
            progress.step(self.epoch, self.step, self.sums)
            # the losses of a captured step are looked at every 16 steps, and its sums are complete only then
            if self.pace.due() and (not self.captured or self.step % 16 == 0):
                self.save_state()
        self.signals.check()

    def captured_step(self, batch_size: int) -> Any:
        """The training step as a CUDA graph, which wants INCEPTION_NP_TF32=1, or None: one operation at a time."""
        o, data = self.options, self.data
        if not on_tensor_cores(self.weights):
            return None
        from ..cuda_graph import CapturedStep

        return CapturedStep(
            self.net,
            self.optimiser,
            data.train_images,
            data.train_labels,
            batch_size,
            mean=data.mean,
            std=data.std,
            pad=self.pad if o.augment else 0,
            cutout=o.cutout,
            smoothing=o.smoothing,
            clip=o.clip,
            average=self.average,
        )

    def launch_step(self, index: np.ndarray) -> None:
        """One batch by the captured step; every 16 steps, and at the end of an epoch, the losses are looked at."""
        o, where = self.options, (self.epoch, self.step)
        warm_statistics(self.norms, self.done)
        self.optimiser.lr = self.schedule(self.epoch + (self.step + 0.5) / self.steps)
        crops = stream(o.seed, "augment", *where) if o.augment else None
        self.captured(index, crops=crops, dropout=stream(o.seed, "dropout", *where), mirrored=self.mirrored(index))
        if self.lookahead:  # on the null stream, which waits for the step and the next step for it
            self.lookahead.update(self.done + 1)
        self.sums["images"] += len(index)
        if (self.step + 1) % 16 == 0 or self.step + 1 == self.steps:
            self.look()

    @property
    def done(self) -> int:
        """The steps that the run has taken."""
        return self.epoch * self.steps + self.step

    def mirrored(self, index: np.ndarray) -> np.ndarray | None:
        """Which of these images --flip alternating mirrors in this epoch; None for --flip random."""
        if self.options.flip == "random":
            return None
        return alternating(len(self.data.train_labels), self.options.seed, self.epoch)[index]

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
            crops, mirrored = stream(o.seed, "augment", *where), self.mirrored(index)
            images = augment(images, self.pad, data.mean, crops, cutout=o.cutout, mirrored=mirrored)
        x = beside(normalise(images, data.mean, data.std), self.weights)
        labels = beside(labels, self.weights)

        with np.errstate(all="ignore"):  # what is not finite is found below, and named
            loss, right = self.gradients(x, labels)
            norm = float(clip_norm(self.gradient, o.clip or math.inf))
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise self.not_finite(x, labels, loss)
            self.optimiser.lr = self.schedule(self.epoch + (self.step + 0.5) / self.steps)
            self.optimiser.step()
            if self.average:
                self.average.update()
            if self.lookahead:
                self.lookahead.update(self.done + 1)
        if isinstance(self.weights, np.ndarray) and not all_finite(self.watched):  # 0.1 % of a step; a GPU would wait
            self.check_finite(self.step + 1)
        self.sums["loss"] += loss * len(index)
        self.sums["right"] += right
        self.sums["images"] += len(index)

    def gradients(self, x: Array, labels: Array) -> tuple[float, int]:
        """Fill the gradient vector. Returns the loss and how many of the batch were right."""
        warm_statistics(self.norms, self.done)
        rng = stream(self.options.seed, "dropout", self.epoch, self.step)
        y = self.passes.forward(x, rng)
        loss, dy = total_loss(y, labels, self.net.aux_weight, self.options.smoothing)
        self.passes.backward(dy)
        logits = y[0] if isinstance(y, tuple) else y
        return loss, int((logits.argmax(1) == labels).sum())

    def finish_epoch(self, progress: Progress) -> None:
        """Test, write down the epoch, and save."""
        sums = self.sums
        self.check_finite()
        with self.average.in_place() if self.average else contextlib.nullcontext():
            accuracy, loss, self.predicted = self.test(pause=self.signals.check)
        if not math.isfinite(loss):
            raise self.error(f"the test loss is {loss} although every number of the network is finite")
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

    def test(self, **how: Any) -> tuple[float, float, np.ndarray]:
        """What `evaluate` gives for the test images, as the options say."""
        data = self.data
        where = (data.test_images, data.test_labels, data.mean, data.std)
        return evaluate(self.net, *where, tta=self.options.tta, **how)

    def stop(self, number: int) -> None:
        """Save and leave, because of a signal."""
        if self.captured:
            self.look()
        if self.saved != (self.epoch, self.step):
            self.save()
        raise StoppedError(
            f"train: stopped by {signal_name(number)} in epoch {self.epoch + 1} after {self.step} of {self.steps} "
            f"steps, all is saved; continue with: inception-np train --resume --output {self.folder}",
            number,
        )

    def draw(self) -> None:
        """The pictures of the run as it is."""
        data, folder = self.data, self.folder
        with self.average.in_place() if self.average else contextlib.nullcontext():
            if self.predicted is None:  # resumed after its last epoch
                *_, self.predicted = self.test()
            plots.first_filters(self.net, folder / "filters.png")
        plots.learning_curves(self.history, folder / "curves.png")
        plots.confusion(data.test_labels, self.predicted, data.classes, folder / "confusion.png")
        plots.predictions(data.test_images, data.test_labels, self.predicted, data.classes, folder / "predictions.png")

    # What is said

    def header(self) -> str:
        o, data = self.options, self.data
        count = sum(p.data.size for p in named_params(self.net).values())
        return (
            f"{o.model}, {count:,} parameters, on {data.name}: {len(data.train_labels):,} training and "
            f"{len(data.test_labels):,} test images, {o.epochs} epochs of {self.steps} batches of "
            f"{o.batch_size}; {self.folder}"
        )

    # What is kept

    def arrays(self) -> dict[str, Array]:
        """All arrays of the run by their names in the state."""
        found = {f"net/{path}": slot.data for path, slot in (named_params(self.net) | named_buffers(self.net)).items()}
        found |= {f"optimizer/{name}": vector for name, vector in self.optimiser.state.items()}
        if self.average:
            found |= {f"average/{i}": mean for i, mean in enumerate(self.average.means)}
        if self.lookahead:
            found |= {f"lookahead/{i}": slow for i, slow in enumerate(self.lookahead.means)}
        return found

    def save(self) -> None:
        """The state first: the other files follow from it."""
        self.save_state()
        self.save_results()

    def save_state(self) -> None:
        """The arrays, the options, and how far the run has come."""
        self.check_finite()
        progress = {"epoch": self.epoch, "step": self.step, "sums": self.sums, "history": self.history}
        progress["updates"] = self.average.updates if self.average else 0
        with self.pace.measured():
            write_state(self.folder, self.arrays(), self.options, progress)

    def save_results(self) -> None:
        """What follows from the state: the checkpoint and the log."""
        size = self.data.train_images.shape[1:3]
        about = {
            "data": self.data.name,
            "classes": list(self.data.classes),
            "preprocess": Preprocess(size, resize=max(size), mean=self.data.mean, std=self.data.std).to_dict(),
            "epochs": self.epoch,
        }
        with self.average.in_place() if self.average else contextlib.nullcontext():
            save(self.net, self.folder / "checkpoint.safetensors", about=about)
        lines = [json.dumps(line, allow_nan=False) + "\n" for line in self.history]
        atomic_write(self.folder / "log.jsonl", "".join(lines))
        self.saved = (self.epoch, self.step)

    def restore(self) -> None:
        """The opposite of save, from the newer of the two states that is whole. All or nothing is changed."""
        state = newest_state(self.folder)
        if state.skipped:
            say(f"{state.skipped}\ngoing back to {state.path.name}")
        stored = asdict(options_of(state))
        for field, value in asdict(self.options).items():
            if value != stored[field]:
                raise UsageError(
                    f"{flag(field)}: got {value}, the run in {self.folder} has {stored[field]}; leave it out to resume"
                )
        progress = progress_of(state, self.options, self.steps, self.options.batch_size)
        arrays = self.arrays()
        check_tensors(state, arrays)
        if state.skipped:  # or the next save would keep the damaged file as the previous state
            keep_as(state.path, self.folder / NEWEST)
        for name, array in arrays.items():
            array[...] = beside(state.tensors[name], array)
        if self.average:
            self.average.updates = progress["updates"]
        self.epoch, self.step = progress["epoch"], progress["step"]
        self.sums, self.history = progress["sums"], progress["history"]
        self.save_results()

    # What is not finite

    def check_finite(self, step: int | None = None) -> None:
        """Raise ValueError if any number of the run is not finite: nothing that is not is ever saved."""
        culprit = first_not_finite(self.net)
        for name, vector in self.optimiser.state.items():
            culprit = culprit or (None if is_finite(vector) else f"the optimiser's {name}")
        if self.average and not all(map(is_finite, self.average.means)):
            culprit = culprit or "a running average of the weights (--ema)"
        if self.lookahead and not all(map(is_finite, self.lookahead.means)):
            culprit = culprit or "a slow weight (--lookahead)"
        if culprit:
            raise self.error(f"{culprit} is not finite", step)

    def out_of_memory(self) -> str:
        """What is said where memory ended although it was thought to be enough."""
        o, kept = self.options, holds_run(self.folder)
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
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
        self.passes = Replay(self.net)  # nothing is written down yet: the layers run
        with np.errstate(all="ignore"):
            culprit = first_bad_layer(self.net, lambda: self.gradients(x, labels))
        return self.error(what, self.step + 1, f", first found in {culprit}")

    def error(self, what: str, step: int | None = None, culprit: str = "") -> ValueError:
        """The error for a number that is not finite, seen in that step of the epoch."""
        step = self.step if step is None else step
        newest = self.folder / NEWEST
        kept = f"the state before it is in {newest}" if newest.exists() else "nothing was saved before it"
        return ValueError(
            f"train: {what} in epoch {self.epoch + 1}, step {step} (lr {self.optimiser.lr:.3g}){culprit}; "
            f"{kept}: lower --lr, add --warm-up 1 or --clip 2"
        )


def new_sums() -> dict[str, Any]:
    """What is added up over an epoch."""
    return {"loss": 0.0, "right": 0, "images": 0, "seconds": 0.0}


# The pieces of a step


def make_optimiser(net: Layer, o: Options) -> SGD | RMSProp:
    if o.optimizer == "sgd":
        nesterov = o.nesterov and o.momentum > 0
        return SGD(net, o.lr, momentum=o.momentum, weight_decay=o.weight_decay, nesterov=nesterov)
    return RMSProp(net, o.lr, momentum=o.momentum, weight_decay=o.weight_decay)

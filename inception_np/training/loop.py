"""Training: the loop, and what it leaves in the output folder.

    options.json             every option of the run, and the versions it ran with
    log.jsonl, log.csv       one line per epoch; train_total_loss is what falls, train_loss the main head's part of it,
                             and train_cross_entropy that without label smoothing, as the test loss is
    checkpoint.safetensors   the weights, for eval, predict and load
    best.safetensors         those after the epoch of the best test accuracy
    state.safetensors        all that --resume needs (state.py), and state.previous.safetensors
    curves.png filters.png confusion.png predictions.png

A run can be stopped anywhere and taken up again, and ends with the same bits: what is random is drawn by seed, epoch
and step (data/random.py), and everything else is in the state. The state is written at the end of each epoch and once a
minute within it; logs, checkpoints and pictures follow from it, and are written again when a run is taken up.

Of several workers (shards.py) each has the whole run, and rank 0 alone reads and writes its folder: the others begin
with what it has. After every step they agree whether one of them has caught a signal.

A run that is taken up with more epochs goes on as if it had been given so many at first: the learning rate is that of
the longer schedule, from the present epoch on.
"""

import contextlib
import json
import math
import os
import time
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.arrays import Array
from ..backend.device import asarray, on_tensor_cores, set_precision, to_device_of
from ..backend.errors import RefusedError, StoppedError, UsageError
from ..data.batches import alternating, batches
from ..data.dataset import KNOWN, Dataset, check_request, load
from ..data.files import atomic_write, locked, make_folder, sweep
from ..data.photographs import Photographs, ahead
from ..data.random import stream
from ..data.streams import say
from ..layer import named_buffers, named_params, vectors, walk
from ..layers.batchnorm import BatchNorm
from ..layers.whitening import whiten
from ..parallel.agree import check_alike, digests, versions_and_processor
from ..parallel.nccl import take_gpu
from ..parallel.watch import resume_with
from ..parallel.workers import ALONE, Workers, check_shards, of_process
from . import results
from .average import average_for, warm_statistics
from .captured_shards import ShardedGraphStep
from .evaluate import evaluate
from .fits import as_asked, image_side, network_for
from .freeze import frozen_params
from .muon import Muon
from .options import MANY_IMAGES, Options, check, check_save_every, described, flag
from .progress import Progress
from .schedules import SCHEDULES, warm_up
from .shards import ShardedStep
from .signals import Interrupted, Signals, signal_name
from .start import take_weights
from .state import NEWEST, PLAIN, PREVIOUS, TOTAL, Pace, check_folder, holds_run, restore_state, write_state
from .step import EagerStep, GraphStep, NotFiniteError, TrainingStep, optimiser_for
from .watchdog import all_finite, first_not_finite, is_finite

OURS = (NEWEST, PREVIOUS, "options.json", *results.FILES)  # what only the holder of the folder's lock writes


def train(
    output: str | os.PathLike[str],
    options: Options,
    *,
    resume: bool = False,
    force: bool = False,
    save_every: float = 60.0,
) -> dict[str, Any]:
    """Train a network and leave what is listed above in the folder `output`.

    resume: take up the run in `output`, with the same options or more epochs. force: start although the memory estimate
    says that it will not fit. save_every: seconds between two saves within an epoch; 0 is after every step. Such a save
    writes the state alone, and saves are at least 100 times as far apart as one takes, which keeps them below 1 % of
    the time.
    Returns the last line of the log.

    Raises UsageError for options that do not fit together, RefusedError for want of memory, StoppedError after a
    signal, ValueError for broken data and for numbers that are not finite.
    """
    check(options)
    check_save_every(save_every)
    workers = of_process()
    check_alike(workers, versions_and_processor, "install the same on all machines")
    check_alike(workers, partial(asked_for, options, resume), "start all workers with the same options")
    check_shards(options.shards, workers)
    folder = Path(workers.gather_texts(os.fspath(output))[0])
    if workers.rank == 0:
        check_folder(folder, resume)
    run: Run | None = None
    with Signals() as signals:
        try:
            run = Run(folder, options, force, signals, save_every)
            with contextlib.ExitStack() as stack:
                if run.writes:
                    stack.enter_context(locked(make_folder(folder)))
                    check_folder(folder, resume)  # another process may have been here meanwhile
                    sweep(folder, OURS)
                    if resume:
                        run.restore()
                run.share()
                return run.go()
        except Interrupted as stopped:
            raise stopped_outside(stopped.number, folder, run) from None
        except MemoryError as error:
            raise RefusedError(run.out_of_memory() if run else "") from error


def stopped_outside(number: int, folder: Path, run: "Run | None") -> StoppedError:
    """The error for a signal before the first step of this process or after its last."""
    again = resume_command(folder)
    if run and run.finished:
        what = f"after the last epoch; all is saved, but pictures may be missing: draw them with: {again}"
    elif holds_run(folder):
        what = f"before the next step; the run in {folder} is as it was, continue with: {again}"
    else:
        what = "before the first step; nothing was to be saved"
    return StoppedError(f"train: stopped by {signal_name(number)} {what}", number)


def asked_for(options: Options, resume: bool) -> dict[str, str]:
    """What a run is to be, by the names on the command line."""
    return {"--resume": str(resume), **{flag(name): str(value) for name, value in asdict(options).items()}}


def resume_command(folder: Path) -> str:
    """What takes up the run in a folder. (Another number of workers, or one alone, would do as well.)"""
    workers = of_process()
    several = f"mpiexec -n {workers.size} " if workers.size > 1 else ""
    return f"{several}inception-np train --resume --output {folder}"


class Run:
    """One run: the network, the optimiser, the average of the weights, and how far it has come."""

    def __init__(
        self, folder: Path, options: Options, force: bool, signals: Signals | None = None, save_every: float = 60.0
    ) -> None:
        o = self.options = options
        self.folder = folder
        self.workers = of_process()
        self.writes = self.workers.rank == 0
        self.signals = signals or Signals()
        self.pace = Pace(save_every)
        if o.device != "cpu":
            set_precision(o.precision)
            take_gpu(self.workers)
        check_request(o.data, o.train_images, o.test_images)
        read = None if o.data in KNOWN else self.read()  # else later, so that a refusal comes before images are drawn
        self.net = network_for(o, force, read.size if read else None)
        self.frozen = frozen_params(self.net, o.freeze)  # its errors too
        self.tensorboard = results.TensorBoard(folder) if o.log == "tensorboard" and self.writes else None
        self.data = as_asked(read or self.read(), o)
        check_alike(self.workers, partial(digests, self.data), "give all workers the same images")
        whiten(self.net, self.data.train_images, self.data.mean, self.data.std)
        if o.from_ and self.writes and not holds_run(folder):
            take_weights(self.net, self.data, o.from_)
        self.weights = vectors(self.net)[0]
        self.optimiser = optimiser_for(self.net, o)
        self.norms = [(layer, layer.decay) for _, layer in walk(self.net) if isinstance(layer, BatchNorm)]
        self.steps = len(self.data.train_labels) // o.batch_size  # in an epoch
        self.average = average_for(self.net, o, o.epochs * self.steps)
        statistics = [b.data for b in named_buffers(self.net).values()]
        self.watched = [self.weights, *statistics, *self.arrays_beside().values()]  # what a step changes
        steps = (o.lr_factor, o.lr_every) if o.schedule == "exponential" else ()
        self.schedule = warm_up(SCHEDULES[o.schedule](o.lr, o.epochs, *steps), o.warm_up)
        self.training_step = self.step_as_asked()
        self.smoothed = o.smoothing > 0 and self.training_step.tells_losses
        self.apart = bool(self.net.heads) and self.training_step.tells_losses  # the main loss and the total one
        self.epoch, self.step = 0, 0
        self.sums = new_sums()
        self.history: list[dict[str, Any]] = []
        self.saved: tuple[int, int] | None = None  # the epoch and step that all files are of
        self.predicted: np.ndarray | None = None

    def step_as_asked(self) -> TrainingStep:
        """In shards, or as a CUDA graph where products run on tensor cores (cuBLAS would not do), or else eager."""
        parts = (self.net, self.optimiser, self.data, self.options, self.average)
        captured = on_tensor_cores(self.weights) and not isinstance(self.optimiser, Muon)
        if self.options.shards:
            return ShardedGraphStep(*parts, self.workers) if captured else ShardedStep(*parts, self.workers)
        return GraphStep(*parts) if captured else EagerStep(*parts)

    def read(self) -> Dataset:
        """The data set that the options name. If it may have to be downloaded, rank 0 reads it before the others do."""
        o = self.options
        downloads = o.data in MANY_IMAGES and o.data_dir is None
        if downloads and not self.writes:
            self.workers.gather(np.zeros(1))
        which: dict[str, Any] = {"train": o.train_images, "test": o.test_images, "subset": o.subset}
        if o.data not in KNOWN:
            which["size"] = image_side(o.model)
        data = load(o.data, o.data_dir, **which)
        if downloads and self.writes:
            self.workers.gather(np.zeros(1))
        return data

    @property
    def done(self) -> int:
        """The steps that the run has taken."""
        return self.epoch * self.steps + self.step

    @property
    def finished(self) -> bool:
        """After the last epoch, or after --patience epochs without a better test accuracy."""
        return self.epoch >= self.options.epochs or self.out_of_patience()

    def out_of_patience(self) -> bool:
        patience = self.options.patience
        return bool(patience) and self.epoch - results.best_epoch(self.history) >= patience

    def go(self) -> dict[str, Any]:
        """From where the run is to its end. Returns the last line of the log."""
        o = self.options
        if self.writes:
            atomic_write(self.folder / "options.json", described(o))
        board = self.tensorboard.opened(self.history) if self.tensorboard else contextlib.nullcontext()
        with self.signals.deferred(), Progress(o.epochs, self.steps) as progress, board:
            if self.epoch == 0 and self.step == 0:
                progress.say(self.header())
            for line in self.history:
                progress.epoch(line)
            try:
                while not self.finished:
                    self.train_epoch(progress)
                    self.finish_epoch(progress)
            except Interrupted as stopped:
                self.stop(stopped.number)
            if self.epoch < o.epochs:
                progress.say(f"no better test accuracy in {o.patience} epochs: ended after {self.epoch}")
        if self.writes:
            self.draw()
        return self.history[-1]

    def header(self) -> str:
        """The line that a run begins with."""
        o, data = self.options, self.data
        count = sum(p.data.size for p in named_params(self.net).values())
        kept = sum(p.data.size for p in self.frozen.values())
        total = bool(self.net.heads) and not self.apart
        return (
            f"{o.model}, {count:,} parameters{f', {kept:,} of them frozen' if kept else ''}, on {data.name}: "
            f"{len(data.train_labels):,} training and {len(data.test_labels):,} test images, {o.epochs} epochs of "
            f"{self.steps} batches of {o.batch_size}; {self.folder}"
            f"{'; the training loss has those of the auxiliary heads in it' if total else ''}"
        )

    def train_epoch(self, progress: Progress) -> None:
        """The steps of the epoch that are still to be taken."""
        o = self.options
        started = time.perf_counter() - self.sums["seconds"]
        images, order = self.data.train_images, batches(len(self.data.train_labels), o.batch_size, o.seed, self.epoch)
        left = map(self.training_step.own_part, islice(order, self.step, None))  # the steps still to take
        for step, index in enumerate(ahead(images, left), self.step):
            self.check_signals()
            self.train_step(index)
            self.step = step + 1
            all_added = self.step % self.training_step.steps_between_totals == 0 or self.step == self.steps
            if all_added:
                self.add_totals()
            self.sums["seconds"] = time.perf_counter() - started
            progress.step(self.epoch, self.step, self.sums)
            if all_added and self.pace.due():
                self.save_state()
        if isinstance(images, Photographs):
            progress.say(images.waited_for(self.sums["seconds"]))
        self.check_signals()

    def check_signals(self) -> None:
        """Raise Interrupted if a signal has reached one of the workers, who all call this at the same places."""
        if self.workers.size > 1:
            caught = int(self.workers.gather(np.array(self.signals.caught)).max())
            if not caught:  # one that has arrived meanwhile counts at the next place, where all hear of it
                return
            self.signals.caught = caught
        self.signals.check()

    def train_step(self, index: np.ndarray) -> None:
        """One batch forward, backward and into the weights."""
        o = self.options
        warm_statistics(self.norms, self.done)
        self.optimiser.lr = self.schedule(self.epoch + (self.step + 0.5) / self.steps)
        draw = partial(self.drawn, self.epoch, self.step)
        try:
            self.training_step(index, draw, self.mirrored(index))
        except NotFiniteError as found:
            raise self.error(str(found), self.step + 1, f", first found in {found.culprit}") from None
        if isinstance(self.weights, np.ndarray) and not all_finite(self.watched):  # 0.1 % of a step; a GPU would wait
            self.check_finite(self.step + 1)
        self.sums["images"] += o.batch_size

    def drawn(self, epoch: int, step: int, purpose: str, *shard: int) -> np.random.Generator:
        """A new generator of what is random in a step for that purpose, in a step in shards for one of them."""
        return stream(self.options.seed, purpose, epoch, step, *shard)

    def mirrored(self, index: np.ndarray) -> np.ndarray | None:
        """Which of these images --flip alternating mirrors in this epoch; None for --flip random.

        None of them are of a data set in which a mirror image may be of another class, as of digits.
        """
        if not self.data.mirrored:
            return np.zeros(len(index), bool)
        if self.options.flip == "random":
            return None
        chosen: np.ndarray = alternating(len(self.data.train_labels), self.options.seed, self.epoch)[index]
        return chosen

    def add_totals(self) -> None:
        """Add the losses of the steps since the last call to the sums of the epoch."""
        losses, right = self.training_step.totals()
        if not math.isfinite(losses.total):
            raise ValueError(
                f"train: the loss is not finite in epoch {self.epoch + 1}, step {self.step} or the "
                f"{self.training_step.steps_between_totals - 1} before; "
                "a smaller --lr may help; with --precision float32 every step is looked at"
            )
        self.sums["loss"] += losses.total
        self.sums["main"] += losses.main
        self.sums["plain"] += losses.plain
        self.sums["right"] += right

    def finish_epoch(self, progress: Progress) -> None:
        """Test, write down the epoch, and save."""
        sums = self.sums
        self.check_finite()
        with self.in_place():
            accuracy, loss, self.predicted = self.test(workers=self.workers)
        if not math.isfinite(loss):
            raise self.error(f"the test loss is {loss} although every number of the network is finite")
        line = {
            "epoch": self.epoch + 1,
            "train_loss": sums["main"] / sums["images"],
            **({TOTAL: sums["loss"] / sums["images"]} if self.apart else {}),
            **({PLAIN: sums["plain"] / sums["images"]} if self.smoothed else {}),
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
        if self.tensorboard:
            self.tensorboard.add(line)
        progress.epoch(line)

    def in_place(self) -> contextlib.AbstractContextManager[None]:
        """Within this block the network has the weights that are tested and saved."""
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def test(self, *, workers: Workers = ALONE) -> tuple[float, float, np.ndarray]:
        """What `evaluate` gives for the test images: six views of each take six times as long, and come last.

        A signal stops it where nobody waits for this worker's part.
        """
        data, last = self.data, self.epoch + 1 >= self.options.epochs
        where = (data.test_images, data.test_labels, data.mean, data.std)
        how: dict[str, Any] = {} if workers.size > 1 else {"pause": self.signals.check}
        return evaluate(self.net, *where, tta=self.options.tta and last, workers=workers, **how)

    def draw(self) -> None:
        """The pictures of the run as it is."""
        with self.in_place():
            if self.predicted is None:  # resumed after its last epoch
                *_, self.predicted = self.test()
            results.draw(self.folder, self.net, self.data, self.options, self.history, self.predicted)

    # What is kept

    def arrays(self) -> dict[str, Array]:
        """All arrays of the run by their names in the state."""
        slots = named_params(self.net) | named_buffers(self.net)
        return {f"net/{path}": slot.data for path, slot in slots.items()} | self.arrays_beside()

    def arrays_beside(self) -> dict[str, Array]:
        """Those that the network does not have: the optimiser's and the average's."""
        found = {f"optimizer/{name}": vector for name, vector in self.optimiser.state.items()}
        if self.average:
            found |= {f"{self.average.name}/{i}": mean for i, mean in enumerate(self.average.means)}
        return found

    def save(self) -> None:
        """The state first: the other files follow from it."""
        self.save_state()
        self.save_results()

    def save_state(self) -> None:
        """The arrays, the options, and how far the run has come."""
        self.check_finite()
        if not self.writes:
            return
        with self.pace.measured():
            write_state(self.folder, self.arrays(), self.options, self.progress())
        resume_with(f"continue with: {resume_command(self.folder)}")

    def progress(self) -> dict[str, Any]:
        """How far the run has come."""
        so_far = {"epoch": self.epoch, "step": self.step, "sums": self.sums, "history": self.history}
        return {**so_far, "updates": self.done if self.options.ema else 0}

    def take_progress(self, progress: dict[str, Any]) -> None:
        """Be as far as the run of which `progress` came."""
        self.epoch, self.step = progress["epoch"], progress["step"]
        self.sums, self.history = progress["sums"], progress["history"]
        if self.average:
            self.average.updates = self.done

    def save_results(self) -> None:
        """What follows from the state: the checkpoints and the log.

        The best one follows from the state after its epoch alone, which is gone once the next state is written: by then
        it has been written.
        """
        if not self.writes:
            return
        best = results.best_epoch(self.history) == self.epoch > 0 and self.step == 0
        with self.in_place():
            for name in ("checkpoint.safetensors", *["best.safetensors"] * best):
                results.save_checkpoint(self.folder / name, self.net, self.data, self.options, self.epoch)
        results.save_log(self.folder, self.history)
        self.saved = (self.epoch, self.step)

    def restore(self) -> None:
        """The opposite of save, from the newer of the two states that is whole. All or nothing is changed."""
        progress, stored = restore_state(self.folder, self.options, self.steps, self.arrays())
        self.take_progress(progress)
        if stored != self.options:  # it goes on for more epochs
            if self.out_of_patience():
                raise UsageError(
                    f"--epochs: the run in {self.folder} has ended by --patience {stored.patience}; "
                    f"begin another with --from {self.folder / 'best.safetensors'}"
                )
            self.save_state()
        self.save_results()
        if self.apart and any(TOTAL not in line for line in self.history):
            say("the state is of an earlier version: train_loss is the total loss up to its epoch")

    def share(self) -> None:
        """Have all workers begin with what rank 0 has."""
        if self.workers.size == 1:
            return
        if self.writes and holds_run(self.folder):
            resume_with(f"continue with: {resume_command(self.folder)}")
        told = json.loads(self.workers.gather_texts(json.dumps(self.progress()) if self.writes else "")[0])
        self.take_progress(told)
        for array in self.arrays().values():
            here = np.ascontiguousarray(asarray(array, "cpu"))
            self.workers.spread(here)
            array[...] = to_device_of(here, array)

    def stop(self, number: int) -> None:
        """Save and leave, because of a signal."""
        self.add_totals()
        if self.saved != (self.epoch, self.step):
            self.save()
        self.workers.gather(np.array(0))  # the others wait until rank 0 has saved
        raise StoppedError(
            f"train: stopped by {signal_name(number)} in epoch {self.epoch + 1} after {self.step} of {self.steps} "
            f"steps, all is saved; continue with: {resume_command(self.folder)}",
            number,
        )

    # What goes wrong

    def check_finite(self, step: int | None = None) -> None:
        """Raise ValueError if any number of the run is not finite: nothing that is not is ever saved."""
        culprit = first_not_finite(self.net)
        for name, array in self.arrays_beside().items():
            if not culprit and not is_finite(array):
                kind, _, name = name.partition("/")
                culprit = BESIDE[kind].format(name)
        if culprit:
            raise self.error(f"{culprit} is not finite", step)

    def error(self, what: str, step: int | None = None, culprit: str = "") -> ValueError:
        """The error for a number that is not finite, seen in that step of the epoch."""
        step = self.step if step is None else step
        newest = self.folder / NEWEST
        kept = f"the state before it is in {newest}" if newest.exists() else "nothing was saved before it"
        return ValueError(
            f"train: {what} in epoch {self.epoch + 1}, step {step} (lr {self.optimiser.lr:.3g}){culprit}; "
            f"{kept}: lower --lr, add --warm-up 1 or --clip 2"
        )

    def out_of_memory(self) -> str:
        """What is said where memory ended although it was thought to be enough."""
        o = self.options
        less = f"--batch-size {o.batch_size // 2}" if o.batch_size >= 4 else "a smaller network"
        before = f"; the run up to its last save is in {self.folder}, --resume takes it up once there is more"
        return (
            f"--batch-size: out of memory with {o.batch_size} images in epoch {self.epoch + 1}, step {self.step + 1}; "
            f"{less} in another folder takes about half{before if holds_run(self.folder) else ''}"
        )


# How errors call the arrays beside the network.
BESIDE = {
    "optimizer": "the optimiser's {}",
    "average": "a running average of the weights (--ema)",
    "lookahead": "a slow weight (--lookahead)",
}


def new_sums() -> dict[str, Any]:
    """What is added up over an epoch."""
    return {"loss": 0.0, "main": 0.0, "plain": 0.0, "right": 0, "images": 0, "seconds": 0.0}

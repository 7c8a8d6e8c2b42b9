"""One step of training: a batch of images goes through the network and back, and the weights move.

    step = EagerStep(net, optimiser, data, options, average)
    step(index, draw, mirrored)              one step on the images `index`
    losses, right = step.totals()            sums over the images since the last call

`EagerStep` launches one operation after another (on the CPU, Replay runs them without Python), `ShardedStep` of
shards.py does so for one part of the batch after the other, and `GraphStep` launches all of them as one CUDA graph
(`ShardedGraphStep` of captured_shards.py those of each part's passes).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..backend.arrays import Array
from ..backend.device import on_tensor_cores, storage, to_device_of
from ..data.batches import augment, normalise
from ..data.dataset import Dataset
from ..data.distort import distort
from ..kernels.clip import clip_norm
from ..models.network import Network
from ..runtime.inference import compile_inference
from ..runtime.replay import Replay
from .average import Lookahead, MovingAverage, WeightAverage
from .freeze import frozen_params, parts_without, split
from .mixup import Targets, mix, mixed_loss, plain_loss
from .muon import Muon
from .optim import SGD, RMSProp
from .options import Options
from .watchdog import first_bad_layer

Draw = Callable[..., np.random.Generator]  # (purpose) -> a new generator, of what is random in this step


class NotFiniteError(ArithmeticError):
    """The loss or the gradient of a step is NaN or infinite; the weights have not moved. culprit: where it began."""

    def __init__(self, what: str, culprit: str) -> None:
        super().__init__(what)
        self.culprit = culprit


class Losses(NamedTuple):
    """Of one image, or sums over images: what is minimised; that of the main logits alone; that without smoothing."""

    total: float
    main: float
    plain: float


@dataclass
class TrainingStep:
    """What the loop knows of a step. average: what follows the weights, None for nothing.

    steps_between_totals: how often the loop asks for the totals, and sees whether they are finite. On a GPU it waits
    for the device each time. tells_losses: whether the losses are told apart; else all are the total.
    """

    net: Network
    optimiser: SGD | RMSProp | Muon
    data: Dataset
    options: Options
    average: WeightAverage | None
    steps_between_totals: ClassVar[int] = 1
    tells_losses: ClassVar[bool] = True

    def __call__(self, index: np.ndarray, draw: Draw, mirrored: np.ndarray | None) -> None:
        """One step on the training images `index`, (batch,), with the optimiser's learning rate of the moment.

        draw: gives the generator of a purpose ("augment", "dropout", "mixup", "distort"), anew at each call. mirrored:
        (batch,) bool, the images to mirror; None draws them. May raise NotFiniteError.
        """
        raise NotImplementedError

    def own_part(self, index: np.ndarray) -> np.ndarray:
        """What this process is to be called with of the whole batch `index`."""
        return index

    def totals(self) -> tuple[Losses, int]:
        """The sums since the last call: of the losses of all images, and how many were right.

        A mixed image is right where the network sees the class of its larger share.
        """
        raise NotImplementedError


@dataclass
class EagerStep(TrainingStep):
    """One operation after another. A loss or a gradient that is not finite is found before the weights move."""

    def __post_init__(self) -> None:
        self.frozen = frozen_params(self.net, self.options.freeze)
        self.fixed, self.trained = split(self.net, self.frozen)
        self.run_fixed: Any = None  # made in the first step: by then the weights are there
        self.passes = Replay(self.trained, low_memory=self.options.low_memory)
        self.losses, self.right = Losses(0.0, 0.0, 0.0), 0

    def __call__(self, index: np.ndarray, draw: Draw, mirrored: np.ndarray | None) -> None:
        with np.errstate(all="ignore"):  # what is not finite is found below, and named
            losses, right = self.mean_gradients(index, draw, mirrored)
            for param in self.frozen.values():
                param.grad[...] = 0
            norm = float(clip_norm(self.optimiser.grad, self.options.clip or math.inf))
            if not math.isfinite(losses.total) or not math.isfinite(norm):
                what = "the gradient is not finite" if math.isfinite(losses.total) else f"the loss is {losses.total}"
                raise NotFiniteError(what, self.culprit(index, draw, mirrored))
            self.optimiser.step()
            if self.average:
                self.average.update()
        count = self.options.batch_size
        self.losses = Losses(*(so_far + loss * count for so_far, loss in zip(self.losses, losses, strict=True)))
        self.right += right

    def mean_gradients(self, index: np.ndarray, draw: Draw, mirrored: np.ndarray | None) -> tuple[Losses, int]:
        """Fill the gradient vector. Returns the mean losses of the batch, and how many were right."""
        x, targets = self.batch(self.data.train_images[index], self.data.train_labels[index], draw, mirrored)
        return self.gradients(x, targets, draw("dropout"))

    def batch(
        self, images: np.ndarray, labels: np.ndarray, draw: Draw, mirrored: np.ndarray | None
    ) -> tuple[Array, Targets]:
        """What the trained part of the network reads of these images, and the labels with their shares."""
        data, options = self.data, self.options
        if options.distort:
            images = distort(images, options.distort, draw("distort"))
        if options.augment:
            images = augment(images, data.pad, data.mean, draw("augment"), cutout=options.cutout, mirrored=mirrored)
        x = to_device_of(normalise(images, data.mean, data.std), self.optimiser.data)
        if on_tensor_cores(x):
            x = x.astype(storage(), copy=False)
        targets = [(1.0, to_device_of(labels, self.optimiser.data))]
        if options.mixup:
            x, targets = mix(x, targets[0][1], options.mixup, draw("mixup"))
        if self.fixed.layers:
            if self.run_fixed is None:
                self.run_fixed = compile_inference(self.fixed, x.shape)
            x = self.run_fixed(x)
        return x, targets

    def gradients(self, x: Array, targets: Targets, dropout: np.random.Generator) -> tuple[Losses, int]:
        """Fill the gradient vector. Returns the mean losses, and how many were right."""
        y = self.passes.forward(x, dropout)
        total, main, dy = mixed_loss(y, targets, self.net.aux_weight, self.options.smoothing)
        losses = Losses(float(total), float(main), float(plain_loss(y, targets) if self.options.smoothing else main))
        self.passes.backward(dy)
        logits = y[0] if isinstance(y, tuple) else y
        return losses, int((logits.argmax(1) == targets[0][1]).sum())

    def culprit(self, index: np.ndarray, draw: Draw, mirrored: np.ndarray | None) -> str:
        """What was not finite first in this step."""
        self.passes = Replay(self.trained)  # nothing is written down yet: the layers run
        return first_bad_layer(self.trained, lambda: self.mean_gradients(index, draw, mirrored))

    def totals(self) -> tuple[Losses, int]:
        found = self.losses, self.right
        self.losses, self.right = Losses(0.0, 0.0, 0.0), 0
        return found


@dataclass
class GraphStep(TrainingStep):
    """The whole step as one CUDA graph, which the host does not wait for. Lookahead comes after it."""

    steps_between_totals: ClassVar[int] = 16
    tells_losses: ClassVar[bool] = False  # the graph adds up the total loss alone

    def __post_init__(self) -> None:
        from ..runtime.graph import CapturedStep

        average = self.average if isinstance(self.average, MovingAverage) else None
        self.captured = captured(CapturedStep, self, self.options.batch_size, clip=self.options.clip, average=average)

    def __call__(self, index: np.ndarray, draw: Draw, mirrored: np.ndarray | None) -> None:
        crops = draw("augment") if self.options.augment else None
        self.captured(index, crops=crops, dropout=draw("dropout"), mirrored=mirrored)
        if isinstance(self.average, Lookahead):  # on the null stream, which waits for the step and the next step for it
            self.average.update()

    def totals(self) -> tuple[Losses, int]:
        loss, right = self.captured.totals()
        return Losses(loss, loss, loss), right


def captured(kind: Any, step: TrainingStep, batch_size: int, **more: Any) -> Any:
    """CapturedStep or CapturedPasses of what a step knows. Raises ValueError for an option that no graph has."""
    data, o = step.data, step.options
    for option, used in (("--mixup", o.mixup > 0), ("--distort", o.distort > 0), ("--freeze", bool(o.freeze))):
        if used:
            raise ValueError(f"{option}: the captured step has no such thing; add --precision float32")
    numbers = {"mean": data.mean, "std": data.std, "cutout": o.cutout, "smoothing": o.smoothing}
    numbers["pad"] = data.pad if o.augment else 0
    return kind(step.net, step.optimiser, data.train_images, data.train_labels, batch_size, **numbers, **more)


def optimiser_for(net: Network, options: Options) -> SGD | RMSProp | Muon:
    """The optimiser of a run, for the parameters that are not frozen. Nesterov's form needs a momentum."""
    o = options
    optimiser: SGD | RMSProp | Muon
    if o.optimizer == "sgd":
        nesterov = o.nesterov and o.momentum > 0
        optimiser = SGD(net, o.lr, momentum=o.momentum, weight_decay=o.weight_decay, nesterov=nesterov)
    elif o.optimizer == "muon":
        rates = {"sgd_lr": o.sgd_lr, "bias_scale": o.bias_scale}
        optimiser = Muon(net, o.lr, **rates, momentum=o.momentum, weight_decay=o.weight_decay)
    else:
        numbers = {"decay": o.rms_decay, "eps": o.rms_eps}
        optimiser = RMSProp(net, o.lr, **numbers, momentum=o.momentum, weight_decay=o.weight_decay)
    if o.freeze:
        optimiser.parts = parts_without(net, frozen_params(net, o.freeze))
    return optimiser

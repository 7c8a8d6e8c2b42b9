"""One step of training: a batch of images goes through the network and back, and the weights move.

    step = training_step(net, optimiser, data, options, average)
    step(index, crops=..., dropout=..., mirrored=...)        one step on the images `index`
    losses, right = step.totals()                            sums over the images since the last call

This is the only place that tells the two kinds apart: `EagerStep` launches one operation after another (on the CPU,
Replay runs them without Python), and `GraphStep` launches all of them as one CUDA graph.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..backend.arrays import Array
from ..backend.device import on_tensor_cores, to_device_of
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

Generator = np.random.Generator


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

    def __call__(
        self,
        index: np.ndarray,
        *,
        crops: Generator | None,
        dropout: Generator,
        mirrored: np.ndarray | None,
        mixup: Generator | None = None,
        colours: Generator | None = None,
    ) -> None:
        """One step on the training images `index`, (batch,), with the optimiser's learning rate of the moment.

        crops: where crops, mirroring and cutout are drawn from; None takes the images as they are. dropout: a new
        generator. mirrored: (batch,) bool, the images to mirror; None draws them. mixup: where pairs and shares are
        drawn from; None mixes nothing. colours: the same of the distortions. May raise NotFiniteError.
        """
        raise NotImplementedError

    def totals(self) -> tuple[Losses, int]:
        """The sums since the last call: of the losses of all images, and how many were right.

        A mixed image is right where the network sees the class of its larger share.
        """
        raise NotImplementedError


def training_step(
    net: Network, optimiser: SGD | RMSProp | Muon, data: Dataset, options: Options, average: WeightAverage | None
) -> TrainingStep:
    """The step of a run: a CUDA graph where products run on tensor cores (cuBLAS would not do), or else eager."""
    captured = on_tensor_cores(optimiser.data) and not isinstance(optimiser, Muon)
    kind = GraphStep if captured else EagerStep
    return kind(net, optimiser, data, options, average)


@dataclass
class EagerStep(TrainingStep):
    """One operation after another. A loss or a gradient that is not finite is found before the weights move."""

    def __post_init__(self) -> None:
        self.frozen = frozen_params(self.net, self.options.freeze)
        self.fixed, self.trained = split(self.net, self.frozen)
        self.run_fixed: Any = None  # made in the first step: by then the weights are there
        self.passes = Replay(self.trained, low_memory=self.options.low_memory)
        self.losses, self.right = Losses(0.0, 0.0, 0.0), 0

    def __call__(
        self,
        index: np.ndarray,
        *,
        crops: Generator | None,
        dropout: Generator,
        mirrored: np.ndarray | None,
        mixup: Generator | None = None,
        colours: Generator | None = None,
    ) -> None:
        options, drawn = self.options, dropout.bit_generator.state
        with np.errstate(all="ignore"):  # what is not finite is found below, and named
            x, targets = self.batch(index, crops, mirrored, mixup, colours)
            losses, right = self.gradients(x, targets, dropout)
            norm = float(clip_norm(self.optimiser.grad, options.clip or math.inf))
            if not math.isfinite(losses.total) or not math.isfinite(norm):
                dropout.bit_generator.state = drawn  # so that the search meets the same masks
                what = "the gradient is not finite" if math.isfinite(losses.total) else f"the loss is {losses.total}"
                raise NotFiniteError(what, self.culprit(x, targets, dropout))
            self.optimiser.step()
            if self.average:
                self.average.update()
        self.losses = Losses(*(so_far + loss * len(index) for so_far, loss in zip(self.losses, losses, strict=True)))
        self.right += right

    def batch(
        self,
        index: np.ndarray,
        crops: Generator | None,
        mirrored: np.ndarray | None,
        mixup: Generator | None,
        colours: Generator | None,
    ) -> tuple[Array, Targets]:
        """What the trained part of the network reads, and the labels with their shares."""
        data, options = self.data, self.options
        images, labels = data.train_images[index], data.train_labels[index]
        if colours:
            images = distort(images, options.distort, colours)
        if crops:
            images = augment(images, data.pad, data.mean, crops, cutout=options.cutout, mirrored=mirrored)
        x = to_device_of(normalise(images, data.mean, data.std), self.optimiser.data)
        targets = [(1.0, to_device_of(labels, self.optimiser.data))]
        if mixup:
            x, targets = mix(x, targets[0][1], options.mixup, mixup)
        if self.fixed.layers:
            if self.run_fixed is None:
                self.run_fixed = compile_inference(self.fixed, x.shape)
            x = self.run_fixed(x)
        return x, targets

    def gradients(self, x: Array, targets: Targets, dropout: Generator) -> tuple[Losses, int]:
        """Fill the gradient vector. Returns the mean losses, and how many were right."""
        y = self.passes.forward(x, dropout)
        total, main, dy = mixed_loss(y, targets, self.net.aux_weight, self.options.smoothing)
        losses = Losses(float(total), float(main), float(plain_loss(y, targets) if self.options.smoothing else main))
        self.passes.backward(dy)
        for param in self.frozen.values():
            param.grad[...] = 0
        logits = y[0] if isinstance(y, tuple) else y
        return losses, int((logits.argmax(1) == targets[0][1]).sum())

    def culprit(self, x: Array, targets: Targets, dropout: Generator) -> str:
        """What was not finite first in this step."""
        self.passes = Replay(self.trained)  # nothing is written down yet: the layers run
        return first_bad_layer(self.trained, lambda: self.gradients(x, targets, dropout))

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

        data, o = self.data, self.options
        self.captured = CapturedStep(
            self.net,
            self.optimiser,
            data.train_images,
            data.train_labels,
            o.batch_size,
            mean=data.mean,
            std=data.std,
            pad=data.pad if o.augment else 0,
            cutout=o.cutout,
            smoothing=o.smoothing,
            clip=o.clip,
            average=self.average if isinstance(self.average, MovingAverage) else None,
        )

    def __call__(
        self,
        index: np.ndarray,
        *,
        crops: Generator | None,
        dropout: Generator,
        mirrored: np.ndarray | None,
        mixup: Generator | None = None,
        colours: Generator | None = None,
    ) -> None:
        for what, generator in (("mixup", mixup), ("colours", colours)):
            if generator:
                raise ValueError(
                    f"GraphStep: got a generator for {what}, wanted None: the captured step has no such thing"
                )
        self.captured(index, crops=crops, dropout=dropout, mirrored=mirrored)
        if isinstance(self.average, Lookahead):  # on the null stream, which waits for the step and the next step for it
            self.average.update()

    def totals(self) -> tuple[Losses, int]:
        loss, right = self.captured.totals()
        return Losses(loss, loss, loss), right


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

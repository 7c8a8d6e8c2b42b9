"""The options of a training run: their names, the usual values, and which values are refused."""

import json
import math
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import numpy as np

from ..backend.errors import UsageError, nearest
from .arguments import known_model
from .own_options import own_options
from .schedules import SCHEDULES

# The recipes. Muon's rate is an angle, of which every network with batch norm stands the same.
SGD: dict[str, Any] = {"epochs": 3, "batch_size": 32}
MUON: dict[str, Any] = {
    "epochs": 3, "batch_size": 50, "optimizer": "muon", "lr": 0.05, "sgd_lr": 0.1, "momentum": 0.6,
}  # fmt: skip
# For tens of thousands of images
MANY_IMAGES = ("cifar10", "cifar100", "mnist", "fashion_mnist")
SGD_MANY: dict[str, Any] = {"epochs": 16, "batch_size": 128, "lr": 0.2, "warm_up": 1.0}
MUON_MANY: dict[str, Any] = {"epochs": 10, "batch_size": 250, "lr": 0.1, "warm_up": 0.2}
# For GoogLeNet as in the paper, which has no batch norm: noise and a large rate kill its ReLUs
SGD_PLAIN: dict[str, Any] = {"batch_size": 64, "lr": 0.03, "clip": 2.0}
MUON_PLAIN: dict[str, Any] = {"lr": 0.01, "sgd_lr": 0.01}
# For speednet_cifar on CIFAR-10, after airbench (Jordan 2024, arXiv:2404.00498), whose later version has Muon
SPEEDNET: dict[str, Any] = {"warm_up": 0.0, "smoothing": 0.2, "pad": 2, "flip": "alternating", "tta": True}
MUON_SPEEDNET: dict[str, Any] = {
    "epochs": 7, "batch_size": 1000, "lr": 0.24, "sgd_lr": 2.2, "bias_scale": 64.0, "momentum": 0.6,
    "weight_decay": 7.5e-5, "schedule": "linear",
}  # fmt: skip
# For 2.4 times the epochs of airbench's first version, with a little cutout, as ReLU needs them
SGD_SPEEDNET: dict[str, Any] = {
    "epochs": 24, "batch_size": 1024, "lr": 1.5, "schedule": "triangular", "momentum": 0.85, "weight_decay": 1.33e-3,
    "lookahead": True, "cutout": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What a run is made of. Two runs with equal options end with equal weights."""

    from_: str | None = None  # the checkpoint that it starts from; None: weights that are drawn
    freeze: tuple[str, ...] = ()  # names of stages or parameters that stay as they are, or patterns of them
    model: str = "inception_resnet_v2_cifar"
    preset: str = "paper"
    width: float | None = None  # None: the network's own
    option: tuple[str, ...] = ()  # further options of the network's own, NAME=VALUE (own_options.py)
    aux: bool = True  # auxiliary heads, where the network has them
    data: str = "shapes10"
    data_dir: str | None = None
    train_images: int | None = None  # None: all
    test_images: int | None = None
    subset: bool = False
    mean: tuple[float, ...] | None = None  # of the pixels 0..255, by channel; None: of the training images
    std: tuple[float, ...] | None = None
    augment: bool = True
    pad: int | None = None  # border that crops are taken from; None: the data set's own
    cutout: int = 0  # side of the square that is cut out of every training image; 0: none
    flip: str = "random"  # or "alternating": each image is mirrored in every other epoch
    distort: float = 0.0  # strength of the photometric distortions (data/distort.py); 0: none
    mixup: float = 0.0  # a of Beta(a, a), from which the shares of two images are drawn (mixup.py); 0: none
    epochs: int = 3
    patience: int = 0  # epochs without a better test accuracy after which the run ends; 0: it goes on
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.1
    sgd_lr: float = 0.1  # with muon: of the parameters that are no filters
    bias_scale: float = 1.0  # with muon: biases learn at so many times that rate
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    rms_decay: float = 0.9  # with rmsprop: of the running mean of the squared gradient
    rms_eps: float = 1.0  # with rmsprop: what is added to that mean
    schedule: str = "cosine"
    lr_factor: float = 0.94  # with the exponential schedule: the rate is multiplied by this
    lr_every: float = 2.0  # every so many epochs
    warm_up: float = 0.5  # epochs
    smoothing: float = 0.0
    clip: float = 0.0  # largest norm of the gradient; 0: no limit
    ema: float = 0.0  # decay of the running average of the weights; 0: none
    lookahead: bool = False  # pull the weights back to slow ones every 5 steps
    tta: bool = False  # after the last epoch, test by the mean logits of six views of each image
    seed: int = 0
    low_memory: bool = False
    shards: int = 0  # parts of a batch that several workers share (shards.py); 0: the batch is not cut
    device: str = "cpu"
    precision: str = "float32"  # on a GPU usually tf32; a CPU has this one only
    log: str = "csv"  # or "tensorboard": for TensorBoard too


def resolve(**given: Any) -> Options:
    """The options of a run: those given, and for the others what suits its data set and network.

    Without any: a narrow Inception-ResNet on shapes10. Muon trains every network in the fewest steps, and is the
    default but on a GPU, where a step with SGD is one CUDA graph. speednet_cifar has a recipe of its own for CIFAR-10.
    """
    network, data = given.get("model", Options.model), given.get("data", Options.data)
    sgd = given.get("optimizer", "sgd" if given.get("device", "cpu") != "cpu" else "muon") != "muon"
    chosen: dict[str, Any] = dict(SGD if sgd else MUON)
    if data == "shapes10":
        chosen |= {"augment": False}  # its images were drawn in every place and direction already
        chosen |= {} if "model" in given else {"width": 1 / 8}
    else:
        chosen |= {"epochs": 20, "weight_decay": 5e-4, "smoothing": 0.1}
    if data in MANY_IMAGES and network.endswith("_cifar"):
        chosen |= SGD_MANY if sgd else MUON_MANY
    if data in ("cifar10", "cifar100"):
        chosen |= {"pad": 2, "flip": "alternating"}
    if not _has_batch_norm(network, given.get("preset", "paper"), given.get("option", ())):
        chosen |= {**(SGD_PLAIN if sgd else MUON_PLAIN), "epochs": max(5, chosen["epochs"])}
    if data == "cifar10" and network == "speednet_cifar":
        chosen |= SPEEDNET | (SGD_SPEEDNET if sgd else MUON_SPEEDNET)
        chosen["lookahead"] = sgd and not given.get("ema")
    if given.get("augment") is False:
        chosen |= {"cutout": 0, "flip": "random"}
    if given.get("optimizer") == "rmsprop":
        chosen["lr"] = 0.045
    if given.get("device", "cpu") != "cpu":
        chosen["precision"] = "tf32"
    if given.get("train_images"):
        chosen["batch_size"] = max(2, min(chosen["batch_size"], given["train_images"]))
    if given.get("shards", 0) > 0:
        chosen["batch_size"] = _cut_evenly(chosen["batch_size"], given["shards"])
    return Options(**{**chosen, **given})


def check(options: Options) -> None:
    """Raise UsageError for a value that no run could have, or of a type that its option does not have."""
    o = options
    for field in fields(Options):
        if not _has_type(getattr(o, field.name), field.type):
            kind = getattr(field.type, "__name__", str(field.type))
            raise UsageError(f"{flag(field.name)}: got {getattr(o, field.name)!r}; give a value of type {kind}")
    for option, chosen, known in (
        ("--flip", o.flip, ["random", "alternating"]),
        ("--optimizer", o.optimizer, ["sgd", "rmsprop", "muon"]),
        ("--schedule", o.schedule, list(SCHEDULES)),
        ("--precision", o.precision, ["float32", "tf32", "bf16"]),
        ("--log", o.log, ["csv", "tensorboard"]),
    ):
        if chosen not in known:
            raise UsageError(f"{option}: got {chosen!r}; {nearest(chosen, known)}")
    for option, value, low, high in (
        ("--pad", o.pad or 0, 0, 1000),
        ("--cutout", o.cutout, 0, 1000),
        ("--distort", o.distort, 0, 2),
        ("--mixup", o.mixup, 0, 1000),
        ("--epochs", o.epochs, 1, 100_000),
        ("--patience", o.patience, 0, 100_000),
        ("--batch-size", o.batch_size, 2, 10**9),
        ("--lr", o.lr, 1e-12, 1e6),
        ("--sgd-lr", o.sgd_lr, 0, 1e6),
        ("--bias-scale", o.bias_scale, 0, 1e6),
        ("--momentum", o.momentum, 0, 0.999999),
        ("--weight-decay", o.weight_decay, 0, 1),
        ("--rms-decay", o.rms_decay, 0, 0.999999),
        ("--rms-eps", o.rms_eps, 1e-30, 1e6),
        ("--lr-factor", o.lr_factor, 1e-6, 1),
        ("--lr-every", o.lr_every, 1e-3, 1e6),
        ("--warm-up", o.warm_up, 0, o.epochs),
        ("--smoothing", o.smoothing, 0, 0.999),
        ("--clip", o.clip, 0, 1e30),
        ("--ema", o.ema, 0, 0.999999999),
        ("--shards", o.shards, 0, 10**6),
        ("--seed", o.seed, 0, 2**64 - 1),
    ):
        if not low <= value <= high:
            raise UsageError(f"{option}: got {value}; give a number from {low} to {high}")
    for option, part, usual in (("--cutout", o.cutout, 0), ("--flip", o.flip, "random")):
        if part != usual and not o.augment:
            raise UsageError(f"{option}: got {part!r} without augmentation, of which it is a part; add --augment")
    for option, number, default, whose, found, wanted in (
        ("--rms-decay", o.rms_decay, Options.rms_decay, "--optimizer", o.optimizer, "rmsprop"),
        ("--rms-eps", o.rms_eps, Options.rms_eps, "--optimizer", o.optimizer, "rmsprop"),
        ("--lr-factor", o.lr_factor, Options.lr_factor, "--schedule", o.schedule, "exponential"),
        ("--lr-every", o.lr_every, Options.lr_every, "--schedule", o.schedule, "exponential"),
    ):
        if number != default and found != wanted:
            raise UsageError(f"{option}: got {number} with {whose} {found}, which has none; add {whose} {wanted}")
    if o.shards and (o.batch_size % o.shards or o.batch_size < 2 * o.shards):
        raise UsageError(
            f"--shards: got {o.shards} with --batch-size {o.batch_size}; give shards of equally many images, two or "
            f"more, such as --batch-size {_cut_evenly(o.batch_size, o.shards)}"
        )
    if o.option:
        own_options(known_model(o.model, "--model"), o.option)
    check_precision(o.device, o.precision)
    check_normalisation(o.mean, o.std)
    for option, used in (("--freeze", bool(o.freeze)), ("--mixup", o.mixup > 0), ("--distort", o.distort > 0)):
        if used and o.precision != "float32":
            raise UsageError(
                f"{option}: got it with --precision {o.precision}, whose captured step cannot do it; "
                "add --precision float32, or train on the CPU"
            )
    if o.lookahead and o.ema:
        raise UsageError(
            f"--lookahead: got it with --ema {o.ema}, another average of the weights; leave one of them out"
        )


def check_precision(device: str, precision: str) -> None:
    """Raise UsageError for a precision that this device does not have."""
    if device == "cpu" and precision != "float32":
        raise UsageError(f"--precision: got {precision!r}, but a CPU computes in float32; add --device cuda")


def check_normalisation(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    """Raise UsageError unless both are given or neither, with a finite number for each channel, std above 0."""
    if (mean is None) != (std is None) or (mean and std and len(mean) != len(std)):
        raise UsageError(f"--mean: got {mean} with --std {std}; give both, a number for each channel")
    for option, values, low in (("--mean", mean, -math.inf), ("--std", std, 0.0)):
        if values is not None and not (values and all(low < value < math.inf for value in values)):
            kind = "above 0" if low == 0 else "that are finite"
            raise UsageError(f"{option}: got {values}; give numbers {kind}, one for each channel")


def check_save_every(seconds: float) -> None:
    """Raise UsageError for what is no number of seconds. Results do not depend on it: it is not in `Options`."""
    if not _has_type(seconds, float) or not 0 <= seconds < math.inf:
        raise UsageError(f"--save-every: got {seconds!r}; give a number of seconds from 0")


def check_unchanged(given: Mapping[str, Any], stored: Options, folder: Path) -> None:
    """Raise UsageError for an option whose value differs from the one that the run in the folder has.

    A run may be given more epochs. Its schedule is then that of so many, from the epoch on at which the run stands.
    """
    for name, value in given.items():
        if name == "epochs" and value < stored.epochs:
            raise UsageError(
                f"--epochs: got {value}, the run in {folder} has {stored.epochs}; leave it out to resume, or give more"
            )
        if name != "epochs" and value != getattr(stored, name):
            raise UsageError(
                f"{flag(name)}: got {value}, the run in {folder} has {getattr(stored, name)}; leave it out to resume"
            )


def described(options: Options) -> str:
    """The text of options.json: the options, and what else a result may depend on."""
    from .. import __version__

    about = {
        **asdict(options),
        "versions": {"inception_np": __version__, "numpy": np.__version__, "python": platform.python_version()},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "command": sys.argv,
    }
    return json.dumps(about, indent=2, allow_nan=False) + "\n"


def _has_batch_norm(model: str, preset: str, option: tuple[str, ...]) -> bool:
    """Whether the network has it; GoogLeNet as in the paper has none, unless it is asked for."""
    usual = not model.startswith(("inception_v1", "googlenet")) or preset not in ("paper", "caffe")
    return bool(own_options(model, option).get("batch_norm", usual)) if option else usual


def _cut_evenly(batch_size: int, shards: int) -> int:
    """The batch of this size or the next larger one that so many shards of two images or more make up."""
    return shards * max(2, -(-batch_size // shards))


def flag(field: str) -> str:
    """The command line's name of an option: "--batch-size" of batch_size, "--from" of from_."""
    return "--" + field.rstrip("_").replace("_", "-")


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_has_type(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_has_type(item, get_args(kind)[0]) for item in value)
    if isinstance(value, bool):
        return bool(kind is bool)
    return isinstance(value, kind) or (isinstance(value, int) and kind is float)

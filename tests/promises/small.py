"""The run that is killed, stopped and damaged: a whole one, from its command line on, in a twentieth of a second.

Its network has what a run has to keep: batch norm, dropout, branches and an auxiliary head. It is registered under a
name, so that train, eval and load treat it as any other. What is replaced is the drawing of pictures, by a few bytes
that follow from the history, and the clock, by one that stands still, so that files can be compared.
"""

import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from inception_np import Concat, ConvBNReLU, ConvReLU, Dropout, GlobalAvgPool2D, Linear, Sequential, models
from inception_np import __main__ as cli
from inception_np.data import files
from inception_np.models.blocks import Request
from inception_np.models.network import Network
from inception_np.training import loop
from inception_np.weights.tensorfile import read_tensors


def tiny_cifar(request: Request) -> Network:
    rng, num_classes = request.rng, request.num_classes
    module = Concat(
        b1=ConvBNReLU(4, 3, 1, rng=rng),
        b3=Sequential(reduce=ConvReLU(4, 2, 1, rng=rng), conv=ConvBNReLU(2, 5, 3, rng=rng)),
    )
    head = Sequential(pool=GlobalAvgPool2D(), drop=Dropout(0.5), fc=Linear(8, num_classes, rng=rng))
    trunk = Sequential(
        **{"conv1": ConvReLU(request.in_channels, 4, 3, stride=4, rng=rng), "3a": module, "pool": GlobalAvgPool2D()},
        drop=Dropout(0.5),
        fc=Linear(8, num_classes, rng=rng),
    )
    return Network(trunk, None if request.aux is False else {"3a": head})


EPOCHS, STEPS = 2, 3
# Augmentation, a schedule with warm-up, clipping, averages of the weights: all that a run can have.
OPTIONS = (
    f"--model tiny_cifar --train-images {16 * STEPS} --test-images 20 --batch-size 16 --epochs {EPOCHS} --lr 0.05 "
    "--weight-decay 1e-4 --warm-up 1 --clip 2 --ema 0.99 --smoothing 0.1 --augment --seed 5"
).split()
MAY_DIFFER = ("lock", "state.previous.safetensors")  # how often a run was saved, and by whom


def draw(run: Any) -> None:
    """In the place of the pictures: files that follow from the history."""
    for name in ("curves.png", "filters.png", "confusion.png", "predictions.png"):
        files.atomic_write(run.folder / name, name + json.dumps(run.history))


few_images = cache(loop.load)


@contextlib.contextmanager
def small(pictures: bool = False) -> Iterator[None]:
    """Within this block there is the network tiny_cifar, the data set is drawn once, and the clock stands still."""
    still = SimpleNamespace(**{**vars(time), "perf_counter": lambda: 0.0})
    with (
        mock.patch.dict(models.MODELS, tiny_cifar=models.Entry(tiny_cifar, 32, ("paper",))),
        mock.patch.object(loop, "load", few_images),
        mock.patch.object(loop, "time", still),
        mock.patch.object(loop.Run, "draw", loop.Run.draw if pictures else draw),
        mock.patch("sys.argv", ["inception-np"]),
    ):
        yield


def command(folder: Path, *more: str, save: str = "0") -> list[str]:
    """What a user types to start the run in this folder, or to take it up where there is something to take up.

    save: seconds between two saves within an epoch; 0 is after every step.
    """
    there = (folder / "state.safetensors").exists()
    return ["train", "--output", str(folder), "--save-every", save, *(["--resume"] if there else OPTIONS), *more]


def said(argv: list[str]) -> tuple[int, str]:
    """(exit code, standard error) of a command in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(argv)
    return code, errors.getvalue()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new one, in memory where the system has such a place: thousands are made."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="promise", dir=memory) as name:
        yield Path(name)


@cache
def reference(*more: str) -> dict[str, bytes]:
    """The files of the run that nothing happens to."""
    with small(), folder() as place:
        code, errors = said(command(place, *more))
        assert code == 0, errors
        return contents(place)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in MAY_DIFFER}


def difference(folder: Path, *more: str) -> str | None:
    """Which files are others than those of the run that nothing happened to, or None."""
    wanted, found = reference(*more), contents(folder)
    wrong = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    previous = folder / "state.previous.safetensors"
    if previous.exists():
        read_tensors(previous)  # raises if it is damaged
    return f"other files than without: {', '.join(wrong)}" if wrong else None


def damage(folder: Path) -> str | None:
    """What is damaged in the folder of a run that has just been ended, or None. Leftovers are no damage."""
    for name in ("state.safetensors", "state.previous.safetensors", "checkpoint.safetensors"):
        if (folder / name).exists():
            try:
                read_tensors(folder / name)
            except ValueError as error:
                return str(error)
    for name in ("log.jsonl", "options.json"):
        if (folder / name).exists():
            text = (folder / name).read_text()
            for line in text.splitlines() if name == "log.jsonl" else [text]:
                json.loads(line)
    return None

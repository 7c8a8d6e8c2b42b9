"""Planted faults: each makes the package break a promise, so that the promise's test is seen to fail."""

import contextlib
import math
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from inception_np import SGD
from inception_np.backend.errors import StoppedError
from inception_np.backend.threads import num_threads
from inception_np.data import cifar10, cifar10_archive, files
from inception_np.data.random import stream
from inception_np.training import loop, results, step
from inception_np.weights import checkpoint, tensorfile
from inception_np.weights.convert import named_arrays


@contextlib.contextmanager
def written_in_place() -> Iterator[None]:
    """A writer that opens the file itself."""

    def in_place(path: Any, content: Any) -> None:
        pieces = [content] if isinstance(content, (bytes, str)) else content
        with files.open(path, "wb") as file:  # type: ignore[attr-defined]
            for piece in pieces:
                file.write(piece.encode() if isinstance(piece, str) else piece)

    with contextlib.ExitStack() as stack:
        for module in (loop, results, tensorfile):
            stack.enter_context(mock.patch.object(module, "atomic_write", in_place))
        yield


def other_streams() -> AbstractContextManager:
    """Random numbers that depend on the process: dropout and crops are drawn anew after a kill."""
    return mock.patch.object(loop, "stream", lambda seed, *where: stream(seed + os.getpid(), *where))


def forgotten(forget: Callable[[Any], None]) -> Callable[[], AbstractContextManager]:
    """A restore that leaves something as it is in a new run."""
    restore = loop.Run.restore

    def forgetful(run: Any) -> None:
        restore(run)
        forget(run)

    return lambda: mock.patch.object(loop.Run, "restore", forgetful)


def not_saved() -> AbstractContextManager:
    """A run that ends at a signal and says that all is saved, without saving."""

    def stop(run: Any, number: int) -> None:
        raise StoppedError(
            f"train: stopped in epoch {run.epoch + 1} after {run.step} of {run.steps} steps, all is saved", number
        )

    return mock.patch.object(loop.Run, "stop", stop)


def deaf() -> AbstractContextManager:
    """Signals that nobody looks at."""
    return mock.patch.object(loop.Signals, "__enter__", lambda signals: signals)


def unlocked() -> AbstractContextManager:
    """A folder that nobody holds."""
    return mock.patch.object(loop, "locked", lambda folder: contextlib.nullcontext())


@contextlib.contextmanager
def litter() -> Iterator[None]:
    """A write that fails and leaves its half behind."""
    with mock.patch.object(files.Path, "unlink", lambda *_: None):
        yield


def unverified() -> AbstractContextManager:
    """A digest that is not looked at."""
    return mock.patch.object(tensorfile, "_verify", lambda *_: None)


def broadcast() -> AbstractContextManager:
    """A checkpoint's arrays put where they fit by NumPy's rules, unchecked."""

    def load_state_dict(layer: Any, state: Any, **_: Any) -> None:
        for path, slot in named_arrays(layer).items():
            if path in state:
                with contextlib.suppress(ValueError):
                    slot.data[...] = state[path]

    return mock.patch.object(checkpoint, "load_state_dict", load_state_dict)


def any_label() -> AbstractContextManager:
    """Labels that are not looked at."""
    return mock.patch.dict(cifar10_archive.CIFAR10.labels, label=256)


def extracted() -> AbstractContextManager:
    """An archive that is unpacked beside itself."""
    read = cifar10_archive.archive_files

    def unpack(path: Any) -> Any:
        found = read(path)
        with tarfile.open(path) as archive:
            archive.extractall(path.parent)
        return found

    return mock.patch.object(cifar10, "archive_files", unpack)


def unguarded() -> AbstractContextManager:
    """Pictures read by Pillow alone, with its errors."""
    return mock.patch("promises.test_mutant_data.open_image", lambda path: Image.open(path).convert("RGB"))


@contextlib.contextmanager
def blind() -> Iterator[None]:
    """A run that takes every number for a finite one."""
    with (
        mock.patch.object(loop, "math", SimpleNamespace(isfinite=lambda _: True)),
        mock.patch.object(step, "math", SimpleNamespace(isfinite=lambda _: True, inf=math.inf)),
        mock.patch.object(loop, "all_finite", lambda _: True),
        mock.patch.object(loop.Run, "check_finite", lambda *_: None),
    ):
        yield


def softmax_of_large_numbers() -> AbstractContextManager:
    """A softmax without its maximum taken off first."""

    def naive(logits: np.ndarray, labels: np.ndarray) -> tuple[Any, np.ndarray]:
        rows = np.arange(len(labels))
        with np.errstate(all="ignore"):
            p = np.exp(logits)
            p /= p.sum(1, keepdims=True)
            loss = -np.log(p[rows, labels]).mean()
        p[rows, labels] -= 1
        return loss, p / len(labels)

    return mock.patch("promises.test_numbers.softmax_cross_entropy", naive)


def summed_by_thread() -> AbstractContextManager:
    """A sum of as many parts as there are threads, added up in the end: here the norm of the gradient."""
    step = SGD.step

    def scaled(optimiser: Any) -> None:
        parts = [np.add.accumulate(part)[-1] for part in np.array_split(optimiser.grad**2, num_threads())]
        optimiser.grad *= 1 / (1 + sum(parts))
        step(optimiser)

    return mock.patch.object(SGD, "step", scaled)


def drawn_anew() -> AbstractContextManager:
    """Initial weights that do not follow from the seed."""
    draw = np.random.default_rng
    return mock.patch.object(np.random, "default_rng", lambda seed=None: draw())


def keeping(more: Callable[[], Any]) -> Callable[[], AbstractContextManager]:
    """An optimiser that keeps something of every step."""
    kept: list[Any] = []
    step = SGD.step

    def stepped(optimiser: Any) -> None:
        step(optimiser)
        kept.append(more())

    return lambda: mock.patch.object(SGD, "step", stepped)


PLANTED: dict[str, Callable[[], AbstractContextManager]] = {
    "": contextlib.nullcontext,
    "written in place": written_in_place,
    "other streams": other_streams,
    "velocity forgotten": forgotten(lambda run: run.optimiser.state["velocity"].fill(0)),
    "step forgotten": forgotten(lambda run: setattr(run, "step", 0)),
    "not saved": not_saved,
    "deaf": deaf,
    "unlocked": unlocked,
    "litter": litter,
    "unverified": unverified,
    "broadcast": broadcast,
    "any label": any_label,
    "blind": blind,
    "softmax of large numbers": softmax_of_large_numbers,
    "summed by thread": summed_by_thread,
    "drawn anew": drawn_anew,
    "a megabyte a step": keeping(lambda: np.ones(1_000_000, np.uint8)),
    "a file a step": keeping(lambda: os.open(os.devnull, os.O_RDONLY)),
    "extracted": extracted,
    "unguarded": unguarded,
}

"""Planted faults: each makes the package break a promise, so that the promise's test is seen to fail."""

import contextlib
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from PIL import Image

from inception_np import checkpoint, data, files, tensorfile, train
from inception_np.random import stream


@contextlib.contextmanager
def written_in_place() -> Iterator[None]:
    """A writer that opens the file itself."""

    def in_place(path: Any, content: Any) -> None:
        pieces = [content] if isinstance(content, (bytes, str)) else content
        with files.open(path, "wb") as file:  # type: ignore[attr-defined]
            for piece in pieces:
                file.write(piece.encode() if isinstance(piece, str) else piece)

    with mock.patch.object(train, "atomic_write", in_place), mock.patch.object(tensorfile, "atomic_write", in_place):
        yield


def other_streams() -> AbstractContextManager:
    """Random numbers that depend on the process: dropout and crops are drawn anew after a kill."""
    return mock.patch.object(train, "stream", lambda seed, *where: stream(seed + os.getpid(), *where))


def forgotten(forget: Callable[[Any], None]) -> Callable[[], AbstractContextManager]:
    """A restore that leaves something as it is in a new run."""
    restore = train.Run.restore

    def forgetful(run: Any) -> None:
        restore(run)
        forget(run)

    return lambda: mock.patch.object(train.Run, "restore", forgetful)


def not_saved() -> AbstractContextManager:
    """A run that ends at a signal and says that all is saved, without saving."""

    def stop(run: Any, number: int) -> None:
        raise train.StoppedError(
            f"train: stopped in epoch {run.epoch + 1} after {run.step} of {run.steps} steps, all is saved", number
        )

    return mock.patch.object(train.Run, "stop", stop)


def deaf() -> AbstractContextManager:
    """Signals that nobody looks at."""
    return mock.patch.object(train.Signals, "__enter__", lambda signals: signals)


def unlocked() -> AbstractContextManager:
    """A folder that nobody holds."""
    return mock.patch.object(train, "locked", lambda folder: contextlib.nullcontext())


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
        for path, slot in checkpoint._slots(layer).items():
            if path in state:
                with contextlib.suppress(ValueError):
                    slot.data[...] = state[path]

    return mock.patch.object(checkpoint, "load_state_dict", load_state_dict)


def any_label() -> AbstractContextManager:
    """Labels that are not looked at."""
    return mock.patch.object(data, "CIFAR10_CLASSES", range(256))


def extracted() -> AbstractContextManager:
    """An archive that is unpacked beside itself."""
    read = data._archive_files

    def unpack(path: Any) -> Any:
        found = read(path)
        with tarfile.open(path) as archive:
            archive.extractall(path.parent)
        return found

    return mock.patch.object(data, "_archive_files", unpack)


def unguarded() -> AbstractContextManager:
    """Pictures read by Pillow alone, with its errors."""
    return mock.patch("promises.test_mutant_data.open_image", lambda path: Image.open(path).convert("RGB"))


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
    "extracted": extracted,
    "unguarded": unguarded,
}

"""What a run leaves beside its state: the checkpoints, the logs and the pictures, all of which follow from it."""

import contextlib
import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.errors import UsageError
from ..data.dataset import Dataset
from ..data.files import atomic_write, make_folder
from ..data.preprocess import Preprocess
from ..models.network import Network
from ..weights.checkpoint import save
from . import plots
from .options import Options
from .state import PLAIN, TOTAL

FILES = {
    "checkpoint.safetensors": "the weights, for eval and predict",
    "best.safetensors": "the weights after the epoch of the best test accuracy",
    "curves.png": "loss and accuracy over the epochs",
    "predictions.png": "test images with their predicted and true classes",
    "confusion.png": "which class is taken for which",
    "filters.png": "what the first convolution looks for",
    "log.jsonl": "one line per epoch",
    "log.csv": "the same as a table",
}


def save_checkpoint(path: Path, net: Network, data: Dataset, options: Options, epochs: int) -> None:
    """The weights as they are, what they were trained on, and which images test them. epochs: how many are finished."""
    size = data.train_images.shape[1:3]
    about = {
        "data": data.name,
        "classes": list(data.classes),
        "preprocess": Preprocess(size, resize=max(size), mean=data.mean, std=data.std).to_dict(),
        "epochs": epochs,
        "test": {"data_dir": options.data_dir, "test_images": options.test_images, "subset": options.subset},
    }
    save(net, path, about=about)


def save_log(folder: Path, history: list[dict[str, Any]]) -> None:
    """Both forms of the log, anew."""
    lines = [json.dumps(line, allow_nan=False) + "\n" for line in history]
    atomic_write(folder / "log.jsonl", "".join(lines))
    table = io.StringIO()
    writer = csv.DictWriter(table, list(dict.fromkeys(name for line in history for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    atomic_write(folder / "log.csv", table.getvalue())


def best_epoch(history: list[dict[str, Any]]) -> int:
    """The first epoch of the best test accuracy, counted from 1; 0 before the first."""
    return max(history, key=lambda line: float(line["test_accuracy"]), default={"epoch": 0})["epoch"]


class TensorBoard:
    """The log as TensorBoard reads it, in the folder's tensorboard/: train/loss, test/accuracy, lr and so on by epoch.

    Raises UsageError where tensorboardX is not installed. Its SummaryWriter would write from a thread, whose errors
    nobody hears of.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import tensorboardX.event_file_writer
        except ImportError:
            raise UsageError(
                "--log: got tensorboard, for which tensorboardX is missing; pip install 'inception-np[tensorboard]'"
            ) from None
        self.folder, self.library = folder / "tensorboard", tensorboardX
        self.file: Any = None

    @contextlib.contextmanager
    def opened(self, history: list[dict[str, Any]]) -> Iterator[None]:
        """Within this block epochs can be added. The file begins anew: what had reached an older one is not known."""
        for old in make_folder(self.folder).glob("events.out.tfevents.*"):
            old.unlink()
        self.file = self.library.event_file_writer.EventsWriter(str(self.folder / "events"))
        try:
            for line in history:
                self.add(line)
            yield
        finally:
            self.file.close()

    def add(self, line: dict[str, Any]) -> None:
        """One epoch."""
        for name, value in line.items():
            if name != "epoch":
                summary = self.library.summary.scalar(name.replace("_", "/", 1), value)
                event = self.library.proto.event_pb2.Event(wall_time=time.time(), step=line["epoch"], summary=summary)
                self.file.write_event(event)
        self.file.flush()


def draw(
    folder: Path, net: Network, data: Dataset, options: Options, history: list[dict[str, Any]], predicted: np.ndarray
) -> None:
    """The pictures. predicted: (N,), the classes that the network sees in the test images."""
    plots.first_filters(net, folder / "filters.png")
    plots.learning_curves(history, *losses(history, net, options), seen(options), folder / "curves.png")
    plots.confusion(data.test_labels, predicted, data.classes, folder / "confusion.png")
    plots.predictions(data.test_images, data.test_labels, predicted, data.classes, folder / "predictions.png")


def losses(history: list[dict[str, Any]], net: Network, options: Options) -> tuple[list[float], list[float], str]:
    """(the training losses that are what the test loss is, those that are minimised, what the second have besides).

    By epoch. The first are of the main logits without label smoothing, NaN where a line does not tell them: one that an
    earlier version wrote, or a step that is a CUDA graph. "" where both are the same.
    """
    heads = f"auxiliary heads (times {net.aux_weight:g})" if net.heads else ""
    smoothing = f"label smoothing {options.smoothing:g}" if options.smoothing else ""
    what = PLAIN if smoothing else "train_loss"
    told = [what in line and (TOTAL in line or not heads) for line in history]
    plain = [float(line[what]) if known else float("nan") for line, known in zip(history, told, strict=True)]
    total = [float(line.get(TOTAL, line["train_loss"])) for line in history]
    return plain, total, " and ".join(filter(None, (heads, smoothing)))


def seen(options: Options) -> str:
    """Which training images the losses and the accuracy of training are of."""
    return "mixed images" if options.mixup else "augmented images" if options.augment else "images as they are"

"""What a run leaves beside its state: the checkpoints, the logs and the pictures, all of which follow from it."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.errors import UsageError
from ..data.dataset import Dataset
from ..data.files import atomic_write
from ..data.preprocess import Preprocess
from ..models.network import Network
from ..weights.checkpoint import save
from . import plots
from .options import Options

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

    What is there is written anew first: a run that was stopped cannot know what had reached its file. Raises UsageError
    where tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UsageError(
                "--log: got tensorboard, for which tensorboardX is missing; pip install 'inception-np[tensorboard]'"
            ) from None
        self.folder, self.make = folder / "tensorboard", SummaryWriter
        self.writer: Any = None

    def begin(self, history: list[dict[str, Any]]) -> None:
        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = self.make(str(self.folder))
        for line in history:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        """One epoch."""
        for name, value in line.items():
            if name != "epoch":
                split, _, what = name.partition("_")
                self.writer.add_scalar(f"{split}/{what}" if what else name, value, line["epoch"])
        self.writer.flush()


def draw(folder: Path, net: Network, data: Dataset, history: list[dict[str, Any]], predicted: np.ndarray) -> None:
    """The pictures. predicted: (N,), the classes that the network sees in the test images."""
    plots.first_filters(net, folder / "filters.png")
    plots.learning_curves(history, folder / "curves.png")
    plots.confusion(data.test_labels, predicted, data.classes, folder / "confusion.png")
    plots.predictions(data.test_images, data.test_labels, predicted, data.classes, folder / "predictions.png")

"""What a run leaves beside its state: the checkpoint, the log and the pictures, all of which follow from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.files import atomic_write
from ..data.preprocess import Preprocess
from ..models.network import Network
from ..weights.checkpoint import save
from . import plots

FILES = {
    "checkpoint.safetensors": "the weights, for eval and predict",
    "curves.png": "loss and accuracy over the epochs",
    "predictions.png": "test images with their predicted and true classes",
    "confusion.png": "which class is taken for which",
    "filters.png": "what the first convolution looks for",
    "log.jsonl": "one line per epoch",
}


def save_checkpoint(folder: Path, net: Network, data: Dataset, epochs: int) -> None:
    """The weights as they are, and what they were trained on. epochs: how many are finished."""
    size = data.train_images.shape[1:3]
    about = {
        "data": data.name,
        "classes": list(data.classes),
        "preprocess": Preprocess(size, resize=max(size), mean=data.mean, std=data.std).to_dict(),
        "epochs": epochs,
    }
    save(net, folder / "checkpoint.safetensors", about=about)


def save_log(folder: Path, history: list[dict[str, Any]]) -> None:
    lines = [json.dumps(line, allow_nan=False) + "\n" for line in history]
    atomic_write(folder / "log.jsonl", "".join(lines))


def draw(folder: Path, net: Network, data: Dataset, history: list[dict[str, Any]], predicted: np.ndarray) -> None:
    """The pictures. predicted: (N,), the classes that the network sees in the test images."""
    plots.first_filters(net, folder / "filters.png")
    plots.learning_curves(history, folder / "curves.png")
    plots.confusion(data.test_labels, predicted, data.classes, folder / "confusion.png")
    plots.predictions(data.test_images, data.test_labels, predicted, data.classes, folder / "predictions.png")

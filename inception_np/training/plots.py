"""The plots of a run, as PNG files: drawn by Matplotlib without a display."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.device import asarray
from ..data.files import atomic_write
from ..layer import Buffer, Layer, Param, walk


def figure_of(width: float, height: float) -> Any:
    """An empty figure of so many inches, without a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def write_png(figure: Any, path: Path, **metadata: str) -> None:
    """The figure as a PNG file. metadata: its text chunks. Raises as `atomic_write` does."""
    png = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # a class's name may have letters that the font lacks
        figure.savefig(png, format="png", metadata=metadata)
    atomic_write(path, png.getvalue())


def learning_curves(
    history: Sequence[dict[str, Any]], plain: list[float], total: list[float], besides: str, seen: str, path: Path
) -> None:
    """Loss and accuracy over the epochs, training and test, and in a panel of its own what is minimised.

    history: the lines of log.jsonl. plain: the training losses that can be compared with the test loss, NaN where they
    are not known. total: those that are minimised; besides: what they have in them besides ("": nothing, and no panel).
    seen: which images the network was trained on. Training's numbers are means over the steps of an epoch, in which the
    weights move; the test's are those after it.
    """
    epochs = [line["epoch"] for line in history]
    training, test = (f"training ({seen}, over the epoch)", "C0", "--"), ("test (after the epoch)", "C1", "-")
    known = not all(np.isnan(plain))
    losses = [(plain, training)] * known + [([line["test_loss"] for line in history], test)]
    panels = [("loss" if known else "loss, of the test alone", "cross-entropy", losses)]
    if besides:
        panels.append((f"what is minimised: with\n{besides}", "loss", [(total, training)]))
    right = [
        ([100 * line[f"{split}_accuracy"] for line in history], how)
        for split, how in (("train", training), ("test", test))
    ]
    panels.append(("accuracy", "right, %", right))
    figure = figure_of(4.5 * len(panels), 4)
    for axes, (title, label, curves) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for values, (_, colour, style) in curves:
            axes.plot(epochs, values, style, color=colour, marker="." if len(epochs) < 40 else None)
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for name, colour, style in (training, test):
        axes.plot([], [], style, color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=2)
    best = max(line["test_accuracy"] for line in history)
    figure.suptitle(f"test accuracy {history[-1]['test_accuracy']:.1%}, best {best:.1%}")
    write_png(figure, path)


def first_filters(layer: Layer, path: Path) -> bool:
    """The first convolution's filters as colour images, each stretched over its own range.

    Draws nothing and returns False if that convolution reads neither one nor three channels.
    """
    filters = filters_as_images(layer)
    if filters is None:
        return False
    columns = min(len(filters), int(np.ceil(np.sqrt(4 * len(filters)))))
    figure = figure_of(8, 8 * np.ceil(len(filters) / columns) / columns + 0.4)
    sheet = tile(filters, columns, margin=1)
    axes = figure.subplots()
    axes.imshow(sheet, cmap="gray", interpolation="nearest")
    axes.set_axis_off()
    size = f"{filters.shape[1]} x {filters.shape[2]}"
    figure.suptitle(f"{len(filters)} filters of {size} in the first convolution")
    write_png(figure, path)
    return True


def filters_as_images(layer: Layer) -> np.ndarray | None:
    """The first convolution's filters, (C', kh, kw, C) in 0..1; None where C is neither 1 nor 3."""
    slots = (slot for _, slot in walk(layer) if isinstance(slot, (Param, Buffer)))
    weight = next((slot.data for slot in slots if slot.data.ndim == 4), None)
    if weight is None or weight.shape[2] not in (1, 3):
        return None
    filters = asarray(weight, "cpu").transpose(3, 0, 1, 2)
    low, high = (f(filters, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    scaled: np.ndarray = (filters - low) / np.maximum(high - low, 1e-12)
    return scaled


def tile(images: np.ndarray, columns: int, margin: int) -> np.ndarray:
    """(N, H, W, C) images in 0..1 side by side on white: (rows (H + margin), columns (W + margin), C)."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    sheet = np.ones((rows, height + margin, columns, width + margin, channels))
    for i, image in enumerate(images):
        sheet[i // columns, :height, i % columns, :width] = image
    return sheet.reshape(rows * (height + margin), columns * (width + margin), channels)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """The confusion matrix: one row per true class, one column per predicted class, in per cent of the row."""
    count = len(classes)
    counts = np.bincount(labels * count + predicted, minlength=count**2).reshape(count, count)
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.2 + 0.5 * min(count, 40)
    figure = figure_of(side + 0.6, side)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    if count <= 40:
        axes.set_xticks(range(count), classes, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(count), classes, parse_math=False)
        for i, j in np.argwhere(share >= 0.5):
            colour = "white" if share[i, j] > 50 else "black"
            axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", color=colour)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class, % of its images")
    axes.set_title(f"{(labels == predicted).mean():.1%} of {len(labels)} test images right")
    write_png(figure, path)


def predictions(
    images: np.ndarray, labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], path: Path
) -> None:
    """A sheet of test images, each with the predicted class, and the true one where it differs.

    images: (N, H, W, C) uint8, C 3 or 1. The first 32 are shown as they come, and then up to 8 others with mistakes.
    """
    first = np.arange(min(32, len(images)))
    wrong = np.flatnonzero(labels[32:] != predicted[32:])[:8] + 32
    shown = np.concatenate([first, wrong])
    rows = max(1, -(-len(shown) // 8))
    figure = figure_of(10, 1.55 * rows + 0.5)
    all_axes = np.ravel(figure.subplots(rows, 8))
    for axes in all_axes:
        axes.set_axis_off()
    for axes, i in zip(all_axes, shown, strict=False):
        axes.imshow(images[i].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if labels[i] == predicted[i]:
            title, colour = classes[labels[i]], "darkgreen"
        else:
            title, colour = f"{classes[predicted[i]]}\nis: {classes[labels[i]]}", "firebrick"
        axes.set_title(title, fontsize=8, color=colour, parse_math=False)
    figure.suptitle(
        "the first test images, and a row of mistakes: the predicted class, and below it the true one where it differs",
        fontsize=10,
    )
    write_png(figure, path)

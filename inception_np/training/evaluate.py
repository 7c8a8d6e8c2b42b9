"""How well a network does on images that it was not trained on."""

from collections.abc import Callable, Iterable

import numpy as np

from ..backend.arrays import Array, array_module
from ..backend.device import asarray, to_device_of
from ..backend.errors import UsageError
from ..data.batches import normalise, views
from ..data.photographs import ahead
from ..data.preprocess import Preprocess
from ..layer import Layer, Mode, named_params
from ..layers.loss import softmax_cross_entropy
from ..parallel.workers import ALONE, Workers
from ..runtime.inference import compile_inference
from .predict import over_crops


def evaluate(
    net: Layer,
    images: np.ndarray,
    labels: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = 250,
    *,
    tta: bool = False,
    pause: Callable[[], None] = lambda: None,
    workers: Workers = ALONE,
) -> tuple[float, float, np.ndarray]:
    """(accuracy, mean loss, predicted classes (N,)) of uint8 images (N, H, W, C).

    tta: test-time augmentation. An image's logits are then the weighted mean over its six `views`, of which H and W
    must be at least 2. pause: called before every forward pass, and may raise. workers: they take the batches in turn,
    and each returns the same, with the bits that one alone would give. The loss is NaN or infinite, without a warning,
    where the network's numbers or its logits are.
    """
    like = next(iter(named_params(net).values())).data
    batch_size = min(batch_size, len(labels))
    predicted = np.zeros(len(labels), np.int64)
    with np.errstate(all="ignore"):
        infer = compile_inference(net, (batch_size, *images.shape[1:]))

        def logits_of(images: Array) -> Array:
            pause()
            x = array_module(images).ascontiguousarray(normalise(images, mean, std, like.dtype))
            return infer(x) if len(x) == batch_size else net.forward(x, Mode())[0]

        parts = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
        losses = np.zeros(len(parts))
        own = range(workers.rank, len(parts), workers.size)
        for number, part in zip(own, ahead(images, [parts[number] for number in own]), strict=True):
            batch = to_device_of(images[part], like)
            weighted: Iterable[tuple[float, Array]] = views(batch) if tta else [(1.0, batch)]
            logits = asarray(sum(weight * logits_of(view) for weight, view in weighted), "cpu")
            predicted[part] = logits.argmax(1)
            losses[number] = float(softmax_cross_entropy(logits, labels[part])[0]) * len(labels[part])
        predicted = workers.gather(predicted).sum(0)  # each image has its class from one worker, and zeros from others
        loss = sum(workers.gather(losses).sum(0).tolist())
    return float((predicted == labels).mean()), loss / len(labels), predicted


def evaluate_crops(
    net: Layer, images: np.ndarray, labels: np.ndarray, how: Preprocess, crops: int
) -> tuple[float, float, np.ndarray]:
    """(accuracy, mean loss, predicted classes (N,)) by the mean softmax over 1, 10 or 144 crops of each image.

    images: (N, H, W, C) uint8, C one or three, larger than the network's input (how.size). The loss is that of the mean
    softmax p, -log p[label]. Raises UsageError for images that leave no room for a crop, ValueError as `over_crops`.
    """
    from PIL import Image

    height, width = images.shape[1:3]
    if min(height - how.size[0], width - how.size[1]) < 0 or (height, width) == how.size:
        raise UsageError(
            f"--crops: got images of {height}x{width}, of which the network reads {how.size[0]}x{how.size[1]}; "
            "crops need larger ones, --tta takes six views of these"
        )
    probabilities = over_crops(net, how, crops)
    with np.errstate(all="ignore"):
        p = np.stack(
            [probabilities(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)) for image in images]
        )
        predicted, loss = p.argmax(1), -np.log(p[np.arange(len(labels)), labels]).mean()
    return float((predicted == labels).mean()), float(loss), predicted

"""What a network sees in photographs: class probabilities, averaged over crops.

    predictions = predict_images(model, ["photo.jpg"], preprocess=how, crops=10)
    top(predictions[0].probabilities, classes)        [("otter", 0.81), ...]

What is averaged over crops is the softmax, not the logits (Szegedy et al. 2014, section 7).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend.device import asarray, to_device_of
from ..data.preprocess import CROPS, Preprocess, open_image, prepare
from ..layer import Layer, named_params
from ..runtime.inference import compile_inference

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Prediction:
    """One photograph's class probabilities, (classes,), float64; they sum to 1."""

    path: str
    probabilities: np.ndarray


def preprocess_for(model: Any, about: Mapping[str, Any] | None = None) -> Preprocess:
    """How photographs are prepared for a model: as its checkpoint says (about["preprocess"]).

    Without that, the centre 87.5 % at the model's own image size, pixels in -1 .. 1. Raises ValueError where what the
    checkpoint says is no preprocessing, or has another number of channels than the model's images, and TypeError for a
    model of your own, which does not say what its images are.
    """
    if not about or "preprocess" not in about:
        height, width, channels = getattr(model, "image", (0, 0, 0))
        if not height:
            raise TypeError(
                f"predict_images: got a {type(model).__name__} that does not say what its images are, wanted "
                "preprocess=Preprocess((height, width), mean=(...), std=(...)), as the model was trained"
            )
        half = (127.5,) * channels
        return Preprocess((height, width), mean=half, std=half)
    how = Preprocess.from_dict(about["preprocess"])
    channels = getattr(model, "image", (0, 0, 0))[2]
    if channels and len(how.mean) != channels:
        raise ValueError(f"preprocess: got {len(how.mean)} channels, wanted {model.name}'s {channels}")
    return how


def predict_images(
    model: Layer,
    paths: Iterable[str | Path],
    *,
    preprocess: Preprocess | None = None,
    crops: int = 1,
    batch_size: int = 16,
) -> list[Prediction]:
    """The class probabilities of each picture, averaged over 1, 10 or 144 crops of it.

    preprocess: None is `preprocess_for(model)`. batch_size: at most so many crops go through the network at once.
    Raises ValueError for a file that is no picture (naming it), for another number of crops, for a model whose images
    have neither one nor three channels, and for one whose y is not (N, classes); TypeError for a model of your own
    without a preprocess.
    """
    how = preprocess_for(model) if preprocess is None else preprocess
    probabilities = over_crops(model, how, crops, batch_size)
    return [Prediction(str(path), probabilities(open_image(path, len(how.mean)))) for path in paths]


def over_crops(model: Layer, how: Preprocess, crops: int, batch_size: int = 16) -> Callable[["Image"], np.ndarray]:
    """A function of a picture that gives its class probabilities, as `predict_images`, which says what is raised."""
    if crops not in CROPS:
        raise ValueError(f"predict_images: got crops={crops}, wanted one of {', '.join(map(str, CROPS))}")
    if batch_size < 1:
        raise ValueError(f"predict_images: got batch_size={batch_size}, wanted 1 or more")
    batch_size = max(n for n in range(1, min(crops, batch_size) + 1) if crops % n == 0)  # every batch is a full one
    shape = (batch_size, *how.size, len(how.mean))
    infer = compile_inference(model, shape)
    y_shape = model.out_shape(shape)
    if len(y_shape) != 2:
        raise ValueError(
            f"predict_images: got a {type(model).__name__} whose y has shape {tuple(y_shape)}, wanted (N, classes); "
            "end it with GlobalAvgPool2D() or Flatten()"
        )
    weights = next((p.data for p in named_params(model).values()), np.empty(0, np.float32))

    def probabilities(image: "Image") -> np.ndarray:
        total: Any = 0.0
        for batch in _batches(prepare(image, how, crops), batch_size):
            x = to_device_of(batch.astype(weights.dtype, copy=False), weights)
            logits = asarray(infer(x), "cpu").astype(np.float64)
            e = np.exp(logits - logits.max(1, keepdims=True))
            total = total + (e / e.sum(1, keepdims=True)).sum(0)
        mean: np.ndarray = total / crops
        return mean

    return probabilities


def top(probabilities: np.ndarray, classes: Sequence[str] | None = None, k: int = 5) -> list[tuple[str, float]]:
    """The k likeliest classes, likeliest first; "class 17" where no names are known."""
    best = np.argsort(-probabilities, kind="stable")[:k]
    named = classes is not None and len(classes) == len(probabilities)
    return [(classes[i] if named else f"class {i}", float(probabilities[i])) for i in best]  # type: ignore[index]


def _batches(crops: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    while held := list(islice(crops, size)):
        yield np.stack(held)

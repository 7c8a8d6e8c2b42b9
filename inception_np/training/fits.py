"""Whether a run fits its data and the machine, found out before its images are drawn: a refusal comes at once."""

import math
from dataclasses import replace

from ..backend.errors import UsageError
from ..data.dataset import KNOWN, Dataset, Size, check_request
from ..kernels.window import ImageTooSmall
from ..models import ALIASES, MODELS, create_model
from ..models.blocks import CIFAR
from ..models.network import Network, smallest_image
from ..models.size import check_width
from .memory import check_memory
from .options import Options
from .own_options import own_options


def image_side(model: str) -> int:
    """Height and width of the images that a network is made for; an unknown one is refused later."""
    name = ALIASES.get(model, model)
    return MODELS[name].size if name in MODELS else CIFAR


def check_batch(batch_size: int, images: int) -> None:
    """Raise UsageError for more images in a batch than there are, and for too few to make a batch of."""
    if images < 2:
        raise UsageError(f"--train-images: got {images}; give a number from 2, since batch norm averages over a batch")
    if batch_size > images:
        raise UsageError(f"--batch-size: got {batch_size}; there are {images:,} training images, give at most so many")


def as_asked(data: Dataset, o: Options) -> Dataset:
    """The data set with the border and the normalisation that the options say, if it has enough images."""
    check_batch(o.batch_size, len(data.train_labels))
    data = data if o.pad is None else replace(data, pad=o.pad)
    if o.mean is None or o.std is None:
        return data
    if len(o.mean) != len(data.mean):
        raise UsageError(f"--mean: got {len(o.mean)} numbers; {data.name} has {len(data.mean)} channels, give as many")
    return replace(data, mean=o.mean, std=o.std)


def network_for(o: Options, force: bool, size: Size | None = None) -> Network:
    """The network of a run with these options, newly initialised. force: even if it may not fit into memory.

    size: of a data set that has been read; None for one whose size is known before.

    Raises UsageError for a network that does not exist or that the images are too small for, and RefusedError for want
    of memory.
    """
    check_request(o.data, o.train_images, o.test_images)
    image, classes, train, test = size or KNOWN[o.data]
    train, test = o.train_images or train, o.test_images or test
    check_batch(o.batch_size, train)
    checked = not force and o.device == "cpu"
    copies = 1 + bool(o.momentum or o.optimizer != "sgd") + (o.optimizer == "rmsprop") + bool(o.ema) + o.lookahead
    copies += max(o.shards - 1, 0).bit_length()  # sums over shards that wait for others
    batch = o.batch_size // max(o.shards, 1)
    try:
        if checked:
            check_width(o.model, o.width, copies)
        aux = None if o.aux else False
        net = create_model(
            o.model,
            num_classes=classes,
            width=o.width,
            aux=aux,
            preset=o.preset,
            seed=o.seed,
            device=o.device,
            in_channels=image[2],
            **own_options(o.model, o.option),
        )
    except (ValueError, TypeError) as error:
        raise UsageError(f"--model: {error}; see inception-np models") from error
    check_image(net, image)
    if checked:
        images = 0 if size else (train + test) * (math.prod(image) + 8)  # what is read already takes no more
        check_memory(net, (batch, *image), copies, images, ema=bool(o.ema), low_memory=o.low_memory, test=test)
    return net


def check_image(net: Network, image: tuple[int, int, int]) -> None:
    """Raise UsageError for a network that images of this size are too small for, with one that takes them."""
    try:
        net.stage_shapes((1, *image), heads=True)
    except ImageTooSmall as error:
        least, other = smallest_image(net, heads=True), f"{net.name}_cifar"
        advice = f"; --model {other} is made for them" if other in MODELS else ""
        size = f"{image[0]}x{image[1]}"
        raise UsageError(
            f"--model: {net.name} takes images of {least}x{least} and more, these are of {size}{advice}"
        ) from error

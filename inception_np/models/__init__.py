"""The networks: one paper per file, and `create_model`, which makes any of them by name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, get_args

import numpy as np

from ..backend import device as settle_device
from ..layer import cast, move
from ..layers.check import check_count
from .bn_inception import bn_inception, bn_inception_cifar
from .inception_resnet import (
    inception_resnet_v1,
    inception_resnet_v1_cifar,
    inception_resnet_v2,
    inception_resnet_v2_cifar,
)
from .inception_v1 import inception_v1, inception_v1_cifar
from .inception_v3 import inception_v2, inception_v2_cifar, inception_v3, inception_v3_cifar
from .inception_v4 import inception_v4, inception_v4_cifar
from .network import Network, signature
from .speednet import speednet_cifar
from .xception import xception, xception_cifar


@dataclass(frozen=True)
class Entry:
    """The function that builds a network, the image it is meant for, the sources it can follow, and its own width."""

    builder: Callable[..., Network]
    image: tuple[int, int]
    presets: tuple[str, ...]
    width: float = 1.0

    @property
    def classes(self) -> int:
        return 10 if self.image == (32, 32) else 1000


MODELS = {
    "inception_v1": Entry(inception_v1, (224, 224), ("paper", "caffe", "torchvision", "tf_slim")),
    "inception_v1_cifar": Entry(inception_v1_cifar, (32, 32), ("paper",), 1 / 4),
    "bn_inception": Entry(bn_inception, (224, 224), ("paper", "caffe", "tf_slim", "chainer")),
    "bn_inception_cifar": Entry(bn_inception_cifar, (32, 32), ("paper", "caffe", "tf_slim", "chainer"), 1 / 4),
    "inception_v2": Entry(inception_v2, (299, 299), ("paper",)),
    "inception_v2_cifar": Entry(inception_v2_cifar, (32, 32), ("paper",), 1 / 4),
    "inception_v3": Entry(inception_v3, (299, 299), ("paper", "torchvision", "timm", "keras", "tf_slim")),
    "inception_v3_cifar": Entry(
        inception_v3_cifar, (32, 32), ("paper", "torchvision", "timm", "keras", "tf_slim"), 1 / 4
    ),
    "inception_v4": Entry(inception_v4, (299, 299), ("paper", "timm", "tf_slim")),
    "inception_v4_cifar": Entry(inception_v4_cifar, (32, 32), ("paper", "timm", "tf_slim"), 1 / 4),
    "inception_resnet_v1": Entry(inception_resnet_v1, (299, 299), ("paper",)),
    "inception_resnet_v1_cifar": Entry(inception_resnet_v1_cifar, (32, 32), ("paper",), 1 / 4),
    "inception_resnet_v2": Entry(inception_resnet_v2, (299, 299), ("paper", "timm", "keras", "tf_slim")),
    "inception_resnet_v2_cifar": Entry(
        inception_resnet_v2_cifar, (32, 32), ("paper", "timm", "keras", "tf_slim"), 1 / 4
    ),
    "xception": Entry(xception, (299, 299), ("paper", "keras", "timm")),
    "xception_cifar": Entry(xception_cifar, (32, 32), ("paper", "keras", "timm"), 1 / 4),
    "speednet_cifar": Entry(speednet_cifar, (32, 32), ("paper",)),
}
WIDEST = 1e4  # times the paper's channels; no machine could hold it
ALIASES = {"googlenet": "inception_v1", "googlenet_cifar": "inception_v1_cifar"}


def list_models(pattern: str = "*") -> list[str]:
    """The names that create_model knows, those that match a shell pattern such as "*_cifar"."""
    return [name for name in MODELS if fnmatchcase(name, pattern)]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    width: float | None = None,
    aux: bool | None = None,
    preset: str = "paper",
    seed: int = 0,
    dtype: Any = "float32",
    device: str = "cpu",
    **options: Any,
) -> Network:
    """A network with freshly drawn weights: one seed, one network, on every device.

    name: one of list_models(). num_classes: None is 1000, or 10 for the _cifar networks. width: a factor on the paper's
    channel counts; None is the network's own, which is 1, or 1/4 for the CIFAR size of a paper's. aux: None builds the
    auxiliary heads that the source has, False leaves them out. preset: "paper" is the literal paper, others a released
    network by its source's name.
    options: those of the network's own function, such as inception_v1(naive=True). Images are (N, H, W, in_channels).
    Raises ValueError for unknown names and values, TypeError for types, DeviceError for a device that is not there.
    """
    entry, name = find(name)
    if preset not in entry.presets:
        raise ValueError(f"{name}: got preset={preset!r}, wanted one of {', '.join(entry.presets)}")
    if width is not None and not (isinstance(width, (int, float)) and 0 < width <= WIDEST):
        raise ValueError(f"{name}: got width={width!r}, wanted a number above 0 and up to {WIDEST:g}")
    if aux not in (None, True, False):
        raise TypeError(f"{name}: got aux={aux!r}, wanted None, True or False")
    fixed = {"num_classes", "in_channels", "width", "aux", "preset", "rng"}
    known = {n: p for n, p in inspect.signature(entry.builder).parameters.items() if n not in fixed}
    for option, value in options.items():
        if option not in known:
            raise TypeError(f"{name}: got the option {option!r}, wanted one of {', '.join(known) or 'none'}")
        check_option(name, known[option], value)
    chosen = {
        "num_classes": entry.classes if num_classes is None else check_count(name, "num_classes", num_classes),
        "in_channels": check_count(name, "in_channels", in_channels),
        "width": entry.width if width is None else float(width),
        "aux": aux,
        **options,
    }
    seed = check_count(name, "seed", seed, least=0)
    device = settle_device(device)
    network = entry.builder(preset=preset, rng=np.random.default_rng(seed), **chosen)
    network.name, network.preset, network.options = name, preset, chosen
    network.num_classes = chosen["num_classes"]
    network.image = (*entry.image, chosen["in_channels"])
    network.made = signature(network)
    if dtype not in ("float32", np.float32):
        cast(network, dtype)
    return network if device == "cpu" else move(network, device)


def check_option(name: str, option: inspect.Parameter, value: Any) -> None:
    """Is a network's option of the type that its function says? An int may stand for a float. Raises TypeError."""
    kinds = get_args(option.annotation) or (option.annotation,)
    if type(value) in kinds or (type(value) is int and float in kinds):
        return
    wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    raise TypeError(f"{name}: got {option.name}={value!r}, wanted {wanted}")


def find(name: str) -> tuple[Entry, str]:
    """The entry of a network and its own name, for a name or an alias. Raises ValueError with the nearest names."""
    if not isinstance(name, str):
        raise TypeError(f"create_model: got {name!r}, wanted a network's name, such as 'inception_v1'")
    own = ALIASES.get(name, name)
    if own not in MODELS:
        near = get_close_matches(name, [*MODELS, *ALIASES], n=3, cutoff=0.4) or list(MODELS)
        raise ValueError(f"create_model: got the name {name!r}, wanted one like {', '.join(near)}")
    return MODELS[own], own


__all__ = ["ALIASES", "MODELS", "Entry", "Network", "create_model", "find", "list_models"]

"""The networks: one paper per file, and `create_model`, which makes any of them by name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, get_args

import numpy as np

from ..backend.device import resolve_device
from ..layer import cast, move
from ..layers.check import check_count
from .blocks import CIFAR, Request
from .bn_inception import bn_inception
from .inception_resnet import inception_resnet_v1, inception_resnet_v2
from .inception_v1 import inception_v1
from .inception_v3 import inception_v2, inception_v3
from .inception_v4 import inception_v4
from .network import Network
from .speednet import speednet_cifar
from .xception import xception


@dataclass(frozen=True)
class Entry:
    """A network: its function, the height and width of its images, the sources it can follow, and its own width.

    defaults: the function's options that have another default at this size. fixed: those that this size does not leave
    open, and what they are.
    """

    builder: Callable[..., Network]
    size: int
    presets: tuple[str, ...]
    width: float = 1.0
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        return 10 if self.size == CIFAR else 1000

    def options(self) -> dict[str, inspect.Parameter]:
        """The options of its own that create_model takes for this network, with their types and defaults."""
        parameters = inspect.signature(self.builder).parameters
        return {
            name: p.replace(default=self.defaults.get(name, p.default))
            for name, p in parameters.items()
            if p.kind is p.KEYWORD_ONLY and name not in self.fixed
        }


# fmt: off
MODELS = {
    "inception_v1": Entry(inception_v1, 224, ("paper", "caffe", "torchvision", "tf_slim")),
    "inception_v1_cifar": Entry(inception_v1, 32, ("paper",), 1 / 4, fixed={"separable_stem": False}),
    "bn_inception": Entry(bn_inception, 224, ("paper", "caffe", "tf_slim", "chainer")),
    "bn_inception_cifar": Entry(bn_inception, 32, ("paper", "caffe", "tf_slim", "chainer"), 1 / 4),
    "inception_v2": Entry(inception_v2, 299, ("paper",)),
    "inception_v2_cifar": Entry(inception_v2, 32, ("paper",), 1 / 4),
    "inception_v3": Entry(inception_v3, 299, ("paper", "torchvision", "timm", "keras", "tf_slim")),
    "inception_v3_cifar": Entry(inception_v3, 32, ("paper", "torchvision", "timm", "keras", "tf_slim"), 1 / 4,
                                fixed={"first_stride": 1, "first_pool": False}),
    "inception_v4": Entry(inception_v4, 299, ("paper", "timm", "tf_slim")),
    "inception_v4_cifar": Entry(inception_v4, 32, ("paper", "timm", "tf_slim"), 1 / 4),
    "inception_resnet_v1": Entry(inception_resnet_v1, 299, ("paper",)),
    "inception_resnet_v1_cifar": Entry(inception_resnet_v1, 32, ("paper",), 1 / 4,
                                       {"blocks_a": 2, "blocks_b": 3, "blocks_c": 2}),
    "inception_resnet_v2": Entry(inception_resnet_v2, 299, ("paper", "timm", "keras", "tf_slim")),
    "inception_resnet_v2_cifar": Entry(inception_resnet_v2, 32, ("paper", "timm", "keras", "tf_slim"), 1 / 4,
                                       {"blocks_a": 2, "blocks_b": 3, "blocks_c": 1, "linear_c": True}),
    "xception": Entry(xception, 299, ("paper", "keras", "timm")),
    "xception_cifar": Entry(xception, 32, ("paper", "keras", "timm"), 1 / 4, {"middle": 3}),
    "speednet_cifar": Entry(speednet_cifar, 32, ("paper",)),
}
# fmt: on
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
    channel counts; None is the network's own, which is 1, or 1/4 for the CIFAR size of a paper's network. aux: None
    builds the auxiliary heads that the source has, False leaves them out. preset: "paper" is the literal paper, the
    others are released networks by their source's name.
    options: those of the network's own function, such as naive=True for inception_v1.

    Images are (N, H, W, in_channels).
    Raises ValueError for unknown names and values, TypeError for types, DeviceError for a device that is not there.
    """
    entry, name = find(name)
    if preset not in entry.presets:
        raise ValueError(f"{name}: got preset={preset!r}, wanted one of {', '.join(entry.presets)}")
    if width is not None and not (isinstance(width, (int, float)) and 0 < width <= WIDEST):
        raise ValueError(f"{name}: got width={width!r}, wanted a number above 0 and up to {WIDEST:g}")
    if aux not in (None, True, False):
        raise TypeError(f"{name}: got aux={aux!r}, wanted None, True or False")
    known = entry.options()
    for option, value in options.items():
        if option not in known:
            raise TypeError(f"{name}: got the option {option!r}, wanted one of {', '.join(known) or 'none'}")
        check_option(name, known[option], value)
    request = Request(
        size=entry.size,
        num_classes=entry.classes if num_classes is None else check_count(name, "num_classes", num_classes),
        in_channels=check_count(name, "in_channels", in_channels),
        width=entry.width if width is None else float(width),
        aux=aux,
        preset=preset,
        rng=np.random.default_rng(check_count(name, "seed", seed, least=0)),
    )
    device = resolve_device(device)
    network = entry.builder(request, **{**entry.defaults, **entry.fixed, **options})
    network.name, network.preset, network.image = name, preset, request.image
    network.num_classes = request.num_classes
    remembered = ("num_classes", "in_channels", "width", "aux")
    network.options = {**{option: getattr(request, option) for option in remembered}, **options}
    if dtype not in ("float32", np.float32):
        cast(network, dtype)
    return network if device == "cpu" else move(network, device)


def check_option(name: str, option: inspect.Parameter, value: Any) -> None:
    """Raise TypeError for a value that is not of the option's type. An int may stand for a float, None for a None."""
    kinds = get_args(option.annotation) or (option.annotation,)
    if option.default is not None:
        kinds = tuple(kind for kind in kinds if kind is not type(None))
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

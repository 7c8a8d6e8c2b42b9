"""From a photograph to the arrays a network was trained on.

    x = (pixels - mean) / std        pixels 0..255, mean and std per channel on the same scale

Networks differ in size, in mean and std, in the filter that shrinks the photograph and in the order of the channels;
the wrong choice costs accuracy and raises no error. So the choice is a value, `Preprocess`, that is stored with the
weights, and nothing is hidden in any `forward`.

Sizes follow one convention, that of torchvision and timm: the shorter side is brought to `resize` pixels, the longer
one in proportion (rounded down), by Pillow's filters, whose support grows with the reduction (what other libraries call
antialias); the centre crop begins at round((side - size) / 2). At resize = size / 0.875 the crop covers 87.5 % of the
shorter side.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend.errors import explained

if TYPE_CHECKING:
    from PIL.Image import Image

CROPS = (1, 10, 144)
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
HALF = (127.5, 127.5, 127.5)  # x / 127.5 - 1, the same as mean 0.5 and std 0.5 of pixels in 0..1
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Preprocess:
    """What is done to a photograph before the network sees it.

    size           height and width of the network's input
    resize         what the shorter side becomes before cropping; None is size / 0.875, rounded
    interpolation  "nearest", "bilinear", "bicubic" or "lanczos", as Pillow defines them
    mean, std      per channel, in pixel values 0..255, in the order of the network's channels
    bgr            whether the network wants blue first, as Caffe's networks do

    Raises ValueError for sizes below 1, an unknown filter, a standard deviation of 0.
    """

    size: tuple[int, int]
    resize: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    bgr: bool = False

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        object.__setattr__(self, "size", tuple(int(n) for n in size))
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"Preprocess: got size {size}, wanted a height and a width of 1 or more")
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != len(self.mean) or not np.isfinite(values).all():
                raise ValueError(f"Preprocess: got {name} {values}, wanted a finite number per channel")
        if len(self.mean) not in (1, 3):
            raise ValueError(f"Preprocess: got a mean of {len(self.mean)} channels, wanted 1 or 3")
        if min(abs(s) for s in self.std) == 0:
            raise ValueError(f"Preprocess: got std {self.std}, wanted no zero")
        if self.interpolation not in FILTERS:
            raise ValueError(f"Preprocess: got filter {self.interpolation!r}, wanted one of {', '.join(FILTERS)}")
        if self.resize is not None and int(self.resize) < max(self.size):
            raise ValueError(f"Preprocess: got resize {self.resize}, wanted at least the crop's {max(self.size)}")

    @property
    def side(self) -> int:
        """What the shorter side of a photograph becomes before the crop."""
        return round(max(self.size) / 0.875) if self.resize is None else self.resize

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocess":
        """The inverse of `to_dict`. Raises ValueError for anything else."""
        names = cls.__dataclass_fields__
        if not isinstance(values, dict) or set(values) - set(names) or "size" not in values:
            raise ValueError(f"Preprocess: got {str(values)[:80]!r}, wanted the fields {', '.join(names)}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Preprocess: {str(error).removeprefix('Preprocess: ')}") from None


def open_image(path: str | Path, channels: int = 3, least: int | None = None) -> "Image":
    """Read a picture, upright (its EXIF orientation applied), as RGB, or as grey for one channel.

    least: what is needed of its shorter side. A JPEG file is then read at 1/2, 1/4 or 1/8 of its size where that is
    enough: its blocks of 8x8 pixels are turned into smaller ones, which takes a quarter of the time. Raises ValueError,
    naming the file, where Pillow cannot read it or the picture is cut short.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if least:
                image.draft(None, (least, least))
            return ImageOps.exif_transpose(image).convert("RGB" if channels == 3 else "L")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: got no picture, wanted a file that Pillow reads (JPEG, PNG, ...)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: {explained(error).removeprefix(f'{path}: ')}") from None


def prepare(image: "Image", how: Preprocess, crops: int = 1) -> Iterator[np.ndarray]:
    """The network's inputs for one picture: `crops` arrays (H, W, C), float32.

    1    the centre crop.
    10   the four corners and the centre, then the same of the mirrored picture
         (Krizhevsky et al. 2012, section 4.1).
    144  four scales, three squares of each, six crops of each square and their mirror images
         (Szegedy et al. 2014, section 7): the shorter side at 8/7, 9/7, 10/7 and 11/7 of the input
         (256, 288, 320, 352 for 224); the left, middle and right square (top, middle and bottom of
         a portrait); its four corners, its centre, and the whole square shrunk to the input; each
         as it is and mirrored.

    Raises ValueError for another number of crops, and for 144 crops of an input that is not square.
    """
    if crops not in CROPS:
        raise ValueError(f"prepare: got crops={crops}, wanted one of {', '.join(map(str, CROPS))}")
    cut = {1: _one, 10: _ten, 144: _hundred_forty_four}[crops]
    mean, std = (np.array(values, np.float32) for values in (how.mean, how.std))
    for crop in cut(image, how):
        pixels = np.asarray(crop, np.float32).reshape(*how.size, len(how.mean))
        yield ((pixels[..., ::-1] if how.bgr else pixels) - mean) / std


def _filter(how: Preprocess) -> Any:
    from PIL.Image import Resampling

    return Resampling[how.interpolation.upper()]


def _shrink(image: "Image", side: int, how: Preprocess) -> "Image":
    """The shorter side becomes `side`, the longer one follows, rounded down."""
    width, height = image.size
    short = min(width, height)
    return image.resize((side * width // short, side * height // short), _filter(how))


def _at(image: "Image", left: int, top: int, how: Preprocess) -> "Image":
    height, width = how.size
    return image.crop((left, top, left + width, top + height))


def _five(image: "Image", how: Preprocess) -> list["Image"]:
    """Top left, top right, bottom left, bottom right, centre."""
    right, bottom = image.size[0] - how.size[1], image.size[1] - how.size[0]
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), (round(right / 2), round(bottom / 2))]
    return [_at(image, left, top, how) for left, top in corners]


def _mirror(image: "Image") -> "Image":
    from PIL.Image import Transpose

    return image.transpose(Transpose.FLIP_LEFT_RIGHT)


def centre_crop(image: "Image", how: Preprocess) -> "Image":
    """The centre of a picture whose shorter side is brought to how.side."""
    image = _shrink(image, how.side, how)
    height, width = how.size
    return _at(image, round((image.size[0] - width) / 2), round((image.size[1] - height) / 2), how)


def _one(image: "Image", how: Preprocess) -> Iterator["Image"]:
    yield centre_crop(image, how)


def _ten(image: "Image", how: Preprocess) -> Iterator["Image"]:
    image = _shrink(image, how.side, how)
    yield from _five(image, how)
    yield from _five(_mirror(image), how)


def _hundred_forty_four(image: "Image", how: Preprocess) -> Iterator["Image"]:
    size = how.size[0]
    if how.size != (size, size):
        raise ValueError(f"prepare: got an input of {how.size} with 144 crops, wanted a square one")
    for sevenths in (8, 9, 10, 11):
        side = round(size * sevenths / 7)
        scaled = _shrink(image, side, how)
        slack = (scaled.size[0] - side, scaled.size[1] - side)
        for part in (0, 1, 2):
            left, top = (round(n * part / 2) for n in slack)
            square = scaled.crop((left, top, left + side, top + side))
            six = [*_five(square, how), square.resize((size, size), _filter(how))]
            yield from six
            yield from map(_mirror, six)

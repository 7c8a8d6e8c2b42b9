"""What a layer asks of its arrays before it computes."""

from functools import lru_cache
from typing import Any

import numpy as np

from ..backend.arrays import Array, Shape, is_real
from ..kernels.window import ImageTooSmall, Pads, Pair, out_size, pads_for
from ..layer import follow, kind_of_class


def check_x(who: str, x: Array, channels: int | None = None) -> None:
    """Images (N, H, W, C) of a floating dtype. Raises TypeError and ValueError that say what came and was wanted."""
    check_floating(who, x)
    check_shape(who, x.shape, channels)


def check_shape(who: str, shape: Shape, channels: int | None = None) -> None:
    """(N, H, W, C) with C = channels and pixels in it; N may be 0. Raises ValueError."""
    if len(shape) != 4:
        raise ValueError(f"{who}: got x of shape {tuple(shape)}, wanted (N, H, W, C)")
    if 0 in shape[1:3]:
        raise ValueError(f"{who}: got x of shape {tuple(shape)}, wanted H and W of at least 1")
    if channels is not None and shape[3] != channels:
        raise ValueError(f"{who}: got x of shape {tuple(shape)}, wanted {channels} channels (N, H, W, {channels})")


def check_several(who: str, shape: Shape) -> None:
    """More than one value per channel in (N, H, W, C), for statistics of a batch. Raises ValueError."""
    if shape[0] * shape[1] * shape[2] < 2:
        raise ValueError(f"{who}: got x of shape {tuple(shape)}, wanted more than one value per channel in training")


def check_floating(who: str, x: Array) -> None:
    """An array of float32 to train, float64 to check, complex128 for the complex step; on a GPU also of bfloat16.

    Raises TypeError.
    """
    dtype = getattr(x, "dtype", None)
    if not isinstance(dtype, np.dtype) or (
        dtype not in DTYPES and (isinstance(x, np.ndarray) or dtype.name != "bfloat16")
    ):
        got = type(x).__name__ if dtype is None else f"an array of {dtype}"
        raise TypeError(f"{who}: got {got}, wanted an array of float32 or float64")


DTYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.complex128))  # in the machine's byte order


def check_dy(who: str, dy: Array, shape: Shape, dtype: Any) -> Array:
    """The gradient of an output of this shape and dtype, rounded to that dtype where it came in another.

    A gradient in float64 for a float32 network is no mistake, as in np.ones(y.shape), and nothing is lost by rounding
    it; but it must not make every gradient before it float64. Raises TypeError for what is no array of real numbers
    (or of complex ones where y is complex), ValueError for another shape.
    """
    kind = getattr(getattr(dy, "dtype", None), "kind", None)
    if kind != "f" and not (kind and (is_real(dy.dtype) or (kind == "c" and dtype.kind == "c"))):
        got = f"dy of {dy.dtype}" if kind else f"dy={dy!r}" if dy is None else type(dy).__name__
        raise TypeError(f"{who}: got {got}, wanted an array of {dtype}, as y is")
    if tuple(dy.shape) != tuple(shape):
        raise ValueError(f"{who}: got dy of shape {tuple(dy.shape)}, wanted y's {tuple(shape)}")
    return dy if dy.dtype == dtype else follow(dy, dtype)


def check_weights(who: str, x: Array, w: Array) -> None:
    """x an array of floats, of the dtype of the layer's weights; bfloat16 goes with weights of float32.

    Raises TypeError, which says how to change it.
    """
    if getattr(x, "dtype", None) == w.dtype:
        return
    check_floating(who, x)
    wanted = "float32" if x.dtype.name == "bfloat16" else str(x.dtype)  # of the weights
    if not (x.dtype.kind == "c" or w.dtype.kind == "c" or w.dtype == wanted):
        raise TypeError(f"{who}: got x of {x.dtype}, wanted the weights' {w.dtype}; cast(layer, {wanted!r}) changes it")


def check_kind(who: str, layer: Any, wanted: type, instead: str) -> None:
    """A layer with the passes of this class, for one that fuses them with its own. Raises TypeError."""
    cls = type(layer)
    if cls is not wanted and kind_of_class(cls) is not wanted:
        raise TypeError(f"{who}: got {cls.__name__}, wanted a {wanted.__name__} with its own passes; use {instead}")


def check_count(who: str, name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`. Raises TypeError and ValueError."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{who}: got {name}={value!r}, wanted an int")
    if value < least:
        raise ValueError(f"{who}: got {name}={value!r}, wanted at least {least}")
    return int(value)


def check_number(who: str, name: str, value: Any) -> float:
    """A real number as a Python float. Raises TypeError."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"{who}: got {name}={value!r}, wanted a number")
    return float(value)


def check_between(who: str, name: str, value: Any, low: float, high: float) -> float:
    """low <= value < high as a Python float. Raises TypeError and ValueError."""
    check_number(who, name, value)
    if not low <= value < high:
        raise ValueError(f"{who}: got {name}={value!r}, wanted {low} <= {name} < {high}")
    return float(value)


@lru_cache(1 << 12)  # asked by every pass, for few shapes
def sliding(
    who: str,
    shape: Shape,
    channels: int | None,
    kernel: Pair,
    stride: Pair,
    pad: Any,
    dilation: Pair = (1, 1),
    ceil: bool = False,
) -> tuple[Pads, Pair]:
    """The pads and the number of positions (H', W') of a window that slides over an x of this shape.

    Raises ValueError as check_shape does, and ImageTooSmall, naming the layer, where the window has no position.
    """
    check_shape(who, shape, channels)
    pads = pads_for(pad, shape[1:3], kernel, stride, dilation)
    try:
        return pads, out_size(shape[1:3], kernel, stride, pads, dilation, ceil)
    except ImageTooSmall as error:
        raise ImageTooSmall(f"{who}: {error}") from None

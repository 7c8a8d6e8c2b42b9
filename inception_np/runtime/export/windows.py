"""Convolutions and pools as ONNX nodes; nodes.py says how to read them.

A convolution's two adjoints are operators, too:

    dx   ConvTranspose: dy, spread by the stride, under the same filters
    dw   Conv of x with dy for its filters, the batch in the role of the channels, stride and dilation exchanged
"""

from typing import Any

import numpy as np

from ...backend.arrays import Array, Shape
from ...kernels.window import Pads, Pair, out_size, window_counts
from .values import Values, planes

# ---- convolutions


def conv2d(
    v: Values,
    x: Array,
    w: Array,
    bias: Array | None,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    groups: int,
    *,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    shape = (len(x), *out_size(x.shape[1:3], w.shape[:2], stride, pads, dilation), w.shape[3])
    y = _convolution(v, x, _filters(v, w), bias, w.shape[:2], stride, pads, dilation, groups)
    return v.result(shape, v.node("Relu", y) if relu else y, out)


def conv2d_dx(
    v: Values,
    dy: Array,
    w: Array,
    x_shape: Shape,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    groups: int,
    *,
    into: Array | None = None,
) -> Array:
    dx = _adjoint(v, v.read(dy), _filters(v, w), dy.shape, x_shape, w.shape[:2], stride, pads, dilation, groups)
    return v.added(into, x_shape, dx)


def conv2d_dw(v: Values, x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int) -> None:
    v.added(dw, dw.shape, _filters_gradient(v, x, dy, dw.shape[:2], stride, pads, dilation, groups))


def depthwise2d(
    v: Values,
    x: Array,
    w: Array,
    bias: Array | None,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    *,
    out: Array | None = None,
) -> Array:
    kh, kw, c, m = w.shape
    shape = (len(x), *out_size(x.shape[1:3], (kh, kw), stride, pads, dilation), c * m)
    return v.result(
        shape, _convolution(v, x, _filters(v, w, depthwise=True), bias, (kh, kw), stride, pads, dilation, c), out
    )


def depthwise2d_dx(
    v: Values,
    dy: Array,
    w: Array,
    x_shape: Shape,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    *,
    into: Array | None = None,
) -> Array:
    filters = _filters(v, w, depthwise=True)
    dx = _adjoint(v, v.read(dy), filters, dy.shape, x_shape, w.shape[:2], stride, pads, dilation, w.shape[2])
    return v.added(into, x_shape, dx)


def depthwise2d_dw(v: Values, x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair) -> None:
    gradient = _filters_gradient(v, x, dy, dw.shape[:2], stride, pads, dilation, dw.shape[2])
    v.added(dw, dw.shape, v.node("Reshape", gradient, v.graph.constant(dw.shape, np.int64)))


def _filters(v: Values, w: Array, *, depthwise: bool = False) -> str:
    """The value of w as (C_out, C_in // groups, kh, kw). A constant is kept that way."""
    kh, kw, _, m = w.shape
    name, shape = v.read(w), (kh, kw, 1, w.shape[2] * m)
    constant = v.graph.constants.get(name)
    if constant is None:
        if depthwise:
            name = v.node("Reshape", name, v.graph.constant(shape, np.int64))
        return v.node("Transpose", name, perm=[3, 2, 0, 1])
    if constant is w:
        v.graph.constants[name] = (w.reshape(shape) if depthwise else w).transpose(3, 2, 0, 1)
    return name


def _convolution(
    v: Values, x: Array, w: str, bias: Array | None, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, groups: int
) -> str:
    arrays = [v.read(x), w] if bias is None else [v.read(x), w, v.read(bias)]
    (top, bottom), (left, right) = pads
    return v.node(
        "Conv",
        *arrays,
        kernel_shape=list(kernel),
        strides=list(stride),
        dilations=list(dilation),
        pads=[top, left, bottom, right],
        group=groups,
    )


def _adjoint(
    v: Values,
    dy: str,
    w: str,
    dy_shape: Shape,
    x_shape: Shape,
    kernel: Pair,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    groups: int,
) -> str:
    ends = _ends(x_shape, dy_shape, kernel, stride, pads, dilation)
    return v.node(
        "ConvTranspose",
        dy,
        w,
        kernel_shape=list(kernel),
        strides=list(stride),
        dilations=list(dilation),
        pads=_pads(pads, ends),
        output_padding=[max(0, -end) for end in ends],
        group=groups,
    )


def _filters_gradient(
    v: Values, x: Array, dy: Array, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair, groups: int
) -> str:
    """dw (kh, kw, C_in // groups, C_out): the channels of each group are the batch, and the batch the channels."""
    (n, h, w, c), g = x.shape, groups
    images = v.read(x)
    if g == 1:
        images = v.node("Transpose", images, perm=[1, 0, 2, 3])
    else:
        apart = v.node("Reshape", images, v.graph.constant([n, g, c // g, h, w], np.int64))
        apart = v.node("Transpose", apart, perm=[2, 1, 0, 3, 4])
        images = v.node("Reshape", apart, v.graph.constant([c // g, g * n, h, w], np.int64))
    ends = _ends(x.shape, dy.shape, kernel, stride, pads, dilation)
    dw = v.node(
        "Conv",
        images,
        v.node("Transpose", v.read(dy), perm=[1, 0, 2, 3]),
        kernel_shape=list(dy.shape[1:3]),
        strides=list(dilation),
        dilations=list(stride),
        pads=_pads(pads, ends),
        group=g,
    )
    for axis, (end, taps) in enumerate(zip(ends, kernel, strict=True)):
        if end < 0:  # rows of x that no window reaches would make more taps
            dw = v.cut(dw, 2 + axis, 0, taps)
    return v.node("Transpose", dw, perm=[2, 3, 0, 1])


def _ends(x_shape: Shape, y_shape: Shape, kernel: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1)) -> list[int]:
    """How far the last window reaches beyond the image, below and on the right; negative where rows are left over."""
    return [
        (p - 1) * s + d * (k - 1) + 1 - n - lo
        for n, p, k, s, (lo, _), d in zip(x_shape[1:3], y_shape[1:3], kernel, stride, pads, dilation, strict=True)
    ]


def _pads(pads: Pads, ends: list[int]) -> list[int]:
    return [pads[0][0], pads[1][0], max(0, ends[0]), max(0, ends[1])]


# ---- pools. No ceil_mode: padding up to the end of the last window says the same, and every runtime reads it alike


def max_pool(
    v: Values, x: Array, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, *, out: Array | None = None
) -> tuple[Array, Array]:
    shape = (len(x), *out_hw, x.shape[3])
    window = _window(x.shape, shape, size, stride, pads)
    y, winners = v.graph.nodes_outputs("MaxPool", (v.read(x),), 2, window)
    return v.result(shape, y, out), v.result(shape, winners, dtype=np.uint8)


def max_pool_dx(
    v: Values,
    dy: Array,
    winners: Array,
    x_shape: Shape,
    size: Pair,
    stride: Pair,
    pads: Pads,
    *,
    into: Array | None = None,
) -> Array:
    """MaxPool's second output says where in x, as one row, each winner stands."""
    n, h, w, c = x_shape
    row = v.graph.constant([-1], np.int64)
    size_of_x = v.graph.constant([n * c * h * w], np.int64)
    zeros = v.node("Expand", v.graph.constant([0.0]), size_of_x)
    ends = [v.node("Reshape", v.read(a), row) for a in (winners, dy)]
    dx = v.node("ScatterElements", zeros, *ends, axis=0, reduction="add")
    return v.added(into, x_shape, v.node("Reshape", dx, v.graph.constant([n, c, h, w], np.int64)))


def avg_pool(
    v: Values,
    x: Array,
    size: Pair,
    stride: Pair,
    pads: Pads,
    out_hw: Pair,
    count_include_pad: bool,
    *,
    out: Array | None = None,
) -> Array:
    shape = (len(x), *out_hw, x.shape[3])
    window = _window(x.shape, shape, size, stride, pads)
    y = v.node("AveragePool", v.read(x), count_include_pad=int(count_include_pad), **window)
    ends = _ends(x.shape, shape, size, stride, pads)
    if count_include_pad and any(end > hi for end, (_, hi) in zip(ends, pads, strict=True)):  # that end does not count
        counts = _counts(v, x.shape, shape, size, stride, pads, count_include_pad)
        y = v.node("Mul", y, v.graph.constant(size[0] * size[1] / counts))
    return v.result(shape, y, out)


def avg_pool_dx(
    v: Values,
    dy: Array,
    x_shape: Shape,
    size: Pair,
    stride: Pair,
    pads: Pads,
    count_include_pad: bool,
    *,
    into: Array | None = None,
) -> Array:
    """dy / D, spread over the windows: ConvTranspose with a filter of ones, every channel an image of its own."""
    n, h, w, c = x_shape
    counts = _counts(v, x_shape, dy.shape, size, stride, pads, count_include_pad)
    shares = v.node("Mul", v.read(dy), v.graph.constant(1 / counts))
    images = v.node("Reshape", shares, v.graph.constant([n * c, 1, *dy.shape[1:3]], np.int64))
    ones = v.graph.constant(np.ones((1, 1, *size)))
    dx = _adjoint(v, images, ones, dy.shape, x_shape, size, stride, pads, (1, 1), 1)
    return v.added(into, x_shape, v.node("Reshape", dx, v.graph.constant([n, c, h, w], np.int64)))


def global_avg_pool(v: Values, x: Array, *, out: Array | None = None) -> Array:
    return v.result((len(x), x.shape[3]), v.node("Flatten", v.node("GlobalAveragePool", v.read(x))), out)


def global_avg_pool_dx(v: Values, dy: Array, x_shape: Shape, *, into: Array | None = None) -> Array:
    n, h, w, c = x_shape
    share = v.node("Mul", planes(v, v.read(dy), 2), v.graph.constant(1 / (h * w)))
    return v.added(into, x_shape, v.node("Expand", share, v.graph.constant([n, c, h, w], np.int64)))


def _window(x_shape: Shape, y_shape: Shape, size: Pair, stride: Pair, pads: Pads) -> dict[str, Any]:
    ends = _ends(x_shape, y_shape, size, stride, pads)
    return {"kernel_shape": list(size), "strides": list(stride), "pads": _pads(pads, ends)}


def _counts(
    v: Values, x_shape: Shape, y_shape: Shape, size: Pair, stride: Pair, pads: Pads, count_include_pad: bool
) -> np.ndarray:
    """D, how many pixels count in each window, (1, 1, H', W')."""
    counts = window_counts(x_shape[1:3], size, stride, pads, y_shape[1:3], count_include_pad)
    return np.multiply.outer(*counts)[None, None].astype(v.graph.dtype)

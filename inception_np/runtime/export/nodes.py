"""Kernels as ONNX nodes: a function here does in a graph what the kernel of the same name and arguments does to arrays.

v.read(x) is the value of an array (values.py), v.node(...) adds an operator, and what a function returns are arrays as
the kernel would return them, each with its value. Values of activations are (N, C, H, W), weights as they are
in the package: (kh, kw, C_in // groups, C_out).

A convolution's two adjoints are operators, too:

    dx   ConvTranspose: dy, spread by the stride, under the same filters
    dw   Conv of x with dy for its filters, the batch in the role of the channels, stride and dilation exchanged
"""

from typing import Any

import numpy as np

from ...backend.arrays import Array, Shape
from ...kernels.window import Pads, Pair, out_size, window_counts
from .values import Values

NHW = (0, 1, 2)


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
    share = v.node("Mul", _planes(v, v.read(dy), 2), v.graph.constant(1 / (h * w)))
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


# ---- batch norm


def moments(v: Values, x: Array) -> tuple[Array, Array]:
    mean = _mean(v, v.read(x))
    centred = v.node("Sub", v.read(x), _planes(v, mean))
    return _vector(v, x, mean), _vector(v, x, _mean(v, v.node("Mul", centred, centred)))


def reciprocal_deviation(v: Values, var: Array, eps: float) -> Array:
    rstd = v.node("Reciprocal", v.node("Sqrt", v.node("Add", v.read(var), v.graph.constant(eps))))
    v.deviations[rstd] = v.read(var), eps
    return v.result(var.shape, rstd)


def batch_norm(
    v: Values,
    x: Array,
    mean: Array,
    rstd: Array,
    gamma: Array | None,
    beta: Array,
    *,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """With constants it is one operator, which runtimes fold into the convolution before it."""
    if v.read(mean) in v.graph.constants:
        var, eps = v.deviations[v.read(rstd)]
        scale = v.graph.constant(np.ones(len(beta))) if gamma is None else v.read(gamma)
        y = v.node("BatchNormalization", v.read(x), scale, v.read(beta), v.read(mean), var, epsilon=eps)
    else:
        y = _normalised(v, x, mean, rstd, gamma, beta)[1]
    return v.result(x.shape, v.node("Relu", y) if relu else y, out)


def batch_norm_grad(
    v: Values,
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    gamma: Array | None,
    beta: Array,
    *,
    relu: bool,
    train: bool,
    out: Array | None = None,
) -> tuple[Array, Array | None, Array]:
    xhat, y = _normalised(v, x, mean, rstd, gamma, beta)
    g = _where_positive(v, y, v.read(dy)) if relu else v.read(dy)
    dbeta = _vector(v, x, _sum(v, g))
    dgamma = None if gamma is None else _vector(v, x, _sum(v, v.node("Mul", g, xhat)))
    if gamma is not None:
        g = v.node("Mul", _planes(v, v.read(gamma)), g)
    if train:
        along = _planes(v, _mean(v, v.node("Mul", g, xhat)))
        g = v.node("Sub", v.node("Sub", g, _planes(v, _mean(v, g))), v.node("Mul", xhat, along))
    return v.result(x.shape, v.node("Mul", _planes(v, v.read(rstd)), g), out), dgamma, dbeta


def move_running_averages(v: Values, mean: Array, var: Array, averages: tuple[Array, Array, Array]) -> None:
    *running, decay = averages
    rate = v.graph.constant(1 - decay[0])
    for average, now in zip(running, (mean, var), strict=True):
        v.added(average, average.shape, v.node("Mul", rate, v.node("Sub", v.read(now), v.read(average))))


def _normalised(v: Values, x: Array, mean: Array, rstd: Array, gamma: Array | None, beta: Array) -> tuple[str, str]:
    """xhat and y."""
    xhat = v.node("Mul", v.node("Sub", v.read(x), _planes(v, v.read(mean))), _planes(v, v.read(rstd)))
    y = xhat if gamma is None else v.node("Mul", _planes(v, v.read(gamma)), xhat)
    return xhat, v.node("Add", y, _planes(v, v.read(beta)))


def _planes(v: Values, u: str, first: int = 1) -> str:
    """A value (C,) as (C, 1, 1), or (N, C) as (N, C, 1, 1), to be combined with (N, C, H, W)."""
    return v.node("Unsqueeze", u, v.graph.constant([first, first + 1], np.int64))


def _mean(v: Values, x: str) -> str:
    return v.node("ReduceMean", x, axes=[0, 2, 3], keepdims=0)


def _sum(v: Values, x: str) -> str:
    return v.node("ReduceSum", x, v.graph.constant([0, 2, 3], np.int64), keepdims=0)


def _vector(v: Values, x: Array, value: str) -> Array:
    return v.result(x.shape[-1:], value)


# ---- local response normalisation


def lrn(v: Values, x: Array, size: int, alpha: float, beta: float, k: float, *, out: Array | None = None) -> Array:
    """ONNX divides alpha by the size."""
    return v.result(x.shape, v.node("LRN", v.read(x), size=size, alpha=alpha * size, beta=beta, bias=k), out)


def lrn_dx(
    v: Values, dy: Array, x: Array, size: int, alpha: float, beta: float, k: float, *, into: Array | None = None
) -> Array:
    xv, dyv, number = v.read(x), v.read(dy), v.graph.constant
    energy = _channel_window_sum(v, v.node("Mul", xv, xv), size, x.shape[3])
    s = v.node("Add", v.node("Mul", energy, number(alpha)), number(k))
    power = v.node("Pow", s, number(-beta))
    products = v.node("Div", v.node("Mul", v.node("Mul", dyv, xv), power), s)
    others = v.node("Mul", xv, _channel_window_sum(v, products, size, x.shape[3]))
    dx = v.node("Sub", v.node("Mul", dyv, power), v.node("Mul", others, number(2 * alpha * beta)))
    return v.added(into, x.shape, dx)


def _channel_window_sum(v: Values, x: str, size: int, channels: int) -> str:
    half = size // 2
    padded = v.node("Pad", x, v.graph.constant([0, half, 0, 0, 0, half, 0, 0], np.int64))
    return v.node("Sum", *[v.cut(padded, 1, d, d + channels) for d in range(size)])


# ---- one number at a time


def add(v: Values, into: Array, dx: Array) -> Array:
    return v.added(into, into.shape, v.read(dx))


def copy(v: Values, x: Array, out: Array) -> Array:
    return v.write(out, v.read(x))


def scaled(v: Values, x: Array, scale: float, *, out: Array | None = None) -> Array:
    return v.result(x.shape, _times(v, v.read(x), scale), out)


def scaled_add(v: Values, a: Array, b: Array, scale: float, *, out: Array | None = None) -> Array:
    return v.result(a.shape, v.node("Add", v.read(a), _times(v, v.read(b), scale)), out)


def _times(v: Values, x: str, scale: float) -> str:
    return x if scale == 1 else v.node("Mul", x, v.graph.constant(scale))


def relu(v: Values, x: Array, *, out: Array | None = None) -> Array:
    return v.result(x.shape, v.node("Relu", v.read(x)), out)


def relu_dx(v: Values, dy: Array, y: Array, *, into: Array | None = None) -> Array:
    return v.added(into, dy.shape, _where_positive(v, v.read(y), v.read(dy)))


def _where_positive(v: Values, y: str, dy: str) -> str:
    zero = v.graph.constant(0.0)
    return v.node("Where", v.node("Greater", y, zero), dy, zero)


def dropout(
    v: Values, x: Array, rng: np.random.Generator, rate: float, *, out: Array | None = None
) -> tuple[Array, Array]:
    """The mask is an input of the graph, named after the layer."""
    axes = (0, 3, 1, 2) if x.ndim == 4 else range(x.ndim)
    name = f"{v.layer}.kept"
    kept = v.graph.input(name, tuple(x.shape[i] for i in axes), f"bool: False with probability {rate:g}", np.bool_)
    return v.result(x.shape, _kept(v, v.read(x), kept, rate), out), v.result(x.shape, kept, dtype=np.bool_)


def dropout_dx(v: Values, dy: Array, kept: Array, rate: float, *, into: Array | None = None) -> Array:
    return v.added(into, dy.shape, _kept(v, v.read(dy), v.read(kept), rate))


def _kept(v: Values, x: str, kept: str, rate: float) -> str:
    return _times(v, v.node("Where", kept, x, v.graph.constant(0.0)), 1 / (1 - rate))


def sum_rows(v: Values, dy: Array, into: Array) -> None:
    axes = [0, 2, 3] if dy.ndim == 4 else list(range(dy.ndim - 1))
    v.added(into, into.shape, v.node("ReduceSum", v.read(dy), v.graph.constant(axes, np.int64), keepdims=0))


# ---- matrices


def linear(v: Values, x: Array, w: Array, bias: Array | None, *, out: Array | None = None) -> Array:
    arrays = [x, w] if bias is None else [x, w, bias]
    return v.result((len(x), w.shape[1]), v.node("Gemm", *map(v.read, arrays)), out)


def linear_dx(v: Values, dy: Array, w: Array, *, into: Array | None = None) -> Array:
    return v.added(into, (len(dy), len(w)), v.node("Gemm", v.read(dy), v.read(w), transB=1))


def linear_dw(v: Values, x: Array, dy: Array, dw: Array) -> None:
    v.added(dw, dw.shape, v.node("Gemm", v.read(x), v.read(dy), transA=1))


# ---- the loss, and the step of the optimiser


def softmax_cross_entropy(v: Values, logits: Array, labels: Array, smoothing: float) -> tuple[Array, Array]:
    """In double precision, as the kernel."""
    (n, k), wide = logits.shape, np.float64
    double, single = (_type(dtype) for dtype in (wide, v.graph.dtype))
    rows = v.node("Unsqueeze", v.read(labels), v.graph.constant([1], np.int64))
    right = v.node("Equal", rows, v.graph.constant(np.arange(k), np.int64))
    ends = [v.graph.constant(end, wide) for end in (smoothing / k + (1 - smoothing), smoothing / k)]
    target = v.node("Where", right, *ends)
    z = v.node("Cast", v.read(logits), to=double)
    shifted = v.node("Sub", z, v.node("ReduceMax", z, axes=[1]))
    e, axis = v.node("Exp", shifted), v.graph.constant([1], np.int64)
    total = v.node("ReduceSum", e, axis)
    logs = v.node("Mul", target, v.node("Sub", shifted, v.node("Log", total)))
    loss = v.node("Mul", v.node("ReduceSum", logs, keepdims=0), v.graph.constant(-1 / n, wide))
    dlogits = v.node("Div", v.node("Sub", v.node("Div", e, total), target), v.graph.constant(n, wide))
    return (v.result((), v.node("Cast", loss, to=single)), v.result(logits.shape, v.node("Cast", dlogits, to=single)))


def _type(dtype: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def sgd_step(
    v: Values,
    data: Array,
    grad: Array,
    velocity: Array | None,
    lr: Any,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """Each parameter in the vectors by itself. lr: an array with the value that the graph reads."""
    for w, dw, *u in zip(*map(v.within, [data, grad] if velocity is None else [data, grad, velocity]), strict=True):
        g = v.read(dw)
        if weight_decay:
            g = v.node("Add", g, _times(v, v.read(w), weight_decay))
        if u:
            moving = v.node("Add", _times(v, v.read(u[0]), momentum), g)
            v.write(u[0], moving)
            g = v.node("Add", g, _times(v, moving, momentum)) if nesterov else moving
        v.write(w, v.node("Sub", v.read(w), v.node("Mul", v.read(lr), g)))

"""Kernels as ONNX nodes: a function here does in a graph what the kernel of the same name and arguments does to arrays.

v.read(x) is the value of an array (values.py), v.node(...) adds an operator, and what a function returns are arrays as
the kernel would return them, each with its value. Values of activations are (N, C, H, W), weights as they are
in the package: (kh, kw, C_in // groups, C_out).
"""

from typing import Any

import numpy as np

from ...backend.arrays import Array
from .values import Values, planes
from .windows import (  # noqa: F401  (kernels, too)
    avg_pool,
    avg_pool_dx,
    conv2d,
    conv2d_dw,
    conv2d_dx,
    depthwise2d,
    depthwise2d_dw,
    depthwise2d_dx,
    global_avg_pool,
    global_avg_pool_dx,
    max_pool,
    max_pool_dx,
)

# ---- batch norm


def moments(v: Values, x: Array) -> tuple[Array, Array]:
    mean = _mean(v, v.read(x))
    centred = v.node("Sub", v.read(x), planes(v, mean))
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
        g = v.node("Mul", planes(v, v.read(gamma)), g)
    if train:
        along = planes(v, _mean(v, v.node("Mul", g, xhat)))
        g = v.node("Sub", v.node("Sub", g, planes(v, _mean(v, g))), v.node("Mul", xhat, along))
    return v.result(x.shape, v.node("Mul", planes(v, v.read(rstd)), g), out), dgamma, dbeta


def move_running_averages(v: Values, mean: Array, var: Array, averages: tuple[Array, Array, Array]) -> None:
    *running, decay = averages
    rate = v.graph.constant(1 - decay[0])
    for average, now in zip(running, (mean, var), strict=True):
        v.added(average, average.shape, v.node("Mul", rate, v.node("Sub", v.read(now), v.read(average))))


def _normalised(v: Values, x: Array, mean: Array, rstd: Array, gamma: Array | None, beta: Array) -> tuple[str, str]:
    """xhat and y."""
    xhat = v.node("Mul", v.node("Sub", v.read(x), planes(v, v.read(mean))), planes(v, v.read(rstd)))
    y = xhat if gamma is None else v.node("Mul", planes(v, v.read(gamma)), xhat)
    return xhat, v.node("Add", y, planes(v, v.read(beta)))


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
    """Each parameter in the vectors by itself. lr: an array, whose value the graph reads."""
    vectors = [data, grad] if velocity is None else [data, grad, velocity]
    for w, dw, *rest in zip(*map(v.within, vectors), strict=True):
        g = v.read(dw)
        if weight_decay:
            g = v.node("Add", g, _times(v, v.read(w), weight_decay))
        for moving in rest:  # the momentum, where there is one
            sum_so_far = v.node("Add", _times(v, v.read(moving), momentum), g)
            v.write(moving, sum_so_far)
            g = v.node("Add", g, _times(v, sum_so_far, momentum)) if nesterov else sum_so_far
        v.write(w, v.node("Sub", v.read(w), v.node("Mul", v.read(lr), g)))

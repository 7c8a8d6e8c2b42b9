"""compile_inference: a network as one list of kernel calls for one input shape, with its weights as they are now.

`layer.forward(x, Mode())` walks a tree of layers, looks at shapes and makes arrays; for one small image that takes as
long as the arithmetic. Here it is done once. What comes out is a plan: kernel addresses, array addresses and numbers in
one vector, and a call of it is one call into compiled code. On the way the network is rewritten; every step is exact
but for rounding:

    conv, then batch norm       the running averages are constants: w' = w g, b' = beta - mean g, g = gamma / std
    conv, then ReLU             ReLU is the least value that the convolution's tile may store
    3x3 convolutions            Winograd's way where that is faster, the filters transformed once
    sibling 1x1 convolutions    those that read one input are one product, with their output channels side by side
    average, then 1x1 conv      both are linear, one in space, one in channels: the convolution first, and the average
                                runs over its 32 to 192 channels in place of 192 to 2048
    x + scale * conv(...)       the convolution adds to x where it stands, its weights times the scale
    max pooling                 without the winners
    dropout                     is not there

Arrays come from a heap that belongs to the plan; one that nobody reads again makes room for the next, so that a deep
network runs in the memory of its two or three largest maps, which stay in the cache. Layers that no kernel here knows
(your own, for instance) run as they are, between two stretches of the plan, as a copy made now.
"""

import copy
import threading
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from . import heap
from .backend import Array, Shape, compiled
from .compose import Concat, Residual, Sequential
from .kernels.lrn import POWERS
from .kernels.window import out_size, pads_for
from .layer import Layer, Mode, forward_of, named_buffers, named_params, of_kind
from .layers.activation import Dropout, ReLU
from .layers.batchnorm import BatchNorm
from .layers.conv import Conv2D, ConvReLU
from .layers.conv_bn_relu import ConvBNReLU
from .layers.depthwise import DepthwiseConv2D
from .layers.linear import Linear, Scale
from .layers.lrn import LRN
from .layers.pool import AvgPool2D, Flatten, GlobalAvgPool2D, MaxPool2D
from .layers.whitening import PatchWhitening
from .models.network import Network

ONE, NO_PADS = (1, 1), ((0, 0), (0, 0))


# ---- the network as steps


@dataclass
class Product:
    """A convolution with bias; floor: the least that each output channel may be, 0 for ReLU, else minus infinity."""

    weight: np.ndarray  # (kh, kw, in, out), float32
    bias: np.ndarray  # (out,)
    floor: np.ndarray  # (out,)
    stride: Any = ONE
    pad: Any = NO_PADS
    dilation: Any = ONE

    def mixes_channels_only(self) -> bool:
        """Is it a 1x1 convolution of every pixel, so that its place among linear maps in space does not matter?"""
        flat = self.weight.shape[:2] == (1, 1) and self.stride == ONE
        return flat and self.pad in ("same", "valid", NO_PADS)

    def is_linear(self) -> bool:
        return bool(np.isneginf(self.floor).all())

    def out_shape(self, shape: Shape) -> Shape:
        kernel, outputs = self.weight.shape[:2], self.weight.shape[3]
        if len(shape) == 2:
            return shape[0], outputs
        pads = pads_for(self.pad, shape[1:3], kernel, self.stride, self.dilation)
        return (shape[0], *out_size(shape[1:3], kernel, self.stride, pads, self.dilation), outputs)

    def scaled(self, scale: Any, shift: Any) -> "Product":
        """scale * this + shift, by output channel, in double precision."""
        weight, bias = self.weight.astype(np.float64) * scale, self.bias * scale + shift
        return replace(self, weight=weight.astype(np.float32), bias=bias.astype(np.float32))

    def clipped(self) -> "Product":
        return replace(self, floor=np.zeros_like(self.floor))


@dataclass
class Average:
    """Average pooling, and then a bias and a floor by channel."""

    layer: AvgPool2D
    bias: np.ndarray | None = None
    floor: np.ndarray | None = None

    def out_shape(self, shape: Shape) -> Shape:
        return self.layer.out_shape(shape)


@dataclass
class Fork:
    """Branches on one input, joined along the channels."""

    branches: list[list[Any]]

    def out_shapes(self, shape: Shape) -> list[Shape]:
        return [shape_after(branch, shape) for branch in self.branches]

    def out_shape(self, shape: Shape) -> Shape:
        shapes = self.out_shapes(shape)
        return (*shapes[0][:-1], sum(s[-1] for s in shapes))


@dataclass
class Sum:
    """shortcut(x) + scale * body(x); shortcut None is x."""

    body: list[Any]
    shortcut: list[Any] | None
    scale: float
    relu: bool = False

    def out_shape(self, shape: Shape) -> Shape:
        return shape_after(self.body, shape)


def shape_after(steps: list[Any], shape: Shape) -> Shape:
    """The shape of y for an x of this shape."""
    for step in steps:
        shape = _out_shape(step, shape)
    return shape


def _out_shape(step: Any, shape: Shape) -> Shape:
    """What a step makes of a shape. A layer of one's own finds it by trying, which is no part of the plan."""
    from .kernels.cpu.machine import at_once

    with at_once():
        return step.out_shape(shape)


def steps_of(layer: Layer) -> list[Any]:
    """A layer as steps that come one after the other; a Layer among them is one that stays as it is."""
    if of_kind(layer, Network):
        return steps_of(layer.trunk)
    if of_kind(layer, Sequential):
        steps: list[Any] = []
        for child in layer.layers.values():
            for step in steps_of(child):
                _append(steps, step)
        return steps
    if of_kind(layer, Concat):
        return [Fork([steps_of(branch) for branch in layer.branches.values()])]
    if of_kind(layer, Residual):
        cut = None if layer.shortcut is None else steps_of(layer.shortcut)
        return [Sum(steps_of(layer.body), cut, layer.scale)]
    if of_kind(layer, ConvBNReLU):
        return steps_of(Sequential(layer.conv, layer.bn, ReLU()))
    if of_kind(layer, Conv2D, ConvReLU, PatchWhitening) and layer.groups == 1:
        w = layer.weight.data
        bias = np.zeros(w.shape[3], np.float32) if layer.bias is None else layer.bias.data.copy()
        least = 0 if of_kind(layer, ConvReLU) else -np.inf
        floor = np.full(w.shape[3], least, np.float32)
        return [Product(w.copy(), bias, floor, layer.stride, layer.pad, layer.dilation)]
    if of_kind(layer, Linear):
        w = layer.weight.data
        bias = np.zeros(w.shape[1], np.float32) if layer.bias is None else layer.bias.data.copy()
        return [Product(w[None, None].copy(), bias, np.full(w.shape[1], -np.inf, np.float32))]
    if of_kind(layer, AvgPool2D):
        return [Average(layer)]
    if of_kind(layer, Dropout):
        return []
    return [copy.deepcopy(layer)]


def _append(steps: list[Any], step: Any) -> None:
    """Put a step behind others, into the last one where it fits in."""
    last = steps[-1] if steps else None
    if of_kind(step, BatchNorm) and isinstance(last, Product) and last.is_linear():
        steps[-1] = last.scaled(*_line(step))
    elif of_kind(step, Scale) and isinstance(last, Product) and last.is_linear():
        steps[-1] = last.scaled(step.scale, 0.0)
    elif of_kind(step, ReLU) and isinstance(last, Product):
        steps[-1] = last.clipped()
    elif of_kind(step, ReLU) and isinstance(last, Sum):
        steps[-1] = replace(last, relu=True)
    elif of_kind(step, ReLU) and isinstance(last, Average) and last.bias is not None:
        steps[-1] = replace(last, floor=np.zeros_like(last.bias))
    elif (
        isinstance(step, Product)
        and step.mixes_channels_only()
        and isinstance(last, Average)
        and last.bias is None
        and last.layer.stride == ONE
        and step.weight.shape[3] < step.weight.shape[2]
    ):
        free = np.full_like(step.floor, -np.inf)
        steps[-1] = replace(step, bias=np.zeros_like(step.bias), floor=free)
        steps.append(Average(last.layer, step.bias, step.floor))
    elif (
        of_kind(step, BatchNorm)
        and isinstance(last, Average)
        and last.floor is not None
        and np.isneginf(last.floor).all()
    ):
        scale, shift = _line(step)  # the product before the average has no bias of its own
        steps[-2] = steps[-2].scaled(scale, np.zeros_like(scale))
        steps[-1] = replace(last, bias=(last.bias * scale + shift).astype(np.float32))
    else:
        steps.append(step)


def _line(bn: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Batch norm with its running averages: y = scale * x + shift by channel, in double precision."""
    mean, var = bn.mean.data.astype(np.float64), bn.var.data.astype(np.float64)
    scale = (var + bn.eps) ** -0.5
    if bn.gamma is not None:
        scale *= bn.gamma.data
    return scale, bn.beta.data - mean * scale


# ---- the steps as kernel calls


class Plan:
    """x -> y for one input shape. Made by compile_inference; a call is safe from any thread, one at a time."""

    def __init__(self, layer: Layer, shape: Shape):
        from .kernels.cpu.machine import Recording
        from .kernels.cpu.record import holes, stand_in

        self.shape = tuple(shape)
        self.lock = threading.Lock()
        self.heap = heap.private()
        self.pieces: list[Any] = []  # programs (int64 vectors), and layers with their input and output
        self.kept: list[Any] = []
        self.recording = Recording(self.heap.addresses() if self.heap else range(0))
        placeholder = stand_in(self.shape)
        with self.recording:
            self.y = self._steps(steps_of(layer), placeholder, owned=False)
            if _is_placeholder(self.y):  # a network that gives back what it gets
                self.y = self._own(self.y)
        self._end_piece()
        self.uses_x = [holes(p, 0) for p in self.programs()]

    def __call__(self, x: Array) -> Array:
        """x: float32, of the shape that the plan was made for. Raises ValueError and TypeError."""
        from .kernels.cpu.machine import run
        from .kernels.cpu.record import STAND_INS

        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            kind = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"compile_inference: got x of {kind}, wanted a NumPy array of float32")
        if x.shape != self.shape:
            raise ValueError(f"compile_inference: got x of shape {x.shape}, wanted {self.shape}")
        x = np.ascontiguousarray(x)
        with self.lock:
            uses = iter(self.uses_x)
            for piece in self.pieces:
                if isinstance(piece, np.ndarray):
                    program = piece.copy()
                    program[next(uses)] += x.ctypes.data - STAND_INS
                    run(program)
                else:
                    layer, source, target = piece
                    y = forward_of(layer, source, Mode())[0]
                    if y.shape != target.shape:
                        raise ValueError(
                            f"{type(layer).__name__}: gave y of {y.shape}, wanted {target.shape} as before"
                        )
                    target[...] = y
            return self.y.copy()

    def programs(self) -> list[np.ndarray]:
        """The stretches of kernel calls between layers that run as they are."""
        return [piece for piece in self.pieces if isinstance(piece, np.ndarray)]

    def _end_piece(self) -> None:
        if self.recording.calls:
            self.pieces.append(np.frombuffer(b"".join(self.recording.calls), np.int64).copy())
            self.recording.calls.clear()

    def _array(self, shape: Shape) -> np.ndarray:
        y = heap.empty(shape, np.float32, self.heap) if self.heap else np.empty(shape, np.float32)
        if not self.heap or y.ctypes.data not in self.recording.owned:
            self.kept.append(y)
        return y

    def _steps(self, steps: list[Any], x: np.ndarray, owned: bool, out: np.ndarray | None = None) -> np.ndarray:
        """Write down the calls of some steps. owned: nobody else reads x. out: where the last one's y goes."""
        for i, step in enumerate(steps):
            target = out if i == len(steps) - 1 else None
            y = self._step(step, x, owned, target)
            owned = owned or not np.may_share_memory(x, y)
            x = y
        if out is not None and x is not out:
            self._copy(x, out)
            x = out
        return x

    def _step(self, step: Any, x: np.ndarray, owned: bool, out: np.ndarray | None) -> np.ndarray:
        if isinstance(step, Product):
            return self._product(step, x, out)
        if isinstance(step, Average):
            return self._average(step, x, out)
        if isinstance(step, Fork):
            return self._fork(step, x, out)
        if isinstance(step, Sum):
            return self._sum(step, x, owned, out)
        return self._layer(step, x, out)

    def _product(self, step: Product, x: np.ndarray, out: np.ndarray | None, adds: bool = False) -> np.ndarray:
        from .kernels.cpu import conv
        from .kernels.cpu.implicit_gemm import pack
        from .kernels.cpu.machine import address, at_once

        y = self._array(step.out_shape(x.shape)) if out is None else out
        images, maps = (x[:, None, None], y[:, None, None]) if x.ndim == 2 else (x, y)  # linear: images of one pixel
        kernel, outputs = step.weight.shape[:2], step.weight.shape[3]
        pads = pads_for(step.pad, images.shape[1:3], kernel, step.stride, step.dilation)
        if images.shape[3] < conv.FEW_CHANNELS and not images.flags.c_contiguous:
            images = self._own(images)
        images, offsets, depth = conv.windows(images, kernel, pads, step.dilation)
        size = len(offsets) * depth
        packed = np.empty(conv.packed_size(size, outputs), np.float32)
        weight = np.ascontiguousarray(step.weight)
        with at_once():
            pack(address(weight), address(packed), size, outputs)
        ends: dict[str, Any] = {"adds": adds, "bias": address(step.bias), "floor": address(step.floor)}
        if conv.winograd_pays(kernel, step.stride, step.dilation, pads, depth, outputs, maps.shape):
            with at_once():
                filters = conv.winograd_filters(packed, depth, outputs)
            conv.convolve_by_winograd(images, filters, depth, outputs, pads, maps, **ends)
        else:
            conv.convolve_directly(images, step.stride, offsets, depth, packed, outputs, maps, **ends)
        return y

    def _average(self, step: Average, x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        from .kernels.cpu.machine import address
        from .kernels.cpu.pool import average

        layer = step.layer
        pads, out_hw = layer._geometry(x.shape)
        y = self._array((len(x), *out_hw, x.shape[3])) if out is None else out
        bias = 0 if step.bias is None else address(step.bias)
        floor = 0 if step.floor is None else address(step.floor)
        average(x, layer.size, layer.stride, pads, layer.count_include_pad, y, bias, floor)
        return y

    def _fork(self, step: Fork, x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        widths = [shape[-1] for shape in step.out_shapes(x.shape)]
        y = self._array(step.out_shape(x.shape)) if out is None else out
        siblings = [
            i
            for i, branch in enumerate(step.branches)
            if len(branch) > 1 and isinstance(branch[0], Product) and branch[0].mixes_channels_only()
        ]
        begun = self._siblings([step.branches[i][0] for i in siblings], x) if len(siblings) > 1 else []
        started = dict(zip(siblings, begun, strict=False))
        stop = 0
        for i, (branch, width) in enumerate(zip(step.branches, widths, strict=True)):
            start, stop = stop, stop + width
            target = y[..., start:stop]
            if i in started:
                self._steps(branch[1:], started.pop(i), False, target)
            else:
                self._steps(branch, x, False, target)
        return y

    def _siblings(self, products: list[Product], x: np.ndarray) -> list[np.ndarray]:
        """The outputs of several 1x1 convolutions of x, as slices of one."""
        joined = Product(
            np.concatenate([p.weight for p in products], 3),
            np.concatenate([p.bias for p in products]),
            np.concatenate([p.floor for p in products]),
        )
        y = self._product(joined, x, None)
        edges = np.cumsum([0] + [len(p.bias) for p in products])
        return [y[..., a:b] for a, b in pairwise(edges)]

    def _sum(self, step: Sum, x: np.ndarray, owned: bool, out: np.ndarray | None) -> np.ndarray:
        last = step.body[-1] if step.body else None
        if isinstance(last, Product) and last.is_linear():
            last = last.scaled(step.scale, 0.0)
            last = last.clipped() if step.relu else last
            t = self._steps(step.body[:-1], x, False)
            if step.shortcut is not None:
                shape = shape_after(step.body, x.shape)
                y = self._array(shape) if out is None else out
                self._steps(step.shortcut, x, False, y)
            elif owned and out is None and not np.may_share_memory(t, x):
                y = x  # the sum is made where x stands
            else:
                y = self._array(x.shape) if out is None else out
                self._copy(x, y)
            return self._product(last, t, y, adds=True)
        from .kernels.cpu.elementwise import relu, scaled_add

        t = self._steps(step.body, x, False)
        s = x if step.shortcut is None else self._steps(step.shortcut, x, False)
        y = self._array(t.shape) if out is None else out
        scaled_add(s, t, step.scale, y)
        if step.relu:
            relu(y, y)
        return y

    def _copy(self, x: np.ndarray, y: np.ndarray) -> None:
        from .kernels.cpu.elementwise import copy as copy_rows

        copy_rows(x, y)

    def _own(self, x: np.ndarray) -> np.ndarray:
        """A copy of x in the plan's memory."""
        y = self._array(x.shape)
        self._copy(x, y)
        return y

    def _layer(self, layer: Layer, x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """A layer that stays itself: by its kernel, or by its own forward between two pieces of the plan."""
        from .kernels.cpu import batchnorm, depthwise, elementwise, lrn, pool

        if of_kind(layer, Flatten) and out is None and x.flags.c_contiguous:
            return x.reshape(layer.out_shape(x.shape))
        y = self._array(_out_shape(layer, x.shape)) if out is None else out
        if of_kind(layer, MaxPool2D):
            pads, _ = layer._geometry(x.shape)
            pool.max_pool_values(x, layer.size, layer.stride, pads, y)
        elif of_kind(layer, GlobalAvgPool2D):
            pool.global_avg_pool(x, y)
        elif of_kind(layer, ReLU):
            elementwise.relu(x, y)
        elif of_kind(layer, LRN) and layer.beta in POWERS:
            lrn.lrn(x, *layer._constants(), y)
        elif of_kind(layer, BatchNorm):
            gamma = None if layer.gamma is None else layer.gamma.data
            rstd = (layer.var.data + np.float32(layer.eps)) ** np.float32(-0.5)
            batchnorm.batch_norm(x, layer.mean.data, rstd, gamma, layer.beta.data, False, y)
        elif of_kind(layer, DepthwiseConv2D) and layer.multiplier == 1:
            bias = None if layer.bias is None else layer.bias.data
            stride, pads, dilation = layer._geometry(x.shape)
            depthwise.depthwise2d(x, layer.weight.data, bias, stride, pads, dilation, y)
        else:
            x = self._own(x) if _is_placeholder(x) else x
            self._end_piece()
            self.pieces.append((layer, x, y))
        return y


def _is_placeholder(x: np.ndarray) -> bool:
    from .kernels.cpu.record import STAND_INS

    return x.ctypes.data >= STAND_INS


def compile_inference(layer: Layer, input_shape: Shape) -> Any:
    """A callable x -> y that is layer.forward(x, Mode())[0] for x of this shape (N, H, W, C), faster.

    It has a copy of the weights as they are now: what the layer learns later does not change it; make it again. The
    number of threads is also as it is now. Its y is a new array in every call. float32 on the CPU runs as a plan (see
    the top of the file); any other dtype, a GPU, or INCEPTION_NP_PLAIN=1 run a copy of the layer as it is. Raises what
    the layer raises for a shape it cannot take.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"compile_inference: got {type(layer).__name__}, wanted a Layer")
    arrays = [p.data for p in named_params(layer).values()] + [b.data for b in named_buffers(layer).values()]
    layer.out_shape(tuple(input_shape))
    if not compiled(*arrays):
        frozen = copy.deepcopy(layer)
        return lambda x: frozen.forward(x, Mode())[0]
    return Plan(layer, tuple(input_shape))

"""The steps of a rewritten network (rewrite.py) as one program of kernel calls (a trace: backend/program.py)."""

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from ...backend import arena
from ...backend.arrays import Array, Shape
from ...backend.program import Trace, address, eager, empty, is_placeholder, placeholder
from ...kernels.cpu import conv, elementwise, pool
from ...kernels.window import pads_for
from ...layer import Layer, Mode, forward_of, of_kind
from ...layers.pool import Flatten, MaxPool2D
from ..replay import all_kernels
from .rewrite import Average, Fork, Product, Sum, out_shape, shape_after, steps_of


class Plan:
    """x -> y for one input shape. Made by compile_inference; a call is safe from any thread, one at a time."""

    def __init__(self, layer: Layer, shape: Shape):
        self.shape = tuple(shape)
        self.lock = threading.Lock()
        with Trace(arena.private()) as self.trace:
            self.y = self._steps(steps_of(layer), placeholder(self.shape), writable=False)
            if is_placeholder(self.y):  # a network that returns x itself
                self.y = self._copied(self.y)
        self.program = self.trace.program(placeholders=1)

    def __call__(self, x: Array) -> Array:
        """x: float32, of the shape that the plan was made for. Raises ValueError and TypeError."""
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            kind = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"compile_inference: got x of {kind}, wanted a NumPy array of float32")
        if x.shape != self.shape:
            raise ValueError(f"compile_inference: got x of shape {x.shape}, wanted {self.shape}")
        with self.lock:
            self.program.run(np.ascontiguousarray(x))
            return self.y.copy()

    def _steps(self, steps: list[Any], x: np.ndarray, writable: bool, out: np.ndarray | None = None) -> np.ndarray:
        """Write down the calls of some steps. writable: x is not read again. out: where the last one's y goes."""
        for i, step in enumerate(steps):
            target = out if i == len(steps) - 1 else None
            y = self._step(step, x, writable, target)
            writable = writable or not np.may_share_memory(x, y)
            x = y
        if out is not None and x is not out:
            elementwise.copy(x, out)
            x = out
        return x

    def _step(self, step: Any, x: np.ndarray, writable: bool, out: np.ndarray | None) -> np.ndarray:
        if isinstance(step, Product):
            return self._product(step, x, out)
        if isinstance(step, Average):
            return self._average(step, x, out)
        if isinstance(step, Fork):
            return self._fork(step, x, out)
        if isinstance(step, Sum):
            return self._sum(step, x, writable, out)
        return self._layer(step, x, out)

    def _product(self, step: Product, x: np.ndarray, out: np.ndarray | None, adds: bool = False) -> np.ndarray:
        y = empty(step.out_shape(x.shape), np.float32) if out is None else out
        images, maps = (x[:, None, None], y[:, None, None]) if x.ndim == 2 else (x, y)  # linear: images of one pixel
        kernel, outputs = step.weight.shape[:2], step.weight.shape[3]
        pads = pads_for(step.pad, images.shape[1:3], kernel, step.stride, step.dilation)
        if images.shape[3] < conv.FEW_CHANNELS and not images.flags.c_contiguous:
            images = self._copied(images)
        images, offsets, depth = conv.windows(images, kernel, pads, step.dilation)
        form = conv.form_that_pays(
            kernel, step.stride, step.dilation, pads, step.weight.shape[2], outputs, maps.shape, ready=True
        )
        with eager():  # once, and not at each run
            weights = conv.packed_weights(np.ascontiguousarray(step.weight), len(offsets) * depth)
            if form:
                weights = conv.winograd_filters(form[0], weights, depth, outputs, len(offsets))
        ends: dict[str, Any] = {"adds": adds, "bias": address(step.bias), "floor": address(step.floor)}
        if form:
            conv.convolve_by_winograd(form, images, weights, depth, outputs, pads, maps, **ends)
        else:
            conv.convolve_directly(images, step.stride, offsets, depth, weights, outputs, maps, **ends)
        return y

    def _average(self, step: Average, x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        layer = step.layer
        pads, out_hw = layer._geometry(x.shape)
        y = empty((len(x), *out_hw, x.shape[3]), np.float32) if out is None else out
        bias = 0 if step.bias is None else address(step.bias)
        floor = 0 if step.floor is None else address(step.floor)
        pool.average(x, layer.size, layer.stride, pads, layer.count_include_pad, y, bias, floor)
        return y

    def _fork(self, step: Fork, x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        widths = [shape[-1] for shape in step.out_shapes(x.shape)]
        y = empty(step.out_shape(x.shape), np.float32) if out is None else out
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

    def _sum(self, step: Sum, x: np.ndarray, writable: bool, out: np.ndarray | None) -> np.ndarray:
        last = step.body[-1] if step.body else None
        if isinstance(last, Product) and last.is_linear():
            last = last.affine(step.scale, 0.0)
            last = last.clipped() if step.relu else last
            t = self._steps(step.body[:-1], x, False)
            if step.shortcut is not None:
                shape = shape_after(step.body, x.shape)
                y = empty(shape, np.float32) if out is None else out
                self._steps(step.shortcut, x, False, y)
            elif writable and out is None and not np.may_share_memory(t, x):
                y = x  # the sum is made where x stands
            else:
                y = empty(x.shape, np.float32) if out is None else out
                elementwise.copy(x, y)
            return self._product(last, t, y, adds=True)

        t = self._steps(step.body, x, False)
        s = x if step.shortcut is None else self._steps(step.shortcut, x, False)
        y = empty(t.shape, np.float32) if out is None else out
        elementwise.scaled_add(s, t, step.scale, y)
        if step.relu:
            elementwise.relu(y, y)
        return y

    def _copied(self, x: np.ndarray) -> Array:
        """A copy of x in the plan's memory."""
        y = empty(x.shape, np.float32)
        elementwise.copy(x, y)
        return y

    def _layer(self, layer: Layer, x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """A layer that stays itself: by its kernel, or by its own forward between two pieces of the plan."""
        if of_kind(layer, Flatten) and out is None and x.flags.c_contiguous:
            return x.reshape(layer.out_shape(x.shape))
        y = empty(out_shape(layer, x.shape), np.float32) if out is None else out
        if of_kind(layer, MaxPool2D):
            pads, _ = layer._geometry(x.shape)
            pool.max_pool_values(x, layer.size, layer.stride, pads, y)
        elif all_kernels(layer):
            layer.forward(x, Mode(), y)  # type: ignore[call-arg]  # all of them take out
        else:
            x = self._copied(x) if is_placeholder(x) else x
            self.trace.host_call(_in_python(layer, x, y))
        return y


def _in_python(layer: Layer, x: Array, y: Array) -> Callable[[], None]:
    """A function that runs a layer's own forward on x, into y."""

    def callback() -> None:
        now = forward_of(layer, x, Mode())[0]
        if now.shape != y.shape:
            raise ValueError(f"{type(layer).__name__}: gave y of {now.shape}, wanted {y.shape} as before")
        y[...] = now

    return callback

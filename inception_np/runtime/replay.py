"""Replay: a network's forward and backward pass, written down once and then run again without Python.

A training step of Inception v3 is some thousand kernels. What each is given was worked out by layers in Python, and is
the same in every step: the shapes, the checks, the addresses. This work costs a tenth of the step and, for a narrow
network on small images, half of it, since each time the kernels' numbers have displaced it from the cache.

    passes = Replay(net)
    y = passes.forward(x, rng=rng)                      # as net.forward(x, Mode(train=True, keep=True, rng=rng))
    loss, dy = softmax_cross_entropy(y, labels)
    passes.backward(dy)                                 # as net.backward(dy, x, cache, need_dx=False)
    optimiser.step()

The first call on a shape runs the layers and writes down every kernel call (`Capture` in backend/program.py). Later
calls copy x over the first one and run these calls again, with the same bits as the layers. Hence

    weights, gradients and running averages are read and written in place, at each run
    arrays of the step have an arena of their own, which lives as long as the programs: nothing else uses that memory
    batch norm's decay, which a training loop changes, is an array of one, read at each run
    layers that do not run in kernels alone run in Python, at their place: dropout, which draws, and your own

Gradients can be sent away while backward is still running (parallel/): a part of them is final behind the last call
that knows an address in it, which the calls themselves tell.

A change of the network itself is not seen: another layer, stride or rate. Make a new Replay then. (Parameters that were
cast, moved or assigned are seen, and written down anew; so are another shape and number of threads.)
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..backend import arena
from ..backend.arrays import Array, Shape, map_tree
from ..backend.device import compiled
from ..backend.program import Capture, Program, capturing, eager, empty
from ..backend.threads import num_threads
from ..compose import Concat, Residual, Sequential, check_unused
from ..kernels.depthwise import has_kernel
from ..kernels.elementwise import add_to, copy_to
from ..kernels.lrn import POWERS
from ..kernels.pool import fits_a_byte
from ..layer import Layer, Mode, backward_of, forward_of, is_ours, named_buffers, named_params, of_kind
from ..layers.activation import ReLU
from ..layers.batchnorm import BatchNorm
from ..layers.check import check_dy
from ..layers.conv import Conv2D, ConvReLU
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.depthwise import DepthwiseConv2D
from ..layers.linear import Linear
from ..layers.lrn import LRN
from ..layers.pool import AvgPool2D, Flatten, GlobalAvgPool2D, MaxPool2D
from ..layers.whitening import PatchWhitening
from ..models.network import Network


def all_kernels(layer: Layer) -> bool:
    """True where this layer does all its work on numbers in kernels."""
    if of_kind(layer, Conv2D, ConvReLU, PatchWhitening):
        return layer.groups == 1
    if of_kind(layer, ConvBNReLU):
        return all_kernels(layer.conv) and all_kernels(layer.bn)
    if of_kind(layer, DepthwiseConv2D):
        return has_kernel(layer.weight.data)
    if of_kind(layer, LRN):
        return layer.beta in POWERS
    if of_kind(layer, MaxPool2D):
        return fits_a_byte(layer.size)
    return of_kind(layer, AvgPool2D, BatchNorm, Flatten, GlobalAvgPool2D, Linear, ReLU)


class Moment:
    """The mode of the pass that runs now. HostCalls share it with their Replay, which they must not keep alive."""

    def __init__(self, mode: Mode):
        self.mode = mode


def may_write_gradients(layer: Layer) -> bool:
    """False for a layer of ours with nothing below it, such as dropout."""
    return bool(layer.children()) or not is_ours(layer)


class NoGradient:
    """A function of the host that writes to no gradient."""

    def __init__(self, function: Callable[[], None]):
        self.function = function

    def __call__(self) -> None:
        self.function()


class HostCall(Layer):
    """A layer that runs in Python at every replay, on the arrays that it was written down with."""

    takes_out = True

    def __init__(self, layer: Layer, moment: Moment):
        self.layer, self.moment = layer, moment

    @property
    def reads_x(self) -> bool:
        return bool(self.layer.reads_x)

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, list[Any]]:
        y, cache = [out], [None]

        def callback() -> None:
            now, cache[0] = forward_of(self.layer, x, self.moment.mode)
            y[0] = now.copy() if y[0] is None else _copied(now, y[0], self.layer)

        capturing().host_call(callback)
        return y[0], cache

    def backward(self, dy: Array, x: Array, cache: list[Any], into: Array | None = None, need_dx: bool = True) -> Any:
        dx = [into]

        def callback() -> None:
            if not need_dx:
                self.layer.backward(dy, x, cache[0])
                return
            now = backward_of(self.layer, dy, x, cache[0], None if into is None else into.shape)
            if into is None:
                dx[0] = now.copy() if dx[0] is None else _copied(now, dx[0], self.layer)
            else:
                add_to(into, now)

        capturing().host_call(callback if may_write_gradients(self.layer) else NoGradient(callback))
        return dx[0] if need_dx else None

    def out_shape(self, shape: Shape) -> Shape:
        with eager():  # a layer of one's own finds it by trying
            return self.layer.out_shape(shape)


def _copied(now: Array, place: Array, layer: Layer) -> Array:
    """The numbers of this step, where those of the first one stand. Raises ValueError for a shape that has changed."""
    if now.shape != place.shape:
        raise ValueError(
            f"{type(layer).__name__}: gave {now.shape}, wanted {place.shape}, as for the first x like this"
        )
    return copy_to(place, now)


def instrumented(layer: Layer, moment: Moment) -> Any:
    """The same tree on the same parameters, with a HostCall in place of every layer that is not all kernels."""
    if all_kernels(layer):
        return layer
    double: Any = copy.copy(layer)
    if of_kind(layer, Sequential):
        double.layers = {name: instrumented(child, moment) for name, child in double.layers.items()}
    elif of_kind(layer, Concat):
        double.branches = {name: instrumented(child, moment) for name, child in double.branches.items()}
    elif of_kind(layer, Residual):
        double.body = instrumented(double.body, moment)
        double.shortcut = None if double.shortcut is None else instrumented(double.shortcut, moment)
    elif of_kind(layer, Network):
        double.trunk = instrumented(double.trunk, moment)
        double.heads = {stage: instrumented(head, moment) for stage, head in double.heads.items()}
    else:
        return HostCall(layer, moment)
    return double


class Replay:
    """The training passes of one network. For float32 on the CPU; elsewhere they are the network's own.

    low_memory: as in Mode. parts: contiguous arrays in the gradients; backward calls final(k) in order, for k = 0 and
    up, once parts[: k + 1] are what they will be after it (where it cannot tell, after all else). Not for two threads
    at once. Raises what the network raises, TypeError for what is no layer, ValueError for a backward without a forward
    before it, and for a dy that is not like y.
    """

    def __init__(
        self,
        net: Layer,
        *,
        low_memory: bool = False,
        parts: Sequence[Array] = (),
        final: Callable[[int], None] = lambda number: None,
    ):
        if not isinstance(net, Layer):
            raise TypeError(f"Replay: got {type(net).__name__}, wanted a Layer")
        self.net: Any = net
        self.moment = Moment(Mode(train=True, keep=True, low_memory=low_memory))
        self.parts, self.final = parts, final
        self.slots: list[Any] = [*named_params(net).values(), *named_buffers(net).values()]
        self.written_for: tuple[Any, ...]  # what x was like,
        self.arrays: list[Array]  # and where the parameters and averages were
        self.capture: Capture  # what is being written down
        self.programs: list[Program]  # forward's and backward's
        self.instrumented: Any
        self.x: Any
        self.y: Any
        self.cache: Any
        self.dy: Any
        self.waiting: bool  # for a backward
        self._clear()

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> Any:
        """y as the network's forward in training gives it: logits, or (logits, {head: logits}). rng: for dropout."""
        self.moment.mode, self.waiting = replace(self.moment.mode, rng=rng), False
        if not self._is_written_for(x):
            self._clear()
            self._write_forward(x)
            self.arrays, self.written_for = [slot.data for slot in self.slots], _key(x)
        elif self.programs and self.capture.complete:
            self.x[...] = x
            self.programs[0].run()
        else:
            self.programs = []  # the network's own passes run
        if self.programs:
            y = map_tree(np.copy, self.y)
        else:
            y, self.cache = self.net.forward(x, self.moment.mode)
            self.x = x
        self.waiting = True
        return y

    def backward(self, dy: Any) -> None:
        """Add to the gradients and move the running averages. dy: d loss / d y, in y's structure."""
        check_unused([1] if self.waiting else [], "Replay")
        if not self.programs:
            options = {"need_dx": False} if self.net.takes_out or of_kind(self.net, Network) else {}
            self.net.backward(dy, self.x, self.cache, **options)
            self.x = self.cache = None
            self._all_final()
        else:
            dy = _checked(dy, self.y)
            if len(self.programs) == 1:
                self._write_backward(dy)
                self._all_final()
            else:
                map_tree(copy_to, self.dy, dy)
                self.programs[1].run()
        self.waiting = False

    def _clear(self) -> None:
        self.written_for, self.arrays, self.programs, self.waiting = (), [], [], False
        self.instrumented = self.x = self.y = self.cache = self.dy = None

    def _is_written_for(self, x: Array) -> bool:
        same = all(slot.data is a for slot, a in zip(self.slots, self.arrays, strict=False))
        return same and self.written_for == _key(x)

    def _write_forward(self, x: Array) -> None:
        """Run the layers on a copy of x, and write down what they do, if that is work for kernels."""
        self.instrumented = instrumented(self.net, self.moment)
        if isinstance(self.instrumented, HostCall) or not compiled(x, *[slot.data for slot in self.slots]):
            return
        source = arena.private()
        if source is None:
            return
        with Capture(source) as self.capture:
            self.x = empty(x.shape, x.dtype, x)
            self.x[...] = x
            self.y, self.cache = self.instrumented.forward(self.x, self.moment.mode)
        self.programs = [self.capture.program()]

    def _write_backward(self, dy: Any) -> None:
        """As for forward. Where NumPy had a part in it, the network's own passes run from now on."""
        forward, self.dy = self.capture, map_tree(np.copy, dy)
        with Capture(forward.source) as self.capture:
            self.instrumented.backward(self.dy, self.x, self.cache, need_dx=False)
        complete = forward.complete and self.capture.complete
        ends = _ends(self.capture.calls, self.parts)
        for number in reversed(range(len(ends))):
            self.capture.calls.insert(ends[number], partial(self.final, number))
        self.programs = [*self.programs, self.capture.program()] if complete else []

    def _all_final(self) -> None:
        for number in range(len(self.parts)):
            self.final(number)


def _ends(calls: Sequence[Any], parts: Sequence[Array]) -> list[int]:
    """For each part, before which of these calls it and the parts before it are final.

    A kernel reads and writes at the addresses in its words. A function of the host may write to any gradient, unless it
    is known for none.
    """
    may_write = [callable(call) and not isinstance(call, NoGradient) for call in calls]
    ends, end = [], max((i + 1 for i, may in enumerate(may_write) if may), default=0)
    for part in parts:
        first = part.__array_interface__["data"][0]
        inside = (i for i in range(len(calls), end, -1) if _names(calls[i - 1], first, first + part.nbytes))
        ends.append(end := next(inside, end))
    return ends


def _names(words: Any, first: int, end: int) -> bool:
    """Whether a call is one of a kernel, and told an address from `first` to before `end`."""
    return not callable(words) and bool(((words >= first) & (words < end)).any())


def _key(x: Array) -> tuple[Any, ...]:
    """What the programs are written for: the shape and dtype of x, and the number of threads."""
    return getattr(x, "shape", None), getattr(x, "dtype", None), num_threads()


def _checked(dy: Any, y: Any) -> Any:
    """dy in y's structure, logits or (logits, {head: logits}), shapes and dtypes. Raises TypeError and ValueError."""
    heads = isinstance(y, tuple) or isinstance(dy, tuple)
    if heads and not all(isinstance(s, tuple) and set(s[1]) == set(dy[1]) for s in (dy, y)):
        raise TypeError("Replay: got dy of another structure than y, wanted (dlogits, {head: dlogits}) as y is")
    return map_tree(_like, dy, y)


def _like(dy: Array, y: Array) -> Array:
    if not isinstance(dy, np.ndarray):
        raise TypeError(f"Replay: got dy of {type(dy).__name__}, wanted a NumPy array of {y.dtype}")
    return check_dy("Replay", dy, y.shape, y.dtype)

"""Kinks: where ReLU and the maximum have no derivative, and how far a point is from the nearest of them.

A layer with a kink makes decisions: one bit per ReLU unit, one winner per pooling window. Along a step that changes no
decision the layer is smooth; along one that does, a difference quotient mixes two slopes and says nothing.

A layer of your own with a kink can tell its decisions too, with a method

    def kinks(self, x, cache): return decisions, margins     # two arrays, one entry per decision

where a margin is how far the input may move before the decision changes.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compose import Concat, Residual, Sequential
from ..kernels.batchnorm import batch_norm
from ..kernels.conv import conv2d
from ..layer import Layer, Mode, of_kind, watch
from ..layers.activation import ReLU
from ..layers.conv import ConvReLU
from ..layers.conv_bn_relu import ConvBNReLU
from ..layers.pool import MaxPool2D
from ..models.network import Network
from .subject import Array, Point, Subject


def kinks(layer: Layer, x: Array, y: Array, cache: Any) -> tuple[Array, Array] | None:
    """(decisions, margins) of a leaf, or None for a smooth one. cache: a copy that no backward has emptied."""
    if hasattr(layer, "kinks"):
        told: tuple[Array, Array] = layer.kinks(x, cache)
        return told
    if of_kind(layer, ReLU):  # a subclass with passes of its own has other decisions, or none
        before = x
    elif of_kind(layer, ConvReLU):
        bias = None if layer.bias is None else layer.bias.data
        before = conv2d(x, layer.weight.data, bias, *layer._geometry(x.shape))
    elif of_kind(layer, ConvBNReLU):
        z, (mean, _, rstd, _) = cache[0]
        gamma, beta, _, _ = layer.bn.learned()
        before = batch_norm(z, mean, rstd, gamma, beta)
    elif of_kind(layer, MaxPool2D):
        return _winners_and_gaps(layer, x, y, cache[0])
    else:
        return None
    return before.real > 0, np.abs(before.real)


def _winners_and_gaps(layer: MaxPool2D, x: Array, y: Array, winners: Array) -> tuple[Array, Array]:
    """The gap of a window: its largest entry less its second largest."""
    geometry = (layer.stride, layer._geometry(x.shape)[0], winners.shape[1:3])
    second = np.full(y.shape, -np.inf)
    for tap in range(layer.size[0] * layer.size[1]):
        seen = _tap(x.real, *divmod(tap, layer.size[1]), *geometry)
        second = np.where(winners == tap, second, np.maximum(second, seen))
    return winners, y.real - second


def _tap(x: Array, i: int, j: int, stride: Any, pads: Any, out_hw: Any) -> Array:
    """What tap (i, j) of every window sees, -inf beyond the image."""
    rows = np.arange(out_hw[0]) * stride[0] - pads[0][0] + i
    columns = np.arange(out_hw[1]) * stride[1] - pads[1][0] + j
    inside = ((rows >= 0) & (rows < x.shape[1]))[:, None] & (columns >= 0) & (columns < x.shape[2])
    seen = x[:, rows.clip(0, x.shape[1] - 1)][:, :, columns.clip(0, x.shape[2] - 1)]
    return np.where(inside[..., None], seen, -np.inf)


@dataclass
class Call:
    """One call of a unit inside a forward pass. mode holds the generator as it was before the call."""

    path: str
    layer: Layer
    x: Array
    y: Any
    cache: Any
    mode: Any


@contextmanager
def unit_calls(subject: Subject, caches: bool = False) -> Iterator[list[Call]]:
    """Within the `with`, the list fills with the calls of a subject's units, in order. caches: with their caches.

    A unit is a layer that is not put together of others: all but the combinators, networks, and any layer that calls
    two others or more, or one that does.
    """
    calls: list[Call] = []
    open_calls = [calls]  # for every layer that is being run: its units so far,
    counts = [0]  # and how many layers it has called

    def forward(path: str, layer: Layer, call: Callable[[], Any], x: Array, mode: Any) -> Any:
        before = copy.deepcopy(mode)
        open_calls.append([])
        counts.append(0)
        y, cache = call()
        inner, count = open_calls.pop(), counts.pop()
        counts[-1] += 1
        if isinstance(layer, (Sequential, Concat, Residual, Network)) or count > 1 or len(inner) > 1:
            open_calls[-1].extend(inner)
        else:
            kept = copy.deepcopy(cache) if caches else None
            open_calls[-1].append(Call(path, layer, x, y, kept, before))
        return y, cache

    with watch(subject.layer, forward=forward):
        yield calls


@dataclass
class Decided:
    """What a unit decided in a call, and the margins: see `kinks`."""

    call: Call
    pattern: Array
    margins: Array


def decided(subject: Subject, point: Point) -> tuple[list[Call], list[Decided]]:
    """The calls of all units at a point, and what those with kinks decided."""
    with unit_calls(subject, caches=True) as calls:
        subject._run(point, keep=True)
    units = []
    for call in calls:
        pair = kinks(call.layer, call.x, call.y, call.cache)
        if pair is None:
            continue
        pattern, gap = np.asarray(pair[0]), np.array(pair[1], float)
        if of_kind(call.layer, MaxPool2D) and call.x is not point["x"]:
            gap[(gap == 0) & (call.y == 0)] = np.inf  # a window of zeros that a ReLU holds there
        units.append(Decided(call, pattern, gap))
    return calls, units


def decisions(subject: Subject, point: Point) -> tuple[Array, float, int, list[tuple[str, Array]]]:
    """All decisions at a point as one array, the smallest margin, their number, and the margins of every unit."""
    units = decided(subject, point)[1]
    if not units:
        return np.zeros(0, np.int64), float("inf"), 0, []
    together = np.concatenate([u.pattern.ravel().astype(np.int64) for u in units])
    return together, nearest(units), together.size, [(u.call.path or subject.name, u.margins) for u in units]


def nearest(units: list[Decided]) -> float:
    """The smallest margin of all units, infinite where there is none."""
    return min((float(u.margins.min()) for u in units if u.margins.size), default=float("inf"))


ENOUGH = 20  # decisions, or windows for each tap of a maximum: of fewer, all may be alike by chance


def never_taken(units: list[Decided], elsewhere: dict[str, list[Array]]) -> list[str]:
    """The sides of decisions that no unit took, in words: a wrong gradient there goes unseen.

    A unit with two sides has taken one in all of 20 places or more; a tap of max pooling wins in none of its windows,
    of which there are 20 or more for each tap. elsewhere: by path, decisions that a unit made at other x too.
    """
    found = []
    for unit in units:
        layer, pattern = unit.call.layer, unit.pattern
        name = f"{unit.call.path}: " if unit.call.path else ""
        if of_kind(layer, MaxPool2D):
            idle = _idle_taps(layer, unit)
            if idle:
                taps = ", ".join(str(divmod(tap, layer.size[1])) for tap in idle[:4])
                found.append(f"{name}no window's maximum is at {taps}{', ...' * (len(idle) > 4)} of the window")
            continue
        if pattern.size < ENOUGH:
            continue
        first = pattern.flat[0]
        if all((np.asarray(p) == first).all() for p in (pattern, *elsewhere.get(unit.call.path, []))):
            if of_kind(layer, ReLU, ConvReLU, ConvBNReLU):
                found.append(f"{name}the ReLU is {'on' if first else 'off'} in all of its {pattern.size} places")
            else:
                found.append(f"{name}each of its {pattern.size} decisions is {first}")
    return found


def _idle_taps(layer: MaxPool2D, unit: Decided) -> list[int]:
    """The taps of max pooling that win nowhere, though there are windows enough in which they could.

    A window that has several largest entries counts for none of them.
    """
    shape, taps = unit.call.x.shape, layer.size[0] * layer.size[1]
    decided = (unit.margins > 0) & np.isfinite(unit.margins)
    geometry = (layer.stride, layer._geometry(shape)[0], unit.pattern.shape[1:3])
    idle = []
    for tap in range(taps):
        inside = np.isfinite(_tap(np.zeros((1, *shape[1:3], 1)), *divmod(tap, layer.size[1]), *geometry))
        windows = decided & inside
        if windows.sum() >= ENOUGH * taps and not (windows & (unit.pattern == tap)).any():
            idle.append(tap)
    return idle


def margin(layer: Layer, x: Array, *, mode: Mode | None = None, seed: int = 0) -> float:
    """How far the nearest kink is: the smallest |input| of any ReLU and the smallest lead of any window's winner.

    Infinite for a smooth layer, 0 on a kink. x: what forward takes. Raises what check_gradients raises.
    """
    subject = Subject(layer, x, mode or Mode(train=True, keep=True), seed)
    return decisions(subject, subject.point)[1]


def nearest_kink(margins: list[tuple[str, Array]], which: Array) -> str:
    """The decision with the smallest margin among those at the places `which`, in words."""
    flat = np.concatenate([m.ravel() for _, m in margins])
    place = int(which[flat[which].argmin()])
    for path, m in margins:
        if place < m.size:
            at = tuple(int(i) for i in np.unravel_index(place, m.shape))
            return f"{path} at {at}, margin {m[at]:.1e}"
        place -= m.size
    raise IndexError(place)

"""Sequential, Concat and Residual: the three ways in which the papers put layers together.

Each is the chain rule for one shape of graph:

    Sequential   y = f_n(... f_2(f_1(x)))       dx = f_1'(... f_n'(dy))       a chain, pulled back last first
    Concat       y = [f_1(x), ..., f_n(x)]      dx = sum_i f_i'(dy_i)         fan-out forward, sum backward
    Residual     y = s(x) + scale * f(x)        dx = s'(dy) + f'(scale * dy)

The combinators decide what is kept. An x that the layer before can make again from its cache (`recompute_output`) is
not kept, except on a GPU; a layer that does not read x in backward does not get one; and backward pops as it goes, so
each layer's arrays die as it returns.
"""

from typing import Any

import numpy as np

from .backend.arrays import Array, Shape, array_module
from .backend.program import empty
from .kernels.elementwise import add_to, copy_to, scaled, scaled_add
from .layer import Layer, Mode, backward_of, checked_pair, prefix_path
from .layers.check import check_dy, check_floating, check_number


def call_forward(name: str, layer: Layer, x: Array, mode: Mode, out: Array | None = None) -> tuple[Any, Any]:
    """Call a child's forward: its name goes into errors, and its y into `out` where one is given.

    Here layers meet, so here the sixth law is kept: a y of another dtype than x is rounded to x's.
    """
    try:
        if out is not None and layer.takes_out:
            return layer.forward(x, mode, out=out)  # type: ignore[call-arg]
        result = layer.forward(x, mode)
        if not isinstance(result, tuple) or len(result) != 2 or getattr(result[0], "dtype", None) != x.dtype:
            result = checked_pair(layer, result, x)
        y, cache = result
        if out is None:
            return y, cache
        if y.shape != out.shape:
            raise ValueError(f"{type(layer).__name__}: forward gave y of shape {y.shape}, wanted {out.shape}")
        return copy_to(out, y), cache
    except (ValueError, TypeError) as error:
        raise prefix_path(error, name)  # noqa: B904  (the same error, its text extended)


def call_backward(
    name: str,
    layer: Layer,
    dy: Any,
    x: Array,
    cache: Any,
    into: Array | None = None,
    need_dx: bool = True,
    shape: Shape | None = None,
) -> Any:
    """Call a child's backward: its name goes into errors, and its dx `into` an array where one is given, in x's dtype.

    need_dx: False where nobody wants dx: None comes back. shape: x's, for whoever adds to dx without having x.
    """
    try:
        if layer.takes_out and (into is not None or not need_dx):
            return layer.backward(dy, x, cache, into=into, need_dx=need_dx)  # type: ignore[call-arg]
        if not need_dx:
            layer.backward(dy, x, cache)
            return None
        return add_to(into, backward_of(layer, dy, x, cache, shape if into is None else into.shape))
    except (ValueError, TypeError) as error:
        raise prefix_path(error, name)  # noqa: B904


def returns_fresh(layer: Layer) -> bool:
    """True where backward returns a new array or dy itself. Ours do; a user's layer may keep what it returns."""
    inner = (child for child in layer.children().values() if isinstance(child, Layer))
    return layer.takes_out and all(returns_fresh(child) for child in inner)


def as_writable(layer: Layer, dx: Array, dy: Array) -> Array:
    """dx as an array that the caller may add to: itself where it is new, else a copy."""
    xp: Any = np if isinstance(dx, np.ndarray) else array_module(dx)
    return dx if returns_fresh(layer) and not xp.may_share_memory(dx, dy) else scaled(dx, 1.0)


def can_recompute(before: Layer, x: Array, mode: Mode) -> bool:
    """True where the layer before can make x again, so that x is not kept. (A GPU keeps it, except with low_memory.)"""
    return before.recompute_output is not None and (isinstance(x, np.ndarray) or mode.low_memory)


def check_layers(who: str, layers: dict[str, Any], taken: dict[str, Layer] | None = None) -> None:
    """Layers under names that can be part of a dotted path, none of them taken. Raises TypeError and ValueError."""
    for name, layer in layers.items():
        if not isinstance(layer, Layer):
            raise TypeError(f"{who}: got {type(layer).__name__} for {name!r}, wanted a Layer")
        if not name or "." in name or name in (taken or {}):
            raise ValueError(f"{who}: got the name {name!r}, wanted one without dots that no other layer has")


def check_unused(kept: list[Any], who: str) -> None:
    """Refuse a composite's cache that an earlier backward has used up, or that was never filled."""
    if not kept:
        raise ValueError(
            f"{who}: got an empty cache, wanted one that forward made with Mode(keep=True) and no backward has used"
        )


class Sequential(Layer):
    """One layer after the other. Keywords become the names of the layers: Sequential(conv=..., bn=...)."""

    takes_out = True

    def __init__(self, *layers: Layer, **named: Layer):
        numbered: dict[str, Layer] = {str(i): layer for i, layer in enumerate(layers)}
        check_layers(type(self).__name__, numbered)
        check_layers(type(self).__name__, named, taken=numbered)
        self.layers = numbered | named

    def children(self) -> dict[str, Any]:
        return self.layers

    @property
    def reads_x(self) -> bool:
        return any(layer.reads_x for layer in list(self.layers.values())[:1])

    @property
    def recompute_output(self) -> Any:
        last = list(self.layers.values())[-1].recompute_output if self.layers else None
        return last and (lambda kept, out=None: last(kept[-1][0], out))

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, list[Any]]:
        if not self.layers:
            return copy_to(out, x), []
        kept: list[Any] = []
        before, last = None, list(self.layers)[-1]
        for name, layer in self.layers.items():
            y, cache = call_forward(name, layer, x, mode, out if name == last else None)
            if mode.keep:
                need_x = before is not None and layer.reads_x and not can_recompute(before, x, mode)
                if before is not None and before.cheap_to_recompute and mode.low_memory:
                    need_x = False
                kept.append((cache, x if need_x else None))
            x, before = y, layer  # inference holds one layer's arrays at a time
        return x, kept

    def backward(self, dy: Array, x: Array, kept: list[Any], into: Array | None = None, need_dx: bool = True) -> Any:
        if not self.layers:
            return add_to(into, dy) if need_dx else None
        check_unused(kept, type(self).__name__)
        layers = list(self.layers.items())
        while kept:
            entry = cache, xk = kept.pop()  # popped: this layer's arrays die as it returns
            k = len(kept)
            name, layer = layers[k]
            if k == 0:
                xk = x
            elif layer.reads_x and xk is None:
                xk = self._x(k, x, kept)
            try:
                dy = call_backward(name, layer, dy, xk, cache, None if k else into, need_dx or k > 0)
            except (ValueError, TypeError):
                kept.append(entry)  # a call that fails changes nothing
                raise
        return dy

    def _x(self, k: int, x: Array, kept: list[Any]) -> Array:
        """The x of layer k where it was not kept: the layer before gives it back, or makes it again from its own x."""
        before, (cache, x_before) = list(self.layers.values())[k - 1], kept[k - 1]
        if before.recompute_output is not None:
            return before.recompute_output(cache)
        if k == 1:
            x_before = x
        elif x_before is None:
            x_before = self._x(k - 1, x, kept)
        return before.forward(x_before, Mode())[0]

    def out_shape(self, shape: Shape) -> Shape:
        for name, layer in self.layers.items():
            try:
                shape = layer.out_shape(shape)
            except (ValueError, TypeError) as error:
                raise prefix_path(error, name)  # noqa: B904
        return shape

    def macs(self, shape: Shape) -> int:
        total = 0
        for layer in self.layers.values():
            total += layer.macs(shape)
            shape = layer.out_shape(shape)
        return total


class Concat(Layer):
    """Branches side by side on one input, their outputs joined along the channels, in the order given.

    x: (N, H, W, C). Branch i gives (N, H', W', C_i); y: (N, H', W', sum C_i). Raises ValueError where the branches
    disagree on H' or W'. The joined array is made once, and each branch writes its own slice.
    """

    takes_out = True

    def __init__(self, **branches: Layer):
        if not branches:
            raise ValueError("Concat: got no branches, wanted at least one")
        check_layers("Concat", branches)
        self.branches = branches

    def children(self) -> dict[str, Any]:
        return self.branches

    @property
    def reads_x(self) -> bool:
        return any(branch.reads_x for branch in self.branches.values())

    @property
    def recompute_output(self) -> Any:
        return self._recompute_output if all(b.recompute_output is not None for b in self.branches.values()) else None

    def _recompute_output(self, kept: list[Any], out: Array | None = None) -> Array:
        caches, joined, like, _ = kept[0]
        y = empty(joined, like.dtype, like) if out is None else out
        stop = 0
        for branch, (cache, width) in zip(self.branches.values(), caches, strict=True):
            start, stop = stop, stop + width
            branch.recompute_output(cache, y[..., start:stop])
        return y

    def _out_shapes(self, shape: Shape) -> dict[str, Shape]:
        shapes = {}
        for name, branch in self.branches.items():
            try:
                shapes[name] = branch.out_shape(shape)
            except (ValueError, TypeError) as error:
                raise prefix_path(error, name)  # noqa: B904
        planes = [shape[:-1] for shape in shapes.values()]
        if planes.count(planes[0]) != len(planes):
            raise ValueError(f"Concat: got branches of shapes {shapes}, wanted equal N, H and W")
        return shapes

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, list[Any]]:
        check_floating("Concat", x)
        shapes = self._out_shapes(x.shape)
        widths = [shape[-1] for shape in shapes.values()]
        y = empty((*next(iter(shapes.values()))[:-1], sum(widths)), x.dtype, x) if out is None else out
        caches, stop = [], 0
        for name, branch in self.branches.items():
            start, stop = stop, stop + shapes[name][-1]
            _, cache = call_forward(name, branch, x, mode, y[..., start:stop])
            if mode.keep:
                caches.append((cache, stop - start))
        return y, [(caches, y.shape, empty((0,), x.dtype, x), x.shape)] if mode.keep else []

    def backward(self, dy: Array, x: Array, kept: list[Any], into: Array | None = None, need_dx: bool = True) -> Any:
        check_unused(kept, "Concat")
        dy = check_dy("Concat", dy, kept[0][1], kept[0][2].dtype)
        caches, *_, x_shape = kept.pop()
        names, stop = list(self.branches), dy.shape[-1]
        dx = into
        while caches:
            cache, width = caches.pop()
            name, start = names[len(caches)], stop - width
            part = call_backward(name, self.branches[name], dy[..., start:stop], x, cache, dx, need_dx, x_shape)
            if dx is None and need_dx:  # the first branch made dx; the others add to it
                dx = as_writable(self.branches[name], part, dy)
            stop = start
        return dx

    def out_shape(self, shape: Shape) -> Shape:
        shapes = list(self._out_shapes(shape).values())
        return (*shapes[0][:-1], sum(s[-1] for s in shapes))

    def macs(self, shape: Shape) -> int:
        return sum(branch.macs(shape) for branch in self.branches.values())


class Residual(Layer):
    """y = shortcut(x) + scale * body(x). He et al. 2016, equation 1; the scale: Szegedy et al. 2016, section 3.3.

    shortcut=None is the identity. x, y: (N, H, W, C). Raises ValueError where the two shapes differ.
    """

    takes_out = True

    def __init__(self, body: Layer, shortcut: Layer | None = None, scale: float = 1.0):
        for layer in (body, shortcut):
            if layer is not None and not isinstance(layer, Layer):
                raise TypeError(f"Residual: got {type(layer).__name__}, wanted a Layer")
        self.body, self.shortcut, self.scale = body, shortcut, check_number("Residual", "scale", scale)

    @property
    def reads_x(self) -> bool:
        return bool(self.body.reads_x or (self.shortcut is not None and self.shortcut.reads_x))

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, list[Any]]:
        f, body_cache = call_forward("body", self.body, x, mode)
        s, cut_cache = (x, None) if self.shortcut is None else call_forward("shortcut", self.shortcut, x, mode)
        if s.shape != f.shape:
            raise ValueError(f"Residual: got {f.shape} from the body, wanted the shortcut's {s.shape}")
        return scaled_add(s, f, self.scale, out=out), [
            (body_cache, cut_cache, x.shape, f.shape, f.dtype)
        ] if mode.keep else []

    def backward(self, dy: Array, x: Array, kept: list[Any], into: Array | None = None, need_dx: bool = True) -> Any:
        check_unused(kept, "Residual")
        dy = check_dy("Residual", dy, *kept[0][3:])
        body_cache, cut_cache, x_shape, *_ = kept.pop()
        df = dy if self.scale == 1 else scaled(dy, self.scale)
        dx = into
        if self.shortcut is not None:
            dx = call_backward("shortcut", self.shortcut, dy, x, cut_cache, into, need_dx, x_shape)
            if into is None and need_dx:
                dx = as_writable(self.shortcut, dx, dy)
        elif need_dx:
            dx = scaled(dy, 1.0) if into is None else add_to(into, dy)
        return call_backward("body", self.body, df, x, body_cache, dx, need_dx)

    def out_shape(self, shape: Shape) -> Shape:
        after = self.body.out_shape(shape)
        cut = shape if self.shortcut is None else self.shortcut.out_shape(shape)
        if after != cut:
            raise ValueError(f"Residual: got {after} from the body, wanted the shortcut's {cut}")
        return after

    def macs(self, shape: Shape) -> int:
        return self.body.macs(shape) + (self.shortcut.macs(shape) if self.shortcut is not None else 0)

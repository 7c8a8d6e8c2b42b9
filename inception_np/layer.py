"""Layer, Param, Buffer, Mode, and the functions over a tree of layers.

A layer is a pair of functions and the arrays they share:

    y, cache = layer.forward(x, mode)
    dx = layer.backward(dy, x, cache)       # the derivative at x; adds into every Param.grad

Nothing is stored on the layer between the two. The caller had x and hands it back; the cache holds what backward
needs beyond x. So a layer may be used twice in one network, two batches may be in flight, and a forward pass may be
repeated: the caches are values, and each backward reads its own.

The laws that every layer keeps:

1. forward changes nothing: not x, not a Param, not a running average. Randomness comes from mode.rng.
2. backward is the only place where a layer changes: param.grad += ..., and running averages move.
3. Write only to arrays you made: y may be x, and dx may be dy, so never add into what a layer returned.
4. A leaf's cache is a small tuple, an array or None; a composite's is a list, used once.
5. The cache never holds x, nor an expansion of x.
6. dtype and device follow x. (Where layers meet, compose.py rounds a y or dx that does not.)
"""

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard, TypeVar

import numpy as np

from .backend import describe, html
from .backend.arrays import Array, Shape, is_real
from .backend.device import asarray, check_tensor_cores, resolve_device, zeros


@dataclass(frozen=True)
class Mode:
    """How a forward pass runs.

    train: batch statistics and dropout. keep: keep what backward needs (a saliency map wants keep without train).
    rng: where dropout draws its masks from. low_memory: arrays that are cheap to make again are not kept, and backward
    makes them again, to the same bits.
    """

    train: bool = False
    keep: bool = False
    rng: np.random.Generator | None = None
    low_memory: bool = False


class Param:
    """An array that is learned, and the gradient that backward adds to."""

    def __init__(self, data: Array):
        self.data = data
        self.grad = np.zeros(data.shape, data.dtype)

    def __repr__(self) -> str:
        return describe.held_text(self)


class Buffer:
    """An array that belongs to a layer's state and is not learned, such as a running average."""

    def __init__(self, data: Array):
        self.data = data

    def __repr__(self) -> str:
        return describe.held_text(self)


class Layer:
    """The base of all layers; a layer of your own needs `forward` and `backward` and nothing else.

    reads_x                True where backward reads x (ReLU, pooling and dropout do not, so x is not kept for them)
    recompute_output       None, or recompute_output(cache, out=None) -> y where a cache is enough to make y again
    cheap_to_recompute     True where y costs next to nothing to make again from x (mode.low_memory does not keep it)
    takes_out              True for a layer whose forward takes `out=`, an array to write y into, and whose backward
                           takes `into=`, an array to add dx to, and `need_dx=`, False where dx is not needed

    These four are promises about one forward and one backward. A subclass that defines either anew makes its own
    promises: those that it does not name are as here, not as in the class that it derives from.
    """

    reads_x: Any = True
    recompute_output: Any = None
    cheap_to_recompute = False
    takes_out = False
    _vectors: tuple[Array, Array]  # of its parameters and their gradients, once `flatten` made them

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "forward" in vars(cls) or "backward" in vars(cls):
            for promise in ("reads_x", "recompute_output", "cheap_to_recompute", "takes_out"):
                if promise not in vars(cls):
                    setattr(cls, promise, vars(Layer)[promise])

    def forward(self, x: Array, mode: Mode) -> tuple[Any, Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no forward(x, mode)")

    def backward(self, dy: Any, x: Array, cache: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no backward(dy, x, cache)")

    def children(self) -> dict[str, Any]:
        """Its Params, Buffers and Layers by name, in order of definition."""
        return {k: v for k, v in vars(self).items() if isinstance(v, (Param, Buffer, Layer))}

    def out_shape(self, shape: Shape) -> Shape:
        """The shape of y for an x of this shape. Found here by trying; our layers know it without computing."""
        like = next((p.data for p in named_params(self).values()), np.empty(0, np.float32))
        return tuple(forward_of(self, zeros(shape, like.dtype, like), Mode())[0].shape)

    def macs(self, shape: Shape) -> int:
        """Multiply-adds of convolutions and linear layers for one image of an x of this shape."""
        return 0

    def __repr__(self) -> str:
        """The constructor's call, or a tree of the layers within; print() shows a tree of any length."""
        return describe.layer_text(self, describe.LINES)

    def __str__(self) -> str:
        return describe.layer_text(self, None)

    def _repr_html_(self) -> str:
        return html.layer_html(self)


def forward_of(layer: Layer, x: Array, mode: Mode) -> tuple[Any, Any]:
    """(y, cache) of a layer that may be a user's, y in x's dtype. Raises TypeError for anything but such a pair."""
    return checked_pair(layer, layer.forward(x, mode), x)


def checked_pair(layer: Layer, result: Any, x: Array) -> tuple[Any, Any]:
    """What a layer's forward gave for x, as `forward_of` wants it."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"{type(layer).__name__}: forward gave {type(result).__name__}, wanted the pair (y, cache)")
    y, cache = result
    if hasattr(y, "dtype"):
        return follow(y, getattr(x, "dtype", y.dtype)), cache
    if not isinstance(y, tuple):
        raise TypeError(f"{type(layer).__name__}: forward gave y of {type(y).__name__}, wanted an array")
    return y, cache  # a network's (logits, {head: logits})


def backward_of(layer: Layer, dy: Any, x: Any, cache: Any, shape: Shape | None = None) -> Array:
    """dx of a layer that may be a user's, in x's dtype. Raises TypeError for no array, ValueError for another shape."""
    dx = layer.backward(dy, x, cache)
    if not hasattr(dx, "dtype"):
        what = f"{type(layer).__name__}: backward gave {type(dx).__name__}"
        raise TypeError(f"{what}, wanted dx, an array; end it with `return dx`")
    shape = getattr(x, "shape", None) if shape is None else shape
    if shape is not None and dx.shape != shape:
        raise ValueError(f"{type(layer).__name__}: backward gave dx of shape {dx.shape}, wanted x's {shape}")
    return dx if x is None else follow(dx, getattr(x, "dtype", dx.dtype))


def follow(a: Array, dtype: Any) -> Array:
    """a rounded to the dtype that it has to follow (the sixth law); complex numbers are left alone."""
    return a.astype(dtype) if a.dtype != dtype and is_real(a.dtype) and is_real(dtype) else a


L = TypeVar("L", bound="Layer")


def of_kind(layer: Any, *kinds: type[L]) -> TypeGuard[L]:
    """True for a layer with the passes of one of these classes.

    Code that computes what a layer computes without calling it asks this, never `isinstance`: a subclass may define
    forward or backward anew, and so may a single object (layer.forward = ...).
    """
    if not isinstance(layer, Layer):
        return False
    cls = type(layer)
    return kind_of_class(cls) in kinds and not any(hasattr(cls, name) for name in vars(layer))


def kind_of_class(cls: type) -> type:
    """The class that has these passes: this one, or a base of which it changes the constructor only."""
    base = cls.__mro__[1]
    changed = [name for name in vars(cls) if not name.startswith("__") and hasattr(base, name)]
    return cls if base in (object, Layer) or len(cls.__bases__) > 1 or changed else kind_of_class(base)


def is_ours(layer: Layer) -> bool:
    """True for a layer with the passes of a class of this package, False for one with the user's own."""
    kind = kind_of_class(type(layer))
    return of_kind(layer, kind) and kind.__module__.startswith("inception_np.")


def prefix_path(error: Exception, name: str) -> Exception:
    """Put a child's name before an error's text, so that it arrives as "3a.b3.conv: Conv2D: got ..."."""
    path = getattr(error, "path", "")
    text = str(error).removeprefix(f"{path}: ") if path else str(error)
    error.path = f"{name}.{path}" if path else name  # type: ignore[attr-defined]
    error.args = (f"{error.path}: {text}",)  # type: ignore[attr-defined]
    return error


def walk(layer: Layer, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every Param, Buffer and Layer below `layer` with its dotted path, parents before children."""
    for name, child in layer.children().items():
        yield path + name, child
        if isinstance(child, Layer):
            yield from walk(child, f"{path}{name}.")


@contextmanager
def watch(
    net: Layer,
    *,
    forward: Callable[..., tuple[Any, Any]] | None = None,
    backward: Callable[..., Any] | None = None,
    out_shape: Callable[..., Shape] | None = None,
    only: Container[str] | None = None,
) -> Iterator[None]:
    """Within the `with`, each call of these methods, of the network and of every layer below it, goes to a function.

        def forward(path, layer, call, x, mode):     # backward(path, layer, call, dy, x, cache)
            y, cache = call()                        # the layer's own forward, on all that it was given
            print(path, y.shape)
            return y, cache                          # to the caller of the layer

        with watch(net, forward=forward):
            net.forward(x, Mode())

    path: the layer's dotted path, "" for the network itself. So a function sees arguments, results and time; it may
    raise, return something else, or call(other) with another x (or dy, or shape) in the place of the one that came.
    only: the paths that are watched (default: all).

    A layer that occurs twice is watched once, under its first path. A layer that its parent computes without calling
    it, as ConvBNReLU does its batch norm, is not seen. A watched layer is not `of_kind` its class, so that fused code
    calls it. When the `with` ends, the layers are as they were.
    """
    functions = {"forward": forward, "backward": backward, "out_shape": out_shape}
    before: dict[int, tuple[Layer, dict[str, Any]]] = {}  # each layer, and what it had of these names by itself
    try:
        for path, layer in [("", net), *walk(net)]:
            if not isinstance(layer, Layer) or id(layer) in before or (only is not None and path not in only):
                continue
            before[id(layer)] = layer, {name: vars(layer)[name] for name in functions if name in vars(layer)}
            for name, function in functions.items():
                if function is not None:
                    setattr(layer, name, _watched(name, partial(function, path, layer), getattr(layer, name)))
        yield
    finally:
        for layer, own in before.values():
            for name in functions:
                vars(layer).pop(name, None)
            vars(layer).update(own)


def _watched(name: str, function: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    """What replaces a layer's method of this name, with the same arguments."""

    def forward(x: Array, mode: Mode, *out: Any, **options: Any) -> Any:
        return function(lambda other=x: own(other, mode, *out, **options), x, mode)

    def backward(dy: Any, x: Array, cache: Any, *into: Any, **options: Any) -> Any:
        return function(lambda other=dy: own(other, x, cache, *into, **options), dy, x, cache)

    def out_shape(shape: Shape) -> Any:
        return function(lambda other=shape: own(other), shape)

    methods: dict[str, Callable[..., Any]] = {"forward": forward, "backward": backward, "out_shape": out_shape}
    return methods[name]


def _named(layer: Layer, kind: type) -> dict[str, Any]:
    seen: set[int] = set()
    found = {}
    for path, child in walk(layer):
        if isinstance(child, kind) and id(child) not in seen:
            seen.add(id(child))
            found[path] = child
    return found


def named_params(layer: Layer) -> dict[str, Param]:
    """Every Param by its dotted path, each object once, so that a shared layer counts once."""
    return _named(layer, Param)


def named_buffers(layer: Layer) -> dict[str, Buffer]:
    """Every Buffer by its dotted path, each object once."""
    return _named(layer, Buffer)


def check_children(layer: Layer) -> None:
    """Raise ValueError for a Param, Buffer or Layer that no children() names: nothing would train, save or move it.

    Such are those that a layer keeps in a list or a dict, at any depth.
    """
    named = {id(child) for _, child in walk(layer)}

    def held(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple, set)):
            for item in value:
                yield from held(item)
        elif isinstance(value, (Param, Buffer, Layer)):
            yield value

    for path, part in [(type(layer).__name__, layer), *walk(layer)]:
        for name, value in vars(part).items() if isinstance(part, Layer) else ():
            for item in held(value):
                if id(item) in named:
                    continue
                # (a layer whose children are named is a way to hold them, as a network's trunk is)
                if isinstance(item, Layer) and all(id(child) in named for _, child in walk(item)):
                    continue
                raise ValueError(
                    f"{path}: self.{name} holds a {type(item).__name__} that children() does not name, so that it is "
                    "never trained; let children() return it"
                )


ALIGN = 64  # bytes: one AVX-512 register, one cache line


def flatten(layer: L) -> L:
    """Make every p.data and p.grad a view of one of two vectors, in place, and return the layer.

    Zeroing, an optimiser's step, a norm or an all-reduce is then one array operation. Every parameter begins at a
    multiple of 64 bytes; the gaps between are zeros and stay zeros. `vectors(layer)` gives the two vectors.
    """
    params = list(named_params(layer).values())
    if not params:
        raise ValueError(f"flatten: {type(layer).__name__} has no parameters")
    kinds = {(type(p.data), p.data.dtype) for p in params}
    if len(kinds) > 1:
        raise TypeError(f"flatten: got parameters of several kinds {kinds}, wanted one; cast or move the layer first")
    *_, last = places = list(places_in_vectors(layer).values())
    data, grad = (_aligned_zeros(last.stop, params[0].data) for _ in range(2))
    for p, place in zip(params, places, strict=True):
        for vector, name in ((data, "data"), (grad, "grad")):
            view = vector[place][: p.data.size].reshape(p.data.shape)
            view[...] = getattr(p, name)
            setattr(p, name, view)
    layer._vectors = (data, grad)
    return layer


def places_in_vectors(layer: Layer) -> dict[str, slice]:
    """The slice of the vectors that each parameter has, by its path: it begins there, and a gap may follow it."""
    places, start = {}, 0
    for path, p in named_params(layer).items():
        step = max(1, ALIGN // p.data.dtype.itemsize)
        places[path] = slice(start, start := start + -(-p.data.size // step) * step)
    return places


def vectors(layer: Layer) -> tuple[Array, Array]:
    """The parameter vector and the gradient vector of a layer, flattening it first where needed."""
    if not is_flat(layer):
        flatten(layer)
    return layer._vectors


def is_flat(layer: Layer) -> bool:
    """True where all parameters are views of the layer's two vectors. (Assigning a new array to p.data undoes it.)"""
    if not hasattr(layer, "_vectors"):
        return False
    data, grad = layer._vectors
    base = data if data.base is None else data.base
    gbase = grad if grad.base is None else grad.base
    return all(p.data.base is base and p.grad.base is gbase for p in named_params(layer).values())


def _aligned_zeros(size: int, like: Array) -> Array:
    if not isinstance(like, np.ndarray):
        return zeros((size,), like.dtype, like)
    raw = np.zeros(size * like.itemsize + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + size * like.itemsize].view(like.dtype)


def _replace(layer: L, convert: Any) -> L:
    was_flat = is_flat(layer)
    for p in named_params(layer).values():
        p.data, p.grad = convert(p.data), convert(p.grad)
    for b in named_buffers(layer).values():
        b.data = convert(b.data)
    return flatten(layer) if was_flat else layer


def cast(layer: L, dtype: Any) -> L:
    """Give every parameter, gradient and buffer another dtype, in place, and return the layer.

    float32 to train, float64 to check gradients, complex128 for complex-step checks. Raises TypeError otherwise.
    """
    try:
        known = np.dtype(dtype) in (np.float32, np.float64, np.complex128)
    except TypeError:  # not a dtype at all
        known = False
    if not known:
        raise TypeError(f"cast: got {dtype!r}, wanted float32, float64 or complex128")
    dtype = np.dtype(dtype)

    def convert(a: Array) -> Array:
        if a.dtype.kind == "c" and dtype.kind != "c":
            a = a.real
        return a.astype(dtype)

    return _replace(layer, convert)


def move(layer: L, device: str) -> L:
    """Bring every parameter, gradient and buffer to "cpu" or "cuda", in place, and return the layer."""
    where = resolve_device(device)
    if where == "cuda":
        check_tensor_cores()
    return _replace(layer, lambda a: asarray(a, where))


def zero_grad(layer: Layer) -> None:
    """Set every gradient to zero."""
    for p in named_params(layer).values():
        p.grad[...] = 0

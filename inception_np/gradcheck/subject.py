"""What is checked: a private float64 copy of a layer, seen as a function of x and of every parameter.

    y = f(t)        t = {"x": x, "conv.weight": ..., ...}        one dict of arrays is one point

The caller's layer, its gradients, its running averages and its random generator are never touched. Dropout draws the
same mask in every run, because every run starts from a copy of one generator. NumPy turns the result of arithmetic with
arrays of shape () into scalars; here every y, gradient and entry of a point is an array, whatever its shape.
"""

import copy
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from ..backend.arrays import leaves, map_tree
from ..layer import Layer, Mode, cast, check_children, named_buffers, named_params

Array = np.ndarray
Point = dict[str, Array]

ULP = 2.0**-53  # the largest relative error of one rounding in float64
STEP = 1e-30  # of the complex step: any size from 1e-8 to 1e-200 gives the same figure


class Subject:
    """A layer at a point. `point` is the float64 point, `dy` the cotangent, both private copies.

    repeat: run forward again and compare y. Raises TypeError and ValueError, with advice, for all that makes a check
    impossible: the tests named test_wrong_use in tests/test_gradcheck.py list it.
    """

    def __init__(self, layer: Layer, x: Any, mode: Mode, seed: int = 0, dy: Any = None, repeat: bool = True):
        check_input(layer, x, mode)
        self.name = getattr(layer, "name", "") or type(layer).__name__  # a network has its own
        self.layer = private_copy(layer)
        self.params = named_params(self.layer)
        self.buffers = {name: (b, b.data) for name, b in named_buffers(self.layer).items()}
        self.mode = mode
        self.rng = copy.deepcopy(mode.rng) if mode.rng else np.random.default_rng(seed)
        self.replay = True  # until a run shows that the generator stays untouched
        self.point: Point = {"x": np.array(x, np.float64, order="C")}
        self.point |= {name: np.array(p.data, order="C") for name, p in self.params.items()}
        self._evaluate(seed, dy, repeat)

    def _evaluate(self, seed: int, dy: Any = None, repeat: bool = True) -> None:
        """Set y, dy and the gradient at the point, in the subject's mode."""
        self._check_forward(repeat)
        draw = np.random.default_rng((seed, 1))
        if dy is None:
            dy = map_tree(lambda a: draw.standard_normal(a.shape), self.y)
        self.dy = self._check_cotangent(dy)
        self.gradient = self._check_backward()

    def forward(self, point: Point) -> Any:
        """y at a point. All its arrays have one dtype, float64 or complex128, which the layer follows."""
        return self._run(point, keep=False)[0]

    def gradients(self, point: Point, dy: Any = None) -> Point:
        """What the layer's own backward gives: the gradient of <dy, y> with respect to every array of the point.

        dy: a cotangent, or a function of y that gives one.
        """
        y, cache = self._run(point, keep=True)
        dy = self.dy if dy is None else dy(y) if callable(dy) else dy
        dtype = point["x"].dtype
        for p in self.params.values():
            p.grad = np.zeros(p.data.shape, dtype)
        dy = map_tree(lambda a: np.asarray(a).astype(dtype, copy=False), dy)
        dx = self.layer.backward(dy, point["x"], cache)
        return {"x": as_array(dx)} | {name: as_array(p.grad) for name, p in self.params.items()}

    def in_mode(self, mode: Mode, seed: int) -> "Subject":
        """The same layer at the same point in another mode, with y, dy and gradient of its own."""
        other = copy.copy(self)
        other.mode, other.replay = mode, True
        other._evaluate(seed)
        return other

    def at(self, x: Array, seed: int) -> "Subject":
        """The same layer at another x, with y, dy and gradient of its own."""
        other = copy.copy(self)
        other.rng, other.replay = copy.deepcopy(self.rng), True
        other.point = self.point | {"x": x}
        other._evaluate(seed, repeat=False)
        return other

    def same_in(self, mode: Mode) -> bool:
        """Whether another mode gives the same y and the same gradients, to the bit."""
        other = copy.copy(self)
        other.mode, other.replay = mode, True
        point, dy = {k: a.copy() for k, a in self.point.items()}, map_tree(np.copy, self.dy)
        try:
            y = other.forward(point)
            if map_tree(np.shape, y) != map_tree(np.shape, self.y) or not same(y, self.y):
                return False
            gradient = other.gradients(point, dy)
        except Exception:  # in_mode raises it again
            return False
        return same(gradient, self.gradient) and same(point, self.point) and same(dy, self.dy)

    def slope(self, direction: Point) -> float:
        """The derivative of <dy, y> along a direction, by complex step: Im f(t + ih v) / h. May raise ValueError."""
        return self.project(complex_forward(self, self.complex_point(direction))) / STEP

    def project(self, y: Any) -> float:
        """<dy, Im y>."""
        return dot(self.dy, map_tree(np.imag, y))

    def moved(self, direction: Point, h: float) -> Point:
        """The point t + h v."""
        return {k: np.asarray(a + h * direction[k]) if k in direction else a for k, a in self.point.items()}

    def complex_point(self, direction: Point, h: float = STEP) -> Point:
        """The point t + ih v."""
        return {
            k: np.asarray(a + 1j * h * direction[k]) if k in direction else a.astype(np.complex128)
            for k, a in self.point.items()
        }

    def _run(self, point: Point, keep: bool) -> Any:
        dtype = point["x"].dtype
        for name, p in self.params.items():
            p.data = point[name]
        for buffer, data in self.buffers.values():
            buffer.data = data.astype(dtype)
        rng = copy.deepcopy(self.rng) if self.replay else self.rng
        result = self.layer.forward(point["x"], replace(self.mode, keep=keep, rng=rng))
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"{self.name}: forward gave {type(result).__name__}, wanted the pair (y, cache)")
        y, cache = result
        return map_tree(as_array, y), cache

    def _check_forward(self, repeat: bool) -> None:
        before = {k: a.copy() for k, a in self.point.items()}
        state = copy.deepcopy(self.rng.bit_generator.state)
        self.replay = False
        y, _ = self._run(self.point, keep=True)
        self.y = map_tree(copy.deepcopy, y)
        used = not _same_state(self.rng.bit_generator.state, state)
        self.rng.bit_generator.state = state
        self.replay = used
        self._unchanged(before, "forward")
        for name, (buffer, data) in self.buffers.items():
            if not np.array_equal(buffer.data, data, equal_nan=True):
                raise ValueError(f"{self.name}: forward changed the Buffer {name}; move running averages in backward")
        for a in leaves(self.y):
            if not isinstance(a, np.ndarray) or a.dtype.kind != "f":
                got = getattr(a, "dtype", type(a).__name__)
                raise TypeError(f"{self.name}: forward gave y of {got}, wanted a floating-point array")
            if not np.isfinite(a).all():
                raise ValueError(f"{self.name}: forward gave y with NaN or infinity; check at another x")
        for what in ("the same call again", "keep=False") if repeat else ():
            again = self._run(self.point, keep=what != "keep=False")[0]
            if not same(self.y, again):
                raise ValueError(
                    f"{self.name}: forward gave another y for {what}; draw random numbers from mode.rng"
                    " and keep no state on the layer"
                )

    def _check_cotangent(self, dy: Any) -> Any:
        wanted = map_tree(np.shape, self.y)
        got = map_tree(np.shape, dy)
        if got != wanted:
            raise ValueError(f"{self.name}: got dy of shape {got}, wanted y's {wanted}")
        return map_tree(lambda a: np.array(a, np.float64), dy)

    def _check_backward(self) -> Point:
        before = {k: a.copy() for k, a in self.point.items()}
        dy = map_tree(np.copy, self.dy)
        gradient = self.gradients(self.point)
        self._unchanged(before, "backward")
        if not same(dy, self.dy):
            raise ValueError(f"{self.name}: backward changed dy; write to an array of its own")
        for k, g in gradient.items():
            wanted = self.point[k].shape
            if not isinstance(g, np.ndarray):
                raise TypeError(
                    f"{self.name}: backward gave {type(g).__name__} for {_grad_name(k)},"
                    f" wanted an array of shape {wanted}; end it with `return dx`"
                )
            if g.shape != wanted:
                raise ValueError(f"{self.name}: got {_grad_name(k)} of shape {g.shape}, wanted {wanted}")
            if g.dtype.kind != "f":
                raise TypeError(f"{self.name}: got {_grad_name(k)} of {g.dtype}, wanted float64")
            if not np.isfinite(g).all():
                first = np.argwhere(~np.isfinite(g))[0].tolist()
                raise ValueError(f"{self.name}: backward gave NaN or infinity for {_grad_name(k)}, first at {first}")
        return {k: np.array(g, np.float64) for k, g in gradient.items()}

    def _unchanged(self, before: Point, who: str) -> None:
        for k, a in before.items():
            if not np.array_equal(a, self.point[k]):
                raise ValueError(
                    f"{self.name}: {who} changed {k}; write to a copy, x and the Params belong to the caller"
                )
            if k != "x" and self.params[k].data is not self.point[k]:
                raise ValueError(f"{self.name}: {who} put a new array into the Param {k}; leave p.data alone")


def check_input(layer: Any, x: Any, mode: Any) -> None:
    """Raise TypeError or ValueError, with advice, for arguments that cannot be checked."""
    if not isinstance(layer, Layer):
        raise TypeError(
            f"check_gradients: got {type(layer).__name__}, wanted a Layer; write `class {_class_name(layer)}(Layer):`"
        )
    if not isinstance(mode, Mode):
        raise TypeError(f"check_gradients: got mode={mode!r}, wanted a Mode, such as Mode(train=True)")
    if not isinstance(x, np.ndarray):
        raise TypeError(
            f"check_gradients: got x of {type(x).__name__}, wanted a NumPy array; bring it to the CPU with move()"
        )
    if x.dtype.kind != "f":
        raise TypeError(f"check_gradients: got x of {x.dtype}, wanted floating point; pass x.astype(np.float64)")
    if x.size == 0:
        raise ValueError(f"check_gradients: got x of shape {x.shape}, wanted at least one element")
    if not np.isfinite(x).all():
        raise ValueError("check_gradients: got x with NaN or infinity, wanted finite numbers")
    check_children(layer)


def private_copy(layer: Layer) -> Layer:
    """A float64 copy that shares nothing with the layer."""
    copied = copy.deepcopy(layer)
    vars(copied).pop("_vectors", None)  # the parameters of the copy are no views of them
    return cast(copied, np.float64)


def as_array(a: Any) -> Any:
    """A NumPy scalar as an array of shape (); all else as it is."""
    return np.asarray(a) if isinstance(a, np.generic) else a


def dot(a: Any, b: Any) -> float:
    """<a, b> over all arrays of two equal nestings."""
    return float(sum((p * q).sum() for p, q in zip(leaves(a), leaves(b), strict=True)))


def same(a: Any, b: Any) -> bool:
    """Bitwise equality of all arrays of two nestings."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(np.array_equal(p, q, equal_nan=True) for p, q in pairs)


def _same_state(a: Any, b: Any) -> bool:
    return repr(a) == repr(b)


def _grad_name(k: str) -> str:
    return "dx" if k == "x" else f"the gradient of {k}"


def _class_name(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def complex_forward(subject: Subject, point: Point) -> Any:
    """y at a complex point. Raises ValueError, saying how to make forward complex-safe, for one that is not."""
    why = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            y = subject.forward(point)
        if all(a.dtype.kind == "c" for a in leaves(y)):
            return y
        why = "its y is real"
    except (TypeError, np.exceptions.ComplexWarning) as error:
        why = str(error)
    raise ValueError(not_complex_safe(subject.name, why))


def not_complex_safe(name: str, why: str) -> str:
    """The text of the error for a forward that is not complex-safe."""
    return (
        f"{name}: forward is not complex-safe ({why}); follow x's dtype, compare x.real, write (x - m) * (x - m) for"
        ' np.var and x * sign for np.abs, or use method="richardson"'
    )

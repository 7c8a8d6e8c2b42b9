"""Lines of Python that repeat a failure: exact, or none.

A layer is its class and its attributes. The lines make an object of the class without calling its constructor and give
it those attributes, each written out, so it does not matter what the constructor's arguments were, which of them it
kept, under what names, or what else it did. The same objects are built beside the lines, from the same values; the
lines are returned only where the layer so built has the same y and the same gradients, to the bit.
"""

import keyword
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from ..layer import Buffer, Layer, Mode, Param
from .report import Check
from .subject import Subject, same

MANY = 1500  # numbers: more are not written out
SEEDS = 10  # that x is tried to have been drawn from
PACKAGE = __name__.partition(".")[0]
OURS = ("np", "x", "rng", "layer", "print", "vars", "float")  # names that the lines use


class UnwrittenError(Exception):
    """Its text says why no lines are written."""


def snippet(
    layer: Layer, x: np.ndarray, mode: Mode | None, method: str, seed: int, worst: Check, subjects: list[Subject]
) -> tuple[str, str]:
    """(lines, ""), or ("", why there are none).

    mode: what check_gradients was given, None where it was given none. subjects: the layer and x in every mode that
    was checked.
    """
    lines = Lines()
    try:
        check, _ = lines.public("check_gradients")
        _, rebuilt = lines.layer(layer, "layer")
        text, x_rebuilt = lines.x(x, seed)
        arguments = [*lines.mode(mode, any(s.replay for s in subjects)), f"method={method!r}", f"seed={seed!r}"]
    except UnwrittenError as why:
        return "", str(why)
    if not _repeats(rebuilt, x_rebuilt, subjects, seed):
        return "", "a layer made of the same attributes gives other numbers"
    call = f"print({check}(layer, x, {', '.join(arguments)}))"
    found = f"# {worst.where}: backward {worst.analytic!r}, numeric {worst.numeric!r}"
    return "\n".join([*lines.imports(), *lines.statements, f"x = {text}", call, found]), ""


class Lines:
    """The statements so far. Its methods give an expression and the object that it makes."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.modules: dict[str, str] = {}  # what is imported, and from where
        self.begun: dict[int, str] = {}  # the variable of every layer
        self.rebuilt: dict[int, Layer] = {}  # what those variables hold, once they hold it
        self.homes: dict[int, tuple[str, int, Any]] = {}  # where a Param or Buffer is already, in which layer
        self.numbers = 0

    def imports(self) -> list[str]:
        """The import lines, the package's names in one."""
        modules: dict[str, list[str]] = {}
        for name, module in sorted(self.modules.items(), key=lambda item: (item[1] != PACKAGE, item[1], item[0])):
            modules.setdefault(module, []).append(name)
        return ["import numpy as np"] + [
            f"from {module} import {', '.join(names)}" for module, names in modules.items()
        ]

    def public(self, name: str) -> tuple[str, Any]:
        """Something of the package's."""
        return self.imported(getattr(sys.modules[PACKAGE], name))

    def imported(self, what: Any) -> tuple[str, Any]:
        """A class or a function, by its name."""
        module, name = what.__module__, what.__qualname__
        if getattr(sys.modules[PACKAGE], name, None) is what:
            module = PACKAGE
        if "<" in name:
            raise UnwrittenError(f"{what.__name__} is defined inside a function, and cannot be imported")
        if module == "__main__":
            raise UnwrittenError(f"{name} is defined in the program itself, and cannot be imported")
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not what or not _importable(module):
            raise UnwrittenError(f"{name} cannot be imported from {module}")
        first = name.partition(".")[0]
        if first in OURS or first.startswith("part") or self.modules.setdefault(first, module) != module:
            raise UnwrittenError(f"{first} is the name of two things")
        return name, what

    def layer(self, layer: Layer, path: str) -> tuple[str, Layer]:
        """The variable of a layer, after the statements that make it. A layer that is held twice is made once."""
        if id(layer) in self.begun:
            if id(layer) not in self.rebuilt:
                raise UnwrittenError(f"{path} is a layer that holds itself")
            return self.begun[id(layer)], self.rebuilt[id(layer)]
        cls = type(layer)
        text, _ = self.imported(cls)
        _check_methods(cls)
        name = self.begun[id(layer)] = f"part{len(self.begun)}" if self.begun else "layer"
        rebuilt = object.__new__(cls)
        attributes = []
        for key, value in vars(layer).items():
            if key == "_vectors":  # what flatten() made: views of the parameters
                continue
            if not key.isidentifier() or keyword.iskeyword(key):
                raise UnwrittenError(f"{path} has an attribute {key!r}")
            shown, made = self.value(value, f"{path}.{key}")
            attributes.append(f"{key}={shown}")
            vars(rebuilt)[key] = made
            if isinstance(value, (Param, Buffer)) and not self.homes[id(value)][0]:
                self.homes[id(value)] = (f"{name}.{key}", id(layer), made)
        self.statements.append(f"{name} = object.__new__({text})")
        if attributes:
            self.statements.append(f"vars({name}).update({', '.join(attributes)})")
        self.rebuilt[id(layer)] = rebuilt
        return name, rebuilt

    def value(self, value: Any, path: str) -> tuple[str, Any]:
        """What an attribute holds. Raises UnwrittenError for what has no literal."""
        if isinstance(value, Layer):
            return self.layer(value, path)
        kind = type(value)
        if kind in (Param, Buffer):
            return self._held(value, path)
        if kind is np.ndarray:
            return self.array(value, path)
        if kind in (tuple, list):
            items = [self.value(v, f"{path}[{i}]") for i, v in enumerate(value)]
            shown = ", ".join(text for text, _ in items)
            made = kind(v for _, v in items)
            return (f"[{shown}]" if kind is list else f"({shown}{',' * (len(items) == 1)})"), made
        if kind is dict:
            pairs = [(self.value(k, path), self.value(v, f"{path}[{k!r}]")) for k, v in value.items()]
            return f"{{{', '.join(f'{k}: {v}' for (k, _), (v, _) in pairs)}}}", {k: v for (_, k), (_, v) in pairs}
        if kind is float and not np.isfinite(value):
            return f"float({str(value)!r})", value
        if value is None or kind in (bool, int, float, str, bytes):
            return repr(value), value
        if isinstance(value, np.generic) and kind.__name__ in ("float64", "float32", "int64", "int32", "bool"):
            text, made = self.value(value.item(), path)
            return f"np.{kind.__name__}({text})", kind(made)
        if isinstance(value, (type, FunctionType)):
            return self.imported(value)
        raise UnwrittenError(f"{path} is a {kind.__name__}, which is not written out")

    def _held(self, value: Any, path: str) -> tuple[str, Any]:
        if id(value) in self.homes:
            home, layer, made = self.homes[id(value)]
            if not home or layer not in self.rebuilt:
                raise UnwrittenError(f"{path} is held twice")
            return home, made
        if not set(vars(value)) <= {"data", "grad"}:
            raise UnwrittenError(f"{path} has attributes of its own")
        cls, _ = self.imported(type(value))
        text, a = self.array(np.asarray(value.data), path)
        self.homes[id(value)] = ("", 0, type(value)(a))
        return f"{cls}({text})", self.homes[id(value)][2]

    def array(self, a: np.ndarray, path: str) -> tuple[str, np.ndarray]:
        self.numbers += a.size
        if self.numbers > MANY:
            raise UnwrittenError(f"the layer and x are more than {MANY} numbers")
        plain = a.dtype.isnative and (a.dtype.kind in "biu" or a.dtype.name in ("float16", "float32", "float64"))
        if not plain or not a.flags.c_contiguous or not np.isfinite(a).all():
            raise UnwrittenError(f"{path} is an array of {a.dtype} that is not written out")
        if a.size == 0:
            return f"np.zeros({a.shape}, np.{a.dtype.name})", np.zeros(a.shape, a.dtype)
        listed = a.astype(str).astype(float) if a.dtype.kind == "f" else a  # as short as its dtype allows
        listed = listed if np.array_equal(listed.astype(a.dtype), a) else a
        return f"np.array({listed.tolist()}, np.{a.dtype.name})", np.array(listed.tolist(), a.dtype)

    def x(self, x: np.ndarray, seed: int) -> tuple[str, np.ndarray]:
        """x as it was drawn, if `default_rng(...).standard_normal` draws it, or its numbers."""
        first = np.array(x[(0,) * (x.ndim - 1)] if x.ndim else x).reshape(-1)
        for s in (seed, *range(SEEDS)) if x.dtype.isnative else ():
            if np.array_equal(np.random.default_rng(s).standard_normal(first.shape).astype(x.dtype), first):
                drawn = np.random.default_rng(s).standard_normal(x.shape).astype(x.dtype)
                if np.array_equal(drawn, x):
                    cast = "" if x.dtype == np.float64 else f".astype(np.{x.dtype.name})"
                    return f"np.random.default_rng({s!r}).standard_normal({x.shape}){cast}", drawn
        return self.array(np.array(x, order="C"), "x")

    def mode(self, mode: Mode | None, drawn_from: bool) -> list[str]:
        """The argument mode=..., none where none was given. drawn_from: whether forward draws from its generator."""
        if mode is None:
            return []
        if type(mode) is not Mode:
            raise UnwrittenError(f"the mode is a {type(mode).__name__}")
        fields = [f"train={bool(mode.train)}", "keep=True"] + ["low_memory=True"] * bool(mode.low_memory)
        if mode.rng is not None and drawn_from:
            bits = type(mode.rng.bit_generator)
            if type(mode.rng) is not np.random.Generator or getattr(np.random, bits.__name__, None) is not bits:
                raise UnwrittenError("the mode's generator is not one of NumPy's")
            state, _ = self.value(mode.rng.bit_generator.state, "mode.rng")
            self.statements.append(f"rng = np.random.Generator(np.random.{bits.__name__}())")
            self.statements.append(f"rng.bit_generator.state = {state}")
            fields.append("rng=rng")
        cls, _ = self.imported(Mode)
        return [f"mode={cls}({', '.join(fields)})"]


def _importable(module: str) -> bool:
    """Whether an import of this module in another process with the same path reads the same file."""
    top = module.partition(".")[0]
    if top == PACKAGE:
        return True
    file = getattr(sys.modules.get(top), "__file__", None)
    for entry in sys.path:
        for place in (Path(entry, top, "__init__.py"), Path(entry, f"{top}.py")):
            if file and place.is_file():
                return place.samefile(file)
    return False


def _check_methods(cls: type) -> None:
    """Raise UnwrittenError for a class with methods put into it later: an import would not bring them."""
    new: Any = cls.__new__
    if new is not object.__new__:
        raise UnwrittenError(f"{cls.__name__} has a __new__ of its own")
    for base in cls.__mro__:
        for name, f in vars(base).items():
            if isinstance(f, FunctionType):
                wanted = (base.__module__, f"{base.__qualname__}.{f.__name__}")
                if (f.__module__, f.__qualname__) != wanted:
                    raise UnwrittenError(f"{base.__name__}.{name} is a function from elsewhere")


def _repeats(layer: Layer, x: np.ndarray, subjects: list[Subject], seed: int) -> bool:
    """Whether a layer gives the same y and the same gradients as the subjects, to the bit."""
    try:
        for s in subjects:
            found = Subject(layer, x, s.mode, seed, repeat=False)
            if not (same(found.y, s.y) and list(found.gradient) == list(s.gradient)):
                return False
            if not same(found.gradient, s.gradient):
                return False
    except Exception:  # of any kind: the layer may lack some of its state
        return False
    return True

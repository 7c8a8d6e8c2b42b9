"""What an object is, as a reader at a prompt wants it: a layer as its constructor's call or as a tree, an array as its
shape.

    Conv2D(3, 4, (1, 7), stride=2)             a layer, with what is not the default, as it would be typed

    Sequential               1,052 parameters  a layer made of layers; the names are those of the parameters' paths
      conv  Conv2D(3, 4, 3)  weight 3x3x3x4, bias 4
      fc    Linear(4, 188)   weight 4x188, bias 188

Nothing here computes, and nothing raises: a layer may be somebody else's, or half made, when an error shows it. What is
not kept in an attribute of the argument's name, a class of ours tells by these names:

    _arguments()    more of the constructor's arguments, by name
    _also           the names of attributes that are no arguments, and are shown where they hold something
    _parts          the names of the layers within that those arguments tell, so that the layer needs one line only

This file is below layer.py, so a layer is whatever has `children`, and an array's holder whatever has `data`.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LINES = 60  # a longer tree is cut where a prompt shows it; print() shows all of it
DEEPEST = 100  # levels of a tree; of a deeper one only its class is told
RUN = 3  # so many equal layers in a row become one line
ITEMS, LETTERS = 8, 60  # of a list, and of a text, are shown
DRAWN = ("init", "rng")  # arguments that are gone once the weights are drawn
MISSING = inspect.Parameter.empty
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def shape_text(a: Any) -> str:
    """ "3x3x64x128" of an array, "scalar" of one without axes."""
    return "x".join(map(str, a.shape)) or "scalar"


def is_layer(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "children") and hasattr(value, "forward")


def is_held(value: Any) -> bool:
    """True for a Param or a Buffer."""
    return not hasattr(value, "shape") and hasattr(getattr(value, "data", None), "shape")


def value_text(value: Any) -> str:
    """An argument as it would be typed, shortened; of an array its shape and dtype, of a stranger the class."""
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in PLAIN:
        text = repr(value)
        return text if len(text) <= LETTERS else f"{text[: LETTERS - 3]}..."
    if type(value) in (tuple, list):
        items = [value_text(v) for v in value[:ITEMS]] + ["..."] * (len(value) > ITEMS)
        inside = ", ".join(items) + "," * (type(value) is tuple and len(value) == 1)
        return f"({inside})" if type(value) is tuple else f"[{inside}]"
    if is_layer(value):
        return call(value)
    array = value.data if is_held(value) else value
    if hasattr(array, "shape") and hasattr(array, "dtype"):
        return f"<{shape_text(array)} {array.dtype}>"
    if isinstance(value, type) or inspect.isroutine(value):
        return str(getattr(value, "__name__", "<function>"))
    return f"<{type(value).__name__}>"


def call(layer: Any, arrays: bool = False) -> str:
    """The constructor's call that makes such a layer, as far as the object tells.

    Where it does not tell all of the arguments, the layer's plain attributes follow, and with `arrays` its arrays.
    """
    held, more = dict(vars(layer)), _more_arguments(layer)
    also = [name for name in getattr(layer, "_also", ()) if held.get(name)]
    held.update(more)
    shown: list[str] = []
    complete, positional = True, True
    parameters = _parameters(type(layer))
    for i, (name, p) in enumerate(parameters.items()):
        value = held.get(name, MISSING)
        if type(p.default) is bool and (value is None or is_held(value)):
            value = value is not None  # bias=True makes a Param of that name
        complete = complete and (value is not MISSING or bool(more) or name in DRAWN)
        hidden = value is MISSING or (is_held(value) and not arrays) or (is_layer(value) and name not in more)
        hidden = hidden or isinstance(value, dict)
        if not hidden and not _equal(value, p.default):
            bare = positional and p.kind is not p.KEYWORD_ONLY and (i == 0 or p.default is MISSING)
            shown.append(value_text(value) if bare else f"{name}={value_text(value)}")
            positional = positional and bare
        else:
            positional = False
    for name, value in held.items():
        told = name in parameters or name in more or name.startswith("_")
        plain = type(value) in PLAIN or isinstance(value, (tuple, np.generic)) or (arrays and is_held(value))
        if not told and plain and (name in also or not complete or not parameters):
            shown.append(f"{name}={value_text(value)}")
    return f"{type(layer).__name__}({', '.join(shown)})"


def _more_arguments(layer: Any) -> dict[str, Any]:
    """What a class of ours tells beside its attributes; nothing of a layer that was changed, or is half made."""
    try:
        return dict(layer._arguments())
    except Exception:
        return {}


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(cls).parameters
    except (ValueError, TypeError):
        return {}
    return {k: p for k, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _equal(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and type(value) in (*PLAIN, tuple) and value == default)


# -- the tree -----------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """A layer in a tree.

    name: what its parent calls it. text: its call. arrays: (path below it, shape) of those that no other line shows.
    again: the path of an earlier place where the same object is. learned: the size of every Param below, by identity.
    """

    name: str
    text: str
    arrays: list[tuple[str, str]] = field(default_factory=list)
    parts: list["Part"] = field(default_factory=list)
    again: str = ""
    learned: dict[int, int] = field(default_factory=dict)

    @property
    def params(self) -> int:
        return sum(self.learned.values())

    def same(self, other: "Part") -> bool:
        """Whether the two differ in nothing but the name, so that a tree may show one of them."""
        mine, its = (self.text, self.arrays, self.again), (other.text, other.arrays, other.again)
        return (
            mine == its
            and len(self.parts) == len(other.parts)
            and all(a.name == b.name and a.same(b) for a, b in zip(self.parts, other.parts, strict=True))
        )

    def about(self) -> str:
        """The right column: "weight 3x3x3x4, bias 4", "{gamma,beta,mean,var} 4", "1,052 parameters"."""
        if self.again:
            return f"the same as {self.again}"
        groups: dict[tuple[str, str], list[str]] = {}
        for path, shape in self.arrays:
            layer, dot, name = path.rpartition(".")
            groups.setdefault((layer + dot, shape), []).append(name)
        texts = []
        for (layer, shape), names in groups.items():
            texts.append(f"{layer}{names[0] if len(names) == 1 else '{' + ','.join(names) + '}'} {shape}")
        if self.parts and self.learned:
            texts.append(f"{self.params:,} parameters{' in all' * bool(self.arrays)}")
        return ", ".join(texts)


def part_of(layer: Any) -> Part:
    """The tree of a layer. A layer or an array that occurs twice is shown where it comes first.

    Raises RecursionError for one of more than DEEPEST levels.
    """
    return _part(layer, "", "", {})


def _part(layer: Any, name: str, path: str, seen: dict[int, str]) -> Part:
    if path.count(".") > DEEPEST:
        raise RecursionError(f"more than {DEEPEST} levels of layers")
    children = _children(layer)
    inner = {k: child for k, child in children.items() if is_layer(child)}
    text = _line(layer)
    if inner and text == f"{type(layer).__name__}()":
        text = text[:-2]
    if id(layer) in seen and (children or inner):
        return Part(name, text, again=seen[id(layer)] or "the whole")
    seen[id(layer)] = path
    part, below = Part(name, text), f"{path}." if path else ""
    if inner and _tells_parts(layer, inner):
        for k, child in inner.items():
            _add_arrays(part, _children(child), f"{k}.", below, seen)
        inner = {}
    _add_arrays(part, children, "", below, seen)
    part.parts = [_part(child, k, below + k, seen) for k, child in inner.items()]
    for child in part.parts:
        part.learned.update(child.learned)
    return part


def _children(layer: Any) -> dict[str, Any]:
    try:
        return {" ".join(str(k).split()): v for k, v in layer.children().items() if is_layer(v) or is_held(v)}
    except Exception:  # a constructor that did not get far
        return {}


def _tells_parts(layer: Any, inner: dict[str, Any]) -> bool:
    """Whether the constructor's call tells the layers within, each of them a layer without layers."""
    if not (_more_arguments(layer) and set(inner) <= set(getattr(layer, "_parts", ()))):
        return False
    return not any(is_layer(v) for child in inner.values() for v in _children(child).values())


def _line(layer: Any, arrays: bool = False) -> str:
    """A layer in one line. One that cannot be told, such as with a list that holds itself, does not spoil a tree."""
    try:
        return _own_line(layer) or call(layer, arrays)
    except Exception:
        return f"{type(layer).__name__}(...)"


def _own_line(layer: Any) -> str:
    """What a class with a __repr__ of its own says, where that is one line."""
    own = next(vars(base)["__repr__"] for base in type(layer).__mro__ if "__repr__" in vars(base))
    if own.__module__ == "inception_np.layer":
        return ""
    try:
        text = str(repr(layer))
    except Exception:
        return ""
    return text if "\n" not in text and len(text) <= 200 else ""


def _add_arrays(part: Part, children: dict[str, Any], prefix: str, below: str, seen: dict[int, str]) -> None:
    for name, child in children.items():
        if is_layer(child):
            continue
        first = seen.setdefault(id(child), below + prefix + name)
        shape = shape_text(child.data) if first == below + prefix + name else f"the same as {first}"
        part.arrays.append((prefix + name, shape))
        if hasattr(child, "grad"):
            part.learned[id(child)] = int(child.data.size)


Row = tuple[int, str, str, str]  # depth, name, text, what the right column says


def _rows(part: Part, depth: int, fold: bool, level: int = 0) -> Iterator[Row]:
    """The lines of a tree down to a depth. fold: runs of equal layers become one line."""
    yield level, part.name, part.text, part.about()
    if level >= depth:
        return
    i = 0
    while i < len(part.parts):
        first, run = part.parts[i], 1
        while fold and i + run < len(part.parts) and first.same(part.parts[i + run]):
            run += 1
        if run < RUN:
            yield from _rows(first, depth, fold, level + 1)
            i += 1
            continue
        (_, _, text, about), *below = _rows(first, depth, fold, level + 1)
        names = f"{first.name} ... {part.parts[i + run - 1].name}"
        yield level + 1, names, f"{run} x {text}", f"each {about}" if about else ""
        yield from below
        i += run


def tree(layer: Any, limit: int | None = None) -> str:
    """A layer as a tree with one line for each layer in it, or as its call where there are none.

    limit: where the tree has more lines, runs of equal layers are folded, and the deepest levels left out.
    """
    part = part_of(layer)
    if not part.parts:
        return _line(layer, arrays=True)
    rows = whole = list(_rows(part, 1 << 30, fold=False))
    if limit is not None and len(whole) > limit:
        for depth in range(max(level for level, *_ in whole), 0, -1):
            rows = list(_rows(part, depth, fold=True))
            if len(rows) <= limit:
                break
        rows = rows if len(rows) <= limit else rows[: limit - 1]
    names = [("  " * level + name) for level, name, _, _ in rows]
    wide = max(len(name) for name in names)
    lines = [
        f"{name:<{wide}}  {text}" if level else text for name, (level, _, text, _) in zip(names, rows, strict=True)
    ]
    right = min(72, max(len(line) for line in lines))
    lines = [f"{line:<{right}}  {row[3]}".rstrip() for line, row in zip(lines, rows, strict=True)]
    if len(rows) < len(whole):
        lines.append(f"... the whole tree has {len(whole)} lines; print() shows it")
    return "\n".join(lines)


def layer_text(layer: Any, limit: int | None) -> str:
    """`tree`, for a layer in any state: whatever fails on the way, the class is told."""
    try:
        return tree(layer, limit)
    except Exception:  # such as RecursionError
        return f"<{type(layer).__name__}>"


def held_text(held: Any) -> str:
    """A Param or a Buffer: "Param(3x3x64x128 float32, rms 0.0589, gradient's rms 0)"."""
    kind = type(held).__name__
    try:
        texts = [f"{shape_text(held.data)} {held.data.dtype}"]
        if not isinstance(held.data, np.ndarray):
            texts[0] += " on cuda"
        for what in ("data", "grad"):
            a = getattr(held, what, None)
            if isinstance(a, np.ndarray) and a.size and a.dtype.kind in "fc":
                rms = float(np.sqrt(np.mean(np.square(np.abs(a), dtype=np.float64))))
                texts.append(f"{'gradient ' * (what == 'grad')}rms {rms:.3g}")
        return f"{kind}({', '.join(texts)})"
    except Exception:
        return f"{kind}({type(getattr(held, 'data', None)).__name__})"

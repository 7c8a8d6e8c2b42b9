"""A backward pass that the reader of a page edits or writes: his text, run and compared with the complex step.

    exercise = Exercise(BatchNorm(3), x, (batch_norm_grad,))
    verdict = exercise.check(text)      # text defines batch_norm_grad; verdict.ok, verdict.sentence, verdict.report

The layer is the library's. Forward is its own; in its backward the reader's functions stand in for the kernels of the
same names (`instead` in backend/program.py), and `check_gradients` judges what comes out, with its own tolerances.

The text is run as it is, by the process that shows the page, with all that this process may do: it is the reader's own
machine. It sees np and the names that the library's version of the functions uses. Whatever goes wrong in it becomes a
sentence with a line number. After SECONDS it is stopped, an endless loop too. What cannot be stopped is a single call
into NumPy or Python that does not return, and a loop that catches every exception: Ctrl-C in the terminal ends these.
"""

import __future__

import ast
import builtins
import inspect
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from types import CodeType, FrameType, MethodType
from typing import Any

import numpy as np

from ..backend.arrays import Array
from ..backend.program import Executor, executed_by
from ..gradcheck.check import check_gradients
from ..gradcheck.report import EVALUATION, Check, GradReport
from ..layer import Layer, Mode, cast, named_params
from .slide import GOOD, Html, in_notebook, numbers, table

FILE = "<your code>"
SECONDS = 20.0
RED = "#b3261e"


class TooLong(BaseException):
    """The reader's code ran for more than SECONDS. No Exception, so that `except Exception` does not catch it."""


@dataclass(frozen=True)
class Verdict:
    """What a check says. sentence: in words. line: of the reader's text, where it could not be run to the end.

    report: of check_gradients, None where there is none. Shown on a page: every tensor's row, and the errors of the
    wrong ones as arrays, the wrong entries framed.
    """

    ok: bool
    sentence: str
    line: int | None = None
    report: GradReport | None = None

    def _repr_html_(self) -> str:
        colour = GOOD if self.ok else RED
        parts = [f'<div style="color:{colour}"><b>{escape(self.sentence)}</b></div>']
        if self.report is not None:
            parts += [f"<div>{escape(problem)}</div>" for problem in self.report.problems]
            parts.append(_rows(self.report))
            parts += [_errors(c) for c in self.report.failures()]
        style = f"border-left:5px solid {colour};padding:6px 14px;margin:10px 0;overflow-wrap:anywhere"
        return f'<div class="verdict" style="{style}">{"".join(parts)}</div>'


@dataclass(frozen=True)
class Exercise:
    """A layer, an input, and the functions of its backward that a reader edits or writes.

    layer: of float32 or float64; it is cast to float64, in place. functions: kernels that its backward calls, or the
    `backward` of its class. edits: what each does, and the text of `source` that it replaces, which occurs once, by
    which. names: what the reader's code may use besides np and the names that the functions themselves use.
    """

    layer: Layer
    x: Array
    functions: tuple[Callable[..., Any], ...]
    edits: dict[str, tuple[str, str]] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cast(self.layer, np.float64)

    @property
    def source(self) -> str:
        """The library's version of the functions."""
        return "\n\n".join(plain_source(f) for f in self.functions)

    def edited(self, edit: str) -> str:
        """`source` after one of `edits`; as it is for any other word."""
        return replaced(self.source, *self.edits[edit]) if edit in self.edits else self.source

    def verdicts(self) -> dict[str, Verdict]:
        """What `check` says of each of `edits`."""
        return {edit: self.check(self.edited(edit)) for edit in self.edits}

    @property
    def invitation(self) -> str:
        """What to do with the editor, and what the code in it may use, as Markdown."""
        names = ", ".join(f"`{name}`" for name in self.known())
        return (
            "Change it, and see which tensor is then wrong, and where. Three edits worth trying are in the menu. "
            f"The code sees {names}. It runs on your own machine, in the Python process that shows this page, and may "
            f"do all that you may; an endless loop is stopped after {SECONDS:g} s. (A page that was written with "
            "`--html` shows the library's code, and cannot run yours.)"
        )

    def known(self) -> dict[str, Any]:
        """The names that the reader's code may use: np, and what the library's functions use, or `names`."""
        used: dict[str, Any] = {}
        for function in map(inspect.unwrap, self.functions):
            home = function.__globals__
            used |= {n: home[n] for n in sorted(_names(function.__code__)) if n in home}
        return {"np": np} | used | self.names

    def check(self, text: str, seed: int = 0) -> Verdict:
        """Run the reader's text and compare what it gives with the complex step. seed: draws dy.

        Raises nothing for what is wrong in the text: the verdict says it.
        """
        watcher = _Watcher()
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                with watcher:
                    functions = self._run(text)
                    missing = [f.__name__ for f in self.functions if f.__name__ not in functions]
                    if missing:
                        return Verdict(False, f"Define {' and '.join(missing)}: `def {missing[0]}(...):`.")
                    report = check_gradients(_Edited(self.layer, functions), self.x, seed=seed)
            except (Exception, SystemExit, TooLong) as error:  # of any kind: it is the reader's code that runs
                line = _line(error) or watcher.line
                return Verdict(False, f"line {line}: {self._words(error)}" if line else self._words(error), line)
        return Verdict(report.ok, _summary(report), report=report)

    def _run(self, text: str) -> dict[str, Callable[..., Any]]:
        """Those of the functions that the text defines. Raises whatever the text raises."""
        space = self.known()
        flags = __future__.annotations.compiler_flag  # types that the reader writes need not exist
        exec(compile(text, FILE, "exec", flags=flags, dont_inherit=True), space)
        wanted = {f.__name__ for f in self.functions}
        return {name: f for name, f in space.items() if name in wanted and _is_readers(f)}

    def _words(self, error: BaseException) -> str:
        """What went wrong, for people."""
        text = str(error)
        if isinstance(error, SyntaxError):
            shown = (error.text or "").strip()
            return f"{error.msg}: {shown}" if shown else str(error.msg)
        if isinstance(error, NameError) and not isinstance(error, UnboundLocalError):
            return f"{text}; there are {', '.join(sorted(self.known()))}"
        if "read-only" in text:
            return "this would change dy, x or a weight in place, which belong to the caller; write to a new array"
        if type(error) in (ValueError, TooLong):
            return text
        return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Edited(Layer):
    """A layer in whose backward some functions are others. Its Params are the layer's."""

    def __init__(self, layer: Layer, functions: dict[str, Callable[..., Any]]):
        self.inner, self.functions = layer, functions
        self.name = type(layer).__name__

    def children(self) -> dict[str, Any]:
        return self.inner.children()

    def forward(self, x: Array, mode: Mode) -> tuple[Array, Any]:
        return self.inner.forward(x, mode)

    def backward(self, dy: Array, x: Array, cache: Any) -> Any:
        method = self.functions.get("backward")
        backward = MethodType(method, self.inner) if method else self.inner.backward
        weights = [p.data for p in named_params(self.inner).values()]
        with _read_only([dy, x, *weights]), executed_by(_Instead(self.functions)):
            dx = backward(dy, x, cache)
        if getattr(dx, "dtype", x.dtype) != x.dtype:
            raise TypeError(f"{self.name}: backward gave dx of {dx.dtype}, wanted x's {x.dtype}")
        return dx


class _Instead(Executor):
    """The executor that runs the reader's functions in place of the kernels of their names, and the others' bodies."""

    def __init__(self, functions: dict[str, Callable[..., Any]]):
        self.functions = functions

    def instead(self, plain: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        return self.functions.get(plain.__name__, plain)(*args, **keywords)


class _Watcher:
    """Within its `with`, follows the lines of the reader's code: which was the last, and whether time is up."""

    line: int | None = None

    def __enter__(self) -> None:
        self.until, self.before = time.monotonic() + SECONDS, sys.gettrace()
        sys.settrace(self)

    def __exit__(self, *error: object) -> None:
        sys.settrace(self.before)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != FILE:
            return None
        self.line = frame.f_lineno
        frame.f_trace_opcodes = True  # `while True: pass` in one line has no other events
        if time.monotonic() > self.until:
            raise TooLong(f"stopped after {SECONDS:g} s; does a loop end?")
        return self


@contextmanager
def _read_only(arrays: list[Array]) -> Iterator[None]:
    """Within this block NumPy refuses to write to these arrays, at the line that tries."""
    locked = [a for a in arrays if a.flags.writeable]
    for a in locked:
        a.flags.writeable = False
    try:
        yield
    finally:
        for a in locked:
            a.flags.writeable = True


def plain_source(function: Callable[..., Any]) -> str:
    """The text of a function without its decorators and the types of its arguments; its body line by line."""
    text = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef)
    for argument in [*node.args.args, *node.args.kwonlyargs]:
        argument.annotation = None
    body = text.splitlines()[node.body[0].lineno - 1 :]
    return "\n".join([f"def {node.name}({ast.unparse(node.args)}):", *body, ""])


def replaced(text: str, old: str, new: str) -> str:
    """text with `new` for `old`. Raises ValueError where `old` does not occur exactly once."""
    if text.count(old) != 1:
        raise ValueError(f"an edit: got {old!r}, which occurs {text.count(old)} times, wanted once")
    return text.replace(old, new)


def prove(title: str, verdict: Verdict, ok: bool = True) -> None:
    """Run as a script, a page prints a line for each verdict. Raises AssertionError for another than `ok`."""
    if verdict.ok != ok:
        raise AssertionError(f"{title}: {verdict.sentence}")
    if not in_notebook():
        print(f"{title}: {verdict.sentence}")


def prove_lesson(title: str, lesson: Exercise, verdicts: dict[str, Verdict]) -> None:
    """`prove` that the library's backward is right, and that it is wrong after each edit, whose verdicts these are."""
    prove(f"{title}, the library's backward", lesson.check(lesson.source))
    for edit, verdict in verdicts.items():
        prove(f"{title}, {edit}", verdict, ok=False)


def _is_readers(value: Any) -> bool:
    return inspect.isfunction(value) and value.__code__.co_filename == FILE


def _names(code: CodeType) -> set[str]:
    """The global names that a function uses, and those within it."""
    found = {name for name in code.co_names if not hasattr(builtins, name)}
    return found.union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def _line(error: BaseException) -> int | None:
    """The line of the reader's text that an error came from."""
    if isinstance(error, SyntaxError) and error.filename == FILE:
        return error.lineno
    lines, at = [], error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == FILE:
            lines.append(at.tb_lineno)
        at = at.tb_next
    return lines[-1] if lines else None


def gradient_name(tensor: str) -> str:
    """dx of x, dw of weight, dgamma of gamma; "d(body.weight)" of a path."""
    name, mode, _ = tensor.partition(EVALUATION)
    name = {"weight": "w", "bias": "b"}.get(name, name)
    return (f"d({name})" if "." in name else f"d{name}") + mode


def _where(check: Check) -> str:
    name, mode, _ = check.tensor.partition(EVALUATION)
    return gradient_name(name) + (str(list(check.index)) if check.index else "") + mode


def _summary(report: GradReport) -> str:
    worst = report.worst
    if report.ok:
        error = max(c.error for c in report.checks)
        return f"Right: {report.compared} comparisons, the largest error is {error:.1e} of a tensor's largest entry."
    if worst.ok:
        return "Wrong: the numbers are right, but a rule is broken."
    return (
        f"Wrong: {_where(worst)} is {worst.analytic:.9g}, and by the complex step {worst.numeric:.9g}. "
        f"It is off by {abs(worst.analytic - worst.numeric):.1e}; rounding allows {worst.tolerance * worst.scale:.1e}."
    )


def _rows(report: GradReport) -> Html:
    """A row for every tensor: its worst entry by backward and by complex step."""
    rows = []
    for c in report.checks:
        state = Html(f'<b style="color:{GOOD if c.ok else RED}">{"right" if c.ok else "wrong"}</b>')
        wrong = int((c.ratios > 1).sum())
        error = f"{abs(c.analytic - c.numeric):.1e}"
        rows.append((state, _where(c), c.analytic, c.numeric, error, f"{wrong} of {c.ratios.size}"))
    return table(("", "worst entry", "your backward", "complex step", "error", "wrong entries"), rows)


def _errors(check: Check) -> Html:
    """backward - complex step, entry by entry; below the tolerance 0."""
    assert check.maps is not None
    analytic, numeric = check.maps
    wrong = (check.ratios > 1).reshape(analytic.shape)
    title = f"{gradient_name(check.tensor)}: yours - complex step, wrong entries framed"
    error = np.where(wrong, analytic - numeric, 0.0)
    if error.ndim == 4 and "weight" in check.tensor:  # (kh, kw, C_in, C_out): a picture for each pair of channels
        error, wrong = error.transpose(2, 0, 1, 3), wrong.transpose(2, 0, 1, 3)
        title += "; image i: the filters of input channel i"
    return numbers(error, title, wrong)

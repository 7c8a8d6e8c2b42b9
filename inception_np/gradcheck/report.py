"""What a check found: its rows and the worst of them, printed, drawn, and written as lines that repeat it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..backend import html
from .subject import Array

RIGHT, WRONG = "C0", "C3"  # Matplotlib's blue and red
Sweep = tuple[str, Array, Array, Array]  # what moves, the steps, and the errors of both methods at each

OVER = ("0", "3", ">6")  # the histogram's names of what is over its tolerance
EVALUATION = " (evaluation)"  # ends the tensor of a row of the second mode


@dataclass(repr=False)
class Check:
    """One tensor, compared in one way.

    error and tolerance are relative to `scale`, the size of what was compared: the largest entry of the gradient for
    a comparison element by element, sum |g_i v_i| along a direction v. Both belong to the worst entry, the one whose
    error over tolerance is largest.
    """

    tensor: str
    how: str
    error: float
    tolerance: float
    analytic: float
    numeric: float
    scale: float
    index: tuple[int, ...] | None = None
    ratios: Array = field(default_factory=lambda: np.zeros(0))  # error / tolerance of every comparison
    norm_error: float = 0.0  # largest error of any entry over the largest entry
    element_error: float = 0.0  # largest relative error of any single entry
    maps: tuple[Array, Array] | None = None  # analytic and numeric gradient, element by element
    excluded: list[str] = field(default_factory=list)  # directions left out because of a kink

    def __post_init__(self) -> None:
        for name in ("error", "tolerance", "analytic", "numeric", "scale", "norm_error", "element_error"):
            setattr(self, name, float(getattr(self, name)))

    @property
    def where(self) -> str:
        """The tensor and, where entries were compared one by one, the worst one's index: "weight[0, 1, 2, 0]"."""
        name, bracket, rest = self.tensor.partition(" (")
        return name + (str(list(self.index)) if self.index else "") + bracket + rest

    @property
    def ratio(self) -> float:
        return float(ratio(self.error, self.tolerance))

    @property
    def ok(self) -> bool:
        return self.ratio <= 1

    def __repr__(self) -> str:
        return f"<Check {self.where}: {'ok' if self.ok else 'WRONG'}, {self.how}, {self.ratio:.2g} of its tolerance>"


@dataclass
class Scaled:
    """A comparison at x times a factor: of the unit at `path` ("": the layer itself), "ok", "wrong" or why not."""

    path: str
    factor: float
    result: str


def ratio(error: Any, tolerance: Any) -> Any:
    """error / tolerance of numbers or arrays, where 0 / 0 is 0 and NaN is infinite."""
    error, tolerance = np.asarray(error, float), np.asarray(tolerance, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(error == 0, 0.0, error / tolerance)
    return np.where(np.isnan(r), np.inf, r)[()]


@dataclass(repr=False)
class GradReport:
    """What check_gradients found. `print(report)` fits a screen, `report.plot(path)` draws it. Its repr is one line.

    ok         nothing failed
    worst      the check with the largest error over tolerance
    checks     all of them, one per tensor or direction
    problems   what else is wrong, in words: laws that the layer breaks, directions that could not be judged
    modes      "training" and "evaluation" where both were checked; the rows of the second end in "(evaluation)"
    condition  how much the gradient moves, in its largest entry, when every number moves by its last digit: 1 for a
               convolution, about |mean| / std for batch norm
    scales     what was found at other sizes of x, for layers that are not of this package: see scales.py
    never_taken  sides of a ReLU or a maximum that x never takes, in words: a warning, and no failure
    snippet    lines that repeat a failure exactly, or ""; then `unwritten` says why there are none
    """

    name: str
    method: str
    seed: int
    checks: list[Check]
    problems: list[str]
    condition: float = 1.0
    decisions: int = 0
    margin: float = float("inf")
    scales: list[Scaled] = field(default_factory=list)
    never_taken: list[str] = field(default_factory=list)
    seconds: float = 0.0
    modes: tuple[str, ...] = ()
    snippet: str = ""
    unwritten: str = ""
    sweep: Callable[[], Sweep] | None = None

    @property
    def ok(self) -> bool:
        return not self.problems and all(c.ok for c in self.checks)

    @property
    def worst(self) -> Check:
        return max(self.checks, key=lambda c: c.ratio)

    @property
    def excluded(self) -> list[str]:
        """The directions that were left out because every step along them crossed a kink."""
        return [text for c in self.checks for text in c.excluded]

    def add_evaluation(self, other: "GradReport") -> None:
        """Add a report of evaluation mode to this one, of training."""
        if other.worst.ratio > self.worst.ratio:
            self.sweep = other.sweep
        for c in other.checks:
            excluded = [f"in evaluation: {text}" for text in c.excluded]
            self.checks.append(replace(c, tensor=c.tensor + EVALUATION, excluded=excluded))
        self.problems += [f"in evaluation: {text}" for text in other.problems]
        self.condition = max(self.condition, other.condition)
        self.decisions += other.decisions
        self.margin = min(self.margin, other.margin)
        self.modes = ("training", "evaluation")

    def failures(self) -> list[Check]:
        """The checks that failed, the worst first."""
        return sorted((c for c in self.checks if not c.ok), key=lambda c: -c.ratio)

    def as_json(self) -> dict[str, Any]:
        """{"ok", "name", "checks": [{"tensor", "error", "tolerance", ...}]}: plain numbers and strings."""
        keys = ("tensor", "how", "error", "tolerance", "analytic", "numeric", "norm_error", "element_error")
        rows = [{k: getattr(c, k) for k in keys} | {"ok": bool(c.ok)} for c in self.checks]
        return {
            "ok": bool(self.ok),
            "name": self.name,
            "method": self.method,
            "modes": list(self.modes),
            "condition": self.condition,
            "decisions": self.decisions,
            "excluded": self.excluded,
            "problems": self.problems,
            "scales": [vars(s) for s in self.scales],
            "never_taken": self.never_taken,
            "seconds": self.seconds,
            "checks": rows,
        }

    @property
    def state(self) -> str:
        return "ok" if self.ok else "WRONG"

    @property
    def compared(self) -> int:
        """How many comparisons were made."""
        return sum(max(1, c.ratios.size) for c in self.checks)

    @property
    def title(self) -> str:
        """What was checked, and how."""
        modes = f" in {' and '.join(self.modes)}" if self.modes else ""
        return f"by {self.method}{modes}, {self.compared} comparisons"

    def __repr__(self) -> str:
        worst = f", worst {self.worst.ratio:.2g} of its tolerance" if self.checks else ""
        if self.failures():
            worst = f", worst {self.worst.where}, {self.worst.ratio:.2g} times its tolerance"
        problems = f", problems: {len(self.problems)}" if self.problems else ""
        return f"<GradReport {self.name}: {self.state} {self.title}{worst}{problems}>"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _shown(self) -> list[Check]:
        """The worst of those that failed, or of all."""
        return (self.failures() or sorted(self.checks, key=lambda c: -c.ratio))[:6]

    def _lines(self) -> list[str]:
        lines = [f"{self.name}: {self.state} {self.title}, {self.seconds:.2f} s"]
        rows = self._shown()
        if rows:
            width = max(len(c.tensor) for c in rows)
            lines += [
                f"  {c.tensor:<{width}}  error {c.error:.1e}, tolerance {c.tolerance:.1e}  ({c.how})" for c in rows
            ]
            w = self.worst
            lines.append(f"  worst: {w.where}  backward {w.analytic:.15g}  numeric {w.numeric:.15g}")
            if len(self.failures()) > len(rows):
                lines.append(f"  and {len(self.failures()) - len(rows)} more that fail")
        bins = "  ".join(f"{name}:{count}" for name, count in self._histogram() if count)
        lines.append(f"  log10(error / tolerance)  {bins}")
        return lines + self._remarks() + ([] if self.ok else self._repetition())

    def _remarks(self) -> list[str]:
        lines = []
        if self.condition > 100:
            lines.append(f"  condition {self.condition:.1e}: the last digits of x move the gradient that many digits")
        if self.decisions:
            kinks = f"  kinks: {self.decisions} decisions, the nearest {self.margin:.1e} away"
            lines.append(kinks + (f", {len(self.excluded)} directions left out" if self.excluded else ""))
        lines += self._elsewhere()
        lines += [f"  {text}" for text in self.excluded[:3]]
        return lines + [f"  PROBLEM: {text}" for text in self.problems[:4]]

    def _repr_html_(self) -> str:
        title = html.marked(self.name, self.state, self.ok, f"{self.title}, {self.seconds:.2f} s")
        heading = ("tensor", "error", "tolerance", "error / tolerance", "backward", "numeric", "how")
        rows = []
        for c in self._shown():
            numbers = (
                f"{c.error:.1e}",
                f"{c.tolerance:.1e}",
                f"{c.ratio:.2g}",
                f"{c.analytic:.12g}",
                f"{c.numeric:.12g}",
            )
            rows.append((0, (c.where, *numbers, c.how)))
        names, counts = zip(*self._histogram(), strict=True)
        pieces = [title, html.table("", heading, rows) * bool(rows)]
        if len(self.failures()) > len(rows):
            pieces.append(html.paragraph(f"and {len(self.failures()) - len(rows)} more that fail"))
        pieces += [
            html.paragraph("comparisons by log10(error / tolerance), each bar from the number below it"),
            html.histogram(names, counts, [n in OVER for n in names]),
        ]
        pieces += map(html.paragraph, self._remarks())
        if not self.ok and self.snippet:
            pieces.append(html.folded("lines that repeat it", self.snippet))
        elif not self.ok and self.unwritten:
            pieces.append(html.paragraph(f"no lines repeat it: {self.unwritten}"))
        return html.page(*pieces)

    def _repetition(self) -> list[str]:
        lines = self.snippet.splitlines()
        if not lines:
            return [f"  no lines repeat it: {self.unwritten}"] if self.unwritten else []
        if len(lines) > 8 or len(self.snippet) > 3000:
            return [f"  to repeat it: the {len(lines)} lines of report.snippet"]
        return ["  to repeat it:", *(f"    {line}" for line in lines)]

    def _histogram(self) -> list[tuple[str, int]]:
        """How many comparisons lie between two powers of ten of error / tolerance, by the lower one."""
        r = np.concatenate([c.ratios if c.ratios.size else np.array([c.ratio]) for c in self.checks] or [np.zeros(0)])
        edges = [-np.inf, -4, -3, -2, -1, 0, 3, 6, np.inf]
        names = ["<-4", "-4", "-3", "-2", "-1", "0", "3", ">6"]
        with np.errstate(divide="ignore"):
            counts = np.histogram(np.clip(np.log10(r), -99, 99), np.clip(edges, -100, 100))[0]
        return [(name, int(count)) for name, count in zip(names, counts, strict=True)]

    def plot(self, path: Any = None) -> Any:
        """Draw three panels and return the matplotlib Figure, saved to `path` where one is given.

        Left: the error of every entry of the worst tensor, laid out (rows, columns x channels), or error over
        tolerance of the worst checks where entries were not compared one by one. Middle: backward against numeric.
        Right: the error of a central difference over its step for one entry, the "V", and the complex step's.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13, 4), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        mapped = max((c for c in self.checks if c.maps is not None), key=lambda c: c.ratio, default=None)
        self._draw_errors(figure, left, mapped)
        self._draw_scatter(middle)
        self._draw_v(right)
        figure.suptitle(f"{self.name}: {'ok' if self.ok else 'WRONG'} by {self.method}")
        if path is not None:
            figure.savefig(path, dpi=110)
        return figure

    def _elsewhere(self) -> list[str]:
        """What was found at other sizes of x, and which sides of decisions x never takes."""
        lines = []
        for path in dict.fromkeys(s.path for s in self.scales):
            here, name = [s for s in self.scales if s.path == path], f"{path}: " if path else ""
            right = [f"{s.factor:g}" for s in here if s.result == "ok"]
            if right:
                lines.append(f"  {name}right at x times {', '.join(right)} too")
            lines += [f"  {name}at x times {s.factor:g} {s.result}" for s in here if s.result.startswith("not")]
        lines = lines[:6] + [f"  NEVER TAKEN: {text}; try another x (--scale)" for text in self.never_taken[:3]]
        if len(self.never_taken) > 3:
            lines.append(f"  and {len(self.never_taken) - 3} more sides that are never taken")
        return lines

    def _draw_errors(self, figure: Any, ax: Any, mapped: Check | None) -> None:
        if mapped is None:
            self._draw_ratios(ax)
            return
        analytic, numeric = mapped.maps  # type: ignore[misc]
        error, shape = np.abs(analytic - numeric) / (mapped.scale or 1), analytic.shape
        if len(shape) == 4:  # a picture per channel, side by side, the worst image or kernel row of each
            error = error.max(0).transpose(0, 2, 1).reshape(shape[1], -1)
            ax.set(xlabel=f"{shape[3]} channels, each {shape[1]} x {shape[2]}")
            for k in range(1, shape[3]):
                ax.axvline(k * shape[2] - 0.5, color="white", lw=1)
        else:
            error = error.reshape(-1, shape[-1]) if shape else error.reshape(1, 1)
        shown = np.log10(np.maximum(error, 1e-18))
        image = ax.imshow(shown, cmap="magma", vmin=-18, vmax=0, aspect="auto")
        verdict = "all within tolerance" if mapped.ok else "some beyond tolerance"
        ax.set(xticks=[], yticks=[], title=f"{mapped.tensor}: error of each entry,\n{verdict}")
        figure.colorbar(image, ax=ax, label="log10(error / largest entry)")

    def _draw_ratios(self, ax: Any) -> None:
        shown = sorted(self.checks, key=lambda c: -c.ratio)[:12][::-1]
        ratios = [min(max(c.ratio, 1e-6), 1e18) for c in shown]
        ax.barh(range(len(shown)), ratios, color=[RIGHT if c.ok else WRONG for c in shown])
        ax.set_yticks(range(len(shown)), [c.tensor[-24:] for c in shown])
        ax.axvline(1, color=WRONG, ls=":")
        verdict = "all within tolerance" if self.worst.ok else "some beyond tolerance"
        ax.set(xscale="log", xlabel="error / tolerance", title=f"the worst checks, {verdict}")
        ax.set_xlim(min(1e-4, *ratios) / 3, max(1.0, *ratios) * 3)  # decades enough for plain powers of ten

    def _draw_scatter(self, ax: Any) -> None:
        for ok, colour, label in ((True, RIGHT, "within tolerance"), (False, WRONG, "beyond tolerance")):
            pairs = [c.maps or (np.array(c.analytic), np.array(c.numeric)) for c in self.checks if c.ok == ok]
            if pairs:
                analytic, numeric = (np.concatenate([p[k].ravel() for p in pairs]) for k in (0, 1))
                of = "tensors" if any(c.maps for c in self.checks) else "checks"
                ax.plot(numeric, analytic, ".", ms=4, color=colour, label=f"{of} {label}")
        ends = ax.get_xlim()
        ax.plot(ends, ends, color="grey", lw=0.8, zorder=0, label="backward = numeric")
        ax.set(xlabel="numeric", ylabel="backward", title="backward against numeric")
        ax.legend()

    def _draw_v(self, ax: Any) -> None:
        if self.sweep is None:
            ax.axis("off")
            return
        from matplotlib.ticker import LogLocator

        label, steps, central, complex_step = self.sweep()
        ax.loglog(steps, np.maximum(central, 1e-18), "o-", ms=3, label="central difference")
        ax.loglog(steps, np.maximum(complex_step, 1e-18), "s-", ms=3, label="complex step")
        top = 1e6 * max(1.0, np.max(central), np.max(complex_step))  # room for the legend, and plain powers of ten
        ax.set(xlabel="step h", ylabel="relative error against backward", title=label, ylim=(3e-19, top))
        ax.xaxis.set_major_locator(LogLocator(numticks=6))
        ax.legend(loc="upper center", ncols=2, fontsize="small")


def picture(title: str = "", columns: int = 1, size: tuple[float, float] | None = None) -> Any:
    """A matplotlib Figure with its axes, one or a row of them, that needs no display. Used by the examples.

    size: width and height in inches; None is what fits the columns.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size or (8 if columns == 1 else 12, 4.5), layout="constrained", dpi=110)
    if title:
        figure.suptitle(title)
    return figure, figure.subplots(1, columns)

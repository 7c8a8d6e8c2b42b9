"""The answers as pictures: every function draws one of them into a figure, or into a part of the sheet of them all."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..training.plots import tile
from .fields import Field
from .report import ACROSS, Seen, Stage, evenly

SMALL, TINY = 8, 7  # sizes of letters
BRIGHT = 99.5  # per cent of the pixels of a gradient that are not cut off


def show(axes: Any, image: np.ndarray, title: str = "", **how: Any) -> None:
    """An image (H, W), (H, W, 1) or (H, W, 3) in a frame without ticks."""
    grey = image.ndim == 3 and image.shape[-1] == 1
    axes.imshow(image[..., 0] if grey else image, **{"cmap": "gray", "interpolation": "nearest", **how})
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, fontsize=SMALL, parse_math=False)


def label(axes: Any, text: str) -> None:
    """Text left of a row."""
    axes.set_ylabel(text, fontsize=SMALL, rotation=0, ha="right", va="center", parse_math=False)


def answer(axes: Any, seen: Seen) -> None:
    """The network's answer above an image, green or red where somebody knows the true one."""
    text, colour = f"{folded(seen.answer)} {seen.probability:.0%}", "black"
    if seen.truth is not None:
        colour = "darkgreen" if seen.answer == seen.truth else "firebrick"
    if seen.truth not in (None, seen.answer):
        text += f"\nis: {folded(str(seen.truth))}"
    axes.set_title(text, fontsize=SMALL, color=colour, parse_math=False)


def folded(name: str, width: int = 16) -> str:
    """A class's name in at most two lines."""
    first, *rest = textwrap.wrap(name, width) or [name]
    return f"{first}\n{textwrap.shorten(' '.join(rest), width, placeholder='...')}" if rest else first


def filters(figure: Any, images: np.ndarray, columns: int) -> None:
    """The first convolution's filters, (N, kh, kw, C) in 0..1."""
    show(figure.subplots(), tile(images, columns, margin=1))
    kh, kw = images.shape[1:3]
    figure.suptitle(f"{len(images)} filters of {kh}x{kw} in the first convolution", fontsize=SMALL + 1)


def kernels(figure: Any, rows: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """For each convolution (path, how much each tap is used, its strongest kernels), a row."""
    all_axes = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(1, ACROSS))
    for (left, right), (path, used, strong) in zip(all_axes, rows, strict=True):
        stage, _, rest = path.removesuffix(".conv").partition(".")
        show(left, used, vmin=0, cmap="viridis")
        label(left, f"{stage}\n{rest}" if rest else stage)
        most = np.maximum(np.abs(strong).max((1, 2), keepdims=True), 1e-12)
        show(right, strip(strong / most), cmap="RdBu", vmin=-1, vmax=1)
        right.set_anchor("W")
    text = "use of each tap (dark: none, yellow: most), and the kernels of the largest norm (blue +, red -)"
    figure.suptitle(text, fontsize=SMALL + 1)


def activations(figure: Any, stages: Sequence[Stage], which: int, seen: Seen | None = None) -> None:
    """For each stage, a row of the strongest channels of the image of that number; `seen`, beside it, where given."""
    figure.suptitle("strongest channels of each stage, each over its own range", fontsize=SMALL + 1)
    if seen is not None:
        picture, figure = figure.subfigures(1, 2, width_ratios=(1, 5.5))
        axes = picture.subplots()
        show(axes, seen.pixels)
        answer(axes, seen)
        axes.set_anchor("N")
    for axes, stage in zip(np.ravel(figure.subplots(len(stages), 1, squeeze=False)), stages, strict=True):
        maps = stage.maps[which]
        low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
        show(axes, strip((maps - low) / np.maximum(high - low, 1e-12)), cmap="magma", vmin=0, vmax=1)
        axes.set_anchor("W")
        label(axes, f"{stage.name}\n{'x'.join(map(str, stage.output))}\n{stage.dead:.0%} dead")


def strip(maps: np.ndarray) -> np.ndarray:
    """Maps (N, H, W) side by side in room for ACROSS; NaN between them."""
    large = max(1, round(64 / max(maps.shape[1:])))  # small maps are enlarged, so that all gaps are alike
    maps = np.kron(maps, np.ones((1, large, large)))
    gap = max(2, max(maps.shape[1:]) // 16)
    room = np.full((ACROSS, maps.shape[1], maps.shape[2] + gap), np.nan)
    room[: len(maps), :, :-gap] = maps
    return np.concatenate(list(room), axis=1)[:, :-gap]


def saliency(figure: Any, seen: Sequence[Seen]) -> None:
    """For each image a column: itself, the gradient of its class's logit, and the guided one."""
    rows = figure.subplots(3, len(seen), squeeze=False)
    for column, one in zip(rows.T, seen, strict=True):
        show(column[0], one.pixels)
        answer(column[0], one)
        show(column[1], one.saliency, cmap="magma", vmin=0, vmax=np.percentile(one.saliency, BRIGHT) or 1)
        most = np.percentile(np.abs(one.guided), BRIGHT) or 1
        show(column[2], np.clip(0.5 + one.guided / (2 * most), 0, 1), vmin=0, vmax=1)
    for axes, text in zip(rows[:, 0], ("image", "gradient", "guided\ngradient"), strict=True):
        label(axes, text)
    figure.suptitle("which pixels the logit of the network's answer hangs on", fontsize=SMALL + 1)


def classes(figure: Any, images: np.ndarray, names: Sequence[str], certain: Sequence[float]) -> None:
    """The images that maximise each class, (N, H, W, C) in 0..1, each over its own range; certain: probabilities."""
    columns = min(ACROSS // 2, len(images))
    all_axes = np.ravel(figure.subplots(-(-len(images) // columns), columns, squeeze=False))
    for axes in all_axes:
        axes.set_axis_off()
    for axes, image, name, p in zip(all_axes, images, names, certain, strict=False):
        low, high = np.percentile(image, (1, 99))
        show(axes, np.clip((image - low) / max(high - low, 1e-12), 0, 1), f"{folded(name)} {p:.0%}", vmin=0, vmax=1)
    figure.suptitle("images that maximise a class's logit, and its probability then", fontsize=SMALL + 1)


def fields(figure: Any, found: Sequence[Field], image: int, shown: int = 6) -> None:
    """Maps of some stages, and the three fields of all: lines for the stages, dots for their branches. image: a side
    of the network's own images."""
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.5))
    stages = [f for f in found if "." not in f.path]
    some = evenly(stages, shown)
    for axes, one in zip(np.ravel(top.subplots(1, len(some), squeeze=False)), some, strict=True):
        show(axes, np.log10(np.maximum(one.map, 1e-3)), one.path, cmap="magma", vmin=-3, vmax=0)
        frame(axes, one)
    height, width = stages[0].map.shape
    text = f"rms of d y[centre] / dx in {height}x{width} pixels, log scale over 3 decades; outside the frame it is 0"
    top.suptitle(text, fontsize=SMALL + 1)
    axes = bottom.subplots()
    places = range(len(stages))
    axes.axhline(image, color="grey", lw=1, ls=":", label="the network's images")
    axes.plot(places, [max(f.computed) for f in stages], "-", color="C0", label="computed")
    axes.plot(places, [max(f.measured) for f in stages], "o", color="C1", ms=4, label="measured")
    axes.plot(places, [f.effective for f in stages], "s-", color="C2", ms=3, label="effective")
    at = {f.path: i for i, f in enumerate(stages)}
    branches = [(at[f.path.partition(".")[0]], f) for f in found if "." in f.path]
    if branches:
        dots = [f.effective for _, f in branches]
        axes.plot([i for i, _ in branches], dots, "_", color="C2", ms=7, label="effective, a branch")
    by_stage(axes, [f.path for f in stages])
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("receptive field, pixels", fontsize=SMALL)
    axes.legend(fontsize=TINY, loc="upper left")


def frame(axes: Any, field: Field) -> None:
    """A frame around the pixels where the gradient is not 0."""
    from matplotlib.patches import Rectangle

    rows, columns = (np.flatnonzero(field.map.any(axis)) for axis in (1, 0))
    if len(rows):
        corner, (height, width) = (columns[0] - 0.5, rows[0] - 0.5), field.measured
        axes.add_patch(Rectangle(corner, width, height, fill=False, color="c", lw=1, clip_on=False))


def flow(figure: Any, alone: dict[str, float], helped: dict[str, float] | None, heads: Sequence[str]) -> None:
    """The gradient at each stage, of the main loss alone and, where there are heads, with theirs."""
    axes = figure.subplots()
    places = range(len(alone))
    axes.semilogy(places, list(alone.values()), "o-", color="C0", ms=4, label="main loss alone")
    if helped is not None:
        text = f"with the head{'s' * (len(heads) > 1)} on {' and '.join(heads)}"
        axes.semilogy(places, list(helped.values()), "s-", color="C1", ms=4, label=text)
        axes.legend(fontsize=TINY)
    by_stage(axes, list(alone))
    axes.set_ylabel("rms over weights", fontsize=SMALL)
    figure.suptitle("gradient that reaches each stage's weights", fontsize=SMALL + 1)


def by_stage(axes: Any, names: Sequence[str]) -> None:
    """Stages along the axis."""
    long = max(map(len, names), default=0) > 4
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(len(names)), names, fontsize=TINY, parse_math=False, **turned)
    axes.tick_params(axis="y", labelsize=TINY)
    axes.grid(alpha=0.3)

"""All that is asked of a checkpoint, with the answers as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend.errors import UsageError
from ..layer import Mode, named_params
from ..models.network import Network
from ..models.summary import stages_of
from .features import stage_outputs
from .fields import Field, receptive_fields
from .flow import gradient_flow
from .images import Images
from .maximise import PIXELS, maximise
from .saliency import guided_backprop, logit_gradient, saliency_map

MANY_CLASSES = 10  # more are not drawn
ROWS = 8  # stages, or convolutions, that are drawn; others are left out evenly
ACROSS = 10  # feature maps, or kernels, in a row
FIELD = 64  # pixels: smaller networks look at images of this size when their fields are measured
DRAWS = 2  # of random images for a field
LARGE = 1e9  # multiply-adds of an image: from here on there is one draw, and branches are not measured
ASCENT = 1e12  # multiply-adds that class maximisation may take
STEPS = (24, 128)  # of it, at least and at most
HEADING = ("stage", "output", "dead", "sees", "measured", "effective", "gradient", "with heads")


@dataclass
class Stage:
    """What was found at a stage. output: (H, W, C). dead: the fraction of channels that are 0 in all images looked at.
    maps: for each image shown, its strongest channels, (ACROSS, H, W)."""

    name: str
    output: tuple[int, ...]
    dead: float
    maps: list[np.ndarray]


@dataclass
class Seen:
    """An image and the network's answer. pixels: (H, W, C) in 0..1. truth: its class, where somebody knows it.
    saliency: (H, W). guided: (H, W, C)."""

    name: str
    pixels: np.ndarray
    answer: str
    probability: float
    truth: str | None
    saliency: np.ndarray
    guided: np.ndarray


@dataclass
class Report:
    """What was found in a checkpoint.

    source: which images, in words. image: their (H, W, C). counted: over how many channels were found dead. seen: those
    that are shown. stages: those that give planes; drawn: those whose activations are drawn. classes: names, best:
    their images, (N, H, W, C) in 0..1, certain: their probabilities there. fields: of stages and branches. alone,
    helped: gradient by stage of the main loss, and with those of the heads.
    """

    checkpoint: str
    model: str
    source: str
    image: tuple[int, ...]
    counted: int
    seen: list[Seen]
    stages: list[Stage]
    drawn: list[Stage]
    classes: list[str]
    best: np.ndarray
    certain: list[float]
    fields: list[Field]
    alone: dict[str, float]
    helped: dict[str, float] | None
    heads: list[str]

    def __str__(self) -> str:
        lines = [f"{self.checkpoint}: {self.model}, {len(self.seen)} images ({self.source})"]
        width = max(len(one.name) for one in self.seen)
        lines += [f"  {one.name:{width}}  {one.probability:7.2%}  {one.answer}" for one in self.seen]
        rows = [HEADING, *map(self.row, self.stages)]
        if self.helped is None:
            rows = [row[:-1] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, *cells in rows:
            right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
        lines.append(f"dead: channels that are 0 in all of {self.counted} images; sees: the receptive field in pixels,")
        lines.append("as computed, as measured (+: up to an edge of the image), and where the gradient is not small")
        maximised = ", ".join(f"{name} {p:.0%}" for name, p in zip(self.classes, self.certain, strict=True))
        return "\n".join([*lines, f"maximised: {maximised}"])

    def row(self, stage: Stage) -> tuple[str, ...]:
        """A stage's cells below HEADING."""
        found = next((f for f in self.fields if f.path == stage.name), None)
        field = (
            [size(found.computed), size(found.measured) + "+" * found.cut, f"{found.effective:.0f}"]
            if found
            else [""] * 3
        )
        gradient = [f"{g[stage.name]:.1e}" if stage.name in g else "" for g in (self.alone, self.helped or {})]
        return stage.name, "x".join(map(str, stage.output)), f"{stage.dead:.0%}", *field, *gradient

    def to_json(self) -> dict[str, Any]:
        """The document that `inception-np look --json` prints, less the files."""
        return {
            "checkpoint": self.checkpoint,
            "model": self.model,
            "images": [{"image": s.name, "class": s.answer, "probability": s.probability} for s in self.seen],
            "stages": [{"stage": s.name, "output": list(s.output), "dead": s.dead} for s in self.stages],
            "classes": [{"class": name, "probability": p} for name, p in zip(self.classes, self.certain, strict=True)],
            "fields": [
                {"path": f.path, "computed": list(f.computed), "measured": list(f.measured), "effective": f.effective}
                for f in self.fields
            ],
            "gradient": {"alone": self.alone, "with_heads": self.helped},
        }


def look(
    net: Network, images: Images, checkpoint: str, names: list[str], classes: list[int], stages: list[str]
) -> Report:
    """Ask everything. names: of the classes. classes: to maximise, stages: to draw; none: a few of them.

    Raises ValueError where the logits are not finite.
    """
    x, rng = images.x, np.random.default_rng(0)
    p = np.concatenate([probabilities(net, x[i : i + 1]) for i in range(images.shown)])
    if not np.isfinite(p).all():
        raise ValueError(f"{checkpoint}: its logits are not finite although all its numbers are")
    seen = look_at(net, images, names, p)
    every = planes(net, x.shape)
    drawn = stages or evenly([stage for stage in every if named_params(stages_of(net)[stage])], ROWS)
    found = activations(net, images, [*every, *drawn])
    macs = net.macs((1, *x.shape[1:]))
    chosen = np.array(classes or classes_to_show(p, len(names)))
    steps = int(np.clip(ASCENT / (3 * macs * len(chosen)), *STEPS))
    best = maximise(net, chosen, images.bounds, x.shape[1:], steps, rng)
    canvas = max(FIELD, x.shape[1]), max(FIELD, x.shape[2]), x.shape[3]
    fields = receptive_fields(net, canvas, rng, DRAWS if macs < LARGE else 1, branches=macs < LARGE)
    batch, labels = flow_batch(x, len(names), rng)
    return Report(
        checkpoint=checkpoint,
        model=net.name,
        source=images.source,
        image=x.shape[1:],
        counted=len(x),
        seen=seen,
        stages=[found[stage] for stage in every],
        drawn=[found[stage] for stage in drawn],
        classes=[names[c] for c in chosen],
        best=images.pixels(best),
        certain=[float(probabilities(net, image[None])[0, c]) for image, c in zip(best, chosen, strict=True)],
        fields=list(fields),
        alone=gradient_flow(net, batch, labels, heads=False),
        helped=gradient_flow(net, batch, labels) if net.heads else None,
        heads=list(net.heads),
    )


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def size(field: tuple[int, int]) -> str:
    """A height and a width, as one number where they are equal."""
    return str(field[0]) if field[0] == field[1] else f"{field[0]}x{field[1]}"


def planes(net: Network, shape: tuple[int, ...]) -> list[str]:
    """The stages whose output has 2x2 places or more."""
    return [name for name, out in net.stage_shapes(shape).items() if len(out) == 4 and min(out[1:3]) > 1]


def check_stages(net: Network, paths: Sequence[str], x: np.ndarray) -> None:
    """Raise UsageError for a stage to draw that there is not, that runs in training only, or that gives no plane."""
    for path in paths:
        if path.startswith("aux_"):
            raise UsageError(f"--stages: {path!r} runs in training only; choose another")
    try:
        outputs = stage_outputs(net, x, paths)
    except ValueError as error:
        raise UsageError(f"--stages: {str(error).removeprefix('features: ')}") from error
    for path, y in outputs.items():
        if y.ndim != 4:
            raise UsageError(f"--stages: {path!r} gives {y.shape[1]} numbers, wanted a stage that gives a plane")


def classes_to_show(p: np.ndarray, count: int) -> list[int]:
    """All classes where they are few, and else those that were seen in the images. p: probabilities, (N, count)."""
    return list(range(count)) if count <= MANY_CLASSES else list(dict.fromkeys(int(c) for c in p.argmax(1)))


def probabilities(net: Network, x: np.ndarray) -> np.ndarray:
    """The softmax of the logits in inference, in float64, (N, classes)."""
    logits = net.forward(x, Mode())[0].astype(np.float64)
    e = np.exp(logits - logits.max(1, keepdims=True))
    p: np.ndarray = e / e.sum(1, keepdims=True)
    return p


def look_at(net: Network, images: Images, names: list[str], p: np.ndarray) -> list[Seen]:
    """The images shown, each with the gradients of the class that the network says. p: its probabilities."""
    found = []
    for i in range(images.shown):
        x, c, true = images.x[i : i + 1], p[i].argmax(), images.labels[i]
        gradient, guided = (f(net, x, np.array([c]))[0] for f in (logit_gradient, guided_backprop))
        found.append(
            Seen(
                name=images.names[i],
                pixels=images.pixels(x)[0],
                answer=names[c],
                probability=float(p[i, c]),
                truth=names[true] if true >= 0 else None,
                saliency=saliency_map(gradient),
                guided=guided[..., ::-1] if images.how.bgr else guided,
            )
        )
    return found


def activations(net: Network, images: Images, paths: Sequence[str]) -> dict[str, Stage]:
    """What is found at each path: dead channels over all images, the strongest channels of those that are shown."""
    together = max(1, PIXELS // (images.x.shape[1] * images.x.shape[2]))
    alive: dict[str, np.ndarray] = {}
    found: dict[str, Stage] = {}
    for start in range(0, len(images.x), together):
        for path, y in stage_outputs(net, images.x[start : start + together], paths).items():
            stage = found.setdefault(path, Stage(path, y.shape[1:], 0.0, []))
            stage.maps += [strongest_channels(one) for one in y[: max(0, images.shown - start)]]
            alive[path] = alive.get(path, False) | (y != 0).any((0, 1, 2))
            stage.dead = float(1 - alive[path].mean())
    return found


def strongest_channels(y: np.ndarray) -> np.ndarray:
    """The channels of the largest rms, largest first: (ACROSS, H, W) of (H, W, C)."""
    order = np.argsort(-np.mean(y * y, (0, 1)), kind="stable")[:ACROSS]
    maps: np.ndarray = np.moveaxis(y[..., order], -1, 0)
    return maps


def flow_batch(x: np.ndarray, classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images with their mirror images, so that there are two at least, and labels drawn at random.

    With the true labels, a trained network has next to no loss left, and the heads, which know less, would be all of
    the gradient.
    """
    together = max(1, PIXELS // (x.shape[1] * x.shape[2]))
    x = x[:together]
    batch = np.concatenate([x, x[:, :, ::-1]])
    return batch, rng.integers(classes, size=len(batch))

"""All that is asked of a checkpoint, with the answers as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend.errors import UsageError
from ..layer import Mode, named_params
from ..models.network import Network
from ..models.summary import stages_of
from .drawing import ACROSS, ROWS, Seen, Stage, evenly, folded
from .features import stage_outputs
from .fields import Field, receptive_fields
from .flow import gradient_flow
from .images import Images
from .maximise import PIXELS, maximise
from .saliency import guided_backprop, logit_gradient, saliency_map

MANY_CLASSES = 10  # more are not drawn
FIELD = 64  # pixels: smaller networks look at images of this size when their fields are measured
LARGE = 1e9  # multiply-adds of an image: from here on fields are not measured branch by branch, and with one draw
DRAWS = 2
ASCENT = 1e12  # multiply-adds that class maximisation may take
STEPS = (24, 128)  # of it, at least and at most


@dataclass
class Report:
    """What was found in a checkpoint.

    source: which images, in words. image: their (H, W, C). counted: of how many `stages` tell the dead channels.
    seen: those that are shown; said: what the network calls them, with probabilities. stages: those that give planes.
    drawn: those whose activations are drawn. classes: names of classes, best: their images, (N, H, W, C) in 0..1,
    certain: their probabilities there. fields: of stages and branches. alone, helped: gradient by stage of the main
    loss, and with those of the heads.
    """

    checkpoint: str
    model: str
    source: str
    image: tuple[int, ...]
    counted: int
    seen: list[Seen]
    said: list[tuple[str, float]]
    stages: list[Stage]
    drawn: list[Stage]
    classes: list[str]
    best: np.ndarray
    certain: list[float]
    fields: list[Field]
    alone: dict[str, float]
    helped: dict[str, float] | None
    heads: list[str]

    @classmethod
    def of(
        cls, net: Network, images: Images, names: list[str], chosen: list[int], stages: list[str], checkpoint: str
    ) -> "Report":
        """Ask everything. names: of the classes. chosen: classes to maximise, stages: to draw; [] is a few of them.

        Raises ValueError where the logits are not finite.
        """
        x = images.x
        drawn = stages or evenly([s for s in planes(net, x.shape) if named_params(stages_of(net)[s])], ROWS)
        logits = np.concatenate([logits_of(net, x[i : i + 1]) for i in range(images.shown)])
        if not np.isfinite(logits).all():
            raise ValueError(f"{checkpoint}: its logits are not finite although all its numbers are")
        p = softmax(logits)
        said = p.argmax(1)
        picked = np.array(chosen or classes_to_show(said, len(names)))
        rng = np.random.default_rng(0)
        macs = net.macs((1, *x.shape[1:]))
        steps = int(np.clip(ASCENT / (3 * macs * len(picked)), *STEPS))
        best = maximise(net, picked, images.bounds, x.shape[1:], steps, rng)
        certain = [float(softmax(logits_of(net, b[None]))[0, c]) for b, c in zip(best, picked, strict=True)]
        side = (max(FIELD, x.shape[1]), max(FIELD, x.shape[2]), x.shape[3])
        large = macs > LARGE
        fields = list(receptive_fields(net, side, rng, 1 if large else DRAWS, branches=not large))
        batch, labels = flow_batch(x, len(names), rng)
        return cls(
            checkpoint, net.name, images.source, x.shape[1:], len(x), look_at(net, images, names, p),
            [(names[c], float(p[i, c])) for i, c in enumerate(said)],
            *activations(net, images, planes(net, x.shape), drawn), [names[c] for c in picked],
            images.pixels(best), certain, fields, gradient_flow(net, batch, labels, heads=False),
            gradient_flow(net, batch, labels) if net.heads else None, list(net.heads),
        )  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.checkpoint}: {self.model}, {len(self.seen)} images ({self.source})"]
        width = max(len(one.name) for one in self.seen)
        lines += [
            f"  {one.name:{width}}  {p:7.2%}  {name}" for one, (name, p) in zip(self.seen, self.said, strict=True)
        ]
        field, heads = {f.path: f for f in self.fields}, self.helped is not None
        head = [
            "stage",
            "output",
            "dead",
            "sees",
            "measured",
            "effective",
            "gradient",
            *(["with heads"] if heads else []),
        ]
        rows = [head]
        for stage in self.stages:
            row = [stage.name, "x".join(map(str, stage.output)), f"{stage.dead:.0%}"]
            f = field.get(stage.name)
            row += [size(f.computed), size(f.measured) + "+" * f.whole, f"{f.effective:.0f}"] if f else ["", "", ""]
            row += [f"{g[stage.name]:.1e}" if stage.name in g else "" for g in (self.alone, self.helped or {})][
                : 1 + heads
            ]
            rows.append(row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, *cells in rows:
            right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
        lines.append(
            f"dead: channels that are 0 in all of {self.counted} images; +: the field is larger than the image"
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The document that `inception-np look --json` prints, less the files."""
        return {
            "checkpoint": self.checkpoint,
            "model": self.model,
            "images": [
                {"image": one.name, "class": name, "probability": p}
                for one, (name, p) in zip(self.seen, self.said, strict=True)
            ],
            "stages": [{"stage": s.name, "output": list(s.output), "dead": s.dead} for s in self.stages],
            "classes": [{"class": name, "probability": p} for name, p in zip(self.classes, self.certain, strict=True)],
            "fields": [
                {"path": f.path, "computed": list(f.computed), "measured": list(f.measured), "effective": f.effective}
                for f in self.fields
            ],
            "gradient": {"alone": self.alone, "with_heads": self.helped},
        }


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


def classes_to_show(said: np.ndarray, count: int) -> list[int]:
    """All classes where they are few, and else those that were seen in the images."""
    return list(range(count)) if count <= MANY_CLASSES else list(dict.fromkeys(int(c) for c in said))


def logits_of(net: Network, x: np.ndarray) -> np.ndarray:
    """(N, classes), in inference."""
    logits: np.ndarray = net.forward(x, Mode())[0]
    return logits


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities in float64, (N, classes)."""
    e = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    p: np.ndarray = e / e.sum(1, keepdims=True)
    return p


def look_at(net: Network, images: Images, names: list[str], p: np.ndarray) -> list[Seen]:
    """The images shown, each with the gradients of the class that the network says. p: its probabilities."""
    found = []
    for i in range(images.shown):
        x, c = images.x[i : i + 1], p[i].argmax()
        true = images.labels[i]
        said = f"{folded(names[c])} {p[i, c]:.0%}" + (f"\nis: {folded(names[true])}" if true not in (-1, c) else "")
        gradient, guided = (f(net, x, np.array([c])) for f in (logit_gradient, guided_backprop))
        guided = guided[0, ..., ::-1] if images.how.bgr else guided[0]
        pixels = images.pixels(x)[0]
        found.append(
            Seen(images.names[i], pixels, said, None if true == -1 else true == c, saliency_map(gradient)[0], guided)
        )
    return found


def activations(net: Network, images: Images, paths: list[str], drawn: list[str]) -> tuple[list[Stage], list[Stage]]:
    """(all stages with planes, those that are drawn with the strongest channels of each image that is shown)."""
    together = max(1, PIXELS // (images.x.shape[1] * images.x.shape[2]))
    every = list(dict.fromkeys([*paths, *drawn]))
    alive: dict[str, np.ndarray] = {}
    maps: dict[str, list[np.ndarray]] = {path: [] for path in every}
    outputs: dict[str, tuple[int, ...]] = {}
    for start in range(0, len(images.x), together):
        for path, y in stage_outputs(net, images.x[start : start + together], every).items():
            alive[path] = alive.get(path, False) | (y != 0).any((0, 1, 2))
            outputs[path] = y.shape[1:]
            maps[path] += [strongest_channels(one) for one in y[: max(0, images.shown - start)] if path in drawn]
    stages = {path: Stage(path, outputs[path], float(1 - alive[path].mean()), maps[path]) for path in every}
    return [stages[path] for path in paths], [stages[path] for path in drawn]


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

"""A whole network: a trunk of named stages, and the auxiliary classifiers that branch off it in training."""

import contextlib
from typing import Any

from ..backend.arrays import Array, Shape
from ..compose import Sequential, call_backward, call_forward, check_unused
from ..kernels.elementwise import scaled_add
from ..kernels.window import ImageTooSmall
from ..layer import Layer, Mode, walk
from ..layers.check import check_dy, check_x


class Network(Layer):
    """Images (N, H, W, C) to logits (N, num_classes).

    While mode.train, a network with heads returns (logits, {"4a": logits, ...}), where "4a" is the stage that the head
    reads, and backward takes dlogits in the same structure. Otherwise it returns logits alone. With h the output of
    such a stage, the trunk's rest and the head both read h, so

        dh = rest.backward(dlogits, h) + head.backward(dhead, h)        (fan-out forward, sum backward)

    trunk: the paper's stages by name. heads: stage name -> classifier. aux_weight: how much each head's loss counts.
    name, preset, options: what create_model was called with, enough to make the network again. image: the (H, W, C)
    it was designed for. made: its signature as create_model makes it, once `save` has asked for it. printed, notes: the
    paper's own figures by stage, for `summary` to set beside ours. Raises ValueError for images too small, naming the
    layer and the smallest size that works.
    """

    def __init__(self, trunk: Sequential, heads: dict[str, Layer] | None = None, *, aux_weight: float = 0.3):
        self.trunk, self.heads, self.aux_weight = trunk, heads or {}, float(aux_weight)
        for stage in self.heads:
            if stage not in trunk.layers:
                raise ValueError(f"Network: got a head on {stage!r}, wanted one of the stages {list(trunk.layers)}")
        self.name, self.preset, self.num_classes = "", "", 0
        self.options: dict[str, Any] = {}
        self.made: dict[str, Any] | None = None
        self.image: tuple[int, int, int] = (0, 0, 0)
        self.printed: dict[str, str] = {}
        self.notes: list[str] = []

    _also = ("name", "preset", "num_classes")  # of what create_model set, repr shows these

    def children(self) -> dict[str, Any]:
        return {**self.trunk.layers, **{f"aux_{stage}": head for stage, head in self.heads.items()}}

    def parts(self, heads: bool) -> list[tuple[str | None, Sequential]]:
        """The trunk, cut after every stage that has a head: [("4a", conv1 ... 4a), ..., (None, the rest)]."""
        if not (heads and self.heads):
            return [(None, self.trunk)]
        parts: list[tuple[str | None, Sequential]] = []
        stages: dict[str, Layer] = {}
        for name, stage in self.trunk.layers.items():
            stages[name] = stage
            if name in self.heads:
                parts.append((name, Sequential(**stages)))
                stages = {}
        return [*parts, (None, Sequential(**stages))]

    def forward(self, x: Array, mode: Mode) -> tuple[Any, list[Any]]:
        check_x(self.name or "Network", x)
        kept: list[Any] = []
        aux: dict[str, Array] = {}
        h = x
        try:
            for stage, part in self.parts(mode.train):
                h_in = h if kept else None  # the images themselves are the caller's to keep
                h, cache = part.forward(h, mode)
                head_cache = None
                if stage is not None:
                    aux[stage], head_cache = call_forward(f"aux_{stage}", self.heads[stage], h, mode)
                y = aux[stage] if stage else h
                kept.append((cache, h_in, head_cache, (y.shape, y.dtype)))
        except ImageTooSmall as error:
            raise self._too_small(error, mode.train) from None
        return ((h, aux) if aux else h), kept if mode.keep else []

    def backward(self, dy: Any, x: Array, kept: list[Any], into: Array | None = None, need_dx: bool = True) -> Any:
        check_unused(kept, self.name or "Network")
        parts = self.parts(len(kept) > 1)
        dh, daux = self._split(dy, [stage for stage, _ in parts if stage])
        for (stage, _), entry in zip(parts, kept, strict=True):  # all of them, before anything is changed
            where = self.name or "Network"
            check_dy(f"{where}.aux_{stage}" if stage else where, daux[stage] if stage else dh, *entry[3])
        h = None
        while kept:
            cache, h_in, head_cache, _ = kept.pop()
            stage, part = parts[len(kept)]
            if stage is not None:
                dhead = call_backward(f"aux_{stage}", self.heads[stage], daux[stage], h, head_cache, shape=dh.shape)
                dh = scaled_add(dh, dhead, 1.0)
            dh = part.backward(
                dh, h_in if kept else x, cache, into=None if kept else into, need_dx=need_dx or bool(kept)
            )
            h = h_in
        return dh

    def _split(self, dy: Any, stages: list[str]) -> tuple[Array, dict[str, Array]]:
        if not stages:
            if isinstance(dy, tuple):
                raise TypeError(f"{self.name}: got dy as a tuple, wanted one array: forward returned logits alone")
            return dy, {}
        if not (isinstance(dy, tuple) and len(dy) == 2 and isinstance(dy[1], dict) and set(dy[1]) == set(stages)):
            wanted = "{" + ", ".join(f'"{stage}": ...' for stage in stages) + "}"
            raise TypeError(f"{self.name}: got dy of another structure than y, wanted (dlogits, {wanted})")
        return dy

    def _too_small(self, error: ImageTooSmall, heads: bool) -> ValueError:
        size = smallest_image(self, heads)
        return ValueError(f"{error}; the smallest image that {self.name or 'this network'} takes is {size}x{size}")

    def stage_shapes(self, shape: Shape, heads: bool = False) -> dict[str, Shape]:
        """The output shape of every stage by name for an x of this shape, and with `heads` of every head ("aux_4a").

        Raises the ValueError of the first layer that does not take what it gets, ImageTooSmall for want of pixels.
        """
        shapes: dict[str, Shape] = {}
        for name, stage in self.trunk.layers.items():
            shape = shapes[name] = stage.out_shape(shape)
            if heads and name in self.heads:
                shapes[f"aux_{name}"] = self.heads[name].out_shape(shape)
        return shapes

    def out_shape(self, shape: Shape) -> Shape:
        try:
            return self.trunk.out_shape(shape)
        except ImageTooSmall as error:
            raise self._too_small(error, False) from None

    def macs(self, shape: Shape) -> int:
        """Multiply-adds of the trunk, one image; the heads run in training only and are not counted."""
        return self.trunk.macs(shape)


LEARNED_WITH = ("rate",)  # numbers that training may change, and that inference does not see


def signature(network: Network) -> dict[str, Any]:
    """What a network is made of: by path the kind and the numbers of every layer, and the shape of every array."""
    found: dict[str, Any] = {}
    for path, child in walk(network):
        if not isinstance(child, Layer):
            found[path] = tuple(child.data.shape)
            continue
        numbers = {
            name: value
            for name, value in vars(child).items()
            if isinstance(value, (bool, int, float, str, tuple))
            and not name.startswith("_")
            and name not in LEARNED_WITH
        }
        found[path] = (type(child).__name__, numbers)
    return found


def smallest_image(network: Network, heads: bool = False) -> int:
    """The smallest n for which n x n images pass through the trunk, and with `heads`, as in training, every head."""
    for n in range(1, 1025):
        with contextlib.suppress(ValueError):
            network.stage_shapes((1, n, n, network.image[2]), heads)
            return n
    raise ValueError(f"{network.name}: got no image of up to 1024x1024 through, wanted one that every layer takes")

"""What a stage of a network computes for an image: its features.

    y = f_k(... f_1(x))        of  f_n(... f_k(... f_1(x))),    in inference

They are what others build on a network: a detector on Inception's 4e, a distance between sets of images on its last
pool (Heusel et al. 2017). Nothing behind the stage is computed.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ..backend.arrays import Array, array_module
from ..backend.errors import nearest
from ..layer import Layer, Mode, checked_pair, walk, watch
from ..models.network import Network


def features(net: Layer, x: Array, stage: str) -> Array:
    """What the layer at the path `stage` ("4a", "4a.b3", "aux_4a") gives for x, in inference; a new array.

    x: what the network takes, (N, H, W, C). Of a layer that is called more than once it is the first y. Raises
    ValueError for a path that the network does not have, with the nearest ones, for a layer that has a second path,
    and for one that its parent computes without calling it (ConvBNReLU's bn).
    """
    head, _, rest = stage.partition(".") if isinstance(stage, str) else ("", "", "")
    if isinstance(net, Network) and (read := head.removeprefix("aux_")) != head and read in net.heads:
        h = features(net, x, read)  # heads run in training only, so this one is called here
        return features(net.heads[read], h, rest) if rest else net.heads[read].forward(h, Mode())[0]
    return stage_outputs(net, x, [stage])[stage]


def stage_outputs(net: Layer, x: Array, stages: Iterable[str]) -> dict[str, Array]:
    """`features` of several stages, heads excepted, in one pass that ends with the last of them."""
    wanted = list(dict.fromkeys(stages))
    check_paths(net, wanted)
    found: dict[str, Array] = {}

    def forward(path: str, layer: Layer, call: Any, x: Array, mode: Mode) -> tuple[Any, Any]:
        y, cache = checked_pair(layer, call(), x)
        if path not in found:
            found[path] = array_module(y).array(y)  # copied: y may be written over, and may be a slice of a module's y
        if len(found) == len(wanted):
            raise Enough
        return y, cache

    if wanted:
        with suppress(Enough), watch(net, forward=forward, only=wanted):
            net.forward(x, Mode())
    for path in wanted:
        if path not in found:
            parent = path.rpartition(".")[0] or "the network"
            raise ValueError(f"features: {path!r} is computed within {parent}, without a call; ask for {parent}")
    return {path: found[path] for path in wanted}


class Enough(Exception):
    """Ends a forward pass that has given what was asked for."""


def check_paths(net: Layer, paths: list[str]) -> None:
    """Raise ValueError for what is no layer's path, or a layer's second one."""
    layers = {path: layer for path, layer in walk(net) if isinstance(layer, Layer)}
    first: dict[int, str] = {}
    for path, layer in layers.items():
        first.setdefault(id(layer), path)
    for path in paths:
        if path not in layers:
            parent = str(path)
            while parent and parent not in layers:
                parent = parent.rpartition(".")[0]
            beside = [p for p in layers if p.rpartition(".")[0] == parent] or [parent]
            raise ValueError(f"features: there is no stage {path!r}; {nearest(str(path), beside)}")
        if first[id(layers[path])] != path:
            raise ValueError(f"features: {path!r} is the layer {first[id(layers[path])]!r}; use one layer for each")

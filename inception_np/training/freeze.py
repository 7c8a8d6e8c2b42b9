"""Freezing: parameters that training leaves as they are, to the bit.

    frozen = frozen_params(net, ["conv*", "3a"])      stages or parameters, by name or pattern
    fixed, trained = split(net, frozen)               what need not be trained, and what is
    optimiser.parts = parts_without(net, frozen)      the optimiser moves the rest of the vector

A layer all of whose parameters are frozen runs as in inference: its batch norms normalise with their running averages,
and keep them, and its dropout is off. So a frozen stage computes the same function in every step ("frozen BN"). The
first stages, as far as they are frozen, are one such function: they run without a cache, and no backward pass reaches
them. That ends at the first stage with an auxiliary head.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from ..backend.arrays import Array, Shape
from ..backend.errors import UsageError, nearest
from ..compose import Concat, Residual, Sequential
from ..layer import Layer, Mode, Param, named_params, of_kind, places_in_vectors, walk
from ..layers.activation import ReLU
from ..layers.batchnorm import BatchNorm
from ..layers.conv_bn_relu import ConvBNReLU
from ..models.network import Network


def frozen_params(net: Network, patterns: Sequence[str]) -> dict[str, Param]:
    """The parameters that a pattern matches by their path, and all of the stages and heads that one matches.

    Patterns are the shell's: "conv1", "3*", "*.bn.gamma". Raises UsageError for one that matches nothing, and for those
    that freeze nothing or everything.
    """
    params, stages = named_params(net), net.children()
    frozen: dict[str, Param] = {}
    for pattern in patterns:
        chosen = {name for name in stages if fnmatchcase(name, pattern)}
        found = {path for path in params if path.partition(".")[0] in chosen or fnmatchcase(path, pattern)}
        if not found and not chosen:
            raise UsageError(
                f"--freeze: got {pattern!r}, which no parameter of {net.name} matches; "
                f"{nearest(pattern, [*stages, *params] if '.' in pattern else list(stages))}"
            )
        frozen |= {path: params[path] for path in found}
    if patterns and len(frozen) in (0, len(params)):
        what = "leaves nothing to train" if frozen else "has no parameters"
        raise UsageError(f"--freeze: got {' '.join(patterns)}, which {what} in {net.name}; name other stages")
    return {path: param for path, param in params.items() if path in frozen}


def parts_without(net: Network, frozen: dict[str, Param]) -> list[slice]:
    """The slices of the network's parameter vector (`flatten`) that hold the other parameters, in order."""
    parts: list[slice] = []
    for path, place in places_in_vectors(net).items():
        if path not in frozen:
            joined = bool(parts) and parts[-1].stop == place.start
            parts[-1 if joined else len(parts) :] = [slice(parts[-1].start if joined else place.start, place.stop)]
    return parts


def split(net: Network, frozen: dict[str, Param]) -> tuple[Sequential, Network]:
    """(the first stages, which are fixed, and may be none; the network behind them, on the same arrays).

    Raises UsageError for a batch norm that is frozen alone within a layer of one's own.
    """
    if not frozen:
        return Sequential(), net
    ids = {id(param) for param in frozen.values()}
    stages = {name: _freeze(name, stage, ids) for name, stage in net.trunk.layers.items()}
    count = 0
    for i, (name, stage) in enumerate(stages.items()):
        if name in net.heads or (named_params(stage) and not isinstance(stage, Frozen)):
            break
        if isinstance(stage, Frozen):
            count = i + 1
    rest: Network = copy.copy(net)
    rest.trunk = Sequential(**{name: stages[name] for name in list(stages)[count:]})
    rest.heads = {stage: _freeze(f"aux_{stage}", head, ids) for stage, head in net.heads.items()}
    return Sequential(**{name: net.trunk.layers[name] for name in list(stages)[:count]}), rest


class Frozen(Layer):
    """A layer as it is in inference, while the network around it trains: y and dx are those of constant weights.

    It hands out the layer's own parameters and averages, under their own names.
    """

    def __init__(self, layer: Layer):
        self.layer = layer

    def children(self) -> dict[str, Any]:
        return self.layer.children()

    @property
    def reads_x(self) -> bool:
        return bool(self.layer.reads_x)

    def forward(self, x: Array, mode: Mode) -> tuple[Any, Any]:
        return self.layer.forward(x, replace(mode, train=False))

    def backward(self, dy: Any, x: Array, cache: Any) -> Any:
        """dx. The gradients that are added on the way are nobody's."""
        return self.layer.backward(dy, x, cache)

    def out_shape(self, shape: Shape) -> Shape:
        return self.layer.out_shape(shape)

    def macs(self, shape: Shape) -> int:
        return self.layer.macs(shape)


def _freeze(path: str, layer: Layer, ids: set[int]) -> Any:
    """The same tree on the same parameters, with a Frozen in place of every layer that has none but these."""
    params = named_params(layer).values()
    count = sum(id(param) in ids for param in params)
    if count == 0:
        return layer
    if count == len(params):
        return Frozen(layer)
    double: Any = copy.copy(layer)
    if of_kind(layer, Sequential):
        double.layers = {name: _freeze(f"{path}.{name}", child, ids) for name, child in double.layers.items()}
    elif of_kind(layer, Concat):
        double.branches = {name: _freeze(f"{path}.{name}", child, ids) for name, child in double.branches.items()}
    elif of_kind(layer, Residual):
        double.body = _freeze(f"{path}.body", double.body, ids)
        double.shortcut = double.shortcut and _freeze(f"{path}.shortcut", double.shortcut, ids)
    elif of_kind(layer, ConvBNReLU) and not isinstance(bn := _freeze(f"{path}.bn", layer.bn, ids), BatchNorm):
        return Sequential(conv=layer.conv, bn=bn, relu=ReLU())  # what it computes, in three layers
    else:
        for name, norm in walk(layer):
            if isinstance(norm, BatchNorm) and isinstance(_freeze(name, norm, ids), Frozen):
                raise UsageError(
                    f"--freeze: got the batch norm {path}.{name} alone, but {type(layer).__name__} cannot keep its "
                    f"averages; freeze all of {path}"
                )
        return layer
    return double

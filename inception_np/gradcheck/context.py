"""Every unit of a network, checked where it stands: at the x and in the mode that it meets in the network's own pass.

A network's projected check tells that something is wrong, not where: one wrong dx spoils every gradient before it.
Checked one at a time, at what they really get, the units name the culprit, and all together cost a few passes of the
network. What remains for the projected check is the wiring.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .complex_step import along, dense_direction, every_element, filled, measure_noise, sparse_directions, unmeasured
from .differences import confirm
from .kinks import Call
from .report import Check
from .subject import Subject, as_array

SMALL = 64  # units with no more entries than this are compared entry by entry


def units_in_context(calls: list[Call], seed: int, look: Callable[[Subject, int], list[Check]]) -> list[Check]:
    """What `look`, `unit` or `glance`, finds in every unit's call, tensors named by path: "3a.b3.conv.weight",
    "3a.b3.conv dx"."""
    checks = []
    for k, call in enumerate(calls):
        part = Subject(call.layer, as_array(call.x), replace(call.mode, keep=True), seed + k, repeat=False)
        part.name = f"{call.path}: {part.name}"
        for check in look(part, seed + k):
            name = {"x": f"{call.path} dx", "all": call.path}.get(check.tensor, f"{call.path}.{check.tensor}")
            checks.append(replace(check, tensor=name))
    return checks


def unit(part: Subject, seed: int) -> list[Check]:
    """One layer: entry by entry where it is small, else one dense direction per tensor and a few sparse ones."""
    noise, _ = measure_noise(part)
    if sum(a.size for a in part.point.values()) <= SMALL:
        return every_element(part, noise)
    draw = np.random.default_rng((seed, 3))
    checks = []
    for name, a in filled(part.point).items():
        direction = {name: draw.standard_normal(a.shape)}
        checks.append(along(part, noise, name, "one direction", direction))
        if name == "x":
            confirm(part, direction, checks[-1].numeric)
    sparse = sparse_directions(part, draw)
    if sparse:
        how, direction = sparse[seed % len(sparse)]
        checks.append(along(part, noise, "x", how, direction))
    return checks


def glance(part: Subject, seed: int) -> list[Check]:
    """One layer along one direction through x and all parameters; `unit` where that fails.

    For the second mode of a network. The noise is not measured: what it would add to the tolerance is left out, so a
    layer that passes here passes there too.
    """
    draw = np.random.default_rng((seed, 3))
    check = along(part, unmeasured(part), "all", "one direction", dense_direction(part, draw))
    return [check] if check.ok else unit(part, seed)


def few_directions(network: Subject, draw: np.random.Generator) -> list[Check]:
    """A whole network along two directions, one through everything and one through x, without measured noise unless
    they fail."""
    directions = {"all": dense_direction(network, draw), "x": {"x": draw.standard_normal(network.point["x"].shape)}}
    checks = [along(network, unmeasured(network), name, "one direction", v) for name, v in directions.items()]
    if all(c.ok for c in checks):
        return checks
    noise, _ = measure_noise(network)
    return [along(network, noise, name, "one direction", v) for name, v in directions.items()]

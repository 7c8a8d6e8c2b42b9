"""Every unit of a network, checked where it stands: at the x and in the mode that it meets in the network's own pass.

A network's projected check tells that something is wrong, not where: one wrong dx spoils every gradient before it.
Checked one at a time, at what they really get, the units name the culprit, and all together cost a few passes of the
network. What remains for the projected check is the wiring.
"""

from dataclasses import replace

import numpy as np

from .complex_step import along, every_element, measure_noise, sparse_directions
from .differences import confirm
from .kinks import Call
from .report import Check
from .subject import Subject

SMALL = 64  # units with no more entries than this are compared entry by entry


def units_in_context(calls: list[Call], seed: int) -> list[Check]:
    """The checks of every unit's call, their tensors named by path: "3a.b3.conv.weight", "3a.b3.conv dx"."""
    checks = []
    for k, call in enumerate(calls):
        part = Subject(call.layer, call.x, replace(call.mode, keep=True), seed + k, repeat=False)
        part.name = f"{call.path}: {part.name}"
        for check in unit(part, seed + k):
            name = f"{call.path} dx" if check.tensor == "x" else f"{call.path}.{check.tensor}"
            checks.append(replace(check, tensor=name))
    return checks


def unit(part: Subject, seed: int) -> list[Check]:
    """One layer: entry by entry where it is small, else one dense direction per tensor and a few sparse ones."""
    noise, _ = measure_noise(part)
    if sum(a.size for a in part.point.values()) <= SMALL:
        return every_element(part, noise)
    draw = np.random.default_rng((seed, 3))
    checks = []
    for name, a in part.point.items():
        direction = {name: draw.standard_normal(a.shape)}
        checks.append(along(part, noise, name, "one direction", direction))
        if name == "x":
            confirm(part, direction, checks[-1].numeric)
    sparse = sparse_directions(part, draw)
    if sparse:
        how, direction = sparse[seed % len(sparse)]
        checks.append(along(part, noise, "x", how, direction))
    return checks

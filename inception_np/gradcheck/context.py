"""Every unit of a network, checked where it stands: at the x and in the mode that it meets in the network's own pass.

A check of a whole network along a direction shows that something is wrong, not where: one wrong dx spoils every
gradient before it. Checked one at a time, at the x that they really get, the units show which of them is wrong, and all
together cost a few passes of the network. What is left to the check of the whole is how the units are joined.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .complex_step import along_each, dense_direction, every_element, measure_noise, nonempty, sparse_directions
from .differences import confirm
from .kinks import Call
from .report import Check
from .subject import Subject, as_array

SMALL = 64  # units with no more entries than this are compared entry by entry


def units_in_context(calls: list[Call], seed: int, check_one: Callable[[Subject, int], list[Check]]) -> list[Check]:
    """The checks of all calls. check_one: check_unit or check_briefly.

    Tensors are named by path: "3a.b3.conv.weight", "3a.b3.conv dx".
    """
    checks = []
    for k, call in enumerate(calls):
        part = Subject(call.layer, as_array(call.x), replace(call.mode, keep=True), seed + k, repeat=False)
        part.name = f"{call.path}: {part.name}"
        checks += [replace(c, tensor=in_unit(call.path, c.tensor)) for c in check_one(part, seed + k)]
    return checks


def in_unit(path: str, tensor: str) -> str:
    """The name in the network of a tensor of the unit at a path."""
    return {"x": f"{path} dx", "all": path}.get(tensor, f"{path}.{tensor}")


def check_unit(part: Subject, seed: int) -> list[Check]:
    """One layer: entry by entry where it is small, else one dense direction per tensor and a few sparse ones."""
    if sum(a.size for a in part.point.values()) <= SMALL:
        return every_element(part, measure_noise(part)[0])
    draw = np.random.default_rng((seed, 3))
    rows = [(name, "one direction", {name: draw.standard_normal(a.shape)}) for name, a in nonempty(part.point).items()]
    sparse = sparse_directions(part, draw)
    if sparse:
        how, direction = sparse[seed % len(sparse)]
        rows.append(("x", how, direction))
    checks = along_each(part, rows)
    confirm(part, rows[0][2], checks[0].numeric)
    return checks


def check_briefly(part: Subject, seed: int) -> list[Check]:
    """One layer along one direction through x and all parameters; `check_unit` where that fails."""
    direction = dense_direction(part, np.random.default_rng((seed, 3)))
    checks = along_each(part, [("all", "one direction", direction)])
    confirm(part, direction, checks[0].numeric)
    return checks if checks[0].ok else check_unit(part, seed)

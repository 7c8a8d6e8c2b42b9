"""Learning rates over the course of a run.

A schedule is a function from t, the epochs done so far (a fraction within an epoch), to the rate.
"""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(lr: float) -> Schedule:
    """lr(t) = lr"""
    return lambda t: lr


def step(lr: float, milestones: list[float], factor: float = 0.1) -> Schedule:
    """lr(t) = lr * factor ** (number of milestones at or before t); milestones in epochs."""
    return lambda t: lr * factor ** sum(t >= milestone for milestone in milestones)


def exponential(lr: float, factor: float, every: float = 1.0) -> Schedule:
    """lr(t) = lr * factor ** floor(t / every), the staircase of the papers:

    GoogLeNet (section 6)                      factor 0.96 every 8 epochs
    Rethinking (section 8), Inception-v4 (5)   factor 0.94 every 2 epochs, from 0.045
    Xception (section 4.3)                     factor 0.94 every 2 epochs, from 0.045
    """
    return lambda t: lr * factor ** math.floor(t / every)


def linear(lr: float, epochs: float) -> Schedule:
    """lr(t) = lr * (1 - t / epochs), 0 at the end."""
    return lambda t: lr * (1 - min(t / epochs, 1.0))


def cosine(lr: float, epochs: float) -> Schedule:
    """lr(t) = lr * (1 + cos(pi t / epochs)) / 2, 0 at the end. Loshchilov & Hutter 2016, eq. 5"""
    return lambda t: 0.5 * lr * (1 + math.cos(math.pi * min(t / epochs, 1.0)))


def triangular(lr: float, epochs: float, *, peak: float = 0.23, start: float = 0.2, end: float = 0.07) -> Schedule:
    """lr(t) in two straight lines: from start * lr at 0 to lr at peak * epochs, and to end * lr at the end.

    Jordan 2024, arXiv:2404.00498 ("triangular"); after Smith & Topin 2017, "Super-convergence".
    """

    def rate(t: float) -> float:
        done = min(t / epochs, 1.0)
        rising = start + (1 - start) * done / peak
        return lr * (rising if done < peak else 1 + (end - 1) * (done - peak) / (1 - peak))

    return rate


def warm_up(schedule: Schedule, epochs: float) -> Schedule:
    """`schedule`, times t / epochs during the first epochs. Goyal et al. 2017, section 2.2.

    At t = 0 the rate is 0. The training loop takes the rate in the middle of each step, which is above 0 in the first.
    """
    if epochs <= 0:
        return schedule
    return lambda t: schedule(t) * min(t / epochs, 1.0)


# The schedules of a run: name -> schedule of the highest rate and the number of epochs. The exponential one takes its
# factor and its period too.
SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "cosine": cosine,
    "linear": linear,
    "triangular": triangular,
    "step": lambda lr, epochs: step(lr, [0.5 * epochs, 0.75 * epochs]),
    "exponential": lambda lr, epochs, factor, every: exponential(lr, factor, every),
    "constant": lambda lr, epochs: constant(lr),
}

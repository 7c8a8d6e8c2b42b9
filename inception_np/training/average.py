"""Averages that training keeps beside the weights: to test with, or to pull the weights back to."""

import contextlib
from collections.abc import Iterator

from ..backend.arrays import Array
from ..kernels.update import move_averages, pieces
from ..layer import Layer, named_buffers, vectors
from ..layers.batchnorm import BatchNorm
from .options import Options

LONGEST = 0.9  # an average over ten steps


def warm_statistics(norms: list[tuple[BatchNorm, float]], updates: int) -> None:
    """Let batch norm's running averages forget their beginning, 0 and 1, and follow the weights.

        decay = min(the layer's own, (1 + updates) / (10 + updates), 0.9)

    A decay of 0.99 would take hundreds of steps to forget the beginning, TF-slim's 0.9997 ten thousands. Later on it is
    an average over a hundred steps in which the weights moved: until the learning rate falls, a network that trains
    well tests badly, and differently after each epoch. Ten batches are enough images to average over. norms: the layers
    with their own decay.
    """
    for layer, decay in norms:
        layer.decay = min(decay, (1 + updates) / (10 + updates), LONGEST)


class WeightAverage:
    """A copy of the weights and of batch norm's statistics, which follows them.

    name       of its arrays in the state: name/0 is the weights', name/1, ... those of the statistics
    arrays     the network's own
    means      their copies
    updates    how many steps have been counted
    """

    name: str

    def __init__(self, net: Layer) -> None:
        self.arrays = [vectors(net)[0], *(b.data for b in named_buffers(net).values())]
        self.means = [array.copy() for array in self.arrays]
        self.pieces = pieces(self.means, self.arrays)
        self.updates = 0

    def update(self) -> None:
        """To be called after each step of the optimiser."""
        raise NotImplementedError

    def move(self, rate: float | Array, *, back: bool = False) -> None:
        """mean += rate (weight - mean), and with `back`, weight = mean after it.

        rate may be an array of one number, as in a captured step.
        """
        move_averages(self.means, self.arrays, rate, self.pieces, back=back)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this block the network has the weights that it is tested and saved with."""
        yield


class MovingAverage(WeightAverage):
    """Running averages of the weights and of batch norm's statistics, to test and to save.

        mean = d mean + (1 - d) weight        d = min(decay, (1 + updates) / (10 + updates))

    The second term lets it forget the random beginning, as in TensorFlow's ExponentialMovingAverage, which the
    Rethinking paper (section 8) evaluates with.
    """

    name = "average"

    def __init__(self, net: Layer, decay: float) -> None:
        super().__init__(net)
        self.decay = decay

    def update(self) -> None:
        self.move(self.next_rate())

    def next_rate(self) -> float:
        """Count an update. Returns its 1 - d."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        return 1 - keep

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        weights = [array.copy() for array in self.arrays]
        for array, mean in zip(self.arrays, self.means, strict=True):
            array[...] = mean
        try:
            yield
        finally:
            for array, weight in zip(self.arrays, weights, strict=True):
                array[...] = weight


class Lookahead(WeightAverage):
    """Slow weights and statistics, to which training returns every k = 5 steps; the steps move the fast ones.

        slow = d slow + (1 - d) fast        fast = slow        d = 0.95^5 (t / T)^3

    t of T steps are done. At the beginning of a run d is near 0, and nothing changes; at its end the fast weights are
    pulled back most of the way. After the last step fast = slow, which drops the steps since slow last moved. A run of
    less than k steps, in which it never did, stays as it is. The optimiser's momentum is left alone.

    Zhang, Lucas, Hinton & Ba 2019 (Lookahead Optimizer: k steps forward, 1 step back), algorithm 1, whose d is
    constant; d of t, and the statistics, as in airbench (Jordan 2024, arXiv 2404.00498).
    """

    name = "lookahead"
    EVERY = 5

    def __init__(self, net: Layer, steps: int) -> None:
        super().__init__(net)
        self.steps = steps

    def update(self) -> None:
        self.updates += 1
        if self.updates % self.EVERY == 0:
            self.move(1 - 0.95**5 * (self.updates / self.steps) ** 3, back=True)
        elif self.updates == self.steps > self.EVERY:
            self.move(0.0, back=True)


def average_for(net: Layer, options: Options, steps: int) -> WeightAverage | None:
    """The average that a run of so many steps keeps, if any: options allow one of --ema and --lookahead."""
    if options.ema:
        return MovingAverage(net, options.ema)
    return Lookahead(net, steps) if options.lookahead else None

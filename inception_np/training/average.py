"""Averages that training keeps beside the weights: to test with, or to pull the weights back to."""

import contextlib
from collections.abc import Iterator

from ..backend import Array
from ..kernels.update import move_averages, pieces
from ..layer import Layer, named_buffers, vectors
from ..layers.batchnorm import BatchNorm


def warm_statistics(norms: list[tuple[BatchNorm, float]], updates: int) -> None:
    """Let batch norm's running averages forget their beginning, 0 and 1, as `Average` does.

    A decay of 0.99 would take hundreds of steps to forget it, TF-slim's 0.9997 ten thousands, and
    until then a network that trains well tests badly. norms: the layers with their own decay.
    """
    for layer, decay in norms:
        layer.decay = min(decay, (1 + updates) / (10 + updates))


class Copies:
    """A copy of the weights and of batch norm's statistics, which moves towards them."""

    def __init__(self, net: Layer) -> None:
        self.arrays = [vectors(net)[0], *(b.data for b in named_buffers(net).values())]
        self.means = [array.copy() for array in self.arrays]
        self.pieces = pieces(self.means, self.arrays)

    def move(self, rate: float | Array, *, back: bool = False) -> None:
        """mean += rate (weight - mean), and with `back`, weight = mean after it.

        rate may be an array of one number, as in a captured step.
        """
        move_averages(self.means, self.arrays, rate, self.pieces, back=back)


class Average(Copies):
    """Running averages of the weights and of batch norm's statistics.

        mean = d mean + (1 - d) weight        d = min(decay, (1 + updates) / (10 + updates))

    The second term lets it forget the random beginning, as in TensorFlow's
    ExponentialMovingAverage, which the Rethinking paper (section 8) evaluates with.
    """

    def __init__(self, net: Layer, decay: float) -> None:
        super().__init__(net)
        self.decay, self.updates = decay, 0

    def update(self) -> None:
        self.move(self.next_rate())

    def next_rate(self) -> float:
        """Count an update. Returns its 1 - d."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        return 1 - keep

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this block the network has the averages for weights."""
        weights = [array.copy() for array in self.arrays]
        for array, mean in zip(self.arrays, self.means, strict=True):
            array[...] = mean
        try:
            yield
        finally:
            for array, weight in zip(self.arrays, weights, strict=True):
                array[...] = weight


class Lookahead(Copies):
    """Slow weights and statistics, to which training returns every k = 5 steps; the steps move the fast ones.

        slow = d slow + (1 - d) fast        fast = slow        d = 0.95^5 (t / T)^3

    t of T steps are done. At the beginning of a run d is near 0, and nothing changes; at its end the fast weights are
    pulled back most of the way. After the last step fast = slow, which drops the steps since slow last moved. A run of
    less than k steps, in which it never did, stays as it is. The optimiser's momentum is left alone.

    Zhang, Lucas, Hinton & Ba 2019 (Lookahead Optimizer: k steps forward, 1 step back), algorithm 1, whose d is
    constant; d of t, and the statistics, as in airbench (Jordan 2024, arXiv 2404.00498).
    """

    EVERY = 5

    def __init__(self, net: Layer, steps: int) -> None:
        super().__init__(net)
        self.steps = steps

    def update(self, done: int) -> None:
        """To be called after each step. done: how many are done, this one included."""
        if done % self.EVERY == 0:
            self.move(1 - 0.95**5 * (done / self.steps) ** 3, back=True)
        elif done == self.steps > self.EVERY:
            self.move(0.0, back=True)

"""Running averages that training keeps beside the weights, and how they forget their beginning."""

import contextlib
from collections.abc import Iterator

from .backend import Array
from .kernels.update import move_averages, pieces
from .layer import Layer, named_buffers, vectors
from .layers.batchnorm import BatchNorm


def warm_statistics(norms: list[tuple[BatchNorm, float]], updates: int) -> None:
    """Let batch norm's running averages forget their beginning, 0 and 1, as `Average` does.

    A decay of 0.99 would take hundreds of steps to forget it, TF-slim's 0.9997 ten thousands, and
    until then a network that trains well tests badly. norms: the layers with their own decay.
    """
    for layer, decay in norms:
        layer.decay = min(decay, (1 + updates) / (10 + updates))


class Average:
    """Running averages of the weights and of batch norm's statistics.

        mean = d mean + (1 - d) weight        d = min(decay, (1 + updates) / (10 + updates))

    The second term lets it forget the random beginning, as in TensorFlow's
    ExponentialMovingAverage, which the Rethinking paper (section 8) evaluates with.
    """

    def __init__(self, net: Layer, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.arrays = [vectors(net)[0], *(b.data for b in named_buffers(net).values())]
        self.means = [array.copy() for array in self.arrays]
        self.pieces = pieces(self.means, self.arrays)

    def update(self) -> None:
        self.move(self.next_rate())

    def next_rate(self) -> float:
        """Count an update. Returns its 1 - d."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        return 1 - keep

    def move(self, rate: float | Array) -> None:
        """mean += rate (weight - mean); rate may be an array of one number, as in a captured step."""
        move_averages(self.means, self.arrays, rate, self.pieces)

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

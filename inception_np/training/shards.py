"""A step in shards: the parts of a batch go through the network one after the other, and on several workers.

    --shards 8              a batch of 256 is eight shards of 32 images
    mpiexec -n 4 ...        four workers have two of them each

Each shard has a forward and a backward pass of its own, with batch statistics of its own images and random numbers of
its own, whoever computes it. The gradient of the batch is the mean over its shards, and so are its losses and what
batch norm's averages move by; all are summed up in one tree (parallel/tree.py). So the number of shards is part of what
is computed, and the number of workers is not: the weights have the same bits for 1, 2, 4 and 8. Of photographs in files
a worker reads those of its own shards; images in memory are in that of every worker.

A worker sums up its own shards as far as the tree goes. Like the bits of a counter, the sum over shards 0..1 waits for
that over 2..3, and that over 0..3 for 4..7: of k shards, the binary digits of k at most are kept. While the last of
them goes backward, what is finished of its gradient leaves (parallel/exchange.py; between GPUs parallel/nccl.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from ..backend.arrays import Array
from ..backend.device import zeros
from ..kernels.update import move_averages, pieces
from ..layer import named_buffers, places_in_vectors, vectors
from ..models.network import Network
from ..parallel.exchange import Exchange
from ..parallel.nccl import GpuExchange
from ..parallel.tree import Range, are_siblings, tree_sum
from ..parallel.workers import Workers
from ..runtime.replay import Replay
from .step import Draw, EagerStep, Losses
from .watchdog import NOWHERE, first_bad_layer

BUCKET = 1 << 20  # bytes that a bucket has at least: smaller messages would wait longer than they travel


class Statistics:
    """Batch norm's averages, what they were before a step, and what a shard has moved them by.

    The last two are vectors, and `move_averages` carries numbers between them and the many small arrays: on a GPU it
    takes all of them in one launch. With a rate of 1 it makes means that are 0 the arrays, and with a rate of 0 and
    `back` the arrays the means, to the bit.
    """

    def __init__(self, net: Network, like: Array) -> None:
        self.arrays = [buffer.data for buffer in named_buffers(net).values()]
        ends = np.cumsum([a.size for a in self.arrays], dtype=int).tolist()
        self.before, self.moves = (zeros((sum(a.size for a in self.arrays),), like.dtype, like) for _ in range(2))
        self.views = [
            [vector[end - a.size : end].reshape(a.shape) for a, end in zip(self.arrays, ends, strict=True)]
            for vector in (self.before, self.moves)
        ]
        self.pieces = [pieces(views, self.arrays) if self.arrays else None for views in self.views]

    def keep(self) -> None:
        """They are now what they were before the step."""
        self._copy_to(self.before, 0)

    def take_moves(self) -> None:
        """Find what they were moved by, and undo it."""
        self._copy_to(self.moves, 1)
        self.moves -= self.before
        self._bring_back()

    def move(self) -> None:
        """Move them by `moves` from what they were before the step."""
        self.before += self.moves
        self._bring_back()

    def _copy_to(self, vector: Array, which: int) -> None:
        vector[...] = 0
        if self.arrays:
            move_averages(self.views[which], self.arrays, 1.0, self.pieces[which])

    def _bring_back(self) -> None:
        if self.arrays:
            move_averages(self.views[0], self.arrays, 0.0, self.pieces[0], back=True)


class Sum(NamedTuple):
    """The sum over a range of shards, cut into buckets."""

    shards: Range
    buckets: list[Array]


@dataclass
class ShardedStep(EagerStep):
    """The mean over `options.shards` parts of the batch, of which each of the workers computes its own."""

    workers: Workers

    def __post_init__(self) -> None:
        super().__post_init__()
        o = self.options
        between_gpus = self.workers.size > 1 and not isinstance(self.optimiser.grad, np.ndarray)
        kind: type[Exchange | GpuExchange] = GpuExchange if between_gpus else Exchange
        self.exchange = kind(self.workers, o.shards)
        self.own = range(*self.exchange.blocks[self.workers.rank])
        self.statistics = Statistics(self.net, self.optimiser.grad)
        self.parts = [self.optimiser.grad[place] for place in buckets(self.net)]
        self.buckets = [*self.parts, *[self.statistics.moves] * bool(self.statistics.arrays)]
        self.passes = Replay(self.trained, low_memory=o.low_memory, parts=self.parts, final=self.leave)
        self.joined: list[Sum] = []  # with which the last shard's gradient is summed up,
        self.apart: list[Sum] | None = None  # and the others that are sent beside it; None before the last shard

    def own_part(self, index: np.ndarray) -> np.ndarray:
        size = len(index) // self.options.shards
        return index[self.own.start * size : self.own.stop * size]

    def mean_gradients(self, index: np.ndarray, draw: Draw, mirrored: np.ndarray | None) -> tuple[Losses, int]:
        images, labels, rows = self.data.train_images[index], self.data.train_labels[index], list[list[float]]()

        def passes(part: slice, draw: Draw) -> None:
            x, targets = self.batch(images[part], labels[part], draw, None if mirrored is None else mirrored[part])
            losses, right = self.gradients(x, targets, draw("dropout"))
            rows.append([*losses, right])

        self.over_shards(len(index), draw, passes)
        return self._means(np.array(rows))

    def over_shards(self, count: int, draw: Draw, passes: Callable[[slice, Draw], None]) -> None:
        """Fill the gradient vector with the mean over all shards, and move batch norm's averages by the mean move.

        passes: adds the gradient of one shard, a slice of this worker's `count` images, to the vector, and moves the
        averages; of the last shard it has `leave` called for every bucket of the vector.
        """
        self.statistics.keep()
        self.apart, sums = None, list[Sum]()
        for shard, part, own_draw in self.own_shards(count, draw):
            if shard == self.own[-1]:
                self.joined, self.apart = _carry(sums, shard, self.options.shards)
            passes(part, own_draw)
            self.statistics.take_moves()
            if shard != self.own[-1]:
                sums = self._with_shard(sums, shard)
        if self.statistics.arrays:
            self.leave(len(self.buckets) - 1)
        self.exchange.wait()
        self.statistics.move()

    def own_shards(self, count: int, draw: Draw) -> Iterator[tuple[int, slice, Draw]]:
        """(shard, which of this worker's `count` images are in it, where it draws from) of each that it has."""
        size = count // len(self.own)
        for shard, start in zip(self.own, range(0, count, size), strict=True):
            yield shard, slice(start, start + size), partial(_drawn, draw, shard)

    def _with_shard(self, sums: list[Sum], shard: int) -> list[Sum]:
        """The sums so far with that of a shard, whose gradient is taken out of the gradient vector."""
        joined, apart = _carry(sums, shard, self.options.shards)
        for number, bucket in enumerate(self.buckets):
            for left in joined:
                bucket += left.buckets[number]
        first = joined[-1].shards[0] if joined else shard
        here = Sum((first, shard + 1), [bucket.copy() for bucket in self.buckets])
        self.optimiser.grad[...] = 0
        return [*apart, here]

    def leave(self, number: int) -> None:
        """A bucket of this shard's gradient is final: if that is the last shard's, have the mean over all taken."""
        if self.apart is None:
            return
        bucket = self.buckets[number]
        for left in self.joined:
            bucket += left.buckets[number]
        self.exchange.mean([*(other.buckets[number] for other in self.apart), bucket], bucket)

    def _means(self, rows: np.ndarray) -> tuple[Losses, int]:
        """The losses, and how many were right, of the whole batch."""
        all_rows = self.workers.gather(rows).reshape(self.options.shards, -1)
        total = tree_sum({(i, i + 1): row for i, row in enumerate(all_rows)}, (0, len(all_rows)))
        return Losses(*(float(loss) / len(all_rows) for loss in total[:-1])), round(total[-1])

    def culprit(self, index: np.ndarray, draw: Draw, mirrored: np.ndarray | None) -> str:
        """What was not finite first, in the first shard where something was."""
        self.passes = Replay(self.trained)
        found = NOWHERE
        for _, part, own_draw in self.own_shards(len(index), draw):
            told = None if mirrored is None else mirrored[part]
            passes = partial(super().mean_gradients, index[part], own_draw, told)
            if found == NOWHERE:
                found = first_bad_layer(self.trained, passes)
        return next((text for text in self.workers.gather_texts(found) if text != NOWHERE), NOWHERE)


def _drawn(draw: Draw, shard: int, purpose: str) -> np.random.Generator:
    """The generator of a purpose for one shard."""
    return draw(purpose, shard)


def _carry(sums: list[Sum], shard: int, count: int) -> tuple[list[Sum], list[Sum]]:
    """(the sums that the tree over `count` shards adds to that of this shard, nearest first; the others)."""
    joined, apart, here = list[Sum](), list(sums), (shard, shard + 1)
    while apart and are_siblings(apart[-1].shards, here, count):
        joined.append(apart.pop())
        here = (joined[-1].shards[0], shard + 1)
    return joined, apart


def buckets(net: Network, least: int = BUCKET) -> list[slice]:
    """The gradient vector in slices of at least so many bytes, in the order in which backward finishes them.

    That is from the last stage to the first, and each auxiliary head before the stage that it reads. Two slices that
    are no neighbours in the vector stay two.
    """
    stages = [name for stage in reversed(net.trunk.layers) for name in (f"aux_{stage}", stage)]
    places = places_in_vectors(net).items()
    rank = {name: i for i, name in enumerate(stages)}
    order = sorted(reversed(places), key=lambda place: rank[place[0].partition(".")[0]])
    size = vectors(net)[0].itemsize
    found: list[slice] = []
    for _, place in order:
        if found and place.stop == found[-1].start and (found[-1].stop - found[-1].start) * size < least:
            found[-1] = slice(place.start, found[-1].stop)
        else:
            found.append(place)
    return found

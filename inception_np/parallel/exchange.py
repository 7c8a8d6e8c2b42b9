r"""The mean of gradients over all shards, on every worker and with the same bits, while backward is still running.

Each worker has summed up its own shards as far as the tree goes (tree.py), and has a vector for each of its subtrees;
usually that is one. Every worker owns a piece of the vector. Four workers, with the pieces a b c d:

    worker 0    a0 b0 c0 d0         a0+a1+a2+a3                 a  b  c  d
    worker 1    a1 b1 c1 d1   ->        b0+b1+b2+b3        ->   a  b  c  d
    worker 2    a2 b2 c2 d2                c0+c1+c2+c3          a  b  c  d
    worker 3    a3 b3 c3 d3                    d0+d1+d2+d3      a  b  c  d

                          reduce-scatter                 all-gather

First every worker sends each owner its piece of all subtrees. The owner adds them along the tree: it has them all, so
that the brackets are where they always are, and no two workers add the same pair. Then it sends the mean to everyone.
Of a vector of V bytes a worker sends and receives (n - 1) / n V in each half, 2 (n - 1) / n V in all, which is the
least that any all-reduce can do (Patarasuk & Yuan 2009, theorem 1); with s subtrees for a worker, (1 + s) in place of
2. s is 1 wherever a worker has a power of two of shards. A ring or MPI_Allreduce sends as much, but adds in an order
that depends on the number of workers.

The vector goes in buckets, in the order in which backward finishes them, from a thread of its own: while it waits for
the network, the kernels run. What backward itself cannot hide is the last bucket.
"""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backend.arrays import Array, array_module
from .tree import Range, blocks, subtrees, tree_sum
from .workers import NAP, Workers, bytes_of, wait


class Shares:
    """What each worker has of the shards, and of a vector that they take the mean of.

    blocks: the shards of each worker. subtrees: those that it has to send the sums of; `held` are this worker's.
    """

    def __init__(self, workers: Workers, shards: int) -> None:
        self.workers, self.shards = workers, shards
        self.blocks = blocks(shards, workers.size)
        self.subtrees = [subtrees(block, (0, shards)) for block in self.blocks]
        self.held = self.subtrees[workers.rank]

    def cuts(self, length: int) -> list[int]:
        """Where the workers' pieces of a vector begin, and the end of the last."""
        return [length * w // self.workers.size for w in range(self.workers.size + 1)]

    def mean_of(self, sums: Mapping[Range, Array], out: Array) -> None:
        """Write the mean over all shards to `out`, from the sums over subtrees that cover them."""
        share = float(out.dtype.type(1 / self.shards))
        array_module(out).multiply(tree_sum(sums, (0, self.shards)), share, out=out)


class Exchange(Shares):
    """Takes the means of arrays over all shards.

        exchange = Exchange(workers, 8)
        exchange.mean(parts, out)           returns at once; parts: the sums over the subtrees in `held`, in order
        exchange.wait()                     now `out` is the mean over all shards

    All workers call `mean` with arrays of the same shapes, in the same order. Parts are neither read nor written after
    `wait`; `out` may be one of them. waited: seconds that `wait` has taken, the part of the exchange that was not
    hidden.
    """

    def __init__(self, workers: Workers, shards: int) -> None:
        super().__init__(workers, shards)
        self.waited = 0.0
        self.comm: Any = workers.comm.Dup() if workers.size > 1 else None
        self.jobs: queue.Queue[tuple[list[np.ndarray], np.ndarray] | None] = queue.Queue()
        self.done = threading.Event()
        self.error: Exception | None = None
        self.thread: threading.Thread | None = None

    def mean(self, parts: Sequence[Array], out: Array) -> None:
        """Begin to make `out` the mean over all shards of what the parts are the sums of.

        A worker that is alone may have them on any device; several have NumPy arrays.
        """
        if self.workers.size == 1:
            self.mean_of(dict(zip(self.held, parts, strict=True)), out)
            return
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, name="exchange", daemon=True)
            self.thread.start()
        self.jobs.put((list(parts), out))

    def wait(self) -> None:
        """Until all means are there. Raises what went wrong in the thread."""
        if self.thread is None:
            return
        started = time.perf_counter()
        self.done.clear()
        self.jobs.put(None)
        self.done.wait()
        self.waited += time.perf_counter() - started
        if self.error:
            raise self.error

    def _run(self) -> None:
        """The thread. Its calls of MPI begin in the same order on all workers: each job's two halves, job after job."""
        gathering: list[tuple[Any, Any]] = []  # requests that are under way, and their memory
        while True:
            try:
                job = self.jobs.get(timeout=NAP if gathering else None)
            except queue.Empty:
                gathering = [each for each in gathering if not each[0].Test()]
                continue
            try:
                if job is not None and not self.error:
                    with np.errstate(all="ignore"):  # whoever takes the step sees what is not finite
                        gathering.append(self._begin(*job))
                elif job is None:
                    wait(*(request for request, _ in gathering))
                    gathering = []
            except Exception as error:  # raised by `wait`, in the thread that can say so
                self.error = error
            if job is None:
                self.done.set()

    def _begin(self, parts: list[np.ndarray], out: np.ndarray) -> tuple[Any, Any]:
        """The first half and the sums; the second half is begun."""
        rank, size = self.workers.rank, self.workers.size
        cuts = self.cuts(out.size)
        own = slice(cuts[rank], cuts[rank + 1])
        length = own.stop - own.start
        begun, found = [], {node: part[own] for node, part in zip(self.held, parts, strict=True)}
        for level in range(max(map(len, self.subtrees))):  # a subtree of each worker that has so many
            senders = [w for w in range(size) if w != rank and level < len(self.subtrees[w])]
            room = np.empty((len(senders), length), out.dtype)
            found |= {self.subtrees[w][level]: row for w, row in zip(senders, room, strict=True)}
            sends = [0 if w == rank or level >= len(parts) else cuts[w + 1] - cuts[w] for w in range(size)]
            receives = [length if w in senders else 0 for w in range(size)]
            sent = parts[min(level, len(parts) - 1)]
            begun.append(
                self.comm.Ialltoallv(
                    _message(sent, sends, cuts[:-1], out.itemsize),
                    _message(room, receives, np.cumsum([0, *receives[:-1]]), out.itemsize),
                )
            )
        wait(*begun)
        self.mean_of(found, out[own])
        counts = [cuts[w + 1] - cuts[w] for w in range(size)]
        piece = out[own].copy()  # MPI may not read what it writes to
        request = self.comm.Iallgatherv(
            _message(piece, [length], [0], out.itemsize)[0], _message(out, counts, cuts[:-1], out.itemsize)
        )
        return request, (piece, out)


def _message(array: np.ndarray, counts: Any, starts: Any, itemsize: int) -> list[Any]:
    """An array as MPI takes it, with how much of it goes to (or comes from) each worker, and where that begins."""
    from mpi4py import MPI

    return [bytes_of(array), [int(c) * itemsize for c in counts], [int(s) * itemsize for s in starts], MPI.BYTE]

"""A second stream for the gradients of weights, which nothing waits for until the end of a backward pass.

The optimiser reads dw; the layer before reads dx. Most of these launches are too small for a whole GPU, so the dw of
one layer can run at the same time as the dx of the layers before it.

    with side_stream(stream):        # conv2d_dw and depthwise2d_dw are launched on `stream`
        net.backward(...)
    optimiser.step()                 # runs after all of them

Each leaves parts of a sum, and many such sums are made by one launch: when their parts take HELD bytes, and at the end.

CuPy reuses the memory of an array that is not held, and knows of one stream only: so what these launches read is held
until the end of the block. Nothing may write to it before then, and no layer of this package does.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from ...backend.arrays import Array, array_module
from .elementwise import JOBS, sum_parts
from .launch import address

# Bytes of parts that wait to be summed. (All of a step of inception_v3_cifar at batch 256 are 340 MB.) Memory that a
# larger batch could have; and what is left to sum at the end, nothing runs beside.
HELD = 2**28


class _Local(threading.local):
    side: "_Side | None" = None


class _Side:
    """One side_stream block."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.held: list[Any] = []  # arrays that launches read
        self.sums: list[tuple[Array, Array]] = []  # (part, into): what is still to be added

    def add(self, part: Array, into: Array) -> None:
        if any(_overlap(into, other) for _, other in self.sums):  # a layer used twice: one sum after the other
            self.flush()
        self.sums.append((part, into))
        if len(self.sums) == JOBS or sum(p.nbytes for p, _ in self.sums) > HELD:
            self.flush()

    def flush(self) -> None:
        with self.stream:
            sum_parts(*self.sums)
        self.sums.clear()


_local = _Local()


@contextlib.contextmanager
def side_stream(stream: Any) -> Iterator[None]:
    """Within this block `on_side_stream` launches on `stream`; at its end the current stream waits for it.

    (Not if nothing was launched on it: a capture refuses to wait for work from outside.)
    """
    side = _local.side = _Side(stream)
    try:
        yield
        if side.sums:
            side.flush()
    finally:
        _local.side = None
        if side.held:
            cuda = array_module(side.held[0]).cuda
            done = cuda.Event(disable_timing=True)
            done.record(stream)
            cuda.get_current_stream().wait_event(done)
            side.held.clear()


@contextlib.contextmanager
def on_side_stream(*arrays: Array) -> Iterator[None]:
    """Launch on the stream of the `side_stream` block around this one, if any, after all launches so far.

    arrays: what is read there. Nothing may write to them before the end of the `side_stream` block.
    """
    side = _local.side
    if side is None:
        yield
        return
    cuda = array_module(arrays[0]).cuda
    begun = cuda.Event(disable_timing=True)
    begun.record(cuda.get_current_stream())
    side.stream.wait_event(begun)
    side.held += [*arrays, begun]
    with side.stream:
        yield


def add_parts(part: Array, into: Array) -> None:
    """into += the sum of part (parts, ...) over its first axis: now, or with others in the `side_stream` block."""
    if _local.side is None:
        sum_parts((part, into))
    else:
        _local.side.add(part, into)


def _overlap(a: Array, b: Array) -> bool:
    """Do they share memory? Both are contiguous."""
    return bool(address(a) < address(b) + b.nbytes and address(b) < address(a) + a.nbytes)

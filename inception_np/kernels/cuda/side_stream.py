"""A second stream for the gradients of weights, which nothing waits for until the end of a backward pass.

The optimiser reads dw; the layer before reads dx. Most of these launches are too small for a whole GPU, so the dw of
one layer can run at the same time as the dx of the layers before it.

    with side_stream(stream):        # conv2d_dw and depthwise2d_dw are launched on `stream`
        net.backward(...)
    optimiser.step()                 # runs after all of them

CuPy reuses the memory of an array that is not held, and knows of one stream only: so what these launches read is held
until the end of the block. Nothing may write to it before then, and no layer of this package does.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from ...backend.arrays import Array, array_module


class _Local(threading.local):
    side: tuple[Any, list[Any]] | None = None  # the stream, and the arrays that are held


_local = _Local()


@contextlib.contextmanager
def side_stream(stream: Any) -> Iterator[None]:
    """Within this block `on_side_stream` launches on `stream`; at its end the current stream waits for it.

    (Not if nothing was launched on it: a capture refuses to wait for work from outside.)
    """
    held: list[Any] = []
    _local.side = stream, held
    try:
        yield
    finally:
        _local.side = None
        if held:
            cuda = array_module(held[0]).cuda
            done = cuda.Event(disable_timing=True)
            done.record(stream)
            cuda.get_current_stream().wait_event(done)
            held.clear()


@contextlib.contextmanager
def on_side_stream(*arrays: Array) -> Iterator[None]:
    """Launch on the stream of the `side_stream` block around this one, if any, after all launches so far.

    arrays: what is read there. Nothing may write to them before the end of the `side_stream` block.
    """
    if _local.side is None:
        yield
        return
    stream, held = _local.side
    cuda = array_module(arrays[0]).cuda
    begun = cuda.Event(disable_timing=True)
    begun.record(cuda.get_current_stream())
    stream.wait_event(begun)
    held += [*arrays, begun]
    with stream:
        yield

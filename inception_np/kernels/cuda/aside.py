"""Launches that nothing waits for until the end of a backward pass: gradients of weights, beside those of the input.

dw is wanted by the optimiser only, dx by the layer before. Most of these launches are too small for a whole GPU, so
that the dw of one layer can run while dx goes on its way through those before it.

    with aside(stream):        # conv2d_dw and depthwise2d_dw go to `stream`
        net.backward(...)
    optimiser.step()           # comes after them all

CuPy hands the memory of an array that nobody holds to whoever asks next, and knows of one stream only: what these
launches read is held until the end of the block. Nor may anybody write over it, as no layer of this package does.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from ...backend.arrays import Array, array_module


class _Local(threading.local):
    aside: tuple[Any, list[Any]] | None = None  # the stream, and what is held


_local = _Local()


@contextlib.contextmanager
def aside(stream: Any) -> Iterator[None]:
    """Within this block `beside` launches on `stream`; at its end the current stream waits for it.

    (Not for a stream that nothing was launched on: in a capture that would be work from outside.)
    """
    held: list[Any] = []
    _local.aside = stream, held
    try:
        yield
    finally:
        _local.aside = None
        if held:
            cuda = array_module(held[0]).cuda
            done = cuda.Event(disable_timing=True)
            done.record(stream)
            cuda.get_current_stream().wait_event(done)
            held.clear()


@contextlib.contextmanager
def beside(*arrays: Array) -> Iterator[None]:
    """Launch after what was launched so far, but on the stream of the `aside` around this, if there is one.

    arrays: what is read there. Nobody may write to them before the end of the `aside`.
    """
    if _local.aside is None:
        yield
        return
    stream, held = _local.aside
    cuda = array_module(arrays[0]).cuda
    begun = cuda.Event(disable_timing=True)
    begun.record(cuda.get_current_stream())
    stream.wait_event(begun)
    held += [*arrays, begun]
    with stream:
        yield

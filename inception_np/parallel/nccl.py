r"""The exchange of exchange.py between GPUs, with the same pieces, the same tree and so the same bits.

    the network's stream     ... backward |                                            | the optimiser's step
                                           \                                          /
    the exchange's stream                   pieces to their owners | tree sum | means

NCCL carries arrays from one GPU to another. Its own reductions (ncclAllReduce, ncclReduceScatter) add in an order that
follows from how many GPUs there are and how they are connected. So it only copies here: in one group of ncclSend and
ncclRecv every worker sends each owner its piece of all subtrees, the owner adds them along the tree, and in a second
group it sends the mean to everyone. (ncclAllGather would do for the second half if all pieces were of one length.)

The host asks for all of this and goes on. What orders it is events: the exchange waits for what the network's stream
was asked before `mean`, and that stream waits in `wait` for the exchange. The whole backward pass of a shard is asked
for before its gradient is final: the exchange comes after it, and is not hidden behind it as on the CPU.

NCCL is called through cupy.cuda.nccl, which comes with CuPy, takes addresses and streams as numbers, and wants
NVIDIA's library alone (nvidia-nccl-cu13). nccl4py has the same calls, and brings cuda-core, and cuda-bindings and the
CUTLASS compiler of its extras with it. cupyx.distributed is built on cupy.cuda.nccl: it adds a server process that
spreads NCCL's id, which MPI does here, and no call that this needs.
"""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..backend.arrays import Array, array_module
from ..backend.device import DeviceError, nccl, resolve_device, use_gpu
from ..backend.errors import UsageError
from .exchange import Shares
from .tree import Range
from .workers import Workers, machine

ID = 128  # bytes of the id by which NCCL knows that its callers belong together
BYTE = 1  # ncclUint8: all that is sent is copied, whatever it is


class GpuExchange(Shares):
    """Takes the means of arrays over all shards, as Exchange does, each worker on a GPU of its own.

        exchange = GpuExchange(workers, 8)
        exchange.mean(parts, out)
        exchange.wait()                     the current stream waits, the host does not

    Arrays are contiguous vectors. All workers make it at the same time. waited: 0, since the host waits for nothing.
    """

    waited = 0.0

    def __init__(self, workers: Workers, shards: int) -> None:
        super().__init__(workers, shards)
        self.nccl = nccl()
        name = np.zeros(ID, np.uint8)
        if workers.rank == 0:
            name[...] = np.frombuffer(self.nccl.get_unique_id(), np.uint8)
        workers.spread(name)
        self.comm = self.nccl.NcclCommunicator(workers.size, name.tobytes(), workers.rank)
        self.stream: Any = None  # made by the first `mean`, with the events
        self.ready: Any
        self.done: Any
        self.kept: list[Array] = []  # CuPy knows of one stream only: else others would have their memory

    def mean(self, parts: Sequence[Array], out: Array) -> None:
        """Begin to make `out` the mean over all shards of what the parts are the sums of."""
        cuda = array_module(out).cuda
        if self.stream is None:
            self.stream = cuda.Stream(non_blocking=True)
            self.ready, self.done = (cuda.Event(disable_timing=True) for _ in range(2))
        self.ready.record(cuda.get_current_stream())
        self.stream.wait_event(self.ready)
        self.kept += [*parts, out]
        rank, cuts = self.workers.rank, self.cuts(out.size)
        pieces = [slice(*cut) for cut in pairwise(cuts)]
        with self.stream:
            sums = self._gathered(parts, pieces)
            self.mean_of(sums, out[pieces[rank]])
            with self._group():
                for other in self._others():
                    self._send(out[pieces[rank]], other)
                    self._receive(out[pieces[other]], other)

    def wait(self) -> None:
        """Let the current stream wait for all means. Raises NcclError where NCCL has found an error meanwhile."""
        if not self.kept:
            return
        self.comm.check_async_error()
        self.done.record(self.stream)
        array_module(self.kept[0]).cuda.get_current_stream().wait_event(self.done)
        self.kept.clear()

    def _gathered(self, parts: Sequence[Array], pieces: list[slice]) -> dict[Range, Array]:
        """This worker's piece of the sums over all subtrees, its own and those that the others send."""
        rank, module = self.workers.rank, array_module(parts[0])
        length = pieces[rank].stop - pieces[rank].start
        sums = {node: part[pieces[rank]] for node, part in zip(self.held, parts, strict=True)}
        with self._group():
            for other in self._others():
                for part in parts:
                    self._send(part[pieces[other]], other)
                for node in self.subtrees[other]:
                    sums[node] = module.empty((length,), parts[0].dtype)
                    self._receive(sums[node], other)
        return sums

    def _others(self) -> Iterator[int]:
        return (worker for worker in range(self.workers.size) if worker != self.workers.rank)

    @contextlib.contextmanager
    def _group(self) -> Iterator[None]:
        """What is sent and received within this block happens at once: nobody waits for who waits for him."""
        self.nccl.groupStart()
        try:
            yield
        finally:
            self.nccl.groupEnd()

    def _send(self, array: Array, worker: int) -> None:
        if array.size:
            self.comm.send(array.data.ptr, array.nbytes, BYTE, worker, self.stream.ptr)

    def _receive(self, array: Array, worker: int) -> None:
        if array.size:
            self.comm.recv(array.data.ptr, array.nbytes, BYTE, worker, self.stream.ptr)


def take_gpu(workers: Workers) -> None:
    """Let each of several workers compute on a GPU of its own from now on; one that is alone stays where it is.

    It is that of its number among the workers on its machine. Raises UsageError where two have the same one, and
    DeviceError where one has none or no NCCL; all workers raise alike.
    """
    if workers.size == 1:
        return
    number, wrong, gpu = workers.number_on_this_machine(), "", ""
    try:
        resolve_device("cuda")
        nccl()
        gpu = f"{use_gpu(number)} of {machine()}"
    except DeviceError as error:
        wrong = str(error)
    found = next(filter(None, workers.gather_texts(wrong)), None)
    if found:
        raise DeviceError(found)
    gpus = workers.gather_texts(gpu)
    shared = next((gpu for gpu in gpus if gpus.count(gpu) > 1), None)
    if shared:
        raise UsageError(
            f"--device: got {gpus.count(shared)} workers for the GPU {shared}, wanted one for each GPU; "
            f"mpiexec -n {len(set(gpus))} starts as many as there are"
        )

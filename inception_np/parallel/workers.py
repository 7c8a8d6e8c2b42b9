"""The processes that train together, as mpiexec (or another launcher of MPI) has started them.

    workers = of_process()
    workers.rank, workers.size          0 and 1 in a process that was started alone
    workers.gather(row)                 the rows of all workers, on every worker

Only this file and exchange.py call MPI, through mpi4py. MPICH waits for a message by asking for it without pause, which
takes a core from whoever computes: here a process sleeps between two looks.
"""

import contextlib
import os
import re
import threading
import time
from functools import cache
from typing import Any

import numpy as np

from ..backend.errors import RefusedError, UsageError
from .launcher import SIZES, launched

NAP = 2e-4  # seconds between two looks


class Workers:
    """This process among its like. comm: mpi4py's communicator, None for one that is alone."""

    def __init__(self, comm: Any = None) -> None:
        self.comm = comm
        self.rank: int = comm.Get_rank() if comm else 0
        self.size: int = comm.Get_size() if comm else 1

    def gather(self, row: np.ndarray) -> np.ndarray:
        """(size, *row.shape): what every worker gives, in order of their ranks. Each gives the same shape and dtype."""
        row = np.asarray(row, order="C")
        rows = np.empty((self.size, *row.shape), row.dtype)
        if self.comm:
            wait(self.comm.Iallgather(bytes_of(row), bytes_of(rows)))
        else:
            rows[0] = row
        return rows

    def gather_texts(self, text: str) -> list[str]:
        """A text of each worker, in order of their ranks."""
        data = np.frombuffer(text.encode(), np.uint8)
        lengths = self.gather(np.array(len(data)))
        room = np.zeros(lengths.max(), np.uint8)
        room[: len(data)] = data
        return [bytes(row[:length]).decode() for row, length in zip(self.gather(room), lengths, strict=True)]

    def spread(self, array: np.ndarray) -> None:
        """Give every worker the numbers of rank 0's array, in place; contiguous, of the same shape and dtype."""
        if self.comm:
            wait(self.comm.Ibcast(bytes_of(array)))

    def finalise(self, patience: float, code: int) -> None:
        """Wait for all workers, and end MPI. Should that take longer than `patience` seconds, end the process instead.

        code: what the process then ends with.
        """
        if not self.comm:
            return
        from mpi4py import MPI

        wait(self.comm.Ibarrier())
        late = threading.Timer(patience, os._exit, [code])
        late.daemon = True
        late.start()
        MPI.Finalize()
        late.cancel()

    def on_this_machine(self) -> int:
        """How many of the workers run on this machine."""
        names = self.gather_texts(machine())
        return names.count(names[self.rank])

    def number_on_this_machine(self) -> int:
        """This worker's number among those on this machine, from 0."""
        names = self.gather_texts(machine())
        return names[: self.rank].count(names[self.rank])


def machine() -> str:
    """The name of this machine."""
    return os.uname().nodename if hasattr(os, "uname") else ""


ALONE = Workers()


def bytes_of(array: np.ndarray) -> np.ndarray:
    """The memory of a contiguous array, as mpi4py takes arrays of any dtype."""
    return array.reshape(-1).view(np.uint8)


def wait(*requests: Any) -> None:
    """Until these non-blocking calls of MPI are done."""
    for request in requests:
        while not request.Test():
            time.sleep(NAP)


@cache
def of_process() -> Workers:
    """The workers that this process is one of.

    Raises RefusedError where mpi4py is missing or belongs to another MPI than the launcher.
    """
    if not launched():
        return Workers()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise RefusedError(
            f"mpiexec: started several workers, for which mpi4py or MPI is missing ({error}); "
            "pip install 'inception-np[mpi]'"
        ) from None
    workers = Workers(MPI.COMM_WORLD)
    wanted = next((int(os.environ[name]) for name in SIZES if name in os.environ), workers.size)
    if workers.size != wanted:
        raise RefusedError(
            f"mpiexec: started {wanted} workers, of which this one sees {workers.size}: mpi4py has found another MPI "
            "than mpiexec's; start it with the mpiexec beside this Python"
        )
    workers.gather(np.array(0))  # all have what the next line takes the name of
    unlink_shared_memory()
    return workers


def unlink_shared_memory() -> None:
    """Take away the name of the memory that MPICH's processes share, a file: else it stays where they are killed.

    The system frees it with the last process that has it.
    """
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
        for path in set(re.findall(r"/dev/shm/mpich_\S+", maps.read())):
            with contextlib.suppress(OSError):  # another one was faster
                os.unlink(path)


def check_shards(shards: int, workers: Workers) -> None:
    """Raise UsageError unless these workers can share so many shards evenly."""
    if workers.size > 1 and not shards:
        raise UsageError(
            f"--shards: got none for {workers.size} workers; add --shards {max(8, workers.size)}: into so many parts "
            "they cut a batch"
        )
    if shards % workers.size:
        raise UsageError(f"--shards: got {shards} for {workers.size} workers; give a multiple of {workers.size}")

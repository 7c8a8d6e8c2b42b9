"""What mpiexec (or another launcher of MPI) tells a process before MPI is there, by its environment."""

import contextlib
import os
from typing import NoReturn

# What MPICH's (and Intel's, Cray's), PMIx's and Open MPI's launchers set for each process.
RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


def launched() -> bool:
    """Whether this process is one of several that a launcher of MPI has started. Does not load MPI."""
    return any(name in os.environ for name in RANKS) and not any(os.environ.get(name) == "1" for name in SIZES)


def launched_rank() -> int:
    """The rank that MPI will give to this process; 0 for one that is alone."""
    return next((int(os.environ[name]) for name in RANKS if name in os.environ), 0) if launched() else 0


def abort(code: int) -> NoReturn:
    """End this process and all others that were started with it, whether they have begun with MPI yet or not.

    MPICH's launcher takes no notice of a process that ends before MPI_Init, where the others would wait for it for
    ever: it is told in its own language (PMI-1), as MPI_Abort does. It then ends with this code too, where otherwise
    it might give that with which it killed another.
    """
    from .watcher import wait_until_read

    wait_until_read()
    with contextlib.suppress(KeyError, ValueError, OSError):
        os.write(int(os.environ["PMI_FD"]), f"cmd=abort exitcode={code}\n".encode())
    os._exit(code)

"""How many threads the compiled kernels run on. The results are the same bits for any number.

INCEPTION_NP_THREADS    the number to start with; else one for every core that this process may use
"""

import os

_threads = 0


def num_threads() -> int:
    """How many threads the kernels run on. Raises ValueError for an INCEPTION_NP_THREADS that is no positive number."""
    global _threads
    if not _threads:
        wanted = os.environ.get("INCEPTION_NP_THREADS", "")
        if wanted and (not wanted.isdigit() or int(wanted) < 1):
            raise ValueError(f"INCEPTION_NP_THREADS: got {wanted!r}, wanted a positive number")
        _threads = int(wanted) if wanted else _cores()
    return _threads


def set_num_threads(count: int) -> None:
    """Run the kernels on this many threads, from the next call on.

    With more threads than cores the work is divided so, and the cores take turns.
    Raises TypeError for anything but an int and ValueError below 1.
    """
    global _threads
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise TypeError(f"set_num_threads: got {count!r}, wanted an int")
    if count < 1:
        raise ValueError(f"set_num_threads: got {count}, wanted at least 1")
    _threads = int(count)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

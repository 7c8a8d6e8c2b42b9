"""How many threads the compiled kernels run on. The results are the same bits for any number.

INCEPTION_NP_THREADS    the number to start with; else one for every core that this process may use

At most four for each core, since more are only slower. On two cores, in milliseconds, a training step
of inception_resnet_v2_cifar of width 1/8 on 32 images:

    threads    1     2     4     8     16     32     64     128
    ms       140    76    73   100    160    302    801    1675
"""

import os
import sys

MOST_PER_CORE = 4
used = 0  # threads that kernels run on; 0 until num_threads is called
_said = False


def num_threads() -> int:
    """How many threads the kernels run on. Raises ValueError for an INCEPTION_NP_THREADS that is no positive number."""
    global used
    if not used:
        wanted = os.environ.get("INCEPTION_NP_THREADS", "")
        digits = wanted.lstrip("0")
        if wanted and not (digits.isascii() and digits.isdigit()):
            raise ValueError(f"INCEPTION_NP_THREADS: got {wanted[:40]!r}, wanted a whole number from 1")
        used = _capped(int(digits[:18])) if wanted else cores()
    return used


def set_num_threads(count: int) -> None:
    """Run the kernels on this many threads, from the next call on.

    More threads than cores share the cores. At most four for each core are started; where more are asked for, a line on
    standard error says so. Raises TypeError for anything but an int and ValueError below 1.
    """
    global used
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise TypeError(f"set_num_threads: got {count!r}, wanted an int")
    if count < 1:
        raise ValueError(f"set_num_threads: got {count}, wanted at least 1")
    used = _capped(int(count))


def _capped(count: int) -> int:
    """The number of threads that are used where `count` are asked for."""
    global _said
    most = MOST_PER_CORE * cores()
    if count > most and not _said:
        _said = True
        print(
            f"inception-np: threads: {most} are used, {MOST_PER_CORE} for each core; more would be slower",
            file=sys.stderr,
        )
    return min(count, most)


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

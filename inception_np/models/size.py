"""How large a network's weights are, told before it is made, and how much memory there is for them."""

import contextlib
from pathlib import Path

from ..backend.errors import RefusedError
from ..layer import named_params
from . import WIDEST, create_model, find

MANY_CLASSES = 50_000  # a classifier of fewer fits anywhere


def check_width(name: str, width: float | None, copies: int, classes: int | None = None) -> None:
    """Raise RefusedError for a network whose weights alone will not fit, before it is made.

    width, classes: None is the network's own. copies: how many arrays as large as the weights there are beside them.
    """
    entry = find(name)[0]
    wide = width is not None and 2 * entry.width < width <= WIDEST  # create_model refuses what is no width
    if not wide and (classes or 0) <= MANY_CLASSES:
        return
    wanted = (1 + copies) * weights_of(name, width if wide else None, classes)
    if wanted > 0.9 * available():
        what = f"--width: {width:g}" if wide else f"--classes: {classes}"
        less = f"a width nearer to {entry.width:g}" if wide else "fewer classes"
        raise RefusedError(
            f"{what} makes about {readable(wanted)} of weights, {readable(available())} are free; choose {less}"
        )


def weights_of(name: str, width: float | None = None, classes: int | None = None) -> float:
    """About how many bytes the weights of a network take, which is not made.

    They are those of the network as it usually is, times the square of the width; a classifier's grow with the width
    and with the number of classes.
    """
    entry = find(name)[0]
    params = named_params(create_model(name)).values()
    factor = 1.0 if width is None else width / entry.width
    body = sum(p.data.nbytes for p in params) * factor**2
    heads = sum(p.data.nbytes for p in params if p.data.shape[-1] == entry.classes) * factor
    return float(body + heads * (classes or 0) / entry.classes)


def available() -> int:
    """Bytes that this process may still take: the least of what its limit, the machine and its control group leave."""
    limits: list[int] = []
    with contextlib.suppress(ImportError, OSError, ValueError):  # ulimit -v
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limits.append(max(0, most - taken))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        limit, used = (group / name for name in ("memory.max", "memory.current"))
        if limit.exists() and limit.read_text().strip() != "max":
            limits.append(int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):
        pass
    return min(limits, default=2**63)


def readable(count: float) -> str:
    """A number of bytes as text, such as "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"

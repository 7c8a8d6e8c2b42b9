"""Workers that differ would train something that no worker alone computes: they refuse at the start.

    check_alike(workers, versions_and_processor, "install the same on all machines")
    check_alike(workers, lambda: {"--seed": "3", ...}, "start all workers with the same options")
    check_alike(workers, partial(digests, data), "give all workers the same images")

The bits of a sum depend on the width of the vectors that it is taken in, so that processors count as versions do.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..backend.errors import UsageError
from ..data.dataset import Dataset
from ..data.photographs import Photographs
from .watcher import ranks
from .workers import Workers

LONGEST = 60  # letters of a fact that an error shows


def check_alike(workers: Workers, facts: Callable[[], Mapping[str, str]], advice: str) -> None:
    """Raise the same UsageError on all workers unless facts() of all are those of rank 0. All call it at once.

    A worker that is alone does not ask for them. The error names the first fact that differs, the ranks where it does
    so alike, what they have and what rank 0 has.
    """
    if workers.size == 1:
        return
    first, *others = (json.loads(text) for text in workers.gather_texts(json.dumps(dict(facts()))))
    for name in dict.fromkeys(name for each in (first, *others) for name in each):
        here = [each.get(name, "nothing") for each in (first, *others)]
        other = next((value for value in here if value != here[0]), None)
        if other is not None:
            differing = [rank for rank, value in enumerate(here) if value == other]
            have = "has" if len(differing) == 1 else "have"
            raise UsageError(
                f"{name}: {ranks(differing)} {have} {_short(other)}, rank 0 has {_short(here[0])}; {advice}"
            )


def versions_and_processor() -> dict[str, str]:
    """What the bits of a result depend on besides options and data."""
    import numba
    from llvmlite import binding

    from .. import __version__

    try:
        features = json.dumps(dict(binding.get_host_cpu_features()), sort_keys=True)
    except RuntimeError:  # LLVM does not know those of some processors
        features = ""
    config: Any = numba.config
    processor = f"{config.CPU_NAME or binding.get_host_cpu_name()} {_digest(config.CPU_FEATURES or features)}"
    return {
        "inception_np": __version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "Numba": numba.__version__,
        "processor": processor,
    }


def digests(data: Dataset) -> dict[str, str]:
    """What a data set holds, in a few letters: its classes, labels and images, and how they are normalised.

    Of photographs that are still in their files these are the names and the sizes of the files, not their pixels.
    """
    normalisation = (data.mean, data.std, data.pad, data.mirrored)
    return {
        "--data": data.name,
        "classes": _digest(data.classes),
        "training labels": _digest(data.train_labels),
        "training images": _digest(data.train_images),
        "test labels": _digest(data.test_labels),
        "test images": _digest(data.test_images),
        "normalisation": _digest(normalisation),
    }


def _digest(what: Any) -> str:
    """The first letters of a SHA-256."""
    if isinstance(what, Photographs):
        what = [("/".join(path.parts[-2:]), path.stat().st_size) for path in what.paths]
    if isinstance(what, np.ndarray):
        digest = hashlib.sha256(f"{what.dtype} {what.shape}".encode())
        digest.update(np.ascontiguousarray(what).reshape(-1).view(np.uint8).data)
    else:
        digest = hashlib.sha256(repr(what).encode())
    return digest.hexdigest()[:12]


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}..."

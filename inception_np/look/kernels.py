"""What the filters look like: of the first convolution in colour, of later ones tap by tap.

A filter of the first convolution is a small image, and shows what it answers to: edges, colours, waves (Zeiler & Fergus
2014, figure 6). Later ones have a kernel for each pair of an input and an output channel, too many to look at and
none with a meaning of its own. What can be seen is which taps are used,

    u[i, j] = sqrt(mean over c, o of w[i, j, c, o]^2)

and the kernels of the largest norm.
"""

import numpy as np

from ..backend.device import asarray
from ..layer import Buffer, Layer, Param, walk


def spatial_kernels(net: Layer) -> dict[str, np.ndarray]:
    """The weights (kh, kw, C, C') of every convolution with more than one tap, by the convolution's path, each once."""
    found: dict[str, np.ndarray] = {}
    seen: set[int] = set()
    for path, slot in walk(net):
        if isinstance(slot, (Param, Buffer)) and id(slot) not in seen and slot.data.ndim == 4:
            seen.add(id(slot))
            if slot.data.shape[0] * slot.data.shape[1] > 1:
                found[path.rpartition(".")[0]] = asarray(slot.data, "cpu")
    return found


def taps(weight: np.ndarray) -> np.ndarray:
    """u: how much each tap is used, (kh, kw)."""
    used: np.ndarray = np.sqrt(np.mean(np.square(weight, dtype=np.float64), (2, 3)))
    return used


def strongest(weight: np.ndarray, count: int) -> np.ndarray:
    """The `count` kernels w[:, :, c, o] of the largest norm, largest first: (count, kh, kw)."""
    kernels = weight.reshape(*weight.shape[:2], -1).transpose(2, 0, 1)
    norms = np.square(kernels, dtype=np.float64).sum((1, 2))
    chosen: np.ndarray = kernels[np.argsort(-norms, kind="stable")[:count]]
    return chosen

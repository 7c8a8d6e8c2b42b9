"""Initial weights: functions (rng, shape, fan_in, fan_out) -> float32 array.

The variance that keeps a signal's size through a layer of fan_in inputs is 1 / fan_in, or 2 / fan_in where a ReLU
follows and removes half of it; going backward it is the same with fan_out. The names say which compromise is meant:

    lecun   1 / fan_in                     LeCun et al. 1998, section 4.6 (Caffe calls its uniform form "xavier")
    glorot  2 / (fan_in + fan_out)         Glorot & Bengio 2010, equation 12
    he      2 / fan_in                     He et al. 2015, equation 10

A uniform distribution on +-a has variance a^2 / 3.
"""

from collections.abc import Callable

import numpy as np

from ..backend.arrays import Shape

Init = Callable[[np.random.Generator, Shape, int, int], np.ndarray]


def generator(rng: np.random.Generator | None) -> np.random.Generator:
    """rng itself, or for None a generator seeded by the operating system. Raises TypeError for anything else."""
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: got {rng!r}, wanted a numpy Generator, such as numpy.random.default_rng(0)")
    return np.random.default_rng() if rng is None else rng


def _normal(rng: np.random.Generator, shape: Shape, std: float) -> np.ndarray:
    w = rng.standard_normal(shape, np.float32)
    w *= np.float32(std)
    return w


def _uniform(rng: np.random.Generator, shape: Shape, variance: float) -> np.ndarray:
    a = (3 * variance) ** 0.5
    w = rng.random(shape, np.float32)
    w *= np.float32(2 * a)
    w -= np.float32(a)
    return w


def he_normal(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    return _normal(rng, shape, (2 / fan_in) ** 0.5)


def he_uniform(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    return _uniform(rng, shape, 2 / fan_in)


def glorot_normal(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    return _normal(rng, shape, (2 / (fan_in + fan_out)) ** 0.5)


def glorot_uniform(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    return _uniform(rng, shape, 2 / (fan_in + fan_out))


def lecun_normal(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    return _normal(rng, shape, fan_in**-0.5)


def lecun_uniform(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    return _uniform(rng, shape, 1 / fan_in)


def truncated_normal(std: float, cut: float = 2.0) -> Init:
    """Normal with mean 0, drawn again wherever it falls beyond `cut` standard deviations.

    `std` is that of the normal before it is cut, as in TensorFlow and torchvision; at cut 2 the result's own is 0.88 of
    it. `cut` counts standard deviations, never absolute bounds.
    """

    def draw(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
        w = rng.standard_normal(shape, np.float32)
        flat = w.reshape(-1)
        beyond = np.flatnonzero(np.abs(flat) > cut)
        while len(beyond):
            flat[beyond] = rng.standard_normal(len(beyond), np.float32)
            beyond = beyond[np.abs(flat[beyond]) > cut]
        w *= np.float32(std)
        return w

    return draw


def normal(std: float) -> Init:
    """Normal with mean 0, nowhere cut."""
    return lambda rng, shape, fan_in, fan_out: _normal(rng, shape, std)


def he_truncated(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    """TF-slim's variance_scaling_initializer: a normal cut at two standard deviations, of 1.3 * 2 / fan_in before."""
    return truncated_normal((1.3 * 2 / fan_in) ** 0.5)(rng, shape, fan_in, fan_out)


def he_normal_out(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    """He's with the fan of the backward pass: 2 / fan_out."""
    return _normal(rng, shape, (2 / fan_out) ** 0.5)


def torch_uniform(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    """PyTorch's default: uniform on +-1 / sqrt(fan_in)."""
    return _uniform(rng, shape, 1 / (3 * fan_in))


def dirac(first: int = 0) -> Init:
    """Filters of a convolution that copies: output o is input first + o, where there is one; the others are He's.

    Zagoruyko & Komodakis 2017, "DiracNets"; for part of the outputs as in Jordan 2024, arXiv:2404.00498, section 3.3.
    A hundredth of He's weights is added to the copies: copies of a ReLU's zeros would tie, and the maximum of a pooling
    window has no derivative at a tie.
    """

    def draw(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
        w = he_normal(rng, shape, fan_in, fan_out)
        height, width, inputs, outputs = shape
        copies = np.arange(max(0, min(outputs, inputs - first)))
        w[..., copies] *= np.float32(0.01)
        w[height // 2, width // 2, first + copies, copies] += 1
        return w

    return draw

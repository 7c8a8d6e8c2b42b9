"""One step of an optimiser over flat vectors, in place (the mathematics: training/optim.py). The gradient ends at zero.

And one step of the running averages of training/average.py, in place too.
"""

from ..backend.arrays import Array
from ..backend.device import on_gpu
from .dispatch import dispatch


@dispatch
def sgd_step(
    data: Array, grad: Array, velocity: Array | None, lr: float, momentum: float, weight_decay: float, nesterov: bool
) -> None:
    """data, grad, velocity: (P,). velocity None means no momentum."""
    g = grad + weight_decay * data if weight_decay else grad
    if velocity is not None:
        velocity *= momentum
        velocity += g
        g = g + momentum * velocity if nesterov else velocity
    data -= lr * g
    grad[...] = 0


@dispatch
def rmsprop_step(
    data: Array,
    grad: Array,
    square: Array,
    velocity: Array,
    lr: float,
    decay: float,
    momentum: float,
    eps: float,
    weight_decay: float,
) -> None:
    """data, grad, square (the running mean of g^2) and velocity: (P,)."""
    g = grad + weight_decay * data if weight_decay else grad
    square *= decay
    square += (1 - decay) * g * g
    velocity *= momentum
    velocity += lr * g * (square + eps) ** -0.5
    data -= velocity
    grad[...] = 0


def _stay_on_gpu(means: list[Array], arrays: list[Array]) -> bool:
    return all(on_gpu(a) and a.flags.c_contiguous for a in (*means, *arrays))


@dispatch(cpu=False, gpu=_stay_on_gpu)
def pieces(means: list[Array], arrays: list[Array]) -> Array | None:
    """What move_averages needs on a GPU, for arrays that stay where they are; None where it needs nothing."""
    return None


@dispatch(cpu=False, gpu=lambda pieces: pieces is not None)
def move_averages(
    means: list[Array], arrays: list[Array], rate: float | Array, pieces: Array | None, *, back: bool = False
) -> None:
    """mean += rate * (array - mean) for each pair of them, and with `back`, array = mean after it.

    pieces: what the function of that name made for them.
    """
    for mean, array in zip(means, arrays, strict=True):
        mean += rate * (array - mean)
        if back:
            array[...] = mean

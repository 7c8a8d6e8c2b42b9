"""One step of an optimiser over flat vectors, in place (the mathematics: training/optim.py). The gradient ends at zero.

And one step of the running averages of training/average.py, in place too.
"""

from ..backend import Array, compiled, on_gpu


def sgd_step(
    data: Array,
    grad: Array,
    velocity: Array | None,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """data, grad, velocity: (P,). velocity None means no momentum."""
    if on_gpu(data):
        from .cuda import update as cuda

        return cuda.sgd_step(data, grad, velocity, lr, momentum, weight_decay, nesterov)
    if compiled(data, grad, velocity):
        from .cpu import update as cpu

        return cpu.sgd_step(data, grad, velocity, lr, momentum, weight_decay, nesterov)
    g = grad + weight_decay * data if weight_decay else grad
    if velocity is not None:
        velocity *= momentum
        velocity += g
        g = g + momentum * velocity if nesterov else velocity
    data -= lr * g
    grad[...] = 0


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
    if on_gpu(data):
        from .cuda import update as cuda

        return cuda.rmsprop_step(data, grad, square, velocity, lr, decay, momentum, eps, weight_decay)
    if compiled(data, grad, square, velocity):
        from .cpu import update as cpu

        return cpu.rmsprop_step(data, grad, square, velocity, lr, decay, momentum, eps, weight_decay)
    g = grad + weight_decay * data if weight_decay else grad
    square *= decay
    square += (1 - decay) * g * g
    velocity *= momentum
    velocity += lr * g * (square + eps) ** -0.5
    data -= velocity
    grad[...] = 0


def pieces(means: list[Array], arrays: list[Array]) -> Array | None:
    """What move_averages needs on a GPU, for arrays that stay where they are; None where it needs nothing."""
    if all(on_gpu(a) and a.flags.c_contiguous for a in (*means, *arrays)):
        from .cuda import update as cuda

        return cuda.pieces(means, arrays)
    return None


def move_averages(
    means: list[Array], arrays: list[Array], rate: float | Array, pieces: Array | None, *, back: bool = False
) -> None:
    """mean += rate * (array - mean) for each pair of them, and with `back`, array = mean after it.

    pieces: what the function of that name made for them.
    """
    if pieces is not None:
        from .cuda import update as cuda

        return cuda.move_averages(means, rate, pieces, back)
    for mean, array in zip(means, arrays, strict=True):
        mean += rate * (array - mean)
        if back:
            array[...] = mean

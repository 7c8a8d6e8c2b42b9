"""Muon: a convolution's filters as a matrix, whose every direction moves as far as every other.

A gradient G of filters (kh, kw, C_in, C_out), as a matrix (kh kw C_in, C_out), has a few large singular values and many
small ones; a step along it turns the outputs in a few directions, and hardly in the others. Muon steps along the matrix
that has G's directions and equal singular values,

    G = U S V^T         O = U V^T         v = momentum v + G         U and V of G + momentum v

which is the steepest step where lengths are measured by the largest singular value. No decomposition is needed. Newton
and Schulz's iteration takes powers of X, which act on its singular values s alone,

    X = a X + X (b X^T X + c (X^T X)^2)         s = a s + b s^3 + c s^5

and a, b, c are such that any s from 0.1 to 1 is near 1 after a few rounds (between 0.7 and 1.2: that is enough).

Of filters before batch norm only the direction matters, and of others their length is kept too: they are a point on the
sphere |W| = const, on which they were drawn, and lr is the angle of a step, in radians:

    W' = W - lr |W| O / |O|         W = W' |W| / |W'|

There is no weight decay to balance. Parameters that are no filters (biases, gamma and beta, linear layers, and filters
of depthwise and grouped convolutions, which see some of the channels) are SGD's, with Nesterov's momentum (optim.py).

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon, which
sets |W| = sqrt(C_out) in its CIFAR-10 networks, and leaves |O| as it comes.
"""

from ..backend.arrays import Array, array_module
from ..kernels.linear import linear, linear_dw
from ..kernels.update import sgd_step
from ..layer import Layer, Param, named_params, places_in_vectors, walk
from ..layers.conv import Conv2D
from .optim import _Optimizer

A, B, C = 3.4445, -4.7750, 2.0315
ROUNDS = 3
TINY = 1e-20  # keeps 0 / 0 away: a gradient of zeros moves nothing


def orthogonalised(g: Array) -> Array:
    """The matrix of g's directions with singular values near 1, of norm 1 as a whole. g: (rows, columns)."""
    xp = array_module(g)
    wide = g.shape[0] < g.shape[1]
    x = xp.ascontiguousarray(g.T) if wide else g
    x = x / (norm(x) + TINY)
    for _ in range(ROUNDS):
        gram = xp.zeros((x.shape[1],) * 2, x.dtype)
        linear_dw(x, x, gram)
        x = A * x + linear(x, B * gram + C * linear(gram, gram, None), None)
    x /= norm(x) + TINY
    return x.T if wide else x


def norm(x: Array) -> Array:
    return array_module(x).sqrt((x * x).sum())


def is_one_matrix(layer: Layer) -> bool:
    """True for a convolution whose every filter sees all channels."""
    return isinstance(layer, Conv2D) and layer.groups == 1


class Muon(_Optimizer):
    """Muon for the filters of convolutions, and SGD for all other parameters, as in the module's equations.

    lr: the angle of a filter's step, in radians; it may be changed between steps, and SGD's rate, which begins as
    sgd_lr, changes in proportion. bias_scale: biases, gamma and beta learn at so many times SGD's rate (64 in airbench:
    Jordan 2024, arXiv:2404.00498, section 3.4). weight_decay: of SGD's parameters. Raises ValueError for negative
    numbers, for a momentum from 1, and for sgd_lr with an lr of 0.
    """

    def __init__(
        self,
        layer: Layer,
        lr: float,
        *,
        sgd_lr: float = 0.1,
        bias_scale: float = 1.0,
        momentum: float = 0.6,
        weight_decay: float = 0.0,
    ):
        numbers = {"sgd_lr": sgd_lr, "bias_scale": bias_scale, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(layer, lr, numbers)
        if not lr and sgd_lr:
            raise ValueError(
                f"Muon: got lr=0 with sgd_lr={sgd_lr!r}, wanted an lr above 0: the two change in proportion"
            )
        self.sgd_scale = float(sgd_lr) / float(lr) if lr else 0.0
        self.bias_scale = float(bias_scale)
        self.momentum, self.weight_decay = float(momentum), float(weight_decay)
        self.state["velocity"] = self._vector()
        filters = {id(part.weight) for part in (layer, *dict(walk(layer)).values()) if is_one_matrix(part)}
        params, places = named_params(layer), places_in_vectors(layer)
        self.pieces = [(places[path], p, id(p) in filters) for path, p in params.items()]

    def step(self) -> None:
        """Use the gradients of the parts and set them to zero."""
        self._check()
        moved = [piece for piece in self.pieces if any(_within(piece[0], part) for part in self.parts)]
        for place, p, is_filters in moved:
            velocity = self.state["velocity"][place]
            if is_filters:
                self._turn(p, velocity[: p.data.size].reshape(-1, p.data.shape[-1]))
            else:
                vectors = self.data[place], self.grad[place], velocity
                rate = self.lr * self.sgd_scale * (self.bias_scale if p.data.ndim == 1 else 1.0)
                sgd_step(*vectors, rate, self.momentum, self.weight_decay, self.momentum > 0)

    def _turn(self, p: Param, velocity: Array) -> None:
        """The step of filters: velocity is (kh kw C_in, C_out)."""
        w, g = p.data.reshape(velocity.shape), p.grad.reshape(velocity.shape)
        velocity *= self.momentum
        velocity += g
        length = norm(w)
        w -= self.lr * length * orthogonalised(g + self.momentum * velocity)
        w *= length / (norm(w) + TINY)
        g[...] = 0


def _within(place: slice, part: slice) -> bool:
    """True where one slice lies in another, whose ends may be open."""
    return (part.start or 0) <= place.start and (part.stop is None or place.stop <= part.stop)

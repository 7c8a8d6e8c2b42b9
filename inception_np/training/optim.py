"""Optimisers over a layer's flat vectors: with w the parameters and g their gradient,

    SGD       v = momentum v + g                    w = w - lr v            Sutskever et al. 2013, in PyTorch's form
    Nesterov  v = momentum v + g                    w = w - lr (g + momentum v)
    RMSProp   s = decay s + (1 - decay) g^2         v = momentum v + lr g / sqrt(s + eps)         w = w - v

Weight decay adds weight_decay * w to g first. RMSProp has its eps inside the root, where TensorFlow puts it and where
the Inception papers' eps = 1.0 belongs; s begins at 1, also as in TensorFlow.
"""

import math

from ..backend.arrays import Array
from ..backend.device import zeros
from ..kernels.update import rmsprop_step, sgd_step
from ..layer import Layer, check_children, vectors
from ..layers.check import check_number


class _Optimizer:
    """Holds the layer's parameter and gradient vectors; `state` maps names to vectors of its own, for checkpoints.

    parts: the slices of the vectors that a step moves, all of them unless they are set. What is not in a part is not
    touched: not by weight decay, nor by momentum.
    """

    def __init__(self, layer: Layer, lr: float, numbers: dict[str, float]):
        if not isinstance(layer, Layer):
            raise TypeError(f"{type(self).__name__}: got {type(layer).__name__}, wanted a Layer")
        who = type(self).__name__
        for name, value in {"lr": lr, **numbers}.items():
            if not check_number(who, name, value) >= 0:
                raise ValueError(f"{who}: got {name}={value!r}, wanted at least 0")
            if math.isinf(value):
                raise ValueError(f"{who}: got {name}={value!r}, wanted a finite number")
            if name in ("momentum", "decay") and value >= 1:
                raise ValueError(f"{who}: got {name}={value!r}, wanted less than 1: a sum that never ends would grow")
        check_children(layer)
        self.layer, self.lr = layer, float(lr)
        self.data, self.grad = vectors(layer)
        self.state: dict[str, Array] = {}
        self.parts = [slice(None)]

    def _vector(self) -> Array:
        return zeros(self.data.shape, self.data.dtype, self.data)

    def _check(self) -> None:
        if vectors(self.layer)[0] is not self.data:
            raise ValueError(
                f"{type(self).__name__}: got a layer whose parameters were replaced (cast, moved or assigned) after "
                "the optimiser was made, wanted the same arrays; make the optimiser afterwards"
            )


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum, as in the module's equations.

    `lr` may be changed between steps. Raises ValueError for negative numbers, for a momentum from 1, and for Nesterov
    without momentum.
    """

    def __init__(
        self, layer: Layer, lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ):
        super().__init__(layer, lr, {"momentum": momentum, "weight_decay": weight_decay})
        if nesterov and not momentum:
            raise ValueError("SGD: got nesterov=True with momentum=0, wanted a momentum above 0")
        self.momentum, self.weight_decay = float(momentum), float(weight_decay)
        self.nesterov = bool(nesterov)
        if momentum:
            self.state["velocity"] = self._vector()

    def step(self) -> None:
        """Use the gradients of the parts and set them to zero."""
        self._check()
        velocity = self.state.get("velocity")
        for part in self.parts:
            v = None if velocity is None else velocity[part]
            sgd_step(self.data[part], self.grad[part], v, self.lr, self.momentum, self.weight_decay, self.nesterov)


class RMSProp(_Optimizer):
    """RMSProp with momentum, as in the module's equations. Tieleman & Hinton 2012; Szegedy et al. 2016, section 8.

    `lr` may be changed between steps. Raises ValueError for negative numbers, and for a momentum or decay from 1.
    """

    def __init__(
        self,
        layer: Layer,
        lr: float,
        *,
        decay: float = 0.9,
        momentum: float = 0.0,
        eps: float = 1.0,
        weight_decay: float = 0.0,
    ):
        numbers = {"decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(layer, lr, numbers)
        self.decay, self.momentum = float(decay), float(momentum)
        self.eps, self.weight_decay = float(eps), float(weight_decay)
        self.state["square"] = self._vector()
        self.state["square"] += 1
        self.state["velocity"] = self._vector()

    def step(self) -> None:
        """Use the gradients of the parts and set them to zero."""
        self._check()
        for part in self.parts:
            data, grad = self.data[part], self.grad[part]
            square, velocity = self.state["square"][part], self.state["velocity"][part]
            rmsprop_step(data, grad, square, velocity, self.lr, self.decay, self.momentum, self.eps, self.weight_decay)

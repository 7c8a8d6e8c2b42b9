"""Whether the gradient reaches the bottom: its size at each stage, with and without auxiliary heads.

GoogLeNet's classifiers on 4a and 4d are to "combat the vanishing gradient problem while providing regularization"
(Szegedy et al. 2015, section 5). With L the loss of the logits and L_h that of a head,

    g_k = root mean square over the convolutions' weights w of stage k of   d (L + weight * sum_h L_h) / d w

and the same with weight 0. (Szegedy et al. 2016, section 4, find that the heads help late in training, if at all.)
"""

import copy

import numpy as np

from ..layer import Layer, Mode, named_params, zero_grad
from ..layers.loss import softmax_cross_entropy


def gradient_flow(net: Layer, x: np.ndarray, labels: np.ndarray, heads: bool = True, seed: int = 2) -> dict[str, float]:
    """g_k by stage, of one training step's backward pass. The network stays as it is.

    x: (N, H, W, C), of which batch norm takes the statistics: N is 2 at least. heads: whether the auxiliary losses
    count, each times the network's aux_weight. seed: of dropout's masks.
    """
    net = copy.deepcopy(net)
    zero_grad(net)
    y, cache = net.forward(x, Mode(train=True, keep=True, rng=np.random.default_rng(seed)))
    logits, aux = y if isinstance(y, tuple) else (y, {})
    weight = logits.dtype.type(getattr(net, "aux_weight", 0) if heads else 0)
    dlogits = softmax_cross_entropy(logits, labels)[1]
    daux = {stage: weight * softmax_cross_entropy(a, labels)[1] for stage, a in aux.items()}
    net.backward((dlogits, daux) if aux else dlogits, x, cache)
    squares: dict[str, list[np.ndarray]] = {}
    for path, p in named_params(net).items():
        if p.data.ndim == 4 and not path.startswith("aux_"):
            squares.setdefault(path.split(".")[0], []).append(np.square(p.grad, dtype=np.float64).ravel())
    return {stage: float(np.sqrt(np.concatenate(parts).mean())) for stage, parts in squares.items()}

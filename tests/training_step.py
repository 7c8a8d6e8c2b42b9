"""A training step one operation at a time, as `train` takes it without a graph or a replay: what those must equal."""

import numpy as np

from inception_np import Mode
from inception_np.backend import device as backend
from inception_np.kernels.clip import clip_norm
from inception_np.layers.loss import total_loss


def eager_step(net, optimiser, x, labels, rng=None, *, smoothing=0.0, clip=np.inf):
    """One step of the network on normalised images x and labels, from the host to where its weights are.

    rng: for dropout. Returns what the network gave, the loss and the gradient's norm.
    """
    device = "cpu" if isinstance(optimiser.data, np.ndarray) else "cuda"
    x, labels = backend.asarray(x, device), backend.asarray(labels, device)
    x = x.astype(backend.storage()) if device == "cuda" else x
    y, cache = net.forward(x, Mode(train=True, keep=True, rng=rng))
    loss, dy = total_loss(y, labels, net.aux_weight, smoothing)
    net.backward(dy, x, cache, need_dx=False)
    norm = clip_norm(optimiser.grad, clip)
    optimiser.step()
    return y, float(loss), float(norm)

"""A case of inception_np.testing run on CuPy's arrays, or on those of its stand-in."""

import numpy as np

from inception_np.backend.arrays import map_tree
from inception_np.layer import move, named_buffers, named_params
from inception_np.testing import random_like


def to_host(tree):
    if isinstance(tree, tuple):
        return tuple(map(to_host, tree))
    if isinstance(tree, dict):
        return {k: to_host(v) for k, v in tree.items()}
    return tree.get()


def to_device(tree, cupy):
    if isinstance(tree, tuple):
        return tuple(to_device(t, cupy) for t in tree)
    if isinstance(tree, dict):
        return {k: to_device(v, cupy) for k, v in tree.items()}
    return cupy.asarray(tree)


def gradients(case, cupy=None, dtype=np.float32, stored=None):
    """y, dx, every gradient and every running average of one forward and backward pass, as NumPy arrays.

    dtype: of the layer's parameters, and of activations unless they are stored in another. Where there is no device,
    x and dy are rounded to that one and no more.
    """
    layer, x = case.layer(dtype), case.x(dtype)
    if cupy:
        move(layer, "cuda")
        x = cupy.asarray(x if stored is None else x.astype(stored))
    elif stored is not None:
        x = x.astype(stored).astype(dtype)
    y, cache = layer.forward(x, case.mode())
    dy = random_like(to_host(y) if cupy else y, case.seed)
    if stored is not None and not cupy:
        dy = map_tree(lambda a: a.astype(stored).astype(dtype), dy)
    dx = layer.backward(to_device(dy, cupy) if cupy else dy, x, cache)
    found = [y, dx, *(p.grad for p in named_params(layer).values()), *(b.data for b in named_buffers(layer).values())]
    return [to_host(a) for a in found] if cupy else found

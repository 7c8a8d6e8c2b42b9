"""Derivatives by complex step, and the little that tests need beside: independent of the library's own checker.

For a function that is analytic where it is evaluated, f(x + i h v) = f(x) + i h f'(x) v + O(h^2); with h = 1e-30 the
second order vanishes beside the first, nothing is subtracted, and Im f / h is the derivative to the rounding of f
itself (Squire & Trapp 1998). ReLU and max pooling branch on the real part, which h does not move: what is checked
there is the derivative of the branch taken, and no kink can be crossed.
"""

import copy

import numpy as np

from inception_np.layer import cast, named_buffers, named_params
from inception_np.testing import mode

H = 1e-30


def strewn(x, seed):
    """x with NaN and both infinities among its numbers, and now and then nothing but minus infinity."""
    rng = np.random.default_rng([seed, 4])
    x = np.where(rng.random(x.shape) < 0.3, rng.choice([np.nan, np.inf, -np.inf, -np.inf], x.shape), x).astype(x.dtype)
    if seed % 3 == 0:
        x[...] = -np.inf
    return x


def arrays(tree):
    """Every array in nested tuples, lists, dicts and objects, in order."""
    if isinstance(tree, np.ndarray):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif hasattr(tree, "__dict__") and not callable(tree):
        tree = vars(tree).values()
    elif not isinstance(tree, (tuple, list)):
        return []
    return [a for branch in tree for a in arrays(branch)]


def plain(kernel):
    """The body of a kernel, whatever the arrays."""
    return kernel.__wrapped__


def dot(a, b):
    """The sum of a * b over all arrays of two equal structures (nothing conjugated)."""
    return sum((p * q).sum() for p, q in zip(arrays(a), arrays(b), strict=True))


def gradients(layer, x, dy, train, seed):
    """{"x": dx, parameter: grad, ...} by the layer's own backward; the layer is left unchanged."""
    layer = copy.deepcopy(layer)
    for p in named_params(layer).values():
        p.grad[...] = 0
    _, cache = layer.forward(x, mode(train, seed))
    dx = layer.backward(dy, x, cache)
    return {"x": dx} | {name: p.grad for name, p in named_params(layer).items()}


def gradient_errors(layer, x, dy, *, train=True, seed=0, entries=24):
    """{"x": error, parameter: error, ...}: backward against the complex step, norm-wise.

    For every tensor: up to `entries` of its elements one by one, drawn without replacement, and one direction over
    all of it. An element's error is relative to the tensor's largest gradient, the direction's to the sum of the
    absolute terms; where a gradient is (nearly) zero throughout, to a tenth of the largest dy.
    """
    rng = np.random.default_rng([seed, 4])
    got = gradients(layer, x, dy, train, seed)
    twin = cast(copy.deepcopy(layer), np.complex128)
    z = x.astype(np.complex128)
    targets = {"x": z} | {name: p.data for name, p in named_params(twin).items()}
    floor = 0.1 * max(np.abs(d).max(initial=0) for d in arrays(dy))

    def slope():
        y, _ = twin.forward(z, mode(train, seed, keep=False))
        return dot(dy, y).imag / H

    errors = {}
    for name, target in targets.items():
        g = got[name]
        assert g.shape == target.shape, f"{name}: gradient {g.shape}, wanted {target.shape}"
        scale = max(np.abs(g).max(initial=0), floor)
        at_rest, worst = target.copy(), 0.0
        for at in rng.permutation(target.size)[:entries]:
            index = np.unravel_index(at, target.shape)
            target[index] += 1j * H
            worst = max(worst, abs(slope() - g[index]) / scale)
            target[...] = at_rest
        v = rng.standard_normal(target.shape)
        target += 1j * H * v
        worst = max(worst, abs(slope() - (g * v).sum()) / max(np.abs(g * v).sum(), scale))
        target[...] = at_rest
        errors[name] = worst
    return errors


def error(got, wanted):
    """The largest difference relative to the largest of `wanted` (or to 1e-3, where that is smaller still)."""
    assert got.shape == wanted.shape, f"got {got.shape}, wanted {wanted.shape}"
    if wanted.size == 0:
        return 0.0
    return np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-3)


def held(tree):
    """Bytes that the arrays of a cache keep alive: whole buffers, each once, even where only a view is kept."""
    buffers = {}
    for a in arrays(tree):
        while isinstance(a.base, np.ndarray):
            a = a.base
        buffers[id(a)] = a.nbytes
    return sum(buffers.values())


def snapshot(layer, *others):
    """The bits of every parameter, gradient, buffer and of any further arrays, to compare before and after."""
    state = [p.data for p in named_params(layer).values()]
    state += [p.grad for p in named_params(layer).values()]
    state += [b.data for b in named_buffers(layer).values()]
    return [a.tobytes() for a in state + [a for o in others for a in arrays(o)]]


def strided(x):
    """The same values in memory that is not contiguous in any axis."""
    wide = np.full([2 * n + 1 for n in x.shape], 7, x.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in x.shape)]
    view[...] = x
    return view

"""What other gradient checkers miss: planted faults, each judged by each checker's own policy.

    python examples/other_checkers.py [PICTURE.png]

Policies are re-implemented from the sources with their default steps and tolerances (gradcheck/policies.py). Every
fault is tried in a "typical" configuration (square, stride 1, gamma 1, alpha 1e-4) and in a "rich" one, in which its
mistake shows (H unlike W, uneven strides and pads, random gamma, a large alpha). A cell of the table says where the
checker called the layer wrong:

    found           in both configurations
    rich only       in the rich configuration, and not in the typical one
    typical only    in the typical configuration, and not in the rich one
    -               in neither: the fault got away

and in the rows of right layers, "ok" (in neither) or "alarm" (in one or both). The last row counts the faults missed,
of those that the complex step finds in the same configuration.
"""

import sys

import numpy as np

from inception_np import LRN, AvgPool2D, BatchNorm, Conv2D, Mode, check_gradients
from inception_np.gradcheck.command import randomise_vectors
from inception_np.gradcheck.policies import POLICIES
from inception_np.gradcheck.report import picture

NHW = (0, 1, 2)


class NoLastTerm(BatchNorm):
    def backward(self, dy, x, cache):
        super().backward(dy, x, cache)
        g = self.gamma.data * dy
        return cache[2] * (g - g.mean(NHW))


class NoGamma(BatchNorm):
    def backward(self, dy, x, cache):
        return super().backward(dy / self.gamma.data, x, cache)


class ShortWindow(LRN):
    def backward(self, dy, x, cache):
        short = LRN(self.size - 2, alpha=self.alpha * (self.size - 2) / self.size, beta=self.beta, k=self.k)
        return short.backward(dy, x, cache)


class SwappedPads(Conv2D):
    def _geometry(self, shape):
        stride, ((top, bottom), (left, right)), *rest = super()._geometry(shape)
        return stride, ((bottom, top), (right, left)) if self.backwards else ((top, bottom), (left, right)), *rest

    backwards = False

    def backward(self, dy, x, cache, into=None, need_dx=True):
        self.backwards = True
        try:
            return super().backward(dy, x, cache, into, need_dx)
        finally:
            self.backwards = False


class SwappedStrides(AvgPool2D):
    def backward(self, dy, x, cache, into=None, need_dx=True):
        swapped = AvgPool2D(self.size, stride=self.stride[::-1], pad=self.pad)
        dy = np.resize(dy, swapped.out_shape(cache[0]))  # for as many windows as the swapped strides make
        return swapped.backward(dy, x, cache)


class TenthOfAPermille(Conv2D):
    def backward(self, dy, x, cache, into=None, need_dx=True):
        return 1.0001 * super().backward(dy, x, cache)


class OnePercent(Conv2D):
    def backward(self, dy, x, cache, into=None, need_dx=True):
        return 1.01 * super().backward(dy, x, cache)


class BiasOffByAMillionth(Conv2D):
    def backward(self, dy, x, cache, into=None, need_dx=True):
        dx = super().backward(dy, x, cache)
        self.bias.grad += 1e-6
        return dx


def conv(cls, rich):
    if rich:
        return cls(2, 3, (3, 2), stride=(2, 1), pad=((1, 0), (0, 1)), rng=np.random.default_rng(0)), (1, 5, 4, 2)
    return cls(2, 3, 3, pad=1, rng=np.random.default_rng(0)), (1, 4, 4, 2)


def norm(cls, rich):
    layer = cls(3)
    return (randomise_vectors(layer, 0), (2, 4, 3, 3)) if rich else (layer, (2, 4, 4, 3))


def lrn(cls, rich):
    return (cls(5, alpha=1.0, k=2.0), (1, 3, 2, 7)) if rich else (cls(5), (1, 3, 3, 7))


def pool(cls, rich):
    return (cls((3, 2), stride=(2, 1), pad=(1, 0)), (1, 5, 4, 2)) if rich else (cls(2), (1, 4, 4, 2))


FAULTS = {
    "nothing wrong (convolution)": (conv, Conv2D),
    "nothing wrong (batch norm)": (norm, BatchNorm),
    "batch norm without its last term": (norm, NoLastTerm),
    "batch norm's dx without gamma": (norm, NoGamma),
    "LRN with a short window": (lrn, ShortWindow),
    "convolution with swapped pads": (conv, SwappedPads),
    "pooling with swapped strides": (pool, SwappedStrides),
    "dx times 1.01": (conv, OnePercent),
    "dx times 1.0001": (conv, TenthOfAPermille),
    "a bias gradient off by 1e-6": (conv, BiasOffByAMillionth),
}
METHODS = ["complex", *POLICIES]

missed = np.zeros((len(METHODS), 2), int)
possible = np.zeros(2, int)
print("| fault | " + " | ".join(METHODS) + " |")
print("|---" * (len(METHODS) + 1) + "|")
for fault, (build, cls) in FAULTS.items():
    cells = []
    seen = {}
    for method in METHODS:
        found = []
        for rich in (False, True):
            layer, shape = build(cls, rich)
            x = np.random.default_rng(7).standard_normal(shape)
            found.append(not check_gradients(layer, x, mode=Mode(train=True), method=method).ok)
        seen[method] = found
        if "nothing" in fault:
            cells.append("alarm" if any(found) else "ok")
        else:
            cells.append({(0, 0): "-", (1, 1): "found", (0, 1): "rich only", (1, 0): "typical only"}[tuple(found)])
    if "nothing" not in fault:
        visible = np.array(seen["complex"])  # in a typical configuration some faults change nothing at all
        possible += visible
        for m, method in enumerate(METHODS):
            missed[m] += visible & ~np.array(seen[method])
    print(f"| {fault} | " + " | ".join(cells) + " |")
print("| missed, typical / rich | " + " | ".join(f"{a} / {b}" for a, b in missed) + " |")

figure, ax = picture(f"Faults missed, of {possible[0]} visible in a typical and {possible[1]} in a rich configuration")
at = np.arange(len(METHODS))
ax.bar(at - 0.2, missed[:, 0], 0.4, label="typical configuration")
ax.bar(at + 0.2, missed[:, 1], 0.4, label="rich configuration")
ax.set_xticks(at, METHODS, rotation=40, ha="right")
ax.set(ylabel="faults missed")
ax.yaxis.get_major_locator().set_params(integer=True)
figure.legend(loc="outside lower center", ncols=2)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "other_checkers.png")
tried = possible.sum() * len(POLICIES)
print(f"\nmissed by the complex step: {missed[0].sum()}; by the others: {missed[1:].sum()} of {tried}")

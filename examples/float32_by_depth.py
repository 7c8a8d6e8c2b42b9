"""How exact are gradients in float32, the way networks are trained? By depth, against float64.

    python examples/float32_by_depth.py [PICTURE.png]

Chains of 1 to 32 convolutions with batch norm, with ReLU and without: the gradient of the first convolution's weights
in float32 and in float64, their difference relative to its size. A float32 digit is 1.2e-7. Without ReLU the error
grows slowly with depth. With it, once some unit lies nearer to its kink than float32 can tell, the two precisions
take different branches, and the error jumps: not rounding of the gradient, but the gradient of another branch.
"""

import sys

import numpy as np

from inception_np import BatchNorm, Conv2D, ConvBNReLU, Mode, Sequential, cast
from inception_np.gradcheck.report import picture

DEPTHS = (1, 2, 4, 8, 12, 16, 24, 32)
CHANNELS, SEEDS = 16, 5


def chain(depth, relu, seed):
    rng = np.random.default_rng(seed)
    if relu:
        return Sequential(*(ConvBNReLU(CHANNELS, CHANNELS, 3, rng=rng) for _ in range(depth)))
    units = [(Conv2D(CHANNELS, CHANNELS, 3, bias=False, rng=rng), BatchNorm(CHANNELS)) for _ in range(depth)]
    return Sequential(*(Sequential(conv=conv, bn=bn) for conv, bn in units))


def gradient(depth, relu, seed, dtype):
    network = cast(chain(depth, relu, seed), dtype)
    x, dy = np.random.default_rng(seed + 100).standard_normal((2, 4, 9, 8, CHANNELS)).astype(np.float32).astype(dtype)
    _, cache = network.forward(x, Mode(train=True, keep=True))
    network.backward(dy, x, cache)
    return network.layers["0"].conv.weight.grad if relu else network.layers["0"].layers["conv"].weight.grad


figure, ax = picture("float32 against float64: the first convolution's gradient in a chain with batch norm")
for relu, marker in ((False, "s"), (True, "o")):
    errors = np.empty((len(DEPTHS), SEEDS))
    for i, depth in enumerate(DEPTHS):
        for seed in range(SEEDS):
            exact, single = (gradient(depth, relu, seed, t) for t in (np.float64, np.float32))
            errors[i, seed] = np.linalg.norm(single - exact) / np.linalg.norm(exact)
    name = "with ReLU" if relu else "without ReLU"
    line = ax.loglog(DEPTHS, np.median(errors, 1), "-", label=f"{name}, median of {SEEDS} seeds")[0]
    dots = ax.loglog(DEPTHS, errors, marker, ms=4, color=line.get_color(), alpha=0.6)
    dots[0].set_label(f"{name}, each seed")
    print(f"{name:<13} depth 1: {np.median(errors[0]):.0e}, depth {DEPTHS[-1]}: {np.median(errors[-1]):.0e},"
          f" largest {errors.max():.0e}")  # fmt: skip
ax.axhline(2.0**-24, ls=":", color="grey", label="one rounding of float32")
ax.set(xlabel="depth", ylabel="relative error of the gradient (norm)", xticks=DEPTHS, ylim=(2e-8, None))
ax.set_xticklabels(DEPTHS)
ax.minorticks_off()
ax.legend()
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "float32_by_depth.png")

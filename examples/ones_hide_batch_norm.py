"""Why a gradient check must not use ones as dy: they hide batch norm entirely.

    python examples/ones_hide_batch_norm.py [PICTURE.png]

With dy = 1 the loss is the sum of y, and batch norm's y sums to N H W beta whatever x is: dx is zero. For ones,
xhat <g xhat> is zero by itself, so a backward that forgets this term gives the same zero, and the check passes. A
random dy shows whatever is missing.
"""

import sys

import numpy as np

from inception_np import BatchNorm, Mode, check_gradients
from inception_np.gradcheck.report import picture

NHW = (0, 1, 2)


def with_terms(terms):
    """Batch norm whose dx has some of g - <g> - xhat <g xhat>."""

    class Partial(BatchNorm):
        def backward(self, dy, x, cache):
            super().backward(dy, x, cache)
            mean, _, rstd, _ = cache
            xhat, g = (x - mean) * rstd, self.gamma.data * dy
            parts = {"g": g, "mean": g.mean(NHW), "var": xhat * (g * xhat).mean(NHW)}
            return rstd * sum(parts[t] * (1 if t == "g" else -1) for t in terms)

    return Partial(3)


CASES = {
    "all three": ("g", "mean", "var"),
    "without <g>": ("g", "var"),
    "without xhat <g xhat>": ("g", "mean"),
    "g alone": ("g",),
}
x = np.random.default_rng(0).standard_normal((4, 6, 5, 3))
errors = {}
print(f"{'dx of batch norm':<24}{'dy of ones':>12}{'random dy':>12}")
for name, terms in CASES.items():
    layer = with_terms(terms)
    random = check_gradients(layer, x, mode=Mode(train=True))
    ones = check_gradients(layer, x, method="ones")
    rows = [next(c for c in r.checks if c.tensor == "x") for r in (ones, random)]
    errors[name] = [abs(c.analytic - c.numeric) for c in rows]
    print(f"{name:<24}{'passes' if rows[0].ok else 'fails':>12}{'passes' if rows[1].ok else 'fails':>12}")

figure, ax = picture("Batch norm's dx with some of its terms: error of the worst entry")
at = np.arange(len(errors))
for k, label in enumerate(("dy of ones, central difference", "random dy, complex step")):
    ax.bar(at + 0.4 * k - 0.2, [max(e[k], 1e-17) for e in errors.values()], 0.38, label=label, bottom=1e-17)
ax.set(yscale="log", xticks=at, ylabel="|backward - numeric|", ylim=(1e-17, 10))
ax.set_xticklabels(list(errors))
figure.legend(loc="outside lower center", ncols=2)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "ones_hide_batch_norm.png")

y, cache = BatchNorm(3).forward(x.astype(np.float32), Mode(train=True, keep=True))
dx = BatchNorm(3).backward(np.ones_like(y), x.astype(np.float32), cache)
print(f"largest entry of the right dx for dy of ones: {np.abs(dx).max():.0e}")

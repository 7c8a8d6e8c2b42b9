"""How ReLU and max pooling break central differences as a network grows, and leave the complex step alone.

    python examples/kinks.py [PICTURE.png]

A step moves every unit a little, and some unit always sits close enough to its kink to cross it: the more units, the
smaller the step must be, until rounding spoils it. The complex step takes the branch of the real part, which does not
move, so it crosses nothing. Chains of ConvBNReLU, of growing depth, one random direction through all parameters.
"""

import sys

import numpy as np

from inception_np import ConvBNReLU, MaxPool2D, Mode, Sequential
from inception_np.gradcheck.complex_step import dense_direction
from inception_np.gradcheck.differences import difference
from inception_np.gradcheck.kinks import decisions
from inception_np.gradcheck.report import picture
from inception_np.gradcheck.subject import Subject, dot

DEPTHS = (1, 2, 4, 8, 16)
STEPS = 10.0 ** -np.arange(2, 11.5, 1)
x = np.random.default_rng(0).standard_normal((2, 14, 12, 3))

figure, (left, right) = picture("Central differences in networks with kinks", columns=2)
worst_complex = best_central = 0.0
for depth in DEPTHS:
    rng = np.random.default_rng(depth)
    units = [ConvBNReLU(3 if k == 0 else 16, 16, 3, rng=rng) for k in range(depth)]
    subject = Subject(Sequential(units[0], MaxPool2D(3, stride=1, pad=1), *units[1:]), x, Mode(train=True, keep=True))
    v = dense_direction(subject, np.random.default_rng(1))
    scale = sum(np.abs(subject.gradient[k] * v[k]).sum() for k in v)
    exact = sum((subject.gradient[k] * v[k]).sum() for k in v)
    pattern = decisions(subject, subject.point)[0]
    errors, crossed = [], []
    for h in STEPS:
        up, down = subject.moved(v, h), subject.moved(v, -h)
        slope = dot(subject.dy, difference(subject.forward(up), subject.forward(down))) / (2 * h)
        errors.append(abs(slope - exact) / scale)
        crossed.append(sum((decisions(subject, p)[0] != pattern).sum() for p in (up, down)))
    by_complex_step = abs(subject.slope(v) - exact) / scale
    worst_complex, best_central = max(worst_complex, by_complex_step), max(best_central, min(errors))
    label = f"{depth} layer{'s' * (depth > 1)}, {pattern.size:,} units"
    line = left.loglog(STEPS, errors, "o-", ms=4, label=label)[0]
    left.axhline(max(by_complex_step, 1e-18), ls=":", color=line.get_color())
    right.loglog(STEPS, np.maximum(crossed, 0.3), "o-", ms=4, label=label)
    print(f"{label:<24} error at h = 1e-6: {errors[4]:.0e}, {crossed[4]:>5} kinks crossed;"
          f" at the best h: {min(errors):.0e}; complex step: {by_complex_step:.0e}")  # fmt: skip
left.plot([], [], ":", color="grey", label="complex step, at any h")
left.set(xlabel="step h", ylabel="error / sum |g v|", title="error of the derivative", ylim=(1e-18, 1))
right.set(xlabel="step h", ylabel="decisions changed (none: at the bottom)", title="kinks crossed by the step")
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "kinks.png")
print(f"largest error of the complex step: {worst_complex:.0e}; of the difference at its best step: {best_central:.0e}")

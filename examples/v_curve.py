"""How small should the step of a difference be? There is no good answer, and complex step needs none.

    python examples/v_curve.py [PICTURE.png]

The derivative of batch norm along one direction, by central difference and by complex step, over the size of the
step. Going down, the difference gets better with h^2 until rounding, ulp / h, takes over: a V whose tip is near 1e-11.
The complex step only gets better, and stays.
"""

import sys

import numpy as np

from inception_np import BatchNorm, Mode
from inception_np.gradcheck.differences import v_curve
from inception_np.gradcheck.report import picture
from inception_np.gradcheck.subject import Subject

layer = BatchNorm(4)
x = np.random.default_rng(0).standard_normal((3, 6, 5, 4))
subject = Subject(layer, x, Mode(train=True, keep=True))
v = {"x": np.random.default_rng(1).standard_normal(x.shape)}
exact = float((subject.gradient["x"] * v["x"]).sum())
steps, central, complex_step = v_curve(subject, v, exact)

figure, ax = picture("Batch norm: error of the derivative over the step")
ax.loglog(steps, np.maximum(central, 1e-17), "o-", ms=4, label="central difference")
ax.loglog(steps, np.maximum(complex_step, 1e-17), "s-", ms=4, label="complex step")
ax.loglog(steps, 2.0**-53 / steps, ":", color="grey", label="ulp / h")
ax.set(xlabel="step h", ylabel="relative error (none: at 1e-17)", ylim=(3e-18, 10))
ax.legend()
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "v_curve.png")

best = central.argmin()
print(f"central difference, best of {len(steps)} steps: error {central[best]:.0e} at h = {steps[best]:.0e}")
print(f"complex step, h = 1e-8 and below: error at most {complex_step[steps <= 1.01e-8].max():.0e}")

"""What scaling the residuals does to activations and gradients of Inception-ResNet.

    python examples/residual_scaling.py [PICTURE.png]

Szegedy et al. 2016, section 3.3: beyond about 1000 filters unscaled residual networks "died" early in training, and
scaling the residuals by 0.1 to 0.3 "seemed to stabilize the training". y = x + s f(x) adds to the variance in every
block, s^2 of it; the gradient grows on its way back in the same way. Inception-ResNet-v2 for 32x32 images, as drawn.
"""

import sys

import numpy as np

from inception_np import Mode, create_model, named_params, softmax_cross_entropy
from inception_np.gradcheck.kinks import unit_calls
from inception_np.gradcheck.report import picture
from inception_np.gradcheck.subject import Subject

SCALES = (1.0, 0.3, 0.1)
x = np.random.default_rng(0).standard_normal((4, 32, 32, 3))
labels = np.arange(4) % 10

figure, (left, right) = picture("Inception-ResNet-v2 (32x32 images) with its residuals scaled", columns=2)
first = {}
for scale in SCALES:
    network = create_model("inception_resnet_v2_cifar", scale_a=scale, scale_b=scale, scale_c=scale, aux=False)
    subject = Subject(network, x, Mode(train=True, keep=True))
    with unit_calls(subject) as calls:  # what every unit is given
        subject.forward(subject.point)
    spread = [float(c.x.std()) for c in calls if c.path.endswith("b0") or ".b0." in c.path]
    gradient = subject.gradients(subject.point, lambda y: softmax_cross_entropy(y, labels)[1])
    norms = [float(np.sqrt((gradient[k] ** 2).mean())) for k, p in named_params(network).items() if p.data.ndim == 4]
    left.plot(spread, ".-", label=f"scale {scale}")
    right.semilogy(norms, lw=1, label=f"scale {scale}")
    first[scale] = norms[0]
    print(f"scale {scale}: activations grow by {max(spread) / spread[0]:.1f}, the first gradient is {norms[0]:.1e}")
left.set(
    xlabel="blocks, from the image to the logits", ylabel="standard deviation of the block's input", ylim=(0, None)
)
right.set(xlabel="convolutions, from the image to the logits", ylabel="gradient of the weights, root mean square")
left.legend()
right.legend()
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "residual_scaling.png")
print(f"the first convolution's gradient, unscaled over scaled by 0.1: {first[1.0] / first[0.1]:.1f}")

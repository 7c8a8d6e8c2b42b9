"""What GoogLeNet's auxiliary heads do to the gradients of its lower layers.

    python examples/vanishing_gradients.py [PICTURE.png]

Szegedy et al. 2015, section 5: classifiers on 4a and 4d "combat the vanishing gradient problem". GoogLeNet for 32x32
images, one batch of 16, one set of weights, the root mean square of the gradient of each stage's weights: of the main
loss alone, and with the heads' losses added (weight 0.3). Once with weights drawn as He et al. (2015) found right for
ReLU, once with half the variance (Glorot's, for equally many inputs and outputs), what was in use in 2014: there each
layer halves the signal's power, the gradient fades with the distance from the logits, and the heads are nearer.
"""

import sys

import numpy as np

from inception_np import create_model, named_params
from inception_np.gradcheck.report import picture
from inception_np.look.flow import gradient_flow

x = np.random.default_rng(0).standard_normal((16, 32, 32, 3)).astype(np.float32)
labels = np.arange(16) % 10


def by_stage(shrink, heads):
    network = create_model("inception_v1_cifar", seed=1)
    for p in named_params(network).values():
        p.data *= np.float32(shrink)
    return gradient_flow(network, x, labels, heads)


figure, ax = picture("GoogLeNet (32x32 images), first step: the gradient that reaches each stage")
factors = {}
for name, shrink, color in (("He's weights", 1.0, "C0"), ("half the variance", 0.5**0.5, "C1")):
    alone, helped = by_stage(shrink, False), by_stage(shrink, True)
    ax.semilogy(list(alone.values()), "o--", color=color, label=f"{name}, main loss alone")
    ax.semilogy(list(helped.values()), "s-", color=color, label=f"{name}, with heads on 4a and 4d")
    print(f"{name:<18} conv1 {alone['conv1']:.1e} alone, {helped['conv1']:.1e} with heads; 5b {alone['5b']:.1e}")
    factors[name] = helped["conv1"] / alone["conv1"]
ax.set_xticks(range(len(alone)), list(alone))
ax.set(ylabel="gradient of the weights, root mean square", xlabel="stages, from the image to the logits")
ax.legend()
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "vanishing_gradients.png")
print("the heads multiply the gradient of conv1 by", ", ".join(f"{f:.1f} ({name})" for name, f in factors.items()))

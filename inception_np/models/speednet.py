"""A network made for speed: CIFAR-10 in seconds. It is no paper's; what is in it comes from

    GoogLeNet         Szegedy et al. 2015: 1x1 and 3x3 convolutions side by side
    airbench          Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498: everything else

Ten convolutions of 24 to 256 channels where the papers' CIFAR sizes have 40 to 90: a GPU is busy with each of them. The
first one is not learned (layers/whitening.py), and all others begin as copies of their input (init.dirac), so that the
network learns from its first step. The pools come before batch norm and ReLU, which then have a quarter of the pixels.
Batch norm has no gamma. The logits are divided by 9, so that the last layer learns at 1/81 of the rate that suits the
convolutions.

It is trained by airbench's recipe, which `inception-np train --model speednet_cifar --data cifar10` uses unless told
otherwise (options.py): a triangular learning rate, lookahead, label smoothing, alternating flips, six views in tests.
"""

from functools import partial

from ..compose import Concat, Sequential
from ..layer import Layer
from ..layers.activation import ReLU
from ..layers.batchnorm import BatchNorm
from ..layers.conv import Conv2D
from ..layers.init import dirac
from ..layers.linear import Linear, Scale
from ..layers.pool import GlobalAvgPool2D, MaxPool2D
from ..layers.whitening import PatchWhitening
from .blocks import Request, Stages, at_width
from .network import Network

# A 3x3 convolution with a pool, then a module of  1x1  3x3
# fmt: off
BLOCKS = {
    "block1": ( 64, ( 32,  32)),       # 15x15 behind the pool
    "block2": (224, ( 64, 160)),       #  7x7
    "block3": (256, ( 64, 192)),       #  3x3
}
# fmt: on
DECAY = 0.6  # of batch norm's averages, at 48 batches an epoch
LOGITS = 1 / 9


def speednet_cifar(request: Request) -> Network:
    """For images of 32x32. There is no auxiliary head."""
    request.refuse_heads("speednet_cifar")
    in_channels, rng = request.in_channels, request.rng
    conv = partial(Conv2D, bias=False, rng=rng)
    stages = Stages(request.image)
    stages.add("whiten", Sequential(conv=PatchWhitening(in_channels, rng=rng), relu=ReLU()))
    for name, (out, (c1, c3)) in at_width(BLOCKS, request.width).items():
        down = conv(stages.channels, out, 3, init=dirac())
        module = Concat(b1=conv(out, c1, 1, init=dirac()), b3=conv(out, c3, 3, init=dirac(c1)))
        stages.add(
            name,
            Sequential(conv=down, pool=MaxPool2D(2), **norm_relu(out), mixed=module, **norm_relu(c1 + c3, "_mixed")),
        )
    stages.add("pool", Sequential(max=MaxPool2D(3), average=GlobalAvgPool2D()))  # of 3x3 a single one is left
    stages.add("fc", Linear(stages.channels, request.num_classes, bias=False, rng=rng))
    stages.add("scale", Scale(LOGITS))
    return Network(Sequential(**stages.layers))


def norm_relu(channels: int, of: str = "") -> dict[str, Layer]:
    return {f"bn{of}": BatchNorm(channels, eps=1e-5, decay=DECAY, scale=False), f"relu{of}": ReLU()}

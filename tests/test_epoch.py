"""Every network at CIFAR size, made narrow, learns shapes10 within one epoch.

Some thousands of generated images, each seen once, without augmentation and without dropout. RMSProp with a small eps
suits all eight, GoogLeNet with no batch norm too: its steps do not grow with the gradient.
"""

from functools import cache

import numpy as np
import pytest

from inception_np.backend import device as backend
from inception_np.data.batches import batches, channel_statistics, normalise
from inception_np.data.random import stream
from inception_np.data.shapes10 import shapes10
from inception_np.layer import Mode, walk
from inception_np.layers.activation import Dropout
from inception_np.layers.batchnorm import BatchNorm
from inception_np.layers.loss import softmax_cross_entropy, total_loss
from inception_np.layers.whitening import whiten
from inception_np.models import create_model, list_models
from inception_np.runtime.replay import Replay
from inception_np.training.loop import evaluate, warm_statistics
from inception_np.training.optim import RMSProp
from inception_np.training.schedules import cosine, warm_up

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(backend.PLAIN, reason="INCEPTION_NP_PLAIN is set: an epoch would take too long"),
]

EPOCHS = {  # width, images, batch size, learning rate
    "inception_v1_cifar": (1 / 8, 20_000, 16, 2e-4),
    "bn_inception_cifar": (1 / 8, 16_000, 32, 3e-4),
    "inception_v2_cifar": (1 / 8, 16_000, 24, 5e-4),
    "inception_v3_cifar": (1 / 8, 16_000, 32, 3e-4),
    "inception_v4_cifar": (1 / 8, 14_000, 32, 3e-4),
    "inception_resnet_v1_cifar": (1 / 8, 14_000, 32, 3e-4),
    "inception_resnet_v2_cifar": (1 / 8, 14_000, 32, 3e-4),
    "xception_cifar": (1 / 16, 12_000, 16, 3e-4),
    "speednet_cifar": (1 / 8, 12_000, 32, 1e-3),
}
HELD_OUT = 1000


@cache
def drawn():
    """The training images of the longest epoch, and the held-out ones."""
    return *shapes10("train", max(count for _, count, *_ in EPOCHS.values())), *shapes10("test", HELD_OUT)


def first_loss(net, x, labels):
    """Of images that the network was never trained on, with the statistics of their own batch; at most ln 10.

    What is above ln 10 is a network that is sure of wrong classes, which is unlearned within a few steps.
    """
    y, _ = net.forward(x, Mode(train=True, rng=np.random.default_rng(0)))
    return min(float(np.log(10)), float(softmax_cross_entropy(y[0] if isinstance(y, tuple) else y, labels)[0]))


def one_epoch(name, shuffled=False):
    """(first loss, last loss), both of held-out images, the last in inference mode. shuffled: with wrong labels."""
    width, count, batch_size, lr = EPOCHS[name]
    images, labels, test_images, test_labels = drawn()
    images, labels = images[:count], labels[:count]
    if shuffled:
        labels = np.random.default_rng(0).permutation(labels)
    mean, std = channel_statistics(images)
    net = create_model(name, width=width)
    whiten(net, images, mean, std)
    for _, layer in walk(net):
        if isinstance(layer, Dropout):
            layer.rate = 0.0
    norms = [(layer, layer.decay) for _, layer in walk(net) if isinstance(layer, BatchNorm)]
    before = first_loss(net, normalise(test_images[:100], mean, std), test_labels[:100])

    optimiser, steps, passes = RMSProp(net, lr, momentum=0.9, eps=1e-8), count // batch_size, Replay(net)
    schedule = warm_up(cosine(lr, 1), 0.1)
    for step, index in enumerate(batches(count, batch_size, 0, 0)):
        warm_statistics(norms, step)
        x = normalise(images[index], mean, std)
        y = passes.forward(x, stream(0, "dropout", 0, step))
        passes.backward(total_loss(y, labels[index], net.aux_weight, 0)[1])
        optimiser.lr = schedule((step + 0.5) / steps)
        optimiser.step()
    return before, evaluate(net, test_images, test_labels, mean, std)[1]


@pytest.mark.parametrize("name", list_models("*_cifar"))
def test_one_epoch_lowers_the_loss_by_more_than_half(name):
    before, after = one_epoch(name)
    assert after < 0.5 * before


def test_an_epoch_on_shuffled_labels_is_seen_to_learn_nothing():
    before, after = one_epoch("xception_cifar", shuffled=True)
    assert after > 0.9 * before

"""A layer of one's own and a property test of its gradient: run it, or let pytest do it.

    python examples/own_layer.py
    pytest examples/own_layer.py

A layer needs forward and backward and nothing else. The strategies draw shapes from one pixel and one channel on, and
seeds of the numbers in them.
"""

import numpy as np
from hypothesis import given

from inception_np import Layer, check_gradients
from inception_np.testing import normal, seeds, shapes


class Swish(Layer):
    """y = x s with s = 1 / (1 + exp(-x)).        dx = dy s (1 + x (1 - s))"""

    def forward(self, x, mode):
        return x / (1 + np.exp(-x)), None

    def backward(self, dy, x, cache):
        s = 1 / (1 + np.exp(-x))
        return dy * s * (1 + x * (1 - s))


@given(shapes(), seeds)
def test_swish_has_the_gradient_that_it_says(shape, seed):
    report = check_gradients(Swish(), normal(shape, seed), seed=seed)
    assert report.ok, report


if __name__ == "__main__":
    test_swish_has_the_gradient_that_it_says()
    print(check_gradients(Swish(), np.random.default_rng(0).standard_normal((2, 3, 4, 5))))

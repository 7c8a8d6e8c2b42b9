"""inception_np.testing: the property test in its docstring, the numbers that it promises, and what it needs."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given

from inception_np import MaxPool2D, Mode, ReLU, testing
from inception_np.testing import distinct, normal, seeds, shapes


def shown():
    """The lines of the docstring's example."""
    lines = testing.__doc__.split("\n\nHypothesis draws")[0].partition("\n\n")[2]
    return textwrap.dedent(lines)


def run(source):
    names = {}
    exec(source, names)
    names["test_swish_has_the_gradient_that_it_says"]()


def test_the_property_test_of_a_layer_of_ones_own_that_the_docstring_shows():
    run(shown())


@pytest.mark.parametrize("right, wrong", [("1 + x * (1 - s)", "1 + x * s"), ("return dy * s", "return s")])
def test_its_wrong_backward_is_found(right, wrong):
    assert right in shown()
    with pytest.raises(AssertionError, match="Swish: WRONG"):
        run(shown().replace(right, wrong))


def far_from_ties(x):
    """4 / size between any two numbers, half of that to zero."""
    gaps = np.diff(np.sort(x.ravel()))
    return gaps.min(initial=4) > 3.99 / x.size and np.abs(x).min() > 1.99 / x.size and np.abs(x).max() <= 2


@given(shapes(), seeds)
def test_distinct_numbers_are_far_from_ties_and_from_zero(shape, seed):
    x = distinct(shape, seed)
    assert x.shape == shape and far_from_ties(x)
    assert distinct(shape, seed, np.float32).dtype == np.float32


def test_normal_numbers_are_not_far_from_ties():
    assert not far_from_ties(normal((3, 4, 5, 4), 0))


def slope_error(layer, x, seed):
    """Central differences along a random direction against backward, relative to the terms."""
    dy_of = lambda y: testing.random_like(y, seed)  # noqa: E731
    y, cache = layer.forward(x, Mode(keep=True))
    dy, v = dy_of(y), np.random.default_rng(seed).uniform(-1, 1, x.shape)
    dx = layer.backward(dy, x, cache)
    h = 0.1 / x.size
    up, down = (layer.forward(x + sign * h * v, Mode())[0] for sign in (1, -1))
    slope = (dy * (up - down)).sum() / (2 * h)
    return abs(slope - (dx * v).sum()) / np.abs(dx * v).sum()


@pytest.mark.parametrize("layer", [ReLU(), MaxPool2D(2, stride=1, pad=1)], ids=["ReLU", "MaxPool2D"])
def test_differences_cross_no_kink_between_distinct_numbers(layer):
    shape = (2, 4, 3, 5)
    assert max(slope_error(layer, distinct(shape, seed), seed) for seed in range(10)) < 1e-10
    assert max(slope_error(layer, normal(shape, seed), seed) for seed in range(50)) > 1e-3


def test_without_hypothesis_it_says_what_to_install():
    code = "import sys; sys.modules['hypothesis'] = None; import inception_np.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    wanted = 'ImportError: inception_np.testing needs Hypothesis: pip install "inception-np[test]"'
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == wanted

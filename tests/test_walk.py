"""A reader who follows x and dy through one Inception module: how many calls, and through which files?"""

import sys
from functools import partial

import numpy as np
import pytest

from inception_np import Mode
from inception_np.backend import device as backend
from inception_np.layers.conv import ConvReLU
from inception_np.models.inception_v1 import ROWS, inception

pytestmark = pytest.mark.skipif(backend.PLAIN, reason="the plain kernels are walked through themselves")


def walked(function):
    """What `function` gives, and the (file, function) of every Python call in the package meanwhile."""
    calls = []

    def note(frame, event, _):
        place = frame.f_code.co_filename
        if event == "call" and "/inception_np/" in place and not place.endswith("workers.py"):  # (Numba reports those)
            calls.append((place.split("/inception_np/")[-1], frame.f_code.co_name))

    sys.setprofile(note)
    try:
        result = function()
    finally:
        sys.setprofile(None)
    return result, calls


def test_a_walk_through_an_inception_module_is_short():
    module = inception(partial(ConvReLU, rng=np.random.default_rng(0)), 192, ROWS["3a"])
    x = np.random.default_rng(0).standard_normal((8, 28, 28, 192)).astype(np.float32)
    mode = Mode(train=True, keep=True)
    y, cache = module.forward(x, mode)  # compiles and traces
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    module.backward(dy, x, cache)
    (y, cache), forward = walked(lambda: module.forward(x, mode))
    _, backward = walked(lambda: module.backward(dy, x, cache))
    for calls, most_calls, most_files in ((forward, 150, 7), (backward, 400, 9)):
        files = list(dict.fromkeys(file for file, _ in calls))
        assert len(calls) <= most_calls, sorted({(calls.count(c), *c) for c in calls}, reverse=True)
        assert len(files) <= most_files, files

"""The arena behind backend.empty: memory returns when the last array on it dies, and every step finds it as it was."""

import gc
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inception_np import SGD, Mode, create_model, softmax_cross_entropy
from inception_np.backend import arena
from inception_np.backend import device as backend

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="addresses are reserved on Linux only")


@pytest.fixture
def own():
    return arena.private()


def where(a):
    return a.__array_interface__["data"][0]


def test_memory_returns_only_when_the_last_view_dies(own):
    a = arena.empty((100, 1000), np.float32, own)
    first, view = where(a), a[10:, ::2].T
    del a
    b = arena.empty((100, 1000), np.float32, own)
    assert where(b) != first
    view[...] = 3
    assert (view == 3).all()
    del view
    assert where(arena.empty((100, 1000), np.float32, own)) == first


def test_arrays_of_every_dtype_are_writable_and_aligned(own):
    for dtype in (np.uint8, np.float32, np.float64, np.complex128):
        a = arena.empty((37, 1001), dtype, own)
        a[...] = 1
        assert a.dtype == dtype
        assert a.flags.c_contiguous
        assert where(a) % 64 == 0


def test_small_arrays_and_arrays_that_do_not_fit_are_numpys():
    own = arena.Arena(1 << 20)
    for shape, source in (((3,), None), ((1 << 20,), own)):
        a = arena.empty(shape, np.float32, source)
        a[...] = 1
        assert where(a) not in own.addresses()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(1 << 14, 1 << 18)), max_size=60))
def test_living_arrays_never_overlap_and_free_parts_are_joined(script):
    own = arena.Arena(1 << 26)
    a, alive = None, []
    for make, which, size in script:
        if make or not alive:
            a = arena.empty((size,), np.uint8, own)
            a[...] = len(alive)
            alive.append((a, len(alive)))
        else:
            alive.pop(which % len(alive))
        spans = sorted((where(a), where(a) + a.size) for a, _ in alive)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all((a == mark).all() for a, mark in alive)
    del a
    alive.clear()
    own.trim()
    assert own.free == [(0, own.capacity)]
    assert own.used == 0


def test_threads_may_make_and_drop_arrays_at_once(own):
    def work(mark):
        for i in range(300):
            a = arena.empty((5000 + 37 * i,), np.float32, own)
            a[...] = mark
            if not (a == mark).all():
                wrong.append(mark)

    wrong = []
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    gc.collect()
    assert not wrong
    own.trim()
    assert own.used == 0


def test_trim_gives_pages_back_and_keeps_what_lives(own):
    low, high = arena.empty((1 << 20,), np.uint8, own), arena.empty((1 << 20,), np.uint8, own)
    low[...], high[...] = 1, 2
    del low
    own.trim()
    assert (high == 2).all()


@pytest.mark.skipif(backend.PLAIN, reason="the plain kernels make arrays elsewhere too")
def test_a_steady_training_step_leaves_the_arena_as_it_found_it():
    net = create_model("inception_v3_cifar", width=1 / 8)
    optimiser = SGD(net, 0.01, momentum=0.9)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 10, 8)
    shared = arena.shared()

    def step():
        y, cache = net.forward(x, Mode(train=True, keep=True, rng=rng))
        logits, aux = y if isinstance(y, tuple) else (y, None)
        _, d = softmax_cross_entropy(logits, labels)
        net.backward((d, {k: np.zeros_like(v) for k, v in aux.items()}) if aux else d, x, cache, need_dx=False)
        optimiser.step()

    marks = []
    for _ in range(4):
        step()
        shared.trim()
        marks.append((shared.used, shared.high))
    assert marks[1:] == marks[1:2] * 3

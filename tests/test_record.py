"""A recorded function does what the function does: on other arrays, at other addresses, any number of times."""

import numpy as np
import pytest

from inception_np import backend, threads

if backend.PLAIN:
    pytest.skip("INCEPTION_NP_PLAIN is set", allow_module_level=True)

from inception_np.kernels.cpu import record
from inception_np.kernels.cpu.elementwise import clear, relu_rows, scale_rows, scaled_add_rows
from inception_np.kernels.cpu.machine import Recording, Unrecordable, address, at_once, by_hand, contiguous

written = []


@record.recorded
def scaled_parts(x, factor, out=None):
    """factor * max(0, x), or that in `out`, and x + 2 * factor * max(0, x), by way of two arrays of scratch."""
    written.append(x.shape)
    n = x.size
    positive, double = record.empty(x.shape, np.float32), record.empty(x.shape, np.float32)
    y = record.empty(x.shape, np.float32) if out is None else out
    total = record.empty((n,), np.float32)
    relu_rows(address(x), 0, address(positive), 0, 1, n, parts=1)
    scale_rows(address(positive), 0, address(double), 0, 1, n, 2 * factor, parts=1)
    scale_rows(address(positive), 0, address(y), 0, 1, n, factor, parts=1)
    scaled_add_rows(address(x), 0, address(double), 0, address(total), 0, 1, n, 1.0, parts=1)
    return y, total, None


@pytest.fixture(autouse=True)
def nothing_recorded():
    record.forget()
    written.clear()


def case(shape, factor, seed, out=None):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    y, total, nothing = scaled_parts(x, factor, out)
    positive = np.maximum(x, 0)
    assert np.array_equal(y, np.float32(factor) * positive)
    assert np.allclose(total, (x + np.float32(2 * factor) * positive).ravel(), rtol=1e-6)
    assert total.shape == (x.size,)
    assert nothing is None
    return y, total


def test_a_program_is_written_once_and_runs_on_any_arrays_of_its_shapes():
    kept = [case((5, 7), 0.5, seed) for seed in range(6)]
    assert written == [(5, 7)]
    addresses = {a.ctypes.data for pair in kept for a in pair}
    assert len(addresses) == 12  # every call returns arrays of its own
    for seed, (y, _) in enumerate(kept):
        x = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32)
        assert np.array_equal(y, np.float32(0.5) * np.maximum(x, 0))


def test_what_the_program_depends_on_makes_another_one():
    case((5, 7), 0.5, 0)
    case((5, 7), 0.25, 0)
    case((7, 5), 0.5, 0)
    case((300, 70), 0.5, 0)
    before = threads.num_threads()
    try:
        threads.set_num_threads(before + 1)
        case((5, 7), 0.5, 0)
    finally:
        threads.set_num_threads(before)
    assert len(written) == 5
    case((7, 5), 0.5, 1)
    assert len(written) == 5
    record.forget()
    case((7, 5), 0.5, 1)
    assert len(written) == 6


def test_an_array_that_is_given_comes_back_itself():
    for seed in range(3):
        out = np.full((4, 9), 7, np.float32)
        y, _ = case((4, 9), 0.5, seed, out)
        assert y is out
    assert len(written) == 1


def test_scratch_goes_back_to_the_heap():
    from inception_np.heap import heap

    case((400, 80), 0.5, 0)
    held = heap().used if heap() else 0
    for seed in range(3):
        case((400, 80), 0.5, seed)
    after = heap().used if heap() else 0
    assert after <= held + 4 * 400 * 80 * 4 * 2  # what the last call returned, at most


def test_a_stand_in_can_be_asked_for_its_layout_but_not_written():
    a = record.stand_in((2, 3), (40, 4), "<f4", 5)
    assert (a.shape, a.strides, a.dtype) == ((2, 3), (40, 4), np.float32)
    assert a.ctypes.data == record.STAND_INS + 5 * record.ROOM
    with pytest.raises(ValueError, match="read-only"):
        a[...] = 0
    words = np.array([3, a.ctypes.data + 8, record.STAND_INS, a.ctypes.data - 1], np.int64)
    assert record.holes(words, 5).tolist() == [1]


@record.recorded
def copied(x):
    """x, contiguous and with its first number 5: nothing that can be written down."""
    y = contiguous(x)
    by_hand(y)
    y[0, 0] = 5
    return y


def test_a_function_that_has_to_copy_runs_as_it_is_written():
    for _ in range(2):
        x = np.zeros((6, 4), np.float32)[::2]
        assert copied(x)[0, 0] == 5
        assert not x.any()
        whole = np.zeros((3, 4), np.float32)
        assert copied(whole) is whole
        assert whole[0, 0] == 5


def test_within_a_recording_the_calls_go_to_it_and_at_once_runs_them():
    x = np.ones(4, np.float32)
    with Recording() as recording:
        clear(address(x), 0, 0, 0, 1, 1, 1, 4, parts=1)
        assert x.all()
        with at_once():
            scale_rows(address(x), 0, address(x), 0, 1, 4, 3.0, parts=1)
        with pytest.raises(Unrecordable, match="shape"):
            contiguous(x[::2])
    assert x.tolist() == [3, 3, 3, 3]
    assert len(recording.calls) == 1

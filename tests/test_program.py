"""A traced function does what the function does: on other arrays, at other addresses, any number of times."""

import numpy as np
import pytest

from inception_np.backend import arena, threads
from inception_np.backend import device as backend

if backend.PLAIN:
    pytest.skip("INCEPTION_NP_PLAIN is set", allow_module_level=True)

from inception_np.backend import program
from inception_np.backend.program import Capture, Trace, Untraceable, address, eager, empty, falls_back_to_numpy, traced
from inception_np.kernels.cpu.elementwise import clear, relu_rows, scale_rows, scaled_add_rows
from inception_np.kernels.cpu.machine import contiguous

written = []


@traced
def scaled_parts(x, factor, out=None):
    """factor * max(0, x), or that in `out`, and x + 2 * factor * max(0, x), by way of two arrays of scratch."""
    written.append(x.shape)
    n = x.size
    positive, double = empty(x.shape, np.float32), empty(x.shape, np.float32)
    y = empty(x.shape, np.float32) if out is None else out
    total = empty((n,), np.float32)
    relu_rows(address(x), 0, address(positive), 0, 1, n, parts=1)
    scale_rows(address(positive), 0, address(double), 0, 1, n, 2 * factor, parts=1)
    scale_rows(address(positive), 0, address(y), 0, 1, n, factor, parts=1)
    scaled_add_rows(address(x), 0, address(double), 0, address(total), 0, 1, n, 1.0, parts=1)
    return y, total, None


@pytest.fixture(autouse=True)
def nothing_traced():
    program.clear_cache()
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
    program.clear_cache()
    case((7, 5), 0.5, 1)
    assert len(written) == 6


def test_an_array_that_is_given_comes_back_itself():
    for seed in range(3):
        out = np.full((4, 9), 7, np.float32)
        y, _ = case((4, 9), 0.5, seed, out)
        assert y is out
    assert len(written) == 1


def test_scratch_goes_back_to_the_arena():
    from inception_np.backend.arena import shared

    case((400, 80), 0.5, 0)
    held = shared().used if shared() else 0
    for seed in range(3):
        case((400, 80), 0.5, seed)
    after = shared().used if shared() else 0
    assert after <= held + 4 * 400 * 80 * 4 * 2  # what the last call returned, at most


def test_a_placeholder_can_be_asked_for_its_layout_but_not_written():
    a = program.placeholder((2, 3), (40, 4), "<f4", 5)
    assert (a.shape, a.strides, a.dtype) == ((2, 3), (40, 4), np.float32)
    assert a.ctypes.data == program.PLACEHOLDERS + 5 * program.ROOM
    with pytest.raises(ValueError, match="read-only"):
        a[...] = 0
    words = np.array([3, a.ctypes.data + 8, program.PLACEHOLDERS, a.ctypes.data - 1], np.int64)
    assert program.slots(words, 5).tolist() == [1]


@traced
def copied(x):
    """x, contiguous and with its first number 5: nothing that can be written down."""
    y = contiguous(x)
    falls_back_to_numpy(y)
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


def test_within_a_trace_the_calls_go_to_it_and_eager_runs_them():
    x = np.ones(4, np.float32)
    with Trace() as trace:
        clear(address(x), 0, 0, 0, 1, 1, 1, 4, parts=1)
        assert x.all()
        with eager():
            scale_rows(address(x), 0, address(x), 0, 1, 4, 3.0, parts=1)
        with pytest.raises(Untraceable, match="shape"):
            contiguous(x[::2])
    assert x.tolist() == [3, 3, 3, 3]
    trace.program().run()
    assert not x.any()


def test_a_capture_runs_what_it_writes_down_and_its_host_calls_at_their_place():
    x, seen = np.ones(4, np.float32), []
    with Capture(arena.private()) as capture:
        scale_rows(address(x), 0, address(x), 0, 1, 4, 3.0, parts=1)
        capture.host_call(lambda: seen.append(x.tolist()))
        y, total, _ = scaled_parts(x, 2.0)
    program = capture.program()
    assert (capture.complete, x.tolist(), seen) == (True, [3, 3, 3, 3], [[3, 3, 3, 3]])
    first = total.tolist()
    program.run()
    assert (x.tolist(), seen[1:]) == ([9, 9, 9, 9], [[9, 9, 9, 9]])
    assert np.array_equal(y, 2 * x)
    assert total.tolist() == [3 * number for number in first]
    with Capture(arena.private()) as capture:
        falls_back_to_numpy(x)
    assert not capture.complete


def test_a_traced_function_inside_a_trace_becomes_part_of_it():
    with Trace(arena.private()) as trace:
        y, total, _ = scaled_parts(program.placeholder((5, 7)), 0.5)
    plan = trace.program(placeholders=1)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32)
        plan.run(x)
        assert np.array_equal(y, np.float32(0.5) * np.maximum(x, 0))
        assert np.allclose(total, (x + np.maximum(x, 0)).ravel(), rtol=1e-6)


@traced
def with_an_array_of_its_own(x):
    """What no traced function may do: every call would write to the one array."""
    y = np.empty(x.shape, np.float32)
    relu_rows(address(x), 0, address(y), 0, 1, x.size, parts=1)
    return y


def test_an_array_that_a_traced_function_made_itself_is_refused():
    with pytest.raises(TypeError, match="wanted one of `empty`"):
        with_an_array_of_its_own(np.ones((2, 3), np.float32))

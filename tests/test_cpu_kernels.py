"""The compiled float32 kernels against their plain twins in float64, on every shape that could trip them.

The bound is the rounding of the sums themselves: a sum of K products has an error of about sqrt(K) u times the sum of
the absolute products, u = 2^-24, and that sum is the plain kernel run on absolute values. Nothing is tuned.

Kernels are given addresses, so nothing checks their bounds. Here every array stands between canaries (NaN, in a
buffer of its own): one number written outside changes them, and one read outside makes the result NaN. And once in a
process of its own with a page after every array that may not be touched: the process dies of one byte beyond.
"""

import ctypes
import mmap
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llvmlite import binding, ir
from numerics import plain, strewn

from inception_np import SGD, Mode, create_model, softmax_cross_entropy
from inception_np.backend import device as backend
from inception_np.backend import program, threads
from inception_np.kernels import batchnorm, conv, depthwise, dispatch, elementwise, linear, loss, lrn, pool, update
from inception_np.kernels.cpu import conv as cpu_conv
from inception_np.kernels.cpu import llvm, machine, register_tile, transforms, winograd
from inception_np.kernels.cpu import pool as cpu_pool
from inception_np.kernels.cpu64 import pool as cpu64_pool
from inception_np.kernels.window import out_size
from inception_np.runtime.bench.accuracy import certificate

pytestmark = pytest.mark.skipif(backend.PLAIN, reason="INCEPTION_NP_PLAIN is set")

U = 2.0**-24
CHANNELS = [1, 3, 5, 16, 17, 24, 48, 64, 80, 100]
NO_PADS = ((0, 0), (0, 0))


class Guarded:
    """Makes arrays between canaries, and says whether the canaries live. Layouts: contiguous, or a channel slice."""

    number: type[np.floating] = np.float32
    closed = False  # does a page follow that may not be touched, in the place of the canaries after the array?

    def __init__(self, seed):
        self.rng, self.buffers = np.random.default_rng(seed), []

    def buffer(self, size):
        """64 canaries, room for `size` numbers, and 64 canaries or a closed page."""
        if not self.closed:
            return np.full(size + 128, np.nan, self.number)
        nbytes = np.dtype(self.number).itemsize * (size + 64)
        room = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(-1, room + mmap.PAGESIZE)
        buffer = np.frombuffer(memory, self.number, size + 64, room - nbytes)
        end = ctypes.c_void_p(buffer.ctypes.data + buffer.nbytes)
        assert ctypes.CDLL(None, use_errno=True).mprotect(end, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        buffer[...] = np.nan
        return buffer

    def array(self, shape, fill=None, *, sliced=False):
        """An array of random numbers, or of `fill`; as a slice, the channels before and after are canaries."""
        shape = tuple(shape)
        width = shape[-1] + (7 if sliced else 0)
        room = int(np.prod(shape[:-1], dtype=int)) * width
        buffer = self.buffer(room)
        whole = buffer[64 : 64 + room].reshape(*shape[:-1], width)
        a = whole[..., 3 : 3 + shape[-1]] if sliced else whole
        a[...] = self.rng.standard_normal(shape) if fill is None else fill
        live = np.zeros(buffer.shape, bool)
        inside = live[64 : 64 + room].reshape(whole.shape)
        (inside[..., 3 : 3 + shape[-1]] if sliced else inside)[...] = True
        self.buffers.append((buffer, live))
        return a

    def check(self):
        for buffer, live in self.buffers:
            assert np.isnan(buffer[~live]).all(), "a kernel wrote outside its arrays"


def double(*arrays):
    return [None if a is None else a.astype(np.float64) for a in arrays]


def absolute(*arrays):
    return [None if a is None else np.abs(a.astype(np.float64)) for a in arrays]


def assert_close(got, wanted, scale, terms, slack=1.0):
    """|got - wanted| <= (4 + 2 sqrt(terms)) u scale, element by element; in float64 `wanted` may err as much."""
    assert got.dtype == Guarded.number
    assert got.shape == wanted.shape
    u = U if got.dtype == np.float32 else 2 * 2.0**-53
    bound = slack * (4 + 2 * np.sqrt(terms)) * u * scale + 1e-37
    worst = np.max(np.abs(got - wanted) / bound)
    assert worst <= 1, f"{worst} times the bound"


@st.composite
def geometries(draw, largest=5, depthwise=False, pooling=False):
    """kernel, stride, pads, dilation, plane: from 1x1 on 1x1 to windows that overhang, rows and columns apart."""
    kernel = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = (1, 1) if pooling else draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads, plane = [], []
    for k, d in zip(kernel, dilation, strict=True):
        most = k - 1 if pooling else 3
        lo, hi = draw(st.integers(0, most)), draw(st.integers(0, most))
        least = max(1, d * (k - 1) + 1 - lo - hi)
        pads.append((lo, hi))
        plane.append(least + draw(st.integers(0, 9)))
    return kernel, stride, tuple(pads), dilation, tuple(plane)


def cases(**options):
    return given(
        geometry=geometries(**options),
        batch=st.sampled_from([1, 1, 2, 3]),
        channels=st.sampled_from(CHANNELS),
        more=st.sampled_from(CHANNELS),
        sliced=st.tuples(*[st.booleans()] * 4),
        seed=st.integers(0, 2**16),
    )


def conv_case(geometry, batch, channels, more, sliced, seed):
    kernel, stride, pads, dilation, plane = geometry
    g = Guarded(seed)
    x = g.array((batch, *plane, channels), sliced=sliced[0])
    w = g.array((*kernel, channels, more))
    out_hw = out_size(plane, kernel, stride, pads, dilation)
    dy = g.array((batch, *out_hw, more), sliced=sliced[1])
    return g, x, w, dy, (stride, pads, dilation, 1)


@cases()
def test_conv2d_equals_its_plain_twin(geometry, batch, channels, more, sliced, seed):
    g, x, w, dy, where = conv_case(geometry, batch, channels, more, sliced, seed)
    bias, out = g.array((more,)), g.array(dy.shape, 7, sliced=sliced[2])
    for b, relu in ((None, False), (bias, False), (bias, True), (None, True)):
        assert conv.conv2d(x, w, b, *where, relu=relu, out=out) is out
        wanted = plain(conv.conv2d)(*double(x, w, b), *where, relu=relu)
        scale = plain(conv.conv2d)(*absolute(x, w, b), *where)
        assert_close(out, wanted, scale, w[..., 0].size)
    assert np.array_equal(conv.conv2d(x, w, None, *where, relu=True), out)
    g.check()


@cases()
def test_conv2d_dx_equals_its_plain_twin(geometry, batch, channels, more, sliced, seed):
    g, x, w, dy, where = conv_case(geometry, batch, channels, more, sliced, seed)
    wanted = plain(conv.conv2d_dx)(*double(dy, w), x.shape, *where)
    scale = plain(conv.conv2d_dx)(*absolute(dy, w), x.shape, *where)
    terms = w[:, :, 0].size
    assert_close(conv.conv2d_dx(dy, w, x.shape, *where), wanted, scale, terms)
    before = x.copy()
    assert conv.conv2d_dx(dy, w, x.shape, *where, into=x) is x
    assert_close(x, before.astype(np.float64) + wanted, scale + np.abs(before), terms + 1)
    g.check()


@cases()
def test_conv2d_dw_equals_its_plain_twin(geometry, batch, channels, more, sliced, seed):
    g, x, w, dy, where = conv_case(geometry, batch, channels, more, sliced, seed)
    wanted, scale = w.astype(np.float64), np.abs(w.astype(np.float64))
    plain(conv.conv2d_dw)(*double(x, dy), wanted, *where)
    plain(conv.conv2d_dw)(*absolute(x, dy), scale, *where)
    conv.conv2d_dw(x, dy, w, *where)
    assert_close(w, wanted, scale, dy[..., 0].size + 1)
    g.check()


LARGE = [  # plane, channels, more, kernel, stride, pads: blocks and tiles in every number, several table chunks
    ((8, 9), 728, 48, (1, 1), (1, 1), NO_PADS),
    ((8, 9), 48, 728, (1, 1), (2, 2), NO_PADS),
    ((35, 34), 64, 96, (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((35, 34), 3, 32, (3, 3), (2, 2), NO_PADS),
    ((40, 41), 3, 64, (7, 7), (2, 2), ((3, 3), (3, 3))),
    ((17, 17), 32, 32, (1, 7), (1, 1), ((0, 0), (3, 3))),
    ((17, 18), 32, 48, (3, 3), (2, 2), NO_PADS),
    ((33, 32), 16, 16, (1, 1), (1, 1), NO_PADS),
    ((4, 5), 800, 17, (1, 1), (1, 1), NO_PADS),  # sums in several spans: of the channels, and of the taps
    ((9, 8), 100, 70, (3, 3), (2, 2), NO_PADS),
    ((32, 33), 6, 32, (5, 5), (1, 1), ((2, 2), (2, 2))),
    ((34, 35), 200, 180, (7, 1), (1, 1), ((3, 3), (0, 0))),
]


WINDOWS = {  # odd and even sides, every padding, channels that fill no vector
    (3, 3): [
        ((13, 14), 48, 50, ((1, 1), (1, 1))),
        ((15, 13), 50, 70, NO_PADS),
        ((13, 15), 64, 48, ((2, 0), (1, 2))),
        ((12, 11), 33, 100, ((2, 2), (0, 1))),
    ],
    (5, 5): [((13, 14), 17, 50, ((2, 2), (2, 2))), ((9, 12), 48, 33, ((4, 0), (1, 3)))],
    (3, 1): [((13, 14), 33, 50, ((1, 1), (0, 0))), ((6, 15), 64, 16, ((2, 0), (0, 0)))],
    (1, 3): [((14, 13), 33, 50, ((0, 0), (1, 1)))],
    (7, 1): [((13, 14), 33, 50, ((3, 3), (0, 0))), ((17, 6), 100, 16, ((6, 1), (0, 0)))],
    (1, 7): [((14, 13), 33, 50, ((0, 0), (3, 3)))],
}
WINOGRAD = [
    (window, i, *case)
    for window, cases in WINDOWS.items()
    for case in cases
    for i in range(len(cpu_conv.FORMS[max(window, window[::-1])]))
]


@pytest.fixture
def set_constants(monkeypatch):
    """Change constants that decide where Winograd's way is taken, for one test."""

    def change(**constants):
        for name, value in constants.items():
            monkeypatch.setattr(cpu_conv, name, value)
        program.clear_cache()

    yield change
    program.clear_cache()


def check_in_form(case, set_constants):
    """In the form of this case, whether it pays or not."""
    window, which, plane, channels, more, pads = case
    upright = max(window, window[::-1])
    (form, _), only = cpu_conv.FORMS[upright][which], {}
    for name in ("FORMS", "GRADIENT_FORMS"):
        only[name] = {upright: ((form, 0),)}
    before = {name: getattr(cpu_conv, name) for name in ("FORMS", "GRADIENT_FORMS")}
    set_constants(GAIN=np.inf, LEAST_CHANNELS=1, **only)
    shape = (3, *out_size(plane, window, (1, 1), pads), more)
    chosen = cpu_conv.form_that_pays(window, (1, 1), (1, 1), pads, channels, more, shape)
    assert chosen == (form, window[0] == 1)
    test_convolution_of_larger_maps_equals_its_plain_twin((plane, channels, more, window, (1, 1), pads))
    set_constants(**before)


@pytest.mark.parametrize("case", WINOGRAD)
def test_winograds_way_equals_the_plain_twin(case, set_constants):
    check_in_form(case, set_constants)


GEOMETRIES = [  # x, channels out, window: all forms where they are taken, sums that are short and long
    ((8, 16, 17, 16), 24, (3, 3)),
    ((8, 15, 16, 32), 40, (3, 3)),
    ((4, 28, 28, 64), 96, (3, 3)),
    ((16, 8, 8, 160), 128, (3, 3)),
    ((8, 16, 14, 16), 32, (5, 5)),
    ((4, 20, 21, 48), 64, (5, 5)),
    ((32, 8, 8, 96), 96, (1, 3)),
    ((8, 17, 17, 64), 48, (7, 1)),
    ((4, 17, 17, 192), 128, (1, 7)),
]


def errors_of(geometry):
    x_shape, more, window = geometry
    pads = tuple((k // 2, k // 2) for k in window)
    return certificate.__wrapped__(x_shape, (*window, x_shape[3], more), (1, 1), pads, (1, 1))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_winograds_errors_are_no_larger_than_twice_the_direct_sums(geometry, set_constants):
    set_constants(GAIN=np.inf)
    errors = errors_of(geometry)
    assert any(rms != 1 for rms, _ in errors.values())
    assert all(rms <= 2 for rms, _ in errors.values()), errors


def test_the_usual_points_are_seen_to_be_worse(monkeypatch):
    """The bound above can fail."""
    monkeypatch.setitem(winograd.POINTS, 6, winograd.ZERO + winograd.plus_minus("1", "2"))
    monkeypatch.setattr(machine, "kept", lambda function, compiled, variant: compiled(False))
    transforms.code.cache_clear()
    try:
        assert max(rms for rms, _ in errors_of(GEOMETRIES[2]).values()) > 2
    finally:
        transforms.code.cache_clear()
        program.clear_cache()


def test_a_window_whose_columns_are_one_tap_is_no_window_of_winograds():
    """Its depth, columns times channels, would be enough for a form; its window is not the form's."""
    for channels in (3, 6, 7):
        test_convolution_of_larger_maps_equals_its_plain_twin(
            ((32, 33), channels, 32, (5, 5), (1, 1), ((2, 2), (2, 2)))
        )


@pytest.mark.parametrize("case", LARGE)
def test_convolution_of_larger_maps_equals_its_plain_twin(case):
    plane, channels, more, kernel, stride, pads = case
    geometry = (kernel, stride, pads, (1, 1), plane)
    for sliced in ((False,) * 4, (True,) * 4):
        arguments = (geometry, 3, channels, more, sliced, 5)
        for test in (
            test_conv2d_equals_its_plain_twin,
            test_conv2d_dx_equals_its_plain_twin,
            test_conv2d_dw_equals_its_plain_twin,
        ):
            test.hypothesis.inner_test(*arguments)


@pytest.fixture
def float64(monkeypatch):
    """Arrays are of float64, and all of them large enough for kernels."""
    monkeypatch.setattr(Guarded, "number", np.float64)
    monkeypatch.setattr(dispatch, "MANY", 1)


@pytest.mark.parametrize("case", [*LARGE, ((13, 14), 48, 50, (3, 3), (1, 1), ((1, 1), (1, 1)))])
def test_float64_convolution_equals_its_plain_twin(case, float64):
    test_convolution_of_larger_maps_equals_its_plain_twin(case)


@pytest.mark.parametrize("channels", CHANNELS)
def test_float64_kernels_equal_their_plain_twins_for_any_number_of_channels(channels, float64):
    for geometry in (((1, 1), (1, 1), NO_PADS, (1, 1), (1, 1)), ((3, 2), (2, 1), ((1, 0), (0, 1)), (1, 2), (7, 8))):
        for more, sliced in ((5, (False,) * 4), (17, (True, False, True, False)), (1, (True,) * 4)):
            for test in (
                test_conv2d_equals_its_plain_twin,
                test_conv2d_dx_equals_its_plain_twin,
                test_conv2d_dw_equals_its_plain_twin,
            ):
                test.hypothesis.inner_test(geometry, 2, channels, more, sliced, 5)
    geometry = ((3, 2), (2, 1), ((1, 0), (0, 1)), (1, 1), (7, 8))
    for sliced in ((False,) * 4, (True, False, True, False)):
        test_max_pool_equals_its_plain_twin_to_the_bit.hypothesis.inner_test(geometry, 2, channels, 1, sliced, 5)
        test_avg_pool_equals_its_plain_twin.hypothesis.inner_test(geometry, 2, channels, 1, sliced, 5)
    for relu, train, has_gamma, sliced in (
        (True, True, True, (True, False, False, True)), (False, False, False, (False, True, True, False)),
    ):  # fmt: skip
        shape = (3, 20, 7, channels)
        test_batch_norm_equals_its_plain_twin.hypothesis.inner_test(shape, sliced, 1.0, relu, train, has_gamma, 0)


def test_layouts_no_kernel_has_are_copied():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((5, 7, 6, 2)).astype(np.float32).transpose(3, 1, 2, 0)[:, ::-1]
    w = rng.standard_normal((4, 5, 3, 2)).astype(np.float32).transpose(3, 2, 1, 0)
    where = ((1, 1), ((1, 0), (0, 1)), (1, 1), 1)
    wide = np.zeros((2, 7, 5, 8), np.float32)
    out = wide[..., ::2]
    conv.conv2d(x, w, None, *where, out=out)
    assert_close(out, plain(conv.conv2d)(*double(x, w), None, *where), 100.0, 30)
    dy = np.asfortranarray(out)
    add = np.zeros((2, 14, 6, 10), np.float32)[:, ::2, :, ::2]
    conv.conv2d_dx(dy, w, x.shape, *where, into=add)
    assert_close(add, plain(conv.conv2d_dx)(*double(dy, w), x.shape, *where), 100.0, 30)
    dw = np.zeros((4, 5, 3, 2), np.float32).transpose(3, 2, 1, 0)
    conv.conv2d_dw(x, dy, dw, *where)
    wanted = np.zeros(dw.shape)
    plain(conv.conv2d_dw)(*double(x, dy), wanted, *where)
    assert_close(dw, wanted, 1000.0, 80)


def test_a_wrong_shape_is_refused_before_an_address_is_used():
    x, w = np.ones((1, 4, 4, 3), np.float32), np.ones((3, 3, 5, 2), np.float32)
    where = ((1, 1), NO_PADS, (1, 1), 1)
    with pytest.raises(ValueError, match="wanted"):
        conv.conv2d(x, w, None, *where)
    with pytest.raises(ValueError, match="wanted"):
        conv.conv2d_dx(np.ones((1, 3, 3, 2), np.float32), w, (1, 4, 4, 5), *where)
    with pytest.raises(ValueError, match="wanted"):
        conv.conv2d_dw(x, np.ones((1, 2, 2, 2), np.float32), w, *where)


@cases(depthwise=True)
def test_depthwise_equals_its_plain_twin(geometry, batch, channels, more, sliced, seed):
    kernel, stride, pads, dilation, plane = geometry
    check_depthwise(kernel, stride, pads, dilation, (batch, *plane, channels), sliced, seed)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 1, 17), (3, 1, 6, 728), (2, 7, 9, 24), (8, 6, 5, 64)])
@pytest.mark.parametrize("sliced", [False, True])
def test_depthwise_3x3_of_stride_1_equals_its_plain_twin(shape, sliced):
    check_depthwise((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), shape, (sliced,) * 4, 1)


@pytest.mark.parametrize("channels, multiplier", [(1, 3), (3, 8), (5, 2), (8, 17)])
@pytest.mark.parametrize("sliced", [False, True])
def test_depthwise_with_several_filters_equals_its_plain_twin(channels, multiplier, sliced):
    assert depthwise.has_kernel(np.ones((1, 1, channels, multiplier)))
    for kernel, stride, pads in (((7, 7), (2, 2), ((2, 3), (3, 2))), ((3, 2), (1, 2), ((0, 1), (1, 0)))):
        check_depthwise(kernel, stride, pads, (1, 1), (2, 15, 12, channels), (sliced,) * 4, 1, multiplier)


def check_depthwise(kernel, stride, pads, dilation, shape, sliced, seed, multiplier=1):
    g = Guarded(seed)
    C = shape[3]
    x, w, b = g.array(shape, sliced=sliced[0]), g.array((*kernel, C, multiplier)), g.array((C * multiplier,))
    where = (stride, pads, dilation)
    out_hw = out_size(shape[1:3], kernel, stride, pads, dilation)
    out = g.array((shape[0], *out_hw, C * multiplier), 7, sliced=sliced[1])
    dy = g.array(out.shape, sliced=sliced[2])
    taps = kernel[0] * kernel[1] * multiplier
    for bias in (None, b):
        depthwise.depthwise2d(x, w, bias, *where, out=out)
        scale = depthwise.depthwise2d(*absolute(x, w, bias), *where)
        assert_close(out, depthwise.depthwise2d(*double(x, w, bias), *where), scale, taps)
    wanted = depthwise.depthwise2d_dx(*double(dy, w), shape, *where)
    scale = depthwise.depthwise2d_dx(*absolute(dy, w), shape, *where)
    assert_close(depthwise.depthwise2d_dx(dy, w, shape, *where), wanted, scale, taps)
    before = x.copy()
    dw = w.copy()
    wanted_w, scale_w = double(dw)[0], absolute(dw)[0]
    depthwise.depthwise2d_dw(*double(x, dy), wanted_w, *where)
    depthwise.depthwise2d_dw(*absolute(x, dy), scale_w, *where)
    depthwise.depthwise2d_dx(dy, w, shape, *where, into=x)
    assert_close(x, before.astype(np.float64) + wanted, scale + np.abs(before), taps + 1)
    depthwise.depthwise2d_dw(before, dy, w, *where)
    assert_close(w, wanted_w, scale_w, dy[..., 0].size + 1)
    g.check()


@cases(pooling=True)
def test_max_pool_equals_its_plain_twin_to_the_bit(geometry, batch, channels, more, sliced, seed):
    kernel, stride, pads, _, plane = geometry
    g = Guarded(seed)
    x = g.array((batch, *plane, channels), sliced=sliced[0])
    np.round(x, out=x)  # many ties
    if seed % 2:
        x[...] = strewn(x, seed)
    for ceil in (False, True):
        out_hw = out_size(plane, kernel, stride, pads, ceil=ceil)
        out = g.array((batch, *out_hw, channels), 7, sliced=sliced[1])
        where = (kernel, stride, pads)
        y, winners = pool.max_pool(x, *where, out_hw, out=out)
        wanted, won = pool.max_pool.__wrapped__(x, *where, out_hw)
        assert y is out
        assert np.array_equal(y, wanted, equal_nan=True)
        assert np.array_equal(winners, won)
        alone = g.array(out.shape, 7, sliced=sliced[3])
        (cpu_pool if x.dtype == np.float32 else cpu64_pool).max_pool_values(x, *where, alone)
        assert np.array_equal(alone, wanted, equal_nan=True)
        dy = g.array(y.shape, sliced=sliced[2])
        dx = plain(pool.max_pool_dx)(double(dy)[0], winners, x.shape, *where)
        scale = plain(pool.max_pool_dx)(absolute(dy)[0], winners, x.shape, *where)
        assert_close(pool.max_pool_dx(dy, winners, x.shape, *where), dx, scale, 25)
        into = g.array(x.shape, 1, sliced=sliced[3])
        pool.max_pool_dx(dy, winners, x.shape, *where, into=into)
        assert_close(into, dx + 1, scale + 1, 26)
    g.check()


@cases(pooling=True)
def test_avg_pool_equals_its_plain_twin(geometry, batch, channels, more, sliced, seed):
    kernel, stride, pads, _, plane = geometry
    g = Guarded(seed)
    x = g.array((batch, *plane, channels), sliced=sliced[0])
    for ceil, count_include_pad in ((False, True), (True, True), (False, False)):
        out_hw = out_size(plane, kernel, stride, pads, ceil=ceil)
        out = g.array((batch, *out_hw, channels), 7, sliced=sliced[1])
        where = (kernel, stride, pads)
        y = pool.avg_pool(x, *where, out_hw, count_include_pad, out=out)
        wanted = plain(pool.avg_pool)(double(x)[0], *where, out_hw, count_include_pad)
        assert_close(y, wanted, plain(pool.avg_pool)(absolute(x)[0], *where, out_hw, count_include_pad), 25)
        dy = g.array(y.shape, sliced=sliced[2])
        dx = plain(pool.avg_pool_dx)(double(dy)[0], x.shape, *where, count_include_pad)
        scale = plain(pool.avg_pool_dx)(absolute(dy)[0], x.shape, *where, count_include_pad)
        assert_close(pool.avg_pool_dx(dy, x.shape, *where, count_include_pad), dx, scale, 25)
        into = g.array(x.shape, 1, sliced=sliced[3])
        pool.avg_pool_dx(dy, x.shape, *where, count_include_pad, into=into)
        assert_close(into, dx + 1, scale + 1, 26)
    g.check()


planes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([*CHANNELS, 728]))
arrays = given(shape=planes, sliced=st.tuples(*[st.booleans()] * 4), seed=st.integers(0, 2**16))


@arrays
def test_global_avg_pool_equals_its_plain_twin(shape, sliced, seed):
    g = Guarded(seed)
    x, into = g.array(shape, sliced=sliced[0]), g.array(shape, 1, sliced=sliced[1])
    y = pool.global_avg_pool(x)
    assert_close(y, double(x)[0].mean((1, 2)), absolute(x)[0].mean((1, 2)), shape[1] * shape[2])
    dy = g.array(y.shape)
    wanted = np.broadcast_to(double(dy)[0][:, None, None] / (shape[1] * shape[2]), shape)
    assert_close(pool.global_avg_pool_dx(dy, shape), wanted, np.abs(wanted), 1)
    pool.global_avg_pool_dx(dy, shape, into=into)
    assert_close(into, wanted + 1, np.abs(wanted) + 1, 1)
    g.check()


@arrays
def test_elementwise_kernels_equal_their_plain_twins(shape, sliced, seed):
    g = Guarded(seed)
    x, dy = g.array(shape, sliced=sliced[0]), g.array(shape, sliced=sliced[1])
    out = g.array(shape, 7, sliced=sliced[2])
    assert np.array_equal(elementwise.relu(x, out=out), np.maximum(x, 0))
    assert np.array_equal(elementwise.relu_dx(dy, out), dy * (x > 0))
    into = g.array(shape, 1, sliced=sliced[3])
    elementwise.relu_dx(dy, out, into=into)
    assert np.array_equal(into, dy * (x > 0) + 1)
    elementwise.scaled_add(x, dy, 0.25, out=out)
    assert_close(out, double(x)[0] + 0.25 * double(dy)[0], np.abs(x) + np.abs(dy), 1)
    assert np.array_equal(elementwise.scaled(x, 0.25, out=out), np.float32(0.25) * x)
    assert np.array_equal(elementwise.copy_to(out, dy), dy)
    assert elementwise.add_to(out, x) is out
    assert_close(out, double(x)[0] + double(dy)[0], np.abs(x) + np.abs(dy), 1)
    bias = g.array(shape[-1:])
    before = bias.astype(np.float64)
    elementwise.sum_rows(dy, bias)
    axes = (0, 1, 2)
    scale = np.abs(before) + absolute(dy)[0].sum(axes)
    assert_close(bias, before + double(dy)[0].sum(axes), scale, dy[..., 0].size + 1)
    g.check()


@arrays
def test_relu_of_what_is_not_finite_equals_its_plain_twin(shape, sliced, seed):
    g = Guarded(seed)
    x, dy, out = (g.array(shape, fill, sliced=s) for fill, s in zip((None, None, 7), sliced, strict=False))
    x[...], dy[...] = strewn(x, seed), strewn(dy, seed + 1)
    wanted = elementwise.relu(double(x)[0])
    assert np.array_equal(elementwise.relu(x, out=out), wanted, equal_nan=True)
    assert np.array_equal(elementwise.relu_dx(dy, x), elementwise.relu_dx(*double(dy, x)), equal_nan=True)
    ones, zeros = np.ones(shape[-1:], np.float32), np.zeros(shape[-1:], np.float32)
    y = batchnorm.batch_norm(x, zeros, ones, None, zeros, relu=True, out=out)
    assert np.array_equal(y, wanted, equal_nan=True)
    g.check()


def test_relu_does_not_hide_a_nan():
    x = np.array([[np.nan, -1, 2]], np.float32)
    assert np.isnan(elementwise.relu(x)[0, 0])
    y = conv.conv2d(
        x.reshape(1, 1, 1, 3), np.ones((1, 1, 3, 2), np.float32), None, (1, 1), NO_PADS, (1, 1), 1, relu=True
    )
    assert np.isnan(y).all()


@settings(max_examples=50)
@given(
    shape=st.tuples(st.integers(2, 3), st.integers(1, 30), st.integers(1, 9), st.sampled_from([*CHANNELS, 728])),
    sliced=st.tuples(*[st.booleans()] * 4),
    offset=st.sampled_from([0.0, 1.0, 30.0]),
    relu=st.booleans(),
    train=st.booleans(),
    has_gamma=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_batch_norm_equals_its_plain_twin(shape, sliced, offset, relu, train, has_gamma, seed):
    g = Guarded(seed)
    C, count = shape[3], shape[0] * shape[1] * shape[2]
    x, dy = g.array(shape, sliced=sliced[0]), g.array(shape, sliced=sliced[1])
    x += Guarded.number(offset)
    mean, var = batchnorm.moments(x)
    wide = double(x)[0]
    axes = (0, 1, 2)
    kappa = 1 + np.abs(wide.mean(axes)) / wide.std(axes)  # what the inputs' own rounding does to x - mean
    assert_close(mean, wide.mean(axes), np.abs(wide).mean(axes), count)
    assert_close(var, wide.var(axes), wide.var(axes) * kappa, count)
    rstd = (var + Guarded.number(1e-3)) ** Guarded.number(-0.5)
    gamma, beta = g.array((C,)) if has_gamma else None, g.array((C,))
    y0 = plain(batchnorm.batch_norm)(*double(x, mean, rstd, gamma, beta))
    # keep ReLU's mask away from rounding: a y within rounding of zero may fall on either side
    near = np.abs(y0) < 1e-4 * (1 + offset)
    assume(not relu or not near.any() or train is None) if near.mean() > 0.2 else None
    out = g.array(shape, 7, sliced=sliced[2])
    assert batchnorm.batch_norm(x, mean, rstd, gamma, beta, relu=relu, out=out) is out
    wanted = plain(batchnorm.batch_norm)(*double(x, mean, rstd, gamma, beta), relu=relu)
    scale = np.abs(wide - mean) * rstd * (1 if gamma is None else np.abs(gamma)) + np.abs(beta)
    assert_close(out, wanted, scale, 1)
    if relu:
        dy[near] = 0
    dx, dgamma, dbeta = batchnorm.batch_norm_grad(
        dy, x, mean, rstd, gamma, beta, relu=relu, train=train, out=x if sliced[3] else None
    )
    assert (dx is x) == sliced[3]
    args = (*double(dy), wide, *double(mean, rstd, gamma, beta))
    wanted, wanted_gamma, wanted_beta = plain(batchnorm.batch_norm_grad)(*args, relu=relu, train=train)
    r = rstd * (1 if gamma is None else np.abs(gamma))
    xhat = np.abs(wide - mean) * rstd
    size = np.abs(dy).astype(np.float64)
    scale = r * (size + size.mean(axes) + xhat * (size * xhat).mean(axes))
    assert_close(dx, wanted, scale, count)
    assert_close(dbeta, wanted_beta, size.sum(axes), count)
    if has_gamma:
        assert_close(dgamma, wanted_gamma, (size * xhat).sum(axes), count)
    g.check()


def test_the_variance_survives_a_first_pixel_far_from_the_rest():
    x = np.random.default_rng(0).standard_normal((4, 20, 20, 5)).astype(np.float32)
    x[0, 0, 0] = 1e4
    mean, var = batchnorm.moments(x)
    wide = x.astype(np.float64)
    assert np.allclose(mean, wide.mean((0, 1, 2)), rtol=2e-5)
    assert np.allclose(var, wide.var((0, 1, 2)), rtol=1e-5)


@given(
    shape=planes,
    sliced=st.tuples(*[st.booleans()] * 4),
    size=st.sampled_from([1, 3, 5, 7]),
    beta=st.sampled_from([0.5, 0.75, 1.0]),
    alpha=st.sampled_from([1e-4, 0.5]),
    seed=st.integers(0, 2**16),
)
def test_lrn_equals_its_plain_twin(shape, sliced, size, beta, alpha, seed):
    g = Guarded(seed)
    x, dy = g.array(shape, sliced=sliced[0]), g.array(shape, sliced=sliced[1])
    out, into = g.array(shape, 7, sliced=sliced[2]), g.array(shape, 1, sliced=sliced[3])
    wide, dwide = double(x, dy)
    wanted = plain_lrn(wide, size, alpha, beta)
    assert lrn.lrn(x, size, alpha, beta, 1.0, out=out) is out
    assert_close(out, wanted, np.abs(wanted), size, slack=1 + 2 * beta)
    dx = plain(lrn.lrn_dx)(dwide, wide, size, alpha, beta, 1.0)
    s = 1 + alpha * window_sum(wide**2, size)
    terms = 2 * alpha * beta * np.abs(wide) * window_sum(np.abs(dwide * wide) * s ** (-beta - 1), size)
    scale = np.abs(dwide) * s**-beta + terms
    assert_close(lrn.lrn_dx(dy, x, size, alpha, beta, 1.0), dx, scale, size, slack=1 + 2 * beta)
    lrn.lrn_dx(dy, x, size, alpha, beta, 1.0, into=into)
    assert_close(into, dx + 1, scale + 1, size, slack=1 + 2 * beta)
    g.check()


def window_sum(x, size):
    half = size // 2
    wide = np.pad(x, ((0, 0), (0, 0), (0, 0), (half, half)))
    return sum(wide[..., j : j + x.shape[3]] for j in range(size))


def plain_lrn(x, size, alpha, beta):
    return x * (1 + alpha * window_sum(x * x, size)) ** -beta


@given(
    rows=st.sampled_from([1, 2, 8, 33]),
    inputs=st.sampled_from([1, 5, 17, 100]),
    outputs=st.sampled_from([1, 10, 48, 100]),
    seed=st.integers(0, 2**16),
)
def test_linear_equals_its_plain_twin(rows, inputs, outputs, seed):
    g = Guarded(seed)
    x, w, b = g.array((rows, inputs)), g.array((inputs, outputs)), g.array((outputs,))
    y = linear.linear(x, w, b)
    X, W, B = double(x, w, b)
    scale = np.abs(X) @ np.abs(W) + np.abs(B)
    assert_close(y, X @ W + B, scale, inputs)
    dy = g.array(y.shape)
    D = double(dy)[0]
    assert_close(linear.linear_dx(dy, w), D @ W.T, np.abs(D) @ np.abs(W.T), outputs)
    linear.linear_dw(x, dy, w)
    assert_close(w, W + X.T @ D, np.abs(W) + np.abs(X.T) @ np.abs(D), rows + 1)
    g.check()


@given(
    rows=st.sampled_from([1, 8, 33]),
    classes=st.sampled_from([2, 10, 1000]),
    smoothing=st.sampled_from([0.0, 0.1]),
    scale=st.sampled_from([1.0, 100.0]),
    seed=st.integers(0, 2**16),
)
def test_loss_equals_its_plain_twin(rows, classes, smoothing, scale, seed):
    g = Guarded(seed)
    logits = g.array((rows, classes))
    logits *= scale
    labels = g.rng.integers(0, classes, rows)
    value, dlogits = loss.softmax_cross_entropy(logits, labels, smoothing)
    wanted, dwanted = loss.softmax_cross_entropy(double(logits)[0], labels, smoothing)
    assert abs(value - wanted) <= 4 * U * (np.abs(logits).max() + abs(wanted))
    assert np.abs(dlogits - dwanted).max() <= 4 * U / rows
    g.check()


@given(size=st.sampled_from([1, 15, 16, 17, 1000, 40000]), seed=st.integers(0, 2**16))
def test_updates_equal_their_plain_twins(size, seed):
    for decay in (0.0, 0.25):
        for momentum, nesterov in ((None, False), (0.75, False), (0.75, True)):
            g = Guarded(seed)
            data, grad = g.array((size,)), g.array((size,))
            velocity = None if momentum is None else g.array((size,))
            wide = double(data, grad, velocity)
            update.sgd_step(*wide, 0.125, momentum or 0.0, decay, nesterov)
            update.sgd_step(data, grad, velocity, 0.125, momentum or 0.0, decay, nesterov)
            assert_close(data, wide[0], 10.0, 1)
            assert velocity is None or assert_close(velocity, wide[2], 10.0, 1) is None
            assert not grad.any()
            g.check()
        g = Guarded(seed)
        state = [g.array((size,)) for _ in range(4)]
        state[2][...] = np.abs(state[2])
        wide = double(*state)
        update.rmsprop_step(*wide, 0.125, 0.75, 0.5, 0.5, decay)
        update.rmsprop_step(*state, 0.125, 0.75, 0.5, 0.5, decay)
        for got, wanted in zip(state, wide, strict=True):
            assert_close(got, wanted, 10.0, 1)
        g.check()


# ---- threads, processors, processes


def five_steps(name="inception_v3_cifar"):
    """The weights after five training steps, as bytes: heads, dropout, batch norm, momentum and all."""
    net = create_model(name, width=1 / 8)
    optimiser = SGD(net, 0.05, momentum=0.9, weight_decay=1e-4)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 10, 9)
    for _ in range(5):
        y, cache = net.forward(x, Mode(train=True, keep=True, rng=rng))
        logits, aux = y if isinstance(y, tuple) else (y, {})
        _, dlogits = softmax_cross_entropy(logits, labels)
        heads = {k: softmax_cross_entropy(v, labels)[1] * np.float32(0.3) for k, v in aux.items()}
        net.backward((dlogits, heads) if aux else dlogits, x, cache)
        optimiser.step()
    return optimiser.data.tobytes()


@pytest.mark.parametrize("name", ["inception_v1_cifar", "inception_v3_cifar", "xception_cifar"])
def test_weights_are_the_same_bits_for_any_number_of_threads(name):
    before = threads.num_threads()
    try:
        found = []
        for count in (1, 2, 3, 4, 2):
            threads.set_num_threads(count)
            found.append(five_steps(name))
        assert all(weights == found[0] for weights in found)
    finally:
        threads.set_num_threads(before)


@pytest.mark.parametrize("number", [np.float32, np.float64])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_kernels_are_the_same_bits_for_any_number_of_threads(count, number):
    rng = np.random.default_rng(0)
    arrays = {}
    before = threads.num_threads()
    x = rng.standard_normal((3, 35, 34, 40)).astype(number)
    dy = rng.standard_normal((3, 35, 34, 70)).astype(number)
    w = rng.standard_normal((3, 3, 40, 70)).astype(number)
    wide = rng.standard_normal((5, 7, 40, 70)).astype(number)
    where = ((1, 1), ((1, 1), (1, 1)), (1, 1))
    try:
        for n in (1, count):
            threads.set_num_threads(n)
            dw, bias, filters = np.zeros_like(w), np.zeros(40, number), np.zeros((3, 3, 40, 1), number)
            conv.conv2d_dw(x, dy, dw, *where, 1)
            small = np.zeros((1, 1, 40, 40), number)
            conv.conv2d_dw(x, x, small, (1, 1), NO_PADS, (1, 1), 1)
            elementwise.sum_rows(x, bias)
            depthwise.depthwise2d_dw(x, x, filters, *where)
            mean, var = batchnorm.moments(x)
            grads = batchnorm.batch_norm_grad(x[::-1].copy(), x, mean, var, bias, bias, relu=True, train=True, out=None)
            y = conv.conv2d(x, w, None, *where, 1)
            dx = conv.conv2d_dx(dy, w, x.shape, *where, 1)
            arrays[n] = [dw, small, bias, filters, mean, var, *grads, y, dx]
            for window in ((5, 5), (1, 7), (3, 1)):
                there = ((1, 1), tuple((k // 2, k // 2) for k in window), (1, 1), 1)
                v = wide[: window[0], : window[1]].copy()
                dv = np.zeros_like(v)
                conv.conv2d_dw(x, dy, dv, *there)
                arrays[n] += [dv, conv.conv2d(x, v, None, *there), conv.conv2d_dx(dy, v, x.shape, *there)]
    finally:
        threads.set_num_threads(before)
    for a, b in zip(arrays[1], arrays[count], strict=True):
        assert np.array_equal(a, b)


def test_several_threads_may_compute_at_once():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 20, 20, 48)).astype(np.float32)
    w = rng.standard_normal((3, 3, 48, 48)).astype(np.float32)
    where = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    wanted, wrong = conv.conv2d(x, w, None, *where), []

    def work():
        same = [np.array_equal(conv.conv2d(x, w, None, *where), wanted) for _ in range(30)]
        wrong.append(same.count(False))

    crowd = [threading.Thread(target=work) for _ in range(4)]
    for t in crowd:
        t.start()
    for t in crowd:
        t.join()
    assert wrong == [0] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_computes_without_the_workers_it_did_not_inherit():
    wanted = five_steps("inception_v1_cifar")
    child = os.fork()
    if child == 0:
        os._exit(0 if five_steps("inception_v1_cifar") == wanted else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0


def test_the_number_of_threads_is_checked():
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            threads.set_num_threads(wrong)
    for wrong in (1.5, "2", True, None):
        with pytest.raises(TypeError, match="wanted an int"):
            threads.set_num_threads(wrong)


def python(code, **environment):
    """Run code in a process of its own: (exit code, stdout, stderr)."""
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.long
@pytest.mark.parametrize("cpu", ["haswell", "x86-64"])
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")
def test_kernels_for_other_processors_equal_their_plain_twins(cpu, tmp_path):
    features = "+64bit,+cmov,+fxsr,+mmx,+sse,+sse2"
    if cpu == "haswell":
        features += ",+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+popcnt,+sse3,+ssse3,+sse4.1,+sse4.2"
    code = """
import test_cpu_kernels as t
from inception_np.kernels.cpu.register_tile import WIDTH
assert WIDTH == (8 if "haswell" in __import__("os").environ["NUMBA_CPU_NAME"] else 4), WIDTH
for case in t.LARGE:
    t.test_convolution_of_larger_maps_equals_its_plain_twin(case)
t.test_depthwise_3x3_of_stride_1_equals_its_plain_twin((2, 7, 9, 24), True)
t.test_layouts_no_kernel_has_are_copied()
g = ((3, 2), (2, 1), ((1, 0), (0, 1)), (1, 1), (7, 8))
s = (True, False, True, False)
t.test_max_pool_equals_its_plain_twin_to_the_bit.hypothesis.inner_test(g, 2, 17, 1, s, 0)
t.test_avg_pool_equals_its_plain_twin.hypothesis.inner_test(g, 2, 17, 1, s, 0)
t.test_batch_norm_equals_its_plain_twin.hypothesis.inner_test((3, 20, 7, 24), s, 1.0, True, True, True, 0)
t.test_lrn_equals_its_plain_twin.hypothesis.inner_test((2, 3, 4, 24), s, 5, 0.75, 0.5, 0)
t.test_updates_equal_their_plain_twins.hypothesis.inner_test(1000, 0)
print("equal")
"""
    code, out, err = python(code, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(tmp_path))
    assert (code, out) == (0, "equal\n"), err


def neon_code(rows, vectors):
    """The code of the output tile for aarch64: its blocks, whatever this processor is."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    try:
        target = binding.Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError:
        pytest.skip("this LLVM has no code generator for aarch64")
    machine = target.create_target_machine(opt=3)
    module = ir.Module()
    module.triple = target.triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [llvm.I64] * 12), "tile")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    registers = {"WIDTH": 4, "REGISTER": ir.VectorType(llvm.ELEMENT, 4)}
    with (
        mock.patch.multiple(llvm, HAS_MASKS=False, HAS_FMA=True, **registers),
        mock.patch.multiple(register_tile, **registers),
    ):
        register_tile._emit_output(register_tile.Tile(builder, rows, vectors), *function.args)
    builder.ret_void()
    optimised = binding.parse_assembly(str(module))
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(optimised, passes)
    return re.split(r"\n(?=\.L)", machine.emit_assembly(optimised))


def spilled(block):
    """The moves of vector registers to and from the stack."""
    return re.findall(r"(?:ldr|str|ldp|stp)\s+q\d.*\[(?:sp|x29)", block)


def test_the_tiles_for_neon_keep_their_sums_in_registers():
    for vectors, rows in ((3, 8), (2, 12), (1, 12)):
        loop = max(neon_code(rows, vectors), key=lambda block: block.count("fmla"))
        assert loop.count("fmla") == register_tile.TURN * rows * vectors
        assert not spilled(loop)
    too_large = max(neon_code(10, 3), key=lambda block: block.count("fmla"))
    assert spilled(too_large)


@pytest.mark.skipif(sys.platform != "linux", reason="closes pages with Linux's mprotect")
def test_kernels_touch_nothing_beyond_their_arrays():
    code = """
import test_cpu_kernels as t
t.Guarded.closed = True
for case in t.LARGE:
    t.test_convolution_of_larger_maps_equals_its_plain_twin(case)
def set_constants(**constants):
    vars(t.cpu_conv).update(constants)
    t.program.clear_cache()
for case in t.WINOGRAD:
    t.check_in_form(case, set_constants)
for C in (1, 3, 5, 17, 24, 728):
    t.test_depthwise_3x3_of_stride_1_equals_its_plain_twin((2, 5, 6, C), False)
    g = ((3, 2), (2, 1), ((1, 0), (0, 1)), (1, 1), (7, 8))
    for s in ((False,) * 4, (True, False, True, False)):
        t.test_depthwise_equals_its_plain_twin.hypothesis.inner_test(g, 2, C, 1, s, 0)
        t.test_max_pool_equals_its_plain_twin_to_the_bit.hypothesis.inner_test(g, 2, C, 1, s, 0)
        t.test_avg_pool_equals_its_plain_twin.hypothesis.inner_test(g, 2, C, 1, s, 0)
        t.test_global_avg_pool_equals_its_plain_twin.hypothesis.inner_test((2, 5, 6, C), s, 0)
        t.test_elementwise_kernels_equal_their_plain_twins.hypothesis.inner_test((2, 5, 6, C), s, 0)
        t.test_batch_norm_equals_its_plain_twin.hypothesis.inner_test((3, 20, 7, C), s, 1.0, True, True, True, 0)
        t.test_lrn_equals_its_plain_twin.hypothesis.inner_test((2, 3, 4, C), s, 5, 0.75, 0.5, 0)
    t.test_linear_equals_its_plain_twin.hypothesis.inner_test(3, C, 17, 0)
    t.test_updates_equal_their_plain_twins.hypothesis.inner_test(C, 0)
print("untouched", flush=True)

from inception_np.kernels.cpu.elementwise import scale_rows
from inception_np.backend.program import address
a = t.Guarded(0).array((3,))
scale_rows(address(a), 0, address(a), 0, 1, 4, 2.0, parts=1)
print("missed")
"""
    code, out, err = python(code)
    assert (code, out) == (-signal.SIGSEGV, "untouched\n"), err


@pytest.mark.long
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX-512 is x86's")
def test_the_code_for_avx512_equals_its_plain_twins_on_any_processor(tmp_path):
    """With vectors of 16 and masks, whatever this processor makes of them."""
    where = planted(tmp_path, "llvm.py", 'HAS_MASKS = "avx512f" in FEATURES', "HAS_MASKS = True")
    code = """
import test_cpu_kernels as t
from inception_np.kernels.cpu.llvm import WIDTH
from inception_np.kernels.cpu.simd import ROWS
assert (WIDTH, ROWS) == (16, 8)
for case in t.LARGE:
    t.test_convolution_of_larger_maps_equals_its_plain_twin(case)
def set_constants(**constants):
    vars(t.cpu_conv).update(constants)
    t.program.clear_cache()
for case in t.WINOGRAD[::3]:
    t.check_in_form(case, set_constants)
print("equal")
"""
    code, out, err = python(code, PYTHONPATH=where, INCEPTION_NP_THREADS="1")
    assert (code, out) == (0, "equal\n"), err


CONV = """
import sys
import numpy as np
from inception_np.kernels import conv
x = np.ones((1, 2, 2, 3), np.float32)
y = conv.conv2d(x, np.ones((1, 1, 3, 2), np.float32), None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
print(float(y.sum()), "numba" in sys.modules)
"""


@pytest.mark.slow
def test_the_first_process_says_once_that_it_compiles_and_the_second_is_silent(tmp_path):
    for message in (1, 0):
        code, out, err = python(CONV, NUMBA_CACHE_DIR=str(tmp_path))
        assert (code, out) == (0, "24.0 True\n"), err
        assert err.count("compiling the fast kernels, once") == message
        assert len(err.splitlines()) == message
    assert list(tmp_path.rglob("*.nbc"))


@pytest.mark.slow
def test_without_a_writable_folder_kernels_live_in_memory():
    code, out, err = python(CONV, NUMBA_CACHE_DIR="/proc/no/such/folder")
    assert (code, out) == (0, "24.0 True\n"), err
    assert "no folder is writable" in err


def test_plain_kernels_load_no_compiler():
    code, out, err = python(CONV, INCEPTION_NP_PLAIN="1")
    assert (code, out) == (0, "24.0 False\n"), err


def test_a_gradient_check_of_a_network_loads_no_compiler():
    code = """
import sys
import numpy as np
from inception_np import create_model, Mode
from inception_np.layer import cast
from inception_np.kernels import conv, dispatch
for many in (dispatch.MANY, 1 << 16):
    dispatch.MANY = many
    net = cast(create_model("inception_v3_cifar"), np.float64)
    net.forward(np.zeros((2, 32, 32, 3)), Mode())
    print("numba" in sys.modules)
"""
    code, out, err = python(code)
    assert (code, out) == (0, "False\nTrue\n"), err


# ---- these tests can fail: faults planted in the sources, one at a time

FAULTS = {
    "a row of the table one number off": (
        "simd.py",
        "there = b.add(read(base), splat_int(offset))",
        "there = b.add(read(base), splat_int(b.add(offset, ir.Constant(I64, 4))))",
    ),
    "the bounds of the table one too wide": ("simd.py", 'b.icmp_unsigned("<", column', 'b.icmp_unsigned("<=", column'),
    "the tail mask one lane short": (
        "register_tile.py",
        "emit_store(self.b, sums[m][n], there, self.at(valid, -WIDTH * n))",
        "emit_store(self.b, sums[m][n], there, self.at(valid, -WIDTH * n - 1))",
    ),
    "the tail mask one lane long": (
        "register_tile.py",
        "emit_store(self.b, sums[m][n], there, self.at(valid, -WIDTH * n))",
        "emit_store(self.b, sums[m][n], there, self.at(valid, -WIDTH * n + 1))",
    ),
    "a turn of the loop too many": (
        "register_tile.py",
        "b.and_(count, ir.Constant(I64, -TURN))",
        "b.add(count, ir.Constant(I64, TURN - 1))",
    ),
    "a row of dw that is not there": (
        "register_tile.py",
        'exists = b.icmp_signed("<", constant(m), wanted)',
        'exists = b.icmp_signed("<=", constant(m), wanted)',
    ),
    "the next rows of a tile of dw from the same columns": (
        "register_tile.py",
        "at = columns + m // ROWS * column_step",
        "at = columns + m // ROWS // 2 * column_step",
    ),
    "a span that begins at the first weights": (
        "implicit_gemm.py",
        "w = s.weights + SIZE * WIDTH * (v * s.taps * s.depth + n * (t * s.depth + k))",
        "w = s.weights + SIZE * WIDTH * (v * s.taps * s.depth + n * t * s.depth)",
    ),
    "a span that forgets what y holds": (
        "implicit_gemm.py",
        "old = min(count - i, GROUP), s.adds if begins else GOES_ON",
        "old = min(count - i, GROUP), s.adds",
    ),
    "a tap phase one pixel off": (
        "conv.py",
        "[((a + before - i * d) // s, i) for",
        "[((a + before - i * d) // s + (s > 1), i) for",
    ),
    "a tap in the wrong phase": (
        "conv.py",
        "if (a + before - i * d) % s == 0]",
        "if (a + before - i * d + (s > 1)) % s == 0]",
    ),
    "a patch one column off": ("patches.py", "h - s.top, w - s.left", "h - s.top, w - s.left + 1"),
    "a form for columns that were made one tap": (
        "conv.py",
        "form_that_pays(w.shape[:2], stride, dilation, pads, w.shape[2], w.shape[3], shape)",
        "form_that_pays(w.shape[:2], stride, dilation, pads, depth, w.shape[3], shape)",
    ),
    "a span that starts where another was": ("patches.py", "0 if c == 0 and k < places else ADDS", "0"),
    "an output beyond the last row": (
        "patches.py",
        "at, h, w, s.yh, s.yw, s.OH, s.OW, nowhere)",
        "at, h, w, s.yh, s.yw, s.OH + 1, s.OW, nowhere)",
    ),
    "the rows of another part of the window": (
        "patches.py",
        "window = line // s.p_h",
        "window = min(line // s.p_h, 0)",
    ),
    "a line of Winograd's transform": (
        "winograd.py",
        "(values[k] - values[k + 1], -1)",
        "(values[k + 1] - values[k], -1)",
    ),
    "a tap that does not exist": ("patches.py", "if first + t < taps else 0)", "if first + t <= taps else 0)"),
    "two arrays of scratch at one address": (
        "../../backend/program.py",
        "self.scratch += -(-a.nbytes // ALIGN) * ALIGN",
        "self.scratch = max(self.scratch, a.nbytes)",
    ),
    "a number of float64 that is four bytes": (
        "register_tile.py",
        "there = self.at(place, SIZE * WIDTH * n)",
        "there = self.at(place, 4 * WIDTH * n)",
    ),
    "packed weights one step off": (
        "panels.py",
        "(v * room + (first + k) * n)",
        "(v * room + (first + max(k - 1, 0)) * n)",
    ),
}


def planted(folder, name, sound, broken):
    """Where Python finds a copy of the package in which one line of kernels/cpu/`name` is another, and these tests."""
    package = Path(__file__).parent.parent / "inception_np"
    shutil.copytree(package, folder / "inception_np", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "inception_np" / "kernels" / "cpu" / name
    source = path.read_text()
    assert source.count(sound) == 1
    path.write_text(source.replace(sound, broken))
    return os.pathsep.join([str(folder), str(Path(__file__).parent)])


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault, tmp_path):
    where = planted(tmp_path, *FAULTS[fault])
    code = """
import sys
import numpy as np
import test_cpu_kernels as t
t.Guarded.closed = sys.platform == "linux"
FLOAT64for case in t.LARGE[-4:] + t.LARGE[1:4] + t.LARGE[6:-4]:
    plane, channels, more, kernel, stride, pads = case
    for sliced in ((False,) * 4, (True,) * 4):
        for test in (
            t.test_conv2d_equals_its_plain_twin,
            t.test_conv2d_dx_equals_its_plain_twin,
            t.test_conv2d_dw_equals_its_plain_twin,
        ):
            try:
                test.hypothesis.inner_test((kernel, stride, pads, (1, 1), plane), 2, channels, more, sliced, 5)
            except (AssertionError, ValueError):
                print("caught")
                raise SystemExit
print("missed")
"""
    code = code.replace("FLOAT64", "t.Guarded.number, t.dispatch.MANY = np.float64, 1\n" if "float64" in fault else "")
    code, out, err = python(code, PYTHONPATH=where, INCEPTION_NP_THREADS="1")
    assert out == "caught\n" or code < 0, err  # (a crash is caught too)

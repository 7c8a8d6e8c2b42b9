"""Every CUDA kernel against the plain one, through the same functions that layers call.

On a machine without a GPU the sources run on the CPU (host_cuda), the threads of a block in two ways; with one
(`pytest -m gpu`) the same tests run there. Small integers are compared bit for bit, since all their sums are exact;
other numbers within the rounding of float32, or of TF32. What is stored in bfloat16 is what is right, computed from the
rounded inputs and rounded once. Outputs begin as NaN, and are written into a slice of the
channels of a wider array, whose other channels must stay as they were. Then the sources are spoiled, one fault at a
time, and the tests must fail.
"""

import contextlib
import copy
import functools
from unittest import mock

import host_cuda
import numpy as np
import pytest
import strict_cupy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numerics import strewn
from on_device import gradients

from inception_np import Concat, Layer, Mode, ReLU, Residual, Sequential, create_model, list_models
from inception_np.backend import device as backend
from inception_np.data import batches
from inception_np.data.random import stream
from inception_np.kernels import batchnorm, clip, conv, depthwise, elementwise, linear, loss, lrn, philox, pool, update
from inception_np.kernels.cuda import augment, launch
from inception_np.kernels.cuda import clip as cuda_clip
from inception_np.kernels.cuda import conv as cuda_conv
from inception_np.kernels.cuda import elementwise as cuda_elementwise
from inception_np.kernels.window import out_size
from inception_np.layer import named_params
from inception_np.layers.linear import Scale
from inception_np.models.network import smallest_image
from inception_np.testing import LAYERS, flags, networks, pairs, random_like, seeds, shapes, windows

within_test = settings(suppress_health_check=[*HealthCheck])
on_host = pytest.mark.skipif(bool(host_cuda.missing), reason=host_cuda.missing or "g++ is here")
DEVICES = [
    pytest.param("by turns", marks=on_host),
    pytest.param("greedily", marks=on_host),
    pytest.param("gpu", marks=pytest.mark.gpu),
]


@pytest.fixture(params=DEVICES)
def cupy(request, monkeypatch):
    """CuPy, or its stand-in with the kernels on the CPU."""
    monkeypatch.setattr(backend, "PLAIN", False)
    monkeypatch.setattr(backend, "precision", "float32")
    if request.param == "gpu":
        return pytest.importorskip("cupy")
    host_cuda.on_host(monkeypatch, greedy=request.param == "greedily")
    return strict_cupy.pretend(monkeypatch)


# -- numbers, and where they lie -----------------------------------------------------------------------------------


class Numbers:
    """Arrays from a seed: small integers, or normal numbers; on the device as channel slices of wider arrays.

    stored: the dtype of activations, to which they are rounded when they are drawn. Parameters are of float32.
    """

    def __init__(self, cupy, seed, whole=True, sliced=False, stored="float32", beside=None):
        self.cupy, self.rng, self.whole, self.sliced = cupy, np.random.default_rng(seed), whole, sliced
        self.dtype = dtype_named(stored)
        self.before, self.after = beside or (
            (4, 4) if seed // 8 % 2 else (3, 2)
        )  # with and without room for wide loads
        self.wide = []

    def draw(self, *shape):
        return self.parameters(*shape).astype(self.dtype).astype(np.float32)

    def parameters(self, *shape):
        if self.whole:
            return self.rng.integers(-4, 5, shape).astype(np.float32)
        return self.rng.standard_normal(shape).astype(np.float32)

    def put(self, a):
        """a on the device: alone, or between two strips of NaN channels."""
        if not self.sliced or a.ndim < 2:
            return self.cupy.asarray(a.astype(self.dtype))
        wide = np.full((*a.shape[:-1], self.before + a.shape[-1] + self.after), np.nan, self.dtype)
        wide[..., self.before : -self.after] = a
        self.wide.append(self.cupy.asarray(wide))
        return self.wide[-1][..., self.before : -self.after]

    def result(self, shape):
        """Somewhere to write: None, or a slice whose neighbours are watched."""
        return self.put(np.full(shape, np.nan, np.float32)) if self.sliced else None

    def check(self, got, wanted, tolerance=2e-6, dtype=None):
        """got (device, of `dtype` or as activations are stored) is wanted (NumPy, float64): exactly for whole numbers.

        In bfloat16 it is the rounded number; for others within half a unit of each one's last place besides.
        """
        got, wanted = got.get(), np.asarray(wanted)
        assert got.shape == wanted.shape
        assert got.dtype == (dtype or self.dtype)
        rounded = got.dtype != np.float32
        got = got.astype(np.float32)  # exactly; NumPy's comparisons do not know NaN in bfloat16
        if self.whole:
            np.testing.assert_array_equal(got, wanted.astype(self.dtype).astype(np.float32) if rounded else wanted)
        else:
            assert np.isfinite(got).all()
            atol = tolerance * max(1, np.abs(wanted).max(initial=0))
            np.testing.assert_allclose(got, wanted, rtol=2**-8 if rounded else 0, atol=atol)
        for wide in self.wide:
            strips = wide.get()
            beside = strips[..., : self.before], strips[..., -self.after :]
            assert all(np.isnan(strip).all() for strip in beside), "wrote beside its channels"


def dtype_named(stored):
    """float32, or bfloat16, whose name NumPy knows once ml_dtypes is imported."""
    return np.dtype(getattr(pytest.importorskip("ml_dtypes"), stored) if stored == "bfloat16" else stored)


@st.composite
def numbers(draw):
    return draw(seeds), draw(flags), draw(flags)


def wide64(*arrays):
    """The plain kernels in float64 are what is right."""
    return [a.astype(np.float64) for a in arrays]


# -- the properties: each takes (cupy, what was drawn) -------------------------------------------------------------


def max_pool(cupy, window, n, c, drawn):
    size, stride, pads, _, plane = window
    make = Numbers(cupy, *drawn)
    x = make.draw(n, *plane, c)
    if make.whole:
        x = strewn(x, drawn[0])
    out_hw = out_size(plane, size, stride, pads, ceil=drawn[0] % 2 == 0)
    wanted, winners = pool.max_pool(*wide64(x), size, stride, pads, out_hw)
    y, got = pool.max_pool(make.put(x), size, stride, pads, out_hw, out=make.result(wanted.shape))
    make.check(y, wanted)
    np.testing.assert_array_equal(got.get(), winners)
    dy, dx = make.draw(*wanted.shape), make.draw(*x.shape)
    wanted = pool.max_pool_dx(*wide64(dy), winners, x.shape, size, stride, pads)
    make.check(pool.max_pool_dx(make.put(dy), got, x.shape, size, stride, pads), wanted)
    make.check(pool.max_pool_dx(make.put(dy), got, x.shape, size, stride, pads, into=make.put(dx)), wanted + dx)


def avg_pool(cupy, window, n, c, drawn):
    size, stride, pads, _, plane = window
    make = Numbers(cupy, drawn[0], False, *drawn[2:])
    x, include = make.draw(n, *plane, c), drawn[1]
    out_hw = out_size(plane, size, stride, pads, ceil=drawn[0] % 2 == 0)
    args = (size, stride, pads)
    wanted = pool.avg_pool(*wide64(x), *args, out_hw, include)
    make.check(pool.avg_pool(make.put(x), *args, out_hw, include, out=make.result(wanted.shape)), wanted)
    dy, dx = make.draw(*wanted.shape), make.draw(*x.shape)
    wanted = pool.avg_pool_dx(*wide64(dy), x.shape, *args, include)
    make.check(pool.avg_pool_dx(make.put(dy), x.shape, *args, include), wanted)
    make.check(pool.avg_pool_dx(make.put(dy), x.shape, *args, include, into=make.put(dx)), wanted + dx)


def global_avg_pool(cupy, shape, drawn):
    make = Numbers(cupy, drawn[0], False, *drawn[2:])
    x = make.draw(*shape)
    wanted = pool.global_avg_pool(*wide64(x))
    make.check(pool.global_avg_pool(make.put(x), out=make.result(wanted.shape)), wanted)
    dy, dx = make.draw(*wanted.shape), make.draw(*shape)
    wanted = pool.global_avg_pool_dx(*wide64(dy), shape)
    make.check(pool.global_avg_pool_dx(make.put(dy), shape), wanted)
    make.check(pool.global_avg_pool_dx(make.put(dy), shape, into=make.put(dx)), wanted + dx)


def depthwise2d(cupy, window, n, c, drawn):
    kernel, stride, pads, dilation, plane = window
    make = Numbers(cupy, *drawn)
    m = (1, 1, 1, 2, 3)[drawn[0] % 5]
    x, w, bias = (
        make.draw(n, *plane, c),
        make.parameters(*kernel, c, m),
        make.parameters(c * m) if drawn[0] % 2 else None,
    )
    if make.whole and drawn[0] // 2 % 2:
        x[tuple(make.rng.integers(0, x.shape))] = np.nan  # which only the windows that hold it see
    args = (stride, pads, dilation)
    wanted = depthwise.depthwise2d(*wide64(x, w), bias, *args)
    b, weight = None if bias is None else cupy.asarray(bias), cupy.asarray(w)
    make.check(depthwise.depthwise2d(make.put(x), weight, b, *args, out=make.result(wanted.shape)), wanted)
    dy, dx, dw = make.draw(*wanted.shape), make.draw(*x.shape), make.parameters(*w.shape)
    wanted = depthwise.depthwise2d_dx(*wide64(dy, w), x.shape, *args)
    make.check(depthwise.depthwise2d_dx(make.put(dy), weight, x.shape, *args), wanted)
    make.check(depthwise.depthwise2d_dx(make.put(dy), weight, x.shape, *args, into=make.put(dx)), wanted + dx)
    got, wanted = cupy.asarray(dw), dw.astype(np.float64)
    depthwise.depthwise2d_dw(*wide64(x, dy), wanted, *args)
    depthwise.depthwise2d_dw(make.put(x), make.put(dy), got, *args)
    make.check(got, wanted, dtype=np.float32)


def conv2d(cupy, window, n, groups, channels, drawn, tolerance=2e-6, strips=None):
    kernel, stride, pads, dilation, plane = window
    make = Numbers(cupy, *drawn, beside=strips)
    c, o = groups * channels[0], groups * channels[1]
    x, w = make.draw(n, *plane, c), make.parameters(*kernel, channels[0], o)
    bias, relu = make.parameters(o) if drawn[0] % 2 else None, drawn[0] % 3 == 0
    args = (stride, pads, dilation, groups)
    b, weight = None if bias is None else cupy.asarray(bias), cupy.asarray(w)
    w = w.astype(make.dtype)  # both factors are rounded
    wanted = conv.conv2d(*wide64(x, w), bias, *args, relu=relu)
    out = make.result(wanted.shape)
    make.check(conv.conv2d(make.put(x), weight, b, *args, relu=relu, out=out), wanted, tolerance)
    dy, dx, dw = make.draw(*wanted.shape), make.draw(*x.shape), make.parameters(*w.shape)
    wanted = conv.conv2d_dx(*wide64(dy, w), x.shape, *args)
    make.check(conv.conv2d_dx(make.put(dy), weight, x.shape, *args), wanted, tolerance)
    make.check(conv.conv2d_dx(make.put(dy), weight, x.shape, *args, into=make.put(dx)), wanted + dx, tolerance)
    got, wanted = cupy.asarray(dw), dw.astype(np.float64)
    conv.conv2d_dw(*wide64(x, dy), wanted, *args)
    conv.conv2d_dw(make.put(x), make.put(dy), got, *args)
    make.check(got, wanted, tolerance, dtype=np.float32)


def crowded(holds):
    """A GPU that holds few threads, for one draw in two: each thread has many rows and parts to add."""

    @functools.wraps(holds)
    def either(cupy, *drawn):
        few = dict(BLOCKS=1, PARTS=2, RESIDENT=1) if drawn[-1][0] // 2 % 2 else {}
        with mock.patch.multiple(launch, **few) if few else contextlib.nullcontext():
            holds(cupy, *drawn)

    return either


@crowded
def batch_norm(cupy, shape, drawn):
    n, h, w, c = shape
    make = Numbers(cupy, drawn[0], False, *drawn[2:])
    # a mean far from 0: what a sum of squares would lose (bfloat16 would lose the numbers themselves beside 1000)
    far = (1000.0 if make.dtype == np.float32 else 16.0) * (drawn[0] % 2)
    x, dy = make.draw(n, h + 40, w, c), make.draw(n, h + 40, w, c)
    x = (x + np.float32(far)).astype(make.dtype).astype(np.float32)
    scaled = drawn[1]
    gamma, beta = make.parameters(c) if scaled else None, make.parameters(c)
    mean, var = batchnorm.moments(*wide64(x))
    got_mean, got_var, got_rstd = batchnorm.statistics(make.put(x), 1e-3)
    np.testing.assert_allclose(got_mean.get(), mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got_var.get(), var, rtol=1e-4)  # 1000 + z has lost z's last ten bits before we begin
    assert got_mean.dtype == got_var.dtype == got_rstd.dtype == np.float32
    rstd = (var + 1e-3) ** -0.5
    np.testing.assert_allclose(got_rstd.get(), rstd, rtol=1e-4)
    statistics = [np.float32(a) for a in (mean, rstd)]
    wide = [*wide64(*statistics), gamma, beta]
    near = [None if a is None else cupy.asarray(a) for a in (*statistics, gamma, beta)]
    make.check(batchnorm.reciprocal_deviation(cupy.asarray(np.float32(var)), 1e-3), rstd, dtype=np.float32)
    var = np.float32(var)
    decay = np.array([0.75])
    bound = 1e-6 * (1 + far)
    for relu in (False, True):
        z = batchnorm.batch_norm(*wide64(x), *wide, relu=False)
        if relu and np.abs(z).min() < bound:
            continue  # the mask may go either way
        wanted = batchnorm.batch_norm(*wide64(x), *wide, relu=relu)
        got = batchnorm.batch_norm(make.put(x), *near, relu=relu, out=make.result(x.shape))
        make.check(got, wanted, bound)
        for train in (False, True):
            added = [make.parameters(c) for _ in range(4)]  # dgamma, dbeta and both averages, as they were before
            results = wide64(*added), [cupy.asarray(a) for a in added]
            own = make.put(x)
            out = own if drawn[0] % 3 else make.result(x.shape)  # dx may be written over x
            dx = []
            for arrays, parameters, (dgamma, dbeta, *moved), where in (
                ((*wide64(dy, x), wide[0], var, wide[1]), wide[2:], results[0], {}),
                ((make.put(dy), own, near[0], cupy.asarray(var), near[1]), near[2:], results[1], {"out": out}),
            ):
                averages = (*moved, cupy.asarray(decay) if where else decay) if train else None
                args = (*arrays, *parameters, dgamma if scaled else None, dbeta, averages)
                dx.append(batchnorm.batch_norm_backward(*args, relu=relu, **where))
            assert out is None or dx[1] is out
            make.check(dx[1], dx[0], bound)
            for a, b in zip(results[1], results[0], strict=True):  # sums may cancel what their terms rounded
                make.check(a, b, bound * max(4, (x.size / c) ** 0.5), dtype=np.float32)
    x[-1, -1, -1, -1] = np.nan
    y = batchnorm.batch_norm(make.put(x), *near, relu=True).get()
    assert np.isnan(y[-1, -1, -1, -1]) and np.isnan(y).sum() == 1


@crowded
def joins(cupy, parts, results, drawn):
    """What many blocks left, added by several threads to a result; sums of other sizes in the same launch."""
    make = Numbers(cupy, *drawn[:2], False)
    sizes = [(parts, results), (1, 3), (results, 1), (5, parts), (parts, 257), *[(2, 2)] * (drawn[0] % 95)][drawn[2] :]
    jobs = [(make.draw(*size), make.draw(size[1])) for size in sizes]
    near, alone = ([tuple(map(cupy.asarray, job)) for job in jobs] for _ in range(2))
    cuda_elementwise.sum_parts(*near)
    for (part, into), (_, got), job in zip(jobs, near, alone, strict=True):
        make.check(got, into + part.astype(np.float64).sum(0))
        cuda_elementwise.sum_parts(job)
        np.testing.assert_array_equal(job[1].get(), got.get(), "a launch of its own gives other bits")


@crowded
def joined_moments(cupy, pixels, channels, groups, shape, team, drawn):
    """What the last block makes of unequal parts, of a convolution by the identity too; twice: tickets are 0 again."""
    seed, spoiled, far = drawn
    c = channels * groups
    make = Numbers(cupy, seed)
    x = make.draw(1, 1, pixels, c) + np.float32(1000 * far)
    own = seed % c
    if spoiled:
        x[0, 0, make.rng.integers(pixels), own] = np.nan
    near, identity = cupy.asarray(x), cupy.asarray(np.tile(np.eye(channels, dtype=np.float32), groups)[None, None])

    def convolution():
        with mock.patch.multiple(cuda_conv, TEAM=team, _tile=lambda *sizes: shape):
            return cuda_conv.conv2d_moments(near, identity, (1, 1), ((0, 0), (0, 0)), (1, 1), groups, 0.5)[1:]

    of_group = np.arange(c) // channels == own // channels  # 0 * NaN is NaN
    for moments, lost in ((convolution, of_group), (lambda: batchnorm.statistics(near, 0.5), np.arange(c) == own)):
        got, again = ([a.get() for a in moments()] for _ in range(2))
        good = ~lost if spoiled else np.full(c, True)
        for a, b, wanted in zip(got, again, batchnorm.statistics(*wide64(x[..., good]), 0.5), strict=True):
            np.testing.assert_allclose(a[good], wanted, rtol=1e-6 if a is got[0] else 1e-5, atol=1e-6)
            assert np.isnan(a[~good]).all()
            np.testing.assert_array_equal(a, b)
    total = cupy.asarray(make.draw(c))
    wanted = total.get() + x.astype(np.float64).sum((0, 1, 2))
    elementwise.sum_rows(near, total)
    np.testing.assert_array_equal(total.get(), wanted)


def local_response(cupy, shape, drawn):
    make = Numbers(cupy, drawn[0], False, *drawn[2:])
    x, dy, dx = (make.draw(*shape) for _ in range(3))
    args = (1 + 2 * (drawn[0] % 3), 0.5, 0.75, 1.5)
    wanted = lrn.lrn(*wide64(x), *args)
    make.check(lrn.lrn(make.put(x), *args, out=make.result(shape)), wanted)
    wanted = lrn.lrn_dx(*wide64(dy, x), *args)
    make.check(lrn.lrn_dx(make.put(dy), make.put(x), *args), wanted)
    make.check(lrn.lrn_dx(make.put(dy), make.put(x), *args, into=make.put(dx)), wanted + dx)


@crowded
def elements(cupy, shape, drawn):
    make = Numbers(cupy, *drawn)
    a, b, dx = (make.draw(*shape) for _ in range(3))
    make.check(elementwise.relu(make.put(a), out=make.result(shape)), np.maximum(a, 0))
    if make.whole:
        odd = strewn(a, drawn[0]), strewn(b, drawn[0] + 1)
        make.check(elementwise.relu(make.put(odd[0])), elementwise.relu(*wide64(odd[0])))
        make.check(elementwise.relu_dx(*map(make.put, odd)), elementwise.relu_dx(*wide64(*odd)))
    wanted = b * (a > 0)
    make.check(elementwise.relu_dx(make.put(b), make.put(a)), wanted)
    make.check(elementwise.relu_dx(make.put(b), make.put(a), into=make.put(dx)), wanted + dx)
    make.check(elementwise.scaled_add(make.put(a), make.put(b), 0.5, out=make.result(shape)), a + 0.5 * b)
    make.check(elementwise.scaled(make.put(a), 0.5, out=make.result(shape)), 0.5 * a)
    make.check(elementwise.copy_to(make.put(dx), make.put(a)), a)
    make.check(elementwise.add_to(make.put(dx), make.put(a)), dx + a)
    into = make.parameters(shape[-1])
    got = cupy.asarray(into)
    elementwise.sum_rows(make.put(a), got)
    make.check(got, into + a.astype(np.float64).sum((0, 1, 2)), dtype=np.float32)


def cross_entropy(cupy, n, k, drawn):
    make = Numbers(cupy, drawn[0], False)
    logits = make.draw(n, k) * np.float32(30 if drawn[1] else 1)
    labels = make.rng.integers(0, k, n)
    wanted, dwanted = loss.softmax_cross_entropy(*wide64(logits), labels, 0.1 * drawn[2])
    got, dlogits = loss.softmax_cross_entropy(cupy.asarray(logits), cupy.asarray(labels), 0.1 * drawn[2])
    assert got.dtype == np.float64 and got.get() == pytest.approx(wanted, rel=2e-6, abs=2e-6)
    make.check(dlogits, dwanted)


def totals(cupy, n, k, seed):
    """With ties, NaNs, labels that are right and wrong, and one that is no class."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 4, (n, k)).astype(np.float32)
    logits[rng.random((n, k)) < 0.2 / k] = np.nan
    labels = np.where(rng.integers(2, size=n), logits.argmax(1), rng.integers(0, k, n)).astype(np.int32)
    labels[rng.integers(n)] = rng.choice([-1, k])
    mean, losses, right = np.array(rng.random()), np.array(rng.random()), np.array(2**40 + 3)
    near = [cupy.asarray(a) for a in (logits, labels, mean, losses, right)]
    loss.add_totals(*near)
    loss.add_totals(logits, labels, mean, losses, right)
    np.testing.assert_allclose(near[3].get(), losses, rtol=1e-14)
    assert near[4].get() == right


def updates(cupy, size, drawn):
    make = Numbers(cupy, drawn[0], False)
    data, grad, velocity = (make.draw(size) for _ in range(3))
    square = make.draw(size) ** 2
    momentum, decay, nesterov = 0.75, 0.25 * drawn[1], drawn[2]
    lr = cupy.asarray(np.float32([0.125])) if drawn[0] % 2 else 0.125
    for state in ([], [velocity]):
        wide, near = wide64(data, grad, *state), [cupy.asarray(a) for a in (data, grad, *state)]
        none = [] if state else [None]
        update.sgd_step(*wide, *none, 0.125, momentum, decay, nesterov and bool(state))
        update.sgd_step(*near, *none, lr, momentum, decay, nesterov and bool(state))
        for a, b in zip(near, wide, strict=True):
            make.check(a, b)
    arrays = (data, grad, square, velocity)
    wide, near = wide64(*arrays), [cupy.asarray(a) for a in arrays]
    update.rmsprop_step(*wide, 0.125, 0.9, momentum, 0.5, decay)
    update.rmsprop_step(*near, lr, 0.9, momentum, 0.5, decay)
    for a, b in zip(near, wide, strict=True):
        make.check(a, b)


def averages(cupy, sizes, back, drawn):
    make = Numbers(cupy, *drawn[:2])
    starts = np.cumsum([1, *(size + 1 for size in sizes)])  # with a NaN between two
    vectors = np.full((2, starts[-1]), np.nan, np.float32)
    own = [slice(start, start + size) for start, size in zip(starts, sizes, strict=False)]
    for vector in vectors:
        for at in own:
            vector[at] = make.draw(at.stop - at.start)
    wide, near = wide64(*vectors), [cupy.asarray(v) for v in vectors]
    rate = cupy.asarray(np.float32([0.25])) if drawn[2] else 0.25
    for (means, arrays), r in ((wide, 0.25), (near, rate)):
        pairs = [means[at] for at in own], [arrays[at] for at in own]
        update.move_averages(*pairs, r, update.pieces(*pairs), back=back)
    got = [v.get() for v in near]
    np.testing.assert_array_equal(got[1], got[0] if back else vectors[1])
    assert (np.isnan(got[0]) == np.isnan(wide[0])).all(), "wrote between two averages"
    np.testing.assert_allclose(got[0], wide[0], rtol=0, atol=0 if make.whole else 1e-6)


def clipping(cupy, size, parts, share, drawn):
    make = Numbers(cupy, drawn[0], False)
    grad = make.draw(size)
    (wide,), near = wide64(grad), cupy.asarray(grad)
    limit = share * float(np.linalg.norm(wide))
    wanted = clip.clip_norm(wide, limit)
    with mock.patch.object(cuda_clip, "PARTS", parts):
        np.testing.assert_allclose(clip.clip_norm(near, limit).get(), wanted, rtol=1e-12)
        make.check(near, wide, 1e-6)
        grad[drawn[0] % size] = np.nan if drawn[1] else -np.inf
        near = cupy.asarray(grad)
        assert not np.isfinite(clip.clip_norm(near, limit).get())
        assert not np.isfinite(near.get()).all(), "what is not finite was hidden"


def random_masks(cupy, first, second, where, drawn):
    ours, numpys = (stream(where[0], "dropout", *where[1:]) for _ in range(2))
    make = Numbers(cupy, *drawn)
    for shape in ((first,), (second, 1 + drawn[0] % 5)):
        numbers = copy.deepcopy(numpys).random(shape, np.float32)
        rate = float(numbers.flat[drawn[0] % numbers.size])  # so that one number is the rate
        x, dy, before = make.draw(*shape), make.draw(*shape), make.draw(*shape)
        x.flat[drawn[0] % 3 :: 7] = np.nan
        y, kept = philox.dropout(make.put(x), ours, rate, out=make.result(shape))
        wanted, mask = philox.dropout(x, numpys, rate)
        np.testing.assert_array_equal(kept.get(), mask)
        assert kept.dtype == mask.dtype
        np.testing.assert_array_equal(y.get(), wanted)
        dx = philox.dropout_dx(make.put(dy), kept, rate)
        np.testing.assert_array_equal(dx.get(), philox.dropout_dx(dy, mask, rate))
        dx, wanted = make.put(before), philox.dropout_dx(*wide64(dy), mask, rate, into=before.astype(np.float64))
        philox.dropout_dx(make.put(dy), kept, rate, into=dx)
        np.testing.assert_allclose(dx.get(), wanted, rtol=3e-7, atol=1e-6)
    assert all(np.isnan(w.get()[..., : make.before]).all() for w in make.wide), "wrote beside its channels"
    assert all(np.isnan(w.get()[..., -make.after :]).all() for w in make.wide), "wrote beside its channels"
    assert ours.random() == numpys.random(), "the generator did not move on as NumPy's does"
    assert ours.integers(2**32, dtype=np.uint32) == numpys.integers(2**32, dtype=np.uint32)


def augmented(cupy, n, plane, c, pad, cutout, drawn):
    seed, _, cropped, *stored = drawn
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (7, *plane, c), np.uint8), rng.integers(0, 10, 7, np.int32)
    index = rng.integers(0, 7, n)
    mean, std = rng.uniform(0, 255, c).tolist(), rng.uniform(1, 99, c).tolist()
    crops = [stream(seed, "augment", 1) if cropped else None for _ in range(2)]
    told = None if rng.integers(2) else rng.integers(2, size=n) > 0
    wanted = images[index]
    if cropped:
        wanted = batches.augment(wanted, pad, mean, crops[0], cutout=cutout, mirrored=told)
    colours = np.float32(mean), 1 / np.float32(std), np.rint(mean).astype(np.uint8)
    x, chosen = cupy.empty((n, *plane, c), dtype_named(*stored or ["float32"])), cupy.empty((n,), np.int32)
    choice = augment.choices(index, plane, pad, cutout, crops[1], told)
    near = [cupy.asarray(a) for a in (images, labels, choice)]
    augment.augment(*near, tuple(map(cupy.asarray, colours)), pad, cutout, x, chosen)
    np.testing.assert_array_equal(x.get(), batches.normalise(wanted, mean, std).astype(x.dtype))
    np.testing.assert_array_equal(chosen.get(), labels[index])


words = st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1))
channels = st.tuples(st.integers(1, 9), st.integers(1, 9))
some = st.sampled_from([1, 2, 3, 4, 5, 8, 12, 17])
many = st.one_of(
    some, st.sampled_from([66, 70, 132, 140])
)  # whole blocks of 32 threads with 2 and 4 channels, and more
# More channels than a block has lanes and more rows than it takes: blocks beside each other and below each other.
several_blocks = st.sampled_from([(3, 1, 7, 37), (2, 3, 5, 69), (3, 5, 4, 140)])
pooling = windows(largest=4, dilated=False, pooling=True, slack=5, known=launch.KNOWN)
PROPERTIES = {
    max_pool: st.tuples(pooling, st.integers(1, 2), some, numbers()),
    avg_pool: st.tuples(pooling, st.integers(1, 2), some, numbers()),
    global_avg_pool: st.tuples(shapes(channels=40), numbers()),
    depthwise2d: st.tuples(windows(largest=4, slack=8, known=launch.KNOWN), st.integers(1, 3), many, numbers()),
    conv2d: st.tuples(windows(largest=4), st.integers(1, 2), st.integers(1, 2), channels, numbers()),
    batch_norm: st.tuples(st.one_of(shapes(channels=40), several_blocks), numbers()),
    joins: st.tuples(st.sampled_from([1, 3, 7, 33, 127, 130, 515]), st.sampled_from([1, 5, 33, 300]), numbers()),
    joined_moments: st.tuples(
        st.sampled_from([1, 63, 64, 65, 129, 500, 1000, 3001]),
        st.sampled_from([1, 3, 4, 17, 35]),
        st.integers(1, 2),
        st.sampled_from([(128, 16, 1), (128, 48, 1), (64, 16, 2)]),
        st.sampled_from([1, 16, 100]),
        numbers(),
    ),
    local_response: st.tuples(shapes(channels=12), numbers()),
    elements: st.tuples(shapes(channels=40), numbers()),
    cross_entropy: st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 10, 33, 100]), numbers()),
    updates: st.tuples(st.sampled_from([1, 5, 255, 256, 600]), numbers()),
    averages: st.tuples(
        st.lists(st.sampled_from([1, 5, 256, 600, 1024, 1025, 2100]), min_size=1, max_size=4), st.booleans(), numbers()
    ),
    clipping: st.tuples(
        st.sampled_from([1, 5, 255, 257, 1024, 1025, 5000]),
        st.sampled_from([1, 3, cuda_clip.PARTS]),
        st.sampled_from([0.1, 0.9, 1.1, np.inf]),
        numbers(),
    ),
    augmented: st.tuples(
        *(st.integers(1, 4), pairs(1, 6), st.integers(1, 4), st.integers(0, 4), st.integers(0, 5), numbers())
    ),
    random_masks: st.tuples(st.integers(1, 30), st.integers(1, 100), st.tuples(words, words, words, words), numbers()),
    totals: st.tuples(st.sampled_from([1, 2, 5, 255, 300]), st.sampled_from([1, 2, 3, 10, 33]), seeds),
}
# Those of activations, which may be stored in bfloat16. (A convolution in float32 is the array module's product.)
STORING = [max_pool, avg_pool, global_avg_pool, depthwise2d, batch_norm, local_response, elements, augmented]


def in_dtype(stored, drawn):
    """What was drawn for a property, with the dtype of its activations after its numbers."""
    *rest, numbers = drawn
    return *rest, (*numbers, stored)


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda p: p.__name__)
def test_cuda_kernels_give_the_plain_kernels_numbers(holds, cupy):
    both = holds in STORING  # the examples are shared between two dtypes
    some = settings(within_test, max_examples=-(-settings.default.max_examples // (1 + both)))
    some(given(PROPERTIES[holds])(lambda drawn: holds(cupy, *drawn)))()


def test_moments_of_nothing_are_refused(cupy, monkeypatch):
    monkeypatch.setattr(backend, "precision", "tf32")
    nothing, w = cupy.zeros((0, 3, 3, 2), np.float32), cupy.zeros((1, 1, 2, 5), np.float32)
    with pytest.raises(ValueError, match=r"shape \(0, 3, 3, 2\), which has no moments"):
        batchnorm.statistics(nothing, 1e-3)
    with pytest.raises(ValueError, match=r"shape \(0, 3, 3, 5\), which has no moments"):
        conv.conv2d_moments(nothing, w, (1, 1), ((0, 0), (0, 0)), (1, 1), 1, eps=1e-3)


def test_sums_that_one_launch_cannot_make_are_refused(cupy):
    part, into = cupy.zeros((2, 3), np.float32), cupy.zeros(3, np.float32)
    with pytest.raises(ValueError, match="sum_parts: got 101 jobs, wanted at most 100"):
        cuda_elementwise.sum_parts(*[(part, into)] * 101)
    with pytest.raises(TypeError, match="sum_parts: got arrays of float32 and float64, wanted float32"):
        cuda_elementwise.sum_parts((part, cupy.zeros(3, np.float64)))


@pytest.mark.parametrize("holds", STORING, ids=lambda p: p.__name__)
def test_cuda_kernels_store_the_plain_kernels_numbers_in_bfloat16(holds, cupy):
    some = settings(within_test, max_examples=settings.default.max_examples // 2)
    some(given(PROPERTIES[holds])(lambda drawn: holds(cupy, *in_dtype("bfloat16", drawn))))()


BF16 = {"float32": (), "bfloat16": ("-DBF16",)}
SEEDS = {"own": (4, False), "beside 3": (4, True), "beside 4": (12, True)}  # where arrays lie, by Numbers


@pytest.mark.parametrize("where", SEEDS)
@pytest.mark.parametrize(
    "c, stored", [*((c, "float32") for c in (1, 3, 4, 5, 6, 8, 17, 48, 300)), *((c, "bfloat16") for c in (1, 5, 6, 48))]
)
def test_vectors_of_channels_are_taken_where_they_fit(c, where, stored, cupy, monkeypatch):
    """Bit for bit as far as numbers are whole: 4 or 2 channels at once give what one at a time does."""
    compiled, function = set(), launch.function
    monkeypatch.setattr(launch, "function", lambda *args: (compiled.add(args[2]), function(*args))[1])
    seed, sliced = SEEDS[where]
    for shape in ((1, 1, 1, c), (2, 3, 5, c)):
        for whole in (True, False):
            elements(cupy, shape, (seed, whole, sliced, stored))
        if c < 50:
            batch_norm(cupy, shape, (seed, True, sliced, stored))
    fits = 1 if where == "beside 3" else 4 if c % 4 == 0 else 2 if c % 2 == 0 else 1
    wanted = launch.variant(fits) + BF16[stored]
    assert wanted in compiled
    if sliced:
        assert compiled - {()} == {wanted}


@pytest.mark.parametrize(
    "channels, widths, stored",
    [
        *((channels, "1", "float32") for channels in (1, 3, 5, 17)),
        *((6, "12", stored) for stored in ("float32", "bfloat16")),
        *((8, "14", stored) for stored in ("float32", "bfloat16")),
    ],
)
@pytest.mark.parametrize("size, stride", [*launch.KNOWN, ((2, 3), (3, 1))])
def test_windows_of_every_variant(size, stride, channels, widths, stored, cupy, monkeypatch):
    """One pixel and several, alone and in slices of channels that begin at 3 and at 4: each width occurs."""
    used, function = set(), launch.function
    monkeypatch.setattr(launch, "function", lambda *kernel: (used.add(kernel[::2]), function(*kernel))[1])
    pads = ((1, 0), (0, 1)) if size == (2, 2) else ((1, 0), (1, 1)) if size == (2, 3) else ((1, 1), (1, 1))
    for plane in ((1, 1), (6, 9)):
        for seed, sliced in ((0, False), (1, True), (10, True)):  # 10: slices at 4
            for holds in (max_pool, avg_pool, depthwise2d):
                holds(cupy, (size, stride, pads, (1, 1), plane), 2, channels, (seed, True, sliced, stored))
    wanted = {launch.variant(int(vec), size, stride) + BF16[stored] for vec in widths}
    for source in ("pool.cu", "depthwise.cu"):
        assert {options for name, options in used if name == source} == wanted


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_runs_on_the_kernels(name, cupy):
    """y, dx, gradients and running averages of the layers themselves, in float32, beside NumPy's in float64."""

    def close(case):
        for got, wanted in zip(gradients(case, cupy), gradients(case, dtype=np.float64), strict=True):
            assert got.dtype == np.float32 and got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-4 * max(1, np.abs(wanted).max(initial=0)))

    case = LAYERS[name].filter(lambda case: not near_a_kink(case))
    settings(within_test, max_examples=10)(given(case)(close))()


def nearly(got, wanted, tolerance):
    """The norm of the difference, beside the wanted norm or that of normal numbers."""
    return np.linalg.norm(got - wanted) <= tolerance * max(np.linalg.norm(wanted), np.sqrt(wanted.size))


def layers_store_bfloat16(cupy, name):
    """y and dx are of bfloat16, gradients and running averages of float32, near what float64 makes of the rounded x."""
    stored = dtype_named("bfloat16")

    def close(case):
        found = zip(gradients(case, cupy, stored=stored), gradients(case, None, np.float64, stored), strict=True)
        for i, (got, wanted) in enumerate(found):
            assert got.dtype == (stored if i < 2 else np.float32) and got.shape == wanted.shape
            assert nearly(got.astype(np.float64), wanted, 2e-2)

    cases = networks() if name == "networks" else LAYERS[name]
    case = cases.filter(lambda case: "Dropout" not in case.text or not case.train)  # no kernel draws from every rng
    case = case.filter(lambda case: not near_a_kink(case, 2**-6))
    settings(within_test, max_examples=5, derandomize=True, database=None)(given(case)(close))()


@pytest.mark.parametrize("name", [*LAYERS, "networks"])
def test_every_layer_stores_bfloat16(name, cupy, monkeypatch):
    monkeypatch.setattr(backend, "precision", "tf32")
    layers_store_bfloat16(cupy, name)


@on_host
def test_a_layer_that_stores_too_few_bits_is_caught(monkeypatch):
    cupy = strict_cupy.pretend(monkeypatch)
    host_cuda.on_host(
        monkeypatch,
        fault=("common.cuh", "rounded<bfloat16>(float x) { return {", "rounded<bfloat16>(float x) { return {0xfff0 &"),
    )
    with pytest.raises(AssertionError):
        layers_store_bfloat16(cupy, "LRN")


def test_what_has_no_kernel_refuses_bfloat16(cupy):
    """Sums of the array module might be rounded at each step."""
    make = Numbers(cupy, 0, stored="bfloat16")
    x, w = make.put(make.draw(1, 20, 20, 2)), cupy.asarray(make.parameters(3, 3, 2, 2))
    args = ((1, 1), ((0, 0), (0, 0)))
    with pytest.raises(TypeError, match=r"^conv2d: got an array of bfloat16, for which it has no kernel; use float32$"):
        conv.conv2d(x, w, None, *args, (1, 1), 1)
    with pytest.raises(TypeError, match="max_pool: got an array of bfloat16, for which it has no kernel"):
        pool.max_pool(x, (17, 17), *args, (4, 4))


def test_kernels_are_for_arrays_of_one_dtype(cupy):
    make = Numbers(cupy, 0, stored="bfloat16")
    a, wide = make.draw(1, 2, 3, 4), np.float32(make.draw(1, 2, 3, 4))
    for mixed in ((make.put(a), cupy.asarray(wide)), (cupy.asarray(wide), make.put(a))):
        with pytest.raises(TypeError, match="scaled_add: got arrays of bfloat16 and float32, wanted one dtype"):
            elementwise.scaled_add(*mixed, 0.5)
    with pytest.raises(TypeError, match="batch_norm: got an array of bfloat16, wanted float32"):
        batchnorm.batch_norm(make.put(a), *[make.put(a[0, 0, 0])] * 2, None, make.put(a[0, 0, 0]))
    half = np.float16(wide)  # has no kernels: the plain ones
    np.testing.assert_array_equal(elementwise.relu(cupy.asarray(half)).get(), np.maximum(half, 0))
    with pytest.raises(TypeError, match="relu: got an array of float16, wanted float32 or bfloat16"):
        launch.launch("elementwise.cu", "relu", ((1,), (1,)), *[cupy.asarray(half)] * 2, 1, 1, 1, 1)


class Widens(Layer):
    """A layer of a user's own that computes in float32, whatever it is given."""

    def forward(self, x, mode):
        self.was = x.dtype
        return x.astype(np.float32) * 2.0, None

    def backward(self, dy, x, cache):
        assert dy.dtype == x.dtype
        return dy.astype(np.float32) * 2.0


def others_are_rounded_to_bfloat16(cupy):
    """What a user's layer gives as y and dx, in a chain, a residual unit and a branch; and a dy of another dtype."""
    make = Numbers(cupy, 5, whole=False, stored="bfloat16")
    x, dy = make.draw(2, 3, 4, 4), make.rng.standard_normal((2, 3, 4, 8))
    own = [Widens() for _ in range(5)]
    net = Sequential(
        own[0], ReLU(), own[1], Residual(own[2], scale=0.5), Concat(a=own[3], b=ReLU()), own[4], Scale(0.125)
    )
    positive = np.maximum(x, 0)
    for dtype in (np.float32, np.float64):
        y, cache = net.forward(make.put(x), Mode(keep=True))
        dx = net.backward(cupy.asarray(dy.astype(dtype)), make.put(x), cache)
        assert y.dtype == dx.dtype == make.dtype
        assert all(layer.was == make.dtype for layer in own)
        assert nearly(y.get().astype(np.float64), np.concatenate([4 * positive, 2 * positive], -1), 1e-2)
        assert nearly(dx.get().astype(np.float64), (4 * dy[..., :4] + 2 * dy[..., 4:]) * (x > 0), 1e-2)


def test_what_others_give_is_rounded_to_bfloat16(cupy):
    others_are_rounded_to_bfloat16(cupy)


@on_host
@pytest.mark.parametrize("where", ["inception_np.layer.follow", "inception_np.layers.check.follow"])
def test_what_is_not_rounded_is_caught(where, monkeypatch):
    monkeypatch.setattr(where, lambda a, dtype: a)
    cupy = strict_cupy.pretend(monkeypatch)
    host_cuda.on_host(monkeypatch)
    with pytest.raises(AssertionError):
        others_are_rounded_to_bfloat16(cupy)


def near_a_kink(case, e=1e-5):
    """Would numbers that are a little off, as float32 ones are, lie on another side of a ReLU than float64 ones?"""
    layer, x = case.layer(), case.x()
    with np.errstate(all="ignore"):
        x = [x * (1 + e * random_like(x, [case.seed, i])) for i in range(4)]
        signs = [layer.forward(x, case.mode())[0] > 0 for x in x]
    return (np.any(signs, 0) != np.all(signs, 0)).any()


# -- convolution on tensor cores -----------------------------------------------------------------------------------


def whole_convolution(cupy, case, stored="float32"):
    """conv2d's property on one configuration; slices keep the alignment of their channels, if any."""
    window, n, groups, channels, drawn = case
    strips = (4, 8) if all(c % 4 == 0 for c in channels) else (3, 2)
    tolerance = 3e-3 if stored == "float32" else 2e-6  # TF32's rounding is not in what is wanted
    conv2d(cupy, window, n, groups, channels, (*drawn, stored), tolerance, strips)


def convolution_moments(cupy, case, stored="float32"):
    """The moments that the convolution leaves are those of its result as it is stored; 100 is a mean that squares would
    drown in."""
    (kernel, stride, pads, dilation, plane), n, groups, channels, (seed, _, sliced) = case
    make = Numbers(cupy, seed, False, sliced, stored)
    x, w = make.draw(n, *plane, groups * channels[0]) + 100, make.parameters(*kernel, channels[0], groups * channels[1])
    got = conv.conv2d_moments(make.put(x), cupy.asarray(w), stride, pads, dilation, groups, eps=1.0)
    y = got[0].get().astype(np.float64)
    for a, b in zip(got[1:], batchnorm.statistics(y, 1.0), strict=True):
        make.check(a, b, 1e-5, dtype=np.float32)


TILES = [  # (kernel, stride, pads, dilation, plane), images, groups, channels, (seed, whole, sliced)
    (((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (9, 8)), 2, 1, (8, 12), (0, True, False)),  # three tiles of rows
    (((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (9, 8)), 2, 1, (7, 5), (1, True, True)),  # odd channels
    (((3, 2), (2, 2), ((0, 1), (1, 0)), (1, 1), (8, 7)), 2, 1, (6, 70), (2, True, False)),  # two tiles of columns
    (((3, 3), (2, 1), ((1, 1), (2, 2)), (1, 2), (7, 6)), 1, 2, (4, 8), (3, True, True)),  # dilation, groups
    (((1, 7), (1, 1), ((0, 0), (3, 3)), (1, 1), (5, 9)), 3, 1, (20, 4), (4, True, True)),  # deep: many steps
    (((1, 1), (2, 3), ((0, 0), (0, 0)), (1, 1), (7, 8)), 2, 1, (3, 3), (5, True, False)),  # pixels that nobody sees
    (((3, 4), (3, 2), ((2, 1), (0, 2)), (2, 3), (9, 13)), 2, 3, (2, 2), (6, True, False)),  # stride beside dilation
    (((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), (20, 30)), 2, 1, (2, 2), (7, True, False)),  # dw in parts
    (((1, 2), (1, 2), ((0, 0), (1, 0)), (1, 1), (7, 11)), 2, 1, (36, 40), (8, True, False)),  # wide tiles each way
    (((3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1), (9, 8)), 2, 1, (12, 20), (9, False, False)),  # any numbers
    (((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (2, 3)), 1, 1, (120, 116), (10, True, True)),  # two tables of terms
    (((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), (5, 13)), 2, 1, (48, 16), (11, True, True)),  # whole steps, no padding
    (((15, 1), (1, 1), ((7, 7), (1, 0)), (1, 1), (4, 3)), 1, 1, (1, 2), (12, True, False)),  # all bits of a side
    (((16, 2), (1, 1), ((8, 8), (1, 0)), (1, 1), (4, 3)), 1, 1, (2, 2), (13, True, False)),  # one more: im2col
]
SHAPES = [(128, bn, 1) for bn in (16, 32, 48, 64, 96)] + [(64, bn, 2) for bn in (16, 32, 48, 64)]


@pytest.mark.parametrize("stored", BF16)
@pytest.mark.parametrize("case", TILES, ids=str)
def test_tensor_cores_give_the_plain_convolution(case, stored, cupy, monkeypatch):
    monkeypatch.setattr(backend, "precision", "tf32")
    if stored == "bfloat16" and case == TILES[-1]:
        with pytest.raises(TypeError, match="conv2d: got an array of bfloat16, for which it has no kernel"):
            whole_convolution(cupy, case, stored)
        return
    whole_convolution(cupy, case, stored)
    convolution_moments(cupy, case, stored)


@pytest.mark.slow
@pytest.mark.parametrize("stored", BF16)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_of_tile_gives_the_plain_convolution(shape, stored, cupy, monkeypatch):
    """Several tiles each way, copies of 4, 2 and 1 numbers."""
    monkeypatch.setattr(backend, "precision", "tf32")
    monkeypatch.setattr(cuda_conv, "_tile", lambda *sizes: shape)
    monkeypatch.setattr(cuda_conv, "_dw_tile", lambda *sizes: shape)
    for channels in ((20, 120), (120, 20), (6, 14), (11, 17)):
        window = ((3, 2), (1, 2), ((1, 1), (0, 1)), (1, 1), (9, 17))
        case = window, 2, 1, channels, (sum(channels), True, True)
        whole_convolution(cupy, case, stored)
        convolution_moments(cupy, case, stored)


def factors_are_rounded(cupy):
    """To the nearest number of 10 bits, by all three kernels: what a tensor core would do itself is to truncate."""
    odd, even, one = (cupy.asarray(np.full((1, 1, 1, 4), v, np.float32)) for v in (1 + 3 * 2**-12, 1 + 2**-12, 1))
    args = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    for a, wanted in ((odd, 1 + 2**-10), (even, 1)):
        for x, w in ((a, one), (one, a)):
            y, dw = cupy.asarray(np.zeros((1, 1, 1, 1), np.float32)), cupy.asarray(np.zeros((1, 1, 4, 4), np.float32))
            y = conv.conv2d(x, w.reshape(1, 1, 4, 1), None, *args)
            dx = conv.conv2d_dx(x, w.reshape(1, 1, 1, 4).reshape(1, 1, 1, 4), (1, 1, 1, 1), *args)
            conv.conv2d_dw(x, w, dw, *args)
            assert y.get().item() == dx.get().item() == 4 * wanted
            assert (dw.get() == wanted).all()


def weights_are_rounded(cupy):
    """To the nearest number of bfloat16, of two to the even one: activations are such numbers already."""
    one, args = cupy.asarray(np.ones((1, 1, 1, 4), dtype_named("bfloat16"))), ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    for weight, wanted in ((1 + 3 * 2**-9, 1 + 2**-7), (1 + 2**-9, 1), (1 + 2**-8, 1), (1 + 3 * 2**-8, 1 + 2**-6)):
        w = cupy.asarray(np.full((1, 1, 4, 1), weight, np.float32))
        dx = conv.conv2d_dx(one, w.reshape(1, 1, 1, 4), (1, 1, 1, 1), *args)
        assert conv.conv2d(one, w, None, *args).get().item() == dx.get().item() == 4 * wanted


def test_factors_are_rounded_to_the_nearest(cupy, monkeypatch):
    monkeypatch.setattr(backend, "precision", "tf32")
    factors_are_rounded(cupy)
    pytest.importorskip("ml_dtypes")
    weights_are_rounded(cupy)


def test_more_elements_than_ints_count_are_refused():
    d = (1 << 10, 1 << 10, 1 << 10, 4, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="smaller batch"):
        cuda_conv._countable(d, 4, 4)


def a_nan_stays(cupy, stored="float32"):
    """A NaN or an infinity in one pixel reaches the outputs whose windows hold it, and no others."""
    kernel, stride, pads, dilation, plane = TILES[0][0]
    make = Numbers(cupy, 9, stored=stored)
    x, w = make.draw(2, *plane, 6), make.draw(*kernel, 6, 8)
    x[1, 0, 3, 2] = x[0, 7, 0, 0] = np.nan
    x[1, 7, 7, 1] = np.uint32(0x7FFFFFFF).view(np.float32)  # the NaN that a GPU makes
    x[0, 1, 5, 0] = np.inf
    args = (stride, pads, dilation, 1)
    with np.errstate(invalid="ignore"):
        wanted = conv.conv2d(*wide64(x, w), None, *args)
    make.check(conv.conv2d(make.put(x), cupy.asarray(w), None, *args), wanted)
    _, *moments = conv.conv2d_moments(make.put(x), cupy.asarray(w), *args, eps=1.0)
    assert all(np.isnan(a.get()).all() for a in moments)


@pytest.mark.parametrize("size, stride", [*launch.KNOWN, ((2, 3), (3, 1))])
def test_an_infinite_weight_reaches_the_pixels_that_it_meets(size, stride, cupy):
    """As in the plain kernel: not those whose windows have that tap in the padding."""
    make = Numbers(cupy, 3)
    args = (stride, ((1, 1), (1, 1)), (1, 1))
    dy = make.draw(2, *out_size((6, 9), size, *args[:2]), 4) + 9
    w = make.draw(*size, 4, 1)
    w[0, 0, 1] = w[-1, -1, 2] = np.inf
    wanted = depthwise.depthwise2d_dx(*wide64(dy, w), (2, 6, 9, 4), *args)
    assert np.isfinite(wanted).any() and not np.isnan(wanted).any()
    make.check(depthwise.depthwise2d_dx(cupy.asarray(dy), cupy.asarray(w), (2, 6, 9, 4), *args), wanted)


@pytest.mark.parametrize("stored", BF16)
def test_a_nan_stays_where_windows_see_it(stored, cupy, monkeypatch):
    monkeypatch.setattr(backend, "precision", "tf32")
    a_nan_stays(cupy, stored)


def test_linear_layers_run_on_tensor_cores(cupy, monkeypatch):
    monkeypatch.setattr(backend, "precision", "tf32")
    make = Numbers(cupy, 0)
    x, w, bias, dy, dx, dw = (make.draw(*s) for s in [(5, 40), (40, 10), (10,), (5, 10), (5, 40), (40, 10)])
    near = {name: cupy.asarray(a) for name, a in dict(x=x, w=w, bias=bias, dy=dy, dx=dx, dw=dw).items()}
    make.check(linear.linear(near["x"], near["w"], near["bias"]), x @ w + bias)
    make.check(linear.linear_dx(near["dy"], near["w"]), dy @ w.T)
    make.check(linear.linear_dx(near["dy"], near["w"], into=near["dx"]), dx + dy @ w.T)
    linear.linear_dw(near["x"], near["dy"], near["dw"])
    make.check(near["dw"], dw + x.T @ dy)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("name", list_models("*_cifar"))
def test_networks_run_on_the_kernels(name, precision, cupy, monkeypatch):
    """Logits and gradients of a thin network in float32, TF32 or bfloat16, beside NumPy's in float64."""
    monkeypatch.setattr(backend, "precision", "float32" if precision == "float32" else "tf32")
    bound, gradient_bound = {"float32": (1e-5, 1e-4), "tf32": (1e-2, 5e-2), "bfloat16": (5e-2, 4e-1)}[precision]
    found = []
    for device, dtype in (("cpu", np.float64), ("cuda", np.float32)):
        net = create_model(name, width=1 / 32, num_classes=3, aux=False, seed=1, dtype=dtype, device=device)
        side = smallest_image(net)
        x = np.random.default_rng(0).standard_normal((2, side + 3, side + 4, 3)).astype(dtype)
        if precision == "bfloat16":
            x = x.astype(dtype_named(precision)).astype(dtype_named(precision) if device == "cuda" else dtype)
        x = backend.asarray(x, device)
        y, cache = net.forward(x, Mode(train=False, keep=True))
        net.backward(y, x, cache)
        assert y.dtype == x.dtype
        found.append([backend.asarray(a, "cpu") for a in (y, *(p.grad for p in named_params(net).values()))])
    (wanted, *dwanted), (got, *dgot) = found
    assert np.linalg.norm(got - wanted) < bound * np.linalg.norm(wanted)
    off, size = (np.sqrt(sum((a**2).sum() for a in arrays)) for arrays in (map(np.subtract, dgot, dwanted), dwanted))
    assert off < gradient_bound * size  # a ReLU near 0 may turn, or the winner of a pool: over all gradients, not each


# -- faults that must be found -------------------------------------------------------------------------------------

FAULTS = {
    max_pool: [
        ("pool.cu", "!(v[j] <= best[p][j])", "!(v[j] < best[p][j])"),  # the last of equals wins
        ("pool.cu", "!(v[j] <= best[p][j])", "v[j] > best[p][j]"),  # NaN is hidden
        ("pool.cu", " && best[p][j] == best[p][j]", ""),  # NaN is beaten
        ("pool.cu", "max(0, -left - p * d.sw)", "0"),  # padding wins a plane of minus infinities
        ("pool.cu", "inside(left + q, d.W)", "inside(left + q, d.W - 1)"),  # an edge is lost
        ("pool.cu", "real ? r * d.kw + s : -1", "real ? s * d.kh + r : -1"),
        ("pool.cu", "real ? r * d.kw + s : -1", "r * d.kw + s"),  # a window that is not there has a winner
        ("pool.cu", "first + p, ldy)", "first + p, d.C)"),
        ("pool.cu", "if (at.w * COLUMNS + p < d.OW)", "if (at.w * COLUMNS + p < d.OW - 1)"),
        ("pool.cu", "KNOWN ? padding / stride * stride : padding", "padding"),  # patches that begin within a stride
        ("pool.cu", "- more * stride, more", ", more"),
        ("pool.cu", "inside(h - d.top + y, d.H)", "inside(h - d.top + y, d.H - 1)"),
        ("common.cuh", "pixel - row * W", "pixel - row * H"),
        ("common.cuh", "load<n>(to)", "Pack<T, n>()"),  # dx is not added
        ("common.cuh", "d.sh = SH", "d.sh = SH + 1"),  # which windows are known?
    ],
    avg_pool: [
        ("pool.cu", "include_pad ? size + after : size", "size"),
        ("pool.cu", "(int)(at % stride)", "0"),
        ("pool.cu", "(taps - 1) / stride + 1", "(taps - 1) / stride"),
        ("pool.cu", "of_row * (KNOWN", "(KNOWN"),
        ("pool.cu", "inside(q - p * d.sw, d.kw)", "inside(q - p, d.kw)"),
        ("pool.cu", "last - j * d.OW - k", "last - j * d.OW"),
    ],
    global_avg_pool: [("pool.cu", "/= HW;", "/= HW + 1;"), ("pool.cu", "1.f / HW", "1.f")],
    depthwise2d: [
        ("depthwise.cu", "x + at.c / m", "x + at.c % d.C"),
        ("depthwise.cu", "inside(left + q * d.dw, d.W);", "inside(left + q, d.W);"),
        ("depthwise.cu", "s = q - p * d.sw;", "s = q - p;"),  # a stride other than 1
        ("depthwise.cu", "at.h + d.top - r * d.dh", "at.h + d.top - r"),
        ("depthwise.cu", "q - (COLUMNS - 1 - p)", "q - p"),
        ("depthwise.cu", "!inside(s, d.kw) || !there[p]", "!inside(s, d.kw)"),  # NaN beyond the last window
        ("depthwise.cu", "i += gridDim.z * ROWS", "i += (gridDim.z + 1) * ROWS"),
        ("depthwise.cu", "  __syncthreads();", ""),
        ("depthwise.cu", "tap * TAPS + t", "t"),
        ("common.cuh", "at % stride == 0 && ", ""),
        ("common.cuh", "d.kw = KW", "d.kw = KW - 1"),
    ],
    conv2d: [
        ("im2col.cu", "- d.left + s * d.dw", "- d.left + s"),
        ("im2col.cu", "dx[place(i, d.C, lddx)] += sum", "dx[place(i, d.C, lddx)] = sum"),
    ],
    batch_norm: [
        ("batchnorm.cu", "(v.at[i][j] - mean[j]) * (v.at[i][j] - mean[j])", "v.at[i][j] * v.at[i][j]"),
        ("batchnorm.cu", "* share + threadIdx.y", "* share"),
        ("vector.cuh", ": instead", ": Floats{}"),  # zeros, which are no mean
        ("vector.cuh", "r += ROWS_AT_ONCE * (step)", "r += (ROWS_AT_ONCE + 1) * (step)"),
        ("vector.cuh", "j < VEC", "j < 1"),  # only the first of the floats read at once
        ("batchnorm.cu", "if (relu && v[j] <= 0)", "if (relu && !(v[j] > 0))"),  # a NaN is hidden
        ("vector.cuh", "return gridDim.y * blockDim.y", "return gridDim.y * blockDim.y + 1"),
        ("batchnorm.cu", "new_var - old_var", "new_var - old_mean"),
        (
            "batchnorm.cu",
            "tickets + blockIdx.x, gridDim.y, &flag)) return;\n\n",
            "tickets, gridDim.y, &flag)) return;\n\n",
        ),
        ("join.cuh", "{sum(a), sum(b)}", "{sum(a), sum(a)}"),
        ("batchnorm.cu", " + level[j]", ""),
        ("batchnorm.cu", "(r += ROWS_AT_ONCE * step)", "(r += 2 * step)"),
        ("batchnorm.cu", "  __syncthreads();\n  const Floats mean", "  const Floats mean"),  # which is not there yet
        ("reduce.cuh", "  __syncthreads();\n  const float* column", "  const float* column"),
        ("reduce.cuh", "row < left.rows ? column", "row < left.rows - 1 ? column"),
    ],
    joins: [
        ("join.cuh", "  __syncthreads();\n  return j.slot", "  return j.slot"),
        ("common.cuh", "if (i < count) value", "if (i < count - 1) value"),  # the last is lost
        ("join.cuh", "p = (j).slot;", "p = (j).slot + 1;"),
        ("join.cuh", "p += AT_ONCE * (j).slots", "p += (AT_ONCE - 1) * (j).slots"),
        ("join.cuh", "pixel(part, q, pitch)) : 0.f", "pixel(part, q, pitch)) : 1.f"),
        ("elementwise.cu", "blockIdx.x >= jobs", "blockIdx.x > jobs"),  # a job's first block works for the one before
        ("elementwise.cu", "own + step < count", "own + step < count - 1"),  # the last job is nobody's
        ("elementwise.cu", "step = 64", "step = 2"),  # jobs beyond the fourth
        ("elementwise.cu", "blockIdx.x - job.first", "blockIdx.x"),
        ("elementwise.cu", "blockDim.x / job.slots", "blockDim.x / jobs.at[0].slots"),
        ("elementwise.cu", "writes ? job.into[i] : 0.f", "0.f"),
    ],
    joined_moments: [
        ("join.cuh", "  __threadfence();   // what", "  // what"),
        ("join.cuh", "  __syncthreads();  // and so", "  // and so"),  # a block is counted before all of it has written
        ("join.cuh", "  __syncthreads();\n  __threadfence();  // nothing", "  __threadfence();  // nothing"),
        ("join.cuh", "count - 1) == count - 1", "count - 1) == count - 2"),  # the last but one
        ("join.cuh", "atomicInc(ticket, count - 1)", "atomicInc(ticket, count)"),  # it is not 0 for the next launch
        ("join.cuh", "q == parts - 1 ? n_last : share", "share"),  # the last part is shorter
        ("join.cuh", "+ n * delta * delta", ""),
        ("join.cuh", "all.b - all.a * off", "all.b"),
        ("join.cuh", "rsqrtf(var + eps)", "rsqrtf(var)"),
        ("join.cuh", "squares < 0 ? 0.f : (float)squares", "squares > 0 ? (float)squares : 0.f"),  # a NaN is hidden
        ("conv.cu", "part += group * out + column;", "part += column;"),
        ("conv.cu", "there ? teams : 0, O", "there ? teams - 1 : 0, O"),  # one team too few
        ("conv.cu", "min(team, blocks - first)", "team"),
        ("conv.cu", "min(share, pixels - own * share)", "share"),
        ("conv.cu", "tickets + 1 + own", "tickets + 1"),  # one ticket for all teams
        ("conv.cu", "last_block(tickets, teams", "last_block(tickets + 1, teams"),
        ("conv.cu", "(blockIdx.z * gridDim.y + blockIdx.y) * (teams + 1)", "0"),  # and for all columns
        ("conv.cu", "(long long)blocks * 2 * O + j", "j"),  # over what another team has still to read
        ("elementwise.cu", "tickets + blockIdx.x", "tickets"),
        (
            "batchnorm.cu",
            "tickets + blockIdx.x, gridDim.y, &flag)) return;\n  const",
            "tickets, gridDim.y, &flag)) return;\n  const",
        ),
    ],
    local_response: [
        ("lrn.cu", "min(C - 1, c + half)", "min(C - 1, c + half - 1)"),
        ("lrn.cu", "* r / s;", "* r;"),
        ("common.cuh", "(long long)(i / C) * ld + i % C", "i"),
    ],
    elements: [
        ("elementwise.cu", "> 0 ? g[j]", ">= 0 ? g[j]"),
        ("elementwise.cu", "v[j] <= 0 ? 0.f : v[j]", "v[j] * (v[j] > 0)"),  # NaN for minus infinity
        ("elementwise.cu", "into[channel] += (float)", "into[channel] = (float)"),
        ("elementwise.cu", "v[j] *= scale", ""),
        ("elementwise.cu", "v[j] = w[j] + scale", "v[j] = scale"),
        ("vector.cuh", "j < VEC", "j < 1"),
        ("reduce.cuh", "row < left.rows ?", "row < left.rows - 1 ?"),  # the last is lost
    ],
    cross_entropy: [
        ("loss.cu", "(row[j]) - largest)", "(row[j]))"),
        ("loss.cu", "j == labels[n]", "j == labels[0]"),
        ("loss.cu", "last_block(tickets, N,", "last_block(tickets, N + 1,"),  # nobody is the last
        ("loss.cu", "i < N; i += 32", "i < min(N, 4); i += 32"),
    ],
    updates: [
        ("update.cu", "nesterov ? g + momentum * v : v", "v"),
        ("update.cu", "grad[i] = 0;", ""),
        ("update.cu", "sqrtf(s + eps)", "(sqrtf(s) + eps)"),
    ],
    averages: [
        ("update.cu", "(array[i] - mean[i])", "array[i]"),
        ("update.cu", "pieces + 3 * blockIdx.x", "pieces"),
        ("update.cu", "i < count", "i < count - 1"),
        ("update.cu", "if (back) array[i] = m;", ""),
        ("update.cu", "if (back) ", ""),
        ("update.cu", "i < count", "i < min(count, (int)blockDim.x)"),
    ],
    clipping: [
        ("clip.cu", "(double)grad[i]", "grad[i]"),
        ("clip.cu", "i += gridDim.x * blockDim.y", "i += blockDim.y"),
        ("clip.cu", "p < parts", "p < parts - 1"),
        ("reduce.cuh", "  __syncthreads();\n  return threadIdx.y", "  return threadIdx.y"),
        ("reduce.cuh", "bit < 32", "bit < 16"),
        ("common.cuh", "if (i < count) value", "if (i < count - 1) value"),  # the last is lost
        ("reduce.cuh", "return {at / 32", "return {(int)threadIdx.y"),
        ("clip.cu", "!(length > clip)", "length > clip"),
        ("clip.cu", "(float)(clip / length)", "clip"),
        ("clip.cu", "  __syncthreads();\n  if (!", "  if (!"),  # a norm that is not there yet
        ("clip.cu", "grad[i] *= scale", "grad[i] = scale > 0 ? grad[i] * scale : 0.f"),  # infinity is hidden
    ],
    augmented: [
        ("augment.cu", "inside(h, H) && ", "h < H && "),
        ("augment.cu", "W - 1 - column", "W - column"),
        ("augment.cu", "labels[image]", "labels[n]"),
        ("augment.cu", "column - mine[5], cutout", "column - mine[4], cutout"),
        ("augment.cu", "inside(row - mine[4], cutout) &&", "row - mine[4] < cutout &&"),
    ],
    random_masks: [
        ("philox.cu", "round < 10", "round < 9"),
        ("philox.cu", "+ thread + 1", "+ thread"),
        ("philox.cu", "(half >> 8)", "(half >> 9 << 1)"),
        ("philox.cu", ">= rate", "> rate"),
        ("philox.cu", "value(x[place(i, C, ldx)]) * kept[i] * scale", "(kept[i] ? x[place(i, C, ldx)] * scale : 0.f)"),
        ("philox.cu", "place(i, C, ldy)", "i"),
        ("philox.cu", "place(i, C, lddy)", "i"),
        ("philox.cu", "i < 0 || i >= total", "i < 0 || i >= total - 1"),
        ("philox.cu", "add ? value(*to) + g : g", "g"),
    ],
    totals: [
        ("loss.cu", "v < own : v <= own", "v <= own : v <= own"),  # the last of equals
        ("loss.cu", "v < own : v <= own", "v < own : v < own"),
        ("loss.cu", "!(j < label ? v < own : v <= own)", "(j < label ? v >= own : v > own)"),  # a NaN is no largest
        ("loss.cu", "own != own ? j < label && v != v : ", ""),
        ("loss.cu", "j < label && v != v", "v != v"),  # the only NaN beats itself
        ("loss.cu", "*losses += N * ", "*losses += "),
        ("loss.cu", "(double)(float)*loss", "*loss"),
        ("loss.cu", "n += blockDim.y", "n += N"),
        ("loss.cu", "if (!inside(label, K)) continue;", ""),
        ("loss.cu", "*right += count", "*right = (int)*right + count"),
    ],
}
TENSOR_CORE_FAULTS = [
    ("conv.cu", "share < SHARES - 1; share++", "share < SHARES - 2; share++"),  # the last share is not added
    ("conv.cu", "first += own_share() * count * BK;", ""),  # all shares sum the first one's terms
    ("conv.cu", "if (add && own_share() == 0)", "if (add)"),  # what is there is added by each share
    ("conv.cu", "    __syncthreads();  // this step's", "    // this step's"),  # a tile is overwritten while it is read
    ("conv.cu", "store(shared.tiles[(step + 1) % 2]);", "store(shared.tiles[step % 2]);"),
    (
        "conv.cu",
        "  __syncthreads();\n    }\n    rows",
        "  if (step == 0) __syncthreads();\n    }\n    rows",
    ),  # terms that are not there yet
    ("conv.cu", "PERIOD = TERMS * GRAIN / BK", "PERIOD = TERMS * GRAIN / BK * 2"),  # terms beyond the table
    ("conv.cu", "last + 2 * BK, shared.terms_a", "last + BK, shared.terms_a"),  # no list for the last loads
    ("conv.cu", "list_terms(a, first + step", "list_terms(a, step"),  # the first part's pixels
    ("conv.cu", "const int l = LEFT ? i % 2 : i / 2, k = LEFT ? i / 2 : i % 2", "const int l = i % 2, k = i / 2"),
    ("conv.cu", "return tf32(__uint_as_float(v[first]))", "return v[first]"),  # truncated
    ("conv.cu", "fb[j / 2] + j % 2 * 2", "fb[j / 2] + (1 - j % 2) * 2"),
    ("conv.cu", "h % 4 * 2 + h / 4", "h"),  # columns in another order than results
    ("conv.cu", "r < STRIPS / 4 * 2 ? r % 2 : n / 2", "r % 2"),
    ("conv.cu", "i % 2 * 2 + B::half(r, n)", "i / 2 * 2 + B::half(r, n)"),
    ("conv.cu", "i * (ALONG_K ? 8 : 1)]", "i]"),  # the second line of a patch
    ("conv.cu", "min(BN, columns)", "min(BN / 2, columns)"),
    ("conv.cu", "if (n < count) to[n]", "if (n <= count) to[n]"),  # beside its channels
    ("windows.cuh", "h.beside(y) | w.beside(x) << 16", "h.beside(y)"),
    ("windows.cuh", "h.beside(y) | w.beside(x) << 16", "w.beside(x) << 16"),
    ("windows.cuh", "EXISTS | h.beside(y)", "h.beside(y)"),  # terms beyond the last
    ("windows.cuh", "if (m >= pixels) return {0, ALL};", ""),  # pixels of the next part
    ("windows.cuh", "k < terms ? Term{k * ld, 2} : Term{0, ALL}", "Term{k * ld, 2}"),  # rows of the next part
    ("windows.cuh", "shift = step * dilation / stride", "shift = step"),
    ("windows.cuh", "(kernel - 1 - first) / step + 1", "(kernel - first) / step + 1"),
    ("windows.cuh", "rx.count * ry.step", "rx.count"),
    ("conv.cu", "+ (long long)m * ldy :", "+ (long long)m * O :"),
    ("conv.cu", "{{x + group * in, ldx, in, pixels", "{{x, ldx, in, pixels"),
    ("conv.cu", "{ read(run, line + c, in - c, whole); }", "{}"),
    ("conv.cu", "part += (long long)p * depth * O +", "part +="),
    ("conv.cu", "run[n] = run[n] <= 0 ? 0.f : run[n]", "run[n] = run[n]"),
    ("conv.cu", "A::own(i, g) < count", "A::own(i, g) < BM"),  # rows beyond the last count too
    ("conv.cu", "near[place(j, p)] = sum[0][j][p];\n  __syncthreads();", "near[place(j, p)] = sum[0][j][p];"),
    ("conv.cu", "for (int o = 4; o < 32; o *= 2) {", "for (int o = 4; o < 16; o *= 2) {"),
    ("conv.cu", "square -= total * total / count;", ""),
]
# Of two floats in one store: the first in the lower half. A store of one, or of an odd number, rounds each by itself.
PAIR = "bfloat16_pair(v[j], v[j + 1])"
BF16_FAULTS = {
    elements: [
        ("common.cuh", PAIR, "(unsigned&)v.at[j] >> 16 | (unsigned&)v.at[j + 1] >> 16 << 16"),  # truncated
        ("common.cuh", "(unsigned short)bfloat16_pair(x, 0.f)", "(unsigned short)((unsigned&)x >> 16)"),
        ("common.cuh", PAIR, "bfloat16_pair(v[j + 1], v[j])"),
        ("vector.cuh", "load<VEC>(pixel(x + c, r, ld))", "load<VEC>((T*)((float*)pixel(x, r, ld) + c))"),  # by 4 bytes
    ],
    depthwise2d: [
        ("common.cuh", "+= before.at[j]", "= value(rounded<T>(v.at[j])) + before.at[j]"),  # rounded twice
        ("depthwise.cu", "weight.at[j];\n      }", "value(rounded<bfloat16>(weight.at[j]));\n      }"),
    ],
    max_pool: [("common.cuh", "+= before.at[j]", "= value(rounded<T>(v.at[j])) + before.at[j]")],
    avg_pool: [("common.cuh", "+= before.at[j]", "= value(rounded<T>(v.at[j])) + before.at[j]")],
    batch_norm: [
        ("common.cuh", PAIR, "bfloat16_pair(v[j + 1], v[j])"),
        ("batchnorm.cu", "centred = v[j] - k.mean[j]", "centred = value(rounded<Real>(v[j] - k.mean[j]))"),
    ],
    local_response: [
        (
            "lrn.cu",
            "rounded<Real>(add ? value(*at) + v : v)",
            "rounded<Real>(add ? value(*at) + value(rounded<Real>(v)) : v)",
        )
    ],
    augmented: [("common.cuh", "(unsigned short)bfloat16_pair(x, 0.f)", "(unsigned short)((unsigned&)x >> 16)")],
}
every_fault = [
    *((holds, fault, "float32") for holds, faults in FAULTS.items() for fault in faults),
    *((holds, fault, "bfloat16") for holds, faults in BF16_FAULTS.items() for fault in faults),
]


@on_host
@pytest.mark.long
@pytest.mark.parametrize(
    "holds, fault, stored", every_fault, ids=lambda v: v[2] if isinstance(v, tuple) else getattr(v, "__name__", v)
)
def test_a_spoiled_kernel_is_caught(holds, fault, stored, monkeypatch):
    monkeypatch.setattr(backend, "precision", "float32")
    cupy = strict_cupy.pretend(monkeypatch)
    once = settings(
        max_examples=1000,  # the first few find most faults
        report_multiple_bugs=False,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        parent=within_test,
    )
    with pytest.raises(AssertionError):
        for greedy in (True, False):  # a barrier that is missing shows in one of them
            host_cuda.on_host(monkeypatch, greedy=greedy, fault=fault)

            def example(drawn):
                launch._tickets.clear()  # that a spoiled launch before this one may have left at others than 0
                holds(cupy, *(drawn if stored == "float32" else in_dtype(stored, drawn)))

            once(given(PROPERTIES[holds])(example))()


@on_host
def test_the_order_of_blocks_changes_no_bit(monkeypatch):
    """Whichever block is the last, it adds in the same order: here the one with the highest number, and the first."""
    cupy, found = strict_cupy.pretend(monkeypatch), []
    for greedy in (False, True):
        host_cuda.on_host(monkeypatch, greedy=greedy)
        make = Numbers(cupy, 0, False)
        x, dy, w = (cupy.asarray(make.draw(*shape)) for shape in ((2, 40, 50, 5), (2, 40, 50, 5), (1, 1, 5, 5)))
        geometry = (1, 1), ((0, 0), (0, 0)), (1, 1), 1
        _, mean, var, rstd = cuda_conv.conv2d_moments(x, w, *geometry, 1e-3)
        results = [mean, var, rstd, *batchnorm.statistics(x, 1e-3)]
        gamma, beta, *others = (cupy.asarray(make.draw(5)) for _ in range(6))
        averages = *others[2:], cupy.asarray(np.array([0.75]))
        dx = batchnorm.batch_norm_backward(dy, x, mean, var, rstd, gamma, beta, *others[:2], averages, relu=True)
        found.append([a.get() for a in (*results, *others, dx)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@on_host
@pytest.mark.parametrize("fault", ["always by chance", "always told", "all of them"])
def test_batches_that_mirror_other_images_are_caught(fault, monkeypatch):
    """The planted faults of `augmented` that are not in the kernel."""
    choices = augment.choices

    def faulty(*args):
        *args, mirrored = args
        if fault == "always told" and mirrored is None:
            mirrored = np.zeros(len(args[0]), bool)
        elif fault == "all of them" and mirrored is not None:
            mirrored = mirrored.any()
        return choices(*args, None if fault == "always by chance" else mirrored)

    monkeypatch.setattr(augment, "choices", faulty)
    monkeypatch.setattr(backend, "precision", "float32")
    cupy = strict_cupy.pretend(monkeypatch)
    host_cuda.on_host(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in range(40):
            augmented(cupy, 3, (3, 4), 2, 1, 0, (seed, 0, True))


# Of words of two numbers. What both precisions share is spoiled above.
BF16_TENSOR_CORE_FAULTS = [
    ("conv.cu", "second = first + (ALONG_K ? 1 : 4)", "second = first + 1"),  # two lines in a word, not two terms
    (
        "conv.cu",
        "halves(v[first / 2], v[second / 2 % HELD], l % 2)",
        "halves(v[first / 2], v[second / 2 % HELD], false)",
    ),
    ("conv.cu", "halves(v[first], v[second % HELD], false)", "v[first]"),  # the second term is lost
    (
        "conv.cu",
        "bfloat16_pair(__uint_as_float(v[first]), __uint_as_float(v[second % HELD]))",
        "halves(v[first] >> 16, v[second % HELD] >> 16, false)",
    ),  # weights are truncated
    ("conv.cu", "BK = WORDS * PER_WORD", "BK = WORDS"),
    ("conv.cu", "hold(word(p) * PER_WORD / GRAIN)", "hold(word(p) / GRAIN)"),
    ("conv.cu", "own[ALONG_K ? i % DEEP / VEC", "own[ALONG_K ? i % 4 / VEC"),  # the first terms of a line twice
    ("conv.cu", "run[n] = value(rounded<Real>(run[n]));", ";"),  # moments of what is not stored
    (
        "conv.cu",
        "if (n < count) to[n] = rounded<T>(run[n])",
        "if (n < count) to[n] = rounded<T>(value(rounded<T>(run[n])) * 1.01f)",
    ),
    ("conv.cu", "ld | channels) % 4", "ld | channels) % 2"),  # four at once where they may not be
]


@on_host
@pytest.mark.long
@pytest.mark.parametrize(
    "fault, stored",
    [*((f, "float32") for f in TENSOR_CORE_FAULTS), *((f, "bfloat16") for f in BF16_TENSOR_CORE_FAULTS)],
    ids=lambda v: v[2] if isinstance(v, tuple) else v,
)
def test_a_spoiled_convolution_is_caught(fault, stored, monkeypatch):
    host_cuda.on_host(monkeypatch, greedy=True, fault=fault)
    monkeypatch.setattr(backend, "precision", "tf32")
    cupy = strict_cupy.pretend(monkeypatch)
    rounded, cases = (factors_are_rounded, TILES) if stored == "float32" else (weights_are_rounded, TILES[:-1])
    with pytest.raises(AssertionError):
        a_nan_stays(cupy, stored)
        rounded(cupy)
        for case in cases:
            whole_convolution(cupy, case, stored)
            convolution_moments(cupy, case, stored)

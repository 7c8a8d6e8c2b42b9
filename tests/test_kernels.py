"""Every kernel's plain version gives what the loops of reference/ give, on random configurations.

float64 and complex128, `out=` into a slice of a wider array, `into=` on top of what is there. Each kernel is also
seen to fail: test_wrong_kernels_are_caught puts a planted fault in its place and wants the same comparison to notice.
"""

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from numerics import error, strewn, strided

import reference.conv
import reference.loss
import reference.norm
import reference.pointwise
import reference.pool
import reference.update
import reference.windows
from inception_np.kernels import batchnorm, conv, depthwise, elementwise, linear, loss, lrn, pool, update, window
from inception_np.testing import flags, seeds, shapes, windows

TOLERANCE = 1e-13
dtypes = st.sampled_from([np.float64, np.complex128])


def draw_values(seed):
    """Arrays of random numbers one after the other, real or complex."""
    rng = np.random.default_rng(seed)

    def values(shape, dtype=np.float64):
        a = rng.standard_normal(shape)
        return a + 1j * rng.standard_normal(shape) if dtype == np.complex128 else a

    return values


def agree(got, wanted):
    assert error(got, wanted) < TOLERANCE


def slice_of(shape, dtype):
    """An array to write to that is a channel slice of a wider one, as Concat hands out."""
    return np.full((*shape[:-1], shape[-1] + 3), np.nan, dtype)[..., 2:-1]


def written(function, *args, **kwargs):
    """A kernel's y, after checking that out= receives the same bits and is what is returned."""
    y = function(*args, **kwargs)
    out = slice_of(y.shape, y.dtype)
    assert function(*args, **kwargs, out=out) is out
    assert np.array_equal(out, y)
    return y


def added(function, *args, shape, seed):
    """A backward kernel's dx, after checking that into= is added to and returned."""
    dx = function(*args)
    start = draw_values(seed)(shape, dx.dtype)
    into = slice_of(shape, dx.dtype)
    into[...] = start
    assert function(*args, into=into) is into
    assert error(into, start + dx) < TOLERANCE
    return dx


def twice(function, shape, dtype, seed):
    """A kernel that adds into an array: what it adds, after checking that it does not overwrite."""
    zero, start = np.zeros(shape, dtype), draw_values(seed)(shape, dtype)
    there = start.copy()
    function(zero)
    function(there)
    assert error(there, start + zero) < TOLERANCE
    return zero


# -- one comparison per kernel family; each takes a drawn configuration -------------------------------------------


@st.composite
def conv_configs(draw):
    kernel, stride, pads, dilation, plane = draw(windows())
    groups = draw(st.integers(1, 3))
    C, F = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    N = draw(st.integers(1, 2))
    return (N, *plane, C), (*kernel, C // groups, F), stride, pads, dilation, groups, draw(seeds)


def check_conv2d(config, dtype, bias, relu):
    x_shape, w_shape, stride, pads, dilation, groups, seed = config
    values = draw_values(seed)
    x, w, b = values(x_shape, dtype), values(w_shape, dtype), values(w_shape[3:], dtype)
    b = b if bias else None
    how = stride, pads, dilation, groups
    y = written(conv.conv2d, x, w, b, *how, relu=relu)
    wanted = reference.conv.conv2d(x, w, b, *how)
    agree(y, reference.pointwise.relu(wanted) if relu else wanted)
    dy = values(y.shape, dtype)
    dx = added(conv.conv2d_dx, dy, w, x_shape, *how, shape=x_shape, seed=seed)
    agree(dx, reference.conv.conv2d_dx(dy, w, x_shape, *how))
    dw = twice(lambda dw: conv.conv2d_dw(x, dy, dw, *how), w_shape, dtype, seed)
    agree(dw, reference.conv.conv2d_dw(x, dy, w_shape, *how))


@given(conv_configs(), dtypes, flags, flags)
def test_conv2d_is_the_definition(config, dtype, bias, relu):
    check_conv2d(config, dtype, bias, relu)


@given(conv_configs(), st.integers(1, 2000))
def test_conv2d_in_blocks_of_any_size_is_the_definition(config, column_bytes):
    """However few images the byte cap lets through at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "COLUMN_BYTES", column_bytes)
        check_conv2d(config, np.float64, True, False)


def check_depthwise(config, multiplier, dtype, bias):
    x_shape, (kh, kw, _, _), stride, pads, dilation, _, seed = config
    values, C = draw_values(seed), x_shape[3]
    x, w = values(x_shape, dtype), values((kh, kw, C, multiplier), dtype)
    b = values(C * multiplier, dtype) if bias else None
    how = stride, pads, dilation
    y = written(depthwise.depthwise2d, x, w, b, *how)
    agree(y, reference.conv.depthwise2d(x, w, b, *how))
    dy = values(y.shape, dtype)
    dx = added(depthwise.depthwise2d_dx, dy, w, x_shape, *how, shape=x_shape, seed=seed)
    agree(dx, reference.conv.depthwise2d_dx(dy, w, x_shape, *how))
    dw = twice(lambda dw: depthwise.depthwise2d_dw(x, dy, dw, *how), w.shape, dtype, seed)
    agree(dw, reference.conv.depthwise2d_dw(x, dy, w.shape, *how))


@given(conv_configs(), st.integers(1, 3), dtypes, flags)
def test_depthwise2d_is_the_definition(config, multiplier, dtype, bias):
    check_depthwise(config, multiplier, dtype, bias)


@given(conv_configs(), seeds)
def test_a_convolution_in_as_many_groups_as_channels_is_a_depthwise_one(config, seed):
    (N, H, W, C), (kh, kw, _, _), stride, pads, dilation, _, _ = config
    values = draw_values(seed)
    x, w = values((N, H, W, C)), values((kh, kw, C, 2))
    y = depthwise.depthwise2d(x, w, None, stride, pads, dilation)
    agree(conv.conv2d(x, w.reshape(kh, kw, 1, 2 * C), None, stride, pads, dilation, C), y)


@st.composite
def pool_configs(draw):
    size, stride, pads, _, (H, W) = draw(windows(dilated=False, pooling=True))
    shape = (draw(st.integers(1, 2)), H, W, draw(st.integers(1, 3)))
    return shape, size, stride, pads, draw(flags), draw(seeds)


def check_max_pool(config, dtype, levels):
    """levels: how many values there are, so few that windows hold equal ones; NOT_FINITE: infinities and NaN too."""
    shape, size, stride, pads, ceil, seed = config
    values = draw_values(seed)
    x = values(shape, dtype)
    if levels:
        x = np.round(x.real * levels) / levels
    if levels == NOT_FINITE:
        x = strewn(x, seed)
    out_hw = window.out_size(shape[1:3], size, stride, pads, ceil=ceil)
    y, winners = pool.max_pool(x, size, stride, pads, out_hw)
    wanted, wanted_winners = reference.pool.max_pool(x, size, stride, pads, out_hw)
    assert y.dtype == x.dtype and winners.dtype == np.uint8
    assert np.array_equal(y, wanted, equal_nan=True)
    assert np.array_equal(winners, wanted_winners)
    out = slice_of(y.shape, y.dtype)
    again, winners_again = pool.max_pool(x, size, stride, pads, out_hw, out=out)
    assert again is out
    assert np.array_equal(out, y, equal_nan=True) and np.array_equal(winners, winners_again)
    dy = values(y.shape, dtype)
    dx = added(pool.max_pool_dx, dy, winners, shape, size, stride, pads, shape=shape, seed=seed)
    agree(dx, reference.pool.max_pool_dx(dy, x, size, stride, pads))


NOT_FINITE = 3


@given(pool_configs(), dtypes, st.sampled_from([0, 1, 2, NOT_FINITE]))
def test_max_pool_is_the_definition_and_the_first_of_equals_wins(config, dtype, levels):
    check_max_pool(config, dtype, levels)


def check_avg_pool(config, dtype, count_include_pad):
    shape, size, stride, pads, ceil, seed = config
    values = draw_values(seed)
    x = values(shape, dtype)
    out_hw = window.out_size(shape[1:3], size, stride, pads, ceil=ceil)
    y = written(pool.avg_pool, x, size, stride, pads, out_hw, count_include_pad)
    agree(y, reference.pool.avg_pool(x, size, stride, pads, out_hw, count_include_pad))
    dy = values(y.shape, dtype)
    how = shape, size, stride, pads, count_include_pad
    dx = added(pool.avg_pool_dx, dy, *how, shape=shape, seed=seed)
    agree(dx, reference.pool.avg_pool_dx(dy, *how))


@given(pool_configs(), dtypes, flags)
def test_avg_pool_is_the_definition_with_both_divisors(config, dtype, count_include_pad):
    check_avg_pool(config, dtype, count_include_pad)


def check_global_avg_pool(shape, seed, dtype):
    values = draw_values(seed)
    x, dy = values(shape, dtype), values((shape[0], shape[3]), dtype)
    agree(pool.global_avg_pool(x), reference.pool.global_avg_pool(x))
    dx = added(pool.global_avg_pool_dx, dy, shape, shape=shape, seed=seed)
    agree(dx, reference.pool.global_avg_pool_dx(dy, shape))


@given(shapes(), seeds, dtypes)
def test_global_avg_pool_is_the_definition(shape, seed, dtype):
    check_global_avg_pool(shape, seed, dtype)


def check_batch_norm(shape, seed, dtype, eps, scale, relu, train):
    values, C = draw_values(seed), shape[3]
    x, dy, beta = values(shape, dtype), values(shape, dtype), values(C, dtype)
    gamma = values(C, dtype) if scale else None
    if train:
        mean, var = batchnorm.moments(x)
        wanted_mean, wanted_var = reference.norm.moments(x)
        assert np.abs(mean - wanted_mean).max() < TOLERANCE
        assert np.abs(var - wanted_var).max() < TOLERANCE
    else:
        mean, var = values(C), np.abs(values(C)) + 0.5
    rstd = (var + eps) ** -0.5
    y = written(batchnorm.batch_norm, x, mean, rstd, gamma, beta, relu=relu)
    flat = reference.norm.batch_norm(x, mean, var, gamma, beta, eps)
    assert error(y, reference.pointwise.relu(flat) if relu else flat) < 1e-12
    through = reference.pointwise.relu_dx(dy, flat) if relu else dy
    how = dict(relu=relu, train=train)
    dx, dgamma, dbeta = batchnorm.batch_norm_grad(dy, x, mean, rstd, gamma, beta, **how)
    wanted = reference.norm.batch_norm_backward(through, x, mean, var, gamma, eps, train)
    # A gradient through a nearly constant channel cancels; its rounding is in proportion to 1 / sqrt(var + eps).
    steep = np.abs(rstd).max() * (1 if gamma is None else np.abs(gamma).max()) * np.abs(dy).max()
    assert np.abs(dx - wanted[0]).max() < 1e-13 * max(1, steep)
    assert (dgamma is None) == (gamma is None)
    if gamma is not None:
        assert np.abs(dgamma - wanted[1]).max() < 1e-12
    assert np.abs(dbeta - wanted[2]).max() < 1e-12
    there = x.copy()
    in_place = batchnorm.batch_norm_grad(dy, there, mean, rstd, gamma, beta, **how, out=there)
    assert in_place[0] is there and np.array_equal(there, dx)


@given(shapes(), seeds, dtypes, st.sampled_from([1e-3, 0.5]), flags, flags, flags)
def test_batch_norm_is_the_definition(shape, seed, dtype, eps, scale, relu, train):
    check_batch_norm(shape, seed, np.float64 if train else dtype, eps, scale, relu, train)


@given(shapes(), seeds)
def test_moments_of_complex_numbers_conjugate_nothing(shape, seed):
    x = draw_values(seed)(shape, np.complex128)
    for got, wanted in zip(batchnorm.moments(x), reference.norm.moments(x), strict=True):
        assert np.abs(got - wanted).max() < TOLERANCE


def test_the_variance_of_numbers_far_from_zero_is_right():
    """Mean 1e4, deviation 0.1, in float32: the one-pass formula E[x^2] - E[x]^2 can even come out negative."""
    x = (1e4 + 0.1 * np.random.default_rng(0).standard_normal((8, 16, 15, 2))).astype(np.float32)
    _, var = batchnorm.moments(x)
    wanted = x.astype(np.float64).var((0, 1, 2))
    assert np.abs(var / wanted - 1).max() < 1e-2
    x = x.astype(np.float64)
    one_pass = (x.astype(np.float32) ** 2).mean((0, 1, 2)) - x.astype(np.float32).mean((0, 1, 2)) ** 2
    assert np.abs(one_pass / wanted - 1).max() > 1  # the fault that this test is for


@st.composite
def lrn_configs(draw):
    return (
        draw(shapes(channels=7)),
        draw(st.sampled_from([1, 3, 5])),
        draw(st.sampled_from([1.0, 0.25])),
        draw(st.sampled_from([1.0, 0.75, 0.5])),
        draw(st.sampled_from([1.0, 2.0])),
        draw(seeds),
    )


def check_lrn(config, dtype):
    shape, size, alpha, beta, k, seed = config
    values = draw_values(seed)
    x, dy = values(shape), values(shape, dtype)
    x = x + 0.1j * values(shape) if dtype == np.complex128 else x
    y = written(lrn.lrn, x, size, alpha, beta, k)
    agree(y, reference.norm.lrn(x, size, alpha, beta, k))
    dx = added(lrn.lrn_dx, dy, x, size, alpha, beta, k, shape=shape, seed=seed)
    agree(dx, reference.norm.lrn_dx(dy, x, size, alpha, beta, k))


@given(lrn_configs(), dtypes)
def test_lrn_is_the_definition(config, dtype):
    check_lrn(config, dtype)


def check_relu(shape, seed, dtype, zeros):
    values = draw_values(seed)
    x, dy = values(shape, dtype), values(shape, dtype)
    if zeros:
        x[np.abs(x.real) < 0.7] = 0
    y = written(elementwise.relu, x)
    assert np.array_equal(y, reference.pointwise.relu(x))
    dx = added(elementwise.relu_dx, dy, y, shape=shape, seed=seed)
    assert np.array_equal(dx, reference.pointwise.relu_dx(dy, x))


def check_relu_of_what_is_not_finite(shape, seed):
    values = draw_values(seed)
    x, dy = strewn(values(shape), seed), strewn(values(shape), seed + 1)
    y = elementwise.relu(x)
    assert np.array_equal(y, reference.pointwise.relu(x), equal_nan=True)
    assert np.array_equal(elementwise.relu_dx(dy, y), reference.pointwise.relu_dx(dy, x), equal_nan=True)
    zero, one = np.zeros(shape[3]), np.ones(shape[3])
    assert np.array_equal(batchnorm.batch_norm(x, zero, one, None, zero, relu=True), y, equal_nan=True)
    w = np.ones((1, 1, 1, shape[3]))
    z = conv.conv2d(x, w, None, (1, 1), ((0, 0), (0, 0)), (1, 1), shape[3], relu=True)
    assert np.array_equal(z, y, equal_nan=True)


@given(shapes(), seeds)
def test_relu_of_what_is_not_finite_is_the_definition(shape, seed):
    check_relu_of_what_is_not_finite(shape, seed)


@given(shapes(), seeds, dtypes, flags)
def test_relu_is_the_definition_and_its_slope_at_zero_is_zero(shape, seed, dtype, zeros):
    check_relu(shape, seed, dtype, zeros)


def check_scaled_add(shape, seed, dtype, scale):
    values = draw_values(seed)
    a, b = values(shape, dtype), values(shape, dtype)
    agree(written(elementwise.scaled_add, a, b, scale), reference.pointwise.residual(a, b, scale))
    rows = twice(lambda into: elementwise.sum_rows(a, into), shape[-1:], dtype, seed)
    agree(rows, reference.conv.conv2d_dbias(a))


@given(shapes(), seeds, dtypes, st.sampled_from([1.0, 0.17]))
def test_scaled_add_and_sum_rows_are_the_definition(shape, seed, dtype, scale):
    check_scaled_add(shape, seed, dtype, scale)


def check_linear(n, i, o, seed, dtype, bias):
    values = draw_values(seed)
    x, w, dy = values((n, i), dtype), values((i, o), dtype), values((n, o), dtype)
    b = values(o, dtype) if bias else None
    agree(written(linear.linear, x, w, b), reference.pointwise.linear(x, w, b))
    dx = added(linear.linear_dx, dy, w, shape=x.shape, seed=seed)
    agree(dx, reference.pointwise.linear_dx(dy, w))
    dw = twice(lambda dw: linear.linear_dw(x, dy, dw), w.shape, dtype, seed)
    agree(dw, reference.pointwise.linear_dw(x, dy))


sizes = st.integers(1, 5)


@given(sizes, sizes, sizes, seeds, dtypes, flags)
def test_linear_is_the_definition(n, i, o, seed, dtype, bias):
    check_linear(n, i, o, seed, dtype, bias)


def check_loss(n, k, seed, smoothing):
    values = draw_values(seed)
    z, labels = 3 * values((n, k)), np.random.default_rng(seed).integers(0, k, n)
    got, dz = loss.softmax_cross_entropy(z, labels, smoothing)
    wanted, wanted_dz = reference.loss.softmax_cross_entropy(z, labels, smoothing)
    assert abs(got - wanted) < TOLERANCE * max(1, wanted)
    agree(dz, wanted_dz)


@given(sizes, st.integers(2, 6), seeds, st.sampled_from([0.0, 0.1, 0.5]))
def test_softmax_cross_entropy_is_the_definition(n, k, seed, smoothing):
    check_loss(n, k, seed, smoothing)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_cross_entropy_survives_huge_logits(dtype):
    largest = np.finfo(dtype).max / 4
    z = np.array([[largest, 0, -largest], [-largest, -largest, -largest], [1e5, 1e5, 0]], dtype)
    value, dz = loss.softmax_cross_entropy(z, np.array([0, 1, 0]), 0.0)
    assert np.isfinite(value) and np.isfinite(dz).all()
    assert value == pytest.approx((np.log(3) + np.log(2)) / 3, rel=1e-6)


def check_update(n, seed, lr, momentum, weight_decay, nesterov, steps=3):
    """A weight may end near zero, so RMSProp's rounding is measured by what was added up, |w| and every |v|.

    In units of 2^-53: a step's lr g' / sqrt(s' + eps) is off by 11 of its terms, v by 16 of them after three steps,
    their sum by 19; an error of w that weight decay feeds back grows by at most 3.1. Each of two computations is off
    by 59 at most; 2.4 of the 64 * 2^-52 allowed are reached over 3,001 seeds.
    """
    values = draw_values(seed)
    w, v, s, u = values(n), np.zeros(n), np.ones(n), np.zeros(n)
    data, velocity = w.copy(), np.zeros(n) if momentum else None
    other, square, other_velocity, w2 = w.copy(), np.ones(n), np.zeros(n), w.copy()
    terms, added_up = np.zeros(n), np.abs(w)
    for _ in range(steps):
        g = values(n)
        grad = g.copy()
        update.sgd_step(data, grad, velocity, lr, momentum, weight_decay, nesterov)
        w, v = reference.update.sgd(w, g, v, lr, momentum, weight_decay, nesterov)
        assert error(data, w) < TOLERANCE and not grad.any()
        grad = g.copy()
        how = lr, 0.9, momentum, 1e-2, weight_decay
        update.rmsprop_step(other, grad, square, other_velocity, *how)
        slope = np.abs(g) + weight_decay * np.abs(w2)
        w2, s, u = reference.update.rmsprop(w2, g, s, u, *how)
        terms = momentum * terms + lr * slope / np.sqrt(s + 1e-2)
        added_up += terms
        assert (np.abs(other - w2) <= 64 * np.finfo(float).eps * added_up).all()
        assert error(square, s) < TOLERANCE and not grad.any()


@given(sizes, seeds, st.sampled_from([0.1, 1.0]), st.sampled_from([0.0, 0.9]), flags, flags)
def test_update_steps_are_the_definition(n, seed, lr, momentum, decayed, nesterov):
    check_update(n, seed, lr, momentum, 0.25 if decayed else 0.0, nesterov and momentum > 0)


# -- the arithmetic of windows, exhaustively -----------------------------------------------------------------------


def test_window_counts_and_same_pads_equal_counting():
    for n in range(1, 10):
        for k in range(1, 5):
            for s in range(1, 4):
                for d in (1, 2):
                    same = window.pads_for("same", (n, n + 1), (k, k), (s, s), (d, d))
                    assert same[0] == reference.windows.same_pads(n, k, s, d)
                    assert same[1] == reference.windows.same_pads(n + 1, k, s, d)
                    assert window.out_size((n, n + 1), (k, k), (s, s), same, (d, d)) == (-(-n // s), -(-(n + 1) // s))
                    for before, after, ceil in np.ndindex(3, 3, 2):
                        if ceil and max(before, after) >= k:
                            continue  # pools refuse to look at nothing but padding
                        pads = (before, after)
                        wanted = reference.windows.out_length(n, k, s, pads, d, bool(ceil))
                        how = (n, n), (k, k), (s, s), (pads, pads), (d, d), bool(ceil)
                        if wanted:
                            assert window.out_size(*how) == (wanted, wanted), how
                        else:
                            with pytest.raises(window.ImageTooSmall):
                                window.out_size(*how)


# -- every comparison is seen to fail on a planted fault ----------------------------------------------------------


def quietly(function, *arguments, **options):
    with np.errstate(invalid="ignore"):
        return function(*arguments, **options)


def replace(module, name, how):
    """A fault: the kernel `name` of a module, with what it returns (or its arguments) spoiled by `how`."""
    right = getattr(module, name)
    return module, name, lambda *args, **kwargs: how(right, *args, **kwargs)


def transposed(pads):
    return tuple(side[::-1] for side in pads)


booleans = st.tuples(flags, flags, flags)

FAULTS = {
    "conv2d swaps the strides": (
        replace(conv, "im2col", lambda f, x, k, s, *a: f(x, k, s, *a) * (1 if s[0] == s[1] else 2)),
        st.tuples(conv_configs(), dtypes, flags, flags),
        check_conv2d,
    ),
    "col2im crops the wrong side's pad": (
        replace(conv, "col2im", lambda f, d, x, k, s, p, *a: f(d, x, k, s, transposed(p), *a)),
        st.tuples(conv_configs(), dtypes, flags, flags),
        check_conv2d,
    ),
    "conv2d_dw overwrites instead of adding": (
        replace(conv, "conv2d_dw", lambda f, x, dy, dw, *a: (dw.fill(0), f(x, dy, dw, *a))),
        st.tuples(conv_configs(), dtypes, flags, flags),
        check_conv2d,
    ),
    "depthwise2d mixes up channel and multiplier": (
        replace(depthwise, "depthwise2d_dx", lambda f, dy, *a, **k: f(dy[..., ::-1], *a, **k)),
        st.tuples(conv_configs(), st.integers(1, 3), dtypes, flags),
        check_depthwise,
    ),
    "max_pool lets the last of equals win": (
        replace(pool, "max_pool", lambda f, x, *a, **k: f(x + 1e-9 * np.arange(x.size).reshape(x.shape), *a, **k)),
        st.tuples(pool_configs(), dtypes, st.just(1)),
        check_max_pool,
    ),
    "max_pool hides NaN": (
        replace(pool, "max_pool", lambda f, x, *a, **k: f(np.where(np.isnan(x), -np.inf, x), *a, **k)),
        st.tuples(pool_configs(), st.just(np.float64), st.just(NOT_FINITE)),
        check_max_pool,
    ),
    "max_pool lets padding win a plane of minus infinities": (
        replace(pool, "first_taps", lambda f, stride, pads, out_hw: f(stride, ((0, 0), (0, 0)), out_hw)),
        st.tuples(pool_configs(), st.just(np.float64), st.just(NOT_FINITE)),
        check_max_pool,
    ),
    "max_pool_dx overwrites where windows overlap": (
        replace(pool, "max_pool_dx", lambda f, *a, **k: np.clip(f(*a, **k).real, -1, 1)),
        st.tuples(pool_configs(), st.just(np.float64), st.just(0)),
        check_max_pool,
    ),
    "avg_pool counts the padding though told not to": (
        replace(pool, "avg_pool", lambda f, *a, **k: f(*a[:-1], True, **k)),
        st.tuples(pool_configs(), dtypes, flags),
        check_avg_pool,
    ),
    "avg_pool_dx divides by the whole window": (
        replace(pool, "avg_pool_dx", lambda f, *a, **k: f(*a[:-1], True, **k)),
        st.tuples(pool_configs(), dtypes, flags),
        check_avg_pool,
    ),
    "global_avg_pool_dx takes H for W": (
        replace(pool, "global_avg_pool_dx", lambda f, dy, s, into=None: f(dy * s[2] / s[1], s, into=into)),
        st.tuples(shapes(), seeds, dtypes),
        check_global_avg_pool,
    ),
    "moments divide by N H W - 1": (
        replace(batchnorm, "moments", lambda f, x: (f(x)[0], f(x)[1] * (x[..., 0].size / max(1, x[..., 0].size - 1)))),
        st.tuples(shapes(), seeds, st.just(np.float64), st.just(1e-3), flags, flags, st.just(True)),
        check_batch_norm,
    ),
    "batch_norm_grad forgets that the variance moves": (
        replace(batchnorm, "batch_norm_grad", lambda f, *a, train, **k: f(*a, train=False, **k)),
        st.tuples(shapes(), seeds, st.just(np.float64), st.just(1e-3), flags, flags, st.just(True)),
        check_batch_norm,
    ),
    "lrn divides alpha by the size": (
        replace(lrn, "lrn", lambda f, x, size, a, *r, **k: f(x, size, a / size, *r, **k)),
        st.tuples(lrn_configs(), dtypes),
        check_lrn,
    ),
    "lrn_dx forgets the neighbours": (
        replace(lrn, "channel_window_sum", lambda f, x, size: f(x, 1)),
        st.tuples(lrn_configs(), dtypes),
        check_lrn,
    ),
    "relu multiplies by x > 0, and minus infinity times 0 is NaN": (
        replace(elementwise, "relu", lambda f, x, out=None: quietly(np.multiply, x, x.real > 0, out=out)),
        st.tuples(shapes(), seeds),
        check_relu_of_what_is_not_finite,
    ),
    "relu_dx multiplies by y > 0, and infinity times 0 is NaN": (
        replace(elementwise, "relu_dx", lambda f, dy, y, into=None: f(dy, y, into=into) + quietly(np.multiply, 0, dy)),
        st.tuples(shapes(), seeds),
        check_relu_of_what_is_not_finite,
    ),
    "relu's slope at zero is one": (
        replace(elementwise, "relu_dx", lambda f, dy, y, into=None: f(dy, y + 1e-300, into=into)),
        st.tuples(shapes(), seeds, st.just(np.float64), st.just(True)),
        check_relu,
    ),
    "the residual's scale is on the wrong operand": (
        replace(elementwise, "scaled_add", lambda f, a, b, scale, **k: f(b, a, scale, **k)),
        st.tuples(shapes(), seeds, dtypes, st.just(0.17)),
        check_scaled_add,
    ),
    "linear_dw forgets the last image": (
        replace(linear, "linear_dw", lambda f, x, dy, dw: f(x[:-1], dy[:-1], dw)),
        st.tuples(sizes, sizes, sizes, seeds, dtypes, flags),
        check_linear,
    ),
    "cross-entropy forgets to smooth": (
        replace(loss, "softmax_cross_entropy", lambda f, z, labels, _: f(z, labels, 0.0)),
        st.tuples(sizes, st.integers(2, 6), seeds, st.just(0.1)),
        check_loss,
    ),
    "Nesterov's step is the ordinary one": (
        replace(update, "sgd_step", lambda f, *a: f(*a[:-1], False)),
        st.tuples(sizes, seeds, st.just(0.1), st.just(0.9), st.just(0.0), st.just(True)),
        check_update,
    ),
    "RMSProp adds epsilon outside the root": (
        replace(update, "rmsprop_step", lambda f, *a: f(*a[:-2], a[-2] ** 2, a[-1])),
        st.tuples(sizes, seeds, st.just(0.1), st.just(0.0), st.just(0.0), st.just(False)),
        check_update,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_kernels_are_caught(fault, monkeypatch):
    """Hypothesis finds a configuration on which the comparison fails, among the first two hundred."""
    patch, configurations, check = FAULTS[fault]
    monkeypatch.setattr(*patch)

    def caught(config):
        try:
            check(*config)
        except AssertionError:
            return True
        return False

    only_find = settings(max_examples=200, database=None, derandomize=True, phases=[Phase.generate])
    try:
        find(configurations, caught, settings=only_find)
    except NoSuchExample:
        pytest.fail(f"not caught: {fault}")


@given(shapes(), seeds)
def test_kernels_take_arrays_that_are_not_contiguous(shape, seed):
    """A slice of every kind, for x and for dy, gives the same bits or nearly: BLAS may sum in another order."""
    values, C = draw_values(seed), shape[3]
    x, dy, w = values(shape), values(shape), values((1, 1, C, C))
    how = (1, 1), ((0, 0), (0, 0)), (1, 1)
    pads = ((0, 0), (0, 0))
    one, out_hw = (1, 1), shape[1:3]
    mean, rstd = values(C), values(C)
    for f in (
        lambda x, dy: conv.conv2d(x, w, None, *how, 1),
        lambda x, dy: conv.conv2d_dx(dy, w, shape, *how, 1),
        lambda x, dy: depthwise.depthwise2d(x, w, None, *how),
        lambda x, dy: depthwise.depthwise2d_dx(values((*shape[:3], C * C)), w, shape, *how)[:0],
        lambda x, dy: pool.max_pool(x, one, one, pads, out_hw)[0],
        lambda x, dy: pool.avg_pool(x, one, one, pads, out_hw, True),
        lambda x, dy: pool.avg_pool_dx(dy, shape, one, one, pads, True),
        lambda x, dy: pool.global_avg_pool(x),
        lambda x, dy: batchnorm.batch_norm(x, mean, rstd, None, mean),
        lambda x, dy: batchnorm.batch_norm_grad(dy, x, mean, rstd, rstd, mean, relu=True, train=True)[0],
        lambda x, dy: lrn.lrn(x, 3, 0.5, 0.75, 1.0),
        lambda x, dy: lrn.lrn_dx(dy, x, 3, 0.5, 0.75, 1.0),
        lambda x, dy: elementwise.relu(x),
        lambda x, dy: elementwise.relu_dx(dy, x),
        lambda x, dy: elementwise.scaled_add(x, dy, 0.5),
    ):
        assert error(f(strided(x), strided(dy)), f(x, dy)) < TOLERANCE

"""What every layer promises on its own: right gradients, nothing modified, any memory layout, the same bits twice.

Each promise is one function `promise_...` of a case, run over random cases of every layer, and then once more on
layers that were spoiled on purpose, where it must fail (test_spoiled_layers_are_caught).
"""

import copy
import pkgutil
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numerics import H, dot, error, gradient_errors, gradients, snapshot, strided

import reference.conv
import reference.norm
import reference.pointwise
import reference.pool
import reference.windows
from inception_np.kernels import batchnorm
from inception_np.kernels.lrn import channel_window_sum
from inception_np.layer import Layer, Mode, cast, named_buffers, named_params
from inception_np.layers import lrn as lrn_layer
from inception_np.layers.activation import Dropout, ReLU
from inception_np.layers.batchnorm import BatchNorm
from inception_np.layers.conv import Conv2D, ConvReLU
from inception_np.layers.conv_bn_relu import ConvBNReLU
from inception_np.layers.pool import AvgPool2D, MaxPool2D
from inception_np.testing import LAYERS, LINEAR, Case, flags, random_like, randomise, seeds, shapes

every_layer = pytest.mark.parametrize("name", LAYERS)
SMOOTH = ("Conv2D", "DepthwiseConv2D", "AvgPool2D", "GlobalAvgPool2D", "Linear", "BatchNorm", "LRN")


# -- the promises --------------------------------------------------------------------------------------------------


def promise_gradients(case):
    """dx and every parameter's gradient equal the complex step."""
    layer, x, y, _, dy = case.forward()
    errors = gradient_errors(layer, x, dy, train=case.train, seed=case.seed)
    assert max(errors.values()) < 1e-12, errors
    assert np.isfinite(y).all()


def promise_central_differences(case):
    """The same by central differences, which owe nothing to complex arithmetic; only as sharp as they can be."""
    layer, x, _, _, dy = case.forward()
    got = gradients(layer, x, dy, case.train, case.seed)
    twin = copy.deepcopy(layer)
    params = named_params(twin)
    directions = {name: random_like(g, [case.seed, i]) for i, (name, g) in enumerate(got.items())}
    h = 1e-5

    def value(sign):
        for name, p in params.items():
            p.data = named_params(layer)[name].data + sign * h * directions[name]
        return dot(dy, twin.forward(x + sign * h * directions["x"], case.mode(keep=False))[0])

    slope = (value(1) - value(-1)) / (2 * h)
    terms = [got[name] * directions[name] for name in got]
    size = sum(np.abs(t).sum() for t in terms) + np.abs(dy).sum()
    assert abs(slope - sum(t.sum() for t in terms)) < 1e-6 * size


def promise_complex(case):
    """forward is analytic: the conjugate of x gives the conjugate of y, and x + 0i gives y (rounded)."""
    layer, x, y, _, _ = case.forward()
    wide = cast(copy.deepcopy(layer), np.complex128)
    z = x + 1e-3j * random_like(x, case.seed + 1)
    up = wide.forward(z, case.mode(keep=False))[0]
    down = wide.forward(z.conj(), case.mode(keep=False))[0]
    assert np.abs(up - down.conj()).max() <= 1e-12 * np.abs(up).max()
    flat = wide.forward(x.astype(np.complex128), case.mode(keep=False))[0]
    assert flat.dtype == np.complex128
    assert np.abs(flat - y).max() <= 1e-12 * max(1, np.abs(y).max())
    assert not flat.imag.any()


def promise_adjoint(case):
    """<A u, v> = <u, A* v> for y = A x + b, and the same for every weight that y is linear in."""
    layer, x, _, _, _ = case.forward()
    at_zero = layer.forward(np.zeros_like(x), case.mode())[0]
    y, _ = layer.forward(x, case.mode())
    dy = case.dy(y)
    got = gradients(layer, x, dy, case.train, case.seed)
    Ax = y - at_zero
    size = np.abs(y * dy).sum() + np.abs(at_zero * dy).sum()
    assert abs(dot(Ax, dy) - dot(x, got["x"])) <= 1e-13 * size
    params = named_params(layer)
    if "weight" in params:
        assert abs(dot(Ax, dy) - dot(params["weight"].data, got["weight"])) <= 1e-13 * size


def promise_linear(case):
    """A (2 u - 3 v) = 2 A u - 3 A v."""
    layer, u = case.layer(), case.x()
    v = random_like(u, case.seed + 1)
    zero, Au, Av, both = (layer.forward(x, case.mode())[0] for x in (0 * u, u, v, 2 * u - 3 * v))
    assert error(both - zero, 2 * (Au - zero) - 3 * (Av - zero)) < 1e-12


def promise_nothing_modified(case):
    """forward leaves x, parameters and running averages as they are; backward leaves x, dy and parameters."""
    layer, x = case.layer(), case.x()
    before = snapshot(layer, x)
    y, cache = layer.forward(x, case.mode())
    assert snapshot(layer, x) == before
    dy = case.dy(y)
    arrays_before = [x.tobytes(), dy.tobytes()] + [p.data.tobytes() for p in named_params(layer).values()]
    layer.backward(dy, x, cache)
    arrays_after = [x.tobytes(), dy.tobytes()] + [p.data.tobytes() for p in named_params(layer).values()]
    assert arrays_after == arrays_before


def promise_any_memory(case):
    """x and dy may lie in memory in any way: steps, reversed, another order of axes."""
    layer, x, y, _, dy = case.forward()
    wanted = gradients(layer, x, dy, case.train, case.seed)
    for odd in (strided, np.asfortranarray, lambda a: a[::-1].copy()[::-1]):
        y2, _ = layer.forward(odd(x), case.mode())
        assert error(y2, y) < 1e-12
        got = gradients(layer, odd(x), odd(dy), case.train, case.seed)
        for name in wanted:
            assert np.abs(got[name] - wanted[name]).max() <= 1e-12 * max(1, np.abs(wanted[name]).max())


def promise_same_bits(case):
    """Two runs from the same state give the same bits in y, dx and every gradient and running average."""
    runs = []
    for _ in range(2):
        layer, x, y, cache, dy = case.forward()
        dx = layer.backward(dy, x, cache)
        runs.append(snapshot(layer, y, dx))
    assert runs[0] == runs[1]


def promise_accumulates(case):
    """Gradients are added to what is there: two backward passes give twice one."""
    layer, x, _, cache, dy = case.forward()
    layer.backward(dy, x, cache)
    once = {name: p.grad.copy() for name, p in named_params(layer).items()}
    _, cache = layer.forward(x, case.mode())
    layer.backward(dy, x, cache)
    for name, p in named_params(layer).items():
        assert error(p.grad, 2 * once[name]) < 1e-12, name


def promise_out(case):
    """forward(out=) writes the same bits there, as a channel slice of a wider array too, and returns it."""
    layer, x, y, _, dy = case.forward()
    wide = np.full((*y.shape[:-1], y.shape[-1] + 3), np.nan)
    out = wide[..., 2:-1]
    got, cache = layer.forward(x, case.mode(), out=out)
    assert got is out
    assert np.array_equal(out, y)
    assert np.isnan(wide[..., :2]).all() and np.isnan(wide[..., -1]).all()
    dx = layer.backward(dy, x, cache)
    assert np.array_equal(dx, gradients(layer, x, dy, case.train, case.seed)["x"])


def promise_into(case):
    """backward(into=) adds dx to what is there; need_dx=False returns nothing; both add the parameters' gradients."""
    layer, x, _, _, dy = case.forward()
    wanted = gradients(layer, x, dy, case.train, case.seed)
    start = random_like(x, case.seed + 1)
    for into in (start.copy(), strided(start), None):
        twin = copy.deepcopy(layer)
        _, cache = twin.forward(x, case.mode())
        got = twin.backward(dy, x, cache, into=into, need_dx=into is not None)
        if into is None:
            assert got is None
        else:
            assert got is into
            assert np.abs(into - (start + wanted["x"])).max() <= 1e-13 * (1 + np.abs(wanted["x"]).max())
        for name, p in named_params(twin).items():
            assert np.array_equal(p.grad, wanted[name]), name


def promise_recompute_output(case):
    """Where a layer can give y back from its cache, it gives the same y, also into an array that is handed in."""
    layer, _, y, cache, _ = case.forward()
    assert layer.recompute_output is not None
    assert error(layer.recompute_output(cache), y) < 1e-13
    out = np.full((*y.shape[:-1], y.shape[-1] + 2), np.nan)[..., 1:-1]
    assert layer.recompute_output(cache, out) is out
    assert error(out, y) < 1e-13


def promise_without_x(case):
    """A layer that says it does not read x gives the same dx where nobody kept x for it."""
    layer, x, _, cache, dy = case.forward()
    if not layer.reads_x:
        dx = layer.backward(dy, x, cache)
        layer, _, _, cache, _ = case.forward()
        assert np.array_equal(layer.backward(dy, None, cache), dx)


def promise_shape(case):
    """out_shape says the shape of y without computing."""
    layer, x, y, _, _ = case.forward()
    assert tuple(layer.out_shape(x.shape)) == y.shape


def promise_dtype(case):
    """y, dx and every gradient have the dtype of x and the weights: float32 stays float32 in every array."""
    for dtype in (np.float32, np.float64):
        layer, x, y, cache, dy = case.forward(dtype)
        dx = layer.backward(dy, x, cache)
        assert {a.dtype for a in (x, y, dy, dx)} == {np.dtype(dtype)}
        for p in named_params(layer).values():
            assert p.data.dtype == p.grad.dtype == dtype
        for b in named_buffers(layer).values():
            assert b.data.dtype == dtype


def promise_images_apart(case):
    """Without batch statistics images do not meet: a batch gives what its images give one by one."""
    layer, x = case.layer(), case.x()
    y, cache = layer.forward(x, Mode(keep=True))
    dy = case.dy(y)
    dx = layer.backward(dy, x, cache)
    total = {name: p.grad.copy() for name, p in named_params(layer).items()}
    for p in named_params(layer).values():
        p.grad[...] = 0
    for n in range(len(x)):
        one, cache = layer.forward(x[n : n + 1], Mode(keep=True))
        assert error(one, y[n : n + 1]) < 1e-12
        assert error(layer.backward(dy[n : n + 1], x[n : n + 1], cache), dx[n : n + 1]) < 1e-12
    for name, p in named_params(layer).items():
        assert np.abs(p.grad - total[name]).max() <= 1e-12 * max(1, np.abs(total[name]).max())


# -- over random cases of every layer ------------------------------------------------------------------------------


@every_layer
@given(data=st.data())
def test_gradients_equal_the_complex_step(name, data):
    promise_gradients(data.draw(LAYERS[name]))


@pytest.mark.parametrize("name", SMOOTH)
@given(data=st.data())
def test_gradients_equal_central_differences(name, data):
    promise_central_differences(data.draw(LAYERS[name]))


@every_layer
@given(data=st.data())
def test_forward_is_analytic(name, data):
    promise_complex(data.draw(LAYERS[name]))


# ReLU and max pooling are linear too, once it is settled who wins: y = A(x) x.
@pytest.mark.parametrize("name", [*LINEAR, "ReLU", "MaxPool2D"])
@given(data=st.data())
def test_backward_is_the_adjoint_of_a_linear_forward(name, data):
    case = data.draw(LAYERS[name])
    promise_adjoint(case)
    if name in LINEAR:
        promise_linear(case)


@every_layer
@given(data=st.data())
def test_x_dy_and_parameters_are_never_modified(name, data):
    promise_nothing_modified(data.draw(LAYERS[name]))


@every_layer
@given(data=st.data())
def test_arrays_need_not_be_contiguous(name, data):
    promise_any_memory(data.draw(LAYERS[name]))


@every_layer
@given(data=st.data())
def test_two_runs_give_the_same_bits(name, data):
    promise_same_bits(data.draw(LAYERS[name]))


@every_layer
@given(data=st.data())
def test_out_and_into_equal_the_plain_call(name, data):
    case = data.draw(LAYERS[name])
    if not case.layer().takes_out:
        assert name == "AdaptiveAvgPool2D"  # the one layer that leaves it to the combinators
        return
    promise_out(case)
    promise_into(case)


@pytest.mark.parametrize("name", ["ReLU", "ELU", "ConvReLU", "ConvBNReLU"])
@given(data=st.data())
def test_output_gives_y_back(name, data):
    promise_recompute_output(data.draw(LAYERS[name]))


@every_layer
@given(data=st.data())
def test_shape_and_dtype_follow_x_and_gradients_accumulate(name, data):
    case = data.draw(LAYERS[name])
    promise_shape(case)
    promise_without_x(case)
    promise_dtype(case)
    promise_accumulates(case)


@every_layer
@given(data=st.data())
def test_in_inference_images_do_not_meet(name, data):
    promise_images_apart(data.draw(LAYERS[name]))


# -- the layers against the loops of reference/: how each turns its options into numbers --------------------------


def resolved(layer, window, plane, dilation=(1, 1)):
    """A layer's pads in numbers, worked out by the reference."""
    if layer.pad == "valid":
        return (0, 0), (0, 0)
    if layer.pad == "same":
        how = zip(plane, window, layer.stride, dilation, strict=True)
        return tuple(reference.windows.same_pads(*axis) for axis in how)
    return layer.pad


@given(LAYERS["Conv2D"])
def test_conv2d_is_the_definition(case):
    layer, x, y, _, _ = case.forward()
    pads = resolved(layer, layer.kernel, x.shape[1:3], layer.dilation)
    bias = layer.bias and layer.bias.data
    how = layer.stride, pads, layer.dilation, layer.groups
    assert error(y, reference.conv.conv2d(x, layer.weight.data, bias, *how)) < 1e-12
    *_, F = layer.weight.data.shape
    assert layer.macs(x.shape) == y.shape[1] * y.shape[2] * F * layer.weight.data[..., 0].size


@given(LAYERS["DepthwiseConv2D"])
def test_depthwise_conv2d_is_the_definition(case):
    layer, x, y, _, _ = case.forward()
    pads = resolved(layer, layer.kernel, x.shape[1:3], layer.dilation)
    bias = layer.bias and layer.bias.data
    wanted = reference.conv.depthwise2d(x, layer.weight.data, bias, layer.stride, pads, layer.dilation)
    assert error(y, wanted) < 1e-12
    assert layer.macs(x.shape) == y.shape[1] * y.shape[2] * layer.weight.data.size


@given(LAYERS["MaxPool2D"])
def test_max_pool_is_the_definition(case):
    layer, x, y, _, _ = case.forward()
    pads = resolved(layer, layer.size, x.shape[1:3])
    out = reference.conv.out_plane(x.shape[1:3], layer.size, layer.stride, pads, ceil=layer.ceil)
    assert np.array_equal(y, reference.pool.max_pool(x, layer.size, layer.stride, pads, out)[0])


@given(LAYERS["AvgPool2D"])
def test_avg_pool_is_the_definition(case):
    layer, x, y, _, _ = case.forward()
    pads = resolved(layer, layer.size, x.shape[1:3])
    out = reference.conv.out_plane(x.shape[1:3], layer.size, layer.stride, pads, ceil=layer.ceil)
    how = layer.size, layer.stride, pads, out, layer.count_include_pad
    assert error(y, reference.pool.avg_pool(x, *how)) < 1e-12


@given(LAYERS["AdaptiveAvgPool2D"])
def test_adaptive_avg_pool_is_the_definition(case):
    layer, x, y, cache, dy = case.forward()
    assert error(y, reference.pool.adaptive_avg_pool(x, layer.size)) < 1e-13
    assert error(layer.backward(dy, x, cache), reference.pool.adaptive_avg_pool_dx(dy, x.shape)) < 1e-13


@given(LAYERS["LRN"])
def test_lrn_is_the_definition_with_alpha_over_the_size_or_not(case):
    layer, x, y, _, _ = case.forward()
    alpha = layer.alpha / layer.size if layer.divide_by_size else layer.alpha
    assert error(y, reference.norm.lrn(x, layer.size, alpha, layer.beta, layer.k)) < 1e-12


@given(LAYERS["BatchNorm"])
def test_batch_norm_is_the_definition_and_its_averages_move_in_backward(case):
    layer, x, y, cache, dy = case.forward()
    mean, var = reference.norm.moments(x) if case.train else (layer.mean.data, layer.var.data)
    gamma = layer.gamma and layer.gamma.data
    wanted = reference.norm.batch_norm(x, mean, var, gamma, layer.beta.data, layer.eps)
    assert error(y, wanted) < 1e-11
    before = layer.mean.data.copy(), layer.var.data.copy()
    layer.backward(dy, x, cache)
    if case.train:
        before = [reference.norm.running(a, b, layer.decay) for a, b in zip(before, (mean, var), strict=True)]
    assert error(layer.mean.data, before[0]) < 1e-12
    assert error(layer.var.data, before[1]) < 1e-12


@given(LAYERS["Dropout"])
def test_dropout_keeps_or_drops_by_the_generator_alone(case):
    layer, x, y, _, _ = case.forward()
    if not case.train:
        assert np.array_equal(y, x)
        return
    assert error(y, reference.pointwise.dropout(x, y != 0, layer.rate)) < 1e-15
    assert np.array_equal(layer.forward(2 * x, case.mode())[0], 2 * y)  # the same state, the same mask


def test_dropout_drops_the_rate_and_keeps_the_mean():
    x = np.ones((40, 25, 10, 10), np.float32)
    for rate in (0.4, 0.7):
        y, _ = Dropout(rate).forward(x, Mode(train=True, rng=np.random.default_rng(0)))
        assert abs((y == 0).mean() - rate) < 4 * (rate * (1 - rate) / x.size) ** 0.5
        assert abs(y.mean() - 1) < 0.02
        y2, _ = Dropout(rate).forward(x, Mode(train=True, rng=np.random.default_rng(1)))
        assert not np.array_equal(y, y2)


@given(LAYERS["Linear"])
def test_linear_is_the_definition(case):
    layer, x, y, _, _ = case.forward()
    bias = layer.bias and layer.bias.data
    assert error(y, reference.pointwise.linear(x, layer.weight.data, bias)) < 1e-12
    assert layer.macs(x.shape) == layer.weight.data.size


@given(LAYERS["Scale"])
def test_scale_is_the_definition(case):
    layer, x, y, cache, dy = case.forward()
    assert error(y, layer.scale * x) < 1e-12
    assert error(layer.backward(dy, x, cache), layer.scale * dy) < 1e-12


@given(LAYERS["PatchWhitening"])
def test_patch_whitening_is_a_convolution_whose_filters_stay(case):
    layer, x, y, cache, dy = case.forward()
    filters, how = layer.weight.data.copy(), ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    before = layer.bias.grad.copy()
    assert error(y, reference.conv.conv2d(x, filters, layer.bias.data, *how)) < 1e-12
    assert error(layer.backward(dy, x, cache), reference.conv.conv2d_dx(dy, filters, x.shape, *how)) < 1e-12
    assert error(layer.bias.grad - before, reference.conv.conv2d_dbias(dy)) < 1e-12
    assert list(named_params(layer)) == ["bias"]
    np.testing.assert_array_equal(layer.weight.data, filters)


@given(LAYERS["ELU"])
def test_elu_is_the_definition(case):
    layer, x, y, cache, dy = case.forward()
    assert error(y, reference.pointwise.elu(x)) < 1e-12
    assert error(layer.backward(dy, x, cache), reference.pointwise.elu_dx(dy, x)) < 1e-12


@given(LAYERS["Flatten"])
def test_flatten_is_the_definition(case):
    _, x, y, _, _ = case.forward()
    assert np.array_equal(y, reference.pointwise.flatten(x))


# -- fused units equal the layers they are made of -----------------------------------------------------------------


def through(layers, x, dy, mode):
    """y, dx of layers one after the other, by hand."""
    kept = []
    for layer in layers:
        y, cache = layer.forward(x, mode)
        kept.append((x, cache))
        x = y
    for layer in reversed(layers):
        dy = layer.backward(dy, *kept.pop())
    return y, dy


@given(LAYERS["ConvBNReLU"])
def test_conv_bn_relu_is_its_three_layers(case):
    layer, x, y, cache, dy = case.forward()
    parts = copy.deepcopy(layer)
    wanted_y, wanted_dx = through([parts.conv, parts.bn, ReLU()], x, dy, case.mode())
    assert error(y, wanted_y) < 1e-13
    assert error(layer.backward(dy, x, cache), wanted_dx) < 1e-12
    for name, p in named_params(layer).items():
        assert error(p.grad, named_params(parts)[name].grad) < 1e-12, name
    for name, b in named_buffers(layer).items():
        assert error(b.data, named_buffers(parts)[name].data) < 1e-13, name


@given(LAYERS["ConvReLU"])
def test_conv_relu_is_its_two_layers(case):
    layer, x, y, cache, dy = case.forward()
    conv = Conv2D(layer.in_channels, layer.out_channels, layer.kernel, stride=layer.stride, pad=layer.pad)
    conv.weight, conv.bias = copy.deepcopy(layer.weight), copy.deepcopy(layer.bias)
    wanted_y, wanted_dx = through([conv, ReLU()], x, dy, case.mode())
    assert error(y, wanted_y) < 1e-13
    assert error(layer.backward(dy, x, cache), wanted_dx) < 1e-12
    assert error(layer.weight.grad, conv.weight.grad) < 1e-12
    assert error(layer.bias.grad, conv.bias.grad) < 1e-12


@given(LAYERS["SeparableConv2D"])
def test_separable_conv2d_is_its_layers(case):
    layer, x, y, cache, dy = case.forward()
    parts = copy.deepcopy(layer)
    wanted_y, wanted_dx = through(list(parts.children().values()), x, dy, case.mode())
    assert error(y, wanted_y) < 1e-13
    assert error(layer.backward(dy, x, cache), wanted_dx) < 1e-12
    assert case.layer().macs(x.shape) == sum(
        (y.shape[1] * y.shape[2] * p.data.size) for name, p in named_params(layer).items() if "weight" in name
    )


# -- exact cases: zeros and ties ----------------------------------------------------------------------------------


def test_relu_at_zero():
    x = np.array([-1.0, -0.0, 0.0, 5e-324, 2.0])
    dy = np.array([3.0, 5.0, 7.0, 11.0, 13.0])
    y, cache = ReLU().forward(x, Mode(keep=True))
    assert y.tolist() == [0, 0, 0, 5e-324, 2]
    assert ReLU().backward(dy, x, cache).tolist() == [0, 0, 0, 11, 13]


def test_conv_relu_at_zero():
    layer = cast(ConvReLU(1, 1, 1), np.float64)
    layer.weight.data[...], layer.bias.data[...] = 1, -1
    x = np.array([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1)  # z = -1, 0, 1
    y, cache = layer.forward(x, Mode(keep=True))
    assert y.ravel().tolist() == [0, 0, 1]
    assert layer.backward(np.full(x.shape, 5.0), x, cache).ravel().tolist() == [0, 0, 5]
    assert (layer.bias.grad.item(), layer.weight.grad.item()) == (5, 10)


def test_max_pool_ties_go_to_the_first_in_row_major_order():
    x = np.array([[1.0, 4.0, 4.0], [4.0, 4.0, 0.0]]).reshape(1, 2, 3, 1)
    layer = MaxPool2D(2, stride=1)
    y, cache = layer.forward(x, Mode(keep=True))
    assert y.ravel().tolist() == [4, 4]
    dx = layer.backward(np.array([2.0, 3.0]).reshape(y.shape), x, cache)
    assert dx.ravel().tolist() == [0, 5, 0, 0, 0, 0]  # (0, 1) wins both windows and gets the sum


def test_max_pool_of_constants_gives_each_window_one_winner():
    x = np.zeros((2, 5, 4, 3))
    layer = MaxPool2D(3, stride=2, pad=1)
    y, cache = layer.forward(x, Mode(keep=True))
    dy = random_like(y, 0)
    dx = layer.backward(dy, x, cache)
    assert np.isclose(dx.sum(), dy.sum(), rtol=1e-14)
    assert (dx != 0).sum() == dy.size  # no two windows share their first pixel here


def test_padding_never_wins_a_maximum():
    x = np.full((1, 2, 3, 1), -7.0)
    for layer in (MaxPool2D(3, stride=1, pad=1), MaxPool2D(3, stride=2, pad="same"), MaxPool2D(2, ceil=True)):
        y, cache = layer.forward(x, Mode(keep=True))
        assert (y == -7).all()
        assert layer.backward(np.ones(y.shape), x, cache).sum() == y.size


def test_average_pool_divisors():
    x = np.full((1, 2, 3, 1), 36.0)
    without, _ = AvgPool2D(3, stride=1, pad=1).forward(x, Mode())
    with_pad, _ = AvgPool2D(3, stride=1, pad=1, count_include_pad=True).forward(x, Mode())
    assert (without == 36).all()
    assert with_pad.ravel().tolist() == [16, 24, 16, 16, 24, 16]
    hanging, _ = AvgPool2D(2, ceil=True, count_include_pad=True).forward(x, Mode())
    assert hanging.ravel().tolist() == [36, 36]  # what hangs over the end is counted by neither


# -- batch norm's own identities -----------------------------------------------------------------------------------


@given(shapes(), seeds, flags)
def test_batch_norm_gradient_has_no_part_that_y_cannot_see(shape, seed, scale):
    """y does not change when x is shifted or (up to eps) scaled, so dx has nothing along 1 nor along xhat."""
    shape = (shape[0] + 1, *shape[1:])
    layer = randomise(cast(BatchNorm(shape[3], scale=scale, eps=1e-12), np.float64), seed)
    x = np.random.default_rng([seed, 6]).standard_normal(shape)
    y, cache = layer.forward(x, Mode(train=True, keep=True))
    dy = random_like(y, seed)
    dx = layer.backward(dy, x, cache)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    xhat = (x - mean) / np.sqrt(var)
    size = np.abs(dy).sum() * max(1, (var**-0.5).max()) * (1 if not scale else np.abs(layer.gamma.data).max())
    assert np.abs(dx.sum((0, 1, 2))).max() < 1e-12 * size
    assert np.abs((dx * xhat).sum((0, 1, 2))).max() < 1e-12 * size + 1e-11 * size * (var**-1).max()
    shifted, _ = layer.forward(x + 3, Mode(train=True))
    assert np.abs(shifted - y).max() < 1e-12 * max(1, np.abs(y).max()) * max(1, (var**-0.5).max())


def test_the_decay_of_batch_norm_may_be_assigned():
    """To the layer alone, not to its copies; and where the running averages go when they are cast."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 2, 3, 4, 5))

    def moved(layer):
        before = layer.mean.data.copy()
        _, cache = layer.forward(x, Mode(train=True, keep=True))
        layer.backward(dy, x, cache)
        return (layer.mean.data - before) / (x.mean((0, 1, 2)) - before)

    layer = cast(BatchNorm(5, decay=0.9), np.float64)
    np.testing.assert_allclose(moved(layer), 0.1)
    other = copy.deepcopy(layer)
    layer.decay = 0.5
    assert (layer.decay, other.decay) == (0.5, 0.9)
    np.testing.assert_allclose(moved(layer), 0.5)
    np.testing.assert_allclose(moved(other), 0.1)
    with pytest.raises(TypeError, match=r"^BatchNorm: got decay='0\.9', wanted a number$"):
        layer.decay = "0.9"
    assert layer.decay == 0.5


def test_batch_norm_couples_the_images_in_training_only():
    layer = randomise(cast(BatchNorm(2), np.float64), 0)
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 2))
    for train, coupled in ((True, True), (False, False)):
        _, cache = layer.forward(x, Mode(train=train, keep=True))
        dy = np.zeros(x.shape)
        dy[0] = np.random.default_rng(1).standard_normal(x.shape[1:])
        assert layer.backward(dy, x, cache)[1:].any() == coupled


def test_a_bias_before_batch_norm_gets_no_gradient():
    """The mean takes it away. Rounding leaves 1e-16 of the terms that cancel."""
    conv = randomise(cast(Conv2D(2, 3, (2, 3)), np.float64), 0)
    bn = randomise(cast(BatchNorm(3), np.float64), 1)
    x = np.random.default_rng(2).standard_normal((2, 5, 4, 2))
    through([conv, bn], x, random_like(np.empty((2, 5, 4, 3)), 3), Mode(train=True, keep=True))
    assert np.abs(conv.bias.grad).max() < 1e-14 * np.abs(conv.weight.grad).max() * 100


@pytest.mark.parametrize("name", ["BatchNorm", "LRN", "ConvBNReLU"])
@given(data=st.data())
def test_second_derivatives_are_symmetric(name, data):
    """u.Hv = v.Hu, with Hv the complex step through the backward pass: a backward that is no gradient fails."""
    case = data.draw(LAYERS.get(name))
    layer, x = cast(case.layer(), np.complex128), case.x()
    y, _ = layer.forward(x.astype(np.complex128), case.mode())
    dy, u, v = random_like(y, 1).astype(np.complex128), random_like(x, 2), random_like(x, 3)

    def times_hessian(v):
        z = x + 1j * H * v
        twin = copy.deepcopy(layer)
        return twin.backward(dy, z, twin.forward(z, case.mode())[1]).imag / H

    left, right = u * times_hessian(v), v * times_hessian(u)
    assert abs(left.sum() - right.sum()) < 1e-11 * (np.abs(left).sum() + np.abs(right).sum() + 1e-3)


# -- every promise is seen to be broken ---------------------------------------------------------------------------


class Spoiled(Layer):
    """A right layer, to be spoiled in one place."""

    takes_out = True

    def __init__(self, layer):
        self.layer = layer

    def recompute_output(self, cache, out=None):
        return self.layer.recompute_output(cache, out)

    def forward(self, x, mode, out=None):
        return self.layer.forward(x, mode, out=out)

    def backward(self, dy, x, cache, into=None, need_dx=True):
        return self.layer.backward(dy, x, cache, into=into, need_dx=need_dx)

    def out_shape(self, shape):
        return self.layer.out_shape(shape)


class DxTooLarge(Spoiled):
    def backward(self, dy, x, cache, into=None, need_dx=True):
        return self.layer.backward(dy, x, cache) * 1.0001


class WeightGradientOffInOneEntry(Spoiled):
    def backward(self, dy, x, cache, into=None, need_dx=True):
        dx = self.layer.backward(dy, x, cache)
        self.layer.weight.grad.flat[-1] *= 1 + 1e-9
        return dx


class ForgetsThatTheVarianceMoves(Spoiled):
    def backward(self, dy, x, cache, into=None, need_dx=True):
        return self.layer.backward(dy, x, (*cache[:3], False))


class TakesTheModulus(Spoiled):
    """Right for real numbers, and blind to the complex step."""

    def forward(self, x, mode, out=None):
        y, cache = self.layer.forward(x, mode)
        return np.abs(y) * np.sign(y.real), cache


class AddsItsSquare(Spoiled):
    def forward(self, x, mode, out=None):
        y, cache = self.layer.forward(x, mode)
        return y + 1e-6 * y * y, cache


class WritesToX(Spoiled):
    def forward(self, x, mode, out=None):
        x += 1e-9
        return self.layer.forward(x, mode)


class WritesToDy(Spoiled):
    def backward(self, dy, x, cache, into=None, need_dx=True):
        dy *= 2
        return self.layer.backward(dy, x, cache)


class LearnsInForward(Spoiled):
    def forward(self, x, mode, out=None):
        self.layer.mean.data += 0.01 * (x.mean((0, 1, 2)) - self.layer.mean.data)
        return self.layer.forward(x, mode)


class ReadsMemoryInOrder(Spoiled):
    """Takes the numbers as they lie in memory, whatever the strides say."""

    def forward(self, x, mode, out=None):
        base = x if x.base is None else x.base
        return self.layer.forward(base.ravel("K")[: x.size].reshape(x.shape), mode)


class DiffersFromRunToRun(Spoiled):
    def forward(self, x, mode, out=None):
        y, cache = self.layer.forward(x, mode)
        return y * (1 + 1e-15 * np.random.default_rng().standard_normal(y.shape)), cache


class AssignsGradients(Spoiled):
    def backward(self, dy, x, cache, into=None, need_dx=True):
        for p in named_params(self.layer).values():
            p.grad[...] = 0
        return self.layer.backward(dy, x, cache)


class IgnoresOut(Spoiled):
    def forward(self, x, mode, out=None):
        y, cache = self.layer.forward(x, mode)
        return (y if out is None else out), cache


class OverwritesInto(Spoiled):
    def backward(self, dy, x, cache, into=None, need_dx=True):
        dx = self.layer.backward(dy, x, cache)
        if into is None:
            return dx if need_dx else None
        into[...] = dx
        return into


class GivesBackTheWrongOutput(Spoiled):
    def recompute_output(self, cache, out=None):
        y = self.layer.recompute_output(cache) - 1e-9
        if out is not None:
            out[...] = y
        return y if out is None else out


class PeeksAtX(Spoiled):
    reads_x = False

    def backward(self, dy, x, cache, into=None, need_dx=True):
        dx = self.layer.backward(dy, x, cache)
        return dx if x is None else dx * (1 + 1e-9 * (x > 1))


class SaysTheWrongShape(Spoiled):
    def out_shape(self, shape):
        n, h, w, c = self.layer.out_shape(shape)
        return n, w, h, c


class Promotes(Spoiled):
    """Multiplies by a NumPy scalar of double precision, which widens float32 arrays."""

    def forward(self, x, mode, out=None):
        y, cache = self.layer.forward(x, mode)
        return y * np.float64(1), cache


class UsesTheBatchAlways(Spoiled):
    def forward(self, x, mode, out=None):
        return self.layer.forward(x, Mode(train=True, keep=True, rng=mode.rng))


@dataclass(frozen=True)
class SpoiledCase(Case):
    how: type = Spoiled

    def layer(self, dtype=np.float64):
        return self.how(super().layer(dtype))


CONV = "Conv2D(2, 3, (2, 3), stride=(2, 1), pad=((0, 1), (2, 1)), rng=rng)"
BN = "BatchNorm(2)"

SPOILED = [
    (promise_gradients, CONV, DxTooLarge),
    (promise_gradients, CONV, WeightGradientOffInOneEntry),
    (promise_gradients, BN, ForgetsThatTheVarianceMoves),
    (promise_central_differences, BN, ForgetsThatTheVarianceMoves),
    (promise_central_differences, CONV, DxTooLarge),
    (promise_complex, CONV, TakesTheModulus),
    (promise_adjoint, CONV, DxTooLarge),
    (promise_linear, CONV, AddsItsSquare),
    (promise_nothing_modified, CONV, WritesToX),
    (promise_nothing_modified, CONV, WritesToDy),
    (promise_nothing_modified, BN, LearnsInForward),
    (promise_any_memory, CONV, ReadsMemoryInOrder),
    (promise_same_bits, CONV, DiffersFromRunToRun),
    (promise_accumulates, CONV, AssignsGradients),
    (promise_out, CONV, IgnoresOut),
    (promise_into, CONV, OverwritesInto),
    (promise_recompute_output, "ReLU()", GivesBackTheWrongOutput),
    (promise_without_x, "ReLU()", PeeksAtX),
    (promise_shape, CONV, SaysTheWrongShape),
    (promise_dtype, "LRN(3)", Promotes),
    (promise_images_apart, BN, UsesTheBatchAlways),
]


@pytest.mark.parametrize("promise, text, how", SPOILED, ids=lambda v: getattr(v, "__name__", ""))
def test_spoiled_layers_are_caught(promise, text, how):
    promise(Case(text, (2, 5, 4, 2), seed=3))
    promise(SpoiledCase(text, (2, 5, 4, 2), seed=3))  # a wrapper alone breaks nothing
    with pytest.raises(AssertionError):
        promise(SpoiledCase(text, (2, 5, 4, 2), seed=3, how=how))


# The tests above that are not promises of a case fail too, when a kernel or a layer's arithmetic is replaced.


def around(how):
    """A fault that is made out of the right function: how(right, *args, **kwargs)."""
    return lambda right: lambda *args, **kwargs: how(right, *args, **kwargs)


def odd_pixel_first(right, *args, **kwargs):
    pads, out_hw = right(*args, **kwargs)
    return tuple(ends[::-1] for ends in pads), out_hw


def last_of_equals(right, x, *args, **kwargs):
    y, _ = right(x, *args, **kwargs)
    return y, right(x + 1e-9 * np.arange(x.size).reshape(x.shape), *args)[1]


def no_variance(right, *args, train, **kwargs):
    return right(*args, train=False, **kwargs)


def slope_one(right, dy, y, into=None):
    return right(dy, y + 1e-300, into=into)


def unbiased(right, x):
    mean, var = right(x)
    return mean, var * x[..., 0].size / (x[..., 0].size - 1)


def channels_first(right, layer, x, mode, out=None):
    return right(layer, x.transpose(0, 3, 1, 2), mode)[0], x.shape


def without_neighbours(right, dy, x, size, alpha, beta, k, into=None):
    return dy * (k + alpha * channel_window_sum(x * x, size)) ** -beta


AT = "inception_np.layers."
SHAPE = (2, 5, 4, 2)
SAME = "pad='same', stride=(2, 1)"
REPLACED = [
    (test_conv2d_is_the_definition, f"Conv2D(2, 3, (3, 2), {SAME})", AT + "conv.sliding", odd_pixel_first),
    (
        test_depthwise_conv2d_is_the_definition,
        f"DepthwiseConv2D(2, (3, 2), {SAME})",
        AT + "depthwise.sliding",
        odd_pixel_first,
    ),
    (test_max_pool_is_the_definition, f"MaxPool2D((3, 2), {SAME})", AT + "pool.sliding", odd_pixel_first),
    (test_avg_pool_is_the_definition, f"AvgPool2D((3, 2), {SAME})", AT + "pool.sliding", odd_pixel_first),
    (
        test_max_pool_is_the_definition,
        "MaxPool2D(2, ceil=True)",
        AT + "pool._Pool2D._geometry",
        lambda right, layer, shape: right(MaxPool2D(layer.size, stride=layer.stride), shape),
    ),
    (
        test_adaptive_avg_pool_is_the_definition,
        "AdaptiveAvgPool2D((3, 3))",
        AT + "pool.AdaptiveAvgPool2D.backward",
        lambda right, *args: right(*args) * 1.001,
    ),
    (
        test_lrn_is_the_definition_with_alpha_over_the_size_or_not,
        "LRN(3, alpha=0.5)",
        AT + "lrn.LRN._constants",
        lambda right, layer: (layer.size, layer.alpha, layer.beta, layer.k),
    ),
    (
        test_batch_norm_is_the_definition_and_its_averages_move_in_backward,
        BN,
        "inception_np.kernels.batchnorm.moments",
        unbiased,
    ),
    (
        test_dropout_keeps_or_drops_by_the_generator_alone,
        "Dropout(0.5)",
        "inception_np.kernels.philox.uniform",
        lambda right, like, rng, shape: right(like, np.random.default_rng(), shape),
    ),
    (
        test_linear_is_the_definition,
        "Linear(4, 3)",
        AT + "linear.linear",
        lambda right, x, w, b, **kwargs: right(x, w, None, **kwargs),
    ),
    (test_scale_is_the_definition, "Scale(0.5)", AT + "linear.Scale.backward", lambda right, self, dy, x, cache: dy),
    (
        test_patch_whitening_is_a_convolution_whose_filters_stay,
        "PatchWhitening(2, 2, rng=rng)",
        AT + "conv.sum_rows",
        lambda right, dy, grad: None,
    ),
    (test_elu_is_the_definition, "ELU()", AT + "activation.ELU.backward", lambda right, self, dy, x, y: dy * (y > 0)),
    (test_flatten_is_the_definition, "Flatten()", AT + "pool.Flatten.forward", channels_first),
    (
        test_conv_bn_relu_is_its_three_layers,
        "ConvBNReLU(2, 3, 2, rng=rng)",
        "inception_np.kernels.batchnorm.batch_norm_grad",
        lambda right, *args, relu, **kwargs: right(*args, relu=False, **kwargs),
    ),
    (
        test_conv_relu_is_its_two_layers,
        "ConvReLU(2, 3, 2, rng=rng)",
        AT + "conv.conv2d",
        lambda right, *args, relu=False, **kwargs: right(*args, **kwargs),
    ),
    (
        test_separable_conv2d_is_its_layers,
        "SeparableConv2D(2, 3, 2, rng=rng)",
        AT + "depthwise.SeparableConv2D.backward",
        lambda right, *args: right(*args) * 1.001,
    ),
    (test_relu_at_zero, None, AT + "activation.relu_dx", slope_one),
    (test_conv_relu_at_zero, None, AT + "conv.relu_dx", slope_one),
    (test_max_pool_ties_go_to_the_first_in_row_major_order, None, AT + "pool.max_pool", last_of_equals),
    (
        test_max_pool_of_constants_gives_each_window_one_winner,
        None,
        AT + "pool.max_pool_dx",
        lambda right, dy, winners, *args, into=None: right(dy, winners, *args) + right(dy, winners + 1, *args),
    ),
    (
        test_padding_never_wins_a_maximum,
        None,
        "inception_np.kernels.pool.pad_images",
        lambda right, x, pads, value=0.0: right(x, pads),
    ),
    (
        test_average_pool_divisors,
        None,
        AT + "pool.avg_pool",
        lambda right, *args, **kwargs: right(*args[:-1], not args[-1], **kwargs),
    ),
    (
        test_dropout_drops_the_rate_and_keeps_the_mean,
        None,
        "inception_np.kernels.philox.uniform",
        lambda right, *args: right(*args) ** 1.1,
    ),
    (
        test_batch_norm_couples_the_images_in_training_only,
        None,
        "inception_np.kernels.batchnorm.batch_norm_grad",
        no_variance,
    ),
    (
        test_a_bias_before_batch_norm_gets_no_gradient,
        None,
        "inception_np.kernels.batchnorm.batch_norm_grad",
        no_variance,
    ),
]


@pytest.mark.parametrize("test, text, place, fault", REPLACED, ids=[row[0].__name__[5:] for row in REPLACED])
def test_replaced_arithmetic_is_caught(test, text, place, fault, monkeypatch):
    def run():
        shape = (2, 4) if text == "Linear(4, 3)" else SHAPE
        test() if text is None else test.hypothesis.inner_test(Case(text, shape, seed=3))

    run()
    *owner, name = place.split(".")
    owner = pkgutil.resolve_name(".".join(owner))
    monkeypatch.setattr(owner, name, around(fault)(getattr(owner, name)))
    with pytest.raises(AssertionError):
        run()


def test_a_gradient_of_nothing_is_caught(monkeypatch):
    """BatchNorm without the variance's term, LRN without its neighbours: no function has these as its gradient."""
    seen_by_y = test_batch_norm_gradient_has_no_part_that_y_cannot_see.hypothesis.inner_test
    symmetric = test_second_derivatives_are_symmetric.hypothesis.inner_test
    lrn_case, bn_case = Case("LRN(3, alpha=0.5)", (2, 3, 4, 5), seed=3), Case(BN, SHAPE, seed=3)

    def run():
        seen_by_y(SHAPE, 0, True)
        for case in (bn_case, lrn_case):
            symmetric("", Drawn(case))

    run()
    with monkeypatch.context() as patch:
        patch.setattr(batchnorm, "batch_norm_grad", around(no_variance)(batchnorm.batch_norm_grad))
        for check in (lambda: seen_by_y(SHAPE, 0, True), lambda: symmetric("", Drawn(bn_case))):
            with pytest.raises(AssertionError):
                check()
    with monkeypatch.context() as patch:
        patch.setattr(lrn_layer, "lrn_dx", around(without_neighbours)(lrn_layer.lrn_dx))
        with pytest.raises(AssertionError):
            symmetric("", Drawn(lrn_case))


class Drawn:
    """What Hypothesis would have drawn."""

    def __init__(self, case):
        self.case = case

    def draw(self, strategy):
        return self.case


def test_conv_bn_relu_cache_is_used_once():
    layer = ConvBNReLU(2, 3, (2, 3))
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 2)).astype(np.float32)
    y, cache = layer.forward(x, Mode(train=True, keep=True))
    layer.backward(y, x, cache)
    with pytest.raises(ValueError, match="ConvBNReLU"):
        layer.backward(y, x, cache)

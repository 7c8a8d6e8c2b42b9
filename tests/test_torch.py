"""Every layer, and random trees of layers, equal PyTorch in float64: forward and all gradients, to 1e-11.

The layers are written down once more in PyTorch's functions, and its autograd does the rest. Skipped without torch.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numerics import error

from inception_np.compose import Concat, Residual, Sequential
from inception_np.layer import Buffer, Layer, Mode, cast, named_buffers, named_params
from inception_np.layers.activation import ELU, Dropout, ReLU
from inception_np.layers.batchnorm import BatchNorm
from inception_np.layers.conv import Conv2D, ConvReLU
from inception_np.layers.conv_bn_relu import ConvBNReLU
from inception_np.layers.depthwise import DepthwiseConv2D
from inception_np.layers.linear import Linear, Scale
from inception_np.layers.loss import softmax_cross_entropy
from inception_np.layers.lrn import LRN
from inception_np.layers.pool import AdaptiveAvgPool2D, AvgPool2D, Flatten, GlobalAvgPool2D, MaxPool2D
from inception_np.layers.whitening import PatchWhitening
from inception_np.testing import LAYERS, Case, flags, networks, seeds
from inception_np.training.optim import SGD

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.torch
torch.set_num_threads(1)

TOLERANCE = 1e-11


@pytest.fixture(autouse=True, scope="module")
def in_double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Peer:
    """A layer's twin: its Params as leaves of autograd, and every kind of layer in PyTorch's words."""

    def __init__(self, layer, mode):
        self.mode = mode
        params = named_params(layer)
        self.leaf = {id(p): torch.tensor(p.data, requires_grad=True) for p in params.values()}
        self.named = {name: self.leaf[id(p)] for name, p in params.items()}
        self.running = {id(b): torch.tensor(b.data) for b in named_buffers(layer).values()}

    def param(self, p):
        return None if p is None else self.running[id(p)] if isinstance(p, Buffer) else self.leaf[id(p)]

    def __call__(self, layer, x):
        for kind in type(layer).__mro__:
            if kind in self.HOW:
                return self.HOW[kind](self, layer, x)
        raise AssertionError(f"no peer for {type(layer).__name__}")

    def conv(self, layer, x, weight=None, groups=1):
        y = F.conv2d(
            planes(x, pads_of(layer, x, layer.kernel, layer.dilation)).contiguous(),
            weight.contiguous(),
            self.param(layer.bias),
            layer.stride,
            dilation=layer.dilation,
            groups=groups,
        )
        return y.permute(0, 2, 3, 1)

    def conv2d(self, layer, x):
        return self.conv(layer, x, self.param(layer.weight).permute(3, 2, 0, 1), layer.groups)

    def depthwise(self, layer, x):
        kh, kw, C, m = layer.weight.data.shape
        weight = self.param(layer.weight).permute(2, 3, 0, 1).reshape(C * m, 1, kh, kw)
        return self.conv(layer, x, weight, C)

    def batch_norm(self, layer, x):
        y = F.batch_norm(
            x.permute(0, 3, 1, 2),
            self.running[id(layer.mean)],
            self.running[id(layer.var)],
            self.param(layer.gamma),
            self.param(layer.beta),
            self.mode.train,
            1 - layer.decay,
            layer.eps,
        )
        return y.permute(0, 2, 3, 1)

    def lrn(self, layer, x):
        alpha = layer.alpha if layer.divide_by_size else layer.alpha * layer.size
        y = F.local_response_norm(x.permute(0, 3, 1, 2), layer.size, alpha, layer.beta, layer.k)
        return y.permute(0, 2, 3, 1)

    def max_pool(self, layer, x):
        pads = pads_of(layer, x, layer.size)
        if native(pads, layer):
            y = F.max_pool2d(
                x.permute(0, 3, 1, 2), layer.size, layer.stride, (pads[0][0], pads[1][0]), ceil_mode=layer.ceil
            )
        else:
            y = F.max_pool2d(planes(x, reach(layer, x, pads), -np.inf), layer.size, layer.stride)
        return y.permute(0, 2, 3, 1)

    def avg_pool(self, layer, x):
        pads = pads_of(layer, x, layer.size)
        if native(pads, layer):
            y = F.avg_pool2d(
                x.permute(0, 3, 1, 2),
                layer.size,
                layer.stride,
                (pads[0][0], pads[1][0]),
                layer.ceil,
                layer.count_include_pad,
            )
        else:
            ones = torch.ones_like(x)
            if layer.count_include_pad:
                counted = planes(ones, pads, 1.0)
                ends = reach(layer, x, pads)
                beyond = [(0, end - after) for (_, end), (_, after) in zip(ends, pads, strict=True)]
                counted = planes(counted.permute(0, 2, 3, 1), beyond)
            else:
                counted = planes(ones, reach(layer, x, pads))
            total = F.avg_pool2d(planes(x, reach(layer, x, pads)), layer.size, layer.stride)
            y = total / F.avg_pool2d(counted, layer.size, layer.stride)
        return y.permute(0, 2, 3, 1)

    def adaptive(self, layer, x):
        return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), layer.size).permute(0, 2, 3, 1)

    def dropout(self, layer, x):
        if not self.mode.train or layer.rate == 0:
            return x
        mask = torch.tensor(self.mode.rng.random(tuple(x.shape), np.float32) >= layer.rate)
        return x * mask / (1 - layer.rate)

    def linear(self, layer, x):
        return F.linear(x, self.param(layer.weight).T, self.param(layer.bias))

    def sequential(self, layer, x):
        for child in layer.layers.values():
            x = self(child, x)
        return x

    def residual(self, layer, x):
        shortcut = x if layer.shortcut is None else None
        body = self(layer.body, x)
        return (self(layer.shortcut, x) if shortcut is None else x) + layer.scale * body

    HOW = {  # noqa: RUF012
        ConvReLU: lambda self, layer, x: F.relu(self.conv2d(layer, x)),
        Conv2D: conv2d,
        DepthwiseConv2D: depthwise,
        ConvBNReLU: lambda self, layer, x: F.relu(self(layer.bn, self(layer.conv, x))),
        BatchNorm: batch_norm,
        LRN: lrn,
        MaxPool2D: max_pool,
        AvgPool2D: avg_pool,
        GlobalAvgPool2D: lambda self, layer, x: x.mean((1, 2)),
        AdaptiveAvgPool2D: adaptive,
        Flatten: lambda self, layer, x: x.reshape(len(x), -1),
        ReLU: lambda self, layer, x: F.relu(x),
        ELU: lambda self, layer, x: F.elu(x),
        Dropout: dropout,
        Linear: linear,
        Scale: lambda self, layer, x: layer.scale * x,
        PatchWhitening: conv2d,
        Sequential: sequential,
        Concat: lambda self, layer, x: torch.cat([self(b, x) for b in layer.branches.values()], -1),
        Residual: residual,
    }


def planes(x, pads, value=0.0):
    """(N, C, H, W) with pads around it, negative ones cropping."""
    (top, bottom), (left, right) = pads
    return F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom), value=value)


def pads_of(layer, x, window, dilation=(1, 1)):
    """TensorFlow's SAME as its documentation has it, or the numbers."""
    if layer.pad != "same":
        return ((0, 0), (0, 0)) if layer.pad == "valid" else layer.pad
    pads = []
    for n, k, s, d in zip(x.shape[1:3], window, layer.stride, dilation, strict=True):
        span = d * (k - 1) + 1
        total = max(span - s, 0) if n % s == 0 else max(span - n % s, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def native(pads, layer):
    """Can PyTorch's own arguments say it? The same padding on both sides, of at most half the window."""
    return all(lo == hi and 2 * lo <= k for (lo, hi), k in zip(pads, layer.size, strict=True))


def reach(layer, x, pads):
    """Pads up to the end of the last window."""
    out = layer.out_shape(tuple(x.shape))[1:3]
    return [
        (lo, (m - 1) * s + k - n - lo)
        for m, s, k, n, (lo, _) in zip(out, layer.stride, layer.size, x.shape[1:3], pads, strict=True)
    ]


def compare(case):
    """y, dx, every parameter's gradient and the running averages, ours and PyTorch's."""
    layer, x, y, cache, dy = case.forward()
    peer = Peer(layer, case.mode())
    tx = torch.tensor(x, requires_grad=True)
    ty = peer(layer, tx)
    assert error(y, ty.detach().numpy()) < TOLERANCE
    ty.backward(torch.tensor(dy))
    dx = layer.backward(dy, x, cache)
    # Where normalisation cancels nearly everything, what is left is compared with what was cancelled.
    size = 0.1 * np.abs(dy).max(initial=0)
    gap = np.abs(dx - tx.grad.numpy()).max(initial=0)
    assert gap < TOLERANCE * max(size, np.abs(dx).max(initial=0))
    for name, p in named_params(layer).items():
        wanted = peer.named[name].grad
        wanted = np.zeros(p.grad.shape) if wanted is None else wanted.numpy()
        gap = np.abs(p.grad - wanted).max(initial=0)
        assert gap < TOLERANCE * max(size, np.abs(wanted).max(initial=0)), name
    if case.train and isinstance(layer, BatchNorm):
        M = x[..., 0].size  # PyTorch averages the unbiased variance, we (as TensorFlow) the biased
        unbiased = peer.running[id(layer.var)].numpy()
        before = case.layer().var.data
        biased = layer.decay * before + (unbiased - layer.decay * before) * (M - 1) / M
        assert error(layer.mean.data, peer.running[id(layer.mean)].numpy()) < TOLERANCE
        assert error(layer.var.data, biased) < TOLERANCE


@pytest.mark.parametrize("name", LAYERS)
@given(data=st.data())
def test_layer_equals_torch(name, data):
    compare(data.draw(LAYERS[name]))


@given(networks())
def test_trees_equal_torch(case):
    compare(case)


@given(st.integers(1, 5), st.integers(2, 6), st.sampled_from([0.0, 0.1, 0.5]), seeds)
def test_loss_equals_torch(n, k, smoothing, seed):
    rng = np.random.default_rng(seed)
    logits, labels = 3 * rng.standard_normal((n, k)), rng.integers(0, k, n)
    loss, dlogits = softmax_cross_entropy(logits, labels, smoothing=smoothing)
    z = torch.tensor(logits, requires_grad=True)
    wanted = F.cross_entropy(z, torch.tensor(labels), label_smoothing=smoothing)
    wanted.backward()
    assert abs(loss - wanted.item()) < TOLERANCE
    assert error(dlogits, z.grad.numpy()) < TOLERANCE


@given(seeds, st.sampled_from([0.0, 0.9]), st.sampled_from([0.0, 0.1]), flags)
def test_sgd_equals_torch(seed, momentum, weight_decay, nesterov):
    rng = np.random.default_rng(seed)
    layer = cast(Linear(3, 2), np.float64)
    peers = [torch.nn.Parameter(torch.tensor(p.data)) for p in named_params(layer).values()]
    how = dict(momentum=momentum, weight_decay=weight_decay, nesterov=nesterov and momentum > 0)
    ours, theirs = SGD(layer, 0.1, **how), torch.optim.SGD(peers, 0.1, **how)
    for _ in range(4):
        for p, q in zip(named_params(layer).values(), peers, strict=True):
            g = rng.standard_normal(p.data.shape)
            p.grad += g
            q.grad = torch.tensor(g)
        ours.step()
        theirs.step()
        for p, q in zip(named_params(layer).values(), peers, strict=True):
            assert error(p.data, q.detach().numpy()) < TOLERANCE


class OffInOneGradient(Layer):
    """Right but for the last of a parameter's gradients, by one part in 10^9."""

    takes_out = True

    def __init__(self, layer, which):
        self.layer, self.which = layer, which

    def forward(self, x, mode, out=None):
        return self.layer.forward(x, mode)

    def backward(self, dy, x, cache, into=None, need_dx=True):
        dx = self.layer.backward(dy, x, cache)
        spoiled = dx if self.which == "x" else named_params(self.layer)[self.which].grad
        spoiled.flat[np.abs(spoiled).argmax()] *= 1 + 1e-9
        return dx


Peer.HOW[OffInOneGradient] = lambda self, layer, x: self(layer.layer, x)


@pytest.mark.parametrize("which", ["x", "weight", "bias"])
def test_a_gradient_off_in_one_entry_is_caught(which):
    class Off(Case):
        def layer(self, dtype=np.float64):
            return OffInOneGradient(super().layer(dtype), which)

    text, shape = "Conv2D(2, 3, (2, 3), stride=(2, 1), pad=((0, 1), (2, 1)), rng=rng)", (2, 5, 4, 2)
    compare(Case(text, shape))
    with pytest.raises(AssertionError):
        compare(Off(text, shape))


def test_a_forward_of_another_convention_is_caught():
    """LRN with alpha not divided by the size, average pooling that counts padding: each is seen as a difference."""
    for text, name in (("LRN(5, alpha=0.5)", "divide_by_size"), ("AvgPool2D(3, pad=1)", "count_include_pad")):
        case = Case(text, (2, 5, 4, 6))
        compare(case)
        layer, x = case.layer(), case.x()
        peer = Peer(layer, Mode())(layer, torch.tensor(x)).numpy()
        setattr(layer, name, not getattr(layer, name))
        assert error(layer.forward(x, Mode())[0], peer) > TOLERANCE

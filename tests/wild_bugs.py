"""Wrong gradients that shipped: 46 backward passes from issue trackers, each beside the right one.

    python tests/wild_bugs.py       how many of them check_gradients finds, and how many other checkers would

Every class that begins with a link is one thread. With bug=True its backward does what shipped, without it what is
right; the two differ where it says `self.bug`. The forwards are right, and written once per kind of layer. What showed
only in float32, at large sizes, in uninitialised memory or between threads is done here by a fixed rule, so that it
shows always. Where a thread gives the symptom and not the cause, the docstring says so, and the cause here is a guess
with the same symptom.

x is (N, H, W, C) where nothing else is said.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from inception_np import Layer, Mode, Param, check_gradients
from inception_np.gradcheck.policies import POLICIES

ALL = slice(None)
NHW = (0, 1, 2)


class Wild(Layer):
    """A layer with a right backward, or with bug=True the one that shipped.

    Its parameters and their shapes are named with the class: `class Conv(Wild, weight=(2, 3, 2, 3))`.
    """

    params: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    shapes: tuple[tuple[int, ...], ...] = ((2, 5, 7, 2), (1, 7, 4, 2))  # of x, where the fault shows
    train = True  # the mode in which it shows

    def __init_subclass__(cls, **params):
        cls.params = {**cls.params, **params}

    def __init__(self, bug=False, seed=0):
        rng = np.random.default_rng(seed)
        self.bug = bug
        for name, shape in self.params.items():
            setattr(self, name, Param(rng.standard_normal(shape)))


def taps(size, stride, out, dilation=(1, 1)):
    """(a, b, at) for every tap of a window: x[at] is what tap (a, b) of all out[0] x out[1] windows sees."""
    for a, b in np.ndindex(*size):
        rows, columns = (
            slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip((a, b), dilation, out, stride, strict=True)
        )
        yield a, b, (ALL, rows, columns)


def pad(x, pads, value=0.0):
    """x with rows and columns around it. pads: ((top, bottom), (left, right))."""
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)


def crop(x, pads):
    """What pad added is cut off."""
    (top, bottom), (left, right) = pads
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


# -- average pooling -----------------------------------------------------------------------------------------------


class AvgPool(Wild):
    """The mean over the cells of x in each window; cells of the padding do not count."""

    size, stride, pads = (3, 2), (2, 1), ((1, 1), (1, 0))

    def forward(self, x, mode):
        return self.sums(x) / self.cells(x), None

    def sums(self, x):
        x = pad(x, self.pads)
        return sum(x[at] for _, _, at in taps(self.size, self.stride, self.out(x)))

    def out(self, x):
        return [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], self.size, self.stride, strict=True)]

    def cells(self, x):
        """How many cells of x are in each window."""
        return self.sums(np.ones_like(x.real))

    def spread(self, share, x):
        """The padded dx of a window's share in each of its cells."""
        dx = np.zeros_like(pad(x, self.pads))
        for _, _, at in taps(self.size, self.stride, share.shape[1:3]):
            dx[at] += share
        return dx


class AvgPoolInCeilMode(AvgPool):
    """https://github.com/pytorch/pytorch/issues/198119

    The last window hangs over the end (ceil mode); backward divides it by the full kernel, forward did not.
    """

    size, stride, pads = (3, 2), (2, 3), ((0, 1), (0, 1))
    shapes = (2, 6, 7, 2), (1, 4, 10, 1)

    def backward(self, dy, x, cache):
        count = np.prod(self.size) if self.bug else self.cells(x)
        return crop(self.spread(dy / count, x), self.pads)


class AvgPoolForgetsItsPadding(AvgPool):
    """https://github.com/pytorch/pytorch/issues/188344

    A pixel of x is taken for the pixel of the padded x with the same number: `+ pad` is missing (pull 188345).
    """

    def backward(self, dy, x, cache):
        dx = self.spread(dy / self.cells(x), x)
        return dx[:, : x.shape[1], : x.shape[2]] if self.bug else crop(dx, self.pads)


class AvgPoolWiderThanItsPlane(AvgPool):
    """https://github.com/tensorflow/tensorflow/issues/48773

    AvgPoolGrad is wrong in some shapes; the numbers shown fit a window of 7 on 5 cells. The cause is not shown;
    here the count is clipped to the plane, not to the part of the window on it.
    """

    size, stride, pads = (1, 7), (1, 1), ((0, 0), (3, 3))
    shapes = (1, 1, 5, 1), (2, 3, 6, 2)

    def backward(self, dy, x, cache):
        count = min(7, x.shape[2]) if self.bug else self.cells(x)
        return crop(self.spread(dy / count, x), self.pads)


class AdaptiveAvgPool(Wild):
    """h x w windows that share the plane out: window p covers rows floor(p H / h) to ceil((p + 1) H / h)."""

    grid = (2, 3)

    def windows(self, x):
        for p, q in np.ndindex(*self.grid):
            (h, w), (H, W) = self.grid, x.shape[1:3]
            yield p, q, (ALL, slice(p * H // h, -(-(p + 1) * H // h)), slice(q * W // w, -(-(q + 1) * W // w)))

    def forward(self, x, mode):
        y = np.empty((len(x), *self.grid, x.shape[3]), x.dtype)
        for p, q, at in self.windows(x):
            y[:, p, q] = x[at].mean((1, 2))
        return y, None


class AdaptiveAvgPoolOnThePlane2x4(AdaptiveAvgPool):
    """https://github.com/pytorch/pytorch/issues/60524

    2 x 2 windows of a plane of 2 x 4: CUDA's dx is not the CPU's. The thread shows numbers, not the cause; here the
    window's height is taken for its width.
    """

    grid = (2, 2)
    shapes = (1, 2, 4, 1), (2, 4, 6, 2)

    def backward(self, dy, x, cache):
        dx = np.zeros_like(x)
        for p, q, at in self.windows(x):
            rows, columns = dx[at].shape[1:3]
            dx[at] += dy[:, p : p + 1, q : q + 1] / (rows * rows if self.bug else rows * columns)
        return dx


class AdaptiveAvgPoolWithMoreWindowsThanCells(AdaptiveAvgPool):
    """https://github.com/pytorch/pytorch/issues/62250

    Several windows share a cell and race to add to it, so that one is left (cause: Oneflow-Inc/oneflow/pull/5614,
    the same author's).
    """

    grid = (4, 6)
    shapes = (2, 3, 4, 2), (1, 5, 2, 1)

    def backward(self, dy, x, cache):
        dx = np.zeros_like(x)
        for p, q, at in self.windows(x):
            share = dy[:, p : p + 1, q : q + 1] / dx[0][at[1:]][..., 0].size
            dx[at] = share if self.bug else dx[at] + share
        return dx


class AdaptiveAvgPoolWithOnePoolSize(AdaptiveAvgPool):
    """https://github.com/PaddlePaddle/Paddle/pull/74077

    Every window is divided by ceil(H / h) ceil(W / w), though the windows differ in size.
    """

    shapes = (2, 5, 8, 2), (1, 4, 5, 1)

    def backward(self, dy, x, cache):
        dx = np.zeros_like(x)
        (h, w), (H, W) = self.grid, x.shape[1:3]
        for p, q, at in self.windows(x):
            area = -(-H // h) * -(-W // w) if self.bug else dx[0][at[1:]][..., 0].size
            dx[at] += dy[:, p : p + 1, q : q + 1] / area
        return dx


# -- max pooling ---------------------------------------------------------------------------------------------------


class MaxPool(Wild):
    """The largest cell of each window. The cache is the number of the winning tap, a * kw + b."""

    size, stride, dilation = (2, 3), (1, 2), (1, 1)

    def out(self, x):
        reach = [(k - 1) * d + 1 for k, d in zip(self.size, self.dilation, strict=True)]
        return [(n - r) // s + 1 for n, r, s in zip(x.shape[1:3], reach, self.stride, strict=True)]

    def forward(self, x, mode):
        seen = np.stack([x[at] for _, _, at in taps(self.size, self.stride, self.out(x), self.dilation)])
        winner = seen.real.argmax(0)
        return np.take_along_axis(seen, winner[None], 0)[0], winner

    def route(self, dy, winner, dx, dilation=None):
        """Add to dx what the windows' winners get."""
        for a, b, at in taps(self.size, self.stride, dy.shape[1:3], dilation or self.dilation):
            dx[at] += np.where(winner == a * self.size[1] + b, dy, 0)
        return dx


class MaxPoolIntoStaleMemory(MaxPool):
    """https://github.com/pytorch/executorch/issues/21686

    dx is added into an array that nobody cleared. Here what was in it is 0.1.
    """

    def backward(self, dy, x, winner):
        return self.route(dy, winner, np.full_like(x, 0.1) if self.bug else np.zeros_like(x))


class MaxPoolOverwritesInOverlaps(MaxPool):
    """https://github.com/FluxML/NNlib.jl/issues/205

    A cell that wins several windows gets the last one's dy in place of the sum: = for +=.
    """

    def backward(self, dy, x, winner):
        dx = np.zeros_like(x)
        for a, b, at in taps(self.size, self.stride, dy.shape[1:3]):
            before = dx[at].copy()
            won = winner == a * self.size[1] + b
            dx[at] = np.where(won, dy if self.bug else before + dy, before)
        return dx


class MaxPoolTakesOneDilationTwice(MaxPool):
    """https://github.com/tracel-ai/burn/pull/4466

    dilation[0] stands where dilation[1] should; all tests had both the same.
    """

    dilation = (1, 2)
    shapes = (2, 4, 7, 2), (1, 5, 9, 2)

    def backward(self, dy, x, winner):
        d = self.dilation
        return self.route(dy, winner, np.zeros_like(x), (d[0], d[0]) if self.bug else d)


class MaxPoolOfAPlaneWithARest(MaxPool):
    """https://github.com/tensorflow/tensorflow/issues/40122

    2 x 2 windows of a plane of 5 x 5 leave a row and a column over, and dx is wrong. The thread shows numbers, not
    the cause; here a cell's number is row * (columns that windows cover) + column.
    """

    size, stride = (2, 2), (2, 2)
    shapes = (1, 5, 5, 1), (2, 4, 7, 2)

    def backward(self, dy, x, winner):
        dx = np.zeros_like(x)
        n, i, j, c = np.indices(dy.shape, sparse=True)
        row, column = 2 * i + winner // 2, 2 * j + winner % 2
        width = 2 * dy.shape[2] if self.bug else x.shape[2]
        np.add.at(dx.reshape(len(x), -1, x.shape[3]), (n, row * width + column, c), dy)
        return dx


class MaxPoolTakesHeightForWidth(MaxPool):
    """https://github.com/deeplearning4j/deeplearning4j/pull/964

    The pull request says no more than its title, "Fix height vs. width issue in max pooling backprop". Here the
    winner's number is taken apart by the kernel's height.
    """

    size, stride = (3, 2), (1, 2)
    shapes = (2, 5, 9, 2), (1, 4, 5, 1)

    def backward(self, dy, x, winner):
        dx = np.zeros_like(x)
        n, i, j, c = np.indices(dy.shape, sparse=True)
        a, b = np.divmod(winner, self.size[0] if self.bug else self.size[1])
        np.add.at(dx, (n, i + a, 2 * j + b, c), dy)
        return dx


class MaxPoolWithOneGatePerCell(MaxPool):
    """https://github.com/ahrefs/ocannl/issues/512

    Whether a cell won is kept once per cell, so the last window on it decides for all of them.
    """

    def backward(self, dy, x, winner):
        dx, gate = np.zeros_like(x), np.zeros(x.shape, bool)
        rows = list(taps(self.size, self.stride, dy.shape[1:3]))
        for a, b, at in rows[::-1]:  # the last window on a cell sees it with its first tap
            gate[at] = winner == a * self.size[1] + b
        for a, b, at in rows:
            dx[at] += dy * (gate[at] if self.bug else winner == a * self.size[1] + b)
        return dx


class MaxPoolReturnsAfterTheFirstWindow(MaxPool):
    """https://github.com/riccardoandreoni0/CNN-from-scratch/issues/1

    `return` is indented into the loop.
    """

    def backward(self, dy, x, winner):
        dx = np.zeros_like(x)
        n, c = np.indices((len(x), x.shape[3]), sparse=True)
        for i, j in np.ndindex(*dy.shape[1:3]):
            a, b = np.divmod(winner[:, i, j], self.size[1])
            np.add.at(dx, (n, self.stride[0] * i + a, self.stride[1] * j + b, c), dy[:, i, j])
            if self.bug:
                break
        return dx


# -- convolution ---------------------------------------------------------------------------------------------------


def times(x, w, groups):
    """x @ w, each group of channels by its own part of w's last axis."""
    return np.concatenate([p @ q for p, q in zip(np.split(x, groups, -1), np.split(w, groups, -1), strict=True)], -1)


def times_back(dy, w, groups):
    """dy @ w.T, group by group."""
    parts = zip(np.split(dy, groups, -1), np.split(w, groups, -1), strict=True)
    return np.concatenate([p @ q.T for p, q in parts], -1)


def outer(x, dy, groups):
    """x.T @ dy over all pixels, group by group: the gradient of w in times(x, w, groups)."""
    parts = zip(np.split(x, groups, -1), np.split(dy, groups, -1), strict=True)
    return np.concatenate([np.tensordot(p, q, (NHW, NHW)) for p, q in parts], -1)


class Conv(Wild, weight=(2, 3, 2, 3)):
    """y[i, j] = sum over taps of x[i sh + a, j sw + b] @ weight[a, b], in groups of channels."""

    stride, pads, groups = (2, 1), ((1, 1), (1, 1)), 1

    def out(self, x):
        return [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], self.weight.data.shape, self.stride, strict=False)]

    def taps(self, out, stride=None):
        return taps(self.weight.data.shape[:2], stride or self.stride, out)

    def forward(self, x, mode):
        x, w = pad(x, self.pads), self.weight.data
        return sum(times(x[at], w[a, b], self.groups) for a, b, at in self.taps(self.out(x))), None

    def dx(self, dy, x):
        """The right dx."""
        dx = np.zeros_like(pad(x, self.pads))
        for a, b, at in self.taps(dy.shape[1:3]):
            dx[at] += times_back(dy, self.weight.data[a, b], self.groups)
        return crop(dx, self.pads)

    def dw(self, dy, x, stride=None):
        """The right gradient of weight."""
        x, dw = pad(x, self.pads), np.zeros_like(self.weight.data)
        for a, b, at in self.taps(dy.shape[1:3], stride):
            dw[a, b] = outer(x[at], dy, self.groups)
        return dw


class ConvWithRowsToSpare(Conv):
    """https://github.com/pytorch/pytorch/issues/25101

    (H + 2p - k) mod s rows are over at the end, and dx is wrong there. Here the last of them get none.
    """

    stride = (3, 1)
    shapes = (2, 8, 6, 2), (1, 5, 4, 2)

    def backward(self, dy, x, cache):
        self.weight.grad += self.dw(dy, x)
        dx = self.dx(dy, x)
        spare = (x.shape[1] + 2 - 2) % 3
        if self.bug:
            dx[:, x.shape[1] - spare :] = 0
        return dx


class ConvInGroupsWithStride(Conv, weight=(3, 2, 2, 4)):
    """https://github.com/ml-explore/mlx/pull/3800

    dx of a strided convolution in groups runs on a kernel that knows no groups. Here all groups take the first
    one's weights.
    """

    groups = 2
    shapes = (2, 5, 4, 4), (1, 6, 3, 4)

    def backward(self, dy, x, cache):
        self.weight.grad += self.dw(dy, x)
        w, dx = self.weight.data, np.zeros_like(pad(x, self.pads))
        w = np.tile(w[..., :2], 2) if self.bug else w
        for a, b, at in self.taps(dy.shape[1:3]):
            dx[at] += times_back(dy, w[a, b], self.groups)
        return crop(dx, self.pads)


class ConvWeightsLastRow(Conv, weight=(3, 2, 1, 2)):
    """https://github.com/pytorch/pytorch/issues/50042

    H = 6, k = 3, s = 2, p = 1: no window reaches the bottom padding, yet the kernel's last row is summed as if the
    last windows lay on it.
    """

    stride, groups = (2, 2), 2
    shapes = (2, 6, 5, 2), (1, 8, 3, 2)

    def backward(self, dy, x, cache):
        xp = pad(x, self.pads)
        for a, b, at in self.taps(dy.shape[1:3]):
            rows = slice(-1) if self.bug and a == 2 else ALL
            self.weight.grad[a, b] += outer(xp[at][:, rows], dy[:, rows], self.groups)
        return self.dx(dy, x)


class ConvWeightsRemainder(Conv, weight=(1, 2, 2, 18)):
    """https://github.com/pytorch/pytorch/issues/68868

    The weight gradient of a convolution in groups differs from the GPU's, which is right. The thread does not say
    why; here the channels beyond whole blocks of 16 are left out.
    """

    shapes = (1, 3, 4, 2), (2, 2, 3, 2)

    def backward(self, dy, x, cache):
        dw = self.dw(dy, x)
        done = dw.shape[-1] // 16 * 16 if self.bug else dw.shape[-1]
        self.weight.grad[..., :done] += dw[..., :done]
        return self.dx(dy, x)


class DepthwiseWeightsNotLinearInDy(Conv, weight=(2, 3, 1, 2)):
    """https://github.com/tensorflow/tensorflow/issues/107706

    The gradient of the weights for 2 dy is not twice that for dy. The cause is not shown; here a small dy is
    dropped.
    """

    groups = 2

    def backward(self, dy, x, cache):
        self.weight.grad += self.dw(np.where(np.abs(dy) < 0.25, 0, dy) if self.bug else dy, x)
        return self.dx(dy, x)


class ConvWeightsMean(Conv):
    """https://github.com/sebgao/cTensor/issues/3

    The weight gradient is a mean over batch and plane, not a sum.
    """

    def backward(self, dy, x, cache):
        self.weight.grad += self.dw(dy, x) / (dy[..., 0].size if self.bug else 1)
        return self.dx(dy, x)


class ConvBackwardWithoutStride(Conv):
    """https://github.com/Kulbear/deep-learning-coursera/pull/34

    The windows are taken one pixel apart: "stride missing in conv_backward".
    """

    def backward(self, dy, x, cache):
        self.weight.grad += self.dw(dy, x, (1, 1) if self.bug else self.stride)
        return self.dx(dy, x)


class ConvWeightsShuffled(Conv):
    """https://github.com/apple/tensorflow_macos/issues/230

    The weight gradient has the right numbers in the wrong places where C > 1. Here (C, kh, kw, F) in memory is read
    as (kh, kw, C, F).
    """

    def backward(self, dy, x, cache):
        dw = self.dw(dy, x)
        self.weight.grad += dw.transpose(2, 0, 1, 3).reshape(dw.shape) if self.bug else dw
        return self.dx(dy, x)


class ConvWithNegativePadding(Conv, weight=(2, 2, 2, 3)):
    """https://github.com/tensorflow/tensorflow/issues/11092

    Padding "SAME" with stride 4 and kernel 2 is -1. Forward skips that row and column, and backward does not.
    """

    stride, pads = (4, 4), ((0, 0), (0, 0))
    shapes = (2, 4, 8, 2), (1, 8, 4, 2)

    def forward(self, x, mode):
        return super().forward(x[:, 1:-1, 1:-1], mode)

    def backward(self, dy, x, cache):
        inner = x[:, :-2, :-2] if self.bug else x[:, 1:-1, 1:-1]
        self.weight.grad += self.dw(dy, inner)
        before, after = (0, 2) if self.bug else (1, 1)
        return pad(self.dx(dy, inner), ((before, after), (before, after)))


class TransposedConvWithoutStride(Wild, weight=(2, 3)):
    """https://github.com/pytorch/pytorch/issues/63314

    A 1 x 1 transposed convolution with stride 2: dx takes dy at 1 where forward wrote to 2.
    """

    def forward(self, x, mode):
        N, H, W, _ = x.shape
        y = np.zeros((N, 2 * H - 1, 2 * W - 1, 3), x.dtype)
        y[:, ::2, ::2] = x @ self.weight.data
        return y, None

    def backward(self, dy, x, cache):
        self.weight.grad += np.tensordot(x, dy[:, ::2, ::2], (NHW, NHW))
        step = 1 if self.bug else 2
        return dy[:, ::step, ::step][:, : x.shape[1], : x.shape[2]] @ self.weight.data.T


class BiasSummedAsIfChannelsWereFirst(Wild, bias=(3,)):
    """https://github.com/deeplearning4j/deeplearning4j/issues/8280

    The gradient of a bias is summed over axes 0, 2, 3, also where the channels are last.
    """

    shapes = (2, 3, 5, 3), (1, 3, 4, 3)

    def forward(self, x, mode):
        return x + self.bias.data, None

    def backward(self, dy, x, cache):
        self.bias.grad += dy.sum((0, 2, 3) if self.bug else (0, 1, 2))
        return dy


# -- batch norm and its relatives ----------------------------------------------------------------------------------


class BatchNorm(Wild, gamma=(2,), beta=(2,)):
    """xhat = (x - mean) rstd, y = gamma xhat + beta; in inference, mean and variance are given."""

    given = np.array([0.3, -0.2]), np.array([0.5, 2.0])  # mean, var
    shapes = (3, 4, 5, 2), (2, 2, 3, 2)
    eps = 1e-3

    def forward(self, x, mode):
        mean = x.mean(NHW) if mode.train else self.given[0]
        var = ((x - mean) ** 2).mean(NHW) if mode.train else self.given[1]
        rstd = (var + self.eps) ** -0.5
        return self.gamma.data * (x - mean) * rstd + self.beta.data, (mean, rstd, mode.train)

    def rows(self, dy, x, mean, rstd):
        """g = gamma dy and xhat, after the gradients of gamma and beta are added."""
        xhat = (x - mean) * rstd
        self.gamma.grad += (dy * xhat).sum(NHW)
        self.beta.grad += dy.sum(NHW)
        return self.gamma.data * dy, xhat


class BatchNormWithConstantStatistics(BatchNorm):
    """https://github.com/deeplearning4j/deeplearning4j/issues/8335

    dx has one term of three: mean and variance are functions of x too.
    """

    def backward(self, dy, x, cache):
        mean, rstd, train = cache
        g, xhat = self.rows(dy, x, mean, rstd)
        if self.bug or not train:
            return rstd * g
        return rstd * (g - g.mean(NHW) - xhat * (g * xhat).mean(NHW))


class BatchNormInEvaluationMode(BatchNorm):
    """https://github.com/pytorch/xla/issues/3361

    In evaluation mode, the gradient of training: "we currently only implement the logic to backward the training
    batchnorm".
    """

    train = False

    def backward(self, dy, x, cache):
        mean, rstd, train = cache
        g, xhat = self.rows(dy, x, mean, rstd)
        if not train and not self.bug:
            return rstd * g
        return rstd * (g - g.mean(NHW) - xhat * (g * xhat).mean(NHW))


class BatchNormInTheOtherLayout(BatchNorm):
    """https://github.com/pytorch/pytorch/issues/107199

    dx is returned channels first for an x with channels last; whoever reads its memory as x's reads it shuffled.
    """

    def backward(self, dy, x, cache):
        mean, rstd, train = cache
        g, xhat = self.rows(dy, x, mean, rstd)
        dx = rstd * (g - train * (g.mean(NHW) + xhat * (g * xhat).mean(NHW)))
        return dx.transpose(0, 3, 1, 2).reshape(x.shape) if self.bug else dx


class BatchNormOfALargeBatch(BatchNorm):
    """https://github.com/ROCm/MIOpen/issues/1109

    Wrong from 769 images on, with two channels or more. The thread does not say why; here the sums are those of the
    first 4 images.
    """

    shapes = (6, 2, 3, 2), (5, 1, 4, 2)

    def backward(self, dy, x, cache):
        mean, rstd, train = cache
        g, xhat = self.rows(dy, x, mean, rstd)
        summed = slice(4) if self.bug else ALL
        a, b = ((t[summed].sum(NHW) / t[..., 0].size) for t in (g, g * xhat))
        return rstd * (g - train * (a + xhat * b))


class BatchNormTakesTheRootTwice(BatchNorm):
    """https://github.com/flagos-ai/FlagGems/issues/5222

    The saved value is 1 / sqrt(var + eps) already; backward takes it for the variance.
    """

    def backward(self, dy, x, cache):
        mean, rstd, train = cache
        rstd = (rstd + self.eps) ** -0.5 if self.bug else rstd
        g, xhat = self.rows(dy, x, mean, rstd)
        return rstd * (g - train * (g.mean(NHW) + xhat * (g * xhat).mean(NHW)))


class LayerNormOfThreeAxes(Wild, gamma=(4,)):
    """https://github.com/flagos-ai/FlagGems/issues/5392

    Forward normalises the last axis; backward takes x for a matrix and everything after the first axis for it.
    """

    shapes = (2, 3, 4), (1, 5, 4)

    def forward(self, x, mode):
        mean = x.mean(-1, keepdims=True)
        rstd = (((x - mean) ** 2).mean(-1, keepdims=True) + 1e-3) ** -0.5
        return self.gamma.data * (x - mean) * rstd, (mean, rstd)

    def backward(self, dy, x, cache):
        mean, rstd = cache
        xhat, g = (x - mean) * rstd, self.gamma.data * dy
        self.gamma.grad += (dy * xhat).sum((0, 1))
        axes = (1, 2) if self.bug else (2,)
        return rstd * (g - g.mean(axes, keepdims=True) - xhat * (g * xhat).mean(axes, keepdims=True))


def rms_norm(x):
    """y = x r, and r = 1 / sqrt(mean of squares) of each row, a column."""
    r = ((x * x).mean(-1, keepdims=True) + 1e-3) ** -0.5
    return x * r, r


class ResidualBeforeTheNorm(Wild, residual=(3, 4)):
    """https://github.com/Dao-AILab/quack/pull/53

    h = x + residual and y = (norm(h), h): what comes back past the norm is sent through its backward as well.
    """

    shapes = (3, 4), (1, 4)

    def forward(self, x, mode):
        h = x + self.residual.data[: len(x)]
        return (rms_norm(h)[0], h), None

    def backward(self, dy, x, cache):
        d_norm, d_h = dy
        y, r = rms_norm(x + self.residual.data[: len(x)])
        through, past = (d_norm + d_h, 0) if self.bug else (d_norm, d_h)
        dx = past + r * (through - y * (through * y).mean(-1, keepdims=True))
        self.residual.grad[: len(x)] += dx
        return dx


class RMSNormAcrossTheColumns(Wild):
    """https://github.com/BobMcDear/attorch/issues/17

    One number per row is broadcast along the columns: `[:, None]` is missing. It runs where a block is square.
    """

    shapes = (4, 4), (3, 3)

    def forward(self, x, mode):
        return rms_norm(x)[0], None

    def backward(self, dy, x, cache):
        y, r = rms_norm(x)
        row = (dy * y).mean(-1)
        return r * (dy - y * (row[None, :] if self.bug else row[:, None]))


class LRN(Wild):
    """y = x s^-beta, s = k + alpha * (sum of x^2 over three neighbouring channels). alpha is large enough to matter."""

    alpha, beta, k = 0.5, 0.75, 2.0
    shapes = (2, 3, 2, 5), (1, 2, 4, 3)

    @staticmethod
    def around(t):
        t = np.pad(t, ((0, 0), (0, 0), (0, 0), (1, 1)))
        return t[..., :-2] + t[..., 1:-1] + t[..., 2:]

    def forward(self, x, mode):
        s = self.k + self.alpha * self.around(x * x)
        return x * s**-self.beta, s


class LRNWithoutItsNeighbours(LRN):
    """https://github.com/deeplearning4j/deeplearning4j/issues/7272

    Fails a gradient check at alpha = 1 and passes it at 1e-4: the wrong term is small there. Which term it is, the
    thread does not say; here the neighbours' share in the sum is missing.
    """

    def backward(self, dy, x, s):
        t = dy * x * s ** (-self.beta - 1)
        return dy * s**-self.beta - 2 * self.alpha * self.beta * x * (t if self.bug else self.around(t))


class LRNHandsDyOn(LRN):
    """https://github.com/andersbll/deeppy/issues/15

    bprop returns dy: a copy of the layer before it.
    """

    def backward(self, dy, x, s):
        if self.bug:
            return dy
        t = self.around(dy * x * s ** (-self.beta - 1))
        return dy * s**-self.beta - 2 * self.alpha * self.beta * x * t


# -- pixel by pixel ------------------------------------------------------------------------------------------------


class ELUWithNegativeAlpha(Wild):
    """https://github.com/pytorch/pytorch/issues/47671

    Backward looks at the sign of y; with alpha = -2, y is positive on both sides of 0.
    """

    def forward(self, x, mode):
        y = np.where(x.real > 0, x, -2 * (np.exp(x) - 1))
        return y, y

    def backward(self, dy, x, y):
        positive = y > 0 if self.bug else x > 0
        return dy * np.where(positive, 1, y - 2)


class LeakyReLUWithoutItsSlope(Wild):
    """https://github.com/deeplearning4j/deeplearning4j/issues/8178

    Backward takes no alpha, whatever forward was given. Here it has the default, 0.01.
    """

    def forward(self, x, mode):
        return np.where(x.real > 0, x, 0.3 * x), None

    def backward(self, dy, x, cache):
        return dy * np.where(x > 0, 1, 0.01 if self.bug else 0.3)


class PReLUOnTheWrongAxis(Wild, slope=(3,)):
    """https://github.com/flagos-ai/FlagGems/issues/4992

    x: (N, C, H, W), one slope a channel. Backward takes the slopes along W; it shows where C = W.
    """

    shapes = (2, 3, 4, 3), (1, 3, 5, 3)

    def forward(self, x, mode):
        return np.where(x.real > 0, x, x * self.slope.data[:, None, None]), None

    def backward(self, dy, x, cache):
        self.slope.grad += np.where(x > 0, 0, x * dy).sum((0, 2, 3))
        slope = self.slope.data if self.bug else self.slope.data[:, None, None]
        return dy * np.where(x > 0, 1, slope)


class HardSwishWithAThirdOfFourDigits(Wild):
    """https://github.com/tenstorrent/tt-metal/issues/55291

    The slope is x / 3 + 1 / 2 between -3 and 3, with 0.3333 for 1 / 3: an error of 1e-4.
    """

    def forward(self, x, mode):
        return np.where(x.real < -3, 0, np.where(x.real > 3, x, x * (x + 3) / 6)), None

    def backward(self, dy, x, cache):
        third = 0.3333 if self.bug else 1 / 3
        return dy * np.where(x < -3, 0, np.where(x > 3, 1, x * third + 0.5))


class DropoutWithoutItsMask(Wild):
    """https://github.com/ddbourgin/numpy-ml/issues/94

    Backward divides by 1 - p and lets everything through.
    """

    def forward(self, x, mode):
        mask = mode.rng.random(x.shape) >= 0.4 if mode.train else 0.6
        return x * mask / 0.6, mask

    def backward(self, dy, x, mask):
        return dy / 0.6 * (1 if self.bug else mask)


# -- softmax and its relatives -------------------------------------------------------------------------------------


def softmax(x):
    e = np.exp(x - x.real.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class LogSoftmaxAdds(Wild):
    """https://github.com/mlpack/mlpack/issues/2360

    dx = dy + softmax(x), whatever dy: right is dy - softmax(x) sum(dy).
    """

    shapes = (3, 5), (1, 2)

    def forward(self, x, mode):
        return np.log(softmax(x)), None

    def backward(self, dy, x, cache):
        return dy + softmax(x) if self.bug else dy - softmax(x) * dy.sum(-1, keepdims=True)


class SoftmaxOnlyTheDiagonal(Wild):
    """https://github.com/Apiquet/DeepLearningFrameworkFromScratchCpp/issues/1

    dx = dy y (1 - y), as if every y came from its own x alone.
    """

    shapes = (3, 5), (2, 3)

    def forward(self, x, mode):
        y = softmax(x)
        return y, y

    def backward(self, dy, x, y):
        return dy * y * (1 - y) if self.bug else y * (dy - (dy * y).sum(-1, keepdims=True))


class CrossEntropyPerSample(Wild):
    """https://github.com/paiml/aprender/pull/2182

    One loss a sample (reduction "none"): backward reads only the first one's dy, and divides by the batch.
    """

    shapes = (4, 3), (2, 5)

    def forward(self, x, mode):
        rows = np.arange(len(x))
        return -np.log(softmax(x)[rows, rows % x.shape[1]]), None

    def backward(self, dy, x, cache):
        rows, dx = np.arange(len(x)), softmax(x)
        dx[rows, rows % x.shape[1]] -= 1
        return dx * (dy[0] / len(x) if self.bug else dy[:, None])


# -- resizing, slicing, indexing -----------------------------------------------------------------------------------


def interpolation(n, out, corners):
    """The (out, n) matrix of linear interpolation. corners: the first and last numbers stay where they are."""
    o = np.arange(out)
    at = o * (n - 1) / (out - 1) if corners else np.clip((o + 0.5) * n / out - 0.5, 0, n - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)))


class UpsamplingOfPortraits(Wild):
    """https://github.com/intel/torch-xpu-ops/pull/4380

    Twice the size, bilinear: the output's column is (w - H) / 2W in place of (w - W) / 2W, rounded down. Only where
    H > W is it another column.
    """

    shapes = (2, 5, 3, 2), (1, 4, 2, 1)

    def forward(self, x, mode):
        A, B = (interpolation(n, 2 * n, False) for n in x.shape[1:3])
        return np.einsum("ph,nhwc,qw->npqc", A, x, B), None

    def backward(self, dy, x, cache):
        H, W = x.shape[1:3]
        A, B = (interpolation(n, 2 * n, False) for n in (H, W))
        column = np.arange(2 * W) + ((W - H) // (2 * W) if self.bug else 0)
        return np.einsum("ph,npqc,qw->nhwc", A, dy[:, :, np.maximum(column, 0)], B)


class UpsamplingSeesTooFewOutputs(Wild):
    """https://github.com/flagos-ai/FlagGems/issues/5218

    Linear, corners aligned. Backward gathers, for each x, the outputs within out / n of it; they reach as far as
    (out - 1) / (n - 1).
    """

    shapes = (3, 2), (2, 3)

    def forward(self, x, mode):
        return x @ interpolation(x.shape[1], 10, True).T, None

    def backward(self, dy, x, cache):
        n = x.shape[1]
        stretch = 9 / (n - 1)
        reach = 10 / n if self.bug else stretch
        near = np.abs(np.arange(10)[:, None] - stretch * np.arange(n)) < reach
        return dy @ np.where(near, interpolation(n, 10, True), 0)


class SliceLeaks(Wild):
    """https://github.com/zk4x/zyx/issues/8

    The rows that a slice dropped get a gradient as well. Here it is their neighbour's.
    """

    def forward(self, x, mode):
        return x[:, 1:-2], None

    def backward(self, dy, x, cache):
        return np.pad(dy, ((0, 0), (1, 2), (0, 0), (0, 0)), mode="edge" if self.bug else "constant")


class IndexingTwice(Wild):
    """https://github.com/pytorch/pytorch/issues/1528

    A row that was picked twice gets the gradient of its last copy only.
    """

    def forward(self, x, mode):
        return x[:, [0, 0, 2]], None

    def backward(self, dy, x, cache):
        dx = np.zeros_like(x)
        if self.bug:
            dx[:, [0, 0, 2]] = dy
        else:
            np.add.at(dx, (ALL, [0, 0, 2]), dy)
        return dx


def link(cls):
    """The thread that a class is about, or "" for a base class."""
    first = (cls.__doc__ or "").split()[0]
    return first if first.startswith("https://") else ""


BUGS = [c for c in list(vars().values()) if isinstance(c, type) and issubclass(c, Wild) and link(c)]


# -- the score -----------------------------------------------------------------------------------------------------


def check(cls, wrong, shape, seed, method="complex"):
    """The report on one layer at one shape. Other checkers look at one mode, and are given the one that shows it."""
    x = np.random.default_rng([seed, len(shape), *shape]).standard_normal(shape)
    mode = None if method == "complex" else Mode(train=cls.train, keep=True)
    return check_gradients(cls(wrong, seed), x, mode=mode, method=method, seed=seed)


def score(method="complex", seeds=range(1)):
    """The classes whose wrong backward was missed at some shape and seed, and those whose right one was accused."""
    missed, accused = [], []
    for cls in BUGS:
        runs = [(shape, seed) for shape in cls.shapes for seed in seeds]
        if any(check(cls, True, *run, method).ok for run in runs):
            missed.append(cls)
        if any(not check(cls, False, *run, method).ok for run in runs):
            accused.append(cls)
    return missed, accused


def main(seeds=range(3)):
    """The score, and the table of all checkers: with their default policies, on the same layers and the same x."""
    n, rows = len(BUGS), []
    for method in ("complex", *POLICIES):
        missed, accused = (len(classes) for classes in score(method, seeds))
        rows.append((method, n - missed, missed, accused))
    _, found, _, alarms = rows[0]
    runs = 2 * len(seeds)
    print(
        f"check_gradients: {found} of {n} wrong gradients found, {alarms} alarms on {n} right ones, {runs} runs each\n"
    )
    print(f"{'checker':<17}{'found':>6}{'missed':>8}{'alarms':>8}")
    for method, found, missed, alarms in rows:
        name = "check_gradients" if method == "complex" else method
        print(f"{name:<17}{found:>6}{missed:>8}{alarms:>8}")


if __name__ == "__main__":
    main()

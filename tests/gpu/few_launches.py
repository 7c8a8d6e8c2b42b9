"""A few launches of every kind of kernel, without CuPy's memory pool: for compute-sanitizer and for ncu.

    compute-sanitizer --tool memcheck python tests/gpu/few_launches.py
    ncu --clock-control none python tests/gpu/few_launches.py --shapes

Each array has an allocation of its own, so that what is read or written beside it is seen. With --shapes: convolutions
of inception_v3_cifar's sizes at batch 256 instead, once each.
"""

import argparse
from itertools import product

import ml_dtypes
import numpy as np
from dry import DRY, cupy, small

from inception_np.data.random import stream
from inception_np.kernels import batchnorm, clip, conv, depthwise, elementwise, loss, lrn, philox, pool, update
from inception_np.kernels.cuda.side_stream import side_stream
from inception_np.kernels.window import out_size

# images, plane, channels in, channels out, kernel, stride, pads
SHAPES = [
    (256, 32, 8, 8, (3, 3), 1, 1),
    (256, 16, 48, 48, (3, 3), 1, 1),
    (256, 16, 72, 24, (1, 1), 1, 0),
    (256, 8, 40, 48, (7, 1), 1, None),
    (256, 8, 192, 48, (1, 1), 1, 0),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", action="store_true")
    args = parser.parse_args()
    module = cupy()
    if not DRY:
        module.cuda.set_allocator(None)
    rng = np.random.default_rng(0)
    # float32 numbers, and those of activations in bfloat16
    put = lambda *shape: module.asarray(rng.standard_normal(shape, np.float32))  # noqa: E731
    half = lambda *shape: put(*shape).astype(ml_dtypes.bfloat16)  # noqa: E731
    if args.shapes:
        for n, plane, c, o, kernel, stride, pad in SHAPES:
            pads = ((kernel[0] // 2,) * 2, (kernel[1] // 2,) * 2) if pad is None else ((pad, pad), (pad, pad))
            convolution(put, put, module, small(n, 1), (plane, plane), c, o, kernel, (stride, stride), pads, 1)
    else:
        channels = (8, 12, 1), (7, 5, 1), (6, 10, 2), (64, 70, 1)
        for (c, o, groups), stride, stored in product(channels, ((1, 1), (2, 2)), (put, half)):
            convolution(put, stored, module, 2, (9, 7), c, o, (3, 3), stride, ((1, 1), (0, 1)), groups)
        # sums of several layers in one launch, and teams of blocks
        with side_stream(module.cuda.Stream(non_blocking=True)):
            convolution(put, put, module, 8, (40, 40), 8, 12, (1, 1), (1, 1), ((0, 0), (0, 0)), 1)
            convolution(put, put, module, 2, (9, 7), 7, 5, (3, 3), (1, 1), ((1, 1), (1, 1)), 1)
        for stored in (put, half):
            others(put, stored, module, rng)
    module.cuda.runtime.deviceSynchronize()


def convolution(put, stored, module, n, plane, c, o, kernel, stride, pads, groups):
    out_hw = out_size(plane, kernel, stride, pads)
    x, w, dy = stored(n, *plane, c), put(*kernel, c // groups, o), stored(n, *out_hw, o)
    rest = (stride, pads, (1, 1), groups)
    conv.conv2d_moments(x, w, *rest, eps=1e-3)
    conv.conv2d_dx(dy, w, x.shape, *rest)
    conv.conv2d_dw(x, dy, module.zeros_like(w), *rest)


def others(put, stored, module, rng):
    for c in (8, 7):
        x, dy = stored(2, 9, 7, c), stored(2, 9, 7, c)
        mean, var, rstd = batchnorm.statistics(x, 1e-3)
        batchnorm.batch_norm(x, mean, rstd, None, put(c), relu=True)
        averages = put(c), put(c), module.asarray(np.array([0.9]))
        batchnorm.batch_norm_backward(dy, x, mean, var, rstd, put(c), put(c), put(c), put(c), averages, relu=True)
        elementwise.relu_dx(dy, elementwise.relu(x))
        elementwise.scaled_add(x, dy, 0.5)
        elementwise.sum_rows(dy, put(c))
        lrn.lrn_dx(dy, x, 5, 1e-4, 0.75, 1.0)
        for size, stride in ((3, 1), (3, 2), (2, 2)):
            window = ((size, size), (stride, stride), ((1, 1), (1, 0)))
            out_hw = out_size((9, 7), *window)
            y, winners = pool.max_pool(x, *window, out_hw)
            pool.max_pool_dx(y, winners, x.shape, *window)
            pool.avg_pool_dx(pool.avg_pool(x, *window, out_hw, False), x.shape, *window, False)
            w = put(size, size, c, 1)
            y = depthwise.depthwise2d(x, w, None, *window[1:], (1, 1))
            depthwise.depthwise2d_dx(y, w, x.shape, *window[1:], (1, 1))
            depthwise.depthwise2d_dw(x, y, module.zeros_like(w), *window[1:], (1, 1))
        pool.global_avg_pool_dx(pool.global_avg_pool(x), x.shape)
    loss.softmax_cross_entropy(stored(5, 10), module.asarray(rng.integers(0, 10, 5)), 0.1)
    sums = module.zeros((), np.float64), module.zeros((), np.int64)
    loss.add_totals(stored(300, 10), module.asarray(rng.integers(0, 10, 300)), module.zeros((), np.float64), *sums)
    _, kept = philox.dropout(stored(5, 7), stream(0, "dropout"), 0.5)
    philox.dropout_dx(stored(5, 7), kept, 0.5, into=stored(5, 7))
    update.sgd_step(put(99), put(99), put(99), 0.1, 0.9, 0.01, True)
    clip.clip_norm(put(2099), 1.0)
    averages = [put(2099), put(7)], [put(2099), put(7)]
    for back in (False, True):
        update.move_averages(*averages, 0.1, update.pieces(*averages), back=back)


if __name__ == "__main__":
    main()

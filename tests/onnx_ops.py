"""ONNX's own evaluator in double precision, with three operators from the specification, where its own are wrong.

LRN: the sum of squares there has other channels (onnx#7805). MaxPool: its second output ignores pads above and left.
ConvTranspose: with groups it takes the wrong filters.
"""

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class LRN(OpRun):
    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        squares = np.pad(x * x, ((0, 0), (size // 2, size // 2), (0, 0), (0, 0)))
        energy = sum(squares[:, d : d + x.shape[1]] for d in range(size))
        return (x / (float(bias) + float(alpha) / size * energy) ** float(beta),)  # attributes are float32


class MaxPool(OpRun):
    def _run(self, x, kernel_shape=None, strides=None, pads=None, **others):
        (h, w), (top, left, bottom, right) = x.shape[2:], pads
        around = ((0, 0), (0, 0), (top, bottom), (left, right))
        values = np.pad(x, around, constant_values=-np.inf)
        places = np.pad(np.arange(x.size).reshape(x.shape), around, constant_values=-1)
        taps = [
            [a[:, :, i:, j:] for i in range(kernel_shape[0]) for j in range(kernel_shape[1])] for a in (values, places)
        ]
        out = [
            (m + lo + hi - k) // s + 1
            for m, lo, hi, k, s in zip((h, w), pads[:2], pads[2:], kernel_shape, strides, strict=True)
        ]
        rows, columns = (slice(0, (p - 1) * s + 1, s) for p, s in zip(out, strides, strict=True))
        values, places = (np.stack([tap[:, :, rows, columns] for tap in a]) for a in taps)
        first = values.argmax(0)[None]
        return tuple(np.take_along_axis(a, first, 0)[0] for a in (values, places))


class ConvTranspose(OpRun):
    def _run(
        self, x, w, kernel_shape=None, strides=None, dilations=None, pads=None, output_padding=None, group=1, **no
    ):
        n, c, height, width = x.shape
        sizes = zip((height, width), kernel_shape, strides, dilations, output_padding, strict=True)
        full = [(p - 1) * s + d * (k - 1) + 1 + more for p, k, s, d, more in sizes]
        y = np.zeros((n, group, w.shape[1], *full), x.dtype)
        x, w = x.reshape(n, group, c // group, height, width), w.reshape(group, c // group, *w.shape[1:])
        for i in range(kernel_shape[0]):
            for j in range(kernel_shape[1]):
                top, left = i * dilations[0], j * dilations[1]
                rows = slice(top, top + (height - 1) * strides[0] + 1, strides[0])
                columns = slice(left, left + (width - 1) * strides[1] + 1, strides[1])
                y[..., rows, columns] += np.einsum("ngchw,gco->ngohw", x, w[..., i, j], optimize=True)
        top, left, bottom, right = pads
        return (y.reshape(n, -1, *full)[:, :, top : full[0] - bottom, left : full[1] - right],)


def evaluator(model):
    return ReferenceEvaluator(model, new_ops=[LRN, MaxPool, ConvTranspose])

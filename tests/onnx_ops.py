"""ONNX's own evaluator in double precision, with two operators written from the specification, where its own are wrong.

LRN: the sum of squares there has other channels (onnx#7805). MaxPool: its second output ignores pads above and left.
"""

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class LRN(OpRun):
    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        squares = np.pad(x * x, ((0, 0), (size // 2, size // 2), (0, 0), (0, 0)))
        energy = sum(squares[:, d : d + x.shape[1]] for d in range(size))
        return (x / (bias + alpha / size * energy) ** beta,)


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


def evaluator(model):
    return ReferenceEvaluator(model, new_ops=[LRN, MaxPool])

"""Patch whitening: a first convolution that is not learned but worked out from the images."""

from collections.abc import Sequence

import numpy as np

from ..backend.device import to_device_of
from ..layer import Buffer, Layer, walk
from .check import check_count
from .conv import Conv2D

EPS = 5e-4  # airbench's
IMAGES = 5000


class PatchWhitening(Conv2D):
    """A convolution whose filters make the patches of natural images white: of unit variance, and uncorrelated.

    Neighbouring pixels are alike, so that a patch p of k x k pixels, as one vector, has a few large variances (its mean
    colour) and many small ones (its edges). With the patches' second moments and their eigenvectors,

        E[p p^T] = sum_i lambda_i v_i v_i^T         filters  +- v_i / sqrt(lambda_i + eps),  largest lambda_i first

    the filters' outputs have variance 1 and are uncorrelated. Each filter comes with both signs, since the ReLU that
    follows loses one. `fit` sets them, before training; from then on they stay, and only the bias is learned:

        y = conv(x, filters) + b        db = sum_{n,p,q} dy        dx as for any convolution (layers/conv.py)

    x: (N, H, W, in_channels), y: (N, H - k + 1, W - k + 1, 2 k^2 in_channels). kernel: k. Until it is fitted, the
    filters are random. Raises what Conv2D does. Page 2019, "How to train your ResNet 4"; Jordan 2024, arXiv:2404.00498,
    section 3.2, where k is 2.
    """

    def __init__(self, in_channels: int, kernel: int = 2, *, rng: np.random.Generator | None = None):
        k = check_count("PatchWhitening", "kernel", kernel)
        channels = check_count("PatchWhitening", "in_channels", in_channels)
        super().__init__(channels, 2 * k * k * channels, k, pad="valid", rng=rng)
        self.weight = Buffer(self.weight.data)  # no Param: Conv2D.backward makes no gradient for it

    def fit(self, images: np.ndarray) -> None:
        """Set the filters for images (N, H, W, in_channels) of floats, normalised as those to come."""
        k, channels = self.kernel[0], self.in_channels
        windows = np.lib.stride_tricks.sliding_window_view(images, (k, k), axis=(1, 2))  # (N, H', W', C, k, k)
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, k * k * channels)
        moments = (patches.T @ patches).astype(np.float64) / len(patches)
        variances, directions = np.linalg.eigh(moments)
        filters = (directions / np.sqrt(variances + EPS))[:, ::-1]
        filters = np.concatenate([filters, -filters], axis=1).reshape(k, k, channels, -1)
        self.weight.data[...] = to_device_of(filters.astype(self.weight.data.dtype), self.weight.data)


def whiten(net: Layer, images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> None:
    """Fit every PatchWhitening of a network to images (N, H, W, C) uint8: to the first 5,000, normalised by channel."""
    for _, layer in walk(net):
        if isinstance(layer, PatchWhitening):
            layer.fit((images[:IMAGES] - np.asarray(mean, np.float32)) / np.asarray(std, np.float32))

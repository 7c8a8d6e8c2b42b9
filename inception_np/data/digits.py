"""The digits that come with scikit-learn: the test set of Alpaydin & Kaynak 1998, 8x8 pixels in 17 shades."""

import numpy as np

from ..backend.errors import RefusedError

EVERY, FACTOR, SHADES = 5, 4, 16
Part = tuple[np.ndarray, np.ndarray]  # images and labels


def digits() -> tuple[Part, Part]:
    """((images, labels) for training, (images, labels) for testing), images (N, 32, 32, 1) uint8.

    Every fifth digit is a test image: 1438 for training and 359 for testing. Each pixel becomes a square of 4x4, which
    makes the 32x32 that the `_cifar` networks take. Raises RefusedError where there is no scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise RefusedError(
            "digits: scikit-learn, which has them, is not there; pip install inception-np[data]"
        ) from error
    found = load_digits()
    shades = np.rint(found.images * (255 / SHADES)).astype(np.uint8)
    images = shades.repeat(FACTOR, axis=1).repeat(FACTOR, axis=2)[..., None]
    labels = found.target.astype(np.int64)
    test = np.arange(len(labels)) % EVERY == EVERY - 1
    return (images[~test], labels[~test]), (images[test], labels[test])

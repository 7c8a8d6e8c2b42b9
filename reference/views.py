"""The six views of an image that test-time augmentation averages over. Jordan 2024, arXiv:2404.00498."""

import numpy as np


def six_views(images):
    """[(weight, view)]: the images, and two crops of them with a border of one pixel, each plain and mirrored.

    images and views: (N, H, W, C). The border is filled by reflection; (down, right) is where a crop begins in the
    image without its border.
    """
    height, width = images.shape[1:3]

    def reflected(at, size):
        """The row or column that one beyond the edge shows."""
        return -at if at < 0 else 2 * (size - 1) - at if at >= size else at

    found = []
    for weight, down, right in ((0.25, 0, 0), (0.125, -1, -1), (0.125, 1, 1)):
        plain, mirrored = np.empty_like(images), np.empty_like(images)
        for i in range(height):
            for j in range(width):
                plain[:, i, j] = images[:, reflected(i + down, height), reflected(j + right, width)]
        for j in range(width):
            mirrored[:, :, j] = plain[:, :, width - 1 - j]
        found += [(weight, plain), (weight, mirrored)]
    return found

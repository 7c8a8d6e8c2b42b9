"""What the tiles of conv.cu compute is mostly wanted: the rest pads rows, columns and terms to whole tiles.

The launches are those of a training step, with the choice of tiles that kernels/cuda/conv.py makes; nothing runs.
(Taps beside the image count as wanted: every implementation that multiplies matrices has them.)
"""

import re
from unittest import mock

import numpy as np
import pytest

from inception_np import create_model
from inception_np.kernels.cuda import conv, launch
from inception_np.layers.conv import Conv2D

LEAST = 0.75
BK = 16  # terms of a step of conv.cu


def convolutions(name, batch):
    """Each convolution of a network for CIFAR-10, and the shape of its x."""
    found, geometry = {}, Conv2D._geometry

    def seen(layer, shape):
        found[layer] = shape
        return geometry(layer, shape)

    with mock.patch.object(Conv2D, "_geometry", seen):
        create_model(name).out_shape((batch, 32, 32, 3))
    return found


def taps(d, size, taps, stride, dilation, pad):
    """Along one side, for each remainder by the stride: its pixels, and the taps that they are seen through."""
    for first in range(d[stride]):
        seen = sum((first + d[pad] - r * d[dilation]) % d[stride] == 0 for r in range(d[taps]))
        yield len(range(first, d[size], d[stride])), seen


def products(kernel, d, outputs, groups, share):
    """(rows, columns, terms) of the matrix products of a launch, for one group."""
    inputs, outputs, pixels = d["C"] // groups, outputs // groups, d["N"] * d["OH"] * d["OW"]
    weights = d["kh"] * d["kw"] * inputs
    if kernel == "conv2d":
        return [(pixels, outputs, weights)]
    if kernel == "conv2d_dw":
        return [(weights, outputs, min(share, pixels - first)) for first in range(0, pixels, share)]
    columns = list(taps(d, "W", "kw", "sw", "dw", "left"))
    return [
        (d["N"] * h * w, inputs, r * s * outputs) for h, r in taps(d, "H", "kh", "sh", "dh", "top") for w, s in columns
    ]


def multiply_adds(name, batch):
    """{kernel: [multiply-adds that a training step wants, those that its tiles make]}."""
    found = {kernel: [0, 0] for kernel in ("conv2d", "conv2d_dx", "conv2d_dw")}

    def launched(source, kernel, grid, *args, options):
        at = next(i for i, a in enumerate(args) if isinstance(a, tuple))
        d = dict(zip(launch.struct("conv.cu", "Window").names, args[at], strict=True))
        groups, made = args[at + 2], products(kernel, d, *args[at + 1 : at + 3], args[-1])
        tile = dict(re.findall(r"-D(BM|BN|SHARES)=(\d+)", " ".join(options)))
        sides = int(tile["BM"]), int(tile["BN"]), BK * int(tile["SHARES"])
        assert grid[0][2] == groups * len(made)
        for product in made:
            tiles = [-(-count // side) for count, side in zip(product, sides, strict=True)]
            assert tiles[0] <= grid[0][0] and tiles[1] == grid[0][1], "a part of the result is nobody's"
            found[kernel][0] += groups * int(np.prod(product))
            found[kernel][1] += groups * int(np.prod(tiles) * np.prod(sides))

    with (
        mock.patch.object(conv, "launch", launched),
        mock.patch.object(conv, "width", lambda *_: 4),
        mock.patch.object(conv, "add_parts", lambda *_: None),
    ):
        for layer, shape in convolutions(name, batch).items():
            x, w, geometry = np.empty(shape, np.float32), layer.weight.data, layer._geometry(shape)
            y = conv.conv2d(x, w, None, *geometry, False, None)
            conv.conv2d_dw(x, y, np.empty_like(w), *geometry)
            if shape[3] != 3:  # nobody asks for the gradient of the images
                conv.conv2d_dx(y, w, shape, *geometry, None)
    return found


def share(found):
    return sum(wanted for wanted, _ in found.values()) / sum(made for _, made in found.values())


@pytest.mark.parametrize("batch", [256, 512])
def test_three_quarters_of_what_tiles_compute_are_wanted(batch):
    found = multiply_adds("inception_v3_cifar", batch)
    macs = sum(batch * layer.macs(shape) for layer, shape in convolutions("inception_v3_cifar", batch).items())
    assert found["conv2d"][0] == found["conv2d_dw"][0] == macs
    by_pass = {kernel: f"{wanted / made:.1%}" for kernel, (wanted, made) in found.items()}
    assert share(found) >= LEAST, by_pass


@pytest.mark.parametrize(
    "choice, wrong",
    [
        ("_across", lambda columns, most: most),
        ("_across", lambda columns, most: 48),
        ("_dw_tile", lambda rows, columns: (128, 96, 1)),
    ],
)
def test_tiles_of_one_size_are_seen_to_be_padding(choice, wrong, monkeypatch):
    monkeypatch.setattr(conv, choice, wrong)
    assert share(multiply_adds("inception_v3_cifar", 256)) < LEAST

"""Configurations drawn by Hypothesis: for every layer, every option of it, on small arrays of unlike sides.

A case is a constructor call as text, the shape of x and a seed. The text is what a failing test prints, and can be
pasted; the values of x, dy and the parameters come from the seed, so that shrinking works on the configuration
alone. All draws begin at their simplest: one image, one channel, 1x1 kernels, stride 1, no padding, no bias. H
and W are drawn as the least that is legal plus something, and are never equal; nothing is drawn and thrown away.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

import inception_np

from .layer import Mode, cast, named_buffers, named_params


def randomise(layer, seed):
    """Draw every parameter and running average anew, so that no gamma is 1 and no beta is 0."""
    rng = np.random.default_rng([seed, 1])
    for p in named_params(layer).values():
        p.data[...] = rng.standard_normal(p.data.shape)
    for name, b in named_buffers(layer).items():
        away_from_zero = name.rpartition(".")[2] == "var"
        draw = rng.uniform(0.5, 2, b.data.shape) if away_from_zero else rng.standard_normal(b.data.shape)
        b.data[...] = draw
    return layer


def random_like(y, seed):
    """Random numbers in the structure of y: an array, or tuples and dicts of arrays (auxiliary heads)."""
    rng = np.random.default_rng([seed, 2])

    def draw(y):
        if isinstance(y, tuple):
            return tuple(map(draw, y))
        if isinstance(y, dict):
            return {k: draw(v) for k, v in y.items()}
        return rng.standard_normal(y.shape).astype(y.real.dtype)

    return draw(y)


def mode(train, seed, keep=True):
    """A mode with its own generator, always in the same state for the same seed."""
    return Mode(train=train, keep=keep, rng=np.random.default_rng([seed, 3]))


class Names(dict):
    """Every public name of the library."""

    def __missing__(self, name):
        if name in inception_np.__all__:
            return getattr(inception_np, name)
        raise KeyError(name)


@dataclass(frozen=True)
class Case:
    text: str
    shape: tuple[int, ...]
    seed: int = 0
    train: bool = True

    def layer(self, dtype=np.float64):
        layer = eval(self.text, {"rng": np.random.default_rng([self.seed, 5])}, Names())
        return cast(randomise(layer, self.seed), dtype)

    def x(self, dtype=np.float64):
        return np.random.default_rng([self.seed, 6]).standard_normal(self.shape).astype(dtype)

    def dy(self, y):
        return random_like(y, self.seed)

    def mode(self, keep=True):
        return mode(self.train, self.seed, keep)

    def forward(self, dtype=np.float64):
        """(layer, x, y, cache, dy)"""
        layer, x = self.layer(dtype), self.x(dtype)
        y, cache = layer.forward(x, self.mode())
        return layer, x, y, cache, self.dy(y)


seeds = st.integers(0, 2**16)
flags = st.booleans()


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


def pads(high=(2, 2)):
    """((top, bottom), (left, right)), each side on its own."""
    h, w = (st.integers(0, n) for n in high)
    return st.tuples(st.tuples(h, h), st.tuples(w, w))


@st.composite
def windows(draw, largest=3, dilated=True, pooling=False, named=False, slack=3, known=()):
    """kernel, stride, pad, dilation and a plane (H, W) on which at least one window fits.

    pooling: pads smaller than the window. named: the pad as a layer takes it, in any of its forms, as text. known:
    pairs (kernel, stride), undilated, of which every other example has one.
    """
    if known and draw(flags):
        kernel, stride = draw(st.sampled_from(known))
        dilated = False
    else:
        kernel, stride = draw(pairs(1, largest)), draw(pairs(1, 3))
    dilation = draw(pairs(1, 2)) if dilated else (1, 1)
    high = tuple(min(2, k - 1) for k in kernel) if pooling else (2, 2)
    form = draw(st.sampled_from(["four", "int", "pair", "valid", "same"])) if named else "four"
    if form == "int":
        pad = draw(st.integers(0, min(high)))
        both = ((pad, pad), (pad, pad))
    elif form == "pair":
        pad = draw(st.integers(0, high[0])), draw(st.integers(0, high[1]))
        both = ((pad[0], pad[0]), (pad[1], pad[1]))
    elif form == "valid":
        pad, both = "valid", ((0, 0), (0, 0))
    elif form == "same":
        pad, both = "same", ((9, 9), (9, 9))  # fits whatever the plane
    else:
        pad = both = draw(pads(high))
    plane = []
    for k, d, ends in zip(kernel, dilation, both, strict=True):
        plane.append(max(1, d * (k - 1) + 1 - sum(ends)) + draw(st.integers(0, slack)))
    H, W = plane
    return kernel, stride, repr(pad) if named else pad, dilation, (H, W + (W == H))


@st.composite
def conv(draw):
    kernel, stride, pad, dilation, plane = draw(windows(named=True))
    groups = draw(st.integers(1, 3))
    C, F = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    text = (
        f"Conv2D({C}, {F}, {kernel}, stride={stride}, pad={pad}, "
        f"dilation={dilation}, groups={groups}, bias={draw(flags)}, rng=rng)"
    )
    return Case(text, (draw(st.integers(1, 2)), *plane, C), draw(seeds))


@st.composite
def depthwise(draw):
    kernel, stride, pad, dilation, plane = draw(windows(named=True))
    C = draw(st.integers(1, 3))
    text = (
        f"DepthwiseConv2D({C}, {kernel}, multiplier={draw(st.integers(1, 2))}, stride={stride}, "
        f"pad={pad}, dilation={dilation}, bias={draw(flags)}, rng=rng)"
    )
    return Case(text, (draw(st.integers(1, 2)), *plane, C), draw(seeds))


@st.composite
def separable(draw):
    kernel, stride, pad, _, plane = draw(windows(dilated=False, named=True))
    C = draw(st.integers(1, 3))
    between = draw(st.sampled_from(["None", "ReLU()", f"BatchNorm({C})"]))
    text = (
        f"SeparableConv2D({C}, {draw(st.integers(1, 3))}, {kernel}, stride={stride}, "
        f"pad={pad}, between={between}, rng=rng)"
    )
    return Case(text, (draw(st.integers(2, 3)), *plane, C), draw(seeds), draw(flags))


@st.composite
def conv_bn_relu(draw):
    kernel, stride, pad, _, plane = draw(windows(dilated=False, named=True))
    C, F = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    text = f"ConvBNReLU({C}, {F}, {kernel}, stride={stride}, pad={pad}, scale={draw(flags)}, rng=rng)"
    return Case(text, (draw(st.integers(2, 3)), *plane, C), draw(seeds), not draw(flags))


@st.composite
def conv_relu(draw):
    kernel, stride, pad, _, plane = draw(windows(dilated=False, named=True))
    C, F = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    text = f"ConvReLU({C}, {F}, {kernel}, stride={stride}, pad={pad}, rng=rng)"
    return Case(text, (draw(st.integers(1, 2)), *plane, C), draw(seeds))


@st.composite
def max_pool(draw):
    size, stride, pad, _, plane = draw(windows(dilated=False, pooling=True, named=True))
    text = f"MaxPool2D({size}, stride={draw(st.sampled_from([stride, stride, None]))}, pad={pad}, ceil={draw(flags)})"
    return Case(text, (draw(st.integers(1, 2)), *plane, draw(st.integers(1, 3))), draw(seeds))


@st.composite
def avg_pool(draw):
    size, stride, pad, _, plane = draw(windows(dilated=False, pooling=True, named=True))
    text = (
        f"AvgPool2D({size}, stride={draw(st.sampled_from([stride, stride, None]))}, "
        f"pad={pad}, ceil={draw(flags)}, count_include_pad={draw(flags)})"
    )
    return Case(text, (draw(st.integers(1, 2)), *plane, draw(st.integers(1, 3))), draw(seeds))


@st.composite
def planes(draw, channels=4):
    """(N, H, W, C) with H unlike W."""
    H, W = draw(pairs(1, 4))
    return (draw(st.integers(1, 3)), H, W + (W == H), draw(st.integers(1, channels)))


@st.composite
def global_avg_pool(draw):
    return Case("GlobalAvgPool2D()", draw(planes()), draw(seeds))


@st.composite
def adaptive_avg_pool(draw):
    return Case(f"AdaptiveAvgPool2D({draw(pairs(1, 5))})", draw(planes()), draw(seeds))


@st.composite
def flatten(draw):
    return Case("Flatten()", draw(planes()), draw(seeds))


@st.composite
def relu(draw):
    return Case("ReLU()", draw(planes()), draw(seeds))


@st.composite
def elu(draw):
    return Case("ELU()", draw(planes()), draw(seeds))


@st.composite
def dropout(draw):
    rate = draw(st.sampled_from([0.5, 0.25, 0.9, 0.0]))
    return Case(f"Dropout({rate})", draw(planes()), draw(seeds), not draw(flags))


@st.composite
def linear(draw):
    i, o = draw(pairs(1, 5))
    text = f"Linear({i}, {o}, bias={draw(flags)}, rng=rng)"
    return Case(text, (draw(st.integers(1, 3)), i), draw(seeds))


@st.composite
def scale(draw):
    return Case(f"Scale({draw(st.sampled_from([2.0, -0.5, 1 / 9]))})", draw(planes()), draw(seeds))


@st.composite
def whitening(draw):
    C, k = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (3, 2), (1, 3)]))
    plane = k + draw(st.integers(0, 3)), k + draw(st.integers(0, 3))
    return Case(f"PatchWhitening({C}, {k}, rng=rng)", (draw(st.integers(1, 2)), *plane, C), draw(seeds))


@st.composite
def batch_norm(draw):
    shape = draw(planes())
    eps = draw(st.sampled_from([1e-3, 1e-5, 0.5]))
    text = f"BatchNorm({shape[3]}, eps={eps}, decay={draw(st.sampled_from([0.9, 0.5]))}, scale={draw(flags)})"
    return Case(text, shape, draw(seeds), not draw(flags))


@st.composite
def lrn(draw):
    alpha = draw(st.sampled_from([1.0, 0.5, 2.0]))
    text = (
        f"LRN({draw(st.sampled_from([1, 3, 5]))}, alpha={alpha}, beta={draw(st.sampled_from([1.0, 0.75, 0.5]))}, "
        f"k={draw(st.sampled_from([1.0, 2.0, 0.5]))}, divide_by_size={draw(flags)})"
    )
    return Case(text, draw(planes(channels=7)), draw(seeds))


# One strategy for every layer. `LINEAR` are linear in x (some plus a constant), and have an adjoint.
LAYERS = {
    "Conv2D": conv(),
    "DepthwiseConv2D": depthwise(),
    "SeparableConv2D": separable(),
    "ConvBNReLU": conv_bn_relu(),
    "ConvReLU": conv_relu(),
    "MaxPool2D": max_pool(),
    "AvgPool2D": avg_pool(),
    "GlobalAvgPool2D": global_avg_pool(),
    "AdaptiveAvgPool2D": adaptive_avg_pool(),
    "Flatten": flatten(),
    "ReLU": relu(),
    "ELU": elu(),
    "Dropout": dropout(),
    "Linear": linear(),
    "Scale": scale(),
    "PatchWhitening": whitening(),
    "BatchNorm": batch_norm(),
    "LRN": lrn(),
}
LINEAR = (
    "Conv2D",
    "DepthwiseConv2D",
    "AvgPool2D",
    "GlobalAvgPool2D",
    "AdaptiveAvgPool2D",
    "Flatten",
    "Dropout",
    "Linear",
    "Scale",
    "PatchWhitening",
)


# Blocks: trees of layers as the networks have them. A block is text that takes C channels on an (H, W) plane and
# keeps the plane; it is drawn together with the channels that it gives.


@st.composite
def units(draw, C):
    """A layer that keeps the plane, and its output channels."""
    F = draw(st.integers(1, 3))
    kernel = draw(st.sampled_from([1, (1, 3), (3, 2)]))
    return draw(
        st.sampled_from(
            [
                ("ReLU()", C),
                (f"Conv2D({C}, {F}, {kernel}, rng=rng)", F),
                (f"ConvReLU({C}, {F}, {kernel}, rng=rng)", F),
                (f"ConvBNReLU({C}, {F}, {kernel}, rng=rng)", F),
                (f"BatchNorm({C})", C),
                ("MaxPool2D(3, stride=1, pad=1)", C),
                ("AvgPool2D((3, 2), stride=1, pad='same')", C),
                ("LRN(3, alpha=0.5)", C),
                ("Dropout(0.5)", C),
                (f"SeparableConv2D({C}, {F}, (3, 2), rng=rng)", F),
            ]
        )
    )


@st.composite
def chains(draw, C, depth=1):
    """A Sequential of none to three units, or of smaller blocks."""
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        text, C = draw(blocks(C, depth - 1) if depth > 0 and draw(flags) else units(C))
        parts.append(text)
    return f"Sequential({', '.join(parts)})", C


@st.composite
def blocks(draw, C, depth=1):
    kind = draw(st.sampled_from(["Sequential", "Concat", "Residual"]))
    if kind == "Concat":
        drawn = [draw(chains(C, depth - 1)) for _ in range(draw(st.integers(1, 3)))]
        branches = ", ".join(f"b{i}={text}" for i, (text, _) in enumerate(drawn))
        return f"Concat({branches})", sum(F for _, F in drawn)
    text, F = draw(chains(C, depth - 1))
    if kind == "Sequential":
        return text, F
    scale = draw(st.sampled_from([1.0, 0.25]))
    shortcut = "None" if F == C else f"Conv2D({C}, {F}, 1, rng=rng)"
    return f"Residual({text}, shortcut={shortcut}, scale={scale})", F


@st.composite
def networks(draw):
    """A whole small tree with its input: two images at least, so that batch norm has something to normalise."""
    C = draw(st.integers(1, 3))
    text, _ = draw(blocks(C, depth=2))
    H, W = draw(pairs(2, 4))
    shape = (draw(st.integers(2, 3)), H, W + (W == H), C)
    return Case(text, shape, draw(seeds), not draw(flags))

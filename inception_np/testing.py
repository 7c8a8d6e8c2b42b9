"""For property tests of your own layers: strategies for Hypothesis, and numbers that follow from a seed.

    import numpy as np
    from hypothesis import given
    from inception_np import Layer, check_gradients
    from inception_np.testing import normal, seeds, shapes

    class Swish(Layer):  # y = x s with s = 1 / (1 + exp(-x))
        def forward(self, x, mode):
            return x / (1 + np.exp(-x)), None

        def backward(self, dy, x, cache):
            s = 1 / (1 + np.exp(-x))
            return dy * s * (1 + x * (1 - s))

    @given(shapes(), seeds)
    def test_swish_has_the_gradient_that_it_says(shape, seed):
        report = check_gradients(Swish(), normal(shape, seed), seed=seed)
        assert report.ok, report

Hypothesis draws configurations: `shapes`, `windows`, `pads`, `seeds`; for every layer of the library a `Case` from
`LAYERS`; whole trees of layers from `networks`. The numbers in the arrays come from a drawn seed (`normal`, `distinct`,
`random_like`, `randomise`), so that shrinking works on the configuration alone. Every draw begins at its simplest: one
image, one channel, 1x1 kernels, stride 1, no padding, no bias. H and W are drawn as the smallest legal size plus
something, and are never equal; no example is drawn and thrown away.

Needs Hypothesis, which `pip install "inception-np[test]"` brings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

import inception_np

from .backend.arrays import Shape, map_tree
from .kernels.window import Pads, Pair
from .layer import Layer, Mode, cast, named_buffers, named_params

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError('inception_np.testing needs Hypothesis: pip install "inception-np[test]"') from error

L = TypeVar("L", bound=Layer)


# -- numbers that follow from a seed ------------------------------------------------------------------------------


def normal(shape: Shape, seed: int, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Normal numbers of mean 0 and standard deviation 1, such as an x to try a layer on."""
    return np.random.default_rng([seed, 6]).standard_normal(shape).astype(dtype)


def distinct(shape: Shape, seed: int, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Numbers from -2 to 2 in random order, any two at least 4 / size apart, and none within 2 / size of zero.

    While no number moves by 2 / size, max pooling keeps its winners and ReLU its signs, so finite differences cross
    no kink.
    """
    size = int(np.prod(shape))
    order = np.random.default_rng([seed, 7]).permutation(size)
    return ((order - size // 2 + 0.5) * (4 / max(size, 1))).reshape(shape).astype(dtype)


def random_like(y: Any, seed: int | list[int]) -> Any:
    """Normal numbers in the structure of y, such as a dy: an array, or tuples and dicts of arrays (auxiliary heads)."""
    rng = np.random.default_rng([*np.atleast_1d(seed), 2])
    return map_tree(lambda a: rng.standard_normal(a.shape).astype(a.real.dtype), y)


def randomise(layer: L, seed: int) -> L:
    """Draw every parameter and running average of the layer anew, so that no gamma is 1 and no beta 0. Returns it."""
    rng = np.random.default_rng([seed, 1])
    for p in named_params(layer).values():
        p.data[...] = rng.standard_normal(p.data.shape)
    for name, b in named_buffers(layer).items():
        is_variance = name.rpartition(".")[2] == "var"
        b.data[...] = rng.uniform(0.5, 2, b.data.shape) if is_variance else rng.standard_normal(b.data.shape)
    return layer


def mode(train: bool, seed: int, keep: bool = True) -> Mode:
    """A mode with a generator of its own: the same seed gives every call the same dropout masks."""
    return Mode(train=train, keep=keep, rng=np.random.default_rng([seed, 3]))


# -- shapes and options -------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**16)  # for the functions above
flags = st.booleans()  # of options that are on or off


def pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    """Two whole numbers from low to high, each on its own."""
    return st.tuples(st.integers(low, high), st.integers(low, high))


def pads(high: Pair = (2, 2)) -> st.SearchStrategy[Pads]:
    """((top, bottom), (left, right)), each side on its own and at most high[0] in rows, high[1] in columns."""
    h, w = (st.integers(0, n) for n in high)
    return st.tuples(st.tuples(h, h), st.tuples(w, w))


@st.composite
def shapes(draw: st.DrawFn, channels: int = 4) -> Shape:
    """(N, H, W, C) with up to 3 images, H unlike W, and up to `channels` channels."""
    H, W = draw(pairs(1, 4))
    return (draw(st.integers(1, 3)), H, W + (W == H), draw(st.integers(1, channels)))


@st.composite
def windows(
    draw: st.DrawFn,
    largest: int = 3,
    dilated: bool = True,
    pooling: bool = False,
    named: bool = False,
    slack: int = 3,
    known: Sequence[tuple[Pair, Pair]] = (),
) -> tuple[Pair, Pair, Any, Pair, Pair]:
    """kernel, stride, pad, dilation and a plane (H, W) on which at least one window fits.

    largest: of a kernel's sides. pooling: pads smaller than the window. named: the pad as a layer takes it, in any of
    its forms, as text; else ((top, bottom), (left, right)). slack: how much larger than needed the plane may be. known:
    pairs (kernel, stride), undilated, of which every other example has one.
    """
    if len(known) > 0 and draw(flags):
        kernel, stride = draw(st.sampled_from(known))
        dilated = False
    else:
        kernel, stride = draw(pairs(1, largest)), draw(pairs(1, 3))
    dilation = draw(pairs(1, 2)) if dilated else (1, 1)
    high = (min(2, kernel[0] - 1), min(2, kernel[1] - 1)) if pooling else (2, 2)
    pad: Any
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


# -- layers -------------------------------------------------------------------------------------------------------


class Names(dict[str, Any]):
    """Every public name of the library, for `eval` of a case's text."""

    def __missing__(self, name: str) -> Any:
        if name in inception_np.__all__:
            return getattr(inception_np, name)
        raise KeyError(name)


@dataclass(frozen=True)
class Case:
    """A layer as its constructor's call, the shape of an x for it, a seed for all numbers, and the mode.

    The text is what a failing test prints, and can be pasted; `rng` in it is a generator that follows from the seed.
    """

    text: str
    shape: Shape
    seed: int = 0
    train: bool = True

    def layer(self, dtype: DTypeLike = np.float64) -> Layer:
        """A new layer, its parameters and running averages drawn by `randomise`."""
        layer: Layer = eval(self.text, {"rng": np.random.default_rng([self.seed, 5])}, Names())
        return cast(randomise(layer, self.seed), dtype)

    def x(self, dtype: DTypeLike = np.float64) -> np.ndarray:
        return normal(self.shape, self.seed, dtype)

    def dy(self, y: Any) -> Any:
        return random_like(y, self.seed)

    def mode(self, keep: bool = True) -> Mode:
        return mode(self.train, self.seed, keep)

    def forward(self, dtype: DTypeLike = np.float64) -> tuple[Layer, np.ndarray, Any, Any, Any]:
        """(layer, x, y, cache, dy), ready for backward."""
        layer, x = self.layer(dtype), self.x(dtype)
        y, cache = layer.forward(x, self.mode())
        return layer, x, y, cache, self.dy(y)


@st.composite
def conv(draw: st.DrawFn) -> Case:
    kernel, stride, pad, dilation, plane = draw(windows(named=True))
    groups = draw(st.integers(1, 3))
    C, F = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    text = (
        f"Conv2D({C}, {F}, {kernel}, stride={stride}, pad={pad}, "
        f"dilation={dilation}, groups={groups}, bias={draw(flags)}, rng=rng)"
    )
    return Case(text, (draw(st.integers(1, 2)), *plane, C), draw(seeds))


@st.composite
def depthwise(draw: st.DrawFn) -> Case:
    kernel, stride, pad, dilation, plane = draw(windows(named=True))
    C = draw(st.integers(1, 3))
    text = (
        f"DepthwiseConv2D({C}, {kernel}, multiplier={draw(st.integers(1, 2))}, stride={stride}, "
        f"pad={pad}, dilation={dilation}, bias={draw(flags)}, rng=rng)"
    )
    return Case(text, (draw(st.integers(1, 2)), *plane, C), draw(seeds))


@st.composite
def separable(draw: st.DrawFn) -> Case:
    kernel, stride, pad, _, plane = draw(windows(dilated=False, named=True))
    C = draw(st.integers(1, 3))
    between = draw(st.sampled_from(["None", "ReLU()", f"BatchNorm({C})"]))
    text = (
        f"SeparableConv2D({C}, {draw(st.integers(1, 3))}, {kernel}, stride={stride}, "
        f"pad={pad}, between={between}, rng=rng)"
    )
    return Case(text, (draw(st.integers(2, 3)), *plane, C), draw(seeds), draw(flags))


@st.composite
def conv_bn_relu(draw: st.DrawFn) -> Case:
    kernel, stride, pad, _, plane = draw(windows(dilated=False, named=True))
    C, F = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    text = f"ConvBNReLU({C}, {F}, {kernel}, stride={stride}, pad={pad}, scale={draw(flags)}, rng=rng)"
    return Case(text, (draw(st.integers(2, 3)), *plane, C), draw(seeds), not draw(flags))


@st.composite
def conv_relu(draw: st.DrawFn) -> Case:
    kernel, stride, pad, _, plane = draw(windows(dilated=False, named=True))
    C, F = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    text = f"ConvReLU({C}, {F}, {kernel}, stride={stride}, pad={pad}, rng=rng)"
    return Case(text, (draw(st.integers(1, 2)), *plane, C), draw(seeds))


@st.composite
def max_pool(draw: st.DrawFn) -> Case:
    size, stride, pad, _, plane = draw(windows(dilated=False, pooling=True, named=True))
    text = f"MaxPool2D({size}, stride={draw(st.sampled_from([stride, stride, None]))}, pad={pad}, ceil={draw(flags)})"
    return Case(text, (draw(st.integers(1, 2)), *plane, draw(st.integers(1, 3))), draw(seeds))


@st.composite
def avg_pool(draw: st.DrawFn) -> Case:
    size, stride, pad, _, plane = draw(windows(dilated=False, pooling=True, named=True))
    text = (
        f"AvgPool2D({size}, stride={draw(st.sampled_from([stride, stride, None]))}, "
        f"pad={pad}, ceil={draw(flags)}, count_include_pad={draw(flags)})"
    )
    return Case(text, (draw(st.integers(1, 2)), *plane, draw(st.integers(1, 3))), draw(seeds))


def on_any(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Case]:
    """Cases of a layer that takes any (N, H, W, C), in training and not."""
    return st.builds(Case, texts, shapes(), seeds, st.sampled_from([True, False]))


@st.composite
def linear(draw: st.DrawFn) -> Case:
    i, o = draw(pairs(1, 5))
    text = f"Linear({i}, {o}, bias={draw(flags)}, rng=rng)"
    return Case(text, (draw(st.integers(1, 3)), i), draw(seeds))


@st.composite
def whitening(draw: st.DrawFn) -> Case:
    C, k = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (3, 2), (1, 3)]))
    plane = k + draw(st.integers(0, 3)), k + draw(st.integers(0, 3))
    return Case(f"PatchWhitening({C}, {k}, rng=rng)", (draw(st.integers(1, 2)), *plane, C), draw(seeds))


@st.composite
def batch_norm(draw: st.DrawFn) -> Case:
    shape = draw(shapes())
    eps = draw(st.sampled_from([1e-3, 1e-5, 0.5]))
    text = f"BatchNorm({shape[3]}, eps={eps}, decay={draw(st.sampled_from([0.9, 0.5]))}, scale={draw(flags)})"
    return Case(text, shape, draw(seeds), not draw(flags))


@st.composite
def lrn(draw: st.DrawFn) -> Case:
    alpha = draw(st.sampled_from([1.0, 0.5, 2.0]))
    text = (
        f"LRN({draw(st.sampled_from([1, 3, 5]))}, alpha={alpha}, beta={draw(st.sampled_from([1.0, 0.75, 0.5]))}, "
        f"k={draw(st.sampled_from([1.0, 2.0, 0.5]))}, divide_by_size={draw(flags)})"
    )
    return Case(text, draw(shapes(channels=7)), draw(seeds))


# A strategy of cases for every layer. Those of `LINEAR` are linear in x (some plus a constant), and have an adjoint.
LAYERS: dict[str, st.SearchStrategy[Case]] = {
    "Conv2D": conv(),
    "DepthwiseConv2D": depthwise(),
    "SeparableConv2D": separable(),
    "ConvBNReLU": conv_bn_relu(),
    "ConvReLU": conv_relu(),
    "MaxPool2D": max_pool(),
    "AvgPool2D": avg_pool(),
    "GlobalAvgPool2D": on_any(st.just("GlobalAvgPool2D()")),
    "AdaptiveAvgPool2D": on_any(pairs(1, 5).map("AdaptiveAvgPool2D({})".format)),
    "Flatten": on_any(st.just("Flatten()")),
    "ReLU": on_any(st.just("ReLU()")),
    "ELU": on_any(st.just("ELU()")),
    "Dropout": on_any(st.sampled_from([0.5, 0.25, 0.9, 0.0]).map("Dropout({})".format)),
    "Linear": linear(),
    "Scale": on_any(st.sampled_from([2.0, -0.5, 1 / 9]).map("Scale({})".format)),
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


# -- blocks: trees of layers as the networks have them. A block is text that takes C channels and keeps the plane
# (H, W); it is drawn together with the channels that it gives ----------------------------------------------------


@st.composite
def units(draw: st.DrawFn, C: int) -> tuple[str, int]:
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
def chains(draw: st.DrawFn, C: int, depth: int = 1) -> tuple[str, int]:
    """A Sequential of none to three units, or of smaller blocks."""
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        text, C = draw(blocks(C, depth - 1) if depth > 0 and draw(flags) else units(C))
        parts.append(text)
    return f"Sequential({', '.join(parts)})", C


@st.composite
def blocks(draw: st.DrawFn, C: int, depth: int = 1) -> tuple[str, int]:
    """A Sequential, a Concat of branches or a Residual."""
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
def networks(draw: st.DrawFn) -> Case:
    """A small tree of layers with its input: two images at least, so that batch norm has something to normalise."""
    C = draw(st.integers(1, 3))
    text, _ = draw(blocks(C, depth=2))
    H, W = draw(pairs(2, 4))
    shape = (draw(st.integers(2, 3)), H, W + (W == H), C)
    return Case(text, shape, draw(seeds), not draw(flags))

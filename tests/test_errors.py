"""Wrong input in Python: one typed error that names the layer, what it got and what it wanted, and nothing changed.

The tables hold calls as text, each with its error and the whole of its message. Where a call is made on a layer, the
bits of its parameters, gradients and running averages are compared before and after.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics import held, snapshot

from inception_np.backend.device import DeviceError, resolve_device
from inception_np.kernels.window import ImageTooSmall
from inception_np.layer import Layer, Mode, named_params
from inception_np.layers.conv import Conv2D
from inception_np.layers.linear import Linear
from inception_np.testing import LAYERS, Names, mode, random_like
from inception_np.training.optim import SGD

# A call that makes something: its error, and what it says.
MAKING = [
    ("Conv2D(0, 8, 3)", ValueError, "Conv2D: got in_channels=0, wanted at least 1"),
    ("Conv2D(3, 8.5, 3)", TypeError, "Conv2D: got out_channels=8.5, wanted an int"),
    ("Conv2D(True, 8, 3)", TypeError, "Conv2D: got in_channels=True, wanted an int"),
    ("Conv2D(3, 8, 0)", ValueError, "Conv2D: kernel: got 0, wanted at least 1"),
    ("Conv2D(3, 8, (3,))", TypeError, "Conv2D: kernel: got (3,), wanted an int or a pair (h, w) of ints"),
    ("Conv2D(3, 8, '3')", TypeError, "Conv2D: kernel: got '3', wanted an int or a pair (h, w) of ints"),
    ("Conv2D(3, 8, 3, stride=0)", ValueError, "Conv2D: stride: got 0, wanted at least 1"),
    ("Conv2D(3, 8, 3, stride=1.5)", TypeError, "Conv2D: stride: got 1.5, wanted an int or a pair (h, w) of ints"),
    ("Conv2D(3, 8, 3, dilation=(1, 0))", ValueError, "Conv2D: dilation: got (1, 0), wanted at least 1"),
    ("Conv2D(3, 8, 3, pad=-1)", ValueError, "Conv2D: pad: got -1, wanted at least 0"),
    (
        "Conv2D(3, 8, 3, pad='reflect')",
        ValueError,
        'Conv2D: got pad=\'reflect\', wanted "same", "valid", an int, a pair or a pair of pairs',
    ),
    ("Conv2D(3, 8, 3, pad=((1, 1), (1,)))", TypeError, "Conv2D: pad: got (1,), wanted an int or a pair (h, w) of ints"),
    ("Conv2D(3, 8, 3, groups=2)", ValueError, "Conv2D: got groups=2, wanted a divisor of 3 and of 8 channels"),
    (
        "Conv2D(3, 8, 3, rng=42)",
        TypeError,
        "rng: got 42, wanted a numpy Generator, such as numpy.random.default_rng(0)",
    ),
    ("ConvReLU(3, 8, 0)", ValueError, "ConvReLU: kernel: got 0, wanted at least 1"),
    ("ConvBNReLU(3, 0, 3)", ValueError, "Conv2D: got out_channels=0, wanted at least 1"),
    ("DepthwiseConv2D(3, 3, multiplier=0)", ValueError, "DepthwiseConv2D: got multiplier=0, wanted at least 1"),
    ("SeparableConv2D(3, 8, 3, between='relu')", TypeError, "SeparableConv2D: got str for 'between', wanted a Layer"),
    ("MaxPool2D(0)", ValueError, "MaxPool2D: size: got 0, wanted at least 1"),
    ("MaxPool2D(2, pad=2)", ValueError, "MaxPool2D: got pad=2, wanted less than size=2"),
    ("AvgPool2D(3, stride=-1)", ValueError, "AvgPool2D: stride: got -1, wanted at least 1"),
    ("AvgPool2D(3, pad=((0, 3), (0, 0)))", ValueError, "AvgPool2D: got pad=((0, 3), (0, 0)), wanted less than size=3"),
    ("AdaptiveAvgPool2D(0)", ValueError, "AdaptiveAvgPool2D: size: got 0, wanted at least 1"),
    ("BatchNorm(0)", ValueError, "BatchNorm: got channels=0, wanted at least 1"),
    ("BatchNorm(4, eps=-1)", ValueError, "BatchNorm: got eps=-1, wanted 0 <= eps < inf"),
    ("BatchNorm(4, decay=1.5)", ValueError, "BatchNorm: got decay=1.5, wanted 0 <= decay < 1"),
    ("BatchNorm(4, decay='0.9')", TypeError, "BatchNorm: got decay='0.9', wanted a number"),
    ("LRN(4)", ValueError, "LRN: got size=4, wanted an odd number of channels"),
    ("LRN(5, alpha=None)", TypeError, "LRN: got alpha=None, wanted a number"),
    ("Dropout(1.0)", ValueError, "Dropout: got rate=1.0, wanted 0 <= rate < 1"),
    ("Dropout(float('nan'))", ValueError, "Dropout: got rate=nan, wanted 0 <= rate < 1"),
    ("Dropout('half')", TypeError, "Dropout: got rate='half', wanted a number"),
    ("Linear(0, 3)", ValueError, "Linear: got in_features=0, wanted at least 1"),
    ("Linear(3, None)", TypeError, "Linear: got out_features=None, wanted an int"),
    ("Sequential('conv')", TypeError, "Sequential: got str for '0', wanted a Layer"),
    ("Sequential(conv=None)", TypeError, "Sequential: got NoneType for 'conv', wanted a Layer"),
    (
        "Sequential(ReLU(), **{'0': ReLU()})",
        ValueError,
        "Sequential: got the name '0', wanted one without dots that no other layer has",
    ),
    (
        "Concat(**{'a.b': ReLU()})",
        ValueError,
        "Concat: got the name 'a.b', wanted one without dots that no other layer has",
    ),
    ("Concat()", ValueError, "Concat: got no branches, wanted at least one"),
    ("Residual(ReLU(), shortcut=1)", TypeError, "Residual: got int, wanted a Layer"),
    ("Residual(ReLU(), scale='a')", TypeError, "Residual: got scale='a', wanted a number"),
    ("SGD(Linear(3, 4), -0.1)", ValueError, "SGD: got lr=-0.1, wanted at least 0"),
    ("SGD(Linear(3, 4), 'fast')", TypeError, "SGD: got lr='fast', wanted a number"),
    ("SGD(Linear(3, 4), 0.1, momentum=float('nan'))", ValueError, "SGD: got momentum=nan, wanted at least 0"),
    (
        "SGD(Linear(3, 4), 0.1, nesterov=True)",
        ValueError,
        "SGD: got nesterov=True with momentum=0, wanted a momentum above 0",
    ),
    ("SGD('net', 0.1)", TypeError, "SGD: got str, wanted a Layer"),
    ("RMSProp(Linear(3, 4), 0.1, eps=-1)", ValueError, "RMSProp: got eps=-1, wanted at least 0"),
    ("flatten(ReLU())", ValueError, "flatten: ReLU has no parameters"),
    (
        "create_model('inception_v9')",
        ValueError,
        "create_model: got the name 'inception_v9', wanted one like inception_v4, inception_v3, inception_v2",
    ),
    ("create_model(3)", TypeError, "create_model: got 3, wanted a network's name, such as 'inception_v1'"),
    (
        "create_model('inception_v1_cifar', preset='caffe2')",
        ValueError,
        "inception_v1_cifar: got preset='caffe2', wanted one of paper",
    ),
    (
        "create_model('inception_v1_cifar', width=0)",
        ValueError,
        "inception_v1_cifar: got width=0, wanted a number above 0 and up to 10000",
    ),
    (
        "create_model('inception_v1_cifar', num_classes=2.5)",
        TypeError,
        "inception_v1_cifar: got num_classes=2.5, wanted an int",
    ),
    (
        "create_model('inception_v1_cifar', in_channels=0)",
        ValueError,
        "inception_v1_cifar: got in_channels=0, wanted at least 1",
    ),
    (
        "create_model('inception_v1_cifar', aux='yes')",
        TypeError,
        "inception_v1_cifar: got aux='yes', wanted None, True or False",
    ),
    ("create_model('inception_v1_cifar', seed=-1)", ValueError, "inception_v1_cifar: got seed=-1, wanted at least 0"),
    (
        "create_model('inception_v1_cifar', dtype='floaty', width=1/8)",
        TypeError,
        "cast: got 'floaty', wanted float32, float64 or complex128",
    ),
    (
        "create_model('inception_v1_cifar', device='tpu')",
        ValueError,
        'device: got \'tpu\', wanted "cpu", "cuda" or "auto"',
    ),
    (
        "softmax_cross_entropy(x(2, 3), np.array([0, 3]))",
        ValueError,
        "softmax_cross_entropy: got label 3 at position 1, wanted 0 <= label < 3",
    ),
    (
        "softmax_cross_entropy(x(2, 3), [-1, 2])",
        ValueError,
        "softmax_cross_entropy: got label -1 at position 0, wanted 0 <= label < 3",
    ),
    (
        "softmax_cross_entropy(x(2, 3), np.array([0.0, 2.0]))",
        TypeError,
        "softmax_cross_entropy: got labels of float64, wanted integers",
    ),
    (
        "softmax_cross_entropy(x(2, 3), np.array([0, 1, 2]))",
        ValueError,
        "softmax_cross_entropy: got labels of shape (3,), wanted (2,)",
    ),
    (
        "softmax_cross_entropy(x(0, 3), np.array([], int))",
        ValueError,
        "softmax_cross_entropy: got an empty batch (0, 3), wanted at least one row of logits",
    ),
    (
        "softmax_cross_entropy(x(2, 1, 1, 3), np.array([0, 1]))",
        ValueError,
        "softmax_cross_entropy: got logits of shape (2, 1, 1, 3), wanted (N, classes)",
    ),
    (
        "softmax_cross_entropy((x(2, 3), {}), np.array([0, 1]))",
        TypeError,
        "softmax_cross_entropy: got tuple, wanted an array of float32 or float64",
    ),
    (
        "softmax_cross_entropy(x(2, 3), np.array([0, 1]), smoothing=1.0)",
        ValueError,
        "softmax_cross_entropy: got smoothing=1.0, wanted 0 <= smoothing < 1",
    ),
]

# A layer, the x that it is given, the error, and what it says. In training.
FORWARD = [
    (
        "Conv2D(3, 8, 3)",
        "x(2, 8, 9, 4)",
        ValueError,
        "Conv2D: got x of shape (2, 8, 9, 4), wanted 3 channels (N, H, W, 3)",
    ),
    ("ConvReLU(3, 8, 3)", "x(8, 9, 3)", ValueError, "ConvReLU: got x of shape (8, 9, 3), wanted (N, H, W, C)"),
    (
        "Conv2D(3, 8, 3)",
        "x(2, 8, 9, 3).astype(np.uint8)",
        TypeError,
        "Conv2D: got an array of uint8, wanted an array of float32 or float64",
    ),
    ("Conv2D(3, 8, 3)", "[[1.0]]", TypeError, "Conv2D: got list, wanted an array of float32 or float64"),
    ("Conv2D(3, 8, 3)", "None", TypeError, "Conv2D: got NoneType, wanted an array of float32 or float64"),
    (
        "Conv2D(3, 8, 3)",
        "x(2, 8, 9, 3).astype(float)",
        TypeError,
        "Conv2D: got x of float64, wanted the weights' float32; cast(layer, 'float64') changes it",
    ),
    (
        "Conv2D(3, 8, 5, pad='valid')",
        "x(2, 4, 6, 3)",
        ImageTooSmall,
        "Conv2D: got an image of 4x6, wanted one that a 5x5 window fits into with pads ((0, 0), (0, 0))",
    ),
    (
        "Conv2D(3, 8, 3, dilation=(1, 4), pad=0)",
        "x(2, 3, 8, 3)",
        ImageTooSmall,
        "Conv2D: got an image of 3x8, wanted one that a 3x9 window fits into with pads ((0, 0), (0, 0))",
    ),
    (
        "Conv2D(3, 8, 3)",
        "x(2, 0, 6, 3)",
        ValueError,
        "Conv2D: got x of shape (2, 0, 6, 3), wanted H and W of at least 1",
    ),
    (
        "DepthwiseConv2D(3, (2, 5), pad=0)",
        "x(2, 3, 4, 3)",
        ImageTooSmall,
        "DepthwiseConv2D: got an image of 3x4, wanted one that a 2x5 window fits into with pads ((0, 0), (0, 0))",
    ),
    (
        "MaxPool2D(3, pad=((0, 1), (0, 0)))",
        "x(2, 1, 6, 3)",
        ImageTooSmall,
        "MaxPool2D: got an image of 1x6, wanted one that a 3x3 window fits into with pads ((0, 1), (0, 0))",
    ),
    ("AvgPool2D(3)", "x(6, 3)", ValueError, "AvgPool2D: got x of shape (6, 3), wanted (N, H, W, C)"),
    (
        "GlobalAvgPool2D()",
        "x(2, 5, 0, 3)",
        ValueError,
        "GlobalAvgPool2D: got x of shape (2, 5, 0, 3), wanted H and W of at least 1",
    ),
    ("ReLU()", "x(3).astype(int)", TypeError, "ReLU: got an array of int64, wanted an array of float32 or float64"),
    (
        "BatchNorm(3)",
        "x(2, 4, 6, 4)",
        ValueError,
        "BatchNorm: got x of shape (2, 4, 6, 4), wanted 3 channels (N, H, W, 3)",
    ),
    (
        "BatchNorm(3)",
        "x(1, 1, 1, 3)",
        ValueError,
        "BatchNorm: got x of shape (1, 1, 1, 3), wanted more than one value per channel in training",
    ),
    (
        "ConvBNReLU(3, 8, (4, 6), pad='valid')",
        "x(1, 4, 6, 3)",
        ValueError,
        "BatchNorm: got x of shape (1, 1, 1, 8), wanted more than one value per channel in training",
    ),
    ("LRN(5)", "x(4, 6)", ValueError, "LRN: got x of shape (4, 6), wanted (N, H, W, C)"),
    (
        "Dropout(0.5)",
        "x(4, 6)",
        ValueError,
        "Dropout: got mode.rng=None, wanted a numpy Generator, as in Mode(train=True, rng=...)",
    ),
    ("Flatten()", "'image'", TypeError, "Flatten: got str, wanted an array of float32 or float64"),
    ("Linear(3, 4)", "x(2, 4)", ValueError, "Linear: got x of shape (2, 4), wanted (N, 3)"),
    ("Linear(3, 4)", "x(2, 1, 1, 3)", ValueError, "Linear: got x of shape (2, 1, 1, 3), wanted (N, 3)"),
    (
        "Concat(a=Conv2D(3, 2, 1), b=Conv2D(3, 2, 1, stride=2))",
        "x(2, 4, 6, 3)",
        ValueError,
        "Concat: got branches of shapes {'a': (2, 4, 6, 2), 'b': (2, 2, 3, 2)}, wanted equal N, H and W",
    ),
    ("Concat(a=Conv2D(3, 2, 1))", "[1.0]", TypeError, "Concat: got list, wanted an array of float32 or float64"),
    (
        "Residual(Conv2D(3, 2, 1))",
        "x(2, 4, 6, 3)",
        ValueError,
        "Residual: got (2, 4, 6, 2) from the body, wanted the shortcut's (2, 4, 6, 3)",
    ),
    (
        "Sequential(stem=Conv2D(3, 2, 1), mixed=Concat(b3=Sequential(reduce=ReLU(), conv=Conv2D(3, 2, 1))))",
        "x(2, 4, 6, 3)",
        ValueError,
        "mixed.b3.conv: Conv2D: got x of shape (2, 4, 6, 2), wanted 3 channels (N, H, W, 3)",
    ),
    (
        "Sequential(a=Residual(Sequential(pool=MaxPool2D(3))))",
        "x(2, 2, 6, 3)",
        ImageTooSmall,
        "a.body.pool: MaxPool2D: got an image of 2x6, wanted one that a 3x3 window fits into "
        "with pads ((0, 0), (0, 0))",
    ),
    (
        "create_model('inception_v1_cifar', width=1/8)",
        "x(2, 32, 32, 1)",
        ValueError,
        "conv1.conv: ConvReLU: got x of shape (2, 32, 32, 1), wanted 3 channels (N, H, W, 3)",
    ),
    (
        "create_model('inception_v1_cifar', width=1/8, aux=False)",
        "x(2, 4, 4, 3)",
        ValueError,
        "pool3: MaxPool2D: got an image of 2x2, wanted one that a 3x3 window fits into with pads ((0, 0), (0, 0)); "
        "the smallest image that inception_v1_cifar takes is",
    ),
    (
        "create_model('inception_v1_cifar', width=1/8)",
        "x(32, 32, 3)",
        ValueError,
        "inception_v1_cifar: got x of shape (32, 32, 3), wanted (N, H, W, C)",
    ),
    (
        "create_model('inception_v1_cifar', width=1/8)",
        "x(2, 32, 32, 3)",
        ValueError,
        "aux_4a.dropout: Dropout: got mode.rng=None, wanted a numpy Generator, as in Mode(train=True, rng=...)",
    ),
]


def x(*shape):
    return np.ones(shape, np.float32)


def run(text, **names):
    return eval(text, {"x": x, "np": np, **names}, Names())


def says(info, text):
    """The message is this, whole and on one line; a row that ends in "is" leaves the number open."""
    message = str(info.value)
    assert "\n" not in message
    assert message.startswith(text) if text.endswith(" is") else message == text


@pytest.mark.parametrize("text, error, message", MAKING, ids=[row[0] for row in MAKING])
def test_making(text, error, message):
    with pytest.raises(error) as info:
        run(text)
    says(info, message)


@pytest.mark.parametrize("text, given, error, message", FORWARD, ids=[f"{row[0]} {row[1]}" for row in FORWARD])
def test_forward(text, given, error, message):
    layer, images = run(text), run(given)
    before = snapshot(layer, images)
    with pytest.raises(error) as info:
        layer.forward(images, Mode(train=True, keep=True))
    says(info, message)
    assert snapshot(layer, images) == before


def test_the_smallest_image_is_right():
    """n - 1 is refused and n is taken, n being what the error says."""
    network = run("create_model('inception_v1_cifar', width=1/8, aux=False)")
    with pytest.raises(ValueError, match="takes is") as info:
        network.forward(x(1, 1, 1, 3), Mode())
    n = int(str(info.value).rpartition("x")[2])
    assert network.forward(x(1, n, n, 3), Mode())[0].shape == (1, 10)
    with pytest.raises(ValueError, match=f"takes is {n}x{n}"):
        network.forward(x(1, n - 1, n - 1, 3), Mode())


@pytest.mark.parametrize("name", LAYERS)
@given(data=st.data())
@settings(max_examples=10)
def test_a_wrong_dy(name, data):
    """One channel, one image or one axis too many or too few, or whole numbers: refused by the layer, by name."""
    case = data.draw(LAYERS[name])
    layer, images, _, cache, dy = case.forward()
    if cache is None and name == "Dropout":
        return  # nothing is dropped: dx is dy, whatever it is
    wrong = [dy[..., :-1], dy[:-1], dy[None], np.concatenate([dy, dy]), dy.astype(int), None]
    before, kept = snapshot(layer), held(cache)
    for bad in wrong:
        with pytest.raises((ValueError, TypeError), match=r"^(\w+: )?\w+: got .*, wanted ") as info:
            layer.backward(bad, images, cache)
        who = {"SeparableConv2D": "pointwise: Conv2D"}.get(name, name)
        assert str(info.value).startswith(f"{who}: ")
        assert snapshot(layer) == before and held(cache) == kept
    layer.backward(dy, images, cache)  # and the right one is still taken


@pytest.mark.parametrize(
    "text",
    [
        "Sequential(Conv2D(3, 3, 1), ReLU())",
        "Concat(a=Conv2D(3, 3, 1))",
        "Residual(Conv2D(3, 3, 1))",
        "ConvBNReLU(3, 3, 1)",
        "SeparableConv2D(3, 3, 1)",
    ],
)
def test_backward_twice_or_without_what_forward_keeps(text):
    layer, images = run(text), x(2, 4, 5, 3)
    y, nothing = layer.forward(images, Mode(train=True))
    dy = random_like(y, 0)
    before = snapshot(layer)
    name = text.partition("(")[0]
    message = f"{name}: got an empty cache, wanted one that forward made with Mode(keep=True) and no backward has used"
    for empty in (nothing, None, []):
        with pytest.raises(ValueError) as info:
            layer.backward(dy, images, empty)
        says(info, message)
        assert snapshot(layer) == before
    _, cache = layer.forward(images, Mode(train=True, keep=True))
    layer.backward(dy, images, cache)
    before = snapshot(layer)
    with pytest.raises(ValueError) as info:
        layer.backward(dy, images, cache)
    says(info, message)
    assert snapshot(layer) == before


def test_an_x_of_another_shape_in_backward():
    layer = run("Conv2D(3, 4, 1)")
    y, cache = layer.forward(x(2, 4, 5, 3), Mode(keep=True))
    before = snapshot(layer)
    with pytest.raises(ValueError) as info:
        layer.backward(y, x(2, 4, 6, 3), cache)
    says(info, "Conv2D: got dy of shape (2, 4, 5, 4), wanted y's (2, 4, 6, 4)")
    assert snapshot(layer) == before


@pytest.mark.parametrize("dtype", ["int32", "float16", "float33", 3])
def test_cast_to_what_is_no_dtype_of_ours(dtype):
    layer = Linear(3, 4)
    before = snapshot(layer)
    with pytest.raises(TypeError, match=r"^cast: got .*, wanted float32, float64 or complex128$"):
        run("cast(layer, dtype)", layer=layer, dtype=dtype)
    assert snapshot(layer) == before


def test_move_without_the_device():
    layer = Linear(3, 4)
    before = snapshot(layer)
    with pytest.raises(ValueError, match=r"^device: got 'tpu', wanted "):
        run("move(layer, 'tpu')", layer=layer)
    if resolve_device("auto") == "cpu":
        with pytest.raises(DeviceError, match=r"^cuda: .*; use --device cpu") as info:
            run("move(layer, 'cuda')", layer=layer)
        assert "\n" not in str(info.value)
    assert snapshot(layer) == before


def test_an_optimiser_whose_arrays_were_replaced():
    layer = Linear(3, 4)
    optimiser = SGD(layer, 0.1)
    for p in named_params(layer).values():
        p.data = p.data.copy()
    with pytest.raises(
        ValueError, match=r"^SGD: got a layer whose parameters were replaced .*, wanted the same arrays"
    ):
        optimiser.step()


def test_a_layer_without_forward():
    class Lazy(Layer):
        pass

    with pytest.raises(NotImplementedError, match=r"^Lazy defines no forward\(x, mode\)$"):
        Lazy().forward(x(1), Mode())
    with pytest.raises(NotImplementedError, match=r"^Lazy defines no backward\(dy, x, cache\)$"):
        Lazy().backward(x(1), x(1), None)


@pytest.mark.parametrize("name", [*LAYERS])
@given(data=st.data())
@settings(max_examples=5)
def test_an_empty_batch_passes_through(name, data):
    """No images: y has none either, without a warning. (Only the loss, a mean over them, refuses.)"""
    case = data.draw(LAYERS[name])
    layer, images = case.layer(), case.x()
    y, _ = layer.forward(images[:0], mode(False, 0))
    assert y.shape == layer.forward(images, mode(False, 0))[0][:0].shape


def says_nothing(forward, layer, images, *rest):
    return images, None


def says_it_in_other_words(forward, layer, *rest):
    raise TypeError("wrong array")


def changes_something_first(forward, layer, *rest):
    layer.weight.grad += 1
    return forward(layer, *rest)


@pytest.mark.parametrize("fault", [says_nothing, says_it_in_other_words, changes_something_first])
def test_a_row_is_seen_to_fail(fault, monkeypatch):
    right = Conv2D.forward
    monkeypatch.setattr(Conv2D, "forward", lambda *args: fault(right, *args))
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        test_forward(*FORWARD[2])

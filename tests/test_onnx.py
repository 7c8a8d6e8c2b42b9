"""Exported graphs compute what the library computes: inference in ONNX Runtime, a step of training to the last digits.

In float32 a rounding that flips one ReLU changes a gradient by more than all other roundings do, and the steps after it
amplify that; two float32 implementations of a deep network part ways at once. So the graph of a training step is
compared in double precision first, where nothing hides, and in float32 as ONNX Runtime runs it by the norm of all
weights.
"""

import copy
import inspect
import json
import sys

import commands
import numpy as np
import pytest

from inception_np import (
    ELU,
    LRN,
    SGD,
    AvgPool2D,
    BatchNorm,
    Concat,
    Conv2D,
    ConvBNReLU,
    ConvReLU,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool2D,
    Mode,
    ReLU,
    Residual,
    Scale,
    SeparableConv2D,
    Sequential,
    cast,
    create_model,
    export_onnx,
    export_training_step,
    named_params,
)
from inception_np.backend.errors import UsageError
from inception_np.kernels import batchnorm, clip, conv, depthwise, elementwise, linear, loss, lrn, philox, pool, update
from inception_np.layer import walk, watch
from inception_np.layers.loss import total_loss
from inception_np.layers.pool import GlobalAvgPool2D
from inception_np.models import MODELS
from inception_np.models.network import Network
from inception_np.runtime.export import nodes
from inception_np.runtime.export.network import to_onnx
from inception_np.runtime.export.reader import COMPOSED
from inception_np.runtime.export.step import training_step
from inception_np.weights.checkpoint import save
from inception_np.weights.convert import named_arrays

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

rng_of = np.random.default_rng
SMALL = [name for name in MODELS if name.endswith("_cifar")]
FULL = [name for name in MODELS if not name.endswith("_cifar")]
CLOSE = 1e-5  # of the largest logit


def randomised(net, seed=0):
    """The network with biases, scales and running averages that matter."""
    rng = rng_of(seed)
    for name, array in named_arrays(net).items():
        noise = rng.standard_normal(array.data.shape)
        if name.endswith(("bias", "beta", ".mean")):
            array.data[...] = 0.1 * noise
        elif name.endswith(("gamma", ".var")):
            array.data[...] = np.exp(0.2 * noise)
    return net


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def checked(model):
    """The model, after ONNX's checker and strict inference of its shapes."""
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 17}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and all(names)
    return model


def error(model, net, x):
    """The largest difference between the model's logits and the network's, over the largest logit."""
    (got,) = session(model).run(None, {"images": x})
    wanted = net.forward(x, Mode())[0]
    return np.abs(got - wanted).max() / np.abs(wanted).max()


def network_error(name, preset):
    net = randomised(create_model(name, preset=preset))
    model = checked(to_onnx(net, ("N", *net.image)))
    return error(model, net, rng_of(1).standard_normal((2, *net.image)).astype(np.float32))


# ---- inference


@pytest.mark.parametrize("name, preset", [(name, preset) for name in SMALL for preset in MODELS[name].presets])
def test_a_small_network_computes_the_same_in_onnx_runtime(name, preset):
    assert network_error(name, preset) <= CLOSE


@pytest.mark.long
@pytest.mark.parametrize("name, preset", [(name, preset) for name in FULL for preset in MODELS[name].presets])
def test_a_full_network_computes_the_same_in_onnx_runtime(name, preset):
    assert network_error(name, preset) <= CLOSE


class Doubled(ReLU):
    """A layer of a user's own, which keeps every promise of the one that it comes from."""

    def forward(self, x, mode):
        return 2 * np.maximum(x, 0), x


LAYERS = {
    "conv": lambda c: Conv2D(c, 4, (3, 2), stride=(2, 1), pad=((0, 1), (2, 0))),
    "dilated": lambda c: Conv2D(c, 3, 3, dilation=2, bias=False),
    "valid": lambda c: Conv2D(c, 17, 2, stride=3, pad="valid"),
    "groups": lambda c: Sequential(Conv2D(c, 6, 1), Conv2D(6, 9, 3, groups=3, stride=2)),
    "depthwise": lambda c: DepthwiseConv2D(c, 3, multiplier=2, stride=2, bias=True),
    "separable": lambda c: SeparableConv2D(c, 5, 3, between=ReLU()),
    "fused": lambda c: Sequential(ConvReLU(c, 3, 3), ConvBNReLU(3, 5, 3, stride=2), ConvBNReLU(5, 1, 1, scale=False)),
    "norm": lambda c: BatchNorm(c, eps=0.1),
    "lrn": lambda c: LRN(5, alpha=0.5),
    "lrn, alpha not divided": lambda c: LRN(3, alpha=0.5, beta=0.6, k=2.0, divide_by_size=False),
    "max": lambda c: MaxPool2D(3, stride=2, pad=1),
    "max, ceil": lambda c: MaxPool2D(3, stride=2, ceil=True),
    "max, same": lambda c: MaxPool2D((2, 3), stride=1, pad="same"),
    "max, apart": lambda c: MaxPool2D(2, stride=3),
    "average": lambda c: AvgPool2D(3, stride=2, pad=1),
    "average, padding counts": lambda c: AvgPool2D(3, stride=2, pad=1, count_include_pad=True),
    "average, ceil": lambda c: AvgPool2D(3, stride=2, ceil=True),
    "average, ceil, padding counts": lambda c: AvgPool2D(3, stride=2, pad=1, ceil=True, count_include_pad=True),
    "average, ceil beyond": lambda c: AvgPool2D(4, stride=3, pad=(1, 0), ceil=True, count_include_pad=True),
    "flat": lambda c: Sequential(Flatten(), Dropout(0.5)),
    "global": lambda c: GlobalAvgPool2D(),
    "branches": lambda c: Concat(
        a=Conv2D(c, 3, 1), b=Concat(c=MaxPool2D(3, stride=1, pad=1), d=Dropout(0.5)), e=Sequential()
    ),
    "sum": lambda c: Sequential(Residual(Conv2D(c, c, 3), scale=0.3), Residual(ReLU(), Conv2D(c, c, 1))),
}


@pytest.mark.parametrize("shape", [(2, 9, 8, 5), (1, 7, 7, 1), (3, 10, 5, 17)], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_computes_the_same_in_onnx_runtime(kind, shape):
    net = randomised(LAYERS[kind](shape[3]))
    x = (rng_of(2).standard_normal(shape) + 1).astype(np.float32)
    model = checked(to_onnx(net, ("N", *shape[1:])))
    (got,) = session(model).run(None, {"images": x})
    wanted = net.forward(x, Mode())[0]
    assert got.shape == wanted.shape and np.abs(got - wanted).max() <= CLOSE * np.abs(wanted).max()


@pytest.mark.parametrize(
    "name, preset, operator, attribute, change",
    [
        ("inception_v3_cifar", "torchvision", "AveragePool", "count_include_pad", lambda value: 1 - value),
        ("inception_v3_cifar", "paper", "BatchNormalization", "epsilon", lambda value: 2 * value),
        ("inception_v1_cifar", "paper", "LRN", "alpha", lambda value: value / 5),
        ("inception_v1_cifar", "paper", "LRN", "bias", lambda value: value * 1.001),
    ],
)
def test_a_wrong_convention_in_a_graph_is_seen(name, preset, operator, attribute, change):
    net = randomised(create_model(name, preset=preset))
    model = to_onnx(net, ("N", *net.image))
    x = 10 * rng_of(1).standard_normal((2, *net.image)).astype(np.float32)
    assert error(model, net, x) <= CLOSE
    node = next(node for node in model.graph.node if node.op_type == operator)
    changed = [a for a in node.attribute if a.name == attribute]
    value = change(onnx.helper.get_attribute_value(changed[0]))
    node.attribute.remove(changed[0])
    node.attribute.append(onnx.helper.make_attribute(attribute, value))
    assert error(model, net, x) > CLOSE


def test_names_layout_and_metadata_are_the_networks():
    net = create_model("inception_v3_cifar")
    about = {"classes": ["a", "b"], "preprocess": {"size": [32, 32]}}
    model = to_onnx(net, ("N", *net.image), about=about)
    assert {w.name for w in model.graph.initializer if not w.name.startswith("constant_")} <= set(named_arrays(net))
    layers = {path for path, _ in walk(net)}
    own = [node.name for node in model.graph.node if node.name not in ("logits", "images/Transpose")]
    assert all(name.split("/")[0] in layers for name in own)
    assert "Mixed_6b.b1.1x7.conv/conv2d/Conv" in own
    (images,) = model.graph.input
    assert images.name == "images" and images.doc_string.startswith("NHWC")
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["N", 32, 32, 3]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["layout"] == "NHWC" and metadata["model"] == "inception_v3_cifar"
    assert json.loads(metadata["classes"]) == about["classes"]
    assert json.loads(metadata["preprocess"]) == about["preprocess"]
    assert model.producer_name == "inception_np"


@pytest.mark.parametrize(
    "net, named",
    [
        (Sequential(a=ReLU(), mine=Doubled()), "mine: got a Doubled"),
        (Sequential(stem=Sequential(act=ELU())), "stem.act: got a ELU"),
    ],
)
def test_a_layer_that_has_no_onnx_form_is_refused_by_name(net, named):
    with pytest.raises(ValueError, match=f"export: {named}, wanted"):
        to_onnx(net, (1, 5, 5, 3))
    assert not any("forward" in vars(layer) for _, layer in walk(net) if isinstance(layer, Layer))


def test_a_layer_changed_by_hand_is_refused():
    net = Sequential(conv=Conv2D(3, 3, 1))
    net.layers["conv"].forward = lambda x, mode: (x, None)
    with pytest.raises(ValueError, match="conv: got a Conv2D"):
        to_onnx(net, (1, 5, 5, 3))


KERNEL_FILES = (batchnorm, clip, conv, depthwise, elementwise, linear, loss, lrn, philox, pool, update)
NO_FORM = {"clip_norm", "add_totals", "rmsprop_step", "pieces", "move_averages"}


def test_every_kernel_of_a_pass_has_an_onnx_form_with_its_arguments():
    kernels = {
        name: f
        for file in KERNEL_FILES
        for name, f in vars(file).items()
        if hasattr(f, "conditions") and f.__module__ == file.__name__
    }
    assert set(kernels) == {name for name in kernels if name in vars(nodes)} | set(COMPOSED) | NO_FORM
    for name in set(kernels) - set(COMPOSED) - NO_FORM:
        _, *ours = inspect.signature(vars(nodes)[name]).parameters.values()
        wanted = list(inspect.signature(kernels[name]).parameters.values())
        assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in wanted], name


# ---- a step of training


STEP = {"momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}
SMOOTHING = 0.1


def masks_of(net, x, mode):
    """(y, cache, masks): a forward pass, and the masks that its dropout layers drew, by the graph's names."""
    masks = {}

    def forward(path, layer, call, x, mode):
        y, cache = call()
        if isinstance(layer, Dropout) and cache[0] is not None:
            masks[f"{path}.kept"] = cache[0].transpose(0, 3, 1, 2) if y.ndim == 4 else cache[0]
        return y, cache

    with watch(net, forward=forward):
        return *net.forward(x, mode), masks


def follow(net, run, names, *, steps, batch, image, lr):
    """(theirs, ours, start): every array of a training run by name: in a graph, by the library, and before it.

    run: a function from the graph's inputs to its outputs, which have these names.
    """
    dtype = next(iter(named_params(net).values())).data.dtype
    sgd, rng = SGD(net, lr, **STEP), rng_of(3)
    start = {name: array.data.copy() for name, array in named_arrays(net).items()}
    start |= {f"{name}.velocity": np.zeros_like(p.data) for name, p in named_params(net).items()}
    state, classes, losses = dict(start), net.out_shape((batch, *image))[1], []
    for step in range(steps):
        x, labels = rng.standard_normal((batch, *image)).astype("float32"), rng.integers(0, classes, batch)
        x = x.astype(dtype)
        y, cache, masks = masks_of(net, x, Mode(train=True, keep=True, rng=rng_of(step)))
        inputs = {"images": x, "labels": labels, "lr": np.array(lr, dtype), **masks, **state}
        outputs = dict(zip(names, run(inputs), strict=True))
        state |= {name.removesuffix(".next"): a for name, a in outputs.items() if name.endswith(".next")}
        loss, dy = total_loss(y, labels, getattr(net, "aux_weight", 0), SMOOTHING)
        losses.append((outputs.get("loss", loss), loss))
        net.backward(dy, x, cache)
        sgd.step()
    ours = {name: array.data for name, array in named_arrays(net).items()}
    for name, p in named_params(net).items():
        first = (p.data.ctypes.data - sgd.data.ctypes.data) // p.data.itemsize
        ours[f"{name}.velocity"] = sgd.state["velocity"][first : first + p.data.size].reshape(p.data.shape)
    state["loss"], ours["loss"] = np.array(losses, np.float64).T
    return state, ours, start


def zoo(size):
    """Every kernel that a step of training calls, in one network for images (size, size, 3), with a head."""
    shared = Conv2D(8, 8, (3, 1))
    trunk = Sequential(
        stem=Sequential(
            conv=Conv2D(3, 8, 3, stride=2, pad="valid"), lrn=LRN(3, alpha=0.5), shared=shared, again=shared
        ),
        depthwise=Sequential(spatial=DepthwiseConv2D(8, 3, multiplier=2, stride=2, bias=True), norm=BatchNorm(16)),
        mixed=Concat(
            a=ConvReLU(16, 3, 1),
            b=Concat(max=MaxPool2D(3, stride=1, pad=1), dropped=Sequential(drop=Dropout(0.3), act=ReLU())),
            c=Sequential(average=AvgPool2D(3, stride=1, pad=1, count_include_pad=True), conv=ConvBNReLU(16, 5, (1, 3))),
        ),
        groups=Conv2D(40, 12, 2, stride=2, dilation=2, groups=4, pad=((1, 0), (2, 1)), bias=False),
        sums=Sequential(
            Residual(SeparableConv2D(12, 12, 3, between=ReLU()), scale=0.3),
            Residual(ConvBNReLU(12, 6, 3, scale=False), Conv2D(12, 6, 1)),
            MaxPool2D(2, stride=2, ceil=True),
        ),
        rows=Sequential(flat=Flatten(), drop=Dropout(0.5)),
    )
    features = trunk.out_shape((1, size, size, 3))[1]
    trunk = Sequential(**trunk.layers, fc=Linear(features, 7), scale=Scale(0.5))
    head = Sequential(pool=AvgPool2D(5, stride=3, ceil=True), mean=GlobalAvgPool2D(), fc=Linear(40, 7, bias=False))
    net = Network(trunk, {"mixed": head})
    net.num_classes, net.image = 7, (size, size, 3)
    return randomised(net)


def double_errors(net, *, steps=5, batch=3, lr=0.01, change=None):
    """The largest difference in each array of a training run in double precision, relative to its norm, by name."""
    from onnx_ops import evaluator

    net = cast(net, "float64")
    model = training_step(net, (batch, *net.image), STEP, smoothing=SMOOTHING)
    onnx.checker.check_model(model)
    if change:
        change(model)
    run = evaluator(model)
    theirs, ours, _ = follow(
        net, lambda x: run.run(None, x), run.output_names, steps=steps, batch=batch, image=net.image, lr=lr
    )
    assert set(theirs) == set(ours)
    return {name: np.linalg.norm(theirs[name] - a) / np.linalg.norm(a) for name, a in ours.items()}


EXACT = 1e-9  # of an array's norm, in double precision


@pytest.mark.parametrize("size", [23, 24, 30])
def test_five_steps_are_the_librarys_in_double_precision(size):
    errors = double_errors(zoo(size))
    assert max(errors.values()) <= EXACT, max(errors, key=errors.get)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_five_steps_of_a_network_are_the_librarys_in_double_precision(name):
    """Five steps of Inception-v2 or v3 make a rounding a million times as large; one step does not."""
    for steps, most in ((1, EXACT), (5, 1e-5)):
        net = randomised(create_model(name, width=1 / 16))
        errors = double_errors(net, batch=2, lr=1e-4, steps=steps)
        assert max(errors.values()) <= most, max(errors, key=errors.get)


def without_momentum(model):
    """Nesterov's form becomes the plain one: the sum that the weights take is the momentum's."""
    for node in model.graph.node:
        if node.name.startswith("sgd_step/Sub"):
            product = next(n for n in model.graph.node if n.output[0] == node.input[1])
            product.input[1] = next(n for n in model.graph.node if n.output[0] == product.input[1]).input[0]


def other_winners(model):
    """Every maximum gives its gradient to the pixel before the winner."""
    scatter = next(node for node in model.graph.node if node.op_type == "ScatterElements")
    one = onnx.numpy_helper.from_array(np.array(-1, np.int64), "minus_one")
    model.graph.initializer.append(one)
    model.graph.node.insert(
        list(model.graph.node).index(scatter),
        onnx.helper.make_node("Add", [scatter.input[1], "minus_one"], ["shifted"], name="shifted"),
    )
    next(node for node in model.graph.node if node.op_type == "ScatterElements").input[1] = "shifted"


def other_constant(old, new):
    def change(model):
        for i, weight in enumerate(model.graph.initializer):
            a = onnx.numpy_helper.to_array(weight)
            if a.shape == () and abs(a - old) < 1e-12:
                model.graph.initializer[i].CopyFrom(onnx.numpy_helper.from_array(np.array(new, a.dtype), weight.name))

    return change


@pytest.mark.parametrize(
    "change",
    [
        without_momentum,
        other_winners,
        other_constant(1e-3, 2e-3),  # epsilon and weight decay
        other_constant(0.01, 0.02),  # of the running averages
        other_constant(0.3, 0.31),  # the head's weight
    ],
)
def test_a_wrong_step_is_seen(change):
    assert max(double_errors(zoo(23), steps=1, change=change).values()) > 1e3 * EXACT


def whole(arrays, names):
    return np.concatenate([arrays[name].ravel() for name in names]).astype(np.float64)


def runtime_steps(net, *, batch=8, lr=1e-4):
    """(theirs, ours, start): all weights together after five steps in ONNX Runtime, by the library, and before."""
    run = session(checked(training_step(net, (batch, *net.image), STEP, smoothing=SMOOTHING)))
    names = [output.name for output in run.get_outputs()]
    found = follow(net, lambda x: run.run(None, x), names, steps=5, batch=batch, image=net.image, lr=lr)
    return [whole(arrays, named_params(net)) for arrays in found]


@pytest.mark.parametrize("name", ["zoo", "speednet_cifar", "inception_v1_cifar", "inception_resnet_v1_cifar"])
def test_five_steps_in_onnx_runtime_lead_to_the_librarys_weights(name):
    theirs, ours, start = runtime_steps(zoo(24) if name == "zoo" else create_model(name, width=1 / 8))
    off = np.linalg.norm(theirs - ours)
    assert off <= 1e-5 * np.linalg.norm(ours) and off <= 1e-2 * np.linalg.norm(ours - start)


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_onnx_runtime_is_as_near_to_double_precision_as_the_library(name):
    """Five steps of each small network: those of some are ruled by roundings, here as there."""
    net = create_model(name, width=1 / 8)
    wide = cast(copy.deepcopy(net), "float64")
    theirs, ours, _ = runtime_steps(net)
    nothing = [np.zeros(())]
    _, exact, _ = follow(wide, lambda x: nothing, ["none"], steps=5, batch=8, image=net.image, lr=1e-4)
    exact = whole(exact, named_params(net))
    off, own = (np.linalg.norm(weights - exact) for weights in (theirs, ours))
    assert off <= 1e-5 * np.linalg.norm(exact) or off <= 3 * own


def test_a_step_has_no_operators_of_training_and_names_what_it_computes():
    net = create_model("inception_v1_cifar", width=1 / 8)
    model = training_step(net, (2, *net.image), STEP)
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert {node.op_type for node in model.graph.node} <= known and {node.domain for node in model.graph.node} == {""}
    names = {node.name for node in model.graph.node}
    assert {"3a.b3.conv/conv2d_dw/Conv", "3a.b3.conv/conv2d_dx/ConvTranspose", "pool2/max_pool_dx/ScatterElements"} <= {
        name.removesuffix("_2") for name in names
    } | names
    inputs = {value.name for value in model.graph.input}
    assert set(named_arrays(net)) <= inputs and {f"{name}.velocity" for name in named_params(net)} <= inputs
    assert "dropout.kept" in inputs


def test_export_leaves_the_network_as_it_was():
    net = create_model("speednet_cifar", width=1 / 8)
    before = {name: array.data.copy() for name, array in named_arrays(net).items()}
    training_step(net, (2, *net.image), STEP)
    to_onnx(net, ("N", *net.image))
    assert all(np.array_equal(before[name], array.data) for name, array in named_arrays(net).items())
    assert not any(p.grad.any() for p in named_params(net).values())


# ---- files and the command


@pytest.fixture
def checkpoint(tmp_path):
    net = randomised(create_model("inception_v1_cifar", width=1 / 16))
    save(net, tmp_path / "model", about={"classes": list("abcdefghij")})
    return net, tmp_path / "model"


def test_the_command_writes_what_the_functions_write(checkpoint, tmp_path):
    net, path = checkpoint
    x = rng_of(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    assert commands.command("export", str(path), "--onnx", str(tmp_path / "a"))[0] == 0
    model = onnx.load(str(tmp_path / "a"))
    assert error(model, net, x) <= CLOSE
    assert '["a", "b"' in {entry.key: entry.value for entry in model.metadata_props}["classes"]
    export_onnx(net, tmp_path / "b", about={"classes": list("abcdefghij")})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    words = ("--training", "--batch", "4", "--momentum", "0", "--smoothing", "0.2")
    assert commands.command("export", str(path), "--onnx", str(tmp_path / "c"), *words)[0] == 0
    options = {"batch": 4, "momentum": 0.0, "nesterov": False, "smoothing": 0.2}
    export_training_step(net, tmp_path / "d", about={"classes": list("abcdefghij")}, **options)
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()
    assert not any("velocity" in value.name for value in onnx.load(str(tmp_path / "c")).graph.input)


def test_wrong_usage_is_refused(checkpoint, tmp_path, monkeypatch):
    net, path = checkpoint
    with pytest.raises(UsageError, match=r"--batch: .* --training"):
        commands.command("export", str(path), "--onnx", str(tmp_path / "a"), "--batch", "4")
    for options in ({"momentum": 1.0}, {"smoothing": 1.0}, {"nesterov": True, "momentum": 0.0}):
        with pytest.raises(ValueError, match="wanted"):
            export_training_step(net, tmp_path / "a", batch=4, **options)
    with pytest.raises(ValueError, match=r"wanted \(H, W, C\)"):
        export_onnx(Sequential(ReLU()), tmp_path / "a")
    named_params(net)["fc.weight"].data[0, 0] = np.nan
    save(net, path)
    with pytest.raises(ValueError, match=r"layer fc \(Linear\) holds NaN"):
        commands.command("export", str(path), "--onnx", str(tmp_path / "a"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match="onnx is not installed"):
        export_onnx(net, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_network_larger_than_a_file_may_be_is_refused(monkeypatch):
    monkeypatch.setattr("inception_np.runtime.export.graph.LARGEST", 1000)
    with pytest.raises(ValueError, match="bytes of weights, wanted less than 1,000"):
        to_onnx(create_model("speednet_cifar", width=1 / 8), ("N", 32, 32, 3))

"""What Keras says of a whole model: whose layer is whose, and that a model which is not our network is refused."""

import copy
import gzip
import json

import numpy as np
import peers
import pytest
import tfjs_files

from inception_np import create_model, load_state_dict, named_params, state_dict
from inception_np.__main__ import main
from inception_np.weights.checkpoint import read
from inception_np.weights.keras_config import parse_graph
from inception_np.weights.keras_graph import check_graph

NAMES = ("inception_v3", "inception_resnet_v2", "xception")
WHOLE = json.loads(gzip.decompress(peers.DESCRIBED.read_bytes()))
every = pytest.mark.parametrize("name", NAMES)


def small(name, seed=0, **options):
    """The network with a sixteenth of its channels, nothing in it at the 0 and 1 of a fresh one."""
    model = create_model(name, preset="keras", num_classes=5, width=1 / 16, seed=seed, **options)
    rng = np.random.default_rng(seed)
    for param in named_params(model).values():
        param.data += rng.uniform(0.1, 0.9, param.data.shape).astype(np.float32)
    return model


def described(name):
    return copy.deepcopy(WHOLE[name])


def layer(model, name):
    return next(entry for entry in model["config"]["layers"] if entry["config"]["name"] == name)


def entry(kind, name, reads, **config):
    nodes = [[[read, 0, 0, {}] for read in reads]] if reads else []
    return {"class_name": kind, "config": {"name": name, **config}, "inbound_nodes": nodes}


def refusal(model, description, **how):
    with pytest.raises(ValueError) as caught:
        check_graph(model, parse_graph(description), **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------- the network and its faults


@every
def test_kerass_networks_are_ours(name):
    assert check_graph(small(name), parse_graph(described(name))) == (1, 0)


@every
def test_the_order_of_creation_is_the_order_of_the_names(name):
    """Every convolution of the table is where the graph has it: the positions of a .weights.h5 file lead there too."""
    from inception_np.weights.keras_names import keras_positions, resolve_keras_names

    graph = parse_graph(described(name))
    kinds = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "SeparableConv2D": "separable_conv2d"}
    counts = dict.fromkeys(kinds, 0)
    own = resolve_keras_names([f"{node.name}/kernel" for node in graph.nodes], name)
    for node in graph.nodes:
        if node.kind in kinds:
            wanted = keras_positions(name)[kinds[node.kind], counts[node.kind]]
            assert own[f"{node.name}/kernel"] == f"{wanted}/kernel"
            number = f"_{counts[node.kind]}" if counts[node.kind] else ""
            assert node.place == f"layers/{kinds[node.kind]}{number}"
            counts[node.kind] += 1


def automatic(model, kind, number):
    names = [e["config"]["name"] for e in model["config"]["layers"] if e["class_name"] == kind]
    snake = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}[kind]
    numbers = sorted(int(n.removeprefix(snake).strip("_") or 0) for n in names if n.startswith(snake))
    first = numbers[0]
    return f"{snake}_{first + number}" if first + number else snake


@pytest.mark.parametrize("kind", ["Conv2D", "BatchNormalization"])
@pytest.mark.parametrize(
    "name, pair", [("inception_v3", (33, 36)), ("inception_resnet_v2", (13, 15)), ("xception", (1, 2))]
)
def test_two_layers_that_exchange_their_names_are_noticed(name, pair, kind):
    """The trap: their weights have one shape, so that the weights alone would load."""
    model = described(name)
    a, b = (automatic(model, kind, number) for number in pair)
    text = json.dumps(model).replace(f'"{a}"', '"?"').replace(f'"{b}"', f'"{a}"').replace('"?"', f'"{b}"')
    assert "got it reads" in (line := refusal(small(name), json.loads(text))) or "got conv" in line


def one(kind):
    """A change of the first layer of a kind that has a number of inputs or of pixels to speak of."""

    def change(model, field, value):
        found = [e for e in model["config"]["layers"] if e["class_name"] == kind and field in e["config"]]
        found[len(found) // 2]["config"][field] = value

    return change


@pytest.mark.parametrize(
    "name, kind, field, value, text",
    [
        ("inception_v3", "BatchNormalization", "epsilon", 1e-5, "got batch norm 1e-05, wanted batch norm 0.001"),
        ("inception_v3", "BatchNormalization", "axis", 1, "over axis 1"),
        ("inception_v3", "Conv2D", "strides", [2, 2], "/2 "),
        ("inception_v3", "Conv2D", "padding", "valid", " valid"),
        ("inception_v3", "Conv2D", "dilation_rate", [2, 2], "dilation_rate [2, 2]"),
        ("inception_v3", "Conv2D", "data_format", "channels_first", "data_format channels_first"),
        ("inception_v3", "Conv2D", "groups", 2, "groups 2"),
        ("inception_v3", "Conv2D", "activation", "relu", "relu("),
        ("inception_v3", "Activation", "activation", "elu", "elu("),
        ("inception_v3", "AveragePooling2D", "padding", "valid", "average 3x3/1 valid"),
        ("inception_v3", "AveragePooling2D", "pool_size", [5, 5], "average 5x5/1 same"),
        ("inception_v3", "MaxPooling2D", "padding", "same", "max 3x3/2 same"),
        ("inception_v3", "Concatenate", "axis", 1, "Concatenate"),
        ("inception_v3", "Dense", "activation", "sigmoid", "got sigmoid(predictions), wanted predictions or softmax("),
        ("inception_resnet_v2", "CustomScaleLayer", "scale", 0.5, "got it reads"),
        ("inception_resnet_v2", "BatchNormalization", "epsilon", 1e-5, "got batch norm 1e-05"),
        ("xception", "SeparableConv2D", "padding", "valid", "got separable conv 3x3/1 valid, wanted"),
        ("xception", "MaxPooling2D", "padding", "valid", "got it reads"),
        ("xception", "BatchNormalization", "epsilon", 1e-5, "got batch norm 1e-05"),
    ],
)
def test_a_layer_that_does_something_else_is_refused(name, kind, field, value, text):
    model = described(name)
    one(kind)(model, field, value)
    assert text in refusal(small(name), model)


@every
def test_branches_joined_in_another_order_are_refused(name):
    model = described(name)
    joins = [e for e in model["config"]["layers"] if e["class_name"] in ("Concatenate", "CustomScaleLayer")]
    joins = joins or [layer(model, "block13_sepconv1")]  # Xception joins nothing
    call = joins[len(joins) // 2]["inbound_nodes"][0]
    call.reverse()
    if name == "xception":
        call[0][0] = "block12_sepconv1_bn"
    assert "got it reads" in refusal(small(name), model)


def test_an_activation_that_is_missing_is_refused():
    model = described("inception_v3")
    join = layer(model, "mixed3")["inbound_nodes"][0]
    before = layer(model, join[0][0])["inbound_nodes"][0][0][0]
    join[0][0] = before
    assert "got it reads" in refusal(small("inception_v3"), model)


def test_presets_of_other_libraries_are_no_keras_networks():
    """Their padding counts in average pools, or their epsilon is another."""
    timm = create_model("inception_v3", preset="torchvision", num_classes=5, width=1 / 16, aux=False)
    assert "wanted average with padding 3x3/1 same" in refusal(timm, described("inception_v3"))
    timm = create_model("xception", preset="timm", num_classes=5, width=1 / 16)
    assert "got batch norm 0.001, wanted batch norm 1e-05" in refusal(timm, described("xception"))


# ------------------------------------------------------------------------------- a classifier of one's own


def without_top(name):
    model = described(name)
    layers = model["config"]["layers"]
    layers[:] = [e for e in layers if e["config"]["name"] not in ("avg_pool", "predictions")]
    model["config"]["output_layers"] = [[layers[-1]["config"]["name"], 0, 0]]
    return model


def with_top(name, top, before=(), nested=True):
    """The network with layers of one's own behind it, and before it, as a layer of a model or in one graph."""
    base = without_top(name)
    end = base["config"]["output_layers"][0][0]
    if not nested:
        base["config"]["layers"] += top(end)
        base["config"]["output_layers"] = [base["config"]["layers"][-1]["config"]["name"], 0, 0]
        return base
    base["config"]["name"] = "base"
    image = entry("InputLayer", "image", [], batch_shape=[None, 200, 180, 3])
    last = before[-1]["config"]["name"] if before else "image"
    base["inbound_nodes"] = [[[last, 0, 0, {}]]]
    layers = [image, *before, base, *top("base")]
    output = [[layers[-1]["config"]["name"], 0, 0]]
    return {"class_name": "Functional", "config": {"name": "all", "layers": layers, "output_layers": output}}


def usual(end):
    return [
        entry("GlobalAveragePooling2D", "pool", [end]),
        entry("Dense", "first", ["pool"], units=20, activation="relu"),
        entry("Dropout", "drop", ["first"], rate=0.5),
        entry("Dense", "second", ["drop"], units=5, activation="softmax"),
    ]


@every
@pytest.mark.parametrize("nested", [True, False])
def test_a_classifier_of_ones_own_is_taken(name, nested):
    graph = parse_graph(with_top(name, usual, nested=nested))
    assert [node.name for node in graph.dense()] == ["first", "second"]
    assert graph.image() == ((200, 180) if nested else (299, 299))
    assert check_graph(small(name, hidden="20"), graph) == (1, 0)
    # without the hidden layer the last one reads something else
    assert "got it reads" in refusal(small(name), with_top(name, usual, nested=nested))
    check_graph(small(name), graph, partial=True)


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda top: top[0].update(class_name="GlobalMaxPooling2D"), "got it reads GlobalMaxPooling2D pool("),
        (lambda top: top[0].update(class_name="Flatten"), "got it reads Flatten pool("),
        (lambda top: top[1]["config"].update(activation="tanh"), "got it reads tanh(fc1), wanted relu(fc1)"),
        (lambda top: top[3]["config"].update(activation="relu"), "the model's output: got relu(predictions)"),
        (lambda top: top[2].update(class_name="LayerNormalization"), "got it reads LayerNormalization drop("),
        (lambda top: top[3]["inbound_nodes"].append([["pool", 0, 0, {}]]), "'second' is used 2 times, wanted once"),
        (lambda top: top[3]["inbound_nodes"][0][0].__setitem__(0, "nowhere"), "reads 'nowhere', which does not come"),
        (lambda top: top[3]["config"].update(name="first"), "two layers are called 'first'"),
        (lambda top: top[3].pop("inbound_nodes"), "wanted layers as Keras writes them"),
        (lambda top: top[0].update(class_name=3), "wanted layers as Keras writes them"),
    ],
)
def test_a_classifier_that_computes_something_else_is_refused(change, text):
    def top(end):
        layers = usual(end)
        change(layers)
        return layers

    assert text in refusal(small("inception_v3", hidden="20"), with_top("inception_v3", top))


def called(kind, name, reads, number, **config):
    made = entry(kind, name, reads, **config)
    history = {"shape": [None, 200, 180, 3], "keras_history": [*reads, 0, 0]}
    made["inbound_nodes"] = [{"args": [{"class_name": "__keras_tensor__", "config": history}, number], "kwargs": {}}]
    return made


def lambdas(function, name, reads, number):
    made = entry("TFOpLambda", name, reads, function=function)
    made["inbound_nodes"] = [[reads[0], 0, 0, {"y": number, "name": None}]]
    return made


@pytest.mark.parametrize(
    "before",
    [
        [entry("RandomFlip", "flip", ["image"]), entry("Rescaling", "scale", ["flip"], scale=1 / 127.5, offset=-1)],
        [called("TrueDivide", "a", ["image"], 127.5), called("Subtract", "b", ["a"], 1.0)],
        [lambdas("math.truediv", "a", ["image"], 127.5), lambdas("math.subtract", "b", ["a"], 1.0)],
        [called("Subtract", "a", ["image"], 127.5), called("Multiply", "b", ["a"], 1 / 127.5)],
    ],
)
def test_what_is_done_to_the_image_first_is_taken(before):
    a, b = check_graph(small("inception_v3", hidden="20"), parse_graph(with_top("inception_v3", usual, before)))
    np.testing.assert_allclose((a, b), (1 / 127.5, -1), rtol=1e-12)


def test_what_is_done_to_the_image_and_unknown_is_refused():
    before = [entry("Normalization", "norm", ["image"], mean=[1, 2, 3])]
    line = refusal(small("inception_v3", hidden="20"), with_top("inception_v3", usual, before))
    assert "got it reads Normalization norm(image), wanted image" in line


# ------------------------------------------------------------------------------- whole files


def test_import_takes_a_model_with_its_classifier_its_images_and_what_it_left(tmp_path, capsys, monkeypatch):
    """A full-sized network behind a rescaling, with two layers of its own, quantised to two bytes."""
    monkeypatch.chdir(tmp_path)
    before = [entry("Rescaling", "scale", ["image"], scale=1 / 255, offset=0)]
    description = with_top("xception", usual, before)
    model = create_model("xception", preset="keras", num_classes=5, hidden="20", seed=3)
    names = {"fc1": "first", "predictions": "second"}
    state = {}
    for name, value in state_dict(model, source="keras").items():
        own, variable = name.split("/")
        state[f"{names.get(own, own)}/{variable}"] = value
    path = tfjs_files.write(tmp_path, dict(sorted(state.items())), description, ("uint16",), 4 << 20)
    argv = ["import", str(path), "--source", "keras", "--model", "xception", "--output"]
    assert main([*argv, "a.safetensors", "--report"]) == 0
    out = capsys.readouterr().out
    assert "238 loaded" in out and "second/kernel -> Logits.fc.weight" in out
    assert "skipped: drop  Dropout, which acts in training only" in out
    assert "taken for granted" not in out
    found, about = read("a.safetensors")
    assert found.options["hidden"] == "20" and about["preprocess"]["size"] == [200, 180]
    np.testing.assert_allclose(about["preprocess"]["mean"], 0, atol=1e-9)
    np.testing.assert_allclose(about["preprocess"]["std"], 255)
    loaded = state_dict(found)
    for name, value in state_dict(model).items():
        step = (value.max() - value.min()) / 65535
        assert np.abs(loaded[name] - value).max() <= step * 0.51 + 1e-7, name

    # one layer's epsilon is another: the weights fit, the network does not
    path.write_text(path.read_text().replace('"epsilon": 0.001', '"epsilon": 0.002', 1))
    assert main([*argv, "b.safetensors"]) == 1
    errors = capsys.readouterr().err
    assert "got batch norm 0.002, wanted batch norm 0.001" in errors and errors.count("\n") == 1
    assert not (tmp_path / "b.safetensors").exists()


def test_the_only_dense_layer_of_a_file_of_weights_is_the_classifier():
    model, other = small("inception_v3"), small("inception_v3", seed=1)
    state = {n.replace("predictions/", "my_own/"): v for n, v in state_dict(model, source="keras").items()}
    load_state_dict(other, state, source="keras")
    assert all(np.array_equal(state_dict(other)[k], v) for k, v in state_dict(model).items())
    state["another/kernel"] = state["my_own/kernel"]
    with pytest.raises(ValueError, match="missing"):
        load_state_dict(other, state, source="keras")

"""Other libraries' weights: names, layouts, what is refused, and that a refusal changes nothing."""

import json
from pathlib import Path

import numpy as np
import peers
import pytest

from inception_np import Sequential, create_model, load_state_dict, named_params, state_dict
from inception_np.__main__ import main
from inception_np.data.preprocess import Preprocess
from inception_np.layer import walk
from inception_np.layers.batchnorm import BatchNorm
from inception_np.layers.conv import Conv2D
from inception_np.layers.pool import AvgPool2D, MaxPool2D
from inception_np.weights.command import PREPROCESS, imagenet_classes
from inception_np.weights.convert import load_foreign
from inception_np.weights.keras_names import keras_positions
from inception_np.weights.names import SOURCES, TABLES, layer_names
from inception_np.weights.readers import read_weights
from inception_np.weights.tensorfile import write_tensors

TWINS = [(name, source) for name, (_, sources) in TABLES.items() for source in sources]
twins = pytest.mark.parametrize(("name", "source"), TWINS)


def small(name, source, seed=0, **options):
    """The network with a sixteenth of its channels: the same names and layouts."""
    options = {"num_classes": 7, "width": 1 / 16, "aux": False} | options
    model = create_model(name, preset=source, seed=seed, **options)
    rng = np.random.default_rng(seed)
    for param in named_params(model).values():  # nothing at the 0 and 1 of a fresh network
        param.data += rng.uniform(0.1, 0.9, param.data.shape).astype(np.float32)
    return model


def same(a, b):
    return list(a) == list(b) and all(np.array_equal(a[k], b[k]) for k in a)


def refusal(model, state, source, kind=ValueError):
    """The one line that loading ends with; the model must be as it was."""
    before = state_dict(model)
    with pytest.raises(kind) as caught:
        load_state_dict(model, state, source=source)
    assert same(before, state_dict(model))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------- both ways


@twins
def test_a_state_goes_there_and_back_unchanged(name, source):
    heads = source == "torchvision"
    model, other = small(name, source, aux=heads), small(name, source, seed=1, aux=heads)
    before = state_dict(model)
    report = load_state_dict(other, state_dict(model, source=source), source=source)
    assert same(before, state_dict(other))
    assert len(report.loaded) == len(before)
    assert not (report.missing or report.unexpected or report.filled)


@twins
def test_every_tensor_has_one_name_on_either_side(name, source):
    rows = layer_names(name, source)
    assert len({row.ours for row in rows}) == len(rows)
    theirs = [row.keras if source == "keras" else row.torch for row in rows]
    assert len(set(theirs)) == len(theirs)
    assert all(theirs)


def test_keras_positions_are_the_layers_of_the_table():
    for name, source in TWINS:
        if source == "keras":
            positions = keras_positions(name)
            layers = {row.keras.partition("/")[0] for row in layer_names(name, "keras")}
            assert set(positions.values()) == layers
            assert len(positions) == len(layers)


def test_convolutions_turn_from_output_first_to_output_last():
    model = small("inception_v3", "timm")
    ours = state_dict(model)["Mixed_6b.b1.1x7.conv.weight"]
    theirs = state_dict(model, source="timm")["Mixed_6b.branch7x7_2.conv.weight"]
    assert ours.shape[:2] == theirs.shape[2:] == (1, 7)
    assert ours[0, 5, 2, 3] == theirs[3, 2, 0, 5]


def test_depthwise_convolutions_have_their_channel_first_in_pytorch():
    model = small("xception", "timm")
    ours = state_dict(model)["block3.body.sepconv1.depthwise.weight"]
    theirs = state_dict(model, source="timm")["block2.rep.1.conv1.weight"]
    assert theirs.shape == (ours.shape[2], 1, 3, 3)
    assert ours[1, 2, 4, 0] == theirs[4, 0, 1, 2]


def test_a_layer_behind_a_flattened_map_reads_the_same_pixels():
    model = small("inception_v1", "torchvision", aux=True)
    ours = state_dict(model)["aux_4a.fc1.weight"]
    theirs = state_dict(model, source="torchvision")["aux1.fc1.weight"]
    x = np.random.default_rng(0).standard_normal((2, 4, 4, len(ours) // 16))
    np.testing.assert_allclose(x.reshape(2, -1) @ ours, x.transpose(0, 3, 1, 2).reshape(2, -1) @ theirs.T)


def test_arrays_given_away_are_contiguous_copies():
    model = small("xception", "timm")
    given = state_dict(model, source="timm")
    assert all(a.flags.c_contiguous and a.flags.owndata for a in given.values())
    before = state_dict(model)
    for a in given.values():
        a[...] = 0
    assert same(before, state_dict(model))


def test_another_width_of_floating_point_is_rounded_to_the_models():
    model = small("inception_v1", "torchvision")
    state = {k: v.astype(np.float64) for k, v in state_dict(model, source="torchvision").items()}
    other = small("inception_v1", "torchvision", seed=1)
    load_state_dict(other, state, source="torchvision")
    assert same(state_dict(model), state_dict(other))


# ------------------------------------------------------------------- what differs between files


def test_the_background_class_is_dropped_where_the_model_has_none():
    for source, kernel, axis in (("timm", "fc.weight", 0), ("keras", "predictions/kernel", 1)):
        wide = small("inception_v3", source, num_classes=1001)
        model = small("inception_v3", source, seed=1, num_classes=1000)
        state = state_dict(wide, source=source)
        report = load_state_dict(model, state, source=source)
        assert any("background" in how for _, how in report.transposed)
        loaded = state_dict(model, source=source)
        np.testing.assert_array_equal(loaded[kernel], np.delete(state[kernel], 0, axis))
        both = small("inception_v3", source, seed=2, num_classes=1001)
        load_state_dict(both, state, source=source)
        assert same(state_dict(wide), state_dict(both))


def test_no_other_number_of_classes_is_cut():
    model = small("inception_v3", "timm", num_classes=10)
    state = state_dict(small("inception_v3", "timm", num_classes=11), source="timm")
    assert "fc.weight: got shape (11, 128), wanted fc.weight's (128, 10)" in refusal(model, state, "timm")


def test_a_file_without_gamma_gives_ones():
    model = small("inception_v3", "timm")
    state = {k: v for k, v in state_dict(model, source="timm").items() if not k.endswith(".bn.weight")}
    report = load_state_dict(model, state, source="timm")
    assert len(report.filled) == 94
    assert all((p.data == 1).all() for path, p in named_params(model).items() if path.endswith(".gamma"))
    state["fc.bn.weight"] = np.ones(1)  # no such layer
    state["Mixed_5b.branch1x1.bn.weight"] = np.ones(4, np.float32)  # and one gamma of 94 is no file without
    assert "93 missing (Conv2d_1a_3x3.bn.gamma (Conv2d_1a_3x3.bn.weight)" in refusal(model, state, "timm")


def test_a_gamma_that_the_model_lacks_must_be_one():
    model = small("inception_v3", "keras")
    state = state_dict(model, source="keras")
    state["batch_normalization_3/gamma"] = np.ones_like(state["batch_normalization_3/beta"])
    assert load_state_dict(model, state, source="keras").skipped[0][0] == "batch_normalization_3/gamma"
    state["batch_normalization_3/gamma"] += 0.5
    assert "1 unexpected (batch_normalization_3/gamma)" in refusal(model, state, "keras")


def test_heads_are_skipped_by_a_model_without_and_missed_by_one_with():
    with_heads, without = small("inception_v1", "torchvision", aux=True), small("inception_v1", "torchvision")
    report = load_state_dict(without, state_dict(with_heads, source="torchvision"), source="torchvision")
    assert sum("head" in why for _, why in report.skipped) == 18
    line = refusal(with_heads, state_dict(without, source="torchvision"), "torchvision")
    assert "18 missing (aux_4a.conv.conv.weight (aux1.conv.conv.weight)" in line


def test_names_as_other_files_have_them():
    model = small("xception", "timm")
    state = state_dict(model, source="timm")
    old = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):  # files of the first PyTorch versions
            continue
        if name.endswith(".pointwise.weight"):
            value = value[:, :, 0, 0]
        old["module." + name.replace("fc.", "last_linear.")] = value
    other = small("xception", "timm", seed=1)
    load_state_dict(other, old, source="timm")
    assert same(state_dict(model), state_dict(other))


def shifted(name, by):
    kind, _, number = name.partition("/")[0].rpartition("_")
    if name.partition("/")[0] in ("conv2d", "batch_normalization"):
        kind, number = name.partition("/")[0], "0"
    if kind not in ("conv2d", "batch_normalization"):
        return name
    return f"{kind}_{int(number) + by}/{name.partition('/')[2]}"


@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2", "xception"])
def test_kerass_automatic_names_may_begin_with_any_number(name):
    model, other = small(name, "keras"), small(name, "keras", seed=1)
    state = {shifted(k, 95) + ":0": v for k, v in state_dict(model, source="keras").items()}
    assert "conv2d_95/kernel:0" in state
    mixed = {k: state[k] for k in sorted(state)}  # neither the order of creation nor a number's
    load_state_dict(other, mixed, source="keras")
    assert same(state_dict(model), state_dict(other))


def test_names_of_the_first_keras():
    model, other = small("xception", "keras"), small("xception", "keras", seed=1)
    state = {}
    for name, value in state_dict(model, source="keras").items():
        layer, _, variable = shifted(name, 1).partition("/")
        layer = layer.replace("conv2d_", "convolution2d_") if layer.startswith("conv2d") else layer
        layer = layer.replace("batch_normalization", "batchnormalization")
        old = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
        state[f"{layer}/{layer}_{old.get(variable, variable)}:0"] = value
    assert "convolution2d_1/convolution2d_1_W:0" in state
    load_state_dict(other, state, source="keras")
    assert same(state_dict(model), state_dict(other))


def by_position(state, name):
    """A state as Keras 3 keeps it in .weights.h5."""
    variables = [
        "kernel",
        "depthwise_kernel",
        "pointwise_kernel",
        "bias",
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
    ]
    found = {}
    for (kind, k), layer in keras_positions(name).items():
        have = [v for v in variables if f"{layer}/{v}" in state]
        for j, variable in enumerate(have):
            found[f"layers/{kind}{f'_{k}' if k else ''}/vars/{j}"] = state[f"{layer}/{variable}"]
    return found


@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2", "xception"])
def test_keras_3_files_number_their_layers_anew(name):
    model, other = small(name, "keras"), small(name, "keras", seed=1)
    state = by_position(state_dict(model, source="keras"), name)
    load_state_dict(other, state, source="keras")
    assert same(state_dict(model), state_dict(other))
    if name == "inception_v3":  # the file's sixth convolution is the ninth that was created
        np.testing.assert_array_equal(state["layers/conv2d_5/vars/0"], state_dict(model)["Mixed_5b.b2.1x1.conv.weight"])


@pytest.mark.torch
def test_torch_tensors_load_as_they_are():
    torch = pytest.importorskip("torch")
    model, other = small("inception_v1", "torchvision"), small("inception_v1", "torchvision", seed=1)
    state = {k: torch.from_numpy(v) for k, v in state_dict(model, source="torchvision").items()}
    load_state_dict(other, state, source="torchvision")
    assert same(state_dict(model), state_dict(other))


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("source", ["timm", "keras"])
def test_a_state_that_does_not_fit_is_refused_in_one_line(source):
    model = small("inception_v3", source)
    good = state_dict(small("inception_v3", source, seed=1), source=source)
    kernel = "conv2d_40/kernel" if source == "keras" else "Mixed_6c.branch1x1.conv.weight"

    lost = {k: v for k, v in good.items() if k != kernel}
    assert f"1 missing (Mixed_6c.b0.conv.weight ({kernel}))" in refusal(model, lost, source)
    assert "1 unexpected (surplus/kernel)" in refusal(model, good | {"surplus/kernel": good[kernel]}, source)
    line = refusal(model, good | {kernel: good[kernel][:, :-1]}, source)
    assert line.startswith(f"{kernel}: got shape")
    assert "wanted Mixed_6c.b0.conv.weight's" in line
    line = refusal(model, good | {kernel: good[kernel].astype(np.int32)}, source, TypeError)
    assert line == f"{kernel}: got int32, wanted an array of floating-point numbers"
    assert "got list" in refusal(model, good | {kernel: [1.0]}, source, TypeError)
    assert "missing (Conv2d_1a_3x3.conv.weight" in refusal(model, {}, source)


def test_two_tensors_for_one_place_are_refused():
    model = small("inception_resnet_v2", "timm")
    state = state_dict(model, source="timm")
    twice = state | {"last_linear.bias": state["classif.bias"] + 1}
    assert "1 unexpected (last_linear.bias)" in refusal(model, twice, "timm")
    model = small("xception", "keras")
    state = state_dict(model, source="keras")
    twice = state | {"conv2d_2/again/kernel:0": state["conv2d_2/kernel"]}
    assert "1 unexpected (conv2d_2/again/kernel:0)" in refusal(model, twice, "keras")


def test_what_is_no_dictionary_of_names_is_refused():
    model = small("xception", "timm")
    for state in ([], None, {3: np.zeros(3)}):
        assert "wanted a dictionary of arrays by name" in refusal(model, state, "timm", TypeError)


def test_what_does_not_fit_can_be_left_out_when_asked():
    model = small("inception_v3", "timm")
    state = state_dict(small("inception_v3", "timm", seed=1), source="timm")
    fc = state_dict(model)["fc.weight"]
    del state["fc.weight"]
    state["surplus"] = np.zeros(3, np.float32)
    report = load_foreign(model, state, "timm", strict=False)
    assert report.missing == ["fc.weight (fc.weight)"]
    assert report.unexpected == ["surplus"]
    np.testing.assert_array_equal(state_dict(model)["fc.weight"], fc)
    assert not np.array_equal(state_dict(model)["Mixed_6c.b0.bn.beta"], 0)


def test_the_report_lists_every_tensor():
    model = small("inception_v1", "torchvision")
    state = state_dict(small("inception_v1", "torchvision", aux=True), source="torchvision")
    report = load_state_dict(model, state, source="torchvision")
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(state)
    assert "inception3b.branch2.1.conv.weight -> 3b.b3.conv.conv.weight  (O, I, h, w) to (h, w, I, O)" in lines
    assert ("fc.weight", "fc.weight") not in report.renamed
    assert json.loads(json.dumps(report.to_dict()))["model"] == "inception_v1"


def test_models_that_a_library_does_not_have_are_refused():
    v2 = create_model("inception_v2", width=1 / 16)
    assert "keras: got the network 'inception_v2', wanted one of inception_v3" in refusal(v2, {}, "keras")
    v3 = small("inception_v3", "timm")
    assert "got 'tensorflow', wanted native, torchvision, timm, keras" in refusal(v3, {}, "tensorflow")
    paper = create_model("inception_resnet_v2", width=1 / 16)
    assert "create_model('inception_resnet_v2', preset='timm')" in refusal(paper, {}, "timm")
    slim = create_model("inception_v4", preset="tf_slim", width=1 / 16)
    assert "create_model('inception_v4', preset='timm')" in refusal(slim, {}, "timm")
    with pytest.raises(TypeError, match="got Sequential, wanted a network"):
        load_state_dict(Sequential(Conv2D(3, 4, 1)), {}, source="timm")


# -------------------------------------------------------------------------------------- constants


@pytest.mark.parametrize(
    ("name", "source", "eps", "gamma", "counted"),
    [
        ("inception_v1", "torchvision", 1e-3, True, None),
        ("inception_v3", "torchvision", 1e-3, True, True),
        ("inception_v3", "timm", 1e-3, True, True),
        ("inception_v4", "timm", 1e-3, True, False),
        ("inception_resnet_v2", "timm", 1e-3, True, False),
        ("xception", "timm", 1e-5, True, None),
        ("inception_v3", "keras", 1e-3, False, False),
        ("inception_resnet_v2", "keras", 1e-3, False, False),
        ("xception", "keras", 1e-3, True, None),
    ],
)
def test_a_preset_has_the_constants_of_its_source(name, source, eps, gamma, counted):
    layers = [layer for _, layer in walk(small(name, source))]
    norms = [layer for layer in layers if isinstance(layer, BatchNorm)]
    assert {(norm.eps, norm.gamma is not None) for norm in norms} == {(eps, gamma)}
    averages = {layer.count_include_pad for layer in layers if isinstance(layer, AvgPool2D)}
    assert averages == (set() if counted is None else {counted})
    ceil = {layer.ceil for layer in layers if isinstance(layer, MaxPool2D) and layer.stride != (1, 1)}
    assert ceil == {name == "inception_v1"}
    if name == "xception":
        same_pads = {layer.pad == "same" for layer in layers if isinstance(layer, MaxPool2D)}
        assert same_pads == {source == "keras"}


def test_weights_for_other_constants_are_loaded_with_a_warning():
    state = state_dict(small("inception_v3", "timm"), source="timm")
    with pytest.warns(UserWarning, match=r"for the preset 'paper'.*create_model\('inception_v3', preset='timm'\)"):
        load_state_dict(small("inception_v3", "paper"), state, source="timm")
    load_state_dict(small("inception_v3", "torchvision"), state, source="timm")  # equal constants: no warning


def test_every_source_has_its_preprocessing():
    assert set(PREPROCESS) == set(TWINS)
    assert {source for _, source in TWINS} == set(SOURCES)
    for (name, _), how in PREPROCESS.items():
        assert how.size == create_model(name, width=1 / 16).image[:2]
    assert len(imagenet_classes()) == 1000
    assert imagenet_classes()[:2] == ["tench", "goldfish"]
    assert imagenet_classes()[285] == "Egyptian cat"


# ------------------------------------------------------------------------------------------ files


def test_foreign_safetensors_are_read(tmp_path):
    from safetensors.numpy import save_file

    state = state_dict(small("inception_v1", "torchvision"), source="torchvision")
    save_file(state, tmp_path / "a.safetensors")
    assert same(dict(sorted(state.items())), dict(sorted(read_weights(tmp_path / "a.safetensors").items())))


@pytest.mark.torch
def test_pytorch_files_are_read_and_run_nothing(tmp_path):
    torch = pytest.importorskip("torch")
    model = small("inception_v1", "torchvision")
    state = {k: torch.from_numpy(v) for k, v in state_dict(model, source="torchvision").items()}
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "b.pt")
    for name in ("a.pth", "b.pt"):
        found = read_weights(tmp_path / name)
        assert same({k: v.numpy() for k, v in state.items()}, found)

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"conv1.conv.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth: PyTorch cannot read it safely") as caught:
        read_weights(tmp_path / "evil.pth")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # PyTorch's advice is to switch the check off
    assert not (tmp_path / "ran").exists()


def keras_file(path, state, legacy=False):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        if not legacy:
            for name, value in state.items():
                file[name] = value
            return
        layers = {}
        for name, value in state.items():
            layers.setdefault(name.partition("/")[0], {})[f"{name}:0"] = value
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, value in weights.items():
                group[name] = value


@pytest.mark.parametrize("legacy", [True, False])
def test_keras_files_are_read(tmp_path, legacy):
    model, other = small("xception", "keras"), small("xception", "keras", seed=1)
    state = state_dict(model, source="keras")
    path = tmp_path / ("a.h5" if legacy else "a.weights.h5")
    keras_file(path, state if legacy else by_position(state, "xception"), legacy)
    load_state_dict(other, read_weights(path), source="keras")
    assert same(state_dict(model), state_dict(other))


def test_links_out_of_a_keras_file_are_not_followed(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = np.zeros(3)
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    for how in ("external link", "soft link", "external data"):
        path = tmp_path / "a.weights.h5"
        with h5py.File(path, "w") as file:
            variables = file.create_group("layers/conv2d/vars")
            if how == "external link":
                variables["0"] = h5py.ExternalLink("secret.h5", "/secret")
            elif how == "soft link":
                variables["0"] = h5py.SoftLink("/nowhere")
            else:
                variables.create_dataset("0", (3,), "f8", external=[(str(tmp_path / "secret.bin"), 0, 24)])
        with pytest.raises(ValueError, match="wanted a data set"):
            read_weights(path)


def spoil(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a weights file\n")


@pytest.mark.parametrize("how", ["truncated", "empty", "text"])
@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".h5", ".weights.h5", ".keras"])
def test_damaged_files_get_one_line_that_names_them(tmp_path, ending, how):
    path = tmp_path / f"a{ending}"
    state = state_dict(small("xception", "keras"), source="keras")
    if ending == ".safetensors":
        write_tensors(path, state, {})
    elif ending == ".pth":
        torch = pytest.importorskip("torch")
        torch.save({k: torch.from_numpy(v) for k, v in state.items()}, path)
    elif ending == ".keras":
        pytest.importorskip("h5py")
        path.write_bytes(b"PK\3\4" + bytes(100))
    else:
        keras_file(path, state, legacy=ending == ".h5")
    spoil(path, how)
    with pytest.raises((ValueError, OSError)) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_of_no_known_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_weights(tmp_path / "a.safetensors")
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.onnx: got a file ending in '\.onnx', wanted \.safetensors"):
        read_weights(tmp_path / "a.onnx")
    write_tensors(tmp_path / "none.safetensors", {}, {})
    with pytest.raises(ValueError, match="without tensors"):
        read_weights(tmp_path / "none.safetensors")


# -------------------------------------------------------------------------------- the command line


def test_import_makes_a_checkpoint_that_predict_takes(tmp_path, capsys, monkeypatch):
    from PIL import Image

    from inception_np.weights.checkpoint import read

    monkeypatch.chdir(tmp_path)
    model = create_model("inception_v1", preset="torchvision", num_classes=1001, aux=False)
    write_tensors("them.safetensors", state_dict(model, source="torchvision"), {})
    assert main(["import", "them.safetensors", "--source", "torchvision", "--model", "googlenet", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["checkpoint"] == "inception_v1-torchvision.safetensors"
    assert len(printed["loaded"]) == len(state_dict(model))

    found, about = read(printed["checkpoint"])
    assert (found.name, found.preset, found.num_classes, found.heads) == ("inception_v1", "torchvision", 1000, {})
    assert Preprocess.from_dict(about["preprocess"]) == PREPROCESS["inception_v1", "torchvision"]
    np.testing.assert_array_equal(state_dict(found)["fc.bias"], state_dict(model)["fc.bias"][1:])

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).save("photo.png")
    assert main(["predict", printed["checkpoint"], "photo.png", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)[0]["predictions"]
    assert len(best) == 5
    assert {p["class"] for p in best} <= set(imagenet_classes())


def test_import_says_in_one_line_what_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = create_model("inception_v1", preset="torchvision", num_classes=3, aux=False)
    state = state_dict(model, source="torchvision")
    write_tensors("good.safetensors", state, {})
    write_tensors("bad.safetensors", {k: v for k, v in state.items() if k != "conv1.bn.bias"}, {})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "good.safetensors").read_bytes()[:-5])
    cases = [
        (["cut.safetensors", "--source", "torchvision", "--model", "inception_v1"], 1, "cut.safetensors: "),
        (["bad.safetensors", "--source", "torchvision", "--model", "inception_v1"], 1, "1 missing (conv1.bn.beta"),
        (["good.safetensors", "--source", "timm", "--model", "inception_v1"], 1, "timm: got the network"),
        (["good.safetensors", "--source", "torchvision", "--model", "inception_v3"], 1, "missing"),
        (["nowhere.pth", "--source", "torchvision", "--model", "inception_v1"], 1, "no such file"),
        (["good.safetensors", "--source", "caffe", "--model", "inception_v1"], 2, "--source"),
        (["good.safetensors", "--model", "inception_v1"], 2, "--source"),
    ]
    for argv, code, text in cases:
        assert main(["import", *argv]) == code, argv
        out = capsys.readouterr()
        assert text in out.err and out.err.count("\n") == 1, out.err
        assert out.out == ""
    assert not list(tmp_path.glob("inception_*"))
    assert main(["import", "bad.safetensors", "--source", "torchvision", "--model", "inception_v1", "--partial"]) == 0
    assert "1 missing" in capsys.readouterr().out


def test_the_stored_outputs_are_small():
    assert peers.STORED.stat().st_size < 100_000

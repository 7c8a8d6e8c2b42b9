"""A network in a folder, as on the Hugging Face hub: the same bits back, timm's folders, and what is refused."""

import json
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inception_np import Sequential, cast, create_model, from_pretrained, save_pretrained, state_dict
from inception_np.layers.linear import Linear
from inception_np.weights.checkpoint import read
from inception_np.weights.hub import LONGEST_CONFIG, read_pretrained
from inception_np.weights.tensorfile import read_tensors

CLASSES = [f"name of {i}" for i in range(7)]


def small(name="xception_cifar", seed=1, **options):
    return create_model(name, num_classes=7, width=1 / 16, seed=seed, **options)


def same(a, b):
    return list(a) == list(b) and all(a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a)


def refusal(folder, kind=ValueError):
    with pytest.raises(kind) as caught:
        from_pretrained(folder)
    line = str(caught.value)
    assert line.startswith(str(folder)) and "\n" not in line, line
    return line


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name, options", [("inception_v3_cifar", {"hidden": "9-4"}), ("bn_inception_cifar", {}), ("xception", {})]
)
def test_a_folder_gives_the_same_bits_back(tmp_path, name, options, dtype):
    model = small(name, **options)
    cast(model, dtype)
    about = {"classes": CLASSES, "preprocess": {"size": [32, 32], "mean": [1 / 3, 0.1, 1e-9]}}
    save_pretrained(model, tmp_path / "a" / "b", about=about)
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    found, read_about = read_pretrained(tmp_path / "a" / "b")
    assert (found.name, found.preset, found.options) == (model.name, model.preset, model.options)
    assert read_about == about
    assert same(state_dict(found), state_dict(model))
    assert same(state_dict(from_pretrained(str(tmp_path / "a" / "b"))), state_dict(model))


def test_plain_safetensors_read_the_weights_and_our_own_load_does(tmp_path):
    model = small()
    save_pretrained(model, tmp_path)
    assert same(
        dict(sorted(load_file(tmp_path / "model.safetensors").items())), dict(sorted(state_dict(model).items()))
    )
    assert same(state_dict(read(tmp_path / "model.safetensors")[0]), state_dict(model))
    config = json.loads((tmp_path / "config.json").read_text())
    metadata = read_tensors(tmp_path / "model.safetensors")[1]
    assert config["sha256"] == metadata["sha256"] and config["model"] == json.loads(metadata["model"])


def test_the_card_says_what_it_is_and_keeps_what_a_person_wrote(tmp_path):
    model = create_model("inception_v3_cifar")
    save_pretrained(model, tmp_path, about={"classes": list("abcdefghij")})
    card = (tmp_path / "README.md").read_text()
    count = sum(v.size for k, v in state_dict(model).items() if not k.endswith((".mean", ".var")))
    for text in (
        "license: # yours",
        "1512.00567",
        f"{count:,}",
        "a, b, c",
        "32x32x3",
        "preset='paper'",
        "from_pretrained(",
    ):
        assert text in card, text
    (tmp_path / "README.md").write_text("mine")
    save_pretrained(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    save_pretrained(create_model("speednet_cifar"), tmp_path / "b")  # the network that no paper has


def test_what_create_model_did_not_make_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(TypeError, match="got a Sequential, wanted a network from create_model"):
        save_pretrained(Sequential(Linear(3, 4)), tmp_path / "a")
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_pretrained(small(), tmp_path / "a", about={"mean": float("nan")})
    assert not (tmp_path / "a").exists()


def test_files_of_two_saves_are_refused(tmp_path):
    """As when a save is cut off between its files: equal options, other numbers."""
    save_pretrained(small(seed=1), tmp_path / "a")
    save_pretrained(small(seed=2), tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    assert "config.json: sha256: got" in refusal(tmp_path / "a")
    assert "no such file" in refusal(tmp_path / "b", FileNotFoundError)
    (tmp_path / "a" / "config.json").unlink()
    assert "config.json: no such file" in refusal(tmp_path / "a", FileNotFoundError)


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda c: c["model"]["options"].update(width=0.5), "model: got"),
        (lambda c: c["about"].update(classes=["b"]), "about: got"),
        (lambda c: c.update(format="inception_np 0"), "format: got inception_np 0"),
        (lambda c: c.pop("sha256"), "sha256: got None"),
        (lambda c: c.update(other=1), "other: got 1"),
        (lambda c: c.update(architecture="resnet50"), "architecture: got 'resnet50', wanted one of inception_v3"),
        (lambda c: c.update(architecture=["inception_v3"]), "architecture: got"),
    ],
)
def test_a_config_that_says_something_else_is_refused(tmp_path, change, text):
    save_pretrained(small(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert text in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"model": 1, "model": 2}', '{"a": NaN}', "{" + '"a":[' * 99_999, "\ud800"])
def test_a_config_that_is_no_object_is_refused(tmp_path, text):
    save_pretrained(small(), tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "config.json: " in refusal(tmp_path)


def test_a_config_of_any_size_and_weights_of_one_other_bit_are_refused(tmp_path):
    save_pretrained(small(), tmp_path)
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert "sha256" in refusal(tmp_path)
    (tmp_path / "config.json").write_bytes(b" " * (LONGEST_CONFIG + 1))
    assert "at most" in refusal(tmp_path)


# ------------------------------------------------------------------------------------- timm's folders


def timm_folder(folder, name="inception_v3", architecture="inception_v3", aux=False, **fields):
    model = create_model(name, preset="timm", num_classes=7, aux=aux, seed=4)
    save_file(state_dict(model, source="timm"), folder / "model.safetensors", metadata={"format": "pt"})
    how = {"tag": "tv_in1k", "input_size": [3, 299, 299], "interpolation": "bicubic", "crop_pct": 0.8975,
           "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.5], "classifier": "fc"}  # fmt: skip
    config = {"architecture": architecture, "num_classes": 7, "num_features": 2048, "global_pool": "avg",
              "model_args": {"num_classes": 7, "in_chans": 3, "global_pool": "avg"}, "label_names": CLASSES,
              "pretrained_cfg": how} | fields  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize(
    "name, architecture, aux",
    [
        ("inception_v3", "inception_v3", True),
        ("inception_v3", "inception_v3", False),
        ("xception", "legacy_xception", False),
    ],
)
def test_timms_folders_are_read(tmp_path, name, architecture, aux):
    model = timm_folder(tmp_path, name, architecture, aux)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, about = read_pretrained(tmp_path)
    assert (found.name, found.preset, found.num_classes) == (name, "timm", 7)
    assert same(state_dict(found), state_dict(model))
    assert about["classes"] == CLASSES
    assert about["preprocess"] == {"size": [299, 299], "resize": 333, "interpolation": "bicubic", "bgr": False,
                                   "mean": [127.5] * 3, "std": [63.75, 127.5, 127.5]}  # fmt: skip


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"num_classes": 8, "model_args": {}}, "fc.bias: got one of shape (7,), wanted config.json's 8 classes"),
        ({"num_classes": 10**9}, "num_classes: got 1000000000"),
        ({"num_classes": None}, "num_classes: got None, wanted an integer from 1"),
        ({"architecture": "inception_v4"}, "last_linear.bias: got none"),
        ({"global_pool": "max"}, "global_pool: got max, wanted avg"),
        ({"model_args": {"in_chans": 1}}, "in_chans: got 1, wanted 3"),
        ({"model_args": {"output_stride": 8}}, "output_stride: got 8, wanted none"),
        ({"model_args": [1]}, "model_args: got [1], wanted an object"),
        ({"pretrained_cfg": None}, "pretrained_cfg: got"),
        ({"pretrained_cfg": {"input_size": [3, 299, 299]}}, "pretrained_cfg: got 'mean'"),
    ],
)
def test_timms_folders_that_do_not_fit_are_refused(tmp_path, fields, text):
    timm_folder(tmp_path, **fields)
    assert text in refusal(tmp_path)


def test_timms_weights_that_lack_one_are_refused(tmp_path):
    timm_folder(tmp_path)
    state = dict(read_tensors(tmp_path / "model.safetensors", verified=False)[0])
    del state["Mixed_5b.branch1x1.bn.weight"]
    save_file({k: np.array(v) for k, v in state.items()}, tmp_path / "model.safetensors")
    assert "1 missing (Mixed_5b.b0.bn.gamma" in refusal(tmp_path)

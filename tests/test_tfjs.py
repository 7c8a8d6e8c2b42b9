"""TensorFlow.js's models, made up and small: what is read, what is refused, and that nothing is read wrongly."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tfjs_files
from hypothesis import given, settings
from hypothesis import strategies as st

from inception_np.weights.readers import read_model, read_weights


def tensors(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"conv2d/kernel": (3, 1, 5, 17), "bn/beta": (17,), "dense/kernel": (17, 1), "a/bias": (1,), "b": (0,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def changed(path, **fields):
    """The model with fields of its first group, or of the model, replaced."""
    model = json.loads(path.read_text())
    for name, value in fields.items():
        (model["weightsManifest"][0] if name in ("paths", "weights") else model)[name] = value
    path.write_text(json.dumps(model))
    return path


def entry(**fields):
    return [{"name": "a/kernel", "shape": [2, 2], "dtype": "float32"} | fields]


def refusal(path):
    with pytest.raises(ValueError) as caught:
        read_model(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line, line
    return line


@pytest.mark.parametrize("kinds", [("",), ("uint8",), ("uint16",), ("float16",), ("", "uint8", "uint16", "float16")])
@pytest.mark.parametrize("shard", [7, 1 << 20])
def test_tensors_are_what_each_number_says(tmp_path, kinds, shard):
    state = tensors()
    path = tfjs_files.write(tmp_path, state, {"class_name": "Sequential"}, kinds, shard)
    found, description = read_model(path)
    assert description == {"class_name": "Sequential"}
    plain = tfjs_files.plainly(path)
    assert list(found) == list(plain) == list(state)
    for name, value in state.items():
        assert found[name].dtype == np.float32 and found[name].shape == value.shape
        assert np.array_equal(found[name], plain[name])
        kind = kinds[list(state).index(name) % len(kinds)]
        step = {"": 0, "uint8": 8 / 255, "uint16": 8 / 65535, "float16": 4e-3}[kind]
        np.testing.assert_allclose(found[name], value, rtol=0, atol=step)


def test_numbers_are_scaled_in_float64_and_rounded_once(tmp_path):
    """In float32, 255 * scale + min would be rounded twice."""
    path = tfjs_files.write(tmp_path, {"a/kernel": np.zeros(256, np.float32)}, {})
    scale, least = 0.0029904448518566057, -0.4126813895562116
    how = {"dtype": "uint8", "scale": scale, "min": least}
    changed(path, weights=entry(shape=[256], quantization=how))
    (tmp_path / "group1-shard1of1.bin").write_bytes(bytes(range(256)))
    found = read_weights(path)["a/kernel"]
    assert np.array_equal(found, np.array([q * scale + least for q in range(256)], np.float32))
    twice = np.arange(256, dtype=np.float32) * np.float32(scale) + np.float32(least)
    assert not np.array_equal(found, twice)  # so the test would see it


@pytest.mark.parametrize(
    "name",
    ["../secret.bin", "/etc/hostname", "a/../../secret.bin", "..", "", ".", "a//b", "\\\\host\\a", "..\\secret.bin",
     "C:secret.bin", "https://host/a.bin", "file:///etc/hostname", "a\0", "missing.bin", "group"],
)  # fmt: skip
def test_only_files_in_the_folder_are_read(tmp_path, name):
    folder = tmp_path / "model"
    (folder / "group").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    path = tfjs_files.write(folder, {"a/kernel": np.zeros((2, 2), np.float32)}, {})
    line = refusal(changed(path, paths=[name]))
    assert ("weightsManifest[0].paths" in line and "wanted" in line) or "no such file" in line, line


def test_a_folder_below_is_one_of_the_models(tmp_path):
    path = tfjs_files.write(tmp_path, {"a/kernel": np.ones((2, 2), np.float32)}, {})
    (tmp_path / "w").mkdir()
    shutil.move(tmp_path / "group1-shard1of1.bin", tmp_path / "w" / "1.bin")
    assert read_weights(changed(path, paths=["w/1.bin"]))["a/kernel"].sum() == 4


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"format": "graph-model"}, "format: got 'graph-model', wanted 'layers-model'"),
        ({"modelTopology": {"node": []}}, "wanted 'layers-model', which keeps the layers"),
        ({"modelTopology": None}, "wanted 'layers-model'"),
        ({"weightsManifest": {}}, "weightsManifest: wanted a list of groups"),
        ({"weightsManifest": [3]}, "weightsManifest: wanted a list of groups"),
        ({"paths": "group1-shard1of1.bin"}, "wanted a list of names of files"),
        ({"weights": {}}, "weightsManifest[0].weights: wanted a list of tensors"),
        ({"weights": [3]}, "weightsManifest[0].weights[0]: wanted a name, a shape and a dtype"),
        ({"weights": entry(name=3)}, "wanted a name, a shape and a dtype"),
        ({"weights": entry(shape=[-1])}, "a/kernel: shape [-1], wanted a list"),
        ({"weights": entry(shape=[2.0])}, "shape [2.0]"),
        ({"weights": entry(shape=[True])}, "shape [True]"),
        ({"weights": entry(shape=[1] * 33)}, "wanted a list of at most 32"),
        ({"weights": entry(shape=[1 << 39, 1 << 39])}, "brings the tensors to"),
        ({"weights": entry(dtype="int32")}, "a/kernel: dtype 'int32', wanted 'float32'"),
        ({"weights": entry(dtype=None)}, "dtype 'None'"),
        ({"weights": entry(quantization="uint8")}, "quantised to 'None'"),
        ({"weights": entry(quantization={"dtype": "int8"})}, "quantised to 'int8', wanted one of uint8"),
        ({"weights": entry(quantization={"dtype": "uint8", "min": 0.0})}, "scale None and min 0.0"),
        ({"weights": entry(quantization={"dtype": "uint8", "min": "0", "scale": 1})}, "min 0, wanted numbers"),
        ({"weights": entry(quantization={"dtype": "uint8", "min": 0, "scale": 1e300})}, "wanted numbers below 1e30"),
        ({"weights": entry(shape=[3, 3])}, "a/kernel: bytes 0 to 36 of the group's files, which have 16"),
        ({"weights": entry(shape=[2, 1])}, "weightsManifest[0]: its files have 16 bytes, wanted 8"),
        ({"weights": [*entry(shape=[2]), *entry(shape=[2])]}, "names 'a/kernel' twice"),
    ],
)  # fmt: skip
def test_what_is_not_exactly_right_is_refused(tmp_path, fields, text):
    path = tfjs_files.write(tmp_path, {"a/kernel": np.zeros((2, 2), np.float32)}, {})
    assert read_weights(path)["a/kernel"].shape == (2, 2)
    assert text in refusal(changed(path, **fields))


def test_a_file_that_is_no_json_or_too_much_of_it_is_refused(tmp_path, monkeypatch):
    path = tfjs_files.write(tmp_path, tensors(), {})
    whole = path.read_text()
    for text in ("", "[]", whole[:-9], whole.replace('"format"', '"format": "layers-model", "format"', 1),
                 "{" + '"a":[' * 100_000, whole.replace("2.2.4", "\\ud800\n")):  # fmt: skip
        path.write_text(text)
        assert "model.json: " in refusal(path)
    path.write_bytes(b'{"\xff": 1}')
    assert "model.json: " in refusal(path)
    path.write_text(whole)
    monkeypatch.setattr("inception_np.weights.tfjs_file.LONGEST_JSON", 100)
    assert "wanted 100 at most" in refusal(path)


def test_a_shard_that_is_cut_short_or_too_long_is_refused(tmp_path):
    path = tfjs_files.write(tmp_path, tensors(), {}, shard=500)
    shard = tmp_path / "group1-shard2of3.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert "of the group's files, which have" in refusal(path)
    shard.write_bytes(content + b"\0")
    assert "bytes, wanted" in refusal(path)


def check_flip(seed, where, at, byte):
    with tempfile.TemporaryDirectory() as name:
        path = tfjs_files.write(Path(name), tensors(seed), {"a": 1}, ("", "uint8", "uint16", "float16"), shard=400)
        file = sorted(Path(name).iterdir())[where]
        content = bytearray(file.read_bytes())
        content[at % len(content)] = byte
        file.write_bytes(content)
        try:
            found = read_weights(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), error
            return "refused"
        plain = tfjs_files.plainly(path)
        assert list(found) == list(plain)
        assert all(np.array_equal(found[k], plain[k], equal_nan=True) for k in plain)
        return "read"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 9), st.integers(0, 3), st.integers(0, 1 << 16), st.integers(0, 255))
def test_a_changed_byte_is_read_as_it_stands_or_refused(seed, where, at, byte):
    check_flip(seed, where, at, byte)


def test_such_bytes_come_to_both_ends():
    rng = np.random.default_rng(0)
    flips = [(where, int(rng.integers(1 << 16)), int(rng.integers(256))) for where in (0, 3) for _ in range(40)]
    assert {check_flip(0, *flip) for flip in flips} == {"refused", "read"}

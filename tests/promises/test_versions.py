"""Files of earlier versions: they load, and files of unknown formats are refused by the format's name.

The files lie in fixtures/, where make.py says how they were made. They are never made again.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inception_np import load
from inception_np.layer import Mode
from inception_np.weights.tensorfile import read_tensors, write_tensors

from . import small
from .fixtures.make import images

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = [path.stem.rpartition("-")[2] for path in FIXTURES.glob("expected-*.json")]


def expected(version):
    return json.loads((FIXTURES / f"expected-{version}.json").read_text())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_checkpoint_of_an_earlier_version_gives_its_logits(version):
    net = load(FIXTURES / f"checkpoint-{version}.safetensors")
    np.testing.assert_allclose(net.forward(images(), Mode())[0], expected(version)["logits"], atol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_checkpoint_of_an_earlier_version_is_evaluated_and_predicts(version, tmp_path):
    from PIL import Image

    checkpoint = str(FIXTURES / f"checkpoint-{version}.safetensors")
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(tmp_path / "a.png")
    assert small.said(["eval", checkpoint, "--test-images", "20"]) == (0, "")
    assert small.said(["predict", checkpoint, str(tmp_path / "a.png")]) == (0, "")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_of_an_earlier_version_is_resumed_to_its_end(version, tmp_path):
    """To the same numbers but for roundings: it may have begun on another processor."""
    shutil.copy(FIXTURES / f"training-{version}.safetensors", tmp_path / "state.safetensors")
    code, said = small.said(["train", "--resume", "--output", str(tmp_path)])
    assert code == 0, said
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    wanted = expected(version)["log"]
    assert log[0] == wanted[0] and len(log) == len(wanted)
    for key in ("train_loss", "test_loss", "lr", "images"):
        assert log[1][key] == pytest.approx(wanted[1][key], rel=1e-3), key
    options = json.loads((tmp_path / "options.json").read_text())
    assert {key: options[key] for key in expected(version)["options"]} == expected(version)["options"]


def rewritten(name, path, **changes):
    """A file of fixtures/ with other metadata, and a right digest."""
    arrays, metadata = read_tensors(FIXTURES / name)
    del metadata["sha256"]
    write_tensors(path, arrays, {**metadata, **changes})


def test_a_checkpoint_of_an_unknown_format_is_refused_by_its_name(tmp_path):
    rewritten("checkpoint-1.safetensors", tmp_path / "m", format="inception_np 99")
    with pytest.raises(ValueError, match=r"format: got 'inception_np 99', wanted 'inception_np 1'; .*version"):
        load(tmp_path / "m")


def test_a_run_of_an_unknown_format_is_refused_by_its_name(tmp_path):
    rewritten("training-1.safetensors", tmp_path / "state.safetensors", format="inception_np training 99")
    code, said = small.said(["train", "--resume", "--output", str(tmp_path)])
    assert code == 1 and said.count("\n") == 1
    assert "format: got 'inception_np training 99', wanted 'inception_np training 1'" in said and "version" in said
    assert [path.name for path in tmp_path.iterdir() if path.name != "lock"] == ["state.safetensors"]


def test_arrays_that_a_later_version_does_not_know_are_listed(tmp_path):
    arrays, metadata = read_tensors(FIXTURES / "checkpoint-1.safetensors")
    del metadata["sha256"]
    write_tensors(
        tmp_path / "m", {f"{name}s" if i < 7 else name: a for i, (name, a) in enumerate(arrays.items())}, metadata
    )
    with pytest.raises(ValueError, match=r"7 missing \((\S+, ){5}\.\.\.\), 7 unexpected \((\S+, ){5}\.\.\.\)"):
        load(tmp_path / "m")


def other_format(monkeypatch):
    monkeypatch.setattr("inception_np.weights.checkpoint.FORMAT", "inception_np 2")


def other_names(monkeypatch):
    from inception_np import Linear

    monkeypatch.setattr(Linear, "children", lambda self: {"weights": self.weight, "biases": self.bias})


def other_numbers(monkeypatch):
    from inception_np import BatchNorm

    init = BatchNorm.__init__

    def __init__(self, channels, **keywords):
        init(self, channels, **{**keywords, "eps": 0.1})

    monkeypatch.setattr(BatchNorm, "__init__", __init__)


@pytest.mark.parametrize("change", [other_format, other_names, other_numbers])
def test_a_version_that_forgets_the_one_before_is_seen(monkeypatch, change):
    change(monkeypatch)
    with pytest.raises((ValueError, AssertionError)):
        test_a_checkpoint_of_an_earlier_version_gives_its_logits("1")

"""A trained network that its authors published for TensorFlow.js, in ours and in TensorFlow.js: equal probabilities.

The npm package nsfwjs (MIT) has an Inception-v3 of 2.2e7 parameters, quantised to bytes, with a classifier of three
fully connected layers. It is fetched from npm's registry, into the folder $INCEPTION_NP_NPM where that is set.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from inception_np import compile_inference, load_state_dict, state_dict
from inception_np.__main__ import main
from inception_np.weights.checkpoint import read

MODEL = "nsfwjs@4.2.1"
TFJS = [f"@tensorflow/tfjs-{part}@4.22.0" for part in ("core", "layers", "backend-cpu", "backend-wasm")]
SCRIPTS = Path(__file__).parent / "tfjs"
pytestmark = [pytest.mark.long, pytest.mark.skipif(not shutil.which("npm"), reason="needs Node.js and npm")]


def run(*command, folder):
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with TensorFlow.js installed, and the model in "model"."""
    kept = os.environ.get("INCEPTION_NP_NPM")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("npm")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text("{}")
    try:
        if not (folder / "node_modules" / "@tensorflow" / "tfjs-layers").is_dir():
            run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *TFJS, folder=folder)
        if not (folder / "model" / "model.json").is_file():
            packed = run("npm", "pack", MODEL, folder=folder).stdout.split()[-1]
            models = "package/dist/models/inception_v3"
            run("tar", "xzf", packed, models, folder=folder)
            run("node", SCRIPTS / "unpack.js", models, "model", folder=folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{' '.join(map(str, error.cmd))}: {error.stderr.strip()[-200:]}")
    return folder


def photographs():
    """Two pictures without detail (2, 299, 299, 3), pixels 0 to 255."""
    from PIL import Image

    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)) for _ in range(2)]
    return np.stack([np.asarray(p.resize((299, 299), Image.Resampling.BICUBIC), np.float32) for p in small])


def test_its_probabilities_are_tensorflow_jss(folder, tmp_path, capsys):
    ours = tmp_path / "nsfw.safetensors"
    # nsfwjs gives its network pixels of 0 .. 1, which the file does not say
    argv = ["import", str(folder / "model" / "model.json"), "--source", "keras", "--model", "inception_v3",
            "--output", str(ours), "--mean", "0", "0", "0", "--std", "255", "255", "255"]  # fmt: skip
    assert main(argv) == 0
    assert "382 loaded" in capsys.readouterr().out
    model, about = read(ours)
    assert (model.num_classes, model.options["hidden"]) == (5, "256-128")
    x = (photographs() - np.float32(about["preprocess"]["mean"][0])) / np.float32(about["preprocess"]["std"][0])
    logits = compile_inference(model, x.shape)(x).astype(np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)

    x.astype("<f4").tofile(tmp_path / "x")
    run("node", SCRIPTS / "predict.js", "model/model.json", tmp_path / "x", tmp_path / "y", *map(str, x.shape[:3]),
        folder=folder)  # fmt: skip
    theirs = np.fromfile(tmp_path / "y", "<f4").reshape(p.shape).astype(np.float64)
    print(f"largest difference of probabilities {np.abs(p - theirs).max():.1e}")
    assert np.abs(p - theirs).max() < 1e-4
    assert np.abs(np.log(p) - np.log(theirs)).max() < 1e-3  # the unlikely classes too, down to 1e-7


def test_the_same_weights_with_two_branches_exchanged_give_others(folder, tmp_path):
    """The trap: kernels of one shape, told apart by their names alone."""
    argv = ["import", str(folder / "model" / "model.json"), "--source", "keras", "--model", "inception_v3",
            "--output", str(tmp_path / "a.safetensors")]  # fmt: skip
    assert main(argv) == 0
    model = read(tmp_path / "a.safetensors")[0]
    x = (photographs() / 255).astype(np.float32)
    before = compile_inference(model, x.shape)(x)
    ours = state_dict(model)
    a, b = "Mixed_6c.b1.1x7.conv.weight", "Mixed_6c.b2.1x7a.conv.weight"
    assert ours[a].shape == ours[b].shape
    ours[a], ours[b] = ours[b], ours[a]
    load_state_dict(model, ours)
    assert np.abs(compile_inference(model, x.shape)(x) - before).max() > 0.01

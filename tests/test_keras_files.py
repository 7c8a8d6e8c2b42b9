"""Models that Keras itself writes, whole ones and weights alone, with classifiers of one's own: equal answers."""

import json

import numpy as np
import peers
import pytest

from inception_np import Mode
from inception_np.__main__ import main
from inception_np.weights.checkpoint import read

# Keras asks PyTorch for arrays in a way that NumPy 2 calls outdated
pytestmark = [pytest.mark.torch, pytest.mark.long, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
IMAGE = (139, 171, 3)
NAMES = {"InceptionV3": "inception_v3", "InceptionResNetV2": "inception_resnet_v2", "Xception": "xception"}


def pictures():
    """Three of them: over two, some statistics of the last grid are close to 0."""
    return np.random.default_rng(3).uniform(0, 255, (3, *IMAGE))


def built(library, peer, form):
    """A model of five classes; nested: it takes pixels 0 .. 255, and has two fully connected layers."""
    layers = library.layers
    make = getattr(library.applications, peer)
    if form == "plain":
        return make(weights=None, classes=5, input_shape=IMAGE, classifier_activation=None)
    base = make(weights=None, include_top=False, input_shape=IMAGE)
    if form == "flat":
        h = layers.GlobalAveragePooling2D()(base.output)
        return library.Model(base.input, layers.Dense(5, name="mine", activation="softmax")(h))
    if form == "sequential":
        return library.Sequential([library.Input(IMAGE), base, layers.GlobalAveragePooling2D(), layers.Dense(5)])
    image = library.Input(IMAGE)
    h = layers.Rescaling(1 / 127.5, offset=-1)(layers.RandomFlip("horizontal")(image))
    h = layers.GlobalAveragePooling2D()(base(h, training=False))
    h = layers.Dropout(0.3)(layers.Dense(20, activation="relu")(h))
    return library.Model(image, layers.Dense(5, activation="softmax")(h))


def calibrate(library, model, x):
    """Random affine parameters, and running averages that are the batch's."""
    import torch

    rng = np.random.default_rng(4)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, library.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
        layer.beta.assign(0.3 * rng.standard_normal(layer.beta.shape))
    for layer in model._flatten_layers():
        if isinstance(layer, library.layers.Dense):
            layer.bias.assign(rng.standard_normal(layer.bias.shape))
    with torch.no_grad():
        model(torch.from_numpy(x), training=True)


def probabilities(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize(
    "peer, form",
    [
        ("InceptionV3", "plain"),
        ("InceptionV3", "flat"),
        ("InceptionV3", "nested"),
        ("InceptionResNetV2", "sequential"),
        ("Xception", "nested"),
    ],
)
def test_what_keras_writes_is_read(tmp_path, capsys, peer, form):
    pytest.importorskip("torch")
    pytest.importorskip("h5py")
    try:
        library = peers.keras()
    except ImportError as error:
        pytest.skip(f"keras: {error}")
    import torch

    library.utils.clear_session()
    model, x = built(library, peer, form), pictures()
    given = x if form == "nested" else x / 127.5 - 1
    calibrate(library, model, given)
    with torch.no_grad():
        theirs = model(torch.from_numpy(given), training=False).numpy()
    for ending in (".keras", ".h5", ".weights.h5"):
        path = tmp_path / f"a{ending}"
        (model.save_weights if ending == ".weights.h5" else model.save)(path)
        target = tmp_path / "ours.safetensors"
        code = main(["import", str(path), "--source", "keras", "--model", NAMES[peer], "--output", str(target)])
        out = capsys.readouterr()
        path.unlink()
        if form == "nested" and ending == ".weights.h5":  # two fully connected layers; nothing says what they do
            assert code == 1 and "2 unexpected (layers/dense_1/vars/0" in out.err
            continue
        assert code == 0, out.err
        assert ("taken for granted" in out.out) == (ending == ".weights.h5")
        ours, about = read(target)
        mean, std = (np.float32(about["preprocess"][key][0]) for key in ("mean", "std"))
        y = ours.forward(((x - mean) / std).astype(np.float32), Mode())[0].astype(np.float64)
        if form in ("flat", "nested"):
            y = probabilities(y)
        difference = np.abs(y - theirs).max() / np.abs(theirs).max()
        print(json.dumps({"peer": peer, "form": form, "file": ending, "difference": float(f"{difference:.1e}")}))
        assert difference < 1e-3

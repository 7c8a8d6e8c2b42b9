"""The default recipes learn: every small network sorts shapes10 after a run without any options but its name.

pytest -s -m long tests/test_recipes.py -k default        prints the accuracies, and the seconds that the runs take
"""

import time

import pytest

from inception_np.models import MODELS
from inception_np.training import loop
from inception_np.training.options import resolve

NAMES = [name for name in MODELS if name.endswith("_cifar")]


def accuracy(folder, monkeypatch, name, preset="paper", **given):
    """That of the test images, after a run by the recipe."""
    monkeypatch.setattr(loop.Run, "draw", lambda run: None)
    return loop.train(folder, resolve(model=name, preset=preset, **given))["test_accuracy"]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_network_passes_90_per_cent_by_default(tmp_path, monkeypatch, name):
    began = time.perf_counter()
    found = accuracy(tmp_path, monkeypatch, name)
    print(f"\n{name}: {found:.2%}, {time.perf_counter() - began:.0f} s")
    assert found >= 0.9


@pytest.mark.long
@pytest.mark.parametrize(
    "name, preset", [(name, preset) for name in NAMES for preset in MODELS[name].presets if preset != "paper"]
)
def test_every_preset_begins_to_learn(tmp_path, monkeypatch, name, preset):
    """After two epochs."""
    assert accuracy(tmp_path, monkeypatch, name, preset, epochs=2, test_images=500) > 0.15


@pytest.mark.long
def test_a_recipe_that_kills_the_network_is_noticed(tmp_path, monkeypatch):
    """GoogLeNet by the recipe of the networks with batch norm."""
    others = {"lr": 0.2, "sgd_lr": 0.1, "epochs": 1, "test_images": 500}
    assert accuracy(tmp_path, monkeypatch, "inception_v1_cifar", **others) < 0.15

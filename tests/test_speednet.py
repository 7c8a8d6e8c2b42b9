"""The network made for speed: its whitening, its filters that copy, and the recipe that comes with it."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from inception_np import Mode, Replay, compile_inference, create_model, load, named_buffers, named_params
from inception_np.data.shapes10 import shapes10
from inception_np.layer import walk
from inception_np.layers import whitening
from inception_np.layers.init import dirac, he_normal
from inception_np.layers.whitening import PatchWhitening, whiten
from inception_np.training import loop
from inception_np.training.options import resolve

FILTERS = "whiten.conv.weight"


def pictures(count=300, height=9, width=12):
    """Smooth in both directions, as natural images are, and with colours that go together."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((count, height, width, 3)).cumsum(1).cumsum(2) + rng.standard_normal((count, 1, 1, 3)) * 4
    x[..., 1] += x[..., 0]
    return ((x - x.mean((0, 1, 2))) / x.std((0, 1, 2))).astype(np.float32)


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_fitted_filters_give_channels_of_variance_one_that_say_different_things(kernel):
    x = pictures()
    layer = PatchWhitening(3, kernel, rng=np.random.default_rng(0))
    layer.fit(x)
    y, _ = layer.forward(x, Mode())
    half = 3 * kernel**2
    assert y.shape == (300, 10 - kernel, 13 - kernel, 2 * half)
    np.testing.assert_array_equal(y[..., half:], -y[..., :half])
    first = y[..., :half].reshape(-1, half).astype(np.float64)
    moments = first.T @ first / len(first)
    variances = np.diag(moments)
    assert np.abs(moments - np.diag(variances)).max() < 2e-3
    # eps takes something from those that have little: lambda / (lambda + eps)
    patches = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, half).astype(np.float64)
    found = np.sort(np.linalg.eigvalsh(patches.T @ patches / len(patches)))[::-1]
    np.testing.assert_allclose(variances, found / (found + 5e-4), rtol=5e-3)


@pytest.mark.parametrize("fault", ["rows for columns", "no root", "one sign"])
def test_filters_that_do_not_whiten_would_be_noticed(monkeypatch, fault):
    right = PatchWhitening.fit

    def wrong(self, images):
        right(self, images)
        w = self.weight.data
        if fault == "rows for columns":
            w[...] = w.swapaxes(0, 1).copy()
        elif fault == "no root":
            w *= np.abs(w).sum((0, 1, 2))
        else:
            w[..., w.shape[3] // 2 :] *= -1

    monkeypatch.setattr(PatchWhitening, "fit", wrong)
    with pytest.raises(AssertionError):
        test_fitted_filters_give_channels_of_variance_one_that_say_different_things(2)


@pytest.mark.parametrize(("inputs", "outputs", "first"), [(3, 5, 0), (5, 3, 0), (5, 4, 2), (2, 3, 4)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (1, 3)])
def test_dirac_filters_copy_their_inputs(inputs, outputs, first, kernel):
    shape, fans = (*kernel, inputs, outputs), (9 * inputs, 9 * outputs)
    w, drawn = (init(np.random.default_rng(0), shape, *fans) for init in (dirac(first), he_normal))
    centre = kernel[0] // 2, kernel[1] // 2
    for o in range(outputs):
        if first + o < inputs:
            wanted = 0.01 * drawn[..., o]
            wanted[(*centre, first + o)] += 1
            np.testing.assert_allclose(w[..., o], wanted, rtol=1e-6)
        else:
            np.testing.assert_array_equal(w[..., o], drawn[..., o])


def test_the_first_convolution_is_not_among_what_is_learned():
    net = create_model("speednet_cifar", width=1 / 8)
    assert FILTERS in named_buffers(net) and FILTERS not in named_params(net)
    assert "whiten.conv.bias" in named_params(net)
    assert sum(isinstance(layer, PatchWhitening) for _, layer in walk(net)) == 1


@pytest.mark.parametrize("low_memory", [False, True])
def test_replayed_and_compiled_it_gives_what_its_layers_give(low_memory):
    nets = [create_model("speednet_cifar", width=1 / 8, num_classes=7, seed=5) for _ in range(2)]
    x, dy = np.random.default_rng(0).standard_normal((4, 32, 32, 3), np.float32), None
    passes = Replay(nets[0], low_memory=low_memory)
    for _ in range(3):
        y = passes.forward(x, np.random.default_rng(1))
        mode = Mode(train=True, keep=True, rng=np.random.default_rng(1), low_memory=low_memory)
        wanted, cache = nets[1].forward(x, mode)
        np.testing.assert_array_equal(y, wanted)
        dy = np.random.default_rng(2).standard_normal(y.shape, np.float32) if dy is None else dy
        passes.backward(dy)
        nets[1].backward(dy, x, cache, need_dx=False)
        for (path, a), b in zip(named_params(nets[0]).items(), named_params(nets[1]).values(), strict=True):
            assert np.abs(b.grad).max() > 0, path
            np.testing.assert_array_equal(a.grad, b.grad, path)
    wanted, _ = nets[1].forward(x, Mode())
    np.testing.assert_allclose(compile_inference(nets[1], x.shape)(x), wanted, atol=1e-4 * np.abs(wanted).max())


OPTIONS = replace(
    resolve(data="cifar10", model="speednet_cifar"),
    **{"data": "shapes10", "width": 1 / 8, "train_images": 40, "test_images": 10, "batch_size": 8, "epochs": 2},
)


def test_training_whitens_before_its_first_step_and_keeps_the_filters(tmp_path):
    loop.train(tmp_path, OPTIONS)
    images, _ = shapes10("train", 40)
    run = loop.Run(tmp_path / "other", OPTIONS, False)
    wanted = create_model("speednet_cifar", width=1 / 8, num_classes=10)
    whiten(wanted, images, run.data.mean, run.data.std)
    found = named_buffers(load(tmp_path / "checkpoint.safetensors"))[FILTERS].data
    np.testing.assert_array_equal(found, named_buffers(wanted)[FILTERS].data)
    assert (tmp_path / "filters.png").exists()
    assert np.abs(found - named_buffers(create_model("speednet_cifar", width=1 / 8))[FILTERS].data).max() > 0.1


def test_training_without_whitening_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "whiten", lambda net, *images: None)
    with pytest.raises(AssertionError):
        test_training_whitens_before_its_first_step_and_keeps_the_filters(tmp_path)


def test_filters_are_fitted_to_the_first_images_alone(monkeypatch):
    monkeypatch.setattr(whitening, "IMAGES", 50)
    nets = [create_model("speednet_cifar", width=1 / 8) for _ in range(2)]
    x = shapes10("train", 60)[0]
    whiten(nets[0], x, (100.0, 110.0, 120.0), (60.0, 50.0, 40.0))
    x[50:] = 9
    whiten(nets[1], x, (100.0, 110.0, 120.0), (60.0, 50.0, 40.0))
    np.testing.assert_array_equal(*(named_buffers(net)[FILTERS].data for net in nets))


def test_the_recipes_are_for_cifar10_and_give_way_to_what_is_asked_for():
    how = {"data": "cifar10", "model": "speednet_cifar"}
    usual, sgd = resolve(**how), resolve(**how, optimizer="sgd")
    assert (usual.optimizer, usual.schedule, usual.lookahead, usual.bias_scale) == ("muon", "linear", False, 64)
    assert (sgd.batch_size, sgd.schedule, sgd.lookahead) == (1024, "triangular", True)
    assert resolve(**how, device="cuda") == replace(sgd, device="cuda", precision="tf32")
    plain, averaged = resolve(**how, augment=False), resolve(**how, optimizer="sgd", ema=0.99)
    for options in (usual, sgd):
        assert (options.flip, options.tta, options.pad, options.smoothing) == ("alternating", True, 2, 0.2)
    assert resolve(**how, lr=0.5, tta=False, flip="random") == replace(usual, lr=0.5, tta=False, flip="random")
    assert (plain.cutout, plain.flip, plain.augment) == (0, "random", False)
    assert averaged.ema == 0.99 and not averaged.lookahead
    for options in (usual, sgd, plain, averaged):
        loop.check(options)
    assert asdict(resolve(model="speednet_cifar"))["schedule"] == "cosine"


@pytest.mark.parametrize(
    ("channels", "kernel", "name"), [(3, (2, 2), "kernel"), (3, 0, "kernel"), (1.5, 2, "in_channels")]
)
def test_whitening_refuses_what_is_no_count(channels, kernel, name):
    with pytest.raises((TypeError, ValueError), match=f"PatchWhitening: got {name}="):
        PatchWhitening(channels, kernel)


def test_it_has_no_auxiliary_head():
    with pytest.raises(ValueError, match="speednet_cifar: got aux=True, wanted None or False"):
        create_model("speednet_cifar", aux=True)

"""Our networks beside the same ones in torchvision, timm and Keras: equal logits and equal gradients in float64.

Where the peers are installed they are asked; what they said for the same weights is stored in data/parity.npz and
checked everywhere. See peers.py, which also says how to have the peers.
"""

import numpy as np
import peers
import pytest

from inception_np import Mode, create_model, load_state_dict, named_params, state_dict
from inception_np.layer import walk
from inception_np.layers.activation import Dropout
from inception_np.layers.batchnorm import BatchNorm
from inception_np.layers.conv_bn_relu import ConvBNReLU
from inception_np.weights.convert import from_native

everyone = pytest.mark.parametrize("case", peers.CASES, ids=lambda case: case.id)


def difference(ours, theirs):
    """The largest difference in units of the largest entry."""
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def norm_difference(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def ask(case):
    """The library's module, or the test is skipped."""
    pytest.importorskip("torch")
    try:
        return {"torchvision": peers.torchvision, "timm": peers.timm, "keras": peers.keras}[case.source]()
    except ImportError as error:
        pytest.skip(f"{case.source}: {error}")


def ours_for(case, **options):
    return create_model(case.name, preset=case.preset, num_classes=peers.CLASSES, dtype="float64", **options)


def calibrate(model, x):
    """Running averages become the batch's own mean and biased variance, in one forward pass."""
    layers = [layer for _, layer in walk(model) if isinstance(layer, (BatchNorm, ConvBNReLU))]

    def measuring(layer):
        def forward(x, mode, out=None):
            y, cache = type(layer).forward(layer, x, mode, out)
            norm, (mean, var, *_) = (layer, cache) if isinstance(layer, BatchNorm) else (layer.bn, cache[0][1])
            norm.mean.data[...], norm.var.data[...] = mean, var
            return y, cache

        return forward

    for layer in layers:
        layer.forward = measuring(layer)
    model.forward(x, Mode(train=True, keep=True, rng=np.random.default_rng(0)))
    for layer in layers:
        del layer.forward


def logits_and_dx(model, x, dy):
    y, cache = model.forward(x, Mode(keep=True))
    return y, model.backward(dy, x, cache)


@everyone
def test_logits_and_input_gradient_equal_what_the_peer_said(case):
    stored = np.load(peers.STORED)
    model = ours_for(case, aux=False)
    names = {n: a.shape for n, a in state_dict(model, source=case.source).items()}
    load_state_dict(model, peers.drawn(names, case.source), source=case.source)
    x = peers.pictures(case)[:1]  # one image: the test is for everybody, and float64 is slow
    dy = peers.cotangent((len(x), peers.CLASSES))
    calibrate(model, x)
    y, dx = logits_and_dx(model, x, dy)
    assert peers.digest(names) == stored[f"{case.id}/names"].tolist()
    assert difference(y, stored[f"{case.id}/y"]) < 1e-9
    assert difference(peers.sample(dx), stored[f"{case.id}/dx"]) < 1e-9


@pytest.mark.torch
@everyone
def test_logits_and_input_gradient_equal_the_peers(case):
    ask(case)
    x = peers.pictures(case, seed=15)
    dy = peers.cotangent((len(x), peers.CLASSES), seed=16)
    peer = peers.build(case)
    peers.calibrate(case, peer, x)
    model = ours_for(case, aux=False)
    report = load_state_dict(model, peers.state(case, peer), source=case.source)
    assert not report.missing and not report.unexpected and not report.filled
    y, dx = logits_and_dx(model, x, dy)
    their_y, their_dx = peers.logits_and_dx(case, peer, x, dy)
    assert difference(y, their_y) < 1e-9
    assert difference(dx, their_dx) < 1e-9
    assert norm_difference(dx, their_dx) < 1e-9


def case_of(id):
    return next(case for case in peers.CASES if case.id == id)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(
    ("id", "image", "images", "aux"),
    [
        ("torchvision-inception_v3", (299, 315), 3, True),
        ("torchvision-googlenet", (224, 240), 2, True),
        ("timm-inception_resnet_v2", (107, 139), 2, False),
    ],
)
def test_training_gradients_of_every_parameter_equal_the_peers(id, image, images, aux):
    case = case_of(id)
    ask(case)
    import torch

    rng = np.random.default_rng(1)
    x = rng.standard_normal((images, *image, 3))
    peer = peers.build(case, aux=aux).train()
    model = ours_for(case, aux=aux)
    for module in peer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for _, layer in walk(model):
        if isinstance(layer, Dropout):
            layer.rate = 0.0
    load_state_dict(model, peers.state(case, peer), source=case.source)

    y, cache = model.forward(x, Mode(train=True, keep=True, rng=rng))
    outputs, heads = ([y[0], *y[1].values()], list(y[1])) if aux else ([y], [])
    dys = [rng.standard_normal(out.shape) for out in outputs]
    dx = model.backward((dys[0], dict(zip(heads, dys[1:], strict=True))) if aux else dys[0], x, cache)
    grads = from_native(model, {path: p.grad for path, p in named_params(model).items()}, case.source)

    given = torch.from_numpy(x).requires_grad_()
    theirs = peer(given.permute(0, 3, 1, 2))
    theirs = [theirs] if not aux else [getattr(theirs, k) for k in peers.OUTPUTS[case.peer]]
    sum((out * torch.from_numpy(dy)).sum() for out, dy in zip(theirs, dys, strict=True)).backward()

    for ours, out in zip(outputs, theirs, strict=True):
        assert difference(ours, out.detach().numpy()) < 1e-9
    assert norm_difference(dx, given.grad.numpy()) < 1e-8
    wanted = {name: p.grad.numpy() for name, p in peer.named_parameters()}
    assert set(wanted) <= set(grads)
    # a bias before batch norm has no influence: its gradient is rounding, and is measured against the others'
    least = 1e-6 * max(np.linalg.norm(g) for g in wanted.values())
    errors = {n: np.linalg.norm(grads[n] - g) / max(np.linalg.norm(g), least) for n, g in wanted.items()}
    worst = max(errors, key=errors.get)
    assert errors[worst] < 1e-8, worst


@pytest.mark.torch
@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("case", [c for c in peers.CASES if c.source != "keras"], ids=lambda case: case.id)
def test_a_round_trip_through_pytorch_is_exact(case, aux):
    if aux and case.source != "torchvision":
        pytest.skip("timm's networks have no heads")
    ask(case)
    import torch

    model = create_model(case.name, preset=case.preset, num_classes=peers.CLASSES, aux=aux, seed=1)
    for path, param in named_params(model).items():  # nothing at the 0 or 1 that a fresh network begins with
        param.data += peers.draw(path + ".bias", param.data.shape).astype(np.float32)
    before = state_dict(model)
    peer = peers.build(case, aux=aux).float()
    peer.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict(model, source=case.source).items()})

    other = create_model(case.name, preset=case.preset, num_classes=peers.CLASSES, aux=aux, seed=2)
    load_state_dict(other, peer.state_dict(), source=case.source)
    after = state_dict(other)
    assert list(before) == list(after)
    assert all(np.array_equal(before[k], after[k]) for k in before)
    back = peers.state(case, peer)
    assert list(back) == list(state_dict(model, source=case.source))


def test_two_branches_of_one_shape_swapped_change_the_logits():
    case = case_of("keras-InceptionV3")  # where a mapping by position would swap them unseen
    model = ours_for(case)
    x = peers.pictures(case)[:, :75, :91]  # the smallest that it takes, and one that is not square
    state = peers.drawn({n: a.shape for n, a in state_dict(model, source="keras").items()}, "keras")
    load_state_dict(model, state, source="keras")
    calibrate(model, x)
    state = state_dict(model, source="keras")
    y = model.forward(x, Mode())[0]
    a, b = "conv2d_31/kernel", "conv2d_34/kernel"  # two 1x1 convolutions of the first 17x17 block
    assert state[a].shape == state[b].shape
    state[a], state[b] = state[b], state[a]
    load_state_dict(model, state, source="keras")
    assert difference(model.forward(x, Mode())[0], y) > 1e-3


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras's own code
@pytest.mark.parametrize(
    ("id", "ending"),
    [
        ("keras-InceptionV3", ".h5"),
        ("keras-InceptionV3", ".weights.h5"),
        ("keras-InceptionResNetV2", ".weights.h5"),
        ("keras-Xception", ".weights.h5"),
        ("keras-Xception", ".keras"),
    ],
)
def test_files_that_keras_writes_give_the_model_they_hold(id, ending, tmp_path):
    pytest.importorskip("h5py")
    case = case_of(id)
    ask(case)
    from inception_np.weights.readers import read_weights

    # a model before it, so that the automatic names begin with another number
    make = getattr(peers.keras().applications, case.peer)
    make(weights=None, classes=2, input_shape=(75, 75, 3))
    peer = peers.build(case, fresh=False)
    path = tmp_path / f"model{ending}"
    if ending == ".weights.h5":
        peer.save_weights(path)
    else:
        peer.save(path)
    wanted, found = ours_for(case), ours_for(case)
    load_state_dict(wanted, peers.state(case, peer), source="keras")
    report = load_state_dict(found, read_weights(path), source="keras")
    assert not report.missing and not report.unexpected
    wanted, found = state_dict(wanted), state_dict(found)
    assert all(np.array_equal(wanted[k], found[k]) for k in wanted)

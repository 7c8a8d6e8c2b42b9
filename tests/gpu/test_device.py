"""What only a device can show. `pytest -m gpu` also runs test_cuda_kernels.py and test_cuda_graph.py on it."""

import gc
import json

import numpy as np
import pytest
from PIL import Image
from training_step import eager_step

from inception_np import SGD, Mode, create_model, list_models
from inception_np.__main__ import main
from inception_np.backend import device as backend
from inception_np.data.batches import augment, normalise
from inception_np.data.random import stream
from inception_np.kernels.conv import conv2d, conv2d_dw, conv2d_dx
from inception_np.layer import named_params, vectors
from inception_np.runtime.graph import CapturedStep

pytestmark = pytest.mark.gpu
BATCH = 64


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture
def tf32(monkeypatch):
    monkeypatch.setattr(backend, "precision", "tf32")


def pictures(count=256):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count)


def tinted(count=256):
    """Pictures whose brightness tells their class."""
    images, labels = pictures(count)
    return images // 2 + (12 * labels[:, None, None, None]).astype(np.uint8), labels


def captured(name="inception_v3_cifar", lr=0.05, data=pictures):
    net = create_model(name, aux=False, seed=1, device="cuda")
    optimiser = SGD(net, lr, momentum=0.9, nesterov=True)
    step = CapturedStep(net, optimiser, *data(), BATCH, mean=(120,) * 3, std=(60,) * 3)
    return net, step


def take(step, i):
    index = stream(0, "shuffle", i).permutation(256)[:BATCH]
    step(index, crops=stream(0, "augment", i), dropout=stream(0, "dropout", i))


@pytest.mark.parametrize("name", list_models("*_cifar"))
def test_a_network_on_the_device_is_that_on_the_cpu(name, cupy, monkeypatch):
    """Logits and gradients without TF32: float32 beside float64."""
    monkeypatch.setattr(backend, "precision", "float32")
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3))
    found = []
    for device, dtype in (("cpu", np.float64), ("cuda", np.float32)):
        net = create_model(name, aux=False, seed=1, dtype=dtype, device=device)
        z = backend.asarray(x.astype(dtype), device)
        y, cache = net.forward(z, Mode(train=False, keep=True))
        net.backward(y, z, cache)
        found.append([backend.asarray(a, "cpu") for a in (y, *(p.grad for p in named_params(net).values()))])
    (wanted, *dwanted), (got, *dgot) = found
    assert np.linalg.norm(got - wanted) <= 1e-4 * np.linalg.norm(wanted)
    # a ReLU near 0 may take the other branch, and moves single gradients by 1e-3: bounded are all of them together
    off, size = (np.sqrt(sum((a**2).sum() for a in arrays)) for arrays in (map(np.subtract, dgot, dwanted), dwanted))
    assert off <= 1e-3 * size


def test_tf32_rounds_to_nearest(cupy, tf32):
    """The error of one rounding per factor is 2.9e-4 of the norm; factors cut off instead of rounded give 7.7e-4."""
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in [(8, 16, 16, 64), (3, 3, 64, 96), (8, 16, 16, 96)])
    args = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    near, wide = [cupy.asarray(a) for a in (x, w, dy)], [a.astype(np.float64) for a in (x, w, dy)]
    dw, wide_dw = cupy.zeros_like(near[1]), np.zeros_like(wide[1])
    conv2d_dw(near[0], near[2], dw, *args)
    conv2d_dw(wide[0], wide[2], wide_dw, *args)
    pairs = [
        (conv2d(near[0], near[1], None, *args), conv2d(wide[0], wide[1], None, *args)),
        (conv2d_dx(near[2], near[1], x.shape, *args), conv2d_dx(wide[2], wide[1], x.shape, *args)),
        (dw, wide_dw),
    ]
    for got, wanted in pairs:
        assert 1e-5 < np.linalg.norm(got.get() - wanted) / np.linalg.norm(wanted) < 5e-4


def test_a_steady_step_allocates_nothing(cupy, tf32):
    _, step = captured()
    take(step, 0)
    step.totals()
    gc.collect()
    before = cupy.get_default_memory_pool().used_bytes(), step.pool.used_bytes(), step.pool.total_bytes()
    for i in range(1, 20):
        take(step, i)
    step.totals()
    gc.collect()
    after = cupy.get_default_memory_pool().used_bytes(), step.pool.used_bytes(), step.pool.total_bytes()
    assert after == before


def test_what_others_allocate_between_launches_is_no_matter(cupy, tf32):
    """Three runs, in the later two others write over all memory that they can get: the same bits."""
    found = []
    for noise in (0, 1, 2):
        net, step = captured()
        for i in range(3):
            take(step, i)
            if noise:
                others = [cupy.full((n,), np.nan, np.float32) for n in (10**noise, 10**6, 3 * 10**7)]
                del others
        step.totals()
        found.append(vectors(net)[0].get().tobytes())
    assert found[0] == found[1] == found[2]


def test_twenty_steps_follow_the_cpu(cupy, tf32, monkeypatch):
    """The losses of twenty steps with TF32, beside NumPy's. The difference grows: with lr 0.05 it is 1 % at step 2."""
    images, labels = pictures()
    losses = []
    _, step = captured("inception_v1_cifar", lr=0.005)
    for i in range(20):
        take(step, i)
        losses.append(step.totals()[0] / BATCH)
    monkeypatch.setattr(backend, "PLAIN", True)  # nothing is compiled for the CPU's half
    net = create_model("inception_v1_cifar", aux=False, seed=1)
    optimiser = SGD(net, 0.005, momentum=0.9, nesterov=True)
    for i in range(20):
        index = stream(0, "shuffle", i).permutation(256)[:BATCH]
        x = normalise(augment(images[index], 4, (120,) * 3, stream(0, "augment", i)), (120,) * 3, (60,) * 3)
        loss = eager_step(net, optimiser, x, labels[index], stream(0, "dropout", i))[1]
        assert losses[i] == pytest.approx(loss, rel=1e-2), f"step {i}"


SHORT = (
    "--data shapes10 --model inception_v1_cifar --width 0.25 --no-aux --train-images 128 --test-images 16 --epochs 1"
)
PHOTOGRAPHS = "--data folder --model inception_v1_cifar --width 0.25 --no-aux --epochs 1"


def trained(options, output, device, monkeypatch):
    """The loss of each epoch of a training run. On the CPU nothing is compiled."""
    monkeypatch.setattr(backend, "PLAIN", device == "cpu")
    found = main(["train", *options.split(), *f"--batch-size 16 --device {device} --output {output}".split()])
    assert not found
    return [json.loads(line)["train_loss"] for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        "--optimizer sgd --lr 0.05 --freeze conv1 3a --ema 0.9",
        "--optimizer sgd --lr 0.05 --mixup 0.4",
        "--optimizer muon --lr 0.02",
        "--optimizer sgd --lr 0.05 --lookahead --clip 1",
    ],
    ids=["freeze", "mixup", "muon", "lookahead"],
)
def test_eight_steps_in_float32_follow_the_cpu(options, cupy, tmp_path, monkeypatch):
    """What no captured step does, and lookahead: one operation at a time in float32, beside NumPy."""
    monkeypatch.setattr(backend, "precision", backend.precision)
    got = trained(f"{SHORT} {options} --precision float32", tmp_path / "cuda", "cuda", monkeypatch)
    wanted = trained(f"{SHORT} {options}", tmp_path / "cpu", "cpu", monkeypatch)
    assert got == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_photographs_on_the_device_follow_the_cpu(precision, cupy, tmp_path, monkeypatch):
    """Nine steps on photographs of several sizes: captured in TF32 and bf16, one operation at a time in float32."""
    monkeypatch.setattr(backend, "precision", backend.precision)
    draw = np.random.default_rng(0)
    for split, count in ("train", 48), ("test", 8):
        for name in "dark", "grey", "bright":
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                shade = 60 + 60 * ("dark", "grey", "bright").index(name)
                pixels = np.clip(draw.normal(shade, 40, (50 + i, 90, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    options = f"{PHOTOGRAPHS} --optimizer sgd --lr 0.005 --lookahead --data-dir {tmp_path}"
    if precision == "float32":
        options += " --distort 1"  # which no captured step does
    got = trained(f"{options} --precision {precision}", tmp_path / "cuda", "cuda", monkeypatch)
    wanted = trained(options, tmp_path / "cpu", "cpu", monkeypatch)
    assert got == pytest.approx(wanted, rel={"float32": 1e-3, "tf32": 2e-2, "bf16": 5e-2}[precision])


def test_losses_in_bfloat16_fall(cupy, monkeypatch):
    """Thirty captured steps: a guess is 2.3, and these images are learnt to less than half of it."""
    monkeypatch.setattr(backend, "precision", "bf16")
    _, step = captured(lr=0.02, data=tinted)
    losses = []
    for i in range(30):
        take(step, i)
        losses.append(step.totals()[0] / BATCH)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])

"""Steps in shards on a device: what test_nccl.py shows on the stand-in. Both run the same lines here."""

from dataclasses import replace
from functools import partial

import host_cuda
import numpy as np
import pytest
import strict_cupy
from many_gpus import Fleet
from small_runs import SMALL, same_bits, tiny, weights_of

from inception_np.backend import device as backend
from inception_np.layer import move
from inception_np.parallel.nccl import GpuExchange
from inception_np.parallel.workers import Workers
from inception_np.training import fits, loop
from inception_np.training.captured_shards import ShardedGraphStep
from inception_np.training.shards import ShardedStep
from reference import tree_sum as reference

on_host = pytest.mark.skipif(bool(host_cuda.missing), reason=host_cuda.missing or "g++ is here")
OPTIONS = replace(SMALL, model="tiny", device="cuda", shards=4, epochs=1, augment=True)


@pytest.fixture(params=[pytest.param("host", marks=on_host), pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request, monkeypatch):
    """CuPy or its stand-in, and tiny networks for runs."""
    monkeypatch.setattr(backend, "PLAIN", False)
    monkeypatch.setattr(backend, "precision", "tf32")
    monkeypatch.setattr(fits, "create_model", lambda name, device="cpu", **o: move(tiny(name, **o), device))
    monkeypatch.setattr(fits, "check_width", lambda name, width, vectors: None)
    monkeypatch.setattr(loop.Run, "draw", lambda self: None)
    if request.param == "host":
        host_cuda.on_host(monkeypatch)
        return strict_cupy.pretend(monkeypatch)
    return pytest.importorskip("cupy")


def alone(job, monkeypatch, cupy):
    """What job(workers) gives for a worker that is the only one, with the device's NCCL or the stand-in's."""
    if cupy.ndarray is strict_cupy.ndarray:
        return Fleet(monkeypatch, cupy, 1).run(job)[0]
    try:
        backend.nccl()
    except backend.DeviceError as missing:
        pytest.skip(str(missing))
    return job(Workers())


def test_nccl_carries_numbers_from_a_gpu_to_itself(monkeypatch, cupy):
    """A communicator of one: its id, a group of sends and receives of unequal lengths, the streams' order."""
    x = np.random.default_rng(0).standard_normal(1_000_003).astype("f")

    def job(workers):
        exchange = GpuExchange(workers, 4)
        vector, place = cupy.asarray(x), cupy.zeros((len(x),), np.float32)
        exchange.mean([vector], vector)
        with exchange.stream, exchange._group():
            for part in (slice(0, 1), slice(1, 700_000), slice(700_000, None)):
                exchange._send(vector[part], 0)
                exchange._receive(place[part], 0)
        exchange.wait()
        return place.get()

    np.testing.assert_array_equal(alone(job, monkeypatch, cupy), x * np.float32(0.25))


def test_the_exchange_and_the_network_wait_for_each_other_on_the_device(monkeypatch, cupy):
    """Long work before the exchange, on the stream of the network, and a reader right behind it."""
    size = 100 if cupy.ndarray is strict_cupy.ndarray else 1 << 26

    def job(workers):
        exchange, vector = GpuExchange(workers, 4), cupy.zeros((size,), np.float32)
        found = []
        for i in range(1, 6):
            for _ in range(10):
                vector += 4.0 * i / 10
            exchange.mean([vector], vector)
            exchange.wait()
            vector -= 1.0 * i
            found.append(abs(vector).max())
            vector[...] = 0
        return [float(off) for off in found]

    assert max(alone(job, monkeypatch, cupy)) < 1e-4


def a_run(folder, monkeypatch, captured, **options):
    with monkeypatch.context() as how:
        if not captured:
            how.setattr(loop, "on_tensor_cores", lambda x: False)
        run = loop.Run(folder, replace(OPTIONS, **options), False)
    assert type(run.training_step) is (ShardedGraphStep if captured else ShardedStep)
    return run


@pytest.mark.parametrize("precision", ["tf32", "float32"])
def test_a_step_in_shards_is_the_mean_of_their_passes_on_the_device(precision, monkeypatch, cupy, tmp_path):
    run = a_run(tmp_path, monkeypatch, False, precision=precision)
    grad, count = run.optimiser.grad, 4
    eager = loop.EagerStep(run.net, run.optimiser, run.data, replace(run.options, shards=0), None)
    statistics = run.training_step.statistics
    for step in range(2):
        index, draw, wanted = np.arange(16) + step, partial(run.drawn, 0, step), []
        statistics.keep()
        for shard, part in enumerate(np.split(index, count)):
            eager.mean_gradients(part, partial(lambda shard, purpose: run.drawn(0, step, purpose, shard), shard), None)  # noqa: B023
            wanted.append(grad.get())
            grad[...] = 0
        statistics._bring_back()
        run.training_step.mean_gradients(index, draw, None)
        mean = reference.tree_sum(wanted) * np.float32(1 / count)
        if precision == "tf32":  # every product is our own kernel's
            np.testing.assert_array_equal(grad.get(), mean)
        assert np.linalg.norm(grad.get() - mean) <= 1e-5 * np.linalg.norm(mean)
        grad[...] = 0


def test_captured_passes_have_the_bits_of_eager_ones_on_the_device(monkeypatch, cupy, tmp_path):
    found = []
    for captured in (False, True):
        run = a_run(tmp_path, monkeypatch, captured, precision="tf32")
        for index in list(loop.batches(48, 16, 0, 0))[:3]:
            run.train_step(index)
            run.step += 1
        run.add_totals()
        found.append([backend.asarray(a, "cpu").copy() for a in run.arrays().values()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_train_in_shards_on_the_device_is_finite_and_gives_the_same_bits_again(precision, monkeypatch, cupy, tmp_path):
    if precision == "bf16":
        pytest.importorskip("ml_dtypes")
    lines = [loop.train(tmp_path / name, replace(OPTIONS, shards=2, precision=precision)) for name in "ab"]
    assert all(np.isfinite(line["train_loss"]) and np.isfinite(line["test_loss"]) for line in lines)
    first, second = (weights_of(tmp_path / name) for name in "ab")
    assert precision == "float32" or same_bits(first, second)
    assert all(np.allclose(first[name], second[name], rtol=1e-4, atol=1e-5) for name in first)

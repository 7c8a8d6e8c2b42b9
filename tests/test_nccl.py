"""Steps in shards on GPUs: the bits do not depend on how many there are, and nothing waits on the host in between.

NCCL is many_gpus.py's here, and the GPUs are the stand-in's. `pytest -m gpu tests/gpu/test_device.py` has the real one.
"""

import threading
from dataclasses import replace

import host_cuda
import numpy as np
import pytest
import strict_cupy
from many_gpus import Fleet, Nccl
from small_runs import SMALL, tiny, tiny_networks

from inception_np.backend import device as backend
from inception_np.backend.errors import UsageError
from inception_np.layer import move
from inception_np.parallel import exchange as exchange_module
from inception_np.parallel.exchange import Exchange
from inception_np.parallel.nccl import GpuExchange, take_gpu
from inception_np.training import fits, loop, shards
from inception_np.training.captured_shards import ShardedGraphStep
from inception_np.training.shards import ShardedStep
from reference import tree_sum as reference

__all__ = ["tiny_networks"]  # a fixture

pytestmark = pytest.mark.skipif(bool(host_cuda.missing), reason=host_cuda.missing or "g++ is here")


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setattr(backend, "PLAIN", False)
    monkeypatch.setattr(backend, "precision", "float32")
    host_cuda.on_host(monkeypatch)
    return strict_cupy.pretend(monkeypatch)


# ---- the exchange


def sums_of(shards, length):
    """What each shard has, and the sums over subtrees that a worker has to send."""
    leaves = np.random.default_rng(shards).standard_normal((shards, length)).astype("f")
    sums = {(i, i + 1): leaf for i, leaf in enumerate(leaves)}
    return leaves, lambda node: reference.tree_sum([sums[i, i + 1] for i in range(*node)])


def exchanged(monkeypatch, cupy, count, each, lengths=(7, 1, 40)):
    """Whether all workers have the reference's mean of every vector, one exchanged after the other and waited for once.

    The last of the parts is where the mean comes, as in a step; the others are dropped and overwritten.
    """
    fleet = Fleet(monkeypatch, cupy, count)
    shards = count * each
    given = [sums_of(shards, length) for length in lengths]

    def job(workers):
        exchange = GpuExchange(workers, shards)
        outs = []
        for _, sum_of in given:
            parts = [cupy.asarray(np.array(sum_of(node))) for node in exchange.held]
            outs.append(parts[-1])
            exchange.mean(parts, outs[-1])
        exchange.wait()
        return [(out * 1.0).get() for out in outs]

    wanted = [reference.tree_sum(list(leaves)) * np.float32(1 / shards) for leaves, _ in given]
    found = fleet.run(job)
    assert not any(fleet.mail.values()), "a message that nobody received"
    return all(np.array_equal(a, b) for outs in found for a, b in zip(outs, wanted, strict=True))


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("each", [1, 2, 3, 8])
def test_the_means_have_the_references_bits(count, each, monkeypatch, cupy):
    assert exchanged(monkeypatch, cupy, count, each)


@pytest.mark.parametrize(
    "fault", ["order", "swapped pieces", "the exchange does not wait", "nobody waits for it", "no group", "overwritten"]
)
def test_a_wrong_exchange_is_found(fault, monkeypatch, cupy):
    wait, carry = strict_cupy.Stream.wait_event, Nccl.carry
    if fault == "order":
        monkeypatch.setattr(exchange_module, "tree_sum", lambda sums, node: sum(sums.values()))
    elif fault == "swapped pieces":

        def swapped(self, calls):
            came = [call for call in calls if call.what == "recv"]
            for call, address in zip(came, [call.address for call in came[::-1]], strict=True):
                call.address = address
            carry(self, calls)

        monkeypatch.setattr(Nccl, "carry", swapped)
    elif fault in ("the exchange does not wait", "nobody waits for it"):
        null_too = fault == "nobody waits for it"
        forgetful = lambda self, e: None if (self is strict_cupy.Stream.null) == null_too else wait(self, e)  # noqa: E731
        monkeypatch.setattr(strict_cupy.Stream, "wait_event", forgetful)
    elif fault == "no group":
        monkeypatch.setattr(Nccl, "groupStart", lambda self: None)
    else:
        group = GpuExchange._gathered
        early = lambda self, parts, pieces: (group(self, parts, pieces), parts[0].fill(0))[0]  # noqa: E731
        monkeypatch.setattr(GpuExchange, "_gathered", early)
    with pytest.raises((AssertionError, AttributeError)):
        assert exchanged(monkeypatch, cupy, 4, 1, lengths=(40,))


def test_what_is_exchanged_is_held_until_it_has_been(monkeypatch, cupy):
    """CuPy would give its memory to others as soon as nobody has it."""

    def job(workers):
        exchange = GpuExchange(workers, 2)
        exchange.mean([cupy.asarray(np.ones(4, "f"))], cupy.zeros(4, "f"))
        held = len(exchange.kept)
        exchange.wait()
        return held, len(exchange.kept)

    assert Fleet(monkeypatch, cupy, 2).run(job) == [(2, 0)] * 2


# ---- which GPU


def test_workers_take_the_gpus_of_their_machine_in_turn(monkeypatch, cupy):
    used = []
    monkeypatch.setattr(strict_cupy.Device, "use", lambda self: used.append(self.pci_bus_id))
    Fleet(monkeypatch, cupy, 3).run(take_gpu)
    assert sorted(used) == ["0000:00:00.0", "0000:01:00.0", "0000:02:00.0"]


def test_two_workers_for_one_gpu_are_refused(monkeypatch, cupy):
    fleet = Fleet(monkeypatch, cupy, 3)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 2)
    with pytest.raises(UsageError, match=r"^--device: got 2 workers for the GPU 0000:00.*; mpiexec -n 2 starts"):
        fleet.run(take_gpu)


def test_without_nccl_all_workers_say_so(monkeypatch, cupy):
    fleet = Fleet(monkeypatch, cupy, 2)
    monkeypatch.setattr(cupy.cuda.nccl, "available", False)
    with pytest.raises(backend.DeviceError, match=r"^cuda: several GPUs need NCCL, which is missing; pip install"):
        fleet.run(take_gpu)


# ---- steps


def trained(monkeypatch, cupy, folder, count, steps=3, **options):
    """The weights and all else that a step changes after a few steps of `train` with so many workers, of each."""
    monkeypatch.setattr(fits, "create_model", lambda name, device="cpu", **o: move(tiny(name, **o), device))
    o = replace(SMALL, **{"model": "tiny", "device": "cuda", "precision": "float32", "shards": 4, **options})

    def job(workers):
        run = loop.Run(folder, o, False)
        run.share()
        for index in list(loop.batches(len(run.data.train_labels), o.batch_size, o.seed, 0))[:steps]:
            run.train_step(run.training_step.own_part(index))
            run.step += 1
        run.add_totals()
        run.check_finite()
        arrays = [backend.asarray(a, "cpu").copy() for a in run.arrays().values()]
        return arrays, run.sums, run.training_step

    return Fleet(monkeypatch, cupy, count).run(job)


ALL = {"clip": 0.5, "ema": 0.9, "augment": True}


def equal(found, wanted):
    return all(np.array_equal(a, b) for a, b in zip(found[0], wanted[0], strict=True)) and found[1] == wanted[1]


@pytest.mark.parametrize("options", [ALL, {"smoothing": 0.1, "optimizer": "rmsprop"}])
def test_a_run_has_the_same_bits_on_1_2_and_4_gpus(options, monkeypatch, cupy, tmp_path):
    alone = trained(monkeypatch, cupy, tmp_path, 1, **options)[0]
    assert type(alone[2].exchange) is Exchange
    for count in (2, 4):
        for found in trained(monkeypatch, cupy, tmp_path, count, **options):
            assert type(found[2].exchange) is GpuExchange and equal(found, alone)


@pytest.mark.parametrize("options", [{}, {"clip": 0.0, "ema": 0.0, "lookahead": True, "optimizer": "rmsprop"}])
def test_captured_passes_have_the_bits_of_eager_ones_on_1_2_and_4_gpus(options, monkeypatch, cupy, tmp_path):
    options = {"precision": "tf32", **ALL, **options}
    with monkeypatch.context() as eager:
        eager.setattr(loop, "on_tensor_cores", lambda x: False)
        wanted = trained(eager, cupy, tmp_path, 1, **options)[0]
    assert type(wanted[2]) is ShardedStep
    for count in (1, 2, 4):
        for found in trained(monkeypatch, cupy, tmp_path, count, **options):
            assert type(found[2]) is ShardedGraphStep
            assert all(np.array_equal(a, b) for a, b in zip(found[0], wanted[0], strict=True))
            assert found[1]["right"] == wanted[1]["right"]
            assert found[1]["loss"] == pytest.approx(wanted[1]["loss"], rel=1e-6)


def test_captured_passes_in_bfloat16_have_the_same_bits_on_1_and_2_gpus(monkeypatch, cupy, tmp_path):
    pytest.importorskip("ml_dtypes")
    near, *_ = trained(monkeypatch, cupy, tmp_path, 1, precision="tf32", **ALL)[0]
    alone = trained(monkeypatch, cupy, tmp_path, 1, precision="bf16", **ALL)[0]
    assert all(equal(found, alone) for found in trained(monkeypatch, cupy, tmp_path, 2, precision="bf16", **ALL))
    off = [np.abs(a - b).max() / max(np.abs(b).max(), 1e-3) for a, b in zip(alone[0], near, strict=True)]
    assert 0 < max(off) < 0.2


@pytest.mark.parametrize("precision, most", [("float32", 1e-4), ("tf32", 5e-2)])
def test_steps_on_gpus_are_those_of_the_cpu(precision, most, monkeypatch, cupy, tmp_path):
    found = trained(monkeypatch, cupy, tmp_path, 2, precision=precision, **ALL)[0]
    monkeypatch.setattr(backend, "PLAIN", True)
    wanted = trained(monkeypatch, cupy, tmp_path, 1, device="cpu", **ALL)[0]
    for a, b in zip(found[0], wanted[0], strict=True):
        assert np.abs(a - b).max() <= most * max(np.abs(b).max(), 0.1)
    assert found[1]["right"] == pytest.approx(wanted[1]["right"], abs=2)
    assert found[1]["loss"] == pytest.approx(wanted[1]["loss"], rel=most)


@pytest.mark.parametrize(
    "fault", ["order", "nobody waits", "averages stay moved", "one stream for all shards", "the last shard alone"]
)
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_wrong_step_in_shards_is_found(fault, precision, monkeypatch, cupy, tmp_path):
    options = {"precision": precision, "shards": 8, "batch_size": 16, **ALL}
    alone = trained(monkeypatch, cupy, tmp_path, 1, **options)[0]
    wait = strict_cupy.Stream.wait_event
    if fault == "order":
        monkeypatch.setattr(exchange_module, "tree_sum", lambda sums, node: sum(sums[n] for n in sorted(sums)[::-1]))
    elif fault == "nobody waits":
        exchanged = GpuExchange.wait
        forgetful = lambda self, e: None if self is strict_cupy.Stream.null else wait(self, e)  # noqa: E731

        def careless(self):
            with monkeypatch.context() as patch:
                patch.setattr(strict_cupy.Stream, "wait_event", forgetful)
                exchanged(self)

        monkeypatch.setattr(GpuExchange, "wait", careless)
    elif fault == "averages stay moved":
        monkeypatch.setattr(shards.Statistics, "_bring_back", lambda self: None)
    elif fault == "one stream for all shards":
        monkeypatch.setattr(shards, "_drawn", lambda draw, shard, purpose: draw(purpose, shard % 2))
    else:
        monkeypatch.setattr(ShardedStep, "_with_shard", lambda self, sums, shard: sums)
    with pytest.raises((AssertionError, ValueError)):
        assert equal(trained(monkeypatch, cupy, tmp_path, 4, **options)[0], alone)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_nothing_waits_for_a_captured_step_in_shards(precision, monkeypatch, cupy, tmp_path):
    """Not in any of the steps between two looks at the losses, whatever the number of shards."""
    pytest.importorskip("ml_dtypes")
    inside, waited, call, waits = set(), [], ShardedGraphStep.__call__, strict_cupy.waits

    def watched(self, *args):
        inside.add(threading.get_ident())
        call(self, *args)
        inside.remove(threading.get_ident())

    monkeypatch.setattr(ShardedGraphStep, "__call__", watched)
    noted = lambda what: (waited.append(threading.get_ident() in inside), waits(what))  # noqa: E731
    monkeypatch.setattr(strict_cupy, "waits", noted)
    trained(monkeypatch, cupy, tmp_path, 2, precision=precision, **ALL)
    assert waited and not any(waited)

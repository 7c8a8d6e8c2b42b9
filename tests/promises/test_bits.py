"""The same bits with any number of threads and in every process."""

import contextlib
import hashlib
from itertools import product

import numpy as np
import pytest

from inception_np import SGD, Replay, create_model, list_models
from inception_np.backend.threads import num_threads, set_num_threads
from inception_np.layer import named_buffers
from inception_np.layers.loss import total_loss

from . import workers as processes
from .faults import PLANTED

NETWORKS = list_models("*_cifar")
STEPS = 5


def trained(name: str, threads: int, fault: str = "") -> str:
    """A digest of the weights and running averages after a few steps of a narrow network."""
    before = num_threads()
    set_num_threads(threads)
    try:
        with PLANTED[fault]():
            net = create_model(name, width=1 / 16, seed=3)
            optimiser = SGD(net, 0.05, momentum=0.9, weight_decay=1e-4)
            passes = Replay(net)
            rng = np.random.default_rng(0)
            x = rng.standard_normal((6, 32, 32, 3)).astype(np.float32)
            labels = rng.integers(0, 10, 6)
            for _ in range(STEPS):
                passes.backward(total_loss(passes.forward(x, rng), labels, net.aux_weight, 0.1)[1])
                optimiser.step()
            digest = hashlib.sha256(optimiser.data.tobytes())
            for buffer in named_buffers(net).values():
                digest.update(buffer.data.tobytes())
            return digest.hexdigest()
    finally:
        set_num_threads(before)


def same_as_one_thread(name: str, threads: int, fault: str = "") -> str | None:
    one, found = (trained(name, n, fault) for n in (1, threads))
    return None if one == found else f"{found[:8]} with {threads} threads, {one[:8]} with one"


@pytest.mark.promise("threads")
def test_the_number_of_threads_changes_no_bit(tally):
    """One thread against itself, too: what differs there is no matter of threads."""
    runs = list(product(NETWORKS, (2, 1, 3, 4)))
    tally.each(same_as_one_thread, runs[:: len(runs) // tally.count])


def test_a_sum_in_the_order_of_the_threads_is_seen(broken):
    name = "xception_cifar"
    assert broken(same_as_one_thread, name, 2, "summed by thread") and not broken(same_as_one_thread, name, 2)


@pytest.mark.promise("seed")
def test_one_seed_gives_the_same_bits_in_every_process(tally):
    """Each process makes all nine networks; the first says what is wanted."""
    found = []
    for process in range(tally.count // len(NETWORKS)):
        with contextlib.nullcontext(tally.workers) if process == 0 else processes.pool() as fresh:
            found.append(list(fresh.map(trained, NETWORKS, [1 + process % 2] * len(NETWORKS))))
    pairs = [(wanted, digest) for row in found for wanted, digest in zip(found[0], row, strict=True)]
    tally.each(differs, pairs)


def differs(wanted: str, found: str) -> str | None:
    return None if wanted == found else f"{found[:8]}, wanted {wanted[:8]}"


def test_weights_that_do_not_follow_from_the_seed_are_seen(workers):
    one, other = workers.map(trained, ["xception_cifar"] * 2, [1, 1], ["drawn anew"] * 2)
    assert differs(one, other)

r"""How long a step takes on n workers, from what is measured on one machine: compute, and what it does not hide.

    step(n) = compute + not hidden(n)

Backward runs from left to right, and bucket k leaves it d_k seconds before its end. The buckets travel one after the
other, and what is still under way when backward ends is not hidden:

    backward    ---------------------------------------|
    bucket 0              |== sums ==|                 |
    bucket 1                    |    |== sums ==|      |
    bucket 2                                     |== s>|ums ==|
                                                       |<---->| not hidden

    end_k = max(-d_k, end_(k-1)) + travel(b_k)              not hidden = max(0, the last end)

A bucket of b bytes travels as exchange.py sends it: every worker sends n - 1 messages of b / n bytes to the others,
adds up n pieces of b / n bytes, and sends n - 1 messages of b / n bytes again. With a seconds for a message of no
bytes, B bytes a second in each direction, A bytes a second of sums, and a nap of p seconds at most between two looks
for messages, in each half:

    travel(b) = 2 ((n - 1) a + p + (n - 1) / n  b / B) + (n - 1) / n  b / A

This is Hockney's model of a message, a + b / B (1994, The communication challenge for MPP), in the cost of a direct
reduce-scatter and all-gather (Thakur, Rabenseifner & Gropp 2005, Optimization of collective communication operations in
MPICH). The bytes cost the same for any large n. The messages cost (n - 1) a, which is more than the bytes from
n = b / (a B) on; from there on a bucket should be larger, or its messages take fewer and longer ways.

What is assumed: all workers compute equally long, in step; all pairs of them can send at full speed at once (full
bisection); sending takes no core from computing. The number of images for each worker stays what it is where compute
was measured (weak scaling). For a batch that stays (strong scaling), measure compute with the batch of one worker.

On one machine the workers share the cores, and nothing is hidden from these: with W, U and E seconds of a core for the
shards of a step, for an optimiser's step, which every worker takes, and for one worker's part of the exchange,

    step(n) = (W + n U + n E) / cores + not hidden(n)

where backward takes n times as long as on all cores, so that a bucket leaves n times as early.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .workers import NAP


class Network(NamedTuple):
    """What connects the workers. latency: seconds of a message of no bytes. bandwidth: bytes a second, each way."""

    name: str
    latency: float
    bandwidth: float


NETWORKS = (
    # MPICH over TCP, osu_latency and osu_bw: gist.github.com/jfgrimm/3af692a5475bdd4ed836b5a18197a209
    Network("1 Gb/s Ethernet", 26e-6, 0.116e9),
    # the same messages, at the line rate of IEEE 802.3ae
    Network("10 Gb/s Ethernet", 26e-6, 1.25e9),
    # Cray Aries of Piz Daint, osu_latency and osu_bw: what github.com/reframe-hpc/reframe/pull/1232 expects of it
    Network("Cray Aries", 1.3e-6, 9.6e9),
)


class Bucket(NamedTuple):
    """A part of the gradient. early: seconds before the end of backward at which it leaves."""

    size: int  # bytes
    early: float


class Measured(NamedTuple):
    """What one worker takes that has all cores of a machine."""

    compute: float  # seconds of a step without any exchange
    work: float  # W and
    update: float  # U: seconds of a core
    buckets: Sequence[Bucket]  # in the order in which they leave
    additions: float  # bytes a second of a sum


def travel(size: int, workers: int, network: Network, additions: float, nap: float = NAP) -> float:
    """Seconds until the mean of so many bytes is on all workers."""
    others = workers - 1
    if not others:
        return 0.0
    half = others * network.latency + nap + others / workers * size / network.bandwidth
    return 2 * half + others / workers * size / additions


def not_hidden(measured: Measured, workers: int, network: Network, slower: float = 1.0) -> float:
    """Seconds by which the exchange outlasts backward. slower: how many times as long backward takes as measured."""
    end = float("-inf")
    for size, early in measured.buckets:
        end = max(end, -early * slower) + travel(size, workers, network, measured.additions)
    return max(0.0, end)


def step_apart(measured: Measured, workers: int, network: Network) -> float:
    """Seconds of a step on so many machines, each with the images that one was measured with."""
    return measured.compute + not_hidden(measured, workers, network)


def step_together(
    measured: Measured, workers: int, network: Network, exchange: float, cores: int, slower: float
) -> float:
    """Seconds of a step on so many cores of one machine, for the images that one worker was measured with.

    exchange: E. slower: as in `not_hidden`.
    """
    busy = measured.work + workers * (measured.update + exchange)
    return busy / cores + not_hidden(measured, workers, network, slower)


def network_of(tiny: float, large: float, size: int, workers: int, additions: float) -> Network:
    """This machine as a network, from the seconds of an exchange of almost nothing and of `size` bytes.

    Raises ValueError where the large one did not take longer.
    """
    others = workers - 1
    latency = max(0.0, tiny / 2 - NAP) / others
    moving = large - tiny - others / workers * size / additions
    if moving <= 0:
        raise ValueError(
            f"network_of: got {1e3 * large:.2f} ms for {size} bytes and {1e3 * tiny:.2f} ms for none, wanted more; "
            "measure again on a quiet machine"
        )
    return Network("this machine", latency, 2 * others / workers * size / moving)


def balance(measured: Measured, network: Network) -> float:
    """The number of workers from which a bucket's messages cost more than its bytes, for the mean bucket."""
    size = sum(bucket.size for bucket in measured.buckets) / len(measured.buckets)
    return size / (network.latency * network.bandwidth)

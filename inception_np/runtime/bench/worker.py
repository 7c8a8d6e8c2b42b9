"""One worker of a benchmark of several, in a process that scaling.py starts, alone or through mpiexec.

    python -m inception_np.runtime.bench.worker '{"name", "preset", "batch", "shards", "threads", "seconds", "repeats",
                                                  "low_memory"}'

All workers take training steps in shards (training/shards.py) on random images, SGD with momentum. Then they exchange
the gradient without computing one. Rank 0 prints a line of JSON:

    times       seconds of each step
    cpu         seconds of cores that the cheapest step takes, of all workers together
    update      seconds of a core that one worker's optimiser takes of it, with the norm of the gradient
    waited      seconds of each step for which all workers waited for means: what the exchange does not hide
    late        seconds of each step for which the first of them waited for the last
    backward    seconds of the last shard's backward pass, which hides the exchange
    buckets     [bytes, seconds before that pass ended at which it left] of each bucket, in their order
    alone       seconds of an exchange of all buckets while nothing else is computed
    alone_cpu   seconds of a core that this takes of each worker
    tiny, large seconds of an exchange of one number for each worker, and of LARGE bytes
    additions   bytes of a sum that NumPy writes in a second
    sent        bytes that a worker sends in a step
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from ...parallel.launcher import abort
from ...parallel.workers import Workers, of_process
from ...training.shards import ShardedStep
from ...training.step import Draw, Losses
from .side import batch_of

LARGE = 8 << 20  # bytes
WARM = 3  # steps before those that are timed: they compile, write down, and replay for the first time
EXCHANGES = 7  # without computing


class ClockedPasses:
    """The passes of a network, and when backward began."""

    def __init__(self, passes: Any) -> None:
        self.passes, self.began = passes, 0.0

    def forward(self, x: np.ndarray, rng: np.random.Generator) -> Any:
        return self.passes.forward(x, rng)

    def backward(self, dy: Any) -> None:
        self.began = time.perf_counter()
        self.passes.backward(dy)


class ClockedStep(ShardedStep):
    """The step, and when each of its buckets left."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.passes: Any = ClockedPasses(self.passes)
        self.computed = 0.0
        self.left = [0.0] * len(self.buckets)

    def mean_gradients(self, index: np.ndarray, draw: Draw, mirrored: np.ndarray | None) -> tuple[Losses, int]:
        found = super().mean_gradients(index, draw, mirrored)
        self.computed = time.process_time()
        return found

    def leave(self, number: int) -> None:
        if self.apart is not None:
            self.left[number] = time.perf_counter()
        super().leave(number)


def step_of(task: dict[str, Any], workers: Workers) -> tuple[ClockedStep, Callable[[], None]]:
    """(the step, the call that takes it on the same images each time)."""
    from ...backend.threads import set_num_threads
    from ...data.dataset import Dataset
    from ...layer import vectors
    from ...models import create_model
    from ...training.options import Options
    from ...training.step import optimiser_for

    set_num_threads(task["threads"])
    net = create_model(task["name"], preset=task["preset"])
    vectors(net)
    _, labels = batch_of(net, task["batch"])
    images = np.random.default_rng(0).integers(0, 256, (task["batch"], *net.image), dtype=np.uint8)
    mean, std = (127.5,) * net.image[-1], (64.0,) * net.image[-1]
    classes = tuple(map(str, range(net.num_classes)))
    data = Dataset("random", classes, images, labels, images[:1], labels[:1], mean=mean, std=std)
    options = Options(
        model=task["name"], batch_size=task["batch"], shards=task["shards"], lr=0.01, augment=False,
        low_memory=task["low_memory"],
    )  # fmt: skip
    step = ClockedStep(net, optimiser_for(net, options), data, options, None, workers)
    own = step.own_part(np.arange(task["batch"]))
    draw = lambda purpose, shard=0: np.random.default_rng(shard)  # noqa: E731
    return step, lambda: step(own, draw, None)


def seconds_of(call: Callable[[], Any], workers: Workers) -> tuple[float, float]:
    """(seconds until the last worker is done, seconds of a core on the worker that takes the most) of a call of all."""
    workers.gather(np.zeros(1))
    start, worked = time.perf_counter(), time.process_time()
    call()
    both = np.array([time.perf_counter() - start, time.process_time() - worked])
    wall, cpu = workers.gather(both).max(axis=0)
    return float(wall), float(cpu)


def measure(task: dict[str, Any], workers: Workers) -> dict[str, Any]:
    """What the line of JSON holds."""
    step, call = step_of(task, workers)
    exchange = step.exchange
    for _ in range(WARM):
        call()
    times: list[float] = []
    busy: list[float] = []
    update: list[float] = []
    waited: list[float] = []
    backward: list[float] = []
    before: list[list[float]] = []
    begun, goes_on = time.perf_counter(), True
    while goes_on:
        exchange.waited, start, worked = 0.0, time.perf_counter(), time.process_time()
        call()
        times.append(time.perf_counter() - start)
        busy.append(time.process_time() - worked)
        update.append(time.process_time() - step.computed)
        waited.append(exchange.waited)
        end = step.left[-1]  # batch norm's moves, or the last part of the gradient
        backward.append(end - step.passes.began)
        before.append([end - left for left in step.left])
        more = len(times) < 3 or (time.perf_counter() - begun < task["seconds"] and len(times) < task["repeats"])
        goes_on = bool(workers.gather(np.array(more))[0])  # rank 0 says so

    def all_means() -> None:
        for bucket in step.buckets:
            exchange.mean([bucket] * len(exchange.held), bucket)
        exchange.wait()

    def mean_of(a: np.ndarray) -> None:
        exchange.mean([a] * len(exchange.held), a)
        exchange.wait()

    def exchanged(call: Callable[[], Any]) -> tuple[float, float]:
        found = [seconds_of(call, workers) for _ in range(EXCHANGES)]
        return median(wall for wall, _ in found), median(cpu for _, cpu in found)

    all_waited = workers.gather(np.array(waited))
    alone, cpu = exchanged(all_means)
    a, one_each = np.zeros(LARGE // 4, np.float32), np.zeros(workers.size, np.float32)
    adding, _ = exchanged(lambda: a + a)
    size = sum(bucket.nbytes for bucket in step.buckets)
    return {
        "times": times,
        "cpu": float(workers.gather(np.array(busy)).sum(axis=0).min()),
        "update": min(update),
        "waited": all_waited.min(axis=0).tolist(),
        "late": np.ptp(all_waited, axis=0).tolist(),
        "backward": median(backward),
        "buckets": [
            [bucket.nbytes, median(ends)] for bucket, ends in zip(step.buckets, zip(*before, strict=True), strict=True)
        ],
        "alone": alone,
        "alone_cpu": cpu,
        "tiny": exchanged(lambda: mean_of(one_each))[0],
        "large": exchanged(lambda: mean_of(a))[0],
        "additions": a.nbytes / adding,
        "sent": (1 + len(exchange.held)) * (workers.size - 1) / workers.size * size,
    }


if __name__ == "__main__":
    try:
        workers = of_process()
        result = measure(json.loads(sys.argv[1]), workers)
    except BaseException:
        traceback.print_exc()
        abort(1)  # the others would wait
    if workers.rank == 0:
        os.write(1, (json.dumps(result) + "\n").encode())

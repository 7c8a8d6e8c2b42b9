"""What one worker does in the tests of several: `mpiexec -n 4 python tests/workers_program.py JOBS`.

JOBS: JSON, a list of jobs that all workers do one after the other:

    {"do": "exchange", "shards": 8}                            means of odd arrays, compared with the reference's
    {"do": "train", "folder": ..., "options": {...}}           a run
    {"do": "resume", "folder": ...}                            the same taken up; "die": the step before which the
                                                               last worker is killed
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from inception_np.backend.threads import set_num_threads
from inception_np.parallel.exchange import Exchange
from inception_np.parallel.tree import tree_sum
from inception_np.parallel.workers import of_process
from inception_np.training import loop
from inception_np.training.options import Options
from inception_np.training.state import stored_options
from reference.tree_sum import tree_sum as reference_sum

WORKERS = of_process()


def exchange(shards):
    """Arrays of one number, of fewer than there are workers, of odd sizes; float32 and float64; several at a time."""
    one = Exchange(WORKERS, shards)
    rng = np.random.default_rng(7)
    for _ in range(3):
        begun = []
        for size, dtype in [(1, "f"), (3, "d"), (1000, "f"), (70_001, "f"), (17, "d")]:
            values = rng.standard_normal((shards, size)).astype(dtype) * 10.0 ** rng.integers(-4, 4, (shards, 1))
            values = values.astype(dtype)
            first = {(i, i + 1): value for i, value in enumerate(values)}
            parts = [np.array(tree_sum(first, node)) for node in one.held]
            out = parts[-1] if size % 2 else np.empty(size, dtype)  # it may be one of the parts
            one.mean(parts, out)
            begun.append((out, reference_sum(list(values)) * out.dtype.type(1 / shards)))
        one.wait()
        for got, wanted in begun:
            assert np.array_equal(got, wanted) and got.dtype == wanted.dtype, (shards, WORKERS.size, got.size)


def die_before(step):
    """Have the last worker killed before that step of the process."""
    train_step = loop.Run.train_step

    def dying(run, index):
        if run.done == step and WORKERS.rank == WORKERS.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(run, index)

    loop.Run.train_step = dying


def main(jobs):
    set_num_threads(1)
    loop.Run.draw = lambda run: None
    for job in jobs:
        folder = job.get("folder")
        if job["do"] == "exchange":
            exchange(job["shards"])
            continue
        if "die" in job:
            die_before(job["die"])
        if job["do"] == "train":
            options = replace(
                Options(), **{k: tuple(v) if isinstance(v, list) else v for k, v in job["options"].items()}
            )
            loop.train(folder, options, save_every=job.get("save_every", 60.0))
        else:
            loop.train(folder, stored_options(Path(folder)), resume=True, save_every=job.get("save_every", 60.0))
    if WORKERS.rank == 0:
        print("all done")


main(json.loads(sys.argv[1]))

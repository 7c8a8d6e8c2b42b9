"""What one worker does in the tests of several: `mpiexec -n 4 python tests/workers_program.py JOBS`.

JOBS: JSON, a list of jobs that all workers do one after the other:

    {"do": "exchange", "shards": 8}                            means of odd arrays, compared with the reference's
    {"do": "train", "folder": ..., "options": {...}}           a run
    {"do": "resume", "folder": ...}                            the same taken up

The last worker has an accident before a step: it is killed ("die": STEP), it alone gets SIGINT ("interrupt": STEP), or
one of its images has a NaN ("spoil": STEP). Rank 0 prints how each run ended, and whether all workers say the same.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from inception_np.backend.errors import StoppedError
from inception_np.backend.threads import set_num_threads
from inception_np.data import dataset
from inception_np.parallel.exchange import Exchange
from inception_np.parallel.tree import tree_sum
from inception_np.parallel.workers import of_process
from inception_np.training import loop
from inception_np.training import step as step_module
from inception_np.training.options import Options
from inception_np.training.state import stored_options
from reference.tree_sum import tree_sum as reference_sum

WORKERS = of_process()
IN_MEMORY = dataset.IN_MEMORY


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


TRAIN_STEP, NORMALISE = loop.Run.train_step, step_module.normalise


def accident(kind, at):
    """Have it happen to the last worker before that step of a run."""

    def train_step(run, index):
        if run.done == at and WORKERS.rank == WORKERS.size - 1:
            if kind == "spoil":
                step_module.normalise = spoilt
            else:
                os.kill(os.getpid(), {"die": signal.SIGKILL, "interrupt": signal.SIGINT}[kind])
        return TRAIN_STEP(run, index)

    loop.Run.train_step = train_step


def spoilt(images, *rest):
    x = NORMALISE(images, *rest)
    x[0, 0, 0, 0] = np.nan
    return x


def run(job):
    """Train as the job says. Returns how that ended."""
    loop.Run.train_step, step_module.normalise = TRAIN_STEP, NORMALISE
    for kind in {"die", "interrupt", "spoil"} & set(job):
        accident(kind, job[kind])
    dataset.IN_MEMORY = 0 if job.get("photographs") == "in files" else IN_MEMORY
    folder, resume = Path(job["folder"]), job["do"] == "resume"
    try:
        options = stored_options(folder) if resume else options_of(job["options"])
        loop.train(folder, options, resume=resume, save_every=job.get("save_every", 60.0))
    except (ValueError, StoppedError) as error:
        return f"{type(error).__name__}: {error}"
    return "ended well"


def options_of(given):
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return replace(Options(), **{**given, **lists})


def main(jobs):
    set_num_threads(1)
    loop.Run.draw = lambda run: None
    for job in jobs:
        if job["do"] == "exchange":
            exchange(job["shards"])
            continue
        said = WORKERS.gather_texts(run(job))
        if WORKERS.rank == 0:
            print(said[0] if len(set(said)) == 1 else f"workers differ: {said}")
    if WORKERS.rank == 0:
        print("all done")


main(json.loads(sys.argv[1]))

"""`inception-np bench --workers N`: steps on several workers of this machine, and what the model makes of them.

1, 2, 4 ... and N workers take steps on the same batch, cut into N shards, with the same bits (worker.py). The cores are
shared: one worker has all threads, n have 1 / n of them each, at least one. All sides alternate, round after round.
Their rows say

    ratio           seconds of a step, over those of one worker: its inverse is the throughput
    of minima, cpu  the same of the fastest steps, and of the cores' seconds that a step takes
    not hidden      how long all workers wait for means, and which part of a step that is
    late            how long the first of them waits for the last
    alone           an exchange while nothing is computed: what is to be hidden
    predicted       what parallel/model.py says, from one worker's steps and this machine's exchanges

and the last table predicts steps on 8 to 1,024 machines like this one, with the batch on each. Efficiency is one
machine's step over that of many; "dear from" is the number of workers from which a bucket's messages cost more than its
bytes.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ...backend.errors import RefusedError, UsageError
from ...backend.threads import cores
from ...parallel.model import NETWORKS, Bucket, Measured, balance, network_of, not_hidden, step_apart, step_together
from .worker import LARGE

Row = dict[str, Any]
MOST = 64  # workers on one machine
PREDICTED = tuple(2**k for k in range(3, 11))


def sizes(most: int) -> list[int]:
    """1, 2, 4 ... as far as they divide `most`, and that."""
    return sorted({n for n in (2**k for k in range(most.bit_length())) if most % n == 0} | {most})


def check(workers: int, batch: int) -> None:
    """Raise UsageError for a number of workers that cannot share the batch, RefusedError where MPI is missing."""
    if not 2 <= workers <= MOST:
        raise UsageError(f"--workers: got {workers}; give a number from 2 to {MOST}")
    if batch % workers:
        raise UsageError(f"--batch: got {batch} for {workers} workers; give a multiple of {workers}")
    mpiexec()


def mpiexec() -> str:
    """The launcher that belongs to this Python's MPI, or the first on PATH."""
    try:
        import mpi4py  # noqa: F401  (MPI itself begins with mpi4py.MPI)
    except ImportError:
        raise RefusedError("bench: --workers needs mpi4py, which is missing; pip install 'inception-np[mpi]'") from None
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("mpiexec")
    if not found:
        raise RefusedError("bench: --workers needs mpiexec, which is missing; pip install 'inception-np[mpi]'")
    return found


def compare(task: Row, most: int, rounds: int) -> list[Row]:
    """A row for each number of workers, then a row for each prediction. task: as worker.py takes it, without shards."""
    runs: dict[int, list[Row]] = {n: [] for n in sizes(most)}
    for i in range(rounds):
        for n, of_size in runs.items():
            print(f"{task['name']} train {i + 1}/{rounds}: {n} workers", file=sys.stderr)
            of_size.append(_process({**task, "shards": most, "threads": _threads(task["threads"], n)}, n))
    alone = Side.of(runs.pop(1))
    rows = [_row(task, most, 1, alone, alone)]
    rows += [_row(task, most, n, Side.of(of_size), alone) for n, of_size in runs.items()]
    return rows + _predictions(task, alone.measured)


def _threads(threads: int, n: int) -> int:
    """Of each of n workers."""
    return max(1, threads // n)


def _cores_used(threads: int, n: int) -> int:
    return min(cores(), n * _threads(threads, n))


@dataclass
class Side:
    """All rounds of one number of workers. Seconds; medians, but where they are said to be minima."""

    seconds: float
    minimum: float
    cpu: float
    waited: float
    late: float
    alone: float
    alone_cpu: float
    tiny: float
    large: float
    backward: float
    sent: float
    measured: Measured

    @classmethod
    def of(cls, runs: list[Row]) -> "Side":
        times = [t for run in runs for t in run["times"]]
        middle = {key: median(run[key] for run in runs) for key in ("backward", "tiny", "large", "alone", "alone_cpu")}
        early = [median(run["buckets"][k][1] for run in runs) for k in range(len(runs[0]["buckets"]))]
        buckets = [Bucket(size, e) for (size, _), e in zip(runs[0]["buckets"], early, strict=True)]
        cpu, update = min(run["cpu"] for run in runs), min(run["update"] for run in runs)
        return cls(
            seconds=median(times),
            minimum=min(times),
            cpu=cpu,
            waited=median(t for run in runs for t in run["waited"]),
            late=median(t for run in runs for t in run["late"]),
            sent=runs[0]["sent"],
            measured=Measured(median(times), cpu - update, update, buckets, median(run["additions"] for run in runs)),
            **middle,
        )


def _row(task: Row, most: int, n: int, side: Side, alone: Side) -> Row:
    """What n workers took, beside one."""
    row = {k: task[k] for k in ("name", "preset", "batch")}
    row |= {"task": "train", "workers": n, "shards": most, "threads": _threads(task["threads"], n)}
    row |= {"seconds": side.seconds, "minimum": side.minimum, "cpu": side.cpu, "predicted": False}
    row |= {
        "waited_seconds": side.waited,
        "late_seconds": side.late,
        "alone_seconds": side.alone,
        "alone_cpu": side.alone_cpu,
    }
    row |= {"sent_bytes": side.sent, "backward_seconds": side.backward, "update_cpu": side.measured.update}
    row["buckets"] = [
        {"bytes": size, "left_at": 1 - early / side.backward, "early_seconds": early}
        for size, early in side.measured.buckets
    ]
    if n == 1:
        return {**row, "against": None, "against_seconds": None, "ratio": None, "predicted_seconds": None}
    row |= {"against": "1 worker", "against_seconds": alone.seconds, "against_minimum": alone.minimum}
    row |= {"ratio": side.seconds / alone.seconds, "ratio_of_minima": side.minimum / alone.minimum}
    row |= {"ratio_of_cpu": side.cpu / alone.cpu}
    here = network_of(side.tiny, side.large, LARGE, n, side.measured.additions)
    row |= {"latency": here.latency, "bandwidth": here.bandwidth, "additions": side.measured.additions}
    used = _cores_used(task["threads"], n)
    slower = n * _cores_used(task["threads"], 1) / used
    row["predicted_seconds"] = step_together(alone.measured, n, here, side.alone_cpu, used, slower)
    row["predicted_waited_seconds"] = not_hidden(alone.measured, n, here, slower)
    return row


def _predictions(task: Row, measured: Measured) -> list[Row]:
    """Steps on machines like this one, each with the batch."""
    rows = []
    for network in NETWORKS:
        for n in PREDICTED:
            seconds = step_apart(measured, n, network)
            row = {"name": task["name"], "preset": task["preset"], "task": "train", "batch": n * task["batch"]}
            row |= {"workers": n, "network": network.name, "predicted": True, "seconds": seconds}
            row |= {"against": "1 worker", "against_seconds": measured.compute, "ratio": seconds / measured.compute}
            row |= {"latency": network.latency, "bandwidth": network.bandwidth}
            row |= {"images_per_second": row["batch"] / seconds, "messages_cost_from": balance(measured, network)}
            rows.append(row)
    return rows


def _process(task: Row, n: int) -> Row:
    """What n workers measure, in processes of their own."""
    command = [sys.executable, "-m", f"{__package__}.worker", json.dumps(task)]
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    launcher = [mpiexec(), "-n", str(n)] if n > 1 else []
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = [line for line in done.stderr.strip().splitlines() if "Error" in line]
        raise RuntimeError(f"bench: {n} workers failed with {(said or [f'exit code {done.returncode}'])[-1]}")
    result: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return result


# ---- tables

Table = tuple[str, list[str], list[list[str]]]


def tables(rows: list[Row]) -> list[Table]:
    """(title, head, lines) of what was measured, of the buckets, and of what is predicted, of one network."""
    measured = [row for row in rows if not row["predicted"]]
    predicted = [row for row in rows if row["predicted"]]
    return [_measured_table(measured), _bucket_table(measured), _predicted_table(measured[0], predicted)]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def _measured_table(rows: list[Row]) -> Table:
    first = rows[0]
    title = f"{first['name']} ({first['preset']}): {first['batch']} images in {first['shards']} shards, on this machine"
    head = ["workers", "threads", "median ms", "min ms", "cpu ms", "throughput", "of minima", "of cpu"]
    head += [
        "not hidden ms",
        "of a step",
        "late ms",
        "alone ms",
        "its cpu ms",
        "sent MB",
        "predicted ms",
        "not hidden ms",
    ]
    lines = []
    for row in rows:
        line = [str(row["workers"]), str(row["threads"]), *map(_ms, (row["seconds"], row["minimum"], row["cpu"]))]
        if row["workers"] > 1:
            line += [f"{1 / row[key]:.3f}" for key in ("ratio", "ratio_of_minima", "ratio_of_cpu")]
            line += [_ms(row["waited_seconds"]), f"{100 * row['waited_seconds'] / row['seconds']:.1f} %"]
            line += [
                *map(_ms, (row["late_seconds"], row["alone_seconds"], row["alone_cpu"])),
                f"{row['sent_bytes'] / 1e6:.1f}",
                _ms(row["predicted_seconds"]),
            ]
            line += [_ms(row["predicted_waited_seconds"])]
        lines.append(line + [""] * (len(head) - len(line)))
    return title, head, lines


def _bucket_table(rows: list[Row]) -> Table:
    title = "buckets, and which part of the last shard's backward is done when each leaves"
    head = ["bucket", "MB", *(f"{row['workers']} workers" for row in rows)]
    lines = []
    for k, bucket in enumerate(rows[0]["buckets"]):
        lefts = [f"{row['buckets'][k]['left_at']:.3f}" for row in rows]
        lines.append([str(k), f"{bucket['bytes'] / 1e6:.2f}", *lefts])
    return title, head, lines


def _predicted_table(alone: Row, rows: list[Row]) -> Table:
    title = (
        f"predicted by parallel/model.py: machines like this one, {alone['batch']} images on each; all in step, full "
        "speed between any two, no core taken by sending"
    )
    of: dict[str, list[Row]] = {}
    for row in rows:
        of.setdefault(row["network"], []).append(row)
    head = ["workers", "batch", *(word for name in of for word in (f"{name}: ms", "efficiency"))]
    lines = [["1", str(alone["batch"]), *[_ms(alone["seconds"]), "1.000"] * len(of)]]
    for same in zip(*of.values(), strict=True):
        cells = [word for row in same for word in (_ms(row["seconds"]), f"{1 / row['ratio']:.3f}")]
        lines.append([str(same[0]["workers"]), str(same[0]["batch"]), *cells])
    facts = {"us a message": ("latency", 1e6), "GB/s": ("bandwidth", 1e-9), "dear from": ("messages_cost_from", 1.0)}
    for what, (key, unit) in facts.items():
        lines.append([what, "", *(word for row, *_ in of.values() for word in (f"{row[key] * unit:.4g}", ""))])
    return title, head, lines

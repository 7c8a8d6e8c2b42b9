"""`inception-np bench`: how long a training step or an inference takes, alone or beside other libraries.

Libraries in one process disturb each other: a thread pool that spins after its work takes a core from the next one.
So every side runs in a process of its own (side.py). The processes of all sides alternate, round after round, so that
a slow minute of the machine falls on all of them. All compute in float32, on as many threads, with the same weights
and images, and each is set up as by someone who wants it fast:

- "torch" and "torch tuned": PyTorch in channels_last, its faster layout here, with the system's allocator as it is, and
  with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ raised, where it keeps its memory from step to step and is up
  to twice as fast. All other rivals run with them raised.
- "inductor": the same model through torch.compile, for this batch only; its weights are frozen for inference, and in a
  training step the loss and the optimiser stay outside, as users write it. It compiles C++ for minutes before anything
  is timed; later processes find most of that in PyTorch's cache.
- "onnxruntime": its CPU provider on an ONNX graph, where it folds and fuses what it can. Inference only.
- "openvino": its CPU plugin on the same graph, with the hint for latency, since one call at a time is timed, and
  float32 asked for, since it would round to bfloat16 on processors that have it. Inference only.

Of a network's rivals the one with the smallest median is marked as the best.

The command reports the median and the minimum of all rounds. Page faults and involuntary context switches per call
show a disturbed measurement: an undisturbed one has almost no switches. Memory is the most that the first call adds to
imports, weights and input.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from ...backend.errors import RefusedError, UsageError
from ...training.arguments import add_json, add_threads, known_model, number, positive, use_threads

Row = dict[str, Any]

TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
RIVALS: dict[str, dict[str, dict[str, str]]] = {  # rival: {label: environment variables}
    "torch": {"torch": {}, "torch tuned": TUNED},
    "inductor": {"inductor": TUNED},
    "onnxruntime": {"onnxruntime": TUNED},
    "openvino": {"openvino": TUNED},
}
PRESETS = ("torchvision", "timm")  # released networks whose padding PyTorch can do without a copy
NATIVE = ("inception_v1", "inception_v3", "inception_v4", "inception_resnet_v2", "xception")

SCALED = ("inception_v1", "inception_v3")  # what --workers measures


def add_parser(commands: Any) -> None:
    """Add `inception-np bench` to a parser's commands."""
    parser = commands.add_parser("bench")
    parser.set_defaults(run=run)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks (default: the five largest)")
    parser.add_argument("--task", choices=("train", "infer"), default="train", help="a training step, or inference")
    parser.add_argument("--batch", type=positive, metavar="N", help="images at once (default: 8, or 128 for _cifar)")
    parser.add_argument("--preset", help="whose version of the network (default: a rival's own, else paper)")
    parser.add_argument("--against", action="append", choices=[*RIVALS], default=[], help="a rival; may be repeated")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="processes for each side (default: 3)")
    parser.add_argument("--repeats", type=positive, default=20, metavar="N", help="calls in each process, at most")
    parser.add_argument("--seconds", type=number, default=6.0, metavar="S", help="seconds for them, about")
    add_threads(parser)
    parser.add_argument("--workers", type=positive, metavar="N", help="1, 2, 4 .. N workers, beside a model for more")
    parser.add_argument("--low-memory", action="store_true", help="our training steps as those of train --low-memory")
    parser.add_argument("--layers", action="store_true", help="time by layer, beside the machine's ceilings")
    parser.add_argument("--ceilings", action="store_true", help="only measure the ceilings: multiply-adds and copies")
    parser.add_argument("--winograd", action="store_true", help="only print the errors of Winograd's forms")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print. Returns 0; raises UsageError for a wrong option and RefusedError for a missing library."""
    from .layers import by_layer, layer_table

    for option, most in (("rounds", 1000), ("repeats", 1_000_000), ("batch", 1_000_000), ("seconds", 86_400)):
        value = getattr(args, option)
        if value is not None and not 0 < value <= most:
            raise UsageError(f"--{option}: got {value}; give a number above 0 and up to {most}")
    threads = use_threads(args)
    if args.ceilings:
        _print_ceilings(args, threads)
        return 0
    if args.winograd:
        _print_forms(args)
        return 0
    for rival in args.against:
        if rival in ("onnxruntime", "openvino") and args.task == "train":
            raise UsageError(f"--against {rival}: it does not train; add --task infer")
        if rival == "inductor" and not shutil.which(compiler := os.environ.get("CXX", "g++")):
            raise RefusedError(
                f"bench: --against inductor compiles C++, but {compiler} is missing; install it or set CXX"
            )
    if args.workers:
        return _bench_workers(args, threads)
    rows: list[Row] = []
    for name in args.names or NATIVE:
        name, preset = _resolve(name, args.preset)
        batch = args.batch or _usual_batch(name)
        task = {"name": name, "preset": preset, "task": args.task, "batch": batch, "threads": threads}
        task["low_memory"] = args.low_memory
        rows += by_layer(task) if args.layers else _compare(task, args)
    if args.json:
        print(json.dumps(rows, indent=1))
    elif args.layers:
        title, head, lines = layer_table(rows, threads)
        print(title)
        _print_table(head, lines)
    else:
        _print_rows(rows)
    return 0


def _print_ceilings(args: argparse.Namespace, threads: int) -> None:
    from .layers import ceilings

    found = {"threads": threads, **ceilings(threads)}
    tile, copying = f"{found['gflops']:.0f} GFLOP/s in the register tile", f"{found['gbytes']:.0f} GB/s copying"
    print(json.dumps(found) if args.json else f"{threads} threads: {tile}, {copying}")


def _print_forms(args: argparse.Namespace) -> None:
    from .accuracy import points_table

    head, lines = points_table()
    if args.json:
        print(json.dumps([dict(zip(head, line, strict=True)) for line in lines]))
    else:
        _print_table(head, lines)


def _bench_workers(args: argparse.Namespace, threads: int) -> int:
    """Measure and print with --workers. Returns 0; raises what `run` raises."""
    from .scaling import check, compare, tables

    for option, used in (("against", args.against), ("layers", args.layers), ("task infer", args.task == "infer")):
        if used:
            raise UsageError(f"--workers: got --{option} beside it; leave one of them out")
    rows: list[Row] = []
    for name in args.names or SCALED:
        name, preset = _resolve(name, args.preset)
        batch = args.batch or _usual_batch(name)
        check(args.workers, batch)
        task = {"name": name, "preset": preset, "batch": batch, "threads": threads, "low_memory": args.low_memory}
        task |= {"seconds": args.seconds, "repeats": args.repeats}
        found = compare(task, args.workers, args.rounds)
        rows += found
        for title, head, lines in [] if args.json else tables(found):
            print(title)
            _print_table(head, lines)
            print()
    if args.json:
        print(json.dumps(rows, indent=1))
    return 0


def _usual_batch(name: str) -> int:
    return 128 if name.endswith("_cifar") else 8


def _resolve(name: str, preset: str | None) -> tuple[str, str]:
    """(the network's own name, the preset): without one given, the first of PRESETS that it has, or "paper"."""
    from ...models import create_model

    name = known_model(name, "NAME")
    for candidate in [preset] if preset else [*PRESETS, "paper"]:
        try:
            create_model(name, preset=candidate, width=None)
        except (ValueError, TypeError):
            if preset:
                raise
            continue
        return name, candidate
    return name, "paper"


# ---- sides against each other


def _sides(against: list[str]) -> list[tuple[str, str, dict[str, str]]]:
    """(label, side, environment variables) of everything that runs."""
    rivals = [(label, rival, env) for rival in RIVALS if rival in against for label, env in RIVALS[rival].items()]
    return [("ours", "ours", {}), *rivals]


def _compare(task: Row, args: argparse.Namespace) -> list[Row]:
    """Run all sides of a task, round after round: a row for each rival, or one without."""
    sides = _sides(args.against)
    runs: dict[str, list[Row]] = {label: [] for label, _, _ in sides}
    for i in range(args.rounds):
        for label, side, environment in sides:
            print(f"{task['name']} {task['task']} {i + 1}/{args.rounds}: {label}", file=sys.stderr)
            limits = {"seconds": args.seconds, "repeats": args.repeats}
            runs[label].append(_process({**task, **limits, "side": side}, environment))
    joined = {label: _joined(of_side) for label, of_side in runs.items()}
    mine = joined.pop("ours")
    best = min(joined, key=lambda label: joined[label]["seconds"], default=None)
    rows = []
    rivals: list[str | None] = [*joined]
    for rival in rivals or [None]:
        row = {**{k: task[k] for k in ("name", "preset", "task", "batch", "threads")}, **_prefixed(mine, "")}
        row["against"] = rival
        theirs = joined[rival] if rival else None
        row |= _prefixed(theirs, "against_") if theirs else {"against_seconds": None}
        row["ratio"] = mine["seconds"] / theirs["seconds"] if theirs else None
        row["ratio_of_minima"] = mine["minimum"] / theirs["minimum"] if theirs else None
        row["best"] = rival is not None and rival == best
        rows.append(row)
    return rows


def _process(task: Row, environment: dict[str, str]) -> Row:
    """What one side measures, in a process of its own. Raises RefusedError if its library is not installed."""
    command = [sys.executable, "-m", f"{__package__}.side"]
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, env=env)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if "No module named" in last:
            module = last.rpartition(" ")[2].strip("'")
            raise RefusedError(f"bench: {module} is not installed; pip install {module}")
        raise RuntimeError(f"bench: {task['side']} failed with {last}")
    result: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _joined(runs: list[Row]) -> Row:
    """One side's rounds together."""
    times = [t for r in runs for t in r["times"]]
    return {
        "seconds": median(times),
        "minimum": min(times),
        "cpu_minimum": min(r["cpu"] for r in runs),
        "memory": max(r["memory"] for r in runs),
        "page_faults": median(r["page_faults"] for r in runs),
        "switches": median(r["switches"] for r in runs),
    }


def _prefixed(result: Row, prefix: str) -> Row:
    return {prefix + key: value for key, value in result.items()}


def _print_rows(rows: list[Row]) -> None:
    def ms(seconds: float) -> str:
        return f"{1e3 * seconds:.1f}"

    head = ("network", "task", "batch", "median ms", "min ms", "MB", "faults", "switches")
    versus = ("against", "median ms", "min ms", "MB", "faults", "switches", "ratio", "of minima", "memory", "")
    table = []
    for r in rows:
        line = [f"{r['name']} ({r['preset']})", r["task"], str(r["batch"]), ms(r["seconds"]), ms(r["minimum"])]
        line += [f"{r['memory'] / 1e6:.0f}", f"{r['page_faults']:.0f}", f"{r['switches']:.0f}"]
        if r["against"]:
            line += [r["against"], ms(r["against_seconds"]), ms(r["against_minimum"])]
            line += [f"{r['against_memory'] / 1e6:.0f}"]
            line += [f"{r['against_page_faults']:.0f}", f"{r['against_switches']:.0f}", f"{r['ratio']:.2f}"]
            line += [f"{r['ratio_of_minima']:.2f}", f"{r['memory'] / max(1, r['against_memory']):.2f}"]
            line += ["best" if r["best"] else ""]
        table.append(line)
    _print_table([*head, *versus] if any(r["against"] for r in rows) else list(head), table)


def _print_table(head: list[str], lines: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    for line in [head, *lines]:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        print("  ".join(cells).rstrip())

"""`inception-np bench`: how long a training step or an inference takes, alone or beside PyTorch and ONNX Runtime.

Every side runs in a process of its own, since libraries in one process disturb each other (a thread pool that spins
after its work takes the core from whoever comes next), and the processes of all sides alternate, round after round, so
that a slow minute of the machine falls on all. PyTorch runs in channels_last, its faster layout here, and twice: with
the system's allocator as it is ("torch"), and with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ raised
("torch tuned"), where it keeps its memory from step to step and is up to twice as fast. ONNX Runtime runs so too.

Reported are the median and the minimum over all rounds. Page faults and involuntary context switches per call are
there to tell a disturbed measurement: an undisturbed one has next to none of the latter. Memory is what the first call
adds to imports, weights and input, at its highest.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ...arguments import number, positive
from ...errors import RefusedError, UsageError

TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
RIVALS = ("torch", "onnxruntime")
PRESETS = ("torchvision", "timm")  # released networks whose padding PyTorch can do without a copy
NATIVE = ("inception_v1", "inception_v3", "inception_v4", "inception_resnet_v2", "xception")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks (default: the five largest)")
    parser.add_argument("--task", choices=("train", "infer"), default="train", help="a training step, or inference")
    parser.add_argument("--batch", type=positive, metavar="N", help="images at once (default: 8, or 128 for _cifar)")
    parser.add_argument("--preset", help="whose version of the network (default: a rival's own, else paper)")
    parser.add_argument("--against", action="append", choices=RIVALS, default=[], help="a rival; may be repeated")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="processes for each side (default: 3)")
    parser.add_argument("--repeats", type=positive, default=20, metavar="N", help="calls in each process, at most")
    parser.add_argument("--seconds", type=number, default=6.0, metavar="S", help="seconds for them, about")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of each side (default: all cores)")
    parser.add_argument("--low-memory", action="store_true", help="our training steps as those of train --low-memory")
    parser.add_argument("--layers", action="store_true", help="time by layer, beside the machine's ceilings")
    parser.add_argument("--ceilings", action="store_true", help="only measure the ceilings: multiply-adds and copies")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    from ...threads import num_threads, set_num_threads

    for option, most in (("rounds", 1000), ("repeats", 1_000_000), ("batch", 1_000_000), ("seconds", 86_400)):
        value = getattr(args, option)
        if value is not None and not 0 < value <= most:
            raise UsageError(f"--{option}: got {value}; give a number above 0 and up to {most}")
    if args.threads is not None:
        set_num_threads(args.threads)
    try:
        threads = num_threads()
    except ValueError as error:
        raise UsageError(str(error)) from error
    if args.ceilings:
        return _print_ceilings(args, threads)
    if "onnxruntime" in args.against and args.task == "train":
        raise UsageError("--against onnxruntime: it does not train; add --task infer")
    rows = []
    for name in args.names or NATIVE:
        name, preset = _settle(name, args.preset)
        batch = args.batch or (128 if name.endswith("_cifar") else 8)
        task = {"name": name, "preset": preset, "task": args.task, "batch": batch, "threads": threads}
        task["low_memory"] = args.low_memory
        if args.layers:
            rows += _by_layer(task)
        else:
            rows += _compare(task, args)
    if args.json:
        print(json.dumps(rows, indent=1))
    elif args.layers:
        _print_layers(rows, threads)
    else:
        _print_rows(rows)
    return 0


def _settle(name: str, preset: str | None) -> tuple[str, str]:
    """The network's own name, and the preset that is meant."""
    from ...errors import nearest
    from ...models import ALIASES, create_model, find, list_models

    if name not in list_models() and name not in ALIASES:
        raise UsageError(f"NAME: there is no network {name!r}; {nearest(name, [*list_models(), *ALIASES])}")
    name = find(name)[1]
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


def _sides(task: dict, against: list[str]) -> list[tuple[str, str, dict[str, str]]]:
    """(label, side, environment) of everything that is to run."""
    sides: list[tuple[str, str, dict[str, str]]] = [("ours", "ours", {})]
    if "torch" in against:
        sides += [("torch", "torch", {}), ("torch tuned", "torch", TUNED)]
    if "onnxruntime" in against:
        sides.append(("onnxruntime", "onnxruntime", TUNED))
    return sides


def _compare(task: dict, args: argparse.Namespace) -> list[dict]:
    sides = _sides(task, args.against)
    runs: dict[str, list[dict]] = {label: [] for label, _, _ in sides}
    for i in range(args.rounds):
        for label, side, environment in sides:
            print(f"{task['name']} {task['task']} {i + 1}/{args.rounds}: {label}", file=sys.stderr)
            limits = {"seconds": args.seconds, "repeats": args.repeats}
            runs[label].append(_process({**task, **limits, "side": side}, environment))
    mine = _joined(runs["ours"])
    rows = []
    rivals: list[str | None] = [label for label, _, _ in sides[1:]]
    for rival in rivals or [None]:
        row = {**{k: task[k] for k in ("name", "preset", "task", "batch", "threads")}, **_prefixed(mine, "")}
        row["against"] = rival
        theirs = _joined(runs[rival]) if rival else None
        row |= _prefixed(theirs, "against_") if theirs else {"against_seconds": None}
        row["ratio"] = mine["seconds"] / theirs["seconds"] if theirs else None
        row["ratio_of_minima"] = mine["minimum"] / theirs["minimum"] if theirs else None
        rows.append(row)
    return rows


def _process(task: dict, environment: dict[str, str]) -> dict:
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
    return json.loads(done.stdout.strip().splitlines()[-1])


def _joined(runs: list[dict]) -> dict:
    times = [t for r in runs for t in r["times"]]
    return {
        "seconds": median(times),
        "minimum": min(times),
        "cpu_minimum": min(r["cpu"] for r in runs),
        "memory": max(r["memory"] for r in runs),
        "page_faults": median(r["page_faults"] for r in runs),
        "switches": median(r["switches"] for r in runs),
    }


def _prefixed(result: dict, prefix: str) -> dict:
    return {prefix + key: value for key, value in result.items()}


def _print_rows(rows: list[dict]) -> None:
    def ms(seconds: float) -> str:
        return f"{1e3 * seconds:.1f}"

    head = ("network", "task", "batch", "median ms", "min ms", "MB", "faults", "switches")
    versus = ("against", "median ms", "min ms", "MB", "faults", "switches", "ratio", "of minima", "memory")
    table = []
    for r in rows:
        line = [f"{r['name']} ({r['preset']})", r["task"], str(r["batch"]), ms(r["seconds"]), ms(r["minimum"])]
        line += [f"{r['memory'] / 1e6:.0f}", f"{r['page_faults']:.0f}", f"{r['switches']:.0f}"]
        if r["against"]:
            line += [r["against"], ms(r["against_seconds"]), ms(r["against_minimum"])]
            line += [f"{r['against_memory'] / 1e6:.0f}"]
            line += [f"{r['against_page_faults']:.0f}", f"{r['against_switches']:.0f}", f"{r['ratio']:.2f}"]
            line += [f"{r['ratio_of_minima']:.2f}", f"{r['memory'] / max(1, r['against_memory']):.2f}"]
        table.append(line)
    _print_table([*head, *versus] if any(r["against"] for r in rows) else list(head), table)


def _print_table(head: list[str], lines: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    for line in [head, *lines]:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        print("  ".join(cells).rstrip())


# ---- layers and ceilings


def ceilings(threads: int) -> dict[str, float]:
    """What the machine can do: {"gflops": of the register tile on numbers in the first cache, "gbytes": of a copy}."""
    from ...heap import empty
    from ...kernels.cpu.elementwise import copy
    from ...kernels.cpu.implicit_gemm import tile_alone
    from ...threads import set_num_threads

    set_num_threads(threads)
    steps, rounds = 128, 8000
    flops = tile_alone(steps, rounds)
    seconds = min(_timed(lambda: tile_alone(steps, rounds)) for _ in range(7))
    a, b = empty((1 << 25,), np.float32), empty((1 << 25,), np.float32)
    a[...] = b[...] = 0
    copied = min(_timed(lambda: copy(a, b)) for _ in range(7))
    return {"gflops": flops / seconds / 1e9, "gbytes": 2.0 * a.nbytes / copied / 1e9}


def _timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _print_ceilings(args: argparse.Namespace, threads: int) -> int:
    found = {"threads": threads, **ceilings(threads)}
    if args.json:
        print(json.dumps(found))
    else:
        print(
            f"{threads} threads: {found['gflops']:.0f} GFLOP/s in the register tile, {found['gbytes']:.0f} GB/s copying"
        )
    return 0


def _by_layer(task: dict) -> list[dict]:
    """Seconds of every layer, the least of a few steps, and what it computes and moves."""
    from ...layer import Layer, Mode, watch
    from ...models import create_model
    from . import side as bench_side

    net = create_model(task["name"], preset=task["preset"])
    top = ceilings(task["threads"])
    spent: dict[str, dict] = {}

    units = dict(_units(net))
    for path, layer in units.items():
        spent[path] = {"kind": type(layer).__name__, "forward": [], "backward": [], "macs": 0, "moved": 0}

    def forward(path: str, layer: Layer, call: Any, x: Any, mode: Any) -> Any:
        start = time.perf_counter()
        y, cache = call()
        row = spent[path]
        row["forward"].append(time.perf_counter() - start)
        row["macs"], row["moved"] = layer.macs(x.shape) * len(x), x.nbytes + y.nbytes
        return y, cache

    def backward(path: str, layer: Layer, call: Any, dy: Any, x: Any, cache: Any) -> Any:
        start = time.perf_counter()
        dx = call()
        spent[path]["backward"].append(time.perf_counter() - start)
        return dx

    train = task["task"] == "train"
    if train:
        _, step = bench_side.training(net, task, bench_side.LayerByLayer)
    else:
        x, _ = bench_side.batch_of(net, task["batch"])
        step = lambda: net.forward(x, Mode())  # noqa: E731
    with watch(net, forward=forward, backward=backward, only=units):
        for _ in range(5):
            step()
    rows = []
    for path, row in spent.items():
        if not row["forward"]:
            continue
        ahead, back = min(row["forward"]), min(row["backward"], default=0.0)
        flops = 2.0 * row["macs"]
        rows.append(
            {
                "name": task["name"],
                "task": task["task"],
                "batch": task["batch"],
                "layer": path,
                "kind": row["kind"],
                "samples": len(row["forward"]),
                "forward_seconds": ahead,
                "backward_seconds": back if train else None,
                "forward_gflops": flops / ahead / 1e9,
                "backward_gflops": 2 * flops / back / 1e9 if back else None,
                "forward_gbytes": row["moved"] / ahead / 1e9,
                "ceiling_gflops": top["gflops"],
                "ceiling_gbytes": top["gbytes"],
            }
        )
    return rows


def _units(layer: Any, path: str = "") -> Any:
    """(path, layer) of every layer that computes: leaves, and a convolution with its batch norm and ReLU as one."""
    from ...layer import Layer
    from ...layers.conv_bn_relu import ConvBNReLU

    below = {k: v for k, v in layer.children().items() if isinstance(v, Layer)}
    if not below or isinstance(layer, ConvBNReLU):
        yield path, layer
        return
    for name, child in below.items():
        yield from _units(child, f"{path}.{name}" if path else name)


def _print_layers(rows: list[dict], threads: int) -> None:
    total = sum(r["forward_seconds"] + (r["backward_seconds"] or 0) for r in rows)
    top = rows[0]
    print(
        f"{threads} threads; ceilings {top['ceiling_gflops']:.0f} GFLOP/s, {top['ceiling_gbytes']:.0f} GB/s; "
        f"all layers {1e3 * total:.1f} ms"
    )
    lines = []
    for r in sorted(rows, key=lambda r: -(r["forward_seconds"] + (r["backward_seconds"] or 0))):
        back = r["backward_seconds"]
        lines.append(
            [
                f"{r['layer']} {r['kind']}",
                f"{1e3 * r['forward_seconds']:.2f}",
                f"{r['forward_gflops']:.0f}",
                f"{r['forward_gbytes']:.0f}",
                f"{1e3 * back:.2f}" if back else "",
                f"{r['backward_gflops']:.0f}" if back else "",
            ]
        )
    _print_table(["layer", "forward ms", "GFLOP/s", "GB/s", "backward ms", "GFLOP/s"], lines)

"""Where the time of a captured step goes, kernel by kernel, as the device's own profiler (CUPTI) measures it.

    python tests/gpu/kernel_times.py --models inception_v3_cifar --batch 256 --output kernels.json

For each network: microseconds of all launches of a step by kernel, the slowest launches with their windows and
TFLOP/s, the sum of all kernels beside the time of the step, and what an empty launch in a graph costs.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from bench import captured_step
from dry import DRY, cupy, seconds, small, wait

from inception_np.kernels.cuda import launch

REPLAYS = small(3, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["inception_v3_cifar"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--output", type=Path, default=Path("kernels.json"))
    args = parser.parse_args()
    module = cupy()
    report = {"empty launch": empty_launch(module)}
    for name in args.models:
        try:
            report[name] = profile(name, args.batch)
        except Exception as error:
            report[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
        args.output.write_text(json.dumps(report))


def empty_launch(module, nodes=300):
    """Microseconds of one node of a graph of launches that do next to nothing."""
    if DRY:
        return None
    y = module.zeros(1, "f")
    stream = module.cuda.Stream(non_blocking=True)
    add = lambda: launch.launch("elementwise.cu", "relu", launch.elements(1), y, y, 1, 1, 1, 1)  # noqa: E731
    with stream:
        add()
        stream.begin_capture()
        for _ in range(nodes):
            add()
        graph = stream.end_capture()
        graph.launch()
        return seconds(lambda i: graph.launch(), 20) / nodes * 1e6


def profile(name, batch):
    recorded = []
    real = launch.function

    def function(source, kernel, options):
        run = real(source, kernel, options)

        def noted(blocks, threads, arguments):
            recorded.append(
                (source, kernel, options, blocks, threads, [a for a in arguments if is_window(a)], arguments)
            )
            run(blocks, threads, arguments)

        return noted

    launch.function = function
    try:
        _, step = captured_step(name, batch)
    finally:
        launch.function = real
    recorded = recorded[len(recorded) // 2 :]  # the step was taken once before it was captured
    found = {"launches": len(recorded), "step us": seconds(step, small(20, 1)) * 1e6}
    events = trace(step, recorded)
    by_kernel = defaultdict(lambda: [0, 0.0])
    for event in events:
        by_kernel[event["name"][:60]][0] += 1 / REPLAYS
        by_kernel[event["name"][:60]][1] += event["dur"] / REPLAYS
    found["kernels us"] = sum(us for _, us in by_kernel.values())
    found["by kernel"] = {
        kernel: [round(count, 1), round(us, 1)]
        for kernel, (count, us) in sorted(by_kernel.items(), key=lambda item: -item[1][1])[:40]
    }
    # A step has two streams: launches of one kernel over one grid follow each other in it, others need not.
    wanted, ours = defaultdict(int), defaultdict(list)
    for _, kernel, _, blocks, threads, *_ in recorded:
        wanted[kernel, three(blocks), three(threads)] += 1
    for event in events:
        key = event["name"].split("(")[0], three(event["args"]["grid"]), three(event["args"]["block"])
        if key in wanted:
            ours[key].append(event)
    found["matched"] = all(len(ours[key]) == REPLAYS * count for key, count in wanted.items())
    if found["matched"]:
        rows, place = [], defaultdict(int)
        for source, kernel, options, blocks, threads, windows, arguments in recorded:
            key = kernel, three(blocks), three(threads)
            own = ours[key][place[key] :: wanted[key]]
            place[key] += 1
            row = {"kernel": kernel, "options": options, "blocks": blocks, "threads": threads}
            row["us"] = min(event["dur"] for event in own)
            row["registers"] = own[0]["args"].get("registers per thread")
            if windows:
                row["window"] = [int(v) for v in windows[0].item()]
                if source == "conv.cu":
                    n, _, _, c, oh, ow, kh, kw = row["window"][:8]
                    row["out"] = int(arguments[[is_window(a) for a in arguments].index(True) + 1])
                    row["TFLOP/s"] = 2 * n * oh * ow * kh * kw * c * row["out"] / row["us"] / 1e6
            rows.append(row)
        rows.sort(key=lambda row: -row["us"])
        found["slowest"] = rows[: small(120, 5)]
        products = [row for row in rows if "TFLOP/s" in row]
        work, us = sum(row["TFLOP/s"] * row["us"] for row in products), sum(row["us"] for row in products)
        found["convolutions"] = {"us": us, "TFLOP/s": work / us if us else None}
    return found


def three(sizes):
    """A grid or a block with all its three sizes."""
    return (*sizes, *[1] * (3 - len(sizes)))


def is_window(argument):
    return getattr(argument, "dtype", None) is not None and "kh" in (argument.dtype.names or ())


def trace(step, recorded):
    """Every kernel that ran in REPLAYS steps, in order."""
    if DRY:
        step(0)
        late = sorted(enumerate(recorded), key=lambda pair: (pair[1][1] == "conv2d_dw", pair[0]))  # the other stream
        return [
            {"name": kernel, "dur": 1.0 + 9 * (kernel == "conv2d_dw"), "args": {"grid": [*blocks], "block": [*threads]}}
            for _, (_, kernel, _, blocks, threads, *_) in late
        ]
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    wait()
    with torch_profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for i in range(REPLAYS):
            step(i)
        wait()
        time.sleep(0.2)
    path = Path(tempfile.mkdtemp()) / "trace.json"
    profiler.export_chrome_trace(str(path))
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("cat") == "kernel"]
    return sorted(events, key=lambda e: e["ts"])


if __name__ == "__main__":
    main()

"""Time of a training step on a GPU: ours as a CUDA graph, and PyTorch eager, eager in a CUDA graph, and compiled.

    python tests/gpu/bench.py --models inception_v3_cifar --batches 256 512 --output bench.json

The same network without auxiliary heads, SGD with Nesterov momentum, softmax cross-entropy, float32 with TF32
products, the data on the device. PyTorch has plain nn.Conv2d in channels_last, cudnn.benchmark, TF32 for convolutions
and products, fused SGD, gradients set to None, and takes a batch that lies ready; ours gathers, crops and mirrors its
own. Rivals in bf16 keep activations in bfloat16 (PyTorch by autocast) and weights in float32; the first rival named is
what the others are compared with. The rivals take turns of 20 steps, the device is waited for on both sides of a turn,
and the median of the turns is given, in seconds per step. The file is written again after each rival.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from dry import DRY, TORCH, cupy, seconds, small, wait

from inception_np import SGD, create_model
from inception_np.backend import device
from inception_np.data.random import stream
from inception_np.runtime.bench.peers import to_torch
from inception_np.runtime.graph import CapturedStep

STEPS, TURNS, IMAGES = small((20, 7, 4096), (1, 2, 8))
WIDTH = small(None, 1 / 32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["inception_v3_cifar"])
    parser.add_argument("--batches", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--rivals", nargs="+", default=["ours", "eager", "eager graph"], choices=list(RIVALS))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    args = parser.parse_args()
    until, rows = time.time() + 60 * args.minutes, []
    for name in args.models:
        for batch in args.batches:
            if time.time() < until:
                rows.append({"name": name, "task": "train", "batch": batch, "seconds": {}, "errors": {}})
                for _ in compare(rows[-1], args.rivals):
                    args.output.write_text(json.dumps(rows, indent=2))
                print(json.dumps(rows[-1]), file=sys.stderr)


def compare(row, rivals):
    """Fill a row: seconds per step of every rival that can be set up, given after each and once more after all."""
    steps, turns = {}, {}
    for rival in rivals:
        try:
            begin = time.perf_counter()
            steps[rival] = RIVALS[rival](row["name"], row["batch"])
            wait()
            row.setdefault("setup", {})[rival] = time.perf_counter() - begin
            turns[rival] = [seconds(steps[rival], STEPS)]
            row["seconds"][rival] = turns[rival][0]
        except Exception as error:  # a rival that cannot run here is reported, and the others are measured
            steps.pop(rival, None)
            row["errors"][rival] = f"{type(error).__name__}: {error}"[:2000]
        yield row
    for _ in range(TURNS - 1):
        for rival, step in steps.items():
            turns[rival].append(seconds(step, STEPS))
    row["seconds"] = {rival: statistics.median(times) for rival, times in turns.items()}
    row["spread"] = {rival: max(times) / min(times) for rival, times in turns.items()}
    ours = row["seconds"].get(rivals[0])
    if ours:
        row["images_per_second"] = row["batch"] / ours
        row["ratio"] = {rival: ours / s for rival, s in row["seconds"].items() if rival != rivals[0]}
    yield row


def dataset():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8), rng.integers(0, 10, IMAGES)


def model(name, **options):
    return create_model(name, aux=False, **options, **({} if WIDTH is None else {"width": WIDTH}))


def captured_step(name, batch, precision="tf32"):
    """(CapturedStep, step(i)): three steps were taken."""
    device.set_precision(precision)
    net = model(name, device="cuda")
    optimiser = SGD(net, 0.05, momentum=0.9, nesterov=True)
    captured = CapturedStep(net, optimiser, *dataset(), batch, mean=(120,) * 3, std=(60,) * 3)
    order = np.random.default_rng(1).permutation(IMAGES)

    def step(i):
        index = order[i * batch % IMAGES :][:batch]
        captured(index, crops=stream(0, "augment", i), dropout=stream(0, "dropout", i))

    for i in range(3):
        step(i)
    captured.totals()
    return captured, step


def ours(name, batch, precision="tf32"):
    return captured_step(name, batch, precision)[1]


def rival(name, batch, compiled=False, bf16=False):
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    net = model(name)
    net = to_torch(net, (batch, *net.image)).to(TORCH).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(
        [p for p in net.parameters() if p.requires_grad], 0.05, momentum=0.9, nesterov=True, fused=True
    )
    images, labels = dataset()
    x = torch.tensor(images[:batch]).to(TORCH).permute(0, 3, 1, 2).float().sub(120).div(60)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.tensor(labels[:batch]).to(TORCH)
    if compiled:
        torch._dynamo.reset()  # or a second batch size would make the shapes dynamic, and the rival slower
        net = torch.compile(net, dynamic=False, **({"backend": "eager"} if DRY else {"mode": "reduce-overhead"}))

    def step(i):
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(TORCH, torch.bfloat16, enabled=bf16, cache_enabled=False):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()

    return step


def eager(name, batch):
    step = rival(name, batch)
    for i in range(small(5, 1)):
        step(i)
    return step


def eager_graph(name, batch, bf16=False):
    """The whole eager step in one CUDA graph, as PyTorch's manual has it."""
    step = rival(name, batch, bf16=bf16)
    if DRY:
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(5):
            step(i)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(0)
    return lambda i, step=step: graph.replay()  # the graph reads the images that `step` holds


def compiled(name, batch, bf16=False):
    step = rival(name, batch, compiled=True, bf16=bf16)
    for i in range(small(8, 1)):
        step(i)
    return step


RIVALS = {
    "ours": ours,
    "eager": eager,
    "eager graph": eager_graph,
    "compile": compiled,
    "ours bf16": partial(ours, precision="bf16"),
    "eager graph bf16": partial(eager_graph, bf16=True),
    "compile bf16": partial(compiled, bf16=True),
}

if __name__ == "__main__":
    cupy()
    main()

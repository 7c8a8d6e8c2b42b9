"""Time of a training step on a GPU: ours as a CUDA graph, and PyTorch eager, eager in a CUDA graph, and compiled.

    INCEPTION_NP_TF32=1 python tests/gpu/bench.py --models inception_v3_cifar --batches 128 256 512 --output bench.json

The same network without auxiliary heads, SGD with Nesterov momentum, softmax cross-entropy, float32 with TF32
products, the data on the device. PyTorch has channels_last, cudnn.benchmark, TF32 for convolutions and products, fused
SGD, and takes a batch that lies ready; ours gathers, crops and mirrors its own. The rivals take turns of 20 steps, the
device is waited for on both sides of a turn, and the median of the turns is given, in seconds per step.

Written without a GPU at hand: not run on a device yet.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch_twin import twin

from inception_np import SGD, create_model
from inception_np.cuda_graph import CapturedStep
from inception_np.random import stream

STEPS, TURNS, IMAGES = 20, 7, 4096


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["inception_v3_cifar"])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 256, 512])
    parser.add_argument(
        "--rivals", nargs="+", default=["ours", "eager", "eager graph", "compile"], choices=list(RIVALS)
    )
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    args = parser.parse_args()
    until, rows = time.time() + 60 * args.minutes, []
    for name in args.models:
        for batch in args.batches:
            if time.time() < until:
                rows.append(compare(name, batch, args.rivals))
                print(json.dumps(rows[-1]), file=sys.stderr)
                args.output.write_text(json.dumps(rows, indent=2))


def compare(name, batch, rivals):
    """One row: seconds per step of every rival that could be set up."""
    row = {"name": name, "task": "train", "batch": batch, "seconds": {}, "errors": {}}
    steps = {}
    for rival in rivals:
        try:
            steps[rival] = RIVALS[rival](name, batch)
        except Exception as error:  # a rival that cannot run here is reported, and the others are measured
            row["errors"][rival] = f"{type(error).__name__}: {error}"[:300]
    turns = {rival: [] for rival in steps}
    for _ in range(TURNS):
        for rival, step in steps.items():
            turns[rival].append(seconds(step))
    row["seconds"] = {rival: statistics.median(times) for rival, times in turns.items()}
    ours = row["seconds"].get("ours")
    if ours:
        row["images_per_second"] = batch / ours
        row["ratio"] = {rival: ours / s for rival, s in row["seconds"].items() if rival != "ours"}
    return row


def seconds(step):
    """Of one step, over STEPS. `step` runs on all streams that it likes: the device is waited for on both sides."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for i in range(STEPS):
        step(i)
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / STEPS


def dataset():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8), rng.integers(0, 10, IMAGES)


def ours(name, batch):
    net = create_model(name, aux=False, device="cuda")
    optimiser = SGD(net, 0.05, momentum=0.9, nesterov=True)
    captured = CapturedStep(net, optimiser, *dataset(), batch, mean=(120,) * 3, std=(60,) * 3)
    order = np.random.default_rng(1).permutation(IMAGES)

    def step(i):
        index = order[i * batch % IMAGES :][:batch]
        captured(index, crops=stream(0, "augment", i), dropout=stream(0, "dropout", i))

    for i in range(3):
        step(i)
    captured.totals()
    return step


def rival(name, batch, compiled=False, capturable=False):
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    net = twin(create_model(name, aux=False)).cuda().to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(
        [p for p in net.parameters() if p.requires_grad], 0.05, momentum=0.9, nesterov=True, fused=True
    )
    images, labels = dataset()
    x = torch.tensor(images[:batch]).cuda().permute(0, 3, 1, 2).float().sub(120).div(60)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.tensor(labels[:batch]).cuda()
    forward = torch.compile(net, mode="max-autotune") if compiled else net

    def step(i):
        optimiser.zero_grad(set_to_none=not capturable)
        F.cross_entropy(forward(x), y).backward()
        optimiser.step()

    return step


def eager(name, batch):
    step = rival(name, batch)
    for i in range(5):
        step(i)
    return step


def eager_graph(name, batch):
    """The whole eager step in one CUDA graph, as PyTorch's manual has it."""
    step = rival(name, batch, capturable=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(5):
            step(i)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(0)
    return lambda i: graph.replay()


def compiled(name, batch):
    step = rival(name, batch, compiled=True)
    for i in range(5):
        step(i)
    return step


RIVALS = {"ours": ours, "eager": eager, "eager graph": eager_graph, "compile": compiled}

if __name__ == "__main__":
    main()

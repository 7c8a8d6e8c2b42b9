"""One side of a benchmark, in a process of its own: a line of JSON in, one out. (bench.py starts these.)

    {"side": "ours" | "torch" | "onnxruntime", "name", "preset", "task": "train" | "infer", "batch", "threads",
     "seconds", "repeats", "low_memory"}

What comes back: the seconds of every repetition, the CPU seconds of the cheapest one (all threads), how far the memory
in use grew beyond imports, weights and input, and the page faults and involuntary context switches during the
repetitions (many mean that something disturbed them).
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def resident(field: str = "VmRSS") -> int:
    """Bytes of memory in use now, or with "VmHWM" the most since `forget_peak`; 0 where the system does not say."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return 0


def forget_peak() -> None:
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def batch_of(net: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size, *net.image), dtype=np.float32)
    return x, rng.integers(0, net.num_classes, size)


def ours(task: dict) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(a small call of every kernel, the call to be timed)"""
    from .inference import compile_inference
    from .models import create_model
    from .threads import set_num_threads

    set_num_threads(task["threads"])
    net = create_model(task["name"], preset=task["preset"])
    if task["task"] == "infer":
        x, _ = batch_of(net, task["batch"])
        plan = compile_inference(net, x.shape)
        return (lambda: plan(x)), (lambda: plan(x))
    from .replay import Replay

    return training(net, task, Replay)


class LayerByLayer:
    """The passes of a network's layers, with Replay's interface: what Python costs is not left out."""

    def __init__(self, net: Any, *, low_memory: bool = False):
        self.net, self.low_memory = net, low_memory

    def forward(self, x: np.ndarray, rng: np.random.Generator) -> Any:
        from .layer import Mode

        self.x, mode = x, Mode(train=True, keep=True, rng=rng, low_memory=self.low_memory)
        y, self.cache = self.net.forward(x, mode)
        return y

    def backward(self, dy: Any) -> None:
        self.net.backward(dy, self.x, self.cache, into=False)


def training(net: Any, task: dict, kind: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A training step as a user would write it, with the passes of Replay or of LayerByLayer."""
    from . import heap
    from .loss import total_loss
    from .training.optim import SGD

    x, labels = batch_of(net, task["batch"])
    optimiser = SGD(net, 0.01, momentum=0.9, weight_decay=1e-4)
    low_memory = task.get("low_memory", False)
    passes = kind(net, low_memory=low_memory)

    def step(x: np.ndarray = x, labels: np.ndarray = labels, passes: Any = passes) -> Any:
        y = passes.forward(x, np.random.default_rng(0))
        loss, dy = total_loss(y, labels, net.aux_weight, 0.0)
        passes.backward(dy)
        optimiser.step()
        return loss

    def warm() -> None:
        step(x[:2], labels[:2], kind(net, low_memory=low_memory))
        heap.trim()

    return warm, step


def torch(task: dict) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The same with PyTorch, channels last."""
    import torch

    from .bench_peers import to_torch
    from .models import create_model

    torch.set_num_threads(task["threads"])
    net = create_model(task["name"], preset=task["preset"])
    images, labels = batch_of(net, task["batch"])
    model = to_torch(net, images.shape).to(memory_format=torch.channels_last)
    aux_weight = net.aux_weight
    del net
    x = torch.from_numpy(images).permute(0, 3, 1, 2)  # NHWC in memory: channels last
    t = torch.from_numpy(labels)
    if task["task"] == "infer":
        model.eval()

        def infer() -> Any:
            with torch.inference_mode():
                return model(x)

        return infer, infer
    loss_of = torch.nn.functional.cross_entropy
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)

    def step(x: Any = x, t: Any = t) -> Any:
        y = model(x)
        logits, aux = y if isinstance(y, tuple) else (y, {})
        loss = loss_of(logits, t) + sum(aux_weight * loss_of(a, t) for a in aux.values())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return float(loss)

    return (lambda: step(x[:2], t[:2])), step


def onnxruntime(task: dict) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The same with ONNX Runtime's CPU provider, inference only."""
    import onnxruntime

    from .bench_peers import to_onnx
    from .models import create_model

    net = create_model(task["name"], preset=task["preset"])
    x, _ = batch_of(net, task["batch"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(to_onnx(net, x.shape), options, providers=["CPUExecutionProvider"])
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    call = lambda: session.run(None, {"x": x})  # noqa: E731
    return call, call


def measure(task: dict) -> dict:
    """Run one side for `seconds` or `repeats`, whichever ends first (three times at least)."""
    warm, call = {"ours": ours, "torch": torch, "onnxruntime": onnxruntime}[task["side"]](task)
    warm()
    before = resident()
    forget_peak()
    call()
    memory = resident("VmHWM") - before
    call()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    times: list[float] = []
    busy: list[float] = []
    begun = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begun < task["seconds"] and len(times) < task["repeats"]):
        start, worked = time.perf_counter(), time.process_time()
        call()
        times.append(time.perf_counter() - start)
        busy.append(time.process_time() - worked)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "times": times,
        "cpu": min(busy),
        "memory": memory,
        "page_faults": (after.ru_minflt - usage.ru_minflt) / len(times),
        "switches": (after.ru_nivcsw - usage.ru_nivcsw) / len(times),
    }


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    task = json.loads(sys.stdin.read())
    result = measure(task)
    os.write(1, (json.dumps(result) + "\n").encode())

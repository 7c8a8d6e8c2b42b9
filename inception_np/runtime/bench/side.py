"""One side of a benchmark, in a process of its own that command.py starts: a line of JSON in, one out.

    {"side": "ours" | "torch" | "inductor" | "onnxruntime" | "openvino", "name", "preset", "task": "train" | "infer",
     "batch", "threads", "seconds", "repeats", "low_memory"}

The line that comes out holds the seconds of every call ("times"), the CPU seconds of the cheapest one over all threads
("cpu"), the bytes by which the memory in use grew beyond imports, weights and input ("memory"), and the page faults and
involuntary context switches per call ("page_faults", "switches"): many mean that something disturbed the measurement.
"""

import ctypes
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Task = dict[str, Any]
Calls = tuple[Callable[[], Any], Callable[[], Any]]


def resident(field: str = "VmRSS") -> int:
    """Bytes of memory in use now, or with "VmHWM" the most since `forget_peak`; 0 where the system does not say."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return 0


def forget_peak() -> None:
    """Let "VmHWM" start again from the memory in use now."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def batch_of(net: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images (size, H, W, C), float32, and labels (size,)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size, *net.image), dtype=np.float32)
    return x, rng.integers(0, net.num_classes, size)


def ours(task: Task) -> Calls:
    """(a small call that compiles and loads every kernel, the call to be timed)"""
    from ...backend.threads import set_num_threads
    from ...models import create_model
    from ..inference import compile_inference

    set_num_threads(task["threads"])
    net = create_model(task["name"], preset=task["preset"])
    if task["task"] == "infer":
        x, _ = batch_of(net, task["batch"])
        plan = compile_inference(net, x.shape)
        return (lambda: plan(x)), (lambda: plan(x))
    from ..replay import Replay

    return training(net, task, Replay)


class LayerByLayer:
    """The passes of a network, run layer by layer each time, with Replay's interface."""

    def __init__(self, net: Any, *, low_memory: bool = False):
        self.net, self.low_memory = net, low_memory

    def forward(self, x: np.ndarray, rng: np.random.Generator) -> Any:
        from ...layer import Mode

        self.x, mode = x, Mode(train=True, keep=True, rng=rng, low_memory=self.low_memory)
        y, self.cache = self.net.forward(x, mode)
        return y

    def backward(self, dy: Any) -> None:
        self.net.backward(dy, self.x, self.cache, need_dx=False)


def training(net: Any, task: Task, passes_of: Any) -> Calls:
    """A training step as a user would write it. passes_of: Replay or LayerByLayer, which runs its passes."""
    from ...backend import arena
    from ...layers.loss import total_loss
    from ...training.optim import SGD

    x, labels = batch_of(net, task["batch"])
    optimiser = SGD(net, 0.01, momentum=0.9, weight_decay=1e-4)
    low_memory = task.get("low_memory", False)
    passes = passes_of(net, low_memory=low_memory)

    def step(x: np.ndarray = x, labels: np.ndarray = labels, passes: Any = passes) -> Any:
        y = passes.forward(x, np.random.default_rng(0))
        loss, dy = total_loss(y, labels, net.aux_weight, 0.0)
        passes.backward(dy)
        optimiser.step()
        return loss

    def warm() -> None:
        step(x[:2], labels[:2], passes_of(net, low_memory=low_memory))
        arena.trim()

    return warm, step


def torch(task: Task) -> Calls:
    """The same calls with PyTorch, in channels_last memory; the side "inductor" compiles the model."""
    import torch

    from ...models import create_model
    from .peers import to_torch

    torch.set_num_threads(task["threads"])
    net = create_model(task["name"], preset=task["preset"])
    images, labels = batch_of(net, task["batch"])
    model: Any = to_torch(net, images.shape)
    model = model.to(memory_format=torch.channels_last)
    aux_weight = net.aux_weight
    del net
    x = torch.from_numpy(images).permute(0, 3, 1, 2)  # NHWC in memory: channels last
    t = torch.from_numpy(labels)
    infers, compiled = task["task"] == "infer", task["side"] == "inductor"
    model.train(not infers)
    if compiled:
        from torch._inductor import config

        # Global: as one of torch.compile's options it comes too late to fuse convolutions with what follows them.
        config.freezing = infers
        model = torch.compile(model, dynamic=False, fullgraph=True)
    if infers:

        def infer() -> Any:
            with torch.inference_mode():
                return model(x)

        return infer, infer
    loss_of = torch.nn.functional.cross_entropy
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)

    def step(x: Any = x, t: Any = t) -> Any:
        y = model(x)
        logits, aux = y if isinstance(y, tuple) else (y, {})
        loss: Any = loss_of(logits, t) + sum(aux_weight * loss_of(a, t) for a in aux.values())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    def warm() -> None:
        if compiled:  # for another batch it would be compiled anew
            step()
            ctypes.CDLL(None).malloc_trim(0)  # give back what the step kept, so that the next one's memory is seen
        else:
            step(x[:2], t[:2])

    return warm, step


def graph_of(task: Task) -> tuple[bytes, np.ndarray]:
    """The network as an ONNX model, and its images (N, C, H, W)."""
    from ...models import create_model
    from ..export.network import to_onnx

    net = create_model(task["name"], preset=task["preset"])
    x, _ = batch_of(net, task["batch"])
    graph = to_onnx(net, x.shape, layout="NCHW").SerializeToString()
    return graph, np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def onnxruntime(task: Task) -> Calls:
    """The same calls with ONNX Runtime's CPU provider, inference only."""
    import onnxruntime

    graph, x = graph_of(task)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    call = lambda: session.run(None, {"images": x})  # noqa: E731
    return call, call


def openvino(task: Task) -> Calls:
    """The same calls with OpenVINO's CPU plugin, inference only."""
    import openvino

    graph, x = graph_of(task)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": task["threads"]}
    settings["INFERENCE_PRECISION_HINT"] = "f32"  # its default is bfloat16 where the processor has it
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    call = lambda: compiled(x)  # noqa: E731
    return call, call


SIDES = {"ours": ours, "torch": torch, "inductor": torch, "onnxruntime": onnxruntime, "openvino": openvino}


def measure(task: Task) -> dict[str, Any]:
    """Call one side for task["seconds"], or task["repeats"] times where that ends first; three times at least."""
    warm, call = SIDES[task["side"]](task)
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

"""The first minute on a device: every kernel is compiled, then one network's step is captured and compared.

    python tests/gpu/smoke.py

Prints one line of JSON: seconds and errors of compiling every source with all its options, in as many processes as
there are cores (CuPy keeps the results on disk for the stages to come); and for each network in TF32 and the first in
bf16 the losses of three eager steps, and how many numbers of the weights differ from those of three captured ones,
which should be none.
"""

import concurrent.futures
import json
import os
import time

import numpy as np
from bench import IMAGES, captured_step, dataset, model
from dry import DRY, cupy, small
from test_cuda_sources import SOURCES, variants
from training_step import eager_step

from inception_np import SGD
from inception_np.backend import device as backend
from inception_np.data.batches import augment, normalise
from inception_np.data.random import stream
from inception_np.kernels.cuda import launch
from inception_np.layer import vectors

MODELS = small(["inception_v3_cifar", "xception_cifar", "inception_v1_cifar"], ["inception_v1_cifar"])
BATCH = small(64, 2)


def compile_one(source, options):
    begin = time.time()
    try:
        for kernel in launch.declarations(source):
            if DRY:
                launch.text(source)
            else:
                launch.function(source, kernel, options)
        return source, options, time.time() - begin, ""
    except Exception as error:
        return source, options, time.time() - begin, f"{type(error).__name__}: {error}"[:3000]


def compile_all():
    work = [(source, options) for source in SOURCES for options in variants(source, 90)]
    begin = time.time()
    with concurrent.futures.ProcessPoolExecutor(min(len(work), os.cpu_count() or 1)) as pool:
        done = list(pool.map(compile_one, *zip(*work, strict=True)))
    errors = [(source, options, error) for source, options, _, error in done if error]
    return {"variants": len(work), "seconds": time.time() - begin, "errors": errors[:4]}


def eager_steps(name, number):
    """The same steps one operation at a time: losses, weights."""
    images, labels = dataset()
    net = model(name, device="cuda")
    optimiser = SGD(net, 0.05, momentum=0.9, nesterov=True)
    order = np.random.default_rng(1).permutation(IMAGES)
    losses = []
    for i in range(number):
        index = order[i * BATCH % IMAGES :][:BATCH]
        x = normalise(augment(images[index], 4, (120,) * 3, stream(0, "augment", i)), (120,) * 3, (60,) * 3)
        losses.append(eager_step(net, optimiser, x, labels[index], stream(0, "dropout", i))[1])
    return losses, backend.asarray(vectors(net)[0], "cpu")


def step(name, precision):
    captured, _ = captured_step(name, BATCH, precision)  # three steps
    got = backend.asarray(vectors(captured.net)[0], "cpu")
    losses, wanted = eager_steps(name, 3)
    return {
        "eager losses": losses,
        "finite": bool(np.isfinite(got).all()),
        "differing": int((got != wanted).sum()),
        "of": got.size,
        "largest difference": float(np.abs(got - wanted).max()),
    }


def main():
    module = cupy()
    report = {"compile": compile_all()}
    module.cuda.runtime.deviceSynchronize()
    runs = {name: (name, "tf32") for name in MODELS} | {f"{MODELS[0]} bf16": (MODELS[0], "bf16")}
    for run, (name, precision) in runs.items():
        begin = time.time()
        try:
            report[run] = step(name, precision)
        except Exception as error:
            report[run] = {"error": f"{type(error).__name__}: {error}"[:3000]}
        report[run]["seconds"] = time.time() - begin
    report["good"] = not report["compile"]["errors"] and all(
        report[run].get("finite") and not report[run].get("differing") for run in runs
    )
    print(json.dumps(report))


if __name__ == "__main__":
    main()

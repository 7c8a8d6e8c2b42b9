"""One visit to a machine with a GPU, in one command and under ten minutes:

    python tests/gpu/check.py --minutes 9 --output gpu.json

The file is written after every stage, each of which has its share of the time:

    device      versions, what nvidia-smi says, the speed of copies and of TF32 products (the ceilings)
    tests       pytest -m gpu
    memcheck    compute-sanitizer's memcheck and racecheck over small launches of every kernel
    bench       bench.py: seconds per step against PyTorch
    kernels     every convolution of inception_v3_cifar at batch 256: seconds, TFLOP/s, and the ten slowest

The clocks, the driver's settings and the device itself are left as they are. Needs CuPy, PyTorch and pytest with
hypothesis. Written without a GPU at hand: not run on a device yet.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHARES = {"device": 0.1, "tests": 0.25, "memcheck": 0.15, "bench": 0.4, "kernels": 0.1}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--stages", nargs="+", choices=list(SHARES), default=list(SHARES))
    args = parser.parse_args()
    report = {"begun": time.strftime("%Y-%m-%d %H:%M:%S"), "stages": {}}
    os.environ.setdefault("CUPY_CACHE_DIR", str(args.output.resolve().parent / "cupy_cache"))
    for name in args.stages:
        begun = time.time()
        limit = 60 * args.minutes * SHARES[name]
        found = STAGES[name](limit)
        report["stages"][name] = {"seconds": round(time.time() - begun, 1), **found}
        args.output.write_text(json.dumps(report, indent=2) + "\n")
        print(f"{name}: {'good' if found.get('good') else 'NOT GOOD'} in {time.time() - begun:.0f} s", file=sys.stderr)
    return 0 if all(stage.get("good") for stage in report["stages"].values()) else 1


def run(command, limit, **environment):
    """Run a command for at most `limit` seconds: whether it succeeded, and the end of what it said."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(HERE)]), **environment}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, timeout=limit, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return {"good": done.returncode == 0, "said": done.stdout[-6000:]}
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
        return {"good": False, "said": said[-6000:] + f"\nstopped after {limit:.0f} s"}
    except OSError as error:
        return {"good": False, "said": str(error)}


def python(code_or_file, limit, *args, **environment):
    """Run a Python program whose last line is a JSON document, and put that into what is found."""
    found = run([sys.executable, *code_or_file, *args], limit, **environment)
    try:
        found["result"] = json.loads(found["said"].strip().splitlines()[-1])
        del found["said"]
    except (ValueError, IndexError):
        found["good"] = False
    return found


def device(limit):
    found = python(["-c", DEVICE], limit)
    asked = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"
    found["nvidia-smi"] = run(["nvidia-smi", f"--query-gpu={asked}", "--format=csv"], 20)["said"]
    found["host"] = {"python": platform.python_version(), "cpus": os.cpu_count()}
    return found


def tests(limit):
    found = run([sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--durations=10"], limit, HYPOTHESIS_PROFILE="dev")
    found["good"] &= " passed" in found["said"]  # all skipped is not good
    return found


def memcheck(limit):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return {"good": False, "said": "compute-sanitizer is not on PATH"}
    found = {"good": True}
    for tool in ("memcheck", "racecheck"):
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", "-q", "-x"]
        command += ["-m", "gpu", "tests/test_cuda_kernels.py", "-k", "tensor_cores or kernels_numbers"]
        found[tool] = run(command, limit / 2, HYPOTHESIS_PROFILE="dev")
        found["good"] &= found[tool]["good"] and " passed" in found[tool]["said"]
    return found


def bench(limit):
    output = HERE / "bench.json"
    output.unlink(missing_ok=True)
    minutes = str(limit / 60 - 1)
    found = run(
        [sys.executable, str(HERE / "bench.py"), "--minutes", minutes, "--output", str(output)],
        limit,
        INCEPTION_NP_TF32="1",
    )
    found["rows"] = json.loads(output.read_text()) if output.exists() else []
    found["good"] = any("ours" in row["seconds"] for row in found["rows"])
    return found


def kernels(limit):
    return python(["-c", KERNELS], limit, INCEPTION_NP_TF32="1")


DEVICE = """
import json, cupy, torch
def milliseconds(f, n=20):
    f(); f()
    a, b = cupy.cuda.Event(), cupy.cuda.Event()
    a.record()
    for _ in range(n): f()
    b.record(); b.synchronize()
    return cupy.cuda.get_elapsed_time(a, b) / n
x, y = cupy.random.random(1 << 28, dtype='f'), cupy.empty(1 << 28, 'f')
copy = 2 * x.nbytes / milliseconds(lambda: cupy.copyto(y, x)) / 1e6
torch.set_float32_matmul_precision('high')
products = {}
for m, n, k in [(8192, 8192, 8192), (65536, 64, 576), (65536, 96, 864), (16384, 192, 768)]:
    a, b = torch.randn(m, k, device='cuda'), torch.randn(k, n, device='cuda')
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(3): a @ b
    start.record()
    for _ in range(20): a @ b
    end.record(); end.synchronize()
    products[f'{m}x{n}x{k}'] = 2 * m * n * k * 20 / start.elapsed_time(end) / 1e9
p = cupy.cuda.runtime.getDeviceProperties(0)
print(json.dumps({'name': p['name'].decode(), 'multiprocessors': p['multiProcessorCount'],
    'runtime': cupy.cuda.runtime.runtimeGetVersion(), 'driver': cupy.cuda.runtime.driverGetVersion(),
    'cupy': cupy.__version__, 'torch': torch.__version__, 'copy_GB_s': copy, 'tf32_product_TFLOP_s': products}))
"""

KERNELS = """
import json, time, cupy, numpy as np
from inception_np import Mode, SGD, create_model
from inception_np.kernels.cuda import launch
events, real = [], launch.launch
def timed(source, kernel, grid, *args, options=()):
    a, b = cupy.cuda.Event(), cupy.cuda.Event()
    a.record(); real(source, kernel, grid, *args, options=options); b.record()
    windows = [x for x in args if isinstance(x, tuple)]
    events.append((source, kernel, windows[0] if windows else None, args, a, b))
import importlib, pkgutil, inception_np.kernels.cuda as folder
for m in pkgutil.iter_modules(folder.__path__):
    module = importlib.import_module(f'{folder.__name__}.{m.name}')
    if getattr(module, 'launch', None) is real and m.name != 'launch': module.launch = timed
net = create_model('inception_v3_cifar', aux=False, device='cuda')
x = cupy.random.standard_normal((256, 32, 32, 3), dtype='f')
for _ in range(3):
    events.clear()
    y, cache = net.forward(x, Mode(train=True, keep=True, rng=np.random.Generator(np.random.Philox(0))))
    net.backward(y, x, cache, into=False)
    SGD(net, 0.1).step()
cupy.cuda.runtime.deviceSynchronize()
total, rows = {}, []
for source, kernel, window, args, a, b in events:
    ms = cupy.cuda.get_elapsed_time(a, b)
    name = f'{source}:{kernel}'
    count, sum_ms = total.get(name, (0, 0))
    total[name] = count + 1, sum_ms + ms
    if source == 'conv.cu':
        n, h, w, c, oh, ow, kh, kw = window[:8]
        o = args[next(i for i, a in enumerate(args) if isinstance(a, tuple)) + 1]
        flop = 2 * n * oh * ow * kh * kw * c * o
        rows.append({'kernel': kernel, 'window': window, 'out': o, 'ms': ms, 'TFLOP_s': flop / ms / 1e9})
rows.sort(key=lambda r: -r['ms'])
print(json.dumps({'launches': len(events), 'by_kernel': total, 'slowest': rows[:10]}))
"""

STAGES = {"device": device, "tests": tests, "memcheck": memcheck, "bench": bench, "kernels": kernels}

if __name__ == "__main__":
    sys.exit(main())

"""One visit to a machine with a GPU, in one command and under ten minutes:

    python tests/gpu/check.py --minutes 9 --output visit

The report visit/gpu.json is written after every stage, and a short one is printed last. Each stage has a limit, and
what it does not use is left to those after it:

    device      versions, what nvidia-smi says, the speed of copies and of TF32 products (the ceilings)
    smoke       smoke.py: every kernel is compiled; a captured step of three networks equals the eager one
    bench       bench.py: seconds per step, ours and PyTorch eager and in a CUDA graph
    profile     kernel_times.py: microseconds of each kernel in a step
    tests       pytest -m gpu
    compile     bench.py: PyTorch compiled
    bf16        bench.py: both with activations in bfloat16
    sanitizer   compute-sanitizer's memcheck and racecheck over few_launches.py
    counters    ncu over the convolutions of few_launches.py
    training    inception-np train on CIFAR-10, where INCEPTION_NP_DATA says that it is

With --dry-run everything runs on the CPU, with the stand-ins of the tests and tiny sizes: the same lines, no figures.
The clocks, the driver's settings and the device itself are left as they are. Needs CuPy, PyTorch, ml_dtypes and
pytest with hypothesis.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NETWORKS = ["inception_v3_cifar", "xception_cifar"]
LIMITS = {  # seconds
    "device": 40,
    "smoke": 120,
    "bench": 120,
    "profile": 60,
    "tests": 180,
    "compile": 150,
    "bf16": 120,
    "sanitizer": 160,
    "counters": 60,
    "training": 480,
}
GPU_TESTS = [
    "tests/test_cuda_kernels.py",
    "tests/test_cuda_graph.py",
    "tests/gpu/test_device.py",
    "tests/gpu/test_shards.py",
]


class Visit:
    """What the stages share: where files go, how long there is, and whether it is a dry run."""

    def __init__(self, folder: Path, seconds: float, dry: bool, train: str):
        self.folder, self.until, self.dry, self.train = folder, time.time() + seconds, dry, train

    def run(self, name, command, limit, **environment):
        """Run a command with its log in the folder: whether it succeeded, and the end of what it said."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests", HERE])), **environment}
        env |= {"INCEPTION_NP_DRY": "1" if self.dry else "0", "PYTHONUNBUFFERED": "1"}
        env.setdefault("CUPY_CACHE_DIR", "/tmp/inception_np_cupy_cache")
        log = self.folder / "log.txt"
        limit = min(limit, self.until - time.time())
        with log.open("a") as output:
            output.write(f"\n==== {name}: {' '.join(map(str, command))}\n")
            output.flush()
            begin = output.tell()
            try:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                return {"good": False, "said": str(error)}
            try:
                code = process.wait(max(1, limit))
            except subprocess.TimeoutExpired:
                code = f"stopped after {limit:.0f} s"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has begun
        said = log.read_bytes()[begin:].decode(errors="replace")
        return {"good": code == 0, "code": code, "said": said[-3000:]}

    def python(self, name, args, limit, output=None, **environment):
        """Run a Python program that writes JSON, to `output` in the folder or as its last line."""
        args = [*args, "--output", self.folder / output] if output else args
        found = self.run(name, [sys.executable, *map(str, args)], limit, **environment)
        try:
            text = (self.folder / output).read_text() if output else found["said"].strip().splitlines()[-1]
            found["result"] = json.loads(text)
            if found["good"]:
                del found["said"]
        except (OSError, ValueError, IndexError):
            found["good"] = False
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--output", type=Path, default=Path("visit"))
    parser.add_argument("--stages", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--train", default="--model speednet_cifar", help="what to train, and how")
    parser.add_argument("--commit", help="of this tree, where the git folder beside it is that of another")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    visit = Visit(args.output.resolve(), 60 * args.minutes, args.dry_run, args.train)
    report = {"begun": time.strftime("%Y-%m-%d %H:%M:%S"), "commit": args.commit or commit(), "stages": {}}
    for name in args.stages:
        begun = time.time()
        try:
            found = (
                STAGES[name](visit, LIMITS[name]) if visit.until - begun > 10 else {"good": False, "said": "no time"}
            )
        except Exception as error:  # the stages to come may still do
            found = {"good": False, "said": f"{type(error).__name__}: {error}"}
        report["stages"][name] = {"seconds": round(time.time() - begun, 1), **found}
        (args.output / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
        print(f"{name}: {'good' if found.get('good') else 'NOT GOOD'} in {time.time() - begun:.0f} s", flush=True)
    print(json.dumps(brief(report)))
    return 0 if all(stage.get("good") for stage in report["stages"].values()) else 1


def commit():
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def brief(report):
    """What fits into the last lines of a terminal: of each stage what it found, without logs of what was good."""
    short = {}
    for name, stage in report["stages"].items():
        stage = {k: v for k, v in stage.items() if k != "said" or not stage["good"]}
        if isinstance(stage.get("result"), dict):
            networks = {k: v for k, v in stage["result"].items() if isinstance(v, dict)}
            stage["result"] = {**stage["result"], **{k: without_rows(v) for k, v in networks.items()}}
        if "said" in stage:
            stage["said"] = stage["said"][-1200:]
        short[name] = stage
    return short


def without_rows(found):
    return {k: v for k, v in found.items() if k not in ("slowest", "by kernel")}


def device(visit, limit):
    if visit.dry:
        found = {"good": True, "result": {"name": "none: a dry run"}}
    else:
        found = visit.python("device", ["-c", DEVICE], limit)
    asked = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"
    found["nvidia-smi"] = visit.run("smi", ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], 20)["said"]
    found["host"] = {"python": platform.python_version(), "cpus": os.cpu_count()}
    return found


def smoke(visit, limit):
    found = visit.python("smoke", [HERE / "smoke.py"], limit)
    found["good"] = found["good"] and found["result"]["good"]
    return found


def bench(visit, limit, name="bench", rivals=("ours", "eager", "eager graph"), batches=("256", "512")):
    args = [HERE / "bench.py", "--minutes", limit / 60, "--rivals", *rivals]
    args += ["--models", *NETWORKS, "--batches", *batches] if not visit.dry else ["--models", "inception_v1_cifar"]
    args += ["--batches", "2"] if visit.dry else []
    found = visit.python(name, args, limit, f"{name}.json")
    found["good"] = found["good"] and all(row["seconds"] and not row["errors"] for row in found["result"])
    return found


def compiled(visit, limit):
    return bench(visit, limit, "compile", ("ours", "compile"))


def bf16(visit, limit):
    return bench(visit, limit, "bf16", ("ours bf16", "eager graph bf16", "compile bf16"))


def profile(visit, limit):
    models, batch = (["inception_v1_cifar"], 2) if visit.dry else (NETWORKS, 256)
    args = [HERE / "kernel_times.py", "--models", *models, "--batch", batch]
    return visit.python("profile", args, limit, "kernels.json")


def tests(visit, limit):
    command = [sys.executable, "-m", "pytest", "-m", "gpu", *GPU_TESTS, "-v", "--tb=short", "-W", "default"]
    command += ["--maxfail=60"]
    command += ["-p", "no:cacheprovider", "-p", "no:benchmark"]
    try:
        import xdist  # noqa: F401

        command += ["-n", "8"]
    except ImportError:
        pass
    found = visit.run("tests", command, limit, HYPOTHESIS_PROFILE="visit")
    found["good"] = found["good"] and (visit.dry or " passed" in found["said"])  # all skipped is not good
    lines = (visit.folder / "log.txt").read_text(errors="replace").splitlines()
    found["failed"] = sorted({line for line in lines if line.startswith(("FAILED ", "ERROR "))})[:60]
    return found


def sanitizer(visit, limit):
    tool = shutil.which("compute-sanitizer")
    if tool is None and not visit.dry:
        return {"good": False, "said": "compute-sanitizer is not on PATH"}
    found = {"good": True}
    for check in ("memcheck", "racecheck"):
        command = [] if visit.dry else [tool, "--tool", check, "--error-exitcode", "9"]
        command += [sys.executable, str(HERE / "few_launches.py")]
        found[check] = visit.run(check, command, limit / 2)
        found["good"] = found["good"] and found[check]["good"]
    return found


def counters(visit, limit):
    tool = shutil.which("ncu")
    if tool is None and not visit.dry:
        return {"good": False, "said": "ncu is not on PATH"}
    command = [sys.executable, str(HERE / "few_launches.py"), "--shapes"]
    if not visit.dry:
        sections = ("SpeedOfLight", "WarpStateStats", "Occupancy", "MemoryWorkloadAnalysis")
        options = [part for section in sections for part in ("--section", section)]
        command = [tool, "--clock-control", "none", "-k", "regex:conv2d", *options, *command]
    found = visit.run("counters", command, limit)
    found["said"] = "in log.txt" if found["good"] else found["said"]
    return found


def training(visit, limit):
    limit = min(limit, visit.until - time.time() - 5)
    if not os.environ.get("INCEPTION_NP_DATA") and not visit.dry:
        return {"good": False, "said": "INCEPTION_NP_DATA is not set"}
    output = visit.folder / "run"
    data = ["--data", "cifar10", "--data-dir", os.environ.get("INCEPTION_NP_DATA", ""), "--device", "cuda"]
    options = [*data, *visit.train.split()]
    if visit.dry:
        options = ["--epochs", "1", "--train-images", "32", "--test-images", "16", "--batch-size", "8"]
    found = visit.run("training", [sys.executable, "-m", "inception_np", "train", *options, "--output", output], limit)
    with contextlib.suppress(OSError, ValueError):
        found["history"] = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    shutil.rmtree(output, ignore_errors=True)
    return found


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
versions = {}
for name in 'numpy numba triton safetensors rich matplotlib pooch PIL hypothesis xdist'.split():
    try:
        versions[name] = getattr(__import__(name), '__version__', 'there')
    except Exception as error:
        versions[name] = f'{type(error).__name__}: {error}'[:200]
print(json.dumps({'name': p['name'].decode(), 'multiprocessors': p['multiProcessorCount'],
    'runtime': cupy.cuda.runtime.runtimeGetVersion(), 'driver': cupy.cuda.runtime.driverGetVersion(),
    'nvrtc': cupy.cuda.nvrtc.getVersion(), 'cupy': cupy.__version__, 'torch': torch.__version__,
    'versions': versions, 'copy_GB_s': copy, 'tf32_product_TFLOP_s': products}))
"""

STAGES = {
    "device": device,
    "smoke": smoke,
    "bench": bench,
    "profile": profile,
    "tests": tests,
    "compile": compiled,
    "bf16": bf16,
    "sanitizer": sanitizer,
    "counters": counters,
    "training": training,
}

if __name__ == "__main__":
    sys.exit(main())

"""Files of other libraries' weights: .safetensors, Keras's .h5, PyTorch's .pth; read without running code from them."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from .data.preprocess import Preprocess
from .tensorfile import read_tensors
from .weights import State, as_numpy

# What each library feeds the networks with its weights. torchvision's were trained on pixels in -1 .. 1, which its
# models make themselves out of ImageNet's mean and deviation (transform_input). Keras says nothing about cropping.
PREPROCESS = {
    ("inception_v1", "torchvision"): Preprocess((224, 224), resize=256),
    ("inception_v3", "torchvision"): Preprocess((299, 299), resize=342),
    ("inception_v3", "timm"): Preprocess((299, 299), resize=341, interpolation="bicubic"),
    ("inception_v4", "timm"): Preprocess((299, 299), resize=341, interpolation="bicubic"),
    ("inception_resnet_v2", "timm"): Preprocess((299, 299), resize=333, interpolation="bicubic"),
    ("xception", "timm"): Preprocess((299, 299), resize=333, interpolation="bicubic"),
    ("inception_v3", "keras"): Preprocess((299, 299)),
    ("inception_resnet_v2", "keras"): Preprocess((299, 299)),
    ("xception", "keras"): Preprocess((299, 299)),
}


def imagenet_classes() -> list[str]:
    """The 1000 classes of ILSVRC 2012 in the order of all these files, by torchvision's names."""
    return Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines()


def read_weights(path: str | Path) -> State:
    """The tensors of a weights file by the names that they have there.

    .safetensors; .h5, .hdf5, .weights.h5 and .keras of Keras (needs h5py, the extra "keras");
    .pt, .pth and .bin of PyTorch, only through torch.load(weights_only=True) and only where torch
    2.10 or newer is installed (earlier ones can be made to run a file's code all the same).
    Raises ValueError of one line for another kind of file and for one that is damaged,
    FileNotFoundError where there is none, ImportError where a library is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    readers: dict[str, Callable[[Path], State]] = {
        ".safetensors": _read_safetensors,
        ".h5": _read_keras, ".hdf5": _read_keras, ".keras": _read_keras,
        ".pt": _read_torch, ".pth": _read_torch, ".bin": _read_torch,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: got a file ending in {path.suffix!r}, wanted {', '.join(readers)}")
    state = reader(path)
    if not state:
        raise ValueError(f"{path}: got a file without tensors, wanted a network's weights")
    return state


def _read_safetensors(path: Path) -> State:
    return read_tensors(path, verified=False)[0]


def _read_torch(path: Path) -> State:
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{path}: reading PyTorch's files needs torch; install it, or save the state_dict as .safetensors"
        ) from None
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 10):
        raise ImportError(f"{path}: got torch {torch.__version__}, wanted 2.10 or newer to read it")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch explains at length how to switch the check off; the first sentence is enough
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(f"{path}: PyTorch cannot read it safely ({reason})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path}: got {type(state).__name__}, wanted a state_dict of tensors")
    return {str(name): as_numpy(tensor) for name, tensor in state.items()}


SECONDS, SECONDS_PER_BYTE = 60, 1e-7  # how long HDF5 may take for a file: a minute, and that it comes over a slow line
MEMORY, MEMORY_PER_BYTE = 2 << 30, 4  # and how many bytes it may have


def _read_keras(path: Path) -> State:
    """Every data set of an HDF5 file, in the order in which its layers list them, read by another process.

    A file that makes HDF5 hang, crash or ask for all memory ends that process (see keras_file.py); Ctrl-C does, too.
    """
    size = path.stat().st_size
    seconds, memory = round(SECONDS + SECONDS_PER_BYTE * size), MEMORY + MEMORY_PER_BYTE * size
    here = [str(Path(__file__).parent.parent), *filter(None, sys.path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(here), "OPENBLAS_NUM_THREADS": "1"}  # a thread has a buffer
    with tempfile.TemporaryDirectory(prefix="inception-np-") as folder:
        target = Path(folder) / "tensors.safetensors"
        numbers = [str(2 * seconds), str(memory)]  # of its own, should we be gone; not first, for what it would say
        try:
            done = subprocess.run(  # -P: no module is taken from the working folder
                [sys.executable, "-P", "-m", f"{__package__}.keras_file", path, target, *numbers],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=env,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            reason = f"it is not done after {seconds} seconds"
        else:
            if done.returncode == 0:
                return read_tensors(target)[0]
            if done.returncode == 3:
                raise ImportError(f'{path}: reading it needs h5py; pip install "inception-np[keras]"')
            reason = done.stdout.strip().partition("\n")[0] or _death(done)
    raise ValueError(f"{path}: got a file that HDF5 cannot read ({reason}); take another copy of it")


def _death(done: subprocess.CompletedProcess) -> str:
    """How a process ended that said nothing about it."""
    if done.returncode < 0:
        return f"it crashed with {signal.Signals(-done.returncode).name}"
    last = done.stderr.strip().rpartition("\n")[2]
    return last or f"it ended with code {done.returncode}"

"""Read weights from .safetensors, Keras's files, model.json and PyTorch's .pth, running no code from a file."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .convert import as_numpy
from .tensorfile import Tensors, read_tensors, strict_json
from .tfjs_file import read_tfjs


def read_weights(path: str | Path) -> Tensors:
    """The tensors of a weights file by the names that they have there.

    .safetensors; model.json of TensorFlow.js, with the files beside it; .h5, .hdf5, .weights.h5 and .keras of Keras
    (needs h5py, the extra "keras"); .pt, .pth and .bin of
    PyTorch, only through torch.load(weights_only=True) and only where torch 2.10 or newer is installed (a file can make
    earlier ones run its code in spite of weights_only). Raises ValueError of one line for another kind of file and for
    one that is damaged, FileNotFoundError where there is none, ImportError where a library is missing.
    """
    return read_model(path)[0]


def read_model(path: str | Path) -> tuple[Tensors, Any]:
    """What `read_weights` gives, and the model's description where the file has Keras's (None elsewhere)."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    readers: dict[str, Callable[[Path], tuple[Tensors, Any]]] = {
        ".safetensors": _read_safetensors, ".json": read_tfjs,
        ".h5": _read_keras, ".hdf5": _read_keras, ".keras": _read_keras,
        ".pt": _read_torch, ".pth": _read_torch, ".bin": _read_torch,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: got a file ending in {path.suffix!r}, wanted {', '.join(readers)}")
    state, description = reader(path)
    if not state:
        raise ValueError(f"{path}: got a file without tensors, wanted a network's weights")
    return state, description


def _read_safetensors(path: Path) -> tuple[Tensors, Any]:
    return read_tensors(path, verified=False)[0], None


def _read_torch(path: Path) -> tuple[Tensors, Any]:
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
        # the first sentence says what is wrong; the rest is advice to switch the check off
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(f"{path}: PyTorch cannot read it safely ({reason})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path}: got {type(state).__name__}, wanted a state_dict of tensors")
    return {str(name): as_numpy(tensor) for name, tensor in state.items()}, None


SECONDS, SECONDS_PER_BYTE = 60, 1e-7  # how long HDF5 may take for a file: a minute, and the time to fetch it from afar
MEMORY, MEMORY_PER_BYTE = 2 << 30, 4  # how many bytes it may allocate


def _read_keras(path: Path) -> tuple[Tensors, Any]:
    """Every data set of an HDF5 file, in the order in which its layers list them, and the description of the model
    where the file has one, read by another process.

    Where a file makes HDF5 hang, crash or ask for all memory, only that process ends (see keras_file.py). Ctrl-C ends
    it too.
    """
    size = path.stat().st_size
    seconds, memory = round(SECONDS + SECONDS_PER_BYTE * size), MEMORY + MEMORY_PER_BYTE * size
    here = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(here), "OPENBLAS_NUM_THREADS": "1"}  # each has a buffer
    with tempfile.TemporaryDirectory(prefix="inception-np-") as folder:
        target = Path(folder) / "tensors.safetensors"
        # its own time limit is for the case that this process is killed; it is longer, so that ours gives the message
        limits = [str(2 * seconds), str(memory)]
        try:
            done = subprocess.run(  # -P: no module is taken from the working folder
                [sys.executable, "-P", "-m", f"{__package__}.keras_file", path, target, *limits],
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
                state, metadata = read_tensors(target)
                return state, _description(path, metadata["description"])
            if done.returncode == 3:
                raise ImportError(f'{path}: reading it needs h5py; pip install "inception-np[keras]"')
            reason = done.stdout.strip().partition("\n")[0] or _exit_reason(done)
    raise ValueError(f"{path}: got a file that HDF5 cannot read ({reason}); take another copy of it")


def _description(path: Path, text: str) -> Any:
    try:
        return strict_json(text.encode()) if text else None
    except ValueError as error:
        raise ValueError(f"{path}: the model's description: {error}; take another copy of the file") from None


def _exit_reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process ended that printed no reason."""
    if done.returncode < 0:
        return f"it crashed with {signal.Signals(-done.returncode).name}"
    last = done.stderr.strip().rpartition("\n")[2]
    return last or f"it ended with code {done.returncode}"

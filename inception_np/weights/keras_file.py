"""The tensors of a Keras file, read by HDF5 in a process of its own: `python -m inception_np.weights.keras_file`.

HDF5 is a C library that trusts what a file says about itself: a damaged file may keep it busy for ever without regard
to Ctrl-C, make it ask for all memory, or crash it. So readers.py runs this module in a process of its own, with limits:

    python -m inception_np.weights.keras_file FILE TARGET SECONDS BYTES

It writes the tensors to TARGET in the format of tensorfile.py, which holds no code. Exit code 0; or 1 and one line on
standard output that says why FILE cannot be read; or 3 where h5py is missing.
"""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

from .tensorfile import CODES, Tensors, write_tensors

LARGEST_FILE = 4 << 30  # bytes of tensors; the largest network of the family has a quarter of a GiB


def main(file: str, target: str, seconds: str, memory: str) -> int:
    """Read FILE and write TARGET. Returns the exit code."""
    try:
        import h5py  # noqa: F401
    except ImportError:
        return 3
    _limit_process(int(seconds), int(memory))
    try:
        tensors, description = keras_tensors(Path(file))
        write_tensors(target, tensors, {"description": description})
    except MemoryError:
        print(f"it asks for more than {int(memory) / 2**30:.1f} GiB of memory")
        return 1
    except Exception as error:  # whatever h5py makes of a damaged file
        print(str(error).partition("\n")[0].strip("'\"") or type(error).__name__)
        return 1
    return 0


def _limit_process(seconds: int, memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: only the timeout of the parent process limits it
        return
    for kind, most in (("RLIMIT_CPU", seconds), ("RLIMIT_AS", memory), ("RLIMIT_CORE", 0)):
        limit = getattr(resource, kind)
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))


def keras_tensors(path: Path) -> tuple[Tensors, str]:
    """(every data set of an HDF5 file, or of the one in a .keras archive, in the order in which its layers list them;
    the model's description as JSON, "" where the file has weights alone)."""
    import h5py

    source: Any = path
    description = ""
    if path.suffix.lower() == ".keras":
        with zipfile.ZipFile(path) as archive:
            for name in ("model.weights.h5", "config.json"):
                if archive.getinfo(name).file_size > LARGEST_FILE:
                    raise ValueError(f"{name} says it has {archive.getinfo(name).file_size} bytes")
            source, description = io.BytesIO(archive.read("model.weights.h5")), archive.read("config.json").decode()
    with h5py.File(source, "r") as file:
        return _tensors(file), description or _text(file.attrs.get("model_config", ""))


def _tensors(file: Any) -> Tensors:
    """Keras 3 has "layers/<class>_<k>/vars/<j>", and "layers/<class>_<k>/layers/..." where that layer is a model. In
    earlier files each layer's group lists its weights."""
    import h5py

    state: Tensors = {}
    total = 0

    def read(group: Any, name: str, key: str) -> None:
        nonlocal total
        node = group
        for part in name.split("/"):
            if not isinstance(node.get(part, getlink=True), h5py.HardLink):
                raise ValueError(f"{key} is a link, wanted a data set")
            node = node[part]
        if not isinstance(node, h5py.Dataset) or node.external or node.is_virtual:
            raise ValueError(f"{key} lies outside the file, wanted a data set in it")
        if node.shape is None or node.dtype.newbyteorder("<") not in CODES:
            raise ValueError(f"{key} holds {node.dtype}, wanted numbers")
        total += node.size * node.dtype.itemsize
        if total > LARGEST_FILE:
            raise ValueError(f"{key} brings the tensors to {total} bytes")
        state[key] = node[()]

    root = file.get("model_weights", file)
    if "layer_names" in root.attrs:
        for layer in map(_text, root.attrs["layer_names"]):
            weights = [_text(weight) for weight in root[layer].attrs["weight_names"]]
            # of the layers of a model within the model: they have the same variables
            within = len({weight.rpartition("/")[2] for weight in weights}) < len(weights)
            for weight in weights:
                read(root[layer], weight, weight if within else f"{layer}/{weight.rpartition('/')[2]}")
        return state

    def read_layers(model: Any, place: str) -> None:
        for layer in model.get("layers", ()):
            group, here = model["layers"][layer], f"{place}layers/{layer}"
            for j in sorted(group.get("vars", ()), key=lambda j: (len(j), j)):
                read(file, f"{here}/vars/{j}", f"{here}/vars/{j}")
            read_layers(group, f"{here}/")

    read_layers(file, "")
    return state


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

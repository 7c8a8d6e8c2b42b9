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
        write_tensors(target, keras_tensors(Path(file)), {})
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


def keras_tensors(path: Path) -> Tensors:
    """Every data set of an HDF5 file, or of the one in a .keras archive, in the order in which its layers list them."""
    import h5py

    source: Any = path
    if path.suffix.lower() == ".keras":
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("model.weights.h5")
            if info.file_size > LARGEST_FILE:
                raise ValueError(f"model.weights.h5 says it has {info.file_size} bytes")
            source = io.BytesIO(archive.read(info))
    with h5py.File(source, "r") as file:
        return _tensors(file)


def _tensors(file: Any) -> Tensors:
    """Keras 3 has "layers/<class>_<k>/vars/<j>". In earlier files each layer's group lists its weights."""
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
            for weight in map(_text, root[layer].attrs["weight_names"]):
                read(root[layer], weight, f"{layer}/{weight.rpartition('/')[2]}")
        return state
    for layer in file.get("layers", ()):
        variables = file["layers"][layer].get("vars", ())
        for j in sorted(variables, key=lambda j: (len(j), j)):
            read(file, f"layers/{layer}/vars/{j}", f"layers/{layer}/vars/{j}")
    return state


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

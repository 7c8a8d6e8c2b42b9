"""Files of other libraries' weights: .safetensors, Keras's .h5, PyTorch's .pth; read without running code from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .preprocess import Preprocess
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


LARGEST_FILE = 4 << 30  # bytes of tensors; the largest network of the family has a quarter of one GiB


def _read_keras(path: Path) -> State:
    """Every data set of an HDF5 file, in the order in which its layers list them."""
    try:
        import h5py
    except ImportError:
        raise ImportError(f'{path}: reading it needs h5py; pip install "inception-np[keras]"') from None
    import io
    import zipfile

    try:
        source: Any = path
        if path.suffix.lower() == ".keras":
            with zipfile.ZipFile(path) as archive:
                info = archive.getinfo("model.weights.h5")
                if info.file_size > LARGEST_FILE:
                    raise ValueError(f"model.weights.h5 says it has {info.file_size} bytes")
                source = io.BytesIO(archive.read(info))
        with h5py.File(source, "r") as file:
            return _keras_tensors(file)
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0].strip("'\"")
        raise ValueError(f"{path}: got a file that HDF5 cannot read ({reason})") from None


def _keras_tensors(file: Any) -> State:
    """Keras 3 keeps "layers/<class>_<k>/vars/<j>"; before, each layer's group lists its weights."""
    import h5py

    state: State = {}
    total = 0

    def take(group: Any, name: str, key: str) -> None:
        nonlocal total
        node = group
        for part in name.split("/"):
            if not isinstance(node.get(part, getlink=True), h5py.HardLink):
                raise ValueError(f"{key} is a link, wanted a data set")
            node = node[part]
        if not isinstance(node, h5py.Dataset) or node.external or node.is_virtual:
            raise ValueError(f"{key} lies outside the file, wanted a data set in it")
        total += node.size * node.dtype.itemsize
        if total > LARGEST_FILE:
            raise ValueError(f"{key} brings the tensors to {total} bytes")
        state[key] = node[()]

    root = file.get("model_weights", file)
    if "layer_names" in root.attrs:
        for layer in map(_text, root.attrs["layer_names"]):
            for weight in map(_text, root[layer].attrs["weight_names"]):
                take(root[layer], weight, f"{layer}/{weight.rpartition('/')[2]}")
        return state
    for layer in file.get("layers", ()):
        variables = file["layers"][layer].get("vars", ())
        for j in sorted(variables, key=lambda j: (len(j), j)):
            take(file, f"layers/{layer}/vars/{j}", f"layers/{layer}/vars/{j}")
    return state


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)

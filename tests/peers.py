"""The same networks in other libraries, with weights that both sides can draw from a tensor's name.

Random affine parameters and calibrated batch-norm statistics: with the statistics of a fresh
network the activations die out on the way, and a wrong mapping agrees to six digits.

    python tests/peers.py        writes tests/data/parity.npz, what the peers give for such weights, and
                                 keras_models.json.gz, how Keras describes its networks

The stored outputs are checked wherever the peers are not installed. To have the peers:

    pip install --no-deps torchvision==0.28.0 timm==1.0.31      (for torch 2.13)
    pip install keras h5py
"""

import gzip
import json
import os
import sys
import types
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STORED = Path(__file__).parent / "data" / "parity.npz"
DESCRIBED = STORED.with_name("keras_models.json.gz")
CLASSES = 12
OUTPUTS = {  # torchvision's names of the logits and the heads', first head first
    "inception_v3": ("logits", "aux_logits"),
    "googlenet": ("logits", "aux_logits1", "aux_logits2"),
}


@dataclass(frozen=True)
class Case:
    """One network of ours and the peer that has the same one. image: height and width."""

    name: str
    preset: str
    source: str
    peer: str
    image: tuple[int, int] = (107, 139)

    @property
    def id(self) -> str:
        return f"{self.source}-{self.peer}"


CASES = [
    Case("inception_v1", "torchvision", "torchvision", "googlenet"),
    Case("inception_v3", "torchvision", "torchvision", "inception_v3"),
    Case("inception_v3", "timm", "timm", "inception_v3"),
    Case("inception_v4", "timm", "timm", "inception_v4"),
    Case("inception_resnet_v2", "timm", "timm", "inception_resnet_v2"),
    Case("xception", "timm", "timm", "legacy_xception"),
    Case("inception_v3", "keras", "keras", "InceptionV3"),
    Case("inception_resnet_v2", "keras", "keras", "InceptionResNetV2"),
    Case("xception", "keras", "keras", "Xception"),
]


def draw(name: str, shape: tuple[int, ...], *, fan_in: int = 0) -> np.ndarray:
    """The tensor that belongs to a name: the same numbers on every side, whatever the order."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    last = name.replace("/", ".").rpartition(".")[2]
    if last in ("running_var", "moving_variance"):
        return rng.uniform(0.5, 1.5, shape)
    if last in ("running_mean", "moving_mean", "beta", "bias"):
        return 0.3 * rng.standard_normal(shape)
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if len(shape) == 1:  # gamma, torch's bn.weight
        return rng.uniform(0.5, 1.5, shape)
    return rng.standard_normal(shape) * (2 / fan_in) ** 0.5


def fan_in(shape: tuple[int, ...], source: str) -> int:
    """Inputs that one output of a kernel of this shape sums: (O, I, kh, kw) or (kh, kw, I, O)."""
    if len(shape) < 2:
        return 0
    if source == "keras":
        return int(np.prod(shape[:2])) if shape[-1] == 1 else int(np.prod(shape[:-1]))
    return int(np.prod(shape[1:]))


def drawn(shapes: dict[str, tuple[int, ...]], source: str) -> dict[str, np.ndarray]:
    """A state dict of drawn tensors."""
    return {n: draw(n, tuple(s), fan_in=fan_in(tuple(s), source)) for n, s in shapes.items()}


def pictures(case: Case, seed: int = 5) -> np.ndarray:
    """Two images (2, H, W, 3), float64."""
    return np.random.default_rng(seed).standard_normal((2, *case.image, 3))


def cotangent(shape: tuple[int, ...], seed: int = 6) -> np.ndarray:
    """A random dy, the same on every side."""
    return np.random.default_rng(seed).standard_normal(shape)


def torchvision():
    """torchvision without its compiled operators, none of which a classifier needs."""
    if "torchvision" not in sys.modules:
        import torch

        try:
            import torchvision  # a build that fits this PyTorch
        except (RuntimeError, OSError):
            for name in [n for n in sys.modules if n.startswith("torchvision")]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "DEF")
            for op in ("nms", "qnms"):
                library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            torchvision_keeps[:] = [library]
            stub = "torchvision._autograd_registrations"
            sys.modules[stub] = types.ModuleType(stub)
    import torchvision

    return torchvision


torchvision_keeps: list = []  # a torch.library.Library undoes its definitions when it dies


def timm():
    """timm, which wants torchvision."""
    torchvision()
    import timm

    return timm


def keras():
    """Keras on its torch backend, in float64."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    if keras.backend.backend() != "torch":
        raise ImportError("keras was imported with another backend")
    keras.backend.set_floatx("float64")
    # Keras follows JAX and takes float64 back to float32 wherever two types meet; let it be
    from keras.src.backend.common import dtypes

    dtypes.BIT64_TO_BIT32_DTYPE.pop("float64", None)
    return keras


def build(case: Case, *, aux: bool = False, fresh: bool = True):
    """The peer, float64, with drawn weights, in inference mode; statistics not yet calibrated."""
    if case.source == "keras":
        library = keras()
        if fresh:
            library.utils.clear_session()
        make = getattr(library.applications, case.peer)
        model = make(weights=None, classes=CLASSES, input_shape=(*case.image, 3),
                     classifier_activation=None)  # fmt: skip
        for layer in model.layers:
            if layer.weights:
                layer.set_weights([
                    draw(f"{layer.name}/{w.name}", tuple(w.shape),
                         fan_in=fan_in(tuple(w.shape), "keras"))
                    for w in layer.weights
                ])  # fmt: skip
        return model
    import torch

    if case.source == "torchvision":
        models = torchvision().models
        model = getattr(models, case.peer)(
            weights=None, num_classes=CLASSES, aux_logits=aux, init_weights=False,
            transform_input=False,
        )  # fmt: skip
    else:
        # timm builds the same v3 with a head only where asked
        extra = {"aux_logits": aux} if case.peer == "inception_v3" else {}
        model = timm().create_model(case.peer, pretrained=False, num_classes=CLASSES, **extra)
    model = model.double().eval()
    state = drawn({n: tuple(t.shape) for n, t in model.state_dict().items()}, case.source)
    model.load_state_dict({n: torch.from_numpy(np.asarray(a)) for n, a in state.items()})
    return model


def calibrate(case: Case, model, x: np.ndarray) -> None:
    """Running averages become the batch's own mean and biased variance, layer after layer."""
    if case.source == "keras":
        kinds = keras().layers.BatchNormalization
        norms = [layer for layer in model.layers if isinstance(layer, kinds)]
        for layer in norms:
            layer.momentum = 0.0
        import torch

        with torch.no_grad():
            model(torch.from_numpy(x), training=True)
        return
    import torch

    def measure(norm, inputs):
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3), unbiased=False))

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    hooks = [m.register_forward_pre_hook(measure) for m in norms]
    with torch.no_grad():
        model(torch.from_numpy(x).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()


def state(case: Case, model) -> dict[str, np.ndarray]:
    """The peer's tensors by the peer's names."""
    if case.source == "keras":
        return {f"{layer.name}/{w.name}": w.value.detach().numpy().copy()
                for layer in model.layers for w in layer.weights}  # fmt: skip
    return {n: t.detach().numpy().copy() for n, t in model.state_dict().items()}


def logits_and_dx(case: Case, model, x: np.ndarray, dy: np.ndarray):
    """Inference: y (N, classes), and the gradient of sum(y * dy) with respect to x (N, H, W, 3)."""
    import torch

    given = torch.from_numpy(x).requires_grad_()
    if case.source == "keras":
        y = model(given, training=False)
    else:
        y = model.eval()(given.permute(0, 3, 1, 2))
    (y * torch.from_numpy(dy)).sum().backward()
    return y.detach().numpy(), given.grad.numpy()


def sample(dx: np.ndarray) -> np.ndarray:
    """256 entries of a gradient and its norm: what is stored of it."""
    places = np.random.default_rng(7).choice(dx.size, 255, replace=False)
    return np.append(dx.ravel()[places], np.linalg.norm(dx))


def digest(names) -> list[int]:
    """Stands for a set of names."""
    names = sorted(names)
    return [zlib.crc32("\n".join(names).encode()), len(names)]


KEPT = ("name", "batch_shape", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups", "axis",
        "epsilon", "scale", "activation", "pool_size", "units", "keepdims", "output_layers")  # fmt: skip


def described(model: dict) -> dict:
    """A model's description as Keras gives it, without what our reading does not look at (initialisers and the like).

    What a layer reads is given in Keras's shorter form of before version 3.
    """
    from inception_np.weights.keras_config import layers_named

    entries = []
    for layer in model["config"]["layers"]:
        calls = layers_named(layer["inbound_nodes"])
        entries.append({
            "class_name": layer["class_name"],
            "config": {key: value for key, value in layer["config"].items() if key in KEPT},
            "inbound_nodes": [[[name, 0, 0, {}] for name in calls]] if calls else [],
        })  # fmt: skip
    config = {"layers": entries, "output_layers": model["config"]["output_layers"]}
    return {"class_name": "Functional", "config": config}


def write_descriptions() -> None:
    """Store how Keras describes each of its networks."""
    library = keras()
    found = {}
    for case in CASES:
        if case.source == "keras":
            library.utils.clear_session()
            model = getattr(library.applications, case.peer)(weights=None, classes=CLASSES)
            found[case.name] = described(json.loads(model.to_json()))
    with open(DESCRIBED, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
        packed.write(json.dumps(found, separators=(",", ":")).encode())


def write() -> None:
    """Ask every peer and store what it says."""
    stored = {}
    for case in CASES:
        x = pictures(case)[:1]
        dy = cotangent((1, CLASSES))
        model = build(case)
        calibrate(case, model, x)
        y, dx = logits_and_dx(case, model, x, dy)
        stored[f"{case.id}/y"], stored[f"{case.id}/dx"] = y, sample(dx)
        stored[f"{case.id}/names"] = np.array(digest(state(case, model)))
        print(case.id, "logits", y.min(), y.max(), "dx", np.linalg.norm(dx), file=sys.stderr)
    STORED.parent.mkdir(exist_ok=True)
    np.savez_compressed(STORED, **stored)


if __name__ == "__main__":
    write()
    write_descriptions()

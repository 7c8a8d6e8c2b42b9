"""The plain kernels and all above them keep to what NumPy and CuPy share: they run on a stand-in for CuPy that has
nothing else and converts nothing, and give NumPy's bits there."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import strict_cupy
from hypothesis import HealthCheck, given, settings
from on_device import gradients

from inception_np import SGD, BatchNorm, Mode, ReLU, RMSProp, create_model, list_models, softmax_cross_entropy
from inception_np.backend import device as backend
from inception_np.kernels import conv
from inception_np.layer import Layer, cast, move, named_buffers, vectors
from inception_np.models.network import smallest_image
from inception_np.testing import LAYERS, networks
from inception_np.training.evaluate import evaluate

within_test = settings(suppress_health_check=[*HealthCheck])  # the fixture is the same for every example


@pytest.fixture
def cupy(monkeypatch):
    """The stand-in as `import cupy`, and only plain kernels."""
    monkeypatch.setattr(backend, "PLAIN", True)
    return strict_cupy.pretend(monkeypatch)


def compare(case, cupy):
    """The same bits from both array modules."""
    with np.errstate(all="ignore"):
        for got, wanted in zip(gradients(case, cupy), gradients(case), strict=True):
            assert got.dtype == wanted.dtype and got.shape == wanted.shape
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_gives_the_same_bits(name, cupy):
    within_test(given(LAYERS[name])(lambda case: compare(case, cupy)))()


@within_test
@given(networks())
def test_trees_of_layers_give_the_same_bits(cupy, case):
    compare(case, cupy)


def training_step(name, device, optimizer):
    """The weights after one step of a small version of a network, and how often the CPU waited within the step."""
    # 1/32 of the channels and the smallest images: the step is about which functions are called
    net = create_model(name, width=1 / 32, num_classes=3, seed=1, device=device)
    side = smallest_image(net, heads=True)
    rng = np.random.default_rng(2)
    x = backend.asarray(rng.standard_normal((2, side, side + 1, 3), np.float32), device)
    labels = backend.asarray(np.array([0, 2]), device)
    step = optimizer(net)
    before = strict_cupy.syncs["count"]
    y, cache = net.forward(x, Mode(train=True, keep=True, rng=np.random.default_rng(3)))
    losses = {}
    if isinstance(y, tuple):
        pairs = {name: softmax_cross_entropy(logits, labels) for name, logits in y[1].items()}
        losses = {name: dlogits * net.aux_weight for name, (_, dlogits) in pairs.items()}
    loss, dy = softmax_cross_entropy(y[0] if losses else y, labels, smoothing=0.1)
    net.backward((dy, losses) if losses else dy, x, cache)
    step.step()
    waited = strict_cupy.syncs["count"] - before
    data, _ = vectors(net)
    buffers = [b.data for b in named_buffers(net).values()]
    return float(loss), [backend.asarray(a, "cpu") for a in (data, *buffers)], waited


@pytest.mark.parametrize("name", list_models())
def test_a_training_step_of_every_network_gives_the_same_bits(name, cupy):
    def optimizer(net):
        return RMSProp(net, 0.1, momentum=0.9) if "v3" in name else SGD(net, 0.1, momentum=0.9, nesterov=True)

    wanted_loss, wanted, _ = training_step(name, "cpu", optimizer)
    loss, got, waited = training_step(name, "cuda", optimizer)
    assert loss == wanted_loss
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert waited == 0, "the step waited for the device"


def test_inference_gives_the_same_bits(cupy):
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
    wanted, _ = create_model("inception_v1_cifar", width=1 / 32).forward(x, Mode())
    got, _ = create_model("inception_v1_cifar", width=1 / 32, device="cuda").forward(cupy.asarray(x), Mode())
    np.testing.assert_array_equal(got.get(), wanted)


def test_evaluation_gives_the_same_bits(cupy):
    rng = np.random.default_rng(0)
    given = rng.integers(0, 256, (5, 32, 33, 3), np.uint8), rng.integers(0, 10, 5), (127.0,) * 3, (60.0,) * 3, 3
    nets = [create_model("inception_v1_cifar", width=1 / 32, device=device) for device in ("cpu", "cuda")]
    for tta in (False, True):
        wanted, got = (evaluate(net, *given, tta=tta) for net in nets)
        assert got[:2] == wanted[:2]
        np.testing.assert_array_equal(got[2], wanted[2])


@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_is_for_a_gpu(name):
    """No layer takes it on a CPU, where its sums would be rounded at every step."""
    stored = pytest.importorskip("ml_dtypes").bfloat16

    def refused(case):
        for dtype in (np.float32, np.float64):
            with pytest.raises(TypeError, match="got an array of bfloat16, wanted an array of float32 or float64"):
                case.layer(dtype).forward(case.x(stored), case.mode())

    settings(max_examples=3)(given(LAYERS[name])(refused))()


def test_bfloat16_goes_with_weights_of_float32(cupy):
    stored = pytest.importorskip("ml_dtypes").bfloat16
    bn = BatchNorm(2)
    x = cupy.asarray(np.ones((1, 2, 3, 2), stored))
    with pytest.raises(
        TypeError,
        match=r"^BatchNorm: got x of bfloat16, wanted the weights' float64; cast\(layer, 'float32'\) changes it$",
    ):
        cast(bn, np.float64).forward(x, Mode())
    with pytest.raises(TypeError, match=r"^cast: got .*bfloat16.*, wanted float32, float64 or complex128$"):
        cast(bn, stored)


# -- the stand-in itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "misuse",
    [
        lambda cupy, x: np.asarray(x),
        lambda cupy, x: np.sum(x),
        lambda cupy, x: np.add(x, 1),
        lambda cupy, x: np.ones(3, np.float32) * x,
        lambda cupy, x: x * np.ones(3, np.float32),
        lambda cupy, x: x * np.float64(2),
        lambda cupy, x: cupy.sum(np.ones(3)),
        lambda cupy, x: bool(x.sum() > 0),
        lambda cupy, x: list(x),
        lambda cupy, x: x[[0, 1]],
        lambda cupy, x: x.__setitem__(0, np.ones(())),
        lambda cupy, x: np.einsum("i,i", x, x),
    ],
)
def test_what_cupy_refuses_is_refused(misuse, cupy):
    with pytest.raises(TypeError):
        misuse(cupy, cupy.asarray(np.arange(3, dtype=np.float32)))


@pytest.mark.parametrize("name", ["einsum_path", "errstate", "random", "broadcast_arrays_of_mine", "vecdot"])
def test_what_cupy_has_not_is_not_there(name, cupy):
    with pytest.raises(AttributeError):
        getattr(cupy, name)


def test_a_layer_that_calls_numpy_is_caught(cupy):
    class Wrong(Layer):
        def forward(self, x, mode):
            return np.maximum(x, 0), None

    with pytest.raises(TypeError, match=r"numpy\.maximum"):
        Wrong().forward(cupy.asarray(np.ones(3, np.float32)), Mode())


def test_sums_are_arrays_and_views_know_their_base(cupy):
    x = cupy.asarray(np.ones((2, 3), np.float32))
    assert type(x.sum()) is strict_cupy.ndarray and x.sum().shape == ()
    assert x[0].reshape(3, 1).base is x and x.base is None
    assert (x + 1).base is None


def test_bfloat16_is_a_dtype_like_others(cupy):
    stored = pytest.importorskip("ml_dtypes").bfloat16
    wide = np.float32([[1, 1 + 2**-8, 1 + 3 * 2**-8, -2.5, np.inf, np.nan]])
    x = cupy.asarray(wide).astype(stored)
    np.testing.assert_array_equal(x.astype(np.float32).get(), [[1, 1, 1 + 4 * 2**-8, -2.5, np.inf, np.nan]])
    for a in (x, x.copy(), x[:, 1:], cupy.asarray(x.get()), cupy.zeros((2, 3), stored), x.reshape(2, 3), x.sum(0)):
        assert type(a) is strict_cupy.ndarray and a.dtype == stored and a.itemsize == 2
    assert x[:, 1:].base is x
    assert np.isnan(cupy.empty((2, 3), stored).get().astype(np.float32)).all(), "what nobody has written"
    x[:, :3] = cupy.asarray(wide[:, 3:])  # rounded as it is stored
    np.testing.assert_array_equal(x.get().astype(np.float32), [[-2.5, np.inf, np.nan, -2.5, np.inf, np.nan]])


def test_names_exist_in_cupy():
    real = pytest.importorskip("cupy", reason="CuPy is not installed: nothing to compare the stand-in's names with")
    for name in strict_cupy.FUNCTIONS:
        assert hasattr(real, name), f"cupy.{name}"
    for name in strict_cupy.METHODS + strict_cupy.ATTRIBUTES:
        assert hasattr(real.ndarray, name) and hasattr(np.ndarray, name), f"ndarray.{name}"


# -- devices -------------------------------------------------------------------------------------------------------


def test_cuda_without_a_gpu_is_one_line_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(backend, "_no_cuda", lambda: "no CUDA device was found")
    with pytest.raises(backend.DeviceError, match=r"^cuda: no CUDA device was found; use --device cpu$") as error:
        create_model("inception_v1_cifar", device="cuda")
    assert "\n" not in str(error.value)
    assert backend.resolve_device("auto") == "cpu"
    assert backend.resolve_device("cpu") == "cpu"


def test_auto_takes_a_gpu_that_answers(cupy):
    assert backend.resolve_device("auto") == backend.resolve_device("cuda") == "cuda"


def test_a_device_of_another_name_is_refused():
    with pytest.raises(ValueError, match="wanted"):
        backend.resolve_device("gpu")


# -- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "tf32", "bf16"])
def test_the_precision_decides_whether_tensor_cores_are_taken(name, cupy, monkeypatch):
    monkeypatch.setattr(backend, "PLAIN", False)
    monkeypatch.setattr(backend, "precision", "tf32")  # what it is, and to be so again
    backend.set_precision(name)
    assert backend.precision == name
    x = np.ones((2, 2), np.float32)
    assert backend.on_tensor_cores(cupy.asarray(x)) == (name != "float32") == conv.fits_tensor_cores(x)
    assert not backend.on_tensor_cores(x), "a CPU has none"


def test_a_precision_of_another_name_is_refused():
    before = backend.precision
    with pytest.raises(ValueError, match=r"^precision: got 'fp16', wanted \"float32\", \"tf32\" or \"bf16\"$"):
        backend.set_precision("fp16")
    assert backend.precision == before


def test_bf16_without_its_package_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    before = backend.precision
    with pytest.raises(backend.DeviceError, match=r"^bf16: ml_dtypes is not installed; pip install ml_dtypes, or "):
        backend.set_precision("bf16")
    assert backend.precision == before


def test_a_gpu_without_such_tensor_cores_is_refused_unless_they_are_not_asked_for(cupy, monkeypatch):
    old = SimpleNamespace(compute_capability="75")
    monkeypatch.setattr(cupy.cuda, "Device", lambda: old)
    monkeypatch.setattr(backend, "precision", "tf32")
    with pytest.raises(
        backend.DeviceError, match=r"^cuda: got a GPU of compute capability 7\.5, tf32 needs 8\.0; use "
    ):
        move(ReLU(), "cuda")
    monkeypatch.setattr(backend, "precision", "float32")
    move(ReLU(), "cuda")
    monkeypatch.setattr(backend, "precision", "tf32")
    old.compute_capability = "120"  # 12.0
    move(ReLU(), "cuda")

"""Every kernel and its twins have one signature, and the array decides which of them runs."""

import inspect
import pkgutil
from importlib import import_module
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import strict_cupy
from numerics import plain

from inception_np import kernels
from inception_np.backend import device as backend
from inception_np.backend.program import Capture
from inception_np.kernels import dispatch as dispatch_module
from inception_np.kernels import elementwise, lrn
from inception_np.kernels.dispatch import dispatch


def dispatched():
    """Every kernel of the package by file and name."""
    found = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        if not module.ispkg:
            whole = import_module(f"{kernels.__name__}.{module.name}")
            for name, f in vars(whole).items():
                if hasattr(f, "conditions") and f.__module__ == whole.__name__:
                    found[f"{module.name}.{name}"] = f
    return found


def faults(found):
    """What is wrong with the twins of kernels: {"folder/file.name": what}."""
    wrong = {}
    for path, kernel in found.items():
        wanted = list(inspect.signature(plain(kernel)).parameters)
        for folder, condition in kernel.conditions.items():
            if condition is False:
                continue
            file, name = path.split(".")
            twin = getattr(import_module(f"{kernels.__name__}.{folder}.{file}"), name, None)
            if twin is None:
                wrong[f"{folder}/{path}"] = "missing"
            elif list(inspect.signature(twin).parameters) != wanted:
                wrong[f"{folder}/{path}"] = f"{list(inspect.signature(twin).parameters)}, wanted {wanted}"
            elif not inspect.getdoc(twin):
                wrong[f"{folder}/{path}"] = "does not say what it gains"
    return wrong


def test_every_twin_has_its_kernels_arguments_in_their_order():
    found = dispatched()
    assert len(found) > 20
    assert faults(found) == {}


def test_a_twin_with_other_arguments_is_caught(monkeypatch):
    """Arguments in another order, one more, none of that name, and one that says nothing."""
    from inception_np.kernels.cpu import elementwise as cpu

    def swapped(y, dy, add):
        """Fast."""

    def silent(x, scale, out): ...

    monkeypatch.setattr(cpu, "relu_dx", swapped)
    monkeypatch.setattr(cpu, "scaled", silent)
    monkeypatch.setattr(cpu, "relu", lambda x, out, more: None)
    monkeypatch.delattr(cpu, "copy")
    wanted = {"cpu/elementwise." + name for name in ("relu_dx", "scaled", "relu", "copy")}
    assert set(faults(dispatched())) == wanted


def test_a_public_function_of_a_twins_file_is_a_kernel_or_used_elsewhere():
    """No twin that is never called: the kernel was renamed, say."""
    found = dispatched()
    for path, kernel in found.items():
        file, name = path.split(".")
        for folder, condition in kernel.conditions.items():
            if condition is False:
                module = import_module(f"{kernels.__name__}.{folder}.{file}") if _exists(folder, file) else None
                assert not hasattr(module, name), f"{folder}/{path} exists, and is never chosen"


def _exists(folder, file):
    return file in [m.name for m in pkgutil.iter_modules(import_module(f"{kernels.__name__}.{folder}").__path__)]


# -- which one runs ------------------------------------------------------------------------------------------------


@pytest.fixture
def chosen(monkeypatch):
    """A kernel whose twins say their names and arguments, and the body too."""
    monkeypatch.setattr(backend, "PLAIN", False)

    def says(name):
        return lambda *values: (name, *values)

    modules = {folder: SimpleNamespace(kernel=says(folder)) for folder in ("cpu", "cpu64", "cuda")}
    monkeypatch.setattr("inception_np.kernels.dispatch.import_module", lambda path: modules[path.split(".")[-2]])

    def kernel(x, b, n=3, *, into=None, flag):
        return "body", x, b, n, into, flag

    return SimpleNamespace(kernel=kernel, cupy=strict_cupy.pretend(monkeypatch))


def names(result):
    return result[0]


def test_the_first_array_decides(chosen, monkeypatch):
    kernel = dispatch(chosen.kernel)
    x, wide = np.ones(3, np.float32), np.ones(3)
    assert names(kernel(x, None, flag=1)) == "cpu"
    assert names(kernel(wide, None, flag=1)) == "body"
    assert names(kernel(x, wide, flag=1)) == "body", "an array among the others is float64"
    assert names(kernel(x, None, into=wide, flag=1)) == "body"
    assert names(kernel(x, np.arange(3), flag=1)) == "cpu", "labels are integers"
    assert names(kernel(x[:0], None, flag=1)) == "body", "there is nothing to compute"
    assert names(kernel(chosen.cupy.asarray(x), None, flag=1)) == "cuda"
    assert names(kernel(chosen.cupy.asarray(wide), None, flag=1)) == "body"
    assert names(kernel([chosen.cupy.asarray(x)], None, flag=1)) == "cuda"
    assert names(kernel([x], None, flag=1)) == "cpu"
    monkeypatch.setattr(backend, "PLAIN", True)
    assert names(kernel(x, None, flag=1)) == names(kernel(chosen.cupy.asarray(x), None, flag=1)) == "body"


def chooses_doubles(dispatch, many, chosen):
    """Kernels that do float64 get many numbers of it, and nothing else."""
    kernel, x = dispatch(double=True)(chosen.kernel), np.ones(many)
    assert names(kernel(x, None, flag=1)) == names(kernel([x], x[:3], into=x, flag=1)) == "cpu64"
    assert names(kernel(x[1:], None, flag=1)) == "body", "few numbers are not worth loading a compiler"
    assert names(kernel(x, x.astype(np.float32), flag=1)) == "body"
    assert names(kernel(x.astype(np.float32), x, flag=1)) == "body"
    assert names(kernel(x, x + 0j, flag=1)) == names(kernel(x + 0j, None, flag=1)) == "body", "a complex step"
    assert names(kernel(x, x[:0], flag=1)) == "body"
    assert names(kernel(x.astype(np.float32), None, flag=1)) == "cpu"
    assert names(dispatch(chosen.kernel)(x, None, flag=1)) == "body", "it does not say double=True"
    assert names(dispatch(cpu=lambda n: n > 3, double=True)(chosen.kernel)(x, None, flag=1)) == "body"
    with mock.patch.object(backend, "PLAIN", True):
        assert names(kernel(x, None, flag=1)) == "body"


def test_float64_is_for_kernels_that_say_so(chosen):
    chooses_doubles(dispatch, dispatch_module.MANY, chosen)


@pytest.mark.parametrize(
    "fault", [("= double and", "="), (">= MANY", "> MANY"), ("first.dtype == np.float64", "first.dtype.kind in 'fc'")]
)
def test_a_dispatch_that_sends_float64_elsewhere_is_caught(fault, chosen):
    text = inspect.getsource(dispatch_module)
    assert text.count(fault[0]) == 1
    spoiled = dict(vars(dispatch_module))
    exec(text.replace(*fault), spoiled)
    spoiled["import_module"] = dispatch_module.import_module
    with pytest.raises(AssertionError):
        chooses_doubles(spoiled["dispatch"], dispatch_module.MANY, chosen)


def refuses_bfloat16(dispatch, chosen):
    """No kernel of the CPU takes it, which would read nonsense, and no plain one, which would round at every step."""
    x, kernel = np.ones(3, pytest.importorskip("ml_dtypes").bfloat16), dispatch(chosen.kernel)
    near = chosen.cupy.asarray(x)
    assert names(kernel(near, None, flag=1)) == "cuda"
    one = np.ones(3, np.float32)
    for args, into in (((x, None), None), ((one, x), None), ((np.ones(3), x), None), ((one, None), x)):
        with pytest.raises(
            TypeError, match="kernel: got an array of bfloat16, for which it has no kernel; use float32"
        ):
            kernel(*args, into=into, flag=1)
    with mock.patch.object(backend, "PLAIN", True), pytest.raises(TypeError, match="got an array of bfloat16"):
        kernel(near, None, flag=1)


def test_bfloat16_is_for_kernels_on_a_gpu(chosen):
    refuses_bfloat16(dispatch, chosen)


@pytest.mark.parametrize("fault", [('in "fcV"', 'in "fc"'), ('== "V"', '== "v"')], ids=str)
def test_a_dispatch_that_lets_bfloat16_through_is_caught(fault, chosen):
    pytest.importorskip("ml_dtypes")
    text = inspect.getsource(dispatch_module)
    assert text.count(fault[0]) == 1
    spoiled = dict(vars(dispatch_module))
    exec(text.replace(*fault), spoiled)
    spoiled["import_module"] = dispatch_module.import_module
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        refuses_bfloat16(spoiled["dispatch"], chosen)


def test_twins_get_all_arguments_by_position(chosen):
    kernel = dispatch(chosen.kernel)
    x = np.ones(3, np.float32)
    given = chosen.cupy.asarray(x)
    for a, name in ((x, "cpu"), (given, "cuda")):
        assert kernel(a, 1, flag=2) == (name, a, 1, 3, None, 2)
        assert kernel(a, n=5, b=4, flag=2) == (name, a, 4, 5, None, 2)
        assert kernel(a, 1, 2, flag=0, into=None) == (name, a, 1, 2, None, 0)
    assert kernel(np.ones(1), n=5, b=4, flag=2)[2:] == (4, 5, None, 2)


@pytest.mark.parametrize(
    ("args", "keywords", "message"),
    [
        ((1,), {"flag": 0}, "missing a required argument: 'b'"),
        ((1, 2), {}, "missing a required.* argument: 'flag'"),
        ((1, 2, 3, 4), {"flag": 0}, "too many positional"),
        ((1, 2), {"flag": 0, "flags": 0}, "unexpected keyword argument 'flags'"),
    ],
)
def test_wrong_arguments_are_refused_whoever_runs(chosen, args, keywords, message):
    for x in (np.ones(3, np.float32), np.ones(3), chosen.cupy.ones(3, np.float32)):
        with pytest.raises(TypeError, match=message):
            dispatch(chosen.kernel)(x, *args[1:], **keywords)


def test_a_twin_may_ask_for_more(chosen):
    x = np.ones(3, np.float32)
    given = chosen.cupy.asarray(x)
    kernel = dispatch(cpu=lambda n: n > 3, gpu=lambda flag, b: flag and b)(chosen.kernel)
    assert [names(kernel(x, 1, n, flag=0)) for n in (3, 4)] == ["body", "cpu"]
    assert [names(kernel(given, b, flag=1)) for b in (0, 1)] == ["body", "cuda"]
    none = dispatch(cpu=False, gpu=False)(chosen.kernel)
    assert names(none(x, 1, flag=0)) == names(none(given, 1, flag=0)) == "body"
    with pytest.raises(ValueError, match="'channels' is not in list"):
        dispatch(cpu=lambda channels: True)(chosen.kernel)


def test_whoever_asked_hears_that_numpy_does_the_work(chosen):
    """But not of a body that calls kernels itself, nor of what a GPU does."""
    x = np.ones(3, np.float32)
    some = dispatch(cpu=lambda n: n > 3)(chosen.kernel)
    for kernel, a, n, wanted in (
        (some, x, 4, True), (some, x, 3, False), (some, np.ones(3), 4, False), (some, chosen.cupy.asarray(x), 3, True),
        (dispatch(cpu=False)(chosen.kernel), x, 4, True),
    ):  # fmt: skip
        with Capture() as capture:
            kernel(a, 1, n, flag=0)
        assert capture.complete is wanted


def test_a_kernel_keeps_its_name_text_and_signature():
    assert lrn.lrn.__name__ == "lrn" and "channel window" in lrn.lrn.__doc__
    assert list(inspect.signature(elementwise.relu).parameters) == ["x", "out"]

"""The captured training step: a launch does what the step does eagerly, bit for bit, with new images, crops, masks and
learning rates each time. On the CPU the graph is a tape (strict_cupy); `pytest -m gpu` captures a real one."""

import contextlib
import dataclasses
from collections import Counter
from types import SimpleNamespace

import host_cuda
import numpy as np
import pytest
import strict_cupy
from training_step import eager_step

import inception_np as ip
from inception_np import SGD, Mode, RMSProp
from inception_np.backend import device as backend
from inception_np.backend.errors import StoppedError
from inception_np.data import batches, dataset
from inception_np.data.random import stream
from inception_np.kernels.cuda import conv, launch, side_stream
from inception_np.kernels.elementwise import add_to, relu
from inception_np.kernels.loss import add_totals
from inception_np.layer import move, named_buffers, vectors, walk
from inception_np.models.network import Network
from inception_np.runtime import graph as cuda_graph
from inception_np.runtime.graph import CapturedStep
from inception_np.training import fits, loop, results
from inception_np.training.average import Lookahead, MovingAverage
from inception_np.training.options import Options
from inception_np.training.state import newest_state, options_of

on_host = pytest.mark.skipif(bool(host_cuda.missing), reason=host_cuda.missing or "g++ is here")
MEAN, STD = (100.0, 120.0, 90.0), (60.0, 50.0, 70.0)


def stand_in(monkeypatch):
    """CuPy's stand-in, with the CUDA kernels compiled for the CPU."""
    monkeypatch.setattr(backend, "PLAIN", False)
    monkeypatch.setattr(backend, "precision", "tf32")
    host_cuda.on_host(monkeypatch)
    return strict_cupy.pretend(monkeypatch)


@pytest.fixture(params=[pytest.param("host", marks=on_host), pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request, monkeypatch):
    if request.param == "host":
        return stand_in(monkeypatch)
    monkeypatch.setattr(backend, "PLAIN", False)
    monkeypatch.setattr(backend, "precision", "tf32")
    return pytest.importorskip("cupy")


def small_network(classes=5):
    """A little of everything that the networks are made of."""
    rng = np.random.default_rng(0)
    stage = ip.Concat(
        b1=ip.ConvBNReLU(8, 4, 1, rng=rng),
        b3=ip.Sequential(ip.ConvReLU(8, 5, 1, rng=rng), ip.ConvBNReLU(5, 8, 3, rng=rng)),
        pool=ip.Sequential(ip.AvgPool2D(3, stride=1, pad=1), ip.Conv2D(8, 4, 1, rng=rng)),
    )
    residual = ip.Residual(ip.SeparableConv2D(16, 16, 3, rng=rng), scale=0.5)
    trunk = ip.Sequential(
        stem=ip.ConvBNReLU(3, 8, 3, stride=2, rng=rng),
        lrn=ip.LRN(),
        mixed=stage,
        residual=residual,
        down=ip.MaxPool2D(2),
        gap=ip.GlobalAvgPool2D(),
        drop=ip.Dropout(0.5),
        logits=ip.Linear(16, classes, rng=rng),
    )
    head = ip.Sequential(ip.GlobalAvgPool2D(), ip.Dropout(0.25), ip.Linear(16, classes, rng=rng))
    return Network(trunk, {"mixed": head})


def optimisers(net, name):
    if name == "sgd":
        return SGD(net, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    return RMSProp(net, 0.1, momentum=0.9)


def images():
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (12, 8, 6, 3), np.uint8), rng.integers(0, 5, 12)


def steps(number):
    for i in range(number):
        yield i, stream(0, "shuffle", i).permutation(12)[:4], 0.1 / (i + 1)


def state(net, optimiser, average=None):
    arrays = [vectors(net)[0], *optimiser.state.values(), *(b.data for b in named_buffers(net).values())]
    arrays += average.means if average else []
    return [backend.asarray(a, "cpu").copy() for a in arrays]


def told(number):
    return np.arange(4) % 3 == number % 3


def eager(name, device, number, clip=0.0, ema=0.0, mirrored=lambda i: None):
    """The steps one operation at a time, as `train` takes them.

    Returns the state, the loss, how many were right, and the norms of the gradients.
    """
    pictures, classes = images()
    net = small_network()
    if device == "cuda":
        move(net, "cuda")
    optimiser = optimisers(net, name)
    norms = [layer for _, layer in walk(net) if isinstance(layer, ip.BatchNorm)]
    average = MovingAverage(net, ema) if ema else None
    loss_sum, right, lengths = 0.0, 0, []
    for i, index, lr in steps(number):
        x = batches.augment(pictures[index], 2, MEAN, stream(0, "augment", i), mirrored=mirrored(i))
        x = batches.normalise(x, MEAN, STD)
        for k, layer in enumerate(norms):
            layer.decay = 0.5 + 0.1 * i + 0.01 * k
        optimiser.lr, rng = lr, stream(0, "dropout", i)
        y, loss, length = eager_step(net, optimiser, x, classes[index], rng, smoothing=0.1, clip=clip or np.inf)
        if average:
            average.update()
        lengths.append(length)
        loss_sum += loss * len(index)
        right += int((backend.asarray(y[0], "cpu").astype(np.float32).argmax(1) == classes[index]).sum())
    return state(net, optimiser, average), loss_sum, right, lengths


def captured(name, number, clip=0.0, ema=0.0, mirrored=lambda i: None):
    net = move(small_network(), "cuda")
    optimiser = optimisers(net, name)
    average = MovingAverage(net, ema) if ema else None
    for mean in average.means if average else ():
        mean += 0.5  # not what they average
    before = state(net, optimiser, average)
    more = {"smoothing": 0.1, "clip": clip, "average": average}
    step = CapturedStep(net, optimiser, *images(), 4, mean=MEAN, std=STD, pad=2, **more)
    for a, b in zip(state(net, optimiser, average), before, strict=True):
        np.testing.assert_array_equal(a, b, "capturing a step trained the network")
    assert step.totals() == (0, 0)
    if average:
        assert average.updates == 0
        for mean, array in zip(average.means, average.arrays, strict=True):
            mean[...] = array
    norms = [layer for _, layer in walk(net) if isinstance(layer, ip.BatchNorm)]
    for i, index, lr in steps(number):
        optimiser.lr = lr
        for k, layer in enumerate(norms):
            layer.decay = 0.5 + 0.1 * i + 0.01 * k
        optimiser.data *= 1  # on the null stream, as anybody may between steps
        step(index, crops=stream(0, "augment", i), dropout=stream(0, "dropout", i), mirrored=mirrored(i))
        if average:
            assert average.updates == i + 1
            with average.in_place():  # as for a test between steps
                np.testing.assert_array_equal(optimiser.data.get(), average.means[0].get())
    return state(net, optimiser, average), *step.totals()


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_graph_equals_eager_bit_for_bit(name, cupy):
    wanted, loss, right, _ = eager(name, "cuda", 3)
    got, graph_loss, graph_right = captured(name, 3)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert graph_right == right
    assert graph_loss == pytest.approx(loss, rel=1e-6)


def test_graph_in_bfloat16_equals_eager_bit_for_bit(cupy, monkeypatch):
    """Activations are of bfloat16, weights and losses of float32; without any scaling they stay near those of TF32."""
    pytest.importorskip("ml_dtypes")
    near, near_loss, *_ = eager("sgd", "cuda", 3)
    monkeypatch.setattr(backend, "precision", "bf16")
    seen = set()
    record = lambda y, *others: (seen.add((y.dtype.name, others[1].dtype.name)), add_totals(y, *others))  # noqa: E731
    monkeypatch.setattr(cuda_graph, "add_totals", record)
    wanted, loss, right, _ = eager("sgd", "cuda", 3)
    got, graph_loss, graph_right = captured("sgd", 3)
    assert seen == {("bfloat16", "float64")}
    for a, b, c in zip(got, wanted, near, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)
        assert 0 < np.abs(a - c).max() <= 0.1 * np.abs(c).max()
    assert graph_right == right
    assert graph_loss == pytest.approx(loss, rel=1e-6)
    assert graph_loss == pytest.approx(near_loss, rel=3e-2)


@on_host
def test_what_counts_blocks_is_not_of_the_steps_own_memory(monkeypatch):
    """It is kept for as long as the process: a step that is dropped must not leave all its memory behind."""
    cupy = stand_in(monkeypatch)
    there = []
    using = lambda allocator: (there.append(len(launch._tickets)), contextlib.nullcontext())[1]  # noqa: E731
    monkeypatch.setattr(cupy.cuda, "using_allocator", using)
    captured("sgd", 1)
    assert there == [len(launch._tickets)] and there[0] > 0


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_graph_that_clips_and_averages_equals_eager_bit_for_bit(name, cupy):
    limit = sorted(eager(name, "cuda", 3)[-1])[1]
    how = {"clip": limit, "ema": 0.15}  # the first two updates are by their number, the third is by this decay
    wanted, loss, right, lengths = eager(name, "cuda", 3, **how)
    assert min(lengths) < limit < max(lengths), "a limit that acts always or never shows little"
    got, graph_loss, graph_right = captured(name, 3, **how)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert graph_right == right
    assert graph_loss == pytest.approx(loss, rel=1e-6)


def test_graph_mirrors_the_images_it_is_told_to(cupy):
    wanted, loss, *_ = eager("sgd", "cuda", 3, mirrored=told)
    got, graph_loss, _ = captured("sgd", 3, mirrored=told)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert graph_loss == pytest.approx(loss, rel=1e-6)
    by_chance, *_ = captured("sgd", 3)
    assert any((a != b).any() for a, b in zip(by_chance, wanted, strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_shows_in_the_losses(value, cupy):
    """Scaled by clip / infinity, the rest of it is 0."""
    net = move(small_network(), "cuda")
    optimiser, backward, bad = optimisers(net, "sgd"), net.backward, cupy.zeros((1,), np.float32)

    def planted(*args, **keywords):
        backward(*args, **keywords)
        start = optimiser.grad[3:4]
        start += bad

    net.backward = planted
    step = CapturedStep(net, optimiser, *images(), 4, mean=MEAN, std=STD, clip=1.0)
    for i, number in enumerate((0.0, value, 0.0)):
        bad[...] = number
        step(np.arange(4), crops=None, dropout=stream(0, "dropout", i))
        assert np.isfinite(step.totals()[0]) == (i < 2)


def test_steps_on_the_device_are_those_of_the_cpu(cupy, monkeypatch):
    """Same seed, same weights, batches, crops and masks: only TF32's rounding lies between them."""
    with monkeypatch.context() as plain:
        plain.setattr(backend, "PLAIN", True)
        wanted, loss, *_ = eager("sgd", "cpu", 3)
    got, graph_loss, _ = captured("sgd", 3)
    for a, b in zip(got, wanted, strict=True):
        assert np.abs(a - b).max() <= 2e-2 * np.abs(b).max()
    assert graph_loss == pytest.approx(loss, rel=1e-3)


@on_host
@pytest.mark.parametrize("waiting", ["the null stream for the step", "the step for the null stream"])
def test_a_step_that_nobody_waits_for_is_found(waiting, monkeypatch):
    """The weights are read between steps on the null stream, and the optimiser may write them there."""
    stand_in(monkeypatch)
    wanted, *_ = eager("sgd", "cuda", 2)
    wait = strict_cupy.Stream.wait_event

    def forgetful(self, event):
        if (self is strict_cupy.Stream.null) != (waiting == "the null stream for the step"):
            wait(self, event)

    monkeypatch.setattr(strict_cupy.Stream, "wait_event", forgetful)
    with pytest.raises(AssertionError):
        got, *_ = captured("sgd", 2)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


@on_host
@pytest.mark.parametrize("fault", ["nobody waits", "nothing is held", "dy is overwritten", "nothing is summed"])
def test_gradients_of_weights_that_come_late_are_found(fault, monkeypatch):
    """They have a stream beside the step's. The stand-in runs it as late as it may, and forgets what nobody holds."""
    cupy = stand_in(monkeypatch)
    wanted, *_ = eager("sgd", "cuda", 2)
    if fault == "nobody waits":
        monkeypatch.setattr(cupy.cuda, "Event", lambda **_: SimpleNamespace(record=lambda stream: None))
        monkeypatch.setattr(strict_cupy.Stream, "wait_event", lambda self, event: None)
    elif fault == "nothing is held":
        another = cupy.zeros((1,), np.float32)
        monkeypatch.setattr(conv, "on_side_stream", lambda *arrays: side_stream.on_side_stream(another))
    elif fault == "nothing is summed":
        monkeypatch.setattr(side_stream._Side, "flush", lambda self: self.sums.clear())
    else:
        on_side_stream = side_stream.on_side_stream

        @contextlib.contextmanager
        def careless(x, dy):
            with on_side_stream(x, dy):
                yield
            dy *= 2

        monkeypatch.setattr(conv, "on_side_stream", careless)
    with pytest.raises(AssertionError):
        got, *_ = captured("sgd", 2)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("fault", [None, "one launch for what overlaps"])
def test_sums_wait_for_others_but_not_for_what_they_add_to(fault, cupy, monkeypatch):
    """A layer used twice adds twice to one gradient, others to a slice of it: never in one launch, which races."""
    launched, sum_parts = [], side_stream.sum_parts
    record = lambda *jobs: (launched.append(jobs), sum_parts(*jobs))  # noqa: E731
    monkeypatch.setattr(side_stream, "sum_parts", record)
    if fault:
        monkeypatch.setattr(side_stream, "_overlap", lambda a, b: False)
    rng = np.random.default_rng(0)
    x, dy = (cupy.asarray(rng.standard_normal((2, 20, 20, 4)).astype(np.float32)) for _ in range(2))
    gradients = [cupy.zeros((5, 1, 4, 4), np.float32) for _ in range(2)]

    def backward(v):
        for dw in (v[:1], v[4:], v[2:3], v[2:3], v[1:4], v[4:]):
            conv.conv2d_dw(x, dy, dw.reshape(len(dw), 1, 4, 4), (1, 1), ((0, len(dw) - 1), (0, 0)), (1, 1), 1)

    backward(gradients[0])
    assert [len(jobs) for jobs in launched] == [1] * 6
    for most, held, wanted in ((100, 2**28, [3, 1, 2]), (2, 2**28, [2, 1, 1, 2]), (100, 0, [1] * 6)):
        monkeypatch.setattr(side_stream, "JOBS", most)
        monkeypatch.setattr(side_stream, "HELD", held)
        launched.clear()
        gradients[1][...] = 0
        stream = cupy.cuda.Stream(non_blocking=True)
        with side_stream.side_stream(stream):
            backward(gradients[1])
        if fault:
            assert [len(jobs) for jobs in launched] == [6], "then it is this that the next line would see"
            return
        assert [len(jobs) for jobs in launched] == wanted
        np.testing.assert_array_equal(*(v.get() for v in gradients))


def after_a_step(trunk, capture, classes):
    """The weights of a network on the device after one step, captured or one operation at a time."""
    net = move(Network(trunk, {}), "cuda")
    optimiser, pictures = optimisers(net, "sgd"), images()[0]
    if capture:
        step = CapturedStep(net, optimiser, pictures, classes, 4, mean=MEAN, std=STD)
        step(np.arange(4), crops=None, dropout=stream(0, "dropout", 0))
    else:
        eager_step(net, optimiser, batches.normalise(pictures[:4], MEAN, STD), classes[:4])
    return backend.asarray(vectors(net)[0], "cpu")


def test_a_convolution_used_twice_in_a_captured_step_has_both_gradients(cupy):
    weights = []
    for capture in (False, True):
        rng = np.random.default_rng(0)
        twice = ip.ConvBNReLU(4, 4, 3, rng=rng)
        trunk = ip.Sequential(ip.Conv2D(3, 4, 3, rng=rng), twice, ip.MaxPool2D(2), twice, ip.GlobalAvgPool2D())
        weights.append(after_a_step(trunk, capture, images()[1] % 4))
    np.testing.assert_array_equal(*weights)


class Overwriting(ip.Layer):
    """ReLU whose backward makes dx where y was, the array that the next layer has for x."""

    def forward(self, x, mode, out=None):
        y = relu(x)
        return y, [y]

    def backward(self, dy, x, cache, into=None, need_dx=True):
        y = cache.pop()
        y *= 0
        y += dy * (x > 0)
        return add_to(into, y)


@pytest.mark.parametrize("seen", [True, False])
def test_a_layer_of_ones_own_may_overwrite_what_it_was_given(seen, cupy, monkeypatch):
    """Then nothing runs beside the backward pass; if that is not seen, the numbers are wrong on the stand-in."""
    if not seen:
        if cupy.ndarray is not strict_cupy.ndarray:
            pytest.skip("a device may be in time")
        monkeypatch.setattr(cuda_graph, "_all_ours", lambda net: True)
    weights = []
    for capture in (False, True):
        rng = np.random.default_rng(0)
        layers = {"first": ip.Conv2D(3, 4, 3, rng=rng), "own": Overwriting(), "second": ip.Conv2D(4, 5, 3, rng=rng)}
        weights.append(after_a_step(ip.Sequential(**layers, gap=ip.GlobalAvgPool2D()), capture, images()[1]))
    assert (weights[0] == weights[1]).all() == seen


def test_a_network_without_convolutions_can_be_captured(cupy):
    """Nothing runs beside its backward pass, and nothing is waited for there."""
    trunk = ip.Sequential(norm=ip.BatchNorm(3), gap=ip.GlobalAvgPool2D())
    net = move(Network(trunk, {}), "cuda")
    optimiser = optimisers(net, "sgd")
    step = CapturedStep(net, optimiser, images()[0], images()[1] % 3, 4, mean=MEAN, std=STD, pad=2)
    before = state(net, optimiser)[0]
    step(np.arange(4), crops=None, dropout=stream(0, "dropout", 0))
    assert (state(net, optimiser)[0] != before).any()


@pytest.mark.long
@pytest.mark.parametrize("name", ip.list_models("*_cifar"))
def test_the_graph_of_every_network_equals_its_eager_step(name, cupy, monkeypatch):
    """Whatever a layer keeps, shares or overwrites: launches beside others read what they should."""
    weights = []
    for capture in (False, True):
        net = ip.create_model(name, width=1 / 32, num_classes=3, seed=1, device="cuda")
        rng = np.random.default_rng(0)
        pictures, classes = rng.integers(0, 256, (3, 32, 32, 3), np.uint8), rng.integers(0, 3, 3)
        optimiser = optimisers(net, "sgd")
        if capture:
            step = CapturedStep(net, optimiser, pictures, classes, 2, mean=MEAN, std=STD, pad=2)
        for i in range(2):
            index = np.arange(2) + i
            rng = stream(0, "dropout", i)
            if capture:
                step(index, crops=None, dropout=rng)
            else:
                eager_step(net, optimiser, batches.normalise(pictures[index], MEAN, STD), classes[index], rng)
        weights.append(backend.asarray(vectors(net)[0], "cpu"))
    np.testing.assert_array_equal(*weights)


def test_three_runs_give_the_same_bits(cupy):
    first, *others = (captured("sgd", 2)[0] for _ in range(3))
    for other in others:
        assert [a.tobytes() for a in first] == [a.tobytes() for a in other]


def test_a_step_that_waits_for_the_device_cannot_be_captured(cupy, monkeypatch):
    net = move(small_network(), "cuda")
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda x, mode: (float(x.sum()), forward(x, mode))[1])
    with pytest.raises(Exception, match=r"(?i)captur"):
        CapturedStep(net, optimisers(net, "sgd"), *images(), 4, mean=MEAN, std=STD)
    if hasattr(cupy, "zeros") and cupy.ndarray is strict_cupy.ndarray:
        assert strict_cupy.Tape.recording is None, "the stream was left in capture"


def test_a_unit_keeps_its_result_on_a_gpu_unless_memory_is_low(cupy, monkeypatch):
    """Made again in backward or kept, y has the same bits; kept, batch norm runs once for each layer."""
    function, launched, gradients = launch.function, [], []
    monkeypatch.setattr(launch, "function", lambda s, kernel, o: (launched.append(kernel), function(s, kernel, o))[1])
    for low_memory in (False, True):
        net = move(small_network(), "cuda")
        x = cupy.asarray(np.random.default_rng(2).standard_normal((4, 8, 6, 3)).astype(np.float32))
        (y, heads), cache = net.forward(x, Mode(train=True, keep=True, rng=stream(0, "dropout"), low_memory=low_memory))
        net.backward((y, heads), x, cache, need_dx=False)
        gradients.append(vectors(net)[1].get())
        launched.append(None)
    kept, again = (part.count("batch_norm") for part in (launched[: launched.index(None)], launched))
    assert kept == sum(isinstance(layer, ip.BatchNorm) for _, layer in walk(net)) < again - kept
    np.testing.assert_array_equal(*gradients)


def launches_counted(monkeypatch):
    """CuPy's stand-in with kernels that do nothing, and the list of what is launched."""
    monkeypatch.setattr(backend, "PLAIN", False)
    monkeypatch.setattr(backend, "precision", "tf32")
    monkeypatch.setattr(launch, "_tickets", {})
    nothing, launched = lambda blocks, threads, arguments: strict_cupy.change(lambda: None), []
    monkeypatch.setattr(launch, "function", lambda source, kernel, options: (launched.append(kernel), nothing)[1])
    return strict_cupy.pretend(monkeypatch), launched


@pytest.mark.parametrize("name", ip.list_models("*_cifar"))
def test_the_step_of_every_network_can_be_captured(name, monkeypatch):
    """Nothing in it waits, copies from the host, or calls cuBLAS, which CuPy's captures refuse."""
    cupy, launched = launches_counted(monkeypatch)

    def cublas(*args):
        raise AssertionError("a product went to cuBLAS")

    monkeypatch.setattr(strict_cupy.ndarray, "__matmul__", cublas)
    monkeypatch.setattr(cupy, "matmul", cublas)
    net = ip.create_model(name, width=1 / 16, num_classes=10, device="cuda")
    pictures = np.zeros((8, 32, 32, 3), np.uint8), np.zeros(8, np.int64)
    more = {"clip": 1.0, "average": MovingAverage(net, 0.9)}
    step = CapturedStep(net, optimisers(net, "sgd"), *pictures, 2, mean=MEAN, std=STD, **more)
    for kernel in ("sum_squares", "clip_norm", "move_averages"):
        assert launched.count(kernel) == 2, f"{kernel}: once before the capture and once in it, for all arrays"
    convolutions = sum(isinstance(layer, ip.Conv2D) for _, layer in walk(net))
    assert step.graph.operations < 12 * convolutions, "more launches than a step should need"


def test_a_step_is_few_launches(monkeypatch):
    """Six for a convolution with batch norm and ReLU, and little else."""
    _, launched = launches_counted(monkeypatch)
    net = ip.create_model("inception_v3_cifar", width=1 / 32, num_classes=10, aux=False, device="cuda")
    pictures = np.zeros((8, 32, 32, 3), np.uint8), np.zeros(8, np.int64)
    step = CapturedStep(net, optimisers(net, "sgd"), *pictures, 2, mean=MEAN, std=STD)
    found = Counter(launched[len(launched) // 2 :])  # the step was taken once before it was captured
    units = sum(isinstance(layer, ip.ConvBNReLU) for _, layer in walk(net))
    passes = {"conv2d": 1, "conv2d_dx": 0, "conv2d_dw": 1}  # the first needs no dx; and the logits' product
    passes |= {"batch_norm": 0, "batch_norm_sums": 0, "batch_norm_dx": 0}
    assert {kernel: found[kernel] - units for kernel in passes} == passes
    assert found["sum_parts"] == found["sum_rows"] == 1
    assert step.graph.operations == sum(found.values()) <= 600, found


def one_copy_and_no_launch_of_its_own():
    """For a step whose numbers have all changed."""
    net = move(small_network(), "cuda")
    optimiser, norms = optimisers(net, "sgd"), [norm for _, norm in walk(net) if isinstance(norm, ip.BatchNorm)]
    step = CapturedStep(net, optimiser, *images(), 4, mean=MEAN, std=STD, average=MovingAverage(net, 0.9))
    for i, index, lr in steps(3):
        begun, copies = strict_cupy.Stream.begun, strict_cupy.copies["count"]
        optimiser.lr = lr
        for k, norm in enumerate(norms):
            norm.decay = 0.5 + 0.1 * i + 0.01 * k
        step(index, crops=stream(0, "augment", i), dropout=stream(0, "dropout", i))
        assert strict_cupy.copies["count"] == copies + 1
        assert strict_cupy.Stream.begun == begun, "the null stream has work"


@on_host
def test_a_step_is_one_copy_and_one_launch(monkeypatch):
    stand_in(monkeypatch)
    one_copy_and_no_launch_of_its_own()


@on_host
@pytest.mark.parametrize("fault", ["a decay on the device", "two copies"])
def test_a_step_that_copies_or_launches_more_is_found(fault, monkeypatch):
    cupy = stand_in(monkeypatch)
    if fault == "two copies":
        place = cuda_graph.position
        monkeypatch.setattr(cuda_graph, "position", lambda rng: (cupy.asarray(place(rng)[0]).get(), 0))
    else:
        assign, there = ip.BatchNorm.decay.fset, cupy.zeros((1,))
        both = lambda norm, value: (assign(norm, value), there.fill(value))  # noqa: E731
        monkeypatch.setattr(ip.BatchNorm, "decay", property(ip.BatchNorm.decay.fget, both))
    with pytest.raises(AssertionError):
        one_copy_and_no_launch_of_its_own()


@pytest.mark.parametrize("number", ["learning rate", "averages' rate", "a norm's decay", "every norm's decay"])
def test_a_number_that_was_recorded_is_found(number, cupy, monkeypatch):
    """The tests above would see a number that the graph keeps instead of reading it."""
    if cupy.ndarray is not strict_cupy.ndarray:
        pytest.skip("one look at the stand-in is enough")
    wanted, *_ = eager("sgd", "cuda", 2, ema=0.9)
    init = CapturedStep.__init__

    def recorded(self, net, optimiser, *args, average, **kwargs):
        norm = net.trunk.layers["stem"].bn
        if number == "a norm's decay":
            norm.averages = lambda: (norm.mean.data, norm.var.data, cupy.full((1,), 0.5))
        elif number == "every norm's decay":
            monkeypatch.setattr(cuda_graph, "walk", lambda net: [])
        elif number == "learning rate":
            optimiser.step = lambda step=optimiser.step: (setattr(optimiser, "lr", 0.1), step())
        else:
            average.move = lambda rate, move=average.move: move(0.9)
        init(self, net, optimiser, *args, average=average, **kwargs)

    monkeypatch.setattr(CapturedStep, "__init__", recorded)
    got, *_ = captured("sgd", 2, ema=0.9)
    assert any((a != b).any() for a, b in zip(got, wanted, strict=True))


def test_without_tensor_cores_the_step_is_refused(cupy, monkeypatch):
    monkeypatch.setattr(backend, "precision", "float32")
    net = move(small_network(), "cuda")
    with pytest.raises(backend.DeviceError, match='got precision "float32"'):
        CapturedStep(net, optimisers(net, "sgd"), *images(), 4, mean=MEAN, std=STD)


def shrunk(whole):
    """A data set with images of 8 x 6 pixels."""
    small = {name: getattr(whole, name)[:, 2::4, 3::5].copy() for name in ("train_images", "test_images")}
    return dataclasses.replace(whole, **small)


def trained(folder, device, monkeypatch, steps=None, **more):
    """A short run of `train` on a network as small as this file's; with steps, stopped there and taken up again."""
    monkeypatch.setattr(fits, "create_model", lambda name, device, **options: move(small_network(10), device))
    monkeypatch.setattr(results, "save", lambda net, path, about: None)  # small_network has no name to save it by
    monkeypatch.setattr(loop, "load", lambda *args, **sizes: shrunk(dataset.load(*args, **sizes)))
    more = {"precision": "tf32" if device == "cuda" else "float32", **more}
    options = Options(epochs=2, train_images=20, test_images=10, batch_size=4, lr=0.05, device=device, **more)
    if steps:
        with monkeypatch.context() as stopping:
            done = loop.Run.train_step

            def train_step(self, index):
                done(self, index)
                if (self.epoch, self.step + 1) == (1, steps):
                    self.step += 1
                    self.stop(15)

            stopping.setattr(loop.Run, "train_step", train_step)
            with pytest.raises(StoppedError):
                loop.train(folder, options)
        line = loop.train(folder, options, resume=True)
    else:
        line = loop.train(folder, options)
    return line, newest_state(folder)[0]


MORE = pytest.mark.parametrize(
    "more",
    [{}, {"clip": 1.0, "ema": 0.9}, {"lookahead": True}, {"pad": 1, "cutout": 3, "flip": "alternating"}],
    ids=["plain", "clip and ema", "lookahead", "images"],
)


@MORE
def test_train_takes_the_captured_step(more, cupy, monkeypatch, tmp_path):
    launched = []
    call = CapturedStep.__call__
    monkeypatch.setattr(CapturedStep, "__call__", lambda self, *a, **k: (launched.append(1), call(self, *a, **k))[1])
    line, weights = trained(tmp_path / "cuda", "cuda", monkeypatch, **more)
    assert len(launched) == 10
    with monkeypatch.context() as plain:
        plain.setattr(backend, "PLAIN", True)
        wanted, cpu_weights = trained(tmp_path / "cpu", "cpu", monkeypatch, **more)
    assert "train_total_loss" not in line  # the graph adds up the total alone, and train_loss is that
    assert line["train_loss"] == pytest.approx(wanted["train_total_loss"], rel=2e-2)
    for name, values in cpu_weights.items():
        assert np.abs(weights[name] - values).max() <= 0.1 * np.abs(values).max(), name


def launches(folder, monkeypatch):
    """Of a run with --flip alternating that is stopped and taken up: [(image, is it mirrored?), ..] of the launches."""
    found, call = [], CapturedStep.__call__

    def launch(self, index, *, mirrored=None, **streams):
        found.extend(zip(index.tolist(), mirrored.tolist(), strict=True))
        call(self, index, mirrored=mirrored, **streams)

    with monkeypatch.context() as recording:
        recording.setattr(CapturedStep, "__call__", launch)
        _, weights = trained(folder, "cuda", recording, steps=3, flip="alternating")
    return found, weights


def test_a_captured_run_that_alternates_shows_every_image_both_ways_and_resumes_with_the_same_bits(
    cupy, monkeypatch, tmp_path
):
    found, again = launches(tmp_path / "stopped", monkeypatch)
    assert sorted(found) == [(image, mirrored) for image in range(20) for mirrored in (False, True)]
    _, weights = trained(tmp_path / "through", "cuda", monkeypatch, flip="alternating")
    for name, values in weights.items():
        np.testing.assert_array_equal(again[name], values)


@on_host
def test_launches_that_do_not_alternate_would_be_noticed(monkeypatch, tmp_path):
    """The planted fault of the test above."""
    cupy = stand_in(monkeypatch)
    monkeypatch.setattr(loop.Run, "mirrored", lambda run, index: batches.alternating(20, 0, 0)[index])
    with pytest.raises(AssertionError):
        test_a_captured_run_that_alternates_shows_every_image_both_ways_and_resumes_with_the_same_bits(
            cupy, monkeypatch, tmp_path
        )


@MORE
def test_a_captured_run_that_was_stopped_ends_with_the_same_bits(more, cupy, monkeypatch, tmp_path):
    line, weights = trained(tmp_path / "through", "cuda", monkeypatch, **more)
    resumed, again = trained(tmp_path / "stopped", "cuda", monkeypatch, steps=3, **more)
    assert {k: v for k, v in line.items() if k != "seconds"} == {k: v for k, v in resumed.items() if k != "seconds"}
    for name, values in weights.items():
        np.testing.assert_array_equal(again[name], values)


def test_a_run_has_the_precision_that_it_was_given_and_keeps_it(cupy, monkeypatch, tmp_path):
    """In float32 every step is eager, before and after it was taken up; the options say so."""
    monkeypatch.setattr(CapturedStep, "__init__", lambda *args, **keywords: pytest.fail("a step was captured"))
    done, found = loop.Run.train_step, []
    monkeypatch.setattr(loop.Run, "train_step", lambda run, i: (found.append(backend.precision), done(run, i))[1])
    trained(tmp_path, "cuda", monkeypatch, steps=3, precision="float32")
    assert found == ["float32"] * 10
    assert options_of(newest_state(tmp_path)).precision == "float32"
    assert '"precision": "float32"' in (tmp_path / "options.json").read_text()


LOOKING = {"lookahead": True, "schedule": "constant", "warm_up": 0}


def looked_ahead(folder, captured, monkeypatch):
    """The arrays of 10 steps on the device with --lookahead, captured or one operation at a time."""
    with monkeypatch.context() as how:
        if not captured:
            how.setattr(loop, "on_tensor_cores", lambda x: False)
        return trained(folder, "cuda", how, **LOOKING)[1]


def test_an_eager_run_in_bf16_has_the_bits_of_the_captured_one(cupy, monkeypatch, tmp_path):
    """As Muon's steps are: activations in bfloat16, not images in float32 all the way."""
    with monkeypatch.context() as how:
        how.setattr(loop, "on_tensor_cores", lambda x: False)
        wanted = trained(tmp_path / "eager", "cuda", how, precision="bf16")[1]
    got = trained(tmp_path / "captured", "cuda", monkeypatch, precision="bf16")[1]
    for name, values in wanted.items():
        np.testing.assert_array_equal(got[name], values, name)


def test_lookahead_after_a_captured_step_equals_the_eager_one_bit_for_bit(cupy, monkeypatch, tmp_path):
    wanted, got = (looked_ahead(tmp_path / str(captured), captured, monkeypatch) for captured in (False, True))
    assert [name for name in wanted if name.startswith("lookahead/")]
    for name, values in wanted.items():
        np.testing.assert_array_equal(got[name], values, name)


@on_host
@pytest.mark.parametrize("fault", ["nobody waits", "no way back", "another step"])
def test_lookahead_that_comes_too_early_or_leaves_a_part_out_is_found(fault, monkeypatch, tmp_path):
    stand_in(monkeypatch)
    wanted = looked_ahead(tmp_path / "eager", False, monkeypatch)
    wait, move, update = strict_cupy.Stream.wait_event, Lookahead.move, Lookahead.update
    if fault == "nobody waits":
        forgetful = lambda self, event: None if self is strict_cupy.Stream.null else wait(self, event)  # noqa: E731
        monkeypatch.setattr(strict_cupy.Stream, "wait_event", forgetful)
    elif fault == "no way back":
        monkeypatch.setattr(Lookahead, "move", lambda self, rate, **_: move(self, rate))
    else:

        def one_behind(self):
            self.updates -= 1
            update(self)
            self.updates += 1

        monkeypatch.setattr(Lookahead, "update", one_behind)
    with pytest.raises(AssertionError):
        got = looked_ahead(tmp_path / "captured", True, monkeypatch)
        for name, values in wanted.items():
            np.testing.assert_array_equal(got[name], values)


def test_lookahead_is_two_launches_and_waits_for_nothing(cupy, monkeypatch):
    """Every fifth step: the rate and one kernel for all arrays; between those steps nothing."""
    if cupy.ndarray is not strict_cupy.ndarray:
        pytest.skip("the stand-in counts")
    launched, function = [], launch.function
    monkeypatch.setattr(launch, "function", lambda s, kernel, o: (launched.append(kernel), function(s, kernel, o))[1])
    lookahead = Lookahead(move(small_network(), "cuda"), 13)
    strict_cupy.syncs["count"] = 0
    begun = strict_cupy.Stream.begun
    for _ in range(13):
        lookahead.update()
    assert launched == ["move_averages"] * 3, "after steps 5, 10 and 13"
    assert strict_cupy.syncs["count"] == 0 and strict_cupy.Stream.begun - begun == 6

"""A whole training step as one CUDA graph: batch, forward, loss, backward and updates are launched together.

A step of a small Inception is some 500 to 900 kernels of a few microseconds each, so that launching them from Python
takes longer than running them. A graph is captured once and launched as a whole. It holds addresses and numbers,
hence:

    what changes from step to step lies in device memory: which images and crops, the learning rate, the decay of
    batch norm's and of the weights' averages, the key and counter of dropout's generator; the host copies these few
    bytes there before each launch, all at once
    a step waits for what was begun on the null stream, where CuPy works unless told otherwise, and the null stream
    waits for the step: weights can be read and written between steps as if there were one stream
    nothing in the step waits for the device or copies from the host, and every product is our own kernel's: CuPy
    refuses cuBLAS in a capture, so that no step of `precision` float32 can be captured
    the step's arrays come from a pool of its own, which lives as long as the graph: nothing else uses that memory

Of a step in shards (training/captured_shards.py) a graph has the passes alone: gradients are exchanged between them and
the updates.

The tests capture and launch it on a stand-in too, whose kernels run on the CPU.
"""

import contextlib
from math import prod
from typing import Any, ClassVar

import numpy as np

from ..backend import device
from ..backend.arrays import Array, Shape, array_module
from ..kernels.clip import clip_norm
from ..kernels.cuda.augment import augment, choices
from ..kernels.cuda.launch import tickets
from ..kernels.cuda.philox import DeviceStream, position
from ..kernels.cuda.side_stream import side_stream
from ..kernels.loss import add_totals
from ..layer import Buffer, Layer, Mode, Param, is_ours, named_buffers, walk
from ..layers.batchnorm import BatchNorm
from ..layers.loss import total_loss
from ..models.network import Network
from ..training.average import MovingAverage


class CapturedPasses:
    """A batch, forward and backward of one network and batch size: what adds to the gradient.

    images: (.., H, W, C) uint8 and labels: (..,), NumPy arrays that are brought to the device and stay there.
    mean, std: (C,), as batches.normalise takes them. pad, cutout: as batches.augment takes them.

        passes = CapturedPasses(net, optimiser, images, labels, 256, mean=..., std=..., pad=4)
        passes(index, crops=stream(seed, "augment", epoch, i), dropout=stream(seed, "dropout", epoch, i))
        loss, right = passes.totals()           # waits for the device; sums over images since the last call

    Every batch norm's decay is read at each call. Other numbers (smoothing) are part of the graph. Capturing leaves the
    weights, the gradient and the averages as they were. Raises DeviceError where convolutions would go to cuBLAS.
    """

    numbers: ClassVar[dict[str, tuple[Shape, Any]]] = {}  # that the graph reads at each launch, beside those below

    def __init__(
        self,
        net: Network,
        optimiser: Any,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        mean: Any,
        std: Any,
        pad: int = 4,
        cutout: int = 0,
        smoothing: float = 0.0,
    ):
        if not device.on_tensor_cores(optimiser.data):
            raise device.DeviceError('CapturedStep: got precision "float32", which needs cuBLAS; use "tf32" or "bf16"')
        cupy = array_module(optimiser.data)
        self.net, self.optimiser, self.smoothing = net, optimiser, smoothing
        self.pad, self.cutout = pad, cutout
        self.images, self.labels = cupy.asarray(images), cupy.asarray(labels.astype(np.int32))
        std = np.asarray(std, np.float32)
        fill = np.rint(mean).astype(np.uint8)
        self.colours = cupy.asarray(np.float32(mean)), cupy.asarray(1 / std), cupy.asarray(fill)
        self.norms = list({id(norm): norm for _, norm in walk(net) if isinstance(norm, BatchNorm)}.values())
        # what the host writes before each launch, here and there
        layout = {
            "choice": ((batch_size, 6), np.int32),
            "words": ((6,), np.uint64),
            "decay": ((len(self.norms),), np.float64),
            **self.numbers,
        }
        self.host_bytes, self.host = _views(np, layout)
        self.device_bytes, self.inputs = _views(cupy, layout)
        # what the step writes
        self.x = cupy.empty((batch_size, *images.shape[1:]), device.storage())
        self.chosen = cupy.empty((batch_size,), np.int32)
        self.loss, self.right = cupy.zeros((), np.float64), cupy.zeros((), np.int64)

        self.stream, self.side_stream = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        self.before, self.after = (cupy.cuda.Event(disable_timing=True) for _ in range(2))
        self.pool = cupy.cuda.MemoryPool()
        cupy.cuda.runtime.deviceSynchronize()  # the new stream would not wait for what was begun on others
        changed = self._changed()
        kept = [a.copy() for a in changed]
        cupy.cuda.runtime.deviceSynchronize()
        with self.stream:
            tickets(1, self.x)  # they outlive the step: the pool's memory would with them
        with cupy.cuda.using_allocator(self.pool.malloc), self.stream:
            self._step()  # compiles and loads every kernel, which a capture may not
            for array, values in zip(changed, kept, strict=True):
                array[...] = values
            self.stream.begin_capture(cupy.cuda.runtime.streamCaptureModeRelaxed)
            try:
                self._step()
            finally:  # else the stream would stay in capture after an error
                self.graph = self.stream.end_capture()
        self.stream.synchronize()

    def __call__(
        self,
        index: np.ndarray,
        *,
        crops: np.random.Generator | None,
        dropout: np.random.Generator,
        mirrored: np.ndarray | None = None,
    ) -> None:
        """One launch on the images `index` (batch_size,); does not wait for the device.

        crops: where crops and mirroring are drawn from, as batches.augment does; None takes the images as they are.
        dropout: a generator over Philox that nothing was drawn from. mirrored: as batches.augment takes it.
        """
        words, skip = position(dropout)
        if skip:
            raise ValueError("CapturedStep: got a generator in use for dropout, wanted a fresh one from random.stream")
        host = self.host
        host["choice"][...] = choices(index, self.x.shape[1:3], self.pad, self.cutout, crops, mirrored)
        host["words"][...] = words
        host["decay"][...] = [norm.decay for norm in self.norms]
        self._write_numbers()
        null = array_module(self.x).cuda.Stream.null
        self.before.record(null)
        self.stream.wait_event(self.before)  # what was begun on the weights comes first
        with self.stream:
            self.device_bytes.set(self.host_bytes)
            self.graph.launch()
            self.after.record(self.stream)
        null.wait_event(self.after)  # the next reader of the weights waits for the step; the host does not

    def totals(self) -> tuple[float, int]:
        """The sum of the losses of all images, and how many were right, since the last call."""
        with self.stream:
            loss, right = float(self.loss), int(self.right)
            self.loss[...] = 0
            self.right[...] = 0
        return loss, right

    def _changed(self) -> list[Array]:
        """What a launch changes."""
        return [self.optimiser.grad, self.loss, self.right, *(b.data for b in named_buffers(self.net).values())]

    def _write_numbers(self) -> None:
        """Write `numbers` into `host`."""

    def _step(self) -> None:
        """The step as it is captured, with arrays in place of numbers that change."""
        decays = [norm.decay_array for norm in self.norms]
        for i, norm in enumerate(self.norms):
            norm.decay_array = self.inputs["decay"][i : i + 1]
        try:
            self._train()
        finally:
            for norm, decay in zip(self.norms, decays, strict=True):
                norm.decay_array = decay

    def _train(self) -> None:
        choice, words = self.inputs["choice"], self.inputs["words"]
        augment(self.images, self.labels, choice, self.colours, self.pad, self.cutout, self.x, self.chosen)
        y, cache = self.net.forward(self.x, Mode(train=True, keep=True, rng=DeviceStream(words)))
        loss, dy = total_loss(y, self.chosen, self.net.aux_weight, self.smoothing)
        with side_stream(self.side_stream) if _all_ours(self.net) else contextlib.nullcontext():
            self.net.backward(dy, self.x, cache, need_dx=False)
        self._update()
        logits = y[0] if isinstance(y, tuple) else y
        add_totals(logits, self.chosen, loss, self.loss, self.right)

    def _update(self) -> None:
        """What comes after backward."""


class CapturedStep(CapturedPasses):
    """The training step of one network, optimiser and batch size: its passes, and the updates after them.

    optimiser.lr is read at each call too; other numbers of the optimiser (momentum, rates) are part of the graph.

    clip: the largest norm of the gradient, 0 for any. A gradient that is not finite is not hidden: the weights, and so
    the losses after it, are not finite either. average: moved after each step, its updates counted.
    """

    numbers: ClassVar[dict[str, tuple[Shape, Any]]] = {"lr": ((1,), np.float32), "rate": ((1,), np.float32)}

    def __init__(self, *args: Any, clip: float = 0.0, average: MovingAverage | None = None, **options: Any):
        self.clip, self.average = clip, average
        super().__init__(*args, **options)

    def _changed(self) -> list[Array]:
        optimiser, means = self.optimiser, self.average.means if self.average else []
        return [*super()._changed(), optimiser.data, *optimiser.state.values(), *means]

    def _write_numbers(self) -> None:
        self.host["lr"][...] = self.optimiser.lr
        self.host["rate"][...] = self.average.next_rate() if self.average else 0

    def _step(self) -> None:
        lr = self.optimiser.lr
        self.optimiser.lr = self.inputs["lr"]
        try:
            super()._step()
        finally:
            self.optimiser.lr = lr

    def _update(self) -> None:
        if self.clip:
            clip_norm(self.optimiser.grad, self.clip)
        self.optimiser.step()
        if self.average:
            self.average.move(self.inputs["rate"])


def _views(xp: Any, layout: dict[str, tuple[Shape, Any]]) -> tuple[Array, dict[str, Array]]:
    """Zeros with room for arrays of these shapes and dtypes, as bytes, and the arrays in it, each at a multiple of 16.

    The same layout gives the same places in NumPy's and in CuPy's memory: one copy of the bytes brings all arrays over.
    """
    places, end = {}, 0
    for name, (shape, dtype) in layout.items():
        places[name] = slice(end, end + prod(shape) * np.dtype(dtype).itemsize)
        end = -(-places[name].stop // 16) * 16
    room = xp.zeros((end,), np.uint8)
    return room, {name: room[places[name]].view(dtype).reshape(shape) for name, (shape, dtype) in layout.items()}


def _all_ours(net: Network) -> bool:
    """True where every layer has the passes of a class of this package. Others may write over backward's arguments."""
    for layer in (net, *(child for _, child in walk(net) if not isinstance(child, (Param, Buffer)))):
        if not isinstance(layer, Layer) or not is_ours(layer):
            return False
    return True

"""A stand-in for CuPy on a machine without a GPU: NumPy's numbers behind CuPy's manners.

An array of it is a wrapper, not a subclass, so that no NumPy function can take it by mistake. It has only what NumPy's
and CuPy's arrays both have, mixes only with its own kind and with Python's numbers, never turns into a NumPy array
unless asked by asnumpy(), has no truth value, and its sums are arrays without axes, not scalars. The module has only
functions that both have (`test_names_exist_in_cupy` compares the list where CuPy is installed). `syncs` counts what
would make the CPU wait for the GPU, and `copies` what is copied from the CPU. A capture puts every operation on a tape,
and a graph's launch runs the tape again. The launch is as late as a device may be: it takes effect when something waits
for its stream. A launch that might overtake what was begun on the null stream is an error.

    with pretend(monkeypatch): ...                     # `import cupy` now finds it, and finds a device
"""

import contextlib
import operator
import sys
import types
import weakref
from typing import Any, ClassVar

import numpy as np

FUNCTION_NAMES = """
    abs arange argmax argmin argsort array asarray ascontiguousarray broadcast_to ceil clip concatenate conj cos
    dot dtype einsum empty empty_like equal exp expand_dims eye flip floor full full_like isfinite isnan linspace
    log logical_and logical_not logical_or matmul may_share_memory max maximum mean min minimum moveaxis multiply
    nonzero ones ones_like outer pad power prod ravel repeat reshape roll round sign sin sqrt square squeeze stack sum
    take tanh tensordot tile transpose tri where zeros zeros_like complex64 complex128 float16 float32 float64
    int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool_ inf nan pi newaxis"""
METHOD_NAMES = """
    all any argmax argmin astype copy cumsum fill max mean min prod ravel repeat reshape sum squeeze swapaxes take
    transpose var std dot clip conj flatten"""
ATTRIBUTE_NAMES = "T dtype flags imag itemsize nbytes ndim real shape size strides"
FUNCTIONS, METHODS, ATTRIBUTES = FUNCTION_NAMES.split(), METHOD_NAMES.split(), ATTRIBUTE_NAMES.split()
FROM_HOST = {"array", "asarray", "ascontiguousarray"}  # these may be given lists and NumPy arrays

syncs = {"count": 0}
copies = {"count": 0}  # from the host to the device


class Tape:
    """What a stream in capture has been asked to do, to be done again at each launch of the graph.

    A launch first fills every array that was made in the capture with NaN bytes, as if others had used its memory, and
    does so again where the last reference to it went. What was put into another stream than the captured one is done
    as late as it may be: when the captured one waits for it.
    """

    recording: "Tape | None" = None

    def __init__(self, stream: "Stream") -> None:
        self.stream, self.streams = stream, {stream}  # the one in capture, and those that wait for it
        self.actions: list[Any] = []
        self.operations = 0  # of these, what a device would do: launches and copies
        self.late: list[Any] = []
        self.made: list[np.ndarray] = []

    def note(self, action: Any, stream: "Stream | None" = None) -> None:
        """To be done at every launch: in its turn, or for another stream than the captured one, later."""
        if (stream or Stream.current) is self.stream:
            self.actions.append(action)
        else:
            self.actions.append(lambda: self.late.append(action))

    def catch_up(self) -> None:
        while self.late:
            self.late.pop(0)()

    def watch(self, array: "ndarray") -> None:
        """An array was made in the capture: its memory is anybody's after its last reference."""
        a, stream = array._a, Stream.current
        self.made.append(a)
        weakref.finalize(array, lambda: self.note(lambda: poison(a), stream) if Tape.recording is self else None)

    def launch(self) -> None:
        assert Tape.recording is None, "a graph was launched during a capture"
        stream = Stream.current
        assert stream is Stream.null or stream.seen == Stream.begun, "a launch may overtake what the null stream does"
        stream.pending.append(self.run)

    def run(self) -> None:
        for a in self.made:
            poison(a)
        for action in self.actions:
            action()
        assert not self.late, "the captured stream never waited for another one"


def waits(what: str) -> None:
    """Count what makes the CPU wait; in a capture CuPy refuses it."""
    if Tape.recording:
        raise RuntimeError(f"{what} in a capture: cudaErrorStreamCaptureUnsupported")
    Stream.current.flush()
    syncs["count"] += 1


def change(action: Any) -> None:
    """Do what changes an array now, or, in a capture, at every launch of the graph and not now."""
    if Tape.recording:
        Tape.recording.operations += 1
        Tape.recording.note(action)
    else:
        Stream.current.begin()
        action()


def make(compute: Any, source: "ndarray | None" = None) -> Any:
    """A device array of what compute() gives; in a capture its numbers come with each launch, its shape now."""
    if not Tape.recording:
        Stream.current.begin()
    with np.errstate(all="ignore") if Tape.recording else contextlib.nullcontext():
        result = wrap(compute(), source)
    if Tape.recording and isinstance(result, ndarray) and result._base is None:
        a = result._a
        Tape.recording.operations += 1
        Tape.recording.note(lambda: np.copyto(a, compute()))
        if a.base is None:
            Tape.recording.watch(result)
    return result


class ndarray:  # CuPy's name
    """A device array's manners around a NumPy array."""

    __array_priority__ = 1000
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, a: np.ndarray, base: "ndarray | None" = None):
        self._a, self._base = a, base

    @property
    def base(self) -> "ndarray | None":
        return self._base

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self._a.ctypes.data)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` explicitly.")

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"numpy.{ufunc.__name__} was given a device array")

    def __array_function__(self, function: Any, *args: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was given a device array")

    def __bool__(self) -> bool:
        raise TypeError("a device array was asked for its truth value: the CPU would wait for the GPU")

    def __iter__(self) -> Any:
        raise TypeError("a device array was iterated over: one launch per element")

    def __len__(self) -> int:
        return len(self._a)

    def __float__(self) -> float:
        waits("float(array)")
        return float(self._a)

    def __int__(self) -> int:
        waits("int(array)")
        return int(self._a)

    def item(self) -> Any:
        waits("array.item()")
        return self._a.item()

    def get(self) -> np.ndarray:
        waits("array.get()")
        return self._a.copy()

    def set(self, values: np.ndarray) -> None:
        assert isinstance(values, np.ndarray) and values.dtype == self.dtype and values.shape == self.shape
        if Tape.recording:
            raise RuntimeError("array.set() in a capture: H2D transfers are disallowed")
        copies["count"] += 1
        values = values.copy()
        Stream.current.pending.append(lambda: np.copyto(self._a, values))
        if Stream.current is Stream.null:
            Stream.null.begin()

    def view(self, dtype: Any) -> "ndarray":
        return wrap(self._a.view(dtype), self)

    def __getitem__(self, index: Any) -> "ndarray":
        a, at = self._a, unwrap_index(index)
        return make(lambda: a[at], self)

    def __setitem__(self, index: Any, value: Any) -> None:
        a, at, values = self._a, unwrap_index(index), unwrap(value)
        change(lambda: a.__setitem__(at, values))

    def __repr__(self) -> str:
        return f"strict_cupy.ndarray({self.shape}, {self.dtype})"


def unwrap(value: Any, host: bool = False) -> Any:
    """The NumPy array behind a device array; numbers as they are; nothing else."""
    if isinstance(value, ndarray):
        return value._a
    if isinstance(value, (tuple, list)):
        return type(value)(unwrap(v, host) for v in value)
    if isinstance(value, (np.ndarray, np.generic)) and not host:
        raise TypeError(f"a device array met a {type(value).__module__}.{type(value).__name__}")
    return value


def unwrap_index(index: Any) -> Any:
    if isinstance(index, list) or (isinstance(index, tuple) and any(isinstance(i, list) for i in index)):
        raise TypeError("a device array was indexed with a list: it would be copied from the CPU")
    return unwrap(index)


def wrap(value: Any, source: ndarray | None = None) -> Any:
    """A device array around what NumPy gave: a view remembers whose memory it is."""
    if isinstance(value, (tuple, list)):
        return type(value)(wrap(v, source) for v in value)
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    a = np.asarray(value)
    if source is not None and np.may_share_memory(a, source._a):
        return ndarray(a, source if source._base is None else source._base)
    return ndarray(a)


def _method(name: str) -> Any:
    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        out, method = kwargs.get("out"), getattr(self._a, name)
        args, kwargs = unwrap(args), {k: unwrap(v) for k, v in kwargs.items()}
        if out is not None or name == "fill":
            change(lambda: method(*args, **kwargs))
            return out
        return make(lambda: method(*args, **kwargs), self)

    return method


def _attribute(name: str) -> property:
    return property(lambda self: wrap(getattr(self._a, name), self))


def _operator(name: str) -> Any:
    def binary(self: ndarray, other: Any) -> Any:
        if not isinstance(other, (ndarray, int, float, complex)) or isinstance(other, np.generic):
            raise TypeError(f"a device array met a {type(other).__module__}.{type(other).__name__}")
        function = getattr(operator, name.removeprefix("r") if name in REFLECTED else name)
        a, b = self._a, unwrap(other)
        return make(lambda: function(b, a) if name in REFLECTED else function(a, b))

    return binary


def _in_place(name: str) -> Any:
    def update(self: ndarray, other: Any) -> ndarray:
        if not isinstance(other, (ndarray, int, float, complex)) or isinstance(other, np.generic):
            raise TypeError(f"a device array met a {type(other).__module__}.{type(other).__name__}")
        a, b = self._a, unwrap(other)
        change(lambda: getattr(operator, f"i{name}")(a, b))
        return self

    return update


ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"]
REFLECTED = {f"r{name}" for name in ARITHMETIC}
for name in METHODS:
    setattr(ndarray, name, _method(name))
for name in ATTRIBUTES:
    setattr(ndarray, name, _attribute(name))
for name in [*ARITHMETIC, *REFLECTED, "eq", "ne", "lt", "le", "gt", "ge"]:
    setattr(ndarray, f"__{name}__", _operator(name))
for name in ["and", "or", "xor"]:
    setattr(ndarray, f"__{name}__", _operator(f"{name}_"))
for name in ARITHMETIC[:-1]:
    setattr(ndarray, f"__i{name}__", _in_place(name))
for name, function in (("neg", operator.neg), ("invert", operator.invert), ("abs", operator.abs)):
    setattr(ndarray, f"__{name}__", lambda self, function=function: make(lambda: function(self._a)))


def _function(name: str) -> Any:
    numpys = getattr(np, name)
    if not callable(numpys) or isinstance(numpys, type):
        return numpys

    def call(*args: Any, **kwargs: Any) -> Any:
        if name not in FROM_HOST and any(isinstance(a, np.ndarray) for a in (*args, *kwargs.values())):
            raise TypeError(f"cupy.{name} was given a NumPy array")
        args = tuple(unwrap(a, host=name in FROM_HOST) for a in args)
        if name in FROM_HOST and Tape.recording:
            raise RuntimeError(f"cupy.{name} in a capture: it copies from the CPU")
        if name in FROM_HOST and args and isinstance(args[0], np.ndarray):
            copies["count"] += 1
            args = (args[0].copy(), *args[1:])  # another memory, as on a device
        out, kwargs = kwargs.get("out"), {k: unwrap(v, host=True) for k, v in kwargs.items()}
        if out is not None:
            change(lambda: numpys(*args, **kwargs))
            return out
        return make(lambda: _as_cupy_types(name, numpys(*args, **kwargs)))

    return call


def _as_cupy_types(name: str, result: Any) -> Any:
    """CuPy 14 has no `where` of bfloat16: what it gives is float32."""
    return result.astype(np.float32) if name == "where" and result.dtype.name == "bfloat16" else result


def poison(a: np.ndarray) -> None:
    """Memory that nobody has written: every byte 255, which is NaN in floats."""
    a.reshape(-1).view(np.uint8)[...] = 255


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    a = np.empty(shape, dtype)
    poison(a)
    array = ndarray(a)
    if Tape.recording:
        Tape.recording.watch(array)
    return array


class Stream:
    """Copies from the host and launches of graphs wait here until something else is done here, or waits for this.

    The null stream does everything at once. `begun` counts what it was asked to do, and `seen` how much of that comes
    before whatever this stream does next.
    """

    null: "Stream"
    current: "Stream"
    all: ClassVar[list["Stream"]] = []
    begun = 0

    def __init__(self, non_blocking: bool = False):
        assert non_blocking, "the legacy stream cannot be captured"
        self.pending: list[Any] = []
        self.seen, self.outer = 0, []
        self.ptr = id(self)
        Stream.all.append(self)

    def __enter__(self) -> "Stream":
        self.outer.append(Stream.current)
        Stream.current = self
        return self

    def __exit__(self, *error: Any) -> None:
        Stream.current = self.outer.pop()

    def begin(self) -> None:
        """Something is done here now: all before it first."""
        self.flush()
        if self is Stream.null:
            Stream.begun += 1

    def flush(self) -> None:
        while self.pending:
            self.pending.pop(0)()

    def wait_event(self, event: "Event") -> None:
        if (tape := Tape.recording) is not None:
            if event.stream not in tape.streams:
                raise RuntimeError("a capture waits for work from outside: cudaErrorStreamCaptureIsolation")
            tape.streams.add(self)
            if self is tape.stream:
                tape.actions.append(tape.catch_up)
            return
        event.stream.flush()
        self.seen = max(self.seen, event.seen)

    def is_capturing(self) -> bool:
        return Tape.recording is not None

    def begin_capture(self, mode: Any) -> None:
        self.flush()
        Tape.recording = Tape(self)

    def end_capture(self) -> Tape:
        tape, Tape.recording = Tape.recording, None
        assert tape is not None
        return tape

    def synchronize(self) -> None:
        waits("stream.synchronize()")
        self.flush()


def wait_for_all() -> None:
    """What the host asks for after this comes after everything before it, in every stream."""
    waits("deviceSynchronize()")
    for stream in Stream.all:
        stream.flush()
        stream.seen = Stream.begun


class Event:
    """A point in a stream."""

    def __init__(self, disable_timing: bool = False):
        self.stream, self.seen = Stream.null, 0

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or Stream.current
        self.seen = Stream.begun if self.stream is Stream.null else self.stream.seen


Stream.null = Stream.current = Stream(non_blocking=True)


class Device:
    """One of the machine's GPUs."""

    compute_capability = "90"

    def __init__(self, number: int = 0):
        self.pci_bus_id = f"0000:{number:02X}:00.0"

    def use(self) -> None:
        pass


def pretend(monkeypatch: Any) -> types.ModuleType:
    """Put the stand-in where `import cupy` finds it, for one test, and return it."""
    cupy = types.ModuleType("cupy")
    for name in FUNCTIONS:
        setattr(cupy, name, _function(name))
    cupy.ndarray = ndarray
    cupy.empty = empty
    cupy.asnumpy = lambda a: a.get()
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDevice=lambda: 0,
        deviceSynchronize=wait_for_all,
        streamCaptureModeRelaxed=2,
        CUDARuntimeError=RuntimeError,
    )
    cupy.cuda = types.SimpleNamespace(
        runtime=runtime,
        Device=Device,
        nccl=types.SimpleNamespace(available=False),
        Stream=Stream,
        Event=Event,
        get_current_stream=lambda: Stream.current,
        MemoryPool=lambda: types.SimpleNamespace(malloc=None),
        using_allocator=lambda allocator: contextlib.nullcontext(),
    )
    monkeypatch.setattr(ndarray, "__module__", "cupy")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cupy.cuda)
    syncs["count"] = copies["count"] = 0
    Stream.all = [Stream.null]
    return cupy

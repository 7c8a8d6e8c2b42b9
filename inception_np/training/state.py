"""The state of a training run as a file: all that it takes to go on with the same bits.

    state.safetensors             net/PATH, optimizer/NAME, average/I, lookahead/I: every array of the run
                                  metadata: the options, and how far the run has come
    state.previous.safetensors    the same of the save before, should the newer one be damaged

Reading checks everything, as reading a checkpoint does, before anything of the run is changed: no array and no field is
missing, left over, of another shape or type, or not finite. An error names the file and the field.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..backend.arrays import Array
from ..backend.device import asarray, to_device_of
from ..backend.errors import UsageError, nearest
from ..data.dataset import known_names, runs_code
from ..data.files import keep_as
from ..data.streams import say
from ..models import ALIASES, list_models
from ..weights.tensorfile import read_tensors, write_tensors
from .options import Options, check, check_unchanged
from .watchdog import is_finite

FORMAT = "inception_np training 1"
NEWEST, PREVIOUS = "state.safetensors", "state.previous.safetensors"
# What a line of log.jsonl holds, and what is added up over an epoch.
LINE = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr", "images", "seconds")
TOTAL = "train_total_loss"  # a line's loss with the auxiliary heads', where the network has them
PLAIN = "train_cross_entropy"  # a line's loss of the main logits without label smoothing, where there is smoothing
SUMS = ("loss", "main", "plain", "right", "images", "seconds")
# Options that a state of an earlier version lacks, with the value that all runs had then.
ADDED: dict[str, Any] = {
    "pad": None, "cutout": 0, "flip": "random", "lookahead": False, "tta": False, "precision": "float32",
    "from_": None, "freeze": [], "mean": None, "std": None, "mixup": 0.0, "patience": 0, "log": "csv", "sgd_lr": 0.1,
    "bias_scale": 1.0, "option": [], "distort": 0.0, "rms_decay": 0.9, "rms_eps": 1.0, "lr_factor": 0.94,
    "lr_every": 2.0, "shards": 0,
}  # fmt: skip


class State(NamedTuple):
    """What was read: arrays, metadata and the file they are from. skipped: why it is not the newest, or ''."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    path: Path
    skipped: str


def write_state(folder: Path, arrays: Mapping[str, Array], options: Options, progress: Mapping[str, Any]) -> None:
    """Put the state into the folder; the one that was there becomes the previous one."""
    newest = folder / NEWEST
    texts = {"options": json.dumps(asdict(options)), "progress": json.dumps(progress, allow_nan=False)}
    if newest.exists():
        keep_as(newest, folder / PREVIOUS)
    write_tensors(newest, {name: asarray(array, "cpu") for name, array in arrays.items()}, {"format": FORMAT, **texts})


def holds_run(folder: Path) -> bool:
    return (folder / NEWEST).exists() or (folder / PREVIOUS).exists()


def check_folder(folder: Path, resume: bool) -> None:
    """Raise UsageError for a folder that holds a run, or with `resume` for one that holds none."""
    if holds_run(folder) and not resume:
        raise UsageError(f"--output: {folder} already holds a run; add --resume, or name another folder")
    if resume and not holds_run(folder):
        raise UsageError(f"--output: {folder} holds no run to resume; leave --resume out")


def newest_state(folder: Path) -> State:
    """The newest state or, if its file is damaged or missing, the one before.

    Raises ValueError of one line if neither is whole, and OSError if they cannot be read.
    """
    path, skipped = folder / NEWEST, ""
    try:
        tensors, metadata = read_tensors(path)
    except (ValueError, FileNotFoundError) as error:
        path, skipped = folder / PREVIOUS, str(error)
        if not path.exists():
            raise
        tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format: got {metadata.get('format')!r}, wanted {FORMAT!r}; "
            "resume it with the version of this package that wrote it"
        )
    extra = sorted(set(metadata) - {"format", "options", "progress", "sha256"})
    if extra:
        raise ValueError(f"{path}: metadata: got the field {extra[0][:40]!r}, which no state has; take another copy")
    return State(tensors, metadata, path, skipped)


def stored_options(folder: Path) -> Options:
    """The options of the run in a folder. Raises UsageError if there is none, ValueError if they are damaged."""
    if not holds_run(folder):
        raise UsageError(f"--resume: {folder} holds no run; check --output")
    state = newest_state(folder)
    options = options_of(state)
    data = [options.data] if runs_code(options.data) else known_names()
    for field, chosen, known in (("model", options.model, [*list_models(), *ALIASES]), ("data", options.data, data)):
        if chosen not in known:
            _refuse(state, f"options.{field}", f"got {chosen!r}, {nearest(chosen, known)}")
    return options


def restore_state(
    folder: Path, options: Options, steps: int, arrays: Mapping[str, Array]
) -> tuple[dict[str, Any], Options]:
    """Copy the newest whole state of a run with these options into its arrays.

    steps: in an epoch. All arrays are changed or none. Returns how far it had come, and the options that it had: the
    same, or with fewer epochs. Raises UsageError for other options than the run has, and ValueError for a state that is
    damaged or not this run's.
    """
    state = newest_state(folder)
    if state.skipped:
        say(f"{state.skipped}\ngoing back to {state.path.name}")
    stored = options_of(state)
    check_unchanged(asdict(options), stored, folder)
    if state.skipped and stored != options:
        raise UsageError(f"--epochs: the newest state in {folder} is damaged; resume without --epochs, and then again")
    progress = progress_of(state, stored, steps, options.batch_size)
    check_tensors(state, arrays)
    if state.skipped:  # or the next save would keep the damaged file as the previous state
        keep_as(state.path, folder / NEWEST)
    for name, array in arrays.items():
        array[...] = to_device_of(state.tensors[name], array)
    return progress, stored


def options_of(state: State) -> Options:
    """The options in a state; one of `ADDED` may be missing.

    Raises ValueError unless they are all of a run's, and could be those of one.
    """
    found = {**ADDED, **_object(state, "options")}
    _check_names(state, "options.", found, [field.name for field in fields(Options)])
    found |= {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    options = Options(**found)
    try:
        check(options)
    except UsageError as error:
        _refuse(state, "options", str(error).partition(";")[0])
    return options


def progress_of(state: State, options: Options, steps: int, batch_size: int) -> dict[str, Any]:
    """How far the run has come: epoch, step, sums, history, updates. Raises ValueError for what cannot be.

    steps: in an epoch. A run is at step `steps` of an epoch between its last step and its test.
    """
    found = _object(state, "progress")
    _check_names(state, "progress.", found, ("epoch", "step", "sums", "history", "updates"))

    def number(field: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
        if type(value) not in ((int,) if whole else (int, float)) or not low <= value <= high:
            span = f"{low}" if low == high else f"a {'whole ' * whole}number from {low:g} to {high:g}"
            _refuse(state, f"progress.{field}", f"got {str(value)[:40]}, wanted {span}")

    number("epoch", found["epoch"], 0, options.epochs, whole=True)
    number("step", found["step"], 0, steps if found["epoch"] < options.epochs else 0, whole=True)
    updates = (found["epoch"] * steps + found["step"]) if options.ema else 0
    number("updates", found["updates"], updates, updates, whole=True)

    sums, history = found["sums"], found["history"]
    if not isinstance(sums, dict):
        _refuse(state, "progress.sums", "wanted an object")
    sums.setdefault("main", sums.get("loss"))  # as in an earlier version: no other loss was known
    sums.setdefault("plain", sums.get("main"))
    _check_names(state, "progress.sums.", sums, SUMS)
    images = found["step"] * batch_size
    number("sums.images", sums["images"], images, images, whole=True)
    number("sums.right", sums["right"], 0, images, whole=True)
    for field in ("loss", "main", "plain", "seconds"):
        number(f"sums.{field}", sums[field], 0, MOST)

    if not isinstance(history, list) or len(history) != found["epoch"]:
        _refuse(state, "progress.history", f"wanted a list of {found['epoch']} finished epochs")
    limits = {"epoch": (1, 1), "images": (steps * batch_size,) * 2, "train_accuracy": (0, 1), "test_accuracy": (0, 1)}
    for i, line in enumerate(history):
        if not isinstance(line, dict):
            _refuse(state, f"progress.history[{i}]", "wanted an object")
        _check_names(state, f"progress.history[{i}].", line, [*LINE, *(k for k in (TOTAL, PLAIN) if k in line)])
        limits["epoch"] = (i + 1, i + 1)
        for field, value in line.items():
            low, high = limits.get(field, (0, MOST))
            number(f"history[{i}].{field}", value, low, high, whole=field in ("epoch", "images"))
    return found


MOST = 1e300  # for what has no bound of its own; NaN and infinity are beyond it


def check_tensors(state: State, arrays: Mapping[str, Array]) -> None:
    """Raise ValueError unless the state holds an array for each of these, alike in shape and type, and no other."""
    _check_names(state, "", state.tensors, arrays)
    for name, array in arrays.items():
        stored = state.tensors[name]
        if stored.shape != tuple(array.shape):
            _refuse(state, name, f"got shape {stored.shape}, wanted {tuple(array.shape)}")
        if stored.dtype != array.dtype:
            _refuse(state, name, f"got {stored.dtype}, wanted {array.dtype}")
        if not is_finite(stored):
            _refuse(state, name, "holds NaN or infinity, wanted finite numbers")


def _object(state: State, field: str) -> dict[str, Any]:
    """The JSON object in a field of the metadata, which must be written the way we write it (no name twice)."""
    text = state.metadata.get(field)
    if text is None:
        _refuse(state, field, "missing")
    try:
        found = json.loads(text)
        if not isinstance(found, dict) or json.dumps(found) != text:
            raise ValueError("not an object, or not written the way inception_np writes it")
    except (ValueError, RecursionError) as error:
        _refuse(state, field, str(error).splitlines()[0])
    return found


def _check_names(state: State, prefix: str, found: Any, wanted: Any) -> None:
    missing, more = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
    for names, what in ((missing, "missing"), (more, "unexpected")):
        if names:
            others = f", and {len(names) - 1} more" if len(names) > 1 else ""
            _refuse(state, f"{prefix}{names[0]}", f"{what}{others}")


def _refuse(state: State, field: str, what: str) -> NoReturn:
    folder = state.path.parent
    advice = f"remove it to go back to {PREVIOUS}" if (folder / PREVIOUS).exists() else "begin again in another folder"
    if state.path.name == PREVIOUS:
        advice = "begin again in another folder"
    raise ValueError(f"{state.path}: {field}: {what}; {advice}")


class Pace:
    """When to save within an epoch: every so many seconds, but for at most 1 % of the time.

    seconds: 0 saves after every step, whatever that costs. What a save takes (SHA-256 over all arrays, and waiting for
    the disk) is measured, and 100 times as long passes before the next.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.cost, self.last = seconds, 0.0, time.monotonic()

    def due(self) -> bool:
        return not self.seconds or time.monotonic() - self.last >= max(self.seconds, 100 * self.cost)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """The block that saves."""
        started = time.monotonic()
        yield
        self.last = time.monotonic()
        self.cost = self.last - started

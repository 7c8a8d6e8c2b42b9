"""The state of a run: written so that a kill at any point loses nothing, and read whole or not at all."""

import contextlib
import itertools
import json
import math
import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from small_runs import (
    ARGUMENTS,
    SMALL,
    command,
    same_bits,
    stop_after,
    timeless,
    tiny_networks,
    uninterrupted,
    weights_of,
)

from inception_np import __main__ as cli
from inception_np.backend.errors import StoppedError, UsageError
from inception_np.data import files
from inception_np.training import loop, state
from inception_np.weights.tensorfile import read_tensors, write_tensors

__all__ = ["tiny_networks", "uninterrupted"]  # fixtures

PICTURES = ("curves.png", "filters.png")
SHORT = replace(SMALL, epochs=2)


def draw_quickly(run):
    """In the place of the pictures: files that follow from the run's history."""
    for name in PICTURES:
        files.atomic_write(run.folder / name, json.dumps(run.history))


def outcome(folder):
    """All that a run leaves but the clock's time, the command and how often it was saved."""
    options = json.loads((folder / "options.json").read_text())
    names = sorted(p.name for p in folder.iterdir() if p.name not in ("lock", "state.previous.safetensors"))
    return {
        "names": names,
        "options": {k: v for k, v in options.items() if k != "command"},
        "log": timeless(folder),
        "weights": {name: array.tobytes() for name, array in weights_of(folder).items()},
        "about": read_tensors(folder / "checkpoint.safetensors")[1],
        "best": (folder / "best.safetensors").read_bytes(),
        "rows": (folder / "log.csv").read_text().count("\n"),
    }


class Killed(BaseException):
    """The process is gone: nothing is tidied up."""


@contextlib.contextmanager
def killed_before(operation):
    """Kill the process before that one of its writes to the disk, and count them. operation: None kills never.

    The number of the process is that of another one, which lives on after it.
    """
    done, parent = [], os.getppid()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: parent)

        def counted(name, original):
            def call(*args, **keywords):
                if len(done) == operation:
                    patch.setattr(files.Path, "unlink", lambda *_: None)
                    raise Killed
                done.append(name)
                return original(*args, **keywords)

            patch.setattr(os, name, call)

        for name in ("link", "fsync", "replace"):
            counted(name, getattr(os, name))
        yield done


def taken_up(folder, options, save_every):
    """The outcome of a run that is started again in its folder, as a user would."""
    loop.train(folder, options, resume=state.holds_run(folder), save_every=save_every)
    return outcome(folder)


def unlike(tmp_path, monkeypatch, options, save_every):
    """The writes before which a kill changes the run's outcome, and after the last how many writes there were."""
    monkeypatch.setattr(loop.Run, "draw", draw_quickly)
    loop.train(tmp_path / "first", options, save_every=save_every)  # kernels that it compiles are written down too
    with killed_before(None) as done:
        loop.train(tmp_path / "whole", options, save_every=save_every)
    whole = outcome(tmp_path / "whole")
    for operation in range(len(done)):
        folder = tmp_path / str(operation)
        with killed_before(operation), pytest.raises(Killed):
            loop.train(folder, options, save_every=save_every)
        if taken_up(folder, options, save_every) != whole:
            yield f"{operation}: {done[operation]}"
    yield len(done)


def test_a_run_killed_before_any_of_its_writes_and_taken_up_leaves_the_same_files(tmp_path, monkeypatch):
    (count,) = unlike(tmp_path, monkeypatch, SHORT, 1e6)
    assert count > 25


@pytest.mark.long
def test_so_does_a_run_that_is_saved_after_each_step(tmp_path, monkeypatch):
    (count,) = unlike(tmp_path, monkeypatch, replace(SMALL, epochs=3), 0)
    assert count > 80


def test_a_restore_that_forgets_the_files_that_follow_is_noticed(tmp_path, monkeypatch):
    """The planted faults of the two tests above: what was missing, and what stayed."""

    def forgetful(save_results):
        def save(run):
            if run.predicted is not None:  # this process has tested the network: it goes on by itself
                save_results(run)

        return save

    with monkeypatch.context() as planted:
        planted.setattr(loop.Run, "save_results", forgetful(loop.Run.save_results))
        with pytest.raises(FileNotFoundError, match=r"checkpoint|log"):
            list(unlike(tmp_path / "files", planted, replace(SHORT, epochs=1), 1e6))
    monkeypatch.setattr(loop, "sweep", lambda *_: None)
    assert next(unlike(tmp_path / "leftovers", monkeypatch, replace(SHORT, epochs=1), 1e6)) == "0: fsync"


def test_a_second_name_of_a_file_that_has_it_already_leaves_nothing_beside(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    for _ in range(2):
        files.keep_as(one, other)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "other"] and other.read_text() == "1"
    one.unlink()
    one.write_text("2")
    files.keep_as(one, other)
    assert other.read_text() == "2"


@pytest.mark.parametrize("broken", ["link", "replace"])
def test_a_second_name_is_made_without_links_too_and_an_error_says_which_file(tmp_path, monkeypatch, broken):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")

    def refused(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, broken, refused)
    if broken == "link":
        files.keep_as(one, other)
        assert other.read_text() == "1"
    else:
        with pytest.raises(OSError, match=rf"{other}: cannot be written \(Operation not supported\)"):
            files.keep_as(one, other)
    assert not list(tmp_path.glob(".*"))


def test_what_is_left_beside_the_files_of_a_run_goes_whoever_has_the_number_of_its_process_now(tmp_path):
    ours, theirs = tmp_path / f".log.jsonl.tmp{os.getppid()}", tmp_path / f".mine.tmp{os.getppid()}"
    dead = tmp_path / ".mine.tmp99999999999999999999"
    for path in (ours, theirs, dead):
        path.write_bytes(b"")
    files.sweep(tmp_path, loop.OURS)
    assert [path.exists() for path in (ours, theirs, dead)] == [False, True, False]


def test_eval_sweeps_the_folder_of_a_run_that_was_killed_and_no_other_folder(tmp_path, uninterrupted, capsys):
    for folder, is_run in ((tmp_path / "run", True), (tmp_path / "other", False)):
        folder.mkdir()
        left = folder / ".state.previous.safetensors.tmp999999999"
        left.write_bytes(b"")
        (folder / "c").write_bytes((uninterrupted[SMALL.model] / "checkpoint.safetensors").read_bytes())
        if is_run:
            (folder / "lock").write_text("")
        assert cli.main(["eval", str(folder / "c")]) == 1  # no command knows the tiny network
        assert left.exists() != is_run
    assert "the file has no network's name" in capsys.readouterr().err


# Two runs in one folder


def test_a_run_that_another_one_was_faster_than_changes_nothing(tmp_path, monkeypatch):
    """The other one starts, and ends, after this one has looked for it and before it has the lock."""
    theirs, original = {}, loop.make_folder

    def make_folder(folder):
        if not theirs:
            theirs["now"] = True
            loop.train(tmp_path, SMALL)
            theirs["now"] = contents(tmp_path)
        return original(folder)

    monkeypatch.setattr(loop, "make_folder", make_folder)
    with pytest.raises(UsageError, match="already holds a run; add --resume"):
        loop.train(tmp_path, replace(SMALL, seed=6))
    assert contents(tmp_path) == theirs["now"]


def test_a_check_made_only_before_the_lock_is_noticed(tmp_path, monkeypatch):
    """The planted fault: the second look sees nothing."""
    answers = iter([False, False] + [False] * 10)
    monkeypatch.setattr(loop, "check_folder", lambda *_: next(answers))
    with pytest.raises(pytest.fail.Exception):
        test_a_run_that_another_one_was_faster_than_changes_nothing(tmp_path, monkeypatch)


def test_of_runs_started_at_once_one_runs_and_the_others_change_nothing(tmp_path):
    start = command(tmp_path, *ARGUMENTS.split())
    started = [
        subprocess.Popen([*start, "--epochs", str(epochs)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for epochs in (2, 3)
    ]
    ended = {epochs: (*p.communicate(timeout=120), p.returncode) for epochs, p in zip((2, 3), started, strict=True)}
    winners = [epochs for epochs, (_, _, code) in ended.items() if code == 0]
    assert len(winners) == 1
    for _, errors, code in ended.values():
        assert code == 0 or (code == 1 and "in use by process" in errors) or (code == 2 and "already holds" in errors)
    assert len(timeless(tmp_path)) == winners[0]
    assert json.loads((tmp_path / "options.json").read_text())["epochs"] == winners[0]


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "lock"}


# Saving within the epoch


def steps_saved(monkeypatch):
    """The (epoch, step) of every state that is written from now on."""
    found = []
    original = loop.write_state

    def write_state(folder, arrays, options, progress):
        found.append((progress["epoch"], progress["step"]))
        original(folder, arrays, options, progress)

    monkeypatch.setattr(loop, "write_state", write_state)
    return found


def test_save_every_0_saves_after_each_step_and_the_result_is_the_same(tmp_path, monkeypatch, uninterrupted):
    found = steps_saved(monkeypatch)
    loop.train(tmp_path, SMALL, save_every=0)
    whole = uninterrupted[SMALL.model]
    assert found == [(e, s) for e in range(3) for s in (1, 2, 3)] + [(3, 0)] or found == sorted(
        {(e, s) for e in range(3) for s in (1, 2, 3)} | {(e, 0) for e in (1, 2, 3)}
    )
    assert same_bits(weights_of(tmp_path), weights_of(whole)) and timeless(tmp_path) == timeless(whole)


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_kill_within_an_epoch_loses_only_what_came_after_the_last_save(tmp_path, monkeypatch, uninterrupted, steps):
    original, count = loop.Run.train_step, 0

    def train_step(run, index):
        nonlocal count
        if count == steps:
            raise Killed
        original(run, index)
        count += 1

    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(loop.Run, "train_step", train_step)
        loop.train(tmp_path, SMALL, save_every=0)
    progress = json.loads(state.newest_state(tmp_path).metadata["progress"])
    assert 3 * progress["epoch"] + progress["step"] == steps
    loop.train(tmp_path, SMALL, resume=True, save_every=7)  # it is no option of the run: another value is none too
    whole = uninterrupted[SMALL.model]
    assert same_bits(weights_of(tmp_path), weights_of(whole)) and timeless(tmp_path) == timeless(whole)


def test_a_state_without_the_averages_within_the_epoch_is_noticed(tmp_path, monkeypatch, uninterrupted):
    """The planted fault of the test above: the sums of the epoch begin again."""
    arrays = loop.Run.arrays

    def forgetful(run):
        found = arrays(run)
        return {k: np.zeros_like(v) if run.step and k.startswith("average") else v for k, v in found.items()}

    monkeypatch.setattr(loop.Run, "arrays", forgetful)
    with pytest.raises(AssertionError):
        test_a_kill_within_an_epoch_loses_only_what_came_after_the_last_save(tmp_path, monkeypatch, uninterrupted, 4)


@pytest.mark.parametrize(
    ("seconds", "cost", "wanted"),
    [
        (60, 0.0, [60, 120, 180]),
        (60, 0.5, [60, 120, 180]),
        (60, 1.0, [60, 161]),
        (50, 0.1, [50, 100, 150]),
        (0, 9, None),
    ],
)
def test_saves_are_so_far_apart_and_take_at_most_a_hundredth_of_the_time(monkeypatch, seconds, cost, wanted):
    now = 0.0
    monkeypatch.setattr(state.time, "monotonic", lambda: now)
    pace, saved = state.Pace(seconds), []
    while now < 200:
        if pace.due():
            saved.append(math.floor(now))
            with pace.measured():
                now += cost
        now += 1
    if wanted is None:
        assert len(saved) == 20  # after every step, whatever it costs
    else:
        assert len(saved) == len(wanted) and all(abs(a - b) <= 2 for a, b in zip(saved, wanted, strict=True))
        assert all(b - a >= 100 * cost for a, b in itertools.pairwise(saved))


def test_a_minute_passes_between_saves_unless_told_otherwise(tmp_path, monkeypatch):
    """Steps of 25 seconds: after the third of an epoch a minute is over."""
    found, now = steps_saved(monkeypatch), 0.0
    original = loop.Run.train_step

    def train_step(run, index):
        nonlocal now
        original(run, index)
        now += 25

    monkeypatch.setattr(state.time, "monotonic", lambda: now)
    monkeypatch.setattr(loop.Run, "train_step", train_step)
    loop.train(tmp_path, replace(SMALL, batch_size=6, epochs=1))
    assert found == [(0, 3), (0, 6), (1, 0)]


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "60", None, True])
def test_what_is_no_number_of_seconds_is_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match=r"^--save-every: got .+; give a number of seconds from 0"):
        loop.train(tmp_path / "new", SMALL, save_every=wrong)
    assert not (tmp_path / "new").exists()


def test_the_command_line_hands_the_seconds_on_and_keeps_them_out_of_the_options(tmp_path, monkeypatch, capsys):
    found = {}

    def fake(folder, options, **keywords):
        found.update(keywords)
        return {"test_accuracy": 0.5, "test_loss": 1.0, "epoch": 1}

    monkeypatch.setattr(loop, "train", fake)
    for arguments, seconds in (([], 60.0), (["--save-every", "0"], 0.0), (["--save-every", "2.5"], 2.5)):
        assert cli.main(["train", "--output", str(tmp_path), *arguments]) == 0
        assert found["save_every"] == seconds
    assert cli.main(["train", "--save-every", "often"]) == 2


# States that are not a run's


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """The folder of a run that was stopped after 4 steps, 1 of them in its second epoch."""
    with monkeypatch.context() as stopping:
        stop_after(stopping, 4)
        with pytest.raises(StoppedError):
            loop.train(tmp_path, SMALL)
    (tmp_path / "state.previous.safetensors").unlink()
    return tmp_path


def rewrite(folder, change):
    """Change a state, and write it with a digest that is right again."""
    path = folder / "state.safetensors"
    tensors, metadata = read_tensors(path)
    tensors = dict(tensors)
    texts = {name: json.loads(metadata[name]) for name in ("options", "progress")}
    found = change(tensors, texts)
    metadata = {"format": metadata["format"], **{name: json.dumps(text) for name, text in texts.items()}}
    write_tensors(path, tensors, {**metadata, **(found or {})})


def put(name, array):
    def change(tensors, _):
        tensors[name] = array(tensors.get(name))

    return change


def told(where, value):
    """Set a field of the metadata: "progress.sums.images"; Ellipsis removes it."""

    def change(_, texts):
        *path, last = where.split(".")
        place = texts
        for name in path:
            place = place[int(name) if name.isdigit() else name]
        if value is ...:
            del place[last]
        else:
            place[int(last) if last.isdigit() else last] = value

    return change


def moved(old, new):
    def change(tensors, _):
        tensors[new] = tensors.pop(old)

    return change


BIAS, GAMMA, MEAN = "net/fc.bias", "net/3a.b1.bn.gamma", "net/3a.b1.bn.mean"
# fmt: off
NONSENSE = {
    "missing": (lambda tensors, _: tensors.pop(GAMMA) is None or None, f"{GAMMA}: missing"),
    "a missing vector": (lambda tensors, _: tensors.pop("optimizer/velocity") is None or None, "optimizer/velocity: m"),
    "renamed": (moved(GAMMA, "net/3a.b1.bn.gama"), f"{GAMMA}: missing"),
    "left over": (put("net/more", lambda _: np.zeros(3)), "net/more: unexpected"),
    "a third average": (put("average/99", lambda _: np.zeros(3)), "average/99: unexpected"),
    "one number for all": (put(BIAS, lambda a: a[:1]), rf"{BIAS}: got shape \(1,\), wanted \(10,\)"),
    "no axis": (put(GAMMA, lambda a: a[0]), rf"{GAMMA}: got shape \(\), wanted \(3,\)"),
    "one axis more": (put(GAMMA, lambda a: a[None]), rf"{GAMMA}: got shape \(1, 3\)"),
    "a vector too short": (put("optimizer/velocity", lambda a: a[:-1]), "optimizer/velocity: got shape"),
    "one velocity for all": (put("optimizer/velocity", lambda a: a[:1]), "optimizer/velocity: got shape"),
    "one average for all": (put("average/0", lambda a: a[:1]), "average/0: got shape"),
    "float64": (put(GAMMA, lambda a: a.astype(np.float64)), f"{GAMMA}: got float64, wanted float32"),
    "whole numbers": (put(MEAN, lambda a: a.astype(np.int32)), f"{MEAN}: got int32, wanted float32"),
    "booleans": (put("average/0", lambda a: a > 0), "average/0: got bool, wanted float32"),
    "NaN": (put(MEAN, lambda a: a * np.nan), f"{MEAN}: holds NaN or infinity"),
    "infinity": (put("optimizer/velocity", lambda a: a + np.inf), "optimizer/velocity: holds NaN or infinity"),
    "an epoch below 0": (told("progress.epoch", -1), "progress.epoch: got -1, wanted a whole number from 0 to 3"),
    "an epoch too many": (told("progress.epoch", 4), "progress.epoch: got 4"),
    "half an epoch": (told("progress.epoch", 1.0), "progress.epoch: got 1.0"),
    "a true epoch": (told("progress.epoch", True), "progress.epoch: got True"),
    "no epoch": (told("progress.epoch", ...), "progress.epoch: missing"),
    "a step below 0": (told("progress.step", -1), "progress.step: got -1, wanted a whole number from 0 to 3"),
    "a step too many": (told("progress.step", 4), "progress.step: got 4"),
    "a step as text": (told("progress.step", "1"), "progress.step: got 1"),
    "another step": (told("progress.step", 2), "progress.updates: got 4, wanted 5"),
    "other updates": (told("progress.updates", 3), "progress.updates: got 3, wanted 4"),
    "no sums": (told("progress.sums", []), "progress.sums: wanted an object"),
    "a sum less": (told("progress.sums.right", ...), "progress.sums.right: missing"),
    "a sum more": (told("progress.sums.left", 1), "progress.sums.left: unexpected"),
    "images below 0": (told("progress.sums.images", -16), "progress.sums.images: got -16, wanted 16"),
    "too many right": (told("progress.sums.right", 17), "progress.sums.right: got 17"),
    "a loss that is NaN": (told("progress.sums.loss", math.nan), "progress.sums.loss: got nan"),
    "an infinite loss": (told("progress.sums.loss", math.inf), "progress.sums.loss: got inf"),
    "seconds below 0": (told("progress.sums.seconds", -1.0), "progress.sums.seconds: got -1.0"),
    "no history": (told("progress.history", []), "progress.history: wanted a list of 1 finished epochs"),
    "a history as text": (told("progress.history", "x"), "progress.history: wanted a list"),
    "an epoch as text": (told("progress.history.0", "x"), r"progress.history\[0\]: wanted an object"),
    "another epoch": (told("progress.history.0.epoch", 2), r"progress.history\[0\].epoch: got 2, wanted 1"),
    "an epoch without lr": (told("progress.history.0.lr", ...), r"progress.history\[0\].lr: missing"),
    "more in an epoch": (told("progress.history.0.note", "x"), r"progress.history\[0\].note: unexpected"),
    "an accuracy above 1": (told("progress.history.0.test_accuracy", 1.5), r"progress.history\[0\].test_acc.*got 1.5"),
    "a test loss of NaN": (told("progress.history.0.test_loss", math.nan), r"progress.history\[0\].test_loss: got nan"),
    "a field more": (told("progress.mood", "good"), "progress.mood: unexpected"),
    "no option lr": (told("options.lr", ...), "options.lr: missing"),
    "an unknown option": (told("options.rl", 0.1), "options.rl: unexpected"),
    "an option as text": (told("options.lr", "0.05"), "options: --lr: got '0.05'"),
    "half a batch": (told("options.batch_size", 16.0), "options: --batch-size: got 16.0"),
    "nothing for an option": (told("options.momentum", None), "options: --momentum: got None"),
    "a number for a switch": (told("options.augment", 1), "options: --augment: got 1"),
    "a rate below 0": (told("options.lr", -1.0), "options: --lr: got -1.0"),
    "a rate that is NaN": (told("options.lr", math.nan), "options: --lr: got nan"),
    "no optimiser's name": (told("options.optimizer", "adam"), "options: --optimizer: got 'adam'"),
    "options as text": (lambda *_: {"options": '"x"'}, "options: not an object"),
    "options that are no JSON": (lambda *_: {"options": "{"}, "options: Expecting"),
    "progress that is deep": (lambda *_: {"progress": "[" * 100_000}, "progress: "),
    "progress with a name twice": (
        lambda _, texts: {"progress": '{"epoch": 0, ' + json.dumps(texts["progress"])[1:]}, "progress: not an object",
    ),
    "another format": (lambda *_: {"format": "inception_np training 2"}, "format: got 'inception_np training 2'"),
}
# fmt: on


def resumed(folder):
    """Take up the run in the folder. Returns the run, changed or not, and the error if there was one."""
    run = loop.Run(folder, SMALL, False)
    before = {name: array.copy() for name, array in run.arrays().items()}
    counters = run.epoch, run.step, dict(run.sums), list(run.history), run.average.updates
    try:
        run.restore()
    except (ValueError, TypeError, KeyError, IndexError, UsageError) as error:
        untouched = same_bits(before, run.arrays())
        return error, untouched and counters == (run.epoch, run.step, run.sums, run.history, run.average.updates)
    return None, False


@pytest.mark.parametrize("fault", NONSENSE)
def test_a_state_that_no_run_could_have_written_is_refused_by_field_and_changes_nothing(stopped, fault):
    change, text = NONSENSE[fault]
    rewrite(stopped, change)
    before = contents(stopped)
    error, untouched = resumed(stopped)
    assert type(error) is ValueError and untouched
    with pytest.raises(ValueError, match=f"^{stopped}/state.safetensors: {text}"):
        raise error
    assert "; " in str(error) and "\n" not in str(error)
    with pytest.raises(ValueError, match=r"state.safetensors: "):
        loop.train(stopped, SMALL, resume=True)
    assert contents(stopped) == before


@pytest.mark.parametrize("part", ["check_tensors", "progress_of", "options_of"])
def test_states_that_are_taken_as_they_are_would_be_noticed(stopped, monkeypatch, part):
    """The planted faults: without one of the three checks, what it refuses gets through or changes the run."""
    plain = {
        "check_tensors": lambda state, arrays: None,
        "progress_of": lambda state, *_: json.loads(state.metadata["progress"]),
        "options_of": lambda state: SMALL,
    }
    monkeypatch.setattr(state, part, plain[part])
    fault = {"check_tensors": "one number for all", "progress_of": "a step below 0", "options_of": "an option as text"}
    with pytest.raises(AssertionError):
        test_a_state_that_no_run_could_have_written_is_refused_by_field_and_changes_nothing(stopped, fault[part])


def test_a_state_that_was_rewritten_and_not_changed_is_taken_up(stopped, uninterrupted):
    rewrite(stopped, lambda *_: None)
    loop.train(stopped, SMALL, resume=True)
    assert same_bits(weights_of(stopped), weights_of(uninterrupted[SMALL.model]))


ADDED = tuple(state.ADDED)


def without_added(_, texts):
    for field in ADDED:
        del texts["options"][field]


def test_a_state_of_an_earlier_version_is_taken_up_without_the_options_since(stopped, uninterrupted):
    rewrite(stopped, without_added)
    assert state.options_of(state.newest_state(stopped)) == SMALL
    loop.train(stopped, SMALL, resume=True)
    assert same_bits(weights_of(stopped), weights_of(uninterrupted[SMALL.model]))
    assert state.options_of(state.newest_state(stopped)) == SMALL


def test_an_option_whose_absence_is_not_known_would_be_noticed(stopped, uninterrupted, monkeypatch):
    """The planted fault of the test above."""
    monkeypatch.setattr(state, "ADDED", {})
    with pytest.raises(ValueError, match=r"options.from_: missing"):
        test_a_state_of_an_earlier_version_is_taken_up_without_the_options_since(stopped, uninterrupted)


@pytest.mark.parametrize(("field", "value"), [("model", "inception_v9"), ("data", "shapes11"), ("lr", "fast")])
def test_the_command_line_names_the_file_whose_options_no_run_could_have(stopped, capsys, field, value):
    def change(_, texts):
        texts["options"] |= {"model": "bn_inception_cifar", field: value}

    rewrite(stopped, change)
    assert cli.main(["train", "--resume", "--output", str(stopped)]) == 1
    errors = capsys.readouterr().err
    assert f"{stopped}/state.safetensors: options" in errors and value in errors and errors.count("\n") == 1


def test_a_run_is_not_taken_up_with_other_options_than_its_own(stopped):
    with pytest.raises(UsageError, match=r"--lr: got 0.1, the run in .* has 0.05; leave it out"):
        loop.train(stopped, replace(SMALL, lr=0.1), resume=True)


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_the_state_before_a_damaged_one_is_kept_until_a_whole_one_is_there(
    tmp_path, monkeypatch, uninterrupted, capsys, damage
):
    """Killed while the first state after the damage is written."""
    loop.train(tmp_path, SMALL)
    newest = tmp_path / "state.safetensors"
    if damage == "cut":
        newest.write_bytes(newest.read_bytes()[:-1])
    else:
        newest.unlink()

    def killed(*_):
        raise Killed

    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(state, "write_tensors", killed)
        loop.train(tmp_path, SMALL, resume=True)
    assert capsys.readouterr().err.count("going back to state.previous.safetensors") == 1
    loop.train(tmp_path, SMALL, resume=True)
    assert same_bits(weights_of(tmp_path), weights_of(uninterrupted[SMALL.model]))


def test_two_damaged_states_are_refused_by_name(tmp_path):
    loop.train(tmp_path, SHORT)
    for name in ("state.safetensors", "state.previous.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"state.previous.safetensors: data: "):
        loop.train(tmp_path, SHORT, resume=True)
    assert contents(tmp_path) == before

"""Signals end a run at any time: with the code 128 + n, a message that is true, and nothing lost."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_runs import ARGUMENTS, DRAW, SMALL, same_bits, timeless, tiny_networks, uninterrupted, weights_of

from inception_np import __main__ as cli
from inception_np.backend.errors import StoppedError
from inception_np.training import command as training_command
from inception_np.training import fits, loop, plots, results, state
from inception_np.training.average import MovingAverage
from inception_np.training.signals import Interrupted, Signals
from inception_np.weights import checkpoint

__all__ = ["tiny_networks", "uninterrupted"]  # fixtures

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def at_once(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_a_signal_raises_where_it_arrives_or_at_the_next_check():
    with Signals() as signals:
        with pytest.raises(Interrupted) as caught:
            at_once(signal.SIGTERM)
        assert caught.value.number == signal.SIGTERM
    done = []
    with Signals() as signals, pytest.raises(Interrupted), signals.deferred():
        at_once(signal.SIGHUP)
        done.append("the step")
        signals.check()
        done.append("the next step")
    assert done == ["the step"]
    with pytest.raises(Interrupted), Signals() as signals, signals.deferred():
        at_once(signal.SIGINT)
        done.append("all of it")
    assert done == ["the step", "all of it"]


class Freed:
    """A signal comes while this is freed."""

    def __del__(self):
        at_once(signal.SIGTERM)


def test_a_signal_in_a_destructor_is_kept_for_the_next_check(monkeypatch):
    """Python would print what a destructor raises, and forget it."""
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: lost.append(error.exc_value))
    with Signals() as signals:
        Freed()
        assert signals.caught == signal.SIGTERM and lost == []
        with pytest.raises(Interrupted):
            signals.check()


def test_a_signal_that_a_destructor_lost_would_be_noticed(monkeypatch):
    monkeypatch.setattr("inception_np.training.signals._in_destructor", lambda frame: False)
    with pytest.raises(AssertionError):
        test_a_signal_in_a_destructor_is_kept_for_the_next_check(monkeypatch)


def test_the_handlers_from_before_come_back_and_an_ignored_sighup_stays_ignored():
    before = [signal.getsignal(number) for number in NUMBERS]
    with Signals():
        assert [signal.getsignal(number) for number in NUMBERS] != before
    assert [signal.getsignal(number) for number in NUMBERS] == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            at_once(signal.SIGHUP)
            time.sleep(0.01)
            assert not signals.caught
    finally:
        signal.signal(signal.SIGHUP, before[2])


def test_in_another_thread_nothing_is_handled_and_nothing_fails():
    found = []

    def inside():
        with Signals() as signals, signals.deferred():
            found.append(signals.caught)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [0]


# A signal in each part of a run: (what is called there, does it belong to the loop, is a state there already?)
PARTS = {
    "while the data is read": ((loop, "load"), "before the first step; nothing was to be saved"),
    "while the network is made": ((fits, "create_model"), "before the first step; nothing was to be saved"),
    "before the first step": ((loop.Run, "header"), "in epoch 1 after 0 of 3 steps, all is saved; continue with"),
    "in a step": ((loop.Run, "train_step"), "in epoch 1 after 1 of 3 steps, all is saved; continue with"),
    "while the state is written": ((loop, "write_state"), "in epoch 2 after 0 of 3 steps, all is saved; continue with"),
    "while the checkpoint is written": (
        (results, "save"),
        "in epoch 2 after 0 of 3 steps, all is saved; continue with",
    ),
    "in the test": ((loop, "evaluate"), "in epoch 1 after 3 of 3 steps, all is saved; continue with"),
    "while a picture is drawn": ((plots, "confusion"), "after the last epoch; all is saved, but pictures may be mis"),
}


def interrupting(patch, owner, name, number, times=1):
    """Send a signal to this process when the function of that name is called for the first time."""
    original, calls = getattr(owner, name), []

    def call(*args, **keywords):
        calls.append(1)
        if len(calls) <= times:
            os.kill(os.getpid(), number)
        return original(*args, **keywords)

    patch.setattr(owner, name, call)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("part", PARTS)
def test_a_signal_in_any_part_of_a_run_saves_what_is_there_and_says_so(
    tmp_path, monkeypatch, uninterrupted, capsys, part, number
):
    (owner, name), text = PARTS[part]
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "draw", DRAW)
        interrupting(patch, owner, name, number)
        patch.setattr(training_command, "run", lambda _: loop.train(tmp_path, SMALL) and 0)
        code = cli.main(["train"])
    errors = capsys.readouterr().err
    assert code == 128 + number
    last = errors.splitlines()[-1]
    assert last.startswith(f"inception-np: train: stopped by {signal.Signals(number).name} {text}"), last
    assert "Traceback" not in errors
    saved = state.holds_run(tmp_path)
    assert saved == ("nothing was to be saved" not in errors) == (f"--resume --output {tmp_path}" in errors)
    if "all is saved" in last and "in epoch" in last:
        progress = json.loads(state.newest_state(tmp_path).metadata["progress"])
        assert f"in epoch {progress['epoch'] + 1} after {progress['step']} of 3 steps" in last
    if saved:
        assert checkpoint.read_tensors(tmp_path / "checkpoint.safetensors")
    loop.train(tmp_path, SMALL, resume=saved)
    whole = uninterrupted[SMALL.model]
    assert same_bits(weights_of(tmp_path), weights_of(whole)) and timeless(tmp_path) == timeless(whole)
    assert not list(tmp_path.glob(".*"))


def test_a_run_taken_up_and_stopped_before_its_next_step_is_said_to_be_as_it_was(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        interrupting(patch, loop.Run, "train_step", signal.SIGINT)
        loop.train(tmp_path, SMALL)
    before = (tmp_path / "state.safetensors").read_bytes()
    with (
        monkeypatch.context() as patch,
        pytest.raises(StoppedError, match=r"before the next step; the run in .* is as"),
    ):
        interrupting(patch, state, "newest_state", signal.SIGINT)
        loop.train(tmp_path, SMALL, resume=True)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_a_signal_in_the_last_save_is_not_forgotten(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(StoppedError, match="after the last epoch; all is saved"):
        original = loop.Run.save_results

        def save_results(run):
            original(run)
            if run.epoch == SMALL.epochs:
                at_once(signal.SIGTERM)

        patch.setattr(loop.Run, "save_results", save_results)
        loop.train(tmp_path, SMALL)
    assert len(timeless(tmp_path)) == SMALL.epochs


@contextlib.contextmanager
def averages_left_in_place(average):
    weights = [array.copy() for array in average.arrays]
    for array, mean in zip(average.arrays, average.means, strict=True):
        array[...] = mean
    yield  # without try and finally
    for array, weight in zip(average.arrays, weights, strict=True):
        array[...] = weight


@contextlib.contextmanager
def nothing_deferred(signals):
    yield


@pytest.mark.parametrize(
    ("part", "owner", "name", "fault"),
    [
        ("in the test", MovingAverage, "in_place", averages_left_in_place),
        ("in a step", loop.Signals, "deferred", nothing_deferred),
        ("in a step", loop.Run, "save", lambda run: None),
        ("while the data is read", loop, "stopped_outside", lambda number, *_: KeyboardInterrupt(number)),
    ],
)
def test_signals_that_lose_or_mix_up_something_would_be_noticed(
    tmp_path, monkeypatch, uninterrupted, capsys, part, owner, name, fault
):
    """The planted faults of the tests above."""
    monkeypatch.setattr(owner, name, fault)
    with pytest.raises((AssertionError, FileNotFoundError)):
        test_a_signal_in_any_part_of_a_run_saves_what_is_there_and_says_so(
            tmp_path, monkeypatch, uninterrupted, capsys, part, signal.SIGTERM
        )


# A second signal, in processes of their own

TWICE = """
import os, signal, sys, time
from inception_np import __main__ as cli
from inception_np.training import loop
step, first, second = loop.Run.train_step, int(sys.argv.pop(1)), int(sys.argv.pop(1))
def train_step(run, index):
    step(run, index)
    if run.epoch == 1:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)
        time.sleep(60)
loop.Run.train_step = train_step
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,) * 2, (signal.SIGHUP, signal.SIGTERM)]
)
def test_a_second_signal_ends_the_process_at_once_and_damages_nothing(tmp_path, first, second):
    command = [sys.executable, "-c", TWICE, str(int(first)), str(int(second)), "train", "--output", str(tmp_path)]
    started = time.monotonic()
    done = subprocess.run(
        [*command, *ARGUMENTS.split(), "--epochs", "1000"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 128 + second and time.monotonic() - started < 50
    assert "Traceback" not in done.stderr and not done.stdout
    assert json.loads(state.newest_state(tmp_path).metadata["progress"])["epoch"] == 1
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")


def test_a_second_signal_while_the_first_is_being_reported_is_no_traceback(tmp_path):
    program = """
import os, signal, sys
from inception_np import __main__ as cli
def stopped(_):
    os.kill(os.getpid(), signal.SIGTERM)
def say(text):
    print(text, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
from inception_np.models import command
command.print_models = stopped
cli.say = say
sys.exit(cli.main(["models"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "inception-np: stopped\n")


LATE = """
import atexit, os, signal, sys
from inception_np import __main__ as cli
atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
{planted}
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("planted", "code"), [("", 0), ("cli.Signals = lambda of_process: Signals()", -signal.SIGTERM)]
)
def test_a_signal_while_the_process_ends_does_not_change_its_code(planted, code):
    """The second is the planted fault: the handlers from before come back, and the process dies."""
    program = LATE.format(planted=planted and "from inception_np.training.signals import Signals; " + planted)
    done = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == code and done.stderr == ""

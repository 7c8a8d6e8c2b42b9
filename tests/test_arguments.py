"""Every number on the command line and in the environment: what is none, or none that fits, is one line at once."""

import argparse
import time

import numpy as np
import pytest
from numerics import snapshot

from inception_np import create_model
from inception_np.__main__ import COMMANDS, Parser, command_parser, main
from inception_np.backend import threads
from inception_np.data import dataset
from inception_np.runtime.bench import command as bench
from inception_np.training.arguments import natural, number, positive, size, whole
from inception_np.weights.checkpoint import save

NONE = ["", "nan", "inf", "-inf", "1e9999", "9" * 5000, "-1e999", "ten", "²", "٣", "1_0", " 3", "0x10", "1,5"]
NO_WHOLE = [*NONE, "1.5", "1e3", "1" + 23 * "0"]  # what is no number for any option, and no whole one


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        (whole, {"-1": -1, "0": 0, "18446744073709551615": 2**64 - 1}, NO_WHOLE),
        (natural, {"0": 0, "007": 7}, [*NO_WHOLE, "-1"]),
        (positive, {"1": 1, "250": 250, "9" * 18: 10**18 - 1}, [*NO_WHOLE, "0", "-1", "00"]),
        (number, {"0": 0.0, "-1.5": -1.5, "1e-3": 1e-3, ".5": 0.5, "2.": 2.0, "1e300": 1e300}, NONE),
        (size, {"299": (299, 299), "9x99999": (9, 99999)}, [*NO_WHOLE, "0", "9x", "9x0", "100000", "9x9x9"]),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_written_as_such_a_number_is_one_and_nothing_else(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=r"^got .*, wanted a ") as caught:
            kind(text)
        assert len(str(caught.value)) < 100


class Started(BaseException):
    """The work has begun: the arguments were taken."""


def started(*_arguments, **_keywords):
    raise Started


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The least that each command needs."""
    folder = tmp_path_factory.mktemp("numbers")
    about = {"data": "shapes10", "preprocess": {"size": [32, 32], "resize": 32, "mean": [1, 2, 3], "std": [4, 5, 6]}}
    save(create_model("inception_v1_cifar", width=1 / 16), folder / "model", about=about)
    return {
        "summary": ["inception_v1_cifar"],
        "train": ["--output", str(folder / "none")],
        "eval": [str(folder / "model")],
        "predict": [str(folder / "model"), str(folder / "none.png")],
        "look": [str(folder / "model"), str(folder / "none.png")],
        "gradcheck": ["ReLU"],
        "bench": ["inception_v1_cifar"],
        "import": [str(folder / "none.pth"), "--source", "timm", "--model", "xception"],
        "export": [str(folder / "model"), "--onnx", str(folder / "none.onnx"), "--training"],
    }


MUST_BE_POSITIVE = {
    "--threads",
    "--epochs",
    "--batch-size",
    "--batch",
    "--rounds",
    "--top",
    "--classes",
    "--lr",
    "--workers",
}
NUMBERS = [
    (command, action.option_strings[0], action.nargs if isinstance(action.nargs, int) else 1)
    for command in COMMANDS
    for action in command_parser(command, Parser().add_subparsers())._actions
    if action.option_strings and action.type is not None
]


def test_every_option_that_takes_a_number_is_found():
    assert len(NUMBERS) >= 32 and {command for command, *_ in NUMBERS} == set(COMMANDS) - {"models", "learn"}


@pytest.mark.parametrize("command, option, count", NUMBERS)
def test_what_is_no_number_is_refused_at_once(capsys, monkeypatch, base, command, option, count):
    monkeypatch.setattr(dataset, "shapes10", started)
    monkeypatch.setattr(bench, "_process", started)
    for text in [*NONE, *["0"] * (option in MUST_BE_POSITIVE)]:
        began = time.perf_counter()
        code = main([command, *base[command], f"{option}={text}", *["1"] * (count - 1)])
        errors = capsys.readouterr().err
        assert code == 2 and errors.startswith(f"inception-np: error: {option}: "), (text, errors)
        assert errors.count("\n") == 1 and len(errors) < 200
        assert time.perf_counter() - began < 2


# A number that is one, but too small or too large: the exit code, and a part of the line.
OUT_OF_RANGE = [
    ("summary --width 1e300", 2, "got width=1e+300, wanted a number above 0 and up to 10000"),
    ("summary --width 0", 2, "got width=0.0, wanted a number above 0 and up to 10000"),
    ("summary --width 9999", 3, "--width: 9999 makes about "),
    ("summary --classes 999999999999", 3, "--classes: 999999999999 makes about "),
    ("summary --input 1", 1, "the smallest image that inception_v1_cifar takes is "),
    ("train --seed 18446744073709551616", 2, "--seed: got 18446744073709551616; give a number from 0 to "),
    ("train --seed -1", 2, "--seed: got -1; give a number from 0 to "),
    ("train --train-images 999999999999", 2, "--train-images: got 999999999999; shapes10 gives at most 1,000,000"),
    ("eval --test-images 999999999999", 2, "--test-images: got 999999999999; shapes10 gives at most 1,000,000"),
    ("bench --seconds 0", 2, "--seconds: got 0.0; give a number above 0 and up to "),
    ("bench --seconds 1e300", 2, "--seconds: got 1e+300; give a number above 0 and up to "),
    ("bench --batch 999999999999", 2, "--batch: got 999999999999; give a number above 0 and up to "),
    ("bench --rounds 999999999999", 2, "--rounds: got 999999999999; give a number above 0 and up to "),
    ("gradcheck --seed -1", 2, "--seed: got '-1', wanted a whole number from 0"),
]


@pytest.mark.parametrize("line, code, text", OUT_OF_RANGE, ids=[row[0] for row in OUT_OF_RANGE])
def test_a_number_out_of_range_is_refused_at_once(capsys, monkeypatch, base, line, code, text):
    command, option, value = line.split()
    monkeypatch.setattr(dataset, "shapes10", started)
    monkeypatch.setattr(bench, "_process", started)
    began = time.perf_counter()
    assert main([command, *base[command], option, value]) == code
    errors = capsys.readouterr().err
    assert text in errors and errors.count("\n") == 1, errors
    assert time.perf_counter() - began < 5


def test_a_right_number_is_taken(monkeypatch, base):
    """So the tests above see a command that would start."""
    monkeypatch.setattr(dataset, "shapes10", started)
    monkeypatch.setattr(bench, "_process", started)
    for line in ("train --lr 0.1", "train --epochs 3", "eval --batch-size 7", "bench --seconds 0.5"):
        command, option, value = line.split()
        with pytest.raises(Started):
            main([command, *base[command], option, value])


# Threads


@pytest.fixture
def no_threads_yet(monkeypatch):
    for name, value in (("used", 0), ("_said", False)):
        monkeypatch.setattr(threads, name, value)


def test_more_threads_than_are_of_use_are_capped_and_it_is_said_once(capsys, no_threads_yet):
    most = threads.MOST_PER_CORE * threads.cores()
    for wanted in (3000, 10**9, 10**23, most + 1):
        threads.set_num_threads(wanted)
        assert threads.num_threads() == most
    said = f"inception-np: threads: {most} are used, {threads.MOST_PER_CORE} for each core; more would be slower\n"
    assert capsys.readouterr().err == said
    threads.set_num_threads(most)
    threads.set_num_threads(1)
    assert threads.num_threads() == 1 and capsys.readouterr().err == ""


def test_a_network_runs_on_as_many_threads_as_are_used_to_the_same_bits(no_threads_yet):
    from inception_np import Mode

    net, x = create_model("inception_v1_cifar", width=1 / 16), np.ones((2, 32, 32, 3), np.float32)
    before, bits = snapshot(net), set()
    for wanted in (1, 10**9):
        threads.set_num_threads(wanted)
        bits.add(net.forward(x, Mode())[0].tobytes())
    assert len(bits) == 1 and snapshot(net) == before


@pytest.mark.parametrize("text", ["", "1", "3000", "9" * 23, "00000000000000000000002", "9" * 5000])
def test_a_number_of_threads_in_the_environment_is_taken_and_capped(monkeypatch, no_threads_yet, text):
    monkeypatch.setenv("INCEPTION_NP_THREADS", text)
    wanted = int(text[:100]) if text else threads.cores()
    assert threads.num_threads() == min(wanted, threads.MOST_PER_CORE * threads.cores())


@pytest.mark.parametrize("text", ["0", "000", "-1", "two", "1.5", "nan", "1e9", "²", "٣", " "])
@pytest.mark.parametrize("command", ["train", "eval", "predict", "bench"])
def test_what_is_no_number_of_threads_in_the_environment_is_refused_at_once(
    capsys, monkeypatch, no_threads_yet, base, command, text
):
    monkeypatch.setenv("INCEPTION_NP_THREADS", text)
    monkeypatch.setattr(dataset, "shapes10", started)
    assert main([command, *base[command]]) == 2
    errors = capsys.readouterr().err
    assert errors == f"inception-np: error: INCEPTION_NP_THREADS: got {text!r}, wanted a whole number from 1\n"

"""Wrong command lines that tests/test_cli.py does not have: numbers that are none, too large or too small."""

import os

import numpy as np
import pytest

from inception_np import create_model
from inception_np.backend import threads
from inception_np.training import loop
from inception_np.weights.checkpoint import save

from . import small

# Arguments, exit code, and what the line must say. {c}: a checkpoint, {p}: a picture.
WRONG = [
    ("train --width 1e300", (2, 3), "width"),
    ("train --width nan", (2,), "width"),
    ("train --width inf", (2, 3), "width"),
    ("train --width 0", (2,), "width"),
    ("train --threads 99999999999999999999999", (2,), "--threads"),
    ("train --threads -1", (2,), "--threads"),
    ("train --momentum 1", (2,), "--momentum"),
    ("train --momentum 1.5", (2,), "--momentum"),
    ("train --momentum nan", (2,), "--momentum"),
    ("train --train-images 1", (2,), "--train-images"),
    ("train --train-images 10 --batch-size 64", (2,), "--batch-size"),
    ("train --batch-size 100000", (2,), "--batch-size"),
    ("train --epochs 99999999999", (2,), "--epochs"),
    ("train --lr inf", (2,), "--lr"),
    ("train --lr 1e300", (2,), "--lr"),
    ("train --weight-decay 2", (2,), "--weight-decay"),
    ("train --smoothing 1", (2,), "--smoothing"),
    ("train --clip -1", (2,), "--clip"),
    ("train --clip nan", (2,), "--clip"),
    ("train --ema -0.1", (2,), "--ema"),
    ("train --seed 99999999999999999999999", (2,), "--seed"),
    ("train --seed 0.5", (2,), "--seed"),
    ("train --test-images -3", (2,), "--test-images"),
    ("train --warm-up -1", (2,), "--warm-up"),
    ("train --data-dir", (2,), "--data-dir"),
    ("summary inception_v1 --width nan", (2,), "width"),
    ("summary inception_v1 --width 1e300", (2, 3), "width"),
    ("summary inception_v1 --classes 99999999999999999999", (2, 3), "--classes"),
    ("eval {c} --threads 0", (2,), "--threads"),
    ("eval {c} --batch-size 0", (2,), "--batch-size"),
    ("eval {c} --test-images ten", (2,), "--test-images"),
    ("predict {c} {p} --top 0", (2,), "--top"),
    ("predict {c} {p} --crops ten", (2,), "--crops"),
    ("bench --batch 0", (2,), "--batch"),
    ("bench --seconds nan", (2,), "--seconds"),
    ("import {c} --source torch --model inception_v1", (2,), "--source"),
    ("gradcheck Conv2D(3,8,3) --input 2y5", (2,), "--input"),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    from PIL import Image

    root = tmp_path_factory.mktemp("wrong")
    save(create_model("inception_v1_cifar", width=1 / 16), root / "m.safetensors", about={"data": "shapes10"})
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(root / "a.png")
    return {"c": root / "m.safetensors", "p": root / "a.png"}


def wrong(arguments, codes, text):
    """What is wrong with the answer to a wrong command line, or None."""
    before = os.times()
    code, said = small.said(arguments)
    seconds = sum(os.times()[:2]) - sum(before[:2])
    if code not in codes or said.count("\n") != 1 or not said.startswith("inception-np: error: ") or text not in said:
        return f"ended with {code}: {said}"
    return f"took {seconds:.1f} s" if seconds > 2 else None


@pytest.mark.parametrize(("arguments", "codes", "text"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_command_line_is_one_line(tmp_path, monkeypatch, places, arguments, codes, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(threads, "used", threads.num_threads())
    monkeypatch.setattr(loop.Run, "go", lambda run: pytest.fail("it was taken for right"))
    assert wrong(arguments.format(**places).split(), codes, text) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", ["-1", "0", "two", "1.5", "²"])
def test_a_wrong_number_of_threads_in_the_environment_is_one_line(tmp_path, monkeypatch, places, count):
    monkeypatch.setattr(threads, "used", 0)
    monkeypatch.setenv("INCEPTION_NP_THREADS", count)
    monkeypatch.chdir(tmp_path)
    assert wrong(["eval", str(places["c"]), "--test-images", "20"], (1, 2), "INCEPTION_NP_THREADS") is None


def test_a_command_line_that_is_right_is_not_wrong(places):
    assert wrong(["summary", "inception_v1"], (2,), "")


def test_an_error_of_two_lines_is_seen(monkeypatch, places):
    from inception_np import __main__ as cli
    from inception_np.models import command

    def broken(_args):
        raise cli.UsageError("--lr: got\n\nnan")

    monkeypatch.setattr(cli, "exit_code", lambda error: 0)
    monkeypatch.setattr(command, "print_models", broken)
    assert wrong(["models"], (2,), "--lr")

"""The command line: its results, its JSON, and one line for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inception_np import create_model
from inception_np.__main__ import COMMANDS, main
from inception_np.data.cifar10_archive import CIFAR10_FILES, RECORD, RECORDS
from inception_np.models import command as models_command
from inception_np.weights.checkpoint import save
from inception_np.weights.tensorfile import write_tensors

HELP_SECONDS = 0.25


def run(capsys, *arguments):
    """(exit code, standard output, standard error)"""
    code = main([str(a) for a in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    net = create_model("inception_v1_cifar", width=1 / 16)
    about = {
        "data": "shapes10",
        "classes": [f"class number {i}" for i in range(10)],
        "preprocess": {"size": [32, 32], "resize": 32, "mean": [120, 121, 122], "std": [60, 61, 62]},
    }
    save(net, path, about=about)
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    from PIL import Image

    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(path)
    return path


# Help


def python(*arguments, **keywords):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, **keywords)


def test_help_comes_in_under_a_quarter_of_a_second():
    """In seconds of this process's own computing, so that other processes on the machine do not count."""
    python("-m", "inception_np", "--help")
    seconds = []
    for _ in range(5):
        before = os.times()
        done = python("-m", "inception_np", "--help")
        after = os.times()
        seconds.append(after.children_user - before.children_user + after.children_system - before.children_system)
        assert done.returncode == 0 and all(name in done.stdout for name in COMMANDS)
    assert min(seconds) < HELP_SECONDS, seconds


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from inception_np.__main__ import main; main(['--help']); main(['train', '--help']);"
        "print([m for m in ('numpy', 'numba', 'matplotlib', 'rich', 'PIL', 'safetensors') if m in sys.modules])"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    code, output, errors = run(capsys, command, "--help")
    assert code == 0 and f"usage: inception-np {command}" in output and not errors


# Results


def test_models_lists_every_network(capsys):
    code, output, _ = run(capsys, "models", "inception_v1*", "--json")
    rows = json.loads(output)
    assert code == 0 and [row["name"] for row in rows] == ["inception_v1", "inception_v1_cifar"]
    assert set(rows[0]) == {"name", "preset", "input", "params", "macs"}
    first = {k: rows[0][k] for k in ("preset", "input", "params", "macs")}
    assert first == {"preset": "paper", "input": [224, 224, 3], "params": 6_998_552, "macs": 1_582_671_872}
    code, output, _ = run(capsys, "models", "inception_v1*")
    assert code == 0 and "6,998,552" in output and "1,582,671,872" in output


def test_summary_prints_a_table_or_json(capsys):
    code, output, _ = run(capsys, "summary", "googlenet", "--json", "--preset", "torchvision")
    table = json.loads(output)
    assert code == 0
    assert {"name", "preset", "input", "stages", "params", "params_aux", "macs"} <= set(table)
    assert (table["params"], table["macs"]) == (6_624_904, 1_498_376_192)
    assert {"name", "output", "params", "macs"} <= set(table["stages"][0])
    assert sum(stage["macs"] for stage in table["stages"]) == table["macs"]
    code, output, _ = run(capsys, "summary", "inception_v1", "--classes", "10", "--input", "96x128", "--width", "0.5")
    assert code == 0 and "96x128" in output


TINY = (
    "--model inception_v1_cifar --width 0.0625 --train-images 32 --test-images 20 --batch-size 16 --epochs 1 --lr 0.01"
)


def test_train_eval_and_predict_fit_together(capsys, tmp_path, picture):
    folder = tmp_path / "run"
    code, output, errors = run(capsys, "train", *TINY.split(), "--output", folder)
    assert code == 0 and "test accuracy" in output and "curves.png" in output
    assert "epoch 1/1" in errors and "\x1b" not in errors  # plain lines: this is no terminal
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    code, output, errors = run(
        capsys, "eval", folder / "checkpoint.safetensors", "--test-images", 20, "--json", "--batch-size", 7
    )
    found = json.loads(output)
    assert code == 0 and not errors and set(found) == {"accuracy", "loss", "images"}
    assert found["images"] == 20 and found["accuracy"] == last["test_accuracy"]
    np.testing.assert_allclose(found["loss"], last["test_loss"], rtol=1e-5)
    code, output, _ = run(capsys, "predict", folder / "checkpoint.safetensors", picture, picture, "--json", "--top", 3)
    found = json.loads(output)
    assert code == 0 and len(found) == 2 and len(found[0]["predictions"]) == 3
    chances = [p["probability"] for p in found[0]["predictions"]]
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1
    code, output, _ = run(capsys, "predict", folder / "checkpoint.safetensors", picture)
    assert code == 0 and len(output.splitlines()) == 6 and "%" in output
    code, output, _ = run(capsys, "train", "--resume", "--output", folder)
    assert code == 0 and "test accuracy" in output


def test_train_takes_flip(capsys, tmp_path, monkeypatch):
    from inception_np.training import loop

    monkeypatch.setattr(loop.Run, "draw", lambda self: None)
    told = "--augment", "--flip", "alternating"
    assert run(capsys, "train", *TINY.split(), *told, "--output", tmp_path)[0] == 0
    assert json.loads((tmp_path / "options.json").read_text())["flip"] == "alternating"
    assert run(capsys, "train", "--resume", "--output", tmp_path)[0] == 0
    code, _, errors = run(capsys, "train", "--resume", "--output", tmp_path, "--flip", "random")
    assert code == 2 and errors.count("\n") == 1 and "--flip: got random, the run " in errors


def test_train_and_eval_take_tta(capsys, tmp_path, monkeypatch):
    from inception_np.training import loop

    monkeypatch.setattr(loop.Run, "draw", lambda self: None)
    assert run(capsys, "train", *TINY.split(), "--tta", "--output", tmp_path)[0] == 0
    last = json.loads((tmp_path / "log.jsonl").read_text())
    losses = {}
    for options in ((), ("--tta",)):
        code, output, errors = run(
            capsys, "eval", tmp_path / "checkpoint.safetensors", "--test-images", 20, "--json", *options
        )
        assert code == 0 and not errors
        losses[options] = json.loads(output)["loss"]
    assert losses["--tta",] == last["test_loss"] != losses[()]
    for options in ((), ("--tta",)):
        assert run(capsys, "train", "--resume", "--output", tmp_path, *options)[0] == 0


def test_on_a_terminal_there_is_a_bar_with_loss_accuracy_speed_and_time_left(tmp_path):
    pty = pytest.importorskip("pty")
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "inception_np", "train", *TINY.split(), "--epochs", "3", "--output", tmp_path]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=end, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(end)
    seen = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        seen += piece
    os.close(terminal)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and b"test accuracy" in output and b"\x1b[" not in output
    text = seen.decode()
    assert all(word in text for word in ("epoch 1/3", "loss ", "accuracy", "images/s", "left", "\x1b["))


def test_train_without_an_output_makes_a_new_folder_each_time(capsys, tmp_path, monkeypatch):
    from inception_np.training import loop

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop.Run, "draw", lambda self: None)
    for name in ("inception_v1_cifar-shapes10", "inception_v1_cifar-shapes10-2"):
        code, output, _ = run(capsys, "train", *TINY.split())
        assert code == 0 and (tmp_path / "runs" / name / "checkpoint.safetensors").exists() and name in output


def test_results_of_a_process_go_to_standard_output_and_the_exit_code_is_its_own(tmp_path):
    done = python("-m", "inception_np", "models", "inception_v1", "--json")
    assert done.returncode == 0 and json.loads(done.stdout) and not done.stderr
    done = python("-m", "inception_np", "summary", "inception_v9")
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m inception_np models | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stderr == "" and done.stdout.startswith("network")


# Mistakes: arguments, exit code, and what the line must say. {c}: a checkpoint, {p}: a picture, {d}: a folder.

MISTAKES = [
    ("", 2, "command: none given; choose from models"),
    ("trian", 2, "trian: no such command; the nearest is train"),
    ("frobnicate", 2, "frobnicate: no such command; choose from models"),
    ("--verbose", 2, "--verbose: no such option; "),
    ("models nothing_like_it", 2, "PATTERN: no network matches 'nothing_like_it'; "),
    ("models a b", 2, "b: one argument too many; "),
    ("summary", 2, "NAME: missing; see inception-np summary --help"),
    ("summary inception_v9", 2, "NAME: there is no network 'inception_v9'; the nearest "),
    ("summary Googlenet", 2, "googlenet"),
    ("summary inception_v1 --preset torch", 2, "inception_v1: got preset='torch', wanted one of "),
    ("summary inception_v1 --input 3x", 2, "--input: got '3x', wanted a size such as 299x299; "),
    ("summary inception_v1 --input 0x9", 2, "--input: got '0x9', wanted a size"),
    ("summary inception_v1 --input 10x10", 1, "the smallest image that inception_v1 takes is "),
    ("summary inception_v1 --classes 0", 2, "--classes: got '0', wanted a whole number from 1; "),
    ("summary inception_v1 --classes ten", 2, "--classes: got 'ten', wanted a whole number from 1; "),
    ("summary inception_v1 --width -1", 2, "width=-1.0"),
    ("summary inception_v1 --jsno", 2, "--jsno: no such option; the nearest is --json"),
    ("train --model inception", 2, "--model: there is no network 'inception'; "),
    ("train --model inception_v1_cifar --preset keras", 2, "--model: inception_v1_cifar: got preset='keras'"),
    ("train --data shapes", 2, "--data: there is no data set 'shapes'; the nearest is shapes10"),
    ("train --data imagenet", 2, "--data: there is no data set 'imagenet'; choose from shapes10, cifar10"),
    ("train --data cifar10 --data-dir {d}/nowhere", 1, "nowhere: no such folder; give --data-dir the folder"),
    ("train --data cifar10 --data-dir {d}", 1, "fetch https://www.cs.toronto.edu"),
    ("train --data cifar10 --data-dir {short}", 1, "data_batch_1.bin: ends at byte 30,729,999 inside record 9,999"),
    ("train --data cifar10 --data-dir {label}", 1, "test_batch.bin: byte 6,146 is 10, wanted a label from 0 to 9"),
    ("train --data cifar10 --data-dir {missing}", 1, "data_batch_3.bin missing"),
    ("train --epochs 0", 2, "--epochs: got '0', wanted a whole number from 1; "),
    ("train --epochs 1.5", 2, "--epochs: got '1.5', wanted a whole number from 1; "),
    ("train --epochs", 2, "--epochs: expected one argument; "),
    ("train --eporchs 3", 2, "--eporchs: no such option; the nearest "),
    ("train --epoch 3", 2, "--epoch: no such option; the nearest "),
    ("train --batch-size 1", 2, "--batch-size: got 1; give a number from 2 "),
    ("train --lr fast", 2, "--lr: got 'fast', wanted a number such as 0.1; "),
    ("train --lr -1", 2, "--lr: got -1.0; give a number from "),
    ("train --lr nan", 2, "--lr: got 'nan', wanted a number such as 0.1; "),
    ("train --momentum 7", 2, "--momentum: got 7.0; give a number from 0 to 0.999999"),
    ("train --ema 1", 2, "--ema: got 1.0; give a number from "),
    ("train --lookahead --ema 0.9", 2, "--lookahead: got it with --ema 0.9, "),
    ("train --seed -1", 2, "--seed: got -1; give a number from "),
    ("train --optimizer adam", 2, "--optimizer: got 'adam'; "),
    ("train --schedule cosin", 2, "--schedule: got 'cosin'; the nearest is cosine"),
    ("train --flip alternate", 2, "--flip: got 'alternate'; the nearest is alternating"),
    ("train --flip alternating --no-augment", 2, "--flip: got 'alternating' without augmentation, "),
    ("train --warm-up 99 --epochs 2", 2, "--warm-up: got 99.0; give a number from 0 to 2"),
    ("train --threads 0", 2, "--threads: got '0', wanted a whole number from 1; "),
    ("train --device gpu", 2, "--device: invalid choice: 'gpu'"),
    ("train --precision half", 2, "--precision: invalid choice: 'half'"),
    ("train --precision tf32", 2, "--precision: got 'tf32', but a CPU computes in float32; add --device cuda"),
    ("train --device cpu --precision bf16", 2, "--precision: got 'bf16', but a CPU computes in float32; "),
    ("train --train-images 0", 2, "--train-images: got '0'"),
    ("train --distort 3", 2, "--distort: got 3.0; give a number from 0 to 2"),
    ("train --rms-eps 0 --optimizer rmsprop", 2, "--rms-eps: got 0.0; give a number from 1e-30 to "),
    ("train --rms-eps 0.1", 2, "--rms-eps: got 0.1 with --optimizer muon, which has none; add --optimizer rmsprop"),
    ("train --rms-decay 0.8 --optimizer sgd", 2, "--rms-decay: got 0.8 with --optimizer sgd, which has none; "),
    ("train --lr-factor 0.96", 2, "--lr-factor: got 0.96 with --schedule cosine, which has none; add --schedule "),
    ("train --lr-every 8", 2, "--lr-every: got 8.0 with --schedule cosine, which has none; add --schedule exponential"),
    ("train --lr-factor 2 --schedule exponential", 2, "--lr-factor: got 2.0; give a number from 1e-06 to 1"),
    ("train --option", 2, "--option: expected one argument; "),
    ("train --option lrn", 2, "--option: got 'lrn'; give NAME=VALUE, such as dropout=0"),
    ("train --option lrn=false", 2, "--option: inception_resnet_v2_cifar has no option 'lrn'; it has scale_a, scale_b"),
    ("train --model speednet_cifar --option lrn=false", 2, "speednet_cifar has no option 'lrn'; it has none"),
    ("train --option blocks_a=2001", 2, "--option: got blocks_a=2001; give a whole number from 0 to 2000"),
    ("train --option blocks_a=1.5", 2, "--option: got blocks_a=1.5; give a whole number from 0 to 2000"),
    ("train --option linear_c=1", 2, "--option: got linear_c=1; give true or false"),
    ("train --option dropout=half", 2, "--option: got dropout=half; give a number"),
    ("train --option dropout=1", 2, "--model: Dropout: got rate=1.0, wanted 0 <= rate < 1; see"),
    ("train --option dropout=0 --option dropout=0.1", 2, "--option: got dropout twice; give it once"),
    ("train --option hidden=wide", 2, "hidden: got 'wide', wanted at most 4 widths"),
    ("summary inception_v1 --option lrm=false", 2, "inception_v1 has no option 'lrm'; it has naive, lrn, batch_norm"),
    ("summary inception_v1 --option naive=yes", 2, "--option: got naive=yes; give true or false"),
    ("train --mixup -1", 2, "--mixup: got -1.0; give a number from 0 to 1000"),
    ("train --patience -1", 2, "--patience: got '-1', wanted a whole number from 0; "),
    ("train --log tensorbord", 2, "--log: got 'tensorbord'; the nearest is tensorboard"),
    ("train --mean 1 2 3", 2, "--mean: got (1.0, 2.0, 3.0) with --std None; give both"),
    ("train --from {d}/none.safetensors", 1, "none.safetensors: no such file"),
    ("train --from {nameless}", 1, "nameless.safetensors: "),
    ("train --from {c} --model xception_cifar --output {d}/new", 2, "--model: got xception_cifar, but "),
    ("train --freeze fcc --output {d}/new", 2, "--freeze: got 'fcc', which no parameter of "),
    ("eval {c} --crops 10 --tta", 2, "--crops: got 10 with --tta"),
    ("eval {c} --crops 7", 2, "--crops: invalid choice: 7"),
    ("train --resume", 2, "--resume: which run? add --output DIR"),
    ("train --resume --output {d}", 2, "holds no run; check --output"),
    ("train --width 100 --output {d}/new", 3, "--width: 100 makes about "),
    ("train --model xception_cifar --width 2 --batch-size 5000", 3, "--batch-size: 5000 images need about "),
    ("summary inception_v1 --width 1000", 3, "--width: 1000 makes about "),
    ("train --output {p}/below", 1, "cannot be made"),
    ("train now", 2, "now: one argument too many; "),
    ("eval", 2, "CHECKPOINT: missing; "),
    ("eval {d}/none.safetensors", 1, "none.safetensors: no such file; check the path"),
    ("eval {d}", 1, "no such file; "),
    ("eval {p}", 1, "picture.png: header length: "),
    ("eval {cut}", 1, "cut.safetensors: "),
    ("eval {flipped}", 1, "flipped.safetensors: sha256: "),
    ("eval {foreign}", 1, "foreign.safetensors: sha256: missing"),
    ("eval {nameless}", 1, "nameless.safetensors: "),
    ("eval {c} --data cifar", 2, "--data: there is no data set 'cifar'; the nearest are cifar10, cifar100"),
    ("eval {seven} --data shapes10", 2, "--data: shapes10 has 10 classes, "),
    ("eval {seven}", 2, "does not say what it was trained on; add --data"),
    ("eval {c} --device tpu", 2, "--device: invalid choice: 'tpu'"),
    ("eval {c} --precision bf16", 2, "--precision: got 'bf16', but a CPU computes in float32; "),
    ("predict {c}", 2, "IMAGE: missing; "),
    ("predict {c} {d}/none.jpg", 1, "none.jpg: no such file"),
    ("predict {c} {c}", 1, "model.safetensors: got no picture"),
    ("predict {p} {p}", 1, "picture.png: header length: "),
    ("predict {c} {p} --crops 3", 2, "--crops: invalid choice: 3"),
    ("gradcheck", 2, ""),
    ("gradcheck inception_v9", 2, "inception_v9"),
    ("import", 2, ""),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory, checkpoint, picture):
    """The folders and files that the mistakes are made with."""
    root = tmp_path_factory.mktemp("mistakes")
    content = checkpoint.read_bytes()
    (root / "cut.safetensors").write_bytes(content[:-1])
    (root / "flipped.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (root / "foreign.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    write_tensors(root / "nameless.safetensors", {"a": np.zeros(3)}, {})
    save(create_model("inception_v1_cifar", width=1 / 16, num_classes=7), root / "seven.safetensors")
    found = {name: root / f"{name}.safetensors" for name in ("cut", "flipped", "foreign", "nameless", "seven")}
    records = np.zeros((RECORDS, RECORD), np.uint8)
    for fault in ("short", "label", "missing"):
        found[fault] = root / fault
        found[fault].mkdir()
        for name in CIFAR10_FILES:
            records.tofile(found[fault] / name)
    (found["short"] / CIFAR10_FILES[0]).write_bytes(records.tobytes()[:-1])
    with (found["label"] / "test_batch.bin").open("r+b") as file:
        file.seek(2 * RECORD)
        file.write(b"\x0a")
    (found["missing"] / "data_batch_3.bin").unlink()
    empty = root / "empty"
    empty.mkdir()
    return {**found, "c": checkpoint, "p": picture, "d": empty}


@pytest.mark.parametrize(("arguments", "code", "text"), MISTAKES, ids=[m[0] or "nothing" for m in MISTAKES])
def test_a_mistake_gets_its_exit_code_and_one_line(capsys, tmp_path, monkeypatch, places, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    before = sorted(places["d"].rglob("*"))
    found, output, errors = run(capsys, *arguments.format(**places).split())
    assert errors.startswith("inception-np: error: ") and errors.count("\n") == 1, errors
    assert text in errors and found == code, errors
    assert output == ""
    assert ": " in errors.removeprefix("inception-np: error: ")
    assert not list(tmp_path.iterdir()) and sorted(places["d"].rglob("*")) == before


def test_there_are_at_least_forty_mistakes():
    assert len(MISTAKES) >= 40


def test_a_device_that_is_not_there_is_refused_with_code_3_and_auto_falls_back(capsys, tmp_path):
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
        pytest.skip("there is a GPU")
    except Exception:
        pass
    code, _, errors = run(capsys, "train", "--device", "cuda", "--output", tmp_path / "a")
    assert code == 3 and "--device cpu" in errors and errors.count("\n") == 1
    code, _, errors = run(capsys, "train", *TINY.split(), "--device", "auto", "--output", tmp_path / "b")
    assert code == 0 and "running on cpu" in errors


def test_resume_refuses_other_options_than_the_run_has(capsys, tmp_path, monkeypatch):
    from inception_np.training import loop

    monkeypatch.setattr(loop.Run, "draw", lambda self: None)
    assert run(capsys, "train", *TINY.split(), "--output", tmp_path)[0] == 0
    code, _, errors = run(capsys, "train", "--resume", "--output", tmp_path, "--lr", "0.5")
    assert code == 2 and f"--lr: got 0.5, the run in {tmp_path} has 0.01; " in errors
    code, _, errors = run(capsys, "train", "--resume", "--output", tmp_path, "--tta")
    assert code == 2 and f"--tta: got True, the run in {tmp_path} has False; " in errors
    code, _, errors = run(capsys, "train", "--resume", "--output", tmp_path, "--lookahead")
    assert code == 2 and f"--lookahead: got True, the run in {tmp_path} has False; " in errors
    assert run(capsys, "train", "--resume", "--output", tmp_path, "--lr", "0.01")[0] == 0
    code, _, errors = run(capsys, "train", *TINY.split(), "--output", tmp_path)
    assert code == 2 and "already holds a run; add --resume" in errors


def test_a_mistake_of_ours_is_not_hidden(capsys, monkeypatch):
    def broken(_args):
        raise KeyError("oh")

    monkeypatch.setattr(models_command, "print_models", broken)
    with pytest.raises(KeyError):
        main(["models"])
    monkeypatch.setenv("INCEPTION_NP_TRACEBACK", "1")
    with pytest.raises(Exception, match="inception_v9"):
        main(["summary", "inception_v9"])


def test_ctrl_c_says_no_more_than_is_true(capsys, monkeypatch):
    def interrupted(_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(models_command, "print_models", interrupted)
    code, _, errors = run(capsys, "models")
    assert code == 130 and errors == "inception-np: stopped\n"


def test_the_module_and_the_command_are_the_same():
    done = python("-m", "inception_np", "--version")
    assert done.stdout.startswith("inception-np ") and Path(sys.executable).exists()

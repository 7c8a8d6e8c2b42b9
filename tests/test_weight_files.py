"""Keras files that are damaged: each ends within its limits, in one line or in tensors; Ctrl-C ends it at once."""

import contextlib
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from inception_np.weights import readers
from inception_np.weights.readers import read_weights

h5py = pytest.importorskip("h5py")
LAYERS = {"conv": ("kernel:0", "bias:0"), "bn": ("gamma:0", "beta:0")}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A small file as Keras 2 wrote them: the bytes, and its tensors."""
    path = tmp_path_factory.mktemp("keras") / "small.h5"
    draw, state = np.random.default_rng(0), {}
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in LAYERS]
        for layer, weights in LAYERS.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{w}".encode() for w in weights]
            for w in weights:
                state[f"{layer}/{w}"] = group[f"{layer}/{w}"] = draw.standard_normal((3, 4)).astype(np.float32)
    return path.read_bytes(), state


@pytest.fixture
def hanging(tmp_path, content):
    """The file with one byte changed: a name's length in the list of names, which HDF5 then walks for ever."""
    spoilt = bytearray(content[0])
    spoilt[spoilt.index(b"bn/beta:0") - 8] = 205
    path = tmp_path / "hanging.h5"
    path.write_bytes(spoilt)
    return path


def refusal(path):
    with pytest.raises(ValueError) as caught:
        read_weights(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: got a file that HDF5 cannot read (") and "\n" not in line, line
    return line


def test_a_whole_file_gives_its_tensors(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content[0])
    found = read_weights(tmp_path / "a.h5")
    assert list(found) == list(content[1])
    for name, value in content[1].items():
        assert found[name].dtype == value.dtype and np.array_equal(found[name], value)


def test_a_file_that_makes_hdf5_hang_is_given_up_in_time(monkeypatch, hanging):
    monkeypatch.setattr(readers, "SECONDS", 2)
    began = time.monotonic()
    assert "it is not done after 2 seconds" in refusal(hanging)
    assert time.monotonic() - began < 5


def test_that_file_does_hang_hdf5_and_ctrl_c_does_not_end_it(hanging):
    """The fault that the limits are for, read in one process."""
    code = "import sys, pathlib, inception_np.weights.keras_file as k; k.keras_tensors(pathlib.Path(sys.argv[1]))"
    child = subprocess.Popen([sys.executable, "-c", code, hanging], stderr=subprocess.PIPE)
    try:
        time.sleep(2)
        child.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1.5)
    finally:
        child.kill()
        child.communicate()


def reading_processes(path):
    """The processes that read this Keras file now."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = process.read_bytes().decode().split("\0")
            found += [process] * ("inception_np.weights.keras_file" in words and str(path) in words)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ctrl_c_ends_a_command_that_reads_it_at_once(hanging):
    command = [sys.executable, "-m", "inception_np", "import", hanging, "--source", "keras", "--model", "xception"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        while not reading_processes(hanging):
            assert child.poll() is None
            time.sleep(0.05)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        errors = child.communicate()[1]
    assert time.monotonic() - began < 2 and child.returncode == 130 and errors.count("\n") == 1, errors
    assert not reading_processes(hanging)


def test_a_file_that_asks_for_more_memory_than_it_may_have(tmp_path, monkeypatch):
    path = tmp_path / "vast.weights.h5"
    with h5py.File(path, "w") as file:  # nothing of it is written, so that the file is small
        file.create_dataset("layers/conv2d/vars/0", (700_000_000,), "f4", chunks=(1 << 20,), compression="gzip")
    assert path.stat().st_size < 1e6
    assert "memory" in refusal(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", (1 << 60,), "f4", chunks=(1 << 20,), compression="gzip")
    assert "brings the tensors to" in refusal(path)
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1 << 20))
    monkeypatch.setattr(readers, "MEMORY", 1 << 20)  # too little for anything
    assert refusal(tmp_path / "bomb.keras")


@pytest.mark.parametrize(
    "ending, text",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it crashed with SIGSEGV"),
        ("import os; os.abort()", "it crashed with SIGABRT"),
        ("import os; os._exit(7)", "it ended with code 7"),
        ("raise LookupError('oh')", "LookupError: oh"),
    ],
)
def test_however_the_reading_process_ends_it_is_one_line(tmp_path, monkeypatch, content, ending, text):
    (tmp_path / "a.h5").write_bytes(content[0])
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **how: run([sys.executable, "-c", ending], **how))
    assert f"({text})" in refusal(tmp_path / "a.h5")


def test_where_h5py_is_missing_it_says_how_to_get_it(tmp_path, monkeypatch, content):
    (tmp_path / "a.h5").write_bytes(content[0])
    (tmp_path / "h5py.py").write_text("raise ImportError('none')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ImportError, match=r'a\.h5: reading it needs h5py; pip install "inception-np\[keras\]"$'):
        read_weights(tmp_path / "a.h5")


def test_no_module_is_taken_from_the_working_folder(tmp_path, monkeypatch, content):
    (tmp_path / "a.h5").write_bytes(content[0])
    (tmp_path / "h5py.py").write_text("open('ran', 'w')\n")
    monkeypatch.chdir(tmp_path)
    assert len(read_weights("a.h5")) == 4 and not (tmp_path / "ran").exists()


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path, monkeypatch, hanging, content):
    (tmp_path / "a.h5").write_bytes(content[0])
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(readers, "SECONDS", 1)
    refusal(hanging)
    monkeypatch.setattr(readers, "SECONDS", 60)
    read_weights(tmp_path / "a.h5")
    assert not list((tmp_path / "temporary").iterdir())


def mutants(content, seed, count):
    """Copies of the file with a few bytes changed, or cut short, or with a piece of it moved."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        spoilt, kind = bytearray(content), draw.integers(8)
        if kind == 0:
            del spoilt[draw.integers(len(spoilt)) :]
        elif kind == 1:
            at, to, size = [*draw.integers(len(spoilt) - 64, size=2).tolist(), 64]
            spoilt[to : to + size] = spoilt[at : at + size]
        else:
            for at in draw.integers(len(spoilt), size=draw.integers(1, 5)):
                spoilt[at] = draw.choice([0, 255, draw.integers(256)])
        yield bytes(spoilt)


def check_mutants(tmp_path, monkeypatch, content, seed, count):
    monkeypatch.setattr(readers, "SECONDS", 5)
    path, refused = tmp_path / "mutant.h5", 0
    for mutant in mutants(content[0], seed, count):
        path.write_bytes(mutant)
        began = time.monotonic()
        try:
            state = read_weights(path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), error
        else:
            assert all(a.dtype.kind in "fiub" for a in state.values())
        assert time.monotonic() - began < 8
    assert 0 < refused < count


def test_mutants_end_in_a_line_or_in_tensors(tmp_path, monkeypatch, content):
    check_mutants(tmp_path, monkeypatch, content, 0, 10)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 5))
def test_five_hundred_mutants_end_in_a_line_or_in_tensors(tmp_path, monkeypatch, content, seed):
    check_mutants(tmp_path, monkeypatch, content, seed, 125)

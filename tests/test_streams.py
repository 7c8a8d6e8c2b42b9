"""What a run ends with, and how, does not depend on who reads its progress and its results."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest
from small_runs import ARGUMENTS, SMALL, command, same_bits, tiny_networks, uninterrupted, wait_for, weights_of

from inception_np import __main__ as cli
from inception_np.data import streams
from inception_np.training import loop, progress, results

__all__ = ["tiny_networks", "uninterrupted"]  # fixtures

SHORT = [*ARGUMENTS.split(), "--epochs", "2"]
FILES = {"options.json", "state.safetensors", "state.previous.safetensors", "lock", *results.FILES}


class Broken(io.StringIO):
    """A stream that takes so many writes and then none."""

    def __init__(self, writes, error):
        super().__init__()
        self.writes, self.broken = writes, error

    def write(self, text):
        if not self.writes:
            raise self.broken
        self.writes -= 1
        return super().write(text)


GONE, FULL, CLOSED = BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device"), ValueError("closed")


def test_quiet_drops_what_cannot_be_written_and_results_raise_it():
    for error in (GONE, FULL, CLOSED):
        below = Broken(1, error)
        quiet, results = streams.Quiet(below), streams.Results(Broken(1, error))
        assert quiet.write("one") == quiet.write("two") == 3 and below.getvalue() == "one" and quiet.error is error
        results.write("one")
        with pytest.raises(type(error)):
            results.write("two")
        assert results.error is error
    nothing = streams.Quiet(None)
    assert nothing.write("x") == 1 and not nothing.isatty() and nothing.error is None
    nothing.flush()


@pytest.mark.parametrize("stream", [None, Broken(0, GONE), Broken(0, FULL), Broken(2, OSError(5, "I/O error"))])
def test_a_run_ends_with_the_same_bits_whoever_listens(tmp_path, monkeypatch, uninterrupted, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    loop.train(tmp_path, SMALL)
    assert same_bits(weights_of(tmp_path), weights_of(uninterrupted[SMALL.model]))


def test_progress_that_is_not_dropped_would_be_noticed(tmp_path, monkeypatch, uninterrupted):
    """The planted fault of the test above."""
    monkeypatch.setattr(progress, "say", lambda text: print(text, file=sys.stderr, flush=True))
    for stream, error in ((Broken(0, GONE), BrokenPipeError), (Broken(0, FULL), OSError)):
        with pytest.raises(error):
            test_a_run_ends_with_the_same_bits_whoever_listens(
                tmp_path / error.__name__, monkeypatch, uninterrupted, stream
            )


def test_the_bar_of_a_terminal_that_is_gone_ends_nothing(tmp_path, monkeypatch, uninterrupted):
    pytest.importorskip("rich")
    terminal = Broken(3, OSError(5, "Input/output error"))
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    loop.train(tmp_path, SMALL)
    assert same_bits(weights_of(tmp_path), weights_of(uninterrupted[SMALL.model])) and terminal.getvalue()


# Processes of their own

ENDS = {
    "the reader of standard error is gone": ("2> >(true)", 0),
    "standard error is full": ("2>/dev/full", 0),
    "standard error is closed": ("2>&-", 0),
    "all three are closed": ("<&- >&- 2>&-", 0),
    "the reader of standard output is gone": ("> >(true)", 0),
    "standard output is full": (">/dev/full", 1),
}
# The plain run sees these, and without pictures, which take longer than the run; all of them with pictures are long.
SEEN = ("the reader of standard error is gone", "standard error is closed", "standard output is full")


WITHOUT_PICTURES = """
import sys
from inception_np import __main__ as cli
from inception_np.training import loop
loop.Run.draw = lambda run: None
sys.exit(cli.main())
"""


def without_pictures(folder, *more):
    return [sys.executable, "-c", WITHOUT_PICTURES, *command(folder, *more)[3:]]


def check_end(folder, end, start, files):
    redirection, code = ENDS[end]
    line = f"{subprocess.list2cmdline(start)} {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == code and "Traceback" not in done.stderr + done.stdout
    assert {p.name for p in folder.iterdir()} == files
    if code:
        assert done.stderr.splitlines()[-1].startswith("inception-np: error: standard output: cannot be written (No sp")
    assert b"epoch" not in (folder / "lock").read_bytes()  # no file got the number of standard error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("end", SEEN)
def test_a_run_saves_everything_and_ends_with_its_own_code(tmp_path, end):
    pictures = {name for name in FILES if name.endswith(".png")}
    check_end(tmp_path, end, without_pictures(tmp_path, *SHORT), FILES - pictures)


@pytest.mark.long
@pytest.mark.parametrize("end", ENDS)
def test_so_does_a_run_that_draws_its_pictures(tmp_path, end):
    check_end(tmp_path, end, command(tmp_path, *SHORT), FILES)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(
    ("arguments", "redirection", "code"),
    [
        ("models inception_v1_cifar", ">/dev/full", 1),
        ("models inception_v1_cifar", ">/dev/full 2>&1", 1),
        ("--help", ">/dev/full", 1),
        ("models inception_v1_cifar", "> >(true)", 0),
        ("nonsense", "2>/dev/full", 2),
        ("nonsense", "2>&-", 2),
        ("nonsense", "2> >(true)", 2),
    ],
)
def test_the_exit_code_is_not_the_streams(arguments, redirection, code, buffered):
    line = f"{subprocess.list2cmdline([sys.executable, '-m', 'inception_np'])} {arguments} {redirection}"
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == code and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_stream_that_is_left_as_it_is_would_be_noticed(tmp_path):
    """The planted fault: Python tries once more when it ends, and the code is 120."""
    program = (
        "import sys; from inception_np import __main__ as cli; cli.drop = lambda stream: None; sys.exit(cli.main())"
    )
    line = f"{subprocess.list2cmdline([sys.executable, '-c', program])} --version >/dev/full"
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    assert subprocess.run(["bash", "-c", line], stderr=subprocess.DEVNULL, env=environment).returncode == 120


def test_a_signal_saves_without_a_reader_too(tmp_path):
    line = subprocess.list2cmdline(command(tmp_path, *SHORT, "--epochs", "1000"))
    process = subprocess.Popen(["bash", "-c", f"exec {line} 2>&-"], stdout=subprocess.PIPE, text=True)
    wait_for(tmp_path / "log.jsonl", process)
    process.terminate()
    assert process.communicate(timeout=60)[0] == "" and process.returncode == 143
    assert (tmp_path / "state.safetensors").exists()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed_stops_a_run_after_saving_unless_it_was_started_with_nohup(tmp_path, ignored):
    pty = pytest.importorskip("pty")
    epochs = "4" if ignored else "100000"
    arguments = without_pictures(tmp_path, *SHORT, "--epochs", epochs)
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        os.execve(arguments[0], arguments, {**os.environ, "TERM": "xterm"})
    end = time.monotonic() + 60
    seen = b""
    while b"epoch" not in seen and time.monotonic() < end:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == (0 if ignored else 129)
    assert (tmp_path / "state.safetensors").exists() and (tmp_path / "checkpoint.safetensors").exists()
    assert (len((tmp_path / "log.jsonl").read_text().splitlines()) == 4) == ignored


def test_errors_keep_their_code_and_line_where_both_streams_fail(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(0, FULL))
    assert cli.main(["models", "inception_v1"]) == 1
    assert capsys.readouterr().err.startswith("inception-np: error: standard output: cannot be written (No space left")
    monkeypatch.setattr(sys, "stdout", Broken(0, GONE))
    assert cli.main(["models", "inception_v1"]) == 0
    monkeypatch.setattr(sys, "stderr", Broken(0, FULL))
    assert cli.main(["models", "inception_v9"]) == 2

"""A worker of several dies or fails: all end soon, one line says which and why, and nothing is left behind."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mpi import Run, needs_mpi, run, until
from small_runs import ARGUMENTS, same_bits, timeless, weights_of

from inception_np.parallel import launcher, watcher
from inception_np.parallel.watch import WATCHER
from inception_np.training.state import PREVIOUS, holds_run

# The watcher alone: connections of a test stand for the workers.


class Alone:
    """The watcher of so many workers, as rank 0 starts it. planted: (text in its source, a fault in its place)."""

    def __init__(self, folder, size, *planted):
        source = WATCHER.read_text()
        for text, fault in planted:
            assert text in source
            source = source.replace(text, fault)
        file = folder / "planted_watcher.py"
        file.write_text(source)
        self.lines = folder / "lines"
        with open(self.lines, "wb") as lines:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", file, str(size), "127.0.0.1"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=lines,
                start_new_session=True,
            )
        self.process.stdin.write(b"secret\n")
        self.process.stdin.flush()
        self.port = int(self.process.stdout.readline())
        self.ranks = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for connection in self.ranks.values():
            connection.close()
        self.process.kill()
        with self.process:  # closes its pipes
            pass

    def connect(self, *ranks, word="secret"):
        for rank in ranks:
            self.ranks[rank] = connection = socket.create_connection(("127.0.0.1", self.port), 10)
            self.say(rank, word=word, rank=rank, host="here")
            if connection.recv(100) != b'{"welcome": %d}\n' % rank:
                connection.close()
                del self.ranks[rank]

    def say(self, rank, /, **message):
        self.ranks[rank].sendall(json.dumps(message).encode() + b"\n")

    def die(self, *ranks):
        for rank in ranks:
            self.ranks.pop(rank).close()

    def told(self, rank):
        """What the watcher tells a worker, which then goes."""
        text = self.ranks[rank].recv(1000)
        self.die(rank)
        return json.loads(text) if text else None

    def end(self, seconds=5):
        """The lines that it wrote, once it has ended."""
        self.process.wait(seconds)
        return self.lines.read_text().splitlines()


DIED = f"inception-np: error: rank {{}} died (on here); {watcher.AGAIN}"


def test_the_watcher_names_the_dead_worker_has_the_others_leave_and_ends(tmp_path):
    with Alone(tmp_path, 3) as watched:
        watched.connect(1, 0, 2)
        watched.die(2)
        assert watched.told(0) == watched.told(1) == {"leave": 1}
        assert watched.end(1) == [DIED.format(2)]


def state(process):
    """ "R" for a process that runs, "S" for one that sleeps, "T" for one that is stopped."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]


def first_of_three_to_die(tmp_path, *planted):
    """Rank 2, 0 and 1 die while the watcher has no turn, so that it sees all at once."""
    with Alone(tmp_path, 3, *planted) as watched:
        watched.connect(1, 0, 2)
        os.kill(watched.process.pid, signal.SIGSTOP)
        until(lambda: state(watched.process.pid) == "T")
        watched.die(2, 0, 1)
        os.kill(watched.process.pid, signal.SIGCONT)
        return watched.end()


@pytest.mark.skipif(sys.platform != "linux", reason="needs epoll")
def test_the_first_of_several_is_named_however_late_the_watcher_looks(tmp_path):
    assert first_of_three_to_die(tmp_path) == [DIED.format(2)]
    by_number = "selectors.DefaultSelector()", "selectors.PollSelector()"
    assert first_of_three_to_die(tmp_path, by_number) != [DIED.format(2)]


def test_the_line_ends_in_the_last_advice(tmp_path):
    with Alone(tmp_path, 2) as watched:
        watched.connect(0, 1)
        watched.say(0, advice="nothing was saved")
        watched.say(0, advice="continue with: train --resume")
        watched.die(0)
        assert watched.told(1) == {"leave": 1}
        assert watched.end() == ["inception-np: error: rank 0 died (on here); continue with: train --resume"]


def failures(tmp_path, size, said, *planted, dead=()):
    """(lines, what the other workers are told, seconds): these workers fail, those die, the others go on."""
    with Alone(tmp_path, size, *planted) as watched:
        watched.connect(*range(size))
        started = time.monotonic()
        for rank, text in said.items():
            watched.say(rank, failed=["inception-np: error: ", text], code=3)
        watched.die(*dead)
        told = {rank: watched.told(rank) for rank in sorted(watched.ranks)}
        return watched.end(), told, time.monotonic() - started


def test_what_all_say_is_written_once_and_at_once(tmp_path):
    lines, told, seconds = failures(tmp_path, 3, dict.fromkeys((1, 2, 0), "no room"))
    assert lines == ["inception-np: error: no room"] and told == {rank: {"leave": 3} for rank in range(3)}
    assert seconds < watcher.GRACE / 2


def test_what_some_say_is_written_with_their_ranks_after_a_grace(tmp_path):
    lines, told, seconds = failures(tmp_path, 4, dict.fromkeys((3, 1), "no room"))
    assert lines == ["inception-np: error: ranks 1 and 3: no room"] and told == {
        rank: {"leave": 3} for rank in range(4)
    }
    assert watcher.GRACE <= seconds < watcher.GRACE + 1


def test_without_the_grace_what_all_say_would_be_said_of_one(tmp_path):
    impatient = "time.monotonic() + GRACE", "time.monotonic()"
    with Alone(tmp_path, 2, impatient) as watched:
        watched.connect(0, 1)
        watched.say(1, failed=["inception-np: error: ", "no room"], code=3)
        time.sleep(0.2)
        watched.say(0, failed=["inception-np: error: ", "no room"], code=3)
        assert watched.told(0) == watched.told(1) == {"leave": 3}
        assert watched.end() == ["inception-np: error: rank 1: no room"]


def test_of_errors_that_differ_the_first_counts_or_that_of_rank_0_where_all_fail(tmp_path):
    assert failures(tmp_path, 3, {2: "first", 1: "second"})[0] == ["inception-np: error: rank 2: first"]
    assert failures(tmp_path, 3, {2: "a", 1: "b", 0: "c"})[0] == ["inception-np: error: rank 0: c"]


def test_workers_that_were_stopped_in_different_places_are_stopped_alike(tmp_path):
    with Alone(tmp_path, 2) as watched:
        watched.connect(0, 1)
        watched.say(1, failed=["inception-np: ", "train: stopped before the first step"], code=130)
        watched.say(0, failed=["inception-np: ", "stopped"], code=130)
        assert watched.told(0) == watched.told(1) == {"leave": 130}
        assert watched.end() == ["inception-np: stopped"]


def test_an_error_counts_before_the_deaths_that_follow_it(tmp_path):
    lines, _, seconds = failures(tmp_path, 3, {2: "no room"}, dead=(1,))
    assert lines == ["inception-np: error: rank 2: no room"] and seconds < watcher.GRACE / 2


def test_a_good_end_is_silent_and_waits_for_the_last(tmp_path):
    with Alone(tmp_path, 3) as watched:
        watched.connect(0, 1, 2)
        watched.say(2, done=0)
        watched.say(1, done=0)
        time.sleep(0.2)
        assert watched.process.poll() is None
        watched.say(0, done=0)
        assert watched.end(1) == []


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_dies_while_rank_0_alone_is_not_done_is_named(tmp_path, victim):
    """The launcher kills the other one too."""
    with Alone(tmp_path, 2) as watched:
        watched.connect(0, 1)
        watched.say(1, done=0)
        time.sleep(0.1)
        watched.die(victim, 1 - victim)
        assert watched.end() == [DIED.format(victim)]


def after_a_stranger(tmp_path, *planted):
    with Alone(tmp_path, 2, *planted) as watched:
        watched.connect(0)
        watched.connect(1, word="a guess")
        if 1 in watched.ranks:
            return "a stranger was taken for rank 1"
        with contextlib.suppress(OSError):
            for noise in (b"GET / HTTP/1.1\n\n", b"\xff" * 5000, b"[]\n", b'{"word": "secret"}\n', b"7\n", b""):
                with socket.create_connection(("127.0.0.1", watched.port), 10) as connection:
                    connection.sendall(noise)
        watched.connect(1)
        for rank in list(watched.ranks):
            watched.say(rank, done=0)
        return watched.end(2)


def test_strangers_are_refused_and_change_nothing(tmp_path):
    assert after_a_stranger(tmp_path) == []
    everyone = 'message["word"] != self.word or ', ""
    assert after_a_stranger(tmp_path, everyone) == "a stranger was taken for rank 1"


@pytest.mark.parametrize("here", [(), (0,), (1,)])
def test_a_death_before_all_are_there_ends_the_watcher(tmp_path, here):
    """Rank 0 holds the other end of the watcher's standard input."""
    with Alone(tmp_path, 3) as watched:
        watched.connect(*here)
        watched.process.stdin.close()
        watched.die(*here)
        lines = watched.end(2)
    assert lines == ["inception-np: error: a worker died at the start; start it again with the same command"]


def test_signals_do_not_end_the_watcher_before_its_workers(tmp_path):
    with Alone(tmp_path, 2) as watched:
        watched.connect(0, 1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(watched.process.pid, number)
        time.sleep(0.2)
        watched.die(1)
        assert watched.told(0) == {"leave": 1}
        assert watched.end() == [DIED.format(1)]


def test_the_watcher_does_not_wait_long_for_a_worker_that_stays(tmp_path):
    with Alone(tmp_path, 2, ("LINGER = 5.0", "LINGER = 0.3")) as watched:
        watched.connect(0, 1)
        watched.die(1)
        assert watched.end(2) == [DIED.format(1)] and 0 in watched.ranks


def test_nobody_leaves_before_the_line_is_read():
    """A launcher that is told to abort reads no more."""
    program = "import sys, time; sys.path.insert(0, sys.argv[1]); import watcher; print(end='x', file=sys.stderr)\n"
    program += "sys.stderr.flush(); watcher.wait_until_read(5); print(time.time())"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program, WATCHER.parent], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        time.sleep(0.5)
        read = time.time()
        assert process.stderr.read(1) == b"x"
        assert read <= float(process.stdout.read()) < read + 1


def test_ranks_in_words():
    assert watcher.ranks([3]) == "rank 3" and watcher.ranks([0, 2]) == "ranks 0 and 2"
    assert watcher.ranks(range(5, 40)) == "ranks 5, 6, 7, 8, 9, 10, 11 and 28 others"


# Small programs under mpiexec.

PROGRAM = """
import os, signal, sys, time
import numpy as np
from inception_np.parallel import watch as module
from inception_np.parallel.watch import Watch, resume_with
from inception_np.parallel.workers import of_process
workers = of_process()
watch = Watch(workers)
rank = workers.rank
resume_with("continue with: this")
def vanish():
    "As a worker whose machine is lost: its connection ends, and no launcher sees that it does."
    module._leave = lambda *_: time.sleep(60)
    time.sleep(0.5)
    watch.connection.shutdown(2)
    time.sleep(60)
{body}
while True:
    workers.gather(np.array(rank))
"""


def program(size, body, seconds=10):
    """(exit code, output, the lines of standard error, seconds)."""
    with Run(size, "-c", PROGRAM.format(body=body)) as started:
        code, out, lines = started.wait(seconds)
        return code, out, lines, started.seconds


@needs_mpi
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_worker_is_named_and_the_others_end(victim):
    body = f"if rank == {victim}: time.sleep(0.3); os.kill(os.getpid(), signal.SIGKILL)"
    code, out, lines, _ = program(3, body)
    host = socket.gethostname()
    assert lines == [f"inception-np: error: rank {victim} died (on {host}); continue with: this"] and code and not out


@needs_mpi
def test_workers_leave_by_themselves_where_no_launcher_kills_them():
    """MPICH's launcher kills them at once. Here they are told first, while they wait for a worker that sleeps."""
    body = "if rank == 1: vanish()"
    code, _, lines, seconds = program(3, body)
    assert code == 1 and len(lines) == 1 and "rank 1 died" in lines[0] and seconds < 8


@needs_mpi
def test_workers_that_do_not_listen_would_wait_for_ever():
    """The planted fault of the test before."""
    body = "module._leave = lambda *_: time.sleep(60)\nif rank == 1: vanish()"
    with pytest.raises(subprocess.TimeoutExpired):
        program(3, body, seconds=8)


@needs_mpi
def test_a_worker_is_ended_in_the_middle_of_long_calls():
    body = "if rank == 1: vanish()\na = np.ones((1500, 1500))\nwhile True: a @ a"
    code, _, lines, seconds = program(2, body)
    assert code == 1 and len(lines) == 1 and seconds < 9


@needs_mpi
@pytest.mark.parametrize(
    ("who", "said", "exit_code"),
    [("True", "no room", 130), ("rank == 1", "rank 1: no room", 2), ("rank", "ranks 1 and 2: no room", 3)],
)
def test_an_error_is_said_once_and_its_code_is_passed_on(who, said, exit_code):
    body = f"if {who}: watch.failed('inception-np: error: ', 'no room', {exit_code})"
    code, out, lines, _ = program(3, body)
    assert (code, out, lines) == (exit_code, "", [f"inception-np: error: {said}"])


@needs_mpi
def test_a_good_end_passes_its_code_on_and_leaves_nothing_behind():
    """Rank 0 has more to do than the others, who wait for it. The launcher kills a rank with its whole session."""
    body = "if rank == 0: assert os.getsid(watch.watcher.pid) != os.getsid(0)\n"
    body += "if rank == 0: time.sleep(1); print('results', flush=True)\nwatch.done({0}); sys.exit({0})"
    assert program(3, body.format(0))[:3] == (0, "results", [])
    code, out, lines, seconds = program(3, body.format(7))
    assert (code, out, lines) == (7, "results", []) and seconds < 6


@needs_mpi
def test_workers_that_are_done_leave_where_another_dies():
    body = "if rank == 0: vanish()\nwatch.done()"
    code, _, lines, seconds = program(3, body)
    assert code == 1 and len(lines) == 1 and "rank 0 died" in lines[0] and seconds < 8


@needs_mpi
def test_all_end_where_the_watcher_is_lost():
    """As where the machine of rank 0 is."""
    code, out, lines, seconds = program(3, "if rank == 0: watch.watcher.kill()")
    host = socket.gethostname()
    said = f"inception-np: error: the watcher of the run is lost (on {host}); continue with: this"
    assert (code, out, lines) == (1, "", [said]) and seconds < 6


SHARED = """
import os, re
from inception_np.parallel import workers
{planted}
one = workers.of_process()
found = set(re.findall(r"/dev/shm/mpich_\\S+", open("/proc/self/maps").read()))
held = one.gather_texts(str(bool(found) and sum(map(os.path.exists, found))))
if one.rank == 0:
    print(*held)
[os.unlink(file) for file in found if one.rank == 0 and os.path.exists(file)]
"""


@needs_mpi
@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="needs /dev/shm")
def test_the_memory_that_workers_share_has_no_name_that_would_stay_when_they_are_killed():
    assert run(2, "-c", SHARED.format(planted="")) == (0, "0 0", [])
    assert run(2, "-c", SHARED.format(planted="workers.unlink_shared_memory = lambda: None"))[1] == "1 1"


@needs_mpi
@pytest.mark.long
def test_a_stopped_worker_is_not_dead():
    """The others wait for it, longer than for a machine that answers no more, and go on."""
    body = "if rank == 1: os.kill(os.getpid(), signal.SIGSTOP)\nworkers.gather(np.array(1)); watch.done(); sys.exit(0)"
    with Run(2, "-c", PROGRAM.format(body=body)) as started:
        stopped = until(lambda: started.workers().get(1))
        until(lambda: state(stopped) == "T")
        time.sleep(12)
        assert started.process.poll() is None
        os.kill(stopped, signal.SIGCONT)
        assert started.wait(10) == (0, "", [])


@needs_mpi
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("module.sys.executable = '/nowhere/python'", "rank 0 cannot start the watcher of the workers"),
        ("if workers.rank == 1: module._connected = lambda *_: (None, 'a wall')", "rank 1 cannot reach the watcher"),
    ],
)
def test_a_watch_that_cannot_start_is_an_error_of_all_workers(fault, said):
    program = f"""
from inception_np.backend.errors import RefusedError
from inception_np.parallel import watch as module
from inception_np.parallel.workers import of_process
workers = of_process()
{fault}
try:
    module.Watch(workers)
except RefusedError as error:
    heard = workers.gather_texts(str(error))
    if workers.rank == 0:
        print(*heard, sep="\\n")
"""
    code, out, lines = run(2, "-c", program)
    assert code == 0 and lines == [] and [said in line for line in out.splitlines()] == [True, True]


def test_the_launcher_is_seen_in_the_environment(monkeypatch):
    for name in (*launcher.RANKS, *launcher.SIZES):
        monkeypatch.delenv(name, raising=False)
    assert not launcher.launched() and launcher.launched_rank() == 0
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert launcher.launched() and launcher.launched_rank() == 3
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert not launcher.launched() and launcher.launched_rank() == 0


# The command line under mpiexec.

SMALL = ["train", *ARGUMENTS.split(), "--train-images", "64", "--epochs", "3", "--shards", "4"]


def inception_np(size, *words, **environment):
    return run(size, "-m", "inception_np", *words, **environment)


@needs_mpi
@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ("models", 2, "models: started as several workers, which only train and eval can be; run it without mpiexec"),
        ("mdels", 2, "mdels: no such command; the nearest is models"),
        ("train --epoch 3", 2, "--epoch: no such option; the nearest is --epochs"),
        ("eval nowhere.safetensors", 1, "nowhere.safetensors: no such file; check the path"),
    ],
)
def test_several_workers_say_once_what_is_wrong(words, code, line):
    found, out, lines = inception_np(3, *words.split())
    assert (found, out) == (code, "") and [error.partition(" or ")[0] for error in lines] == [
        f"inception-np: error: {line}"
    ]


@needs_mpi
@pytest.mark.parametrize("words", ["--version", "--help", "train --help"])
def test_several_workers_print_help_once(words):
    code, out, lines = inception_np(3, *words.split())
    alone = subprocess.run([sys.executable, "-m", "inception_np", *words.split()], capture_output=True, text=True)
    assert (code, out, lines) == (0, alone.stdout.rstrip("\n"), [])


# Faults that only some workers have: put into the command line before it starts.
FAULTY = """
import os, signal, sys, time
rank = int(os.environ["PMI_RANK"])
{fault}
from inception_np import __main__ as cli
sys.exit(cli.main())
"""


def faulty(size, fault, *words, **environment):
    return run(size, "-c", FAULTY.format(fault=fault), *words, **environment)


@needs_mpi
@pytest.mark.parametrize(("who", "said"), [("True", ""), ("rank == 0", ""), ("rank == 1", "rank 1: ")])
def test_a_worker_without_mpi4py_ends_all(who, said):
    """Also those that wait for it in MPI_Init, of which the launcher knows nothing."""
    code, out, lines = faulty(2, f"if {who}: sys.modules['mpi4py'] = None", *SMALL)
    assert (code, out, len(lines)) == (3, "", 1), lines
    assert lines[0].startswith(f"inception-np: error: {said}mpiexec: started several workers, for which mpi4py or MPI")


@needs_mpi
def test_without_an_abort_the_launcher_would_not_notice():
    fault = """
from inception_np.parallel import launcher
launcher.abort = os._exit
if rank == 1: sys.modules["mpi4py"] = None
"""
    with pytest.raises(subprocess.TimeoutExpired), Run(2, "-c", FAULTY.format(fault=fault), *SMALL) as started:
        started.wait(5)


# A mistake of ours in a step, of one worker or of all.
MISTAKE = """
from inception_np.training import loop
def train_step(run, index):
    if {who}: raise {error}
    run.workers.gather(index[:1])
loop.Run.train_step = train_step
"""


@needs_mpi
@pytest.mark.parametrize("who", ["True", "rank == 1"])
def test_a_mistake_of_ours_shows_its_traceback_once(tmp_path, who):
    fault = MISTAKE.format(who=who, error="KeyError('a mistake')")
    code, out, lines = faulty(2, fault, *SMALL, "--output", str(tmp_path))
    lines = [line for line in lines if "parameters, on shapes10" not in line]
    first = "Traceback (most recent call last):"
    assert (code, out) == (1, "") and lines[0] == (first if who == "True" else f"rank 1: {first}")
    assert lines[-1] == "KeyError: 'a mistake'" and sum(first in line for line in lines) == 1


@needs_mpi
@pytest.mark.parametrize(("who", "said"), [("True", ""), ("rank == 1", "rank 1: ")])
def test_an_error_in_a_step_is_one_line(tmp_path, who, said):
    fault = MISTAKE.format(who=who, error="OSError('a.jpg: cannot be read; look at it')")
    code, out, lines = faulty(2, fault, *SMALL, "--output", str(tmp_path))
    assert (code, out, lines[1:]) == (1, "", [f"inception-np: error: {said}a.jpg: cannot be read; look at it"])


@needs_mpi
def test_only_rank_0_speaks(tmp_path):
    """Each worker prints and warns wherever it can."""
    fault = """
from inception_np.training import loop
def go(run):
    import warnings
    from inception_np.data.streams import say
    print("result of", rank), say(f"progress of {rank}"), print("to stderr from", rank, file=sys.stderr)
    warnings.warn(f"a warning of {rank}")
    return dict(test_accuracy=0, test_loss=rank, epoch=1)
loop.Run.go = go
"""
    code, out, lines = faulty(4, fault, *SMALL, "--output", str(tmp_path))
    assert code == 0 and out.startswith("result of 0\ntest accuracy 0.00%, test loss 0.0000 after 1 epochs")
    assert len(lines) == 3 and lines[:2] == ["progress of 0", "to stderr from 0"]
    assert "a warning of 0" in lines[2] and "result of" not in out.partition("\n")[2]


@needs_mpi
def test_a_full_disk_behind_standard_output_is_an_error_of_the_run(tmp_path):
    """Of rank 0 alone, while the others are done."""
    fault = """
from inception_np.training import loop
loop.Run.go = lambda run: dict(test_accuracy=0, test_loss=0, epoch=1)
if rank == 0: os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
"""
    code, out, lines = faulty(2, fault, *SMALL, "--output", str(tmp_path))
    assert (code, out, len(lines)) == (1, "", 1)
    assert lines[0].startswith("inception-np: error: rank 0: standard output: cannot be written (No space left")


@needs_mpi
@pytest.mark.parametrize(
    ("whom", "number"),
    [("mpiexec", signal.SIGINT), ("mpiexec", signal.SIGTERM), (0, signal.SIGINT), (1, signal.SIGTERM)],
)
def test_a_signal_to_mpiexec_or_to_a_worker_stops_all_with_one_line(tmp_path, whom, number):
    """MPICH's launcher passes SIGINT and SIGTERM on to its workers, and then waits for them."""
    words = ["-m", "inception_np", *SMALL, "--epochs", "10000", "--save-every", "0", "--output", tmp_path]
    with Run(2, *words) as started:
        until((tmp_path / "state.safetensors").exists, 100)
        os.kill(started.process.pid if whom == "mpiexec" else started.workers()[whom], number)
        code, out, lines = started.wait(20)
    name = signal.Signals(number).name
    assert (code, out) == (128 + number, "") and lines[-1].startswith(f"inception-np: train: stopped by {name} in ep")
    assert sum("inception-np:" in line for line in lines) == 1


# A signal comes to rank 1 after it has said that there was none, while it waits for what the others say.
LATE = """
import numpy as np
from inception_np.parallel.workers import Workers
from inception_np.training import loop
def check_signals(run):
    def gather(row):
        rows = Workers.gather(run.workers, row)
        if rank == 1 and run.done == 1 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return rows
    run.workers.gather = gather
    original(run)
    del run.workers.gather
original, sent = loop.Run.check_signals, []
loop.Run.check_signals = check_signals
{planted}
"""
LOST = """
def original(run):
    run.signals.caught = int(run.workers.gather(np.array(run.signals.caught)).max())
    run.signals.check()
"""


@needs_mpi
def test_a_signal_that_comes_while_the_workers_agree_is_not_lost(tmp_path):
    words = [*SMALL, "--output", str(tmp_path / "run")]
    code, _, lines = faulty(2, LATE.format(planted=""), *words)
    assert code == 143 and lines[-1].startswith("inception-np: train: stopped by SIGTERM in epoch 1 after 2 of 4 steps")
    assert faulty(2, LATE.format(planted=LOST), *words[:-1], str(tmp_path / "another"))[0] == 0


# All workers are stopped, and rank 0 takes longer to save than the others may wait for an error of its own.
SLOW = """
from inception_np.parallel import watcher, workers
from inception_np.training import loop
def train_step(run, index):
    os.kill(os.getpid(), signal.SIGTERM)
def write_state(*state):
    time.sleep(watcher.GRACE + 1)
    original(*state)
original, loop.write_state, loop.Run.train_step = loop.write_state, write_state, train_step
loop.Run.add_totals = lambda run: None
{planted}
"""


@needs_mpi
def test_a_run_that_is_stopped_waits_until_rank_0_has_saved(tmp_path):
    code, _, lines = faulty(2, SLOW.format(planted=""), *SMALL, "--output", str(tmp_path / "run"))
    assert code == 143 and lines[-1].startswith("inception-np: train: stopped by SIGTERM in epoch 1 after 1 of 4 steps")
    assert holds_run(tmp_path / "run")
    alone = "loop.Run.stop, stop = lambda run, n: (setattr(run, 'workers', workers.ALONE), stop(run, n)), loop.Run.stop"
    code, _, lines = faulty(2, SLOW.format(planted=alone), *SMALL, "--output", str(tmp_path / "another"))
    assert code == 143 and "rank 1: train: stopped" in lines[-1] and not holds_run(tmp_path / "another")


@needs_mpi
@pytest.mark.parametrize("delay", [0.2, 0.4, 0.8])
def test_a_signal_at_the_start_is_one_line_too(tmp_path, delay):
    with Run(4, "-m", "inception_np", *SMALL, "--output", tmp_path) as started:
        until(lambda: len(started.workers()) == 4)
        time.sleep(delay)
        os.kill(started.process.pid, signal.SIGINT)
        code, out, lines = started.wait(20)
    assert (code, out, len(lines)) == (130, "", 1), lines
    assert lines[0].startswith("inception-np: ") and "stopped" in lines[0]


# A worker of a run is killed at any time.

RUN = [*SMALL, "--epochs", "12", "--save-every", "0"]
KILLS = 30


def killed(folder, size, victim, moment):
    """Kill -9 a worker after so many seconds. (seconds until the others had ended, what was said), None if too late."""
    with Run(size, "-m", "inception_np", *RUN, "--output", folder) as started:
        until(lambda: len(started.workers()) == size)
        time.sleep(moment)
        if victim not in started.workers():
            return None
        os.kill(started.workers()[victim], signal.SIGKILL)
        at = time.monotonic()
        code, out, lines = started.wait(60)
        if not code or "test accuracy" in out:
            return None
        return time.monotonic() - at, [line for line in lines if "error" in line]


def taken_up(folder, size):
    """Resume a run that was killed, or start it again where nothing was saved."""
    again = ["train", "--resume", "--save-every", "0"] if holds_run(folder) else RUN
    code, _, lines = inception_np(size, *again, "--output", folder)
    assert code == 0, lines


def line_about(victim, size, folder):
    """What may be said of a killed worker. Before all are there nobody knows which it was.

    A state is written a moment before the watcher hears of the first one. (The same command then says --resume.)
    """
    if not folder.exists():
        return {
            f"inception-np: error: a worker died at the start; {watcher.AGAIN}",
            DIED.format(victim).replace("here", socket.gethostname()),
        }
    resume = f"continue with: mpiexec -n {size} inception-np train --resume --output {folder}"
    died = f"inception-np: error: rank {victim} died (on {socket.gethostname()}); "
    advice = [resume] * holds_run(folder) + [watcher.AGAIN] * (not (folder / PREVIOUS).exists())
    return {died + each for each in advice}


@needs_mpi
@pytest.mark.long
def test_kill_9_of_any_rank_at_30_random_times(tmp_path):
    """All end within 10 s with one line that names the rank, and the run goes on to the bits of one nobody killed."""
    began = time.monotonic()
    assert inception_np(2, *RUN, "--output", tmp_path / "whole")[0] == 0
    length, whole = time.monotonic() - began, weights_of(tmp_path / "whole")
    rng, slowest, kills, before_the_watch = np.random.default_rng(11), 0.0, 0, 0
    while kills < KILLS:
        folder, size = tmp_path / str(kills), int(rng.choice([2, 4]))
        victim, moment = int(rng.integers(size)), rng.uniform(0, length)
        ended = killed(folder, size, victim, moment)
        if ended:
            seconds, said = ended
            if said or moment > 1:
                assert said and said[0] in line_about(victim, size, folder) and len(said) == 1, (kills, moment, said)
            before_the_watch += not said
            assert seconds < 10
            taken_up(folder, int(rng.choice([1, 2, 4])))
            assert same_bits(weights_of(folder), whole) and timeless(folder) == timeless(tmp_path / "whole")
            kills, slowest = kills + 1, max(slowest, seconds)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{kills} kills, {before_the_watch} of them before there was a watch; the slowest end took {slowest:.2f} s")

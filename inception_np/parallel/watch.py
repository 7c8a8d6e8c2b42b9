"""What happens when one of several workers dies or fails: all of them end, and one line says why.

    watch = Watch(of_process())         all workers at once; from here on the death of one ends them all
    resume_with("continue with ...")    how the line about a dead worker ends from here on
    watch.failed(head, text, code)      this worker has ended with an error
    watch.done(code)                    this worker has ended well

Rank 0 starts the watcher (watcher.py), a small process that everyone has a connection to. A thread listens to it, and
ends the process at once when it is told to: in a run of which a part is missing the others wait in MPI for ever, and
MPI_Finalize would wait too.
"""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from ..backend.errors import RefusedError
from .launcher import abort
from .watcher import AGAIN, GRACE, PROGRAM, keep_alive, ranks
from .workers import Workers

WATCHER = Path(__file__).with_name("watcher.py")
PATIENCE = 5.0  # seconds for what takes milliseconds
HERE = "127.0.0.1"


class Watch:
    """This worker's side of the watch over a run. To be made by all workers at once, of which there are two or more.

    Raises RefusedError on all of them where the watcher cannot be started, or not be reached by one of them.
    """

    present: ClassVar["Watch | None"] = None  # of this process

    def __init__(self, workers: Workers) -> None:
        self.workers, self.advice = workers, AGAIN
        self.error = ""  # what this worker has ended with
        self.all_done = threading.Event()
        self.done_here = False
        alone = workers.on_this_machine() == workers.size  # on it
        self.watcher: subprocess.Popen[bytes] | None = None
        told: dict[str, Any] = {}
        try:
            if workers.rank == 0:
                told = self._start(HERE if alone else "")
            told = json.loads(workers.gather_texts(json.dumps(told))[0])
            if "why" in told:
                raise RefusedError(
                    f"mpiexec: rank 0 cannot start the watcher of the workers ({told['why']}); "
                    "let it start processes of its own"
                )
            connection, why = _connected(told, workers.rank)
            reasons = workers.gather_texts(why)
            failed = [rank for rank, reason in enumerate(reasons) if reason]
            if failed:
                raise RefusedError(
                    f"mpiexec: {ranks(failed)} cannot reach the watcher of rank 0 ({reasons[failed[0]]}); "
                    "have the firewall between the machines let TCP through"
                )
        except BaseException:
            if self.watcher:
                self.watcher.kill()
                self.watcher.wait()
            raise
        assert connection
        self.connection, self.host = connection, told["host"]
        self.thread = threading.Thread(target=self._listen, name="watch", daemon=True)
        self.thread.start()
        Watch.present = self

    def failed(self, head: str, text: str, code: int) -> NoReturn:
        """End this process because of an error, without waiting for the others in MPI_Finalize.

        The line is head + text, with the ranks in between where only some of the workers fail with it.
        """
        self.error = f"{head}{text}"
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        self._say(failed=[head, text], code=code)
        self.thread.join(GRACE + PATIENCE)  # which ends the process
        _leave(code, self.error)

    def done(self, code: int = 0) -> None:
        """Wait until all workers are done, and end MPI. The process is then to end with that code."""
        self.done_here = True
        self._say(done=0)
        self.workers.finalise(PATIENCE, code)
        self.all_done.set()
        if self.watcher:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.watcher.wait(PATIENCE)
        Watch.present = None

    def resume_with(self, advice: str) -> None:
        """Let the line about a dead worker end in this advice. Rank 0's counts."""
        self.advice = advice
        if self.workers.rank == 0:
            self._say(advice=advice)

    def _start(self, host: str) -> dict[str, Any]:
        """Start the watcher. Returns what the workers have to know."""
        word = secrets.token_hex(16)
        command = [sys.executable, "-I", "-S", str(WATCHER), str(self.workers.size), host]
        try:
            self.watcher = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
            )
            assert self.watcher.stdin and self.watcher.stdout
            self.watcher.stdin.write(f"{word}\n".encode())  # and it stays open: the watcher sees it close
            port = int(self.watcher.stdout.readline())
        except (OSError, ValueError) as error:
            return {"why": str(error)}
        return {"host": socket.gethostname(), "names": _names(), "port": port, "word": word}

    def _say(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # `_listen` sees that too
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        """The thread: the first message ends the process, and so does the end of the watcher before the run's."""
        came = b""
        with contextlib.suppress(OSError):
            while not came.endswith(b"\n") and (more := self.connection.recv(1024)):
                came += more
        if came.endswith(b"\n"):
            _leave(json.loads(came)["leave"])
        if self.done_here and self.all_done.wait(2 * PATIENCE):  # it has ended because all are done
            return
        time.sleep(0.2 * min(self.workers.rank, 5))  # a launcher kills the others once one has left: one line
        lost = f"{PROGRAM}: error: the watcher of the run is lost (on {self.host}); {self.advice}"
        _leave(1, self.error or lost)


def resume_with(advice: str) -> None:
    """The same, of this process; nothing where none is watched."""
    if Watch.present:
        Watch.present.resume_with(advice)


def _leave(code: int, line: str = "") -> NoReturn:
    """End the process at once, whatever its other threads do, and the others."""
    if line:
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())
    abort(code)


def _names() -> list[str]:
    """By what other machines may know this one: its address on the way out, and its name."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # an address of no machine (RFC 5737), and this sends nothing
        found.insert(0, probe.getsockname()[0])
    return found


def _connected(told: dict[str, Any], rank: int) -> tuple[socket.socket | None, str]:
    """(a connection to the watcher, nothing), or (None, why there is none)."""
    why = ""
    hello = json.dumps({"word": told["word"], "rank": rank, "host": socket.gethostname()}).encode() + b"\n"
    for name in [HERE] * (socket.gethostname() == told["host"]) + told["names"]:
        try:
            connection = socket.create_connection((name, told["port"]), PATIENCE)
            connection.sendall(hello)
            answer = b""
            while not answer.endswith(b"\n") and (more := connection.recv(64)):
                answer += more
            if json.loads(answer or b"{}") != {"welcome": rank}:
                raise OSError("another program answers")
        except (OSError, ValueError) as error:
            why = f"{name}, port {told['port']}: {error}"
            continue
        connection.settimeout(None)
        keep_alive(connection)
        return connection, ""
    return None, why

"""The watcher of a parallel run: a process that outlives a dead worker, and says which one it was.

    python -I -S watcher.py SIZE HOST       started by rank 0 (watch.py), with a secret word on standard input;
                                            the number of its port is what it writes on standard output

A launcher of MPI that sees one worker die kills the others within milliseconds: none of them can say anything. This
process is in a session of its own, which the launcher does not know. Each worker holds a connection to it, which the
system closes when the worker ends, whatever has ended it, and before the launcher hears of it. The first connection to
close is that of the worker that died first: epoll gives them in the order in which they closed. A machine that is lost
closes nothing; TCP notices within 8 s that it answers no more (`keep_alive`). A worker that is stopped (SIGSTOP) is not
dead: its system answers.

Messages are lines of JSON.

    worker  {"word": SECRET, "rank": 2, "host": NAME}       the first, which is answered with {"welcome": 2}
            {"advice": TEXT}                                how the line about a dead worker ends
            {"failed": [HEAD, TEXT], "code": 1}             it has ended with an error, of which this is the line
            {"done": 0}                                     it has ended well
    watcher {"leave": CODE}                                 the run is over, end with this code

What failed on all workers alike is written once; what failed on some, with their ranks. Python's standard library is
all that this file needs, so that the process is there in 30 ms and takes 10 MB.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

PROGRAM = "inception-np"
GRACE = 2.0  # seconds in which the other workers may fail alike
LINGER = 5.0  # seconds in which all have left after they were told to
AGAIN = "start it again with the same command"  # until a worker has given other advice
LONGEST = 1 << 20  # bytes of a message; 1 KB before the secret word has come


class Worker:
    """A connection, of a worker once the secret word has come."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.unread = connection, b""
        self.rank, self.host = -1, ""
        self.ended = False  # it has said so: well, or with an error; it stays until all have

    def tell(self, **message: Any) -> None:
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")


class Watcher:
    """Takes the connections of `size` workers, and writes at most one line about how their run ended."""

    def __init__(self, size: int, word: str, listener: socket.socket) -> None:
        self.size, self.word, self.listener = size, word, listener
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ, self.accept)
        self.workers: dict[int, Worker] = {}  # that are there, by rank
        self.missing = set(range(size))  # who have not come yet
        self.advice = AGAIN
        self.failures: list[tuple[int, str, str, int]] = []  # rank, head, text, code
        self.until = float("inf")  # when the present wait is over
        self.over = False  # the line is written, or none is needed

    def run(self) -> None:
        """Until all workers have ended."""
        while not (self.over and not self.workers):
            left = self.until - time.monotonic()
            if left <= 0:
                if self.over:
                    return
                self.say_failure()
                continue
            for key, _ in self.selector.select(left if left < float("inf") else None):
                key.data()

    def accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
            keep_alive(connection)
        except OSError:  # it has gone again
            return
        worker = Worker(connection)
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.read(worker))

    def rank_0_is_gone(self) -> None:
        """Its end of our standard input is closed: it matters where it died before it had a connection."""
        self.selector.unregister(0)
        if 0 in self.missing and not self.over:
            self.say_death(None)

    def read(self, worker: Worker) -> None:
        """Take what has come on a connection."""
        try:
            came = worker.connection.recv(1 << 16)
        except OSError:
            came = b""
        worker.unread += came
        *lines, worker.unread = worker.unread.split(b"\n")
        try:
            for line in lines:
                self.take(worker, json.loads(line))
            good = bool(came) and len(worker.unread) < (LONGEST if worker.rank >= 0 else 1024)
        except (ValueError, LookupError, TypeError, AttributeError):  # a stranger
            good = False
        if not good:
            self.lose(worker)

    def take(self, worker: Worker, message: dict[str, Any]) -> None:
        """Do what a message says."""
        if worker.rank < 0:
            if message["word"] != self.word or message["rank"] not in self.missing:
                raise ValueError("a stranger")
            worker.rank, worker.host = message["rank"], message["host"]
            self.missing.remove(worker.rank)
            self.workers[worker.rank] = worker
            worker.tell(welcome=worker.rank)
        elif "advice" in message:
            self.advice = message["advice"]
        elif "failed" in message:
            worker.ended = True
            self.failures.append((worker.rank, *message["failed"], message["code"]))
            self.until = min(self.until, time.monotonic() + GRACE)
        elif "done" in message:
            worker.ended = True
        self.look()

    def look(self) -> None:
        """Nothing more is to come where all workers have ended."""
        if self.over or self.missing or not all(worker.ended for worker in self.workers.values()):
            return
        if self.failures:
            self.say_failure()
        else:
            self.over = True
            self.workers.clear()

    def lose(self, worker: Worker) -> None:
        """A connection has closed."""
        self.selector.unregister(worker.connection)
        worker.connection.close()
        if self.workers.get(worker.rank) is not worker:
            return
        del self.workers[worker.rank]
        if self.over:
            return
        if self.failures:  # which came first
            self.say_failure()
        else:
            self.say_death(worker)

    def say_death(self, worker: Worker | None) -> None:
        """One has died. While the workers start nobody knows which: the launcher kills those that are here already."""
        who = "a worker died at the start"
        if worker and not self.missing:
            who = f"rank {worker.rank} died (on {worker.host})"
        self.end(f"{PROGRAM}: error: {who}; {self.advice}", 1)

    def say_failure(self) -> None:
        """Write what rank 0 says if all have failed, or else what came first."""
        chosen = self.failures[0]
        if len(self.failures) == self.size:
            chosen = min(self.failures)
        _, head, text, code = chosen
        stopped = code > 128  # by a signal, which reaches the workers in different places
        alike = sorted(each[0] for each in self.failures if each[1:] == chosen[1:] or (stopped and each[3] == code))
        named = "" if len(alike) == self.size else f"{ranks(alike)}: "
        self.end(f"{head}{named}{text}", code)

    def end(self, line: str, code: int) -> None:
        """Write the line, and have everyone leave."""
        with contextlib.suppress(OSError):
            os.write(2, f"{line.rstrip()}\n".encode())
        wait_until_read()
        self.over, self.until = True, time.monotonic() + LINGER
        for worker in self.workers.values():
            worker.tell(leave=code)


def ranks(numbers: Sequence[int]) -> str:
    """
    >>> ranks([3]), ranks([0, 1, 3])
    ('rank 3', 'ranks 0, 1 and 3')
    """
    names = [str(number) for number in numbers]
    if len(names) > 8:
        names[7:] = [f"{len(names) - 7} others"]
    return f"rank {names[0]}" if len(names) == 1 else f"ranks {', '.join(names[:-1])} and {names[-1]}"


def wait_until_read(seconds: float = 1.0) -> None:
    """Wait until the launcher has read what standard error has of ours: once told to abort it reads no more."""
    with contextlib.suppress(ImportError, OSError):  # no Unix, or no pipe
        import fcntl
        import termios

        end = time.monotonic() + seconds
        while any(fcntl.ioctl(2, termios.FIONREAD, bytes(4))) and time.monotonic() < end:
            time.sleep(0.005)


def keep_alive(connection: socket.socket) -> None:
    """Have the system ask every 2 s whether the other machine is there; after 8 s without an answer reading fails."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 8000)):
        if hasattr(socket, name):  # the last in ms: it is for what was sent and not confirmed
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def main() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the workers' end is ours
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    size, host = int(sys.argv[1]), sys.argv[2]
    word = b""
    while not word.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return
        word += byte
    listener = socket.create_server((host, 0), backlog=size)
    watcher = Watcher(size, word.decode().strip(), listener)
    watcher.selector.register(0, selectors.EVENT_READ, watcher.rank_0_is_gone)
    os.write(1, f"{listener.getsockname()[1]}\n".encode())
    os.close(1)
    watcher.run()


if __name__ == "__main__":
    main()

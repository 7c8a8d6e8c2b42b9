"""Several workers in one process, each with a GPU of its own: threads, of which one runs at a time, and NCCL between
them.

    fleet = Fleet(monkeypatch, strict_cupy.pretend(monkeypatch), 4)
    fleet.run(lambda workers: ...)          what each worker gives, in order of their ranks

A worker runs until it waits for another one, and has the stand-in's streams to itself. What is sent and received in a
group happens when the stream is asked for its results, which is as late as it may be; a group that might overtake what
was begun on the null stream is an error, and so are sends and receives that do not fit each other.
"""

import ctypes
import threading
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
from strict_cupy import Stream, Tape

from inception_np.parallel.workers import Workers
from inception_np.training import loop

PATIENCE = 20  # seconds after which nobody will send any more


class Member(Workers):
    """One of the fleet's workers."""

    def __init__(self, fleet, rank):
        self.fleet, self.comm, self.rank, self.size = fleet, None, rank, fleet.size
        self.calls = 0

    def gather(self, row):
        rows = self.fleet.rows[self.calls]
        self.calls += 1
        rows[self.rank] = np.array(row)
        self.fleet.wait_until(lambda: len(rows) == self.size)
        return np.stack([rows[rank] for rank in range(self.size)])

    def spread(self, array):
        array[...] = self.gather(array)[0]


class Fleet:
    """So many workers; `cupy` is the stand-in that they all import."""

    def __init__(self, monkeypatch, cupy, size):
        self.size, self.turn, self.error = size, threading.Condition(), None
        self.rows, self.mail = defaultdict(dict), defaultdict(list)
        self.here = threading.local()
        monkeypatch.setattr(cupy.cuda, "nccl", Nccl(self))
        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: size)
        monkeypatch.setattr(loop, "of_process", lambda: self.here.workers)

    def run(self, job):
        """job(workers) on every worker. Raises the first error of one of them."""
        results, state = [None] * self.size, device()

        def work(rank):
            with self.turn:
                self.here.workers = Member(self, rank)
                resume((Stream.null, 0, [Stream.null], None))
                try:
                    results[rank] = job(self.here.workers)
                except BaseException as error:
                    self.error = self.error or error
                self.turn.notify_all()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        resume(state)
        if self.error:
            raise self.error
        return results

    def wait_until(self, true):
        """Let others run until it is."""
        state = device()
        self.turn.notify_all()
        assert self.turn.wait_for(lambda: true() or self.error, PATIENCE), "what is waited for never comes"
        assert not self.error, "another worker has failed"
        resume(state)


def device():
    """What the stand-in knows of one GPU."""
    return Stream.current, Stream.begun, Stream.all, Tape.recording


def resume(state):
    Stream.current, Stream.begun, Stream.all, Tape.recording = state


class Nccl:
    """What stands where cupy.cuda.nccl is found."""

    available = True

    def __init__(self, fleet):
        self.fleet, self.local = fleet, threading.local()

    def get_unique_id(self):
        return np.random.default_rng(self.fleet.here.workers.rank).bytes(128)

    def groupStart(self):
        assert not hasattr(self.local, "group"), "a group within a group"
        self.local.group = []

    def groupEnd(self):
        calls = self.local.group
        del self.local.group
        for stream in {call.stream for call in calls}:
            assert stream.seen == Stream.begun, "a group may overtake what the null stream does"
            own = [call for call in calls if call.stream is stream]
            stream.pending.append(lambda own=own: self.carry(own))

    def carry(self, calls):
        """All at once: what is sent is there before anything is waited for."""
        mail = self.fleet.mail
        for call in calls:
            if call.what == "send":
                mail[call.rank, call.peer].append(ctypes.string_at(call.address, call.count))
        for call in calls:
            if call.what == "recv":
                came = mail[call.peer, call.rank]
                self.fleet.wait_until(lambda came=came: came)
                assert len(came[0]) == call.count, "one sends another number of bytes than the other receives"
                ctypes.memmove(call.address, came.pop(0), call.count)

    def NcclCommunicator(self, size, name, rank):
        workers = self.fleet.here.workers
        assert (size, rank) == (workers.size, workers.rank) and len(name) == 128
        assert len({row.tobytes() for row in workers.gather(np.frombuffer(name, np.uint8))}) == 1, "another id"

        def call(what):
            def note(address, count, kind, peer, stream):
                assert kind == 1 and count > 0 and 0 <= peer < size
                (on,) = (s for s in Stream.all if s.ptr == stream)
                at = {"what": what, "rank": rank, "address": address, "count": count, "peer": peer, "stream": on}
                self.local.group.append(SimpleNamespace(**at))

            return note

        return SimpleNamespace(send=call("send"), recv=call("recv"), check_async_error=lambda: None)

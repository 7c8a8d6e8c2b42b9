"""A machine with workers is lost: nothing closes its connections, and yet all others end within 10 s.

Two network namespaces with a cable between them stand for two machines; the cable is cut.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time

import pytest
from mpi import ROOT, until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("ip") and shutil.which("nsenter")),
        reason="needs root, ip and nsenter, to make two machines of one",
    ),
]

# A worker whose MPI is a folder of files, as MPI would end it by itself. It stays for ever.
WORKER = """
import socket, sys, time
from pathlib import Path
from inception_np.parallel import watch, watcher
folder, rank = Path(sys.argv[1]), int(sys.argv[2])
socket.gethostname = lambda: f"machine-{rank}"
class Workers:
    size, count = 2, 0
    def __init__(self):
        self.rank = rank
    def on_this_machine(self):
        return 1
    def gather_texts(self, text):
        self.count += 1
        mine, all_files = folder / f"{self.count}-{rank}.part", [folder / f"{self.count}-{r}" for r in (0, 1)]
        mine.write_text(text)
        mine.rename(all_files[rank])
        while not all(file.exists() for file in all_files):
            time.sleep(0.01)
        return [file.read_text() for file in all_files]
watch._names = lambda: ["10.9.0.1"]
PLANTED
watch.Watch(Workers())
(folder / f"there-{rank}").touch()
time.sleep(600)
"""
DEAF = "watch.keep_alive = lambda _: None; watch.WATCHER = folder / 'deaf.py'"


@contextlib.contextmanager
def two_machines():
    """The processes that hold two namespaces, with the addresses 10.9.0.1 and 10.9.0.2."""
    holders = [subprocess.Popen(["unshare", "-n", "sleep", "600"]) for _ in range(2)]
    try:
        own = os.readlink("/proc/self/ns/net")
        until(lambda: all(os.readlink(f"/proc/{h.pid}/ns/net") != own or h.poll() is not None for h in holders))
        if any(holder.poll() is not None for holder in holders):
            pytest.skip("this system makes no network namespaces")
        first, second = (str(holder.pid) for holder in holders)
        subprocess.run(
            ["ip", "link", "add", "cable1", "netns", first, "type", "veth", "peer", "name", "cable2", "netns", second],
            check=True,
        )
        for number, holder in enumerate(holders, 1):
            inside(holder, "ip", "addr", "add", f"10.9.0.{number}/24", "dev", f"cable{number}").wait()
            for device in ("lo", f"cable{number}"):
                inside(holder, "ip", "link", "set", device, "up").wait()
        yield holders
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def inside(holder, *command, **how):
    return subprocess.Popen(["nsenter", "-t", str(holder.pid), "-n", *map(str, command)], **how)


def cut(folder, planted=""):
    """What each worker says once the cable is cut, and after how many seconds it has ended, if it has in 11."""
    (folder / "deaf.py").write_text(
        (ROOT / "inception_np/parallel/watcher.py").read_text().replace("keep_alive(connection)", "pass")
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = WORKER.replace("PLANTED", planted)
    with two_machines() as machines:
        workers = []
        try:
            for rank, machine in enumerate(machines):
                with open(folder / f"said-{rank}", "w") as said:
                    command = [sys.executable, "-c", program, folder, rank]
                    workers.append(inside(machine, *command, stderr=said, env=environment))
            until(lambda: all((folder / f"there-{rank}").exists() for rank in range(2)))
            inside(machines[1], "ip", "link", "set", "cable2", "down").wait()
            cut_at, ended = time.monotonic(), {}
            while time.monotonic() < cut_at + 11 and len(ended) < 2:
                for rank, worker in enumerate(workers):
                    if worker.poll() is not None:
                        ended.setdefault(rank, time.monotonic() - cut_at)
                time.sleep(0.02)
            return [(folder / f"said-{rank}").read_text().splitlines() for rank in range(2)], ended
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def test_workers_end_on_both_sides_of_a_cut(tmp_path):
    """On the side of rank 0 it is the watcher that says so, and on the other side the worker."""
    said, ended = cut(tmp_path)
    again = "start it again with the same command"
    assert said[0] == [f"inception-np: error: rank 1 died (on machine-1); {again}"]
    assert said[1] == [f"inception-np: error: the watcher of the run is lost (on machine-0); {again}"]
    assert sorted(ended) == [0, 1] and max(ended.values()) < 10


def test_without_keep_alive_nobody_would_notice(tmp_path):
    assert cut(tmp_path, DEAF) == ([[], []], {})

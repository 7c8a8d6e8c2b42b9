"""What happens when the package is imported: little."""

import json
import subprocess
import sys

import pytest

LIMIT = 0.15  # seconds of computing beyond NumPy's

WATCH = """
import json, os, sys, threading, time
import numpy
seen = []
def hook(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if "__pycache__" not in str(args[0]):
            seen.append(f"{event} {args[0]}")
    if event.startswith(("socket.", "subprocess.", "os.system", "os.fork", "_thread.start")):
        seen.append(f"{event} {args}")
sys.addaudithook(hook)
before = time.process_time()
FAULT
import inception_np
seconds = time.process_time() - before
print(json.dumps({"seen": seen, "seconds": seconds, "threads": threading.active_count()}))
"""


def imported(fault: str = "") -> dict:
    done = subprocess.run(
        [sys.executable, "-c", WATCH.replace("FAULT", fault)], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", ["is quick", "starts no thread, writes no file and opens no connection"])
def test_importing(what):
    found = [imported() for _ in range(3)]
    if what == "is quick":
        assert min(run["seconds"] for run in found) < LIMIT
    else:
        assert all(run["threads"] == 1 and not run["seen"] for run in found), found


@pytest.mark.parametrize(
    "fault",
    [
        "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "open('/dev/null', 'w')",
        "import socket; socket.socket()",
    ],
)
def test_what_an_import_does_besides_is_seen(fault):
    found = imported(fault)
    assert found["seen"] or found["threads"] > 1

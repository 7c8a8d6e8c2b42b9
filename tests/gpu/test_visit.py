"""The visit to a GPU, run dry: every stage ends well, and the report has what it would have there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.long]
HERE = Path(__file__).parent


def test_a_dry_visit_ends_well(tmp_path):
    command = [sys.executable, HERE / "check.py", "--dry-run", "--minutes", "8", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    report = json.loads((tmp_path / "gpu.json").read_text())
    said = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, (done.stdout[-2000:], said[-4000:])
    stages = report["stages"]
    assert list(stages) == [
        *("device", "smoke", "bench", "profile", "tests", "compile", "bf16", "sanitizer", "counters", "training")
    ]
    assert stages["smoke"]["result"]["inception_v1_cifar"]["differing"] == 0
    (row,) = stages["bench"]["result"]
    assert set(row["seconds"]) == {"ours", "eager", "eager graph"} and set(row["ratio"]) == {"eager", "eager graph"}
    (row,) = stages["bf16"]["result"]
    assert not row["errors"] and set(row["ratio"]) == {"eager graph bf16", "compile bf16"}
    assert stages["smoke"]["result"]["inception_v1_cifar bf16"]["differing"] == 0
    found = stages["profile"]["result"]["inception_v1_cifar"]
    assert found["matched"] and found["launches"] > 100 and found["convolutions"]["TFLOP/s"] > 0
    slowest = found["slowest"]
    assert all(row["kernel"] == "conv2d_dw" and row["us"] == 10 and "window" in row for row in slowest), slowest
    assert stages["training"]["history"][0]["epoch"] == 1
    assert len(list(tmp_path.iterdir())) <= 8
    assert json.loads(done.stdout.splitlines()[-1])["tests"]["good"], "the short report comes last"


def test_a_stage_that_fails_is_told_and_the_next_one_runs(tmp_path):
    """What a stage says in its last lines is in the report, and what it began is ended."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import check, pathlib\n"
    code += "visit = check.Visit(pathlib.Path(sys.argv[2]), 60, True, '')\n"
    code += "print(visit.run('x', [sys.executable, '-c', 'print(7); import time; time.sleep(60)'], 2))\n"
    code += "print(visit.python('y', ['-c', 'print(8); 1 / 0'], 9))\n"
    done = subprocess.run([sys.executable, "-c", code, HERE, tmp_path], capture_output=True, text=True, check=True)
    late, broken = map(eval, done.stdout.splitlines())
    assert not late["good"] and late["said"].strip() == "7" and "stopped after 2 s" in late["code"]
    assert not broken["good"] and "ZeroDivisionError" in broken["said"]

"""The scripts in examples/: each runs, prints the same in every run, and prints what examples/README.md has of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "examples" / "README.md").read_text()
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
MINUTES = ("accelerations",)  # test_accelerations.py runs it in small
SLOW = ("vanishing_gradients", "residual_scaling", "float32_by_depth")


def run(name, folder):
    """What a script prints, run in a process and a folder of its own, less the time that a check took."""
    picture = folder / f"{name}.png"
    environment = os.environ | {"MPLCONFIGDIR": str(folder / "matplotlib"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", ROOT / "examples" / f"{name}.py", picture]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if "PICTURE.png" in (ROOT / "examples" / f"{name}.py").read_text():
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000
    return re.sub(r"\d+\.\d\d s\b", "", done.stdout)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*SLOW, *MINUTES, "other_checkers")])
def test_an_example_runs_and_draws(name, tmp_path):
    assert run(name, tmp_path).strip()


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*MINUTES, "other_checkers")])
def test_an_example_prints_the_same_in_every_run(name, tmp_path):
    assert run(name, tmp_path) == run(name, tmp_path)


def test_the_readme_has_the_table_that_other_checkers_prints(tmp_path):
    table, below = run("other_checkers", tmp_path).split("\n\n")
    assert table.count("\n") == 12 and f"\n\n{table}\n\n" in README
    missed, others = re.findall(r"\d+ of \d+|\d+", below)
    assert f"\n\nMissed by the complex step: {missed}; by the others: {others}.\n\n" in README


def test_the_readme_explains_every_word_of_its_table():
    rows = [line.split(" | ") for line in README.splitlines() if line.count("|") == 14 and "---" not in line]
    words = {cell.removesuffix(" |") for row in rows[1:-1] for cell in row[1:]}
    firsts = [line.split("|")[1] for line in README.splitlines() if line.count("|") == 3]
    explained = {word.strip() for first in firsts for word in first.split(",")}
    assert {"found", "rich only", "typical only", "-", "ok"} <= words <= explained


def test_the_readme_lists_every_script():
    listed = set(re.findall(r"^\| `(\w+)\.py` \|", README, re.MULTILINE))
    assert listed == set(NAMES)

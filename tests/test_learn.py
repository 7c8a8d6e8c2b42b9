"""The notebooks run as scripts, every claim is computed in one of them or says why not, and pages show in a browser."""

import ast
import importlib.util
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from inception_np import Concat, Conv2D, Linear, MaxPool2D, Residual, SeparableConv2D, Sequential, create_model
from inception_np.learn.claims import CLAIMS
from inception_np.learn.count import depth
from inception_np.learn.pages import pages
from inception_np.learn.slide import said, table

pytest.importorskip("marimo", reason="needs inception-np[learn]")
PAGES = pages()


def named(page):
    return page.name


def claims_in(source):
    """The keys that a notebook hands to `claim`."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [c.args[0].value for c in calls if isinstance(c.func, ast.Name) and c.func.id == "claim"]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_notebook_runs_as_a_script(page, tmp_path):
    done = subprocess.run([sys.executable, page.file], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for key in claims_in(page.file.read_text()):
        assert re.search(rf"^(holds|WRONG) +{re.escape(key)} ", done.stdout, re.MULTILINE), key
    assert not list(tmp_path.iterdir())


def test_every_claim_is_computed_once_or_says_why_not():
    computed = [key for page in PAGES for key in claims_in(page.file.read_text())]
    assert sorted(computed) == sorted(key for key, row in CLAIMS.items() if row.found is not None)
    assert all(row.note for row in CLAIMS.values() if row.found is None or not row.holds)


def run_page(page, **widgets):
    """What a notebook defines, with other values in place of its widgets."""
    spec = importlib.util.spec_from_file_location(page.name, page.file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app.run(defs={name: SimpleNamespace(value=value) for name, value in widgets.items()} or None)[1]


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_notebook_runs_at_both_ends_of_its_sliders(page):
    import marimo

    sliders = {name: value for name, value in run_page(page).items() if isinstance(value, marimo.ui.slider)}
    for end in ("start", "stop"):
        run_page(page, **{name: getattr(slider, end) for name, slider in sliders.items()})


def test_depth_is_the_longest_way_through_layers_with_weights():
    branches = Concat(short=Conv2D(4, 1, 1), long=Sequential(Conv2D(4, 2, 1), MaxPool2D(3, stride=1), Conv2D(2, 3, 3)))
    assert depth(branches) == 2
    assert depth(Sequential(SeparableConv2D(3, 4, 3), branches, Linear(4, 2))) == 5
    assert depth(Residual(Sequential(Conv2D(4, 2, 1), Conv2D(2, 4, 1)), Conv2D(4, 4, 1))) == 2
    assert depth(create_model("inception_v1_cifar", width=1 / 8)) == 22  # heads, which are as deep, are not counted


def test_a_claim_that_nobody_computes_says_so_and_no_other_does():
    without = next(key for key, row in CLAIMS.items() if row.found is None)
    assert "not computed" in said(without)
    with pytest.raises(ValueError, match=r"v1\.1: found is 854196224"):
        said("v1.1")


def test_a_table_shows_numpys_numbers_as_pythons():
    assert ">12,345<" in table(["n"], [[np.int64(12345)]])
    assert ">0.25<" in table(["n"], [[np.float32(0.25)]])

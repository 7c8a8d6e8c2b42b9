"""The notebooks run as scripts, every claim is computed in one of them or says why not, and pages show in a browser."""

import re
import subprocess
import sys

import pytest

from inception_np.learn.claims import CLAIMS
from inception_np.learn.pages import claims_in, pages

pytest.importorskip("marimo", reason="needs inception-np[learn]")
PAGES = pages()


def named(page):
    return page.name


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

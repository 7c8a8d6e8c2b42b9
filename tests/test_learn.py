"""The notebooks run as scripts, every claim is computed in one of them or says why not, and pages show in a browser."""

import re
import runpy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from inception_np import (
    Concat,
    Conv2D,
    ConvBNReLU,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    SeparableConv2D,
    Sequential,
    create_model,
)
from inception_np.learn.claims import CLAIMS
from inception_np.learn.command import copied
from inception_np.learn.count import depth
from inception_np.learn.diagram import describe, diagram
from inception_np.learn.pages import claims_in, pages
from inception_np.learn.slide import said, table, text

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


def test_the_notebooks_are_served_in_their_order(tmp_path):
    copies = [copied(page, tmp_path) for page in PAGES]
    assert sorted(tmp_path.iterdir()) == copies
    assert [copy.read_text() for copy in copies] == [page.file.read_text() for page in PAGES]


def offered(element):
    """A few of the values that a slider or a dropdown offers: both ends, their neighbours, the middle."""
    if hasattr(element, "options"):
        return list(element.options.values())
    step = element.step or 1
    values = element.steps or np.arange(element.start, element.stop + step / 2, step).tolist()
    chosen = {0, 1, len(values) // 2, len(values) - 2, len(values) - 1} & {*range(len(values))}
    return [type(element.value)(values[i]) for i in sorted(chosen)]


def turn_everything(file):
    """Run a notebook, and then each cell that reads a slider or a dropdown with the values that it offers."""
    import marimo

    app = runpy.run_path(str(file))["app"]
    _, values = app.run()
    for name, element in values.items():
        if not isinstance(element, (marimo.ui.slider, marimo.ui.dropdown)):
            continue
        for cell in app._cell_manager.cells():
            if cell is not None and name in cell.refs:
                refs = {ref: values[ref] for ref in cell.refs if ref in values}
                for value in offered(element):
                    cell.run(**{**refs, name: SimpleNamespace(value=value)})


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_takes_every_value_that_it_offers(page):
    turn_everything(page.file)


@pytest.mark.parametrize("element", ["slider(1, 9, value=3)", "slider(steps=[1, 3, 9])", "dropdown({'a': 3, 'b': 9})"])
def test_a_value_that_a_page_does_not_take_is_seen(element, tmp_path):
    cells = [f"    import marimo as mo\n    n = mo.ui.{element}\n    return (n,)", "    1 / (n.value != 9)\n    return"]
    body = "".join(f"@app.cell\ndef _({arg}):\n{cell}\n" for arg, cell in zip(("", "n"), cells, strict=True))
    (tmp_path / "page.py").write_text(f"import marimo\napp = marimo.App()\n{body}")
    with pytest.raises(ZeroDivisionError):
        turn_everything(tmp_path / "page.py")


def test_claims_are_read_without_running_a_page():
    assert claims_in('claim("a.1", 1)\nif x:\n    y = [claim("a.2", f(claim("a.3", 2)))]\nother("b")') == [
        "a.1",
        "a.2",
        "a.3",
    ]
    with pytest.raises(ValueError):
        claims_in("claim(key, 1)")


def test_a_tuple_in_a_tuple_stands_in_brackets():
    assert text(((1, 1), (0, 1234), True)) == "(1, 1), (0, 1,234), yes"


def boxes(figure):
    """{label: [(left, bottom, right, top), ...]} of a diagram's boxes, and the axes' own."""
    axes = figure.axes[0]
    patches = [p for p in axes.patches if hasattr(p, "get_boxstyle")]
    labels = [t.get_text() for t in axes.texts if t.get_text()]
    found = {}
    for label, patch in zip(labels, patches, strict=False):
        left, bottom = patch.get_x(), patch.get_y()
        found.setdefault(label, []).append((left, bottom, left + patch.get_width(), bottom + patch.get_height()))
    return found, (0, 0, axes.get_xlim()[1], axes.get_ylim()[1])


def nested():
    """A fork in a tower beside a pool, and a residual with a shortcut around it."""
    fork = Concat(a=ConvBNReLU(4, 3, (1, 3)), b=ConvBNReLU(4, 5, (3, 1)))
    body = Concat(long=Sequential(reduce=ConvBNReLU(6, 4, 1), fork=fork), pool=MaxPool2D(3, stride=1, pad="same"))
    return Sequential(
        sum=Residual(body, Conv2D(6, 14, 1), scale=0.25),
        relu=ReLU(),
        last=Conv2D(14, 4, 3, stride=2, pad="valid", groups=2),
        same=Residual(Sequential(conv=Conv2D(4, 4, 3))),
    )


def test_a_diagram_names_every_layer_and_the_shape_that_comes_out():
    found, _ = boxes(diagram(nested(), (9, 7, 6), "title"))
    assert {label: len(places) for label, places in found.items()} == {
        "input\n9x7x6": 1,
        "1x1 conv\n9x7x4": 1,
        "1x3 conv\n9x7x3": 1,
        "3x1 conv\n9x7x5": 1,
        "concat\n9x7x8": 1,
        "3x3 max pool\n9x7x6": 1,
        "concat\n9x7x14": 1,
        "1x1 conv\n9x7x14": 1,
        "x + 0.25 f(x)\n9x7x14": 1,
        "ReLU": 1,
        "3x3 V conv /2, 2 groups\n4x3x4": 1,
        "3x3 conv\n4x3x4": 1,
        "x + f(x)\n4x3x4": 1,
    }


@pytest.mark.parametrize(
    "layer, input", [(nested(), (9, 7, 6)), (Conv2D(3, 4, 3), (5, 6, 3)), (Sequential(), (5, 6, 3))]
)
def test_no_two_boxes_of_a_diagram_overlap(layer, input):
    found, (left, bottom, right, top) = boxes(diagram(layer, input))
    places = [place for same in found.values() for place in same]
    assert all(left <= p[0] < p[2] <= right and bottom <= p[1] < p[3] <= top for p in places)
    for i, a in enumerate(places):
        assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in places[:i]), places


def test_the_joined_output_of_a_diagram_stands_above_its_branches():
    found, _ = boxes(diagram(nested(), (9, 7, 6)))
    up = [found[label][0][1] for label in ("input\n9x7x6", "1x1 conv\n9x7x4", "1x3 conv\n9x7x3", "concat\n9x7x8")]
    up += [found[label][0][1] for label in ("concat\n9x7x14", "x + 0.25 f(x)\n9x7x14", "ReLU", "x + f(x)\n4x3x4")]
    assert up == sorted(set(up))


def test_a_diagram_refuses_an_input_that_the_layer_does_not_take():
    with pytest.raises(ValueError, match="wanted"):
        diagram(nested(), (9, 7, 5))


def test_a_layer_of_ones_own_is_a_box_with_its_name():
    class Mine(Layer):
        def out_shape(self, shape):
            return shape

    assert describe(Mine()) == "Mine"
    assert "Mine\n3x4x5" in boxes(diagram(Mine(), (3, 4, 5)))[0]


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

"""GoogLeNet's Table 1 as data adds up, the network built from Figure 2(b) equals it, and reference/ stands alone."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import reference
from inception_np import create_model, summary
from reference import tables


def test_reference_imports_nothing_of_the_library():
    for file in Path(reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [n for n in names if n.startswith("inception_np")], file.name


def check_row(row, channels):
    """A module's counts from its six filters, by the definition of a convolution: weights times positions."""
    n1, r3, n3, r5, n5, proj = row.filters
    weights = channels * (n1 + r3 + r5 + proj) + 9 * r3 * n3 + 25 * r5 * n5
    H, W, C = row.output
    assert (row.weights, row.biases, row.macs) == (weights, sum(row.filters), weights * H * W)
    assert n1 + n3 + n5 + proj == C


def check_table(table):
    channels = 3
    for row in table:
        if row.kind == "inception":
            check_row(row, channels)
        channels = row.output[2]
    assert sum(row.weights + row.biases for row in table) == tables.GOOGLENET_PARAMS
    assert sum(row.macs for row in table) == tables.GOOGLENET_MACS
    assert sum(row.depth for row in table) == 22  # "22 layers deep when counting only layers with parameters"


def test_table_1_adds_up():
    check_table(tables.GOOGLENET)
    heads = sum(head["params"] for head in tables.GOOGLENET_HEADS.values())
    assert tables.GOOGLENET_PARAMS + heads == tables.GOOGLENET_PARAMS_WITH_HEADS


@pytest.mark.parametrize("i", [i for i, row in enumerate(tables.GOOGLENET) if row.kind == "inception"])
def test_a_filter_off_by_one_is_seen(i):
    row = tables.GOOGLENET[i]
    for at in range(6):
        filters = tuple(n + (k == at) for k, n in enumerate(row.filters))
        with pytest.raises(AssertionError):
            check_table((*tables.GOOGLENET[:i], replace(row, filters=filters), *tables.GOOGLENET[i + 1 :]))


def test_the_network_is_table_1():
    table = summary("inception_v1")
    ours = [(row.name, tuple(row.output), row.params, row.macs) for row in table.rows]
    names = {"linear": "fc"}  # the paper's name of the row, and ours of the stage
    wanted = [(names.get(r.name, r.name), r.output, r.weights + r.biases, r.macs) for r in tables.GOOGLENET]
    assert ours == wanted
    assert (table.params, table.macs) == (tables.GOOGLENET_PARAMS, tables.GOOGLENET_MACS)
    assert table.params + table.params_aux == tables.GOOGLENET_PARAMS_WITH_HEADS


def test_the_summary_prints_what_the_paper_prints():
    rows = {row.name: row.printed for row in summary("inception_v1").rows}
    for row in tables.GOOGLENET:
        printed = rows["fc" if row.name == "linear" else row.name]
        assert printed.partition(":")[0] == ", ".join(filter(None, (row.printed_params, row.printed_ops)))
        thousands = row.weights / 1024
        differs = row.printed_params and abs(float(row.printed_params[:-1]) / thousands - 1) > 0.005
        assert not differs or ":" in printed  # a reason stands beside a figure that is not ours


def test_torchvisions_release_and_the_small_networks():
    released = create_model("inception_v1", preset="torchvision")
    table = summary(released)
    assert (table.params, table.macs) == (tables.GOOGLENET_TORCHVISION_PARAMS, tables.GOOGLENET_TORCHVISION_MACS)
    assert table.params + table.params_aux == tables.GOOGLENET_TORCHVISION_PARAMS_WITH_HEADS
    for width, wanted in tables.GOOGLENET_CIFAR.items():
        table = summary(create_model("inception_v1_cifar", width=width))
        assert (table.params, table.params_aux, table.macs) == tuple(wanted.values())

"""The sums of the pages on several workers: their brackets, how their bits are counted, their pictures; and that a page
refuses a statement that is no longer true."""

import runpy
from math import fsum

import numpy as np
import pytest

from inception_np.learn import sums
from inception_np.learn.pages import pages
from inception_np.learn.sums import (
    blocks,
    by_worker,
    in_a_ring,
    in_every_order,
    in_order,
    in_the_fixed_tree,
    patterns,
    place,
    sent,
    spread,
    sums_in_memory,
    teams,
)
from inception_np.learn.workers import drawn_exchange, drawn_tree, name
from inception_np.parallel.tree import subtrees


class Word(str):
    """A text whose sum with another shows its brackets."""

    def __add__(self, other):
        return Word(f"({self:s}{other:s})")


def words(count, entries=1):
    letters = np.array([Word(chr(ord("a") + i)) for i in range(count)], object)
    return np.repeat(letters[:, None], entries, 1)


def test_each_way_has_its_brackets():
    assert list(in_order(words(4))) == ["(((ab)c)d)"]
    assert [list(by_worker(words(6), n)) for n in (1, 2, 3)] == [
        ["(((((ab)c)d)e)f)"],
        ["(((ab)c)((de)f))"],
        ["(((ab)(cd))(ef))"],
    ]
    assert list(in_a_ring(words(6, 3), 3)) == ["(((cd)(ef))(ab))", "(((ef)(ab))(cd))", "(((ab)(cd))(ef))"]
    assert list(in_a_ring(words(4, 3), 2)) == ["((cd)(ab))", "((cd)(ab))", "((ab)(cd))"]
    assert sorted(in_every_order(words(3))[:, 0]) == ["((ab)c)", "((ac)b)", "((ba)c)", "((bc)a)", "((ca)b)", "((cb)a)"]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 8, 12, 24])
def test_the_fixed_tree_has_the_same_brackets_for_any_number_of_workers(count):
    found = {str(in_the_fixed_tree(words(count), n)[0]) for n in teams(count)}
    assert len(found) == 1
    assert count != 6 or found == {"(((ab)(cd))(ef))"}


def test_each_way_gives_the_sum():
    shards = np.random.default_rng(0).standard_normal((6, 3, 5)).astype(np.float32)
    exact = np.array([fsum(column) for column in shards.reshape(6, -1).T.tolist()]).reshape(3, 5)
    allowed = 2.0**-24 * 5 * np.abs(shards).sum(0)
    for way in (in_a_ring, by_worker, in_the_fixed_tree):
        for n in teams(6):
            total = way(shards, n)
            assert total.shape == (3, 5) and total.dtype == np.float32
            assert (np.abs(total - exact) <= allowed).all(), (way, n)
    assert (np.abs(in_every_order(shards) - exact) <= allowed).all()


def test_bits_are_counted():
    one = np.float32(1)
    row = np.array([one, np.nextafter(one, np.float32(2)), one, np.nextafter(one, np.float32(0)), one], np.float32)
    assert patterns(row) == 3 and spread(row) == 2
    assert patterns(np.float32([[1, 2], [1, 3]])).tolist() == [1, 2]
    assert patterns(np.float32([0, -0.0])) == 2 and spread(np.float32([0, -0.0])) == 0
    assert place(np.float32([0, -0.0, 1e-45, -1e-45])).tolist() == [0, 0, 1, -1]
    assert (place(row[1:2]) - place(row[:1])).item() == 1
    assert spread(np.float32([-1e-45, 1e-45])) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 8, 12, 37, 64])
def test_sums_are_joined_as_the_bits_of_a_counter_carry(count):
    assert sums_in_memory(count) == 1 + max(i.bit_count() for i in range(count))


def test_what_is_sent():
    assert sent(8, 1) == [0]
    assert sent(8, 4) == [1.5] * 4
    assert sent(6, 2) == [1.5] * 2  # two subtrees each, half of each vector, and half of the sum
    assert sent(12, 4) == [2.25] * 4
    assert sent(10, 2) == [0.5 * len(subtrees(block, (0, 10))) + 0.5 for block in ((0, 5), (5, 10))]
    with pytest.raises(ValueError, match="got 8 shards for 3 workers, wanted a multiple"):
        blocks(8, 3)


@pytest.mark.parametrize("count, workers", [(8, 4), (6, 2), (12, 3), (2, 1)])
def test_a_tree_is_drawn_with_what_each_worker_sends_framed(count, workers):
    texts = drawn_tree(count, workers).axes[0].texts
    nodes = {t.get_text(): t.get_bbox_patch() for t in texts if t.get_bbox_patch()}
    assert len(nodes) == 2 * count - 1
    framed = {label for label, patch in nodes.items() if patch.get_edgecolor()[3]}
    held = [node for block in blocks(count, workers) for node in subtrees(block, (0, count))]
    assert framed == {name(node) for node in held}
    own = [nodes[name(node)].get_facecolor() for node in ((0, 1), (count - 1, count))]
    assert (own[0] == own[1]) == (workers == 1)


def test_an_exchange_is_drawn_with_an_arrow_for_each_message_of_a_piece():
    figure = drawn_exchange(4, 2)
    arrows = [[(t.xyann, t.xy) for t in axes.texts if getattr(t, "arrow_patch", None)] for axes in figure.axes]
    assert [len(some) for some in arrows] == [0, 3, 3]
    assert all(end == (2, 2) and start[1] == 2 for start, end in arrows[1])
    assert sorted(end for _, end in arrows[2]) == [(0, 2), (1, 2), (3, 2)]


def too_large(shards):
    return in_order(shards) * np.float32(1.001)


FAULTS = [
    ("1_sums", "in_the_fixed_tree", by_worker, "the fixed tree: In the fixed tree every entry"),
    ("1_sums", "by_worker", in_the_fixed_tree, "the other ways"),
    ("1_sums", "in_order", too_large, "errors"),
    pytest.param("2_workers", "in_the_fixed_tree", by_worker, "the fixed tree", marks=pytest.mark.long),
    pytest.param(
        "2_workers", "in_a_ring", lambda shards, n: by_worker(shards, 1), "the other ways", marks=pytest.mark.long
    ),
    pytest.param("2_workers", "sent", lambda count, n: [2 - 2 / n] * n, "traffic", marks=pytest.mark.long),
    pytest.param("2_workers", "sums_in_memory", lambda count: count, "memory", marks=pytest.mark.long),
]


@pytest.mark.parametrize("page, what, instead, refused", FAULTS)
def test_a_page_refuses_a_statement_that_is_not_true(page, what, instead, refused, monkeypatch):
    pytest.importorskip("marimo", reason="needs inception-np[learn]")
    file = next(p.file for p in pages() if p.name == page)
    monkeypatch.setattr(sums, what, instead)
    with pytest.raises(AssertionError, match=refused):
        runpy.run_path(str(file))["app"].run()

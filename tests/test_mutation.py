"""The backward passes are mutated, and the tests find it: a sample on every run, all of them with -m mutation."""

import mutation
import pytest
import wild_operators

SAMPLE = 60  # of all mutants, spread over every file


@pytest.fixture(scope="module")
def mutants():
    return mutation.all_mutants()


def test_there_are_more_than_300_mutants_in_every_file_that_has_a_backward(mutants):
    assert len(mutants) > 300
    assert {m.file for m in mutants} == set(mutation.TARGETS)
    assert len({m.name for m in mutants}) == len(mutants)


@pytest.mark.mutation
@pytest.mark.parametrize("file", mutation.TARGETS)
def test_the_right_code_passes_every_judge(file):
    for layer in mutation.TARGETS[file][1]:
        for judge in mutation.judges(layer):
            judge()


@pytest.mark.parametrize("layer", ["loss", "adaptive", "heads"])
def test_the_right_code_passes_what_is_asked_only_here(layer):
    for judge in mutation.judges(layer):
        judge()
    mutation.one_value_per_channel()
    mutation.units_at_zero_get_nothing()
    mutation.no_rate_needs_no_generator()
    mutation.a_draw_equal_to_the_rate_is_kept()


# What each operator of wild_operators.py says of its edit.
ELSEWHERE = """
    first of stride twice; dilation of the other axis; first of size twice; one group; the root twice; the power twice
    x for y; dy for g; small dy dropped; the first image's dy for all; without the last image; not cleared; left out
    one side for both; the other side for both; always; never; always in training; never in training
    the first round only; without the last round; without the last channel; without the last row; in the other layout
    hands dy on; the first for all; along another axis; without its offset
"""


def test_every_way_in_which_gradients_went_wrong_elsewhere_is_planted_here(mutants):
    ways = [way.strip() for line in ELSEWHERE.strip().splitlines() for way in line.split(";")]
    assert [way for way in ways if not any(way in m.name.rpartition(": ")[2] for m in mutants)] == []
    assert not any("a way that nobody plants" in m.name for m in mutants)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("return f(x, stride)", "return f(x, (stride[0], stride[0]))"),
        ("return f(x, self.dilation)", "return f(x, (self.dilation[1], self.dilation[0]))"),
        ("return dy * (y > 0)", "return dy * (x > 0)"),
        ("return g.sum(0)", "return g[:-1].sum(0)"),
        ("return zeros(y.shape)", "return zeros(y.shape) + 0.1"),
        ("return where(x, y, dy)", "return y"),
        ("return y", "return y.reshape(y.shape[::-1]).T"),
        ("return x", "return dy"),
        ("return y if train else x", "return y if True else x"),
        ("dx[0] += g", "dx[0][:, :-1] += g[:, :-1]"),
        ("for i in x:\n        f(i)", "for i in x:\n        f(i)\n        break"),
        ("return x[3:3 + y]", "return x[:y]"),
        ("return g[:, None]", "return g[:1, None]"),
        ("return g[:, None]", "return g[None, :]"),
        ("return rstd * dy", "return rstd ** -0.5 * dy"),
        ("return dy * x", "return dy * (abs(dy) > 0.3) * x"),
    ],
)
def test_an_operator_makes_the_fault_that_it_is_named_after(right, wrong):
    head = "def backward(dy, x, y, g, rstd, stride, train):\n    "
    function = mutation.ast.parse(head + right).body[0]
    where, bound, made = mutation.places(function), wild_operators.names(function), []
    for node in list(mutation.inside(function)):
        for _, new in list(wild_operators.edits(node, where[node][0], bound)):
            mutation.put(where[node], new)
            made.append(mutation.ast.unparse(mutation.ast.fix_missing_locations(function)))
            mutation.put(where[node], node)
    wanted = mutation.ast.unparse(mutation.ast.parse(head + wrong))
    assert wanted in made
    assert mutation.ast.unparse(function) not in made  # each of them is a fault


def test_a_planted_mutant_acts_and_is_gone_afterwards(mutants):
    m = next(m for m in mutants if m.file == "kernels/lrn.py" and m.name.endswith("-= for +="))
    right = m.target.__code__
    assert mutation.verdict(m) == "wrong number"
    assert m.target.__code__ is right
    with pytest.raises(KeyError), mutation.planted(m):
        raise KeyError
    assert m.target.__code__ is right


def test_a_mutant_that_hangs_is_found(mutants, monkeypatch):
    monkeypatch.setattr(mutation, "SECONDS", 0.3)

    def forever():
        while True:
            pass

    monkeypatch.setitem(mutation.TARGETS, "kernels/lrn.py", ((), ("hangs",)))
    monkeypatch.setattr(mutation, "judges", lambda layer: [forever])
    assert mutation.verdict(next(m for m in mutants if m.file == "kernels/lrn.py")) == "hangs"


def test_a_sample_of_mutants_is_found(mutants):
    equivalents = mutation.listed()
    sample = mutants[7 :: max(1, len(mutants) // SAMPLE)]
    sample = [m for m in sample if not mutation.entry_of(m.name, equivalents)]
    assert [m.name for m in sample if not mutation.verdict(m)] == []


@pytest.mark.mutation
def test_every_mutant_is_found_or_proven_equivalent():
    result = mutation.run()
    print(result.table())
    assert result.survivors == []
    assert result.problems == []

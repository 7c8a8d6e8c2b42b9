"""The backward passes are mutated, and the tests find it: a sample on every run, all of them with -m mutation."""

import mutation
import pytest

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

"""The wrong gradients that shipped elsewhere: check_gradients finds them all, and accuses none of the right ones."""

import inspect

import numpy as np
import pytest
import wild_bugs
from wild_bugs import BUGS, check, link, score

ids = [cls.__name__ for cls in BUGS]


def found_by_a_number(cls, seed):
    """Every wrong run gives a wrong entry (no exception, and no broken law in its place), every right run none."""
    for shape in cls.shapes:
        report = check(cls, True, shape, seed)
        assert not report.ok and report.failures(), report
        assert report.problems == [], report
        report = check(cls, False, shape, seed)
        assert report.ok, report


@pytest.mark.parametrize("cls", BUGS, ids=ids)
def test_the_gradient_that_shipped_is_found_and_the_right_one_passes(cls):
    found_by_a_number(cls, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("cls", BUGS, ids=ids)
def test_the_gradient_that_shipped_is_found_at_every_seed(cls):
    for seed in range(1, 20):
        found_by_a_number(cls, seed)


def test_the_forwards_give_the_same_with_the_bug_and_without_it():
    for cls in BUGS:
        x = np.random.default_rng(0).standard_normal(cls.shapes[0])
        mode = wild_bugs.Mode(train=cls.train, keep=True, rng=np.random.default_rng(1))
        y = cls(True, 3).forward(x, mode)[0]
        mode = wild_bugs.Mode(train=cls.train, keep=True, rng=np.random.default_rng(1))
        again = cls(False, 3).forward(x, mode)[0]
        pairs = zip(y, again, strict=True) if isinstance(y, tuple) else [(y, again)]
        assert all(np.array_equal(a, b) for a, b in pairs), cls.__name__


def test_every_one_is_a_thread_of_its_own_and_fits_twenty_lines():
    assert len(BUGS) == len({link(cls) for cls in BUGS}) == 46
    for cls in BUGS:
        assert link(cls).startswith("https://github.com/")
        assert len(cls.__doc__.split()) > 4, cls.__name__  # what went wrong, too
        code = [line for line in inspect.getsource(cls).replace(cls.__doc__, "").splitlines() if line.strip()]
        assert len(code) <= 20, cls.__name__


def test_the_score_counts_a_wrong_gradient_that_passes_and_a_right_one_that_fails(monkeypatch):
    class Silent(wild_bugs.LRNHandsDyOn):
        """https://github.com/ right in both"""

        def backward(self, dy, x, s):
            self.bug = False
            return super().backward(dy, x, s)

    class Accused(wild_bugs.LRNHandsDyOn):
        """https://github.com/ wrong in both"""

        def backward(self, dy, x, s):
            self.bug = True
            return super().backward(dy, x, s)

    monkeypatch.setattr(wild_bugs, "BUGS", [Silent, wild_bugs.LRNHandsDyOn, Accused])
    assert score() == ([Silent], [Accused])


@pytest.mark.long
def test_the_table_of_checkers_is_the_one_that_is_printed(capsys):
    """The figures that the README quotes. float32 policies are left out: their alarms depend on the last digits."""
    missed = {"complex": 0, "torch-slow": 2, "torch-fast": 1, "jax": 0, "chainer": 1, "autograd": 0}
    missed |= {"minitorch": 32, "cs231n": 0, "mygrad": 0, "ones": 7}
    wild_bugs.main()
    sentence, _, _, *rows = capsys.readouterr().out.splitlines()
    assert sentence == "check_gradients: 46 of 46 wrong gradients found, 0 alarms on 46 right ones, 6 runs each"
    table = {row.split()[0]: row.split()[1:] for row in rows}
    table["complex"] = table.pop("check_gradients")
    for method, n in missed.items():
        assert table[method] == [str(len(BUGS) - n), str(n), "0"], method

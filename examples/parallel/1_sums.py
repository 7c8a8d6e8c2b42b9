"""Sums and their brackets.

Floating-point addition rounds, so the order of a sum shows in its last bits. A fixed tree gives the same bits for any
number of workers, and smaller errors than a sum in order.
"""

import marimo

app = marimo.App(width="medium", app_title="Sums and their brackets")


@app.cell(hide_code=True)
def _():
    from fractions import Fraction

    import marimo as mo
    import numpy as np

    from inception_np.learn.exercise import Verdict, prove
    from inception_np.learn.slide import code, figure, table
    from inception_np.learn.sums import (
        by_worker,
        in_a_ring,
        in_every_order,
        in_order,
        in_the_fixed_tree,
        patterns,
        place,
        spread,
        teams,
    )
    from inception_np.learn.workers import drawn_tree
    from inception_np.parallel.tree import middle, subtrees, tree_sum

    return (
        Fraction,
        Verdict,
        by_worker,
        code,
        drawn_tree,
        figure,
        in_a_ring,
        in_every_order,
        in_order,
        in_the_fixed_tree,
        middle,
        mo,
        np,
        patterns,
        place,
        prove,
        spread,
        subtrees,
        table,
        teams,
        tree_sum,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Sums and their brackets

    Several workers train one network. Each computes the gradient of a part of the batch, a *shard*, and the gradients
    are added. This page shows why the result depends on how they are added, and how the library adds them, so that
    one worker and eight workers get the same bits. The next page, *Several workers*, shows what that is good for.

    ## One addition rounds

    A float32 has 24 binary digits. Between $2^e$ and $2^{e+1}$ two neighbours are $2^{e-23}$ apart. This distance is
    called an *ulp*, a unit in the last place. The exact sum of two float32 mostly lies between two neighbours, and the
    nearer one is taken: the error is at most half an ulp. Of two that are equally near, the one whose last bit is 0 is
    taken. (Goldberg 1991, What Every Computer Scientist Should Know About Floating-Point Arithmetic.)
    """)
    return


@app.cell(hide_code=True)
def _(mo):
    _steps = [-1e8, -1e4, -16, -1, -0.3, -0.1, 0.1, 0.2, 0.3, 0.7, 1, 3, 16, 1e4, 1e8]
    a = mo.ui.slider(steps=_steps, value=1e8, label="a", show_value=True)
    b = mo.ui.slider(steps=_steps, value=-1e8, label="b", show_value=True)
    c = mo.ui.slider(steps=_steps, value=3, label="c", show_value=True)
    mo.hstack([a, b, c], justify="start", wrap=True)
    return a, b, c


@app.cell(hide_code=True)
def _(Fraction, a, c, figure, mo, np):
    _one, _two = np.float32(a.value), np.float32(c.value)
    _sum = _one + _two
    _exact = Fraction(float(_one)) + Fraction(float(_two))
    _ulp = Fraction(float(np.spacing(abs(_sum))))
    _off = float((_exact - Fraction(float(_sum))) / _ulp)
    _drawn, _ax = figure(7, 1.3)
    _ax.axhline(0, color="#777", lw=1)
    _bars = [_sum]
    for _way in (-np.inf, np.inf):
        _bars += [
            _next := np.nextafter(_sum, np.float32(_way)),
            np.nextafter(_next, np.float32(_way)),
        ]
    _at = [float((Fraction(float(v)) - Fraction(float(_sum))) / _ulp) for v in _bars]
    _ax.plot(_at, [0] * 5, "|", color="#222", ms=14)
    _ax.plot(0, 0, "o", color="C0", ms=8)
    _ax.plot(_off, 0, "x", color="C3", ms=10, mew=2.5)
    _ax.set(xlim=(-2.4, 2.4), ylim=(-0.8, 0.8), yticks=[])
    _ax.set_xlabel("ulps from the sum that is stored")
    for _spine in _ax.spines.values():
        _spine.set_visible(False)
    _error = f"The error is {abs(_off):.3g} ulp." if _off else "There is no error."
    mo.vstack(
        [
            mo.md(
                f"a + c is stored as **{_sum:.9g}** (blue). The bars are its neighbours, "
                f"{float(_ulp):.3g} apart. The exact sum is the cross. {_error}"
            ),
            _drawn,
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## (a + b) + c is not a + (b + c)

    The same three numbers, added in the three ways that there are. (Which of two numbers stands first does not matter:
    $a + b$ and $b + a$ round the same exact sum.) The last column counts the steps from neighbour to neighbour that
    lead from the first sum to this one.
    """)
    return


@app.cell(hide_code=True)
def _(a, b, c, mo, np, place, table):
    _a, _b, _c = (np.float32(v.value) for v in (a, b, c))
    _sums = np.array([(_a + _b) + _c, _a + (_b + _c), (_a + _c) + _b], np.float32)
    _steps = place(_sums)
    _rows = [
        (way, f"{value:.9g}", f"{value.view(np.uint32):032b}", int(step - _steps[0]))
        for way, value, step in zip(
            ("(a + b) + c", "a + (b + c)", "(a + c) + b"), _sums, _steps, strict=True
        )
    ]
    _words = {
        1: "All three are equal. Move a slider.",
        2: "Two of them are equal, and one is not.",
        3: "Three ways, three different sums.",
    }
    mo.vstack(
        [
            table(("way", "sum", "its 32 bits", "steps from the first"), _rows),
            mo.md(_words[len(set(_steps.tolist()))]),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Verdict, mo, np):
    _a, _b, _c = np.float32(1e8), np.float32(-1e8), np.float32(0.1)
    _pairs = np.random.default_rng(0).standard_normal((2, 100_000)).astype(np.float32)
    _commutes = bool((_pairs[0] + _pairs[1] == _pairs[1] + _pairs[0]).all())
    brackets_matter = Verdict(
        _commutes and (_a + _b) + _c == _c and _a + (_b + _c) == 0,
        "a + b is b + a, for 100,000 random pairs. But (1e8 - 1e8) + 0.1 is 0.1, and 1e8 + (-1e8 + 0.1) is 0.",
    )
    mo.vstack([brackets_matter])
    return (brackets_matter,)


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## Eight shards, four ways

    Take eight shards, and a gradient of 64 entries, drawn at random. 1, 2, 4 or 8 workers hold the same number of
    shards each. They can add them in these ways:

    - **In order of arrival.** The first gradient that arrives is added first. Who is first is up to chance, so there
      are $8! = 40{,}320$ orders.
    - **In a ring.** Each worker adds its own shards. The vector is cut into one piece per worker, and each piece
      travels once around the ring while everybody adds his own numbers to it. Each piece begins elsewhere.
    - **In a tree by worker.** Each worker adds its own shards in order. The sums of the workers are added in pairs, the
      pairs' sums in pairs, and so on.
    - **In the fixed tree.** The brackets are those of a tree over the *shards*. A worker adds what lies in its own part
      of the tree, and no more.

    How many different sums come out of all orders, or of all numbers of workers?
    """)
    return


@app.cell(hide_code=True)
def _(by_worker, in_a_ring, in_every_order, in_the_fixed_tree, mo, np, teams):
    shards = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    ways = {
        "in order of arrival": in_every_order(shards),
        "in a ring": np.stack([in_a_ring(shards, n) for n in teams(8)]),
        "in a tree by worker": np.stack([by_worker(shards, n) for n in teams(8)]),
        "in the fixed tree": np.stack([in_the_fixed_tree(shards, n) for n in teams(8)]),
    }
    mo.show_code()
    return shards, ways


@app.cell(hide_code=True)
def _(
    by_worker,
    code,
    in_a_ring,
    in_every_order,
    in_the_fixed_tree,
    mo,
    np,
    patterns,
    spread,
    table,
    ways,
):
    _rows = []
    for _way, _sums in ways.items():
        _found, _steps = patterns(_sums), spread(_sums)
        _rows.append(
            (
                _way,
                len(_sums),
                int(_found.max()),
                f"{int((_found > 1).sum())} of {_found.size}",
                float(np.median(_steps)),
                int(_steps.max()),
            )
        )
    _head = (
        "added",
        "variants",
        "most bit patterns of one entry",
        "entries with several",
        "median spread, ulps",
    )
    mo.vstack(
        [
            table((*_head, "largest spread, ulps"), _rows),
            mo.md(
                "The largest spread belongs to an entry whose sum nearly cancels: a small number, which has small ulps."
            ),
            *(code(way) for way in (in_every_order, in_a_ring, by_worker, in_the_fixed_tree)),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Verdict, mo, patterns, teams, ways):
    _found = {way: patterns(sums) for way, sums in ways.items()}
    _fixed = _found["in the fixed tree"]
    _least = min(int(found.max()) for way, found in _found.items() if way != "in the fixed tree")
    one_pattern = Verdict(
        bool((_fixed == 1).all()),
        f"In the fixed tree every entry has one bit pattern for {', '.join(map(str, teams(8)))} workers.",
    )
    several_patterns = Verdict(
        _least > 1,
        f"In each of the other ways there is an entry with at least {_least} bit patterns.",
    )
    mo.vstack([one_pattern, several_patterns])
    return one_pattern, several_patterns


@app.cell(hide_code=True)
def _(mo):
    entry = mo.ui.slider(0, 63, value=5, label="entry of the gradient", show_value=True)
    mo.vstack([mo.md("One entry, and all its sums:"), entry])
    return (entry,)


@app.cell(hide_code=True)
def _(entry, figure, mo, np, place, shards, ways):
    _nearest = place(np.float32([np.sum(shards[:, entry.value], dtype=np.float64)]))[0]
    _drawn, _ax = figure(7.5, 2.5)
    for _i, _sums in enumerate(ways.values()):
        _steps, _counts = np.unique(place(_sums[:, entry.value]) - _nearest, return_counts=True)
        _ax.scatter(
            _steps,
            [_i] * len(_steps),
            s=20 + 180 * _counts / _counts.max(),
            color=f"C{_i}",
            alpha=0.7,
        )
    _ax.set(xlabel="ulps from the float32 next to the exact sum", ylim=(3.6, -0.6))
    _ax.set_yticks(range(4), list(ways))
    _ax.margins(x=0.1)
    _ax.xaxis.get_major_locator().set_params(integer=True)
    _ax.ticklabel_format(axis="x", useOffset=False)
    _ax.grid(axis="x", alpha=0.3)
    mo.vstack([_drawn, mo.md("The larger a dot, the more variants give this sum.")])
    return


@app.cell(hide_code=True)
def _(code, middle, mo, subtrees, tree_sum):
    mo.vstack(
        [
            mo.md(r"""
    ## The fixed tree

    The tree depends on the number of shards, and on nothing else. A range of shards is cut behind the largest power of
    two that is smaller than it. A worker holds some shards in order. The largest subtrees that lie within them (framed)
    are what it adds itself, and what it sends. Whoever has the framed sums makes the grey ones of them. No bracket ever
    moves: it is only somebody else who adds it.
    """),
            code(middle),
            code(subtrees),
            code(tree_sum),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    _offers = [
        (8, 1),
        (8, 2),
        (8, 4),
        (8, 8),
        (6, 1),
        (6, 2),
        (6, 3),
        (12, 2),
        (12, 3),
        (12, 4),
        (12, 6),
    ]
    _named = {f"{count} shards on {n} worker{'s' * (n > 1)}": (count, n) for count, n in _offers}
    shared = mo.ui.dropdown(_named, value="8 shards on 4 workers", label="who holds what")
    mo.vstack([shared])
    return (shared,)


@app.cell(hide_code=True)
def _(drawn_tree, mo, shared, subtrees):
    _count, _workers = shared.value
    _each = _count // _workers
    _sent = [len(subtrees((w * _each, (w + 1) * _each), (0, _count))) for w in range(_workers)]
    _words = (
        "Every worker holds one subtree: it sends one sum."
        if max(_sent) == 1
        else f"The workers hold {', '.join(map(str, _sent))} subtrees. What lies across the border of two workers "
        "cannot be added by either, so more sums are sent."
    )
    mo.vstack([drawn_tree(_count, _workers), mo.md(_words)])
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## A tree is more exact, too

    Each addition multiplies the exact sum by $1 + \delta$, with $|\delta| \le u = 2^{-24}$, half an ulp of 1. In a
    sum of $n$ numbers in order, the first number goes through $n - 1$ additions. In a balanced tree every number goes
    through $\log_2 n$. To first order in $u$ (Higham 1993, The Accuracy of Floating Point Summation):

    $$|\text{error in order}| \le (n-1)\,u \sum |x_i| \qquad
      |\text{error in a tree}| \le \lceil \log_2 n \rceil\, u \sum |x_i|$$

    These are bounds. Roundings up and down partly cancel, so the errors are mostly far below them. Here are numbers
    drawn from 0 to 1, 20 draws for each $n$, and the largest error.
    """)
    return


@app.cell(hide_code=True)
def _(in_order, mo, np, tree_sum):
    from math import fsum

    def largest_errors(n, draws=20):
        """The largest error of a sum in order and of one in the tree, over u times the sum of all |x|."""
        x = np.random.default_rng(n).random((n, draws), np.float32)
        exact = np.array([fsum(column.tolist()) for column in x.T])
        tree = tree_sum({(i, i + 1): row for i, row in enumerate(x)}, (0, n))
        unit = 2.0**-24 * exact
        return tuple(float((np.abs(total - exact) / unit).max()) for total in (in_order(x), tree))

    sizes = [2**k for k in range(1, 14)]
    errors = np.array([largest_errors(n) for n in sizes])
    mo.show_code()
    return errors, sizes


@app.cell(hide_code=True)
def _(errors, figure, mo, np, sizes):
    _drawn, _ax = figure(7.5, 3.2)
    _n = np.array(sizes)
    _ax.loglog(_n, _n - 1, "--", color="C3", lw=1, label="bound in order: n - 1")
    _ax.loglog(_n, errors[:, 0], "o-", color="C3", label="in order, measured")
    _ax.loglog(_n, np.log2(_n), "--", color="C0", lw=1, label="bound of the tree: log2 n")
    _ax.loglog(_n, errors[:, 1], "s-", color="C0", label="tree, measured")
    _ax.set(xlabel="numbers n", ylabel="error / (u sum |x|)", ylim=(0.1, None))
    _ax.legend(loc="upper left", fontsize=8)
    mo.vstack([_drawn])
    return


@app.cell(hide_code=True)
def _(Verdict, errors, mo, np, sizes):
    _n = np.array(sizes)
    small_errors = Verdict(
        bool((errors[:, 0] <= _n - 1).all() and (errors[:, 1] <= np.log2(_n)).all())
        and errors[-1, 0] > 4 * errors[-1, 1],
        f"Both errors are below their bounds. Of {_n[-1]:,} numbers the sum in order is off by "
        f"{errors[-1, 0]:.1f} units, and the tree by {errors[-1, 1]:.2f}.",
    )
    mo.vstack(
        [
            small_errors,
            mo.md(
                "With eight shards the errors hardly differ. The tree is chosen for its fixed brackets, not for its "
                "errors. There are sums that need no order at all: Demmel & Nguyen 2015 (Parallel Reproducible "
                "Summation) cut the numbers at fixed places, so that each part is added without error. They cost more "
                "additions."
            ),
        ]
    )
    return (small_errors,)


@app.cell(hide_code=True)
def _(in_every_order, mo, np, patterns, shards):
    in_double = in_every_order(shards.astype(np.float64)).astype(np.float32)
    several_in_double = int((patterns(in_double) > 1).sum())
    halfway = np.float32([1, 2.0**-24, 2.0**-53, 2.0**-53, 2.0**-53])
    halves = in_every_order(halfway.astype(np.float64)).astype(np.float32)
    mo.vstack(
        [
            mo.md(r"""
    ## Exercises

    **1. Add in float64.** Somebody adds the shards in float64, in order of arrival, and rounds once at the end. Does
    that give the same bits for every order? Try the 64 entries above first.
    """),
            mo.accordion(
                {
                    "A solution": mo.md(rf"""
    Of the 64 entries, {several_in_double} have several bit patterns over all 40,320 orders. So it looks right. But it
    is luck, and not a promise. Where the exact sum lies near the middle of two float32, the last bit of the float64
    decides to which of them it is rounded. Take 1, $2^{{-24}}$ and three times $2^{{-53}}$: over all orders they have
    {int(patterns(halves))} sums, {" and ".join(f"{v:.9g}" for v in np.unique(halves))}. More digits make such cases
    rare, and a wrong bit in one step of a million is harder to find than one in every step.
    """)
                }
            ),
        ]
    )
    return halves, several_in_double


@app.cell(hide_code=True)
def _(mo, subtrees):
    _held = [subtrees(block, (0, 10)) for block in ((0, 5), (5, 10))]
    mo.vstack(
        [
            mo.md(r"""
    **2. Ten shards on two workers.** Where is the tree over ten shards cut first? Which subtrees does each worker send?
    """),
            mo.accordion(
                {
                    "A solution": mo.md(f"""
    Behind shard 7, since 8 is the largest power of two below 10. Worker 0 holds 0 to 4: that is {_held[0]}. Worker 1
    holds 5 to 9: {_held[1]}. (The end is not in the range.) So `subtrees((0, 5), (0, 10))` says.
    """)
                }
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(in_every_order, mo, np, patterns):
    def different_brackets(count):
        """Binary trees over `count` numbers, where left and right do not matter: 1 * 3 * 5 * ... * (2 count - 3)."""
        return int(np.prod(range(1, 2 * count - 2, 2)))

    orders_of_three = int(patterns(in_every_order(np.float32([0.1, 0.2, -0.3]))))
    mo.vstack(
        [
            mo.md(r"""
    **3. How many brackets are there?** Three numbers can be added in three ways. Why not in six? In how many ways can
    eight be added? (Hint: into how many places of a tree over $n$ numbers can one more be put?)
    """),
            mo.accordion(
                {
                    "A solution": mo.md(f"""
    Six orders, but a + b is b + a: each sum is counted twice, and {different_brackets(3)} are left. Of 0.1, 0.2 and
    -0.3 all six orders give {orders_of_three} bit patterns. A tree over n numbers has 2n - 2 edges, and a place
    above its root: one more number can be hung into 2n - 1 places. So the ways are 1 x 3 x 5 x ... x (2n - 3), which is
    {different_brackets(8):,} for eight. Any of them would do, as long as it is always the same one.
    """)
                }
            ),
        ]
    )
    return different_brackets, orders_of_three


@app.cell(hide_code=True)
def _(
    Verdict,
    brackets_matter,
    different_brackets,
    halves,
    one_pattern,
    orders_of_three,
    patterns,
    prove,
    several_in_double,
    several_patterns,
    small_errors,
):
    prove("brackets", brackets_matter)
    prove("the fixed tree", one_pattern)
    prove("the other ways", several_patterns)
    prove("errors", small_errors)
    prove(
        "float64, a solution",
        Verdict(
            several_in_double == 0 and int(patterns(halves)) == 2,
            "The 64 entries have one bit pattern each, and five chosen numbers have two.",
        ),
    )
    prove(
        "brackets, a solution",
        Verdict(
            (different_brackets(3), different_brackets(8), orders_of_three) == (3, 135_135, 3),
            "There are 3 brackets for three numbers and 135,135 for eight.",
        ),
    )
    return


if __name__ == "__main__":
    app.run()

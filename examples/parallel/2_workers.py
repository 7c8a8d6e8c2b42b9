"""Several workers.

Two runs that differ in a last bit drift apart, and with the fixed tree none do. How the sums travel between workers,
how much that is, and why batch norm makes the shards part of the result.
"""

import marimo

app = marimo.App(width="medium", app_title="Several workers")


@app.cell(hide_code=True)
def _():
    import marimo as mo
    import numpy as np

    from inception_np import (
        SGD,
        ConvBNReLU,
        ConvReLU,
        GlobalAvgPool2D,
        Linear,
        Mode,
        Sequential,
        softmax_cross_entropy,
        vectors,
        zero_grad,
    )
    from inception_np.backend.errors import UsageError
    from inception_np.data.shapes10 import shapes10
    from inception_np.learn.exercise import Verdict, prove
    from inception_np.learn.slide import code, figure, table
    from inception_np.learn.sums import (
        by_worker,
        in_a_ring,
        in_the_fixed_tree,
        sent,
        sums_in_memory,
        teams,
    )
    from inception_np.learn.workers import drawn_exchange, drawn_tree
    from inception_np.parallel.tree import are_siblings
    from inception_np.parallel.workers import Workers, check_shards
    from inception_np.training.options import Options, check

    return (
        ConvBNReLU,
        ConvReLU,
        GlobalAvgPool2D,
        Linear,
        Mode,
        Options,
        SGD,
        Sequential,
        UsageError,
        Verdict,
        Workers,
        are_siblings,
        by_worker,
        check,
        check_shards,
        code,
        drawn_exchange,
        drawn_tree,
        figure,
        in_a_ring,
        in_the_fixed_tree,
        mo,
        np,
        prove,
        sent,
        shapes10,
        softmax_cross_entropy,
        sums_in_memory,
        table,
        teams,
        vectors,
        zero_grad,
    )


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # Several workers

    ```sh
    mpiexec -n 4 inception-np train inception_v1_cifar --shards 8
    ```

    A batch is cut into shards. Each worker computes the gradients of its own shards. The gradients of all shards are
    added, every worker gets the sum, and takes the same step of the optimiser. So all workers have the same weights
    all the time, and nobody has to send them. This is synchronous data parallelism (Akiba et al. 2017, ChainerMN).

    The gradient of one shard is the same for whoever computes it, on processors of one kind: the library's kernels add
    in an order that does not depend on the number of threads. Which bits the sum has depends on its brackets: that is
    the page before this one, *Sums and their brackets*. Here is what a last bit does to training.

    ## Two runs that differ in a last bit

    A small network with two convolutions, batch norm and a classifier learns the shapes of *shapes10*. Each step takes
    32 images, in eight shards of four. Nothing differs between the runs, but the number of workers among whom the
    shards are divided, and the way in which their gradients are added.
    """)
    return


@app.cell(hide_code=True)
def _(
    ConvBNReLU,
    GlobalAvgPool2D,
    Linear,
    Mode,
    SGD,
    Sequential,
    mo,
    np,
    shapes10,
    softmax_cross_entropy,
    vectors,
    zero_grad,
):
    _pixels, labels = shapes10("train", 512)
    images = (_pixels / np.float32(127.5) - 1).astype(np.float32)
    SHARDS, BATCH, STEPS = 8, 32, 80
    _draw = np.random.default_rng(2)
    batches = [_draw.choice(len(images), BATCH, replace=False) for _ in range(STEPS)]

    def network():
        rng = np.random.default_rng(1)
        return Sequential(
            ConvBNReLU(3, 8, 3, stride=2, rng=rng),
            ConvBNReLU(8, 16, 3, stride=2, rng=rng),
            GlobalAvgPool2D(),
            Linear(16, 10, rng=rng),
        )

    def gradients(net, chosen, count):
        """(count, parameters): the gradient of each shard's mean loss, divided by the number of shards."""
        found = []
        for shard in np.split(chosen, count):
            zero_grad(net)
            y, cache = net.forward(images[shard], Mode(train=True, keep=True))
            _, dy = softmax_cross_entropy(y, labels[shard])
            net.backward(dy, images[shard], cache)
            found.append(vectors(net)[1] / np.float32(count))
        return np.stack(found)

    def trained(add, workers):
        """(steps + 1, parameters): the weights before the first step and after each of them."""
        net = network()
        optimiser = SGD(net, 0.1, momentum=0.9)
        path = [optimiser.data.copy()]
        for chosen in batches:
            optimiser.grad[...] = add(gradients(net, chosen, SHARDS), workers)
            optimiser.step()
            path.append(optimiser.data.copy())
        return np.stack(path)

    mo.show_code()
    return BATCH, SHARDS, batches, gradients, images, labels, network, trained


@app.cell(hide_code=True)
def _(SHARDS, by_worker, in_a_ring, in_the_fixed_tree, np, teams, trained):
    alone = trained(by_worker, 1)  # one worker adds its shards in order
    tree = {n: trained(in_the_fixed_tree, n) for n in teams(SHARDS)}
    drifts = {
        "1 and 2 workers, in a tree by worker": (alone, trained(by_worker, 2)),
        "1 and 4 workers, in a tree by worker": (alone, trained(by_worker, 4)),
        "1 and 4 workers, in a ring": (alone, trained(in_a_ring, 4)),
        **{f"1 and {n} workers, in the fixed tree": (tree[1], tree[n]) for n in tree if n > 1},
    }

    def distance(one, other):
        """The distance of the weights after each step, over their size."""
        return np.linalg.norm(one - other, axis=1) / np.linalg.norm(one, axis=1)

    apart = {name: distance(*pair) for name, pair in drifts.items()}
    return apart, drifts


@app.cell(hide_code=True)
def _(Verdict, apart, drifts, figure, mo, np):
    _drawn, _ax = figure(8, 3.4)
    for _i, (_name, _steps) in enumerate(apart.items()):
        if _steps.any():
            _ax.semilogy(
                np.where(_steps > 0, _steps, np.nan), ".-", color=f"C{_i}", ms=4, label=_name
            )
    _ax.axhline(2.0**-24, color="#777", lw=1, ls="--")
    _ax.text(
        len(_steps) - 1, 2.0**-24, "half an ulp of 1", color="#555", size=8, ha="right", va="bottom"
    )
    _ax.set(xlabel="step", ylabel="distance of the weights / their size")
    _ax.legend(loc="lower right", bbox_to_anchor=(1, 0.12), fontsize=8)
    _fixed = [name for name in apart if "fixed" in name]
    same_bits = Verdict(
        all(
            (one.view(np.uint32) == other.view(np.uint32)).all()
            for one, other in map(drifts.get, _fixed)
        ),
        f"In the fixed tree 1, 2, 4 and 8 workers have the same weights, bit for bit, after each of {len(_steps) - 1} "
        "steps. A distance of 0 has no place on this axis.",
    )
    _others = [apart[name] for name in apart if "fixed" not in name]
    drifting = Verdict(
        all(steps[-1] > 10 * steps[1] > 0 for steps in _others),
        f"In the other ways the weights differ by at least {min(s[1] for s in _others):.0e} of their size after the first "
        f"step, and at the end by up to {max(s[-1] for s in _others):.0e}.",
    )
    mo.vstack(
        [
            _drawn,
            same_bits,
            drifting,
            mo.md(
                "The curves rise slowly while each step adds some last bits. A jump is something else."
            ),
        ]
    )
    return drifting, same_bits


@app.cell(hide_code=True)
def _(Mode, SHARDS, apart, batches, drifts, images, network, np, vectors):
    def open_relus(weights, chosen):
        """Whether each ReLU lets its input through, with these weights and images."""
        net, found = network(), []
        vectors(net)[0][...] = weights
        first, second, *_ = net.layers.values()
        for shard in np.split(chosen, SHARDS):
            one, _ = first.forward(images[shard], Mode(train=True))
            two, _ = second.forward(one, Mode(train=True))
            found += [(one > 0).ravel(), (two > 0).ravel()]
        return np.concatenate(found)

    rises = {name: s[11:] / s[10:-1] for name, s in apart.items() if s[10:].all()}
    steepest = max(rises, key=lambda name: rises[name].max())
    before = 10 + int(rises[steepest].argmax())
    one, other = (open_relus(weights[before], batches[before]) for weights in drifts[steepest])
    return before, one, other, rises, steepest


@app.cell(hide_code=True)
def _(before, mo, one, other, rises, steepest):
    mo.vstack(
        [
            mo.md(
                f"After the tenth step the steepest rise is that of *{steepest}*: in step {before + 1} the distance "
                f"grows {rises[steepest].max():.3g} times. In this step **{int((one != other).sum())} of "
                f"{one.size:,}** ReLUs took different sides in the two runs. A ReLU whose input is next to 0 takes "
                "either side for a last bit, and its gradient is there or is not."
            ),
            mo.md(
                "Neither run is wrong: one rounds as well as the other. But a fault that shows on eight workers may "
                "not show on one, a run that is resumed on another number of workers goes elsewhere, and a change of "
                "the code that should change nothing cannot be told from one that does. With equal bits it can."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    piece = mo.ui.slider(0, 3, value=1, label="piece whose way is drawn", show_value=True)
    mo.vstack(
        [
            mo.md(r"""
    ## How the sums travel

    Each of $n$ workers holds sums of its own shards: vectors as long as all parameters together. All need the total.
    Cut the vector into $n$ pieces, and let worker $w$ be the *owner* of piece $w$.

    1. **Reduce-scatter.** Every worker sends each owner its piece. The owner now has everybody's sums over this
       piece, and adds them along the fixed tree.
    2. **All-gather.** Every owner sends its sum to all the others.

    In each half a worker sends $n - 1$ of its $n$ pieces. Both together are

    $$ 2\,\frac{n-1}{n} \quad\text{vectors sent by each worker,} $$

    less than two, for any number of workers. Rabenseifner (2004, Optimization of Collective Reduction Operations)
    makes an all-reduce of the same two halves. Here is the way of one piece among four workers:
    """),
            piece,
        ]
    )
    return (piece,)


@app.cell(hide_code=True)
def _(drawn_exchange, mo, piece):
    mo.vstack(
        [
            drawn_exchange(4, piece.value),
            mo.md(
                f"The others send worker {piece.value} their sums over piece {piece.value}. It adds them, and sends "
                "the result back. At the same time the other three do the same with their own pieces."
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(mo):
    shared = mo.ui.dropdown([6, 8, 12, 16, 24, 32, 48, 64], value=12, label="shards")
    mo.vstack(
        [
            mo.md(r"""
    A worker that holds several subtrees sends a vector for each of them in the first half, since nobody may add what
    is not added in the tree. It holds just one where its shards are a power of two. Choose a number of shards, and see
    what each number of workers costs:
    """),
            shared,
        ]
    )
    return (shared,)


@app.cell(hide_code=True)
def _(code, drawn_tree, mo, sent, shared, table, teams):
    _count = shared.value
    _rows = []
    for _n in teams(_count):
        _each = sent(_count, _n)
        _most = max(_each)
        _naive = (_n - 1) / _n * (_count // _n + 1)
        _rows.append(
            (_n, _count // _n, f"{2 * (_n - 1) / _n:.2f}", f"{_most:.2f}", f"{_naive:.2f}")
        )
    _worst = max(teams(_count), key=lambda n: max(sent(_count, n)))
    _shown = [drawn_tree(_count, _worst)] if _count <= 12 else []
    mo.vstack(
        [
            table(
                (
                    "workers n",
                    "shards each",
                    "2 (n - 1) / n",
                    "vectors sent, at most",
                    "if each shard were sent",
                ),
                _rows,
            ),
            mo.md(f"Most is sent with {_worst} workers." + (" They hold:" if _shown else "")),
            *_shown,
            code(sent),
        ]
    )
    return


@app.cell(hide_code=True)
def _(Verdict, mo, np, sent, teams):
    _cases = [(count, n) for count in range(1, 65) for n in teams(count)]
    _powers = [(count, n) for count, n in _cases if (count // n).bit_count() == 1]
    traffic = Verdict(
        all(np.allclose(sent(count, n), 2 * (n - 1) / n) for count, n in _powers)
        and all(
            max(sent(count, n)) > 2 * (n - 1) / n
            for count, n in _cases
            if (count, n) not in _powers and n > 1
        ),
        f"Up to 64 shards there are {len(_cases)} ways to share them evenly. In all {len(_powers)} where each worker "
        "holds 1, 2, 4, 8, ... shards, each sends exactly 2 (n - 1) / n vectors, and in the others somebody sends "
        "more.",
    )
    mo.vstack([traffic])
    return (traffic,)


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## Why not an all-reduce as it comes

    **A ring** sends $2(n-1)/n$ vectors too. But a piece of the sum travels from worker to worker, and each adds its own
    numbers to what arrives. So the brackets are a chain, $((s_1 + s_2) + s_3) + s_0$. Where the chain begins depends on
    the piece, and how long it is depends on $n$. A chain is no tree with branches. (The first figure above shows how
    far a ring drifts.)

    **MPI** leaves the order to its implementation. The standard recommends, and does not require, that the same
    arguments in the same order give the same result. Even then another number of processes has other arguments.

    **NCCL** chooses among several algorithms, rings and trees among them, by the size of the message and by the
    machines. Their trees are over the GPUs, and not over the shards: another number of GPUs has other brackets.

    So the library lets them carry the vectors, and adds them itself. Where each worker holds 1, 2, 4, ... shards, it
    sends no more than a ring does.
    """)
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    ## Batch norm: the shards define the result

    Batch norm takes the mean and the variance of a channel over the images that it sees at once. Here these are the
    images of one shard. So a batch of 32 in eight shards of four is not one batch of 32, and the difference is no
    matter of rounding: the loss is another function of the weights. (Goyal et al. 2017, Accurate, Large Minibatch SGD,
    keep the number of images per worker fixed for this reason.)

    If every *worker* took its statistics over all of its images, the result would change with the number of workers. So
    `--shards` is part of what is trained, like the batch size, and is kept in the checkpoint. `-n`, the number of
    workers, is not. The running averages of mean and variance, which evaluation uses, are moved by each shard, and
    these moves are added in the same fixed tree.

    The gradient of one batch of 32, and that of the same images in shards:
    """)
    return


@app.cell(hide_code=True)
def _(
    BATCH,
    ConvReLU,
    GlobalAvgPool2D,
    Linear,
    Sequential,
    gradients,
    in_the_fixed_tree,
    mo,
    network,
    np,
):
    def without_batch_norm():
        rng = np.random.default_rng(1)
        return Sequential(
            ConvReLU(3, 8, 3, stride=2, rng=rng),
            ConvReLU(8, 16, 3, stride=2, rng=rng),
            GlobalAvgPool2D(),
            Linear(16, 10, rng=rng),
        )

    def changed(net, count):
        """How far the gradient in `count` shards is from that of the whole batch, over the size of the latter."""
        one = gradients(net, np.arange(BATCH), 1)[0]
        several = in_the_fixed_tree(gradients(net, np.arange(BATCH), count), 1)
        return float(np.linalg.norm(several - one) / np.linalg.norm(one))

    cuts = (2, 4, 8, 16)
    with_bn = [changed(network(), count) for count in cuts]
    without_bn = [changed(without_batch_norm(), count) for count in cuts]
    mo.show_code()
    return cuts, with_bn, without_bn


@app.cell(hide_code=True)
def _(BATCH, Verdict, cuts, figure, mo, np, with_bn, without_bn):
    _drawn, _ax = figure(7, 2.8)
    _at = np.arange(len(cuts))
    _ax.bar(_at - 0.2, with_bn, 0.38, color="C3", label="with batch norm")
    _ax.bar(_at + 0.2, without_bn, 0.38, color="C0", label="without")
    _ax.set(
        yscale="log",
        ylim=(1e-9, 30),
        ylabel="change / gradient",
        xlabel="shards x images of a shard",
    )
    _ax.set_xticks(_at, [f"{count} x {BATCH // count}" for count in cuts])
    _ax.legend(loc="upper left", ncols=2, fontsize=8)
    shards_matter = Verdict(
        min(with_bn) > 0.01 and max(without_bn) < 1e-5,
        f"With batch norm, 8 shards of 4 change the gradient by {with_bn[2]:.0%} of its size. Without it they change "
        f"{without_bn[2]:.0e} of it, which is rounding.",
    )
    mo.vstack([_drawn, shards_matter])
    return (shards_matter,)


@app.cell(hide_code=True)
def _(mo, sent):
    mo.vstack(
        [
            mo.md(r"""
    ## Exercises

    **1. Twelve shards.** Is it cheaper, for each worker, to train with twelve shards on four workers or on six? Why?
    """),
            mo.accordion(
                {
                    "A solution": mo.md(f"""
    On six. Of four workers each holds three shards, which are two subtrees: it sends {max(sent(12, 4)):.2f} vectors.
    Of six each holds two, which are one subtree, and sends {max(sent(12, 6)):.2f}. With 8 or 16 shards nobody sends
    as much as two vectors, whatever the number of workers.
    """)
                }
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _(are_siblings, code, mo, sums_in_memory):
    in_memory = {count: sums_in_memory(count) for count in (8, 64, 1024)}
    _found = ", ".join(f"{most} of {count}" for count, most in in_memory.items())
    mo.vstack(
        [
            mo.md(r"""
    **2. Memory.** A worker alone computes the gradients of its shards one after the other. It adds two sums as soon as
    the tree allows. How many vectors does it have in memory at most, for $2^k$ shards? What does that have to do with
    counting in binary?
    """),
            mo.accordion(
                {
                    "A solution": mo.vstack(
                        [
                            mo.md(rf"""
    $k + 1$. Counted here: {_found}. After $i$ shards there is one sum for each 1 among the binary digits of $i$: a sum
    over 4 shards is the digit worth 4. The next shard is added as 1 is added to a number, and each carry joins two sums
    of the same size. The most there are just before the last carry runs through all digits: $k$ sums, and the new one.
    """),
                            code(sums_in_memory),
                            code(are_siblings),
                        ]
                    )
                }
            ),
        ]
    )
    return (in_memory,)


@app.cell(hide_code=True)
def _(Options, UsageError, Workers, check, check_shards, mo):
    def refusal(shards, batch, size):
        """What the program says to so many shards, images and workers; an empty text where it trains."""
        workers = Workers()
        workers.size = size
        try:
            check(Options(shards=shards, batch_size=batch))
            check_shards(shards, workers)
        except UsageError as error:
            return str(error)
        return ""

    said = {
        case: refusal(*case)
        for case in ((8, 32, 4), (8, 32, 3), (12, 32, 4), (32, 32, 4), (0, 32, 4))
    }
    _refused = "\n".join(f"    - {case}: `{words}`" for case, words in said.items() if words)
    mo.vstack(
        [
            mo.md(r"""
    **3. What is refused.** Of (shards, images of a batch, workers), which of these can be trained, and why are the
    others refused? (8, 32, 4), (8, 32, 3), (12, 32, 4), (32, 32, 4), (0, 32, 4).
    """),
            mo.accordion(
                {
                    "A solution": mo.md(f"""
    Only the first. The program says of the others:

{_refused}

    A shard of one image would leave batch norm with the pixels of that image alone: with a single number where the map
    has one pixel, and its variance is 0.
    """)
                }
            ),
        ]
    )
    return (said,)


@app.cell(hide_code=True)
def _(Verdict, drifting, in_memory, prove, said, same_bits, shards_matter, traffic):
    prove("the fixed tree", same_bits)
    prove("the other ways", drifting)
    prove("traffic", traffic)
    prove("batch norm", shards_matter)
    prove(
        "memory, a solution",
        Verdict(
            all(most == count.bit_length() for count, most in in_memory.items()),
            f"Sums in memory at most: {in_memory}.",
        ),
    )
    prove(
        "what is refused, a solution",
        Verdict(
            [not words for words in said.values()] == [True] + 4 * [False],
            "One of the five can be trained.",
        ),
    )
    return


if __name__ == "__main__":
    app.run()

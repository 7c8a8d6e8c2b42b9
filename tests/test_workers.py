"""Several workers: the tree, the exchange, steps in shards, and runs whose weights do not depend on how many there are.

Tests that start several processes need mpi4py and an mpiexec; they run `workers_program.py`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi import MPIEXEC, needs_mpi
from small_runs import SMALL, same_bits, tiny_networks, weights_of

from inception_np import create_model
from inception_np.backend.errors import RefusedError, UsageError
from inception_np.data.random import stream
from inception_np.layer import named_buffers, named_params, vectors
from inception_np.layers.activation import Dropout
from inception_np.models import list_models
from inception_np.parallel import exchange as exchange_module
from inception_np.parallel import launcher as launcher_module
from inception_np.parallel import tree, workers
from inception_np.parallel.exchange import Exchange
from inception_np.parallel.tree import are_siblings, middle, subtrees, tree_sum
from inception_np.parallel.workers import ALONE, Workers
from inception_np.runtime.replay import Replay
from inception_np.training import loop, shards
from inception_np.training.evaluate import evaluate
from inception_np.training.options import Options, check, resolve
from inception_np.training.shards import ShardedStep, buckets
from reference import tree_sum as reference

__all__ = ["tiny_networks"]  # a fixture

HERE = Path(__file__).parent
COUNTS = st.integers(1, 12).flatmap(
    lambda each: st.tuples(st.integers(1, 12), st.just(each))
)  # workers, shards of each


def run_workers(count, jobs, timeout=300):
    """`count` workers do these jobs. Returns the finished process."""
    command = [MPIEXEC, "-n", str(count), sys.executable, str(HERE / "workers_program.py"), json.dumps(jobs)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def all_done(done):
    assert done.returncode == 0 and "all done" in done.stdout, done.stdout[-1000:] + done.stderr[-3000:]


# ---- the tree


class Text(str):
    """A sum as text: a + b writes its brackets down."""

    def __add__(self, other):
        return Text(f"({self[:]}+{other[:]})")


def whole_tree(worker_count, each):
    """The sum that workers with so many shards each come to, as text."""
    count = worker_count * each
    leaves = {(i, i + 1): Text(i) for i in range(count)}
    parts = {}
    for rank in range(worker_count):
        for node in subtrees((rank * each, (rank + 1) * each), (0, count)):
            parts[node] = tree_sum(leaves, node)
    return tree_sum(parts, (0, count))


@given(COUNTS)
def test_any_workers_add_in_the_brackets_of_the_reference(counts):
    assert whole_tree(*counts) == reference.brackets(counts[0] * counts[1])


def test_a_tree_cut_by_the_workers_is_found(monkeypatch):
    monkeypatch.setattr(tree, "middle", lambda node: (node[0] + node[1] + 1) // 2)
    assert whole_tree(2, 4) == reference.brackets(8)  # where both are the same
    assert whole_tree(2, 3) != reference.brackets(6)


@given(COUNTS)
def test_workers_with_a_power_of_two_of_shards_have_one_subtree(counts):
    worker_count, each = counts
    count = worker_count * each
    for rank in range(worker_count):
        found = subtrees((rank * each, (rank + 1) * each), (0, count))
        assert [node[0] for node in found[1:]] == [node[1] for node in found[:-1]]
        assert (found[0][0], found[-1][1]) == (rank * each, (rank + 1) * each)
        if each & (each - 1) == 0:
            assert len(found) == 1


@given(st.integers(2, 40))
def test_siblings_are_what_the_tree_cuts_in_two(count):
    cuts = {}

    def visit(node):
        if node[1] - node[0] > 1:
            cut = middle(node)
            cuts[(node[0], cut), (cut, node[1])] = True
            visit((node[0], cut))
            visit((cut, node[1]))

    visit((0, count))
    ranges = [(a, b) for a in range(count) for b in range(a + 1, count + 1)]
    assert all(are_siblings(a, b, count) == ((a, b) in cuts) for a in ranges for b in ranges if a[1] == b[0])


def test_a_shard_that_nobody_has_is_missed():
    with pytest.raises(KeyError, match="shard 2"):
        tree_sum({(0, 2): 1.0, (3, 4): 1.0}, (0, 4))


# ---- the exchange


@needs_mpi
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_means_have_the_references_bits(count):
    all_done(run_workers(count, [{"do": "exchange", "shards": each * count} for each in (1, 2, 3, 8)]))


@needs_mpi
@pytest.mark.parametrize(
    "old, new",
    [
        ("tree_sum(sums, (0, self.shards))", "sum(sums.values())"),  # in the order of arrival
        ("self.subtrees[w][level]: row", "self.subtrees[size - 1 - w if w + rank != size - 1 else w][level]: row"),
        ("wait(*begun)", "pass"),
        ("piece = out[own].copy()", "piece = parts[-1][own].copy()"),
    ],
)
def test_a_wrong_exchange_is_found(tmp_path, old, new):
    source = Path(exchange_module.__file__).read_text()
    assert source.count(old) == 1
    package = tmp_path / "inception_np"
    shutil.copytree(Path(exchange_module.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "parallel" / "exchange.py").write_text(source.replace(old, new))
    (tmp_path / "tests").mkdir()
    shutil.copy(HERE / "workers_program.py", tmp_path / "tests")
    shutil.copytree(HERE.parent / "reference", tmp_path / "reference")
    jobs = json.dumps([{"do": "exchange", "shards": 12}])
    command = [MPIEXEC, "-n", "4", sys.executable, str(tmp_path / "tests" / "workers_program.py"), jobs]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return
    assert done.returncode != 0


# ---- when gradients are final


def gradients_as_final(net, parts, x, rng_of):
    """(what each part was when it was called final, what it is after backward), of a replayed pass."""
    grad, seen, order = vectors(net)[1], {}, []

    def final(number):
        order.append(number)
        seen[number] = parts[number].copy()

    passes = Replay(net, parts=parts, final=final)
    for step in range(2):
        grad[...] = 0
        order.clear()
        y = passes.forward(x, rng_of(step))
        rng = np.random.default_rng(step)
        if isinstance(y, tuple):
            dy = (rng.standard_normal(y[0].shape), {k: rng.standard_normal(v.shape) for k, v in y[1].items()})
            dy = (dy[0].astype("f"), {k: v.astype("f") for k, v in dy[1].items()})
        else:
            dy = rng.standard_normal(y.shape).astype("f")
        passes.backward(dy)
        assert order == list(range(len(parts)))
    return passes, seen, [part.copy() for part in parts]


@pytest.mark.parametrize("name", [name for name in list_models() if name.endswith("_cifar")])
def test_a_part_is_called_final_when_it_is_and_before_the_end(name):
    net = create_model(name, width=1 / 16, seed=1)
    x = np.random.default_rng(0).standard_normal((3, *net.image)).astype("f")
    parts = [vectors(net)[1][place] for place in buckets(net, 1 << 12)]
    passes, seen, wanted = gradients_as_final(net, parts, x, lambda step: stream(step, "dropout"))
    assert len(passes.programs) == 2 and len(parts) > 3
    for number, part in enumerate(wanted):
        assert np.array_equal(seen[number], part), f"part {number} of {len(parts)} changed after it was called final"
    pieces = passes.programs[1].pieces
    places = [i for i, piece in enumerate(pieces) if isinstance(piece, partial)]
    assert places[0] < len(pieces) // 2 < len(pieces) - 2, "nothing left before the end"


def test_a_part_that_is_called_final_too_early_is_found(monkeypatch):
    from inception_np.runtime import replay

    ends = replay._ends
    monkeypatch.setattr(replay, "_ends", lambda calls, parts: [max(0, end - 3) for end in ends(calls, parts)])
    net = create_model("inception_v3_cifar", width=1 / 16, seed=1)
    x = np.random.default_rng(0).standard_normal((3, *net.image)).astype("f")
    parts = [vectors(net)[1][place] for place in buckets(net, 1 << 12)]
    _, seen, wanted = gradients_as_final(net, parts, x, lambda step: stream(step, "dropout"))
    assert any(not np.array_equal(seen[number], part) for number, part in enumerate(wanted))


@pytest.mark.parametrize("name", [name for name in list_models() if name.endswith("_cifar")])
@pytest.mark.parametrize("least", [1, 1 << 14, 1 << 40])
def test_buckets_are_the_gradient_vector_each_number_once(name, least):
    net = create_model(name, width=1 / 16, seed=1)
    seen = np.zeros(vectors(net)[1].size, int)
    for place in buckets(net, least):
        seen[place] += 1
    assert (seen == 1).all()


# ---- a step in shards


def a_run(folder, **options):
    return loop.Run(folder, replace(SMALL, **options), False)


def by_hand(run, index, count, draw):
    """The gradient and batch norm's averages of a step in shards: a pass for each, means by the reference."""
    net, data, o = run.net, run.data, run.options
    before = {path: buffer.data.copy() for path, buffer in named_buffers(net).items()}
    step = loop.EagerStep(net, run.optimiser, data, replace(o, shards=0), None)
    gradients, moves, losses, right = [], [], [], 0
    for shard, part in enumerate(np.split(index, count)):
        vectors(net)[1][...] = 0
        for path, buffer in named_buffers(net).items():
            buffer.data[...] = before[path]
        own = partial(lambda shard, purpose: draw(purpose, shard), shard)
        loss, good = step.mean_gradients(part, own, run.mirrored(part))
        gradients.append(vectors(net)[1].copy())
        moves.append({path: buffer.data - before[path] for path, buffer in named_buffers(net).items()})
        losses.append(np.array(loss))
        right += good
    share = np.float32(1 / count)
    for path, buffer in named_buffers(net).items():
        buffer.data[...] = before[path]
    found = {path: before[path] + reference.tree_sum([m[path] for m in moves]) * share for path in before}
    vectors(net)[1][...] = 0
    return reference.tree_sum(gradients) * share, found, reference.tree_sum(losses) / count, right


def compared(tmp_path, count, **options):
    """(whether gradient, averages and losses of a step in shards are those by hand, each)."""
    run = a_run(tmp_path, shards=count, batch_size=24, mixup=0.4, distort=0.5, augment=True, **options)
    index = np.random.default_rng(1).permutation(48)[:24]
    good = []
    for step in range(3):  # the second and third are replayed
        draw = partial(run.drawn, 0, step)
        gradient, averages, losses, right = by_hand(run, index, count, draw)
        got, got_right = run.training_step.mean_gradients(index, draw, run.mirrored(index))
        same = [np.array_equal(run.optimiser.grad, gradient)]
        same += [all(np.array_equal(b.data, averages[p]) for p, b in named_buffers(run.net).items())]
        same += [np.allclose(got, losses, rtol=1e-13) and got_right == right]
        good.append(same)
        run.optimiser.grad[...] = 0
    return [all(each) for each in zip(*good, strict=True)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8, 12])
def test_a_step_in_shards_is_the_mean_of_their_passes(tmp_path, count):
    assert compared(tmp_path, count) == [True, True, True]


def test_a_step_in_shards_with_frozen_stages(tmp_path):
    run = a_run(tmp_path, shards=4, freeze=("conv1",))
    frozen = {path: p.data.copy() for path, p in named_params(run.net).items() if path.startswith("conv1")}
    assert frozen
    for step in range(3):
        run.training_step(np.arange(16), partial(run.drawn, 0, step), run.mirrored(np.arange(16)))
    for path, value in frozen.items():
        assert np.array_equal(named_params(run.net)[path].data, value)


@pytest.mark.parametrize(
    "fault, wrong",
    [
        ("the order of the sum", 0),
        ("one dropout stream for all shards", 0),
        ("averages of the last shard", 1),
        ("a gradient that is not taken out of the vector", 0),
    ],
)
def test_a_wrong_step_in_shards_is_found(tmp_path, monkeypatch, fault, wrong):
    if fault == "the order of the sum":
        monkeypatch.setattr(shards, "are_siblings", lambda left, right, count: left[1] == right[0])
        monkeypatch.setattr(Exchange, "held", [(0, 6)], raising=False)
        monkeypatch.setattr(exchange_module, "subtrees", lambda block, node: [node])
    elif fault == "one dropout stream for all shards":
        monkeypatch.setattr(shards, "_drawn", lambda draw, shard, purpose: draw(purpose, 0))
    elif fault == "averages of the last shard":
        monkeypatch.setattr(Exchange, "mean", lambda self, parts, out: out.__imul__(1))
    else:
        step = ShardedStep._with_shard

        def keeps(self, sums, shard):
            kept = self.optimiser.grad.copy()
            found = step(self, sums, shard)
            self.optimiser.grad[...] = kept
            return found

        monkeypatch.setattr(ShardedStep, "_with_shard", keeps)
    assert not compared(tmp_path, 6)[wrong]


def test_the_masks_of_dropout_differ_from_shard_to_shard(tmp_path):
    run = a_run(tmp_path, shards=2)
    assert any(isinstance(layer, Dropout) for layer in run.net.trunk.layers.values())
    draw = partial(run.drawn, 0, 0)
    assert draw("dropout", 0).random() != draw("dropout", 1).random() == draw("dropout", 1).random()


# ---- runs


def options_of(**options):
    return {**{field: getattr(SMALL, field) for field in SMALL.__dataclass_fields__}, **options}


def equal_for_all(tmp_path, jobs, counts):
    """Whether the folders of these runs have the same bits for every number of workers."""
    kept = {}
    for count in counts:
        placed = [{**job, "folder": str(tmp_path / f"{count}-{i}")} for i, job in enumerate(jobs)]
        all_done(run_workers(count, placed, 900))
        for i in range(len(jobs)):
            kept[count, i] = weights_of(tmp_path / f"{count}-{i}")
    return {(count, i): same_bits(kept[count, i], kept[counts[0], i]) for count in counts for i in range(len(jobs))}


FEW = {"model": "inception_v1_cifar", "width": 1 / 16, "shards": 8, "train_images": 48, "test_images": 40, "epochs": 2}


@needs_mpi
def test_a_run_has_the_same_bits_for_1_2_4_and_8_workers(tmp_path):
    """Every optimiser, both averages of the weights, clipping, augmentation, mixup, dropout; photographs in files."""
    photographs(tmp_path / "photographs")
    folder = {"data": "folder", "data_dir": str(tmp_path / "photographs"), "train_images": 16, "test_images": 4}
    jobs = [
        {"do": "train", "options": options_of(**FEW, optimizer="sgd", mixup=0.3)},
        {"do": "train", "options": options_of(**FEW, optimizer="rmsprop")},
        {"do": "train", "options": options_of(**FEW, optimizer="muon") | {"ema": 0.0, "lookahead": True}},
        {"do": "train", "options": options_of(**{**FEW, **folder}), "photographs": "in files"},
    ]
    found = equal_for_all(tmp_path, jobs, (1, 2, 4, 8))
    assert all(found.values()), found


def photographs(folder, count=60):
    """A folder of pictures of two classes."""
    from PIL import Image

    rng = np.random.default_rng(2)
    for number in range(count):
        path = folder / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(path)


@needs_mpi
def test_a_signal_to_one_worker_stops_all_of_them_after_the_same_step(tmp_path):
    options, stopped = options_of(**FEW), {"folder": str(tmp_path / "stopped")}
    done = run_workers(2, [{"do": "train", "options": options, "interrupt": 1, **stopped}])
    all_done(done)
    said = r"StoppedError: train: stopped by SIGINT in epoch 1 after [12] of 3 steps, all is saved; continue with: "
    assert re.match(said + r"mpiexec -n 2 inception-np train --resume", done.stdout), done.stdout
    all_done(run_workers(4, [{"do": "resume", **stopped}]))
    all_done(run_workers(1, [{"do": "train", "options": options, "folder": str(tmp_path / "whole")}]))
    assert same_bits(weights_of(tmp_path / "stopped"), weights_of(tmp_path / "whole"))


@needs_mpi
def test_a_number_that_is_not_finite_on_one_worker_is_named_by_all(tmp_path):
    jobs = [{"do": "train", "options": options_of(**FEW), "spoil": 4, "folder": str(tmp_path / "spoilt")}]
    done = run_workers(2, jobs)
    all_done(done)
    assert re.match(r"ValueError: train: the loss is nan in epoch 2, step 2 .*, first found in layer", done.stdout)


@needs_mpi
def test_six_shards_on_two_and_three_workers_have_the_bits_of_one(tmp_path):
    jobs = [{"do": "train", "options": options_of(**{**FEW, "shards": 6, "batch_size": 24})}]
    assert all(equal_for_all(tmp_path, jobs, (1, 2, 3)).values())


@needs_mpi
def test_a_run_killed_on_2_and_on_4_workers_ends_on_1_with_the_bits_of_one_that_nobody_killed(tmp_path):
    options = options_of(**FEW)
    for job, count in [({"do": "train", "options": options, "die": 2}, 2), ({"do": "resume", "die": 4}, 4)]:
        done = run_workers(count, [{**job, "folder": str(tmp_path / "killed"), "save_every": 0.0}])
        assert done.returncode != 0 and "all done" not in done.stdout
    for job, name in [({"do": "resume"}, "killed"), ({"do": "train", "options": options}, "whole")]:
        all_done(run_workers(1, [{**job, "folder": str(tmp_path / name)}]))
    assert same_bits(weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole"))
    plain = {"do": "train", "options": {**options, "shards": 4}, "folder": str(tmp_path / "other")}
    all_done(run_workers(1, [plain]))
    assert not same_bits(weights_of(tmp_path / "other"), weights_of(tmp_path / "whole"))  # shards count, workers do not


@needs_mpi
@pytest.mark.long
def test_twenty_steps_of_every_network_have_the_same_bits_for_1_2_4_and_8_workers(tmp_path):
    names = [name for name in list_models() if name.endswith("_cifar")]
    assert len(names) >= 9
    common = {"width": 1 / 16, "shards": 8, "train_images": 320, "test_images": 40, "epochs": 1, "save_every": 1e9}
    jobs = [
        {"do": "train", "options": options_of(**common, model=name, optimizer=optimizer), "save_every": 1e6}
        for name in names
        for optimizer in ("sgd", "rmsprop")
    ]
    for job in jobs:
        del job["options"]["save_every"]
    found = equal_for_all(tmp_path, jobs, (1, 2, 4, 8))
    assert all(found.values()), [key for key, same in found.items() if not same]


@needs_mpi
def test_eval_gives_the_same_figures_for_any_number_of_workers(tmp_path):
    all_done(run_workers(1, [{"do": "train", "folder": str(tmp_path), "options": options_of(**FEW)}]))
    command = [sys.executable, "-m", "inception_np", "eval", str(tmp_path / "checkpoint.safetensors"), "--json"]
    command += ["--batch-size", "7"]
    alone = subprocess.run(command, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    for count in (2, 3, 8):  # eight have six batches
        shared = subprocess.run([MPIEXEC, "-n", str(count), *command], capture_output=True, text=True, timeout=120)
        assert shared.returncode == 0 and json.loads(shared.stdout) == json.loads(alone.stdout), shared.stderr


@needs_mpi
@pytest.mark.parametrize("option, there, here", [("--lr", "0.5", "0.05"), ("--seed", "3", "0"), ("--epochs", "4", "1")])
def test_workers_with_other_options_refuse_in_one_line_and_write_nothing(tmp_path, option, there, here):
    own = [sys.executable, "-m", "inception_np", "train", "--model", "inception_v1_cifar", "--width", "0.0625"]
    own += ["--train-images", "32", "--test-images", "16", "--shards", "4", "--output", str(tmp_path / "run")]
    own += ["--lr", "0.05", "--seed", "0", "--epochs", "1"]
    other = [there if before == option else word for before, word in zip(["", *own], own, strict=False)]
    command = [MPIEXEC, "-n", "2", *own, ":", "-n", "1", *other]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = f"{option}: rank 2 has {there}, rank 0 has {here}; start all workers with the same options"
    assert (done.returncode, done.stderr) == (2, f"inception-np: error: {said}\n") and not (tmp_path / "run").exists()


class Taken(Workers):
    """A worker of three, whose `gather` remembers what it gives."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.size, self.given = rank, 3, []

    def gather(self, row):
        self.given.append(row.copy())
        return np.stack([row, 0 * row, 0 * row])


def test_every_image_is_evaluated_by_one_of_the_workers(tmp_path):
    run = a_run(tmp_path)
    data = run.data
    where = (run.net, data.test_images, data.test_labels, data.mean, data.std, 3)
    _, _, wanted = evaluate(*where)
    given = []
    for rank in range(3):
        one = Taken(rank)
        evaluate(*where, workers=one)
        given.append(one.given)
    classes = np.stack([each[0] for each in given])
    assert np.array_equal(classes.sum(0), wanted) and wanted.any()
    assert (np.stack([each[1] for each in given]) > 0).sum(0).tolist() == [1] * 7  # of 20 images


# ---- what is refused


@pytest.mark.parametrize(
    "options, said",
    [
        ({"shards": 5}, "--shards: got 5 with --batch-size 16; .* such as --batch-size 20$"),
        ({"shards": 16}, "--shards: got 16 with --batch-size 16; .*two or more, such as --batch-size 32$"),
        ({"shards": -1}, "--shards: got -1"),
    ],
)
def test_shards_that_no_batch_has_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        check(replace(SMALL, **options))


def test_a_batch_size_that_nobody_gave_fits_the_shards():
    assert resolve(shards=8).batch_size == 56 and resolve().batch_size == 50
    assert resolve(shards=64).batch_size == 128
    check(resolve(shards=8))
    check(resolve(shards=64, train_images=20))


@pytest.mark.parametrize(
    "count, size, said", [(0, 4, "got none for 4 workers; add --shards 8"), (6, 4, "got 6 for 4 workers; .* of 4$")]
)
def test_workers_that_cannot_share_the_shards_are_refused(count, size, said):
    several = Workers()
    several.size = size
    with pytest.raises(UsageError, match=f"^--shards: {said}"):
        workers.check_shards(count, several)
    workers.check_shards(2 * size, several)
    workers.check_shards(0, ALONE)


@pytest.fixture
def launcher(monkeypatch):
    """Sets the variables of a launcher; what was found of workers before is forgotten."""
    for name in (*launcher_module.RANKS, *launcher_module.SIZES):
        monkeypatch.delenv(name, raising=False)
    workers.of_process.cache_clear()
    yield monkeypatch.setenv
    workers.of_process.cache_clear()


def test_a_process_alone_loads_no_mpi(launcher):
    assert not workers.launched() and workers.of_process().size == 1
    launcher("PMI_RANK", "0")
    launcher("PMI_SIZE", "1")
    assert not workers.launched()
    launcher("PMI_SIZE", "2")
    assert workers.launched()


def test_workers_without_mpi4py_are_told_what_to_install(launcher, monkeypatch):
    launcher("PMI_RANK", "0")
    launcher("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(RefusedError, match=r"^mpiexec: .*pip install 'inception-np\[mpi\]'$"):
        workers.of_process()


@needs_mpi
def test_an_mpiexec_of_another_mpi_is_noticed():
    """Each process then sees itself alone, and would train a run of its own."""
    environment = {**os.environ, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    code = "from inception_np.parallel.workers import of_process; of_process()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert "mpiexec: started 2 workers, of which this one sees 1" in done.stderr


def test_options_of_shards_default_to_none():
    assert Options().shards == 0

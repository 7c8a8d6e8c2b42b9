"""`bench --workers`: the model of many workers by numbers worked out by hand, and what the command says."""

import json
import sys

import commands
import pytest

from inception_np.__main__ import main
from inception_np.backend.errors import RefusedError
from inception_np.parallel import model
from inception_np.parallel.model import Bucket, Measured, Network
from inception_np.runtime.bench import scaling

NET = Network("by hand", latency=0.001, bandwidth=1000.0)
# A step of 10 s; bucket 0 leaves 3 s before the end of backward, bucket 1 at its end.
BUCKETS = [Bucket(400, 3.0), Bucket(100, 0.0)]
MEASURED = Measured(compute=10.0, work=15.0, update=1.5, buckets=BUCKETS, additions=2000.0)


def test_a_bucket_travels_as_worked_out_by_hand():
    # 4 workers, 400 bytes: 2 (3 * 0.001 + 0.01 + 300 / 1000) + 300 / 2000
    assert model.travel(400, 4, NET, 2000.0, nap=0.01) == pytest.approx(0.776)
    assert model.travel(400, 1, NET, 2000.0) == 0
    # two workers send half of it, many send all of it
    assert model.travel(10**9, 2, NET, 1e30) == pytest.approx(1e6)
    assert model.travel(10**9, 1 << 20, NET._replace(latency=0), 1e30) == pytest.approx(2e6)


def test_only_what_outlasts_backward_is_not_hidden(monkeypatch):
    travels = {400: 2.0, 100: 0.5}
    monkeypatch.setattr(model, "travel", lambda size, *_: travels[size])
    assert model.not_hidden(MEASURED, 4, NET) == 0.5  # bucket 0 is there in time: bucket 1 waits for backward alone
    travels[400] = 3.25
    assert model.not_hidden(MEASURED, 4, NET) == 0.75  # bucket 1 waits for bucket 0 too
    assert model.not_hidden(MEASURED, 4, NET, slower=2.0) == 0.5  # backward takes longer: bucket 0 is there in time
    late_first = MEASURED._replace(buckets=MEASURED.buckets[::-1])
    assert model.not_hidden(late_first, 4, NET) == 3.75  # in the order in which they leave
    assert model.not_hidden(MEASURED._replace(buckets=[Bucket(100, 1.0)]), 4, NET) == 0  # and never less than that


def test_a_step_is_compute_and_what_is_not_hidden(monkeypatch):
    monkeypatch.setattr(model, "not_hidden", lambda measured, workers, network, slower=1.0: workers + slower / 100)
    assert model.step_apart(MEASURED, 8, NET) == pytest.approx(18.01)
    # 4 workers on 2 cores, each with an optimiser's step and 0.6 s of exchange: (15 + 4 * 2.1) / 2
    assert model.step_together(MEASURED, 4, NET, 0.6, cores=2, slower=4.0) == pytest.approx(11.7 + 4.04)


@pytest.mark.parametrize("workers", [2, 4, 7])
def test_the_network_of_two_measurements_is_the_one_that_gives_them(workers):
    there = Network("there", latency=3e-4, bandwidth=2e9)
    tiny, large = (model.travel(size, workers, there, 5e9) for size in (0, 1 << 23))
    here = model.network_of(tiny, large, 1 << 23, workers, 5e9)
    assert here.latency == pytest.approx(there.latency) and here.bandwidth == pytest.approx(there.bandwidth)


def test_a_disturbed_measurement_of_the_network_is_an_error():
    with pytest.raises(ValueError, match=r"network_of: got 1\.00 ms for 1000 bytes and 2\.00 ms for none, wanted more"):
        model.network_of(0.002, 0.001, 1000, 2, 1e9)


def test_messages_cost_as_much_as_bytes_where_the_balance_says():
    n = model.balance(MEASURED, NET)
    assert n == 250  # workers: 250 bytes, 0.001 s and 1000 bytes a second
    others = n - 1
    assert others * NET.latency == pytest.approx(others / n * 250 / NET.bandwidth)


@pytest.mark.parametrize(
    "most, wanted", [(2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 6]), (7, [1, 7]), (12, [1, 2, 4, 12])]
)
def test_so_many_workers_are_measured(most, wanted):
    assert scaling.sizes(most) == wanted


@pytest.fixture
def started(monkeypatch):
    """What would be measured: (workers, task) of each process."""
    found = []

    def process(task, n):
        found.append((n, task))
        step = {1: 8.0, 2: 9.0, 4: 10.0}[n] + (0, 100, 1)[(len(found) - 1) // 3 % 3]  # by round: the median is +1
        return {
            "times": [step] * 3, "cpu": 2.0 * step, "update": 0.5, "waited": [0.5] * 3, "late": [0.0] * 3,
            "backward": 4.0, "buckets": [[1 << 20, 3.0], [1 << 10, 0.0]], "alone": 1.5, "alone_cpu": 0.25,
            "tiny": 0.002, "large": 0.02, "additions": 1e9, "sent": 0.0 if n == 1 else 7e6,
        }  # fmt: skip

    monkeypatch.setattr(scaling, "_process", process)
    monkeypatch.setattr(scaling, "mpiexec", lambda: "mpiexec")
    return found


WORDS = ("inception_v1_cifar", "--workers", "4", "--batch", "8", "--threads", "2")


def test_the_sides_alternate_on_the_same_batch_and_shards(started):
    commands.command("bench", *WORDS, "--json")
    assert [n for n, _ in started] == [1, 2, 4] * 3
    assert [task["threads"] for _, task in started] == [2, 1, 1] * 3
    assert {(task["batch"], task["shards"], task["name"]) for _, task in started} == {(8, 4, "inception_v1_cifar")}


def test_json_has_what_was_measured_and_what_is_predicted(started):
    rows = json.loads(commands.command("bench", *WORDS, "--json")[1])
    assert all({"name", "task", "batch", "seconds", "against", "against_seconds", "ratio"} <= set(row) for row in rows)
    one, two, four = (row for row in rows if not row["predicted"])
    assert (one["workers"], one["against"], one["ratio"]) == (1, None, None)
    assert [(row["workers"], row["seconds"], row["minimum"]) for row in (one, two, four)] == [
        (1, 9.0, 8.0), (2, 10.0, 9.0), (4, 11.0, 10.0),
    ]  # fmt: skip
    for row in (two, four):
        assert row["ratio"] == row["seconds"] / one["seconds"] and row["against_seconds"] == one["seconds"]
        assert row["ratio_of_cpu"] == row["cpu"] / one["cpu"]
        assert [b["left_at"] for b in row["buckets"]] == [0.25, 1.0]
    # a step of a core's 16 s on two cores, of which 0.5 s are the optimiser's; 0.25 s for the exchange of each worker
    for row, busy in ((two, 15.5 + 2 * 0.75), (four, 15.5 + 4 * 0.75)):
        assert row["predicted_seconds"] == pytest.approx(busy / 2 + row["predicted_waited_seconds"])
    last = [row for row in rows if row["predicted"]]
    assert [row["workers"] for row in last if row["network"] == "Cray Aries"] == [8, 16, 32, 64, 128, 256, 512, 1024]
    for row in last:
        assert row["batch"] == 8 * row["workers"] and row["ratio"] == row["seconds"] / one["seconds"]
    assert last[-1]["ratio"] < last[7]["ratio"]  # 1,024 on the fastest network, and on the slowest


def test_the_tables_show_the_medians(started):
    rows = json.loads(commands.command("bench", *WORDS, "--json")[1])
    started.clear()
    printed = commands.command("bench", *WORDS)[1]
    table = [line.split() for line in printed.splitlines()]
    for row in rows:
        key = [str(row["workers"]), str(row["threads"] if not row["predicted"] else row["batch"])]
        (line,) = [cells for cells in table if cells[:2] == key and len(cells) > 4][:1]
        assert f"{1e3 * row['seconds']:.1f}" in line
        if row.get("ratio"):
            assert f"{1 / row['ratio']:.3f}" in line
    assert "8 images in 4 shards" in printed and "8 images on each" in printed
    assert ["us", "a", "message", "26", "26", "1.3"] in table and ["GB/s", "0.116", "1.25", "9.6"] in table


@pytest.mark.parametrize(
    "words, line",
    [
        (("--workers", "1"), "--workers: got 1; give a number from 2 to 64"),
        (("--workers", "65"), "--workers: got 65; give a number from 2 to 64"),
        (("--workers", "3", "--batch", "8"), "--batch: got 8 for 3 workers; give a multiple of 3"),
        (("--workers", "2", "--task", "infer"), "--workers: got --task infer beside it; leave one of them out"),
        (("--workers", "2", "--layers"), "--workers: got --layers beside it; leave one of them out"),
        (("--workers", "2", "--against", "torch"), "--workers: got --against beside it; leave one of them out"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(capsys, started, words, line):
    assert main(["bench", "inception_v1_cifar", *words]) == 2
    assert capsys.readouterr().err == f"inception-np: error: {line}\n" and not started


def test_without_mpi_it_says_what_to_install(monkeypatch):
    pytest.importorskip("mpi4py")
    monkeypatch.setattr(scaling.shutil, "which", lambda *_, **__: None)
    with pytest.raises(RefusedError, match="needs mpiexec, which is missing"):
        scaling.check(2, 8)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(RefusedError, match=r"needs mpi4py, which is missing; pip install 'inception-np\[mpi\]'"):
        scaling.check(2, 8)


def test_workers_that_fail_are_an_error_of_one_line(monkeypatch):
    monkeypatch.setattr(scaling, "mpiexec", lambda: "false")
    with pytest.raises(RuntimeError, match="2 workers failed with exit code 1"):
        scaling._process({}, 2)
    with pytest.raises(RuntimeError, match="1 workers failed with KeyError: 'threads'"):
        scaling._process({}, 1)


@pytest.mark.slow
def test_a_worker_that_fails_ends_the_others():
    skip_without_mpi()
    task = {"name": "inception_v1_cifar", "preset": "paper", "batch": 3, "shards": 3, "threads": 1, "low_memory": False}
    with pytest.raises(RuntimeError, match="2 workers failed with "):  # three shards for two workers
        scaling._process(task, 2)


def skip_without_mpi():
    try:
        scaling.mpiexec()
    except RefusedError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_two_workers_of_this_machine_are_measured():
    skip_without_mpi()
    quick = ("--rounds", "1", "--repeats", "3", "--seconds", "0.1")
    rows = json.loads(
        commands.command("bench", "inception_v1_cifar", "--workers", "2", "--batch", "4", *quick, "--json")[1]
    )
    one, two = (row for row in rows if not row["predicted"])
    sizes = [bucket["bytes"] for bucket in two["buckets"]]
    assert sizes == [bucket["bytes"] for bucket in one["buckets"]]
    assert two["sent_bytes"] == sum(sizes) and one["sent_bytes"] == 0  # half of the gradient in each half
    assert 0 < two["waited_seconds"] < two["seconds"] and one["waited_seconds"] == 0
    assert two["alone_seconds"] > 0 and two["alone_cpu"] > 0
    for row in (one, two):
        left = [bucket["left_at"] for bucket in row["buckets"]]
        assert left == sorted(left) and left[0] > 0 and left[-1] == 1

"""Workers that differ in anything a result depends on refuse at the start, all with the same line."""

import json
import threading

import numpy as np
import pytest
from mpi import needs_mpi, run
from PIL import Image

from inception_np.backend.errors import UsageError
from inception_np.data.dataset import Dataset
from inception_np.data.photographs import Photographs
from inception_np.parallel import agree
from inception_np.parallel.agree import check_alike, digests, versions_and_processor


class Stand:
    """Workers that are threads."""

    def __init__(self, size):
        self.size, self.texts, self.all_here = size, [""] * size, threading.Barrier(size)

    def of(self, rank):
        class Workers:
            size = len(self.texts)

            def gather_texts(_, text):
                self.texts[rank] = text
                self.all_here.wait(10)
                return list(self.texts)

        return Workers()


def errors(*facts):
    """What check_alike raises on each worker, which has these facts; "" where it raises nothing."""
    stand, found = Stand(len(facts)), [""] * len(facts)

    def worker(rank):
        try:
            check_alike(stand.of(rank), lambda: facts[rank], "start all with the same")
        except UsageError as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=worker, args=(rank,)) for rank in range(len(facts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


SEEDS = [{"--lr": "0.1", "--seed": seed} for seed in "3377"]


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ([SEEDS[0], SEEDS[2]], "--seed: rank 1 has 7, rank 0 has 3; start all with the same"),
        (SEEDS, "--seed: ranks 2 and 3 have 7, rank 0 has 3; start all with the same"),
        ([{"a": "1"}, {"a": "2"}, {"a": "3"}, {"a": "2"}], "a: ranks 1 and 3 have 2, rank 0 has 1; start all with"),
        ([{"a": "1", "b": "2"}, {"b": "3", "a": "2"}], "a: rank 1 has 2, rank 0 has 1; start all with the same"),
        ([{"a": "1"}, {"a": "1", "new": "2"}], "new: rank 1 has 2, rank 0 has nothing; start all with the same"),
        ([{"a": "1", "old": "2"}, {"a": "1"}], "old: rank 1 has nothing, rank 0 has 2; start all with the same"),
        ([{"a": "1"}, {"a": "x" * 100}], f"a: rank 1 has {'x' * 57}..., rank 0 has 1; start all with the same"),
    ],
)
def test_the_first_fact_that_differs_is_named_by_all_workers_alike(facts, line):
    found = errors(*facts)
    assert len(set(found)) == 1 and found[0].startswith(line)


def test_workers_that_are_alike_go_on():
    assert errors({"a": "1", "b": "2"}, {"b": "2", "a": "1"}) == ["", ""]


def test_the_facts_of_a_process_are_texts_and_the_same_when_asked_again():
    facts = versions_and_processor()
    assert facts == json.loads(json.dumps(versions_and_processor()))
    assert list(facts) == ["inception_np", "Python", "NumPy", "Numba", "processor"] and all(facts.values())


@pytest.mark.parametrize(
    ("owner", "name", "value", "fact"),
    [
        (np, "__version__", "2.0.1", "NumPy"),
        ("platform", "python_version", lambda: "3.11.0", "Python"),
        ("numba", "__version__", "0.61", "Numba"),
        ("numba.config", "CPU_NAME", "generic", "processor"),
        ("numba.config", "CPU_FEATURES", "+avx2", "processor"),
        ("llvmlite.binding", "get_host_cpu_features", lambda: {"avx2": True}, "processor"),
        ("inception_np", "__version__", "9.9", "inception_np"),
    ],
)
def test_another_version_or_processor_is_another_fact(monkeypatch, owner, name, value, fact):
    before = versions_and_processor()
    monkeypatch.setattr(
        f"{owner}.{name}" if isinstance(owner, str) else owner, *(() if isinstance(owner, str) else (name,)), value
    )
    after = versions_and_processor()
    assert [key for key in before if before[key] != after[key]] == [fact]


def data(**changes):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (12, 5, 4, 3), np.uint8)
    labels = np.arange(12) % 3
    parts = dict(train_images=images, train_labels=labels, test_images=images[:4], test_labels=labels[:4])
    return Dataset("mine", ("a", "b", "c"), **{**parts, **changes})


CHANGED = np.random.default_rng(3).integers(0, 256, (12, 5, 4, 3), np.uint8)
CHANGED[11, 4, 3, 2] ^= 1  # the last bit of the last pixel


@pytest.mark.parametrize(
    ("fact", "changes"),
    [
        ("training images", {"train_images": CHANGED}),
        ("training images", {"train_images": CHANGED[:, ::-1]}),
        ("training images", {"train_images": data().train_images.reshape(12, 4, 5, 3)}),
        ("test images", {"test_images": data().test_images[::-1]}),
        ("training labels", {"train_labels": np.arange(12)[::-1] % 3}),
        ("test labels", {"test_labels": np.zeros(4, np.int64)}),
        ("normalisation", {"mean": (1.0, 2.0, 3.0)}),
        ("normalisation", {"mirrored": False}),
    ],
)
def test_any_change_of_a_data_set_changes_its_digest(fact, changes):
    before, after = digests(data()), digests(data(**changes))
    assert [key for key in before if before[key] != after[key]] == [fact]
    assert digests(data()) == before


def photographs(folder, *names):
    """Three small pictures; each name may say how large it is."""
    paths = []
    for number, name in enumerate(names):
        path = folder / "cats" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + 8 * ("large" in name), 9), (number, 7, 7)).save(path, "PPM")
        paths.append(path)
    return digests(data(train_images=Photographs(paths, 8)))["training images"]


def test_photographs_are_told_apart_by_their_names_and_sizes_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(Photographs, "read", lambda *_: pytest.fail("a picture was read"))
    here = photographs(tmp_path / "here", "1.ppm", "2.ppm")
    assert here == photographs(tmp_path / "another machine's folder", "1.ppm", "2.ppm")
    others = [("2.ppm", "1.ppm"), ("1.ppm", "3.ppm"), ("1.ppm",), ("1.ppm", "2.large.ppm")]
    assert here not in {photographs(tmp_path / str(i), *names) for i, names in enumerate(others)}
    (tmp_path / "here" / "cats" / "2.ppm").write_bytes(b"P6 of another size")
    assert here != digests(
        data(train_images=Photographs([tmp_path / "here/cats/1.ppm", tmp_path / "here/cats/2.ppm"], 8))
    )


def test_a_digest_that_misses_the_last_pixel_would_be_noticed(monkeypatch):
    whole = agree._digest
    monkeypatch.setattr(agree, "_digest", lambda a: whole(a.ravel()[:-1] if isinstance(a, np.ndarray) else a))
    assert digests(data()) == digests(data(train_images=CHANGED))


@needs_mpi
def test_a_worker_with_another_seed_ends_all_with_one_line():
    program = """
import os, sys
from inception_np import __main__ as cli
from inception_np.parallel.agree import check_alike
from inception_np.parallel.workers import of_process
def run(_):
    seed = 7 if of_process().rank == 1 else 3
    check_alike(of_process(), lambda: {"--seed": str(seed)}, "start all workers with the same options")
    return 0
cli.run = run
sys.exit(cli.main())
"""
    said = "--seed: rank 1 has 7, rank 0 has 3; start all workers with the same options"
    assert run(3, "-c", program, "train") == (2, "", [f"inception-np: error: {said}"])

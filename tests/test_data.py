"""Data sets and batches: what they hold, that they repeat, and that broken files are named."""

import gzip
import hashlib
import http.server
import io
import itertools
import tarfile
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from inception_np.backend.errors import UsageError
from inception_np.data import batches, cifar10, cifar10_archive, dataset, shapes10
from inception_np.data.random import stream
from reference.views import six_views

RECORD, FULL = cifar10_archive.RECORD, cifar10_archive.RECORD * cifar10_archive.RECORDS


# shapes10


def test_shapes10_is_the_same_every_time_and_a_prefix_of_itself():
    images, labels = shapes10.shapes10("train", 1500)
    again, labels_again = shapes10.shapes10("train", 300)
    assert images.shape == (1500, 32, 32, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[:300], again)
    np.testing.assert_array_equal(labels[:300], labels_again)


def test_shapes10_has_as_many_images_of_each_class_and_other_test_images():
    images, labels = shapes10.shapes10("train", 1000)
    np.testing.assert_array_equal(np.bincount(labels), 100)
    test_images, _ = shapes10.shapes10("test", 1000)
    train = {image.tobytes() for image in images}
    assert not any(image.tobytes() in train for image in test_images)


@pytest.mark.parametrize("name", shapes10.SHAPES)
def test_each_shape_fits_its_circle_and_is_not_a_speck(name):
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, 301), np.linspace(-1.5, 1.5, 301))
    inside = shapes10.SHAPES[name](x, y) < 0
    assert np.hypot(x, y)[inside].max() < 1.09
    assert 0.4 < inside.sum() * 0.01**2 < 2.6


def test_a_linear_model_stays_under_20_per_cent_on_shapes10():
    images, labels = shapes10.shapes10("train", 6000)
    test_images, test_labels = shapes10.shapes10("test", 2000)
    mean, std = batches.channel_statistics(images)

    def features(images):
        x = batches.normalise(images, mean, std).reshape(len(images), -1)
        return np.concatenate([x, np.ones((len(x), 1), np.float32)], 1)

    x, test_x = features(images), features(test_images)
    targets = np.eye(10, dtype=np.float32)[labels] - 0.1
    covariance, right = x.T @ x, x.T @ targets
    accuracies = []
    for ridge in (1e1, 1e3, 1e4, 1e5):
        weights = np.linalg.solve(covariance + ridge * np.eye(len(covariance), dtype=np.float32), right)
        accuracies.append(((test_x @ weights).argmax(1) == test_labels).mean())
    assert max(accuracies) < 0.2, accuracies


def test_the_linear_model_would_notice_a_class_that_shows_in_its_mean_colour():
    """The planted fault of the test above: were one class brighter, a linear model would find it."""
    images, labels = shapes10.shapes10("train", 2000)
    images[labels == 3] //= 2
    means = images.reshape(len(images), -1).mean(1)
    assert abs(means[labels == 3].mean() - means[labels != 3].mean()) > 30


# From images to batches


def test_statistics_and_normalisation_give_mean_0_and_deviation_1():
    images = np.random.default_rng(0).integers(0, 256, (50, 7, 5, 3)).astype(np.uint8)
    images[..., 1] //= 3
    mean, std = batches.channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, images.std((0, 1, 2)), rtol=1e-12)
    x = batches.normalise(images, mean, std, np.float64)
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, rtol=1e-12)
    assert batches.normalise(images, mean, std).dtype == np.float32


def test_augment_crops_and_mirrors_as_its_equations_say():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 6, 9, 3)).astype(np.uint8)
    pad, fill = 2, (10.4, 20.0, 30.0)
    got = batches.augment(images, pad, fill, stream(5, "augment", 1, 2))
    u = stream(5, "augment", 1, 2).random((40, 3))
    mirrored = 0
    for n, image in enumerate(images):
        bordered = np.empty((6 + 2 * pad, 9 + 2 * pad, 3), np.uint8)
        bordered[...] = (10, 20, 30)
        bordered[pad:-pad, pad:-pad] = image
        top, left = int(u[n, 0] * 5), int(u[n, 1] * 5)
        crop = bordered[top : top + 6, left : left + 9]
        if u[n, 2] < 0.5:
            crop, mirrored = crop[:, ::-1], mirrored + 1
        np.testing.assert_array_equal(got[n], crop)
    assert 5 < mirrored < 35


@pytest.mark.parametrize(("pad", "cutout"), [(2, 1), (0, 3), (2, 4), (1, 20)])
def test_augment_cuts_a_square_out_as_its_equations_say(pad, cutout):
    images = np.random.default_rng(1).integers(50, 256, (40, 6, 9, 3)).astype(np.uint8)
    fill = (10.4, 20.0, 30.0)
    got = batches.augment(images, pad, fill, stream(5, "augment", 1, 2), cutout=cutout)
    wanted = batches.augment(images, pad, fill, stream(5, "augment", 1, 2))
    rng = stream(5, "augment", 1, 2)
    rng.random((40, 3))
    for n, (v0, v1) in enumerate(rng.random((40, 2))):
        for h in range(6):
            for w in range(9):
                down, right = h - (int(v0 * 6) - cutout // 2), w - (int(v1 * 9) - cutout // 2)
                if 0 <= down < cutout and 0 <= right < cutout:
                    wanted[n, h, w] = (10, 20, 30)
    np.testing.assert_array_equal(got, wanted)


def check_mirroring(cutout):
    """Told which images to mirror, augment mirrors these; crops, squares and what it draws are as without."""
    images = np.random.default_rng(1).integers(50, 256, (40, 6, 9, 3)).astype(np.uint8)
    pad, fill = (0 if cutout else 2), (10, 20, 30)  # without a border, only the square has its colour
    by_chance = stream(5, "augment", 1, 2).random((40, 3))[:, 2] < 0.5
    rng = stream(5, "augment", 1, 2)
    usual, following = batches.augment(images, pad, fill, rng, cutout=cutout), rng.random()
    for wanted in (by_chance, ~by_chance, np.arange(40) < 10):
        rng = stream(5, "augment", 1, 2)
        got = batches.augment(images, pad, fill, rng, cutout=cutout, mirrored=wanted)
        assert rng.random() == following
        if cutout:
            np.testing.assert_array_equal((got == fill).all(-1), (usual == fill).all(-1))
            uncut = np.where(wanted[:, None, None, None], images[:, :, ::-1], images)
            np.testing.assert_array_equal(got, np.where((got == fill).all(-1, keepdims=True), fill, uncut))
        else:
            other = (wanted != by_chance)[:, None, None, None]
            np.testing.assert_array_equal(got, np.where(other, usual[:, :, ::-1], usual))


@pytest.mark.parametrize("cutout", [0, 3])
def test_augment_mirrors_the_images_it_is_told_to_and_crops_as_without(cutout):
    check_mirroring(cutout)


@pytest.mark.parametrize("cutout", [0, 3])
@pytest.mark.parametrize("fault", ["not looked at", "fewer numbers"])
def test_mirroring_of_other_images_or_crops_would_be_noticed(monkeypatch, fault, cutout):
    """The planted faults of the test above."""
    whole = batches.augment

    def faulty(images, pad, fill, rng, *, cutout, mirrored=None):
        if mirrored is not None and fault == "fewer numbers":
            u = rng.random((len(images), 2))
            more = SimpleNamespace(random=lambda shape: np.c_[u, u[:, :1]] if shape[1] == 3 else rng.random(shape))
            return whole(images, pad, fill, more, cutout=cutout, mirrored=mirrored)
        return whole(images, pad, fill, rng, cutout=cutout)

    monkeypatch.setattr(batches, "augment", faulty)
    with pytest.raises(AssertionError):
        check_mirroring(cutout)


def check_alternating():
    """Of 1000 images, about half are mirrored in each epoch, and each is mirrored in every other one."""
    for seed in (0, 7):
        epochs = [batches.alternating(1000, seed, epoch) for epoch in range(5)]
        for mirrored, after in itertools.pairwise(epochs):
            assert mirrored.shape == (1000,) and mirrored.dtype == bool
            assert 420 < mirrored.sum() < 580, "five standard deviations from half"
            np.testing.assert_array_equal(after, ~mirrored)
    assert 400 < (batches.alternating(1000, 0, 0) != batches.alternating(1000, 7, 0)).sum() < 600, "the seed draws them"
    np.testing.assert_array_equal(batches.alternating(1000, 0, 1), ~batches.alternating(1000, 0, 0))


def test_over_two_epochs_each_image_is_seen_once_mirrored_and_once_not():
    check_alternating()
    with pytest.raises(ValueError, match="read-only"):
        batches.alternating(1000, 0, 1)[0] = True


ALTERNATING_FAULTS = {
    "drawn in each epoch": lambda count, seed, epoch: stream(seed, "mirror", epoch).random(count) < 0.5,
    "always the same": lambda count, seed, epoch: stream(seed, "mirror").random(count) < 0.5,
    "all in one epoch": lambda count, seed, epoch: np.full(count, epoch % 2 == 1),
    "another seed": lambda count, seed, epoch: (stream(0, "mirror").random(count) < 0.5) ^ (epoch % 2 == 1),
}


@pytest.mark.parametrize("fault", ALTERNATING_FAULTS)
def test_images_that_do_not_alternate_would_be_noticed(monkeypatch, fault):
    """The planted faults of the test above."""
    monkeypatch.setattr(batches, "alternating", ALTERNATING_FAULTS[fault])
    with pytest.raises(AssertionError):
        check_alternating()


def test_augment_does_not_touch_its_images():
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    before = images.copy()
    batches.augment(images, 2, (0, 0, 0), stream(0, "augment"))
    np.testing.assert_array_equal(images, before)


VIEW_SHAPES = [(3, 5, 8, 3), (1, 2, 2, 3), (2, 2, 7, 1), (4, 9, 2, 3), (2, 3, 3, 2), (1, 32, 32, 3)]


@pytest.mark.parametrize("shape", VIEW_SHAPES)
def test_the_six_views_are_those_of_their_definition(shape):
    images = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    before = images.copy()
    found, wanted = list(batches.views(images)), six_views(images)
    assert [weight for weight, _ in found] == [weight for weight, _ in wanted]
    assert sum(weight for weight, _ in found) == 1
    for (_, view), (_, right) in zip(found, wanted, strict=True):
        assert view.dtype == np.uint8
        np.testing.assert_array_equal(view, right)
    np.testing.assert_array_equal(images, before)


def flipped_upside_down(views):
    return lambda images: [(w, images[:, ::-1] if n == 1 else view) for n, (w, view) in enumerate(views(images))]


def padded_with(mode):
    def fault(views):
        pad = np.pad

        def other(images):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(np, "pad", lambda a, width, **_: pad(a, width, mode=mode))
                return list(views(images))

        return other

    return fault


VIEW_FAULTS = {
    "mirrored along the wrong axis": flipped_upside_down,
    "the edge instead of a reflection": padded_with("edge"),
    "a border of zeros": padded_with("constant"),
    "height and width swapped": lambda views: (
        lambda images: [(w, v.swapaxes(1, 2)) for w, v in views(images.swapaxes(1, 2))]
    ),
    "moved the other way first": lambda views: lambda images: [list(views(images))[n] for n in (0, 1, 4, 5, 2, 3)],
    "all weights alike": lambda views: lambda images: [(1 / 6, view) for _, view in views(images)],
    "a view too few": lambda views: lambda images: list(views(images))[:5],
}


@pytest.mark.parametrize("fault", VIEW_FAULTS)
def test_other_views_would_be_noticed(monkeypatch, fault):
    """The planted faults of the test above."""
    monkeypatch.setattr(batches, "views", VIEW_FAULTS[fault](batches.views))
    with pytest.raises((AssertionError, ValueError)):
        test_the_six_views_are_those_of_their_definition(VIEW_SHAPES[0])


@pytest.mark.parametrize("shape", [(2, 1, 5, 3), (2, 5, 1, 3), (1, 1, 1, 3)])
def test_images_of_one_pixel_have_no_views(shape):
    with pytest.raises(ValueError, match=rf"views: got images of {shape[1]}x{shape[2]}, wanted 2x2 or more; "):
        list(batches.views(np.zeros(shape, np.uint8)))


def test_batches_cover_the_images_once_and_differ_by_epoch_and_seed():
    first = list(batches.batches(103, 10, seed=3, epoch=0))
    assert [len(b) for b in first] == [10] * 10
    assert len(np.unique(np.concatenate(first))) == 100
    np.testing.assert_array_equal(first, list(batches.batches(103, 10, seed=3, epoch=0)))
    assert not np.array_equal(first, list(batches.batches(103, 10, seed=3, epoch=1)))
    assert not np.array_equal(first, list(batches.batches(103, 10, seed=4, epoch=0)))
    assert [len(b) for b in batches.batches(7, 10, seed=0, epoch=0)] == [7]


def test_streams_are_addressed_by_seed_purpose_and_place():
    first = stream(1, "dropout", 2, 3).random(4)
    np.testing.assert_array_equal(first, stream(1, "dropout", 2, 3).random(4))
    for other in ((2, "dropout", 2, 3), (1, "augment", 2, 3), (1, "dropout", 3, 3), (1, "dropout", 2, 4)):
        assert not np.array_equal(first, stream(*other).random(4))
    for wrong in ((1, "", 0), (1, "ninechars", 0), (1, "a", 1, 2, 3, 4), (-1, "a"), (1, "a", 2**64)):
        with pytest.raises(ValueError, match="stream: got"):
            stream(*wrong)


def test_streams_are_philox_with_the_documented_key_and_counter():
    """Ten rounds written out; the first four words come from block 1."""
    key = [7, int.from_bytes(b"dropout", "little")]
    counter = [1, 11, 12, 13]
    for _ in range(10):
        p0, p1 = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        low = 2**64 - 1
        counter = [(p1 >> 64) ^ counter[1] ^ key[0], p1 & low, (p0 >> 64) ^ counter[3] ^ key[1], p0 & low]
        key = [(key[0] + 0x9E3779B97F4A7C15) & low, (key[1] + 0xBB67AE8584CAA73B) & low]
    expected = [(word >> 11) / 2**53 for word in counter]
    np.testing.assert_array_equal(stream(7, "dropout", 11, 12, 13).random(4), expected)


def test_load_refuses_unknown_names_and_counts():
    with pytest.raises(UsageError, match="the nearest is shapes10"):
        dataset.load("shapes")
    with pytest.raises(UsageError, match="--train-images: got 0"):
        dataset.load("shapes10", train=0)
    small = dataset.load("shapes10", train=200, test=100)
    assert len(small.train_labels) == 200 and len(small.test_labels) == 100
    assert small.classes[small.test_labels[0]] in shapes10.SHAPES


# cifar10


def records(count, seed):
    rows = np.random.default_rng(seed).integers(0, 256, (count, RECORD)).astype(np.uint8)
    rows[:, 0] %= 10
    return rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A full set of six files of random pixels (180 MB, so once per module)."""
    folder = tmp_path_factory.mktemp("cifar") / cifar10_archive.CIFAR10_FOLDER
    folder.mkdir()
    rows = records(cifar10_archive.RECORDS, 0)
    for k, name in enumerate(cifar10_archive.CIFAR10_FILES):
        (folder / name).write_bytes(np.roll(rows, k, axis=0).tobytes())
    return folder


@pytest.fixture
def small(tmp_path):
    """A reduced set: 30 training and 20 test images."""
    (tmp_path / "data_batch_1.bin").write_bytes(records(30, 1).tobytes())
    (tmp_path / "test_batch.bin").write_bytes(records(20, 2).tobytes())
    return tmp_path


def test_cifar10_reads_labels_and_planes(small):
    (images, labels), (test_images, _) = cifar10.cifar10(small, subset=True)
    rows = records(30, 1)
    np.testing.assert_array_equal(labels, rows[:, 0])
    np.testing.assert_array_equal(images[7, 3, 5], rows[7, [1 + 101, 1 + 1024 + 101, 1 + 2048 + 101]])
    assert images.shape == (30, 32, 32, 3) and test_images.shape == (20, 32, 32, 3)


def test_cifar10_reads_the_whole_set_from_either_folder(whole):
    for folder in (whole, whole.parent):
        (images, labels), (test_images, _) = cifar10.cifar10(folder)
        assert images.shape == (50_000, 32, 32, 3) and len(test_images) == 10_000
    rows = records(cifar10_archive.RECORDS, 0)
    assert labels[cifar10_archive.RECORDS + 1] == rows[0, 0]  # the second file is rolled by one


def make_archive(path, members):
    """members: (TarInfo or name, content)."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for member, content in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(f"{cifar10_archive.CIFAR10_FOLDER}/{member}")
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_cifar10_reads_the_archive_in_place(tmp_path):
    train, test = records(30, 1), records(20, 2)
    make_archive(
        tmp_path / cifar10_archive.CIFAR10_ARCHIVE,
        [("data_batch_1.bin", train.tobytes()), ("../readme.html", b"x"), ("test_batch.bin", test.tobytes())],
    )
    (_, labels), (_, test_labels) = cifar10.cifar10(tmp_path, subset=True)
    np.testing.assert_array_equal(labels, train[:, 0])
    np.testing.assert_array_equal(test_labels, test[:, 0])
    assert [p.name for p in tmp_path.iterdir()] == [cifar10_archive.CIFAR10_ARCHIVE]


def broken(folder, name, change):
    """The folder, with one file's content changed."""
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    return folder


BROKEN = {
    "cut inside a record": (lambda f: broken(f, "data_batch_1.bin", lambda b: b[:-7]), "byte 92,183 inside record 29"),
    "empty": (lambda f: broken(f, "test_batch.bin", lambda b: b""), "ends at byte 0"),
    "a label of 10": (
        lambda f: broken(f, "data_batch_1.bin", lambda b: b[: 5 * RECORD] + b"\x0a" + b[5 * RECORD + 1 :]),
        "byte 15,365 is 10, wanted a label from 0 to 9",
    ),
    "a web page": (
        lambda f: broken(f, "data_batch_1.bin", lambda b: b"<html>not found</html>" * 500),
        "wanted 30,730,000 bytes",
    ),
    "oversized": (
        lambda f: broken(f, "data_batch_1.bin", lambda b: bytes(FULL + RECORD)),
        "30,733,073 bytes, wanted a file of 30,730,000",
    ),
    "a gap in the numbers": (
        lambda f: (
            broken(f, "data_batch_1.bin", lambda b: b) and (f / "data_batch_1.bin").rename(f / "data_batch_3.bin")
        ),
        "data_batch_1.bin, data_batch_2.bin, data_batch_4.bin, data_batch_5.bin missing",
    ),
    "no test file": (lambda f: (f / "test_batch.bin").unlink(), "test_batch.bin missing"),
    "a short file before another": (
        lambda f: (f / "data_batch_2.bin").write_bytes(records(3, 0).tobytes()),
        "ends at byte 92,190, wanted 30,730,000 because another file follows it",
    ),
    "a folder in its place": (
        lambda f: ((f / "test_batch.bin").unlink(), (f / "test_batch.bin").mkdir()),
        "test_batch.bin",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_cifar10_files_are_named_with_byte_and_expectation(small, fault):
    spoil, text = BROKEN[fault]
    cifar10.cifar10(small, subset=True)
    spoil(small)
    with pytest.raises((ValueError, OSError)) as caught:
        cifar10.cifar10(small, subset=True)
    message = str(caught.value)
    assert text in message and str(small) in message and "\n" not in message and ";" in message


def test_a_file_cut_between_records_is_refused_unless_a_subset_is_asked_for(small):
    with pytest.raises(ValueError, match=r"test_batch.bin|data_batch_1.bin") as caught:
        cifar10.cifar10(small)
    assert "say --subset" in str(caught.value)


def test_missing_folders_and_other_versions_say_what_to_fetch(tmp_path):
    for make, text in (
        (lambda: None, "fetch https://www.cs.toronto.edu"),
        (lambda: (tmp_path / "cifar-10-batches-py").mkdir(), "runs code"),
    ):
        make()
        with pytest.raises((ValueError, OSError), match=text):
            cifar10.cifar10(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        cifar10.cifar10(tmp_path / "nowhere")


def link(kind, target):
    member = tarfile.TarInfo(f"{cifar10_archive.CIFAR10_FOLDER}/data_batch_1.bin")
    member.type, member.linkname = kind, target
    return member


def huge(name):
    member = tarfile.TarInfo(name)
    member.size = 10**12
    return member


EVIL = {
    "a symbolic link": [(link(tarfile.SYMTYPE, "/etc/passwd"), b"")],
    "a hard link": [(link(tarfile.LNKTYPE, "../../x"), b"")],
    "a device": [(link(tarfile.CHRTYPE, ""), b"")],
    "a pipe": [(link(tarfile.FIFOTYPE, ""), b"")],
    "a file twice": [("data_batch_1.bin", records(3, 0).tobytes())] * 2,
    "oversized": [("data_batch_1.bin", bytes(FULL + 1))],
    "a short archive": [("data_batch_1.bin", records(3, 0).tobytes())],
    "a climbing name": [("../../data_batch_1.bin", records(3, 0).tobytes())],
}


@pytest.mark.parametrize("kind", EVIL)
def test_evil_archives_are_refused_and_nothing_is_written(tmp_path, kind):
    make_archive(tmp_path / cifar10_archive.CIFAR10_ARCHIVE, EVIL[kind])
    with pytest.raises((ValueError, OSError)):
        cifar10.cifar10(tmp_path, subset=True)
    assert [p.name for p in tmp_path.iterdir()] == [cifar10_archive.CIFAR10_ARCHIVE]


def test_an_archive_that_claims_a_terabyte_or_is_cut_or_is_no_archive_is_refused(tmp_path):
    path = tmp_path / cifar10_archive.CIFAR10_ARCHIVE
    header = huge(f"{cifar10_archive.CIFAR10_FOLDER}/padding").tobuf()
    path.write_bytes(gzip.compress(header + bytes(1024)))
    with pytest.raises(ValueError, match="larger than CIFAR-10 is"):
        cifar10.cifar10(tmp_path)
    make_archive(path, [("data_batch_1.bin", records(30, 1).tobytes())])
    content = path.read_bytes()
    for spoiled in (content[: len(content) // 2], b"<html>", b"", content[:200] + b"junk" * 50 + content[400:]):
        path.write_bytes(spoiled)
        with pytest.raises(ValueError, match="not a whole gzipped archive"):
            cifar10.cifar10(tmp_path)


# Downloads, from a server on this machine


@pytest.fixture
def server():
    """A web server that answers with `server.content`, or breaks off after `server.cut` bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if web.content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(web.content)))
            self.end_headers()
            self.wfile.write(web.content[: web.cut])

        def log_message(self, *_):
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.content, web.cut = None, None
    web.url = f"http://127.0.0.1:{web.server_address[1]}/cifar.tar.gz"
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    yield web
    web.shutdown()
    web.server_close()
    thread.join()


def test_a_download_is_kept_only_if_its_bytes_are_right(server, tmp_path, capsys):
    right = bytes(range(256)) * 40
    layout = replace(
        cifar10_archive.CIFAR10, url=server.url, bytes=len(right), sha256=hashlib.sha256(right).hexdigest()
    )
    wrong = {
        "not there": (None, None),
        "cut": (right, 5000),
        "short": (right[:-1], None),
        "long": (right + b"x", None),
        "other bytes": (right[:-1] + b"\0", None),
    }
    for what, (content, cut) in wrong.items():
        server.content, server.cut = content, cut
        with pytest.raises(OSError, match="could not be fetched") as caught:
            cifar10_archive.downloaded(layout, tmp_path)
        assert "--data-dir" in str(caught.value) and "\n" not in str(caught.value), what
        assert not list(tmp_path.iterdir()), what
    server.content, server.cut = right, None
    assert cifar10_archive.downloaded(layout, tmp_path).read_bytes() == right
    server.content = None  # now from the cache
    assert cifar10_archive.downloaded(layout, tmp_path).read_bytes() == right


def test_without_a_network_one_line_says_what_to_fetch_and_where_to_put_it(tmp_path):
    with pytest.raises(OSError, match="put it into a folder, and give that as --data-dir") as caught:
        cifar10_archive.downloaded(replace(cifar10_archive.CIFAR10, url="http://127.0.0.1:9/cifar.tar.gz"), tmp_path)
    assert "\n" not in str(caught.value)


def test_the_real_cifar10_has_its_images_and_every_class_equally(cifar10_folder):
    real = dataset.load("cifar10", str(cifar10_folder))
    assert real.train_images.shape == (50_000, 32, 32, 3) and real.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(real.train_labels).tolist() == [5000] * 10
    assert np.bincount(real.test_labels).tolist() == [1000] * 10
    assert real.classes[0] == "airplane" and real.classes[9] == "truck"

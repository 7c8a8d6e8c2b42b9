"""The other data sets: CIFAR-100, idx files, digits, photographs in folders, arrays in a file, functions of one's own.

Files are made up here. What is damaged is refused in one line that names the file, or gives what the file holds.
"""

import gzip
import io
import re
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from commands import command
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_runs import SMALL, same_bits, stop_after, timeless, tiny_networks, weights_of  # noqa: F401
from test_data import make_archive

from inception_np.backend.errors import RefusedError, StoppedError, UsageError
from inception_np.data import batches, cifar10, cifar10_archive, dataset, files, idx, photographs
from inception_np.data.digits import digits
from inception_np.data.npz import npz
from inception_np.training import loop
from inception_np.weights.checkpoint import read


def refused(path, call, text=""):
    """The line with which a call refuses a file."""
    with pytest.raises((ValueError, OSError)) as caught:
        call()
    message = str(caught.value)
    assert str(path) in message and text in message and "\n" not in message, message
    return message


def damaged(content, at, value):
    """The content with the byte at a place, counted around, changed by a value from 1 to 255."""
    at %= len(content)
    return content[:at] + bytes([content[at] ^ value]) + content[at + 1 :]


places, values = st.integers(0, 2**32), st.integers(1, 255)
numbers = np.random.default_rng(0)


# CIFAR-100


def records100(count, seed):
    rows = np.random.default_rng(seed).integers(0, 256, (count, 3074)).astype(np.uint8)
    rows[:, 0] %= 20
    rows[:, 1] %= 100
    return rows


@pytest.fixture
def small100(tmp_path):
    (tmp_path / "train.bin").write_bytes(records100(30, 1).tobytes())
    (tmp_path / "test.bin").write_bytes(records100(20, 2).tobytes())
    return tmp_path


def test_cifar100_has_the_fine_labels_and_the_planes_behind_both(small100):
    (images, labels), (test_images, _) = cifar10.cifar100(small100, subset=True)
    rows = records100(30, 1)
    np.testing.assert_array_equal(labels, rows[:, 1])
    np.testing.assert_array_equal(images[7, 3, 5], rows[7, [2 + 101, 2 + 1024 + 101, 2 + 2048 + 101]])
    assert images.shape == (30, 32, 32, 3) and test_images.shape == (20, 32, 32, 3)
    data = dataset.load("cifar100", small100, subset=True)
    assert len(data.classes) == 100 == len(set(data.classes)) and list(data.classes) == sorted(data.classes)


BROKEN100 = {
    "cut": (
        lambda b: b[:-7],
        "ends at byte 92,213 inside record 29, wanted 153,700,000 bytes (50,000 records of 3074)",
    ),
    "a fine label of 100": (lambda b: b[:3075] + b"\x64" + b[3076:], "byte 3,075 is 100, wanted a label from 0 to 99"),
    "a coarse label": (lambda b: b[:3074] + b"\x14" + b[3075:], "byte 3,074 is 20, wanted a coarse label from 0 to 19"),
    "empty": (lambda b: b"", "ends at byte 0"),
    "CIFAR-10": (lambda b: b"\0" * 30_730_000, "inside record 9,996"),
}


@pytest.mark.parametrize("fault", BROKEN100)
def test_broken_cifar100_files_are_named_with_byte_and_expectation(small100, fault):
    change, text = BROKEN100[fault]
    path = small100 / "train.bin"
    path.write_bytes(change(path.read_bytes()))
    refused(path, lambda: cifar10.cifar100(small100, subset=True), text)


def test_cifar100_is_read_from_its_archive_and_refused_where_it_is_cut_or_missing(small100):
    layout = cifar10_archive.CIFAR100
    members = []
    for name in layout.files:
        content = (small100 / name).read_bytes()
        member = tarfile.TarInfo(f"{layout.folder}/{name}")
        member.size = len(content)
        members.append((member, content))
        (small100 / name).unlink()
    path = make_archive(small100 / layout.archive, members)
    (_, labels), _ = cifar10.cifar100(small100, subset=True)
    np.testing.assert_array_equal(labels, records100(30, 1)[:, 1])
    assert "say --subset" in refused(path, lambda: cifar10.cifar100(small100))
    path.write_bytes(path.read_bytes()[:5000])
    refused(path, lambda: cifar10.cifar100(small100, subset=True), "not a whole gzipped archive of 168,513,733 bytes")
    path.unlink()
    (small100 / "cifar-100-python").mkdir()
    refused(small100, lambda: cifar10.cifar100(small100), "runs code when it is read")


# MNIST and Fashion-MNIST

IMAGES, LABELS = numbers.integers(0, 256, (30, 28, 28), np.uint8), numbers.permutation(np.arange(30) % 10)


def idx_file(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def make_idx(folder, end=""):
    for name, array in zip(idx.FILES, (IMAGES, LABELS, IMAGES[:20], LABELS[:20]), strict=True):
        content = idx_file(array)
        (folder / (name + end)).write_bytes(gzip.compress(content) if end else content)
    return folder


@pytest.fixture(params=["", ".gz"])
def idx_folder(tmp_path, request):
    return make_idx(tmp_path, request.param)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_give_images_with_a_border_and_labels(idx_folder, name):
    (images, labels), (test_images, test_labels) = idx.mnist(idx_folder, name)
    assert images.shape == (30, 32, 32, 1) and images.dtype == np.uint8 and labels.dtype == np.int64
    np.testing.assert_array_equal(images[:, 2:30, 2:30, 0], IMAGES)
    assert images.astype(int).sum() == IMAGES.astype(int).sum(), "the border is black"
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(test_labels, LABELS[:20])
    assert len(test_images) == 20
    data = dataset.load(name, idx_folder, train=25)
    assert len(data.train_labels) == 25 and len(data.classes) == 10 and data.mirrored == (name != "mnist")
    assert len(data.mean) == 1


IDX_FAULTS = {
    "no file": (0, lambda b: None, "no train-images-idx3-ubyte"),
    "a head that is cut": (0, lambda b: b[:9], "ends at byte 9, wanted a head of 16 bytes"),
    "labels in its place": (0, lambda b: idx_file(LABELS) + bytes(9), "byte 0: 0x00000801, wanted 0x00000803"),
    "floats": (0, lambda b: b[:2] + b"\x0d" + b[3:], "byte 0: 0x00000d03, wanted 0x00000803"),
    "other sizes": (0, lambda b: idx_file(IMAGES[:, :14]), "byte 4: dimensions (30, 14, 28), wanted up to"),
    "no images": (2, lambda b: idx_file(IMAGES[:0]), "byte 4: dimensions (0, 28, 28)"),
    "too many": (0, lambda b: b[:4] + b"\xff" + b[5:], "wanted up to 1,000,000 images of 28x28"),
    "cut": (0, lambda b: b[:-5], "ends at byte 23,531, wanted 23,536 bytes"),
    "longer": (2, lambda b: b + b"x", "goes on after byte 15,696, wanted 15,696 bytes"),
    "a label of 10": (1, lambda b: b[:11] + b"\x0a" + b[12:], "byte 11 is 10, wanted a label from 0 to 9"),
    "fewer labels": (3, lambda b: idx_file(LABELS[:19]), "byte 4: 19 labels, wanted 20"),
    "a web page": (1, lambda b: b"<html>not found</html>", "byte 0: 0x3c68746d"),
}


@pytest.mark.parametrize("fault", IDX_FAULTS)
def test_broken_idx_files_are_named_with_byte_and_expectation(idx_folder, fault):
    which, change, text = IDX_FAULTS[fault]
    path = next(idx_folder.glob(f"{idx.FILES[which]}*"))
    packed = path.suffix == ".gz"
    content = change(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    if content is None:
        path.unlink()
        refused(idx_folder, lambda: idx.mnist(idx_folder), text)
    else:
        path.write_bytes(gzip.compress(content) if packed else content)
        refused(path, lambda: idx.mnist(idx_folder), text)


def test_a_gzipped_idx_file_that_is_cut_is_no_gzip_or_has_another_checksum_is_refused(tmp_path):
    for name, array in zip(idx.FILES, (IMAGES, LABELS, IMAGES, LABELS), strict=True):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx_file(array)))
    path = tmp_path / f"{idx.FILES[0]}.gz"
    whole = path.read_bytes()
    for spoiled in (whole[:-9], whole[:5000], b"<html>", damaged(whole, -6, 1), idx_file(IMAGES)):
        path.write_bytes(spoiled)
        refused(path, lambda: idx.mnist(tmp_path))
    refused(tmp_path / "x", lambda: idx.mnist(tmp_path / "x"), "no such folder")


def by_hand(content, head):
    """What an idx file of a right head holds, as a reader that trusts it would find."""
    return np.frombuffer(content, np.uint8, offset=head)


def check_damaged_idx(folder, which, packed, at, value):
    """A byte is changed: the file is refused, or the arrays are what the changed file holds."""
    originals = [idx_file(a) for a in (IMAGES[:3], LABELS[:3], IMAGES[:2], LABELS[:2])]
    contents = [gzip.compress(c, 1, mtime=0) if packed else c for c in originals]
    contents[which] = damaged(contents[which], at, value)
    for name, content in zip(idx.FILES, contents, strict=True):
        (folder / (name + ".gz" * packed)).write_bytes(content)
    path = folder / (idx.FILES[which] + ".gz" * packed)
    try:
        found = idx.mnist(folder)
    except ValueError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
        return False
    held = [gzip.decompress(path.read_bytes()) if packed and i == which else c for i, c in enumerate(originals)]
    if not packed:
        held[which] = contents[which]
    for i, part in enumerate(found):
        np.testing.assert_array_equal(part[0][:, 2:30, 2:30, 0].ravel(), by_hand(held[2 * i], 16))
        np.testing.assert_array_equal(part[1], by_hand(held[2 * i + 1], 8))
        assert (part[1] < 10).all()
    return True


@given(which=st.integers(0, 3), packed=st.booleans(), at=places, value=values)
def test_an_idx_file_with_another_byte_is_refused_or_read_as_it_is(tmp_path_factory, which, packed, at, value):
    folder = tmp_path_factory.mktemp("idx")
    check_damaged_idx(folder, which, packed, at, value)


def test_a_label_that_is_not_looked_at_would_be_noticed(tmp_path, monkeypatch):
    """The planted fault of the test above."""
    assert not check_damaged_idx(tmp_path, 1, False, 9, 0xF0)
    monkeypatch.setattr(idx, "CLASSES", 256)
    with pytest.raises(AssertionError):
        check_damaged_idx(tmp_path, 1, False, 9, 0xF0)


# Digits


def test_digits_are_shades_in_squares_and_every_fifth_is_for_testing():
    datasets = pytest.importorskip("sklearn.datasets")
    found = datasets.load_digits()
    (images, labels), (test_images, test_labels) = digits()
    assert images.shape == (1438, 32, 32, 1) and test_images.shape == (359, 32, 32, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(test_labels, found.target[4::5])
    np.testing.assert_array_equal(labels[:5], found.target[[0, 1, 2, 3, 5]])
    np.testing.assert_array_equal(test_images[2, ::4, ::4, 0], np.rint(found.images[14] * 255 / 16))
    np.testing.assert_array_equal(images[:, 1::4, 3::4], images[:, ::4, ::4])
    assert images.max() == 255
    assert not dataset.load("digits").mirrored


def test_without_scikit_learn_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(RefusedError, match=r"pip install inception-np\[data\]"):
        dataset.load("digits")


# Photographs


def photograph(seed, size=(50, 40)):
    """A smooth colour picture."""
    low = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(low).resize(size, Image.Resampling.BICUBIC)


def make_folder(top, counts, seed=0, ends=(".jpg",)):
    for label, (name, count) in enumerate(counts.items()):
        (top / name).mkdir(parents=True)
        for n in range(count):
            photograph((seed, label, n)).save(top / name / f"{n:02}{ends[n % len(ends)]}")
    return top


ONE_LEVEL = {"ant": 20, "bee": 11, "Öl": 3}


def test_a_folder_of_classes_is_split_nine_to_one_always_the_same_way(tmp_path):
    top = make_folder(tmp_path / "own", ONE_LEVEL, ends=(".jpg", ".JPG", ".png", ".JPEG"))
    (top / "ant" / ".hidden.txt").write_text("x")
    (top / "ant" / "Thumbs.db").write_text("x")
    (top / ".git").mkdir()
    (top / "readme.txt").write_text("x")
    classes, train, test = photographs.folder(top, 32)
    assert classes == ("ant", "bee", "Öl")
    assert np.bincount(test[1]).tolist() == [2, 1, 1] and np.bincount(train[1]).tolist() == [18, 10, 2]
    paths = [*train[0].paths, *test[0].paths]
    assert len(set(paths)) == 34
    for images, labels in (train, test):
        assert [classes[n] for n in labels] == [path.parent.name for path in images.paths]
    again = photographs.folder(top, 32)
    assert again[1][0].paths == train[0].paths and again[2][0].paths == test[0].paths
    assert len(set(train[1][:10])) > 1, "the first few are of several classes"


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_folder_with_parts_is_taken_as_it_is(tmp_path, name):
    make_folder(tmp_path / "train", {"a": 4, "b": 2})
    make_folder(tmp_path / name, {"a": 1, "b": 2}, seed=9)
    classes, train, test = photographs.folder(tmp_path, 16)
    assert (
        classes == ("a", "b") and np.bincount(train[1]).tolist() == [4, 2] and np.bincount(test[1]).tolist() == [1, 2]
    )
    assert {path.parents[1].name for path in train[0].paths} == {"train"}
    assert {path.parents[1].name for path in test[0].paths} == {name}
    assert train[0][:].shape == (6, 16, 16, 3)


def text_file(top):
    (top / "a" / "notes.txt").write_text("x")


def cut_picture(top):
    path = top / "a" / "00.jpg"
    path.write_bytes(path.read_bytes()[:-200])


FOLDER_FAULTS = {
    "an empty class": (lambda top: (top / "c").mkdir(), "c: a class without pictures"),
    "a class of hidden files": (
        lambda top: ((top / "c").mkdir(), (top / "c" / ".x.jpg").touch()),
        "c: a class without",
    ),
    "a text file": (text_file, "notes.txt: no picture by its name, wanted .jpg"),
    "a folder in a class": (lambda top: (top / "a" / "deep").mkdir(), "deep: a folder inside of a class"),
    "a picture beside": (lambda top: photograph(1).save(top / "x.JPG"), "x.JPG: a picture beside the folders"),
    "cut": (cut_picture, "00.jpg: "),
    "no picture": (lambda top: (top / "b" / "01.jpg").write_text("<html>"), "01.jpg: got no picture"),
    "an empty file": (lambda top: (top / "b" / "01.jpg").write_bytes(b""), "01.jpg: got no picture"),
    "a lost link": (lambda top: (top / "a" / "99.jpg").symlink_to(top / "nowhere"), "99.jpg: no such file"),
    "a stripe": (
        lambda top: Image.new("L", (3, 900)).save(top / "a" / "99.png"),
        "99.png: 3x900 pixels, wanted no side",
    ),
    "one of a class": (lambda top: make_folder(top, {"c": 1}), "class 2 has one image, wanted 2 or more"),
    "other classes": (
        lambda top: (make_folder(top / "train", {"x": 2, "y": 2}), make_folder(top / "val", {"x": 2, "z": 2})),
        "val: no class 'y', which the other part has",
    ),
    "one class": (lambda top: (top / "b").rename(top / ".b"), "one class, 'a', wanted 2 or more"),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_a_folder_that_is_no_data_set_is_refused_with_the_name_of_what_is_wrong(tmp_path, fault):
    spoil, text = FOLDER_FAULTS[fault]
    make_folder(tmp_path, {"a": 3, "b": 3})
    dataset.load("folder", tmp_path)
    spoil(tmp_path)
    message = refused(tmp_path, lambda: dataset.load("folder", tmp_path), text)
    assert len(message) < 400


def test_no_folder_and_a_missing_one_are_refused(tmp_path):
    refused("--data-dir", lambda: dataset.load("folder"), "none given")
    refused(tmp_path / "x", lambda: dataset.load("folder", tmp_path / "x"), "no such folder")
    refused(tmp_path, lambda: dataset.load("folder", tmp_path), "no class, wanted 2 or more")


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    make_folder(tmp_path, {"a": 3, "b": 3})
    try:
        photograph(1).save(str(tmp_path / "a").encode() + b"/\xff.jpg", format="jpeg")
    except OSError:
        pytest.skip("this file system takes no such names")
    refused(tmp_path, lambda: dataset.load("folder", tmp_path), r"a name that is not UTF-8, b'\xff.jpg'")


def test_pictures_are_upright_in_colour_and_cut_from_their_middle(tmp_path):
    left_right = Image.new("RGB", (60, 30))
    left_right.paste((250, 0, 0), (0, 0, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    left_right.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.new("L", (9, 7), 200).save(tmp_path / "grey.png")
    Image.new("RGBA", (90, 70), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    wide = Image.new("RGB", (96, 32))
    wide.paste((0, 255, 0), (32, 0, 64, 32))
    wide.save(tmp_path / "wide.png")
    names = ("turned.jpg", "grey.png", "clear.png", "wide.png")
    turned, grey, clear, middle = photographs.Photographs([tmp_path / name for name in names], 32)[:]
    assert turned[:12, :, 0].min() > 200 > 60 > turned[20:, :, 0].max()
    assert (grey == 200).all() and (clear == (1, 2, 3)).all() and (middle == (0, 255, 0)).all()


def test_a_jpeg_file_read_at_a_part_of_its_size_gives_nearly_the_same_pixels(tmp_path):
    photograph(3, (500, 400)).save(tmp_path / "a.jpg", quality=90)
    one = photographs.Photographs([tmp_path / "a.jpg"], 32)
    whole = np.asarray(photographs.centre_crop(photographs.open_image(tmp_path / "a.jpg"), one.how), int)
    difference = np.abs(one[0] - whole)
    assert photographs.open_image(tmp_path / "a.jpg", least=64).size == (125, 100)
    assert difference.mean() < 1 and difference.max() <= 6, (difference.mean(), difference.max())


def test_photographs_are_indexed_as_an_array_is(tmp_path):
    top = make_folder(tmp_path, {"a": 12, "b": 9})
    images = photographs.folder(top, 20)[1][0]
    whole = images[:]
    assert whole.shape == images.shape == (19, 20, 20, 3) and len(images) == 19
    for index in (3, -1, np.int64(4), slice(2, 5), slice(None, None, 7), np.array([5, 5, 0]), np.array([], int)):
        np.testing.assert_array_equal(images[index], whole[index])
    np.testing.assert_array_equal(np.asarray(images), whole)
    np.testing.assert_array_equal(images.first(4)[:], whole[:4])
    with pytest.raises(IndexError):
        images[19]


def batches_of(images, threads, monkeypatch):
    pool = ThreadPoolExecutor(threads)
    monkeypatch.setattr(photographs, "readers", lambda: pool)
    order = list(batches.batches(len(images), 7, 3, 1))
    found = [images[index] for index in photographs.ahead(images, order)]
    pool.shutdown()
    return np.array(found), order


@pytest.mark.parametrize("kept", [False, True])
def test_batches_are_the_same_bits_for_any_number_of_threads_kept_or_not(tmp_path, monkeypatch, kept):
    images = photographs.folder(make_folder(tmp_path, {"a": 20, "b": 22}), 16)[1][0]
    whole = images[:]
    monkeypatch.setattr(photographs, "TOGETHER", 2)
    for threads in (1, 2, 5):
        subject = images.first(None).keep() if kept else images
        for _ in range(2):
            found, order = batches_of(subject, threads, monkeypatch)
            np.testing.assert_array_equal(found, whole[np.array(order)])
        assert not subject.coming and subject.there.any() == kept


def test_batches_in_the_order_in_which_threads_are_done_would_be_noticed(tmp_path, monkeypatch):
    """The planted fault of the test above."""
    begin = photographs.Photographs.begin

    def faulty(self, index):
        _, images, jobs = begin(self, index)
        for job in jobs:
            job.result()
        return index, images[::-1], jobs

    monkeypatch.setattr(photographs.Photographs, "begin", faulty)
    with pytest.raises((AssertionError, IndexError)):
        test_batches_are_the_same_bits_for_any_number_of_threads_kept_or_not(tmp_path, monkeypatch, False)


def test_kept_photographs_are_read_once_and_without_room_each_time(tmp_path, monkeypatch, capsys):
    top = make_folder(tmp_path, {"a": 6, "b": 6})
    reads = []
    read_file = photographs.Photographs.read
    monkeypatch.setattr(photographs.Photographs, "read", lambda self, path: reads.append(path) or read_file(self, path))
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    for room in (True, False):
        if not room:
            monkeypatch.setattr(photographs, "scratch", lambda shape: None)
        images = dataset.load("folder", top).train_images
        assert isinstance(images, photographs.Photographs)
        reads.clear()
        first, second = images[:], images[:]
        np.testing.assert_array_equal(first, second)
        assert len(reads) == (0 if room else 20), "the mean has read them once"
        assert ("no room for" in capsys.readouterr().err) == (not room)


def test_scratch_has_no_name_and_leaves_half_of_the_room(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    array = files.scratch((3, 5))
    array[...] = 7
    assert array.sum() == 105 and not list(tmp_path.iterdir())
    assert files.scratch((1 << 60,)) is None and not list(tmp_path.iterdir())
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    assert files.scratch((3, 5)) is None


def test_a_picture_that_is_broken_ends_the_epoch_with_its_name(tmp_path, monkeypatch):
    top = make_folder(tmp_path, {"a": 20, "b": 20})
    cut_picture(top)
    train, test = (part[0] for part in photographs.folder(top, 32)[1:])
    for images in (train, test):
        if top / "a" / "00.jpg" in images.paths:
            order = list(batches.batches(len(images), 2, 0, 0))
            refused(top / "a" / "00.jpg", lambda: [images[i] for i in photographs.ahead(images, order)])  # noqa: B023


# Arrays in a file

X = numbers.integers(0, 256, (24, 6, 5, 3), np.uint8)
Y = np.arange(24) % 3


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_arrays_come_as_they_were_saved(tmp_path):
    path = saved(
        tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:4], y_test=Y[:4].astype(np.uint8), classes=["p", "q", "r"]
    )
    names, (images, labels), (test_images, test_labels) = npz(path)
    assert names == ("p", "q", "r") and labels.dtype == test_labels.dtype == np.int64
    np.testing.assert_array_equal(images, X)
    np.testing.assert_array_equal(labels, Y)
    np.testing.assert_array_equal(test_images, X[:4])
    data = dataset.load("npz", path, test=3)
    assert data.classes == names and data.size == ((6, 5, 3), 3, 24, 3)
    fortran = saved(tmp_path / "f.npz", x_train=np.asfortranarray(X), y_train=Y, x_test=X, y_test=Y)
    np.testing.assert_array_equal(npz(fortran)[1][0], X)


def test_grey_arrays_get_a_channel_and_a_tenth_of_each_class_is_held_out(tmp_path):
    labels = np.repeat([0, 1], [30, 12])
    images = numbers.integers(0, 256, (42, 8, 8), np.uint8)
    path = saved(tmp_path / "a.npz", images=images, labels=labels)
    data = dataset.load("npz", path)
    assert data.classes == ("0", "1") and data.size == ((8, 8, 1), 2, 38, 4)
    assert np.bincount(data.test_labels).tolist() == [3, 1]
    both = np.concatenate([data.train_images, data.test_images])
    order = np.concatenate([data.train_labels, data.test_labels])
    where = {image.tobytes(): n for n, image in enumerate(images)}
    found = [where[image.tobytes()] for image in both]
    assert sorted(found) == list(range(42))
    np.testing.assert_array_equal(labels[found], order)
    np.testing.assert_array_equal(dataset.load("npz", path).train_images, data.train_images)


WHOLE = {"x_train": X, "y_train": Y, "x_test": X[:4], "y_test": Y[:4]}
NPZ_FAULTS = {
    "floats": ({"x_train": X / 255.0}, "x_train: float64, wanted uint8 from 0 to 255; save (255 * x).round()"),
    "wide integers": ({"x_test": X.astype(int)}, "x_test: int64, wanted uint8"),
    "channels first": ({"x_train": X.transpose(0, 3, 1, 2)}, "save x.transpose(0, 2, 3, 1)"),
    "two channels": ({"x_train": X[..., :2]}, "x_train: shape (24, 6, 5, 2), wanted"),
    "flat images": ({"x_train": X.reshape(24, -1)}, "x_train: shape (24, 90), wanted"),
    "labels as floats": ({"y_train": Y.astype(float)}, "y_train: float64 of shape (24,), wanted (N,) whole numbers"),
    "one-hot labels": ({"y_train": np.eye(3, dtype=int)[Y]}, "y_train: int64 of shape (24, 3), wanted (N,)"),
    "objects": ({"y_train": Y.astype(object)}, "y_train: Python objects, which are never read"),
    "objects as names": ({"classes": np.array(["a", None, 3])}, "classes: Python objects, which are never read"),
    "a negative label": ({"y_train": np.where(Y == 2, -1, Y)}, "training label 2 is -1, wanted a number from 0 to 1"),
    "a gap": ({"y_train": np.where(Y == 1, 3, Y)}, "no training image of class 1 (1); number the classes without gaps"),
    "a huge label": ({"y_train": np.where(Y == 1, 10**15, Y)}, "training label 1 is 1000000000000000, wanted"),
    "an unknown test label": ({"y_test": np.array([0, 1, 2, 3])}, "test label 3 is 3, wanted a number from 0 to 2"),
    "too few names": ({"classes": ["a", "b"]}, "training label 2 is 2, wanted a number from 0 to 1"),
    "too many names": ({"classes": ["a", "b", "c", "d"]}, "no training image of class 3 (d)"),
    "a name twice": ({"classes": ["a", "b", "a"]}, "two classes are called 'a'"),
    "one class": ({"y_train": Y * 0, "y_test": Y[:4] * 0}, "1 class, wanted 2 or more"),
    "fewer labels": ({"y_train": Y[:9]}, "training labels: int64 of shape (9,), wanted whole numbers of shape (24,)"),
    "other test images": ({"x_test": X[:4, :5]}, "test images of shape (5, 5, 3), wanted (6, 5, 3)"),
    "no test images": ({"x_test": X[:0], "y_test": Y[:0]}, "test images: uint8 of shape (0, 6, 5, 3), wanted"),
}


@pytest.mark.parametrize("fault", NPZ_FAULTS)
def test_arrays_that_are_no_data_set_are_refused_with_file_and_array(tmp_path, fault):
    arrays, text = NPZ_FAULTS[fault]
    path = saved(tmp_path / "a.npz", **{**WHOLE, **arrays})
    refused(path, lambda: dataset.load("npz", path), text)


def test_files_that_are_no_arrays_are_refused(tmp_path):
    refused(tmp_path / "x.npz", lambda: npz(tmp_path / "x.npz"))
    path = saved(tmp_path / "a.npz", **{n: WHOLE[n] for n in ("x_train", "y_train", "x_test")})
    refused(path, lambda: npz(path), "y_test missing, wanted x_train, y_train, x_test, y_test")
    refused(saved(path, a=X), lambda: npz(path), "holds nothing, wanted x_train")
    for content in (b"", b"<html>", b"PK\3\4" + bytes(50), b"\x93NUMPY\1\0"):
        path.write_bytes(content)
        refused(path, lambda: npz(path), "not a whole .npz file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\1\0\x20\0{'descr': '|u1', 'shape': ((((")
        archive.writestr("y_train.npy", b"")
    refused(path, lambda: npz(path), "x_train: byte 0: no array's head")
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", head.getvalue())
    refused(path, lambda: npz(path), "0 bytes follow, wanted 1,000,000,000,000 for uint8 of shape (1000000000000,)")
    with pytest.raises(UsageError, match="--data-dir: none given, wanted a file"):
        dataset.load("npz")


@pytest.fixture(scope="module")
def whole_npz(tmp_path_factory):
    """A file of arrays, as they are and compressed."""
    top = tmp_path_factory.mktemp("npz")
    arrays = {"x_train": X[:6], "y_train": Y[:6], "x_test": X[6:9], "y_test": Y[6:9], "classes": ["p", "q", "r"]}
    np.savez(top / "plain.npz", **arrays)
    np.savez_compressed(top / "packed.npz", **arrays)
    return [(top / f"{name}.npz").read_bytes() for name in ("plain", "packed")]


def check_damaged_npz(contents, folder, packed, at, value):
    """A byte is changed: the file is refused, or the arrays are those of the whole file."""
    path = folder / "a.npz"
    path.write_bytes(damaged(contents[packed], at, value))
    try:
        names, (images, labels), (test_images, test_labels) = npz(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert names in (None, ("p", "q", "r"))  # None: another name in the table of contents
    for found, right in ((images, X[:6]), (labels, Y[:6]), (test_images, X[6:9]), (test_labels, Y[6:9])):
        np.testing.assert_array_equal(found, right)


@given(packed=st.booleans(), at=places, value=values)
def test_a_file_of_arrays_with_another_byte_is_refused_or_read_right(tmp_path_factory, whole_npz, packed, at, value):
    check_damaged_npz(whole_npz, tmp_path_factory.mktemp("npz"), packed, at, value)


def test_a_checksum_that_is_not_looked_at_would_be_noticed(tmp_path, whole_npz, monkeypatch):
    """The planted fault of the test above."""
    monkeypatch.setattr(zipfile.ZipExtFile, "_update_crc", lambda self, data: None)
    at = whole_npz[0].index(X[:6].tobytes())
    with pytest.raises(AssertionError):
        check_damaged_npz(whole_npz, tmp_path, 0, at + 5, 1)


# A function of one's own

OWN = """
import numpy as np
from inception_np.data.dataset import Dataset

def stripes(folder, size):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = rng.integers(0, 100, (60, size, size, 1), np.uint8)
    x[y == 1, ::4] += 100
    return Dataset("stripes", ("plain", folder or "striped"), x[:40], y[:40], x[40:], y[40:])

def broken(folder, size):
    return {}["a key"]

def nothing(folder, size):
    pass

number = 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "my_data.py").write_text(OWN)
    return str(tmp_path / "my_data.py")


def test_a_function_in_a_file_is_a_data_set(own):
    data = dataset.load(f"{own}:stripes", "ridged", train=30, size=24)
    assert data.name == f"{own}:stripes" and data.classes == ("plain", "ridged")
    assert data.train_images.shape == (30, 24, 24, 1) and len(data.mean) == len(data.std) == 1
    for name, text in (
        ("broken", "KeyError: 'a key'"),
        ("nothing", "got a NoneType, wanted an inception_np.data.dataset.Dataset"),
    ):
        refused(f"{own}:{name}", lambda: dataset.load(f"{own}:{name}"), text)  # noqa: B023
    for name, text in ((f"{own}:number", "has no function 'number'"), ("nowhere.py:f", "nowhere.py: no such file")):
        with pytest.raises(UsageError, match=re.escape(text)):
            dataset.load(name)
    with pytest.raises(UsageError, match="there is no data set"):
        dataset.load("mine.txt:f")


def test_a_registered_function_is_a_data_set_and_no_name_is_taken_twice(monkeypatch):
    monkeypatch.setattr(dataset, "SOURCES", dict(dataset.SOURCES))

    def mine(folder, size):
        x = np.zeros((6, size, size, 3), np.uint8)
        return dataset.Dataset("mine", ("a", "b"), x, np.arange(6) % 2, x[:2], np.arange(2))

    dataset.register("mine", mine)
    assert dataset.load("mine").size == ((32, 32, 3), 2, 6, 2)
    with pytest.raises(UsageError, match=r"--train-images: got 7; mine has 6"):
        dataset.load("mine", train=7)
    with pytest.raises(UsageError, match="the nearest is mine"):
        dataset.load("min")
    for name, text in (("mine", "'mine' is taken"), ("cifar10", "'cifar10' is taken"), ("a.py:b", "wanted letters")):
        with pytest.raises(ValueError, match=text):
            dataset.register(name, mine)


OWN_FAULTS = {
    "floats": (
        {"train_images": np.zeros((6, 8, 8, 3))},
        "training images: float64 of shape (6, 8, 8, 3), wanted uint8",
    ),
    "no channel": (
        {"train_images": np.zeros((6, 8, 8), np.uint8)},
        "training images: uint8 of shape (6, 8, 8), wanted",
    ),
    "labels as floats": ({"test_labels": np.zeros(2)}, "test labels: float64 of shape (2,), wanted whole numbers"),
    "a gap": ({"train_labels": np.zeros(6, int)}, "no training image of class 1 (b)"),
}


@pytest.mark.parametrize("fault", OWN_FAULTS)
def test_what_a_function_returns_is_checked(fault):
    x = np.zeros((6, 8, 8, 3), np.uint8)
    whole = dataset.Dataset("mine", ("a", "b"), x, np.arange(6) % 2, x[:2], np.arange(2, dtype=np.uint8))
    assert dataset.checked(whole, "mine").test_labels.dtype == np.int64
    wrong, text = OWN_FAULTS[fault]
    refused("mine: ", lambda: dataset.checked(replace(whole, **wrong), "mine"), text)


# Training on them


@pytest.fixture
def pictures(tmp_path):
    return make_folder(tmp_path / "pictures", {"a": 20, "b": 20, "ü$_{": 14})


def on_photographs(pictures):
    return replace(SMALL, data="folder", data_dir=str(pictures), train_images=48, test_images=5, epochs=2, augment=True)


def test_a_folder_trains_and_resumes_to_the_same_bits_in_memory_read_per_batch_or_kept(tmp_path, monkeypatch, pictures):
    options = on_photographs(pictures)
    monkeypatch.setattr(loop, "load", dataset.load)
    loop.train(tmp_path / "memory", options)
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    for name in ("kept", "anew"):
        if name == "anew":
            monkeypatch.setattr(photographs, "scratch", lambda shape: None)
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            stop_after(patch, 4)  # in the second epoch
            loop.train(tmp_path / name, options)
        loop.train(tmp_path / name, options, resume=True)
        assert same_bits(weights_of(tmp_path / name), weights_of(tmp_path / "memory")), name
        assert timeless(tmp_path / name) == timeless(tmp_path / "memory")


def test_batches_that_begin_anew_after_a_stop_would_be_noticed(tmp_path, monkeypatch, pictures):
    """The planted fault of the test above: what was done before the stop is done again."""
    monkeypatch.setattr(loop, "islice", lambda order, start, stop: list(order)[: 3 - start])
    with pytest.raises(AssertionError):
        test_a_folder_trains_and_resumes_to_the_same_bits_in_memory_read_per_batch_or_kept(
            tmp_path, monkeypatch, pictures
        )


def test_the_time_that_was_waited_for_photographs_is_said(tmp_path, monkeypatch, capsys, pictures):
    monkeypatch.setattr(loop, "load", dataset.load)
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    loop.train(tmp_path / "run", on_photographs(pictures))
    said = re.findall(r"photographs: the epoch waited (\d+\.\d\d) s for them, \d+\.\d% of it", capsys.readouterr().err)
    assert len(said) == 2


def test_digits_are_never_mirrored_and_photographs_are(tmp_path, monkeypatch, pictures):
    found = {}
    for name, where in (("mnist", make_idx(tmp_path)), ("folder", pictures)):
        options = replace(on_photographs(pictures), data=name, data_dir=str(where), train_images=20, batch_size=10)
        options = replace(options, model="inception_v1_cifar", width=1 / 16, ema=0.0)
        run = loop.Run(tmp_path / name, options, True)
        found[name] = run.mirrored(np.arange(5))
    assert found["folder"] is None and found["mnist"].tolist() == [False] * 5


WORDS = ["--model", "inception_v1_cifar", "--width", "0.0625", "--epochs", "1", "--batch-size", "8", "--no-aux"]


@pytest.mark.parametrize("kind", ["mnist", "npz", "folder", "own"])
def test_training_evaluation_and_prediction_take_classes_and_channels_from_the_data(
    tmp_path, monkeypatch, pictures, own, kind
):
    from small_runs import DRAW

    monkeypatch.setattr(loop.Run, "draw", DRAW)
    monkeypatch.setattr(loop, "load", dataset.load)
    x, y = numbers.integers(0, 256, (40, 32, 32), np.uint8), np.arange(40) % 4
    places = {
        "mnist": (["mnist", "--data-dir", str(make_idx(tmp_path))], 1, 10),
        "npz": (["npz", "--data-dir", str(saved(tmp_path / "a.npz", images=x, labels=y))], 1, 4),
        "folder": (["folder", "--data-dir", str(pictures)], 3, 3),
        "own": ([f"{own}:stripes"], 1, 2),
    }
    words, channels, classes = places[kind]
    folder = tmp_path / "run"
    train = ["--data", *words, "--output", str(folder)]
    code, printed = command("train", *train, *WORDS)
    assert code == 0 and "predictions.png" in printed and "confusion.png" in printed and "filters.png" in printed
    checkpoint = folder / "checkpoint.safetensors"
    net, about = read(checkpoint)
    assert net.image == (32, 32, channels) and net.num_classes == classes == len(about["classes"])
    assert len(about["preprocess"]["mean"]) == channels
    accuracy = timeless(folder)[-1]["test_accuracy"]
    if kind == "own":  # a file's word is not enough to run code
        with pytest.raises(UsageError, match=r"whose code would run; say --data .*my_data.py:stripes"):
            command("eval", str(checkpoint))
        with pytest.raises(UsageError, match=r"whose code would run; say --data .*my_data.py:stripes"):
            command("train", "--resume", "--output", str(folder))
        words = ["--data", *words]
    else:
        words = words[1:]
    code, printed = command("eval", str(checkpoint), *words)
    assert code == 0 and f"accuracy {accuracy:.2%} of " in printed
    Image.fromarray(x[0]).save(tmp_path / "x.png")
    code, printed = command("predict", str(checkpoint), str(tmp_path / "x.png"), "--top", "99")
    assert code == 0 and all(name in printed for name in about["classes"])
    code, _ = command("train", "--resume", *train)
    assert code == 0


def test_a_checkpoint_is_not_evaluated_on_other_classes_or_channels(tmp_path, monkeypatch, pictures):
    monkeypatch.setattr(loop, "load", dataset.load)
    command("train", "--data", "folder", "--data-dir", str(pictures), *WORDS, "--output", str(tmp_path / "run"))
    checkpoint = str(tmp_path / "run" / "checkpoint.safetensors")
    (pictures / "a").rename(pictures / "z")
    with pytest.raises(UsageError, match="has other classes than"):
        command("eval", checkpoint, "--data-dir", str(pictures))
    x, y = numbers.integers(0, 256, (40, 32, 32), np.uint8), np.arange(40) % 3
    grey = saved(tmp_path / "a.npz", images=x, labels=y, classes=read(checkpoint)[1]["classes"])
    with pytest.raises(UsageError, match="npz has 1 channels"):
        command("eval", checkpoint, "--data", "npz", "--data-dir", str(grey))

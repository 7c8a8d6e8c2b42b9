"""Compiled kernels on disk: whatever becomes of the files, a command works, to the same bits, and says so in a line."""

import errno
import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inception_np.backend.program import address
from inception_np.kernels.cpu import ahead, code_cache
from inception_np.kernels.cpu.elementwise import scale_rows
from inception_np.kernels.cpu.machine import Kernel

X = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
RIGHT = (X * np.float32(0.3)).tobytes()


def fresh(monkeypatch, folder):
    """As in a new process whose kernels are to be kept in `folder`."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
    code_cache.cache_folder.cache_clear()
    monkeypatch.setattr(code_cache._Told, "damaged", False)
    monkeypatch.setattr(code_cache._Told, "in_memory", False)
    monkeypatch.setattr(ahead.Second, "started", True)  # no second process puts kernels there too


@pytest.fixture(autouse=True)
def folders_are_forgotten():
    yield
    code_cache.cache_folder.cache_clear()


def works():
    """One kernel, compiled or loaded anew, gives the right bits."""
    y = np.zeros_like(X)
    Kernel(scale_rows.function)(address(X), 0, address(y), 0, 1, X.size, 0.3, parts=1)
    return y.tobytes() == RIGHT


def entries(folder):
    return sorted(p for p in folder.glob("compiled-*/*") if not p.name.startswith("."))


def cache_files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder with one kernel in it."""
    assert works()  # what steps through a program is compiled too, once in a process
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        fresh(patch, folder)
        assert works()
    assert [p.suffix for p in cache_files(folder)] == [".nbc", ".nbi"] and len(entries(folder)) == 1
    return folder


def cut(content, at):
    return content[:at]


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


def garble(content, at):
    return content[:at] + os.urandom(len(content) - at)


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("change, share", [(None, 0), (cut, 0.0), (cut, 0.3), (flip, 0.6)])
def test_a_damaged_file_is_thrown_away_and_made_again(tmp_path, monkeypatch, capsys, filled, ending, change, share):
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder)
    file = next(folder.rglob(f"*{ending}"))
    if change is None:
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(change(content, int(len(content) * share)))
    fresh(monkeypatch, folder)
    assert works()
    assert capsys.readouterr().err.count("are damaged; thrown away and made again\n") == 1
    (entry,) = entries(folder)
    fresh(monkeypatch, folder)
    assert works() and entries(folder) == [entry]
    assert capsys.readouterr().err == ""


@pytest.mark.long
@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("change", [cut, flip, garble])
def test_damage_at_any_place_is_thrown_away(tmp_path, monkeypatch, capsys, filled, ending, change):
    for i in range(20):
        folder = tmp_path / str(i)
        folder.mkdir()
        test_a_damaged_file_is_thrown_away_and_made_again(folder, monkeypatch, capsys, filled, ending, change, i / 20)


def test_without_the_digest_a_flipped_bit_of_machine_code_gets_through(tmp_path, monkeypatch, filled):
    """What the digest is for: Numba alone takes code as it comes. (The bit is in a name that nobody reads.)"""
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder)
    file = next(folder.rglob("*.nbc"))
    content = file.read_bytes()
    file.write_bytes(flip(content, content.rindex(b".symtab") + 1))
    entry = entries(folder)[0]
    monkeypatch.setattr(code_cache, "_digest", lambda folder: entry.suffix[1:])
    fresh(monkeypatch, folder)
    assert works() and file.read_bytes() != content and entries(folder) == [entry]


def test_a_kept_kernel_is_loaded_and_not_compiled_again(tmp_path, monkeypatch, filled):
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder)
    before = [(p, p.stat().st_mtime_ns) for p in cache_files(folder)]
    fresh(monkeypatch, folder)
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: pytest.fail("compiled again"))
    assert works() and [(p, p.stat().st_mtime_ns) for p in cache_files(folder)] == before


def test_a_kernel_whose_source_changed_is_compiled_again(tmp_path, monkeypatch, filled):
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder)
    source = Path(scale_rows.function.__code__.co_filename).read_bytes()
    name = code_cache._name(scale_rows.function)
    monkeypatch.setattr(code_cache.inspect, "getfile", lambda _: str(tmp_path / "changed.py"))
    (tmp_path / "changed.py").write_bytes(source + b"\n")
    assert code_cache._name(scale_rows.function) != name


def test_a_source_written_anew_with_the_same_content_is_compiled_beside_the_old_one(tmp_path, monkeypatch, capsys):
    """As after another checkout or install. Numba takes its file for another; the entry of the first stays whole."""
    source = tmp_path / "kernels_of_ours.py"
    source.write_text(
        "from inception_np.kernels.cpu.machine import kernel, unpack\n"
        "from inception_np.kernels.cpu.simd import load_int, store_int\n\n\n"
        "@kernel\ndef twice(part, parts, arguments):\n"
        '    (x,) = unpack(arguments, "q")\n    store_int(x, 2 * load_int(x))\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for seconds in (1_700_000_000, 1_700_000_000, 1_700_000_100):
        os.utime(source, (seconds, seconds))
        fresh(monkeypatch, tmp_path / "cache")
        sys.modules.pop("kernels_of_ours", None)
        x = np.array([21], np.int64)
        importlib.import_module("kernels_of_ours").twice(address(x), parts=1)
        assert x[0] == 42
        names.append([p.name for p in entries(tmp_path / "cache") if "twice" in p.name])
        assert all(p.suffix == f".{code_cache._digest(p)}" for p in entries(tmp_path / "cache"))
    assert names[0] == names[1] and len(names[0]) == 1 and len(names[2]) == 2
    assert "damaged" not in capsys.readouterr().err


# Kernels of several processes

ONE = """
import itertools, sys
import numpy as np
from inception_np.kernels.cpu import code_cache, implicit_gemm, patches
if sys.argv[1] != "apart":
    code_cache.FunctionIdentity._unique_ids = itertools.count(int(sys.argv[1]))
for kernel in sys.argv[2:]:
    module, name = kernel.split(".")
    getattr({"implicit_gemm": implicit_gemm, "patches": patches}[module], name).address
"""
ALL = """
import numpy as np
from inception_np.kernels import conv
from inception_np.kernels.cpu import conv as cpu_conv
rng = np.random.default_rng(0)
for kernel, channels, more, plane in ((1, 24, 40, (9, 7)), (3, 64, 64, (20, 21)), (5, 17, 33, (6, 9))):
    x = rng.standard_normal((3, *plane, channels)).astype(np.float32)
    w = rng.standard_normal((kernel, kernel, channels, more)).astype(np.float32)
    dy = rng.standard_normal((3, *plane, more)).astype(np.float32)
    p = kernel // 2
    where = (1, 1), ((p, p), (p, p)), (1, 1)
    wide = [a.astype(np.float64) for a in (x, w, dy)]
    dw, dw64 = np.zeros_like(w), np.zeros(w.shape)
    conv.conv2d_dw(x, dy, dw, *where, 1)
    conv.conv2d_dw(wide[0], wide[2], dw64, *where, 1)
    pairs = [
        (conv.conv2d(x, w, None, *where, 1), conv.conv2d(wide[0], wide[1], None, *where, 1)),
        (conv.conv2d_dx(dy, w, x.shape, *where, 1), conv.conv2d_dx(wide[2], wide[1], x.shape, *where, 1)),
        (dw, dw64),
    ]
    geometry = (kernel, kernel), (1, 1), (1, 1), where[1], channels, more, dy.shape
    form = cpu_conv.form_that_pays(*geometry, gradient=True)
    assert bool(form) == (kernel == 3)
    assert all(np.abs(a - b).max() < 1e-4 * np.abs(b).max() for a, b in pairs), "wrong numbers"
print("right")
"""
KERNELS = (
    "implicit_gemm.multiply",
    "implicit_gemm.multiply_transposed",
    "patches.convolve",
    "patches.filter_gradients",
    "patches.transform_filters",
)


def together(folder, first=None):
    """What a process says that loads kernels which others compiled, each in a process of its own.

    first: the number that each begins to count at, in place of a random one.
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "INCEPTION_NP_THREADS": "1"}
    for kernel in KERNELS:
        number = "apart" if first is None else str(first.get(kernel, 1))
        subprocess.run([sys.executable, "-c", ONE, number, kernel], check=True, env=environment, capture_output=True)
    assert len(entries(folder)) == len(KERNELS)
    done = subprocess.run([sys.executable, "-c", ALL], env=environment, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else done.stderr.splitlines()[-1]


@pytest.mark.long
def test_kernels_that_several_processes_compiled_are_right_together(tmp_path):
    assert together(tmp_path) == "right\n"


@pytest.mark.long
def test_kernels_whose_functions_were_numbered_alike_are_seen_to_be_wrong(tmp_path):
    """Tiles of several sizes have the numbers that those of another kernel have, one after the other.

    At which number that begins depends on how many functions each kernel is made of.
    """
    found = (together(tmp_path / str(n), {"implicit_gemm.multiply_transposed": n}) for n in (2, 3))
    assert any("wrong numbers" in said for said in found)


def test_two_processes_number_their_functions_apart(tmp_path):
    code = "from inception_np.kernels.cpu import code_cache as c; print(next(c.FunctionIdentity._unique_ids))"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    first, second = (int(run.stdout) for run in runs)
    assert abs(first - second) > 1_000_000 and min(first, second) > 1_000_000


def test_a_numba_that_counts_in_another_way_keeps_no_kernels(tmp_path, monkeypatch, capsys):
    assert code_cache.NUMBERED_APART
    monkeypatch.setattr(code_cache.FunctionIdentity, "_unique_ids", iter(range(9)))
    assert not code_cache.number_apart()
    monkeypatch.undo()
    fresh(monkeypatch, tmp_path)
    monkeypatch.setattr(code_cache, "NUMBERED_APART", False)
    assert works() and not list(tmp_path.iterdir())


# Disks that refuse


def refuse(number):
    def refusing(*_arguments, **_keywords):
        raise OSError(number, os.strerror(number))

    return refusing


@pytest.mark.parametrize(
    "where, number",
    [
        ("tempfile.mkdtemp", errno.EACCES),
        ("_save_index", errno.EROFS),
        ("_save_data", errno.ENOSPC),
        ("_open_for_write", errno.EDQUOT),
    ],
)
def test_a_write_that_fails_means_compiling_in_memory(tmp_path, monkeypatch, capsys, where, number):
    fresh(monkeypatch, tmp_path)
    place = where if "." in where else f"numba.core.caching.IndexDataCacheFile.{where}"
    monkeypatch.setattr(place, refuse(number))
    assert works() and works()
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and f"({os.strerror(number)}); compiling in memory" in errors, errors
    assert not cache_files(tmp_path) and not entries(tmp_path)


def mounted(folder, *options):
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *options, folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount")


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.parametrize("size", ["4k", "16k", "64k"])
def test_a_full_disk_means_compiling_in_memory(tmp_path, monkeypatch, capsys, filled, size):
    folder = tmp_path / "disk"
    mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "none")
    try:
        fresh(monkeypatch, folder)
        assert works() and works()
        errors = capsys.readouterr().err
        if not entries(folder):  # so large is the kernel
            assert errors.count("\n") == 1 and "compiling in memory" in errors and not cache_files(folder)
        assert size != "4k" or not entries(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_folder_that_cannot_be_written_any_more(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "disk"
    mounted(folder, "-t", "tmpfs", "none")
    try:
        fresh(monkeypatch, folder)
        assert code_cache.cache_folder() is not None
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        assert works() and works()
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and "(Read-only file system); compiling in memory" in errors
        fresh(monkeypatch, folder)  # and read-only from the start
        assert works() and code_cache.cache_folder() is None
    finally:
        subprocess.run(["umount", folder], check=True)


# Processes

PROCESS = """
import numpy as np
from inception_np.kernels.cpu.elementwise import scale_rows
from inception_np.backend.program import address
x, y = np.arange(9, dtype=np.float32), np.zeros(9, np.float32)
scale_rows(address(x), 0, address(y), 0, 1, 9, 0.5, parts=1)
print(y.sum())
"""


def process(folder):
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder), "INCEPTION_NP_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(child):
    output, errors = child.communicate(timeout=120)
    assert (child.returncode, output) == (0, "18.0\n"), errors
    return errors


def test_processes_that_compile_at_the_same_time_and_one_killed_among_them(tmp_path):
    killed, *children = [process(tmp_path) for _ in range(2)]
    while not list(tmp_path.glob("compiled-*/.*")) and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    children.append(process(tmp_path))
    for child in children:
        assert "damaged" not in finished(child)
    kept = entries(tmp_path)
    assert all(code_cache._digest(entry) == entry.suffix[1:] for entry in kept)
    assert len({entry.stem for entry in kept}) == 3  # scale_rows, and run and work of workers.py
    assert finished(process(tmp_path)) == "" and entries(tmp_path) == kept


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path, monkeypatch):
    fresh(monkeypatch, tmp_path)
    folder = code_cache.cache_folder()
    old, new = folder / ".old.x", folder / ".new.x"
    for left in (old, new):
        left.mkdir()
    os.utime(old, (time.time() - 4000,) * 2)
    code_cache.cache_folder.cache_clear()
    code_cache.cache_folder()
    assert new.exists() and not old.exists()

"""Compiled kernels on disk: a folder for each, made whole or not at all, whose name ends with the digest of its files.

Numba writes and reads the files, but does not check them: a file that was cut ends every later command, and one whose
bytes changed is machine code that computes something else. Here Numba compiles into a new folder of its own,
which is then renamed to

    <module>.<function>-<digest of its source, the processor, Numba's version>.<digest of the files in it>

so that a process killed while it compiles leaves no half entry, two that compile at the same time do not meet, and an
entry with a file that was cut, emptied or changed since no longer fits its name: it is thrown away and made again.
Where the disk is full or the folder cannot be written, kernels are compiled in memory. Either is one line on standard
error.

The digest guards against damage, not against an attacker who can write to the folder.

Kernels of one folder were compiled by several processes, as each was first needed, and are linked in one. Numba tells
functions of one name apart, such as the tiles of different sizes that register_tile.py makes, by a number that counts
from 1 in every process: two kernels from two processes may then hold different functions under one name, and the linker
takes the first for both. So the count begins at a random number here.
"""

import contextlib
import hashlib
import inspect
import itertools
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding
from numba.core.bytecode import FunctionIdentity

from . import ahead

HERE = Path(__file__).parent
SHARED = (  # what kernels elsewhere are made of, and how they are kept
    "machine.py",
    "compiler.py",
    "llvm.py",
    "simd.py",
    "register_tile.py",
    "panels.py",
    "winograd.py",
    "workers.py",
    "code_cache.py",
)
ABANDONED = 3600.0  # seconds after which the folder of a process that was killed while compiling is removed
config: Any = numba.config  # (its settings come from the environment, unseen by type checkers)


def number_apart() -> bool:
    """Begin Numba's count of functions at a random number; False for a Numba that counts in another way."""
    if not isinstance(getattr(FunctionIdentity, "_unique_ids", None), itertools.count):
        return False
    FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(6), "little"))
    return True


NUMBERED_APART = number_apart()


class _Told:
    """What this process has reported, each once."""

    damaged = in_memory = False


@cache
def cache_folder() -> Path | None:
    """The folder for compiled kernels, or None where nothing can or may be written: they then stay in memory."""
    if not NUMBERED_APART:
        return None
    digest = hashlib.sha256(f"{numba.__version__} {platform.python_version()} {_processor()}".encode())
    for name in SHARED:
        digest.update((HERE / name).read_bytes())
    name = f"compiled-{digest.hexdigest()[:12]}"
    if os.environ.get("NUMBA_CACHE_DIR"):
        places = [Path(os.environ["NUMBA_CACHE_DIR"])]
    else:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        places = [HERE / "__pycache__", Path(home) / "inception_np"]
    folder = next((place / name for place in places if _writable(place / name)), None)
    if folder is not None:
        _sweep(folder)
    return folder


def kept(function: Callable[..., Any], compiled: Callable[[bool], Any], variant: str = "") -> Any:
    """compiled(True) with Numba's cache in a folder of the function's own, or compiled(False), which keeps nothing.

    variant: a name for what is compiled, where the function makes code of several kinds. (Numba reads its setting while
    it decorates.)
    """
    folder, name = cache_folder(), _name(function, variant)
    if folder is None or name is None or _Told.in_memory:
        return compiled(False)
    ahead.wait_for(folder, name)
    for entry in folder.glob(f"{name}.*"):
        if entry.suffix == f".{_digest(entry)}":
            try:
                return _in_folder(entry, compiled)
            except Exception:  # whatever unpickling may raise
                pass
        if not _Told.damaged:
            _Told.damaged = True
            print(
                f"inception-np: compiled kernels in {folder} are damaged; thrown away and made again", file=sys.stderr
            )
        shutil.rmtree(entry, ignore_errors=True)
    ahead.start()
    made = None
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{name}.{os.getpid()}.", dir=folder))
        result = _in_folder(made, compiled)
    except (OSError, RuntimeError) as error:  # RuntimeError: Numba found the folder unwritable
        reason = getattr(error, "strerror", None) or "the folder cannot be written"
        _Told.in_memory = True
        print(
            f"inception-np: compiled kernels cannot be kept in {folder} ({reason}); compiling in memory, about 10 s",
            file=sys.stderr,
        )
        return compiled(False)
    else:
        with contextlib.suppress(OSError):
            made.rename(folder / f"{name}.{_digest(made)}")
        return result
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def begun(function: Callable[..., Any]) -> bool:
    """True where some process has compiled this function into the folder, or has begun to."""
    folder, name = cache_folder(), _name(function)
    return folder is not None and (any(folder.glob(f"{name}.*")) or any(folder.glob(f".{name}.*")))


def keeps() -> bool:
    """True while compiled kernels are kept on disk: until a write fails, which is reported."""
    return not _Told.in_memory


def _in_folder(folder: Path, compiled: Callable[[bool], Any]) -> Any:
    before = config.CACHE_DIR, getattr(config, "CACHE_LOCATOR_CLASSES", "")
    try:  # there and nowhere else: Numba would go on to folders of its own choice
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = str(folder), "UserProvidedCacheLocator"
        return compiled(True)
    finally:
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = before


def _name(function: Callable[..., Any], variant: str = "") -> str | None:
    """A function's name with a digest of the file that it stands in; None where there is no file.

    The file's place and time of writing count too: to Numba a file with another time is another one, and it would write
    into the entry of the first.
    """
    try:
        file = Path(inspect.getfile(function)).resolve()
        stamp = f"{file} {file.stat().st_mtime_ns} ".encode()
        digest = hashlib.sha256(stamp + file.read_bytes()).hexdigest()
    except (OSError, TypeError):
        return None
    plain = "".join(
        c if c.isalnum() or c in "._" else "-" for c in f"{function.__module__}.{function.__qualname__}{variant}"
    )
    return f"{plain.removeprefix('inception_np.kernels.cpu.')}-{digest[:12]}"


def _digest(entry: Path) -> str:
    """Of the names and contents of a folder's files; of nothing if one cannot be read."""
    digest = hashlib.sha256()
    try:
        for file in sorted(entry.rglob("*")):
            if file.is_file():
                content = file.read_bytes()
                digest.update(f"{file.relative_to(entry).as_posix()} {len(content)} ".encode() + content)
    except OSError:
        return ""
    return digest.hexdigest()[:32]


def _processor() -> str:
    """What Numba compiles for."""
    name: str = config.CPU_NAME or binding.get_host_cpu_name()
    try:
        return f"{name} {config.CPU_FEATURES or binding.get_host_cpu_features().flatten()}"
    except RuntimeError:  # LLVM does not know the features of some processors
        return name


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half compiled."""
    for left in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)

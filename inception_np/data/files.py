"""Every file that the package writes is written here.

A file is either the old one or the new one, also after a power cut: the new content is written to a temporary file in
the same folder and forced to the disk, which is then renamed to the old one's name (`os.replace` is atomic), and the
folder's entry is forced to the disk.
"""

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

Bytes = bytes | bytearray | memoryview


def atomic_write(path: str | os.PathLike[str], content: str | Bytes | Iterable[Bytes]) -> None:
    """Put `content` (text, bytes, or pieces of bytes one after the other) into `path`.

    Raises OSError of one line that names the path, the bytes needed and the bytes free; `path` then holds what it held
    before, and no temporary file is left.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode()
    pieces = [content] if isinstance(content, Bytes) else list(content)
    with _replacing(path, sum(map(_size, pieces))) as temporary:
        _write(temporary, pieces)


@contextlib.contextmanager
def _replacing(path: Path, needed: int) -> Iterator[Path]:
    """The block makes a temporary file of `needed` bytes, which then takes the place of `path`."""
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(error, path, needed) from error
        raise


def _write(path: Path, pieces: Iterable[Bytes]) -> None:
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _size(piece: Bytes) -> int:
    return piece.nbytes if isinstance(piece, memoryview) else len(piece)


def _cannot_write(error: OSError, path: Path, needed: int) -> OSError:
    reason = error.strerror or str(error)
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} are free"
    except OSError:
        free = "its folder cannot be read"
    return OSError(
        f"{path}: cannot be written ({reason}), {needed:,} bytes are needed and {free}; "
        "make room or name another folder"
    )


def scratch(shape: tuple[int, ...]) -> np.ndarray | None:
    """A uint8 array in a file without a name, which ends with the process; None where there is too little room for it.

    The system keeps in memory what of it is used, as long as there is memory. It lies in TMPDIR, or else in /var/tmp,
    which is on a disk where /tmp may be memory, and it takes at most half of what is free.
    """
    size = math.prod(shape)
    place = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else None)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            if shutil.disk_usage(place or tempfile.gettempdir()).free < 2 * size:
                return None
            if hasattr(os, "posix_fallocate"):  # the room is taken now: a full disk would end the process later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)
    except OSError:
        return None


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there, and the rename is journalled
        return
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make the folder and those above it. Raises OSError of one line that names it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{path}: cannot be made ({reason}); name another folder") from error
    return path


def keep_as(path: Path, other: Path) -> None:
    """Let `other` be a second name of the file `path`, so that replacing `path` keeps it.

    Raises OSError as `atomic_write` does; `other` is then what it was.
    """
    if other.exists() and os.path.samefile(path, other):
        return  # a rename of one name of a file over another name of it does nothing, and would leave both
    with _replacing(other, path.stat().st_size) as temporary:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            _write(temporary, [path.read_bytes()])


def sweep(folder: Path, own: Iterable[str] = ()) -> None:
    """Remove what killed processes left half written in `folder`.

    own: the names of files that only the caller writes, because it holds the folder's lock. Temporary files of those
    are removed in any case; those of other files if no process has the number of the one that wrote them.
    """
    own = set(own)
    for left in folder.glob(".*.tmp*"):
        name, _, process = left.name[1:].rpartition(".tmp")
        if process.isdecimal() and (name in own or not _alive(int(process))):
            with contextlib.suppress(OSError):
                left.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # OverflowError: no process can have such a number
        return False
    except OSError:
        return True
    return True


def _holder(file: TextIO) -> str:
    """The process that holds the lock. It writes its number once it has the lock; before that an older one stands."""
    for _ in range(100):
        file.seek(0)
        holder = file.read(32).strip()
        if holder.isdigit() and _alive(int(holder)):
            return holder
        time.sleep(0.01)
    return "unknown"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. Raises OSError naming the process that holds it.

    The operating system drops the lock when its holder ends, however that happens: a lock file left behind locks
    nothing.
    """
    path = folder / "lock"
    try:
        import fcntl
    except ImportError:  # Windows: no such lock; two runs in one folder are then not caught
        yield
        return
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(
                f"{folder}: in use by process {_holder(file)}; wait for it, or name another folder"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)

"""Every byte that the package writes goes through here.

A file is either the old one or the new one, also after a power cut: the new content is written to
a file beside it and forced to the disk, the name is moved over (`os.replace` is atomic), and the
folder's entry is forced to the disk.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

Bytes = bytes | bytearray | memoryview


def atomic_write(path: str | os.PathLike, content: str | Bytes | Iterable[Bytes]) -> None:
    """Put `content` (text, bytes, or pieces of bytes one after the other) into `path`.

    Raises OSError of one line that names the path, the bytes needed and the bytes free; `path`
    then holds what it held before, and nothing is left beside it.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode()
    pieces = [content] if isinstance(content, Bytes) else list(content)
    beside = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise _explained(error, path, sum(map(_size, pieces))) from error
        raise


def _size(piece: Bytes) -> int:
    return piece.nbytes if isinstance(piece, memoryview) else len(piece)


def _explained(error: OSError, path: Path, needed: int) -> OSError:
    reason = error.strerror or str(error)
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} are free"
    except OSError:
        free = "its folder cannot be read"
    return OSError(
        f"{path}: cannot be written ({reason}), {needed:,} bytes are needed and {free}; "
        "make room or name another folder"
    )


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there, and the rename is journalled
        return
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def make_folder(path: str | os.PathLike) -> Path:
    """Make the folder and those above it. Raises OSError of one line that names it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{path}: cannot be made ({reason}); name another folder") from error
    return path


def keep_as(path: Path, other: Path) -> None:
    """Let `other` be a second name of the file `path`, so that replacing `path` keeps it."""
    beside = other.with_name(f".{other.name}.tmp{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    try:
        os.link(path, beside)
    except OSError:  # a file system without links
        shutil.copyfile(path, beside)
    os.replace(beside, other)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written in `folder`."""
    for left in folder.glob(".*.tmp*"):
        process = left.name.rpartition(".tmp")[2]
        if process.isdigit() and not _alive(int(process)):
            with contextlib.suppress(OSError):
                left.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. Raises OSError naming the process that holds it.

    The operating system drops the lock when its holder ends, however that happens, so a lock
    file left behind stops nobody.
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
            file.seek(0)
            holder = file.read(32).strip() or "unknown"
            raise OSError(f"{folder}: in use by process {holder}; wait for it, or name another folder") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)

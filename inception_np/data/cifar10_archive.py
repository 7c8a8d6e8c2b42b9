"""CIFAR-10 as it is published: one archive of six files, downloaded once, and read without being unpacked."""

import gzip
import os
import tarfile
import zlib
from pathlib import Path

from .streams import say

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_BYTES = 170_052_171
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_FILES = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, the green and the blue plane
RECORDS = 10_000


def archive_files(path: Path) -> dict[str, tuple[bytes, str]]:
    """{name: (content, where it was found)} of the six files in the archive, whatever else is in it.

    Raises ValueError for an archive that is damaged, too large, or holds a link, a hole or a second copy of a file.
    """
    files: dict[str, tuple[bytes, str]] = {}
    passed = 0
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                passed += member.size
                if passed > 2 * CIFAR10_BYTES or member.offset > 2 * CIFAR10_BYTES:
                    raise ValueError(
                        f"{path}: {member.name!r} at byte {member.offset:,} makes it larger than "
                        f"CIFAR-10 is; fetch {CIFAR10_URL} again"
                    )
                folder, _, name = member.name.rpartition("/")
                if folder.removeprefix("./") != CIFAR10_FOLDER or name not in CIFAR10_FILES:
                    continue
                where = f"{path}: {name}"
                if not member.isreg() or member.issparse() or name in files:
                    raise ValueError(
                        f"{where}: at byte {member.offset:,} a link, a hole or a second copy, "
                        f"wanted one plain file; fetch {CIFAR10_URL} again"
                    )
                if member.size > RECORDS * RECORD:
                    raise ValueError(
                        f"{where}: {member.size:,} bytes at byte {member.offset_data:,}, wanted "
                        f"{RECORDS * RECORD:,}; fetch {CIFAR10_URL} again"
                    )
                content = archive.extractfile(member)
                assert content is not None  # it is a plain file
                files[name] = content.read(), where
            rest = len(stream.read(CIFAR10_BYTES))  # up to the end, where gzip's checksum is
            if rest == CIFAR10_BYTES:
                raise ValueError(f"{path}: larger than CIFAR-10 is; fetch {CIFAR10_URL} again")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path}: not a whole gzipped archive of {CIFAR10_BYTES:,} bytes "
            f"({path.stat().st_size:,} bytes; {error}); fetch {CIFAR10_URL} again"
        ) from error
    return files


def downloaded(url: str = CIFAR10_URL, folder: Path | None = None) -> Path:
    """The archive's path in the user's cache folder (or in `folder`); it is fetched if it is not there.

    Raises OSError where it cannot be fetched, and for other bytes than the official ones.
    """
    import pooch

    folder = Path(pooch.os_cache("inception_np")) if folder is None else folder
    if not (folder / CIFAR10_ARCHIVE).exists():
        say(f"fetching {url} ({CIFAR10_BYTES:,} bytes) into {folder}")
    try:
        found = pooch.retrieve(
            url, known_hash=f"sha256:{CIFAR10_SHA256}", fname=CIFAR10_ARCHIVE, path=folder, downloader=_fetch
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"cifar10: {url} could not be fetched ({reason}); fetch it with another machine, "
            f"put it into a folder, and give that as --data-dir (or put it into {folder})"
        ) from error
    return Path(found)


def _fetch(url: str, output_file: str | os.PathLike[str], _pooch: object) -> None:
    """Download at most as many bytes as the archive has. pooch checks the SHA-256 after this."""
    import urllib.request

    with urllib.request.urlopen(url, timeout=30) as answer, open(output_file, "wb") as file:
        size = 0
        while piece := answer.read(1 << 20):
            size += len(piece)
            if size > CIFAR10_BYTES:
                break
            file.write(piece)
    if size != CIFAR10_BYTES:
        more = "more than " if size > CIFAR10_BYTES else ""
        raise OSError(f"got {more}{min(size, CIFAR10_BYTES):,} bytes, wanted {CIFAR10_BYTES:,}")

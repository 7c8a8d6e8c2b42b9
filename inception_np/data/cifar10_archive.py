"""CIFAR-10 and CIFAR-100 as they are published: one archive each, downloaded once, and read without being unpacked."""

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .download import fetched

CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_FILES = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
PIXELS = 3 * 32 * 32  # the red, the green and the blue plane
RECORD = 1 + PIXELS  # after a label byte
RECORDS = 10_000


@dataclass(frozen=True)
class Layout:
    """How a set is published. files: its training files and then its test file, with the records of each.

    labels: what the bytes before a record's pixels are, with the number of classes; the last is what is learned.
    """

    name: str
    url: str
    bytes: int
    sha256: str
    folder: str
    python: tuple[str, str]  # the folder and a file of the version that is never read
    files: Mapping[str, int]
    labels: Mapping[str, int]

    @property
    def archive(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def record(self) -> int:
        return len(self.labels) + PIXELS


CIFAR10 = Layout(
    "CIFAR-10", f"https://www.cs.toronto.edu/~kriz/{CIFAR10_ARCHIVE}", 170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", CIFAR10_FOLDER,
    ("cifar-10-batches-py", "data_batch_1"), dict.fromkeys(CIFAR10_FILES, RECORDS), {"label": 10},
)  # fmt: skip
CIFAR100 = Layout(
    "CIFAR-100", "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", 168_513_733,
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec", "cifar-100-binary",
    ("cifar-100-python", "meta"), {"train.bin": 50_000, "test.bin": 10_000}, {"coarse label": 20, "label": 100},
)  # fmt: skip


def archive_files(path: Path, layout: Layout = CIFAR10) -> dict[str, tuple[bytes, str]]:
    """{name: (content, where it was found)} of the files in the archive, whatever else is in it.

    Raises ValueError for an archive that is damaged, too large, or holds a link, a hole or a second copy of a file.
    """
    files: dict[str, tuple[bytes, str]] = {}
    passed = 0
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                passed += member.size
                if passed > 2 * layout.bytes or member.offset > 2 * layout.bytes:
                    raise ValueError(
                        f"{path}: {member.name!r} at byte {member.offset:,} makes it larger than "
                        f"{layout.name} is; fetch {layout.url} again"
                    )
                folder, _, name = member.name.rpartition("/")
                if folder.removeprefix("./") != layout.folder or name not in layout.files:
                    continue
                where = f"{path}: {name}"
                if not member.isreg() or member.issparse() or name in files:
                    raise ValueError(
                        f"{where}: at byte {member.offset:,} a link, a hole or a second copy, "
                        f"wanted one plain file; fetch {layout.url} again"
                    )
                if member.size > layout.files[name] * layout.record:
                    raise ValueError(
                        f"{where}: {member.size:,} bytes at byte {member.offset_data:,}, wanted "
                        f"{layout.files[name] * layout.record:,}; fetch {layout.url} again"
                    )
                content = archive.extractfile(member)
                assert content is not None  # it is a plain file
                files[name] = content.read(), where
            rest = len(stream.read(layout.bytes))  # up to the end, where gzip's checksum is
            if rest == layout.bytes:
                raise ValueError(f"{path}: larger than {layout.name} is; fetch {layout.url} again")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path}: not a whole gzipped archive of {layout.bytes:,} bytes "
            f"({path.stat().st_size:,} bytes; {error}); fetch {layout.url} again"
        ) from error
    return files


def downloaded(layout: Layout = CIFAR10, folder: Path | None = None) -> Path:
    """The archive's path in the user's cache folder (or in `folder`); it is fetched if it is not there.

    Raises OSError where it cannot be fetched, and for other bytes than the official ones.
    """
    dataset = layout.name.replace("-", "").lower()
    return fetched(dataset, layout.url, layout.archive, layout.bytes, layout.sha256, folder)

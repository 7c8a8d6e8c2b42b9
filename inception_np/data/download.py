"""Files from the web, kept once in the user's cache folder: their size and SHA-256 are those written down here."""

import os
from functools import partial
from pathlib import Path

from .streams import say


def fetched(dataset: str, url: str, name: str, size: int, sha256: str, folder: Path | None = None) -> Path:
    """The path of a file in the user's cache folder (or in `folder`); it is fetched if it is not there.

    dataset: for whom, as errors call it. Raises OSError where it cannot be fetched, and for other bytes than the
    official ones.
    """
    import pooch

    folder = Path(pooch.os_cache("inception_np")) if folder is None else folder
    if not (folder / name).exists():
        say(f"fetching {url} ({size:,} bytes) into {folder}")
    try:
        get = partial(_fetch, size=size)
        found = pooch.retrieve(url, known_hash=f"sha256:{sha256}", fname=name, path=folder, downloader=get)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{dataset}: {url} could not be fetched ({reason}); fetch it with another machine, "
            f"put it into a folder, and give that as --data-dir (or put it into {folder})"
        ) from error
    return Path(found)


def _fetch(url: str, output_file: str | os.PathLike[str], _pooch: object, *, size: int) -> None:
    """Download at most `size` bytes. pooch checks the SHA-256 after this."""
    import urllib.request

    with urllib.request.urlopen(url, timeout=30) as answer, open(output_file, "wb") as file:
        come = 0
        while piece := answer.read(1 << 20):
            come += len(piece)
            if come > size:
                break
            file.write(piece)
    if come != size:
        more = "more than " if come > size else ""
        raise OSError(f"got {more}{min(come, size):,} bytes, wanted {size:,}")

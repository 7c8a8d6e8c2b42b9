"""What can go wrong for a user of the command line, and the exit code that each kind gets.

Everything else that a user can cause is a ValueError, TypeError or OSError of one line and ends
with exit code 1. Lines read `WHERE: WHAT; WHAT TO DO`.
"""

import errno


class UsageError(Exception):
    """The command was typed wrongly: an unknown name, options that exclude each other. Code 2."""


class RefusedError(Exception):
    """There is too little memory, or the device asked for is not there. Code 3."""


class StoppedError(Exception):
    """A signal ended the run after its state was saved. Code 128 + signal."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


def nearest(name: str, names: list[str]) -> str:
    """The end of an error line about a name that is not in `names`: the closest of those that are.

    >>> nearest("shapes", ["shapes10", "cifar10"])
    'the nearest is shapes10'
    """
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    if not close:
        return "choose from " + ", ".join(names)
    return "the nearest is " + close[0] if len(close) == 1 else "the nearest are " + ", ".join(close)


def explained(error: BaseException) -> str:
    """An error as one line. One of the system, "[Errno 13] Permission denied: 'a'", is put in our order, with advice.

    >>> explained(PermissionError(13, "Permission denied", "a"))
    'a: Permission denied; check who may read and write it, or name another place'
    """
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        where = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        advice = ADVICE.get(errno.errorcode.get(error.errno, ""), "check the path")
        return f"{where or 'the system'}: {error.strerror}; {advice}"
    return " ".join(str(error).split())


ACCESS = "check who may read and write it, or name another place"
ADVICE = {
    "EACCES": ACCESS,
    "EPERM": ACCESS,
    "EROFS": "name another place",
    "ENOSPC": "make room or name another place",
    "EDQUOT": "make room or name another place",
    "EMFILE": "close other files or raise the limit (ulimit -n)",
    "EIO": "the disk or the network may be failing",
}

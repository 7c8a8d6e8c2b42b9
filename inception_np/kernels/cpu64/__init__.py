"""The kernels of ../cpu for float64: the same files, imported once more under this name.

llvm.py sees by its name in which package it is, and says what a number is: its type, its size, how many fill a
register. A file that leaves these to it serves both; dispatch.py's `double` marks the kernels that do. Winograd's way
is left to float32, since its rounding errors are larger, and so are the moments, whose sums float32 makes in doubles.
"""

from pathlib import Path

from ..cpu import machine  # noqa: F401 (it starts the workers, which run both)

__path__ = [str(Path(__file__).parent.parent / "cpu")]

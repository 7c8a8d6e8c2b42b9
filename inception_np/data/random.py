"""Random numbers by address instead of by history.

Everything random in a run (the order of the images, their crops and flips, the dropout masks) is drawn from a stream of
its own, which is named by the seed, a purpose and a place in the run. A run can be taken up in its middle without saved
random states, and another device can make the same numbers in any order.

The generator is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): ten rounds of
multiply and xor turn a 256-bit counter and a 128-bit key into four words of 64 bits.

    key     = (seed, purpose)        the purpose's ASCII letters as one little-endian number
    counter = (block, a, b, c)       a, b, c: up to three numbers, e.g. the epoch and the step

As in NumPy, the first four words come from block 1, the next from block 2, and so on. `Generator.random()` takes one
word w and gives (w >> 11) / 2**53.
"""

import numpy as np


def stream(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """The generator of one purpose at one place of a run.

    purpose: 1 to 8 ASCII letters. where: at most three integers in [0, 2**64). Raises ValueError for anything else.

    >>> float(stream(0, "dropout", 3, 17).random()) == float(stream(0, "dropout", 3, 17).random())
    True
    """
    name = purpose.encode("ascii")
    if not 1 <= len(name) <= 8 or len(where) > 3:
        raise ValueError(
            f"stream: got the purpose {purpose!r} and {len(where)} numbers, wanted 1 to 8 letters and at most 3 numbers"
        )
    words = [seed, *where]
    if any(not 0 <= int(word) < 2**64 for word in words):
        raise ValueError(f"stream: got the numbers {words}, wanted integers in [0, 2**64)")
    key = np.array([seed, int.from_bytes(name, "little")], np.uint64)
    counter = np.zeros(4, np.uint64)
    counter[1 : 1 + len(where)] = where
    return np.random.Generator(np.random.Philox(key=key, counter=counter))

"""What the deck and the papers claim, and what a program finds: one row each.

A notebook computes a row's number and hands it to `claim` (slide.py), which refuses one that is not `found`. Where the
source is wrong, or nobody can reproduce it, `holds` is False and `note` says why. Where a program cannot compute a
claim, `found` is None and `note` says why not.
"""

from typing import Any, NamedTuple


class Claim(NamedTuple):
    """One claim. source: who says it, and where. says: what, in the source's figures. found: what the library
    computes: a number, a word, a truth value or a tuple of them. close: the relative error that is allowed."""

    source: str
    says: str
    found: Any
    close: float = 0.0
    holds: bool = True
    note: str = ""


# fmt: off
# Szegedy et al. 2015, Going Deeper with Convolutions, and the deck's slides about it
V1 = {
    "v1.1": Claim("deck, naive module", "the naive module costs 854M operations", 854_196_224),
    "v1.2": Claim("deck, module with reductions", "with reductions it costs 358M", 271_351_808, holds=False,
                  note="The six convolutions sum to 271M. 358M is 271.35M + 86.70M: the 3x3 is counted twice."),
    "v1.3": Claim("deck, both modules", "358M compared to 854M: 2.4 times less", 3.148, 1e-4, holds=False,
                  note="854.2M / 271.4M: the reductions save more than the deck says."),
    "v1.4": Claim("deck, naive module", "depth after concatenation can only grow", (672, 480),
                  note="256 channels become 672 in the naive module, and 480 in the one with reductions."),
}
# Ioffe & Szegedy 2015, Batch Normalization
BN: dict[str, Claim] = {}
# Szegedy et al. 2016, Rethinking the Inception Architecture
RETHINKING: dict[str, Claim] = {}
# Szegedy et al. 2017, Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning
V4: dict[str, Claim] = {}
RESNET: dict[str, Claim] = {}
# Chollet 2017, Xception
XCEPTION: dict[str, Claim] = {}
# fmt: on
CLAIMS: dict[str, Claim] = {**V1, **BN, **RETHINKING, **V4, **RESNET, **XCEPTION}

"""What the papers after GoogLeNet print of their networks, row by row; where a row cannot be right, what it comes to.

Sizes are (H, W, C). A row's `printed` is the paper's, its `output` what the operations of the row give.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of a table or one box of a figure: a stage, the output printed there and the true one."""

    name: str
    printed: tuple[int, int, int] | None  # None where the paper prints no size
    output: tuple[int, int, int]


def _row(name: str, printed: tuple[int, int, int] | None, output: tuple[int, int, int] | None = None) -> Row:
    return Row(name, printed, output or printed)  # type: ignore[arg-type]


# Ioffe & Szegedy 2015, "Batch Normalization", the appendix's table, for 224 x 224 x 3.
# - 3c and 4e have stride 2; printed are the height and width of their inputs.
# - By the filter columns, 4c gives 160 + 160 + 160 + 128 = 608 channels and 4d 96 + 192 + 192 + 128 = 608; then 4e,
#   192 + 256 + its input, gives 1056. A projection of 96 instead of 128 gives what is printed.
BN_INCEPTION = (
    _row("conv1", (112, 112, 64)),
    _row("pool1", (56, 56, 64)),
    _row("conv2", (56, 56, 192)),
    _row("pool2", (28, 28, 192)),
    _row("3a", (28, 28, 256)),
    _row("3b", (28, 28, 320)),
    _row("3c", (28, 28, 576), (14, 14, 576)),
    _row("4a", (14, 14, 576)),
    _row("4b", (14, 14, 576)),
    _row("4c", (14, 14, 576)),
    _row("4d", (14, 14, 576)),
    _row("4e", (14, 14, 1024), (7, 7, 1024)),
    _row("5a", (7, 7, 1024)),
    _row("5b", (7, 7, 1024)),
    _row("pool5", (1, 1, 1024)),
)
BN_INCEPTION_BY_COLUMNS = {"4c": (14, 14, 608), "4d": (14, 14, 608), "4e": (7, 7, 1056)}

# Section 4.2 counts 13.6 million parameters, and the appendix 25 % more than GoogLeNet's at 30 % more computation.
# Ours, with separable first convolutions in both: 11,168,384 weights against 6,991,272, and 1.9349 against 1.4987
# billion multiply-adds.
BN_INCEPTION_PRINTED_PARAMS = 13_600_000
BN_INCEPTION_MORE_COMPUTATION = 1.30

# Szegedy et al. 2015, "Rethinking", Table 1. It prints what goes into each row; here stands what goes into the next.
# - Only one convolution of the stem is said to be padded; the last one must be too, else 35 becomes 33.
RETHINKING = (
    _row("conv_1", (149, 149, 32)),
    _row("conv_2", (147, 147, 32)),
    _row("conv_3", (147, 147, 64)),
    _row("pool", (73, 73, 64)),
    _row("conv_4", (71, 71, 80)),
    _row("conv_5", (35, 35, 192)),
    _row("conv_6", (35, 35, 288)),
    _row("reduction_1", (17, 17, 768)),
    _row("reduction_2", (8, 8, 1280)),
    _row("fig7_2", (8, 8, 2048)),
    _row("pool_8x8", (1, 1, 2048)),
    _row("fc", (1, 1, 1000)),
)
RETHINKING_FEWER_PARAMS_THAN = 25_000_000  # the abstract; true without the auxiliary head
RETHINKING_OPERATIONS = 4.8e9  # Table 3 for the factorised network (the abstract says 5); the released one has 5.713e9

# Szegedy et al. 2016, figures 3 and 9
INCEPTION_V4 = (
    _row("Conv2d_1a", (149, 149, 32)),
    _row("Conv2d_2a", (147, 147, 32)),
    _row("Conv2d_2b", (147, 147, 64)),
    _row("Mixed_3a", (73, 73, 160)),
    _row("Mixed_4a", (71, 71, 192)),
    _row("Mixed_5a", (35, 35, 384)),
    _row("Mixed_5e", (35, 35, 384)),
    _row("Mixed_6a", (17, 17, 1024)),
    _row("Mixed_6h", (17, 17, 1024)),
    _row("Mixed_7a", (8, 8, 1536)),
    _row("Mixed_7d", (8, 8, 1536)),
)

# The same, figures 14 and 15. Figure 15 stands for both networks, its sizes are v1's.
INCEPTION_RESNET_V1 = (
    _row("Conv2d_1a", (149, 149, 32)),
    _row("Conv2d_2a", (147, 147, 32)),
    _row("Conv2d_2b", (147, 147, 64)),
    _row("MaxPool_3a", (73, 73, 64)),
    _row("Conv2d_3b", (73, 73, 80)),
    _row("Conv2d_4a", (71, 71, 192)),
    _row("Conv2d_4b", (35, 35, 256)),
    _row("block35_5", (35, 35, 256)),
    _row("Mixed_6a", (17, 17, 896)),
    _row("block17_10", (17, 17, 896)),
    _row("Mixed_7a", (8, 8, 1792)),
    _row("block8_5", (8, 8, 1792)),
)

# The same, figures 17 and 19: the channels that the filter expansions print. A sum with what Reduction-A and
# Reduction-B give, 384 + 384 + 384 and 384 + 288 + 320 + 1152, needs 1152 and 2144.
INCEPTION_RESNET_V2 = (
    _row("Mixed_5a", (35, 35, 384)),
    _row("block17_1", (17, 17, 1154), (17, 17, 1152)),
    _row("block8_1", (8, 8, 2048), (8, 8, 2144)),
)

# Chollet 2017, figure 5 and Table 3
XCEPTION = (_row("block4", (19, 19, 728)), _row("block12", (19, 19, 728)))
XCEPTION_PARAMS = 22_855_952
XCEPTION_INCEPTION_V3_PARAMS = 23_626_728  # no public Inception-v3 has this count; they have 23,834,568

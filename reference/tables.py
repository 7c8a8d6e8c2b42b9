"""The papers' tables as data: what they print, beside what their own rows come to.

Units: "K" of a printed parameter count is 1024 (it fits the rows that fit anything), "M" of a printed operation count
is 10^6 multiply-adds. `weights` and `macs` are counted from the row's filters: weights without biases, multiply-adds
of convolutions and linear layers for one image.
"""

# ruff: noqa: E501  (a row of a table is a line)

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of a table: its name, the output (H, W, C), what is printed, and what it comes to."""

    name: str
    kind: str
    output: tuple[int, int, int]
    depth: int  # layers with weights, one behind the other, as printed
    filters: tuple[int, ...]  # of a module: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj
    printed_params: str  # "" where the paper leaves the cell empty
    printed_ops: str
    weights: int
    biases: int
    macs: int


# Szegedy et al. 2014, "Going Deeper with Convolutions", Table 1: GoogLeNet for 224 x 224 x 3.
#
# Where our count and the printed one differ:
# - The first row's 2.7K and 34M are not those of a dense 7x7 convolution. They fit a separable one with depth
#   multiplier 8 (7*7*3*8 + 24*64 = 2,712 weights, 34.02M), which a later paper of the authors describes.
# - The printed parameters of 4a ... 5b fit no unit and no way of counting biases, 3b only one that rounds; 5a's
#   54M of operations go with its 1072K. All other operation counts agree (4a's is cut, not rounded), so the filters
#   are right and the parameter column is not.
# fmt: off
GOOGLENET = (
    Row("conv1",   "conv 7x7/2",        (112, 112,   64), 1, (),                             "2.7K",  "34M",      9_408,    64, 118_013_952),
    Row("pool1",   "max pool 3x3/2",    ( 56,  56,   64), 0, (),                             "",      "",             0,     0,           0),
    Row("conv2",   "conv 3x3/1",        ( 56,  56,  192), 2, ( 64, 192),                     "112K",  "360M",   114_688,   256, 359_661_568),
    Row("pool2",   "max pool 3x3/2",    ( 28,  28,  192), 0, (),                             "",      "",             0,     0,           0),
    Row("3a",      "inception",         ( 28,  28,  256), 2, ( 64,  96, 128,  16,  32,  32), "159K",  "128M",   163_328,   368, 128_049_152),
    Row("3b",      "inception",         ( 28,  28,  480), 2, (128, 128, 192,  32,  96,  64), "380K",  "304M",   388_096,   640, 304_267_264),
    Row("pool3",   "max pool 3x3/2",    ( 14,  14,  480), 0, (),                             "",      "",             0,     0,           0),
    Row("4a",      "inception",         ( 14,  14,  512), 2, (192,  96, 208,  16,  48,  64), "364K",  "73M",    375_552,   624,  73_608_192),
    Row("4b",      "inception",         ( 14,  14,  512), 2, (160, 112, 224,  24,  64,  64), "437K",  "88M",    448_512,   648,  87_908_352),
    Row("4c",      "inception",         ( 14,  14,  512), 2, (128, 128, 256,  24,  64,  64), "463K",  "100M",   509_440,   664,  99_850_240),
    Row("4d",      "inception",         ( 14,  14,  528), 2, (112, 144, 288,  32,  64,  64), "580K",  "119M",   604_672,   704, 118_515_712),
    Row("4e",      "inception",         ( 14,  14,  832), 2, (256, 160, 320,  32, 128, 128), "840K",  "170M",   867_328, 1_024, 169_996_288),
    Row("pool4",   "max pool 3x3/2",    (  7,   7,  832), 0, (),                             "",      "",             0,     0,           0),
    Row("5a",      "inception",         (  7,   7,  832), 2, (256, 160, 320,  32, 128, 128), "1072K", "54M",  1_042_432, 1_024,  51_079_168),
    Row("5b",      "inception",         (  7,   7, 1024), 2, (384, 192, 384,  48, 128, 128), "1388K", "71M",  1_442_816, 1_264,  70_697_984),
    Row("pool5",   "avg pool 7x7/1",    (  1,   1, 1024), 0, (),                             "",      "",             0,     0,           0),
    Row("dropout", "dropout (40%)",     (  1,   1, 1024), 0, (),                             "",      "",             0,     0,           0),
    Row("linear",  "linear",            (  1,   1, 1000), 1, (),                             "1000K", "1M",   1_024_000, 1_000,   1_024_000),
)
# fmt: on

# Section 5: the auxiliary heads, on the outputs of 4a and 4d, for 1000 classes: average pool 5x5/3, 1x1
# convolution of 128, linear to 1024, dropout of 70%, linear to the classes; 0.3 of their losses is added.
GOOGLENET_HEADS = {
    "4a": {"pooled": (4, 4, 512), "params": 3_188_840, "macs": 4_169_728},
    "4d": {"pooled": (4, 4, 528), "params": 3_190_888, "macs": 4_202_496},
}

GOOGLENET_PARAMS = 6_998_552  # weights and biases without the heads
GOOGLENET_PARAMS_WITH_HEADS = 13_378_280
GOOGLENET_MACS = 1_582_671_872

# The release in torchvision (googlenet): 3x3 kernels in the 5x5 branches, batch norm and no biases in the
# convolutions, no LRN, a 2x2 pool before 5a.
GOOGLENET_TORCHVISION_PARAMS = 6_624_904
GOOGLENET_TORCHVISION_PARAMS_WITH_HEADS = 13_004_888
GOOGLENET_TORCHVISION_MACS = 1_498_376_192

# For 32 x 32 images: conv1 3x3/1 and no first pool; by width (channels divided by 8 and by 4), 10 classes.
GOOGLENET_CIFAR = {
    1 / 8: {"params": 95_492, "params_heads": 21_332, "macs": 7_689_984},
    1 / 4: {"params": 377_126, "params_heads": 79_572, "macs": 30_315_008},
}

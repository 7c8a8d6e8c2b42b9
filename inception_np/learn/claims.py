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
RETHINKING: dict[str, Claim] = {
    "re.1": Claim("Rethinking, section 3", "two 3x3 for a 5x5 save 28%, 3x1 and 1x3 for a 3x3 33%, two 2x2 for it "
                  "11%; 1x7 and 7x1 for a 7x7 save 71.4% (1 - 2/n)", (0.28, 1 / 3, 1 / 9, 5 / 7), 1e-9,
                  note="For equally many channels everywhere."),
    "re.2": Claim("Rethinking, abstract", "less than 25 million parameters", (23_834_568, 27_161_264),
                  note="True without the auxiliary head, the first number; with it, as in training, it is 27.2 "
                  "million."),
    "re.3": Claim("Rethinking, abstract and Table 3", "5 billion multiply-adds (Table 3: 4.8)", 5_713_216_096,
                  holds=False, note="The released network at 299x299 costs 19% more than Table 3 says."),
    "re.4": Claim("Rethinking, Table 3 and conclusion", "2.5 times as expensive as GoogLeNet", 3.6099, 1e-4,
                  holds=False,
                  note="The paper divides 3.8 by 1.5 billion, the v2 rows of its Table 3; the released v3 is 3.6 "
                  "times as expensive as the dense GoogLeNet."),
    "re.5": Claim("Rethinking, section 6", "42 layers deep", (48, 48), holds=False,
                  note="The longest way through the released network, and through Table 1 to the letter."),
    "re.6": Claim("Rethinking, Table 1", "grids of 299, 149, 147, 73, 71, 35, 17, 8 and 1",
                  (299, 149, 147, 147, 73, 73, 71, 35, 17, 8, 1),
                  note="Stage by stage in the released network, whose 1x1 of 80 keeps 73."),
    "re.7": Claim("Rethinking, section 9", "151x151 with stride 1 costs the same as 299x299 with stride 2",
                  (5_713_216_096, 5_713_216_096)),
    "re.8": Claim("Rethinking, section 9", "79x79 without the first pool is slightly cheaper (within 1%)", -0.061526,
                  1e-4, holds=False, note="6.2% cheaper: the stem saves more than the grid of 36 for 35 costs."),
    "re.9": Claim("Rethinking, section 4", "the auxiliary head, a light one: multiply-adds and parameters",
                  (5_683_200, 3_326_696), note="0.10% of the multiply-adds, but 12.2% of the parameters in training."),
    "re.10": Claim("Rethinking, section 7",
                   "epsilon 0.1 and 1000 classes: targets 0.9001 and 0.0001, the smallest loss, the best gap of logits",
                   (0.9001, 0.0001, 1.014848, 9.1051), 1e-5),
    "re.11": Claim("Rethinking, section 7", "H(q', p) = (1 - eps) H(q, p) + eps H(u, p)", True,
                   note="To rounding, on random logits."),
    "re.12": Claim("Rethinking, section 7", "the gradient p - q' is between -1 and 1 and sums to 0", (True, True, True),
                   note="Equal to central differences of the loss, inside the bounds, sums to 0."),
    "re.13": Claim("Rethinking, section 8", "learning rate 0.045, times 0.94 every two epochs: at epoch 100", 0.0020399,
                   1e-4),
    "re.14": Claim("Rethinking, section 8", "gradient clipping with threshold 2.0", (2.0, 1.0), 1e-6,
                   note="The norms after clipping of a gradient of norm 50 and of one of norm 1."),
    "re.15": Claim("Rethinking, section 3.2", "a 1xn and an nx1 convolution cover n x n (here 7)", (7, 7, 1),
                   note="Rows and columns that one output sees, and the rank of the kernel that the pair is."),
    "re.16": Claim("Rethinking, section 3.1", "two 3x3 see 5x5, three see 7x7", (5, 7)),
    "re.17": Claim("Rethinking, figure 7", "the expanded filter bank gives 2048 channels", 2048),
    "re.18": Claim("Rethinking, figure 6", "1x7 and 7x1 make the 17x17 modules cheap: weights over those of the same "
                   "modules with full 7x7, for 128, 160 and 192 channels", (0.34956, 0.35116, 0.35583), 1e-4),
    "re.19": Claim("Rethinking, figure 9", "convolution, then pool, is 3 times more expensive", 4.0, 1e-9, holds=False,
                   note="Its own formulas, 2 d^2 k^2 and 2 (d/2)^2 k^2, differ by 4: to a quarter, not by a quarter."),
    "re.20": Claim("Rethinking, section 6",
                   "the stem's 7x7 is factorised into three 3x3 (weights of the 7x7, of the three)", (9408, 28_512),
                   note="On three input channels this saves nothing: it adds layers and weights."),
    "re.21": Claim("Rethinking, section 8", "RMSProp with decay 0.9 and epsilon 1.0: of a first gradient of 0.01, the "
                   "step over learning rate times gradient", 0.7255, 1e-3,
                   note="The root holds 0.9 + 1.0: with such an epsilon the method is SGD with another rate."),
    "re.22": Claim("Rethinking, Table 3",
                   "21.2% top-1 and 5.6% top-5 error; label smoothing gains 0.2%, BN-auxiliary 0.4%", None,
                   note="Takes ImageNet and 50 machines for weeks; no arithmetic can show it."),
}
# Szegedy et al. 2017, Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning
V4: dict[str, Claim] = {
    "v4.1": Claim("timm, TF-slim", "42,679,816 parameters (timm), and 42,648,232 without gamma (TF-slim)",
                  (42_679_816, 42_648_232), note="The paper prints no count."),
    "v4.2": Claim("Inception-v4, figures 3 to 9", "convolutions with batch norm, and channels that they normalise",
                  (149, 31_584)),
    "v4.3": Claim("timm", "12,253,974,624 multiply-adds", 12_253_974_624),
    "v4.4": Claim("Inception-v4, figures 3 and 9", "heights and channels of the stem's stages and of the five groups",
                  (149, 147, 147, 73, 71, 35, 35, 17, 17, 8, 8, 32, 32, 64, 160, 192, 384, 384, 1024, 1024, 1536,
                   1536)),
    "v4.5": Claim("TF-slim's test", "150x150 images end in 3x3x1536", (3, 3, 1536)),
    "v4.6": Claim("TF-slim's test", "350x400 images end in 9x11x1536", (9, 11, 1536)),
    "v4.7": Claim("Inception-v4, Table 1", "Reduction-A gives in + m + n channels", 1024),
    "v4.8": Claim("Inception-v4, figure 5", "1x7 and 7x1 cost 2/7 of a 7x7", 2 / 7, 1e-9),
    "v4.9": Claim("Inception-v4, figure 6", "a fork of 1x3 and 3x1 costs a third of a 3x3 with as many outputs", 1 / 3,
                  1e-9, note="384 channels in, 512 out: 589,824 weights for 1,769,472."),
    "v4.10": Claim("Inception-v4, figures 4 to 6", "parameters of a module A, B and C",
                   (317_632, 2_936_256, 4_553_088)),
    "v4.11": Claim("TF-slim's code", "an auxiliary head on the last 17x17 grid: its parameters", 3_359_464,
                   note="The paper has none."),
    "v4.12": Claim("TF-slim's code", "average pools divide by the pixels that are there: ones stay ones at the border",
                   True),
    "v4.13": Claim("Inception-v4, training",
                   "learning rate 0.045, times 0.94 every two epochs: at 10, 20, 50, 100, 160",
                   (0.033026, 0.024238, 0.009581, 0.0020399, 0.00031874), 1e-4),
    "v4.14": Claim("Inception-v4, figure 9", "dropout keeps 0.8, and the mean stays: mean out over mean in", 1.0, 0.01,
                   note="Over 200,000 ones; survivors are divided by 0.8."),
    "v4.15": Claim("Inception-v4, figures 3, 5, 6 and code",
                   "1xn before nx1 or after it: parameters, multiply-adds equal", (True, True),
                   note="Weights do not carry over from one order to the other."),
    "v4.16": Claim("Inception-v4, figure 3", "the stem's last 3x3 of 192 is printed without a stride", (69, 35),
                   holds=False, note="It would give a grid of 69 beside the pool's 35, and the two cannot be joined."),
    "v4.17": Claim("Inception-v4, figure 5", "the short tower prints 1x7 twice", (1, 13), holds=False,
                   note="Such a pair would see 1x13 pixels and not 7x7: a 1x7 and a 7x1 are meant."),
    "v4.18": Claim("Inception-v4, Tables 2 to 5", "20.0% top-1 and 5.0% top-5 error, 3.08% top-5 for an ensemble", None,
                   note="Takes ImageNet and 20 machines for weeks."),
}
RESNET: dict[str, Claim] = {
    "ir.1": Claim("timm; figures 10 to 19",
                  "parameters of v2 as released, of v1, and of v2 to the letter of the figures",
                  (55_843_464, 22_756_328, 32_433_928)),
    "ir.2": Claim("Keras", "55,873,736 parameters, of which 60,544 are not trained", (55_813_192, 60_544),
                  note="No gamma, and running averages counted."),
    "ir.3": Claim("timm; figures 10 to 19", "multiply-adds of the same three",
                  (13_155_794_016, 6_206_361_696, 9_257_953_632)),
    "ir.4": Claim("TF-slim's code", "heights and channels of v2's stages",
                  (149, 147, 147, 73, 73, 71, 35, 35, 35, 17, 17, 8, 8, 8, 32, 32, 64, 64, 80, 192, 192, 320, 320,
                   1088, 1088, 2080, 2080, 1536)),
    "ir.5": Claim("TF-slim's test", "150x150 images end in 3x3x1536", (3, 3, 1536)),
    "ir.6": Claim("TF-slim's test", "400x600 images end in 11x17x1536", (11, 17, 1536)),
    "ir.7": Claim("TF-slim's code", "parameters of a block A, B and C", (123_168, 1_126_784, 2_035_424)),
    "ir.8": Claim("Inception-ResNet, section 3.3", "with s = 0 a block is the identity", True,
                  note="Bit for bit, as what comes in is not negative."),
    "ir.9": Claim("Inception-ResNet, section 3.3",
                  "N residuals of variance 1 add to 1 + N s^2: 20 of them, s = 1 and 0.1", (21.0, 1.2), 0.03,
                  note="Measured behind 20 normalised convolutions with random weights."),
    "ir.10": Claim("Inception-ResNet, section 3.3", "the expansion's gradient scales with s (0.1, 0.17 and 0.2 over 1)",
                   (0.1, 0.17, 0.2), 1e-9),
    "ir.11": Claim("TF-slim's code", "the last block has no ReLU: negative numbers leave it", True),
    "ir.12": Claim("Inception-ResNet, figures 17 and 19", "the expansions have 1154 and 2048 filters", (1152, 2144),
                   holds=False, note="What they are added to has 384 + 384 + 384 and 384 + 288 + 320 + 1152 channels."),
    "ir.13": Claim("Inception-ResNet, section 3.2", "v1 costs about as much as Inception-v3", 1.0863, 1e-3),
    "ir.14": Claim("Inception-ResNet, section 3.2",
                   "v2 matches the cost of Inception-v4 (as released; figure 15's 5, 10, 5)", (1.0736, 0.7555), 1e-3,
                   note="True of the released depth; with the blocks that figure 15 prints it costs a quarter less."),
    "ir.15": Claim("TF-slim's code", "parameters of the auxiliary head", 3_367_656, note="The paper has none."),
    "ir.16": Claim("Inception-ResNet, section 3.3", "beyond 1000 filters unscaled networks die early in training", None,
                   note="Takes training at full width for tens of thousands of steps."),
    "ir.17": Claim("Inception-ResNet, results", "residual connections reach the same error in fewer steps", None,
                   note="Takes ImageNet; final accuracy, the paper says, follows the size of the network."),
}
# Chollet 2017, Xception
XCEPTION: dict[str, Claim] = {
    "x.1": Claim("Xception, Table 3", "22,855,952 parameters (Keras says 22,910,480)", (22_855_952, 22_910_480),
                 note="Keras adds batch norm's 54,528 running averages."),
    "x.2": Claim("timm", "8,357,403,496 multiply-adds", 8_357_403_496),
    "x.3": Claim("Xception, figure 5", "heights and channels after blocks 1 to 4, 12, 13 and 14",
                 (147, 74, 37, 19, 19, 10, 10, 64, 128, 256, 728, 728, 1024, 2048)),
    "x.4": Claim("Xception, section 3", "36 convolutions: separable, regular; and shortcuts, batch norms",
                 (34, 2, 4, 40)),
    "x.5": Claim("Xception, section 1.2",
                 "a separable 3x3 of 728 channels: weights, and their share of a regular one's", (536_536, 0.1124847),
                 1e-6, note="1/728 + 1/9."),
    "x.6": Claim("Xception, figure 5", "parameters and multiply-adds of a middle block", (1_613_976, 581_068_488)),
    "x.7": Claim("Xception, section 1.2", "a separable convolution is the full one with W[i,j,c,o] = D[i,j,c] P[c,o]",
                 True, note="To rounding in double precision."),
    "x.8": Claim("Xception, figures 2 and 3", "towers of 1x1 and 3x3 are one 1x1 and a grouped 3x3", True,
                 note="In double precision, to rounding: the products are the same."),
    "x.9": Claim("Xception, section 1.1", "a spectrum: C^2 + 9 C^2 / g weights for g = 1, 2, 4, 8, 28, 91, 364, 728",
                 (5_299_840, 2_914_912, 1_722_448, 1_126_216, 700_336, 582_400, 543_088, 536_536)),
    "x.10": Claim("Xception, section 1.1",
                  "one group is the regular convolution, a group per channel the depthwise one", (True, True)),
    "x.11": Claim("Xception, section 1.2",
                  "with a ReLU in between, the pair is not linear: f(x) + f(-x) is 0 without, and not with",
                  (True, True)),
    "x.12": Claim("Xception, figure 5", "a middle block whose last gamma is zero hands on its input", True,
                  note="Bit for bit."),
    "x.13": Claim("Keras's code", "no ReLU after the sum: negative numbers pass a block", True),
    "x.14": Claim("Xception, Table 3", "as many parameters as Inception-v3, within 3.5%", (0.03262, 0.04106), 1e-3,
                  note="Against the 23,626,728 that Table 3 prints for Inception-v3. No public one has that count: "
                  "against the released 23,834,568 it is 4.1%."),
    "x.15": Claim("Keras's code", "pads of the four pools, before and after: planes of 147, 74, 37, 19",
                  ((1, 1), (0, 1), (1, 1), (1, 1)),
                  note="PyTorch's ports pad 1 and 1: the pool of 74 looks elsewhere."),
    "x.16": Claim("Xception, section 4", "learning rate 0.045, times 0.94 every two epochs: at epoch 100", 0.0020399,
                  1e-4),
    "x.17": Claim("Xception, Table 2", "on JFT 4.3% better than Inception-v3", None,
                  note="6.78 / 6.50 is 1.043, but the two numbers come from data that only Google has."),
    "x.18": Claim("Xception, figures 9 and 10", "residual connections help; a ReLU between the two steps hurts", None,
                  note="Takes training on ImageNet. create_model has both switches."),
}
# What the deck says of these papers
DECK_LATER: dict[str, Claim] = {
    "deck.30": Claim("deck, V3", "7x7 becomes 1x7 and 7x1: faster, deeper, more nonlinear (cost, depth, ReLUs)",
                     (2 / 7, 2, 2), 1e-9,
                     note="True of the modules. The stem's 7x7 is another one: it becomes three 3x3."),
    "deck.31": Claim("deck, V3", "3x3 likewise becomes 1x3, 3x1: the two follow one another", (1, 2), holds=False,
                     note="In the 8x8 modules they stand side by side (depth 1, two branches), and are joined."),
    "deck.32": Claim("deck, V3", "the input changes from 224x224 to 299x299", (224, 299)),
    "deck.33": Claim("deck, V2", "5x5 becomes two 3x3 (5x5 kernels in v2's modules, in the released v3's)", (0, 3),
                     note="True of v2; the released v3 keeps a real 5x5 in its 35x35 modules."),
    "deck.34": Claim("deck and Rethinking, Table 1", "35x35x192 becomes 35x35x288, and only the marked row is padded",
                     (33, 35), holds=False,
                     note="Unpadded it gives 33: this 3x3 has to be padded too, against the caption."),
    "deck.35": Claim("deck and Rethinking, Table 1", "3 x Inception on 35x35x288", (256, 288, 288), holds=False,
                     note="What the released modules give; the first one is narrower."),
    "deck.36": Claim("deck and Rethinking, Table 1", "5 x Inception on 17x17x768", (4, 1), holds=False,
                     note="Four modules, and the reduction before them is the fifth."),
    "deck.37": Claim("deck and Rethinking, Table 1", "conv 3x3/1 on 73x73x64, conv 3x3/2 on 71x71x80", (1, 1, 3, 1),
                     holds=False, note="Kernel and stride as released: a 1x1, then a 3x3 that keeps 71, then a pool."),
    "deck.38": Claim("deck, title", "Inception-RestNet", None, holds=False, note="Inception-ResNet is meant: a slip."),
    "deck.39": Claim("deck, V3", "(leaves out auxiliary head, label smoothing, RMSProp, the faster decay)", None,
                     note="Nothing to compute; the papers' own numbers of them are re.9 to re.14 and re.21."),
}
# fmt: on
CLAIMS: dict[str, Claim] = {**V1, **BN, **RETHINKING, **V4, **RESNET, **XCEPTION, **DECK_LATER}

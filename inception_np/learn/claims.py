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
    "v1.5": Claim("Going Deeper, section 4", "naive modules lead to a computational blow up within a few stages",
                  (416, 832, 1280, 1728, 2176, 2640, 3344, 4048, 4944, 12_568_061_056, 97_526_008),
                  note="Channels after 3a to 5b, then multiply-adds and parameters: 7.9 and 13.9 times GoogLeNet's."),
    "v1.6": Claim("Going Deeper, section 5", "22 layers deep, counting only layers with parameters", 22),
    "v1.7": Claim("Going Deeper, section 5", "27 layers, if we also count pooling", 27,
                  note="The four max pools between stages and the average pool; those inside modules are not counted."),
    "v1.8": Claim("Going Deeper, section 1", "1.5 billion multiply-adds at inference time",
                  (1_498_677_248, 1_582_671_872),
                  note="With a separable first convolution, which Table 1's first row fits, and with a dense one."),
    "v1.9": Claim("Going Deeper, Table 1", "the convolutions of the main network", 57,
                  note="3 in the stem and 6 in each of nine modules."),
    "v1.10": Claim("deck, GoogLeNet's table", "the output channels of the nine modules",
                   (256, 480, 512, 512, 512, 528, 832, 832, 1024)),
    "v1.11": Claim("Going Deeper, section 7", "4 x 3 x 6 x 2 = 144 crops per image", 144),
    "v1.12": Claim("Going Deeper, section 6", "the learning rate falls by 4% every 8 epochs", 0.2821, 1e-3,
                   note="What is left of it after 250 epochs, 31 falls."),
    "v1.13": Claim("Going Deeper, section 5", "the auxiliary head's 5x5 pool with stride 3 leaves 4x4", (4, 4)),
    "v1.14": Claim("Going Deeper, section 5", "the parameters of the two auxiliary heads", (3_188_840, 3_190_888),
                   note="On 4a and on 4d. Together 48% of what is trained, and 0.5% of the multiply-adds."),
    "v1.15": Claim("Going Deeper, section 5", "the heads' losses count 0.3 each: the first loss is 1.6 ln K",
                   (11.05, 3.684), 0.03, note="For 1000 classes and for 10, of logits that know nothing yet."),
    "v1.16": Claim("Going Deeper, section 3", "more filters in two chained layers: a quadratic increase of computation",
                   (4.0, 9.0, 16.0), note="The cost of a chain whose widths are doubled, tripled, quadrupled."),
    "v1.17": Claim("Going Deeper, section 1", "12 times fewer parameters than AlexNet", (8.711, 10.206), 1e-3,
                   holds=False, note="8.7 times, and 10.2 without GoogLeNet's classifier. 12 would be 60 million by "
                                     "5 million, a rounded number."),
    "v1.18": Claim("Going Deeper, section 7", "softmax probabilities are averaged over crops", 1.0, 1e-9,
                   note="The mean of probabilities sums to 1 again. It is not the softmax of the mean logits."),
}
# Ioffe & Szegedy 2015, Batch Normalization
BN = {
    "bn.1": Claim("BN paper, appendix, and deck", "the modules' channels: 256, 320, 576, 576, 576, 576, 576, 1024, "
                  "1024, 1024", (256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024), holds=False,
                  note="The printed filters give 608 in 4c and 4d, so 1056 in 4e. With projections of 96 in 4c and 4d "
                       "they give the printed channels. Public code goes both ways."),
    "bn.2": Claim("BN paper, appendix, and deck", "3c gives 28x28 and 4e gives 14x14", (14, 7), holds=False,
                  note="Both have stride 2. 28 and 14 are the sizes of their inputs."),
    "bn.3": Claim("BN paper, appendix", "30% more computation than GoogLeNet", (1.291, 1.276), 1e-3,
                  note="29% with separable first convolutions in both, 28% with dense ones."),
    "bn.4": Claim("BN paper, appendix", "25% more parameters than GoogLeNet", 1.597, 1e-3, holds=False,
                  note="The table's own filters have 60% more."),
    "bn.5": Claim("BN paper, section 4.2", "each 5x5 became two 3x3", (284_928, 57_050_112),
                  note="In GoogLeNet this alone adds 4.1% of weights and 3.6% of multiply-adds: the second 3x3 has as "
                       "many inputs as outputs. The rest of the 30% are wider rows and a tenth module."),
    "bn.6": Claim("BN paper, section 4.2", "13.6 million parameters", (11_188_288, 11_278_528, 17_681_464), holds=False,
                  note="With projections of 96, of 128, and Chainer's with two heads. None is 13.6 million."),
    "bn.7": Claim("BN paper, appendix", "9 weight layers deeper than GoogLeNet", (31, 34),
                  note="Nine modules gain one layer each: 22 + 9 = 31. The tenth, 3c, adds three: 34."),
    "bn.8": Claim("BN paper, appendix", "28x28 modules: 3 instead of 2", (2, 3),
                  note="Modules that read 28x28. The third, 3c, leaves 14x14."),
    "bn.9": Claim("BN paper, section 4.2.2", "14 times fewer steps", 14.76, 1e-3,
                  note="31.0M / 2.1M steps to 72.2%: BN-x5 against Inception."),
    "bn.10": Claim("BN paper, section 4.2.2", "74.8% with 5 times fewer steps", 5.17, 1e-3,
                   note="31M / 6M: BN-x30, which goes on to 74.8%, against Inception's 72.2%."),
    "bn.11": Claim("BN paper, section 4.2.2", "BN alone: less than half the steps", 0.429, 1e-3,
                   note="13.3M / 31.0M: BN-Baseline, with nothing changed but batch norm."),
    "bn.12": Claim("BN paper, section 4.2.2", "learning rates of 0.0075 and 0.045", (0.0075, 0.045), 1e-9,
                   note="5 and 30 times the 0.0015 of Inception."),
    "bn.13": Claim("BN paper, appendix", "a separable first convolution reduces the computation",
                   (0.7117, 118_013_952, 34_019_328), 1e-3,
                   note="It saves 71% of the weights, and 118M multiply-adds become 34M."),
    "bn.14": Claim("BN paper, section 3.3", "BN((aW)u) = BN(Wu), and dL/d(aW) = (1/a) dL/dW", True,
                   note="Equal up to eps, here 1e-12, in float64."),
    "bn.15": Claim("BN paper, Algorithm 1", "each channel has mean beta and variance gamma^2", True,
                   note="Exactly gamma^2 var / (var + eps): eps makes it a little less."),
    "bn.16": Claim("BN paper, section 3", "the gradient through BN: sum dx = 0, sum dx xhat = 0", True,
                   note="Per channel, the second as eps goes to 0. dx cannot shift or scale the batch."),
    "bn.17": Claim("BN paper, appendix", "the convolutions of BN-Inception", (69, 70),
                   note="1 + 2 + 8 modules of 7 + 2 of 5, which have no 1x1 and no projection. 70 with the depthwise "
                        "half of the first one."),
}
# The deck's other claims: 1 to 29 are those of its slides up to batch norm
DECK = {
    "deck.1": Claim("deck, motivation", "3x3xC to 3x3xC: C^2 computations", 9, holds=False,
                    note="Quadratic in C is right; a factor of 9 is missing: each position costs 9 C^2."),
    "deck.2": Claim("deck, motivation", "a larger number of parameters leads to overfitting", True,
                    note="Wide networks learn random labels by heart and know nothing about others."),
    "deck.3": Claim("deck, problems", "sparse matrix computation is very inefficient", True,
                    note="One multiply-add of a sparse product takes longer than one of a dense product."),
    "deck.4": Claim("deck, Arora et al. 2014", "sparse networks of denoising autoencoders are learnt in polynomial "
                    "time: yes", None,
                    note="A theorem about random networks, which no run proves. Above, its first step is at work."),
    "deck.5": Claim("deck, main idea", "layer by layer construction with correlation statistics", 24,
                    note="So many of 24 units are put with those that share their cause, from correlations alone."),
    "deck.6": Claim("deck, why Arora et al. is important", "training two layers and three nodes is NP-hard", None,
                    note="A theorem about all algorithms in the worst case; no program can run it."),
    "deck.7": Claim("deck, problems", "ConvNets changed back from sparse to full connections", None,
                    note="History. LeNet-5's C3 read 60 of 96 pairs of maps, which costs fewer products than all 96."),
    "deck.8": Claim("deck, naive module", "28x28x128x1x1x256 + 28x28x192x3x3x256 + 28x28x96x5x5x256",
                    (25_690_112, 346_816_512, 481_689_600)),
    "deck.9": Claim("deck, module with reductions", "six convolutions: 1x1 of 64 three times, 1x1 of 128, 3x3, 5x5",
                    (12_845_056, 12_845_056, 12_845_056, 25_690_112, 86_704_128, 120_422_400),
                    note="The terms are right; their sum is not (v1.2)."),
    "deck.10": Claim("deck, 1x1 conv", "each of 32 filters has size 1x1x64: a 64-dimensional dot product", (64, 2048),
                     note="Weights of one filter and of all."),
    "deck.11": Claim("deck, 1x1 conv", "preserves spatial dimensions, reduces depth", (56, 56, 32),
                     note="From 56x56x64."),
    "deck.12": Claim("deck, Conv = GLM", "a convolution is a generalised linear model of each window", True,
                     note="Equal to one linear layer on every window, laid flat."),
    "deck.13": Claim("deck, MLPConv = 1x1 conv", "the GLM is replaced with a micro network", True,
                     note="1x1 convolutions with ReLU are one small network of linear layers, run at every pixel."),
    "deck.14": Claim("deck, GoogLeNet's table", "the output sizes of 18 rows", 18,
                     note="All agree, because a pool's output size is rounded up. Rounded down, 112 would give 55."),
    "deck.15": Claim("deck, GoogLeNet's table", "the params column", ("conv1", "conv2", "3a", "fc"), holds=False,
                     note="The rows that the best rule explains: K = 1024, biases counted, digits cut, conv1 "
                          "separable. Eight rules were tried."),
    "deck.16": Claim("deck, GoogLeNet's table", "the params of 4a to 5b", ("4a", "4b", "4c", "4d", "4e", "5a", "5b"),
                     holds=False, note="The rows that none of the eight rules explains."),
    "deck.17": Claim("deck, GoogLeNet's table", "the ops column", ("4a", "5a"), holds=False,
                     note="The rows that differ. 4a's 73.6M was cut to 73M. 5a's 54M fits its wrong 1072K."),
    "deck.18": Claim("deck, GoogLeNet's table", "the 7x7 convolution: 2.7K parameters, 34M operations",
                     (9_408, 118_013_952, 2_712, 34_019_328), holds=False,
                     note="Dense, it has 9,408 weights and 118M operations; separable, with multiplier 8, 2,712 "
                          "and 34M."),
    "deck.19": Claim("deck, GoogLeNet's table", "dropout (40%) and a linear layer on 1x1x1024", (0.4, 1024, 1000)),
    "deck.20": Claim("deck, V2", "a 5x5 becomes two 3x3", (5, 0.72),
                     note="They see the same 5 pixels for 18/25 of the products, at equal widths."),
    "deck.21": Claim("deck, V2", "two 3x3 in place of a 5x5", True,
                     note="Without ReLU between them, two 3x3 are one 5x5, whose kernel is computed here."),
    "deck.22": Claim("deck, BN-Inception's table", "the second convolution has depth 1", 2, holds=False,
                     note="A 1x1 of 64 and a 3x3 of 192 are printed beside it. GoogLeNet's same row says 2."),
    "deck.23": Claim("deck, BN-Inception's table", "every module has depth 3", 3),
    "deck.24": Claim("deck, BN (1)", "layers of one scale allow a higher learning rate", True,
                     note="At 30 times the rate, the small net above learns with batch norm, and fails without."),
    "deck.25": Claim("deck, BN (2)", "dropout of 10%, 5% and 0% instead of 40% to 50%", (0.4, 0.0), holds=False,
                     note="The paper's BN-x5 and BN-x30 have none; 5% and 10% are members of its ensemble. GoogLeNet "
                          "has 40%; 50% is not in the papers."),
    "deck.26": Claim("deck, BN (3)", "L2 weight decay is reduced 5 times", None,
                     note="A setting of the paper's training. What can be computed: after batch norm, shrinking the "
                          "weights changes no output (bn.14)."),
    "deck.27": Claim("deck, BN (4)", "local response normalisation is removed", (2, 0),
                     note="LRN layers in GoogLeNet and in BN-Inception."),
    "deck.28": Claim("deck, BN (5)", "images are distorted less", None,
                     note="A setting of the paper's training, without a number."),
    "deck.29": Claim("deck, title slide", "Going Deeper with Convolution; Inception-RestNet", None, holds=False,
                     note="The papers: Going Deeper with Convolutions; Inception-ResNet."),
}
# Szegedy et al. 2016, Rethinking the Inception Architecture
RETHINKING: dict[str, Claim] = {}
# Szegedy et al. 2017, Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning
V4: dict[str, Claim] = {}
RESNET: dict[str, Claim] = {}
# Chollet 2017, Xception
XCEPTION: dict[str, Claim] = {}
# fmt: on
CLAIMS: dict[str, Claim] = {**V1, **BN, **DECK, **RETHINKING, **V4, **RESNET, **XCEPTION}

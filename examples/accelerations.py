"""The accelerations of the BN paper, together and one at a time: accuracy against training steps.

    python examples/accelerations.py [PICTURE.png]           on CIFAR-10 where INCEPTION_NP_DATA says it is, or shapes10
    python examples/accelerations.py --rates 0.003 0.01      the network without batch norm at other rates

Ioffe & Szegedy 2015, section 4.2: batch norm alone makes a network learn faster, but what it permits matters more: a
higher learning rate, no dropout, a fifth of the weight decay (L2), a rate that decays six times as fast, no LRN,
batches of other images in every epoch, less photometric distortion. Their figure 3 has the steps to what Inception
reaches:

                  steps to 72.2 %    factor    best
    Inception          31.0 M                 72.2 %
    BN-Baseline        13.3 M          2.3    72.7 %
    BN-x5               2.1 M         14.8    73.0 %
    BN-x30              2.7 M         11.5    74.8 %

Here GoogLeNet for 32x32 images, at an eighth of its width and without heads, on 5,000 images of shapes10, 1,248 steps
of 32 images by SGD with momentum. Inception has the best of four rates: 0.0015, 0.003, 0.006 and 0.01 reach 56.6, 67.2,
75.8 and 21.1 % (--rates). `python examples/accelerations.py` printed

                       best    steps to Inception  factor    steps to BN-Baseline
    Inception         75.8%                  1200     1.0                    1050
    BN-Baseline       64.1%                     -       -                    1200
    BN-x5             98.7%                   400     3.0                     350
    BN-x30            99.8%                   500     2.4                     450
    rate x5           99.7%                   500     2.4                     450
    no dropout        77.1%                  1200     1.0                    1000
    L2 / 5            63.7%                     -       -                       -
    decay x6          33.7%                     -       -                       -
    no LRN            62.7%                     -       -                       -
    reshuffled        70.8%                     -       -                    1100
    distortion / 2    73.6%                     -       -                    1050

As in the paper, the high rates win, x5 comes first and x30 gets further. Not as in the paper, batch norm at Inception's
rate is no faster in so few steps. Of the changes alone, the rate does nearly all; to forgo dropout, to see new batches
and to distort less help a little; weight decay and LRN do not show; and a rate that is low and decays quickly stops.

That is one seed, and differences of a few per cent may be chance. It took 7 minutes on two cores. The paper's fifth
network, with sigmoids, is left out: there is no such layer here.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from inception_np import set_num_threads
from inception_np.data.batches import batches
from inception_np.gradcheck.report import picture
from inception_np.training.loop import Run
from inception_np.training.options import resolve

# decays: how often in the run the rate is multiplied by GoogLeNet's 0.96. reshuffle: every epoch has batches of its
# own; without, the same images always meet, as in the paper they did that were in one file.
LR, L2, DECAYS = 0.006, 5e-4, 10  # LR: the best of --rates 0.0015 0.003 0.006 0.01
INCEPTION = {
    "lr": LR,
    "option": ("batch_norm=false", "dropout=0.4", "lrn=true"),
    "weight_decay": L2,
    "decays": DECAYS,
    "reshuffle": False,
    "distort": 1.0,
}
BASELINE = INCEPTION | {"option": ("batch_norm=true", "dropout=0.4", "lrn=true")}
ALONE = {
    "rate x5": {"lr": 5 * LR},
    "no dropout": {"option": ("batch_norm=true", "dropout=0", "lrn=true")},
    "L2 / 5": {"weight_decay": L2 / 5},
    "decay x6": {"decays": 6 * DECAYS},
    "no LRN": {"option": ("batch_norm=true", "dropout=0.4", "lrn=false")},
    "reshuffled": {"reshuffle": True},
    "distortion / 2": {"distort": 0.5},
}
TOGETHER = {
    "option": ("batch_norm=true", "dropout=0", "lrn=false"),
    "weight_decay": L2 / 5,
    "decays": 6 * DECAYS,
    "reshuffle": True,
    "distort": 0.5,
}
RUNS = {
    "Inception": INCEPTION,
    "BN-Baseline": BASELINE,
    "BN-x5": BASELINE | TOGETHER | {"lr": 5 * LR},
    "BN-x30": BASELINE | TOGETHER | {"lr": 30 * LR},
    **{name: BASELINE | change for name, change in ALONE.items()},
}


def curve(recipe, data, epochs, every):
    """[(steps, test accuracy of the averaged weights), ...] of a run; it ends where its loss is not finite."""
    recipe, points = dict(recipe), []
    reshuffle, decays = recipe.pop("reshuffle"), recipe.pop("decays")
    options = resolve(
        **data, **recipe, model="inception_v1_cifar", width=1 / 8, aux=False, optimizer="sgd", nesterov=False,
        momentum=0.9, batch_size=32, epochs=epochs, schedule="exponential", lr_factor=0.96, lr_every=epochs / decays,
        warm_up=0.0, clip=0.0, smoothing=0.0, ema=0.98,
    )  # fmt: skip
    run = Run(Path(tempfile.gettempdir()) / "accelerations", options, force=True)  # writes nothing
    for run.epoch in range(epochs):
        order = batches(options.train_images, options.batch_size, options.seed, run.epoch if reshuffle else 0)
        for run.step, index in enumerate(order):
            try:
                run.train_step(index)
            except ValueError:
                return points
            if (run.done + 1) % every == 0:
                with run.in_place():
                    points.append((run.done + 1, run.test()[0]))
    return points


def all_curves(recipes, **how):
    """The curves of these recipes by their names, each as soon as it is there; one process with one thread per core."""
    context = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=set_num_threads, initargs=(1,)) as pool:
        found = pool.map(partial(curve, **how), recipes.values())
        yield from zip(recipes, found, strict=True)


def best(points):
    return max((accuracy for _, accuracy in points), default=0.0)


def steps_to(points, accuracy):
    """The first step at which a curve is as high, or None."""
    return next((step for step, found in points if found >= accuracy), None)


def table(curves):
    """Its lines: as the paper's figure 3, and the steps to what BN-Baseline reaches."""
    yield f"{'':16} {'best':>7} {'steps to Inception':>21} {'factor':>7} {'steps to BN-Baseline':>23}"
    inception, baseline = curves["Inception"], curves["BN-Baseline"]
    first = steps_to(inception, best(inception))
    for name, points in curves.items():
        steps, others = steps_to(points, best(inception)), steps_to(points, best(baseline))
        factor = f"{first / steps:.1f}" if steps else "-"
        yield f"{name:16} {best(points):7.1%} {steps or '-':>21} {factor:>7} {others or '-':>23}"


def draw(curves, path, data):
    """Together on the left, each alone on the right."""
    figure, (left, right) = picture(f"Accelerations of batch-normalised networks, on {data}", columns=2)
    for ax, names, title in (
        (left, list(RUNS)[:4], "all together"),
        (right, ["BN-Baseline", *ALONE], "BN-Baseline, and one at a time"),
    ):
        for i, name in enumerate(names):
            style = "--k" if name == "Inception" else "-k" if name == "BN-Baseline" else f"-C{i}"
            ax.plot(*zip((0, 0.1), *curves[name], strict=True), style, lw=1.5, label=name)
        ax.set(xlabel="training steps", ylabel="test accuracy", title=title, ylim=(0, 1.02), xlim=(0, None))
        ax.grid(alpha=0.3)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, frameon=False)  # below: nothing is covered
    figure.savefig(path)


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", default="accelerations.png")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--every", type=int, default=50, help="steps between two tests")
    parser.add_argument("--rates", type=float, nargs="+", help="look for Inception's learning rate, and nothing else")
    asked = parser.parse_args(words)
    folder = os.environ.get("INCEPTION_NP_DATA")
    data = {"data": "cifar10", "data_dir": folder} if folder else {"data": "shapes10"}
    data |= {"train_images": asked.images, "test_images": asked.test_images}
    how = {"data": data, "epochs": asked.epochs, "every": asked.every}
    if asked.rates:
        for rate, points in all_curves({rate: INCEPTION | {"lr": rate} for rate in asked.rates}, **how):
            print(f"rate {rate}: best {best(points):.1%} after {steps_to(points, best(points))} steps", flush=True)
        return
    began, curves = time.perf_counter(), {}
    for name, points in all_curves(RUNS, **how):
        curves[name] = points
        print(f"{name}: {best(points):.1%}, after {time.perf_counter() - began:.0f} s", flush=True)
    print(*table(curves), sep="\n")
    draw(curves, asked.picture, data["data"])


if __name__ == "__main__":
    main()

"""The accelerations of the BN paper, together and one at a time: accuracy against training steps.

    python examples/accelerations.py [PICTURE.png]

Ioffe & Szegedy 2015, section 4.2.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from inception_np.data.batches import batches
from inception_np.gradcheck.report import picture
from inception_np.training.loop import Run
from inception_np.training.options import resolve

NETWORK = {"model": "inception_v1_cifar", "aux": False}
SGD = {"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "batch_size": 32, "warm_up": 0.0, "clip": 0.0}
L2, LR = 5e-4, 0.03  # LR: see --sweep
DECAYS = 20  # how often the rate is multiplied by 0.96
INCEPTION = {
    "lr": LR,
    "option": ("dropout=0.4", "lrn=true"),
    "weight_decay": L2,
    "decays": DECAYS,
    "reshuffle": False,
    "distort": 1.0,
}
BASELINE = INCEPTION | {"option": ("batch_norm=true", "dropout=0.4", "lrn=true")}
ONE_BY_ONE = {
    "rate x5": {"lr": 5 * LR},
    "no dropout": {"option": ("batch_norm=true", "dropout=0", "lrn=true")},
    "L2 / 5": {"weight_decay": L2 / 5},
    "decay x6": {"decays": 6 * DECAYS},
    "no LRN": {"option": ("batch_norm=true", "dropout=0.4", "lrn=false")},
    "new batches": {"reshuffle": True},
    "distortion / 2": {"distort": 0.5},
}
ALL = {
    "option": ("batch_norm=true", "dropout=0", "lrn=false"),
    "weight_decay": L2 / 5,
    "decays": 6 * DECAYS,
    "reshuffle": True,
    "distort": 0.5,
}
RUNS = {
    "Inception": INCEPTION,
    "BN-Baseline": BASELINE,
    "BN-x5": BASELINE | ALL | {"lr": 5 * LR},
    "BN-x30": BASELINE | ALL | {"lr": 30 * LR},
    **{name: BASELINE | change for name, change in ONE_BY_ONE.items()},
}


def curve(recipe, data, epochs, every):
    """(steps, test accuracy after so many) of a run. It ends where its loss is no longer finite."""
    recipe = dict(recipe)
    reshuffle, decays = recipe.pop("reshuffle"), recipe.pop("decays")
    schedule = {"schedule": "exponential", "lr_factor": 0.96, "lr_every": epochs / decays}
    options = resolve(**NETWORK, **SGD, **schedule, **data, **recipe, epochs=epochs, smoothing=0.0)
    points = []
    run = Run(Path(tempfile.gettempdir()) / "accelerations", options, force=False)
    for run.epoch in range(epochs):
        order = batches(options.train_images, options.batch_size, options.seed, run.epoch if reshuffle else 0)
        for run.step, index in enumerate(order):
            try:
                run.train_step(index)
            except ValueError as error:
                print(" ", error)
                return points
            if (run.done + 1) % every == 0:
                points.append((run.done + 1, run.test()[0]))
    return points

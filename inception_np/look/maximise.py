"""Which image is most of a class: gradient ascent on the pixels.

    x <- x + rate * g / rms(g),        g = d z_c / d x

z_c is the logit, not the probability, which rises as well when other classes fall (Simonyan et al. 2014, section 2).
The plain ascent finds noise that no photograph has: the strides of convolutions and pools favour some pixels over their
neighbours. What keeps it to images:

    jitter    each step sees the image shifted by some pixels, so that no pixel is favoured (Mordvintsev et al. 2015,
              "Inceptionism")
    blur      every few steps the image is blurred, which costs high frequencies more than the gradient gives them
              (Yosinski et al. 2015, "Understanding Neural Networks Through Deep Visualization", section 3)
    clip      pixels stay between black and white
"""

import numpy as np

from ..backend.arrays import Array
from ..layer import Layer
from .saliency import logit_gradient

BLUR_EVERY = 4  # steps
RATE = 0.5  # a pixel's mean move in the first step, in units of the standard deviation of pixels; falls to 0
PIXELS = 1 << 14  # in a batch: many small images, one large one


def maximise(
    net: Layer,
    classes: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    image: tuple[int, int, int],
    steps: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """An image of each class, (len(classes), H, W, C) float32, as the network takes them.

    bounds: black and white for each channel, on the scale of the network's input, (C,) each. image: (H, W, C).
    """
    together = max(1, PIXELS // (image[0] * image[1]))
    parts = [classes[i : i + together] for i in range(0, len(classes), together)]
    return np.concatenate([_ascend(net, part, bounds, image, steps, rng) for part in parts])


def _ascend(net: Layer, classes: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], image: tuple[int, int, int],
            steps: int, rng: np.random.Generator) -> np.ndarray:  # fmt: skip
    black, white = (np.asarray(b, np.float32) for b in bounds)
    grey = (black + white) / 2
    x = grey + 0.1 * rng.standard_normal((len(classes), *image)).astype(np.float32)
    jitter = max(1, min(image[:2]) // 16)
    for step in range(steps):
        shift = tuple(rng.integers(-jitter, jitter + 1, 2))
        g = np.roll(logit_gradient(net, np.roll(x, shift, (1, 2)), classes), (-shift[0], -shift[1]), (1, 2))
        rms = np.sqrt(np.mean(g * g, (1, 2, 3), keepdims=True))
        rate = np.float32(RATE * (1 - step / steps))
        x = np.clip(x + rate * g / (rms + np.float32(1e-12)), np.minimum(black, white), np.maximum(black, white))
        if step % BLUR_EVERY == BLUR_EVERY - 1 and step < 0.9 * steps:
            x = blur(x)
    return x


def blur(x: Array) -> Array:
    """Each pixel with its neighbours, 1/4 1/2 1/4 along the height and then the width; edges repeat. (N, H, W, C)."""
    for axis in (1, 2):
        wide = np.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(4)], mode="edge")
        n = x.shape[axis]
        before, after = (np.take(wide, range(start, start + n), axis) for start in (0, 2))
        x = (before + 2 * x + after) / 4
    return x

"""The arithmetic of windows: where a kernel, or a pool, looks.

A window of `size` taps, `dilation` apart, starts at i * stride - pad_before for output i. Along one axis, output
i and tap a meet the input at

    r = i * stride + a * dilation - pad_before

and where r is outside [0, n) there is padding. Everything here is about one axis, then about two.
"""

from collections.abc import Iterator


def same_pads(n: int, size: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's SAME: as many zeros as make ceil(n / stride) outputs, the odd one after."""
    out = -(-n // stride)
    total = max(0, (out - 1) * stride + (size - 1) * dilation + 1 - n)
    return total // 2, total - total // 2


def out_length(n: int, size: int, stride: int, pads: tuple[int, int], dilation: int = 1, ceil: bool = False) -> int:
    """How many windows there are, found by counting them.

    floor: those that end inside the padded input. ceil: those of the floor, and one more when they leave a part of
    the padded input unseen, provided that it starts inside the input or the padding before it (Caffe's rule,
    which PyTorch took over): a window over nothing but the padding after the input is not counted.
    """
    before, after = pads
    reach = (size - 1) * dilation + 1
    out = 0
    while out * stride + reach <= before + n + after:
        out += 1
    if ceil and out > 0:
        seen = (out - 1) * stride + reach
        if seen < before + n + after and out * stride < before + n:
            out += 1
    return out


def taps(n: int, out: int, size: int, stride: int, before: int, dilation: int = 1) -> Iterator[tuple[int, int, int]]:
    """Every (output i, tap a, input r) with r inside the input, along one axis, in row-major order."""
    for i in range(out):
        for a in range(size):
            r = i * stride + a * dilation - before
            if 0 <= r < n:
                yield i, a, r

"""Depthwise convolution for float32, one filter to a channel: no products are shared, so it is bound by memory.

A vector of channels walks along a row of pixels. For the 3x3 windows of stride 1 that Xception is made of, the nine
weights stay in registers and each pixel of x is read once for each of the three rows that it serves, with two sums
under way: a column of x ends the window of the pixel before, and begins that of the pixel after. Every other window
goes tap by tap. The gradient to x is the same convolution with the weights turned by 180 degrees where the stride is 1.

Such a walk steps from pixel to pixel, kilobytes at a time. A processor prefetches neighbours, not such steps, so that
every load would wait for memory. But the walks along one row together read all of it. So each step also prefetches one
line of the row after next, in the order in which the lines lie in memory; when the walks come to that row, it is in the
second-level cache.

Several filters to each of a few channels are an ordinary convolution whose weights are zero where the channels differ,
and go there: a few times the products, on a kernel that makes them many times as fast.
"""

import numpy as np

from ...backend.arrays import Array, Shape
from ...backend.program import address, empty, traced
from ..window import Pads, Pair, out_size
from .conv import conv2d, conv2d_dw, conv2d_dx
from .elementwise import add, cleared, copy
from .machine import contiguous, helper, kernel, unpack, zero_row
from .rows import channels_last, few_parts, in_rows, is_channels_last
from .simd import LANES, fetch, fma, load, splat, store

CHUNKS = 32  # ranges of rows whose sums are made apart and added in order
LINE = 64  # bytes of a cache line


@helper
def _rows_around(x1, xh, xw, p, H, zero_row):
    """The rows above and below row p and their steps: (x0, s0, x2, s2). Beyond the plane, zeros and no step."""
    x0, s0 = (x1 - xh, xw) if p > 0 else (zero_row, 0)
    x2, s2 = (x1 + xh, xw) if p < H - 1 else (zero_row, 0)
    return x0, s0, x2, s2


@helper
def _row_3x3(x0, x1, x2, s0, s1, s2, w, w_step, bias, y, y_step, W, add, n, soon_x, soon_y):
    """y[q] = the 3x3 sums along a row; x0, x1, x2: its three rows of x, s0..s2 their steps (0 for a row of zeros)."""
    zero = splat(np.float32(0))
    w0, w1, w2 = load(w, n), load(w + w_step, n), load(w + 2 * w_step, n)
    w3, w4, w5 = load(w + 3 * w_step, n), load(w + 4 * w_step, n), load(w + 5 * w_step, n)
    w6, w7, w8 = load(w + 6 * w_step, n), load(w + 7 * w_step, n), load(w + 8 * w_step, n)
    b = load(bias, n) if bias else zero
    before, here = zero, b  # the sums of the pixels left of this column, and at it
    for q in range(W):
        fetch(soon_x + LINE * q)
        fetch(soon_y + LINE * q)
        a0, a1, a2 = load(x0 + q * s0, n), load(x1 + q * s1, n), load(x2 + q * s2, n)
        if q > 0:
            v = fma(a2, w8, fma(a1, w5, fma(a0, w2, before)))
            if add:
                v = v + load(y + (q - 1) * y_step, n)
            store(y + (q - 1) * y_step, v, n)
        before = fma(a2, w7, fma(a1, w4, fma(a0, w1, here)))
        here = fma(a2, w6, fma(a1, w3, fma(a0, w0, b)))
    if add:
        before = before + load(y + (W - 1) * y_step, n)
    store(y + (W - 1) * y_step, before, n)


@kernel
def convolve_3x3(part, parts, arguments):
    """Stride 1, one pixel of padding on every side. Shared out: rows (n, p)."""
    x, xn, xh, xw, y, yn, yh, yw, N, H, W, C, w, bias, zeros, add = unpack(arguments, "q" * 16)
    for piece in range(N * H * part // parts, N * H * (part + 1) // parts):
        image, p = piece // H, piece % H
        x1, to = x + image * xn + p * xh, y + image * yn + p * yh
        x0, s0, x2, s2 = _rows_around(x1, xh, xw, p, H, zeros)
        soon_x, soon_y = x1 + 2 * xh, to + yh
        for c in range(0, 4 * C, 4 * LANES):
            b, n = bias + c if bias else 0, C - c // 4
            if n >= LANES:
                _row_3x3(x0 + c, x1 + c, x2 + c, s0, xw, s2, w + c, 4 * C, b, to + c, yw, W, add, LANES, soon_x, soon_y)
            else:
                _row_3x3(x0 + c, x1 + c, x2 + c, s0, xw, s2, w + c, 4 * C, b, to + c, yw, W, add, n, soon_x, soon_y)
            soon_x, soon_y = soon_x + LINE * W, soon_y + LINE * W


@kernel
def convolve_taps(part, parts, arguments):
    """Any window, tap by tap. Shared out: rows (n, p)."""
    (
        x, xn, xh, xw, H, W, y, yn, yh, yw, N, OH, OW, C, w, bias,
        kh, kw, stride_h, stride_w, dilation_h, dilation_w, top, left,
    ) = unpack(arguments, "q" * 24)  # fmt: skip
    for piece in range(N * OH * part // parts, N * OH * (part + 1) // parts):
        n, p = piece // OH, piece % OH
        for q in range(OW):
            for c in range(0, C, LANES):
                lanes = min(C - c, LANES)
                s = splat(np.float32(0))
                if bias:
                    s = load(bias + 4 * c, lanes)
                for i in range(kh):
                    h = p * stride_h + i * dilation_h - top
                    if h < 0 or h >= H:
                        continue
                    for j in range(kw):
                        k = q * stride_w + j * dilation_w - left
                        if k >= 0 and k < W:
                            v = load(x + n * xn + h * xh + k * xw + 4 * c, lanes)
                            s = fma(v, load(w + 4 * ((i * kw + j) * C + c), lanes), s)
                store(y + n * yn + p * yh + q * yw + 4 * c, s, lanes)


@kernel
def convolve_gradient(part, parts, arguments):
    """dx of any window: every pixel gathers from the windows it was in. Shared out: rows (n, h)."""
    (
        dy, dyn, dyh, dyw, OH, OW, dx, dxn, dxh, dxw, N, H, W, C, w,
        kh, kw, stride_h, stride_w, dilation_h, dilation_w, top, left, add,
    ) = unpack(arguments, "q" * 24)  # fmt: skip
    for piece in range(N * H * part // parts, N * H * (part + 1) // parts):
        n, h = piece // H, piece % H
        for k in range(W):
            to = dx + n * dxn + h * dxh + k * dxw
            for c in range(0, C, LANES):
                lanes = min(C - c, LANES)
                s = splat(np.float32(0))
                if add:
                    s = load(to + 4 * c, lanes)
                for i in range(kh):
                    p = h + top - i * dilation_h
                    if p < 0 or p % stride_h != 0 or p // stride_h >= OH:
                        continue
                    for j in range(kw):
                        q = k + left - j * dilation_w
                        if q >= 0 and q % stride_w == 0 and q // stride_w < OW:
                            at = dy + n * dyn + p // stride_h * dyh + q // stride_w * dyw + 4 * c
                            s = fma(load(at, lanes), load(w + 4 * ((i * kw + j) * C + c), lanes), s)
                store(to + 4 * c, s, lanes)


@helper
def _add_row_3x3(x0, x1, x2, s0, s1, s2, dy, dy_step, W, sums, step, n, soon_x, soon_dy):
    """The nine sums of dy * x, `step` bytes apart, grow by those along a row; x0..s2 as in `_row_3x3`."""
    a0, a1, a2 = load(sums, LANES), load(sums + step, LANES), load(sums + 2 * step, LANES)
    a3, a4, a5 = load(sums + 3 * step, LANES), load(sums + 4 * step, LANES), load(sums + 5 * step, LANES)
    a6, a7, a8 = load(sums + 6 * step, LANES), load(sums + 7 * step, LANES), load(sums + 8 * step, LANES)
    zero = splat(np.float32(0))
    before, here = zero, load(dy, n)
    for q in range(W):
        fetch(soon_x + LINE * q)
        fetch(soon_dy + LINE * q)
        after = zero
        if q + 1 < W:
            after = load(dy + (q + 1) * dy_step, n)
        v0, v1, v2 = load(x0 + q * s0, n), load(x1 + q * s1, n), load(x2 + q * s2, n)
        a0, a1, a2 = fma(v0, after, a0), fma(v0, here, a1), fma(v0, before, a2)
        a3, a4, a5 = fma(v1, after, a3), fma(v1, here, a4), fma(v1, before, a5)
        a6, a7, a8 = fma(v2, after, a6), fma(v2, here, a7), fma(v2, before, a8)
        before, here = here, after
    store(sums, a0, LANES)
    store(sums + step, a1, LANES)
    store(sums + 2 * step, a2, LANES)
    store(sums + 3 * step, a3, LANES)
    store(sums + 4 * step, a4, LANES)
    store(sums + 5 * step, a5, LANES)
    store(sums + 6 * step, a6, LANES)
    store(sums + 7 * step, a7, LANES)
    store(sums + 8 * step, a8, LANES)


@kernel
def weight_sums_3x3(part, parts, arguments):
    """For each chunk of rows (n, p), nine sums of dy * x for each channel, at sums + chunk * 9 * room floats."""
    x, xn, xh, xw, dy, dyn, dyh, dyw, N, H, W, C, chunks, sums, room, zeros = unpack(arguments, "q" * 16)
    zero = splat(np.float32(0))
    for chunk in range(chunks * part // parts, chunks * (part + 1) // parts):
        to = sums + 36 * chunk * room
        for i in range(0, 9 * room, LANES):
            store(to + 4 * i, zero, LANES)
        for row in range(N * H * chunk // chunks, N * H * (chunk + 1) // chunks):
            image, p = row // H, row % H
            x1, at = x + image * xn + p * xh, dy + image * dyn + p * dyh
            x0, s0, x2, s2 = _rows_around(x1, xh, xw, p, H, zeros)
            soon_x, soon_dy = x1 + 2 * xh, at + dyh
            for c in range(0, 4 * C, 4 * LANES):
                n = C - c // 4
                if n >= LANES:
                    _add_row_3x3(
                        x0 + c, x1 + c, x2 + c, s0, xw, s2, at + c, dyw, W, to + c, 4 * room, LANES, soon_x, soon_dy
                    )
                else:
                    _add_row_3x3(
                        x0 + c, x1 + c, x2 + c, s0, xw, s2, at + c, dyw, W, to + c, 4 * room, n, soon_x, soon_dy
                    )
                soon_x, soon_dy = soon_x + LINE * W, soon_dy + LINE * W


@kernel
def weight_sums(part, parts, arguments):
    """The same for any window, taps one after the other: at sums + chunk * taps * room floats."""
    (
        x, xn, xh, xw, H, W, dy, dyn, dyh, dyw, N, OH, OW, C, chunks, sums, room,
        kh, kw, stride_h, stride_w, dilation_h, dilation_w, top, left,
    ) = unpack(arguments, "q" * 25)  # fmt: skip
    V = room // LANES
    taps = kh * kw
    for piece in range(chunks * V * part // parts, chunks * V * (part + 1) // parts):
        chunk, c = piece // V, piece % V * 4 * LANES
        n = min(C - c // 4, LANES)
        for t in range(taps):
            i, j = t // kw, t % kw
            s = splat(np.float32(0))
            for row in range(N * OH * chunk // chunks, N * OH * (chunk + 1) // chunks):
                h = row % OH * stride_h + i * dilation_h - top
                if h < 0 or h >= H:
                    continue
                for q in range(OW):
                    k = q * stride_w + j * dilation_w - left
                    if k >= 0 and k < W:
                        d = load(dy + row // OH * dyn + row % OH * dyh + q * dyw + c, n)
                        s = fma(load(x + row // OH * xn + h * xh + k * xw + c, n), d, s)
            store(sums + 4 * (chunk * taps + t) * room + c, s, 16)


@kernel
def add_weight_sums(part, parts, arguments):
    """dw += the sums of all chunks, first to last."""
    sums, chunks, taps, room, dw, C = unpack(arguments, "qqqqqq")
    for t in range(taps * part // parts, taps * (part + 1) // parts):
        for c in range(0, C, LANES):
            n = min(C - c, LANES)
            s = load(dw + 4 * (t * C + c), n)
            for chunk in range(chunks):
                s = s + load(sums + 4 * ((chunk * taps + t) * room + c), 16)
            store(dw + 4 * (t * C + c), s, n)


# ---- shapes, in Python


def _slides(w: Array, stride: Pair, pads: Pads, dilation: Pair) -> bool:
    """True for the 3x3 window of stride 1 with a pixel of padding on every side."""
    return (*w.shape[:2], *stride, *dilation, *pads) == (3, 3, 1, 1, 1, 1, (1, 1), (1, 1))


def _window(w: Array, stride: Pair, dilation: Pair, pads: Pads) -> tuple[int, ...]:
    return *w.shape[:2], *stride, *dilation, pads[0][0], pads[1][0]


def _dense(w: Array) -> Array:
    """w (kh, kw, C, m) as the weights (kh, kw, C, C m) of an ordinary convolution."""
    w, (kh, kw, C, m) = contiguous(w), w.shape
    dense = cleared((kh, kw, C, C, m))
    for c in range(C):
        copy(w[:, :, c], dense[:, :, c, c])
    return dense.reshape(kh, kw, C, C * m)


@traced
@in_rows("out", is_channels_last)
def depthwise2d(
    x: Array, w: Array, bias: Array | None, stride: Pair, pads: Pads, dilation: Pair, out: Array | None
) -> Array:
    """Every pixel of x is read from memory once, though it serves a window's every tap."""
    if w.shape[3] > 1:
        return conv2d(x, _dense(w), bias, stride, pads, dilation, 1, False, out)
    out_hw = out_size(x.shape[1:3], w.shape[:2], stride, pads, dilation)
    y = empty((len(x), *out_hw, x.shape[3]), np.float32) if out is None else out
    x, w = channels_last(x), contiguous(w)
    bias = None if bias is None else contiguous(bias)
    b, C = 0 if bias is None else address(bias), x.shape[3]
    ys, parts = (address(y), *y.strides[:3]), few_parts(y.nbytes)
    if _slides(w, stride, pads, dilation):
        convolve_3x3(address(x), *x.strides[:3], *ys, *y.shape, address(w), b, zero_row(C), 0, parts=parts)
    else:
        convolve_taps(
            address(x), *x.strides[:3], *x.shape[1:3], *ys, *y.shape, address(w), b,
            *_window(w, stride, dilation, pads), parts=parts,
        )  # fmt: skip
    return y


@traced
@in_rows("into", is_channels_last)
def depthwise2d_dx(
    dy: Array, w: Array, x_shape: Shape, stride: Pair, pads: Pads, dilation: Pair, into: Array | None
) -> Array:
    """The same walk along rows, with the weights turned by 180 degrees where the stride is 1."""
    if w.shape[3] > 1:
        return conv2d_dx(dy, _dense(w), x_shape, stride, pads, dilation, 1, into)
    dx = empty(x_shape, np.float32) if into is None else into
    dy, adds = channels_last(dy), int(into is not None)
    dxs, parts = (address(dx), *dx.strides[:3]), few_parts(dx.nbytes)
    if _slides(w, stride, pads, dilation):
        turned = empty(w.shape, np.float32)
        copy(contiguous(w).reshape(9, -1)[::-1], turned.reshape(9, -1))
        convolve_3x3(
            address(dy), *dy.strides[:3], *dxs, *x_shape, address(turned), 0, zero_row(x_shape[3]), adds, parts=parts
        )
    else:
        w = contiguous(w)
        convolve_gradient(
            address(dy), *dy.strides[:3], *dy.shape[1:3], *dxs, *x_shape, address(w),
            *_window(w, stride, dilation, pads), adds, parts=parts,
        )  # fmt: skip
    return dx


@traced
@in_rows("dw", lambda dw: dw.shape[3] > 1 or dw.flags.c_contiguous)
def depthwise2d_dw(x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair) -> None:
    """Sums of ranges of rows, added in order: the same bits for any number of threads."""
    kh, kw, C, m = dw.shape
    if m > 1:
        dense = cleared((kh, kw, C, C * m))
        conv2d_dw(x, dy, dense, stride, pads, dilation, 1)
        for c in range(C):
            add(dw[:, :, c], dense[:, :, c, c * m : (c + 1) * m])
        return
    x, dy = channels_last(x), channels_last(dy)
    N, OH, OW, C = dy.shape
    taps, room, chunks = kh * kw, -(-C // LANES) * LANES, min(CHUNKS, N * OH)
    sums, parts = empty((chunks, taps, room), np.float32), few_parts(dy.nbytes)
    if _slides(dw, stride, pads, dilation):
        weight_sums_3x3(
            address(x), *x.strides[:3], address(dy), *dy.strides[:3], N, OH, OW, C, chunks,
            address(sums), room, zero_row(C), parts=parts,
        )  # fmt: skip
    else:
        weight_sums(
            address(x), *x.strides[:3], *x.shape[1:3], address(dy), *dy.strides[:3], N, OH, OW, C,
            chunks, address(sums), room, *_window(dw, stride, dilation, pads), parts=parts,
        )  # fmt: skip
    add_weight_sums(address(sums), chunks, taps, room, address(dw), C, parts=few_parts(sums.nbytes))

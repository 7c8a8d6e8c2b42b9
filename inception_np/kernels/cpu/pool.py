"""Pooling. The gradients gather: every pixel of dx looks up the windows it was in, and is written once."""

import numpy as np

from ...backend.arrays import Array, Shape
from ...backend.program import address, constant, empty, traced
from ..window import Pads, Pair, window_counts
from .llvm import NUMBER, SIZE
from .machine import constant_row, contiguous, helper, is_rows, kernel, row_step, unpack, zero_row
from .rows import channels_last, few_parts, in_rows, is_channels_last
from .simd import (
    LANES,
    fma,
    load,
    load_bytes,
    load_float,
    maximum,
    splat,
    splat_byte,
    store,
    store_bytes,
    vmax,
    where_equal,
    winner,
)


@helper
def _max(x, xh, xw, i0, i1, j0, j1, first_tap, size_w, y, winners, n):
    """A vector of channels of one window, rows i0..i1 and columns j0..j1 of x; first_tap: the number of (i0, j0)."""
    best = splat(NUMBER(-np.inf))
    who = splat_byte(first_tap)
    for i in range(i1 - i0):
        for j in range(j1 - j0):
            v = load(x + i * xh + j * xw, n)
            who = winner(v, best, splat_byte(first_tap + i * size_w + j), who)
            best = maximum(v, best)
    store(y, best, n)
    store_bytes(winners, who, n)


@kernel
def max_windows(part, parts, arguments):
    """y and the tap that won it, for rows (n, p) of the output."""
    (x, xn, xh, xw, H, W, y, yn, yh, yw, winners, N, OH, OW, C, size_h, size_w, stride_h, stride_w, top, left) = unpack(
        arguments, "q" * 21
    )
    whole = C // LANES * LANES
    for piece in range(N * OH * part // parts, N * OH * (part + 1) // parts):
        n, p = piece // OH, piece % OH
        h = p * stride_h - top
        i0, i1 = max(h, 0), min(h + size_h, H)
        for q in range(OW):
            w = q * stride_w - left
            j0, j1 = max(w, 0), min(w + size_w, W)
            tap = (i0 - h) * size_w + j0 - w
            at, to = x + n * xn + i0 * xh + j0 * xw, y + n * yn + p * yh + q * yw
            who = winners + (piece * OW + q) * C
            for c in range(0, whole, LANES):
                _max(at + SIZE * c, xh, xw, i0, i1, j0, j1, tap, size_w, to + SIZE * c, who + c, LANES)
            if whole < C:
                c = whole
                _max(at + SIZE * c, xh, xw, i0, i1, j0, j1, tap, size_w, to + SIZE * c, who + c, C - c)


@helper
def _max_gradient(dy, dyh, dyw, winners, wh, ww, p_count, q_count, tap, tap_h, tap_w, dx, add, n):
    """One vector of dx: over the windows (p, q) that held the pixel, dy of those it won.

    tap: the pixel's number in the first of them; it falls by tap_h from one row of windows to the next, tap_w along.
    """
    s = splat(NUMBER(0))
    for p in range(p_count):
        for q in range(q_count):
            who = load_bytes(winners + p * wh + q * ww, n)
            here = splat_byte(tap - p * tap_h - q * tap_w)
            s = s + where_equal(who, here, load(dy + p * dyh + q * dyw, n))
    if add:
        s = s + load(dx, n)
    store(dx, s, n)


@kernel
def max_windows_gradient(part, parts, arguments):
    """dx, for its rows (n, h)."""
    (
        dy, dyn, dyh, dyw, OH, OW, winners, dx, dxn, dxh, dxw, N, H, W, C,
        size_h, size_w, stride_h, stride_w, top, left, add,
    ) = unpack(arguments, "q" * 22)  # fmt: skip
    whole = C // LANES * LANES
    for piece in range(N * H * part // parts, N * H * (part + 1) // parts):
        n, h = piece // H, piece % H
        p0 = max(h + top - size_h + stride_h, 0) // stride_h
        p1 = min((h + top) // stride_h + 1, OH)
        for w in range(W):
            q0 = max(w + left - size_w + stride_w, 0) // stride_w
            q1 = min((w + left) // stride_w + 1, OW)
            tap = (h + top - p0 * stride_h) * size_w + w + left - q0 * stride_w
            at = dy + n * dyn + p0 * dyh + q0 * dyw
            who = winners + ((n * OH + p0) * OW + q0) * C
            to = dx + n * dxn + h * dxh + w * dxw
            for c in range(0, whole, LANES):
                _max_gradient(
                    at + SIZE * c, dyh, dyw, who + c, OW * C, C, p1 - p0, q1 - q0,
                    tap, stride_h * size_w, stride_w, to + SIZE * c, add, LANES,
                )  # fmt: skip
            if whole < C:
                c = whole
                _max_gradient(
                    at + SIZE * c, dyh, dyw, who + c, OW * C, C, p1 - p0, q1 - q0,
                    tap, stride_h * size_w, stride_w, to + SIZE * c, add, C - c,
                )  # fmt: skip


@helper
def _column_max(x, xh, rows, exists, n):
    """The largest of the rows of one column, for a vector of channels; minus infinity for a column of padding."""
    best = splat(NUMBER(-np.inf))
    if exists:
        for i in range(rows):
            best = maximum(load(x + i * xh, n), best)
    return best


@kernel
def max_values(part, parts, arguments):
    """y alone, for inference: columns of a window that the next one has too are looked at once, in windows 3 wide."""
    (x, xn, xh, xw, H, W, y, yn, yh, yw, N, OH, OW, C, size_h, size_w, stride_h, stride_w, top, left) = unpack(
        arguments, "q" * 20
    )
    for piece in range(N * OH * part // parts, N * OH * (part + 1) // parts):
        n, p = piece // OH, piece % OH
        h = p * stride_h - top
        i0 = max(h, 0)
        rows = min(h + size_h, H) - i0
        row, to = x + n * xn + i0 * xh, y + n * yn + p * yh
        for c in range(0, C, LANES):
            m = min(C - c, LANES)
            at = row + SIZE * c
            if size_w == 3 and stride_w <= 2:
                a = _column_max(at - left * xw, xh, rows, left == 0, m)
                b = _column_max(at + (1 - left) * xw, xh, rows, left <= 1 and 1 - left < W, m)
                for q in range(OW):
                    w = q * stride_w - left + 2
                    last = _column_max(at + w * xw, xh, rows, w >= 0 and w < W, m)
                    store(to + q * yw + SIZE * c, maximum(maximum(a, b), last), m)
                    a = b if stride_w == 1 else last
                    b = last
                    if stride_w == 2:
                        b = _column_max(at + (w + 1) * xw, xh, rows, w + 1 >= 0 and w + 1 < W, m)
            else:
                for q in range(OW):
                    w = q * stride_w - left
                    best = splat(NUMBER(-np.inf))
                    for j in range(max(w, 0), min(w + size_w, W)):
                        best = maximum(_column_max(at + j * xw, xh, rows, True, m), best)
                    store(to + q * yw + SIZE * c, best, m)


@helper
def _mean(x, xh, xw, rows, columns, share, y, bias, floor, n):
    s = splat(NUMBER(0))
    for i in range(rows):
        for j in range(columns):
            s = s + load(x + i * xh + j * xw, n)
    store(y, vmax(load(floor, n), fma(s, share, load(bias, n))), n)


@kernel
def mean_windows(part, parts, arguments):
    """y, for its rows (n, p). tall, wide: how many pixels count in each row and column of windows.

    bias is added to the mean, and floor is the least it may be (zeros and minus infinity where nothing is wanted).
    """
    (
        x, xn, xh, xw, H, W, y, yn, yh, yw, N, OH, OW, C,
        size_h, size_w, stride_h, stride_w, top, left, tall, wide, bias, floor,
    ) = unpack(arguments, "q" * 24)  # fmt: skip
    whole = C // LANES * LANES
    for piece in range(N * OH * part // parts, N * OH * (part + 1) // parts):
        n, p = piece // OH, piece % OH
        h = p * stride_h - top
        i0, i1 = max(h, 0), min(h + size_h, H)
        for q in range(OW):
            w = q * stride_w - left
            j0, j1 = max(w, 0), min(w + size_w, W)
            one = NUMBER(1)
            share = splat(one / (load_float(tall + SIZE * p) * load_float(wide + SIZE * q)))
            at, to = x + n * xn + i0 * xh + j0 * xw, y + n * yn + p * yh + q * yw
            for c in range(0, SIZE * whole, SIZE * LANES):
                _mean(at + c, xh, xw, i1 - i0, j1 - j0, share, to + c, bias + c, floor + c, LANES)
            if whole < C:
                c = SIZE * whole
                _mean(at + c, xh, xw, i1 - i0, j1 - j0, share, to + c, bias + c, floor + c, C - whole)


@helper
def _mean_gradient(dy, dyh, dyw, p_count, q_count, tall, wide, dx, add, n):
    s = splat(NUMBER(0))
    for p in range(p_count):
        for q in range(q_count):
            share = NUMBER(1) / (load_float(tall + SIZE * p) * load_float(wide + SIZE * q))
            s = fma(load(dy + p * dyh + q * dyw, n), splat(share), s)
    if add:
        s = s + load(dx, n)
    store(dx, s, n)


@kernel
def mean_windows_gradient(part, parts, arguments):
    """dx, for its rows (n, h)."""
    (
        dy, dyn, dyh, dyw, OH, OW, dx, dxn, dxh, dxw, N, H, W, C,
        size_h, size_w, stride_h, stride_w, top, left, tall, wide, add,
    ) = unpack(arguments, "q" * 23)  # fmt: skip
    whole = C // LANES * LANES
    for piece in range(N * H * part // parts, N * H * (part + 1) // parts):
        n, h = piece // H, piece % H
        p0 = max(h + top - size_h + stride_h, 0) // stride_h
        p1 = min((h + top) // stride_h + 1, OH)
        for w in range(W):
            q0 = max(w + left - size_w + stride_w, 0) // stride_w
            q1 = min((w + left) // stride_w + 1, OW)
            at, to = dy + n * dyn + p0 * dyh + q0 * dyw, dx + n * dxn + h * dxh + w * dxw
            ps, qs, t, u = p1 - p0, q1 - q0, tall + SIZE * p0, wide + SIZE * q0
            for c in range(0, SIZE * whole, SIZE * LANES):
                _mean_gradient(at + c, dyh, dyw, ps, qs, t, u, to + c, add, LANES)
            if whole < C:
                _mean_gradient(at + SIZE * whole, dyh, dyw, ps, qs, t, u, to + SIZE * whole, add, C - whole)


@kernel
def plane_means(part, parts, arguments):
    """y (N, C): the mean over the plane. Shared out: images by vectors of channels."""
    x, xn, xh, xw, N, H, W, C, y, y_step, share = unpack(arguments, "qqqqqqqqqqf")
    V = (C + LANES - 1) // LANES
    for piece in range(N * V * part // parts, N * V * (part + 1) // parts):
        n, c = piece // V, piece % V * LANES
        left = min(C - c, LANES)
        s = splat(NUMBER(0))
        for h in range(H):
            for w in range(W):
                s = s + load(x + n * xn + h * xh + w * xw + SIZE * c, left)
        store(y + n * y_step + SIZE * c, s * splat(share), left)


@kernel
def spread_means(part, parts, arguments):
    """dx: every pixel gets its image's dy (N, C) times `share`; or that is added to it."""
    dy, dy_step, dx, dxn, dxh, dxw, N, H, W, C, add, share = unpack(arguments, "qqqqqqqqqqqf")
    factor = splat(share)
    for piece in range(N * H * part // parts, N * H * (part + 1) // parts):
        n = piece // H
        row = dx + n * dxn + piece % H * dxh
        for w in range(W):
            for c in range(0, C, LANES):
                left = min(C - c, LANES)
                v = load(dy + n * dy_step + SIZE * c, left) * factor
                if add:
                    v = v + load(row + w * dxw + SIZE * c, left)
                store(row + w * dxw + SIZE * c, v, left)


# ---- shapes, in Python


@traced
@in_rows("out", is_channels_last)
def max_pool(x: Array, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, out: Array | None) -> tuple[Array, Array]:
    """Each window is looked at once, for y and for the tap that won."""
    y = empty((len(x), *out_hw, x.shape[3]), NUMBER) if out is None else out
    winners = empty(y.shape, np.uint8)
    x = channels_last(x)
    max_windows(
        address(x), *x.strides[:3], *x.shape[1:3], address(y), *y.strides[:3], address(winners),
        *y.shape, *size, *stride, pads[0][0], pads[1][0], parts=few_parts(x.nbytes),
    )  # fmt: skip
    return y, winners


@traced
@in_rows("into", is_channels_last)
def max_pool_dx(
    dy: Array, winners: Array, x_shape: Shape, size: Pair, stride: Pair, pads: Pads, into: Array | None
) -> Array:
    """No zeros are written first: every pixel of dx looks up the windows it was in."""
    dx = empty(x_shape, NUMBER) if into is None else into
    dy, winners = channels_last(dy), contiguous(winners)
    max_windows_gradient(
        address(dy), *dy.strides[:3], *dy.shape[1:3], address(winners), address(dx),
        *dx.strides[:3], *dx.shape, *size, *stride, pads[0][0], pads[1][0], int(into is not None),
        parts=few_parts(dx.nbytes),
    )  # fmt: skip
    return dx


@traced
@in_rows("out", is_channels_last)
def avg_pool(
    x: Array, size: Pair, stride: Pair, pads: Pads, out_hw: Pair, count_include_pad: bool, out: Array | None
) -> Array:
    """Each window is summed, divided and written in one go."""
    y = empty((len(x), *out_hw, x.shape[3]), NUMBER) if out is None else out
    average(x, size, stride, pads, count_include_pad, y)
    return y


def average(
    x: Array, size: Pair, stride: Pair, pads: Pads, count_include_pad: bool, y: Array, bias: int = 0, floor: int = 0
) -> None:
    """avg_pool to y, channels last; bias, floor: addresses of vectors for `mean_windows`, 0 for none."""
    x, C = channels_last(x), x.shape[3]
    tall, wide = _counts(x.shape[1:3], y.shape[1:3], size, stride, pads, count_include_pad)
    mean_windows(
        address(x), *x.strides[:3], *x.shape[1:3], address(y), *y.strides[:3], *y.shape, *size,
        *stride, pads[0][0], pads[1][0], address(tall), address(wide), bias or zero_row(C),
        floor or constant_row(-np.inf, C), parts=few_parts(x.nbytes),
    )  # fmt: skip


@traced
@in_rows("into", is_channels_last)
def avg_pool_dx(
    dy: Array, x_shape: Shape, size: Pair, stride: Pair, pads: Pads, count_include_pad: bool, into: Array | None
) -> Array:
    """As max_pool_dx: every pixel of dx looks up the windows it was in."""
    dx = empty(x_shape, NUMBER) if into is None else into
    dy = channels_last(dy)
    tall, wide = _counts(x_shape[1:3], dy.shape[1:3], size, stride, pads, count_include_pad)
    mean_windows_gradient(
        address(dy), *dy.strides[:3], *dy.shape[1:3], address(dx), *dx.strides[:3], *dx.shape,
        *size, *stride, pads[0][0], pads[1][0], address(tall), address(wide), int(into is not None),
        parts=few_parts(dx.nbytes),
    )  # fmt: skip
    return dx


def _counts(
    plane: Shape, out_hw: Shape, size: Pair, stride: Pair, pads: Pads, count_include_pad: bool
) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels count in each row of windows, and in each column, as two vectors."""
    tall, wide = window_counts(plane, size, stride, pads, out_hw, count_include_pad)
    return constant(np.array(tall, NUMBER)), constant(np.array(wide, NUMBER))


def max_pool_values(x: Array, size: Pair, stride: Pair, pads: Pads, out: Array) -> None:
    """y of max_pool, into `out`, an array in rows; for inference, which needs no winners."""
    x = channels_last(x)
    max_values(
        address(x), *x.strides[:3], *x.shape[1:3], address(out), *out.strides[:3], *out.shape,
        *size, *stride, pads[0][0], pads[1][0], parts=few_parts(x.nbytes),
    )  # fmt: skip


@traced
@in_rows("out")
def global_avg_pool(x: Array, out: Array | None) -> Array:
    """Images and vectors of channels are shared out; each sum is one chain."""
    N, H, W, C = x.shape
    y = empty((N, C), NUMBER) if out is None else out
    x = channels_last(x)
    parts = few_parts(x.nbytes)
    plane_means(address(x), *x.strides[:3], N, H, W, C, address(y), row_step(y), 1 / (H * W), parts=parts)
    return y


@traced
@in_rows("into", is_channels_last)
def global_avg_pool_dx(dy: Array, x_shape: Shape, into: Array | None) -> Array:
    """Product and sum in one pass, with no array for dy / (H W)."""
    dx = empty(x_shape, NUMBER) if into is None else into
    N, H, W, C = x_shape
    dy = dy if is_rows(dy) else contiguous(dy)
    spread_means(
        address(dy), row_step(dy), address(dx), *dx.strides[:3], N, H, W, C, int(into is not None),
        1 / (H * W), parts=few_parts(dx.nbytes),
    )  # fmt: skip
    return dx

"""The fast convolution and its two gradients, for float32: what feeds the tiles of register_tile.py.

Every kernel here shares out its work, fills a table of row addresses for a few pixels, and runs tiles over it.

    forward      pixels are shared out; y = table of x * packed w
    to x         for stride (s, t), the pixels of dx fall into s t classes ("phases") by their place modulo the stride,
                 and each class sees only the taps that hit it: a convolution of dy with stride 1 and those taps, with
                 w transposed. No product with an inserted zero is ever made.
    to w         where pixels are many, they are cut into ranges, whose number depends on the shapes alone, each with
                 sums of its own that are added up in order at the end; so a thread reads its part of x and dy once.
                 Where they are few, (tap, band of input channels) are shared out, and each runs over all pixels.

The weights are packed anew in every call, into memory from the heap: it costs one pass over them, they are warm in the
cache when the tiles read them, and nobody has to know whether a weight was changed since. (compile_inference packs
once.)

Convolutions with 3x3 windows of stride 1 go to winograd.py where it pays, in all three directions.

Where x has very few channels (an image has three), a tap's step is too short to be worth a row of the table; but the
columns of a window are neighbours in memory, so kw taps of C channels are one tap of kw C channels, once x is padded.
"""

from functools import cache

import numpy as np

from ...backend import Array, Shape
from ...threads import num_threads
from ..window import Pads, Pair, out_size
from . import winograd
from .batchnorm import moments
from .elementwise import clear, cleared
from .llvm import HAS_MASKS, WIDTH
from .machine import (
    address,
    by_hand,
    constant_row,
    contiguous,
    helper,
    is_rows,
    kernel,
    row_step,
    unpack,
    zero_row,
)
from .panels import add_products, pack_columns, pack_rows, spans
from .record import empty, recorded
from .register_tile import GROUP, output_panel, panel_size
from .simd import (
    LANES,
    PIXELS,
    ROWS,
    calloc,
    free,
    load,
    load_int,
    malloc,
    splat,
    store,
    store_int,
    transpose,
    window_rows,
)

CHUNK = 4 * GROUP  # pixels whose table is made at once, at most
TABLE = 1 << 15  # bytes of a table, about: it should stay in the first-level cache beside the rows it points to
PIXEL_BLOCK = 192 if HAS_MASKS else 224  # pixels that the tiles of dw run over: their panel of dy fits the first cache
BAND = 64  # input channels of dw for which x is copied at once
RANGES, LONG, SUMS = 8, 4 * PIXEL_BLOCK, 1 << 22  # ranges at most, pixels of each at least, bytes of their sums at most
FEW_CHANNELS = 8  # below this, a window's columns become one tap

# ---- packing


@kernel
def pack(part, parts, arguments):
    """w (steps, channels) -> panels as wide as a tile, each (steps, its vectors): what a tile reads is one stream."""
    w, packed, steps, channels = unpack(arguments, "qqqq")
    first, end = steps * part // parts, steps * (part + 1) // parts
    pack_rows(w + 4 * first * channels, 4 * channels, end - first, channels, packed, first, steps)


@kernel
def pack_transposed(part, parts, arguments):
    """w (taps, inputs, outputs) -> panels of input channels, each (listed taps, outputs, width)."""
    w, packed, listed, count, inputs, outputs = unpack(arguments, "qqqqqq")
    vectors = (inputs + WIDTH - 1) // WIDTH
    pieces = vectors * count
    for piece in range(pieces * part // parts, pieces * (part + 1) // parts):
        wanted, t = piece // count, piece % count
        v = 0
        n = panel_size(vectors)
        while v + n <= wanted:
            v += n
            n = panel_size(vectors - v)
        tap = load_int(listed + 8 * t)
        source = w + 4 * outputs * (tap * inputs + wanted * WIDTH)
        target = packed + 4 * WIDTH * (v * count * outputs + t * outputs * n + wanted - v)
        there = min(inputs - wanted * WIDTH, WIDTH)
        for o in range(0, outputs, WIDTH):
            left = min(outputs - o, WIDTH)
            transpose(source + 4 * o, 4 * outputs, target + 4 * WIDTH * n * o, 4 * WIDTH * n, there, left)


@kernel
def pad_images(part, parts, arguments):
    """x (N, H, W C) with zeros around: top, left and the height and width (in numbers) of what comes out."""
    x, xn, xh, H, row, y, top, left, height, width, N = unpack(arguments, "qqqqqqqqqqq")
    zero = splat(np.float32(0))
    pieces = N * height
    for piece in range(pieces * part // parts, pieces * (part + 1) // parts):
        n, h = piece // height, piece % height - top
        target = y + 4 * piece * width
        if h < 0 or h >= H:
            for i in range(0, width, LANES):
                store(target + 4 * i, zero, min(width - i, LANES))
            continue
        for i in range(0, left, LANES):
            store(target + 4 * i, zero, min(left - i, LANES))
        source = x + n * xn + h * xh
        target += 4 * left
        for i in range(0, row, LANES):
            store(target + 4 * i, load(source + 4 * i, min(row - i, LANES)), min(row - i, LANES))
        for i in range(row, width - left, LANES):
            store(target + 4 * i, zero, min(width - left - i, LANES))


# ---- y = x * w


@helper
def place_pixels(pixels, first, count, x, xn, xh, xw, stride_h, stride_w, OH, OW):
    """For `count` output pixels from `first`: the address of x where their windows are anchored, its row, its column.

    They go to `pixels`: GROUP or CHUNK int64 of each, beginning at multiples of `count` rounded up to GROUP.
    """
    room = (count + GROUP - 1) // GROUP * GROUP
    column = first % OW
    rest = first // OW
    row = rest % OH
    n = rest // OH
    for i in range(count):
        h, w = row * stride_h, column * stride_w
        store_int(pixels + 8 * i, x + n * xn + h * xh + w * xw)
        store_int(pixels + 8 * (room + i), h)
        store_int(pixels + 8 * (2 * room + i), w)
        column += 1
        if column == OW:
            column = 0
            row += 1
            if row == OH:
                row = 0
                n += 1
    for i in range(count, room):  # these tiles' rows are made and thrown away
        store_int(pixels + 8 * i, x)
        store_int(pixels + 8 * (room + i), -(1 << 40))
        store_int(pixels + 8 * (2 * room + i), -(1 << 40))


@helper
def fill_table(table, pixels, room, taps, offsets, xh, xw, H, W, zeros):
    """Row addresses [group of pixels][tap][GROUP] for the pixels that place_pixels placed."""
    for group in range(room // GROUP):
        base = pixels + 8 * group * GROUP
        down, across = base + 8 * room, base + 16 * room
        for t in range(taps):
            dh, dw = load_int(offsets + 16 * t), load_int(offsets + 16 * t + 8)
            target = table + 8 * GROUP * (group * taps + t)
            offset = dh * xh + dw * xw
            for i in range(0, 8 * GROUP, 8 * PIXELS):
                window_rows(target + i, base + i, down + i, across + i, offset, dh, dw, H, W, zeros)


@kernel
def multiply(part, parts, arguments):
    """y[pixel, o] = sum over taps and channels of x * w: the convolution, and with w transposed its gradient to x.

    x, y: address and strides in bytes. offsets: for each tap its row and column relative to the window's anchor.
    across: into how many of the parts the output channels are divided; the pixels are divided into parts / across.

    A span of the sum is done for all tiles of a chunk before the next span, which goes on from what y then holds (to
    the bit, since y is what a register was): so the panel of weights that a tile eats and the numbers of x that the
    panels share stay in the second-level cache. What comes next is fetched into that cache meanwhile: by the tiles of
    a chunk's last panel the next chunk's x, by those of the panel before its y, by those of the others the weights of
    the next panel. zeros, nothing: rows of zeros and of minus infinity.
    """
    (
        x, xn, xh, xw, H, W, stride_h, stride_w, offsets, taps, depth, weights, channels,
        y, yn, yh, yw, N, OH, OW, zeros, adds, bias, floor, nothing, across, chunk,
    ) = unpack(arguments, "q" * 27)  # fmt: skip
    vectors = (channels + WIDTH - 1) // WIDTH
    panels = 0
    v = 0
    while v < vectors:
        v += panel_size(vectors - v)
        panels += 1
    down = parts // across
    first_panel, end_panel = panels * (part % across) // across, panels * (part % across + 1) // across
    total = N * OH * OW
    eights = (total + 7) // 8
    first = eights * (part // across) // down * 8
    end = min(total, eights * (part // across + 1) // down * 8)
    if first >= end:
        return
    count = (end - first + chunk - 1) // chunk
    chunk = ((end - first + count - 1) // count + 7) // 8 * 8
    room = (chunk + GROUP - 1) // GROUP * GROUP
    table, nowhere = malloc(8 * room * taps), calloc(4 * WIDTH * vectors)
    pixels, next_pixels = malloc(24 * room), malloc(24 * room)
    outputs, next_outputs = malloc(8 * room), malloc(8 * room)
    next_weights = malloc(8 * room)
    span_taps, span_depth = spans(taps, depth)
    place_pixels(pixels, first, min(chunk, end - first), x, xn, xh, xw, stride_h, stride_w, OH, OW)
    place_outputs(outputs, first, min(chunk, end - first), y, yn, yh, yw, OH, OW, nowhere)
    for p in range(first, end, chunk):
        count, rest = min(chunk, end - p), end - p - chunk
        if rest > 0:
            place_pixels(next_pixels, p + chunk, min(chunk, rest), x, xn, xh, xw, stride_h, stride_w, OH, OW)
            place_outputs(next_outputs, p + chunk, min(chunk, rest), y, yn, yh, yw, OH, OW, nowhere)
        room = (count + GROUP - 1) // GROUP * GROUP
        fill_table(table, pixels, room, taps, offsets, xh, xw, H, W, zeros)
        for t in range(0, taps, span_taps):
            for k in range(0, depth, span_depth):
                some, deep = min(taps - t, span_taps), min(depth - k, span_depth)
                begins, ends = t + k == 0, t + some == taps and k + deep == depth
                v = 0
                for panel in range(end_panel):
                    n = panel_size(vectors - v)
                    if panel >= first_panel:
                        w = weights + 4 * WIDTH * (v * taps * depth + n * (t * depth + k))
                        soon = next_weights
                        if rest > 0 and panel == end_panel - 1:
                            soon = next_pixels
                        elif rest > 0 and panel == end_panel - 2:
                            soon = next_outputs
                        else:
                            then = weights + 4 * WIDTH * ((v + n) * taps * depth + n * (t * depth + k))
                            for i in range(count):
                                store_int(next_weights + 8 * i, then + 4 * deep * some * i)
                        column, valid = 4 * WIDTH * v, channels - v * WIDTH
                        start, least = bias + column if begins else zeros, floor + column if ends else nothing
                        for i in range(0, count, GROUP):
                            at, to = table + 8 * (taps * i + GROUP * t), outputs + 8 * i
                            rows, old = min(count - i, GROUP), adds if begins else 1
                            output_panel(
                                n, at, some, 4 * k, deep, w, to, column, rows, valid, old, start, least, soon + 8 * i
                            )
                    v += n
        pixels, next_pixels, outputs, next_outputs = next_pixels, pixels, next_outputs, outputs
    for place in (table, nowhere, pixels, outputs, next_pixels, next_outputs, next_weights):
        free(place)


@helper
def place_outputs(outputs, first, count, y, yn, yh, yw, OH, OW, nowhere):
    """The addresses of `count` output pixels from `first`, filled up to whole groups with the address `nowhere`."""
    column = first % OW
    rest = first // OW
    row = rest % OH
    n = rest // OH
    for i in range(count):
        store_int(outputs + 8 * i, y + n * yn + row * yh + column * yw)
        column += 1
        if column == OW:
            column = 0
            row += 1
            if row == OH:
                row = 0
                n += 1
    for i in range(count, (count + GROUP - 1) // GROUP * GROUP):
        store_int(outputs + 8 * i, nowhere)


# ---- dw = x^T * dy


@kernel
def multiply_transposed(part, parts, arguments):
    """dw[t, c, o] += sum over pixels of x[the row tap t sees, c] * dy[pixel, o].

    The pieces are (pixel range, tap, band of inputs), in this order. Range r adds to its own sums at
    dw + r * range_step. For a block of pixels, dy is copied to panels once and x to columns once for each piece: a
    fraction of the work, which turns rows that lie kilobytes apart into two streams that are read front to back.
    """
    (
        x, xn, xh, xw, H, W, stride_h, stride_w, offsets, taps, inputs,
        dy, dy_step, N, OH, OW, outputs, dw, ranges, range_step, zeros,
    ) = unpack(arguments, "q" * 21)  # fmt: skip
    bands = (inputs + BAND - 1) // BAND
    band = ((inputs + bands - 1) // bands + ROWS - 1) // ROWS * ROWS
    per_range = taps * bands
    first_piece, end_piece = ranges * per_range * part // parts, ranges * per_range * (part + 1) // parts
    pixels = N * OH * OW
    room = (PIXEL_BLOCK + GROUP - 1) // GROUP * GROUP
    placed, table, nowhere = malloc(24 * room), malloc(8 * room), calloc(12 * WIDTH)
    columns = malloc(4 * PIXEL_BLOCK * (BAND + LANES))
    rows = malloc(4 * PIXEL_BLOCK * (outputs + WIDTH))
    for r in range(first_piece // per_range, (end_piece + per_range - 1) // per_range):
        first, end = max(first_piece - r * per_range, 0), min(end_piece - r * per_range, per_range)
        begin, stop = pixels * r // ranges, pixels * (r + 1) // ranges
        for p in range(begin, stop, PIXEL_BLOCK):
            count = min(PIXEL_BLOCK, stop - p)
            room = (count + GROUP - 1) // GROUP * GROUP
            place_pixels(placed, p, count, x, xn, xh, xw, stride_h, stride_w, OH, OW)
            pack_rows(dy + p * dy_step, dy_step, count, outputs, rows, 0, PIXEL_BLOCK)
            for piece in range(first, end):
                t, c = piece // bands, piece % bands * band
                if piece == first or c == 0:
                    fill_table(table, placed, room, 1, offsets + 16 * t, xh, xw, H, W, zeros)
                width = min(inputs - c, band)
                pack_columns(table, count, 4 * c, width, columns, PIXEL_BLOCK)
                at = dw + r * range_step + 4 * outputs * (t * inputs + c)
                add_products(columns, rows, count, PIXEL_BLOCK, width, outputs, at, 4 * outputs, nowhere)
    free(placed)
    free(table)
    free(nowhere)
    free(columns)
    free(rows)


@kernel
def add_ranges(part, parts, arguments):
    """dw += the sums of all pixel ranges, first to last."""
    sums, ranges, range_step, dw, size = unpack(arguments, "qqqqq")
    vectors = (size + LANES - 1) // LANES
    for i in range(vectors * part // parts, vectors * (part + 1) // parts):
        left = min(size - i * LANES, LANES)
        s = load(dw + 64 * i, left)
        for r in range(ranges):
            s = s + load(sums + r * range_step + 64 * i, left)
        store(dw + 64 * i, s, left)


@kernel
def repeat_tile(part, parts, arguments):
    """The tile alone, again and again, on GROUP rows of x and a panel of w that stay in the first-level cache."""
    steps, rounds = unpack(arguments, "qq")
    width = 3 * WIDTH
    x, w, y = calloc(4 * GROUP * steps), calloc(4 * width * steps), calloc(4 * width * GROUP)
    table, outputs, rest = malloc(8 * GROUP), malloc(8 * GROUP), calloc(8 * width)
    for m in range(GROUP):
        store_int(table + 8 * m, x + 4 * m * steps)
        store_int(outputs + 8 * m, y + 4 * width * m)
    for _ in range(rounds):
        output_panel(3, table, 1, 0, steps, w, outputs, 0, GROUP, width, 0, rest, rest + 4 * width, table)
    for place in (x, w, y, table, outputs, rest):
        free(place)


# ---- shapes, in Python


def tile_alone(steps: int, rounds: int) -> int:
    """Run the tile on every thread, for `bench` to time; how many floating point operations that was."""
    repeat_tile(steps, rounds, parts=num_threads())
    return 2 * GROUP * 3 * WIDTH * steps * rounds * num_threads()


def channels_last(a: Array) -> Array:
    """a, or a copy of it where its channels are not neighbours or a stride runs backwards."""
    if min(a.strides) < 0 or (a.shape[-1] > 1 and a.strides[-1] != 4) or any(s % 4 for s in a.strides):
        return contiguous(a)
    return a


def packed_size(steps: int, channels: int) -> int:
    """How many float32 the packed form of (steps, channels) has."""
    return steps * -(-channels // WIDTH) * WIDTH


def share(pixels: int, channels: int, work: float) -> tuple[int, int]:
    """(parts, across): how many parts, and how many of them side by side over the channels.

    A few parts for each thread, so that a thread that is held up loses little, but none below CHUNK pixels while
    pixels are many; where they are few, the blocks of channels are divided too.
    """
    threads = num_threads()
    if threads == 1 or work < 1e5:  # multiply-adds: a microsecond, less than waking a thread takes
        return 1, 1
    down = min(-(-pixels // CHUNK), 4 * threads)
    if down >= threads:
        return down // threads * threads, 1
    panels = -(-channels // (3 * WIDTH))
    across = min(-(-2 * threads // down), panels)
    return down * across, across


def few_parts(work: float) -> int | None:
    """1 where the work (in bytes) is too little to share."""
    return 1 if work < 1 << 16 else None


@cache
def tap_offsets(kernel_hw: Pair, pads: Pads, dilation: Pair) -> np.ndarray:
    """(kh kw, 2): row and column of every tap relative to the window's anchor, the pixel times the stride."""
    i, j = np.divmod(np.arange(kernel_hw[0] * kernel_hw[1]), kernel_hw[1])
    taps = [i * dilation[0] - pads[0][0], j * dilation[1] - pads[1][0]]
    return np.stack(taps, 1).astype(np.int64)


@cache
def phases(kernel_hw: Pair, stride: Pair, pads: Pads, dilation: Pair) -> list[tuple]:
    """For each phase (a, b) of dx: the offsets (taps, 2) of the pixels of dy that it sees, and which taps those are.

    Pixel h = stride * q + a of dx is seen by output pixel p at tap i where p * stride + i * dilation - top = h. So
    a + top - i * dilation must be a multiple of the stride, and p = q + that multiple.
    """

    def axis(k, s, before, d):
        return [[((a + before - i * d) // s, i) for i in range(k) if (a + before - i * d) % s == 0] for a in range(s)]

    rows = axis(kernel_hw[0], stride[0], pads[0][0], dilation[0])
    columns = axis(kernel_hw[1], stride[1], pads[1][0], dilation[1])
    found = []
    for a, down in enumerate(rows):
        for b, across in enumerate(columns):
            taps = [(p, q, i * kernel_hw[1] + j) for p, i in down for q, j in across]
            offsets = np.array([t[:2] for t in taps], np.int64).reshape(-1, 2)
            found.append((a, b, offsets, np.array([t[2] for t in taps], np.int64)))
    return found


def product(x, stride, offsets, depth, packed, channels, y, *, adds=False, bias=0, floor=0):
    """The arguments of `multiply` and its parts: y (N, OH, OW, channels) from x and packed weights, as arrays.

    adds: to what y holds. bias, floor: addresses of vectors; 0 for none.
    """
    taps = len(offsets)
    pixels = y.shape[0] * y.shape[1] * y.shape[2]
    parts, across = share(pixels, channels, 1.0 * pixels * taps * depth * channels)
    chunk = max(GROUP, min(CHUNK, TABLE // (8 * taps) // GROUP * GROUP))
    nothing = constant_row(-np.inf, channels)
    arguments = (
        address(x), *x.strides[:3], *x.shape[1:3], *stride, address(offsets), taps, depth,
        address(packed), channels, address(y), *y.strides[:3], *y.shape[:3],
        zero_row(max(depth, channels)), int(adds), bias or zero_row(channels), floor or nothing, nothing, across, chunk,
    )  # fmt: skip
    return arguments, parts


def windows(x: Array, kernel_hw: Pair, pads: Pads, dilation: Pair) -> tuple[Array, np.ndarray, int]:
    """(x, the offsets of the taps, how many numbers each tap reads).

    Where the channels are few and there are no gaps between the columns of a window, its columns are one tap.
    """
    if x.shape[3] < FEW_CHANNELS and kernel_hw[1] > 1 and dilation[1] == 1:
        offsets = tap_offsets((kernel_hw[0], 1), ((0, 0), (0, 0)), dilation)
        return padded(x, pads), offsets, kernel_hw[1] * x.shape[3]
    return x, tap_offsets(kernel_hw, pads, dilation), x.shape[3]


def padded(x: Array, pads: Pads) -> Array:
    """x (N, H, W, C) with zeros around, contiguous; x itself where it is that already."""
    (top, bottom), (left, right) = pads
    N, H, W, C = x.shape
    if not (top or bottom or left or right) and (W == 1 or x.strides[2] == 4 * C):
        return x
    x = x if is_rows(x) and row_step(x) == 4 * C else contiguous(x)
    height, width = H + top + bottom, W + left + right
    y = empty((N, height, width, C), np.float32)
    pad_images(
        address(x), x.strides[0], x.strides[1], H, W * C, address(y), top, left * C, height, width * C, N
    )  # fmt: skip
    return y


def check(name: str, got: Shape, wanted: Shape) -> None:
    """Raise ValueError for a shape that would send a kernel beyond an array."""
    if tuple(got) != tuple(wanted):
        raise ValueError(f"{name}: got shape {tuple(got)}, wanted {tuple(wanted)}")


@recorded
def conv2d(x, w, bias, stride, pads, dilation, relu=False, out=None):
    """../conv.py says what it computes."""
    out_hw = out_size(x.shape[1:3], w.shape[:2], stride, pads, dilation)
    shape = (x.shape[0], *out_hw, w.shape[3])
    check("conv2d: x", x.shape, (*x.shape[:3], w.shape[2]))
    check("conv2d: bias", w.shape[3:] if bias is None else bias.shape, w.shape[3:])
    check("conv2d: out", shape if out is None else out.shape, shape)
    if out is not None and channels_last(out) is not out:
        by_hand(out)
        out[...] = conv2d(x, w, bias, stride, pads, dilation, relu)
        return out
    y = empty(shape, np.float32) if out is None else out
    w = contiguous(w)
    x, offsets, depth = windows(channels_last(x), w.shape[:2], pads, dilation)
    steps = len(offsets) * depth
    packed = empty((packed_size(steps, w.shape[3]),), np.float32)
    pack(address(w), address(packed), steps, w.shape[3], parts=few_parts(w.nbytes))
    bias = None if bias is None else contiguous(bias)
    start = 0 if bias is None else address(bias)
    floor = zero_row(w.shape[3]) if relu else 0
    if winograd.pays(w.shape[:2], stride, dilation, pads, depth, w.shape[3], shape):
        winograd.product(x, packed, depth, w.shape[3], pads, y, bias=start, floor=floor)
        return y
    arguments, parts = product(x, stride, offsets, depth, packed, w.shape[3], y, bias=start, floor=floor)
    multiply(*arguments, parts=parts)
    return y


@recorded
def conv2d_moments(x, w, stride, pads, dilation):
    """../conv.py says what it computes."""
    y = conv2d(x, w, None, stride, pads, dilation)
    return y, *moments(y)


@recorded
def conv2d_dx(dy, w, x_shape, stride, pads, dilation, add=None):
    """../conv.py says what it computes."""
    out_hw = out_size(x_shape[1:3], w.shape[:2], stride, pads, dilation)
    check("conv2d_dx: dy", dy.shape, (x_shape[0], *out_hw, w.shape[3]))
    check("conv2d_dx: w", w.shape, (*w.shape[:2], x_shape[3], dy.shape[3]))
    check("conv2d_dx: add", x_shape if add is None else add.shape, x_shape)
    if add is not None and channels_last(add) is not add:
        by_hand(add)
        add += conv2d_dx(dy, w, x_shape, stride, pads, dilation)
        return add
    dx = empty(x_shape, np.float32) if add is None else add
    dy, w = channels_last(dy), contiguous(w)
    inputs, outputs = w.shape[2:]
    if winograd.pays(w.shape[:2], stride, dilation, pads, outputs, inputs, x_shape):
        turned = np.arange(8, -1, -1)  # the taps of the filter turned by 180 degrees
        packed = empty((packed_size(9 * outputs, inputs),), np.float32)
        pack_transposed(address(w), address(packed), address(turned), 9, inputs, outputs)
        opposite = tuple((2 - before, 2 - after) for before, after in pads)
        winograd.product(dy, packed, outputs, inputs, opposite, dx, adds=add is not None)
        return dx
    for a, b, offsets, taps in phases(w.shape[:2], stride, pads, dilation):
        target = dx[:, a :: stride[0], b :: stride[1]]
        if target.size == 0:
            continue
        if len(taps) == 0:
            if add is None:
                clear(address(target), *target.strides[:3], *target.shape)
            continue
        packed = empty((packed_size(len(taps) * outputs, inputs),), np.float32)
        parts = few_parts(packed.nbytes)
        pack_transposed(address(w), address(packed), address(taps), len(taps), inputs, outputs, parts=parts)
        adds = add is not None
        arguments, parts = product(dy, (1, 1), offsets, outputs, packed, inputs, target, adds=adds)
        multiply(*arguments, parts=parts)
    return dx


@recorded
def conv2d_dw(x, dy, dw, stride, pads, dilation):
    """../conv.py says what it computes."""
    out_hw = out_size(x.shape[1:3], dw.shape[:2], stride, pads, dilation)
    check("conv2d_dw: dy", dy.shape, (x.shape[0], *out_hw, dw.shape[3]))
    check("conv2d_dw: dw", dw.shape, (*dw.shape[:2], x.shape[3], dy.shape[3]))
    if not dw.flags.c_contiguous:
        by_hand(dw)
        whole = np.zeros(dw.shape, np.float32)
        conv2d_dw(x, dy, whole, stride, pads, dilation)
        dw += whole
        return
    x = channels_last(x)
    if winograd.pays_for_gradient(dw.shape[:2], stride, dilation, pads, *dw.shape[2:], dy.shape):
        winograd.add_gradient(x, channels_last(dy), dw, pads)
        return
    dy = dy if is_rows(dy) else contiguous(dy)
    x, offsets, inputs = windows(x, dw.shape[:2], pads, dilation)
    outputs = dw.shape[3]
    pixels = dy.shape[0] * dy.shape[1] * dy.shape[2]
    ranges = max(1, min(RANGES, SUMS // dw.nbytes, pixels // LONG))
    sums, step = dw, 0
    if ranges > 1:
        step = -(-dw.nbytes // 64) * 64
        sums = cleared((ranges * step // 4,))
    few = pixels * dw.size < 1e5  # multiply-adds: a microsecond
    threads = num_threads()
    pieces = ranges * len(offsets) * -(-inputs // BAND)
    parts = 1 if few else min(pieces, (4 if ranges == RANGES else 2) * threads)  # each copies dy for itself
    multiply_transposed(
        address(x), *x.strides[:3], *x.shape[1:3], *stride, address(offsets), len(offsets), inputs,
        address(dy), row_step(dy), *dy.shape[:3], outputs, address(sums), ranges, step,
        zero_row(inputs), parts=parts,
    )  # fmt: skip
    if ranges > 1:
        add_ranges(address(sums), ranges, step, address(dw), dw.size, parts=few_parts(sums.nbytes))

"""The kernels of the direct convolution and its two gradients: what feeds the tiles of register_tile.py.

Every kernel here shares out its work, fills a table of row addresses for a few pixels, and runs tiles over it.

    forward      pixels are shared out; y = table of x * packed w
    to x         for stride (s, t), the pixels of dx fall into s t classes ("phases") by their place modulo the stride,
                 and each class sees only the taps that hit it: a convolution of dy with stride 1 and those taps, with
                 w transposed. No product with an inserted zero is ever made.
    to w         where pixels are many, they are cut into ranges, whose number depends on the shapes alone, each with
                 sums of its own that are added up in order at the end; so a thread reads its part of x and dy once.
                 Where they are few, (tap, band of input channels) are shared out, and each runs over all pixels.
"""

from collections import namedtuple

from ...backend.threads import num_threads
from .llvm import HAS_MASKS, NUMBER, SIZE, WIDTH
from .machine import helper, kernel, unpack
from .panels import add_products, pack_columns, pack_rows, spans
from .register_tile import GOES_ON, GROUP, output_panel, panel_size
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

PIXEL_BLOCK = 192 if HAS_MASKS else 224  # pixels that the tiles of dw run over: their panel of dy fits the first cache
BAND = 64  # input channels of dw for which x is copied at once

# ---- packing


@kernel
def pack(part, parts, arguments):
    """w (steps, channels) -> panels as wide as a tile, each (steps, its vectors): what a tile reads is one stream."""
    w, packed, steps, channels = unpack(arguments, "qqqq")
    first, end = steps * part // parts, steps * (part + 1) // parts
    pack_rows(w + SIZE * first * channels, SIZE * channels, end - first, channels, packed, first, steps)


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
        source = w + SIZE * outputs * (tap * inputs + wanted * WIDTH)
        target = packed + SIZE * WIDTH * (v * count * outputs + t * outputs * n + wanted - v)
        there = min(inputs - wanted * WIDTH, WIDTH)
        for o in range(0, outputs, WIDTH):
            left = min(outputs - o, WIDTH)
            transpose(source + SIZE * o, SIZE * outputs, target + SIZE * WIDTH * n * o, SIZE * WIDTH * n, there, left)


@kernel
def pad_rows(part, parts, arguments):
    """x (N, H, W C) with zeros around: top, left and the height and width (in numbers) of what comes out."""
    x, xn, xh, H, row, y, top, left, height, width, N = unpack(arguments, "qqqqqqqqqqq")
    zero = splat(NUMBER(0))
    pieces = N * height
    for piece in range(pieces * part // parts, pieces * (part + 1) // parts):
        n, h = piece // height, piece % height - top
        target = y + SIZE * piece * width
        if h < 0 or h >= H:
            for i in range(0, width, LANES):
                store(target + SIZE * i, zero, min(width - i, LANES))
            continue
        for i in range(0, left, LANES):
            store(target + SIZE * i, zero, min(left - i, LANES))
        source = x + n * xn + h * xh
        target += SIZE * left
        for i in range(0, row, LANES):
            store(target + SIZE * i, load(source + SIZE * i, min(row - i, LANES)), min(row - i, LANES))
        for i in range(row, width - left, LANES):
            store(target + SIZE * i, zero, min(width - left - i, LANES))


# ---- y = x * w


# The words of `multiply` and of `multiply_transposed`. Arrays and vectors are addresses, strides are bytes.
#
# offsets: for each tap its row and column relative to the window's anchor. depth: how many numbers a tap reads. adds: 1
# to add to what y holds. zeros, nothing: rows of zeros and of minus infinity. across: into how many of the parts the
# output channels are divided; the pixels are divided into parts / across. chunk: pixels at once, at most. Range r of
# `ranges` has its sums at dw + r * range_step.
MultiplyWords = namedtuple(
    "MultiplyWords",
    "x xn xh xw H W stride_h stride_w offsets taps depth weights channels "
    "y yn yh yw N OH OW zeros adds bias floor nothing across chunk",
)
TransposedWords = namedtuple(
    "TransposedWords",
    "x xn xh xw H W stride_h stride_w offsets taps inputs dy dy_step N OH OW outputs dw ranges range_step zeros",
)
MULTIPLY, TRANSPOSED = "q" * len(MultiplyWords._fields), "q" * len(TransposedWords._fields)


@helper
def place_pixels(pixels, s, first, count):
    """For `count` output pixels from `first`: the address of x where their windows are anchored, its row, its column.

    They go to `pixels`: GROUP or CHUNK int64 of each, beginning at multiples of `count` rounded up to GROUP.
    """
    room = (count + GROUP - 1) // GROUP * GROUP
    column = first % s.OW
    rest = first // s.OW
    row = rest % s.OH
    n = rest // s.OH
    for i in range(count):
        h, w = row * s.stride_h, column * s.stride_w
        store_int(pixels + 8 * i, s.x + n * s.xn + h * s.xh + w * s.xw)
        store_int(pixels + 8 * (room + i), h)
        store_int(pixels + 8 * (2 * room + i), w)
        column += 1
        if column == s.OW:
            column = 0
            row += 1
            if row == s.OH:
                row = 0
                n += 1
    for i in range(count, room):  # these tiles' rows are made and thrown away
        store_int(pixels + 8 * i, s.x)
        store_int(pixels + 8 * (room + i), -(1 << 40))
        store_int(pixels + 8 * (2 * room + i), -(1 << 40))


@helper
def place_outputs(outputs, s, first, count, nowhere):
    """The addresses of `count` output pixels from `first`, filled up to whole groups with the address `nowhere`."""
    column = first % s.OW
    rest = first // s.OW
    row = rest % s.OH
    n = rest // s.OH
    for i in range(count):
        store_int(outputs + 8 * i, s.y + n * s.yn + row * s.yh + column * s.yw)
        column += 1
        if column == s.OW:
            column = 0
            row += 1
            if row == s.OH:
                row = 0
                n += 1
    for i in range(count, (count + GROUP - 1) // GROUP * GROUP):
        store_int(outputs + 8 * i, nowhere)


@helper
def fill_table(table, pixels, s, count, offsets, taps):
    """Row addresses [group of pixels][tap][GROUP] for the `count` pixels that place_pixels placed."""
    room = (count + GROUP - 1) // GROUP * GROUP
    for group in range(room // GROUP):
        base = pixels + 8 * group * GROUP
        down, across = base + 8 * room, base + 16 * room
        for t in range(taps):
            dh, dw = load_int(offsets + 16 * t), load_int(offsets + 16 * t + 8)
            target = table + 8 * GROUP * (group * taps + t)
            offset = dh * s.xh + dw * s.xw
            for i in range(0, 8 * GROUP, 8 * PIXELS):
                window_rows(target + i, base + i, down + i, across + i, offset, dh, dw, s.H, s.W, s.zeros)


@kernel
def multiply(part, parts, arguments):
    """y[pixel, o] = sum over taps and channels of x * w: the convolution, and with w transposed its gradient to x."""
    s = MultiplyWords(*unpack(arguments, MULTIPLY))
    vectors = (s.channels + WIDTH - 1) // WIDTH
    panels = 0
    v = 0
    while v < vectors:
        v += panel_size(vectors - v)
        panels += 1
    down = parts // s.across
    first_panel, end_panel = panels * (part % s.across) // s.across, panels * (part % s.across + 1) // s.across
    pixels = s.N * s.OH * s.OW
    eights = (pixels + 7) // 8
    first = eights * (part // s.across) // down * 8
    end = min(pixels, eights * (part // s.across + 1) // down * 8)
    if first >= end:
        return
    count = (end - first + s.chunk - 1) // s.chunk
    chunk = ((end - first + count - 1) // count + 7) // 8 * 8
    room = (chunk + GROUP - 1) // GROUP * GROUP
    table, nowhere = malloc(8 * room * s.taps), calloc(SIZE * WIDTH * vectors)
    placed, next_placed, next_weights = malloc(24 * room), malloc(24 * room), malloc(8 * room)
    outputs, next_outputs = malloc(8 * room), malloc(8 * room)
    place_pixels(placed, s, first, min(chunk, end - first))
    place_outputs(outputs, s, first, min(chunk, end - first), nowhere)
    for p in range(first, end, chunk):
        count, rest = min(chunk, end - p), end - p - chunk
        if rest > 0:
            place_pixels(next_placed, s, p + chunk, min(chunk, rest))
            place_outputs(next_outputs, s, p + chunk, min(chunk, rest), nowhere)
        fill_table(table, placed, s, count, s.offsets, s.taps)
        multiply_chunk(
            s, table, outputs, count, first_panel, end_panel, rest > 0, next_placed, next_outputs, next_weights
        )
        placed, next_placed, outputs, next_outputs = next_placed, placed, next_outputs, outputs
    for place in (table, nowhere, placed, outputs, next_placed, next_outputs, next_weights):
        free(place)


@helper
def multiply_chunk(s, table, outputs, count, first_panel, end_panel, more, next_placed, next_outputs, next_weights):
    """The sums of a chunk of `count` pixels for some panels of channels. more: true where another chunk follows.

    A span of the sum is done for all tiles of a chunk before the next span, which goes on from what y then holds (to
    the bit, since y is what a register was): so the panel of weights that a tile eats and the numbers of x that the
    panels share stay in the second-level cache. What comes next is fetched into that cache meanwhile: by the tiles of
    a chunk's last panel the next chunk's x, by those of the panel before its y, by those of the others the weights of
    the next panel.
    """
    vectors = (s.channels + WIDTH - 1) // WIDTH
    span_taps, span_depth = spans(s.taps, s.depth)
    for t in range(0, s.taps, span_taps):
        for k in range(0, s.depth, span_depth):
            some, deep = min(s.taps - t, span_taps), min(s.depth - k, span_depth)
            begins, ends = t + k == 0, t + some == s.taps and k + deep == s.depth
            v = 0
            for panel in range(end_panel):
                n = panel_size(vectors - v)
                if panel >= first_panel:
                    w = s.weights + SIZE * WIDTH * (v * s.taps * s.depth + n * (t * s.depth + k))
                    soon = next_weights
                    if more and panel == end_panel - 1:
                        soon = next_placed
                    elif more and panel == end_panel - 2:
                        soon = next_outputs
                    else:
                        then = s.weights + SIZE * WIDTH * ((v + n) * s.taps * s.depth + n * (t * s.depth + k))
                        for i in range(count):
                            store_int(next_weights + 8 * i, then + SIZE * deep * some * i)
                    column, valid = SIZE * WIDTH * v, s.channels - v * WIDTH
                    start, least = s.bias + column if begins else s.zeros, s.floor + column if ends else s.nothing
                    for i in range(0, count, GROUP):
                        at, to = table + 8 * (s.taps * i + GROUP * t), outputs + 8 * i
                        rows, old = min(count - i, GROUP), s.adds if begins else GOES_ON
                        output_panel(
                            n, at, some, SIZE * k, deep, w, to, column, rows, valid, old, start, least, soon + 8 * i
                        )
                v += n


# ---- dw = x^T * dy


@kernel
def multiply_transposed(part, parts, arguments):
    """dw[t, c, o] += sum over pixels of x[the row tap t sees, c] * dy[pixel, o].

    The pieces are (pixel range, tap, band of inputs), in this order. For a block of pixels, dy is copied to panels once
    and x to columns once for each piece: a fraction of the work, which turns rows that lie kilobytes apart into two
    streams that are read front to back.
    """
    s = TransposedWords(*unpack(arguments, TRANSPOSED))
    bands = (s.inputs + BAND - 1) // BAND
    band = ((s.inputs + bands - 1) // bands + ROWS - 1) // ROWS * ROWS
    per_range = s.taps * bands
    first_piece, end_piece = s.ranges * per_range * part // parts, s.ranges * per_range * (part + 1) // parts
    pixels = s.N * s.OH * s.OW
    room = (PIXEL_BLOCK + GROUP - 1) // GROUP * GROUP
    placed, table, nowhere = malloc(24 * room), malloc(8 * room), calloc(3 * SIZE * WIDTH)
    columns = malloc(SIZE * PIXEL_BLOCK * (BAND + LANES))
    rows = malloc(SIZE * PIXEL_BLOCK * (s.outputs + WIDTH))
    for r in range(first_piece // per_range, (end_piece + per_range - 1) // per_range):
        first, end = max(first_piece - r * per_range, 0), min(end_piece - r * per_range, per_range)
        begin, stop = pixels * r // s.ranges, pixels * (r + 1) // s.ranges
        for p in range(begin, stop, PIXEL_BLOCK):
            count = min(PIXEL_BLOCK, stop - p)
            place_pixels(placed, s, p, count)
            pack_rows(s.dy + p * s.dy_step, s.dy_step, count, s.outputs, rows, 0, PIXEL_BLOCK)
            for piece in range(first, end):
                t, c = piece // bands, piece % bands * band
                if piece == first or c == 0:
                    fill_table(table, placed, s, count, s.offsets + 16 * t, 1)
                width = min(s.inputs - c, band)
                pack_columns(table, count, SIZE * c, width, columns, PIXEL_BLOCK)
                at = s.dw + r * s.range_step + SIZE * s.outputs * (t * s.inputs + c)
                add_products(
                    columns, rows, count, PIXEL_BLOCK, width, s.outputs, at, SIZE * s.outputs, GOES_ON, nowhere
                )
    for place in (placed, table, nowhere, columns, rows):
        free(place)


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
    x, w, y = calloc(SIZE * GROUP * steps), calloc(SIZE * width * steps), calloc(SIZE * width * GROUP)
    table, outputs, rest = malloc(8 * GROUP), malloc(8 * GROUP), calloc(2 * SIZE * width)
    for m in range(GROUP):
        store_int(table + 8 * m, x + SIZE * m * steps)
        store_int(outputs + 8 * m, y + SIZE * width * m)
    for _ in range(rounds):
        output_panel(3, table, 1, 0, steps, w, outputs, 0, GROUP, width, 0, rest, rest + SIZE * width, table)
    for place in (x, w, y, table, outputs, rest):
        free(place)


def tile_alone(steps: int, rounds: int) -> int:
    """Run the tile on every thread, for `bench` to time; how many floating point operations that was."""
    repeat_tile(steps, rounds, parts=num_threads())
    return 2 * GROUP * 3 * WIDTH * steps * rounds * num_threads()

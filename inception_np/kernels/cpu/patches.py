"""The kernels of a convolution by Winograd's way, for every form of winograd.py: what feeds its products to the tiles.

    forward, dx      some patches, V = B' d B for all their channels   products, 48 channels of y      y += A' m A
                     +--------------------------------+             +----------------------------+
           x  -->    | V: n^2 places x patches x inputs |    -->    | M: n^2 places x patches x 48 |      -->    y
                     +--------------------------------+             +----------------------------+

    dw               V = B' d B and Z = A dy A' for one row of places of some patches, added up over patches by the
                     tiles of dw: sums [place][inputs][outputs]; at the end dw += G' m G

V and M stay in the second-level cache, so that x is read once and y written once. Patches are shared out for y and dx;
for dw the rows of places, and ranges of patches whose number depends on the shapes alone, each with sums of its own.
The transforms are code of the form's (winograd.py), called for a patch at a time.
"""

from collections import namedtuple

from .llvm import WIDTH
from .machine import helper, kernel, unpack
from .panels import add_products, pack_columns, pack_rows
from .register_tile import ADDS, GROUP, output_panel, panel_size
from .simd import LANES, calloc, free, malloc, store_int
from .workers import call

BLOCK = 3 * LANES  # channels of products transformed at once
CHAIN = 48  # of the products' sum over channels: shorter ones have smaller errors


@helper
def _place_taps(table, first, count, taps, at, step):
    """The addresses of `count` taps from number `first`, 0 for those beyond the window's `taps`."""
    for t in range(count):
        store_int(table + 8 * t, at + (first + t) * step if first + t < taps else 0)


@kernel
def transform_filters(part, parts, arguments):
    """Packed w, panels of [taps][depth][width] -> G g G': a packed matrix for each place, `room` numbers apart.

    windows: how many parts a window has, each of form_taps taps and of `places` places.
    """
    transform, windows, places, form_taps, packed, filters, taps, depth, channels, room = unpack(
        arguments, "qqqqqqqqqq"
    )
    sizes, table = malloc(64), malloc(8 * form_taps)
    vectors = (channels + WIDTH - 1) // WIDTH
    v = 0
    while v < vectors:
        n = panel_size(vectors - v)
        size = WIDTH * n * depth  # numbers of a tap, all treated alike
        first, end = size * part // parts // LANES * LANES, size * (part + 1) // parts // LANES * LANES
        store_int(sizes, (end if part + 1 < parts else size) - first)
        store_int(sizes + 8, 4 * room)
        for window in range(windows):
            at = packed + 4 * (taps * WIDTH * v * depth + first)
            _place_taps(table, window * form_taps, form_taps, taps, at, 4 * size)
            call(transform, table, filters + 4 * (window * places * room + WIDTH * v * depth + first), sizes)
        v += n
    free(sizes)
    free(table)


# The words of `convolve` and of `filter_gradients`. Arrays and vectors are addresses, strides are bytes.
#
# A patch has p_h x p_w pixels and gives m_h x m_w outputs; a long window has several, each next_window rows below the
# one before, whose products are added. patch, products, ...: the addresses of the form's transforms.
# room: numbers from one packed matrix in `filters` to the next. adds: 1 to add to what y holds. zeros, nothing: rows of
# zeros and of minus infinity. chunk: patches at once, at most. Range r of the patches has its sums at
# sums + r * range_step.
ConvolveWords = namedtuple(
    "ConvolveWords",
    "windows next_window p_h p_w m_h m_w patch products x xn xh xw H W top left depth filters room channels "
    "y yn yh yw N OH OW adds bias floor zeros nothing chunk",
)
FilterGradientWords = namedtuple(
    "FilterGradientWords",
    "windows next_window p_h p_w m_h m_w patch gradient x xn xh xw H W top left inputs dy dn dh dw N OH OW outputs "
    "sums ranges range_step zeros chunk",
)
CONVOLVE, FILTER_GRADIENTS = "q" * len(ConvolveWords._fields), "q" * len(FilterGradientWords._fields)


@helper
def _patches_of(s):
    """How many patches of an image stand below and beside each other."""
    return (s.OH + s.m_h - 1) // s.m_h, (s.OW + s.m_w - 1) // s.m_w


@helper
def _outputs_of(s, patch):
    """The image of a patch, and the row and column of the first of its outputs."""
    high, broad = _patches_of(s)
    n, rest = patch // (high * broad), patch % (high * broad)
    return n, rest // broad * s.m_h, rest % broad * s.m_w


@helper
def _place_pixels(table, rows, columns, at, h, w, step_h, step_w, H, W, elsewhere):
    """The addresses of rows x columns pixels from row h and column w, which is `at`; beyond H and W `elsewhere`."""
    for i in range(rows):
        inside = h + i >= 0 and h + i < H
        for j in range(columns):
            there = inside and w + j >= 0 and w + j < W
            store_int(table + 8 * (columns * i + j), at + i * step_h + j * step_w if there else elsewhere)


@kernel
def convolve(part, parts, arguments):
    """y = max(floor, bias + x * w), or that added to y. Shared out: patches, row by row."""
    s = ConvolveWords(*unpack(arguments, CONVOLVE))
    high, broad = _patches_of(s)
    patches = s.N * high * broad
    first, end = patches * part // parts, patches * (part + 1) // parts
    if first >= end:
        return
    chunk, depth, places, of_patch = s.chunk, s.depth, s.p_h * s.p_w, s.p_h * s.p_w * s.windows
    # numbers of a row; no power of two, whose rows would collide in the cache
    row = (depth + LANES - 1) // LANES * LANES + LANES
    V, M = malloc(4 * of_patch * chunk * row), malloc(4 * places * chunk * BLOCK)
    group = (chunk + GROUP - 1) // GROUP * GROUP
    table, outputs = malloc(8 * of_patch * group), malloc(8 * places * group)
    pixels, sizes, nowhere = malloc(8 * places), malloc(64), calloc(4 * BLOCK)
    soon = malloc(8 * group)
    for i in range(group):
        for k in range(of_patch):
            store_int(table + 8 * (k * group + i), V + 4 * row * (k * chunk + min(i, chunk - 1)))
        for k in range(places):
            store_int(outputs + 8 * (k * group + i), M + 4 * BLOCK * (k * chunk + i) if i < chunk else nowhere)
    vectors = (s.channels + WIDTH - 1) // WIDTH
    chains = (depth + CHAIN - 1) // CHAIN
    span = (depth + chains - 1) // chains
    for start in range(first, end, chunk):
        count = min(chunk, end - start)
        store_int(sizes, depth)
        store_int(sizes + 8, 4 * row * chunk)
        for i in range(count):
            n, h, w = _outputs_of(s, start + i)
            h, w = h - s.top, w - s.left
            for window in range(s.windows):
                at = s.x + n * s.xn + h * s.xh + w * s.xw
                _place_pixels(pixels, s.p_h, s.p_w, at, h, w, s.xh, s.xw, s.H, s.W, s.zeros)
                call(s.patch, pixels, V + 4 * row * (window * places * chunk + i), sizes)
                h += s.next_window
        v = 0
        while v < vectors:
            block = v  # as many panels as fit BLOCK
            while v < vectors and (v - block + panel_size(vectors - v)) * WIDTH <= BLOCK:
                n = panel_size(vectors - v)
                column, valid = 4 * WIDTH * (v - block), s.channels - v * WIDTH
                for k in range(of_patch):
                    for c in range(0, depth, span):
                        weights = s.filters + 4 * (k * s.room + WIDTH * (v * depth + n * c))
                        deep = min(depth - c, span)
                        for i in range(0, count, 2):  # each tile sends for a part of the next place's weights
                            store_int(soon + 8 * i, weights + 4 * (s.room + deep * i))
                        for i in range(0, count, GROUP):
                            at, to = table + 8 * (k * group + i), outputs + 8 * (k % places * group + i)
                            rows, adds = min(count - i, GROUP), 0 if c == 0 and k < places else ADDS
                            output_panel(
                                n, at, 1, 4 * c, deep, weights, to, column, rows, valid, adds, s.zeros, s.nothing,
                                soon + 8 * i,
                            )  # fmt: skip
                v += n
            valid, offset = min(s.channels - block * WIDTH, (v - block) * WIDTH), 4 * WIDTH * block
            store_int(sizes, valid)
            store_int(sizes + 8, 4 * BLOCK * chunk)
            store_int(sizes + 16, s.bias + offset)
            store_int(sizes + 24, s.floor + offset)
            store_int(sizes + 32, s.adds)
            for i in range(count):
                m, h, w = _outputs_of(s, start + i)
                at = s.y + m * s.yn + h * s.yh + w * s.yw + offset
                _place_pixels(pixels, s.m_h, s.m_w, at, h, w, s.yh, s.yw, s.OH, s.OW, nowhere)
                call(s.products, M + 4 * BLOCK * i, pixels, sizes)
    for place in (V, M, table, outputs, pixels, sizes, soon, nowhere):
        free(place)


@kernel
def filter_gradients(part, parts, arguments):
    """Sums of V * (A dy A') over patches, [windows][places][inputs][outputs].

    The pieces are (range of patches, row of places): a part of them makes, for some patches, one row after the other.
    """
    s = FilterGradientWords(*unpack(arguments, FILTER_GRADIENTS))
    chunk, inputs, outputs, wide = s.chunk, s.inputs, s.outputs, s.p_w
    of_x, of_dy = s.p_h * s.p_w, s.m_h * s.m_w
    high, broad = _patches_of(s)
    patches = s.N * high * broad
    row, width = (inputs + LANES - 1) // LANES * LANES + LANES, (outputs + LANES - 1) // LANES * LANES + LANES
    V, Z = malloc(4 * wide * chunk * row), malloc(4 * wide * chunk * width)
    columns, rows, table = malloc(4 * chunk * row), malloc(4 * chunk * width), malloc(8 * wide * chunk)
    pixels, gradients = malloc(8 * of_x * chunk * s.windows), malloc(8 * of_dy * chunk)
    of_patch, of_gradient, nowhere = malloc(64), malloc(64), calloc(12 * WIDTH)
    for i in range(wide * chunk):
        store_int(table + 8 * i, V + 4 * row * i)
    store_int(of_patch, inputs)
    store_int(of_patch + 8, 4 * row * chunk)
    store_int(of_gradient, outputs)
    store_int(of_gradient + 8, 4 * width * chunk)
    lines = s.windows * s.p_h
    first_piece, end_piece = lines * s.ranges * part // parts, lines * s.ranges * (part + 1) // parts
    for r in range(first_piece // lines, (end_piece + lines - 1) // lines):
        begin, stop = patches * r // s.ranges, patches * (r + 1) // s.ranges
        for start in range(begin, stop, chunk):
            count = min(chunk, stop - start)
            for i in range(count):
                n, p, q = _outputs_of(s, start + i)
                h, w = p - s.top, q - s.left
                for window in range(s.windows):
                    at, to = s.x + n * s.xn + h * s.xh + w * s.xw, pixels + 8 * of_x * (window * chunk + i)
                    _place_pixels(to, s.p_h, s.p_w, at, h, w, s.xh, s.xw, s.H, s.W, s.zeros)
                    h += s.next_window
                at = s.dy + n * s.dn + p * s.dh + q * s.dw
                _place_pixels(gradients + 8 * of_dy * i, s.m_h, s.m_w, at, p, q, s.dh, s.dw, s.OH, s.OW, s.zeros)
            for line in range(max(first_piece - r * lines, 0), min(end_piece - r * lines, lines)):
                window = line // s.p_h
                store_int(of_patch + 16, line % s.p_h)
                store_int(of_gradient + 16, line % s.p_h)
                for i in range(count):
                    call(s.patch, pixels + 8 * of_x * (window * chunk + i), V + 4 * row * i, of_patch)
                    call(s.gradient, gradients + 8 * of_dy * i, Z + 4 * width * i, of_gradient)
                for k in range(wide):
                    pack_columns(table + 8 * k * chunk, count, 0, inputs, columns, chunk)
                    pack_rows(Z + 4 * width * k * chunk, 4 * width, count, outputs, rows, 0, chunk)
                    to = s.sums + r * s.range_step + 4 * (wide * line + k) * inputs * outputs
                    add_products(columns, rows, count, chunk, inputs, outputs, to, 4 * outputs, ADDS, nowhere)
    for place in (V, Z, columns, rows, table, pixels, gradients, of_patch, of_gradient, nowhere):
        free(place)


@kernel
def add_filter_gradients(part, parts, arguments):
    """dw [taps][size] += G' m G, m the sums of each range, [windows][places][size]."""
    transform, windows, places, form_taps, sums, ranges, range_step, dw, taps, size = unpack(arguments, "qqqqqqqqqq")
    sizes, table = malloc(64), malloc(8 * form_taps)
    vectors = (size + LANES - 1) // LANES
    first, end = vectors * part // parts * LANES, min(vectors * (part + 1) // parts * LANES, size)
    store_int(sizes, end - first)
    store_int(sizes + 8, 4 * size)
    for window in range(windows):
        _place_taps(table, window * form_taps, form_taps, taps, dw + 4 * first, 4 * size)
        for r in range(ranges):
            call(transform, sums + r * range_step + 4 * (window * places * size + first), table, sizes)
    free(sizes)
    free(table)

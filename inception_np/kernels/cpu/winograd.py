"""A 3x3 convolution of stride 1 with 16 products where the definition has 36: Winograd's F(2x2, 3x3).

Take one dimension first: two neighbouring outputs of a filter of three taps, from four inputs. By definition

    y0 = d0 g0 + d1 g1 + d2 g2
    y1 = d1 g0 + d2 g1 + d3 g2                six products.  With

    m0 = (d0 - d2) g0                          m1 = (d1 + d2) (g0 + g1 + g2) / 2
    m3 = (d1 - d3) g2                          m2 = (d2 - d1) (g0 - g1 + g2) / 2

    y0 = m0 + m1 + m2          y1 = m1 - m2 - m3          there are four. (Multiply out: every g appears as above.)

As matrices, y = A' [(G g) * (B' d)], * element by element and ' transposed, with

          |  1   0   0  |            | 1  0 -1  0 |            | 1  1  1  0 |
      G = | 1/2 1/2 1/2 |       B' = | 0  1  1  0 |       A' = | 0  1 -1 -1 |
          | 1/2-1/2 1/2 |            | 0 -1  1  0 |
          |  0   0   1  |            | 0  1  0 -1 |

In two dimensions the same is done to rows and then to columns: a 4x4 patch d of x, 2 pixels from the next one, gives a
2x2 patch of y,

    y = A' [ (G g G') * (B' d B) ] A            16 products for 4 outputs: 4 an output in place of 9.

The sums over input channels stay outside the transforms, since those are linear: so for each of the 16 places there
is one matrix product, patches x channels in times channels in x channels out, on the tile of register_tile.py. G g G'
is made once a call; B' d B and A' m A are additions only, of vectors of channels.

       x          B' d B for 24 to 96 patches            products              A' m A, bias, ReLU          y
    +-----+       +--------------------------+       +---------------+       +--------------------+     +----+
    | 4x4 |  -->  | V: 16 x patches x inputs |  -->  | M: 16 x ... x |  -->  | 48 channels of the |  -> | 2x2|
    +-----+       +--------------------------+       |  48 channels  |       | patches            |     +----+
                                                     +---------------+
                  both small enough for the second-level cache, so that x is read once and y written once

What it costs is accuracy. The outputs are differences of sums larger than themselves: the absolute row sums of A', G
and B' are 3, 3/2 and 2, so in the worst case rounding errors grow by (3 * 3/2 * 2)^2 = 81 against the terms' own size,
and a large pixel in a patch leaves its rounding in all four outputs, also in those whose window it is not in. On
random data it stays near the direct sum, at most twice its error (tests/test_cpu_kernels.py holds it to that).
F(4x4, 3x3) would need 2.25 products an output, but its matrices hold 1/24 and 8 and its errors grow a hundredfold in
place of twice: it is left out.

Winograd 1980, "Arithmetic Complexity of Computations"; Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural
Networks", arXiv:1509.09308, section 4.1.
"""

from collections import namedtuple

import numpy as np

from .llvm import WIDTH
from .machine import helper, kernel, unpack
from .panels import add_products, pack_columns, pack_rows, spans
from .register_tile import GROUP, output_panel, panel_size
from .simd import LANES, calloc, free, load, load_int, malloc, splat, store, store_int, vmax

PLACES = 16  # of a 4x4 patch
BLOCK = 3 * LANES  # channels of products transformed at once


@helper
def _filter_row(g0, g1, g2, half):
    """G applied to three numbers: four."""
    s, d = (g0 + g2) * half, g1 * half
    return g0, s + d, s - d, g2


@kernel
def transform_filters(part, parts, arguments):
    """Packed w, panels of [9][depth][width] -> G g G': 16 packed matrices, `room` numbers apart."""
    packed, filters, depth, channels, room = unpack(arguments, "qqqqq")
    half = splat(np.float32(0.5))
    vectors = (channels + WIDTH - 1) // WIDTH
    v = 0
    while v < vectors:
        n = panel_size(vectors - v)
        size = WIDTH * n * depth  # numbers of a tap, all treated alike
        step = 4 * size
        first, end = size * part // parts // LANES * LANES, size * (part + 1) // parts // LANES * LANES
        for i in range(first, end if part + 1 < parts else size, LANES):
            m = min(size - i, LANES)
            source = packed + 4 * (9 * WIDTH * v * depth + i)
            a0, a1, a2, a3 = _filter_row(load(source, m), load(source + 3 * step, m), load(source + 6 * step, m), half)
            source += step
            b0, b1, b2, b3 = _filter_row(load(source, m), load(source + 3 * step, m), load(source + 6 * step, m), half)
            source += step
            c0, c1, c2, c3 = _filter_row(load(source, m), load(source + 3 * step, m), load(source + 6 * step, m), half)
            target = filters + 4 * (WIDTH * v * depth + i)
            _store_part(target, 4 * room, m, *_filter_row(a0, b0, c0, half))
            _store_part(target + 16 * room, 4 * room, m, *_filter_row(a1, b1, c1, half))
            _store_part(target + 32 * room, 4 * room, m, *_filter_row(a2, b2, c2, half))
            _store_part(target + 48 * room, 4 * room, m, *_filter_row(a3, b3, c3, half))
        v += n


@helper
def _patch_row(d0, d1, d2, d3):
    """B' applied to four numbers."""
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


@helper
def _load_row(places, c, n):
    """Four vectors of channels from the four addresses in `places`, c bytes further."""
    return (
        load(load_int(places) + c, n),
        load(load_int(places + 8) + c, n),
        load(load_int(places + 16) + c, n),
        load(load_int(places + 24) + c, n),
    )


@helper
def _transform_patch(places, depth, target, step):
    """B' d B of one patch, whose 16 pixels stand at the addresses in `places`; `step` bytes from place to place."""
    for c in range(0, depth, LANES):
        n = min(depth - c, LANES)
        a0, a1, a2, a3 = _load_row(places, 4 * c, n)
        b0, b1, b2, b3 = _load_row(places + 32, 4 * c, n)
        c0, c1, c2, c3 = _load_row(places + 64, 4 * c, n)
        d0, d1, d2, d3 = _load_row(places + 96, 4 * c, n)
        p0, q0, r0, s0 = _patch_row(a0, b0, c0, d0)
        p1, q1, r1, s1 = _patch_row(a1, b1, c1, d1)
        p2, q2, r2, s2 = _patch_row(a2, b2, c2, d2)
        p3, q3, r3, s3 = _patch_row(a3, b3, c3, d3)
        to = target + 4 * c
        _store_part(to, step, n, *_patch_row(p0, p1, p2, p3))
        _store_part(to + 4 * step, step, n, *_patch_row(q0, q1, q2, q3))
        _store_part(to + 8 * step, step, n, *_patch_row(r0, r1, r2, r3))
        _store_part(to + 12 * step, step, n, *_patch_row(s0, s1, s2, s3))


@helper
def _store_part(target, step, n, a, b, c, d):
    store(target, a, n)
    store(target + step, b, n)
    store(target + 2 * step, c, n)
    store(target + 3 * step, d, n)


@helper
def _output_row(m0, m1, m2, m3):
    """A' applied to four numbers: two."""
    return m0 + m1 + m2, m1 - m2 - m3


@helper
def _load_places(source, step, n):
    return load(source, n), load(source + step, n), load(source + 2 * step, n), load(source + 3 * step, n)


@helper
def _put(y, v, bias, floor, adds, n):
    if adds:
        v = v + load(y, n)
    store(y, vmax(load(floor, n), v + load(bias, n)), n)


@helper
def _transform_products(products, step, y, yh, yw, rows, columns, bias, floor, adds, n):
    """A' m A for a vector of channels, into the 2x2 pixels of y, or those of them that exist."""
    a0, a1, a2, a3 = _load_places(products, step, n)
    b0, b1, b2, b3 = _load_places(products + 4 * step, step, n)
    c0, c1, c2, c3 = _load_places(products + 8 * step, step, n)
    d0, d1, d2, d3 = _load_places(products + 12 * step, step, n)
    p0, q0 = _output_row(a0, b0, c0, d0)
    p1, q1 = _output_row(a1, b1, c1, d1)
    p2, q2 = _output_row(a2, b2, c2, d2)
    p3, q3 = _output_row(a3, b3, c3, d3)
    y00, y01 = _output_row(p0, p1, p2, p3)
    _put(y, y00, bias, floor, adds, n)
    if columns > 1:
        _put(y + yw, y01, bias, floor, adds, n)
    if rows > 1:
        y10, y11 = _output_row(q0, q1, q2, q3)
        _put(y + yh, y10, bias, floor, adds, n)
        if columns > 1:
            _put(y + yh + yw, y11, bias, floor, adds, n)


# The words of `convolve` and of `filter_gradients`. Arrays and vectors are addresses, strides are bytes.
#
# room: numbers from one of the 16 packed matrices in `filters` to the next. adds: 1 to add to what y holds. zeros,
# nothing: rows of zeros and of minus infinity. chunk: patches at once, at most. Range r of the patches has its sums at
# sums + r * range_step.
ConvolveWords = namedtuple(
    "ConvolveWords",
    "x xn xh xw H W top left depth filters room channels y yn yh yw N OH OW adds bias floor zeros nothing chunk",
)
FilterGradientWords = namedtuple(
    "FilterGradientWords",
    "x xn xh xw H W top left inputs dy dn dh dw N OH OW outputs sums ranges range_step zeros chunk",
)
CONVOLVE, FILTER_GRADIENTS = "q" * len(ConvolveWords._fields), "q" * len(FilterGradientWords._fields)


@helper
def _outputs_of(s, patch):
    """The image of a patch, and the row and column of the first of its 2x2 outputs."""
    high, wide = (s.OH + 1) // 2, (s.OW + 1) // 2
    n, rest = patch // (high * wide), patch % (high * wide)
    return n, rest // wide * 2, rest % wide * 2


@helper
def _place_patch(places, at, h, w, xh, xw, H, W, zeros):
    """The addresses of the 16 pixels of a patch that begins in row h and column w, `zeros` for those beyond x."""
    for i in range(4):
        for j in range(4):
            inside = h + i >= 0 and h + i < H and w + j >= 0 and w + j < W
            store_int(places + 8 * (4 * i + j), at + i * xh + j * xw if inside else zeros)


@kernel
def convolve(part, parts, arguments):
    """y = max(floor, bias + x * w), or that added to y. Shared out: patches, in rows of 2x2 outputs."""
    s = ConvolveWords(*unpack(arguments, CONVOLVE))
    patches = s.N * ((s.OH + 1) // 2) * ((s.OW + 1) // 2)
    first, end = patches * part // parts, patches * (part + 1) // parts
    if first >= end:
        return
    chunk, depth = s.chunk, s.depth
    # numbers of a row; no power of two, whose rows would collide in the cache
    row = (depth + LANES - 1) // LANES * LANES + LANES
    V, M = malloc(4 * PLACES * chunk * row), malloc(4 * PLACES * chunk * BLOCK)
    table, outputs, places = malloc(8 * PLACES * chunk), malloc(8 * PLACES * chunk), malloc(8 * PLACES)
    for i in range(PLACES * chunk):
        store_int(table + 8 * i, V + 4 * row * i)
        store_int(outputs + 8 * i, M + 4 * BLOCK * i)
    vectors = (s.channels + WIDTH - 1) // WIDTH
    _, span = spans(1, depth)
    for start in range(first, end, chunk):
        count = min(chunk, end - start)
        for i in range(count):
            n, h, w = _outputs_of(s, start + i)
            h, w = h - s.top, w - s.left
            at = s.x + n * s.xn + h * s.xh + w * s.xw
            _place_patch(places, at, h, w, s.xh, s.xw, s.H, s.W, s.zeros)
            _transform_patch(places, depth, V + 4 * row * i, 4 * row * chunk)
        v = 0
        while v < vectors:
            block = v  # as many panels as fit BLOCK
            while v < vectors and (v - block + panel_size(vectors - v)) * WIDTH <= BLOCK:
                n = panel_size(vectors - v)
                column, valid = 4 * WIDTH * (v - block), s.channels - v * WIDTH
                for k in range(PLACES):
                    for c in range(0, depth, span):
                        weights = s.filters + 4 * (k * s.room + WIDTH * (v * depth + n * c))
                        deep = min(depth - c, span)
                        for i in range(0, count, GROUP):
                            at, to = table + 8 * (k * chunk + i), outputs + 8 * (k * chunk + i)
                            rows, old = min(count - i, GROUP), int(c > 0)
                            output_panel(
                                n, at, 1, 4 * c, deep, weights, to, column, rows, valid, old, s.zeros, s.nothing, at
                            )
                v += n
            valid, offset = min(s.channels - block * WIDTH, (v - block) * WIDTH), 4 * WIDTH * block
            for i in range(count):
                m, h, w = _outputs_of(s, start + i)
                at = s.y + m * s.yn + h * s.yh + w * s.yw + offset
                for c in range(0, valid, LANES):
                    _transform_products(
                        M + 4 * (BLOCK * i + c), 4 * BLOCK * chunk, at + 4 * c, s.yh, s.yw, s.OH - h, s.OW - w,
                        s.bias + offset + 4 * c, s.floor + offset + 4 * c, s.adds, min(valid - c, LANES),
                    )  # fmt: skip
    for place in (V, M, table, outputs, places):
        free(place)


# ---- the gradient to the filters
#
# With V = B' d B and the products summed over patches, y = A' [(G g G') * V] A, so that
#
#     dg = G' [ sum over patches of V * (A dy A') ] G
#
# and the sum is, for each of the 16 places, a matrix product over patches: that of dw, with patches for pixels.


@helper
def _patch_line(i, a, b, c, d):
    """Number i of B' applied to four numbers; i counts 0..3."""
    if i == 0:
        return a - c
    if i == 1:
        return b + c
    if i == 2:
        return c - b
    return b - d


@helper
def _load_line(places, i, q, c, n):
    """Number i of B' applied to column q of the patch at `places`."""
    at = places + 8 * q
    return _patch_line(
        i,
        load(load_int(at) + c, n),
        load(load_int(at + 32) + c, n),
        load(load_int(at + 64) + c, n),
        load(load_int(at + 96) + c, n),
    )


@helper
def _output_line(i, a, b):
    """Number i of A applied to two numbers."""
    if i == 0:
        return a
    if i == 1:
        return a + b
    if i == 2:
        return a - b
    return splat(np.float32(0)) - b


@kernel
def filter_gradients(part, parts, arguments):
    """Sums of V * (A dy A') over patches, [16][inputs][outputs]. Shared out: (range of patches, row of places)."""
    s = FilterGradientWords(*unpack(arguments, FILTER_GRADIENTS))
    chunk, inputs, outputs = s.chunk, s.inputs, s.outputs
    patches = s.N * ((s.OH + 1) // 2) * ((s.OW + 1) // 2)
    row, width = (inputs + LANES - 1) // LANES * LANES + LANES, (outputs + LANES - 1) // LANES * LANES + LANES
    V, Z = malloc(16 * chunk * row), malloc(16 * chunk * width)
    columns, rows = malloc(4 * chunk * row), malloc(4 * chunk * width)
    table, places, nowhere = malloc(32 * chunk), malloc(8 * PLACES), calloc(12 * WIDTH)
    for i in range(4 * chunk):
        store_int(table + 8 * i, V + 4 * row * i)
    for piece in range(4 * s.ranges * part // parts, 4 * s.ranges * (part + 1) // parts):
        r, line = piece // 4, piece % 4
        target = s.sums + r * s.range_step + 16 * line * inputs * outputs
        begin, stop = patches * r // s.ranges, patches * (r + 1) // s.ranges
        for start in range(begin, stop, chunk):
            count = min(chunk, stop - start)
            for i in range(count):
                n, p, q = _outputs_of(s, start + i)
                h, w = p - s.top, q - s.left
                at = s.x + n * s.xn + h * s.xh + w * s.xw
                _place_patch(places, at, h, w, s.xh, s.xw, s.H, s.W, s.zeros)
                for c in range(0, inputs, LANES):
                    m = min(inputs - c, LANES)
                    a, b = _load_line(places, line, 0, 4 * c, m), _load_line(places, line, 1, 4 * c, m)
                    e, f = _load_line(places, line, 2, 4 * c, m), _load_line(places, line, 3, 4 * c, m)
                    _store_part(V + 4 * (row * i + c), 4 * row * chunk, m, *_patch_row(a, b, e, f))
                d00 = s.dy + n * s.dn + p * s.dh + q * s.dw
                d01 = d00 + s.dw if q + 1 < s.OW else s.zeros
                d10 = d00 + s.dh if p + 1 < s.OH else s.zeros
                d11 = d00 + s.dh + s.dw if p + 1 < s.OH and q + 1 < s.OW else s.zeros
                for c in range(0, outputs, LANES):
                    m = min(outputs - c, LANES)
                    a = _output_line(line, load(d00 + 4 * c, m), load(d10 + 4 * c, m))
                    b = _output_line(line, load(d01 + 4 * c, m), load(d11 + 4 * c, m))
                    none = splat(np.float32(0))
                    _store_part(Z + 4 * (width * i + c), 4 * width * chunk, m, a, a + b, a - b, none - b)
            for k in range(4):
                pack_columns(table + 8 * k * chunk, count, 0, inputs, columns, chunk)
                pack_rows(Z + 4 * width * k * chunk, 4 * width, count, outputs, rows, 0, chunk)
                to = target + 4 * k * inputs * outputs
                add_products(columns, rows, count, chunk, inputs, outputs, to, 4 * outputs, nowhere)
    for place in (V, Z, columns, rows, table, places, nowhere):
        free(place)


@helper
def _filter_column(m0, m1, m2, m3, half):
    """G' applied to four numbers: three."""
    s, d = (m1 + m2) * half, (m1 - m2) * half
    return m0 + s, d, s + m3


@helper
def _load_sums(sums, step, ranges, range_step, n):
    """Four places' sums, `step` bytes apart, over all ranges, first to last."""
    a, b, c, d = load(sums, n), load(sums + step, n), load(sums + 2 * step, n), load(sums + 3 * step, n)
    for r in range(1, ranges):
        at = sums + r * range_step
        a, b = a + load(at, n), b + load(at + step, n)
        c, d = c + load(at + 2 * step, n), d + load(at + 3 * step, n)
    return a, b, c, d


@kernel
def add_filter_gradients(part, parts, arguments):
    """dw [9][size] += G' m G, m the sums of all ranges [16][size]."""
    sums, ranges, range_step, dw, size = unpack(arguments, "qqqqq")
    half = splat(np.float32(0.5))
    V = (size + LANES - 1) // LANES
    for i in range(V * part // parts, V * (part + 1) // parts):
        n, at, step = min(size - i * LANES, LANES), sums + 64 * i, 4 * size
        a0, a1, a2, a3 = _load_sums(at, step, ranges, range_step, n)
        b0, b1, b2, b3 = _load_sums(at + 4 * step, step, ranges, range_step, n)
        c0, c1, c2, c3 = _load_sums(at + 8 * step, step, ranges, range_step, n)
        d0, d1, d2, d3 = _load_sums(at + 12 * step, step, ranges, range_step, n)
        p0, q0, r0 = _filter_column(a0, b0, c0, d0, half)
        p1, q1, r1 = _filter_column(a1, b1, c1, d1, half)
        p2, q2, r2 = _filter_column(a2, b2, c2, d2, half)
        p3, q3, r3 = _filter_column(a3, b3, c3, d3, half)
        _add_three(dw + 64 * i, step, n, *_filter_column(p0, p1, p2, p3, half))
        _add_three(dw + 64 * i + 3 * step, step, n, *_filter_column(q0, q1, q2, q3, half))
        _add_three(dw + 64 * i + 6 * step, step, n, *_filter_column(r0, r1, r2, r3, half))


@helper
def _add_three(dw, step, n, a, b, c):
    store(dw, load(dw, n) + a, n)
    store(dw + step, load(dw + step, n) + b, n)
    store(dw + 2 * step, load(dw + 2 * step, n) + c, n)

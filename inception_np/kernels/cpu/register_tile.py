"""One tile of a convolution's output, made without leaving the registers: where nearly all of the time is spent.

A convolution is a matrix product in disguise. Lay the pixels of the output in a column, its channels in a row; then

    y[pixel, o] = sum over taps t and input channels c of  x[where tap t of this pixel looks, c] * w[t, c, o]

is (pixels x K) times (K x channels), K = taps * channels in. Everything about its speed is decided by one question:
how often is a number fetched before it is used? A processor of today does two vector multiply-adds in a cycle, 64
floating point operations with AVX-512, and fetches two vectors in the same cycle if they are near. A product that
fetches both factors for each multiply-add therefore runs at half speed at best, and one that also keeps its sum in
memory at a third.

So we fetch few numbers and use each of them many times. A tile is 8 pixels by 48 channels of y, held as 24 sums in 24
of the 32 registers. One step, for one tap and one input channel c, is an outer product:

                        w[t, c, o .. o+47]           3 vectors of 16, fetched once, used 8 times each
                   +-----------+-----------+-----------+
                   |  ooooooo  |  ooooooo  |  ooooooo  |
                   +-----------+-----------+-----------+
     x[p0, c]  ->  | sum  0  0 | sum  0  1 | sum  0  2 |
     x[p1, c]  ->  | sum  1  0 | sum  1  1 | sum  1  2 |        24 multiply-adds = 12 cycles,
     x[p2, c]  ->  | sum  2  0 | sum  2  1 | sum  2  2 |        for 3 + 8 fetches
         .         |     .     |     .     |     .     |
         .         |     .     |     .     |     .     |        a sum rests 12 cycles between two
     x[p7, c]  ->  | sum  7  0 | sum  7  1 | sum  7  2 |        multiply-adds that need only 4
                   +-----------+-----------+-----------+
     8 single numbers,
     each spread over a vector, used 3 times

Twelve cycles of arithmetic ask for eleven fetches, under one a cycle, so fetching hides behind arithmetic. And since a
multiply-add takes four cycles to finish while two start in each, at least eight independent sums are needed to keep
the machine busy; there are 24. Nothing then holds the arithmetic up, and the loop runs at the processor's peak: no
instruction in it is there for anything but the sums, save three to count. The registers are the limit: 24 sums, 3
vectors of w and the spread x are 28 of 32. Twelve pixels by 32 channels is the other shape that fills them, for the
layers whose channels are no multiple of 48. AVX2 has 16 registers of 8 numbers: 4 x 24 and 6 x 16 fill those.

The weights lie in memory in just the order in which the tile eats them: [block of 48 channels][tap][c][48], "packed",
so that w is one stream read from its beginning to its end. That stream is read again for the next tile of pixels,
from the second-level cache, where it stays.

Where does x come from? The textbook answer is im2col: copy each pixel's window into a row of a large matrix, then
multiply. It moves 9 copies of x through memory for a 3x3 window, before a single product is made. But the tile reads
x one number at a time, so nothing asks for those rows to lie in any order; it is enough to know where each begins:

          a 3x3 window over x, taps 0..8                   the table of row addresses, for the tile's pixels p0..p7

          +----+----+----+                                 tap 0:  &zeros     &x[n,0,0]  &x[n,0,1]  ...  &x[n,0,6]
          | t0 | t1 | t2 |      p0 is the pixel at         tap 1:  &x[n,0,0]  &x[n,0,1]  &x[n,0,2]  ...  &x[n,0,7]
          +----+----+----+      (1, 0): its taps 0, 3      tap 2:  &x[n,0,1]  &x[n,0,2]  &x[n,0,3]  ...  &x[n,0,8]
          | t3 | p  | t5 |      and 6 lie outside x        tap 3:  &zeros     &x[n,1,0]  ...
          +----+----+----+                                    .
          | t6 | t7 | t8 |                                 tap 8:  &x[n,2,1]  ...
          +----+----+----+

Eight addresses a tap, instead of 8 x C numbers. Padding is an address too, that of a row of zeros: there is no padded
copy of x, and the loop has no `if`. Stride, dilation, 1x7 and 7x1 windows, the last pixels of an image row and the
first of the next in one tile, an x that is a channel slice of a larger array: all of it is in the table, and the
arithmetic never learns of it. The same loop with w transposed and the table made for the mirrored taps is the
gradient with respect to x. The table is made once for a few tiles of pixels and used for all blocks of channels, so
making it costs nothing worth mentioning. (The idea is XNNPACK's "indirection buffer"; Dukhan 2019, "The Indirect
Convolution Algorithm", arXiv:1907.02129.)

The gradient with respect to w is the same outer product seen from the other side. The tile is 8 input channels by 48
output channels of dw at one tap, and the steps run over pixels: 8 numbers of x (a table says where the pixel's row
is), 3 vectors of dy.

    dw[t, c, o] += sum over pixels of  x[where tap t of this pixel looks, c] * dy[pixel, o]

Each sum is one chain of multiply-adds in a fixed order, whatever the tile's shape and however many threads share the
tiles: so the bits do not depend on the number of threads. `python -m inception_np bench --ceilings` measures the peak
of this loop and what whole layers reach of it.

LLVM writes good code for a loop like this if it is spelled out: every sum a value of its own, never an array. That is
what the functions below do; they emit the tile for a number of rows and vectors.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .machine import helper
from .simd import (
    FEATURES,
    FLOAT,
    I32,
    I64,
    lanes_below,
    masked_load,
    masked_store,
    multiply_add,
    pointer_to,
    splat,
)

# The widest vectors here (of float32), and the tiles, rows x vectors, for blocks of 3, 2 and 1 times 16 channels. A
# block is done in several passes where 16 channels are more than one vector. Tiles of dw with fewer vectors have no
# more rows than others, since input channels come in multiples of 8 rather than 12.
if "avx512f" in FEATURES:
    WIDTH, OUTPUT_TILES, WEIGHT_TILES = 16, {3: (8, 3), 2: (12, 2), 1: (12, 1)}, {3: (8, 3), 2: (8, 2), 1: (8, 1)}
else:  # 16 registers
    WIDTH = 8 if "avx" in FEATURES else 4
    OUTPUT_TILES = WEIGHT_TILES = {3: (4, 3), 2: (6, 2), 1: (6, 2)}

AHEAD = 24  # pixels by which a tile of dw asks for x early: rows far apart are nothing that the processor foresees
GROUP = 24  # pixels whose addresses stand side by side in a table: whole tiles of every shape


class Tile:
    """The sums of a tile while its code is written: rows x vectors LLVM values."""

    def __init__(self, builder, rows, vectors):
        self.b, self.rows, self.vectors = builder, rows, vectors
        self.kind = ir.VectorType(FLOAT, WIDTH)
        self.zero = ir.Constant(self.kind, [0.0] * WIDTH)

    def at(self, place, offset):
        """The address `offset` bytes after another."""
        return self.b.add(place, ir.Constant(I64, offset))

    def grid(self, make):
        return [[make(m, n) for n in range(self.vectors)] for m in range(self.rows)]

    def phis(self):
        return self.grid(lambda m, n: self.b.phi(self.kind))

    def flow(self, phis, sums, block):
        """`sums` arrive in `phis` when control comes from `block`."""
        for m in range(self.rows):
            for n in range(self.vectors):
                phis[m][n].add_incoming(sums[m][n], block)

    def masks(self, valid):
        """Which lanes of each vector are real channels, when `valid` of the tile's are."""
        lanes = [self.at(valid, -WIDTH * n) for n in range(self.vectors)]
        return [lanes_below(self.b, count, WIDTH) for count in lanes]

    def load(self, place, masks=None):
        """A row of vectors from memory."""
        row = []
        for n in range(self.vectors):
            pointer = pointer_to(self.b, self.at(place, 4 * WIDTH * n), self.kind)
            if masks is None:
                row.append(self.b.load(pointer, align=4))
            else:
                row.append(masked_load(self.b, pointer, masks[n], self.kind))
        return row

    def store(self, sums, places, masks=None):
        for m in range(self.rows):
            for n in range(self.vectors):
                pointer = pointer_to(self.b, self.at(places[m], 4 * WIDTH * n), self.kind)
                if masks is None:
                    self.b.store(sums[m][n], pointer, align=4)
                else:
                    masked_store(self.b, sums[m][n], pointer, masks[n])

    def outer_product(self, column, row, sums):
        """sums + column x row; column: the addresses of its numbers."""
        grown = []
        for m in range(self.rows):
            spread = splat(self.b, self.b.load(pointer_to(self.b, column[m], FLOAT)), self.kind)
            grown.append([multiply_add(self.b, spread, row[n], sums[m][n]) for n in range(self.vectors)])
        return grown

    def fetch_early(self, place):
        """Have the cache line at an address on its way to the first-level cache; no address is wrong."""
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0")
        read, keep, data = (ir.Constant(I32, value) for value in (0, 3, 1))
        self.b.call(function, [pointer_to(self.b, place, ir.IntType(8)), read, keep, data])

    def addresses(self, table):
        """`rows` addresses from a table."""
        return [self.b.load(pointer_to(self.b, self.at(table, 8 * m), I64)) for m in range(self.rows)]


def output_tile(rows, vectors, block):
    """Emit the tile of y (or dx): see `_emit_output`. block: how many numbers of packed w belong to one step."""

    @intrinsic
    def tile(context, table, taps, depth, weights, outputs, column, valid, adds, bias, floor):
        def generate(context, builder, signature, values):
            _emit_output(Tile(builder, rows, vectors), block, *values)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return tile


def _emit_output(tile, block, table, taps, depth, weights, outputs, column, valid, adds, bias, floor):
    """y[m, o] = max(floor[o], bias[o] + sum over t < taps, k < depth of table[t][m][k] * weights[t][k][o]), o < valid.

    table: addresses, GROUP to a tap. outputs: a table of the addresses of y's rows m, written `column` bytes further.
    adds: 0, or 1 to add what y holds. bias: zeros where there is none; floor: zeros for ReLU, minus infinity for none.
    """
    b, constant = tile.b, lambda value: ir.Constant(I64, value)
    places = [b.add(place, column) for place in tile.addresses(outputs)]
    blocks = {}
    for name in ("new", "old", "tap", "step", "next", "done", "whole", "part", "end"):
        blocks[name] = b.append_basic_block(name)

    # what the sums start from
    masks = tile.masks(valid)
    offset = tile.load(bias, masks)
    b.cbranch(b.icmp_signed("==", adds, constant(0)), blocks["new"], blocks["old"])
    b.position_at_end(blocks["new"])
    b.branch(blocks["tap"])
    b.position_at_end(blocks["old"])
    held = [tile.load(place, masks) for place in places]
    held = tile.grid(lambda m, n: b.fadd(held[m][n], offset[n]))
    b.branch(blocks["tap"])

    # for each tap: the addresses of its rows of x
    b.position_at_end(blocks["tap"])
    t, w_tap, sums_tap = b.phi(I64), b.phi(I64), tile.phis()
    for come_from, first in ((blocks["new"], [offset] * tile.rows), (blocks["old"], held)):
        t.add_incoming(constant(0), come_from)
        w_tap.add_incoming(weights, come_from)
        tile.flow(sums_tap, first, come_from)
    x = tile.addresses(b.add(table, b.mul(t, constant(8 * GROUP))))
    b.branch(blocks["step"])

    # for each input channel: one outer product
    b.position_at_end(blocks["step"])
    k, w, sums = b.phi(I64), b.phi(I64), tile.phis()
    k.add_incoming(constant(0), blocks["tap"])
    w.add_incoming(w_tap, blocks["tap"])
    tile.flow(sums, sums_tap, blocks["tap"])
    index = b.shl(k, constant(2))
    grown = tile.outer_product([b.add(row, index) for row in x], tile.load(w), sums)
    k_next, w_next = tile.at(k, 1), tile.at(w, 4 * block)
    k.add_incoming(k_next, blocks["step"])
    w.add_incoming(w_next, blocks["step"])
    tile.flow(sums, grown, blocks["step"])
    b.cbranch(b.icmp_signed("<", k_next, depth), blocks["step"], blocks["next"])

    b.position_at_end(blocks["next"])
    t_next = tile.at(t, 1)
    t.add_incoming(t_next, blocks["next"])
    w_tap.add_incoming(w_next, blocks["next"])
    tile.flow(sums_tap, grown, blocks["next"])
    b.cbranch(b.icmp_signed("<", t_next, taps), blocks["tap"], blocks["done"])

    # a NaN is not below any floor, and stays
    b.position_at_end(blocks["done"])
    lowest = tile.load(floor, masks)
    clip = lambda m, n: b.select(b.fcmp_ordered("<", grown[m][n], lowest[n]), lowest[n], grown[m][n])  # noqa: E731
    sums = tile.grid(clip)
    enough = b.icmp_signed(">=", valid, constant(WIDTH * tile.vectors))
    b.cbranch(enough, blocks["whole"], blocks["part"])
    b.position_at_end(blocks["whole"])
    tile.store(sums, places)
    b.branch(blocks["end"])
    b.position_at_end(blocks["part"])
    tile.store(sums, places, masks)
    b.branch(blocks["end"])
    b.position_at_end(blocks["end"])


def weight_tile(rows, vectors):
    """Emit the tile of dw: see `_emit_weight`."""

    @intrinsic
    def tile(context, table, pixels, offset, dy, dy_step, dw, dw_step, valid, skip, nowhere):
        def generate(context, builder, signature, values):
            _emit_weight(Tile(builder, rows, vectors), *values)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return tile


def _emit_weight(tile, table, pixels, offset, dy, dy_step, dw, dw_step, valid, skip, nowhere):
    """dw[m, 0 .. valid] += sum over p < pixels of table[p][m] * dy[p, :], rows m of the tile.

    table: the address of each pixel's row of x, and AHEAD entries of any value more; the tile's rows begin `offset`
    bytes further. dy_step and dw_step: bytes between rows. The tile's first `skip` rows are not wanted (they belong to
    the tile before) and go `nowhere`.
    """
    b, constant = tile.b, lambda value: ir.Constant(I64, value)
    places = []
    for m in range(tile.rows):
        wanted = b.icmp_signed(">=", constant(m), skip)
        places.append(b.select(wanted, b.add(dw, b.mul(dw_step, constant(m))), nowhere))
    masks = tile.masks(valid)
    first = [tile.load(place, masks) for place in places]
    whole, part, end = (b.append_basic_block(name) for name in ("whole", "part", "end"))
    enough = b.icmp_signed(">=", valid, constant(WIDTH * tile.vectors))
    b.cbranch(enough, whole, part)
    for start, lanes in ((whole, None), (part, masks)):
        b.position_at_end(start)
        step = b.append_basic_block("step")
        b.branch(step)
        b.position_at_end(step)
        p, rows, sums = b.phi(I64), b.phi(I64), tile.phis()
        p.add_incoming(constant(0), start)
        rows.add_incoming(dy, start)
        tile.flow(sums, first, start)
        entry = b.add(table, b.shl(p, constant(3)))
        x = b.add(b.load(pointer_to(b, entry, I64)), offset)
        tile.fetch_early(b.add(b.load(pointer_to(b, tile.at(entry, 8 * AHEAD), I64)), offset))
        column = [tile.at(x, 4 * m) for m in range(tile.rows)]
        grown = tile.outer_product(column, tile.load(rows, lanes), sums)
        p_next, rows_next = tile.at(p, 1), b.add(rows, dy_step)
        p.add_incoming(p_next, step)
        rows.add_incoming(rows_next, step)
        tile.flow(sums, grown, step)
        after = b.append_basic_block("after")
        b.cbranch(b.icmp_signed("<", p_next, pixels), step, after)
        b.position_at_end(after)
        tile.store(grown, places, lanes)
        b.branch(end)
    b.position_at_end(end)


# For blocks of n = 3, 2 and 1 times 16 channels: (rows, channels, tile)
_OUTPUT = {n: (rows, WIDTH * v, output_tile(rows, v, 16 * n)) for n, (rows, v) in OUTPUT_TILES.items()}
_WEIGHT = {n: (rows, WIDTH * v, weight_tile(rows, v)) for n, (rows, v) in WEIGHT_TILES.items()}
_SINGLE = {n: weight_tile(1, v) for n, (_, v) in WEIGHT_TILES.items()}


def _output_block(n):
    """Up to GROUP pixels by a block of 16 n channels."""
    step, width, tile = _OUTPUT[n]

    @helper
    def block(table, taps, depth, weights, outputs, column, rows, valid, adds, bias, floor):
        for m in range(0, rows, step):
            for c in range(0, min(valid, 16 * n), width):
                tile(
                    table + 8 * m,
                    taps,
                    depth,
                    weights + 4 * c,
                    outputs + 8 * m,
                    column + 4 * c,
                    valid - c,
                    adds,
                    bias + 4 * c,
                    floor + 4 * c,
                )

    return block


def _weight_block(n):
    """Up to WEIGHT_ROWS[n] input channels, from `first`, by a block of 16 n output channels, of dw at one tap."""
    step, width, tile = _WEIGHT[n]
    single = _SINGLE[n]

    @helper
    def block(table, pixels, first, channels, dy, dy_step, dw, dw_step, valid, nowhere):
        for c in range(0, min(valid, 16 * n), width):
            if channels >= step:
                start = min(first, channels - step)  # the last tile begins early: it must not read beyond x
                tile(
                    table,
                    pixels,
                    4 * start,
                    dy + 4 * c,
                    dy_step,
                    dw + start * dw_step + 4 * c,
                    dw_step,
                    valid - c,
                    first - start,
                    nowhere,
                )
            else:
                for m in range(first, channels):
                    single(
                        table,
                        pixels,
                        4 * m,
                        dy + 4 * c,
                        dy_step,
                        dw + m * dw_step + 4 * c,
                        dw_step,
                        valid - c,
                        0,
                        nowhere,
                    )

    return block


WEIGHT_ROWS = {n: rows for n, (rows, _) in WEIGHT_TILES.items()}
output_block3, output_block2, output_block1 = (_output_block(n) for n in (3, 2, 1))
weight_block3, weight_block2, weight_block1 = (_weight_block(n) for n in (3, 2, 1))


@helper
def block_size(left):
    """How many times 16 channels the next block has when `left` are to be done: 3, and no 1 after a 3."""
    if left == 4:
        return 2
    return min(left, 3)

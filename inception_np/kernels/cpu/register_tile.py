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
the machine busy; there are 24. Nothing then holds the arithmetic up, and the loop runs near the processor's peak: what
else is in it are a few instructions to count, once in two steps, and one that sends for a line of memory that a later
tile will want, so that memory is read while the arithmetic goes on and not between. The registers are the limit: 24
sums, 3 vectors of w and the spread x are 28 of 32. Twelve pixels by 32 channels is the other shape that fills them, for
the layers whose channels are no multiple of 48. AVX2 has 16 registers of 8 numbers: 4 x 24 and 6 x 16 fill those. ARM's
NEON has 32 of 4: 8 x 12 and 12 x 8.

The weights lie in memory in just the order in which the tile eats them: [panel of 48 channels][tap][c][48], "packed",
so that w is one stream read from its beginning to its end. That stream is read again for the next tile of pixels,
from the second-level cache, where it stays (panels.py).

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
gradient with respect to x. The table is made once for a few tiles of pixels and used for all panels of channels, so
making it costs nothing worth mentioning. (The idea is XNNPACK's "indirection buffer"; Dukhan 2019, "The Indirect
Convolution Algorithm", arXiv:1907.02129.)

The gradient with respect to w is the same outer product seen from the other side. The tile is 8 input channels by 48
output channels of dw at one tap, and the steps run over pixels: 8 numbers of x, 3 vectors of dy.

    dw[t, c, o] += sum over pixels of  x[where tap t of this pixel looks, c] * dy[pixel, o]

Now a step needs few numbers of a row, and the next step's row is kilobytes away: rows at equal distances fall into few
sets of the cache and push each other out. So for a few hundred pixels at a time, dy is copied to panels, like weights,
and x, by way of the table, to columns: 8 channels of one pixel, then of the next. A copy is a load and a store, and is
used by every tile of its row or column of dw.

Each sum is one chain of multiply-adds in a fixed order (of Winograd's products, patches.py, a few short ones), whatever
the tile's shape and however many threads share the tiles: so the bits do not depend on the number of threads.
`python -m inception_np bench --ceilings` measures the peak of this loop and what whole layers reach of it.

The words here, and the field's (BLIS: Van Zee & van de Geijn 2015, "BLIS: A Framework for Rapidly Instantiating BLAS
Functionality"; XNNPACK):

    tile     microkernel, MR x NR: MR pixels (OUTPUT_ROWS) by NR channels (vectors x WIDTH)
    panel    packed micropanel: w for NR channels, one step of the sum after the other
    table    indirection buffer: the addresses of the rows of x
    group    GROUP pixels, whose addresses stand side by side in the table: a multiple of every MR
    chunk    MC: the pixels whose table is made at once, and to which a span is applied before the next span
    span     KC: the steps of the sum that are done for a whole chunk (panels.py)

LLVM writes good code for a loop like this if it is spelled out: every sum a value of its own, never an array. That is
what the functions below do; they emit the tile for a number of rows and vectors.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .llvm import (
    ELEMENT,
    I64,
    REGISTER,
    REGISTERS,
    SIZE,
    WIDTH,
    emit_fma,
    emit_load,
    emit_prefetch,
    emit_splat,
    emit_store,
    pointer_to,
)
from .machine import helper
from .simd import ROWS, fetch_to_write, load_int

# The tiles by their vectors: how many rows they have, so that they fill 32 registers or 16.
OUTPUT_ROWS = {32: {3: 8, 2: 12, 1: 12}, 16: {3: 4, 2: 6, 1: 12}}[REGISTERS]
WEIGHT_ROWS = {32: {3: 8, 2: 8, 1: 8}, 16: {3: 4, 2: 4, 1: 8}}[REGISTERS]

# What a tile does with the numbers that stand where it writes. The sum that goes on is one chain of additions, to the
# bit, over all its spans; the sum that is added is a chain of its own, and short chains have small errors.
GOES_ON, ADDS = 1, 2

TURN = 2  # outer products before a loop turns
GROUP = 24  # pixels whose addresses stand side by side in a table: whole tiles of every shape


class Tile:
    """The sums of a tile while its code is written: rows x vectors LLVM values."""

    def __init__(self, builder, rows, vectors):
        self.b, self.rows, self.vectors = builder, rows, vectors

    def at(self, place, offset):
        """The address `offset` bytes after another."""
        return self.b.add(place, ir.Constant(I64, offset))

    def grid(self, make):
        return [[make(m, n) for n in range(self.vectors)] for m in range(self.rows)]

    def phis(self):
        return self.grid(lambda m, n: self.b.phi(REGISTER))

    def flow(self, phis, sums, block):
        """`sums` arrive in `phis` when control comes from `block`."""
        for m in range(self.rows):
            for n in range(self.vectors):
                phis[m][n].add_incoming(sums[m][n], block)

    def load(self, place, valid=None):
        """A row of vectors from memory; of `valid` numbers, where not all are there."""
        row = []
        for n in range(self.vectors):
            there = self.at(place, SIZE * WIDTH * n)
            if valid is None:
                row.append(self.b.load(pointer_to(self.b, there, REGISTER), align=SIZE))
            else:
                row.append(emit_load(self.b, there, self.at(valid, -WIDTH * n), REGISTER))
        return row

    def store(self, sums, places, valid=None):
        for m in range(self.rows):
            for n in range(self.vectors):
                there = self.at(places[m], SIZE * WIDTH * n)
                if valid is None:
                    self.b.store(sums[m][n], pointer_to(self.b, there, REGISTER), align=SIZE)
                else:
                    emit_store(self.b, sums[m][n], there, self.at(valid, -WIDTH * n))

    def plus_held(self, sums, places, valid, condition):
        """The sums, with what stands at `places` added to them where the condition holds."""
        b, before = self.b, self.b.block
        held, after = b.append_basic_block("held"), b.append_basic_block("after")
        b.cbranch(condition, held, after)
        b.position_at_end(held)
        old = [self.load(place, valid) for place in places]
        added = self.grid(lambda m, n: b.fadd(old[m][n], sums[m][n]))
        from_held = b.block
        b.branch(after)
        b.position_at_end(after)
        total = self.phis()
        self.flow(total, sums, before)
        self.flow(total, added, from_held)
        return total

    def outer_product(self, column, row, sums):
        """sums + column x row; column: the addresses of its numbers."""
        grown = []
        for m in range(self.rows):
            x = emit_splat(self.b, self.b.load(pointer_to(self.b, column[m], ELEMENT)), REGISTER)
            grown.append([emit_fma(self.b, x, row[n], sums[m][n]) for n in range(self.vectors)])
        return grown

    def add_outer_products(self, sums, count, begin, step, row, column, coming=None):
        """sums + `count` outer products, of column(begin), column(begin + step), ... with the rows of vectors at `row`.

        TURN of them are done before the loop turns, those that are left one by one: counting is cheap beside them. At
        each turn the cache line at coming(counter) is sent for. Returns the end of the rows, and the sums.
        """
        b = self.b
        turn, rest, single, done = (b.append_basic_block(name) for name in ("turn", "rest", "single", "done"))
        whole = b.add(begin, b.mul(b.and_(count, ir.Constant(I64, -TURN)), ir.Constant(I64, step)))
        end = b.add(begin, b.mul(count, ir.Constant(I64, step)))

        def state(block):
            b.position_at_end(block)
            return b.phi(I64), b.phi(I64), self.phis()

        def products(number, at, row, sums):
            for _ in range(number):
                sums = self.outer_product(column(at), self.load(row), sums)
                at, row = self.at(at, step), self.at(row, SIZE * WIDTH * self.vectors)
            return at, row, sums

        first, before = (begin, row, sums), b.block
        b.cbranch(b.icmp_signed("<", begin, whole), turn, rest)
        here = state(turn)
        if coming is not None:
            emit_prefetch(b, coming(here[0]), 0, 2)
        after = products(TURN, *here)
        b.cbranch(b.icmp_signed("<", after[0], whole), turn, rest)
        left = state(rest)
        b.cbranch(b.icmp_signed("<", left[0], end), single, done)
        b.position_at_end(single)
        last = products(1, *left)
        b.branch(rest)
        for target, values, block in (
            (here, first, before), (here, after, turn),
            (left, first, before), (left, after, turn), (left, last, single),
        ):  # fmt: skip
            target[0].add_incoming(values[0], block)
            target[1].add_incoming(values[1], block)
            self.flow(target[2], values[2], block)
        b.position_at_end(done)
        return left[1], left[2]

    def addresses(self, table):
        """`rows` addresses from a table."""
        return [self.b.load(pointer_to(self.b, self.at(table, 8 * m), I64)) for m in range(self.rows)]

    def whole_or_part(self, valid):
        """Two blocks of code, for a tile whose channels are all there and for one with `valid` of them."""
        whole, part = self.b.append_basic_block("whole"), self.b.append_basic_block("part")
        enough = self.b.icmp_signed(">=", valid, ir.Constant(I64, WIDTH * self.vectors))
        self.b.cbranch(enough, whole, part)
        return (whole, None), (part, valid)


def _emit_output(tile, table, taps, begin, depth, weights, outputs, column, valid, adds, bias, floor, soon):
    """y[m, o] = max(floor[o], bias[o] + sum over t < taps, k < depth of table[t][m][k] * weights[t][k][o]), o < valid.

    table: addresses, GROUP to a tap; x is read from `begin` bytes after them. outputs: a table of the addresses of y's
    rows m, written `column` bytes further. adds: 0, GOES_ON or ADDS. bias: zeros where there is none; floor:
    zeros for ReLU, minus infinity for none. soon: where memory begins that is to be fetched meanwhile, as much as the
    tile reads of x.
    """
    b, constant = tile.b, lambda value: ir.Constant(I64, value)
    places = [b.add(place, column) for place in tile.addresses(outputs)]
    tap, done, end = (b.append_basic_block(name) for name in ("tap", "done", "end"))

    # what the sums start from
    starts = []
    for block, lanes in tile.whole_or_part(valid):
        b.position_at_end(block)
        offset = tile.load(bias, lanes)
        starts.append(((constant(0), weights, [offset] * tile.rows), b.block))
        old = b.append_basic_block("old")
        b.cbranch(b.icmp_signed("==", adds, constant(GOES_ON)), old, tap)
        b.position_at_end(old)
        held = [tile.load(place, lanes) for place in places]
        sums = tile.grid(lambda m, n, y=held, c=offset: b.fadd(y[m][n], c[n]))
        starts.append(((constant(0), weights, sums), b.block))
        b.branch(tap)

    # for each tap: the addresses of its rows of x; for each input channel: one outer product
    b.position_at_end(tap)
    t, w, sums = b.phi(I64), b.phi(I64), tile.phis()
    x = tile.addresses(b.add(table, b.mul(t, constant(8 * GROUP))))
    column = lambda k: [b.add(row, k) for row in x]  # noqa: E731
    there = b.add(soon, b.mul(b.mul(t, depth), constant(SIZE * tile.rows)))
    coming = lambda k: b.add(there, b.mul(k, constant(tile.rows)))  # noqa: E731
    w_next, grown = tile.add_outer_products(sums, depth, begin, SIZE, w, column, coming)
    t_next = tile.at(t, 1)
    for state, come_from in [*starts, ((t_next, w_next, grown), b.block)]:
        t.add_incoming(state[0], come_from)
        w.add_incoming(state[1], come_from)
        tile.flow(sums, state[2], come_from)
    b.cbranch(b.icmp_signed("<", t_next, taps), tap, done)

    # a NaN is not below any floor, and stays
    b.position_at_end(done)
    for block, lanes in tile.whole_or_part(valid):
        b.position_at_end(block)
        lowest = tile.load(floor, lanes)
        total = tile.plus_held(grown, places, lanes, b.icmp_signed("==", adds, constant(ADDS)))
        clip = lambda m, n, y=total, low=lowest: b.select(b.fcmp_ordered("<", y[m][n], low[n]), low[n], y[m][n])  # noqa: E731
        tile.store(tile.grid(clip), places, lanes)
        b.branch(end)
    b.position_at_end(end)


def _emit_weight(tile, columns, column_step, rows, pixels, dw, dw_step, wanted, valid, adds, nowhere):
    """dw[m, 0 .. valid] += sum over p < pixels of columns[m][p] * rows[p][:], the tile's rows m. adds: GOES_ON or ADDS.

    columns: ROWS numbers for each pixel, as many more for the tile's next ROWS rows `column_step` bytes further. rows:
    the tile's vectors for each pixel. dw_step: bytes between rows of dw, of which the first `wanted` exist; the others
    go `nowhere`.
    """
    b, constant = tile.b, lambda value: ir.Constant(I64, value)
    places = []
    for m in range(tile.rows):
        exists = b.icmp_signed("<", constant(m), wanted)
        places.append(b.select(exists, b.add(dw, b.mul(dw_step, constant(m))), nowhere))
    begin, end = b.append_basic_block("begin"), b.append_basic_block("end")
    goes_on = b.icmp_signed("==", adds, constant(GOES_ON))
    nothing = tile.grid(lambda m, n: ir.Constant(REGISTER, [0.0] * WIDTH))
    sums = []
    for block, lanes in tile.whole_or_part(valid):
        b.position_at_end(block)
        sums.append((tile.plus_held(nothing, places, lanes, goes_on), b.block))
        b.branch(begin)

    b.position_at_end(begin)
    first = tile.phis()
    for loaded, come_from in sums:
        tile.flow(first, loaded, come_from)
    lots = [b.mul(column_step, constant(i)) for i in range(tile.rows // ROWS)]
    column = lambda x: [tile.at(b.add(x, lots[m // ROWS]), SIZE * (m % ROWS)) for m in range(tile.rows)]  # noqa: E731
    _, grown = tile.add_outer_products(first, pixels, columns, SIZE * ROWS, rows, column)
    for block, lanes in tile.whole_or_part(valid):
        b.position_at_end(block)
        tile.store(tile.plus_held(grown, places, lanes, b.not_(goes_on)), places, lanes)
        b.branch(end)
    b.position_at_end(end)


def _output_tile(vectors):
    """The tile of y (or dx) for Numba: see `_emit_output`."""

    @intrinsic
    def tile(context, table, taps, begin, depth, weights, outputs, column, valid, adds, bias, floor, soon):
        def generate(context, builder, signature, values):
            _emit_output(Tile(builder, OUTPUT_ROWS[vectors], vectors), *values)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), generate

    return tile


def _weight_tile(vectors):
    """The tile of dw for Numba: see `_emit_weight`."""

    @intrinsic
    def tile(context, columns, column_step, rows, pixels, dw, dw_step, wanted, valid, adds, nowhere):
        def generate(context, builder, signature, values):
            _emit_weight(Tile(builder, WEIGHT_ROWS[vectors], vectors), *values)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), generate

    return tile


def _output_panel(vectors):
    """Up to GROUP pixels by a panel of channels."""
    rows, tile = OUTPUT_ROWS[vectors], _output_tile(vectors)

    @helper
    def panel(table, taps, begin, depth, weights, outputs, column, pixels, valid, adds, bias, floor, soon):
        for m in range(0, pixels, rows):
            at, to, then = table + 8 * m, outputs + 8 * m, load_int(soon + 8 * m)
            tile(at, taps, begin, depth, weights, to, column, valid, adds, bias, floor, then)

    return panel


def _weight_panel(vectors):
    """`channels` rows of dw by a panel of its columns."""
    height, tile = WEIGHT_ROWS[vectors], _weight_tile(vectors)

    @helper
    def panel(columns, column_step, rows, pixels, dw, dw_step, channels, valid, adds, nowhere):
        for m in range(0, channels, height):
            below = m + height < channels  # the next tile's part of dw is on its way while this one runs
            coming = dw + (m + height) * dw_step if below else dw + SIZE * WIDTH * vectors
            for i in range(height):
                for edge in range(0, SIZE * WIDTH * vectors, 64):
                    fetch_to_write(coming + i * dw_step + edge)
            at = columns + m // ROWS * column_step
            tile(at, column_step, rows, pixels, dw + m * dw_step, dw_step, channels - m, valid, adds, nowhere)

    return panel


_output3, _output2, _output1 = (_output_panel(vectors) for vectors in (3, 2, 1))
_weight3, _weight2, _weight1 = (_weight_panel(vectors) for vectors in (3, 2, 1))


@helper
def panel_size(left):
    """How many vectors wide the next panel is when `left` are to be done: 3, but two of 2 for the last 4."""
    if left == 4:
        return 2
    return min(left, 3)


@helper
def output_panel(vectors, table, taps, begin, depth, weights, outputs, column, pixels, valid, adds, bias, floor, soon):
    """Up to GROUP pixels of y by a panel of so many vectors: `_emit_output` for each tile of it. soon: a table."""
    if vectors == 3:
        _output3(table, taps, begin, depth, weights, outputs, column, pixels, valid, adds, bias, floor, soon)
    elif vectors == 2:
        _output2(table, taps, begin, depth, weights, outputs, column, pixels, valid, adds, bias, floor, soon)
    else:
        _output1(table, taps, begin, depth, weights, outputs, column, pixels, valid, adds, bias, floor, soon)


@helper
def weight_panel(vectors, columns, column_step, rows, pixels, dw, dw_step, channels, valid, adds, nowhere):
    """`channels` rows of dw by a panel of so many vectors: `_emit_weight` for each tile of it."""
    if vectors == 3:
        _weight3(columns, column_step, rows, pixels, dw, dw_step, channels, valid, adds, nowhere)
    elif vectors == 2:
        _weight2(columns, column_step, rows, pixels, dw, dw_step, channels, valid, adds, nowhere)
    else:
        _weight1(columns, column_step, rows, pixels, dw, dw_step, channels, valid, adds, nowhere)

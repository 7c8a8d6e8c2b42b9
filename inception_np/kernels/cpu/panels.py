"""How the factors of a product lie in memory while tiles run over them: as streams that are read front to back.

The tiles of register_tile.py are as many numbers wide as three, two or one registers; the channels of y are cut into
panels of these widths, and what a tile takes in one step stands side by side:

    rows       [panel][step][width]               weights, and for dw the gradient dy with pixels for steps
    columns    [lot of ROWS channels][pixel][ROWS]    x for dw: the numbers that a tile splats

Both are filled up with zeros, so that no tile asks where its channels end before it writes.
"""

from .llvm import SIZE, WIDTH
from .machine import helper
from .register_tile import panel_size, weight_panel
from .simd import LANES, ROWS, copy_register, load, load_int, scatter

SPAN = 768  # steps at once (KC): their panel of weights, and that much of a chunk of x, stay in the second-level cache
FEW = 16  # rows


@helper
def spans(taps, depth):
    """(taps, channels) of a span: about SPAN steps, either some of one tap's channels or all channels of some taps."""
    if depth > SPAN:
        pieces = (depth + SPAN - 1) // SPAN
        return 1, ((depth + pieces - 1) // pieces + 7) // 8 * 8
    pieces = (taps * depth + SPAN - 1) // SPAN
    return (taps + pieces - 1) // pieces, depth


@helper
def _pack_panel(at, step, rows, left, target, n):
    """`rows` rows of a panel of n vectors, of which `left` numbers are there."""
    if n == 3:
        for _ in range(rows):
            copy_register(at, target, left)
            copy_register(at + SIZE * WIDTH, target + SIZE * WIDTH, left - WIDTH)
            copy_register(at + 2 * SIZE * WIDTH, target + 2 * SIZE * WIDTH, left - 2 * WIDTH)
            at, target = at + step, target + 3 * SIZE * WIDTH
    elif n == 2:
        for _ in range(rows):
            copy_register(at, target, left)
            copy_register(at + SIZE * WIDTH, target + SIZE * WIDTH, left - WIDTH)
            at, target = at + step, target + 2 * SIZE * WIDTH
    else:
        for _ in range(rows):
            copy_register(at, target, left)
            at, target = at + step, target + SIZE * WIDTH


@helper
def pack_rows(source, step, rows, channels, panels, first, room):
    """`rows` rows of numbers, `step` bytes apart -> panels, each [room][width], from row `first` on.

    A few rows at a time, so that memory is read in the order in which it lies.
    """
    vectors = (channels + WIDTH - 1) // WIDTH
    for k in range(0, rows, FEW):
        few = min(rows - k, FEW)
        v = 0
        while v < vectors:
            n = panel_size(vectors - v)
            target = panels + SIZE * WIDTH * (v * room + (first + k) * n)
            _pack_panel(source + k * step + SIZE * WIDTH * v, step, few, channels - WIDTH * v, target, n)
            v += n


@helper
def pack_columns(table, count, begin, channels, columns, room):
    """`channels` numbers from `begin` bytes on in a table's rows -> [channel // ROWS][room][ROWS]; zeros beyond."""
    whole, step = channels // LANES * LANES, SIZE * ROWS * room
    for i in range(count):
        at, target = load_int(table + 8 * i) + begin, columns + SIZE * ROWS * i
        for c in range(0, SIZE * whole, SIZE * LANES):
            scatter(target + c * room, step, load(at + c, LANES))
        if whole < channels:
            scatter(target + SIZE * whole * room, step, load(at + SIZE * whole, channels - whole))


@helper
def add_products(columns, rows, count, room, channels, outputs, dw, dw_step, adds, nowhere):
    """dw (channels, outputs) += columns^T rows, over `count` pixels packed with this room. adds: GOES_ON or ADDS."""
    vectors = (outputs + WIDTH - 1) // WIDTH
    v = 0
    while v < vectors:
        n = panel_size(vectors - v)
        panel, at, valid = rows + SIZE * WIDTH * v * room, dw + SIZE * WIDTH * v, outputs - v * WIDTH
        weight_panel(n, columns, SIZE * ROWS * room, panel, count, at, dw_step, channels, valid, adds, nowhere)
        v += n

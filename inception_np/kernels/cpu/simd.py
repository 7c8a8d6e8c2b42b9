"""A value type for a vector register, so that a kernel says what runs side by side.

A `Vector` is 16 float32 side by side: one AVX-512 register. On a narrower machine LLVM makes it of two, or four,
registers; the kernels and the results stay the same. Numba knows it as an ordinary value: it can be a variable, an
argument, a result.

    x = load(p, 16)                # 16 floats from the address p, which need not be aligned
    y = fma(x, w, y)               # x * w + y, rounded once
    store(q, y, 16)

The last number says how many of the 16 are there. Where channels run out in the middle of a vector the rest is neither
read nor written, and reads as zero. AVX-512 has masks for that. So has AVX2, but AMD's processors take as long for a
masked store as for twenty others; there a whole vector is told from a part of one by a branch, which is foreseen, and
the part is written in pieces of 8, 4, 2 and 1. Where the number is the constant 16 the compiler drops all of it.

`Bytes` is 16 small integers, for max pooling's winners.
"""

import operator
import sys
from typing import Any

import numba
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

LANES = 16

FLOAT, I1, I8, I32, I64 = ir.FloatType(), ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
VECTOR, BYTES = ir.VectorType(FLOAT, LANES), ir.VectorType(I8, LANES)
MASK = ir.VectorType(I1, LANES)
ZERO = ir.Constant(VECTOR, [0.0] * LANES)


config: Any = numba.config  # (its settings come from the environment, unseen by type checkers)


def host_features() -> set[str]:
    """The instruction sets Numba compiles for: of this machine, or as NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say."""
    if config.CPU_NAME is None:
        listed = get_host_cpu_features()
        return {f[1:] for f in listed.split(",") if f.startswith("+")}
    listed = config.CPU_FEATURES or ""
    return {f[1:] for f in listed.split(",") if f.startswith("+")}


FEATURES = host_features()
WINDOWS = sys.platform == "win32"
IS_X86 = binding.get_process_triple().startswith(("x86_64", "amd64"))
HAS_FMA = "fma" in FEATURES or not IS_X86
HAS_MASKS = "avx512f" in FEATURES
WIDTH = 16 if HAS_MASKS else 8 if "avx" in FEATURES else 4  # float32 in a register


class VectorType(types.Type):
    def __init__(self):
        super().__init__(name="Vector")


class BytesType(types.Type):
    def __init__(self):
        super().__init__(name="Bytes")


vector, bytes16 = VectorType(), BytesType()


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, VECTOR)


@register_model(BytesType)
class BytesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, BYTES)


# ---- LLVM, put together by hand


def splat(builder, scalar, kind):
    """A vector with the same number in every lane."""
    undefined = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    everywhere = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, undefined, everywhere)


def multiply_add(builder, a, b, c):
    """a * b + c in one instruction where the machine has it, and in two where it would be a call into libm."""
    name = f"llvm.fma.v{a.type.count}f32" if HAS_FMA else f"llvm.fmuladd.v{a.type.count}f32"
    function = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), [a, b, c])


def lanes_below(builder, count, lanes=LANES):
    """The mask of the first `count` lanes (count an i64, which may be below zero or above `lanes`)."""
    kind = ir.VectorType(I32, lanes)
    return builder.icmp_signed(
        "<", ir.Constant(kind, list(range(lanes))), splat(builder, builder.trunc(count, I32), kind)
    )


def _intrinsic_of(kind, name):
    """The name of an LLVM intrinsic for a vector type."""
    return f"llvm.{name}.v{kind.count}{'f32' if kind.element == FLOAT else 'i8'}.p0"


def _align(kind):
    return 4 if kind.element == FLOAT else 1


def _masked_load(builder, pointer, count, kind):
    mask = lanes_below(builder, count, kind.count)
    function = ir.FunctionType(kind, [kind.as_pointer(), I32, mask.type, kind])
    load = cgutils.get_or_insert_function(builder.module, function, _intrinsic_of(kind, "masked.load"))
    return builder.call(load, [pointer, ir.Constant(I32, _align(kind)), mask, ir.Constant(kind, None)])


def _masked_store(builder, value, pointer, count):
    kind = value.type
    mask = lanes_below(builder, count, kind.count)
    function = ir.FunctionType(ir.VoidType(), [kind, kind.as_pointer(), I32, mask.type])
    store = cgutils.get_or_insert_function(builder.module, function, _intrinsic_of(kind, "masked.store"))
    builder.call(store, [value, pointer, ir.Constant(I32, _align(kind)), mask])


def _pieces(builder, kind, name, write):
    """A function (place, slot, count) that copies the first `count` lanes, fewer than all, between memory and `slot`.

    It does so in pieces of halved size, those that are bits of the count; before each stand the lanes of larger ones.
    """
    function = builder.module.globals.get(name)
    if function is not None:
        return function
    function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [I64, I64, I64]), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    place, slot, count = function.args
    with b.if_then(b.icmp_signed(">", count, ir.Constant(I64, 0))):
        size = kind.count // 2
        while size:
            piece = ir.VectorType(kind.element, size)
            with b.if_then(b.icmp_signed("!=", b.and_(count, ir.Constant(I64, size)), ir.Constant(I64, 0))):
                done = b.mul(b.and_(count, ir.Constant(I64, -2 * size)), ir.Constant(I64, _align(kind)))
                there, here = (pointer_to(b, b.add(base, done), piece) for base in (place, slot))
                source, target = (here, there) if write else (there, here)
                b.store(b.load(source, align=_align(kind)), target, align=_align(kind))
            size //= 2
    b.ret_void()
    return function


def _name(kind, what):
    return f"inception_np_{what}_{kind.count}_{'floats' if kind.element == FLOAT else 'bytes'}"


def load_lanes(builder, place, count, kind):
    """A vector of which the first `count` lanes are in memory; zeros for the others."""
    pointer = pointer_to(builder, place, kind)
    if HAS_MASKS:
        return _masked_load(builder, pointer, count, kind)
    with builder.if_else(builder.icmp_signed(">=", count, ir.Constant(I64, kind.count))) as (whole, part):
        with whole:
            all_lanes, from_whole = builder.load(pointer, align=_align(kind)), builder.block
        with part:
            if WIDTH > 4 and kind.element == FLOAT:
                some_lanes = _masked_load(builder, pointer, count, kind)
            else:
                slot = cgutils.alloca_once(builder, kind)
                builder.store(ir.Constant(kind, None), slot)
                copy = _pieces(builder, kind, _name(kind, "load"), write=False)
                builder.call(copy, [place, builder.ptrtoint(slot, I64), count])
                some_lanes = builder.load(slot)
            from_part = builder.block
    found = builder.phi(kind)
    found.add_incoming(all_lanes, from_whole)
    found.add_incoming(some_lanes, from_part)
    return found


def store_lanes(builder, value, place, count):
    """Write the first `count` lanes of a vector."""
    kind = value.type
    pointer = pointer_to(builder, place, kind)
    if HAS_MASKS:
        _masked_store(builder, value, pointer, count)
        return
    with builder.if_else(builder.icmp_signed(">=", count, ir.Constant(I64, kind.count))) as (whole, part):
        with whole:
            builder.store(value, pointer, align=_align(kind))
        with part:
            slot = cgutils.alloca_once(builder, kind)
            builder.store(value, slot)
            copy = _pieces(builder, kind, _name(kind, "store"), write=True)
            builder.call(copy, [place, builder.ptrtoint(slot, I64), count])


def pointer_to(builder, place, kind):
    return builder.inttoptr(place, kind.as_pointer())


def operation(name, generate, result, *parameters):
    """A Numba function of these parameters whose body is `generate(builder, *values)`."""

    def typing(context, *arguments):
        def lower(context, builder, sig, values):
            out = generate(builder, *values)
            return context.get_dummy_value() if out is None else out

        return result(*parameters), lower

    names = ", ".join(f"a{i}" for i in range(len(parameters)))
    scope = {"typing": typing}
    exec(f"def {name}(context, {names}):\n    return typing(context, {names})", scope)
    return intrinsic(scope[name])


# ---- memory

load = operation("load", lambda b, p, n: load_lanes(b, p, n, VECTOR), vector, types.int64, types.int64)
store = operation("store", lambda b, p, v, n: store_lanes(b, v, p, n), types.void, types.int64, vector, types.int64)
load_bytes = operation("load_bytes", lambda b, p, n: load_lanes(b, p, n, BYTES), bytes16, types.int64, types.int64)
store_bytes = operation(
    "store_bytes", lambda b, p, v, n: store_lanes(b, v, p, n), types.void, types.int64, bytes16, types.int64
)


def prefetch(builder, place, write, level):
    """Have the cache line at an address on its way to the first (3) or second (2) cache; no address is wrong."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    data = 1
    hints = [ir.Constant(I32, value) for value in (write, level, data)]
    builder.call(function, [pointer_to(builder, place, I8), *hints])


# fetch: to the second-level cache, to be read or written some time later. fetch_to_write: to the first, to be changed.
fetch = operation("fetch", lambda b, p: prefetch(b, p, 0, 2), types.void, types.int64)
fetch_to_write = operation("fetch_to_write", lambda b, p: prefetch(b, p, 1, 3), types.void, types.int64)


def _scalar_load(kind):
    return lambda b, p: b.load(pointer_to(b, p, kind))


def _scalar_store(kind):
    def generate(b, p, v):
        b.store(v, pointer_to(b, p, kind))

    return generate


load_int = operation("load_int", _scalar_load(I64), types.int64, types.int64)
store_int = operation("store_int", _scalar_store(I64), types.void, types.int64, types.int64)
load_float = operation("load_float", _scalar_load(FLOAT), types.float32, types.int64)
store_float = operation("store_float", _scalar_store(FLOAT), types.void, types.int64, types.float32)
load_double = operation("load_double", _scalar_load(ir.DoubleType()), types.float64, types.int64)
store_double = operation("store_double", _scalar_store(ir.DoubleType()), types.void, types.int64, types.float64)

# ---- memory of a kernel's own
#
# Not NumPy arrays: Numba drops an array after its last mention, and an address taken of it does not count as one.


def _take(b, size):
    """Memory of `size` bytes, a multiple of 64 and aligned so, until give_back."""
    name = "_aligned_malloc" if WINDOWS else "aligned_alloc"
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(I64, [I64, I64]), name)
    whole = b.and_(b.add(size, ir.Constant(I64, 63)), ir.Constant(I64, -64))
    line = ir.Constant(I64, 64)
    return b.call(function, [whole, line] if WINDOWS else [line, whole])


def _give_back(b, place):
    name = "_aligned_free" if WINDOWS else "free"
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), [I64]), name)
    b.call(function, [place])


take = operation("take", _take, types.int64, types.int64)
give_back = operation("give_back", _give_back, types.void, types.int64)

# ---- numbers

spread = operation("spread", lambda b, x: splat(b, x, VECTOR), vector, types.float32)
spread_byte = operation("spread_byte", lambda b, i: splat(b, b.trunc(i, I8), BYTES), bytes16, types.int64)
fma = operation("fma", multiply_add, vector, vector, vector, vector)


def _root(b, x):
    function = ir.FunctionType(VECTOR, [VECTOR])
    return b.call(cgutils.get_or_insert_function(b.module, function, "llvm.sqrt.v16f32"), [x])


root = operation("root", _root, vector, vector)


def _add_doubles(b, p, x):
    """Add the 16 numbers to 16 doubles in memory: where sums of many blocks come together."""
    kind = ir.VectorType(ir.DoubleType(), LANES)
    place = pointer_to(b, p, kind)
    b.store(b.fadd(b.load(place, align=8), b.fpext(x, kind)), place, align=8)


add_doubles = operation("add_doubles", _add_doubles, types.void, types.int64, vector)


def _larger(b, x, y):
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _positive_part(b, x):
    return b.select(b.fcmp_ordered("<", x, ZERO), ZERO, x)


def _where_positive(b, gate, x):
    return b.select(b.fcmp_ordered(">", gate, ZERO), x, ZERO)


def _beats(b, x, y):
    """x > y, or x is NaN and y is not: what wins a maximum."""
    return b.and_(b.fcmp_unordered(">", x, y), b.fcmp_ordered("ord", y, y))


larger = operation("larger", _larger, vector, vector, vector)  # y where either is NaN
largest = operation("largest", lambda b, x, y: b.select(_beats(b, x, y), x, y), vector, vector, vector)  # NaN stays
positive_part = operation("positive_part", _positive_part, vector, vector)  # ReLU; NaN stays
where_positive = operation("where_positive", _where_positive, vector, vector, vector)
winner = operation(  # i where x beats y, else j
    "winner",
    lambda b, x, y, i, j: b.select(_beats(b, x, y), i, j),
    bytes16,
    vector,
    vector,
    bytes16,
    bytes16,
)
where_equal = operation(  # x where i == j, else 0
    "where_equal",
    lambda b, i, j, x: b.select(b.icmp_unsigned("==", i, j), x, ZERO),
    vector,
    bytes16,
    bytes16,
    vector,
)


def _total(b, x):
    """The sum over the lanes, in halves: always the same order."""
    width = LANES
    while width > 1:
        width //= 2
        half = ir.Constant(ir.VectorType(I32, width), list(range(width)))
        rest = ir.Constant(ir.VectorType(I32, width), list(range(width, 2 * width)))
        x = b.fadd(b.shuffle_vector(x, x, half), b.shuffle_vector(x, x, rest))
    return b.extract_element(x, ir.Constant(I32, 0))


total = operation("total", _total, types.float32, vector)


def _peak(b, x):
    """The largest of the lanes."""
    width = LANES
    while width > 1:
        width //= 2
        half = ir.Constant(ir.VectorType(I32, width), list(range(width)))
        rest = ir.Constant(ir.VectorType(I32, width), list(range(width, 2 * width)))
        low, high = b.shuffle_vector(x, x, half), b.shuffle_vector(x, x, rest)
        x = b.select(b.fcmp_ordered(">", low, high), low, high)
    return b.extract_element(x, ir.Constant(I32, 0))


peak = operation("peak", _peak, types.float32, vector)


REGISTER = ir.VectorType(FLOAT, WIDTH)


def _move(b, source, target, count):
    """Copy WIDTH numbers, zeros in place of those beyond `count`."""
    b.store(load_lanes(b, source, count, REGISTER), pointer_to(b, target, REGISTER), align=4)


move = operation("move", _move, types.void, types.int64, types.int64, types.int64)

ROWS = 8 if HAS_MASKS else 4  # numbers of a column of a tile of dw that lie side by side


def _deal(b, target, step, x):
    """Write the lanes by ROWS, each lot `step` bytes after the one before."""
    kind = ir.VectorType(FLOAT, ROWS)
    for first in range(0, LANES, ROWS):
        lot = b.shuffle_vector(x, x, ir.Constant(ir.VectorType(I32, ROWS), list(range(first, first + ROWS))))
        b.store(lot, pointer_to(b, target, kind), align=4)
        target = b.add(target, step)


deal = operation("deal", _deal, types.void, types.int64, types.int64, vector)


def _transpose(b, source, source_step, target, target_step, rows, columns):
    """Write the `rows` x `columns` block at `source` transposed to `target`, WIDTH x WIDTH of it with zeros beyond.

    Rounds in which the off-diagonal halves of blocks twice as small as the last change places: rows i and i + d
    exchange the lanes whose bit d is set in one and clear in the other. Only `columns` rows are written.
    """
    block = []
    for i in range(WIDTH):
        step = ir.Constant(I64, i)
        there = b.icmp_signed("<", step, rows)
        # A row that is not there has no lanes; its address is never used.
        lanes = b.select(there, columns, ir.Constant(I64, 0))
        block.append(load_lanes(b, b.add(source, b.mul(step, source_step)), lanes, REGISTER))
    distance = WIDTH // 2
    while distance:
        for i in range(WIDTH):
            if i & distance:
                continue
            low, high = block[i], block[i + distance]
            first = [k if not k & distance else k - distance + WIDTH for k in range(WIDTH)]
            second = [k + distance if not k & distance else k + WIDTH for k in range(WIDTH)]
            pick = ir.VectorType(I32, WIDTH)
            block[i] = b.shuffle_vector(low, high, ir.Constant(pick, first))
            block[i + distance] = b.shuffle_vector(low, high, ir.Constant(pick, second))
        distance //= 2
    for i in range(WIDTH):
        with b.if_then(b.icmp_signed("<", ir.Constant(I64, i), columns)):
            place = b.add(target, b.mul(ir.Constant(I64, i), target_step))
            b.store(block[i], pointer_to(b, place, REGISTER), align=4)


transpose = operation("transpose", _transpose, types.void, *[types.int64] * 6)

PIXELS = 8  # that window_rows does at a time


def _window_rows(b, target, base, down, across, offset, dh, dw, height, width, zeros):
    """For 8 pixels, the addresses of the rows of x that one tap sees.

    base, down, across: where 8 int64 each stand: the address of x at the window's first tap, and its row and column
    (which may lie outside). The tap is dh rows and dw columns further, offset bytes. Outside (height, width): `zeros`.
    """
    kind = ir.VectorType(I64, PIXELS)
    read = lambda place: b.load(pointer_to(b, place, kind), align=8)  # noqa: E731
    spread_int = lambda value: splat(b, value, kind)  # noqa: E731
    row, column = b.add(read(down), spread_int(dh)), b.add(read(across), spread_int(dw))
    inside = b.and_(
        b.icmp_unsigned("<", row, spread_int(height)),  # below zero is a very large unsigned number
        b.icmp_unsigned("<", column, spread_int(width)),
    )
    there = b.add(read(base), spread_int(offset))
    b.store(b.select(inside, there, spread_int(zeros)), pointer_to(b, target, kind), align=8)


window_rows = operation("window_rows", _window_rows, types.void, *[types.int64] * 10)


@numba.njit(error_model="numpy", boundscheck=False)
def take_zeros(size):
    """`take`, filled with zeros."""
    place = take(size)
    for i in range(0, size, 64):
        store(place + i, spread(0.0), 16)
    return place


# ---- x + y, x - y, x * y, x / y


def _arithmetic(symbol, instruction):
    @infer_global(symbol)
    class Typing(ConcreteTemplate):
        cases = [signature(vector, vector, vector)]  # noqa: RUF012

    @lower_builtin(symbol, vector, vector)
    def lower(context, builder, sig, values):
        return getattr(builder, instruction)(*values, flags=("contract",))


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_symbol, _instruction)

"""A value type for a vector register, so that a kernel says what runs side by side.

A `Vector` is 16 float32 side by side: one AVX-512 register. On a narrower machine LLVM makes it of two, or four,
registers; the kernels and the results stay the same. Numba knows it as an ordinary value: it can be a variable, an
argument, a result. (In ../cpu64 it is LANES = 8 float64, and load_float loads one.)

    x = load(p, 16)                # 16 floats from the address p, which need not be aligned
    y = fma(x, w, y)               # x * w + y, rounded once
    store(q, y, 16)

The last number says how many of the 16 are there. Where channels run out in the middle of a vector the rest is neither
read nor written, and reads as zero. AVX-512 has masks for that. So has AVX2, but AMD's processors take as long for a
masked store as for twenty others; there a branch, which is predicted well, separates whole vectors from parts of one,
and a part is written in pieces of 8, 4, 2 and 1. Where the number is the constant 16 the compiler drops all of it.

`Bytes` is 16 small integers, for max pooling's winners.
"""

import operator

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from .compiler import helper
from .llvm import (
    ELEMENT,
    I8,
    I32,
    I64,
    NAME,
    NUMBER,
    REGISTER,
    REGISTERS,
    SIZE,
    WIDTH,
    WINDOWS,
    emit_fma,
    emit_load,
    emit_prefetch,
    emit_splat,
    emit_store,
    pointer_to,
)

LANES = 64 // SIZE

VECTOR, BYTES = ir.VectorType(ELEMENT, LANES), ir.VectorType(I8, LANES)
ZERO = ir.Constant(VECTOR, [0.0] * LANES)


class VectorType(types.Type):
    def __init__(self):
        super().__init__(name=f"Vector of {NAME}")


class BytesType(types.Type):
    def __init__(self):
        super().__init__(name="Bytes")


vector, bytes16 = VectorType(), BytesType()
number = numba.from_dtype(np.dtype(NUMBER))


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, VECTOR)


@register_model(BytesType)
class BytesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, BYTES)


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

load = operation("load", lambda b, p, n: emit_load(b, p, n, VECTOR), vector, types.int64, types.int64)
store = operation("store", lambda b, p, v, n: emit_store(b, v, p, n), types.void, types.int64, vector, types.int64)
load_bytes = operation("load_bytes", lambda b, p, n: emit_load(b, p, n, BYTES), bytes16, types.int64, types.int64)
store_bytes = operation(
    "store_bytes", lambda b, p, v, n: emit_store(b, v, p, n), types.void, types.int64, bytes16, types.int64
)


# fetch: to the second-level cache, to be read or written some time later. fetch_to_write: to the first, to be changed.
fetch = operation("fetch", lambda b, p: emit_prefetch(b, p, 0, 2), types.void, types.int64)
fetch_to_write = operation("fetch_to_write", lambda b, p: emit_prefetch(b, p, 1, 3), types.void, types.int64)


def _scalar_load(kind):
    return lambda b, p: b.load(pointer_to(b, p, kind))


def _scalar_store(kind):
    def generate(b, p, v):
        b.store(v, pointer_to(b, p, kind))

    return generate


load_int = operation("load_int", _scalar_load(I64), types.int64, types.int64)
store_int = operation("store_int", _scalar_store(I64), types.void, types.int64, types.int64)
load_float = operation("load_float", _scalar_load(ELEMENT), number, types.int64)
store_float = operation("store_float", _scalar_store(ELEMENT), types.void, types.int64, number)
load_double = operation("load_double", _scalar_load(ir.DoubleType()), types.float64, types.int64)
store_double = operation("store_double", _scalar_store(ir.DoubleType()), types.void, types.int64, types.float64)

# ---- memory of a kernel's own
#
# Not NumPy arrays: Numba drops an array after its last mention, and an address taken of it does not count as one.


def _malloc(b, size):
    """Memory of `size` bytes, a multiple of 64 and aligned so, until `free`."""
    name = "_aligned_malloc" if WINDOWS else "aligned_alloc"
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(I64, [I64, I64]), name)
    whole = b.and_(b.add(size, ir.Constant(I64, 63)), ir.Constant(I64, -64))
    line = ir.Constant(I64, 64)
    return b.call(function, [whole, line] if WINDOWS else [line, whole])


def _free(b, place):
    name = "_aligned_free" if WINDOWS else "free"
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), [I64]), name)
    b.call(function, [place])


malloc = operation("malloc", _malloc, types.int64, types.int64)
free = operation("free", _free, types.void, types.int64)

# ---- numbers

splat = operation("splat", lambda b, x: emit_splat(b, x, VECTOR), vector, number)
splat_byte = operation("splat_byte", lambda b, i: emit_splat(b, b.trunc(i, I8), BYTES), bytes16, types.int64)
fma = operation("fma", emit_fma, vector, vector, vector, vector)


def _sqrt(b, x):
    function = ir.FunctionType(VECTOR, [VECTOR])
    return b.call(cgutils.get_or_insert_function(b.module, function, f"llvm.sqrt.v{LANES}{NAME}"), [x])


sqrt = operation("sqrt", _sqrt, vector, vector)


def _add_doubles(b, p, x):
    """Add the 16 numbers to 16 doubles in memory: where sums of many blocks come together."""
    kind = ir.VectorType(ir.DoubleType(), LANES)
    place = pointer_to(b, p, kind)
    b.store(b.fadd(b.load(place, align=8), x if x.type == kind else b.fpext(x, kind)), place, align=8)


add_doubles = operation("add_doubles", _add_doubles, types.void, types.int64, vector)


def _vmax(b, x, y):
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _positive_part(b, x):
    return b.select(b.fcmp_ordered("<", x, ZERO), ZERO, x)


def _where_positive(b, gate, x):
    return b.select(b.fcmp_ordered(">", gate, ZERO), x, ZERO)


def _beats(b, x, y):
    """x > y, or x is NaN and y is not: what wins a maximum."""
    return b.and_(b.fcmp_unordered(">", x, y), b.fcmp_ordered("ord", y, y))


vmax = operation("vmax", _vmax, vector, vector, vector)  # y where either is NaN, as x86's
maximum = operation("maximum", lambda b, x, y: b.select(_beats(b, x, y), x, y), vector, vector, vector)  # NaN stays
positive_part = operation("positive_part", _positive_part, vector, vector)  # ReLU; NaN stays
where_positive = operation("where_positive", _where_positive, vector, vector, vector)
winner = operation(  # i where x beats y, else j
    "winner", lambda b, x, y, i, j: b.select(_beats(b, x, y), i, j), bytes16, vector, vector, bytes16, bytes16
)
where_equal = operation(  # x where i == j, else 0
    "where_equal", lambda b, i, j, x: b.select(b.icmp_unsigned("==", i, j), x, ZERO), vector, bytes16, bytes16, vector
)


def _copy_register(b, source, target, count):
    """Copy WIDTH numbers, zeros in place of those beyond `count`."""
    b.store(emit_load(b, source, count, REGISTER), pointer_to(b, target, REGISTER), align=SIZE)


copy_register = operation("copy_register", _copy_register, types.void, types.int64, types.int64, types.int64)

ROWS = 8 if REGISTERS == 32 else 4  # numbers of a column of a tile of dw that lie side by side


def _scatter(b, target, step, x):
    """Write the lanes by ROWS, each lot `step` bytes after the one before."""
    kind = ir.VectorType(ELEMENT, ROWS)
    for first in range(0, LANES, ROWS):
        lot = b.shuffle_vector(x, x, ir.Constant(ir.VectorType(I32, ROWS), list(range(first, first + ROWS))))
        b.store(lot, pointer_to(b, target, kind), align=SIZE)
        target = b.add(target, step)


scatter = operation("scatter", _scatter, types.void, types.int64, types.int64, vector)


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
        block.append(emit_load(b, b.add(source, b.mul(step, source_step)), lanes, REGISTER))
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
            b.store(block[i], pointer_to(b, place, REGISTER), align=SIZE)


transpose = operation("transpose", _transpose, types.void, *[types.int64] * 6)

PIXELS = 8  # that window_rows does at a time


def _window_rows(b, target, base, down, across, offset, dh, dw, height, width, zeros):
    """For 8 pixels, the addresses of the rows of x that one tap sees.

    base, down, across: where 8 int64 each stand: the address of x at the window's first tap, and its row and column
    (which may lie outside). The tap is dh rows and dw columns further, offset bytes. Outside (height, width): `zeros`.
    """
    kind = ir.VectorType(I64, PIXELS)
    read = lambda place: b.load(pointer_to(b, place, kind), align=8)  # noqa: E731
    splat_int = lambda value: emit_splat(b, value, kind)  # noqa: E731
    row, column = b.add(read(down), splat_int(dh)), b.add(read(across), splat_int(dw))
    inside = b.and_(
        b.icmp_unsigned("<", row, splat_int(height)),  # below zero is a very large unsigned number
        b.icmp_unsigned("<", column, splat_int(width)),
    )
    there = b.add(read(base), splat_int(offset))
    b.store(b.select(inside, there, splat_int(zeros)), pointer_to(b, target, kind), align=8)


window_rows = operation("window_rows", _window_rows, types.void, *[types.int64] * 10)


@helper
def calloc(size):
    """`malloc`, filled with zeros."""
    place = malloc(size)
    for i in range(0, size, 64):
        store(place + i, splat(NUMBER(0)), LANES)
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

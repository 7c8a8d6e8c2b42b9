"""Instructions that Numba has no words for, written as LLVM's intermediate code: vectors, some lanes of them, prefetch.

What these functions emit goes where the builder stands; simd.py makes of them functions that a kernel can call.
"""

import sys
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)

# The kernels are made for float32, and once more for float64 under the name of cpu64.
DOUBLE = __name__.split(".")[-2] == "cpu64"
ELEMENT, NAME = (ir.DoubleType(), "f64") if DOUBLE else (ir.FloatType(), "f32")
SIZE = 8 if DOUBLE else 4  # bytes of a number
NUMBER: Any = np.float64 if DOUBLE else np.float32

config: Any = numba.config  # (its settings come from the environment, unseen by type checkers)


def host_features() -> set[str]:
    """The instruction sets Numba compiles for: of this machine, or as NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say."""
    listed = get_host_cpu_features() if config.CPU_NAME is None else config.CPU_FEATURES or ""
    return {f[1:] for f in listed.split(",") if f.startswith("+")}


FEATURES = host_features()
WINDOWS = sys.platform == "win32"
IS_X86 = binding.get_process_triple().startswith(("x86_64", "amd64"))
HAS_FMA = "fma" in FEATURES or not IS_X86
HAS_MASKS = "avx512f" in FEATURES
REGISTERS = 32 if HAS_MASKS or not IS_X86 else 16  # that hold vectors; ARM's NEON has as many as AVX-512
WIDTH = (64 if HAS_MASKS else 32 if "avx" in FEATURES else 16) // SIZE  # numbers in a register
REGISTER = ir.VectorType(ELEMENT, WIDTH)


def emit_splat(builder, scalar, kind):
    """A vector with the same number in every lane."""
    undefined = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    everywhere = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, undefined, everywhere)


def emit_fma(builder, a, b, c):
    """a * b + c in one instruction where the machine has it, and in two where it would be a call into libm."""
    name = f"llvm.{'fma' if HAS_FMA else 'fmuladd'}.v{a.type.count}{NAME}"
    function = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), [a, b, c])


def lanes_below(builder, count, lanes):
    """The mask of the first `count` of these lanes (count an i64, which may be below zero or above `lanes`)."""
    kind = ir.VectorType(I32, lanes)
    return builder.icmp_signed(
        "<", ir.Constant(kind, list(range(lanes))), emit_splat(builder, builder.trunc(count, I32), kind)
    )


def _intrinsic_of(kind, name):
    """The name of an LLVM intrinsic for a vector type."""
    return f"llvm.{name}.v{kind.count}{NAME if kind.element == ELEMENT else 'i8'}.p0"


def _align(kind):
    return SIZE if kind.element == ELEMENT else 1


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
    return f"inception_np_{what}_{kind.count}_{NAME if kind.element == ELEMENT else 'i8'}"


def emit_load(builder, place, count, kind):
    """A vector of which the first `count` lanes are in memory; zeros for the others."""
    pointer = pointer_to(builder, place, kind)
    if HAS_MASKS:
        return _masked_load(builder, pointer, count, kind)
    with builder.if_else(builder.icmp_signed(">=", count, ir.Constant(I64, kind.count))) as (whole, part):
        with whole:
            all_lanes, from_whole = builder.load(pointer, align=_align(kind)), builder.block
        with part:
            if SIZE * WIDTH > 16 and kind.element == ELEMENT:
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


def emit_store(builder, value, place, count):
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


def emit_prefetch(builder, place, write, level):
    """Have the cache line at an address on its way to the first (3) or second (2) cache; no address is wrong."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    data = 1
    hints = [ir.Constant(I32, value) for value in (write, level, data)]
    builder.call(function, [pointer_to(builder, place, I8), *hints])

"""The convolution and its two gradients: shapes worked out, weights packed, and the kernels called.

A convolution is done directly (implicit_gemm.py), or by Winograd's way (winograd.py), which needs fewer products: for
windows of stride 1 that it has a form for, where that pays, in all three directions.

The weights are packed anew in every call, into memory from the arena: it costs one pass over them, they are warm in the
cache when the tiles read them, and no packed copy can be out of date. (compile_inference packs once.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

from ...backend.arrays import Array, Shape
from ...backend.program import address, clear_cache, constant, empty, traced
from ...backend.threads import num_threads
from ..window import Pads, Pair, out_size
from .batchnorm import moments, reciprocal_deviation
from .elementwise import clear, cleared
from .implicit_gemm import (
    BAND,
    PIXEL_BLOCK,
    MultiplyWords,
    TransposedWords,
    add_ranges,
    multiply,
    multiply_transposed,
    pack,
    pack_transposed,
    pad_rows,
)
from .llvm import DOUBLE, HAS_MASKS, NUMBER, SIZE, WIDTH
from .machine import constant_row, contiguous, is_rows, row_step, zero_row
from .patches import (
    BLOCK,
    ConvolveWords,
    FilterGradientWords,
    add_filter_gradients,
    convolve,
    filter_gradients,
    transform_filters,
)
from .register_tile import GROUP
from .rows import channels_last, few_parts, in_rows, is_channels_last
from .simd import LANES
from .transforms import (
    code,
    transform_filter,
    transform_gradient_row,
    transform_patch,
    transform_patch_row,
    transform_products,
    transform_sums,
)
from .winograd import FORMS, GRADIENT_FORMS, Form

FEW_CHANNELS = 8  # below this, a window's columns become one tap
LITTLE = 1e5  # multiply-adds: a microsecond, less than waking a thread takes

CHUNK = 4 * GROUP  # pixels whose table is made at once (MC), at most
TABLE = 1 << 15  # bytes of a table, about: it should stay in the first-level cache beside the rows it points to
RANGES, LONG, SUMS = 8, 4 * PIXEL_BLOCK, 1 << 22  # of dw: ranges at most, pixels of each at least, bytes of all sums

BUDGET = 3 << 18 if HAS_MASKS else 3 << 17  # bytes of V and M: they should stay in the second-level cache
PATCHES = 2 * GROUP  # at once, at most
DW_PATCHES, LONG_PATCHES = 2 * GROUP, 1024  # for the filters' gradient: patches at once, and of each range at least
LEAST_CHANNELS, GAIN = 16, 0.9  # where Winograd's way is not tried, and of the direct time what it may take
# In multiply-adds, the time of a patch, of a number of one, of a filter's number made and read, and of one only read.
A_PATCH, A_NUMBER, A_FILTER, A_READ = 5e3, 10, 50, 15


@traced
@in_rows("out", is_channels_last)
def conv2d(
    x: Array,
    w: Array,
    bias: Array | None,
    stride: Pair,
    pads: Pads,
    dilation: Pair,
    groups: int,
    relu: bool,
    out: Array | None,
) -> Array:
    """No columns are copied, as im2col would: tiles of y are made in registers, from the rows of x where they stand."""
    shape = (x.shape[0], *out_size(x.shape[1:3], w.shape[:2], stride, pads, dilation), w.shape[3])
    check("conv2d: x", x.shape, (*x.shape[:3], w.shape[2]))
    check("conv2d: bias", w.shape[3:] if bias is None else bias.shape, w.shape[3:])
    check("conv2d: out", shape if out is None else out.shape, shape)
    y = empty(shape, NUMBER) if out is None else out
    x, offsets, depth = windows(channels_last(x), w.shape[:2], pads, dilation)
    packed = packed_weights(contiguous(w), len(offsets) * depth)
    bias = None if bias is None else contiguous(bias)
    start, floor = 0 if bias is None else address(bias), zero_row(w.shape[3]) if relu else 0
    form = form_that_pays(w.shape[:2], stride, dilation, pads, w.shape[2], w.shape[3], shape)
    if form:
        filters = winograd_filters(form[0], packed, depth, w.shape[3], len(offsets))
        convolve_by_winograd(form, x, filters, depth, w.shape[3], pads, y, bias=start, floor=floor)
    else:
        convolve_directly(x, stride, offsets, depth, packed, w.shape[3], y, bias=start, floor=floor)
    return y


@traced
def conv2d_moments(
    x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int, eps: float
) -> tuple[Array, Array, Array, Array]:
    """One program for both."""
    y = conv2d(x, w, None, stride, pads, dilation, groups, False, None)
    mean, var = moments(y)
    return y, mean, var, reciprocal_deviation(var, eps)


@traced
@in_rows("into", is_channels_last)
def conv2d_dx(
    dy: Array, w: Array, x_shape: Shape, stride: Pair, pads: Pads, dilation: Pair, groups: int, into: Array | None
) -> Array:
    """A convolution of dy for each phase of the stride; no product with an inserted zero is ever made."""
    out_hw = out_size(x_shape[1:3], w.shape[:2], stride, pads, dilation)
    check("conv2d_dx: dy", dy.shape, (x_shape[0], *out_hw, w.shape[3]))
    check("conv2d_dx: w", w.shape, (*w.shape[:2], x_shape[3], dy.shape[3]))
    check("conv2d_dx: add", x_shape if into is None else into.shape, x_shape)
    dx, adds = empty(x_shape, NUMBER) if into is None else into, into is not None
    dy, w = channels_last(dy), contiguous(w)
    inputs, outputs = w.shape[2:]
    form = form_that_pays(w.shape[:2], stride, dilation, pads, outputs, inputs, x_shape)
    if form:
        kh, kw = w.shape[:2]
        turned = constant(np.arange(kh * kw - 1, -1, -1))  # the taps of the filter turned by 180 degrees
        packed = packed_transposed(w, turned)
        opposite = ((kh - 1 - pads[0][0], kh - 1 - pads[0][1]), (kw - 1 - pads[1][0], kw - 1 - pads[1][1]))
        filters = winograd_filters(form[0], packed, outputs, inputs, kh * kw)
        convolve_by_winograd(form, dy, filters, outputs, inputs, opposite, dx, adds=adds)
        return dx
    for a, b, offsets, taps in phases(w.shape[:2], stride, pads, dilation):
        target = dx[:, a :: stride[0], b :: stride[1]]
        if target.size == 0:
            continue
        if len(taps):
            convolve_directly(dy, (1, 1), offsets, outputs, packed_transposed(w, taps), inputs, target, adds=adds)
        elif not adds:
            clear(address(target), *target.strides[:3], *target.shape)
    return dx


@traced
@in_rows("dw", lambda dw: dw.flags.c_contiguous)
def conv2d_dw(x: Array, dy: Array, dw: Array, stride: Pair, pads: Pads, dilation: Pair, groups: int) -> None:
    """Pixels in ranges, whose number depends on the shapes alone: the same bits for any number of threads."""
    out_hw = out_size(x.shape[1:3], dw.shape[:2], stride, pads, dilation)
    check("conv2d_dw: dy", dy.shape, (x.shape[0], *out_hw, dw.shape[3]))
    check("conv2d_dw: dw", dw.shape, (*dw.shape[:2], x.shape[3], dy.shape[3]))
    x = channels_last(x)
    form = form_that_pays(dw.shape[:2], stride, dilation, pads, x.shape[3], dy.shape[3], dy.shape, gradient=True)
    if form:
        add_dw_by_winograd(form, x, channels_last(dy), dw, pads)
        return
    dy = dy if is_rows(dy) else contiguous(dy)
    x, offsets, inputs = windows(x, dw.shape[:2], pads, dilation)
    pixels = dy.shape[0] * dy.shape[1] * dy.shape[2]
    ranges = max(1, min(RANGES, SUMS // dw.nbytes, pixels // LONG))
    sums, step = dw, 0
    if ranges > 1:
        step = -(-dw.nbytes // 64) * 64
        sums = cleared((ranges * step // SIZE,))
    pieces = ranges * len(offsets) * -(-inputs // BAND)
    parts = min(pieces, (4 if ranges == RANGES else 2) * num_threads())  # each copies dy for itself
    words = TransposedWords(
        x=address(x), xn=x.strides[0], xh=x.strides[1], xw=x.strides[2], H=x.shape[1], W=x.shape[2],
        stride_h=stride[0], stride_w=stride[1], offsets=address(offsets), taps=len(offsets), inputs=inputs,
        dy=address(dy), dy_step=row_step(dy), N=dy.shape[0], OH=dy.shape[1], OW=dy.shape[2], outputs=dy.shape[3],
        dw=address(sums), ranges=ranges, range_step=step, zeros=zero_row(inputs),
    )  # fmt: skip
    multiply_transposed(*words, parts=1 if pixels * dw.size < LITTLE else parts)
    if ranges > 1:
        add_ranges(address(sums), ranges, step, address(dw), dw.size, parts=few_parts(sums.nbytes))


def check(name: str, got: Shape, wanted: Shape) -> None:
    """Raise ValueError for a shape that would send a kernel beyond an array."""
    if tuple(got) != tuple(wanted):
        raise ValueError(f"{name}: got shape {tuple(got)}, wanted {tuple(wanted)}")


# ---- the factors: weights in panels, the taps of a window


def packed_weights(w: Array, steps: int) -> Array:
    """w (..., channels), contiguous, as `steps` rows, packed: in the order in which tiles read it."""
    channels = w.shape[-1]
    packed = empty((packed_size(steps, channels),), NUMBER)
    pack(address(w), address(packed), steps, channels, parts=few_parts(w.nbytes))
    return packed


def packed_transposed(w: Array, taps: np.ndarray) -> Array:
    """These taps of w (kh, kw, inputs, outputs), contiguous, transposed to (taps, outputs, inputs) and packed."""
    inputs, outputs = w.shape[2:]
    packed = empty((packed_size(len(taps) * outputs, inputs),), NUMBER)
    parts = few_parts(packed.nbytes)
    pack_transposed(address(w), address(packed), address(taps), len(taps), inputs, outputs, parts=parts)
    return packed


def packed_size(steps: int, channels: int) -> int:
    """How many numbers the packed form of (steps, channels) has."""
    return steps * -(-channels // WIDTH) * WIDTH


def windows(x: Array, kernel_hw: Pair, pads: Pads, dilation: Pair) -> tuple[Array, np.ndarray, int]:
    """(x, the offsets of the taps, how many numbers each tap reads).

    Where the channels are few (an image has three), a tap's step is too short to be worth a row of the table; but the
    columns of a window are neighbours in memory, so kw taps of C channels are one tap of kw C channels, in a padded x.
    """
    if x.shape[3] < FEW_CHANNELS and kernel_hw[1] > 1 and dilation[1] == 1:
        offsets = tap_offsets((kernel_hw[0], 1), ((0, 0), (0, 0)), dilation)
        return padded(x, pads), offsets, kernel_hw[1] * x.shape[3]
    return x, tap_offsets(kernel_hw, pads, dilation), x.shape[3]


def padded(x: Array, pads: Pads) -> Array:
    """x (N, H, W, C) with zeros around, contiguous; x itself where it is that already."""
    (top, bottom), (left, right) = pads
    N, H, W, C = x.shape
    if not (top or bottom or left or right) and (W == 1 or x.strides[2] == SIZE * C):
        return x
    x = x if is_rows(x) and row_step(x) == SIZE * C else contiguous(x)
    height, width = H + top + bottom, W + left + right
    y = empty((N, height, width, C), NUMBER)
    pad_rows(address(x), x.strides[0], x.strides[1], H, W * C, address(y), top, left * C, height, width * C, N)
    return y


@cache
def tap_offsets(kernel_hw: Pair, pads: Pads, dilation: Pair) -> Array:
    """(kh kw, 2): row and column of every tap relative to the window's anchor, the pixel times the stride."""
    i, j = np.divmod(np.arange(kernel_hw[0] * kernel_hw[1]), kernel_hw[1])
    taps = [i * dilation[0] - pads[0][0], j * dilation[1] - pads[1][0]]
    return constant(np.stack(taps, 1).astype(np.int64))


@cache
def phases(kernel_hw: Pair, stride: Pair, pads: Pads, dilation: Pair) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
    """For each phase (a, b) of dx: the offsets (taps, 2) of the pixels of dy that it sees, and which taps those are.

    Pixel h = stride * q + a of dx is seen by output pixel p at tap i where p * stride + i * dilation - top = h. So
    a + top - i * dilation must be a multiple of the stride, and p = q + that multiple.
    """

    def axis(k: int, s: int, before: int, d: int) -> list[list[tuple[int, int]]]:
        return [[((a + before - i * d) // s, i) for i in range(k) if (a + before - i * d) % s == 0] for a in range(s)]

    rows = axis(kernel_hw[0], stride[0], pads[0][0], dilation[0])
    columns = axis(kernel_hw[1], stride[1], pads[1][0], dilation[1])
    found = []
    for a, down in enumerate(rows):
        for b, across in enumerate(columns):
            taps = [(p, q, i * kernel_hw[1] + j) for p, i in down for q, j in across]
            offsets = constant(np.array([t[:2] for t in taps], np.int64).reshape(-1, 2))
            found.append((a, b, offsets, constant(np.array([t[2] for t in taps], np.int64))))
    return found


# ---- direct convolution


def convolve_directly(
    x: Array,
    stride: Pair,
    offsets: np.ndarray,
    depth: int,
    packed: Array,
    channels: int,
    y: Array,
    *,
    adds: bool = False,
    bias: int = 0,
    floor: int = 0,
) -> None:
    """y (N, OH, OW, channels) = max(floor, bias + x * packed weights), or that added to what y holds.

    bias, floor: addresses of vectors; 0 for none.
    """
    taps = len(offsets)
    pixels = y.shape[0] * y.shape[1] * y.shape[2]
    parts, across = share(pixels, channels, 1.0 * pixels * taps * depth * channels)
    nothing = constant_row(-np.inf, channels)
    words = MultiplyWords(
        x=address(x), xn=x.strides[0], xh=x.strides[1], xw=x.strides[2], H=x.shape[1], W=x.shape[2],
        stride_h=stride[0], stride_w=stride[1], offsets=address(offsets), taps=taps, depth=depth,
        weights=address(packed), channels=channels,
        y=address(y), yn=y.strides[0], yh=y.strides[1], yw=y.strides[2], N=y.shape[0], OH=y.shape[1], OW=y.shape[2],
        zeros=zero_row(max(depth, channels)), adds=int(adds), bias=bias or zero_row(channels), floor=floor or nothing,
        nothing=nothing, across=across, chunk=max(GROUP, min(CHUNK, TABLE // (8 * taps) // GROUP * GROUP)),
    )  # fmt: skip
    multiply(*words, parts=parts)


def share(pixels: int, channels: int, work: float) -> tuple[int, int]:
    """(parts, across): how many parts, and how many of them side by side over the channels.

    A few parts for each thread, so that a thread that is held up loses little, but none below CHUNK pixels while
    pixels are many; where they are few, the blocks of channels are divided too.
    """
    threads = num_threads()
    if threads == 1 or work < LITTLE:
        return 1, 1
    down = min(-(-pixels // CHUNK), 4 * threads)
    if down >= threads:
        return down // threads * threads, 1
    panels = -(-channels // (3 * WIDTH))
    across = min(-(-2 * threads // down), panels)
    return down * across, across


# ---- convolution by Winograd's way

_direct = False


@contextmanager
def directly() -> Iterator[None]:
    """Within it every convolution is the direct sum, for comparisons."""
    global _direct
    clear_cache()
    before, _direct = _direct, True
    try:
        yield
    finally:
        _direct = before
        clear_cache()


def form_that_pays(
    kernel_hw: Pair,
    stride: Pair,
    dilation: Pair,
    pads: Pads,
    depth: int,
    channels: int,
    shape: Shape,
    *,
    gradient: bool = False,
    ready: bool = False,
) -> tuple[Form, bool] | None:
    """(the fastest form for this geometry and shape of y, whether height and width change places); None: directly.

    depth: channels that are added up. gradient: of the filters, whose sums are as large as the transformed filters, and
    which makes one row of places after the other. ready: the filters are transformed already. Times are counted in
    multiply-adds.
    """
    (kh, kw), forms = kernel_hw, GRADIENT_FORMS if gradient else FORMS
    turned = kh == 1
    if DOUBLE or _direct or (*stride, *dilation) != (1, 1, 1, 1) or max(*pads[0]) >= kh or max(*pads[1]) >= kw:
        return None
    N, OH, OW = (shape[0], shape[2], shape[1]) if turned else shape[:3]
    best, least = None, 1.0 * GAIN * N * OH * OW * kh * kw * depth * channels
    for form, least_terms in forms.get((kw, kh) if turned else (kh, kw), ()):
        patches = N * -(-OH // form.down.outputs) * -(-OW // form.across.outputs)
        if min(depth, channels) < LEAST_CHANNELS or (patches if gradient else depth) < least_terms:
            continue
        places, weights = form.parts * form.places[0] * form.places[1], depth * channels
        rows = form.parts * form.places[0] if gradient else 1
        time = (1.0 * patches + (A_READ if ready else A_FILTER)) * places * weights
        time += patches * (A_PATCH * rows + A_NUMBER * places * (depth + channels))
        if time < least:
            best, least = (form, turned), time
    return best


def winograd_filters(form: Form, packed: Array, depth: int, channels: int, taps: int) -> Array:
    """A packed matrix of filters for each place of a patch, from one for each tap of the window."""
    room, places = packed_size(depth, channels), form.places[0] * form.places[1]
    filters = empty((form.parts * places * room,), np.float32)
    words = code(transform_filter, form), form.parts, places, form.taps[0] * form.taps[1]
    transform_filters(*words, address(packed), address(filters), taps, depth, channels, room)
    return filters


def convolve_by_winograd(
    found: tuple[Form, bool],
    x: Array,
    filters: Array,
    depth: int,
    channels: int,
    pads: Pads,
    y: Array,
    *,
    adds: bool = False,
    bias: int = 0,
    floor: int = 0,
) -> None:
    """convolve_directly's y for a window of stride 1, from filters that were transformed."""
    form, turned = found
    x, y, pads = (x.swapaxes(1, 2), y.swapaxes(1, 2), pads[::-1]) if turned else (x, y, pads)
    places = form.places[0] * form.places[1]
    patches = y.shape[0] * -(-y.shape[1] // form.down.outputs) * -(-y.shape[2] // form.across.outputs)
    threads = num_threads()
    nothing = constant_row(-np.inf, channels)
    of_patch = 4 * places * (form.parts * (depth + LANES) + BLOCK)  # bytes of V and M
    words = ConvolveWords(
        windows=form.parts, next_window=form.down.taps,
        p_h=form.places[0], p_w=form.places[1], m_h=form.outputs[0], m_w=form.outputs[1],
        patch=code(transform_patch, form), products=code(transform_products, form),
        x=address(x), xn=x.strides[0], xh=x.strides[1], xw=x.strides[2], H=x.shape[1], W=x.shape[2],
        top=pads[0][0], left=pads[1][0], depth=depth, filters=address(filters), room=packed_size(depth, channels),
        channels=channels,
        y=address(y), yn=y.strides[0], yh=y.strides[1], yw=y.strides[2], N=y.shape[0], OH=y.shape[1], OW=y.shape[2],
        adds=int(adds), bias=bias or zero_row(channels), floor=floor or nothing,
        zeros=zero_row(max(depth, channels)), nothing=nothing,
        chunk=max(8, min(PATCHES, BUDGET // of_patch // 8 * 8)),
    )  # fmt: skip
    convolve(*words, parts=1 if threads == 1 else max(threads, min(patches // GROUP, 4 * threads) // threads * threads))


def add_dw_by_winograd(found: tuple[Form, bool], x: Array, dy: Array, dw: Array, pads: Pads) -> None:
    """dw (kh, kw, inputs, outputs), contiguous, += the gradient to the filters."""
    form, turned = found
    x, dy, pads = (x.swapaxes(1, 2), dy.swapaxes(1, 2), pads[::-1]) if turned else (x, dy, pads)
    N, OH, OW, outputs = dy.shape
    inputs, places, rows = x.shape[3], form.places[0] * form.places[1], form.parts * form.places[0]
    patches = N * -(-OH // form.down.outputs) * -(-OW // form.across.outputs)
    step = -(-form.parts * places * inputs * outputs * 4 // 64) * 64
    ranges = max(1, min(RANGES, SUMS // step, patches // LONG_PATCHES))
    sums = cleared((ranges * step // 4,))
    words = FilterGradientWords(
        windows=form.parts, next_window=form.down.taps,
        p_h=form.places[0], p_w=form.places[1], m_h=form.outputs[0], m_w=form.outputs[1],
        patch=code(transform_patch_row, form), gradient=code(transform_gradient_row, form),
        x=address(x), xn=x.strides[0], xh=x.strides[1], xw=x.strides[2], H=x.shape[1], W=x.shape[2],
        top=pads[0][0], left=pads[1][0], inputs=inputs,
        dy=address(dy), dn=dy.strides[0], dh=dy.strides[1], dw=dy.strides[2], N=N, OH=OH, OW=OW, outputs=outputs,
        sums=address(sums), ranges=ranges, range_step=step, zeros=zero_row(max(inputs, outputs)), chunk=DW_PATCHES,
    )  # fmt: skip
    filter_gradients(*words, parts=min(rows * ranges, 2 * num_threads()) if num_threads() > 1 else 1)
    transform, taps = code(transform_sums, form), dw.shape[0] * dw.shape[1]
    per_part = places, form.taps[0] * form.taps[1]
    add_filter_gradients(
        transform, form.parts, *per_part, address(sums), ranges, step, address(dw), taps, inputs * outputs
    )

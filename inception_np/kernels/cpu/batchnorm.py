"""The passes of batch normalisation: each reads its arrays once, in whole vectors of channels.

Sums over a batch run in two steps that depend on the size of the array alone, so that the bits are the same for any
number of threads: the rows (pixels) are cut into at most CHUNKS ranges; within a range, sums of BLOCK rows are made in
vectors and added to doubles. The doubles of all ranges are then added in order. A block is summed PANEL channels at a
time, in steps of kilobytes that the processor does not prefetch; so each step fetches a piece of the next block, in the
order in which it lies in memory.

The variance is the mean square about a value near the mean (the mean of a few rows from all over the array), less the
square of that value's error: one pass over the data instead of two, and no cancellation, since the error is small.
"""

import numpy as np

from ...backend.arrays import Array
from ...backend.program import address, empty, traced
from ..batchnorm import Averages
from .llvm import NUMBER, SIZE
from .machine import contiguous, helper, kernel, row_step, rows, unpack
from .rows import few_parts, in_rows
from .simd import (
    LANES,
    add_doubles,
    calloc,
    fetch,
    fma,
    free,
    load,
    load_double,
    load_float,
    malloc,
    positive_part,
    splat,
    sqrt,
    store,
    store_double,
    store_float,
    where_positive,
)

CHUNKS = 32
ROWS = 256  # of a range, at least
BLOCK = 32  # rows summed in vectors
SAMPLE = 16  # rows whose mean is the value to centre about
PANEL = 2 * LANES  # channels summed side by side


@helper
def _centre(x, x_step, count, channels, centre):
    """The mean of a few rows, to `centre`."""
    share = splat(NUMBER(1) / NUMBER(min(count, SAMPLE)))
    for c in range(0, channels, LANES):
        n = min(channels - c, LANES)
        s = splat(NUMBER(0))
        for i in range(min(count, SAMPLE)):
            s = fma(load(x + i * count // min(count, SAMPLE) * x_step + SIZE * c, n), share, s)
        store(centre + SIZE * c, s, LANES)


@kernel
def centred_sums(part, parts, arguments):
    """For each chunk of rows, the doubles (2, room): the sum of x - centre, and of its square."""
    x, x_step, count, channels, chunks, sums, room = unpack(arguments, "qqqqqqq")
    centre = malloc(SIZE * room)
    _centre(x, x_step, count, channels, centre)
    zero = splat(NUMBER(0))
    for chunk in range(chunks * part // parts, chunks * (part + 1) // parts):
        first, end = count * chunk // chunks, count * (chunk + 1) // chunks
        target = sums + 16 * chunk * room
        for i in range(2 * room):
            store_double(target + 8 * i, 0.0)
        for start in range(first, end, BLOCK):
            stop = min(start + BLOCK, end)
            for c in range(0, channels, PANEL):
                n0, n1 = min(channels - c, LANES), channels - c - LANES
                m0, m1 = load(centre + SIZE * c, n0), load(centre + SIZE * (c + LANES), n1)
                s0, s1, q0, q1 = zero, zero, zero, zero
                at, soon = x + start * x_step + SIZE * c, x + stop * x_step + SIZE * c * (stop - start)
                for _ in range(stop - start):
                    fetch(soon)
                    fetch(soon + SIZE * LANES)
                    d0, d1 = load(at, n0) - m0, load(at + SIZE * LANES, n1) - m1
                    s0, s1 = s0 + d0, s1 + d1
                    q0, q1 = fma(d0, d0, q0), fma(d1, d1, q1)
                    at, soon = at + x_step, soon + SIZE * PANEL
                add_doubles(target + 8 * c, s0)
                add_doubles(target + 8 * (c + LANES), s1)
                add_doubles(target + 8 * (room + c), q0)
                add_doubles(target + 8 * (room + c + LANES), q1)
    free(centre)


@kernel
def moments_of_sums(part, parts, arguments):
    """Mean and variance of each channel from the sums of all chunks."""
    x, x_step, count, channels, chunks, sums, room, mean, var = unpack(arguments, "qqqqqqqqq")
    centre = malloc(SIZE * room)
    _centre(x, x_step, count, channels, centre)
    for c in range(channels):
        s, q = 0.0, 0.0
        for chunk in range(chunks):
            s += load_double(sums + 8 * (2 * chunk * room + c))
            q += load_double(sums + 8 * ((2 * chunk + 1) * room + c))
        off = s / count
        store_float(mean + SIZE * c, NUMBER(load_float(centre + SIZE * c) + off))
        store_float(var + SIZE * c, NUMBER(max(q / count - off * off, 0.0)))
    free(centre)


@kernel
def reciprocal_roots(part, parts, arguments):
    """rstd = 1 / sqrt(var + eps)."""
    var, rstd, channels, eps = unpack(arguments, "qqqf")
    one, e = splat(NUMBER(1)), splat(eps)
    for c in range(0, channels, LANES):
        n = min(channels - c, LANES)
        store(rstd + SIZE * c, one / sqrt(load(var + SIZE * c, n) + e), n)


@kernel
def move_pair(part, parts, arguments):
    """average = decay * average + (1 - decay) * batch, for mean and variance. decay: the address of a double."""
    mean_average, var_average, mean, var, channels, decay = unpack(arguments, "qqqqqq")
    share = splat(NUMBER(1.0 - load_double(decay)))
    for c in range(0, channels, LANES):
        n = min(channels - c, LANES)
        m, v = load(mean_average + SIZE * c, n), load(var_average + SIZE * c, n)
        store(mean_average + SIZE * c, fma(load(mean + SIZE * c, n) - m, share, m), n)
        store(var_average + SIZE * c, fma(load(var + SIZE * c, n) - v, share, v), n)


@helper
def _scales(mean, rstd, gamma, beta, channels, target, room):
    """mean, rstd * gamma, beta, each filled up with zeros to whole vectors."""
    for c in range(0, room, LANES):
        n = channels - c
        scale = load(rstd + SIZE * c, n)
        if gamma:
            scale = scale * load(gamma + SIZE * c, n)
        store(target + SIZE * c, load(mean + SIZE * c, n), LANES)
        store(target + SIZE * (room + c), scale, LANES)
        store(target + SIZE * (2 * room + c), load(beta + SIZE * c, n), LANES)


@helper
def _normal(x, scales, room, n):
    """(x - mean) * scale + beta, for the vector of channels that `x` and `scales` point to."""
    centred = load(x, n) - load(scales, LANES)
    return fma(centred, load(scales + SIZE * room, LANES), load(scales + 2 * SIZE * room, LANES))


@kernel
def normalise_rows(part, parts, arguments):
    """y = (x - mean) * rstd * gamma + beta, and ReLU."""
    x, x_step, y, y_step, count, channels, mean, rstd, gamma, beta, relu, room = unpack(arguments, "qqqqqqqqqqqq")
    scales = malloc(3 * SIZE * room)
    _scales(mean, rstd, gamma, beta, channels, scales, room)
    whole = channels // LANES * LANES
    for r in range(count * part // parts, count * (part + 1) // parts):
        source, target = x + r * x_step, y + r * y_step
        if relu:
            for c in range(0, SIZE * whole, SIZE * LANES):
                store(target + c, positive_part(_normal(source + c, scales + c, room, LANES)), LANES)
        else:
            for c in range(0, SIZE * whole, SIZE * LANES):
                store(target + c, _normal(source + c, scales + c, room, LANES), LANES)
        if whole < channels:
            left = channels - whole
            v = _normal(source + SIZE * whole, scales + SIZE * whole, room, left)
            store(target + SIZE * whole, positive_part(v) if relu else v, left)
    free(scales)


@kernel
def gradient_sums(part, parts, arguments):
    """For each chunk of rows, the doubles (2, room): the sum of g = dy where y > 0, and of g * (x - mean)."""
    dy, dy_step, x, x_step, count, channels, mean, rstd, gamma, beta, relu, room, chunks, sums = unpack(
        arguments, "qqqqqqqqqqqqqq"
    )
    scales = malloc(3 * SIZE * room)
    _scales(mean, rstd, gamma, beta, channels, scales, room)
    zero = splat(NUMBER(0))
    for chunk in range(chunks * part // parts, chunks * (part + 1) // parts):
        first, end = count * chunk // chunks, count * (chunk + 1) // chunks
        target = sums + 16 * chunk * room
        for i in range(2 * room):
            store_double(target + 8 * i, 0.0)
        for start in range(first, end, BLOCK):
            stop = min(start + BLOCK, end)
            for c in range(0, channels, PANEL):
                n0, n1 = min(channels - c, LANES), channels - c - LANES
                at, d_at = x + start * x_step + SIZE * c, dy + start * dy_step + SIZE * c
                done = SIZE * c * (stop - start)
                soon, d_soon = x + stop * x_step + done, dy + stop * dy_step + done
                low = scales + SIZE * c
                high = low + SIZE * LANES
                m0, m1 = load(low, LANES), load(high, LANES)
                a0, a1 = load(low + SIZE * room, LANES), load(high + SIZE * room, LANES)
                b0, b1 = load(low + 2 * SIZE * room, LANES), load(high + 2 * SIZE * room, LANES)
                s0, s1, q0, q1 = zero, zero, zero, zero
                for _ in range(stop - start):
                    fetch(soon)
                    fetch(soon + SIZE * LANES)
                    fetch(d_soon)
                    fetch(d_soon + SIZE * LANES)
                    d0, d1 = load(at, n0) - m0, load(at + SIZE * LANES, n1) - m1
                    g0, g1 = load(d_at, n0), load(d_at + SIZE * LANES, n1)
                    if relu:
                        g0 = where_positive(fma(d0, a0, b0), g0)
                        g1 = where_positive(fma(d1, a1, b1), g1)
                    s0, s1 = s0 + g0, s1 + g1
                    q0, q1 = fma(g0, d0, q0), fma(g1, d1, q1)
                    at, soon = at + x_step, soon + SIZE * PANEL
                    d_at, d_soon = d_at + dy_step, d_soon + SIZE * PANEL
                add_doubles(target + 8 * c, s0)
                add_doubles(target + 8 * (c + LANES), s1)
                add_doubles(target + 8 * (room + c), q0)
                add_doubles(target + 8 * (room + c + LANES), q1)
    free(scales)


@helper
def _gradient(dy, x, scales, terms, room, relu, n):
    """scale * (g - <g> - (x - mean) * rstd^2 <g (x - mean)>) with both means in `terms`."""
    centred = load(x, n) - load(scales, LANES)
    scale = load(scales + SIZE * room, LANES)
    g = load(dy, n)
    if relu:
        g = where_positive(fma(centred, scale, load(scales + 2 * SIZE * room, LANES)), g)
    return scale * (g - fma(centred, load(terms + SIZE * room, LANES), load(terms, LANES)))


@kernel
def gradient(part, parts, arguments):
    """dx, and (by the first part) dgamma and dbeta, from the sums of all chunks."""
    (
        dy, dy_step, x, x_step, dx, dx_step, count, channels, mean, rstd, gamma, beta, relu, train,
        room, chunks, sums, dgamma, dbeta,
    ) = unpack(arguments, "qqqqqqqqqqqqqqqqqqq")  # fmt: skip
    scales, terms = malloc(3 * SIZE * room), calloc(2 * SIZE * room)
    _scales(mean, rstd, gamma, beta, channels, scales, room)
    for c in range(channels):
        s, q = 0.0, 0.0
        for chunk in range(chunks):
            s += load_double(sums + 8 * (2 * chunk * room + c))
            q += load_double(sums + 8 * ((2 * chunk + 1) * room + c))
        r = float(load_float(rstd + SIZE * c))
        if train:
            store_float(terms + SIZE * c, NUMBER(s / count))
            store_float(terms + SIZE * (room + c), NUMBER(r * r * q / count))
        if part == 0:
            store_float(dbeta + SIZE * c, NUMBER(s))
            if dgamma:
                store_float(dgamma + SIZE * c, NUMBER(r * q))
    whole = channels // LANES * LANES
    for i in range(count * part // parts, count * (part + 1) // parts):
        g, source, target = dy + i * dy_step, x + i * x_step, dx + i * dx_step
        if relu:
            for c in range(0, SIZE * whole, SIZE * LANES):
                v = _gradient(g + c, source + c, scales + c, terms + c, room, 1, LANES)
                store(target + c, v, LANES)
        else:
            for c in range(0, SIZE * whole, SIZE * LANES):
                v = _gradient(g + c, source + c, scales + c, terms + c, room, 0, LANES)
                store(target + c, v, LANES)
        if whole < channels:
            c, left = SIZE * whole, channels - whole
            v = _gradient(g + c, source + c, scales + c, terms + c, room, relu, left)
            store(target + c, v, left)
    free(scales)
    free(terms)


# ---- shapes, in Python


def _size(x: Array) -> tuple[int, int, int, int, int | None]:
    """(rows, channels, channels rounded up to panels, chunks, parts or None)"""
    channels = x.shape[-1]
    count = x.size // channels
    room = -(-channels // PANEL) * PANEL
    return count, channels, room, min(CHUNKS, -(-count // ROWS)), few_parts(x.nbytes)


def _vector(a: Array | None) -> tuple[Array | None, int]:
    """A contiguous vector, and its address (0 for None)."""
    if a is None:
        return None, 0
    a = contiguous(a)
    return a, address(a)


@traced
def moments(x: Array) -> tuple[Array, Array]:
    """One pass over x, with sums in double: the same bits for any number of threads."""
    x, at, step = rows(x)
    count, channels, room, chunks, parts = _size(x)
    sums = empty((chunks, 2, room), np.float64)
    mean, var = empty((channels,), NUMBER), empty((channels,), NUMBER)
    centred_sums(at, step, count, channels, chunks, address(sums), room, parts=parts)
    moments_of_sums(at, step, count, channels, chunks, address(sums), room, address(mean), address(var), parts=1)
    return mean, var


@traced
def reciprocal_deviation(var: Array, eps: float) -> Array:
    """A kernel, so that a trace or a capture can hold it."""
    var, at = _vector(var)
    rstd = empty(var.shape, NUMBER)
    reciprocal_roots(at, address(rstd), var.size, float(eps), parts=1)
    return rstd


def move_running_averages(mean: Array, var: Array, averages: Averages) -> None:
    """A kernel, so that a capture can hold it; it reads the decay at each run."""
    _move_pair(mean, var, *averages)


@traced
def _move_pair(mean: Array, var: Array, mean_average: Array, var_average: Array, decay: Array) -> None:
    (_, m), (_, v) = _vector(mean), _vector(var)
    for average in (mean_average, var_average):
        if not average.flags.c_contiguous:
            raise ValueError("move_running_averages: got an average that is not contiguous, wanted one that is")
    move_pair(address(mean_average), address(var_average), m, v, mean.size, address(decay), parts=1)


@traced
@in_rows("out")
def batch_norm(
    x: Array, mean: Array, rstd: Array, gamma: Array | None, beta: Array, relu: bool, out: Array | None
) -> Array:
    """One pass from x to y, ReLU in it."""
    y = empty(x.shape, NUMBER) if out is None else out
    x, at, step = rows(x)
    count, channels, room, _, parts = _size(x)
    (mean, m), (rstd, r), (gamma, g), (beta, b) = map(_vector, (mean, rstd, gamma, beta))
    normalise_rows(at, step, address(y), row_step(y), count, channels, m, r, g, b, int(relu), room, parts=parts)
    return y


@traced
@in_rows("out")
def batch_norm_grad(
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    gamma: Array | None,
    beta: Array,
    relu: bool,
    train: bool,
    out: Array | None,
) -> tuple[Array, Array | None, Array]:
    """Two passes over x and dy, one for the sums and one for dx; no xhat, y or mask is stored."""
    dx = empty(x.shape, NUMBER) if out is None else out
    x, at, step = rows(x)
    dy, d_at, d_step = rows(dy)
    count, channels, room, chunks, parts = _size(x)
    has_gamma = gamma is not None
    (mean, m), (rstd, r), (gamma, g), (beta, b) = map(_vector, (mean, rstd, gamma, beta))
    sums = empty((chunks, 2, room), np.float64)
    dbeta = empty((channels,), NUMBER)
    dgamma = empty((channels,), NUMBER) if has_gamma else None
    shared = (count, channels, m, r, g, b, int(relu))
    gradient_sums(d_at, d_step, at, step, *shared, room, chunks, address(sums), parts=parts)
    gradient(
        d_at, d_step, at, step, address(dx), row_step(dx), *shared, int(train), room, chunks,
        address(sums), 0 if dgamma is None else address(dgamma), address(dbeta), parts=parts,
    )  # fmt: skip
    return dx, dgamma, dbeta

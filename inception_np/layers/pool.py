"""Pooling: the maximum or the mean of a window, per channel."""

from collections.abc import Iterator
from typing import Any

from ..backend.arrays import Array, Shape
from ..backend.device import zeros
from ..backend.program import empty
from ..kernels.elementwise import add_to, copy_to, scaled
from ..kernels.pool import avg_pool, avg_pool_dx, global_avg_pool, global_avg_pool_dx, max_pool, max_pool_dx
from ..kernels.window import Pads, Pair, check_pad, pair, shortest
from ..layer import Layer, Mode
from .check import check_dy, check_floating, check_shape, check_x, sliding


class _Pool2D(Layer):
    """The geometry that both kinds of window pooling share."""

    def __init__(self, size: Any, *, stride: Any = None, pad: Any = 0, ceil: bool = False):
        who = type(self).__name__
        self.size = pair(size, f"{who}: size")
        self.stride = self.size if stride is None else pair(stride, f"{who}: stride")
        self.pad, self.ceil = check_pad(pad, who), bool(ceil)
        if not isinstance(self.pad, str):
            for k, ends in zip(self.size, self.pad, strict=True):
                if max(ends) >= k:
                    raise ValueError(f"{who}: got pad={pad!r}, wanted less than size={size!r}")

    def _arguments(self) -> dict[str, Any]:
        stride = None if self.stride == self.size else shortest(self.stride)
        return {"size": shortest(self.size), "stride": stride, "pad": shortest(self.pad)}

    def _geometry(self, shape: Shape) -> tuple[Pads, Pair]:
        """The pads and (H', W') for an x of this shape. Raises ValueError for another shape."""
        return sliding(type(self).__name__, shape, None, self.size, self.stride, self.pad, ceil=self.ceil)

    def out_shape(self, shape: Shape) -> Shape:
        return (shape[0], *self._geometry(shape)[1], shape[3])


class MaxPool2D(_Pool2D):
    """y[n,p,q,c] = max over the window of x[n, p s + i - t, q s + j - l, c].

    The derivative of a maximum is 1 for the entry that wins and 0 for the others, so backward sends each dy to the
    winner of its window, and a pixel that wins several windows gets the sum. Of equal entries the first in row-major
    order wins; a NaN wins over every number. Padding never wins. The cache is the winners' taps, a byte each, and x's
    shape and dtype.

    x: (N, H, W, C), y: (N, H', W', C). stride=None means `size`. ceil: the last window may hang over the end (Caffe's
    output size). Raises ValueError for shapes and values, ImageTooSmall where the window does not fit.
    """

    reads_x = False
    takes_out = True

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_floating("MaxPool2D", x)
        pads, out_hw = self._geometry(x.shape)
        y, winners = max_pool(x, self.size, self.stride, pads, out_hw, out=out)
        return y, (winners, x.shape, x.dtype)

    def backward(self, dy: Array, x: Any, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        winners, shape, dtype = cache
        dy = check_dy("MaxPool2D", dy, winners.shape, dtype)
        if not need_dx:
            return None
        pads, _ = self._geometry(shape)
        return max_pool_dx(dy, winners, shape, self.size, self.stride, pads, into=into)


class AvgPool2D(_Pool2D):
    """y[n,p,q,c] = 1 / D[p,q] * sum over the window of x[n, p s + i - t, q s + j - l, c].

    D is the number of real pixels in the window (TensorFlow's choice); with count_include_pad padding counts too
    (PyTorch's and Caffe's default). It is linear, so backward spreads dy / D over the window. The cache is x's shape
    and dtype.

    x: (N, H, W, C), y: (N, H', W', C). stride=None means `size`. Raises as MaxPool2D does.
    """

    reads_x = False
    takes_out = True

    def __init__(
        self, size: Any, *, stride: Any = None, pad: Any = 0, ceil: bool = False, count_include_pad: bool = False
    ):
        super().__init__(size, stride=stride, pad=pad, ceil=ceil)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_floating("AvgPool2D", x)
        pads, out_hw = self._geometry(x.shape)
        y = avg_pool(x, self.size, self.stride, pads, out_hw, self.count_include_pad, out=out)
        return y, (x.shape, x.dtype)

    def backward(self, dy: Array, x: Any, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        shape, dtype = cache
        dy = check_dy("AvgPool2D", dy, self.out_shape(shape), dtype)
        if not need_dx:
            return None
        pads, _ = self._geometry(shape)
        return avg_pool_dx(dy, shape, self.size, self.stride, pads, self.count_include_pad, into=into)


class GlobalAvgPool2D(Layer):
    """y[n,c] = mean over the plane of x[n,:,:,c]; dx[n,h,w,c] = dy[n,c] / (H W). Lin et al. 2014, section 3.2.

    x: (N, H, W, C), y: (N, C). Raises ValueError for another number of axes.
    """

    reads_x = False
    takes_out = True

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_x("GlobalAvgPool2D", x)
        return global_avg_pool(x, out=out), (x.shape, x.dtype)

    def backward(self, dy: Array, x: Any, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        shape, dtype = cache
        dy = check_dy("GlobalAvgPool2D", dy, (shape[0], shape[3]), dtype)
        return global_avg_pool_dx(dy, shape, into=into) if need_dx else None

    def out_shape(self, shape: Shape) -> Shape:
        check_shape("GlobalAvgPool2D", shape)
        return shape[0], shape[3]


class AdaptiveAvgPool2D(Layer):
    """The mean over a grid of windows that cover the plane: window p of s spans rows floor(p H/s) to ceil((p+1) H/s).

    Windows overlap where s does not divide H. Backward spreads each dy evenly over its window. torchvision's GoogLeNet
    pools so before its auxiliary heads; no paper does. x: (N, H, W, C), y: (N, size, size, C).
    """

    reads_x = False

    def __init__(self, size: Any):
        self.size = pair(size, "AdaptiveAvgPool2D: size")

    def _arguments(self) -> dict[str, Any]:
        return {"size": shortest(self.size)}

    def _windows(self, shape: Shape) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
        spans = []
        for n, s in zip(shape[1:3], self.size, strict=True):
            spans.append([slice(p * n // s, -(-(p + 1) * n // s)) for p in range(s)])
        for p, rows in enumerate(spans[0]):
            for q, columns in enumerate(spans[1]):
                yield p, q, (slice(None), rows, columns)

    def forward(self, x: Array, mode: Mode) -> tuple[Array, Any]:
        check_x("AdaptiveAvgPool2D", x)
        y = empty(self.out_shape(x.shape), x.dtype, x)
        for p, q, window in self._windows(x.shape):
            global_avg_pool(x[window], out=y[:, p, q])
        return y, (x.shape, x.dtype)

    def backward(self, dy: Array, x: Any, cache: Any) -> Array:
        shape, dtype = cache
        dy = check_dy("AdaptiveAvgPool2D", dy, self.out_shape(shape), dtype)
        dx = zeros(shape, dy.dtype, dy)
        for p, q, window in self._windows(shape):
            _, height, width, _ = dx[window].shape
            dx[window] += dy[:, p, q][:, None, None] * (1 / (height * width))
        return dx

    def out_shape(self, shape: Shape) -> Shape:
        check_shape("AdaptiveAvgPool2D", shape)
        return shape[0], *self.size, shape[3]


def _contiguous(a: Array) -> Array:
    """a, or a copy of it whose numbers stand one after the other."""
    return a if a.flags.c_contiguous else scaled(a, 1.0)


class Flatten(Layer):
    """y[n] = x[n] laid out as one row, in row-major order; backward folds it up again.

    x: (N, ...), y: (N, product of the rest).
    """

    reads_x = False
    takes_out = True

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_floating("Flatten", x)
        return copy_to(out, _contiguous(x).reshape(self.out_shape(x.shape))), (x.shape, x.dtype)

    def backward(self, dy: Array, x: Any, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        shape, dtype = cache
        dy = check_dy("Flatten", dy, self.out_shape(shape), dtype)
        return add_to(into, _contiguous(dy).reshape(shape)) if need_dx else None

    def out_shape(self, shape: Shape) -> Shape:
        size = 1
        for n in shape[1:]:
            size *= n
        return shape[0], size

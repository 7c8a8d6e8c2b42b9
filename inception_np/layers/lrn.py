"""Local response normalisation across channels."""

from typing import Any

from ..backend.arrays import Array, Shape
from ..kernels.lrn import lrn, lrn_dx
from ..layer import Layer, Mode
from .check import check_count, check_dy, check_number, check_shape, check_x


class LRN(Layer):
    """Divide every activation by the energy of its neighbours along the channels. Krizhevsky et al. 2012, section 3.3.

        s[c] = k + a * sum of x[j]^2 over |j - c| <= size // 2        y = x * s^-beta

    x[j] enters its own y and the s of every channel in whose window it lies, and the window is symmetric, so

        dx[c] = dy[c] * s[c]^-beta - 2 a beta x[c] * sum over |j - c| <= size // 2 of dy[j] x[j] s[j]^(-beta - 1)

    a = alpha / size with divide_by_size (Caffe, PyTorch and the released GoogLeNet), a = alpha without (TensorFlow,
    Krizhevsky's paper, which has size 5, alpha 1e-4, beta 0.75, k 2). The window is cut off at the first and last
    channel. s is made again in backward; the cache is empty.

    x, y: (N, H, W, C). Raises ValueError for an even size and for other shapes.
    """

    takes_out = True

    def __init__(
        self, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, divide_by_size: bool = True
    ):
        self.size = check_count("LRN", "size", size)
        if size % 2 == 0:
            raise ValueError(f"LRN: got size={size}, wanted an odd number of channels")
        self.alpha, self.beta = check_number("LRN", "alpha", alpha), check_number("LRN", "beta", beta)
        self.k = check_number("LRN", "k", k)
        self.divide_by_size = bool(divide_by_size)

    def _constants(self) -> tuple[int, float, float, float]:
        a = self.alpha / self.size if self.divide_by_size else self.alpha
        return self.size, a, self.beta, self.k

    def forward(self, x: Array, mode: Mode, out: Array | None = None) -> tuple[Array, Any]:
        check_x("LRN", x)
        return lrn(x, *self._constants(), out=out), None

    def backward(self, dy: Array, x: Array, cache: Any, into: Array | None = None, need_dx: bool = True) -> Any:
        dy = check_dy("LRN", dy, x.shape, x.dtype)
        return lrn_dx(dy, x, *self._constants(), into=into) if need_dx else None

    def out_shape(self, shape: Shape) -> Shape:
        check_shape("LRN", shape)
        return shape

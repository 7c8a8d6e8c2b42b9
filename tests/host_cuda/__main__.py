"""A 3x3 convolution with stride 2 and padding 1, forward and backward, by the CUDA kernels on the CPU.

    cd tests && python -m host_cuda

It is there to be stepped through (README.md), and prints the sums of y, dx and dw. The sizes are those of the worked
example at Taps in kernels/cuda/windows.cuh.
"""

import numpy as np
import pytest
import strict_cupy

from inception_np.kernels.cuda import conv

from . import on_host

with pytest.MonkeyPatch.context() as patch:
    cupy = strict_cupy.pretend(patch)
    on_host(patch)
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in ((1, 8, 12, 8), (3, 3, 8, 16), (1, 4, 6, 16)))
    x, w, dy, dw = (cupy.asarray(a) for a in (x, w, dy, np.zeros_like(w)))
    geometry = (2, 2), ((1, 1), (1, 1)), (1, 1), 1
    y = conv.conv2d(x, w, None, *geometry, False, None)
    dx = conv.conv2d_dx(dy, w, x.shape, *geometry, None)
    conv.conv2d_dw(x, dy, dw, *geometry)
    for name, result in (("y", y), ("dx", dx), ("dw", dw)):
        print(name, result.shape, float(result.get().sum()).hex())

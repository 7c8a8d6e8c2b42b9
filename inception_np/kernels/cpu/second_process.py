"""What the process does that ahead.py starts: it compiles kernels into the folder of code_cache.py, and ends.

It skips what another process has begun, so that several share the work, and stops after the kernel at hand when its
parent has ended.
"""

import os

from . import ahead, batchnorm, elementwise, implicit_gemm, loss, lrn, patches, pool, update
from .code_cache import begun, keeps
from .transforms import code, transform_gradient_row, transform_patch_row, transform_sums
from .winograd import GRADIENT_FORMS

# What a training step needs last comes first, the gradients; then what its forward pass needs last.
KERNELS = [
    patches.filter_gradients,
    implicit_gemm.multiply_transposed,
    implicit_gemm.pack_transposed,
    patches.add_filter_gradients,
    implicit_gemm.add_ranges,
    pool.max_windows_gradient,
    pool.mean_windows_gradient,
    pool.spread_means,
    batchnorm.gradient,
    batchnorm.gradient_sums,
    elementwise.gate_rows,
    elementwise.clear,
    elementwise.scaled_add_rows,
    elementwise.chunk_sums,
    elementwise.add_chunks,
    update.sgd,
    lrn.lrn_dx_rows,
    loss.softmax_rows,
]


def compile_kernels(parent: int) -> None:
    """Compile the kernels above that nobody has begun, while the parent is the process of this number."""
    ahead.Second.started = True  # it starts none itself
    for kernel in KERNELS:
        if os.getppid() != parent or not keeps():
            return
        if not begun(kernel.function):
            _ = kernel.address
    for ((form, _),) in GRADIENT_FORMS.values():
        for transform in (transform_patch_row, transform_gradient_row, transform_sums):
            code(transform, form)

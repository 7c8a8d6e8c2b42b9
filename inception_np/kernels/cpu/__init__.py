"""The kernels once more in Numba, for float32 NumPy arrays: pool.py of this folder is what ../pool.py hands over to.

Read register_tile.py first, which says how a convolution reaches the processor's peak; panels.py lays out what it eats
and implicit_gemm.py feeds it. machine.py compiles kernels and runs them on threads (workers.py), simd.py gives them
vectors, record.py spares Python from working out the same calls again. The other files are one pass over memory each.
"""

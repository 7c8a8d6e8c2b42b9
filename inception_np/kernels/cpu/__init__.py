"""The kernels once more in Numba, for float32 NumPy arrays: the twins of ../pool.py's functions are in pool.py, etc.
(Some of them for float64 too: see ../cpu64.)

Read register_tile.py first, which says how a convolution reaches the processor's peak; panels.py lays out what it eats,
implicit_gemm.py feeds it, and conv.py calls these. Then winograd.py, which says how fewer products do; transforms.py
makes code of it, patches.py feeds the tile with it. machine.py compiles kernels, workers.py runs them on threads,
simd.py gives them vectors, in LLVM's words (llvm.py). Python works the calls of a kernel out once for each set of
shapes (backend/program.py). The other files are one pass over memory each.
"""

"""The kernels once more in CUDA, for float32 CuPy arrays: the twins of ../pool.py's functions are in pool.py, which
launches what is in pool.cu, etc.

The sources lie together here, since they share headers and one launcher (launch.py), and since the plain kernels are
read without them.

No sum is made by atomics: every number is made by one thread, and sums over pixels are made in parts that are added in
a fixed order, by the block that ends last (join.cuh) or a launch of their own. The same launch gives the same bits.

The tests compile these sources for the CPU and compare them with the plain kernels (tests/host_cuda), and compile them
for four GPU architectures by NVRTC. tests/gpu/check.py runs and times them on a device.
"""

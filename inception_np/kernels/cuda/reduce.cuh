// Sums over pixels in a fixed order: blocks of some channels by some rows sum their share of the rows into partial
// results, and a second kernel adds the partial results in double. No atomics: the same numbers on every run.
#pragma once

constexpr int LANES = 32, ROWS = 8;  // of a block where no launcher says otherwise
constexpr int THREADS = 256;         // of a block that sums rows, at most
constexpr int JOINING = 1024;        // of one that adds partial results

// The sum of `value` over the threads of a column of the block; every thread gets it. `scratch` has a place for each.
template <class T>
__device__ __forceinline__ T sum_over_rows(const T& value, T* scratch) {
  const int at = threadIdx.y * blockDim.x + threadIdx.x;
  __syncthreads();
  scratch[at] = value;
  for (int rows = blockDim.y, half; rows > 1; rows = half) {
    half = (rows + 1) / 2;
    __syncthreads();
    if (threadIdx.y < rows - half) scratch[at] += scratch[at + half * blockDim.x];
  }
  __syncthreads();
  return scratch[threadIdx.x];
}

// Sums over pixels in a fixed order: blocks of 32 channels x 8 threads sum their share of the rows into partial
// results, and a second kernel adds the partial results in double. No atomics: the same numbers on every run.
#pragma once

constexpr int LANES = 32, ROWS = 8;

// The sum of `value` over the 8 threads that share a channel; every thread gets it. `scratch` is ROWS * LANES floats.
__device__ __forceinline__ float sum_over_rows(float value, float* scratch) {
  __syncthreads();
  scratch[threadIdx.y * LANES + threadIdx.x] = value;
  __syncthreads();
  float sum = 0;
  for (int r = 0; r < ROWS; r++) sum += scratch[r * LANES + threadIdx.x];
  return sum;
}

// The second kernel's sum of `value` over the threads of one result, blockDim.y of them, a power of two, in a fixed
// order; every thread gets it. `scratch` has a double for each thread of the block.
constexpr int JOINING = 1024;
__device__ __forceinline__ double sum_over_parts(double value, double* scratch) {
  const int at = threadIdx.y * blockDim.x + threadIdx.x;
  __syncthreads();
  scratch[at] = value;
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half) scratch[at] += scratch[at + half * blockDim.x];
  }
  __syncthreads();
  return scratch[threadIdx.x];
}

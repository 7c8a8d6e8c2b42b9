// Sums over pixels in a fixed order: blocks of 32 channels x 8 threads sum their share of the rows into partial
// results, and a second kernel adds the partial results one after the other, in double. No atomics: the same
// numbers on every run.
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

// The same over 32 threads to a channel.
__device__ __forceinline__ double sum_of_32(double value, double* scratch) {
  __syncthreads();
  scratch[threadIdx.y * LANES + threadIdx.x] = value;
  __syncthreads();
  double sum = 0;
  for (int r = 0; r < 32; r++) sum += scratch[r * LANES + threadIdx.x];
  return sum;
}

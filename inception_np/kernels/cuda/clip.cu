// Clipping a gradient by its norm (kernels/clip.py). Blocks of 1 x THREADS, for sums over all of their threads.
#include "common.cuh"
#include "reduce.cuh"

#define EACH_OWN(i, total) \
  for (int i = blockIdx.x * blockDim.y + threadIdx.y; i < (total); i += gridDim.x * blockDim.y)

extern "C" __global__ void sum_squares(const float* __restrict__ grad, double* __restrict__ part, int total) {
  __shared__ double scratch[THREADS];
  double sum = 0;
  EACH_OWN(i, total) sum += (double)grad[i] * grad[i];
  sum = sum_over_rows(sum, scratch);
  if (threadIdx.y == 0) part[blockIdx.x] = sum;
}

// Every block adds the parts, in the same order. The squares of floats do not overflow a double: the norm is infinite
// only where an element is, which becomes NaN.
extern "C" __global__ void clip_norm(float* __restrict__ grad, const double* __restrict__ part, double* __restrict__ norm,
                                     float clip, int parts, int total) {
  __shared__ double scratch[THREADS], length;
  double sum = 0;
  for (int p = threadIdx.y; p < parts; p += blockDim.y) sum += part[p];
  sum = sum_over_rows(sum, scratch);
  if (threadIdx.y == 0) {
    length = sqrt(sum);
    if (blockIdx.x == 0) *norm = length;
  }
  __syncthreads();
  if (!(length > clip)) return;
  const float scale = (float)(clip / length);
  EACH_OWN(i, total) grad[i] *= scale;
}

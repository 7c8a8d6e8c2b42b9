// ReLU, the sum of a residual unit, sums over rows (kernels/elementwise.py).
#include "common.cuh"
#include "reduce.cuh"

// Not max(x, 0): a NaN is not hidden.
extern "C" __global__ void relu(const float* x, float* y, int total, int C, int ldx, int ldy) {
  EACH_ELEMENT(i, total);
  const float v = x[place(i, C, ldx)];
  y[place(i, C, ldy)] = v <= 0 ? 0.f : v;
}

extern "C" __global__ void relu_dx(const float* __restrict__ dy, const float* __restrict__ y, float* dx, int total,
                                   int C, int lddy, int ldy, int lddx, int add) {
  EACH_ELEMENT(i, total);
  const float v = y[place(i, C, ldy)] > 0 ? dy[place(i, C, lddy)] : 0.f;
  float* at = dx + place(i, C, lddx);
  *at = add ? *at + v : v;
}

extern "C" __global__ void scaled_add(const float* a, const float* b, float* y, float scale, int total, int C, int lda,
                                      int ldb, int ldy) {
  EACH_ELEMENT(i, total);
  y[place(i, C, ldy)] = a[place(i, C, lda)] + scale * b[place(i, C, ldb)];
}

// Blocks: (C / 32, parts of the rows). part[y][c] is one block's share of the sum.
extern "C" __global__ void sum_rows(const float* __restrict__ x, float* __restrict__ part, int rows, int C, int ldx) {
  __shared__ float scratch[ROWS * LANES];
  const int c = blockIdx.x * LANES + threadIdx.x;
  float sum = 0;
  if (c < C)
    for (int r = blockIdx.y * ROWS + threadIdx.y; r < rows; r += gridDim.y * ROWS) sum += x[(long long)r * ldx + c];
  sum = sum_over_rows(sum, scratch);
  if (threadIdx.y == 0 && c < C) part[(long long)blockIdx.y * C + c] = sum;
}

// into = part[0] + part[1] + ..., or that added to what is there. Of the threads of one result, each adds every
// blockDim.y-th part.
extern "C" __global__ void sum_parts(const float* __restrict__ part, float* __restrict__ into, int parts, int count, int add) {
  __shared__ double scratch[JOINING];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  double sum = 0;
  if (i < count)
#pragma unroll 4
    for (int p = threadIdx.y; p < parts; p += blockDim.y) sum += part[(long long)p * count + i];
  sum = sum_over_parts(sum, scratch);
  if (threadIdx.y == 0 && i < count) into[i] = (add ? into[i] : 0.f) + (float)sum;
}

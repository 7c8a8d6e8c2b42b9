// ReLU, the sum of a residual unit, sums over rows (kernels/elementwise.py).
#include "common.cuh"
#include "reduce.cuh"
#include "vector.cuh"

// Not max(x, 0): a NaN is not hidden.
extern "C" __global__ void relu(const Real* x, Real* y, int rows, int C, int ldx, int ldy) {
  const int c = first_channel();
  if (c >= C) return;
  EACH_ROW(r, rows) {
    Floats v = load(x, r, ldx, c);
    EACH_FLOAT(j) v[j] = v[j] <= 0 ? 0.f : v[j];
    store(y, r, ldy, c, v);
  }
}

extern "C" __global__ void relu_dx(const Real* __restrict__ dy, const Real* __restrict__ y, Real* dx, int rows, int C,
                                   int lddy, int ldy, int lddx, int add) {
  const int c = first_channel();
  if (c >= C) return;
  EACH_ROW(r, rows) {
    const Floats g = load(dy, r, lddy, c), through = load(y, r, ldy, c);
    Floats v = {};
    if (add) v = load(dx, r, lddx, c);
    EACH_FLOAT(j) v[j] += through[j] > 0 ? g[j] : 0.f;
    store(dx, r, lddx, c, v);
  }
}

// y = a + scale * b, or scale * b without a; a may be y.
extern "C" __global__ void scaled_add(const Real* a, const Real* b, Real* y, int rows, int C, int lda, int ldb, int ldy,
                                      float scale) {
  const int c = first_channel();
  if (c >= C) return;
  EACH_ROW(r, rows) {
    Floats v = load(b, r, ldb, c);
    if (a) {
      const Floats w = load(a, r, lda, c);
      EACH_FLOAT(j) v[j] = w[j] + scale * v[j];
    } else {
      EACH_FLOAT(j) v[j] *= scale;
    }
    store(y, r, ldy, c, v);
  }
}

// Blocks: (channels, parts of the rows). part[y][c] is one block's share of the sum.
extern "C" __global__ void sum_rows(const Real* __restrict__ x, float* __restrict__ part, int rows, int C, int ldx) {
  __shared__ Floats scratch[THREADS];
  const int c = first_channel(), step = row_step();
  Floats all = {};
  if (c < C)
    EACH_ROWS(r, first_row(), rows, step) {
      const Rows v = load_rows(x, r, step, rows, ldx, c, Floats{});
      EACH_OF_ROWS(i) all += v.at[i];
    }
  const float total = sum_columns(all, scratch);
  const int at = threadIdx.y * blockDim.x + threadIdx.x, wide = blockDim.x * VEC, own = blockIdx.x * wide + at;
  if (at < wide && own < C) *pixel(part + own, blockIdx.y, C) = total;
}

// into = part[0] + part[1] + ..., or that added to what is there. Of the threads of one result, each adds every
// blockDim.y-th part.
extern "C" __global__ void __launch_bounds__(JOINING, 1)
    sum_parts(const float* __restrict__ part, float* __restrict__ into, int parts, int count, int add) {
  __shared__ double scratch[JOINING];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const bool last = threadIdx.y == 0 && i < count;
  const float before = add && last ? into[i] : 0.f;
  double all = 0;
  if (i < count) EACH_PARTS(p, parts) all += sum(load_parts(part + i, p, parts, count));
  all = sum_over_rows(all, scratch);
  if (last) into[i] = before + (float)all;
}

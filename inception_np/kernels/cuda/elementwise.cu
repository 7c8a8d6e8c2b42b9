// ReLU, the sum of a residual unit, sums over rows (kernels/elementwise.py).
#include "common.cuh"
#include "join.cuh"
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

// into += the sum of x over its rows. Blocks: (channels, parts of the rows). part[y][c] is one block's share of the sum.
extern "C" __global__ void sum_rows(const Real* __restrict__ x, float* part, float* __restrict__ into, unsigned* tickets,
                                    int rows, int C, int ldx) {
  __shared__ Floats scratch[THREADS];
  __shared__ double joined[THREADS];
  __shared__ int flag;
  const int c = first_channel(), step = row_step();
  Floats all = {};
  if (c < C)
    EACH_ROWS(r, first_row(), rows, step) {
      const Rows v = load_rows(x, r, step, rows, ldx, c, Floats{});
      EACH_OF_ROWS(i) all += v.at[i];
    }
  const float own_total = sum_columns(all, scratch);
  const int at = threadIdx.y * blockDim.x + threadIdx.x, wide = blockDim.x * VEC, own = blockIdx.x * wide + at;
  if (at < wide && own < C) *pixel(part + own, blockIdx.y, C) = own_total;
  if (!last_block(tickets + blockIdx.x, gridDim.y, &flag)) return;

  const Joiner j(at, blockDim.x * blockDim.y, wide);
  const int channel = blockIdx.x * wide + j.column;
  const double total = join_sum(part + channel, channel < C ? gridDim.y : 0, C, j, joined);
  if (j.slot == 0 && channel < C) into[channel] += (float)total;
}

// Many sums in one launch: into += part[0] + part[1] + ... for each job, `count` floats from `parts` parts. Its blocks
// begin at `first`; of their threads, `slots` share the parts of each result.
struct Job {
  const float* part;
  float* into;
  int parts, count, first, slots;
};
struct Jobs {
  Job at[100];
};
extern "C" __global__ void __launch_bounds__(256) sum_parts(Jobs jobs, int count) {
  __shared__ double scratch[256];
  int own = 0;  // the last job that begins here or before
  for (int step = 64; step > 0; step /= 2)
    if (own + step < count && blockIdx.x >= jobs.at[own + step].first) own += step;
  const Job job = jobs.at[own];
  const Joiner j(threadIdx.x, blockDim.x, blockDim.x / job.slots);
  const int i = (blockIdx.x - job.first) * j.wide + j.column;
  const bool there = i < job.count, writes = there && j.slot == 0;
  const float before = writes ? job.into[i] : 0.f;
  const double all = join_sum(job.part + i, there ? job.parts : 0, job.count, j, scratch);
  if (writes) job.into[i] = before + (float)all;
}

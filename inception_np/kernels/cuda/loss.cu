// Softmax and cross-entropy (kernels/loss.py).
#include "common.cuh"
#include "join.cuh"
#include "reduce.cuh"

// A warp per row: logits (N, K) -> dlogits (N, K) and the row's part of the mean loss; the last block adds the parts.
// Blocks of 32 threads.
extern "C" __global__ void softmax_cross_entropy(const Real* __restrict__ logits, const int* __restrict__ labels,
                                                 Real* __restrict__ dlogits, float* part, double* __restrict__ mean,
                                                 unsigned* tickets, int N, int K, float smoothing) {
  __shared__ int flag;
  const int n = blockIdx.x, lane = threadIdx.x;
  const Real* row = logits + (long long)n * K;
  float largest = -INFINITE, total = 0, loss = 0;
  for (int j = lane; j < K; j += 32) largest = fmaxf(largest, value(row[j]));
  for (int o = 16; o > 0; o /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, o));
  for (int j = lane; j < K; j += 32) total += expf(value(row[j]) - largest);
  for (int o = 16; o > 0; o /= 2) total += __shfl_xor_sync(0xffffffffu, total, o);
  const float log_total = logf(total);
  for (int j = lane; j < K; j += 32) {
    const float target = smoothing / K + (j == labels[n] ? 1 - smoothing : 0.f);
    const double shifted = (double)value(row[j]) - largest;  // in float it may be too large
    loss -= (float)(target * (shifted - log_total) / N);
    dlogits[(long long)n * K + j] = rounded<Real>((expf((float)shifted) / total - target) / N);
  }
  for (int o = 16; o > 0; o /= 2) loss += __shfl_xor_sync(0xffffffffu, loss, o);
  if (lane == 0) part[n] = loss;
  if (!last_block(tickets, N, &flag)) return;
  double sum = 0;
  for (int i = lane; i < N; i += 32) sum += __ldcg(part + i);
  for (int o = 16; o > 0; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  if (lane == 0) *mean = sum;
}

// losses += N * loss, with loss rounded to float (kernels/loss.py says why), and right += the rows whose label is that of
// the largest logit, as numpy.argmax has it: the first of equals, or the first NaN. One block of 1 x n threads.
extern "C" __global__ void add_totals(const Real* __restrict__ logits, const int* __restrict__ labels,
                                      const double* __restrict__ loss, double* losses, long long* right, int N, int K) {
  __shared__ int scratch[THREADS];
  int count = 0;
  for (int n = threadIdx.y; n < N; n += blockDim.y) {
    const Real* row = logits + (long long)n * K;
    const int label = labels[n];
    if (!inside(label, K)) continue;
    const float own = value(row[label]);
    bool beaten = false;
    for (int j = 0; j < K; j++) {
      const float v = value(row[j]);
      beaten |= own != own ? j < label && v != v : !(j < label ? v < own : v <= own);
    }
    count += !beaten;
  }
  count = sum_over_rows(count, scratch);
  if (threadIdx.y == 0) *losses += N * (double)(float)*loss, *right += count;
}

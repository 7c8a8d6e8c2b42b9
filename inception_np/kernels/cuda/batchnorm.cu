// Batch normalisation with ReLU (kernels/batchnorm.py). x, dy: (rows, C); statistics: (C,).
#include "common.cuh"
#include "reduce.cuh"
#include "vector.cuh"

// Blocks: (channels, parts). Part p is rows [p * share, (p + 1) * share); it gives its own mean and its sum of squares
// about that mean. Squares about 0 would cancel where the mean is large beside the deviation.
extern "C" __global__ void moments_parts(const float* __restrict__ x, float* __restrict__ part, int rows, int C, int ldx,
                                         int share) {
  __shared__ Floats scratch[THREADS];
  const int c = first_channel(), first = blockIdx.y * share, last = min(first + share, rows);
  Floats mean = {}, squares = {};
  if (c < C)
#pragma unroll 4
    for (int r = first + threadIdx.y; r < last; r += blockDim.y) mean += load(x, r, ldx, c);
  mean = sum_over_rows(mean, scratch);
  EACH_FLOAT(j) mean[j] /= last - first;
  if (c < C)
#pragma unroll 4
    for (int r = first + threadIdx.y; r < last; r += blockDim.y) {
      const Floats v = load(x, r, ldx, c);
      EACH_FLOAT(j) squares[j] += (v[j] - mean[j]) * (v[j] - mean[j]);
    }
  squares = sum_over_rows(squares, scratch);
  if (threadIdx.y > 0 || c >= C) return;
  store(part, 2 * blockIdx.y, C, c, mean);
  store(part, 2 * blockIdx.y + 1, C, c, squares);
}

// The moments of all rows from those of parts, `share` rows each and the last one the rest. With n rows in part p,
//
//   mean = sum n mean_p / rows        var = sum (squares_p + n (mean_p - mean)^2) / rows
//
// In one pass, in double: what is summed is mean_p less the first part's mean, which is near all others.
// With them, rstd = 1 / sqrt(var + eps).
extern "C" __global__ void moments_join(const float* __restrict__ part, float* __restrict__ mean, float* __restrict__ var,
                                        float* __restrict__ rstd, float eps, int rows, int C, int share, int parts) {
  __shared__ double scratch[JOINING];
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  const double near = c < C ? part[c] : 0;
  double sum = 0, squares = 0;
  if (c < C)
#pragma unroll 4
    for (int p = threadIdx.y; p < parts; p += blockDim.y) {
      const double n = min(share, rows - p * share), delta = part[(long long)p * 2 * C + c] - near;
      sum += n * delta;
      squares += part[((long long)p * 2 + 1) * C + c] + n * delta * delta;
    }
  const double off = sum_over_rows(sum, scratch) / rows, square = sum_over_rows(squares, scratch) / rows - off * off;
  if (threadIdx.y == 0 && c < C) {
    mean[c] = (float)(near + off);
    var[c] = square < 0 ? 0.f : (float)square;  // rounding; a NaN stays
    rstd[c] = 1.f / sqrtf(var[c] + eps);
  }
}

extern "C" __global__ void reciprocal_deviation(const float* __restrict__ var, float* __restrict__ rstd, float eps, int C) {
  EACH_ELEMENT(c, C);
  rstd[c] = 1.f / sqrtf(var[c] + eps);
}

// What a thread keeps of its channels: y = scale * (x - mean) + beta with scale = gamma * rstd.
struct Channels {
  Floats mean, scale, beta;
  __device__ __forceinline__ Channels(const float* means, const float* rstd, const float* gamma, const float* betas, int c)
      : mean(load(means, 0, 0, c)), scale(load(rstd, 0, 0, c)), beta(load(betas, 0, 0, c)) {
    if (!gamma) return;
    const Floats g = load(gamma, 0, 0, c);
    EACH_FLOAT(j) scale[j] *= g[j];
  }
  // dy where ReLU let y through; y is made again from x - mean.
  __device__ __forceinline__ float through(float dy, float centred, int relu, int j) const {
    return !relu || centred * scale[j] + beta[j] > 0 ? dy : 0.f;
  }
};

extern "C" __global__ void batch_norm(const float* x, const float* __restrict__ mean, const float* __restrict__ rstd,
                                      const float* __restrict__ gamma, const float* __restrict__ beta, float* y, int rows,
                                      int C, int ldx, int ldy, int relu) {
  const int c = first_channel();
  if (c >= C) return;
  const Channels k(mean, rstd, gamma, beta, c);
  EACH_ROW(r, rows) {
    Floats v = load(x, r, ldx, c);
    EACH_FLOAT(j) {
      v[j] = (v[j] - k.mean[j]) * k.scale[j] + k.beta[j];
      if (relu && v[j] <= 0) v[j] = 0;
    }
    store(y, r, ldy, c, v);
  }
}

// Blocks: (channels, parts). part[p][0][c] and part[p][1][c] are shares of sum dy and sum dy * (x - mean).
extern "C" __global__ void batch_norm_sums(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ mean,
                                           const float* __restrict__ rstd, const float* __restrict__ gamma,
                                           const float* __restrict__ beta, float* __restrict__ part, int rows, int C, int lddy,
                                           int ldx, int relu) {
  __shared__ Floats scratch[THREADS];
  const int c = first_channel();
  Floats plain = {}, with_x = {};
  if (c < C) {
    const Channels k(mean, rstd, gamma, beta, c);
#pragma unroll 4
    EACH_ROW(r, rows) {
      const Floats g = load(dy, r, lddy, c), v = load(x, r, ldx, c);
      EACH_FLOAT(j) {
        const float centred = v[j] - k.mean[j], let = k.through(g[j], centred, relu, j);
        plain[j] += let;
        with_x[j] += let * centred;
      }
    }
  }
  plain = sum_over_rows(plain, scratch);
  with_x = sum_over_rows(with_x, scratch);
  if (threadIdx.y > 0 || c >= C) return;
  store(part, 2 * blockIdx.y, C, c, plain);
  store(part, 2 * blockIdx.y + 1, C, c, with_x);
}

// What follows from the sums of all parts. The gradients are added to, dbeta += sum dy and dgamma += sum dy * xhat.
// In training the running averages move, by a decay that is read from device memory, so that a captured step can be
// launched again with another one; and terms[0] and terms[1] are made, the coefficients of
//
//   dx = scale * dy - terms[0] * (x - mean) - terms[1]        terms[0] = scale * rstd * <dy * xhat>    terms[1] = scale * <dy>
extern "C" __global__ void batch_norm_join(const float* __restrict__ part, const float* __restrict__ mean,
                                           const float* __restrict__ var, const float* __restrict__ rstd,
                                           const float* __restrict__ gamma, float* __restrict__ dgamma, float* __restrict__ dbeta,
                                           float* __restrict__ terms, float* __restrict__ mean_average,
                                           float* __restrict__ var_average, const float* __restrict__ decay, int rows, int C,
                                           int parts) {
  __shared__ double scratch[JOINING];
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  double plain = 0, with_x = 0;
  if (c < C)
#pragma unroll 4
    for (int p = threadIdx.y; p < parts; p += blockDim.y) {
      plain += part[(long long)p * 2 * C + c];
      with_x += part[((long long)p * 2 + 1) * C + c];
    }
  plain = sum_over_rows(plain, scratch);
  with_x = sum_over_rows(with_x, scratch);
  if (threadIdx.y > 0 || c >= C) return;
  const double with_xhat = rstd[c] * with_x;
  dbeta[c] += (float)plain;
  if (dgamma) dgamma[c] += (float)with_xhat;
  if (!terms) return;
  const float scale = gamma ? gamma[c] * rstd[c] : rstd[c];
  terms[c] = scale * rstd[c] * (float)(with_xhat / rows);
  terms[C + c] = scale * (float)(plain / rows);
  mean_average[c] += (1 - *decay) * (mean[c] - mean_average[c]);
  var_average[c] += (1 - *decay) * (var[c] - var_average[c]);
}

// dx may be x: each thread reads its x before it writes. Without terms, mean and rstd are constants.
extern "C" __global__ void batch_norm_dx(const float* __restrict__ dy, const float* x, const float* __restrict__ mean,
                                         const float* __restrict__ rstd, const float* __restrict__ gamma,
                                         const float* __restrict__ beta, const float* __restrict__ terms, float* dx, int rows,
                                         int C, int lddy, int ldx, int lddx, int relu) {
  const int c = first_channel();
  if (c >= C) return;
  const Channels k(mean, rstd, gamma, beta, c);
  Floats slope = {}, level = {};
  if (terms) slope = load(terms, 0, C, c), level = load(terms, 1, C, c);
  EACH_ROW(r, rows) {
    const Floats g = load(dy, r, lddy, c), v = load(x, r, ldx, c);
    Floats d;
    EACH_FLOAT(j) {
      const float centred = v[j] - k.mean[j];
      d[j] = k.scale[j] * k.through(g[j], centred, relu, j);
      if (terms) d[j] -= slope[j] * centred + level[j];
    }
    store(dx, r, lddx, c, d);
  }
}

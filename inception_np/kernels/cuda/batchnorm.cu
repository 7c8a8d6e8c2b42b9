// Batch normalisation with ReLU (kernels/batchnorm.py). x, dy: (rows, C); statistics: (C,).
#include "common.cuh"
#include "reduce.cuh"
#include "vector.cuh"

// Blocks: (channels, parts). Part p is rows [p * share, (p + 1) * share); it gives its own mean and its sum of squares
// about that mean. Squares about 0 would cancel where the mean is large beside the deviation.
extern "C" __global__ void moments_parts(const float* __restrict__ x, float* __restrict__ part, int rows, int C, int ldx,
                                         int share) {
  __shared__ Floats scratch[THREADS], means[LANES];
  const int c = first_channel(), first = blockIdx.y * share + threadIdx.y, last = min((int)(blockIdx.y + 1) * share, rows);
  Floats mean = {}, squares = {};
  if (c < C)
    EACH_ROWS(r, first, last, blockDim.y) {
      const Rows v = load_rows(x, r, blockDim.y, last, ldx, c, Floats{});
      EACH_OF_ROWS(i) mean += v.at[i];
    }
  mean = sum_over_rows(mean, scratch);
  if (threadIdx.y == 0) {
    EACH_FLOAT(j) mean[j] /= last - first;
    means[threadIdx.x] = mean;
  }
  __syncthreads();
  mean = means[threadIdx.x];
  if (c < C)
    EACH_ROWS(r, first, last, blockDim.y) {
      const Rows v = load_rows(x, r, blockDim.y, last, ldx, c, mean);
      EACH_OF_ROWS(i) EACH_FLOAT(j) squares[j] += (v.at[i][j] - mean[j]) * (v.at[i][j] - mean[j]);
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
  __shared__ Two<double> scratch[JOINING];
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  const double near = c < C ? part[c] : 0, per_row = 1. / rows;
  Two<double> all = {};  // of deltas, and of squares
  if (c < C)
    EACH_PARTS(p, parts) {
      const Parts means = load_parts(part + c, p, parts, 2 * C), squares = load_parts(part + C + c, p, parts, 2 * C);
#pragma unroll
      for (int k = 0; k < AT_ONCE; k++) {
        const int q = p + k * blockDim.y;
        const double n = q < parts ? min(share, rows - q * share) : 0, delta = means.at[k] - near;
        all.a += n * delta;
        all.b += squares.at[k] + n * delta * delta;
      }
    }
  all = sum_over_rows(all, scratch);
  if (threadIdx.y > 0 || c >= C) return;
  const double off = all.a * per_row, square = all.b * per_row - off * off;
  const float v = square < 0 ? 0.f : (float)square;  // rounding; a NaN stays
  mean[c] = (float)(near + off);
  var[c] = v;
  rstd[c] = 1.f / sqrtf(v + eps);
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
  __shared__ Two<Floats> scratch[THREADS];
  const int c = first_channel(), step = gridDim.y * blockDim.y;
  Two<Floats> all = {};
  if (c < C) {
    const Channels k(mean, rstd, gamma, beta, c);
    EACH_ROWS(r, blockIdx.y * blockDim.y + threadIdx.y, rows, step) {
      const Rows g = load_rows(dy, r, step, rows, lddy, c, Floats{}), v = load_rows(x, r, step, rows, ldx, c, k.mean);
      EACH_OF_ROWS(i) EACH_FLOAT(j) {
        const float centred = v.at[i][j] - k.mean[j], let = k.through(g.at[i][j], centred, relu, j);
        all.a[j] += let;
        all.b[j] += let * centred;
      }
    }
  }
  all = sum_over_rows(all, scratch);
  if (threadIdx.y > 0 || c >= C) return;
  store(part, 2 * blockIdx.y, C, c, all.a);
  store(part, 2 * blockIdx.y + 1, C, c, all.b);
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
  __shared__ Two<double> scratch[JOINING];
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  const bool last = threadIdx.y == 0 && c < C;  // this thread writes; what it needs for that it asks for now
  const auto get = [&](const float* from, int i) { return last && from ? from[i] : 0.f; };
  const float r = get(rstd, c), g = gamma ? get(gamma, c) : 1.f, old_dgamma = get(dgamma, c), old_dbeta = get(dbeta, c);
  const float old_mean = get(mean_average, c), old_var = get(var_average, c), keep = get(decay, 0);
  const float new_mean = get(mean, c), new_var = get(var, c), per_row = 1.f / rows;
  Two<double> all = {};
  if (c < C)
    EACH_PARTS(p, parts) {
      const Parts plain = load_parts(part + c, p, parts, 2 * C), with_x = load_parts(part + C + c, p, parts, 2 * C);
      all += {sum(plain), sum(with_x)};
    }
  all = sum_over_rows(all, scratch);
  if (!last) return;
  const float plain = (float)all.a, with_xhat = (float)(r * all.b), scale = g * r;
  dbeta[c] = old_dbeta + plain;
  if (dgamma) dgamma[c] = old_dgamma + with_xhat;
  if (!terms) return;
  terms[c] = scale * r * (with_xhat * per_row);
  terms[C + c] = scale * (plain * per_row);
  mean_average[c] = old_mean + (1 - keep) * (new_mean - old_mean);
  var_average[c] = old_var + (1 - keep) * (new_var - old_var);
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

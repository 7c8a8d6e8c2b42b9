// Batch normalisation with ReLU (kernels/batchnorm.py). x, dy: (rows, C); statistics: (C,).
#include "common.cuh"
#include "join.cuh"
#include "reduce.cuh"
#include "vector.cuh"

// Blocks: (channels, parts). Part p is rows [p * share, (p + 1) * share); it gives its own mean and its sum of squares
// about that mean: squares about 0 would cancel where the mean is large beside the deviation. The last block joins them.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    moments(const Real* __restrict__ x, float* part, float* __restrict__ result, unsigned* tickets, float eps, int rows,
            int C, int ldx, int share) {
  __shared__ Floats scratch[THREADS];
  __shared__ Two joined[THREADS];
  __shared__ int flag;
  __shared__ __align__(16) float means[LANES * VEC];
  const int c = first_channel(), at = threadIdx.y * blockDim.x + threadIdx.x, wide = blockDim.x * VEC;
  const int first = blockIdx.y * share + threadIdx.y, last = min((int)(blockIdx.y + 1) * share, rows);
  Floats sum = {}, squares = {};
  if (c < C)
    EACH_ROWS(r, first, last, blockDim.y) {
      const Rows v = load_rows(x, r, blockDim.y, last, ldx, c, Floats{});
      EACH_OF_ROWS(i) sum += v.at[i];
    }
  const float own_mean = sum_columns(sum, scratch) / (last - (int)blockIdx.y * share);
  if (at < wide) means[at] = own_mean;
  __syncthreads();
  const Floats mean = load<VEC>(means + threadIdx.x * VEC);
  if (c < C)
    EACH_ROWS(r, first, last, blockDim.y) {
      const Rows v = load_rows(x, r, blockDim.y, last, ldx, c, mean);
      EACH_OF_ROWS(i) EACH_FLOAT(j) squares[j] += (v.at[i][j] - mean[j]) * (v.at[i][j] - mean[j]);
    }
  const float own_squares = sum_columns(squares, scratch);
  const int own = blockIdx.x * wide + at;
  if (at < wide && own < C) {
    *pixel(part + own, 2 * blockIdx.y, C) = own_mean;
    *pixel(part + own, 2 * blockIdx.y + 1, C) = own_squares;
  }
  if (!last_block(tickets + blockIdx.x, gridDim.y, &flag)) return;
  const Joiner j(at, blockDim.x * blockDim.y, wide);
  const int channel = blockIdx.x * wide + j.column;
  const Moments all = join_moments(part + channel, channel < C ? gridDim.y : 0, C, share, rows, j, joined);
  if (j.slot == 0 && channel < C) write_moments(result + channel, C, all, rows, eps);
}

extern "C" __global__ void reciprocal_deviation(const float* __restrict__ var, float* __restrict__ rstd, float eps, int C) {
  EACH_ELEMENT(c, C);
  rstd[c] = rsqrtf(var[c] + eps);
}

// What a thread keeps of its channels: y = scale * (x - mean) + beta with scale = gamma * rstd. It is asked for after the
// thread's first row, and before that has come.
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

extern "C" __global__ void batch_norm(const Real* x, const float* __restrict__ mean, const float* __restrict__ rstd,
                                      const float* __restrict__ gamma, const float* __restrict__ beta, Real* y, int rows,
                                      int C, int ldx, int ldy, int relu) {
  const int c = first_channel();
  int r = first_row();
  if (c >= C || r >= rows) return;
  Floats v = load(x, r, ldx, c);
  const Channels k(mean, rstd, gamma, beta, c);
  while (true) {
    EACH_FLOAT(j) {
      v[j] = (v[j] - k.mean[j]) * k.scale[j] + k.beta[j];
      if (relu && v[j] <= 0) v[j] = 0;
    }
    store(y, r, ldy, c, v);
    if ((r += row_step()) >= rows) return;
    v = load(x, r, ldx, c);
  }
}

// Blocks: (channels, parts). part[p][0][c] and part[p][1][c] are shares of sum dy and sum dy * (x - mean). From their sums
// the last block makes what follows. The gradients are added to, dbeta += sum dy and dgamma += sum dy * xhat.
// In training the running averages move, by a decay that is read from device memory, so that a captured step can be
// launched again with another one; and terms[0] and terms[1] are made, the coefficients of
//
//   dx = scale * dy - terms[0] * (x - mean) - terms[1]        terms[0] = scale * rstd * <dy * xhat>    terms[1] = scale * <dy>
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    batch_norm_sums(const Real* __restrict__ dy, const Real* __restrict__ x, const float* __restrict__ mean,
                    const float* __restrict__ rstd, const float* __restrict__ gamma, const float* __restrict__ beta,
                    float* part, unsigned* tickets, const float* __restrict__ var, float* __restrict__ dgamma,
                    float* __restrict__ dbeta, float* __restrict__ terms, float* __restrict__ mean_average,
                    float* __restrict__ var_average, const double* __restrict__ decay, int rows, int C, int lddy, int ldx,
                    int relu) {
  __shared__ Pack<float, 2 * VEC> scratch[THREADS];
  __shared__ Two joined[THREADS];
  __shared__ int flag;
  const int c = first_channel(), step = row_step();
  int r = first_row();
  Pack<float, 2 * VEC> all = {};  // of both sums for each channel
  if (c < C && r < rows) {
    Rows g = load_rows(dy, r, step, rows, lddy, c, Floats{}), v = load_rows(x, r, step, rows, ldx, c, Floats{});
    const Channels k(mean, rstd, gamma, beta, c);
    while (true) {
      EACH_OF_ROWS(i) EACH_FLOAT(j) {
        const float centred = v.at[i][j] - k.mean[j], let = k.through(g.at[i][j], centred, relu, j);
        all[j] += let;
        all[VEC + j] += let * centred;
      }
      if ((r += ROWS_AT_ONCE * step) >= rows) break;
      g = load_rows(dy, r, step, rows, lddy, c, Floats{}), v = load_rows(x, r, step, rows, ldx, c, Floats{});
    }
  }
  const float total = sum_columns(all, scratch);
  const int at = threadIdx.y * blockDim.x + threadIdx.x, lane = at / (2 * VEC), second = at / VEC % 2;
  const int own = (blockIdx.x * blockDim.x + lane) * VEC + at % VEC;
  if (lane < blockDim.x && own < C) *pixel(part + own, 2 * blockIdx.y + second, C) = total;
  if (!last_block(tickets + blockIdx.x, gridDim.y, &flag)) return;

  const Joiner j(at, blockDim.x * blockDim.y, blockDim.x * VEC);
  const int channel = blockIdx.x * j.wide + j.column;
  const bool writes = j.slot == 0 && channel < C;  // what it needs for that it asks for now
  const auto get = [&](const float* from) { return writes && from ? from[channel] : 0.f; };
  const float s = get(rstd), scale = s * (gamma ? get(gamma) : 1.f), old_dgamma = get(dgamma), old_dbeta = get(dbeta);
  const float old_mean = get(mean_average), old_var = get(var_average), keep = writes && decay ? (float)*decay : 0.f;
  const float new_mean = get(mean), new_var = get(var);
  const Two sums = join_sums(part + channel, channel < C ? gridDim.y : 0, C, j, joined);
  if (!writes) return;
  const float plain = (float)sums.a, with_xhat = (float)(s * sums.b);
  dbeta[channel] = old_dbeta + plain;
  if (dgamma) dgamma[channel] = old_dgamma + with_xhat;
  if (!terms) return;
  terms[channel] = scale * s * (with_xhat / rows);
  terms[C + channel] = scale * (plain / rows);
  mean_average[channel] = old_mean + (1 - keep) * (new_mean - old_mean);
  var_average[channel] = old_var + (1 - keep) * (new_var - old_var);
}

// dx may be x: each thread reads its x before it writes. Without terms, mean and rstd are constants.
extern "C" __global__ void __launch_bounds__(256, 5)
    batch_norm_dx(const Real* __restrict__ dy, const Real* x, const float* __restrict__ mean,
                  const float* __restrict__ rstd, const float* __restrict__ gamma, const float* __restrict__ beta,
                  const float* __restrict__ terms, Real* dx, int rows, int C, int lddy, int ldx, int lddx, int relu) {
  const int c = first_channel();
  int r = first_row();
  if (c >= C || r >= rows) return;
  Floats g = load(dy, r, lddy, c), v = load(x, r, ldx, c), slope = {}, level = {};
  if (terms) slope = load(terms, 0, C, c), level = load(terms, 1, C, c);
  const Channels k(mean, rstd, gamma, beta, c);
  while (true) {
    Floats d;
    EACH_FLOAT(j) {
      const float centred = v[j] - k.mean[j];
      d[j] = k.scale[j] * k.through(g[j], centred, relu, j);
      if (terms) d[j] -= slope[j] * centred + level[j];
    }
    store(dx, r, lddx, c, d);
    if ((r += row_step()) >= rows) return;
    g = load(dy, r, lddy, c), v = load(x, r, ldx, c);
  }
}

// Depthwise convolution (kernels/depthwise.py): channel c of x meets its own m filters w[..., c, :].
//
// One thread takes VEC channels of COLUMNS pixels side by side, so that their windows share what it reads: 3 x 6 pixels
// of x and 9 weights for 4 outputs of a 3x3 filter, where a thread to an output would read 9 and 9 for each. A loop over
// the columns q that any of these windows sees gives each to the outputs p whose tap s it is. Both numbers are 1 where
// m is not, and COLUMNS is where the window is not known when this is compiled.
#include "common.cuh"
#include "reduce.cuh"

#ifdef KH
constexpr int COLUMNS = SW == 1 ? 4 : 2, TAPS = KH * KW;
#else
constexpr int COLUMNS = 1, TAPS = 1;
#endif
constexpr bool ONE_FILTER = VEC > 1 || TAPS > 1;

// d.C is the number of channels of x; y has d.C * m.
extern "C" __global__ void depthwise2d(const Real* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
                                       Real* __restrict__ y, Window given, int filters, int ldx, int ldy) {
  const Window d = known(given);
  const int m = ONE_FILTER ? 1 : filters, O = d.C * m, across = (d.OW + COLUMNS - 1) / COLUMNS;
  EACH_ELEMENT(i, d.N * d.OH * across * (O / VEC));
  const Site at = site<VEC>(i, d.OH, across, O);
  const int top = at.h * d.sh - d.top, left = at.w * COLUMNS * d.sw - d.left;
  const unsigned corner = (at.n * d.H + top) * d.W + left;
  Pack<float, VEC> sum[COLUMNS] = {};
#pragma unroll
  for (int r = 0; r < d.kh; r++) {
    for (int q = 0; q < (COLUMNS - 1) * d.sw + d.kw; q++) {
      const bool real = inside(top + r * d.dh, d.H) && inside(left + q * d.dw, d.W);
      const auto v = load_if<VEC>(real, pixel(x + at.c / m, corner + r * d.dh * d.W + q * d.dw, ldx), 0.f);
      for (int p = 0; p < COLUMNS; p++) {
        const int s = q - p * d.sw;
        if (!inside(s, d.kw)) continue;
        const auto weight = load<VEC>(w + (r * d.kw + s) * O + at.c);
        for (int j = 0; j < VEC; j++) sum[p].at[j] += v.at[j] * weight.at[j];
      }
    }
  }
  if (bias) {
    const auto b = load<VEC>(bias + at.c);
    for (int p = 0; p < COLUMNS; p++)
      for (int j = 0; j < VEC; j++) sum[p].at[j] += b.at[j];
  }
  const unsigned first = (at.n * d.OH + at.h) * d.OW + at.w * COLUMNS;
  for (int p = 0; p < COLUMNS; p++)
    if (at.w * COLUMNS + p < d.OW) store(pixel(y + at.c, first + p, ldy), sum[p]);
}

extern "C" __global__ void depthwise2d_dx(const Real* __restrict__ dy, const float* __restrict__ w, Real* __restrict__ dx,
                                          Window given, int filters, int lddy, int lddx, int add) {
  const Window d = known(given);
  const int m = ONE_FILTER ? 1 : filters, O = d.C * m, across = (d.W + COLUMNS - 1) / COLUMNS;
  EACH_ELEMENT(i, d.N * d.H * across * (d.C / VEC));
  const Site at = site<VEC>(i, d.H, across, d.C);
  const int column = at.w * COLUMNS;
  Pack<float, VEC> sum[COLUMNS] = {};
#pragma unroll
  for (int r = 0; r < d.kh; r++) {
    const int oh = position(at.h + d.top - r * d.dh, d.sh, d.OH);
    const unsigned row = (at.n * d.OH + oh) * d.OW;
    for (int q = 0; q < COLUMNS - 1 + d.kw; q++) {  // from the last column to the first, for taps in their order
      const int ow = position(column + COLUMNS - 1 + d.left - q * d.dw, d.sw, d.OW);
      const bool real = oh >= 0 && ow >= 0;
      for (int o = at.c * m; o < (at.c + 1) * m; o++) {
        const auto v = load_if<VEC>(real, pixel(dy + o, row + ow, lddy), 0.f);
        for (int p = 0; p < COLUMNS; p++) {
          const int s = q - (COLUMNS - 1 - p);
          if (!inside(s, d.kw) || !real) continue;  // nothing, be the weight infinite
          const auto weight = load<VEC>(w + (r * d.kw + s) * O + o);
          for (int j = 0; j < VEC; j++) sum[p].at[j] += v.at[j] * weight.at[j];
        }
      }
    }
  }
  const unsigned first = (at.n * d.H + at.h) * d.W + column;
  for (int p = 0; p < COLUMNS; p++)
    if (column + p < d.W) write(pixel(dx + at.c, first + p, lddx), sum[p], add);
}

// Blocks: (channels of y / (32 VEC), taps / TAPS, parts of the pixels). part[z][tap][o] is one block's share of
// dw[tap][o]. A thread sums all taps of a known window in registers, so that x and dy are read once; of others one.
extern "C" __global__ void __launch_bounds__(LANES * ROWS, 2)
    depthwise2d_dw(const Real* __restrict__ x, const Real* __restrict__ dy, float* __restrict__ part, Window given,
                   int filters, int ldx, int lddy) {
  __shared__ __align__(16) float scratch[ROWS][TAPS][LANES * VEC];
  const Window d = known(given);
  const int m = ONE_FILTER ? 1 : filters, O = d.C * m, across = (d.OW + COLUMNS - 1) / COLUMNS;
  const int block = blockIdx.x * LANES * VEC, o = block + threadIdx.x * VEC, tap = blockIdx.y;
  Pack<float, VEC> sum[TAPS] = {};
  if (o < O)
    for (int i = blockIdx.z * ROWS + threadIdx.y; i < d.N * d.OH * across; i += gridDim.z * ROWS) {
      const Site at = site<1>(i, d.OH, across, 1);
      const int top = at.h * d.sh - d.top, left = at.w * COLUMNS * d.sw - d.left;
      const unsigned first = (at.n * d.OH + at.h) * d.OW + at.w * COLUMNS, corner = (at.n * d.H + top) * d.W + left;
      Pack<float, VEC> g[COLUMNS];
      bool there[COLUMNS];
      for (int p = 0; p < COLUMNS; p++) {
        there[p] = at.w * COLUMNS + p < d.OW;
        g[p] = load_if<VEC>(there[p], pixel(dy + o, first + p, lddy), 0.f);
      }
      for (int r = TAPS > 1 ? 0 : tap / d.kw; r < (TAPS > 1 ? d.kh : tap / d.kw + 1); r++) {
        for (int q = TAPS > 1 ? 0 : tap % d.kw; q < (TAPS > 1 ? (COLUMNS - 1) * d.sw + d.kw : tap % d.kw + 1); q++) {
          const bool real = inside(top + r * d.dh, d.H) && inside(left + q * d.dw, d.W);
          const auto v = load_if<VEC>(real, pixel(x + o / m, corner + r * d.dh * d.W + q * d.dw, ldx), 0.f);
          for (int p = 0; p < COLUMNS; p++) {
            const int s = q - p * d.sw;
            if (!inside(s, d.kw) || !there[p]) continue;
            for (int j = 0; j < VEC; j++) sum[TAPS > 1 ? r * d.kw + s : 0].at[j] += v.at[j] * g[p].at[j];
          }
        }
      }
    }
  for (int t = 0; t < TAPS; t++) store(&scratch[threadIdx.y][t][threadIdx.x * VEC], sum[t]);
  __syncthreads();
  for (int i = threadIdx.y * LANES + threadIdx.x; i < TAPS * LANES * VEC; i += ROWS * LANES) {
    const int t = i / (LANES * VEC), c = i % (LANES * VEC);
    float total = 0;
    for (int row = 0; row < ROWS; row++) total += scratch[row][t][c];
    if (block + c < O) part[((long long)blockIdx.z * gridDim.y * TAPS + tap * TAPS + t) * O + block + c] = total;
  }
}

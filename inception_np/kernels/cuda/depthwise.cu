// Depthwise convolution (kernels/depthwise.py): channel c of x meets its own m filters w[..., c, :].
#include "common.cuh"
#include "reduce.cuh"

// d.C is the number of channels of x; y has d.C * m.
extern "C" __global__ void depthwise2d(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
                                       float* __restrict__ y, Window d, int m, int ldx, int ldy) {
  const int O = d.C * m;
  EACH_ELEMENT(i, d.N * d.OH * d.OW * O);
  const int o = i % O, ow = i / O % d.OW, oh = i / O / d.OW % d.OH, n = i / O / d.OW / d.OH;
  float sum = 0;
  for (int r = 0; r < d.kh; r++)
    for (int s = 0; s < d.kw; s++) {
      const int h = oh * d.sh - d.top + r * d.dh, v = ow * d.sw - d.left + s * d.dw;
      if (!inside(h, d.H) || !inside(v, d.W)) continue;
      sum += x[(((long long)n * d.H + h) * d.W + v) * ldx + o / m] * w[(r * d.kw + s) * O + o];
    }
  y[place(i, O, ldy)] = bias ? sum + bias[o] : sum;
}

extern "C" __global__ void depthwise2d_dx(const float* __restrict__ dy, const float* __restrict__ w, float* __restrict__ dx,
                                          Window d, int m, int lddy, int lddx, int add) {
  EACH_ELEMENT(i, d.N * d.H * d.W * d.C);
  const int c = i % d.C, v = i / d.C % d.W, h = i / d.C / d.W % d.H, n = i / d.C / d.W / d.H;
  float sum = 0;
  for (int r = 0; r < d.kh; r++)
    for (int s = 0; s < d.kw; s++) {
      const int oh = position(h + d.top - r * d.dh, d.sh, d.OH), ow = position(v + d.left - s * d.dw, d.sw, d.OW);
      if (oh < 0 || ow < 0) continue;
      for (int o = c * m; o < (c + 1) * m; o++)
        sum += dy[(((long long)n * d.OH + oh) * d.OW + ow) * lddy + o] * w[(r * d.kw + s) * d.C * m + o];
    }
  float* at = dx + place(i, d.C, lddx);
  *at = add ? *at + sum : sum;
}

// Blocks: (channels of y / 32, taps, parts of the pixels). part[z][tap][o] is one block's share of dw[tap][o].
extern "C" __global__ void depthwise2d_dw(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ part,
                                          Window d, int m, int ldx, int lddy) {
  __shared__ float scratch[ROWS * LANES];
  const int O = d.C * m, o = blockIdx.x * LANES + threadIdx.x, r = blockIdx.y / d.kw, s = blockIdx.y % d.kw;
  const int pixels = d.N * d.OH * d.OW;
  float sum = 0;
  if (o < O)
    for (int p = blockIdx.z * ROWS + threadIdx.y; p < pixels; p += gridDim.z * ROWS) {
      const int ow = p % d.OW, oh = p / d.OW % d.OH, n = p / d.OW / d.OH;
      const int h = oh * d.sh - d.top + r * d.dh, v = ow * d.sw - d.left + s * d.dw;
      if (inside(h, d.H) && inside(v, d.W))
        sum += x[(((long long)n * d.H + h) * d.W + v) * ldx + o / m] * dy[(long long)p * lddy + o];
    }
  sum = sum_over_rows(sum, scratch);
  if (threadIdx.y == 0 && o < O) part[((long long)blockIdx.z * gridDim.y + blockIdx.y) * O + o] = sum;
}

// Maximum and average over a window (kernels/pool.py). One thread makes VEC channels of one pixel, forward and backward:
// each dx asks which windows cover it, so nothing is added from two threads and the order of every sum is fixed.
#include "common.cuh"

// The windows that cover a pixel along one axis, the last first: window last - k sees it as tap first + k * stride.
struct Cover {
  int last, first, count;
};
__device__ __forceinline__ Cover cover(unsigned at, unsigned stride, unsigned taps) {  // at: from the padding's edge
  return {(int)(at / stride), (int)(at % stride), (int)((taps + stride - 1) / stride)};
}

extern "C" __global__ void max_pool(const float* __restrict__ x, float* __restrict__ y, unsigned char* __restrict__ winners,
                                    Window given, int ldx, int ldy) {
  const Window d = known(given);
  EACH_ELEMENT(i, d.N * d.OH * d.OW * (d.C / VEC));
  const Site at = site<VEC>(i, d.OH, d.OW, d.C);
  const int top = at.h * d.sh - d.top, left = at.w * d.sw - d.left;
  const unsigned corner = (at.n * d.H + top) * d.W + left;  // the window's first pixel
  const int first = max(0, -top) * d.kw + max(0, -left);    // its first real pixel
  Pack<float, VEC> best;
  Pack<unsigned char, VEC> winner;
  for (int j = 0; j < VEC; j++) best.at[j] = -INFINITE, winner.at[j] = first;
  for (int r = 0; r < d.kh; r++)
    for (int s = 0; s < d.kw; s++) {
      const bool real = inside(top + r, d.H) && inside(left + s, d.W);
      const auto v = load_if<VEC>(real, pixel(x + at.c, corner + r * d.W + s, ldx), -INFINITE);
      for (int j = 0; j < VEC; j++)  // of equals the first wins, and a NaN
        if (!(v.at[j] <= best.at[j]) && best.at[j] == best.at[j]) best.at[j] = v.at[j], winner.at[j] = r * d.kw + s;
    }
  store(pixel(y + at.c, at.pixel, ldy), best);
  store(pixel(winners + at.c, at.pixel, d.C), winner);
}

extern "C" __global__ void max_pool_dx(const float* __restrict__ dy, const unsigned char* __restrict__ winners,
                                       float* __restrict__ dx, Window given, int lddy, int lddx, int add) {
  const Window d = known(given);
  EACH_ELEMENT(i, d.N * d.H * d.W * (d.C / VEC));
  const Site at = site<VEC>(i, d.H, d.W, d.C);
  const Cover a = cover(at.h + d.top, d.sh, d.kh), b = cover(at.w + d.left, d.sw, d.kw);
  const unsigned last = (at.n * d.OH + a.last) * d.OW + b.last;
  Pack<float, VEC> sum = {};
  for (int j = 0; j < a.count; j++)
    for (int k = 0; k < b.count; k++) {
      const int r = a.first + j * d.sh, s = b.first + k * d.sw;
      const bool real = r < d.kh && s < d.kw && inside(a.last - j, d.OH) && inside(b.last - k, d.OW);
      const unsigned p = real ? last - j * d.OW - k : 0;  // any that can be read: no winner is tap -1
      const int tap = real ? r * d.kw + s : -1;
      const auto won = load<VEC>(pixel(winners + at.c, p, d.C));
      const auto v = load<VEC>(pixel(dy + at.c, p, lddy));
      for (int c = 0; c < VEC; c++)
        if (won.at[c] == tap) sum.at[c] += v.at[c];
    }
  write(pixel(dx + at.c, at.pixel, lddx), sum, add);
}

// 1 / how many pixels the window at (oh, ow) averages: real ones, or with include_pad those of the padding too.
__device__ __forceinline__ float share(const Window& d, int oh, int ow, int include_pad) {
  const int top = oh * d.sh - d.top, left = ow * d.sw - d.left;
  const int rows = min(top + d.kh, include_pad ? d.H + d.bottom : d.H) - max(top, include_pad ? -d.top : 0);
  const int columns = min(left + d.kw, include_pad ? d.W + d.right : d.W) - max(left, include_pad ? -d.left : 0);
  const float whole = 1.f / (float)(d.kh * d.kw);
  return rows * columns == d.kh * d.kw ? whole : 1.f / ((float)rows * (float)columns);
}

extern "C" __global__ void avg_pool(const float* __restrict__ x, float* __restrict__ y, Window given, int ldx, int ldy,
                                    int include_pad) {
  const Window d = known(given);
  EACH_ELEMENT(i, d.N * d.OH * d.OW * (d.C / VEC));
  const Site at = site<VEC>(i, d.OH, d.OW, d.C);
  const int top = at.h * d.sh - d.top, left = at.w * d.sw - d.left;
  const unsigned corner = (at.n * d.H + top) * d.W + left;
  Pack<float, VEC> sum = {};
  for (int r = 0; r < d.kh; r++)
    for (int s = 0; s < d.kw; s++) {
      const bool real = inside(top + r, d.H) && inside(left + s, d.W);
      const auto v = load_if<VEC>(real, pixel(x + at.c, corner + r * d.W + s, ldx), 0.f);
      for (int j = 0; j < VEC; j++) sum.at[j] += v.at[j];
    }
  const float scale = share(d, at.h, at.w, include_pad);
  for (int j = 0; j < VEC; j++) sum.at[j] *= scale;
  store(pixel(y + at.c, at.pixel, ldy), sum);
}

extern "C" __global__ void avg_pool_dx(const float* __restrict__ dy, float* __restrict__ dx, Window given, int lddy,
                                       int lddx, int include_pad, int add) {
  const Window d = known(given);
  EACH_ELEMENT(i, d.N * d.H * d.W * (d.C / VEC));
  const Site at = site<VEC>(i, d.H, d.W, d.C);
  const Cover a = cover(at.h + d.top, d.sh, d.kh), b = cover(at.w + d.left, d.sw, d.kw);
  const unsigned last = (at.n * d.OH + a.last) * d.OW + b.last;
  Pack<float, VEC> sum = {};
  for (int j = 0; j < a.count; j++)
    for (int k = 0; k < b.count; k++) {
      const int oh = a.last - j, ow = b.last - k, r = a.first + j * d.sh, s = b.first + k * d.sw;
      const bool real = r < d.kh && s < d.kw && inside(oh, d.OH) && inside(ow, d.OW);
      const auto v = load_if<VEC>(real, pixel(dy + at.c, last - j * d.OW - k, lddy), 0.f);
      const float scale = real ? share(d, oh, ow, include_pad) : 0.f;
      for (int c = 0; c < VEC; c++) sum.at[c] += v.at[c] * scale;
    }
  write(pixel(dx + at.c, at.pixel, lddx), sum, add);
}

// The mean over the plane: one thread per image and VEC channels.
extern "C" __global__ void global_avg_pool(const float* __restrict__ x, float* __restrict__ y, int N, int HW, int C, int ldx,
                                           int ldy) {
  EACH_ELEMENT(i, N * (C / VEC));
  const Site at = site<VEC>(i, 1, 1, C);
  Pack<float, VEC> sum = {};
#pragma unroll 8
  for (int p = 0; p < HW; p++) {
    const auto v = load<VEC>(pixel(x + at.c, at.n * HW + p, ldx));
    for (int j = 0; j < VEC; j++) sum.at[j] += v.at[j];
  }
  for (int j = 0; j < VEC; j++) sum.at[j] /= HW;
  store(pixel(y + at.c, at.n, ldy), sum);
}

extern "C" __global__ void global_avg_pool_dx(const float* __restrict__ dy, float* __restrict__ dx, int N, int HW, int C,
                                              int lddy, int lddx, int add) {
  EACH_ELEMENT(i, N * HW * (C / VEC));
  const Site at = site<VEC>(i, HW, 1, C);
  auto v = load<VEC>(pixel(dy + at.c, at.n, lddy));
  for (int j = 0; j < VEC; j++) v.at[j] *= 1.f / HW;
  write(pixel(dx + at.c, at.pixel, lddx), v, add);
}

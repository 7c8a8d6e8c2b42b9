// Maximum and average over a window (kernels/pool.py). One thread makes VEC channels of a few outputs, forward and
// backward: each dx asks which windows cover it, so nothing is added from two threads and the order of every sum is fixed.
//
// Where the window is known when this is compiled, a thread makes COLUMNS outputs side by side, whose windows share what it
// reads, and backward a patch of DOWN x ACROSS pixels, which share the windows that cover them; and each divides its number
// into a place once for all of them.
#include "common.cuh"

#ifdef KH
constexpr bool KNOWN = true;
constexpr int COLUMNS = SW == 1 ? 4 : 2, DOWN = SH, ACROSS = SW == 1 ? 4 : SW;
constexpr int VIEWERS = (ACROSS - 1) / SW + (KW - 1) / SW + 1;  // windows side by side that cover a patch
#else
constexpr bool KNOWN = false;
constexpr int COLUMNS = 1, DOWN = 1, ACROSS = 1, VIEWERS = 1;
#endif

// The windows that cover some of `pixels` pixels from `at` on along one axis, counted from the padding's edge; the last
// first: window last - k sees pixel b as tap first + b + k * stride, if it has such a tap.
struct Cover {
  int last, first, count;
};
__device__ __forceinline__ Cover cover(unsigned at, int stride, int taps, int pixels) {
  const int more = (pixels - 1) / stride;
  return {(int)(at / stride) + more, (KNOWN ? 0 : (int)(at % stride)) - more * stride, more + (taps - 1) / stride + 1};
}
// Patches begin where a window does, if that is known: so taps are known too. How far is it to the first from the edge?
__device__ __forceinline__ int first_patch(int padding, int stride) { return KNOWN ? padding / stride * stride : padding; }

__device__ __forceinline__ int pieces(int count, int size) { return (count + size - 1) / size; }

extern "C" __global__ void max_pool(const Real* __restrict__ x, Real* __restrict__ y, unsigned char* __restrict__ winners,
                                    Window given, int ldx, int ldy) {
  const Window d = known(given);
  const int across = pieces(d.OW, COLUMNS);
  EACH_ELEMENT(i, d.N * d.OH * across * (d.C / VEC));
  const Site at = site<VEC>(i, d.OH, across, d.C);
  const int top = at.h * d.sh - d.top, left = at.w * COLUMNS * d.sw - d.left;
  const unsigned corner = (at.n * d.H + top) * d.W + left;  // the first window's first pixel
  Pack<float, VEC> best[COLUMNS];
  Pack<unsigned char, VEC> winner[COLUMNS];
  for (int p = 0; p < COLUMNS; p++) {
    const int first = max(0, -top) * d.kw + max(0, -left - p * d.sw);  // its first real pixel
    for (int j = 0; j < VEC; j++) best[p][j] = -INFINITE, winner[p][j] = first;
  }
#pragma unroll
  for (int r = 0; r < d.kh; r++)
#pragma unroll
    for (int q = 0; q < (COLUMNS - 1) * d.sw + d.kw; q++) {
      const bool real = inside(top + r, d.H) && inside(left + q, d.W);
      const auto v = load_if<VEC>(real, pixel(x + at.c, corner + r * d.W + q, ldx), -INFINITE);
      for (int p = 0; p < COLUMNS; p++) {
        const int s = q - p * d.sw;
        if (!inside(s, d.kw)) continue;
        for (int j = 0; j < VEC; j++)  // of equals the first wins, and a NaN
          if (!(v[j] <= best[p][j]) && best[p][j] == best[p][j]) best[p][j] = v[j], winner[p][j] = r * d.kw + s;
      }
    }
  const unsigned first = (at.n * d.OH + at.h) * d.OW + at.w * COLUMNS;
  for (int p = 0; p < COLUMNS; p++)
    if (at.w * COLUMNS + p < d.OW) {
      store(pixel(y + at.c, first + p, ldy), best[p]);
      store(pixel(winners + at.c, first + p, d.C), winner[p]);
    }
}

extern "C" __global__ void max_pool_dx(const Real* __restrict__ dy, const unsigned char* __restrict__ winners,
                                       Real* __restrict__ dx, Window given, int lddy, int lddx, int add) {
  const Window d = known(given);
  const int h0 = first_patch(d.top, d.sh), w0 = first_patch(d.left, d.sw);
  const int down = pieces(d.H + d.top - h0, DOWN), across = pieces(d.W + d.left - w0, ACROSS);
  EACH_ELEMENT(i, d.N * down * across * (d.C / VEC));
  const Site at = site<VEC>(i, down, across, d.C);
  const int h = h0 + at.h * DOWN, w = w0 + at.w * ACROSS;  // the patch's first pixel, from the padding's edge
  const Cover a = cover(h, d.sh, d.kh, DOWN), b = cover(w, d.sw, d.kw, ACROSS);
  const unsigned last = (at.n * d.OH + a.last) * d.OW + b.last;
  Pack<float, VEC> sum[DOWN][ACROSS] = {};
#pragma unroll
  for (int j = 0; j < a.count; j++)
#pragma unroll
    for (int k = 0; k < b.count; k++) {
      const bool real = inside(a.last - j, d.OH) && inside(b.last - k, d.OW);
      const unsigned p = real ? last - j * d.OW - k : 0;  // any that can be read: no winner is tap -1
      const auto won = load<VEC>(pixel(winners + at.c, p, d.C));
      const auto v = load<VEC>(pixel(dy + at.c, p, lddy));
      for (int y = 0; y < DOWN; y++)
        for (int x = 0; x < ACROSS; x++) {
          const int r = a.first + y + j * d.sh, s = b.first + x + k * d.sw;
          if (!inside(r, d.kh) || !inside(s, d.kw)) continue;
          const int tap = real ? r * d.kw + s : -1;
          for (int c = 0; c < VEC; c++)
            if (won[c] == tap) sum[y][x][c] += v[c];
        }
    }
  for (int y = 0; y < DOWN; y++)
    for (int x = 0; x < ACROSS; x++)
      if (inside(h - d.top + y, d.H) && inside(w - d.left + x, d.W))
        write(pixel(dx + at.c, (at.n * d.H + h - d.top + y) * d.W + w - d.left + x, lddx), sum[y][x], add);
}

// 1 / how many of the window's pixels along one axis are averaged: real ones, or with include_pad those of the padding too.
// The window begins at pixel `first`. In both axes, the product. Zero for a window that is not there.
__device__ __forceinline__ float share(int first, int taps, int size, int before, int after, int include_pad, bool there) {
  const int end = min(first + taps, include_pad ? size + after : size), begin = max(first, include_pad ? -before : 0);
  return __fdividef(there ? 1.f : 0.f, there ? (float)(end - begin) : 1.f);
}
__device__ __forceinline__ float share_of_row(const Window& d, int oh, int include_pad) {
  return share(oh * d.sh - d.top, d.kh, d.H, d.top, d.bottom, include_pad, inside(oh, d.OH));
}
__device__ __forceinline__ float share_of_column(const Window& d, int ow, int include_pad) {
  return share(ow * d.sw - d.left, d.kw, d.W, d.left, d.right, include_pad, inside(ow, d.OW));
}

extern "C" __global__ void avg_pool(const Real* __restrict__ x, Real* __restrict__ y, Window given, int ldx, int ldy,
                                    int include_pad) {
  const Window d = known(given);
  const int across = pieces(d.OW, COLUMNS);
  EACH_ELEMENT(i, d.N * d.OH * across * (d.C / VEC));
  const Site at = site<VEC>(i, d.OH, across, d.C);
  const int top = at.h * d.sh - d.top, left = at.w * COLUMNS * d.sw - d.left;
  const unsigned corner = (at.n * d.H + top) * d.W + left;
  Pack<float, VEC> sum[COLUMNS] = {};
#pragma unroll
  for (int r = 0; r < d.kh; r++)
#pragma unroll
    for (int q = 0; q < (COLUMNS - 1) * d.sw + d.kw; q++) {
      const bool real = inside(top + r, d.H) && inside(left + q, d.W);
      const auto v = load_if<VEC>(real, pixel(x + at.c, corner + r * d.W + q, ldx), 0.f);
      for (int p = 0; p < COLUMNS; p++)
        if (inside(q - p * d.sw, d.kw)) sum[p] += v;
    }
  const float of_row = share_of_row(d, at.h, include_pad);
  const unsigned first = (at.n * d.OH + at.h) * d.OW + at.w * COLUMNS;
  for (int p = 0; p < COLUMNS; p++) {
    if (at.w * COLUMNS + p >= d.OW) continue;
    const float scale = of_row * share_of_column(d, at.w * COLUMNS + p, include_pad);
    for (int j = 0; j < VEC; j++) sum[p][j] *= scale;
    store(pixel(y + at.c, first + p, ldy), sum[p]);
  }
}

extern "C" __global__ void avg_pool_dx(const Real* __restrict__ dy, Real* __restrict__ dx, Window given, int lddy,
                                       int lddx, int include_pad, int add) {
  const Window d = known(given);
  const int h0 = first_patch(d.top, d.sh), w0 = first_patch(d.left, d.sw);
  const int down = pieces(d.H + d.top - h0, DOWN), across = pieces(d.W + d.left - w0, ACROSS);
  EACH_ELEMENT(i, d.N * down * across * (d.C / VEC));
  const Site at = site<VEC>(i, down, across, d.C);
  const int h = h0 + at.h * DOWN, w = w0 + at.w * ACROSS;
  const Cover a = cover(h, d.sh, d.kh, DOWN), b = cover(w, d.sw, d.kw, ACROSS);
  const unsigned last = (at.n * d.OH + a.last) * d.OW + b.last;
  float of_column[VIEWERS];
  for (int k = 0; k < VIEWERS; k++) of_column[k] = share_of_column(d, b.last - k, include_pad);
  Pack<float, VEC> sum[DOWN][ACROSS] = {};
#pragma unroll
  for (int j = 0; j < a.count; j++) {
    const int oh = a.last - j;
    const float of_row = share_of_row(d, oh, include_pad);
#pragma unroll
    for (int k = 0; k < b.count; k++) {
      const int ow = b.last - k;
      const bool real = inside(oh, d.OH) && inside(ow, d.OW);
      const auto v = load_if<VEC>(real, pixel(dy + at.c, last - j * d.OW - k, lddy), 0.f);
      const float scale = of_row * (KNOWN ? of_column[k] : share_of_column(d, ow, include_pad));
      for (int y = 0; y < DOWN; y++)
        for (int x = 0; x < ACROSS; x++)
          if (inside(a.first + y + j * d.sh, d.kh) && inside(b.first + x + k * d.sw, d.kw))
            for (int c = 0; c < VEC; c++) sum[y][x][c] += v[c] * scale;
    }
  }
  for (int y = 0; y < DOWN; y++)
    for (int x = 0; x < ACROSS; x++)
      if (inside(h - d.top + y, d.H) && inside(w - d.left + x, d.W))
        write(pixel(dx + at.c, (at.n * d.H + h - d.top + y) * d.W + w - d.left + x, lddx), sum[y][x], add);
}

// The mean over the plane: one thread per image and VEC channels.
extern "C" __global__ void global_avg_pool(const Real* __restrict__ x, Real* __restrict__ y, int N, int HW, int C, int ldx,
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

extern "C" __global__ void global_avg_pool_dx(const Real* __restrict__ dy, Real* __restrict__ dx, int N, int HW, int C,
                                              int lddy, int lddx, int add) {
  EACH_ELEMENT(i, N * HW * (C / VEC));
  const Site at = site<VEC>(i, HW, 1, C);
  auto v = load<VEC>(pixel(dy + at.c, at.n, lddy));
  for (int j = 0; j < VEC; j++) v.at[j] *= 1.f / HW;
  write(pixel(dx + at.c, at.pixel, lddx), v, add);
}

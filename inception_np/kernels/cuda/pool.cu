// Maximum and average over a window (kernels/pool.py). One thread makes one number, forward and backward: each dx
// asks which windows covered it, so nothing is added from two threads and the order of every sum is fixed.
#include "common.cuh"

extern "C" __global__ void max_pool(const float* __restrict__ x, float* __restrict__ y, unsigned char* __restrict__ winners,
                                    Window d, int ldx, int ldy) {
  EACH_ELEMENT(i, d.N * d.OH * d.OW * d.C);
  const int c = i % d.C, ow = i / d.C % d.OW, oh = i / d.C / d.OW % d.OH, n = i / d.C / d.OW / d.OH;
  float best = -INFINITE;
  int winner = max(0, d.top - oh * d.sh) * d.kw + max(0, d.left - ow * d.sw);  // the first real pixel
  for (int r = 0; r < d.kh; r++)
    for (int s = 0; s < d.kw; s++) {
      const int h = oh * d.sh - d.top + r, w = ow * d.sw - d.left + s;
      if (!inside(h, d.H) || !inside(w, d.W)) continue;
      const float v = x[(((long long)n * d.H + h) * d.W + w) * ldx + c];
      if (v > best || (v != v && best == best)) best = v, winner = r * d.kw + s;  // of equals the first wins, and NaN
    }
  y[place(i, d.C, ldy)] = best;
  winners[i] = winner;
}

extern "C" __global__ void max_pool_dx(const float* __restrict__ dy, const unsigned char* __restrict__ winners,
                                       float* __restrict__ dx, Window d, int lddy, int lddx, int add) {
  EACH_ELEMENT(i, d.N * d.H * d.W * d.C);
  const int c = i % d.C, w = i / d.C % d.W, h = i / d.C / d.W % d.H, n = i / d.C / d.W / d.H;
  float sum = 0;
  for (int r = 0; r < d.kh; r++)
    for (int s = 0; s < d.kw; s++) {
      const int oh = position(h + d.top - r, d.sh, d.OH), ow = position(w + d.left - s, d.sw, d.OW);
      if (oh < 0 || ow < 0) continue;
      const long long pixel = ((long long)n * d.OH + oh) * d.OW + ow;
      if (winners[pixel * d.C + c] == r * d.kw + s) sum += dy[pixel * lddy + c];
    }
  float* at = dx + place(i, d.C, lddx);
  *at = add ? *at + sum : sum;
}

// 1 / how many pixels the window at (oh, ow) averages: real ones, or with include_pad those of the padding too.
__device__ __forceinline__ float share(const Window& d, int oh, int ow, int include_pad) {
  const int top = oh * d.sh - d.top, left = ow * d.sw - d.left;
  const int rows = min(top + d.kh, include_pad ? d.H + d.bottom : d.H) - max(top, include_pad ? -d.top : 0);
  const int columns = min(left + d.kw, include_pad ? d.W + d.right : d.W) - max(left, include_pad ? -d.left : 0);
  return 1.f / ((float)rows * (float)columns);
}

extern "C" __global__ void avg_pool(const float* __restrict__ x, float* __restrict__ y, Window d, int ldx, int ldy,
                                    int include_pad) {
  EACH_ELEMENT(i, d.N * d.OH * d.OW * d.C);
  const int c = i % d.C, ow = i / d.C % d.OW, oh = i / d.C / d.OW % d.OH, n = i / d.C / d.OW / d.OH;
  float sum = 0;
  for (int r = 0; r < d.kh; r++)
    for (int s = 0; s < d.kw; s++) {
      const int h = oh * d.sh - d.top + r, w = ow * d.sw - d.left + s;
      if (inside(h, d.H) && inside(w, d.W)) sum += x[(((long long)n * d.H + h) * d.W + w) * ldx + c];
    }
  y[place(i, d.C, ldy)] = sum * share(d, oh, ow, include_pad);
}

extern "C" __global__ void avg_pool_dx(const float* __restrict__ dy, float* __restrict__ dx, Window d, int lddy, int lddx,
                                       int include_pad, int add) {
  EACH_ELEMENT(i, d.N * d.H * d.W * d.C);
  const int c = i % d.C, w = i / d.C % d.W, h = i / d.C / d.W % d.H, n = i / d.C / d.W / d.H;
  float sum = 0;
  for (int r = 0; r < d.kh; r++)
    for (int s = 0; s < d.kw; s++) {
      const int oh = position(h + d.top - r, d.sh, d.OH), ow = position(w + d.left - s, d.sw, d.OW);
      if (oh < 0 || ow < 0) continue;
      sum += dy[(((long long)n * d.OH + oh) * d.OW + ow) * lddy + c] * share(d, oh, ow, include_pad);
    }
  float* at = dx + place(i, d.C, lddx);
  *at = add ? *at + sum : sum;
}

// The mean over the plane: one thread per image and channel.
extern "C" __global__ void global_avg_pool(const float* __restrict__ x, float* __restrict__ y, int N, int HW, int C, int ldx,
                                           int ldy) {
  EACH_ELEMENT(i, N * C);
  const int c = i % C, n = i / C;
  float sum = 0;
  for (int p = 0; p < HW; p++) sum += x[((long long)n * HW + p) * ldx + c];
  y[(long long)n * ldy + c] = sum / HW;
}

extern "C" __global__ void global_avg_pool_dx(const float* __restrict__ dy, float* __restrict__ dx, int N, int HW, int C,
                                              int lddy, int lddx, int add) {
  EACH_ELEMENT(i, N * HW * C);
  const int c = i % C, n = i / C / HW;
  const float value = dy[(long long)n * lddy + c] * (1.f / HW);
  float* at = dx + place(i, C, lddx);
  *at = add ? *at + value : value;
}

// Local response normalisation over neighbouring channels (kernels/lrn.py).
#include "common.cuh"

// k + alpha * (sum of x^2 over the channels within `half` of c)
__device__ __forceinline__ float scale(const Real* pixel, int c, int C, int half, float alpha, float k) {
  float sum = 0;
  for (int j = max(0, c - half); j <= min(C - 1, c + half); j++) sum += value(pixel[j]) * value(pixel[j]);
  return k + alpha * sum;
}

extern "C" __global__ void lrn(const Real* __restrict__ x, Real* __restrict__ y, int total, int C, int ldx, int ldy,
                               int half, float alpha, float beta, float k) {
  EACH_ELEMENT(i, total);
  const int c = i % C;
  const Real* pixel = x + (long long)(i / C) * ldx;
  y[place(i, C, ldy)] = rounded<Real>(value(pixel[c]) * powf(scale(pixel, c, C, half, alpha, k), -beta));
}

// dx = dy s^-beta - 2 alpha beta x * (sum over the window of dy x s^(-beta - 1))
extern "C" __global__ void lrn_dx(const Real* __restrict__ dy, const Real* __restrict__ x, Real* __restrict__ dx,
                                  int total, int C, int lddy, int ldx, int lddx, int half, float alpha, float beta, float k,
                                  int add) {
  EACH_ELEMENT(i, total);
  const int c = i % C;
  const Real *pixel = x + (long long)(i / C) * ldx, *dpixel = dy + (long long)(i / C) * lddy;
  float own = 0, sum = 0;
  for (int j = max(0, c - half); j <= min(C - 1, c + half); j++) {
    const float s = scale(pixel, j, C, half, alpha, k), r = powf(s, -beta);
    if (j == c) own = value(dpixel[c]) * r;
    sum += value(dpixel[j]) * value(pixel[j]) * r / s;
  }
  const float v = own - 2 * alpha * beta * value(pixel[c]) * sum;
  Real* at = dx + place(i, C, lddx);
  *at = rounded<Real>(add ? value(*at) + v : v);
}

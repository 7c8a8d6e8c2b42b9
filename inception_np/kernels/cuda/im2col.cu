// im2col and its adjoint (kernels/conv.py), for convolution by cuBLAS in float32. Rows of `columns` are the
// windows, laid flat as (kh, kw, C).
#include "common.cuh"

extern "C" __global__ void im2col(const float* __restrict__ x, float* __restrict__ columns, Window d, int ldx) {
  const int K = d.kh * d.kw * d.C;
  EACH_ELEMENT(i, d.N * d.OH * d.OW * K);
  const int c = i % d.C, s = i / d.C % d.kw, r = i / d.C / d.kw % d.kh;
  const int ow = i / K % d.OW, oh = i / K / d.OW % d.OH, n = i / K / d.OW / d.OH;
  const int h = oh * d.sh - d.top + r * d.dh, w = ow * d.sw - d.left + s * d.dw;
  columns[i] = inside(h, d.H) && inside(w, d.W) ? x[(((long long)n * d.H + h) * d.W + w) * ldx + c] : 0.f;
}

// One thread per dx: it gathers what col2im scatters, so no two threads add to one place.
extern "C" __global__ void col2im(const float* __restrict__ columns, float* __restrict__ dx, Window d, int lddx) {
  EACH_ELEMENT(i, d.N * d.H * d.W * d.C);
  const int c = i % d.C, w = i / d.C % d.W, h = i / d.C / d.W % d.H, n = i / d.C / d.W / d.H;
  float sum = 0;
  for (int r = 0; r < d.kh; r++)
    for (int s = 0; s < d.kw; s++) {
      const int oh = position(h + d.top - r * d.dh, d.sh, d.OH), ow = position(w + d.left - s * d.dw, d.sw, d.OW);
      if (oh < 0 || ow < 0) continue;
      sum += columns[(((((long long)n * d.OH + oh) * d.OW + ow) * d.kh + r) * d.kw + s) * d.C + c];
    }
  dx[place(i, d.C, lddx)] += sum;
}

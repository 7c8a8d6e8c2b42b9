// What every source of this folder starts with. The text of this file is put where a source says
// #include "common.cuh", so that each source is one string for NVRTC.
//
// Activations are NHWC float32. A pixel is one (n, h, w); its channels are contiguous, and pixels are `ld` floats
// apart: ld = C for an array of its own, more for a slice of the channels of a joined one, which is how a
// convolution writes its part of a concatenation in place.
#pragma once

// The element that this thread works on; threads beyond the last one leave. An int: a 64-bit division costs several
// 32-bit ones. The launcher refuses 2^31 elements; addresses are 64 bits wide.
#define EACH_ELEMENT(i, total)                         \
  const int i = blockIdx.x * blockDim.x + threadIdx.x; \
  if (i >= (total)) return

#define INFINITE __int_as_float(0x7f800000)  // NVRTC has no INFINITY

// A window that slides over images: H, W, C of the images, OH, OW positions, kh x kw taps that are dh, dw apart,
// steps of sh, sw, padding around the image.
struct Window {
  int N, H, W, C, OH, OW, kh, kw, sh, sw, dh, dw, top, bottom, left, right;
};

// Where element i of a (pixels, C) array lies when its pixels are ld floats apart.
__device__ __forceinline__ long long place(int i, int C, int ld) { return (long long)(i / C) * ld + i % C; }

// Is this a position in [0, n)?
__device__ __forceinline__ bool inside(int i, int n) { return (unsigned)i < (unsigned)n; }

// Which position has its tap at pixel `at` (counted from the padding's edge)? A negative number if none has.
__device__ __forceinline__ int position(int at, int stride, int count) {
  return at % stride == 0 && at / stride < count ? at / stride : -1;
}

// What every source of this folder starts with. The text of this file is put where a source says
// #include "common.cuh", so that each source is one string for NVRTC.
//
// Activations are NHWC. A pixel is one (n, h, w); its channels are contiguous, and pixels are `ld` numbers
// apart: ld = C for an array of its own, more for a slice of the channels of a joined one, which is how a
// convolution writes its part of a concatenation in place.
//
// Activations and their gradients are stored as Real: float, or bfloat16 where this is compiled with -DBF16. Weights,
// statistics and sums are float, and so is whatever is computed.
#pragma once

// The upper half of a float: its sign, its exponent and 7 bits of its mantissa.
struct bfloat16 { unsigned short bits; };
#ifdef BF16
using Real = bfloat16;
#else
using Real = float;
#endif

// Two floats rounded to bfloat16, to nearest and of two to the even one, the first in the lower half. One instruction
// since compute capability 8.0. The CPU build of the tests brings its own definition.
#ifndef CUDA_ON_HOST
__device__ __forceinline__ unsigned bfloat16_pair(float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#endif

// What a stored number is, and how a number is stored.
__device__ __forceinline__ float value(float x) { return x; }
__device__ __forceinline__ float value(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ unsigned char value(unsigned char x) { return x; }
__device__ __forceinline__ unsigned value(unsigned x) { return x; }
template <class T> using Value = decltype(value(T()));
template <class T> __device__ __forceinline__ T rounded(Value<T> x) { return x; }
template <> __device__ __forceinline__ bfloat16 rounded<bfloat16>(float x) { return {(unsigned short)bfloat16_pair(x, 0.f)}; }

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

// The window as far as it was known when this was compiled (-DKH -DKW -DSH -DSW, dilation 1): loops over its taps
// unroll, and divisions by its steps are shifts. Without these options, as it is given.
__device__ __forceinline__ Window known(Window d) {
#ifdef KH
  d.kh = KH, d.kw = KW, d.sh = SH, d.sw = SW, d.dh = d.dw = 1;
#endif
  return d;
}

// n numbers that lie side by side, read and written at once. Their address must be a multiple of their size.
template <class T, int n>
struct __align__(n * sizeof(T)) Pack {
  T at[n];
  __device__ __forceinline__ T& operator[](int j) { return at[j]; }
  __device__ __forceinline__ T operator[](int j) const { return at[j]; }
  __device__ __forceinline__ void operator+=(const Pack& other) {
#pragma unroll
    for (int j = 0; j < n; j++) at[j] += other.at[j];
  }
};
template <int n, class T>
__device__ __forceinline__ Pack<Value<T>, n> load(const T* from) {
  const auto stored = *(const Pack<T, n>*)from;
  Pack<Value<T>, n> v;
#pragma unroll
  for (int j = 0; j < n; j++) v.at[j] = value(stored[j]);
  return v;
}
template <int n, class T>
__device__ __forceinline__ Pack<Value<T>, n> load_if(bool there, const T* from, Value<T> otherwise) {
  Pack<Value<T>, n> v;
  for (int j = 0; j < n; j++) v.at[j] = otherwise;
  if (there) v = load<n>(from);
  return v;
}
template <class T, int n>
__device__ __forceinline__ void store(T* to, const Pack<Value<T>, n>& v) {
  if constexpr (sizeof(T) == sizeof(bfloat16) && n % 2 == 0) {
    Pack<unsigned, n / 2> pairs;
#pragma unroll
    for (int j = 0; j < n; j += 2) pairs[j / 2] = bfloat16_pair(v[j], v[j + 1]);
    *(Pack<unsigned, n / 2>*)to = pairs;
  } else {
    Pack<T, n> stored;
#pragma unroll
    for (int j = 0; j < n; j++) stored[j] = rounded<T>(v[j]);
    *(Pack<T, n>*)to = stored;
  }
}
template <class T, int n>
__device__ __forceinline__ void write(T* to, Pack<Value<T>, n> v, bool add) {  // over what is there, or added to it
  if (add) {
    const auto before = load<n>(to);
    for (int j = 0; j < n; j++) v.at[j] += before.at[j];
  }
  store(to, v);
}

// The numbers from a on of pixel p, whose pixels are ld numbers apart: one multiply-add, being unsigned and in bytes.
// p may be nonsense (before an image, say) where nobody reads what is there.
template <class T>
__device__ __forceinline__ T* pixel(T* a, unsigned p, unsigned ld) {
  return (T*)((const char*)a + (unsigned long long)p * (unsigned)(ld * sizeof(T)));
}

// Where thread i of those that make n channels each is in an array (N, H, W, C): its pixel, and its first channel.
// Unsigned, for divisions that cost less.
struct Site {
  int n, h, w, c, pixel;
};
template <int n>
__device__ __forceinline__ Site site(unsigned i, unsigned H, unsigned W, unsigned C) {
  const unsigned pixel = i / (C / n), row = pixel / W, image = row / H;
  return {(int)image, (int)(row - image * H), (int)(pixel - row * W), (int)(i - pixel * (C / n)) * n, (int)pixel};
}

// Where element i of a (pixels, C) array lies when its pixels are ld floats apart.
__device__ __forceinline__ long long place(int i, int C, int ld) { return (long long)(i / C) * ld + i % C; }

// value plus numbers 1 to count - 1 of a column in shared memory, which are `wide` apart: in their order, four at once.
template <class T>
__device__ __forceinline__ T plus_column(T value, const T* column, int count, int wide) {
#pragma unroll 1
  for (int first = 1; first < count; first += 4)
#pragma unroll
    for (int i = first; i < first + 4; i++)
      if (i < count) value += column[i * wide];
  return value;
}

// Is this a position in [0, n)?
__device__ __forceinline__ bool inside(int i, int n) { return (unsigned)i < (unsigned)n; }

// Which position has its tap at pixel `at` (counted from the padding's edge)? A negative number if none has.
__device__ __forceinline__ int position(int at, int stride, int count) {
  return at % stride == 0 && at / stride < count ? at / stride : -1;
}

// The factors of the matrix products of conv.cu: where each of their numbers lies, and which of them are zeros.
//
// A factor has lines (rows of the left one, columns of the right one) and terms, which the sum runs over. The number at
// (line, term) is from[offset] of the two, or zero where both are hidden by a common bit. So all that is to be known
// of a window is worked out once for each line and once for each term, and finding a number takes three instructions.
#pragma once

template <class T>
struct Line { const T* from; unsigned hidden; };
struct Term { int offset; unsigned hidden; };

// Bits: taps of height 0 to 14, taps of width 16 to 30. A pixel hides those of its taps that fall beside the image;
// a tap hides its own two. What does not exist hides all, and whatever exists hides at least one bit.
constexpr unsigned ALL = ~0u, EXISTS = 1u << 15;
struct Place {
  long long offset;
  unsigned hidden;
  template <class T>
  __device__ __forceinline__ Line<T> line(const T* data) const { return {data + offset, hidden}; }
  __device__ __forceinline__ Term term() const { return {(int)offset, hidden}; }
};

// Along one side of a plane: tap r of the window at position i is at pixel origin + i * stride + r * step of `size`.
struct Axis {
  int size, positions, origin, stride, taps, step;
  __device__ __forceinline__ unsigned beside(int at) const {
    if (step * step == 1) {  // taps first to last - 1 are in the image
      const int first = min(taps, max(0, step > 0 ? -at : at - size + 1));
      const int last = max(first, min(taps, step > 0 ? size - at : at + 1));
      return (1u << taps) - 1 - ((1u << last) - (1u << first));
    }
    unsigned bits = 0;
#pragma unroll 1
    for (int r = 0; r < taps; r++, at += step)
      if (!inside(at, size)) bits |= 1u << r;
    return bits;
  }
};

// Windows of an array: pixel (n, i, j) by tap and channel (r, s, c). For 3x3 windows with stride 2 and padding 1,
// pixel (n, 0, 5) has its corner at (-1, 9): offset ((n * H - 1) * W + 9) * ld, hidden: tap 0 of height. Tap (r, s) of
// channel c adds (r * W + s) * ld + c. With r = 0 they share a hidden bit: a zero.
struct Windows {
  const Real* data;  // the first channel of the group
  int ld, channels, pixels, depth;  // depth: taps * channels
  Axis h, w;
  __device__ __forceinline__ Place pixel(unsigned m) const {
    if (m >= pixels) return {0, ALL};
    const int n = m / w.positions / h.positions, i = m / w.positions % h.positions, j = m % w.positions;
    const int y = h.origin + i * h.stride, x = w.origin + j * w.stride;
    return {(((long long)n * h.size + y) * w.size + x) * ld, EXISTS | h.beside(y) | w.beside(x) << 16};
  }
  __device__ __forceinline__ Place tap(unsigned k) const {
    if (k >= depth) return {0, ALL};
    const int r = k / channels / w.taps, s = k / channels % w.taps, c = k % channels;
    return {(r * h.step * w.size + s * w.step) * ld + c, 1u << r | 1u << (16 + s)};
  }
};
struct WindowRows : Windows {  // a line per pixel
  __device__ __forceinline__ Line<Real> line(int m) const { return pixel(m).line(data); }
  __device__ __forceinline__ Term term(int k) const { return tap(k).term(); }
};
struct WindowColumns : Windows {  // the same matrix lying on its side: a line per weight
  __device__ __forceinline__ Line<Real> line(int i) const { return tap(i).line(data); }
  __device__ __forceinline__ Term term(int m) const { return pixel(m).term(); }
};

// A plain matrix: row k is term k, `columns` wide, `ld` numbers from one to the next.
template <class T>
struct Matrix {
  const T* data;
  int ld, columns, terms;
  __device__ __forceinline__ Line<T> line(int i) const { return {data + i, i < columns ? 1 : ALL}; }
  __device__ __forceinline__ Term term(int k) const { return k < terms ? Term{k * ld, 2} : Term{0, ALL}; }
};

// With stride s, pixels whose distances to the padding's edge leave the same remainder by s are seen through the same
// taps: first, first + step, ... For one remainder the sum over taps is dense, so each remainder has its own blocks.
// Taps 0, 1, 2 with stride 2 and padding 1: even pixels are seen through tap 1 only, odd ones through taps 0 and 2.
//
// Such a 3x3 window on an image of 8 x 12, so dy of 4 x 6, and its pixel (3, 4), whose dx is
//
//   dy[1, 2] * w[2, 1] + dy[2, 2] * w[0, 1]
//
//   row 3      number 1 of rows 1, 3, 5, 7          4 from the edge     Taps: first 0, step 2, count 2, shift 1
//   column 4   number 2 of columns 0, 2, ..., 10    5 from the edge     Taps: first 1, step 2, count 1, shift 1
//
// viewers makes windows of dy: along rows, origin 1 and taps -1 apart, so number 1 has them at 1 + 1 = 2, where w has
// row first = 0, and at 2 - 1 = 1, where it has row first + step = 2; along columns, origin 0, so number 2 has its only
// one at 0 + 2 = 2, where w has column 1. Weights lists the terms in that order: w[0, 1, c, :], then w[2, 1, c, :].
struct Taps {
  int first, step, count, shift;  // shift: by how many positions the window moves from one such tap to the next
  __device__ __forceinline__ Taps(int remainder, int kernel, int stride, int dilation) : first(0), step(1), count(0) {
    while (first < kernel && (remainder - first * dilation) % stride != 0) first++;
    while (step * dilation % stride != 0) step++;
    if (first < kernel) count = (kernel - 1 - first) / step + 1;
    shift = step * dilation / stride;
  }
};

// What dy saw of the pixels of one remainder are windows of dy, whose taps go backwards. at: the first such pixel,
// counted from the padding's edge.
__device__ __forceinline__ Axis viewers(const Taps& taps, int at, int pixels, int positions, int stride, int dilation) {
  return {positions, pixels, (at - taps.first * dilation) / stride, 1, taps.count, -taps.shift};
}

// The weights for those taps: a line per input channel, terms (tap, tap, o).
struct Weights {
  const float* data;
  int kw, in, out, channels, depth;  // channels: of dy, in this group; out: of all groups
  Taps ry, rx;
  __device__ __forceinline__ Line<float> line(int c) const { return {data + (long long)c * out, c < in ? 1 : ALL}; }
  __device__ __forceinline__ Term term(unsigned k) const {
    if (k >= depth) return {0, ALL};
    const int r = ry.first + k / channels / rx.count * ry.step, s = rx.first + k / channels % rx.count * rx.step;
    return {(r * kw + s) * in * out + (int)(k % channels), 2};
  }
};

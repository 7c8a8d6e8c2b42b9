// Sums over pixels in a fixed order: blocks of some channels by some rows sum their share of the rows into partial
// results, and a second kernel adds the partial results. No atomics: the same numbers on every run.
//
// Most of these sums are short, and their time is that of waiting: so whatever a thread needs from memory is on its way
// before it waits for any of it, and a block waits for its threads once.
#pragma once

constexpr int LANES = 32, ROWS = 8;  // of a block where no launcher says otherwise
constexpr int THREADS = 512;         // of a block that sums rows, at most
constexpr int JOINING = 1024;        // of one that adds partial results
constexpr int AT_ONCE = 8;           // partial results that a thread asks for at once

// Two sums that are made together.
template <class T>
struct Two {
  T a, b;
  __device__ __forceinline__ void operator+=(const Two& other) { a += other.a, b += other.b; }
};

// What the lane has whose number differs in bit `bit`.
template <class T>
__device__ __forceinline__ T other_lane(const T& v, int bit) {
  return __shfl_xor_sync(0xffffffffu, v, bit);
}
template <class T>
__device__ __forceinline__ Two<T> other_lane(const Two<T>& v, int bit) {
  return {other_lane(v.a, bit), other_lane(v.b, bit)};
}

// The sum of `value` over the threads of a column of the block, for its thread in row 0. Where the 32 lanes of a warp are
// whole rows, they add theirs first. `scratch` has a place for each thread; a second sum needs another one, or a barrier.
template <class T>
__device__ __forceinline__ T sum_over_rows(T value, T* scratch) {
  const int wide = blockDim.x, at = threadIdx.y * wide + threadIdx.x;
  const bool whole = wide <= 32 && (wide & (wide - 1)) == 0;
  const int own = whole ? at / 32 : threadIdx.y, rows = whole ? blockDim.y * wide / 32 : blockDim.y;
  if (whole)
    for (int bit = wide; bit < 32; bit *= 2) value += other_lane(value, bit);
  if (rows == 1) return value;
  if (!whole || at % 32 < wide) scratch[own * wide + threadIdx.x] = value;
  __syncthreads();
  if (threadIdx.y == 0)
#pragma unroll 4
    for (int row = 1; row < rows; row++) value += scratch[row * wide + threadIdx.x];
  return value;
}

// Of the partial results of one sum, `pitch` floats apart: those of part p, p + blockDim.y, ... and zeros beyond the last.
struct Parts {
  float at[AT_ONCE];
};
__device__ __forceinline__ Parts load_parts(const float* part, int p, int parts, int pitch) {
  Parts v;
#pragma unroll
  for (int k = 0; k < AT_ONCE; k++) {
    const int q = p + k * blockDim.y;
    v.at[k] = q < parts ? *pixel(part, q, pitch) : 0.f;
  }
  return v;
}

// Their sum: pairs in float32, which no partial result is more exact than, and the rest in double.
__device__ __forceinline__ double sum(const Parts& v) {
  static_assert(AT_ONCE == 8, "pairs of pairs of pairs");
  return ((v.at[0] + v.at[1]) + (v.at[2] + v.at[3])) + ((v.at[4] + v.at[5]) + (v.at[6] + v.at[7]));
}

#define EACH_PARTS(p, parts) for (int p = threadIdx.y; p < (parts); p += AT_ONCE * blockDim.y)

// Sums over pixels in a fixed order: blocks of some channels by some rows sum their share of the rows into partial
// results, and a second kernel adds the partial results. No atomics: the same numbers on every run.
//
// Most of these sums are short, and their time is that of waiting: so whatever a thread needs from memory is on its way
// before it waits for any of it, and a block waits for its threads once.
#pragma once

constexpr int LANES = 32, ROWS = 8;  // of a block where no launcher says otherwise
constexpr int THREADS = 512;         // of a block that sums rows, at most
constexpr int JOINING = 1024;        // of one that adds partial results
constexpr int AT_ONCE = 4;           // partial results that a thread asks for at once

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
template <class T, int n>
__device__ __forceinline__ Pack<T, n> other_lane(const Pack<T, n>& v, int bit) {
  Pack<T, n> other;
#pragma unroll
  for (int j = 0; j < n; j++) other[j] = other_lane(v[j], bit);
  return other;
}
template <class T>
__device__ __forceinline__ Two<T> other_lane(const Two<T>& v, int bit) {
  return {other_lane(v.a, bit), other_lane(v.b, bit)};
}

// Where the 32 lanes of a warp are whole rows of the block, they add theirs. Then there are `rows` rows to add, and this
// thread's sum belongs to `row` of them, if it is the one to keep it.
struct Left {
  int row, rows;
  bool keeps;
};
template <class T>
__device__ __forceinline__ Left sum_over_lanes(T& value) {
  const int wide = blockDim.x, at = threadIdx.y * wide + threadIdx.x;
  if (wide > 32 || (wide & (wide - 1)) != 0) return {(int)threadIdx.y, (int)blockDim.y, true};
#pragma unroll 1
  for (int bit = wide; bit < 32; bit *= 2) value += other_lane(value, bit);
  return {at / 32, (int)blockDim.y * wide / 32, at % 32 < wide};
}

// The sum of `value` over the threads of a column of the block, for its thread in row 0. `scratch` has a place for each.
template <class T>
__device__ __forceinline__ T sum_over_rows(T value, T* scratch) {
  const Left left = sum_over_lanes(value);
  if (left.rows == 1) return value;
  if (left.keeps) scratch[left.row * blockDim.x + threadIdx.x] = value;
  __syncthreads();
  if (threadIdx.y == 0)
#pragma unroll 1
    for (int first = 1; first < left.rows; first += 4)
#pragma unroll
      for (int row = first; row < first + 4; row++)
        if (row < left.rows) value += scratch[row * blockDim.x + threadIdx.x];
  return value;
}

// The sums over the block's rows of n floats of each thread: thread i = 0, 1, ... of the block has that of float i of a
// row, for as many as there are in a row; many threads with a float each wait less than few with n. `scratch` has a place
// for n floats of each thread; a second call needs a barrier before it.
template <int n>
__device__ __forceinline__ float sum_columns(Pack<float, n> value, Pack<float, n>* scratch) {
  const Left left = sum_over_lanes(value);
  const int wide = blockDim.x * n, at = threadIdx.y * blockDim.x + threadIdx.x;
  if (left.keeps) scratch[left.row * blockDim.x + threadIdx.x] = value;
  __syncthreads();
  const float* column = (const float*)scratch + at;
  float total = 0;
  if (at < wide)
#pragma unroll 1
    for (int first = 0; first < left.rows; first += 8)
#pragma unroll
      for (int row = first; row < first + 8; row++) total += row < left.rows ? column[row * wide] : 0.f;
  return total;
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
  return (v.at[0] + v.at[1]) + (v.at[2] + v.at[3]);
}

#define EACH_PARTS(p, parts) for (int p = threadIdx.y; p < (parts); p += AT_ONCE * blockDim.y)

// Sums over pixels in a fixed order: blocks of some channels by some rows sum their share of the rows into partial
// results, which are added by the last block (join.cuh) or a second kernel: the same numbers on every run.
//
// Most of these sums are short, and their time is that of waiting: so whatever a thread needs from memory is on its way
// before it waits for any of it, and a block waits for its threads once.
#pragma once

constexpr int LANES = 32, ROWS = 8;  // of a block where no launcher says otherwise
constexpr int THREADS = 512;         // of a block that sums rows, at most

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
  if (left.keeps) scratch[left.row * blockDim.x + threadIdx.x] = value;
  __syncthreads();
  return threadIdx.y == 0 ? plus_column(value, scratch + threadIdx.x, left.rows, blockDim.x) : value;
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

// Arrays of rows (pixels) by channels, VEC channels to a thread: they are read and written at once, as 16, 8 or 4 bytes.
// VEC is given when a source is compiled: 4, 2 or 1, what all channel counts, pitches and addresses are multiples of.
//
// Blocks are channels by rows, (C / VEC, rows) threads in all or fewer: neighbours in memory are neighbours in a warp,
// a thread keeps to its channels, whose constants it reads once, and no index has to be divided.
#pragma once
#ifndef VEC
#define VEC 1
#endif

#define EACH_ROW(r, rows) for (int r = blockIdx.y * blockDim.y + threadIdx.y; r < (rows); r += gridDim.y * blockDim.y)
#define EACH_FLOAT(j) _Pragma("unroll") for (int j = 0; j < VEC; j++)

struct __align__(4 * VEC) Floats {
  float v[VEC];
  __device__ __forceinline__ float& operator[](int j) { return v[j]; }
  __device__ __forceinline__ float operator[](int j) const { return v[j]; }
  __device__ __forceinline__ void operator+=(const Floats& other) { EACH_FLOAT(j) v[j] += other.v[j]; }
};

__device__ __forceinline__ Floats other_lane(const Floats& v, int bit) {
  Floats other;
  EACH_FLOAT(j) other[j] = __shfl_xor_sync(0xffffffffu, v[j], bit);
  return other;
}

__device__ __forceinline__ int first_channel() { return (blockIdx.x * blockDim.x + threadIdx.x) * VEC; }

// The floats of row r from channel c on.
__device__ __forceinline__ Floats load(const float* x, int r, int ld, int c) {
  return *(const Floats*)(x + (long long)r * ld + c);
}
__device__ __forceinline__ void store(float* y, int r, int ld, int c, const Floats& v) {
  *(Floats*)(y + (long long)r * ld + c) = v;
}

// Rows r, r + step, ... of channels from c on, as far as they are below `last`; beyond it there is `instead`.
constexpr int ROWS_AT_ONCE = 4;
struct Rows {
  Floats at[ROWS_AT_ONCE];
};
__device__ __forceinline__ Rows load_rows(const float* x, int r, int step, int last, int ld, int c, const Floats& instead) {
  Rows v;
#pragma unroll
  for (int i = 0; i < ROWS_AT_ONCE; i++) v.at[i] = r + i * step < last ? load(x, r + i * step, ld, c) : instead;
  return v;
}
#define EACH_ROWS(r, first, last, step) for (int r = first; r < (last); r += ROWS_AT_ONCE * (step))
#define EACH_OF_ROWS(i) _Pragma("unroll") for (int i = 0; i < ROWS_AT_ONCE; i++)

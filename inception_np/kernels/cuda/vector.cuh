// Arrays of rows (pixels) by channels, VEC channels to a thread, which are read and written at once.
// VEC is given when a source is compiled: 4, 2 or 1, what all channel counts, pitches and addresses are multiples of.
//
// Blocks are channels by rows, (C / VEC, rows) threads in all or fewer: neighbours in memory are neighbours in a warp,
// a thread keeps to its channels, whose constants it reads once, and no index has to be divided.
#pragma once
#ifndef VEC
#define VEC 1
#endif

#define EACH_ROW(r, rows) for (int r = first_row(); r < (rows); r += row_step())
#define EACH_FLOAT(j) _Pragma("unroll") for (int j = 0; j < VEC; j++)

using Floats = Pack<float, VEC>;
__device__ __forceinline__ int first_row() { return blockIdx.y * blockDim.y + threadIdx.y; }
__device__ __forceinline__ unsigned row_step() { return gridDim.y * blockDim.y; }  // signed, loops would be unrolled
__device__ __forceinline__ int first_channel() { return (blockIdx.x * blockDim.x + threadIdx.x) * VEC; }

// The numbers of row r from channel c on.
template <class T>
__device__ __forceinline__ Floats load(const T* x, int r, int ld, int c) { return load<VEC>(pixel(x + c, r, ld)); }
template <class T>
__device__ __forceinline__ void store(T* y, int r, int ld, int c, const Floats& v) { store(pixel(y + c, r, ld), v); }

// Rows r, r + step, ... of channels from c on, as far as they are below `last`; beyond it there is `instead`.
constexpr int ROWS_AT_ONCE = 4;
struct Rows {
  Floats at[ROWS_AT_ONCE];
};
__device__ __forceinline__ Rows load_rows(const Real* x, int r, int step, int last, int ld, int c, const Floats& instead) {
  Rows v;
#pragma unroll
  for (int i = 0; i < ROWS_AT_ONCE; i++) v.at[i] = r + i * step < last ? load(x, r + i * step, ld, c) : instead;
  return v;
}
#define EACH_ROWS(r, first, last, step) for (int r = first; r < (last); r += ROWS_AT_ONCE * (step))
#define EACH_OF_ROWS(i) _Pragma("unroll") for (int i = 0; i < ROWS_AT_ONCE; i++)

// What the blocks of a launch leave in part (parts, ..) is joined by whichever of them is the last to end. It adds in the
// order of the parts, so that it does not matter which block that is: the same numbers on every run.
#pragma once

constexpr int AT_ONCE = 4;  // partial results that a thread asks for at once

// Is this the last of `count` blocks to come here? All threads of a block call this, and what they wrote before is there
// for the last block. The blocks count themselves at `ticket`, which is 0 again after the last one. flag: in shared memory.
// (As NVIDIA's sample threadFenceReduction does it.) Others' results are to be read by __ldcg: other caches may be stale.
__device__ __forceinline__ bool last_block(unsigned* ticket, unsigned count, int* flag) {
  __threadfence();   // what this thread wrote is there for all blocks,
  __syncthreads();  // and so is what the other threads of this block wrote,
  if (threadIdx.x + threadIdx.y == 0) *flag = atomicInc(ticket, count - 1) == count - 1;  // before the block is counted
  __syncthreads();
  __threadfence();  // nothing is read before it was counted
  return *flag;
}

// How threads share the parts of `wide` columns: this one has parts slot, slot + slots, ... of its column.
struct Joiner {
  int wide, slots, column, slot;
  __device__ __forceinline__ Joiner(int at, int threads, int wide)
      : wide(wide), slots(threads / wide), column(at % wide), slot(at / wide) {}
};
#define EACH_PARTS(p, parts, j) for (int p = (j).slot; p < (parts); p += AT_ONCE * (j).slots)

// Of the partial results of one sum, `pitch` floats apart: those of part p, p + slots, ... and zeros beyond the last.
struct Parts {
  float at[AT_ONCE];
};
__device__ __forceinline__ Parts load_parts(const float* part, int p, int parts, int pitch, const Joiner& j) {
  Parts v;
#pragma unroll
  for (int k = 0; k < AT_ONCE; k++) {
    const int q = p + k * j.slots;
    v.at[k] = q < parts ? __ldcg(pixel(part, q, pitch)) : 0.f;
  }
  return v;
}

// Their sum: pairs in float32, which no partial result is more exact than, and the rest in double.
__device__ __forceinline__ double sum(const Parts& v) {
  return (v.at[0] + v.at[1]) + (v.at[2] + v.at[3]);
}

// Two sums that are made together.
struct Two {
  double a, b;
  __device__ __forceinline__ void operator+=(const Two& other) { a += other.a, b += other.b; }
};

// The sum of what all slots of a column have, for slot 0. `scratch` has a place for each thread.
template <class T>
__device__ __forceinline__ T sum_over_slots(T value, T* scratch, const Joiner& j) {
  if (j.slots == 1) return value;
  scratch[j.slot * j.wide + j.column] = value;
  __syncthreads();
  return j.slot == 0 ? plus_column(value, scratch + j.column, j.slots, j.wide) : value;
}

// For slot 0, a column's sum over part (parts, pitch). part: where the column begins. A thread without a column has 0 parts.
// (A null pointer would not do: the compiler of CUDA 13.0 tests it too early where no lane of a warp has a column.)
__device__ __forceinline__ double join_sum(const float* part, int parts, int pitch, const Joiner& j, double* scratch) {
  double all = 0;
  EACH_PARTS(p, parts, j) all += sum(load_parts(part, p, parts, pitch, j));
  return sum_over_slots(all, scratch, j);
}

// The same for two sums, of part (parts, 2, pitch).
__device__ __forceinline__ Two join_sums(const float* part, int parts, int pitch, const Joiner& j, Two* scratch) {
  Two all = {};
  EACH_PARTS(p, parts, j) {
    const Parts a = load_parts(part, p, parts, 2 * pitch, j), b = load_parts(part + pitch, p, parts, 2 * pitch, j);
    all += {sum(a), sum(b)};
  }
  return sum_over_slots(all, scratch, j);
}

// For slot 0, the moments of a column's rows from those of its parts, `share` rows each and the last one the rest: their
// means and the sums of squares about these, in part (parts, 2, pitch). With n rows in part p,
//
//   mean = sum n mean_p / rows        squares = sum (squares_p + n (mean_p - mean)^2)
//
// (Chan, Golub and LeVeque 1979). In one pass: what is summed is mean_p less the first part's mean, which is near all others.
struct Moments {
  float mean, squares;
};
__device__ __forceinline__ Moments join_moments(const float* part, int parts, int pitch, int share, int rows, const Joiner& j,
                                                Two* scratch) {
  const float near = parts > 0 ? __ldcg(part) : 0.f, n_last = rows - (parts - 1) * share;
  Two all = {};  // of deltas, and of squares
  EACH_PARTS(p, parts, j) {
    const Parts means = load_parts(part, p, parts, 2 * pitch, j);
    const Parts squares = load_parts(part + pitch, p, parts, 2 * pitch, j);
    Parts of_means, of_squares;
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) {
      const int q = p + k * j.slots;
      const float n = q == parts - 1 ? n_last : share, delta = q < parts ? means.at[k] - near : 0.f;
      of_means.at[k] = n * delta;
      of_squares.at[k] = squares.at[k] + n * delta * delta;
    }
    all += {sum(of_means), sum(of_squares)};
  }
  all = sum_over_slots(all, scratch, j);
  const double off = all.a / rows, squares = all.b - all.a * off;
  return {(float)(near + off), squares < 0 ? 0.f : (float)squares};  // rounding; a NaN stays
}

// mean, var and rstd = 1 / sqrt(var + eps) of a column go to moments[0], [1] and [2], `pitch` floats apart.
__device__ __forceinline__ void write_moments(float* moments, int pitch, const Moments& m, int rows, float eps) {
  const float var = m.squares / rows;
  moments[0] = m.mean;
  moments[pitch] = var;
  moments[2 * pitch] = rsqrtf(var + eps);
}

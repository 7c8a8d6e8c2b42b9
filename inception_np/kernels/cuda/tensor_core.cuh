// The instructions that C++ has no name for. The CPU build of the tests brings its own definitions of these.
#pragma once
#ifndef CUDA_ON_HOST

// x rounded to TF32 (10 bits of mantissa), to nearest. One instruction since 90, three before.
__device__ __forceinline__ float tf32(float x) {
  unsigned bits;
#if __CUDA_ARCH__ >= 900
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
#else
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
#endif
  return __uint_as_float(bits);
}

// Read `count` floats (1, 2 or 4, aligned) at once from device memory that the kernel does not write, or zeros, in which
// case `from` is not touched.
template <int count>
__device__ __forceinline__ void fetch_few(float* to, const float* from, bool zeros) {
#pragma unroll
  for (int i = 0; i < count; i++) to[i] = 0;
  if (zeros) return;
  if (count == 4) {
    const float4 v = __ldg((const float4*)from);
    to[0] = v.x, to[1 % count] = v.y, to[2 % count] = v.z, to[3 % count] = v.w;
  } else if (count == 2) {
    const float2 v = __ldg((const float2*)from);
    to[0] = v.x, to[1 % count] = v.y;
  } else {
    to[0] = __ldg(from);
  }
}

// from + offset, in one instruction.
__device__ __forceinline__ const float* advance(const float* from, int offset) {
  const float* to;
  asm("mad.wide.s32 %0, %1, 4, %2;" : "=l"(to) : "r"(offset), "l"(from));
  return to;
}

// x, which the compiler shall keep rather than work it out again in every round of a loop.
__device__ __forceinline__ int hold(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// c (16x8) += a (16x8) * b (8x8) by one warp. With g = lane / 4 and t = lane % 4, a lane holds
//   a: (g, t) (g+8, t) (g, t+4) (g+8, t+4)    b: (t, g) (t+4, g)    c: (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
__device__ __forceinline__ void mma_16x8x8(float* c, const float* a, const float* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

#endif

// Read `count` floats (1, 2 or 4, aligned) at once from memory of any kind, and write them.
template <int count>
__device__ __forceinline__ void load_few(float* to, const float* from) {
  const Pack<float, count> v = load<count>(from);
#pragma unroll
  for (int i = 0; i < count; i++) to[i] = v[i];
}
template <int count>
__device__ __forceinline__ void store_few(float* to, const float* from) {
  Pack<float, count> v;
#pragma unroll
  for (int i = 0; i < count; i++) v[i] = from[i];
  store(to, v);
}

// The instructions that C++ has no name for. The CPU build of the tests brings its own definitions of these.
//
// Tensor cores take words of 32 bits. A word is one term of a factor, a float rounded to TF32; or, with -DBF16, two
// neighbouring terms in bfloat16, the first in the lower half.
#pragma once
#ifdef BF16
constexpr int PER_WORD = 2;
#else
constexpr int PER_WORD = 1;
#endif

#ifndef CUDA_ON_HOST

// x rounded to TF32 (10 bits of mantissa), to nearest. One instruction since 90, three before.
__device__ __forceinline__ unsigned tf32(float x) {
  unsigned bits;
#if __CUDA_ARCH__ >= 900
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
#else
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
#endif
  return bits;
}

// The lower halves of two words as one word, the first one's below; or the upper ones.
__device__ __forceinline__ unsigned halves(unsigned first, unsigned second, bool upper) {
  return __byte_perm(first, second, upper ? 0x7632 : 0x5410);
}

// Read `count` numbers (1, 2 or 4, aligned) at once from device memory that the kernel does not write, or zeros, in which
// case `from` is not touched. A word for each float; for each two of bfloat16, or for one that is alone.
template <int count>
__device__ __forceinline__ void fetch_few(unsigned* to, const float* from, bool zeros) {
#pragma unroll
  for (int i = 0; i < count; i++) to[i] = 0;
  if (zeros) return;
  if (count == 4) {
    const uint4 v = __ldg((const uint4*)from);
    to[0] = v.x, to[1 % count] = v.y, to[2 % count] = v.z, to[3 % count] = v.w;
  } else if (count == 2) {
    const uint2 v = __ldg((const uint2*)from);
    to[0] = v.x, to[1 % count] = v.y;
  } else {
    to[0] = __ldg((const unsigned*)from);
  }
}
template <int count>
__device__ __forceinline__ void fetch_few(unsigned* to, const bfloat16* from, bool zeros) {
  if (count > 1) return fetch_few<(count + 1) / 2>(to, (const float*)from, zeros);
  to[0] = zeros ? 0 : __ldg((const unsigned short*)from);
}

// from + offset, in one instruction.
template <class T>
__device__ __forceinline__ const T* advance(const T* from, int offset) {
  const T* to;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(to) : "r"(offset), "n"(sizeof(T)), "l"(from));
  return to;
}

// x, which the compiler shall keep rather than work it out again in every round of a loop.
__device__ __forceinline__ int hold(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// c (16 x 8) += a (16 x 8 words) * b (8 words x 8) by one warp. With g = lane / 4 and t = lane % 4, a lane holds
//   a: (g, t) (g+8, t) (g, t+4) (g+8, t+4)    b: (t, g) (t+4, g)    c: (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
__device__ __forceinline__ void mma_16x8(float* c, const unsigned* a, const unsigned* b) {
#ifdef BF16
#define SHAPE_AND_TYPES "m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define SHAPE_AND_TYPES "m16n8k8.row.col.f32.tf32.tf32.f32"
#endif
  asm volatile("mma.sync.aligned." SHAPE_AND_TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

// Read `count` numbers (1, 2 or 4, aligned) at once from memory of any kind, and write them, rounded where T is smaller.
template <int count, class T>
__device__ __forceinline__ void load_few(Value<T>* to, const T* from) {
  const auto v = load<count>(from);
#pragma unroll
  for (int i = 0; i < count; i++) to[i] = v[i];
}
template <int count, class T>
__device__ __forceinline__ void store_few(T* to, const Value<T>* from) {
  Pack<Value<T>, count> v;
#pragma unroll
  for (int i = 0; i < count; i++) v[i] = from[i];
  store(to, v);
}

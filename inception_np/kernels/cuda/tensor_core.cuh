// The instructions that C++ has no name for. The CPU build of the tests brings its own definitions of these.
#pragma once
#ifndef CUDA_ON_HOST

// x rounded to TF32 (10 bits of mantissa), to nearest.
__device__ __forceinline__ unsigned tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// c (16x8) += a (16x8) * b (8x8) by one warp. With g = lane / 4 and t = lane % 4, a lane holds
//   a: (g, t) (g+8, t) (g, t+4) (g+8, t+4)    b: (t, g) (t+4, g)    c: (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
__device__ __forceinline__ void mma_16x8x8(float* c, const unsigned* a, const unsigned* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Begin to copy `count` floats (1, 2 or 4, aligned) to shared memory, or zeros where `from` is null.
template <int count>
__device__ __forceinline__ void copy_async(float* to, const float* from, const float* anywhere) {
  const unsigned address = (unsigned)__cvta_generic_to_shared(to);
  const int bytes = from ? 4 * count : 0;
  if (count == 4)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from ? from : anywhere), "r"(bytes));
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from ? from : anywhere), "n"(4 * count), "r"(bytes));
}

// Close a group of copies; wait until at most `pending` groups of this thread are under way.
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#endif

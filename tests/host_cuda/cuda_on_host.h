// CUDA for the CPU, as far as the sources in inception_np/kernels/cuda need it: the same text compiled by g++ and run
// with one fibre per thread. Blocks run one after the other. Threads take turns from barrier to barrier, or greedily:
// the last warp first, each warp as far as it can go, and of the blocks the last, the last but two and so on, then the
// others (a kernel whose result differs has a race). Shared memory holds NaNs when a block begins. What a thread wrote is there for another block that is told so by
// an atomic only if the thread passed a fence, and then a barrier that the telling thread passed too.
// There is no timing here, no weak memory, no divergence within a warp.
#pragma once
#define CUDA_ON_HOST 1
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>
using std::max;
using std::min;

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict
#define __shared__ static __attribute__((section("shared_memory")))
extern "C" __attribute__((weak, visibility("hidden"))) char __start_shared_memory[], __stop_shared_memory[];

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

// What shared memory holds when a block begins: NaNs. Did a kernel take such a word for an offset?
constexpr unsigned UNWRITTEN = 0x7fc00000;
static bool took_unwritten = false;

// ---- fibres: each has a stack; a barrier hands over to the scheduler until all have come
struct Fibre {
  ucontext_t begin;
  jmp_buf where;
  std::unique_ptr<char[]> stack;
  bool started, done, at_block_barrier;
  unsigned generation;  // of the block's barrier, while it waits there
  unsigned fenced;      // the generation at its last fence; NEVER: none yet
};
constexpr unsigned NEVER = ~0u;
static std::vector<Fibre> fibres;
static jmp_buf scheduler;
static ucontext_t scheduler_context;
static unsigned current, threads, staying;
static void (*body)(void*);
static void* body_arguments;
static bool greedy = false;
static int stuck;

static void hand_over() {
  if (!_setjmp(fibres[current].where)) _longjmp(scheduler, 1);
}
static void resume(unsigned t) {
  Fibre& f = fibres[t];
  current = t;
  if (_setjmp(scheduler)) return;
  if (f.started) _longjmp(f.where, 1);
  f.started = true;
  setcontext(&f.begin);
}

struct Barrier { unsigned come, generation; };
static Barrier block_barrier, warp_barriers[64];
static void open_if(Barrier& b, unsigned count) {
  if (b.come > 0 && b.come == count) b.come = 0, b.generation++;
}
static void run_fibre() {
  body(body_arguments);
  fibres[current].done = true;
  open_if(block_barrier, --staying);
  _longjmp(scheduler, 1);
}
static void wait_for(Barrier& b, unsigned count) {
  const unsigned generation = b.generation;
  b.come++;
  open_if(b, count);
  while (b.generation == generation) hand_over();
}
static inline void __syncthreads() {
  Fibre& f = fibres[current];
  f.at_block_barrier = true;
  f.generation = block_barrier.generation;
  wait_for(block_barrier, staying);  // of all threads that have not left
  f.at_block_barrier = false;
}
static bool can_go_on(const Fibre& f) {
  return !f.done && !(f.at_block_barrier && f.generation == block_barrier.generation);
}
static bool told_too_early = false;
static inline void __threadfence() { fibres[current].fenced = block_barrier.generation; }
static inline unsigned atomicInc(unsigned* at, unsigned most) {
  for (unsigned t = 0; t < threads; t++)
    if (!fibres[t].done && (fibres[t].fenced == NEVER || fibres[t].fenced == block_barrier.generation)) told_too_early = true;
  const unsigned before = *at;
  *at = before >= most ? 0 : before + 1;
  return before;
}
template <class T> static inline T __ldcg(const T* from) { return *from; }
static inline void __syncwarp(unsigned = ~0u) { wait_for(warp_barriers[current / 32], 32); }

static double shuffled[2048];
template <class T> static inline T __shfl_xor_sync(unsigned, T v, int o) {
  const unsigned t = current;
  T r;
  memcpy(&shuffled[t], &v, sizeof v);
  __syncwarp();
  memcpy(&r, &shuffled[t ^ o], sizeof r);
  __syncwarp();
  return r;
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned __int128)a * b >> 64;
}
static inline float __fdividef(float x, float y) { return x / y; }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float __int_as_float(int i) { float f; memcpy(&f, &i, 4); return f; }
static inline float __uint_as_float(unsigned u) { return __int_as_float((int)u); }
static inline unsigned bfloat16_bits(float x) {  // to nearest, of two to the even one
  unsigned u;
  memcpy(&u, &x, 4);
  return x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
static inline unsigned bfloat16_pair(float low, float high) { return bfloat16_bits(low) | bfloat16_bits(high) << 16; }

// ---- tensor cores, by the layout of fragments in the PTX manual (mma.m16n8k8 of .tf32, mma.m16n8k16 of .bf16)
static inline unsigned tf32(float x) {
  unsigned u;
  memcpy(&u, &x, 4);
  return x != x ? u : (u + 0x1000u) & ~0x1fffu;  // a NaN stays one, that of poisoned memory too
}
static inline unsigned halves(unsigned first, unsigned second, bool upper) {
  return upper ? first >> 16 | (second & 0xffff0000u) : (first & 0xffffu) | second << 16;
}
static inline float times(unsigned a, unsigned b) {  // the product of two words, or the sum of two products
#ifdef BF16
  return __uint_as_float(a << 16) * __uint_as_float(b << 16) +
         __uint_as_float(a & 0xffff0000u) * __uint_as_float(b & 0xffff0000u);
#else
  return __uint_as_float(a & ~0x1fffu) * __uint_as_float(b & ~0x1fffu);  // it ignores the last 13 bits
#endif
}
static unsigned lanes_a[64][32][4], lanes_b[64][32][2];
static inline void mma_16x8(float* c, const unsigned* a, const unsigned* b) {
  const unsigned warp = current / 32, lane = current % 32;
  memcpy(lanes_a[warp][lane], a, 16);
  memcpy(lanes_b[warp][lane], b, 8);
  __syncwarp();
  for (int q = 0; q < 4; q++) {
    const unsigned row = lane / 4 + q / 2 * 8, column = lane % 4 * 2 + q % 2;
    float sum = c[q];
    for (unsigned k = 0; k < 8; k++)
      sum += times(lanes_a[warp][row % 8 * 4 + k % 4][row / 8 + k / 4 * 2], lanes_b[warp][column * 4 + k % 4][k / 4]);
    c[q] = sum;
  }
  __syncwarp();
}

// ---- what g++ -fsanitize=alignment calls before an access to an address that its type cannot have
static int misaligned_accesses;
extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(void*, void*) { misaligned_accesses++; }

template <class T> static inline const T* advance(const T* from, int offset) {
  if (offset != (int)UNWRITTEN) return from + offset;
  took_unwritten = true;
  return nullptr;
}
static inline int hold(int x) { return x; }

// ---- several numbers at once, which must be aligned; those of bfloat16 two to a word, or one in the lower half
template <int count, class T> static inline void fetch_few(unsigned* to, const T* from, bool zeros) {
  memset(to, 0, count * sizeof(T) < 4 ? 4 : count * sizeof(T));
  if (zeros || !from) return;
  if ((uintptr_t)from % (count * sizeof(T))) fprintf(stderr, "misaligned by %d\n", int((uintptr_t)from % (count * sizeof(T)))), abort();
  memcpy(to, from, count * sizeof(T));
}

// ---- launches. Arguments come as the CUDA driver takes them: an array of pointers to them.
template <class... A, size_t... I> static void call(void (*kernel)(A...), void** a, std::index_sequence<I...>) {
  kernel(*(std::remove_reference_t<A>*)a[I]...);
}
template <class... A>
static void launch(void (*kernel)(A...), const unsigned* grid, const unsigned* block, void** a, bool barriers) {
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  threads = block[0] * block[1] * block[2];
  auto run = [&] { call(kernel, a, std::index_sequence_for<A...>()); };
  body = [](void* p) { (*(decltype(run)*)p)(); };
  body_arguments = &run;
  const size_t stack = 64 << 10;
  while (fibres.size() < threads) fibres.push_back({{}, {}, std::unique_ptr<char[]>(new char[stack]), false, false, false, 0, NEVER});
  const unsigned blocks = grid[0] * grid[1] * grid[2];
  for (unsigned turn = 0; turn < blocks; turn++) {
    const unsigned back = 2 * turn < blocks ? 2 * turn : 2 * turn - blocks + (blocks % 2 == 0);
    const unsigned b = greedy ? blocks - 1 - back : turn;
    blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
    block_barrier = {};
    staying = threads;
    memset(warp_barriers, 0, sizeof warp_barriers);
    if (__start_shared_memory) std::fill((unsigned*)__start_shared_memory, (unsigned*)__stop_shared_memory, UNWRITTEN);
    for (unsigned t = 0; t < threads; t++) {
      fibres[t].started = fibres[t].done = fibres[t].at_block_barrier = false;
      fibres[t].fenced = NEVER;
      if (!barriers) continue;
      getcontext(&fibres[t].begin);
      fibres[t].begin.uc_stack.ss_sp = fibres[t].stack.get();
      fibres[t].begin.uc_stack.ss_size = stack;
      fibres[t].begin.uc_link = nullptr;
      makecontext(&fibres[t].begin, run_fibre, 0);
    }
    auto step = [&](unsigned t) {
      current = t;
      threadIdx = {t % block[0], t / block[0] % block[1], t / block[0] / block[1]};
      if (barriers) resume(t);
      else run(), fibres[t].done = true;  // nothing waits: no need of a stack of its own
    };
    for (bool more = true; more;) {
      more = false;
      for (unsigned i = 0; i < threads; i += 32) {
        const unsigned warp = greedy ? (threads - 1) / 32 * 32 - i : i;
        for (bool again = true; again; again = again && greedy) {
          again = false;
          for (unsigned t = warp; t < std::min(warp + 32, threads); t++)
            if (can_go_on(fibres[t])) step(t), more = again = true;
        }
      }
    }
    for (unsigned t = 0; t < threads; t++) stuck += !fibres[t].done;  // at a barrier that others never reach
  }
}

// Convolution and its two adjoints as matrix products whose left factor, the columns of im2col, is never written:
// each tile of it is gathered from x (or dy) into shared memory as the product needs it.
//
//   conv2d      y[pixel, o]       = sum over (r, s, c)   x[window(pixel), c]    * w[r, s, c, o]
//   conv2d_dx   dx[pixel, c]      = sum over (r, s, o)   dy[who saw pixel, o]   * w[r, s, c, o]
//   conv2d_dw   dw[(r, s, c), o]  = sum over pixels      x[window(pixel), c]    * dy[pixel, o]
//
// The products run on tensor cores: factors rounded to TF32, sums in float32, in a fixed order. A block of threads
// makes a BM x BN tile of the result, each warp 32 x 32 of it, BK terms at a time; while the warps multiply one tile,
// the next two are on their way from memory. Two numbers are given when this is compiled: BN (64, or 32 for results of
// few columns), and VEC (4, 2 or 1), how many floats one copy takes: what the channel counts are multiples of.
#include "common.cuh"
#include "tensor_core.cuh"

constexpr int BM = 128, BK = 16, STAGES = 3, ACROSS = BN / 32, THREADS = 4 * ACROSS * 32;  // ACROSS: warps side by side

// A factor's tile in shared memory: SIZE rows of the result (or columns) by BK terms. Copies of four floats must lie
// along whichever of the two is contiguous in device memory: the terms (ALONG_K) or the rows. The padding keeps the
// lanes of a warp, which read 8 rows by 4 terms, on 32 different banks.
template <int SIZE, bool ALONG_K>
struct Tile {
  static constexpr int PITCH = ALONG_K ? BK + 4 : SIZE + 8;
  static constexpr int FLOATS = ALONG_K ? SIZE * PITCH : BK * PITCH;
  static constexpr int COPIES = SIZE * BK / 4 / THREADS;  // of four floats, by each thread
  static constexpr int KEPT = ALONG_K ? COPIES : 4 / VEC;  // rows whose addresses a thread keeps ready

  static __device__ __forceinline__ int place(int row, int k) { return ALONG_K ? row * PITCH + k : k * PITCH + row; }
  static __device__ __forceinline__ int row(int copy) {
    return ALONG_K ? threadIdx.x / 4 + copy * (THREADS / 4) : threadIdx.x % (SIZE / 4) * 4;
  }
  static __device__ __forceinline__ int k(int copy) {
    return ALONG_K ? threadIdx.x % 4 * 4 : threadIdx.x / (SIZE / 4) + copy * (THREADS * 4 / SIZE);
  }

  // Factor says what is where: row(i) and term(k) are what it wants to remember of a row and of a term, and
  // at(row, term) is the address of that number, or null for a zero.
  template <class Factor>
  static __device__ __forceinline__ void keep(const Factor& f, int first, typename Factor::Row* rows) {
#pragma unroll
    for (int j = 0; j < KEPT; j++) rows[j] = f.row(first + (ALONG_K ? row(j) : row(0) + j * VEC));
  }
  template <class Factor>
  static __device__ __forceinline__ void load(const Factor& f, const typename Factor::Row* rows, int first, float* tile) {
#pragma unroll
    for (int j = 0; j < 4 / VEC; j++)
#pragma unroll
      for (int copy = 0; copy < COPIES; copy++) {
        const typename Factor::Term term = f.term(first + k(copy) + (ALONG_K ? j * VEC : 0));
        float* to = tile + place(row(copy), k(copy)) + j * VEC;
        copy_async<VEC>(to, f.at(rows[ALONG_K ? copy : j], term), f.data);
      }
  }
};

// sum[i][j] += this warp's 32 x 32 part of A * B: fragment i is 16 rows, fragment j 8 columns.
template <class TileA, class TileB, class A, class B>
__device__ __forceinline__ void multiply(float sum[2][4][4], const A& a, const B& b, int row, int column, int first, int last,
                                         float* shared) {
  float *tiles_a = shared, *tiles_b = shared + STAGES * TileA::FLOATS;
  typename A::Row rows[TileA::KEPT];
  typename B::Row columns[TileB::KEPT];
  TileA::keep(a, row, rows);
  TileB::keep(b, column, columns);
  const int count = (last - first + BK - 1) / BK;
  auto load = [&](int t) {
    TileA::load(a, rows, first + t * BK, tiles_a + t % STAGES * TileA::FLOATS);
    TileB::load(b, columns, first + t * BK, tiles_b + t % STAGES * TileB::FLOATS);
  };
  for (int t = 0; t < STAGES - 1; t++) {
    if (t < count) load(t);
    copy_commit();
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int own_row = warp / ACROSS * 32 + lane / 4, own_column = warp % ACROSS * 32 + lane / 4;
  for (int t = 0; t < count; t++) {
    copy_wait<STAGES - 2>();  // tile t has come, for this thread;
    __syncthreads();          // for all of them, and none still reads the tile that the next copies overwrite
    if (t + STAGES - 1 < count) load(t + STAGES - 1);
    copy_commit();
    const float *tile_a = tiles_a + t % STAGES * TileA::FLOATS, *tile_b = tiles_b + t % STAGES * TileB::FLOATS;
#pragma unroll
    for (int k = lane % 4; k < BK; k += 8) {
      unsigned fa[2][4], fb[4][2];
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int q = 0; q < 4; q++) fa[i][q] = tf32(tile_a[TileA::place(own_row + i * 16 + q % 2 * 8, k + q / 2 * 4)]);
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int q = 0; q < 2; q++) fb[j][q] = tf32(tile_b[TileB::place(own_column + j * 8, k + q * 4)]);
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma_16x8x8(sum[i][j], fa[i], fb[j]);
    }
  }
}

// Hand every number of this thread's part of the tile to store(row, column, value).
template <class Store>
__device__ __forceinline__ void each_result(const float sum[2][4][4], int row, int column, const Store& store) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int q = 0; q < 4; q++)
        store(row + warp / ACROSS * 32 + i * 16 + lane / 4 + q / 2 * 8, column + warp % ACROSS * 32 + j * 8 + lane % 4 * 2 + q % 2,
              sum[i][j][q]);
}

// The mean of this tile's `count` real rows in every column, and the sum of squares about it: part[0][column] and
// part[1][column], `pitch` floats apart. scratch: 4 * BN floats that no thread uses any more.
__device__ __forceinline__ void column_moments(const float sum[2][4][4], int count, int columns, float* scratch, float* part,
                                               int pitch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, own = warp % ACROSS * 32 + lane % 4 * 2;
  float mean[4][2] = {};
  for (int pass = 0; pass < 2; pass++) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int p = 0; p < 2; p++) {
        float total = 0;
#pragma unroll
        for (int r = 0; r < 4; r++) {  // this thread's four rows of the column
          const float delta = sum[r / 2][j][r % 2 * 2 + p] - mean[j][p];
          if (warp / ACROSS * 32 + r / 2 * 16 + lane / 4 + r % 2 * 8 < count) total += pass ? delta * delta : delta;
        }
        for (int o = 4; o < 32; o *= 2) total += __shfl_xor_sync(0xffffffffu, total, o);
        if (lane / 4 == 0) scratch[warp / ACROSS * BN + own + j * 8 + p] = total;
      }
    __syncthreads();
    if (pass == 0)
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int p = 0; p < 2; p++) {
          const float* s = scratch + own + j * 8 + p;
          mean[j][p] = (s[0] + s[BN] + s[2 * BN] + s[3 * BN]) / count;
        }
    const int c = threadIdx.x;
    if (c < BN && c < columns) {
      const float total = scratch[c] + scratch[BN + c] + scratch[2 * BN + c] + scratch[3 * BN + c];
      part[pass * pitch + c] = pass ? total : total / count;
    }
  }
}

// ---- the factors

// Windows of x: pixel (n, oh, ow) by (r, s, c). `lines` pixels, `depth` = kh * kw * channels.
struct Windows {
  const float* data;  // the first channel of the group
  Window d;
  int ld, channels, lines, depth;
  struct Row { int image, h, w; };
  struct Term { int r, s, c; };
  __device__ __forceinline__ Row pixel(int m) const {
    const int ow = m % d.OW, oh = m / d.OW % d.OH, n = m / d.OW / d.OH;
    return {m < lines ? n : -1, oh * d.sh - d.top, ow * d.sw - d.left};
  }
  __device__ __forceinline__ Term tap(int k) const {
    return {k < depth ? k / channels / d.kw : -1, k / channels % d.kw, k % channels};
  }
  __device__ __forceinline__ const float* at(const Row& p, const Term& t) const {
    const int h = p.h + t.r * d.dh, w = p.w + t.s * d.dw;
    if (p.image < 0 || t.r < 0 || !inside(h, d.H) || !inside(w, d.W)) return nullptr;
    return data + (((long long)p.image * d.H + h) * d.W + w) * ld + t.c;
  }
};
struct WindowRows : Windows {  // one row per pixel, for y
  __device__ __forceinline__ Row row(int m) const { return pixel(m); }
  __device__ __forceinline__ Term term(int k) const { return tap(k); }
};
struct WindowColumns : Windows {  // the same matrix lying on its side: one row per weight, for dw
  using Row = Windows::Term;
  using Term = Windows::Row;
  __device__ __forceinline__ Row row(int i) const { return tap(i); }
  __device__ __forceinline__ Term term(int m) const { return pixel(m); }
  __device__ __forceinline__ const float* at(const Row& t, const Term& p) const { return Windows::at(p, t); }
};

// A plain matrix: `data` is row 0 of the terms, `columns` wide, `ld` floats from term to term.
struct Matrix {
  const float* data;
  int ld, columns, terms;
  using Row = int;
  using Term = int;
  __device__ __forceinline__ int row(int i) const { return i; }
  __device__ __forceinline__ int term(int k) const { return k; }
  __device__ __forceinline__ const float* at(int i, int k) const {
    return i < columns && k < terms ? data + (long long)k * ld + i : nullptr;
  }
};

// With stride s, pixels whose distances to the padding's edge leave the same remainder by s are seen through the same
// taps: first, first + step, ... For one remainder the sum over taps is dense, so each remainder has its own blocks.
struct Taps {
  int first, step, count, shift;  // shift: by how many positions the window moves from one such tap to the next
  __device__ __forceinline__ Taps(int remainder, int kernel, int stride, int dilation) : first(0), step(1), count(0) {
    while (first < kernel && (remainder - first * dilation) % stride != 0) first++;
    while (step * dilation % stride != 0) step++;
    if (first < kernel) count = (kernel - 1 - first) / step + 1;
    shift = step * dilation / stride;
  }
};

// What dy saw of the pixels of one remainder: pixel by (tap, tap, o), zero where no window had that tap there.
struct Viewers {
  const float* data;
  Window d;
  int ld, channels;  // of dy
  int h0, w0, rows, columns, lines, depth;
  Taps ry, rx;
  struct Row { int image, oh, ow; };
  struct Term { int r, s, o; };
  __device__ __forceinline__ Row row(int m) const {
    const int w = w0 + m % columns * d.sw, h = h0 + m / columns % rows * d.sh;
    return {m < lines ? m / columns / rows : -1, (h + d.top - ry.first * d.dh) / d.sh, (w + d.left - rx.first * d.dw) / d.sw};
  }
  __device__ __forceinline__ Term term(int k) const {
    return {k < depth ? k / channels / rx.count : -1, k / channels % rx.count, k % channels};
  }
  __device__ __forceinline__ const float* at(const Row& p, const Term& t) const {
    const int oh = p.oh - t.r * ry.shift, ow = p.ow - t.s * rx.shift;
    if (p.image < 0 || t.r < 0 || !inside(oh, d.OH) || !inside(ow, d.OW)) return nullptr;
    return data + (((long long)p.image * d.OH + oh) * d.OW + ow) * ld + t.o;
  }
};

// The weights for those taps: input channel by (tap, tap, o).
struct Weights {
  const float* data;
  int kw, in, out, channels, depth;  // channels: of dy, in this group; out: of all groups
  Taps ry, rx;
  using Row = int;
  struct Term { int tap, o; };
  __device__ __forceinline__ int row(int c) const { return c; }
  __device__ __forceinline__ Term term(int k) const {
    const int r = ry.first + k / channels / rx.count * ry.step, s = rx.first + k / channels % rx.count * rx.step;
    return {k < depth ? r * kw + s : -1, k % channels};
  }
  __device__ __forceinline__ const float* at(int c, const Term& t) const {
    return c < in && t.tap >= 0 ? data + ((long long)t.tap * in + c) * out + t.o : nullptr;
  }
};

// ---- the kernels. Grids: (tiles of rows, tiles of columns, groups * ...). O: output channels of all groups.

// With `part`, block x of the grid leaves the moments of its BM rows of y in part[x][2][O] (batchnorm.cu joins them).
extern "C" __global__ void __launch_bounds__(THREADS, 4 / ACROSS)
    conv2d(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias, float* __restrict__ y,
           float* __restrict__ part, Window d, int O, int groups, int ldx, int ldy, int relu) {
  using A = Tile<BM, true>;
  using B = Tile<BN, false>;
  __shared__ __align__(16) float shared[STAGES * (A::FLOATS + B::FLOATS)];
  const int group = blockIdx.z, in = d.C / groups, out = O / groups, row = blockIdx.x * BM, column = blockIdx.y * BN;
  const int pixels = d.N * d.OH * d.OW, depth = d.kh * d.kw * in;
  float sum[2][4][4] = {};
  multiply<A, B>(sum, WindowRows{{x + group * in, d, ldx, in, pixels, depth}}, Matrix{w + group * out, O, out, depth}, row, column,
                 0, depth, shared);
  each_result(sum, row, column, [&](int m, int o, float v) {
    if (m >= pixels || o >= out) return;
    if (bias) v += bias[group * out + o];
    y[(long long)m * ldy + group * out + o] = relu && v <= 0 ? 0.f : v;
  });
  if (part)
    column_moments(sum, min(BM, pixels - row), out - column, shared, part + (long long)blockIdx.x * 2 * O + group * out + column,
                   O);
}

// Blocks in z: groups * the sh * sw remainders.
extern "C" __global__ void __launch_bounds__(THREADS, 4 / ACROSS)
    conv2d_dx(const float* __restrict__ dy, const float* __restrict__ w, float* __restrict__ dx, Window d, int O, int groups,
              int lddy, int lddx, int add) {
  using A = Tile<BM, true>;
  using B = Tile<BN, true>;
  __shared__ __align__(16) float shared[STAGES * (A::FLOATS + B::FLOATS)];
  const int h0 = blockIdx.z % d.sh, w0 = blockIdx.z / d.sh % d.sw, group = blockIdx.z / d.sh / d.sw;
  const int in = d.C / groups, out = O / groups, row = blockIdx.x * BM, column = blockIdx.y * BN;
  const int rows = (d.H - h0 + d.sh - 1) / d.sh, columns = (d.W - w0 + d.sw - 1) / d.sw, pixels = d.N * rows * columns;
  if (row >= pixels) return;
  const Taps ry((h0 + d.top) % d.sh, d.kh, d.sh, d.dh), rx((w0 + d.left) % d.sw, d.kw, d.sw, d.dw);
  const int depth = ry.count * rx.count * out;
  float sum[2][4][4] = {};
  if (depth > 0)
    multiply<A, B>(sum, Viewers{dy + group * out, d, lddy, out, h0, w0, rows, columns, pixels, depth, ry, rx},
                   Weights{w + group * out, d.kw, in, O, out, depth, ry, rx}, row, column, 0, depth, shared);
  each_result(sum, row, column, [&](int m, int c, float v) {
    if (m >= pixels || c >= in) return;
    const int h = h0 + m / columns % rows * d.sh, at_w = w0 + m % columns * d.sw;
    float* at = dx + (((long long)(m / columns / rows) * d.H + h) * d.W + at_w) * lddx + group * in + c;
    *at = add ? *at + v : v;
  });
}

// Blocks in z: groups * parts. Part p sums over pixels [p * share, (p + 1) * share) into part[p], shaped like w.
extern "C" __global__ void __launch_bounds__(THREADS, 4 / ACROSS)
    conv2d_dw(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ part, Window d, int O, int groups,
              int ldx, int lddy, int share) {
  using A = Tile<BM, false>;
  using B = Tile<BN, false>;
  __shared__ __align__(16) float shared[STAGES * (A::FLOATS + B::FLOATS)];
  const int group = blockIdx.z % groups, p = blockIdx.z / groups;
  const int in = d.C / groups, out = O / groups, row = blockIdx.x * BM, column = blockIdx.y * BN;
  const int depth = d.kh * d.kw * in, first = p * share, last = min(first + share, d.N * d.OH * d.OW);
  float sum[2][4][4] = {};
  WindowColumns a{{x + group * in, d, ldx, in, last, depth}};
  multiply<A, B>(sum, a, Matrix{dy + group * out, lddy, out, last}, row, column, first, last, shared);
  each_result(sum, row, column, [&](int i, int o, float v) {
    if (i < depth && o < out) part[((long long)p * depth + i) * O + group * out + o] = v;
  });
}

// Convolution and its two adjoints as matrix products whose left factor, the columns of im2col, is never written:
// each tile of it is gathered from x (or dy) into shared memory as the product needs it (windows.cuh says from where).
//
//   conv2d      y[pixel, o]       = sum over (r, s, c)   x[window(pixel), c]    * w[r, s, c, o]
//   conv2d_dx   dx[pixel, c]      = sum over (r, s, o)   dy[who saw pixel, o]   * w[r, s, c, o]
//   conv2d_dw   dw[(r, s, c), o]  = sum over pixels      x[window(pixel), c]    * dy[pixel, o]
//
// The products run on tensor cores: factors rounded to TF32, sums in float32, in a fixed order. With -DBF16 activations
// are stored in bfloat16 and weights rounded to it. Then a word of a tile is two neighbouring terms (tensor_core.cuh),
// and a step has twice as many terms; where this page says term or number, read word.
//
//     block: BM x BN of the result      warp: 32 rows x 8 * STRIPS columns     mma_16x8: 16 rows, one strip of columns
//     +-----------+-----------+         +-----+-----+-----+-----+                    column 0 1   2 3   4 5   6 7
//     |  warp 0   |  warp 1   |         |     |     |     |     | 16 rows    row 0   lane  0     1     2     3
//     +-----------+-----------+         +-----+-----+-----+-----+            row 1   lane  4     5     6     7
//     |  warp 2   |  warp 3   |         |     |     |     |     | 16 rows    ...
//     +-----------+-----------+         +-----+-----+-----+-----+            and the same lanes for rows 8, 9, ...
//
// The sum advances by BK terms a step. While the warps multiply one step's tiles in shared memory, the numbers of the
// next are there already, and those of the one after next are on their way from memory to registers.
//
// Which lines of a tile make a strip, and in which order terms are summed, is ours to choose as long as both factors
// agree: lane (g, t) = (lane / 4, lane % 4) takes line g of each strip and terms 4t to 4t + 3 of each step, two terms
// for each mma. So a lane's part of a pair of strips, 2 lines by 2 terms, is four numbers: a quad. Shared memory holds
// quads, 32 of them for each pair of strips and each mma, and a lane reads one at once, ready for the tensor core.
//
// Thread 37 in a step of conv2d, with BM = 128, BN = 64 and 256 threads; it is lane (1, 1) of warp 1:
//   store     rounds what it read a step ago, 16 numbers, and writes them as four quads.
//   load      looks up terms 4 to 7 of the step after next, (r, s, c) to (r, s, c + 3), and reads them for pixels 17 and
//             25 of its block: 16 bytes of x each, or zeros beside the image. Of w it reads columns 20 to 23 of terms 4
//             and 5. (The upper half of the threads reads none of w: its tile is half as large.)
//   multiply  reads its quads of its warp's 4 strips of rows and 4 strips of columns: 2 + 2 of them are enough for 8 mma,
//             and that twice.
//
// Where a result is too small to keep the GPU busy, SHARES groups of such warps make the same tile, each of its own
// share of the terms, with tiles of its own in shared memory; at the end the first group adds what the others have.
//
// How it came to this: all conv2d of a training step of inception_v3_cifar, batch 256, on an H200 (tests/gpu/gpu.json).
// What is small is slow by its instructions, of which those before and after the loop were the most. Those of the loop,
// for 16 mma of the three kernels, are counted by
//
//   python tests/host_cuda/sass.py conv.cu 90 -DVEC=4 -DBM=128 -DBN=64 -DSHARES=1
//
//   copied by cp.async; each number's address, and its rounding, at each use    2.17 ms    314 to 346 instructions
//   windows listed once, numbers rounded once, quads                            1.95       100 to 102
//   two shares where blocks are few                                             1.49
//   lines worked out once for a block, moments in one pass                      1.27        94 to 100
//
// To follow one of its threads line by line in gdb, on a CPU: tests/host_cuda/README.md.
//
// Given when this is compiled: BM (128, or 64 with 2 shares), BN (16, 32, 48, 64, or 96 unshared), SHARES, and VEC (4, 2
// or 1), how many numbers are read at once: what the channel counts are multiples of.
#include "common.cuh"
#include "join.cuh"
#include "tensor_core.cuh"
#include "windows.cuh"

constexpr int WORDS = 16, BK = WORDS * PER_WORD, TERMS = 256 * PER_WORD / SHARES;
constexpr int DOWN = BM / 32, ACROSS = BN > 48 ? 2 : 1, STRIPS = BN / ACROSS / 8;  // warps each way; strips of a warp
constexpr int THREADS = 32 * DOWN * ACROSS;  // of a share
constexpr int LARGE = (BM == 64 && BN == 48) + (VEC < 4);  // how many things ask for more registers
constexpr int WARPS = LARGE == 2 ? 8 : LARGE ? 12 : 16;    // of one multiprocessor: their registers must do

// This thread among those of its share, and the share.
__device__ __forceinline__ int own_thread() { return SHARES > 1 ? threadIdx.x % THREADS : threadIdx.x; }
__device__ __forceinline__ int own_share() { return SHARES > 1 ? threadIdx.x / THREADS : 0; }

// A factor's tile: SIZE lines by BK terms, made of numbers of type T. Those that a thread reads together lie along
// whichever of the two is contiguous in device memory: terms (ALONG_K) or lines. It reads patches of 8 words, which are
// two quads: two lines by four words, or four lines by two words.
template <class T, int SIZE, bool ALONG_K, int STRIPS, bool LEFT>
struct Tile {
  using Number = T;
  static constexpr int ALL_WORDS = SIZE * WORDS, PATCHES = ALL_WORDS / 8, COPIES = (PATCHES + THREADS - 1) / THREADS;
  static constexpr int NUMBERS = 8 * PER_WORD, HELD = VEC > 1 ? NUMBERS * sizeof(T) / 4 : NUMBERS;  // words hold a patch as read
  static constexpr int STEP = ALONG_K ? 1 : VEC, GRAIN = ALONG_K ? VEC : 1;  // lines, terms that share an entry of a list
  static constexpr int PERIOD = TERMS * GRAIN / BK;                          // steps until that of terms is written anew
  static constexpr int LINES = ALONG_K ? 2 : 4 / VEC;                        // entries for a patch
  static constexpr int RUN = ALONG_K ? 2 : 4;                                // columns that a lane holds side by side

  // Line g of strip f, counted from the warp's first line. Where lines are contiguous, strips are interleaved: those of
  // a lane in four strips are 4h to 4h + 3, with h = 0, 4, 1, 5, ... for g = 0, 1, 2, 3, ..., so that the results which
  // lanes t = 0, 1, 2, 3 write at once are neighbours too; those in the last two strips are 2g and 2g + 1.
  static __device__ __forceinline__ int own(int f, int g) {
    if (ALONG_K) return f * 8 + g;
    return f / 4 * 32 + (f < STRIPS / 4 * 4 ? (g / 2 + g % 2 * 4) * 4 : g * 2) + f % 4;
  }
  // A lane holds lines 2t and 2t + 1 of each strip of the result (half: which of them). In the order in which they
  // are neighbours, number n of run r is:
  static constexpr __device__ int strip(int r, int n) {
    return ALONG_K ? r : r < STRIPS / 4 * 2 ? r / 2 * 4 + n : STRIPS - 2 + n % 2;
  }
  static constexpr __device__ int half(int r, int n) { return ALONG_K ? n : r < STRIPS / 4 * 2 ? r % 2 : n / 2; }

  // Patch p: its first line and word.
  static __device__ __forceinline__ int line(int p) { return ALONG_K ? p / 32 * 16 + p / 4 % 8 : p % (SIZE / 4) * 4; }
  static __device__ __forceinline__ int word(int p) { return ALONG_K ? p % 4 * 4 : p / (SIZE / 4) * 2; }

  // Where the quad of lane (g, t) lies, for a pair of strips and one of a step's two mmas. The lanes that read at once
  // read from different banks, and those that write at once write to different ones.
  static __device__ __forceinline__ int place(int pair, int mma, int g, int t) {
    return ((pair * 2 + mma) * 32 + t * 8 + (g ^ t * 2)) * 4;
  }
  // The same for quad q of patch p.
  static __device__ __forceinline__ int place(int p, int q) {
    const int l = line(p), k = word(p);
    if (ALONG_K) return place(l / 16, q, l % 8, k / 4);
    const int in = (l + 2 * q) % (STRIPS * 8), four = in / 32 * 4, h = in % 32 / 4;
    const bool fours = four < STRIPS / 4 * 4;
    const int f = four + (fours ? in % 4 : 0), g = fours ? h % 4 * 2 + h / 4 : in % 32 / 2;
    return place((l / (STRIPS * 8) * STRIPS + f) / 2, k % 4 / 2, g, k / 4);
  }

  // What a thread knows of its patches: their lines, where their terms are listed, and where their quads go.
  Line<T> lines[COPIES][LINES];
  static constexpr int APART = ALONG_K ? 128 : STRIPS % 4 == 0 ? 256 : 0;  // from a patch's quad to the next; 0: it varies
  int terms[ALONG_K ? 1 : COPIES], quads[COPIES][APART ? 1 : 2];

  template <class Factor>
  static __device__ __forceinline__ void list_lines(const Factor& f, int first, Line<T>* list) {
#pragma unroll 1
    for (int i = own_thread(); i < SIZE / STEP; i += THREADS) list[i] = f.line(first + i * STEP);
  }
  __device__ __forceinline__ Tile(const Line<T>* list) {
#pragma unroll
    for (int c = 0; c < COPIES; c++) {
      const int p = own_thread() + c * THREADS;
      if (PATCHES % THREADS != 0 && p >= PATCHES) break;
      if (!ALONG_K || c == 0) terms[c] = hold(word(p) * PER_WORD / GRAIN);
#pragma unroll
      for (int q = 0; q < (APART ? 1 : 2); q++) quads[c][q] = hold(place(p, q));
#pragma unroll
      for (int i = 0; i < LINES; i++) lines[c][i] = list[line(p) / STEP + i * (ALONG_K ? 8 : 1)];
    }
  }
  template <class Factor>
  static __device__ __forceinline__ void list_terms(const Factor& f, int first, int last, Term* list) {
#pragma unroll 1
    for (int i = own_thread(); i < TERMS && first + i * GRAIN < last; i += THREADS) list[i] = f.term(first + i * GRAIN);
  }
  // Read the patches. Number i of one is term i % DEEP of line i / DEEP, or line i % 4 of term i / 4.
  static constexpr int DEEP = 4 * PER_WORD;
  __device__ __forceinline__ void load(const Term* list, int step, unsigned v[COPIES][HELD]) const {
#pragma unroll
    for (int c = 0; c < COPIES; c++) {
      if (PATCHES % THREADS != 0 && own_thread() + c * THREADS >= PATCHES) break;
      const Term* own = list + (step * (BK / GRAIN) % TERMS | terms[ALONG_K ? 0 : c]);
#pragma unroll
      for (int i = 0; i < NUMBERS; i += VEC) {
        const Line<T>& l = lines[c][ALONG_K ? i / DEEP : i % 4 / VEC];
        const Term k = own[ALONG_K ? i % DEEP / VEC : i / 4];
        fetch_few<VEC>(v[c] + i * HELD / NUMBERS, advance(l.from, k.offset), l.hidden & k.hidden);
      }
    }
  }
  // What a tensor core takes for word k of line l of a patch. Terms that are not side by side in memory are joined.
  static __device__ __forceinline__ unsigned taken(const unsigned v[HELD], int l, int k) {
    const int first = ALONG_K ? l * DEEP + k * PER_WORD : k * PER_WORD * 4 + l, second = first + (ALONG_K ? 1 : 4);
    if (PER_WORD == 1) return tf32(__uint_as_float(v[first]));
    if (sizeof(T) == 4) return bfloat16_pair(__uint_as_float(v[first]), __uint_as_float(v[second % HELD]));
    if (HELD == NUMBERS) return halves(v[first], v[second % HELD], false);
    return ALONG_K ? v[first / 2] : halves(v[first / 2], v[second / 2 % HELD], l % 2);
  }
  // Write them to shared memory. In a quad, the left factor's two lines lie side by side, the right one's words.
  __device__ __forceinline__ void store(const unsigned v[COPIES][HELD], unsigned* tile) const {
#pragma unroll
    for (int c = 0; c < COPIES; c++) {
      if (PATCHES % THREADS != 0 && own_thread() + c * THREADS >= PATCHES) break;
#pragma unroll
      for (int q = 0; q < 2; q++) {
        unsigned quad[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int l = LEFT ? i % 2 : i / 2, k = LEFT ? i / 2 : i % 2;
          quad[i] = taken(v[c], ALONG_K ? l : q * 2 + l, ALONG_K ? q * 2 + k : k);
        }
        store_few<4>(tile + (APART ? quads[c][0] + q * APART : quads[c][q]), quad);
      }
    }
  }
};
template <class T, bool ALONG_K> using Left = Tile<T, BM, ALONG_K, 4, true>;
template <class T, bool ALONG_K> using Right = Tile<T, BN, ALONG_K, STRIPS, false>;

// Of one share. Two of each tile: one is read while the other is written. Where the factors' lines and terms lie is
// worked out by all threads of the share for all, TERMS terms at a time; the lines before there are tiles.
template <class A, class B>
struct Shared {
  union {
    unsigned tiles[2][A::ALL_WORDS + B::ALL_WORDS];
    struct {
      Line<typename A::Number> a[BM];
      Line<typename B::Number> b[BN];
    } lines;
  };
  Term terms_a[TERMS], terms_b[TERMS];
};

// Add to the sums of the first share's threads those of the other shares, in order, through shared memory.
__device__ __forceinline__ void add_shares(float* sum, float* scratch) {
  constexpr int SUMS = 8 * STRIPS;
  scratch += own_thread();
  __syncthreads();
  if (own_share() > 0)
#pragma unroll
    for (int i = 0; i < SUMS; i++) scratch[((own_share() - 1) * SUMS + i) * THREADS] = sum[i];
  __syncthreads();
  if (own_share() == 0)
#pragma unroll
    for (int share = 0; share < SHARES - 1; share++)
#pragma unroll
      for (int i = 0; i < SUMS; i++) sum[i] += scratch[(share * SUMS + i) * THREADS];
}

// sum[i][j] += this warp's part of A * B: i counts pairs of strips of 8 rows, j strips of 8 columns. The threads of the
// first share have all shares' sums in the end; the others may leave.
template <class A, class B, class FactorA, class FactorB>
__device__ __forceinline__ void multiply(float sum[2][STRIPS][4], const FactorA& a, const FactorB& b, int row, int column,
                                         int first, int last, Shared<A, B>* shares) {
  const int count = (last - first + BK * SHARES - 1) / (BK * SHARES);  // steps of a share
  first += own_share() * count * BK;
  last = first + count * BK;
  Shared<A, B>& shared = shares[own_share()];
  A::list_lines(a, row, shared.lines.a);
  B::list_lines(b, column, shared.lines.b);
  __syncthreads();
  const A rows(shared.lines.a);
  const B columns(shared.lines.b);
  unsigned next_a[A::COPIES][A::HELD], next_b[B::COPIES][B::HELD];
  auto load = [&](int step) {  // beyond the last term: zeros
    if (step % min(A::PERIOD, B::PERIOD) == 0) {
      if (step % A::PERIOD == 0) A::list_terms(a, first + step * BK, last + 2 * BK, shared.terms_a);
      if (step % B::PERIOD == 0) B::list_terms(b, first + step * BK, last + 2 * BK, shared.terms_b);
      __syncthreads();
    }
    rows.load(shared.terms_a, step, next_a);
    columns.load(shared.terms_b, step, next_b);
  };
  auto store = [&](unsigned* tiles) {
    rows.store(next_a, tiles);
    columns.store(next_b, tiles + A::ALL_WORDS);
  };
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = own_thread() / 32;
  const int own_a = hold(A::place(warp / ACROSS * 2, 0, g, t));
  const int own_b = hold(A::ALL_WORDS + B::place(warp % ACROSS * (STRIPS / 2), 0, g, t));
  load(0);
  store(shared.tiles[0]);
  load(1);
#pragma unroll 1
  for (int step = 0; step < count; step++) {
    const unsigned* tiles = shared.tiles[step % 2];
    __syncthreads();  // this step's tiles are there, and none still reads those of the last step,
    store(shared.tiles[(step + 1) % 2]);  // which are overwritten now
    load(step + 2);
#pragma unroll
    for (int m = 0; m < 2; m++) {
      unsigned fa[2][4], fb[STRIPS / 2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) load_few<4>(fa[i], tiles + own_a + A::place(i, m, 0, 0));
#pragma unroll
      for (int j = 0; j < STRIPS / 2; j++) load_few<4>(fb[j], tiles + own_b + B::place(j, m, 0, 0));
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < STRIPS; j++) mma_16x8(sum[i][j], fa[i], fb[j / 2] + j % 2 * 2);
    }
  }
  if (SHARES > 1) add_shares(&sum[0][0][0], (float*)shares[0].tiles);
}

// Hand this thread's part of the tile to visit(line, column, run), B::RUN neighbouring columns at a time. start(row): the
// line of the result, or null where there is none.
template <class A, class B, class Start, class Visit>
__device__ __forceinline__ void each_result(float sum[2][STRIPS][4], int row, int column, const Start& start, const Visit& visit) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = own_thread() / 32;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    auto* line = start(row + warp / ACROSS * 32 + A::own(i, g));
    if (line == nullptr) continue;
#pragma unroll
    for (int r = 0; r < STRIPS * 2 / B::RUN; r++) {
      float run[B::RUN];
#pragma unroll
      for (int n = 0; n < B::RUN; n++) run[n] = sum[i / 2][B::strip(r, n)][i % 2 * 2 + B::half(r, n)];
      visit(line, column + warp % ACROSS * STRIPS * 8 + B::own(B::strip(r, 0), 2 * t + B::half(r, 0)), run);
#pragma unroll
      for (int n = 0; n < B::RUN; n++) sum[i / 2][B::strip(r, n)][i % 2 * 2 + B::half(r, n)] = run[n];
    }
  }
}

// Read a run of which the first `count` numbers are real; all at once where `whole` says that addresses allow it.
template <class T, int RUN>
__device__ __forceinline__ void read(float (&run)[RUN], const T* from, int count, bool whole) {
  if (whole && count >= RUN) return load_few<RUN>(run, from);
#pragma unroll
  for (int n = 0; n < RUN; n++)
    if (n < count) run[n] = value(from[n]);
}

// Write a run of which the first `count` numbers are real; all at once where `whole` says that addresses allow it.
template <class T, int RUN>
__device__ __forceinline__ void write(T* to, const float (&run)[RUN], int count, bool whole) {
  if (whole && count >= RUN) return store_few<RUN>(to, run);
#pragma unroll
  for (int n = 0; n < RUN; n++)
    if (n < count) to[n] = rounded<T>(run[n]);
}
template <class T>
__device__ __forceinline__ bool by_fours(const T* p, int ld, int channels) {
  return ((unsigned long long)p / sizeof(T) | ld | channels) % 4 == 0;
}

// The mean of this tile's `count` real rows in every column, and the sum of squares about it: part[0][column] and
// part[1][column], `pitch` floats apart. What is summed is each number less that of the tile's first row, which is near
// the mean. scratch: (1 + 2 * DOWN) * BN floats that no thread uses any more.
template <class A, class B>
__device__ __forceinline__ void column_moments(const float sum[2][STRIPS][4], int count, int columns, float* scratch,
                                               float* part, int pitch) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = own_thread() / 32, down = warp / ACROSS;
  float *near = scratch, *totals = scratch + BN, *squares = totals + DOWN * BN;
  auto place = [&](int j, int p) { return warp % ACROSS * STRIPS * 8 + B::own(j, 2 * t + p); };
  __syncthreads();
  if (down == 0 && g == 0)
#pragma unroll
    for (int j = 0; j < STRIPS; j++)
#pragma unroll
      for (int p = 0; p < 2; p++) near[place(j, p)] = sum[0][j][p];
  __syncthreads();
#pragma unroll
  for (int j = 0; j < STRIPS; j++)
#pragma unroll
    for (int p = 0; p < 2; p++) {
      const float first = near[place(j, p)];
      float total = 0, square = 0;
#pragma unroll
      for (int i = 0; i < 4; i++) {  // this thread's four rows of the column
        const float delta = sum[i / 2][j][i % 2 * 2 + p] - first;
        if (down * 32 + A::own(i, g) < count) total += delta, square += delta * delta;
      }
      for (int o = 4; o < 32; o *= 2) {
        total += __shfl_xor_sync(0xffffffffu, total, o);
        square += __shfl_xor_sync(0xffffffffu, square, o);
      }
      if (g == 0) totals[down * BN + place(j, p)] = total, squares[down * BN + place(j, p)] = square;
    }
  __syncthreads();
  for (int c = own_thread(); c < min(BN, columns); c += THREADS) {
    float total = 0, square = 0;
    for (int w = 0; w < DOWN; w++) total += totals[w * BN + c], square += squares[w * BN + c];
    square -= total * total / count;
    part[c] = near[c] + total / count;
    part[pitch + c] = square < 0 ? 0.f : square;  // rounding; a NaN stays
  }
}

// ---- the kernels. Grids: (tiles of rows, tiles of columns, groups * ...). O: output channels of all groups.

// With `part`, block x of the grid leaves the moments of its BM rows of y in part[x][2][O]. One block would take long to
// join those of thousands: so the last of a team of blocks joins theirs, and the last of those joins what the teams have,
// which is behind the blocks' own, and writes moments[3][O]: mean, var and rstd. Tickets: for each column of blocks, one
// for the teams and then one for each.
extern "C" __global__ void __launch_bounds__(THREADS * SHARES, WARPS * 32 / (THREADS * SHARES))
    conv2d(const Real* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias, Real* __restrict__ y,
           float* part, float* __restrict__ moments, unsigned* tickets, float eps, int team, Window d, int O, int groups,
           int ldx, int ldy, int relu) {
  using A = Left<Real, true>;
  using B = Right<float, false>;
  __shared__ __align__(16) Shared<A, B> shared[SHARES];
  __shared__ int flag;
  const int group = blockIdx.z, in = d.C / groups, out = O / groups, row = blockIdx.x * BM, column = blockIdx.y * BN;
  const int pixels = d.N * d.OH * d.OW, depth = d.kh * d.kw * in;
  const Axis h{d.H, d.OH, -d.top, d.sh, d.kh, d.dh}, v{d.W, d.OW, -d.left, d.sw, d.kw, d.dw};
  float sum[2][STRIPS][4] = {};
  multiply<A, B>(sum, WindowRows{{x + group * in, ldx, in, pixels, depth, h, v}}, Matrix<float>{w + group * out, O, out, depth},
                 row, column, 0, depth, shared);
  if (own_share() > 0) return;
  y += group * out;
  const bool whole = by_fours(y, ldy, out);
  auto start = [&](int m) { return m < pixels ? y + (long long)m * ldy : nullptr; };
  each_result<A, B>(sum, row, column, start, [&](Real* line, int o, auto& run) {
    if (bias)
#pragma unroll
      for (int n = 0; n < B::RUN; n++)
        if (o + n < out) run[n] += bias[group * out + o + n];
    if (relu)
#pragma unroll
      for (int n = 0; n < B::RUN; n++) run[n] = run[n] <= 0 ? 0.f : run[n];
    write(line + o, run, out - o, whole);
    for (int n = 0; n < B::RUN; n++) run[n] = value(rounded<Real>(run[n]));  // of which the moments are
  });
  if (!part) return;
  part += group * out + column;
  column_moments<A, B>(sum, min(BM, pixels - row), out - column, (float*)shared[0].tiles, part + (long long)blockIdx.x * 2 * O, O);

  const int blocks = gridDim.x, teams = (blocks + team - 1) / team, own = blockIdx.x / team, first = own * team;
  const int members = min(team, blocks - first), share = team * BM;
  const Joiner j(own_thread(), THREADS, BN);
  const bool there = column + j.column < out, writes = there && j.slot == 0;
  Two* scratch = (Two*)&shared[0];
  float *of_team = part + (long long)first * 2 * O + j.column, *of_teams = part + (long long)blocks * 2 * O + j.column;
  tickets += (blockIdx.z * gridDim.y + blockIdx.y) * (teams + 1);
  if (!last_block(tickets + 1 + own, members, &flag)) return;
  const Moments m = join_moments(of_team, there ? members : 0, O, BM, min(share, pixels - own * share), j, scratch);
  if (writes) *pixel(of_teams, 2 * own, O) = m.mean, *pixel(of_teams, 2 * own + 1, O) = m.squares;
  if (!last_block(tickets, teams, &flag)) return;
  const Moments all = join_moments(of_teams, there ? teams : 0, O, share, pixels, j, scratch);
  if (writes) write_moments(moments + group * out + column + j.column, O, all, pixels, eps);
}

// Blocks in z: groups * the sh * sw remainders.
extern "C" __global__ void __launch_bounds__(THREADS * SHARES, WARPS * 32 / (THREADS * SHARES))
    conv2d_dx(const Real* __restrict__ dy, const float* __restrict__ w, Real* __restrict__ dx, Window d, int O, int groups,
              int lddy, int lddx, int add) {
  using A = Left<Real, true>;
  using B = Right<float, true>;
  __shared__ __align__(16) Shared<A, B> shared[SHARES];
  const int h0 = blockIdx.z % d.sh, w0 = blockIdx.z / d.sh % d.sw, group = blockIdx.z / d.sh / d.sw;
  const int in = d.C / groups, out = O / groups, row = blockIdx.x * BM, column = blockIdx.y * BN;
  const int rows = (d.H - h0 + d.sh - 1) / d.sh, columns = (d.W - w0 + d.sw - 1) / d.sw, pixels = d.N * rows * columns;
  if (row >= pixels) return;
  const Taps ry((h0 + d.top) % d.sh, d.kh, d.sh, d.dh), rx((w0 + d.left) % d.sw, d.kw, d.sw, d.dw);
  const int depth = ry.count * rx.count * out;
  dx += group * in;
  const bool whole = by_fours(dx, lddx, in);
  auto start = [&](int m) -> Real* {
    if (m >= pixels) return nullptr;
    int pixel = m;  // of the image, not only of those of the remainder
    if (d.sh * d.sw > 1)
      pixel = (m / columns / rows * d.H + h0 + m / columns % rows * d.sh) * d.W + w0 + m % columns * d.sw;
    return dx + (long long)pixel * lddx;
  };
  float sum[2][STRIPS][4] = {};
  if (add && own_share() == 0)  // read before all else, at once: a sum that was read when it is written would wait each time
    each_result<A, B>(sum, row, column, start, [&](Real* line, int c, auto& run) { read(run, line + c, in - c, whole); });
  if (depth > 0) {
    const Axis h = viewers(ry, h0 + d.top, rows, d.OH, d.sh, d.dh), v = viewers(rx, w0 + d.left, columns, d.OW, d.sw, d.dw);
    multiply<A, B>(sum, WindowRows{{dy + group * out, lddy, out, pixels, depth, h, v}},
                   Weights{w + group * out, d.kw, in, O, out, depth, ry, rx}, row, column, 0, depth, shared);
  }
  if (own_share() > 0) return;
  each_result<A, B>(sum, row, column, start, [&](Real* line, int c, auto& run) { write(line + c, run, in - c, whole); });
}

// Blocks in z: groups * parts. Part p sums over pixels [p * share, (p + 1) * share) into part[p], shaped like w.
extern "C" __global__ void __launch_bounds__(THREADS * SHARES, WARPS * 32 / (THREADS * SHARES))
    conv2d_dw(const Real* __restrict__ x, const Real* __restrict__ dy, float* __restrict__ part, Window d, int O, int groups,
              int ldx, int lddy, int share) {
  using A = Left<Real, false>;
  using B = Right<Real, false>;
  __shared__ __align__(16) Shared<A, B> shared[SHARES];
  const int group = blockIdx.z % groups, p = blockIdx.z / groups;
  const int in = d.C / groups, out = O / groups, row = blockIdx.x * BM, column = blockIdx.y * BN;
  const int depth = d.kh * d.kw * in, first = p * share, last = min(first + share, d.N * d.OH * d.OW);
  const Axis h{d.H, d.OH, -d.top, d.sh, d.kh, d.dh}, v{d.W, d.OW, -d.left, d.sw, d.kw, d.dw};
  float sum[2][STRIPS][4] = {};
  multiply<A, B>(sum, WindowColumns{{x + group * in, ldx, in, last, depth, h, v}}, Matrix<Real>{dy + group * out, lddy, out, last},
                 row, column, first, last, shared);
  if (own_share() > 0) return;
  part += (long long)p * depth * O + group * out;
  const bool whole = by_fours(part, O, out);
  auto start = [&](int i) { return i < depth ? part + (long long)i * O : nullptr; };
  each_result<A, B>(sum, row, column, start, [&](float* line, int o, auto& run) { write(line + o, run, out - o, whole); });
}

// Random numbers by address: Philox4x64-10 (Salmon et al. 2011), word for word what numpy.random.Philox gives.
#include "common.cuh"

// Ten rounds turn the counter c and the key k into four random words, in c.
__device__ __forceinline__ void philox(unsigned long long c[4], unsigned long long k0, unsigned long long k1) {
  for (int round = 0; round < 10; round++) {
    const unsigned long long high0 = __umul64hi(0xD2E7470EE14C6C93ull, c[0]), low0 = 0xD2E7470EE14C6C93ull * c[0];
    const unsigned long long high2 = __umul64hi(0xCA5A826395121157ull, c[2]), low2 = 0xCA5A826395121157ull * c[2];
    c[0] = high2 ^ c[1] ^ k0;
    c[1] = low2;
    c[2] = high0 ^ c[3] ^ k1;
    c[3] = low0;
    k0 += 0x9E3779B97F4A7C15ull;
    k1 += 0xBB67AE8584CAA73Bull;
  }
}

// y = x * kept * scale (kernels/philox.py), and kept: which of the numbers `skip`, skip + 1, ... of
// Generator.random(dtype=float32), uniform in [0, 1), are at least `rate`. A word gives two floats, its low half first,
// each from 24 bits. stream: key (2 words) and counter (4 words) in device memory. One thread makes the eight numbers of
// one counter value; NumPy counts up before it draws. Rows of C elements.
extern "C" __global__ void dropout(const Real* x, Real* y, unsigned char* __restrict__ kept,
                                   const unsigned long long* __restrict__ stream, long long skip, float rate, float scale,
                                   int total, int C, int ldx, int ldy) {
  EACH_ELEMENT(thread, (int)(skip % 8 + total + 7) / 8);
  const unsigned long long block = skip / 8 + thread + 1;
  unsigned long long c[4] = {stream[2] + block, stream[3], stream[4], stream[5]};
  if (c[0] < block && ++c[1] == 0 && ++c[2] == 0) ++c[3];
  philox(c, stream[0], stream[1]);
  for (int j = 0; j < 8; j++) {
    const long long i = thread * 8LL + j - skip % 8;
    if (i < 0 || i >= total) continue;
    const unsigned half = (unsigned)(j % 2 ? c[j / 2] >> 32 : c[j / 2]);
    kept[i] = (half >> 8) * (1.f / 16777216.f) >= rate;
    y[place(i, C, ldy)] = rounded<Real>(value(x[place(i, C, ldx)]) * kept[i] * scale);  // not 0 for a NaN
  }
}

extern "C" __global__ void dropout_dx(const Real* __restrict__ dy, const unsigned char* __restrict__ kept, Real* dx,
                                      float scale, int total, int C, int lddy, int lddx, int add) {
  EACH_ELEMENT(i, total);
  Real* to = dx + place(i, C, lddx);
  const float g = value(dy[place(i, C, lddy)]) * kept[i] * scale;
  *to = rounded<Real>(add ? value(*to) + g : g);
}

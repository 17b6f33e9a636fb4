// Products of integers in groups of 32 (`kernels/integer.py`), with activations of sixteen bits.
//
//     y[m, n] = start[m, n] + sum over groups g of (d[n, g] * dx[m, g]) * I[m, n, g] + low[n, g] * sx[m, g]
//
// I is exact in any order; only the chain over groups has one. A row's record holds its integers as two planes of
// bytes, q = high * 256 + low, then dx and sx by group: instructions that multiply bytes compute both exactly.
// Weights are packed as for the CPU (`kernels/integer_weights.py`). K is a multiple of 32, G = K / 32.
#include "arithmetic.cuh"
#include "device.cuh"

#define GROUP 32
#define LARGEST 32639.0f
#define ROUNDER 12582912.0f  // adding 1.5 * 2**23 rounds to the nearest integer, ties to even
#define SMALLEST_BITS 0x0D800000u
#define INFINITE_BITS 0x7F800000u
#define FOUR_GROUP_BYTES 320
#define EIGHT_GROUP_BYTES 512

// Quantise rows of G groups into records of `record_row` bytes. One warp a group.
KERNEL quantise(const float* x, int x_row, signed char* records, int record_row, int G) {
  int lane = threadIdx.x & 31, g = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5);
  if (g >= G) return;
  float value = x[(size_t)blockIdx.x * x_row + g * GROUP + lane];
  // As whole numbers the bits of |x| are in the order of |x|; infinity and NaN are the largest.
  unsigned amax = (unsigned)__float_as_int(value) & 0x7fffffffu;
  for (int half = 16; half > 0; half >>= 1) amax = max(amax, __shfl_xor_sync(0xffffffffu, amax, half));
  bool finite = amax < INFINITE_BITS, usable = finite && amax >= SMALLEST_BITS;
  float size = usable ? __int_as_float((int)amax) : LARGEST;
  float scale = usable ? quotient(size, LARGEST) : finite ? 0.0f : __int_as_float(0x7fc00000);
  float inverse = usable ? quotient(LARGEST, size) : 0.0f;
  float moved = fused(usable ? value : 0.0f, inverse, ROUNDER);
  int q = __float_as_int(moved) - __float_as_int(ROUNDER), high = (q + 128) >> 8, total = q;
  for (int half = 16; half > 0; half >>= 1) total += __shfl_xor_sync(0xffffffffu, total, half);
  signed char* record = records + (size_t)blockIdx.x * record_row;
  record[g * GROUP + lane] = (signed char)high;
  record[(G + g) * GROUP + lane] = (signed char)(q - high * 256);
  float* by_group = (float*)(record + 2 * G * GROUP);
  if (lane == 0) by_group[g] = scale, by_group[G + g] = mul(scale, __int2float_rn(total));
}

// R rows a warp, a column a thread. `flip` turns packed eight-bit weights into signed ones.
template <int R, bool FOUR>
__device__ void product_groups(const signed char* records, int record_row, const char* w, unsigned flip,
                               const float* start, int start_row, float* y, int y_row, int M, int N, int G) {
  int n = blockIdx.x * 32 + (threadIdx.x & 31), m0 = (blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5)) * R;
  if (n >= N) return;
  int scales = (G * GROUP + 63) & ~63, c = n % 16;
  const char* block = w + (size_t)(n / 16) * (FOUR ? G * FOUR_GROUP_BYTES : scales + G * EIGHT_GROUP_BYTES);
  const int *high[R], *low[R];
  const float* by_group[R];
  float chain[R];
#pragma unroll
  for (int r = 0; r < R; r++) {
    int m = m0 + r < M ? m0 + r : 0;
    high[r] = (const int*)(records + (size_t)m * record_row);
    low[r] = high[r] + G * GROUP / 4;
    by_group[r] = (const float*)(low[r] + G * GROUP / 4);
    chain[r] = start[(size_t)m * start_row + n];
  }
  for (int g = 0; g < G; g++) {
    const char* head = block + (FOUR ? g * FOUR_GROUP_BYTES : g * GROUP);
    const unsigned* cells = (const unsigned*)(FOUR ? head + 64 : block + scales + g * EIGHT_GROUP_BYTES);
    float d = widen_f16(((const unsigned short*)head)[c]);
    int highs[R], lows[R];
#pragma unroll
    for (int r = 0; r < R; r++) highs[r] = lows[r] = 0;
#pragma unroll
    for (int p = 0; p < 8; p++) {
      unsigned word = FOUR ? cells[p % 4 * 16 + c] >> (p / 4 * 4) & 0x0f0f0f0fu : cells[p * 16 + c] ^ flip;
#pragma unroll
      for (int r = 0; r < R; r++) {
        highs[r] = __dp4a((int)word, high[r][g * 8 + p], highs[r]);
        lows[r] = __dp4a((int)word, low[r][g * 8 + p], lows[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
      float whole = __int2float_rn(highs[r] * 256 + lows[r]);
      chain[r] = fused(mul(d, by_group[r][g]), whole, chain[r]);
      if (FOUR) chain[r] = fused(widen_f16(((const unsigned short*)head)[16 + c]), by_group[r][G + g], chain[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < R; r++)
    if (m0 + r < M) y[(size_t)(m0 + r) * y_row + n] = chain[r];
}

#define GROUPS_ARGUMENTS                                                                                      \
  const signed char *records, int record_row, const char *w, unsigned flip, const float *start, int start_row, \
      float *y, int y_row, int M, int N, int G
#define GROUPS_VALUES records, record_row, w, flip, start, start_row, y, y_row, M, N, G

KERNEL four_bits_1(GROUPS_ARGUMENTS) { product_groups<1, true>(GROUPS_VALUES); }
KERNEL four_bits_4(GROUPS_ARGUMENTS) { product_groups<4, true>(GROUPS_VALUES); }
KERNEL eight_bits_1(GROUPS_ARGUMENTS) { product_groups<1, false>(GROUPS_VALUES); }
KERNEL eight_bits_4(GROUPS_ARGUMENTS) { product_groups<4, false>(GROUPS_VALUES); }

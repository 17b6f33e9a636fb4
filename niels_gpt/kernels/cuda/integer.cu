// Products of integers in groups of 32 (`kernels/integer.py`), with activations of sixteen bits.
//
//     y[m, n] = start[m, n] + sum over groups g of (d[n, g] * dx[m, g]) * I[m, n, g] + low[n, g] * sx[m, g]
//
// I is exact in any order; only the chain over groups has one. A row's record holds its integers as two planes of
// bytes, q = high * 256 + low, then dx and sx by group: instructions that multiply bytes compute both exactly.
// Weights are packed as for the CPU (`kernels/integer_weights.py`). K is a multiple of 32, G = K / 32; a record begins at a
// multiple of 16 bytes.
#include "arithmetic.cuh"
#include "device.cuh"
#include "parts.cuh"

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

// R rows a warp, a column a thread. `flip` turns packed eight-bit weights into signed ones. The next group's weights are
// read while those of this one are multiplied.
template <int R, bool FOUR>
__device__ void product_groups(
    const signed char* records, int record_row, unsigned flip, const Parts& parts, int M, int G) {
  constexpr int WORDS = FOUR ? 4 : 8;
  int lane = threadIdx.x & 31, c = lane % LANES, m0 = (blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5)) * R;
  Columns own = columns_at(parts, blockIdx.x, lane / LANES, 2, 2);
  bool there = c < own.left;
  if (!there) own.part = parts.part[0], own.block = 0;  // computed, and not stored
  int scales = (G * GROUP + 63) & ~63;
  const char* block = own.part.w + (size_t)own.block * (FOUR ? G * FOUR_GROUP_BYTES : scales + G * EIGHT_GROUP_BYTES);
  const int4* record[R];
  float chain[R];
#pragma unroll
  for (int r = 0; r < R; r++) {
    int m = m0 + r < M ? m0 + r : 0;
    record[r] = (const int4*)(records + (size_t)m * record_row);
    chain[r] = there && m0 + r < M ? own.begin(m0 + r, c) : 0.0f;
  }
  unsigned next[WORDS];
  unsigned short next_d, next_low = 0;
  auto fetch = [&](int g) {
    const char* head = block + (FOUR ? g * FOUR_GROUP_BYTES : g * GROUP);
    const unsigned* cells = (const unsigned*)(FOUR ? head + 64 : block + scales + g * EIGHT_GROUP_BYTES);
#pragma unroll
    for (int p = 0; p < WORDS; p++) next[p] = cells[p * LANES + c];
    next_d = ((const unsigned short*)head)[c];
    if (FOUR) next_low = ((const unsigned short*)head)[LANES + c];
  };
  fetch(0);
  for (int g = 0; g < G; g++) {
    unsigned words[8];
#pragma unroll
    for (int p = 0; p < 8; p++) words[p] = FOUR ? next[p % 4] >> (p / 4 * 4) & 0x0f0f0f0fu : next[p % WORDS] ^ flip;
    float d = widen_f16(next_d), low = FOUR ? widen_f16(next_low) : 0.0f;
    if (g + 1 < G) fetch(g + 1);
#pragma unroll
    for (int r = 0; r < R; r++) {
      int4 high[2] = {record[r][2 * g], record[r][2 * g + 1]};
      int4 rest[2] = {record[r][2 * (G + g)], record[r][2 * (G + g) + 1]};
      const float* by_group = (const float*)(record[r] + 4 * G);
      int highs = 0, rests = 0;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const unsigned* w = words + 4 * half;
        highs = __dp4a((int)w[0], high[half].x, highs), rests = __dp4a((int)w[0], rest[half].x, rests);
        highs = __dp4a((int)w[1], high[half].y, highs), rests = __dp4a((int)w[1], rest[half].y, rests);
        highs = __dp4a((int)w[2], high[half].z, highs), rests = __dp4a((int)w[2], rest[half].z, rests);
        highs = __dp4a((int)w[3], high[half].w, highs), rests = __dp4a((int)w[3], rest[half].w, rests);
      }
      chain[r] = fused(mul(d, by_group[g]), __int2float_rn(highs * 256 + rests), chain[r]);
      if (FOUR) chain[r] = fused(low, by_group[G + g], chain[r]);
    }
  }
  bool gate_half = parts.gated && lane >= LANES;
#pragma unroll
  for (int r = 0; r < R; r++) {
    float gate = parts.gated ? __shfl_xor_sync(0xffffffffu, chain[r], LANES) : 0.0f;
    if (there && m0 + r < M && !gate_half) own.store(m0 + r, c, finished(parts, chain[r], gate));
  }
}

#define GROUPS(name, R, FOUR)                                                                                \
  extern "C" __global__ void __launch_bounds__(128, 4)                                                        \
  name(const signed char* records, int record_row, unsigned flip, PARTS_ARGUMENTS, int M, int G) {     \
    Parts parts = PARTS;                                                                                     \
    product_groups<R, FOUR>(records, record_row, flip, parts, M, G);                                         \
  }
GROUPS(four_bits_1, 1, true)
GROUPS(four_bits_4, 4, true)
GROUPS(four_bits_8, 8, true)
GROUPS(eight_bits_1, 1, false)
GROUPS(eight_bits_4, 4, false)
GROUPS(eight_bits_8, 8, false)

// What a BDH computes besides products and norms (`kernels/bdh.py`, `kernels/sparse.py`, `kernels/rope_angles.py`).
//
// Sums over latents are chains over those that are not zero, n ascending; a NaN counts as not zero. A sequence's memory
// has L x H x N rows of `row` floats. Rows of one sequence are adjacent, in order of their positions. H heads, N
// latents of a head in whole vectors, C width.
#include "arithmetic.cuh"
#include "device.cuh"

#define TERMS 9

// Cosines and sines (rows, N) of the rows' phases; `series` holds the coefficients of both. The table of sines holds
// the signs that a rotation in pairs needs.
KERNEL phases(const int* positions, const double* frequencies, const double* series, float* cosine, float* sine,
              int N) {
  int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= N) return;
  double turns = mul((double)positions[blockIdx.x], frequencies[i]);
  turns = sub(turns, floor(turns));
  double quarter = floor(add(mul(4.0, turns), 0.5)), rest = sub(turns, mul(0.25, quarter)), square = mul(rest, rest);
  double c = series[TERMS - 1], s = series[2 * TERMS - 1];
  for (int term = TERMS - 2; term >= 0; term--) {
    c = add(mul(c, square), series[term]);
    s = add(mul(s, square), series[TERMS + term]);
  }
  s = mul(s, rest);
  int side = (int)quarter & 3;
  double turned_c = side & 1 ? -s : c, turned_s = side & 1 ? c : s;
  if (side & 2) turned_c = -turned_c, turned_s = -turned_s;
  size_t at = (size_t)blockIdx.x * N + i;
  cosine[at] = __double2float_rn(turned_c);
  sine[at] = __double2float_rn(i % 2 == 0 ? -turned_s : turned_s);
}

// Read each memory with the rotated latents of a row, then add the row to it. A block takes all rows of one sequence
// in their order; a thread takes one column of one head. `layer` is the first float of the layer's memories.
KERNEL recall(const float* latents, const float* x, int row, const float* cosine, const float* sine,
              const int* positions, const int* slots, float* memories, long long state_floats, long long layer,
              const int* table, int most, float* mixed, int M, int H, int N, int C) {
  int first = blockIdx.x, head = blockIdx.y / ((C + blockDim.x - 1) / blockDim.x);
  int c = blockIdx.y % ((C + blockDim.x - 1) / blockDim.x) * blockDim.x + threadIdx.x, slot = slots[first];
  if (c >= C || (first > 0 && slots[first - 1] == slot)) return;
  float* memory = memories + (size_t)table[(size_t)slot * most] * state_floats + layer + (size_t)head * N * row + c;
  for (int r = first; r < M && slots[r] == slot; r++) {
    const float* own = latents + ((size_t)r * H + head) * N;
    const float *cosines = cosine + (size_t)r * N, *sines = sine + (size_t)r * N;
    bool fresh = positions[r] == 0;
    float chain = 0.0f, news = x[(size_t)r * row + c];
    for (int n = 0; n < N; n++) {
      float turned = fused(own[n], cosines[n], mul(own[n ^ 1], sines[n]));
      float* place = memory + (size_t)n * row;
      if (turned != 0.0f) {
        float known = fresh ? 0.0f : *place;
        chain = fused(turned, known, chain);
        *place = fused(turned, news, known);
      } else if (fresh) {
        *place = 0.0f;
      }
    }
    mixed[((size_t)r * H + head) * row + c] = chain;
  }
}

// gates = latents * relu(gates).
KERNEL gate(float* gates, const float* latents, int width) {
  int i = blockIdx.y * blockDim.x + threadIdx.x;
  size_t at = (size_t)blockIdx.x * width + i;
  if (i < width) gates[at] = mul(latents[at], positive(gates[at]));
}

// out = the sum of the decoder's rows, weighted by the gates that are not zero.
KERNEL gather(const float* gates, const float* decoder, float* out, int row, int width, int C) {
  int c = blockIdx.y * blockDim.x + threadIdx.x;
  if (c >= C) return;
  const float* own = gates + (size_t)blockIdx.x * width;
  float chain = 0.0f;
  for (int n = 0; n < width; n++)
    if (own[n] != 0.0f) chain = fused(own[n], decoder[(size_t)n * row + c], chain);
  out[(size_t)blockIdx.x * row + c] = chain;
}

// Rows are copied from a table by their ids.
KERNEL look_up(const int* ids, const float* table, float* x, int row, int C) {
  for (int c = threadIdx.x; c < C; c += blockDim.x)
    x[(size_t)blockIdx.x * row + c] = table[(size_t)ids[blockIdx.x] * row + c];
}

// x = x + added, row by row.
KERNEL add_rows(float* x, const float* added, int row, int C) {
  int c = blockIdx.y * blockDim.x + threadIdx.x;
  size_t at = (size_t)blockIdx.x * row + c;
  if (c < C) x[at] = add(x[at], added[at]);
}

// Operations on rows of activations: embedding, norms, activations, residuals (`kernels/row_ops.py`).
//
// Sums over a row are sixteen lane sums (lane i takes elements i, i + 16, ... in order) folded by halves. Sixteen is
// part of the arithmetic, whatever the width of a warp. C elements of a row, `row` its stride in floats.
#include "arithmetic.cuh"
#include "device.cuh"
#include "norm.cuh"

// Codes of `kernels/matrices.py`: rows in torch's layout, and column blocks of 16.
#define ROWS 0
#define FLOATS 1
#define BF16S 2
#define F16S 3
#define FOUR_BITS 4
#define EIGHT_BITS 5

// Weight c of token `id` in groups of 32 integers, see integer.cu: d * q, or fma(d, q, low).
__device__ float dequantised(const char* table, bool four, unsigned flip, int id, int c, int C) {
  int G = C / 32, scales = (G * 32 + 63) & ~63, g = c / 32, p = c % 32 / 4, lane = id % 16;
  const char* block = table + (size_t)(id / 16) * (four ? G * 320 : scales + G * 512);
  const char* head = block + (four ? g * 320 : g * 32);
  const unsigned char* cells = (const unsigned char*)(four ? head + 64 : block + scales + g * 512);
  unsigned char raw = cells[(four ? p % 4 : p) * 64 + lane * 4 + c % 4];
  float d = widen_f16(((const unsigned short*)head)[lane]);
  if (!four) return mul(d, (float)(signed char)(raw ^ flip));
  return fused(d, (float)(p < 4 ? raw & 15 : raw >> 4), widen_f16(((const unsigned short*)head)[16 + lane]));
}

// Look up a row of the embedding for each token, scale it, add its learned position. One block a row.
KERNEL embed(const int* ids, const int* positions, const void* table, int code, unsigned flip, const float* learned,
             float scale, float* x, int row, int C) {
  int r = blockIdx.x, id = ids[r];
  for (int c = threadIdx.x; c < C; c += blockDim.x) {
    size_t packed = ((size_t)(id / 16) * C + c) * 16 + id % 16;
    float value;
    if (code == ROWS) value = ((const float*)table)[(size_t)id * row + c];
    else if (code == FLOATS) value = ((const float*)table)[packed];
    else if (code >= FOUR_BITS) value = dequantised((const char*)table, code == FOUR_BITS, flip, id, c, C);
    else if (code == BF16S) value = widen_bf16(((const unsigned short*)table)[packed]);
    else value = widen_f16(((const unsigned short*)table)[packed]);
    if (scale != 1.0f) value = mul(value, scale);
    if (learned) value = add(value, learned[(size_t)positions[r] * row + c]);
    x[(size_t)r * row + c] = value;
  }
}

// Norm rows, those of `chosen` or all; copy them if there is no scale. One warp a row; y may be x.
KERNEL norm_rows(const float* x, int x_row, const int* chosen, const float* scale, const float* shift, float* y,
                 int y_row, int C, int rms, float eps) {
  int r = blockIdx.x;
  const float* from = x + (size_t)(chosen ? chosen[r] : r) * x_row;
  float* to = y + (size_t)r * y_row;
  if (!scale) {
    for (int c = threadIdx.x; c < C; c += 32) to[c] = from[c];
    return;
  }
  norm_row(to, from, scale, shift, C, rms, eps);
}

// x = fma(added, factor, x), row by row.
KERNEL add_scaled(float* x, const float* added, int row, float factor, int C) {
  int c = blockIdx.y * blockDim.x + threadIdx.x;
  size_t at = (size_t)blockIdx.x * row + c;
  if (c < C) x[at] = fused(added[at], factor, x[at]);
}

// Scale logits and cap them with tanh, where the model does.
KERNEL finish_logits(float* logits, int row, float scale, float most, int V) {
  int v = blockIdx.y * blockDim.x + threadIdx.x;
  if (v >= V) return;
  float value = logits[(size_t)blockIdx.x * row + v];
  if (scale != 1.0f) value = mul(value, scale);
  if (most != 0.0f) value = cap(value, most);
  logits[(size_t)blockIdx.x * row + v] = value;
}

// up = act(gate) * up, or act(up) if there is no gate: for what the products did not finish.
KERNEL activate(float* up, const float* gate, int row, int which, int F) {
  int f = blockIdx.y * blockDim.x + threadIdx.x;
  size_t at = (size_t)blockIdx.x * row + f;
  if (f < F) up[at] = gate ? mul(activated(which, gate[at]), up[at]) : activated(which, up[at]);
}

// Matrix products: y[m, n] = start[m, n] + sum over k of x[m, k] * w[k, n], each output ONE chain of fused
// multiply-adds with k ascending. A tile decides which outputs are computed together, never how one is computed.
//
// Weights are packed as for the CPU (`kernels/linear.py`): blocks of 16 columns; block j holds, for each k, columns
// 16 j to 16 j + 15. Float32, bfloat16 and float16 weights continue the chain from the start value. With int8
// weights the chain starts from 0 and ends with fma(chain, scale, start); a block begins with its 16 scales.
//
// Rows of x are padded to whole vectors of 16 floats (`x_row`), so that tiles may copy, but never multiply, what
// lies beyond K. Products of few rows norm their rows themselves where `scale` is given; row m of x is row `chosen[m]`
// where that is given. M rows.
#include "arithmetic.cuh"
#include "device.cuh"
#include "norm.cuh"
#include "parts.cuh"

// The form of weights that this file is compiled for: float32, int8, bf16 or f16.
#ifndef FORM
#define FORM float32
#endif
#define PASTE_(name, form) name##_##form
#define PASTE(name, form) PASTE_(name, form)

struct Form_float32 {
  typedef float Stored;
  static constexpr bool SCALED = false;
  static __device__ __forceinline__ float widen(float w) { return w; }
};
struct Form_int8 {
  typedef signed char Stored;
  static constexpr bool SCALED = true;
  static __device__ __forceinline__ float widen(signed char w) { return (float)w; }
};
struct Form_bf16 {
  typedef unsigned short Stored;
  static constexpr bool SCALED = false;
  static __device__ __forceinline__ float widen(unsigned short w) { return widen_bf16(w); }
};
struct Form_f16 {
  typedef unsigned short Stored;
  static constexpr bool SCALED = false;
  static __device__ __forceinline__ float widen(unsigned short w) { return widen_f16(w); }
};
typedef PASTE(Form, FORM) W;
typedef W::Stored Stored;

struct Input {
  const float* x;
  const int* chosen;
  const float *scale, *shift;
  float eps;
  int x_row, rms, M, K;
};

#define PRODUCT_ARGUMENTS                                                                                     \
  const float *__restrict__ x, int x_row, const int *chosen, const float *scale, const float *shift, int rms, \
      float eps, PARTS_ARGUMENTS, int M, int K
#define INPUT \
  { x, chosen, scale, shift, eps, x_row, rms, M, K }

constexpr int SCALES = W::SCALED ? LANES * sizeof(float) : 0;
__device__ __forceinline__ const char* packed_block(const Columns& columns, int K) {
  return columns.part.w + (size_t)columns.block * (SCALES + (size_t)K * LANES * sizeof(Stored));
}
__device__ __forceinline__ const Stored* first_weight(const Columns& columns, int K) {
  return columns.left > 0 ? (const Stored*)(packed_block(columns, K) + SCALES) : nullptr;
}

// The first value of the chain of output (m, c), and what becomes of its last.
__device__ __forceinline__ float begin_chain(const Columns& columns, int m, int c) {
  return W::SCALED ? 0.0f : columns.begin(m, c);
}
__device__ __forceinline__ float end_chain(float chain, const Columns& columns, int K, int m, int c) {
  if (!W::SCALED) return chain;
  return fused(chain, ((const float*)packed_block(columns, K))[c], columns.begin(m, c));
}

// Neighbours, read at once.
template <class T, int COUNT>
struct __align__(COUNT * sizeof(T)) Vector {
  T v[COUNT];
};

// A portion of `DEPTH` k of `BLOCKS` packed blocks, copied into shared memory in the background. Blocks are kept a
// little apart, so that the halves of a warp read from different banks.
constexpr int DEPTH = 32, EACH = 16 / sizeof(Stored), PIECES = DEPTH * LANES / EACH;
template <int BLOCKS>
struct Portion {
  Stored columns[BLOCKS][DEPTH * LANES + (EACH > LANES ? EACH : LANES)];
};

// Copy a portion with `THREADS` threads; `blocks` has the first weight of each block, null for one that is not there.
template <int BLOCKS, int THREADS, class Blocks>
__device__ __forceinline__ void fetch_weights(Portion<BLOCKS>* to, Blocks blocks, int thread, int k0, int K) {
#pragma unroll
  for (int i = 0; i < (BLOCKS * PIECES + THREADS - 1) / THREADS; i++) {
    int at = thread + i * THREADS, block = at / PIECES, piece = at % PIECES;
    if (BLOCKS * PIECES % THREADS != 0 && block >= BLOCKS) break;
    const Stored* from = blocks(block);
    bool there = from && k0 + piece * EACH / LANES < K;
    copy_async(&to->columns[block][piece * EACH], from + (there ? (size_t)k0 * LANES + piece * EACH : 0), there ? 16 : 0);
  }
}

// Copy the rows into shared memory, `wide` floats each, and norm them; all threads of the block call this.
__device__ __forceinline__ void load_rows(float* xs, int wide, const Input& in) {
  for (int i = threadIdx.x; i < in.M * wide / 4; i += blockDim.x) {
    int m = i / (wide / 4), k = i % (wide / 4) * 4;
    const float* row = in.x + (size_t)(in.chosen ? in.chosen[m] : m) * in.x_row;
    if (k < in.x_row) *(float4*)(xs + m * wide + k) = *(const float4*)(row + k);
  }
  __syncthreads();
  if (!in.scale) return;
  for (int m = threadIdx.x >> 5; m < in.M; m += blockDim.x >> 5)
    norm_row(xs + m * wide, xs + m * wide, in.scale, in.shift, in.K, in.rms, in.eps);
  __syncthreads();
}

// Continue the chains of R rows, `wide` floats apart, through a portion of which `last` k exist.
template <int R>
__device__ __forceinline__ void continue_chains(
    float (&chain)[R], const Stored* column, const float* own, int wide, int last) {
  if (last >= DEPTH) {
#pragma unroll
    for (int k = 0; k < DEPTH; k += 4) {
      float w[4];
#pragma unroll
      for (int i = 0; i < 4; i++) w[i] = W::widen(column[(k + i) * LANES]);
#pragma unroll
      for (int r = 0; r < R; r++) {
        float4 a = *(const float4*)(own + r * wide + k);
        chain[r] = fused(a.x, w[0], chain[r]);
        chain[r] = fused(a.y, w[1], chain[r]);
        chain[r] = fused(a.z, w[2], chain[r]);
        chain[r] = fused(a.w, w[3], chain[r]);
      }
    }
  } else {  // the padding must not be multiplied: fma(0, 0, -0) is +0
    for (int k = 0; k < last; k++) {
      float w = W::widen(column[k * LANES]);
#pragma unroll
      for (int r = 0; r < R; r++) chain[r] = fused(own[r * wide + k], w, chain[r]);
    }
  }
}

// One row. A warp computes 32 columns and copies their weights itself, so that warps never wait for each other after the
// row is there: one chain waits for its own last step alone.
__device__ __forceinline__ void product_one(const Input& in, const Parts& parts, char* shared) {
  constexpr int STAGES = 8;
  int wide = (in.K + DEPTH - 1) / DEPTH * DEPTH, portions = wide / DEPTH;
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c = lane % LANES;
  float* xs = (float*)shared;
  Portion<2>* weights = (Portion<2>*)(shared + 4 * wide) + warp * STAGES;
  int tile = blockIdx.x * (blockDim.x >> 5) + warp;
  const Stored *first = first_weight(columns_at(parts, tile, 0, 2, 2), in.K),
               *second = first_weight(columns_at(parts, tile, 1, 2, 2), in.K);
  auto fetch = [&](int p) {
    if (p < portions)
      fetch_weights<2, 32>(
          &weights[p % STAGES], [&](int block) { return block ? second : first; }, lane, p * DEPTH, in.K);
    commit_copies();
  };
  for (int p = 0; p < STAGES - 1; p++) fetch(p);
  load_rows(xs, wide, in);
  Columns own = columns_at(parts, tile, lane / LANES, 2, 2);
  bool active = c < own.left;
  float chain[1] = {active ? begin_chain(own, 0, c) : 0.0f};
  for (int p = 0; p < portions; p++) {
    wait_for_copies<STAGES - 2>();
    __syncwarp();
    fetch(p + STAGES - 1);
    const Stored* column = &weights[p % STAGES].columns[lane / LANES][c];
    continue_chains<1>(chain, column, xs + p * DEPTH, 0, in.K - p * DEPTH);
  }
  float value = active ? end_chain(chain[0], own, in.K, 0, c) : 0.0f;
  float gate = parts.gated ? __shfl_xor_sync(0xffffffffu, value, LANES) : 0.0f;
  if (active && !(parts.gated && lane >= LANES)) own.store(0, c, finished(parts, value, gate));
}

// Up to eight rows: 32 columns a block, weights through a deep pipeline. 128 threads; a warp computes two rows, so that a
// weight is read from shared memory once for both.
__device__ __forceinline__ void product_few(const Input& in, const Parts& parts, char* shared) {
  constexpr int STAGES = 8, R = 2;
  int wide = (in.K + DEPTH - 1) / DEPTH * DEPTH, portions = wide / DEPTH;
  int lane = threadIdx.x & 31, m0 = (threadIdx.x >> 5) * R, c = lane % LANES;
  Portion<2>* weights = (Portion<2>*)shared;
  float* xs = (float*)(shared + STAGES * sizeof(Portion<2>));
  const Stored *first = first_weight(columns_at(parts, blockIdx.x, 0, 2, 2), in.K),
               *second = first_weight(columns_at(parts, blockIdx.x, 1, 2, 2), in.K);
  auto fetch = [&](int p) {
    if (p < portions)
      fetch_weights<2, 128>(
          &weights[p % STAGES], [&](int block) { return block ? second : first; }, threadIdx.x, p * DEPTH, in.K);
    commit_copies();
  };
  for (int p = 0; p < STAGES - 1; p++) fetch(p);
  load_rows(xs, wide, in);
  Columns own = columns_at(parts, blockIdx.x, lane / LANES, 2, 2);
  bool there = c < own.left;
  float chain[R];
#pragma unroll
  for (int r = 0; r < R; r++) chain[r] = there && m0 + r < in.M ? begin_chain(own, m0 + r, c) : 0.0f;
  for (int p = 0; p < portions; p++) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();
    fetch(p + STAGES - 1);
    if (m0 >= in.M) continue;
    const Stored* column = &weights[p % STAGES].columns[lane / LANES][c];
    const float* rows = xs + m0 * wide + p * DEPTH;  // an odd last row is computed twice
    continue_chains<R>(chain, column, rows, m0 + 1 < in.M ? wide : 0, in.K - p * DEPTH);
  }
#pragma unroll
  for (int r = 0; r < R; r++) {
    bool active = there && m0 + r < in.M;
    float value = active ? end_chain(chain[r], own, in.K, m0 + r, c) : 0.0f;
    float gate = parts.gated ? __shfl_xor_sync(0xffffffffu, value, LANES) : 0.0f;
    if (active && !(parts.gated && lane >= LANES)) own.store(m0 + r, c, finished(parts, value, gate));
  }
}

// Some rows: both operands through the pipeline. DOWN x ACROSS warps; a warp computes 2 TR rows of 16 TC columns, a
// thread TR rows of TC neighbouring columns, so that what it reads from shared memory serves several chains.
template <int DOWN, int ACROSS, int TR, int TC, int STAGES>
__device__ __forceinline__ void product_some(const Input& in, const Parts& parts, char* shared) {
  constexpr int R = DOWN * 2 * TR, BLOCKS = ACROSS * TC, THREADS = 32 * DOWN * ACROSS, ROW = DEPTH + 4;
  typedef Vector<Stored, TC> Group;
  Portion<BLOCKS>* weights = (Portion<BLOCKS>*)shared;
  float(*xs)[R][ROW] = (float(*)[R][ROW])(shared + STAGES * sizeof(Portion<BLOCKS>));
  const Stored** firsts = (const Stored**)(xs + STAGES);  // the first weight of each block
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, portions = (in.K + DEPTH - 1) / DEPTH;
  int m0 = blockIdx.y * R, row = warp / ACROSS * 2 * TR + (lane & 1);  // and every second one after it
  int slot = warp % ACROSS * TC + (lane >> 1) * TC / LANES, c = (lane >> 1) * TC % LANES;
  if (threadIdx.x < BLOCKS)
    firsts[threadIdx.x] = first_weight(columns_at(parts, blockIdx.x, threadIdx.x, BLOCKS, TC), in.K);
  __syncthreads();
  auto fetch = [&](int p) {
    if (p < portions) {
      fetch_weights<BLOCKS, THREADS>(
          &weights[p % STAGES], [&](int block) { return firsts[block]; }, threadIdx.x, p * DEPTH, in.K);
      int k = threadIdx.x % 8 * 4;
#pragma unroll
      for (int i = 0; i < (R * 8 + THREADS - 1) / THREADS; i++) {
        int m = threadIdx.x / 8 + i * (THREADS / 8);
        if (m >= R) break;
        bool there = m0 + m < in.M && p * DEPTH + k < in.x_row;
        copy_async(&xs[p % STAGES][m][k], in.x + (there ? (size_t)(m0 + m) * in.x_row + p * DEPTH + k : 0),
                   there ? 16 : 0);
      }
    }
    commit_copies();
  };
  for (int p = 0; p < STAGES - 1; p++) fetch(p);
  Columns own = columns_at(parts, blockIdx.x, slot, BLOCKS, TC);
  float chain[TR][TC];
#pragma unroll
  for (int i = 0; i < TR; i++)
#pragma unroll
    for (int j = 0; j < TC; j++) {
      int m = m0 + row + 2 * i;
      chain[i][j] = m < in.M && c + j < own.left ? begin_chain(own, m, c + j) : 0.0f;
    }
  for (int p = 0; p < portions; p++) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();
    fetch(p + STAGES - 1);
    const Stored* column = &weights[p % STAGES].columns[slot][c];
    int last = in.K - p * DEPTH;
    if (last >= DEPTH) {
#pragma unroll
      for (int k = 0; k < DEPTH; k += 4) {
        float w[4][TC];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          Group group = *(const Group*)(column + (k + i) * LANES);
#pragma unroll
          for (int j = 0; j < TC; j++) w[i][j] = W::widen(group.v[j]);
        }
#pragma unroll
        for (int i = 0; i < TR; i++) {
          float4 a = *(const float4*)&xs[p % STAGES][row + 2 * i][k];
#pragma unroll
          for (int j = 0; j < TC; j++) {
            chain[i][j] = fused(a.x, w[0][j], chain[i][j]);
            chain[i][j] = fused(a.y, w[1][j], chain[i][j]);
            chain[i][j] = fused(a.z, w[2][j], chain[i][j]);
            chain[i][j] = fused(a.w, w[3][j], chain[i][j]);
          }
        }
      }
    } else {  // the padding must not be multiplied
      for (int k = 0; k < last; k++)
#pragma unroll
        for (int i = 0; i < TR; i++)
#pragma unroll
          for (int j = 0; j < TC; j++)
            chain[i][j] = fused(xs[p % STAGES][row + 2 * i][k], W::widen(column[k * LANES + j]), chain[i][j]);
    }
  }
  bool gate_half = parts.gated && lane >= 16;
#pragma unroll
  for (int i = 0; i < TR; i++)
#pragma unroll
    for (int j = 0; j < TC; j++) {
      int m = m0 + row + 2 * i;
      bool active = m < in.M && c + j < own.left;
      float value = active ? end_chain(chain[i][j], own, in.K, m, c + j) : 0.0f;
      float gate = parts.gated ? __shfl_xor_sync(0xffffffffu, value, 16) : 0.0f;
      if (active && !gate_half) own.store(m, c + j, finished(parts, value, gate));
    }
}

// Many rows: tiles of 128 x 128, both operands staged twice; K must be a multiple of 16. 256 threads, 8 x 8 each.
__device__ __forceinline__ void product_many(const Input& in, const Parts& parts) {
  __shared__ __align__(16) float xs[2][16][132];
  __shared__ __align__(16) float ws[2][16][128];
  int m0 = blockIdx.y * 128, tx = threadIdx.x & 15, ty = threadIdx.x >> 4, c = (tx & 3) * 4;
  Columns own[2] = {columns_at(parts, blockIdx.x, tx >> 2, 8, 8), columns_at(parts, blockIdx.x, 4 + (tx >> 2), 8, 8)};
  float chain[8][8];
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) {
      int m = m0 + (i >> 2) * 64 + ty * 4 + (i & 3);
      chain[i][j] = m < in.M && c + (j & 3) < own[j >> 2].left ? begin_chain(own[j >> 2], m, c + (j & 3)) : 0.0f;
    }
  // x: a thread loads four k of two rows; w: four columns of one k, in two of the eight column blocks. What lies
  // beyond M and N is read from the first row and block, computed, and not stored.
  int xm = threadIdx.x >> 2, xk = (threadIdx.x & 3) * 4;
  int wb = threadIdx.x >> 6, wk = threadIdx.x >> 2 & 15, wn = (threadIdx.x & 3) * 4;
  typedef Vector<float, 4> Floats;
  typedef Vector<Stored, 4> Weights;
  const float* from[2];
  const Stored* weights[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int m = m0 + xm + 64 * half;
    from[half] = in.x + (m < in.M ? (size_t)m * in.x_row : 0) + xk;
    Columns columns = columns_at(parts, blockIdx.x, wb + 4 * half, 8, 8);
    if (columns.left <= 0) columns.part = parts.part[0], columns.block = 0;
    weights[half] = (const Stored*)(packed_block(columns, in.K) + SCALES) + wk * LANES + wn;
  }
  Floats xa[2];
  Weights wa[2];
  auto fetch = [&]() {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      xa[half] = *(const Floats*)from[half];
      wa[half] = *(const Weights*)weights[half];
      from[half] += 16;
      weights[half] += 16 * LANES;
    }
  };
  auto put = [&](int stage) {
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        xs[stage][xk + i][xm + 64 * half] = xa[half].v[i];
        ws[stage][wk][(wb + 4 * half) * LANES + wn + i] = W::widen(wa[half].v[i]);
      }
  };
  fetch();
  put(0);
  __syncthreads();
  int stage = 0;
  for (int k0 = 0; k0 < in.K; k0 += 16, stage ^= 1) {
    if (k0 + 16 < in.K) fetch();
#pragma unroll
    for (int k = 0; k < 16; k++) {
      float4 a0 = *(float4*)&xs[stage][k][ty * 4], a1 = *(float4*)&xs[stage][k][64 + ty * 4];
      float4 b0 = *(float4*)&ws[stage][k][tx * 4], b1 = *(float4*)&ws[stage][k][64 + tx * 4];
      float a[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
      float b[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) chain[i][j] = fused(a[i], b[j], chain[i][j]);
    }
    if (k0 + 16 < in.K) put(stage ^ 1);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int m = m0 + (i >> 2) * 64 + ty * 4 + (i & 3);
      if (m >= in.M) continue;
      float value[2];
#pragma unroll
      for (int half = 0; half < 2; half++)
        value[half] = c + j < own[half].left ? end_chain(chain[i][4 * half + j], own[half], in.K, m, c + j) : 0.0f;
      if (c + j < own[0].left) own[0].store(m, c + j, finished(parts, value[0], value[1]));
      if (c + j < own[1].left && !parts.gated) own[1].store(m, c + j, finished(parts, value[1], 0.0f));
    }
}

#define PRODUCT(name, threads, blocks, ...)                                                                 \
  extern "C" __global__ void __launch_bounds__(threads, blocks) PASTE(name, FORM)(PRODUCT_ARGUMENTS) {      \
    DYNAMIC_SHARED(char, shared);                                                                            \
    Input in = INPUT;                                                                                        \
    Parts parts = PARTS;                                                                                     \
    __VA_ARGS__;                                                                                             \
  }

PRODUCT(one, 64, 1, product_one(in, parts, shared))
PRODUCT(few, 128, 1, product_few(in, parts, shared))
PRODUCT(some_16, 128, 1, (product_some<4, 1, 2, 2, 6>(in, parts, shared)))
PRODUCT(some_32, 128, 1, (product_some<4, 1, 4, 2, 6>(in, parts, shared)))
PRODUCT(some_64, 256, 1, (product_some<8, 1, 4, 2, 6>(in, parts, shared)))
PRODUCT(wide_64, 256, 2, (product_some<4, 2, 8, 4, 3>(in, parts, shared)))
// Two blocks a multiprocessor: 128 registers a thread.
PRODUCT(many, 256, 2, (void)shared, product_many(in, parts))

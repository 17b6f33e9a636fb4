// Matrix products: y[m, n] = start[m, n] + sum over k of x[m, k] * w[k, n], each output ONE chain of fused
// multiply-adds with k ascending. A tile decides which outputs are computed together, never how one is computed.
//
// Weights are packed as for the CPU (`kernels/linear.py`): blocks of 16 columns; block j holds, for each k, columns
// 16 j to 16 j + 15. Float32, bfloat16 and float16 weights continue the chain from the start value. With int8
// weights the chain starts from 0 and ends with fma(chain, scale, start); a block begins with its 16 scales.
//
// Rows of x are padded to whole vectors of 16 floats (`x_row`), so that tiles may copy, but never multiply, what
// lies beyond K. The row stride of the start values is 0 for a bias, and y may be the start itself.
#include "arithmetic.cuh"
#include "device.cuh"

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

#define LANES 16
#define PRODUCT_ARGUMENTS                                                                                     \
  const float *__restrict__ x, int x_row, const void *__restrict__ w, const float *start, int start_row,      \
      float *y, int y_row, int M, int N, int K
#define PRODUCT_VALUES x, x_row, w, start, start_row, y, y_row, M, N, K

__device__ __forceinline__ const char* column_block(const void* w, int j, int K) {
  constexpr size_t SCALES = W::SCALED ? LANES * sizeof(float) : 0;
  return (const char*)w + (size_t)j * (SCALES + (size_t)K * LANES * sizeof(Stored));
}
__device__ __forceinline__ const Stored* columns_of(const void* w, int j, int K) {
  return (const Stored*)(column_block(w, j, K) + (W::SCALED ? LANES * sizeof(float) : 0));
}

// Four neighbours, read at once.
template <class T>
struct __align__(4 * sizeof(T)) Four {
  T v[4];
};

// The first value of the chain of output (m, n), and its last step.
__device__ __forceinline__ float begin_chain(const float* start, int start_row, int m, int n) {
  return W::SCALED ? 0.0f : start[(size_t)m * start_row + n];
}
__device__ __forceinline__ float end_chain(
    float chain, const void* w, int K, const float* start, int start_row, int m, int n) {
  if (!W::SCALED) return chain;
  const float* scales = (const float*)column_block(w, n / LANES, K);
  return fused(chain, scales[n % LANES], start[(size_t)m * start_row + n]);
}

// A portion of `DEPTH` k of 32 columns, copied into shared memory in the background. Blocks are kept a little
// apart, so that the two halves of a warp read from different banks.
constexpr int DEPTH = 32;
struct Portion {
  static constexpr int PAD = 16 / sizeof(Stored) > LANES ? 16 / sizeof(Stored) : LANES;
  Stored columns[2][DEPTH * LANES + PAD];
};

__device__ __forceinline__ void fetch_weights(Portion* to, const void* w, int first_block, int k0, int N, int K) {
  constexpr int EACH = 16 / sizeof(Stored), PIECES = DEPTH * LANES / EACH;
  int block = threadIdx.x / PIECES, piece = threadIdx.x % PIECES, k = k0 + piece * EACH / LANES;
  if (block >= 2) return;
  bool there = (first_block + block) * LANES < N && k < K;
  const Stored* from = columns_of(w, there ? first_block + block : 0, K);
  copy_async(&to->columns[block][piece * EACH], from + (there ? (size_t)k0 * LANES + piece * EACH : 0), there ? 16 : 0);
}

// Few rows (R at most): 32 columns a block, weights through a deep pipeline. 256 threads; warp m computes row m.
template <int R>
__device__ void product_few(PRODUCT_ARGUMENTS, char* shared) {
  constexpr int STAGES = 8;
  Portion* weights = (Portion*)shared;
  float* xs = (float*)(shared + STAGES * sizeof(Portion));
  int wide = (K + DEPTH - 1) / DEPTH * DEPTH, portions = wide / DEPTH;
  int lane = threadIdx.x & 31, m = threadIdx.x >> 5, n = blockIdx.x * 32 + lane;
  for (int p = 0; p < STAGES - 1; p++) {
    if (p < portions) fetch_weights(&weights[p], w, blockIdx.x * 2, p * DEPTH, N, K);
    commit_copies();
  }
  for (int i = threadIdx.x; i < M * wide; i += blockDim.x) {
    int row = i / wide, k = i % wide;
    xs[i] = k < K ? x[(size_t)row * x_row + k] : 0.0f;
  }
  bool active = m < M && n < N;
  float chain = active ? begin_chain(start, start_row, m, n) : 0.0f;
  for (int p = 0; p < portions; p++) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();
    if (p + STAGES - 1 < portions)
      fetch_weights(&weights[(p + STAGES - 1) % STAGES], w, blockIdx.x * 2, (p + STAGES - 1) * DEPTH, N, K);
    commit_copies();
    if (m >= M) continue;
    const Stored* column = &weights[p % STAGES].columns[lane / LANES][lane % LANES];
    const float* own = xs + m * wide + p * DEPTH;
    int last = K - p * DEPTH;
    if (last >= DEPTH) {
#pragma unroll
      for (int k = 0; k < DEPTH; k += 4) {
        float4 a = *(const float4*)(own + k);
        chain = fused(a.x, W::widen(column[k * LANES]), chain);
        chain = fused(a.y, W::widen(column[(k + 1) * LANES]), chain);
        chain = fused(a.z, W::widen(column[(k + 2) * LANES]), chain);
        chain = fused(a.w, W::widen(column[(k + 3) * LANES]), chain);
      }
    } else {  // the padding must not be multiplied: fma(0, 0, -0) is +0
      for (int k = 0; k < last; k++) chain = fused(own[k], W::widen(column[k * LANES]), chain);
    }
  }
  if (active) y[(size_t)m * y_row + n] = end_chain(chain, w, K, start, start_row, m, n);
}

// Any number of rows: R rows by 32 columns a block, both operands through the pipeline. 256 threads; a warp
// computes R / 8 rows.
template <int R>
__device__ void product_some(PRODUCT_ARGUMENTS, char* shared) {
  constexpr int STAGES = 6, EACH = R / 8, PAD = DEPTH + 4;
  Portion* weights = (Portion*)shared;
  float(*xs)[R][PAD] = (float(*)[R][PAD])(shared + STAGES * sizeof(Portion));
  int m0 = blockIdx.y * R, portions = (K + DEPTH - 1) / DEPTH;
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = blockIdx.x * 32 + lane;
  auto fetch = [&](int p) {
    if (p < portions) {
      fetch_weights(&weights[p % STAGES], w, blockIdx.x * 2, p * DEPTH, N, K);
      int k = threadIdx.x % 8 * 4;
      for (int row = threadIdx.x / 8; row < R; row += 32) {
        bool there = m0 + row < M && p * DEPTH + k < x_row;
        copy_async(
            &xs[p % STAGES][row][k], x + (there ? (size_t)(m0 + row) * x_row + p * DEPTH + k : 0), there ? 16 : 0);
      }
    }
    commit_copies();
  };
  for (int p = 0; p < STAGES - 1; p++) fetch(p);
  float chain[EACH];
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    int m = m0 + warp * EACH + i;
    chain[i] = m < M && n < N ? begin_chain(start, start_row, m, n) : 0.0f;
  }
  for (int p = 0; p < portions; p++) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();
    fetch(p + STAGES - 1);
    const Stored* column = &weights[p % STAGES].columns[lane / LANES][lane % LANES];
    int last = K - p * DEPTH;
    if (last >= DEPTH) {
#pragma unroll
      for (int k = 0; k < DEPTH; k += 4) {
        float w0 = W::widen(column[k * LANES]), w1 = W::widen(column[(k + 1) * LANES]);
        float w2 = W::widen(column[(k + 2) * LANES]), w3 = W::widen(column[(k + 3) * LANES]);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
          float4 a = *(const float4*)&xs[p % STAGES][warp * EACH + i][k];
          chain[i] = fused(a.x, w0, chain[i]);
          chain[i] = fused(a.y, w1, chain[i]);
          chain[i] = fused(a.z, w2, chain[i]);
          chain[i] = fused(a.w, w3, chain[i]);
        }
      }
    } else {
      for (int k = 0; k < last; k++) {
        float one = W::widen(column[k * LANES]);
#pragma unroll
        for (int i = 0; i < EACH; i++) chain[i] = fused(xs[p % STAGES][warp * EACH + i][k], one, chain[i]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    int m = m0 + warp * EACH + i;
    if (m < M && n < N) y[(size_t)m * y_row + n] = end_chain(chain[i], w, K, start, start_row, m, n);
  }
}

// Many rows: tiles of 128 x 128, both operands staged twice; K must be a multiple of 16. 256 threads, 8 x 8 each.
__device__ void product_many(PRODUCT_ARGUMENTS) {
  __shared__ __align__(16) float xs[2][16][132];
  __shared__ __align__(16) float ws[2][16][128];
  int m0 = blockIdx.y * 128, n0 = blockIdx.x * 128, tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
  float chain[8][8];
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) {
      int m = m0 + (i >> 2) * 64 + ty * 4 + (i & 3), n = n0 + (j >> 2) * 64 + tx * 4 + (j & 3);
      chain[i][j] = m < M && n < N ? begin_chain(start, start_row, m, n) : 0.0f;
    }
  // x: a thread loads four k of two rows; w: four columns of one k, in two of the eight column blocks. What lies
  // beyond M and N is read from the first row and block, computed, and not stored.
  int xm = threadIdx.x >> 2, xk = (threadIdx.x & 3) * 4;
  int wb = threadIdx.x >> 6, wk = threadIdx.x >> 2 & 15, wn = (threadIdx.x & 3) * 4;
  const float* from[2];
  const Stored* weights[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int m = m0 + xm + 64 * half, block = n0 / LANES + wb + 4 * half;
    from[half] = x + (m < M ? (size_t)m * x_row : 0) + xk;
    weights[half] = columns_of(w, block * LANES < N ? block : 0, K) + wk * LANES + wn;
  }
  Four<float> xa[2];
  Four<Stored> wa[2];
  auto fetch = [&]() {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      xa[half] = *(const Four<float>*)from[half];
      wa[half] = *(const Four<Stored>*)weights[half];
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
  for (int k0 = 0; k0 < K; k0 += 16, stage ^= 1) {
    if (k0 + 16 < K) fetch();
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
    if (k0 + 16 < K) put(stage ^ 1);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) {
      int m = m0 + (i >> 2) * 64 + ty * 4 + (i & 3), n = n0 + (j >> 2) * 64 + tx * 4 + (j & 3);
      if (m < M && n < N) y[(size_t)m * y_row + n] = end_chain(chain[i][j], w, K, start, start_row, m, n);
    }
}

KERNEL_OF(256) PASTE(few_1, FORM)(PRODUCT_ARGUMENTS) {
  DYNAMIC_SHARED(char, shared);
  product_few<1>(PRODUCT_VALUES, shared);
}
KERNEL_OF(256) PASTE(few_8, FORM)(PRODUCT_ARGUMENTS) {
  DYNAMIC_SHARED(char, shared);
  product_few<8>(PRODUCT_VALUES, shared);
}
KERNEL_OF(256) PASTE(some_32, FORM)(PRODUCT_ARGUMENTS) {
  DYNAMIC_SHARED(char, shared);
  product_some<32>(PRODUCT_VALUES, shared);
}
KERNEL_OF(256) PASTE(some_64, FORM)(PRODUCT_ARGUMENTS) {
  DYNAMIC_SHARED(char, shared);
  product_some<64>(PRODUCT_VALUES, shared);
}
// Two blocks a multiprocessor: 128 registers a thread.
extern "C" __global__ void __launch_bounds__(256, 2) PASTE(many, FORM)(PRODUCT_ARGUMENTS) { product_many(PRODUCT_VALUES); }

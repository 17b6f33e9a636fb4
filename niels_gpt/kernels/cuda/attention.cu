// Causal attention over keys and values in pages, each query over exactly its own keys (`kernels/attention.py`).
//
// A page holds 16 positions of one sequence: layer after layer, first the keys as (KV, D, 16), so that neighbouring
// threads read neighbouring positions, then the values as (KV, E / 16, 16, 16), with E the head's width D in whole
// vectors: of each 16 channels, 16 positions. A row of `table` lists the pages of one slot in order.
//
// A score is the chain over the head's width, the mix of values the chain over the positions that the query sees,
// both ascending; the weights' sum takes lanes of positions modulo 16. H heads of queries, KV heads of keys.
#include "arithmetic.cuh"
#include "device.cuh"
#include "norm.cuh"

#define PAGE 16
#define HEAD_NORM 1
#define ROW_NORM 2
#define NORM_AFTER 3
#define WIDEST_HEAD 256

// Norm and rotate each row's queries and keys, multiply queries by the factor of the scores, store keys and values.
// One block of whole warps a row; `layer` is the first float of the layer's part of a page.
KERNEL remember(float* q, int q_row, float* k, const float* v, int kv_row, const float* cosine, const float* sine,
                int table_row, const float* q_norm, const float* q_shift, const float* k_norm, const float* k_shift,
                int qk_norm, int rms, float eps, float factor, float qk_scale, const int* positions, const int* slots,
                float* pages, long long page_floats, long long layer, const int* table, int most_pages, int H, int KV,
                int D) {
  int r = blockIdx.x, position = positions[r], warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  float* own_q = q + (size_t)r * q_row;
  float* own_k = k + (size_t)r * kv_row;
  const float* own_v = v + (size_t)r * kv_row;
  bool after = qk_norm == NORM_AFTER;
  if (qk_norm == ROW_NORM) {
    if (warp == 0) norm_row(own_q, own_q, q_norm, q_shift, H * D, rms, eps);
    if (warp == warps - 1) norm_row(own_k, own_k, k_norm, k_shift, KV * D, rms, eps);
    __syncthreads();
  }
  float* page = pages + (size_t)table[(size_t)slots[r] * most_pages + position / PAGE] * page_floats + layer;
  int lane_position = position % PAGE, blocks = (D + 15) / 16;
  for (int h = warp; h < H + KV; h += warps) {
    bool query = h < H;
    float* x = query ? own_q + h * D : own_k + (h - H) * D;
    const float* scale = query ? q_norm : k_norm;
    const float* shift = query ? q_shift : k_shift;
    if (qk_norm == HEAD_NORM) norm_row(x, x, scale, shift, D, rms, eps);
    if (cosine) {
      const float* c = cosine + (size_t)position * table_row;
      const float* s = sine + (size_t)position * table_row;
      for (int i = 2 * (threadIdx.x & 31); i < D; i += 64) {
        // The table of sines holds the signs.
        float even = fused(x[i], c[i], mul(x[i + 1], s[i]));
        float odd = fused(x[i + 1], c[i + 1], mul(x[i], s[i + 1]));
        x[i] = query && !after ? mul(even, factor) : even;
        x[i + 1] = query && !after ? mul(odd, factor) : odd;
      }
    } else if (query && !after) {
      for (int i = threadIdx.x & 31; i < D; i += 32) x[i] = mul(x[i], factor);
    }
    __syncwarp();
    if (after) {
      norm_row(x, x, scale, shift, D, rms, eps);
      float times = query ? mul(qk_scale, factor) : qk_scale;
      for (int i = threadIdx.x & 31; i < D; i += 32) x[i] = mul(x[i], times);
      __syncwarp();
    }
    if (query) continue;
    float* keys = page + (size_t)(h - H) * D * PAGE + lane_position;
    float* values = page + (size_t)KV * D * PAGE + ((size_t)(h - H) * blocks * PAGE + lane_position) * 16;
    for (int i = threadIdx.x & 31; i < D; i += 32) {
      keys[i * PAGE] = x[i];
      values[(size_t)(i / 16) * PAGE * 16 + i % 16] = own_v[(h - H) * D + i];
    }
  }
}

// Attend for one row and one head of queries a block of WIDEST_HEAD / 2 threads. A row sees `window` positions, its
// own included, or all up to its own where that is 0. Shared memory holds `room` scores, a multiple of 16. Of longer
// rows the scores are computed twice, a tile of `room` positions at a time: first for the largest, then for the sums,
// whose chains continue from tile to tile.
KERNEL_OF(WIDEST_HEAD / 2)
attend(const float* q, int q_row, float* mixed, int mixed_row, const int* positions, const int* slots,
       const float* pages, long long page_floats, long long layer, const int* table, int most_pages, int window,
       float most_score, int room, int H, int KV, int D) {
  DYNAMIC_SHARED(float, scores);
  __shared__ float query[WIDEST_HEAD], best[32], total;
  int r = blockIdx.x, h = blockIdx.y, kv = h / (H / KV), end = positions[r] + 1, blocks = (D + 15) / 16;
  int begin = window > 0 && end > window ? end - window : 0, base = begin / PAGE * PAGE;
  const int* own = table + (size_t)slots[r] * most_pages;
  for (int d = threadIdx.x; d < D; d += blockDim.x) query[d] = q[(size_t)r * q_row + h * D + d];
  __syncthreads();
  auto score = [&](int j) {
    const float* key = pages + (size_t)own[j / PAGE] * page_floats + layer + (size_t)kv * D * PAGE + j % PAGE;
    float chain = 0.0f;
#pragma unroll 8
    for (int d = 0; d < D; d++) chain = fused(query[d], key[d * PAGE], chain);
    return most_score != 0.0f ? cap(chain, most_score) : chain;
  };
  bool at_once = end - base <= room;
  float most = minus_infinity();
  for (int j = begin + threadIdx.x; j < end; j += blockDim.x) {
    float one = score(j);
    if (at_once) scores[j - base] = one;
    most = larger(one, most);
  }
  for (int half = 16; half > 0; half >>= 1) most = larger(__shfl_xor_sync(0xffffffffu, most, half), most);
  if ((threadIdx.x & 31) == 0) best[threadIdx.x >> 5] = most;
  __syncthreads();
  most = best[0];
  for (int warp = 1; warp < blockDim.x >> 5; warp++) most = larger(best[warp], most);
  float sum = 0.0f, chain[2] = {0.0f, 0.0f};
  for (int tile = base; tile < end; tile += room) {
    int stop = min(tile + room, end);
    for (int j = tile + threadIdx.x; j < stop; j += blockDim.x)
      scores[j - tile] = j < begin ? 0.0f : exp_(sub(at_once ? scores[j - tile] : score(j), most));
    __syncthreads();
    if (threadIdx.x < 32)  // lane i sums the positions i, i + 16, ... from the first page on
      for (int j = threadIdx.x & 15; j < stop - tile; j += 16) sum = add(sum, scores[j]);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int d = threadIdx.x + i * blockDim.x;
      if (d >= D) break;
      size_t place = layer + (size_t)KV * D * PAGE + ((size_t)kv * blocks + d / 16) * PAGE * 16 + d % 16;
      for (int j = max(tile, begin); j < stop;) {
        const float* values = pages + (size_t)own[j / PAGE] * page_floats + place;
        int last = min(stop, (j / PAGE + 1) * PAGE);
        if (last - j == PAGE) {
#pragma unroll
          for (int k = 0; k < PAGE; k++) chain[i] = fused(scores[j - tile + k], values[k * 16], chain[i]);
          j = last;
        } else {
          for (; j < last; j++) chain[i] = fused(scores[j - tile], values[j % PAGE * 16], chain[i]);
        }
      }
    }
    __syncthreads();
  }
  if (threadIdx.x < 32) {
    sum = fold_lanes(sum);
    if (threadIdx.x == 0) total = sum;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int d = threadIdx.x + i * blockDim.x;
    if (d < D) mixed[(size_t)r * mixed_row + h * D + d] = quotient(chain[i], total);
  }
}

// The same for a key head with all its heads of queries, and for up to `tile` neighbouring rows of a sequence: each page
// is read once for all of them. A block's first row is the first of its sequence in this step, or at a position that is
// a multiple of `tile`; blocks of other rows have nothing to do. 128 threads. Shared memory holds `most_queries`
// queries, a multiple of four, `room` scores for each, and two stages of pages that are copied in the background.
#define STAGE 4
#define ITEMS 4
KERNEL_OF(128)
attend_rows(const float* q, int q_row, float* mixed, int mixed_row, const int* positions, const int* slots,
            const float* pages, long long page_floats, long long layer, const int* table, int most_pages, int window,
            float most_score, int room, int H, int KV, int D, int M, int tile, int most_queries) {
  DYNAMIC_SHARED(float, shared);
  int r = blockIdx.x, kv = blockIdx.y, group = H / KV, slot = slots[r];
  if (r > 0 && slots[r - 1] == slot && positions[r] % tile != 0) return;
  int rows = 1;
  while (rows < tile && r + rows < M && slots[r + rows] == slot && positions[r + rows] % tile != 0) rows++;
  int count = rows * group, fours = (count + 3) / 4, row = (D + 3) & ~3, blocks = (D + 15) / 16;
  int stage_floats = STAGE * blocks * 272, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  float* staged = shared;  // two stages; blocks of values, and pages of keys, are kept 16 floats apart
  float* queries = staged + 2 * stage_floats;
  float* scores = queries + most_queries * row;
  float* totals = scores + (size_t)most_queries * room;
  const int* own = table + (size_t)slot * most_pages;
  // What lies beyond the last query is computed as a copy of it, and not stored.
  auto row_of = [&](int i) { return r + min(i, count - 1) / group; };
  auto end_of = [&](int i) { return positions[row_of(i)] + 1; };
  auto begin_of = [&](int i) { return window > 0 && end_of(i) > window ? end_of(i) - window : 0; };
  int first = begin_of(0) / PAGE, last = (end_of(count - 1) + PAGE - 1) / PAGE, base = first * PAGE;
  int stages = (last - first + STAGE - 1) / STAGE;
  auto fetch = [&](int s, bool values) {
    if (s < stages) {
      int pieces = (values ? blocks * PAGE : D) * PAGE / 4;
      for (int i = threadIdx.x; i < STAGE * pieces; i += blockDim.x) {
        int page = i / pieces, piece = i % pieces, number = first + s * STAGE + page;
        if (number >= last) break;
        const float* from = pages + (size_t)own[number] * page_floats + layer;
        from += values ? (size_t)KV * D * PAGE + (size_t)kv * blocks * PAGE * 16 : (size_t)kv * D * PAGE;
        float* to = staged + (s & 1) * stage_floats + page * blocks * 272;
        copy_async(to + piece * 4 + (values ? piece / 64 * 16 : 0), from + piece * 4, 16);
      }
    }
    commit_copies();
  };
  fetch(0, false);
  for (int i = threadIdx.x; i < fours * 4 * D; i += blockDim.x) {
    int query = i / D, d = i % D, h = kv * group + min(query, count - 1) % group;
    queries[query * row + d] = q[(size_t)row_of(query) * q_row + h * D + d];
  }
  for (int s = 0; s < stages; s++) {
    fetch(s + 1, false);
    wait_for_copies<1>();
    __syncthreads();
    for (int item = warp; item < STAGE / 2 * fours; item += blockDim.x >> 5) {
      int page = item % (STAGE / 2) * 2 + lane / PAGE, four = item / (STAGE / 2) * 4;
      const float* key = staged + (s & 1) * stage_floats + page * blocks * 272 + lane % PAGE;
      const float* own_q = queries + four * row;
      float chain[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      int d = 0;
#pragma unroll 4
      for (; d + 4 <= D; d += 4) {
        float k[4];
#pragma unroll
        for (int i = 0; i < 4; i++) k[i] = key[(d + i) * PAGE];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float4 a = *(const float4*)(own_q + i * row + d);
          chain[i] = fused(a.x, k[0], chain[i]);
          chain[i] = fused(a.y, k[1], chain[i]);
          chain[i] = fused(a.z, k[2], chain[i]);
          chain[i] = fused(a.w, k[3], chain[i]);
        }
      }
      for (; d < D; d++)
#pragma unroll
        for (int i = 0; i < 4; i++) chain[i] = fused(own_q[i * row + d], key[d * PAGE], chain[i]);
      int at = (s * STAGE + page) * PAGE + lane % PAGE;
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (base + at < last * PAGE)
          scores[(four + i) * room + at] = most_score != 0.0f ? cap(chain[i], most_score) : chain[i];
    }
    __syncthreads();
  }
  fetch(0, true);
  for (int i = warp; i < fours * 4; i += blockDim.x >> 5) {
    int begin = begin_of(i) - base, end = end_of(i) - base;
    float *weights = scores + i * room, most = minus_infinity(), sum = 0.0f;
    for (int j = begin + lane; j < end; j += 32) most = larger(weights[j], most);
    for (int half = 16; half > 0; half >>= 1) most = larger(__shfl_xor_sync(0xffffffffu, most, half), most);
    for (int j = lane; j < end; j += 32) weights[j] = j < begin ? 0.0f : exp_(sub(weights[j], most));
    __syncwarp();
    for (int j = lane & 15; j < end; j += 16) sum = add(sum, weights[j]);  // lanes of positions modulo 16
    sum = fold_lanes(sum);
    if (lane == 0) totals[i] = sum;
  }
  float chain[ITEMS][4];
#pragma unroll
  for (int k = 0; k < ITEMS; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) chain[k][i] = 0.0f;
  for (int s = 0; s < stages; s++) {
    fetch(s + 1, true);
    wait_for_copies<1>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
      int item = threadIdx.x + k * blockDim.x, four = item / (blocks * 16) * 4, d = item % (blocks * 16);
      if (four >= fours * 4 || d >= D) continue;
      const float* value = staged + (s & 1) * stage_floats + d / 16 * 272 + d % 16;
      int all_begin = begin_of(four + 3) - base, all_end = end_of(four) - base;  // of all four queries
      for (int page = 0; page < STAGE && first + s * STAGE + page < last; page++) {
        int at = (s * STAGE + page) * PAGE;
        const float *v = value + page * blocks * 272, *weights = scores + four * room + at;
        if (all_begin <= at && at + PAGE <= all_end) {
#pragma unroll
          for (int j = 0; j < PAGE; j += 4) {
            float own_v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) own_v[i] = v[(j + i) * 16];
#pragma unroll
            for (int i = 0; i < 4; i++) {
              float4 w = *(const float4*)(weights + i * room + j);
              chain[k][i] = fused(w.x, own_v[0], chain[k][i]);
              chain[k][i] = fused(w.y, own_v[1], chain[k][i]);
              chain[k][i] = fused(w.z, own_v[2], chain[k][i]);
              chain[k][i] = fused(w.w, own_v[3], chain[k][i]);
            }
          }
        } else {
#pragma unroll
          for (int i = 0; i < 4; i++)
            for (int j = max(at, begin_of(four + i) - base); j < min(at + PAGE, end_of(four + i) - base); j++)
              chain[k][i] = fused(weights[i * room + j - at], v[(j - at) * 16], chain[k][i]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < ITEMS; k++) {
    int item = threadIdx.x + k * blockDim.x, four = item / (blocks * 16) * 4, d = item % (blocks * 16);
    if (four >= fours * 4 || d >= D) continue;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int query = four + i;
      if (query >= count) break;
      float* to = mixed + (size_t)row_of(query) * mixed_row + (kv * group + query % group) * D;
      to[d] = quotient(chain[k][i], totals[query]);
    }
  }
}

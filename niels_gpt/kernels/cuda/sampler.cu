// Draw tokens from rows of logits with the arithmetic of the CPU's sampler (`kernels/sampler.py`), step by step.
//
// One block serves one sequence at a time. What has an order in the result keeps it: sums of weights are one chain in
// float64 in id order (or in order of rank), computed by one thread. Selections, counts, largest values and sums of
// whole numbers are the same in any order. A sequence that reads a draft has several rows; its block draws them one
// after another, until a token differs from the draft.
//
// V vocabulary, N sequences, W rows that are drawn from.
#include "arithmetic.cuh"
#include "device.cuh"

#define NON_FINITE -1
#define NOTHING_LEFT -2
#define OVERFLOW_ -3
#define UNDRAWN -4  // a row after one whose token was not the expected one
#define MOST_BIASED 300
#define UNIFORMS 64
#define CHUNK 1024  // candidates that are ranked together

typedef unsigned long long u64;

// By slot; the host keeps the same arrays (`kernels/sampler.py`).
struct Slots {
  const float* temperature;
  const long long* top_k;
  const double* top_p;
  const float* penalty;
  const double* min_p;
  const double* typical_p;
  const float* frequency;
  const float* presence;
  const long long* biases;
  const long long* bias_ids;  // (slots, MOST_BIASED)
  const float* bias;
  int* counts;                  // (slots, V): how often each id occurred in prompt and reply
  const unsigned char* banned;  // (slots, V)
  const double* uniforms;       // (slots, UNIFORMS)
  int* used;                    // how many of them are spent
};

// Space for one block's draw, V of each.
struct Scratch {
  float* scaled;   // all logits after penalties and bans
  float* weights;  // of the candidates
  int* ids;
  double* sums;    // running sums of the candidates' weights
  u64* keys;       // by which candidates are ranked
};

struct Room {  // in shared memory
  u64 words[32];
  unsigned histogram[256];
  u64 keys[CHUNK];
  int order[CHUNK];
  double total, mean;
  u64 bound_key;
  int bound, size, enough, drawn;
};

// Reduce a value of each thread to one that all receive; `join` must not depend on the order.
template <class T, class Join>
__device__ T reduce(Room* room, T value, Join join) {
  T* values = (T*)room->words;
  for (int half = 16; half > 0; half >>= 1) value = join(value, __shfl_xor_sync(0xffffffffu, value, half));
  if ((threadIdx.x & 31) == 0) values[threadIdx.x >> 5] = value;
  __syncthreads();
  value = values[0];
  for (int warp = 1; warp < blockDim.x >> 5; warp++) value = join(value, values[warp]);
  __syncthreads();
  return value;
}
__device__ int count_true(Room* room, int own) {
  return reduce(room, own, [](int a, int b) { return a + b; });
}
__device__ int smallest(Room* room, int own) {
  return reduce(room, own, [](int a, int b) { return a < b ? a : b; });
}
__device__ float largest(Room* room, float own) { return reduce(room, own, larger); }

// Return how many threads before this one have the flag, and in `all` how many have it.
__device__ int rank_of(Room* room, bool flag, int* all) {
  unsigned votes = __ballot_sync(0xffffffffu, flag);
  int lane = threadIdx.x & 31, before = __popc(votes & ((1u << lane) - 1));
  if (lane == 0) room->words[threadIdx.x >> 5] = __popc(votes);
  __syncthreads();
  *all = 0;
  for (int warp = 0; warp < blockDim.x >> 5; warp++) {
    int here = (int)room->words[warp];
    if (warp < threadIdx.x >> 5) before += here;
    *all += here;
  }
  __syncthreads();
  return before;
}

// Keep the candidates that `keep(i)` accepts, in their order; return how many.
template <class Keep>
__device__ int keep_candidates(Room* room, Scratch s, int count, Keep keep) {
  int kept = 0, all;
  for (int first = 0; first < count; first += blockDim.x) {
    int i = first + threadIdx.x, id = 0;
    bool flag = i < count && keep(i);
    float weight = 0.0f;
    if (flag) weight = s.weights[i], id = s.ids[i];
    int at = kept + rank_of(room, flag, &all);  // all threads have read before one writes
    if (flag) s.weights[at] = weight, s.ids[at] = id;
    kept += all;
  }
  __syncthreads();
  return kept;
}

// Bits that are in the order of the floats; -0 counts as 0.
__device__ __forceinline__ u64 ordered(float x) {
  unsigned bits = (unsigned)__float_as_int(x == 0.0f ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Find the element of rank k (from 1) among the `count` whose `part(i)` holds: the larger key first, of equals the
// lower number. Leaves its key and number in `bound_key` and `bound`. Keys have `bits` bits.
template <class Part, class Key>
__device__ void select_rank(Room* room, int count, Part part, Key key, int bits, int k) {
  u64 prefix = 0;
  for (int shift = bits - 8; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) room->histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      if (!part(i)) continue;
      u64 own = key(i);
      if (shift + 8 == bits || own >> (shift + 8) == prefix >> (shift + 8))
        atomicAdd(&room->histogram[own >> shift & 255], 1u);
    }
    __syncthreads();
    int digit = 255;  // every thread finds the same
    while ((unsigned)k > room->histogram[digit]) k -= room->histogram[digit--];
    prefix |= (u64)digit << shift;
    __syncthreads();
  }
  int seen = 0, all;
  for (int first = 0; seen < k; first += blockDim.x) {
    int i = first + threadIdx.x;
    bool flag = i < count && part(i) && key(i) == prefix;
    int rank = rank_of(room, flag, &all);
    if (flag && seen + rank == k - 1) room->bound_key = prefix, room->bound = i;
    seen += all;
  }
  __syncthreads();
}

// Sort the `size` entries of `keys` and `order`: the larger key first, of equals the lower number.
__device__ void sort_chunk(Room* room, int size) {
  int padded = 2;
  while (padded < size) padded *= 2;
  for (int i = size + threadIdx.x; i < padded; i += blockDim.x) room->keys[i] = 0, room->order[i] = 0x7fffffff;
  __syncthreads();
  for (int run = 2; run <= padded; run *= 2)
    for (int step = run / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < padded; i += blockDim.x) {
        int other = i ^ step;
        if (other < i) continue;
        u64 a = room->keys[i], b = room->keys[other];
        int m = room->order[i], n = room->order[other];
        bool in_order = a > b || (a == b && m < n);
        if (in_order == ((i & run) == 0)) continue;
        room->keys[i] = b, room->keys[other] = a;
        room->order[i] = n, room->order[other] = m;
      }
      __syncthreads();
    }
}

// Keep the candidates that come first by `keys` until their weights, summed in that order, reach the target.
__device__ int keep_first(Room* room, Scratch s, int count, int bits, double target) {
  int taken = 0;
  double running = 0.0;
  int last = -1;
  u64 last_key = 0;
  while (taken < count) {
    int left = count - taken, first = taken;
    u64 after_key = last_key;
    int after = last;
    auto part = [&](int i) {
      return first == 0 || s.keys[i] < after_key || (s.keys[i] == after_key && i > after);
    };
    bool all = left <= CHUNK;
    if (!all) select_rank(room, count, part, [&](int i) { return s.keys[i]; }, bits, CHUNK);
    if (threadIdx.x == 0) room->size = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      if (!part(i)) continue;
      u64 own = s.keys[i];
      if (!all && (own < room->bound_key || (own == room->bound_key && i > room->bound))) continue;
      int at = atomicAdd(&room->size, 1);  // in any order: they are sorted next
      room->keys[at] = own;
      room->order[at] = i;
    }
    __syncthreads();
    int size = room->size;
    sort_chunk(room, size);
    if (threadIdx.x == 0) {
      int n = 0;
      while (n < size && running < target) running = add(running, (double)s.weights[room->order[n++]]);
      room->enough = !(running < target);
      room->size = n;
    }
    __syncthreads();
    int n = room->size;
    if (n > 0) last = room->order[n - 1], last_key = room->keys[n - 1];
    taken += size;
    bool enough = room->enough;
    __syncthreads();
    if (enough) break;
  }
  return keep_candidates(room, s, count, [&](int i) {
    return last >= 0 && (s.keys[i] > last_key || (s.keys[i] == last_key && i <= last));
  });
}

// The sum of all candidates' weights in id order, with the running sums left in `sums`.
__device__ double sum_weights(Room* room, Scratch s, int count) {
  if (threadIdx.x == 0) {
    double total = 0.0;
#pragma unroll 8
    for (int i = 0; i < count; i++) s.sums[i] = total = add(total, (double)s.weights[i]);
    room->total = total;
  }
  __syncthreads();
  double total = room->total;
  __syncthreads();
  return total;
}

__device__ int typical(Room* room, Scratch s, int count, double p) {
  double total = sum_weights(room, s, count);
  if (threadIdx.x == 0) {
    double weighted = 0.0;
#pragma unroll 8
    for (int i = 0; i < count; i++)
      weighted = add(weighted, mul((double)s.weights[i], (double)s.scaled[s.ids[i]]));
    room->mean = quotient(weighted, total);
  }
  __syncthreads();
  double mean = room->mean;
  for (int i = threadIdx.x; i < count; i += blockDim.x)  // the nearest to the mean first
    s.keys[i] = ~(u64)__double_as_longlong(fabs(sub((double)s.scaled[s.ids[i]], mean)));
  __syncthreads();
  return keep_first(room, s, count, 64, mul(p, total));
}

__device__ int nucleus(Room* room, Scratch s, int count, double p) {
  double total = sum_weights(room, s, count);
  for (int i = threadIdx.x; i < count; i += blockDim.x) s.keys[i] = ordered(s.weights[i]);
  __syncthreads();
  return keep_first(room, s, count, 32, mul(p, total));
}

// Draw from the candidates: the first at which the running sum exceeds uniform * total.
__device__ int draw(Room* room, Scratch s, int count, double uniform, double* margin) {
  double total = sum_weights(room, s, count), target = mul(uniform, total);
  int own = count;
  for (int i = threadIdx.x; i < count && own == count; i += blockDim.x)
    if (s.sums[i] > target) own = i;
  int at = smallest(room, own);
  if (at < count) {
    double below = sub(target, at > 0 ? s.sums[at - 1] : 0.0), above = sub(s.sums[at], target);
    *margin = quotient(above < below ? above : below, total);
    return s.ids[at];
  }
  // The product was rounded up to the total: the last id that has any weight.
  own = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    if (s.weights[i] != 0.0f) own = i;
  *margin = 0.0;
  return s.ids[reduce(room, own, [](int a, int b) { return a > b ? a : b; })];
}

// Apply penalties, bans and biases; return whether a penalty overflowed float32.
__device__ bool rule_out(Room* room, const float* logits, int V, const Slots& slots, int slot, float* scaled) {
  float penalty = slots.penalty[slot], frequency = slots.frequency[slot], presence = slots.presence[slot];
  bool penalised = penalty != 1.0f || frequency != 0.0f || presence != 0.0f;
  const int* counts = slots.counts + (size_t)slot * V;
  const unsigned char* banned = slots.banned + (size_t)slot * V;
  int overflow = 0;
  for (int i = threadIdx.x; i < V; i += blockDim.x) {
    float value = logits[i];
    if (penalised && counts[i] > 0) {
      value = value > 0.0f ? quotient(value, penalty) : mul(value, penalty);
      value = sub(value, add(mul(frequency, __int2float_rn(counts[i])), presence));
      overflow |= !banned[i] && !(fabsf(value) < -minus_infinity());
    }
    scaled[i] = banned[i] ? minus_infinity() : value;
  }
  __syncthreads();
  if (threadIdx.x == 0)
    for (int i = 0; i < slots.biases[slot]; i++) {
      size_t at = (size_t)slot * MOST_BIASED + i;
      scaled[slots.bias_ids[at]] = add(scaled[slots.bias_ids[at]], slots.bias[at]);
    }
  __syncthreads();
  return count_true(room, overflow) > 0;
}

// Take the id of the largest value, the lowest among equals.
__device__ int likeliest(Room* room, const float* scaled, int V, float most, double* margin) {
  int own = V;
  for (int i = threadIdx.x; i < V && own == V; i += blockDim.x)
    if (scaled[i] == most) own = i;
  int best = smallest(room, own);
  float second = minus_infinity();
  for (int i = threadIdx.x; i < V; i += blockDim.x)
    if (i != best) second = larger(scaled[i], second);
  *margin = sub((double)most, (double)largest(room, second));
  return best;
}

// Keep the k largest values as candidates, in id order; return how many there are.
__device__ int candidates(Room* room, Scratch s, int V, long long k) {
  auto possible = [&](int i) { return s.scaled[i] > minus_infinity(); };
  auto key = [&](int i) { return ordered(s.scaled[i]); };
  int own = 0;
  for (int i = threadIdx.x; i < V; i += blockDim.x) own += possible(i);
  bool all = count_true(room, own) <= k;
  if (!all) select_rank(room, V, possible, key, 32, (int)k);
  int kept = 0, here;
  for (int first = 0; first < V; first += blockDim.x) {
    int i = first + threadIdx.x;
    bool flag = i < V && possible(i);
    if (flag && !all) {
      u64 mine = key(i);
      flag = mine > room->bound_key || (mine == room->bound_key && i <= room->bound);
    }
    int at = kept + rank_of(room, flag, &here);
    if (flag) s.ids[at] = i, s.weights[at] = exp_(s.scaled[i]);
    kept += here;
  }
  __syncthreads();
  return kept;
}

// Return the id drawn from one row, or a code; all threads receive it.
__device__ int sample_row(Room* room, const float* logits, int V, const Slots& slots, int slot, double uniform,
                          Scratch s, double* margin) {
  *margin = 0.0;
  if (rule_out(room, logits, V, slots, slot, s.scaled)) return OVERFLOW_;
  float own = minus_infinity();
  for (int i = threadIdx.x; i < V; i += blockDim.x) own = larger(s.scaled[i], own);
  float most = largest(room, own), temperature = slots.temperature[slot];
  if (most == minus_infinity()) return NOTHING_LEFT;
  if (temperature == 0.0f) return likeliest(room, s.scaled, V, most, margin);
  for (int i = threadIdx.x; i < V; i += blockDim.x) s.scaled[i] = quotient(sub(s.scaled[i], most), temperature);
  __syncthreads();
  long long k = slots.top_k[slot];
  int count = candidates(room, s, V, k == 0 || k > V ? V : k);
  double least = slots.min_p[slot], p = slots.typical_p[slot];
  if (least > 0.0) count = keep_candidates(room, s, count, [&](int i) { return (double)s.weights[i] >= least; });
  if (p > 0.0 && p < 1.0) count = typical(room, s, count, p);
  p = slots.top_p[slot];
  if (p > 0.0 && p < 1.0) count = nucleus(room, s, count, p);
  return draw(room, s, count, uniform, margin);
}

// Draw for all sequences: sequence n has slot `own[n]` and the wanted rows first[n] to first[n + 1] - 1, whose logits
// are rows of `logits` and whose tokens are ids[wanted[...]]. The results of step `steps[n]` of a call go to its part
// of `drawn`, `margins` and `sums` (steps, W). With `feed`, each sequence has one row, which receives the drawn token.
//
// sums: of the row of logits, as in `decoding/logits_hash.py`; for NON_FINITE the number and bits of a bad logit.
extern "C" __global__ void __launch_bounds__(512, 1)
sample(const float* logits, int row, int V, const u64* multipliers, const Slots* all_slots, const int* own,
              const int* first, const int* wanted, int* ids, int* positions, int* steps, int N, int W, int feed,
              float* scaled, float* weights, int* numbers, double* running, u64* keys, long long* drawn,
              double* margins, u64* sums) {
  __shared__ Room shared_room;
  Room* room = &shared_room;
  size_t space = (size_t)blockIdx.x * row;
  Scratch s = {scaled + space, weights + space, numbers + space, running + space, keys + space};
  Slots slots = *all_slots;
  for (int n = blockIdx.x; n < N; n += gridDim.x) {
    int slot = own[n], end = first[n + 1], step = steps[n];
    bool expected = true;
    for (int w = first[n]; w < end; w++) {
      const float* line = logits + (size_t)w * row;
      size_t at = (size_t)step * W + w;
      if (!expected) {
        if (threadIdx.x == 0) drawn[at] = UNDRAWN;
        continue;
      }
      u64 sum = 0;
      int bad = V;
      for (int i = threadIdx.x; i < V; i += blockDim.x) {
        sum += (u64)(unsigned)__float_as_int(line[i]) * multipliers[i];
        if (!(fabsf(line[i]) < -minus_infinity()) && i < bad) bad = i;
      }
      sum = reduce(room, sum, [](u64 a, u64 b) { return a + b; });
      bad = smallest(room, bad);
      bool random = slots.temperature[slot] > 0.0f;
      double margin = 0.0, uniform = random ? slots.uniforms[(size_t)slot * UNIFORMS + slots.used[slot]] : 0.0;
      int id = NON_FINITE;
      if (bad < V) sum = (u64)bad << 32 | (unsigned)__float_as_int(line[bad]);
      else id = sample_row(room, line, V, slots, slot, uniform, s, &margin);
      __syncthreads();
      if (threadIdx.x == 0) {
        drawn[at] = id, margins[at] = margin, sums[at] = sum;
        if (id >= 0) {
          if (random) slots.used[slot]++;
          slots.counts[(size_t)slot * V + id]++;
        }
        if (feed) ids[wanted[w]] = id < 0 ? 0 : id, positions[wanted[w]]++;
        room->drawn = w + 1 == end || (id >= 0 && ids[wanted[w] + 1] == id);
      }
      __syncthreads();
      expected = room->drawn;
    }
    if (threadIdx.x == 0) steps[n] = step + 1;
    __syncthreads();
  }
}

// Enough of CUDA to run the kernels' own files on a CPU: one fiber for each thread of a block, one block at a time.
//
// __syncthreads and warp operations switch fibers; a fiber that waits for others which have ended, or wait elsewhere,
// is an error. Arithmetic is that of <cmath> and plain operators: compile with -ffp-contract=off. Copies in the
// background happen as late as a GPU may make them, when their thread waits for them, or at once (`early`). Fibers run in
// ascending or descending order. So a missing barrier or wait shows as a difference.
#pragma once
#define HOST_SHIM
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __restrict__
#define DYNAMIC_SHARED(type, name) type* name = (type*)shim.dynamic

struct Dim { int x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
enum Wait { RUNNING, AT_BLOCK, AT_WARP, ENDED };
constexpr int MOST = 1024, STACK = (1 << 14) + 192;  // not a power of two: stacks share no sets of the cache
struct Fiber { jmp_buf at; char* stack; };
struct Copy { void* to; const void* from; int bytes; };
struct Copies {  // of one thread that are under way, in rings
  Copy of[256];
  unsigned ends[32], done, made, groups_done, groups;
};
static struct {
  Dim thread, block, threads, blocks;
  alignas(256) char dynamic[1 << 18];
  Fiber fibers[MOST];
  Wait wait[MOST];
  int queue[MOST], head, tail;  // fibers that can run
  jmp_buf scheduler;
  int current;
  uint64_t slots[2][MOST];  // what warp operations exchange, in two places by turns
  unsigned turn[MOST];
  Copies copies[MOST];
  void (*call)(void**);
  void** arguments;
  int descending, early, shared;
} shim;
#define threadIdx shim.thread
#define blockIdx shim.block
#define blockDim shim.threads
#define gridDim shim.blocks

static void shim_thread();
// Go on with the next fiber of the queue, or with the scheduler.
[[noreturn]] static void shim_next() {
  if (shim.head == shim.tail) _longjmp(shim.scheduler, 1);
  int i = shim.current = shim.queue[shim.head++];
  Fiber& next = shim.fibers[i];
  shim.thread = {i, 0, 0};
  shim.wait[i] = RUNNING;
  if (next.stack) _longjmp(next.at, 1);
  next.stack = (char*)malloc(STACK);
  ucontext_t first;
  getcontext(&first);
  first.uc_stack.ss_sp = next.stack, first.uc_stack.ss_size = STACK, first.uc_link = nullptr;
  makecontext(&first, shim_thread, 0);
  setcontext(&first);
  abort();
}
static void shim_wait(Wait wait) {
  shim.wait[shim.current] = wait;
  if (!_setjmp(shim.fibers[shim.current].at)) shim_next();
}
static void shim_thread() {
  for (;;) {
    shim.call(shim.arguments);
    shim_wait(ENDED);
  }
}
// Run the fibers from `first` to `last` - 1 if all of them wait there; return whether they did.
static bool shim_run_all(int first, int last, Wait from) {
  for (int i = first; i < last; i++)
    if (shim.wait[i] != from) return false;
  shim.head = shim.tail = 0;
  for (int i = first; i < last; i++) shim.queue[shim.tail++] = shim.descending ? last - 1 - (i - first) : i;
  if (!_setjmp(shim.scheduler)) shim_next();
  return true;
}
// Run one block to its end; return 0, or 1 if its threads wait for each other permanently.
static int shim_block() {
  int count = shim.threads.x;
  memset(shim.dynamic, 0xff, shim.shared);  // NaN, as nothing may rely on what is there
  memset(shim.turn, 0, sizeof shim.turn);
  std::fill_n(shim.wait, count, ENDED);
  for (int i = 0; i < count; i++) {
    Copies& copies = shim.copies[i];
    copies.done = copies.made = copies.groups_done = copies.groups = 0;
  }
  shim_run_all(0, count, ENDED);
  for (;;) {
    bool moved = false;
    for (int i = 0; i < count; i += 32)
      while (shim_run_all(i, std::min(i + 32, count), AT_WARP)) moved = true;
    moved |= shim_run_all(0, count, AT_BLOCK);
    if (moved) continue;
    return std::count(shim.wait, shim.wait + count, ENDED) != count;
  }
}
template <class... A, size_t... I>
void shim_apply(void (*kernel)(A...), void** a, std::index_sequence<I...>) { kernel(*(std::decay_t<A>*)a[I]...); }
template <class... A>
void shim_apply(void (*kernel)(A...), void** a) { shim_apply(kernel, a, std::index_sequence_for<A...>()); }
static int shim_launch(void (*call)(void**), void** arguments, int gx, int gy, int threads, int shared, int order) {
  shim.call = call, shim.arguments = arguments, shim.shared = shared;
  shim.descending = order & 1, shim.early = order >> 1;
  shim.blocks = {gx, gy, 1}, shim.threads = {threads, 1, 1};
  for (int y = 0; y < gy; y++)
    for (int x = 0; x < gx; x++) {
      shim.block = {x, y, 0};
      if (shim_block()) return 1;
    }
  return 0;
}

inline void __syncthreads() { shim_wait(AT_BLOCK); }
inline void __syncwarp() { shim_wait(AT_WARP); }
template <class T> T shim_exchange(T value, int lane) {
  int own = shim.current;
  uint64_t* slots = shim.slots[shim.turn[own]++ & 1];
  memcpy(&slots[own], &value, sizeof value);
  shim_wait(AT_WARP);
  memcpy(&value, &slots[(own & ~31) + lane], sizeof value);
  return value;
}
template <class T> T __shfl_sync(unsigned, T value, int lane) { return shim_exchange(value, lane & 31); }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) { return shim_exchange(value, (shim.current & 31) ^ mask); }
inline unsigned __ballot_sync(unsigned, bool vote) {
  int own = shim.current;
  uint64_t* slots = shim.slots[shim.turn[own]++ & 1] + (own & ~31);
  slots[own & 31] = vote;
  shim_wait(AT_WARP);
  unsigned votes = 0;
  for (int lane = 0; lane < 32 && (own & ~31) + lane < shim.threads.x; lane++) votes |= (unsigned)slots[lane] << lane;
  return votes;
}
template <class T> T atomicAdd(T* place, T value) { T old = *place; *place += value; return old; }
inline int __dp4a(int a, int b, int total) {
  for (int i = 0; i < 32; i += 8) total += (signed char)(a >> i) * (signed char)(b >> i);
  return total;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }

inline void shim_copy(const Copy& copy) { copy.bytes ? memcpy(copy.to, copy.from, 16) : memset(copy.to, 0, 16); }
inline void copy_async(void* to, const void* from, int bytes) {
  Copies& copies = shim.copies[shim.current];
  if (shim.early) return shim_copy({to, from, bytes});
  copies.of[copies.made++ % 256] = {to, from, bytes};
  if (copies.made - copies.done > 256) abort();
}
inline void commit_copies() {
  Copies& copies = shim.copies[shim.current];
  copies.ends[copies.groups++ % 32] = copies.made;
}
template <int LEFT> void wait_for_copies() {
  Copies& copies = shim.copies[shim.current];
  while (copies.groups - copies.groups_done > LEFT)
    for (unsigned end = copies.ends[copies.groups_done++ % 32]; copies.done != end;)
      shim_copy(copies.of[copies.done++ % 256]);
}

template <class To, class From> To shim_cast(From x) { To y; memcpy(&y, &x, sizeof y); return y; }
inline float __int_as_float(int x) { return shim_cast<float>(x); }
inline int __float_as_int(float x) { return shim_cast<int>(x); }
inline long long __double_as_longlong(double x) { return shim_cast<long long>(x); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __double2float_rn(double x) { return (float)x; }
#define SHIM_OPERATIONS(T, P)                       \
  inline T P##add_rn(T x, T y) { return x + y; }    \
  inline T P##sub_rn(T x, T y) { return x - y; }    \
  inline T P##mul_rn(T x, T y) { return x * y; }    \
  inline T P##div_rn(T x, T y) { return x / y; }
SHIM_OPERATIONS(float, __f)
SHIM_OPERATIONS(double, __d)
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
using std::max;
using std::min;

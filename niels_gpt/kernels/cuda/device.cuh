// The few things that CUDA C++ can only say in PTX, or in a way that no host compiler reads. The tests compile the
// other files with a C++ compiler, which defines HOST_SHIM and brings its own versions of these.
#pragma once

#ifndef HOST_SHIM
// Copy 16 bytes from global to shared memory in the background; write zeros if `bytes` is 0.
__device__ __forceinline__ void copy_async(void* to, const void* from, int bytes) {
  unsigned place = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(bytes));
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
// Wait until at most `LEFT` of the committed groups are under way.
template <int LEFT>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT));
}
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

#define KERNEL extern "C" __global__ void
#define KERNEL_OF(threads) extern "C" __global__ void __launch_bounds__(threads)

// LayerNorm and RMSNorm of a row, for `rows.cu` and for the heads in `attention.cu`.
#pragma once
#include "arithmetic.cuh"

// Norm a row of `count` floats, `to` may be `from`; one warp. `scale` and `shift` have an element each.
__device__ inline void norm_row(float* to, const float* from, const float* scale, const float* shift, int count,
                                int rms, float eps) {
  int lane = threadIdx.x & 15;
  float size = (float)count, mean = 0.0f, sum = 0.0f;
  if (!rms) {
    for (int i = lane; i < count; i += 16) sum = add(sum, from[i]);
    mean = quotient(fold_lanes(sum), size);
  }
  sum = 0.0f;
  for (int i = lane; i < count; i += 16) {
    float deviation = rms ? from[i] : sub(from[i], mean);
    sum = add(sum, mul(deviation, deviation));
  }
  float divisor = root(add(quotient(fold_lanes(sum), size), eps));
  __syncwarp();
  for (int i = threadIdx.x & 31; i < count; i += 32)
    to[i] = rms ? mul(quotient(from[i], divisor), scale[i])
                : fused(quotient(sub(from[i], mean), divisor), scale[i], shift[i]);
  __syncwarp();
}

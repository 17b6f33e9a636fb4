// Single operations and functions, each with one rounding in a named order: `kernels/math.py` on a GPU.
//
// Every operation names its rounding, so no compiler contracts, reorders or approximates it. The order is that of
// docs/spec/arithmetic.md. Do not replace a function here by CUDA's own (expf, erff, tanhf, rsqrtf): those differ.
#pragma once

__device__ __forceinline__ float add(float x, float y) { return __fadd_rn(x, y); }
__device__ __forceinline__ float sub(float x, float y) { return __fsub_rn(x, y); }
__device__ __forceinline__ float mul(float x, float y) { return __fmul_rn(x, y); }
__device__ __forceinline__ float quotient(float x, float y) { return __fdiv_rn(x, y); }
__device__ __forceinline__ float fused(float x, float y, float z) { return __fmaf_rn(x, y, z); }
__device__ __forceinline__ float root(float x) { return __fsqrt_rn(x); }

__device__ __forceinline__ double add(double x, double y) { return __dadd_rn(x, y); }
__device__ __forceinline__ double sub(double x, double y) { return __dsub_rn(x, y); }
__device__ __forceinline__ double mul(double x, double y) { return __dmul_rn(x, y); }
__device__ __forceinline__ double quotient(double x, double y) { return __ddiv_rn(x, y); }

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }
__device__ __forceinline__ float larger(float x, float y) { return y < x ? x : y; }
// x where it is above 0 or NaN, else 0
__device__ __forceinline__ float positive(float x) { return x <= 0.0f ? 0.0f : x; }

__device__ float exp_(float x) {
  const float lowest = (float)-87.33654, highest = (float)88.37626;
  float inside = highest < x ? highest : (x < lowest ? lowest : x);
  float shifted = fused(inside, (float)1.4426950408889634, 12582912.0f);
  float k = sub(shifted, 12582912.0f);
  float r = fused(k, (float)-1.42860677e-06, fused(k, (float)-0.693145751953125, inside));
  float p = (float)1.37805939e-3;
  p = fused(p, r, (float)8.37312452e-3);
  p = fused(p, r, (float)4.16695364e-2);
  p = fused(p, r, (float)1.66664720e-1);
  p = fused(p, r, (float)4.99999851e-1);
  p = fused(p, r, 1.0f);
  p = fused(p, r, 1.0f);
  // Unsigned, because a shift or a sum that overflows must wrap around.
  unsigned bits = (unsigned)__float_as_int(p) + ((unsigned)__float_as_int(shifted) << 23);
  float value = x < lowest ? 0.0f : __int_as_float((int)bits);
  return x != x ? x : value;
}

__device__ float erf_(float x) {
  float size = fabsf(x), square = mul(x, x);
  float n = (float)-5.96761703e-4;
  n = fused(n, square, (float)4.99119423e-3);
  n = fused(n, square, (float)-2.67681349e-2);
  n = fused(n, square, (float)1.12819925e-1);
  n = fused(n, square, (float)-3.76125336e-1);
  n = fused(n, square, (float)1.28379166e-1);
  float near = fused(n, x, x);
  float odd = fused((float)-1.72853470e-5, size, (float)3.83197126e-4);
  float even = fused((float)-3.88396438e-3, size, (float)2.42546219e-2);
  float e = fused(odd, square, even);
  e = fused(e, size, (float)-1.06777877e-1);
  e = fused(e, size, (float)-6.34846687e-1);
  e = fused(e, size, (float)-1.28717512e-1);
  e = fused(e, size, -size);
  float far = copysignf(sub(1.0f, exp_(e)), x);
  return (float)0.921875 < size ? far : near;
}

__device__ float tanh_(float x) {
  float size = fabsf(x), square = mul(x, x);
  float n = (float)-5.70498872745e-3;
  n = fused(n, square, (float)2.06390887954e-2);
  n = fused(n, square, (float)-5.37397155531e-2);
  n = fused(n, square, (float)1.33314422036e-1);
  n = fused(n, square, (float)-3.33332819422e-1);
  float near = fused(mul(n, square), x, x);
  float power = exp_(add(size, size));
  float far = copysignf(sub(1.0f, quotient(2.0f, add(power, 1.0f))), x);
  return 0.625f < size ? far : near;
}

__device__ __forceinline__ float gelu(float x) {
  float half = mul(x, 0.5f);
  return fused(half, erf_(mul(x, (float)0.7071067811865476)), half);
}

__device__ __forceinline__ float gelu_tanh(float x) {
  float half = mul(x, 0.5f);
  float inner = mul(fused(mul(mul(x, x), (float)0.044715), x, x), (float)0.7978845608028654);
  return fused(half, tanh_(inner), half);
}

__device__ __forceinline__ float silu(float x) { return quotient(x, add(1.0f, exp_(-x))); }

__device__ __forceinline__ float cap(float x, float most) { return mul(tanh_(quotient(x, most)), most); }

// Activations of `kernels/gpt.py`.
#define NO_ACTIVATION -1
#define GELU 0
#define GELU_TANH 1
#define SILU 2
#define RELU 3

__device__ __forceinline__ float activated(int which, float x) {
  if (which == GELU) return gelu(x);
  if (which == GELU_TANH) return gelu_tanh(x);
  if (which == SILU) return silu(x);
  float above = positive(x);
  return which == RELU ? above : mul(above, above);
}

// Fold sixteen lane sums by halves: lane i with lane i + 8, then + 4, + 2, + 1. Lanes 0 to 15 of the warp hold
// them; all 32 lanes call this and receive the sum.
__device__ __forceinline__ float fold_lanes(float lane_sum) {
  for (int half = 8; half > 0; half >>= 1) {
    float other = __shfl_sync(0xffffffffu, lane_sum, ((threadIdx.x & 15) + half) & 15);
    lane_sum = add(lane_sum, other);
  }
  return __shfl_sync(0xffffffffu, lane_sum, 0);
}

// Float16 and bfloat16 weights become float32 exactly.
__device__ __forceinline__ float widen_bf16(unsigned short word) { return __int_as_float((int)((unsigned)word << 16)); }

__device__ __forceinline__ float widen_f16(unsigned short word) {
  unsigned sign = (word & 0x8000u) << 16, size = (word & 0x7fffu) << 13;
  unsigned scaled = (unsigned)__float_as_int(mul(__int_as_float((int)size), 5.192296858534828e33f));  // 2**112
  return __int_as_float((int)(scaled | sign));
}

// What a launch of products computes, for `linear.cu` and `integer.cu`: up to three matrices that multiply the same
// rows, where each output's chain begins, and what becomes of the chain's end.
//
// A block of threads computes a tile of columns, counted in packed blocks of 16. Tiles run through the matrices in
// order. For a gated MLP, half of a tile is of the first matrix and half of the second, the gate, so that a thread and
// its neighbour hold both numbers of an activation.
#pragma once
#include "arithmetic.cuh"

#define LANES 16

// One matrix with its start values; `bias` is added to them before a chain begins.
struct Part {
  const char* w;
  const float* start;  // row stride 0 for the same row each time
  const float* bias;   // or null
  float* y;            // may be the start itself
  int start_row, y_row, N;
};

#define PART_ARGUMENTS(i)                                                                                   \
  const char *__restrict__ w##i, const float *start##i, int start_row##i, const float *bias##i, float *y##i, \
      int y_row##i, int N##i
#define PARTS_ARGUMENTS PART_ARGUMENTS(0), PART_ARGUMENTS(1), PART_ARGUMENTS(2), int gated, int act
#define PART(i) \
  { w##i, start##i, bias##i, y##i, start_row##i, y_row##i, N##i }
#define PARTS \
  { {PART(0), PART(1), PART(2)}, gated, act }

// `act` is the code of the activation of the results, or NO_ACTIVATION; with `gated`, part 1 is the gate of part 0.
struct Parts {
  Part part[3];
  int gated, act;
};

// Sixteen columns: a packed block of a matrix, and how many of the columns exist.
struct Columns {
  Part part;
  int block, left;
  __device__ __forceinline__ float begin(int m, int c) const {
    float value = part.start[(size_t)m * part.start_row + block * LANES + c];
    return part.bias ? add(value, part.bias[block * LANES + c]) : value;
  }
  __device__ __forceinline__ void store(int m, int c, float value) const {
    part.y[(size_t)m * part.y_row + block * LANES + c] = value;
  }
};

// Find the columns of place `slot` among the `many` of a tile. `unit` places belong to the same threads: with a gate, the
// second half of them is the gate of the first.
__device__ __forceinline__ Columns columns_at(const Parts& parts, int tile, int slot, int many, int unit) {
  Columns found;
  if (parts.gated) {
    int within = slot % unit, half = unit / 2;
    bool gate = within >= half;
    found.part = gate ? parts.part[1] : parts.part[0];
    found.block = (tile * (many / unit) + slot / unit) * half + (gate ? within - half : within);
  } else {
    int first = (parts.part[0].N + LANES - 1) / LANES, second = (parts.part[1].N + LANES - 1) / LANES;
    found.block = tile * many + slot;
    found.part = parts.part[0];
    if (found.block >= first) {
      found.block -= first;
      found.part = parts.part[1];
      if (found.block >= second) found.block -= second, found.part = parts.part[2];
    }
  }
  found.left = found.part.N - found.block * LANES;
  return found;
}

// Finish an output: `gate` is that of the same column, if the parts are gated.
__device__ __forceinline__ float finished(const Parts& parts, float value, float gate) {
  if (parts.act == NO_ACTIVATION) return value;
  return parts.gated ? mul(activated(parts.act, gate), value) : activated(parts.act, value);
}

/*
 * Kernels in which one block has one row of a tensor: every thread keeps 32 of its values in
 * registers, so the row is read once. Vector j of a thread is vector j·threads + thread of the row,
 * so neighbouring threads read neighbouring memory.
 */
#pragma once

#include "launch.h"
#include "reduce.h"
#include "vectors.h"

namespace fluxd::cuda {

constexpr int kRowValues = 32;
constexpr unsigned kMaxRowThreads = 512;
constexpr int64_t kMaxRowWidth = int64_t{kMaxRowThreads} * kRowValues;

/** Whole warps for `width` values. */
constexpr unsigned rowThreads(int64_t width) {
  return static_cast<unsigned>(ceilDiv<int64_t>(ceilDiv<int64_t>(width, kRowValues), 32) * 32);
}

inline void expectRowWidth(int64_t width, const char *op) {
  if (width < 1 || width > kMaxRowWidth) {
    throw Failure(format("Expected rows of 1 to %lld values for %s but they have %lld",
                         static_cast<long long>(kMaxRowWidth), op, static_cast<long long>(width)));
  }
}

/** The values of one row that one thread keeps; those beyond the row's end are 0. */
template <int V>
struct RowSlice {
  static constexpr int kVectors = kRowValues / V;
  float values[kVectors][V];

  /** Calls body(values, first) for each vector inside the row; `first` is its column. */
  template <typename Body>
  __device__ void forEach(int width, Body body) {
#pragma unroll
    for (int j = 0; j < kVectors; j++) {
      const int first = (j * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * V;
      if (first < width) body(values[j], first);
    }
  }

  /** `at(first)` is the address of a column. */
  template <typename Address>
  __device__ void read(int width, Address at) {
#pragma unroll
    for (int j = 0; j < kVectors; j++) {
#pragma unroll
      for (int i = 0; i < V; i++) values[j][i] = 0;
    }
    forEach(width, [&](float(&vector)[V], int first) { load(at(first), vector); });
  }

  /** The largest magnitude of the row. */
  __device__ float amax() {
    float largest = 0;
#pragma unroll
    for (int j = 0; j < kVectors; j++) {
#pragma unroll
      for (int i = 0; i < V; i++) largest = fmaxf(largest, fabsf(values[j][i]));
    }
    return reduceBlock(largest, Max());
  }

  /** Writes the row as e4m3 and its scale. */
  __device__ void quantize(e4m3 *row, float *scale, int width) {
    const float divisor = rowScale(amax());
    if (threadIdx.x == 0) *scale = divisor;
    forEach(width, [&](float(&vector)[V], int first) {
      storeScaled(row + first, vector, divisor);
    });
  }
};

}  // namespace fluxd::cuda

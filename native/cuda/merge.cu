/*
 * Low-rank changes merged into a weight: base + (up ⊙ rank_scale)·down; formula and shapes:
 * fluxd_merge in kernels.h.
 *
 * Bound by memory at the ranks LoRAs have: base is read and merged written once (for e4m3: base is
 * read twice, because a row's scale must be known before its first value can be stored), and the
 * product is made on the way in float32 by fused multiply-adds. Tensor cores would halve no time
 * at rank 16 and cost the exactness: every element is base + Σ up·down with k ascending, whatever
 * the grid, so a merge is a function of its operands alone and repeats bit for bit.
 *
 * A block has a tile of 64 rows × 128 columns, a thread 4 rows × 8 columns of it. The factors pass
 * through shared memory in chunks of 16 ranks.
 */
#include "launch.h"
#include "operators.h"
#include "reduce.h"
#include "vectors.h"

namespace fluxd::cuda {

namespace {

constexpr int kTileRows = 64, kTileColumns = 128, kChunk = 16;
constexpr int kThreadRows = 4, kThreadColumns = 8;
constexpr int kLanesAcross = kTileColumns / kThreadColumns;
constexpr int kThreads = kLanesAcross * (kTileRows / kThreadRows);
// How many rows of `up` and ranks of `down` all threads load at a time.
constexpr int kUpStep = kThreads / kChunk, kDownStep = kThreads / kTileColumns;

// 65535 tiles of rows are all that a grid has on that axis.
constexpr int64_t kMaxLength = int64_t{65535} * kTileRows;

/** What a launch does with the merged values. */
enum class Pass {
  kStore,    // in the dtype of base
  kAmax,     // only the largest magnitude of each row, as the bits of a float32
  kQuantize  // as e4m3, by the scale of each row
};

struct MergeOperands {
  const void *base;
  const float *up, *down, *rankScale;
  void *merged;
  float *scale;
  int out, in, rank;
};

// Read as vectors of four.
struct alignas(16) Factors {
  // Four more than the tile: threads that store neighbouring ranks must not meet in one bank.
  float up[kChunk][kTileRows + 4];
  float down[kChunk][kTileColumns];
};

/** Ranks [first, first + kChunk) of a tile's factors; 0 beyond any end. */
__device__ inline void loadFactors(Factors &factors, const MergeOperands &op, int row, int column,
                                   int first) {
  const int thread = static_cast<int>(threadIdx.x);
  // Neighbouring threads read neighbouring ranks of `up` and columns of `down`.
  const int k = first + thread % kChunk;
  const float scale = op.rankScale && k < op.rank ? op.rankScale[k] : 1;
#pragma unroll
  for (int i = 0; i < kTileRows; i += kUpStep) {
    const int r = row + thread / kChunk + i;
    const bool inside = k < op.rank && r < op.out;
    factors.up[thread % kChunk][thread / kChunk + i] =
        inside ? op.up[int64_t{r} * op.rank + k] * scale : 0;
  }
  const int c = column + thread % kTileColumns;
#pragma unroll
  for (int i = 0; i < kChunk; i += kDownStep) {
    const int k = thread / kTileColumns + i;
    const bool inside = first + k < op.rank && c < op.in;
    factors.down[k][thread % kTileColumns] =
        inside ? op.down[int64_t{first + k} * op.in + c] : 0;
  }
}

__device__ inline void addProduct(const Factors &factors,
                                  float (&sum)[kThreadRows][kThreadColumns], int row, int column) {
#pragma unroll 4
  for (int k = 0; k < kChunk; k++) {
    float up[kThreadRows], down[kThreadColumns];
    load(&factors.up[k][row], up);
    load(&factors.down[k][column], down);
#pragma unroll
    for (int r = 0; r < kThreadRows; r++) {
#pragma unroll
      for (int c = 0; c < kThreadColumns; c++) sum[r][c] = fmaf(up[r], down[c], sum[r][c]);
    }
  }
}

/** A thread's columns of one row of base, as stored: they wait while the product is made. */
template <typename T>
struct BaseRow;

template <>
struct BaseRow<bf16> {
  uint32_t pairs[kThreadColumns / 2];

  template <bool Wide>
  __device__ void read(const bf16 *from, int columns) {
    if constexpr (Wide) {
      const uint4 packed = *reinterpret_cast<const uint4 *>(from);
      pairs[0] = packed.x, pairs[1] = packed.y, pairs[2] = packed.z, pairs[3] = packed.w;
    } else {
#pragma unroll
      for (int i = 0; i < kThreadColumns / 2; i++) {
        const uint32_t first = 2 * i < columns ? from[2 * i].bits : 0;
        const uint32_t second = 2 * i + 1 < columns ? from[2 * i + 1].bits : 0;
        pairs[i] = first | second << 16;
      }
    }
  }

  __device__ void addTo(float (&sum)[kThreadColumns]) const {
#pragma unroll
    for (int i = 0; i < kThreadColumns / 2; i++) {
      sum[2 * i] += bitCast<float>(pairs[i] << 16);
      sum[2 * i + 1] += bitCast<float>(pairs[i] & 0xffff0000);
    }
  }
};

template <>
struct BaseRow<float> {
  float values[kThreadColumns];

  template <bool Wide>
  __device__ void read(const float *from, int columns) {
    if constexpr (Wide) {
      load(from, values);
    } else {
#pragma unroll
      for (int c = 0; c < kThreadColumns; c++) values[c] = c < columns ? from[c] : 0;
    }
  }

  __device__ void addTo(float (&sum)[kThreadColumns]) const {
#pragma unroll
    for (int c = 0; c < kThreadColumns; c++) sum[c] += values[c];
  }
};

template <bool Wide, typename Out>
__device__ inline void storeRow(Out *to, const float (&values)[kThreadColumns], float scale,
                                int columns) {
  if constexpr (Wide) {
    if constexpr (sizeof(Out) == sizeof(e4m3)) {
      storeScaled(to, values, scale);
    } else {
      store(to, values);
    }
  } else {
    for (int c = 0; c < kThreadColumns && c < columns; c++) {
      const float one[1] = {values[c]};
      if constexpr (sizeof(Out) == sizeof(e4m3)) {
        storeScaled(to + c, one, scale);
      } else {
        store(to + c, one);
      }
    }
  }
}

/** Raises the row's amax to the largest of the tile's. Positive floats order like their bits. */
__device__ inline void raiseAmax(float *amax, const float (&values)[kThreadColumns], int lane,
                                 bool inside) {
  float largest = 0;
#pragma unroll
  for (int c = 0; c < kThreadColumns; c++) largest = fmaxf(largest, fabsf(values[c]));
  largest = reduceLanes<kLanesAcross>(largest, Max());
  if (inside && lane == 0) {
    atomicMax(reinterpret_cast<unsigned *>(amax), bitCast<unsigned>(largest));
  }
}

template <typename T, Pass Kind, bool Wide>
__global__ void __launch_bounds__(kThreads, 2) mergeKernel(MergeOperands op) {
  __shared__ Factors factors;
  const int lane = static_cast<int>(threadIdx.x) % kLanesAcross;
  const int threadRow = static_cast<int>(threadIdx.x) / kLanesAcross * kThreadRows;
  const int tileRow = static_cast<int>(blockIdx.y) * kTileRows;
  const int tileColumn = static_cast<int>(blockIdx.x) * kTileColumns;
  const int column = tileColumn + lane * kThreadColumns;
  const int columns = op.in - column;  // how many of the thread's columns exist, or more

  const T *const weight = static_cast<const T *>(op.base);
  BaseRow<T> base[kThreadRows] = {};
#pragma unroll
  for (int r = 0; r < kThreadRows; r++) {
    const int row = tileRow + threadRow + r;
    if (row < op.out && columns > 0) {
      base[r].template read<Wide>(weight + int64_t{row} * op.in + column, columns);
    }
  }

  float sum[kThreadRows][kThreadColumns] = {};
  for (int first = 0; first < op.rank; first += kChunk) {
    __syncthreads();  // the chunk before has been read
    loadFactors(factors, op, tileRow, tileColumn, first);
    __syncthreads();
    addProduct(factors, sum, threadRow, lane * kThreadColumns);
  }

#pragma unroll
  for (int r = 0; r < kThreadRows; r++) {
    const int row = tileRow + threadRow + r;
    base[r].addTo(sum[r]);
    if constexpr (Kind == Pass::kAmax) {
      raiseAmax(op.scale + row, sum[r], lane, row < op.out);
    } else if (row < op.out && columns > 0) {
      const int64_t at = int64_t{row} * op.in + column;
      if constexpr (Kind == Pass::kStore) {
        storeRow<Wide>(static_cast<T *>(op.merged) + at, sum[r], 1, columns);
      } else {
        storeRow<Wide>(static_cast<e4m3 *>(op.merged) + at, sum[r], op.scale[row], columns);
      }
    }
  }
}

/** amax → scale, in place. */
__global__ void __launch_bounds__(kThreads) finishScales(float *scale, int count) {
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i < count) scale[i] = rowScale(scale[i]);
}

template <typename T, Pass Kind>
void launchPass(const MergeOperands &op, cudaStream_t stream) {
  const auto kernel = op.in % 8 == 0 ? mergeKernel<T, Kind, true> : mergeKernel<T, Kind, false>;
  launch(kernel,
         {ceilDiv(op.in, kTileColumns), ceilDiv(op.out, kTileRows), kThreads},
         stream, op);
}

template <typename T>
void mergeInto(const MergeOperands &op, bool quantized, cudaStream_t stream) {
  if (!quantized) return launchPass<T, Pass::kStore>(op, stream);
  const size_t scaleBytes = static_cast<size_t>(op.out) * sizeof(float);
  FLUXD_CHECK(cudaMemsetAsync(op.scale, 0, scaleBytes, stream));
  launchPass<T, Pass::kAmax>(op, stream);
  launch(finishScales, {ceilDiv(op.out, kThreads), 1, kThreads}, stream, op.scale, op.out);
  launchPass<T, Pass::kQuantize>(op, stream);
}

}  // namespace

void merge(const fluxd_merge &op, cudaStream_t stream) {
  expect(op.dtype == FLUXD_BF16 || op.dtype == FLUXD_F32,
         "Expected a bf16 or float32 weight to merge into");
  const bool quantized = op.merged_dtype == FLUXD_E4M3;
  expect(quantized || op.merged_dtype == op.dtype,
         "Expected a merged weight in the dtype of its base or as e4m3");
  expect(!quantized || op.merged != op.base, "Expected e4m3 to be merged into memory of its own");
  expect(op.out >= 0 && op.in >= 0 && op.rank >= 0 && op.out <= kMaxLength &&
             op.in <= kMaxLength && op.rank <= kMaxLength,
         "Expected a weight of at most 4 Mi rows, columns and ranks to merge into");
  if (op.out == 0 || op.in == 0) return;
  const MergeOperands operands = {op.base,
                                  op.up,
                                  op.down,
                                  op.rank_scale,
                                  op.merged,
                                  op.merged_scale,
                                  static_cast<int>(op.out),
                                  static_cast<int>(op.in),
                                  static_cast<int>(op.rank)};
  if (op.dtype == FLUXD_F32) return mergeInto<float>(operands, quantized, stream);
  mergeInto<bf16>(operands, quantized, stream);
}

}  // namespace fluxd::cuda

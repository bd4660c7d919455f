/*
 * A thread has 8 columns of `kRows` rows, so bias, gate and column scales are read once for all of
 * them. Bound by memory: 6 bytes per element with a residual, 4 without.
 */
#include "epilogue.h"
#include "launch.h"
#include "vectors.h"

namespace fluxd::cuda {

namespace {

constexpr unsigned kThreads = 128;
constexpr int kRows = 8;

/** 8 values, or `otherwise` where the tensor is absent. */
template <typename T>
__device__ inline void loadOr(const T *from, int64_t at, float otherwise, float (&to)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++) to[i] = otherwise;
  if (from) load(from + at, to);
}

__global__ void __launch_bounds__(kThreads) finishKernel(Epilogue op) {
  const int column = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * 8;
  if (column >= op.columns) return;
  float scale[8], bias[8], gate[8];
  loadOr(op.columnScale, column, 1, scale);
  loadOr(op.bias, column, 0, bias);
  loadOr(op.gate, column, 1, gate);

  const int64_t firstRow = int64_t{blockIdx.x} * kRows;
#pragma unroll 4
  for (int64_t row = firstRow; row < firstRow + kRows; row++) {
    if (row >= op.rows) return;
    const int64_t at = row * op.stride + column;
    float t[8], residual[8];
    load(op.product + at, t);
    loadOr(op.residual, row * op.columns + column, 0, residual);
    const float rowScale = op.rowScale ? op.rowScale[row] : 1.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      t[i] = t[i] * (rowScale * scale[i]) + bias[i];
      if (op.gelu) t[i] = geluTanh(t[i]);
      t[i] = residual[i] + gate[i] * t[i];
    }
    store(op.y + at, t);
  }
}

}  // namespace

void finish(const Epilogue &epilogue, cudaStream_t stream) {
  if (epilogue.rows == 0) return;
  Epilogue op = epilogue;
  if (!op.product) op.product = op.y;
  launch(finishKernel,
         {ceilDiv<int64_t>(op.rows, kRows), ceilDiv<int64_t>(op.columns, 8 * kThreads), kThreads},
         stream, op);
}

}  // namespace fluxd::cuda

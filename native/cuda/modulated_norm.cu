/*
 * LayerNorm without affine and modulation, bf16 → bf16 or e4m3; formula and shapes:
 * fluxd_modulated_norm in kernels.h. The variance is that of the centred values, not a difference
 * of means, which would lose the digits of rows far from 0.
 */
#include "operators.h"
#include "rows.h"

namespace fluxd::cuda {

namespace {

struct NormOperands {
  const bf16 *x;
  const float *scale, *shift;
  void *y;
  float *yScale;
  float epsilon;
  int width;
};

template <int V>
__device__ inline void normalize(RowSlice<V> &slice, const NormOperands &op) {
  const int width = op.width;
  float sum = 0;
  slice.forEach(width, [&](float(&vector)[V], int) {
    for (int i = 0; i < V; i++) sum += vector[i];
  });
  const float mean = reduceBlock(sum, Sum()) / static_cast<float>(width);
  float squares = 0;
  slice.forEach(width, [&](float(&vector)[V], int) {
    for (int i = 0; i < V; i++) {
      vector[i] -= mean;
      squares += vector[i] * vector[i];
    }
  });
  const float variance = reduceBlock(squares, Sum()) / static_cast<float>(width);
  const float inverse = 1.0f / sqrtf(variance + op.epsilon);
  slice.forEach(width, [&](float(&vector)[V], int first) {
    float scale[V], shift[V];
    load(op.scale + first, scale);
    load(op.shift + first, shift);
    for (int i = 0; i < V; i++) vector[i] = vector[i] * inverse * scale[i] + shift[i];
  });
}

template <int V, typename Out>
__global__ void __launch_bounds__(kMaxRowThreads) modulatedNormKernel(NormOperands op) {
  const int64_t row = blockIdx.x;
  RowSlice<V> slice;
  slice.read(op.width, [&](int first) { return op.x + row * op.width + first; });
  normalize(slice, op);
  Out *y = static_cast<Out *>(op.y) + row * op.width;
  if constexpr (sizeof(Out) == sizeof(e4m3)) {
    slice.quantize(y, op.yScale + row, op.width);
  } else {
    slice.forEach(op.width, [&](float(&vector)[V], int first) { store(y + first, vector); });
  }
}

}  // namespace

void modulatedNorm(const fluxd_modulated_norm &op, cudaStream_t stream) {
  expectBf16(op.dtype, "ModulatedNorm");
  expectRowWidth(op.width, "ModulatedNorm");
  const bool quantized = op.y_dtype == FLUXD_E4M3;
  expect(quantized || op.y_dtype == FLUXD_BF16, "Expected y of ModulatedNorm as bf16 or e4m3");
  if (op.rows == 0) return;
  const bool wide = op.width % 8 == 0;
  const auto kernel = quantized
                          ? (wide ? modulatedNormKernel<8, e4m3> : modulatedNormKernel<1, e4m3>)
                          : (wide ? modulatedNormKernel<8, bf16> : modulatedNormKernel<1, bf16>);
  launch(kernel, {op.rows, 1, rowThreads(op.width)}, stream,
         NormOperands{static_cast<const bf16 *>(op.x), op.scale, op.shift, op.y, op.y_scale,
                      op.epsilon, static_cast<int>(op.width)});
}

}  // namespace fluxd::cuda

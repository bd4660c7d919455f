/*
 * Rows of bf16 or float32 → e4m3 with one scale per row; formula and shapes: fluxd_quantize_rows in
 * kernels.h. Float32 is for weights that no bf16 holds exactly. Every value is read once.
 */
#include "operators.h"
#include "rows.h"

namespace fluxd::cuda {

namespace {

template <typename T, int V>
__global__ void __launch_bounds__(kMaxRowThreads)
    quantizeRowsKernel(const T *x, e4m3 *y, float *scale, int width) {
  const int64_t row = blockIdx.x;
  RowSlice<V> slice;
  slice.read(x + row * width, width);
  slice.quantize(y + row * width, scale + row, width);
}

template <typename T>
void quantizeRowsOf(const fluxd_quantize_rows &op, cudaStream_t stream) {
  const auto kernel = op.width % 8 == 0 ? quantizeRowsKernel<T, 8> : quantizeRowsKernel<T, 1>;
  launch(kernel, {op.rows, 1, rowThreads(op.width)}, stream, static_cast<const T *>(op.x),
         static_cast<e4m3 *>(op.y), op.scale, static_cast<int>(op.width));
}

}  // namespace

void quantizeRows(const fluxd_quantize_rows &op, cudaStream_t stream) {
  expectRowWidth(op.width, "QuantizeRows");
  if (op.rows == 0) return;
  if (op.dtype == FLUXD_F32) return quantizeRowsOf<float>(op, stream);
  expectBf16(op.dtype, "QuantizeRows");
  quantizeRowsOf<bf16>(op, stream);
}

}  // namespace fluxd::cuda

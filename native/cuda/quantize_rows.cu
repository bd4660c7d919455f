/*
 * Rows of bf16 or float32 → e4m3 with one scale per row; formula and shapes: fluxd_quantize_rows in
 * kernels.h. Float32 is for weights that no bf16 holds exactly. Every value is read once, also
 * where two tensors side by side make a row: they need not be joined before.
 */
#include "operators.h"
#include "rows.h"

namespace fluxd::cuda {

namespace {

/** Rows of x and of `right`, side by side; right may be absent and its width 0. */
template <typename T>
struct Rows {
  const T *x, *right;
  int width, rightWidth;

  __host__ __device__ int columns() const { return width + rightWidth; }

  /** Column `first` of a row; a vector there must not go beyond the end of x. */
  __device__ const T *at(int64_t row, int first) const {
    return first < width ? x + row * width + first : right + row * rightWidth + (first - width);
  }
};

template <typename T, int V>
__global__ void __launch_bounds__(kMaxRowThreads)
    quantizeRowsKernel(Rows<T> rows, e4m3 *y, float *scale) {
  const int64_t row = blockIdx.x;
  RowSlice<V> slice;
  slice.read(rows.columns(), [&](int first) { return rows.at(row, first); });
  slice.quantize(y + row * rows.columns(), scale + row, rows.columns());
}

template <typename T>
void quantizeRowsOf(const fluxd_quantize_rows &op, cudaStream_t stream) {
  const Rows<T> rows = {static_cast<const T *>(op.x), static_cast<const T *>(op.right),
                        static_cast<int>(op.width), static_cast<int>(op.right_width)};
  const bool wide = op.width % 8 == 0 && op.right_width % 8 == 0;
  const auto kernel = wide ? quantizeRowsKernel<T, 8> : quantizeRowsKernel<T, 1>;
  launch(kernel, {op.rows, 1, rowThreads(rows.columns())}, stream, rows,
         static_cast<e4m3 *>(op.y), op.scale);
}

}  // namespace

void quantizeRows(const fluxd_quantize_rows &op, cudaStream_t stream) {
  expectRowWidth(op.width + op.right_width, "QuantizeRows");
  if (op.rows == 0) return;
  if (op.dtype == FLUXD_F32) return quantizeRowsOf<float>(op, stream);
  expectBf16(op.dtype, "QuantizeRows");
  quantizeRowsOf<bf16>(op, stream);
}

}  // namespace fluxd::cuda

// The CPU twins of Linear and Fp8Linear; their formulas stand in fluxd/kernels.h.
#include "matmul.h"

namespace fluxd {

// √(2/π)
constexpr float gelu0 = 0.7978845608028654f, gelu1 = 0.044715f;

static float geluTanh(float t) {
  return 0.5f * t * (1.0f + std::tanh(gelu0 * (t + gelu1 * t * t * t)));
}

template <typename Op>
static void checkLinear(const Op &op) {
  expect(op.rows >= 0 && op.in > 0 && op.out > 0, "rows, in and out to be lengths");
  expect(op.epilogue >= FLUXD_EPILOGUE_NONE && op.epilogue <= FLUXD_EPILOGUE_GATED,
         "a known epilogue but got " + std::to_string(op.epilogue));
  expect(op.epilogue != FLUXD_EPILOGUE_GATED || (op.gate && op.residual),
         "gate and residual for a gated epilogue");
}

// Where a layer's columns lie in y.
struct Columns {
  int64_t stride, first;
};

// Bias and epilogue of one value.
template <typename T, typename Op>
static T finish(const Op &op, int64_t row, int64_t out, float sum) {
  const int64_t place = row * op.out + out;
  if (op.bias) sum += toFloat(static_cast<const T *>(op.bias)[out]);
  if (op.epilogue == FLUXD_EPILOGUE_GELU) return fromFloat<T>(geluTanh(sum));
  if (op.epilogue == FLUXD_EPILOGUE_NONE) return fromFloat<T>(sum);
  return fromFloat<T>(toFloat(static_cast<const T *>(op.residual)[place]) + op.gate[out] * sum);
}

// Both layers: multiply(tile, sums) is followed by weigh(row, out), bias and epilogue.
template <typename T, typename Op, typename Multiply, typename Weigh>
static void runLinear(const Op &op, Columns columns, fluxd_queue queue, Multiply multiply,
                      Weigh weigh) {
  forEachTile(queue, op.rows, op.out, [&](const Tile &tile) {
    alignas(64) thread_local TileSums sums;
    multiply(tile, sums);
    for (int r = 0; r < tile.rows; r++)
      for (int o = 0; o < tile.outs; o++) {
        const int64_t row = tile.row + r, out = tile.out + o;
        static_cast<T *>(op.y)[row * columns.stride + columns.first + out] =
            finish<T>(op, row, out, sums[r][o] * weigh(row, out));
      }
  });
}

template <typename T>
static void copyLeft(const fluxd_linear &op, Columns columns) {
  auto left = static_cast<const T *>(op.left);
  for (int64_t r = 0; r < op.rows; r++)
    std::copy_n(left + r * op.left_width, op.left_width,
                static_cast<T *>(op.y) + r * columns.stride);
}

int linearCpu(const fluxd_linear *op, fluxd_queue queue) {
  return guarded("linear", [&] {
    checkLinear(*op);
    expect(op->left_width >= 0 && (op->left != nullptr) == (op->left_width > 0),
           "left_width to be that of left");
    expect(!op->left || op->epilogue != FLUXD_EPILOGUE_GATED, "no left with a gated layer");
    const Columns columns = {op->left_width + op->out, op->left_width};
    withActivation(op->dtype, [&](auto zero) {
      using T = decltype(zero);
      auto multiply = [&](const Tile &tile, TileSums &sums) {
        multiplyTile(static_cast<const T *>(op->x), static_cast<const T *>(op->weight), op->in,
                     tile, sums);
      };
      copyLeft<T>(*op, columns);
      runLinear<T>(*op, columns, queue, multiply, [](int64_t, int64_t) { return 1.0f; });
    });
  });
}

int fp8LinearCpu(const fluxd_fp8_linear *op, fluxd_queue queue) {
  return guarded("fp8_linear", [&] {
    checkLinear(*op);
    auto multiply = [&](const Tile &tile, TileSums &sums) {
      multiplyTile(static_cast<const E4m3 *>(op->x), static_cast<const E4m3 *>(op->weight),
                   op->in, tile, sums);
    };
    auto weigh = [&](int64_t row, int64_t out) { return op->x_scale[row] * op->weight_scale[out]; };
    withActivation(op->dtype, [&](auto zero) {
      runLinear<decltype(zero)>(*op, {op->out, 0}, queue, multiply, weigh);
    });
  });
}

}  // namespace fluxd

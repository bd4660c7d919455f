#include "linear.h"
#include "epilogue.h"
#include "operators.h"
#include "scratch.h"

#include <algorithm>
#include <vector>

namespace fluxd::cuda {

namespace {

/**
 * What may be asked of cuBLASLt, the most first: all in one; gelu left over; scales, bias and gelu
 * left over. It scales by rows on Hopper only (13.1), and there it refuses some products of few
 * long rows, at times only when one is to be run: 256 and less of 9216 values (pytorch/ao#4582).
 * Flux has 256 rows of 12288 in the text stream of schnell.
 */
std::vector<MatmulShape> waysOf(const LinearOperands &op, const MatmulOperands &m) {
  MatmulShape shape = {op.rows, op.in,  op.out, op.fp8,
                       op.fp8,  m.bias != nullptr, op.gelu,
                       commonAlignment({m.x, m.weight, m.y}), op.stride};
  std::vector<MatmulShape> ways = {shape};
  if (shape.gelu) {
    shape.gelu = false;
    ways.push_back(shape);
  }
  if (shape.outerScales) {
    shape.outerScales = shape.bias = false;
    ways.push_back(shape);
  }
  return ways;
}

/** Computes what `way` left out of the layer; `product` holds the result of its product. */
void finishWay(const MatmulShape &way, const LinearOperands &op, const bf16 *product,
               cudaStream_t stream) {
  Epilogue rest = {};
  rest.rows = op.rows;
  rest.columns = op.out;
  rest.stride = op.stride;
  rest.product = product;
  rest.gelu = op.gelu && !way.gelu;
  rest.gate = op.gate;
  rest.residual = op.residual;
  rest.y = op.matmul.y;
  if (!way.bias) rest.bias = op.matmul.bias;
  if (!way.outerScales) {
    rest.rowScale = op.matmul.xScale;
    rest.columnScale = op.matmul.weightScale;
  }
  if (rest.gelu || rest.gate || rest.bias || rest.rowScale) finish(rest, stream);
}

/** The layer, by the first way that cuBLASLt takes, with its product at `product`. */
void runFirstWay(const LinearOperands &op, bf16 *product, cudaStream_t stream) {
  MatmulOperands matmul = op.matmul;
  matmul.y = product;
  for (const MatmulShape &way : waysOf(op, matmul)) {
    if (multiply(way, matmul, stream)) return finishWay(way, op, product, stream);
  }
  throw Failure(format("Expected cuBLASLt to have an algorithm for %s products of %lld × %lld × "
                       "%lld but this device has none",
                       op.fp8 ? "e4m3" : "bf16", static_cast<long long>(op.rows),
                       static_cast<long long>(op.in), static_cast<long long>(op.out)));
}

void copyLeft(const fluxd_linear &op, cudaStream_t stream) {
  const size_t width = static_cast<size_t>(op.left_width) * sizeof(bf16);
  const size_t stride = static_cast<size_t>(op.left_width + op.out) * sizeof(bf16);
  FLUXD_CHECK(cudaMemcpy2DAsync(op.y, stride, op.left, width, width, static_cast<size_t>(op.rows),
                                cudaMemcpyDeviceToDevice, stream));
}

/** Rows [first, first + count) of `op`. */
LinearOperands rowsOf(LinearOperands op, int64_t first, int64_t count) {
  op.rows = count;
  op.matmul.x = static_cast<const char *>(op.matmul.x) + first * op.in * (op.fp8 ? 1 : 2);
  if (op.matmul.xScale) op.matmul.xScale += first;
  op.matmul.y += first * op.out;
  if (op.residual) op.residual += first * op.out;
  return op;
}

}  // namespace

void runLinear(const LinearOperands &op, cudaStream_t stream) {
  if (op.rows == 0) return;
  if (op.residual != op.matmul.y) return runFirstWay(op, op.matmul.y, stream);
  // The product must not overwrite the residual, so it takes a detour, as many rows as fit.
  bf16 *product = static_cast<bf16 *>(scratchOf(stream).product);
  // Parts begin at a multiple of 128 rows, so their scales are aligned as those of the whole.
  constexpr int64_t granularity = 128;
  const int64_t fitting =
      static_cast<int64_t>(kProductBytes / sizeof(bf16)) / op.out / granularity * granularity;
  expect(fitting > 0, "Expected a linear layer of at most 131072 outputs to be gated in place");
  for (int64_t first = 0; first < op.rows; first += fitting) {
    runFirstWay(rowsOf(op, first, std::min(fitting, op.rows - first)), product, stream);
  }
}

void linear(const fluxd_linear &op, cudaStream_t stream) {
  expectBf16(op.dtype, "Linear");
  expect(op.in > 0 && op.out > 0 && op.in % 8 == 0 && op.out % 8 == 0 && op.left_width % 8 == 0,
         "Expected in, out and left_width of Linear as multiples of 8 on CUDA");
  const bool gated = op.epilogue == FLUXD_EPILOGUE_GATED;
  expect(!gated || !op.left, "Expected no left with a gated Linear");
  if (op.left) copyLeft(op, stream);
  runLinear({op.rows, op.in, op.out, false, op.epilogue == FLUXD_EPILOGUE_GELU,
             {op.x, op.weight, static_cast<const bf16 *>(op.bias), nullptr, nullptr,
              static_cast<bf16 *>(op.y) + op.left_width},
             op.left_width + op.out,
             gated ? op.gate : nullptr,
             gated ? static_cast<const bf16 *>(op.residual) : nullptr},
            stream);
}

}  // namespace fluxd::cuda

/* Linear layer over e4m3 operands with one scale per row: fluxd_fp8_linear in kernels.h. */
#include "linear.h"
#include "operators.h"

namespace fluxd::cuda {

void fp8Linear(const fluxd_fp8_linear &op, cudaStream_t stream) {
  expectBf16(op.dtype, "Fp8Linear");
  expect(op.in > 0 && op.out > 0 && op.in % 16 == 0 && op.out % 16 == 0,
         "Expected in and out of Fp8Linear as multiples of 16 on CUDA");
  const bool gated = op.epilogue == FLUXD_EPILOGUE_GATED;
  runLinear({op.rows, op.in, op.out, true, op.epilogue == FLUXD_EPILOGUE_GELU,
             {op.x, op.weight, static_cast<const bf16 *>(op.bias), op.x_scale, op.weight_scale,
              static_cast<bf16 *>(op.y)},
             op.out,
             gated ? op.gate : nullptr,
             gated ? static_cast<const bf16 *>(op.residual) : nullptr},
            stream);
}

}  // namespace fluxd::cuda

/*
 * The operators of kernels.h on CUDA. Each enqueues on `stream` and throws Failure; formulas,
 * shapes and dtypes are those of kernels.h.
 */
#pragma once

#include "fluxd/kernels.h"
#include "status.h"

namespace fluxd::cuda {

void linear(const fluxd_linear &op, cudaStream_t stream);
void fp8Linear(const fluxd_fp8_linear &op, cudaStream_t stream);
void quantizeRows(const fluxd_quantize_rows &op, cudaStream_t stream);
void modulatedNorm(const fluxd_modulated_norm &op, cudaStream_t stream);
void qkNormRope(const fluxd_qk_norm_rope &op, cudaStream_t stream);
void merge(const fluxd_merge &op, cudaStream_t stream);
void groupNorm(const fluxd_group_norm &op, cudaStream_t stream);

/** float32 tensors are for the CPU twins. */
inline void expectBf16(fluxd_dtype dtype, const char *op) {
  if (dtype != FLUXD_BF16) {
    throw Failure(format("Expected bf16 tensors for %s on CUDA but dtype is %d", op, dtype));
  }
}

}  // namespace fluxd::cuda

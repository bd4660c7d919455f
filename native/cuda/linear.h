/* What both linear operators share: a product, then what cuBLASLt could not do in its epilogue. */
#pragma once

#include "matmul.h"

namespace fluxd::cuda {

struct LinearOperands {
  int64_t rows, in, out;
  bool fp8, gelu;
  MatmulOperands matmul;
  int64_t stride;        // values from one row of y to the next; `out` with a gate
  const float *gate;     // [out], or NULL
  const bf16 *residual;  // [rows, out] with a gate; may be y
};

/**
 * Enqueues y = e(x·Wᵀ ⊙ scales + bias) with e the identity, gelu, or residual + gate ⊙ t.
 *
 * Bias, gelu and scales are done inside the product where the device has an algorithm for that,
 * otherwise by one more pass over y. The gate is always such a pass, over a product rounded to
 * bf16: cuBLASLt knows a vector alpha for integer products only.
 */
void runLinear(const LinearOperands &operands, cudaStream_t stream);

}  // namespace fluxd::cuda

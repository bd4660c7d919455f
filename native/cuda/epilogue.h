/* What is left to do after a matrix product that the library could not do itself. */
#pragma once

#include "dtype_convert.h"

namespace fluxd::cuda {

/**
 * y = e(t · rowScale ⊗ columnScale + bias) with e(t) = t, gelu(t) or residual + gate ⊙ t, where t
 * is what y holds, or `product` if that is given. Absent operands are NULL.
 * Sums are float32; the result is rounded once.
 */
struct Epilogue {
  int64_t rows, columns;
  int64_t stride;           // values from one row of product and of y to the next
  const bf16 *product;      // [rows, columns]
  const float *rowScale;    // [rows]
  const float *columnScale; // [columns]
  const bf16 *bias;         // [columns]
  const float *gate;        // [columns]
  const bf16 *residual;     // [rows, columns]; may be y
  bool gelu;
  bf16 *y;                  // [rows, columns]
};

/** Enqueues the epilogue; `columns` is a multiple of 8. */
void finish(const Epilogue &epilogue, cudaStream_t stream);

}  // namespace fluxd::cuda

/*
 * y = x·Wᵀ by cuBLASLt, with what its epilogues can do, from a cache of plans.
 *
 * cuBLASLt is column-major: our row-major y [rows, out] is its D [out × rows], W [out, in] its A,
 * transposed, and x [rows, in] its B. That is the one layout its fp8 kernels take, too. A bias runs
 * along the rows of D, which is `out`.
 */
#pragma once

#include "lt_api.h"
#include "dtype_convert.h"

#include <initializer_list>
#include <memory>

namespace fluxd::cuda {

struct MatmulShape {
  int64_t rows, in, out;
  bool fp8;            // e4m3 operands; otherwise bf16. y is bf16
  bool outerScales;    // fp8: one scale per row of x and of W
  bool bias, gelu;
  uint32_t alignment;  // of the least aligned operand, in bytes, at most 256
  int64_t stride;      // values from one row of y to the next

  bool operator==(const MatmulShape &) const = default;
};

struct MatmulOperands {
  const void *x;             // [rows, in]
  const void *weight;        // [out, in]
  const bf16 *bias;          // [out] or NULL
  const float *xScale;       // [rows] or NULL
  const float *weightScale;  // [out] or NULL
  bf16 *y;                   // [rows, out], `stride` apart
};

/**
 * Enqueues the product by the first algorithm that the library does not refuse to run; false where
 * it has none of that kind, which is remembered. `operands` of a shape's first use are looked at
 * when the library chooses.
 */
bool multiply(const MatmulShape &shape, const MatmulOperands &operands, cudaStream_t stream);

/** How to compute one shape: descriptors and algorithms, the library's favourite first. */
struct MatmulPlan;

/** The plan of a shape, made at its first use. */
std::shared_ptr<MatmulPlan> planOf(const MatmulShape &shape, const MatmulOperands &operands);

/** How many algorithms the plan has, at most 8. */
int algorithmCount(const MatmulPlan &plan);

/** Enqueues the product by algorithm number `algorithm`; false where the library refuses that. */
bool runMatmul(MatmulPlan &plan, const MatmulOperands &operands, cudaStream_t stream,
               int algorithm);

/** The largest power of two up to 256 that divides all addresses. */
uint32_t commonAlignment(std::initializer_list<const void *> addresses);

}  // namespace fluxd::cuda

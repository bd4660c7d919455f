// A custom op of domain `fluxd`: what it takes and gives, and the kernel call it makes. One
// definition serves all dtypes of activations and both providers.
#pragma once
#include <functional>
#include <vector>

#include "fluxd/kernels.h"
#include "ort/ort.h"

namespace fluxd {

// One node's computation: its operands, its attributes and the queue to compute on.
class Call {
 public:
  struct Attributes {
    int64_t epilogue = FLUXD_EPILOGUE_NONE;
    int64_t heads = 1;
    int64_t groups = 1;
    int64_t silu = 0;
    float epsilon = 1e-6f;
  };

  Call(OrtKernelContext *context, const fluxd_kernels &kernels, fluxd_dtype dtype,
       const Attributes &attributes)
      : kernels(kernels), dtype(dtype), attributes(attributes), context_(context) {}

  // Null for an operand that the node leaves out.
  const void *input(size_t index) const;
  const float *floats(size_t index) const { return static_cast<const float *>(input(index)); }
  // Dims of an operand, which must be that many; `what` names it in messages.
  std::vector<int64_t> dims(size_t index, size_t rank, const char *what) const;
  void expectDims(size_t index, const std::vector<int64_t> &dims, const char *what) const;
  void *output(size_t index, const std::vector<int64_t> &dims) const;

  // Computes on the provider's queue; a kernel's error is thrown.
  template <typename Op>
  void run(int (*kernel)(const Op *, fluxd_queue), const Op &op) const {
    launch([&](fluxd_queue queue) { return kernel(&op, queue); });
  }

  const fluxd_kernels &kernels;
  const fluxd_dtype dtype;
  const Attributes &attributes;

 private:
  void launch(const std::function<int(fluxd_queue)> &kernel) const;

  OrtKernelContext *context_;
};

// Activations have the dtype of the op that is registered; the others always the same.
enum class OperandType { activation, floats, e4m3 };

struct OperandDefinition {
  OperandType type;
  bool optional = false;
};

struct OpDefinition {
  const char *name;
  std::vector<OperandDefinition> inputs, outputs;
  void (*compute)(const Call &);
  // Of activations.
  std::vector<fluxd_dtype> dtypes = {FLUXD_F32, FLUXD_BF16};
};

extern const OpDefinition linearOp, fp8LinearOp, quantizeRowsOp, modulatedNormOp,
    modulatedNormFp8Op, qkNormRopeOp, groupNormOp;

// The domain with all ops, over the CPU's kernels and, where given, a CUDA device's. It lives until
// the process ends: sessions point to its ops.
OrtCustomOpDomain *opDomain(const fluxd_kernels *cuda);

}  // namespace fluxd

// Definitions as ONNX Runtime wants them: a struct of callbacks per op, dtype and provider.
#include "custom_op.h"

#include <list>

namespace fluxd {

namespace {

struct RegisteredOp;

// The state of one node.
struct Kernel {
  const RegisteredOp &op;
  Call::Attributes attributes;
};

struct RegisteredOp : OrtCustomOp {
  RegisteredOp(const OpDefinition &definition, const fluxd_kernels &kernels, fluxd_dtype dtype,
               const char *provider);

  ONNXTensorElementDataType typeOf(const OperandDefinition &operand) const {
    switch (operand.type) {
      case OperandType::floats: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
      case OperandType::e4m3: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN;
      default: return ONNXTensorElementDataType(dtype);
    }
  }

  const OpDefinition &definition;
  const fluxd_kernels &kernels;
  const fluxd_dtype dtype;
  const char *provider;
};

const RegisteredOp &self(const OrtCustomOp *op) { return *static_cast<const RegisteredOp *>(op); }

OrtCustomOpInputOutputCharacteristic characteristic(const OperandDefinition &operand) {
  return operand.optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}

// Attributes that the node leaves out keep their defaults.
Call::Attributes readAttributes(const OrtKernelInfo *info) {
  Call::Attributes attributes;
  auto read = [](OrtStatus *status) {
    if (status) ort().ReleaseStatus(status);
  };
  read(ort().KernelInfoGetAttribute_int64(info, "epilogue", &attributes.epilogue));
  read(ort().KernelInfoGetAttribute_int64(info, "heads", &attributes.heads));
  read(ort().KernelInfoGetAttribute_int64(info, "groups", &attributes.groups));
  read(ort().KernelInfoGetAttribute_int64(info, "silu", &attributes.silu));
  read(ort().KernelInfoGetAttribute_float(info, "epsilon", &attributes.epsilon));
  return attributes;
}

OrtStatus *createKernel(const OrtCustomOp *op, const OrtApi *, const OrtKernelInfo *info,
                        void **kernel) {
  try {
    *kernel = new Kernel{self(op), readAttributes(info)};
    return nullptr;
  } catch (const std::exception &error) {
    return toStatus(error);
  }
}

OrtStatus *compute(void *state, OrtKernelContext *context) {
  auto &[op, attributes] = *static_cast<Kernel *>(state);
  try {
    op.definition.compute(Call(context, op.kernels, op.dtype, attributes));
    return nullptr;
  } catch (const std::exception &error) {
    return toStatus(error);
  }
}

RegisteredOp::RegisteredOp(const OpDefinition &definition, const fluxd_kernels &kernels,
                           fluxd_dtype dtype, const char *provider)
    : OrtCustomOp{}, definition(definition), kernels(kernels), dtype(dtype), provider(provider) {
  version = ORT_API_VERSION;
  GetName = [](auto op) { return self(op).definition.name; };
  GetExecutionProviderType = [](auto op) { return self(op).provider; };
  GetInputTypeCount = [](auto op) { return self(op).definition.inputs.size(); };
  GetInputType = [](auto op, size_t i) { return self(op).typeOf(self(op).definition.inputs[i]); };
  GetOutputTypeCount = [](auto op) { return self(op).definition.outputs.size(); };
  GetOutputType = [](auto op, size_t i) { return self(op).typeOf(self(op).definition.outputs[i]); };
  GetInputCharacteristic = [](auto op, size_t i) {
    return characteristic(self(op).definition.inputs[i]);
  };
  GetOutputCharacteristic = [](auto, size_t) { return INPUT_OUTPUT_REQUIRED; };
  GetInputMemoryType = [](auto, size_t) { return OrtMemTypeDefault; };
  GetVariadicInputMinArity = [](auto) { return 1; };
  GetVariadicInputHomogeneity = [](auto) { return 1; };
  GetVariadicOutputMinArity = [](auto) { return 1; };
  GetVariadicOutputHomogeneity = [](auto) { return 1; };
  GetStartVersion = [](auto) { return 1; };
  GetEndVersion = [](auto) { return 1; };
  CreateKernelV2 = createKernel;
  KernelComputeV2 = compute;
  KernelDestroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
}

const OpDefinition *const definitions[] = {&linearOp,           &fp8LinearOp,  &quantizeRowsOp,
                                           &modulatedNormOp,    &modulatedNormFp8Op,
                                           &qkNormRopeOp,       &groupNormOp};

Owned<OrtCustomOpDomain> makeDomain(const fluxd_kernels *cuda) {
  static std::list<RegisteredOp> ops;
  auto domain = make<OrtCustomOpDomain>(ort().CreateCustomOpDomain, "fluxd");
  auto add = [&](const fluxd_kernels &kernels, const char *provider) {
    for (auto definition : definitions)
      for (auto dtype : definition->dtypes) {
        ops.emplace_back(*definition, kernels, dtype, provider);
        check(ort().CustomOpDomain_Add(domain.get(), &ops.back()));
      }
  };
  add(*fluxd_cpu_kernels(), "CPUExecutionProvider");
  if (cuda) add(*cuda, "CUDAExecutionProvider");
  return domain;
}

}  // namespace

OrtCustomOpDomain *opDomain(const fluxd_kernels *cuda) {
  // Never released: ORT may outlive the addon's statics.
  static OrtCustomOpDomain *cpuDomain = makeDomain(nullptr).release();
  if (!cuda) return cpuDomain;
  static OrtCustomOpDomain *bothDomain = makeDomain(cuda).release();
  return bothDomain;
}

}  // namespace fluxd

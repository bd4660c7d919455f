// Compiles only if native/cuda/lt_api.h says the same as cuBLASLt's own header; run.sh compiles it
// where there is one.
#include <cublasLt.h>

#include "lt_api.h"

#include <type_traits>

namespace lt = fluxd::cuda::lt;

#define SAME(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs))

SAME(lt::kInvalidValue, CUBLAS_STATUS_INVALID_VALUE);
SAME(lt::kArchMismatch, CUBLAS_STATUS_ARCH_MISMATCH);
SAME(lt::kNotSupported, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(lt::kFloat32, CUDA_R_32F);
SAME(lt::kBfloat16, CUDA_R_16BF);
SAME(lt::kFloat8E4m3, CUDA_R_8F_E4M3);
SAME(lt::kCompute32F, CUBLAS_COMPUTE_32F);
SAME(lt::kTranspose, CUBLAS_OP_T);
SAME(lt::kScalar, CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F);
SAME(lt::kOuterVector, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
SAME(lt::kEpilogueDefault, CUBLASLT_EPILOGUE_DEFAULT);
SAME(lt::kEpilogueBias, CUBLASLT_EPILOGUE_BIAS);
SAME(lt::kEpilogueGelu, CUBLASLT_EPILOGUE_GELU);
SAME(lt::kEpilogueGelu | lt::kEpilogueBias, CUBLASLT_EPILOGUE_GELU_BIAS);
SAME(lt::kTransA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(lt::kEpilogue, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(lt::kBiasPointer, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(lt::kScalePointerA, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
SAME(lt::kScalePointerB, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
SAME(lt::kFastAccumulation, CUBLASLT_MATMUL_DESC_FAST_ACCUM);
SAME(lt::kScaleModeA, CUBLASLT_MATMUL_DESC_A_SCALE_MODE);
SAME(lt::kScaleModeB, CUBLASLT_MATMUL_DESC_B_SCALE_MODE);
SAME(lt::kMaxWorkspaceBytes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(lt::kReductionSchemes, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(lt::kInComputeType, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(lt::kMinAlignmentA, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(lt::kMinAlignmentB, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(lt::kMinAlignmentC, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(lt::kMinAlignmentD, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);

static_assert(sizeof(lt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(lt::HeuristicResult) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(lt::HeuristicResult, workspaceBytes) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(lt::HeuristicResult, state) ==
              offsetof(cublasLtMatmulHeuristicResult_t, state));

// Parameters that are pointers, enums and sizes there are so here: both have one calling
// convention, so it is their number and size that count.
template <typename>
struct Sizes;
template <typename Result, typename... Parameters>
struct Sizes<Result (*)(Parameters...)> {
  template <typename>
  struct AreThoseOf;
  template <typename Other, typename... Others>
  struct AreThoseOf<Other (*)(Others...)> {
    static constexpr bool value = [] {
      if constexpr (sizeof...(Parameters) == sizeof...(Others)) {
        return ((sizeof(Parameters) == sizeof(Others)) && ...) && sizeof(Result) == sizeof(Other);
      } else {
        return false;
      }
    }();
  };
};

#define SAME_SIZES(name)                                                                  \
  static_assert(Sizes<decltype(lt::Api::name)>::AreThoseOf<decltype(&cublasLt##name)>::value)

SAME_SIZES(Create);
SAME_SIZES(GetStatusName);
SAME_SIZES(GetVersion);
SAME_SIZES(MatmulDescCreate);
SAME_SIZES(MatmulDescDestroy);
SAME_SIZES(MatmulDescSetAttribute);
SAME_SIZES(MatrixLayoutCreate);
SAME_SIZES(MatrixLayoutDestroy);
SAME_SIZES(MatmulPreferenceCreate);
SAME_SIZES(MatmulPreferenceDestroy);
SAME_SIZES(MatmulPreferenceSetAttribute);
SAME_SIZES(MatmulAlgoGetHeuristic);
SAME_SIZES(Matmul);

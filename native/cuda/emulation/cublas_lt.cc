/*
 * A stand-in for libcublasLt.so.13 that does what descriptors say, one multiplication after the
 * other: it shows whether ours describe the intended product. Products are summed in float64.
 *
 * EMULATED_LT is a list of what it has no algorithm for: `gelu`, `outer`, `all`; and of what it
 * names algorithms for, but refuses when they are to run: `favourite`, which is every first one,
 * and `scaled`, products with scales of rows. With `invalid` it calls invalid what it does not
 * support; with `slip` the last value of every product is wrong.
 */
#include "../lt_api.h"
#include "../dtype_convert.h"

using namespace fluxd::cuda;
using namespace fluxd::cuda::lt;

namespace fluxd::cuda::lt {

struct Handle {};
struct Preference {
  uint64_t workspaceBytes = 0;
  uint32_t schemes = 7, alignment = 256;
};
struct MatmulDesc {
  int32_t transA = 0, modeA = 0, modeB = 0;
  uint32_t epilogue = kEpilogueDefault;
  int8_t fast = 0;
  const bf16 *bias = nullptr;
  const float *scaleA = nullptr, *scaleB = nullptr;
};
struct MatrixLayout {
  DataType type;
  int64_t rows, columns, leading;
};

}  // namespace fluxd::cuda::lt

namespace {

// Of wrong descriptions: one that is never taken for a refusal.
constexpr Status kWrong = 14;
constexpr int kAlgorithms = 2;

bool lacks(const char *what) {
  const char *list = getenv("EMULATED_LT");
  return list && strstr(list, what);
}

Status refusal() { return lacks("invalid") ? kInvalidValue : kNotSupported; }

double e4m3Value(uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return bits & 0x80 ? -magnitude : magnitude;
}

double element(const void *matrix, const MatrixLayout &layout, int64_t row, int64_t column) {
  const int64_t at = column * layout.leading + row;
  return layout.type == kFloat8E4m3 ? e4m3Value(static_cast<const uint8_t *>(matrix)[at])
                                    : toFloat(static_cast<const bf16 *>(matrix)[at]);
}

double finished(const MatmulDesc &desc, double sum, int64_t row, int64_t column) {
  if (desc.modeA == kOuterVector) sum *= static_cast<double>(desc.scaleA[row]);
  if (desc.modeB == kOuterVector) sum *= static_cast<double>(desc.scaleB[column]);
  if (desc.epilogue & kEpilogueBias) sum += toFloat(desc.bias[row]);
  if (desc.epilogue & kEpilogueGelu) {
    sum = 0.5 * sum * (1 + std::tanh(std::sqrt(2 / M_PI) * (sum + 0.044715 * sum * sum * sum)));
  }
  return sum;
}

template <typename Field>
Status copy(Field &to, const void *from, size_t bytes) {
  if (bytes != sizeof to) return kWrong;
  memcpy(&to, from, bytes);
  return 0;
}

}  // namespace

extern "C" {

Status cublasLtCreate(Handle **handle) {
  static Handle one;
  *handle = &one;
  return 0;
}
const char *cublasLtGetStatusName(Status) { return "CUBLAS_STATUS_INTERNAL_ERROR"; }
size_t cublasLtGetVersion() { return 130000; }

Status cublasLtMatmulDescCreate(MatmulDesc **desc, ComputeType compute, DataType scale) {
  if (compute != kCompute32F || scale != kFloat32) return kWrong;
  *desc = new MatmulDesc;
  return 0;
}
Status cublasLtMatmulDescDestroy(MatmulDesc *desc) {
  delete desc;
  return 0;
}
Status cublasLtMatmulDescSetAttribute(MatmulDesc *desc, MatmulAttribute attribute,
                                      const void *value, size_t bytes) {
  switch (attribute) {
    case kTransA: return copy(desc->transA, value, bytes);
    case kEpilogue: return copy(desc->epilogue, value, bytes);
    case kBiasPointer: return copy(desc->bias, value, bytes);
    case kScalePointerA: return copy(desc->scaleA, value, bytes);
    case kScalePointerB: return copy(desc->scaleB, value, bytes);
    case kFastAccumulation: return copy(desc->fast, value, bytes);
    case kScaleModeA: return copy(desc->modeA, value, bytes);
    case kScaleModeB: return copy(desc->modeB, value, bytes);
  }
  return kWrong;
}

Status cublasLtMatrixLayoutCreate(MatrixLayout **layout, DataType type, uint64_t rows,
                                  uint64_t columns, int64_t leading) {
  *layout = new MatrixLayout{type, static_cast<int64_t>(rows), static_cast<int64_t>(columns),
                             leading};
  return 0;
}
Status cublasLtMatrixLayoutDestroy(MatrixLayout *layout) {
  delete layout;
  return 0;
}

Status cublasLtMatmulPreferenceCreate(Preference **preference) {
  *preference = new Preference;
  return 0;
}
Status cublasLtMatmulPreferenceDestroy(Preference *preference) {
  delete preference;
  return 0;
}
Status cublasLtMatmulPreferenceSetAttribute(Preference *preference, PreferenceAttribute attribute,
                                            const void *value, size_t bytes) {
  switch (attribute) {
    case kMaxWorkspaceBytes: return copy(preference->workspaceBytes, value, bytes);
    case kReductionSchemes: return copy(preference->schemes, value, bytes);
    default: return copy(preference->alignment, value, bytes);
  }
}

Status cublasLtMatmulAlgoGetHeuristic(Handle *, MatmulDesc *desc, MatrixLayout *a, MatrixLayout *b,
                                      MatrixLayout *c, MatrixLayout *d, Preference *preference,
                                      int requested, HeuristicResult *results, int *returned) {
  *returned = 0;
  if (lacks("all")) return refusal();
  if (lacks("gelu") && desc->epilogue & kEpilogueGelu) return refusal();
  if (lacks("outer") && desc->modeA == kOuterVector) return refusal();
  if (desc->transA != kTranspose || c != d) return kWrong;
  // Sums are float32 in every algorithm.
  if (preference->schemes != kInComputeType) return kWrong;
  if (a->rows != b->rows || a->columns != d->rows || b->columns != d->columns) return kWrong;
  // Addresses that are part of the descriptor must be there before the search.
  if (desc->epilogue & kEpilogueBias && !desc->bias) return kWrong;
  if (desc->modeA == kOuterVector && !(desc->scaleA && desc->scaleB)) return kWrong;
  if (requested < kAlgorithms) return kWrong;
  for (uint64_t i = 0; i < kAlgorithms; i++) {
    results[i] = {};
    results[i].algorithm.data[0] = i;
  }
  *returned = kAlgorithms;
  return 0;
}

Status cublasLtMatmul(Handle *, MatmulDesc *desc, const void *alpha, const void *a,
                      MatrixLayout *layoutA, const void *b, MatrixLayout *layoutB,
                      const void *beta, const void *, MatrixLayout *, void *d,
                      MatrixLayout *layoutD, const Algorithm *algorithm, void *workspace, size_t,
                      cudaStream_t) {
  if (!algorithm || !workspace) return kWrong;
  if (lacks("favourite") && algorithm->data[0] == 0) return refusal();
  if (lacks("scaled") && desc->modeA == kOuterVector) return refusal();
  if (*static_cast<const float *>(alpha) != 1 || *static_cast<const float *>(beta) != 0) {
    return kWrong;
  }
  auto result = static_cast<bf16 *>(d);
  for (int64_t column = 0; column < layoutD->columns; column++) {
    for (int64_t row = 0; row < layoutD->rows; row++) {
      double sum = 0;
      for (int64_t k = 0; k < layoutA->rows; k++) {
        sum += element(a, *layoutA, k, row) * element(b, *layoutB, k, column);
      }
      result[column * layoutD->leading + row] =
          toBf16(static_cast<float>(finished(*desc, sum, row, column)));
    }
  }
  if (lacks("slip")) {
    bf16 &last = result[(layoutD->columns - 1) * layoutD->leading + layoutD->rows - 1];
    last = toBf16(toFloat(last) + 4);
  }
  return 0;
}

}  // extern "C"

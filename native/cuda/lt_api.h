/*
 * The part of cuBLASLt's C interface that is used here, declared by hand: CUDA toolkits of the
 * minimal kind have no cublasLt.h, and the library is opened late, so that the CUDA kernels load
 * where it is missing. Numbers and types are those of cuBLASLt 13; test/gpu/lt_abi.cc compares them
 * with cublasLt.h where there is one.
 */
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace fluxd::cuda::lt {

using Status = int;  // 0 is success
constexpr Status kInvalidValue = 7, kArchMismatch = 8, kNotSupported = 15;

struct Handle;
struct MatmulDesc;
struct MatrixLayout;
struct Preference;

struct Algorithm {
  uint64_t data[8];
};

struct HeuristicResult {
  Algorithm algorithm;
  size_t workspaceBytes;
  Status state;
  float waves;
  int reserved[4];
};

enum DataType : int { kFloat32 = 0, kBfloat16 = 14, kFloat8E4m3 = 28 };
enum ComputeType : int { kCompute32F = 68 };
enum Operation : int32_t { kTranspose = 1 };
enum ScaleMode : int32_t { kScalar = 0, kOuterVector = 3 };

/** Bits: kEpilogueBias | kEpilogueGelu is both. kEpilogueDefault stands alone. */
enum EpilogueKind : uint32_t { kEpilogueDefault = 1, kEpilogueBias = 4, kEpilogueGelu = 32 };

enum MatmulAttribute : int {
  kTransA = 3,
  kEpilogue = 7,
  kBiasPointer = 8,
  kScalePointerA = 17,
  kScalePointerB = 18,
  kFastAccumulation = 25,
  kScaleModeA = 31,
  kScaleModeB = 32
};

/** How parts of a sum, made side by side, come together, or not at all. */
enum ReductionScheme : uint32_t { kInComputeType = 2 };

enum PreferenceAttribute : int {
  kMaxWorkspaceBytes = 1,
  kReductionSchemes = 3,
  kMinAlignmentA = 5,
  kMinAlignmentB = 6,
  kMinAlignmentC = 7,
  kMinAlignmentD = 8
};

/** The functions, by the names the library exports without their prefix `cublasLt`. */
struct Api {
  Status (*Create)(Handle **);
  const char *(*GetStatusName)(Status);
  size_t (*GetVersion)();
  Status (*MatmulDescCreate)(MatmulDesc **, ComputeType, DataType scaleType);
  Status (*MatmulDescDestroy)(MatmulDesc *);
  Status (*MatmulDescSetAttribute)(MatmulDesc *, MatmulAttribute, const void *, size_t);
  Status (*MatrixLayoutCreate)(MatrixLayout **, DataType, uint64_t rows, uint64_t columns,
                               int64_t leadingDimension);
  Status (*MatrixLayoutDestroy)(MatrixLayout *);
  Status (*MatmulPreferenceCreate)(Preference **);
  Status (*MatmulPreferenceDestroy)(Preference *);
  Status (*MatmulPreferenceSetAttribute)(Preference *, PreferenceAttribute, const void *, size_t);
  Status (*MatmulAlgoGetHeuristic)(Handle *, MatmulDesc *, MatrixLayout *a, MatrixLayout *b,
                                   MatrixLayout *c, MatrixLayout *d, Preference *, int requested,
                                   HeuristicResult *, int *returned);
  Status (*Matmul)(Handle *, MatmulDesc *, const void *alpha, const void *a, MatrixLayout *,
                   const void *b, MatrixLayout *, const void *beta, const void *c, MatrixLayout *,
                   void *d, MatrixLayout *, const Algorithm *, void *workspace,
                   size_t workspaceBytes, cudaStream_t);
};

/** The process's library, opened at the first call. Throws with advice where it is missing. */
const Api &api();

/** Throws what the library says about `status`, unless it is success. */
void check(Status status, const char *what);

/**
 * Whether the library cannot do what was described, on this device or at all. cublasLt.h promises
 * the invalid value for modes of scaling that do not go with the rest.
 */
constexpr bool isRefusal(Status status) {
  return status == kInvalidValue || status == kArchMismatch || status == kNotSupported;
}

}  // namespace fluxd::cuda::lt

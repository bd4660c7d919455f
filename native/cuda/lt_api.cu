#include "lt_api.h"
#include "status.h"

#include <dlfcn.h>

namespace fluxd::cuda::lt {

namespace {

constexpr const char *kLibrary = "libcublasLt.so.13";

template <typename Function>
void resolve(void *library, const char *name, Function *&function) {
  function = reinterpret_cast<Function *>(dlsym(library, name));
  if (!function) throw Failure(format("Expected %s in %s but it is missing", name, kLibrary));
}

Api open() {
  void *library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    throw Failure(format("Expected %s but it cannot be loaded (%s): install cuBLAS for CUDA 13 and "
                         "put its folder on LD_LIBRARY_PATH",
                         kLibrary, dlerror()));
  }
  Api api;
  resolve(library, "cublasLtCreate", api.Create);
  resolve(library, "cublasLtGetStatusName", api.GetStatusName);
  resolve(library, "cublasLtGetVersion", api.GetVersion);
  resolve(library, "cublasLtMatmulDescCreate", api.MatmulDescCreate);
  resolve(library, "cublasLtMatmulDescDestroy", api.MatmulDescDestroy);
  resolve(library, "cublasLtMatmulDescSetAttribute", api.MatmulDescSetAttribute);
  resolve(library, "cublasLtMatrixLayoutCreate", api.MatrixLayoutCreate);
  resolve(library, "cublasLtMatrixLayoutDestroy", api.MatrixLayoutDestroy);
  resolve(library, "cublasLtMatmulPreferenceCreate", api.MatmulPreferenceCreate);
  resolve(library, "cublasLtMatmulPreferenceDestroy", api.MatmulPreferenceDestroy);
  resolve(library, "cublasLtMatmulPreferenceSetAttribute", api.MatmulPreferenceSetAttribute);
  resolve(library, "cublasLtMatmulAlgoGetHeuristic", api.MatmulAlgoGetHeuristic);
  resolve(library, "cublasLtMatmul", api.Matmul);
  return api;
}

}  // namespace

const Api &api() {
  // Never closed: plans and handles live as long as the process.
  static const Api opened = open();
  return opened;
}

void check(Status status, const char *what) {
  if (status == 0) return;
  throw Failure(format("Expected cuBLASLt to %s but it answered %s", what,
                       api().GetStatusName(status)));
}

}  // namespace fluxd::cuda::lt

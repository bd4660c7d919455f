// The table of the CPU twins.
#include "kernel.h"

namespace fluxd {

static thread_local std::string lastError;

int fail(const char *kernel, const char *what) {
  lastError = std::string(kernel) + ": " + what;
  return 1;
}

}  // namespace fluxd

const fluxd_kernels *fluxd_cpu_kernels() {
  static const fluxd_kernels kernels = {
      .abi_version = FLUXD_ABI_VERSION,
      .linear = fluxd::linearCpu,
      .fp8_linear = fluxd::fp8LinearCpu,
      .quantize_rows = fluxd::quantizeRowsCpu,
      .modulated_norm = fluxd::modulatedNormCpu,
      .qk_norm_rope = fluxd::qkNormRopeCpu,
      .merge = fluxd::mergeCpu,
      .group_norm = fluxd::groupNormCpu,
      .last_error = [] { return fluxd::lastError.c_str(); },
  };
  return &kernels;
}

/* The one function that libfluxd_cuda.so exports. */
#include "device.h"
#include "status.h"

extern "C" __attribute__((visibility("default"))) int fluxd_cuda_library(
    int ordinal, const fluxd_device **device, const char **error) {
  using namespace fluxd::cuda;
  const int failed = guarded([&] { *device = openDevice(ordinal); });
  if (failed) *error = lastError();
  return failed;
}

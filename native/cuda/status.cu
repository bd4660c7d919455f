#include "status.h"

#include <cstdarg>
#include <cstdio>

namespace fluxd::cuda {

namespace {
// Fixed size: keeping a message must not fail.
thread_local char message[1024] = "";
}  // namespace

std::string format(const char *pattern, ...) {
  char text[768];
  va_list arguments;
  va_start(arguments, pattern);
  vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

void check(cudaError_t error, const char *call) {
  if (error == cudaSuccess) return;
  // Clears the error, unless it is one that lasts: the next call must not be blamed for it.
  cudaGetLastError();
  throw Failure(format("Expected CUDA to do %s but it answered %s: %s", call,
                       cudaGetErrorName(error), cudaGetErrorString(error)));
}

int keepError(const char *text) noexcept {
  snprintf(message, sizeof message, "%s", text);
  return 1;
}

const char *lastError() noexcept { return message; }

}  // namespace fluxd::cuda

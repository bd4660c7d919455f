/*
 * The CUDA runtime over host memory. Sizes are exact, so that an address sanitizer sees every
 * access beyond them, and new memory holds NaNs, so that nothing may rely on zeros.
 *
 * EMULATED_CUDA names what goes wrong, for tests: `no-memory`, `no-device`, `capturing`, and
 * `capturing-elsewhere`, which is another thread.
 */
#include <cuda_runtime.h>

#include <utility>

namespace {

thread_local cudaStreamCaptureMode captureMode = cudaStreamCaptureModeGlobal;

bool wrong(const char *what) {
  const char *wanted = getenv("EMULATED_CUDA");
  return wanted && strcmp(wanted, what) == 0;
}

// A stream or event is an address of its own and nothing else.
template <typename Handle>
cudaError_t createHandle(Handle *handle) {
  *handle = static_cast<Handle>(malloc(1));
  return cudaSuccess;
}

cudaError_t destroyHandle(void *handle) {
  free(handle);
  return cudaSuccess;
}

}  // namespace

const char *cudaGetErrorName(cudaError_t error) {
  if (error == cudaErrorStreamCaptureUnsupported) return "cudaErrorStreamCaptureUnsupported";
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorUnknown";
}
const char *cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "unknown error";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int *count) {
  *count = wrong("no-device") ? 0 : 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int) {
  *value = 9;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
  *free = *total = size_t{80} << 30;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void **address, size_t bytes) {
  if (wrong("no-memory")) return cudaErrorMemoryAllocation;
  if (wrong("capturing-elsewhere") && captureMode == cudaStreamCaptureModeGlobal)
    return cudaErrorStreamCaptureUnsupported;
  // aligned_alloc wants whole multiples of the alignment; posix_memalign takes any size.
  if (posix_memalign(address, 256, bytes) != 0) return cudaErrorMemoryAllocation;
  memset(*address, 0xff, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void *address) { return destroyHandle(address); }
cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned) {
  return cudaMalloc(address, bytes);
}
cudaError_t cudaFreeHost(void *address) { return destroyHandle(address); }

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  if (bytes > 0) memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t toStride, const void *from, size_t fromStride,
                              size_t width, size_t rows, cudaMemcpyKind, cudaStream_t) {
  for (size_t row = 0; row < rows; row++) {
    memcpy(static_cast<char *>(to) + row * toStride,
           static_cast<const char *>(from) + row * fromStride, width);
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t) {
  memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
  return createHandle(reinterpret_cast<void **>(stream));
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return destroyHandle(stream); }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *status) {
  *status = wrong("capturing") ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode) {
  std::swap(captureMode, *mode);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
  return createHandle(reinterpret_cast<void **>(event));
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return destroyHandle(event); }

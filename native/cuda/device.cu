#include "device.h"
#include "operators.h"
#include "scratch.h"

#include <mutex>

namespace fluxd::cuda {

namespace {

int opened = -1;

cudaStream_t streamOf(fluxd_queue queue) { return static_cast<cudaStream_t>(queue); }

template <auto Operator, typename Operands>
int run(const Operands *operands, fluxd_queue stream) {
  return guarded([&] {
    useDevice();
    Operator(*operands, streamOf(stream));
  });
}

/**
 * While a thread captures a graph, others may not even allocate, unless they say that what they do
 * is no part of it. Weights are staged during runs.
 */
class Uncaptured {
 public:
  Uncaptured() { FLUXD_CHECK(cudaThreadExchangeStreamCaptureMode(&mode_)); }
  ~Uncaptured() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  Uncaptured(const Uncaptured &) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

/** `body` as an entry point: on the opened device, with failures as kernels.h says. */
template <typename Body>
int entry(Body body) noexcept {
  return guarded([&] {
    useDevice();
    const Uncaptured uncaptured;
    body();
  });
}

constexpr fluxd_kernels kKernels = {
    .abi_version = FLUXD_ABI_VERSION,
    .linear = run<linear, fluxd_linear>,
    .fp8_linear = run<fp8Linear, fluxd_fp8_linear>,
    .quantize_rows = run<quantizeRows, fluxd_quantize_rows>,
    .modulated_norm = run<modulatedNorm, fluxd_modulated_norm>,
    .qk_norm_rope = run<qkNormRope, fluxd_qk_norm_rope>,
    .merge = run<merge, fluxd_merge>,
    .group_norm = run<groupNorm, fluxd_group_norm>,
    .last_error = lastError,
};

// --- memory

int memory(void *, size_t *freeBytes, size_t *totalBytes) {
  return entry([&] { FLUXD_CHECK(cudaMemGetInfo(freeBytes, totalBytes)); });
}

int alloc(void *, size_t bytes, void **address) {
  return entry([&] { FLUXD_CHECK(cudaMalloc(address, bytes)); });
}

int release(void *, void *address) {
  return entry([&] { FLUXD_CHECK(cudaFree(address)); });
}

int allocHost(void *, size_t bytes, void **address) {
  return entry([&] { FLUXD_CHECK(cudaHostAlloc(address, bytes, cudaHostAllocPortable)); });
}

int releaseHost(void *, void *address) {
  return entry([&] { FLUXD_CHECK(cudaFreeHost(address)); });
}

// --- streams and copies; several threads may upload, each on a stream of its own

int createStream(void *, fluxd_queue *stream) {
  return entry([&] {
    cudaStream_t created;
    // Non-blocking: it does not wait for the default stream, which ONNX Runtime might use.
    FLUXD_CHECK(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking));
    *stream = created;
  });
}

int destroyStream(void *, fluxd_queue stream) {
  return entry([&] {
    FLUXD_CHECK(cudaStreamSynchronize(streamOf(stream)));
    releaseScratch(streamOf(stream));
    FLUXD_CHECK(cudaStreamDestroy(streamOf(stream)));
  });
}

int synchronize(void *, fluxd_queue stream) {
  return entry([&] { FLUXD_CHECK(cudaStreamSynchronize(streamOf(stream))); });
}

template <cudaMemcpyKind Kind>
int copyAsync(void *, void *to, const void *from, size_t bytes, fluxd_queue stream) {
  return entry([&] { FLUXD_CHECK(cudaMemcpyAsync(to, from, bytes, Kind, streamOf(stream))); });
}

// --- events

int createEvent(void *, void **event) {
  return entry([&] {
    cudaEvent_t created;
    FLUXD_CHECK(cudaEventCreateWithFlags(&created, cudaEventDisableTiming));
    *event = created;
  });
}

int destroyEvent(void *, void *event) {
  return entry([&] { FLUXD_CHECK(cudaEventDestroy(static_cast<cudaEvent_t>(event))); });
}

int record(void *, void *event, fluxd_queue stream) {
  return entry([&] {
    FLUXD_CHECK(cudaEventRecord(static_cast<cudaEvent_t>(event), streamOf(stream)));
  });
}

int wait(void *, void *event) {
  return entry([&] { FLUXD_CHECK(cudaEventSynchronize(static_cast<cudaEvent_t>(event))); });
}

constexpr fluxd_device kDevice = {
    .abi_version = FLUXD_ABI_VERSION,
    .kernels = &kKernels,
    .context = nullptr,
    .memory = memory,
    .alloc = alloc,
    .free = release,
    .alloc_host = allocHost,
    .free_host = releaseHost,
    .create_stream = createStream,
    .destroy_stream = destroyStream,
    .synchronize = synchronize,
    .upload = copyAsync<cudaMemcpyHostToDevice>,
    .download = copyAsync<cudaMemcpyDeviceToHost>,
    .copy = copyAsync<cudaMemcpyDefault>,
    .create_event = createEvent,
    .destroy_event = destroyEvent,
    .record = record,
    .wait = wait,
};

// Compiled for sm_80 and later: bf16 needs it.
constexpr int kLeastMajor = 8;

void expectUsable(int ordinal) {
  int count = 0;
  FLUXD_CHECK(cudaGetDeviceCount(&count));
  expect(count > 0, "Expected a CUDA device but the driver reports none");
  if (ordinal < 0 || ordinal >= count) {
    throw Failure(format("Expected a CUDA device number below %d but received %d", count, ordinal));
  }
  int major = 0;
  FLUXD_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
  if (major < kLeastMajor) {
    throw Failure(format("Expected a GPU of compute capability 8.0 or more but device %d has %d.x",
                         ordinal, major));
  }
}

}  // namespace

const fluxd_device *openDevice(int ordinal) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (opened >= 0 && opened != ordinal) {
    throw Failure(format("Expected one CUDA device per process but %d is in use and %d was asked "
                         "for",
                         opened, ordinal));
  }
  expectUsable(ordinal);
  FLUXD_CHECK(cudaSetDevice(ordinal));
  opened = ordinal;
  return &kDevice;
}

void useDevice() { FLUXD_CHECK(cudaSetDevice(opened)); }

}  // namespace fluxd::cuda

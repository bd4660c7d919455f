#include "scratch.h"
#include "status.h"

#include <mutex>
#include <unordered_map>

namespace fluxd::cuda {

namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<cudaStream_t, Scratch> scratches;
};

// Never destroyed: at the end of a process the CUDA runtime may be gone before this library.
Registry &registry() {
  static Registry *const kept = new Registry;
  return *kept;
}

Scratch allocate(cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  FLUXD_CHECK(cudaStreamIsCapturing(stream, &status));
  expect(status == cudaStreamCaptureStatusNone,
         "Expected the first operator of a stream before it is captured: it allocates");
  void *memory = nullptr;
  FLUXD_CHECK(cudaMalloc(&memory, kWorkspaceBytes + kProductBytes));
  return {memory, static_cast<char *>(memory) + kWorkspaceBytes};
}

}  // namespace

Scratch scratchOf(cudaStream_t stream) {
  auto &[mutex, scratches] = registry();
  const std::lock_guard lock(mutex);
  const auto found = scratches.find(stream);
  if (found != scratches.end()) return found->second;
  return scratches.emplace(stream, allocate(stream)).first->second;
}

void releaseScratch(cudaStream_t stream) {
  auto &[mutex, scratches] = registry();
  const std::lock_guard lock(mutex);
  const auto found = scratches.find(stream);
  if (found == scratches.end()) return;
  FLUXD_CHECK(cudaFree(found->second.workspace));
  scratches.erase(found);
}

}  // namespace fluxd::cuda

// Host memory in the place of a device. What is enqueued runs at once, on the calling thread and
// on helpers of its own; an event has always been reached.
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "kernel.h"

namespace fluxd {

static void runOnThreads(void *, int64_t count, void (*body)(void *, int64_t), void *data) {
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t i; (i = next++) < count;) body(data, i);
  };
  const int64_t workers = std::min<int64_t>(std::thread::hardware_concurrency(), count);
  std::vector<std::thread> helpers(size_t(std::max<int64_t>(workers, 1) - 1));
  for (auto &helper : helpers) helper = std::thread(work);
  work();
  for (auto &helper : helpers) helper.join();
}

static const fluxd_pool threads = {nullptr, runOnThreads};

static int allocate(void *, size_t bytes, void **memory) {
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*memory || bytes == 0) return 0;
  return fail("alloc", ("expected " + std::to_string(bytes) + " free bytes").c_str());
}

static int release(void *, void *memory) {
  std::free(memory);
  return 0;
}

static int copyBytes(void *, void *to, const void *from, size_t bytes, fluxd_queue) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return 0;
}

static int measure(void *, size_t *freeBytes, size_t *totalBytes) {
  const size_t page = sysconf(_SC_PAGESIZE);
  *freeBytes = page * sysconf(_SC_AVPHYS_PAGES);
  *totalBytes = page * sysconf(_SC_PHYS_PAGES);
  return 0;
}

}  // namespace fluxd

const fluxd_device *fluxd_cpu_device() {
  using namespace fluxd;
  static const fluxd_device device = {
      .abi_version = FLUXD_ABI_VERSION,
      .kernels = fluxd_cpu_kernels(),
      .context = nullptr,
      .memory = measure,
      .alloc = allocate,
      .free = release,
      .alloc_host = allocate,
      .free_host = release,
      .create_stream =
          [](void *, fluxd_queue *stream) {
            *stream = const_cast<fluxd_pool *>(&threads);
            return 0;
          },
      .destroy_stream = [](void *, fluxd_queue) { return 0; },
      .synchronize = [](void *, fluxd_queue) { return 0; },
      .upload = copyBytes,
      .download = copyBytes,
      .copy = copyBytes,
      .create_event =
          [](void *, void **event) {
            *event = nullptr;
            return 0;
          },
      .destroy_event = [](void *, void *) { return 0; },
      .record = [](void *, void *, fluxd_queue) { return 0; },
      .wait = [](void *, void *) { return 0; },
  };
  return &device;
}
